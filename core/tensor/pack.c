/* SPDX-License-Identifier: MIT */
#include "core/tensor/pack.h"

#include <math.h>
#include <string.h>

static int blocks_of(int cols)
{
    return (cols + AD_BLOCK - 1) / AD_BLOCK;
}

const char *ad_pack_name(ad_pack type)
{
    static const char *const names[AD_PACK_KINDS] = {"f32", "bf16", "int8", "int4", "int4"};
    return names[type];
}

size_t ad_pack_panel_bytes(ad_pack type, int cols)
{
    size_t blocks = (size_t)blocks_of(cols);
    switch (type) {
    case AD_PACK_F32: return (size_t)cols * AD_PANEL * sizeof(float);
    case AD_PACK_BF16: return ((size_t)cols + 1) / 2 * AD_PANEL * 2 * sizeof(uint16_t);
    case AD_PACK_INT8: return ad_pack_codes_at(type, (int)(blocks + 1) / 2 * 2);
    default: return ad_pack_codes_at(type, (int)blocks);
    }
}

size_t ad_pack_bytes(ad_pack type, int rows, int cols)
{
    return ((size_t)rows + AD_PANEL - 1) / AD_PANEL * ad_pack_panel_bytes(type, cols);
}

ad_matrix ad_matrix_at(ad_pack type, int rows, int cols, const void *data)
{
    return (ad_matrix){type, rows, cols, ad_pack_panel_bytes(type, cols), data};
}

/* ---- block formats: codes, then scales, of one row at a time ---- */

static void put_code(ad_pack type, uint8_t *codes, int lane, int i, int code)
{
    if (type == AD_PACK_INT8) {
        codes[(size_t)(i / 4) * 64 + (size_t)lane * 4 + (size_t)(i % 4)] = (uint8_t)(code + 128);
        return;
    }
    uint8_t *at = &codes[(size_t)(i / 8) * 64 + (size_t)lane * 4 + (size_t)(i % 4)];
    *at = i % 8 < 4 ? (uint8_t)((*at & 0xf0) | code) : (uint8_t)((*at & 0x0f) | code << 4);
}

static int get_code(ad_pack type, const uint8_t *codes, int lane, int i)
{
    if (type == AD_PACK_INT8) return codes[(size_t)(i / 4) * 64 + (size_t)lane * 4 + (size_t)(i % 4)] - 128;
    int both = codes[(size_t)(i / 8) * 64 + (size_t)lane * 4 + (size_t)(i % 4)];
    return i % 8 < 4 ? both & 15 : both >> 4;
}

static bool put_scale(ad_pack type, void *scales, int lane, float scale, float min)
{
    if (type == AD_PACK_INT4W) {
        float *at = (float *)scales + lane;
        at[0] = scale, at[AD_PANEL] = min;
        return isfinite(scale) && isfinite(min);
    }
    uint16_t d = ad_f32_to_f16(scale), m = ad_f32_to_f16(min), *at = (uint16_t *)scales + lane;
    at[0] = d;
    if (type == AD_PACK_INT4) at[AD_PANEL] = m;
    return isfinite(ad_f16_to_f32(d)) && isfinite(ad_f16_to_f32(m));
}

static void get_scale(ad_pack type, const void *scales, int lane, float *scale, float *min)
{
    if (type == AD_PACK_INT4W) {
        const float *at = (const float *)scales + lane;
        *scale = at[0], *min = at[AD_PANEL];
        return;
    }
    const uint16_t *at = (const uint16_t *)scales + lane;
    *scale = ad_f16_to_f32(at[0]);
    *min = type == AD_PACK_INT4 ? ad_f16_to_f32(at[AD_PANEL]) : 0;
}

/* All zeros: of INT8 that is the code 128. */
static void clear_panel(ad_pack type, uint8_t *panel, int cols)
{
    memset(panel, 0, ad_pack_panel_bytes(type, cols));
    for (int b = 0; type == AD_PACK_INT8 && b < blocks_of(cols); b++) memset(panel + ad_pack_codes_at(type, b), 128, AD_BLOCK * AD_PANEL);
}

static int code_of(float x, float min, float scale, int low, int high)
{
    float q = scale > 0 ? rintf((x - min) / scale) : 0;
    return q < (float)low ? low : q > (float)high ? high : (int)q;
}

/* The nearest codes of one block of `n` values (the rest of the block is zero). */
static bool quantise_block(ad_pack type, uint8_t *panel, int lane, int block, const float *x, int n)
{
    float low = 0, high = 0, scale, min = 0; /* zero is among the values of a block that is filled up */
    bool four = type != AD_PACK_INT8;
    if (n == AD_BLOCK) low = high = x[0];
    for (int i = 0; i < n; i++) {
        if (!isfinite(x[i])) return false;
        low = x[i] < low ? x[i] : low, high = x[i] > high ? x[i] : high;
    }
    if (four) min = ad_f16_to_f32(ad_f32_to_f16(low)), scale = (high - min) / 15;
    else scale = (-low > high ? -low : high) / 127;
    if (scale < 0) scale = 0;
    if (type != AD_PACK_INT4W) scale = ad_f16_to_f32(ad_f32_to_f16(scale));
    for (int i = 0; i < AD_BLOCK; i++) put_code(type, panel + ad_pack_codes_at(type, block), lane, i, code_of(i < n ? x[i] : 0, min, scale, four ? 0 : -127, four ? 15 : 127));
    return put_scale(type, panel + ad_pack_scales_at(type, block), lane, scale, min);
}

static bool pack_quantised(ad_pack type, uint8_t *panel, const float *rows, int n, int cols)
{
    clear_panel(type, panel, cols);
    for (int lane = 0; lane < n; lane++)
        for (int b = 0; b < blocks_of(cols); b++) {
            int left = cols - b * AD_BLOCK;
            if (!quantise_block(type, panel, lane, b, rows + (size_t)lane * (size_t)cols + b * AD_BLOCK, left < AD_BLOCK ? left : AD_BLOCK)) return false;
        }
    return true;
}

bool ad_pack_exact(ad_dtype from, ad_pack *type)
{
    switch (from) {
    case AD_Q4_0:
    case AD_Q4_1: return *type = AD_PACK_INT4, true;
    case AD_Q4_K: return *type = AD_PACK_INT4W, true;
    case AD_Q5_0:
    case AD_Q8_0: return *type = AD_PACK_INT8, true;
    default: return false;
    }
}

/* INT8 for the 16 values d * q + m of a 4-bit block: with d a multiple of the scale only m is rounded. Of the largest such scales the one
 * that m is nearest to a multiple of: on SmolLM2-135M Q4_1 the KL divergence from f32 falls from 0.0045 to 0.0036 against the
 * nearest codes at the largest scale. */
static bool eight_of_four(int8_t *q, float *d, float *m)
{
    enum { TRIES = 12 };
    float step = fabsf(*d), low = fabsf(*m), high = fabsf(*m + 15 * *d), top = low > high ? low : high, best = INFINITY, scale = 0;
    if (!isfinite(top)) return false;
    int most = step > 0 ? (int)fminf(127 * step / top, 127) : 0; /* d / scale: codes must stay within 127 */
    for (int n = most; n > 0 && n > most - TRIES; n--) {
        float s = ad_f16_to_f32(ad_f32_to_f16(*d / (float)n)), off = fabsf(*m - s * rintf(*m / s));
        if (fabsf(s) > 0 && off < best) best = off, scale = s;
    }
    if (scale == 0) scale = ad_f16_to_f32(ad_f32_to_f16(top / 127)); /* d is 0, or too small for a half */
    for (int i = 0; i < AD_BLOCK; i++) {
        float c = scale != 0 ? rintf((*d * (float)q[i] + *m) / scale) : 0;
        q[i] = (int8_t)(c > 127 ? 127 : c < -127 ? -127 : c);
    }
    *d = scale, *m = 0;
    return true;
}

bool ad_pack_panel_codes(ad_pack type, void *panel, ad_dtype from, const void *const *rows, int n, int cols)
{
    int per = ad_dtype_block(from), blocks = blocks_of(cols);
    ad_pack exact;
    bool four = ad_pack_exact(from, &exact) && exact != AD_PACK_INT8;
    if (n < AD_PANEL || type == AD_PACK_INT8) clear_panel(type, panel, cols);
    for (int lane = 0; lane < n; lane++) {
        const char *src = rows[lane];
        int8_t q[256];
        float d[8], m[8];
        for (int b = 0; b < blocks; b++) {
            int at = b * AD_BLOCK % per; /* a block of 256 is eight of ours */
            if (at == 0) {
                ad_dtype_codes(from, q, d, m, src);
                src += ad_dtype_block_bytes(from);
            }
            if (four && type == AD_PACK_INT8 && !eight_of_four(q + at, &d[at / AD_BLOCK], &m[at / AD_BLOCK])) return false;
            for (int i = 0; i < AD_BLOCK; i++) {
                if (q[at + i] == -128) return false;
                put_code(type, (uint8_t *)panel + ad_pack_codes_at(type, b), lane, i, q[at + i]);
            }
            if (!put_scale(type, (char *)panel + ad_pack_scales_at(type, b), lane, d[at / AD_BLOCK], m[at / AD_BLOCK])) return false;
        }
    }
    return true;
}

/* ---- all formats ---- */

/* Rounds finite values to nearest even; without a branch, so that compilers vectorise the loop around it. */
static inline uint16_t finite_to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

/* Column by column of a strip that stays in the first-level cache. */
static void pack_bf16(uint32_t *panel, const float *rows, int n, int cols)
{
    enum { STRIP = 256 };
    uint16_t strip[AD_PANEL][STRIP];
    for (int r = n; r < AD_PANEL; r++) memset(strip[r], 0, sizeof strip[r]);
    for (int c = 0; c < cols; c += STRIP) {
        int width = cols - c < STRIP ? cols - c : STRIP;
        for (int r = 0; r < n; r++) {
            const float *x = rows + (size_t)r * (size_t)cols + c;
            for (int i = 0; i < width; i++) strip[r][i] = finite_to_bf16(x[i]);
            if (width % 2) strip[r][width] = 0;
        }
        for (int i = 0; i < width; i += 2, panel += AD_PANEL)
            for (int r = 0; r < AD_PANEL; r++) panel[r] = strip[r][i] | (uint32_t)strip[r][i + 1] << 16;
    }
}

static bool all_finite(const float *x, size_t n)
{
    uint32_t worst = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, &x[i], sizeof u);
        u &= 0x7fffffff;
        worst = u > worst ? u : worst;
    }
    return worst < 0x7f800000;
}

bool ad_pack_panel(ad_pack type, void *panel, const float *rows, int n, int cols)
{
    if (type != AD_PACK_F32 && type != AD_PACK_BF16) return pack_quantised(type, panel, rows, n, cols);
    if (!all_finite(rows, (size_t)n * (size_t)cols)) return false;
    if (type == AD_PACK_BF16) {
        pack_bf16(panel, rows, n, cols);
        return true;
    }
    float *dst = panel;
    for (int i = 0; i < cols; i++, dst += AD_PANEL)
        for (int r = 0; r < AD_PANEL; r++) dst[r] = r < n ? rows[(size_t)r * (size_t)cols + (size_t)i] : 0;
    return true;
}

/* ---- rows in their final form: a float or a pair of bf16 is one word, and words of 16 rows stand side by side ---- */

typedef uint32_t words4 __attribute__((vector_size(16)));

static inline words4 load4(const char *p)
{
    words4 v;
    memcpy(&v, p, sizeof v);
    return v;
}

static inline void store4(uint32_t *p, words4 v)
{
    memcpy(p, &v, sizeof v);
}

/* Four words of each of four rows. */
static inline void turn4(uint32_t *dst, const words4 v[4])
{
    words4 a = __builtin_shufflevector(v[0], v[1], 0, 4, 1, 5), b = __builtin_shufflevector(v[0], v[1], 2, 6, 3, 7);
    words4 c = __builtin_shufflevector(v[2], v[3], 0, 4, 1, 5), d = __builtin_shufflevector(v[2], v[3], 2, 6, 3, 7);
    store4(dst, __builtin_shufflevector(a, c, 0, 1, 4, 5));
    store4(dst + AD_PANEL, __builtin_shufflevector(a, c, 2, 3, 6, 7));
    store4(dst + 2 * AD_PANEL, __builtin_shufflevector(b, d, 0, 1, 4, 5));
    store4(dst + 3 * AD_PANEL, __builtin_shufflevector(b, d, 2, 3, 6, 7));
}

/* An exponent of ones carries into the place of the sign, which is masked out. */
bool ad_pack_lanes(ad_pack type, void *panel, int lane, const void *rows, size_t stride, int n, int cols)
{
    const uint32_t exponent = type == AD_PACK_F32 ? 0x7f800000 : 0x7f807f80, one = type == AD_PACK_F32 ? 0x00800000 : 0x00800080;
    size_t words = type == AD_PACK_F32 ? (size_t)cols : ((size_t)cols + 1) / 2, quads = words / 4 * 4;
    uint32_t *dst = (uint32_t *)panel + lane, carry = 0;
    words4 carries = {0};
    int fours = n / 4 * 4;
    for (size_t i = 0; i < quads; i += 4)
        for (int r = 0; r < fours; r += 4) {
            words4 v[4];
            for (int k = 0; k < 4; k++) {
                v[k] = load4((const char *)rows + (size_t)(r + k) * stride + 4 * i);
                carries |= (v[k] & exponent) + one;
            }
            turn4(dst + i * AD_PANEL + r, v);
        }
    for (int r = 0; r < n; r++)
        for (size_t i = r < fours ? quads : 0; i < words; i++) {
            uint32_t v;
            memcpy(&v, (const char *)rows + (size_t)r * stride + 4 * i, sizeof v);
            carry |= (v & exponent) + one;
            dst[i * AD_PANEL + (size_t)r] = v;
        }
    for (int k = 0; k < 4; k++) carry |= carries[k];
    return !(carry & (type == AD_PACK_F32 ? 0x80000000 : 0x80008000));
}

static float read_one(const ad_matrix *m, const char *panel, int lane, int i)
{
    if (m->type == AD_PACK_F32) return ((const float *)(const void *)panel)[(size_t)i * AD_PANEL + (size_t)lane];
    if (m->type == AD_PACK_BF16) return ad_bf16_to_f32(((const uint16_t *)(const void *)panel)[(size_t)(i / 2) * 2 * AD_PANEL + (size_t)lane * 2 + (size_t)(i % 2)]);
    float scale, min;
    get_scale(m->type, panel + ad_pack_scales_at(m->type, i / AD_BLOCK), lane, &scale, &min);
    int code = get_code(m->type, (const uint8_t *)panel + ad_pack_codes_at(m->type, i / AD_BLOCK), lane, i % AD_BLOCK);
    return scale * (float)code + min;
}

void ad_matrix_read(const ad_matrix *m, int row, int begin, int end, float *dst)
{
    const char *panel = (const char *)m->data + (size_t)(row / AD_PANEL) * m->panel_bytes;
    for (int i = begin; i < end; i++) dst[i - begin] = read_one(m, panel, row % AD_PANEL, i);
}

ad_act ad_act_of(ad_pack type)
{
    return type == AD_PACK_F32 ? AD_ACT_F32 : type == AD_PACK_BF16 ? AD_ACT_BF16 : AD_ACT_INT8;
}

size_t ad_act_stride(ad_act act, int cols)
{
    size_t bytes = act == AD_ACT_F32    ? (size_t)cols * sizeof(float)
                   : act == AD_ACT_BF16 ? ((size_t)cols + 1) / 2 * 2 * sizeof(uint16_t)
                                        : (size_t)blocks_of(cols) * (AD_BLOCK + 3 * sizeof(float));
    bytes = (bytes + 63) & ~(size_t)63;
    return bytes % 4096 ? bytes : bytes + 64;
}
