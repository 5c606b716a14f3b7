/* SPDX-License-Identifier: MIT */
/* The usage ledger: what was used, by UTC day, tenant, key, adapter and version. It gathers in memory and goes to the store in one transaction twice a second; what
 * gathered is forgotten only when that is committed. So a clean stop loses nothing, kill -9 what is younger than a second, and nothing is ever counted twice.
 * Loop thread only. */
#ifndef AD_TENANCY_USAGE_H
#define AD_TENANCY_USAGE_H

#include "server/store_thread.h"
#include "server/tenancy/tenancy.h"

ad_clock ad_clock_now(void);

/* ---- rows that add up ---- */

/* Zero-initialise. */
typedef struct {
    ad_stored_usage *rows;    /* [n] */
    size_t n, cap;
    uint32_t *slots;          /* [n_slots] a power of two, at most half of them taken: index of a row + 1; 0: free */
    size_t n_slots;
} ad_tally;

enum { AD_TALLY_ROWS = 20000 }; /* 6 MB; beyond them a tenant's new keys and adapters of a day become one row */
#define AD_USAGE_OTHER "(other)" /* the adapter of that row, which has no key and no version; no adapter can have this name */

AD_MUSTUSE ad_status ad_tally_add(ad_tally *t, const ad_stored_usage *u); /* AD_ENOMEM: nothing was added */
void ad_tally_deinit(ad_tally *t);

/* ---- the ledger ---- */

typedef struct ad_ledger ad_ledger;

typedef struct {
    uint64_t flushes, failures; /* transactions that were committed, that failed */
    size_t waiting;           /* rows that are not committed yet */
    uint64_t lost;            /* additions there was no memory for */
} ad_ledger_stats;

/* [db] What was used today counts for the limits of tenants and keys, once at start. */
AD_MUSTUSE ad_status ad_ledger_restore(ad_tenancy *t, ad_store *store, ad_clock now, ad_err *err);

/* store is borrowed until ad_ledger_close. */
AD_MUSTUSE ad_status ad_ledger_new(ad_ledger **out, uv_loop_t *loop, ad_store_thread *store, ad_err *err);
void ad_ledger_add(ad_ledger *l, const ad_stored_usage *u); /* copied */
/* Hands over what has gathered now: who then reads by the store's thread sees it, unless the store fails. */
void ad_ledger_flush(ad_ledger *l);
void ad_ledger_get_stats(const ad_ledger *l, ad_ledger_stats *out);
/* The last flush. Before the store's thread is closed, after the last ad_ledger_add; the memory goes with the answer. NULL is fine. */
void ad_ledger_close(ad_ledger **l);

#endif
