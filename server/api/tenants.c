/* SPDX-License-Identifier: MIT */
/* /v1/admin/tenants: whom adapters and keys belong to. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/accounts.h"

static const char prefix[] = "/v1/admin/tenants/";

void ad_handle_tenants(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_page page;
    if (!ad_read_page(x, &page)) return;
    size_t i = *page.after ? ad_tenancy_behind_tenant(app->tenancy, page.after) : 0;
    if (i == SIZE_MAX) {
        ad_reply_lost_page(x);
        return;
    }
    json_t *list = json_array();
    for (; json_array_size(list) < page.limit && ad_tenancy_tenant(app->tenancy, i); i++) json_array_append_new(list, ad_tenant_json(ad_tenancy_tenant(app->tenancy, i)));
    ad_reply_page(x, list, ad_tenancy_tenant(app->tenancy, i) != NULL);
}

void ad_handle_tenant(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const char *name = ad_http_path(x) + strlen(prefix);
    const ad_tenant *t = ad_tenancy_find_tenant(app->tenancy, name);
    if (t) ad_reply_json(x, 200, ad_tenant_json(t));
    else ad_reply_unknown(x, "tenant", "tenant_not_found", "name", name);
}

/* ---- changes ---- */

static void on_outcome(void *user, const ad_account_outcome *o)
{
    ad_later *l = user;
    if (o->status == AD_OK && o->tenant) ad_keeper_limits_changed(l->app->keeper, o->tenant);
    if (ad_later_resume(l, o->status)) {
        if (o->status != AD_OK) ad_reply_account_refusal(l->x, o);
        else if (o->tenant) ad_reply_json(l->x, l->created, ad_tenant_json(o->tenant));
        else ad_reply_json(l->x, 200, json_pack("{s:s, s:s, s:b}", "object", "tenant.deleted", "name", l->name, "deleted", 1));
    }
    free(l);
}

static bool read_weight(const json_t *body, ad_tenant_patch *p, ad_fault *f)
{
    const json_t *v = json_object_get(body, "weight");
    p->set_weight = v != NULL;
    p->weight = v && !json_is_null(v) ? json_number_value(v) : 1;
    if (!v || json_is_null(v) || (json_is_number(v) && p->weight >= 0.001 && p->weight <= 1000)) return true;
    return ad_fault_set(f, 400, "invalid_value", "weight", "`weight` must be a number from 0.001 to 1000");
}

static bool read_priority(const json_t *body, ad_tenant_patch *p, ad_fault *f)
{
    if (!ad_read_text_field(body, "priority", 16, &p->set_priority, &p->priority, f)) return false;
    if (!p->priority || !strcmp(p->priority, "interactive") || !strcmp(p->priority, "batch")) return true;
    return ad_fault_set(f, 400, "invalid_value", "priority", "`priority` must be \"interactive\", \"batch\" or null");
}

/* The strings of *p are the body's. */
static bool read_patch(const json_t *body, ad_tenant_patch *p, ad_fault *f)
{
    *p = (ad_tenant_patch){0};
    return read_weight(body, p, f) && read_priority(body, p, f) && ad_read_limits_field(body, false, &p->set_limits, &p->limits, f) &&
           ad_read_text_field(body, "description", AD_TENANT_DESCRIPTION, &p->set_description, &p->description, f);
}

/* A name that belongs to the base model is nobody else's. */
static bool is_base_name(const ad_app *app, const char *tenant)
{
    size_t n = strlen(tenant);
    return !strncmp(app->served_name, tenant, n) && app->served_name[n] == '/';
}

static bool read_new_name(const ad_app *app, const json_t *body, const char **name, ad_fault *f)
{
    ad_err err;
    *name = json_string_value(json_object_get(body, "name"));
    if (!*name) return ad_fault_set(f, 400, "invalid_value", "name", "`name` must be a string");
    if (ad_tenant_check_name(*name, &err) != AD_OK) return ad_fault_set(f, 400, "invalid_value", "name", "%s", err.msg);
    return !is_base_name(app, *name) || ad_fault_set(f, 409, "name_taken", "name", "The base model's name `%.128s` begins with this tenant's.", app->served_name);
}

void ad_handle_post_tenant(ad_http_exchange *x, void *arg)
{
    static const char *const known[] = {"name", "weight", "priority", "limits", "description", NULL};
    ad_app *app = arg;
    ad_fault f = {0};
    ad_tenant_patch p;
    const char *name;
    json_t *body = ad_read_fields(x, known);
    if (!body) return;
    bool good = read_new_name(app, body, &name, &f) && read_patch(body, &p, &f);
    ad_later *l = good ? ad_later_new(x, app, name) : NULL;
    if (l) {
        l->created = 201;
        ad_tenancy_create_tenant(app->tenancy, name, &p, on_outcome, l);
    } else if (!good) {
        ad_reply_fault(x, &f);
    }
    json_decref(body);
}

void ad_handle_patch_tenant(ad_http_exchange *x, void *arg)
{
    static const char *const known[] = {"weight", "priority", "limits", "description", NULL};
    ad_app *app = arg;
    ad_fault f = {0};
    ad_tenant_patch p;
    const char *name = ad_http_path(x) + strlen(prefix);
    json_t *body = ad_read_fields(x, known);
    if (!body) return;
    bool good = read_patch(body, &p, &f);
    ad_later *l = good ? ad_later_new(x, app, name) : NULL;
    if (l) ad_tenancy_patch_tenant(app->tenancy, name, &p, on_outcome, l);
    else if (!good) ad_reply_fault(x, &f);
    json_decref(body);
}

void ad_handle_delete_tenant(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    const char *name = ad_http_path(x) + strlen(prefix);
    ad_later *l = ad_later_new(x, app, name);
    if (l) ad_tenancy_drop_tenant(app->tenancy, name, on_outcome, l);
}
