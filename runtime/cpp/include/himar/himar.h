/* himar: images from a himar bundle, without Python or PyTorch. This header is C; himar.hpp wraps it for C++.
 *
 * A bundle is a folder written by `himar-export build`. A pipeline is a bundle's engines, ready to generate; a result
 * holds the images of one request. The same seed gives the same image at any batch size, and in himar's Python runtime.
 * A model generates in stages, which its family names: hi_mar has "low" and "high", or "high" alone at a single scale;
 * hmar has "scale 1", "scale 2" … from coarse to fine.
 *
 *     himar_pipeline *pipeline; himar_result *result;
 *     himar_generate_params params; himar_generate_params_init(&params);
 *     const int64_t labels[] = {3, 7};
 *     params.labels = labels; params.label_count = 2; params.seed = 7;
 *     if (himar_pipeline_load("bundle", NULL, &pipeline) != HIMAR_OK) puts(himar_last_error());
 *     if (himar_pipeline_generate(pipeline, &params, &result) != HIMAR_OK) puts(himar_last_error());
 *
 * Errors. Functions that can fail return a himar_status. After an error, the thread's himar_last_error() is a sentence
 * that says what was wrong, with the value, and what to do; output arguments are untouched. Nothing throws. What is worth a
 * warning alone, such as memory that may just suffice, is a line on stderr, or himar_set_warning_callback's.
 *
 * Ownership. What a function stores in a `himar_pipeline **` or `himar_result **` belongs to the caller until the
 * matching free. Pointers obtained from an object live as long as the object. Arguments are read during the call only.
 *
 * Threads. Different threads may use different pipelines at once, including clones of one pipeline: that is what clones
 * are for. Calls of himar_pipeline_generate on one pipeline wait for each other. Any number of threads may read a
 * result. No call may use an object that is being freed.
 *
 * Versions. HIMAR_INTERFACE_VERSION changes when programs must be adapted; it is the library's soname. Within a
 * version, structs only grow at their end, and a library accepts the smaller struct_size of a program compiled earlier.
 *
 * Letters in shapes: B images, C channels and h, w sides of the latents, s side of the preview's grid, H, W sides of
 * the images in pixels. Every array is C-contiguous: the last index varies fastest.
 */
#ifndef HIMAR_HIMAR_H
#define HIMAR_HIMAR_H

#include <stddef.h>
#include <stdint.h>

#define HIMAR_INTERFACE_VERSION 2

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
    HIMAR_CANCELLED = 1,    /* the step callback cancelled; the result holds the images finished by then */
    HIMAR_ERROR_INPUT = 2,  /* an argument is out of range; nothing has run */
    HIMAR_ERROR_BUNDLE = 3, /* the bundle is missing, damaged, of a newer schema, or names paths outside itself */
    HIMAR_ERROR_ENGINE = 4, /* an engine or device is not available here, or an engine failed or returned NaN */
    HIMAR_ERROR_MEMORY = 5, /* out of memory */
    HIMAR_ERROR_INTERNAL = 6 /* a bug in himar; please report it */
} himar_status;

/* How guidance changes over the steps of a phase. */
typedef enum himar_guidance_schedule {
    HIMAR_GUIDANCE_DEFAULT = 0, /* the sampling setting's */
    HIMAR_GUIDANCE_LINEAR = 1,  /* grows from near 1.0 to the scale */
    HIMAR_GUIDANCE_CONSTANT = 2 /* the scale in every step */
} himar_guidance_schedule;

/* How a phase's head runs its reverse diffusion. */
typedef enum himar_solver {
    HIMAR_SOLVER_DEFAULT = 0, /* the sampling setting's */
    HIMAR_SOLVER_DDPM = 1,    /* the paper's reverse step, which adds noise */
    HIMAR_SOLVER_DDIM = 2,    /* deterministic, fewer steps */
    HIMAR_SOLVER_DPMPP = 3    /* DPM-Solver++(2M): deterministic, second order */
} himar_solver;

/* A setting that is on or off. */
typedef enum himar_switch {
    HIMAR_SWITCH_DEFAULT = 0, /* as the sampling setting has it */
    HIMAR_SWITCH_OFF = 1,
    HIMAR_SWITCH_ON = 2
} himar_switch;

/* Return the status's name, for example "HIMAR_ERROR_INPUT", or "unknown status". Static text. */
HIMAR_API const char *himar_status_to_string(himar_status status);

/* Return the error message of this thread's last failed call, UTF-8; "" if no call has failed. Valid until the thread's
 * next failed call. */
HIMAR_API const char *himar_last_error(void);

/* Return the version of this library, for example "0.2.0". Static text. */
HIMAR_API const char *himar_version(void);

/* Return the HIMAR_INTERFACE_VERSION that this library was compiled with. */
HIMAR_API int32_t himar_interface_version(void);

/* Return how this library was built, in one line: its version, the engines compiled in with their versions, and what
 * was left out. Static text. */
HIMAR_API const char *himar_build_info(void);

/* Called with a warning, a sentence without a full stop, UTF-8, valid during the call; from any thread that loads or clones.
 * It must not throw. */
typedef void (*himar_warning_callback)(const char *sentence, void *user);

/* Have warnings go to `callback` with `user`, of all pipelines of the process; NULL writes them to stderr, each a line after
 * "himar: ". */
HIMAR_API void himar_set_warning_callback(himar_warning_callback callback, void *user);

/* How to load a bundle. Fill it with himar_load_params_init, then change what you want. */
typedef struct himar_load_params {
    size_t struct_size;  /* sizeof(himar_load_params), set by the init function: keep it */
    const char *device;  /* "cpu" (also NULL), "cuda" or "cuda:N" */
    const char *backend; /* NULL runs what the bundle was built for; "onnxruntime" runs its ONNX graphs */
    int32_t threads;     /* CPU threads that one run of an engine uses: small networks split their rows among them, large
                          * ones each operator. 0 uses as many as the process has CPUs: the smallest of its affinity
                          * mask, OMP_NUM_THREADS and its control groups' CPU quota, rounded up */
} himar_load_params;

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_load_params_init(himar_load_params *params);

/* A finished autoregressive step, valid during the callback. */
typedef struct himar_progress {
    size_t struct_size;
    int32_t stage;          /* index of the stage that the step belongs to, from 0 */
    int32_t step;           /* index of the step within its stage, from 0 */
    const char *stage_name; /* hi_mar: "low" or "high"; hmar: "scale 1" … */
    int64_t done;           /* steps finished over all chunks of the request, including this one */
    int64_t total;          /* steps in all */
    int64_t images;         /* B, the images that the step worked on: those of the current chunk */
    /* Preview of hi_mar: low-resolution latents float32 (B, C, s, s) of these images, VAE scale removed. Positions not
     * revealed yet are 0; all are revealed by the first step of the last stage. s is 0 for a model of a single scale.
     * Of hmar: the sum of the scales so far, float32 (B, C, h, w). */
    const float *preview_latents;
    int64_t preview_shape[4];
    void *internal; /* used by himar_progress_preview and himar_progress_so_far */
    /* since interface 2 */
    int64_t stage_steps; /* steps of this stage in a chunk */
} himar_progress;

/* Decode the preview, inside the callback that received `progress`: uint8 (B, P, P, 3), RGB, the preview's latents
 * through the bundle's VAE decoder, P = s·H/h pixels a side (of hmar P = H); positions not revealed yet are decoded as
 * zeros. It costs
 * the decoding of B images of that size; if it is never called, previews cost nothing. The pixels live until the
 * callback returns or calls it again. HIMAR_ERROR_INPUT if the bundle has no VAE decoder or the model a single scale;
 * HIMAR_ERROR_ENGINE if the decoder does not accept latents of this size, or fails. Generation can continue after an
 * error. */
HIMAR_API himar_status himar_progress_preview(const himar_progress *progress, const uint8_t **pixels, int64_t shape[4]);

/* Decode the images as far as they are, inside the callback that received `progress`: uint8 (B, P, P, 3), RGB. In hi_mar's
 * stage "low" and in hmar they are himar_progress_preview's; in stage "high" they have the size of the finished images, and
 * positions that are not revealed yet show what a DiT head last made of them, or with an MLP head a latent of 0. Costs,
 * lifetime and errors are those of himar_progress_preview, but a single scale is no error. */
HIMAR_API himar_status himar_progress_so_far(const himar_progress *progress, const uint8_t **pixels, int64_t shape[4]);

/* The same step of `images` of these images alone, from number `first` on: their previews decode no others. Fills `part`,
 * whose struct_size must be set, and which is valid as long as `progress`. HIMAR_ERROR_INPUT when there are not so many. */
HIMAR_API himar_status himar_progress_part(const himar_progress *progress, int64_t first, int64_t images,
                                           himar_progress *part);

/* Called in the generating thread after every autoregressive step. Return 0 to cancel, anything else to continue. It
 * must not throw, and must not generate on or free the same pipeline. */
typedef int (*himar_step_callback)(const himar_progress *progress, void *user);

/* The orders that a stage needs, before its first step. */
typedef struct himar_order_request {
    size_t struct_size;
    int32_t stage;          /* index of the stage, from 0 */
    const char *stage_name; /* hi_mar: "low" or "high" */
    const uint32_t *images; /* (B), image indices: first_index and up, or those of himar_generate_params */
    int64_t batch, positions;
} himar_order_request;

/* The noise that the loop needs next: for one reverse step, or for the initial state of a diffusion chain. */
typedef struct himar_noise_request {
    size_t struct_size;
    int32_t stage;          /* index of the stage, from 0 */
    int32_t step;           /* index of the autoregressive step within its stage, from 0 */
    const char *stage_name; /* hi_mar: "low" or "high" */
    int32_t k; /* the reverse step's index in the chain, n-1 … 1, or -1 for the initial state. Deterministic solvers
                * request the initial state only */
    const uint32_t *images;    /* (B), image indices, as above */
    const uint32_t *positions; /* (B, r), positions of the stage, from 0, ascending within an image */
    int64_t batch, position_count, channels; /* B, r, C */
} himar_noise_request;

/* The uniforms that the draws of one forward of an hmar model take, or the Gumbel noise of a smooth preview. */
typedef struct himar_code_request {
    size_t struct_size;
    int32_t scale; /* from 0, coarse to fine */
    int32_t step;  /* 0 predicts the scale, 1 … are its masked steps */
    const uint32_t *images; /* (B), image indices: first_index and up, or those of himar_generate_params */
    int64_t batch, cells, codes; /* B, T, V */
} himar_code_request;

/* Random numbers from the caller instead of the seed, for example replayed from a recorded run: of hi_mar orders and
 * noise, of hmar uniforms and, for smooth previews, Gumbel noise. Those of the other family may be NULL. The functions
 * are called in the generating thread; they must not throw, and must not generate on or free the pipeline. Return 0 if
 * the requested values are not available, which ends the generation with HIMAR_ERROR_INPUT, and anything else
 * otherwise. */
typedef struct himar_draws {
    size_t struct_size; /* sizeof(himar_draws) */
    /* Write a permutation of 0 … positions-1 for each image into `order`, int64 (B, positions). Positions are revealed
     * from its end. Called once per stage and chunk. */
    int (*order)(const himar_order_request *request, int64_t *order, void *user);
    /* Write standard normals into `noise`, float32 (B, r, C). */
    int (*noise)(const himar_noise_request *request, float *noise, void *user);
    void *user; /* passed to every function */
    /* Write numbers in [0, 1) into `uniforms`, float32 (B, T). Called once per forward and chunk. */
    int (*uniforms)(const himar_code_request *request, float *uniforms, void *user);
    /* Write standard Gumbel noise into `gumbel`, float32 (B, T, V). Called once per scale and chunk of a smooth preview. */
    int (*gumbel)(const himar_code_request *request, float *gumbel, void *user);
} himar_draws;

/* Changes to a sampling setting of models of the family hi_mar: a field left at its default keeps the setting's value.
 * Fill it with himar_hi_mar_settings_init. A model of a single scale has no phase low and rejects the low_… fields. */
typedef struct himar_hi_mar_settings {
    size_t struct_size;   /* sizeof(himar_hi_mar_settings), set by the init function: keep it */
    double guidance;      /* scale of classifier-free guidance in both phases, 0 to 1e6; 1.0 disables guidance; NaN
                           * (the default of every double here) keeps the setting's */
    double low_guidance;  /* overrides `guidance` in phase low */
    double high_guidance; /* overrides `guidance` in phase high */
    double temperature;   /* scales the noise of every reverse step, 0 to 1e6; 1 if no phase's solver adds noise */
    int32_t low_steps;    /* autoregressive steps of phase low; 0 (the default of every integer here) keeps the
                           * setting's */
    int32_t high_steps;   /* autoregressive steps of phase high */
    int32_t low_diffusion_steps;  /* reverse steps of phase low's head, 2 … 1000 */
    int32_t high_diffusion_steps; /* reverse steps of phase high's head, 2 … 1000 */
    himar_guidance_schedule guidance_schedule;
    himar_solver low_solver;  /* of phase low's head */
    himar_solver high_solver; /* of phase high's head */
    /* Lists, as JSON: a value for each autoregressive step of the phase, as in "[250, 183, 116, 50]"; "[]" takes the
     * setting's list away, and so does a change to what the list stands in place of. NULL keeps the setting's. */
    const char *low_diffusion_counts;  /* reverse steps of each step of phase low, in place of low_diffusion_steps */
    const char *high_diffusion_counts; /* of each step of phase high */
    const char *low_guidances;         /* scale of each step of phase low, in place of scale and schedule */
    const char *high_guidances;        /* of each step of phase high */
    double least_guidance;     /* steps whose scale is below it run without guidance, 0 to 1e6 */
    int32_t low_forecast;      /* phase low's head is evaluated at every so many-th index of its chain and forecast
                                * between, 1 … 1000; 1 evaluates all */
    int32_t high_forecast;     /* the same of phase high's head */
    int32_t forecast_order;    /* 0 repeats the last evaluation, 1 continues the last two, 2 the last three; -1 (the
                                * default) keeps the setting's */
    int32_t forecast_first;    /* indices at the start of a forecast chain that are all evaluated, 1 … 1000 */
    int32_t forecast_last;     /* indices at its end */
    int32_t guidance_interval; /* every so many-th evaluation under guidance runs both halves, the others the
                                * conditional one, 1 … 1000; 1 runs both in all */
    int32_t modulation_interval; /* every so many-th evaluation makes a DiT head's modulations, the others hold them,
                                  * 1 … 1000; 1 holds none. Of bundles that were built with --held-modulations */
} himar_hi_mar_settings;

/* The fields of himar_hi_mar_settings as X(kind, name), in the order of recipes; `guidance` stands for two of them.
 * Programs that read settings by name, from requests or command lines, follow this list. */
#define HIMAR_HI_MAR_SETTINGS(X)                                                                                   \
    X(steps, low_steps) X(steps, high_steps) X(scale, low_guidance) X(scale, high_guidance)                        \
    X(schedule, guidance_schedule) X(scale, temperature)                                                           \
    X(diffusion_steps, low_diffusion_steps) X(diffusion_steps, high_diffusion_steps)                               \
    X(solver, low_solver) X(solver, high_solver)                                                                   \
    X(step_counts, low_diffusion_counts) X(step_counts, high_diffusion_counts)                                     \
    X(scales, low_guidances) X(scales, high_guidances) X(least_scale, least_guidance)                              \
    X(interval, low_forecast) X(interval, high_forecast) X(order, forecast_order)                                  \
    X(interval, forecast_first) X(interval, forecast_last) X(interval, guidance_interval)                  \
    X(interval, modulation_interval)

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_hi_mar_settings_init(himar_hi_mar_settings *settings);

/* Changes to a sampling setting of models of the family hmar: a field left at its default keeps the setting's value. Fill
 * it with himar_hmar_settings_init. */
typedef struct himar_hmar_settings {
    size_t struct_size;   /* sizeof(himar_hmar_settings), set by the init function: keep it */
    double guidance;      /* scale of classifier-free guidance, 0 to 1e6, where 0 disables guidance; NaN (the default of
                           * every double here) keeps the setting's */
    double top_p;         /* probability that the second filter keeps, above 0 to 1; 1 keeps every code */
    double mask_guidance; /* share of guidance in masked steps, 0 to 1e6 */
    const char *schedule; /* JSON: for each scale the counts of cells that its forwards fix, the first of the prediction,
                           * the others of masked steps, as in "[[1], [1, 3]]"; "[]" has no masked steps. NULL keeps
                           * the setting's */
    int32_t top_k;        /* codes that the first filter keeps; 0 keeps all, -1 (the default) the setting's */
    himar_switch all_scales; /* each cell also attends to all coarser scales (VAR); without masked steps */
    himar_switch smooth;     /* mixes codes' vectors instead of drawing codes: a preview, without codes */
} himar_hmar_settings;

/* The fields of himar_hmar_settings after `guidance` as X(kind, name), in the order of recipes. */
#define HIMAR_HMAR_SETTINGS(X)                                                                                        \
    X(top_k, top_k) X(top_p, top_p) X(counts, schedule) X(scale, mask_guidance) X(on_off, all_scales) X(on_off, smooth)

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_hmar_settings_init(himar_hmar_settings *settings);

/* What to generate. Fill it with himar_generate_params_init, then set labels, prompts or contexts, one of the three, and
 * whatever else differs. */
typedef struct himar_generate_params {
    size_t struct_size;     /* sizeof(himar_generate_params), set by the init function: keep it */
    const int64_t *labels;  /* one class number per image, 0 … classes-1, of a model of classes */
    size_t label_count;     /* at least 1; more than the bundle's max_batch run in chunks */
    uint64_t seed;          /* default 0 */
    uint64_t first_index;   /* image index of the first image, which depends only on seed, index and label (or text) */
    const char *sampling;   /* name of one of the bundle's sampling settings; NULL for the first */
    const himar_hi_mar_settings *hi_mar; /* changes to that setting of a hi_mar model; NULL for none */
    himar_step_callback on_step;         /* NULL for none */
    void *user;                          /* passed to on_step */
    const himar_draws *draws; /* numbers instead of the seed's, which must stay 0; NULL to draw from the seed */
    const himar_hmar_settings *hmar; /* changes to that setting of an hmar model; NULL for none */
    /* Of a model from text, in place of labels: prompts, where the bundle has a text encoder, or contexts. */
    const char *const *prompts; /* one text per image, UTF-8; NULL for none */
    size_t prompt_count;
    const float *contexts; /* float32 (context_count, K, W), the last hidden state of the model's text tower; NULL for none */
    size_t context_count;
    /* For images that are not one seed's from first_index on, such as those of several callers that run together. Each
     * image is the one that its seed, index and label give alone. */
    const uint64_t *seeds;   /* one seed per image in place of `seed`, which must stay 0; without indices every image
                              * then has the index first_index; NULL for one seed */
    size_t seed_count;
    const uint32_t *indices; /* one image index per image in place of first_index, which must stay 0; NULL to count on */
    size_t index_count;
} himar_generate_params;

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_generate_params_init(himar_generate_params *params);

/* Images of which a part is drawn anew. Fill it with himar_edit_params_init, then set images, masks and their shapes, and
 * whatever else differs. Only read. */
typedef struct himar_edit_params {
    size_t struct_size;     /* sizeof(himar_edit_params), set by the init function: keep it */
    const uint8_t *images;  /* pixels, uint8 (B, H, W, 3), RGB, of the model's size */
    int64_t image_shape[4]; /* of images: what himar_result_images gives fits */
    const uint8_t *masks;   /* uint8 (B, H, W), or (1, H, W), which serves all images: pixels that are not 0 are drawn */
    int64_t mask_shape[3];  /* of masks */
    int64_t dilation; /* of hi_mar, rings of cells around a mask's that are drawn too, 0 to the model's image_size: what is
                       * kept has then seen less of the hole. Their pixels outside the mask stay all the same */
    int64_t feather;  /* pixels inside a mask's border, 0 to image_size, over which what is drawn is blended into what was
                       * there; 0 pastes it */
} himar_edit_params;

/* Set every field to its default. HIMAR_ERROR_INPUT for NULL. */
HIMAR_API himar_status himar_edit_params_init(himar_edit_params *params);

/* Write the parameters as one line of NUL-terminated text into `text` of `capacity` bytes, truncated if it does not
 * fit. `needed`, unless NULL, receives the size of the whole text with its NUL; `text` may be NULL if capacity is 0. */
HIMAR_API himar_status himar_generate_params_to_string(const himar_generate_params *params, char *text,
                                                       size_t capacity, size_t *needed);
HIMAR_API himar_status himar_load_params_to_string(const himar_load_params *params, char *text, size_t capacity,
                                                   size_t *needed);

/* Open and verify the bundle in folder `path` (schema, paths, size and SHA-256 of every file) and load its engines.
 * `params` may be NULL. Errors: HIMAR_ERROR_BUNDLE, HIMAR_ERROR_ENGINE, HIMAR_ERROR_INPUT for the parameters.
 *
 * HIMAR_ERROR_ENGINE also where the memory that is left is clearly too little for the engines and a run of one image; where
 * it is tight, or too little for max_batch images at once, there is a warning (docs/memory.md). HIMAR_MEMORY_LIMIT in the
 * environment, GB such as 1.5, is the most to count on; none loads without a look at the memory. */
HIMAR_API himar_status himar_pipeline_load(const char *path, const himar_load_params *params,
                                           himar_pipeline **pipeline);

/* himar_pipeline_load for a server, which asks for the memory of all its runs at once: of `lanes` pipelines, 1 to 65536, this
 * one and its clones, that each run `batch` images at once. 0 images takes the largest batch, at most the bundle's max_batch,
 * for which there is room, at least 1; a smaller one than max_batch is said in a warning. `taken` receives what was taken.
 * HIMAR_ERROR_INPUT also for a batch above max_batch. The first lanes - 1 clones ask for no memory again. */
HIMAR_API himar_status himar_pipeline_load_lanes(const char *path, const himar_load_params *params, int64_t lanes,
                                                 int64_t batch, int64_t *taken, himar_pipeline **pipeline);

/* Make a pipeline for another thread: it shares the engines' weights and has its own buffers. The original may be
 * generating, and may be freed before its clones. HIMAR_ERROR_ENGINE also where the memory that is left is clearly too
 * little for the runs of another. */
HIMAR_API himar_status himar_pipeline_clone(const himar_pipeline *pipeline, himar_pipeline **clone);

/* Free a pipeline; its results stay valid. NULL is allowed. From the pipeline's own callback it frees nothing and
 * returns HIMAR_ERROR_INPUT. */
HIMAR_API himar_status himar_pipeline_free(himar_pipeline *pipeline);

/* A bundle's model. */
typedef struct himar_pipeline_info {
    size_t struct_size;       /* set it to sizeof(himar_pipeline_info) before the call */
    int64_t classes;          /* labels are 0 … classes-1; 0 for a model from text */
    int64_t image_size;       /* H = W, pixels */
    int64_t channels;         /* C */
    int64_t latent_size;      /* h = w */
    int64_t low_latent_size;  /* s; 0 for a model of a single scale, and of hmar */
    int64_t max_batch;        /* images that run together */
    int32_t has_decoder;      /* 0: the bundle produces latents, not images */
    const char *bundle_id;    /* SHA-256 of the manifest, which holds every file's hash; lives as long as the pipeline */
    const char *sampling;     /* names of the sampling settings, separated by ", "; the first is the default */
    /* since interface 2 */
    const char *family;       /* "hi_mar" or "hmar": which settings struct himar_generate_params takes */
    const char *stages;       /* names of the stages in order, separated by ", " */
    int64_t context_length;   /* K, rows of an image's context; 0 for a model of classes */
    int64_t context_width;    /* W */
    int32_t takes_prompts;    /* 0: the bundle has no text encoder, so it takes labels or contexts alone */
} himar_pipeline_info;

/* Fill `info`, or what fits of it into an earlier header's smaller struct. HIMAR_ERROR_INPUT for NULL or a struct_size
 * that no header had. */
HIMAR_API himar_status himar_pipeline_get_info(const himar_pipeline *pipeline, himar_pipeline_info *info);

/* Put the name of class `label` into `name`, UTF-8, alive as long as the pipeline; NULL if the bundle names no classes.
 * HIMAR_ERROR_INPUT for a number that is not a class. */
HIMAR_API himar_status himar_pipeline_get_class_name(const himar_pipeline *pipeline, int64_t label, const char **name);

/* Find the class that a person's `text`, UTF-8, names: by its number (digits are always one), its name, or a beginning that
 * is one name's alone; A to Z in either case. HIMAR_ERROR_INPUT for any other text: the sentence names the nearest names,
 * or those that it could be. The search for the nearest may take tenths of a second. */
HIMAR_API himar_status himar_pipeline_find_class(const himar_pipeline *pipeline, const char *text, int64_t *label);

/* Check a request as himar_pipeline_generate does before it runs anything: HIMAR_ERROR_INPUT with the same message, or
 * HIMAR_OK. Nothing runs; any thread may call it at any time, even during a generation. */
HIMAR_API himar_status himar_pipeline_check(const himar_pipeline *pipeline, const himar_generate_params *params);

/* The settings that a request would run with, as JSON with all values in the order of recipes; of `params` only those that
 * choose and change a setting are looked at. Requests with equal settings can be one request, with `seeds` and `indices`:
 * each image is the same. Written as by himar_generate_params_to_string. HIMAR_ERROR_INPUT as himar_pipeline_check. */
HIMAR_API himar_status himar_pipeline_get_settings(const himar_pipeline *pipeline, const himar_generate_params *params,
                                                   char *text, size_t capacity, size_t *needed);

/* Generate one image per label, prompt or context; see himar_generate_params. Calls on one pipeline wait for each other.
 * HIMAR_OK and HIMAR_CANCELLED return a result; every other status leaves `result` untouched. */
HIMAR_API himar_status himar_pipeline_generate(himar_pipeline *pipeline, const himar_generate_params *params,
                                               himar_result **result);

/* Draw a part of each image anew, and leave the rest as it is, pixel by pixel (docs/editing.md). `params` are those of a
 * generation, but for labels and prompts: one class or text for each image, which it is to show, drawn with guidance; or
 * none, to draw what fits the rest without guidance. Contexts are not taken. An image depends on its seed, index, label (or
 * prompt), image, mask, dilation and feather only. Images of hi_mar whose masks leave other counts of positions have other
 * steps, so they run one after another; himar_progress tells of those that run. Statuses are those of
 * himar_pipeline_generate; HIMAR_ERROR_INPUT also for images, masks and labels that do not fit, and where the bundle lacks
 * what edits need. Previews in the size of the images show these as they are outside the masks. */
HIMAR_API himar_status himar_pipeline_edit(himar_pipeline *pipeline, const himar_generate_params *params,
                                           const himar_edit_params *edit, himar_result **result);

/* Check an edit as himar_pipeline_check does a generation. */
HIMAR_API himar_status himar_pipeline_check_edit(const himar_pipeline *pipeline, const himar_generate_params *params,
                                                 const himar_edit_params *edit);

/* The settings that an edit would run with, as himar_pipeline_get_settings has them, and under "edit" what else edits must
 * have in common that are to run together: dilation, feather, what they show, and the kinds of their images. Edits with
 * equal settings can be one request, with `seeds` and `indices`; where they have one kind, they run together as far as
 * max_batch goes. HIMAR_ERROR_INPUT as himar_pipeline_check_edit. */
HIMAR_API himar_status himar_pipeline_get_edit_settings(const himar_pipeline *pipeline, const himar_generate_params *params,
                                                        const himar_edit_params *edit, char *text, size_t capacity,
                                                        size_t *needed);

/* Make a result of `images` of a result's images alone, from number `first` on; its seconds are those of all. It belongs to
 * the caller, and lives on without the other. HIMAR_ERROR_INPUT when there are not so many. */
HIMAR_API himar_status himar_result_part(const himar_result *result, int64_t first, int64_t images, himar_result **part);

/* Free a result and everything its accessors returned. NULL is allowed. */
HIMAR_API himar_status himar_result_free(himar_result *result);

/* Pixels, uint8 (B, H, W, 3), RGB. HIMAR_ERROR_INPUT if the bundle has no VAE decoder. */
HIMAR_API himar_status himar_result_images(const himar_result *result, const uint8_t **pixels, int64_t shape[4]);

/* Latents, float32 (B, C, h, w), VAE scale removed: the input of a VAE decoder. */
HIMAR_API himar_status himar_result_latents(const himar_result *result, const float **latents, int64_t shape[4]);

/* Latents of hi_mar's phase low, float32 (B, C, s, s), VAE scale removed; s is 0 for a model of a single scale.
 * HIMAR_ERROR_INPUT for a model of another family. */
HIMAR_API himar_status himar_result_low_latents(const himar_result *result, const float **latents, int64_t shape[4]);

/* Codes of an hmar model, int64 (B, L), scale after scale and row by row; -1 of a smooth preview. HIMAR_ERROR_INPUT for a
 * model of another family. */
HIMAR_API himar_status himar_result_codes(const himar_result *result, const int64_t **codes, int64_t shape[2]);

/* Labels of the finished images, int64 (B); -1 of images from texts and of edits without a class. */
HIMAR_API himar_status himar_result_labels(const himar_result *result, const int64_t **labels, size_t *count);

/* Places, from 0, of the request's prompts that were longer than the model's context and lost their end. */
HIMAR_API himar_status himar_result_truncated(const himar_result *result, const size_t **places, size_t *count);

/* How image `index` was made, as JSON: seed, index, label, sampling, bundle, himar_version, for models of other
 * families than hi_mar family, of texts prompt, or context_sha256 of a context's float32 values, little-endian, and of
 * an edit the SHA-256 of the image and mask that it began with, its dilation and its feather. The text that himar's PNGs carry. HIMAR_ERROR_INPUT if
 * there is no such image. */
HIMAR_API himar_status himar_result_recipe(const himar_result *result, size_t index, const char **json);

/* Wall-clock seconds of the generation, and of the engines' runs within it: NaN on a GPU, where runs are queued and not
 * waited for. Either may be NULL. */
HIMAR_API himar_status himar_result_seconds(const himar_result *result, double *total, double *engines);

/* Wall-clock seconds of each stage in order, then of decoding: `count` is one more than himar_pipeline_info names stages.
 * They are those of all chunks, without the time in on_step; what comes before the first step, such as a text encoder,
 * counts to its stage. On a GPU they are cut one step late, as steps are told. `count` is 0 where no on_step was given. */
HIMAR_API himar_status himar_result_stage_seconds(const himar_result *result, const double **seconds, size_t *count);

/* A CLIP tokenizer, which turns prompts into rows of token ids. */
typedef struct himar_tokenizer himar_tokenizer;

/* What a tokenizer's rows are made of. */
typedef struct himar_tokenizer_info {
    size_t struct_size; /* set it to sizeof(himar_tokenizer_info) before the call */
    int64_t length;     /* K, tokens of a row, start and end among them */
    int64_t start, end; /* ids of the tokens around every prompt */
    int64_t padding;    /* id behind the end token */
} himar_tokenizer_info;

/* Open the tokenizer of folder `path`: a CLIP model's in Hugging Face's layout, with vocab.json and merges.txt, merges.txt
 * alone or tokenizer.json alone; padding and length come from tokenizer_config.json and its like, where they are. Or a
 * bundle's, which is checked as himar_pipeline_load does.
 * HIMAR_ERROR_BUNDLE if a file is missing, damaged or another tokenizer's; HIMAR_ERROR_INPUT for a tokenizer that repairs
 * text by ftfy, which only himar's Python runtime does. */
HIMAR_API himar_status himar_tokenizer_open(const char *path, himar_tokenizer **tokenizer);

/* Free a tokenizer. NULL is allowed. */
HIMAR_API himar_status himar_tokenizer_free(himar_tokenizer *tokenizer);

/* Fill `info`. HIMAR_ERROR_INPUT for NULL or another struct_size. */
HIMAR_API himar_status himar_tokenizer_get_info(const himar_tokenizer *tokenizer, himar_tokenizer_info *info);

/* Encode `count` prompts, UTF-8, of `bytes` (count) each, or NUL-terminated where that is NULL. Any number of threads may
 * use one tokenizer. Each of these may be NULL:
 * ids        int64 (count, K): start, the prompt's tokens, end, then padding
 * sizes      (count): tokens of each row before the padding
 * truncated  (count): 1 for a prompt of which only the first K - 2 tokens were kept, else 0
 * HIMAR_ERROR_INPUT, naming the prompt by its place from 0: one that is not UTF-8, or holds a start or end token as text. */
HIMAR_API himar_status himar_tokenizer_encode(const himar_tokenizer *tokenizer, const char *const *prompts,
                                              const size_t *bytes, size_t count, int64_t *ids, size_t *sizes,
                                              uint8_t *truncated);

#ifdef __cplusplus
}
#endif

#endif
