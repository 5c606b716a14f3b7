/* SPDX-License-Identifier: MIT */
#include "server/api/ended.h"

#include <stdio.h>
#include <string.h>

#include "server/api/audit.h"
#include "server/api/auth.h"
#include "server/observe/access.h"

/* The first adapter of several stands for all of them: what was computed is counted once. */
static void count(ad_app *app, const ad_access *a, const ad_access_end *end, bool infers)
{
    char first[sizeof a->adapters];
    snprintf(first, sizeof first, "%.*s", (int)strcspn(a->adapters, ","), a->adapters);
    ad_metrics_exchange x = {
        .route = end->route, .status = end->status, .duration_ns = end->duration_ns, .reason = ad_access_reason(a, end->status), .infers = infers, .generates = a->generates,
        .tenant = end->tenant, .adapter = first, .base = app->served_name,
        .prompt_tokens = a->prompt_tokens, .cached_tokens = a->cached_tokens, .generated_tokens = a->generated_tokens,
    };
    ad_metrics_request(app->metrics, &x);
}

void ad_exchange_ended(void *arg, const ad_http_exchange *x, int status, uint64_t duration_ns, size_t bytes_out)
{
    ad_app *app = arg;
    const ad_http_route *r = ad_http_matched_route(x);
    const ad_caller *caller = ad_caller_of(x); /* NULL: it had no route, or no key that counts */
    ad_access_end end = {
        .tenant = caller ? caller->tenant->name : NULL, .key = caller && caller->key ? caller->key->id : NULL,
        .route = r ? r->label : "other", .quiet = r && (r->verb == AD_VERB_OPEN || r->verb == AD_VERB_METRICS),
        .status = status, .duration_ns = duration_ns, .bytes = bytes_out,
    };
    count(app, ad_access_of(x), &end, r && r->verb == AD_VERB_INFER);
    ad_access_log(x, &end);
    ad_audit_exchange(app, x, status);
}
