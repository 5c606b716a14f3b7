/* SPDX-License-Identifier: MIT */
/* What tenants may keep: adapters, bytes on disk, bytes in memory. */
#include <inttypes.h>

#include "server/keeper/private.h"
#include "server/tenancy/scope.h"

/* Whose the whole name is. */
static const ad_tenant *owner_of(const ad_keeper *k, const char *name)
{
    const ad_scope_rules rules = ad_scope_rules_of(k->app->tenancy);
    const ad_tenant *t = ad_scope_owner(&rules, name);
    return t ? t : ad_tenancy_find_tenant(k->app->tenancy, AD_SHARED_TENANT);
}

static int64_t limit_of(const ad_tenant *t, ad_limit kind) { return t->allowance.limits.of[kind]; }

/* ---- on disk ---- */

static ad_status check(const ad_limits *l, const char *whose, ad_limit kind, int64_t would_be, ad_err *err)
{
    if (!l->of[kind] || would_be <= l->of[kind]) return AD_OK;
    return ad_fail(err, AD_ELIMIT, "The %s's limit of %" PRId64 " %s does not allow it: with this one there would be %" PRId64 ".", whose, l->of[kind], ad_limit_text(kind), would_be);
}

ad_status ad_keeper_check_holdings(const ad_keeper *k, const ad_admission_spec *spec, const ad_keeping *more, ad_err *err)
{
    const ad_tenant *t = owner_of(k, spec->name);
    const ad_scope_rules rules = ad_scope_rules_of(k->app->tenancy);
    const ad_limits *all[] = {&t->allowance.limits, &spec->limits};
    static const char *const whose[] = {"tenant", "key"};
    ad_status st = AD_OK;
    bool any = false;
    for (int i = 0; i < 2; i++) any |= all[i]->of[AD_LIMIT_ADAPTERS] || all[i]->of[AD_LIMIT_STORED];
    ad_scope_holding h = any ? ad_scope_holding_of(k->registry, &rules, t) : (ad_scope_holding){0};
    for (int i = 0; i < 2 && st == AD_OK; i++) {
        if (more->new_name) st = check(all[i], whose[i], AD_LIMIT_ADAPTERS, (int64_t)h.adapters + 1, err);
        if (st == AD_OK) st = check(all[i], whose[i], AD_LIMIT_STORED, h.bytes_stored + more->bytes_disk, err);
    }
    return st == AD_OK ? check(&t->allowance.limits, whose[0], AD_LIMIT_RESIDENT, more->bytes_packed, err) : st;
}

/* ---- in memory ---- */

typedef struct {
    const ad_keeper *k;
    int owner;
} whose_memory;

static bool is_of(void *user, const ad_version *v)
{
    const whose_memory *w = user;
    return v->entry && owner_of(w->k, v->entry->name)->id == w->owner;
}

bool ad_keeper_may_load(const ad_keeper *k, const char *name, size_t bytes, ad_err *err)
{
    const ad_tenant *t = owner_of(k, name);
    int64_t limit = limit_of(t, AD_LIMIT_RESIDENT);
    if (!limit || (int64_t)bytes <= limit) return true;
    ad_fail(err, AD_ELIMIT, "The adapter `%s` takes %zu bytes of memory, more than its tenant's limit of %" PRId64 " %s.", name, bytes, limit, ad_limit_text(AD_LIMIT_RESIDENT));
    return false;
}

static bool make_room(const ad_keeper *k, const ad_tenant *t, size_t bytes)
{
    size_t limit = (size_t)limit_of(t, AD_LIMIT_RESIDENT), loading = limit ? ad_keeper_loading_bytes(k, t->id) : 0;
    if (!limit) return true;
    if (loading > limit || bytes > limit - loading) return false;
    return ad_registry_shrink(k->registry, is_of, &(whose_memory){k, t->id}, limit - loading - bytes);
}

bool ad_keeper_make_own_room(const ad_keeper *k, const char *name, size_t bytes) { return make_room(k, owner_of(k, name), bytes); }

void ad_keeper_limits_changed(ad_keeper *k, const ad_tenant *t)
{
    make_room(k, t, 0);
    ad_keeper_feed(k);
}
