/* SPDX-License-Identifier: MIT */
/* Rows as SQLite keeps them. WAL with synchronous=FULL: a commit is one append and one fsync. locking_mode=EXCLUSIVE, since the
 * directory belongs to one daemon: the index of the WAL is in our memory and not in a shared file. */
#include "adapters/store_db.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "adapters/store_accounts.h"
#include "core/base/file.h"
#include "core/base/mem.h"

/* migrations[i] makes schema i + 1 of schema i. Steps that were released are never changed. */
static const char *const migrations[] = {
    "CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
    "INSERT INTO counter VALUES('revision', 0), ('settled', 0);"
    "CREATE TABLE adapter(name TEXT PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL, active INTEGER NOT NULL,"
    "  previous INTEGER NOT NULL, next_number INTEGER NOT NULL, pinned INTEGER NOT NULL, description TEXT, labels TEXT) STRICT, WITHOUT ROWID;"
    "CREATE TABLE version(name TEXT NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL, base BLOB NOT NULL, fits INTEGER NOT NULL,"
    "  reason TEXT, created INTEGER NOT NULL, bytes_disk INTEGER NOT NULL, bytes_packed INTEGER NOT NULL, rank INTEGER NOT NULL,"
    "  modules INTEGER NOT NULL, source TEXT, signature TEXT, selftest TEXT, PRIMARY KEY(name, number)) STRICT, WITHOUT ROWID;"
    /* Apart, since it is long and seldom asked for: a start reads all versions. */
    "CREATE TABLE report(name TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY(name, number)) STRICT;"
    "CREATE INDEX version_digest ON version(digest);"
    "CREATE TABLE alias(name TEXT PRIMARY KEY, revision INTEGER NOT NULL, targets TEXT NOT NULL) STRICT, WITHOUT ROWID;",
    "ALTER TABLE version ADD COLUMN chat_template TEXT;",
    ad_store_accounts_schema,
};
enum { SCHEMA = sizeof migrations / sizeof *migrations };

typedef enum {
    BEGIN, COMMIT, ROLLBACK, SAVE, RELEASE, UNDO, COUNT_REVISION, LAST_REVISION, SETTLE, PUT_ADAPTER, DROP_ADAPTER, DROP_VERSIONS,
    PUT_VERSION, DROP_VERSION, MARK_VERSION, PUT_REPORT, DROP_REPORT, DROP_REPORTS, READ_REPORT, PUT_ALIAS, DROP_ALIAS, FIND_OWNERLESS, FIND_DIGEST, READ_ADAPTERS, READ_VERSIONS, READ_ALIASES, N_STATEMENTS
} statement;

static const char *const sql[N_STATEMENTS] = {
    [BEGIN] = "BEGIN IMMEDIATE",
    [COMMIT] = "COMMIT",
    [ROLLBACK] = "ROLLBACK",
    [SAVE] = "SAVEPOINT one",
    [RELEASE] = "RELEASE one",
    [UNDO] = "ROLLBACK TO one",
    [COUNT_REVISION] = "UPDATE counter SET value = ?1 WHERE name = 'revision' AND value < ?1",
    [LAST_REVISION] = "SELECT value FROM counter WHERE name = 'revision'",
    [SETTLE] = "UPDATE counter SET value = value + 1 WHERE name = 'settled'",
    [PUT_ADAPTER] = "INSERT OR REPLACE INTO adapter VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [DROP_ADAPTER] = "DELETE FROM adapter WHERE name = ?1",
    [DROP_VERSIONS] = "DELETE FROM version WHERE name = ?1",
    [PUT_VERSION] = "INSERT OR REPLACE INTO version VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
    [MARK_VERSION] = "UPDATE version SET base = ?3, fits = ?4, reason = ?5 WHERE name = ?1 AND number = ?2",
    [PUT_REPORT] = "INSERT OR REPLACE INTO report VALUES(?1, ?2, ?3)",
    [DROP_REPORT] = "DELETE FROM report WHERE name = ?1 AND number = ?2",
    [DROP_REPORTS] = "DELETE FROM report WHERE name = ?1",
    [READ_REPORT] = "SELECT text FROM report WHERE name = ?1 AND number = ?2",
    [DROP_VERSION] = "DELETE FROM version WHERE name = ?1 AND number = ?2",
    [PUT_ALIAS] = "INSERT OR REPLACE INTO alias VALUES(?1, ?2, ?3)",
    [DROP_ALIAS] = "DELETE FROM alias WHERE name = ?1",
    [FIND_OWNERLESS] = "SELECT 1 FROM version WHERE name = ?1 AND NOT EXISTS(SELECT 1 FROM adapter WHERE name = ?1)",
    [FIND_DIGEST] = "SELECT 1 FROM version WHERE digest = ?1",
    [READ_ADAPTERS] = "SELECT name, revision, created, active, previous, next_number, pinned, description, labels FROM adapter ORDER BY name",
    [READ_VERSIONS] = ("SELECT v.name, number, digest, base, fits, reason, v.created, bytes_disk, bytes_packed, rank, modules, source, signature, selftest,"
                       " chat_template, number = active FROM version v JOIN adapter a ON a.name = v.name ORDER BY v.name, number"),
    [READ_ALIASES] = "SELECT name, revision, targets FROM alias ORDER BY name",
};

struct ad_store_db {
    ad_sql sql;
    sqlite3_stmt *statements[N_STATEMENTS];
    ad_store_accounts accounts;
    ad_err broken;     /* why the open transaction cannot be committed; AD_OK: it can */
    /* A commit failed, maybe after its frames were written: they are undone for us, but a crash now could make them come true. The
     * next commit writes over them. */
    bool unsettled;
};

/* ---- statements ---- */

/* Runs a statement that was bound before; *found says whether it gave a row (NULL: it gives none). */
static ad_status run(ad_store_db *db, statement which, bool *found, ad_err *err)
{
    return ad_sql_run(&db->sql, db->statements[which], found, err);
}

static ad_status run_script(ad_store_db *db, const char *script, ad_err *err)
{
    return sqlite3_exec(db->sql.handle, script, NULL, NULL, NULL) == SQLITE_OK ? AD_OK : ad_sql_fail(&db->sql, err);
}

/* ---- begin and end ---- */

/* The one value of a pragma, cut to fit. What a pragma changes is done only when it has ended. */
static ad_status ask(ad_store_db *db, const char *question, char *text, size_t size, ad_err *err)
{
    sqlite3_stmt *q = NULL;
    bool ok = sqlite3_prepare_v2(db->sql.handle, question, -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW;
    if (ok) snprintf(text, size, "%s", (const char *)sqlite3_column_text(q, 0));
    ok = ok && sqlite3_step(q) == SQLITE_DONE;
    ad_status st = ok ? AD_OK : ad_sql_fail(&db->sql, err);
    sqlite3_finalize(q);
    return st;
}

static ad_status migrate(ad_store_db *db, ad_err *err)
{
    char text[32] = "", step[64];
    ad_status st = ask(db, "PRAGMA user_version", text, sizeof text, err);
    if (st != AD_OK) return st;
    int have = atoi(text);
    if (have < 0 || have > SCHEMA)
        return ad_fail(err, AD_EUNSUPPORTED, "%s has schema %d, but this program knows 1 to %d; use the newer program that made it", db->sql.label, have, SCHEMA);
    for (int i = have; st == AD_OK && i < SCHEMA; i++) {
        snprintf(step, sizeof step, "PRAGMA user_version = %d; COMMIT;", i + 1);
        st = run_script(db, "BEGIN IMMEDIATE", err);
        if (st == AD_OK) st = run_script(db, migrations[i], err);
        if (st == AD_OK) st = run_script(db, step, err);
    }
    return st;
}

static ad_status check_pages(ad_store_db *db, ad_err *err)
{
    char found[256] = "";
    ad_status st = ask(db, "PRAGMA quick_check(1)", found, sizeof found, err);
    if (st != AD_OK || !strcmp(found, "ok")) return st;
    return ad_fail(err, AD_EFORMAT, "%s is damaged (%s); restore the state directory from a backup, or begin with another one", db->sql.label, found);
}

static ad_status prepare_all(ad_store_db *db, ad_err *err)
{
    ad_status st = ad_sql_prepare(&db->sql, sql, N_STATEMENTS, db->statements, err);
    return st == AD_OK ? ad_store_accounts_prepare(&db->accounts, &db->sql, err) : st;
}

/* What a killed daemon had written and not synced is visible to us now, so it must be durable before anybody is shown it. A disk too
 * full for the database proper is no obstacle: the log was synced first, and somebody must be able to delete something. */
static ad_status sync_what_is_there(ad_store_db *db, ad_err *err)
{
    ad_status st = run_script(db, "PRAGMA wal_checkpoint(TRUNCATE)", err);
    return st == AD_EFULL ? AD_OK : st;
}

static ad_status set_up(ad_store_db *db, bool in_memory, ad_err *err)
{
    char mode[32] = "";
    ad_status st = run_script(db, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA synchronous = FULL; PRAGMA cell_size_check = ON; PRAGMA trusted_schema = OFF; PRAGMA temp_store = MEMORY", err);
    if (st == AD_OK) st = ask(db, "PRAGMA journal_mode = WAL", mode, sizeof mode, err);
    if (st == AD_OK && !in_memory && strcmp(mode, "wal")) st = ad_fail(err, AD_EIO, "%s: SQLite keeps no write-ahead log here but \"%s\"", db->sql.label, mode);
    if (st == AD_OK) st = check_pages(db, err);
    if (st == AD_OK) st = migrate(db, err);
    if (st == AD_OK) st = prepare_all(db, err);
    if (st == AD_OK && !in_memory) st = sync_what_is_there(db, err);
    return st;
}

ad_status ad_store_db_open(ad_store_db **out, const char *path, const char *vfs, ad_err *err)
{
    ad_store_db *db = ad_calloc(1, sizeof *db);
    if (db) db->sql.label = strdup(path ? path : "registry in memory");
    if (!db || !db->sql.label) {
        free(db);
        return ad_fail(err, AD_ENOMEM, "registry: out of memory");
    }
    int rc = sqlite3_open_v2(path ? path : ":memory:", &db->sql.handle, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_NOFOLLOW, vfs);
    ad_status st = !db->sql.handle ? ad_fail(err, AD_ENOMEM, "registry: out of memory") : rc != SQLITE_OK ? ad_sql_fail(&db->sql, err) : AD_OK;
    if (st == AD_OK) st = set_up(db, !path, err);
    if (st == AD_OK) *out = db;
    else ad_store_db_close(&db);
    return st;
}

void ad_store_db_close(ad_store_db **dp)
{
    ad_store_db *db = *dp;
    if (!db) return;
    *dp = NULL;
    for (int i = 0; i < N_STATEMENTS; i++) sqlite3_finalize(db->statements[i]);
    ad_store_accounts_finalize(&db->accounts);
    int rc = sqlite3_close(db->sql.handle);
    assert(rc == SQLITE_OK);
    (void)rc;
    free(db->sql.label);
    free(db);
}

/* ---- reading ---- */

static bool take_name(char name[AD_MAX_NAME + 1], sqlite3_stmt *q) { return ad_sql_text(q, 0, name, AD_MAX_NAME + 1) && *name; }

static ad_status read_adapter(ad_store_db *db, sqlite3_stmt *q, const ad_store_reader *r, ad_err *err)
{
    ad_stored_adapter a = {
        .revision = sqlite3_column_int64(q, 1), .created = sqlite3_column_int64(q, 2), .active = sqlite3_column_int(q, 3),
        .previous = sqlite3_column_int(q, 4), .next_number = sqlite3_column_int(q, 5), .pinned = sqlite3_column_int(q, 6),
        .description = ad_sql_borrow(q, 7), .labels = ad_sql_borrow(q, 8),
    };
    return take_name(a.name, q) ? r->adapter(r->user, &a, err) : ad_sql_fail_row(&db->sql, "adapter", err);
}

static ad_status read_version(ad_store_db *db, sqlite3_stmt *q, const ad_store_reader *r, ad_err *err)
{
    ad_stored_version v = {
        .number = sqlite3_column_int(q, 1), .fits = sqlite3_column_int(q, 4), .reason = ad_sql_borrow(q, 5), .created = sqlite3_column_int64(q, 6),
        .bytes_disk = sqlite3_column_int64(q, 7), .bytes_packed = sqlite3_column_int64(q, 8), .rank = sqlite3_column_int(q, 9),
        .modules = sqlite3_column_int(q, 10), .source = ad_sql_borrow(q, 11), .signature = ad_sql_borrow(q, 12), .selftest = ad_sql_borrow(q, 13),
        .chat_template = ad_sql_borrow(q, 14), .active = sqlite3_column_int(q, 15),
    };
    bool good = take_name(v.name, q) && ad_sql_digest(&v.digest, q, 2) && ad_sql_digest(&v.base, q, 3);
    return good ? r->version(r->user, &v, err) : ad_sql_fail_row(&db->sql, "version", err);
}

static ad_status read_alias(ad_store_db *db, sqlite3_stmt *q, const ad_store_reader *r, ad_err *err)
{
    ad_stored_alias a = {.revision = sqlite3_column_int64(q, 1), .targets = ad_sql_borrow(q, 2)};
    return take_name(a.name, q) ? r->alias(r->user, &a, err) : ad_sql_fail_row(&db->sql, "alias", err);
}

typedef ad_status (*row_reader)(ad_store_db *, sqlite3_stmt *, const ad_store_reader *, ad_err *);

static ad_status read_rows(ad_store_db *db, statement which, row_reader read_row, const ad_store_reader *r, ad_err *err)
{
    sqlite3_stmt *q = db->statements[which];
    ad_status st = AD_OK;
    int rc = SQLITE_ROW;
    while (st == AD_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) st = read_row(db, q, r, err);
    if (st == AD_OK && rc != SQLITE_DONE) st = ad_sql_fail(&db->sql, err);
    ad_sql_reset(q);
    return st;
}

ad_status ad_store_db_read(ad_store_db *db, const ad_store_reader *r, ad_err *err)
{
    ad_status st = r->adapter ? read_rows(db, READ_ADAPTERS, read_adapter, r, err) : AD_OK;
    if (st == AD_OK && r->version) st = read_rows(db, READ_VERSIONS, read_version, r, err);
    if (st == AD_OK && r->alias) st = read_rows(db, READ_ALIASES, read_alias, r, err);
    return st == AD_OK ? ad_store_accounts_read(&db->accounts, &db->sql, r, err) : st;
}

ad_status ad_store_db_read_usage(ad_store_db *db, const ad_usage_query *q, ad_status (*row)(void *user, const ad_stored_usage *u, ad_err *err), void *user, ad_err *err)
{
    return ad_store_accounts_usage(&db->accounts, &db->sql, q, row, user, err);
}

ad_status ad_store_db_read_audit(ad_store_db *db, int64_t after, int limit, ad_status (*row)(void *user, const ad_stored_audit *a, ad_err *err), void *user, ad_err *err)
{
    return ad_store_accounts_audit(&db->accounts, &db->sql, after, limit, row, user, err);
}

ad_status ad_store_db_report(ad_store_db *db, const char *name, int number, char **out, ad_err *err)
{
    sqlite3_stmt *q = db->statements[READ_REPORT];
    ad_sql_bind_text(q, 1, name);
    sqlite3_bind_int(q, 2, number);
    int rc = sqlite3_step(q);
    ad_status st = rc == SQLITE_ROW || rc == SQLITE_DONE ? AD_OK : ad_sql_fail(&db->sql, err);
    char *text = rc == SQLITE_ROW ? strdup((const char *)sqlite3_column_text(q, 0)) : NULL;
    ad_sql_reset(q);
    if (rc == SQLITE_ROW && !text) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", db->sql.label);
    if (st == AD_OK) *out = text;
    return st;
}

ad_status ad_store_db_last_revision(ad_store_db *db, int64_t *out, ad_err *err)
{
    sqlite3_stmt *q = db->statements[LAST_REVISION];
    int rc = sqlite3_step(q);
    ad_status st = rc == SQLITE_ROW ? AD_OK : rc == SQLITE_DONE ? ad_sql_fail_row(&db->sql, "counter", err) : ad_sql_fail(&db->sql, err);
    if (st == AD_OK) *out = sqlite3_column_int64(q, 0);
    ad_sql_reset(q);
    return st;
}

static ad_status find_digest(ad_store_db *db, const ad_digest *digest, bool *found, ad_err *err)
{
    ad_sql_bind_digest(db->statements[FIND_DIGEST], 1, digest);
    return run(db, FIND_DIGEST, found, err);
}

/* ---- changes ---- */

static void roll_back(ad_store_db *db)
{
    if (!sqlite3_get_autocommit(db->sql.handle) && run(db, ROLLBACK, NULL, NULL) != AD_OK) db->unsettled = true;
}

/* A database that was removed or moved away takes commits as before, and the next start finds none of them. */
static ad_status check_place(ad_store_db *db, ad_err *err)
{
    int moved = 0;
    sqlite3_file_control(db->sql.handle, "main", SQLITE_FCNTL_HAS_MOVED, &moved); /* leaves it when there is no file */
    return moved ? ad_fail(err, AD_EIO, "%s was removed or moved away: what is written to it would be lost", db->sql.label) : AD_OK;
}

ad_status ad_store_db_begin(ad_store_db *db, ad_err *err)
{
    db->broken.code = AD_OK;
    ad_status st = check_place(db, err);
    if (st != AD_OK) return st;
    st = run(db, BEGIN, NULL, err);
    if (st != AD_OK || !db->unsettled) return st;
    st = run(db, SETTLE, NULL, err); /* so that this transaction writes in any case */
    if (st != AD_OK) roll_back(db);
    return st;
}

static ad_status count_revision(ad_store_db *db, int64_t revision, ad_err *err)
{
    sqlite3_bind_int64(db->statements[COUNT_REVISION], 1, revision);
    return run(db, COUNT_REVISION, NULL, err);
}

static ad_status put_adapter(ad_store_db *db, const ad_stored_adapter *a, ad_err *err)
{
    sqlite3_stmt *q = db->statements[PUT_ADAPTER];
    ad_sql_bind_text(q, 1, a->name);
    sqlite3_bind_int64(q, 2, a->revision);
    sqlite3_bind_int64(q, 3, a->created);
    sqlite3_bind_int(q, 4, a->active);
    sqlite3_bind_int(q, 5, a->previous);
    sqlite3_bind_int(q, 6, a->next_number);
    sqlite3_bind_int(q, 7, a->pinned);
    ad_sql_bind_text(q, 8, a->description);
    ad_sql_bind_text(q, 9, a->labels);
    ad_status st = run(db, PUT_ADAPTER, NULL, err);
    return st == AD_OK ? count_revision(db, a->revision, err) : st;
}

/* Name and number are the first two parameters. */
static void bind_version(ad_store_db *db, statement which, const ad_stored_version *v)
{
    ad_sql_bind_text(db->statements[which], 1, v->name);
    sqlite3_bind_int(db->statements[which], 2, v->number);
}

static ad_status put_version(ad_store_db *db, const ad_stored_version *v, ad_err *err)
{
    sqlite3_stmt *q = db->statements[PUT_VERSION];
    ad_sql_bind_text(q, 1, v->name);
    sqlite3_bind_int(q, 2, v->number);
    ad_sql_bind_digest(q, 3, &v->digest);
    ad_sql_bind_digest(q, 4, &v->base);
    sqlite3_bind_int(q, 5, v->fits);
    ad_sql_bind_text(q, 6, v->reason);
    sqlite3_bind_int64(q, 7, v->created);
    sqlite3_bind_int64(q, 8, v->bytes_disk);
    sqlite3_bind_int64(q, 9, v->bytes_packed);
    sqlite3_bind_int(q, 10, v->rank);
    sqlite3_bind_int(q, 11, v->modules);
    ad_sql_bind_text(q, 12, v->source);
    ad_sql_bind_text(q, 13, v->signature);
    ad_sql_bind_text(q, 14, v->selftest);
    ad_sql_bind_text(q, 15, v->chat_template);
    ad_status st = run(db, PUT_VERSION, NULL, err);
    if (st != AD_OK || !v->report) return st;
    bind_version(db, PUT_REPORT, v);
    ad_sql_bind_text(db->statements[PUT_REPORT], 3, v->report);
    return run(db, PUT_REPORT, NULL, err);
}

static ad_status mark_version(ad_store_db *db, const ad_stored_version *v, ad_err *err)
{
    bind_version(db, MARK_VERSION, v);
    ad_sql_bind_digest(db->statements[MARK_VERSION], 3, &v->base);
    sqlite3_bind_int(db->statements[MARK_VERSION], 4, v->fits);
    ad_sql_bind_text(db->statements[MARK_VERSION], 5, v->reason);
    return run(db, MARK_VERSION, NULL, err);
}

static ad_status put_alias(ad_store_db *db, const ad_stored_alias *a, ad_err *err)
{
    sqlite3_stmt *q = db->statements[PUT_ALIAS];
    ad_sql_bind_text(q, 1, a->name);
    sqlite3_bind_int64(q, 2, a->revision);
    ad_sql_bind_text(q, 3, a->targets);
    ad_status st = run(db, PUT_ALIAS, NULL, err);
    return st == AD_OK ? count_revision(db, a->revision, err) : st;
}

/* A revision that goes with a drop counts as given out, too. */
static ad_status drop(ad_store_db *db, statement which, const char *name, int64_t revision, ad_err *err)
{
    ad_sql_bind_text(db->statements[which], 1, name);
    ad_status st = run(db, which, NULL, err);
    return st == AD_OK ? count_revision(db, revision, err) : st;
}

static ad_status drop_version(ad_store_db *db, const ad_stored_version *v, ad_err *err)
{
    bind_version(db, DROP_REPORT, v);
    ad_status st = run(db, DROP_REPORT, NULL, err);
    bind_version(db, DROP_VERSION, v);
    return st == AD_OK ? run(db, DROP_VERSION, NULL, err) : st;
}

static ad_status apply_one(ad_store_db *db, const ad_store_change *c, ad_err *err)
{
    ad_status st;
    switch (c->kind) {
    case AD_PUT_ADAPTER: return put_adapter(db, &c->adapter, err);
    case AD_DROP_ADAPTER:
        st = drop(db, DROP_REPORTS, c->adapter.name, 0, err);
        if (st == AD_OK) st = drop(db, DROP_VERSIONS, c->adapter.name, 0, err);
        return st == AD_OK ? drop(db, DROP_ADAPTER, c->adapter.name, c->adapter.revision, err) : st;
    case AD_PUT_VERSION: return put_version(db, &c->version, err);
    case AD_DROP_VERSION: return drop_version(db, &c->version, err);
    case AD_MARK_VERSION: return mark_version(db, &c->version, err);
    case AD_PUT_ALIAS: return put_alias(db, &c->alias, err);
    case AD_DROP_ALIAS: return drop(db, DROP_ALIAS, c->alias.name, c->alias.revision, err);
    default: return ad_store_accounts_apply(&db->accounts, &db->sql, c, err);
    }
}

/* After the whole group, since a version may come before its adapter in it. */
static ad_status check_owner(ad_store_db *db, const ad_store_change *c, ad_err *err)
{
    bool ownerless = false;
    if (c->kind != AD_PUT_VERSION) return AD_OK;
    ad_sql_bind_text(db->statements[FIND_OWNERLESS], 1, c->version.name);
    ad_status st = run(db, FIND_OWNERLESS, &ownerless, err);
    if (st != AD_OK || !ownerless) return st;
    return ad_fail(err, AD_ENOTFOUND, "there is no adapter named \"%s\" for version %d", c->version.name, c->version.number);
}

/* Some errors make SQLite undo the whole transaction; then what other groups applied is gone, too, and no commit may say otherwise. */
static void undo_group(ad_store_db *db, const ad_err *why)
{
    bool open = !sqlite3_get_autocommit(db->sql.handle);
    if (open && run(db, UNDO, NULL, NULL) == AD_OK && run(db, RELEASE, NULL, NULL) == AD_OK) return;
    db->broken = *why;
}

ad_status ad_store_db_apply(ad_store_db *db, const ad_store_change *changes, int n, ad_err *err)
{
    ad_err why = db->broken;
    if (why.code == AD_OK && run(db, SAVE, NULL, &why) != AD_OK) db->broken = why;
    if (db->broken.code != AD_OK) return ad_fail(err, why.code, "%s", why.msg);
    ad_status st = AD_OK;
    for (int i = 0; st == AD_OK && i < n; i++) st = apply_one(db, &changes[i], &why);
    for (int i = 0; st == AD_OK && i < n; i++) st = check_owner(db, &changes[i], &why);
    if (st == AD_OK) st = run(db, RELEASE, NULL, &why);
    if (st == AD_OK) return AD_OK;
    undo_group(db, &why);
    return ad_fail(err, st, "%s", why.msg);
}

static ad_status commit(ad_store_db *db, ad_err *err)
{
    ad_status st = run(db, COMMIT, NULL, err);
    db->unsettled = st != AD_OK;
    return st;
}

ad_status ad_store_db_commit(ad_store_db *db, ad_err *err)
{
    ad_status st = db->broken.code == AD_OK ? commit(db, err) : ad_fail(err, db->broken.code, "%s", db->broken.msg);
    roll_back(db);
    if (st == AD_EFULL) (void)run_script(db, "PRAGMA wal_checkpoint(RESTART)", NULL); /* the next one writes over the log: somebody must be able to delete something */
    return st;
}

static bool settle(ad_store_db *db)
{
    return !db->unsettled || (ad_store_db_begin(db, NULL) == AD_OK && ad_store_db_commit(db, NULL) == AD_OK);
}

bool ad_store_db_is_unused(ad_store_db *db, const ad_digest *digest)
{
    bool found = true;
    return settle(db) && find_digest(db, digest, &found, NULL) == AD_OK && !found;
}
