/* SPDX-License-Identifier: MIT */
/* Loading base models: both formats agree, and what does not fit is refused with its reason. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "core/base/file.h"

START_TEST(modules_have_their_hugging_face_names_and_shapes)
{
    ad_model *m = golden_model("models/llama-gqa");
    const ad_model_config *c = ad_model_get_config(m);
    ck_assert(c->hidden == 256 && c->layers == 2 && c->heads == 4 && c->kv_heads == 2 && c->head_dim == 64 && c->vocab == 1026 && !c->tied_head);
    ck_assert_int_eq(ad_model_module_count(m), 2 * AD_MOD_PER_LAYER + 2);
    int k = ad_model_find_module(m, "model.layers.1.self_attn.k_proj");
    ck_assert_int_eq(k, AD_MOD_PER_LAYER + AD_MOD_K);
    ck_assert(ad_model_module(m, k)->in == 256 && ad_model_module(m, k)->out == 128);
    ck_assert_int_eq(ad_model_find_module(m, "model.layers.2.self_attn.k_proj"), -1);
    ck_assert_int_eq(ad_model_find_module(m, "model.layers.01.self_attn.k_proj"), -1);
    ck_assert_int_eq(ad_model_find_module(m, "model.layers.1.self_attn.k_proj.x"), -1);
    ck_assert_int_eq(ad_model_find_module(m, ""), -1);
    ck_assert_str_eq(ad_model_module(m, ad_model_find_module(m, "lm_head"))->name, "lm_head");
    ad_model_free(&m);
}
END_TEST

START_TEST(modules_are_found_by_the_names_of_gguf_files)
{
    ad_model *m = golden_model("models/llama-gqa");
    static const char *const none[] = {"", "blk", "blk.0", "blk.0.attn_q", "blk.2.attn_q.weight", "blk.01.attn_q.weight", "blk.0.attn_q.weightx", "blk.-1.attn_q.weight", "token_embd", "blk.0.output.weight"};
    char name[64];
    for (int i = 0; i < ad_model_module_count(m); i++) {
        ad_model_gguf_name(m, i, name, sizeof name);
        ck_assert_int_eq(ad_model_find_gguf(m, (ad_str){name, strlen(name)}), i);
    }
    for (size_t i = 0; i < sizeof none / sizeof *none; i++) ck_assert_int_eq(ad_model_find_gguf(m, (ad_str){none[i], strlen(none[i])}), -1);
    ck_assert_str_eq(ad_model_gguf_arch(m), "llama");
    ad_model_free(&m);
}
END_TEST

static void compare_rows(const ad_model *a, const ad_model *b, int module)
{
    const ad_module *m = ad_model_module(a, module);
    int rows = m->kind == AD_MOD_EMBED ? m->in : m->out, cols = m->kind == AD_MOD_EMBED ? m->out : m->in;
    float *x = calloc((size_t)rows * (size_t)cols, sizeof *x), *y = calloc((size_t)rows * (size_t)cols, sizeof *y), *bound = calloc((size_t)rows * (size_t)cols, sizeof *bound);
    ad_model_read_rows(a, module, 0, rows, x, bound);
    for (int r = 0; r < rows; r += 7) ad_model_read_rows(b, module, r, rows - r < 7 ? rows - r : 7, y + (size_t)r * (size_t)cols, NULL);
    for (int i = 0; i < rows * cols; i++) ck_assert_msg(x[i] == y[i], "%s value %d: %g and %g", m->name, i, (double)x[i], (double)y[i]);
    free(x), free(y), free(bound);
}

/* Q and K rows are permuted in GGUF files; adapters know Hugging Face's order. */
START_TEST(a_gguf_file_reads_back_as_the_directory_it_was_made_of)
{
    ad_model *a = golden_model("models/mistral-headdim"), *b = golden_model("gguf/mistral-headdim-F32.gguf");
    ck_assert_int_eq(ad_model_module_count(a), ad_model_module_count(b));
    for (int i = 0; i < ad_model_module_count(a); i++) {
        ck_assert_str_eq(ad_model_module(a, i)->name, ad_model_module(b, i)->name);
        compare_rows(a, b, i);
    }
    ad_model_free(&a), ad_model_free(&b);
}
END_TEST

START_TEST(a_quantised_file_is_within_its_stated_error_of_the_original)
{
    ad_model *a = golden_model("models/llama-gqa"), *b = golden_model("gguf/llama-gqa-Q4_K_M.gguf");
    int module = ad_model_find_module(a, "model.layers.0.self_attn.q_proj"), n = 256 * 256;
    float *x = calloc((size_t)n, sizeof *x), *y = calloc((size_t)n, sizeof *y), *bound = calloc((size_t)n, sizeof *bound);
    ad_model_read_rows(a, module, 0, 256, x, NULL);
    ad_model_read_rows(b, module, 0, 256, y, bound);
    int inside = 0;
    for (int i = 0; i < n; i++) inside += fabsf(x[i] - y[i]) <= 1.001f * bound[i];
    ck_assert_msg(inside > n * 97 / 100, "%d of %d", inside, n); /* the last code of a block may clip */
    free(x), free(y), free(bound);
    ad_model_free(&a), ad_model_free(&b);
}
END_TEST

START_TEST(a_model_larger_than_memory_is_refused_before_it_is_read)
{
    ad_err err;
    ad_model *m = NULL;
    ck_assert_int_eq(ad_model_load(&m, golden_path("gguf/llama-gqa-Q4_K_M.gguf"), &(ad_model_options){.memory_bytes = 1 << 20}, &err), AD_ENOMEM);
    ck_assert_ptr_nonnull(strstr(err.msg, "llama-gqa-Q4_K_M.gguf"));
    ck_assert_ptr_null(m);
}
END_TEST

/* ---- damaged directories ---- */

static char dir[] = "/tmp/ad-model-XXXXXX";

static void run(const char *fmt, ...)
{
    char command[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(command, sizeof command, fmt, ap);
    va_end(ap);
    ck_assert_msg(system(command) == 0, "%s", command);
}

static void copy(const char *rest)
{
    strcpy(dir, "/tmp/ad-model-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    run("cp -r %s/. %s && chmod -R u+w %s", golden_path(rest), dir, dir);
}

static void refused(ad_status want, const char *why)
{
    ad_err err = {0};
    ad_model *m = NULL;
    ad_status st = ad_model_load(&m, dir, NULL, &err);
    ck_assert_msg(st == want && strstr(err.msg, why), "status %d, \"%s\" (wanted \"%s\")", (int)st, err.msg, why);
    ck_assert_ptr_null(m);
    run("rm -rf %s", dir);
}

/* sed on one file of a fresh copy. */
static void edited(const char *rest, const char *file, const char *script, ad_status want, const char *why)
{
    copy(rest);
    run("sed -i -e '%s' %s/%s", script, dir, file);
    refused(want, why);
}

START_TEST(configurations_that_are_not_understood_are_refused_by_key)
{
    static const char tied[] = "models/llama-tied-bf16";
    edited(tied, "config.json", "s/\"model_type\": \"llama\"/\"model_type\": \"mystery\"/", AD_EUNSUPPORTED, "mystery");
    edited(tied, "config.json", "s/\"hidden_size\": [0-9]*/\"hidden_size\": 0/", AD_EFORMAT, "hidden size");
    edited(tied, "config.json", "s/\"hidden_size\": [0-9]*/\"hidden_size\": \"x\"/", AD_EFORMAT, "hidden_size");
    edited(tied, "config.json", "s/\"hidden_size\"/\"hidden_sise\"/", AD_EFORMAT, "hidden_size");
    edited(tied, "config.json", "s/\"num_hidden_layers\": [0-9]*/\"num_hidden_layers\": 1000000/", AD_EFORMAT, "number of layers");
    edited(tied, "config.json", "s/\"hidden_act\": \"silu\"/\"hidden_act\": \"relu\"/", AD_EUNSUPPORTED, "hidden_act");
    edited(tied, "config.json", "s/\"rope_type\": \"default\"/\"rope_type\": \"mystery\"/", AD_EUNSUPPORTED, "mystery");
    edited(tied, "config.json", "s/{/[/", AD_EFORMAT, "config.json");
}
END_TEST

START_TEST(tensors_that_are_missing_or_have_another_shape_are_refused_by_name)
{
    static const char tied[] = "models/llama-tied-bf16";
    edited(tied, "config.json", "s/\"num_hidden_layers\": [0-9]*/\"num_hidden_layers\": 9/", AD_EFORMAT, "layers.");
    edited(tied, "config.json", "s/\"num_hidden_layers\": [0-9]*/\"num_hidden_layers\": 1/", AD_EUNSUPPORTED, "layers.1");
    edited(tied, "config.json", "s/\"vocab_size\": [0-9]*/\"vocab_size\": 77/", AD_EFORMAT, "embed_tokens");
    edited(tied, "config.json", "s/\"intermediate_size\": [0-9]*/\"intermediate_size\": 33/", AD_EFORMAT, "mlp");
    edited(tied, "config.json", "s/\"tie_word_embeddings\": true/\"tie_word_embeddings\": false/", AD_EFORMAT, "lm_head");
}
END_TEST

START_TEST(shards_are_checked_against_their_index)
{
    static const char sharded[] = "models/llama-f16-shard", index[] = "model.safetensors.index.json";
    edited(sharded, index, "s/model-00002-of-00005/model-00009-of-00005/", AD_ENOTFOUND, "model-00009");
    edited(sharded, index, "s#model-00002-of-00005#../../etc/passwd#", AD_EFORMAT, "beside");
    edited(sharded, index, "s/\"weight_map\"/\"wait_map\"/", AD_EFORMAT, "weight_map");
    copy(sharded);
    run("truncate -s 1000 %s/model-00003-of-00005.safetensors", dir);
    refused(AD_EFORMAT, "model-00003");
}
END_TEST

/* ---- identity ---- */

static ad_digest fingerprint(const char *path, ad_weights weights)
{
    ad_err err;
    ad_model *m = NULL;
    ck_assert_msg(ad_model_load(&m, path, &(ad_model_options){.weights = weights, .n_threads = 2}, &err) == AD_OK, "%s", err.msg);
    ad_digest d = *ad_model_fingerprint(m);
    ad_model_free(&m);
    return d;
}

static bool same(const ad_digest *a, const ad_digest *b) { return !memcmp(a, b, sizeof *a); }

START_TEST(the_fingerprint_is_the_model_s_wherever_and_however_it_is_loaded)
{
    ad_digest a = fingerprint(golden_path("models/llama-f16-shard"), AD_WEIGHTS_F32), b = fingerprint(golden_path("models/llama-f16-shard"), AD_WEIGHTS_INT4);
    copy("models/llama-f16-shard");
    ad_digest c = fingerprint(dir, AD_WEIGHTS_AUTO);
    ck_assert(same(&a, &b) && same(&a, &c));
    run("rm -rf %s", dir);
    ad_digest other = fingerprint(golden_path("models/llama-tied-bf16"), AD_WEIGHTS_F32);
    ck_assert(!same(&a, &other));
}
END_TEST

START_TEST(a_changed_weight_or_number_is_another_model)
{
    ad_digest was = fingerprint(golden_path("models/llama-f16-shard"), AD_WEIGHTS_F32);
    copy("models/llama-f16-shard");
    run("printf '\\001' | dd of=%s/model-00003-of-00005.safetensors bs=1 seek=99711 conv=notrunc status=none", dir);
    ad_digest weight = fingerprint(dir, AD_WEIGHTS_F32);
    run("rm -rf %s", dir);
    copy("models/llama-f16-shard");
    run("sed -i -e 's/\"rope_theta\": [0-9.]*/\"rope_theta\": 12345.0/' %s/config.json", dir);
    ad_digest theta = fingerprint(dir, AD_WEIGHTS_F32);
    run("rm -rf %s", dir);
    ck_assert(!same(&was, &weight) && !same(&was, &theta) && !same(&weight, &theta));
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("model");
    TCase *t = tcase_create("model");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, modules_have_their_hugging_face_names_and_shapes);
    tcase_add_test(t, modules_are_found_by_the_names_of_gguf_files);
    tcase_add_test(t, the_fingerprint_is_the_model_s_wherever_and_however_it_is_loaded);
    tcase_add_test(t, a_changed_weight_or_number_is_another_model);
    tcase_add_test(t, a_gguf_file_reads_back_as_the_directory_it_was_made_of);
    tcase_add_test(t, a_quantised_file_is_within_its_stated_error_of_the_original);
    tcase_add_test(t, a_model_larger_than_memory_is_refused_before_it_is_read);
    tcase_add_test(t, configurations_that_are_not_understood_are_refused_by_key);
    tcase_add_test(t, tensors_that_are_missing_or_have_another_shape_are_refused_by_name);
    tcase_add_test(t, shards_are_checked_against_their_index);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
