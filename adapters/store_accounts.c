/* SPDX-License-Identifier: MIT */
#include "adapters/store_accounts.h"

#include <assert.h>

const char ad_store_accounts_schema[] =
    "CREATE TABLE tenant(name TEXT PRIMARY KEY, created INTEGER NOT NULL, weight REAL NOT NULL, priority TEXT, limits TEXT, description TEXT) STRICT, WITHOUT ROWID;"
    "INSERT INTO tenant VALUES('default', CAST(strftime('%s', 'now') AS INTEGER), 1, NULL, NULL, NULL);"
    "CREATE TABLE api_key(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, mac BLOB NOT NULL, created INTEGER NOT NULL, expires INTEGER NOT NULL, last_used INTEGER NOT NULL,"
    "  revoked INTEGER NOT NULL, name TEXT, verbs TEXT NOT NULL, adapters TEXT NOT NULL, limits TEXT) STRICT, WITHOUT ROWID;"
    "CREATE INDEX api_key_tenant ON api_key(tenant);"
    "CREATE TABLE usage(day INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, adapter TEXT NOT NULL, version BLOB NOT NULL, requests INTEGER NOT NULL,"
    "  prompt_tokens INTEGER NOT NULL, cached_tokens INTEGER NOT NULL, generated_tokens INTEGER NOT NULL, engine_ns INTEGER NOT NULL,"
    "  PRIMARY KEY(day, tenant, key, adapter, version)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE audit(seq INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, tenant TEXT NOT NULL, key TEXT NOT NULL, peer TEXT, request_id TEXT,"
    "  action TEXT NOT NULL, object TEXT, status INTEGER NOT NULL, detail TEXT) STRICT;"
    "CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;"
    "CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is only added to'); END;";

enum {
    PUT_TENANT, DROP_TENANT, DROP_TENANT_KEYS, PUT_KEY, MARK_KEY, DROP_KEY, ADD_USAGE, ADD_AUDIT, READ_TENANTS, READ_KEYS, READ_USAGE, READ_AUDIT, N_STATEMENTS
};
_Static_assert((int)N_STATEMENTS == (int)AD_ACCOUNT_STATEMENTS, "as many statements as there is room for");

static const char *const sql[N_STATEMENTS] = {
    [PUT_TENANT] = "INSERT OR REPLACE INTO tenant VALUES(?1, ?2, ?3, ?4, ?5, ?6)",
    [DROP_TENANT] = "DELETE FROM tenant WHERE name = ?1",
    [DROP_TENANT_KEYS] = "DELETE FROM api_key WHERE tenant = ?1",
    [PUT_KEY] = "INSERT OR REPLACE INTO api_key SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11 WHERE EXISTS(SELECT 1 FROM tenant WHERE name = ?2)",
    [MARK_KEY] = "UPDATE api_key SET last_used = ?2 WHERE id = ?1 AND last_used < ?2",
    [DROP_KEY] = "DELETE FROM api_key WHERE id = ?1",
    [ADD_USAGE] = ("INSERT INTO usage VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10) ON CONFLICT(day, tenant, key, adapter, version) DO UPDATE SET requests = requests + ?6,"
                   " prompt_tokens = prompt_tokens + ?7, cached_tokens = cached_tokens + ?8, generated_tokens = generated_tokens + ?9, engine_ns = engine_ns + ?10"),
    [ADD_AUDIT] = "INSERT INTO audit(time, tenant, key, peer, request_id, action, object, status, detail) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    [READ_TENANTS] = "SELECT name, created, weight, priority, limits, description FROM tenant ORDER BY name <> 'default', created, name",
    [READ_KEYS] = "SELECT id, tenant, mac, created, expires, last_used, revoked, name, verbs, adapters, limits FROM api_key ORDER BY created, id",
    [READ_USAGE] = ("SELECT day, tenant, key, adapter, version, requests, prompt_tokens, cached_tokens, generated_tokens, engine_ns FROM usage"
                    " WHERE day >= ?1 AND day < ?2 AND (?3 IS NULL OR tenant = ?3) AND (?4 IS NULL OR key = ?4)"
                    " AND (?5 = 0 OR day > ?5 OR (day = ?5 AND key IN (SELECT id FROM api_key WHERE tenant = ?3))) ORDER BY day, tenant, key, adapter, version"),
    [READ_AUDIT] = "SELECT seq, time, tenant, key, peer, request_id, action, object, status, detail FROM audit WHERE seq > ?1 ORDER BY seq LIMIT ?2",
};

ad_status ad_store_accounts_prepare(ad_store_accounts *a, const ad_sql *db, ad_err *err) { return ad_sql_prepare(db, sql, N_STATEMENTS, a->statements, err); }

void ad_store_accounts_finalize(ad_store_accounts *a)
{
    for (int i = 0; i < N_STATEMENTS; i++) sqlite3_finalize(a->statements[i]);
}

/* ---- reading ---- */

static ad_status read_tenant(const ad_sql *db, sqlite3_stmt *q, const ad_store_reader *r, ad_err *err)
{
    ad_stored_tenant t = {
        .created = sqlite3_column_int64(q, 1), .weight = sqlite3_column_double(q, 2), .priority = ad_sql_borrow(q, 3), .limits = ad_sql_borrow(q, 4), .description = ad_sql_borrow(q, 5),
    };
    return ad_sql_text(q, 0, t.name, sizeof t.name) ? r->tenant(r->user, &t, err) : ad_sql_fail_row(db, "tenant", err);
}

static ad_status read_key(const ad_sql *db, sqlite3_stmt *q, const ad_store_reader *r, ad_err *err)
{
    ad_stored_key k = {
        .created = sqlite3_column_int64(q, 3), .expires = sqlite3_column_int64(q, 4), .last_used = sqlite3_column_int64(q, 5), .revoked = sqlite3_column_int64(q, 6),
        .name = ad_sql_borrow(q, 7), .verbs = ad_sql_borrow(q, 8), .adapters = ad_sql_borrow(q, 9), .limits = ad_sql_borrow(q, 10),
    };
    bool good = ad_sql_text(q, 0, k.id, sizeof k.id) && ad_sql_text(q, 1, k.tenant, sizeof k.tenant) && ad_sql_digest(&k.mac, q, 2);
    return good ? r->key(r->user, &k, err) : ad_sql_fail_row(db, "api_key", err);
}

typedef ad_status (*account_reader)(const ad_sql *, sqlite3_stmt *, const ad_store_reader *, ad_err *);

/* How a reading ended: what its last step said, unless a row was refused. */
static ad_status end_reading(const ad_sql *db, sqlite3_stmt *q, ad_status st, int rc, ad_err *err)
{
    if (st == AD_OK && rc != SQLITE_DONE) st = ad_sql_fail(db, err);
    ad_sql_reset(q);
    return st;
}

static ad_status read_rows(const ad_sql *db, sqlite3_stmt *q, account_reader read_row, const ad_store_reader *r, ad_err *err)
{
    ad_status st = AD_OK;
    int rc = SQLITE_ROW;
    while (st == AD_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) st = read_row(db, q, r, err);
    return end_reading(db, q, st, rc, err);
}

ad_status ad_store_accounts_read(ad_store_accounts *a, const ad_sql *db, const ad_store_reader *r, ad_err *err)
{
    ad_status st = r->tenant ? read_rows(db, a->statements[READ_TENANTS], read_tenant, r, err) : AD_OK;
    return st == AD_OK && r->key ? read_rows(db, a->statements[READ_KEYS], read_key, r, err) : st;
}

ad_status ad_store_accounts_usage(ad_store_accounts *a, const ad_sql *db, const ad_usage_query *query, ad_status (*row)(void *, const ad_stored_usage *, ad_err *), void *user, ad_err *err)
{
    sqlite3_stmt *q = a->statements[READ_USAGE];
    sqlite3_bind_int(q, 1, query->from_day);
    sqlite3_bind_int(q, 2, query->to_day);
    ad_sql_bind_text(q, 3, query->tenant);
    ad_sql_bind_text(q, 4, query->key);
    sqlite3_bind_int(q, 5, query->made_on);
    ad_status st = AD_OK;
    int rc = SQLITE_ROW;
    while (st == AD_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        ad_stored_usage u = {
            .day = sqlite3_column_int(q, 0), .requests = sqlite3_column_int64(q, 5), .prompt_tokens = sqlite3_column_int64(q, 6), .cached_tokens = sqlite3_column_int64(q, 7),
            .generated_tokens = sqlite3_column_int64(q, 8), .engine_ns = sqlite3_column_int64(q, 9),
        };
        bool good = ad_sql_text(q, 1, u.tenant, sizeof u.tenant) && ad_sql_text(q, 2, u.key, sizeof u.key) && ad_sql_text(q, 3, u.adapter, sizeof u.adapter) && ad_sql_digest(&u.version, q, 4);
        st = good ? row(user, &u, err) : ad_sql_fail_row(db, "usage", err);
    }
    return end_reading(db, q, st, rc, err);
}

ad_status ad_store_accounts_audit(ad_store_accounts *a, const ad_sql *db, int64_t after, int limit, ad_status (*row)(void *, const ad_stored_audit *, ad_err *), void *user, ad_err *err)
{
    sqlite3_stmt *q = a->statements[READ_AUDIT];
    sqlite3_bind_int64(q, 1, after);
    sqlite3_bind_int(q, 2, limit > 0 ? limit : 0);
    ad_status st = AD_OK;
    int rc = SQLITE_ROW;
    while (st == AD_OK && (rc = sqlite3_step(q)) == SQLITE_ROW) {
        ad_stored_audit e = {
            .seq = sqlite3_column_int64(q, 0), .time_ms = sqlite3_column_int64(q, 1), .peer = ad_sql_borrow(q, 4), .request_id = ad_sql_borrow(q, 5), .action = ad_sql_borrow(q, 6),
            .object = ad_sql_borrow(q, 7), .status = sqlite3_column_int(q, 8), .detail = ad_sql_borrow(q, 9),
        };
        bool good = ad_sql_text(q, 2, e.tenant, sizeof e.tenant) && ad_sql_text(q, 3, e.key, sizeof e.key);
        st = good ? row(user, &e, err) : ad_sql_fail_row(db, "audit", err);
    }
    return end_reading(db, q, st, rc, err);
}

/* ---- changes ---- */

static ad_status put_tenant(const ad_sql *db, sqlite3_stmt *q, const ad_stored_tenant *t, ad_err *err)
{
    ad_sql_bind_text(q, 1, t->name);
    sqlite3_bind_int64(q, 2, t->created);
    sqlite3_bind_double(q, 3, t->weight);
    ad_sql_bind_text(q, 4, t->priority);
    ad_sql_bind_text(q, 5, t->limits);
    ad_sql_bind_text(q, 6, t->description);
    return ad_sql_run(db, q, NULL, err);
}

static ad_status put_key(const ad_sql *db, sqlite3_stmt *q, const ad_stored_key *k, ad_err *err)
{
    ad_sql_bind_text(q, 1, k->id);
    ad_sql_bind_text(q, 2, k->tenant);
    ad_sql_bind_digest(q, 3, &k->mac);
    sqlite3_bind_int64(q, 4, k->created);
    sqlite3_bind_int64(q, 5, k->expires);
    sqlite3_bind_int64(q, 6, k->last_used);
    sqlite3_bind_int64(q, 7, k->revoked);
    ad_sql_bind_text(q, 8, k->name);
    ad_sql_bind_text(q, 9, k->verbs);
    ad_sql_bind_text(q, 10, k->adapters);
    ad_sql_bind_text(q, 11, k->limits);
    ad_status st = ad_sql_run(db, q, NULL, err);
    if (st != AD_OK || sqlite3_changes(db->handle) > 0) return st;
    return ad_fail(err, AD_ENOTFOUND, "there is no tenant named \"%s\" for key %s", k->tenant, k->id);
}

static ad_status add_usage(const ad_sql *db, sqlite3_stmt *q, const ad_stored_usage *u, ad_err *err)
{
    sqlite3_bind_int(q, 1, u->day);
    ad_sql_bind_text(q, 2, u->tenant);
    ad_sql_bind_text(q, 3, u->key);
    ad_sql_bind_text(q, 4, u->adapter);
    ad_sql_bind_digest(q, 5, &u->version);
    sqlite3_bind_int64(q, 6, u->requests);
    sqlite3_bind_int64(q, 7, u->prompt_tokens);
    sqlite3_bind_int64(q, 8, u->cached_tokens);
    sqlite3_bind_int64(q, 9, u->generated_tokens);
    sqlite3_bind_int64(q, 10, u->engine_ns);
    return ad_sql_run(db, q, NULL, err);
}

static ad_status add_audit(const ad_sql *db, sqlite3_stmt *q, const ad_stored_audit *a, ad_err *err)
{
    sqlite3_bind_int64(q, 1, a->time_ms);
    ad_sql_bind_text(q, 2, a->tenant);
    ad_sql_bind_text(q, 3, a->key);
    ad_sql_bind_text(q, 4, a->peer);
    ad_sql_bind_text(q, 5, a->request_id);
    ad_sql_bind_text(q, 6, a->action);
    ad_sql_bind_text(q, 7, a->object);
    sqlite3_bind_int(q, 8, a->status);
    ad_sql_bind_text(q, 9, a->detail);
    return ad_sql_run(db, q, NULL, err);
}

/* Of a statement whose first parameter is the name. */
static ad_status run_on(const ad_sql *db, sqlite3_stmt *q, const char *name, ad_err *err)
{
    ad_sql_bind_text(q, 1, name);
    return ad_sql_run(db, q, NULL, err);
}

ad_status ad_store_accounts_apply(ad_store_accounts *a, const ad_sql *db, const ad_store_change *c, ad_err *err)
{
    ad_status st;
    switch (c->kind) {
    case AD_PUT_TENANT: return put_tenant(db, a->statements[PUT_TENANT], &c->tenant, err);
    case AD_DROP_TENANT:
        st = run_on(db, a->statements[DROP_TENANT_KEYS], c->tenant.name, err);
        return st == AD_OK ? run_on(db, a->statements[DROP_TENANT], c->tenant.name, err) : st;
    case AD_PUT_KEY: return put_key(db, a->statements[PUT_KEY], &c->key, err);
    case AD_MARK_KEY:
        sqlite3_bind_int64(a->statements[MARK_KEY], 2, c->key.last_used);
        return run_on(db, a->statements[MARK_KEY], c->key.id, err);
    case AD_DROP_KEY: return run_on(db, a->statements[DROP_KEY], c->key.id, err);
    case AD_ADD_USAGE: return add_usage(db, a->statements[ADD_USAGE], &c->usage, err);
    case AD_ADD_AUDIT: return add_audit(db, a->statements[ADD_AUDIT], &c->audit, err);
    default: break;
    }
    assert(!"a kind of change");
    return AD_EINVAL;
}
