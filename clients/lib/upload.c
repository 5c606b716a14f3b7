/* SPDX-License-Identifier: MIT */
/* POST of an adapter: multipart/form-data whose files are read from the disk as they leave, or JSON that names a place the server reads. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clients/lib/internal.h"

enum { MAX_FILES = 3 };

typedef struct {
    int fd;               /* -1: closed */
    curl_off_t size, at;
    const char *field;    /* of the form */
    const char *file_name;
    char *path;
    ad_client_exchange *x; /* told when the file fails */
} part;

typedef struct {
    part files[MAX_FILES];
    int n;
} parts;

/* ---- files ---- */

static void close_parts(parts *p)
{
    for (int i = 0; i < p->n; i++) {
        if (p->files[i].fd >= 0) close(p->files[i].fd);
        free(p->files[i].path);
    }
    p->n = 0;
}

static ad_client_status local_error(ad_client_error *err, const char *path)
{
    return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "%.400s: %s", path, strerror(errno));
}

/* path is taken. */
static ad_client_status add_file(parts *p, char *path, const char *field, const char *file_name, ad_client_error *err)
{
    struct stat s;
    if (!path) return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    part *f = &p->files[p->n++];
    *f = (part){.fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK), .field = field, .file_name = file_name, .path = path};
    if (f->fd < 0 || fstat(f->fd, &s)) return local_error(err, path);
    if (!S_ISREG(s.st_mode)) return ad_client_fail(err, AD_CLIENT_LOCAL, "local", "%.400s: not a regular file", path);
    f->size = s.st_size;
    return AD_CLIENT_OK;
}

static char *join(const char *dir, const char *file)
{
    ad_client_text t = {0};
    ad_client_text_literal(&t, dir);
    ad_client_text_literal(&t, "/");
    ad_client_text_literal(&t, file);
    if (t.failed) ad_client_text_deinit(&t);
    return t.data;
}

/* Where the directory has a chat template of its own. */
static ad_client_status add_template(parts *p, const char *dir, ad_client_error *err)
{
    static const char *const names[][2] = {{"chat_template.jinja", "chat_template"}, {"tokenizer_config.json", "tokenizer_config"}};
    for (int i = 0; i < 2; i++) {
        char *path = join(dir, names[i][0]);
        if (!path || access(path, F_OK) == 0) return add_file(p, path, names[i][1], names[i][0], err);
        free(path);
    }
    return AD_CLIENT_OK;
}

static ad_client_status open_parts(parts *p, const char *path, ad_client_error *err)
{
    struct stat s;
    char magic[4] = "";
    if (stat(path, &s)) return local_error(err, path);
    if (S_ISDIR(s.st_mode)) {
        ad_client_status st = add_file(p, join(path, "adapter_config.json"), "config", "adapter_config.json", err);
        if (st == AD_CLIENT_OK) st = add_file(p, join(path, "adapter_model.safetensors"), "weights", "adapter_model.safetensors", err);
        return st == AD_CLIENT_OK ? add_template(p, path, err) : st;
    }
    ad_client_status st = add_file(p, strdup(path), "archive", "archive", err);
    if (st != AD_CLIENT_OK) return st;
    if (pread(p->files[0].fd, magic, sizeof magic, 0) == sizeof magic && !memcmp(magic, "GGUF", 4)) {
        p->files[0].field = "gguf";
        p->files[0].file_name = "adapter.gguf";
    }
    return AD_CLIENT_OK;
}

/* ---- what libcurl calls ---- */

static size_t read_part(char *out, size_t size, size_t n, void *user)
{
    part *f = user;
    curl_off_t left = f->size - f->at, room = (curl_off_t)(size * n);
    if (!left) return 0;
    ssize_t got;
    do got = pread(f->fd, out, (size_t)(left < room ? left : room), f->at);
    while (got < 0 && errno == EINTR);
    if (got > 0) {
        f->at += got;
        return (size_t)got;
    }
    /* the length was told to the server: there is no way to end early but to break off */
    snprintf(f->x->reason, sizeof f->x->reason, "%.100s: %s", f->file_name, got ? strerror(errno) : "became shorter while it was sent");
    f->x->stop = AD_CLIENT_STOP_FILE;
    return CURL_READFUNC_ABORT;
}

static int seek_part(void *user, curl_off_t offset, int origin)
{
    part *f = user;
    if (origin != SEEK_SET || offset < 0 || offset > f->size) return CURL_SEEKFUNC_CANTSEEK;
    f->at = offset;
    return CURL_SEEKFUNC_OK;
}

/* ---- the two forms of a request ---- */

static bool add_field(curl_mime *form, const char *name, const char *value)
{
    if (!value) return true;
    curl_mimepart *m = curl_mime_addpart(form);
    return m && !curl_mime_name(m, name) && !curl_mime_data(m, value, CURL_ZERO_TERMINATED);
}

static bool add_part(curl_mime *form, part *f, ad_client_exchange *x)
{
    f->x = x;
    curl_mimepart *m = curl_mime_addpart(form);
    return m && !curl_mime_name(m, f->field) && !curl_mime_filename(m, f->file_name) && !curl_mime_type(m, "application/octet-stream") &&
           !curl_mime_data_cb(m, f->size, read_part, seek_part, NULL, f);
}

/* labels: their text, or NULL. Fields before files, so that a server can refuse them early. */
static bool fill_form(curl_mime *form, const ad_client_source *s, const char *name, const char *labels, parts *p, ad_client_exchange *x)
{
    bool ok = add_field(form, "name", name) && add_field(form, "description", s->description) && add_field(form, "labels", labels) &&
              add_field(form, "sha256", s->sha256) && add_field(form, "activate", s->keep_staged ? "false" : NULL) &&
              add_field(form, "signature", s->signature) && add_field(form, "selftest", s->selftest);
    for (int i = 0; i < p->n && ok; i++) ok = add_part(form, &p->files[i], x);
    return ok;
}

static ad_client_status send_form(ad_client *c, const ad_client_source *s, const char *name, ad_client_exchange *x, ad_client_text *path, ad_client_reply *out,
                                  ad_client_error *err)
{
    parts p = {0};
    char *labels = s->labels ? json_dumps(s->labels, JSON_COMPACT) : NULL;
    ad_client_status st = open_parts(&p, s->path, err);
    x->form = curl_mime_init(c->curl);
    if (st == AD_CLIENT_OK && (!x->form || (s->labels && !labels) || !fill_form(x->form, s, name, labels, &p, x)))
        st = ad_client_fail(err, AD_CLIENT_LOCAL, "local", "out of memory");
    if (st == AD_CLIENT_OK) st = ad_client_finish(c, x, path, out, err);
    else ad_client_text_deinit(path);
    curl_mime_free(x->form);
    free(labels);
    close_parts(&p);
    return st;
}

static ad_client_status send_place(ad_client *c, const ad_client_source *s, const char *name, ad_client_exchange *x, ad_client_text *path, ad_client_reply *out,
                                   ad_client_error *err)
{
    json_t *body = json_pack("{s:s*, s:s*, s:s*, s:s*, s:O*, s:s*, s:s*}", "name", name, "path", s->server_dir, "url", s->source_url, "description", s->description,
                             "labels", (json_t *)s->labels, "sha256", s->sha256, "signature", s->signature);
    if (s->keep_staged) json_object_set_new(body, "activate", json_false());
    if (s->selftest) json_object_set_new(body, "selftest", json_loads(s->selftest, 0, NULL));
    char *text = json_dumps(body, JSON_COMPACT);
    json_decref(body);
    if (!text) {
        ad_client_text_deinit(path);
        return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "a text of the request is not UTF-8, or memory ran out");
    }
    x->json = text;
    ad_client_status st = ad_client_finish(c, x, path, out, err);
    free(text);
    return st;
}

static ad_client_status check_source(const ad_client_source *s, bool named, ad_client_error *err)
{
    if (!!s->path + !!s->server_dir + !!s->source_url != 1)
        return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "an upload needs one source: a path, a directory of the server, or a URL");
    if (named && !(s->name && *s->name)) return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "no name was given");
    if (s->labels && !json_is_object(s->labels)) return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "labels are not a JSON object");
    if (s->selftest && (s->server_dir || s->source_url)) {
        json_t *v = json_loads(s->selftest, 0, NULL);
        if (!v) return ad_client_fail(err, AD_CLIENT_INVALID, "invalid", "the self-test is not JSON");
        json_decref(v);
    }
    return AD_CLIENT_OK;
}

static ad_client_status upload(ad_client *c, const ad_client_source *s, const char *name, ad_client_text *path, ad_client_reply *out, ad_client_error *err)
{
    ad_client_exchange x = {.method = "POST", .if_match = s->if_match, .streams = true, .progress = s->progress, .user = s->user};
    return s->path ? send_form(c, s, name, &x, path, out, err) : send_place(c, s, name, &x, path, out, err);
}

ad_client_status ad_client_upload(ad_client *c, const ad_client_source *s, ad_client_reply *out, ad_client_error *err)
{
    ad_client_text path = {0};
    ad_client_status st = check_source(s, !s->dry_run, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text_literal(&path, s->dry_run ? "/v1/adapters?dry_run=true" : "/v1/adapters");
    return upload(c, s, s->name && *s->name ? s->name : NULL, &path, out, err);
}

ad_client_status ad_client_upload_version(ad_client *c, const ad_client_source *s, ad_client_reply *out, ad_client_error *err)
{
    ad_client_text path = {0};
    ad_client_status st = check_source(s, true, err);
    if (st != AD_CLIENT_OK) return st;
    ad_client_text_literal(&path, "/v1/adapters/");
    ad_client_text_segment(&path, s->name);
    ad_client_text_literal(&path, s->dry_run ? "/versions?dry_run=true" : "/versions");
    return upload(c, s, NULL, &path, out, err);
}
