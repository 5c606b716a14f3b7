/* SPDX-License-Identifier: MIT */
/* Weights as the kernels read them: panels of 16 outputs, packed once, streamed from front to back. Any thread.
 *
 * W[rows, cols] is cut into panels of AD_PANEL rows (outputs of y = W x); the last is filled up with zeros. In a panel
 * the values of 16 outputs for the same input stand side by side, so one register holds one input of 16 outputs:
 *
 *   F32    [cols][16]                 float
 *   BF16   [cols / 2][16][2]          uint16: pairs of inputs, as dot-product instructions take them
 *   INT8   pairs of blocks: [8][16][4] uint8 = value + 128, groups of four inputs; [2][16] half scales of
 *          both blocks; [8][16][4] of the second
 *   INT4   blocks: [4][16][4] low nibbles: inputs 8g .. 8g + 3, high ones: 8g + 4 .. 8g + 7; [2][16] halves: scale, minimum
 *   INT4W  as INT4 with float scales and minima: what Q4_K needs to stay exact
 *
 * Everything a row of work reads lies in one line from front to back: that is what a core reads fastest from memory.
 *
 * Blocks are AD_BLOCK inputs; cols is filled up with zeros to whole pairs or blocks.
 * INT8: value = scale * q, q in -127..127. INT4: value = scale * q + minimum, q in 0..15. */
#ifndef AD_TENSOR_PACK_H
#define AD_TENSOR_PACK_H

#include "core/tensor/dtype.h"

typedef enum { AD_PACK_F32, AD_PACK_BF16, AD_PACK_INT8, AD_PACK_INT4, AD_PACK_INT4W, AD_PACK_KINDS } ad_pack;
enum { AD_PANEL = 16, AD_BLOCK = 32 };

typedef struct {
    ad_pack type;
    int rows, cols;
    size_t panel_bytes;
    const void *data; /* panels of 16 rows, each at a cache line; borrowed */
} ad_matrix;

const char *ad_pack_name(ad_pack type); /* "f32", "bf16", "int8", "int4"; both kinds of int4 have one name */
/* Bytes of one panel, a multiple of 64; of all panels. */
size_t ad_pack_panel_bytes(ad_pack type, int cols);
size_t ad_pack_bytes(ad_pack type, int rows, int cols);
/* Of a block's codes and scales in a panel of a block type. */
static inline size_t ad_pack_codes_at(ad_pack type, int block)
{
    if (type == AD_PACK_INT8) return (size_t)(block / 2) * (2 * 512 + 64) + (size_t)(block % 2) * (512 + 64);
    return (size_t)block * (type == AD_PACK_INT4 ? 256 + 64 : 256 + 128);
}

static inline size_t ad_pack_scales_at(ad_pack type, int block)
{
    if (type == AD_PACK_INT8) return (size_t)(block / 2) * (2 * 512 + 64) + 512 + (size_t)(block % 2) * 32;
    return ad_pack_codes_at(type, block) + 256;
}

/* data is borrowed by the result. */
ad_matrix ad_matrix_at(ad_pack type, int rows, int cols, const void *data);

/* One panel from rows[n, cols] (n <= 16). False: a value is not finite or too large for the type; the panel is then undefined. */
bool ad_pack_panel(ad_pack type, void *panel, const float *rows, int n, int cols);

/* Lanes [lane, lane + n) of a panel of F32 or BF16 from rows that are in that form already, as activations of the type are (odd rows of bf16 end
 * with a zero); they are `stride` bytes apart and may be unaligned. The other lanes keep what they hold. False: a value is not finite. */
bool ad_pack_lanes(ad_pack type, void *panel, int lane, const void *rows, size_t stride, int n, int cols);

/* The packed type that holds every value of a block format exactly (Q4_0, Q4_1, Q4_K; Q8_0, Q5_0); false: there is none. */
bool ad_pack_exact(ad_dtype from, ad_pack *type);
/* One panel from n rows of such a format, by its codes: of the exact type, or INT8 from 4-bit codes (scale * code stays, the
 * minimum moves to the nearest multiple of a scale chosen for that). False as above, or when the type does not hold a code. */
bool ad_pack_panel_codes(ad_pack type, void *panel, ad_dtype from, const void *const *rows, int n, int cols);

/* Values [begin, end) of one row; begin and end need no alignment. */
void ad_matrix_read(const ad_matrix *m, int row, int begin, int end, float *dst);

/* ---- activations: what stands on the other side ---- */

/* A row of `cols` activations as the kernels of a weight type read it: floats, bf16, or for the INT types
 *   int8 q[blocks * 32], float scale[blocks], float scale * sum(q)[blocks], int32 -128 * sum(q)[blocks]. */
typedef enum { AD_ACT_F32, AD_ACT_BF16, AD_ACT_INT8, AD_ACT_KINDS } ad_act;
#define AD_ACT_TINY 1e-30f /* a block without a larger magnitude counts as zeros: 127 / it could overflow */
ad_act ad_act_of(ad_pack type);
/* Bytes from one row to the next: whole cache lines, and no multiple of 4096, where rows would share cache sets. */
size_t ad_act_stride(ad_act act, int cols);

#endif
