/* SPDX-License-Identifier: MIT */
/* Values as text: str() and repr() as Python writes them, JSON as its json.dumps does; and JSON to values. Every byte of a
 * string keeps whether it came from outside. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

/* ---- building ---- */

static void reserve(jj *j, jj_build *b, size_t more)
{
    size_t want = b->len + more;
    if (want <= b->cap) return;
    size_t cap = b->cap;
    b->p = jj_grow(j, b->p, b->len, &cap, want < 64 ? 64 : want, 1);
    if (b->mask) {
        uint8_t *mask = jj_alloc(j, cap, 1);
        memcpy(mask, b->mask, b->len);
        b->mask = mask;
    }
    b->cap = cap;
}

static void need_mask(jj *j, jj_build *b)
{
    if (b->mask) return;
    b->mask = jj_alloc(j, b->cap, 1);
    memset(b->mask, b->untrusted, b->len);
}

void jj_add(jj *j, jj_build *b, const char *p, size_t len, bool untrusted)
{
    if (!len) return;
    reserve(j, b, len);
    if (!b->len) b->untrusted = untrusted, b->mask = NULL;
    else if (b->untrusted != untrusted) need_mask(j, b);
    memcpy(b->p + b->len, p, len);
    if (b->mask) memset(b->mask + b->len, untrusted, len);
    b->len += len;
}

void jj_adds(jj *j, jj_build *b, const char *s)
{
    jj_add(j, b, s, strlen(s), false);
}

void jj_add_part(jj *j, jj_build *b, const jj_str *s, size_t from, size_t to)
{
    if (!s->mask) {
        jj_add(j, b, s->p + from, to - from, s->untrusted);
        return;
    }
    for (size_t i = from, end; i < to; i = end) {
        for (end = i + 1; end < to && s->mask[end] == s->mask[i]; end++) {}
        jj_add(j, b, s->p + i, end - i, s->mask[i]);
    }
}

void jj_add_str(jj *j, jj_build *b, const jj_str *s)
{
    jj_add_part(j, b, s, 0, s->len);
}

jj_val jj_built(jj *j, const jj_build *b)
{
    jj_str *s = jj_alloc(j, 1, sizeof *s);
    *s = (jj_str){.p = b->p ? b->p : "", .len = b->len, .mask = b->mask, .untrusted = b->untrusted};
    return (jj_val){JJ_STR, {.s = s}};
}

bool jj_untrusted_at(const jj_str *s, size_t i)
{
    return s->mask ? s->mask[i] : s->untrusted;
}

/* ---- numbers ---- */

/* The shortest digits that read back as the same number, in Python's form. */
size_t jj_float_repr(double f, char dst[32])
{
    char digits[32];
    int precision = 0;
    if (isnan(f)) return (size_t)sprintf(dst, "nan");
    if (isinf(f)) return (size_t)sprintf(dst, f < 0 ? "-inf" : "inf");
    do snprintf(digits, sizeof digits, "%.*e", precision, f);
    while (strtod(digits, NULL) != f && ++precision < 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        char *e = strchr(digits, 'e');
        return (size_t)snprintf(dst, 32, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+', abs(exponent));
    }
    int decimals = precision > exponent ? precision - exponent : 0;
    size_t n = (size_t)snprintf(dst, 32, "%.*f", decimals, f);
    if (!decimals) n += (size_t)sprintf(dst + n, ".0");
    return n;
}

/* ---- str and repr ---- */

static bool printable(uint32_t cp)
{
    switch (utf8proc_category((utf8proc_int32_t)cp)) {
    case UTF8PROC_CATEGORY_CN: case UTF8PROC_CATEGORY_CC: case UTF8PROC_CATEGORY_CF: case UTF8PROC_CATEGORY_CS: case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZL: case UTF8PROC_CATEGORY_ZP: return false;
    case UTF8PROC_CATEGORY_ZS: return cp == ' ';
    default: return true;
    }
}

static void add_repr_char(jj *j, jj_build *b, const jj_str *s, size_t i, size_t len, uint32_t cp, char quote)
{
    char escape[12] = {'\\', (char)cp, '\0'};
    if (cp == '\n' || cp == '\r' || cp == '\t') escape[1] = cp == '\n' ? 'n' : cp == '\r' ? 'r' : 't';
    else if (cp == '\\' || cp == (unsigned char)quote) escape[1] = (char)cp;
    else if (printable(cp)) {
        jj_add_part(j, b, s, i, i + len);
        return;
    } else sprintf(escape, cp < 0x100 ? "\\x%02x" : cp < 0x10000 ? "\\u%04x" : "\\U%08x", cp);
    jj_add(j, b, escape, strlen(escape), jj_untrusted_at(s, i));
}

static void add_repr_str(jj *j, jj_build *b, const jj_str *s)
{
    char quote = memchr(s->p, '\'', s->len) && !memchr(s->p, '"', s->len) ? '"' : '\'';
    jj_step(j, s->len / 16);
    jj_add(j, b, &quote, 1, false);
    for (size_t i = 0; i < s->len;) {
        int len;
        uint32_t cp = ad_utf8_get(s->p + i, &len);
        add_repr_char(j, b, s, i, (size_t)len, cp, quote);
        i += (size_t)len;
    }
    jj_add(j, b, &quote, 1, false);
}

static void add_repr_items(jj *j, jj_build *b, jj_val v)
{
    const jj_list *l = v.list;
    jj_adds(j, b, v.kind == JJ_LIST ? "[" : "(");
    for (size_t i = 0; i < l->n; i++) {
        if (i) jj_adds(j, b, ", ");
        jj_add_repr(j, b, l->items[i]);
    }
    jj_adds(j, b, v.kind == JJ_LIST ? "]" : l->n == 1 ? ",)" : ")");
}

static void add_repr_dict(jj *j, jj_build *b, const jj_dict *d)
{
    jj_adds(j, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) jj_adds(j, b, ", ");
        jj_add_repr(j, b, d->pairs[i].key);
        jj_adds(j, b, ": ");
        jj_add_repr(j, b, d->pairs[i].value);
    }
    jj_adds(j, b, "}");
}

void jj_add_repr(jj *j, jj_build *b, jj_val v)
{
    char number[32];
    jj_step(j, 1);
    jj_enter(j);
    switch (v.kind) {
    case JJ_UNDEFINED: case JJ_ABSENT: jj_adds(j, b, "Undefined"); break;
    case JJ_NONE: jj_adds(j, b, "None"); break;
    case JJ_BOOL: jj_adds(j, b, v.b ? "True" : "False"); break;
    case JJ_INT: jj_add(j, b, number, (size_t)sprintf(number, "%lld", (long long)v.i), false); break;
    case JJ_FLOAT: jj_add(j, b, number, jj_float_repr(v.f, number), false); break;
    case JJ_STR: add_repr_str(j, b, v.s); break;
    case JJ_LIST: case JJ_TUPLE: add_repr_items(j, b, v); break;
    case JJ_DICT: add_repr_dict(j, b, v.dict); break;
    default: jj_adds(j, b, "<"), jj_adds(j, b, jj_type_name(v)), jj_adds(j, b, ">"); break;
    }
    j->depth--;
}

void jj_add_val(jj *j, jj_build *b, jj_val v)
{
    if (v.kind == JJ_STR) jj_add_str(j, b, v.s);
    else if (v.kind != JJ_UNDEFINED && v.kind != JJ_ABSENT) jj_add_repr(j, b, v);
}

const jj_str *jj_to_str(jj *j, jj_val v)
{
    if (v.kind == JJ_STR) return v.s;
    jj_build b = {0};
    jj_add_val(j, &b, v);
    return jj_built(j, &b).s;
}

/* ---- values to JSON ---- */

static void add_json_escape(jj *j, jj_build *b, uint32_t cp, bool untrusted)
{
    static const char from[] = "\"\\\n\r\t\b\f", to[] = "\"\\nrtbf";
    const char *known = cp < 0x80 ? memchr(from, (int)cp, 7) : NULL;
    char text[16];
    if (known) sprintf(text, "\\%c", to[known - from]);
    else if (cp < 0x10000) sprintf(text, "\\u%04x", cp);
    else sprintf(text, "\\u%04x\\u%04x", 0xD800 + ((cp - 0x10000) >> 10), 0xDC00 + ((cp - 0x10000) & 0x3FF));
    jj_add(j, b, text, strlen(text), untrusted);
}

static void add_json_str(jj *j, jj_build *b, const jj_str *s, bool ascii)
{
    size_t done = 0;
    jj_step(j, s->len / 16);
    jj_adds(j, b, "\"");
    for (size_t i = 0; i < s->len;) {
        int len;
        uint32_t cp = ad_utf8_get(s->p + i, &len);
        if (cp < 0x20 || cp == '"' || cp == '\\' || (ascii && cp > 0x7E)) {
            jj_add_part(j, b, s, done, i);
            add_json_escape(j, b, cp, jj_untrusted_at(s, i));
            done = i + (size_t)len;
        }
        i += (size_t)len;
    }
    jj_add_part(j, b, s, done, s->len);
    jj_adds(j, b, "\"");
}

static void add_json_number(jj *j, jj_build *b, jj_val v)
{
    char text[32];
    if (v.kind == JJ_INT) sprintf(text, "%lld", (long long)v.i);
    else if (isnan(v.f)) strcpy(text, "NaN");
    else if (isinf(v.f)) strcpy(text, v.f < 0 ? "-Infinity" : "Infinity");
    else text[jj_float_repr(v.f, text)] = '\0';
    jj_adds(j, b, text);
}

static void add_json_key(jj *j, jj_build *b, jj_val key, const jj_json_style *style)
{
    if (key.kind == JJ_STR) {
        add_json_str(j, b, key.s, style->ascii);
        return;
    }
    if (key.kind != JJ_NONE && !jj_is_number(key)) jj_fail(j, AD_EINVAL, "a key of JSON is a string, not '%s'", jj_type_name(key));
    jj_adds(j, b, "\"");
    jj_add_json(j, b, key, style);
    jj_adds(j, b, "\"");
}

static void add_json_break(jj *j, jj_build *b, const jj_json_style *style, int level)
{
    if (!style->indent) return;
    jj_adds(j, b, "\n");
    for (int i = 0; i < level; i++) jj_add_str(j, b, style->indent);
}

static void add_json_comma(jj *j, jj_build *b, const jj_json_style *style)
{
    if (style->comma) jj_add_str(j, b, style->comma);
    else jj_adds(j, b, style->indent ? "," : ", ");
}

static void add_json(jj *j, jj_build *b, jj_val v, const jj_json_style *style, int level);

static void add_json_list(jj *j, jj_build *b, const jj_list *l, const jj_json_style *style, int level)
{
    jj_adds(j, b, "[");
    for (size_t i = 0; i < l->n; i++) {
        if (i) add_json_comma(j, b, style);
        add_json_break(j, b, style, level + 1);
        add_json(j, b, l->items[i], style, level + 1);
    }
    if (l->n) add_json_break(j, b, style, level);
    jj_adds(j, b, "]");
}

/* A copy of d, its pairs in the order of their keys (insertion sort: objects are small, and steps are counted). */
static const jj_dict *sorted(jj *j, const jj_dict *d)
{
    jj_dict *copy = jj_alloc(j, 1, sizeof *copy);
    copy->pairs = jj_alloc(j, d->n, sizeof *copy->pairs);
    for (; copy->n < d->n; copy->n++) {
        size_t i = copy->n;
        for (; i > 0 && jj_order(j, copy->pairs[i - 1].key, d->pairs[copy->n].key) > 0; i--) copy->pairs[i] = copy->pairs[i - 1];
        jj_step(j, copy->n - i + 1);
        copy->pairs[i] = d->pairs[copy->n];
    }
    return copy;
}

static void add_json_dict(jj *j, jj_build *b, const jj_dict *d, const jj_json_style *style, int level)
{
    if (style->sort_keys) d = sorted(j, d);
    jj_adds(j, b, "{");
    for (size_t i = 0; i < d->n; i++) {
        if (i) add_json_comma(j, b, style);
        add_json_break(j, b, style, level + 1);
        add_json_key(j, b, d->pairs[i].key, style);
        if (style->colon) jj_add_str(j, b, style->colon);
        else jj_adds(j, b, ": ");
        add_json(j, b, d->pairs[i].value, style, level + 1);
    }
    if (d->n) add_json_break(j, b, style, level);
    jj_adds(j, b, "}");
}

static void add_json(jj *j, jj_build *b, jj_val v, const jj_json_style *style, int level)
{
    jj_step(j, 1);
    jj_enter(j);
    switch (v.kind) {
    case JJ_NONE: jj_adds(j, b, "null"); break;
    case JJ_BOOL: jj_adds(j, b, v.b ? "true" : "false"); break;
    case JJ_INT: case JJ_FLOAT: add_json_number(j, b, v); break;
    case JJ_STR: add_json_str(j, b, v.s, style->ascii); break;
    case JJ_LIST: case JJ_TUPLE: add_json_list(j, b, v.list, style, level); break;
    case JJ_DICT: add_json_dict(j, b, v.dict, style, level); break;
    default: jj_fail(j, AD_EINVAL, "'%s' has no form in JSON", jj_type_name(v));
    }
    j->depth--;
}

void jj_add_json(jj *j, jj_build *b, jj_val v, const jj_json_style *style)
{
    add_json(j, b, v, style, 0);
}

/* ---- JSON to values ---- */

static jj_val copy_text(jj *j, const char *p, size_t len, bool untrusted)
{
    char *copy = jj_alloc(j, len, 1);
    memcpy(copy, p, len);
    return jj_text(j, copy, len, untrusted);
}

/* Whether a member is one of the words that its name makes trusted. */
static bool is_trusted_word(const ad_jinja_var *var, const char *key, const json_t *v)
{
    if (!var->trusted_key || !json_is_string(v) || strcmp(key, var->trusted_key) != 0) return false;
    ad_str word = {json_string_value(v), json_string_length(v)};
    for (const char *const *w = var->trusted_words; *w; w++)
        if (ad_str_eq(word, *w)) return true;
    return false;
}

static jj_val from_object(jj *j, const json_t *v, const ad_jinja_var *var)
{
    jj_val out = jj_dict_new(j, JJ_DICT);
    jj_dict *d = out.dict;
    d->cap = json_object_size(v);
    d->pairs = jj_alloc(j, d->cap, sizeof *d->pairs);
    for (void *it = json_object_iter((json_t *)v); it; it = json_object_iter_next((json_t *)v, it)) {
        const char *key = json_object_iter_key(it);
        const json_t *member = json_object_iter_value(it);
        jj_val name = copy_text(j, key, json_object_iter_key_len(it), var->untrusted);
        bool trusted = is_trusted_word(var, key, member);
        d->pairs[d->n++] = (jj_pair){name, trusted ? copy_text(j, json_string_value(member), json_string_length(member), false) : jj_from_json(j, member, var)};
    }
    return out;
}

static jj_val from_array(jj *j, const json_t *v, const ad_jinja_var *var)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    out.list->cap = json_array_size(v);
    out.list->items = jj_alloc(j, out.list->cap, sizeof *out.list->items);
    for (size_t i = 0; i < json_array_size(v); i++) out.list->items[out.list->n++] = jj_from_json(j, json_array_get(v, i), var);
    return out;
}

jj_val jj_from_json(jj *j, const json_t *v, const ad_jinja_var *var)
{
    jj_val out = jj_none();
    jj_enter(j);
    if (json_is_object(v)) out = from_object(j, v, var);
    else if (json_is_array(v)) out = from_array(j, v, var);
    else if (json_is_string(v)) out = copy_text(j, json_string_value(v), json_string_length(v), var->untrusted);
    else if (json_is_integer(v)) out = jj_int(json_integer_value(v));
    else if (json_is_real(v)) out = jj_float(json_real_value(v));
    else if (json_is_boolean(v)) out = jj_bool(json_is_true(v));
    j->depth--;
    return out;
}

/* All of the text is untrusted when any byte is: parsing loses which. */
jj_val jj_parse_json(jj *j, const jj_str *text)
{
    json_error_t why;
    ad_jinja_var like = {.untrusted = text->untrusted || text->mask};
    jj_step(j, text->len / 4);
    j->parsed = json_loadb(text->p, text->len, JSON_DECODE_ANY | JSON_ALLOW_NUL, &why);
    if (!j->parsed) jj_fail(j, AD_EINVAL, "from_json: %s", why.text);
    jj_val v = jj_from_json(j, j->parsed, &like);
    json_decref(j->parsed);
    j->parsed = NULL;
    return v;
}
