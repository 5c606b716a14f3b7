/* SPDX-License-Identifier: MIT */
/* AVX2 with FMA: 8 floats a register, 16 registers, mask vectors for the tails. Any thread. */
#include <immintrin.h>

#include "core/tensor/kernels.h"

#define LANES 8
#define TILE 12 /* + 1 of weights, 1 of a row */

typedef __m256 vec;
typedef __m256d vecd;

#define vload(p) _mm256_loadu_ps(p)
#define vstore(p, v) _mm256_storeu_ps(p, v)
#define vload_half(p) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(p)))
#define vstore_half(p, v) _mm_storeu_si128((__m128i *)(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT))
#define vset(x) _mm256_set1_ps(x)
#define vadd(a, b) _mm256_add_ps(a, b)
#define vsub(a, b) _mm256_sub_ps(a, b)
#define vmul(a, b) _mm256_mul_ps(a, b)
#define vdiv(a, b) _mm256_div_ps(a, b)
#define vmax(a, b) _mm256_max_ps(a, b)
#define vfma(a, b, c) _mm256_fmadd_ps(a, b, c)
#define vsetd(x) _mm256_set1_pd(x)
#define vhas_nan(v) (_mm256_movemask_ps(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)) != 0)

static inline __m256i first(int n)
{
    static const int ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(ones + LANES - n));
}

static inline vec vload_n(const float *p, int n)
{
    return _mm256_maskload_ps(p, first(n));
}

static inline void vstore_n(float *p, vec v, int n)
{
    _mm256_maskstore_ps(p, first(n), v);
}

static inline float vlargest(vec v)
{
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
}

static inline int vfind(vec v, float x)
{
    int m = _mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_set1_ps(x), _CMP_EQ_OQ));
    return m ? __builtin_ctz((unsigned)m) : -1;
}

#include "core/tensor/exp_poly.h"

/* 2^n for the whole numbers -126 .. 127. */
static inline vec power_of_two(__m256i n)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* The same polynomial as in kernels_avx512.c. 2^n is applied in two halves: the first is exact, the second rounds
 * once where the result is denormal and reaches 0 and inf beyond the range. */
static inline vec vexp(vec x)
{
    x = _mm256_max_ps(_mm256_set1_ps(-110.0f), _mm256_min_ps(_mm256_set1_ps(90.0f), x));
    vec n = _mm256_round_ps(_mm256_mul_ps(x, _mm256_set1_ps(1.44269504f)), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    vec r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);
    r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
    vec p = exp_poly(r);
    __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(p, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}

static inline float vsum(vec v)
{
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

/* ---- bf16 in registers of 32-bit lanes ---- */

static inline vec even_of(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
}

static inline vec odd_of(__m256i pairs)
{
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32((int)0xffff0000)));
}

#define veven(p) even_of(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define vodd(p) odd_of(_mm256_loadu_si256((const __m256i *)(const void *)(p)))
#define veven_all(p) even_of(_mm256_set1_epi32(*(const int *)(const void *)(p)))
#define vodd_all(p) odd_of(_mm256_set1_epi32(*(const int *)(const void *)(p)))

static inline void vstore_bf16(uint16_t *p, vec v)
{
    __m256i u = _mm256_castps_si256(v), tie = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    __m256i near = _mm256_srli_epi32(_mm256_add_epi32(u, _mm256_add_epi32(tie, _mm256_set1_epi32(0x7fff))), 16);
    __m256i quiet = _mm256_or_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(0x40));
    near = _mm256_blendv_epi8(near, quiet, _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q)));
    near = _mm256_permute4x64_epi64(_mm256_packus_epi32(near, near), 0x08);
    _mm_storeu_si128((__m128i *)p, _mm256_castsi256_si128(near));
}

/* Magnitudes compare as integers, a NaN above all: then the scale is none. */
static inline int quantise_block(int8_t *q, const float *x, float *scale)
{
    __m256i top = _mm256_setzero_si256(), sum = top, code[4];
    for (int i = 0; i < 4; i++) top = _mm256_max_epi32(top, _mm256_and_si256(_mm256_castps_si256(vload(x + 8 * i)), _mm256_set1_epi32(0x7fffffff)));
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(top), _mm256_extracti128_si256(top, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    float largest = _mm_cvtss_f32(_mm_castsi128_ps(t));
    bool good = largest > AD_ACT_TINY && largest <= 3.4028235e38f;
    vec by = _mm256_set1_ps(good ? 127.0f / largest : 0);
    *scale = largest <= 3.4028235e38f ? largest / 127.0f : __builtin_nanf("");
    for (int i = 0; i < 4; i++) {
        code[i] = good ? _mm256_cvtps_epi32(_mm256_mul_ps(vload(x + 8 * i), by)) : _mm256_setzero_si256();
        sum = _mm256_add_epi32(sum, code[i]);
    }
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(code[0], code[1]), _mm256_packs_epi32(code[2], code[3]));
    bytes = _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256((__m256i *)q, bytes);
    t = _mm_add_epi32(_mm256_castsi256_si128(sum), _mm256_extracti128_si256(sum, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1));
    return _mm_cvtsi128_si32(t);
}

static inline void vadd_f64(vecd s[2], vec v)
{
    s[0] = _mm256_add_pd(s[0], _mm256_cvtps_pd(_mm256_castps256_ps128(v)));
    s[1] = _mm256_add_pd(s[1], _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
}

static inline double vsum_f64(const vecd s[2])
{
    vecd t = _mm256_add_pd(s[0], s[1]);
    __m128d h = _mm_add_pd(_mm256_castpd256_pd128(t), _mm256_extractf128_pd(t, 1));
    return _mm_cvtsd_f64(_mm_add_sd(h, _mm_unpackhi_pd(h, h)));
}

#include "core/tensor/kernels_vec.h"

/* ---- integer GEMMs ---- */

/* Products of bytes come in 16-bit pairs here: 15 * 127 * 2 fits, and so does 127 * 127 * 2, but 255 * 127 * 2 would not.
 * So INT8 multiplies |x| by the weight with the sign of x, and needs no start value. */
#define qstart(p) _mm256_setzero_si256()
#define qdot4(s, w, p) _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(w, qall(p)), _mm256_set1_epi16(1)))
#define qdot8(s, w, p) signed_dot(s, w, qall(p))

static inline __m256i signed_dot(__m256i s, __m256i w, __m256i x)
{
    __m256i value = _mm256_xor_si256(w, _mm256_set1_epi8(-128));
    return _mm256_add_epi32(s, _mm256_madd_epi16(_mm256_maddubs_epi16(_mm256_abs_epi8(x), _mm256_sign_epi8(value, x)), _mm256_set1_epi16(1)));
}

#include "core/tensor/kernels_quant256.h"

void ad_kernels_init_avx2(ad_kernels *k)
{
    fill(k, "avx2");
    fill_quant(k);
}
