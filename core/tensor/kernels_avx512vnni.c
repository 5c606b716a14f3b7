/* SPDX-License-Identifier: MIT */
/* AVX-512 VNNI: 64 products of bytes in one instruction. Any thread. */
#include <immintrin.h>

#include "core/tensor/kernels.h"

#define QLANES 16
#define QROWS 8

typedef __m512i qvec;
typedef __m512 fvec;

#define qload(p) _mm512_loadu_si512(p)
#define qlow(v) _mm512_and_si512(v, _mm512_set1_epi8(15))
#define qhigh(v) _mm512_and_si512(_mm512_srli_epi16(v, 4), _mm512_set1_epi8(15))
#define qfloat(s) _mm512_cvtepi32_ps(s)
#define fmul(a, b) _mm512_mul_ps(a, b)
#define ffma(a, b, c) _mm512_fmadd_ps(a, b, c)
#define fhalf(p) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(p)))
#define fload(p) _mm512_loadu_ps(p)
#define fall(p) _mm512_set1_ps(*(const float *)(const void *)(p))
#define fzero _mm512_setzero_ps()
#define fstore_n(p, v, n) _mm512_mask_storeu_ps(p, (__mmask16)((1u << (n)) - 1), v)
#define qstart(p) _mm512_set1_epi32(*(const int *)(const void *)(p))

/* GCC 12 copies and spills the accumulators of the intrinsic in a tile; told the instruction, it does not. */
static inline __attribute__((always_inline)) qvec dot(qvec s, qvec w, const int *x)
{
#if defined(__clang__)
    return _mm512_dpbusd_epi32(s, w, _mm512_set1_epi32(*x));
#else
    __asm__("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(s) : "v"(w), "m"(*x));
    return s;
#endif
}
#define qdot8(s, w, p) dot(s, w, (const int *)(const void *)(p))
#define qdot4(s, w, p) qdot8(s, w, p)

#include "core/tensor/kernels_quant.h"

void ad_kernels_init_avx512vnni(ad_kernels *k)
{
    fill_quant(k);
    k->name = "avx512+vnni";
}
