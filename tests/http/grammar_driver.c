/* SPDX-License-Identifier: MIT */
/* grammar_driver TOKENIZER_DIR: grammars for tests/http/test_grammar.py, which knows what is right. A request is a line of JSON:
 * {"kind": 0.., "text", "walks": how many random texts to make, "seed", "check": [texts]}. The answer: {"error", "code"} or
 * {"texts": [finished walks], "stuck": walks that could not end, "accepted": [true, false ...]}. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/grammar/grammar.h"

enum { LONG = 120, TOO_LONG = 3000, SAMPLE = 40 }; /* tokens from which a walk looks for its end, and gives up; ids checked per state */

static ad_tokenizer *tk;
static ad_grammar_vocab *vocab;
static uint64_t *mask;
static int n_vocab;
static uint64_t seed;

static uint32_t draw(uint32_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)((seed >> 33) % n);
}

static bool allowed(int id) { return mask[id / 64] >> id % 64 & 1; }

/* Any allowed token. A long walk prefers what closes something. -1: there is none. */
static int pick(bool finish)
{
    int n = 0, best = -1;
    for (int id = 0; id < n_vocab; id++) {
        if (!allowed(id)) continue;
        ad_str piece = ad_tokenizer_piece(tk, id);
        if (finish && piece.len == 1 && strchr("\"]})@.", piece.ptr[0])) return id;
        if (draw((uint32_t)++n) == 0) best = id;
    }
    return best;
}

/* The mask says what the bytes of a token say. */
static void check_mask(ad_grammar *g, int32_t state)
{
    for (int i = 0; i < SAMPLE; i++) {
        int id = (int)draw((uint32_t)n_vocab);
        bool text = ad_tokenizer_piece(tk, id).len && !ad_tokenizer_is_special(tk, id) && !ad_tokenizer_is_eog(tk, id);
        if (allowed(id) == (text && ad_grammar_next(g, state, id) >= 0)) continue;
        fprintf(stderr, "mask and bytes differ about token %d\n", id);
        exit(1);
    }
}

/* False when the walk could not be ended. */
static bool walk(ad_grammar *g, ad_buf *text)
{
    int32_t state = AD_GRAMMAR_START;
    for (int n = 0; n < TOO_LONG; n++) {
        ad_grammar_end end = ad_grammar_ends(g, state);
        if (end == AD_GRAMMAR_DONE || (end == AD_GRAMMAR_MAY_END && (n > LONG || draw(3) == 0))) return true;
        if (!ad_grammar_mask(g, state, mask)) return false;
        check_mask(g, state);
        int id = pick(n > LONG);
        if (id < 0) return false;
        ad_buf_append(text, ad_tokenizer_piece(tk, id).ptr, ad_tokenizer_piece(tk, id).len);
        state = ad_grammar_next(g, state, id);
        if (state < 0) return false;
    }
    return false;
}

static json_t *texts_of(ad_grammar *g, int walks, int *stuck)
{
    json_t *list = json_array();
    for (int i = 0; i < walks; i++) {
        ad_buf text = {0};
        ad_buf_append(&text, "", 0);
        if (walk(g, &text)) json_array_append_new(list, json_stringn(text.data, text.len));
        else ++*stuck;
        ad_buf_deinit(&text);
    }
    return list;
}

static json_t *accepted(ad_grammar *g, const json_t *texts)
{
    json_t *list = json_array();
    for (size_t i = 0; i < json_array_size(texts); i++) {
        const json_t *t = json_array_get(texts, i);
        int32_t state = ad_grammar_next_text(g, AD_GRAMMAR_START, (ad_str){json_string_value(t), json_string_length(t)});
        json_array_append_new(list, json_boolean(state >= 0 && ad_grammar_ends(g, state) != AD_GRAMMAR_OPEN));
    }
    return list;
}

static json_t *answer(const json_t *rq)
{
    ad_err err;
    ad_grammar *g = NULL;
    const json_t *text = json_object_get(rq, "text");
    int stuck = 0;
    seed = (uint64_t)json_integer_value(json_object_get(rq, "seed"));
    ad_status st = ad_grammar_new(&g, vocab, (ad_grammar_kind)json_integer_value(json_object_get(rq, "kind")), (ad_str){json_string_value(text), json_string_length(text)}, &err);
    if (st != AD_OK) return json_pack("{s:s, s:s}", "error", err.msg, "code", ad_status_name(st));
    json_t *texts = texts_of(g, (int)json_integer_value(json_object_get(rq, "walks")), &stuck);
    json_t *out = json_pack("{s:o, s:i, s:o}", "texts", texts, "stuck", stuck, "accepted", accepted(g, json_object_get(rq, "check")));
    ad_grammar_release(&g);
    return out;
}

int main(int argc, char **argv)
{
    ad_err err;
    char *line = NULL;
    size_t cap = 0;
    if (argc != 2 || ad_tokenizer_from_dir(&tk, argv[1], &err) != AD_OK || ad_grammar_vocab_new(&vocab, tk, &err) != AD_OK) return fprintf(stderr, "%s\n", err.msg), 1;
    n_vocab = ad_tokenizer_vocab(tk);
    mask = calloc(ad_grammar_mask_words(n_vocab), sizeof *mask);
    while (getline(&line, &cap, stdin) > 0) {
        json_t *rq = json_loads(line, JSON_ALLOW_NUL, NULL), *out = answer(rq);
        json_dumpf(out, stdout, JSON_COMPACT | JSON_ENSURE_ASCII);
        puts("");
        fflush(stdout);
        json_decref(rq), json_decref(out);
    }
    free(line), free(mask);
    ad_grammar_vocab_free(&vocab);
    ad_tokenizer_free(&tk);
    return 0;
}
