/* SPDX-License-Identifier: MIT */
/* What the files of server/tenancy share. Loop thread. */
#ifndef AD_TENANCY_PRIVATE_H
#define AD_TENANCY_PRIVATE_H

#include <jansson.h>
#include <uv.h>

#include "core/base/list.h"
#include "server/store_thread.h"
#include "server/tenancy/secret.h"
#include "server/tenancy/table.h"

struct ad_tenancy {
    ad_tenant **tenants;  /* [n_tenants] by age */
    size_t n_tenants, cap_tenants;
    int next_tenant_id;
    ad_key **keys;        /* [n_keys] by age */
    size_t n_keys, cap_keys;
    ad_table tenants_by_name, keys_by_id;
    uint8_t secret[AD_KEY_SECRET];
    bool has_secret;
    const char *dir;      /* of the secret; NULL: in memory */
    ad_digest decoy;      /* what texts that are no key are compared with */
    ad_caller anybody, nobody; /* without a key: before there is one, and afterwards */
    ad_store_thread *store; /* NULL: not started, or stopped */
    const ad_registry *registry;
    int64_t saved_uses;   /* when last_used was written, Unix time */
    size_t n_unsaved;     /* keys */
    size_t uses_to_save;  /* of them, slice by slice; 0: nothing is being saved, or the last slice is */
    size_t use_at;        /* position in keys where the next slice begins to look */
    ad_list waiting;      /* changes; one runs at a time */
    int n_waiting;
    struct ad_account_change *running; /* its rows are on their way to the disk; or NULL */
};

AD_MUSTUSE ad_status ad_tenancy_need_secret(ad_tenancy *t, ad_err *err);

/* From rows, with one reference; a tenant has no id yet. AD_EFORMAT: the row is damaged. */
AD_MUSTUSE ad_status ad_tenant_new(ad_tenant **out, const ad_stored_tenant *s, ad_err *err);
AD_MUSTUSE ad_status ad_key_new(ad_key **out, const ad_stored_key *s, ad_tenant *tenant, ad_err *err);
void ad_tenant_release(ad_tenant *t);
void ad_key_release(ad_key *k);
char *ad_verbs_text(unsigned verbs); /* as they are stored, the caller owns it; NULL: out of memory */
bool ad_limits_text(char **out, const ad_limits *l); /* the same; NULL where there are none. False: out of memory */
/* Rows as they are stored, with strings of their own; false: out of memory. */
bool ad_row_of_tenant(const ad_tenant *t, ad_store_change *out);
bool ad_row_of_key(const ad_key *k, ad_store_change *out);
bool ad_key_may(const ad_key *k, ad_verb verb, const char *name);

AD_MUSTUSE ad_status ad_tenancy_make_room(ad_tenancy *t); /* for one more tenant and one more key */
/* Into the tables, which take them and must have room, or out of them. */
void ad_tenancy_insert_tenant(ad_tenancy *t, ad_tenant *tenant);
void ad_tenancy_insert_key(ad_tenancy *t, ad_key *k);
void ad_tenancy_remove_tenant(ad_tenancy *t, ad_tenant *tenant); /* and its keys */
void ad_tenancy_remove_key(ad_tenancy *t, ad_key *k);

#endif
