/* SPDX-License-Identifier: MIT */
/* GGUF LoRA files we write say what the PEFT directory said. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <string.h>

#include "adapters/gguf_lora.h"
#include "core/formats/gguf.h"

static float value(const ad_tensor *t, int row, int col)
{
    float v;
    memcpy(&v, (const char *)t->data + 4 * ((size_t)row * (size_t)t->dims[1] + (size_t)col), sizeof v);
    return v;
}

/* scale * (B A) of a module at one place, by the file and by the packed adapter. */
static double product_in_file(const ad_tensor *a, const ad_tensor *b, double alpha, int out, int in)
{
    double sum = 0;
    for (int r = 0; r < a->dims[0]; r++) sum += (double)value(b, out, r) * (double)value(a, r, in);
    return sum * alpha / (double)a->dims[0];
}

static double product_packed(const ad_model *m, const ad_lowrank_set *set, int module, int out, int in)
{
    const ad_lowrank *low = &set->modules[module];
    double sum = 0;
    for (int r = 0; r < low->rank; r++) {
        float x, y;
        ad_matrix_read(&set->a[ad_model_group_of(m, module)], low->at + r, in, in + 1, &x);
        ad_matrix_read(&low->b, out, r, r + 1, &y);
        sum += (double)x * (double)y;
    }
    return sum * (double)low->scale;
}

static void check(const char *name)
{
    char dir[64], path[] = "/tmp/ad-lora-XXXXXX";
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *a = NULL;
    ad_gguf *g = NULL;
    ad_err err;
    double alpha = 0;
    int fd = mkstemp(path), pairs = 0, hd = ad_model_get_config(m)->head_dim;
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(dir, sizeof dir, "adapters/%s", name);
    ck_assert_msg(ad_adapter_load(&a, name, golden_path(dir), m, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_gguf_lora_write(a, m, path, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_gguf_open(&g, path, &err) == AD_OK, "%s", err.msg);
    ck_assert(ad_gguf_float(g, "adapter.lora.alpha", &alpha));
    for (int i = 0; i < ad_model_module_count(m); i++) {
        const ad_module *mod = ad_model_module(m, i);
        char part[80];
        int n = ad_model_gguf_name(m, i, part, sizeof part);
        if (!ad_adapter_lowrank(a)->modules[i].rank) continue;
        snprintf(part + n, sizeof part - (size_t)n, ".lora_a");
        const ad_tensor *ta = ad_gguf_tensor(g, part);
        snprintf(part + n, sizeof part - (size_t)n, ".lora_b");
        const ad_tensor *tb = ad_gguf_tensor(g, part);
        ck_assert_msg(ta && tb && ta->dims[1] == mod->in && tb->dims[0] == mod->out && ta->dims[0] == tb->dims[1], "%s", part);
        for (int out = 0; out < mod->out; out += 7) {
            /* Hugging Face row c * hd / 2 + i of a q or k head stands at 2 i + c. */
            int in_head = out % hd, row = mod->kind <= AD_MOD_K ? out - in_head + 2 * (in_head % (hd / 2)) + in_head / (hd / 2) : out;
            double want = product_packed(m, ad_adapter_lowrank(a), i, out, out % mod->in), got = product_in_file(ta, tb, alpha, row, out % mod->in);
            ck_assert_msg(fabs(want - got) <= 1e-6 * (1 + fabs(want)), "%s row %d: %g not %g", part, out, got, want);
        }
        pairs++;
    }
    ck_assert_uint_eq(ad_gguf_tensor_count(g), 2 * (size_t)pairs);
    ck_assert_int_eq(pairs, ad_adapter_matched_modules(a));
    unlink(path);
    ad_gguf_close(&g);
    ad_adapter_release(&a);
    ad_model_free(&m);
}

START_TEST(a_converted_adapter_has_the_same_products)
{
    check("qv");
    check("all");
}
END_TEST

START_TEST(ranks_and_scales_that_differ_between_modules_are_kept)
{
    check("patterns");
    check("rslora");
}
END_TEST

START_TEST(an_adapted_head_is_refused_and_leaves_no_file)
{
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *a = NULL;
    ad_err err;
    ck_assert_msg(ad_adapter_load(&a, "head", golden_path("adapters/head"), m, &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(ad_gguf_lora_write(a, m, "/tmp/ad-lora-none.gguf", &err), AD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "lm_head"));
    ck_assert_int_ne(access("/tmp/ad-lora-none.gguf", F_OK), 0);
    ad_adapter_release(&a);
    ad_model_free(&m);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf_lora");
    TCase *t = tcase_create("gguf_lora");
    tcase_add_test(t, a_converted_adapter_has_the_same_products);
    tcase_add_test(t, ranks_and_scales_that_differ_between_modules_are_kept);
    tcase_add_test(t, an_adapted_head_is_refused_and_leaves_no_file);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
