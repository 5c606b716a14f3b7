/* SPDX-License-Identifier: MIT */
/* The kernel table: plain C defines each answer, CPU-specific files replace slots at start. Any thread;
 * no slot allocates or locks. Every slot reduces in an order fixed by the shape of ONE row (k, never n), so a
 * row's result does not depend on which or how many other rows are in the call, bit for bit. */
#ifndef AD_TENSOR_KERNELS_H
#define AD_TENSOR_KERNELS_H

#include <stdbool.h>
#include <stddef.h>

/* CPU features, detected at run time; a mask may switch some off (tests, --cpu-features). */
enum {
    AD_CPU_AVX2 = 1,   /* AVX2 + FMA + F16C */
    AD_CPU_AVX512 = 2, /* AVX-512 F/BW/DQ/VL */
    AD_CPU_AVX512_VNNI = 4,
    AD_CPU_AVX512_BF16 = 8,
    AD_CPU_AVX_VNNI = 16,
};
unsigned ad_cpu_detect(void);
/* "auto" (what is detected), "none", or names joined by commas: "avx2,avx512". False when a name is unknown;
 * *mask is then untouched. Names need not be present on this CPU: the caller compares with ad_cpu_detect. */
bool ad_cpu_parse(const char *list, unsigned *mask);
const char *ad_cpu_name(unsigned bit); /* "avx2" and so on, for one bit of the mask */

typedef struct {
    const char *name; /* "c", "avx2", "avx512": for logs and /metrics */

    /* y[m, n] (row stride ldy) = x[m, k] (row stride ldx) * w[n, k]^T (row-major, stride k). f32. */
    void (*gemm_nt)(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k);

    /* y[m, n] += t[m, r] (row stride ldt) * bt[r, n] (row stride ldb); per element the r products are
     * added in ascending order of r, starting from y. The expand of a low-rank correction. */
    void (*expand_add)(float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int m, int n, int r);

    /* y[k] = w[k] * x[k] / sqrt(mean(x^2) + eps). */
    void (*rmsnorm)(float *y, const float *x, const float *w, int k, float eps);

    /* Rotate-half in place: for i < half: (v[i], v[i+half]) turned by the angle of cos[i], sin[i]. */
    void (*rope)(float *v, const float *cos, const float *sin, int half);

    /* gate[k] = silu(gate[k]) * up[k]. */
    void (*swiglu)(float *gate, const float *up, int k);

    /* y[k] += x[k]. */
    void (*add)(float *y, const float *x, int k);

    /* One query row over a paged KV cache, for the `group` query heads that share one kv head:
     * q, out: [group, hd]; keys, vals: n_pages pointers to contiguous [page_len, hd] blocks of that kv head, f32 or (half)
     * IEEE half; n_ctx = number of positions to attend (the last page may be partial).
     * score = scale * q.k, softmax in f32, out = sum p v. tmp: group * (n_ctx rounded up to 16) + page_len * hd floats. */
    void (*attend)(float *out, const float *q, const void *const *keys, const void *const *vals, bool half, int page_len, int n_ctx, int group,
                   int hd, float scale, float *tmp);

    /* dst[n] = src[n] as IEEE half, nearest even; too large becomes infinite. */
    void (*to_half)(void *dst, const float *src, int n);

    /* Index of the largest value (lowest index on ties); *max gets it. NaN anywhere gives -1. */
    int (*argmax)(const float *x, int n, float *max);
    /* sum over i of exp(x[i] - max), in f64 partial sums of fixed order. */
    double (*sum_exp)(const float *x, int n, float max);
} ad_kernels;

/* Fills every slot with its C version, then overrides by what `cpu` (a mask of AD_CPU_*, all of which this CPU
 * must have) allows. */
void ad_kernels_init(ad_kernels *k, unsigned cpu);
void ad_kernels_init_avx2(ad_kernels *k);
void ad_kernels_init_avx512(ad_kernels *k);

#endif
