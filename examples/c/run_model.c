/*
 * Loads a compiled model, prints its inputs and outputs, runs it once and prints a checksum of each output.
 *
 *     cc -Wall -Wextra -I backends/artifact/include examples/c/run_model.c -o run_model -ldl
 *     ./run_model model.so [symbol=value ...]
 *
 * Inputs are ramps: 0.0, 0.1, ... 0.9, 0.0, ... for floats, 0, 1, 0, 1, ... for integers. A symbol that is not
 * given gets its smallest value that is at least 1.
 */
#include "rsqc_model.h"

#include <dlfcn.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_RANK = 32, MAX_SYMBOLS = 64 };

static const size_t ELEMENT_SIZE[] = {4, 2, 2, 8, 1, 2, 4, 8, 1, 2, 4, 8, 1};
static const char *const TYPE_NAME[] = {"f32", "f16", "bf16", "f64", "i8",  "i16", "i32",
                                        "i64", "u8",  "u16",  "u32", "u64", "bool"};

static void die(const char *what, const char *why) {
    fprintf(stderr, "run_model: %s: %s\n", what, why);
    exit(1);
}

static size_t byte_count(const rsqc_tensor *t) {
    size_t bytes = ELEMENT_SIZE[t->dtype];
    for (uint32_t d = 0; d < t->rank; d++) bytes *= (size_t)t->dims[d];
    return bytes;
}

static void print_io(const char *kind, const rsqc_io *io) {
    printf("%s %s: %s [", kind, io->name, TYPE_NAME[io->dtype]);
    for (uint32_t d = 0; d < io->rank; d++) printf("%s%s", d ? ", " : "", io->dim_texts[d]);
    printf("]\n");
}

static void fill_ramp(rsqc_tensor *t) {
    size_t size = ELEMENT_SIZE[t->dtype], count = byte_count(t) / size;
    unsigned char *p = t->data;
    memset(p, 0, count * size);
    for (size_t i = 0; i < count; i++) {
        if (t->dtype == RSQC_F32) {
            float x = (float)(i % 10) * 0.1f;
            memcpy(p + i * size, &x, size);
        } else if (t->dtype == RSQC_F64) {
            double x = (double)(i % 10) * 0.1;
            memcpy(p + i * size, &x, size);
        } else if (t->dtype >= RSQC_I8) {
            p[i * size] = (unsigned char)(i % 2); /* little endian */
        }
    }
}

/* FNV-1a over the bytes. */
static uint64_t checksum(const void *data, size_t bytes) {
    const unsigned char *p = data;
    uint64_t hash = 14695981039346656037u;
    for (size_t i = 0; i < bytes; i++) hash = (hash ^ p[i]) * 1099511628211u;
    return hash;
}

static int64_t symbol_value(const rsqc_symbol *symbol, int argc, char **argv) {
    size_t length = strlen(symbol->name);
    for (int i = 2; i < argc; i++) {
        if (strncmp(argv[i], symbol->name, length) == 0 && argv[i][length] == '=') {
            return strtoll(argv[i] + length + 1, NULL, 10);
        }
    }
    return symbol->lo > 1 ? symbol->lo : symbol->hi < 1 ? symbol->hi : 1;
}

static void *allocate(size_t bytes) {
    void *data = aligned_alloc(64, (bytes / 64 + 1) * 64);
    if (!data) die("memory", "none left");
    return data;
}

int main(int argc, char **argv) {
    if (argc < 2) die("usage", "run_model model.so [symbol=value ...]");
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (!library) die(argv[1], dlerror());
    rsqc_model_api_fn get_api;
    *(void **)&get_api = dlsym(library, "rsqc_model_api");
    const rsqc_api *api = get_api ? get_api(RSQC_API_VERSION) : NULL;
    if (!api) die(argv[1], "no model, or one that needs another version of this program");

    char text[512] = "";
    rsqc_model *model;
    rsqc_session *session;
    if (api->open(NULL, &model, text, sizeof text)) die("open", text);
    if (api->session_new(model, NULL, &session, text, sizeof text)) die("session", text);

    int64_t symbols[MAX_SYMBOLS] = {0};
    for (uint32_t s = 0; s < api->symbol_count(model) && s < MAX_SYMBOLS; s++) {
        rsqc_symbol symbol = {.struct_size = sizeof symbol};
        api->symbol(model, s, &symbol);
        symbols[s] = symbol_value(&symbol, argc, argv);
        printf("symbol %s: %" PRId64 "..%" PRId64 ", here %" PRId64 "\n", symbol.name, symbol.lo, symbol.hi,
               symbols[s]);
    }

    uint32_t inputs = api->input_count(model), outputs = api->output_count(model);
    rsqc_tensor *in = calloc(inputs + 1, sizeof *in), *out = calloc(outputs + 1, sizeof *out);
    int64_t(*in_dims)[MAX_RANK] = calloc(inputs + 1, sizeof *in_dims);
    int64_t(*out_dims)[MAX_RANK] = calloc(outputs + 1, sizeof *out_dims);
    if (!in || !out || !in_dims || !out_dims) die("memory", "none left");

    for (uint32_t i = 0; i < inputs; i++) {
        rsqc_io io = {.struct_size = sizeof io};
        if (api->input(model, i, &io)) die("input", "no such input");
        print_io("input", &io);
        for (uint32_t d = 0; d < io.rank; d++) {
            int64_t dim = io.dims[d];
            if (dim == INT64_MIN) die(io.name, "has a dimension that is an expression; use another caller");
            in_dims[i][d] = dim >= 0 ? dim : symbols[-1 - dim];
        }
        in[i] = (rsqc_tensor){.struct_size = sizeof *in, .dtype = io.dtype, .rank = io.rank, .dims = in_dims[i]};
        in[i].capacity = byte_count(&in[i]);
        in[i].data = allocate(in[i].capacity);
        fill_ramp(&in[i]);
    }
    for (uint32_t i = 0; i < outputs; i++) {
        rsqc_io io = {.struct_size = sizeof io};
        if (api->output(model, i, &io)) die("output", "no such output");
        print_io("output", &io);
        out[i] = (rsqc_tensor){.struct_size = sizeof *out, .dtype = io.dtype, .rank = MAX_RANK, .dims = out_dims[i]};
    }

    /* The first run, without room for outputs, asks how large they are. */
    int32_t status = api->run(session, in, inputs, out, outputs, NULL);
    for (int attempt = 0; status == RSQC_TOO_SMALL && attempt < 2; attempt++) {
        for (uint32_t i = 0; i < outputs; i++) {
            free(out[i].data);
            out[i].capacity = byte_count(&out[i]);
            out[i].data = allocate(out[i].capacity);
            out[i].rank = MAX_RANK;
        }
        status = api->run(session, in, inputs, out, outputs, NULL);
    }
    if (status) die("run", api->error(session));

    for (uint32_t i = 0; i < outputs; i++) {
        printf("result %" PRIu32 ": [", i);
        for (uint32_t d = 0; d < out[i].rank; d++) printf("%s%" PRId64, d ? ", " : "", out_dims[i][d]);
        printf("] checksum %016" PRIx64 "\n", checksum(out[i].data, byte_count(&out[i])));
        free(out[i].data);
    }
    for (uint32_t i = 0; i < inputs; i++) free(in[i].data);
    free(in), free(out), free(in_dims), free(out_dims);
    api->session_free(session);
    api->close(model);
    return 0;
}
