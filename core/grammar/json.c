/* SPDX-License-Identifier: MIT */
/* JSON values as expressions: any value, one value, strings apart from some, numbers between bounds. */
#include "core/grammar/json.h"

#include <stdlib.h>
#include <string.h>

#include "core/grammar/regex.h"
#include "core/text/utf8.h"

enum { RULE_VALUE, RULE_CHAR, RULE_OBJECT, RULE_ARRAY, RULE_STRING }; /* of builder.json */

static const char CHAR[] = "[^\"\\\\\\x00-\\x1F]|\\\\(?:[\"\\\\/bfnrt]|u(?:[0-9abcefABCEF][0-9a-fA-F]{3}|[dD][0-7][0-9a-fA-F]{2}|"
                           "[dD][89abAB][0-9a-fA-F]{2}\\\\u[dD][c-fC-F][0-9a-fA-F]{2}))";
static const char INTEGER[] = "-?(?:0|[1-9][0-9]{0,17})";
static const char NUMBER[] = "-?(?:0|[1-9][0-9]{0,15})(?:\\.[0-9]{1,16})?(?:[eE][+-]?[0-9]{1,2})?";

static ad_gx pattern(ad_gr_builder *b, const char *s) { return ad_gr_regex(b, (ad_str){s, strlen(s)}); }

ad_gx ad_gr_json_comma(ad_gr_builder *b) { return pattern(b, ", ?"); }
ad_gx ad_gr_json_colon(ad_gr_builder *b) { return pattern(b, ": ?"); }

/* ---- values of any shape: rules, made once ---- */

static ad_gx rule(ad_gr_builder *b, int which, ad_gx (*body)(ad_gr_builder *b))
{
    if (!b->json[which]) {
        b->json[which] = ad_gr_rule_new(b, NULL, 0); /* known before its body, which may use it */
        ad_gx x = b->json[which] ? body(b) : AD_GX_EMPTY;
        ad_gr_rule_set(b, b->json[which], x);
    }
    return ad_gr_ref(b, b->json[which]);
}

static ad_gx char_body(ad_gr_builder *b) { return pattern(b, CHAR); }
ad_gx ad_gr_json_char(ad_gr_builder *b) { return rule(b, RULE_CHAR, char_body); }

ad_gx ad_gr_json_string(ad_gr_builder *b, ad_gx content) { return ad_gr_seq(b, ad_gr_seq(b, ad_gr_lit(b, "\""), content), ad_gr_lit(b, "\"")); }

/* The characters are written out here: the most frequent place of all does without a frame. */
static ad_gx string_body(ad_gr_builder *b) { return ad_gr_json_string(b, ad_gr_repeat(b, char_body(b), 0, AD_GR_INF)); }
static ad_gx any_string(ad_gr_builder *b) { return rule(b, RULE_STRING, string_body); }

/* open (item (comma item)*)? close */
static ad_gx list(ad_gr_builder *b, const char *open, ad_gx item, const char *close)
{
    ad_gx more = ad_gr_repeat(b, ad_gr_seq(b, ad_gr_json_comma(b), item), 0, AD_GR_INF);
    ad_gx all = ad_gr_repeat(b, ad_gr_seq(b, item, more), 0, 1);
    return ad_gr_seq(b, ad_gr_seq(b, ad_gr_lit(b, open), all), ad_gr_lit(b, close));
}

static ad_gx object_body(ad_gr_builder *b)
{
    ad_gx pair = ad_gr_seq(b, ad_gr_seq(b, any_string(b), ad_gr_json_colon(b)), ad_gr_json_value(b));
    return list(b, "{", pair, "}");
}

static ad_gx array_body(ad_gr_builder *b) { return list(b, "[", ad_gr_json_value(b), "]"); }

ad_gx ad_gr_json_object(ad_gr_builder *b) { return rule(b, RULE_OBJECT, object_body); }
ad_gx ad_gr_json_array(ad_gr_builder *b) { return rule(b, RULE_ARRAY, array_body); }

static ad_gx value_body(ad_gr_builder *b)
{
    ad_gx x = ad_gr_alt(b, ad_gr_json_object(b), ad_gr_json_array(b));
    x = ad_gr_alt(b, x, any_string(b));
    x = ad_gr_alt(b, x, pattern(b, NUMBER));
    return ad_gr_alt(b, x, pattern(b, "true|false|null"));
}

ad_gx ad_gr_json_value(ad_gr_builder *b) { return rule(b, RULE_VALUE, value_body); }

/* ---- one character, one value ---- */

static void take(ad_gr_builder *b, ad_gr_chars *c, uint32_t cp, ad_gx *x)
{
    char text[8];
    const char *short_form = strchr("\"\"\\\\\bb\ff\nn\rr\tt", (int)cp);
    for (size_t i = 0; i < c->n; i++) {
        if (cp < c->ranges[i].lo || cp > c->ranges[i].hi) continue;
        if (cp && short_form) snprintf(text, sizeof text, "\\%c", short_form[1]);
        else snprintf(text, sizeof text, "\\u%04x", (unsigned)cp);
        *x = ad_gr_alt(b, *x, ad_gr_lit(b, text));
        return;
    }
}

ad_gx ad_gr_json_class(ad_gr_builder *b, ad_gr_chars *c)
{
    ad_gx x = AD_GX_NONE;
    ad_gr_chars_sort(c);
    for (uint32_t cp = 0; cp < 0x20; cp++) take(b, c, cp, &x);
    take(b, c, '"', &x), take(b, c, '\\', &x);
    ad_gr_chars_without(c, 0, 0x1F);
    ad_gr_chars_without(c, '"', '"');
    ad_gr_chars_without(c, '\\', '\\');
    return ad_gr_alt(b, ad_gr_class(b, c), x);
}

static ad_gx literal_text(ad_gr_builder *b, const json_t *v)
{
    char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    if (!text) return ad_gr_fail(b, AD_EINVAL, "a value cannot be written as JSON");
    ad_gx x = ad_gr_lit(b, text);
    free(text);
    return x;
}

static ad_gx literal_object(ad_gr_builder *b, const json_t *v)
{
    ad_gx x = ad_gr_lit(b, "{");
    bool first = true;
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        json_t *key = json_string(json_object_iter_key(it));
        if (!first) x = ad_gr_seq(b, x, ad_gr_json_comma(b));
        x = ad_gr_seq(b, ad_gr_seq(b, x, literal_text(b, key)), ad_gr_json_colon(b));
        x = ad_gr_seq(b, x, ad_gr_json_literal(b, json_object_iter_value(it)));
        json_decref(key);
        first = false;
    }
    return ad_gr_seq(b, x, ad_gr_lit(b, "}"));
}

ad_gx ad_gr_json_literal(ad_gr_builder *b, const json_t *v)
{
    if (json_is_object(v)) return literal_object(b, v);
    if (!json_is_array(v)) return literal_text(b, v);
    ad_gx x = ad_gr_lit(b, "[");
    for (size_t i = 0; i < json_array_size(v); i++) {
        if (i) x = ad_gr_seq(b, x, ad_gr_json_comma(b));
        x = ad_gr_seq(b, x, ad_gr_json_literal(b, json_array_get(v, i)));
    }
    return ad_gr_seq(b, x, ad_gr_lit(b, "]"));
}

/* ---- strings that are not among some names ---- */

static int by_bytes(const void *a, const void *b)
{
    const ad_str *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int order = n ? memcmp(x->ptr, y->ptr, n) : 0;
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* What may follow a common beginning of names[n], sorted, of `depth` bytes: the end, when it is no name; a character that
 * leads away from all of them, and then anything; one that leads on. */
static ad_gx apart_from(ad_gr_builder *b, const ad_str *names, size_t n, size_t depth, int nesting)
{
    if (nesting > AD_GR_MAX_NESTING) return ad_gr_fail(b, AD_ELIMIT, "property names are too long to be told from others");
    ad_gr_chars away = {0};
    bool is_name = n && names[0].len == depth;
    ad_gx x = is_name ? AD_GX_NONE : AD_GX_EMPTY;
    size_t i = 0, end;
    while (i < n && names[i].len == depth) i++;
    for (; i < n && b->st == AD_OK; i = end) {
        int len;
        uint32_t cp = ad_utf8_get(names[i].ptr + depth, &len);
        for (end = i + 1; end < n && names[end].len >= depth + (size_t)len && !memcmp(names[end].ptr + depth, names[i].ptr + depth, (size_t)len);) end++;
        ad_gr_chars one = {0};
        ad_gr_chars_add(&one, cp, cp);
        ad_gr_chars_add(&away, cp, cp);
        x = ad_gr_alt(b, x, ad_gr_seq(b, ad_gr_json_class(b, &one), apart_from(b, names + i, end - i, depth + (size_t)len, nesting + 1)));
        ad_gr_chars_deinit(&one);
    }
    ad_gr_chars_negate(&away);
    ad_gx other = ad_gr_seq(b, ad_gr_json_class(b, &away), ad_gr_repeat(b, ad_gr_json_char(b), 0, AD_GR_INF));
    ad_gr_chars_deinit(&away);
    return ad_gr_alt(b, x, other);
}

ad_gx ad_gr_json_key_but(ad_gr_builder *b, ad_str *names, size_t n)
{
    if (!n) return any_string(b);
    qsort(names, n, sizeof *names, by_bytes);
    return ad_gr_json_string(b, apart_from(b, names, n, 0, 0));
}

/* ---- whole numbers between bounds, by their digits ---- */

enum { MAX_INTEGER_DIGITS = 18, MAX_FRACTION_DIGITS = 16 };
static const uint64_t MAX_INTEGER = 999999999999999999u, MAX_WHOLE = 9999999999999999u; /* of integers; before a point */

static ad_gx digits(ad_gr_builder *b, char lo, char hi, uint32_t min, uint32_t max)
{
    ad_gr_chars c = {0};
    ad_gr_chars_add(&c, (unsigned char)lo, (unsigned char)hi);
    ad_gx x = lo <= hi ? ad_gr_class(b, &c) : AD_GX_NONE;
    ad_gr_chars_deinit(&c);
    return ad_gr_repeat(b, x, min, max);
}

/* n digits from lo[n] to hi[n]; a bound that is NULL was left behind by a digit before. */
static ad_gx equally_long(ad_gr_builder *b, const char *lo, const char *hi, uint32_t n)
{
    if (!n || (!lo && !hi)) return digits(b, '0', '9', n, n);
    char from = lo ? *lo : '0', to = hi ? *hi : '9';
    ad_gx first = digits(b, from, from, 1, 1), last = digits(b, to, to, 1, 1);
    if (lo && hi && from == to) return ad_gr_seq(b, first, equally_long(b, lo + 1, hi + 1, n - 1));
    ad_gx x = AD_GX_NONE;
    if (lo) x = ad_gr_seq(b, first, equally_long(b, lo + 1, NULL, n - 1));
    x = ad_gr_alt(b, x, ad_gr_seq(b, digits(b, (char)(from + (lo != NULL)), (char)(to - (hi != NULL)), 1, 1), digits(b, '0', '9', n - 1, n - 1)));
    return hi ? ad_gr_alt(b, x, ad_gr_seq(b, last, equally_long(b, NULL, hi + 1, n - 1))) : x;
}

/* Decimal numbers without sign and leading zeros from lo to hi. */
static ad_gx between(ad_gr_builder *b, uint64_t lo, uint64_t hi)
{
    ad_gx x = lo == 0 ? ad_gr_lit(b, "0") : AD_GX_NONE;
    uint64_t least = 1, most = 9;
    uint32_t all_from = 0, all_to = 0; /* lengths of which every number is inside: one after the other */
    for (uint32_t n = 1; n <= MAX_INTEGER_DIGITS; n++, least *= 10, most = most * 10 + 9) {
        char from[24], to[24];
        uint64_t a = lo > least ? lo : least, z = hi < most ? hi : most;
        snprintf(from, sizeof from, "%llu", (unsigned long long)a);
        snprintf(to, sizeof to, "%llu", (unsigned long long)z);
        if (a == least && z == most) all_from = all_from ? all_from : n, all_to = n;
        else if (a <= z) x = ad_gr_alt(b, x, equally_long(b, from, to, n));
    }
    if (!all_from) return x;
    return ad_gr_alt(b, x, ad_gr_seq(b, digits(b, '1', '9', 1, 1), digits(b, '0', '9', all_from - 1, all_to - 1)));
}

/* The least integer not below d (or above it, when open), within what we write. */
static int64_t integer_above(double d, bool open)
{
    double limit = (double)MAX_INTEGER;
    if (d < -limit) return -(int64_t)MAX_INTEGER;
    if (d > limit) return (int64_t)MAX_INTEGER + 1;
    int64_t i = (int64_t)d;
    if ((double)i < d || (open && (double)i == d)) i++;
    return i < -(int64_t)MAX_INTEGER ? -(int64_t)MAX_INTEGER : i;
}

ad_gx ad_gr_json_integer(ad_gr_builder *b, const ad_gr_bounds *r)
{
    int64_t lo = r->has_lo ? integer_above(r->lo, r->lo_open) : -(int64_t)MAX_INTEGER;
    int64_t hi = r->has_hi ? -integer_above(-r->hi, r->hi_open) : (int64_t)MAX_INTEGER;
    if (hi > (int64_t)MAX_INTEGER) hi = (int64_t)MAX_INTEGER;
    ad_gx x = AD_GX_NONE;
    if (!r->has_lo && !r->has_hi) return pattern(b, INTEGER);
    if (lo > hi) return x;
    if (hi >= 0) x = between(b, lo > 0 ? (uint64_t)lo : 0, (uint64_t)hi);
    if (lo < 0) x = ad_gr_alt(b, x, ad_gr_seq(b, ad_gr_lit(b, "-"), between(b, hi < 0 ? (uint64_t)-hi : 1, (uint64_t)-lo)));
    return x;
}

/* ---- numbers with a fraction between bounds ---- */

/* A bound without sign. */
typedef struct {
    uint64_t whole;
    char digits[MAX_FRACTION_DIGITS + 1]; /* of the fraction, without zeros at the end */
    int n;
    bool open, none; /* none: no bound */
} magnitude;

static magnitude magnitude_of(ad_gr_builder *b, double d, bool open)
{
    char text[64];
    magnitude m = {.open = open};
    d = d < 0 ? -d : d;
    if (!(d < 1e15)) return ad_gr_fail(b, AD_EUNSUPPORTED, "a bound of a number is not below 1e15"), m;
    for (m.n = 0; m.n < MAX_FRACTION_DIGITS; m.n++) {
        snprintf(text, sizeof text, "%.*f", m.n, d);
        if (strtod(text, NULL) == d) break;
    }
    if (m.n == MAX_FRACTION_DIGITS) return ad_gr_fail(b, AD_EUNSUPPORTED, "a bound of a number has more than %d digits behind its point", MAX_FRACTION_DIGITS - 1), m;
    m.whole = strtoull(text, NULL, 10);
    if (m.n) memcpy(m.digits, strchr(text, '.') + 1, (size_t)m.n);
    return m;
}

/* The digits of a fraction from place i on; lo or hi is NULL once an earlier digit decided. `begun`: may end here. */
static ad_gx fraction(ad_gr_builder *b, const magnitude *lo, const magnitude *hi, int i, bool begun)
{
    ad_gx x = AD_GX_NONE;
    bool above = !lo || (i >= lo->n && !lo->open), below = !hi || i < hi->n || !hi->open;
    if (!lo && !hi) return digits(b, '0', '9', begun ? 0 : 1, (uint32_t)(MAX_FRACTION_DIGITS - i));
    if (begun && above && below) x = AD_GX_EMPTY;
    if (i == MAX_FRACTION_DIGITS) return x;
    char from = lo && i < lo->n ? lo->digits[i] : '0', to = !hi ? '9' : i < hi->n ? hi->digits[i] : '0';
    if (lo && hi && from == to) return ad_gr_alt(b, x, ad_gr_seq(b, digits(b, from, from, 1, 1), fraction(b, lo, hi, i + 1, true)));
    if (lo) x = ad_gr_alt(b, x, ad_gr_seq(b, digits(b, from, from, 1, 1), fraction(b, lo, NULL, i + 1, true)));
    if (from + (lo != NULL) <= to - (hi != NULL))
        x = ad_gr_alt(b, x, ad_gr_seq(b, digits(b, (char)(from + (lo != NULL)), (char)(to - (hi != NULL)), 1, 1), fraction(b, NULL, NULL, i + 1, true)));
    return hi ? ad_gr_alt(b, x, ad_gr_seq(b, digits(b, to, to, 1, 1), fraction(b, NULL, hi, i + 1, true))) : x;
}

/* Nothing, or a point and digits, behind a whole part that equals the bounds' that are given. */
static ad_gx point(ad_gr_builder *b, const magnitude *lo, const magnitude *hi)
{
    bool bare = (!lo || (!lo->n && !lo->open)) && (!hi || hi->n || !hi->open);
    ad_gx x = ad_gr_seq(b, ad_gr_lit(b, "."), fraction(b, lo, hi, 0, false));
    return ad_gr_alt(b, bare ? AD_GX_EMPTY : AD_GX_NONE, x);
}

/* lo <= hi. */
static ad_gx magnitudes(ad_gr_builder *b, const magnitude *lo, const magnitude *hi)
{
    uint64_t top = hi->none ? MAX_WHOLE + 1 : hi->whole;
    if (lo->whole == top) return ad_gr_seq(b, between(b, top, top), point(b, lo, hi));
    ad_gx x = ad_gr_seq(b, between(b, lo->whole, lo->whole), point(b, lo, NULL));
    if (lo->whole + 1 < top) x = ad_gr_alt(b, x, ad_gr_seq(b, between(b, lo->whole + 1, top - 1), point(b, NULL, NULL)));
    return hi->none ? x : ad_gr_alt(b, x, ad_gr_seq(b, between(b, top, top), point(b, NULL, hi)));
}

ad_gx ad_gr_json_number(ad_gr_builder *b, const ad_gr_bounds *r)
{
    if (!r->has_lo && !r->has_hi) return pattern(b, NUMBER);
    if (r->has_lo && r->has_hi && (r->lo > r->hi || (r->lo == r->hi && (r->lo_open || r->hi_open)))) return AD_GX_NONE;
    magnitude lo = {.none = true}, hi = {.none = true}, zero = {0}, above_zero = {.open = true};
    if (r->has_lo) lo = magnitude_of(b, r->lo, r->lo_open);
    if (r->has_hi) hi = magnitude_of(b, r->hi, r->hi_open);
    ad_gx x = AD_GX_NONE;
    if (b->st != AD_OK) return x;
    bool reaches_up = !r->has_hi || r->hi > 0 || (r->hi == 0 && !r->hi_open), reaches_down = !r->has_lo || r->lo < 0;
    if (reaches_up) x = magnitudes(b, r->has_lo && r->lo >= 0 ? &lo : &zero, &hi);
    if (reaches_down) x = ad_gr_alt(b, x, ad_gr_seq(b, ad_gr_lit(b, "-"), magnitudes(b, r->has_hi && r->hi < 0 ? &hi : &above_zero, &lo)));
    return x;
}
