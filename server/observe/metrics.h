/* SPDX-License-Identifier: MIT */
/* Counters and histograms of the loop thread, and their Prometheus 0.0.4 text. Bounded cardinality. */
#ifndef AD_OBSERVE_METRICS_H
#define AD_OBSERVE_METRICS_H

#include <stdint.h>

#include "core/base/mem.h"

typedef struct ad_metrics ad_metrics;
struct ad_app;

AD_MUSTUSE ad_status ad_metrics_new(ad_metrics **out, ad_err *err);
void ad_metrics_free(ad_metrics **m);

/* One finished HTTP request. route is the route table's label, or "other". */
void ad_metrics_request(ad_metrics *m, const char *route, int status, uint64_t duration_ns);
void ad_metrics_ttft(ad_metrics *m, uint64_t ns);              /* request start to first token */
void ad_metrics_inter_token(ad_metrics *m, uint64_t ns);
void ad_metrics_tokens(ad_metrics *m, int prompt, int generated); /* of one finished request */
typedef enum { AD_ENDED_STOP, AD_ENDED_LENGTH, AD_ENDED_ABORT, AD_ENDS } ad_metrics_end;
void ad_metrics_ended(ad_metrics *m, ad_metrics_end why);       /* one choice; aborted: its client left */
void ad_metrics_rejected(ad_metrics *m);                        /* a 503 for a full queue */

/* Appends the exposition text; reads the worker's atomics through app. */
void ad_metrics_write(const ad_metrics *m, const struct ad_app *app, ad_buf *out);

#endif
