/* SPDX-License-Identifier: MIT */
#include "server/tenancy/change.h"

#include <openssl/crypto.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "server/tenancy/audit.h"
#include "server/tenancy/private.h"
#include "server/tenancy/usage.h"

enum { MAX_WAITING = 256 };

typedef struct ad_account_change change;

/* A change that waits for its turn, or for the disk. */
struct ad_account_change {
    ad_link link;
    ad_tenancy *t;
    bool (*prepare)(change *c);  /* its turn has come: fills rows; false after refusing it */
    void (*publish)(change *c);  /* its rows are durable; cannot fail */
    char subject[AD_TENANT_NAME + 1]; /* a tenant's name, or a key's id */
    ad_tenant_patch tenant_patch; /* strings are the change's */
    ad_key_patch key_patch;
    char *texts[2];               /* [2] those strings */
    bool force;
    int64_t grace_s, now;
    int64_t old_expires, old_revoked; /* of the key that is replaced */
    ad_store_change rows[2];
    int n_rows;
    ad_tenant *tenant;            /* new, or as it will be; owned until it is published */
    ad_key *key;
    ad_tenant *leaving;           /* unless it fails: the tenancy's */
    char text[AD_KEY_TEXT + 1];
    ad_account_done done;
    void *user;
    ad_account_outcome outcome;
};

/* ---- refusals ---- */

static bool refuse(change *c, ad_status st, const char *code, const char *fmt, ...) AD_PRINTF(4, 5);
static bool refuse(change *c, ad_status st, const char *code, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->outcome.err.msg, sizeof c->outcome.err.msg, fmt, ap);
    va_end(ap);
    c->outcome.status = c->outcome.err.code = st;
    c->outcome.code = code;
    return false;
}

static bool refuse_memory(change *c) { return refuse(c, AD_ENOMEM, NULL, "out of memory"); }

static bool refuse_err(change *c, const ad_err *err) { return refuse(c, err->code, NULL, "%s", err->msg); }

static ad_tenant *find_tenant(change *c)
{
    ad_tenant *t = ad_tenancy_find_tenant(c->t, c->subject);
    if (!t) refuse(c, AD_ENOTFOUND, "tenant_not_found", "The tenant `%s` does not exist.", c->subject);
    return t;
}

static ad_key *find_key(change *c)
{
    ad_key *k = ad_tenancy_find_key(c->t, c->subject);
    if (!k) refuse(c, AD_ENOTFOUND, "key_not_found", "The key `%s` does not exist.", c->subject);
    return k;
}

/* ---- tenants ---- */

ad_status ad_tenant_check_name(const char *name, ad_err *err)
{
    size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
    if (n && !name[n] && n <= AD_TENANT_NAME && *name >= 'a' && *name <= 'z') return AD_OK;
    return ad_fail(err, AD_EINVAL, "tenant name \"%.80s\" is not 1 to %d lower-case letters, digits and -, beginning with a letter", name, AD_TENANT_NAME);
}

/* A name of the registry that begins with TENANT/, or NULL. */
static const char *owned_name(const ad_tenancy *t, const char *tenant)
{
    char prefix[AD_TENANT_NAME + 2];
    int n = snprintf(prefix, sizeof prefix, "%s/", tenant);
    size_t at = ad_registry_position(t->registry, prefix);
    const char *name = at < ad_registry_count(t->registry) ? ad_registry_at(t->registry, at)->name : NULL;
    return name && !strncmp(name, prefix, (size_t)n) ? name : NULL;
}

static bool patch_tenant_row(change *c, ad_stored_tenant *row)
{
    const ad_tenant_patch *p = &c->tenant_patch;
    char **const fields[] = {&row->priority, &row->description};
    const char *const texts[] = {p->priority, p->description};
    const bool set[] = {p->set_priority, p->set_description};
    if (p->set_weight) row->weight = p->weight;
    for (int i = 0; i < 2; i++) {
        if (!set[i]) continue;
        free(*fields[i]);
        *fields[i] = texts[i] ? strdup(texts[i]) : NULL;
        if (texts[i] && !*fields[i]) return refuse_memory(c);
    }
    if (!p->set_limits) return true;
    free(row->limits);
    return ad_limits_text(&row->limits, &p->limits) || refuse_memory(c);
}

/* The row as the patch makes it, and the tenant as it will be. */
static bool make_tenant(change *c, ad_store_change *row)
{
    ad_err err;
    c->n_rows = 1;
    return patch_tenant_row(c, &row->tenant) && (ad_tenant_new(&c->tenant, &row->tenant, &err) == AD_OK || refuse_err(c, &err));
}

static bool prepare_create_tenant(change *c)
{
    ad_err err;
    const char *taken;
    if (ad_tenant_check_name(c->subject, &err) != AD_OK) return refuse(c, AD_EINVAL, "invalid_value", "%s", err.msg);
    if (ad_tenancy_find_tenant(c->t, c->subject)) return refuse(c, AD_EEXIST, "tenant_exists", "There is a tenant `%s` already.", c->subject);
    if ((taken = owned_name(c->t, c->subject))) return refuse(c, AD_EEXIST, "name_taken", "The name `%.128s` is taken, which would be one of this tenant's: remove it first.", taken);
    if (c->t->n_tenants >= AD_MAX_TENANTS) return refuse(c, AD_EEXIST, "too_many_tenants", "There are %d tenants already, which is the most.", AD_MAX_TENANTS);
    c->rows[0] = (ad_store_change){.kind = AD_PUT_TENANT, .tenant = {.created = c->now, .weight = 1}};
    memcpy(c->rows[0].tenant.name, c->subject, sizeof c->subject);
    return (ad_tenancy_make_room(c->t) == AD_OK || refuse_memory(c)) && make_tenant(c, &c->rows[0]);
}

static void publish_new_tenant(change *c)
{
    c->outcome.tenant = c->tenant;
    ad_tenancy_insert_tenant(c->t, c->tenant);
    c->tenant = NULL;
}

static bool prepare_patch_tenant(change *c)
{
    const ad_tenant *t = find_tenant(c);
    return t && (ad_row_of_tenant(t, &c->rows[0]) || refuse_memory(c)) && make_tenant(c, &c->rows[0]);
}

static void swap_text(char **a, char **b)
{
    char *t = *a;
    *a = *b;
    *b = t;
}

/* The tenant stays the one that its keys and requests know. */
static void publish_tenant(change *c)
{
    ad_tenant *t = ad_tenancy_find_tenant(c->t, c->subject);
    t->weight = c->tenant->weight;
    swap_text(&t->priority, &c->tenant->priority);
    swap_text(&t->description, &c->tenant->description);
    if (c->tenant_patch.set_limits) ad_allowance_set(&t->allowance, &c->tenant_patch.limits, ad_clock_now());
    c->outcome.tenant = t;
}

static bool prepare_drop_tenant(change *c)
{
    ad_tenant *t = find_tenant(c);
    const char *owned;
    int live = 0;
    if (!t) return false;
    if (!strcmp(t->name, AD_SHARED_TENANT)) return refuse(c, AD_EEXIST, "tenant_in_use", "The tenant `" AD_SHARED_TENANT "` owns what all share, and stays.");
    if ((owned = owned_name(c->t, t->name))) return refuse(c, AD_EEXIST, "tenant_in_use", "The tenant owns `%.128s`: remove its adapters and aliases first.", owned);
    for (size_t i = 0; i < c->t->n_keys; i++) live += c->t->keys[i]->caller.tenant == t && ad_key_is_live(c->t->keys[i], c->now);
    if (live) return refuse(c, AD_EEXIST, "tenant_in_use", "The tenant has %d live keys: revoke or delete them first.", live);
    c->rows[0] = (ad_store_change){.kind = AD_DROP_TENANT};
    memcpy(c->rows[0].tenant.name, t->name, sizeof t->name);
    c->n_rows = 1;
    c->leaving = t;
    t->leaving = true; /* from here on nothing becomes its own */
    return true;
}

static void publish_dropped_tenant(change *c) { ad_tenancy_remove_tenant(c->t, ad_tenancy_find_tenant(c->t, c->subject)); }

/* ---- keys ---- */

static bool set_text(char **to, const char *from)
{
    free(*to);
    *to = from ? strdup(from) : NULL;
    return !from || *to;
}

static bool patch_key_row(ad_stored_key *row, const ad_key_patch *p)
{
    bool good = !p->set_name || set_text(&row->name, p->name);
    if (good && p->set_globs) good = set_text(&row->adapters, p->globs);
    if (p->set_expires) row->expires = p->expires;
    if (good && p->set_verbs) {
        free(row->verbs);
        good = (row->verbs = ad_verbs_text(p->verbs)) != NULL;
    }
    if (good && p->set_limits) {
        free(row->limits);
        good = ad_limits_text(&row->limits, &p->limits);
    }
    return good;
}

/* A text, and what is kept of it. */
static ad_status make_text(const uint8_t *secret, ad_stored_key *row, char text[AD_KEY_TEXT + 1], ad_err *err)
{
    ad_status st = ad_key_make(text, err);
    if (st == AD_OK) st = ad_key_mac(secret, text, &row->mac, err);
    if (st == AD_OK && !ad_key_read_id(text, row->id)) st = ad_fail(err, AD_EIO, "a key was made wrongly");
    return st;
}

/* The row of a new key for the tenant, and its text, from a patch. */
static ad_status make_key_row(const uint8_t *secret, const char *tenant, const ad_key_patch *p, int64_t now, ad_store_change *row, char text[AD_KEY_TEXT + 1], ad_err *err)
{
    *row = (ad_store_change){.kind = AD_PUT_KEY, .key = {.created = now, .verbs = ad_verbs_text(1u << AD_VERB_INFER | 1u << AD_VERB_LIST), .adapters = strdup("[\"*\"]")}};
    snprintf(row->key.tenant, sizeof row->key.tenant, "%s", tenant);
    if (!row->key.verbs || !row->key.adapters || !patch_key_row(&row->key, p)) return ad_fail(err, AD_ENOMEM, "out of memory for a key");
    return make_text(secret, &row->key, text, err);
}

/* Another live key with verb admin than this one (NULL: any). */
static bool other_admin(const ad_tenancy *t, const ad_key *except, int64_t now)
{
    for (size_t i = 0; i < t->n_keys; i++)
        if (t->keys[i] != except && t->keys[i]->caller.is_operator && ad_key_is_live(t->keys[i], now)) return true;
    return false;
}

/* Refuses to take the last live key away that can make others. */
static bool check_admin_stays(change *c, const ad_key *k)
{
    if (c->force || !k->caller.is_operator || !ad_key_is_live(k, c->now) || other_admin(c->t, k, c->now)) return true;
    return refuse(c, AD_EEXIST, "last_admin_key",
                  "This is the last live key with verb `admin`: without it only adapterd --create-admin-key, while no daemon runs, makes another. "
                  "?force=true does it all the same.");
}

static bool check_verbs(change *c, const ad_tenant *tenant, unsigned verbs)
{
    bool admin = verbs >> AD_VERB_ADMIN & 1;
    if (admin && strcmp(tenant->name, AD_SHARED_TENANT)) return refuse(c, AD_EINVAL, "invalid_value", "Only keys of the tenant `" AD_SHARED_TENANT "` can have the verb `admin`.");
    if (admin || c->t->n_keys) return true;
    return refuse(c, AD_EEXIST, "first_key_must_be_admin", "The first key must have the verb `admin`: once there is a key, nobody may do anything without one.");
}

static bool check_room_for_key(change *c)
{
    ad_err err;
    if (c->t->n_keys >= AD_MAX_KEYS) return refuse(c, AD_EEXIST, "too_many_keys", "There are %d keys already, which is the most: delete some that are revoked.", AD_MAX_KEYS);
    if (ad_tenancy_need_secret(c->t, &err) != AD_OK) return refuse_err(c, &err);
    return ad_tenancy_make_room(c->t) == AD_OK || refuse_memory(c);
}

static bool prepare_create_key(change *c)
{
    ad_err err;
    const ad_key_patch *p = &c->key_patch;
    ad_tenant *tenant = find_tenant(c);
    if (!tenant || !check_verbs(c, tenant, p->set_verbs ? p->verbs : 0) || !check_room_for_key(c)) return false;
    c->n_rows = 1;
    ad_status st = make_key_row(c->t->secret, tenant->name, p, c->now, &c->rows[0], c->text, &err);
    if (st == AD_OK && ad_tenancy_find_key(c->t, c->rows[0].key.id)) return refuse(c, AD_EBUSY, NULL, "two keys got the same id; try again");
    if (st == AD_OK) st = ad_key_new(&c->key, &c->rows[0].key, tenant, &err);
    return st == AD_OK || refuse_err(c, &err);
}

static void publish_new_key(change *c)
{
    c->outcome.key = c->key;
    c->outcome.text = c->text;
    ad_tenancy_insert_key(c->t, c->key);
    c->key = NULL;
}

static bool prepare_patch_key(change *c)
{
    ad_err err;
    const ad_key_patch *p = &c->key_patch;
    ad_key *k = find_key(c);
    if (!k || (p->set_verbs && !check_verbs(c, k->caller.tenant, p->verbs))) return false;
    if ((p->revoke || (p->set_verbs && !(p->verbs >> AD_VERB_ADMIN & 1))) && !check_admin_stays(c, k)) return false;
    c->n_rows = 1;
    if (!ad_row_of_key(k, &c->rows[0]) || !patch_key_row(&c->rows[0].key, p)) return refuse_memory(c);
    if (p->revoke && !k->revoked) c->rows[0].key.revoked = c->now;
    return ad_key_new(&c->key, &c->rows[0].key, k->caller.tenant, &err) == AD_OK || refuse_err(c, &err);
}

/* What another key may into this one, which stays the one that requests know. */
static void adopt(ad_key *k, ad_key *other)
{
    char **globs = k->globs;
    int n = k->n_globs;
    swap_text(&k->name, &other->name);
    k->globs = other->globs, k->n_globs = other->n_globs;
    other->globs = globs, other->n_globs = n;
    k->verbs = other->verbs;
    k->caller.is_operator = other->caller.is_operator;
    k->expires = other->expires;
    k->revoked = other->revoked;
}

static void publish_key(change *c)
{
    ad_key *k = ad_tenancy_find_key(c->t, c->subject);
    adopt(k, c->key);
    if (c->key_patch.set_limits) ad_allowance_set(&k->allowance, &c->key_patch.limits, ad_clock_now());
    c->outcome.key = k;
}

static bool prepare_drop_key(change *c)
{
    ad_key *k = find_key(c);
    if (!k || !check_admin_stays(c, k)) return false;
    c->key_patch.revoke = c->t->n_keys == 1;
    if (c->key_patch.revoke) return prepare_patch_key(c);
    c->rows[0] = (ad_store_change){.kind = AD_DROP_KEY};
    memcpy(c->rows[0].key.id, k->id, sizeof k->id);
    c->n_rows = 1;
    return true;
}

static void publish_dropped_key(change *c)
{
    if (c->key_patch.revoke) publish_key(c);
    else ad_tenancy_remove_key(c->t, ad_tenancy_find_key(c->t, c->subject));
}

static int64_t sooner(int64_t a, int64_t b) { return !a || (b && b < a) ? b : a; }

static bool prepare_rotate_key(change *c)
{
    ad_err err;
    ad_key *k = find_key(c);
    if (!k) return false;
    if (!ad_key_is_live(k, c->now)) return refuse(c, AD_EEXIST, "key_not_live", "The key has expired, or was revoked: make a new one.");
    if (!check_room_for_key(c)) return false;
    c->n_rows = 2;
    ad_store_change *fresh = &c->rows[0], *old = &c->rows[1];
    if (!ad_row_of_key(k, fresh) || !ad_row_of_key(k, old)) return refuse_memory(c);
    fresh->key.created = c->now;
    fresh->key.last_used = 0;
    if (k->expires) fresh->key.expires = c->now + (k->expires - k->created);
    if (c->grace_s) old->key.expires = sooner(k->expires, c->now + c->grace_s);
    else old->key.revoked = c->now;
    c->old_expires = old->key.expires;
    c->old_revoked = old->key.revoked;
    ad_status st = make_text(c->t->secret, &fresh->key, c->text, &err);
    if (st == AD_OK && ad_tenancy_find_key(c->t, fresh->key.id)) return refuse(c, AD_EBUSY, NULL, "two keys got the same id; try again");
    if (st == AD_OK) st = ad_key_new(&c->key, &fresh->key, k->caller.tenant, &err);
    return st == AD_OK || refuse_err(c, &err);
}

static void publish_rotated_key(change *c)
{
    ad_key *old = ad_tenancy_find_key(c->t, c->subject);
    old->expires = c->old_expires;
    old->revoked = c->old_revoked;
    c->outcome.replaces = old->id;
    publish_new_key(c);
}

/* ---- one after another ---- */

static void free_change(change *c)
{
    for (int i = 0; i < c->n_rows; i++) ad_store_change_deinit(&c->rows[i]);
    for (int i = 0; i < 2; i++) free(c->texts[i]);
    ad_tenant_release(c->tenant);
    ad_key_release(c->key);
    OPENSSL_cleanse(c->text, sizeof c->text);
    free(c);
}

static void run_next(ad_tenancy *t);

static void finish(change *c)
{
    if (c->leaving && c->outcome.status != AD_OK) c->leaving->leaving = false;
    c->done(c->user, &c->outcome);
    free_change(c);
}

static void on_stored(void *user, ad_status st, const ad_err *err)
{
    change *c = user;
    ad_tenancy *t = c->t;
    t->running = NULL;
    if (st == AD_OK) c->publish(c);
    else refuse_err(c, err);
    finish(c);
    run_next(t);
}

static bool submit(change *c)
{
    ad_err err;
    int n = c->n_rows;
    ad_store_change *rows = ad_calloc((size_t)n, sizeof *rows);
    if (!rows) return refuse_memory(c);
    memcpy(rows, c->rows, (size_t)n * sizeof *rows);
    c->n_rows = 0; /* they are the store's now */
    return ad_store_thread_submit(c->t->store, rows, n, on_stored, c, &err) == AD_OK || refuse_err(c, &err);
}

static void run_next(ad_tenancy *t)
{
    while (!t->running && (t->running = ad_list_pop(&t->waiting))) {
        change *c = t->running;
        t->n_waiting--;
        c->now = time(NULL);
        bool going = t->store ? c->prepare(c) && submit(c) : refuse(c, AD_EBUSY, NULL, "the server is shutting down");
        if (going) return;
        t->running = NULL;
        finish(c);
    }
}

static void enter(change *c)
{
    ad_tenancy *t = c->t;
    if (t->n_waiting >= MAX_WAITING) {
        refuse(c, AD_EBUSY, NULL, "%d changes of tenants and keys wait; try again later", t->n_waiting);
        finish(c);
        return;
    }
    t->n_waiting++;
    ad_list_push(&t->waiting, c);
    run_next(t);
}

/* NULL after telling `done` that memory is short. */
static change *new_change(ad_tenancy *t, const char *subject, ad_account_done done, void *user)
{
    change *c = ad_calloc(1, sizeof *c);
    if (!c) {
        ad_account_outcome o = {.status = AD_ENOMEM};
        ad_fail(&o.err, AD_ENOMEM, "out of memory");
        done(user, &o);
        return NULL;
    }
    c->t = t;
    c->done = done;
    c->user = user;
    snprintf(c->subject, sizeof c->subject, strlen(subject) < sizeof c->subject ? "%s" : "%.40s...", subject); /* cut, it is nobody's */
    return c;
}

static void enter_with(change *c, bool (*prepare)(change *c), void (*publish)(change *c))
{
    c->prepare = prepare;
    c->publish = publish;
    enter(c);
}

/* False after refusing it, which ends the change. */
static bool copy_strings(change *c, const char **one, const char **other)
{
    const char **const of[] = {one, other};
    for (int i = 0; i < 2; i++) {
        if (!*of[i]) continue;
        *of[i] = c->texts[i] = strdup(*of[i]);
        if (c->texts[i]) continue;
        refuse_memory(c);
        finish(c);
        return false;
    }
    return true;
}

static void change_tenant(ad_tenancy *t, const char *name, const ad_tenant_patch *p, bool (*prepare)(change *c), void (*publish)(change *c), ad_account_done done, void *user)
{
    change *c = new_change(t, name, done, user);
    if (!c) return;
    c->tenant_patch = *p;
    if (copy_strings(c, &c->tenant_patch.priority, &c->tenant_patch.description)) enter_with(c, prepare, publish);
}

static void change_key(ad_tenancy *t, const char *subject, const ad_key_patch *p, bool (*prepare)(change *c), void (*publish)(change *c), ad_account_done done, void *user)
{
    change *c = new_change(t, subject, done, user);
    if (!c) return;
    c->key_patch = *p;
    c->force = p->force;
    if (copy_strings(c, &c->key_patch.name, &c->key_patch.globs)) enter_with(c, prepare, publish);
}

void ad_tenancy_create_tenant(ad_tenancy *t, const char *name, const ad_tenant_patch *p, ad_account_done done, void *user)
{
    change_tenant(t, name, p, prepare_create_tenant, publish_new_tenant, done, user);
}

void ad_tenancy_patch_tenant(ad_tenancy *t, const char *name, const ad_tenant_patch *p, ad_account_done done, void *user)
{
    change_tenant(t, name, p, prepare_patch_tenant, publish_tenant, done, user);
}

void ad_tenancy_drop_tenant(ad_tenancy *t, const char *name, ad_account_done done, void *user)
{
    change_tenant(t, name, &(ad_tenant_patch){0}, prepare_drop_tenant, publish_dropped_tenant, done, user);
}

void ad_tenancy_create_key(ad_tenancy *t, const char *tenant, const ad_key_patch *p, ad_account_done done, void *user)
{
    change_key(t, tenant, p, prepare_create_key, publish_new_key, done, user);
}

void ad_tenancy_patch_key(ad_tenancy *t, const char *id, const ad_key_patch *p, ad_account_done done, void *user)
{
    change_key(t, id, p, prepare_patch_key, publish_key, done, user);
}

void ad_tenancy_drop_key(ad_tenancy *t, const char *id, bool force, ad_account_done done, void *user)
{
    change_key(t, id, &(ad_key_patch){.force = force}, prepare_drop_key, publish_dropped_key, done, user);
}

void ad_tenancy_rotate_key(ad_tenancy *t, const char *id, int64_t grace_s, ad_account_done done, void *user)
{
    change *c = new_change(t, id, done, user);
    if (!c) return;
    c->grace_s = grace_s;
    enter_with(c, prepare_rotate_key, publish_rotated_key);
}

/* The row of the audit log that goes with it. */
static ad_status tell_of_key(const ad_stored_key *k, ad_stored_audit *a, ad_err *err)
{
    char detail[8 + AD_KEY_ID];
    snprintf(detail, sizeof detail, "key %s", k->id);
    *a = ad_audit_row(AD_BY_COMMAND_LINE, "key.create", AD_SHARED_TENANT, 201, detail);
    return a->peer && a->action && a->object && a->detail ? AD_OK : ad_fail(err, AD_ENOMEM, "out of memory");
}

ad_status ad_tenancy_make_admin_key(ad_tenancy *t, ad_store *store, const char *name, char text[AD_KEY_TEXT + 1], ad_err *err)
{
    ad_key_patch p = {.set_name = true, .name = name, .set_verbs = true, .verbs = ((1u << AD_VERBS) - 1) & ~(1u << AD_VERB_OPEN)};
    ad_store_change rows[2] = {{.kind = AD_DROP_KEY}, {.kind = AD_ADD_AUDIT}};
    ad_status st = ad_tenancy_need_secret(t, err);
    if (st == AD_OK) st = make_key_row(t->secret, AD_SHARED_TENANT, &p, time(NULL), &rows[0], text, err);
    if (st == AD_OK) st = tell_of_key(&rows[0].key, &rows[1].audit, err);
    if (st == AD_OK) st = ad_store_begin(store, err);
    if (st == AD_OK) st = ad_store_apply(store, rows, 2, err);
    if (st == AD_OK) st = ad_store_commit(store, err);
    for (int i = 0; i < 2; i++) ad_store_change_deinit(&rows[i]);
    return st;
}
