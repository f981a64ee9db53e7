/* The C interface from C: himar-c-example BUNDLE LABEL SEED OUT.ppm draws one image, reporting its steps. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "himar/himar.h"

static int report(const himar_progress *progress, void *user) {
    int *steps = user;
    ++*steps;
    fprintf(stderr, "step %lld of %lld (%s)\n", (long long)progress->done, (long long)progress->total,
            progress->stage_name);
    return 1; /* continue */
}

static int failed(const char *what, himar_status status) {
    fprintf(stderr, "%s: %s: %s\n", what, himar_status_to_string(status), himar_last_error());
    return 1;
}

static int write_ppm(const char *path, const uint8_t *pixels, const int64_t shape[4]) {
    const size_t size = (size_t)(shape[1] * shape[2] * shape[3]);
    FILE *file = fopen(path, "wb");
    int good = file != NULL && fprintf(file, "P6\n%lld %lld\n255\n", (long long)shape[2], (long long)shape[1]) > 0 &&
               fwrite(pixels, 1, size, file) == size;
    if (file != NULL && fclose(file) != 0) good = 0;
    if (!good) fprintf(stderr, "%s cannot be written: %s\n", path, strerror(errno));
    return good ? 0 : 1;
}

int main(int count, char **arguments) {
    himar_pipeline *pipeline = NULL;
    himar_result *result = NULL;
    himar_generate_params params;
    himar_status status;
    const uint8_t *pixels = NULL;
    int64_t shape[4], label;
    int steps = 0, code;

    if (count != 5) {
        fprintf(stderr, "use: %s BUNDLE LABEL SEED OUT.ppm\n", arguments[0]);
        return 2;
    }
    status = himar_pipeline_load(arguments[1], NULL, &pipeline);
    if (status != HIMAR_OK) return failed("load", status);

    label = strtoll(arguments[2], NULL, 10);
    himar_generate_params_init(&params);
    params.labels = &label;
    params.label_count = 1;
    params.seed = strtoull(arguments[3], NULL, 10);
    params.on_step = report;
    params.user = &steps;
    status = himar_pipeline_generate(pipeline, &params, &result);
    if (status == HIMAR_OK) status = himar_result_images(result, &pixels, shape);
    code = status == HIMAR_OK ? write_ppm(arguments[4], pixels, shape) : failed("generate", status);
    if (code == 0) printf("%s: %d steps, %s\n", himar_build_info(), steps, arguments[4]);
    himar_result_free(result);
    himar_pipeline_free(pipeline);
    return code;
}
