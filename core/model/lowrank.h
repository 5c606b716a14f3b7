/* SPDX-License-Identifier: MIT */
/* Low-rank corrections of one adapter version in the form the engine runs: y += scale * B (A x).
 * Built by adapters/, borrowed by the engine for as long as a sequence uses it. Immutable. */
#ifndef AD_MODEL_LOWRANK_H
#define AD_MODEL_LOWRANK_H

#include <stddef.h>

/* One module's pair. rank 0 = the module is not adapted (the rest is zero).
 * Linear:    a[rank, in] row-major; bt[rank, out] = B transposed.
 * Embedding: a[vocab, rank] = A transposed (a row per token); bt[rank, hidden] = B transposed. */
typedef struct {
    int rank;
    float scale; /* alpha / r, or alpha / sqrt(r) with rsLoRA; not folded into a or bt */
    const float *a;
    const float *bt;
} ad_lowrank;

/* All modules of an adapter; modules[ad_model_module_count()], indexed as ad_model_module.
 * The data lies in one block in execution order: per layer a(q) a(k) a(v) bt(q) bt(k) bt(v) a(o) bt(o)
 * a(gate) a(up) bt(gate) bt(up) a(down) bt(down). So the A matrices of modules that share their input
 * (q, k, v; gate, up) are contiguous and can be shrunk as one [sum of ranks, in] matrix. */
typedef struct {
    int n_modules;
    int max_rank;           /* largest single rank */
    size_t bytes;           /* of the block */
    const ad_lowrank *modules;
} ad_lowrank_set;

/* The corrections of one row: y += sum over i of weights[i] * scale_i * B_i (A_i x). One adapter is a mix of one with
 * weight 1. Borrowed and immutable like the sets. */
enum { AD_MAX_MIX = 8 };
typedef struct {
    int n;
    const ad_lowrank_set *sets[AD_MAX_MIX];
    float weights[AD_MAX_MIX];
} ad_mix;

#endif
