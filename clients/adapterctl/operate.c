/* SPDX-License-Identifier: MIT */
/* The operator's commands: tenants, keys, limits, usage, the audit log, drain. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "clients/adapterctl/ctl.h"

/* ---- calls ---- */

/* One call, its body taken. False after a complaint; *code is what to exit with. */
static bool call(ctl *c, const char *method, const char *path, json_t *body, ad_client_reply *r, int *code)
{
    ad_client_error e = {0};
    ad_client_status st = ad_client_call(c->client, method, path, body, NULL, r, &e);
    json_decref(body);
    *code = st == AD_CLIENT_OK ? EXIT_OK : ctl_fail(c, &e);
    return st == AD_CLIENT_OK;
}

/* Names of tenants and ids of keys need no escapes in a path; anything else is none. */
static bool is_plain(const char *what, const char *name)
{
    bool good = *name && strlen(name) < 100 && strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(name);
    if (!good) ctl_usage("\"%s\" is no %s", name, what);
    return good;
}

static void path_to(char *path, size_t size, const char *collection, const char *name)
{
    snprintf(path, size, "/v1/admin/%s%s%s", collection, name ? "/" : "", name ? name : "");
}

/* "infer,list"; owned, NULL when out of memory. */
static char *list_text(const json_t *list)
{
    size_t room = 1;
    for (size_t i = 0; i < json_array_size(list); i++) room += json_string_length(json_array_get(list, i)) + 1;
    char *out = malloc(room), *at = out;
    if (!out) return NULL;
    *at = '\0';
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_array_get(list, i));
        if (at > out) *at++ = ',';
        at = stpcpy(at, s ? s : "?");
    }
    return out;
}

/* "requests_per_minute=60 context=2048": those that are set. Owned. */
static char *limits_text(const json_t *limits)
{
    const char *name;
    json_t *v;
    size_t room = 1, n = 0;
    json_object_foreach((json_t *)limits, name, v) room += strlen(name) + 24;
    char *out = malloc(room);
    if (!out) return NULL;
    *out = '\0';
    json_object_foreach((json_t *)limits, name, v)
        if (json_is_integer(v)) n += (size_t)snprintf(out + n, room - n, "%s%s=%lld", n ? " " : "", name, (long long)json_integer_value(v));
    return out;
}

/* What a list command prints: each item of data through add, or the object itself when it is no list. */
static int put_list(const ctl *c, ad_client_reply *r, const char *const *headings, void (*add)(ctl_table *t, const json_t *v))
{
    if (ctl_json_done(c, r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r->json);
    const json_t *data = json_object_get(v, "data");
    ctl_table *t = ctl_table_new(headings);
    if (!data) add(t, v);
    for (size_t i = 0; i < json_array_size(data); i++) add(t, json_array_get(data, i));
    ctl_table_print(&t, stdout);
    json_decref(v);
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

/* All pages of a list as one reply; id is the field that `after` goes by. The pages' items are all that is kept of them but the first's. */
static bool call_pages(ctl *c, const char *path, const char *id, ad_client_reply *r, int *code)
{
    char next[400];
    if (!call(c, "GET", path, NULL, r, code)) return false;
    json_t *data = json_object_get(r->json, "data");
    bool several = ctl_true(r->json, "has_more"), more = several;
    while (more) {
        const char *last = ctl_text(json_array_get(data, json_array_size(data) - 1), id);
        ad_client_reply page;
        snprintf(next, sizeof next, "%s%cafter=%s", path, strchr(path, '?') ? '&' : '?', last);
        if (!*last || strlen(last) > 100 || strspn(last, "abcdefghijklmnopqrstuvwxyz0123456789-/") != strlen(last)) *code = ctl_complain("the server's list does not go on behind \"%s\"", last);
        if (*code != EXIT_OK || !call(c, "GET", next, NULL, &page, code)) break;
        more = ctl_true(page.json, "has_more") && json_array_size(json_object_get(page.json, "data")) > 0;
        json_array_extend(data, json_object_get(page.json, "data"));
        ad_client_reply_deinit(&page);
    }
    if (!several) return true;
    free(r->text);
    json_object_set_new(r->json, "has_more", json_boolean(more));
    r->text = json_dumps(r->json, JSON_COMPACT);
    if (r->text && *code == EXIT_OK) return true;
    ad_client_reply_deinit(r);
    if (*code == EXIT_OK) *code = ctl_complain("out of memory");
    return false;
}

static int put_done(const ctl *c, ad_client_reply *r, const char *done, const char *name)
{
    if (ctl_json_done(c, r)) return EXIT_OK;
    printf("%s %s\n", done, name);
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

/* ---- tenants ---- */

static const char *const tenant_headings[] = {"TENANT", ">WEIGHT", "PRIORITY", ">KEYS", "CREATED", "LIMITS", "DESCRIPTION", NULL};

static void add_tenant(ctl_table *t, const json_t *v)
{
    char weight[32], keys[32], created[32], *limits = limits_text(json_object_get(v, "limits"));
    snprintf(weight, sizeof weight, "%g", json_number_value(json_object_get(v, "weight")));
    ctl_table_add(t, (const char *const[]){ctl_text(v, "name"), weight, ctl_text(v, "priority"), ctl_count(v, "keys", keys), ctl_ago(json_object_get(v, "created"), created),
                                           limits ? limits : "", ctl_text(v, "description")});
    free(limits);
}

static json_t *tenant_fields(const ctl *c)
{
    json_t *body = json_object();
    if (c->weight > 0) json_object_set_new(body, "weight", json_real(c->weight));
    if (c->priority) json_object_set_new(body, "priority", json_string(c->priority));
    if (c->description) json_object_set_new(body, "description", json_string(c->description));
    return body;
}

int ctl_tenant(ctl *c)
{
    const char *verb = c->args[0], *name = c->n_args > 1 ? c->args[1] : NULL;
    bool lists = !strcmp(verb, "list") && !name, shows = !strcmp(verb, "show") && name, creates = !strcmp(verb, "create") && name, sets = !strcmp(verb, "set") && name,
         deletes = !strcmp(verb, "delete") && name;
    char path[200];
    ad_client_reply r;
    int code;
    if (!lists && !shows && !creates && !sets && !deletes) return ctl_usage("tenant list, tenant show NAME, tenant create NAME, tenant set NAME or tenant delete NAME");
    if (name && !is_plain("tenant's name: small letters, digits and -", name)) return EXIT_USAGE;
    path_to(path, sizeof path, "tenants", creates ? NULL : name);
    if (lists) return call_pages(c, path, "name", &r, &code) ? put_list(c, &r, tenant_headings, add_tenant) : code;
    json_t *body = creates || sets ? tenant_fields(c) : NULL;
    if (creates) json_object_set_new(body, "name", json_string(name));
    if (sets && !json_object_size(body)) {
        json_decref(body);
        return ctl_usage("tenant set: nothing to change; give --weight, --priority or --description");
    }
    if (!call(c, creates ? "POST" : sets ? "PATCH" : deletes ? "DELETE" : "GET", path, body, &r, &code)) return code;
    return deletes ? put_done(c, &r, "deleted", name) : put_list(c, &r, tenant_headings, add_tenant);
}

/* ---- keys ---- */

static const char *const key_headings[] = {"KEY", "TENANT", "NAME", "VERBS", "ADAPTERS", "STATE", "LAST USED", "CREATED", "LIMITS", NULL};

static const char *key_state(const json_t *v, char out[32])
{
    char at[32];
    time_t expires = (time_t)json_integer_value(json_object_get(v, "expires"));
    if (json_is_integer(json_object_get(v, "revoked"))) return "revoked";
    if (!expires) return "live";
    if (expires <= time(NULL)) return "expired";
    struct tm tm;
    if (!gmtime_r(&expires, &tm) || !strftime(at, sizeof at, "%Y-%m-%d %H:%M", &tm)) return "live";
    snprintf(out, 32, "to %.19sZ", at);
    return out;
}

static void add_key(ctl_table *t, const json_t *v)
{
    char state[32], used[32], created[32], *limits = limits_text(json_object_get(v, "limits"));
    char *verbs = list_text(json_object_get(v, "verbs")), *adapters = list_text(json_object_get(v, "adapters"));
    ctl_table_add(t, (const char *const[]){ctl_text(v, "id"), ctl_text(v, "tenant"), ctl_text(v, "name"), verbs ? verbs : "", adapters ? adapters : "", key_state(v, state),
                                           ctl_ago(json_object_get(v, "last_used"), used), ctl_ago(json_object_get(v, "created"), created), limits ? limits : ""});
    free(verbs);
    free(adapters);
    free(limits);
}

static json_t *text_list(const char *const *items, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(items[i]));
    return list;
}

static json_t *new_key(const ctl *c, const char *tenant)
{
    json_t *body = json_pack("{s:s}", "tenant", tenant);
    if (c->name) json_object_set_new(body, "name", json_string(c->name));
    if (c->n_verbs) json_object_set_new(body, "verbs", text_list(c->verbs, c->n_verbs));
    if (c->n_globs) json_object_set_new(body, "adapters", text_list(c->globs, c->n_globs));
    if (c->expires_s) json_object_set_new(body, "expires", json_integer((json_int_t)time(NULL) + c->expires_s));
    return body;
}

/* The key itself alone on stdout, so that a script can take it; people read the rest on stderr. */
static int put_new_key(const ctl *c, ad_client_reply *r)
{
    if (ctl_json_done(c, r)) return EXIT_OK;
    json_t *v = ctl_cleaned(r->json);
    printf("%s\n", ctl_text(v, "key"));
    if (isatty(STDERR_FILENO)) fprintf(stderr, "key %s of tenant %s: it is shown this once\n", ctl_text(v, "id"), ctl_text(v, "tenant"));
    json_decref(v);
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

static int list_keys(ctl *c)
{
    char path[200];
    ad_client_reply r;
    int code;
    if (c->tenant && !is_plain("tenant's name", c->tenant)) return EXIT_USAGE;
    snprintf(path, sizeof path, "/v1/admin/keys%s%s", c->tenant ? "?tenant=" : "", c->tenant ? c->tenant : "");
    return call_pages(c, path, "id", &r, &code) ? put_list(c, &r, key_headings, add_key) : code;
}

/* A key's own: what is done to it by its id. */
int ctl_key(ctl *c)
{
    static const struct { const char *verb, *method, *done; } uses[] = {
        {"show", "GET", NULL}, {"create", "POST", NULL}, {"rotate", "POST", NULL}, {"revoke", "PATCH", "revoked"}, {"delete", "DELETE", "deleted"}};
    enum { SHOW, CREATE, ROTATE, REVOKE, DELETE, N_USES };
    const char *id = c->n_args > 1 ? c->args[1] : NULL;
    char path[200];
    ad_client_reply r;
    int code, use = 0;
    if (!strcmp(c->args[0], "list") && !id) return list_keys(c);
    while (use < N_USES && strcmp(c->args[0], uses[use].verb)) use++;
    if (!id || use == N_USES) return ctl_usage("key list, key show ID, key create TENANT, key rotate ID, key revoke ID or key delete ID");
    if (!is_plain(use == CREATE ? "tenant's name" : "key's id", id)) return EXIT_USAGE;
    path_to(path, sizeof path, "keys", use == CREATE ? NULL : id);
    if (use == ROTATE) strcat(path, "/rotate");
    if (use >= REVOKE && c->force) strcat(path, "?force=true");
    json_t *body = use == CREATE ? new_key(c, id) : use == ROTATE ? json_object() : use == REVOKE ? json_pack("{s:b}", "revoked", 1) : NULL;
    if (use == ROTATE && c->grace_s >= 0) json_object_set_new(body, "grace_seconds", json_integer(c->grace_s));
    if (!call(c, uses[use].method, path, body, &r, &code)) return code;
    if (use == CREATE || use == ROTATE) return put_new_key(c, &r);
    return uses[use].done ? put_done(c, &r, uses[use].done, id) : put_list(c, &r, key_headings, add_key);
}

/* ---- limits ---- */

/* NAME=NUMBER, with k, M, G or T behind it (thousands; of bytes 1,024s); NAME= takes the limit away. False after a complaint. */
static bool add_limit(json_t *limits, const char *text)
{
    static const char units[] = "kMGT";
    int thousand = strncmp(text, "bytes_", 6) ? 1000 : 1024;
    const char *equals = strchr(text, '=');
    char *end = NULL;
    errno = 0;
    long long n = equals ? strtoll(equals + 1, &end, 10) : 0;
    const char *unit = equals && *end ? strchr(units, *end) : NULL;
    bool good = equals && equals > text && n >= 0 && !errno && (!*end || (unit && !end[1] && n < 1ll << 20));
    if (!good) {
        ctl_usage("\"%s\" is no limit: NAME=NUMBER (also 10k, 5M, 1G), or NAME= to take it away", text);
        return false;
    }
    for (const char *u = units; unit && u <= unit; u++) n *= thousand;
    return json_object_setn_new(limits, text, (size_t)(equals - text), equals[1] ? json_integer(n) : json_null()) == 0 || (ctl_usage("\"%s\" is no limit", text), false);
}

static int set_limits(ctl *c, const char *path)
{
    ad_client_reply r, now;
    int code;
    if (!call(c, "GET", path, NULL, &now, &code)) return code;
    json_t *limits = json_object_get(now.json, "limits"), *body = json_is_object(limits) ? json_copy(limits) : json_object();
    ad_client_reply_deinit(&now);
    for (int i = 3; i < c->n_args; i++)
        if (!add_limit(body, c->args[i])) {
            json_decref(body);
            return EXIT_USAGE;
        }
    return call(c, "PUT", path, body, &r, &code) ? put_done(c, &r, "limited", c->args[2]) : code;
}

static const char *const limits_headings[] = {"TENANT", "KEY", "LIMITS", "IN USE", NULL};

static void add_limits(ctl_table *t, const json_t *v)
{
    char *limits = limits_text(json_object_get(v, "limits")), *used = limits_text(json_object_get(v, "use"));
    ctl_table_add(t, (const char *const[]){ctl_text(v, "tenant"), *ctl_text(v, "key") ? ctl_text(v, "key") : "-", limits && *limits ? limits : "none", used ? used : ""});
    free(limits);
    free(used);
}

int ctl_limits(ctl *c)
{
    char path[200];
    ad_client_reply r;
    int code;
    if (!strcmp(c->args[0], "list") && c->n_args == 1) return call_pages(c, "/v1/admin/limits", "id", &r, &code) ? put_list(c, &r, limits_headings, add_limits) : code;
    bool sets = !strcmp(c->args[0], "set") && c->n_args >= 4, of_tenant = c->n_args > 1 && !strcmp(c->args[1], "tenant");
    if (!sets || (!of_tenant && strcmp(c->args[1], "key"))) return ctl_usage("limits list, limits set tenant NAME LIMIT=N... or limits set key ID LIMIT=N...");
    if (!is_plain(of_tenant ? "tenant's name" : "key's id", c->args[2])) return EXIT_USAGE;
    snprintf(path, sizeof path, "/v1/admin/limits/%s/%s", of_tenant ? "tenants" : "keys", c->args[2]);
    return set_limits(c, path);
}

/* ---- usage ---- */

/* The columns of a row of the ledger, in the order of the file. */
static const char *const usage_columns[] = {"date", "tenant", "key", "model", "version", "requests", "prompt_tokens", "cached_tokens", "generated_tokens", "engine_ms", NULL};

/* As RFC 4180 has it; and what a spreadsheet would take for a formula is a text. */
static void put_csv_text(const char *s)
{
    bool formula = *s && strchr("=+-@", *s);
    if (!formula && !s[strcspn(s, ",\"\r\n")]) {
        fputs(s, stdout);
        return;
    }
    fputs(formula ? "\"'" : "\"", stdout);
    for (; *s; s++) {
        if (*s == '"') putchar('"');
        putchar(*s);
    }
    putchar('"');
}

static void put_csv_row(const json_t *row)
{
    for (int i = 0; usage_columns[i]; i++) {
        const json_t *v = json_object_get(row, usage_columns[i]);
        if (i) putchar(',');
        if (json_is_string(v)) put_csv_text(json_string_value(v));
        else if (json_is_integer(v)) printf("%lld", (long long)json_integer_value(v));
        else if (json_is_number(v)) printf("%.3f", json_number_value(v));
    }
    fputs("\r\n", stdout);
}

static int put_csv(ad_client_reply *r)
{
    const json_t *data = json_object_get(r->json, "data");
    for (int i = 0; usage_columns[i]; i++) printf("%s%s", i ? "," : "", usage_columns[i]);
    fputs("\r\n", stdout);
    for (size_t i = 0; i < json_array_size(data); i++) put_csv_row(json_array_get(data, i));
    ad_client_reply_deinit(r);
    return EXIT_OK;
}

static const char *const usage_headings[] = {"DAY", "TENANT", "KEY", "MODEL", "VERSION", ">REQUESTS", ">PROMPT", ">CACHED", ">GENERATED", ">ENGINE MS", NULL};

static void add_usage(ctl_table *t, const json_t *v)
{
    char requests[32], prompt[32], cached[32], generated[32], engine[32], digest[13];
    snprintf(digest, sizeof digest, "%s", ctl_text(v, "version"));
    snprintf(engine, sizeof engine, "%.0f", json_number_value(json_object_get(v, "engine_ms")));
    ctl_table_add(t, (const char *const[]){ctl_text(v, "date"), ctl_text(v, "tenant"), ctl_text(v, "key"), ctl_text(v, "model"), digest, ctl_count(v, "requests", requests),
                                           ctl_count(v, "prompt_tokens", prompt), ctl_count(v, "cached_tokens", cached), ctl_count(v, "generated_tokens", generated), engine});
}

static bool is_day(const char *s)
{
    struct tm tm = {0};
    const char *end = strptime(s, "%Y-%m-%d", &tm);
    return end && !*end;
}

int ctl_usage_report(ctl *c)
{
    char path[200];
    ad_client_reply r;
    int code;
    if ((c->from && !is_day(c->from)) || (c->to && !is_day(c->to))) return ctl_usage("a day is YEAR-MONTH-DAY");
    snprintf(path, sizeof path, "/v1/admin/usage%s%.20s%s%.20s", c->from ? "?from=" : "", c->from ? c->from : "", c->to ? c->from ? "&to=" : "?to=" : "", c->to ? c->to : "");
    if (!call(c, "GET", path, NULL, &r, &code)) return code;
    return c->csv && !c->json ? put_csv(&r) : put_list(c, &r, usage_headings, add_usage);
}

/* ---- audit ---- */

static const char *const audit_headings[] = {">SEQ", "TIME", "TENANT", "KEY", "ACTION", "OBJECT", ">STATUS", "PEER", "DETAIL", NULL};

static void add_audit(ctl_table *t, const json_t *v)
{
    char seq[32], status[32], when[32];
    time_t at = (time_t)json_number_value(json_object_get(v, "time"));
    struct tm tm;
    if (!gmtime_r(&at, &tm) || !strftime(when, sizeof when, "%Y-%m-%d %H:%M:%SZ", &tm)) strcpy(when, "-");
    ctl_table_add(t, (const char *const[]){ctl_count(v, "seq", seq), when, ctl_text(v, "tenant"), ctl_text(v, "key"), ctl_text(v, "action"), ctl_text(v, "object"),
                                           ctl_count(v, "status", status), ctl_text(v, "peer"), ctl_text(v, "detail")});
}

int ctl_audit(ctl *c)
{
    char path[200];
    ad_client_reply r;
    int code;
    if (c->after && (!*c->after || strspn(c->after, "0123456789") != strlen(c->after) || strlen(c->after) > 18)) return ctl_usage("--after: \"%s\" is no number of the log", c->after);
    snprintf(path, sizeof path, "/v1/admin/audit?limit=%d%s%s", c->limit ? c->limit : 100, c->after ? "&after=" : "", c->after ? c->after : "");
    if (!call(c, "GET", path, NULL, &r, &code)) return code;
    const json_t *rows = json_object_get(r.json, "data");
    json_int_t last = json_integer_value(json_object_get(json_array_get(rows, json_array_size(rows) - 1), "seq"));
    bool more = ctl_true(r.json, "has_more");
    code = put_list(c, &r, audit_headings, add_audit);
    if (more && !c->json) fprintf(stderr, "adapterctl: there are more; go on with --after %lld\n", (long long)last);
    return code;
}

/* ---- the whole server ---- */

int ctl_drain(ctl *c)
{
    ad_client_reply r;
    int code;
    bool off = c->n_args && !strcmp(c->args[0], "off");
    if (c->n_args && !off && strcmp(c->args[0], "on")) return ctl_usage("drain [on | off]");
    if (!call(c, "POST", "/v1/admin/drain", json_pack("{s:b}", "drain", !off), &r, &code)) return code;
    return put_done(c, &r, off ? "/readyz answers as it did before;" : "/readyz is 503 from now on;", "what comes is still served");
}
