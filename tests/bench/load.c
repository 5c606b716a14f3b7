/* SPDX-License-Identifier: MIT */
/* From files in the page cache to an adapter that is ready: load MODEL ADAPTER [ROUNDS, default 50 [read|mapped]]. Prints
 * medians of reading into own memory and of mapping. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/adapter.h"

typedef ad_status (*load_fn)(ad_adapter **out, const char *name, const char *path, const ad_model *base, ad_err *err);

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static int measure(const char *what, load_fn load, const ad_model *base, const char *path, int rounds)
{
    double *ms = calloc((size_t)rounds, sizeof *ms);
    ad_err err;
    size_t bytes = 0;
    for (int i = 0; ms && i < rounds; i++) {
        ad_adapter *a = NULL;
        double begin = now_ms();
        if (load(&a, "bench", path, base, &err) != AD_OK) {
            fprintf(stderr, "%s\n", err.msg);
            free(ms);
            return 1;
        }
        ms[i] = now_ms() - begin;
        bytes = ad_adapter_packed_bytes(a);
        ad_adapter_release(&a);
    }
    if (!ms) return 1;
    qsort(ms, (size_t)rounds, sizeof *ms, by_value);
    printf("%-8s median %.2f ms, least %.2f, most %.2f; %zu bytes packed\n", what, ms[rounds / 2], ms[0], ms[rounds - 1], bytes);
    free(ms);
    return 0;
}

int main(int argc, char **argv)
{
    ad_err err;
    ad_model *base = NULL;
    int rounds = argc > 3 ? atoi(argv[3]) : 50;
    if (argc < 3 || rounds < 1) {
        fputs("usage: load MODEL ADAPTER [ROUNDS [read|mapped]]\n", stderr);
        return 2;
    }
    double begin = now_ms();
    if (ad_model_load(&base, argv[1], &(ad_model_options){.n_threads = 2}, &err) != AD_OK) {
        fprintf(stderr, "%s\n", err.msg);
        return 1;
    }
    printf("model    %.1f ms\n", now_ms() - begin);
    const char *only = argc > 4 ? argv[4] : NULL;
    int bad = 0;
    if (!only || !strcmp(only, "read")) bad = measure("read", ad_adapter_load, base, argv[2], rounds);
    if (!only || !strcmp(only, "mapped")) bad |= measure("mapped", ad_adapter_load_mapped, base, argv[2], rounds);
    ad_model_free(&base);
    return bad;
}
