/* SPDX-License-Identifier: MIT */
#include "adapters/store_sql.h"

#include <string.h>

#include "core/base/file.h"

/* SQLite knows ENOSPC as SQLITE_FULL; a quota or a limit it takes for a broken disk, and of a failed commit sqlite3_system_errno says nothing. */
static int last_errno(sqlite3 *h)
{
    sqlite3_file *log = NULL;
    int error = 0;
    sqlite3_file_control(h, "main", SQLITE_FCNTL_JOURNAL_POINTER, &log);
    if (log && log->pMethods) log->pMethods->xFileControl(log, SQLITE_FCNTL_LAST_ERRNO, &error);
    if (!error) sqlite3_file_control(h, "main", SQLITE_FCNTL_LAST_ERRNO, &error);
    return error ? error : sqlite3_system_errno(h);
}

static ad_status status_of(sqlite3 *h)
{
    switch (sqlite3_errcode(h) & 0xFF) {
    case SQLITE_FULL: return AD_EFULL;
    case SQLITE_NOMEM: return AD_ENOMEM;
    case SQLITE_TOOBIG: return AD_ELIMIT;
    case SQLITE_CONSTRAINT: case SQLITE_MISMATCH: return AD_EINVAL;
    case SQLITE_CORRUPT: case SQLITE_NOTADB: return AD_EFORMAT;
    case SQLITE_BUSY: case SQLITE_LOCKED: return AD_EBUSY;
    case SQLITE_IOERR: case SQLITE_CANTOPEN: return ad_errno_status(last_errno(h));
    default: return AD_EIO;
    }
}

ad_status ad_sql_fail(const ad_sql *db, ad_err *err)
{
    ad_status st = status_of(db->handle);
    const char *why = sqlite3_errmsg(db->handle);
    if (st == AD_EFULL) return ad_fail(err, st, "%s: the disk, or a quota of it, is full (%s)", db->label, why);
    if (st == AD_EFORMAT) return ad_fail(err, st, "%s is damaged (%s); restore the state directory from a backup, or begin with another one", db->label, why);
    return ad_fail(err, st, "%s: %s", db->label, why);
}

ad_status ad_sql_fail_row(const ad_sql *db, const char *table, ad_err *err)
{
    return ad_fail(err, AD_EFORMAT, "%s is damaged (a row of %s is not ours); restore the state directory from a backup, or begin with another one", db->label, table);
}

void ad_sql_reset(sqlite3_stmt *q)
{
    sqlite3_reset(q);
    sqlite3_clear_bindings(q);
}

ad_status ad_sql_run(const ad_sql *db, sqlite3_stmt *q, bool *found, ad_err *err)
{
    int rc = sqlite3_step(q);
    ad_status st = rc == SQLITE_DONE || rc == SQLITE_ROW ? AD_OK : ad_sql_fail(db, err);
    if (st == AD_OK && found) *found = rc == SQLITE_ROW;
    ad_sql_reset(q);
    return st;
}

ad_status ad_sql_prepare(const ad_sql *db, const char *const *sql, int n, sqlite3_stmt **out, ad_err *err)
{
    for (int i = 0; i < n; i++)
        if (sqlite3_prepare_v3(db->handle, sql[i], -1, SQLITE_PREPARE_PERSISTENT, &out[i], NULL) != SQLITE_OK) return ad_sql_fail(db, err);
    return AD_OK;
}

void ad_sql_bind_text(sqlite3_stmt *q, int at, const char *s) { sqlite3_bind_text(q, at, s, -1, SQLITE_STATIC); }
void ad_sql_bind_digest(sqlite3_stmt *q, int at, const ad_digest *d) { sqlite3_bind_blob(q, at, d->bytes, sizeof d->bytes, SQLITE_STATIC); }

bool ad_sql_digest(ad_digest *d, sqlite3_stmt *q, int at)
{
    const void *p = sqlite3_column_blob(q, at);
    if (!p || sqlite3_column_bytes(q, at) != sizeof d->bytes) return false;
    memcpy(d->bytes, p, sizeof d->bytes);
    return true;
}

bool ad_sql_text(sqlite3_stmt *q, int at, char *to, size_t size)
{
    const char *s = (const char *)sqlite3_column_text(q, at);
    size_t len = s ? strlen(s) : size;
    if (len >= size) return false;
    memcpy(to, s, len + 1);
    return true;
}

char *ad_sql_borrow(sqlite3_stmt *q, int at) { return (char *)sqlite3_column_text(q, at); }
