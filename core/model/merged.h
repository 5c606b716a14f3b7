/* SPDX-License-Identifier: MIT */
/* Weights with one adapter merged in, W' = W + scale * B A, or with DoRA W' = factor * (W + scale * B A), for every module it
 * adapts; the pristine W stay beside them. What an adapter replaces or adds as a vector is not merged but read from its set.
 * Immutable once built: any thread may read. Built by any one thread. */
#ifndef AD_MODEL_MERGED_H
#define AD_MODEL_MERGED_H

#include "core/model/lowrank.h"
#include "core/model/model.h"

typedef struct ad_merged ad_merged;

/* set fits m; both must outlive the result. Computed in f32 from the file's values and packed like the base's; 4-bit weights
 * become 8-bit ones. AD_ENOMEM; AD_EUNSUPPORTED for a corrected head with token rows of its own, which take no correction. */
AD_MUSTUSE ad_status ad_merged_new(ad_merged **out, const ad_model *m, const ad_lowrank_set *set, ad_err *err);
void ad_merged_free(ad_merged **w); /* NULL is fine */
/* What ad_merged_new would take. */
size_t ad_merged_bytes(const ad_model *m, const ad_lowrank_set *set);
/* W' of a module in the layout of its W; NULL: the adapter leaves it alone. */
const ad_matrix *ad_merged_weight(const ad_merged *w, int module);
/* The set alone with weight 1, for its parts beside pairs (factors are merged); NULL: it has none. */
const ad_mix *ad_merged_mix(const ad_merged *w);

/* Lengths of the outputs of W + scale * B A, for DoRA: of its rows, of an embedding's columns; n[out]. The module has a pair;
 * the set's parts are not read. */
AD_MUSTUSE ad_status ad_merged_norms(const ad_model *m, const ad_lowrank_set *set, int module, float *n, ad_err *err);

#endif
