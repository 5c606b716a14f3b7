/* SPDX-License-Identifier: MIT */
/* Names in a hash table and an array in order; versions under their name; residents in a list by use. Loop thread only. */
#include "adapters/registry.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"

enum { DIGEST_DIGITS = 12 /* of a digest that name a version */, TEMPLATES = 256 };

typedef struct ad_shared_template ad_shared_template;
struct ad_shared_template {
    ad_chat_template *chat;
    int refs;            /* versions */
    ad_shared_template *next;
};

struct ad_registry {
    size_t budget;
    void (*gone)(void *user, ad_version *v);
    void *user;
    ad_entry **sorted;   /* [n] by name */
    size_t n, cap;
    ad_entry **by_id;    /* [n_by_id] the adapters, ids ascending */
    size_t n_by_id, cap_by_id;
    int next_id;
    ad_entry **buckets;  /* [n_buckets] chains; a power of two */
    size_t n_buckets;
    ad_version *freshest, *stalest;
    ad_shared_template *templates[TEMPLATES]; /* chains by hash of the text */
    ad_registry_stats stats;
};

/* ---- names ---- */

static size_t hash_name(const char *name)
{
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
    for (; *name; name++) h = (h ^ (unsigned char)*name) * 0x100000001b3u;
    return (size_t)(h ^ h >> 32);
}

ad_status ad_registry_check_name(const char *name, ad_err *err)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    size_t n = strlen(name);
    bool good = n >= 1 && n <= AD_MAX_NAME;
    for (const char *part = name; good; part++) {
        size_t len = strspn(part, allowed);
        good = len && !(len == 1 && part[0] == '.') && !(len == 2 && part[0] == '.' && part[1] == '.');
        part += len;
        if (good && !*part) return AD_OK;
        good = good && *part == '/';
    }
    return ad_fail(err, AD_EINVAL, "adapter name \"%.140s\" is not 1 to %d letters, digits and ._:- in parts separated by /", name, AD_MAX_NAME);
}

static ad_entry **bucket_of(const ad_registry *reg, const char *name)
{
    return &reg->buckets[hash_name(name) & (reg->n_buckets - 1)];
}

static ad_status grow_buckets(ad_registry *reg, size_t want)
{
    if (want <= reg->n_buckets) return AD_OK;
    ad_entry **more = ad_calloc(reg->n_buckets * 2, sizeof *more);
    if (!more) return AD_ENOMEM;
    free(reg->buckets);
    reg->buckets = more;
    reg->n_buckets *= 2;
    for (size_t i = 0; i < reg->n; i++) {
        ad_entry **head = bucket_of(reg, reg->sorted[i]->name);
        reg->sorted[i]->chain = *head;
        *head = reg->sorted[i];
    }
    return AD_OK;
}

ad_status ad_registry_new(ad_registry **out, size_t budget, void (*gone)(void *user, ad_version *v), void *user, ad_err *err)
{
    ad_registry *reg = ad_calloc(1, sizeof *reg);
    if (reg) *reg = (ad_registry){.budget = budget, .gone = gone, .user = user, .n_buckets = 64, .buckets = ad_calloc(64, sizeof(ad_entry *))};
    if (!reg || !reg->buckets) {
        free(reg);
        return ad_fail(err, AD_ENOMEM, "out of memory for the adapter registry");
    }
    *out = reg;
    return AD_OK;
}

ad_entry *ad_registry_find(const ad_registry *reg, const char *name)
{
    ad_entry *e = *bucket_of(reg, name);
    while (e && strcmp(e->name, name)) e = e->chain;
    return e;
}

size_t ad_registry_count(const ad_registry *reg) { return reg->n; }
ad_entry *ad_registry_at(const ad_registry *reg, size_t i) { return reg->sorted[i]; }
size_t ad_registry_adapters(const ad_registry *reg) { return reg->n_by_id; }
ad_entry *ad_registry_at_id(const ad_registry *reg, size_t i) { return reg->by_id[i]; }

/* Of the first adapter whose id is not below `id`. */
static size_t id_position(const ad_registry *reg, int id)
{
    size_t low = 0, high = reg->n_by_id;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (reg->by_id[mid]->id < id) low = mid + 1;
        else high = mid;
    }
    return low;
}

ad_entry *ad_registry_by_id(const ad_registry *reg, int id)
{
    size_t at = id_position(reg, id);
    return at < reg->n_by_id && reg->by_id[at]->id == id ? reg->by_id[at] : NULL;
}

static int compare_age(const void *a, const void *b)
{
    const ad_entry *x = *(ad_entry *const *)a, *y = *(ad_entry *const *)b;
    return x->created != y->created ? (x->created > y->created) - (x->created < y->created) : strcmp(x->name, y->name);
}

void ad_registry_number_by_age(ad_registry *reg)
{
    if (reg->n_by_id) qsort(reg->by_id, reg->n_by_id, sizeof *reg->by_id, compare_age);
    for (size_t i = 0; i < reg->n_by_id; i++) reg->by_id[i]->id = (int)i;
    reg->next_id = (int)reg->n_by_id;
}

size_t ad_registry_position(const ad_registry *reg, const char *name)
{
    size_t low = 0, high = reg->n;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (strcmp(reg->sorted[mid]->name, name) < 0) low = mid + 1;
        else high = mid;
    }
    return low;
}

void ad_targets_free(ad_target *targets, int n)
{
    for (int i = 0; i < n; i++) free(targets[i].model);
    free(targets);
}

static void entry_free(ad_entry *e)
{
    ad_targets_free(e->targets, e->n_targets);
    free(e->versions);
    free(e->description);
    free(e->labels);
    free(e->name);
    free(e);
}

static ad_status add_name(ad_registry *reg, const char *name, ad_origin origin, ad_entry **out, ad_err *err)
{
    ad_status st = ad_registry_check_name(name, err);
    if (st != AD_OK) return st;
    if (ad_registry_find(reg, name)) return ad_fail(err, AD_EEXIST, "an adapter or alias named \"%s\" is there already", name);
    ad_entry *e = ad_calloc(1, sizeof *e);
    if (e) e->name = strdup(name);
    if (!e || !e->name || ad_grow(&reg->sorted, &reg->cap, reg->n + 1, sizeof *reg->sorted) != AD_OK || grow_buckets(reg, reg->n + 1) != AD_OK) {
        if (e) entry_free(e);
        return ad_fail(err, AD_ENOMEM, "out of memory for adapter \"%s\"", name);
    }
    e->origin = origin;
    e->next_number = 1;
    size_t at = ad_registry_position(reg, name);
    memmove(reg->sorted + at + 1, reg->sorted + at, (reg->n++ - at) * sizeof *reg->sorted);
    reg->sorted[at] = e;
    ad_entry **head = bucket_of(reg, name);
    e->chain = *head;
    *head = e;
    *out = e;
    return AD_OK;
}

ad_status ad_registry_add(ad_registry *reg, const char *name, ad_origin origin, ad_entry **out, ad_err *err)
{
    ad_entry *e = NULL;
    if (ad_grow(&reg->by_id, &reg->cap_by_id, reg->n_by_id + 1, sizeof *reg->by_id) != AD_OK) return ad_fail(err, AD_ENOMEM, "out of memory for adapter \"%.140s\"", name);
    ad_status st = add_name(reg, name, origin, &e, err);
    if (st != AD_OK) return st;
    e->id = reg->next_id++;
    reg->by_id[reg->n_by_id++] = e;
    if (out) *out = e;
    return AD_OK;
}

static void remove_id(ad_registry *reg, const ad_entry *e)
{
    size_t at = id_position(reg, e->id);
    memmove(reg->by_id + at, reg->by_id + at + 1, (--reg->n_by_id - at) * sizeof *reg->by_id);
}

void ad_registry_remove(ad_registry *reg, ad_entry *e)
{
    while (e->n_versions) ad_registry_retire(e->versions[e->n_versions - 1]);
    size_t at = ad_registry_position(reg, e->name);
    memmove(reg->sorted + at, reg->sorted + at + 1, (--reg->n - at) * sizeof *reg->sorted);
    if (e->id >= 0) remove_id(reg, e);
    ad_entry **link = bucket_of(reg, e->name);
    while (*link != e) link = &(*link)->chain;
    *link = e->chain;
    entry_free(e);
}

ad_status ad_registry_set_alias(ad_registry *reg, const char *name, ad_target *targets, int n, ad_entry **out, ad_err *err)
{
    ad_entry *e = ad_registry_find(reg, name);
    if (e && !e->n_targets) return ad_fail(err, AD_EEXIST, "\"%s\" is the name of an adapter", name);
    if (!e) {
        ad_status st = add_name(reg, name, AD_ORIGIN_STORE, &e, err);
        if (st != AD_OK) return st;
        e->id = -1;
    }
    ad_targets_free(e->targets, e->n_targets);
    e->targets = targets;
    e->n_targets = n;
    if (out) *out = e;
    return AD_OK;
}

/* ---- residents ---- */

static void unlink_resident(ad_version *v)
{
    ad_registry *reg = v->registry;
    if (v->fresher) v->fresher->staler = v->staler;
    else reg->freshest = v->staler;
    if (v->staler) v->staler->fresher = v->fresher;
    else reg->stalest = v->fresher;
    v->fresher = v->staler = NULL;
}

static void link_freshest(ad_version *v)
{
    ad_registry *reg = v->registry;
    v->fresher = NULL;
    v->staler = reg->freshest;
    if (reg->freshest) reg->freshest->fresher = v;
    else reg->stalest = v;
    reg->freshest = v;
}

void ad_registry_set_adapter(ad_version *v, ad_adapter *a)
{
    assert(!v->adapter);
    v->adapter = a;
    v->drop_when_idle = false;
    v->bytes_packed = ad_adapter_packed_bytes(a);
    v->registry->stats.resident_bytes += v->bytes_packed;
    v->registry->stats.residents++;
    link_freshest(v);
}

void ad_registry_drop_adapter(ad_version *v)
{
    assert(v->adapter && !v->leases);
    v->registry->stats.resident_bytes -= v->bytes_packed;
    v->registry->stats.residents--;
    unlink_resident(v);
    ad_adapter_release(&v->adapter);
}

void ad_registry_touch(ad_version *v, int64_t now)
{
    v->last_used = now;
    if (!v->adapter) return;
    unlink_resident(v);
    link_freshest(v);
}

static bool may_go(const ad_version *v)
{
    return !v->leases && !(v->entry && v->entry->pinned && v->entry->active == v);
}

static bool has_room(const ad_registry *reg, size_t bytes)
{
    size_t used = reg->stats.resident_bytes + reg->stats.reserved_bytes;
    return !reg->budget || (used <= reg->budget && bytes <= reg->budget - used);
}

bool ad_registry_make_room(ad_registry *reg, size_t bytes)
{
    for (ad_version *v = reg->stalest, *next; v && !has_room(reg, bytes); v = next) {
        next = v->fresher;
        if (!may_go(v)) continue;
        ad_registry_drop_adapter(v);
        reg->stats.evictions++;
    }
    return has_room(reg, bytes);
}

bool ad_registry_could_fit(const ad_registry *reg, size_t bytes)
{
    size_t pinned = 0;
    for (const ad_version *v = reg->stalest; v; v = v->fresher)
        if (v->entry && v->entry->pinned && v->entry->active == v) pinned += v->bytes_packed;
    return !reg->budget || (pinned <= reg->budget && bytes <= reg->budget - pinned);
}

bool ad_registry_shrink(ad_registry *reg, bool (*among)(void *user, const ad_version *v), void *user, size_t most)
{
    size_t bytes = 0;
    for (const ad_version *v = reg->stalest; v; v = v->fresher) bytes += among(user, v) ? v->bytes_packed : 0;
    for (ad_version *v = reg->stalest, *next; v && bytes > most; v = next) {
        next = v->fresher;
        if (!may_go(v) || !among(user, v)) continue;
        bytes -= v->bytes_packed;
        ad_registry_drop_adapter(v);
        reg->stats.evictions++;
    }
    return bytes <= most;
}

void ad_registry_reserve(ad_registry *reg, size_t bytes) { reg->stats.reserved_bytes += bytes; }
void ad_registry_unreserve(ad_registry *reg, size_t bytes) { reg->stats.reserved_bytes -= bytes; }

void ad_registry_get_stats(const ad_registry *reg, ad_registry_stats *out)
{
    *out = reg->stats;
    out->budget = reg->budget;
}

/* ---- chat templates ---- */

static ad_shared_template **chain_of(ad_registry *reg, const char *text) { return &reg->templates[hash_name(text) % TEMPLATES]; }

static ad_shared_template *find_template(ad_registry *reg, const char *text)
{
    ad_shared_template *t = *chain_of(reg, text);
    while (t && strcmp(ad_chat_template_source(t->chat), text)) t = t->next;
    return t;
}

static void drop_template(ad_version *v)
{
    ad_shared_template *t = v->chat;
    v->chat = NULL;
    v->chat_template = NULL;
    if (!t || --t->refs > 0) return;
    ad_shared_template **link = chain_of(v->registry, ad_chat_template_source(t->chat));
    while (*link != t) link = &(*link)->next;
    *link = t->next;
    ad_chat_template_free(&t->chat);
    free(t);
}

static void share_template(ad_version *v, ad_shared_template *t)
{
    t->refs++;
    v->chat = t;
    v->chat_template = ad_chat_template_source(t->chat);
}

ad_status ad_registry_set_template(ad_version *v, ad_chat_template **tp, ad_err *err)
{
    ad_chat_template *chat = *tp;
    *tp = NULL;
    drop_template(v);
    if (!chat) return AD_OK;
    ad_shared_template *t = find_template(v->registry, ad_chat_template_source(chat)), *fresh = t ? NULL : ad_calloc(1, sizeof *fresh);
    if (fresh) {
        ad_shared_template **head = chain_of(v->registry, ad_chat_template_source(chat));
        *fresh = (ad_shared_template){.chat = chat, .next = *head};
        *head = t = fresh;
    } else {
        ad_chat_template_free(&chat);
    }
    if (!t) return ad_fail(err, AD_ENOMEM, "out of memory for a chat template");
    share_template(v, t);
    return AD_OK;
}

ad_status ad_registry_set_template_text(ad_version *v, const char *text, ad_err *err)
{
    ad_chat_template *chat = NULL;
    ad_shared_template *t = find_template(v->registry, text);
    if (t && t != v->chat) {
        drop_template(v);
        share_template(v, t);
    }
    if (t) return AD_OK;
    ad_status st = ad_chat_template_new(&chat, text, strlen(text), "chat template", err);
    return st == AD_OK ? ad_registry_set_template(v, &chat, err) : st;
}

const ad_chat_template *ad_version_chat_template(const ad_version *v) { return v->chat ? v->chat->chat : NULL; }

/* ---- versions ---- */

static void version_free(ad_version *v)
{
    drop_template(v);
    free(v->source);
    free(v->selftest);
    free(v->dir);
    free(v->reason);
    free(v);
}

/* Off its name and without leases: the end. */
static void end_version(ad_version *v)
{
    if (v->adapter) ad_registry_drop_adapter(v);
    if (v->registry->gone) v->registry->gone(v->registry->user, v);
    version_free(v);
}

void ad_registry_free(ad_registry **rp)
{
    ad_registry *reg = *rp;
    if (!reg) return;
    *rp = NULL;
    reg->gone = NULL;
    while (reg->n) ad_registry_remove(reg, reg->sorted[reg->n - 1]);
    free(reg->sorted);
    free(reg->by_id);
    free(reg->buckets);
    free(reg);
}

ad_status ad_registry_add_version(ad_registry *reg, ad_entry *e, int number, const ad_digest *digest, ad_version **out, ad_err *err)
{
    if (!number) number = e->next_number;
    assert(!e->n_versions || e->versions[e->n_versions - 1]->number < number);
    ad_version *v = ad_calloc(1, sizeof *v);
    if (!v || ad_grow(&e->versions, &e->cap_versions, e->n_versions + 1, sizeof *e->versions) != AD_OK) {
        free(v);
        return ad_fail(err, AD_ENOMEM, "out of memory for adapter \"%s\"", e->name);
    }
    *v = (ad_version){.registry = reg, .entry = e, .number = number, .digest = *digest, .trusted = true};
    e->versions[e->n_versions++] = v;
    if (e->next_number <= number) e->next_number = number + 1;
    *out = v;
    return AD_OK;
}

ad_version *ad_entry_version(const ad_entry *e, int number)
{
    for (size_t i = 0; i < e->n_versions; i++)
        if (e->versions[i]->number == number) return e->versions[i]->pending ? NULL : e->versions[i];
    return NULL;
}

ad_version *ad_entry_shown(const ad_entry *e)
{
    return e->active ? e->active : e->n_versions ? e->versions[e->n_versions - 1] : NULL;
}

ad_version *ad_entry_select(const ad_entry *e, const char *selector)
{
    size_t n = strlen(selector);
    char hex[65];
    if (n && n < DIGEST_DIGITS && strspn(selector, "0123456789") == n) return n < 10 ? ad_entry_version(e, atoi(selector)) : NULL;
    if (n < DIGEST_DIGITS || n > 64) return NULL;
    for (size_t i = e->n_versions; i-- > 0;) {
        ad_digest_hex(&e->versions[i]->digest, hex);
        if (!e->versions[i]->pending && !strncasecmp(hex, selector, n)) return e->versions[i];
    }
    return NULL;
}

/* Gives memory back that nothing asks for any longer. */
static void drop_if_idle(ad_version *v)
{
    if (v->drop_when_idle && v->adapter && !v->leases) ad_registry_drop_adapter(v);
}

void ad_registry_activate(ad_entry *e, ad_version *v)
{
    ad_version *old = e->active;
    if (old == v) return;
    if (old) e->previous = old->number;
    e->active = v;
    if (v) v->drop_when_idle = false;
    if (!old) return;
    old->drop_when_idle = true;
    drop_if_idle(old);
}

void ad_registry_retire(ad_version *v)
{
    ad_entry *e = v->entry;
    size_t at = 0;
    while (e->versions[at] != v) at++;
    memmove(e->versions + at, e->versions + at + 1, (--e->n_versions - at) * sizeof(ad_version *));
    if (e->active == v) e->active = NULL;
    if (e->previous == v->number) e->previous = 0;
    v->entry = NULL;
    if (v->leases) v->registry->stats.retired++;
    else end_version(v);
}

/* Whether an alias names this version: NAME@NUMBER or NAME@DIGEST. (NAME alone means the active one.) */
static bool is_target(const ad_registry *reg, const ad_version *v)
{
    size_t len = strlen(v->entry->name);
    for (size_t i = 0; reg->n > reg->n_by_id && i < reg->n; i++)
        for (int t = 0; t < reg->sorted[i]->n_targets; t++) {
            const char *model = reg->sorted[i]->targets[t].model;
            if (!strncmp(model, v->entry->name, len) && model[len] == '@' && ad_entry_select(v->entry, model + len + 1) == v) return true;
        }
    return false;
}

bool ad_registry_is_surplus(const ad_version *v)
{
    const ad_entry *e = v->entry;
    size_t newer = 0;
    if (!e || v->pending || v == e->active || v->number == e->previous || v->leases) return false;
    for (size_t i = 0; i < e->n_versions; i++) newer += e->versions[i]->number > v->number;
    return newer >= AD_KEPT_VERSIONS && !is_target(v->registry, v);
}

ad_version_state ad_version_get_state(const ad_version *v)
{
    if (!v->entry) return v->leases ? AD_VERSION_DRAINING : AD_VERSION_GONE;
    if (v->failed) return AD_VERSION_FAILED;
    if (!v->checked || v->pending) return AD_VERSION_VERIFYING;
    if (!v->fits) return AD_VERSION_INCOMPATIBLE;
    if (v->entry->draining) return AD_VERSION_DRAINING;
    return v->entry->active == v ? AD_VERSION_READY : AD_VERSION_STAGED;
}

const char *ad_version_state_name(ad_version_state state)
{
    static const char *const names[] = {"verifying", "staged", "ready", "draining", "gone", "incompatible", "failed"};
    return names[state];
}

/* ---- leases ---- */

static const char *draw(const ad_entry *alias, uint64_t hash)
{
    int total = 0, i = 0;
    for (int t = 0; t < alias->n_targets; t++) total += alias->targets[t].weight;
    int at = (int)(hash % (uint64_t)total);
    while (at >= alias->targets[i].weight) at -= alias->targets[i++].weight;
    return alias->targets[i].model;
}

static ad_status unknown(const char *model, ad_err *err)
{
    return ad_fail(err, AD_ENOTFOUND, "The model `%.150s` does not exist.", model);
}

ad_status ad_registry_resolve(const ad_registry *reg, const char *model, uint64_t hash, ad_version **out, ad_err *err)
{
    const ad_entry *e = ad_registry_find(reg, model);
    if (e && e->n_targets) model = draw(e, hash);
    const char *at = strrchr(model, '@');
    char name[AD_MAX_NAME + 1];
    size_t len = at ? (size_t)(at - model) : strlen(model);
    if (len > AD_MAX_NAME) return unknown(model, err);
    memcpy(name, model, len);
    name[len] = '\0';
    e = ad_registry_find(reg, name);
    if (!e || e->n_targets) return unknown(model, err);
    if (e->draining) return ad_fail(err, AD_ENOTFOUND, "The adapter `%s` is being removed.", name);
    ad_version *v = at ? ad_entry_select(e, at + 1) : e->active;
    if (!v && at) return ad_fail(err, AD_ENOTFOUND, "The adapter `%s` has no version `%.80s`.", name, at + 1);
    if (!v) return ad_fail(err, AD_ENOTFOUND, "The adapter `%s` has no active version: activate one, or name it as %s@NUMBER.", name, name);
    if (v->quarantined) return ad_fail(err, AD_EMISMATCH, "The adapter `%s` cannot be used: %.300s", name, v->reason ? v->reason : "its files are bad");
    if (v->checked && !v->fits) return ad_fail(err, AD_EMISMATCH, "The adapter `%s` does not fit the base model: %.300s", name, v->reason ? v->reason : "it was made for another");
    if (!v->trusted) return ad_fail(err, AD_EUNTRUSTED, "The adapter `%s` has no signature of a trusted key, which this server requires.", name);
    *out = v;
    return AD_OK;
}

ad_version *ad_version_lease(ad_version *v)
{
    v->leases++;
    return v;
}

void ad_version_release(ad_version **vp)
{
    ad_version *v = *vp;
    *vp = NULL;
    if (!v || --v->leases > 0) return;
    if (v->entry) {
        drop_if_idle(v);
        return;
    }
    v->registry->stats.retired--;
    end_version(v);
}

int ad_entry_leases(const ad_entry *e)
{
    int n = 0;
    for (size_t i = 0; i < e->n_versions; i++) n += e->versions[i]->leases;
    return n;
}
