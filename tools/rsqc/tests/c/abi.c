/*
 * Calls the C interface in every wrong way that a caller can; exits 0 if all answers are right.
 * The model: out[n] = a[n] + b[n], f32, n in 0..1000000.
 */
#include "rsqc_model.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition)                                                             \
    do {                                                                             \
        if (!(condition)) {                                                          \
            fprintf(stderr, "abi.c:%d: %s\n", __LINE__, #condition);                 \
            exit(1);                                                                 \
        }                                                                            \
    } while (0)

static const rsqc_api *api;
static rsqc_session *nested;
static rsqc_tensor nested_in[2], nested_out;
static int32_t nested_status = -1;
static uint32_t indices_seen;

/* A serial pool that also tries to enter the session that is running. */
static void serial(void *context, uint32_t count, void (*body)(void *, uint32_t), void *argument) {
    (void)context;
    nested_status = api->run(nested, nested_in, 2, &nested_out, 1, NULL);
    for (uint32_t i = 0; i < count; i++) body(argument, i), indices_seen++;
}

static int32_t logged;
static void note(void *context, int32_t severity, const char *text) {
    CHECK(context == &logged && severity == 2 && strstr(text, "level"));
    logged++;
}

int main(int argc, char **argv) {
    CHECK(argc == 2);
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    CHECK(library);
    rsqc_model_api_fn get_api;
    *(void **)&get_api = dlsym(library, "rsqc_model_api");
    CHECK(get_api && !get_api(0) && !get_api(2) && !get_api(99));
    api = get_api(RSQC_API_VERSION);
    CHECK(api && api->struct_size == sizeof *api && api->version == RSQC_API_VERSION);

    char text[200];
    rsqc_model *model = NULL;
    rsqc_options options = {.struct_size = sizeof options, .log = note, .log_context = &logged};
    options.level = "sse9";
    CHECK(api->open(&options, &model, text, sizeof text) == RSQC_INVALID && strstr(text, "sse9"));
    CHECK(api->open(&options, &model, text, 5) == RSQC_INVALID && strlen(text) == 4);
    CHECK(api->open(&options, &model, NULL, 0) == RSQC_INVALID);
    options.level = "portable";
    options.verify = 77;
    CHECK(api->open(&options, &model, text, sizeof text) == RSQC_INVALID);
    options.verify = RSQC_VERIFY_ALL;
    CHECK(api->open(&options, NULL, text, sizeof text) == RSQC_INVALID);
    options.struct_size = 4;
    CHECK(api->open(&options, &model, text, sizeof text) == RSQC_INVALID && !model);
    options.struct_size = sizeof options;
    logged = 0;
    CHECK(api->open(&options, &model, text, sizeof text) == RSQC_OK && model && logged == 1);
    CHECK(strcmp(api->level(model), "portable") == 0);

    CHECK(api->input_count(model) == 2 && api->output_count(model) == 1 && api->symbol_count(model) == 1);
    CHECK(api->input_count(NULL) == 0);
    rsqc_io io = {.struct_size = sizeof io};
    CHECK(api->input(model, 2, &io) == RSQC_INVALID && api->input(model, 0, NULL) == RSQC_INVALID);
    CHECK(api->input(model, 1, &io) == RSQC_OK && strcmp(io.name, "b") == 0 && io.dtype == RSQC_F32);
    CHECK(io.rank == 1 && io.dims[0] == -1 && strcmp(io.dim_texts[0], "n") == 0);
    rsqc_symbol symbol = {.struct_size = sizeof symbol};
    CHECK(api->symbol(model, 0, &symbol) == RSQC_OK && symbol.lo == 0 && symbol.hi == 1000000);
    size_t length = 0;
    CHECK(api->manifest(model, &length) && length > 100 && api->root(model));

    rsqc_session *session = NULL;
    rsqc_session_options how = {.struct_size = sizeof how, .threads = 3, .profile = 1};
    CHECK(api->session_new(NULL, &how, &session, text, sizeof text) == RSQC_INVALID);
    CHECK(api->session_new(model, &how, &session, text, sizeof text) == RSQC_OK);
    CHECK(strcmp(api->error(session), "") == 0);

    enum { N = 1000 };
    static float a[N], b[N], out[N + 1];
    for (int i = 0; i < N; i++) a[i] = (float)i, b[i] = 0.5f;
    int64_t n = N, out_dim = -5;
    rsqc_tensor in[2] = {
        {.struct_size = sizeof in[0], .dtype = RSQC_F32, .rank = 1, .data = a, .capacity = sizeof a, .dims = &n},
        {.struct_size = sizeof in[0], .dtype = RSQC_F32, .rank = 1, .data = b, .capacity = sizeof b, .dims = &n}};
    rsqc_tensor result = {.struct_size = sizeof result, .dtype = RSQC_F32, .rank = 1, .dims = &out_dim};

    CHECK(api->infer(session, in, 2, &result, 1) == RSQC_OK && out_dim == N && result.rank == 1);
    out_dim = -5;
    CHECK(api->run(session, in, 2, &result, 1, NULL) == RSQC_TOO_SMALL && out_dim == N);
    CHECK(strstr(api->error(session), "needs 4000 bytes, the buffer has 0"));
    result.data = out;
    result.capacity = N * sizeof(float);
    out[N] = 7.0f;
    CHECK(api->run(session, in, 2, &result, 1, NULL) == RSQC_OK);
    for (int i = 0; i < N; i++) CHECK(out[i] == (float)i + 0.5f);
    CHECK(out[N] == 7.0f && strcmp(api->error(session), "") == 0);
    rsqc_step_time times[4];
    size_t count = 0;
    CHECK(api->step_times(session, times, 4, &count) == RSQC_OK && count == 1 && times[0].calls == 1);
    CHECK(api->step_times(session, NULL, 0, &count) == RSQC_OK && count == 1);
    CHECK(api->memory(session) > 0);

    /* One wrong thing at a time. */
    CHECK(api->run(NULL, in, 2, &result, 1, NULL) == RSQC_INVALID);
    CHECK(api->run(session, in, 1, &result, 1, NULL) == RSQC_INVALID);
    CHECK(api->run(session, NULL, 2, &result, 1, NULL) == RSQC_INVALID);
    CHECK(api->run(session, in, 2, NULL, 1, NULL) == RSQC_INVALID);
    CHECK(api->run(session, in, 2, &result, 1, (rsqc_state *)session) == RSQC_UNSUPPORTED);
    CHECK(api->state_new(session, 1, NULL) == RSQC_UNSUPPORTED);
    rsqc_tensor good = in[1];
#define BAD_INPUT(change, status)                                       \
    change;                                                             \
    CHECK(api->run(session, in, 2, &result, 1, NULL) == (status));      \
    in[1] = good
    int64_t other = N - 1, negative = -1, huge = INT64_MAX, wrong_stride = 2, dense = 1;
    BAD_INPUT(in[1].dims = &other, RSQC_SHAPE);
    CHECK(strstr(api->error(session), "'b', dimension 0: expected n = 1000, found 999"));
    BAD_INPUT(in[1].dims = &negative, RSQC_SHAPE);
    BAD_INPUT(in[1].dims = &huge, RSQC_SHAPE);
    BAD_INPUT(in[1].dims = NULL, RSQC_INVALID);
    BAD_INPUT(in[1].rank = 2000, RSQC_INVALID);
    BAD_INPUT(in[1].rank = 0, RSQC_SHAPE);
    BAD_INPUT(in[1].dtype = RSQC_I32, RSQC_INVALID);
    BAD_INPUT(in[1].dtype = 4000000000u, RSQC_INVALID);
    BAD_INPUT(in[1].data = NULL, RSQC_INVALID);
    BAD_INPUT(in[1].data = (char *)b + 1, RSQC_INVALID);
    BAD_INPUT(in[1].capacity = 3999, RSQC_INVALID);
    BAD_INPUT(in[1].strides = &wrong_stride, RSQC_UNSUPPORTED);
    BAD_INPUT(in[1].strides = &dense, RSQC_OK);
    in[0].struct_size = 8;
    CHECK(api->run(session, in, 2, &result, 1, NULL) == RSQC_INVALID);
    in[0].struct_size = sizeof in[0];
    rsqc_tensor good_out = result;
#define BAD_OUTPUT(change, status)                                      \
    change;                                                             \
    CHECK(api->run(session, in, 2, &result, 1, NULL) == (status));      \
    result = good_out
    BAD_OUTPUT(result.data = NULL, RSQC_INVALID);
    BAD_OUTPUT(result.data = (char *)out + 2, RSQC_INVALID);
    BAD_OUTPUT(result.data = a + 10, RSQC_INVALID);
    CHECK(strstr(api->error(session), "overlaps an input"));
    BAD_OUTPUT(result.dtype = RSQC_F64, RSQC_INVALID);
    BAD_OUTPUT(result.rank = 0, RSQC_INVALID);
    BAD_OUTPUT(result.capacity = 3999, RSQC_TOO_SMALL);
    BAD_OUTPUT(result.dims = NULL, RSQC_OK);

    /* A caller's own pool; a second call into a running session. */
    how.parallel_for = serial;
    CHECK(api->session_new(model, &how, &nested, text, sizeof text) == RSQC_OK);
    memcpy(nested_in, in, sizeof in);
    nested_out = result;
    memset(out, 0, sizeof out);
    CHECK(api->run(nested, in, 2, &result, 1, NULL) == RSQC_OK && indices_seen == 3);
    CHECK(nested_status == RSQC_BUSY && out[999] == 999.5f);
    api->session_free(nested);

    /* Threads do not survive a fork. */
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        int32_t status = api->run(session, in, 2, &result, 1, NULL);
        int told = strstr(api->error(session), "fork") != NULL;
        rsqc_session *own = NULL;
        how.parallel_for = NULL;
        int works = api->session_new(model, &how, &own, NULL, 0) == RSQC_OK &&
                    api->run(own, in, 2, &result, 1, NULL) == RSQC_OK;
        api->session_free(own);
        api->session_free(session);
        _exit(status == RSQC_INTERNAL && told && works ? 0 : 1);
    }
    int ended = -1;
    CHECK(child > 0 && waitpid(child, &ended, 0) == child && ended == 0);

    /* No elements: null data is fine. */
    n = 0;
    in[0].data = in[1].data = result.data = NULL;
    CHECK(api->run(session, in, 2, &result, 1, NULL) == RSQC_OK && out_dim == 0);

    /* A model that is closed first lives until its last session ends. */
    n = N;
    in[0].data = a, in[1].data = b, result.data = out;
    api->close(model);
    memset(out, 0, sizeof out);
    CHECK(api->run(session, in, 2, &result, 1, NULL) == RSQC_OK && out[1] == 1.5f);
    api->session_free(session);
    api->session_free(NULL);
    api->close(NULL);
    api->state_free(NULL);
    CHECK(dlclose(library) == 0);
    puts("ok");
    return 0;
}
