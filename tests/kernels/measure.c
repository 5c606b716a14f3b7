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

enum { ROUNDS = 5, COPIES = 96 }; /* of the weights: more than the caches hold */

/* One weight matrix in one type, and rows of activations for it. */
typedef struct {
    ad_matrix w;
    char *data, *x;
    float *y;
    size_t ldx, ldy, bytes;
} problem;

static problem new_problem(ad_pack type, int m, int n, int k)
{
    ad_kernels c;
    problem p = {.bytes = ad_pack_bytes(type, n, k), .ldx = ad_act_stride(ad_act_of(type), k), .ldy = (size_t)n + 16};
    float *row = calloc(AD_PANEL * (size_t)k, sizeof *row);
    ad_kernels_init(&c, 0);
    p.data = ad_arena_new(p.bytes * COPIES);
    p.x = ad_arena_new(p.ldx * (size_t)m);
    p.y = ad_arena_new(p.ldy * (size_t)m * sizeof *p.y);
    p.w = ad_matrix_at(type, n, k, p.data);
    for (int i = 0; i < AD_PANEL * k; i++) row[i] = (float)(i % 15 - 7);
    for (size_t at = 0; at < p.bytes * COPIES; at += p.w.panel_bytes)
        if (!ad_pack_panel(type, p.data + at, row, AD_PANEL, k)) abort();
    for (int i = 0; i < m; i++) {
        char *x = p.x + (size_t)i * p.ldx;
        if (ad_act_of(type) == AD_ACT_F32) memcpy(x, row, (size_t)k * sizeof *row);
        if (ad_act_of(type) == AD_ACT_BF16) c.to_bf16((uint16_t *)(void *)x, row, k);
        if (ad_act_of(type) == AD_ACT_INT8) c.quantise(x, row, 0, k, k);
    }
    free(row);
    return p;
}

static void free_problem(problem *p, int m)
{
    ad_arena_free(p->data, p->bytes * COPIES);
    ad_arena_free(p->x, p->ldx * (size_t)m);
    ad_arena_free(p->y, p->ldy * (size_t)m * sizeof *p->y);
}

/* Seconds of one GEMM; `copies` 1: the weights stay in the cache. */
static double time_gemm(const ad_kernels *kn, const problem *p, int m, int copies)
{
    double start = now();
    int runs = 0;
    do {
        kn->gemm[p->w.type](p->y, p->ldy, p->x, p->ldx, p->data + (size_t)(runs % copies) * p->bytes, p->w.panel_bytes, m, p->w.rows, p->w.cols, false);
        runs++;
    } while (runs < copies || now() - start < 0.01);
    return (now() - start) / runs;
}

static void bench_gemm(const ad_kernels *kn, ad_pack type, int m, int n, int k)
{
    double cached[ROUNDS], streamed[ROUNDS], ops = 2.0 * m * n * k;
    problem p = new_problem(type, m, n, k);
    for (int i = 0; i < ROUNDS; i++) {
        cached[i] = time_gemm(kn, &p, m, 1);
        streamed[i] = time_gemm(kn, &p, m, COPIES);
    }
    double c = median(cached, ROUNDS), s = median(streamed, ROUNDS);
    printf("%-5s %-17s m %3d n %4d k %4d   cached %6.1f Gop/s   from memory %6.1f Gop/s %5.1f GB/s\n", ad_pack_name(type), kn->name, m, n, k, ops / c / 1e9, ops / s / 1e9, (double)p.bytes / s / 1e9);
    free_problem(&p, m);
}

static double time_blas(const problem *p, const float *w, int m)
{
    double start = now();
    int runs = 0;
    do ad_gemm_blas_nt(p->y, p->ldy, (const float *)(const void *)p->x, p->ldx / sizeof(float), w, m, p->w.rows, p->w.cols), runs++;
    while (now() - start < 0.01);
    return (now() - start) / runs;
}

static void bench_blas(const ad_kernels *kn, int m, int n, int k)
{
    double ours[ROUNDS], blas[ROUNDS], ops = 2.0 * m * n * k;
    problem p = new_problem(AD_PACK_F32, m, n, k);
    for (int i = 0; i < ROUNDS; i++) {
        ours[i] = time_gemm(kn, &p, m, 1);
        blas[i] = time_blas(&p, (const float *)(const void *)p.data, m);
    }
    double a = median(ours, ROUNDS), b = median(blas, ROUNDS);
    printf("f32   %-17s m %3d n %4d k %4d   %6.1f GFLOP/s   OpenBLAS %6.1f   ratio %.2f\n", kn->name, m, n, k, ops / a / 1e9, ops / b / 1e9, b / a);
    free_problem(&p, m);
}

int bench_kernels(void)
{
    const unsigned wide = AD_CPU_AVX2 | AD_CPU_AVX512, masks[] = {0, AD_CPU_AVX2, wide, wide | AD_CPU_AVX512_VNNI | AD_CPU_AVX512_BF16};
    unsigned here = ad_cpu_detect();
    printf("%s; one thread; medians of %d\n", ad_gemm_blas_name(), ROUNDS);
    for (int i = 0; i < 4; i++) {
        ad_kernels kn;
        if ((masks[i] & here) != masks[i]) continue;
        ad_kernels_init(&kn, masks[i]);
        for (int type = 0; type < AD_PACK_KINDS; type++)
            for (int m = 1; m <= (i ? 256 : 4); m *= 4) bench_gemm(&kn, (ad_pack)type, m, 1536, 576);
        for (int m = 1; m <= 64; m *= 8) bench_blas(&kn, m, 1536, 576);
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

int bench_bandwidth(const char *path)
{
    enum { TURNS = 15, TOKENS = 8 };
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
    double read[TURNS], decode[TURNS], *sums = calloc((size_t)threads * 8, sizeof *sums), per_token = (double)ad_model_resident_bytes(m); /* the embedding is the head */
    sum_job job = {data, bytes / 4, sums};
    int position = 0, out = 0;
    for (int i = 0; i < TURNS; i++) {
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
    double b = median(read, TURNS) / 1e9, d = median(decode, TURNS) / 1e9;
    printf("%d threads, %s kernels: memory reads %.1f GB/s; decode of one stream reads %.1f GB/s (%.1f tokens/s); ratio %.2f\n", threads, r.kernels.name,
           b, d, d * 1e9 / per_token, d / b);
    free(sums), free(logits);
    ad_arena_free(data, bytes);
    tu_pages_free(pages);
    tu_rig_close(&r);
    ad_model_free(&m);
    return d / b >= 0.5 ? 0 : 1;
}
