/* SPDX-License-Identifier: MIT */
/* The bodies of the vector kernels, written once for any width. Included by one kernels_ISA.c, which defines
 * before the inclusion:
 *
 *   vec, LANES              a register of LANES floats; vecd the same size in doubles
 *   MAX_ROWS, EXPAND_COLS   register tiles: MAX_ROWS x 4 outputs (GEMM), 4 rows x EXPAND_COLS registers (expand)
 *   vload vstore            whole registers, any alignment
 *   vload_n vstore_n        the first n (1..LANES) floats; the other lanes read as 0 and are not written
 *   vload_half vstore_half  a register from, or to, LANES IEEE halves
 *   vset vadd vsub vmul vdiv vfma(a, b, c) = a * b + c; vmax(a, b), which is b when either is a NaN
 *   vexp                    exp of each lane
 *   vsum4(a, b, c, d)       __m128 of four sums over lanes, each in the same tree: halves, quarters, ... pairs
 *   vlargest(v)             the largest lane of a register without NaN
 *   vsetd, vadd_f64(s, v)   adds LANES floats to the doubles of s[2]; vsum_f64(s) is their total
 *   vhas_nan(v), vfind(v, x)   any NaN; index of the first lane equal to x, or -1
 *
 * How a row keeps its bits. Each output of gemm_nt owns one register that walks over k in steps of LANES, the
 * tail read with zeros, and ends in the tree of vsum4: tile shape, neighbours and blocking never enter.
 * Element-wise code treats a tail by the same instructions on a partly filled register. Any thread. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))

/* ---- y[m, n] = x[m, k] w[n, k]^T ---- */

/* rows x 4 outputs, of which `width` (1..4) exist; the others repeat the last and are not stored. */
INLINE void tile(int rows, float *y, size_t ldy, const float *x, size_t ldx, const float *w, size_t ldw, int k, int width)
{
    const float *w0 = w, *w1 = width > 1 ? w0 + ldw : w0, *w2 = width > 2 ? w1 + ldw : w1, *w3 = width > 3 ? w2 + ldw : w2;
    vec acc[MAX_ROWS][4];
    UNROLL for (int i = 0; i < rows; i++) acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = vset(0);
    int p = 0;
    for (; p + LANES <= k; p += LANES) {
        vec b0 = vload(w0 + p), b1 = vload(w1 + p), b2 = vload(w2 + p), b3 = vload(w3 + p);
        UNROLL for (int i = 0; i < rows; i++)
        {
            vec a = vload(x + (size_t)i * ldx + p);
            acc[i][0] = vfma(a, b0, acc[i][0]);
            acc[i][1] = vfma(a, b1, acc[i][1]);
            acc[i][2] = vfma(a, b2, acc[i][2]);
            acc[i][3] = vfma(a, b3, acc[i][3]);
        }
    }
    if (p < k) {
        vec b0 = vload_n(w0 + p, k - p), b1 = vload_n(w1 + p, k - p), b2 = vload_n(w2 + p, k - p), b3 = vload_n(w3 + p, k - p);
        UNROLL for (int i = 0; i < rows; i++)
        {
            vec a = vload_n(x + (size_t)i * ldx + p, k - p);
            acc[i][0] = vfma(a, b0, acc[i][0]);
            acc[i][1] = vfma(a, b1, acc[i][1]);
            acc[i][2] = vfma(a, b2, acc[i][2]);
            acc[i][3] = vfma(a, b3, acc[i][3]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
    {
        __m128 s = vsum4(acc[i][0], acc[i][1], acc[i][2], acc[i][3]);
        if (width == 4) _mm_storeu_ps(y + (size_t)i * ldy, s);
        else memcpy(y + (size_t)i * ldy, &s, sizeof(float) * (size_t)width);
    }
}

/* All n outputs of `rows` rows. */
INLINE void strip(int rows, float *y, size_t ldy, const float *x, size_t ldx, const float *w, size_t ldw, int n, int k)
{
    for (int j = 0; j < n; j += 4)
        tile(rows, y + j, ldy, x, ldx, w + (size_t)j * ldw, ldw, k, n - j < 4 ? n - j : 4);
}

static void strip_of(int rows, float *y, size_t ldy, const float *x, size_t ldx, const float *w, size_t ldw, int n, int k)
{
    switch (rows) {
    case 1: strip(1, y, ldy, x, ldx, w, ldw, n, k); break;
    case 2: strip(2, y, ldy, x, ldx, w, ldw, n, k); break;
    case 3: strip(3, y, ldy, x, ldx, w, ldw, n, k); break;
#if MAX_ROWS > 3
    case 4: strip(4, y, ldy, x, ldx, w, ldw, n, k); break;
    case 5: strip(5, y, ldy, x, ldx, w, ldw, n, k); break;
    case 6: strip(6, y, ldy, x, ldx, w, ldw, n, k); break;
#endif
    }
}

/* Rows of the next strip: full ones, but the last few shared evenly (7 = 4 + 3, not 6 + 1). */
static int strip_rows(int left)
{
    if (left <= MAX_ROWS) return left;
    return left >= 2 * MAX_ROWS ? MAX_ROWS : (left + 1) / 2;
}

/* A block of weights that stays in the second-level cache is used by all rows before the next one is read. */
#define BLOCK_BYTES (96 * 1024)

static void gemm_strided(float *y, size_t ldy, const float *x, size_t ldx, const float *w, size_t ldw, int m, int n, int k)
{
    int block = BLOCK_BYTES / (int)sizeof(float) / (k > 0 ? k : 1) / 4 * 4;
    if (block < 4) block = 4;
    if (m <= MAX_ROWS) block = n;
    for (int j = 0; j < n; j += block) {
        int width = n - j < block ? n - j : block;
        for (int i = 0, rows; i < m; i += rows) {
            rows = strip_rows(m - i);
            strip_of(rows, y + (size_t)i * ldy + j, ldy, x + (size_t)i * ldx, ldx, w + (size_t)j * ldw, ldw, width, k);
        }
    }
}

static void gemm_nt(float *y, size_t ldy, const float *x, size_t ldx, const float *w, int m, int n, int k)
{
    gemm_strided(y, ldy, x, ldx, w, (size_t)k, m, n, k);
}

/* ---- y[m, n] += t[m, r] bt[r, n] ---- */

INLINE void expand_tile(int rows, int cols, float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int r)
{
    vec acc[4][4];
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < cols; c++) acc[i][c] = vload(y + (size_t)i * ldy + c * LANES);
    for (int p = 0; p < r; p++) {
        const float *b = bt + (size_t)p * ldb;
        UNROLL for (int i = 0; i < rows; i++)
        {
            vec a = vset(t[(size_t)i * ldt + (size_t)p]);
            UNROLL for (int c = 0; c < cols; c++) acc[i][c] = vfma(a, vload(b + c * LANES), acc[i][c]);
        }
    }
    UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int c = 0; c < cols; c++) vstore(y + (size_t)i * ldy + c * LANES, acc[i][c]);
}

INLINE void expand_tail(int rows, int n, float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int r)
{
    vec acc[4];
    UNROLL for (int i = 0; i < rows; i++) acc[i] = vload_n(y + (size_t)i * ldy, n);
    for (int p = 0; p < r; p++) {
        vec b = vload_n(bt + (size_t)p * ldb, n);
        UNROLL for (int i = 0; i < rows; i++) acc[i] = vfma(vset(t[(size_t)i * ldt + (size_t)p]), b, acc[i]);
    }
    UNROLL for (int i = 0; i < rows; i++) vstore_n(y + (size_t)i * ldy, acc[i], n);
}

INLINE void expand_strip(int rows, float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int n, int r)
{
    int j = 0;
    for (; j + EXPAND_COLS * LANES <= n; j += EXPAND_COLS * LANES) expand_tile(rows, EXPAND_COLS, y + j, ldy, t, ldt, bt + j, ldb, r);
    for (; j + LANES <= n; j += LANES) expand_tile(rows, 1, y + j, ldy, t, ldt, bt + j, ldb, r);
    if (j < n) expand_tail(rows, n - j, y + j, ldy, t, ldt, bt + j, ldb, r);
}

static void expand_add(float *y, size_t ldy, const float *t, size_t ldt, const float *bt, size_t ldb, int m, int n, int r)
{
    for (int i = 0, rows; i < m; i += rows, y += (size_t)rows * ldy, t += (size_t)rows * ldt) {
        rows = m - i < 4 ? m - i : 4;
        switch (rows) {
        case 1: expand_strip(1, y, ldy, t, ldt, bt, ldb, n, r); break;
        case 2: expand_strip(2, y, ldy, t, ldt, bt, ldb, n, r); break;
        case 3: expand_strip(3, y, ldy, t, ldt, bt, ldb, n, r); break;
        case 4: expand_strip(4, y, ldy, t, ldt, bt, ldb, n, r); break;
        }
    }
}

/* ---- element by element ---- */

INLINE float vsum(vec v)
{
    return _mm_cvtss_f32(vsum4(v, v, v, v));
}

static void rmsnorm(float *y, const float *x, const float *w, int k, float eps)
{
    vec s[4] = {vset(0), vset(0), vset(0), vset(0)};
    int i = 0;
    for (; i + 4 * LANES <= k; i += 4 * LANES)
        UNROLL for (int c = 0; c < 4; c++)
        {
            vec v = vload(x + i + c * LANES);
            s[c] = vfma(v, v, s[c]);
        }
    for (; i < k; i += LANES) {
        vec v = vload_n(x + i, k - i < LANES ? k - i : LANES);
        s[0] = vfma(v, v, s[0]);
    }
    float sum = vsum(vadd(vadd(s[0], s[1]), vadd(s[2], s[3])));
    vec inv = vset(1.0f / sqrtf(sum / (float)k + eps));
    for (i = 0; i + LANES <= k; i += LANES) vstore(y + i, vmul(vload(w + i), vmul(vload(x + i), inv)));
    if (i < k) vstore_n(y + i, vmul(vload_n(w + i, k - i), vmul(vload_n(x + i, k - i), inv)), k - i);
}

static void rope(float *v, const float *cos, const float *sin, int half)
{
    for (int i = 0; i < half; i += LANES) {
        int n = half - i < LANES ? half - i : LANES;
        vec a = vload_n(v + i, n), b = vload_n(v + half + i, n), c = vload_n(cos + i, n), s = vload_n(sin + i, n);
        vstore_n(v + i, vsub(vmul(a, c), vmul(b, s)), n);
        vstore_n(v + half + i, vadd(vmul(b, c), vmul(a, s)), n);
    }
}

INLINE vec silu_times(vec g, vec u)
{
    return vmul(vdiv(g, vadd(vset(1), vexp(vsub(vset(0), g)))), u);
}

static void swiglu(float *gate, const float *up, int k)
{
    int i = 0;
    for (; i + LANES <= k; i += LANES) vstore(gate + i, silu_times(vload(gate + i), vload(up + i)));
    if (i < k) vstore_n(gate + i, silu_times(vload_n(gate + i, k - i), vload_n(up + i, k - i)), k - i);
}

static void add(float *y, const float *x, int k)
{
    int i = 0;
    for (; i + LANES <= k; i += LANES) vstore(y + i, vadd(vload(y + i), vload(x + i)));
    if (i < k) vstore_n(y + i, vadd(vload_n(y + i, k - i), vload_n(x + i, k - i)), k - i);
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

static void to_half(void *dst, const float *src, int n)
{
    uint16_t *d = dst;
    int i = 0;
    for (; i + LANES <= n; i += LANES) vstore_half(d + i, vload(src + i));
    if (i == n) return;
    uint16_t last[LANES];
    vstore_half(last, vload_n(src + i, n - i));
    memcpy(d + i, last, sizeof *d * (size_t)(n - i));
}

/* One page as floats: in place, or converted into buf. */
static const float *page_floats(const void *page, bool half, int n, float *buf)
{
    const uint16_t *h = page;
    int i = 0;
    if (!half) return page;
    for (; i + LANES <= n; i += LANES) vstore(buf + i, vload_half(h + i));
    if (i == n) return buf;
    uint16_t last[LANES] = {0};
    memcpy(last, h + i, sizeof *h * (size_t)(n - i));
    vstore_n(buf + i, vload_half(last), n - i);
    return buf;
}

static void attend(float *out, const float *q, const void *const *keys, const void *const *vals, bool half, int page_len, int n_ctx, int group,
                   int hd, float scale, float *tmp)
{
    size_t row = ((size_t)n_ctx + 15) / 16 * 16, width = (size_t)hd;
    float *buf = tmp + row * (size_t)group;
    for (int p = 0, page = 0; p < n_ctx; p += page_len, page++) {
        int len = n_ctx - p < page_len ? n_ctx - p : page_len;
        gemm_strided(tmp + p, row, q, width, page_floats(keys[page], half, len * hd, buf), width, group, len, hd);
    }
    for (int g = 0; g < group; g++) softmax(tmp + (size_t)g * row, n_ctx, scale);
    memset(out, 0, sizeof *out * (size_t)group * width);
    for (int p = 0, page = 0; p < n_ctx; p += page_len, page++) {
        int len = n_ctx - p < page_len ? n_ctx - p : page_len;
        expand_add(out, width, tmp + p, row, page_floats(vals[page], half, len * hd, buf), width, group, hd, len);
    }
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
    *k = (ad_kernels){
        .name = name,
        .gemm_nt = gemm_nt,
        .expand_add = expand_add,
        .rmsnorm = rmsnorm,
        .rope = rope,
        .swiglu = swiglu,
        .add = add,
        .attend = attend,
        .to_half = to_half,
        .argmax = argmax,
        .sum_exp = sum_exp,
    };
}
