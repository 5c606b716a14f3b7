/* SPDX-License-Identifier: MIT */
/* One adapter version merged into a copy of the weights it touches, counted like the version itself: requests that
 * began on it keep it until they end. */
#ifndef AD_ADAPTERS_MERGE_H
#define AD_ADAPTERS_MERGE_H

#include "adapters/adapter.h"
#include "core/model/merged.h"

typedef struct ad_merge ad_merge;

/* May run on any thread; `a` is borrowed, and the merge takes its own reference when it is retained by the loop: see
 * ad_merge_bind. The caller owns one reference. */
AD_MUSTUSE ad_status ad_merge_build(ad_merge **out, const ad_adapter *a, const ad_model *base, ad_err *err);
/* Loop thread, once, after the build: keeps the version alive as long as the merge. */
void ad_merge_bind(ad_merge *m, ad_adapter *a);
ad_merge *ad_merge_retain(ad_merge *m);
void ad_merge_release(ad_merge **m); /* takes *m; NULL is fine; leaves *m NULL */

const ad_adapter *ad_merge_adapter(const ad_merge *m);
const ad_merged *ad_merge_weights(const ad_merge *m); /* borrowed while a reference is held */

#endif
