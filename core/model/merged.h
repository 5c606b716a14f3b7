/* SPDX-License-Identifier: MIT */
/* Weights with one adapter merged in, W' = W + scale * B A, for every module it adapts; the pristine W stay beside
 * them. Immutable once built: any thread may read. Built by any one thread. */
#ifndef AD_MODEL_MERGED_H
#define AD_MODEL_MERGED_H

#include "core/model/lowrank.h"
#include "core/model/model.h"

typedef struct ad_merged ad_merged;

/* set fits m (both are borrowed for the call; the result depends on m only). Computed in f32 from the file's values and packed
 * like the base's; 4-bit weights become 8-bit ones. AD_ENOMEM. */
AD_MUSTUSE ad_status ad_merged_new(ad_merged **out, const ad_model *m, const ad_lowrank_set *set, ad_err *err);
void ad_merged_free(ad_merged **w); /* NULL is fine */
/* What ad_merged_new would take. */
size_t ad_merged_bytes(const ad_model *m, const ad_lowrank_set *set);
/* W' of a module in the layout of its W; NULL: the adapter leaves it alone. */
const ad_matrix *ad_merged_weight(const ad_merged *w, int module);

#endif
