/* SPDX-License-Identifier: MIT */
/* The integer GEMMs, written once for any width. Included by one kernels_ISA.c, which defines before the inclusion:
 *
 *   qvec, fvec, QLANES          a register of QLANES int32, one of QLANES floats
 *   QROWS                       rows of a tile: QROWS integer and QROWS float accumulators
 *   qload(p)                    a register of bytes, 4 of each of QLANES outputs
 *   qlow(v) qhigh(v)            the low nibbles of all bytes, the high ones
 *   qstart(p)                   what a sum over a block of INT8 begins with: *p (-128 * activation sum) or 0
 *   qdot8(s, w, p) qdot4(s, w, p)   s += the 4 products of each output with the 4 activations at p; w = value + 128, or 0..15
 *   qfloat(s), fall(x), fmul, ffma(a, b, c), fhalf(p), fload(p), fzero, fstore_n(p, v, n)
 *
 * A block's integer sum is exact, so its order is free; the float sum walks over blocks in order, one lane per output:
 * neither tile shape nor neighbours enter. Any thread. */

#include <string.h>

#include "core/tensor/unroll.h"

enum { QPARTS = AD_PANEL / QLANES };

/* One register of outputs (part `part` of a panel) for `rows` rows. The first tile of a panel asks for what lies `ahead` bytes on: the
 * next panel. Left to the hardware, weights from memory came slower (int8, 8 rows, a Zen 4 core: 146 against 250 Gop/s);
 * a single row reads as fast as memory goes, and faster without (27 against 32 GB/s). */
INLINE void quant_tile(ad_pack type, int rows, bool fetch, size_t ahead, int part, float *y, size_t ldy, const char *x, size_t ldx, const char *w, int blocks, int width)
{
    const int groups = type == AD_PACK_INT8 ? 8 : 4; /* registers of codes in a block */
    const size_t part_bytes = (size_t)blocks * 4, at_scales = (size_t)blocks * AD_BLOCK;
    fvec acc[QROWS];
    UNROLL for (int i = 0; i < rows; i++) acc[i] = fzero;
    for (int b = 0; b < blocks; b++) {
        qvec s[QROWS];
        const char *codes = w + ad_pack_codes_at(type, b) + part * QLANES * 4, *scales = w + ad_pack_scales_at(type, b) + part * QLANES * (type == AD_PACK_INT4W ? 4 : 2);
        const char *in = x + b * AD_BLOCK, *per_block = x + at_scales + b * 4;
        UNROLL for (int i = 0; i < rows; i++) s[i] = type == AD_PACK_INT8 ? qstart(per_block + (size_t)i * ldx + 2 * part_bytes) : (qvec){0};
        UNROLL for (int g = 0; g < groups; g++)
        {
            qvec v = qload(codes + g * 64);
            if (fetch) __builtin_prefetch(codes + ahead + g * 64);
            if (type == AD_PACK_INT8) {
                UNROLL for (int i = 0; i < rows; i++) s[i] = qdot8(s[i], v, in + (size_t)i * ldx + g * 4);
            } else {
                qvec low = qlow(v), high = qhigh(v);
                UNROLL for (int i = 0; i < rows; i++) s[i] = qdot4(s[i], low, in + (size_t)i * ldx + g * 8);
                UNROLL for (int i = 0; i < rows; i++) s[i] = qdot4(s[i], high, in + (size_t)i * ldx + g * 8 + 4);
            }
        }
        if (fetch) __builtin_prefetch(scales + ahead);
        fvec min = fzero, scale = type == AD_PACK_INT4W ? fload(scales) : fhalf(scales);
        if (type == AD_PACK_INT4W) min = fload(scales + AD_PANEL * 4);
        if (type == AD_PACK_INT4) min = fhalf(scales + AD_PANEL * 2);
        UNROLL for (int i = 0; i < rows; i++)
        {
            const char *at = per_block + (size_t)i * ldx;
            acc[i] = ffma(qfloat(s[i]), fmul(scale, fall(at)), acc[i]);
            if (type != AD_PACK_INT8) acc[i] = ffma(min, fall(at + part_bytes), acc[i]);
        }
    }
    int n = width - part * QLANES;
    if (n <= 0) return;
    UNROLL for (int i = 0; i < rows; i++) fstore_n(y + (size_t)i * ldy + part * QLANES, acc[i], n < QLANES ? n : QLANES);
}

/* Rows of the next tile: full ones, but the last few shared evenly. */
static inline int quant_rows(int left)
{
    if (left <= QROWS) return left;
    return left >= 2 * QROWS ? QROWS : (left + 1) / 2;
}

INLINE void quant_gemm(ad_pack type, float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k)
{
    int blocks = (k + AD_BLOCK - 1) / AD_BLOCK;
    for (int j = 0; j < n; j += AD_PANEL, w = (const char *)w + panel_bytes)
        for (int i = 0, rows; i < m; i += rows) {
            const char *xi = (const char *)x + (size_t)i * ldx;
            float *yi = y + (size_t)i * ldy + j;
            rows = quant_rows(m - i);
            for (int part = 0; part < QPARTS; part++) {
                bool fetch = m > 1 && i == 0 && part == 0;
#define CASE(r) \
    case r: \
        if (r <= QROWS && fetch) quant_tile(type, r, true, panel_bytes, part, yi, ldy, xi, ldx, w, blocks, n - j); \
        else if (r <= QROWS) quant_tile(type, r, false, 0, part, yi, ldy, xi, ldx, w, blocks, n - j); \
        break
                switch (rows) {
                    CASE(1);
                    CASE(2);
                    CASE(3);
                    CASE(4);
                    CASE(5);
                    CASE(6);
                    CASE(7);
                    CASE(8);
                }
#undef CASE
            }
        }
}

static void gemm_int8(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    (void)add;
    quant_gemm(AD_PACK_INT8, y, ldy, x, ldx, w, panel_bytes, m, n, k);
}

static void gemm_int4(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    (void)add;
    quant_gemm(AD_PACK_INT4, y, ldy, x, ldx, w, panel_bytes, m, n, k);
}

static void gemm_int4w(float *y, size_t ldy, const void *x, size_t ldx, const void *w, size_t panel_bytes, int m, int n, int k, bool add)
{
    (void)add;
    quant_gemm(AD_PACK_INT4W, y, ldy, x, ldx, w, panel_bytes, m, n, k);
}

static void fill_quant(ad_kernels *k)
{
    k->gemm[AD_PACK_INT8] = gemm_int8;
    k->gemm[AD_PACK_INT4] = gemm_int4;
    k->gemm[AD_PACK_INT4W] = gemm_int4w;
}
