/* SPDX-License-Identifier: MIT */
/* A name with an empty part, "acme//sql", is none that the registry takes: it stands for what the caller asked for and is not to find. */
#include "server/tenancy/scope.h"

#include <stdio.h>
#include <string.h>

static const ad_tenant *find_tenant(const void *tenants, const char *name, size_t len)
{
    char text[AD_TENANT_NAME + 1];
    if (len >= sizeof text) return NULL;
    memcpy(text, name, len);
    text[len] = '\0';
    return ad_tenancy_find_tenant(tenants, text);
}

ad_scope_rules ad_scope_rules_of(const ad_tenancy *t)
{
    return t ? (ad_scope_rules){.tenant = find_tenant, .tenants = t, .may = ad_caller_may} : (ad_scope_rules){0};
}

/* ---- names ---- */

const ad_tenant *ad_scope_owner(const ad_scope_rules *rules, const char *full)
{
    const char *slash = strchr(full, '/');
    const ad_tenant *t = slash && rules->tenant ? rules->tenant(rules->tenants, full, (size_t)(slash - full)) : NULL;
    return t && t->id ? t : NULL;
}

/* Whose names begin with its own: a tenant that is neither the operator nor AD_SHARED_TENANT. */
static bool has_prefix(const ad_caller *c) { return !c->is_operator && c->tenant->id; }

/* Behind "TENANT/", or NULL when `full` does not begin with that. */
static const char *behind_tenant(const ad_tenant *t, const char *full)
{
    size_t n = strlen(t->name);
    return !strncmp(full, t->name, n) && full[n] == '/' ? full + n + 1 : NULL;
}

static const char *hidden_name(const ad_scope *s, const char *said, char *out)
{
    snprintf(out, AD_SCOPE_NAME, "%s//%s", s->caller->tenant->name, said);
    return out;
}

/* What begins with a slash is no name: hidden it comes back as it was said. Nor has a tenant names that is gone: by its own there may be another now. */
static const char *own_name(const ad_scope *s, const char *said, char *out)
{
    if (*said == '/' || s->caller->tenant->leaving) return hidden_name(s, said, out);
    snprintf(out, AD_SCOPE_NAME, "%s/%s", s->caller->tenant->name, said);
    return out;
}

/* What stands before "@VERSION", into name[AD_MAX_NAME + 1]; false: it is too long to be there. */
static bool cut_version(const char *said, char *name)
{
    const char *at = strrchr(said, '@');
    size_t n = at ? (size_t)(at - said) : strlen(said);
    if (n > AD_MAX_NAME) return false;
    memcpy(name, said, n);
    name[n] = '\0';
    return true;
}

bool ad_scope_allows(const ad_scope *s, const char *shown) { return !s->rules.may || s->rules.may(s->caller, s->verb, shown); }

static bool is_foreign(const ad_scope *s, const char *full)
{
    const ad_tenant *owner = ad_scope_owner(&s->rules, full);
    return !s->caller->is_operator && owner && owner->id != s->caller->tenant->id;
}

const char *ad_scope_name(const ad_scope *s, const char *said, char *out)
{
    char name[AD_MAX_NAME + 1];
    if (!cut_version(said, name)) return has_prefix(s->caller) ? own_name(s, said, out) : said;
    if (!ad_scope_allows(s, name)) return hidden_name(s, said, out);
    if (!has_prefix(s->caller)) return is_foreign(s, name) ? hidden_name(s, said, out) : said;
    if (ad_registry_find(s->registry, own_name(s, name, out))) return own_name(s, said, out);
    if (!ad_scope_owner(&s->rules, name) && ad_registry_find(s->registry, name)) return said;
    return own_name(s, said, out);
}

const char *ad_scope_own_name(const ad_scope *s, const char *said, char *out)
{
    if (has_prefix(s->caller)) return own_name(s, said, out);
    return is_foreign(s, said) ? hidden_name(s, said, out) : said;
}

size_t ad_scope_room(const ad_caller *caller)
{
    return has_prefix(caller) ? AD_MAX_NAME - 1 - strlen(caller->tenant->name) : AD_MAX_NAME;
}

const char *ad_scope_shown(const ad_caller *caller, const char *full)
{
    const char *rest = behind_tenant(caller->tenant, full);
    if (rest && *rest == '/') return rest + 1;
    return rest && has_prefix(caller) ? rest : full;
}

void ad_scope_shorten(const ad_caller *caller, char *text)
{
    static const char of_names[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:/-";
    char *to = text;
    for (const char *from = text; *from;) {
        from = ad_scope_shown(caller, from);
        size_t n = strspn(from, of_names);
        n += strcspn(from + n, of_names);
        memmove(to, from, n);
        to += n, from += n;
    }
    *to = '\0';
}

/* ---- what is there ---- */

ad_entry *ad_scope_find(const ad_scope *s, const char *said)
{
    char full[AD_SCOPE_NAME];
    return ad_registry_find(s->registry, ad_scope_name(s, said, full));
}

bool ad_scope_owns(const ad_scope *s, const char *full)
{
    const ad_tenant *owner = ad_scope_owner(&s->rules, full);
    return s->caller->is_operator || (owner ? owner->id : 0) == s->caller->tenant->id;
}

bool ad_scope_sees(const ad_scope *s, const char *full)
{
    return !is_foreign(s, full) && ad_scope_allows(s, ad_scope_shown(s->caller, full));
}

bool ad_scope_lists(const ad_scope *s, const char *full)
{
    char own[AD_SCOPE_NAME];
    if (!ad_scope_sees(s, full)) return false;
    return !has_prefix(s->caller) || ad_scope_owns(s, full) || !ad_registry_find(s->registry, own_name(s, full, own));
}

/* ---- lists ---- */

/* Position behind everything that begins with "TENANT/". */
static size_t end_of(const ad_registry *reg, const ad_tenant *t)
{
    char next[AD_TENANT_NAME + 2];
    snprintf(next, sizeof next, "%s%c", t->name, '/' + 1);
    return ad_registry_position(reg, next);
}

static size_t begin_of(const ad_registry *reg, const ad_tenant *t)
{
    char first[AD_TENANT_NAME + 2];
    snprintf(first, sizeof first, "%s/", t->name);
    return ad_registry_position(reg, first);
}

/* Position of the first name behind `name`. */
static size_t position_behind(const ad_registry *reg, const char *name)
{
    size_t at = *name ? ad_registry_position(reg, name) : 0;
    return at < ad_registry_count(reg) && !strcmp(ad_registry_at(reg, at)->name, name) ? at + 1 : at;
}

/* Position of the first shared name from `at` on: whole tenants are leapt over. */
static size_t skip_tenants(const ad_registry *reg, const ad_scope_rules *rules, size_t at)
{
    while (at < ad_registry_count(reg)) {
        const ad_tenant *t = ad_scope_owner(rules, ad_registry_at(reg, at)->name);
        if (!t) break;
        at = end_of(reg, t);
    }
    return at;
}

ad_scope_cursor ad_scope_begin(const ad_scope *s, const char *after)
{
    ad_scope_cursor c = {.scope = s, .other = position_behind(s->registry, after)};
    char own[AD_SCOPE_NAME];
    if (!has_prefix(s->caller) || s->caller->tenant->leaving) return c;
    c.own = *after ? position_behind(s->registry, own_name(s, after, own)) : begin_of(s->registry, s->caller->tenant);
    c.own_end = end_of(s->registry, s->caller->tenant);
    return c;
}

/* Of its own and of the shared names the one that comes first; of two that are the same its own, and the shared one is passed over. */
static const ad_entry *take_first(ad_scope_cursor *c)
{
    const ad_scope *s = c->scope;
    const ad_registry *reg = s->registry;
    if (!s->caller->is_operator) c->other = skip_tenants(reg, &s->rules, c->other);
    const ad_entry *own = c->own < c->own_end ? ad_registry_at(reg, c->own) : NULL, *other = c->other < ad_registry_count(reg) ? ad_registry_at(reg, c->other) : NULL;
    int order = !own ? 1 : !other ? -1 : strcmp(ad_scope_shown(s->caller, own->name), other->name);
    if (own && order <= 0) c->own++;
    if (other && order >= 0) c->other++;
    return own && order <= 0 ? own : other;
}

const ad_entry *ad_scope_next(ad_scope_cursor *c)
{
    const ad_scope *s = c->scope;
    const ad_entry *e = take_first(c);
    while (e && !ad_scope_allows(s, ad_scope_shown(s->caller, e->name))) e = take_first(c);
    return e;
}

/* ---- what tenants hold ---- */

static void add_holding(ad_scope_holding *h, const ad_entry *e)
{
    h->adapters += !e->n_targets;
    for (size_t i = 0; i < e->n_versions; i++) {
        h->bytes_stored += e->versions[i]->bytes_disk;
        if (e->versions[i]->adapter) h->bytes_resident += (int64_t)e->versions[i]->bytes_packed;
    }
}

ad_scope_holding ad_scope_holding_of(const ad_registry *reg, const ad_scope_rules *rules, const ad_tenant *t)
{
    ad_scope_holding h = {0};
    if (t && t->id) {
        for (size_t i = begin_of(reg, t), end = end_of(reg, t); i < end; i++) add_holding(&h, ad_registry_at(reg, i));
        return h;
    }
    for (size_t i = skip_tenants(reg, rules, 0); i < ad_registry_count(reg); i = skip_tenants(reg, rules, i + 1)) add_holding(&h, ad_registry_at(reg, i));
    return h;
}
