/* SPDX-License-Identifier: MIT */
/* How an adapter gets in. On a fetcher: its files come from another place, when they were not sent. On a loader: unpack, check, pack and hash beside the
 * fsync, then move among the blobs. On the loop: the self-test through the engine; then, when the name's turn has come, rows and one pointer store. */
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/archive.h"
#include "adapters/source.h"
#include "adapters/template.h"
#include "core/base/file.h"
#include "server/keeper/private.h"
#include "server/observe/log.h"
#include "server/selftest.h"

enum { MOST_ADMISSIONS = 16, MOST_REASONS = 50, READ_BYTES = 1 << 20, REPORT_FORM = JSON_COMPACT | JSON_REAL_PRECISION(9) };

typedef struct ad_admission {
    ad_job job;
    ad_op op;                 /* from the self-test on */
    ad_keeper *k;
    struct ad_admission *next; /* of the keeper's */
    ad_intake *intake;        /* retained */
    ad_admission_spec spec;
    ad_outcome_fn done;
    void *user;
    /* What the threads found. */
    char dir[AD_STORE_PATH];
    ad_status status;
    ad_err err;
    const char *code;
    ad_adapter *adapter;
    ad_chat_template *chat;   /* its own; or NULL */
    ad_digest digest;
    int64_t bytes_disk;
    ad_signer signer;
    ad_status signature;      /* AD_OK: valid, or nobody asks */
    bool trusted, held;       /* held: the blob is kept from collection until its row is there */
    uint64_t start_ns;
    json_t *reasons;          /* of a refusal by the loader: all of them; or NULL */
    json_t *report;           /* what is told; without results of the self-test it is what is stored */
    char *report_text, *members; /* JSON: what is stored; ad_outcome's */
    /* On the loop. */
    ad_version *version;      /* leased; pending until the rows are there */
    bool is_new;              /* the entry came with it */
    int64_t revision;
} admission;

void ad_admission_spec_deinit(ad_admission_spec *s)
{
    free(s->dir);
    free(s->path);
    free(s->url);
    free(s->description);
    free(s->labels);
    free(s->selftest);
    free(s->signature);
    free(s->chat_template);
    ad_adapter_stream_free(&s->stream);
    memset(s, 0, sizeof *s);
}

/* ---- uploads that nobody wants ---- */

typedef struct {
    ad_job job;
    ad_store *store;
    char dir[];
} leftover;

static void work_discard(ad_job *job)
{
    leftover *l = (leftover *)job;
    ad_store_discard(l->store, l->dir);
}

static void discarded(ad_job *job)
{
    free(job);
}

void ad_keeper_discard(ad_keeper *k, const char *dir)
{
    size_t n = strlen(dir) + 1;
    leftover *l = k->closing ? NULL : malloc(sizeof *l + n);
    if (!l) return;
    *l = (leftover){.job = {.work = work_discard, .done = discarded}, .store = k->app->store};
    memcpy(l->dir, dir, n);
    ad_jobs_submit(k->loaders, &l->job);
}

/* ---- on the threads ---- */

void ad_keeper_hide_path(ad_err *err, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = strlen(path), head = slash ? (size_t)(slash - path) + 1 : 0;
    for (char *at; head && (at = strstr(err->msg, path));) {
        const char *rest = at[n] == '/' ? at + n + 1 : at + head;
        memmove(at, rest, strlen(rest) + 1);
    }
}

static ad_status fetch(admission *a)
{
    const ad_intake *in = a->intake;
    ad_status st = ad_store_new_incoming(a->k->app->store, a->dir, &a->err);
    if (st != AD_OK) return st;
    if (a->spec.path) return ad_origin_copy(a->spec.path, (const char *const *)in->roots, in->n_roots, a->dir, in->max_bytes, &a->err);
    ad_https_options opt = {.hosts = (const char *const *)in->hosts, .n_hosts = in->n_hosts, .ca_file = in->ca_file, .max_bytes = in->max_bytes, .timeout_s = 600};
    return ad_origin_fetch(a->spec.url, &opt, a->dir, &a->spec.is_archive, &a->k->closing, &a->err);
}

static void work_fetch(ad_job *job)
{
    admission *a = (admission *)job;
    a->status = fetch(a);
    if (a->status == AD_OK) return;
    if (*a->dir) ad_store_discard(a->k->app->store, a->dir);
    ad_keeper_hide_path(&a->err, a->dir);
}

static ad_status hash_file(const char *path, ad_digest *out, ad_err *err)
{
    ad_hasher *h = NULL;
    char *buf = malloc(READ_BYTES);
    FILE *f = buf ? fopen(path, "rbe") : NULL;
    ad_status st = f ? ad_hasher_new(&h, err) : ad_fail(err, buf ? AD_EIO : AD_ENOMEM, "%s: cannot be read", path);
    for (size_t n; st == AD_OK && (n = fread(buf, 1, READ_BYTES, f)) > 0;) ad_hasher_add(h, buf, n);
    if (st == AD_OK) st = ad_hasher_finish(&h, out, err);
    if (f) fclose(f);
    free(buf);
    return st;
}

static ad_status unpack(admission *a)
{
    char path[AD_STORE_PATH + 16];
    if (!a->spec.is_archive) return AD_OK;
    snprintf(path, sizeof path, "%s/archive", a->dir);
    return ad_archive_unpack(path, a->dir, a->intake->max_bytes, &a->err);
}

/* The signature that lies beside an adapter's files, into *text unless there is none. */
static ad_status read_signature(const char *dir, char **text, ad_err *err)
{
    char path[AD_STORE_PATH + 32];
    ad_file f = {0};
    snprintf(path, sizeof path, "%s/adapter.minisig", dir);
    if (access(path, F_OK) != 0) return AD_OK;
    ad_status st = ad_file_read(&f, path, AD_SIGNATURE_TEXT, err);
    if (st == AD_OK) *text = strndup(f.data ? f.data : "", f.len);
    ad_file_close(&f);
    return st;
}

/* It is no part of the blob. */
static ad_status take_signature_file(admission *a)
{
    char path[AD_STORE_PATH + 32];
    ad_status st = a->spec.signature ? AD_OK : read_signature(a->dir, &a->spec.signature, &a->err);
    snprintf(path, sizeof path, "%s/adapter.minisig", a->dir);
    unlink(path);
    return st;
}

/* What came by itself goes before the files, which are no part of the blob. */
static ad_status take_template(admission *a)
{
    const char *text = a->spec.chat_template;
    ad_status st = text ? ad_template_compile(text, &a->chat, &a->err) : ad_template_read(a->dir, &a->chat, &a->err);
    ad_template_remove_files(a->dir);
    return st;
}

/* SHA-256 of the weights' file, when the client named one; of an upload it is known already. */
static ad_status check_weights(admission *a)
{
    static const char *const names[] = {"adapter_model.safetensors", "adapter.gguf"};
    char path[AD_STORE_PATH + 32], hex[65];
    ad_digest d;
    ad_status st = AD_OK;
    for (int i = 0; i < 2 && *a->spec.sha256; i++) {
        snprintf(path, sizeof path, "%s/%s", a->dir, names[i]);
        if (access(path, F_OK) != 0) continue;
        st = hash_file(path, &d, &a->err);
        if (st != AD_OK) return st;
        ad_digest_hex(&d, hex);
        if (strcmp(hex, a->spec.sha256)) {
            a->code = "digest_mismatch";
            return ad_fail(&a->err, AD_EMISMATCH, "the weights' SHA-256 is %s, not %s", hex, a->spec.sha256);
        }
    }
    return st;
}

ad_status ad_keeper_check_signature_file(const ad_intake *in, const char *dir, const ad_digest *digest, ad_signer *signer, ad_err *err)
{
    char *text = NULL;
    bool trusted;
    ad_status st = in->policy == AD_SIGNATURES_OFF ? AD_OK : read_signature(dir, &text, err);
    if (st != AD_OK) return st;
    st = ad_intake_check_signature(in, text, digest, signer, &trusted, err);
    free(text);
    if (st != AD_OK && trusted) ad_log(AD_LOG_WARN, "%s: %s", dir, err->msg);
    return trusted ? AD_OK : st;
}

/* What waits for the disk, on a thread of its own. */
typedef struct {
    admission *a;
    sem_t judged;
    bool good;                /* before `judged`: whether the files are to be kept */
    ad_status status;
    ad_err err;
} disk_job;

static void *keep_files(void *arg)
{
    disk_job *d = arg;
    admission *a = d->a;
    d->status = ad_store_sync_incoming(a->k->app->store, a->dir, &d->err);
    while (sem_wait(&d->judged) != 0) {} /* a signal */
    if (d->status == AD_OK && d->good) d->status = ad_store_keep(a->k->app->store, a->dir, &a->digest, &d->err);
    a->held = d->good && d->status == AD_OK;
    return NULL;
}

static void add_reason(void *user, const char *text)
{
    admission *a = user;
    ad_err one;
    ad_fail(&one, AD_EMISMATCH, "%s", text);
    ad_keeper_hide_path(&one, a->dir);
    json_array_append_new(a->reasons, ad_json_text(one.msg));
}

/* The load ends at the first thing that is wrong; who mends the files wants to know the others, too. */
static void list_reasons(admission *a)
{
    a->reasons = json_array();
    int more = ad_adapter_reasons(a->dir, a->k->app->model, MOST_REASONS, add_reason, a);
    if (more) json_array_append_new(a->reasons, json_sprintf("... and %d more", more));
    if (!json_array_size(a->reasons)) add_reason(a, a->err.msg); /* of the tensors' values */
}

/* Mostly done already for an upload of config and weights. What such a load refuses, the whole files explain. */
static ad_status load(admission *a)
{
    const char *name = *a->spec.name ? a->spec.name : "adapter";
    if (a->spec.stream && ad_adapter_stream_finish(&a->spec.stream, a->spec.weights_bytes, name, &a->adapter, NULL) == AD_OK) return AD_OK;
    ad_status st = ad_adapter_load_mapped(&a->adapter, name, a->dir, a->k->app->model, &a->err);
    if (st == AD_EMISMATCH || st == AD_EFORMAT || st == AD_EUNSUPPORTED) list_reasons(a);
    return st;
}

/* A file that is missing is the client's mistake. */
static void tell_for_clients(admission *a, const char *dir)
{
    ad_keeper_hide_path(&a->err, dir);
    ad_keeper_hide_path(&a->err, ad_store_dir(a->k->app->store));
    if (a->status == AD_ENOTFOUND) a->status = a->err.code = AD_EFORMAT;
}

static json_t *signature_json(const admission *a)
{
    const char *status = a->signature != AD_OK ? a->spec.signature ? "untrusted" : "none" : *a->signer.key_id ? "valid" : a->spec.signature ? "unchecked" : "none";
    json_t *v = json_pack("{s:s}", "status", status);
    if (*a->signer.key_id) json_object_set_new(v, "key_id", json_string(a->signer.key_id)), json_object_set_new(v, "comment", ad_json_text(a->signer.comment));
    if (a->signature != AD_OK) json_object_set_new(v, "reason", ad_json_text(a->err.msg));
    return v;
}

static json_t *make_report(const admission *a)
{
    char hex[65];
    json_t *v = ad_report_json(a->k->app->model, a->adapter);
    ad_digest_hex(&a->digest, hex);
    json_object_set_new(v, "digest", json_string(hex));
    json_object_set_new(v, "bytes_disk", json_integer(a->bytes_disk));
    json_object_set_new(v, "signature", signature_json(a));
    json_object_set_new(v, "has_chat_template", json_boolean(a->chat != NULL));
    json_object_set_new(v, "selftest", json_null());
    return v;
}

/* The report for the reply: hundreds of modules take a millisecond to write, which the loop has not. */
static ad_status write_members(admission *a, const char *report)
{
    char *modules = json_dumps(json_object_get(a->report, "modules"), REPORT_FORM);
    free(a->members);
    if (!modules || !report || asprintf(&a->members, "\"modules\":%s,\"report\":%s", modules, report) < 0) a->members = NULL;
    free(modules);
    return a->members ? AD_OK : ad_fail(&a->err, AD_ENOMEM, "out of memory for the adapter's report");
}

/* Whether the adapter may come in. */
static ad_status judge(admission *a)
{
    ad_status st = load(a);
    if (st != AD_OK) return st;
    a->bytes_disk = ad_origin_bytes(a->dir);
    a->digest = *ad_adapter_digest(a->adapter);
    a->signature = ad_intake_check_signature(a->intake, a->spec.signature, &a->digest, &a->signer, &a->trusted, &a->err);
    if (!a->trusted && !a->spec.dry_run) return a->code = "signature_required", a->signature; /* a dry run tells the digest that is to be signed */
    if (a->signature != AD_OK) tell_for_clients(a, a->dir);
    return AD_OK;
}

static ad_status write_report(admission *a)
{
    a->report = make_report(a);
    a->report_text = json_dumps(a->report, REPORT_FORM);
    return write_members(a, a->report_text);
}

/* Loading and telling of it take milliseconds, and so do the fsyncs: they run side by side. */
static ad_status judge_and_keep(admission *a)
{
    disk_job d = {.a = a};
    pthread_t thread;
    sem_init(&d.judged, 0, 0);
    bool aside = !a->spec.dry_run && pthread_create(&thread, NULL, keep_files, &d) == 0;
    ad_status st = judge(a);
    d.good = st == AD_OK;
    sem_post(&d.judged);
    if (!aside && d.good && !a->spec.dry_run) keep_files(&d);
    if (st == AD_OK) st = write_report(a);
    if (aside) pthread_join(thread, NULL);
    sem_destroy(&d.judged);
    return st == AD_OK && d.status != AD_OK ? ad_fail(&a->err, d.status, "%s", d.err.msg) : st;
}

static ad_status check(admission *a)
{
    ad_status st = unpack(a);
    if (st == AD_OK) st = take_signature_file(a);
    if (st == AD_OK) st = take_template(a);
    if (st == AD_OK) st = check_weights(a);
    return st == AD_OK ? judge_and_keep(a) : st;
}

static void work_check(ad_job *job)
{
    admission *a = (admission *)job;
    char dir[AD_STORE_PATH];
    memcpy(dir, a->dir, sizeof dir);
    a->status = check(a);
    if (!a->held) ad_store_discard(a->k->app->store, a->dir);
    if (a->status != AD_OK) tell_for_clients(a, dir);
}

/* ---- on the loop ---- */

static void release(ad_op *op)
{
    admission *a = (admission *)((char *)op - offsetof(admission, op));
    ad_keeper *k = a->k;
    if (a->held) {
        ad_store_unhold(k->app->store, &a->digest);
        if (op->outcome.status != AD_OK || op->outcome.existed) ad_keeper_drop_blob(k, &a->digest);
    }
    ad_keeper_release(k, &a->version);
    ad_adapter_release(&a->adapter);
    ad_chat_template_free(&a->chat);
    ad_admission_spec_deinit(&a->spec);
    ad_intake_release(&a->intake);
    json_decref(a->report);
    json_decref(a->reasons);
    free(a->report_text);
    free(a->members);
    admission **link = &k->admissions;
    while (*link != a) link = &(*link)->next;
    *link = a->next;
    k->n_admitting--;
    free(a);
}

/* What was to be a tenant's that is gone is nobody's business. */
static bool has_owner(const admission *a) { return ad_keeper_owner_of(a->k->app, a->spec.name) == a->spec.owner; }

/* Before it has a turn. */
static void refuse(admission *a, ad_status st, const char *code, const ad_err *err)
{
    ad_keeper *k = a->k;
    a->op.outcome.status = st;
    a->op.outcome.code = code;
    a->op.outcome.err = *err;
    a->op.outcome.report = a->report;
    a->op.outcome.reasons = a->reasons;
    k->stats.refusals++;
    if (*a->spec.name && !a->spec.dry_run && has_owner(a)) ad_keeper_tell(k, a->spec.name, NULL, "refused", "verifying");
    a->done(a->user, &a->op.outcome);
    release(&a->op);
}

static void fail(admission *a, ad_status st, const char *code, const char *message)
{
    a->op.outcome.report = a->report;
    a->k->stats.refusals++;
    ad_op_fail(&a->op, st, code, "%s", message);
}

/* Undoes what was put into the registry before the rows were refused. */
static void withdraw(admission *a)
{
    ad_version *v = a->version;
    if (!v) return;
    ad_entry *e = v->entry;
    v->pending = false;
    ad_registry_retire(v);
    ad_keeper_release(a->k, &a->version);
    if (a->is_new) ad_registry_remove(a->k->registry, e);
}

static void publish(admission *a)
{
    ad_keeper *k = a->k;
    ad_version *v = a->version;
    ad_entry *e = v->entry;
    v->pending = false;
    e->revision = a->revision;
    if (a->spec.activate) ad_keeper_switch(k, e, v, "verifying");
    else ad_keeper_tell(k, e->name, v, "staged", "verifying");
    size_t bytes = ad_adapter_packed_bytes(a->adapter);
    if (ad_keeper_make_own_room(k, e->name, bytes) && ad_registry_make_room(k->registry, bytes)) { /* else it comes when it is needed */
        ad_registry_set_adapter(v, a->adapter);
        a->adapter = NULL;
    } else if (a->spec.activate) {
        ad_keeper_load_pinned(k, e);
    }
    k->stats.admissions++;
    ad_log(AD_LOG_INFO, "adapter %s version %d: rank %d, %d modules, %zu bytes, ready %.1f ms after its last byte", e->name, v->number, v->rank, v->modules, v->bytes_packed,
           (double)(uv_hrtime() - a->start_ns) / 1e6);
    ad_keeper_prune(k, e);
}

static void written(void *user, ad_status st, const ad_err *err)
{
    admission *a = user;
    if (st != AD_OK) {
        ad_err shown = *err;
        ad_keeper_hide_path(&shown, ad_store_dir(a->k->app->store));
        withdraw(a);
        fail(a, st, NULL, shown.msg);
        return;
    }
    publish(a);
    a->op.outcome.entry = a->version->entry;
    a->op.outcome.version = a->version;
    a->op.outcome.members = a->members;
    ad_op_finish(&a->op);
}

static bool make_rows(admission *a, ad_store_change *rows)
{
    const ad_version *v = a->version;
    ad_stored_version *sv = &rows[1].version;
    bool good = ad_row_of_entry(a->k, v->entry, &rows[0]);
    a->revision = rows[0].adapter.revision;
    if (a->spec.activate) {
        rows[0].adapter.active = v->number;
        if (v->entry->active) rows[0].adapter.previous = v->entry->active->number;
    }
    rows[1].kind = AD_PUT_VERSION;
    *sv = (ad_stored_version){.number = v->number, .digest = v->digest, .base = v->base, .fits = true, .created = v->created, .bytes_disk = v->bytes_disk,
                              .bytes_packed = (int64_t)v->bytes_packed, .rank = v->rank, .modules = v->modules};
    memcpy(sv->name, v->entry->name, strlen(v->entry->name) + 1);
    return ad_copy_text(&sv->source, v->source) && ad_copy_text(&sv->report, a->report_text) && ad_copy_text(&sv->signature, a->spec.signature) && ad_copy_text(&sv->selftest, v->selftest) &&
           ad_copy_text(&sv->chat_template, v->chat_template) && good;
}

static void write_rows(admission *a)
{
    ad_err err;
    ad_store_change *rows = calloc(2, sizeof *rows);
    bool good = rows && make_rows(a, rows);
    ad_status st = good ? ad_store_thread_submit(a->k->store, rows, 2, written, a, &err) : ad_fail(&err, AD_ENOMEM, "out of memory");
    if (st == AD_OK) return;
    for (int i = 0; i < 2 && rows && !good; i++) ad_store_change_deinit(&rows[i]);
    if (!good) free(rows);
    written(a, st, &err);
}

/* The version, not yet to be seen by requests; with the name, when that is new. */
static ad_status prepare(admission *a, ad_entry *e, ad_err *err)
{
    ad_registry *reg = a->k->registry;
    ad_version *v = NULL;
    ad_status st = AD_OK;
    if (!e) {
        st = ad_registry_add(reg, a->spec.name, AD_ORIGIN_STORE, &e, err);
        if (st != AD_OK) return st;
        a->is_new = true;
        e->created = time(NULL);
        e->description = a->spec.description, a->spec.description = NULL;
        e->labels = a->spec.labels, a->spec.labels = NULL;
    }
    st = ad_registry_add_version(reg, e, 0, &a->digest, &v, err);
    if (st == AD_OK) st = ad_registry_set_template(v, &a->chat, err);
    if (st != AD_OK) {
        if (v) ad_registry_retire(v);
        if (a->is_new) ad_registry_remove(reg, e);
        return st;
    }
    v->pending = v->checked = v->fits = true;
    v->base = *ad_model_fingerprint(a->k->app->model);
    v->created = time(NULL);
    v->bytes_disk = a->bytes_disk;
    v->bytes_packed = ad_adapter_packed_bytes(a->adapter);
    v->rank = ad_adapter_rank(a->adapter);
    v->modules = ad_adapter_matched_modules(a->adapter);
    v->signer = a->signer;
    v->trusted = a->trusted;
    v->trusted = ad_intake_still_trusts(a->k->intake, v); /* a reload may have come since */
    v->source = strdup(a->spec.path ? "path" : a->spec.url ? "url" : "upload");
    v->selftest = a->spec.selftest, a->spec.selftest = NULL;
    a->version = ad_version_lease(v);
    return AD_OK;
}

/* A signature that v lacks is news. */
static bool is_repeated(const admission *a, const ad_version *v)
{
    return ad_keeper_is_same(v, &a->digest, a->chat) && !v->pending && (v->trusted || !a->trusted);
}

static bool has_selftest(const ad_version *v, const char *text)
{
    return v->selftest && text ? !strcmp(v->selftest, text) : !v->selftest && !text;
}

/* The version of e that this one would only repeat: the active one, or the newest, when it is to be staged; NULL: none, or no e. */
static ad_version *find_twin(const admission *a, const ad_entry *e)
{
    if (!e) return NULL;
    if (is_repeated(a, e->active)) return e->active;
    for (size_t i = e->n_versions; !a->spec.activate && i-- > 0;)
        if (is_repeated(a, e->versions[i]) && has_selftest(e->versions[i], a->spec.selftest)) return e->versions[i];
    return NULL;
}

static void repeat(admission *a, ad_version *twin)
{
    if (!a->spec.dry_run) ad_keeper_mend(a->k, twin); /* its blob is the one that came */
    a->op.outcome.existed = true;
    a->op.outcome.entry = twin->entry;
    a->op.outcome.version = twin;
    a->op.outcome.report = a->report;
    a->op.outcome.members = a->members;
    ad_op_finish(&a->op);
}

static void end_dry_run(admission *a)
{
    a->op.outcome.report = a->report;
    ad_op_finish(&a->op);
}

/* Its turn: whether the name can take it is decided now. */
static void run(ad_op *op)
{
    admission *a = (admission *)((char *)op - offsetof(admission, op));
    ad_keeper *k = a->k;
    bool must_exist = a->spec.new_version;
    ad_entry *e = must_exist ? ad_op_stored_adapter(op) : ad_registry_find(k->registry, op->name);
    ad_err err;
    if (must_exist ? !e : !ad_op_has_revision(op, e)) return; /* the op has failed, and `a` went with it */
    if (!has_owner(a)) {
        fail(a, AD_ENOTFOUND, "tenant_not_found", "whose adapter this was to be is gone");
        return;
    }
    ad_version *twin = find_twin(a, e);
    if (e && e->n_targets) fail(a, AD_EEXIST, "adapter_exists", "an alias has this name");
    else if (twin) repeat(a, twin);
    else if (e && !a->spec.new_version) fail(a, AD_EEXIST, "adapter_exists", "an adapter of this name exists already: POST /v1/adapters/NAME/versions replaces it");
    else if (!e && ad_registry_adapters(k->registry) >= (size_t)k->app->config->max_adapters) fail(a, AD_EBUSY, "registry_full", "the registry is full (--max-adapters)");
    else if (ad_keeper_check_holdings(k, &a->spec, &(ad_keeping){!e, a->bytes_disk, (int64_t)ad_adapter_packed_bytes(a->adapter)}, &err) != AD_OK) {
        op->outcome.http = 403;
        fail(a, err.code, "quota_exceeded", err.msg);
    } else if (a->spec.dry_run) end_dry_run(a);
    else if (prepare(a, e, &err) != AD_OK) fail(a, err.code, NULL, err.msg);
    else write_rows(a);
}

static void enter(admission *a)
{
    a->op = (ad_op){.k = a->k, .run = run, .release = release, .if_match = a->spec.if_match, .done = a->done, .user = a->user};
    memcpy(a->op.name, a->spec.name, sizeof a->op.name);
    if (*a->op.name) {
        ad_op_enter(&a->op);
        return;
    }
    a->op.outcome.report = a->report; /* a dry run for no name */
    a->done(a->user, &a->op.outcome);
    release(&a->op);
}

static ad_status add_results(admission *a, const json_t *results)
{
    json_object_set_new(a->report, "selftest", json_deep_copy(results));
    char *text = json_dumps(a->report, REPORT_FORM);
    ad_status st = write_members(a, text);
    free(text);
    return st;
}

static void on_tested(void *user, ad_status st, const ad_err *err, const json_t *results)
{
    admission *a = user;
    if (results && add_results(a, results) != AD_OK && st == AD_OK) {
        st = AD_ENOMEM;
        err = &a->err;
    }
    if (st != AD_OK) refuse(a, st, st == AD_EMISMATCH ? "selftest_failed" : NULL, err);
    else enter(a);
}

/* For all the memory there is: what is pinned now may not be tomorrow, and may be what this one replaces. */
static bool is_too_large(const admission *a)
{
    ad_registry_stats s;
    ad_registry_get_stats(a->k->registry, &s);
    return s.budget && ad_adapter_packed_bytes(a->adapter) > s.budget;
}

static void checked(ad_job *job)
{
    admission *a = (admission *)job;
    ad_err err;
    ad_status st = a->status;
    if (st == AD_OK && a->k->closing) st = ad_fail(&a->err, AD_EBUSY, "the server is shutting down");
    if (st == AD_OK && is_too_large(a))
        st = ad_fail(&a->err, AD_ELIMIT, "the adapter takes %zu bytes of memory, which --adapter-memory does not allow", ad_adapter_packed_bytes(a->adapter));
    if (st == AD_OK && a->signature != AD_OK) ad_log(AD_LOG_WARN, "adapter %s: %s", a->spec.name, a->err.msg);
    if (st != AD_OK) refuse(a, st, a->code, &a->err);
    else if (!a->spec.selftest || !a->spec.activate) enter(a);
    else if ((st = ad_selftest_run(a->k->app, a->adapter, a->spec.selftest, on_tested, a, &err)) != AD_OK) refuse(a, st, NULL, &err);
}

static void submit_check(admission *a)
{
    a->job = (ad_job){.work = work_check, .done = checked};
    ad_jobs_submit(a->k->loaders, &a->job);
}

static void fetched(ad_job *job)
{
    admission *a = (admission *)job;
    if (a->status == AD_OK && !a->k->closing) {
        submit_check(a);
        return;
    }
    if (a->status == AD_OK) { /* the loaders may have ended */
        ad_store_discard(a->k->app->store, a->dir);
        a->status = ad_fail(&a->err, AD_EBUSY, "the server is shutting down");
    }
    refuse(a, a->status, NULL, &a->err);
}

static bool has_room(const ad_keeper *k, int owner)
{
    int own = 0;
    for (const admission *a = k->admissions; a; a = a->next) own += a->spec.owner == owner;
    return ad_tenancy_room(k->app->tenancy, own, k->n_admitting, MOST_ADMISSIONS) > 0;
}

void ad_keeper_admit(ad_keeper *k, ad_admission_spec *spec, ad_outcome_fn done, void *user)
{
    ad_outcome o = {0};
    admission *a = NULL;
    ad_status st = spec->selftest ? ad_selftest_check(spec->selftest, &o.err) : AD_OK;
    if (st == AD_OK && (!spec->dry_run || *spec->name)) st = ad_registry_check_name(spec->name, &o.err);
    if (st == AD_OK && !strcmp(spec->name, k->app->served_name)) st = ad_fail(&o.err, AD_EEXIST, "`%s` is the name of the base model.", spec->name);
    if (st == AD_OK && (k->closing || !has_room(k, spec->owner))) st = ad_fail(&o.err, AD_EBUSY, "too many adapters are being checked; try again in a moment");
    if (st == AD_OK && !spec->dir && !spec->path && !spec->url) st = ad_fail(&o.err, AD_ENOMEM, "out of memory"); /* for a copy of where it is */
    if (st == AD_OK && !(a = ad_calloc(1, sizeof *a))) st = ad_fail(&o.err, AD_ENOMEM, "out of memory");
    if (st != AD_OK) {
        if (spec->dir) ad_keeper_discard(k, spec->dir);
        ad_admission_spec_deinit(spec);
        o.status = st;
        done(user, &o);
        return;
    }
    a->k = k;
    a->intake = ad_intake_retain(k->intake);
    a->spec = *spec;
    a->done = done;
    a->user = user;
    a->start_ns = uv_hrtime();
    a->op.k = k;
    memset(spec, 0, sizeof *spec);
    k->n_admitting++;
    a->next = k->admissions;
    k->admissions = a;
    if (*a->spec.name && !a->spec.dry_run && has_owner(a)) ad_keeper_tell(k, a->spec.name, NULL, "verifying", a->spec.dir ? "uploading" : NULL);
    if (a->spec.dir) {
        snprintf(a->dir, sizeof a->dir, "%s", a->spec.dir);
        submit_check(a);
        return;
    }
    a->job = (ad_job){.work = work_fetch, .done = fetched};
    ad_jobs_submit(k->fetchers, &a->job);
}

const char *ad_keeper_verifying(const ad_keeper *k, int i)
{
    for (const admission *a = k->admissions; a; a = a->next)
        if (!a->spec.dry_run && !a->op.outcome.entry && has_owner(a) && i-- == 0) return a->spec.name;
    return NULL;
}
