/* SPDX-License-Identifier: MIT */
/* An adapter that is loaded while it arrives is the one that is loaded as a whole, however it is cut. */
#include "tests/unit/golden.h"
#include "tests/unit/store_util.h"
#include "tests/unit/suite.h"

#include "adapters/adapter.h"
#include "core/base/file.h"

static char dir[AD_STORE_PATH];

static void setup(void) { tu_make_dir(dir); }
static void teardown(void) { tu_remove_dir(dir); }

static ad_file read_golden(const char *adapter, const char *name)
{
    char rest[128];
    ad_file f = {0};
    ad_err err;
    snprintf(rest, sizeof rest, "adapters/%s/%s", adapter, name);
    ck_assert_msg(ad_file_read(&f, golden_path(rest), 1u << 30, &err) == AD_OK, "%s", err.msg);
    return f;
}

static void append(const char *name, const void *data, size_t len)
{
    char path[2 * AD_STORE_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, data, len), (ssize_t)len);
    close(fd);
}

/* Sends weights[len] in pieces of `piece` bytes; the status of the first call that failed. */
static ad_status arrive(const ad_model *m, const char *config, size_t config_len, const char *weights, size_t len, size_t piece, ad_adapter **out, ad_err *err)
{
    ad_adapter_stream *s = NULL;
    tu_remove_dir(dir);
    ck_assert_int_eq(mkdir(dir, 0700), 0);
    append("adapter_config.json", config, config_len);
    append("adapter_model.safetensors", "", 0);
    ad_status st = ad_adapter_stream_new(&s, dir, m, 1u << 30, err);
    for (size_t at = 0; st == AD_OK && at < len; at += piece) {
        size_t n = len - at < piece ? len - at : piece;
        append("adapter_model.safetensors", weights + at, n);
        st = ad_adapter_stream_advance(s, at + n, err);
    }
    if (st == AD_OK) st = ad_adapter_stream_finish(&s, len, "streamed", out, err);
    ad_adapter_stream_free(&s);
    return st;
}

static void same(const ad_model *m, const ad_adapter *a, const ad_adapter *b)
{
    ck_assert(!memcmp(ad_adapter_digest(a), ad_adapter_digest(b), sizeof(ad_digest)));
    ck_assert_uint_eq(ad_adapter_packed_bytes(a), ad_adapter_packed_bytes(b));
    ck_assert_int_eq(ad_adapter_matched_tensors(a), ad_adapter_matched_tensors(b));
    ck_assert_int_eq(ad_adapter_warning_count(a), ad_adapter_warning_count(b));
    for (int i = 0; i < ad_model_module_count(m); i++) {
        const ad_lowrank *x = &ad_adapter_lowrank(a)->modules[i], *y = &ad_adapter_lowrank(b)->modules[i];
        ck_assert(ad_adapter_norm(a, i) == ad_adapter_norm(b, i));
        ck_assert(x->rank == y->rank && x->scale == y->scale && x->at == y->at && x->b.rows == y->b.rows);
        if (x->rank) ck_assert(!memcmp(x->b.data, y->b.data, (size_t)((x->b.rows + AD_PANEL - 1) / AD_PANEL) * x->b.panel_bytes));
    }
    for (int g = 0; g < ad_model_group_count(m); g++) {
        const ad_matrix *x = &ad_adapter_lowrank(a)->a[g], *y = &ad_adapter_lowrank(b)->a[g];
        ck_assert_int_eq(x->rows, y->rows);
        if (x->rows) ck_assert(!memcmp(x->data, y->data, ad_pack_bytes(x->type, x->rows, x->cols)));
    }
}

START_TEST(however_it_is_cut_it_is_the_adapter_that_the_whole_files_are)
{
    static const char *const names[] = {"all", "patterns", "rslora", "layers", "head", "embed", "qv"};
    for (int w = 0; w < 2; w++) {
        ad_model *m = golden_model_as("models/llama-gqa", w ? AD_WEIGHTS_BF16 : AD_WEIGHTS_F32);
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            ad_file config = read_golden(names[i], "adapter_config.json"), weights = read_golden(names[i], "adapter_model.safetensors");
            const size_t pieces[] = {weights.len, 65536, 4099, 777};
            char rest[128];
            ad_adapter *whole = NULL;
            ad_err err = {0};
            snprintf(rest, sizeof rest, "adapters/%s", names[i]);
            ck_assert_int_eq(ad_adapter_load(&whole, "whole", golden_path(rest), m, &err), AD_OK);
            for (int k = 0; k < 4; k++) {
                ad_adapter *a = NULL;
                ck_assert_msg(arrive(m, config.data, config.len, weights.data, weights.len, pieces[k], &a, &err) == AD_OK, "%s: %s", names[i], err.msg);
                ck_assert_str_eq(ad_adapter_name(a), "streamed");
                same(m, a, whole);
                ad_adapter_release(&a);
            }
            ad_adapter_release(&whole);
            ad_file_close(&config);
            ad_file_close(&weights);
        }
        ad_model_free(&m);
    }
    ck_assert_uint_eq(ad_adapter_live_bytes(), 0);
}
END_TEST

START_TEST(a_file_that_ends_early_or_late_is_refused)
{
    ad_model *m = golden_model("models/llama-gqa");
    ad_file config = read_golden("qv", "adapter_config.json"), weights = read_golden("qv", "adapter_model.safetensors");
    ad_adapter *a = NULL;
    ad_err err = {0};
    char *more = calloc(1, weights.len + 1);
    memcpy(more, weights.data, weights.len);
    const size_t lengths[] = {0, 7, 8, 100, weights.len / 2, weights.len - 1, weights.len + 1};
    for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++)
        for (size_t piece = 50; piece < 100000; piece *= 40) ck_assert_int_ne(arrive(m, config.data, config.len, more, lengths[i], piece, &a, &err), AD_OK);
    free(more);
    ad_file_close(&config);
    ad_file_close(&weights);
    ad_model_free(&m);
    ck_assert_uint_eq(ad_adapter_live_bytes(), 0);
}
END_TEST

/* Their data would be read before its time. */
START_TEST(adapters_with_more_than_pairs_are_left_to_the_whole)
{
    static const char *const names[] = {"dora", "embed-saved", "save-head", "save-embed-norm"};
    ad_model *m = golden_model("models/llama-gqa");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ad_file config = read_golden(names[i], "adapter_config.json"), weights = read_golden(names[i], "adapter_model.safetensors");
        ad_adapter *a = NULL;
        ad_err err = {0};
        ck_assert_msg(arrive(m, config.data, config.len, weights.data, weights.len, 1000, &a, &err) == AD_EUNSUPPORTED, "%s", names[i]);
        ad_file_close(&config);
        ad_file_close(&weights);
    }
    ad_model_free(&m);
    ck_assert_uint_eq(ad_adapter_live_bytes(), 0);
}
END_TEST

/* No length, offset or name in a header makes it look behind what came. */
START_TEST(hostile_headers_are_refused)
{
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":4,\"lora_alpha\":8,\"target_modules\":[\"q_proj\"]}";
    static const char *const headers[] = {
        "{}", "[]", "{", "{\"a\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[0,4]}}",
        "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[4,64],\"data_offsets\":[0,1024]}}",
        "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[4,4611686018427387904],\"data_offsets\":[0,1024]}}",
        "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":{\"dtype\":\"U8\",\"shape\":[70368744177664],\"data_offsets\":[0,70368744177664]}}",
        "{\"base_model.model.model.layers.0.self_attn.q_proj.weight\":{\"dtype\":\"F32\",\"shape\":[64,64],\"data_offsets\":[0,16384]}}",
        "{\"base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[4,64],\"data_offsets\":[9223372036854774784,9223372036854775807]}}",
    };
    ad_model *m = golden_model("models/llama-gqa");
    for (size_t i = 0; i < sizeof headers / sizeof *headers; i++) {
        uint64_t lengths[] = {strlen(headers[i]), 0, 1, UINT64_MAX, UINT64_MAX - 7, 100000001};
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            char file[4096] = "";
            ad_adapter *a = NULL;
            ad_err err = {0};
            memcpy(file, &lengths[k], 8);
            memcpy(file + 8, headers[i], strlen(headers[i]));
            ck_assert_int_ne(arrive(m, config, strlen(config), file, 8 + strlen(headers[i]) + 100, 50, &a, &err), AD_OK);
        }
    }
    ad_model_free(&m);
    ck_assert_uint_eq(ad_adapter_live_bytes(), 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("stream");
    TCase *t = tcase_create("stream");
    tcase_set_timeout(t, 30);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, however_it_is_cut_it_is_the_adapter_that_the_whole_files_are);
    tcase_add_test(t, a_file_that_ends_early_or_late_is_refused);
    tcase_add_test(t, adapters_with_more_than_pairs_are_left_to_the_whole);
    tcase_add_test(t, hostile_headers_are_refused);
    suite_add_tcase(s, t);
    return tu_run(s);
}
