/* SPDX-License-Identifier: MIT */
/* What an adapter says about itself: identity, origin, norms, memory. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
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

/* ---- norms ---- */

/* sum over all places of (scale * B A)^2, in double precision, of the packed values. */
static double product_norm(const ad_model *m, const ad_adapter *a, int module)
{
    const ad_module *mod = ad_model_module(m, module);
    const ad_lowrank_set *set = ad_adapter_lowrank(a);
    const ad_lowrank *low = &set->modules[module];
    size_t in = (size_t)mod->in, rank = (size_t)low->rank;
    float *rows = malloc(rank * in * sizeof *rows), *b = malloc(rank * sizeof *b);
    double sum = 0;
    for (size_t r = 0; r < rank; r++) ad_matrix_read(&set->a[ad_model_group_of(m, module)], low->at + (int)r, 0, mod->in, rows + r * in);
    for (int o = 0; o < mod->out; o++) {
        ad_matrix_read(&low->b, o, 0, low->rank, b);
        for (size_t i = 0; i < in; i++) {
            double v = 0;
            for (size_t r = 0; r < rank; r++) v += (double)b[r] * (double)rows[r * in + i];
            sum += v * v;
        }
    }
    free(rows), free(b);
    return fabs((double)low->scale) * sqrt(sum);
}

static void check_norms(const char *model, const char *name, ad_weights weights, double tolerance)
{
    ad_model *m = golden_model_as(model, weights);
    ad_adapter *a = load(m, name);
    int n = 0;
    for (int i = 0; i < ad_model_module_count(m); i++) {
        if (!ad_adapter_lowrank(a)->modules[i].rank) {
            ck_assert(ad_adapter_norm(a, i) == 0);
            continue;
        }
        double want = product_norm(m, a, i), got = (double)ad_adapter_norm(a, i);
        ck_assert_msg(fabs(got - want) <= tolerance * want && want > 0, "%s: %s: %g, not %g", name, ad_model_module(m, i)->name, got, want);
        n++;
    }
    ck_assert_int_eq(n, ad_adapter_matched_modules(a));
    ad_adapter_release(&a);
    ad_model_free(&m);
}

/* f32 sums of up to 500 products; with bf16, B is the file's in one and rounded to 8 bits in the other. */
START_TEST(norms_are_those_of_the_products)
{
    static const char *const names[] = {"all", "patterns", "rslora", "embed", "head", "layers"};
    for (int i = 0; i < 6; i++) {
        check_norms("models/llama-gqa", names[i], AD_WEIGHTS_F32, 2e-6);
        check_norms("models/llama-gqa", names[i], AD_WEIGHTS_BF16, 2e-3);
    }
    check_norms("models/llama-tied-bf16", "tied-all", AD_WEIGHTS_BF16, 2e-3);
    check_norms("models/mistral-headdim", "mistral", AD_WEIGHTS_F32, 2e-6);
}
END_TEST

START_TEST(the_norms_of_base_weights_are_estimated_well_enough)
{
    ad_model *m = golden_model("models/llama-gqa");
    for (int i = 0; i < ad_model_module_count(m); i++) {
        const ad_module *mod = ad_model_module(m, i);
        bool embed = mod->kind == AD_MOD_EMBED;
        int rows = embed ? mod->in : mod->out, cols = embed ? mod->out : mod->in;
        float *w = malloc((size_t)rows * (size_t)cols * sizeof *w);
        double sum = 0;
        ad_model_read_rows(m, i, 0, rows, w, NULL);
        for (size_t k = 0; k < (size_t)rows * (size_t)cols; k++) sum += (double)w[k] * (double)w[k];
        ck_assert_double_eq_tol((double)ad_model_module_norm(m, i) / sqrt(sum), 1, 0.1); /* every 16th row of random ones */
        free(w);
    }
    ad_model_free(&m);
}
END_TEST

/* An adapter of layer 0's q_proj and v_proj, rank 1; B of q_proj is all b_q. NULL: it is refused. */
static ad_adapter *load_made(const ad_model *m, float b_q, float b_v, ad_err *err)
{
    char dir[] = "/tmp/ad-adapter-XXXXXX", config[64], weights[64];
    ad_buf file = {0};
    uint64_t len = 0;
    ad_adapter *a = NULL;
    const ad_module *q = ad_model_module(m, AD_MOD_Q), *v = ad_model_module(m, AD_MOD_V);
    const int sizes[] = {q->in, q->out, v->in, v->out};
    const float values[] = {0.1f, b_q, 0.1f, b_v};
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(config, sizeof config, "%s/adapter_config.json", dir), snprintf(weights, sizeof weights, "%s/adapter_model.safetensors", dir);
    ad_buf_append(&file, &len, 8);
    for (int i = 0, at = 0; i < 4; i++) {
        const char *shape = i % 2 ? "%s\"%s.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[%d,1],\"data_offsets\":[%d,%d]}" : "%s\"%s.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,%d],\"data_offsets\":[%d,%d]}";
        ad_buf_printf(&file, shape, i ? "," : "{", (i < 2 ? q : v)->name, sizes[i], at, at + 4 * sizes[i]);
        at += 4 * sizes[i];
    }
    ad_buf_puts(&file, "}");
    len = file.len - 8;
    memcpy(file.data, &len, 8);
    for (int i = 0; i < 4; i++)
        for (int k = 0; k < sizes[i]; k++) ad_buf_append(&file, &values[i], 4);
    FILE *f = fopen(weights, "w");
    ck_assert(f && fwrite(file.data, 1, file.len, f) == file.len && !fclose(f));
    f = fopen(config, "w");
    ck_assert(f && fprintf(f, "{\"peft_type\":\"LORA\",\"r\":1,\"lora_alpha\":1,\"target_modules\":[\"%s\",\"%s\"]}", q->name, v->name) > 0 && !fclose(f));
    ck_assert((ad_adapter_load(&a, "made", dir, m, err) == AD_OK) == (a != NULL));
    unlink(weights), unlink(config), rmdir(dir);
    ad_buf_deinit(&file);
    return a;
}

static void warns(const ad_model *m, float b_q, float b_v, const char *what)
{
    ad_err err = {0};
    ad_adapter *a = load_made(m, b_q, b_v, &err);
    ck_assert_msg(a != NULL, "%s", err.msg);
    ck_assert_msg(ad_adapter_warning_count(a) == (what != NULL), "%d warnings: %s", ad_adapter_warning_count(a), ad_adapter_warning_count(a) ? ad_adapter_warning(a, 0) : "");
    if (what) ck_assert_msg(strstr(ad_adapter_warning(a, 0), what), "%s", ad_adapter_warning(a, 0));
    for (int i = 0; i < ad_model_module_count(m); i++) ck_assert(isfinite(ad_adapter_norm(a, i)));
    ad_adapter_release(&a);
}

START_TEST(products_that_are_zero_or_larger_than_the_weight_are_warned_of)
{
    ad_model *m = golden_model("models/llama-gqa");
    warns(m, 0.01f, 0.01f, NULL);
    warns(m, 0, 0, "changes nothing: B A is 0 in all of its 2 modules");
    warns(m, 0, 0.01f, "B A is 0 in 1 of 2 modules");
    warns(m, 1.5f, 0.01f, "in 1 of 2 modules the correction is larger"); /* 0.1 * 1.5 * 256 = 38; q_proj has 19 */
    warns(m, 0.5f, 0.01f, NULL);
    warns(m, 3e38f, 0.01f, "in 1 of 2 modules"); /* its square is no float, and no infinity is shown */
    ad_model_free(&m);
}
END_TEST

/* ---- names of base models ---- */

START_TEST(names_of_base_models_are_compared_without_paths_case_and_quantisation)
{
    static const struct { const char *name; bool same; } cases[] = {
        {"llama-gqa", true}, {"org/Llama-GQA", true}, {"/models/LLAMA_GQA/", true}, {"org/llama-gqa-GGUF", true}, {"llama-gqa.Q4_K_M.gguf", true}, {"llama gqa IQ4_XS", true}, {"x/llama-gqa-bnb-4bit", true},
        {"llama-gqa-F16", true}, {"llama", false}, {"llama-gqa-2", false}, {"org/llama-gqa-q", false}, {"q4_0", false}, {"/", false}, {"llama-gqa/other", false},
    };
    ad_model *m = golden_model("models/llama-gqa");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[] = "/tmp/ad-adapter-XXXXXX", config[64], weights[64];
        ad_err err;
        ad_adapter *a = NULL;
        ck_assert_ptr_nonnull(mkdtemp(dir));
        snprintf(config, sizeof config, "%s/adapter_config.json", dir), snprintf(weights, sizeof weights, "%s/adapter_model.safetensors", dir);
        char *real = realpath(golden_path("adapters/qv/adapter_model.safetensors"), NULL);
        ck_assert(real && !symlink(real, weights));
        free(real);
        FILE *f = fopen(config, "w");
        ck_assert(f && fprintf(f, "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\",\"v_proj\"],\"base_model_name_or_path\":\"%s\"}", cases[i].name) > 0 && !fclose(f));
        ck_assert_msg(ad_adapter_load(&a, "named", dir, m, &err) == AD_OK, "%s", err.msg);
        ck_assert_msg((ad_adapter_warning_count(a) == 0) == cases[i].same, "%s", cases[i].name);
        if (!cases[i].same) ck_assert_ptr_nonnull(strstr(ad_adapter_warning(a, 0), cases[i].name));
        ck_assert_str_eq(ad_adapter_base_name(a), cases[i].name);
        ad_adapter_release(&a);
        unlink(weights), unlink(config), rmdir(dir);
    }
    ad_model_free(&m);
}
END_TEST

/* ---- memory ---- */

START_TEST(live_bytes_are_those_of_the_adapters_that_are_alive)
{
    ad_model *m = golden_model("models/llama-gqa");
    size_t before = ad_adapter_live_bytes();
    ad_adapter *a = load(m, "qv"), *b = load(m, "all");
    ad_err err = {0};
    ck_assert_uint_gt(ad_adapter_packed_bytes(a), 0);
    ck_assert_uint_eq(ad_adapter_live_bytes(), before + ad_adapter_packed_bytes(a) + ad_adapter_packed_bytes(b));
    ck_assert(!load_made(m, 0.01f, NAN, &err) && strstr(err.msg, "not finite")); /* found while packing */
    ck_assert_uint_eq(ad_adapter_live_bytes(), before + ad_adapter_packed_bytes(a) + ad_adapter_packed_bytes(b));
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
    tcase_add_test(t, norms_are_those_of_the_products);
    tcase_add_test(t, the_norms_of_base_weights_are_estimated_well_enough);
    tcase_add_test(t, products_that_are_zero_or_larger_than_the_weight_are_warned_of);
    tcase_add_test(t, names_of_base_models_are_compared_without_paths_case_and_quantisation);
    tcase_add_test(t, live_bytes_are_those_of_the_adapters_that_are_alive);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
