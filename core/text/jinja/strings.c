/* SPDX-License-Identifier: MIT */
/* What Python's strings can do. Results keep, byte by byte, what came from outside. */
#include <string.h>
#include <utf8proc.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

bool jj_is_space(uint32_t cp)
{
    return (cp >= 9 && cp <= 13) || (cp >= 0x1C && cp <= 0x20) || cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) ||
           cp == 0x2028 || cp == 0x2029 || cp == 0x202F || cp == 0x205F || cp == 0x3000;
}

const jj_str *jj_want_str(jj *j, jj_val v, const char *what)
{
    if (v.kind != JJ_STR) jj_fail(j, AD_EINVAL, "%s must be a string, not '%s'", what, jj_type_name(v));
    return v.s;
}

int64_t jj_want_int(jj *j, jj_val v, const char *what)
{
    int64_t i;
    if (!jj_as_int(v, &i)) jj_fail(j, AD_EINVAL, "%s must be a whole number, not '%s'", what, jj_type_name(v));
    return i;
}

/* ---- strip ---- */

static bool in_set(const jj_str *set, const char *c, size_t len)
{
    if (!set) {
        int n;
        return jj_is_space(ad_utf8_get(c, &n));
    }
    for (size_t i = 0; i < set->len;) {
        int n;
        ad_utf8_get(set->p + i, &n);
        if ((size_t)n == len && !memcmp(set->p + i, c, len)) return true;
        i += (size_t)n;
    }
    return false;
}

static size_t char_start(const jj_str *s, size_t end)
{
    do end--;
    while (((unsigned char)s->p[end] & 0xC0) == 0x80);
    return end;
}

jj_val jj_strip(jj *j, const jj_str *s, jj_val chars, bool left, bool right)
{
    const jj_str *set = chars.kind == JJ_ABSENT || chars.kind == JJ_NONE ? NULL : jj_want_str(j, chars, "the characters to strip");
    size_t from = 0, to = s->len, cost = set ? 1 + set->len / 8 : 1;
    while (left && from < to) {
        int n;
        ad_utf8_get(s->p + from, &n);
        if (!in_set(set, s->p + from, (size_t)n)) break;
        from += (size_t)n;
        jj_step(j, cost);
    }
    while (right && to > from) {
        size_t at = char_start(s, to);
        if (!in_set(set, s->p + at, to - at)) break;
        to = at;
        jj_step(j, cost);
    }
    return jj_part(j, s, from, to);
}

/* ---- search, replace, split, join ---- */

size_t jj_search(jj *j, const jj_str *s, const jj_str *what, size_t from, size_t to, bool last)
{
    jj_step(j, 1 + (to - from) / 64);
    if (!last) {
        const char *hit = what->len ? memmem(s->p + from, to - from, what->p, what->len) : s->p + from;
        return hit ? (size_t)(hit - s->p) : to + 1;
    }
    if (what->len > to - from) return to + 1;
    for (size_t at = to - what->len;; at--) {
        jj_step(j, 1);
        if (!memcmp(s->p + at, what->p, what->len)) return at;
        if (at == from) return to + 1;
    }
}

/* Python puts `to` before every character, and at the end. */
static jj_val replace_nothing(jj *j, const jj_str *s, const jj_str *to, int64_t count)
{
    jj_build b = {0};
    size_t i = 0;
    for (int n; i < s->len && count != 0; i += (size_t)n, count -= count > 0) {
        ad_utf8_get(s->p + i, &n);
        jj_add_str(j, &b, to);
        jj_add_part(j, &b, s, i, i + (size_t)n);
        jj_step(j, 1);
    }
    if (count != 0) jj_add_str(j, &b, to);
    jj_add_part(j, &b, s, i, s->len);
    return jj_built(j, &b);
}

jj_val jj_replace(jj *j, const jj_str *s, const jj_str *from, const jj_str *to, int64_t count)
{
    if (!from->len) return replace_nothing(j, s, to, count);
    jj_build b = {0};
    size_t done = 0;
    while (count != 0) {
        const char *hit = memmem(s->p + done, s->len - done, from->p, from->len);
        if (!hit) break;
        size_t at = (size_t)(hit - s->p);
        jj_add_part(j, &b, s, done, at);
        jj_add_str(j, &b, to);
        done = at + from->len;
        count -= count > 0;
        jj_step(j, 1);
    }
    jj_step(j, s->len / 64);
    if (!done) return jj_part(j, s, 0, s->len);
    jj_add_part(j, &b, s, done, s->len);
    return jj_built(j, &b);
}

static void reverse(jj_list *l)
{
    for (size_t i = 0; i < l->n / 2; i++) {
        jj_val t = l->items[i];
        l->items[i] = l->items[l->n - 1 - i];
        l->items[l->n - 1 - i] = t;
    }
}

static jj_val split_at(jj *j, const jj_str *s, const jj_str *sep, int64_t most)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    size_t done = 0;
    for (const char *hit; most != 0 && (hit = memmem(s->p + done, s->len - done, sep->p, sep->len)); most -= most > 0) {
        jj_push(j, out, jj_part(j, s, done, (size_t)(hit - s->p)));
        done = (size_t)(hit - s->p) + sep->len;
        jj_step(j, 1);
    }
    jj_step(j, s->len / 64);
    jj_push(j, out, jj_part(j, s, done, s->len));
    return out;
}

static jj_val split_at_last(jj *j, const jj_str *s, const jj_str *sep, int64_t most)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    size_t end = s->len;
    for (size_t at; most != 0 && (at = jj_search(j, s, sep, 0, end, true)) <= end; most -= most > 0) {
        jj_push(j, out, jj_part(j, s, at + sep->len, end));
        end = at;
    }
    jj_push(j, out, jj_part(j, s, 0, end));
    reverse(out.list);
    return out;
}

static size_t skip_run(jj *j, const jj_str *s, size_t at, bool space)
{
    for (int n; at < s->len && jj_is_space(ad_utf8_get(s->p + at, &n)) == space; at += (size_t)n) jj_step(j, at % 32 == 0);
    return at;
}

static size_t skip_run_back(jj *j, const jj_str *s, size_t end, bool space)
{
    while (end > 0) {
        int n;
        size_t at = char_start(s, end);
        if (jj_is_space(ad_utf8_get(s->p + at, &n)) != space) break;
        jj_step(j, end % 32 == 0);
        end = at;
    }
    return end;
}

/* The piece that is left when cuts have run out keeps its inner and far white space. */
static jj_val split_words(jj *j, const jj_str *s, int64_t most, bool from_right)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    size_t at = 0, end = s->len;
    for (; !from_right; most -= most > 0) {
        at = skip_run(j, s, at, true);
        if (at == s->len) return out;
        size_t stop = most == 0 ? s->len : skip_run(j, s, at, false);
        jj_push(j, out, jj_part(j, s, at, stop));
        at = stop;
    }
    for (;; most -= most > 0) {
        end = skip_run_back(j, s, end, true);
        if (end == 0) break;
        size_t start = most == 0 ? 0 : skip_run_back(j, s, end, false);
        jj_push(j, out, jj_part(j, s, start, end));
        end = start;
    }
    reverse(out.list);
    return out;
}

jj_val jj_split(jj *j, const jj_str *s, jj_val sep, int64_t most, bool from_right)
{
    if (sep.kind == JJ_ABSENT || sep.kind == JJ_NONE) return split_words(j, s, most, from_right);
    if (!jj_want_str(j, sep, "a separator")->len) jj_fail(j, AD_EINVAL, "empty separator");
    return from_right && most >= 0 ? split_at_last(j, s, sep.s, most) : split_at(j, s, sep.s, most);
}

/* Bytes of the line end at s[i]; 0 when there is none. */
static size_t line_end(const jj_str *s, size_t i)
{
    int n;
    uint32_t cp = ad_utf8_get(s->p + i, &n);
    if (cp == '\r' && i + 1 < s->len && s->p[i + 1] == '\n') return 2;
    bool ends = (cp >= '\n' && cp <= '\r') || (cp >= 0x1C && cp <= 0x1E) || cp == 0x85 || cp == 0x2028 || cp == 0x2029;
    return ends ? (size_t)n : 0;
}

jj_val jj_lines(jj *j, const jj_str *s, bool keep_ends)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    size_t from = 0;
    for (size_t i = 0; i < s->len;) {
        int n;
        size_t end = line_end(s, i);
        ad_utf8_get(s->p + i, &n);
        if (end) {
            jj_push(j, out, jj_part(j, s, from, i + (keep_ends ? end : 0)));
            from = i + end;
            jj_step(j, 1);
        }
        i += end ? end : (size_t)n;
    }
    jj_step(j, s->len / 32);
    if (from < s->len) jj_push(j, out, jj_part(j, s, from, s->len));
    return out;
}

jj_val jj_join(jj *j, const jj_str *sep, const jj_list *items)
{
    jj_build b = {0};
    for (size_t i = 0; i < items->n; i++) {
        if (i) jj_add_str(j, &b, sep);
        jj_add_val(j, &b, items->items[i]);
        jj_step(j, 1);
    }
    return jj_built(j, &b);
}

/* ---- case and padding ---- */

static bool is_cased(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c == UTF8PROC_CATEGORY_LU || c == UTF8PROC_CATEGORY_LL || c == UTF8PROC_CATEGORY_LT;
}

static void add_upper(jj *j, jj_build *b, uint32_t cp, bool title, bool untrusted)
{
    char utf8[4];
    if (cp == 0xDF) { /* has no upper case of its own */
        jj_add(j, b, title ? "Ss" : "SS", 2, untrusted);
        return;
    }
    uint32_t up = (uint32_t)(title ? utf8proc_totitle((utf8proc_int32_t)cp) : utf8proc_toupper((utf8proc_int32_t)cp));
    jj_add(j, b, utf8, (size_t)ad_utf8_put(up, utf8), untrusted);
}

jj_val jj_change_case(jj *j, const jj_str *s, jj_case how)
{
    jj_build b = {0};
    bool in_word = false;
    for (size_t i = 0; i < s->len;) {
        char utf8[4];
        int n;
        uint32_t cp = ad_utf8_get(s->p + i, &n);
        bool untrusted = jj_untrusted_at(s, i), first = how == JJ_TITLE ? !in_word : i == 0;
        if (how == JJ_UPPER || (how != JJ_LOWER && first)) add_upper(j, &b, cp, how != JJ_UPPER, untrusted);
        else jj_add(j, &b, utf8, (size_t)ad_utf8_put((uint32_t)utf8proc_tolower((utf8proc_int32_t)cp), utf8), untrusted);
        in_word = is_cased(cp);
        i += (size_t)n;
        jj_step(j, 1);
    }
    jj_val out = jj_built(j, &b);
    ((jj_str *)out.s)->markup = s->markup;
    return out;
}

jj_val jj_escape(jj *j, const jj_str *s)
{
    static const char special[] = "&<>'\"";
    static const char *const as[] = {"&amp;", "&lt;", "&gt;", "&#39;", "&#34;"};
    if (s->markup) return (jj_val){JJ_STR, {.s = s}};
    jj_build b = {0};
    jj_step(j, s->len / 4);
    for (size_t i = 0; i < s->len; i++) {
        const char *hit = memchr(special, s->p[i], sizeof special - 1);
        if (!hit) jj_add_part(j, &b, s, i, i + 1);
        else jj_add(j, &b, as[hit - special], strlen(as[hit - special]), jj_untrusted_at(s, i));
    }
    jj_val out = jj_built(j, &b);
    ((jj_str *)out.s)->markup = true;
    return out;
}

jj_val jj_pad(jj *j, const jj_str *s, int64_t width, const jj_str *with, int where)
{
    static const jj_str space = {.p = " ", .len = 1, .chars = 1};
    int64_t n = (int64_t)jj_length(j, (jj_val){JJ_STR, {.s = s}}), missing = width - n;
    if (width > JJ_MAX_WIDTH) jj_fail(j, AD_ELIMIT, "a width is over the limit of %d", JJ_MAX_WIDTH);
    if (!with) with = &space;
    if (missing < 0) missing = 0;
    int64_t left = where < 0 ? 0 : where > 0 ? missing : missing / 2 + (missing & width & 1); /* as CPython rounds */
    jj_build b = {0};
    for (int64_t i = 0; i < left; i++) jj_add_str(j, &b, with);
    jj_add_str(j, &b, s);
    for (int64_t i = left; i < missing; i++) jj_add_str(j, &b, with);
    return jj_built(j, &b);
}
