/* SPDX-License-Identifier: MIT */
#include "server/api/metering.h"

#include <inttypes.h>
#include <string.h>

/* ---- refusals ---- */

static void set_number(ad_http_exchange *x, const char *name, int64_t value)
{
    char text[24];
    snprintf(text, sizeof text, "%" PRId64, value);
    ad_http_set_header(x, name, text);
}

/* What the official clients go by: ms first, then whole seconds; and whether to try again at all. */
static void set_retry_headers(ad_http_exchange *x, const ad_excess *e, bool quota)
{
    set_number(x, "Retry-After", (e->wait_ms + 999) / 1000);
    set_number(x, "retry-after-ms", e->wait_ms);
    if (quota) ad_http_set_header(x, "x-should-retry", "false");
}

static bool refuse(ad_http_exchange *x, const ad_excess *e, ad_fault *f)
{
    char wait[AD_DURATION_TEXT];
    const char *whose = e->of_key ? "key" : "tenant", *what = ad_limit_text(e->limit);
    bool quota = e->limit == AD_LIMIT_PROMPT_DAY || e->limit == AD_LIMIT_GENERATED_DAY;
    if (e->never)
        return ad_fault_set(f, 400, "request_too_large", NULL, "The request takes up to %" PRId64 " tokens, which the %s's limit of %" PRId64 " %s never allows.",
                            e->wanted, whose, e->value, what);
    set_retry_headers(x, e, quota);
    ad_duration_text(e->wait_ms, wait);
    if (quota)
        return ad_fault_set(f, 429, "insufficient_quota", NULL,
                            "The %s's limit of %" PRId64 " %s leaves no room for up to %" PRId64 " more today; a new day begins in %s, at midnight UTC.", whose, e->value,
                            what, e->wanted, wait);
    return ad_fault_set(f, 429, "rate_limit_exceeded", NULL, "The %s's limit of %" PRId64 " %s is reached; try again in %s.", whose, e->value, what, wait);
}

/* ---- a request ---- */

bool ad_metering_begin(ad_metering *m, ad_app *app, ad_http_exchange *x, ad_fault *f)
{
    ad_excess why;
    const ad_caller *caller = ad_caller_of(x);
    m->app = app;
    if (!ad_charge_begin(&m->charge, &caller->tenant->allowance, caller->key ? &caller->key->allowance : NULL, ad_clock_now(), &why)) return refuse(x, &why, f);
    m->caller = ad_caller_retain(caller);
    strcpy(m->row.tenant, caller->tenant->name);
    if (caller->key) strcpy(m->row.key, caller->key->id);
    return true;
}

void ad_metering_bound_context(const ad_metering *m, ad_request_context *cx)
{
    bool of_key = false;
    int64_t limit = ad_charge_limit(&m->charge, AD_LIMIT_CONTEXT, &of_key);
    if (!limit || limit >= cx->context) return;
    cx->context = (int)limit;
    cx->context_note = of_key ? " by the limit of this key" : " by the limit of this tenant";
}

void ad_metering_set_adapters(ad_metering *m, const ad_lease *l)
{
    ad_stored_usage *u = &m->row;
    size_t used = 0;
    for (int i = 0; i < l->n && used < sizeof u->adapter; i++)
        used += (size_t)snprintf(u->adapter + used, sizeof u->adapter - used, "%s%s", i ? "+" : "", l->versions[i]->entry ? l->versions[i]->entry->name : "");
    if (l->n == 1) u->version = l->versions[0]->digest;
}

static ad_token_counts most_of(const ad_request *r, int context)
{
    ad_token_counts most = {0};
    for (int i = 0; i < r->n_prompts; i++) {
        most.prompt += (int64_t)r->prompts[i].ids.count;
        if (!r->pooling) most.generated += (int64_t)r->best_of * ad_request_max_tokens(r, i, context);
    }
    return most;
}

static bool bound_tokens(const ad_metering *m, ad_request *r, ad_fault *f)
{
    bool of_key = false;
    int64_t each = ad_charge_limit(&m->charge, AD_LIMIT_MAX_TOKENS, &of_key);
    if (r->pooling) return true;
    if (!r->max_tokens_given) r->sampling.max_tokens = (int)ad_charge_default_tokens(&m->charge, (int64_t)r->n_prompts * r->best_of, r->sampling.max_tokens);
    else if (each && r->sampling.max_tokens > each)
        return ad_fault_set(f, 400, "invalid_value", "max_tokens", "%d tokens are asked for, but the %s's limit is %" PRId64 " %s.", r->sampling.max_tokens, of_key ? "key" : "tenant", each,
                            ad_limit_text(AD_LIMIT_MAX_TOKENS));
    return true;
}

bool ad_metering_reserve(ad_metering *m, ad_request *r, int context, ad_http_exchange *x, ad_fault *f)
{
    ad_excess why;
    if (!bound_tokens(m, r, f)) return false;
    return ad_charge_reserve(&m->charge, most_of(r, context), ad_clock_now(), &why) || refuse(x, &why, f);
}

/* ---- headers ---- */

static void set_rate(ad_http_exchange *x, const char *what, ad_rate r)
{
    char name[48], text[AD_DURATION_TEXT];
    if (!r.limit) return;
    snprintf(name, sizeof name, "x-ratelimit-limit-%s", what);
    set_number(x, name, r.limit);
    snprintf(name, sizeof name, "x-ratelimit-remaining-%s", what);
    set_number(x, name, r.remaining);
    snprintf(name, sizeof name, "x-ratelimit-reset-%s", what);
    ad_http_set_header(x, name, ad_duration_text(r.reset_ms, text));
}

void ad_metering_write_headers(const ad_metering *m, ad_http_exchange *x)
{
    ad_rate requests, tokens;
    ad_charge_rates(&m->charge, ad_clock_now(), &requests, &tokens);
    set_rate(x, "requests", requests);
    set_rate(x, "tokens", tokens);
}

/* ---- the end ---- */

void ad_metering_add_engine_time(ad_metering *m, uint64_t ns) { m->row.engine_ns += (int64_t)ns; }

static void record(ad_metering *m, ad_metered used)
{
    ad_stored_usage u = m->row;
    u.day = (int)(time(NULL) / 86400);
    u.requests = !m->recorded;
    u.prompt_tokens = used.prompt;
    u.cached_tokens = used.cached;
    u.generated_tokens = used.generated;
    ad_ledger_add(m->app->ledger, &u);
    m->row.engine_ns = 0;
    m->recorded = true;
}

void ad_metering_end(ad_metering *m, ad_metered used)
{
    if (!m->caller) return;
    if (m->charge.begun) {
        ad_charge_settle(&m->charge, (ad_token_counts){used.prompt, used.generated}, ad_clock_now());
        if (used.prompt) record(m, used);
    } else if (m->recorded && m->row.engine_ns) {
        record(m, (ad_metered){0});
    }
}

void ad_metering_undo(ad_metering *m)
{
    if (m->caller) ad_charge_undo(&m->charge, ad_clock_now());
}

void ad_metering_deinit(ad_metering *m)
{
    if (m->caller) ad_caller_release(m->caller);
    m->caller = NULL;
}
