/* SPDX-License-Identifier: MIT */
/* Who is told of which names: the tenants are acme, beta and ac, whose name begins another's; the shared ones are everybody's. */
#include "tests/unit/suite.h"

#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

#include "server/tenancy/scope.h"

static ad_tenant shared = {.name = AD_SHARED_TENANT}, tenants[] = {{.name = "acme", .id = 1}, {.name = "beta", .id = 2}, {.name = "ac", .id = 3}};
static const ad_caller anybody = {.tenant = &shared, .is_operator = true}, acme = {.tenant = &tenants[0]}, beta = {.tenant = &tenants[1]}, ac = {.tenant = &tenants[2]}, plain = {.tenant = &shared};
static ad_registry *reg;
static const char *glob; /* of every key; NULL: all names */

static const ad_tenant *find_tenant(const void *user, const char *name, size_t len)
{
    (void)user;
    for (size_t i = 0; i < sizeof tenants / sizeof *tenants; i++)
        if (strlen(tenants[i].name) == len && !strncmp(tenants[i].name, name, len)) return &tenants[i];
    return len == strlen(shared.name) && !strncmp(shared.name, name, len) ? &shared : NULL;
}

static bool key_may(const ad_caller *c, ad_verb verb, const char *name)
{
    (void)c, (void)verb;
    return !glob || fnmatch(glob, name, 0) == 0;
}

static ad_scope scope_of(const ad_caller *c)
{
    return (ad_scope){.registry = reg, .caller = c, .verb = AD_VERB_LIST, .rules = {.tenant = find_tenant, .may = key_may}};
}

static ad_entry *add(const char *name)
{
    ad_err err;
    ad_entry *e = NULL;
    ck_assert_msg(ad_registry_add(reg, name, AD_ORIGIN_STORE, &e, &err) == AD_OK, "%s", err.msg);
    return e;
}

static void setup(void)
{
    ad_err err;
    static const char *const names[] = {"acme/sql", "acme/own", "acme/beta/deep", "beta/sql", "beta/secret", "ac/sql", "sql", "help", "zulu", "models/x"};
    glob = NULL;
    ck_assert_int_eq(ad_registry_new(&reg, 0, NULL, NULL, &err), AD_OK);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) add(names[i]);
}

static void teardown(void) { ad_registry_free(&reg); }

/* The whole name of what c calls said. */
static const char *name_of(const ad_caller *c, const char *said)
{
    static char out[AD_SCOPE_NAME];
    ad_scope s = scope_of(c);
    return ad_scope_name(&s, said, out);
}

static bool finds(const ad_caller *c, const char *said)
{
    ad_scope s = scope_of(c);
    return ad_scope_find(&s, said) != NULL;
}

START_TEST(a_name_is_the_callers_own_else_the_shared_one)
{
    ck_assert_str_eq(name_of(&acme, "sql"), "acme/sql");
    ck_assert_str_eq(name_of(&beta, "sql"), "beta/sql");
    ck_assert_str_eq(name_of(&acme, "help"), "help");
    ck_assert_str_eq(name_of(&acme, "models/x"), "models/x");
    ck_assert_str_eq(name_of(&acme, "beta/deep"), "acme/beta/deep");
    ck_assert_str_eq(name_of(&acme, "sql@3"), "acme/sql@3");
    ck_assert_str_eq(name_of(&acme, "help@0123456789ab"), "help@0123456789ab");
    ck_assert_str_eq(name_of(&plain, "sql"), "sql");
}
END_TEST

START_TEST(the_operator_says_whole_names)
{
    static const char *const names[] = {"acme/sql", "sql", "nosuch", "nosuch/x", "beta/secret@2", ""};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) ck_assert_ptr_eq(name_of(&anybody, names[i]), names[i]);
}
END_TEST

START_TEST(what_is_foreign_becomes_a_name_that_is_not_there)
{
    static const char *const said[] = {"beta/sql", "beta/secret", "acme/sql", "acme/own", "ac/sql", "nosuch", "beta/nosuch", "/sql", "sql/", "", "beta/secret@1", "nosuch@1"};
    for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
        const char *full = name_of(&acme, said[i]);
        ck_assert_ptr_null(ad_registry_find(reg, full));
        ck_assert_int_eq(strncmp(full, "acme/", 5), 0);
        ck_assert_str_eq(ad_scope_shown(&acme, full), said[i]);
    }
    ck_assert(!finds(&plain, "acme/own"));
    ck_assert_str_eq(ad_scope_shown(&plain, name_of(&plain, "acme/own")), "acme/own");
    ck_assert(!finds(&ac, "me/sql"));
    ck_assert(!finds(&ac, "own"));
}
END_TEST

START_TEST(a_name_that_is_too_long_is_not_there_and_is_no_other_when_cut)
{
    char said[1200];
    memset(said, 'x', sizeof said);
    said[sizeof said - 1] = '\0';
    for (size_t n = 0; n < 2; n++, said[AD_MAX_NAME + 1] = '\0') {
        ck_assert_ptr_null(ad_registry_find(reg, name_of(&acme, said)));
        ck_assert_int_eq(strncmp(ad_scope_shown(&acme, name_of(&acme, said)), said, 150 < strlen(said) ? 150 : strlen(said)), 0);
    }
    ck_assert_uint_eq(ad_scope_room(&acme), AD_MAX_NAME - 5);
    ck_assert_uint_eq(ad_scope_room(&plain), AD_MAX_NAME);
    ck_assert_uint_eq(ad_scope_room(&anybody), AD_MAX_NAME);
}
END_TEST

START_TEST(names_outside_the_keys_are_not_there)
{
    glob = "s*";
    ck_assert(finds(&acme, "sql") && !finds(&acme, "own") && !finds(&acme, "help"));
    ck_assert(finds(&anybody, "sql") && !finds(&anybody, "acme/sql"));
    ck_assert_str_eq(ad_scope_shown(&acme, name_of(&acme, "own")), "own");
    ck_assert_str_eq(ad_scope_shown(&acme, name_of(&acme, "own@2")), "own@2");
    ck_assert_str_eq(ad_scope_shown(&anybody, name_of(&anybody, "acme/own")), "acme/own");
    glob = "sql";
    ck_assert(finds(&acme, "sql"));
    ck_assert_str_eq(name_of(&acme, "sql@3"), "acme/sql@3");
}
END_TEST

START_TEST(what_is_new_is_the_callers_own)
{
    char out[AD_SCOPE_NAME];
    ad_scope a = scope_of(&acme), o = scope_of(&anybody), d = scope_of(&plain);
    ck_assert_str_eq(ad_scope_own_name(&a, "help", out), "acme/help");
    ck_assert_str_eq(ad_scope_own_name(&o, "beta/new", out), "beta/new");
    ck_assert_str_eq(ad_scope_own_name(&d, "new", out), "new");
    ck_assert_int_ne(ad_registry_check_name(ad_scope_own_name(&d, "beta/new", out), NULL), AD_OK);
}
END_TEST

START_TEST(shared_ones_are_seen_by_all_and_changed_by_their_tenant)
{
    const ad_caller *const all[] = {&anybody, &acme, &beta, &ac, &plain};
    for (size_t i = 0; i < 5; i++) {
        ad_scope s = scope_of(all[i]);
        ck_assert(ad_scope_sees(&s, "help"));
        ck_assert_int_eq(ad_scope_owns(&s, "help"), all[i] == &anybody || all[i] == &plain);
        ck_assert_int_eq(ad_scope_sees(&s, "beta/secret"), all[i] == &anybody || all[i] == &beta);
        ck_assert_int_eq(ad_scope_owns(&s, "beta/secret"), all[i] == &anybody || all[i] == &beta);
        ck_assert_int_eq(ad_scope_lists(&s, "sql"), all[i] == &anybody || all[i] == &plain);
    }
}
END_TEST

START_TEST(messages_say_what_the_caller_says)
{
    static const struct {
        const ad_caller *c;
        const char *whole, *said;
    } t[] = {{&acme, "The model `acme/sql` does not exist.", "The model `sql` does not exist."},
             {&acme, "acme/sql", "sql"},
             {&acme, "The adapter `acme//own@2` is not there: name it as acme/x@NUMBER.", "The adapter `own@2` is not there: name it as x@NUMBER."},
             {&acme, "`acme/acme/x`, 'acme/y' and \"acme//acme/z\" of beta/acme/w", "`acme/x`, 'y' and \"acme/z\" of beta/acme/w"},
             {&acme, "`acme/` or acmes/x or acme", "`` or acmes/x or acme"},
             {&ac, "acme/sql ac/sql", "acme/sql sql"},
             {&anybody, "`acme/sql` and `default//x`", "`acme/sql` and `x`"},
             {&plain, "`default//acme/x`", "`acme/x`"}};
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        char text[200];
        strcpy(text, t[i].whole);
        ad_scope_shorten(t[i].c, text);
        ck_assert_str_eq(text, t[i].said);
    }
}
END_TEST

/* ---- lists ---- */

static void check_list(const ad_caller *c, const char *after, const char *expected)
{
    char got[2000] = "";
    ad_scope s = scope_of(c);
    ad_scope_cursor cur = ad_scope_begin(&s, after);
    for (const ad_entry *e; (e = ad_scope_next(&cur));) strcat(strcat(got, ad_scope_shown(c, e->name)), " ");
    ck_assert_str_eq(got, expected);
}

START_TEST(a_list_has_own_and_shared_names_in_one_order)
{
    check_list(&anybody, "", "ac/sql acme/beta/deep acme/own acme/sql beta/secret beta/sql help models/x sql zulu ");
    check_list(&acme, "", "beta/deep help models/x own sql zulu ");
    check_list(&beta, "", "help models/x secret sql zulu ");
    check_list(&plain, "", "help models/x sql zulu ");
    check_list(&acme, "help", "models/x own sql zulu ");
    check_list(&acme, "own", "sql zulu ");
    check_list(&acme, "p", "sql zulu ");
    check_list(&acme, "sql", "zulu ");
    check_list(&acme, "zulu", "");
    glob = "?????*";
    check_list(&acme, "", "beta/deep models/x ");
}
END_TEST

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* What c would be shown by looking at every name by itself. */
static int plain_list(const ad_caller *c, const char *after, const char **out)
{
    int n = 0;
    ad_scope s = scope_of(c);
    for (size_t i = 0; i < ad_registry_count(reg); i++) {
        const char *full = ad_registry_at(reg, i)->name, *name = ad_scope_shown(c, full);
        if (ad_scope_lists(&s, full) && strcmp(name, after) > 0) out[n++] = name;
    }
    qsort(out, (size_t)n, sizeof *out, by_text);
    return n;
}

START_TEST(lists_of_random_names_are_what_each_name_by_itself_says)
{
    static const char *const parts[] = {"a", "ac", "acme", "acme-x", "acme0", "b", "beta", "beta.y", "sql", "z"};
    const ad_caller *const all[] = {&anybody, &acme, &beta, &ac, &plain};
    srand(7);
    for (int i = 0; i < 120; i++) {
        char name[64];
        int n = 1 + rand() % 3;
        *name = '\0';
        for (int k = 0; k < n; k++) strcat(strcat(name, k ? "/" : ""), parts[rand() % 10]);
        if (!ad_registry_find(reg, name)) add(name);
    }
    for (int round = 0; round < 200; round++) {
        const ad_caller *c = all[rand() % 5];
        const char *expected[200], *after = round % 2 ? ad_registry_at(reg, (size_t)rand() % ad_registry_count(reg))->name : "";
        int n = plain_list(c, after, expected), i = 0;
        ad_scope s = scope_of(c);
        ad_scope_cursor cur = ad_scope_begin(&s, after);
        for (const ad_entry *e; (e = ad_scope_next(&cur)); i++) ck_assert_str_eq(ad_scope_shown(c, e->name), expected[i]);
        ck_assert_int_eq(i, n);
        for (i = 0; i < n; i++) { /* and every name that is shown can be said */
            ad_entry *e = ad_scope_find(&s, expected[i]);
            ck_assert_ptr_nonnull(e);
            ck_assert_str_eq(ad_scope_shown(c, e->name), expected[i]);
        }
    }
}
END_TEST

/* ---- what tenants hold ---- */

static void add_version(const char *name, int64_t bytes)
{
    ad_err err;
    ad_version *v;
    ad_digest d = {{(unsigned char)bytes}};
    ck_assert_int_eq(ad_registry_add_version(reg, ad_registry_find(reg, name), 0, &d, &v, &err), AD_OK);
    v->bytes_disk = bytes;
}

START_TEST(every_adapter_counts_for_its_tenant)
{
    ad_scope_rules rules = {.tenant = find_tenant};
    ad_err err;
    ad_target *t = calloc(1, sizeof *t);
    *t = (ad_target){strdup("acme/sql"), 1};
    ck_assert_int_eq(ad_registry_set_alias(reg, "acme/alias", t, 1, NULL, &err), AD_OK);
    add_version("acme/sql", 100), add_version("acme/sql", 20), add_version("acme/own", 3);
    add_version("beta/sql", 5000), add_version("sql", 70), add_version("zulu", 600);
    ad_scope_holding a = ad_scope_holding_of(reg, &rules, &tenants[0]), b = ad_scope_holding_of(reg, &rules, &tenants[1]), s = ad_scope_holding_of(reg, &rules, NULL);
    ck_assert_int_eq(a.adapters, 3);
    ck_assert_int_eq(a.bytes_stored, 123);
    ck_assert_int_eq(a.bytes_resident, 0);
    ck_assert_int_eq(b.adapters, 2);
    ck_assert_int_eq(b.bytes_stored, 5000);
    ck_assert_int_eq(s.adapters, 4);
    ck_assert_int_eq(s.bytes_stored, 670);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scope");
    TCase *t = tcase_create("scope");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_name_is_the_callers_own_else_the_shared_one);
    tcase_add_test(t, the_operator_says_whole_names);
    tcase_add_test(t, what_is_foreign_becomes_a_name_that_is_not_there);
    tcase_add_test(t, a_name_that_is_too_long_is_not_there_and_is_no_other_when_cut);
    tcase_add_test(t, names_outside_the_keys_are_not_there);
    tcase_add_test(t, what_is_new_is_the_callers_own);
    tcase_add_test(t, shared_ones_are_seen_by_all_and_changed_by_their_tenant);
    tcase_add_test(t, messages_say_what_the_caller_says);
    tcase_add_test(t, a_list_has_own_and_shared_names_in_one_order);
    tcase_add_test(t, lists_of_random_names_are_what_each_name_by_itself_says);
    tcase_add_test(t, every_adapter_counts_for_its_tenant);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
