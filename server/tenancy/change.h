/* SPDX-License-Identifier: MIT */
/* Changes of tenants and keys: one after another, durable first, visible second. Loop thread. */
#ifndef AD_TENANCY_CHANGE_H
#define AD_TENANCY_CHANGE_H

#include "server/tenancy/tenancy.h"

/* What came of a change. Borrowed for the call. */
typedef struct {
    ad_status status;
    ad_err err;               /* when status is not AD_OK */
    const char *code;         /* OpenAI-style, or NULL */
    int http;                 /* 0: by status */
    const ad_tenant *tenant;  /* as it is now; NULL: it is gone, or this was about a key */
    const ad_key *key;
    const char *text;         /* of a key that was made: nobody will see it again */
    const char *replaces;     /* id of the key that this one takes the place of, or NULL */
} ad_account_outcome;
typedef void (*ad_account_done)(void *user, const ad_account_outcome *o);

/* What a change sets; strings are NULL where it sets them to nothing. */
typedef struct {
    bool set_weight, set_priority, set_limits, set_description;
    double weight;
    const char *priority, *description;
    ad_limits limits;
} ad_tenant_patch;

typedef struct {
    bool set_name, set_verbs, set_globs, set_limits, set_expires, revoke;
    const char *name;
    unsigned verbs;           /* 1u << ad_verb each */
    const char *globs;        /* JSON array of strings, each a glob of at most AD_MAX_NAME bytes */
    ad_limits limits;
    int64_t expires;          /* 0: never */
    bool force;               /* also when nobody can administer afterwards */
} ad_key_patch;

/* Each copies what it is given and calls done once, what is refused at once before it returns: AD_ENOTFOUND, AD_EEXIST (http 409) for what the state of things does not allow,
 * AD_EINVAL, AD_EBUSY, and what the store says. */
void ad_tenancy_create_tenant(ad_tenancy *t, const char *name, const ad_tenant_patch *p, ad_account_done done, void *user);
void ad_tenancy_patch_tenant(ad_tenancy *t, const char *name, const ad_tenant_patch *p, ad_account_done done, void *user);
void ad_tenancy_drop_tenant(ad_tenancy *t, const char *name, ad_account_done done, void *user); /* with its keys, none of which may be live; and it may own nothing */
/* What is not set: verbs infer and list, all adapters, no limits, no expiry. */
void ad_tenancy_create_key(ad_tenancy *t, const char *tenant, const ad_key_patch *p, ad_account_done done, void *user);
void ad_tenancy_patch_key(ad_tenancy *t, const char *id, const ad_key_patch *p, ad_account_done done, void *user);
/* The very last key is only revoked: a door once closed stays closed. */
void ad_tenancy_drop_key(ad_tenancy *t, const char *id, bool force, ad_account_done done, void *user);
/* A new key that may do the same; the old one ends after grace_s seconds. The new one expires as long after now as the old one did after its making. */
void ad_tenancy_rotate_key(ad_tenancy *t, const char *id, int64_t grace_s, ad_account_done done, void *user);

/* Without a store's thread: a key of AD_SHARED_TENANT that may do everything, durable when it returns. name may be NULL. */
AD_MUSTUSE ad_status ad_tenancy_make_admin_key(ad_tenancy *t, ad_store *store, const char *name, char text[AD_KEY_TEXT + 1], ad_err *err);

/* 1 to AD_TENANT_NAME of a-z, 0-9 and -, beginning with a letter. */
AD_MUSTUSE ad_status ad_tenant_check_name(const char *name, ad_err *err);

#endif
