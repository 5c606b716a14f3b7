/* SPDX-License-Identifier: MIT */
/* Values and what Python says of them: truth, equality, order, length, items, slices. */
#include <string.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

jj_val jj_undefined(const char *name) { return (jj_val){JJ_UNDEFINED, {.name = name}}; }
jj_val jj_none(void) { return (jj_val){JJ_NONE, {0}}; }
jj_val jj_bool(bool b) { return (jj_val){JJ_BOOL, {.b = b}}; }
jj_val jj_int(int64_t i) { return (jj_val){JJ_INT, {.i = i}}; }
jj_val jj_float(double f) { return (jj_val){JJ_FLOAT, {.f = f}}; }

/* ---- making ---- */

jj_val jj_text(jj *j, const char *p, size_t len, bool untrusted)
{
    jj_str *s = jj_alloc(j, 1, sizeof *s);
    *s = (jj_str){.p = p, .len = len, .untrusted = untrusted};
    return (jj_val){JJ_STR, {.s = s}};
}

jj_val jj_literal(jj *j, const char *s)
{
    return jj_text(j, s, strlen(s), false);
}

jj_val jj_part(jj *j, const jj_str *s, size_t from, size_t to)
{
    jj_str *part = jj_alloc(j, 1, sizeof *part);
    *part = (jj_str){.p = s->p + from, .len = to - from, .mask = s->mask ? s->mask + from : NULL, .untrusted = s->untrusted, .markup = s->markup};
    return (jj_val){JJ_STR, {.s = part}};
}

jj_val jj_list_new(jj *j, jj_kind kind)
{
    return (jj_val){kind, {.list = jj_alloc(j, 1, sizeof(jj_list))}};
}

void jj_push(jj *j, jj_val list, jj_val item)
{
    jj_list *l = list.list;
    l->items = jj_grow(j, l->items, l->n, &l->cap, l->n + 1, sizeof *l->items);
    l->items[l->n++] = item;
}

jj_val jj_pair_new(jj *j, jj_val a, jj_val b)
{
    jj_val t = jj_list_new(j, JJ_TUPLE);
    jj_push(j, t, a);
    jj_push(j, t, b);
    return t;
}

jj_val jj_dict_new(jj *j, jj_kind kind)
{
    return (jj_val){kind, {.dict = jj_alloc(j, 1, sizeof(jj_dict))}};
}

static bool hashable(jj_val v)
{
    return v.kind != JJ_LIST && v.kind != JJ_DICT;
}

/* Objects of conversations have few members; the steps that a search costs bound what large ones can cost. */
jj_val *jj_find(jj *j, const jj_dict *d, jj_val key)
{
    jj_step(j, d->n / 8);
    for (size_t i = 0; i < d->n; i++)
        if (jj_equal(j, d->pairs[i].key, key)) return &d->pairs[i].value;
    return NULL;
}

jj_val *jj_find_name(jj *j, const jj_dict *d, const char *key)
{
    jj_str s = {.p = key, .len = strlen(key)};
    return jj_find(j, d, (jj_val){JJ_STR, {.s = &s}});
}

void jj_put(jj *j, jj_dict *d, jj_val key, jj_val value)
{
    if (!hashable(key)) jj_fail(j, AD_EINVAL, "unhashable type: '%s'", jj_type_name(key));
    jj_val *have = jj_find(j, d, key);
    if (have) {
        *have = value;
        return;
    }
    d->pairs = jj_grow(j, d->pairs, d->n, &d->cap, d->n + 1, sizeof *d->pairs);
    d->pairs[d->n++] = (jj_pair){key, value};
}

void jj_remove(jj *j, jj_dict *d, const jj_val *value)
{
    size_t i = 0;
    while (&d->pairs[i].value != value) i++;
    jj_step(j, (d->n - i) / 8);
    memmove(d->pairs + i, d->pairs + i + 1, (d->n - i - 1) * sizeof *d->pairs);
    d->n--;
}

/* ---- what they are ---- */

const char *jj_type_name(jj_val v)
{
    static const char *const names[] = {"absent", "Undefined", "NoneType", "bool", "int", "float", "str", "list", "tuple", "dict", "Namespace", "Macro", "function", "LoopContext"};
    return names[v.kind];
}

bool jj_truth(jj_val v)
{
    switch (v.kind) {
    case JJ_ABSENT: case JJ_UNDEFINED: case JJ_NONE: return false;
    case JJ_BOOL: return v.b;
    case JJ_INT: return v.i != 0;
    case JJ_FLOAT: return v.f != 0;
    case JJ_STR: return v.s->len > 0;
    case JJ_LIST: case JJ_TUPLE: return v.list->n > 0;
    case JJ_DICT: return v.dict->n > 0;
    default: return true;
    }
}

bool jj_is_number(jj_val v) { return v.kind == JJ_BOOL || v.kind == JJ_INT || v.kind == JJ_FLOAT; }
double jj_number(jj_val v) { return v.kind == JJ_FLOAT ? v.f : v.kind == JJ_BOOL ? (double)v.b : (double)v.i; }

bool jj_as_int(jj_val v, int64_t *out)
{
    if (v.kind != JJ_INT && v.kind != JJ_BOOL) return false;
    *out = v.kind == JJ_BOOL ? v.b : v.i;
    return true;
}

/* ---- equality and order ---- */

static bool lists_equal(jj *j, const jj_list *a, const jj_list *b)
{
    if (a->n != b->n) return false;
    jj_step(j, a->n);
    for (size_t i = 0; i < a->n; i++)
        if (!jj_equal(j, a->items[i], b->items[i])) return false;
    return true;
}

static bool dicts_equal(jj *j, const jj_dict *a, const jj_dict *b)
{
    if (a->n != b->n) return false;
    jj_step(j, a->n);
    for (size_t i = 0; i < a->n; i++) {
        jj_val *other = jj_find(j, b, a->pairs[i].key);
        if (!other || !jj_equal(j, a->pairs[i].value, *other)) return false;
    }
    return true;
}

static bool numbers_equal(jj_val a, jj_val b)
{
    int64_t x, y;
    if (jj_as_int(a, &x) && jj_as_int(b, &y)) return x == y;
    return jj_number(a) == jj_number(b);
}

bool jj_equal(jj *j, jj_val a, jj_val b)
{
    bool equal;
    if (jj_is_number(a) && jj_is_number(b)) return numbers_equal(a, b);
    if (a.kind != b.kind) return false;
    switch (a.kind) {
    case JJ_UNDEFINED: case JJ_NONE: return true;
    case JJ_STR:
        jj_step(j, a.s->len / 256);
        return a.s->len == b.s->len && !memcmp(a.s->p, b.s->p, a.s->len);
    case JJ_LIST: case JJ_TUPLE: case JJ_DICT:
        jj_enter(j);
        equal = a.kind == JJ_DICT ? dicts_equal(j, a.dict, b.dict) : lists_equal(j, a.list, b.list);
        j->depth--;
        return equal;
    default: return a.dict == b.dict; /* the same object */
    }
}

static int sign_of(int64_t a, int64_t b) { return (a > b) - (a < b); }

static int lists_order(jj *j, const jj_list *a, const jj_list *b)
{
    jj_enter(j);
    int c = 0;
    for (size_t i = 0; i < a->n && i < b->n && c == 0; i++) {
        jj_step(j, 1);
        if (!jj_equal(j, a->items[i], b->items[i])) c = jj_order(j, a->items[i], b->items[i]);
    }
    j->depth--;
    return c ? c : sign_of((int64_t)a->n, (int64_t)b->n);
}

int jj_order(jj *j, jj_val a, jj_val b)
{
    int64_t x, y;
    if (jj_as_int(a, &x) && jj_as_int(b, &y)) return sign_of(x, y);
    if (jj_is_number(a) && jj_is_number(b)) return (jj_number(a) > jj_number(b)) - (jj_number(a) < jj_number(b));
    if (a.kind == JJ_STR && b.kind == JJ_STR) { /* UTF-8 keeps the order of code points */
        size_t n = a.s->len < b.s->len ? a.s->len : b.s->len;
        jj_step(j, n / 256);
        int c = memcmp(a.s->p, b.s->p, n);
        return c ? c : sign_of((int64_t)a.s->len, (int64_t)b.s->len);
    }
    if (a.kind == b.kind && (a.kind == JJ_LIST || a.kind == JJ_TUPLE)) return lists_order(j, a.list, b.list);
    jj_fail(j, AD_EINVAL, "'%s' and '%s' have no order", jj_type_name(a), jj_type_name(b));
}

bool jj_contains(jj *j, jj_val in, jj_val item)
{
    switch (in.kind) {
    case JJ_UNDEFINED: return false;
    case JJ_STR:
        if (item.kind != JJ_STR) jj_fail(j, AD_EINVAL, "'in' a string needs a string on its left, not '%s'", jj_type_name(item));
        jj_step(j, in.s->len / 64);
        return item.s->len == 0 || memmem(in.s->p, in.s->len, item.s->p, item.s->len);
    case JJ_LIST: case JJ_TUPLE:
        jj_step(j, in.list->n / 8);
        for (size_t i = 0; i < in.list->n; i++)
            if (jj_equal(j, in.list->items[i], item)) return true;
        return false;
    case JJ_DICT:
        if (!hashable(item)) jj_fail(j, AD_EINVAL, "unhashable type: '%s'", jj_type_name(item));
        return jj_find(j, in.dict, item) != NULL;
    default: jj_fail(j, AD_EINVAL, "'%s' cannot be searched with 'in'", jj_type_name(in));
    }
}

/* ---- length and items ---- */

size_t jj_chars(const jj_str *s)
{
    if (s->chars || !s->len) return s->chars;
    size_t n = 0;
    for (size_t i = 0; i < s->len; i++) n += ((unsigned char)s->p[i] & 0xC0) != 0x80;
    return n;
}

/* A rendering's own strings remember the count; those of the template have it already. */
static size_t count_chars(jj *j, const jj_str *s)
{
    if (s->chars || !s->len) return s->chars;
    jj_step(j, s->len / 64);
    return ((jj_str *)s)->chars = jj_chars(s);
}

size_t jj_length(jj *j, jj_val v)
{
    switch (v.kind) {
    case JJ_UNDEFINED: return 0;
    case JJ_STR: return count_chars(j, v.s);
    case JJ_LIST: case JJ_TUPLE: return v.list->n;
    case JJ_DICT: return v.dict->n;
    default: jj_fail(j, AD_EINVAL, "'%s' has no length", jj_type_name(v));
    }
}

static jj_val characters(jj *j, const jj_str *s)
{
    jj_val list = jj_list_new(j, JJ_LIST);
    for (size_t i = 0; i < s->len;) {
        int len;
        ad_utf8_get(s->p + i, &len);
        jj_push(j, list, jj_part(j, s, i, i + (size_t)len));
        i += (size_t)len;
        jj_step(j, 1);
    }
    return list;
}

jj_list *jj_items(jj *j, jj_val v)
{
    jj_val list;
    switch (v.kind) {
    case JJ_LIST: case JJ_TUPLE: return v.list;
    case JJ_STR: return characters(j, v.s).list;
    case JJ_UNDEFINED: return jj_list_new(j, JJ_LIST).list;
    case JJ_DICT:
        list = jj_list_new(j, JJ_LIST);
        jj_step(j, v.dict->n);
        for (size_t i = 0; i < v.dict->n; i++) jj_push(j, list, v.dict->pairs[i].key);
        return list.list;
    default: jj_fail(j, AD_EINVAL, "'%s' cannot be iterated", jj_type_name(v));
    }
}

/* ---- slices ---- */

static int64_t slice_bound(jj *j, jj_val v, int64_t preset, int64_t n, int64_t step)
{
    int64_t i;
    if (v.kind == JJ_ABSENT || v.kind == JJ_NONE) return preset;
    if (!jj_as_int(v, &i)) jj_fail(j, AD_EINVAL, "a slice's bounds are whole numbers, not '%s'", jj_type_name(v));
    int64_t low = step > 0 ? 0 : -1, high = step > 0 ? n : n - 1;
    if (i < 0) i = i < -n ? low : i + n;
    if (i < low) return low;
    return i > high ? high : i;
}

/* offsets[n]: where the characters of s begin. */
static size_t *char_offsets(jj *j, const jj_str *s, size_t n)
{
    size_t *at = jj_alloc(j, n + 1, sizeof *at), k = 0;
    for (size_t i = 0; i < s->len; i++)
        if (((unsigned char)s->p[i] & 0xC0) != 0x80) at[k++] = i;
    at[n] = s->len;
    return at;
}

static size_t byte_of_char(const jj_str *s, size_t n_chars, size_t i)
{
    if (n_chars == s->len) return i;
    size_t at = 0;
    for (int len; i > 0; i--, at += (size_t)len) ad_utf8_get(s->p + at, &len);
    return at;
}

static jj_val slice_str(jj *j, const jj_str *s, int64_t from, int64_t to, int64_t step)
{
    size_t n = count_chars(j, s);
    if (step == 1) {
        if (to < from) to = from;
        size_t a = byte_of_char(s, n, (size_t)from);
        jj_step(j, n == s->len ? 0 : (size_t)to / 32);
        return jj_part(j, s, a, to == from ? a : byte_of_char(s, n, (size_t)to));
    }
    size_t *at = char_offsets(j, s, n);
    jj_build b = {0};
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        jj_add_part(j, &b, s, at[i], at[i + 1]);
        jj_step(j, 1);
    }
    return jj_built(j, &b);
}

jj_val jj_slice(jj *j, jj_val v, jj_val a, jj_val b, jj_val c)
{
    if (v.kind != JJ_STR && v.kind != JJ_LIST && v.kind != JJ_TUPLE) return jj_undefined(NULL);
    int64_t step = 1, n = (int64_t)jj_length(j, v);
    if (c.kind != JJ_ABSENT && c.kind != JJ_NONE && !jj_as_int(c, &step)) jj_fail(j, AD_EINVAL, "a slice's step is a whole number, not '%s'", jj_type_name(c));
    if (step == 0) jj_fail(j, AD_EINVAL, "a slice's step is zero");
    if (step > n) step = n + 1; /* as good as any larger one, and sums stay small */
    if (step < -n) step = -n - 1;
    int64_t from = slice_bound(j, a, step > 0 ? 0 : n - 1, n, step), to = slice_bound(j, b, step > 0 ? n : -1, n, step);
    if (v.kind == JJ_STR) return slice_str(j, v.s, from, to, step);
    jj_val out = jj_list_new(j, v.kind);
    for (int64_t i = from; step > 0 ? i < to : i > to; i += step) {
        jj_push(j, out, v.list->items[i]);
        jj_step(j, 1);
    }
    return out;
}
