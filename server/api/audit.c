/* SPDX-License-Identifier: MIT */
#include "server/api/audit.h"

#include <stdlib.h>
#include <string.h>

#include "server/api/auth.h"
#include "server/observe/access.h"
#include "server/observe/repeat.h"
#include "server/tenancy/audit.h"

enum { PAGE = 100, MOST = 1000 };

/* ---- what a request is called ---- */

/* Other routes whose verb changes something go by method and path. */
static const struct {
    const char *method, *label, *action;
} names[] = {
    {"POST", "/v1/adapters", "adapter.upload"},
    {"PATCH", "/v1/adapters/{name}", "adapter.change"},
    {"DELETE", "/v1/adapters/{name}", "adapter.remove"},
    {"DELETE", "/v1/models/{id}", "adapter.remove"},
    {"POST", "/v1/load_lora_adapter", "adapter.upload"},
    {"POST", "/v1/unload_lora_adapter", "adapter.remove"},
    {"POST", "/lora-adapters", "adapter.set_defaults"},
    {"PUT", "/v1/aliases/{name}", "alias.set"},
    {"DELETE", "/v1/aliases/{name}", "alias.remove"},
    {"POST", "/v1/admin/merge", "merge.set"},
    {"POST", "/v1/admin/tenants", "tenant.create"},
    {"PATCH", "/v1/admin/tenants/{name}", "tenant.change"},
    {"DELETE", "/v1/admin/tenants/{name}", "tenant.remove"},
    {"POST", "/v1/admin/keys", "key.create"},
    {"PATCH", "/v1/admin/keys/{id}", "key.change"},
    {"DELETE", "/v1/admin/keys/{id}", "key.revoke"},
    {"POST", "/v1/admin/keys/{id}/rotate", "key.rotate"},
    {"PUT", "/v1/admin/limits/tenants/{name}", "limits.set"},
    {"PUT", "/v1/admin/limits/keys/{id}", "limits.set"},
    {"PUT", "/v1/admin/log", "log.set"},
    {"POST", "/v1/admin/drain", "server.drain"},
};

static const struct {
    const char *end, *action;
} adapter_actions[] = {{"/versions", "adapter.upload"}, {"/activate", "adapter.activate"}, {"/rollback", "adapter.rollback"}, {"/verify", "adapter.verify"}};

static bool ends_with(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n >= m && !strcmp(s + n - m, end);
}

const char *ad_audit_action(const ad_http_route *r, const char *path)
{
    bool reads = !strcmp(r->method, "GET") || r->verb == AD_VERB_OPEN || r->verb == AD_VERB_INFER || r->verb == AD_VERB_LIST || r->verb == AD_VERB_METRICS;
    if (reads) return NULL;
    for (size_t i = 0; i < sizeof adapter_actions / sizeof *adapter_actions; i++)
        if (!strcmp(r->label, "/v1/adapters/{name}/{action}") && ends_with(path, adapter_actions[i].end)) return adapter_actions[i].action;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(r->method, names[i].method) && !strcmp(r->label, names[i].label)) return names[i].action;
    return r->label;
}

/* What the path names, when nobody said better: the part that stands for '*', without an action behind it. */
static void find_object(const ad_http_exchange *x, const ad_access *a, char *out, size_t size)
{
    const ad_http_route *r = ad_http_matched_route(x);
    const char *star = strchr(r->path, '*'), *path = ad_http_path(x);
    size_t head = star ? (size_t)(star - r->path) : 0, tail = star ? strlen(star + 1) : 0;
    *out = '\0';
    if (a && *a->object) snprintf(out, size, "%s", a->object);
    else if (star) snprintf(out, size, "%.*s", (int)(strlen(path) - head - tail), path + head);
    char *last = a && *a->object ? NULL : strrchr(out, '/');
    if (last && !tail && !strcmp(r->method, "POST")) *last = '\0';
}

/* ---- rows ---- */

static char *copy(const char *s) { return s && *s ? strdup(s) : NULL; }

static void add(ad_app *app, ad_stored_audit *row) { ad_audit_add(ad_keeper_store(app->keeper), row); }

/* False: the exchange was to change nothing. */
static bool describe(const ad_http_exchange *x, ad_stored_audit *row)
{
    const ad_http_route *r = ad_http_matched_route(x);
    const char *action = r ? ad_audit_action(r, ad_http_path(x)) : NULL;
    const ad_access *a = ad_access_of(x);
    const ad_caller *caller = ad_caller_of(x);
    char object[AD_ACCESS_TEXT];
    if (!action) return false;
    find_object(x, a, object, sizeof object);
    *row = (ad_stored_audit){.time_ms = ad_audit_now_ms(), .peer = copy(ad_http_peer(x)), .request_id = copy(ad_http_request_id(x)),
                             .action = copy(action), .object = copy(object), .detail = copy(a ? a->detail : NULL)};
    if (caller) strcpy(row->tenant, caller->tenant->name);
    if (caller && caller->key) strcpy(row->key, caller->key->id);
    return true;
}

static bool is_stranger_too_often(int status)
{
    static ad_repeat attempts;
    unsigned held;
    return status == 401 && !ad_repeat_allow(&attempts, &attempts, (int64_t)(uv_hrtime() / 1000000000u), &held);
}

void ad_audit_exchange(ad_app *app, const ad_http_exchange *x, int status)
{
    ad_stored_audit row;
    ad_access *a = ad_access_of(x);
    if ((a && a->audited) || is_stranger_too_often(status) || !describe(x, &row)) return;
    row.status = status;
    if (status >= 400) {
        free(row.detail);
        row.detail = copy(ad_access_reason(a, status));
    }
    add(app, &row);
}

ad_stored_audit *ad_audit_keep(const ad_http_exchange *x)
{
    ad_access *a = ad_access_of(x);
    ad_stored_audit *row = a ? ad_calloc(1, sizeof *row) : NULL;
    if (row && describe(x, row)) return a->audited = true, row;
    free(row);
    return NULL;
}

void ad_audit_complete(ad_app *app, ad_stored_audit *row, int status)
{
    if (!row) return;
    row->time_ms = ad_audit_now_ms();
    row->status = status;
    free(row->detail);
    row->detail = copy(status < 400 ? "done after its client had left" : "refused after its client had left");
    add(app, row);
    free(row);
}

/* ---- GET /v1/admin/audit ---- */

typedef struct {
    ad_later *later;
    int64_t after;
    int limit;
    json_t *rows;
    ad_status status;
    ad_err err;
} page;

static ad_status take_row(void *user, const ad_stored_audit *r, ad_err *err)
{
    page *p = user;
    json_t *v = ad_audit_json(r);
    if (!v || json_object_set_new(v, "seq", json_integer(r->seq)) || json_array_append(p->rows, v)) p->status = ad_fail(err, AD_ENOMEM, "out of memory");
    json_decref(v);
    return p->status;
}

/* The store's thread. One more than is asked for tells whether there are more. */
static void read_page(void *user, ad_store *s)
{
    page *p = user;
    p->status = ad_store_read_audit(s, p->after, p->limit + 1, take_row, p, &p->err);
}

static void on_read(void *user)
{
    page *p = user;
    ad_fault f = {0};
    bool more = json_array_size(p->rows) > (size_t)p->limit;
    if (more) json_array_remove(p->rows, (size_t)p->limit);
    if (!ad_later_resume(p->later, p->status)) json_decref(p->rows);
    else if (p->status == AD_OK) ad_reply_json(p->later->x, 200, json_pack("{s:s, s:o, s:b}", "object", "list", "data", p->rows, "has_more", more));
    else json_decref(p->rows), ad_fault_from(&f, &p->err, NULL), ad_reply_fault(p->later->x, &f);
    free(p->later);
    free(p);
}

void ad_handle_audit(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_err err;
    ad_fault f = {0};
    int64_t after = 0, limit = PAGE;
    if (!ad_query_integer(x, "after", 0, INT64_MAX - 1, &after, &f) || !ad_query_integer(x, "limit", 1, MOST, &limit, &f)) {
        ad_reply_fault(x, &f);
        return;
    }
    ad_later *l = ad_later_new(x, app, "");
    if (!l) return;
    page *p = ad_calloc(1, sizeof *p);
    if (p) *p = (page){.later = l, .after = after, .limit = (int)limit, .rows = json_array()};
    ad_status st = p ? ad_store_thread_read(ad_keeper_store(app->keeper), read_page, on_read, p, &err) : ad_fail(&err, AD_ENOMEM, "out of memory");
    if (st == AD_OK) return;
    if (p) json_decref(p->rows);
    free(p);
    ad_later_resume(l, st);
    free(l);
    ad_fault_from(&f, &err, NULL);
    ad_reply_fault(x, &f);
}
