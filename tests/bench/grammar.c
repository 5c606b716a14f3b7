/* SPDX-License-Identifier: MIT */
/* What grammars cost: grammar MODEL [ROUNDS, default 9]. Compilation and masks of a tool's schema, then steps of 1 and 8 rows with and
 * without it, in turn. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/engine/engine.h"

enum { TOKENS = 64, PROMPT = 16, MAX_ROWS = 8 };

#define TOOL \
    "{\"type\":\"object\",\"properties\":{\"name\":{\"const\":\"book_flight\"},\"arguments\":{\"type\":\"object\",\"properties\":{" \
    "\"from\":{\"type\":\"string\",\"description\":\"IATA code\",\"pattern\":\"^[A-Z]{3}$\"},\"to\":{\"type\":\"string\",\"pattern\":\"^[A-Z]{3}$\"}," \
    "\"date\":{\"type\":\"string\",\"format\":\"date\"},\"passengers\":{\"type\":\"array\",\"minItems\":1,\"maxItems\":9,\"items\":{\"type\":\"object\",\"properties\":{" \
    "\"name\":{\"type\":\"string\",\"maxLength\":80},\"age\":{\"type\":\"integer\",\"minimum\":0,\"maximum\":130},\"seat\":{\"enum\":[\"window\",\"aisle\",\"any\"]}}," \
    "\"required\":[\"name\",\"age\"],\"additionalProperties\":false}},\"class\":{\"enum\":[\"economy\",\"business\",\"first\"]},\"notes\":{\"type\":[\"string\",\"null\"]}}," \
    "\"required\":[\"from\",\"to\",\"date\",\"passengers\"],\"additionalProperties\":false}},\"required\":[\"name\",\"arguments\"],\"additionalProperties\":false}"

static const char SCHEMA[] = TOOL, ENDLESS[] = "{\"type\":\"array\",\"minItems\":100000,\"items\":" TOOL "}";
static const char TEXT[] = "{\"name\": \"book_flight\", \"arguments\": {\"from\": \"BER\", \"to\": \"OSL\", \"date\": \"2026-02-28\", \"passengers\": [{\"name\": \"Zo\xC3\xAB \\\"Z\\\" Lund\", "
                           "\"age\": 37, \"seat\": \"window\"}], \"class\": \"economy\", \"notes\": \"two bags, please\"}}";

static const ad_model *model;
static const ad_grammar_vocab *vocab;

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, by_value);
    return x[n / 2];
}

static void check(ad_status st, const ad_err *err)
{
    if (st == AD_OK) return;
    fprintf(stderr, "%s\n", err->msg);
    exit(1);
}

static ad_grammar *compiled(const char *text)
{
    ad_err err;
    ad_grammar *g = NULL;
    check(ad_grammar_new(&g, vocab, AD_GRAMMAR_JSON_SCHEMA, (ad_str){text, strlen(text)}, &err), &err);
    return g;
}

/* Every byte of TEXT: the mask before it, made and then found. */
static void measure_masks(int rounds)
{
    double compile[64], first[64], sum[64], most[64], found[64];
    uint64_t *mask = calloc(ad_grammar_mask_words(ad_tokenizer_vocab(ad_model_tokenizer(model))), sizeof *mask);
    for (int i = 0; i < rounds; i++) {
        double t = now_ms();
        ad_grammar *g = compiled(SCHEMA);
        compile[i] = now_ms() - t;
        most[i] = sum[i] = found[i] = 0;
        for (int pass = 0; pass < 2; pass++) {
            int32_t state = AD_GRAMMAR_START;
            for (size_t k = 0; TEXT[k]; k++) {
                t = now_ms();
                if (!ad_grammar_mask(g, state, mask)) exit(1);
                double ms = now_ms() - t;
                if (pass) found[i] += ms / (double)strlen(TEXT);
                else if (sum[i] += ms, ms > most[i]) most[i] = ms;
                if (!pass && !k) first[i] = ms;
                state = ad_grammar_next_text(g, state, (ad_str){TEXT + k, 1});
                if (state < 0) exit(1);
            }
        }
        if (i == 0) printf("memory   %zu bytes after the text\n", ad_grammar_bytes(g));
        ad_grammar_release(&g);
    }
    printf("compile  %.2f ms\nmasks    first %.3f ms, most expensive %.3f ms, all %zu of a text %.2f ms; cached %.4f ms each\n", median(compile, rounds), median(first, rounds), median(most, rounds),
           strlen(TEXT), median(sum, rounds), median(found, rounds));
    free(mask);
}

/* Milliseconds of a decode step of n rows, mean of TOKENS - 1; *worst is the longest. */
static double decode(ad_engine *e, int n, ad_grammar *g, float temperature, double *worst)
{
    ad_err err;
    ad_seq *seqs[MAX_ROWS];
    ad_step_item items[MAX_ROWS];
    double total = 0;
    for (int i = 0; i < n; i++) {
        int32_t prompt[PROMPT];
        for (int k = 0; k < PROMPT; k++) prompt[k] = 100 + 977 * i + 31 * k;
        ad_sampling s = {.temperature = temperature, .top_p = 1, .repetition_penalty = 1, .max_tokens = TOKENS, .logprobs = -1, .prompt_logprobs = -1, .ignore_eos = true, .seed = (uint64_t)i, .grammar = g};
        seqs[i] = NULL;
        check(ad_seq_new(&seqs[i], prompt, PROMPT, &s, (ad_seq_weights){.root = {(uint64_t)i + 1, (uint64_t)n}}, &err), &err);
        check(ad_engine_admit(e, seqs[i], &err), &err);
    }
    *worst = 0;
    for (int step = 0; step < TOKENS; step++) {
        for (int i = 0; i < n; i++) {
            items[i] = (ad_step_item){.seq = seqs[i], .rows = ad_seq_pending_rows(seqs[i])};
            if (!ad_engine_reserve(e, seqs[i], items[i].rows)) exit(1);
        }
        double t = now_ms();
        ad_engine_step(e, items, n);
        t = now_ms() - t;
        if (step) total += t;
        if (step && t > *worst) *worst = t;
    }
    for (int i = 0; i < n; i++) {
        ad_engine_remove(e, seqs[i]);
        ad_seq_free(&seqs[i]);
    }
    return total / (TOKENS - 1);
}

static void measure_steps(ad_engine *e, int n, float temperature, int rounds)
{
    double plain[64], bound[64], ratio[64], worst, cold_worst;
    ad_grammar *g = compiled(ENDLESS);
    decode(e, n, NULL, temperature, &worst);
    double cold = decode(e, n, g, temperature, &cold_worst);
    for (int i = 0; i < rounds; i++) {
        plain[i] = decode(e, n, NULL, temperature, &worst);
        bound[i] = decode(e, n, g, temperature, &worst);
        ratio[i] = bound[i] / plain[i];
    }
    double middle = median(ratio, rounds);
    printf("%d rows, temperature %g: step %.3f ms, with a grammar %.3f ms, median of ratios %.3f (%.3f .. %.3f); while its masks are made %.3f ms, longest step %.2f ms\n", n, (double)temperature,
           median(plain, rounds), median(bound, rounds), middle, ratio[0], ratio[rounds - 1], cold, cold_worst);
    ad_grammar_release(&g);
}

int main(int argc, char **argv)
{
    ad_err err;
    ad_model *m = NULL;
    ad_grammar_vocab *v = NULL;
    ad_engine *e = NULL;
    int rounds = argc > 2 ? atoi(argv[2]) : 9;
    if (argc < 2 || rounds < 1 || rounds > 64) return fputs("usage: grammar MODEL [ROUNDS up to 64]\n", stderr), 2;
    check(ad_model_load(&m, argv[1], &(ad_model_options){.n_threads = 2}, &err), &err);
    model = m;
    double t = now_ms();
    check(ad_grammar_vocab_new(&v, ad_model_tokenizer(m), &err), &err);
    vocab = v;
    printf("vocabulary of %d tokens %.1f ms\n", ad_tokenizer_vocab(ad_model_tokenizer(m)), now_ms() - t);
    ad_engine_options opt = {.max_running = MAX_ROWS, .step_tokens = 256, .context = 256, .kv_bytes = 400 * ad_kv_page_bytes(m, AD_KV_F16), .kv_type = AD_KV_F16, .n_threads = 2, .cpu = ad_cpu_detect()};
    check(ad_engine_new(&e, m, &opt, &err), &err);
    measure_masks(rounds);
    for (int n = 1; n <= MAX_ROWS; n *= 8)
        for (int hot = 0; hot < 2; hot++) measure_steps(e, n, (float)hot, rounds);
    ad_engine_free(&e);
    ad_grammar_vocab_free(&v);
    ad_model_free(&m);
    return 0;
}
