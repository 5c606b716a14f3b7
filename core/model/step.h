/* SPDX-License-Identifier: MIT */
/* One forward step over a ragged batch: rows are tokens of any sequences, each with its own position, KV
 * pages and adapter. A row's result does not depend on the other rows, bit for bit. Engine thread. */
#ifndef AD_MODEL_STEP_H
#define AD_MODEL_STEP_H

#include "core/base/team.h"
#include "core/model/lowrank.h"
#include "core/model/merged.h"
#include "core/model/model.h"
#include "core/tensor/kernels.h"

typedef enum { AD_KV_F32, AD_KV_F16 } ad_kv_type;

typedef struct ad_scratch ad_scratch;

/* Bytes of one page: [layers][key, value][kv_heads] blocks of numbers; keys [head_dim, AD_KV_PAGE], values [AD_KV_PAGE, head_dim]. */
size_t ad_kv_page_bytes(const ad_model *m, ad_kv_type type);

typedef struct {
    int n_rows;                         /* <= max_rows */
    const int32_t *tokens;              /* [n_rows] */
    const int *positions;               /* [n_rows]; rows of one sequence ascend */
    void *const *const *pages;          /* [n_rows]: the row's page table; holds its position and all before */
    const ad_mix *const *mixes;         /* [n_rows]; NULL = base. Equal ones side by side run together */
    const ad_merged *const *merged;     /* [n_rows] weights instead of the model's; NULL = the model's. Equal ones side by side share GEMMs */
    int n_out;                          /* <= max_out */
    const int *out_rows;                /* [n_out] rows whose logits are wanted */
    float *logits;                      /* [n_out, vocab] result */
    int n_states;                       /* <= n_rows */
    const int *state_rows;              /* [n_states] rows whose last hidden state is wanted; none of out_rows */
    float *states;                      /* [n_states, hidden] result, behind the final norm */
} ad_step_batch;

/* Buffers for steps of at most max_rows rows, max_out outputs and `context` positions, over pages of one type. The
 * kernel table and the team are borrowed until the scratch is freed. */
AD_MUSTUSE ad_status ad_scratch_new(ad_scratch **out, const ad_model *m, const ad_kernels *k, ad_team *team, int max_rows,
                                    int max_out, int context, ad_kv_type kv_type, ad_err *err);
void ad_scratch_free(ad_scratch **s); /* NULL is fine */
/* Makes room for the ranks of this mix; must be called before a step that uses it. NULL is fine. */
AD_MUSTUSE ad_status ad_scratch_reserve(ad_scratch *s, const ad_mix *mix, ad_err *err);
/* Whether the sum is defined. AD_EINVAL: a set that is `alone` is mixed with others or weighted. A step takes no such mix. */
AD_MUSTUSE ad_status ad_mix_check(const ad_mix *mix, ad_err *err);
bool ad_mix_equal(const ad_mix *a, const ad_mix *b); /* the same sets with the same weights in the same order; NULL is the base */

/* Computes batch->logits and batch->states and appends the rows' keys and values to their pages. */
void ad_model_step(const ad_model *m, ad_scratch *s, const ad_step_batch *batch);

#endif
