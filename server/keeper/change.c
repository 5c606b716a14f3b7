/* SPDX-License-Identifier: MIT */
/* Changes of names and versions. Each waits for its name, looks at the registry, writes rows, and when they are durable makes the change visible with
 * one pointer store. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "server/keeper/private.h"
#include "server/observe/log.h"
#include "server/selftest.h"
#include "server/tenancy/audit.h"

enum { TICK_MS = 10 };

/* ---- one after another ---- */

static bool is_first_of_name(const ad_keeper *k, const ad_op *op)
{
    const ad_op *o = k->ops;
    while (o != op && strcmp(o->name, op->name)) o = o->next;
    return o == op;
}

static void start(ad_op *op)
{
    op->running = true;
    op->run(op);
}

/* Begins what may begin, in a turn of the loop of its own: nothing calls back before the function that asked has returned. */
static void on_tick(uv_timer_t *t)
{
    ad_keeper *k = t->data;
    uint64_t now = uv_hrtime();
    ad_keeper_expire_waits(k, now);
    bool again = true;
    while (again) {
        again = false;
        for (ad_op *op = k->ops, *next; op && !again; op = next) {
            next = op->next;
            if (op->running || !is_first_of_name(k, op)) continue;
            start(op);
            again = true; /* the list may have changed */
        }
    }
    for (ad_op *op = k->ops, *next; op; op = next) {
        next = op->next;
        if (op->running && op->tick) op->tick(op, now);
    }
    if (!k->ops && !ad_keeper_waits(k)) uv_timer_stop(t);
}

void ad_keeper_start_timer(ad_keeper *k)
{
    if (!k->closing && !uv_is_active((uv_handle_t *)&k->timer)) uv_timer_start(&k->timer, on_tick, TICK_MS, TICK_MS);
}

void ad_op_enter(ad_op *op)
{
    ad_keeper *k = op->k;
    ad_op **end = &k->ops;
    while (*end) end = &(*end)->next;
    op->next = NULL;
    *end = op;
    uv_timer_start(&k->timer, on_tick, 0, TICK_MS);
}

void ad_op_finish(ad_op *op)
{
    ad_keeper *k = op->k;
    ad_op **link = &k->ops;
    while (*link != op) link = &(*link)->next;
    *link = op->next;
    if (op->done) op->done(op->user, &op->outcome);
    op->release(op);
    if (k->closing) return;
    ad_keeper_feed(k); /* what went, or is pinned no longer, made room */
    if (k->ops) uv_timer_start(&k->timer, on_tick, 0, TICK_MS);
}

/* The keeper closes: whoever waits for a turn hears it. What runs ends by itself. */
void ad_keeper_fail_waiting_ops(ad_keeper *k)
{
    for (ad_op *op = k->ops, *next; op; op = next) {
        next = op->next;
        if (!op->running || op->tick) ad_op_fail(op, AD_EBUSY, NULL, "the server is shutting down");
    }
}

void ad_op_fail(ad_op *op, ad_status st, const char *code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    op->outcome.status = op->outcome.err.code = st;
    op->outcome.code = code;
    vsnprintf(op->outcome.err.msg, sizeof op->outcome.err.msg, fmt, ap);
    va_end(ap);
    ad_op_finish(op);
}

bool ad_op_has_revision(ad_op *op, const ad_entry *e)
{
    if (op->if_match == AD_ANY_REVISION || (e && op->if_match == e->revision)) return true;
    op->outcome.http = 412;
    if (e) ad_op_fail(op, AD_EINVAL, "precondition_failed", "`%s` was changed meanwhile: it is at revision r%lld now.", op->name, (long long)e->revision);
    else ad_op_fail(op, AD_EINVAL, "precondition_failed", "`%s` is not there, or no longer.", op->name);
    return false;
}

ad_entry *ad_op_adapter(ad_op *op)
{
    ad_entry *e = ad_registry_find(op->k->registry, op->name);
    if (!e || e->n_targets) {
        ad_op_fail(op, AD_ENOTFOUND, "adapter_not_found", "The adapter `%s` does not exist.", op->name);
        return NULL;
    }
    return ad_op_has_revision(op, e) ? e : NULL;
}

ad_entry *ad_op_stored_adapter(ad_op *op)
{
    ad_entry *e = ad_op_adapter(op);
    if (!e || e->origin == AD_ORIGIN_STORE) return e;
    ad_op_fail(op, AD_EEXIST, "adapter_not_stored", e->origin == AD_ORIGIN_WATCH ? "The adapter `%s` comes from a watched directory: change its folder." : "The adapter `%s` comes from the command line.", op->name);
    return NULL;
}

/* ---- rows, events ---- */

int64_t ad_keeper_next_revision(ad_keeper *k)
{
    return ++k->revision;
}

bool ad_row_of_entry(ad_keeper *k, const ad_entry *e, ad_store_change *out)
{
    ad_stored_adapter *a = &out->adapter;
    out->kind = AD_PUT_ADAPTER;
    *a = (ad_stored_adapter){.revision = ad_keeper_next_revision(k), .created = e->created, .active = e->active ? e->active->number : 0, .previous = e->previous,
                             .next_number = e->next_number, .pinned = e->pinned};
    memcpy(a->name, e->name, strlen(e->name) + 1);
    return ad_copy_text(&a->description, e->description) && ad_copy_text(&a->labels, e->labels);
}

void ad_keeper_tell(ad_keeper *k, const char *name, const ad_version *v, const char *state, const char *previous)
{
    char digest[65] = "";
    if (v) ad_digest_hex(&v->digest, digest);
    ad_events_emit(k->events, name, v ? v->number : 0, digest, state, previous);
    if (v) ad_log(AD_LOG_INFO, "adapter %s version %d is %s (%.12s)", name, v->number, state, digest);
}

void ad_keeper_ignore(void *user, ad_status st, const ad_err *err)
{
    (void)user;
    if (st != AD_OK) ad_log(AD_LOG_WARN, "registry: %s", err->msg); /* what is not written now is found out at the next start */
}

void ad_keeper_mend(ad_keeper *k, ad_version *v)
{
    if (!v->failed) return;
    v->failed = false;
    v->checked = v->fits = true;
    v->base = *ad_model_fingerprint(k->app->model);
    free(v->reason);
    v->reason = NULL;
    ad_keeper_tell(k, v->entry->name, v, ad_version_state_name(ad_version_get_state(v)), ad_version_state_name(AD_VERSION_FAILED));
}

bool ad_keeper_is_same(const ad_version *v, const ad_digest *digest, const ad_chat_template *chat)
{
    if (!v || memcmp(&v->digest, digest, sizeof *digest)) return false;
    return v->chat_template && chat ? !strcmp(v->chat_template, ad_chat_template_source(chat)) : !v->chat_template && !chat;
}

void ad_keeper_drop_blob(ad_keeper *k, const ad_digest *d)
{
    if (k->store) ad_store_thread_collect(k->store, d);
}

/* NULL: out of memory. */
static ad_store_change *prune_rows(const ad_version *v)
{
    char object[AD_MAX_NAME + 16];
    ad_store_change *rows = calloc(2, sizeof *rows);
    if (!rows) return NULL;
    rows[0].kind = AD_DROP_VERSION;
    memcpy(rows[0].version.name, v->entry->name, strlen(v->entry->name) + 1);
    rows[0].version.number = v->number;
    snprintf(object, sizeof object, "%s@%d", v->entry->name, v->number);
    rows[1].kind = AD_ADD_AUDIT;
    rows[1].audit = ad_audit_row(AD_BY_DAEMON, "adapter.remove", object, 200, "beyond the versions that are kept");
    ad_audit_say(&rows[1].audit);
    return rows;
}

void ad_keeper_prune(ad_keeper *k, ad_entry *e)
{
    ad_err err;
    for (size_t i = e->n_versions; i-- > 0;) {
        ad_version *v = e->versions[i];
        if (e->origin != AD_ORIGIN_STORE || v->load || !ad_registry_is_surplus(v)) continue;
        ad_store_change *rows = prune_rows(v);
        if (!rows || ad_store_thread_submit(k->store, rows, 2, ad_keeper_ignore, NULL, &err) != AD_OK) return; /* another time */
        ad_keeper_tell(k, e->name, v, "gone", ad_version_state_name(ad_version_get_state(v)));
        ad_registry_retire(v);
    }
}

/* ---- a change of one adapter or alias ---- */

typedef struct {
    ad_op op;
    char *selector;           /* or NULL */
    ad_version *version;      /* leased; or NULL */
    ad_wait wait;
    ad_store_change row;      /* being made */
    int64_t revision;         /* of the row */
    ad_patch patch;
    ad_target *targets;       /* of an alias */
    int n_targets;
    int drain_ms;
    uint64_t drain_until_ns;
} change;

static void change_deinit(change *c)
{
    ad_targets_free(c->targets, c->n_targets);
    free(c->patch.labels);
    free(c->patch.description);
    free(c->selector);
}

static void release(ad_op *op)
{
    change *c = (change *)op;
    ad_keeper_release(op->k, &c->version);
    change_deinit(c);
    free(c);
}

static void begin(ad_keeper *k, const char *name, void (*run)(ad_op *op), ad_outcome_fn done, void *user, change init)
{
    bool known = strlen(name) <= AD_MAX_NAME; /* no longer one is ever there */
    change *c = known && !k->closing ? malloc(sizeof *c) : NULL;
    if (!c) {
        ad_outcome o = {0};
        o.status = known ? ad_fail(&o.err, AD_EBUSY, "the server is shutting down, or out of memory") : ad_fail(&o.err, AD_ENOTFOUND, "The adapter `%.150s` does not exist.", name);
        change_deinit(&init);
        done(user, &o);
        return;
    }
    int64_t if_match = init.op.if_match;
    *c = init;
    c->op = (ad_op){.k = k, .run = run, .release = release, .if_match = if_match, .done = done, .user = user};
    snprintf(c->op.name, sizeof c->op.name, "%s", name);
    ad_op_enter(&c->op);
}

/* Writes c->row when there is something to keep, and goes on in `written`. */
static void write_row(change *c, bool stored, ad_store_done written)
{
    ad_err err = {0};
    ad_store_change *row = stored ? malloc(sizeof *row) : NULL;
    ad_status st = AD_OK;
    if (row) {
        *row = c->row;
        st = ad_store_thread_submit(c->op.k->store, row, 1, written, c, &err); /* takes the strings, too */
        if (st == AD_OK) return;
    } else {
        ad_store_change_deinit(&c->row);
        if (stored) st = ad_fail(&err, AD_ENOMEM, "out of memory");
    }
    written(c, st, &err);
}

static bool has_failed(change *c, ad_status st, const ad_err *err)
{
    if (st == AD_OK) return false;
    ad_err shown = *err;
    ad_keeper_hide_path(&shown, ad_store_dir(c->op.k->app->store));
    ad_op_fail(&c->op, st, NULL, "%s", shown.msg);
    return true;
}

static bool make_row(change *c, const ad_entry *e)
{
    if (ad_row_of_entry(c->op.k, e, &c->row)) {
        c->revision = c->row.adapter.revision;
        return true;
    }
    ad_store_change_deinit(&c->row);
    ad_op_fail(&c->op, AD_ENOMEM, NULL, "out of memory");
    return false;
}

static void succeed(change *c, ad_entry *e)
{
    e->revision = c->revision;
    c->op.outcome.entry = e;
    ad_op_finish(&c->op);
}

/* ---- activate, roll back ---- */

void ad_keeper_switch(ad_keeper *k, ad_entry *e, ad_version *v, const char *previous)
{
    ad_version *old = e->active;
    ad_registry_activate(e, v);
    if (old && old != v) ad_keeper_tell(k, e->name, old, "staged", "ready");
    ad_keeper_tell(k, e->name, v, "ready", previous);
}

static void activated(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    if (has_failed(c, st, err)) return;
    c->op.outcome.version = c->version;
    ad_entry *e = c->version->entry;
    ad_keeper_switch(c->op.k, e, c->version, "staged");
    succeed(c, e);
}

static void on_tested(void *user, ad_status st, const ad_err *err, const json_t *results)
{
    change *c = user;
    (void)results;
    if (st == AD_EMISMATCH) {
        ad_op_fail(&c->op, st, "selftest_failed", "%s", err->msg);
        return;
    }
    if (has_failed(c, st, err)) return;
    ad_entry *e = c->version->entry;
    if (!make_row(c, e)) return;
    c->row.adapter.active = c->version->number;
    if (e->active && e->active != c->version) c->row.adapter.previous = e->active->number;
    write_row(c, true, activated);
}

static void on_resident(ad_wait *w, ad_status st, const ad_err *wait_err)
{
    change *c = (change *)((char *)w - offsetof(change, wait));
    ad_err err;
    if (has_failed(c, st, wait_err)) return;
    if (!c->version->selftest) {
        on_tested(c, AD_OK, NULL, NULL);
        return;
    }
    st = ad_selftest_run(c->op.k->app, c->version->adapter, c->version->selftest, on_tested, c, &err);
    if (st != AD_OK) has_failed(c, st, &err);
}

static void run_activate(ad_op *op)
{
    change *c = (change *)op;
    ad_entry *e = ad_op_stored_adapter(op);
    ad_err err;
    bool waiting;
    if (!e) return;
    ad_version *v = c->selector ? ad_entry_select(e, c->selector) : ad_entry_version(e, e->previous);
    if (!v && c->selector) ad_op_fail(op, AD_ENOTFOUND, "version_not_found", "The adapter `%s` has no version `%.80s`.", e->name, c->selector);
    else if (!v) ad_op_fail(op, AD_EEXIST, "no_previous_version", "The adapter `%s` has no version to go back to.", e->name);
    else if (v->checked && !v->fits) ad_op_fail(op, AD_EMISMATCH, "adapter_incompatible", "Version %d of `%s` does not fit the base model: %.300s", v->number, e->name,
                                                v->reason ? v->reason : "it was made for another");
    else if (!v->trusted) ad_op_fail(op, AD_EUNTRUSTED, "signature_required", "Version %d of `%s` has no signature of a trusted key, which this server requires.", v->number, e->name);
    if (!v || (v->checked && !v->fits) || !v->trusted) return;
    c->version = ad_version_lease(v);
    if (v == e->active) { /* nothing changes */
        c->revision = e->revision;
        op->outcome.version = v;
        succeed(c, e);
        return;
    }
    c->wait.ready = on_resident;
    ad_status st = ad_keeper_need(op->k, v, &c->wait, true, &waiting, &err);
    if (st != AD_OK) has_failed(c, st, &err);
    else if (!waiting) on_resident(&c->wait, AD_OK, NULL);
}

void ad_keeper_activate(ad_keeper *k, const char *name, const char *selector, int64_t if_match, ad_outcome_fn done, void *user)
{
    begin(k, name, run_activate, done, user, (change){.op.if_match = if_match, .selector = selector ? strdup(selector) : NULL});
}

/* ---- labels, pin, description ---- */

static void swap(char **a, char **b)
{
    char *t = *a;
    *a = *b;
    *b = t;
}

/* Exchanges what the patch sets between it and the entry: once to apply, once more to undo. */
static void exchange(change *c, ad_entry *e)
{
    if (c->patch.set_labels) swap(&e->labels, &c->patch.labels);
    if (c->patch.set_description) swap(&e->description, &c->patch.description);
    if (!c->patch.set_pinned) return;
    bool pinned = e->pinned;
    e->pinned = c->patch.pinned;
    c->patch.pinned = pinned;
}

static void pinned_loaded(ad_wait *w, ad_status st, const ad_err *err)
{
    if (st != AD_OK) ad_log(AD_LOG_WARN, "pinned adapter: %s", err->msg);
    free(w);
}

/* A pinned adapter is in memory before anybody asks. */
void ad_keeper_load_pinned(ad_keeper *k, const ad_entry *e)
{
    ad_wait *w = e->pinned && e->active ? calloc(1, sizeof *w) : NULL;
    ad_err err;
    bool waiting = false;
    if (!w) return;
    w->ready = pinned_loaded;
    if (ad_keeper_need(k, e->active, w, true, &waiting, &err) != AD_OK) ad_log(AD_LOG_WARN, "pinned adapter %s: %s", e->name, err.msg);
    if (!waiting) free(w);
}

static void patched(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    if (has_failed(c, st, err)) return;
    ad_entry *e = ad_registry_find(c->op.k->registry, c->op.name);
    exchange(c, e);
    ad_keeper_load_pinned(c->op.k, e);
    succeed(c, e);
}

static void run_patch(ad_op *op)
{
    change *c = (change *)op;
    ad_entry *e = ad_op_adapter(op);
    if (!e) return;
    exchange(c, e);
    bool made = ad_row_of_entry(op->k, e, &c->row);
    exchange(c, e); /* visible only when durable */
    c->revision = c->row.adapter.revision;
    if (made) {
        write_row(c, e->origin == AD_ORIGIN_STORE, patched);
        return;
    }
    ad_store_change_deinit(&c->row);
    ad_op_fail(op, AD_ENOMEM, NULL, "out of memory");
}

void ad_keeper_patch(ad_keeper *k, const char *name, ad_patch *patch, int64_t if_match, ad_outcome_fn done, void *user)
{
    begin(k, name, run_patch, done, user, (change){.op.if_match = if_match, .patch = *patch});
    *patch = (ad_patch){0};
}

/* ---- removal ---- */

static void drain(ad_keeper *k, ad_entry *e)
{
    const ad_version *v = ad_entry_shown(e);
    const char *before = v ? ad_version_state_name(ad_version_get_state(v)) : NULL;
    e->draining = true;
    ad_keeper_tell(k, e->name, v, "draining", before);
}

/* Its rows could not be dropped. */
static void stay(ad_keeper *k, ad_entry *e)
{
    const ad_version *v = ad_entry_shown(e);
    e->draining = false;
    if (v) ad_keeper_tell(k, e->name, v, ad_version_state_name(ad_version_get_state(v)), "draining");
}

static void removed(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    ad_keeper *k = c->op.k;
    ad_entry *e = ad_registry_find(k->registry, c->op.name);
    if (st != AD_OK && !c->version) stay(k, e);
    if (has_failed(c, st, err)) return;
    if (c->version) {
        ad_version *v = c->version;
        ad_keeper_tell(k, e->name, v, "gone", ad_version_state_name(ad_version_get_state(v)));
        ad_registry_retire(v);
        succeed(c, e);
        return;
    }
    c->op.outcome.drained = ad_entry_leases(e) == 0;
    ad_keeper_tell(k, e->name, ad_entry_shown(e), "gone", "draining");
    ad_registry_remove(k->registry, e);
    k->stats.removals++;
    ad_op_finish(&c->op);
}

static void drop(change *c, const ad_entry *e)
{
    c->row.kind = AD_DROP_ADAPTER;
    memcpy(c->row.adapter.name, e->name, strlen(e->name) + 1);
    write_row(c, e->origin == AD_ORIGIN_STORE, removed);
}

static void tick_drain(ad_op *op, uint64_t now_ns)
{
    change *c = (change *)op;
    ad_entry *e = ad_registry_find(op->k->registry, op->name);
    if (ad_entry_leases(e) && now_ns < c->drain_until_ns) return;
    op->tick = NULL;
    drop(c, e);
}

/* c->version goes, and its adapter gets a new revision: it looks different now. NULL: out of memory. */
static ad_store_change *drop_rows(change *c, const ad_entry *e)
{
    ad_store_change *rows = calloc(2, sizeof *rows);
    if (!rows) return NULL;
    if (!ad_row_of_entry(c->op.k, e, &rows[0])) {
        ad_store_change_deinit(&rows[0]);
        free(rows);
        return NULL;
    }
    if (e->previous == c->version->number) rows[0].adapter.previous = 0;
    c->revision = rows[0].adapter.revision;
    rows[1].kind = AD_DROP_VERSION;
    memcpy(rows[1].version.name, e->name, strlen(e->name) + 1);
    rows[1].version.number = c->version->number;
    return rows;
}

static void remove_version(change *c, ad_entry *e)
{
    ad_version *v = ad_entry_select(e, c->selector);
    if (!v) ad_op_fail(&c->op, AD_ENOTFOUND, "version_not_found", "The adapter `%s` has no version `%.80s`.", e->name, c->selector);
    else if (v == e->active) ad_op_fail(&c->op, AD_EEXIST, "version_active", "Version %d of `%s` is active: activate another one first, or delete the adapter.", v->number, e->name);
    if (!v || v == e->active) return;
    c->version = ad_version_lease(v);
    ad_err err;
    ad_store_change *rows = drop_rows(c, e);
    ad_status st = rows ? ad_store_thread_submit(c->op.k->store, rows, 2, removed, c, &err) : ad_fail(&err, AD_ENOMEM, "out of memory");
    if (st != AD_OK) has_failed(c, st, &err);
}

static void run_remove(ad_op *op)
{
    change *c = (change *)op;
    ad_entry *e = c->selector ? ad_op_stored_adapter(op) : ad_op_adapter(op);
    if (!e) return;
    if (c->selector) {
        remove_version(c, e);
        return;
    }
    if (e->origin == AD_ORIGIN_WATCH && op->done) { /* the watcher itself has nobody to tell */
        ad_op_fail(op, AD_EEXIST, "adapter_not_stored", "The adapter `%s` comes from a watched directory: remove its folder.", e->name);
        return;
    }
    drain(op->k, e);
    c->drain_until_ns = uv_hrtime() + (uint64_t)c->drain_ms * 1000000u;
    op->tick = tick_drain;
    tick_drain(op, uv_hrtime());
}

void ad_keeper_remove(ad_keeper *k, const char *name, const char *selector, int drain_ms, int64_t if_match, ad_outcome_fn done, void *user)
{
    begin(k, name, run_remove, done, user, (change){.op.if_match = if_match, .selector = selector ? strdup(selector) : NULL, .drain_ms = drain_ms});
}

/* ---- aliases ---- */

static char *targets_json(const ad_target *targets, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_pack("{s:s, s:i}", "model", targets[i].model, "weight", targets[i].weight));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    return text;
}

static void alias_written(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    ad_entry *e = NULL;
    ad_err why;
    if (has_failed(c, st, err)) return;
    st = ad_registry_set_alias(c->op.k->registry, c->op.name, c->targets, c->n_targets, &e, &why);
    if (has_failed(c, st, &why)) return; /* out of memory: it is there after the next start */
    c->targets = NULL;
    c->n_targets = 0;
    ad_events_emit(c->op.k->events, e->name, 0, "", "alias", NULL);
    succeed(c, e);
}

/* Every target must be there now, and be an adapter. */
static bool check_targets(change *c)
{
    ad_version *v;
    ad_err err;
    for (int i = 0; i < c->n_targets; i++) {
        const char *model = c->targets[i].model;
        const ad_entry *e = ad_registry_find(c->op.k->registry, model);
        ad_status st = e && e->n_targets ? ad_fail(&err, AD_EINVAL, "`%.150s` is an alias itself", model) : ad_registry_resolve(c->op.k->registry, model, 0, &v, &err);
        if (st == AD_OK) continue;
        ad_op_fail(&c->op, st == AD_EINVAL ? st : AD_EMISMATCH, "invalid_target", "%s", err.msg);
        return false;
    }
    return true;
}

static size_t count_aliases(const ad_keeper *k) { return ad_registry_count(k->registry) - ad_registry_adapters(k->registry); }

static void run_set_alias(ad_op *op)
{
    change *c = (change *)op;
    const ad_entry *e = ad_registry_find(op->k->registry, op->name);
    ad_err err;
    ad_status st = e && !e->n_targets ? ad_fail(&err, AD_EEXIST, "`%s` is the name of an adapter.", op->name) : ad_registry_check_name(op->name, &err);
    if (st == AD_OK && !strcmp(op->name, op->k->app->served_name)) st = ad_fail(&err, AD_EEXIST, "`%s` is the name of the base model.", op->name);
    if (st == AD_OK && !e && count_aliases(op->k) >= (size_t)op->k->app->config->max_adapters) st = ad_fail(&err, AD_EBUSY, "there are %zu aliases already (--max-adapters)", count_aliases(op->k));
    if (has_failed(c, st, &err) || !ad_op_has_revision(op, e) || !check_targets(c)) return;
    c->row.kind = AD_PUT_ALIAS;
    memcpy(c->row.alias.name, op->name, sizeof c->row.alias.name);
    c->row.alias.revision = c->revision = ad_keeper_next_revision(op->k);
    c->row.alias.targets = targets_json(c->targets, c->n_targets);
    if (c->row.alias.targets) write_row(c, true, alias_written);
    else ad_op_fail(op, AD_ENOMEM, NULL, "out of memory");
}

void ad_keeper_set_alias(ad_keeper *k, const char *name, ad_target *targets, int n, int64_t if_match, ad_outcome_fn done, void *user)
{
    begin(k, name, run_set_alias, done, user, (change){.op.if_match = if_match, .targets = targets, .n_targets = n});
}

static void alias_removed(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    ad_keeper *k = c->op.k;
    if (has_failed(c, st, err)) return;
    ad_registry_remove(k->registry, ad_registry_find(k->registry, c->op.name));
    ad_events_emit(k->events, c->op.name, 0, "", "gone", "alias");
    ad_op_finish(&c->op);
}

static void run_remove_alias(ad_op *op)
{
    change *c = (change *)op;
    const ad_entry *e = ad_registry_find(op->k->registry, op->name);
    if (!e || !e->n_targets) {
        ad_op_fail(op, AD_ENOTFOUND, "alias_not_found", "The alias `%s` does not exist.", op->name);
        return;
    }
    if (!ad_op_has_revision(op, e)) return;
    c->row.kind = AD_DROP_ALIAS;
    memcpy(c->row.alias.name, op->name, sizeof c->row.alias.name);
    write_row(c, true, alias_removed);
}

void ad_keeper_remove_alias(ad_keeper *k, const char *name, int64_t if_match, ad_outcome_fn done, void *user)
{
    begin(k, name, run_remove_alias, done, user, (change){.op.if_match = if_match});
}
