/* SPDX-License-Identifier: MIT */
/* Grammars of every kind, and walks through what became of them. The first byte is the kind. */
#include "tests/fuzz/fuzz.h"

#include "core/grammar/grammar.h"

enum { STEPS = 24 };

static ad_tokenizer *tk;
static ad_grammar_vocab *vocab;
static uint64_t *mask;

static void open_vocab(void)
{
    ad_err err;
    if (ad_tokenizer_from_dir(&tk, fuzz_path("tokenizers/smollm"), &err) != AD_OK || ad_grammar_vocab_new(&vocab, tk, &err) != AD_OK) abort();
    mask = calloc(ad_grammar_mask_words(ad_tokenizer_vocab(tk)), sizeof *mask);
}

/* Every allowed token leads somewhere, and a state from which nothing leads on is an end. */
static void walk(ad_grammar *g, uint32_t seed)
{
    int32_t state = AD_GRAMMAR_START, n = ad_tokenizer_vocab(tk);
    for (int i = 0; i < STEPS; i++) {
        if (!ad_grammar_mask(g, state, mask)) return;
        int32_t from = (int32_t)(seed % (uint32_t)n), id = -1;
        for (int32_t k = 0; k < n && id < 0; k++)
            if (mask[(from + k) % n / 64] >> (from + k) % n % 64 & 1) id = (from + k) % n;
        if (id < 0) return;
        if (ad_grammar_ends(g, state) == AD_GRAMMAR_DONE) abort();
        state = ad_grammar_next(g, state, id);
        if (state == AD_GRAMMAR_LIMIT) return;
        if (state < 0) abort();
        seed = seed * 1664525u + 1013904223u;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_err err;
    ad_grammar *g = NULL;
    if (!tk) open_vocab();
    if (!size) return 0;
    if (ad_grammar_new(&g, vocab, (ad_grammar_kind)(data[0] % AD_GRAMMAR_KINDS), (ad_str){(const char *)data + 1, size - 1}, &err) != AD_OK) return 0;
    walk(g, (uint32_t)size * 2654435761u + data[size - 1]);
    ad_grammar_release(&g);
    return 0;
}
