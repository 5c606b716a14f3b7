/* SPDX-License-Identifier: MIT */
/* 256-bit registers for kernels_quant.h; the including file defines QDOT8 and QDOT4 (and qstart) in its instructions. */
#define QLANES 8
#define QROWS 4

typedef __m256i qvec;
typedef __m256 fvec;

#define qload(p) _mm256_loadu_si256((const __m256i *)(p))
#define qlow(v) _mm256_and_si256(v, _mm256_set1_epi8(15))
#define qhigh(v) _mm256_and_si256(_mm256_srli_epi16(v, 4), _mm256_set1_epi8(15))
#define qfloat(s) _mm256_cvtepi32_ps(s)
#define fmul(a, b) _mm256_mul_ps(a, b)
#define ffma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define fhalf(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define fload(p) _mm256_loadu_ps((const float *)(const void *)(p))
#define fall(p) _mm256_broadcast_ss((const float *)(const void *)(p))
#define fzero _mm256_setzero_ps()

static inline qvec qall(const void *p)
{
    int v;
    __builtin_memcpy(&v, p, 4);
    return _mm256_set1_epi32(v);
}

static inline void fstore_n(float *p, fvec v, int n)
{
    static const int ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    _mm256_maskstore_ps(p, _mm256_loadu_si256((const __m256i *)(ones + 8 - n)), v);
}

#include "core/tensor/kernels_quant.h"
