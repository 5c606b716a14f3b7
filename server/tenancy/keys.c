/* SPDX-License-Identifier: MIT */
/* One tenant, one key: rows to objects and back, scopes. */
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/tenancy/glob.h"
#include "server/tenancy/private.h"

/* ---- verbs ---- */

static const char *const verb_names[AD_VERBS] = {
    [AD_VERB_ADMIN] = "admin", [AD_VERB_OPEN] = "open", [AD_VERB_INFER] = "infer", [AD_VERB_LIST] = "list", [AD_VERB_UPLOAD] = "upload",
    [AD_VERB_ACTIVATE] = "activate", [AD_VERB_DELETE] = "delete", [AD_VERB_MERGE] = "merge", [AD_VERB_METRICS] = "metrics",
};

const char *ad_verb_name(ad_verb verb) { return verb_names[verb]; }

bool ad_verb_parse(const char *name, ad_verb *out)
{
    for (int v = 0; v < AD_VERBS; v++) {
        if (v == AD_VERB_OPEN || strcmp(name, verb_names[v])) continue;
        *out = v;
        return true;
    }
    return false;
}

/* Separated by commas. */
char *ad_verbs_text(unsigned verbs)
{
    ad_buf b = {0};
    ad_buf_puts(&b, "");
    for (int v = 0; v < AD_VERBS; v++)
        if (verbs >> v & 1) ad_buf_printf(&b, "%s%s", b.len ? "," : "", verb_names[v]);
    if (b.failed) ad_buf_deinit(&b);
    return b.data;
}

static bool read_verbs(const char *text, unsigned *out)
{
    char name[32];
    unsigned verbs = 0;
    ad_verb verb;
    for (const char *p = text; p && *p;) {
        size_t n = strcspn(p, ",");
        if (n >= sizeof name) return false;
        memcpy(name, p, n);
        name[n] = '\0';
        if (!ad_verb_parse(name, &verb)) return false;
        verbs |= 1u << verb;
        p += n + (p[n] == ',');
    }
    *out = verbs;
    return text != NULL;
}

/* ---- globs ---- */

static char *write_globs(char *const *globs, int n)
{
    json_t *list = json_array();
    for (int i = 0; i < n; i++) json_array_append_new(list, json_string(globs[i]));
    char *text = (int)json_array_size(list) == n ? json_dumps(list, JSON_COMPACT) : NULL;
    json_decref(list);
    return text;
}

static void free_globs(char **globs, int n)
{
    for (int i = 0; globs && i < n; i++) free(globs[i]);
    free(globs);
}

static ad_status read_globs(ad_key *k, const char *text, ad_err *err)
{
    json_t *list = text ? json_loads(text, 0, NULL) : NULL;
    ad_status st = json_is_array(list) ? AD_OK : ad_fail(err, AD_EFORMAT, "registry: key %s has damaged adapters", k->id);
    size_t n = json_array_size(list);
    if (st == AD_OK) k->globs = ad_calloc(n, sizeof *k->globs);
    if (st == AD_OK && !k->globs) st = ad_fail(err, AD_ENOMEM, "out of memory for a key");
    for (size_t i = 0; st == AD_OK && i < n; i++) {
        const char *glob = json_string_value(json_array_get(list, i));
        if (!glob) st = ad_fail(err, AD_EFORMAT, "registry: key %s has damaged adapters", k->id);
        else if (!(k->globs[i] = strdup(glob))) st = ad_fail(err, AD_ENOMEM, "out of memory for a key");
        else k->n_globs++;
    }
    json_decref(list);
    return st;
}

bool ad_key_may(const ad_key *k, ad_verb verb, const char *name)
{
    bool found = !name;
    for (int i = 0; !found && i < k->n_globs; i++) found = ad_glob_matches(k->globs[i], name);
    return found && k->verbs >> verb & 1;
}

/* ---- limits ---- */

static ad_status read_limits(ad_allowance *a, const char *text, bool of_key, const char *whose, ad_err *err)
{
    char field[64];
    json_t *v = text ? json_loads(text, 0, NULL) : NULL;
    ad_err why;
    ad_status st = !text ? AD_OK : v ? ad_limits_read(&a->limits, v, of_key, field, &why) : AD_EFORMAT;
    json_decref(v);
    return st == AD_OK ? st : ad_fail(err, AD_EFORMAT, "registry: the limits of %s are damaged", whose);
}

bool ad_limits_text(char **to, const ad_limits *l)
{
    json_t *v = ad_limits_json(l);
    bool any = json_object_size(v) > 0;
    *to = any ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    return v && (*to || !any);
}

/* ---- objects ---- */

static bool copy_text(char **to, const char *from)
{
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

ad_status ad_tenant_new(ad_tenant **out, const ad_stored_tenant *s, ad_err *err)
{
    ad_tenant *t = ad_calloc(1, sizeof *t);
    if (!t) return ad_fail(err, AD_ENOMEM, "out of memory for a tenant");
    *t = (ad_tenant){.weight = s->weight, .created = s->created, .refs = 1};
    memcpy(t->name, s->name, sizeof t->name);
    ad_status st = read_limits(&t->allowance, s->limits, false, s->name, err);
    if (st == AD_OK && !(copy_text(&t->priority, s->priority) && copy_text(&t->description, s->description))) st = ad_fail(err, AD_ENOMEM, "out of memory for a tenant");
    if (st == AD_OK) *out = t;
    else ad_tenant_release(t);
    return st;
}

void ad_tenant_release(ad_tenant *t)
{
    if (!t || --t->refs) return;
    free(t->priority);
    free(t->description);
    free(t);
}

ad_status ad_key_new(ad_key **out, const ad_stored_key *s, ad_tenant *tenant, ad_err *err)
{
    ad_key *k = ad_calloc(1, sizeof *k);
    if (!k) return ad_fail(err, AD_ENOMEM, "out of memory for a key");
    *k = (ad_key){.created = s->created, .expires = s->expires, .last_used = s->last_used, .revoked = s->revoked, .mac = s->mac, .refs = 1};
    memcpy(k->id, s->id, sizeof k->id);
    k->caller = (ad_caller){.tenant = tenant, .key = k};
    tenant->refs++;
    ad_status st = read_verbs(s->verbs, &k->verbs) ? read_globs(k, s->adapters, err) : ad_fail(err, AD_EFORMAT, "registry: key %s has unknown verbs", s->id);
    if (st == AD_OK) st = read_limits(&k->allowance, s->limits, true, s->id, err);
    if (st == AD_OK && !copy_text(&k->name, s->name)) st = ad_fail(err, AD_ENOMEM, "out of memory for a key");
    k->caller.is_operator = !strcmp(tenant->name, AD_SHARED_TENANT) && ad_key_may(k, AD_VERB_ADMIN, NULL);
    if (st == AD_OK) *out = k;
    else ad_key_release(k);
    return st;
}

void ad_key_release(ad_key *k)
{
    if (!k || --k->refs) return;
    ad_tenant_release(k->caller.tenant);
    free_globs(k->globs, k->n_globs);
    free(k->name);
    free(k);
}

bool ad_row_of_tenant(const ad_tenant *t, ad_store_change *out)
{
    *out = (ad_store_change){.kind = AD_PUT_TENANT, .tenant = {.created = t->created, .weight = t->weight}};
    memcpy(out->tenant.name, t->name, sizeof out->tenant.name);
    return copy_text(&out->tenant.priority, t->priority) && ad_limits_text(&out->tenant.limits, &t->allowance.limits) && copy_text(&out->tenant.description, t->description);
}

bool ad_row_of_key(const ad_key *k, ad_store_change *out)
{
    ad_stored_key row = {
        .mac = k->mac, .created = k->created, .expires = k->expires, .last_used = k->last_used, .revoked = k->revoked,
        .verbs = ad_verbs_text(k->verbs), .adapters = write_globs(k->globs, k->n_globs),
    };
    memcpy(row.id, k->id, sizeof row.id);
    memcpy(row.tenant, k->caller.tenant->name, sizeof row.tenant);
    bool good = row.verbs && row.adapters && copy_text(&row.name, k->name) && ad_limits_text(&row.limits, &k->allowance.limits);
    *out = (ad_store_change){.kind = AD_PUT_KEY, .key = row};
    return good;
}
