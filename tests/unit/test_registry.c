/* SPDX-License-Identifier: MIT */
/* Names and versions of adapters, and who keeps them alive. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>
#include <sys/stat.h>

#include "adapters/registry.h"

static ad_model *base;
static ad_registry *reg;

static void setup(void)
{
    ad_err err;
    base = golden_model("models/llama-gqa");
    ck_assert_int_eq(ad_registry_new(&reg, base, &err), AD_OK);
}

static void teardown(void)
{
    ad_registry_free(&reg);
    ad_model_free(&base);
}

static ad_adapter *load(const char *name)
{
    ad_err err;
    ad_adapter *a = NULL;
    ck_assert_msg(ad_adapter_load(&a, name, golden_path("adapters/qv"), base, &err) == AD_OK, "%s", err.msg);
    return a;
}

START_TEST(what_is_published_is_found_in_order_of_publication)
{
    ad_err err;
    ad_adapter *a = load("z"), *b = load("a");
    ck_assert_int_eq(ad_registry_publish(reg, a, false, &err), AD_OK);
    ck_assert_int_eq(ad_registry_publish(reg, b, false, &err), AD_OK);
    ck_assert_int_eq(ad_registry_count(reg), 2);
    ck_assert(ad_registry_at(reg, 0) == a && ad_registry_at(reg, 1) == b);
    ck_assert(ad_registry_find(reg, "z") == a && ad_registry_find(reg, "a") == b && !ad_registry_find(reg, "b"));
}
END_TEST

START_TEST(a_taken_name_is_refused_unless_it_is_replaced)
{
    ad_err err;
    ad_adapter *a = load("x"), *b = load("x");
    ck_assert_int_eq(ad_registry_publish(reg, a, false, &err), AD_OK);
    ck_assert_int_eq(ad_registry_publish(reg, b, false, &err), AD_EEXIST);
    ck_assert_ptr_nonnull(strstr(err.msg, "x"));
    ck_assert_ptr_eq(ad_registry_find(reg, "x"), a);
    ck_assert_int_eq(ad_registry_publish(reg, b, true, &err), AD_OK);
    ck_assert_ptr_eq(ad_registry_find(reg, "x"), b);
    ck_assert_int_eq(ad_registry_count(reg), 1);
}
END_TEST

START_TEST(a_version_in_flight_survives_replacement_and_removal)
{
    ad_err err;
    ck_assert_int_eq(ad_registry_publish(reg, load("x"), false, &err), AD_OK);
    ad_adapter *held = ad_adapter_retain(ad_registry_find(reg, "x"));
    ck_assert_int_eq(ad_registry_publish(reg, load("x"), true, &err), AD_OK);
    ck_assert_int_eq(ad_registry_remove(reg, "x", &err), AD_OK);
    ck_assert_ptr_null(ad_registry_find(reg, "x"));
    ck_assert_str_eq(ad_adapter_name(held), "x"); /* ASan would object if it were gone */
    ck_assert_int_gt(ad_adapter_lowrank(held)->max_rank, 0);
    ad_adapter_release(&held);
    ck_assert_int_eq(ad_registry_remove(reg, "x", &err), AD_ENOTFOUND);
}
END_TEST

START_TEST(hundreds_of_names_come_and_go)
{
    ad_err err;
    char name[32];
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        ck_assert_int_eq(ad_registry_publish(reg, load(name), false, &err), AD_OK);
    }
    for (int i = 0; i < 500; i += 2) {
        snprintf(name, sizeof name, "adapter-%d", i);
        ck_assert_int_eq(ad_registry_remove(reg, name, &err), AD_OK);
    }
    for (int i = 0; i < 500; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        const ad_adapter *a = ad_registry_find(reg, name);
        ck_assert((a != NULL) == (i % 2));
        if (a) ck_assert_str_eq(ad_adapter_name(a), name);
    }
    ck_assert_int_eq(ad_registry_count(reg), 250);
    ck_assert_str_eq(ad_adapter_name(ad_registry_at(reg, 0)), "adapter-1");
}
END_TEST

START_TEST(a_directory_of_adapters_loads_in_name_order_or_fails_by_name)
{
    ad_err err;
    char dir[] = "/tmp/ad-registry-XXXXXX", path[256], command[700];
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(command, sizeof command, "cp -r %s %s/b && cp -r %s %s/a && mkdir %s/empty && touch %s/file", golden_path("adapters/qv"), dir, golden_path("adapters/all"), dir, dir, dir);
    ck_assert_int_eq(system(command), 0);
    ck_assert_msg(ad_registry_load_dir(reg, dir, &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(ad_registry_count(reg), 2);
    ck_assert_str_eq(ad_adapter_name(ad_registry_at(reg, 0)), "a");
    snprintf(command, sizeof command, "cp -r %s %s/c", golden_path("adapters/dora"), dir);
    ck_assert_int_eq(system(command), 0);
    ad_registry *other = NULL;
    ck_assert_int_eq(ad_registry_new(&other, base, &err), AD_OK);
    ck_assert_int_eq(ad_registry_load_dir(other, dir, &err), AD_EUNSUPPORTED);
    snprintf(path, sizeof path, "%s/c", dir);
    ck_assert_msg(strstr(err.msg, path), "%s", err.msg);
    ad_registry_free(&other);
    ck_assert_int_eq(ad_registry_load_dir(reg, "/nowhere", &err), AD_EIO);
    snprintf(command, sizeof command, "rm -rf %s", dir);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("registry");
    TCase *t = tcase_create("registry");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_set_timeout(t, 30);
    tcase_add_test(t, what_is_published_is_found_in_order_of_publication);
    tcase_add_test(t, a_taken_name_is_refused_unless_it_is_replaced);
    tcase_add_test(t, a_version_in_flight_survives_replacement_and_removal);
    tcase_add_test(t, hundreds_of_names_come_and_go);
    tcase_add_test(t, a_directory_of_adapters_loads_in_name_order_or_fails_by_name);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
