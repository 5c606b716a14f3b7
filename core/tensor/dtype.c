/* SPDX-License-Identifier: MIT */
/* Block formats of GGUF and their exact f32 values. Files are little-endian, and so are the machines we run on. */
#include "core/tensor/dtype.h"

#include <assert.h>
#include <math.h>
#include <string.h>

typedef struct { uint16_t d; uint8_t qs[16]; } q4_0;
typedef struct { uint16_t d, m; uint8_t qs[16]; } q4_1;
typedef struct { uint16_t d; uint8_t qh[4], qs[16]; } q5_0;
typedef struct { uint16_t d, m; uint8_t qh[4], qs[16]; } q5_1;
typedef struct { uint16_t d; int8_t qs[32]; } q8_0;
typedef struct { uint16_t d, dmin; uint8_t scales[12], qs[128]; } q4_k;
typedef struct { uint16_t d, dmin; uint8_t scales[12], qh[32], qs[128]; } q5_k;
typedef struct { uint8_t ql[128], qh[64]; int8_t scales[16]; uint16_t d; } q6_k;

static const struct { const char *name; int block; size_t bytes; } types[AD_DTYPE_COUNT] = {
    [AD_F32] = {"F32", 1, 4}, [AD_F16] = {"F16", 1, 2}, [AD_BF16] = {"BF16", 1, 2},
    [AD_Q8_0] = {"Q8_0", 32, sizeof(q8_0)}, [AD_Q4_0] = {"Q4_0", 32, sizeof(q4_0)}, [AD_Q4_1] = {"Q4_1", 32, sizeof(q4_1)},
    [AD_Q5_0] = {"Q5_0", 32, sizeof(q5_0)}, [AD_Q5_1] = {"Q5_1", 32, sizeof(q5_1)}, [AD_Q4_K] = {"Q4_K", 256, sizeof(q4_k)},
    [AD_Q5_K] = {"Q5_K", 256, sizeof(q5_k)}, [AD_Q6_K] = {"Q6_K", 256, sizeof(q6_k)},
    [AD_F64] = {"F64", 1, 8}, [AD_I64] = {"I64", 1, 8}, [AD_I32] = {"I32", 1, 4}, [AD_I16] = {"I16", 1, 2},
    [AD_I8] = {"I8", 1, 1}, [AD_U8] = {"U8", 1, 1}, [AD_BOOL] = {"BOOL", 1, 1},
};
_Static_assert(sizeof(q4_1) == 20 && sizeof(q5_1) == 24 && sizeof(q4_k) == 144 && sizeof(q5_k) == 176 && sizeof(q6_k) == 210, "file layouts");

const char *ad_dtype_name(ad_dtype t) { return types[t].name; }
int ad_dtype_block(ad_dtype t) { return types[t].block; }
size_t ad_dtype_block_bytes(ad_dtype t) { return types[t].bytes; }
bool ad_dtype_is_weight(ad_dtype t) { return t <= AD_Q6_K; }

int64_t ad_tensor_count(const ad_tensor *t)
{
    int64_t n = 1;
    for (int i = 0; i < t->n_dims; i++) n *= t->dims[i];
    return n;
}

static float bits_to_f32(uint32_t u)
{
    float f;
    memcpy(&f, &u, sizeof f);
    return f;
}

static uint32_t f32_to_bits(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return u;
}

/* Subnormals come out right because the multiplication by 2^112 is exact. */
float ad_f16_to_f32(uint16_t h)
{
    uint32_t magnitude = h & 0x7fffu, sign = (uint32_t)(h & 0x8000u) << 16;
    uint32_t u = magnitude >= 0x7c00u ? 0x7f800000u | (magnitude & 0x3ffu) << 13 : f32_to_bits(bits_to_f32(magnitude << 13) * 0x1p112f);
    return bits_to_f32(u | sign);
}

float ad_bf16_to_f32(uint16_t h) { return bits_to_f32((uint32_t)h << 16); }

uint16_t ad_f32_to_bf16(float f)
{
    uint32_t u = f32_to_bits(f);
    if (isnan(f)) return (uint16_t)(u >> 16 | 0x40);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

uint16_t ad_f32_to_f16(float f)
{
    uint32_t u = f32_to_bits(f), sign = u >> 16 & 0x8000u, a = u & 0x7fffffffu;
    if (a > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (a >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* 65520 and above round to infinity */
    if (a < 0x38800000u) {                                    /* subnormal: let the adder round at 2^-24 */
        float r = bits_to_f32(a) + 0.5f;
        return (uint16_t)(sign | (f32_to_bits(r) - f32_to_bits(0.5f)));
    }
    return (uint16_t)(sign | ((a + 0xfffu + (a >> 13 & 1)) - 0x38000000u) >> 13);
}

static void six_bit_scales(const uint8_t *s, int g, float *scale, float *min)
{
    int sc = g < 4 ? s[g] & 63 : (s[g + 4] & 15) | (s[g - 4] >> 6) << 4;
    int mn = g < 4 ? s[g + 4] & 63 : s[g + 4] >> 4 | (s[g] >> 6) << 4;
    *scale = (float)sc, *min = (float)mn;
}

static uint32_t high_bits(const uint8_t *qh)
{
    uint32_t h;
    memcpy(&h, qh, sizeof h);
    return h;
}

static void dequant_q4_0(float *y, const q4_0 *b)
{
    float d = ad_f16_to_f32(b->d);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b->qs[j] & 15) - 8);
        y[j + 16] = d * (float)((b->qs[j] >> 4) - 8);
    }
}

static void dequant_q4_1(float *y, const q4_1 *b)
{
    float d = ad_f16_to_f32(b->d), m = ad_f16_to_f32(b->m);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)(b->qs[j] & 15) + m;
        y[j + 16] = d * (float)(b->qs[j] >> 4) + m;
    }
}

static void dequant_q5_0(float *y, const q5_0 *b)
{
    float d = ad_f16_to_f32(b->d);
    uint32_t h = high_bits(b->qh);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((int)((b->qs[j] & 15) | (h >> j & 1) << 4) - 16);
        y[j + 16] = d * (float)((int)(b->qs[j] >> 4 | (h >> (j + 16) & 1) << 4) - 16);
    }
}

static void dequant_q5_1(float *y, const q5_1 *b)
{
    float d = ad_f16_to_f32(b->d), m = ad_f16_to_f32(b->m);
    uint32_t h = high_bits(b->qh);
    for (int j = 0; j < 16; j++) {
        y[j] = d * (float)((b->qs[j] & 15) | (h >> j & 1) << 4) + m;
        y[j + 16] = d * (float)(b->qs[j] >> 4 | (h >> (j + 16) & 1) << 4) + m;
    }
}

static void dequant_q8_0(float *y, const q8_0 *b)
{
    float d = ad_f16_to_f32(b->d);
    for (int j = 0; j < 32; j++) y[j] = d * (float)b->qs[j];
}

static void dequant_q4_k(float *y, const q4_k *b)
{
    float d = ad_f16_to_f32(b->d), dmin = ad_f16_to_f32(b->dmin);
    for (int g = 0; g < 8; g++) {
        float sc, mn;
        six_bit_scales(b->scales, g, &sc, &mn);
        sc *= d, mn *= dmin;
        const uint8_t *qs = b->qs + 32 * (g / 2);
        for (int l = 0; l < 32; l++) y[32 * g + l] = sc * (float)(qs[l] >> 4 * (g & 1) & 15) - mn;
    }
}

static void dequant_q5_k(float *y, const q5_k *b)
{
    float d = ad_f16_to_f32(b->d), dmin = ad_f16_to_f32(b->dmin);
    for (int g = 0; g < 8; g++) {
        float sc, mn;
        six_bit_scales(b->scales, g, &sc, &mn);
        sc *= d, mn *= dmin;
        const uint8_t *qs = b->qs + 32 * (g / 2);
        for (int l = 0; l < 32; l++) y[32 * g + l] = sc * (float)((qs[l] >> 4 * (g & 1) & 15) + 16 * (b->qh[l] >> g & 1)) - mn;
    }
}

static void dequant_q6_k(float *y, const q6_k *b)
{
    float d = ad_f16_to_f32(b->d);
    for (int i = 0; i < 256; i++) {
        int h = i / 128, k = i % 128 / 32, l = i % 32;
        int lo = b->ql[64 * h + 32 * (k & 1) + l] >> (k < 2 ? 0 : 4) & 15, hi = b->qh[32 * h + l] >> 2 * k & 3;
        y[i] = d * (float)b->scales[8 * h + 2 * k + l / 16] * (float)((lo | hi << 4) - 32);
    }
}

/* Blocks are copied out first: a mapped tensor may be unaligned. */
#define EACH_BLOCK(type, fn, per)                                       \
    for (size_t i = 0; i < n / (per); i++) {                            \
        type block;                                                     \
        memcpy(&block, (const char *)src + i * sizeof block, sizeof block); \
        fn(dst + i * (per), &block);                                    \
    }                                                                   \
    return

void ad_dtype_codes(ad_dtype t, int8_t *q, float *d, float *m, const void *block)
{
    union {
        q4_0 q40;
        q4_1 q41;
        q4_k q4k;
        q5_0 q50;
        q8_0 q80;
    } b;
    memcpy(&b, block, types[t].bytes);
    *m = 0;
    switch (t) {
    case AD_Q4_0:
    case AD_Q4_1: {
        const uint8_t *qs = t == AD_Q4_0 ? b.q40.qs : b.q41.qs;
        for (int j = 0; j < 16; j++) q[j] = qs[j] & 15, q[j + 16] = (int8_t)(qs[j] >> 4);
        *d = ad_f16_to_f32(t == AD_Q4_0 ? b.q40.d : b.q41.d);
        *m = t == AD_Q4_0 ? -8 * *d : ad_f16_to_f32(b.q41.m);
        return;
    }
    case AD_Q4_K:
        for (int g = 0; g < 8; g++) {
            float sc, mn;
            six_bit_scales(b.q4k.scales, g, &sc, &mn);
            d[g] = sc * ad_f16_to_f32(b.q4k.d), m[g] = -(mn * ad_f16_to_f32(b.q4k.dmin));
            for (int l = 0; l < 32; l++) q[32 * g + l] = (int8_t)(b.q4k.qs[32 * (g / 2) + l] >> 4 * (g & 1) & 15);
        }
        return;
    case AD_Q5_0: {
        uint32_t h = high_bits(b.q50.qh);
        for (int j = 0; j < 16; j++) {
            q[j] = (int8_t)(((b.q50.qs[j] & 15) | (h >> j & 1) << 4) - 16);
            q[j + 16] = (int8_t)((b.q50.qs[j] >> 4 | (h >> (j + 16) & 1) << 4) - 16);
        }
        *d = ad_f16_to_f32(b.q50.d);
        return;
    }
    default:
        assert(t == AD_Q8_0);
        memcpy(q, b.q80.qs, 32);
        *d = ad_f16_to_f32(b.q80.d);
    }
}

void ad_dequant_row(ad_dtype t, float *dst, const void *src, size_t n)
{
    uint16_t h;
    switch (t) {
    case AD_F32: memcpy(dst, src, n * sizeof *dst); return;
    case AD_F16:
        for (size_t i = 0; i < n; i++) memcpy(&h, (const char *)src + 2 * i, 2), dst[i] = ad_f16_to_f32(h);
        return;
    case AD_BF16:
        for (size_t i = 0; i < n; i++) memcpy(&h, (const char *)src + 2 * i, 2), dst[i] = ad_bf16_to_f32(h);
        return;
    case AD_Q4_0: EACH_BLOCK(q4_0, dequant_q4_0, 32);
    case AD_Q4_1: EACH_BLOCK(q4_1, dequant_q4_1, 32);
    case AD_Q5_0: EACH_BLOCK(q5_0, dequant_q5_0, 32);
    case AD_Q5_1: EACH_BLOCK(q5_1, dequant_q5_1, 32);
    case AD_Q8_0: EACH_BLOCK(q8_0, dequant_q8_0, 32);
    case AD_Q4_K: EACH_BLOCK(q4_k, dequant_q4_k, 256);
    case AD_Q5_K: EACH_BLOCK(q5_k, dequant_q5_k, 256);
    case AD_Q6_K: EACH_BLOCK(q6_k, dequant_q6_k, 256);
    default: assert(!"not a weight format");
    }
}

static void fill(float *dst, int n, float v)
{
    for (int i = 0; i < n; i++) dst[i] = v;
}

static void error_scale(float *e, ad_dtype t, const void *src)
{
    uint16_t d;
    memcpy(&d, src, sizeof d);
    float scale = fabsf(ad_f16_to_f32(d));
    /* Symmetric formats clamp at one end of their range: a whole step there, half a step elsewhere. */
    fill(e, 32, t == AD_Q4_0 || t == AD_Q5_0 ? scale : scale / 2);
}

static void error_k(float *e, ad_dtype t, const void *src)
{
    q6_k b6;
    q4_k b4; /* Q5_K begins alike */
    if (t == AD_Q6_K) {
        memcpy(&b6, src, sizeof b6);
        float d = ad_f16_to_f32(b6.d);
        for (int g = 0; g < 16; g++) fill(e + 16 * g, 16, fabsf(d * (float)b6.scales[g]));
        return;
    }
    memcpy(&b4, src, offsetof(q4_k, qs));
    for (int g = 0; g < 8; g++) {
        float sc, mn;
        six_bit_scales(b4.scales, g, &sc, &mn);
        fill(e + 32 * g, 32, fabsf(ad_f16_to_f32(b4.d) * sc));
    }
}

void ad_dequant_error(ad_dtype t, float *bound, const void *src, size_t n)
{
    const char *p = src;
    size_t block = (size_t)types[t].block, bytes = types[t].bytes;
    if (t == AD_F32 || t == AD_F16 || t == AD_BF16) {
        ad_dequant_row(t, bound, src, n);
        float ulp = t == AD_F16 ? 0x1p-11f : t == AD_BF16 ? 0x1p-8f : 0, least = t == AD_F16 ? 0x1p-25f : t == AD_BF16 ? 0x1p-134f : 0; /* least: of subnormals */
        for (size_t i = 0; i < n; i++) bound[i] = fmaxf(fabsf(bound[i]) * ulp, least);
        return;
    }
    for (size_t i = 0; i < n; i += block, p += bytes) {
        if (block == 256) error_k(bound + i, t, p);
        else error_scale(bound + i, t, p);
    }
}
