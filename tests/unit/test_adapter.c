/* SPDX-License-Identifier: MIT */
/* What an adapter says about itself: identity, origin, norms, memory. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <string.h>

#include "adapters/adapter.h"

static ad_adapter *load(const ad_model *base, const char *name)
{
    char rest[64];
    ad_adapter *a = NULL;
    ad_err err;
    snprintf(rest, sizeof rest, "adapters/%s", name);
    ck_assert_msg(ad_adapter_load(&a, name, golden_path(rest), base, &err) == AD_OK, "%s", err.msg);
    return a;
}

/* ---- identity ---- */

START_TEST(the_digest_is_what_its_description_says)
{
    static const char *const cases[][2] = {
        {"models/llama-gqa", "all"}, {"models/llama-gqa", "patterns"}, {"models/llama-gqa", "rslora"}, {"models/llama-gqa", "layers"}, {"models/llama-gqa", "head"},
        {"models/llama-gqa", "embed"}, {"models/llama-gqa", "embed-saved"}, {"models/mistral-headdim", "mistral"}, {"models/llama-tied-bf16", "tied-all"},
    };
    enum { N = sizeof cases / sizeof *cases };
    const char *root = getenv("AD_SOURCE_ROOT");
    ad_buf command = {0};
    ad_buf_printf(&command, "python3 %s/tests/unit/adapter_digest.py", root ? root : ".");
    for (int i = 0; i < N; i++) ad_buf_printf(&command, " %s/%s", golden_path("adapters"), cases[i][1]);
    FILE *f = popen(command.data, "r");
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < N; i++) {
        char want[65] = "", got[65];
        ad_model *m = golden_model(cases[i][0]);
        ad_adapter *a = load(m, cases[i][1]);
        ck_assert_msg(fscanf(f, "%64s ", want) == 1, "%s", command.data);
        ad_digest_hex(ad_adapter_digest(a), got);
        ck_assert_msg(!strcmp(want, got), "%s: %s, not %s", cases[i][1], got, want);
        ad_adapter_release(&a);
        ad_model_free(&m);
    }
    ck_assert_int_eq(pclose(f), 0);
    ad_buf_deinit(&command);
}
END_TEST

START_TEST(the_digest_does_not_depend_on_the_base_model)
{
    static const char *const models[] = {"models/llama-spm-mha", "gguf/llama-spm-mha-F32.gguf"};
    ad_digest digests[4];
    for (int i = 0; i < 4; i++) {
        ad_model *m = golden_model_as(models[i / 2], i % 2 ? AD_WEIGHTS_BF16 : AD_WEIGHTS_F32);
        ad_adapter *a = load(m, "spm-all");
        digests[i] = *ad_adapter_digest(a);
        ad_adapter_release(&a);
        ad_model_free(&m);
    }
    for (int i = 1; i < 4; i++) ck_assert(!memcmp(&digests[0], &digests[i], sizeof digests[0]));
}
END_TEST

/* ---- origin ---- */

START_TEST(format_tensors_and_base_name_are_those_of_the_files)
{
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *a = load(m, "qv");
    ck_assert_str_eq(ad_adapter_format(a), "peft");
    ck_assert_int_eq(ad_adapter_matched_modules(a), 4);
    ck_assert_int_eq(ad_adapter_matched_tensors(a), 8);
    ck_assert_str_eq(ad_adapter_base_name(a), "llama-gqa");
    ck_assert_int_eq(ad_adapter_warning_count(a), 0);
    ad_adapter_release(&a);
    a = load(m, "embed-saved"); /* the copy of the base's weight is not in use */
    ck_assert_int_eq(ad_adapter_matched_tensors(a), 2 * ad_adapter_matched_modules(a));
    ad_adapter_release(&a);
    ad_model_free(&m);
}
END_TEST

/* ---- memory ---- */

START_TEST(live_bytes_are_those_of_the_adapters_that_are_alive)
{
    ad_model *m = golden_model("models/llama-gqa");
    size_t before = ad_adapter_live_bytes();
    ad_adapter *a = load(m, "qv"), *b = load(m, "all"), *none = NULL;
    ad_err err;
    ck_assert_uint_gt(ad_adapter_packed_bytes(a), 0);
    ck_assert_uint_eq(ad_adapter_live_bytes(), before + ad_adapter_packed_bytes(a) + ad_adapter_packed_bytes(b));
    ck_assert_int_ne(ad_adapter_load(&none, "x", golden_path("adapters/dora"), m, &err), AD_OK);
    ad_adapter *again = ad_adapter_retain(a);
    size_t left = before + ad_adapter_packed_bytes(a);
    ad_adapter_release(&a);
    ad_adapter_release(&b);
    ck_assert_uint_eq(ad_adapter_live_bytes(), left);
    ad_adapter_release(&again);
    ck_assert_uint_eq(ad_adapter_live_bytes(), before);
    ad_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("adapter");
    TCase *t = tcase_create("adapter");
    tcase_add_test(t, the_digest_is_what_its_description_says);
    tcase_add_test(t, the_digest_does_not_depend_on_the_base_model);
    tcase_add_test(t, format_tensors_and_base_name_are_those_of_the_files);
    tcase_add_test(t, live_bytes_are_those_of_the_adapters_that_are_alive);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
