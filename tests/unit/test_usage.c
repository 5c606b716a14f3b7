/* SPDX-License-Identifier: MIT */
/* The usage ledger: rows add up, and what is not committed is neither lost nor counted twice. */
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include "server/observe/log.h"
#include "server/tenancy/usage.h"

static char root[AD_STORE_PATH];
static uv_loop_t loop;
static ad_store *store;
static ad_store_thread *thread;
static ad_ledger *ledger;

static ad_stored_usage row(int day, const char *tenant, const char *key, const char *adapter, int version, int64_t n)
{
    ad_stored_usage u = {.day = day, .version = version ? tu_digest(version) : (ad_digest){{0}}, .requests = 1, .prompt_tokens = n, .cached_tokens = n / 2, .generated_tokens = 3 * n, .engine_ns = 5 * n};
    snprintf(u.tenant, sizeof u.tenant, "%s", tenant);
    snprintf(u.key, sizeof u.key, "%s", key);
    snprintf(u.adapter, sizeof u.adapter, "%s", adapter);
    return u;
}

static int64_t sum(const ad_stored_usage *u) { return u->requests + u->prompt_tokens + u->cached_tokens + u->generated_tokens + u->engine_ns; }

/* ---- rows ---- */

START_TEST(rows_add_up_and_every_part_of_their_name_counts)
{
    ad_tally t = {0};
    const ad_stored_usage different[] = {row(1, "a", "", "", 0, 4), row(2, "a", "", "", 0, 4), row(1, "b", "", "", 0, 4), row(1, "a", "k", "", 0, 4), row(1, "a", "", "x", 0, 4), row(1, "a", "", "x", 1, 4),
                                         row(1, "a", "x", "", 0, 4), row(1, "ab", "", "", 0, 4), row(1, "", "ab", "", 0, 4)};
    size_t n = sizeof different / sizeof *different;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < n; i++) ck_assert_int_eq(ad_tally_add(&t, &different[i]), AD_OK);
    ck_assert_uint_eq(t.n, n);
    for (size_t i = 0; i < n; i++) {
        ck_assert_int_eq(t.rows[i].requests, 3);
        ck_assert_int_eq(t.rows[i].prompt_tokens, 12);
        ck_assert_int_eq(t.rows[i].cached_tokens, 6);
        ck_assert_int_eq(t.rows[i].generated_tokens, 36);
        ck_assert_int_eq(t.rows[i].engine_ns, 60);
    }
    ad_tally_deinit(&t);
}
END_TEST

START_TEST(too_many_rows_become_one_per_tenant_and_their_sum_stays)
{
    enum { MANY = AD_TALLY_ROWS + 5000 };
    ad_tally t = {0};
    char name[16];
    int64_t added = 0, kept = 0;
    for (int i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "x%d", i);
        ad_stored_usage u = row(1, i % 2 ? "a" : "b", "k", name, i + 1, i % 100);
        ck_assert_int_eq(ad_tally_add(&t, &u), AD_OK);
        added += sum(&u);
    }
    ck_assert_uint_eq(t.n, AD_TALLY_ROWS + 2);
    for (size_t i = 0; i < t.n; i++) kept += sum(&t.rows[i]);
    ck_assert_int_eq(added, kept);
    ck_assert_str_eq(t.rows[t.n - 1].adapter, AD_USAGE_OTHER);
    ck_assert_str_eq(t.rows[t.n - 1].key, "");
    ad_tally_deinit(&t);
}
END_TEST

/* ---- the ledger ---- */

static void start(void)
{
    ad_err err;
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
    ck_assert_int_eq(ad_store_thread_new(&thread, &loop, store, &err), AD_OK);
    ck_assert_int_eq(ad_ledger_new(&ledger, &loop, thread, &err), AD_OK);
    store = NULL;
}

static void set_up(void)
{
    tu_make_dir(root);
    ad_log_set_level(AD_LOG_ERROR);
    start();
}

static void stop(void)
{
    ad_ledger_close(&ledger);
    if (thread) ad_store_thread_close(&thread, NULL, NULL);
    ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static ad_tally stored;

static ad_status keep(void *user, const ad_stored_usage *u, ad_err *err)
{
    (void)user, (void)err;
    return ad_tally_add(&stored, u);
}

static void read_store(void)
{
    ad_err err;
    ad_tally_deinit(&stored);
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
    ck_assert_int_eq(ad_store_read_usage(store, &(ad_usage_query){.from_day = 0, .to_day = 100000}, keep, NULL, &err), AD_OK);
    ad_store_close(&store);
}

static void tear_down(void)
{
    ad_tally_deinit(&stored);
    tu_remove_dir(root);
}

static void add(int day, const char *tenant, int64_t n)
{
    ad_stored_usage u = row(day, tenant, "k", "x", 1, n);
    ad_ledger_add(ledger, &u);
}

START_TEST(a_clean_stop_keeps_everything)
{
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 1000; i++) add(20000 + i % 2, i % 3 ? "a" : "b", 10);
        if (round == 1) ad_ledger_flush(ledger);
        stop();
        start();
    }
    stop();
    read_store();
    ck_assert_uint_eq(stored.n, 4);
    int64_t requests = 0;
    for (size_t i = 0; i < stored.n; i++) requests += stored.rows[i].requests;
    ck_assert_int_eq(requests, 3000);
    ck_assert_int_eq(stored.rows[0].prompt_tokens, 10 * stored.rows[0].requests);
}
END_TEST

START_TEST(what_gathers_goes_to_the_store_by_itself)
{
    ad_ledger_stats s = {0};
    add(20000, "a", 10);
    for (int i = 0; i < 60000 && (s.waiting || !s.flushes); i++) {
        uv_run(&loop, UV_RUN_ONCE);
        ad_ledger_get_stats(ledger, &s);
    }
    ck_assert_uint_eq(s.flushes, 1);
    ck_assert_uint_eq(s.waiting, 0);
    stop();
    read_store();
    ck_assert_int_eq(stored.rows[0].requests, 1);
}
END_TEST

/* The database is out of reach: its commits fail until it is back. */
static void move_database(bool away)
{
    char here[AD_STORE_PATH + 16], there[AD_STORE_PATH + 16];
    snprintf(here, sizeof here, "%s/registry.db", root);
    snprintf(there, sizeof there, "%s/away.db", root);
    ck_assert_int_eq(away ? rename(here, there) : rename(there, here), 0);
}

static void flush_until(uint64_t failures, uint64_t flushes)
{
    ad_ledger_stats s = {0};
    while (s.failures < failures || s.flushes < flushes) {
        ad_ledger_flush(ledger);
        uv_run(&loop, UV_RUN_ONCE);
        ad_ledger_get_stats(ledger, &s);
    }
}

START_TEST(a_store_that_fails_loses_nothing_and_doubles_nothing)
{
    ad_ledger_stats s;
    add(20000, "a", 10);
    flush_until(0, 1);
    move_database(true);
    for (int i = 0; i < 5; i++) {
        add(20000, "a", 10);
        add(20000, "b", 10);
        flush_until((uint64_t)i + 1, 1);
    }
    ad_ledger_get_stats(ledger, &s);
    ck_assert_uint_eq(s.waiting, 2);
    move_database(false);
    flush_until(5, 2);
    stop();
    read_store();
    ck_assert_uint_eq(stored.n, 2);
    ck_assert_int_eq(stored.rows[0].requests, 6);
    ck_assert_int_eq(stored.rows[1].requests, 5);
    ck_assert_int_eq(stored.rows[1].generated_tokens, 150);
}
END_TEST

START_TEST(what_was_used_today_counts_for_the_limits_after_a_restart)
{
    ad_err err;
    ad_tenancy *tenancy = NULL;
    ad_clock now = {.ms = 1, .unix_ms = (int64_t)20000 * 86400000 + 5000};
    add(20000, AD_SHARED_TENANT, 10);
    add(20000, "gone", 10);
    add(19999, AD_SHARED_TENANT, 1000);
    stop();
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
    ck_assert_int_eq(ad_tenancy_new(&tenancy, store, &err), AD_OK);
    ck_assert_int_eq(ad_ledger_restore(tenancy, store, now, &err), AD_OK);
    const ad_tenant *t = ad_tenancy_find_tenant(tenancy, AD_SHARED_TENANT);
    ck_assert_int_eq(ad_allowance_today(&t->allowance, AD_LIMIT_PROMPT_DAY, now), 10);
    ck_assert_int_eq(ad_allowance_today(&t->allowance, AD_LIMIT_GENERATED_DAY, now), 30);
    ad_tenancy_free(&tenancy);
    ad_store_close(&store);
}
END_TEST

/* What a request costs, and a row: for tests/SPEED.md. */
START_TEST(bench)
{
    enum { REQUESTS = 2000000, ROWS = 2000 };
    ad_allowance tenant = {0}, key = {0};
    ad_limits all;
    ad_charge c;
    ad_excess why;
    for (int i = 0; i < AD_N_LIMITS; i++) all.of[i] = AD_MAX_LIMIT;
    ad_allowance_set(&tenant, &all, ad_clock_now());
    ad_allowance_set(&key, &all, ad_clock_now());
    uint64_t begin = uv_hrtime();
    for (int i = 0; i < REQUESTS; i++) {
        bool good = ad_charge_begin(&c, &tenant, &key, ad_clock_now(), &why) && ad_charge_reserve(&c, (ad_token_counts){100, 100}, ad_clock_now(), &why);
        if (!good) ck_abort_msg("refused");
        ad_charge_settle(&c, (ad_token_counts){100, 50}, ad_clock_now());
    }
    uint64_t charged = uv_hrtime();
    uint64_t started = uv_hrtime();
    ad_stored_usage u = row(20000, "acme", "0123456789ab", "acme/an-adapter", 1, 10);
    for (int i = 0; i < REQUESTS; i++) ad_ledger_add(ledger, &u);
    uint64_t added = uv_hrtime();
    for (int i = 0; i < ROWS; i++) {
        u.version = tu_digest(i);
        ad_ledger_add(ledger, &u);
    }
    uint64_t flushing = uv_hrtime();
    flush_until(0, 1);
    uint64_t flushed = uv_hrtime();
    printf("limits: %.0f ns a request; ledger: %.0f ns a request, %.1f us a row stored\n", (double)(charged - begin) / REQUESTS, (double)(added - started) / REQUESTS,
           (double)(flushed - flushing) / 1e3 / (ROWS + 1));
    stop();
}
END_TEST

int main(int argc, char **argv)
{
    Suite *suite = suite_create("usage");
    TCase *rows = tcase_create("rows"), *t = tcase_create("ledger");
    tcase_add_test(rows, rows_add_up_and_every_part_of_their_name_counts);
    tcase_add_test(rows, too_many_rows_become_one_per_tenant_and_their_sum_stays);
    suite_add_tcase(suite, rows);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, a_clean_stop_keeps_everything);
    tcase_add_test(t, what_gathers_goes_to_the_store_by_itself);
    tcase_add_test(t, a_store_that_fails_loses_nothing_and_doubles_nothing);
    tcase_add_test(t, what_was_used_today_counts_for_the_limits_after_a_restart);
    suite_add_tcase(suite, t);
    if (argc > 1 && !strcmp(argv[1], "--bench")) tcase_add_test(t, bench);
    return tu_run(suite);
}
