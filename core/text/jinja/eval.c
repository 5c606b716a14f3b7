/* SPDX-License-Identifier: MIT */
/* Runs a tree: expressions to values, statements to text. */
#include <math.h>
#include <string.h>

#include "core/text/jinja/private.h"

typedef enum { NEXT, BREAK, CONTINUE } flow;

static flow run_body(jj *j, const jj_nodes *body);
static jj_val run_macro(jj *j, const jj_macro *m, const jj_args *args);
static jj_val recurse(jj *j, const jj_loop *loop, const jj_args *args);

/* ---- variables ---- */

static jj_scope *new_scope(jj *j, jj_scope *parent)
{
    jj_scope *s = jj_alloc(j, 1, sizeof *s);
    s->parent = parent;
    return s;
}

static void assign(jj *j, jj_scope *s, const char *name, jj_val v)
{
    jj_step(j, s->n / 16);
    for (size_t i = 0; i < s->n; i++) {
        if (s->vars[i].name != name) continue;
        s->vars[i].value = v;
        return;
    }
    s->vars = jj_grow(j, s->vars, s->n, &s->cap, s->n + 1, sizeof *s->vars);
    s->vars[s->n++] = (jj_var){name, v};
}

static jj_val look_up(jj *j, const char *name)
{
    for (const jj_scope *s = j->scope; s; s = s->parent) {
        jj_step(j, s->n / 16);
        for (size_t i = 0; i < s->n; i++)
            if (s->vars[i].name == name) return s->vars[i].value;
    }
    return jj_undefined(name);
}

_Noreturn static void undefined(jj *j, jj_val v)
{
    if (v.name) jj_fail(j, AD_EINVAL, "'%.100s' is undefined", v.name);
    jj_fail(j, AD_EINVAL, "a value is undefined");
}

/* ---- attributes and items ---- */

static jj_val loop_attr(const jj_loop *l, const char *name)
{
    size_t n = l->items->n, i = l->index;
    if (!strcmp(name, "index")) return jj_int((int64_t)i + 1);
    if (!strcmp(name, "index0")) return jj_int((int64_t)i);
    if (!strcmp(name, "first")) return jj_bool(i == 0);
    if (!strcmp(name, "last")) return jj_bool(i + 1 >= n);
    if (!strcmp(name, "length")) return jj_int((int64_t)n);
    if (!strcmp(name, "revindex")) return jj_int((int64_t)(n - i));
    if (!strcmp(name, "revindex0")) return jj_int((int64_t)(n - i) - 1);
    if (!strcmp(name, "previtem")) return i > 0 ? l->items->items[i - 1] : jj_undefined("previtem");
    if (!strcmp(name, "nextitem")) return i + 1 < n ? l->items->items[i + 1] : jj_undefined("nextitem");
    if (!strcmp(name, "depth")) return jj_int(l->depth + 1);
    if (!strcmp(name, "depth0")) return jj_int(l->depth);
    return jj_undefined(NULL);
}

static bool find_method(jj *j, jj_val v, const char *name, size_t len, jj_val *out)
{
    const jj_op *op = jj_method(v.kind, name, len);
    if (!op) return false;
    jj_bound *b = jj_alloc(j, 1, sizeof *b);
    *b = (jj_bound){op, v};
    *out = (jj_val){JJ_BOUND, {.bound = b}};
    return true;
}

/* The template's own copy of a name; NULL when it has none, or none that could be an attribute's. */
static const char *own_name(const jj *j, const char *name, size_t len)
{
    return len <= 256 ? jj_known_name(&j->tmpl->names, name, len) : NULL;
}

static jj_val missing(jj *j, const char *name, size_t len)
{
    return jj_undefined(own_name(j, name, len));
}

jj_val jj_attr(jj *j, jj_val v, const char *name, size_t len)
{
    jj_val out;
    jj_str key = {.p = name, .len = len};
    if (v.kind == JJ_UNDEFINED) undefined(j, v);
    const char *known = v.kind == JJ_LOOP ? own_name(j, name, len) : NULL;
    if (known) {
        out = loop_attr(v.loop, known);
        if (out.kind != JJ_UNDEFINED) return out;
    }
    if (find_method(j, v, name, len, &out)) return out; /* before a key of that name, as in Jinja2 */
    jj_val *have = v.kind == JJ_DICT || v.kind == JJ_NAMESPACE ? jj_find(j, v.dict, (jj_val){JJ_STR, {.s = &key}}) : NULL;
    return have ? *have : missing(j, name, len);
}

static jj_val nth(jj *j, jj_val v, int64_t i)
{
    int64_t n = (int64_t)jj_length(j, v);
    if (i < 0) i += n;
    if (i < 0 || i >= n) return jj_undefined(NULL);
    return v.kind == JJ_STR ? jj_slice(j, v, jj_int(i), jj_int(i + 1), jj_int(1)) : v.list->items[i];
}

jj_val jj_item(jj *j, jj_val v, jj_val key)
{
    int64_t i;
    jj_val out;
    if (v.kind == JJ_UNDEFINED) undefined(j, v);
    if ((v.kind == JJ_LIST || v.kind == JJ_TUPLE || v.kind == JJ_STR) && jj_as_int(key, &i)) return nth(j, v, i);
    if (v.kind == JJ_DICT) {
        jj_val *have = jj_find(j, v.dict, key);
        if (have) return *have;
    }
    if (key.kind != JJ_STR) return jj_undefined(NULL);
    if (v.kind == JJ_NAMESPACE || v.kind == JJ_LOOP) return jj_attr(j, v, key.s->p, key.s->len);
    return find_method(j, v, key.s->p, key.s->len, &out) ? out : missing(j, key.s->p, key.s->len);
}

/* ---- operators ---- */

_Noreturn static void out_of_range(jj *j)
{
    jj_fail(j, AD_ELIMIT, "a whole number is out of range");
}

static jj_val repeat(jj *j, jj_val v, int64_t times)
{
    size_t n = times > 0 ? (size_t)times : 0, size = v.kind == JJ_STR ? v.s->len : v.list->n, total;
    if (!ad_mul_size(n, size, &total) || total > j->heap.limit) jj_fail(j, AD_ELIMIT, "a repeated value is too large");
    if (v.kind != JJ_STR) {
        jj_val out = jj_list_new(j, v.kind);
        for (size_t i = 0; i < total; i++) {
            jj_push(j, out, v.list->items[i % size]);
            jj_step(j, 1);
        }
        return out;
    }
    jj_build b = {0};
    for (size_t i = 0; size && i < n; i++) {
        jj_add_str(j, &b, v.s);
        jj_step(j, 1);
    }
    return jj_built(j, &b);
}

static bool is_sequence(jj_val v)
{
    return v.kind == JJ_STR || v.kind == JJ_LIST || v.kind == JJ_TUPLE;
}

static jj_val join_lists(jj *j, jj_val a, jj_val b)
{
    jj_val out = jj_list_new(j, a.kind);
    out.list->n = out.list->cap = a.list->n + b.list->n;
    out.list->items = jj_alloc(j, out.list->n, sizeof *out.list->items);
    if (a.list->n) memcpy(out.list->items, a.list->items, a.list->n * sizeof *out.list->items);
    if (b.list->n) memcpy(out.list->items + a.list->n, b.list->items, b.list->n * sizeof *out.list->items);
    return out;
}

static int64_t floor_divide(jj *j, int64_t a, int64_t b)
{
    if (a == INT64_MIN && b == -1) out_of_range(j);
    int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static int64_t int_power(jj *j, int64_t base, int64_t exponent)
{
    int64_t out = 1;
    for (; exponent > 0; exponent >>= 1) {
        if (exponent & 1 && __builtin_mul_overflow(out, base, &out)) out_of_range(j);
        if (exponent > 1 && __builtin_mul_overflow(base, base, &base)) out_of_range(j);
    }
    return out;
}

static jj_val int_math(jj *j, jj_node_kind op, int64_t a, int64_t b)
{
    int64_t out = 0;
    bool over = false;
    if ((op == JN_DIV || op == JN_FLOORDIV || op == JN_MOD) && b == 0) jj_fail(j, AD_EINVAL, "division by zero");
    switch (op) {
    case JN_ADD: over = __builtin_add_overflow(a, b, &out); break;
    case JN_SUB: over = __builtin_sub_overflow(a, b, &out); break;
    case JN_MUL: over = __builtin_mul_overflow(a, b, &out); break;
    case JN_DIV: return jj_float((double)a / (double)b);
    case JN_FLOORDIV: out = floor_divide(j, a, b); break;
    case JN_MOD: out = b == -1 ? 0 : a % b + (a % b != 0 && (a < 0) != (b < 0) ? b : 0); break;
    default:
        if (b < 0) return jj_float(pow((double)a, (double)b));
        out = int_power(j, a, b);
    }
    if (over) out_of_range(j);
    return jj_int(out);
}

static jj_val float_math(jj *j, jj_node_kind op, double a, double b)
{
    if ((op == JN_DIV || op == JN_FLOORDIV || op == JN_MOD) && b == 0) jj_fail(j, AD_EINVAL, "division by zero");
    switch (op) {
    case JN_ADD: return jj_float(a + b);
    case JN_SUB: return jj_float(a - b);
    case JN_MUL: return jj_float(a * b);
    case JN_DIV: return jj_float(a / b);
    case JN_FLOORDIV: return jj_float(floor(a / b));
    case JN_MOD: {
        double m = fmod(a, b);
        return jj_float(m != 0 && (m < 0) != (b < 0) ? m + b : m);
    }
    default: return jj_float(pow(a, b));
    }
}

static jj_val add_strings(jj *j, const jj_str *a, const jj_str *b)
{
    bool markup = a->markup || b->markup;
    jj_build out = {0};
    jj_add_str(j, &out, markup ? jj_escape(j, a).s : a);
    jj_add_str(j, &out, markup ? jj_escape(j, b).s : b);
    jj_val v = jj_built(j, &out);
    ((jj_str *)v.s)->markup = markup;
    return v;
}

jj_val jj_binary(jj *j, jj_node_kind op, jj_val a, jj_val b)
{
    static const char *const signs[] = {"+", "-", "*", "/", "//", "%", "**"};
    int64_t x, y;
    if (a.kind == JJ_UNDEFINED) undefined(j, a);
    if (op == JN_MOD && a.kind == JJ_STR) return jj_format_percent(j, a.s, b);
    if (b.kind == JJ_UNDEFINED) undefined(j, b);
    if (jj_as_int(a, &x) && jj_as_int(b, &y)) return int_math(j, op, x, y);
    if (jj_is_number(a) && jj_is_number(b)) return float_math(j, op, jj_number(a), jj_number(b));
    if (op == JN_ADD && a.kind == JJ_STR && b.kind == JJ_STR) return add_strings(j, a.s, b.s);
    if (op == JN_ADD && is_sequence(a) && a.kind == b.kind) return join_lists(j, a, b);
    if (op == JN_MUL && is_sequence(a) && jj_as_int(b, &y)) return repeat(j, a, y);
    if (op == JN_MUL && is_sequence(b) && jj_as_int(a, &x)) return repeat(j, b, x);
    jj_fail(j, AD_EINVAL, "%s does not go with '%s' and '%s'", signs[op - JN_ADD], jj_type_name(a), jj_type_name(b));
}

static jj_val negative(jj *j, jj_val v)
{
    int64_t i;
    if (v.kind == JJ_UNDEFINED) undefined(j, v);
    if (v.kind == JJ_FLOAT) return jj_float(-v.f);
    if (!jj_as_int(v, &i)) jj_fail(j, AD_EINVAL, "- does not go with '%s'", jj_type_name(v));
    if (i == INT64_MIN) out_of_range(j);
    return jj_int(-i);
}

static bool ordered(jj *j, jj_compare c, jj_val a, jj_val b)
{
    if (a.kind == JJ_UNDEFINED) undefined(j, a);
    if (b.kind == JJ_UNDEFINED) undefined(j, b);
    if ((a.kind == JJ_FLOAT && isnan(a.f)) || (b.kind == JJ_FLOAT && isnan(b.f))) return false;
    int o = jj_order(j, a, b);
    return c == JC_LT ? o < 0 : c == JC_LE ? o <= 0 : c == JC_GT ? o > 0 : o >= 0;
}

static bool compare(jj *j, jj_compare c, jj_val a, jj_val b)
{
    switch (c) {
    case JC_EQ: return jj_equal(j, a, b);
    case JC_NE: return !jj_equal(j, a, b);
    case JC_IN: return jj_contains(j, b, a);
    case JC_NOT_IN: return !jj_contains(j, b, a);
    default: return ordered(j, c, a, b);
    }
}

static jj_val compare_chain(jj *j, const jj_node *n)
{
    jj_val a = jj_eval(j, n->a);
    for (size_t i = 0; i < n->list.n; i++) {
        jj_val b = jj_eval(j, n->list.at[i]);
        if (!compare(j, n->compares[i], a, b)) return jj_bool(false);
        a = b;
    }
    return jj_bool(true);
}

/* ---- calls ---- */

static jj_args evaluate_args(jj *j, const jj_node *n)
{
    jj_args a = {.n = n->list.n, .n_named = n->other.n};
    if (a.n) a.pos = jj_alloc(j, a.n, sizeof *a.pos);
    if (a.n_named) a.named = jj_alloc(j, a.n_named, sizeof *a.named);
    for (size_t i = 0; i < a.n; i++) a.pos[i] = jj_eval(j, n->list.at[i]);
    for (size_t i = 0; i < a.n_named; i++) a.named[i] = (jj_named){n->names[i], jj_eval(j, n->other.at[i])};
    return a;
}

/* The place of a name in "old,new,count"; -1 when it is not there. */
static int param_index(const char *params, const char *name)
{
    size_t n = strlen(name);
    for (int i = 0; *params; i++) {
        size_t len = strcspn(params, ",");
        if (len == n && !memcmp(params, name, n)) return i;
        params += len + (params[len] == ',');
    }
    return -1;
}

static int param_count(const char *params)
{
    int n = *params != '\0';
    for (; *params; params++) n += *params == ',';
    return n;
}

jj_val jj_apply(jj *j, const char *what, const jj_op *op, jj_val self, const jj_args *args)
{
    jj_val a[JJ_MAX_ARGS] = {{0}};
    if (!op->params) return op->fn(j, self, NULL, args);
    int most = param_count(op->params);
    if (args->n > (size_t)most) jj_fail(j, AD_EINVAL, "%s '%s' takes at most %d arguments", what, op->name, most);
    for (size_t i = 0; i < args->n; i++) a[i] = args->pos[i];
    for (size_t i = 0; i < args->n_named; i++) {
        int at = param_index(op->params, args->named[i].name);
        if (at < 0 || a[at].kind != JJ_ABSENT) jj_fail(j, AD_EINVAL, "%s '%s' has no parameter '%.60s', or was given it twice", what, op->name, args->named[i].name);
        a[at] = args->named[i].value;
    }
    for (int i = 0; i < op->required; i++)
        if (a[i].kind == JJ_ABSENT) jj_fail(j, AD_EINVAL, "%s '%s' needs %d arguments", what, op->name, op->required);
    return op->fn(j, self, a, args);
}

jj_val jj_call(jj *j, jj_val f, const jj_args *args)
{
    switch (f.kind) {
    case JJ_UNDEFINED: undefined(j, f);
    case JJ_MACRO: return run_macro(j, f.macro, args);
    case JJ_BOUND: return jj_apply(j, f.bound->self.kind == JJ_ABSENT ? "function" : "method", f.bound->op, f.bound->self, args);
    case JJ_LOOP: return recurse(j, f.loop, args);
    default: jj_fail(j, AD_EINVAL, "'%s' cannot be called", jj_type_name(f));
    }
}

static jj_val call_node(jj *j, const jj_node *n)
{
    jj_val f = jj_eval(j, n->a);
    jj_args args = evaluate_args(j, n);
    j->line = n->line;
    return jj_call(j, f, &args);
}

static jj_val apply_node(jj *j, const jj_node *n, jj_val self)
{
    const char *what = n->kind == JN_FILTER ? "filter" : "test";
    if (!n->op) jj_fail(j, AD_EINVAL, "there is no %s '%.60s'", what, n->name);
    jj_args args = evaluate_args(j, n);
    j->line = n->line;
    return jj_apply(j, what, n->op, self, &args);
}

/* Filters on top of a text that is no expression. */
static jj_val filter_chain(jj *j, const jj_node *n, jj_val text)
{
    return n ? apply_node(j, n, filter_chain(j, n->a, text)) : text;
}

/* ---- expressions ---- */

static jj_val make_list(jj *j, const jj_node *n)
{
    jj_val out = jj_list_new(j, n->kind == JN_LIST ? JJ_LIST : JJ_TUPLE);
    for (size_t i = 0; i < n->list.n; i++) jj_push(j, out, jj_eval(j, n->list.at[i]));
    return out;
}

static jj_val make_dict(jj *j, const jj_node *n)
{
    jj_val out = jj_dict_new(j, JJ_DICT);
    for (size_t i = 0; i < n->list.n; i += 2) {
        jj_val key = jj_eval(j, n->list.at[i]);
        jj_put(j, out.dict, key, jj_eval(j, n->list.at[i + 1]));
    }
    return out;
}

static jj_val concatenate(jj *j, const jj_node *n)
{
    jj_build b = {0};
    for (size_t i = 0; i < n->list.n; i++) jj_add_val(j, &b, jj_eval(j, n->list.at[i]));
    return jj_built(j, &b);
}

static jj_val item_or_slice(jj *j, const jj_node *n)
{
    static const jj_val absent = {0};
    jj_val v = jj_eval(j, n->a);
    const jj_node *k = n->b;
    if (k->kind != JN_SLICE) return jj_item(j, v, jj_eval(j, k));
    jj_val from = k->a ? jj_eval(j, k->a) : absent, to = k->b ? jj_eval(j, k->b) : absent, step = k->c ? jj_eval(j, k->c) : absent;
    if (v.kind == JJ_UNDEFINED) undefined(j, v);
    return jj_slice(j, v, from, to, step);
}

static jj_val evaluate(jj *j, const jj_node *n)
{
    jj_val v;
    switch (n->kind) {
    case JN_CONST: return n->value;
    case JN_NAME: return look_up(j, n->name);
    case JN_LIST: case JN_TUPLE: return make_list(j, n);
    case JN_DICT: return make_dict(j, n);
    case JN_ATTR: return jj_attr(j, jj_eval(j, n->a), n->name, strlen(n->name));
    case JN_ITEM: return item_or_slice(j, n);
    case JN_CALL: return call_node(j, n);
    case JN_FILTER: case JN_TEST: return apply_node(j, n, jj_eval(j, n->a));
    case JN_COMPARE: return compare_chain(j, n);
    case JN_CONCAT: return concatenate(j, n);
    case JN_IF_ELSE: return jj_truth(jj_eval(j, n->b)) ? jj_eval(j, n->a) : n->c ? jj_eval(j, n->c) : jj_undefined(NULL);
    case JN_NOT: return jj_bool(!jj_truth(jj_eval(j, n->a)));
    case JN_AND: return v = jj_eval(j, n->a), jj_truth(v) ? jj_eval(j, n->b) : v;
    case JN_OR: return v = jj_eval(j, n->a), jj_truth(v) ? v : jj_eval(j, n->b);
    case JN_NEG: return negative(j, jj_eval(j, n->a));
    case JN_POS: return negative(j, negative(j, jj_eval(j, n->a)));
    default: return v = jj_eval(j, n->a), jj_binary(j, n->kind, v, jj_eval(j, n->b));
    }
}

jj_val jj_eval(jj *j, const jj_node *n)
{
    jj_step(j, 1);
    jj_enter(j);
    j->line = n->line;
    jj_val v = evaluate(j, n);
    j->depth--;
    return v;
}

/* ---- statements ---- */

/* Runs a body with its text caught, in a scope of its own. */
static jj_val catch_text(jj *j, const jj_nodes *body, jj_scope *scope)
{
    jj_build text = {0}, *out = j->out;
    jj_scope *outer = j->scope;
    j->out = &text;
    j->scope = scope;
    run_body(j, body);
    j->scope = outer;
    j->out = out;
    return jj_built(j, &text);
}

static void set(jj *j, const jj_node *target, jj_val v)
{
    if (target->kind == JN_NAME) {
        assign(j, j->scope, target->name, v);
    } else if (target->kind == JN_ATTR) {
        jj_val space = look_up(j, target->a->name);
        if (space.kind != JJ_NAMESPACE) jj_fail(j, AD_EINVAL, "'%.60s' is no namespace: its attributes cannot be set", target->a->name);
        jj_put(j, space.dict, jj_literal(j, target->name), v);
    } else {
        jj_list *items = jj_items(j, v);
        if (items->n != target->list.n) jj_fail(j, AD_EINVAL, "%zu values for %zu names", items->n, target->list.n);
        for (size_t i = 0; i < items->n; i++) set(j, target->list.at[i], items->items[i]);
    }
}

/* A scope for the next turn of a loop: the last one's, unless a macro keeps it. */
static jj_scope *fresh_scope(jj *j, jj_scope *used, jj_scope *parent)
{
    if (!used || used->captured) return new_scope(j, parent);
    used->n = 0;
    return used;
}

static jj_list *filtered(jj *j, const jj_node *n, const jj_list *all)
{
    jj_val kept = jj_list_new(j, JJ_LIST);
    jj_scope *outer = j->scope;
    for (size_t i = 0; i < all->n; i++) {
        j->scope = fresh_scope(j, j->scope == outer ? NULL : j->scope, outer);
        set(j, n->a, all->items[i]);
        if (jj_truth(jj_eval(j, n->c))) jj_push(j, kept, all->items[i]);
    }
    j->scope = outer;
    return kept.list;
}

static flow run_loop(jj *j, const jj_node *n, jj_val over, int64_t depth)
{
    const char *loop_name = jj_known_name(&j->tmpl->names, "loop", 4);
    jj_scope *outer = j->scope, *scope = NULL;
    jj_loop *loop = jj_alloc(j, 1, sizeof *loop);
    *loop = (jj_loop){.node = n, .scope = outer, .items = jj_items(j, over), .depth = depth};
    if (n->c) loop->items = filtered(j, n, loop->items);
    for (size_t i = 0; i < loop->items->n; i++) {
        loop->index = i;
        j->scope = scope = fresh_scope(j, scope, outer);
        if (loop_name) assign(j, scope, loop_name, (jj_val){JJ_LOOP, {.loop = loop}});
        set(j, n->a, loop->items->items[i]);
        flow f = run_body(j, &n->list);
        jj_step(j, 1);
        if (f == BREAK) break;
    }
    j->scope = outer;
    if (loop->items->n || !n->other.n) return NEXT;
    j->scope = new_scope(j, outer);
    flow f = run_body(j, &n->other);
    j->scope = outer;
    return f;
}

/* loop(items) in a recursive loop. */
static jj_val recurse(jj *j, const jj_loop *loop, const jj_args *args)
{
    if (!loop->node->flag || args->n != 1 || args->n_named) jj_fail(j, AD_EINVAL, "loop() is called with one list, in a loop that is recursive");
    jj_build text = {0}, *out = j->out;
    jj_scope *inner = j->scope;
    jj_enter(j);
    j->out = &text;
    j->scope = loop->scope;
    run_loop(j, loop->node, args->pos[0], loop->depth + 1);
    j->scope = inner;
    j->out = out;
    j->depth--;
    return jj_built(j, &text);
}

static flow run_if(jj *j, const jj_node *n)
{
    for (; n; n = n->c) {
        if (jj_truth(jj_eval(j, n->a))) return run_body(j, &n->list);
        if (!n->c) return run_body(j, &n->other);
    }
    return NEXT;
}

static void define_macro(jj *j, const jj_node *n)
{
    jj_macro *m = jj_alloc(j, 1, sizeof *m);
    *m = (jj_macro){n, j->scope};
    for (jj_scope *s = j->scope; s && !s->captured; s = s->parent) s->captured = true;
    assign(j, j->scope, n->name, (jj_val){JJ_MACRO, {.macro = m}});
}

/* A default is evaluated where the parameters before it are known. */
static void bind_parameters(jj *j, const jj_node *n, const jj_args *args)
{
    size_t used = 0;
    if (args->n > n->other.n) jj_fail(j, AD_EINVAL, "macro '%.60s' takes at most %zu arguments", n->name, n->other.n);
    for (size_t i = 0; i < n->other.n; i++) {
        jj_val v = i < args->n ? args->pos[i] : (jj_val){0};
        jj_step(j, args->n_named / 8);
        for (size_t k = 0; k < args->n_named; k++) {
            if (args->named[k].name != n->names[i]) continue;
            if (v.kind != JJ_ABSENT) jj_fail(j, AD_EINVAL, "macro '%.60s' was given '%.60s' twice", n->name, n->names[i]);
            v = args->named[k].value;
            used++;
        }
        if (v.kind == JJ_ABSENT) v = n->other.at[i] ? jj_eval(j, n->other.at[i]) : jj_undefined(n->names[i]);
        assign(j, j->scope, n->names[i], v);
    }
    if (used < args->n_named) jj_fail(j, AD_EINVAL, "macro '%.60s' was given a parameter it does not have", n->name);
}

static jj_val run_macro(jj *j, const jj_macro *m, const jj_args *args)
{
    jj_scope *caller = j->scope;
    jj_enter(j);
    j->scope = new_scope(j, m->scope);
    bind_parameters(j, m->node, args);
    jj_val text = catch_text(j, &m->node->list, j->scope);
    j->scope = caller;
    j->depth--;
    return text;
}

static void print(jj *j, jj_val v)
{
    jj_add_val(j, j->out, v);
    if (j->out->len > j->limits.output) jj_fail(j, AD_ELIMIT, "the template writes more than %zu bytes", j->limits.output);
}

static flow run_statement(jj *j, const jj_node *n)
{
    switch (n->kind) {
    case JN_TEXT: print(j, n->value); break;
    case JN_PRINT: print(j, jj_eval(j, n->a)); break;
    case JN_FOR: return run_loop(j, n, jj_eval(j, n->b), 0);
    case JN_IF: return run_if(j, n);
    case JN_SET: set(j, n->a, jj_eval(j, n->b)); break;
    case JN_SET_BLOCK: set(j, n->a, filter_chain(j, n->b, catch_text(j, &n->list, new_scope(j, j->scope)))); break;
    case JN_MACRO: define_macro(j, n); break;
    case JN_FILTER_BLOCK: print(j, filter_chain(j, n->b, catch_text(j, &n->list, new_scope(j, j->scope)))); break;
    case JN_SCOPE: print(j, catch_text(j, &n->list, new_scope(j, j->scope))); break;
    case JN_BREAK: return BREAK;
    default: return CONTINUE;
    }
    return NEXT;
}

static flow run_body(jj *j, const jj_nodes *body)
{
    flow f = NEXT;
    jj_enter(j);
    for (size_t i = 0; f == NEXT && i < body->n; i++) {
        j->line = body->at[i]->line;
        jj_step(j, 1);
        f = run_statement(j, body->at[i]);
    }
    j->depth--;
    return f;
}

void jj_run(jj *j)
{
    run_body(j, &j->tmpl->body);
}
