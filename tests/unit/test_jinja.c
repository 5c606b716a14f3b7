/* SPDX-License-Identifier: MIT */
/* The template language: what Jinja2 3.1 makes of expressions and white space, bounds that hostile templates meet, and which
 * bytes of the output came from outside. tests/golden/chat_oracle compares far more with Jinja2 itself. */
#include "tests/unit/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/text/jinja/jinja.h"

static const ad_jinja_limits usual = {.steps = 1 << 20, .memory = 32 << 20, .output = 4 << 20, .now = 1700000000};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Renders with the members of vars, a JSON object or NULL, as untrusted variables. */
static ad_status render_with(const char *source, size_t len, const char *vars, ad_buf *out, ad_text_spans *spans, ad_err *err)
{
    json_t *o = json_loads(vars ? vars : "{}", 0, NULL);
    ck_assert_ptr_nonnull(o);
    ad_jinja_var list[16];
    size_t n = 0;
    for (void *it = json_object_iter(o); it; it = json_object_iter_next(o, it)) list[n++] = (ad_jinja_var){json_object_iter_key(it), json_object_iter_value(it), true, NULL, NULL};
    ad_jinja *t = NULL;
    ad_status st = ad_jinja_new(&t, source, len, "probe", err);
    if (st == AD_OK) st = ad_jinja_render(t, list, n, &usual, out, spans, err);
    ad_jinja_free(&t);
    json_decref(o);
    return st;
}

static ad_status render(const char *source, const char *vars, ad_buf *out, ad_text_spans *spans, ad_err *err)
{
    return render_with(source, strlen(source), vars, out, spans, err);
}

static void expect(const char *source, const char *vars, const char *want)
{
    ad_buf out = {0};
    ad_err err = {0};
    ad_status st = render(source, vars, &out, NULL, &err);
    ck_assert_msg(st == AD_OK, "%s: %s", source, err.msg);
    ck_assert_msg(!strcmp(out.data ? out.data : "", want), "%s: \"%s\", not \"%s\"", source, out.data, want);
    ad_buf_deinit(&out);
}

static void refuse(const char *source, const char *vars, ad_status code, const char *why)
{
    ad_buf out = {0};
    ad_text_spans spans = {0};
    ad_err err = {0};
    ad_buf_puts(&out, "before");
    ad_status st = render(source, vars, &out, &spans, &err);
    ck_assert_msg(st == code && strstr(err.msg, why), "%.200s: status %d, \"%s\", not %d with \"%s\"", source, (int)st, err.msg, (int)code, why);
    ck_assert_msg(!strcmp(out.data, "before") && !spans.count, "%.200s: the output changed", source);
    ad_buf_deinit(&out);
    free(spans.spans);
}

/* ---- what expressions mean ---- */

START_TEST(expressions_mean_what_they_mean_in_jinja2)
{
    static const char d[] = "{\"d\": {\"k\": 1, \"r\": 2}}";
    static const char *const cases[][2] = {
        {"{{ x }}|{{ x is defined }}|{{ x == 'a' }}", "|False|False"},
        {"{{ 'a' + 'b'|upper + 'c' }}", "aBc"},
        {"{{ not x is defined }}", "True"},
        {"{{ [1,2,3][5] is defined }}", "False"},
        {"{{ {'items':1}['items'] }}", "1"},
        {"{% set a=1 %}{% for i in [1,2] %}{% set a=a+i %}{{a}}{% endfor %}{{a}}", "231"},
        {"{% set a=1 %}{% if true %}{% set a=2 %}{% endif %}{{a}}", "2"},
        {"{{ true }} {{ none }} {{ 1.0 }} {{ [1,'a',none] }}", "True None 1.0 [1, 'a', None]"},
        {"{{ ['a',none]|join(',') }}", "a,None"},
        {"{{ 'x' if false }}|", "|"},
        {"{{ 2 + 3 is number }}", "3"},
        {"{{ {'a':'<\xC3\xA9>'}|tojson }}", "{\"a\": \"<\xC3\xA9>\"}"},
        {"{{ {'a':[1,{}],'b':{}}|tojson(indent=4) }}", "{\n    \"a\": [\n        1,\n        {}\n    ],\n    \"b\": {}\n}"},
        {"{{ 'abc'[::-1] }} {{ 'abc'[:-1] }}", "cba ab"},
        {"{{ '}}' }}", "}}"},
        {"{{ 'a' ~ none ~ 1 ~ true }}", "aNone1True"},
        {"{{ u | length }}", "0"},
        {"{% for k,v in d.items() if k != 'r' %}{{k}}{{loop.last}}{% endfor %}", "kTrue"},
        {"{{ 1/2 }} {{ 7//2 }} {{ -7 % 3 }}", "0.5 3 2"},
        {"{{ x is none }}", "False"},
        {"{{ d is mapping }} {{ 'a' is iterable }} {{ d is sequence }} {{ 'a' is sequence }}", "True True True True"},
        {"{% for i in u %}x{% endfor %}ok", "ok"},
        {"{{ d.nokey is defined }}", "False"},
        {"{{ '%s-%d' % ('a',3) }}", "a-3"},
        {"{{ d|items|list }}", "[('k', 1), ('r', 2)]"},
        {"{% macro f(a,b=2) %}{{a}}{{b}}{% endmacro %}{{ f(1) }}{{ f(1,b=3) }}", "1213"},
        {"{{ {'b':1,'a':2}|dictsort }}", "[('a', 2), ('b', 1)]"},
        {"{{ 1e3 }} {{ 0.1 }} {{ 100000000000000000000.0 }}", "1000.0 0.1 1e+20"},
        {"{{ none|default('d') }} {{ none|default('d', true) }}", "None d"},
        {"{{ d.get('zz') }} {{ d.get('zz','q') }}", "None q"},
        {"{{ not x|length == 1 }} {{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ 'a' not in 'bcd' }}", "True True False True"},
        {"{{ -2 ** 2 }} {{ 2 ** 3 ** 2 }} {{ 1 + 2 * 3 - 4 }} {{ 2 * 'ab' }}", "4 64 3 abab"}, /* Jinja2's own precedence of ** */
        {"{{ 'h\xC3\xA9llo'[1] }}{{ 'h\xC3\xA9llo'|length }}{{ 'h\xC3\xA9llo'[-3:] }}{{ 'h\xC3\xA9llo'[::2] }}", "\xC3\xA9" "5llohlo"},
        {"{% set ns = namespace(n=0) %}{% for i in range(4) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "6"},
        {"{% for i in [1,2,3] %}{% if i == 2 %}{% continue %}{% endif %}{{ i }}{% endfor %}{% for i in [1,2] %}{{ i }}{% break %}{% endfor %}", "131"},
        {"{% for i in [] %}x{% else %}none{% endfor %}", "none"},
        {"{% set t %}a{{ 1 }}{% endset %}[{{ t }}]{% filter upper %}b{{ t }}{% endfilter %}{% generation %}g{% endgeneration %}", "[a1]BA1g"},
        {"{% for x in [[1,[2]]] recursive %}<{{ x[0] }}{% if x[1] %}{{ loop([[x[1][0], []]]) }}{% endif %}>{% endfor %}", "<1<2>>"},
        {"{{ [{'a': {'b': 1}}, {'a': {'b': 2}}] | map(attribute='a.b') | list }}", "[1, 2]"},
        {"{{ [{'r': 'u'}, {'r': 's'}] | selectattr('r', 'equalto', 'u') | list }}{{ none | selectattr('r') | list }}", "[{'r': 'u'}][]"},
        {"{{ 'a\\tb\\u00e9\\x41\\q\\'' }}{{ \"it's\" }}{{ ['it\\'s'] }}", "a\tb\xC3\xA9" "A\\q'it's[\"it's\"]"},
        {"{% raw %}{{ x }}{% endraw %}{# no #}.", "{{ x }}."},
        {"{% set a, b = 1, [2] %}{{ a }}{{ b }}{{ (1,) }}", "1[2](1,)"},
        {"{{ strftime_now('%Y') }}", "2023"},
    };
    setenv("TZ", "UTC", 1);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect(cases[i][0], d, cases[i][1]);
}
END_TEST

START_TEST(white_space_around_tags_goes_as_with_trim_blocks_and_lstrip_blocks)
{
    static const char *const cases[][2] = {
        {"a\n  {% if true %}\nb\n  {% endif %}\nc\n", "a\nb\nc"},
        {"  {% if true %}x{% endif %}  \n", "x  "},
        {"a {% if true %}x{% endif %}", "a x"},
        {"a  {%- if true -%}  \n x {%- endif %}\n\n", "ax"},
        {"  {{ 1 }}\n  {{- 2 -}}\n 3", "  123"},
        {"a\n  {# c #}\nb\n  {#- c -#}\n d", "a\nbd"},
        {"a\n  {%+ if true %}b{% endif +%}\nc", "a\n  b\nc"},
        {"a\r\n{% if true %}\r\nb\r\n{% endif %}\r\n", "a\nb\n"},
        {"a\n\n", "a\n"},
        {"\n", ""},
        {"{% raw %}\n a {% endraw %}\nb", "\n a b"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect(cases[i][0], NULL, cases[i][1]);
}
END_TEST

START_TEST(what_python_refuses_is_an_error_with_its_line)
{
    static const char *const cases[][2] = {
        {"{{ 1 + 2 ~ 3 }}", "line 1: + does not go with 'int' and 'str'"},
        {"\n\n{{ x.y }}", "line 3: 'x' is undefined"},
        {"{{ x + 'a' }}", "'x' is undefined"},
        {"{{ u.foo is defined }}", "'u' is undefined"},
        {"{{ d.nokey.foo }}", "undefined"},
        {"{{ 1 < 'a' }}", "no order"},
        {"{{ 1 // 0 }}", "division by zero"},
        {"{{ {}|foo }}", "no filter 'foo'"},
        {"{{ 1 is foo }}", "no test 'foo'"},
        {"{{ [1]|tojson(5, 6, 7, 8, 9) }}", "at most 4"},
        {"{{ x|tojson }}", "no form in JSON"},
        {"{{ none() }}", "cannot be called"},
        {"{{ 5|length }}", "no length"},
        {"{% for i in 5 %}{% endfor %}", "cannot be iterated"},
        {"{% set x = {} %}{% set x.y = 1 %}", "no namespace"},
        {"{% for a, b in [[1]] %}{% endfor %}", "1 values for 2 names"},
        {"{{ 9223372036854775807 + 1 }}", "out of range"},
        {"{{ 'a'|replace('b') }}", "needs 2"},
        {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "at most 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bool limit = strstr(cases[i][1], "out of range");
        refuse(cases[i][0], "{\"d\": {}}", limit ? AD_ELIMIT : AD_EINVAL, cases[i][1]);
    }
}
END_TEST

START_TEST(what_is_no_template_is_refused_with_its_line)
{
    static const char *const cases[][2] = {
        {"{{", "not closed"}, {"\n{{ 'a }}", "line 2: a string is not closed"}, {"{% if %}", "expected an expression"}, {"{% if x %}a", "endif"}, {"{% endif %}", "endif"},
        {"{% for x y %}", "expected in"}, {"{# a", "a comment is not closed"}, {"{{ a b }}", "expected }}"}, {"{{ (1 }}", "unexpected"}, {"{{ 1) }}", "unexpected ')'"},
        {"{% raw %}a", "not closed"}, {"{% foo %}", "foo"}, {"{{ a ? b }}", "'?'"}, {"{% break %}", "outside"}, {"{% for i in x %}{% macro f() %}{% break %}{% endmacro %}{% endfor %}", "outside"},
        {"{{ '\\u12' }}", "hexadecimal"}, {"{{ 99999999999999999999 }}", "out of range"}, {"{% macro f(a=1, b) %}{% endmacro %}", "default"}, {"{{ f(a=1, 2) }}", "positional"},
        {"{% set 1 = 2 %}", "expected a name"}, {"{{ {1} }}", "expected :"}, {"{{ a | }}", "filter"}, {"{{ a is }}", "test"}, {"{{ a.'b' }}", "name or number"},
    };
    static const char *const unsupported[] = {"{% include 'a' %}", "{% extends 'a' %}", "{% import 'a' as b %}", "{% call f() %}{% endcall %}", "{{ f(*a) }}"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) refuse(cases[i][0], NULL, AD_EFORMAT, cases[i][1]);
    for (size_t i = 0; i < sizeof unsupported / sizeof *unsupported; i++) refuse(unsupported[i], NULL, AD_EUNSUPPORTED, "not supported");
    ad_err err;
    ad_jinja *t = NULL;
    ck_assert_int_eq(ad_jinja_new(&t, "a\xff", 2, "probe", &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, "UTF-8 at byte 1"), "%s", err.msg);
}
END_TEST

START_TEST(raise_exception_gives_the_template_s_own_sentence)
{
    ad_buf out = {0};
    ad_err err;
    ck_assert_int_eq(render("\n{{ raise_exception('Roles must ' + 'alternate!') }}", NULL, &out, NULL, &err), AD_EINVAL);
    ck_assert_str_eq(err.msg, "Roles must alternate!");
    ad_buf_deinit(&out);
}
END_TEST

/* ---- bounds ---- */

START_TEST(many_variables_do_not_make_each_of_them_dear)
{
    ad_buf b = {0};
    double start = now();
    for (int i = 0; i < 20000; i++) ad_buf_printf(&b, "{%% set v%d = 1 %%}", i);
    ad_buf_puts(&b, "{% for i in range(100000) %}{{ nope }}{{ nope }}{{ nope }}{% endfor %}");
    refuse(b.data, NULL, AD_ELIMIT, "steps");
    ck_assert_msg(now() - start < 5, "%g s", now() - start);
    ad_buf_deinit(&b);
}
END_TEST

static void repeat(ad_buf *b, const char *unit, int times)
{
    while (times-- > 0) ad_buf_puts(b, unit);
}

START_TEST(hostile_templates_end_soon_and_say_why)
{
    static const char *const cases[] = {
        "{% for i in range(1000000000) %}{% endfor %}",
        "{{ 'a' * 1000000000 }}",
        "{{ ['a'] * 1000000000 }}",
        "{{ 'a' * 9223372036854775807 }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% for i in range(10000) %}{{ 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa' * 1000 }}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(100) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(100) %}{% set ns.l = ns.l + ns.l %}{% endfor %}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(100000) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l == ns.l }}{{ ns.l|tojson }}",
        "{% set l = [] %}{% set x = l.append(l) %}{{ l }}",
        "{% set l = [] %}{% set x = l.append(l) %}{{ l|tojson }}",
        "{% set l = [1] %}{% for i in l %}{% set x = l.append(i) %}{% endfor %}",
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{{ range(100000)|list|sort|unique|list }}",
        "{{ 'ab'|center(100000000) }}",
        "{{ '%100000000d' % 1 }}",
        "{{ 'a'|indent(100000000) }}",
        "{{ 2 ** 64 }}",
        "{% set ns = namespace(s='ab' * 1000) %}{% for i in range(20) %}{% set ns.s = ns.s|replace('', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='ab' * 1000) %}{% for i in range(20) %}{% set ns.s = ns.s|replace('b', ns.s) %}{% endfor %}",
        "{% set ns = namespace(s='a') %}{% for i in range(20) %}{% set ns.s = ns.s|join(ns.s * 1000) ~ ns.s %}{% set ns.s = ns.s * 10 %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s[::-1] %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s == s ~ '' %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = 'y' in s %}{% endfor %}",
        "{% set s = (' ' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s|trim %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s.rfind('y') %}{% endfor %}",
        "{% set s = ('\xC3\xA9' * 1000) * 2000 %}{% for i in range(100000) %}{% set y = s[1999999] %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s|upper %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s.split('y') %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s is upper %}{% endfor %}",
        "{% set d = {} %}{% for i in range(100000) %}{% set x = d.update({i: i}) %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% set t = s ~ '' %}{% for i in range(100000) %}{% set y = s.startswith(t) %}{% endfor %}",
        "{% set s = '1' ~ (' ' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = s|from_json %}{% endfor %}",
        "{% set s = ('x' * 1000) * 4000 %}{% for i in range(100000) %}{% set y = {}[s] %}{% set z = {}[s] %}{% set z = {}[s] %}{% set z = {}[s] %}{% set z = {}[s] %}{% endfor %}",
        "{% set l = range(100000) %}{% for i in range(100000) %}{% set y = l|sum %}{% endfor %}",
        "{% set l = range(100000) %}{% for i in range(100000) %}{% set y = l|max %}{% endfor %}",
        "{% set l = range(100000) %}{% for i in range(100000) %}{% set y = 5.5 in l %}{% endfor %}",
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double start = now();
        refuse(cases[i], NULL, AD_ELIMIT, "probe, line 1");
        ck_assert_msg(now() - start < 3, "%s: %g s", cases[i], now() - start);
    }
}
END_TEST

START_TEST(deeply_nested_templates_are_refused_by_name)
{
    static const struct { const char *open, *middle, *close; } shapes[] = {
        {"(", "1", ")"}, {"[", "", "]"}, {"{'a':", "1", "}"}, {"not ", "1", ""}, {"-", "1", ""}, {"1 + ", "1", ""}, {"x(", "", ")"}, {"x[", "1", "]"}, {"a.", "b", ""}, {"a|", "upper", ""},
        {"1 if ", "1", ""}, {"1 if 1 else ", "1", ""}, {"a and ", "b", ""}, {"a is in ", "b", ""}, {"2 ** ", "2", ""}};
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
        ad_buf b = {0};
        ad_buf_puts(&b, "{{ ");
        repeat(&b, shapes[i].open, 20000);
        ad_buf_puts(&b, shapes[i].middle);
        repeat(&b, shapes[i].close, 20000);
        ad_buf_puts(&b, " }}");
        ad_err err = {0};
        ad_jinja *t = NULL;
        ad_status st = ad_jinja_new(&t, b.data, b.len, "probe", &err);
        ck_assert_msg(st == AD_ELIMIT || st == AD_EFORMAT, "%s: %d %s", shapes[i].open, (int)st, err.msg);
        ad_buf_deinit(&b);
    }
    ad_buf b = {0};
    repeat(&b, "{% if 1 %}", 20000);
    refuse(b.data, NULL, AD_ELIMIT, "deep");
    ad_buf_clear(&b);
    ad_buf_puts(&b, "{% if 0 %}");
    repeat(&b, "{% elif 0 %}x", 20000);
    ad_buf_puts(&b, "{% else %}y{% endif %}");
    expect(b.data, NULL, "y"); /* long is not deep */
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(deep_variables_and_long_ones_are_bounded_too)
{
    ad_buf b = {0};
    ad_buf_puts(&b, "{\"v\": ");
    repeat(&b, "[", 2000);
    repeat(&b, "]", 2000);
    ad_buf_puts(&b, "}");
    refuse("{{ v }}", b.data, AD_ELIMIT, "deep");
    ad_buf_clear(&b);
    ad_buf_puts(&b, "{\"v\": \"");
    repeat(&b, "abcdefghijklmnop", 1 << 19);
    ad_buf_puts(&b, "\"}");
    ad_buf out = {0};
    ad_err err = {0};
    ck_assert_msg(render("{{ '<' + v|trim + '>' }}", b.data, &out, NULL, &err) == AD_OK, "%s", err.msg); /* 8 MiB: limits grow with the input */
    ck_assert_uint_eq(out.len, (16u << 19) + 2);
    ad_buf_deinit(&out);
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(garbage_never_does_more_than_fail)
{
    static const char *const parts[] = {"{{", "}}", "{%", "%}", "{#", "#}", "'", "\"", "for", "in", "if", "endif", "endfor", "set", "x", "1", "(", ")", "[", "]", "{", "}", ".", "|", "is",
                                        "not", " ", "\n", "-", "+", ":", ",", "=", "~", "\xC3\xA9", "\\", "macro", "f", "endmacro", "else", "loop", "raw", "endraw", "%", "*"};
    uint32_t seed = 1;
    for (int i = 0; i < 20000; i++) {
        ad_buf b = {0}, out = {0};
        ad_err err;
        for (int k = 0; k < 30; k++) {
            seed = seed * 1664525 + 1013904223;
            ad_buf_puts(&b, parts[(seed >> 8) % (sizeof parts / sizeof *parts)]);
        }
        ad_status st = render(b.data, "{\"x\": [1, \"a\"]}", &out, NULL, &err);
        ck_assert_msg(st == AD_OK || err.msg[0], "%s", b.data);
        ad_buf_deinit(&b);
        ad_buf_deinit(&out);
    }
}
END_TEST

/* ---- where bytes come from ---- */

/* want: the output, with what is untrusted between '<' and '>'. The probe's variable v is "aXb Xc" and w is " q ". */
static void expect_origin(const char *source, const char *want)
{
    ad_buf out = {0}, marked = {0};
    ad_text_spans spans = {0};
    ad_err err = {0};
    ck_assert_msg(render(source, "{\"v\": \"aXb Xc\", \"w\": \" q \", \"o\": {\"k\\n\": [\"s\\\"\", 5]}}", &out, &spans, &err) == AD_OK, "%s: %s", source, err.msg);
    size_t at = 0;
    for (size_t i = 0; i < spans.count; i++) {
        ck_assert(spans.spans[i].start < spans.spans[i].end && spans.spans[i].end <= out.len && (i == 0 || spans.spans[i].start > spans.spans[i - 1].end));
        ad_buf_append(&marked, out.data + at, spans.spans[i].start - at);
        ad_buf_printf(&marked, "<%.*s>", (int)(spans.spans[i].end - spans.spans[i].start), out.data + spans.spans[i].start);
        at = spans.spans[i].end;
    }
    ad_buf_append(&marked, out.data + at, out.len - at);
    ck_assert_msg(!strcmp(marked.data, want), "%s: \"%s\", not \"%s\"", source, marked.data, want);
    ad_buf_deinit(&out);
    ad_buf_deinit(&marked);
    free(spans.spans);
}

START_TEST(bytes_of_the_input_are_known_wherever_they_go)
{
    static const char *const cases[][2] = {
        {"a{{ v }}b", "a<aXb Xc>b"},
        {"{{ '[' + v + ']' }}", "[<aXb Xc>]"},
        {"{{ '[' ~ v ~ w|trim ~ ']' }}", "[<aXb Xcq>]"},
        {"{{ ('[' + v + ']')[1:3] }}{{ ('[' + v + ']')[::-1] }}{{ ('[' + v)[0] }}", "<aX>]<cX bXa>[["},
        {"{{ ('--' + v + '--').strip('-') }}{{ ('--' + w + '--').lstrip('-') }}", "<aXb Xc q >--"},
        {"{{ ('p X' + v).split('X')|join('|') }}", "p |<a>|<b >|<c>"},
        {"{{ ('p ' + v).split()|join('|') }}", "p|<aXb>|<Xc>"},
        {"{{ v|replace('X', 'yy') }}{{ 'mXn'|replace('X', v) }}", "<a>yy<b >yy<c>m<aXb Xc>n"},
        {"{{ ('t' + v)|upper }}{{ ('t' + v)|lower }}{{ v|title }}", "T<AXB XC>t<axb xcAxb Xc>"},
        {"{{ [v, 't']|join(',') }}{{ [v, 't'] }}", "<aXb Xc>,t['<aXb Xc>', 't']"},
        {"{{ o|tojson }}", "{\"<k\\n>\": [\"<s\\\">\", 5]}"},
        {"{{ o }}", "{'<k\\n>': ['<s\">', 5]}"},
        {"{{ ('a\n' + v)|indent(1) }}", "a\n <aXb Xc>"},
        {"{{ '%s:%5s' % (v, 't') }}{{ '{}!'.format(v) }}", "<aXb Xc>:    t<aXb Xc>!"},
        {"{% set x %}[{{ v }}]{% endset %}{% macro m(a) %}({{ a }}){% endmacro %}{{ x }}{{ m(v) }}", "[<aXb Xc>](<aXb Xc>)"},
        {"{% for c in ('-' + v)|list %}{{ c }},{% endfor %}", "-,<a>,<X>,<b>,< >,<X>,<c>,"},
        {"{% for k, x in o.items() %}{{ k }}{{ x[0] }}{% endfor %}{{ o.keys()|first }}", "<k\ns\"k\n>"},
        {"{{ v|default('x') }}{{ nope or v }}{{ (v if v else 'y')|string }}{{ [v, 'zz']|min }}", "<aXb XcaXb XcaXb XcaXb Xc>"},
        {"{{ ('l1\n' + v).splitlines()|last }}{{ v.partition('X')|join('-') }}", "<aXb Xca>-<X>-<b Xc>"},
        {"{{ ('{\"a\": \"' + v + '\"}')|from_json }}", "{'<a>': '<aXb Xc>'}"},
        {"{{ v|e }}{{ 'x'|center(3) }}{{ v.removeprefix('aX') }}", "<aXb Xc> x <b Xc>"},
        {"{% filter upper %}t{{ v }}{% endfilter %}", "T<AXB XC>"},
        {"{{ strftime_now('%%') }}{{ strftime_now(v) }}{{ strftime_now('t' + v) }}", "%<aXb XctaXb Xc>"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) expect_origin(cases[i][0], cases[i][1]);
}
END_TEST

START_TEST(words_under_the_trusted_key_are_trusted)
{
    static const char *const words[] = {"user", NULL};
    json_t *m = json_loads("[{\"role\": \"user\", \"content\": \"user\"}, {\"role\": \"users\"}]", 0, NULL);
    ad_jinja_var var = {"m", m, true, "role", words};
    ad_jinja *t = NULL;
    ad_buf out = {0};
    ad_text_spans spans = {0};
    ad_err err;
    static const char source[] = "{{ m[0].role }}{{ m[0].content }}.{{ m[1].role }}";
    ck_assert_int_eq(ad_jinja_new(&t, source, sizeof source - 1, "probe", &err), AD_OK);
    ck_assert_int_eq(ad_jinja_render(t, &var, 1, &usual, &out, &spans, &err), AD_OK);
    ck_assert_str_eq(out.data, "useruser.users");
    ck_assert(spans.count == 2 && spans.spans[0].start == 4 && spans.spans[0].end == 8 && spans.spans[1].start == 9 && spans.spans[1].end == 14);
    ck_assert(ad_jinja_mentions(t, "content") && !ad_jinja_mentions(t, "tools"));
    ad_jinja_free(&t);
    json_decref(m);
    ad_buf_deinit(&out);
    free(spans.spans);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("jinja");
    TCase *t = tcase_create("jinja");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, expressions_mean_what_they_mean_in_jinja2);
    tcase_add_test(t, white_space_around_tags_goes_as_with_trim_blocks_and_lstrip_blocks);
    tcase_add_test(t, what_python_refuses_is_an_error_with_its_line);
    tcase_add_test(t, what_is_no_template_is_refused_with_its_line);
    tcase_add_test(t, raise_exception_gives_the_template_s_own_sentence);
    tcase_add_test(t, hostile_templates_end_soon_and_say_why);
    tcase_add_test(t, many_variables_do_not_make_each_of_them_dear);
    tcase_add_test(t, deeply_nested_templates_are_refused_by_name);
    tcase_add_test(t, deep_variables_and_long_ones_are_bounded_too);
    tcase_add_test(t, garbage_never_does_more_than_fail);
    tcase_add_test(t, bytes_of_the_input_are_known_wherever_they_go);
    tcase_add_test(t, words_under_the_trusted_key_are_trusted);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
