/* SPDX-License-Identifier: MIT */
/* Faults become replies; the one table from our errors to HTTP. */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/audit.h"
#include "server/api/error_form.h"
#include "server/api/names.h"
#include "server/observe/access.h"

int ad_http_status_of(ad_status code)
{
    switch (code) {
    case AD_OK: return 200;
    case AD_EINVAL: return 400;
    case AD_ENOTFOUND: return 404;
    case AD_EEXIST: return 409;
    case AD_ELIMIT: return 413;
    case AD_EFORMAT:
    case AD_EUNSUPPORTED:
    case AD_EUNTRUSTED:
    case AD_EMISMATCH: return 422;
    case AD_EBUSY:
    case AD_ENOMEM: return 503;
    case AD_EFULL: return 507;
    case AD_EREMOTE: return 502;
    case AD_ETIMEOUT: return 504;
    default: return 500;
    }
}

bool ad_fault_set(ad_fault *f, int http, const char *code, const char *param, const char *fmt, ...)
{
    va_list ap;
    f->http = http;
    f->code = code;
    snprintf(f->param, sizeof f->param, "%s", param ? param : "");
    va_start(ap, fmt);
    vsnprintf(f->message, sizeof f->message, fmt, ap);
    va_end(ap);
    return false;
}

bool ad_fault_from(ad_fault *f, const ad_err *err, const char *param)
{
    const char *code = err->code == AD_EINVAL ? "invalid_value" : err->code == AD_EBUSY ? "queue_full" : NULL;
    return ad_fault_set(f, ad_http_status_of(err->code), code, param, "%s", err->msg);
}

bool ad_fault_no_memory(ad_fault *f)
{
    return ad_fault_set(f, 503, NULL, NULL, "out of memory");
}

json_t *ad_fault_json(const ad_fault *f)
{
    return ad_error_json(&ad_openai_errors, f);
}

json_t *ad_fault_json_as(const ad_fault *f, const ad_http_route *route)
{
    return ad_error_json(ad_error_form_of(route), f);
}

static int append(const char *data, size_t len, void *out)
{
    ad_buf_append(out, data, len);
    return 0;
}

void ad_put_json(ad_buf *out, json_t *v)
{
    /* 9 digits give a float back exactly. */
    if (!v || json_dump_callback(v, append, out, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(9)) != 0) out->failed = true;
    json_decref(v);
}

void ad_json_reopen(ad_buf *text)
{
    if (!text->failed) text->data[text->len - 1] = ',';
}

void ad_set_processing_time(ad_http_exchange *x)
{
    char ms[32];
    snprintf(ms, sizeof ms, "%llu", (unsigned long long)((uv_hrtime() - ad_http_start_ns(x)) / 1000000));
    ad_http_set_header(x, "openai-processing-ms", ms);
}

void ad_reply_json_text(ad_http_exchange *x, int status, ad_buf *body)
{
    const char *oom = ad_error_form_of(ad_http_matched_route(x))->out_of_memory;
    ad_set_processing_time(x);
    if (body->failed) {
        ad_http_set_header(x, "Retry-After", "1");
        ad_http_reply(x, 503, "application/json", oom, strlen(oom));
    } else {
        ad_http_reply(x, status, "application/json", body->data, body->len);
    }
    ad_buf_deinit(body);
}

void ad_reply_json(ad_http_exchange *x, int status, json_t *body)
{
    ad_buf b = {0};
    ad_put_json(&b, body);
    ad_reply_json_text(x, status, &b);
}

void ad_reply_fault(ad_http_exchange *x, const ad_fault *f)
{
    const ad_error_form *form = ad_error_form_of(ad_http_matched_route(x));
    ad_fault said = *f;
    ad_access_fail(x, f->code);
    ad_scope_shorten(ad_caller_of(x), said.message);
    if (f->http == 503) ad_http_set_header(x, "Retry-After", "1");
    ad_reply_json(x, ad_error_status(form, &said), ad_error_json(form, &said));
}

bool ad_reply_refusal(ad_http_exchange *x, int http, const char *code, const char *param, const char *message)
{
    ad_fault f = {0};
    ad_fault_set(&f, http, code, param, "%s", message);
    ad_reply_fault(x, &f);
    return false;
}

bool ad_require_json(ad_http_exchange *x)
{
    const char *type = ad_http_header(x, "content-type");
    size_t n = type ? strcspn(type, "; \t") : 0;
    if (!type || (n == 16 && !strncasecmp(type, "application/json", n))) return true;
    return ad_reply_refusal(x, 415, NULL, NULL, "The body must be JSON: send the header Content-Type: application/json");
}

bool ad_query_flag(ad_http_exchange *x, const char *name, bool *out)
{
    char value[8];
    int there = ad_http_query_value(x, name, value, sizeof value);
    *out = there > 0 && (!strcmp(value, "true") || !strcmp(value, "1") || !*value);
    return !there || *out || !strcmp(value, "false") || !strcmp(value, "0") || ad_reply_refusal(x, 400, "invalid_value", name, "a flag of the query is neither true nor false");
}

bool ad_query_integer(const ad_http_exchange *x, const char *name, int64_t min, int64_t max, int64_t *out, ad_fault *f)
{
    char text[24], *end;
    int there = ad_http_query_value(x, name, text, sizeof text);
    if (!there) return true;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (there < 0 || *text < '0' || *text > '9' || *end || errno || n < min || n > max)
        return ad_fault_set(f, 400, "invalid_value", name, "`%s` must be a whole number from %" PRId64 " to %" PRId64, name, min, max);
    *out = n;
    return true;
}

/* name: whole, or NULL. */
static void on_client_gone(ad_http_exchange *x, void *user)
{
    ad_later *l = user;
    l->audit = ad_audit_keep(x);
    l->x = NULL;
}

ad_later *ad_later_new(ad_http_exchange *x, ad_app *app, const char *name)
{
    ad_later *l = ad_calloc(1, sizeof *l);
    if (!l) {
        ad_reply_refusal(x, 503, NULL, NULL, "out of memory");
        return NULL;
    }
    *l = (ad_later){.x = x, .app = app, .created = 200};
    snprintf(l->name, sizeof l->name, "%s", name);
    ad_access_name(x, name);
    ad_http_on_abort(x, on_client_gone, l);
    return l;
}

ad_http_exchange *ad_later_resume(ad_later *l, ad_status st)
{
    ad_audit_complete(l->app, l->audit, ad_http_status_of(st));
    l->audit = NULL;
    if (l->x) ad_http_on_abort(l->x, NULL, NULL);
    return l->x;
}

static const char *code_of(int status)
{
    switch (status) {
    case 401: return ad_invalid_api_key;
    case 403: return ad_insufficient_permissions;
    case 405: return "method_not_allowed";
    default: return NULL;
    }
}

void ad_error_body(void *app, const ad_http_route *route, ad_buf *out, int status, const char *message)
{
    (void)app;
    ad_fault f = {0};
    ad_fault_set(&f, status, code_of(status), NULL, "%s", message);
    ad_put_json(out, ad_error_form_of(route)->body(&f, status)); /* the status is decided */
}
