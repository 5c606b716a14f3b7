/* SPDX-License-Identifier: MIT */
/* The bodies of the vector kernels, written once for any width. Included by one kernels_ISA.c, which defines
 * before the inclusion:
 *
 *   vec, LANES              a register of LANES floats (16 or 8); vecd the same size in doubles
 *   TILE                    accumulators of a register tile
 *   vload vstore            whole registers, any alignment
 *   vload_n vstore_n        the first n (1..LANES) floats; the other lanes read as 0 and are not written
 *   vload_half vstore_half  a register from, or to, LANES IEEE halves
 *   veven(p) vodd(p)        LANES pairs of bf16: the even ones as floats, the odd ones; veven_all(p), vodd_all(p): one pair, in every lane
 *   vstore_bf16(p, v)       LANES bf16, to nearest even
 *   vset vadd vsub vmul vdiv vfma(a, b, c) = a * b + c; vmax(a, b), which is b when either is a NaN
 *   vexp                    exp of each lane
 *   vsum(v)                 the sum over lanes, in a fixed tree
 *   vlargest(v)             the largest lane of a register without NaN
 *   vsetd, vadd_f64(s, v)   adds LANES floats to the doubles of s[2]; vsum_f64(s) is their total
 *   vhas_nan(v), vfind(v, x)   any NaN; index of the first lane equal to x, or -1
 *   quantise_block(q, x, &scale)   32 floats to codes; returns their sum
 *
 * How a row keeps its bits. Each output of a GEMM owns one lane of one accumulator that walks over k in order: tile
 * shape, neighbours and blocking never enter. Element-wise code treats a tail by the same instructions on a partly
 * filled register. Any thread. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "core/tensor/unroll.h"

enum { PARTS = AD_PANEL / LANES }; /* registers of a panel */

/* ---- y = x W^T ---- */

/* A step of the walk over k: PARTS registers of each panel's weights, and what a row contributes. */
typedef enum { STEP_F32, STEP_BF16 } step_kind;

INLINE void tile(step_kind kind, int rows, int panels, float *y, size_t ldy, const char *x, size_t ldx, const char *w, size_t panel_bytes, int k, bool add, int width)
{
    vec acc[6][8];
    int cols = panels * PARTS, steps = kind == STEP_BF16 ? (k + 1) / 2 : k;
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < cols; c++)
        {
            int n = width - c * LANES;
            float *at = y + (size_t)i * ldy + c * LANES;
            acc[i][c] = !add ? vset(0) : n >= LANES ? vload(at) : n > 0 ? vload_n(at, n) : vset(0);
        }
    for (int p = 0; p < steps; p++) {
        UNROLL for (int c = 0; c < cols; c++)
        {
            const char *at = w + (size_t)(c / PARTS) * panel_bytes + (size_t)p * 64 + (size_t)(c % PARTS) * LANES * 4;
            if (kind == STEP_F32) {
                vec b = vload((const float *)(const void *)at);
                UNROLL for (int i = 0; i < rows; i++) acc[i][c] = vfma(vset(((const float *)(const void *)(x + (size_t)i * ldx))[p]), b, acc[i][c]);
            } else {
                vec even = veven(at), odd = vodd(at);
                UNROLL for (int i = 0; i < rows; i++)
                {
                    const char *pair = x + (size_t)i * ldx + (size_t)p * 4;
                    acc[i][c] = vfma(vodd_all(pair), odd, vfma(veven_all(pair), even, acc[i][c]));
                }
            }
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < cols; c++)
        {
            int n = width - c * LANES;
            float *at = y + (size_t)i * ldy + c * LANES;
            if (n >= LANES) vstore(at, acc[i][c]);
            else if (n > 0) vstore_n(at, acc[i][c], n);
        }
}

/* Rows of the next tile: full ones, but the last few shared evenly (7 = 4 + 3, not 6 + 1). */
static inline int tile_rows(int left, int most)
{
    if (left <= most) return left;
    return left >= 2 * most ? most : (left + 1) / 2;
}

/* All rows of a few panels, while those stay in the cache. */
INLINE void strip(step_kind kind, int panels, float *y, size_t ldy, const char *x, size_t ldx, const char *w, size_t panel_bytes, int m, int k, bool add, int width)
{
    int most = TILE / (panels * PARTS) < 6 ? TILE / (panels * PARTS) : 6;
    for (int i = 0, rows; i < m; i += rows, y += (size_t)rows * ldy, x += (size_t)rows * ldx) {
        rows = tile_rows(m - i, most);
#define CASE(r) case r: if (r * panels * PARTS <= TILE) tile(kind, r, panels, y, ldy, x, ldx, w, panel_bytes, k, add, width); break
        switch (rows) {
            CASE(1);
            CASE(2);
            CASE(3);
            CASE(4);
            CASE(5);
            CASE(6);
        }
#undef CASE
    }
}

INLINE void gemm(step_kind kind, float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    for (int j = 0, panels; j < n; j += panels * AD_PANEL) {
        const char *at = (const char *)w + (size_t)(j / AD_PANEL) * panel_bytes;
        int left = (n - j + AD_PANEL - 1) / AD_PANEL;
        if (left >= 4 && 4 * PARTS * (m < 6 ? m : 6) <= TILE) {
            panels = 4;
            strip(kind, 4, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j);
        } else if (left >= 2 && 2 * PARTS * (m < 3 ? m : 3) <= TILE) {
            panels = 2;
            strip(kind, 2, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j);
        } else {
            panels = 1;
            strip(kind, 1, y + j, ldy, x, ldx, at, panel_bytes, m, k, add, n - j);
        }
    }
}

static void gemm_f32(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    gemm(STEP_F32, y, ldy, x, ldx, w, panel_bytes, m, n, k, add);
}

static void gemm_bf16(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    gemm(STEP_BF16, y, ldy, x, ldx, w, panel_bytes, m, n, k, add);
}

/* ---- activations ---- */

static void quantise(void *row, const float *x, int begin, int end, int cols)
{
    int blocks = (cols + AD_BLOCK - 1) / AD_BLOCK;
    int8_t *q = row;
    float *scales = (float *)(void *)(q + (size_t)blocks * AD_BLOCK), *sums = scales + blocks;
    int32_t *offsets = (int32_t *)(void *)(sums + blocks);
    for (int b = begin / AD_BLOCK; b * AD_BLOCK < end; b++, x += AD_BLOCK) {
        float padded[AD_BLOCK] = {0};
        const float *v = x;
        if (end - b * AD_BLOCK < AD_BLOCK) v = memcpy(padded, x, sizeof *x * (size_t)(end - b * AD_BLOCK));
        int sum = quantise_block(q + b * AD_BLOCK, v, &scales[b]);
        sums[b] = scales[b] * (float)sum;
        offsets[b] = -128 * sum;
    }
}

static void to_bf16(uint16_t *dst, const float *src, int n)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES) vstore_bf16(dst + i, vload(src + i));
    if (i == n) return;
    uint16_t last[LANES];
    vstore_bf16(last, vload_n(src + i, n - i));
    memcpy(dst + i, last, sizeof *dst * (size_t)(n - i));
}

static void to_half(uint16_t *dst, const float *src, int n)
{
    int i = 0;
    for (; i + LANES <= n; i += LANES) vstore_half(dst + i, vload(src + i));
    if (i == n) return;
    uint16_t last[LANES];
    vstore_half(last, vload_n(src + i, n - i));
    memcpy(dst + i, last, sizeof *dst * (size_t)(n - i));
}

/* ---- element by element ---- */

static void add_norm(float *x, float *h, const float *y, const float *w, float *squares, int n)
{
    for (int b = 0; b < n; b += AD_BLOCK) {
        vec sum = vset(0);
        for (int i = b; i < n && i < b + AD_BLOCK; i += LANES) {
            int left = n - i < LANES ? n - i : LANES;
            vec v = vload_n(h + i, left);
            if (y) vstore_n(h + i, v = vadd(v, vload_n(y + i, left)), left);
            vstore_n(x + i, vmul(vload_n(w + i, left), v), left);
            sum = vfma(v, v, sum);
        }
        squares[b / AD_BLOCK] = vsum(sum);
    }
}

static void rope(float *dst, const float *src, float scale, const float *cos, const float *sin, int half)
{
    vec by = vset(scale);
    for (int i = 0; i < half; i += LANES) {
        int n = half - i < LANES ? half - i : LANES;
        vec a = vmul(by, vload_n(src + i, n)), b = vmul(by, vload_n(src + half + i, n)), c = vload_n(cos + i, n), s = vload_n(sin + i, n);
        vstore_n(dst + i, vsub(vmul(a, c), vmul(b, s)), n);
        vstore_n(dst + half + i, vadd(vmul(b, c), vmul(a, s)), n);
    }
}

INLINE vec silu_times(vec g, vec u)
{
    return vmul(vdiv(g, vadd(vset(1), vexp(vsub(vset(0), g)))), u);
}

static void swiglu(float *y, const float *gate, const float *up, float scale, int n)
{
    vec by = vset(scale);
    int i = 0;
    for (; i + LANES <= n; i += LANES) vstore(y + i, silu_times(vmul(by, vload(gate + i)), vmul(by, vload(up + i))));
    if (i < n) vstore_n(y + i, silu_times(vmul(by, vload_n(gate + i, n - i)), vmul(by, vload_n(up + i, n - i))), n - i);
}

static void scale_add(float *y, const float *x, float scale, const float *bias, int n)
{
    vec by = vset(scale);
    for (int i = 0; i < n; i += LANES) {
        int left = n - i < LANES ? n - i : LANES;
        vec v = vmul(by, vload_n(x + i, left));
        vstore_n(y + i, bias ? vadd(v, vload_n(bias + i, left)) : v, left);
    }
}

/* ---- attention ---- */

/* Scores become weights that sum to one. The row is padded with -inf up to whole registers, whose weight is 0:
 * that adds nothing to a sum, so lanes depend on the position only. */
static void softmax(float *s, int n, float scale)
{
    for (int i = n; i % LANES; i++) s[i] = -INFINITY;
    vec by = vset(scale), top = vset(-INFINITY), sum = vset(0);
    for (int i = 0; i < n; i += LANES) {
        vec v = vmul(vload(s + i), by);
        vstore(s + i, v);
        top = vmax(v, top); /* passes over a NaN score; its weight will be NaN, and so will the row */
    }
    top = vset(vlargest(top));
    for (int i = 0; i < n; i += LANES) {
        vec v = vexp(vsub(vload(s + i), top));
        vstore(s + i, v);
        sum = vadd(sum, v);
    }
    vec inv = vset(1.0f / vsum(sum));
    for (int i = 0; i < n; i += LANES) vstore(s + i, vmul(vload(s + i), inv));
}

INLINE vec load_numbers(const void *page, bool half, size_t at, int n)
{
    if (!half) return n == LANES ? vload((const float *)page + at) : vload_n((const float *)page + at, n);
    if (n == LANES) return vload_half((const uint16_t *)page + at);
    uint16_t last[LANES] = {0};
    memcpy(last, (const uint16_t *)page + at, sizeof *last * (size_t)n);
    return vload_half(last);
}

/* Query vectors of a tile: head i % group of row i / group. */
typedef struct {
    const float *q;
    float *out, *scores;
    size_t ld, score_stride;
    int group, hd, n_ctx; /* of row 0; row i sees i positions more */
    const void *const *keys, *const *vals;
} attention;

INLINE size_t vector_at(const attention *a, int i)
{
    return (size_t)(i / a->group) * a->ld + (size_t)(i % a->group) * (size_t)a->hd;
}

/* Scores of `n` query vectors from `first` with every page; those behind a row's last position are never read. */
INLINE void score_tile(const attention *a, bool half, int first, int n, int pages)
{
    const float *q[8];
    UNROLL for (int i = 0; i < n; i++) q[i] = a->q + vector_at(a, first + i);
    for (int p = 0; p < pages; p++) {
        vec acc[8][2];
        UNROLL for (int i = 0; i < n; i++)
            UNROLL for (int c = 0; c < PARTS; c++) acc[i][c] = vset(0);
        for (int d = 0; d < a->hd; d++)
            UNROLL for (int c = 0; c < PARTS; c++)
            {
                vec k = load_numbers(a->keys[p], half, (size_t)d * AD_KV_PAGE + (size_t)c * LANES, LANES);
                UNROLL for (int i = 0; i < n; i++) acc[i][c] = vfma(vset(q[i][d]), k, acc[i][c]);
            }
        UNROLL for (int i = 0; i < n; i++)
            UNROLL for (int c = 0; c < PARTS; c++) vstore(a->scores + (size_t)(first + i) * a->score_stride + (size_t)(p * AD_KV_PAGE + c * LANES), acc[i][c]);
    }
}

/* out += weights[begin, end) of n vectors times the values, for `cols` registers from lane `d`; the last has `width` lanes. */
INLINE void value_tile(const attention *a, bool half, int first, int n, int begin, int end, int d, int cols, int width)
{
    vec acc[6][4];
    const float *s[6];
    float *out[6];
    UNROLL for (int i = 0; i < n; i++)
    {
        s[i] = a->scores + (size_t)(first + i) * a->score_stride;
        out[i] = a->out + vector_at(a, first + i) + d;
        UNROLL for (int c = 0; c < cols; c++) acc[i][c] = !begin ? vset(0) : vload_n(out[i] + c * LANES, c == cols - 1 ? width : LANES);
    }
    for (int p = begin; p < end; p++)
        UNROLL for (int c = 0; c < cols; c++)
        {
            vec v = load_numbers(a->vals[p / AD_KV_PAGE], half, (size_t)(p % AD_KV_PAGE) * (size_t)a->hd + (size_t)(d + c * LANES), c == cols - 1 ? width : LANES);
            UNROLL for (int i = 0; i < n; i++) acc[i][c] = vfma(vset(s[i][p]), v, acc[i][c]);
        }
    UNROLL for (int i = 0; i < n; i++)
        UNROLL for (int c = 0; c < cols; c++) vstore_n(out[i] + c * LANES, acc[i][c], c == cols - 1 ? width : LANES);
}

/* The positions all rows see go through a tile together; what later rows see beyond them follows, one vector at a time. */
INLINE void value_strip(const attention *a, bool half, int total, int d, int cols, int width)
{
    enum { MOST = TILE / 4 < 6 ? TILE / 4 : 6 };
    int i = 0;
    for (; i + MOST <= total; i += MOST) value_tile(a, half, i, MOST, 0, a->n_ctx, d, cols, width);
    for (; i + 3 <= total; i += 3) value_tile(a, half, i, 3, 0, a->n_ctx, d, cols, width);
    for (; i < total; i++) value_tile(a, half, i, 1, 0, a->n_ctx, d, cols, width);
    for (i = a->group; i < total; i++) value_tile(a, half, i, 1, a->n_ctx, a->n_ctx + i / a->group, d, cols, width);
}

INLINE void attend_pages(const attention *a, bool half, int rows, float scale)
{
    enum { MOST = TILE / PARTS / 2 < 8 ? TILE / PARTS / 2 : 8 };
    int total = rows * a->group, pages = (a->n_ctx + rows - 1 + AD_KV_PAGE - 1) / AD_KV_PAGE, i = 0, d = 0;
    for (; i + MOST <= total; i += MOST) score_tile(a, half, i, MOST, pages);
    for (; i + 3 <= total; i += 3) score_tile(a, half, i, 3, pages);
    for (; i < total; i++) score_tile(a, half, i, 1, pages);
    for (i = 0; i < total; i++) softmax(a->scores + (size_t)i * a->score_stride, a->n_ctx + i / a->group, scale);
    for (; d + 4 * LANES <= a->hd; d += 4 * LANES) value_strip(a, half, total, d, 4, LANES);
    for (; d + LANES <= a->hd; d += LANES) value_strip(a, half, total, d, 1, LANES);
    if (d < a->hd) value_strip(a, half, total, d, 1, a->hd - d);
}

static void attend(float *out, const float *q, size_t ld, const void *const *keys, const void *const *vals, bool half, int rows, int n_ctx, int group,
                   int hd, float scale, float *tmp)
{
    attention a = {q, out, tmp, ld, (size_t)(n_ctx + rows + 14) / 16 * 16, group, hd, n_ctx, keys, vals};
    if (half) attend_pages(&a, true, rows, scale);
    else attend_pages(&a, false, rows, scale);
}

/* ---- whole rows ---- */

static int argmax(const float *x, int n, float *max)
{
    vec top = vset(-INFINITY);
    bool nan = false;
    int i = 0;
    for (; i + LANES <= n; i += LANES) {
        vec v = vload(x + i);
        nan |= vhas_nan(v);
        top = vmax(v, top);
    }
    float m = vlargest(top);
    for (int j = i; j < n; j++) {
        nan |= isnan(x[j]);
        if (x[j] > m) m = x[j];
    }
    *max = nan ? NAN : m;
    if (nan) return -1;
    for (i = 0; i + LANES <= n; i += LANES) {
        int lane = vfind(vload(x + i), m);
        if (lane >= 0) return i + lane;
    }
    for (; i < n; i++)
        if (x[i] == m) return i;
    return -1;
}

static double sum_exp(const float *x, int n, float max)
{
    vecd s[2] = {vsetd(0), vsetd(0)};
    vec m = vset(max);
    int i = 0;
    for (; i + LANES <= n; i += LANES) vadd_f64(s, vexp(vsub(vload(x + i), m)));
    if (i < n) {
        float tail[LANES];
        for (int l = 0; l < LANES; l++) tail[l] = i + l < n ? x[i + l] : -INFINITY;
        vadd_f64(s, vexp(vsub(vload(tail), m)));
    }
    return vsum_f64(s);
}

static void fill(ad_kernels *k, const char *name)
{
    k->name = name;
    k->gemm[AD_PACK_F32] = gemm_f32;
    k->gemm[AD_PACK_BF16] = gemm_bf16;
    k->quantise = quantise;
    k->to_bf16 = to_bf16;
    k->to_half = to_half;
    k->add_norm = add_norm;
    k->rope = rope;
    k->swiglu = swiglu;
    k->scale_add = scale_add;
    k->attend = attend;
    k->argmax = argmax;
    k->sum_exp = sum_exp;
}
