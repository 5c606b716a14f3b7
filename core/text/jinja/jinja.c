/* SPDX-License-Identifier: MIT */
/* The public face: a template is parsed once and rendered often. */
#include "core/text/jinja/jinja.h"

#include <stdlib.h>
#include <string.h>

#include "core/text/jinja/private.h"
#include "core/text/utf8.h"

enum { MAX_TREE_BYTES = 256 << 20 }; /* a source of the largest size makes less than this */

/* ---- parsing ---- */

/* Line ends become '\n' and one at the very end goes, as Jinja2 does. The copy lives in the heap. */
static ad_str normal_source(jj *j, const char *source, size_t len)
{
    char *copy = jj_alloc(j, len, 1);
    size_t n = 0;
    for (size_t i = 0; i < len; i++) {
        if (source[i] == '\r' && i + 1 < len && source[i + 1] == '\n') continue;
        copy[n++] = source[i] == '\r' ? '\n' : source[i];
    }
    if (n && copy[n - 1] == '\n') n--;
    return (ad_str){copy, n};
}

/* Nothing here may change a local variable behind setjmp's back: all state is in *j and *t. */
static ad_status parse(jj *j, ad_jinja *t, const char *source, size_t len)
{
    if (setjmp(j->escape)) return j->status;
    ad_str text = normal_source(j, source, len);
    jj_parse(j, t, text.ptr, text.len);
    return AD_OK;
}

ad_status ad_jinja_new(ad_jinja **out, const char *source, size_t len, const char *label, ad_err *err)
{
    if (len > AD_JINJA_MAX_SOURCE) return ad_fail(err, AD_ELIMIT, "%s: a template of %zu bytes is over the limit of %d", label, len, AD_JINJA_MAX_SOURCE);
    size_t bad = ad_utf8_check(source, len);
    if (bad < len) return ad_fail(err, AD_EFORMAT, "%s: the template is not valid UTF-8 at byte %zu", label, bad);
    ad_jinja *t = ad_calloc(1, sizeof *t);
    if (t) t->label = strdup(label);
    if (!t || !t->label) {
        ad_jinja_free(&t);
        return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    }
    jj j = {.heap = {.limit = MAX_TREE_BYTES}, .label = t->label, .err = err, .tmpl = t};
    ad_status st = parse(&j, t, source, len);
    t->heap = j.heap;
    if (st == AD_OK) *out = t;
    else ad_jinja_free(&t);
    return st;
}

void ad_jinja_free(ad_jinja **tp)
{
    ad_jinja *t = *tp;
    if (!t) return;
    *tp = NULL;
    jj_heap_drop(&t->heap);
    free(t->label);
    free(t);
}

bool ad_jinja_mentions(const ad_jinja *t, const char *name)
{
    return jj_known_name(&t->names, name, strlen(name)) != NULL;
}

/* ---- rendering ---- */

static void declare(jj *j, const char *name, jj_val v)
{
    jj_scope *s = j->scope;
    s->vars = jj_grow(j, s->vars, s->n, &s->cap, s->n + 1, sizeof *s->vars);
    s->vars[s->n++] = (jj_var){name, v};
}

static jj_val function(jj *j, const jj_op *op)
{
    jj_bound *b = jj_alloc(j, 1, sizeof *b);
    b->op = op;
    return (jj_val){JJ_BOUND, {.bound = b}};
}

/* Variables hide functions, later variables earlier ones: the search goes from the inner scope out, and from the front. */
static void declare_all(jj *j, const ad_jinja_var *vars, size_t n)
{
    jj_scope *globals = jj_alloc(j, 2, sizeof *globals);
    globals[1].parent = &globals[0];
    j->scope = &globals[0];
    for (const jj_op *f = jj_functions; f->name; f++) {
        const char *known = jj_known_name(&j->tmpl->names, f->name, strlen(f->name));
        if (known) declare(j, known, function(j, f));
    }
    j->scope = &globals[1];
    for (size_t i = n; i-- > 0;) {
        const char *known = jj_known_name(&j->tmpl->names, vars[i].name, strlen(vars[i].name));
        if (known) declare(j, known, vars[i].value ? jj_from_json(j, vars[i].value, &vars[i]) : jj_none());
    }
}

/* Large conversations may take more than small ones. */
static void set_limits(jj *j, const ad_jinja_limits *limits)
{
    size_t input = j->heap.bytes;
    j->limits.steps = limits->steps + input;
    j->limits.output = limits->output + 4 * input;
    j->heap.limit = limits->memory + 32 * input;
    j->steps = 0;
}

static ad_status run(jj *j, const ad_jinja_var *vars, size_t n, const ad_jinja_limits *limits)
{
    if (setjmp(j->escape)) return j->status;
    declare_all(j, vars, n);
    set_limits(j, limits);
    jj_run(j);
    return AD_OK;
}

/* Adds the bytes [start, end) of the output, which begins at base, to the last span when they continue it. */
static ad_status add_span(ad_text_spans *l, size_t base, size_t start, size_t end)
{
    if (l->count && l->spans[l->count - 1].end == base + start) {
        l->spans[l->count - 1].end = base + end;
        return AD_OK;
    }
    if (ad_grow(&l->spans, &l->cap, l->count + 1, sizeof *l->spans) != AD_OK) return AD_ENOMEM;
    l->spans[l->count++] = (ad_text_span){base + start, base + end};
    return AD_OK;
}

static ad_status add_spans(ad_text_spans *l, size_t base, const jj_build *b)
{
    ad_status st = AD_OK;
    if (!b->mask) return b->untrusted && b->len ? add_span(l, base, 0, b->len) : AD_OK;
    for (size_t i = 0, end; st == AD_OK && i < b->len; i = end) {
        for (end = i + 1; end < b->len && b->mask[end] == b->mask[i]; end++) {}
        if (b->mask[i]) st = add_span(l, base, i, end);
    }
    return st;
}

static ad_status deliver(const jj_build *b, ad_buf *out, ad_text_spans *untrusted)
{
    size_t base = out->len, had = untrusted ? untrusted->count : 0;
    ad_buf_append(out, b->p ? b->p : "", b->len);
    if (out->failed) return AD_ENOMEM;
    if (!untrusted || add_spans(untrusted, base, b) == AD_OK) return AD_OK;
    untrusted->count = had;
    out->data[out->len = base] = '\0';
    return AD_ENOMEM;
}

ad_status ad_jinja_render(const ad_jinja *t, const ad_jinja_var *vars, size_t n, const ad_jinja_limits *limits, ad_buf *out, ad_text_spans *untrusted, ad_err *err)
{
    jj_build text = {0};
    ad_err unread;
    jj j = {.heap = {.limit = SIZE_MAX}, .label = t->label, .err = err ? err : &unread, .tmpl = t, .limits = {.now = limits->now}, .out = &text};
    ad_status st = run(&j, vars, n, limits);
    if (st == AD_OK && deliver(&text, out, untrusted) != AD_OK) st = ad_fail(err, AD_ENOMEM, "%s: out of memory", t->label);
    json_decref(j.parsed);
    jj_heap_drop(&j.heap);
    return st;
}
