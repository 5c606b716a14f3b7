/* SPDX-License-Identifier: MIT */
#include "server/observe/access.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "server/observe/log.h"

ad_access *ad_access_of(const ad_http_exchange *x)
{
    return ad_http_note(x);
}

const ad_trace *ad_access_trace(const ad_http_exchange *x)
{
    ad_access *a = ad_access_of(x);
    if (!a) return NULL;
    if (!a->traced) ad_trace_begin(&a->trace, ad_http_header_at(x, "traceparent", 1) ? NULL : ad_http_header(x, "traceparent")); /* two of them are none */
    a->traced = true;
    return &a->trace;
}

void ad_access_put_headers(void *app, const ad_http_exchange *x, ad_buf *out)
{
    char header[AD_TRACEPARENT + 1];
    const ad_trace *t = ad_access_trace(x);
    (void)app;
    if (!t) return;
    ad_traceparent_write(t, header);
    ad_buf_printf(out, "traceparent: %s\r\n", header);
    const char *state;
    for (int i = 0; *t->parent_id && (state = ad_http_header_at(x, "tracestate", i)); i++) ad_buf_printf(out, "tracestate: %s\r\n", state);
}

void ad_access_fail(const ad_http_exchange *x, const char *reason)
{
    ad_access *a = ad_access_of(x);
    if (a) a->reason = reason;
}

void ad_access_name(const ad_http_exchange *x, const char *object)
{
    ad_access *a = ad_access_of(x);
    if (a) snprintf(a->object, sizeof a->object, "%s", object);
}

void ad_access_tell(const ad_http_exchange *x, const char *fmt, ...)
{
    ad_access *a = ad_access_of(x);
    va_list ap;
    if (!a) return;
    va_start(ap, fmt);
    vsnprintf(a->detail, sizeof a->detail, fmt, ap);
    va_end(ap);
}

const char *ad_access_reason(const ad_access *a, int status)
{
    static const struct {
        int status;
        const char *reason;
    } reasons[] = {
        {400, "bad_request"}, {401, "unauthorized"}, {403, "forbidden"}, {404, "not_found"}, {405, "method_not_allowed"}, {408, "too_slow"}, {409, "conflict"}, {412, "precondition_failed"},
        {413, "too_large"}, {414, "too_large"}, {415, "unsupported_media_type"}, {422, "unprocessable"}, {429, "rate_limited"}, {431, "too_large"}, {499, "client_left"},
        {500, "internal"}, {501, "not_implemented"}, {502, "remote"}, {503, "unavailable"}, {504, "timeout"}, {507, "disk_full"},
    };
    if (status == 499) return "client_left";
    if (a && a->reason) return a->reason;
    for (size_t i = 0; i < sizeof reasons / sizeof *reasons; i++)
        if (reasons[i].status == status) return reasons[i].reason;
    return status < 400 ? NULL : "other";
}

static void set_text(json_t *line, const char *name, const char *value)
{
    if (value && *value) json_object_set_new(line, name, ad_json_text(value));
}

/* Milliseconds to the microsecond. */
static void set_ms(json_t *line, const char *name, uint64_t ns)
{
    json_object_set_new(line, name, json_real((double)(ns / 1000) / 1e3));
}

/* What answered. */
static void set_receipt(json_t *line, const ad_http_exchange *x, const ad_access *a)
{
    char versions[8 * 65];
    if (a) set_text(line, "adapter", a->adapters);
    if (ad_http_get_set_header(x, "x-adapter-version", versions, sizeof versions)) set_text(line, "adapter_version", versions);
}

static void set_generation(json_t *line, const ad_access *a)
{
    json_object_set_new(line, "prompt_tokens", json_integer((json_int_t)a->prompt_tokens));
    json_object_set_new(line, "cached_tokens", json_integer((json_int_t)a->cached_tokens));
    json_object_set_new(line, "completion_tokens", json_integer((json_int_t)a->generated_tokens));
    if (a->ttft_ns) set_ms(line, "ttft_ms", a->ttft_ns);
}

void ad_access_log(const ad_http_exchange *x, const ad_access_end *end)
{
    const ad_access *a = ad_access_of(x);
    bool refused = end->status >= 400 && end->status != 503;
    ad_log_level level = end->quiet && !refused ? AD_LOG_DEBUG : AD_LOG_INFO;
    json_t *line = ad_log_enabled(level) ? json_object() : NULL;
    if (!line) return;
    set_text(line, "request_id", ad_http_request_id(x));
    if (a && a->traced) set_text(line, "trace_id", a->trace.trace_id);
    if (a && a->traced) set_text(line, "span_id", a->trace.span_id);
    set_text(line, "peer", ad_http_peer(x));
    set_text(line, "tenant", end->tenant);
    set_text(line, "key", end->key);
    set_text(line, "method", ad_http_method(x));
    set_text(line, "route", end->route);
    json_object_set_new(line, "status", json_integer(end->status));
    set_text(line, "reason", ad_access_reason(a, end->status));
    set_receipt(line, x, a);
    if (a && a->generates) set_generation(line, a);
    set_ms(line, "dur_ms", end->duration_ns);
    json_object_set_new(line, "bytes", json_integer((json_int_t)end->bytes));
    ad_log_event(level, "request", line);
}
