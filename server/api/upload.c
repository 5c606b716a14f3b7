/* SPDX-License-Identifier: MIT */
/* Uploads. The loop thread takes the body apart and fills one buffer; a loader writes the other, and hashes and packs what has come so far. When both are full the reading
 * pauses. One job of an upload runs at a time, and while it runs what is marked [job] is its own.
 *
 *   open the directory -> write, write, ... -> done      refused or left at any point: -> discard the directory
 */
#include "server/api/upload.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/template.h"
#include "core/base/file.h"
#include "server/api/adapter_json.h"
#include "server/http/multipart.h"
#include "server/observe/access.h"

enum {
    MAX_UPLOADS = 8,
    MAX_TEXT = 64 << 10,
    MAX_JSON = 1 << 20,         /* adapter_config.json, selftest */
    MAX_REST = 4 << 20,         /* of a body beside its files: fields, headers, boundaries */
    WORTH_WRITING = 64 << 10,   /* less is not handed to an idle loader */
    FULL = 256 << 10,           /* a buffer; what is left to do after the last byte is at most two */
};

typedef enum { CONFIG, WEIGHTS, GGUF, ARCHIVE, TOKENIZER, N_FILES, NAME = N_FILES, DESCRIPTION, LABELS, SHA256, ACTIVATE, SIGNATURE, SELFTEST, CHAT_TEMPLATE, N_FIELDS } field;
typedef enum { FILE_PART, TEXT, EITHER } form;

static const struct {
    const char *name;
    form form;
    size_t max;                 /* bytes; 0: the limit of all files */
    const char *file;           /* its name in the directory */
} fields[N_FIELDS] = {
    [CONFIG] = {"config", FILE_PART, MAX_JSON, "adapter_config.json"},
    [WEIGHTS] = {"weights", FILE_PART, 0, "adapter_model.safetensors"},
    [GGUF] = {"gguf", FILE_PART, 0, "adapter.gguf"},
    [ARCHIVE] = {"archive", FILE_PART, 0, "archive"},
    [TOKENIZER] = {"tokenizer_config", FILE_PART, AD_TOKENIZER_CONFIG_BYTES, AD_TOKENIZER_CONFIG},
    [NAME] = {"name", TEXT, MAX_TEXT, NULL},
    [DESCRIPTION] = {"description", EITHER, MAX_TEXT, NULL},
    [LABELS] = {"labels", EITHER, MAX_TEXT, NULL},
    [SHA256] = {"sha256", TEXT, MAX_TEXT, NULL},
    [ACTIVATE] = {"activate", TEXT, MAX_TEXT, NULL},
    [SIGNATURE] = {"signature", EITHER, MAX_TEXT, NULL},
    [SELFTEST] = {"selftest", EITHER, MAX_JSON, NULL},
    [CHAT_TEMPLATE] = {"chat_template", EITHER, MAX_TEXT, NULL},
};

/* Bytes on their way to files. A file comes once, so a buffer holds at most one run of each. */
typedef struct {
    ad_buf bytes;
    struct {
        field file;
        size_t len;
        bool last;              /* the file ends with it */
    } runs[N_FILES];
    int n_runs;
} chunk;

typedef struct receiver {
    ad_job job;
    ad_jobs *loaders;
    const ad_model *model;      /* NULL: nothing is loaded */
    bool working;               /* a job runs */
    ad_http_exchange *x;        /* NULL: refused, or the client left */
    ad_app *app;
    int tenant;                 /* of the sender */
    ad_store *store;
    size_t max_bytes;           /* of all files */
    void (*named)(const char *name, bool coming, void *user);
    ad_upload_done done;
    void *user;
    struct receiver *next;      /* of all */
    char name[AD_MAX_NAME + 1]; /* whose it is, its whole name, as far as that is known */
    int owner;                  /* of the name, as long as there is that tenant */
    ad_upload *u;               /* dir, stream and weights_bytes: [job] */
    ad_multipart *parts;
    bool seen[N_FIELDS], complete;
    field at;                   /* the part that comes */
    size_t at_bytes;            /* of it */
    ad_buf text;                /* of a field */
    chunk filling, writing;     /* writing: [job] */
    ad_fault fault;             /* why a callback of the parser refused */
    int fd[N_FILES];            /* [job]; -1: not open */
    off_t written[N_FILES];     /* [job] */
    bool hashes;                /* the weights: sha256 came before them */
    ad_hasher *hasher;          /* [job] */
    ad_digest weights;          /* [job] SHA-256 of their bytes */
    ad_err err;                 /* [job] its outcome */
} receiver;

static receiver *receivers; /* all, in no order */
static int n_receivers;

static void give_up(receiver *r);
static void go_on(receiver *r);

/* What was to be a tenant's that is gone is nobody's business. */
static bool has_owner(const receiver *r) { return ad_keeper_owner_of(r->app, r->name) == r->owner; }

int ad_uploads_pending(void) { return n_receivers; }

const char *ad_upload_name(int i)
{
    for (const receiver *r = receivers; r; r = r->next)
        if (r->x && has_owner(r) && i-- == 0) return r->name;
    return NULL;
}

void ad_upload_free(ad_upload **up)
{
    ad_upload *u = *up;
    if (!u) return;
    char *texts[] = {u->name, u->description, u->labels, u->selftest, u->signature, u->chat_template};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]);
    ad_adapter_stream_free(&u->stream);
    free(u);
    *up = NULL;
}

static void receiver_free(receiver *r)
{
    ad_digest unused;
    if (r->u && *r->name && r->named && has_owner(r)) r->named(r->name, false, r->user); /* it was not handed on */
    receiver **link = &receivers;
    while (*link != r) link = &(*link)->next;
    *link = r->next;
    n_receivers--;
    if (r->hasher && ad_hasher_finish(&r->hasher, &unused, NULL) != AD_OK) {} /* only to free it */
    ad_multipart_free(&r->parts);
    ad_upload_free(&r->u);
    ad_buf_deinit(&r->text);
    ad_buf_deinit(&r->filling.bytes);
    ad_buf_deinit(&r->writing.bytes);
    free(r);
}

/* ---- jobs, on the loaders ---- */

static ad_status file_error(const char *what, field f, ad_err *err)
{
    int error = errno;
    return ad_fail(err, ad_errno_status(error), "%s cannot be %s: %s", fields[f].file, what, strerror(error));
}

static receiver *receiver_of(ad_job *job) { return (receiver *)((char *)job - offsetof(receiver, job)); }

static bool is_hashed(const receiver *r, field f) { return (f == WEIGHTS || f == GGUF) && r->hashes; }

static void open_job(ad_job *job)
{
    receiver *r = receiver_of(job);
    char path[AD_STORE_PATH];
    if (ad_store_new_incoming(r->store, path, &r->err) == AD_OK) memcpy(r->u->dir, path, sizeof path);
}

static ad_status open_file(receiver *r, field f, ad_err *err)
{
    char path[AD_STORE_PATH + 40];
    snprintf(path, sizeof path, "%s/%s", r->u->dir, fields[f].file);
    r->fd[f] = open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (r->fd[f] < 0) return file_error("created", f, err);
    return is_hashed(r, f) ? ad_hasher_new(&r->hasher, err) : AD_OK;
}

/* What goes wrong here is found again, and said, when the files are loaded as a whole. */
static void load_what_came(receiver *r)
{
    r->u->weights_bytes = (size_t)r->written[WEIGHTS];
    if (r->u->stream && ad_adapter_stream_advance(r->u->stream, r->u->weights_bytes, NULL) != AD_OK) ad_adapter_stream_free(&r->u->stream);
}

/* Write-back begins at once, so that the fsync to come finds little to do. */
static ad_status write_run(receiver *r, field f, const char *data, size_t len, ad_err *err)
{
    if (!ad_write_all(r->fd[f], data, len)) return file_error("written", f, err);
    if (ad_store_durable(r->store)) sync_file_range(r->fd[f], r->written[f], (off_t)len, SYNC_FILE_RANGE_WRITE);
    r->written[f] += (off_t)len;
    if (is_hashed(r, f)) ad_hasher_add(r->hasher, data, len);
    if (f == WEIGHTS) load_what_came(r);
    return AD_OK;
}

static ad_status end_file(receiver *r, field f, ad_err *err)
{
    int fd = r->fd[f];
    r->fd[f] = -1;
    if (close(fd) != 0) return file_error("written", f, err);
    if (f == CONFIG && r->model && r->fd[WEIGHTS] < 0 && !r->written[WEIGHTS] && ad_adapter_stream_new(&r->u->stream, r->u->dir, r->model, r->max_bytes, NULL) != AD_OK) {} /* the whole will tell */
    return is_hashed(r, f) ? ad_hasher_finish(&r->hasher, &r->weights, err) : AD_OK;
}

static void write_job(ad_job *job)
{
    receiver *r = receiver_of(job);
    const char *data = r->writing.bytes.data;
    ad_status st = AD_OK;
    for (int i = 0; i < r->writing.n_runs && st == AD_OK; i++) {
        field f = r->writing.runs[i].file;
        size_t len = r->writing.runs[i].len;
        if (r->fd[f] < 0) st = open_file(r, f, &r->err);
        if (st == AD_OK && len) st = write_run(r, f, data, len, &r->err);
        if (st == AD_OK && r->writing.runs[i].last) st = end_file(r, f, &r->err);
        data += len;
    }
}

static void discard_job(ad_job *job)
{
    receiver *r = receiver_of(job);
    for (field f = 0; f < N_FILES; f++)
        if (r->fd[f] >= 0) close(r->fd[f]);
    ad_store_discard(r->store, r->u->dir);
}

/* ---- back on the loop ---- */

/* Answers, and lets everything go. A 422 has the report that every adapter's has. r is invalid afterwards. */
static void refuse(receiver *r, const ad_fault *f)
{
    ad_http_exchange *x = r->x;
    ad_fault copy = *f;
    r->x = NULL;
    give_up(r);
    ad_http_on_abort(x, NULL, NULL);
    if (copy.http != 422) {
        ad_reply_fault(x, &copy);
        return;
    }
    ad_access_fail(x, copy.code);
    ad_reply_json(x, 422, ad_refusal_json(&copy, AD_EMISMATCH, NULL, NULL));
}

static void on_worked(ad_job *job)
{
    receiver *r = receiver_of(job);
    ad_fault f = {0};
    r->working = false;
    if (!r->x) give_up(r);
    else if (r->err.code != AD_OK) ad_fault_from(&f, &r->err, NULL), refuse(r, &f);
    else go_on(r);
}

static void on_discarded(ad_job *job)
{
    receiver_free(receiver_of(job));
}

static void submit(receiver *r, void (*work)(ad_job *job), void (*done)(ad_job *job))
{
    r->job = (ad_job){.work = work, .done = done};
    ad_jobs_submit(r->loaders, &r->job);
}

static void start(receiver *r, void (*work)(ad_job *job))
{
    r->working = true;
    submit(r, work, on_worked);
}

/* Nobody waits any longer: when no job runs, the directory goes, then r. */
static void give_up(receiver *r)
{
    if (r->working) return; /* on_worked comes back */
    if (!*r->u->dir) receiver_free(r);
    else submit(r, discard_job, on_discarded);
}

/* All is on disk. r is invalid afterwards. */
static void finish(receiver *r)
{
    ad_http_exchange *x = r->x;
    ad_upload *u = r->u;
    ad_upload_done done = r->done;
    void *user = r->user;
    char hex[65];
    ad_fault f = {0};
    u->is_archive = r->seen[ARCHIVE];
    u->sha256_checked = r->hashes;
    ad_digest_hex(&r->weights, hex);
    if (u->sha256_checked && strcmp(u->sha256, hex)) {
        ad_fault_set(&f, 422, "digest_mismatch", "sha256", "the weights that came have SHA-256 %s, not %s", hex, u->sha256);
        refuse(r, &f);
        return;
    }
    r->u = NULL;
    receiver_free(r);
    ad_http_on_abort(x, NULL, NULL);
    done(x, u, user);
}

/* No job runs: hands over what has gathered, or ends. r may be invalid afterwards. */
static void go_on(receiver *r)
{
    bool rest = r->complete && r->filling.n_runs;
    if (r->filling.bytes.len >= WORTH_WRITING || rest) {
        chunk full = r->filling;
        r->filling = r->writing;
        r->writing = full;
        ad_buf_clear(&r->filling.bytes);
        r->filling.n_runs = 0;
        start(r, write_job);
    } else if (r->complete) {
        finish(r);
        return;
    }
    ad_http_pause_body(r->x, false); /* may call on_data and what follows */
}

/* ---- the parts ---- */

static bool is_file(field f) { return f < N_FILES; }

static ad_status refuse_part(receiver *r, int http, field f, const char *why)
{
    ad_fault_set(&r->fault, http, http == 413 ? NULL : "invalid_value", fields[f].name, "%s: %s", fields[f].name, why);
    return AD_EINVAL;
}

/* The run of file f that is being filled. */
static void add_run(receiver *r, field f, size_t len, bool last)
{
    chunk *c = &r->filling;
    if (!c->n_runs || c->runs[c->n_runs - 1].file != f) {
        c->runs[c->n_runs].file = f;
        c->runs[c->n_runs].len = 0;
        c->runs[c->n_runs++].last = false;
    }
    c->runs[c->n_runs - 1].len += len;
    c->runs[c->n_runs - 1].last |= last;
}

/* Files that do not go together. */
static bool conflicts(const bool *seen)
{
    return seen[ARCHIVE] + seen[GGUF] + (seen[CONFIG] || seen[WEIGHTS]) > 1 || (seen[ARCHIVE] && seen[TOKENIZER]);
}

static ad_status on_part(void *user, const char *name, const char *filename, const char *content_type, ad_err *err)
{
    receiver *r = user;
    field f = 0;
    (void)content_type;
    while (f < N_FIELDS && strcmp(fields[f].name, name)) f++;
    if (f == N_FIELDS) {
        ad_fault_set(&r->fault, 400, "unknown_field", name,
                     "there is no field \"%.100s\"; config, weights, archive, gguf, tokenizer_config, name, description, labels, sha256, activate, signature, selftest "
                     "and chat_template are known", name);
        return AD_EINVAL;
    }
    if (r->seen[f]) return refuse_part(r, 400, f, "it is there twice");
    if (fields[f].form == FILE_PART && !filename) return refuse_part(r, 400, f, "it must be a file part, with a filename");
    if (fields[f].form == TEXT && filename) return refuse_part(r, 400, f, "it must not be a file part");
    r->seen[f] = true;
    if ((f == WEIGHTS || f == GGUF) && r->seen[SHA256]) r->hashes = true; /* a job that may run now does not look at it before it has weights */
    if (conflicts(r->seen)) return refuse_part(r, 400, f, "send either config and weights, or archive, or gguf; an archive brings its tokenizer_config itself");
    r->at = f;
    r->at_bytes = 0;
    ad_buf_clear(&r->text);
    if (is_file(f)) add_run(r, f, 0, false);
    return AD_OK;
}

static ad_status on_part_data(void *user, const char *data, size_t len, ad_err *err)
{
    receiver *r = user;
    field f = r->at;
    char why[100];
    size_t max = fields[f].max ? fields[f].max : SIZE_MAX;
    if (len > max - r->at_bytes) {
        snprintf(why, sizeof why, "it is larger than %zu bytes", max);
        return refuse_part(r, 413, f, why);
    }
    if (is_file(f) && len > r->max_bytes - r->u->bytes) {
        snprintf(why, sizeof why, "the adapter's files are larger than %zu bytes together", r->max_bytes);
        return refuse_part(r, 413, f, why);
    }
    r->at_bytes += len;
    ad_buf *to = is_file(f) ? &r->filling.bytes : &r->text;
    ad_buf_append(to, data, len);
    if (to->failed) return ad_fail(err, AD_ENOMEM, "out of memory");
    if (is_file(f)) {
        r->u->bytes += len;
        add_run(r, f, len, false);
    }
    return AD_OK;
}

static bool good_labels(const char *text)
{
    json_t *labels = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    bool good = ad_is_labels(labels);
    json_decref(labels);
    return good;
}

static bool good_sha256(const char *text, char out[65])
{
    if (strlen(text) != 64 || strspn(text, "0123456789abcdefABCDEF") != 64) return false;
    for (int i = 0; i < 65; i++) out[i] = (char)tolower((unsigned char)text[i]);
    return true;
}

static void set_name(receiver *r, const char *name)
{
    if (strlen(name) > AD_MAX_NAME) return; /* it will be refused */
    memcpy(r->name, name, strlen(name) + 1);
    r->owner = ad_keeper_owner_of(r->app, name);
    if (r->named) r->named(name, true, r->user);
}

static void set_said_name(receiver *r, const char *said)
{
    const ad_scope scope = ad_scope_of(r->x, r->app);
    char full[AD_SCOPE_NAME];
    set_name(r, ad_scope_own_name(&scope, said, full));
}

/* A text field is complete; text is owned by the upload from here on, or freed. */
static ad_status keep_text(receiver *r, field f, char *text)
{
    ad_upload *u = r->u;
    char **slots[N_FIELDS] = {[NAME] = &u->name, [DESCRIPTION] = &u->description, [LABELS] = &u->labels, [SIGNATURE] = &u->signature, [SELFTEST] = &u->selftest,
                              [CHAT_TEMPLATE] = &u->chat_template};
    char **slot = slots[f];
    const char *why = NULL;
    if (f == LABELS && !good_labels(text)) why = "it is not a JSON object of strings (at most 64; keys of 128 bytes, values of 1024)";
    if (f == SHA256 && !good_sha256(text, u->sha256)) why = "it is not 64 hex digits";
    if (f == ACTIVATE && strcmp(text, "true") && strcmp(text, "false")) why = "it is neither true nor false";
    if (f == ACTIVATE) u->activate = !strcmp(text, "true");
    if (slot && !why) *slot = text;
    else free(text);
    if (f == NAME && !*r->name) set_said_name(r, u->name);
    return why ? refuse_part(r, 400, f, why) : AD_OK;
}

static ad_status on_part_end(void *user, ad_err *err)
{
    receiver *r = user;
    field f = r->at;
    if (is_file(f)) {
        add_run(r, f, 0, true);
        return AD_OK;
    }
    const char *data = r->text.data ? r->text.data : "";
    json_t *utf8 = json_stringn(data, r->text.len);
    bool good = utf8 && !memchr(data, '\0', r->text.len);
    json_decref(utf8);
    if (!good) return refuse_part(r, 400, f, "it is not UTF-8 text");
    char *text = strndup(data, r->text.len);
    return text ? keep_text(r, f, text) : ad_fail(err, AD_ENOMEM, "out of memory");
}

/* ---- the body ---- */

/* Why the parser stopped: a callback said why, or it is the body's form. */
static void refuse_body(receiver *r, const ad_err *err)
{
    if (!r->fault.http) ad_fault_set(&r->fault, err->code == AD_ENOMEM ? 503 : 400, NULL, NULL, "%s", err->msg);
    refuse(r, &r->fault);
}

static void on_data(ad_http_exchange *x, const char *data, size_t len, void *user)
{
    receiver *r = user;
    ad_err err = {0};
    if (ad_multipart_feed(r->parts, data, len, &err) != AD_OK) refuse_body(r, &err);
    else if (!r->working && r->filling.bytes.len >= WORTH_WRITING) go_on(r);
    else if (r->filling.bytes.len >= FULL) ad_http_pause_body(x, true);
}

static void on_end(ad_http_exchange *x, void *user)
{
    receiver *r = user;
    ad_err err = {0};
    const bool *seen = r->seen;
    r->u->last_byte_ns = uv_hrtime();
    r->complete = true;
    if (ad_multipart_finish(r->parts, &err) != AD_OK) {
        refuse_body(r, &err);
        return;
    }
    if (!seen[ARCHIVE] && !seen[GGUF] && !(seen[CONFIG] && seen[WEIGHTS])) {
        const char *missing = seen[CONFIG] ? "weights" : seen[WEIGHTS] ? "config" : "config and weights, or archive, or gguf";
        ad_fault_set(&r->fault, 400, "missing_field", seen[CONFIG] ? "weights" : "config", "the file part %s is missing", missing);
        refuse(r, &r->fault);
        return;
    }
    if (!r->working) go_on(r);
}

static void on_abort(ad_http_exchange *x, void *user)
{
    receiver *r = user;
    r->x = NULL;
    give_up(r);
}

static int tenant_of(const ad_http_exchange *x)
{
    const ad_caller *c = ad_caller_of(x);
    return c ? c->tenant->id : 0;
}

/* False: *f says why. */
static bool has_room(const ad_app *app, int tenant, ad_fault *f)
{
    int own = 0;
    for (const receiver *r = receivers; r; r = r->next) own += r->tenant == tenant;
    if (ad_tenancy_room(app->tenancy, own, n_receivers, MAX_UPLOADS) > 0) return true;
    return ad_fault_set(f, 503, "queue_full", NULL, "%d uploads are being received already; try again", n_receivers < MAX_UPLOADS ? own : MAX_UPLOADS);
}

static receiver *receiver_new(ad_http_exchange *x, ad_app *app, ad_fault *f)
{
    ad_err err = {0};
    receiver *r = ad_calloc(1, sizeof *r);
    if (r) r->u = ad_calloc(1, sizeof *r->u);
    ad_multipart_handler handler = {on_part, on_part_data, on_part_end, r};
    ad_status st = r && r->u ? ad_multipart_new(&r->parts, ad_http_header(x, "content-type"), &handler, &err) : ad_fail(&err, AD_ENOMEM, "out of memory");
    if (st != AD_OK) {
        ad_fault_set(f, st == AD_EUNSUPPORTED ? 415 : st == AD_ENOMEM ? 503 : 400, NULL, NULL, "%s", err.msg);
        if (r) free(r->u);
        free(r);
        return NULL;
    }
    n_receivers++;
    r->next = receivers;
    receivers = r;
    r->x = x;
    r->app = app;
    r->tenant = tenant_of(x);
    r->store = app->store;
    r->max_bytes = app->config->max_adapter_bytes;
    r->u->activate = true;
    r->loaders = app->loaders;
    r->model = app->model;
    for (field i = 0; i < N_FILES; i++) r->fd[i] = -1;
    return r;
}

void ad_upload_receive(ad_http_exchange *x, ad_app *app, const char *name, void (*named)(const char *name, bool coming, void *user), ad_upload_done done, void *user)
{
    ad_fault f = {0};
    receiver *r = NULL;
    if (app->draining) ad_fault_set(&f, 503, NULL, NULL, "the server is shutting down");
    else if (has_room(app, tenant_of(x), &f)) r = receiver_new(x, app, &f);
    if (!r) {
        ad_reply_fault(x, &f);
        return;
    }
    r->named = named;
    r->done = done;
    r->user = user;
    if (name) set_name(r, name);
    size_t max = r->max_bytes < SIZE_MAX - MAX_REST ? r->max_bytes + MAX_REST : SIZE_MAX;
    ad_http_take_body(x, max, on_data, on_end, r);
    ad_http_on_abort(x, on_abort, r);
    ad_http_pause_body(x, true); /* until there is a directory */
    start(r, open_job);
}
