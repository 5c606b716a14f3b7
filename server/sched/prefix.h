/* SPDX-License-Identifier: MIT */
/* Whose KV a sequence may share: only its own tenant's. Pure. */
#ifndef AD_SCHED_PREFIX_H
#define AD_SCHED_PREFIX_H

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/engine/engine.h"

typedef struct {
    const ad_digest *adapters[AD_MAX_MIX]; /* contents, in order; names never count */
    float weights[AD_MAX_MIX];
    int n;
    bool merged;      /* the only adapter's merged weights */
    ad_str salt;      /* cache_salt, or empty */
    ad_str tenant;    /* its id, which no other ever has, or empty: the server's own business */
} ad_prefix_identity;

/* The same for the same identity, and different for different ones up to collisions of SHA-256's first 128 bits: every
 * field is written with its length before it, so no two identities are the same bytes. */
AD_MUSTUSE ad_status ad_prefix_root_of(ad_prefix_root *out, const ad_prefix_identity *id, ad_err *err);

#endif
