/* SPDX-License-Identifier: MIT */
/* Split patterns: tokenizer files write them in Oniguruma's syntax, we run PCRE2. What both read alike passes, what
 * only the sets behind \s and \w make different is rewritten, the rest is refused by name. Used while loading. */
#include <string.h>

#include "core/text/text.h"
#include "core/text/utf8.h"

enum { MAX_PATTERN = 16 * 1024, MAX_NESTING = 100 };

const char ad_tk_gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* PCRE2's own \s also holds U+180E, its \w lacks marks. */
static const char space_set[] = "\\t-\\r\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}";
static const char word_set[] = "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}\\x{1F170}-\\x{1F189}";

typedef struct {
    const char *at, *end;
    bool in_class;
    ad_buf *out;
    const char *refused; /* why, once something was */
} translator;

static char peek(const translator *t, size_t ahead)
{
    return (size_t)(t->end - t->at) > ahead ? t->at[ahead] : '\0';
}

static void take(translator *t, size_t n)
{
    ad_buf_append(t->out, t->at, n);
    t->at += n;
}

static void put_set(translator *t, const char *set, bool negated)
{
    if (t->in_class && negated) {
        t->refused = "a negated set inside a character class";
        return;
    }
    if (!t->in_class) ad_buf_puts(t->out, negated ? "[^" : "[");
    ad_buf_puts(t->out, set);
    if (!t->in_class) ad_buf_puts(t->out, "]");
    t->at += 2;
}

static void escape(translator *t)
{
    char c = peek(t, 1);
    switch (c) {
    case 's': put_set(t, space_set, false); return;
    case 'w': put_set(t, word_set, false); return;
    case 'W': put_set(t, word_set, true); return;
    case 'S':
        if (!t->in_class) put_set(t, space_set, true);
        else take(t, 2); /* inside a class only U+180E makes a difference */
        return;
    case 'v':
        ad_buf_puts(t->out, "\\x{0B}");
        t->at += 2;
        return;
    case 'u':
        if (t->end - t->at < 6) break;
        ad_buf_puts(t->out, "\\x{");
        ad_buf_append(t->out, t->at + 2, 4);
        ad_buf_puts(t->out, "}");
        t->at += 6;
        return;
    case 'r': case 'n': case 't': case 'f': case 'e': case 'a': case 'd': case 'D': case 'p': case 'P': case 'x':
        take(t, 2);
        return;
    case 'A': case 'z':
        if (t->in_class) break;
        take(t, 2);
        return;
    default: break;
    }
    bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '\0';
    if (letter || c == 'u') t->refused = "a backslash sequence that is not understood";
    else take(t, 1 + ((unsigned char)c < 0x80)); /* a literal */
}

static void group(translator *t)
{
    static const char *const openers[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:", "(?-i:", "(?i)", "(?-i)"};
    if (peek(t, 1) == '*') {
        t->refused = "a (* verb";
    } else if (peek(t, 1) != '?') {
        take(t, 1);
    } else {
        for (size_t i = 0; i < sizeof openers / sizeof *openers; i++) {
            size_t n = strlen(openers[i]);
            if ((size_t)(t->end - t->at) < n || memcmp(t->at, openers[i], n) != 0) continue;
            take(t, n);
            return;
        }
        t->refused = "a (? group that is not understood";
    }
}

/* {n}, {n,}, {n,m}; the reference reads a following + or ? its own way, and knows {,m}. */
static void braces(translator *t)
{
    size_t n = 1;
    bool comma = false;
    while (t->at + n < t->end && (peek(t, n) == ',' || (peek(t, n) >= '0' && peek(t, n) <= '9'))) comma |= peek(t, n++) == ',';
    if (peek(t, n) == '}' && n > 1 && (peek(t, 1) == ',' || peek(t, n + 1) == '+' || (peek(t, n + 1) == '?' && !comma)))
        t->refused = "a repeat count that is not understood";
    else
        take(t, 1);
}

static void inside_class(translator *t)
{
    char c = peek(t, 0);
    if (c == '[' && peek(t, 1) == ':') {
        const char *close = memmem(t->at, (size_t)(t->end - t->at), ":]", 2);
        if (close) take(t, (size_t)(close - t->at) + 2);
        else t->refused = "an unclosed [: set";
    } else if (c == '[') {
        t->refused = "a character class inside another";
    } else if (c == '&' && peek(t, 1) == '&') {
        t->refused = "an intersection of character classes";
    } else {
        t->in_class = c != ']';
        take(t, 1);
    }
}

static void translate(translator *t)
{
    while (t->at < t->end && !t->refused) {
        char c = peek(t, 0);
        if (c == '\\') {
            escape(t);
        } else if (t->in_class) {
            inside_class(t);
        } else if (c == '[') {
            t->in_class = true;
            take(t, peek(t, 1) == '^' ? 2 : 1);
            if (peek(t, 0) == ']') take(t, 1); /* literal in front */
        } else if (c == '(') {
            group(t);
        } else if (c == '{') {
            braces(t);
        } else {
            take(t, 1);
        }
    }
}

static ad_status compile(const ad_buf *pattern, pcre2_code **re, const char *what, ad_err *err)
{
    int rc;
    size_t at;
    pcre2_compile_context *cc = pcre2_compile_context_create(NULL);
    if (!cc) return ad_fail(err, AD_ENOMEM, "%s: out of memory", what);
    pcre2_set_newline(cc, PCRE2_NEWLINE_LF);
    pcre2_set_parens_nest_limit(cc, MAX_NESTING);
    *re = pcre2_compile((PCRE2_SPTR)pattern->data, pattern->len, PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &rc, &at, cc);
    pcre2_compile_context_free(cc);
    if (!*re) {
        PCRE2_UCHAR why[160] = "";
        pcre2_get_error_message(rc, why, sizeof why);
        return ad_fail(err, AD_EFORMAT, "%s: the pattern does not compile: %s", what, (const char *)why);
    }
    pcre2_jit_compile(*re, PCRE2_JIT_COMPLETE); /* without it the same answers come slower */
    return AD_OK;
}

ad_status ad_tk_add_step(ad_tokenizer *tk, ad_tk_step step, const char *what, ad_err *err)
{
    if (tk->n_steps == AD_TK_MAX_STEPS) return ad_fail(err, AD_EUNSUPPORTED, "%s: more than %d steps", what, AD_TK_MAX_STEPS);
    tk->steps[tk->n_steps++] = step;
    return AD_OK;
}

ad_status ad_tk_add_regex(ad_tokenizer *tk, ad_str pattern, ad_tk_behavior behavior, bool invert, const char *what, ad_err *err)
{
    if (pattern.len > MAX_PATTERN) return ad_fail(err, AD_EFORMAT, "%s: the pattern is longer than %d bytes", what, MAX_PATTERN);
    ad_buf out = {0};
    translator t = {.at = pattern.ptr, .end = pattern.ptr + pattern.len, .out = &out};
    translate(&t);
    ad_tk_step step = {.kind = AD_TK_SPLIT_REGEX, .behavior = behavior, .invert = invert};
    ad_status st = AD_OK;
    if (pattern.len == 0) st = ad_fail(err, AD_EFORMAT, "%s: the pattern is empty", what);
    else if (t.refused) st = ad_fail(err, AD_EUNSUPPORTED, "%s: the pattern has %s", what, t.refused);
    else if (out.failed) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", what);
    if (st == AD_OK) st = compile(&out, &step.re, what, err);
    if (st == AD_OK) st = ad_tk_add_step(tk, step, what, err);
    if (st != AD_OK) pcre2_code_free(step.re);
    ad_buf_deinit(&out);
    return st;
}
