/* SPDX-License-Identifier: MIT */
/* Text to ids: the public face. A text is cut at added tokens, each stretch between is normalized, cut again at added
 * tokens that are looked for in normalized text, and handed to the pre-tokenizer and the model. Any thread. */
#include "core/text/tokenizer.h"

#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

ad_status ad_tk_push_id(ad_tk_work *w, int32_t id)
{
    if (ad_grow(&w->out->ids, &w->out->cap, w->out->count + 1, sizeof *w->out->ids) != AD_OK)
        return ad_fail(w->err, AD_ENOMEM, "out of memory after %zu tokens", w->out->count);
    w->out->ids[w->out->count++] = id;
    return AD_OK;
}

void ad_tk_work_deinit(ad_tk_work *w)
{
    for (int i = 0; i < 2; i++) {
        ad_buf_deinit(&w->norm[i]);
        ad_buf_deinit(&w->text[i]);
        free(w->pieces[i]);
    }
    free(w->marks);
    free(w->mark_is_match);
    free(w->syms);
    free(w->heap);
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->limits);
}

/* ---- added tokens ---- */

static bool is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || cp == 0x20 || cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

/* \w of the Unicode regular expression standard: alphabetic, marks, decimal digits, connectors, joiners. */
static bool is_word(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_LU: case UTF8PROC_CATEGORY_LL: case UTF8PROC_CATEGORY_LT: case UTF8PROC_CATEGORY_LM: case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN: case UTF8PROC_CATEGORY_MC: case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND: case UTF8PROC_CATEGORY_NL: case UTF8PROC_CATEGORY_PC:
        return true;
    default:
        return cp == 0x200C || cp == 0x200D || (cp >= 0x24B6 && cp <= 0x24E9) || (cp >= 0x1F130 && cp <= 0x1F149) ||
               (cp >= 0x1F150 && cp <= 0x1F169) || (cp >= 0x1F170 && cp <= 0x1F189);
    }
}

static uint32_t char_before(const char *s, size_t at, size_t *start)
{
    int len;
    do at--;
    while (((unsigned char)s[at] & 0xC0) == 0x80);
    *start = at;
    return ad_utf8_get(s + at, &len);
}

static bool stands_alone(ad_str text, size_t start, size_t end)
{
    size_t at;
    int len;
    if (start > 0 && is_word(char_before(text.ptr, start, &at))) return false;
    return end == text.len || !is_word(ad_utf8_get(text.ptr + end, &len));
}

static size_t strip_left(ad_str text, size_t start, size_t limit)
{
    for (size_t at; start > limit && is_space(char_before(text.ptr, start, &at)); start = at) {}
    return start;
}

static size_t strip_right(ad_str text, size_t end)
{
    for (int len; end < text.len && is_space(ad_utf8_get(text.ptr + end, &len)); end += (size_t)len) {}
    return end;
}

typedef ad_status (*gap_fn)(ad_tk_work *w, ad_str text, bool at_start);

/* How many of the bytes at `at` of the caller's text come before the next untrusted one. Called with ascending places. */
static size_t trusted_run(ad_tk_work *w, size_t at, size_t n)
{
    while (w->span < w->n_untrusted && w->untrusted[w->span].end <= at) w->span++;
    if (w->span == w->n_untrusted || w->untrusted[w->span].start >= at + n) return n;
    return w->untrusted[w->span].start <= at ? 0 : w->untrusted[w->span].start - at;
}

/* The added token at s[n], a place in the caller's text: with untrusted spans a special one ends before the next of them. */
static int32_t added_here(ad_tk_work *w, const ad_tk_trie *trie, const char *s, size_t n, size_t *len)
{
    const ad_tokenizer *tk = w->tk;
    int32_t id = ad_tk_trie_longest(trie, s, n, len);
    if (!w->untrusted || !(w->flags & AD_ENCODE_PARSE_SPECIAL)) return id;
    size_t trusted = trusted_run(w, (size_t)(s - w->start), n), other = 0;
    if (id >= 0 && tk->flags[id] & AD_TK_SPECIAL && *len > trusted) {
        id = ad_tk_trie_longest(trie, s, trusted, len);
        if (id < 0) return -1;
    }
    int32_t written = ad_tk_trie_longest(&tk->written, s, trusted, &other);
    if (written < 0 || (id >= 0 && *len >= other)) return id;
    *len = other;
    return written;
}

/* Leftmost, longest; matches do not overlap, though the space that one strips may hold the next. */
static ad_status scan_added(ad_tk_work *w, const ad_tk_trie *trie, ad_str text, bool at_start, gap_fn on_gap)
{
    const ad_tokenizer *tk = w->tk;
    bool raw = trie == &tk->raw;
    size_t done = 0, len = 0;
    ad_status st = AD_OK;
    for (size_t i = 0; i < text.len && st == AD_OK; i += len) {
        int32_t id = raw ? added_here(w, trie, text.ptr + i, text.len - i, &len) : ad_tk_trie_longest(trie, text.ptr + i, text.len - i, &len);
        if (id < 0) {
            len = 1;
            continue;
        }
        size_t start = i, end = i + len;
        unsigned f = tk->flags[id];
        if (f & AD_TK_SPECIAL && !(w->flags & AD_ENCODE_PARSE_SPECIAL)) continue;
        if (f & AD_TK_SPECIAL && !raw && w->untrusted) continue; /* added_here has found those that count */
        if (f & AD_TK_SINGLE_WORD && !stands_alone(text, start, end)) continue;
        if (f & AD_TK_LSTRIP) start = strip_left(text, start, done);
        if (f & AD_TK_RSTRIP) end = strip_right(text, end);
        if (start > done) st = on_gap(w, (ad_str){text.ptr + done, start - done}, at_start && done == 0);
        if (st == AD_OK) st = ad_tk_push_id(w, id);
        done = end;
    }
    if (st == AD_OK && done < text.len) st = on_gap(w, (ad_str){text.ptr + done, text.len - done}, at_start && done == 0);
    return st;
}

static ad_status encode_gap(ad_tk_work *w, ad_str text, bool at_start)
{
    ad_str normed;
    ad_status st = ad_tk_normalize(w->tk, w->norm, text, &normed, w->err);
    if (st != AD_OK) return st;
    return scan_added(w, &w->tk->normed, normed, at_start, ad_tk_encode_words);
}

ad_status ad_tokenizer_encode(const ad_tokenizer *tk, const char *text, size_t len, unsigned flags, ad_ids *out, ad_err *err)
{
    return ad_tokenizer_encode_spans(tk, text, len, flags, NULL, 0, out, err);
}

ad_status ad_tokenizer_encode_spans(const ad_tokenizer *tk, const char *text, size_t len, unsigned flags, const ad_text_span *untrusted, size_t n_untrusted,
                                    ad_ids *out, ad_err *err)
{
    if (len > AD_TK_MAX_TEXT) return ad_fail(err, AD_EINVAL, "a text of %zu bytes is over the limit of %d", len, AD_TK_MAX_TEXT);
    size_t bad = ad_utf8_check(text, len);
    if (bad < len) return ad_fail(err, AD_EINVAL, "the text is not valid UTF-8 at byte %zu", bad);
    ad_tk_work w = {.tk = tk, .out = out, .err = err, .flags = flags, .untrusted = n_untrusted ? untrusted : NULL, .n_untrusted = n_untrusted, .start = text};
    size_t had = out->count;
    bool template = flags & AD_ENCODE_ADD_SPECIAL;
    ad_status st = AD_OK;
    for (int i = 0; template && st == AD_OK && i < tk->n_prefix; i++) st = ad_tk_push_id(&w, tk->prefix[i]);
    if (st == AD_OK) st = scan_added(&w, &tk->raw, (ad_str){text, len}, true, encode_gap);
    for (int i = 0; template && st == AD_OK && i < tk->n_suffix; i++) st = ad_tk_push_id(&w, tk->suffix[i]);
    if (st != AD_OK) out->count = had;
    ad_tk_work_deinit(&w);
    return st;
}

/* ---- what is known of an id ---- */

static bool valid_id(const ad_tokenizer *tk, int32_t id)
{
    return id >= 0 && id < tk->n_vocab;
}

int32_t ad_tokenizer_vocab(const ad_tokenizer *tk) { return tk->n_vocab; }
bool ad_tokenizer_is_special(const ad_tokenizer *tk, int32_t id) { return valid_id(tk, id) && tk->flags[id] & AD_TK_SPECIAL; }
bool ad_tokenizer_is_eog(const ad_tokenizer *tk, int32_t id) { return valid_id(tk, id) && tk->flags[id] & AD_TK_EOG; }
int32_t ad_tokenizer_bos(const ad_tokenizer *tk) { return tk->bos; }
int32_t ad_tokenizer_eos(const ad_tokenizer *tk) { return tk->eos; }

const int32_t *ad_tokenizer_eogs(const ad_tokenizer *tk, int *n)
{
    *n = tk->n_eogs;
    return tk->eogs;
}

ad_str ad_tokenizer_piece(const ad_tokenizer *tk, int32_t id)
{
    return valid_id(tk, id) ? tk->pieces[id] : (ad_str){"", 0};
}

ad_str ad_tokenizer_token(const ad_tokenizer *tk, int32_t id)
{
    return valid_id(tk, id) ? tk->tokens[id] : (ad_str){"", 0};
}
