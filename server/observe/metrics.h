/* SPDX-License-Identifier: MIT */
/* Counters and histograms of the loop thread, and the text that scrapers get: from memory of the loop and atomics of the engine, nobody is asked. Bounded cardinality. */
#ifndef AD_OBSERVE_METRICS_H
#define AD_OBSERVE_METRICS_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/mem.h"

typedef struct ad_metrics ad_metrics;
struct ad_app;

/* top: adapters, and tenants, that have series of their own: see top.h. */
AD_MUSTUSE ad_status ad_metrics_new(ad_metrics **out, int top, ad_err *err);
void ad_metrics_free(ad_metrics **m);

/* One finished HTTP request. */
typedef struct {
    const char *route;       /* a route table's label, or "other"; static */
    int status;
    uint64_t duration_ns;
    const char *reason;      /* why it failed, static; NULL: it did not */
    bool infers;             /* it asked for an answer of a model, and counts for its tenant */
    bool generates;          /* it came to be one, and counts for its adapter */
    const char *tenant;      /* NULL: not known */
    const char *adapter;     /* the first of them; "" : the base */
    const char *base;        /* the base's served name */
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
} ad_metrics_exchange;
void ad_metrics_request(ad_metrics *m, const ad_metrics_exchange *x);
void ad_metrics_ttft(ad_metrics *m, uint64_t ns);              /* request start to first token */
void ad_metrics_inter_token(ad_metrics *m, uint64_t ns);
void ad_metrics_tokens(ad_metrics *m, int prompt, int generated); /* of one finished request */
typedef enum { AD_ENDED_STOP, AD_ENDED_LENGTH, AD_ENDED_ABORT, AD_ENDS } ad_metrics_end;
void ad_metrics_ended(ad_metrics *m, ad_metrics_end why);       /* one choice; aborted: its client left */
void ad_metrics_rejected(ad_metrics *m);                        /* a 503 for a full queue */

/* Appends the exposition text, of format 0.0.4 or OpenMetrics; reads the worker's atomics through app. */
void ad_metrics_write(const ad_metrics *m, const struct ad_app *app, bool open_metrics, ad_buf *out);

#endif
