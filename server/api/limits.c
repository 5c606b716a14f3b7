/* SPDX-License-Identifier: MIT */
/* /v1/admin/limits: what tenants and keys may use, and how much of it is used. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/accounts.h"
#include "server/tenancy/scope.h"
#include "server/tenancy/usage.h"

static const char prefix[] = "/v1/admin/limits/", tenants[] = "tenants/", keys[] = "keys/";

/* ---- what is there ---- */

static json_t *use_json(const ad_allowance *a, const ad_scope_holding *h)
{
    ad_clock now = ad_clock_now();
    json_t *v = json_object();
    for (int i = 0; i < AD_N_BUCKETS; i++) {
        ad_rate r = ad_allowance_rate(a, (ad_limit)i, now);
        if (r.limit) json_object_set_new(v, ad_limit_name((ad_limit)i), json_integer(r.limit - r.remaining));
    }
    for (int i = AD_LIMIT_PROMPT_DAY; i <= AD_LIMIT_GENERATED_DAY; i++) json_object_set_new(v, ad_limit_name((ad_limit)i), json_integer(ad_allowance_today(a, (ad_limit)i, now)));
    json_object_set_new(v, ad_limit_name(AD_LIMIT_CONCURRENT), json_integer(a->meter.running));
    if (!h) return v;
    json_object_set_new(v, ad_limit_name(AD_LIMIT_ADAPTERS), json_integer(h->adapters));
    json_object_set_new(v, ad_limit_name(AD_LIMIT_STORED), json_integer(h->bytes_stored));
    json_object_set_new(v, ad_limit_name(AD_LIMIT_RESIDENT), json_integer(h->bytes_resident));
    return v;
}

/* holding: of a tenant; NULL for keys, to which nothing belongs. */
static json_t *limits_json(const char *kind, const char *name, const char *tenant, const char *key, const ad_allowance *a, const ad_scope_holding *holding)
{
    return json_pack("{s:s, s:o, s:s, s:s?, s:o, s:o}", "object", "limits", "id", json_sprintf("%s%s", kind, name), "tenant", tenant, "key", key, "limits", ad_limits_json(&a->limits),
                     "use", use_json(a, holding));
}

static json_t *tenant_limits(const ad_app *app, const ad_tenant *t)
{
    const ad_scope_rules rules = ad_scope_rules_of(app->tenancy);
    const ad_scope_holding h = ad_scope_holding_of(app->registry, &rules, t);
    return limits_json(tenants, t->name, t->name, NULL, &t->allowance, &h);
}

static json_t *key_limits(const ad_key *k) { return limits_json(keys, k->id, k->caller.tenant->name, k->id, &k->allowance, NULL); }

static bool has_prefix(const char *s, const char *with) { return !strncmp(s, with, strlen(with)); }

/* Tenants come before keys, each in order of age. Position behind `after`, an id of the list; SIZE_MAX: there is no such thing. */
static size_t behind(const ad_tenancy *t, const char *after, size_t n_tenants)
{
    if (!*after) return 0;
    if (has_prefix(after, tenants)) return ad_tenancy_behind_tenant(t, after + strlen(tenants));
    size_t i = has_prefix(after, keys) ? ad_tenancy_behind_key(t, after + strlen(keys)) : SIZE_MAX;
    return i == SIZE_MAX ? i : n_tenants + i;
}

void ad_handle_limits(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_tenancy *t = app->tenancy;
    char tenant[AD_TENANT_NAME + 1];
    ad_page page;
    size_t n_tenants = 0;
    if (!ad_read_page(x, &page)) return;
    int only = ad_http_query_value(x, "tenant", tenant, sizeof tenant);
    const ad_tenant *of = only > 0 ? ad_tenancy_find_tenant(t, tenant) : NULL;
    if (only && !of) {
        ad_reply_refusal(x, 404, "not_found", "tenant", "There is no such tenant.");
        return;
    }
    while (ad_tenancy_tenant(t, n_tenants)) n_tenants++;
    size_t i = behind(t, page.after, n_tenants);
    if (i == SIZE_MAX) {
        ad_reply_lost_page(x);
        return;
    }
    json_t *data = json_array();
    bool more = false;
    for (;; i++) {
        const ad_tenant *one = ad_tenancy_tenant(t, i);
        const ad_key *k = one ? NULL : ad_tenancy_key(t, i - n_tenants);
        if (!one && !k) break;
        if (of && of != (one ? one : k->caller.tenant)) continue;
        if ((more = json_array_size(data) == page.limit)) break;
        json_array_append_new(data, one ? tenant_limits(app, one) : key_limits(k));
    }
    ad_reply_page(x, data, more);
}

void ad_handle_limits_of(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_tenancy *t = app->tenancy;
    const char *id = ad_http_path(x) + strlen(prefix);
    const ad_tenant *tenant = has_prefix(id, tenants) ? ad_tenancy_find_tenant(t, id + strlen(tenants)) : NULL;
    const ad_key *k = has_prefix(id, keys) ? ad_tenancy_find_key(t, id + strlen(keys)) : NULL;
    if (tenant || k) ad_reply_json(x, 200, tenant ? tenant_limits(app, tenant) : key_limits(k));
    else ad_reply_refusal(x, 404, "not_found", NULL, "There is no such tenant or key.");
}

/* ---- changes ---- */

static void on_changed(void *user, const ad_account_outcome *o)
{
    ad_later *l = user;
    ad_http_exchange *x = ad_later_resume(l, o->status);
    if (o->status == AD_OK && o->tenant) ad_keeper_limits_changed(l->app->keeper, o->tenant);
    if (x && o->status != AD_OK) ad_reply_account_refusal(x, o);
    else if (x) ad_reply_json(x, 200, o->tenant ? tenant_limits(l->app, o->tenant) : key_limits(o->key));
    free(l);
}

/* The body is all of the limits: what it does not name is none. */
static bool read_body(ad_http_exchange *x, bool of_key, ad_limits *out)
{
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    ad_err err;
    char field[64];
    if (!ad_require_json(x)) return false;
    json_t *v = ad_read_json(body.ptr, body.len, 0, NULL);
    bool good = json_is_object(v) || ad_fault_set(&f, 400, "invalid_json", NULL, "The body is not a JSON object");
    good = good && (ad_limits_read(out, v, of_key, field, &err) == AD_OK || ad_fault_set(&f, 400, "invalid_value", field, "%s", err.msg));
    json_decref(v);
    if (!good) ad_reply_fault(x, &f);
    return good;
}

void ad_handle_put_limits(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const char *id = ad_http_path(x) + strlen(prefix);
    bool of_key = has_prefix(id, keys);
    ad_limits limits;
    ad_later *l = read_body(x, of_key, &limits) ? ad_later_new(x, app, id) : NULL;
    if (!l) return;
    if (of_key) ad_tenancy_patch_key(app->tenancy, id + strlen(keys), &(ad_key_patch){.set_limits = true, .limits = limits}, on_changed, l);
    else ad_tenancy_patch_tenant(app->tenancy, id + strlen(tenants), &(ad_tenant_patch){.set_limits = true, .limits = limits}, on_changed, l);
}
