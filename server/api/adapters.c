/* SPDX-License-Identifier: MIT */
/* /v1/adapters: what is served, and how that is changed at run time. Loop thread. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "adapters/template.h"
#include "server/api/adapter_json.h"
#include "server/api/error_form.h"
#include "server/api/etag.h"
#include "server/api/upload.h"
#include "server/keeper/keeper.h"
#include "server/observe/access.h"
#include "server/observe/log.h"

static const char prefix[] = "/v1/adapters/";
enum { MAX_DRAIN_S = 3600, LIST_DEFAULT = 100, LIST_MOST = 1000, MAX_DESCRIPTION = 64 << 10 };

/* ---- what came of a change ---- */

static void reply_refused(ad_http_exchange *x, const ad_outcome *o)
{
    ad_fault f = {0};
    ad_fault_from(&f, &o->err, NULL);
    ad_scope_shorten(ad_caller_of(x), f.message);
    if (o->code) f.code = o->code;
    if (o->http) f.http = o->http;
    if (f.http == 422 && !f.code) f.code = "adapter_refused";
    if (f.http == 503) ad_http_set_header(x, "Retry-After", "1");
    ad_reply_json(x, f.http, f.http == 422 ? ad_refusal_json(&f, o->status, o->report, o->reasons) : ad_fault_json(&f));
}

/* `more`: members of the object that are JSON already; or NULL. */
static void reply_object(ad_http_exchange *x, int status, json_t *object, const char *more)
{
    ad_buf text = {0};
    ad_put_json(&text, object);
    if (more) {
        ad_json_reopen(&text);
        ad_buf_puts(&text, more);
        ad_buf_puts(&text, "}");
    }
    ad_reply_json_text(x, status, &text);
}

static void reply_admitted(const ad_later *l, const ad_outcome *o)
{
    char location[3 * AD_MAX_NAME + 32];
    const ad_caller *c = ad_caller_of(l->x);
    ad_adapter_location(ad_scope_shown(c, o->entry->name), location, sizeof location);
    json_t *v = ad_adapter_json(l->app, c, o->entry, true);
    if (o->version) ad_access_tell(l->x, o->existed ? "version %d, as it was" : "version %d", o->version->number);
    ad_set_etag(l->x, o->entry);
    ad_http_set_header(l->x, "Location", location);
    reply_object(l->x, o->existed ? 200 : l->created, v, o->members);
}

static void reply_outcome(ad_later *l, const ad_outcome *o)
{
    if (o->status != AD_OK) {
        reply_refused(l->x, o);
    } else if (l->dry_run) {
        json_t *v = json_copy(o->report);
        json_object_set_new(v, "object", json_string("adapter.report"));
        json_object_set_new(v, "admitted", json_false());
        ad_reply_json(l->x, 200, v);
    } else if (o->report && json_object_get(o->report, "object")) {
        ad_reply_json(l->x, 200, json_incref(o->report)); /* a verification */
    } else if (o->entry) {
        reply_admitted(l, o);
    } else {
        ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b, s:b}", "object", "adapter.deleted", "name", ad_scope_shown(ad_caller_of(l->x), l->name), "deleted", 1, "drained", o->drained));
    }
}

static void on_outcome(void *user, const ad_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l, o->status)) reply_outcome(l, o);
    free(l);
}

/* ---- what a request says ---- */

static bool read_if_match(ad_http_exchange *x, const ad_app *app, const char *name, int64_t *out)
{
    return ad_read_if_match(x, name ? ad_registry_find(app->registry, name) : NULL, out);
}

/* The body as a JSON object; an empty one counts as {}. NULL: answered. */
static json_t *read_object(ad_http_exchange *x)
{
    ad_str body = ad_http_body(x);
    json_t *v = body.len ? ad_read_json(body.ptr, body.len, 0, NULL) : json_object();
    if (json_is_object(v)) return v;
    json_decref(v);
    ad_reply_refusal(x, 400, "invalid_json", NULL, "The body is not a JSON object");
    return NULL;
}

/* ---- GET ---- */

typedef struct {
    char after[AD_MAX_NAME + 1], prefix[AD_MAX_NAME + 1], state[16], label[128 + 1 + 1024 + 1];
    const char *label_value;  /* behind the colon of `label`; NULL: any */
    int limit;
} list_query;

static bool is_listed_state(const char *name)
{
    static const char *const names[] = {"", "uploading", "verifying", "staged", "ready", "draining", "incompatible", "failed"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return true;
    return false;
}

static bool read_list_query(ad_http_exchange *x, list_query *q)
{
    int64_t limit = LIST_DEFAULT;
    ad_fault f = {0};
    *q = (list_query){0};
    bool good = ad_http_query_value(x, "after", q->after, sizeof q->after) >= 0 && ad_http_query_value(x, "prefix", q->prefix, sizeof q->prefix) >= 0 &&
                ad_http_query_value(x, "state", q->state, sizeof q->state) >= 0 && ad_http_query_value(x, "label", q->label, sizeof q->label) >= 0;
    if (!good) return ad_reply_refusal(x, 400, "invalid_value", NULL, "`after`, `prefix`, `state` or `label` is malformed or too long");
    if (!is_listed_state(q->state)) return ad_reply_refusal(x, 400, "invalid_value", "state", "`state` must be uploading, verifying, staged, ready, draining, incompatible or failed");
    char *colon = strchr(q->label, ':');
    if (colon) *colon = '\0', q->label_value = colon + 1;
    if (!ad_query_integer(x, "limit", 1, LIST_MOST, &limit, &f)) return ad_reply_fault(x, &f), false;
    q->limit = (int)limit;
    return true;
}

static bool has_label(const ad_entry *e, const list_query *q)
{
    json_t *labels = e->labels ? json_loads(e->labels, 0, NULL) : NULL;
    const char *value = json_string_value(json_object_get(labels, q->label));
    bool yes = value && (!q->label_value || !strcmp(value, q->label_value));
    json_decref(labels);
    return yes;
}

static bool is_listed(const ad_caller *c, const ad_entry *e, const list_query *q)
{
    if (e->n_targets || strncmp(ad_scope_shown(c, e->name), q->prefix, strlen(q->prefix))) return false;
    if (*q->state && strcmp(ad_adapter_state(e), q->state)) return false;
    return !*q->label || has_label(e, q);
}

/* Names that are only on their way; a page of registered ones does not have them. */
static void list_pending(ad_http_exchange *x, const ad_app *app, const list_query *q)
{
    const ad_scope scope = ad_scope_of(x, app);
    ad_scope_cursor c = ad_scope_begin(&scope, "");
    json_t *list = json_array();
    const char *name;
    for (int i = 0; (name = ad_keeper_verifying(app->keeper, i)) && !strcmp(q->state, "verifying"); i++)
        if (!ad_registry_find(app->registry, name) && ad_scope_lists(&scope, name)) json_array_append_new(list, ad_pending_json(app, scope.caller, name, "verifying"));
    for (int i = 0; (name = ad_upload_name(i)) && !strcmp(q->state, "uploading"); i++)
        if (*name && !ad_registry_find(app->registry, name) && ad_scope_lists(&scope, name)) json_array_append_new(list, ad_pending_json(app, scope.caller, name, "uploading"));
    for (const ad_entry *e; (e = ad_scope_next(&c));) {
        const char *state = e->n_targets ? NULL : ad_adapter_pending(app, e->name);
        bool listed = !e->n_targets && (!strcmp(ad_adapter_state(e), q->state) || (state && !strcmp(state, q->state)));
        if (listed && json_array_size(list) < LIST_MOST) json_array_append_new(list, ad_adapter_json(app, scope.caller, e, false));
    }
    ad_reply_json(x, 200, json_pack("{s:s, s:o, s:b, s:n, s:n}", "object", "list", "data", list, "has_more", 0, "first_id", "last_id"));
}

void ad_handle_adapters(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    list_query q;
    if (!read_list_query(x, &q)) return;
    if (!strcmp(q.state, "uploading") || !strcmp(q.state, "verifying")) {
        list_pending(x, app, &q);
        return;
    }
    ad_scope_cursor c = ad_scope_begin(&scope, q.after);
    json_t *list = json_array();
    const char *first = NULL, *last = NULL;
    bool more = false;
    for (const ad_entry *e; !more && (e = ad_scope_next(&c));) {
        if (!is_listed(scope.caller, e, &q)) continue;
        more = json_array_size(list) == (size_t)q.limit;
        if (more) break;
        json_array_append_new(list, ad_adapter_json(app, scope.caller, e, false));
        last = ad_scope_shown(scope.caller, e->name);
        if (!first) first = last;
    }
    ad_reply_json(x, 200, json_pack("{s:s, s:o, s:b, s:s?, s:s?}", "object", "list", "data", list, "has_more", more, "first_id", first, "last_id", last));
}

/* name: whole. */
static void show(ad_http_exchange *x, const ad_app *app, const char *name, json_t *report)
{
    const ad_caller *c = ad_caller_of(x);
    const ad_entry *e = ad_registry_find(app->registry, name);
    const char *pending = e ? NULL : ad_adapter_pending(app, name);
    if (pending) {
        ad_reply_json(x, 200, ad_pending_json(app, c, name, pending));
        return;
    }
    if (!e || e->n_targets) {
        ad_fault f = {0};
        ad_fault_set(&f, 404, "adapter_not_found", "name", "The adapter `%.150s` does not exist.", name);
        ad_reply_fault(x, &f);
        return;
    }
    json_t *v = ad_adapter_json(app, c, e, true);
    if (report) {
        static const char *const keys[] = {"modules", "norms", "tensors_matched", "format", "warnings", "base_model"};
        for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
            if (json_object_get(report, keys[i])) json_object_set(v, keys[i], json_object_get(report, keys[i]));
    }
    ad_set_etag(x, e);
    ad_reply_json(x, 200, v);
}

static void on_report(void *user, json_t *report)
{
    ad_later *l = user;
    if (ad_later_resume(l, AD_OK)) show(l->x, l->app, l->name, report);
    free(l);
}

void ad_handle_adapter(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *name = ad_scope_name(&scope, ad_http_path(x) + strlen(prefix), buf);
    const ad_entry *e = ad_registry_find(app->registry, name);
    if (e && !e->n_targets && ad_is_unmodified(x, e)) {
        ad_set_etag(x, e);
        ad_http_reply(x, 304, "application/json", NULL, 0);
        return;
    }
    ad_version *v = e ? ad_entry_shown(e) : NULL;
    if (!v || v->adapter || v->quarantined) {
        json_t *report = v && v->adapter ? ad_report_json(app->model, v->adapter) : NULL;
        show(x, app, name, report);
        json_decref(report);
        return;
    }
    ad_later *l = ad_later_new(x, app, name); /* it is not in memory: what its load found stands in the store */
    if (l) ad_keeper_find_report(app->keeper, v, on_report, l);
}

/* What happens to names that the client does not see is none of its business; an event of a tenant that is gone stays that tenant's. */
static const char *name_for(ad_http_exchange *x, void *arg, const char *full, int owner)
{
    const ad_scope scope = ad_scope_of(x, arg);
    bool told = scope.caller->is_operator || ((!owner || owner == scope.caller->tenant->id) && ad_scope_lists(&scope, full));
    return told ? ad_scope_shown(scope.caller, full) : NULL;
}

/* A stream has no end of its own: it ends with the key that began it, or when there is a first key that did not. */
static bool may_follow(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_caller *c = ad_caller_of(x);
    bool live = c->key ? ad_key_is_live(c->key, time(NULL)) : !ad_tenancy_has_keys(app->tenancy);
    return live && ad_caller_may(c, AD_VERB_LIST, NULL);
}

static void follow(ad_http_exchange *x, ad_app *app)
{
    ad_events *events = ad_keeper_events(app->keeper);
    int tenant = ad_caller_of(x)->tenant->id, own, all = ad_events_count(events, tenant, &own);
    bool room = ad_tenancy_room(app->tenancy, own, all, AD_EVENT_STREAMS) > 0;
    if (room && ad_events_subscribe(events, x, tenant, name_for, may_follow, app)) return;
    ad_http_set_header(x, "Retry-After", "5");
    ad_reply_refusal(x, 503, NULL, NULL, "too many clients follow the events");
}

void ad_handle_events(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    if (app->draining) {
        ad_reply_refusal(x, 503, NULL, NULL, "the server is shutting down"); /* its streams have been ended */
    } else if (!strcmp(ad_http_method(x), "HEAD")) { /* which has nothing to wait for */
        ad_http_stream_begin(x, 200, "text/event-stream; charset=utf-8");
        ad_http_stream_end(x);
    } else {
        follow(x, app);
    }
}

/* ---- POST: adapters and versions, sent ---- */

static char *take(char **s)
{
    char *t = *s;
    *s = NULL;
    return t;
}

static void admit(ad_http_exchange *x, ad_app *app, ad_admission_spec *spec)
{
    ad_later *l = ad_later_new(x, app, spec->name);
    if (!l) {
        if (spec->dir) ad_keeper_discard(app->keeper, spec->dir);
        ad_admission_spec_deinit(spec);
        return;
    }
    const ad_scope scope = ad_scope_of(x, app);
    spec->owner = ad_owner_id(&scope, spec->name);
    if (scope.caller->key) spec->limits = scope.caller->key->allowance.limits;
    l->created = 201;
    l->dry_run = spec->dry_run;
    if (l->dry_run) ad_access_tell(x, "dry run");
    ad_keeper_admit(app->keeper, spec, on_outcome, l);
}

/* What path, query and headers say; fields of the body add to it. name: the whole one of the adapter that gets a new version, or NULL. False: answered. */
static bool begin_spec(ad_http_exchange *x, const ad_app *app, const char *name, ad_admission_spec *s)
{
    *s = (ad_admission_spec){.new_version = name != NULL, .activate = true};
    snprintf(s->name, sizeof s->name, "%s", name ? name : "");
    return ad_query_flag(x, "dry_run", &s->dry_run) && read_if_match(x, app, name, &s->if_match);
}

/* NAME of /v1/adapters/NAME/ACTION into name[AD_MAX_NAME + 1]; NULL when the path is not that. */
static const char *path_name(const ad_http_exchange *x, const char *action, char *name)
{
    const char *path = ad_http_path(x);
    size_t n = strlen(path), k = strlen(action), head = sizeof prefix - 1;
    if (n <= head + k + 1 || strncmp(path, prefix, head) || strcmp(path + n - k, action) || path[n - k - 1] != '/') return NULL;
    size_t len = n - k - 1 - head;
    if (len > AD_MAX_NAME) return NULL;
    memcpy(name, path + head, len);
    name[len] = '\0';
    return name;
}

/* The whole name of what the sender calls `said` and may change: `said`, or in out[AD_SCOPE_NAME]; NULL: answered. */
static const char *changed_name(ad_http_exchange *x, const ad_app *app, const char *said, char *out)
{
    const ad_scope scope = ad_scope_of(x, app);
    const char *name = ad_scope_name(&scope, said, out);
    ad_fault f = {0};
    if (ad_may_change(&scope, name, &f)) return name;
    ad_reply_fault(x, &f);
    return NULL;
}

/* The same of /v1/adapters/NAME/ACTION, which the path is; in out[AD_MAX_NAME + 1]. */
static const char *action_name(ad_http_exchange *x, const ad_app *app, const char *action, char *out)
{
    char said[AD_MAX_NAME + 1], buf[AD_SCOPE_NAME];
    const char *name = path_name(x, action, said) ? changed_name(x, app, said, buf) : NULL;
    ad_fault f = {0};
    if (!name) return NULL;
    if (strlen(name) <= AD_MAX_NAME) return memcpy(out, name, strlen(name) + 1);
    ad_fault_set(&f, 404, "adapter_not_found", NULL, "The adapter `%.150s` does not exist.", name);
    ad_reply_fault(x, &f);
    return NULL;
}

/* Whose new version it is, as the path says, into name[AD_MAX_NAME + 1]; NULL in *out: it is a new adapter. False: answered. */
static bool read_target(ad_http_exchange *x, const ad_app *app, char *name, const char **out)
{
    bool is_version = path_name(x, "versions", name) != NULL;
    *out = is_version ? action_name(x, app, "versions", name) : NULL;
    return *out || !is_version;
}

/* The whole name of an adapter that the sender may call `said`, in out[AD_MAX_NAME + 1]; false: answered. */
static bool read_new_name(ad_http_exchange *x, const ad_app *app, const char *said, char *out)
{
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    size_t room = ad_scope_room(scope.caller);
    ad_fault f = {0};
    bool good = strlen(said) <= room ? ad_may_add(&scope, app, said, "name", &f) : ad_fault_set(&f, 400, "invalid_value", "name", "`name` is longer than %zu bytes", room);
    if (good) good = ad_is_free_path(said, "name", &f);
    if (good) snprintf(out, AD_MAX_NAME + 1, "%s", ad_scope_own_name(&scope, said, buf));
    else ad_reply_fault(x, &f);
    return good;
}

/* A version that answers at once takes the place of another. False: answered. */
static bool may_replace(ad_http_exchange *x, const char *full)
{
    return ad_require_verb(x, AD_VERB_ACTIVATE, ad_scope_shown(ad_caller_of(x), full));
}

static const char not_of_versions[] = "`labels` and `description` are the adapter's, not a version's: PATCH changes them";

static void on_upload(ad_http_exchange *x, ad_upload *u, void *user)
{
    ad_app *app = user;
    char buf[AD_MAX_NAME + 1];
    const char *name;
    ad_admission_spec s;
    bool good = read_target(x, app, buf, &name) && begin_spec(x, app, name, &s);
    if (good && name && u->name) good = ad_reply_refusal(x, 400, "invalid_value", "name", "`name` does not go with a new version: the path says whose it is");
    if (good && name && (u->description || u->labels)) good = ad_reply_refusal(x, 400, "invalid_value", u->labels ? "labels" : "description", not_of_versions);
    if (good && u->name) good = read_new_name(x, app, u->name, s.name);
    if (good && name && u->activate && !s.dry_run) good = may_replace(x, name);
    if (good) {
        s.activate = u->activate;
        s.dir = strdup(u->dir);
        s.is_archive = u->is_archive;
        s.stream = u->stream, u->stream = NULL;
        s.weights_bytes = u->weights_bytes;
        if (!u->sha256_checked) memcpy(s.sha256, u->sha256, sizeof s.sha256);
        s.description = take(&u->description), s.labels = take(&u->labels), s.selftest = take(&u->selftest), s.signature = take(&u->signature), s.chat_template = take(&u->chat_template);
        admit(x, app, &s);
    } else {
        ad_keeper_discard(app->keeper, u->dir);
    }
    ad_upload_free(&u);
}

/* ---- JSON bodies of routes that stream ---- */

enum { MAX_JSON = 2 << 20 };

/* then is called with the app when the body has come: see read_object. */
static void collect_body(ad_http_exchange *x, ad_app *app, void (*then)(ad_http_exchange *x, void *app))
{
    ad_http_take_body(x, MAX_JSON, NULL, then, app);
}

/* ---- POST: an adapter that lies somewhere else ---- */

static const char *unknown_field(const json_t *body, const char *const *known, size_t n)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)body, key, value) {
        size_t i = 0;
        while (i < n && strcmp(key, known[i])) i++;
        if (i == n) return key;
    }
    return NULL;
}

/* NULL, or what is wrong with it. */
static const char *check_named(const json_t *body, bool new_version)
{
    static const char *const strings[] = {"path", "url", "description", "signature", "chat_template"};
    const json_t *name = json_object_get(body, "name"), *labels = json_object_get(body, "labels"), *sha = json_object_get(body, "sha256"), *activate = json_object_get(body, "activate");
    const json_t *selftest = json_object_get(body, "selftest");
    if (json_is_string(json_object_get(body, "path")) == json_is_string(json_object_get(body, "url"))) return "either `path` or `url` must say where the adapter is";
    for (size_t i = 0; i < sizeof strings / sizeof *strings; i++)
        if (json_object_get(body, strings[i]) && !json_is_string(json_object_get(body, strings[i]))) return "`path`, `url`, `description`, `signature` and `chat_template` must be strings";
    if (selftest && !json_is_object(selftest) && !json_is_string(selftest)) return "`selftest` must be an object, or its text";
    if (new_version && (labels || json_object_get(body, "description"))) return not_of_versions;
    if (new_version && name) return "`name` does not go with a new version: the path says whose it is";
    if (!new_version && name && (!json_is_string(name) || json_string_length(name) > AD_MAX_NAME)) return "`name` must be a string of at most 128 bytes";
    if (labels && !ad_is_labels(labels)) return "`labels` must be an object of strings (at most 64; keys of 128 bytes, values of 1024)";
    if (sha && (json_string_length(sha) != 64 || strspn(json_string_value(sha), "0123456789abcdef") != 64)) return "`sha256` must be 64 lower-case hex digits";
    if (json_string_length(json_object_get(body, "description")) > MAX_DESCRIPTION) return "`description` must be a string of at most 64 KiB";
    if (json_string_length(json_object_get(body, "chat_template")) > AD_TEMPLATE_BYTES) return "`chat_template` must be a string of at most 64 KiB";
    return activate && !json_is_boolean(activate) ? "`activate` must be true or false" : NULL;
}

static char *copy_string(const json_t *v)
{
    return json_is_string(v) ? strdup(json_string_value(v)) : NULL;
}

static void read_named(ad_http_exchange *x, ad_app *app, const json_t *body)
{
    static const char operators[] = "`path` and `url` are the operator's to use: send the adapter's files";
    static const char *const known[] = {"name", "path", "url", "description", "labels", "sha256", "activate", "signature", "selftest", "chat_template"};
    char buf[AD_MAX_NAME + 1];
    bool is_version = path_name(x, "versions", buf) != NULL;
    const char *field = unknown_field(body, known, sizeof known / sizeof *known), *bad = check_named(body, is_version);
    const json_t *labels = json_object_get(body, "labels"), *sha = json_object_get(body, "sha256"), *selftest = json_object_get(body, "selftest");
    ad_admission_spec s;
    if (field) ad_reply_refusal(x, 400, "unknown_field", field, "the body has an unknown field");
    else if (bad) ad_reply_refusal(x, 400, "invalid_value", NULL, bad);
    else if (!ad_caller_of(x)->is_operator) bad = operators, ad_reply_refusal(x, 403, ad_insufficient_permissions, NULL, bad);
    const char *name;
    if (field || bad || !read_target(x, app, buf, &name) || !begin_spec(x, app, name, &s)) return;
    const char *said = json_string_value(json_object_get(body, "name"));
    if (said && !read_new_name(x, app, said, s.name)) return;
    s.path = copy_string(json_object_get(body, "path"));
    s.url = copy_string(json_object_get(body, "url"));
    s.description = copy_string(json_object_get(body, "description"));
    s.signature = copy_string(json_object_get(body, "signature"));
    s.chat_template = copy_string(json_object_get(body, "chat_template"));
    s.labels = labels ? json_dumps(labels, JSON_COMPACT) : NULL;
    s.selftest = json_is_object(selftest) ? json_dumps(selftest, JSON_COMPACT) : copy_string(selftest);
    s.activate = !json_is_false(json_object_get(body, "activate"));
    if (name && s.activate && !s.dry_run && !may_replace(x, name)) {
        ad_admission_spec_deinit(&s);
        return;
    }
    if (sha) memcpy(s.sha256, json_string_value(sha), sizeof s.sha256);
    admit(x, app, &s);
}

static void on_named_body(ad_http_exchange *x, void *app)
{
    json_t *body = read_object(x);
    if (body) read_named(x, app, body);
    json_decref(body);
}

static void on_named(const char *name, bool coming, void *user)
{
    const ad_app *app = user;
    if (ad_registry_check_name(name, NULL) == AD_OK) ad_events_emit(ad_keeper_events(app->keeper), name, 0, "", coming ? "uploading" : "refused", coming ? NULL : "uploading");
}

/* POST /v1/adapters and /v1/adapters/NAME/versions. */
static void post_files(ad_http_exchange *x, ad_app *app)
{
    const char *type = ad_http_header(x, "content-type");
    bool dry_run;
    int64_t if_match;
    char buf[AD_MAX_NAME + 1];
    const char *name;
    if (!read_target(x, app, buf, &name) || !ad_query_flag(x, "dry_run", &dry_run) || !read_if_match(x, app, name, &if_match)) return; /* before the client sends megabytes */
    if (type && !strncasecmp(type, "application/json", 16)) collect_body(x, app, on_named_body);
    else ad_upload_receive(x, app, name, dry_run ? NULL : on_named, on_upload, app);
}

void ad_handle_post_adapter(ad_http_exchange *x, void *app)
{
    post_files(x, app);
}

/* ---- POST /v1/adapters/NAME/ACTION ---- */

/* The version a body asks for, as text in selector[80]. */
static bool read_selector(ad_http_exchange *x, char *selector)
{
    static const char *const known[] = {"version"};
    json_t *body = read_object(x);
    const json_t *version = json_object_get(body, "version");
    const char *field = unknown_field(body, known, 1);
    if (field) {
        ad_reply_refusal(x, 400, "unknown_field", field, "only `version` is known");
        json_decref(body);
        return false;
    }
    if (json_is_integer(version)) snprintf(selector, 80, "%lld", (long long)json_integer_value(version));
    else snprintf(selector, 80, "%s", json_is_string(version) ? json_string_value(version) : "");
    bool is_object = body != NULL;
    json_decref(body);
    if (!is_object) return false;
    return *selector || ad_reply_refusal(x, 400, "invalid_value", "version", "`version` must be a number or at least 12 digits of a digest");
}

/* Such bodies say nothing; what they would say is not done. */
static bool read_nothing(ad_http_exchange *x)
{
    json_t *body = read_object(x);
    bool is_object = body != NULL, empty = is_object && !json_object_size(body);
    json_decref(body);
    return empty || (is_object && ad_reply_refusal(x, 400, "unknown_field", NULL, "the body must be empty, or {}"));
}

static void activate(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    char name[AD_MAX_NAME + 1], selector[80];
    int64_t if_match;
    ad_later *l = action_name(x, app, "activate", name) && read_selector(x, selector) && read_if_match(x, app, name, &if_match) ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_activate(app->keeper, name, selector, if_match, on_outcome, l);
}

static void rollback(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    char name[AD_MAX_NAME + 1];
    int64_t if_match;
    ad_later *l = action_name(x, app, "rollback", name) && read_nothing(x) && read_if_match(x, app, name, &if_match) ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_activate(app->keeper, name, NULL, if_match, on_outcome, l);
}

/* Which reads: whoever sees the adapter may ask. */
static void verify(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    char said[AD_MAX_NAME + 1], buf[AD_SCOPE_NAME];
    const char *name = path_name(x, "verify", said) ? ad_scope_name(&scope, said, buf) : "";
    ad_later *l = read_nothing(x) ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_verify(app->keeper, name, on_outcome, l);
}

void ad_handle_adapter_action(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    char name[AD_MAX_NAME + 1];
    if (path_name(x, "versions", name)) post_files(x, app);
    else if (path_name(x, "activate", name)) collect_body(x, app, activate);
    else if (path_name(x, "rollback", name)) collect_body(x, app, rollback);
    else if (path_name(x, "verify", name)) collect_body(x, app, verify);
    else ad_reply_refusal(x, 404, NULL, NULL, "POST goes to /v1/adapters/NAME/versions, /activate, /rollback or /verify");
}

/* ---- PATCH, DELETE ---- */

static bool read_patch(ad_http_exchange *x, const json_t *body, ad_patch *p)
{
    static const char *const known[] = {"labels", "pinned", "description"};
    const json_t *labels = json_object_get(body, "labels"), *pinned = json_object_get(body, "pinned"), *description = json_object_get(body, "description");
    const char *field = unknown_field(body, known, sizeof known / sizeof *known);
    *p = (ad_patch){.set_labels = labels, .set_pinned = pinned, .set_description = description, .pinned = json_is_true(pinned)};
    if (field) return ad_reply_refusal(x, 400, "unknown_field", field, "only labels, pinned and description can be changed");
    if (labels && !json_is_null(labels) && !ad_is_labels(labels))
        return ad_reply_refusal(x, 400, "invalid_value", "labels", "`labels` must be an object of strings (at most 64; keys of 128 bytes, values of 1024)");
    if (pinned && !json_is_boolean(pinned)) return ad_reply_refusal(x, 400, "invalid_value", "pinned", "`pinned` must be true or false");
    if (description && !json_is_null(description) && (!json_is_string(description) || json_string_length(description) > MAX_DESCRIPTION))
        return ad_reply_refusal(x, 400, "invalid_value", "description", "`description` must be a string of at most 64 KiB");
    p->labels = json_is_object(labels) ? json_dumps(labels, JSON_COMPACT) : NULL;
    p->description = copy_string(description);
    return true;
}

void ad_handle_patch_adapter(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    char buf[AD_SCOPE_NAME];
    json_t *body = read_object(x);
    const char *name = body ? changed_name(x, app, ad_http_path(x) + strlen(prefix), buf) : NULL;
    ad_patch patch;
    int64_t if_match;
    ad_later *l = name && read_if_match(x, app, name, &if_match) && read_patch(x, body, &patch) ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_patch(app->keeper, name, &patch, if_match, on_outcome, l);
    json_decref(body);
}

/* Seconds, may have a fraction; into ms. */
static bool read_drain(ad_http_exchange *x, int *out)
{
    char text[16], *end;
    *out = 0;
    if (!ad_http_query_value(x, "drain", text, sizeof text)) return true;
    double s = strtod(text, &end);
    if (!*text || *end || !(s >= 0 && s <= MAX_DRAIN_S)) return ad_reply_refusal(x, 400, "invalid_value", "drain", "`drain` must be from 0 to 3600 seconds");
    *out = (int)(s * 1000);
    return true;
}

void ad_handle_delete_adapter(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    char said[AD_MAX_NAME + 1], buf[AD_SCOPE_NAME];
    const char *path = ad_http_path(x) + strlen(prefix), *at = strrchr(path, '@');
    size_t len = at ? (size_t)(at - path) : strlen(path);
    int drain_ms;
    int64_t if_match;
    snprintf(said, sizeof said, "%.*s", (int)(len > AD_MAX_NAME ? 0 : len), path); /* a longer one is not there */
    const char *name = read_drain(x, &drain_ms) ? changed_name(x, app, said, buf) : NULL;
    ad_later *l = name && read_if_match(x, app, name, &if_match) ? ad_later_new(x, app, name) : NULL;
    if (l) ad_keeper_remove(app->keeper, name, at ? at + 1 : NULL, drain_ms, if_match, on_outcome, l);
}
