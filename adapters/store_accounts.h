/* SPDX-License-Identifier: MIT */
/* Inside of the store: the tables of tenants, keys, usage and the audit log. One thread at a time. */
#ifndef AD_ADAPTERS_STORE_ACCOUNTS_H
#define AD_ADAPTERS_STORE_ACCOUNTS_H

#include "adapters/store_sql.h"

extern const char ad_store_accounts_schema[]; /* the migration that makes them; tenant "default" is there from the beginning */

enum { AD_ACCOUNT_STATEMENTS = 12 };
typedef struct {
    sqlite3_stmt *statements[AD_ACCOUNT_STATEMENTS];
} ad_store_accounts;

AD_MUSTUSE ad_status ad_store_accounts_prepare(ad_store_accounts *a, const ad_sql *db, ad_err *err);
void ad_store_accounts_finalize(ad_store_accounts *a);

/* The reader's tenant and key. */
AD_MUSTUSE ad_status ad_store_accounts_read(ad_store_accounts *a, const ad_sql *db, const ad_store_reader *r, ad_err *err);
AD_MUSTUSE ad_status ad_store_accounts_usage(ad_store_accounts *a, const ad_sql *db, const ad_usage_query *q, ad_status (*row)(void *, const ad_stored_usage *, ad_err *), void *user, ad_err *err);
AD_MUSTUSE ad_status ad_store_accounts_audit(ad_store_accounts *a, const ad_sql *db, int64_t after, int limit, ad_status (*row)(void *, const ad_stored_audit *, ad_err *), void *user, ad_err *err);
/* A change of one of these tables. */
AD_MUSTUSE ad_status ad_store_accounts_apply(ad_store_accounts *a, const ad_sql *db, const ad_store_change *c, ad_err *err);

#endif
