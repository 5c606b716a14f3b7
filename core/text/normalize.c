/* SPDX-License-Identifier: MIT */
/* Normalizers: Unicode normal forms through utf8proc, prepending and replacing. Pure.
 * utf8proc's own one-call normalization orders combining marks in quadratic time; a text of a million marks would
 * hold its thread for minutes. So each character is decomposed by utf8proc, the marks are sorted here, and utf8proc
 * composes the result, which is linear. */
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

typedef struct {
    int32_t *cps;
    size_t n, cap;
} codepoints;

static bool has_marks_or_more(ad_str s, uint32_t from)
{
    for (size_t i = 0; i < s.len;) {
        int len;
        if (ad_utf8_get(s.ptr + i, &len) >= from) return true;
        i += (size_t)len;
    }
    return false;
}

/* Below U+0300 nothing combines with its neighbour: such a text is in NFC already; for the others the line is ASCII. */
static bool is_normal_already(ad_str s, ad_tk_norm_kind kind)
{
    return !has_marks_or_more(s, kind == AD_TK_NFC ? 0x300 : 0x80);
}

static ad_status decompose(codepoints *c, ad_str s, int options)
{
    for (size_t i = 0; i < s.len;) {
        int len, boundary = 0;
        int32_t cp = (int32_t)ad_utf8_get(s.ptr + i, &len);
        if (ad_grow(&c->cps, &c->cap, c->n + 32, sizeof *c->cps) != AD_OK) return AD_ENOMEM; /* no character becomes more than 18 */
        utf8proc_ssize_t got = utf8proc_decompose_char(cp, c->cps + c->n, 32, options, &boundary);
        if (got < 0 || got > 32) return AD_EINVAL;
        c->n += (size_t)got;
        i += (size_t)len;
    }
    return AD_OK;
}

static int class_of(int32_t cp)
{
    return utf8proc_get_property(cp)->combining_class;
}

/* Canonical order of one run of marks: a stable counting sort by combining class. tmp[n]. */
static void order_run(int32_t *cps, size_t n, int32_t *tmp)
{
    size_t at[257] = {0};
    for (size_t i = 0; i < n; i++) at[class_of(cps[i]) + 1]++;
    for (int c = 1; c < 257; c++) at[c] += at[c - 1];
    for (size_t i = 0; i < n; i++) tmp[at[class_of(cps[i])]++] = cps[i];
    memcpy(cps, tmp, n * sizeof *cps);
}

static ad_status order_marks(codepoints *c)
{
    int32_t *tmp = NULL;
    for (size_t i = 0, end; i < c->n; i = end) {
        bool sorted = true;
        end = i + 1;
        if (class_of(c->cps[i]) == 0) continue;
        for (; end < c->n && class_of(c->cps[end]) != 0; end++) sorted &= class_of(c->cps[end - 1]) <= class_of(c->cps[end]);
        if (sorted) continue;
        if (!tmp && !(tmp = ad_calloc(c->n, sizeof *tmp))) return AD_ENOMEM;
        order_run(c->cps + i, end - i, tmp);
    }
    free(tmp);
    return AD_OK;
}

static ad_status normal_form(ad_str s, ad_tk_norm_kind kind, ad_buf *out)
{
    int options = UTF8PROC_STABLE | (kind == AD_TK_NFC || kind == AD_TK_NFKC ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE);
    if (kind == AD_TK_NFKC || kind == AD_TK_NFKD) options |= UTF8PROC_COMPAT;
    codepoints c = {0};
    ad_status st = decompose(&c, s, (options & ~UTF8PROC_COMPOSE) | UTF8PROC_DECOMPOSE);
    if (st == AD_OK) st = order_marks(&c);
    utf8proc_ssize_t n = (utf8proc_ssize_t)c.n;
    if (st == AD_OK && options & UTF8PROC_COMPOSE) n = utf8proc_normalize_utf32(c.cps, n, options);
    if (st == AD_OK && n < 0) st = AD_EINVAL;
    for (utf8proc_ssize_t i = 0; st == AD_OK && i < n; i++) {
        char utf8[4];
        ad_buf_append(out, utf8, (size_t)ad_utf8_put((uint32_t)c.cps[i], utf8));
    }
    free(c.cps);
    return st;
}

static void replace(ad_str s, ad_str from, ad_str to, ad_buf *out)
{
    const char *at = s.ptr, *end = s.ptr + s.len;
    for (const char *hit; at < end && (hit = memmem(at, (size_t)(end - at), from.ptr, from.len)); at = hit + from.len) {
        ad_buf_append(out, at, (size_t)(hit - at));
        ad_buf_append(out, to.ptr, to.len);
        if (out->len > AD_TK_MAX_TEXT) return; /* the caller looks */
    }
    ad_buf_append(out, at, (size_t)(end - at));
}

static ad_status apply(const ad_tk_norm *nm, ad_str s, ad_buf *out)
{
    if (nm->kind == AD_TK_PREPEND) {
        ad_buf_append(out, nm->to.ptr, nm->to.len);
        ad_buf_append(out, s.ptr, s.len);
    } else if (nm->kind == AD_TK_REPLACE) {
        replace(s, nm->from, nm->to, out);
    } else {
        return normal_form(s, nm->kind, out);
    }
    return AD_OK;
}

ad_status ad_tk_normalize(const ad_tokenizer *tk, ad_buf bufs[2], ad_str text, ad_str *out, ad_err *err)
{
    int turn = 0;
    for (int i = 0; i < tk->n_norms && text.len; i++) {
        const ad_tk_norm *nm = &tk->norms[i];
        if (nm->kind <= AD_TK_NFKD && is_normal_already(text, nm->kind)) continue;
        ad_buf *to = &bufs[turn];
        ad_buf_clear(to);
        ad_status st = apply(nm, text, to);
        if (to->failed) st = AD_ENOMEM;
        if (st == AD_OK && to->len > AD_TK_MAX_TEXT) st = AD_EINVAL;
        if (st != AD_OK) return ad_fail(err, st, "a text of %zu bytes cannot be normalized: %s", text.len, st == AD_ENOMEM ? "out of memory" : "it grows too large");
        text = (ad_str){to->data ? to->data : "", to->len};
        turn = !turn;
    }
    *out = text;
    return AD_OK;
}
