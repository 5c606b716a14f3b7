/* SPDX-License-Identifier: MIT */
/* Whose KV may be shared: never between things that differ, however the difference is dressed up. The cases are
 * mistakes that other servers made. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>

#include "adapters/registry.h"
#include "server/sched/prefix.h"

static const ad_digest one = {{1}}, two = {{2}};

static ad_prefix_root root(ad_prefix_identity id)
{
    ad_prefix_root r;
    ad_err err;
    ck_assert_int_eq(ad_prefix_root_of(&r, &id, &err), AD_OK);
    ck_assert(r.b & 1);
    return r;
}

static bool same(ad_prefix_root a, ad_prefix_root b) { return a.a == b.a && a.b == b.b; }

START_TEST(every_part_of_an_identity_counts_and_nothing_else)
{
    ad_prefix_identity ids[] = {
        {.n = 0}, {.n = 0, .tenant = {"a", 1}}, {.n = 0, .tenant = {"b", 1}}, {.n = 0, .tenant = {"ab", 2}}, {.n = 0, .tenant = {"a", 1}, .salt = {"b", 1}}, {.n = 0, .salt = {"a", 1}}, {.n = 0, .salt = {"b", 1}}, {.n = 0, .salt = {"\0", 1}},
        {{&one}, {1}, 1, false, {NULL, 0}, {NULL, 0}}, {{&two}, {1}, 1, false, {NULL, 0}, {NULL, 0}}, {{&one}, {0.5f}, 1, false, {NULL, 0}, {NULL, 0}}, {{&one}, {1}, 1, true, {NULL, 0}, {NULL, 0}}, {{&one}, {1}, 1, false, {"a", 1}, {NULL, 0}}, {{&one}, {1}, 1, false, {NULL, 0}, {"a", 1}}, {{&one}, {1}, 1, false, {"a", 1}, {"a", 1}},
        {{&one, &two}, {1, 1}, 2, false, {NULL, 0}, {NULL, 0}}, {{&two, &one}, {1, 1}, 2, false, {NULL, 0}, {NULL, 0}}, {{&one, &one}, {1, 1}, 2, false, {NULL, 0}, {NULL, 0}}, {{&one, &two}, {1, 0.5f}, 2, false, {NULL, 0}, {NULL, 0}}};
    size_t n = sizeof ids / sizeof *ids;
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < n; k++) ck_assert_msg(same(root(ids[i]), root(ids[k])) == (i == k), "%zu and %zu", i, k);
}
END_TEST

/* A salt that looks like the bytes of an adapter's identity is still a salt. */
START_TEST(a_salt_cannot_pretend_to_be_an_adapter)
{
    char forged[200];
    float weight = 1;
    uint64_t none = 0;
    uint32_t head[2] = {1, 0};
    memcpy(forged, head, 8), memcpy(forged + 8, one.bytes, 32), memcpy(forged + 40, &weight, 4), memcpy(forged + 44, &none, 8);
    ad_prefix_root real = root((ad_prefix_identity){{&one}, {1}, 1, false, {NULL, 0}, {NULL, 0}});
    for (size_t from = 0; from < 52; from++)
        for (size_t to = from; to <= 52; to++) ck_assert(!same(real, root((ad_prefix_identity){.n = 0, .salt = {forged + from, to - from}})));
}
END_TEST

/* Nor can it pretend to be another tenant, though a client chooses it freely. */
START_TEST(a_salt_cannot_pretend_to_be_a_tenant)
{
    char forged[32];
    uint64_t two_bytes = 2, none = 0;
    ad_prefix_root acme = root((ad_prefix_identity){.tenant = {"ac", 2}});
    memcpy(forged, &two_bytes, 8), memcpy(forged + 8, "ac", 2), memcpy(forged + 10, &none, 8);
    for (size_t from = 0; from < 18; from++)
        for (size_t to = from; to <= 18; to++) {
            ck_assert(!same(acme, root((ad_prefix_identity){.salt = {forged + from, to - from}})));
            ck_assert(!same(acme, root((ad_prefix_identity){.salt = {forged + from, to - from}, .tenant = {"be", 2}})));
        }
}
END_TEST

/* What a request that names `name` may share. */
static ad_prefix_root root_of(const ad_registry *reg, const char *name)
{
    ad_version *v = NULL;
    ck_assert_int_eq(ad_registry_resolve(reg, name, 0, &v, NULL), AD_OK);
    return root((ad_prefix_identity){{&v->digest}, {1}, 1, false, {NULL, 0}, {NULL, 0}});
}

static ad_entry *publish(ad_registry *reg, ad_entry *e, const char *name, const char *adapter, const ad_model *base)
{
    ad_err err;
    ad_adapter *a = NULL;
    ad_version *v = NULL;
    ck_assert_int_eq(ad_adapter_load(&a, name, golden_path(adapter), base, &err), AD_OK);
    if (!e) ck_assert_int_eq(ad_registry_add(reg, name, AD_ORIGIN_STORE, &e, &err), AD_OK);
    ck_assert_int_eq(ad_registry_add_version(reg, e, 0, ad_adapter_digest(a), &v, &err), AD_OK);
    v->checked = v->fits = true;
    ad_registry_set_adapter(v, a);
    ad_registry_activate(e, v);
    return e;
}

START_TEST(a_name_that_gets_new_content_never_meets_the_old_pages)
{
    ad_err err;
    ad_model *base = golden_model("models/llama-gqa");
    ad_registry *reg = NULL;
    ck_assert_int_eq(ad_registry_new(&reg, 0, NULL, NULL, &err), AD_OK);
    ad_entry *x = publish(reg, NULL, "x", "adapters/qv", base);
    ad_prefix_root before = root_of(reg, "x");
    publish(reg, NULL, "other-name", "adapters/qv", base);
    ck_assert(same(before, root_of(reg, "other-name"))); /* the same content under another name is the same */
    publish(reg, x, "x", "adapters/layers", base);
    ck_assert(!same(before, root_of(reg, "x")));
    ck_assert(same(before, root_of(reg, "x@1")));
    ad_registry_free(&reg);
    ad_model_free(&base);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("prefix");
    TCase *t = tcase_create("prefix");
    tcase_add_test(t, every_part_of_an_identity_counts_and_nothing_else);
    tcase_add_test(t, a_salt_cannot_pretend_to_be_an_adapter);
    tcase_add_test(t, a_salt_cannot_pretend_to_be_a_tenant);
    tcase_add_test(t, a_name_that_gets_new_content_never_meets_the_old_pages);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
