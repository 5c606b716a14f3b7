/* SPDX-License-Identifier: MIT */
/* What a request runs on: adapter versions found by name, leased, brought into memory, and the receipt that names them. Loop thread only. */
#ifndef AD_API_LEASE_H
#define AD_API_LEASE_H

#include "server/api/request.h"
#include "server/keeper/keeper.h"
#include "server/tenancy/scope.h"

typedef struct ad_lease ad_lease;
struct ad_lease {
    ad_app *app;
    ad_version *versions[AD_MAX_MIX]; /* leased */
    ad_wait waits[AD_MAX_MIX];        /* for those that are not in memory yet */
    int n, n_waiting;
    ad_mix mix;                       /* of them; n is 0 for the base */
    ad_merge *merge;                  /* retained; the only adapter's merged weights, or NULL: unmerged */
    ad_prefix_root root;
    char receipt[AD_MAX_MIX * 65];    /* digests of the versions, joined by commas; the base model's when there are none */
    void (*ready)(ad_lease *l, const ad_fault *f);
    void *user;
};

/* Finds and leases the versions that r->model and r->adapters name within the scope; an unknown name is never the base. False with *f filled when it is refused.
 * *l is zero before; release it with ad_lease_end either way. */
bool ad_lease_begin(ad_lease *l, ad_app *app, const ad_scope *scope, const ad_request *r, ad_fault *f);
/* Sees to it that they are in memory. True: either they are (l->n_waiting is 0), or ready(l, fault) follows once, fault NULL when they are there. */
bool ad_lease_load(ad_lease *l, void (*ready)(ad_lease *l, const ad_fault *f), void *user, ad_fault *f);
void ad_lease_stop_waiting(ad_lease *l); /* ready is not called any more */
void ad_lease_end(ad_lease *l);
/* For a sequence; borrowed until the lease ends. Valid once loaded. */
ad_seq_weights ad_lease_weights(const ad_lease *l);
/* What answers, into the reply's header x-adapter-version, and what is noted of the exchange. */
void ad_lease_write_header(const ad_lease *l, ad_http_exchange *x);
/* The same into a reply's body: adapter_version, and adapter_mode where it is not the base alone. */
void ad_lease_write_receipt(const ad_lease *l, json_t *body);
/* The same at the end of an object that is text already; an empty one, {}, it must not be. */
void ad_lease_put_receipt(const ad_lease *l, ad_buf *object);

#endif
