/* SPDX-License-Identifier: MIT */
/* Grammars as llama.cpp writes them: rules NAME ::= ALTERNATIVES, of "strings", [classes], . (any character), names, (groups) and
 * ? * + {m} {m,} {m,n}; # comments; escapes \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH. A rule ends at the end of its line, unless a
 * group is open or the next line begins with |. The rule "root" is the text. */
#include <string.h>

#include "core/grammar/build.h"
#include "core/text/utf8.h"

typedef struct {
    ad_gr_builder *b;
    ad_str s;
    size_t at;
    int nesting;
    size_t first_rule; /* those before belong to others */
    ad_gr_index names; /* of the builder's rules */
    uint8_t *defined;  /* [rules_cap] */
    size_t defined_cap;
} parser;

static ad_gx bad(parser *p, ad_status st, const char *what)
{
    int line = 1;
    for (size_t i = 0; i < p->at && i < p->s.len; i++) line += p->s.ptr[i] == '\n';
    return ad_gr_fail(p->b, st, "grammar, line %d: %s", line, what);
}

static bool more(const parser *p) { return p->at < p->s.len && p->b->st == AD_OK; }
static char peek(const parser *p) { return p->at < p->s.len ? p->s.ptr[p->at] : '\0'; }

static bool eat(parser *p, char c)
{
    if (p->at == p->s.len || p->s.ptr[p->at] != c) return false;
    p->at++;
    return true;
}

static void skip_space(parser *p, bool lines)
{
    for (; p->at < p->s.len; p->at++) {
        char c = peek(p);
        if (c == '#')
            while (p->at < p->s.len && peek(p) != '\n' && peek(p) != '\r') p->at++;
        c = peek(p);
        if (c != ' ' && c != '\t' && !(lines && (c == '\n' || c == '\r'))) return;
    }
}

/* ---- names ---- */

static bool in_name(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'; }

static ad_str take_name(parser *p)
{
    size_t from = p->at;
    while (p->at < p->s.len && in_name(peek(p))) p->at++;
    return (ad_str){p->s.ptr + from, p->at - from};
}

static uint32_t rule_of(parser *p, ad_str name)
{
    uint32_t hash = ad_gr_hash(name.ptr, name.len);
    size_t at = hash;
    for (int64_t id; (id = ad_gr_index_next(&p->names, hash, &at)) >= 0;)
        if (ad_str_eq(name, p->b->rules[id].name)) return (uint32_t)id;
    uint32_t rule = ad_gr_rule_new(p->b, name.ptr, name.len);
    if (p->b->st != AD_OK) return 0;
    if (ad_grow(&p->defined, &p->defined_cap, rule + 1, 1) != AD_OK || !ad_gr_index_add(&p->names, hash, rule)) bad(p, AD_ENOMEM, "out of memory");
    else p->defined[rule] = 0;
    return rule;
}

/* ---- characters ---- */

static uint32_t take_hex(parser *p, int digits)
{
    uint32_t v = 0;
    for (; digits; digits--, p->at++) {
        char c = peek(p), low = (char)(c | 32);
        if (c >= '0' && c <= '9') v = v * 16 + (uint32_t)(c - '0');
        else if (low >= 'a' && low <= 'f') v = v * 16 + (uint32_t)(low - 'a' + 10);
        else return bad(p, AD_EINVAL, "an escape lacks hexadecimal digits");
    }
    if (v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF)) return bad(p, AD_EINVAL, "an escape names no character");
    return v;
}

static uint32_t take_char(parser *p)
{
    int len;
    if (!more(p)) return bad(p, AD_EINVAL, "it ends in the middle of a string or class");
    uint32_t cp = ad_utf8_get(p->s.ptr + p->at, &len);
    p->at += (size_t)len;
    if (cp != '\\') return cp;
    if (!more(p)) return bad(p, AD_EINVAL, "it ends with a backslash");
    char c = p->s.ptr[p->at++];
    switch (c) {
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'x': return take_hex(p, 2);
    case 'u': return take_hex(p, 4);
    case 'U': return take_hex(p, 8);
    case '\\':
    case '"':
    case '[':
    case ']': return (uint32_t)c;
    }
    return bad(p, AD_EINVAL, "an escape that means nothing");
}

static ad_gx one_char(parser *p, ad_gr_chars *c)
{
    ad_gx x = ad_gr_class(p->b, c);
    ad_gr_chars_deinit(c);
    return x;
}

static ad_gx parse_string(parser *p)
{
    ad_gx x = AD_GX_EMPTY;
    while (more(p) && peek(p) != '"') {
        char bytes[4];
        int n = ad_utf8_put(take_char(p), bytes);
        x = ad_gr_seq(p->b, x, ad_gr_text(p->b, (ad_str){bytes, (size_t)n}));
    }
    return eat(p, '"') ? x : bad(p, AD_EINVAL, "a string is not closed");
}

static ad_gx parse_class(parser *p)
{
    ad_gr_chars set = {0};
    bool negated = eat(p, '^');
    while (more(p) && peek(p) != ']') {
        uint32_t lo = take_char(p), hi = lo;
        if (peek(p) == '-' && p->at + 1 < p->s.len && p->s.ptr[p->at + 1] != ']') {
            p->at++;
            hi = take_char(p);
            if (hi < lo) bad(p, AD_EINVAL, "a range in a class that goes nowhere");
        }
        ad_gr_chars_add(&set, lo, hi);
    }
    if (!eat(p, ']')) bad(p, AD_EINVAL, "a class is not closed");
    if (negated) ad_gr_chars_negate(&set);
    return one_char(p, &set);
}

/* ---- rules ---- */

static ad_gx parse_alternatives(parser *p);

static ad_gx parse_group(parser *p)
{
    if (++p->nesting > AD_GR_MAX_NESTING) return bad(p, AD_ELIMIT, "groups are nested too deeply");
    skip_space(p, true);
    ad_gx x = parse_alternatives(p);
    p->nesting--;
    return eat(p, ')') ? x : bad(p, AD_EINVAL, "a group is not closed");
}

static ad_gx parse_item(parser *p)
{
    ad_gr_chars any = {0};
    if (eat(p, '"')) return parse_string(p);
    if (eat(p, '[')) return parse_class(p);
    if (eat(p, '(')) return parse_group(p);
    if (eat(p, '.')) return ad_gr_chars_negate(&any), one_char(p, &any);
    if (in_name(peek(p))) return ad_gr_ref(p->b, rule_of(p, take_name(p)));
    if (peek(p) == '<' || peek(p) == '!') return bad(p, AD_EUNSUPPORTED, "tokens (<...>) are not supported");
    return bad(p, AD_EINVAL, "a string, class, name or group is missing");
}

static uint32_t take_count(parser *p)
{
    uint64_t v = 0;
    size_t from = p->at;
    for (; peek(p) >= '0' && peek(p) <= '9'; p->at++)
        if (v < AD_GR_INF) v = v * 10 + (uint64_t)(peek(p) - '0');
    if (p->at == from) return bad(p, AD_EINVAL, "a repetition lacks its count");
    if (v >= INT32_MAX) return bad(p, AD_ELIMIT, "a repetition count is too large");
    return (uint32_t)v;
}

static ad_gx parse_braces(parser *p, ad_gx x)
{
    skip_space(p, p->nesting > 0);
    uint32_t min = peek(p) == ',' ? 0 : take_count(p), max = min;
    skip_space(p, p->nesting > 0);
    if (eat(p, ',')) {
        skip_space(p, p->nesting > 0);
        max = peek(p) == '}' ? AD_GR_INF : take_count(p);
        skip_space(p, p->nesting > 0);
    }
    if (!eat(p, '}')) return bad(p, AD_EINVAL, "a repetition is not closed");
    return min <= max ? ad_gr_repeat(p->b, x, min, max) : bad(p, AD_EINVAL, "a repetition of more than its maximum");
}

static ad_gx parse_repeated(parser *p)
{
    ad_gx x = parse_item(p);
    for (skip_space(p, p->nesting > 0); more(p); skip_space(p, p->nesting > 0)) {
        if (eat(p, '*')) x = ad_gr_repeat(p->b, x, 0, AD_GR_INF);
        else if (eat(p, '+')) x = ad_gr_repeat(p->b, x, 1, AD_GR_INF);
        else if (eat(p, '?')) x = ad_gr_repeat(p->b, x, 0, 1);
        else if (eat(p, '{')) x = parse_braces(p, x);
        else break;
    }
    return x;
}

static bool at_end(const parser *p) { return p->at == p->s.len || strchr("|)\r\n", peek(p)); }

static ad_gx parse_sequence(parser *p)
{
    ad_gx x = AD_GX_EMPTY;
    while (more(p) && !at_end(p)) x = ad_gr_seq(p->b, x, parse_repeated(p));
    return x;
}

/* The next line goes on with this rule when it begins with |. */
static bool next_alternative(parser *p)
{
    size_t from = p->at;
    skip_space(p, true);
    if (eat(p, '|')) return skip_space(p, true), true;
    p->at = from;
    return false;
}

static ad_gx parse_alternatives(parser *p)
{
    ad_gx x = parse_sequence(p);
    while (more(p) && next_alternative(p)) x = ad_gr_alt(p->b, x, parse_sequence(p));
    if (p->nesting) skip_space(p, true);
    return x;
}

static void parse_rule(parser *p)
{
    ad_str name = take_name(p);
    if (!name.len) {
        bad(p, AD_EINVAL, "a rule's name is missing");
        return;
    }
    uint32_t rule = rule_of(p, name);
    skip_space(p, false);
    if (!eat(p, ':') || !eat(p, ':') || !eat(p, '=')) bad(p, AD_EINVAL, "::= is missing after a rule's name");
    skip_space(p, true);
    ad_gx body = parse_alternatives(p);
    if (p->b->st != AD_OK) return;
    if (p->defined[rule]) bad(p, AD_EINVAL, "a rule is defined twice");
    p->defined[rule] = 1;
    ad_gr_rule_set(p->b, rule, body);
    if (p->at < p->s.len && peek(p) != '\n' && peek(p) != '\r') bad(p, AD_EINVAL, "something is left at the end of a rule");
}

/* The root, once all names that were used have rules. */
static ad_gx root_of(parser *p)
{
    uint32_t root = rule_of(p, (ad_str){"root", 4});
    for (size_t r = p->first_rule; r < p->b->n_rules && p->b->st == AD_OK; r++) {
        const char *name = p->b->rules[r].name;
        if (!p->defined[r]) ad_gr_fail(p->b, AD_EINVAL, "grammar: the rule \"%.100s\" is missing", name);
    }
    return ad_gr_ref(p->b, root);
}

ad_gx ad_gr_gbnf(ad_gr_builder *b, ad_str text)
{
    parser p = {.b = b, .s = text, .first_rule = b->n_rules};
    ad_gx x = AD_GX_EMPTY;
    if (ad_utf8_check(text.ptr, text.len) != text.len || memchr(text.ptr, 0, text.len)) x = bad(&p, AD_EINVAL, "not valid UTF-8, or a NUL byte");
    for (skip_space(&p, true); more(&p); skip_space(&p, true)) parse_rule(&p);
    if (b->st == AD_OK) x = root_of(&p);
    ad_gr_index_deinit(&p.names);
    free(p.defined);
    return x;
}
