/* SPDX-License-Identifier: MIT */
/* The store on a real directory; what a power loss does to it is test_power_loss's subject. */
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

static char root[AD_STORE_PATH], dir[2 * AD_STORE_PATH];
static ad_store *store;
static ad_err err;

static void open_store(void) { ck_assert_msg(ad_store_open(&store, dir, &err) == AD_OK, "%s", err.msg); }

static void reopen(void)
{
    ad_store_close(&store);
    open_store();
}

static void setup(void)
{
    tu_make_dir(root);
    snprintf(dir, sizeof dir, "%s/state", root);
    open_store();
}

static void teardown(void)
{
    ad_store_close(&store);
    tu_remove_dir(root);
}

static void commit(const ad_store_change *changes, int n) { ck_assert_msg(tu_commit(store, changes, n, &err) == AD_OK, "%s", err.msg); }

static void admit(const char *name, int number)
{
    ck_assert_msg(tu_keep(store, number, &err) == AD_OK, "%s", err.msg);
    ad_digest d = tu_digest(number);
    ad_store_change c[] = {tu_put_adapter(name, number, 1), tu_put_version(name, 1, d)};
    commit(c, 2);
    ad_store_unhold(store, &d);
}

static void in_database(const char *script)
{
    char path[3 * AD_STORE_PATH];
    sqlite3 *h;
    snprintf(path, sizeof path, "%s/registry.db", dir);
    ck_assert_int_eq(sqlite3_open(path, &h), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(h, script, NULL, NULL, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_close(h), SQLITE_OK);
}

/* ---- rows ---- */

START_TEST(rows_come_back_with_every_field_after_a_restart)
{
    ad_store_change c[] = {tu_put_adapter("sql", 7, 2), tu_put_version("sql", 1, tu_digest(1)), tu_put_version("sql", 2, tu_digest(2)),
        {.kind = AD_PUT_ALIAS, .alias = {.name = "best", .revision = 9, .targets = (char *)"[{\"model\":\"sql\"}]"}}};
    c[0].adapter.previous = 1;
    c[0].adapter.pinned = true;
    c[0].adapter.description = (char *)"writes SQL";
    c[0].adapter.labels = (char *)"{\"team\":\"db\"}";
    c[2].version.base = tu_digest(5);
    c[2].version.fits = false;
    c[2].version.bytes_disk = 10000000000;
    c[2].version.bytes_packed = 20;
    c[2].version.rank = 16;
    c[2].version.modules = 7;
    c[2].version.source = (char *)"upload";
    c[2].version.report = (char *)"{\"rank\":16}";
    c[2].version.reason = (char *)"too wide";
    c[2].version.signature = (char *)"untrusted comment";
    c[2].version.selftest = (char *)"[]";
    c[2].version.chat_template = (char *)"{{ messages }}";
    commit(c, 4);
    reopen();
    ck_assert_str_eq(tu_read_rows(store)->text,
        "adapter sql r7 active 2 previous 1 next 3 pinned 1 writes SQL {\"team\":\"db\"}\n"
        "version sql@1 digest 1 base 0 fits 1 bytes 10/0 rank 0 modules 0 active 0 - - - - -\n"
        "version sql@2 digest 2 base 5 fits 0 bytes 10000000000/20 rank 16 modules 7 active 1 upload too wide untrusted comment [] {{ messages }}\n"
        "alias best r9 [{\"model\":\"sql\"}]\n");
}
END_TEST

START_TEST(a_put_replaces_and_a_drop_takes_the_versions_along)
{
    ad_store_change c[] = {tu_put_adapter("a", 1, 1), tu_put_version("a", 1, tu_digest(1)), tu_put_adapter("b", 2, 1), tu_put_version("b", 1, tu_digest(2)),
        tu_put_adapter("a", 3, 0), tu_put_version("b", 1, tu_digest(3)), {.kind = AD_PUT_ALIAS, .alias = {.name = "x", .targets = (char *)"[]"}}};
    commit(c, 7);
    ck_assert_str_eq(tu_read_rows(store)->text,
        "adapter a r3 active 0 previous 0 next 1 pinned 0 - -\nadapter b r2 active 1 previous 0 next 2 pinned 0 - -\n"
        "version a@1 digest 1 base 0 fits 1 bytes 10/0 rank 0 modules 0 active 0 - - - - -\nversion b@1 digest 3 base 0 fits 1 bytes 10/0 rank 0 modules 0 active 1 - - - - -\nalias x r0 []\n");
    ad_store_change drops[] = {tu_drop_adapter("a"), {.kind = AD_DROP_VERSION, .version = {.name = "b", .number = 1}}, {.kind = AD_DROP_ALIAS, .alias = {.name = "x"}}};
    commit(drops, 3);
    ck_assert_str_eq(tu_read_rows(store)->text, "adapter b r2 active 1 previous 0 next 2 pinned 0 - -\n");
}
END_TEST

static char *report_of(const char *name, int number)
{
    char *text = NULL;
    ck_assert_int_eq(ad_store_report(store, name, number, &text, &err), AD_OK);
    return text;
}

START_TEST(reports_are_read_one_by_one_and_go_with_their_version)
{
    ad_store_change c[] = {tu_put_adapter("a", 1, 2), tu_put_version("a", 1, tu_digest(1)), tu_put_version("a", 2, tu_digest(2))};
    c[1].version.report = (char *)"{\"rank\":1}";
    c[2].version.report = (char *)"{\"rank\":2}";
    commit(c, 3);
    reopen();
    char *one = report_of("a", 1), *two = report_of("a", 2);
    ck_assert_str_eq(one, "{\"rank\":1}");
    ck_assert_str_eq(two, "{\"rank\":2}");
    free(one), free(two);
    ad_store_change drop = {.kind = AD_DROP_VERSION, .version = {.name = "a", .number = 1}};
    commit(&drop, 1);
    ck_assert_ptr_null(report_of("a", 1));
    drop = tu_drop_adapter("a");
    commit(&drop, 1);
    ck_assert_ptr_null(report_of("a", 2));
}
END_TEST

START_TEST(a_mark_changes_what_was_found_and_nothing_else)
{
    ad_store_change c[] = {tu_put_adapter("a", 1, 1), tu_put_version("a", 1, tu_digest(1))};
    c[1].version.report = (char *)"{}";
    c[1].version.signature = (char *)"signed";
    commit(c, 2);
    ad_store_change mark = {.kind = AD_MARK_VERSION, .version = {.name = "a", .number = 1, .base = tu_digest(7), .reason = (char *)"too wide"}};
    commit(&mark, 1);
    ck_assert_ptr_nonnull(strstr(tu_read_rows(store)->text, "version a@1 digest 1 base 7 fits 0 bytes 10/0 rank 0 modules 0 active 1 - too wide signed -"));
    char *report = report_of("a", 1);
    ck_assert_str_eq(report, "{}");
    free(report);
    mark.version.number = 2; /* one that went meanwhile */
    commit(&mark, 1);
    ck_assert_ptr_null(strstr(tu_read_rows(store)->text, "a@2"));
}
END_TEST

START_TEST(one_group_that_fails_leaves_the_others_of_its_transaction)
{
    ad_store_change good = tu_put_adapter("good", 1, 0), more = tu_put_adapter("more", 2, 0);
    ad_store_change bad[] = {tu_put_adapter("half", 3, 0), tu_put_version("nobody", 1, tu_digest(1))};
    ck_assert_int_eq(ad_store_begin(store, &err), AD_OK);
    ck_assert_int_eq(ad_store_apply(store, &good, 1, &err), AD_OK);
    ck_assert_int_eq(ad_store_apply(store, bad, 2, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "nobody"));
    ck_assert_int_eq(ad_store_apply(store, &more, 1, &err), AD_OK);
    ck_assert_int_eq(ad_store_commit(store, &err), AD_OK);
    reopen();
    ck_assert_str_eq(tu_read_rows(store)->text, "adapter good r1 active 0 previous 0 next 1 pinned 0 - -\nadapter more r2 active 0 previous 0 next 1 pinned 0 - -\n");
}
END_TEST

START_TEST(a_revision_is_remembered_after_its_row_is_gone)
{
    int64_t last = -1;
    ck_assert_int_eq(ad_store_last_revision(store, &last, &err), AD_OK);
    ck_assert_int_eq(last, 0);
    ad_store_change c[] = {tu_put_adapter("a", 41, 0), {.kind = AD_PUT_ALIAS, .alias = {.name = "x", .revision = 42, .targets = (char *)"[]"}}, tu_put_adapter("b", 12, 0)};
    commit(c, 3);
    ad_store_change drops[] = {tu_drop_adapter("a"), {.kind = AD_DROP_ALIAS, .alias = {.name = "x", .revision = 43}}};
    commit(drops, 2);
    reopen();
    ck_assert_int_eq(ad_store_last_revision(store, &last, &err), AD_OK);
    ck_assert_int_eq(last, 43);
}
END_TEST

static ad_status stop_reading(void *user, const ad_stored_adapter *a, ad_err *e) { return ad_fail(e, AD_ELIMIT, "enough"); }

START_TEST(a_reader_may_stop_and_its_reason_is_returned)
{
    ad_store_change c = tu_put_adapter("a", 1, 0);
    commit(&c, 1);
    ad_store_reader reader = {.adapter = stop_reading};
    ck_assert_int_eq(ad_store_read(store, &reader, &err), AD_ELIMIT);
    ck_assert_str_eq(err.msg, "enough");
    ck_assert_int_eq(tu_read_rows(store)->adapters, 1);
}
END_TEST

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int n_read;
static ad_status count_adapter(void *user, const ad_stored_adapter *a, ad_err *e) { return n_read++, AD_OK; }
static ad_status count_version(void *user, const ad_stored_version *v, ad_err *e) { return n_read++, AD_OK; }

START_TEST(ten_thousand_adapters_are_opened_and_read_at_once)
{
    char name[32], report[2048];
    memset(report, 'r', sizeof report - 1);
    report[sizeof report - 1] = '\0';
    ck_assert_int_eq(ad_store_begin(store, &err), AD_OK);
    for (int i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        ad_store_change c[] = {tu_put_adapter(name, i, 1), tu_put_version(name, 1, tu_digest(i))};
        c[1].version.report = report;
        ck_assert_int_eq(ad_store_apply(store, c, 2, &err), AD_OK);
    }
    ck_assert_int_eq(ad_store_commit(store, &err), AD_OK);
    double start = now();
    reopen();
    ad_store_reader reader = {.adapter = count_adapter, .version = count_version};
    ck_assert_int_eq(ad_store_read(store, &reader, &err), AD_OK);
    double seconds = now() - start;
    ck_assert_int_eq(n_read, 20000);
    printf("10,000 adapters with reports of 2 KB: closed, opened and read in %.3f s\n", seconds);
    ck_assert_double_lt(seconds, 5.0); /* sanitizers; without them a tenth of the 0.5 s that is wanted */
}
END_TEST

/* ---- blobs ---- */

static int count_incoming(void)
{
    char path[3 * AD_STORE_PATH];
    int n = 0;
    snprintf(path, sizeof path, "%s/incoming", dir);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

START_TEST(an_upload_becomes_a_blob_under_its_digest)
{
    char path[AD_STORE_PATH], incoming[3 * AD_STORE_PATH];
    ad_digest d = tu_digest(3);
    admit("a", 3);
    ad_store_blob_path(store, &d, path);
    ck_assert_ptr_nonnull(strstr(path, "/blobs/6f/6fab0003"));
    reopen();
    ck_assert(tu_blob_is_whole(store, 3));
    snprintf(incoming, sizeof incoming, "%s/incoming", dir);
    ck_assert_int_eq(rmdir(incoming), 0); /* it is empty */
}
END_TEST

START_TEST(a_blob_that_was_damaged_is_healed_by_the_same_upload)
{
    char path[AD_STORE_PATH];
    ad_digest d = tu_digest(1);
    admit("a", 1);
    ad_store_blob_path(store, &d, path);
    tu_write_file(path, "adapter_model.safetensors", "damaged");
    ck_assert(!tu_blob_is_whole(store, 1));
    ck_assert_int_eq(tu_keep(store, 1, &err), AD_OK);
    ad_store_unhold(store, &d);
    ck_assert(tu_blob_is_whole(store, 1));
    ck_assert_int_eq(count_incoming(), 0);
}
END_TEST

static int cannot_exchange(const char *a, const char *b)
{
    errno = EINVAL;
    return -1;
}

START_TEST(where_names_cannot_be_exchanged_the_blob_that_is_there_stays)
{
    ad_store_files files = ad_store_disk;
    char path[AD_STORE_PATH];
    ad_digest d = tu_digest(1);
    files.exchange = cannot_exchange;
    ad_store_close(&store);
    ck_assert_int_eq(ad_store_open_on(&store, dir, &files, NULL, &err), AD_OK);
    admit("a", 1);
    ck_assert_int_eq(ad_store_new_incoming(store, path, &err), AD_OK);
    tu_write_file(path, "adapter.gguf", "the same by another name");
    ck_assert_int_eq(ad_store_sync_incoming(store, path, &err), AD_OK);
    ck_assert_int_eq(ad_store_keep(store, path, &d, &err), AD_OK);
    ad_store_unhold(store, &d);
    ck_assert(!tu_exists(path) && tu_blob_is_whole(store, 1));
    ad_store_close(&store);
    open_store();
}
END_TEST

static int n_syncs_to_fail;

/* Fails once, after somebody else has uploaded the same content and has been told that it is durable. */
static int sync_beside_another(const char *path)
{
    if (strstr(path, "/blobs/") && n_syncs_to_fail && n_syncs_to_fail--) {
        admit("other", 1);
        errno = EIO;
        return -1;
    }
    return ad_store_disk.sync_dir(path);
}

START_TEST(an_upload_whose_directory_cannot_be_synced_takes_nobody_s_blob_away)
{
    ad_store_files files = ad_store_disk;
    char path[AD_STORE_PATH];
    ad_digest d = tu_digest(1);
    files.sync_dir = sync_beside_another;
    ad_store_blob_path(store, &d, path);
    for (int there = 0; there < 2; there++) { /* moved into its place, then exchanged with what is there */
        ad_store_close(&store);
        ck_assert_int_eq(ad_store_open_on(&store, dir, &files, NULL, &err), AD_OK);
        if (there) tu_write_file(path, "adapter_model.safetensors", "damaged");
        n_syncs_to_fail = 1;
        ck_assert_int_eq(tu_keep(store, 1, &err), AD_EIO);
        ad_store_collect(store, &d);
        ck_assert(tu_blob_is_whole(store, 1));
    }
    ad_store_close(&store);
    open_store();
    ck_assert(tu_blob_is_whole(store, 1));
}
END_TEST

START_TEST(a_blob_is_collected_when_no_row_names_it_and_nobody_holds_it)
{
    ad_digest d = tu_digest(1);
    admit("a", 1);
    ad_store_collect(store, &d);
    ck_assert(tu_blob_is_whole(store, 1));
    ck_assert_int_eq(tu_keep(store, 1, &err), AD_OK); /* somebody uploads the same again while it is deleted */
    ad_store_change drop = tu_drop_adapter("a");
    commit(&drop, 1);
    ad_store_collect(store, &d);
    ck_assert(tu_blob_is_whole(store, 1));
    ad_store_unhold(store, &d);
    ad_store_collect(store, &d);
    ck_assert(!tu_blob_is_there(store, 1));
    ad_store_collect(store, &d); /* twice does no harm */
}
END_TEST

START_TEST(a_start_removes_orphans_and_uploads_and_leaves_what_is_not_ours)
{
    char foreign[3 * AD_STORE_PATH], path[AD_STORE_PATH];
    admit("a", 1);
    ck_assert_int_eq(tu_keep(store, 2, &err), AD_OK);
    ck_assert_int_eq(ad_store_new_incoming(store, path, &err), AD_OK);
    snprintf(foreign, sizeof foreign, "%s/blobs/25/README", dir);
    ck_assert_int_eq(mkdir(foreign, 0700), 0);
    reopen();
    ck_assert(tu_blob_is_whole(store, 1));
    ck_assert(!tu_blob_is_there(store, 2) && !tu_exists(path) && tu_exists(foreign));
}
END_TEST

START_TEST(a_directory_inside_of_an_upload_is_discarded_with_it)
{
    char path[AD_STORE_PATH], sub[2 * AD_STORE_PATH];
    ck_assert_int_eq(ad_store_new_incoming(store, path, &err), AD_OK);
    snprintf(sub, sizeof sub, "%s/deep", path);
    ck_assert_int_eq(mkdir(sub, 0700), 0);
    tu_write_file(sub, "file", "x");
    snprintf(sub, sizeof sub, "%s/link", path);
    ck_assert_int_eq(symlink(root, sub), 0); /* is removed, not followed */
    ad_store_discard(store, path);
    ck_assert(!tu_exists(path) && tu_exists(root));
}
END_TEST

/* Threads upload the same digest while this one collects it: whoever holds it finds it whole. */
static void *keep_often(void *arg)
{
    ad_digest d = tu_digest(1);
    ad_err e;
    for (int i = 0; i < 200; i++) {
        if (tu_keep(store, 1, &e) != AD_OK || !tu_blob_is_there(store, 1)) return arg;
        ad_store_unhold(store, &d);
    }
    return NULL;
}

START_TEST(a_held_blob_is_never_collected_by_another_thread)
{
    pthread_t t;
    void *failed;
    ad_digest d = tu_digest(1);
    teardown();
    tu_make_dir(root); /* in memory: no waiting for the disk */
    ck_assert_int_eq(ad_store_open(&store, NULL, &err), AD_OK);
    ck_assert_int_eq(pthread_create(&t, NULL, keep_often, &d), 0);
    while (pthread_tryjoin_np(t, &failed) != 0) ad_store_collect(store, &d);
    ck_assert_ptr_null(failed);
}
END_TEST

/* ---- the directory ---- */

static void check_mode(const char *name, mode_t mode)
{
    char path[3 * AD_STORE_PATH];
    struct stat st;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    ck_assert_msg(stat(path, &st) == 0, "%s", path);
    ck_assert_msg((st.st_mode & 07777) == mode, "%s has mode %o", path, st.st_mode & 07777);
}

START_TEST(nobody_else_can_read_the_state_directory)
{
    umask(0);
    teardown();
    setup();
    admit("a", 1);
    check_mode("", 0700);
    check_mode("blobs", 0700);
    check_mode("blobs/25", 0700);
    check_mode("incoming", 0700);
    check_mode("lock", 0600);
    check_mode("registry.db", 0600);
    check_mode("registry.db-wal", 0600);
}
END_TEST

START_TEST(a_second_daemon_is_refused_and_told_who_has_the_directory)
{
    ad_store *second = NULL;
    char pid[32];
    snprintf(pid, sizeof pid, "process %ld", (long)getpid());
    ck_assert_int_eq(ad_store_open(&second, dir, &err), AD_EBUSY);
    ck_assert_ptr_nonnull(strstr(err.msg, dir));
    ck_assert_ptr_nonnull(strstr(err.msg, pid));
    ck_assert_ptr_null(second);
    admit("a", 1); /* the first has lost nothing */
}
END_TEST

START_TEST(a_killed_daemon_leaves_no_lock_and_all_it_committed)
{
    ad_store_close(&store);
    pid_t child = fork();
    if (child == 0) {
        open_store();
        admit("a", 1);
        kill(getpid(), SIGKILL);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(WTERMSIG(status), SIGKILL);
    open_store();
    ck_assert_int_eq(tu_read_rows(store)->versions, 1);
    ck_assert(tu_blob_is_whole(store, 1));
}
END_TEST

START_TEST(the_path_may_be_relative_and_the_program_may_move)
{
    ad_store_close(&store);
    char *before = getcwd(NULL, 0);
    ck_assert(chdir(root) == 0 && ad_store_open(&store, "state", &err) == AD_OK);
    ck_assert_int_eq(chdir(before), 0);
    free(before);
    ck_assert_str_eq(ad_store_dir(store), dir);
    admit("a", 1);
    ck_assert(ad_store_durable(store) && tu_blob_is_whole(store, 1));
}
END_TEST

START_TEST(without_a_directory_all_is_forgotten_and_removed)
{
    char private[AD_STORE_PATH];
    ad_store_close(&store);
    ck_assert_int_eq(ad_store_open(&store, NULL, &err), AD_OK);
    ck_assert(!ad_store_durable(store));
    strcpy(private, ad_store_dir(store));
    admit("a", 1);
    ck_assert_int_eq(tu_read_rows(store)->versions, 1);
    ck_assert(tu_blob_is_whole(store, 1));
    ad_store_close(&store);
    ck_assert(!tu_exists(private));
}
END_TEST

START_TEST(a_directory_that_cannot_be_made_is_named)
{
    ad_store *other = NULL;
    ck_assert_int_eq(ad_store_open(&other, "/proc/nowhere/state", &err), AD_EIO);
    ck_assert_ptr_nonnull(strstr(err.msg, "/proc/nowhere/state"));
}
END_TEST

static struct rlimit before_limit;

static void limit_files(rlim_t bytes)
{
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before_limit), 0);
    struct rlimit small = {bytes, before_limit.rlim_max};
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
}

static void unlimit_files(void) { ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &before_limit), 0); }

START_TEST(a_limit_of_file_sizes_is_a_full_disk_and_changes_nothing)
{
    static char report[100000];
    memset(report, 'r', sizeof report - 1);
    ad_store_change c[] = {tu_put_adapter("big", 2, 1), tu_put_version("big", 1, tu_digest(2))};
    c[1].version.report = report;
    admit("a", 1);
    limit_files(65536);
    ad_status st = tu_commit(store, c, 2, &err);
    unlimit_files();
    ck_assert_msg(st == AD_EFULL, "%s: %s", ad_status_name(st), err.msg);
    ck_assert_ptr_nonnull(strstr(err.msg, "full"));
    ck_assert_int_eq(tu_read_rows(store)->adapters, 1);
    commit(c, 2);
    reopen();
    ck_assert_int_eq(tu_read_rows(store)->adapters, 2);
}
END_TEST

START_TEST(when_the_log_cannot_grow_something_can_still_be_deleted)
{
    char name[16];
    ad_status st = AD_OK;
    int n = 0;
    limit_files(100000); /* the database stays far below that, its log does not */
    for (; st == AD_OK && n < 100; n++) {
        snprintf(name, sizeof name, "a%d", n);
        ad_store_change c = tu_put_adapter(name, n + 1, 0);
        st = tu_commit(store, &c, 1, &err);
    }
    ck_assert_int_eq(st, AD_EFULL);
    ad_store_change drop = {.kind = AD_DROP_ADAPTER, .adapter.name = "a0"};
    st = tu_commit(store, &drop, 1, &err);
    unlimit_files();
    ck_assert_msg(st == AD_OK, "%s", err.msg);
    reopen();
    ck_assert_int_eq(tu_read_rows(store)->adapters, n - 2);
}
END_TEST

START_TEST(groups_that_the_disk_undid_are_not_called_committed)
{
    static char report[10000000]; /* more than SQLite's cache: written, and refused, before the commit */
    memset(report, 'r', sizeof report - 1);
    ad_store_change good = tu_put_adapter("good", 1, 0), more = tu_put_adapter("more", 3, 0);
    ad_store_change huge[] = {tu_put_adapter("huge", 2, 1), tu_put_version("huge", 1, tu_digest(2))};
    huge[1].version.report = report;
    ck_assert_int_eq(ad_store_begin(store, &err), AD_OK);
    ck_assert_int_eq(ad_store_apply(store, &good, 1, &err), AD_OK);
    limit_files(65536);
    ck_assert_int_eq(ad_store_apply(store, huge, 2, &err), AD_EFULL);
    unlimit_files();
    ck_assert_int_eq(ad_store_apply(store, &more, 1, &err), AD_EFULL);
    ck_assert_int_eq(ad_store_commit(store, &err), AD_EFULL);
    ck_assert_str_eq(tu_read_rows(store)->text, "");
    commit(&more, 1);
    reopen();
    ck_assert_int_eq(tu_read_rows(store)->adapters, 1);
}
END_TEST

/* ---- a database that is not as it should be ---- */

START_TEST(a_newer_schema_is_refused_and_left_alone)
{
    ad_store *other = NULL;
    admit("a", 1);
    ad_store_close(&store);
    in_database("PRAGMA user_version = 1000");
    ck_assert_int_eq(ad_store_open(&other, dir, &err), AD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "1000"));
    in_database("PRAGMA user_version = 3");
    open_store();
    ck_assert_int_eq(tu_read_rows(store)->versions, 1);
    ck_assert(tu_blob_is_whole(store, 1));
}
END_TEST

/* What the first program made. */
static const char schema_1[] =
    "CREATE TABLE counter(name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID; INSERT INTO counter VALUES('revision', 7), ('settled', 0);"
    "CREATE TABLE adapter(name TEXT PRIMARY KEY, revision INTEGER NOT NULL, created INTEGER NOT NULL, active INTEGER NOT NULL, previous INTEGER NOT NULL,"
    "  next_number INTEGER NOT NULL, pinned INTEGER NOT NULL, description TEXT, labels TEXT) STRICT, WITHOUT ROWID;"
    "CREATE TABLE version(name TEXT NOT NULL, number INTEGER NOT NULL, digest BLOB NOT NULL, base BLOB NOT NULL, fits INTEGER NOT NULL, reason TEXT, created INTEGER NOT NULL,"
    "  bytes_disk INTEGER NOT NULL, bytes_packed INTEGER NOT NULL, rank INTEGER NOT NULL, modules INTEGER NOT NULL, source TEXT, signature TEXT, selftest TEXT,"
    "  PRIMARY KEY(name, number)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE report(name TEXT NOT NULL, number INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY(name, number)) STRICT; CREATE INDEX version_digest ON version(digest);"
    "CREATE TABLE alias(name TEXT PRIMARY KEY, revision INTEGER NOT NULL, targets TEXT NOT NULL) STRICT, WITHOUT ROWID;"
    "INSERT INTO adapter VALUES('sql', 7, 1700000000, 1, 0, 2, 1, 'writes SQL', NULL); INSERT INTO report VALUES('sql', 1, '{\"rank\":16}'); INSERT INTO alias VALUES('best', 5, '[]');"
    "INSERT INTO version VALUES('sql', 1, zeroblob(32), zeroblob(32), 1, NULL, 1700000000, 10, 20, 16, 7, 'upload', NULL, '[]'); PRAGMA user_version = 1;";

START_TEST(a_database_of_an_older_program_keeps_all_it_has)
{
    char path[3 * AD_STORE_PATH];
    ad_store_close(&store);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    ck_assert_int_eq(truncate(path, 0), 0);
    in_database(schema_1);
    const char *before = "adapter sql r7 active 1 previous 0 next 2 pinned 1 writes SQL -\n"
                         "version sql@1 digest 0 base 0 fits 1 bytes 10/20 rank 16 modules 7 active 1 upload - - [] -\nalias best r5 []\n";
    open_store();
    ck_assert_str_eq(tu_read_rows(store)->text, before);
    char *report = report_of("sql", 1);
    ck_assert_str_eq(report, "{\"rank\":16}");
    free(report);
    ad_store_change c = tu_put_version("sql", 2, tu_digest(2));
    c.version.chat_template = (char *)"{{ x }}";
    commit(&c, 1);
    reopen();
    ck_assert_ptr_nonnull(strstr(tu_read_rows(store)->text, "version sql@2 digest 2 base 0 fits 1 bytes 10/0 rank 0 modules 0 active 0 - - - - {{ x }}\n"));
}
END_TEST

/* ---- tenants, keys, usage, the audit log ---- */

static char seen[4096];

static void note(const char *fmt, ...) AD_PRINTF(1, 2);
static void note(const char *fmt, ...)
{
    size_t n = strlen(seen);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(seen + n, sizeof seen - n, fmt, ap);
    va_end(ap);
}

static const char *or_dash(const char *s) { return s ? s : "-"; }

static ad_status note_tenant(void *user, const ad_stored_tenant *t, ad_err *e)
{
    (void)user, (void)e;
    note("tenant %s %g %s %s %s\n", t->name, t->weight, or_dash(t->priority), or_dash(t->limits), or_dash(t->description));
    return AD_OK;
}

static ad_status note_key(void *user, const ad_stored_key *k, ad_err *e)
{
    (void)user, (void)e;
    note("key %s %s %d %lld %lld %lld %s %s %s %s\n", k->id, k->tenant, k->mac.bytes[3], (long long)k->expires, (long long)k->last_used, (long long)k->revoked, or_dash(k->name), k->verbs, k->adapters, or_dash(k->limits));
    return AD_OK;
}

static const char *accounts(void)
{
    ad_store_reader reader = {.tenant = note_tenant, .key = note_key};
    *seen = '\0';
    ck_assert_msg(ad_store_read(store, &reader, &err) == AD_OK, "%s", err.msg);
    return seen;
}

static ad_store_change put_tenant(const char *name, double weight)
{
    ad_store_change c = {.kind = AD_PUT_TENANT, .tenant = {.created = 1900000000, .weight = weight}};
    strcpy(c.tenant.name, name);
    return c;
}

static ad_store_change put_key(const char *id, const char *tenant)
{
    ad_store_change c = {.kind = AD_PUT_KEY, .key = {.mac = tu_digest(7), .created = 1900000000, .verbs = (char *)"infer", .adapters = (char *)"[]"}};
    strcpy(c.key.id, id);
    strcpy(c.key.tenant, tenant);
    return c;
}

START_TEST(a_database_of_schema_2_gets_the_shared_tenant_and_keeps_its_adapters)
{
    char path[3 * AD_STORE_PATH];
    ad_store_close(&store);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    ck_assert_int_eq(truncate(path, 0), 0);
    in_database(schema_1);
    in_database("ALTER TABLE version ADD COLUMN chat_template TEXT; UPDATE version SET chat_template = '{{ y }}'; PRAGMA user_version = 2;");
    open_store();
    ck_assert_str_eq(accounts(), "tenant default 1 - - -\n");
    ck_assert_ptr_nonnull(strstr(tu_read_rows(store)->text, "version sql@1 digest 0 base 0 fits 1 bytes 10/20 rank 16 modules 7 active 1 upload - - [] {{ y }}\n"));
    ad_store_change c = put_tenant("acme", 2);
    commit(&c, 1);
    reopen();
    ck_assert_str_eq(accounts(), "tenant default 1 - - -\ntenant acme 2 - - -\n");
}
END_TEST

START_TEST(tenants_and_keys_are_kept_changed_and_dropped_together)
{
    ad_store_change c[3] = {put_tenant("acme", 1), put_key("000000000001", "acme"), put_key("000000000002", "default")};
    c[0].tenant.limits = (char *)"{\"context\":5}";
    c[1].key.name = (char *)"ci";
    commit(c, 3);
    reopen();
    ck_assert_str_eq(accounts(), "tenant default 1 - - -\ntenant acme 1 - {\"context\":5} -\nkey 000000000001 acme 7 0 0 0 ci infer [] -\nkey 000000000002 default 7 0 0 0 - infer [] -\n");
    ad_store_change marks[2] = {{.kind = AD_MARK_KEY, .key = {.id = "000000000001", .last_used = 50}}, {.kind = AD_MARK_KEY, .key = {.id = "00000000000f", .last_used = 50}}};
    commit(marks, 2);
    marks[0].key.last_used = 40; /* an older use is no news */
    commit(marks, 1);
    ck_assert_ptr_nonnull(strstr(accounts(), "key 000000000001 acme 7 0 50 0 ci"));
    ad_store_change drops[2] = {{.kind = AD_DROP_TENANT, .tenant = {.name = "acme"}}, {.kind = AD_DROP_KEY, .key = {.id = "000000000002"}}};
    commit(drops, 2);
    reopen();
    ck_assert_str_eq(accounts(), "tenant default 1 - - -\n");
}
END_TEST

START_TEST(a_key_of_no_tenant_is_refused_with_its_whole_group)
{
    ad_store_change c[2] = {put_tenant("acme", 1), put_key("000000000001", "nobody")};
    ck_assert_int_eq(ad_store_begin(store, &err), AD_OK);
    ck_assert_int_eq(ad_store_apply(store, c, 2, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "nobody"));
    ck_assert_int_eq(ad_store_commit(store, &err), AD_OK);
    ck_assert_str_eq(accounts(), "tenant default 1 - - -\n");
}
END_TEST

static ad_status note_usage(void *user, const ad_stored_usage *u, ad_err *e)
{
    (void)user, (void)e;
    note("%d %s %s %s %d: %lld %lld %lld %lld %lld\n", u->day, u->tenant, *u->key ? u->key : "-", *u->adapter ? u->adapter : "-", u->version.bytes[3], (long long)u->requests, (long long)u->prompt_tokens,
         (long long)u->cached_tokens, (long long)u->generated_tokens, (long long)u->engine_ns);
    return AD_OK;
}

static const char *usage(ad_usage_query q)
{
    *seen = '\0';
    ck_assert_int_eq(ad_store_read_usage(store, &q, note_usage, NULL, &err), AD_OK);
    return seen;
}

START_TEST(usage_adds_up_by_day_tenant_key_and_version)
{
    ad_store_change c[4];
    for (int i = 0; i < 4; i++)
        c[i] = (ad_store_change){.kind = AD_ADD_USAGE, .usage = {.day = 20000, .tenant = "acme", .key = "000000000001", .adapter = "acme/x", .version = tu_digest(1), .requests = 1, .prompt_tokens = 10,
                                                                  .cached_tokens = 2, .generated_tokens = 3, .engine_ns = 5000000000}};
    c[2].usage.day = 20001;
    c[3].usage = (ad_stored_usage){.day = 20000, .tenant = "default", .requests = 7};
    commit(c, 4);
    commit(c, 1);
    reopen();
    ck_assert_str_eq(usage((ad_usage_query){.from_day = 20000, .to_day = 20002}),
                     "20000 acme 000000000001 acme/x 1: 3 30 6 9 15000000000\n20000 default - - 0: 7 0 0 0 0\n20001 acme 000000000001 acme/x 1: 1 10 2 3 5000000000\n");
    ck_assert_str_eq(usage((ad_usage_query){.from_day = 20001, .to_day = 20002}), "20001 acme 000000000001 acme/x 1: 1 10 2 3 5000000000\n");
    ck_assert_str_eq(usage((ad_usage_query){.from_day = 0, .to_day = 20001, .tenant = "default"}), "20000 default - - 0: 7 0 0 0 0\n");
    ck_assert_str_eq(usage((ad_usage_query){.from_day = 0, .to_day = 30000, .key = "00000000000f"}), "");
    ck_assert_str_eq(usage((ad_usage_query){.from_day = 0, .to_day = 30000, .tenant = "acme", .made_on = 20002}), "");
}
END_TEST

static ad_status note_audit(void *user, const ad_stored_audit *a, ad_err *e)
{
    (void)user, (void)e;
    note("%lld %s %s %s %d %s\n", (long long)a->seq, a->tenant, a->action, or_dash(a->object), a->status, or_dash(a->detail));
    return AD_OK;
}

static const char *audit(int64_t after, int limit)
{
    *seen = '\0';
    ck_assert_int_eq(ad_store_read_audit(store, after, limit, note_audit, NULL, &err), AD_OK);
    return seen;
}

START_TEST(the_audit_log_is_only_added_to)
{
    sqlite3 *db = NULL;
    char path[3 * AD_STORE_PATH];
    ad_store_change c[3];
    for (int i = 0; i < 3; i++) c[i] = (ad_store_change){.kind = AD_ADD_AUDIT, .audit = {.time_ms = 1, .tenant = "default", .status = 200 + i, .action = (char *)"delete", .object = (char *)"x"}};
    commit(c, 3);
    ck_assert_str_eq(audit(1, 1), "2 default delete x 201 -\n");
    ad_store_close(&store);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    ck_assert_int_eq(sqlite3_open(path, &db), SQLITE_OK);
    ck_assert_int_eq(sqlite3_exec(db, "DELETE FROM audit", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    ck_assert_int_eq(sqlite3_exec(db, "UPDATE audit SET action = 'nothing' WHERE seq = 2", NULL, NULL, NULL), SQLITE_CONSTRAINT);
    sqlite3_close(db);
    open_store();
    commit(c, 1);
    ck_assert_str_eq(audit(0, 10), "1 default delete x 200 -\n2 default delete x 201 -\n3 default delete x 202 -\n4 default delete x 200 -\n");
}
END_TEST

/* Writes noise over part of the database, from `at` hundredths of its length on. */
static void damage(int at, size_t length)
{
    char path[3 * AD_STORE_PATH], noise[8192];
    struct stat st;
    snprintf(path, sizeof path, "%s/registry.db", dir);
    int fd = open(path, O_RDWR | O_CLOEXEC);
    ck_assert_int_eq(fstat(fd, &st), 0);
    for (size_t i = 0; i < sizeof noise; i++) noise[i] = (char)(i * 2654435761u >> 13);
    ck_assert_int_eq(pwrite(fd, noise, length, st.st_size * at / 100), (ssize_t)length);
    close(fd);
}

static void fill(void)
{
    char name[32];
    ck_assert_int_eq(ad_store_begin(store, &err), AD_OK);
    for (int i = 0; i < 300; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        ad_store_change c[] = {tu_put_adapter(name, i, 1), tu_put_version(name, 1, tu_digest(i))};
        ck_assert_int_eq(ad_store_apply(store, c, 2, &err), AD_OK);
    }
    ck_assert_int_eq(ad_store_commit(store, &err), AD_OK);
}

START_TEST(a_damaged_database_is_refused_and_no_blob_is_touched)
{
    char blob[AD_STORE_PATH];
    ad_store *other = NULL;
    ad_digest d = tu_digest(7);
    ck_assert_int_eq(tu_keep(store, 7, &err), AD_OK);
    fill();
    ad_store_blob_path(store, &d, blob);
    ad_store_close(&store);
    damage(3 * _i, _i ? 6000 : 4096);
    ad_status st = ad_store_open(&other, dir, &err);
    ck_assert_msg(st == AD_EFORMAT, "at %d%%: status %s, %s", 3 * _i, ad_status_name(st), st == AD_OK ? "" : err.msg);
    ck_assert_ptr_nonnull(strstr(err.msg, "registry.db"));
    ck_assert_ptr_nonnull(strstr(err.msg, "damaged"));
    ck_assert(tu_exists(blob));
}
END_TEST

START_TEST(a_row_that_is_not_ours_is_refused)
{
    admit("a", 1);
    ad_store_close(&store);
    in_database("INSERT INTO version VALUES('a', 2, x'00', x'00', 1, NULL, 0, 0, 0, 1, 1, NULL, NULL, NULL, NULL)");
    open_store();
    ad_store_reader reader = {.version = count_version};
    ck_assert_int_eq(ad_store_read(store, &reader, &err), AD_EFORMAT);
}
END_TEST

START_TEST(blobs_without_their_database_are_not_collected)
{
    char path[3 * AD_STORE_PATH], blob[AD_STORE_PATH];
    ad_store *other = NULL;
    ad_digest d = tu_digest(1);
    admit("a", 1);
    ad_store_blob_path(store, &d, blob);
    ad_store_close(&store);
    snprintf(path, sizeof path, "%s/registry.db", dir);
    ck_assert_int_eq(unlink(path), 0);
    for (int i = 0; i < 2; i++) { /* not at a second start either */
        ck_assert_int_eq(ad_store_open(&other, dir, &err), AD_EFORMAT);
        ck_assert_ptr_nonnull(strstr(err.msg, "1 blobs"));
    }
    ck_assert(tu_exists(blob));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("store");
    TCase *tc = tcase_create("store");
    tcase_add_checked_fixture(tc, setup, teardown);
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, rows_come_back_with_every_field_after_a_restart);
    tcase_add_test(tc, a_put_replaces_and_a_drop_takes_the_versions_along);
    tcase_add_test(tc, reports_are_read_one_by_one_and_go_with_their_version);
    tcase_add_test(tc, a_mark_changes_what_was_found_and_nothing_else);
    tcase_add_test(tc, one_group_that_fails_leaves_the_others_of_its_transaction);
    tcase_add_test(tc, a_revision_is_remembered_after_its_row_is_gone);
    tcase_add_test(tc, a_reader_may_stop_and_its_reason_is_returned);
    tcase_add_test(tc, ten_thousand_adapters_are_opened_and_read_at_once);
    tcase_add_test(tc, an_upload_becomes_a_blob_under_its_digest);
    tcase_add_test(tc, a_blob_that_was_damaged_is_healed_by_the_same_upload);
    tcase_add_test(tc, where_names_cannot_be_exchanged_the_blob_that_is_there_stays);
    tcase_add_test(tc, an_upload_whose_directory_cannot_be_synced_takes_nobody_s_blob_away);
    tcase_add_test(tc, a_blob_is_collected_when_no_row_names_it_and_nobody_holds_it);
    tcase_add_test(tc, a_start_removes_orphans_and_uploads_and_leaves_what_is_not_ours);
    tcase_add_test(tc, a_directory_inside_of_an_upload_is_discarded_with_it);
    tcase_add_test(tc, a_held_blob_is_never_collected_by_another_thread);
    tcase_add_test(tc, nobody_else_can_read_the_state_directory);
    tcase_add_test(tc, a_second_daemon_is_refused_and_told_who_has_the_directory);
    tcase_add_test(tc, a_killed_daemon_leaves_no_lock_and_all_it_committed);
    tcase_add_test(tc, the_path_may_be_relative_and_the_program_may_move);
    tcase_add_test(tc, without_a_directory_all_is_forgotten_and_removed);
    tcase_add_test(tc, a_directory_that_cannot_be_made_is_named);
    tcase_add_test(tc, a_limit_of_file_sizes_is_a_full_disk_and_changes_nothing);
    tcase_add_test(tc, when_the_log_cannot_grow_something_can_still_be_deleted);
    tcase_add_test(tc, groups_that_the_disk_undid_are_not_called_committed);
    tcase_add_test(tc, a_newer_schema_is_refused_and_left_alone);
    tcase_add_test(tc, a_database_of_schema_2_gets_the_shared_tenant_and_keeps_its_adapters);
    tcase_add_test(tc, tenants_and_keys_are_kept_changed_and_dropped_together);
    tcase_add_test(tc, a_key_of_no_tenant_is_refused_with_its_whole_group);
    tcase_add_test(tc, usage_adds_up_by_day_tenant_key_and_version);
    tcase_add_test(tc, the_audit_log_is_only_added_to);
    tcase_add_test(tc, a_database_of_an_older_program_keeps_all_it_has);
    tcase_add_loop_test(tc, a_damaged_database_is_refused_and_no_blob_is_touched, 0, 30);
    tcase_add_test(tc, a_row_that_is_not_ours_is_refused);
    tcase_add_test(tc, blobs_without_their_database_are_not_collected);
    suite_add_tcase(suite, tc);
    return tu_run(suite);
}
