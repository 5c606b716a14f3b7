/* SPDX-License-Identifier: MIT */
/* Which adapters and aliases there are for a caller, and by which names. The registry knows whole names: "acme/sql" is tenant acme's adapter `sql`, "sql" a shared
 * one, which belongs to AD_SHARED_TENANT. A tenant says and sees `sql`: its own, or, when it has none of that name, the shared one. What is foreign cannot be said: it is
 * looked up under a name of the caller's own that is not there, so that foreign and unknown take the same way and get the same answer. The operator says and sees
 * whole names. Pure; loop thread only. */
#ifndef AD_TENANCY_SCOPE_H
#define AD_TENANCY_SCOPE_H

#include "adapters/registry.h"
#include "server/tenancy/tenancy.h"

/* How the scope learns of tenants and of what keys allow; a NULL function: there are no tenants, everything is allowed. */
typedef struct {
    const ad_tenant *(*tenant)(const void *tenants, const char *name, size_t len); /* NULL: there is none of that name */
    const void *tenants;
    bool (*may)(const ad_caller *caller, ad_verb verb, const char *name); /* name: as the caller sees it, without a version */
} ad_scope_rules;

/* By the tenants and keys there are; t: NULL is fine, there are none then. */
ad_scope_rules ad_scope_rules_of(const ad_tenancy *t);

/* One request's view. Borrowed pointers. */
typedef struct {
    const ad_registry *registry;
    const ad_caller *caller;
    ad_verb verb;             /* what the request does; names for which the key does not allow that are not there */
    ad_scope_rules rules;
} ad_scope;

enum { AD_SCOPE_NAME = 320 }; /* of a whole name that a caller may have made up; what is longer is cut, and is never there */

/* ---- names ---- */

/* The whole name of what the caller calls `said`, a name that may have "@VERSION" behind it: `said` itself, or in out[AD_SCOPE_NAME]. What is foreign, unknown or not for
 * this key becomes a name that nothing has, and that ad_scope_shown and ad_scope_shorten turn back into `said`. */
const char *ad_scope_name(const ad_scope *s, const char *said, char *out);
/* The same for something new, which is the caller's own whatever is shared: `said` itself, or in out[AD_SCOPE_NAME]. */
const char *ad_scope_own_name(const ad_scope *s, const char *said, char *out);
/* Bytes that a new name may have as the caller says it. */
size_t ad_scope_room(const ad_caller *caller);
/* The caller's name for a whole name that it sees; borrowed from `full`. */
const char *ad_scope_shown(const ad_caller *caller, const char *full);
/* Makes whole names in a message those that the caller says; in place, never longer. */
void ad_scope_shorten(const ad_caller *caller, char *text);

/* ---- what is there ---- */

/* The entry that the caller calls `said`, without a version; NULL: none. */
ad_entry *ad_scope_find(const ad_scope *s, const char *said);
/* Whose a whole name is: NULL is AD_SHARED_TENANT. */
const ad_tenant *ad_scope_owner(const ad_scope_rules *rules, const char *full);
/* Whether the caller's key is for that name, which is as the caller sees it. */
bool ad_scope_allows(const ad_scope *s, const char *shown);
/* Whether the caller may know of it: its own, or shared, and within its key's names. */
bool ad_scope_sees(const ad_scope *s, const char *full);
/* The same, and its name means it: a shared one behind an own one of its name is not listed. */
bool ad_scope_lists(const ad_scope *s, const char *full);
/* Whether it may change what has that whole name and is seen: what is shared only AD_SHARED_TENANT may. */
bool ad_scope_owns(const ad_scope *s, const char *full);

/* All that the caller sees, in order of the names it sees. The registry must not change meanwhile. */
typedef struct {
    const ad_scope *scope;
    size_t own, own_end;      /* positions of its own names that are left */
    size_t other;             /* of the others */
} ad_scope_cursor;
ad_scope_cursor ad_scope_begin(const ad_scope *s, const char *after); /* after: a name as the caller sees it; "" : from the first on */
const ad_entry *ad_scope_next(ad_scope_cursor *c);                    /* NULL: no more */

/* ---- what tenants hold ---- */

typedef struct {
    int adapters;             /* names, without aliases */
    int64_t bytes_stored;     /* of all their versions */
    int64_t bytes_resident;   /* of those in memory */
} ad_scope_holding;
/* Of one tenant, in time of its own names; of AD_SHARED_TENANT (NULL or id 0) in that of the shared ones and the tenants. */
ad_scope_holding ad_scope_holding_of(const ad_registry *reg, const ad_scope_rules *rules, const ad_tenant *t);

#endif
