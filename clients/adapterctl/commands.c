/* SPDX-License-Identifier: MIT */
/* The commands that ask the server or change something there. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "clients/adapterctl/ctl.h"

enum { LABEL_TRIES = 5, SHORT_DIGEST = 12 };

/* ---- messages ---- */

static void put_message(const char *fmt, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, fmt, args) < 0) return;
    char *clean = ctl_clean(text);
    fprintf(stderr, "adapterctl: %s\n", clean);
    free(clean);
    free(text);
}

int ctl_usage(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    put_message(fmt, args);
    va_end(args);
    return EXIT_USAGE;
}

int ctl_complain(const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    put_message(fmt, args);
    va_end(args);
    return EXIT_FAILED;
}

static int exit_of_status(int http_status)
{
    switch (http_status) {
    case 404: return EXIT_NOT_FOUND;
    case 409:
    case 412: return EXIT_CONFLICT;
    case 422: return EXIT_REFUSED;
    case 413:
    case 429:
    case 503:
    case 507: return EXIT_LIMIT;
    case 502:
    case 504: return EXIT_UNREACHABLE;
    default: return EXIT_FAILED;
    }
}

static int exit_of(const ad_client_error *e)
{
    switch (e->status) {
    case AD_CLIENT_OK: return EXIT_OK;
    case AD_CLIENT_REFUSED: return exit_of_status(e->http_status);
    case AD_CLIENT_UNREACHABLE: return EXIT_UNREACHABLE;
    case AD_CLIENT_INVALID: return EXIT_USAGE;
    default: return EXIT_FAILED;
    }
}

int ctl_fail(const ctl *c, ad_client_error *e)
{
    int code = exit_of(e);
    json_t *v = c->json && e->body ? json_loadb(e->body, e->body_len, 0, NULL) : NULL;
    if (v) ctl_put_json(e->body);
    json_decref(v);
    if (e->http_status && e->code[0]) ctl_complain("%s (HTTP %d, %s)", e->message, e->http_status, e->code);
    else if (e->http_status) ctl_complain("%s (HTTP %d)", e->message, e->http_status);
    else ctl_complain("%s", e->message);
    if (e->retry_after_s) ctl_complain("try again in %d s", e->retry_after_s);
    if (e->report && !c->json) ctl_put_report(stderr, e->report);
    ad_client_error_deinit(e);
    return code;
}

bool ctl_json_done(const ctl *c, ad_client_reply *r)
{
    if (!c->json) return false;
    ctl_put_json(r->text);
    ad_client_reply_deinit(r);
    return true;
}

/* ---- what an adapter is, in lines ---- */

static void put_field(FILE *out, const char *name, const char *value)
{
    if (*value) fprintf(out, "%-14s %s\n", name, value);
}

/* Texts joined with ", "; owned. */
static char *joined(const json_t *list)
{
    size_t room = 1;
    for (size_t i = 0; i < json_array_size(list); i++) room += json_string_length(json_array_get(list, i)) + 2;
    char *out = calloc(1, room), *at = out;
    for (size_t i = 0; out && i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s && at > out) at = stpcpy(at, ", ");
        if (s) at = stpcpy(at, s);
    }
    return out;
}

static void put_texts(FILE *out, const char *name, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (s) put_field(out, name, s);
    }
}

static void put_int(FILE *out, const char *name, const json_t *v, const char *key)
{
    char n[32];
    if (json_is_integer(json_object_get(v, key))) put_field(out, name, ctl_count(v, key, n));
}

static void put_selftest(FILE *out, const json_t *results)
{
    for (size_t i = 0; i < json_array_size(results); i++) {
        const json_t *r = json_array_get(results, i);
        const json_t *divergence = json_object_get(r, "divergence");
        fprintf(out, "%-14s %s \"%s\"", "Self-test", ctl_true(r, "passed") ? "passed" : "FAILED", ctl_text(r, "prompt"));
        if (json_is_number(divergence)) fprintf(out, ", divergence %.4g\n", json_number_value(divergence));
        else fprintf(out, ", answer \"%s\"\n", ctl_text(r, "answer"));
    }
}

void ctl_put_report(FILE *out, const json_t *report)
{
    json_t *v = ctl_cleaned(report);
    const json_t *signature = json_object_get(v, "signature");
    put_field(out, "Digest", ctl_text(v, "digest"));
    put_field(out, "Format", ctl_text(v, "format"));
    put_field(out, "Base model", ctl_text(v, "base_model"));
    put_int(out, "Rank", v, "rank");
    put_int(out, "Modules", v, "modules_matched");
    put_int(out, "Tensors", v, "tensors_matched");
    put_texts(out, "Unmatched", json_object_get(v, "unmatched"));
    put_texts(out, "Warning", json_object_get(v, "warnings"));
    put_field(out, "Signature", ctl_text(signature, "status"));
    put_selftest(out, json_object_get(v, "selftest"));
    json_decref(v);
}

static void put_warnings(const json_t *v)
{
    const json_t *list = json_object_get(v, "warnings");
    if (!list) list = json_object_get(json_object_get(v, "report"), "warnings");
    for (size_t i = 0; i < json_array_size(list); i++)
        if (json_is_string(json_array_get(list, i))) fprintf(stderr, "adapterctl: warning: %s\n", json_string_value(json_array_get(list, i)));
}

/* The version with the largest number, or NULL. */
static const json_t *newest(const json_t *adapter)
{
    const json_t *list = json_object_get(adapter, "versions"), *best = NULL;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!best || ctl_int(v, "version") > ctl_int(best, "version")) best = v;
    }
    return best;
}

int ctl_put_adapter(const ctl *c, const char *done, ad_client_reply *r)
{
    if (ctl_json_done(c, r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r->json);
    const json_t *last = newest(v);
    char disk[32];
    printf("%s %s", done, ctl_text(v, "name"));
    if (json_is_integer(json_object_get(v, "version"))) printf(": version %lld is active, digest %.*s", ctl_int(v, "version"), SHORT_DIGEST, ctl_text(v, "digest"));
    else printf(": no version is active");
    if (last && ctl_int(last, "version") != ctl_int(v, "version"))
        printf("; version %lld is %s, digest %.*s", ctl_int(last, "version"), ctl_text(last, "state"), SHORT_DIGEST, ctl_text(last, "digest"));
    printf("; rank %lld, %lld modules, %s\n", ctl_int(v, "rank"), ctl_int(v, "modules_matched"), ctl_size(json_object_get(v, "bytes_disk"), disk));
    put_warnings(v);
    json_decref(v);
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

/* ---- list ---- */

static void flags_of(const json_t *a, char *out, size_t size)
{
    snprintf(out, size, "%s%s%s", ctl_true(a, "pinned") ? "pinned " : "", ctl_true(a, "merged") ? "merged " : "", ctl_true(a, "resident") ? "resident" : "");
    for (size_t n = strlen(out); n && out[n - 1] == ' ';) out[--n] = 0;
}

static void add_adapter(ctl_table *t, const json_t *a)
{
    char version[32], rank[32], disk[32], packed[32], requests[32], used[32], digest[SHORT_DIGEST + 1], flags[32];
    snprintf(digest, sizeof digest, "%s", ctl_text(a, "digest"));
    flags_of(a, flags, sizeof flags);
    ctl_table_add(t, (const char *const[]){ctl_text(a, "name"), ctl_text(a, "state"), ctl_count(a, "version", version), digest, ctl_count(a, "rank", rank),
                                           ctl_size(json_object_get(a, "bytes_disk"), disk), ctl_size(json_object_get(a, "bytes_packed"), packed),
                                           ctl_count(a, "requests", requests), ctl_ago(json_object_get(a, "last_used"), used), flags});
}

static bool label_query(const char *pair, char *out, size_t size)
{
    const char *equals = strchr(pair, '=');
    if (!equals || strlen(pair) >= size) return false;
    strcpy(out, pair);
    out[equals - pair] = ':';
    return true;
}

int ctl_list(ctl *c)
{
    static const char *const headings[] = {"NAME", "STATE", ">VERSION", "DIGEST", ">RANK", ">DISK", ">PACKED", ">REQUESTS", "LAST USED", "FLAGS", NULL};
    char label[512];
    ad_client_query q = {.limit = c->limit, .after = c->after, .prefix = c->prefix, .state = c->state};
    ad_client_reply r;
    ad_client_error e = {0};
    if (c->n_labels > 1 || (c->n_labels && !label_query(c->labels[0], label, sizeof label))) return ctl_usage("list takes one --label KEY=VALUE");
    if (c->n_labels) q.label = label;
    if (!c->limit) q.limit = 1000; /* all, in few pages */
    if ((c->limit ? ad_client_list(c->client, &q, &r, &e) : ad_client_list_all(c->client, &q, &r, &e)) != AD_CLIENT_OK) return ctl_fail(c, &e);
    if (ctl_json_done(c, &r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r.json);
    const json_t *data = json_object_get(v, "data");
    ctl_table *t = ctl_table_new(headings);
    for (size_t i = 0; i < json_array_size(data); i++) add_adapter(t, json_array_get(data, i));
    ctl_table_print(&t, stdout);
    if (ctl_true(v, "has_more")) fprintf(stderr, "adapterctl: there are more; go on with --after %s\n", ctl_text(v, "last_id"));
    json_decref(v);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

/* ---- show ---- */

static void put_labels(const json_t *labels)
{
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)labels, key, value) {
        printf("%-14s %s=%s\n", "Label", key, json_is_string(value) ? json_string_value(value) : "?");
    }
}

static void put_versions(const json_t *list)
{
    static const char *const headings[] = {">VERSION", "STATE", "DIGEST", ">DISK", ">PACKED", "RESIDENT", ">LEASES", ">REQUESTS", "LAST USED", "CREATED", "ORIGIN", "REASON", NULL};
    if (!json_array_size(list)) return;
    ctl_table *t = ctl_table_new(headings);
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        char number[32], disk[32], packed[32], leases[32], requests[32], used[32], created[32], digest[SHORT_DIGEST + 1];
        snprintf(digest, sizeof digest, "%s", ctl_text(v, "digest"));
        ctl_table_add(t, (const char *const[]){ctl_count(v, "version", number), ctl_text(v, "state"), digest, ctl_size(json_object_get(v, "bytes_disk"), disk),
                                               ctl_size(json_object_get(v, "bytes_packed"), packed), ctl_true(v, "resident") ? "yes" : "no", ctl_count(v, "leases", leases),
                                               ctl_count(v, "requests", requests), ctl_ago(json_object_get(v, "last_used"), used),
                                               ctl_ago(json_object_get(v, "created"), created), ctl_text(v, "origin"), ctl_text(v, "reason")});
    }
    putchar('\n');
    ctl_table_print(&t, stdout);
}

/* What a module has beside its low-rank pair. */
static const char *extra_of(const json_t *m)
{
    if (ctl_true(m, "dora")) return "DoRA";
    if (ctl_true(m, "saved")) return "replaced";
    if (ctl_true(m, "bias") || ctl_true(m, "lora_bias")) return "bias";
    return json_object_get(m, "trained_tokens") ? "tokens" : "";
}

static void put_modules(const json_t *modules)
{
    static const char *const headings[] = {"MODULE", ">RANK", ">SCALING", ">NORM", "", NULL};
    ctl_table *t = ctl_table_new(headings);
    const char *name;
    json_t *m;
    json_object_foreach((json_t *)modules, name, m) {
        char rank[32], scaling[32], norm[32];
        snprintf(scaling, sizeof scaling, "%.6g", json_number_value(json_object_get(m, "scaling")));
        snprintf(norm, sizeof norm, json_is_number(json_object_get(m, "norm")) ? "%.6g" : "-", json_number_value(json_object_get(m, "norm")));
        ctl_table_add(t, (const char *const[]){name, ctl_count(m, "rank", rank), scaling, norm, extra_of(m)});
    }
    putchar('\n');
    ctl_table_print(&t, stdout);
}

static void put_signer(const json_t *signer)
{
    if (json_is_object(signer)) printf("%-14s %s, \"%s\"\n", "Signed by", ctl_text(signer, "key_id"), ctl_text(signer, "comment"));
}

static void put_whole(const json_t *v, const char *etag)
{
    char a[32], flags[32];
    flags_of(v, flags, sizeof flags);
    put_field(stdout, "Name", ctl_text(v, "name"));
    put_field(stdout, "State", ctl_text(v, "state"));
    put_int(stdout, "Version", v, "version");
    put_field(stdout, "Digest", ctl_text(v, "digest"));
    put_int(stdout, "Rank", v, "rank");
    put_int(stdout, "Modules", v, "modules_matched");
    put_field(stdout, "On disk", ctl_size(json_object_get(v, "bytes_disk"), a));
    put_field(stdout, "Packed", ctl_size(json_object_get(v, "bytes_packed"), a));
    put_field(stdout, "Flags", flags);
    put_int(stdout, "Requests", v, "requests");
    put_field(stdout, "Last used", ctl_ago(json_object_get(v, "last_used"), a));
    put_field(stdout, "Created", ctl_ago(json_object_get(v, "created"), a));
    put_field(stdout, "Origin", ctl_text(v, "origin"));
    put_signer(json_object_get(v, "signer"));
    put_field(stdout, "Description", ctl_text(v, "description"));
    put_labels(json_object_get(v, "labels"));
    put_texts(stdout, "Warning", json_object_get(v, "warnings"));
    put_field(stdout, "ETag", etag);
    put_versions(json_object_get(v, "versions"));
}

int ctl_show(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_show(c->client, c->args[0], NULL, &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    if (ctl_json_done(c, &r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r.json);
    char *etag = ctl_clean(r.etag);
    put_whole(v, etag);
    if (c->modules) put_modules(json_object_get(v, "modules"));
    free(etag);
    json_decref(v);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

/* ---- changes ---- */

int ctl_activate(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_activate(c->client, c->args[0], c->args[1], c->if_match, &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    return ctl_put_adapter(c, "activated", &r);
}

int ctl_rollback(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_rollback(c->client, c->args[0], c->if_match, &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    return ctl_put_adapter(c, "rolled back", &r);
}

static int set_pin(ctl *c, bool pinned)
{
    ad_client_reply r;
    ad_client_error e = {0};
    json_t *changes = json_pack("{s:b}", "pinned", pinned);
    ad_client_status st = ad_client_patch(c->client, c->args[0], changes, c->if_match, &r, &e);
    json_decref(changes);
    return st == AD_CLIENT_OK ? ctl_put_adapter(c, pinned ? "pinned" : "unpinned", &r) : ctl_fail(c, &e);
}

int ctl_pin(ctl *c)
{
    return set_pin(c, true);
}

int ctl_unpin(ctl *c)
{
    return set_pin(c, false);
}

json_t *ctl_labels(const char *const *pairs, int n)
{
    json_t *labels = json_object();
    for (int i = 0; i < n; i++) {
        const char *equals = strchr(pairs[i], '=');
        if (!equals || equals == pairs[i] || json_object_setn_new(labels, pairs[i], (size_t)(equals - pairs[i]), json_string(equals + 1))) {
            ctl_usage("\"%s\" is no label: KEY=VALUE in UTF-8", pairs[i]);
            json_decref(labels);
            return NULL;
        }
    }
    return labels;
}

/* K=V sets and K- takes away, in labels. */
static bool change_labels(json_t *labels, char **changes, int n)
{
    for (int i = 0; i < n; i++) {
        size_t len = strlen(changes[i]);
        json_t *one = NULL;
        if (!strchr(changes[i], '=') && len > 1 && changes[i][len - 1] == '-') {
            char *key = strndup(changes[i], len - 1);
            if (key) json_object_del(labels, key); /* it may be absent */
            free(key);
            continue;
        }
        if (!(one = ctl_labels((const char *const *)changes + i, 1))) return false;
        json_object_update(labels, one);
        json_decref(one);
    }
    return true;
}

/* One try. The server replaces all labels at once, so what is there is read first, and the etag makes sure that nobody came between. */
static int try_label(ctl *c, ad_client_reply *r, ad_client_error *e)
{
    char etag[80] = "";
    json_t *labels = NULL;
    bool reads = c->n_args > 1 && !c->clear;
    if (reads) {
        ad_client_reply now;
        if (ad_client_show(c->client, c->args[0], NULL, &now, e) != AD_CLIENT_OK) return -1;
        json_t *old = json_object_get(now.json, "labels");
        labels = json_is_object(old) ? json_copy(old) : NULL;
        memcpy(etag, now.etag, sizeof etag);
        ad_client_reply_deinit(&now);
    }
    if (!labels) labels = json_object();
    if (!change_labels(labels, c->args + 1, c->n_args - 1)) {
        json_decref(labels);
        return EXIT_USAGE;
    }
    json_t *changes = json_object();
    if (reads || c->clear) json_object_set(changes, "labels", labels);
    if (c->description) json_object_set_new(changes, "description", json_string(c->description));
    ad_client_status st = ad_client_patch(c->client, c->args[0], changes, c->if_match ? c->if_match : etag[0] ? etag : NULL, r, e);
    json_decref(labels);
    json_decref(changes);
    return st == AD_CLIENT_OK ? EXIT_OK : -1;
}

int ctl_label(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (c->n_args < 2 && !c->clear && !c->description) return ctl_usage("label: nothing to change; give KEY=VALUE, KEY-, --clear or --description");
    for (int i = 1;; i++) {
        int code = try_label(c, &r, &e);
        if (code == EXIT_OK) return ctl_put_adapter(c, "changed", &r);
        if (code > 0) return code;
        if (e.http_status != 412 || c->if_match || i == LABEL_TRIES) return ctl_fail(c, &e);
        ad_client_error_deinit(&e);
    }
}

int ctl_delete(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_delete(c->client, c->args[0], c->drain_s, c->if_match, &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    if (ctl_json_done(c, &r)) return EXIT_OK;
    char *name = ctl_clean(c->args[0]);
    printf("deleted %s%s\n", name, json_is_false(json_object_get(r.json, "drained")) ? ", while requests still used it" : "");
    free(name);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

int ctl_verify(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    if (ad_client_verify(c->client, c->args[0], &r, &e) != AD_CLIENT_OK) return ctl_fail(c, &e);
    bool ok = ctl_true(r.json, "ok");
    if (ctl_json_done(c, &r)) return ok ? EXIT_OK : EXIT_FAILED;
    json_t *v = ctl_cleaned(r.json);
    const json_t *signature = json_object_get(v, "signature");
    char *name = ctl_clean(c->args[0]);
    if (ok) printf("%s: the stored files are what they were, digest %s\n", name, ctl_text(v, "digest"));
    else ctl_complain("%s: the stored files have the digest \"%s\", expected was %s", name, ctl_text(v, "digest"), ctl_text(v, "expected"));
    if (*ctl_text(signature, "status")) printf("signature: %s\n", ctl_text(signature, "status"));
    free(name);
    json_decref(v);
    ad_client_reply_deinit(&r);
    return ok ? EXIT_OK : EXIT_FAILED;
}

/* ---- aliases ---- */

static char *targets_text(const json_t *targets)
{
    json_t *texts = json_array();
    for (size_t i = 0; i < json_array_size(targets); i++) {
        const json_t *t = json_array_get(targets, i);
        json_array_append_new(texts, json_sprintf("%s=%lld", ctl_text(t, "model"), ctl_int(t, "weight")));
    }
    char *out = joined(texts);
    json_decref(texts);
    return out;
}

static void add_alias(ctl_table *t, const json_t *a)
{
    char *targets = targets_text(json_object_get(a, "targets"));
    const char *name = *ctl_text(a, "name") ? ctl_text(a, "name") : ctl_text(a, "alias");
    ctl_table_add(t, (const char *const[]){name, targets ? targets : ""});
    free(targets);
}

/* One alias or a list of them. */
static int put_aliases(const ctl *c, ad_client_reply *r)
{
    static const char *const headings[] = {"ALIAS", "TARGETS", NULL};
    if (ctl_json_done(c, r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r->json);
    const json_t *data = json_object_get(v, "data");
    ctl_table *t = ctl_table_new(headings);
    if (!data) add_alias(t, v);
    for (size_t i = 0; i < json_array_size(data); i++) add_alias(t, json_array_get(data, i));
    ctl_table_print(&t, stdout);
    json_decref(v);
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

/* MODEL or MODEL=WEIGHT; text is cut at the equals sign. */
static bool parse_target(char *text, ad_client_target *out)
{
    char *equals = strrchr(text, '='), *end;
    *out = (ad_client_target){text, 100};
    if (!equals) return *text;
    long weight = strtol(equals + 1, &end, 10);
    if (equals == text || end == equals + 1 || *end || weight < 1 || weight > 1000000) return false;
    *equals = 0;
    out->weight = (int)weight;
    return true;
}

static int set_alias(ctl *c)
{
    size_t n = (size_t)c->n_args - 2;
    ad_client_target *targets = calloc(n, sizeof *targets);
    ad_client_reply r;
    ad_client_error e = {0};
    for (size_t i = 0; targets && i < n; i++) {
        if (parse_target(c->args[i + 2], &targets[i])) continue;
        free(targets);
        return ctl_usage("\"%s\" is no target: MODEL or MODEL=WEIGHT, 1 to 1000000", c->args[i + 2]);
    }
    if (!targets) return ctl_complain("out of memory");
    ad_client_status st = ad_client_put_alias(c->client, c->args[1], targets, n, &r, &e);
    free(targets);
    return st == AD_CLIENT_OK ? put_aliases(c, &r) : ctl_fail(c, &e);
}

int ctl_alias(ctl *c)
{
    ad_client_reply r;
    ad_client_error e = {0};
    ad_client_status st;
    const char *verb = c->args[0];
    if (!strcmp(verb, "set") && c->n_args >= 3) return set_alias(c);
    if (!strcmp(verb, "list") && c->n_args == 1) st = ad_client_list_aliases(c->client, &r, &e);
    else if (!strcmp(verb, "show") && c->n_args == 2) st = ad_client_show_alias(c->client, c->args[1], &r, &e);
    else if (!strcmp(verb, "delete") && c->n_args == 2) st = ad_client_delete_alias(c->client, c->args[1], &r, &e);
    else return ctl_usage("alias set ALIAS MODEL[=WEIGHT]..., alias list, alias show ALIAS or alias delete ALIAS");
    if (st != AD_CLIENT_OK) return ctl_fail(c, &e);
    if (strcmp(verb, "delete")) return put_aliases(c, &r);
    if (ctl_json_done(c, &r)) return EXIT_OK;
    char *name = ctl_clean(c->args[1]);
    printf("deleted %s\n", name);
    free(name);
    ad_client_reply_deinit(&r);
    return EXIT_OK;
}

/* ---- events ---- */

typedef struct {
    const ctl *c;
    int left;          /* 0: no limit */
    bool write_failed;
} listener;

static void put_event(const ctl *c, const ad_client_event *e)
{
    if (c->json) {
        char *line = strdup(e->data);
        for (char *at = line; at && *at; at++)
            if (*at == '\n' || *at == '\r') *at = ' '; /* between tokens: JSON texts have none inside */
        if (line) ctl_put_json(line);
        free(line);
        return;
    }
    json_t *v = ctl_cleaned(e->json);
    char *id = ctl_clean(e->id), when[32];
    printf("%s  %s  %s", ctl_clock(json_object_get(v, "time"), when), *id ? id : "-", ctl_text(v, "name"));
    if (json_is_integer(json_object_get(v, "version"))) printf("@%lld", ctl_int(v, "version"));
    if (*ctl_text(v, "previous")) printf("  %s ->", ctl_text(v, "previous"));
    printf("  %s", ctl_text(v, "state"));
    if (*ctl_text(v, "digest")) printf("  %.*s", SHORT_DIGEST, ctl_text(v, "digest"));
    putchar('\n');
    free(id);
    json_decref(v);
}

static bool on_event(void *user, const ad_client_event *e)
{
    listener *l = user;
    if (!e->json) {
        ctl_complain("an event that is no JSON object was left out");
        return true;
    }
    if (l->c->name && strcmp(l->c->name, ctl_text(e->json, "name"))) return true;
    put_event(l->c, e);
    l->write_failed = fflush(stdout) || ferror(stdout);
    return !l->write_failed && (!l->left || --l->left);
}

static void on_break(void *user, const ad_client_error *why, int delay_ms)
{
    (void)user;
    ctl_complain("the stream broke (%s); again in %.1f s", why->message, delay_ms / 1000.0);
}

int ctl_events(ctl *c)
{
    listener l = {.c = c, .left = c->count};
    ad_client_error e = {0};
    const ad_client_watch w = {.last_event_id = c->last_id, .reconnects = c->no_reconnect ? 0 : -1, .on_event = on_event, .on_break = on_break, .user = &l};
    return ad_client_events(c->client, &w, &e) == AD_CLIENT_OK ? EXIT_OK : ctl_fail(c, &e);
}
