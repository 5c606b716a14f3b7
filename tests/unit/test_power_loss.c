/* SPDX-License-Identifier: MIT */
/* A script of uploads, replacements and deletions on a disk that loses its power, or fills up, or breaks, at every single operation.
 * What is left is opened by the real store: whatever was acknowledged must be there, whole, and nothing that is half made. */
#include "tests/unit/disk_double.h"
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include <dirent.h>

enum { MAX_CHANGES = 64 };

static char base[AD_STORE_PATH], live[2 * AD_STORE_PATH], state[3 * AD_STORE_PATH];
static dd_disk *disk;
static ad_store *store;
static ad_err err;

/* Everything acknowledged so far, and the rows that follow from it; `maybe` are those of commits that were begun since, and not acknowledged. */
static ad_store_change acked[MAX_CHANGES];
static int n_acked, n_maybe;
static char rows[8192], maybe[MAX_CHANGES][sizeof rows];

static int n_operations, n_checks, n_failures;
static char first_failure[1024];

static void fail_check(const char *when, const char *what)
{
    if (!n_failures++) snprintf(first_failure, sizeof first_failure, "operation %d, %s: %.800s", n_operations, when, what);
}

/* ---- checking what is left ---- */

typedef struct {
    ad_store *store;
    tu_rows rows;
    bool whole;
    bool named[256]; /* digests, by number */
} found;

static ad_status on_adapter(void *user, const ad_stored_adapter *a, ad_err *e) { return tu_on_adapter(&((found *)user)->rows, a, e); }

static ad_status on_version(void *user, const ad_stored_version *v, ad_err *e)
{
    found *f = user;
    f->named[v->digest.bytes[3]] = true;
    if (!tu_blob_is_whole(f->store, v->digest.bytes[3])) f->whole = false;
    return tu_on_version(&f->rows, v, e);
}

static int count_entries(const char *dir, const char *name)
{
    char path[5 * AD_STORE_PATH];
    int n = 0;
    snprintf(path, sizeof path, "%.*s/%s", 4 * AD_STORE_PATH, dir, name);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) n += e->d_name[0] != '.';
    if (d) closedir(d);
    return n;
}

static int count_blobs(const char *dir)
{
    char path[4 * AD_STORE_PATH];
    int n = 0;
    snprintf(path, sizeof path, "%s/blobs", dir);
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') n += count_entries(path, e->d_name);
    if (d) closedir(d);
    return n;
}

static bool may_be_there(const char *text)
{
    bool known = !strcmp(text, rows);
    for (int i = 0; i < n_maybe; i++) known |= !strcmp(text, maybe[i]);
    return known;
}

static const char *judge(ad_store *s)
{
    static found f;
    static char why[sizeof f.rows.text + 64];
    f = (found){.store = s, .whole = true};
    ad_store_reader reader = {.adapter = on_adapter, .version = on_version, .user = &f};
    int named = 0;
    if (ad_store_read(s, &reader, &err) != AD_OK) return err.msg;
    for (int i = 0; i < 256; i++) named += f.named[i];
    snprintf(why, sizeof why, "the rows are\n%s", f.rows.text);
    if (!may_be_there(f.rows.text)) return why;
    if (!f.whole) return "a blob is not whole";
    if (count_blobs(ad_store_dir(s)) != named) return "there are orphans";
    if (count_entries(ad_store_dir(s), "incoming")) return "there are uploads";
    return NULL;
}

static void check_dir(const char *dir, const char *when)
{
    char path[4 * AD_STORE_PATH];
    ad_store *s = NULL;
    snprintf(path, sizeof path, "%s/state", dir);
    n_checks++;
    if (ad_store_open(&s, path, &err) != AD_OK) {
        fail_check(when, err.msg);
        return;
    }
    const char *why = judge(s);
    if (why) fail_check(when, why);
    ad_store_close(&s);
}

static void check_after(dd_luck luck, unsigned seed, const char *when)
{
    char dir[AD_STORE_PATH];
    tu_make_dir(dir);
    dd_lose_power(disk, luck, seed, dir);
    check_dir(dir, when);
    tu_remove_dir(dir);
}

static void check_all_lucks(void)
{
    check_after(DD_NOTHING, 0, "only what was synced is left");
    check_after(DD_NAMES, 0, "names are left, too");
    check_after(DD_BYTES, 0, "bytes are left, too");
    check_after(DD_ALL, 0, "all is left");
    for (unsigned i = 0; i < 4; i++) check_after(DD_MIXTURE, (unsigned)n_operations * 4 + i, "a mixture is left");
}

/* ---- the script; every step says whether it was done ---- */

static void foresee(char text[sizeof rows], const ad_store_change *more, int n)
{
    ad_store *s;
    ck_assert_int_eq(ad_store_open(&s, NULL, &err), AD_OK);
    ck_assert_int_eq(tu_commit(s, acked, n_acked, &err), AD_OK);
    ck_assert_int_eq(tu_commit(s, more, n, &err), AD_OK);
    strcpy(text, tu_read_rows(s)->text);
    ad_store_close(&s);
}

static ad_status failed_with; /* the last step that failed, or AD_OK */
static char failed_because[sizeof err.msg];

static bool step(ad_status st)
{
    if (st == AD_OK) return true;
    failed_with = st;
    strcpy(failed_because, err.msg);
    return false;
}

static bool commit(const ad_store_change *changes, int n)
{
    ck_assert_int_lt(n_maybe, MAX_CHANGES);
    foresee(maybe[n_maybe++], changes, n);
    if (!step(tu_commit(store, changes, n, &err))) {
        if (strcmp(tu_read_rows(store)->text, rows)) fail_check("after a failed commit", tu_read_rows(store)->text);
        return false;
    }
    memcpy(acked + n_acked, changes, (size_t)n * sizeof *changes);
    n_acked += n;
    strcpy(rows, maybe[n_maybe - 1]);
    n_maybe = 0;
    return true;
}

static bool open_store(void)
{
    return step(ad_store_open_on(&store, state, &dd_files, dd_vfs(), &err));
}

static bool reopen(void)
{
    ad_store_close(&store);
    return open_store();
}

static bool admit(const char *name, int number, int digest)
{
    ad_digest d = tu_digest(digest);
    ad_store_change c[] = {tu_put_adapter(name, n_acked + 1, number), tu_put_version(name, number, d)};
    if (!step(tu_keep(store, digest, &err))) return false;
    bool done = commit(c, 2);
    ad_store_unhold(store, &d);
    if (!done) ad_store_collect(store, &d);
    return done;
}

static bool drop_version(const char *name, int number, int digest)
{
    ad_digest d = tu_digest(digest);
    ad_store_change c = {.kind = AD_DROP_VERSION, .version = {.number = number}};
    strcpy(c.version.name, name);
    if (!commit(&c, 1)) return false;
    ad_store_collect(store, &d);
    return true;
}

static bool drop_adapter(const char *name, int digest)
{
    ad_digest d = tu_digest(digest);
    ad_store_change c = tu_drop_adapter(name);
    if (!commit(&c, 1)) return false;
    ad_store_collect(store, &d);
    return true;
}

/* A step that fails is tried once more, as its client would; one that fails again is left out. */
#define TRY(what) ((what) || (what))

static bool play(void)
{
    if (!TRY(open_store())) return false;
    (void)TRY(admit("a", 1, 1));
    (void)TRY(admit("b", 1, 2));
    (void)TRY(admit("a", 2, 3));
    (void)TRY(admit("c", 1, 2)); /* that blob is there */
    (void)TRY(drop_version("a", 1, 1));
    if (!TRY(reopen())) return false;
    (void)TRY(admit("d", 1, 4));
    (void)TRY(drop_adapter("b", 2)); /* c has the blob, too */
    (void)TRY(drop_adapter("c", 2));
    (void)TRY(admit("b", 1, 2));
    if (!TRY(reopen())) return false;
    return TRY(admit("a", 3, 5));
}

static void begin(dd_before before, void *user)
{
    tu_make_dir(base);
    snprintf(live, sizeof live, "%s/live", base);
    snprintf(state, sizeof state, "%s/live/state", base);
    ck_assert_int_eq(mkdir(live, 0700), 0);
    disk = dd_new(live);
    dd_use(disk, before, user);
    n_acked = n_maybe = n_operations = 0;
    failed_with = AD_OK;
    rows[0] = '\0';
}

static void end(void)
{
    dd_use(disk, NULL, NULL);
    ad_store_close(&store);
    dd_free(&disk);
    tu_remove_dir(base);
}

/* ---- losing power ---- */

static int check_before(void *user, const dd_op *op)
{
    n_operations++;
    check_all_lucks();
    return 0;
}

START_TEST(power_may_be_lost_at_any_moment)
{
    begin(check_before, NULL);
    ck_assert(play());
    n_operations++;
    check_all_lucks();
    end();
    printf("%d operations, %d states of the disk\n", n_operations, n_checks);
    ck_assert_int_gt(n_operations, 100);
    ck_assert_msg(n_failures == 0, "%d of %d states are wrong; %s", n_failures, n_checks, first_failure);
}
END_TEST

/* Which syncs there are. A store without any one of them must be found out, or these tests prove nothing. */
static bool is_config(const dd_op *op) { return op->kind == DD_SYNC_FILE && strstr(op->path, "adapter_config.json"); }
static bool is_weights(const dd_op *op) { return op->kind == DD_SYNC_FILE && strstr(op->path, "adapter_model.safetensors"); }
static bool is_upload(const dd_op *op) { return op->kind == DD_SYNC_DIR && strstr(op->path, "incoming/"); }
static bool is_fan(const dd_op *op) { return op->kind == DD_SYNC_DIR && strstr(op->path, "blobs/"); }
static bool is_blobs(const dd_op *op) { return op->kind == DD_SYNC_DIR && !strcmp(op->path, "state/blobs"); }
static bool is_state(const dd_op *op) { return op->kind == DD_SYNC_DIR && !strcmp(op->path, "state"); }
static bool is_parent(const dd_op *op) { return op->kind == DD_SYNC_DIR && !*op->path; }
static bool is_log(const dd_op *op) { return op->kind == DD_SYNC_FILE && strstr(op->path, "registry.db-wal"); }
static bool is_database(const dd_op *op) { return op->kind == DD_SYNC_FILE && !strcmp(op->path, "state/registry.db"); }

typedef bool (*sync_kind)(const dd_op *op);
static const sync_kind sync_kinds[] = {is_config, is_weights, is_upload, is_fan, is_blobs, is_state, is_parent, is_log, is_database};
enum { N_SYNC_KINDS = sizeof sync_kinds / sizeof *sync_kinds };

static int n_lies;

static int lie_about(void *user, const dd_op *op)
{
    const sync_kind *kind = user;
    n_operations++;
    if (!n_failures) check_after(DD_NOTHING, 0, "only what was synced is left");
    if (!n_failures) check_after(DD_NAMES, 0, "names are left, too");
    if (!(*kind)(op)) return 0;
    n_lies++;
    return DD_LIE;
}

START_TEST(no_sync_can_be_left_out_without_being_found_out)
{
    sync_kind kind = sync_kinds[_i];
    begin(lie_about, &kind);
    ck_assert(play());
    end();
    ck_assert_msg(n_lies > 0, "there is no sync of kind %d", _i);
    ck_assert_msg(n_failures > 0, "kind %d was left out %d times, and all was well", _i, n_lies);
}
END_TEST

/* Every sync is of one of those kinds, or of SQLite's rollback journal, which is there only while the database is made. */
static int know_sync(void *user, const dd_op *op)
{
    bool known = (op->kind != DD_SYNC_FILE && op->kind != DD_SYNC_DIR) || strstr(op->path, "registry.db-journal");
    for (int i = 0; i < N_SYNC_KINDS; i++) known |= sync_kinds[i](op);
    ck_assert_msg(known, "a sync of %s", op->path);
    return 0;
}

START_TEST(every_sync_is_of_a_kind_that_is_left_out_above)
{
    begin(know_sync, NULL);
    ck_assert(play());
    end();
}
END_TEST

/* Two clients upload the same at once: the second finds the blob there before the first has synced its name. */
static int upload_again(void *user, const dd_op *op)
{
    bool *begun = user;
    if (is_fan(op) && !*begun) {
        *begun = true;
        ck_assert(admit("second", 1, 1));
        check_after(DD_NOTHING, 0, "the first has not come so far, and only what was synced is left");
    }
    return 0;
}

START_TEST(who_finds_a_blob_there_makes_sure_that_it_stays)
{
    bool begun = false;
    begin(upload_again, &begun);
    ck_assert(open_store() && admit("first", 1, 1));
    check_all_lucks();
    end();
    ck_assert(begun);
    ck_assert_msg(n_failures == 0, "%s", first_failure);
}
END_TEST

/* What a restarted daemon has shown must not go with the power. */
static void check_shown(ad_store *s)
{
    char kept[sizeof rows];
    int kept_maybe = n_maybe;
    strcpy(kept, rows);
    strcpy(rows, tu_read_rows(s)->text);
    n_maybe = 0;
    check_after(DD_NOTHING, 0, "killed, started, and only what was synced is left");
    strcpy(rows, kept);
    n_maybe = kept_maybe;
}

static int check_killed(void *user, const dd_op *op)
{
    char dir[AD_STORE_PATH], sub[2 * AD_STORE_PATH];
    dd_disk *killed = disk;
    ad_store *s = NULL;
    n_operations++;
    tu_make_dir(dir);
    snprintf(sub, sizeof sub, "%s/state", dir);
    disk = dd_kill(killed, dir);
    dd_use(disk, NULL, NULL);
    if (ad_store_open_on(&s, sub, &dd_files, dd_vfs(), &err) == AD_OK) check_shown(s);
    else fail_check("killed and started", err.msg);
    ad_store_close(&s);
    dd_free(&disk);
    disk = killed;
    dd_use(disk, check_killed, NULL);
    tu_remove_dir(dir);
    return 0;
}

START_TEST(what_a_start_after_a_kill_shows_survives_a_power_loss)
{
    begin(check_killed, NULL);
    ck_assert(play());
    end();
    ck_assert_int_gt(n_checks, 100);
    ck_assert_msg(n_failures == 0, "%d of %d states are wrong; %s", n_failures, n_checks, first_failure);
}
END_TEST

/* ---- a disk that is full, or breaks ---- */

enum { SHORTLY = 15 }; /* operations: what the store does about a failed commit is among them */

typedef struct {
    int at, error; /* the operation that fails */
    bool for_good; /* and all after it */
} fault;

static int break_at(void *user, const dd_op *op)
{
    fault *f = user;
    int at = n_operations++;
    if (!f->for_good && at > f->at && at < f->at + SHORTLY) check_after(DD_ALL, 0, "shortly after a fault, and all is left");
    if (at != f->at && !(f->for_good && at > f->at)) return 0;
    if (f->error == ENOSPC && op->kind == DD_REMOVE) return 0; /* takes no space */
    return f->error;
}

static char wanted[sizeof rows]; /* of a script that met no fault */

static void play_with(fault *f)
{
    begin(break_at, f);
    play();
    dd_use(disk, NULL, NULL);
    n_operations = f->at; /* for messages */
    if (!f->for_good && strcmp(rows, wanted)) fail_check("one operation failed, and a second try left", rows);
    if (f->error == ENOSPC && failed_with != AD_OK && failed_with != AD_EFULL) fail_check("the disk was full", failed_because);
    check_after(DD_NOTHING, 0, "a fault, and only what was synced is left");
    check_after(DD_BYTES, 0, "a fault, and bytes are left, too");
    check_after(DD_ALL, 0, "a fault, and all is left");
    end();
}

static int break_fan(void *user, const dd_op *op) { return is_fan(op) ? EIO : 0; }

START_TEST(a_blob_whose_name_cannot_be_synced_is_no_blob)
{
    begin(break_fan, NULL);
    ck_assert(open_store() && !admit("a", 1, 1));
    ck_assert_int_eq(failed_with, AD_EIO);
    ck_assert_int_eq(count_blobs(state), 0);
    ck_assert_int_eq(count_entries(state, "incoming"), 0);
    end();
}
END_TEST

/* loops: 0: one operation finds no space; 1: from it on; 2, 3: the same with an error of the medium */
START_TEST(a_disk_that_fills_or_breaks_at_any_moment_takes_nothing_that_was_acknowledged)
{
    fault f = {.at = -SHORTLY, .error = _i < 2 ? ENOSPC : EIO};
    begin(break_at, &f);
    ck_assert(play());
    strcpy(wanted, rows);
    int operations = n_operations;
    end();
    f.for_good = _i % 2;
    for (f.at = 0; f.at < operations; f.at++) play_with(&f);
    ck_assert_int_gt(operations, 100);
    ck_assert_msg(n_failures == 0, "%d of %d states are wrong; %s", n_failures, n_checks, first_failure);
}
END_TEST

int main(void)
{
    if (!getenv("TMPDIR") && access("/dev/shm", W_OK) == 0) setenv("TMPDIR", "/dev/shm", 1); /* the double says what is durable: no need to wait for a disk */
    Suite *suite = suite_create("power_loss");
    TCase *tc = tcase_create("power_loss");
    tcase_set_timeout(tc, 60);
    tcase_add_test(tc, power_may_be_lost_at_any_moment);
    tcase_add_loop_test(tc, no_sync_can_be_left_out_without_being_found_out, 0, N_SYNC_KINDS);
    tcase_add_test(tc, every_sync_is_of_a_kind_that_is_left_out_above);
    tcase_add_test(tc, who_finds_a_blob_there_makes_sure_that_it_stays);
    tcase_add_test(tc, what_a_start_after_a_kill_shows_survives_a_power_loss);
    tcase_add_test(tc, a_blob_whose_name_cannot_be_synced_is_no_blob);
    tcase_add_loop_test(tc, a_disk_that_fills_or_breaks_at_any_moment_takes_nothing_that_was_acknowledged, 0, 4);
    suite_add_tcase(suite, tc);
    return tu_run(suite);
}
