/* SPDX-License-Identifier: MIT */
/* What the kernels reach: against OpenBLAS, and decode of one stream against the bandwidth of this machine's memory,
 * measured alternately in one run, medians. */
#include "tests/kernels/measure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/team.h"
#include "core/tensor/gemm.h"
#include "tests/unit/golden.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

/* ---- kernels ---- */

typedef void (*gemm_fn)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k);

static double time_gemm(gemm_fn f, float *y, const float *x, const float *w, int m, int n, int k)
{
    double start = now();
    int runs = 0;
    do f(y, (size_t)n, x, (size_t)k, w, m, n, k), runs++;
    while (now() - start < 0.02);
    return (now() - start) / runs;
}

static void bench_gemm(const ad_kernels *kn, int m, int n, int k)
{
    enum { ROUNDS = 7 };
    double ours[ROUNDS], blas[ROUNDS], flops = 2.0 * m * n * k;
    float *x = calloc((size_t)(m * k), 4), *w = calloc((size_t)n * (size_t)k, 4), *y = calloc((size_t)(m * n), 4);
    for (int i = 0; i < m * k; i++) x[i] = (float)(i % 7);
    for (int i = 0; i < n * k; i++) w[i] = (float)(i % 5);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = time_gemm(kn->gemm_nt, y, x, w, m, n, k);
        blas[i] = time_gemm(ad_gemm_blas_nt, y, x, w, m, n, k);
    }
    double a = median(ours, ROUNDS), b = median(blas, ROUNDS);
    printf("gemm_nt %-7s m %3d n %4d k %4d  %6.1f GFLOP/s  OpenBLAS %6.1f  ratio %.2f\n", kn->name, m, n, k, flops / a / 1e9, flops / b / 1e9, b / a);
    free(x), free(w), free(y);
}

int bench_kernels(void)
{
    unsigned here = ad_cpu_detect(), masks[] = {0, AD_CPU_AVX2, AD_CPU_AVX2 | AD_CPU_AVX512};
    printf("%s; one thread\n", ad_gemm_blas_name());
    for (int i = 0; i < 3; i++) {
        ad_kernels kn;
        if ((masks[i] & here) != masks[i]) continue;
        ad_kernels_init(&kn, masks[i]);
        for (int m = 1; m <= 64; m *= 4) bench_gemm(&kn, m, 1536, 576);
        bench_gemm(&kn, 64, 576, 1536);
    }
    return 0;
}

/* ---- decode against memory ---- */

typedef struct {
    const float *data;
    size_t n; /* a multiple of 64 per member */
    double *sums;
} sum_job;

/* Eight independent chains of vectors: the compiler keeps them in registers, memory is the limit. */
static void sum_part(void *arg, int index, int count)
{
    const sum_job *j = arg;
    typedef float vec16 __attribute__((vector_size(64)));
    size_t part = j->n / (size_t)count / 128 * 128;
    const vec16 *p = (const vec16 *)(j->data + part * (size_t)index);
    vec16 s[8] = {0};
    for (size_t i = 0; i < part / 16; i += 8)
        for (int c = 0; c < 8; c++) s[c] += p[i + (size_t)c];
    float total = 0;
    for (int c = 0; c < 8; c++)
        for (int l = 0; l < 16; l++) total += s[c][l];
    j->sums[index * 8] = (double)total;
}

/* Bytes of weights that one token reads: every linear layer, the head, its own row of the embedding. */
static double bytes_per_token(const ad_model *m)
{
    double bytes = 0;
    for (int i = 0; i < ad_model_module_count(m); i++) {
        const ad_module *mod = ad_model_module(m, i);
        if (mod->kind == AD_MOD_EMBED) bytes += 4.0 * mod->out;
        else bytes += 4.0 * mod->in * mod->out;
    }
    return bytes;
}

int bench_bandwidth(const char *path)
{
    enum { ROUNDS = 15, TOKENS = 4 };
    ad_err err;
    ad_model *m = NULL;
    int threads = ad_usable_cores();
    tu_rig r = {0};
    ad_kernels_init(&r.kernels, ad_cpu_detect());
    ad_status st = ad_model_load(&m, path, &(ad_model_options){.n_threads = threads}, &err);
    if (st == AD_OK) st = ad_team_new(&r.team, threads, &err);
    if (st == AD_OK) st = ad_scratch_new(&r.scratch, m, &r.kernels, r.team, 16, 16, 256, AD_KV_F32, &err);
    if (st != AD_OK) return fprintf(stderr, "%s\n", err.msg), 2;
    void **pages = tu_pages_new(m, 256);
    float *logits = calloc((size_t)ad_model_get_config(m)->vocab, sizeof *logits);
    size_t bytes = (size_t)512 << 20;
    float *data = ad_arena_new(bytes);
    memset(data, 0, bytes);
    double read[ROUNDS], decode[ROUNDS], *sums = calloc((size_t)threads * 8, sizeof *sums), per_token = bytes_per_token(m);
    sum_job job = {data, bytes / 4, sums};
    int position = 0, out = 0;
    for (int i = 0; i < ROUNDS; i++) {
        double start = now();
        ad_team_run(r.team, sum_part, &job);
        read[i] = (double)bytes / (now() - start);
        start = now();
        for (int t = 0; t < TOKENS; t++, position++) {
            int32_t token = 17 + position;
            void *const *p = pages;
            const ad_mix *none = NULL;
            const ad_merged *pristine = NULL;
            ad_model_step(m, r.scratch, &(ad_step_batch){.n_rows = 1, .tokens = &token, .positions = &position, .pages = &p, .mixes = &none, .merged = &pristine,
                                                         .n_out = 1, .out_rows = &out, .logits = logits});
        }
        decode[i] = per_token * TOKENS / (now() - start);
    }
    double b = median(read, ROUNDS) / 1e9, d = median(decode, ROUNDS) / 1e9;
    printf("%d threads, %s kernels: memory reads %.1f GB/s; decode of one f32 stream reads %.1f GB/s (%.1f tokens/s); ratio %.2f\n", threads, r.kernels.name,
           b, d, d * 1e9 / per_token, d / b);
    free(sums), free(logits);
    ad_arena_free(data, bytes);
    tu_pages_free(pages);
    tu_rig_close(&r);
    ad_model_free(&m);
    return d / b >= 0.5 ? 0 : 1;
}
