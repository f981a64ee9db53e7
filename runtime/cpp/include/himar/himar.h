/* himar: images from a himar bundle, without Python or PyTorch. This header is C; himar.hpp wraps it for C++.
 *
 * A bundle is a folder that `himar-export build` wrote. A pipeline is a bundle's engines, ready to generate; a result
 * holds the images of one request. The same seed gives the same image at any batch size, and in himar's Python runtime.
 *
 *     himar_pipeline *pipeline; himar_result *result;
 *     himar_generate_params params; himar_generate_params_init(&params);
 *     const int64_t labels[] = {3, 7};
 *     params.labels = labels; params.label_count = 2; params.seed = 7;
 *     if (himar_pipeline_load("bundle", NULL, &pipeline) != HIMAR_OK) puts(himar_last_error());
 *     if (himar_pipeline_generate(pipeline, &params, &result) != HIMAR_OK) puts(himar_last_error());
 *
 * Errors. Functions that can fail return a himar_status; on an error the thread's himar_last_error() says in a sentence
 * what was wrong, with the value, and what to do; output arguments are then untouched. Nothing is thrown or printed.
 *
 * Ownership. What a function puts into a `himar_pipeline **` or `himar_result **` belongs to the caller until the
 * matching free. Pointers got from an object live as long as it. Arguments are copied or read during the call only.
 *
 * Threads. Different pipelines may be used by different threads at once, clones of one pipeline too: that is what
 * clones are for. Calls of himar_pipeline_generate on one pipeline wait for each other. A result may be read by any
 * number of threads. Nothing may run on an object that is being freed.
 *
 * Letters in shapes: B images, C channels and h, w sides of the latents, s side of the low-resolution grid, H, W sides
 * of the images in pixels. Every array is C-contiguous, the last index runs fastest.
 */
#ifndef HIMAR_HIMAR_H
#define HIMAR_HIMAR_H

#include <stddef.h>
#include <stdint.h>

#if defined(HIMAR_STATIC)
#define HIMAR_API
#elif defined(__GNUC__)
#define HIMAR_API __attribute__((visibility("default")))
#else
#define HIMAR_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A bundle's engines with their buffers. */
typedef struct himar_pipeline himar_pipeline;
/* The images of one request. */
typedef struct himar_result himar_result;

/* How a call ended. New values may be added at the end. */
typedef enum himar_status {
    HIMAR_OK = 0,
    HIMAR_CANCELLED = 1,    /* the step callback asked to stop; there is a result, of the images finished by then */
    HIMAR_ERROR_INPUT = 2,  /* an argument is out of range; nothing has run */
    HIMAR_ERROR_BUNDLE = 3, /* the bundle is missing, damaged, of a newer schema, or names paths outside of it */
    HIMAR_ERROR_ENGINE = 4, /* an engine or device is not available here, or an engine failed or gave NaN */
    HIMAR_ERROR_MEMORY = 5, /* no memory left */
    HIMAR_ERROR_INTERNAL = 6 /* a fault of himar itself; please report it */
} himar_status;

/* Phases of the two-phase loop. */
typedef enum himar_phase { HIMAR_PHASE_LOW = 0, HIMAR_PHASE_HIGH = 1 } himar_phase;

/* How guidance grows over the steps of a phase. */
typedef enum himar_guidance_schedule {
    HIMAR_GUIDANCE_DEFAULT = 0, /* as the sampling setting says */
    HIMAR_GUIDANCE_LINEAR = 1,  /* from near 1 to the scale */
    HIMAR_GUIDANCE_CONSTANT = 2 /* the scale in every step */
} himar_guidance_schedule;

/* How a phase's head goes down its chain. */
typedef enum himar_solver {
    HIMAR_SOLVER_DEFAULT = 0, /* as the sampling setting says */
    HIMAR_SOLVER_DDPM = 1,    /* the paper's reverse step, which adds noise */
    HIMAR_SOLVER_DDIM = 2,    /* these two need fewer steps and add no noise */
    HIMAR_SOLVER_DPMPP = 3    /* DPM-Solver++(2M), of second order */
} himar_solver;

/* Return the status's name, for example "HIMAR_ERROR_INPUT"; "unknown status" for a number that is none. Static text. */
HIMAR_API const char *himar_status_to_string(himar_status status);

/* Return what the last call that failed in this thread said, UTF-8; "" when none has. Valid until the thread's next
 * call that fails. */
HIMAR_API const char *himar_last_error(void);

/* Return the version of this library, for example "0.1.0". Static text. */
HIMAR_API const char *himar_version(void);

/* Return how this library was built, in one line: version, engines compiled in with their versions, and those left out.
 * Lives as long as the process. */
HIMAR_API const char *himar_build_info(void);

/* How to load a bundle. Fill it with himar_load_params_init, then change what you want. */
typedef struct himar_load_params {
    size_t struct_size;  /* sizeof(himar_load_params), set by the init function: keep it */
    const char *device;  /* "cpu" (also NULL), "cuda" or "cuda:N" */
    const char *backend; /* NULL runs what the bundle was built for; "onnxruntime" runs its ONNX graphs */
    int32_t threads;     /* CPU threads that one operator uses; 0 takes as many as the process has CPUs: the smallest
                          * of its affinity mask, OMP_NUM_THREADS and its control groups' CPU quota, rounded up */
} himar_load_params;

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_load_params_init(himar_load_params *params);

/* A finished autoregressive step, valid during the callback. */
typedef struct himar_progress {
    size_t struct_size;
    himar_phase phase; /* which phase the step belongs to */
    int32_t step;      /* counts the phase's steps from 0 */
    int64_t done;      /* steps finished over every chunk of the request, this one included */
    int64_t total;     /* steps in all */
    int64_t images;    /* B, images that the step worked on: those of the chunk under way */
    /* Preview: low-resolution latents float32 (B, C, s, s) of these images, VAE scale removed; positions that are not
     * revealed yet are 0, and all are revealed from the first high step on. */
    const float *low_latents;
    int64_t low_shape[4];
    void *preview; /* what himar_progress_preview works with: leave it alone */
} himar_progress;

/* Decode the preview, in the callback that `progress` was handed to: uint8 (B, P, P, 3), RGB, the low latents through
 * the bundle's VAE decoder, P = s·H/h pixels a side. It costs the time of decoding B images of that size, and nothing
 * where it is not called. Positions that are not revealed yet are decoded as zeros. The pixels live until the callback
 * returns or asks again. HIMAR_ERROR_INPUT when the bundle has no VAE decoder; HIMAR_ERROR_ENGINE when its decoder takes
 * no latents of this size, or fails: the generation can go on then. */
HIMAR_API himar_status himar_progress_preview(const himar_progress *progress, const uint8_t **pixels, int64_t shape[4]);

/* Called in the generating thread after every autoregressive step. Return 0 to cancel, anything else to go on. It must
 * not throw, and not generate on or free the same pipeline. */
typedef int (*himar_step_callback)(const himar_progress *progress, void *user);

/* Noise that the loop needs now: that of one reverse step, or the state that a chain starts from. */
typedef struct himar_noise_request {
    size_t struct_size;
    himar_phase phase;
    int32_t step; /* autoregressive step, counted from 0 in its phase */
    int32_t k;    /* index in the chain of the reverse step, n-1 … 1; -1 for the chain's start. Solvers that add no
                   * noise ask for the start alone */
    const uint32_t *images;    /* (B), image indices: first_index and on */
    const uint32_t *positions; /* (B, r), counted from 0 in the phase, ascending in an image */
    int64_t batch, position_count, channels; /* B, r, C */
} himar_noise_request;

/* Draws in place of the seed's: where orders and noise come from, for example from the record of another run. They are
 * called in the generating thread, and must not throw, generate on the pipeline or free it. Both functions return 0
 * when they have not what is asked, which ends the generation with HIMAR_ERROR_INPUT, and anything else otherwise. */
typedef struct himar_draws {
    size_t struct_size; /* sizeof(himar_draws) */
    /* Write a permutation of 0 … positions-1 for each of `batch` images into `order`, int64 (B, positions). Its end is
     * revealed first. Asked for twice a chunk, once a phase. */
    int (*order)(himar_phase phase, const uint32_t *images, int64_t batch, int64_t positions, int64_t *order,
                 void *user);
    /* Write standard normals into `noise`, float32 (B, r, C). */
    int (*noise)(const himar_noise_request *request, float *noise, void *user);
    void *user; /* handed to both */
} himar_draws;

/* What to generate. Fill it with himar_generate_params_init, then set labels and what you want to change: values that
 * are left alone are those of the bundle's sampling setting. */
typedef struct himar_generate_params {
    size_t struct_size;     /* sizeof(himar_generate_params), set by the init function: keep it */
    const int64_t *labels;  /* one class number per image, 0 … classes-1 */
    size_t label_count;     /* at least 1; more than the bundle's max_batch are run in chunks */
    uint64_t seed;          /* default 0 */
    uint64_t first_index;   /* image index of the first label: an image depends on seed, index and label alone */
    const char *sampling;   /* name of a sampling setting of the bundle; NULL for its first */
    double guidance;        /* scale of both phases, at least 0; 1 is none; NaN: the setting's */
    double low_guidance;    /* goes before `guidance` in phase low; NaN: not given */
    double high_guidance;   /* goes before `guidance` in phase high; NaN: not given */
    double temperature;     /* factor on the noise of every reverse step, at least 0; NaN: the setting's. It must be 1
                             * where no phase's solver adds noise */
    int32_t low_steps;      /* autoregressive steps of phase low; 0: the setting's */
    int32_t high_steps;     /* autoregressive steps of phase high; 0: the setting's */
    int32_t low_diffusion_steps;  /* chain length of the MLP head, 2 … 1000; 0: the setting's */
    int32_t high_diffusion_steps; /* chain length of the DiT head, 2 … 1000; 0: the setting's */
    himar_guidance_schedule guidance_schedule;
    himar_step_callback on_step; /* NULL for none */
    void *user;                  /* handed to on_step */
    const himar_draws *draws;    /* orders and noise in place of the seed's, which must stay 0; NULL for the seed's */
    himar_solver low_solver;  /* of phase low */
    himar_solver high_solver; /* of phase high */
} himar_generate_params;

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_generate_params_init(himar_generate_params *params);

/* Write the parameters as one line of text with a final NUL into `text` of `capacity` bytes, cut off where it does not
 * fit. `needed` (or NULL) takes the bytes that the whole text needs, its NUL included; `text` may be NULL when capacity
 * is 0. */
HIMAR_API himar_status himar_generate_params_to_string(const himar_generate_params *params, char *text,
                                                       size_t capacity, size_t *needed);
HIMAR_API himar_status himar_load_params_to_string(const himar_load_params *params, char *text, size_t capacity,
                                                   size_t *needed);

/* Open and check the bundle in folder `path` (schema, paths, size and SHA-256 of every file) and load its engines.
 * `params` may be NULL. Errors: HIMAR_ERROR_BUNDLE, HIMAR_ERROR_ENGINE, HIMAR_ERROR_INPUT for the parameters. */
HIMAR_API himar_status himar_pipeline_load(const char *path, const himar_load_params *params,
                                           himar_pipeline **pipeline);

/* Make another pipeline for another thread: it shares the engines' weights and has its own buffers. The original may be
 * freed before its clones, and may be generating. */
HIMAR_API himar_status himar_pipeline_clone(const himar_pipeline *pipeline, himar_pipeline **clone);

/* Free a pipeline; its results live on. NULL is fine. HIMAR_ERROR_INPUT, and nothing is freed, from its own callback. */
HIMAR_API himar_status himar_pipeline_free(himar_pipeline *pipeline);

/* What a bundle's model is. Sizes are counts; pixels and latents as the letters above say. */
typedef struct himar_pipeline_info {
    size_t struct_size;       /* set it to sizeof(himar_pipeline_info) before the call */
    int64_t classes;          /* labels are 0 … classes-1 */
    int64_t image_size;       /* H = W, pixels */
    int64_t channels;         /* C */
    int64_t latent_size;      /* h = w */
    int64_t low_latent_size;  /* s */
    int64_t max_batch;        /* images that run together */
    int32_t has_decoder;      /* 0: the bundle gives latents, not images */
    const char *bundle_id;    /* SHA-256 of the manifest, which holds every file's hash; lives as long as the pipeline */
    const char *sampling;     /* names of the sampling settings with ", " between them, the first is the default */
} himar_pipeline_info;

/* Fill `info`. HIMAR_ERROR_INPUT for NULL or a struct_size that this library does not know. */
HIMAR_API himar_status himar_pipeline_get_info(const himar_pipeline *pipeline, himar_pipeline_info *info);

/* Put the name of class `label` into `name`, UTF-8, alive as long as the pipeline; NULL where the bundle names no
 * classes. HIMAR_ERROR_INPUT for a number that is no class. */
HIMAR_API himar_status himar_pipeline_get_class_name(const himar_pipeline *pipeline, int64_t label, const char **name);

/* Check a request as himar_pipeline_generate does before it runs anything: HIMAR_ERROR_INPUT with the same sentence, or
 * HIMAR_OK. Nothing runs; any thread may call it at any time, also during a generation. */
HIMAR_API himar_status himar_pipeline_check(const himar_pipeline *pipeline, const himar_generate_params *params);

/* Generate one image per label; see himar_generate_params. Calls on one pipeline wait for each other.
 * HIMAR_OK and HIMAR_CANCELLED give a result, every other status none. */
HIMAR_API himar_status himar_pipeline_generate(himar_pipeline *pipeline, const himar_generate_params *params,
                                               himar_result **result);

/* Free a result and what its accessors gave. NULL is fine. */
HIMAR_API himar_status himar_result_free(himar_result *result);

/* Pixels, uint8 (B, H, W, 3), RGB. HIMAR_ERROR_INPUT when the bundle has no VAE decoder. */
HIMAR_API himar_status himar_result_images(const himar_result *result, const uint8_t **pixels, int64_t shape[4]);

/* Latents, float32 (B, C, h, w), VAE scale removed: what a VAE decoder takes. */
HIMAR_API himar_status himar_result_latents(const himar_result *result, const float **latents, int64_t shape[4]);

/* Latents of the low phase, float32 (B, C, s, s), VAE scale removed. */
HIMAR_API himar_status himar_result_low_latents(const himar_result *result, const float **latents, int64_t shape[4]);

/* Labels of the finished images, int64 (B). */
HIMAR_API himar_status himar_result_labels(const himar_result *result, const int64_t **labels, size_t *count);

/* How image `index` was made, as JSON: seed, index, label, sampling, bundle, himar_version. The same text that himar's
 * PNGs carry. HIMAR_ERROR_INPUT for an index of no image. */
HIMAR_API himar_status himar_result_recipe(const himar_result *result, size_t index, const char **json);

/* Seconds of wall-clock time that the generation took, and how many of them the engines ran: NaN on a GPU, where their
 * runs are queued and nobody waits for them. Either may be NULL. */
HIMAR_API himar_status himar_result_seconds(const himar_result *result, double *total, double *engines);

#ifdef __cplusplus
}
#endif

#endif
