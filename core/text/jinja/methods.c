/* SPDX-License-Identifier: MIT */
/* Methods of strings, lists, dicts and of "loop", under their Python names. */
#include <stdio.h>
#include <string.h>
#include <utf8proc.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

#define METHOD(name) static jj_val name(jj *j, jj_val v, const jj_val *a, const jj_args *args)

static int64_t int_or(jj *j, jj_val v, int64_t preset, const char *what)
{
    return v.kind == JJ_ABSENT || v.kind == JJ_NONE ? preset : jj_want_int(j, v, what);
}

/* ---- strings ---- */

METHOD(str_strip) { return jj_strip(j, v.s, a[0], true, true); }
METHOD(str_lstrip) { return jj_strip(j, v.s, a[0], true, false); }
METHOD(str_rstrip) { return jj_strip(j, v.s, a[0], false, true); }
METHOD(str_upper) { return jj_change_case(j, v.s, JJ_UPPER); }
METHOD(str_lower) { return jj_change_case(j, v.s, JJ_LOWER); }
METHOD(str_title) { return jj_change_case(j, v.s, JJ_TITLE); }
METHOD(str_capitalize) { return jj_change_case(j, v.s, JJ_CAPITALIZE); }
METHOD(str_split) { return jj_split(j, v.s, a[0], int_or(j, a[1], -1, "maxsplit"), false); }
METHOD(str_rsplit) { return jj_split(j, v.s, a[0], int_or(j, a[1], -1, "maxsplit"), true); }
METHOD(str_splitlines) { return jj_lines(j, v.s, jj_truth(a[0])); }
METHOD(str_join) { return jj_join(j, v.s, jj_items(j, a[0])); }
METHOD(str_format) { return jj_format_braces(j, v.s, args); }
METHOD(str_replace) { return jj_replace(j, v.s, jj_want_str(j, a[0], "what to replace"), jj_want_str(j, a[1], "a replacement"), int_or(j, a[2], -1, "a count")); }

static bool has_prefix(const jj_str *s, const jj_str *p) { return s->len >= p->len && !memcmp(s->p, p->p, p->len); }
static bool has_suffix(const jj_str *s, const jj_str *p) { return s->len >= p->len && !memcmp(s->p + s->len - p->len, p->p, p->len); }

/* One string, or a tuple of strings of which one must fit. */
static jj_val fits(jj *j, const jj_str *s, jj_val with, bool (*test)(const jj_str *, const jj_str *))
{
    jj_step(j, s->len / 256);
    if (with.kind != JJ_TUPLE) return jj_bool(test(s, jj_want_str(j, with, "a prefix or suffix")));
    bool any = false;
    for (size_t i = 0; i < with.list->n && !any; i++, jj_step(j, 1 + s->len / 256)) any = test(s, jj_want_str(j, with.list->items[i], "a prefix or suffix"));
    return jj_bool(any);
}

METHOD(str_startswith) { return fits(j, v.s, a[0], has_prefix); }
METHOD(str_endswith) { return fits(j, v.s, a[0], has_suffix); }

METHOD(str_removeprefix)
{
    const jj_str *p = jj_want_str(j, a[0], "a prefix");
    jj_step(j, p->len / 256);
    return jj_part(j, v.s, has_prefix(v.s, p) ? p->len : 0, v.s->len);
}

METHOD(str_removesuffix)
{
    const jj_str *p = jj_want_str(j, a[0], "a suffix");
    jj_step(j, p->len / 256);
    return jj_part(j, v.s, 0, v.s->len - (has_suffix(v.s, p) ? p->len : 0));
}

/* In characters from the start of the string; -1 when it is not there. */
static int64_t find(jj *j, const jj_str *s, const jj_val *a, bool last)
{
    const jj_str *what = jj_want_str(j, a[0], "what to find");
    const jj_str *head = jj_slice(j, (jj_val){JJ_STR, {.s = s}}, (jj_val){0}, a[2], (jj_val){0}).s;
    const jj_str *range = jj_slice(j, (jj_val){JJ_STR, {.s = head}}, a[1], (jj_val){0}, (jj_val){0}).s;
    size_t from = (size_t)(range->p - s->p), to = from + range->len, at = jj_search(j, s, what, from, to, last);
    return at > to ? -1 : (int64_t)jj_chars(jj_part(j, s, 0, at).s);
}

METHOD(str_find) { return jj_int(find(j, v.s, a, false)); }
METHOD(str_rfind) { return jj_int(find(j, v.s, a, true)); }

METHOD(str_index)
{
    int64_t at = find(j, v.s, a, false);
    if (at < 0) jj_fail(j, AD_EINVAL, "substring not found");
    return jj_int(at);
}

METHOD(str_count)
{
    const jj_str *what = jj_want_str(j, a[0], "what to count");
    if (!what->len) return jj_int((int64_t)jj_length(j, v) + 1);
    return jj_int((int64_t)jj_split(j, v.s, a[0], -1, false).list->n - 1);
}

static jj_val partition(jj *j, const jj_str *s, jj_val sep, bool last)
{
    const jj_str *what = jj_want_str(j, sep, "a separator");
    if (!what->len) jj_fail(j, AD_EINVAL, "empty separator");
    size_t at = jj_search(j, s, what, 0, s->len, last), end = at + what->len;
    if (at > s->len) at = end = last ? 0 : s->len;
    jj_val out = jj_list_new(j, JJ_TUPLE);
    jj_push(j, out, jj_part(j, s, 0, at));
    jj_push(j, out, jj_part(j, s, at, end));
    jj_push(j, out, jj_part(j, s, end, s->len));
    return out;
}

METHOD(str_partition) { return partition(j, v.s, a[0], false); }
METHOD(str_rpartition) { return partition(j, v.s, a[0], true); }

static jj_val pad(jj *j, const jj_str *s, const jj_val *a, int where)
{
    return jj_pad(j, s, jj_want_int(j, a[0], "a width"), a[1].kind == JJ_ABSENT ? NULL : jj_want_str(j, a[1], "a fill character"), where);
}

METHOD(str_ljust) { return pad(j, v.s, a, -1); }
METHOD(str_rjust) { return pad(j, v.s, a, 1); }
METHOD(str_center) { return pad(j, v.s, a, 0); }

typedef bool (*char_test)(uint32_t cp);

static bool is_letter(uint32_t cp)
{
    utf8proc_category_t c = utf8proc_category((utf8proc_int32_t)cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_digit(uint32_t cp) { return utf8proc_category((utf8proc_int32_t)cp) == UTF8PROC_CATEGORY_ND; }
static bool is_letter_or_digit(uint32_t cp) { return is_letter(cp) || is_digit(cp); }

static jj_val all_are(jj *j, const jj_str *s, char_test test)
{
    jj_step(j, s->len / 16);
    for (size_t i = 0; i < s->len;) {
        int n;
        if (!test(ad_utf8_get(s->p + i, &n))) return jj_bool(false);
        i += (size_t)n;
    }
    return jj_bool(s->len > 0);
}

METHOD(str_isalpha) { return all_are(j, v.s, is_letter); }
METHOD(str_isdigit) { return all_are(j, v.s, is_digit); }
METHOD(str_isalnum) { return all_are(j, v.s, is_letter_or_digit); }
METHOD(str_isspace) { return all_are(j, v.s, jj_is_space); }
METHOD(str_isupper) { return jj_bool(jj_run_test(j, jj_literal(j, "upper").s, v, &(jj_args){0})); }
METHOD(str_islower) { return jj_bool(jj_run_test(j, jj_literal(j, "lower").s, v, &(jj_args){0})); }

/* ---- lists ---- */

METHOD(list_append)
{
    jj_push(j, v, a[0]);
    return jj_none();
}

METHOD(list_extend)
{
    jj_list *more = jj_items(j, a[0]);
    for (size_t i = 0, n = more->n; i < n; i++) jj_push(j, v, more->items[i]);
    return jj_none();
}

METHOD(list_insert)
{
    int64_t at = jj_want_int(j, a[0], "a place"), n = (int64_t)v.list->n;
    if (at < 0) at = at + n < 0 ? 0 : at + n;
    if (at > n) at = n;
    jj_push(j, v, a[1]);
    jj_step(j, (size_t)(n - at) / 8);
    memmove(v.list->items + at + 1, v.list->items + at, (size_t)(n - at) * sizeof *v.list->items);
    v.list->items[at] = a[1];
    return jj_none();
}

METHOD(list_pop)
{
    int64_t n = (int64_t)v.list->n, at = int_or(j, a[0], -1, "a place");
    if (at < 0) at += n;
    if (at < 0 || at >= n) jj_fail(j, AD_EINVAL, "pop: there is no such item");
    jj_val item = v.list->items[at];
    jj_step(j, (size_t)(n - at) / 8);
    memmove(v.list->items + at, v.list->items + at + 1, (size_t)(n - at - 1) * sizeof *v.list->items);
    v.list->n--;
    return item;
}

METHOD(list_index)
{
    for (size_t i = 0; i < v.list->n; i++) {
        jj_step(j, 1);
        if (jj_equal(j, v.list->items[i], a[0])) return jj_int((int64_t)i);
    }
    jj_fail(j, AD_EINVAL, "the item is not in the list");
}

METHOD(list_count)
{
    int64_t n = 0;
    jj_step(j, v.list->n);
    for (size_t i = 0; i < v.list->n; i++) n += jj_equal(j, v.list->items[i], a[0]);
    return jj_int(n);
}

METHOD(list_copy) { return jj_slice(j, v, (jj_val){0}, (jj_val){0}, (jj_val){0}); }

/* ---- dicts ---- */

METHOD(dict_keys) { return (jj_val){JJ_LIST, {.list = jj_items(j, v)}}; }
METHOD(dict_items) { return jj_apply(j, "filter", jj_filter("items"), v, args); }

METHOD(dict_values)
{
    jj_val out = jj_list_new(j, JJ_LIST);
    for (size_t i = 0; i < v.dict->n; i++) jj_push(j, out, v.dict->pairs[i].value);
    return out;
}

METHOD(dict_get)
{
    jj_val *have = jj_find(j, v.dict, a[0]);
    return have ? *have : a[1].kind == JJ_ABSENT ? jj_none() : a[1];
}

METHOD(dict_pop)
{
    jj_val *have = jj_find(j, v.dict, a[0]);
    if (!have && a[1].kind == JJ_ABSENT) jj_fail(j, AD_EINVAL, "pop: there is no such key");
    if (!have) return a[1];
    jj_val value = *have;
    jj_remove(j, v.dict, have);
    return value;
}

METHOD(dict_setdefault)
{
    jj_val *have = jj_find(j, v.dict, a[0]), preset = a[1].kind == JJ_ABSENT ? jj_none() : a[1];
    if (have) return *have;
    jj_put(j, v.dict, a[0], preset);
    return preset;
}

METHOD(dict_update)
{
    if (args->n > 1 || (args->n && args->pos[0].kind != JJ_DICT)) jj_fail(j, AD_EINVAL, "update() takes keywords and at most one mapping");
    for (size_t i = 0; args->n && i < args->pos[0].dict->n; i++) jj_put(j, v.dict, args->pos[0].dict->pairs[i].key, args->pos[0].dict->pairs[i].value);
    for (size_t i = 0; i < args->n_named; i++) jj_put(j, v.dict, jj_literal(j, args->named[i].name), args->named[i].value);
    return jj_none();
}

METHOD(dict_copy)
{
    jj_val out = jj_dict_new(j, JJ_DICT);
    out.dict->n = out.dict->cap = v.dict->n;
    out.dict->pairs = jj_alloc(j, v.dict->n, sizeof *v.dict->pairs);
    if (v.dict->n) memcpy(out.dict->pairs, v.dict->pairs, v.dict->n * sizeof *v.dict->pairs);
    return out;
}

/* ---- loop ---- */

METHOD(loop_cycle)
{
    if (!args->n) jj_fail(j, AD_EINVAL, "cycle() needs values");
    return args->pos[v.loop->index % args->n];
}

METHOD(loop_changed)
{
    jj_val now = jj_list_new(j, JJ_TUPLE);
    for (size_t i = 0; i < args->n; i++) jj_push(j, now, args->pos[i]);
    bool changed = v.loop->last.kind == JJ_ABSENT || !jj_equal(j, v.loop->last, now);
    v.loop->last = now;
    return jj_bool(changed);
}

const jj_op *jj_method(jj_kind kind, const char *name, size_t len)
{
    static const jj_op of_str[] = {
        {"capitalize", "", 0, str_capitalize}, {"center", "width,fillchar", 1, str_center}, {"count", "sub", 1, str_count}, {"endswith", "suffix", 1, str_endswith},
        {"find", "sub,start,end", 1, str_find}, {"format", NULL, 0, str_format}, {"index", "sub,start,end", 1, str_index}, {"isalnum", "", 0, str_isalnum},
        {"isalpha", "", 0, str_isalpha}, {"isdigit", "", 0, str_isdigit}, {"islower", "", 0, str_islower}, {"isspace", "", 0, str_isspace}, {"isupper", "", 0, str_isupper},
        {"join", "iterable", 1, str_join}, {"ljust", "width,fillchar", 1, str_ljust}, {"lower", "", 0, str_lower}, {"lstrip", "chars", 0, str_lstrip},
        {"partition", "sep", 1, str_partition}, {"removeprefix", "prefix", 1, str_removeprefix}, {"removesuffix", "suffix", 1, str_removesuffix},
        {"replace", "old,new,count", 2, str_replace}, {"rfind", "sub,start,end", 1, str_rfind}, {"rjust", "width,fillchar", 1, str_rjust},
        {"rpartition", "sep", 1, str_rpartition}, {"rsplit", "sep,maxsplit", 0, str_rsplit}, {"rstrip", "chars", 0, str_rstrip}, {"split", "sep,maxsplit", 0, str_split},
        {"splitlines", "keepends", 0, str_splitlines}, {"startswith", "prefix", 1, str_startswith}, {"strip", "chars", 0, str_strip}, {"title", "", 0, str_title},
        {"upper", "", 0, str_upper}, {0}};
    static const jj_op of_list[] = {{"append", "item", 1, list_append}, {"copy", "", 0, list_copy}, {"count", "item", 1, list_count}, {"extend", "items", 1, list_extend},
        {"index", "item", 1, list_index}, {"insert", "index,item", 2, list_insert}, {"pop", "index", 0, list_pop}, {0}};
    static const jj_op of_tuple[] = {{"count", "item", 1, list_count}, {"index", "item", 1, list_index}, {0}};
    static const jj_op of_dict[] = {{"copy", "", 0, dict_copy}, {"get", "key,default", 1, dict_get}, {"items", "", 0, dict_items}, {"keys", "", 0, dict_keys},
        {"pop", "key,default", 1, dict_pop}, {"setdefault", "key,default", 1, dict_setdefault}, {"update", NULL, 0, dict_update}, {"values", "", 0, dict_values}, {0}};
    static const jj_op of_loop[] = {{"changed", NULL, 0, loop_changed}, {"cycle", NULL, 0, loop_cycle}, {0}};
    const jj_op *op = kind == JJ_STR ? of_str : kind == JJ_LIST ? of_list : kind == JJ_TUPLE ? of_tuple : kind == JJ_DICT ? of_dict : kind == JJ_LOOP ? of_loop : NULL;
    for (; op && op->name; op++)
        if (!strncmp(op->name, name, len) && !op->name[len]) return op;
    return NULL;
}
