/* SPDX-License-Identifier: MIT */
/* Keys, their secret, globs, and tenants and keys as they are read from a store. */
#include <time.h>

#include "core/base/mem.h"
#include "server/tenancy/change.h"
#include "server/tenancy/glob.h"
#include "server/tenancy/private.h"
#include "server/tenancy/secret.h"
#include "server/tenancy/table.h"
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

static char dir[AD_STORE_PATH];
static ad_err err;

static void make_dir(void) { tu_make_dir(dir); }
static void remove_dir(void) { tu_remove_dir(dir); }

/* ---- keys ---- */

/* Cases 1 and 2 of RFC 4231; HMAC fills its keys up with zeros. */
START_TEST(the_mac_is_hmac_sha256)
{
    static const struct { const char *key, *text, *hex; } rows[] = {
        {"\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b\x0b", "Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"},
        {"Jefe", "what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t secret[AD_KEY_SECRET] = {0};
        char hex[65];
        ad_digest mac;
        memcpy(secret, rows[i].key, strlen(rows[i].key));
        ck_assert_int_eq(ad_key_mac(secret, rows[i].text, &mac, &err), AD_OK);
        ad_digest_hex(&mac, hex);
        ck_assert_str_eq(hex, rows[i].hex);
    }
}
END_TEST

START_TEST(a_key_has_its_form_and_no_two_are_alike)
{
    char before[AD_KEY_TEXT + 1] = "", text[AD_KEY_TEXT + 1], id[AD_KEY_ID + 1];
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(ad_key_make(text, &err), AD_OK);
        ck_assert_uint_eq(strlen(text), AD_KEY_TEXT);
        ck_assert(ad_key_read_id(text, id));
        ck_assert_int_eq(strncmp(text + 6, id, AD_KEY_ID), 0);
        ck_assert_uint_eq(strspn(text + 19, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), 43);
        ck_assert_str_ne(text + 19, before);
        strcpy(before, text + 19);
    }
}
END_TEST

START_TEST(what_has_not_the_form_of_a_key_has_no_id)
{
    static const char good[] = "sk-ad-0123456789ab-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    char id[AD_KEY_ID + 1], text[AD_KEY_TEXT + 2];
    ck_assert(ad_key_read_id(good, id));
    for (size_t n = 0; n < sizeof good - 1; n++) {
        snprintf(text, sizeof text, "%.*s", (int)n, good);
        ck_assert(!ad_key_read_id(text, id));
    }
    snprintf(text, sizeof text, "%sA", good);
    ck_assert(!ad_key_read_id(text, id));
    ck_assert(!ad_key_read_id("sk-ad-0123456789AB-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", id));
    ck_assert(!ad_key_read_id("sk-xx-0123456789ab-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", id));
}
END_TEST

START_TEST(the_secret_is_made_once_and_is_its_owner_s_alone)
{
    uint8_t first[AD_KEY_SECRET] = {0}, again[AD_KEY_SECRET] = {0};
    struct stat st;
    char path[2 * AD_STORE_PATH];
    ck_assert_int_eq(ad_key_secret_open(first, dir, false, &err), AD_OK);
    ck_assert_int_eq(ad_key_secret_open(again, dir, true, &err), AD_OK);
    ck_assert_mem_eq(first, again, sizeof first);
    snprintf(path, sizeof path, "%s/key.secret", dir);
    ck_assert_int_eq(stat(path, &st), 0);
    ck_assert_int_eq(st.st_mode & 0777, 0600);
    ck_assert_int_eq(st.st_size, AD_KEY_SECRET);
}
END_TEST

START_TEST(a_secret_that_is_gone_or_not_whole_is_told)
{
    uint8_t secret[AD_KEY_SECRET];
    ck_assert_int_eq(ad_key_secret_open(secret, dir, true, &err), AD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.msg, "key.secret is missing"));
    tu_write_file(dir, "key.secret", "short");
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.msg, "key.secret is not the file"));
}
END_TEST

/* ---- globs ---- */

START_TEST(globs_match_as_a_shell_s_do_also_across_slashes)
{
    static const struct { const char *glob, *name; bool matches; } rows[] = {
        {"*", "", true}, {"*", "a/b", true}, {"", "", true}, {"", "a", false}, {"a", "a", true}, {"a", "b", false}, {"a", "aa", false}, {"a*", "a", true}, {"a*", "abc", true}, {"*c", "abc", true},
        {"*b", "abc", false}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"?", "", false}, {"sql-*", "sql-1", true}, {"sql-*", "sql", false}, {"*-v?-*", "a-v1-b-v22-c", true}, {"*ab", "aab", true},
        {"*aab", "aaaab", true}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "acb", false}, {"**", "x", true}, {"[a]", "a", false}, {"[a]", "[a]", true}, {"\\*", "\\x", true}, {"team/*", "team/x/y", true}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) ck_assert_msg(ad_glob_matches(rows[i].glob, rows[i].name) == rows[i].matches, "%s on %s", rows[i].glob, rows[i].name);
}
END_TEST

START_TEST(a_hostile_glob_takes_no_longer_than_its_length_times_the_name_s)
{
    char glob[AD_MAX_NAME + 1], name[AD_MAX_NAME + 1];
    for (int i = 0; i < AD_MAX_NAME; i++) glob[i] = i % 2 ? 'a' : '*', name[i] = 'a';
    glob[AD_MAX_NAME - 1] = 'b';
    glob[AD_MAX_NAME] = name[AD_MAX_NAME] = '\0';
    for (int i = 0; i < 1000; i++) ck_assert(!ad_glob_matches(glob, name)); /* one alone would take ages */
}
END_TEST

/* ---- tables ---- */

START_TEST(a_table_finds_what_is_in_it_and_nothing_else_whatever_is_removed)
{
    enum { N = 2000 };
    static char names[N][16];
    static bool in[N];
    ad_table t = {0};
    unsigned seed = 1;
    for (int i = 0; i < N; i++) snprintf(names[i], sizeof names[i], "n%d", i);
    for (int turn = 0; turn < 20000; turn++) {
        seed = seed * 1103515245u + 12345u;
        int i = (int)(seed >> 8) % N;
        if (in[i]) {
            ad_table_remove(&t, names[i]);
        } else {
            ck_assert_int_eq(ad_table_make_room(&t), AD_OK);
            ad_table_add(&t, names[i], &names[i]);
        }
        in[i] = !in[i];
    }
    for (int i = 0; i < N; i++) ck_assert_ptr_eq(ad_table_find(&t, names[i]), in[i] ? &names[i] : NULL);
    ck_assert_ptr_null(ad_table_find(&t, "x"));
    ad_table_deinit(&t);
}
END_TEST

/* ---- a store's ---- */

static ad_store *open_store(void)
{
    ad_store *s = NULL;
    ck_assert_msg(ad_store_open(&s, dir, &err) == AD_OK, "%s", err.msg);
    return s;
}

static ad_tenancy *read_tenancy(ad_store *s)
{
    ad_tenancy *t = NULL;
    ck_assert_msg(ad_tenancy_new(&t, s, &err) == AD_OK, "%s", err.msg);
    return t;
}

static void commit(ad_store *s, const ad_store_change *changes, int n)
{
    ck_assert_int_eq(ad_store_begin(s, &err), AD_OK);
    ck_assert_msg(ad_store_apply(s, changes, n, &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(ad_store_commit(s, &err), AD_OK);
}

static ad_store_change put_tenant(const char *name)
{
    ad_store_change c = {.kind = AD_PUT_TENANT, .tenant = {.created = 1700000000, .weight = 1}};
    snprintf(c.tenant.name, sizeof c.tenant.name, "%s", name);
    return c;
}

/* Of a key whose text is known; verbs and adapters are literals. */
static ad_store_change put_key(const uint8_t *secret, const char *text, const char *tenant, const char *verbs, const char *adapters)
{
    ad_store_change c = {.kind = AD_PUT_KEY, .key = {.created = 1700000000, .verbs = (char *)verbs, .adapters = (char *)adapters}};
    snprintf(c.key.tenant, sizeof c.key.tenant, "%s", tenant);
    ck_assert(ad_key_read_id(text, c.key.id));
    ck_assert_int_eq(ad_key_mac(secret, text, &c.key.mac, &err), AD_OK);
    return c;
}

START_TEST(the_admin_key_made_offline_may_everything_after_a_restart)
{
    char text[AD_KEY_TEXT + 1];
    ad_store *s = open_store();
    ad_tenancy *t = read_tenancy(s);
    ck_assert(!ad_tenancy_has_keys(t));
    ck_assert(ad_tenancy_nobody(t)->is_operator);
    ck_assert_int_eq(ad_tenancy_make_admin_key(t, s, "boss", text, &err), AD_OK);
    ad_tenancy_free(&t);
    ad_store_close(&s);
    s = open_store();
    t = read_tenancy(s);
    ck_assert(ad_tenancy_has_keys(t));
    ck_assert(!ad_tenancy_nobody(t)->is_operator);
    const ad_caller *c = ad_tenancy_identify(t, text);
    ck_assert_ptr_nonnull(c);
    ck_assert(c->is_operator);
    ck_assert_str_eq(c->key->name, "boss");
    for (int v = 0; v < AD_VERBS; v++) {
        if (v == AD_VERB_OPEN) continue;
        ck_assert_msg(ad_caller_may(c, v, "any/thing"), "%s", ad_verb_name(v));
        ck_assert(!ad_caller_may(ad_tenancy_nobody(t), v, NULL));
    }
    text[AD_KEY_TEXT - 1] = text[AD_KEY_TEXT - 1] == 'A' ? 'E' : 'A';
    ck_assert_ptr_null(ad_tenancy_identify(t, text));
    ad_tenancy_free(&t);
    ad_store_close(&s);
}
END_TEST

START_TEST(keys_that_expired_or_were_revoked_are_nobody_s)
{
    char text[3][AD_KEY_TEXT + 1];
    uint8_t secret[AD_KEY_SECRET];
    ad_store *s = open_store();
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_OK);
    for (int i = 0; i < 3; i++) ck_assert_int_eq(ad_key_make(text[i], &err), AD_OK);
    ad_store_change rows[3] = {put_key(secret, text[0], "default", "admin", "[\"*\"]"), put_key(secret, text[1], "default", "infer", "[\"*\"]"), put_key(secret, text[2], "default", "infer", "[\"*\"]")};
    rows[0].key.expires = time(NULL) + 1000000;
    rows[1].key.expires = time(NULL) - 1;
    rows[2].key.revoked = 1700000001;
    commit(s, rows, 3);
    ad_tenancy *t = read_tenancy(s);
    ck_assert_ptr_nonnull(ad_tenancy_identify(t, text[0]));
    ck_assert_ptr_null(ad_tenancy_identify(t, text[1]));
    ck_assert_ptr_null(ad_tenancy_identify(t, text[2]));
    ck_assert_ptr_null(ad_tenancy_identify(t, ""));
    ck_assert_ptr_null(ad_tenancy_identify(t, "sk-ad-"));
    ad_tenancy_free(&t);
    ad_store_close(&s);
}
END_TEST

START_TEST(a_key_may_what_its_verbs_and_globs_both_allow)
{
    char text[AD_KEY_TEXT + 1];
    uint8_t secret[AD_KEY_SECRET];
    ad_store *s = open_store();
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_OK);
    ck_assert_int_eq(ad_key_make(text, &err), AD_OK);
    ad_store_change rows[2] = {put_tenant("acme"), put_key(secret, text, "acme", "infer,list", "[\"sql-*\",\"base\"]")};
    commit(s, rows, 2);
    ad_tenancy *t = read_tenancy(s);
    const ad_caller *c = ad_tenancy_identify(t, text);
    ck_assert_ptr_nonnull(c);
    ck_assert_str_eq(c->tenant->name, "acme");
    ck_assert_int_gt(c->tenant->id, 0);
    ck_assert(!c->is_operator);
    ck_assert(ad_caller_may(c, AD_VERB_INFER, NULL));
    ck_assert(ad_caller_may(c, AD_VERB_INFER, "sql-1"));
    ck_assert(ad_caller_may(c, AD_VERB_LIST, "base"));
    ck_assert(!ad_caller_may(c, AD_VERB_INFER, "other"));
    ck_assert(!ad_caller_may(c, AD_VERB_UPLOAD, "sql-1"));
    ck_assert(!ad_caller_may(c, AD_VERB_ADMIN, NULL));
    c = ad_caller_retain(c);
    ad_tenancy_free(&t);
    ck_assert_str_eq(c->tenant->name, "acme"); /* it outlives them all */
    ck_assert(ad_caller_may(c, AD_VERB_INFER, "sql-1"));
    ad_caller_release(c);
    ad_store_close(&s);
}
END_TEST

START_TEST(keys_without_the_secret_they_were_made_with_are_refused_at_start)
{
    char text[AD_KEY_TEXT + 1], path[2 * AD_STORE_PATH];
    ad_store *s = open_store();
    ad_tenancy *t = read_tenancy(s);
    ck_assert_int_eq(ad_tenancy_make_admin_key(t, s, NULL, text, &err), AD_OK);
    ad_tenancy_free(&t);
    snprintf(path, sizeof path, "%s/key.secret", dir);
    ck_assert_int_eq(unlink(path), 0);
    ck_assert_int_eq(ad_tenancy_new(&t, s, &err), AD_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.msg, "key.secret is missing"));
    ck_assert(!tu_exists(path));
    ad_store_close(&s);
}
END_TEST

START_TEST(ten_thousand_keys_are_told_apart)
{
    enum { N = 10000 };
    static char texts[N][AD_KEY_TEXT + 1];
    uint8_t secret[AD_KEY_SECRET];
    ad_store *s = open_store();
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_OK);
    ck_assert_int_eq(ad_store_begin(s, &err), AD_OK);
    for (int i = 0; i < N; i++) {
        char tenant[16];
        snprintf(tenant, sizeof tenant, "t%d", i % 100);
        ck_assert_int_eq(ad_key_make(texts[i], &err), AD_OK);
        ad_store_change rows[2] = {put_tenant(tenant), put_key(secret, texts[i], tenant, "infer", "[\"*\"]")};
        ck_assert_int_eq(ad_store_apply(s, rows, 2, &err), AD_OK);
    }
    ck_assert_int_eq(ad_store_commit(s, &err), AD_OK);
    ad_tenancy *t = read_tenancy(s);
    for (int i = 0; i < N; i++) {
        const ad_caller *c = ad_tenancy_identify(t, texts[i]);
        ck_assert_ptr_nonnull(c);
        ck_assert_int_eq(atoi(c->tenant->name + 1), i % 100);
        ck_assert_int_eq(strncmp(c->key->id, texts[i] + 6, AD_KEY_ID), 0);
    }
    ad_tenancy_free(&t);
    ad_store_close(&s);
}
END_TEST

static ad_status check_used(void *user, const ad_stored_key *k, ad_err *why)
{
    (void)why;
    *(int *)user += k->last_used > 0;
    return AD_OK;
}

/* A change that comes while the uses of many keys are written waits for one slice of them, and a key that is in use all the time does not make the writing endless. */
START_TEST(uses_of_many_keys_are_written_in_slices_that_let_changes_through)
{
    enum { N = 2600 };
    static char texts[N][AD_KEY_TEXT + 1];
    uint8_t secret[AD_KEY_SECRET];
    uv_loop_t loop;
    ad_store *s = open_store();
    ad_store_thread *thread = NULL;
    int used = 0;
    ck_assert_int_eq(uv_loop_init(&loop), 0);
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_OK);
    ck_assert_int_eq(ad_store_begin(s, &err), AD_OK);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(ad_key_make(texts[i], &err), AD_OK);
        ad_store_change row = put_key(secret, texts[i], "default", "infer", "[\"*\"]");
        ck_assert_int_eq(ad_store_apply(s, &row, 1, &err), AD_OK);
    }
    ck_assert_int_eq(ad_store_commit(s, &err), AD_OK);
    ad_tenancy *t = read_tenancy(s);
    ck_assert_int_eq(ad_store_thread_new(&thread, &loop, s, &err), AD_OK);
    ad_tenancy_start(t, thread, NULL);
    for (int i = 0; i < N - 1; i++) ck_assert_ptr_nonnull(ad_tenancy_identify(t, texts[i]));
    t->saved_uses = 0; /* a minute has gone */
    ck_assert_ptr_nonnull(ad_tenancy_identify(t, texts[N - 1]));
    for (size_t before = N; t->n_unsaved; before = t->n_unsaved) {
        ck_assert_uint_le(before - t->n_unsaved, 500);
        uint64_t commits = ad_store_thread_commits(thread);
        while (ad_store_thread_commits(thread) == commits) uv_run(&loop, UV_RUN_NOWAIT);
        uv_run(&loop, UV_RUN_NOWAIT);
    }
    ck_assert_uint_ge(ad_store_thread_commits(thread), N / 500);
    for (int i = 0; i < 10; i++) ck_assert_ptr_nonnull(ad_tenancy_identify(t, texts[i])); /* the next minute's */
    uint64_t commits = ad_store_thread_commits(thread);
    for (int i = 0; i < 10; i++) uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_uint_eq(t->n_unsaved, 10);
    ck_assert_uint_le(ad_store_thread_commits(thread), commits + 1);
    ad_tenancy_stop(t);
    ad_store_thread_close(&thread, NULL, NULL);
    ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    ad_tenancy_free(&t);
    s = open_store();
    ck_assert_int_eq(ad_store_read(s, &(ad_store_reader){.key = check_used, .user = &used}, &err), AD_OK);
    ck_assert_int_eq(used, N);
    ad_store_close(&s);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}
END_TEST

START_TEST(a_tenant_that_goes_takes_its_keys_along_and_no_other)
{
    enum { N = 60 };
    static char texts[N][AD_KEY_TEXT + 1];
    uint8_t secret[AD_KEY_SECRET];
    ad_store_change tenants[] = {put_tenant("t0"), put_tenant("t1"), put_tenant("t2")};
    ad_store *s = open_store();
    ck_assert_int_eq(ad_key_secret_open(secret, dir, false, &err), AD_OK);
    commit(s, tenants, 3);
    for (int i = 0; i < N; i++) {
        ck_assert_int_eq(ad_key_make(texts[i], &err), AD_OK);
        ad_store_change row = put_key(secret, texts[i], i % 3 == 0 ? "t0" : i % 3 == 1 ? "t1" : "t2", "infer", "[\"*\"]");
        row.key.created += i;
        commit(s, &row, 1);
    }
    ad_tenancy *t = read_tenancy(s);
    for (int i = 0; i < N; i++) ck_assert_ptr_nonnull(ad_tenancy_identify(t, texts[i]));
    const ad_caller *held = ad_caller_retain(ad_tenancy_identify(t, texts[1]));
    ad_tenancy_remove_tenant(t, ad_tenancy_find_tenant(t, "t1"));
    ck_assert_ptr_null(ad_tenancy_find_tenant(t, "t1"));
    for (int i = 0; i < N; i++) ck_assert_int_eq(ad_tenancy_identify(t, texts[i]) != NULL, i % 3 != 1);
    ck_assert_uint_eq(t->n_unsaved, N - N / 3);
    size_t n = 0;
    for (const ad_key *k, *before = NULL; (k = ad_tenancy_key(t, n)); n++, before = k) ck_assert(!before || before->created < k->created);
    ck_assert_uint_eq(n, N - N / 3);
    ck_assert_str_eq(held->tenant->name, "t1"); /* who was let in before keeps its tenant */
    ad_caller_release(held);
    ad_tenancy_free(&t);
    ad_store_close(&s);
}
END_TEST

START_TEST(a_tenant_s_name_is_a_label)
{
    static const char *const good[] = {"a", "acme", "a-1", "a--b-"}, *const bad[] = {"", "1a", "-a", "A", "a_b", "a/b", "a.b", "a b", "\xC3\xA4"};
    char longest[AD_TENANT_NAME + 2];
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) ck_assert_int_eq(ad_tenant_check_name(good[i], &err), AD_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_int_eq(ad_tenant_check_name(bad[i], &err), AD_EINVAL);
    memset(longest, 'a', sizeof longest);
    longest[AD_TENANT_NAME + 1] = '\0';
    ck_assert_int_eq(ad_tenant_check_name(longest, &err), AD_EINVAL);
    longest[AD_TENANT_NAME] = '\0';
    ck_assert_int_eq(ad_tenant_check_name(longest, &err), AD_OK);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("tenancy");
    TCase *tc = tcase_create("tenancy");
    tcase_add_checked_fixture(tc, make_dir, remove_dir);
    tcase_add_test(tc, the_mac_is_hmac_sha256);
    tcase_add_test(tc, a_key_has_its_form_and_no_two_are_alike);
    tcase_add_test(tc, what_has_not_the_form_of_a_key_has_no_id);
    tcase_add_test(tc, the_secret_is_made_once_and_is_its_owner_s_alone);
    tcase_add_test(tc, a_secret_that_is_gone_or_not_whole_is_told);
    tcase_add_test(tc, globs_match_as_a_shell_s_do_also_across_slashes);
    tcase_add_test(tc, a_hostile_glob_takes_no_longer_than_its_length_times_the_name_s);
    tcase_add_test(tc, a_table_finds_what_is_in_it_and_nothing_else_whatever_is_removed);
    tcase_add_test(tc, the_admin_key_made_offline_may_everything_after_a_restart);
    tcase_add_test(tc, keys_that_expired_or_were_revoked_are_nobody_s);
    tcase_add_test(tc, a_key_may_what_its_verbs_and_globs_both_allow);
    tcase_add_test(tc, keys_without_the_secret_they_were_made_with_are_refused_at_start);
    tcase_add_test(tc, ten_thousand_keys_are_told_apart);
    tcase_add_test(tc, uses_of_many_keys_are_written_in_slices_that_let_changes_through);
    tcase_add_test(tc, a_tenant_that_goes_takes_its_keys_along_and_no_other);
    tcase_add_test(tc, a_tenant_s_name_is_a_label);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
