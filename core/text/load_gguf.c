/* SPDX-License-Identifier: MIT */
/* A tokenizer out of GGUF metadata. The file is the operator's, but nothing in it is believed: each wrong key is named. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

enum { TYPE_NORMAL = 1, TYPE_UNKNOWN, TYPE_CONTROL, TYPE_USER, TYPE_UNUSED, TYPE_BYTE };

typedef struct {
    const ad_gguf *g;
    const char *label;
    ad_err *err;
    ad_tokenizer *tk;
    int64_t *types; /* [n_vocab] or NULL */
} loader;

/* ---- pre-tokenizers by name ---- */

typedef struct {
    const char *pattern;
    bool digits;        /* every digit its own piece, first */
    bool nfc;
    bool ignore_merges; /* a word that is a token is not merged up to it */
    bool add_bos;       /* when the file does not say */
} recipe;

#define LLAMA3_REGEX(digits) \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|" digits "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

static const recipe gpt2 = {.pattern = ad_tk_gpt2_regex};
static const recipe smollm = {.pattern = ad_tk_gpt2_regex, .digits = true};
static const recipe llama3 = {.pattern = LLAMA3_REGEX("\\p{N}{1,3}"), .ignore_merges = true, .add_bos = true};
static const recipe qwen2 = {.pattern = LLAMA3_REGEX("\\p{N}"), .nfc = true};
static const recipe qwen2_raw = {.pattern = LLAMA3_REGEX("\\p{N}")};

static const struct {
    const char *name;
    const recipe *is;
} recipes[] = {
    {"gpt-2", &gpt2}, {"phi-2", &gpt2}, {"jina-es", &gpt2}, {"jina-de", &gpt2}, {"gigachat", &gpt2}, {"modern-bert", &gpt2},
    {"smollm", &smollm}, {"starcoder", &smollm}, {"refact", &smollm}, {"command-r", &smollm}, {"codeshell", &smollm}, {"exaone", &smollm}, {"minerva-7b", &smollm},
    {"llama-bpe", &llama3}, {"llama3", &llama3}, {"llama-v3", &llama3}, {"falcon3", &llama3}, {"falcon-h1", &llama3}, {"pixtral", &llama3},
    {"midm-2.0", &llama3}, {"lfm2", &llama3}, {"jina-v5-nano", &llama3},
    {"qwen2", &qwen2}, {"deepseek-r1-qwen", &qwen2_raw}, {"kormo", &qwen2_raw}, {"f2llmv2", &qwen2_raw}, {"megrez", &qwen2_raw},
};

static ad_status add_recipe(loader *l, const recipe *r)
{
    ad_tokenizer *tk = l->tk;
    ad_status st = AD_OK;
    if (r->nfc) tk->norms[tk->n_norms++] = (ad_tk_norm){.kind = AD_TK_NFC};
    if (r->digits) st = ad_tk_add_step(tk, (ad_tk_step){.kind = AD_TK_SPLIT_DIGITS}, l->label, l->err);
    if (st == AD_OK) st = ad_tk_add_regex(tk, (ad_str){r->pattern, strlen(r->pattern)}, AD_TK_ISOLATED, false, l->label, l->err);
    tk->ignore_merges = r->ignore_merges;
    return st;
}

static ad_status find_recipe(loader *l, const recipe **out)
{
    ad_str pre;
    if (!ad_gguf_str(l->g, "tokenizer.ggml.pre", &pre))
        return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tokenizer.ggml.pre is missing: the file does not say how its text is cut into words", l->label);
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++) {
        if (!ad_str_eq(pre, recipes[i].name)) continue;
        *out = recipes[i].is;
        return AD_OK;
    }
    return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tokenizer.ggml.pre is \"%.*s\", which is not supported (gpt-2, smollm, llama-bpe, qwen2 and their kin are)",
        l->label, pre.len > 60 ? 60 : (int)pre.len, pre.ptr);
}

/* ---- vocabulary ---- */

static ad_status read_types(loader *l, size_t n)
{
    static const char key[] = "tokenizer.ggml.token_type";
    ad_gguf_type type;
    size_t count;
    if (!ad_gguf_has(l->g, key)) return AD_OK;
    if (!ad_gguf_array(l->g, key, &type, &count)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array", l->label, key);
    if (count != n) return ad_fail(l->err, AD_EFORMAT, "%s: %s has %zu entries for %zu tokens", l->label, key, count, n);
    l->types = ad_calloc(n, sizeof *l->types);
    if (!l->types) return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    if (!ad_gguf_array_ints(l->g, key, l->types, n)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of integers", l->label, key);
    for (size_t i = 0; i < n; i++)
        if (l->types[i] < 0 || l->types[i] > TYPE_BYTE) return ad_fail(l->err, AD_EFORMAT, "%s: %s[%zu] is %lld, no token type", l->label, key, i, (long long)l->types[i]);
    return AD_OK;
}

static unsigned flags_of_type(const loader *l, int64_t type)
{
    switch (type) {
    case TYPE_UNKNOWN:
    case TYPE_CONTROL: return AD_TK_SPECIAL | AD_TK_NOT_TEXT | AD_TK_LITERAL;
    case TYPE_USER: return AD_TK_LITERAL | (l->tk->byte_level ? AD_TK_NOT_TEXT : 0);
    case TYPE_BYTE: return AD_TK_BYTE | AD_TK_NOT_TEXT;
    default: return 0;
    }
}

static ad_status set_token(loader *l, int32_t id, ad_str s)
{
    ad_tokenizer *tk = l->tk;
    if (!s.len) return AD_OK; /* an id nobody uses */
    if (ad_utf8_check(s.ptr, s.len) < s.len) return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.tokens[%d] is not valid UTF-8", l->label, id);
    tk->tokens[id] = ad_tk_copy(tk, s);
    if (!tk->tokens[id].ptr) return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    if (l->types) tk->flags[id] = (uint16_t)flags_of_type(l, l->types[id]);
    if (tk->flags[id] & AD_TK_BYTE && ad_tk_byte_of(s) < 0)
        return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.tokens[%d] has the byte type but is not written <0xHH>", l->label, id);
    if (!ad_tk_name(tk, id))
        return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.tokens[%d] repeats the text of token %d", l->label, id, ad_tk_map_find(&tk->by_token, tk->tokens, s));
    return AD_OK;
}

static ad_status read_tokens(loader *l)
{
    static const char key[] = "tokenizer.ggml.tokens";
    ad_gguf_type type;
    size_t n;
    if (!ad_gguf_has(l->g, key)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is missing", l->label, key);
    if (!ad_gguf_array(l->g, key, &type, &n) || type != AD_GGUF_STRING) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of strings", l->label, key);
    ad_status st = ad_tk_set_vocab(l->tk, n, l->label, l->err);
    if (st == AD_OK) st = read_types(l, n);
    if (st != AD_OK) return st;
    ad_str *strs = ad_calloc(n, sizeof *strs);
    if (!strs) return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    if (!ad_gguf_array_strings(l->g, key, strs, n)) st = ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of strings", l->label, key);
    for (size_t i = 0; st == AD_OK && i < n; i++) st = set_token(l, (int32_t)i, strs[i]);
    free(strs);
    return st;
}

static ad_status add_added(loader *l)
{
    ad_status st = AD_OK;
    for (int32_t id = 0; st == AD_OK && l->types && id < l->tk->n_vocab; id++)
        if (l->types[id] == TYPE_CONTROL || l->types[id] == TYPE_USER || l->types[id] == TYPE_UNKNOWN) st = ad_tk_add_added(l->tk, id, false, l->label, l->err);
    return st;
}

static ad_status put_merge(loader *l, ad_str s, size_t rank)
{
    static const char key[] = "tokenizer.ggml.merges";
    const char *space = s.len > 1 ? memchr(s.ptr + 1, ' ', s.len - 1) : NULL;
    if (!space || space == s.ptr + s.len - 1 || ad_utf8_check(s.ptr, s.len) < s.len)
        return ad_fail(l->err, AD_EFORMAT, "%s: %s[%zu] is not two tokens with a space between them", l->label, key, rank);
    size_t cut = (size_t)(space - s.ptr);
    ad_status st = ad_tk_merges_put(l->tk, (ad_str){s.ptr, cut}, (ad_str){space + 1, s.len - cut - 1}, (uint32_t)rank);
    if (st == AD_EFORMAT) return ad_fail(l->err, st, "%s: %s[%zu] joins tokens that are not all in the vocabulary", l->label, key, rank);
    return st == AD_OK ? st : ad_fail(l->err, st, "%s: out of memory", l->label);
}

static ad_status read_merges(loader *l)
{
    static const char key[] = "tokenizer.ggml.merges";
    ad_gguf_type type;
    size_t n;
    if (!ad_gguf_has(l->g, key)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is missing", l->label, key);
    if (!ad_gguf_array(l->g, key, &type, &n) || type != AD_GGUF_STRING) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of strings", l->label, key);
    if (n > 4u * AD_TK_MAX_VOCAB) return ad_fail(l->err, AD_EFORMAT, "%s: %s has %zu entries, over the limit", l->label, key, n);
    ad_str *strs = ad_calloc(n, sizeof *strs);
    ad_status st = strs ? ad_tk_merges_init(l->tk, n) : AD_ENOMEM;
    if (st != AD_OK) st = ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    else if (!ad_gguf_array_strings(l->g, key, strs, n)) st = ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of strings", l->label, key);
    for (size_t i = 0; st == AD_OK && i < n; i++) st = put_merge(l, strs[i], i);
    free(strs);
    return st;
}

/* ---- scores: the merge loop wants whole numbers, best first ---- */

typedef struct {
    float score;
    int32_t id;
} scored;

static int by_score(const void *a, const void *b)
{
    float x = ((const scored *)a)->score, y = ((const scored *)b)->score;
    return x > y ? -1 : x < y;
}

static ad_status rank_scores(ad_tokenizer *tk, const float *scores)
{
    size_t n = (size_t)tk->n_vocab;
    scored *order = ad_calloc(n, sizeof *order);
    tk->score_rank = ad_calloc(n, sizeof *tk->score_rank);
    if (!order || !tk->score_rank) return free(order), AD_ENOMEM;
    for (size_t i = 0; i < n; i++) order[i] = (scored){scores[i], (int32_t)i};
    qsort(order, n, sizeof *order, by_score);
    uint32_t rank = 0;
    for (size_t i = 0; i < n; i++) {
        if (i && order[i].score != order[i - 1].score) rank++; /* equal scores: the place decides */
        tk->score_rank[order[i].id] = rank;
    }
    free(order);
    return AD_OK;
}

static ad_status read_scores(loader *l)
{
    static const char key[] = "tokenizer.ggml.scores";
    ad_gguf_type type;
    size_t count, n = (size_t)l->tk->n_vocab;
    if (!ad_gguf_has(l->g, key)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is missing", l->label, key);
    if (!ad_gguf_array(l->g, key, &type, &count)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array", l->label, key);
    if (count != n) return ad_fail(l->err, AD_EFORMAT, "%s: %s has %zu entries for %zu tokens", l->label, key, count, n);
    float *scores = ad_calloc(n, sizeof *scores);
    if (!scores) return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    ad_status st = AD_OK;
    if (!ad_gguf_array_floats(l->g, key, scores, n)) st = ad_fail(l->err, AD_EFORMAT, "%s: %s is not an array of numbers", l->label, key);
    for (size_t i = 0; st == AD_OK && i < n; i++)
        if (isnan(scores[i])) st = ad_fail(l->err, AD_EFORMAT, "%s: %s[%zu] is not a number", l->label, key, i);
    if (st == AD_OK && rank_scores(l->tk, scores) != AD_OK) st = ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    free(scores);
    return st;
}

/* ---- special ids ---- */

/* *id becomes the value of the key, or stays as it is when there is none. */
static ad_status read_id(loader *l, const char *key, int32_t *id)
{
    int64_t v;
    if (!ad_gguf_has(l->g, key)) return AD_OK;
    if (!ad_gguf_int(l->g, key, &v)) return ad_fail(l->err, AD_EFORMAT, "%s: %s is not an integer", l->label, key);
    if (v < 0 || v >= l->tk->n_vocab) return ad_fail(l->err, AD_EFORMAT, "%s: %s is %lld, outside the vocabulary of %d", l->label, key, (long long)v, l->tk->n_vocab);
    *id = (int32_t)v;
    return AD_OK;
}

static ad_status read_flag(loader *l, const char *key, bool *flag)
{
    if (ad_gguf_bool(l->g, key, flag) || !ad_gguf_has(l->g, key)) return AD_OK;
    return ad_fail(l->err, AD_EFORMAT, "%s: %s is not a boolean", l->label, key);
}

static void mark(loader *l, int32_t id, unsigned flags)
{
    if (id < 0) return;
    if (!l->types) flags |= AD_TK_SPECIAL | AD_TK_NOT_TEXT; /* nothing else says so */
    l->tk->flags[id] |= (uint16_t)flags;
}

/* Files name one end token, chat models use more; these names mean the same wherever they are control tokens. */
static void mark_known_ends(loader *l)
{
    static const char *const names[] = {"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|endoftext|>", "</s>", "<|end|>", "<end_of_turn>",
        "<end_of_utterance>", "<eos>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|return|>", "<|call|>"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        int32_t id = ad_tk_map_find(&l->tk->by_token, l->tk->tokens, (ad_str){names[i], strlen(names[i])});
        if (id >= 0 && l->types && l->types[id] == TYPE_CONTROL) l->tk->flags[id] |= AD_TK_EOG;
    }
}

static ad_status read_specials(loader *l, bool add_bos, int32_t bos, int32_t eos, int32_t unk)
{
    ad_tokenizer *tk = l->tk;
    int32_t eot = -1, eom = -1;
    bool add_eos = false;
    ad_status st = read_id(l, "tokenizer.ggml.bos_token_id", &bos);
    if (st == AD_OK) st = read_id(l, "tokenizer.ggml.eos_token_id", &eos);
    if (st == AD_OK) st = read_id(l, "tokenizer.ggml.eot_token_id", &eot);
    if (st == AD_OK) st = read_id(l, "tokenizer.ggml.eom_token_id", &eom);
    if (st == AD_OK) st = read_id(l, "tokenizer.ggml.unknown_token_id", &unk);
    if (st == AD_OK) st = read_flag(l, "tokenizer.ggml.add_bos_token", &add_bos);
    if (st == AD_OK) st = read_flag(l, "tokenizer.ggml.add_eos_token", &add_eos);
    if (st != AD_OK) return st;
    if (add_bos && bos < 0) return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.add_bos_token is set but tokenizer.ggml.bos_token_id is missing", l->label);
    if (add_eos && eos < 0) return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.add_eos_token is set but tokenizer.ggml.eos_token_id is missing", l->label);
    tk->bos = bos;
    tk->eos = eos;
    mark(l, bos, 0);
    mark(l, eos, AD_TK_EOG);
    mark(l, eot, AD_TK_EOG);
    mark(l, eom, AD_TK_EOG);
    mark_known_ends(l);
    if (tk->score_rank) tk->unk = unk;
    if (add_bos) tk->prefix[tk->n_prefix++] = bos;
    if (add_eos) tk->suffix[tk->n_suffix++] = eos;
    if (ad_tk_collect_eogs(tk) != AD_OK) return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
    return AD_OK;
}

static ad_status index_keys(loader *l)
{
    return ad_tk_index_keys(l->tk) == AD_OK ? AD_OK : ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
}

/* ---- the two kinds ---- */

static ad_status load_byte_level(loader *l)
{
    const recipe *r = NULL;
    l->tk->byte_level = true;
    ad_status st = find_recipe(l, &r);
    if (st == AD_OK) st = add_recipe(l, r);
    if (st == AD_OK) st = read_tokens(l);
    if (st == AD_OK) st = index_keys(l);
    if (st == AD_OK) st = read_merges(l);
    if (st == AD_OK) st = read_specials(l, r->add_bos && ad_gguf_has(l->g, "tokenizer.ggml.bos_token_id"), -1, -1, -1);
    return st == AD_OK ? add_added(l) : st;
}

static int32_t default_id(const loader *l, int32_t id)
{
    return id < l->tk->n_vocab ? id : -1;
}

static ad_status load_sentencepiece(loader *l)
{
    static const ad_str space = {" ", 1}, meta = {"\xE2\x96\x81", 3};
    ad_tokenizer *tk = l->tk;
    bool space_prefix = true;
    tk->byte_fallback = true;
    ad_status st = read_flag(l, "tokenizer.ggml.add_space_prefix", &space_prefix);
    if (st == AD_OK) st = read_tokens(l);
    if (st == AD_OK) st = index_keys(l);
    if (st == AD_OK) st = read_scores(l);
    if (st == AD_OK) st = read_specials(l, true, default_id(l, 1), default_id(l, 2), default_id(l, 0));
    if (st != AD_OK) return st;
    if (space_prefix) tk->norms[tk->n_norms++] = (ad_tk_norm){.kind = AD_TK_PREPEND, .to = meta};
    tk->norms[tk->n_norms++] = (ad_tk_norm){.kind = AD_TK_REPLACE, .from = space, .to = meta};
    tk->strip_start = space_prefix;
    return add_added(l);
}

static ad_status load(loader *l)
{
    ad_str model;
    if (!ad_gguf_str(l->g, "tokenizer.ggml.model", &model)) return ad_fail(l->err, AD_EFORMAT, "%s: tokenizer.ggml.model is missing or not a string", l->label);
    if (ad_str_eq(model, "gpt2")) return load_byte_level(l);
    if (ad_str_eq(model, "llama")) return load_sentencepiece(l);
    return ad_fail(l->err, AD_EUNSUPPORTED, "%s: tokenizer.ggml.model is \"%.*s\"; gpt2 and llama are supported", l->label, model.len > 60 ? 60 : (int)model.len, model.ptr);
}

ad_status ad_tokenizer_from_gguf(ad_tokenizer **out, const ad_gguf *g, ad_err *err)
{
    loader l = {.g = g, .label = ad_gguf_label(g), .err = err, .tk = ad_tk_new()};
    if (!l.tk) return ad_fail(err, AD_ENOMEM, "%s: out of memory", l.label);
    ad_status st = load(&l);
    free(l.types);
    if (st == AD_OK) *out = l.tk;
    else ad_tokenizer_free(&l.tk);
    return st;
}
