/* SPDX-License-Identifier: MIT */
/* Who calls: tenants, their keys, and what a key may do. Loop thread only.
 * As long as there is no key everybody is the operator. A key's verbs and adapter globs bound what its bearer may do; its tenant bounds
 * which adapters there are for it: its own and those that belong to AD_SHARED_TENANT. Of the rest it sees nothing.
 *
 * A key is "sk-ad-" + its id, 12 hex digits + "-" + 256 random bits as 43 characters of base64url. What is kept of it is its id and its HMAC-SHA256 under a secret
 * that lies beside the database, so that neither alone lets anybody in. */
#ifndef AD_TENANCY_TENANCY_H
#define AD_TENANCY_TENANCY_H

#include "adapters/registry.h"
#include "adapters/store.h"
#include "server/tenancy/limits.h"

struct ad_store_thread;

/* What a route does, as scopes name it. A route that forgets its verb is the operator's. AD_VERB_OPEN needs no key: health. */
typedef enum { AD_VERB_ADMIN, AD_VERB_OPEN, AD_VERB_INFER, AD_VERB_LIST, AD_VERB_UPLOAD, AD_VERB_ACTIVATE, AD_VERB_DELETE, AD_VERB_MERGE, AD_VERB_METRICS, AD_VERBS } ad_verb;

const char *ad_verb_name(ad_verb verb);               /* "infer" */
bool ad_verb_parse(const char *name, ad_verb *out); /* false: there is none, or no key can have it */

#define AD_SHARED_TENANT "default" /* owns what the command line names and what is uploaded without a key; everybody sees it */

enum {
    AD_MAX_TENANTS = 10000, AD_MAX_KEYS = 100000,     /* hundreds of bytes each, in memory */
    AD_KEY_TEXT = 6 + AD_KEY_ID + 1 + 43,             /* length of a key */
    AD_KEY_NAME = 128, AD_TENANT_DESCRIPTION = 1024,  /* bytes at most */
    AD_KEY_GLOBS = 64,                                /* of one key; each at most AD_MAX_NAME bytes */
};

typedef struct {
    int id;               /* of an adapter; one that is gone is passed over */
    float scale;
} ad_default_adapter;

typedef struct {
    char name[AD_TENANT_NAME + 1]; /* [a-z0-9-], begins with a letter */
    int id;               /* of this process; small, never used again; 0: AD_SHARED_TENANT */
    double weight;        /* of its share under load; 1 */
    char *priority;       /* "interactive", "batch"; NULL: each request says, and is interactive by default */
    ad_allowance allowance; /* what it may use, and how much of that is used */
    char *description;    /* or NULL */
    int64_t created;
    int n_keys;           /* there are, live or not */
    int refs;             /* of tenancy and keys */
    ad_default_adapter defaults[AD_MAX_MIX]; /* [n_defaults] answer its requests of llama-server's routes that name nothing */
    int n_defaults;
    bool leaving;         /* it is removed, or its removal is on its way to the disk: what it calls its own is nobody's */
} ad_tenant;

typedef struct ad_key ad_key;

/* Who sent a request. What is borrowed of it lives as long as the caller is retained. */
typedef struct {
    ad_tenant *tenant;
    ad_key *key;          /* NULL: there are no keys yet, or the route needs none */
    bool is_operator;     /* sees every adapter, by its whole name: no key exists, or it is one of AD_SHARED_TENANT with verb admin */
} ad_caller;

struct ad_key {
    char id[AD_KEY_ID + 1]; /* the part of it that may be shown and logged */
    ad_caller caller;     /* whoever has it */
    char *name;           /* or NULL */
    unsigned verbs;       /* 1u << ad_verb each */
    char **globs;         /* [n_globs] of adapters, as the tenant names them */
    int n_globs;
    ad_allowance allowance;
    int64_t created, expires, last_used, revoked; /* Unix time; 0: never */
    ad_digest mac;
    int refs;             /* of tenancy and callers */
    bool unsaved;         /* last_used is newer than what is stored */
};

bool ad_key_is_live(const ad_key *k, int64_t now);

/* Both do nothing for who has no key. A caller that is retained outlives its request, its key and its tenant. */
const ad_caller *ad_caller_retain(const ad_caller *c);
void ad_caller_release(const ad_caller *c);
/* Whether it may do this to what its tenant names so (NULL: to something). */
bool ad_caller_may(const ad_caller *c, ad_verb verb, const char *name);

/* ---- all of them ---- */

typedef struct ad_tenancy ad_tenancy;

/* Reads what is stored, before the store's thread begins. AD_EFORMAT: there are keys, but the secret is gone. */
AD_MUSTUSE ad_status ad_tenancy_new(ad_tenancy **out, ad_store *store, ad_err *err);
/* From now on changes go there. Both are borrowed until ad_tenancy_stop. */
void ad_tenancy_start(ad_tenancy *t, struct ad_store_thread *store, const ad_registry *registry);
/* Writes what is not written yet, and begins nothing any more. Before the store's thread ends; NULL is fine. */
void ad_tenancy_stop(ad_tenancy *t);
void ad_tenancy_free(ad_tenancy **t); /* NULL is fine. Callers that were retained stay */

bool ad_tenancy_has_keys(const ad_tenancy *t); /* live or not: somebody has closed the door */
const ad_caller *ad_tenancy_nobody(const ad_tenancy *t); /* without a key: the operator while there are none, else one who may nothing */
/* Whose key this text is; NULL: nobody's, or that of one which has expired or was revoked. Takes as long whatever is wrong. */
const ad_caller *ad_tenancy_identify(ad_tenancy *t, const char *text);

/* How many more of `limit` places, of which `used` are taken, there are for a tenant that has `own`: see ad_fair_room. t NULL: nobody shares them. */
int ad_tenancy_room(const ad_tenancy *t, int own, int used, int limit);

ad_tenant *ad_tenancy_find_tenant(const ad_tenancy *t, const char *name); /* NULL: there is none */
ad_key *ad_tenancy_find_key(const ad_tenancy *t, const char *id);
/* In order of age; NULL behind the last. */
ad_tenant *ad_tenancy_tenant(const ad_tenancy *t, size_t i);
ad_key *ad_tenancy_key(const ad_tenancy *t, size_t i);
/* The position behind it; SIZE_MAX: there is none. */
size_t ad_tenancy_behind_tenant(const ad_tenancy *t, const char *name);
size_t ad_tenancy_behind_key(const ad_tenancy *t, const char *id);

#endif
