/* SPDX-License-Identifier: MIT */
/* JSON schemas (2020-12, with the older items: [...], additionalItems and definitions).
 *
 * Understood: type (also lists), properties, required, additionalProperties, items, prefixItems, minItems, maxItems, minProperties and
 * maxProperties (without properties), enum, const, anyOf, oneOf (as anyOf), allOf and $ref with siblings (by merging), $ref to a place in
 * the same document (also recursive), minLength, maxLength, pattern, format, minimum, maximum, exclusiveMinimum, exclusiveMaximum, true
 * and false. Properties come in the schema's order, others after them; without additionalProperties a schema with properties has no
 * others. Whatever else restricts a value is refused by name; annotations and unknown words are ignored. Every text that is made is
 * valid under the schema, but that branches of oneOf may overlap; the order, the blanks and the digits of numbers (json.h) are narrower
 * than the schema says. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/grammar/json.h"
#include "core/grammar/regex.h"

enum { MAX_STEPS = 20000 }; /* schemas looked at, merged ones counted again: what branches of branches may multiply to */

typedef struct {
    const json_t *schema; /* where it was defined */
    uint32_t rule;
} known_schema;

typedef struct {
    ad_gr_builder *b;
    const json_t *root;
    known_schema *known;  /* targets of $ref */
    size_t n_known, known_cap;
    json_t *merged;       /* array that owns what was made on the way */
    int steps, nesting;
} compiler;

static ad_gx schema_expr(compiler *c, const json_t *s);

static ad_gx unsupported(compiler *c, const char *keyword, const char *why)
{
    return ad_gr_fail(c->b, AD_EUNSUPPORTED, "JSON schema: `%s` is not supported%s%s", keyword, *why ? " " : "", why);
}

static ad_gx malformed(compiler *c, const char *keyword, const char *what)
{
    return ad_gr_fail(c->b, AD_EINVAL, "JSON schema: `%s` %s", keyword, what);
}

/* A new value that lives as long as the compiler. */
static json_t *own(compiler *c, json_t *v)
{
    if (!v || json_array_append_new(c->merged, v) != 0) ad_gr_fail(c->b, AD_ENOMEM, "JSON schema: out of memory");
    return c->b->st == AD_OK ? v : c->merged;
}

/* ---- types ---- */

enum { T_NULL = 1, T_BOOLEAN = 2, T_OBJECT = 4, T_ARRAY = 8, T_STRING = 16, T_INTEGER = 32, T_NUMBER = 64, T_ALL = 127 };

static int type_bit(compiler *c, const json_t *name)
{
    static const char *const names[] = {"null", "boolean", "object", "array", "string", "integer", "number"};
    for (int i = 0; i < 7; i++)
        if (json_is_string(name) && !strcmp(json_string_value(name), names[i])) return 1 << i;
    malformed(c, "type", "is none of null, boolean, object, array, string, integer and number");
    return 0;
}

/* As the schema says; T_ALL when it does not. */
static int types_of(compiler *c, const json_t *s)
{
    const json_t *type = json_object_get(s, "type");
    int bits = 0;
    if (!type) return T_ALL;
    if (!json_is_array(type)) return type_bit(c, type);
    for (size_t i = 0; i < json_array_size(type); i++) bits |= type_bit(c, json_array_get(type, i));
    if (!json_array_size(type)) malformed(c, "type", "is an empty list");
    return bits;
}

static bool has_any(const json_t *s, const char *const *keys)
{
    for (; *keys; keys++)
        if (json_object_get(s, *keys)) return true;
    return false;
}

static const char *const OBJECT_KEYS[] = {"properties", "required", "additionalProperties", "minProperties", "maxProperties", NULL};
static const char *const ARRAY_KEYS[] = {"items", "prefixItems", "additionalItems", "minItems", "maxItems", NULL};
static const char *const STRING_KEYS[] = {"minLength", "maxLength", "pattern", NULL};
static const char *const NUMBER_KEYS[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", NULL};

/* A value with which a keyword restricts nothing. */
static bool says_nothing(const char *key, const json_t *v)
{
    if (!strcmp(key, "uniqueItems")) return json_is_false(v);
    if (!strncmp(key, "unevaluated", 11)) return json_is_true(v);
    bool negates = !strcmp(key, "not") || !strcmp(key, "if") || !strcmp(key, "contains");
    return json_is_object(v) && !json_object_size(v) && !negates;
}

static void refuse(compiler *c, const json_t *s, int types)
{
    static const struct { int types; const char *key; } no[] = {
        {T_ALL, "not"}, {T_ALL, "if"}, {T_ALL, "$dynamicRef"}, {T_ALL, "$recursiveRef"}, {T_ALL, "dependencies"},
        {T_OBJECT, "patternProperties"}, {T_OBJECT, "propertyNames"}, {T_OBJECT, "dependentRequired"}, {T_OBJECT, "dependentSchemas"},
        {T_OBJECT, "unevaluatedProperties"},
        {T_ARRAY, "contains"}, {T_ARRAY, "uniqueItems"}, {T_ARRAY, "unevaluatedItems"},
        {T_INTEGER | T_NUMBER, "multipleOf"},
    };
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
        const json_t *v = json_object_get(s, no[i].key);
        if (v && types & no[i].types && !says_nothing(no[i].key, v)) unsupported(c, no[i].key, "");
    }
}

/* ---- counts ---- */

static uint32_t count_of(compiler *c, const json_t *s, const char *key, uint32_t otherwise)
{
    const json_t *v = json_object_get(s, key);
    if (!v) return otherwise;
    double d = json_number_value(v);
    if (!json_is_number(v) || !(d >= 0) || d != (double)(int64_t)(d < 1e15 ? d : 0)) return malformed(c, key, "is not a whole number from 0 on");
    return d < INT32_MAX ? (uint32_t)d : INT32_MAX - 1;
}

/* ---- strings ---- */

static const struct { const char *name, *pattern; } FORMATS[] = {
#define YEAR "(?:[1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])"
#define LEAP "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
#define DATE "(?:" YEAR "-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)|02-(?:0[1-9]|1[0-9]|2[0-8]))|" LEAP "-02-29)"
#define TIME "(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
#define LABEL "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
#define HOST LABEL "(?:\\." LABEL "){0,8}"
#define OCTET "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
#define HEX4 "[0-9a-fA-F]{1,4}"
#define COUNT "[0-9]{1,9}"
#define HMS "(?:" COUNT "H(?:" COUNT "M(?:" COUNT "S)?)?|" COUNT "M(?:" COUNT "S)?|" COUNT "S)"
#define URI_CHARS "A-Za-z0-9._~!$&'()*+,;=:@-"
    {"date", DATE},
    {"time", TIME},
    {"date-time", DATE "T" TIME},
    {"duration", "P(?:" COUNT "W|(?:" COUNT "Y(?:" COUNT "M(?:" COUNT "D)?)?|" COUNT "M(?:" COUNT "D)?|" COUNT "D)(?:T" HMS ")?|T" HMS ")"},
    {"uuid", "[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}"},
    {"email", "[A-Za-z0-9_+-]{1,32}(?:\\.[A-Za-z0-9_+-]{1,32}){0,3}@" LABEL "(?:\\." LABEL "){1,4}"},
    {"hostname", HOST},
    {"ipv4", OCTET "(?:\\." OCTET "){3}"},
    {"ipv6", "(?:" HEX4 ":){7}" HEX4 "|(?:" HEX4 ":){1,6}:" HEX4 "|::(?:" HEX4 ")?"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]{0,15}://" HOST "(?::[0-9]{1,5})?(?:/[" URI_CHARS "]*)*(?:\\?[/?" URI_CHARS "]*)?(?:#[/?" URI_CHARS "]*)?"},
};

static const char *const UNSERVED_FORMATS[] = {"idn-email", "idn-hostname", "uri-reference", "iri", "iri-reference", "uri-template",
                                               "json-pointer", "relative-json-pointer", "regex"};

/* Content that matches and has min to max characters. */
static ad_gx limited(compiler *c, ad_gr_match m, uint32_t min, uint32_t max, const char *keyword)
{
    if (m.min >= min && m.max <= max) return m.x;
    if (!m.is_repeat) return unsupported(c, keyword, "together with a minLength or maxLength that it does not keep by itself");
    return ad_gr_repeat(c->b, m.unit, m.unit_min > min ? m.unit_min : min, m.unit_max < max ? m.unit_max : max);
}

static ad_gx format_content(compiler *c, const char *name, uint32_t min, uint32_t max)
{
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++) {
        ad_str pattern = {FORMATS[i].pattern, strlen(FORMATS[i].pattern)};
        if (!strcmp(name, FORMATS[i].name)) return limited(c, ad_gr_regex_of(c->b, pattern, ad_gr_json_class, false), min, max, "format");
    }
    return ad_gr_fail(c->b, AD_EUNSUPPORTED, "JSON schema: format \"%.60s\" is not supported", name);
}

/* Formats outside the specification are annotations. */
static bool format_counts(const char *name)
{
    for (size_t i = 0; i < sizeof FORMATS / sizeof *FORMATS; i++)
        if (!strcmp(name, FORMATS[i].name)) return true;
    for (size_t i = 0; i < sizeof UNSERVED_FORMATS / sizeof *UNSERVED_FORMATS; i++)
        if (!strcmp(name, UNSERVED_FORMATS[i])) return true;
    return false;
}

/* The types to write: without "type", the one that the other keywords are about. */
static int wanted_types(compiler *c, const json_t *s)
{
    int types = types_of(c, s);
    if (json_object_get(s, "type")) return types;
    const json_t *format = json_object_get(s, "format");
    if (json_is_string(format) && format_counts(json_string_value(format))) return T_STRING;
    int hinted = (has_any(s, OBJECT_KEYS) ? T_OBJECT : 0) | (has_any(s, ARRAY_KEYS) ? T_ARRAY : 0) | (has_any(s, STRING_KEYS) ? T_STRING : 0) |
                 (has_any(s, NUMBER_KEYS) ? T_NUMBER : 0);
    return hinted ? hinted : T_ALL;
}

static ad_gx string_expr(compiler *c, const json_t *s)
{
    const json_t *pattern = json_object_get(s, "pattern"), *format = json_object_get(s, "format");
    uint32_t min = count_of(c, s, "minLength", 0), max = count_of(c, s, "maxLength", AD_GR_INF);
    if (pattern && !json_is_string(pattern)) return malformed(c, "pattern", "is not a string");
    if (format && !json_is_string(format)) return malformed(c, "format", "is not a string");
    bool formatted = format && format_counts(json_string_value(format));
    if (pattern && formatted) return unsupported(c, "pattern", "together with `format`");
    ad_gx content;
    if (pattern) {
        ad_gr_match m = ad_gr_regex_of(c->b, (ad_str){json_string_value(pattern), json_string_length(pattern)}, ad_gr_json_class, true);
        content = limited(c, m, min, max, "pattern");
    } else if (formatted) {
        content = format_content(c, json_string_value(format), min, max);
    } else {
        content = ad_gr_repeat(c->b, ad_gr_json_char(c->b), min, max);
    }
    return content == AD_GX_NONE ? content : ad_gr_json_string(c->b, content);
}

/* ---- numbers ---- */

static ad_gr_bounds bounds_of(compiler *c, const json_t *s)
{
    static const char *const keys[] = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"};
    ad_gr_bounds r = {0};
    for (int i = 0; i < 4; i++) {
        const json_t *v = json_object_get(s, keys[i]);
        double d = json_number_value(v);
        if (!v) continue;
        if (!json_is_number(v)) malformed(c, keys[i], "is not a number");
        bool open = i >= 2;
        if (i % 2 == 0 && (!r.has_lo || d > r.lo || (d == r.lo && open))) r.has_lo = true, r.lo = d, r.lo_open = open;
        if (i % 2 == 1 && (!r.has_hi || d < r.hi || (d == r.hi && open))) r.has_hi = true, r.hi = d, r.hi_open = open;
    }
    return r;
}

/* ---- objects ---- */

typedef struct {
    ad_str name;
    uint32_t pair;  /* rule: "name": value */
    bool required;
} property;

typedef struct {
    property *list;
    size_t n, cap;
    ad_gx others;   /* a pair of any other name; NONE: there are none */
} properties;

static bool is_required(const json_t *s, const char *name)
{
    const json_t *list = json_object_get(s, "required");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *one = json_array_get(list, i);
        if (json_is_string(one) && !strcmp(json_string_value(one), name)) return true;
    }
    return false;
}

static bool names_property(const json_t *props, const json_t *name)
{
    return json_object_get(props, json_string_value(name)) != NULL;
}

static void add_property(compiler *c, properties *p, const char *name, const json_t *schema, bool required)
{
    ad_gr_builder *b = c->b;
    json_t *key = own(c, json_string(name));
    ad_gx value = schema_expr(c, schema);
    if (ad_grow(&p->list, &p->cap, p->n + 1, sizeof *p->list) != AD_OK) ad_gr_fail(b, AD_ENOMEM, "JSON schema: out of memory");
    if (b->st != AD_OK || (value == AD_GX_NONE && !required)) return;
    uint32_t pair = ad_gr_rule_new(b, NULL, 0);
    ad_gr_rule_set(b, pair, ad_gr_seq(b, ad_gr_seq(b, ad_gr_json_literal(b, key), ad_gr_json_colon(b)), value));
    p->list[p->n++] = (property){{json_string_value(key), json_string_length(key)}, pair, required};
}

/* Those of the schema in its order, then those that are only required. */
static void collect_properties(compiler *c, const json_t *s, properties *p)
{
    const json_t *props = json_object_get(s, "properties"), *required = json_object_get(s, "required"), *others = json_object_get(s, "additionalProperties");
    if (props && !json_is_object(props)) malformed(c, "properties", "is not an object");
    if (required && !json_is_array(required)) malformed(c, "required", "is not a list of names");
    for (void *it = json_object_iter((json_t *)props); it && c->b->st == AD_OK; it = json_object_iter_next((json_t *)props, it))
        add_property(c, p, json_object_iter_key(it), json_object_iter_value(it), is_required(s, json_object_iter_key(it)));
    json_t *done = own(c, json_object()), *any = own(c, json_true());
    for (size_t i = 0; i < json_array_size(required) && c->b->st == AD_OK; i++) {
        const json_t *name = json_array_get(required, i);
        bool good = json_is_string(name) && strlen(json_string_value(name)) == json_string_length(name);
        if (!good) malformed(c, "required", "is not a list of names");
        if (!good || names_property(props, name) || names_property(done, name)) continue;
        json_object_set_new(done, json_string_value(name), json_true());
        add_property(c, p, json_string_value(name), others ? others : any, true);
    }
}

static ad_gx other_pairs(compiler *c, const json_t *s, const properties *p)
{
    const json_t *props = json_object_get(s, "properties"), *others = json_object_get(s, "additionalProperties");
    if (json_is_false(others) || (!others && json_object_size(props))) return AD_GX_NONE;
    size_t n = p->n + json_object_size(props);
    ad_str *names = ad_calloc(n, sizeof *names);
    if (!names) return ad_gr_fail(c->b, AD_ENOMEM, "JSON schema: out of memory");
    n = 0;
    for (size_t i = 0; i < p->n; i++) names[n++] = p->list[i].name;
    for (void *it = json_object_iter((json_t *)props); it; it = json_object_iter_next((json_t *)props, it)) /* those that may not be there, too */
        names[n++] = (ad_str){json_object_iter_key(it), strlen(json_object_iter_key(it))};
    ad_gx key = ad_gr_json_key_but(c->b, names, n), value = others ? schema_expr(c, others) : ad_gr_json_value(c->b);
    free(names);
    uint32_t rule = ad_gr_rule_new(c->b, NULL, 0);
    ad_gr_rule_set(c->b, rule, ad_gr_seq(c->b, ad_gr_seq(c->b, key, ad_gr_json_colon(c->b)), value));
    return value == AD_GX_NONE ? AD_GX_NONE : ad_gr_ref(c->b, rule);
}

/* From property i on, behind another. */
static ad_gx tail_body(ad_gr_builder *b, const properties *p, const uint32_t *tails, size_t i)
{
    ad_gx comma = ad_gr_json_comma(b);
    if (i == p->n) return ad_gr_repeat(b, ad_gr_seq(b, comma, p->others), 0, AD_GR_INF);
    ad_gx pair = ad_gr_seq(b, comma, ad_gr_ref(b, p->list[i].pair));
    return ad_gr_seq(b, ad_gr_repeat(b, pair, p->list[i].required, 1), ad_gr_ref(b, tails[i + 1]));
}

/* All of it: whichever property comes first has no comma, and none that is required before it. */
static ad_gx members(ad_gr_builder *b, const properties *p, const uint32_t *tails)
{
    ad_gx x = AD_GX_NONE;
    for (size_t i = 0; i < p->n; i++) {
        x = ad_gr_alt(b, x, ad_gr_seq(b, ad_gr_ref(b, p->list[i].pair), ad_gr_ref(b, tails[i + 1])));
        if (p->list[i].required) return x;
    }
    return ad_gr_alt(b, x, ad_gr_repeat(b, ad_gr_seq(b, p->others, ad_gr_ref(b, tails[p->n])), 0, 1));
}

static ad_gx object_of(compiler *c, const properties *p)
{
    ad_gr_builder *b = c->b;
    uint32_t *tails = ad_calloc(p->n + 1, sizeof *tails);
    if (!tails) return ad_gr_fail(b, AD_ENOMEM, "JSON schema: out of memory");
    for (size_t i = 0; i <= p->n; i++) tails[i] = ad_gr_rule_new(b, NULL, 0);
    for (size_t i = 0; i <= p->n; i++) ad_gr_rule_set(b, tails[i], tail_body(b, p, tails, i));
    ad_gx x = ad_gr_seq(b, ad_gr_lit(b, "{"), members(b, p, tails));
    free(tails);
    return ad_gr_seq(b, x, ad_gr_lit(b, "}"));
}

/* Without properties: so many pairs of any name. Names may repeat, so more than one cannot be promised. */
static ad_gx counted_object(compiler *c, ad_gx pair, uint32_t min, uint32_t max)
{
    ad_gr_builder *b = c->b;
    if (min > 1) return unsupported(c, "minProperties", "above 1 where the names are free");
    ad_gx more = ad_gr_repeat(b, ad_gr_seq(b, ad_gr_json_comma(b), pair), 0, max == AD_GR_INF ? max : max - (max > 0));
    ad_gx x = max ? ad_gr_repeat(b, ad_gr_seq(b, pair, more), min, 1) : min ? AD_GX_NONE : AD_GX_EMPTY;
    return ad_gr_seq(b, ad_gr_seq(b, ad_gr_lit(b, "{"), x), ad_gr_lit(b, "}"));
}

static ad_gx object_expr(compiler *c, const json_t *s)
{
    properties p = {0};
    uint32_t min = count_of(c, s, "minProperties", 0), max = count_of(c, s, "maxProperties", AD_GR_INF);
    size_t n_required = 0;
    ad_gx x = AD_GX_EMPTY;
    collect_properties(c, s, &p);
    p.others = other_pairs(c, s, &p);
    for (size_t i = 0; i < p.n; i++) n_required += p.list[i].required;
    bool keeps_min = min <= n_required, keeps_max = p.others == AD_GX_NONE ? p.n <= max : max == AD_GR_INF;
    if (c->b->st == AD_OK) {
        if (!p.n && (!keeps_min || !keeps_max)) x = p.others != AD_GX_NONE ? counted_object(c, p.others, min, max) : AD_GX_NONE;
        else if (!keeps_min || !keeps_max) unsupported(c, keeps_min ? "maxProperties" : "minProperties", "together with `properties`");
        else x = object_of(c, &p);
    }
    free(p.list);
    return x;
}

/* ---- arrays ---- */

static ad_gx array_expr(compiler *c, const json_t *s)
{
    ad_gr_builder *b = c->b;
    const json_t *items = json_object_get(s, "items"), *first = json_object_get(s, "prefixItems");
    uint32_t min = count_of(c, s, "minItems", 0), max = count_of(c, s, "maxItems", AD_GR_INF);
    if (json_is_array(items)) first = items, items = json_object_get(s, "additionalItems");
    if (first && !json_is_array(first)) return malformed(c, "prefixItems", "is not a list");
    size_t n_first = json_array_size(first);
    ad_gx comma = ad_gr_json_comma(b), item = items ? schema_expr(c, items) : ad_gr_json_value(b), rest;
    if (item == AD_GX_NONE && max > n_first) max = (uint32_t)n_first;
    if (min > max) return AD_GX_NONE;
    uint32_t from = n_first < max ? (uint32_t)n_first : max;
    rest = ad_gr_repeat(b, ad_gr_seq(b, comma, item), min > from ? min - from : 0, max == AD_GR_INF ? max : max - from);
    if (!from && max) {
        ad_gx others = ad_gr_repeat(b, ad_gr_seq(b, comma, item), min ? min - 1 : 0, max == AD_GR_INF ? max : max - 1);
        rest = ad_gr_repeat(b, ad_gr_seq(b, item, others), min > 0, 1);
    }
    for (uint32_t i = from; i-- > 0;) { /* from the last one on: each may be missing only with all behind it */
        ad_gx one = ad_gr_seq(b, i ? comma : AD_GX_EMPTY, schema_expr(c, json_array_get(first, i)));
        rest = ad_gr_repeat(b, ad_gr_seq(b, one, rest), i < min, 1);
    }
    return ad_gr_seq(b, ad_gr_seq(b, ad_gr_lit(b, "["), rest), ad_gr_lit(b, "]"));
}

/* ---- values by name ---- */

static int type_of_value(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT: return T_OBJECT;
    case JSON_ARRAY: return T_ARRAY;
    case JSON_STRING: return T_STRING;
    case JSON_INTEGER: return T_INTEGER | T_NUMBER;
    case JSON_REAL: return json_real_value(v) == trunc(json_real_value(v)) ? T_INTEGER | T_NUMBER : T_NUMBER;
    case JSON_NULL: return T_NULL;
    default: return T_BOOLEAN;
    }
}

static ad_gx literals(compiler *c, const json_t *list, int types)
{
    ad_gr_builder *b = c->b;
    size_t n = json_array_size(list), n_texts = 0;
    ad_str *texts = ad_calloc(n, sizeof *texts);
    ad_gx x = AD_GX_NONE;
    if (!texts) return ad_gr_fail(b, AD_ENOMEM, "JSON schema: out of memory");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!(type_of_value(v) & types)) continue;
        if (json_is_object(v) || json_is_array(v)) x = ad_gr_alt(b, x, ad_gr_json_literal(b, v));
        else texts[n_texts++].ptr = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
    }
    for (size_t i = 0; i < n_texts; i++)
        if (texts[i].ptr) texts[i].len = strlen(texts[i].ptr);
        else ad_gr_fail(b, AD_ENOMEM, "JSON schema: out of memory");
    if (b->st == AD_OK) x = ad_gr_alt(b, x, ad_gr_choice(b, texts, n_texts));
    for (size_t i = 0; i < n_texts; i++) free((char *)texts[i].ptr);
    free(texts);
    return x;
}

/* enum and const: the other keywords would have to be checked value by value. */
static ad_gx listed_expr(compiler *c, const json_t *s, const json_t *list)
{
    const char *const *const more[] = {OBJECT_KEYS, ARRAY_KEYS, STRING_KEYS, NUMBER_KEYS};
    if (!json_is_array(list)) return malformed(c, "enum", "is not a list");
    for (int i = 0; i < 4; i++)
        for (const char *const *key = more[i]; *key; key++)
            if (json_object_get(s, *key)) return unsupported(c, *key, "together with `enum` or `const`");
    return literals(c, list, types_of(c, s));
}

/* ---- one schema without references and branches ---- */

static ad_gx plain_expr(compiler *c, const json_t *s)
{
    ad_gr_builder *b = c->b;
    const json_t *one = json_object_get(s, "const"), *list = json_object_get(s, "enum");
    int types = wanted_types(c, s);
    refuse(c, s, types);
    if (one) {
        if (list) return unsupported(c, "enum", "together with `const`");
        json_t *just = own(c, json_array());
        json_array_append(just, (json_t *)one);
        return listed_expr(c, s, just);
    }
    if (list) return listed_expr(c, s, list);
    if (types == T_ALL) return ad_gr_json_value(b);
    ad_gx x = AD_GX_NONE;
    if (types & T_NULL) x = ad_gr_alt(b, x, ad_gr_lit(b, "null"));
    if (types & T_BOOLEAN) x = ad_gr_alt(b, x, ad_gr_alt(b, ad_gr_lit(b, "true"), ad_gr_lit(b, "false")));
    ad_gr_bounds bounds = bounds_of(c, s);
    if (types & T_NUMBER) x = ad_gr_alt(b, x, ad_gr_json_number(b, &bounds));
    else if (types & T_INTEGER) x = ad_gr_alt(b, x, ad_gr_json_integer(b, &bounds));
    if (types & T_STRING) x = ad_gr_alt(b, x, string_expr(c, s));
    if (types & T_ARRAY) x = ad_gr_alt(b, x, array_expr(c, s));
    if (types & T_OBJECT) x = ad_gr_alt(b, x, object_expr(c, s));
    return x;
}

/* ---- merging ---- */

static void put(compiler *c, json_t *to, const char *key, json_t *v)
{
    if (json_object_set(to, key, v) != 0) ad_gr_fail(c->b, AD_ENOMEM, "JSON schema: out of memory");
}

static json_t *both(compiler *c, json_t *x, json_t *y)
{
    if (x == y || json_equal(x, y)) return x;
    json_t *list = own(c, json_array()), *s = own(c, json_object());
    json_array_append(list, x), json_array_append(list, y);
    json_object_set(s, "allOf", list);
    return s;
}

static json_t *type_names(compiler *c, int bits)
{
    static const char *const names[] = {"null", "boolean", "object", "array", "string", "integer", "number"};
    json_t *list = own(c, json_array());
    for (int i = 0; i < 7; i++)
        if (bits >> i & 1) json_array_append_new(list, json_string(names[i]));
    return list;
}

static void merge_types(compiler *c, json_t *to, const json_t *more)
{
    int x = types_of(c, to), y = types_of(c, more), bits = x & y;
    if ((x & T_NUMBER && y & T_INTEGER) || (y & T_NUMBER && x & T_INTEGER)) bits |= T_INTEGER;
    if (bits) put(c, to, "type", type_names(c, bits));
    else put(c, to, "enum", own(c, json_array())); /* nothing is both */
}

/* A property that only one side names is an additional one of the other. */
static void merge_properties(compiler *c, json_t *to, const json_t *more)
{
    json_t *mine = json_object_get(to, "properties"), *theirs = json_object_get(more, "properties"), *all = own(c, json_object());
    json_t *my_others = json_object_get(to, "additionalProperties"), *their_others = json_object_get(more, "additionalProperties");
    for (void *it = json_object_iter(mine); it; it = json_object_iter_next(mine, it)) {
        json_t *other = json_object_get(theirs, json_object_iter_key(it)), *v = json_object_iter_value(it);
        if (!other) other = their_others;
        json_object_set(all, json_object_iter_key(it), other ? both(c, v, other) : v);
    }
    for (void *it = json_object_iter(theirs); it; it = json_object_iter_next(theirs, it)) {
        json_t *v = json_object_iter_value(it);
        if (json_object_get(mine, json_object_iter_key(it))) continue;
        json_object_set(all, json_object_iter_key(it), my_others ? both(c, v, my_others) : v);
    }
    if (json_object_size(all)) put(c, to, "properties", all);
    if (their_others) put(c, to, "additionalProperties", my_others ? both(c, my_others, their_others) : their_others);
}

static json_t *joined(compiler *c, const json_t *x, const json_t *y)
{
    json_t *list = own(c, json_array());
    for (size_t i = 0; i < json_array_size(x); i++) json_array_append(list, json_array_get(x, i));
    for (size_t i = 0; i < json_array_size(y); i++) json_array_append(list, json_array_get(y, i));
    return list;
}

static json_t *in_both(compiler *c, const json_t *x, const json_t *y)
{
    json_t *list = own(c, json_array());
    for (size_t i = 0; i < json_array_size(x); i++)
        for (size_t k = 0; k < json_array_size(y); k++)
            if (json_equal(json_array_get(x, i), json_array_get(y, k))) {
                json_array_append(list, json_array_get(x, i));
                break;
            }
    return list;
}

static bool in(const char *key, const char *const *keys)
{
    for (; *keys; keys++)
        if (!strcmp(key, *keys)) return true;
    return false;
}

/* Words that say nothing about a value. */
static bool is_note(const char *key)
{
    static const char *const notes[] = {"title", "description", "default", "examples", "$comment", "$schema", "$id", "$defs", "definitions", "deprecated",
                                        "readOnly", "writeOnly", NULL};
    return in(key, notes) || !strncmp(key, "x-", 2);
}

static void merge_prefix(compiler *c, json_t *to, const json_t *more)
{
    json_t *x = json_object_get(to, "prefixItems"), *y = json_object_get(more, "prefixItems");
    if (json_array_size(x) != json_array_size(y)) unsupported(c, "prefixItems", "of two lengths in one `allOf`");
    json_t *list = own(c, json_array());
    for (size_t i = 0; i < json_array_size(x); i++) json_array_append(list, both(c, json_array_get(x, i), json_array_get(y, i)));
    put(c, to, "prefixItems", list);
}

/* One keyword that both sides have. */
static void merge_key(compiler *c, json_t *to, const char *key, json_t *v, const json_t *more)
{
    static const char *const larger[] = {"minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties", NULL};
    static const char *const smaller[] = {"maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties", NULL};
    static const char *const branches[] = {"anyOf", "oneOf", NULL};
    json_t *mine = json_object_get(to, key);
    if (json_equal(mine, v) || is_note(key)) return;
    if (in(key, larger)) put(c, to, key, json_number_value(mine) >= json_number_value(v) ? mine : v);
    else if (in(key, smaller)) put(c, to, key, json_number_value(mine) <= json_number_value(v) ? mine : v);
    else if (!strcmp(key, "required") || !strcmp(key, "allOf")) put(c, to, key, joined(c, mine, v));
    else if (!strcmp(key, "enum")) put(c, to, key, in_both(c, mine, v));
    else if (!strcmp(key, "items")) put(c, to, key, both(c, mine, v));
    else if (!strcmp(key, "prefixItems")) merge_prefix(c, to, more);
    else if (!strcmp(key, "const")) put(c, to, "enum", own(c, json_array())); /* two different constants */
    else if (in(key, branches) || !strcmp(key, "$ref")) { /* waits its turn */
        json_t *one = own(c, json_object()), *list = own(c, json_array());
        json_object_set(one, key, v);
        json_array_append(list, one);
        put(c, to, "allOf", joined(c, json_object_get(to, "allOf"), list));
    } else unsupported(c, key, "in two parts of one `allOf`");
}

/* y's items would begin within x's prefixItems. */
static bool counts_apart(const json_t *x, const json_t *y)
{
    return json_object_get(x, "prefixItems") && !json_object_get(y, "prefixItems") && json_object_get(y, "items");
}

/* to becomes what satisfies both. */
static void merge(compiler *c, json_t *to, const json_t *more)
{
    static const char *const apart[] = {"type", "properties", "additionalProperties", NULL};
    bool typed = json_object_get(to, "type") && json_object_get(more, "type");
    if (counts_apart(to, more) || counts_apart(more, to)) unsupported(c, "items", "and `prefixItems` in different parts of one `allOf`");
    merge_properties(c, to, more);
    if (typed) merge_types(c, to, more);
    for (void *it = json_object_iter((json_t *)more); it && c->b->st == AD_OK; it = json_object_iter_next((json_t *)more, it)) {
        const char *key = json_object_iter_key(it);
        if (in(key, apart) && (typed || strcmp(key, "type"))) continue;
        if (json_object_get(to, key)) merge_key(c, to, key, json_object_iter_value(it), more);
        else put(c, to, key, json_object_iter_value(it));
    }
}

/* `s` without `key`, and with what `more` says. NULL when nothing can be both. */
static const json_t *merged(compiler *c, const json_t *s, const char *key, const json_t *more)
{
    json_t *out = own(c, json_copy((json_t *)s));
    if (c->b->st != AD_OK || json_is_false(more)) return NULL;
    json_object_del(out, key);
    if (json_is_object(more)) merge(c, out, more);
    else if (!json_is_true(more)) malformed(c, key, "holds something that is no schema");
    return out;
}

/* ---- references ---- */

/* One step of a JSON pointer: ~0 and ~1 and %XX are undone into out[cap]. */
static bool unescape(const char *s, size_t n, char *out, size_t cap)
{
    size_t len = 0;
    for (size_t i = 0; i < n; i++) {
        unsigned value;
        char ch = s[i];
        if (ch == '%' && n - i > 2 && sscanf(s + i + 1, "%2x", &value) == 1) ch = (char)value, i += 2;
        if (ch == '~' && i + 1 < n && (s[i + 1] == '0' || s[i + 1] == '1')) ch = s[++i] == '0' ? '~' : '/';
        if (len + 1 >= cap) return false;
        out[len++] = ch;
    }
    out[len] = '\0';
    return true;
}

static const json_t *target_of(compiler *c, const json_t *ref)
{
    const char *s = json_string_value(ref);
    const json_t *at = c->root;
    char step[512];
    if (!s || (strcmp(s, "#") && strncmp(s, "#/", 2))) return unsupported(c, "$ref", "to anything but a place in the same schema (\"#/...\")"), NULL;
    for (s++; *s == '/' && at;) {
        size_t n = strcspn(++s, "/");
        if (!unescape(s, n, step, sizeof step)) return malformed(c, "$ref", "is too long"), NULL;
        at = json_is_array(at) ? json_array_get(at, strtoul(step, NULL, 10)) : json_object_get(at, step);
        s += n;
    }
    if (!json_is_object(at) && !json_is_boolean(at)) return ad_gr_fail(c->b, AD_EINVAL, "JSON schema: there is no schema at `$ref` \"%.200s\"", json_string_value(ref)), NULL;
    return at;
}

static ad_gx reference(compiler *c, const json_t *target)
{
    for (size_t i = 0; i < c->n_known; i++)
        if (c->known[i].schema == target) return ad_gr_ref(c->b, c->known[i].rule);
    uint32_t rule = ad_gr_rule_new(c->b, NULL, 0);
    if (ad_grow(&c->known, &c->known_cap, c->n_known + 1, sizeof *c->known) != AD_OK) return ad_gr_fail(c->b, AD_ENOMEM, "JSON schema: out of memory");
    c->known[c->n_known++] = (known_schema){target, rule};
    ad_gr_rule_set(c->b, rule, schema_expr(c, target));
    return ad_gr_ref(c->b, rule);
}

/* Whether nothing beside `$ref` restricts. */
static bool only_refers(const json_t *s)
{
    for (void *it = json_object_iter((json_t *)s); it; it = json_object_iter_next((json_t *)s, it))
        if (strcmp(json_object_iter_key(it), "$ref") && !is_note(json_object_iter_key(it))) return false;
    return true;
}

/* ---- branches ---- */

static ad_gx any_branch(compiler *c, const json_t *s, const char *key)
{
    const json_t *list = json_object_get(s, key);
    ad_gx x = AD_GX_NONE;
    if (!json_is_array(list) || !json_array_size(list)) return malformed(c, key, "is not a list of schemas");
    for (size_t i = 0; i < json_array_size(list) && c->b->st == AD_OK; i++) {
        const json_t *one = merged(c, s, key, json_array_get(list, i));
        if (one) x = ad_gr_alt(c->b, x, schema_expr(c, one));
    }
    return x;
}

static ad_gx all_branches(compiler *c, const json_t *s)
{
    const json_t *list = json_object_get(s, "allOf");
    if (!json_is_array(list)) return malformed(c, "allOf", "is not a list of schemas");
    json_t *rest = own(c, json_copy((json_t *)s)), *others = own(c, json_array());
    for (size_t i = 1; i < json_array_size(list); i++) json_array_append(others, json_array_get(list, i));
    if (c->b->st != AD_OK) return AD_GX_EMPTY;
    json_object_del(rest, "allOf");
    if (json_array_size(others)) json_object_set(rest, "allOf", others);
    const json_t *one = json_array_size(list) ? merged(c, rest, "", json_array_get(list, 0)) : rest;
    return one ? schema_expr(c, one) : AD_GX_NONE;
}

static ad_gx object_schema(compiler *c, const json_t *s)
{
    if (json_object_get(s, "anyOf")) return any_branch(c, s, "anyOf");
    if (json_object_get(s, "oneOf")) return any_branch(c, s, "oneOf");
    const json_t *ref = json_object_get(s, "$ref");
    if (ref) {
        const json_t *target = target_of(c, ref);
        if (!target) return AD_GX_EMPTY;
        if (only_refers(s)) return reference(c, target);
        const json_t *one = merged(c, s, "$ref", target);
        return one ? schema_expr(c, one) : AD_GX_NONE;
    }
    if (json_object_get(s, "allOf")) return all_branches(c, s);
    return plain_expr(c, s);
}

static ad_gx schema_expr(compiler *c, const json_t *s)
{
    if (c->b->st != AD_OK) return AD_GX_EMPTY;
    if (json_is_true(s)) return ad_gr_json_value(c->b);
    if (json_is_false(s)) return AD_GX_NONE;
    if (!json_is_object(s)) return ad_gr_fail(c->b, AD_EINVAL, "JSON schema: a schema must be an object, true or false");
    if (++c->steps > MAX_STEPS) return ad_gr_fail(c->b, AD_ELIMIT, "JSON schema: too large, or `$ref`s that never end");
    if (++c->nesting > AD_GR_MAX_NESTING) return ad_gr_fail(c->b, AD_ELIMIT, "JSON schema: nested too deeply, or `$ref`s that never end");
    ad_gx x = object_schema(c, s);
    c->nesting--;
    return x;
}

ad_gx ad_gr_schema(ad_gr_builder *b, const json_t *schema)
{
    compiler c = {.b = b, .root = schema, .merged = json_array()};
    if (!c.merged) return ad_gr_fail(b, AD_ENOMEM, "JSON schema: out of memory");
    ad_gx x = schema_expr(&c, schema);
    free(c.known);
    json_decref(c.merged);
    return x;
}

ad_gx ad_gr_schema_text(ad_gr_builder *b, ad_str text)
{
    json_error_t why;
    json_t *schema = json_loadb(text.ptr, text.len, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!schema) return ad_gr_fail(b, AD_EINVAL, "JSON schema: not valid JSON: line %d, column %d: %s", why.line, why.column, why.text);
    ad_gx x = ad_gr_schema(b, schema);
    json_decref(schema);
    return x;
}

ad_gx ad_gr_choices_text(ad_gr_builder *b, ad_str text)
{
    json_error_t why;
    json_t *list = json_loadb(text.ptr, text.len, JSON_ALLOW_NUL, &why);
    size_t n = json_array_size(list);
    ad_str *texts = ad_calloc(n, sizeof *texts);
    ad_gx x = AD_GX_NONE;
    if (!json_is_array(list) || !n) ad_gr_fail(b, AD_EINVAL, "choices: not a list of strings");
    if (!texts) ad_gr_fail(b, AD_ENOMEM, "choices: out of memory");
    for (size_t i = 0; i < n && b->st == AD_OK; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_string(v)) ad_gr_fail(b, AD_EINVAL, "choices: entry %zu is not a string", i);
        else texts[i] = (ad_str){json_string_value(v), json_string_length(v)};
    }
    if (b->st == AD_OK) x = ad_gr_choice(b, texts, n);
    free(texts);
    json_decref(list);
    return x;
}
