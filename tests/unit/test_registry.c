/* SPDX-License-Identifier: MIT */
/* Names, versions, aliases, leases, and who is in memory. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>

#include "adapters/registry.h"

static ad_model *base;
static ad_registry *reg;
static int n_gone;
static int last_gone;

static void on_gone(void *user, ad_version *v)
{
    (void)user;
    n_gone++;
    last_gone = v->number;
}

static void open_with(size_t budget)
{
    ad_err err;
    ck_assert_int_eq(ad_registry_new(&reg, budget, on_gone, NULL, &err), AD_OK);
}

static void setup(void)
{
    base = golden_model("models/llama-gqa");
    n_gone = 0;
    open_with(0);
}

static void teardown(void)
{
    ad_registry_free(&reg);
    ad_model_free(&base);
}

static ad_adapter *load(void)
{
    ad_err err;
    ad_adapter *a = NULL;
    ck_assert_msg(ad_adapter_load(&a, "x", golden_path("adapters/qv"), base, &err) == AD_OK, "%s", err.msg);
    return a;
}

static ad_entry *add(const char *name)
{
    ad_err err;
    ad_entry *e = NULL;
    ck_assert_msg(ad_registry_add(reg, name, AD_ORIGIN_STORE, &e, &err) == AD_OK, "%s", err.msg);
    return e;
}

/* A version that fits, with a digest of one repeated byte. */
static ad_version *add_version(ad_entry *e, int byte)
{
    ad_err err;
    ad_version *v = NULL;
    ad_digest d;
    memset(&d, byte, sizeof d);
    ck_assert_msg(ad_registry_add_version(reg, e, 0, &d, &v, &err) == AD_OK, "%s", err.msg);
    v->checked = v->fits = true;
    return v;
}

static ad_version *add_active(const char *name)
{
    ad_entry *e = add(name);
    ad_version *v = add_version(e, 1);
    ad_registry_activate(e, v);
    return v;
}

static ad_version *resolve(const char *model, uint64_t hash)
{
    ad_err err;
    ad_version *v = NULL;
    return ad_registry_resolve(reg, model, hash, &v, &err) == AD_OK ? v : NULL;
}

static ad_status why_not(const char *model)
{
    ad_err err;
    ad_version *v = NULL;
    return ad_registry_resolve(reg, model, 0, &v, &err);
}

static void set_alias(const char *name, const char *first, int weight, const char *second, int weight2)
{
    ad_err err;
    ad_target *t = calloc(2, sizeof *t);
    t[0] = (ad_target){strdup(first), weight};
    t[1] = (ad_target){strdup(second), weight2};
    ck_assert_msg(ad_registry_set_alias(reg, name, t, 2, NULL, &err) == AD_OK, "%s", err.msg);
}

/* ---- names ---- */

START_TEST(names_are_parts_of_safe_characters)
{
    static const char *const good[] = {"a", "A-1_b.c:d", "tenant/name", "a/b/c", "..a", "a..", "...", "events"};
    static const char *const bad[] = {"", ".", "..", "a/", "/a", "a//b", "a/../b", "a/.", "a b", "a@1", "a,b", "a\n", "\xc3\xa4", "a%2Fb"};
    char longest[AD_MAX_NAME + 2];
    memset(longest, 'x', sizeof longest);
    longest[AD_MAX_NAME] = '\0';
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) ck_assert_msg(ad_registry_check_name(good[i], NULL) == AD_OK, "%s", good[i]);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(ad_registry_check_name(bad[i], NULL) == AD_EINVAL, "%s", bad[i]);
    ck_assert_int_eq(ad_registry_check_name(longest, NULL), AD_OK);
    longest[AD_MAX_NAME] = 'x', longest[AD_MAX_NAME + 1] = '\0';
    ck_assert_int_eq(ad_registry_check_name(longest, NULL), AD_EINVAL);
}
END_TEST

START_TEST(names_are_listed_in_order_and_taken_once)
{
    ad_err err;
    add("z"), add("a"), add("m");
    ck_assert_int_eq(ad_registry_add(reg, "m", AD_ORIGIN_STORE, NULL, &err), AD_EEXIST);
    ck_assert_uint_eq(ad_registry_count(reg), 3);
    ck_assert_str_eq(ad_registry_at(reg, 0)->name, "a");
    ck_assert_str_eq(ad_registry_at(reg, 2)->name, "z");
    ck_assert_uint_eq(ad_registry_position(reg, "b"), 1);
    ck_assert_uint_eq(ad_registry_position(reg, "zz"), 3);
    ad_registry_remove(reg, ad_registry_find(reg, "a"));
    ck_assert_ptr_null(ad_registry_find(reg, "a"));
    ck_assert_str_eq(ad_registry_at(reg, 0)->name, "m");
}
END_TEST

START_TEST(an_id_is_one_adapter_s_for_ever)
{
    add("z")->created = 5, add("a")->created = 9, add("m")->created = 5;
    ad_registry_number_by_age(reg);
    static const char *const by_age[] = {"m", "z", "a"};
    for (int i = 0; i < 3; i++) {
        ck_assert_str_eq(ad_registry_by_id(reg, i)->name, by_age[i]);
        ck_assert_ptr_eq(ad_registry_by_id(reg, i), ad_registry_at_id(reg, (size_t)i));
    }
    set_alias("alias", "a", 1, "m", 1);
    ck_assert_int_eq(ad_registry_find(reg, "alias")->id, -1);
    ad_registry_remove(reg, ad_registry_find(reg, "z"));
    ad_registry_remove(reg, ad_registry_find(reg, "a"));
    ck_assert_int_eq(add("b")->id, 3);
    static const char *const left[] = {"m", NULL, NULL, "b", NULL};
    for (int i = 0; i < 5; i++) {
        const ad_entry *e = ad_registry_by_id(reg, i);
        if (left[i]) ck_assert_str_eq(e->name, left[i]);
        else ck_assert_ptr_null(e);
    }
    ck_assert_ptr_null(ad_registry_by_id(reg, -1));
    ad_registry_remove(reg, ad_registry_find(reg, "alias"));
    ck_assert_uint_eq(ad_registry_adapters(reg), 2);
    ck_assert_str_eq(ad_registry_at_id(reg, 1)->name, "b");
}
END_TEST

START_TEST(ten_thousand_names_are_found_and_removed)
{
    char name[32];
    for (int i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "adapter-%d", i * 7919 % 10000);
        add_version(add(name), i);
    }
    for (int i = 0; i < 10000; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        ck_assert_ptr_nonnull(ad_registry_find(reg, name));
        if (i % 2) ad_registry_remove(reg, ad_registry_find(reg, name));
    }
    ck_assert_uint_eq(ad_registry_count(reg), 5000);
    ck_assert_ptr_nonnull(ad_registry_find(reg, "adapter-0"));
    ck_assert_ptr_null(ad_registry_find(reg, "adapter-1"));
    ck_assert_int_eq(n_gone, 5000);
}
END_TEST

/* ---- versions ---- */

START_TEST(a_model_names_the_active_version_or_one_by_number_or_digest)
{
    ad_entry *e = add("a");
    ad_version *one = add_version(e, 0x11), *two = add_version(e, 0x22);
    ck_assert_int_eq(why_not("a"), AD_ENOTFOUND);
    ad_registry_activate(e, one);
    ck_assert_ptr_eq(resolve("a", 0), one);
    ck_assert_ptr_eq(resolve("a@2", 0), two);
    ck_assert_ptr_eq(resolve("a@222222222222", 0), two);
    ck_assert_ptr_eq(resolve("a@22222222222222222", 0), two);
    static const char *const unknown[] = {"a@3", "a@0", "a@", "a@22222222222", "a@x", "a@-1", "a@22222222222g", "b", "a@1@1", "@1", "a@99999999999"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) ck_assert_msg(why_not(unknown[i]) == AD_ENOTFOUND, "%s", unknown[i]);
}
END_TEST

START_TEST(a_leased_version_outlives_its_replacement_and_its_name)
{
    ad_version *one = add_active("a");
    ad_entry *e = one->entry;
    ad_registry_set_adapter(one, load());
    ad_version *lease = ad_version_lease(one);
    ad_registry_activate(e, add_version(e, 2));
    ck_assert_ptr_nonnull(lease->adapter);
    ad_registry_remove(reg, e);
    ck_assert_int_eq(n_gone, 1); /* the second */
    ck_assert_ptr_nonnull(lease->adapter);
    ck_assert_int_eq(ad_version_get_state(lease), AD_VERSION_DRAINING);
    ad_registry_stats s;
    ad_registry_get_stats(reg, &s);
    ck_assert_int_eq(s.retired, 1);
    ad_version_release(&lease);
    ad_registry_get_stats(reg, &s);
    ck_assert_int_eq(s.retired, 0);
    ck_assert_uint_eq(s.resident_bytes, 0);
    ck_assert_int_eq(n_gone, 2);
    ck_assert_int_eq(last_gone, 1);
}
END_TEST

START_TEST(a_superseded_version_gives_its_memory_back_with_its_last_lease)
{
    ad_version *one = add_active("a");
    ad_registry_set_adapter(one, load());
    ad_version *lease = ad_version_lease(one), *second = ad_version_lease(one);
    ad_registry_activate(one->entry, add_version(one->entry, 2));
    ad_version_release(&lease);
    ck_assert_ptr_nonnull(one->adapter);
    ad_version_release(&second);
    ck_assert_ptr_null(one->adapter);
    ck_assert_int_eq(ad_version_get_state(one), AD_VERSION_STAGED);
}
END_TEST

START_TEST(five_versions_are_kept_and_those_that_are_needed)
{
    ad_version *first = add_active("a");
    ad_entry *e = first->entry;
    set_alias("canary", "a", 1, "a@2", 1);
    ad_version *second = add_version(e, 2), *third = add_version(e, 3);
    for (int i = 4; i <= 9; i++) add_version(e, i);
    ck_assert(!ad_registry_is_surplus(first)); /* active */
    ck_assert(!ad_registry_is_surplus(second)); /* an alias names it */
    ck_assert(ad_registry_is_surplus(third));
    ck_assert(ad_registry_is_surplus(ad_entry_version(e, 4)));
    ck_assert(!ad_registry_is_surplus(ad_entry_version(e, 5)));
    ad_version *lease = ad_version_lease(third);
    ck_assert(!ad_registry_is_surplus(third));
    ad_version_release(&lease);
    ad_registry_activate(e, ad_entry_version(e, 9));
    ck_assert(!ad_registry_is_surplus(first)); /* what a rollback goes to */
}
END_TEST

START_TEST(a_version_whose_rows_are_not_written_is_not_seen)
{
    ad_version *one = add_active("a"), *two = add_version(one->entry, 2);
    two->pending = true;
    ck_assert_int_eq(why_not("a@2"), AD_ENOTFOUND);
    ck_assert_int_eq(why_not("a@020202020202"), AD_ENOTFOUND);
    ck_assert_int_eq(ad_version_get_state(two), AD_VERSION_VERIFYING);
}
END_TEST

START_TEST(misfits_untrusted_and_leaving_versions_do_not_answer)
{
    ad_version *v = add_active("a");
    v->fits = false;
    ck_assert_int_eq(why_not("a"), AD_EMISMATCH);
    v->checked = false; /* not known yet: its load will tell */
    ck_assert_int_eq(why_not("a"), AD_OK);
    v->checked = v->fits = true;
    v->trusted = false;
    ck_assert_int_eq(why_not("a"), AD_EUNTRUSTED);
    v->trusted = true;
    v->entry->draining = true;
    ck_assert_int_eq(why_not("a"), AD_ENOTFOUND);
}
END_TEST

/* ---- aliases ---- */

START_TEST(an_alias_draws_its_targets_by_weight_and_the_same_hash_draws_the_same)
{
    ad_version *one = add_active("a"), *two = add_version(one->entry, 2);
    set_alias("canary", "a", 90, "a@2", 10);
    int n = 0;
    for (uint64_t h = 0; h < 1000; h++) {
        n += resolve("canary", h) == two;
        ck_assert_ptr_eq(resolve("canary", h), resolve("canary", h));
    }
    ck_assert_int_eq(n, 100);
    ck_assert_int_eq(why_not("canary@1"), AD_ENOTFOUND);
}
END_TEST

START_TEST(aliases_and_adapters_share_their_names)
{
    ad_err err;
    ad_target *t = calloc(1, sizeof *t);
    add_active("a");
    set_alias("b", "a", 1, "a@1", 1);
    ck_assert_int_eq(ad_registry_add(reg, "b", AD_ORIGIN_STORE, NULL, &err), AD_EEXIST);
    ck_assert_int_eq(ad_registry_set_alias(reg, "a", t, 1, NULL, &err), AD_EEXIST);
    free(t);
    ck_assert_uint_eq(ad_registry_adapters(reg), 1);
    ck_assert_uint_eq(ad_registry_count(reg), 2);
    ad_registry_remove(reg, ad_registry_find(reg, "b"));
    ck_assert_uint_eq(ad_registry_adapters(reg), 1);
}
END_TEST

START_TEST(an_alias_of_what_was_removed_answers_nothing)
{
    ad_version *v = add_active("a");
    set_alias("b", "a", 1, "a@1", 1);
    ad_registry_remove(reg, v->entry);
    ck_assert_int_eq(why_not("b"), AD_ENOTFOUND);
}
END_TEST

/* ---- memory ---- */

START_TEST(the_version_unused_for_longest_goes_first_but_never_a_leased_or_pinned_one)
{
    ad_adapter *probe = load();
    size_t one = ad_adapter_packed_bytes(probe);
    ad_adapter_release(&probe);
    ad_registry_free(&reg);
    open_with(4 * one);
    ad_version *v[5];
    static const char *const names[] = {"a", "b", "c", "d", "e"};
    for (int i = 0; i < 5; i++) v[i] = add_active(names[i]);
    for (int i = 0; i < 4; i++) ad_registry_set_adapter(v[i], load());
    v[0]->entry->pinned = true;
    ad_version *lease = ad_version_lease(v[1]);
    ad_registry_touch(v[2], 1);
    ck_assert(ad_registry_make_room(reg, one));
    ck_assert_ptr_nonnull(v[0]->adapter);
    ck_assert_ptr_nonnull(v[1]->adapter);
    ck_assert_ptr_nonnull(v[2]->adapter);
    ck_assert_ptr_null(v[3]->adapter);
    ck_assert(ad_registry_make_room(reg, 2 * one));
    ck_assert_ptr_null(v[2]->adapter);
    ck_assert(!ad_registry_make_room(reg, 3 * one));
    ck_assert(ad_registry_could_fit(reg, 3 * one));
    ck_assert(!ad_registry_could_fit(reg, 4 * one));
    ad_registry_reserve(reg, one);
    ck_assert(!ad_registry_make_room(reg, 2 * one));
    ad_registry_unreserve(reg, one);
    ck_assert(ad_registry_make_room(reg, 2 * one));
    ad_version_release(&lease);
    ad_registry_stats s;
    ad_registry_get_stats(reg, &s);
    ck_assert_uint_eq(s.evictions, 2);
    ck_assert_int_eq(s.residents, 2);
    ck_assert_uint_eq(s.resident_bytes, 2 * one);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("registry");
    TCase *t = tcase_create("registry");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, names_are_parts_of_safe_characters);
    tcase_add_test(t, names_are_listed_in_order_and_taken_once);
    tcase_add_test(t, an_id_is_one_adapter_s_for_ever);
    tcase_add_test(t, ten_thousand_names_are_found_and_removed);
    tcase_add_test(t, a_model_names_the_active_version_or_one_by_number_or_digest);
    tcase_add_test(t, a_leased_version_outlives_its_replacement_and_its_name);
    tcase_add_test(t, a_superseded_version_gives_its_memory_back_with_its_last_lease);
    tcase_add_test(t, five_versions_are_kept_and_those_that_are_needed);
    tcase_add_test(t, a_version_whose_rows_are_not_written_is_not_seen);
    tcase_add_test(t, misfits_untrusted_and_leaving_versions_do_not_answer);
    tcase_add_test(t, an_alias_draws_its_targets_by_weight_and_the_same_hash_draws_the_same);
    tcase_add_test(t, aliases_and_adapters_share_their_names);
    tcase_add_test(t, an_alias_of_what_was_removed_answers_nothing);
    tcase_add_test(t, the_version_unused_for_longest_goes_first_but_never_a_leased_or_pinned_one);
    suite_add_tcase(s, t);
    return tu_run(s);
}
