/* Draws one image from C and writes a PPM: digits-c BUNDLE LABEL OUT.ppm */
#include <stdio.h>
#include <stdlib.h>

#include "himar/himar.h"

int main(int count, char **arguments) {
    himar_pipeline *pipeline = NULL;
    himar_result *result = NULL;
    himar_generate_params params;
    const uint8_t *pixels;
    int64_t shape[4], label;

    if (count != 4) return fprintf(stderr, "use: %s BUNDLE LABEL OUT.ppm\n", arguments[0]), 2;
    label = strtoll(arguments[2], NULL, 10);
    himar_generate_params_init(&params);
    params.labels = &label;
    params.label_count = 1;
    params.seed = 7;
    if (himar_pipeline_load(arguments[1], NULL, &pipeline) != HIMAR_OK ||
        himar_pipeline_generate(pipeline, &params, &result) != HIMAR_OK ||
        himar_result_images(result, &pixels, shape) != HIMAR_OK)
        return fprintf(stderr, "error: %s\n", himar_last_error()), 1;

    FILE *file = fopen(arguments[3], "wb");
    if (file == NULL) return perror(arguments[3]), 1;
    fprintf(file, "P6\n%d %d\n255\n", (int)shape[2], (int)shape[1]);
    fwrite(pixels, 1, (size_t)(shape[1] * shape[2] * shape[3]), file);
    if (fclose(file) != 0) return perror(arguments[3]), 1;
    himar_result_free(result);
    himar_pipeline_free(pipeline);
    return 0;
}
