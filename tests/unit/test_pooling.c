/* SPDX-License-Identifier: MIT */
/* Sequences that become a vector: what transformers and PEFT make of it, and the promise that nothing around one changes a bit. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <jansson.h>
#include <math.h>
#include <string.h>

#include "adapters/adapter.h"
#include "core/formats/safetensors.h"

enum { HIDDEN = 256 /* llama-gqa's, and the most */, MAX_IDS = 300, MAX_SEQS = 8 };

static const ad_pooling kinds[] = {AD_POOL_MEAN, AD_POOL_LAST, AD_POOL_CLS}; /* rows of the golden tensors */

static ad_engine *new_engine(const ad_model *m, int threads, int step_tokens, ad_kv_type kv_type, int pages)
{
    ad_err err;
    ad_engine *e = NULL;
    ad_engine_options opt = {.max_running = MAX_SEQS, .step_tokens = step_tokens, .context = 512, .kv_bytes = (size_t)pages * ad_kv_page_bytes(m, kv_type), .kv_type = kv_type,
                             .n_threads = threads, .cpu = ad_cpu_detect()};
    ck_assert_msg(ad_engine_new(&e, m, &opt, &err) == AD_OK, "%s", err.msg);
    return e;
}

static ad_adapter *load(const ad_model *m, const char *name)
{
    char rest[64];
    ad_err err;
    ad_adapter *a = NULL;
    snprintf(rest, sizeof rest, "adapters/%s", name);
    ck_assert_msg(ad_adapter_load(&a, name, golden_path(rest), m, &err) == AD_OK, "%s", err.msg);
    return a;
}

static ad_seq *new_pooled(const int32_t *ids, int n, ad_pooling pooling, const ad_adapter *a)
{
    ad_err err;
    ad_seq *s = NULL;
    ck_assert_int_eq(ad_seq_new_pooled(&s, ids, n, pooling, (ad_seq_weights){.mix = a ? ad_adapter_mix(a) : NULL, .root = {a ? 2 : 1, 0}}, &err), AD_OK);
    return s;
}

/* Steps with at most `chunk` rows of each sequence, until all have finished; what seqs[0] ends with. */
static ad_finish run(ad_engine *e, ad_seq **seqs, int n, int chunk)
{
    ad_err err;
    ad_finish first = AD_FINISH_NONE;
    bool done[MAX_SEQS] = {false};
    for (int i = 0; i < n; i++) ck_assert_msg(ad_engine_admit(e, seqs[i], &err) == AD_OK, "%s", err.msg);
    for (int left = n; left;) {
        ad_step_item items[MAX_SEQS];
        int k = 0;
        for (int i = 0; i < n; i++) {
            if (done[i]) continue;
            int rows = ad_seq_pending_rows(seqs[i]);
            items[k++] = (ad_step_item){.seq = seqs[i], .rows = rows < chunk ? rows : chunk};
            ck_assert(ad_engine_reserve(e, seqs[i], items[k - 1].rows));
        }
        ad_engine_step(e, items, k);
        for (int j = 0; j < k; j++) {
            int i = 0;
            while (seqs[i] != items[j].seq) i++;
            if (items[j].finish == AD_FINISH_NONE) continue;
            if (i == 0) first = items[j].finish;
            ad_engine_remove(e, seqs[i]);
            done[i] = true;
            left--;
        }
    }
    return first;
}

/* ---- against transformers and PEFT ---- */

static const json_t *case_named(const json_t *cases, const char *name)
{
    for (size_t i = 0; i < json_array_size(cases); i++)
        if (!strcmp(json_string_value(json_object_get(json_array_get(cases, i), "name")), name)) return json_array_get(cases, i);
    ck_abort_msg("no case %s", name);
}

/* 2e-4 of the largest value, as for logits: ten times what two correct f32 programs differ by. */
static void compare(const char *name, int kind, const float *got, const float *want, int n)
{
    float largest = 0;
    for (int i = 0; i < n; i++) largest = fmaxf(largest, fabsf(want[i]));
    for (int i = 0; i < n; i++)
        ck_assert_msg(fabsf(got[i] - want[i]) <= 2e-4f * largest, "%s, pooling %d: [%d] is %g, golden %g", name, kind, i, (double)got[i], (double)want[i]);
}

static void check_case(const json_t *c, const ad_tensor *golden)
{
    ad_model *m = golden_model(json_string_value(json_object_get(c, "model")));
    const json_t *ids_json = json_object_get(c, "ids");
    const char *adapter = json_string_value(json_object_get(c, "adapter"));
    ad_adapter *a = adapter ? load(m, adapter) : NULL;
    ad_engine *e = new_engine(m, 2, 64, AD_KV_F32, 100);
    int32_t ids[MAX_IDS];
    int n = (int)json_array_size(ids_json), hidden = ad_model_get_config(m)->hidden;
    float want[3 * HIDDEN];
    ck_assert(golden->n_dims == 2 && golden->dims[0] == 3 && golden->dims[1] == hidden && hidden <= HIDDEN);
    memcpy(want, golden->data, 3 * (size_t)hidden * sizeof *want);
    for (int i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(ids_json, (size_t)i));
    for (int k = 0; k < 3; k++) {
        ad_seq *s = new_pooled(ids, n, kinds[k], a);
        ck_assert_int_eq(run(e, &s, 1, 64), AD_FINISH_LENGTH);
        compare(golden->name, k, ad_seq_vector(s), want + k * hidden, hidden);
        ad_seq_free(&s);
    }
    ad_engine_free(&e);
    ad_adapter_release(&a);
    ad_model_free(&m);
}

START_TEST(every_vector_is_the_golden_one)
{
    ad_err err;
    ad_safetensors *golden = NULL;
    json_t *doc = json_load_file(golden_path("cases.json"), 0, NULL);
    ck_assert_ptr_nonnull(doc);
    ck_assert_msg(ad_safetensors_open(&golden, golden_path("pooled.safetensors"), &err) == AD_OK, "%s", err.msg);
    ck_assert_uint_ge(ad_safetensors_count(golden), 23);
    for (size_t i = 0; i < ad_safetensors_count(golden); i++) {
        const ad_tensor *t = ad_safetensors_at(golden, i);
        check_case(case_named(json_object_get(doc, "cases"), t->name), t);
    }
    ad_safetensors_close(&golden);
    json_decref(doc);
}
END_TEST

/* ---- to the last bit ---- */

static ad_model *base;
static ad_adapter *adapter;
static int32_t prompt[MAX_IDS];

static void setup(void)
{
    base = golden_model_as("models/llama-gqa", AD_WEIGHTS_INT8);
    adapter = load(base, "all");
    for (int i = 0; i < MAX_IDS; i++) prompt[i] = (5 + 31 * i) % 1000;
}

static void teardown(void)
{
    ad_adapter_release(&adapter);
    ad_model_free(&base);
}

/* A neighbour that draws tokens: of the base or the adapter. */
static ad_seq *new_drawing(int n, bool adapted)
{
    static const ad_sampling greedy = {.top_p = 1, .repetition_penalty = 1, .max_tokens = 9, .logprobs = -1, .prompt_logprobs = -1, .ignore_eos = true};
    ad_err err;
    ad_seq *s = NULL;
    ck_assert_int_eq(ad_seq_new(&s, prompt, n, &greedy, (ad_seq_weights){.mix = adapted ? ad_adapter_mix(adapter) : NULL, .root = {adapted ? 2 : 1, 0}}, &err), AD_OK);
    return s;
}

/* _i: three kinds, without and with the adapter; each a test of its own, since under ThreadSanitizer they take long. */
START_TEST(chunks_threads_company_and_cache_do_not_change_a_bit)
{
    static const struct { int threads, chunk; bool company, cached; } ways[] = {
        {1, 100, false, false}, {1, 1, false, false}, {2, 7, true, false}, {3, 16, true, true}, {2, 100, false, true}, {1, 33, true, true}};
    int kind = _i / 2;
    bool adapted = _i % 2;
    const ad_adapter *a = adapted ? adapter : NULL;
    float want[HIDDEN];
    for (size_t w = 0; w < sizeof ways / sizeof *ways; w++) {
        ad_engine *e = new_engine(base, ways[w].threads, 512, AD_KV_F16, 100);
        ad_seq *before = new_drawing(100, adapted);
        if (ways[w].cached) run(e, &before, 1, 100); /* knows the prompt's pages now */
        ad_seq *seqs[] = {new_pooled(prompt, 100, kinds[kind], a), new_drawing(50, !adapted), new_pooled(prompt + 9, 41, AD_POOL_MEAN, adapter), new_drawing(3, adapted)};
        ck_assert_int_eq(run(e, seqs, ways[w].company ? 4 : 1, ways[w].chunk), AD_FINISH_LENGTH);
        if (!w) memcpy(want, ad_seq_vector(seqs[0]), sizeof want);
        ck_assert_msg(!memcmp(want, ad_seq_vector(seqs[0]), sizeof want), "pooling %d, adapted %d, way %zu", kind, adapted, w);
        ck_assert_int_eq(ad_seq_cached_tokens(seqs[0]), ways[w].cached && kinds[kind] == AD_POOL_LAST ? 96 : 0);
        for (int i = 0; i < 4; i++) ad_seq_free(&seqs[i]);
        ad_seq_free(&before);
        ad_engine_free(&e);
    }
}
END_TEST

START_TEST(a_sequence_that_is_thrown_out_begins_its_sum_again)
{
    ad_err err;
    ad_engine *e = new_engine(base, 1, 64, AD_KV_F16, 100);
    ad_seq *whole = new_pooled(prompt, 60, AD_POOL_MEAN, adapter), *cut = new_pooled(prompt, 60, AD_POOL_MEAN, adapter);
    run(e, &whole, 1, 64);
    ck_assert_int_eq(ad_engine_admit(e, cut, &err), AD_OK);
    ck_assert(ad_engine_reserve(e, cut, 40));
    ad_engine_step(e, &(ad_step_item){.seq = cut, .rows = 40}, 1);
    ad_engine_remove(e, cut);
    run(e, &cut, 1, 64);
    ck_assert(!memcmp(ad_seq_vector(whole), ad_seq_vector(cut), HIDDEN * sizeof(float)));
    ad_seq_free(&whole), ad_seq_free(&cut);
    ad_engine_free(&e);
}
END_TEST

START_TEST(a_vector_s_pages_serve_who_comes_later)
{
    ad_engine *e = new_engine(base, 1, 128, AD_KV_F16, 100);
    ad_seq *pooled = new_pooled(prompt, 100, AD_POOL_MEAN, NULL), *later = new_drawing(100, false);
    run(e, &pooled, 1, 128);
    run(e, &later, 1, 128);
    ck_assert_int_eq(ad_seq_cached_tokens(later), 96);
    ck_assert_ptr_null(ad_seq_vector(later));
    ad_seq_free(&pooled), ad_seq_free(&later);
    ad_engine_free(&e);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("pooling");
    TCase *golden = tcase_create("golden"), *bits = tcase_create("bits");
    tcase_add_test(golden, every_vector_is_the_golden_one);
    suite_add_tcase(suite, golden);
    tcase_add_checked_fixture(bits, setup, teardown);
    tcase_add_loop_test(bits, chunks_threads_company_and_cache_do_not_change_a_bit, 0, 6);
    tcase_add_test(bits, a_sequence_that_is_thrown_out_begins_its_sum_again);
    tcase_add_test(bits, a_vector_s_pages_serve_who_comes_later);
    suite_add_tcase(suite, bits);
    return tu_run(suite);
}
