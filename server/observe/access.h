/* SPDX-License-Identifier: MIT */
/* What becomes known of a request beside HTTP while it is answered, for its log line, metrics and the audit log: whoever learns something notes it. Loop thread only. */
#ifndef AD_OBSERVE_ACCESS_H
#define AD_OBSERVE_ACCESS_H

#include "server/http/http.h"
#include "server/observe/trace.h"

enum { AD_ACCESS_TEXT = 200 };

/* The exchange's ad_http_note, all zero at first. Strings are static unless they are arrays, which are cut to fit. */
typedef struct {
    ad_trace trace;
    bool traced;              /* trace is there */
    bool generates;           /* adapters (or the base) were found for it */
    char adapters[AD_ACCESS_TEXT]; /* names of the adapters, whole, joined by commas; "" : the base */
    uint64_t prompt_tokens, cached_tokens, generated_tokens;
    uint64_t ttft_ns;         /* 0: there was no token */
    const char *reason;       /* of a failure: a fault's code; NULL: by status */
    bool audited;             /* somebody else writes its row of the audit log */
    char object[AD_ACCESS_TEXT]; /* of a change: what it changes, when the path does not tell */
    char detail[AD_ACCESS_TEXT]; /* of a change: to what */
} ad_access;

/* NULL: this server keeps none. */
ad_access *ad_access_of(const ad_http_exchange *x);
/* The trace of the request, begun when it is asked for first; NULL as above. */
const ad_trace *ad_access_trace(const ad_http_exchange *x);
/* ad_http_options.put_headers: traceparent, and the request's tracestate when its trace goes on. */
void ad_access_put_headers(void *app, const ad_http_exchange *x, ad_buf *out);

/* Each is fine where none is kept. */
void ad_access_fail(const ad_http_exchange *x, const char *reason);
void ad_access_name(const ad_http_exchange *x, const char *object);
void ad_access_tell(const ad_http_exchange *x, const char *fmt, ...) AD_PRINTF(2, 3);

/* Why an exchange that ended with this status failed, in a few words that are always the same ones; NULL: it did not. a may be NULL. */
const char *ad_access_reason(const ad_access *a, int status);

/* The end of it. */
typedef struct {
    const char *tenant, *key; /* of the caller; NULL: not known. key: the key's id, never the key */
    const char *route;        /* a route table's label, or "other" */
    bool quiet;               /* of health and metrics: said at level debug unless it is a refusal */
    int status;
    uint64_t duration_ns;
    unsigned long long bytes;
} ad_access_end;
/* The access log's line. */
void ad_access_log(const ad_http_exchange *x, const ad_access_end *end);

#endif
