/* SPDX-License-Identifier: MIT */
/* Regular expressions, the part that ECMAScript and Python agree about:
 *   characters; . (no newline); [classes] with ranges and ^; \d \w \s \D \W \S (ASCII); \t \n \r \f \v \0 \xHH \uHHHH \u{H} \UHHHHHHHH,
 *   \cX; a backslash before punctuation; (groups), (?:...), (?P<name>...), (?<name>...); |; ? * + {m} {m,} {m,n}, also lazy (?), which
 *   is the same for a whole match; ^ and $ at the ends of an alternative.
 * Refused by name: lookaround, backreferences, word boundaries, flags, atomic groups, possessive quantifiers, Unicode properties,
 * and what the two read differently ([], {,n}). */
#include "core/grammar/regex.h"

#include <string.h>

#include "core/text/utf8.h"

typedef struct {
    ad_gr_builder *b;
    ad_str s;
    size_t at;
    ad_gr_char_fn *write;
    bool search;
    int nesting;
} parser;

static const ad_gr_match EMPTY_MATCH = {.x = AD_GX_EMPTY};

static ad_gr_match bad(parser *p, ad_status st, const char *what)
{
    ad_gr_fail(p->b, st, "regular expression, at byte %zu: %s", p->at, what);
    return EMPTY_MATCH;
}

static bool more(const parser *p) { return p->at < p->s.len && p->b->st == AD_OK; }
static char peek(const parser *p) { return p->at < p->s.len ? p->s.ptr[p->at] : '\0'; }

static bool eat(parser *p, const char *text)
{
    size_t n = strlen(text);
    if (p->s.len - p->at < n || memcmp(p->s.ptr + p->at, text, n)) return false;
    p->at += n;
    return true;
}

static uint32_t take_char(parser *p)
{
    int len;
    uint32_t cp = ad_utf8_get(p->s.ptr + p->at, &len);
    p->at += (size_t)len;
    return cp;
}

/* ---- escapes ---- */

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if ((c | 32) >= 'a' && (c | 32) <= 'f') return (c | 32) - 'a' + 10;
    return -1;
}

/* min to max hex digits. */
static uint32_t take_hex(parser *p, int min, int max)
{
    uint32_t v = 0;
    int n = 0;
    while (n < max && p->at < p->s.len && hex_value(peek(p)) >= 0) {
        v = v * 16 + (uint32_t)hex_value(peek(p));
        p->at++, n++;
    }
    if (n < min) bad(p, AD_EINVAL, "an escape lacks hexadecimal digits");
    if (v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF)) bad(p, AD_EINVAL, "an escape names no character");
    return v;
}

static void add_shorthand(ad_gr_chars *c, char kind)
{
    ad_gr_chars one = {0};
    switch (kind | 32) {
    case 'd': ad_gr_chars_add(&one, '0', '9'); break;
    case 'w':
        ad_gr_chars_add(&one, '0', '9'), ad_gr_chars_add(&one, 'A', 'Z');
        ad_gr_chars_add(&one, '_', '_'), ad_gr_chars_add(&one, 'a', 'z');
        break;
    default: ad_gr_chars_add(&one, '\t', '\r'), ad_gr_chars_add(&one, ' ', ' ');
    }
    if (!(kind & 32)) ad_gr_chars_negate(&one);
    ad_gr_chars_join(c, &one);
    ad_gr_chars_deinit(&one);
}

static uint32_t take_unicode(parser *p)
{
    if (!eat(p, "{")) return take_hex(p, 4, 4);
    uint32_t v = take_hex(p, 1, 6);
    if (!eat(p, "}")) bad(p, AD_EINVAL, "\\u{ is not closed");
    return v;
}

/* Behind the backslash. A class like \d goes to *set and returns false; else *cp is the one character. */
static bool take_escape(parser *p, bool in_class, ad_gr_chars *set, uint32_t *cp)
{
    *cp = 0;
    if (!more(p)) return bad(p, AD_EINVAL, "a backslash at the end"), true;
    char c = peek(p);
    if (strchr("dwsDWS", c) && c) return p->at++, add_shorthand(set, c), false;
    if (c >= '1' && c <= '9') return bad(p, AD_EUNSUPPORTED, "backreferences are not supported"), true;
    if (c == 'k') return bad(p, AD_EUNSUPPORTED, "backreferences are not supported"), true;
    if (c == 'p' || c == 'P') return bad(p, AD_EUNSUPPORTED, "Unicode properties (\\p) are not supported"), true;
    if ((c == 'b' && !in_class) || c == 'B') return bad(p, AD_EUNSUPPORTED, "word boundaries (\\b) are not supported"), true;
    if (c && strchr("AZzG", c)) return bad(p, AD_EUNSUPPORTED, "anchors other than ^ and $ are not supported"), true;
    *cp = take_char(p);
    switch (*cp) {
    case 't': *cp = '\t'; return true;
    case 'n': *cp = '\n'; return true;
    case 'r': *cp = '\r'; return true;
    case 'f': *cp = '\f'; return true;
    case 'v': *cp = '\v'; return true;
    case 'b': *cp = '\b'; return true;
    case 'x': *cp = take_hex(p, 2, 2); return true;
    case 'u': *cp = take_unicode(p); return true;
    case 'U': *cp = take_hex(p, 8, 8); return true;
    case 'c':
        if ((peek(p) | 32) < 'a' || (peek(p) | 32) > 'z') return bad(p, AD_EINVAL, "\\c needs a letter"), true;
        *cp = (uint32_t)(p->s.ptr[p->at++] & 31);
        return true;
    case '0':
        if (peek(p) >= '0' && peek(p) <= '9') return bad(p, AD_EUNSUPPORTED, "octal escapes are not supported"), true;
        *cp = 0;
        return true;
    }
    if ((*cp | 32) >= 'a' && (*cp | 32) <= 'z' && *cp < 128) bad(p, AD_EINVAL, "an escape that means nothing");
    return true;
}

/* ---- atoms ---- */

static ad_gr_match one_char(parser *p, ad_gr_chars *c)
{
    ad_gr_match m = {.x = p->write(p->b, c), .min = 1, .max = 1};
    ad_gr_chars_deinit(c);
    return m;
}

/* One member of a class; false when it was a class of its own, which is in *set. */
static bool take_member(parser *p, ad_gr_chars *set, uint32_t *cp)
{
    if (eat(p, "\\")) return take_escape(p, true, set, cp);
    *cp = take_char(p);
    return true;
}

static ad_gr_match parse_class(parser *p)
{
    ad_gr_chars set = {0};
    bool negated = eat(p, "^");
    if (peek(p) == ']') return bad(p, AD_EUNSUPPORTED, "an empty class is read differently by ECMAScript and Python: write \\] for a bracket");
    while (more(p) && peek(p) != ']') {
        uint32_t lo, hi;
        if (!take_member(p, &set, &lo)) continue;
        hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->s.len && p->s.ptr[p->at + 1] != ']') {
            p->at++;
            if (!take_member(p, &set, &hi) || hi < lo) bad(p, AD_EINVAL, "a range in a class that goes nowhere");
        }
        ad_gr_chars_add(&set, lo, hi);
    }
    if (!eat(p, "]")) bad(p, AD_EINVAL, "a class is not closed");
    if (negated) ad_gr_chars_negate(&set);
    return one_char(p, &set);
}

static ad_gr_match parse_alternatives(parser *p, bool top);

static bool take_group_name(parser *p)
{
    while (more(p) && peek(p) != '>')
        if (peek(p) == ')') return false;
        else p->at++;
    return eat(p, ">");
}

static ad_gr_match parse_group(parser *p)
{
    if (eat(p, "?")) {
        if (eat(p, "=") || eat(p, "!") || eat(p, "<=") || eat(p, "<!")) return bad(p, AD_EUNSUPPORTED, "lookaround is not supported");
        if (eat(p, ">")) return bad(p, AD_EUNSUPPORTED, "atomic groups are not supported");
        if (eat(p, "P=")) return bad(p, AD_EUNSUPPORTED, "backreferences are not supported");
        if (eat(p, "P<") || eat(p, "<")) {
            if (!take_group_name(p)) return bad(p, AD_EINVAL, "a group's name is not closed");
        } else if (!eat(p, ":")) {
            return bad(p, AD_EUNSUPPORTED, "flags and other groups with (? are not supported");
        }
    }
    if (++p->nesting > AD_GR_MAX_NESTING) return bad(p, AD_ELIMIT, "groups are nested too deeply");
    ad_gr_match m = parse_alternatives(p, false);
    p->nesting--;
    if (!eat(p, ")")) return bad(p, AD_EINVAL, "a group is not closed");
    return m;
}

static ad_gr_match parse_atom(parser *p)
{
    ad_gr_chars set = {0};
    uint32_t cp;
    if (eat(p, "(")) return parse_group(p);
    if (eat(p, "[")) return parse_class(p);
    if (peek(p) && strchr("*+?", peek(p))) return bad(p, AD_EINVAL, "a quantifier without anything to repeat");
    if (peek(p) == '^' || peek(p) == '$') return bad(p, AD_EUNSUPPORTED, "anchors are supported at the ends only");
    if (eat(p, ".")) {
        ad_gr_chars_add(&set, '\n', '\n');
        ad_gr_chars_negate(&set);
    } else if (!eat(p, "\\")) {
        cp = take_char(p);
        ad_gr_chars_add(&set, cp, cp);
    } else if (take_escape(p, false, &set, &cp)) {
        ad_gr_chars_add(&set, cp, cp);
    }
    return one_char(p, &set);
}

/* ---- quantifiers ---- */

static bool take_count(parser *p, uint32_t *out)
{
    uint64_t v = 0;
    size_t from = p->at;
    for (; p->at < p->s.len && peek(p) >= '0' && peek(p) <= '9'; p->at++)
        if (v < AD_GR_INF) v = v * 10 + (uint64_t)(peek(p) - '0');
    if (v >= INT32_MAX) bad(p, AD_ELIMIT, "a repetition count is too large");
    *out = (uint32_t)v;
    return p->at > from;
}

/* {m}, {m,}, {m,n}; a brace that opens none of them is a character. */
static bool take_braces(parser *p, uint32_t *min, uint32_t *max)
{
    size_t from = p->at;
    p->at++;
    bool counted = take_count(p, min);
    *max = *min;
    if (counted && eat(p, ",") && !take_count(p, max)) *max = AD_GR_INF;
    if (counted && eat(p, "}")) return true;
    bool comma = !counted && eat(p, ",");
    if (comma && take_count(p, max) && eat(p, "}")) bad(p, AD_EUNSUPPORTED, "{,n} is read differently by ECMAScript and Python: write {0,n}");
    p->at = from;
    return false;
}

static bool take_quantifier(parser *p, uint32_t *min, uint32_t *max)
{
    *min = 0;
    *max = AD_GR_INF;
    if (eat(p, "*")) return true;
    if (eat(p, "+")) return *min = 1, true;
    if (eat(p, "?")) return *max = 1, true;
    return peek(p) == '{' && take_braces(p, min, max);
}

static uint32_t times(uint32_t x, uint32_t n)
{
    if (!x || !n) return 0;
    if (x == AD_GR_INF || n == AD_GR_INF) return AD_GR_INF;
    return (uint64_t)x * n < AD_GR_INF ? x * n : AD_GR_INF;
}

static ad_gr_match parse_repeated(parser *p)
{
    uint32_t min, max;
    ad_gr_match m = parse_atom(p);
    bool is_char = m.min == 1 && m.max == 1;
    if (!more(p) || !take_quantifier(p, &min, &max)) {
        if (is_char) m.is_repeat = true, m.unit = m.x, m.unit_min = m.unit_max = 1;
        return m;
    }
    if (!eat(p, "?") && peek(p) == '+') return bad(p, AD_EUNSUPPORTED, "possessive quantifiers are not supported");
    if (min > max) return bad(p, AD_EINVAL, "a repetition of more than its maximum");
    if (peek(p) && strchr("*+?", peek(p))) return bad(p, AD_EINVAL, "a quantifier after a quantifier");
    ad_gr_match out = {.x = ad_gr_repeat(p->b, m.x, min, max), .min = times(m.min, min), .max = times(m.max, max)};
    if (is_char) out.is_repeat = true, out.unit = m.x, out.unit_min = min, out.unit_max = max;
    return out;
}

/* ---- sequences, alternatives ---- */

static uint32_t plus(uint32_t x, uint32_t y) { return x < AD_GR_INF - y ? x + y : AD_GR_INF; }

static ad_gx anything(parser *p)
{
    ad_gr_chars all = {0};
    ad_gr_chars_negate(&all);
    return ad_gr_repeat(p->b, one_char(p, &all).x, 0, AD_GR_INF);
}

static bool at_end(const parser *p) { return p->at == p->s.len || peek(p) == '|' || peek(p) == ')'; }

static ad_gr_match parse_sequence(parser *p, bool top)
{
    ad_gr_match m = EMPTY_MATCH;
    bool from_start = top && eat(p, "^"), to_end = false;
    for (int n = 0; more(p) && !at_end(p); n++) {
        if (top && peek(p) == '$' && (p->at + 1 == p->s.len || p->s.ptr[p->at + 1] == '|')) {
            to_end = eat(p, "$");
            break;
        }
        ad_gr_match next = parse_repeated(p);
        if (!n) m = next;
        else m = (ad_gr_match){.x = ad_gr_seq(p->b, m.x, next.x), .min = plus(m.min, next.min), .max = plus(m.max, next.max)};
    }
    if (!top || !p->search || (from_start && to_end)) return m;
    ad_gx before = from_start ? AD_GX_EMPTY : anything(p), after = to_end ? AD_GX_EMPTY : anything(p);
    return (ad_gr_match){.x = ad_gr_seq(p->b, ad_gr_seq(p->b, before, m.x), after), .min = m.min, .max = AD_GR_INF};
}

static ad_gr_match parse_alternatives(parser *p, bool top)
{
    ad_gr_match m = parse_sequence(p, top);
    while (more(p) && eat(p, "|")) {
        ad_gr_match next = parse_sequence(p, top);
        m = (ad_gr_match){.x = ad_gr_alt(p->b, m.x, next.x), .min = m.min < next.min ? m.min : next.min, .max = m.max > next.max ? m.max : next.max};
    }
    return m;
}

ad_gr_match ad_gr_regex_of(ad_gr_builder *b, ad_str pattern, ad_gr_char_fn *write, bool search)
{
    parser p = {.b = b, .s = pattern, .write = write, .search = search};
    if (ad_utf8_check(pattern.ptr, pattern.len) != pattern.len) return bad(&p, AD_EINVAL, "not valid UTF-8");
    ad_gr_match m = parse_alternatives(&p, true);
    if (b->st == AD_OK && p.at < pattern.len) return bad(&p, AD_EINVAL, "a closing parenthesis without its opening one");
    return b->st == AD_OK ? m : EMPTY_MATCH;
}

ad_gx ad_gr_regex(ad_gr_builder *b, ad_str pattern) { return ad_gr_regex_of(b, pattern, ad_gr_class, false).x; }
