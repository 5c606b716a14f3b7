/* SPDX-License-Identifier: MIT */
/* upload, dry-run and digest: an adapter leaves for the server. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clients/adapterctl/ctl.h"

enum { MAX_TEXT_FILE = 1 << 20 };

/* Owned; NULL after a complaint. */
static char *read_text(const char *path)
{
    FILE *f = fopen(path, "re");
    char *text = malloc(MAX_TEXT_FILE + 1);
    size_t n = f && text ? fread(text, 1, MAX_TEXT_FILE + 1, f) : 0;
    bool good = f && text && !ferror(f) && n <= MAX_TEXT_FILE && !memchr(text, 0, n);
    if (!f) ctl_complain("%s: %s", path, strerror(errno));
    else if (!good) ctl_complain("%s: cannot be read, has zero bytes, or is larger than %d bytes", path, MAX_TEXT_FILE);
    if (f) fclose(f);
    if (good) {
        text[n] = 0;
        return text;
    }
    free(text);
    return NULL;
}

/* What an upload needs beside the command line's texts. */
typedef struct {
    ad_client_source source;
    json_t *labels;
    char *signature, *selftest;
    ctl_progress progress;
} outgoing;

static void outgoing_deinit(outgoing *o)
{
    json_decref(o->labels);
    free(o->signature);
    free(o->selftest);
}

static int outgoing_init(outgoing *o, ctl *c, const char *name, const char *path)
{
    *o = (outgoing){.source = {.name = name, .description = c->description, .sha256 = c->sha256, .keep_staged = c->no_activate, .if_match = c->if_match,
                               .progress = ctl_progress_step}};
    if (c->on_server) o->source.server_dir = path;
    else if (!strncmp(path, "https://", 8)) o->source.source_url = path;
    else o->source.path = path;
    if (c->n_labels && !(o->labels = ctl_labels(c->labels, c->n_labels))) return EXIT_USAGE;
    if (c->signature && !(o->signature = read_text(c->signature))) return EXIT_FAILED;
    if (c->selftest && !(o->selftest = read_text(c->selftest))) return EXIT_FAILED;
    o->source.labels = o->labels;
    o->source.signature = o->signature;
    o->source.selftest = o->selftest;
    return EXIT_OK;
}

static ad_client_status send_it(ctl *c, outgoing *o, ad_client_reply *r, ad_client_error *e)
{
    o->progress = ctl_progress_new();
    o->source.user = &o->progress;
    ad_client_status st = (c->new_version ? ad_client_upload_version : ad_client_upload)(c->client, &o->source, r, e);
    ctl_progress_end(&o->progress);
    return st;
}

/* NAME PATH, or PATH with --name; without a name only where that is allowed. */
static int name_and_path(ctl *c, bool needs_name, const char **name, const char **path)
{
    bool two = c->n_args == 2;
    if (two && c->name) return ctl_usage("the name is given twice, as \"%s\" and as \"%s\"", c->args[0], c->name);
    *name = two ? c->args[0] : c->name;
    *path = c->args[c->n_args - 1];
    if (needs_name && !*name) return ctl_usage("%s NAME PATH", c->new_version ? "--new-version" : "upload");
    if (c->if_match && !c->new_version) return ctl_usage("--if-match guards a --new-version; a new name has no ETag yet");
    return EXIT_OK;
}

int ctl_upload(ctl *c)
{
    const char *name = NULL, *path = NULL;
    outgoing o = {0};
    ad_client_reply r;
    ad_client_error e = {0};
    int code = name_and_path(c, true, &name, &path);
    if (code == EXIT_OK) code = outgoing_init(&o, c, name, path);
    if (code == EXIT_OK) {
        ad_client_status st = send_it(c, &o, &r, &e);
        code = st == AD_CLIENT_OK ? ctl_put_adapter(c, r.http_status == 200 ? "unchanged" : "uploaded", &r) : ctl_fail(c, &e);
    }
    outgoing_deinit(&o);
    return code;
}

static int dry_run(ctl *c, ad_client_reply *r, ad_client_error *e)
{
    const char *name = NULL, *path = NULL;
    outgoing o = {0};
    int code = name_and_path(c, c->new_version, &name, &path);
    if (code == EXIT_OK) code = outgoing_init(&o, c, name, path);
    o.source.dry_run = true;
    if (code == EXIT_OK && send_it(c, &o, r, e) != AD_CLIENT_OK) code = -1;
    outgoing_deinit(&o);
    return code;
}

int ctl_dry_run(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    int code = dry_run(c, &r, &e);
    if (code) return code < 0 ? ctl_fail(c, &e) : code;
    if (ctl_json_done(c, &r)) return EXIT_OK;
    ctl_put_report(stdout, r.json);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

static const char *digest_in(const json_t *v)
{
    const char *digest = ctl_text(v, "digest");
    return strlen(digest) == 64 && strspn(digest, "0123456789abcdef") == 64 ? digest : NULL;
}

/* A server that requires signatures refuses what is to be signed yet, but its report has the digest. */
static bool only_unsigned(const ad_client_error *e)
{
    const char *status = ctl_text(json_object_get(e->report, "signature"), "status");
    return e->http_status == 422 && digest_in(e->report) && (!strcmp(status, "none") || !strcmp(status, "untrusted"));
}

int ctl_digest(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (c->base) return ctl_digest_local(c);
    int code = dry_run(c, &r, &e);
    if (code > 0) return code;
    if (code < 0 && !only_unsigned(&e)) return ctl_fail(c, &e);
    const json_t *v = code ? e.report : r.json;
    const char *digest = digest_in(v);
    if (!digest) code = ctl_complain("the server's reply has no digest");
    else if (c->json) ctl_put_json(code ? e.body : r.text);
    else puts(digest);
    if (code < 0) {
        ad_client_error_deinit(&e);
        return EXIT_OK;
    }
    ad_client_reply_deinit(&r);
    return code;
}
