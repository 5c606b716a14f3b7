/* SPDX-License-Identifier: MIT */
/* Changes that wait together are committed together, and every group hears its own fate. */
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include "server/store_thread.h"

typedef struct {
    ad_status status;
    int calls;
    char msg[160];
} fate;

static char root[AD_STORE_PATH];
static uv_loop_t loop;
static ad_store *store;
static ad_store_thread *thread;
static bool closed;
static int answered;

static void start(void)
{
    ad_err err;
    tu_make_dir(root);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
    ck_assert_int_eq(ad_store_thread_new(&thread, &loop, store, &err), AD_OK);
    store = NULL;
}

static void on_closed(void *user) { closed = user == &closed; }

/* The thread has closed the store, so this process can open it again. */
static void finish(void)
{
    ad_err err;
    ad_store_thread_close(&thread, on_closed, &closed);
    ck_assert(!thread && !closed);
    ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    ck_assert(closed);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
}

static void clean_up(void)
{
    ad_store_close(&store);
    tu_remove_dir(root);
}

static void on_done(void *user, ad_status st, const ad_err *err)
{
    fate *f = user;
    f->status = st;
    f->calls++;
    answered++;
    if (st != AD_OK) snprintf(f->msg, sizeof f->msg, "%.150s", err->msg);
}

/* The thread takes what it is given: it must be of malloc. */
static ad_status submit(fate *f, const ad_store_change *changes, int n, ad_err *err)
{
    ad_store_change *own = malloc((size_t)n * sizeof *own);
    if (n) memcpy(own, changes, (size_t)n * sizeof *own);
    return ad_store_thread_submit(thread, own, n, on_done, f, err);
}

static ad_status submit_adapter(fate *f, int number, ad_err *err)
{
    char name[32];
    snprintf(name, sizeof name, "adapter-%d", number);
    ad_store_change c = tu_put_adapter(name, number, 0);
    c.adapter.description = strdup("owned");
    return submit(f, &c, 1, err);
}

START_TEST(many_groups_share_few_commits_and_all_are_there_afterwards)
{
    static fate fates[1000];
    ad_err err;
    start();
    for (int i = 0; i < 1000; i++) {
        ck_assert_int_eq(submit_adapter(&fates[i], i, &err), AD_OK);
        if (i % 10 == 0) uv_run(&loop, UV_RUN_NOWAIT);
    }
    while (answered < 1000) uv_run(&loop, UV_RUN_ONCE);
    uint64_t commits = ad_store_thread_commits(thread);
    printf("1000 groups in %d commits\n", (int)commits);
    ck_assert_int_ge((int)commits, 1);
    ck_assert_int_lt((int)commits, 1000);
    finish();
    for (int i = 0; i < 1000; i++) ck_assert(fates[i].calls == 1 && fates[i].status == AD_OK);
    ck_assert_int_eq(tu_read_rows(store)->adapters, 1000);
    clean_up();
}
END_TEST

START_TEST(close_finishes_what_was_submitted)
{
    static fate fates[100];
    ad_err err;
    start();
    for (int i = 0; i < 100; i++) ck_assert_int_eq(submit_adapter(&fates[i], i, &err), AD_OK);
    finish();
    for (int i = 0; i < 100; i++) ck_assert(fates[i].calls == 1 && fates[i].status == AD_OK);
    ck_assert_int_eq(tu_read_rows(store)->adapters, 100);
    clean_up();
}
END_TEST

START_TEST(a_group_that_fails_does_so_alone_and_as_a_whole)
{
    fate good = {0}, bad = {0}, more = {0};
    ad_err err;
    ad_store_change half[] = {tu_put_adapter("half", 1, 0), tu_put_version("nobody", 1, tu_digest(1))};
    half[1].version.report = strdup("{}");
    start();
    ck_assert_int_eq(submit_adapter(&good, 1, &err), AD_OK);
    ck_assert_int_eq(submit(&bad, half, 2, &err), AD_OK);
    ck_assert_int_eq(submit_adapter(&more, 2, &err), AD_OK);
    finish();
    ck_assert(good.status == AD_OK && more.status == AD_OK && bad.status == AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(bad.msg, "nobody"));
    ck_assert_str_eq(tu_read_rows(store)->text,
        "adapter adapter-1 r1 active 0 previous 0 next 1 pinned 0 owned -\nadapter adapter-2 r2 active 0 previous 0 next 1 pinned 0 owned -\n");
    clean_up();
}
END_TEST

START_TEST(over_a_thousand_that_wait_are_refused_and_nothing_leaks)
{
    static fate fates[1100];
    ad_err err;
    int taken = 0;
    start();
    while (taken < 1100 && submit_adapter(&fates[taken], taken, &err) == AD_OK) taken++; /* the loop does not run: all of them wait */
    ck_assert_int_eq(taken, 1024);
    ck_assert_int_eq(err.code, AD_EBUSY);
    finish();
    ck_assert_int_eq(fates[1024].calls, 0);
    ck_assert_int_eq(tu_read_rows(store)->adapters, 1024);
    clean_up();
}
END_TEST

static void read_nothing(void *user, ad_store *s) { (void)user, (void)s; }
static void count(void *user) { ++*(int *)user; }

START_TEST(reads_that_wait_are_bounded_and_there_is_room_again_once_they_are_answered)
{
    enum { MOST = 64 };
    ad_err err;
    int taken = 0, done = 0;
    start();
    while (taken <= MOST && ad_store_thread_read(thread, read_nothing, count, &done, &err) == AD_OK) taken++; /* the loop does not run: all of them wait */
    ck_assert_int_eq(taken, MOST);
    ck_assert_int_eq(err.code, AD_EBUSY);
    while (done < MOST) uv_run(&loop, UV_RUN_ONCE);
    ck_assert_int_eq(ad_store_thread_read(thread, read_nothing, count, &done, &err), AD_OK);
    finish();
    ck_assert_int_eq(done, MOST + 1);
    clean_up();
}
END_TEST

START_TEST(a_blob_is_collected_behind_the_drop_of_its_row)
{
    fate put = {0}, gone = {0};
    ad_err err;
    char path[AD_STORE_PATH];
    ad_digest d = tu_digest(1);
    tu_make_dir(root);
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_store_open(&store, root, &err), AD_OK);
    ck_assert_int_eq(tu_keep(store, 1, &err), AD_OK);
    ad_store_blob_path(store, &d, path);
    ck_assert_int_eq(ad_store_thread_new(&thread, &loop, store, &err), AD_OK);
    ad_store_change c[] = {tu_put_adapter("a", 1, 1), tu_put_version("a", 1, d)}, drop = tu_drop_adapter("a");
    ck_assert_int_eq(submit(&put, c, 2, &err), AD_OK);
    while (!put.calls) uv_run(&loop, UV_RUN_ONCE);
    ad_store_unhold(store, &d);
    ad_store_thread_collect(thread, &d); /* its row is there: no */
    fate barrier = {0};
    ck_assert_int_eq(submit(&barrier, NULL, 0, &err), AD_OK);
    while (!barrier.calls) uv_run(&loop, UV_RUN_ONCE);
    ck_assert(tu_exists(path));
    ck_assert_int_eq(submit(&gone, &drop, 1, &err), AD_OK);
    ad_store_thread_collect(thread, &d);
    store = NULL;
    finish();
    ck_assert(gone.status == AD_OK && !tu_exists(path));
    clean_up();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store_thread");
    TCase *tc = tcase_create("store_thread");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, many_groups_share_few_commits_and_all_are_there_afterwards);
    tcase_add_test(tc, close_finishes_what_was_submitted);
    tcase_add_test(tc, a_group_that_fails_does_so_alone_and_as_a_whole);
    tcase_add_test(tc, over_a_thousand_that_wait_are_refused_and_nothing_leaks);
    tcase_add_test(tc, reads_that_wait_are_bounded_and_there_is_room_again_once_they_are_answered);
    tcase_add_test(tc, a_blob_is_collected_behind_the_drop_of_its_row);
    suite_add_tcase(suite, tc);
    return tu_run(suite);
}
