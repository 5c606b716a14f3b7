/* SPDX-License-Identifier: MIT */
/* One forward step over a ragged batch: rows are tokens of any sequences, each with its own position, KV
 * pages and adapter. A row's result does not depend on the other rows, bit for bit. Engine thread. */
#ifndef AD_MODEL_STEP_H
#define AD_MODEL_STEP_H

#include "core/base/team.h"
#include "core/model/lowrank.h"
#include "core/model/model.h"
#include "core/tensor/kernels.h"

enum { AD_KV_PAGE = 16 }; /* positions per page */

typedef struct ad_scratch ad_scratch;

/* Floats in one page: [layers][key, value][kv_heads][AD_KV_PAGE][head_dim]. */
size_t ad_kv_page_floats(const ad_model *m);

typedef struct {
    int n_rows;                         /* <= max_rows */
    const int32_t *tokens;              /* [n_rows] */
    const int *positions;               /* [n_rows]; rows of one sequence ascend */
    float *const *const *pages;         /* [n_rows]: the row's page table; holds its position and all before */
    const ad_lowrank_set *const *lowrank; /* [n_rows]; NULL = base. Equal ones side by side run together */
    int n_out;                          /* <= max_out */
    const int *out_rows;                /* [n_out] rows whose logits are wanted */
    float *logits;                      /* [n_out, vocab] result */
} ad_step_batch;

/* Buffers for steps of at most max_rows rows, max_out outputs and `context` positions. The kernel table and
 * the team are borrowed until the scratch is freed. */
AD_MUSTUSE ad_status ad_scratch_new(ad_scratch **out, const ad_model *m, const ad_kernels *k, ad_team *team, int max_rows,
                                    int max_out, int context, ad_err *err);
void ad_scratch_free(ad_scratch **s); /* NULL is fine */
/* Makes room for adapters of this rank; must be called before a step that uses one. */
AD_MUSTUSE ad_status ad_scratch_reserve_rank(ad_scratch *s, int rank, ad_err *err);

/* Computes batch->logits and appends the rows' keys and values to their pages. */
void ad_model_step(const ad_model *m, ad_scratch *s, const ad_step_batch *batch);

#endif
