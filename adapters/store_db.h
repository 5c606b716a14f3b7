/* SPDX-License-Identifier: MIT */
/* Inside of the store: its SQLite database. One thread at a time. */
#ifndef AD_ADAPTERS_STORE_DB_H
#define AD_ADAPTERS_STORE_DB_H

#include "adapters/store.h"

typedef struct ad_store_db ad_store_db;

/* path NULL: in memory. vfs NULL: SQLite's default. Creates or migrates the schema; all that is in it is durable afterwards. */
AD_MUSTUSE ad_status ad_store_db_open(ad_store_db **out, const char *path, const char *vfs, ad_err *err);
void ad_store_db_close(ad_store_db **db); /* NULL is fine */

/* As in store.h. */
AD_MUSTUSE ad_status ad_store_db_read(ad_store_db *db, const ad_store_reader *reader, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_report(ad_store_db *db, const char *name, int number, char **out, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_last_revision(ad_store_db *db, int64_t *out, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_read_usage(ad_store_db *db, const ad_usage_query *q, ad_status (*row)(void *user, const ad_stored_usage *u, ad_err *err), void *user, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_read_audit(ad_store_db *db, int64_t after, int limit, ad_status (*row)(void *user, const ad_stored_audit *a, ad_err *err), void *user, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_begin(ad_store_db *db, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_apply(ad_store_db *db, const ad_store_change *changes, int n, ad_err *err);
AD_MUSTUSE ad_status ad_store_db_commit(ad_store_db *db, ad_err *err);

/* Whether no version has this digest, now and after any crash; false also when that cannot be told. Outside of begin .. commit. */
bool ad_store_db_is_unused(ad_store_db *db, const ad_digest *digest);

#endif
