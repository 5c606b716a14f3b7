/* SPDX-License-Identifier: MIT */
/* What packed weights cost in quality, on real text: next-token distributions against those of f32 weights. The text is
 * Debian's licence files; the model AD_TEST_MODEL. Without it the tests are skipped. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <string.h>

#include "core/base/file.h"

/* Each chunk begins a text, and its second half counts, as in llama.cpp's measurement: 5,120 positions with some context. */
enum { CHUNK = 512, SCORED = CHUNK / 2, CHUNKS = 20 };
static int n_chunks = CHUNKS; /* fewer with an argument */

static ad_ids text_ids;

static void read_text(const ad_model *m)
{
    static const char *const names[] = {"GPL-3", "Apache-2.0", "MPL-2.0", "GFDL-1.3"};
    ad_buf text = {0};
    ad_err err;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[100];
        ad_file f = {0};
        snprintf(path, sizeof path, "/usr/share/common-licenses/%s", names[i]);
        ck_assert_msg(ad_file_read(&f, path, 1 << 20, &err) == AD_OK, "%s", err.msg);
        ad_buf_append(&text, f.data, f.len);
        ad_file_close(&f);
    }
    ck_assert_int_eq(ad_tokenizer_encode(ad_model_tokenizer(m), text.data, text.len, 0, &text_ids, &err), AD_OK);
    ck_assert_uint_ge(text_ids.count, CHUNK * CHUNKS);
    ad_buf_deinit(&text);
}

static const char *model_path(void)
{
    return getenv("AD_TEST_MODEL");
}

/* Logits of one chunk, [SCORED, vocab]. */
static void run_chunk(tu_rig *r, int chunk, float *logits)
{
    int positions[CHUNK], out[CHUNK];
    void **own = tu_pages_new(r->model, CHUNK);
    void *const *pages[CHUNK];
    const ad_mix *mixes[CHUNK] = {0};
    const ad_merged *merged[CHUNK] = {0};
    for (int i = 0; i < CHUNK; i++) positions[i] = i, pages[i] = own;
    for (int i = 0; i < SCORED; i++) out[i] = CHUNK - SCORED + i;
    ad_model_step(r->model, r->scratch, &(ad_step_batch){.n_rows = CHUNK, .tokens = text_ids.ids + chunk * CHUNK, .positions = positions, .pages = pages, .mixes = mixes,
                                                         .merged = merged, .n_out = SCORED, .out_rows = out, .logits = logits});
    tu_pages_free(own);
}

static double log_sum(const ad_kernels *k, const float *x, int n)
{
    float max;
    ck_assert_int_ge(k->argmax(x, n, &max), 0);
    return log(k->sum_exp(x, n, max)) + (double)max;
}

/* Sum over tokens of p log(p / q) for logits of p and q. */
static double divergence(const ad_kernels *k, const float *p, const float *q, int n)
{
    double zp = log_sum(k, p, n), zq = log_sum(k, q, n), kl = 0;
    for (int i = 0; i < n; i++) {
        double lp = (double)p[i] - zp;
        if (lp > -30) kl += exp(lp) * (lp - ((double)q[i] - zq)); /* less than 1e-13 of the mass is left out */
    }
    return kl;
}

static ad_model *load(ad_weights weights)
{
    ad_err err;
    ad_model *m = NULL;
    ck_assert_msg(ad_model_load(&m, model_path(), &(ad_model_options){.weights = weights, .n_threads = ad_usable_cpus()}, &err) == AD_OK, "%s", err.msg);
    return m;
}

/* What is compared with f32; all in one pass, for what f32 says takes longer than any of them. */
static struct {
    ad_weights weights;
    char types[80];
    double kl; /* summed over all positions, as is `same` */
    int same;
} packed[] = {{.weights = AD_WEIGHTS_BF16}, {.weights = AD_WEIGHTS_INT8}, {.weights = AD_WEIGHTS_AUTO}};
enum { N_PACKED = sizeof packed / sizeof *packed };

static void open_rig(tu_rig *r, ad_model **m, ad_weights weights)
{
    *m = load(weights);
    tu_rig_open(r, *m, ad_cpu_detect(), ad_usable_cpus(), CHUNK, CHUNK);
}

static void setup(void)
{
    tu_rig exact, rigs[N_PACKED];
    ad_model *exact_model, *models[N_PACKED];
    open_rig(&exact, &exact_model, AD_WEIGHTS_F32);
    for (int i = 0; i < N_PACKED; i++) {
        open_rig(&rigs[i], &models[i], packed[i].weights);
        ad_model_describe_weights(models[i], packed[i].types, sizeof packed[i].types);
    }
    int vocab = ad_model_get_config(exact_model)->vocab;
    float *p = calloc((size_t)SCORED * (size_t)vocab, sizeof *p), *q = calloc((size_t)SCORED * (size_t)vocab, sizeof *q);
    read_text(exact_model);
    for (int c = 0; c < n_chunks; c++) {
        run_chunk(&exact, c, p);
        for (int i = 0; i < N_PACKED; i++) {
            run_chunk(&rigs[i], c, q);
            for (int k = 0; k < SCORED; k++) {
                const float *x = p + (size_t)k * (size_t)vocab, *y = q + (size_t)k * (size_t)vocab;
                float top;
                packed[i].kl += divergence(&exact.kernels, x, y, vocab);
                packed[i].same += exact.kernels.argmax(x, vocab, &top) == exact.kernels.argmax(y, vocab, &top);
            }
        }
    }
    free(p), free(q), free(text_ids.ids);
    for (int i = 0; i < N_PACKED; i++) tu_rig_close(&rigs[i]), ad_model_free(&models[i]);
    tu_rig_close(&exact);
    ad_model_free(&exact_model);
}

static void compare(int which, double most_kl, double least_top1)
{
    const char *types = packed[which].types;
    int n = SCORED * n_chunks, same = packed[which].same;
    double kl = packed[which].kl / n;
    printf("%s: mean KL divergence from f32 %.5f, top-1 agreement %.1f %%, %d positions\n", types, kl, 100.0 * same / n, n);
    ck_assert_msg(kl < most_kl, "%s: KL %.5f", types, kl);
    ck_assert_msg((double)same >= least_top1 * n, "%s: top-1 %.1f %%", types, 100.0 * same / n);
}

START_TEST(bf16_weights_change_next_token_distributions_by_less_than_0003)
{
    compare(0, 3e-4, 0.98);
}
END_TEST

START_TEST(int8_weights_change_next_token_distributions_by_less_than_004)
{
    compare(1, 4e-3, 0.96);
}
END_TEST

START_TEST(a_four_bit_file_is_served_within_004_of_its_own_values)
{
    compare(2, 4e-3, 0.96);
}
END_TEST

int main(int argc, char **argv)
{
    if (argc > 1) n_chunks = atoi(argv[1]);
    if (n_chunks < 1 || n_chunks > CHUNKS) return 2;
    if (!model_path()) {
        puts("SKIP: AD_TEST_MODEL is not set");
        return 77;
    }
    Suite *suite = suite_create("quality");
    TCase *t = tcase_create("quality");
    tcase_add_unchecked_fixture(t, setup, NULL);
    tcase_add_test(t, bf16_weights_change_next_token_distributions_by_less_than_0003);
    tcase_add_test(t, int8_weights_change_next_token_distributions_by_less_than_004);
    tcase_add_test(t, a_four_bit_file_is_served_within_004_of_its_own_values);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
