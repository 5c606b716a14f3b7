/* SPDX-License-Identifier: MIT */
/* Begin and end of the keeper, the adapters of the command line, and reading what is stored. */
#include "server/keeper/keeper.h"

#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/source.h"
#include "adapters/template.h"
#include "core/base/mem.h"
#include "server/keeper/private.h"
#include "server/observe/log.h"
#include "server/tenancy/scope.h"
#include "server/tenancy/usage.h"

enum { FETCHERS = 2, LOADER_NICENESS = 10 };

/* ---- what is stored ---- */

bool ad_copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static ad_status on_adapter(void *user, const ad_stored_adapter *a, ad_err *err)
{
    ad_keeper *k = user;
    ad_entry *e = NULL;
    ad_status st = ad_registry_add(k->registry, a->name, AD_ORIGIN_STORE, &e, err);
    if (st != AD_OK) return st;
    e->revision = a->revision;
    e->created = a->created;
    e->pinned = a->pinned;
    e->previous = a->previous;
    e->next_number = a->next_number;
    return ad_copy_text(&e->description, a->description) && ad_copy_text(&e->labels, a->labels) ? AD_OK : ad_fail(err, AD_ENOMEM, "registry: out of memory");
}

/* It was a template when it came, to another version of this program: better no answer than one to another form of prompt. */
static void refuse_template(ad_version *v, const ad_err *why)
{
    ad_log(AD_LOG_WARN, "adapter %s version %d: %s", v->entry->name, v->number, why->msg);
    v->checked = true;
    v->fits = false;
    v->reason = strdup(why->msg);
}

static ad_status on_version(void *user, const ad_stored_version *s, ad_err *err)
{
    ad_keeper *k = user;
    ad_entry *e = ad_registry_find(k->registry, s->name);
    ad_version *v = NULL;
    ad_err why;
    if (!e) return ad_fail(err, AD_EFORMAT, "registry: version %d of \"%s\" has no adapter", s->number, s->name);
    int next = e->next_number;
    ad_status st = ad_registry_add_version(k->registry, e, s->number, &s->digest, &v, err);
    if (st != AD_OK) return st;
    if (next > e->next_number) e->next_number = next;
    if (s->active) e->active = v;
    v->base = s->base;
    v->checked = !memcmp(&s->base, ad_model_fingerprint(k->app->model), sizeof s->base);
    v->fits = s->fits;
    v->created = s->created;
    v->bytes_disk = s->bytes_disk;
    v->bytes_packed = (size_t)s->bytes_packed;
    v->rank = s->rank;
    v->modules = s->modules;
    if (!v->checked && !*k->recheck_at) memcpy(k->recheck_at, s->name, sizeof k->recheck_at);
    if (s->chat_template && ad_registry_set_template_text(v, s->chat_template, &why) != AD_OK) refuse_template(v, &why);
    if (ad_intake_check_signature(k->intake, s->signature, &s->digest, &v->signer, &v->trusted, err) != AD_OK && !v->trusted) ad_log(AD_LOG_WARN, "adapter %s version %d: %s", s->name, s->number, err->msg);
    return ad_copy_text(&v->source, s->source) && ad_copy_text(&v->selftest, s->selftest) && (v->reason || ad_copy_text(&v->reason, s->reason)) ? AD_OK : ad_fail(err, AD_ENOMEM, "registry: out of memory");
}

static ad_status on_alias(void *user, const ad_stored_alias *s, ad_err *err)
{
    ad_keeper *k = user;
    ad_entry *e = NULL;
    json_t *list = json_loads(s->targets, 0, NULL);
    int n = (int)json_array_size(list);
    ad_target *targets = n >= 1 && n <= AD_MAX_TARGETS ? ad_calloc((size_t)n, sizeof *targets) : NULL;
    bool good = targets != NULL;
    for (int i = 0; good && i < n; i++) {
        const json_t *t = json_array_get(list, (size_t)i);
        targets[i].weight = (int)json_integer_value(json_object_get(t, "weight"));
        good = targets[i].weight > 0 && json_string_value(json_object_get(t, "model")) && ad_copy_text(&targets[i].model, json_string_value(json_object_get(t, "model")));
    }
    json_decref(list);
    ad_status st = good ? ad_registry_set_alias(k->registry, s->name, targets, n, &e, err) : ad_fail(err, AD_EFORMAT, "registry: alias \"%s\" is damaged", s->name);
    if (st == AD_OK) e->revision = s->revision;
    else if (targets) ad_targets_free(targets, n);
    return st;
}

static ad_status read_store(ad_keeper *k, ad_err *err)
{
    ad_store_reader reader = {.adapter = on_adapter, .version = on_version, .alias = on_alias, .user = k};
    ad_status st = ad_store_last_revision(k->app->store, &k->revision, err);
    if (st == AD_OK) st = ad_store_read(k->app->store, &reader, err);
    ad_registry_number_by_age(k->registry); /* the command line's follow */
    return st;
}

/* ---- the command line ---- */

/* What a directory of the command line holds. */
typedef struct {
    ad_adapter *adapter;
    ad_chat_template *chat;   /* or NULL */
    ad_signer signer;
} given;

static void given_deinit(given *g)
{
    ad_adapter_release(&g->adapter);
    ad_chat_template_free(&g->chat);
}

static ad_status read_given(const ad_keeper *k, given *g, const char *name, const char *dir, ad_err *err)
{
    ad_status st = ad_adapter_load(&g->adapter, name, dir, k->app->model, err);
    if (st == AD_OK) st = ad_keeper_check_signature_file(k->intake, dir, ad_adapter_digest(g->adapter), &g->signer, err);
    return st == AD_OK ? ad_template_read(dir, &g->chat, err) : st;
}

static ad_status add_version_of(ad_keeper *k, const char *name, const char *dir, const ad_digest *digest, ad_version **out, ad_err *err)
{
    ad_entry *e = NULL;
    ad_status st = ad_registry_add(k->registry, name, AD_ORIGIN_COMMAND_LINE, &e, err);
    if (st == AD_OK) st = ad_registry_add_version(k->registry, e, 0, digest, out, err);
    if (st != AD_OK) return st;
    ad_version *v = *out;
    e->created = v->created = time(NULL);
    e->revision = ad_keeper_next_revision(k);
    v->checked = true;
    v->base = *ad_model_fingerprint(k->app->model);
    v->source = strdup("command line");
    v->dir = realpath(dir, NULL);
    if (!v->dir) v->dir = strdup(dir);
    v->bytes_disk = ad_origin_bytes(dir);
    return v->source && v->dir ? AD_OK : ad_fail(err, AD_ENOMEM, "registry: out of memory");
}

static ad_status serve_given(ad_keeper *k, given *g, const char *name, const char *dir, ad_err *err)
{
    ad_adapter *a = g->adapter;
    ad_version *v = NULL;
    ad_status st = add_version_of(k, name, dir, ad_adapter_digest(a), &v, err);
    if (st == AD_OK) st = ad_registry_set_template(v, &g->chat, err);
    if (st != AD_OK) return st;
    v->fits = true;
    v->rank = ad_adapter_rank(a);
    v->modules = ad_adapter_matched_modules(a);
    v->bytes_packed = ad_adapter_packed_bytes(a);
    v->signer = g->signer;
    for (int i = 0; i < ad_adapter_warning_count(a); i++) ad_log(AD_LOG_WARN, "adapter %s: %s", name, ad_adapter_warning(a, i));
    ad_log(AD_LOG_INFO, "adapter %s: rank %d, %d modules, %zu bytes, from %s", name, v->rank, v->modules, v->bytes_packed, dir);
    if (ad_registry_make_room(k->registry, v->bytes_packed)) {
        ad_registry_set_adapter(v, a);
        g->adapter = NULL;
    }
    ad_registry_activate(v->entry, v);
    return AD_OK;
}

/* Whether bad files of an adapter are its own trouble alone. A directory that is not there is a wrong command line. */
static bool may_quarantine(const ad_keeper *k, ad_status st, const char *dir)
{
    struct stat s;
    return st != AD_ENOMEM && !strcmp(k->app->config->bad_adapter, "quarantine") && stat(dir, &s) == 0;
}

/* It has its name, so that requests hear what is wrong and nobody else takes it. */
static ad_status quarantine(ad_keeper *k, const char *name, const char *dir, const ad_err *why, ad_err *err)
{
    ad_version *v = NULL;
    ad_err shown = *why;
    ad_status st = add_version_of(k, name, dir, &(ad_digest){0}, &v, err);
    if (st != AD_OK) return st;
    ad_log(AD_LOG_WARN, "adapter %s is not served: %s", name, why->msg);
    ad_keeper_hide_path(&shown, dir);
    v->quarantined = true;
    v->failed = why->code != AD_EMISMATCH && why->code != AD_EUNSUPPORTED && why->code != AD_EUNTRUSTED;
    v->reason = strdup(shown.msg);
    k->stats.quarantined++;
    ad_registry_activate(v->entry, v);
    return AD_OK;
}

static ad_status add_given(ad_keeper *k, const char *name, const char *dir, ad_err *err)
{
    const ad_entry *e = ad_registry_find(k->registry, name);
    given g = {0};
    ad_err why;
    if (e && e->origin == AD_ORIGIN_STORE)
        return ad_fail(err, AD_EEXIST, "adapter \"%s\" of the command line has the name of one that is stored in %s: rename one, or delete the stored one", name,
                       ad_store_dir(k->app->store));
    ad_status st = read_given(k, &g, name, dir, &why);
    if (st == AD_OK) st = serve_given(k, &g, name, dir, err);
    else if (may_quarantine(k, st, dir)) st = quarantine(k, name, dir, &why, err);
    else *err = why;
    given_deinit(&g);
    return st;
}

static bool holds_adapter(const char *dir)
{
    static const char *const names[] = {"adapter_config.json", "adapter.gguf"};
    char path[AD_STORE_PATH + 32];
    struct stat st;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        if (stat(path, &st) == 0) return true;
    }
    return false;
}

/* DIR's sub-directories that hold an adapter, each under its own name, in order of name. */
static ad_status add_directory(ad_keeper *k, const char *dir, ad_err *err)
{
    struct dirent **entries = NULL;
    int n = scandir(dir, &entries, NULL, alphasort);
    if (n < 0) return ad_fail(err, AD_EIO, "%s: cannot read the directory of adapters: %m", dir);
    ad_status st = AD_OK;
    for (int i = 0; i < n; i++) {
        char path[AD_STORE_PATH];
        bool fits = st == AD_OK && entries[i]->d_name[0] != '.' && (size_t)snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name) < sizeof path;
        if (fits && holds_adapter(path)) st = add_given(k, entries[i]->d_name, path, err);
        free(entries[i]);
    }
    free(entries);
    return st;
}

static ad_status read_command_line(ad_keeper *k, ad_err *err)
{
    const ad_config *c = k->app->config;
    ad_status st = AD_OK;
    for (int i = 0; i < c->n_adapters && st == AD_OK; i++) st = add_given(k, c->adapters[i].name, c->adapters[i].dir, err);
    for (int i = 0; i < c->adapter_dirs.n && st == AD_OK; i++) st = add_directory(k, c->adapter_dirs.items[i], err);
    if (st == AD_OK && ad_registry_find(k->registry, k->app->served_name))
        return ad_fail(err, AD_EEXIST, "an adapter has the base model's name \"%.140s\"; choose another with --served-name", k->app->served_name);
    return st;
}

/* ---- begin and end ---- */

static void on_gone(void *user, ad_version *v)
{
    ad_keeper *k = user;
    if (!v->dir) ad_keeper_drop_blob(k, &v->digest);
}

static size_t budget_of(const ad_config *c)
{
    return c->adapter_memory_bytes ? c->adapter_memory_bytes : ad_free_memory() / 4;
}

int ad_keeper_owner_of(void *user, const char *name)
{
    const ad_app *app = user;
    const ad_scope_rules rules = ad_scope_rules_of(app->tenancy);
    const ad_tenant *t = ad_scope_owner(&rules, name);
    return !t ? 0 : t->leaving ? -1 : t->id;
}

static ad_status open_parts(ad_keeper *k, ad_err *err)
{
    ad_app *app = k->app;
    const ad_config *c = app->config;
    ad_status st = ad_registry_new(&app->registry, budget_of(c), on_gone, k, err);
    if (st != AD_OK) return st;
    k->registry = app->registry;
    st = ad_intake_new(&k->intake, c, err);
    if (st == AD_OK) st = ad_events_new(&k->events, app->loop, ad_keeper_owner_of, app, err);
    if (st == AD_OK) st = ad_store_open(&app->store, c->state_dir, err);
    if (st == AD_OK) st = read_store(k, err);
    if (st == AD_OK) st = ad_tenancy_new(&app->tenancy, app->store, err);
    if (st == AD_OK) st = ad_ledger_restore(app->tenancy, app->store, ad_clock_now(), err);
    if (st == AD_OK) st = ad_store_thread_new(&k->store, app->loop, app->store, err);
    if (st == AD_OK) ad_tenancy_start(app->tenancy, k->store, k->registry);
    if (st == AD_OK) st = ad_jobs_new(&k->loaders, app->loop, c->loaders, LOADER_NICENESS, err);
    app->loaders = k->loaders;
    if (st == AD_OK) st = ad_jobs_new(&k->fetchers, app->loop, FETCHERS, LOADER_NICENESS, err);
    if (st == AD_OK) st = read_command_line(k, err);
    return st == AD_OK && c->watch_dir ? ad_watcher_new(&k->watcher, k, c->watch_dir, err) : st;
}

static void tell_start(const ad_keeper *k)
{
    if (ad_store_durable(k->app->store)) ad_log(AD_LOG_INFO, "registry: %zu adapters, stored in %s", ad_registry_adapters(k->registry), ad_store_dir(k->app->store));
    else ad_log(AD_LOG_WARN, "registry: in memory only: what is uploaded is gone when the daemon ends (--state-dir DIR keeps it)");
}

ad_status ad_keeper_new(ad_keeper **out, struct ad_app *app, ad_err *err)
{
    ad_keeper *k = ad_calloc(1, sizeof *k);
    if (!k) return ad_fail(err, AD_ENOMEM, "registry: out of memory");
    k->app = app;
    k->load_times.bounds = &ad_load_bounds;
    uv_timer_init(app->loop, &k->timer);
    k->timer.data = k;
    *out = k; /* half built or whole, it is closed in one way */
    ad_status st = open_parts(k, err);
    if (st != AD_OK) return st;
    tell_start(k);
    for (size_t i = 0; i < ad_registry_count(k->registry); i++) {
        ad_keeper_prune(k, ad_registry_at(k->registry, i)); /* what was not written any more, or was in use */
        ad_keeper_load_pinned(k, ad_registry_at(k->registry, i));
    }
    ad_keeper_recheck(k);
    return AD_OK;
}

static void free_keeper(uv_handle_t *h)
{
    ad_keeper *k = h->data;
    void (*closed)(void *) = k->closed;
    void *user = k->closed_user;
    free(k);
    if (closed) closed(user);
}

static void on_store_closed(void *user)
{
    ad_keeper *k = user;
    k->app->store = NULL;
    ad_events_close(&k->events);
    ad_intake_release(&k->intake);
    uv_close((uv_handle_t *)&k->timer, free_keeper);
}

static void close_store(void *user)
{
    ad_keeper *k = user;
    if (k->store) {
        ad_store_thread_close(&k->store, on_store_closed, k);
        return;
    }
    ad_store_close(&k->app->store);
    on_store_closed(k);
}

static void close_fetchers(void *user)
{
    ad_keeper *k = user;
    if (k->fetchers) ad_jobs_close(&k->fetchers, close_store, k);
    else close_store(k);
}

void ad_keeper_stop(ad_keeper *k)
{
    if (k->closing) return;
    __atomic_store_n(&k->closing, true, __ATOMIC_RELAXED); /* a fetch looks at it */
    uv_timer_stop(&k->timer);
    ad_watcher_close(&k->watcher);
    ad_keeper_abandon(k);
    ad_keeper_fail_waiting_ops(k);
    if (k->events) ad_events_end_streams(k->events);
}

void ad_keeper_close(ad_keeper **kp, void (*done)(void *user), void *user)
{
    ad_keeper *k = *kp;
    if (!k) return;
    *kp = NULL;
    ad_keeper_stop(k);
    k->closed = done;
    k->closed_user = user;
    if (k->loaders) ad_jobs_close(&k->loaders, close_fetchers, k);
    else close_fetchers(k);
}

void ad_keeper_set_intake(ad_keeper *k, ad_intake *next)
{
    next->policy = k->intake->policy; /* another one needs a restart: it decides what is read of signatures */
    ad_intake_release(&k->intake);
    k->intake = next;
    for (size_t i = 0; i < ad_registry_count(k->registry); i++) {
        const ad_entry *e = ad_registry_at(k->registry, i);
        for (size_t j = 0; j < e->n_versions; j++) {
            ad_version *v = e->versions[j];
            if (!v->trusted || (v->trusted = ad_intake_still_trusts(next, v))) continue;
            ad_log(AD_LOG_WARN, "adapter %s version %d: the key of its signature is trusted no more", e->name, v->number);
        }
    }
}

ad_events *ad_keeper_events(const ad_keeper *k) { return k->events; }
ad_store_thread *ad_keeper_store(const ad_keeper *k) { return k->store; }

void ad_keeper_get_stats(const ad_keeper *k, ad_keeper_stats *out)
{
    *out = k->stats;
}

const ad_histogram *ad_keeper_load_times(const ad_keeper *k) { return &k->load_times; }

/* ---- verification, stored reports ---- */

typedef void (*report_fn)(void *user, json_t *report);

/* A version's files are read once more, beside what is in memory of them. */
typedef struct {
    ad_job job;
    ad_keeper *k;
    ad_version *version;      /* leased */
    bool held;                /* the blob is kept from collection */
    char path[AD_STORE_PATH];
    ad_adapter *adapter;
    ad_status status;
    ad_err err;
    ad_outcome_fn done;       /* of a verification */
    report_fn reported;       /* of a report */
    void *user;
} reading;

static void work_read(ad_job *job)
{
    reading *v = (reading *)job;
    v->status = ad_adapter_load(&v->adapter, "adapter", v->path, v->k->app->model, &v->err);
    if (v->status != AD_OK) ad_keeper_hide_path(&v->err, v->path);
}

/* init: what is told of it, and to whom. False: the server is shutting down, or out of memory. */
static bool read_again(ad_keeper *k, ad_version *of, reading init)
{
    reading *v = k->closing ? NULL : ad_calloc(1, sizeof *v);
    if (!v) return false;
    *v = init;
    v->job.work = work_read;
    v->k = k;
    v->version = ad_version_lease(of);
    if (of->dir) snprintf(v->path, sizeof v->path, "%s", of->dir);
    else ad_store_blob_path(k->app->store, &of->digest, v->path);
    v->held = !of->dir && ad_store_hold(k->app->store, &of->digest, NULL) == AD_OK;
    ad_jobs_submit(k->loaders, &v->job);
    return true;
}

static void reading_free(reading *v)
{
    if (v->held) ad_store_unhold(v->k->app->store, &v->version->digest);
    ad_adapter_release(&v->adapter);
    ad_keeper_release(v->k, &v->version);
    free(v);
}

static void verified(ad_job *job)
{
    reading *v = (reading *)job;
    ad_outcome o = {.entry = v->version->entry, .version = v->version};
    char want[65], have[65] = "";
    ad_digest_hex(&v->version->digest, want);
    if (v->adapter) ad_digest_hex(ad_adapter_digest(v->adapter), have);
    bool ok = !strcmp(want, have);
    o.report = json_pack("{s:s, s:b, s:s?, s:s?}", "object", "adapter.verification", "ok", ok, "expected", v->version->quarantined ? NULL : want, "digest", *have ? have : NULL);
    json_object_set_new(o.report, "reason", v->status != AD_OK ? ad_json_text(v->err.msg) : json_null());
    const ad_signer *by = &v->version->signer;
    json_t *signer = *by->key_id ? json_pack("{s:s, s:s, s:o}", "status", "valid", "key_id", by->key_id, "comment", ad_json_text(by->comment)) : json_pack("{s:s}", "status", "none");
    json_object_set_new(o.report, "signature", signer);
    v->done(v->user, &o);
    json_decref(o.report);
    reading_free(v);
}

void ad_keeper_verify(ad_keeper *k, const char *name, ad_outcome_fn done, void *user)
{
    ad_outcome o = {0};
    const ad_entry *e = ad_registry_find(k->registry, name);
    if (!e || !e->active) o.status = ad_fail(&o.err, AD_ENOTFOUND, "The adapter `%.150s` does not exist, or has no active version.", name);
    else if (!read_again(k, e->active, (reading){.job.done = verified, .done = done, .user = user})) o.status = ad_fail(&o.err, AD_EBUSY, "the server is shutting down, or out of memory");
    if (o.status != AD_OK) done(user, &o);
}

static void read_for_report(ad_job *job)
{
    reading *v = (reading *)job;
    json_t *report = v->adapter ? ad_report_json(v->k->app->model, v->adapter) : NULL;
    v->reported(v->user, report);
    json_decref(report);
    reading_free(v);
}

typedef struct {
    report_fn done;
    void *user;
} report_reader;

static void on_report(void *user, const char *text)
{
    report_reader *r = user;
    json_t *report = text ? json_loads(text, 0, NULL) : NULL;
    r->done(r->user, report);
    json_decref(report);
    free(r);
}

void ad_keeper_find_report(ad_keeper *k, ad_version *v, void (*done)(void *user, json_t *report), void *user)
{
    if (v->dir) { /* no row of it is stored */
        if (!read_again(k, v, (reading){.job.done = read_for_report, .reported = done, .user = user})) done(user, NULL);
        return;
    }
    report_reader *r = k->closing ? NULL : malloc(sizeof *r);
    if (!r) {
        done(user, NULL);
        return;
    }
    *r = (report_reader){done, user};
    ad_store_thread_report(k->store, v->entry->name, v->number, on_report, r);
}
