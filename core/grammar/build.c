/* SPDX-License-Identifier: MIT */
/* Expressions: a growing array of small nodes that refer to earlier ones. */
#include "core/grammar/build.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/utf8.h"

ad_gx ad_gr_fail(ad_gr_builder *b, ad_status st, const char *fmt, ...)
{
    if (b->st != AD_OK) return AD_GX_EMPTY;
    char msg[sizeof b->err->msg];
    va_list args;
    va_start(args, fmt);
    vsnprintf(msg, sizeof msg, fmt, args);
    va_end(args);
    b->st = ad_fail(b->err, st, "%s", msg);
    return AD_GX_EMPTY;
}

static ad_gx no_memory(ad_gr_builder *b) { return ad_gr_fail(b, AD_ENOMEM, "grammar: out of memory"); }

static ad_gx expr_new(ad_gr_builder *b, ad_gr_expr x)
{
    if (b->st != AD_OK) return AD_GX_EMPTY;
    if (b->n_exprs == AD_GR_MAX_EXPRS) return ad_gr_fail(b, AD_ELIMIT, "the grammar is too large: it has more than %d parts", AD_GR_MAX_EXPRS);
    if (ad_grow(&b->exprs, &b->exprs_cap, b->n_exprs + 1, sizeof x) != AD_OK) return no_memory(b);
    b->exprs[b->n_exprs] = x;
    return (ad_gx)b->n_exprs++;
}

ad_status ad_gr_builder_init(ad_gr_builder *b, ad_err *err)
{
    *b = (ad_gr_builder){.err = err};
    expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_EMPTY});
    expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_NONE});
    ad_gr_rule_new(b, NULL, 0); /* rule 0 is nobody's */
    return b->st;
}

void ad_gr_builder_deinit(ad_gr_builder *b)
{
    for (size_t i = 0; i < b->n_rules; i++) free(b->rules[i].name);
    free(b->rules), free(b->exprs), free(b->sets);
    ad_gr_index_deinit(&b->set_index);
    *b = (ad_gr_builder){0};
}

/* ---- bytes ---- */

ad_gx ad_gr_bytes(ad_gr_builder *b, const ad_gr_set *set)
{
    uint32_t hash = ad_gr_hash(set, sizeof *set);
    size_t at = hash;
    for (int64_t id; (id = ad_gr_index_next(&b->set_index, hash, &at)) >= 0;)
        if (!memcmp(&b->sets[id], set, sizeof *set)) return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_SET, .a = (uint32_t)id});
    if (b->st != AD_OK) return AD_GX_EMPTY;
    if (ad_grow(&b->sets, &b->sets_cap, b->n_sets + 1, sizeof *set) != AD_OK || !ad_gr_index_add(&b->set_index, hash, (uint32_t)b->n_sets)) return no_memory(b);
    b->sets[b->n_sets++] = *set;
    return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_SET, .a = (uint32_t)b->n_sets - 1});
}

static void set_add(ad_gr_set *s, unsigned lo, unsigned hi)
{
    for (unsigned i = lo; i <= hi; i++) s->bits[i >> 6] |= (uint64_t)1 << (i & 63);
}

ad_gx ad_gr_text(ad_gr_builder *b, ad_str s)
{
    ad_gx x = AD_GX_EMPTY;
    for (size_t i = 0; i < s.len; i++) {
        ad_gr_set one = {{0}};
        set_add(&one, (unsigned char)s.ptr[i], (unsigned char)s.ptr[i]);
        x = ad_gr_seq(b, x, ad_gr_bytes(b, &one));
    }
    return x;
}

ad_gx ad_gr_lit(ad_gr_builder *b, const char *s) { return ad_gr_text(b, (ad_str){s, strlen(s)}); }

/* ---- characters ---- */

/* The UTF-8 of a range of characters: each byte of its own range. */
typedef struct {
    int n;
    unsigned char lo[4], hi[4];
} byte_ranges;

typedef struct {
    ad_gr_builder *b;
    ad_gx all;
    ad_gr_set first;   /* of the sequences gathered so far that share `rest` */
    byte_ranges rest;  /* its byte 0 is not used */
    bool any;
} class_builder;

static ad_gx range_expr(ad_gr_builder *b, unsigned lo, unsigned hi)
{
    ad_gr_set s = {{0}};
    set_add(&s, lo, hi);
    return ad_gr_bytes(b, &s);
}

static void flush_class(class_builder *c)
{
    if (!c->any) return;
    ad_gx x = ad_gr_bytes(c->b, &c->first);
    for (int i = 1; i < c->rest.n; i++) x = ad_gr_seq(c->b, x, range_expr(c->b, c->rest.lo[i], c->rest.hi[i]));
    c->all = ad_gr_alt(c->b, c->all, x);
    c->any = false;
}

static bool same_rest(const byte_ranges *x, const byte_ranges *y)
{
    if (x->n != y->n) return false;
    for (int i = 1; i < x->n; i++)
        if (x->lo[i] != y->lo[i] || x->hi[i] != y->hi[i]) return false;
    return true;
}

static void add_bytes(class_builder *c, const byte_ranges *s)
{
    if (c->any && !same_rest(&c->rest, s)) flush_class(c);
    if (!c->any) c->first = (ad_gr_set){{0}};
    c->rest = *s;
    c->any = true;
    set_add(&c->first, s->lo[0], s->hi[0]);
}

/* lo and hi have UTF-8 of the same length. Cut where a byte before the last one changes, unless all that follow it take
 * their full range. */
static void add_range(class_builder *c, uint32_t lo, uint32_t hi)
{
    byte_ranges s;
    char from[4], to[4];
    for (int shift = 6; shift <= 18; shift += 6) {
        uint32_t low = (1u << shift) - 1;
        if (lo >> shift == hi >> shift || hi < 0x80) continue;
        if (lo & low) {
            add_range(c, lo, lo | low);
            add_range(c, (lo | low) + 1, hi);
            return;
        }
        if ((hi & low) != low) {
            add_range(c, lo, (hi & ~low) - 1);
            add_range(c, hi & ~low, hi);
            return;
        }
    }
    s.n = ad_utf8_put(lo, from);
    ad_utf8_put(hi, to);
    for (int i = 0; i < s.n; i++) s.lo[i] = (unsigned char)from[i], s.hi[i] = (unsigned char)to[i];
    add_bytes(c, &s);
}

ad_gx ad_gr_class(ad_gr_builder *b, ad_gr_chars *chars)
{
    static const ad_gr_range lengths[] = {{0, 0x7F}, {0x80, 0x7FF}, {0x800, 0xD7FF}, {0xE000, 0xFFFF}, {0x10000, 0x10FFFF}}; /* and no surrogates */
    class_builder c = {.b = b, .all = AD_GX_NONE};
    if (chars->failed) return no_memory(b);
    ad_gr_chars_sort(chars);
    for (size_t i = 0; i < chars->n; i++)
        for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
            uint32_t lo = chars->ranges[i].lo, hi = chars->ranges[i].hi;
            if (lo < lengths[k].lo) lo = lengths[k].lo;
            if (hi > lengths[k].hi) hi = lengths[k].hi;
            if (lo <= hi) add_range(&c, lo, hi);
        }
    flush_class(&c);
    return c.all;
}

/* ---- combinations ---- */

ad_gx ad_gr_seq(ad_gr_builder *b, ad_gx x, ad_gx y)
{
    if (x == AD_GX_EMPTY || y == AD_GX_NONE) return y;
    if (y == AD_GX_EMPTY || x == AD_GX_NONE) return x;
    return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_SEQ, .a = x, .b = y});
}

ad_gx ad_gr_alt(ad_gr_builder *b, ad_gx x, ad_gx y)
{
    if (x == AD_GX_NONE || x == y) return y;
    if (y == AD_GX_NONE) return x;
    return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_ALT, .a = x, .b = y});
}

ad_gx ad_gr_repeat(ad_gr_builder *b, ad_gx x, uint32_t min, uint32_t max)
{
    if (min > max) return AD_GX_NONE;
    if (max == 0 || x == AD_GX_EMPTY) return AD_GX_EMPTY;
    if (min == 1 && max == 1) return x;
    if (x == AD_GX_NONE) return min ? AD_GX_NONE : AD_GX_EMPTY;
    return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_REPEAT, .a = x, .min = min, .max = max});
}

static int by_text(const void *a, const void *b)
{
    const ad_str *x = a, *y = b;
    size_t n = x->len < y->len ? x->len : y->len;
    int order = n ? memcmp(x->ptr, y->ptr, n) : 0;
    return order ? order : (x->len > y->len) - (x->len < y->len);
}

/* strs[n] are sorted and share their first `depth` bytes: a tree, so that a state never stands in many of them at once. */
static ad_gx choice_tree(ad_gr_builder *b, const ad_str *strs, size_t n, size_t depth, int nesting)
{
    if (nesting > 4 * AD_GR_MAX_NESTING) return ad_gr_fail(b, AD_ELIMIT, "the choices are too long prefixes of one another");
    size_t common = depth;
    while (common < strs[0].len && strs[0].ptr[common] == strs[n - 1].ptr[common]) common++; /* the last is not shorter where they agree */
    ad_gx head = ad_gr_text(b, (ad_str){strs[0].ptr + depth, common - depth}), tails = AD_GX_NONE;
    size_t i = 0;
    while (i < n && strs[i].len == common) i++;
    if (i) tails = AD_GX_EMPTY;
    for (size_t end; i < n && b->st == AD_OK; i = end) {
        for (end = i + 1; end < n && strs[end].ptr[common] == strs[i].ptr[common];) end++;
        tails = ad_gr_alt(b, tails, choice_tree(b, strs + i, end - i, common, nesting + 1));
    }
    return ad_gr_seq(b, head, tails);
}

ad_gx ad_gr_choice(ad_gr_builder *b, ad_str *strs, size_t n)
{
    if (!n) return AD_GX_NONE;
    qsort(strs, n, sizeof *strs, by_text);
    return choice_tree(b, strs, n, 0, 0);
}

/* ---- rules ---- */

uint32_t ad_gr_rule_new(ad_gr_builder *b, const char *name, size_t len)
{
    if (b->st != AD_OK) return 0;
    if (b->n_rules == AD_GR_MAX_RULES) return ad_gr_fail(b, AD_ELIMIT, "the grammar is too large: it has more than %d rules", AD_GR_MAX_RULES);
    if (ad_grow(&b->rules, &b->rules_cap, b->n_rules + 1, sizeof *b->rules) != AD_OK) return no_memory(b);
    char *copy = name ? strndup(name, len) : NULL;
    if (name && !copy) return no_memory(b);
    b->rules[b->n_rules] = (ad_gr_rule){AD_GX_NONE, copy};
    return (uint32_t)b->n_rules++;
}

void ad_gr_rule_set(ad_gr_builder *b, uint32_t rule, ad_gx body)
{
    if (b->st == AD_OK) b->rules[rule].body = body;
}

ad_gx ad_gr_ref(ad_gr_builder *b, uint32_t rule) { return expr_new(b, (ad_gr_expr){.kind = AD_GX_KIND_REF, .a = rule}); }
