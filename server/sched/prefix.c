/* SPDX-License-Identifier: MIT */
#include "server/sched/prefix.h"

#include <string.h>

ad_status ad_prefix_root_of(ad_prefix_root *out, const ad_prefix_identity *id, ad_err *err)
{
    ad_hasher *h = NULL;
    ad_digest d;
    uint32_t head[2] = {(uint32_t)id->n, id->merged};
    uint64_t tenant = id->tenant.len, salt = id->salt.len;
    ad_status st = ad_hasher_new(&h, err);
    if (st != AD_OK) return st;
    ad_hasher_add(h, head, sizeof head);
    for (int i = 0; i < id->n; i++) {
        ad_hasher_add(h, id->adapters[i]->bytes, sizeof id->adapters[i]->bytes);
        ad_hasher_add(h, &id->weights[i], sizeof id->weights[i]);
    }
    ad_hasher_add(h, &tenant, sizeof tenant);
    ad_hasher_add(h, id->tenant.ptr, id->tenant.len);
    ad_hasher_add(h, &salt, sizeof salt);
    ad_hasher_add(h, id->salt.ptr, id->salt.len);
    st = ad_hasher_finish(&h, &d, err);
    if (st != AD_OK) return st;
    memcpy(out, d.bytes, sizeof *out);
    out->b |= 1; /* no page's own parent has that */
    return AD_OK;
}
