/*
 * rsqc_model.h: the C interface of a compiled model.
 *
 * A model is one shared library that exports one function. Load it with dlopen(path, RTLD_NOW | RTLD_LOCAL),
 * look up "rsqc_model_api" and call it; do not link two models into one program with -l, their symbols would
 * clash. Loading a file is executing it: `rsqc selftest` checks one from outside. The digests that `open` checks
 * find damage, not malice.
 *
 *     const rsqc_api *api = ((rsqc_model_api_fn)dlsym(library, "rsqc_model_api"))(RSQC_API_VERSION);
 *     rsqc_model *model;  rsqc_session *session;  char text[256];
 *     if (api->open(NULL, &model, text, sizeof text)) ...
 *     if (api->session_new(model, NULL, &session, text, sizeof text)) ...
 *     rsqc_tensor in = {sizeof in, RSQC_F32, 2, 0, data, bytes, dims, NULL}, out = ...;
 *     if (api->run(session, &in, 1, &out, 1, NULL)) puts(api->error(session));
 *     api->session_free(session);  api->close(model);
 *
 * Rules
 *  - Every function returns a status of the closed list below unless said otherwise. Nothing aborts, exits,
 *    prints, installs signal handlers, or reports through errno. The one environment variable that is read is
 *    RSQC_CPU_LEVEL (see rsqc_options.level).
 *  - Every struct that the caller passes starts with struct_size = sizeof the struct; structs and the table only
 *    ever grow at their ends.
 *  - A model is immutable and may be used by any number of threads. A session serves one call at a time; a
 *    second one gets RSQC_BUSY. No thread outlives its session. Sessions must be freed before their model is
 *    closed (a model that is closed too early lives until its last session is freed).
 *  - Threads do not survive fork(): open a new session in the child.
 *  - Runs are bit-identical for any number of threads. The caller's floating-point environment is saved, set to
 *    the default and restored.
 *  - Strings are UTF-8, zero-terminated, and owned by the model or the session.
 */
#ifndef RSQC_MODEL_H
#define RSQC_MODEL_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define RSQC_API_VERSION 1u

/* Statuses. */
enum {
    RSQC_OK = 0,
    RSQC_INVALID = 1,     /* the call is wrong: null pointer, count, type, alignment, overlap */
    RSQC_SHAPE = 2,       /* a shape does not fit the model, or a check of the model failed */
    RSQC_TOO_SMALL = 3,   /* an output buffer is too small; all known dims of the outputs are written */
    RSQC_NO_MEMORY = 4,   /* no memory or no thread */
    RSQC_CORRUPT = 5,     /* the file is damaged or cut off */
    RSQC_VERSION = 6,     /* the model needs a newer runtime */
    RSQC_CPU = 7,         /* this processor lacks the instructions */
    RSQC_BUSY = 8,        /* the session is running in another thread */
    RSQC_INTERNAL = 9,    /* a defect of the compiler or the runtime */
    RSQC_UNSUPPORTED = 10 /* not in this version */
};

/* Element types. Elements are little endian. */
enum {
    RSQC_F32 = 0, RSQC_F16 = 1, RSQC_BF16 = 2, RSQC_F64 = 3, RSQC_I8 = 4, RSQC_I16 = 5, RSQC_I32 = 6,
    RSQC_I64 = 7, RSQC_U8 = 8, RSQC_U16 = 9, RSQC_U32 = 10, RSQC_U64 = 11, RSQC_BOOL = 12 /* one byte, 0 or 1 */
};

typedef struct rsqc_model rsqc_model;
typedef struct rsqc_session rsqc_session;
typedef struct rsqc_state rsqc_state; /* key-value caches; RSQC_UNSUPPORTED in version 1 */

/* How much of the weights `open` checks. Manifest and code are always checked. */
enum {
    RSQC_VERIFY_DEFAULT = 0, /* up to 32 MB at open; above, each MiB before its first use */
    RSQC_VERIFY_ALL = 1,     /* everything at open */
    RSQC_VERIFY_NONE = 2     /* on the caller's own risk */
};

/* Called with a severity (0 error, 1 warning, 2 note) and a text. */
typedef void (*rsqc_log_fn)(void *context, int32_t severity, const char *text);

/* Options of `open`; NULL or zeros: defaults. */
typedef struct rsqc_options {
    uint32_t struct_size;
    uint32_t verify;
    const char *level; /* forced CPU level: portable, avx2, avxvnni, avx512vnni; NULL: the environment variable
                          RSQC_CPU_LEVEL if it is set, else the machine's best */
    rsqc_log_fn log;   /* NULL: none */
    void *log_context;
} rsqc_options;

/* A caller's thread pool: calls body(argument, i) once for each i in 0 .. count-1, on any threads, and returns
 * when all calls have returned. */
typedef void (*rsqc_parallel_for_fn)(void *context, uint32_t count, void (*body)(void *argument, uint32_t i),
                                     void *argument);

/* Options of `session_new`; NULL or zeros: defaults. */
typedef struct rsqc_session_options {
    uint32_t struct_size;
    uint32_t threads;      /* 0: one a physical core that this process may use */
    int32_t spin_us;       /* how long idle threads wait actively between steps; -1: do not spin, 0: default */
    uint32_t profile;      /* 1: measure each step (see step_times) */
    rsqc_parallel_for_fn parallel_for; /* NULL: the session has threads of its own */
    void *parallel_context;
} rsqc_session_options;

/* One input or output. */
typedef struct rsqc_io {
    uint32_t struct_size;
    uint32_t dtype;
    uint32_t rank;
    uint32_t flags;
    const char *name;
    const int64_t *dims;          /* >= 0: fixed; -1-s: symbol s; INT64_MIN: an expression, see dim_texts */
    const char *const *dim_texts; /* each dimension as text, as "past + seq" */
} rsqc_io;

/* A dimension that the inputs decide, or that is computed during the run. */
typedef struct rsqc_symbol {
    uint32_t struct_size;
    uint32_t reserved;
    const char *name;
    int64_t lo, hi; /* inclusive */
} rsqc_symbol;

/* A tensor of the caller. Never copied, so it must stay alive during the call. */
typedef struct rsqc_tensor {
    uint32_t struct_size;
    uint32_t dtype;
    uint32_t rank;     /* outputs: the number of dims that fit in `dims`; set to the real rank */
    uint32_t reserved;
    void *data;        /* aligned to the element; 64 is faster. Inputs are only read. No overlap with outputs */
    uint64_t capacity; /* bytes at data */
    int64_t *dims;     /* inputs: the shape, only read; outputs: written by run, NULL if not wanted */
    const int64_t *strides; /* NULL: dense, last dimension fastest. Version 1 takes dense tensors only */
} rsqc_tensor;

/* Time of one step of the plan in the last run of a profiled session. */
typedef struct rsqc_step_time {
    uint32_t step;  /* number in the flattened plan of the manifest */
    uint32_t calls;
    uint64_t ns;    /* over all calls */
} rsqc_step_time;

typedef struct rsqc_api {
    uint32_t struct_size;
    uint32_t version;

    /* Opens the model of this library. On failure a text of at most error_capacity bytes (zero included) goes to
     * error, which may be NULL. Each call makes a new handle. */
    int32_t (*open)(const rsqc_options *options, rsqc_model **model, char *error, size_t error_capacity);
    /* NULL is allowed. */
    void (*close)(rsqc_model *model);

    /* Facts; valid until close. index in 0 .. count-1. */
    uint32_t (*input_count)(const rsqc_model *model);
    uint32_t (*output_count)(const rsqc_model *model);
    uint32_t (*symbol_count)(const rsqc_model *model);
    int32_t (*input)(const rsqc_model *model, uint32_t index, rsqc_io *io);
    int32_t (*output)(const rsqc_model *model, uint32_t index, rsqc_io *io);
    int32_t (*symbol)(const rsqc_model *model, uint32_t index, rsqc_symbol *symbol);
    /* The CPU level whose kernels run. */
    const char *(*level)(const rsqc_model *model);
    /* The encoded manifest (protobuf message rsqc.v1.Manifest). */
    const uint8_t *(*manifest)(const rsqc_model *model, size_t *length);
    /* The digest that identifies the file, 32 bytes. */
    const uint8_t *(*root)(const rsqc_model *model);

    int32_t (*session_new)(rsqc_model *model, const rsqc_session_options *options, rsqc_session **session,
                           char *error, size_t error_capacity);
    /* NULL is allowed. Not during a run. */
    void (*session_free)(rsqc_session *session);
    /* Text of the session's last failure, valid until its next call; "" if there was none. */
    const char *(*error)(rsqc_session *session);

    /* Output shapes from input shapes. Reads rank and dims of inputs; writes rank and dims of outputs.
     * INT64_MIN: known only after the run. */
    int32_t (*infer)(rsqc_session *session, const rsqc_tensor *inputs, uint32_t input_count,
                     rsqc_tensor *outputs, uint32_t output_count);
    /* Runs the model. Inputs and outputs in the model's order. Writes dims first; returns RSQC_TOO_SMALL before any
     * computation if a buffer cannot hold its output (so a run with capacity 0 is a query), except for outputs
     * whose size is computed, which are checked at the end. state: NULL. */
    int32_t (*run)(rsqc_session *session, const rsqc_tensor *inputs, uint32_t input_count, rsqc_tensor *outputs,
                   uint32_t output_count, rsqc_state *state);
    /* Step times of the last run, if the session profiles. Writes at most capacity of them, and their number. */
    int32_t (*step_times)(rsqc_session *session, rsqc_step_time *times, size_t capacity, size_t *count);
    /* Bytes of working memory that the session holds. */
    uint64_t (*memory)(rsqc_session *session);

    /* State between runs. Version 1 answers RSQC_UNSUPPORTED. */
    int32_t (*state_new)(rsqc_session *session, uint64_t capacity, rsqc_state **state);
    int32_t (*state_clone)(const rsqc_state *state, rsqc_state **copy);
    int32_t (*state_truncate)(rsqc_state *state, uint64_t length);
    int32_t (*state_reset)(rsqc_state *state);
    void (*state_free)(rsqc_state *state);
} rsqc_api;

/* The only exported function: NULL for a version that this library does not have. */
const rsqc_api *rsqc_model_api(uint32_t version);
typedef const rsqc_api *(*rsqc_model_api_fn)(uint32_t version);

#ifdef __cplusplus
}
#endif
#endif
