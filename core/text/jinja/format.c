/* SPDX-License-Identifier: MIT */
/* The two ways Python formats a string: '%s' % values and '{}'.format(values). */
#include <stdio.h>
#include <string.h>

#include "core/text/jinja/private.h"

typedef struct {
    bool left, plus, blank, zero, alternate;
    int64_t width, precision; /* precision < 0: not given */
    char type;
} spec;

static int64_t read_number(jj *j, const jj_str *f, size_t *at)
{
    int64_t n = 0;
    for (; *at < f->len && f->p[*at] >= '0' && f->p[*at] <= '9'; ++*at) {
        n = n * 10 + (f->p[*at] - '0');
        if (n > JJ_MAX_WIDTH) jj_fail(j, AD_ELIMIT, "a width in a format is over the limit of %d", JJ_MAX_WIDTH);
    }
    return n;
}

static void add_number(jj *j, jj_build *b, const spec *s, jj_val v)
{
    char fmt[16], text[JJ_MAX_WIDTH + 400];
    bool real = strchr("eEfFgG", s->type) != NULL;
    int64_t i = 0;
    if (!jj_is_number(v)) jj_fail(j, AD_EINVAL, "%%%c needs a number, not '%s'", s->type, jj_type_name(v));
    if (!real && !jj_as_int(v, &i)) {
        if (s->type != 'd' || !(v.f > -9e18 && v.f < 9e18)) jj_fail(j, AD_EINVAL, "%%%c needs a whole number", s->type);
        i = (int64_t)v.f;
    }
    sprintf(fmt, "%%%s%s%s%s%s*.*%s%c", s->left ? "-" : "", s->plus ? "+" : "", s->blank ? " " : "", s->zero ? "0" : "", s->alternate ? "#" : "", real ? "" : "ll", s->type);
    int precision = s->precision < 0 ? -1 : (int)s->precision, n;
    if (real) n = snprintf(text, sizeof text, fmt, (int)s->width, precision, jj_number(v));
    else n = snprintf(text, sizeof text, fmt, (int)s->width, precision, (long long)i);
    jj_add(j, b, text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1, false);
}

static void add_text(jj *j, jj_build *b, const spec *s, const jj_str *text)
{
    jj_val v = {JJ_STR, {.s = text}};
    if (s->precision >= 0) v = jj_slice(j, v, (jj_val){0}, jj_int(s->precision), (jj_val){0});
    jj_add_str(j, b, jj_pad(j, v.s, s->width, NULL, s->left ? -1 : 1).s);
}

/* ---- % ---- */

/* The value of the next field: of the tuple, the only one, or by name. */
static jj_val percent_value(jj *j, const jj_str *f, size_t *at, jj_val args, size_t *used)
{
    if (*at < f->len && f->p[*at] == '(') {
        const char *close = memchr(f->p + *at, ')', f->len - *at);
        if (!close || args.kind != JJ_DICT) jj_fail(j, AD_EINVAL, "%%(name) needs a dict");
        jj_val *v = jj_find(j, args.dict, jj_part(j, f, *at + 1, (size_t)(close - f->p)));
        if (!v) jj_fail(j, AD_EINVAL, "the dict has no key for a %%(name)");
        *at = (size_t)(close - f->p) + 1;
        ++*used;
        return *v;
    }
    size_t n = args.kind == JJ_TUPLE ? args.list->n : 1;
    if (*used >= n) jj_fail(j, AD_EINVAL, "not enough arguments for the format string");
    ++*used;
    return args.kind == JJ_TUPLE ? args.list->items[*used - 1] : args;
}

static spec percent_spec(jj *j, const jj_str *f, size_t *at)
{
    spec s = {.precision = -1};
    for (; *at < f->len && f->p[*at] && strchr("-+ 0#", f->p[*at]); ++*at) {
        char c = f->p[*at];
        s.left |= c == '-', s.plus |= c == '+', s.blank |= c == ' ', s.zero |= c == '0', s.alternate |= c == '#';
    }
    s.width = read_number(j, f, at);
    if (*at < f->len && f->p[*at] == '.') {
        ++*at;
        s.precision = read_number(j, f, at);
    }
    if (*at >= f->len) jj_fail(j, AD_EINVAL, "incomplete format");
    s.type = f->p[(*at)++];
    if (s.type == 'i' || s.type == 'u') s.type = 'd';
    if (!s.type || !strchr("srdxXoeEfFgG", s.type)) jj_fail(j, AD_EINVAL, "unsupported format character '%c'", s.type);
    return s;
}

jj_val jj_format_percent(jj *j, const jj_str *f, jj_val args)
{
    jj_build b = {0};
    size_t used = 0;
    for (size_t at = 0; at < f->len;) {
        const char *percent = memchr(f->p + at, '%', f->len - at);
        size_t end = percent ? (size_t)(percent - f->p) : f->len;
        jj_add_part(j, &b, f, at, end);
        if (!percent) break;
        at = end + 1;
        jj_step(j, 4);
        if (at < f->len && f->p[at] == '%') {
            jj_add_part(j, &b, f, at, at + 1);
            at++;
            continue;
        }
        bool named = at < f->len && f->p[at] == '(';
        jj_val v = named ? percent_value(j, f, &at, args, &used) : jj_none();
        spec s = percent_spec(j, f, &at);
        if (!named) v = percent_value(j, f, &at, args, &used);
        if (s.type == 's') {
            add_text(j, &b, &s, jj_to_str(j, v));
        } else if (s.type == 'r') {
            jj_build r = {0};
            jj_add_repr(j, &r, v);
            add_text(j, &b, &s, jj_built(j, &r).s);
        } else {
            add_number(j, &b, &s, v);
        }
    }
    if (args.kind == JJ_TUPLE ? used < args.list->n : !used && args.kind != JJ_DICT && args.kind != JJ_LIST) jj_fail(j, AD_EINVAL, "not all arguments are used by the format string");
    return jj_built(j, &b);
}

/* ---- {} ---- */

static jj_val braces_value(jj *j, const jj_str *field, const jj_args *args, size_t *next)
{
    if (!field->len || (field->p[0] >= '0' && field->p[0] <= '9')) {
        size_t at = 0, i = field->len ? (size_t)read_number(j, field, &at) : (*next)++;
        if (at < field->len) jj_fail(j, AD_EUNSUPPORTED, "format(): only {}, {0} and {name} are supported");
        if (i >= args->n) jj_fail(j, AD_EINVAL, "format(): there is no argument %zu", i);
        return args->pos[i];
    }
    for (size_t i = 0; i < args->n_named; i++)
        if (strlen(args->named[i].name) == field->len && !memcmp(args->named[i].name, field->p, field->len)) return args->named[i].value;
    jj_fail(j, AD_EINVAL, "format(): there is no argument '%.*s'", (int)(field->len < 60 ? field->len : 60), field->p);
}

jj_val jj_format_braces(jj *j, const jj_str *f, const jj_args *args)
{
    jj_build b = {0};
    size_t next = 0;
    for (size_t at = 0; at < f->len; at++) {
        char c = f->p[at];
        jj_step(j, at % 8 == 0);
        if (c != '{' && c != '}') {
            jj_add_part(j, &b, f, at, at + 1);
        } else if (at + 1 < f->len && f->p[at + 1] == c) {
            jj_add_part(j, &b, f, at, at + 1);
            at++;
        } else {
            const char *close = c == '{' ? memchr(f->p + at, '}', f->len - at) : NULL;
            if (!close) jj_fail(j, AD_EINVAL, "format(): a single '%c'", c);
            jj_val field = jj_part(j, f, at + 1, (size_t)(close - f->p));
            if (memchr(field.s->p, ':', field.s->len) || memchr(field.s->p, '!', field.s->len)) jj_fail(j, AD_EUNSUPPORTED, "format(): only {}, {0} and {name} are supported");
            jj_add_val(j, &b, braces_value(j, field.s, args, &next));
            at = (size_t)(close - f->p);
        }
    }
    return jj_built(j, &b);
}
