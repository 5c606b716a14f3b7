/* SPDX-License-Identifier: MIT */
/* Pre-tokenizers: a list of steps, each cutting every piece of the text into smaller ones. Patterns run in PCRE2 with
 * match limits; compiled patterns are shared, everything else is per call. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

enum {
    MATCH_LIMIT = 10000000, /* a pattern that backtracks more than this over one piece is given up */
    HEAP_LIMIT_KB = 256 * 1024,
};

/* ---- cutting one piece ---- */

static ad_status no_memory(ad_tk_work *w)
{
    return ad_fail(w->err, AD_ENOMEM, "out of memory for the words of a text");
}

static ad_status mark(ad_tk_work *w, size_t start, size_t end, bool is_match)
{
    if (start == end) return AD_OK;
    if (ad_grow(&w->marks, &w->marks_cap, w->n_marks + 1, sizeof *w->marks) != AD_OK ||
        ad_grow(&w->mark_is_match, &w->mark_is_match_cap, w->n_marks + 1, 1) != AD_OK)
        return no_memory(w);
    w->marks[w->n_marks] = (ad_tk_span){(uint32_t)start, (uint32_t)end};
    w->mark_is_match[w->n_marks++] = is_match;
    return AD_OK;
}

static ad_status match_failed(ad_tk_work *w, int rc)
{
    PCRE2_UCHAR why[128] = "";
    if (rc == PCRE2_ERROR_NOMEMORY) return no_memory(w);
    pcre2_get_error_message(rc, why, sizeof why);
    return ad_fail(w->err, AD_EINVAL, "the text is too hard for the tokenizer's pattern: %s", (const char *)why);
}

static ad_status prepare_match(ad_tk_work *w)
{
    if (w->match && w->limits) return AD_OK;
    w->match = pcre2_match_data_create(1, NULL);
    w->limits = pcre2_match_context_create(NULL);
    if (!w->match || !w->limits) return no_memory(w);
    pcre2_set_match_limit(w->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(w->limits, HEAP_LIMIT_KB);
    return AD_OK;
}

static ad_status mark_regex(ad_tk_work *w, const pcre2_code *re, ad_str s)
{
    ad_status st = prepare_match(w);
    size_t done = 0;
    for (size_t at = 0; st == AD_OK && at < s.len;) {
        int rc = pcre2_match(re, (PCRE2_SPTR)s.ptr, s.len, at, PCRE2_NO_UTF_CHECK, w->match, w->limits);
        if (rc == PCRE2_ERROR_JIT_STACKLIMIT) /* the interpreter keeps its frames on the heap */
            rc = pcre2_match(re, (PCRE2_SPTR)s.ptr, s.len, at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, w->match, w->limits);
        if (rc == PCRE2_ERROR_NOMATCH) break;
        if (rc < 0) return match_failed(w, rc);
        const size_t *ov = pcre2_get_ovector_pointer(w->match);
        if (ov[1] <= ov[0]) { /* empty: look again one character later */
            int len;
            if (ov[0] >= s.len) break;
            ad_utf8_get(s.ptr + ov[0], &len);
            at = ov[0] + (size_t)len;
            continue;
        }
        st = mark(w, done, ov[0], false);
        if (st == AD_OK) st = mark(w, ov[0], ov[1], true);
        at = done = ov[1];
    }
    return st == AD_OK ? mark(w, done, s.len, false) : st;
}

static ad_status mark_literal(ad_tk_work *w, ad_str lit, ad_str s)
{
    size_t done = 0;
    ad_status st = AD_OK;
    for (const char *hit; st == AD_OK && done < s.len && (hit = memmem(s.ptr + done, s.len - done, lit.ptr, lit.len));) {
        size_t at = (size_t)(hit - s.ptr);
        st = mark(w, done, at, false);
        if (st == AD_OK) st = mark(w, at, at + lit.len, true);
        done = at + lit.len;
    }
    return st == AD_OK ? mark(w, done, s.len, false) : st;
}

static bool is_numeric(uint32_t cp)
{
    if (cp < 0x80) return cp >= '0' && cp <= '9';
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

static ad_status mark_digits(ad_tk_work *w, ad_str s)
{
    size_t done = 0;
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < s.len;) {
        int len;
        bool digit = is_numeric(ad_utf8_get(s.ptr + i, &len));
        if (digit) {
            st = mark(w, done, i, false);
            if (st == AD_OK) st = mark(w, i, i + (size_t)len, true);
            done = i + (size_t)len;
        }
        i += (size_t)len;
    }
    return st == AD_OK ? mark(w, done, s.len, false) : st;
}

static ad_status add_piece(ad_tk_work *w, int which, size_t start, size_t end)
{
    if (start == end) return AD_OK;
    if (ad_grow(&w->pieces[which], &w->pieces_cap[which], w->n_pieces[which] + 1, sizeof **w->pieces) != AD_OK) return no_memory(w);
    w->pieces[which][w->n_pieces[which]++] = (ad_tk_span){(uint32_t)start, (uint32_t)end};
    return AD_OK;
}

/* Whether mark i is glued to its left neighbour. */
static bool glued(const ad_tk_work *w, const ad_tk_step *step, size_t i)
{
    if (i == 0) return false;
    bool here = w->mark_is_match[i] != step->invert, before = w->mark_is_match[i - 1] != step->invert;
    switch (step->behavior) {
    case AD_TK_CONTIGUOUS: return here == before;
    case AD_TK_MERGED_PREVIOUS: return here && !before;
    case AD_TK_MERGED_NEXT: return before && !here;
    default: return false;
    }
}

/* Marks tile the piece that begins at base; joined as the step's behavior says they become pieces of list `to`. */
static ad_status gather(ad_tk_work *w, const ad_tk_step *step, uint32_t base, int to)
{
    ad_status st = AD_OK;
    for (size_t i = 0, next; st == AD_OK && i < w->n_marks; i = next) {
        for (next = i + 1; next < w->n_marks && glued(w, step, next); next++) {}
        bool removed = step->behavior == AD_TK_REMOVED && w->mark_is_match[i] != step->invert;
        if (!removed) st = add_piece(w, to, base + w->marks[i].start, base + w->marks[next - 1].end);
    }
    return st;
}

static ad_status split_step(ad_tk_work *w, const ad_tk_step *step, const char *text, int from)
{
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < w->n_pieces[from]; i++) {
        ad_tk_span p = w->pieces[from][i];
        ad_str s = {text + p.start, p.end - p.start};
        w->n_marks = 0;
        if (step->kind == AD_TK_SPLIT_REGEX) st = mark_regex(w, step->re, s);
        else if (step->kind == AD_TK_SPLIT_STRING) st = mark_literal(w, step->literal, s);
        else st = mark_digits(w, s);
        if (st == AD_OK) st = gather(w, step, p.start, !from);
    }
    return st;
}

/* ---- rewriting the text ---- */

static bool starts_with(ad_str s, ad_str with)
{
    return s.len >= with.len && memcmp(s.ptr, with.ptr, with.len) == 0;
}

static void rewrite_piece(const ad_tk_step *step, ad_str s, bool first, ad_buf *out)
{
    static const ad_str space = {" ", 1};
    ad_str lead = step->kind == AD_TK_METASPACE ? step->literal : space;
    bool wanted = step->kind == AD_TK_ADD_SPACE || step->prepend == AD_TK_ALWAYS || (step->prepend == AD_TK_FIRST && first);
    bool has = starts_with(s, lead) || starts_with(s, space);
    if (wanted && !has) ad_buf_append(out, lead.ptr, lead.len);
    for (size_t i = 0; i < s.len; i++) {
        if (step->kind == AD_TK_METASPACE && s.ptr[i] == ' ') ad_buf_append(out, lead.ptr, lead.len);
        else ad_buf_append(out, s.ptr + i, 1);
    }
}

static ad_status rewrite_step(ad_tk_work *w, const ad_tk_step *step, const char *text, int from, bool at_start, ad_buf *out)
{
    ad_buf_clear(out);
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < w->n_pieces[from]; i++) {
        ad_tk_span p = w->pieces[from][i];
        size_t start = out->len;
        rewrite_piece(step, (ad_str){text + p.start, p.end - p.start}, at_start && p.start == 0, out);
        if (out->failed) return no_memory(w);
        if (out->len > AD_TK_MAX_TEXT) return ad_fail(w->err, AD_EINVAL, "the text grows too large for the tokenizer");
        st = add_piece(w, !from, start, out->len);
    }
    return st;
}

ad_status ad_tk_encode_words(ad_tk_work *w, ad_str text, bool at_start)
{
    const ad_tokenizer *tk = w->tk;
    int from = 0, buf = 0;
    w->n_pieces[0] = 0;
    ad_status st = add_piece(w, 0, 0, text.len);
    for (int i = 0; st == AD_OK && i < tk->n_steps; i++, from = !from) {
        const ad_tk_step *step = &tk->steps[i];
        w->n_pieces[!from] = 0;
        if (step->kind <= AD_TK_SPLIT_DIGITS) {
            st = split_step(w, step, text.ptr, from);
            continue;
        }
        st = rewrite_step(w, step, text.ptr, from, at_start, &w->text[buf]);
        text = (ad_str){w->text[buf].data, w->text[buf].len};
        buf = !buf;
    }
    for (size_t i = 0; st == AD_OK && i < w->n_pieces[from]; i++) {
        ad_tk_span p = w->pieces[from][i];
        st = ad_tk_encode_word(w, (ad_str){text.ptr + p.start, p.end - p.start});
    }
    return st;
}
