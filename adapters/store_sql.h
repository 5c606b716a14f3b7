/* SPDX-License-Identifier: MIT */
/* Inside of the store: what the files that speak SQL share. One thread at a time. */
#ifndef AD_ADAPTERS_STORE_SQL_H
#define AD_ADAPTERS_STORE_SQL_H

#include <sqlite3.h>

#include "adapters/store.h"

typedef struct {
    sqlite3 *handle;
    char *label; /* path, for messages */
} ad_sql;

/* What SQLite's last error was. */
ad_status ad_sql_fail(const ad_sql *db, ad_err *err);
ad_status ad_sql_fail_row(const ad_sql *db, const char *table, ad_err *err); /* AD_EFORMAT: a row is none that we write */
/* Runs a statement that was bound before, and resets it; *found says whether it gave a row (NULL: it gives none). */
AD_MUSTUSE ad_status ad_sql_run(const ad_sql *db, sqlite3_stmt *q, bool *found, ad_err *err);
void ad_sql_reset(sqlite3_stmt *q);
AD_MUSTUSE ad_status ad_sql_prepare(const ad_sql *db, const char *const *sql, int n, sqlite3_stmt **out, ad_err *err); /* out[n]; finalize them all whatever the status */

/* Parameters count from 1; what is bound is borrowed until the statement is reset. NULL is NULL. */
void ad_sql_bind_text(sqlite3_stmt *q, int at, const char *s);
void ad_sql_bind_digest(sqlite3_stmt *q, int at, const ad_digest *d);

/* Columns count from 0. False: it is no digest; no text, or longer than size - 1. */
bool ad_sql_digest(ad_digest *d, sqlite3_stmt *q, int at);
bool ad_sql_text(sqlite3_stmt *q, int at, char *to, size_t size);
char *ad_sql_borrow(sqlite3_stmt *q, int at); /* until the next step; or NULL */

#endif
