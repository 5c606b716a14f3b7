/* SPDX-License-Identifier: MIT */
/* A tokenizer from tokenizer.json. Every component is understood or refused by name: a tokenizer that is nearly
 * right gives answers that are quietly wrong. */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/text/text.h"

enum { MAX_NESTING = 8 };
static const size_t max_file = 256u << 20;
static const char mark[] = "\xE2\x96\x81"; /* U+2581, SentencePiece's visible space */

typedef struct {
    ad_tokenizer *tk;
    const char *label;
    ad_err *err;
} loader;

static ad_status malformed(loader *l, const char *what)
{
    return ad_fail(l->err, AD_EFORMAT, "%s: %s", l->label, what);
}

static ad_status no_memory(loader *l)
{
    return ad_fail(l->err, AD_ENOMEM, "%s: out of memory", l->label);
}

static const char *type_of(const json_t *o)
{
    const char *s = json_string_value(json_object_get(o, "type"));
    return s ? s : "";
}

static ad_status unsupported(loader *l, const char *part, const json_t *o)
{
    return ad_fail(l->err, AD_EUNSUPPORTED, "%s: %s \"%.60s\" with these settings is not supported", l->label, part, type_of(o));
}

static ad_str text_of(const json_t *v)
{
    return json_is_string(v) ? (ad_str){json_string_value(v), json_string_length(v)} : (ad_str){NULL, 0};
}

static bool is_text(const json_t *v, const char *s)
{
    return json_is_string(v) && ad_str_eq(text_of(v), s);
}

static bool is_absent(const json_t *v)
{
    return !v || json_is_null(v);
}

typedef ad_status (*part_fn)(loader *l, const json_t *o, int depth);

/* Runs `each` over the members of a Sequence. */
static ad_status read_sequence(loader *l, const json_t *o, const char *key, part_fn each, int depth)
{
    const json_t *list = json_object_get(o, key);
    if (!json_is_array(list)) return ad_fail(l->err, AD_EFORMAT, "%s: a Sequence without its list \"%s\"", l->label, key);
    if (depth == MAX_NESTING) return ad_fail(l->err, AD_EFORMAT, "%s: Sequences nest too deeply", l->label);
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < json_array_size(list); i++) st = each(l, json_array_get(list, i), depth + 1);
    return st;
}

/* ---- normalizer ---- */

static ad_status add_norm(loader *l, ad_tk_norm_kind kind, ad_str from, ad_str to)
{
    ad_tokenizer *tk = l->tk;
    if (tk->n_norms == AD_TK_MAX_STEPS) return malformed(l, "too many normalizers");
    ad_tk_norm n = {kind, ad_tk_copy(tk, from), ad_tk_copy(tk, to)};
    if (!n.from.ptr || !n.to.ptr) return no_memory(l);
    tk->norms[tk->n_norms++] = n;
    return AD_OK;
}

static ad_status read_normalizer(loader *l, const json_t *o, int depth)
{
    static const struct {
        const char *name;
        ad_tk_norm_kind kind;
    } forms[] = {{"NFC", AD_TK_NFC}, {"NFD", AD_TK_NFD}, {"NFKC", AD_TK_NFKC}, {"NFKD", AD_TK_NFKD}};
    static const ad_str none = {"", 0};
    const char *type = type_of(o);
    if (is_absent(o)) return AD_OK;
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (!strcmp(type, forms[i].name)) return add_norm(l, forms[i].kind, none, none);
    if (!strcmp(type, "Sequence")) return read_sequence(l, o, "normalizers", read_normalizer, depth);
    if (!strcmp(type, "Prepend")) {
        ad_str with = text_of(json_object_get(o, "prepend"));
        return with.len ? add_norm(l, AD_TK_PREPEND, none, with) : malformed(l, "normalizer Prepend without its text");
    }
    if (!strcmp(type, "Replace")) {
        ad_str from = text_of(json_object_get(json_object_get(o, "pattern"), "String")), to = text_of(json_object_get(o, "content"));
        if (from.len && to.ptr) return add_norm(l, AD_TK_REPLACE, from, to);
    }
    return unsupported(l, "normalizer", o);
}

/* ---- pre-tokenizer ---- */

static ad_status add_step(loader *l, ad_tk_step step)
{
    return ad_tk_add_step(l->tk, step, l->label, l->err);
}

static bool read_behavior(const json_t *v, ad_tk_behavior *out)
{
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        if (!is_text(v, names[i])) continue;
        *out = (ad_tk_behavior)i;
        return true;
    }
    return false;
}

static ad_status read_split(loader *l, const json_t *o)
{
    const json_t *pattern = json_object_get(o, "pattern");
    ad_str regex = text_of(json_object_get(pattern, "Regex")), plain = text_of(json_object_get(pattern, "String"));
    bool invert = json_is_true(json_object_get(o, "invert"));
    ad_tk_behavior behavior;
    if (!read_behavior(json_object_get(o, "behavior"), &behavior)) return unsupported(l, "pre-tokenizer", o);
    if (regex.len) return ad_tk_add_regex(l->tk, regex, behavior, invert, l->label, l->err);
    if (!plain.len) return malformed(l, "pre-tokenizer Split without a pattern");
    ad_str literal = ad_tk_copy(l->tk, plain);
    if (!literal.ptr) return no_memory(l);
    return add_step(l, (ad_tk_step){.kind = AD_TK_SPLIT_STRING, .behavior = behavior, .invert = invert, .literal = literal});
}

static ad_status read_byte_level(loader *l, const json_t *o)
{
    const json_t *prefix = json_object_get(o, "add_prefix_space"), *use_regex = json_object_get(o, "use_regex");
    ad_status st = AD_OK;
    l->tk->byte_level = true;
    if (!prefix || json_is_true(prefix)) st = add_step(l, (ad_tk_step){.kind = AD_TK_ADD_SPACE});
    if (st != AD_OK || json_is_false(use_regex)) return st;
    return ad_tk_add_regex(l->tk, (ad_str){ad_tk_gpt2_regex, strlen(ad_tk_gpt2_regex)}, AD_TK_ISOLATED, false, l->label, l->err);
}

/* Files older than prepend_scheme say add_prefix_space. */
static bool read_scheme(const json_t *o, ad_tk_prepend *out)
{
    const json_t *scheme = json_object_get(o, "prepend_scheme");
    if (is_absent(scheme)) *out = json_is_false(json_object_get(o, "add_prefix_space")) ? AD_TK_NEVER : AD_TK_ALWAYS;
    else if (is_text(scheme, "always")) *out = AD_TK_ALWAYS;
    else if (is_text(scheme, "first")) *out = AD_TK_FIRST;
    else if (is_text(scheme, "never")) *out = AD_TK_NEVER;
    else return false;
    return true;
}

static ad_status read_metaspace(loader *l, const json_t *o)
{
    ad_tk_step step = {.kind = AD_TK_METASPACE, .literal = {mark, sizeof mark - 1}};
    if (!is_text(json_object_get(o, "replacement"), mark) || !read_scheme(o, &step.prepend)) return unsupported(l, "pre-tokenizer", o);
    ad_status st = add_step(l, step);
    if (st != AD_OK || json_is_false(json_object_get(o, "split"))) return st;
    return add_step(l, (ad_tk_step){.kind = AD_TK_SPLIT_STRING, .behavior = AD_TK_MERGED_NEXT, .literal = step.literal});
}

static ad_status read_pre_tokenizer(loader *l, const json_t *o, int depth)
{
    const char *type = type_of(o);
    if (is_absent(o)) return AD_OK;
    if (l->tk->byte_level) return malformed(l, "a pre-tokenizer after ByteLevel is not supported");
    if (!strcmp(type, "Sequence")) return read_sequence(l, o, "pretokenizers", read_pre_tokenizer, depth);
    if (!strcmp(type, "Split")) return read_split(l, o);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(l, o);
    if (!strcmp(type, "Metaspace")) return read_metaspace(l, o);
    if (!strcmp(type, "Digits")) {
        bool single = json_is_true(json_object_get(o, "individual_digits"));
        return add_step(l, (ad_tk_step){.kind = AD_TK_SPLIT_DIGITS, .behavior = single ? AD_TK_ISOLATED : AD_TK_CONTIGUOUS});
    }
    return unsupported(l, "pre-tokenizer", o);
}

/* ---- tokens ---- */

static void raise_to(json_int_t *most, const json_t *v)
{
    if (json_is_integer(v) && json_integer_value(v) > *most) *most = json_integer_value(v);
}

static ad_status make_room(loader *l, const json_t *vocab, const json_t *added)
{
    json_int_t most = -1;
    for (void *it = json_object_iter((json_t *)vocab); it; it = json_object_iter_next((json_t *)vocab, it)) raise_to(&most, json_object_iter_value(it));
    for (size_t i = 0; i < json_array_size(added); i++) raise_to(&most, json_object_get(json_array_get(added, i), "id"));
    return ad_tk_set_vocab(l->tk, (size_t)(most + 1), l->label, l->err);
}

static bool read_id(const loader *l, const json_t *v, int32_t *id)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= l->tk->n_vocab) return false;
    *id = (int32_t)json_integer_value(v);
    return true;
}

static ad_status set_token(loader *l, int32_t id, ad_str s)
{
    ad_tokenizer *tk = l->tk;
    if (tk->tokens[id].len) return ad_fail(l->err, AD_EFORMAT, "%s: \"%.60s\" and \"%.60s\" have the same id %d", l->label, tk->tokens[id].ptr, s.ptr, (int)id);
    tk->tokens[id] = ad_tk_copy(tk, s);
    if (!tk->tokens[id].ptr) return no_memory(l);
    if (!ad_tk_name(tk, id)) return ad_fail(l->err, AD_EFORMAT, "%s: \"%.60s\" has two ids", l->label, s.ptr);
    return AD_OK;
}

static ad_status read_vocab(loader *l, const json_t *vocab)
{
    ad_status st = AD_OK;
    for (void *it = json_object_iter((json_t *)vocab); it && st == AD_OK; it = json_object_iter_next((json_t *)vocab, it)) {
        ad_str s = {json_object_iter_key(it), json_object_iter_key_len(it)};
        int32_t id;
        if (!read_id(l, json_object_iter_value(it), &id)) return ad_fail(l->err, AD_EFORMAT, "%s: the id of token \"%.60s\" is not a whole number from 0", l->label, s.ptr);
        if (!s.len) return ad_fail(l->err, AD_EFORMAT, "%s: token %d is empty", l->label, (int)id);
        st = set_token(l, id, s);
        if (st == AD_OK && l->tk->byte_fallback && ad_tk_byte_of(s) >= 0) l->tk->flags[id] = AD_TK_BYTE;
    }
    return st;
}

static unsigned added_flags(const json_t *o)
{
    static const struct {
        const char *key;
        unsigned flag;
    } flags[] = {{"special", AD_TK_SPECIAL}, {"single_word", AD_TK_SINGLE_WORD}, {"lstrip", AD_TK_LSTRIP}, {"rstrip", AD_TK_RSTRIP}};
    unsigned f = 0;
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (json_is_true(json_object_get(o, flags[i].key))) f |= flags[i].flag;
    return f;
}

/* An added token is one of the vocabulary, or a new id beside it. */
static ad_status read_added(loader *l, const json_t *list)
{
    ad_tokenizer *tk = l->tk;
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i);
        ad_str s = text_of(json_object_get(o, "content"));
        int32_t id;
        if (!s.len) return ad_fail(l->err, AD_EFORMAT, "%s: added_tokens[%zu] has no content", l->label, i);
        if (!read_id(l, json_object_get(o, "id"), &id)) return ad_fail(l->err, AD_EFORMAT, "%s: the id of added token \"%.60s\" is not a whole number from 0", l->label, s.ptr);
        bool known = tk->tokens[id].len == s.len && !memcmp(tk->tokens[id].ptr, s.ptr, s.len);
        if (!known) st = set_token(l, id, s);
        tk->flags[id] |= (uint16_t)(added_flags(o) | (known ? 0 : AD_TK_NO_KEY));
    }
    return st;
}

/* After the normalizers: the content of a normalized token is searched for in its normal form. */
static ad_status index_added(loader *l, const json_t *list)
{
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < json_array_size(list); i++) {
        const json_t *o = json_array_get(list, i), *normalized = json_object_get(o, "normalized");
        bool special = json_is_true(json_object_get(o, "special"));
        int32_t id = (int32_t)json_integer_value(json_object_get(o, "id")); /* read_added has looked */
        st = ad_tk_add_added(l->tk, id, normalized ? json_is_true(normalized) : !special, l->label, l->err);
    }
    return st;
}

/* ---- merges ---- */

static ad_status read_merge(loader *l, const json_t *m, size_t rank)
{
    ad_str a = {NULL, 0}, b = {NULL, 0}, s = text_of(m);
    const char *space = s.len > 1 ? memchr(s.ptr + 1, ' ', s.len - 1) : NULL;
    if (space) {
        a = (ad_str){s.ptr, (size_t)(space - s.ptr)};
        b = (ad_str){space + 1, s.len - a.len - 1};
    } else if (json_array_size(m) == 2) {
        a = text_of(json_array_get(m, 0));
        b = text_of(json_array_get(m, 1));
    }
    if (!a.len || !b.len) return ad_fail(l->err, AD_EFORMAT, "%s: model.merges[%zu] is not two tokens", l->label, rank);
    ad_status st = ad_tk_merges_put(l->tk, a, b, (uint32_t)rank);
    if (st == AD_EFORMAT)
        return ad_fail(l->err, st, "%s: model.merges[%zu] (\"%.*s\" + \"%.*s\") names or makes a token that is not in the vocabulary", l->label, rank,
                       (int)(a.len > 60 ? 60 : a.len), a.ptr, (int)(b.len > 60 ? 60 : b.len), b.ptr);
    return st == AD_OK ? st : no_memory(l);
}

static ad_status read_merges(loader *l, const json_t *list)
{
    if (!json_is_array(list)) return malformed(l, "model.merges is not an array");
    size_t n = json_array_size(list);
    if (n > 4u * AD_TK_MAX_VOCAB) return ad_fail(l->err, AD_EFORMAT, "%s: model.merges has %zu entries, over the limit", l->label, n);
    if (ad_tk_merges_init(l->tk, n) != AD_OK) return no_memory(l);
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < n; i++) st = read_merge(l, json_array_get(list, i), i);
    return st;
}

/* ---- post-processor ---- */

static ad_status push_template(loader *l, const json_t *ids, int32_t *list, int *n)
{
    if (!json_array_size(ids)) return malformed(l, "post_processor: a special token without ids");
    for (size_t i = 0; i < json_array_size(ids); i++) {
        if (*n == AD_TK_MAX_STEPS) return malformed(l, "post_processor: too many special tokens");
        if (!read_id(l, json_array_get(ids, i), &list[(*n)++])) return malformed(l, "post_processor: an id is outside the vocabulary");
    }
    return AD_OK;
}

static ad_status read_template(loader *l, const json_t *o)
{
    ad_tokenizer *tk = l->tk;
    const json_t *single = json_object_get(o, "single"), *specials = json_object_get(o, "special_tokens");
    bool behind = false;
    if (!json_is_array(single)) return malformed(l, "post_processor: TemplateProcessing without its list \"single\"");
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *special = json_object_get(json_array_get(single, i), "SpecialToken");
        const char *name = json_string_value(json_object_get(special, "id"));
        if (!special) {
            if (behind) return malformed(l, "post_processor: a template that repeats the text is not supported");
            behind = true;
            continue;
        }
        const json_t *ids = name ? json_object_get(json_object_get(specials, name), "ids") : NULL;
        ad_status st = behind ? push_template(l, ids, tk->suffix, &tk->n_suffix) : push_template(l, ids, tk->prefix, &tk->n_prefix);
        if (st != AD_OK) return st;
    }
    return AD_OK;
}

static ad_status read_post_processor(loader *l, const json_t *o, int depth)
{
    const char *type = type_of(o);
    if (is_absent(o) || !strcmp(type, "ByteLevel")) return AD_OK;
    if (!strcmp(type, "TemplateProcessing")) return read_template(l, o);
    if (!strcmp(type, "Sequence")) return read_sequence(l, o, "processors", read_post_processor, depth);
    return unsupported(l, "post-processor", o);
}

/* ---- decoder ---- */

static ad_status read_decoder(loader *l, const json_t *o, int depth)
{
    ad_tokenizer *tk = l->tk;
    const char *type = type_of(o);
    if (!strcmp(type, "Sequence")) return read_sequence(l, o, "decoders", read_decoder, depth);
    if (!strcmp(type, "ByteLevel") && tk->byte_level) return AD_OK;
    if ((!strcmp(type, "ByteFallback") || !strcmp(type, "Fuse")) && !tk->byte_level) return AD_OK;
    if (!strcmp(type, "Replace") && !tk->byte_level && is_text(json_object_get(json_object_get(o, "pattern"), "String"), mark) &&
        is_text(json_object_get(o, "content"), " "))
        return AD_OK;
    if (!strcmp(type, "Metaspace") && !tk->byte_level) {
        ad_tk_prepend scheme;
        if (!is_text(json_object_get(o, "replacement"), mark) || !read_scheme(o, &scheme)) return unsupported(l, "decoder", o);
        tk->strip_first = scheme != AD_TK_NEVER;
        return AD_OK;
    }
    if (!strcmp(type, "Strip") && is_text(json_object_get(o, "content"), " ") && json_integer_value(json_object_get(o, "stop")) == 0) {
        json_int_t start = json_integer_value(json_object_get(o, "start"));
        if (start < 0 || start > AD_TK_MAX_STEPS) return unsupported(l, "decoder", o);
        tk->strip_start = (int)start;
        return AD_OK;
    }
    return unsupported(l, "decoder", o);
}

/* ---- the whole ---- */

static ad_status refuse_options(loader *l, const json_t *model)
{
    static const char *const options[] = {"continuing_subword_prefix", "end_of_word_suffix", "dropout"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        const json_t *v = json_object_get(model, options[i]);
        bool empty = is_absent(v) || is_text(v, "") || (json_is_number(v) && json_number_value(v) == 0);
        if (!empty) return ad_fail(l->err, AD_EUNSUPPORTED, "%s: model.%s is not supported", l->label, options[i]);
    }
    return AD_OK;
}

static ad_status read_unk(loader *l, const json_t *unk)
{
    if (is_absent(unk)) return AD_OK;
    l->tk->unk = ad_tk_map_find(&l->tk->by_token, l->tk->tokens, text_of(unk));
    return l->tk->unk >= 0 ? AD_OK : malformed(l, "model.unk_token is not in the vocabulary");
}

static ad_status read_tokens(loader *l, const json_t *model, const json_t *added)
{
    const json_t *vocab = json_object_get(model, "vocab");
    if (!json_is_object(vocab)) return malformed(l, "model.vocab is not an object");
    if (!is_absent(added) && !json_is_array(added)) return malformed(l, "added_tokens is not an array");
    ad_status st = make_room(l, vocab, added);
    if (st == AD_OK) st = read_vocab(l, vocab);
    if (st == AD_OK) st = read_added(l, added);
    if (st == AD_OK && ad_tk_index_keys(l->tk) != AD_OK) st = no_memory(l);
    return st == AD_OK ? index_added(l, added) : st;
}

static ad_status read_all(loader *l, const json_t *root)
{
    const json_t *model = json_object_get(root, "model"), *type = json_object_get(model, "type");
    if (!json_is_object(model)) return malformed(l, "\"model\" is missing or not an object");
    if (type ? !is_text(type, "BPE") : !json_object_get(model, "merges")) return unsupported(l, "model", model);
    ad_status st = refuse_options(l, model);
    l->tk->byte_fallback = json_is_true(json_object_get(model, "byte_fallback"));
    l->tk->fuse_unk = json_is_true(json_object_get(model, "fuse_unk"));
    l->tk->ignore_merges = json_is_true(json_object_get(model, "ignore_merges"));
    if (st == AD_OK) st = read_normalizer(l, json_object_get(root, "normalizer"), 0);
    if (st == AD_OK) st = read_pre_tokenizer(l, json_object_get(root, "pre_tokenizer"), 0);
    if (st == AD_OK) st = read_tokens(l, model, json_object_get(root, "added_tokens"));
    if (st == AD_OK) st = read_merges(l, json_object_get(model, "merges"));
    if (st == AD_OK) st = read_unk(l, json_object_get(model, "unk_token"));
    if (st == AD_OK) st = read_post_processor(l, json_object_get(root, "post_processor"), 0);
    return st == AD_OK ? read_decoder(l, json_object_get(root, "decoder"), 0) : st;
}

/* Without end-of-generation ids yet. */
static ad_status load(ad_tokenizer **out, const char *json, size_t len, const char *label, ad_err *err)
{
    json_error_t why;
    json_t *root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    if (!root) return ad_fail(err, AD_EFORMAT, "%s: line %d: %s", label, why.line, why.text);
    loader l = {ad_tk_new(), label, err};
    ad_status st = l.tk ? AD_OK : no_memory(&l);
    if (st == AD_OK) st = json_is_object(root) ? read_all(&l, root) : malformed(&l, "not a JSON object");
    json_decref(root);
    if (st == AD_OK) *out = l.tk;
    else ad_tokenizer_free(&l.tk);
    return st;
}

ad_status ad_tokenizer_from_json(ad_tokenizer **out, const char *json, size_t len, const char *label, ad_err *err)
{
    ad_tokenizer *tk = NULL;
    ad_status st = load(&tk, json, len, label, err);
    if (st == AD_OK && ad_tk_collect_eogs(tk) != AD_OK) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    if (st == AD_OK) *out = tk;
    else ad_tokenizer_free(&tk);
    return st;
}

/* ---- the files beside it ---- */

static void mark_end(ad_tokenizer *tk, const json_t *v)
{
    if (!json_is_integer(v)) return;
    json_int_t id = json_integer_value(v);
    if (id >= 0 && id < tk->n_vocab) tk->flags[id] |= AD_TK_EOG;
}

/* A token given as its text, or as an object with its "content". */
static int32_t find_token(const ad_tokenizer *tk, const json_t *v)
{
    return ad_tk_map_find(&tk->by_token, tk->tokens, text_of(json_is_object(v) ? json_object_get(v, "content") : v));
}

/* What ends a generation, from whichever of the small files are there. */
static ad_status read_config(ad_tokenizer *tk, const char *dir, const char *file, ad_err *err)
{
    char path[4096];
    ad_file f = {0};
    json_error_t why;
    snprintf(path, sizeof path, "%s/%s", dir, file); /* no longer than tokenizer.json's, which fitted */
    ad_err unread;
    ad_status st = ad_file_read(&f, path, max_file, &unread);
    if (st == AD_ENOTFOUND || st == AD_EIO) return AD_OK; /* optional */
    if (st != AD_OK) return ad_fail(err, st, "%s", unread.msg);
    json_t *o = json_loadb(f.data ? f.data : "", f.len, 0, &why);
    ad_file_close(&f);
    if (!o) return ad_fail(err, AD_EFORMAT, "%s: line %d: %s", path, why.line, why.text);
    const json_t *eos = json_object_get(o, "eos_token_id");
    mark_end(tk, eos);
    for (size_t i = 0; i < json_array_size(eos); i++) mark_end(tk, json_array_get(eos, i));
    int32_t named = find_token(tk, json_object_get(o, "eos_token")), bos = find_token(tk, json_object_get(o, "bos_token"));
    if (named >= 0) tk->flags[named] |= AD_TK_EOG;
    if (named >= 0) tk->eos = named;
    if (bos >= 0) tk->bos = bos;
    json_decref(o);
    return AD_OK;
}

ad_status ad_tokenizer_from_dir(ad_tokenizer **out, const char *dir, ad_err *err)
{
    static const char *const files[] = {"tokenizer_config.json", "config.json", "generation_config.json"};
    char path[4096];
    ad_file f = {0};
    ad_tokenizer *tk = NULL;
    if ((size_t)snprintf(path, sizeof path, "%s/generation_config.json", dir) >= sizeof path) return ad_fail(err, AD_EINVAL, "%.100s...: the path is too long", dir);
    snprintf(path, sizeof path, "%s/tokenizer.json", dir);
    ad_status st = ad_file_read(&f, path, max_file, err);
    if (st != AD_OK) return st;
    st = load(&tk, f.data ? f.data : "", f.len, path, err);
    ad_file_close(&f);
    for (size_t i = 0; st == AD_OK && i < sizeof files / sizeof *files; i++) st = read_config(tk, dir, files[i], err);
    if (st == AD_OK && ad_tk_collect_eogs(tk) != AD_OK) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    if (st == AD_OK) *out = tk;
    else ad_tokenizer_free(&tk);
    return st;
}
