/* SPDX-License-Identifier: MIT */
#include "server/api/names.h"

#include <string.h>

#include "server/api/error_form.h"

ad_scope ad_scope_of(const ad_http_exchange *x, const ad_app *app)
{
    const ad_http_route *route = ad_http_matched_route(x);
    return (ad_scope){.registry = app->registry, .caller = ad_caller_of(x), .verb = route ? (ad_verb)route->verb : AD_VERB_ADMIN, .rules = ad_scope_rules_of(app->tenancy)};
}

bool ad_may_add(const ad_scope *s, const ad_app *app, const char *said, const char *param, ad_fault *f)
{
    const ad_caller *c = s->caller;
    const ad_tenant *owner = ad_scope_owner(&s->rules, said);
    if (c->is_operator) return true;
    if (c->tenant->leaving) return ad_fault_set(f, 404, "tenant_not_found", NULL, "The tenant whose this was to be is gone.");
    if (!ad_scope_allows(s, said)) return ad_fault_set(f, 403, ad_insufficient_permissions, param, "This key is not for the name `%.150s`.", said);
    if (!strcmp(said, app->served_name)) return ad_fault_set(f, 409, NULL, param, "`%.150s` is the name of the base model.", said);
    if (!c->tenant->id && owner) return ad_fault_set(f, 400, "invalid_value", param, "a shared name may not begin with `%s/`: that is a tenant's", owner->name);
    return true;
}

bool ad_is_free_path(const char *said, const char *param, ad_fault *f)
{
    return strcmp(said, "events") != 0 || ad_fault_set(f, 400, "invalid_value", param, "no adapter may be called `%s`: GET /v1/adapters/%s are the events of all", said, said);
}

bool ad_may_change(const ad_scope *s, const char *full, ad_fault *f)
{
    const ad_entry *e = ad_registry_find(s->registry, full);
    if (!e || ad_scope_owns(s, full)) return true;
    return ad_fault_set(f, 403, "not_owner", NULL, "The %s `%.150s` belongs to tenant `" AD_SHARED_TENANT "`, which shares it: only that tenant changes it.",
                        e->n_targets ? "alias" : "adapter", full);
}

int ad_owner_id(const ad_scope *s, const char *full)
{
    const ad_tenant *t = s->caller->is_operator ? ad_scope_owner(&s->rules, full) : s->caller->tenant;
    return t ? t->id : 0;
}

const char *ad_owner_name(const ad_app *app, const char *full)
{
    const ad_scope_rules rules = ad_scope_rules_of(app->tenancy);
    const ad_tenant *t = ad_scope_owner(&rules, full);
    return t ? t->name : AD_SHARED_TENANT;
}
