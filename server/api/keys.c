/* SPDX-License-Identifier: MIT */
/* /v1/admin/keys: what lets a tenant in. A key is shown once, by the reply that made it. Loop thread. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "server/api/accounts.h"
#include "server/observe/access.h"

static const char prefix[] = "/v1/admin/keys/", rotate[] = "/rotate";
enum { GRACE_S = 86400, MOST_GRACE_S = 90 * 86400 };

static void reply_unknown(ad_http_exchange *x, const char *id) { ad_reply_unknown(x, "key", "key_not_found", "id", id); }

/* The first from `i` on that is the tenant's ("": anybody's); NULL: there is none. *i is its position. */
static const ad_key *next_key(const ad_tenancy *t, const char *tenant, size_t *i)
{
    const ad_key *k;
    while ((k = ad_tenancy_key(t, *i)) && *tenant && strcmp(k->caller.tenant->name, tenant)) ++*i;
    return k;
}

void ad_handle_keys(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_key *k;
    char tenant[AD_TENANT_NAME + 1];
    ad_page page;
    if (!ad_read_page(x, &page)) return;
    if (ad_http_query_value(x, "tenant", tenant, sizeof tenant) < 0) {
        ad_reply_refusal(x, 400, "invalid_value", "tenant", "`tenant` is malformed or too long");
        return;
    }
    size_t i = *page.after ? ad_tenancy_behind_key(app->tenancy, page.after) : 0;
    if (i == SIZE_MAX) {
        ad_reply_lost_page(x);
        return;
    }
    json_t *list = json_array();
    for (; json_array_size(list) < page.limit && (k = next_key(app->tenancy, tenant, &i)); i++) json_array_append_new(list, ad_key_json(k));
    ad_reply_page(x, list, next_key(app->tenancy, tenant, &i) != NULL);
}

void ad_handle_key(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *id = ad_http_path(x) + strlen(prefix);
    const ad_key *k = ad_tenancy_find_key(app->tenancy, id);
    if (k) ad_reply_json(x, 200, ad_key_json(k));
    else reply_unknown(x, id);
}

/* ---- changes ---- */

static json_t *made_json(const ad_account_outcome *o)
{
    json_t *v = ad_key_json(o->key);
    if (o->text) json_object_set_new(v, "key", json_string(o->text));
    if (o->replaces) json_object_set_new(v, "replaces", json_string(o->replaces));
    return v;
}

static void on_outcome(void *user, const ad_account_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l, o->status)) {
        if (o->key) ad_access_tell(l->x, "key %s", o->key->id);
        if (o->text) ad_http_set_header(l->x, "Cache-Control", "no-store");
        if (o->status != AD_OK) ad_reply_account_refusal(l->x, o);
        else ad_reply_json(l->x, l->created, made_json(o));
    }
    free(l);
}

static void on_deleted(void *user, const ad_account_outcome *o)
{
    ad_later *l = user;
    if (ad_later_resume(l, o->status)) {
        if (o->status != AD_OK) ad_reply_account_refusal(l->x, o);
        else ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b}", "object", "key.deleted", "id", l->name, "deleted", !o->key));
    }
    free(l);
}

static bool read_verbs(const json_t *body, ad_key_patch *p, ad_fault *f)
{
    const json_t *list = json_object_get(body, "verbs");
    size_t n = json_array_size(list);
    ad_verb verb;
    p->set_verbs = list != NULL;
    bool good = !list || (n && n <= AD_VERBS);
    for (size_t i = 0; good && i < n; i++) {
        const char *name = json_string_value(json_array_get(list, i));
        good = name && ad_verb_parse(name, &verb);
        if (good) p->verbs |= 1u << verb;
    }
    return good || ad_fault_set(f, 400, "invalid_value", "verbs", "`verbs` must be an array of some of infer, list, upload, activate, delete, merge, metrics, admin");
}

/* As they are stored, into *text, which the caller owns. */
static bool read_globs(const json_t *body, ad_key_patch *p, char **text, ad_fault *f)
{
    const json_t *list = json_object_get(body, "adapters");
    size_t n = json_array_size(list);
    bool good = !list || (n && n <= AD_KEY_GLOBS);
    for (size_t i = 0; good && i < n; i++) {
        const json_t *glob = json_array_get(list, i);
        good = json_is_string(glob) && json_string_length(glob) && json_string_length(glob) <= AD_MAX_NAME;
    }
    if (!good) return ad_fault_set(f, 400, "invalid_value", "adapters",
                                   "`adapters` must be an array of 1 to %d names or patterns (with * and ?) of at most %d bytes each", AD_KEY_GLOBS, AD_MAX_NAME);
    p->set_globs = list != NULL;
    *text = list ? json_dumps(list, JSON_COMPACT) : NULL;
    p->globs = *text;
    return !list || *text || ad_fault_no_memory(f);
}

static bool read_expires(const json_t *body, ad_key_patch *p, ad_fault *f)
{
    static const json_int_t most = 253402300799; /* the end of year 9999 */
    const json_t *v = json_object_get(body, "expires");
    p->set_expires = v != NULL;
    p->expires = json_integer_value(v);
    if (!v || json_is_null(v) || (json_is_integer(v) && p->expires > time(NULL) && p->expires <= most)) return true;
    return ad_fault_set(f, 400, "invalid_value", "expires", "`expires` must be a time to come, in seconds since 1970, or null");
}

static bool read_revoked(const json_t *body, ad_key_patch *p, ad_fault *f)
{
    const json_t *v = json_object_get(body, "revoked");
    p->revoke = json_is_true(v);
    return !v || p->revoke || ad_fault_set(f, 400, "invalid_value", "revoked", "`revoked` can only become true");
}

/* p's name is the body's, its globs are *globs. */
static bool read_patch(const json_t *body, ad_key_patch *p, char **globs, ad_fault *f)
{
    return ad_read_text_field(body, "name", AD_KEY_NAME, &p->set_name, &p->name, f) && read_verbs(body, p, f) && read_globs(body, p, globs, f) &&
           ad_read_limits_field(body, true, &p->set_limits, &p->limits, f) && read_expires(body, p, f) && read_revoked(body, p, f);
}

static bool read_tenant(const json_t *body, const char **out, ad_fault *f)
{
    const json_t *v = ad_json_member(body, "tenant");
    *out = v ? json_string_value(v) : AD_SHARED_TENANT;
    return *out || ad_fault_set(f, 400, "invalid_value", "tenant", "`tenant` must be the name of a tenant");
}

void ad_handle_post_key(ad_http_exchange *x, void *arg)
{
    static const char *const known[] = {"tenant", "name", "verbs", "adapters", "limits", "expires", NULL};
    ad_app *app = arg;
    ad_fault f = {0};
    ad_key_patch p = {0};
    const char *tenant;
    char *globs = NULL;
    json_t *body = ad_read_fields(x, known);
    if (!body) return;
    bool good = read_tenant(body, &tenant, &f) && read_patch(body, &p, &globs, &f);
    ad_later *l = good ? ad_later_new(x, app, tenant) : NULL;
    if (l) {
        l->created = 201;
        ad_tenancy_create_key(app->tenancy, tenant, &p, on_outcome, l);
    } else if (!good) {
        ad_reply_fault(x, &f);
    }
    free(globs);
    json_decref(body);
}

void ad_handle_patch_key(ad_http_exchange *x, void *arg)
{
    static const char *const known[] = {"name", "verbs", "adapters", "limits", "expires", "revoked", NULL};
    ad_app *app = arg;
    ad_fault f = {0};
    ad_key_patch p = {0};
    char *globs = NULL;
    const char *id = ad_http_path(x) + strlen(prefix);
    json_t *body = ad_query_flag(x, "force", &p.force) ? ad_read_fields(x, known) : NULL;
    if (!body) return;
    bool good = read_patch(body, &p, &globs, &f);
    ad_later *l = good ? ad_later_new(x, app, id) : NULL;
    if (l) ad_tenancy_patch_key(app->tenancy, id, &p, on_outcome, l);
    else if (!good) ad_reply_fault(x, &f);
    free(globs);
    json_decref(body);
}

void ad_handle_delete_key(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    bool force;
    const char *id = ad_http_path(x) + strlen(prefix);
    ad_later *l = ad_query_flag(x, "force", &force) ? ad_later_new(x, app, id) : NULL;
    if (l) ad_tenancy_drop_key(app->tenancy, id, force, on_deleted, l);
}

/* ---- POST /v1/admin/keys/ID/rotate ---- */

static bool read_grace(const json_t *body, int64_t *out, ad_fault *f)
{
    const json_t *v = ad_json_member(body, "grace_seconds");
    *out = v ? json_integer_value(v) : GRACE_S;
    if (!v || (json_is_integer(v) && *out >= 0 && *out <= MOST_GRACE_S)) return true;
    return ad_fault_set(f, 400, "invalid_value", "grace_seconds", "`grace_seconds` must be a whole number from 0 to %d", MOST_GRACE_S);
}

/* The ID of such a path; false: it is none. */
static bool read_rotated_id(const ad_http_exchange *x, char id[AD_KEY_ID + 1])
{
    const char *rest = ad_http_path(x) + strlen(prefix);
    if (strlen(rest) != AD_KEY_ID + sizeof rotate - 1 || strcmp(rest + AD_KEY_ID, rotate)) return false;
    memcpy(id, rest, AD_KEY_ID);
    id[AD_KEY_ID] = '\0';
    return true;
}

void ad_handle_key_action(ad_http_exchange *x, void *arg)
{
    static const char *const known[] = {"grace_seconds", NULL};
    ad_app *app = arg;
    ad_fault f = {0};
    char id[AD_KEY_ID + 1];
    int64_t grace_s;
    if (!read_rotated_id(x, id)) {
        reply_unknown(x, ad_http_path(x) + strlen(prefix));
        return;
    }
    json_t *body = ad_read_fields(x, known);
    if (!body) return;
    bool good = read_grace(body, &grace_s, &f);
    ad_later *l = good ? ad_later_new(x, app, id) : NULL;
    if (l) {
        l->created = 201;
        ad_tenancy_rotate_key(app->tenancy, id, grace_s, on_outcome, l);
    } else if (!good) {
        ad_reply_fault(x, &f);
    }
    json_decref(body);
}
