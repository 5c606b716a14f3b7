/* SPDX-License-Identifier: MIT */
/* What may stand behind "is", and the functions of the global scope. */
#include <string.h>

#include "core/text/jinja/private.h"

#define TEST(name, expr) static jj_val test_##name(jj *j, jj_val v, const jj_val *a, const jj_args *args) { return jj_bool(expr); }

static bool same_case(jj *j, jj_val v, jj_case how)
{
    const jj_str *s = jj_to_str(j, v), *changed = jj_change_case(j, s, how).s;
    if (s->len != changed->len || memcmp(s->p, changed->p, s->len) != 0) return false;
    const jj_str *other = jj_change_case(j, s, how == JJ_UPPER ? JJ_LOWER : JJ_UPPER).s; /* something has a case at all */
    return s->len != other->len || memcmp(s->p, other->p, s->len) != 0;
}

static bool in_order(jj *j, jj_val a, jj_val b, int want, bool or_equal)
{
    int o = jj_order(j, a, b);
    return o == 0 ? or_equal : (o > 0) == (want > 0);
}

static bool divisible(jj *j, jj_val v, int64_t by)
{
    return jj_equal(j, jj_binary(j, JN_MOD, v, jj_int(by)), jj_int(0));
}

static bool is_text_or_items(jj_val v)
{
    return v.kind == JJ_STR || v.kind == JJ_LIST || v.kind == JJ_TUPLE || v.kind == JJ_DICT;
}

static bool is_same(jj *j, jj_val a, jj_val b)
{
    return a.kind == b.kind && (a.kind == JJ_LIST || a.kind == JJ_TUPLE || a.kind == JJ_DICT ? a.dict == b.dict : jj_equal(j, a, b));
}

TEST(defined, v.kind != JJ_UNDEFINED)
TEST(undefined, v.kind == JJ_UNDEFINED)
TEST(none, v.kind == JJ_NONE)
TEST(boolean, v.kind == JJ_BOOL)
TEST(true, v.kind == JJ_BOOL && v.b)
TEST(false, v.kind == JJ_BOOL && !v.b)
TEST(string, v.kind == JJ_STR)
TEST(number, jj_is_number(v))
TEST(integer, v.kind == JJ_INT)
TEST(float, v.kind == JJ_FLOAT)
TEST(mapping, v.kind == JJ_DICT)
TEST(sequence, is_text_or_items(v) || v.kind == JJ_UNDEFINED)
TEST(iterable, is_text_or_items(v) || v.kind == JJ_UNDEFINED || v.kind == JJ_LOOP)
TEST(callable, v.kind == JJ_MACRO || v.kind == JJ_BOUND)
TEST(sameas, is_same(j, v, a[0]))
TEST(eq, jj_equal(j, v, a[0]))
TEST(ne, !jj_equal(j, v, a[0]))
TEST(lt, in_order(j, v, a[0], -1, false))
TEST(le, in_order(j, v, a[0], -1, true))
TEST(gt, in_order(j, v, a[0], 1, false))
TEST(ge, in_order(j, v, a[0], 1, true))
TEST(in, jj_contains(j, a[0], v))
TEST(even, divisible(j, v, 2))
TEST(odd, !divisible(j, v, 2))
TEST(divisibleby, divisible(j, v, jj_want_int(j, a[0], "a divisor")))
TEST(lower, same_case(j, v, JJ_LOWER))
TEST(upper, same_case(j, v, JJ_UPPER))

const jj_op *jj_test(const char *name)
{
    static const jj_op tests[] = {
        {"!=", "other", 1, test_ne},
        {"<", "other", 1, test_lt},
        {"<=", "other", 1, test_le},
        {"==", "other", 1, test_eq},
        {">", "other", 1, test_gt},
        {">=", "other", 1, test_ge},
        {"boolean", "", 0, test_boolean},
        {"callable", "", 0, test_callable},
        {"defined", "", 0, test_defined},
        {"divisibleby", "num", 1, test_divisibleby},
        {"eq", "other", 1, test_eq},
        {"equalto", "other", 1, test_eq},
        {"even", "", 0, test_even},
        {"false", "", 0, test_false},
        {"float", "", 0, test_float},
        {"ge", "other", 1, test_ge},
        {"greaterthan", "other", 1, test_gt},
        {"gt", "other", 1, test_gt},
        {"in", "seq", 1, test_in},
        {"integer", "", 0, test_integer},
        {"iterable", "", 0, test_iterable},
        {"le", "other", 1, test_le},
        {"lessthan", "other", 1, test_lt},
        {"lower", "", 0, test_lower},
        {"lt", "other", 1, test_lt},
        {"mapping", "", 0, test_mapping},
        {"ne", "other", 1, test_ne},
        {"none", "", 0, test_none},
        {"number", "", 0, test_number},
        {"odd", "", 0, test_odd},
        {"sameas", "other", 1, test_sameas},
        {"sequence", "", 0, test_sequence},
        {"string", "", 0, test_string},
        {"true", "", 0, test_true},
        {"undefined", "", 0, test_undefined},
        {"upper", "", 0, test_upper},
    };
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(tests[i].name, name)) return &tests[i];
    return NULL;
}

bool jj_run_test(jj *j, const jj_str *name, jj_val v, const jj_args *args)
{
    char text[32] = "";
    if (name->len < sizeof text) memcpy(text, name->p, name->len);
    const jj_op *op = jj_test(text);
    if (!op) jj_fail(j, AD_EINVAL, "there is no test '%.*s'", (int)(name->len < 60 ? name->len : 60), name->p);
    return jj_apply(j, "test", op, v, args).b;
}

/* ---- functions ---- */

static jj_val call_range(jj *j, jj_val self, const jj_val *a, const jj_args *args)
{
    int64_t from = 0, to = jj_want_int(j, a[0], "a bound of range()"), step = 1;
    if (a[1].kind != JJ_ABSENT) {
        from = to;
        to = jj_want_int(j, a[1], "a bound of range()");
    }
    if (a[2].kind != JJ_ABSENT) step = jj_want_int(j, a[2], "the step of range()");
    if (step == 0) jj_fail(j, AD_EINVAL, "the step of range() is zero");
    jj_val out = jj_list_new(j, JJ_LIST);
    for (int64_t i = from; step > 0 ? i < to : i > to;) {
        if (out.list->n == JJ_MAX_RANGE) jj_fail(j, AD_ELIMIT, "range() is longer than %d", JJ_MAX_RANGE);
        jj_push(j, out, jj_int(i));
        jj_step(j, 1);
        if (__builtin_add_overflow(i, step, &i)) break;
    }
    return out;
}

/* Keywords, after the members of one mapping. */
static jj_val make_mapping(jj *j, const jj_args *args, jj_kind kind)
{
    jj_val out = jj_dict_new(j, kind);
    if (args->n > 1 || (args->n && args->pos[0].kind != JJ_DICT)) jj_fail(j, AD_EINVAL, "dict() and namespace() take keywords and at most one mapping");
    for (size_t i = 0; args->n && i < args->pos[0].dict->n; i++) jj_put(j, out.dict, args->pos[0].dict->pairs[i].key, args->pos[0].dict->pairs[i].value);
    for (size_t i = 0; i < args->n_named; i++) jj_put(j, out.dict, jj_literal(j, args->named[i].name), args->named[i].value);
    return out;
}

static jj_val call_dict(jj *j, jj_val self, const jj_val *a, const jj_args *args) { return make_mapping(j, args, JJ_DICT); }
static jj_val call_namespace(jj *j, jj_val self, const jj_val *a, const jj_args *args) { return make_mapping(j, args, JJ_NAMESPACE); }
static jj_val call_raise(jj *j, jj_val self, const jj_val *a, const jj_args *args) { jj_raise(j, jj_to_str(j, a[0])); }

static jj_val call_strftime_now(jj *j, jj_val self, const jj_val *a, const jj_args *args)
{
    char format[128] = "", text[1024];
    const jj_str *f = jj_want_str(j, a[0], "a date's format");
    struct tm tm;
    if (f->len >= sizeof format) jj_fail(j, AD_ELIMIT, "a date's format is longer than %zu bytes", sizeof format - 1);
    memcpy(format, f->p, f->len);
    if (!localtime_r(&j->limits.now, &tm)) jj_fail(j, AD_EINVAL, "the time cannot be told");
    size_t n = strftime(text, sizeof text, format, &tm);
    char *copy = jj_alloc(j, n, 1);
    memcpy(copy, text, n);
    bool untrusted = false;
    for (size_t i = 0; i < f->len; i++) untrusted |= jj_untrusted_at(f, i);
    return jj_text(j, copy, n, untrusted); /* what a format of theirs says is theirs */
}

const jj_op jj_functions[] = {
    {"dict", NULL, 0, call_dict},
    {"namespace", NULL, 0, call_namespace},
    {"raise_exception", "message", 1, call_raise},
    {"range", "start,stop,step", 1, call_range},
    {"strftime_now", "format", 1, call_strftime_now},
    {NULL, NULL, 0, NULL},
};
