/* SPDX-License-Identifier: MIT */
/* Template source to tokens, with Jinja2's rules for white space around tags: a block's or comment's line keeps neither its
 * indentation (lstrip_blocks) nor its newline (trim_blocks); a '-' inside a tag strips all white space on its side. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

typedef struct {
    jj *j;
    jj_names *names;
    const char *s;
    size_t n, at;
    int line;
    jj_token *tokens;
    size_t n_tokens, cap;
    char open[JJ_MAX_NESTING]; /* brackets to be closed in this tag */
    int n_open;
} lexer;

static jj_token *add(lexer *x, jj_token_kind kind)
{
    x->tokens = jj_grow(x->j, x->tokens, x->n_tokens, &x->cap, x->n_tokens + 1, sizeof *x->tokens);
    jj_token *t = &x->tokens[x->n_tokens++];
    *t = (jj_token){.kind = kind, .line = x->line};
    return t;
}

static void move(lexer *x, size_t n)
{
    for (; n > 0; n--) x->line += x->s[x->at++] == '\n';
    x->j->line = x->line;
}

static bool looking_at(const lexer *x, size_t at, const char *what)
{
    size_t n = strlen(what);
    return x->n - at >= n && !memcmp(x->s + at, what, n);
}

static size_t space_after(const lexer *x, size_t at)
{
    int len;
    size_t from = at;
    while (at < x->n && jj_is_space(ad_utf8_get(x->s + at, &len))) at += (size_t)len;
    return at - from;
}

static bool all_space(const lexer *x, size_t from, size_t to)
{
    return from + space_after(x, from) >= to;
}

/* ---- text between tags ---- */

static size_t strip_end(const lexer *x, size_t from, size_t to)
{
    while (to > from) {
        size_t at = to - 1;
        int len;
        while (at > from && ((unsigned char)x->s[at] & 0xC0) == 0x80) at--;
        if (!jj_is_space(ad_utf8_get(x->s + at, &len))) break;
        to = at;
    }
    return to;
}

/* Where the text that begins at `from` and is followed by a tag at `to` ends. sign: the byte after "{%". */
static size_t text_end(const lexer *x, size_t from, size_t to, char sign, bool print)
{
    if (sign == '-') return strip_end(x, from, to);
    if (sign == '+' || print) return to;
    size_t line = to;
    while (line > from && x->s[line - 1] != '\n') line--;
    bool starts_line = line > from || from == 0 || x->s[from - 1] == '\n';
    return starts_line && all_space(x, line, to) ? line : to;
}

static void add_text(lexer *x, size_t from, size_t to)
{
    if (from < to) add(x, JT_TEXT)->value = jj_text(x->j, x->s + from, to - from, false);
}

static size_t find_tag(const lexer *x, size_t at)
{
    for (; at + 1 < x->n; at++)
        if (x->s[at] == '{' && (x->s[at + 1] == '{' || x->s[at + 1] == '%' || x->s[at + 1] == '#')) return at;
    return x->n;
}

/* Bytes of "%}" or "-%}" with the white space it eats, or of "}}"; 0 when none is here. */
static size_t tag_end(const lexer *x, size_t at, const char *close, bool trims)
{
    size_t sign = at < x->n && (x->s[at] == '-' || (x->s[at] == '+' && trims));
    if (!looking_at(x, at + sign, close)) return 0;
    size_t len = sign + 2;
    if (sign && x->s[at] == '-') return len + space_after(x, at + len);
    return !sign && trims && at + len < x->n && x->s[at + len] == '\n' ? len + 1 : len;
}

static void skip_comment(lexer *x)
{
    for (size_t at = x->at + 2; at < x->n; at++) {
        size_t len = tag_end(x, at, "#}", true);
        if (!len) continue;
        move(x, at + len - x->at);
        return;
    }
    jj_fail(x->j, AD_EFORMAT, "a comment is not closed");
}

/* Bytes of a tag that has nothing but this word in it; 0 when another tag is here. */
static size_t bare_tag(const lexer *x, size_t at, const char *word, bool trims)
{
    if (!looking_at(x, at, "{%")) return 0;
    size_t from = at;
    at += 2;
    at += at < x->n && (x->s[at] == '-' || x->s[at] == '+');
    at += space_after(x, at);
    if (!looking_at(x, at, word)) return 0;
    at += strlen(word);
    at += space_after(x, at);
    size_t end = tag_end(x, at, "%}", true);
    if (!end) return 0;
    if (!trims && x->s[at + end - 1] == '\n' && x->s[at] != '-') end--;
    return at + end - from;
}

static char sign_at(const lexer *x, size_t at)
{
    return at < x->n ? x->s[at] : '\0';
}

/* {% raw %}: everything up to {% endraw %} is text. */
static bool lex_raw(lexer *x)
{
    size_t begin = bare_tag(x, x->at, "raw", false);
    if (!begin) return false;
    move(x, begin);
    for (size_t at = x->at; at < x->n; at++) {
        size_t len = bare_tag(x, at, "endraw", true);
        if (!len) continue;
        add_text(x, x->at, text_end(x, x->at, at, sign_at(x, at + 2), false));
        move(x, at + len - x->at);
        return true;
    }
    jj_fail(x->j, AD_EFORMAT, "{%% raw %%} is not closed");
}

/* ---- inside a tag ---- */

static bool is_name_byte(char c)
{
    return c == '_' || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (unsigned char)c >= 0x80;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The code point of `digits` hexadecimal digits. */
static uint32_t hex_escape(lexer *x, size_t at, int digits)
{
    uint32_t cp = 0;
    for (int i = 0; i < digits; i++) {
        int v = at + (size_t)i < x->n ? hex_value(x->s[at + (size_t)i]) : -1;
        if (v < 0) jj_fail(x->j, AD_EFORMAT, "a \\x, \\u or \\U escape is not followed by %d hexadecimal digits", digits);
        cp = cp << 4 | (uint32_t)v;
    }
    if (cp > 0x10FFFF || (cp >= 0xD800 && cp <= 0xDFFF)) jj_fail(x->j, AD_EFORMAT, "an escape names no character");
    return cp;
}

/* One escape at s[at], behind its backslash: appends what it means, returns its bytes. */
static size_t unescape(lexer *x, size_t at, jj_build *b)
{
    static const char from[] = "nt\\'\"rabfv", to[] = "\n\t\\'\"\r\a\b\f\v";
    char c = x->s[at], utf8[4];
    const char *known = memchr(from, c, sizeof from - 1);
    if (known) return jj_add(x->j, b, &to[known - from], 1, false), 1;
    if (c == '\n') return 1;
    if (c >= '0' && c <= '7') {
        uint32_t cp = 0;
        size_t n = 0;
        for (; n < 3 && at + n < x->n && x->s[at + n] >= '0' && x->s[at + n] <= '7'; n++) cp = cp * 8 + (uint32_t)(x->s[at + n] - '0');
        return jj_add(x->j, b, utf8, (size_t)ad_utf8_put(cp, utf8), false), n;
    }
    int digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits) return jj_add(x->j, b, utf8, (size_t)ad_utf8_put(hex_escape(x, at + 1, digits), utf8), false), (size_t)digits + 1;
    int len;
    ad_utf8_get(x->s + at, &len);
    jj_add(x->j, b, "\\", 1, false); /* an unknown escape stands for itself */
    jj_add(x->j, b, x->s + at, (size_t)len, false);
    return (size_t)len;
}

static void lex_string(lexer *x)
{
    char quote = x->s[x->at];
    jj_build b = {0};
    size_t at = x->at + 1, from = at;
    while (at < x->n && x->s[at] != quote) {
        if (x->s[at] != '\\' || at + 1 >= x->n) {
            at++;
            continue;
        }
        jj_add(x->j, &b, x->s + from, at - from, false);
        at += 1 + unescape(x, at + 1, &b);
        from = at;
    }
    if (at >= x->n) jj_fail(x->j, AD_EFORMAT, "a string is not closed");
    jj_add(x->j, &b, x->s + from, at - from, false);
    jj_token *t = add(x, JT_STRING);
    t->value = jj_built(x->j, &b);
    ((jj_str *)t->value.s)->chars = jj_chars(t->value.s); /* renderings share it and must not write */
    if (t->value.s->len && !memchr(t->value.s->p, 0, t->value.s->len)) jj_intern(x->j, x->names, t->value.s->p, t->value.s->len);
    move(x, at + 1 - x->at);
}

static bool is_digit_at(const lexer *x, size_t at)
{
    return at < x->n && x->s[at] >= '0' && x->s[at] <= '9';
}

/* Digits with single underscores between them, appended to dst without these. Returns the bytes they take. */
static size_t digits(const lexer *x, size_t at, char *dst, size_t *n, size_t most)
{
    size_t from = at;
    for (; is_digit_at(x, at); at++) {
        if (*n < most) dst[(*n)++] = x->s[at];
        at += at + 1 < x->n && x->s[at + 1] == '_' && is_digit_at(x, at + 2);
    }
    return at - from;
}

static void lex_number(lexer *x)
{
    char text[64];
    size_t n = 0, most = sizeof text - 1, at = x->at;
    int base = 10;
    bool real = false;
    if (x->s[at] == '0' && at + 1 < x->n && strchr("xXoObB", x->s[at + 1])) {
        base = (x->s[at + 1] | 32) == 'x' ? 16 : (x->s[at + 1] | 32) == 'o' ? 8 : 2;
        for (at += 2; at < x->n && (hex_value(x->s[at]) >= 0 || x->s[at] == '_'); at++)
            if (x->s[at] != '_' && n < most) text[n++] = x->s[at];
    } else {
        bool after_dot = at > 0 && x->s[at - 1] == '.';
        at += digits(x, at, text, &n, most);
        if (!after_dot && at < x->n && x->s[at] == '.' && is_digit_at(x, at + 1)) {
            real = true;
            if (n < most) text[n++] = '.';
            at++;
            at += digits(x, at, text, &n, most);
        }
        size_t sign = at + 1 < x->n && (x->s[at + 1] == '+' || x->s[at + 1] == '-');
        if (!after_dot && at < x->n && (x->s[at] | 32) == 'e' && is_digit_at(x, at + 1 + sign)) {
            real = true;
            for (size_t i = 0; i < 1 + sign && n < most; i++) text[n++] = x->s[at + i];
            at += 1 + sign;
            at += digits(x, at, text, &n, most);
        }
    }
    text[n] = '\0';
    char *end;
    errno = 0;
    jj_val v = real ? jj_float(strtod(text, NULL)) : jj_int(strtoll(text, &end, base));
    if (n == most || n == 0 || (!real && (errno || *end))) jj_fail(x->j, AD_EFORMAT, "a number is malformed or out of range");
    add(x, real ? JT_FLOAT : JT_INT)->value = v;
    move(x, at - x->at);
}

static void track_bracket(lexer *x, char c)
{
    static const char opening[] = "([{", closing[] = ")]}";
    const char *o = memchr(opening, c, 3), *k = memchr(closing, c, 3);
    if (o) {
        if (x->n_open == JJ_MAX_NESTING) jj_fail(x->j, AD_ELIMIT, "brackets nest more than %d deep", JJ_MAX_NESTING);
        x->open[x->n_open++] = closing[o - opening];
    }
    if (!k) return;
    if (!x->n_open || x->open[x->n_open - 1] != c) jj_fail(x->j, AD_EFORMAT, "unexpected '%c'", c);
    x->n_open--;
}

static void lex_operator(lexer *x)
{
    static const struct {
        char text[3];
        jj_token_kind kind;
    } ops[] = {{"//", JT_FLOORDIV}, {"**", JT_POW}, {"==", JT_EQ}, {"!=", JT_NE}, {">=", JT_GE}, {"<=", JT_LE}, {"+", JT_ADD}, {"-", JT_SUB}, {"*", JT_MUL}, {"/", JT_DIV},
               {"%", JT_MOD}, {"~", JT_TILDE}, {"[", JT_LBRACKET}, {"]", JT_RBRACKET}, {"(", JT_LPAREN}, {")", JT_RPAREN}, {"{", JT_LBRACE}, {"}", JT_RBRACE},
               {">", JT_GT}, {"<", JT_LT}, {"=", JT_ASSIGN}, {".", JT_DOT}, {":", JT_COLON}, {"|", JT_PIPE}, {",", JT_COMMA}, {";", JT_SEMICOLON}};
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        if (!looking_at(x, x->at, ops[i].text)) continue;
        track_bracket(x, ops[i].text[0]);
        add(x, ops[i].kind);
        move(x, strlen(ops[i].text));
        return;
    }
    jj_fail(x->j, AD_EFORMAT, "unexpected character '%c'", x->s[x->at]);
}

/* From behind "{{" or "{%" to behind its end. */
static void lex_tag(lexer *x, bool print)
{
    int line = x->line;
    x->n_open = 0;
    while (x->at < x->n) {
        size_t end = x->n_open ? 0 : tag_end(x, x->at, print ? "}}" : "%}", !print);
        size_t space = space_after(x, x->at);
        if (end) {
            add(x, print ? JT_PRINT_END : JT_BLOCK_END);
            move(x, end);
            return;
        }
        char c = x->s[x->at];
        if (space) move(x, space);
        else if (c >= '0' && c <= '9') lex_number(x);
        else if (c == '\'' || c == '"') lex_string(x);
        else if (is_name_byte(c)) {
            size_t len = 1;
            while (x->at + len < x->n && is_name_byte(x->s[x->at + len])) len++;
            add(x, JT_NAME)->name = jj_intern(x->j, x->names, x->s + x->at, len);
            move(x, len);
        } else lex_operator(x);
    }
    x->j->line = line;
    jj_fail(x->j, AD_EFORMAT, "a tag is not closed");
}

jj_token *jj_lex(jj *j, jj_names *names, const char *source, size_t len)
{
    lexer x = {.j = j, .names = names, .s = source, .n = len, .line = 1};
    j->line = 1;
    while (x.at < x.n) {
        size_t tag = find_tag(&x, x.at);
        if (tag == x.n) {
            add_text(&x, x.at, x.n);
            move(&x, x.n - x.at);
            break;
        }
        char kind = x.s[tag + 1], sign = sign_at(&x, tag + 2);
        add_text(&x, x.at, text_end(&x, x.at, tag, sign, kind == '{'));
        move(&x, tag - x.at);
        if (kind == '#') {
            skip_comment(&x);
        } else if (kind == '{' || !lex_raw(&x)) {
            add(&x, kind == '{' ? JT_PRINT_BEGIN : JT_BLOCK_BEGIN);
            move(&x, sign == '-' || sign == '+' ? 3 : 2);
            lex_tag(&x, kind == '{');
        }
    }
    add(&x, JT_END);
    return x.tokens;
}
