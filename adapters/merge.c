/* SPDX-License-Identifier: MIT */
#include "adapters/merge.h"

#include <stdlib.h>

#include "core/base/mem.h"

struct ad_merge {
    int refs;
    ad_adapter *adapter;
    ad_merged *weights;
};

ad_status ad_merge_build(ad_merge **out, const ad_adapter *a, const ad_model *base, ad_err *err)
{
    ad_merge *m = ad_calloc(1, sizeof *m);
    if (!m) return ad_fail(err, AD_ENOMEM, "merged weights: out of memory");
    m->refs = 1;
    ad_status st = ad_merged_new(&m->weights, base, ad_adapter_lowrank(a), err);
    if (st == AD_OK) *out = m;
    else ad_merge_release(&m);
    return st;
}

void ad_merge_bind(ad_merge *m, ad_adapter *a)
{
    m->adapter = ad_adapter_retain(a);
}

ad_merge *ad_merge_retain(ad_merge *m)
{
    m->refs++;
    return m;
}

void ad_merge_release(ad_merge **mp)
{
    ad_merge *m = *mp;
    *mp = NULL;
    if (!m || --m->refs > 0) return;
    ad_adapter_release(&m->adapter);
    ad_merged_free(&m->weights);
    free(m);
}

const ad_adapter *ad_merge_adapter(const ad_merge *m) { return m->adapter; }
const ad_merged *ad_merge_weights(const ad_merge *m) { return m->weights; }
