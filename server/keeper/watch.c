/* SPDX-License-Identifier: MIT */
/* Folders that appear in a watched directory are served, changed ones are replaced, and what is gone goes. They stay where they are: the directory is
 * their store. The scan and the loads run on the loaders. */
#include <stdlib.h>
#include <string.h>

#include "adapters/source.h"
#include "adapters/template.h"
#include "server/keeper/private.h"
#include "server/observe/log.h"
#include "server/tenancy/audit.h"

enum { SCAN_MS = 1000, SETTLE_MS = 1000 };

/* One folder that needs something done: read on a loader, published on the loop. */
typedef struct finding {
    ad_job job;
    ad_op op;
    ad_watcher *w;
    ad_intake *intake;        /* retained once its job begins */
    ad_watch_event what;
    bool taken;               /* its name is that of an adapter or alias from elsewhere */
    bool changed;             /* while it was read */
    char name[AD_MAX_NAME + 1];
    char path[AD_STORE_PATH];
    ad_adapter *adapter;
    ad_chat_template *chat;   /* or NULL */
    int64_t bytes;            /* of its files */
    ad_signer signer;
    ad_status status;
    ad_err err;
    struct finding *next;
} finding;

/* A folder that is not served although it is there. */
typedef struct refusal {
    ad_intake *intake;        /* retained; it was judged by this one */
    bool taken;               /* its name was somebody else's */
    bool changed;             /* it was not refused: what was read of it may be of two states */
    char name[AD_MAX_NAME + 1];
    char path[AD_STORE_PATH];
    struct refusal *next;
} refusal;

struct ad_watcher {
    ad_job job;               /* the scan */
    ad_keeper *k;
    ad_watch *watch;
    uv_timer_t timer;
    char *dir;
    finding *found, *last;    /* of the scan under way */
    refusal *refused;         /* until they change, or what they were refused for does */
    ad_status status;
    ad_err err;
    bool complained;          /* about the directory, until it can be read again */
    int pending;              /* jobs and ops */
    bool closing;
};

/* ---- one folder ---- */

static void work(ad_job *job)
{
    finding *f = (finding *)job;
    const ad_keeper *k = f->w->k;
    size_t most = f->intake->max_bytes;
    ad_watch_state before, after;
    ad_watch_read_state(f->path, &before);
    f->bytes = ad_origin_bytes(f->path);
    f->status = (uint64_t)f->bytes > most ? ad_fail(&f->err, AD_ELIMIT, "its files have %lld bytes; --max-adapter-bytes allows %zu", (long long)f->bytes, most) : AD_OK;
    if (f->status == AD_OK) f->status = ad_adapter_load(&f->adapter, f->name, f->path, k->app->model, &f->err);
    if (f->status == AD_OK) f->status = ad_keeper_check_signature_file(f->intake, f->path, ad_adapter_digest(f->adapter), &f->signer, &f->err);
    if (f->status == AD_OK) f->status = ad_template_read(f->path, &f->chat, &f->err);
    ad_watch_read_state(f->path, &after);
    f->changed = memcmp(&before, &after, sizeof before) != 0;
}

/* ---- folders that were refused ---- */

static void remember(const finding *f)
{
    refusal *r = ad_calloc(1, sizeof *r);
    if (!r) return; /* then it waits until it changes */
    *r = (refusal){.intake = ad_intake_retain(f->intake), .taken = f->taken, .changed = f->changed, .next = f->w->refused};
    memcpy(r->name, f->name, sizeof r->name);
    memcpy(r->path, f->path, sizeof r->path);
    f->w->refused = r;
}

static void drop(refusal **at)
{
    refusal *r = *at;
    *at = r->next;
    ad_intake_release(&r->intake);
    free(r);
}

static void forget(ad_watcher *w, const char *name)
{
    for (refusal **at = &w->refused; *at;)
        if (!strcmp((*at)->name, name)) drop(at);
        else at = &(*at)->next;
}

static void add_finding(ad_watcher *w, ad_watch_event what, const char *name, const char *path)
{
    finding *f = ad_calloc(1, sizeof *f);
    if (!f) return;
    *f = (finding){.w = w, .what = what};
    memcpy(f->name, name, strlen(name) + 1);
    memcpy(f->path, path, strlen(path) + 1);
    if (w->last) w->last->next = f;
    else w->found = f;
    w->last = f;
}

/* Those that changed under the reader or whose name has become free, and all of them once other keys and limits hold. */
static void try_again(ad_watcher *w)
{
    for (refusal **at = &w->refused; *at;) {
        const refusal *r = *at;
        if (r->changed || r->intake != w->k->intake || (r->taken && !ad_registry_find(w->k->registry, r->name))) {
            add_finding(w, AD_WATCH_ARRIVED, r->name, r->path);
            drop(at);
        } else {
            at = &(*at)->next;
        }
    }
}

static void free_watcher_if_done(ad_watcher *w)
{
    if (!w->closing || w->pending) return;
    while (w->refused) drop(&w->refused);
    ad_watch_free(&w->watch);
    free(w->dir);
    free(w);
}

static void release(ad_op *op)
{
    finding *f = (finding *)((char *)op - offsetof(finding, op));
    ad_watcher *w = f->w;
    ad_adapter_release(&f->adapter);
    ad_chat_template_free(&f->chat);
    ad_intake_release(&f->intake);
    free(f);
    w->pending--;
    free_watcher_if_done(w);
}

static void audit(const finding *f, const char *action, int status, const char *detail) { ad_audit_tell(f->w->k->store, AD_BY_WATCHER, action, f->name, status, detail); }

static void refuse(const finding *f, ad_status st, const char *why)
{
    remember(f);
    ad_log(AD_LOG_WARN, "%s: not served: %s", f->path, why);
    audit(f, "adapter.upload", ad_http_status_of(st), why);
}

/* NULL after refusing it. */
static ad_version *add_version(finding *f, ad_entry *e)
{
    ad_registry *reg = f->w->k->registry;
    bool is_new = !e;
    ad_version *v = NULL;
    ad_err err;
    ad_status st = is_new ? ad_registry_add(reg, f->name, AD_ORIGIN_WATCH, &e, &err) : AD_OK;
    if (st == AD_OK) st = ad_registry_add_version(reg, e, 0, ad_adapter_digest(f->adapter), &v, &err);
    if (st == AD_OK) st = ad_registry_set_template(v, &f->chat, &err);
    if (st == AD_OK) return v;
    refuse(f, st, err.msg);
    if (v) ad_registry_retire(v);
    if (is_new && e) ad_registry_remove(reg, e);
    return NULL;
}

static void publish(finding *f, ad_version *v)
{
    ad_keeper *k = f->w->k;
    ad_entry *e = v->entry;
    char detail[32];
    ad_version *old = e->active;
    if (!e->created) e->created = time(NULL);
    v->checked = v->fits = true;
    v->signer = f->signer;
    v->base = *ad_model_fingerprint(k->app->model);
    v->created = time(NULL);
    v->rank = ad_adapter_rank(f->adapter);
    v->modules = ad_adapter_matched_modules(f->adapter);
    v->bytes_packed = ad_adapter_packed_bytes(f->adapter);
    v->source = strdup("watch");
    v->dir = strdup(f->path);
    v->bytes_disk = f->bytes;
    e->revision = ad_keeper_next_revision(k);
    if (ad_registry_make_room(k->registry, v->bytes_packed)) {
        ad_registry_set_adapter(v, f->adapter);
        f->adapter = NULL;
    }
    ad_keeper_switch(k, e, v, "verifying");
    snprintf(detail, sizeof detail, "version %d", v->number);
    audit(f, "adapter.upload", 201, detail);
    if (old) ad_registry_retire(old); /* its files are no longer what it was */
}

static void withdraw(const finding *f, ad_entry *e)
{
    ad_keeper *k = f->w->k;
    ad_keeper_tell(k, e->name, e->active, "gone", "ready");
    ad_registry_remove(k->registry, e);
    k->stats.removals++;
    audit(f, "adapter.remove", 200, NULL);
}

/* A folder that may be served; e is what it was until now, or NULL. */
static void take(finding *f, ad_entry *e)
{
    if (f->changed) {
        remember(f);
        return;
    }
    if (f->status != AD_OK) {
        refuse(f, f->status, f->err.msg);
        ad_keeper_tell(f->w->k, f->name, NULL, "refused", NULL);
        return;
    }
    ad_version *v = e && ad_keeper_is_same(e->active, ad_adapter_digest(f->adapter), f->chat) ? NULL : add_version(f, e);
    if (v) publish(f, v);
}

/* The name's turn. */
static void run(ad_op *op)
{
    finding *f = (finding *)((char *)op - offsetof(finding, op));
    ad_keeper *k = f->w->k;
    ad_entry *e = ad_registry_find(k->registry, f->name);
    bool gone = f->what == AD_WATCH_GONE, is_base = !strcmp(f->name, k->app->served_name);
    f->taken = e && e->origin != AD_ORIGIN_WATCH;
    if (!gone && is_base) refuse(f, AD_EEXIST, "its name is the name of the base model");
    else if (!gone && f->taken) refuse(f, AD_EEXIST, "an adapter or alias of its name is there already");
    else if (!gone) take(f, e);
    else if (e && !f->taken) withdraw(f, e);
    ad_op_finish(op);
}

static void read_done(ad_job *job)
{
    finding *f = (finding *)job;
    f->op = (ad_op){.k = f->w->k, .run = run, .release = release, .if_match = AD_ANY_REVISION};
    memcpy(f->op.name, f->name, sizeof f->op.name);
    if (f->w->k->closing) release(&f->op);
    else ad_op_enter(&f->op);
}

/* ---- the scan ---- */

static void on_event(void *user, ad_watch_event what, const char *name, const char *path)
{
    ad_watcher *w = user;
    ad_err err = {0};
    bool good = ad_registry_check_name(name, &err) == AD_OK && strlen(path) < AD_STORE_PATH;
    if (!good && what == AD_WATCH_ARRIVED) ad_log(AD_LOG_WARN, "%.300s: not served: %s", path, err.code == AD_OK ? "the path is too long" : err.msg);
    if (good) add_finding(w, what, name, path);
}

static void scan(ad_job *job)
{
    ad_watcher *w = (ad_watcher *)job;
    w->status = ad_watch_scan(w->watch, uv_hrtime() / 1000000, on_event, w, &w->err);
}

static void scanned(ad_job *job)
{
    ad_watcher *w = (ad_watcher *)job;
    if (w->status != AD_OK && !w->complained) ad_log(AD_LOG_WARN, "%s", w->err.msg);
    w->complained = w->status != AD_OK;
    for (const finding *f = w->found; f; f = f->next) forget(w, f->name);
    if (!w->closing) try_again(w);
    for (finding *f = w->found, *next; f; f = next) {
        next = f->next;
        f->job = (ad_job){.work = work, .done = read_done};
        f->intake = ad_intake_retain(w->k->intake);
        w->pending++;
        if (f->what == AD_WATCH_GONE || w->closing) read_done(&f->job);
        else ad_jobs_submit(w->k->loaders, &f->job);
    }
    w->found = w->last = NULL;
    w->pending--;
    if (!w->closing) uv_timer_start(&w->timer, w->timer.timer_cb, SCAN_MS, 0);
    free_watcher_if_done(w);
}

static void on_timer(uv_timer_t *t)
{
    ad_watcher *w = t->data;
    w->job = (ad_job){.work = scan, .done = scanned};
    w->pending++;
    ad_jobs_submit(w->k->loaders, &w->job);
}

ad_status ad_watcher_new(ad_watcher **out, ad_keeper *k, const char *dir, ad_err *err)
{
    ad_watcher *w = ad_calloc(1, sizeof *w);
    if (!w) return ad_fail(err, AD_ENOMEM, "%s: out of memory", dir);
    w->k = k;
    w->dir = strdup(dir);
    ad_status st = ad_watch_new(&w->watch, dir, SETTLE_MS, err);
    if (st != AD_OK) {
        free(w->dir);
        free(w);
        return st;
    }
    uv_timer_init(k->app->loop, &w->timer);
    w->timer.data = w;
    uv_timer_start(&w->timer, on_timer, 0, 0);
    uv_unref((uv_handle_t *)&w->timer);
    *out = w;
    return AD_OK;
}

static void on_closed(uv_handle_t *h)
{
    ad_watcher *w = h->data;
    w->pending--;
    free_watcher_if_done(w);
}

void ad_watcher_close(ad_watcher **wp)
{
    ad_watcher *w = *wp;
    if (!w) return;
    *wp = NULL;
    w->closing = true;
    w->pending++;
    uv_close((uv_handle_t *)&w->timer, on_closed);
}
