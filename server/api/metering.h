/* SPDX-License-Identifier: MIT */
/* What one request takes of its sender's limits, and what of it the usage ledger gets to know. Loop thread only. */
#ifndef AD_API_METERING_H
#define AD_API_METERING_H

#include "server/api/auth.h"
#include "server/api/lease.h"
#include "server/tenancy/usage.h"

/* Embedded in what meters itself, zero before. */
typedef struct {
    ad_app *app;
    const ad_caller *caller;  /* retained; NULL: it has not begun, or was refused at once */
    ad_charge charge;
    ad_stored_usage row;      /* who, and which adapter; its counts are 0, but for engine time that is not in the ledger yet */
    bool recorded;            /* the ledger has it */
} ad_metering;

/* A request of the exchange's sender begins. False with *f filled, a 429: one of its limits is reached. */
bool ad_metering_begin(ad_metering *m, ad_app *app, ad_http_exchange *x, ad_fault *f);
/* What its sender's limits make of the context. */
void ad_metering_bound_context(const ad_metering *m, ad_request_context *cx);
void ad_metering_set_adapters(ad_metering *m, const ad_lease *l);
/* Takes tokens for all that the request may compute, and bounds how many it generates when it does not say so. False with *f filled: 429, or 400 for what no waiting makes possible. */
bool ad_metering_reserve(ad_metering *m, ad_request *r, int context, ad_http_exchange *x, ad_fault *f);
/* x-ratelimit-*, when there are such limits. Once per exchange. */
void ad_metering_write_headers(const ad_metering *m, ad_http_exchange *x);
void ad_metering_add_engine_time(ad_metering *m, uint64_t ns);

typedef struct {
    int64_t prompt, cached, generated;
} ad_metered;
/* It has ended, and used this. Gives back what it did not use; the ledger hears of it when it computed anything. May be called again when it is really over: then only engine
 * time that came since is added. */
void ad_metering_end(ad_metering *m, ad_metered used);
/* It was refused for what is not its fault before it computed anything: it does not count. */
void ad_metering_undo(ad_metering *m);
/* After end or undo. */
void ad_metering_deinit(ad_metering *m);

#endif
