/* SPDX-License-Identifier: MIT */
/* Tenants and keys in memory: read at start, found by name and id. */
#include "server/tenancy/tenancy.h"

#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#include "core/base/mem.h"
#include "server/observe/log.h"
#include "server/sched/fair.h"
#include "server/tenancy/private.h"

enum { SAVE_USES_S = 60, USES_AT_ONCE = 500 }; /* 3 ms of the store's thread */

/* ---- callers ---- */

bool ad_key_is_live(const ad_key *k, int64_t now) { return !k->revoked && (!k->expires || now < k->expires); }

const ad_caller *ad_caller_retain(const ad_caller *c)
{
    if (c->key) c->key->refs++;
    return c;
}

void ad_caller_release(const ad_caller *c)
{
    if (c->key) ad_key_release(c->key);
}

bool ad_caller_may(const ad_caller *c, ad_verb verb, const char *name)
{
    return c->key ? ad_key_may(c->key, verb, name) : c->is_operator;
}

/* ---- tables ---- */

ad_status ad_tenancy_make_room(ad_tenancy *t)
{
    ad_status st = ad_grow(&t->tenants, &t->cap_tenants, t->n_tenants + 1, sizeof *t->tenants);
    if (st == AD_OK) st = ad_grow(&t->keys, &t->cap_keys, t->n_keys + 1, sizeof *t->keys);
    if (st == AD_OK) st = ad_table_make_room(&t->tenants_by_name);
    return st == AD_OK ? ad_table_make_room(&t->keys_by_id) : st;
}

void ad_tenancy_insert_tenant(ad_tenancy *t, ad_tenant *tenant)
{
    ad_table_add(&t->tenants_by_name, tenant->name, tenant);
    tenant->id = strcmp(tenant->name, AD_SHARED_TENANT) ? t->next_tenant_id++ : 0;
    t->tenants[t->n_tenants++] = tenant;
}

void ad_tenancy_insert_key(ad_tenancy *t, ad_key *k)
{
    ad_table_add(&t->keys_by_id, k->id, k);
    k->caller.tenant->n_keys++;
    t->keys[t->n_keys++] = k;
}

static size_t find_pointer(void *const *list, size_t n, const void *p)
{
    size_t i = 0;
    while (i < n && list[i] != p) i++;
    return i;
}

/* Out of everything but the list. */
static void forget_key(ad_tenancy *t, ad_key *k)
{
    ad_table_remove(&t->keys_by_id, k->id);
    k->caller.tenant->n_keys--;
    if (k->unsaved) t->n_unsaved--;
    if (!k->revoked) k->revoked = time(NULL); /* for requests that go on with it */
    ad_key_release(k);
}

void ad_tenancy_remove_key(ad_tenancy *t, ad_key *k)
{
    size_t at = find_pointer((void *const *)t->keys, t->n_keys, k);
    memmove(&t->keys[at], &t->keys[at + 1], (--t->n_keys - at) * sizeof *t->keys);
    forget_key(t, k);
}

/* In one pass: it may have all of them. */
static void remove_keys_of(ad_tenancy *t, const ad_tenant *tenant)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n_keys; i++) {
        ad_key *k = t->keys[i];
        if (k->caller.tenant == tenant) forget_key(t, k);
        else t->keys[n++] = k;
    }
    t->n_keys = n;
}

void ad_tenancy_remove_tenant(ad_tenancy *t, ad_tenant *tenant)
{
    if (tenant->n_keys) remove_keys_of(t, tenant);
    size_t at = find_pointer((void *const *)t->tenants, t->n_tenants, tenant);
    memmove(&t->tenants[at], &t->tenants[at + 1], (--t->n_tenants - at) * sizeof *t->tenants);
    ad_table_remove(&t->tenants_by_name, tenant->name);
    ad_tenant_release(tenant);
}

ad_tenant *ad_tenancy_find_tenant(const ad_tenancy *t, const char *name) { return ad_table_find(&t->tenants_by_name, name); }
ad_key *ad_tenancy_find_key(const ad_tenancy *t, const char *id) { return ad_table_find(&t->keys_by_id, id); }
ad_tenant *ad_tenancy_tenant(const ad_tenancy *t, size_t i) { return i < t->n_tenants ? t->tenants[i] : NULL; }
ad_key *ad_tenancy_key(const ad_tenancy *t, size_t i) { return i < t->n_keys ? t->keys[i] : NULL; }

static size_t behind(void *const *list, size_t n, const void *p) { return p ? find_pointer(list, n, p) + 1 : SIZE_MAX; }

size_t ad_tenancy_behind_tenant(const ad_tenancy *t, const char *name) { return behind((void *const *)t->tenants, t->n_tenants, ad_tenancy_find_tenant(t, name)); }
size_t ad_tenancy_behind_key(const ad_tenancy *t, const char *id) { return behind((void *const *)t->keys, t->n_keys, ad_tenancy_find_key(t, id)); }

bool ad_tenancy_has_keys(const ad_tenancy *t) { return t->n_keys > 0; }
int ad_tenancy_room(const ad_tenancy *t, int own, int used, int limit) { return ad_fair_room(own, used, limit, t && t->n_tenants > 1); }
const ad_caller *ad_tenancy_nobody(const ad_tenancy *t) { return t->n_keys ? &t->nobody : &t->anybody; }

/* ---- begin and end ---- */

static ad_status no_memory(ad_err *err) { return ad_fail(err, AD_ENOMEM, "out of memory for tenants and keys"); }

static ad_status on_tenant(void *user, const ad_stored_tenant *s, ad_err *err)
{
    ad_tenancy *t = user;
    ad_tenant *tenant = NULL;
    if (ad_tenancy_make_room(t) != AD_OK) return no_memory(err);
    ad_status st = ad_tenant_new(&tenant, s, err);
    if (st == AD_OK) ad_tenancy_insert_tenant(t, tenant);
    return st;
}

static ad_status on_key(void *user, const ad_stored_key *s, ad_err *err)
{
    ad_tenancy *t = user;
    ad_tenant *tenant = ad_tenancy_find_tenant(t, s->tenant);
    ad_key *k = NULL;
    if (!tenant) return ad_fail(err, AD_EFORMAT, "registry: key %s is of a tenant \"%s\" that does not exist", s->id, s->tenant);
    if (ad_tenancy_make_room(t) != AD_OK) return no_memory(err);
    ad_status st = ad_key_new(&k, s, tenant, err);
    if (st == AD_OK) ad_tenancy_insert_key(t, k);
    return st;
}

ad_status ad_tenancy_need_secret(ad_tenancy *t, ad_err *err)
{
    ad_status st = t->has_secret ? AD_OK : ad_key_secret_open(t->secret, t->dir, t->n_keys > 0, err);
    if (st == AD_OK) t->has_secret = true;
    return st;
}

static ad_status read_all(ad_tenancy *t, ad_store *store, ad_err *err)
{
    ad_store_reader reader = {.tenant = on_tenant, .key = on_key, .user = t};
    ad_status st = ad_store_read(store, &reader, err);
    if (st != AD_OK) return st;
    t->anybody.tenant = t->nobody.tenant = ad_tenancy_find_tenant(t, AD_SHARED_TENANT);
    if (!t->anybody.tenant) return ad_fail(err, AD_EFORMAT, "registry: there is no tenant \"" AD_SHARED_TENANT "\"");
    st = ad_tenancy_need_secret(t, err);
    if (st == AD_OK || t->n_keys) return st;
    ad_log(AD_LOG_WARN, "%s; no key can be made before that is mended", err->msg); /* a full disk: somebody must be able to delete something */
    return AD_OK;
}

ad_status ad_tenancy_new(ad_tenancy **out, ad_store *store, ad_err *err)
{
    ad_tenancy *t = ad_calloc(1, sizeof *t);
    if (!t) return no_memory(err);
    t->next_tenant_id = 1;
    t->anybody.is_operator = true;
    ad_list_init(&t->waiting);
    t->dir = ad_store_durable(store) ? ad_store_dir(store) : NULL;
    ad_status st = getrandom(&t->decoy, sizeof t->decoy, 0) == sizeof t->decoy ? AD_OK : ad_fail(err, AD_EIO, "no random number for keys");
    if (st == AD_OK) st = read_all(t, store, err);
    if (st == AD_OK) *out = t;
    else ad_tenancy_free(&t);
    return st;
}

void ad_tenancy_start(ad_tenancy *t, ad_store_thread *store, const ad_registry *registry)
{
    t->store = store;
    t->registry = registry;
    t->saved_uses = time(NULL);
}

void ad_tenancy_free(ad_tenancy **tp)
{
    ad_tenancy *t = *tp;
    if (!t) return;
    *tp = NULL;
    while (t->n_keys) forget_key(t, t->keys[--t->n_keys]);
    while (t->n_tenants) ad_tenancy_remove_tenant(t, t->tenants[t->n_tenants - 1]);
    ad_table_deinit(&t->tenants_by_name);
    ad_table_deinit(&t->keys_by_id);
    free(t->tenants);
    free(t->keys);
    OPENSSL_cleanse(t->secret, sizeof t->secret);
    free(t);
}

/* ---- who it is ---- */

static bool save_some_uses(ad_tenancy *t);

static void on_uses_saved(void *user, ad_status st, const ad_err *err)
{
    ad_tenancy *t = user;
    if (st != AD_OK) ad_log(AD_LOG_WARN, "when keys were last used could not be written: %s", err->msg);
    if (t->store) (void)save_some_uses(t);
}

static void take_use(ad_tenancy *t, ad_key *k, ad_store_change *out)
{
    *out = (ad_store_change){.kind = AD_MARK_KEY, .key = {.last_used = k->last_used}};
    memcpy(out->key.id, k->id, sizeof out->key.id);
    k->unsaved = false;
    t->n_unsaved--;
}

/* The next slice of those that were to be saved, in a transaction of its own: what is changed meanwhile waits for no more than that. False: none is left. */
static bool save_some_uses(ad_tenancy *t)
{
    size_t left = t->uses_to_save < t->n_unsaved ? t->uses_to_save : t->n_unsaved, most = left < USES_AT_ONCE ? left : USES_AT_ONCE, n = 0;
    ad_store_change *changes = most ? ad_calloc(most, sizeof *changes) : NULL;
    ad_err err;
    t->uses_to_save = changes ? left - most : 0;
    if (!changes) return false;
    for (; n < most; t->use_at++) {
        if (t->use_at >= t->n_keys) t->use_at = 0;
        if (t->keys[t->use_at]->unsaved) take_use(t, t->keys[t->use_at], &changes[n++]);
    }
    if (ad_store_thread_submit(t->store, changes, (int)n, on_uses_saved, t, &err) == AD_OK) return true;
    ad_log(AD_LOG_WARN, "when keys were last used could not be written: %s", err.msg);
    t->uses_to_save = 0; /* the others another time */
    return false;
}

static void save_uses(ad_tenancy *t, int64_t now)
{
    t->saved_uses = now;
    if (t->uses_to_save) return; /* it is at it still */
    t->uses_to_save = t->n_unsaved;
    (void)save_some_uses(t);
}

static void note_use(ad_tenancy *t, ad_key *k, int64_t now)
{
    k->last_used = now;
    if (!k->unsaved) t->n_unsaved++;
    k->unsaved = true;
    if (t->store && now - t->saved_uses >= SAVE_USES_S) save_uses(t, now);
}

void ad_tenancy_stop(ad_tenancy *t)
{
    if (!t || !t->store) return;
    t->uses_to_save = t->n_unsaved;
    while (save_some_uses(t)) continue;
    t->store = NULL;
    t->registry = NULL;
}

const ad_caller *ad_tenancy_identify(ad_tenancy *t, const char *text)
{
    char id[AD_KEY_ID + 1];
    ad_digest mac;
    int64_t now = time(NULL);
    if (!t->has_secret || ad_key_mac(t->secret, text, &mac, NULL) != AD_OK) return NULL;
    ad_key *k = ad_key_read_id(text, id) ? ad_tenancy_find_key(t, id) : NULL;
    bool same = CRYPTO_memcmp(&mac, k ? &k->mac : &t->decoy, sizeof mac) == 0;
    if (!k || !same || !ad_key_is_live(k, now)) return NULL;
    note_use(t, k, now);
    return &k->caller;
}
