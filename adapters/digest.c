/* SPDX-License-Identifier: MIT */
/* The identity of an adapter. */
#include "adapters/load.h"

static void add_tensor(ad_hasher *h, const ad_tensor *t)
{
    int32_t type = (int32_t)t->dtype;
    ad_hasher_add(h, &type, sizeof type);
    ad_hasher_add(h, t->data, t->bytes);
}

ad_status ad_load_digest(const ad_loader *l, ad_digest *out, ad_err *err)
{
    ad_hasher *h = NULL;
    ad_status st = ad_hasher_new(&h, err);
    if (st != AD_OK) return st;
    for (int i = 0; i < l->n_modules; i++) {
        const ad_load_pair *p = &l->pairs[i];
        struct {
            int32_t module, rank;
            float scale;
        } head = {i, p->plan.rank, p->plan.scale};
        if (!head.rank) continue;
        ad_hasher_add(h, &head, sizeof head);
        add_tensor(h, p->a);
        add_tensor(h, p->b);
    }
    return ad_hasher_finish(&h, out, err);
}
