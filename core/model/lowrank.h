/* SPDX-License-Identifier: MIT */
/* Low-rank corrections of one adapter version in the form the engine runs: y += scale * B (A x).
 * Built by adapters/, borrowed by the engine for as long as a sequence uses it. Immutable. */
#ifndef AD_MODEL_LOWRANK_H
#define AD_MODEL_LOWRANK_H

#include "core/tensor/pack.h"

/* One module's pair. rank 0 = the module is not adapted (the rest is zero). */
typedef struct {
    int rank;
    int at;      /* even: where its rows begin in the stacked A of its group */
    float scale; /* alpha / r, or alpha / sqrt(r) with rsLoRA; not folded into A or B */
    ad_matrix b; /* [out, rank rounded up to even]; an embedding's out is the hidden size */
} ad_lowrank;

/* What an adapter has of one module beside its pair; absent parts are NULL or have no data. Vectors are f32. */
typedef struct {
    ad_matrix weight;    /* stands for the base's, in its layout and of type ad_model_merged_type */
    const float *bias;   /* [out] stands for the base's, which may have none */
    const float *added;  /* [out] the pair's own bias, times its scale: added to the bias */
    const float *factor; /* [out] DoRA: y = factor * (W x + scale B A x) + bias, with factor = magnitude / ||W + scale B A|| by output */
} ad_module_parts;

/* Rows of the embedding, or of the head, that stand for the base's. */
typedef struct {
    int n;              /* 0: none */
    const int32_t *ids; /* [n] tokens, ascending */
    ad_matrix rows;     /* [n, hidden] */
} ad_token_rows;

/* What an adapter has beside low-rank pairs. */
typedef struct {
    const ad_module_parts *modules; /* [ad_model_module_count()] */
    const float *const *norms;      /* [2 * layers + 1]: each layer's norms before attention and before the MLP, the final norm; NULL: the base's */
    ad_token_rows embed, head;
    bool linears;                   /* some module of a layer has a weight of its own */
} ad_parts;

/* All modules of an adapter; modules[ad_model_module_count()], indexed as ad_model_module.
 * Modules that share their input form a group (ad_model_group_of): q k v; o; gate up; down; embedding; head. Their A stand
 * one below the other in one matrix, each filled up to an even number of rows, and are shrunk as one.
 * The data lies in one block in execution order: per layer A(qkv) B(q) B(k) B(v) A(o) B(o) A(gate, up) B(gate) B(up) A(down)
 * B(down), then embedding and head. Parts stand where they are read: a weight of its own where the pair would be, vectors
 * behind the module's B. */
typedef struct {
    int n_modules;
    int max_rank;               /* largest single rank */
    int max_stack;              /* most rows of a stacked A, a multiple of 16 */
    size_t bytes;               /* of the block */
    ad_pack type;               /* of all matrices: AD_PACK_F32 or AD_PACK_BF16, as ad_model_adapter_type asks */
    const ad_lowrank *modules;
    const ad_matrix *a;         /* [ad_model_group_count()]: [stacked rows, in]; rows 0 = none of the group is adapted */
    const ad_parts *parts;      /* NULL: pairs only, which is what costs least */
    bool alone;                 /* replaces or rescales something: can only be the one adapter of a mix, with weight 1 */
} ad_lowrank_set;

/* The corrections of one row: y += sum over i of weights[i] * scale_i * B_i (A_i x). One adapter is a mix of one with
 * weight 1. Biases of pairs add up like the pairs; a set that is `alone` is not mixed. Borrowed and immutable like the sets. */
enum { AD_MAX_MIX = 8 };
typedef struct {
    int n;
    const ad_lowrank_set *sets[AD_MAX_MIX];
    float weights[AD_MAX_MIX];
} ad_mix;

#endif
