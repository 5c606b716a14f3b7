/* SPDX-License-Identifier: MIT */
/* Jinja2's filters, those that templates of conversations use. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/private.h"

#define FILTER(name) static jj_val filter_##name(jj *j, jj_val v, const jj_val *a, const jj_args *args)

static bool given(jj_val v)
{
    return v.kind != JJ_ABSENT && v.kind != JJ_NONE;
}

static jj_val list_value(jj_list *l)
{
    return (jj_val){JJ_LIST, {.list = l}};
}

/* ---- attributes by path ---- */

/* "a.b.0" of a value, as map(attribute=...) and its like take it; a missing end is preset, when that is given. */
static jj_val by_path(jj *j, jj_val v, jj_val path, jj_val preset)
{
    if (!given(path)) return v;
    if (path.kind != JJ_STR) {
        v = jj_item(j, v, path);
    } else {
        jj_list *parts = jj_split(j, path.s, jj_literal(j, "."), -1, false).list;
        for (size_t i = 0; i < parts->n; i++) {
            const jj_str *part = parts->items[i].s;
            bool number = part->len > 0 && part->len < 10;
            for (size_t k = 0; k < part->len; k++) number &= part->p[k] >= '0' && part->p[k] <= '9';
            v = jj_item(j, v, number ? jj_int(strtoll(part->p, NULL, 10)) : parts->items[i]);
        }
    }
    return v.kind == JJ_UNDEFINED && given(preset) ? preset : v;
}

static jj_val folded(jj *j, jj_val v, jj_val case_sensitive)
{
    return v.kind == JJ_STR && !jj_truth(case_sensitive) ? jj_change_case(j, v.s, JJ_LOWER) : v;
}

/* ---- texts ---- */

FILTER(upper) { return jj_change_case(j, jj_to_str(j, v), JJ_UPPER); }
FILTER(lower) { return jj_change_case(j, jj_to_str(j, v), JJ_LOWER); }
FILTER(capitalize) { return jj_change_case(j, jj_to_str(j, v), JJ_CAPITALIZE); }
FILTER(title) { return jj_change_case(j, jj_to_str(j, v), JJ_TITLE); }
FILTER(string) { return (jj_val){JJ_STR, {.s = jj_to_str(j, v)}}; }
FILTER(trim) { return jj_strip(j, jj_to_str(j, v), a[0], true, true); }
FILTER(center) { return jj_pad(j, jj_to_str(j, v), a[0].kind == JJ_ABSENT ? 80 : jj_want_int(j, a[0], "a width"), NULL, 0); }

FILTER(format)
{
    if (args->n_named) jj_fail(j, AD_EUNSUPPORTED, "filter 'format' with keywords is not supported");
    jj_val values = jj_list_new(j, JJ_TUPLE);
    for (size_t i = 0; i < args->n; i++) jj_push(j, values, args->pos[i]);
    return jj_format_percent(j, jj_to_str(j, v), values);
}

FILTER(replace)
{
    int64_t count = given(a[2]) ? jj_want_int(j, a[2], "a count") : -1;
    return jj_replace(j, jj_to_str(j, v), jj_to_str(j, a[0]), jj_to_str(j, a[1]), count);
}

FILTER(indent)
{
    const jj_str *s = jj_to_str(j, v), *by;
    if (a[0].kind == JJ_STR) by = a[0].s;
    else by = jj_pad(j, jj_literal(j, "").s, a[0].kind == JJ_ABSENT ? 4 : jj_want_int(j, a[0], "a width"), NULL, -1).s;
    bool first = jj_truth(a[1]), blank = jj_truth(a[2]);
    jj_build ended = {0}, b = {0};
    jj_add_str(j, &ended, s);
    jj_adds(j, &ended, "\n");
    jj_list *lines = jj_lines(j, jj_built(j, &ended).s, false).list;
    for (size_t i = 0; i < lines->n; i++) {
        if (i) jj_adds(j, &b, "\n");
        if (i ? blank || lines->items[i].s->len : first) jj_add_str(j, &b, by);
        jj_add_str(j, &b, lines->items[i].s);
        jj_step(j, 1 + by->len / 16);
    }
    return jj_built(j, &b);
}

FILTER(escape) { return jj_escape(j, jj_to_str(j, v)); }

FILTER(safe)
{
    const jj_str *s = jj_to_str(j, v);
    jj_val out = jj_part(j, s, 0, s->len);
    ((jj_str *)out.s)->markup = true;
    return out;
}

FILTER(tojson)
{
    jj_json_style style = {.ascii = jj_truth(a[0]), .sort_keys = jj_truth(a[3])};
    jj_build b = {0};
    if (a[1].kind == JJ_STR) style.indent = a[1].s;
    else if (given(a[1])) style.indent = jj_pad(j, jj_literal(j, "").s, jj_want_int(j, a[1], "an indent"), NULL, -1).s;
    if (given(a[2])) {
        jj_list *two = jj_items(j, a[2]);
        if (two->n != 2) jj_fail(j, AD_EINVAL, "separators are two strings");
        style.comma = jj_want_str(j, two->items[0], "a separator");
        style.colon = jj_want_str(j, two->items[1], "a separator");
    }
    jj_add_json(j, &b, v, &style);
    return jj_built(j, &b);
}

FILTER(from_json) { return jj_parse_json(j, jj_want_str(j, v, "JSON text")); }

/* ---- numbers ---- */

/* A number at the front of s and nothing but white space behind it. */
static bool whole_text(const char *s, const char *end)
{
    while (*end == ' ' || (*end >= '\t' && *end <= '\r')) end++;
    return end != s && !*end;
}

static char *c_text(jj *j, const jj_str *s)
{
    char *copy = jj_alloc(j, s->len + 1, 1);
    memcpy(copy, s->p, s->len);
    return copy;
}

static jj_val float_to_int(jj *j, double f, jj_val preset)
{
    if (!isfinite(f)) return preset;
    if (f <= -9.2e18 || f >= 9.2e18) jj_fail(j, AD_ELIMIT, "a whole number is out of range");
    return jj_int((int64_t)f);
}

FILTER(int)
{
    int64_t i, base = a[1].kind == JJ_ABSENT ? 10 : jj_want_int(j, a[1], "a base");
    jj_val preset = a[0].kind == JJ_ABSENT ? jj_int(0) : a[0];
    if (jj_as_int(v, &i)) return jj_int(i);
    if (v.kind == JJ_FLOAT) return float_to_int(j, v.f, preset);
    if (v.kind != JJ_STR) return preset;
    char *text = c_text(j, v.s), *end;
    errno = 0;
    i = base == 0 || (base >= 2 && base <= 36) ? strtoll(text, &end, (int)base) : (end = text, 0);
    if (whole_text(text, end) && !errno) return jj_int(i);
    double f = strtod(text, &end);
    return whole_text(text, end) ? float_to_int(j, f, preset) : preset;
}

FILTER(float)
{
    jj_val preset = a[0].kind == JJ_ABSENT ? jj_float(0) : a[0];
    if (jj_is_number(v)) return jj_float(jj_number(v));
    if (v.kind != JJ_STR) return preset;
    char *text = c_text(j, v.s), *end;
    double f = strtod(text, &end);
    return whole_text(text, end) ? jj_float(f) : preset;
}

FILTER(abs)
{
    int64_t i;
    if (v.kind == JJ_FLOAT) return jj_float(fabs(v.f));
    if (!jj_as_int(v, &i)) jj_fail(j, AD_EINVAL, "filter 'abs' needs a number, not '%s'", jj_type_name(v));
    return i < 0 ? jj_binary(j, JN_SUB, jj_int(0), v) : jj_int(i);
}

FILTER(round)
{
    int64_t precision = a[0].kind == JJ_ABSENT ? 0 : jj_want_int(j, a[0], "a precision");
    const jj_str *how = a[1].kind == JJ_ABSENT ? jj_literal(j, "common").s : jj_want_str(j, a[1], "a method");
    ad_str method = {how->p, how->len};
    char text[400];
    if (!jj_is_number(v)) jj_fail(j, AD_EINVAL, "filter 'round' needs a number, not '%s'", jj_type_name(v));
    if (precision < 0 || precision > 15) jj_fail(j, AD_EUNSUPPORTED, "filter 'round' takes a precision from 0 to 15");
    double scale = pow(10, (double)precision), f = jj_number(v);
    if (ad_str_eq(method, "ceil")) return jj_float(ceil(f * scale) / scale);
    if (ad_str_eq(method, "floor")) return jj_float(floor(f * scale) / scale);
    if (!ad_str_eq(method, "common")) jj_fail(j, AD_EINVAL, "method must be common, ceil or floor");
    snprintf(text, sizeof text, "%.*f", (int)precision, f);
    return v.kind == JJ_FLOAT ? jj_float(strtod(text, NULL)) : v;
}

/* ---- any value ---- */

FILTER(length) { return jj_int((int64_t)jj_length(j, v)); }

FILTER(default)
{
    bool missing = v.kind == JJ_UNDEFINED || (jj_truth(a[1]) && !jj_truth(v));
    return !missing ? v : a[0].kind == JJ_ABSENT ? jj_literal(j, "") : a[0];
}

FILTER(attr)
{
    const jj_str *name = jj_want_str(j, a[0], "an attribute's name");
    return v.kind == JJ_DICT ? jj_undefined(NULL) : jj_attr(j, v, name->p, name->len);
}

FILTER(items)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    if (v.kind == JJ_UNDEFINED) return out;
    if (v.kind != JJ_DICT) jj_fail(j, AD_EINVAL, "filter 'items' needs a mapping, not '%s'", jj_type_name(v));
    for (size_t i = 0; i < v.dict->n; i++) jj_push(j, out, jj_pair_new(j, v.dict->pairs[i].key, v.dict->pairs[i].value));
    return out;
}

/* ---- lists ---- */

FILTER(list)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    jj_list *l = jj_items(j, v);
    jj_step(j, l->n / 4);
    for (size_t i = 0; i < l->n; i++) jj_push(j, out, l->items[i]);
    return out;
}

FILTER(first)
{
    jj_list *l = jj_items(j, v);
    return l->n ? l->items[0] : jj_undefined(NULL);
}

FILTER(last)
{
    jj_list *l = jj_items(j, v);
    return l->n ? l->items[l->n - 1] : jj_undefined(NULL);
}

FILTER(reverse)
{
    if (v.kind == JJ_STR || v.kind == JJ_LIST || v.kind == JJ_TUPLE) return jj_slice(j, v, (jj_val){0}, (jj_val){0}, jj_int(-1));
    return jj_slice(j, list_value(jj_items(j, v)), (jj_val){0}, (jj_val){0}, jj_int(-1));
}

FILTER(join)
{
    const jj_str *sep = a[0].kind == JJ_ABSENT ? jj_literal(j, "").s : jj_to_str(j, a[0]);
    jj_list *l = jj_items(j, v);
    if (!given(a[1])) return jj_join(j, sep, l);
    jj_val parts = jj_list_new(j, JJ_LIST);
    for (size_t i = 0; i < l->n; i++) jj_push(j, parts, by_path(j, l->items[i], a[1], (jj_val){0}));
    return jj_join(j, sep, parts.list);
}

FILTER(sum)
{
    jj_val total = a[1].kind == JJ_ABSENT ? jj_int(0) : a[1];
    jj_list *l = jj_items(j, v);
    for (size_t i = 0; i < l->n; i++, jj_step(j, 1)) total = jj_binary(j, JN_ADD, total, by_path(j, l->items[i], a[0], (jj_val){0}));
    return total;
}

/* ---- order ---- */

typedef struct {
    jj_val key, value;
} keyed;

/* Stable; tmp[n]. */
static void merge_sort(jj *j, keyed *k, size_t n, keyed *tmp, bool descending)
{
    if (n < 2) return;
    size_t half = n / 2, x = 0, y = half;
    merge_sort(j, k, half, tmp, descending);
    merge_sort(j, k + half, n - half, tmp, descending);
    for (size_t i = 0; i < n; i++) {
        bool right = x == half || (y < n && (descending ? jj_order(j, k[y].key, k[x].key) > 0 : jj_order(j, k[y].key, k[x].key) < 0));
        tmp[i] = right ? k[y++] : k[x++];
        jj_step(j, 1);
    }
    memcpy(k, tmp, n * sizeof *k);
}

static jj_val sorted(jj *j, const jj_list *l, jj_val path, jj_val case_sensitive, bool descending)
{
    keyed *k = jj_alloc(j, l->n, sizeof *k), *tmp = jj_alloc(j, l->n, sizeof *tmp);
    for (size_t i = 0; i < l->n; i++) k[i] = (keyed){folded(j, by_path(j, l->items[i], path, (jj_val){0}), case_sensitive), l->items[i]};
    merge_sort(j, k, l->n, tmp, descending);
    jj_val out = jj_list_new(j, JJ_LIST);
    for (size_t i = 0; i < l->n; i++) jj_push(j, out, k[i].value);
    return out;
}

FILTER(sort) { return sorted(j, jj_items(j, v), a[2], a[1], jj_truth(a[0])); }

FILTER(dictsort)
{
    bool by_value = a[1].kind == JJ_STR && a[1].s->len == 5 && !memcmp(a[1].s->p, "value", 5);
    return sorted(j, filter_items(j, v, NULL, args).list, jj_int(by_value), a[0], jj_truth(a[2]));
}

static jj_val extreme(jj *j, jj_val v, const jj_val *a, int sign)
{
    jj_list *l = jj_items(j, v);
    jj_val best = jj_undefined(NULL), key = {0};
    for (size_t i = 0; i < l->n; i++) {
        jj_val k = folded(j, by_path(j, l->items[i], a[1], (jj_val){0}), a[0]);
        jj_step(j, 1);
        if (i && jj_order(j, k, key) * sign <= 0) continue;
        best = l->items[i];
        key = k;
    }
    return best;
}

FILTER(max) { return extreme(j, v, a, 1); }
FILTER(min) { return extreme(j, v, a, -1); }

FILTER(unique)
{
    jj_list *l = jj_items(j, v);
    jj_val seen = jj_list_new(j, JJ_LIST), out = jj_list_new(j, JJ_LIST);
    for (size_t i = 0; i < l->n; i++) {
        jj_val key = folded(j, by_path(j, l->items[i], a[1], (jj_val){0}), a[0]);
        jj_step(j, 1);
        if (jj_contains(j, seen, key)) continue;
        jj_push(j, seen, key);
        jj_push(j, out, l->items[i]);
    }
    return out;
}

/* ---- choosing and mapping ---- */

/* What these filters take: like Jinja2's they read nothing false, so that none has no items instead of being an error. */
static jj_list *items_if_true(jj *j, jj_val v)
{
    return jj_truth(v) ? jj_items(j, v) : jj_list_new(j, JJ_LIST).list;
}

/* select, reject, selectattr, rejectattr: [attribute,] test, the test's arguments. */
static jj_val choose(jj *j, jj_val v, const jj_args *args, bool by_attribute, bool wanted)
{
    jj_val out = jj_list_new(j, JJ_LIST), path = {0};
    jj_args rest = *args;
    if (by_attribute) {
        if (!rest.n) jj_fail(j, AD_EINVAL, "an attribute's name is missing");
        path = *rest.pos++;
        rest.n--;
    }
    const jj_str *test = rest.n ? jj_want_str(j, rest.pos[0], "a test's name") : NULL;
    if (test) rest.pos++, rest.n--;
    jj_list *l = items_if_true(j, v);
    for (size_t i = 0; i < l->n; i++) {
        jj_val key = by_path(j, l->items[i], path, (jj_val){0});
        jj_step(j, 1);
        if ((test ? jj_run_test(j, test, key, &rest) : jj_truth(key)) == wanted) jj_push(j, out, l->items[i]);
    }
    return out;
}

FILTER(select) { return choose(j, v, args, false, true); }
FILTER(reject) { return choose(j, v, args, false, false); }
FILTER(selectattr) { return choose(j, v, args, true, true); }
FILTER(rejectattr) { return choose(j, v, args, true, false); }

/* map('filter', arguments) or map(attribute='a.b', default=x). */
FILTER(map)
{
    jj_val out = jj_list_new(j, JJ_LIST), path = {0}, preset = {0};
    const jj_op *op = NULL;
    jj_args rest = *args;
    if (rest.n) {
        const jj_str *name = jj_want_str(j, rest.pos[0], "a filter's name");
        op = jj_filter(c_text(j, name));
        if (!op) jj_fail(j, AD_EINVAL, "there is no filter '%.60s'", c_text(j, name));
        rest.pos++, rest.n--;
    }
    for (size_t i = 0; !op && i < args->n_named; i++) {
        if (!strcmp(args->named[i].name, "attribute")) path = args->named[i].value;
        else if (!strcmp(args->named[i].name, "default")) preset = args->named[i].value;
        else jj_fail(j, AD_EINVAL, "filter 'map' has no parameter '%.60s'", args->named[i].name);
    }
    if (!op && !given(path)) jj_fail(j, AD_EINVAL, "filter 'map' needs a filter or an attribute");
    jj_list *l = items_if_true(j, v);
    for (size_t i = 0; i < l->n; i++) {
        jj_step(j, 1);
        jj_push(j, out, op ? jj_apply(j, "filter", op, l->items[i], &rest) : by_path(j, l->items[i], path, preset));
    }
    return out;
}

const jj_op *jj_filter(const char *name)
{
    static const jj_op filters[] = {
        {"abs", "", 0, filter_abs},
        {"attr", "name", 1, filter_attr},
        {"capitalize", "", 0, filter_capitalize},
        {"center", "width", 0, filter_center},
        {"count", "", 0, filter_length},
        {"d", "default_value,boolean", 0, filter_default},
        {"default", "default_value,boolean", 0, filter_default},
        {"dictsort", "case_sensitive,by,reverse", 0, filter_dictsort},
        {"e", "", 0, filter_escape},
        {"escape", "", 0, filter_escape},
        {"first", "", 0, filter_first},
        {"float", "default", 0, filter_float},
        {"format", NULL, 0, filter_format},
        {"from_json", "", 0, filter_from_json},
        {"indent", "width,first,blank", 0, filter_indent},
        {"int", "default,base", 0, filter_int},
        {"items", "", 0, filter_items},
        {"join", "d,attribute", 0, filter_join},
        {"last", "", 0, filter_last},
        {"length", "", 0, filter_length},
        {"list", "", 0, filter_list},
        {"lower", "", 0, filter_lower},
        {"map", NULL, 0, filter_map},
        {"max", "case_sensitive,attribute", 0, filter_max},
        {"min", "case_sensitive,attribute", 0, filter_min},
        {"reject", NULL, 0, filter_reject},
        {"rejectattr", NULL, 0, filter_rejectattr},
        {"replace", "old,new,count", 2, filter_replace},
        {"reverse", "", 0, filter_reverse},
        {"round", "precision,method", 0, filter_round},
        {"safe", "", 0, filter_safe},
        {"select", NULL, 0, filter_select},
        {"selectattr", NULL, 0, filter_selectattr},
        {"sort", "reverse,case_sensitive,attribute", 0, filter_sort},
        {"string", "", 0, filter_string},
        {"sum", "attribute,start", 0, filter_sum},
        {"title", "", 0, filter_title},
        {"tojson", "ensure_ascii,indent,separators,sort_keys", 0, filter_tojson},
        {"trim", "chars", 0, filter_trim},
        {"unique", "case_sensitive,attribute", 0, filter_unique},
        {"upper", "", 0, filter_upper},
    };
    for (size_t i = 0; i < sizeof filters / sizeof *filters; i++)
        if (!strcmp(filters[i].name, name)) return &filters[i];
    return NULL;
}
