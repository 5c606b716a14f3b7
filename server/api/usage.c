/* SPDX-License-Identifier: MIT */
/* What was used: GET /v1/organization/usage/completions in OpenAI's shape, and GET /v1/admin/usage, all rows of the ledger as JSON or CSV. Both hand over what has gathered first,
 * so that they show everything that has ended; they read, add up and write their text on the store's thread. Loop thread otherwise. */
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/auth.h"
#include "server/tenancy/usage.h"

enum {
    DAY_S = 86400,
    DEFAULT_BUCKETS = 7, MOST_BUCKETS = 31,
    MOST_FILTERS = 64,       /* values of one filter */
    PAGE_RESULTS = 5000,     /* a page ends with the day in which it gets more */
    MOST_DAYS = 3660,        /* of an export */
    DEFAULT_DAYS = 31,
    SLICE = 32 << 10,        /* written before the client has taken it */
};

/* ---- OpenAI's: what is asked ---- */

typedef struct {
    char *values[MOST_FILTERS]; /* owned */
    int n;                   /* 0: everything passes */
} filter;

typedef struct {
    ad_app *app;
    ad_http_exchange *x;     /* NULL: the client left */
    int from, to;            /* days; the second is left out */
    int limit;               /* buckets of a page */
    bool by_tenant, by_key, by_model;
    filter tenants, keys, models;
    char own[AD_TENANT_NAME + 1]; /* tenant of the sender, who sees its own names; "": the operator, who sees everything */
    int made_on;             /* the day it was made; 0: always there */
    char own_key[AD_KEY_ID + 1]; /* of a sender that is not for all of its tenant's adapters: it sees what it used itself; or "" */
    char *base;              /* the base model's name; owned */
    /* Of the store's thread. */
    int end;                 /* where the page ends */
    ad_tally results;        /* without versions, and without what is not grouped by */
    ad_buf text;
    ad_err err;
} inquiry;

static void free_inquiry(inquiry *q)
{
    filter *all[] = {&q->tenants, &q->keys, &q->models};
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < all[i]->n; k++) free(all[i]->values[k]);
    free(q->base);
    ad_tally_deinit(&q->results);
    ad_buf_deinit(&q->text);
    free(q);
}

static bool wrong(ad_fault *f, const char *name, const char *what) { return ad_fault_set(f, 400, "invalid_value", name, "`%s` %s", name, what); }

/* The nth value of an array in the query, in either spelling: name=a&name=b, name[]=a&name[]=b. 0: there are no more; -1: malformed. */
static int nth_value(const ad_http_exchange *x, const char *name, int nth, char *out, size_t size)
{
    char brackets[48];
    int there = ad_http_query_nth(x, name, nth, out, size), plain = 0;
    if (there) return there;
    while (ad_http_query_nth(x, name, plain, out, size)) plain++;
    snprintf(brackets, sizeof brackets, "%s[]", name);
    return ad_http_query_nth(x, brackets, nth - plain, out, size);
}

static bool read_filter(const ad_http_exchange *x, const char *name, filter *to, ad_fault *f)
{
    char value[AD_MAX_NAME + AD_TENANT_NAME + 2];
    for (int there; (there = nth_value(x, name, to->n, value, sizeof value));) {
        if (there < 0) return wrong(f, name, "has a value that is malformed or too long");
        if (to->n == MOST_FILTERS) return wrong(f, name, "has more than 64 values");
        if (!(to->values[to->n] = strdup(value))) return ad_fault_no_memory(f);
        to->n++;
    }
    return true;
}

static bool read_groups(const ad_http_exchange *x, inquiry *q, ad_fault *f)
{
    char value[32];
    for (int i = 0, there; (there = nth_value(x, "group_by", i, value, sizeof value)); i++) {
        if (there > 0 && !strcmp(value, "project_id")) q->by_tenant = true;
        else if (there > 0 && !strcmp(value, "api_key_id")) q->by_key = true;
        else if (there > 0 && !strcmp(value, "model")) q->by_model = true;
        else return wrong(f, "group_by", "must be project_id, api_key_id or model");
    }
    return true;
}

/* Times become days: the first one's begins the first bucket, the second one's is the last. */
static bool read_times(const ad_http_exchange *x, inquiry *q, ad_fault *f)
{
    enum { LAST_DAY = 1000000 };
    int64_t start = -1, end = (int64_t)time(NULL) + 1, limit = DEFAULT_BUCKETS;
    char page[32], *rest;
    if (!ad_query_integer(x, "start_time", 0, (int64_t)LAST_DAY * DAY_S, &start, f) || !ad_query_integer(x, "end_time", 0, (int64_t)LAST_DAY * DAY_S, &end, f) ||
        !ad_query_integer(x, "limit", 1, MOST_BUCKETS, &limit, f))
        return false;
    if (start < 0) return wrong(f, "start_time", "is missing: it is the Unix time from which on you want to see");
    q->from = (int)(start / DAY_S);
    q->to = (int)((end + DAY_S - 1) / DAY_S);
    q->limit = (int)limit;
    if (end <= start) return wrong(f, "end_time", "must be after `start_time`");
    if (!ad_http_query_value(x, "page", page, sizeof page)) return true;
    long day = !strncmp(page, "page_", 5) && page[5] >= '0' && page[5] <= '9' ? strtol(page + 5, &rest, 10) : -1;
    if (day < q->from || day >= q->to || *rest) return wrong(f, "page", "must be a `next_page` of this very query");
    q->from = (int)day;
    return true;
}

static bool read_width(const ad_http_exchange *x, ad_fault *f)
{
    char width[16];
    int there = ad_http_query_value(x, "bucket_width", width, sizeof width);
    if (!there || !strcmp(width, "1d")) return true;
    return wrong(f, "bucket_width", "must be 1d: usage is kept by the day");
}

static bool is_for_all(const ad_key *k)
{
    bool all = false;
    for (int i = 0; i < k->n_globs; i++) all |= !strcmp(k->globs[i], "*");
    return all;
}

/* ---- OpenAI's: the answer, on the store's thread ---- */

static bool passes(const filter *f, const char *value)
{
    for (int i = 0; i < f->n; i++)
        if (!strcmp(f->values[i], value)) return true;
    return !f->n;
}

/* As the sender says it. */
static const char *model_name(const inquiry *q, const char *adapter)
{
    size_t n = strlen(q->own);
    if (!*adapter) return q->base;
    return n && !strncmp(adapter, q->own, n) && adapter[n] == '/' ? adapter + n + 1 : adapter;
}

static ad_status add_row(void *user, const ad_stored_usage *u, ad_err *err)
{
    inquiry *q = user;
    ad_stored_usage r = *u;
    if (u->day >= q->end) return AD_OK;
    if (q->results.n > PAGE_RESULTS && u->day > q->results.rows[q->results.n - 1].day) {
        q->end = u->day; /* what follows is for the next page */
        return AD_OK;
    }
    if (!passes(&q->tenants, u->tenant) || !passes(&q->keys, u->key) || !passes(&q->models, model_name(q, u->adapter))) return AD_OK;
    memset(&r.version, 0, sizeof r.version);
    if (!q->by_tenant) *r.tenant = '\0';
    if (!q->by_key) *r.key = '\0';
    if (!q->by_model) *r.adapter = '\0';
    return ad_tally_add(&q->results, &r) == AD_OK ? AD_OK : ad_fail(err, AD_ENOMEM, "out of memory for the usage");
}

static json_t *result_json(const inquiry *q, const ad_stored_usage *r)
{
    return json_pack("{s:s, s:I, s:I, s:I, s:i, s:i, s:I, s:s?, s:n, s:s?, s:s?, s:n, s:n}", "object", "organization.usage.completions.result",
                     "input_tokens", (json_int_t)r->prompt_tokens, "output_tokens", (json_int_t)r->generated_tokens, "input_cached_tokens", (json_int_t)r->cached_tokens,
                     "input_audio_tokens", 0, "output_audio_tokens", 0, "num_model_requests", (json_int_t)r->requests, "project_id", q->by_tenant ? r->tenant : NULL, "user_id",
                     "api_key_id", q->by_key && *r->key ? r->key : NULL, "model", q->by_model ? model_name(q, r->adapter) : NULL, "batch", "service_tier");
}

/* The results are in order of the day. */
static json_t *page_json(const inquiry *q)
{
    json_t *buckets = json_array();
    size_t at = 0;
    for (int day = q->from; day < q->end; day++) {
        json_t *results = json_array();
        for (; at < q->results.n && q->results.rows[at].day == day; at++) json_array_append_new(results, result_json(q, &q->results.rows[at]));
        json_array_append_new(buckets, json_pack("{s:s, s:I, s:I, s:o}", "object", "bucket", "start_time", (json_int_t)day * DAY_S,
                                                 "end_time", (json_int_t)(day + 1) * DAY_S, "results", results));
    }
    bool more = q->end < q->to;
    return json_pack("{s:s, s:o, s:b, s:o}", "object", "page", "data", buckets, "has_more", more, "next_page", more ? json_sprintf("page_%d", q->end) : json_null());
}

static void answer_inquiry(void *user, ad_store *store)
{
    inquiry *q = user;
    ad_usage_query rows = {.from_day = q->from, .to_day = q->end, .tenant = *q->own ? q->own : NULL, .key = *q->own_key ? q->own_key : NULL, .made_on = q->made_on};
    q->err.code = ad_store_read_usage(store, &rows, add_row, q, &q->err);
    if (q->err.code == AD_OK) ad_put_json(&q->text, page_json(q));
}

/* ---- OpenAI's: the exchange ---- */

static void on_inquirer_gone(ad_http_exchange *x, void *user)
{
    (void)x;
    ((inquiry *)user)->x = NULL;
}

static void on_answered(void *user)
{
    inquiry *q = user;
    ad_fault f = {0};
    if (q->x) {
        ad_http_on_abort(q->x, NULL, NULL);
        if (q->err.code == AD_OK) ad_reply_json_text(q->x, 200, &q->text);
        else ad_fault_from(&f, &q->err, NULL), ad_reply_fault(q->x, &f);
    }
    free_inquiry(q);
}

static bool read_inquiry(ad_http_exchange *x, inquiry *q, ad_fault *f)
{
    const ad_caller *c = ad_caller_of(x);
    if (!c->is_operator) strcpy(q->own, c->tenant->name);
    if (!c->is_operator && c->tenant->id) q->made_on = (int)(c->tenant->created / DAY_S);
    if (c->key && !c->is_operator && !is_for_all(c->key)) strcpy(q->own_key, c->key->id);
    q->base = strdup(q->app->served_name);
    bool good = read_width(x, f) && read_times(x, q, f) && read_groups(x, q, f) && read_filter(x, "project_ids", &q->tenants, f) && read_filter(x, "api_key_ids", &q->keys, f) &&
                read_filter(x, "models", &q->models, f);
    q->end = q->to - q->from > q->limit ? q->from + q->limit : q->to;
    return good && (q->base || ad_fault_no_memory(f));
}

void ad_handle_usage(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_fault f = {0};
    ad_err err;
    inquiry *q = ad_calloc(1, sizeof *q);
    if (!q) {
        ad_reply_refusal(x, 503, NULL, NULL, "out of memory");
        return;
    }
    q->app = app;
    q->x = x;
    bool good = read_inquiry(x, q, &f);
    if (good) {
        ad_ledger_flush(app->ledger);
        good = ad_store_thread_read(ad_keeper_store(app->keeper), answer_inquiry, on_answered, q, &err) == AD_OK || ad_fault_from(&f, &err, NULL);
    }
    if (good) {
        ad_http_on_abort(x, on_inquirer_gone, q);
        return;
    }
    free_inquiry(q);
    ad_reply_fault(x, &f);
}

/* ---- the export: a day at a time ---- */

typedef struct {
    ad_app *app;
    ad_http_exchange *x;      /* NULL: the client left */
    int day, to;              /* the day that is read or written; the last one */
    bool csv, reading, begun;
    bool any;                 /* a row was written */
    ad_buf text;              /* of the day */
    size_t sent;
    ad_err err;
} export;

static void free_export(export *e)
{
    ad_buf_deinit(&e->text);
    free(e);
}

static void put_text(ad_buf *b, bool csv, const char *s)
{
    if (!csv) ad_put_json(b, *s ? json_string(s) : json_null());
    else if (!strpbrk(s, ",\"\n\r")) ad_buf_puts(b, s);
    else {
        ad_buf_puts(b, "\"");
        for (; *s; s++) ad_buf_append(b, "\"\"", *s == '"'), ad_buf_append(b, s, 1);
        ad_buf_puts(b, "\"");
    }
}

static const char columns[] = "date,tenant,key,model,version,requests,prompt_tokens,cached_tokens,generated_tokens,engine_ms\n";

/* On the store's thread. */
static ad_status write_row(void *user, const ad_stored_usage *u, ad_err *err)
{
    static const ad_digest none;
    static const char *const json[] = {"\",\"tenant\":", ",\"key\":", ",\"model\":", ",\"version\":", ",\"requests\":", ",\"prompt_tokens\":", ",\"cached_tokens\":",
                                       ",\"generated_tokens\":", ",\"engine_ms\":"};
    export *e = user;
    ad_buf *b = &e->text;
    char date[16], version[65] = "";
    time_t t = (time_t)u->day * DAY_S;
    struct tm tm;
    strftime(date, sizeof date, "%Y-%m-%d", gmtime_r(&t, &tm));
    if (memcmp(&u->version, &none, sizeof none)) ad_digest_hex(&u->version, version);
    const char *texts[] = {u->tenant, u->key, *u->adapter ? u->adapter : e->app->served_name, version};
    int64_t numbers[] = {u->requests, u->prompt_tokens, u->cached_tokens, u->generated_tokens};
    if (!e->csv) ad_buf_puts(b, e->any ? ",\n{\"date\":\"" : "\n{\"date\":\"");
    ad_buf_puts(b, date);
    for (int i = 0; i < 4; i++) ad_buf_puts(b, e->csv ? "," : json[i]), put_text(b, e->csv, texts[i]);
    for (int i = 0; i < 4; i++) ad_buf_printf(b, "%s%" PRId64, e->csv ? "," : json[4 + i], numbers[i]);
    ad_buf_printf(b, "%s%" PRId64 ".%03" PRId64 "%s", e->csv ? "," : json[8], u->engine_ns / 1000000, u->engine_ns / 1000 % 1000, e->csv ? "\n" : "}");
    e->any = true;
    return b->failed ? ad_fail(err, AD_ENOMEM, "out of memory for the usage") : AD_OK;
}

static void read_day(void *user, ad_store *store)
{
    export *e = user;
    e->err.code = ad_store_read_usage(store, &(ad_usage_query){.from_day = e->day, .to_day = e->day + 1}, write_row, e, &e->err);
}

static void fail_export(export *e)
{
    ad_http_exchange *x = e->x;
    ad_fault f = {0};
    ad_http_on_abort(x, NULL, NULL);
    ad_fault_from(&f, &e->err, NULL);
    if (e->begun) ad_http_stream_abort(x);
    else ad_reply_fault(x, &f);
    free_export(e);
}

static void end_export(export *e)
{
    ad_http_exchange *x = e->x;
    ad_http_on_abort(x, NULL, NULL);
    if (!e->csv) ad_http_stream_write(x, "\n]}\n", 4);
    ad_http_stream_end(x);
    free_export(e);
}

static void begin_export(export *e)
{
    static const char head[] = "{\"object\":\"list\",\"data\":[";
    e->begun = true;
    ad_http_stream_begin(e->x, 200, e->csv ? "text/csv; charset=utf-8" : "application/json");
    if (e->csv) ad_http_stream_write(e->x, columns, sizeof columns - 1);
    else ad_http_stream_write(e->x, head, sizeof head - 1);
}

static void on_day_read(void *user);

static void start_day(export *e)
{
    e->reading = ad_store_thread_read(ad_keeper_store(e->app->keeper), read_day, on_day_read, e, &e->err) == AD_OK;
    if (!e->reading) fail_export(e);
}

/* As fast as the client takes it; then the next day. */
static void write_on(ad_http_exchange *x, void *user)
{
    export *e = user;
    while (e->sent < e->text.len) {
        size_t n = e->text.len - e->sent < SLICE ? e->text.len - e->sent : SLICE;
        if (ad_http_when_drained(x, write_on, e)) return;
        ad_http_stream_write(x, e->text.data + e->sent, n);
        e->sent += n;
    }
    ad_buf_clear(&e->text);
    e->sent = 0;
    if (e->day++ < e->to) start_day(e);
    else end_export(e);
}

static void on_day_read(void *user)
{
    export *e = user;
    e->reading = false;
    if (!e->x) {
        free_export(e);
    } else if (e->err.code != AD_OK) {
        fail_export(e);
    } else {
        if (!e->begun) begin_export(e);
        write_on(e->x, e);
    }
}

static void on_exporter_gone(ad_http_exchange *x, void *user)
{
    export *e = user;
    (void)x;
    e->x = NULL;
    if (!e->reading) free_export(e);
}

/* "2026-11-27". Absent: *day stays. */
static bool read_day_of(const ad_http_exchange *x, const char *name, int *day, ad_fault *f)
{
    char text[16], again[16];
    struct tm tm = {0};
    int there = ad_http_query_value(x, name, text, sizeof text);
    if (!there) return true;
    const char *end = strptime(text, "%Y-%m-%d", &tm);
    time_t t = end ? timegm(&tm) : -1;
    if (t >= 0) strftime(again, sizeof again, "%Y-%m-%d", &tm);
    if (there < 0 || t < 0 || strcmp(again, text)) return wrong(f, name, "must be a day as YYYY-MM-DD, since 1970");
    *day = (int)(t / DAY_S);
    return true;
}

static bool read_export(const ad_http_exchange *x, export *e, ad_fault *f)
{
    char format[8];
    int there = ad_http_query_value(x, "format", format, sizeof format);
    e->to = (int)(time(NULL) / DAY_S);
    e->day = INT_MIN;
    if (!read_day_of(x, "to", &e->to, f) || !read_day_of(x, "from", &e->day, f)) return false;
    if (e->day == INT_MIN) e->day = e->to - DEFAULT_DAYS + 1;
    if (e->day > e->to) return wrong(f, "from", "must not be after `to`");
    if (e->to - e->day >= MOST_DAYS) return wrong(f, "from", "must be within ten years before `to`");
    e->csv = !strcmp(format, "csv");
    return !there || e->csv || !strcmp(format, "json") || wrong(f, "format", "must be json or csv");
}

void ad_handle_usage_rows(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_fault f = {0};
    export *e = ad_calloc(1, sizeof *e);
    if (!e) {
        ad_reply_refusal(x, 503, NULL, NULL, "out of memory");
        return;
    }
    e->app = app;
    e->x = x;
    if (!read_export(x, e, &f)) {
        free_export(e);
        ad_reply_fault(x, &f);
        return;
    }
    ad_http_on_abort(x, on_exporter_gone, e);
    ad_ledger_flush(app->ledger);
    start_day(e);
}
