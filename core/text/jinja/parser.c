/* SPDX-License-Identifier: MIT */
/* Tokens to a tree: one function per level of precedence, in Jinja2's order, lowest first. */
#include <string.h>

#include "core/text/jinja/private.h"

typedef struct {
    jj *j;
    ad_jinja *t;
    const jj_token *tok; /* the current one */
    int nesting, loops;
} parser;

static jj_node *expression(parser *p);
static jj_node *either(parser *p);
static jj_node *unary(parser *p, bool with_filters);
static void body_until(parser *p, const char *const *ends, jj_nodes *body);

/* ---- tokens ---- */

_Noreturn static void unexpected(parser *p, const char *wanted)
{
    static const char *const names[] = {
        [JT_END] = "end of template", [JT_TEXT] = "text", [JT_BLOCK_BEGIN] = "{%", [JT_BLOCK_END] = "%}", [JT_PRINT_BEGIN] = "{{", [JT_PRINT_END] = "}}",
        [JT_STRING] = "a string", [JT_INT] = "a number", [JT_FLOAT] = "a number", [JT_ADD] = "+", [JT_SUB] = "-", [JT_MUL] = "*", [JT_DIV] = "/", [JT_FLOORDIV] = "//",
        [JT_MOD] = "%", [JT_POW] = "**", [JT_TILDE] = "~", [JT_LBRACKET] = "[", [JT_RBRACKET] = "]", [JT_LPAREN] = "(", [JT_RPAREN] = ")", [JT_LBRACE] = "{",
        [JT_RBRACE] = "}", [JT_EQ] = "==", [JT_NE] = "!=", [JT_LT] = "<", [JT_LE] = "<=", [JT_GT] = ">", [JT_GE] = ">=", [JT_ASSIGN] = "=", [JT_DOT] = ".",
        [JT_COLON] = ":", [JT_PIPE] = "|", [JT_COMMA] = ",", [JT_SEMICOLON] = ";"};
    p->j->line = p->tok->line;
    jj_fail(p->j, AD_EFORMAT, "expected %s, not %.60s", wanted, p->tok->kind == JT_NAME ? p->tok->name : names[p->tok->kind]);
}

static bool at(const parser *p, jj_token_kind kind)
{
    return p->tok->kind == kind;
}

static bool at_word(const parser *p, const char *word)
{
    return at(p, JT_NAME) && !strcmp(p->tok->name, word);
}

static bool skip(parser *p, jj_token_kind kind)
{
    if (!at(p, kind)) return false;
    p->tok++;
    return true;
}

static bool skip_word(parser *p, const char *word)
{
    if (!at_word(p, word)) return false;
    p->tok++;
    return true;
}

static void expect(parser *p, jj_token_kind kind, const char *wanted)
{
    if (!skip(p, kind)) unexpected(p, wanted);
}

static const char *expect_name(parser *p, const char *wanted)
{
    if (!at(p, JT_NAME)) unexpected(p, wanted);
    return (p->tok++)->name;
}

/* ---- nodes ---- */

static jj_node *node(parser *p, jj_node_kind kind, int line)
{
    jj_node *n = jj_alloc(p->j, 1, sizeof *n);
    n->kind = kind;
    n->line = line;
    return n;
}

/* Every operand passes here: the depth of the tree is what evaluating it takes from the stack. */
static jj_node *below(parser *p, jj_node *n, jj_node *operand)
{
    if (!operand) return NULL;
    if (operand->depth + 1 > n->depth) n->depth = operand->depth + 1;
    if (n->depth > JJ_MAX_TREE) jj_fail(p->j, AD_ELIMIT, "an expression is more than %d operations deep", JJ_MAX_TREE);
    return operand;
}

static jj_node *binary(parser *p, jj_node_kind kind, int line, jj_node *a, jj_node *b)
{
    jj_node *n = node(p, kind, line);
    n->a = below(p, n, a);
    n->b = below(p, n, b);
    return n;
}

static void push(parser *p, jj_node *n, jj_nodes *list, jj_node *item)
{
    list->at = jj_grow(p->j, list->at, list->n, &list->cap, list->n + 1, sizeof *list->at);
    list->at[list->n++] = n ? below(p, n, item) : item;
}

/* names and other grow alike. */
static void push_named(parser *p, jj_node *n, const char *name, jj_node *value)
{
    size_t i = n->other.n, cap = n->other.cap;
    n->names = jj_grow(p->j, n->names, i, &cap, i + 1, sizeof *n->names);
    n->names[i] = name;
    push(p, n, &n->other, value);
}

static jj_node *constant(parser *p, int line, jj_val v)
{
    jj_node *n = node(p, JN_CONST, line);
    n->value = v;
    return n;
}

static void enter(parser *p)
{
    p->j->line = p->tok->line;
    if (++p->nesting > JJ_MAX_NESTING) jj_fail(p->j, AD_ELIMIT, "expressions or statements nest more than %d deep", JJ_MAX_NESTING);
}

/* ---- literals ---- */

static bool tuple_ends(const parser *p, const char *word)
{
    return at(p, JT_PRINT_END) || at(p, JT_BLOCK_END) || at(p, JT_RPAREN) || (word && at_word(p, word));
}

/* Expressions with commas between them make a tuple; a single one is itself. */
static jj_node *tuple(parser *p, jj_node *(*each)(parser *), const char *end_word, bool may_be_empty)
{
    int line = p->tok->line;
    jj_node *n = node(p, JN_TUPLE, line);
    bool is_tuple = false;
    while (!tuple_ends(p, end_word)) {
        push(p, n, &n->list, each(p));
        if (!skip(p, JT_COMMA)) break;
        is_tuple = true;
    }
    if (is_tuple) return n;
    if (n->list.n) return n->list.at[0];
    if (!may_be_empty) unexpected(p, "an expression");
    return n;
}

static jj_node *list_literal(parser *p)
{
    jj_node *n = node(p, JN_LIST, p->tok->line);
    p->tok++;
    while (!at(p, JT_RBRACKET)) {
        push(p, n, &n->list, expression(p));
        if (!skip(p, JT_COMMA)) break;
    }
    expect(p, JT_RBRACKET, "] or ,");
    return n;
}

static jj_node *dict_literal(parser *p)
{
    jj_node *n = node(p, JN_DICT, p->tok->line);
    p->tok++;
    while (!at(p, JT_RBRACE)) {
        push(p, n, &n->list, expression(p));
        expect(p, JT_COLON, ":");
        push(p, n, &n->list, expression(p));
        if (!skip(p, JT_COMMA)) break;
    }
    expect(p, JT_RBRACE, "} or ,");
    return n;
}

static jj_node *string_literal(parser *p)
{
    jj_node *n = constant(p, p->tok->line, p->tok->value);
    p->tok++;
    if (!at(p, JT_STRING)) return n;
    jj_build b = {0}; /* neighbours are one string */
    jj_add_str(p->j, &b, n->value.s);
    for (; at(p, JT_STRING); p->tok++) jj_add_str(p->j, &b, p->tok->value.s);
    n->value = jj_built(p->j, &b);
    ((jj_str *)n->value.s)->chars = jj_chars(n->value.s);
    return n;
}

static jj_node *name_or_constant(parser *p)
{
    static const struct {
        const char *word;
        jj_val value;
    } words[] = {{"true", {JJ_BOOL, {.b = true}}}, {"True", {JJ_BOOL, {.b = true}}}, {"false", {JJ_BOOL, {.b = false}}}, {"False", {JJ_BOOL, {.b = false}}},
                 {"none", {JJ_NONE, {0}}}, {"None", {JJ_NONE, {0}}}};
    int line = p->tok->line;
    const char *name = (p->tok++)->name;
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(name, words[i].word)) return constant(p, line, words[i].value);
    jj_node *n = node(p, JN_NAME, line);
    n->name = name;
    return n;
}

static jj_node *primary(parser *p)
{
    if (at(p, JT_NAME)) return name_or_constant(p);
    if (at(p, JT_STRING)) return string_literal(p);
    if (at(p, JT_LBRACKET)) return list_literal(p);
    if (at(p, JT_LBRACE)) return dict_literal(p);
    if (at(p, JT_INT) || at(p, JT_FLOAT)) {
        jj_node *n = constant(p, p->tok->line, p->tok->value);
        p->tok++;
        return n;
    }
    if (!skip(p, JT_LPAREN)) unexpected(p, "an expression");
    jj_node *n = tuple(p, expression, NULL, true);
    expect(p, JT_RPAREN, ")");
    return n;
}

/* ---- what follows an operand ---- */

/* (a, b, key=c) into list, other and names of n. */
static void call_arguments(parser *p, jj_node *n)
{
    p->tok++;
    while (!at(p, JT_RPAREN)) {
        if (at(p, JT_MUL) || at(p, JT_POW)) jj_fail(p->j, AD_EUNSUPPORTED, "* and ** in a call are not supported");
        if (at(p, JT_NAME) && p->tok[1].kind == JT_ASSIGN) {
            const char *name = p->tok->name;
            p->tok += 2;
            push_named(p, n, name, expression(p));
        } else {
            if (n->other.n) jj_fail(p->j, AD_EFORMAT, "a positional argument follows a keyword argument");
            push(p, n, &n->list, expression(p));
        }
        if (!skip(p, JT_COMMA)) break;
    }
    expect(p, JT_RPAREN, ") or ,");
}

static jj_node *call(parser *p, jj_node *of)
{
    jj_node *n = node(p, JN_CALL, p->tok->line);
    n->a = below(p, n, of);
    call_arguments(p, n);
    return n;
}

/* a, b, c of SLICE: from, to, step; NULL where not written. */
static jj_node *subscript_key(parser *p)
{
    jj_node *n = node(p, JN_SLICE, p->tok->line), *from = NULL;
    if (!at(p, JT_COLON)) {
        from = expression(p);
        if (!at(p, JT_COLON)) return from;
    }
    p->tok++;
    n->a = below(p, n, from);
    if (!at(p, JT_COLON) && !at(p, JT_RBRACKET)) n->b = below(p, n, expression(p));
    if (skip(p, JT_COLON) && !at(p, JT_RBRACKET)) n->c = below(p, n, expression(p));
    return n;
}

static jj_node *subscript(parser *p, jj_node *of)
{
    int line = p->tok->line;
    if (skip(p, JT_LBRACKET)) {
        jj_node *n = binary(p, JN_ITEM, line, of, subscript_key(p));
        expect(p, JT_RBRACKET, "]");
        return n;
    }
    p->tok++;
    if (at(p, JT_INT)) {
        jj_node *key = constant(p, line, p->tok->value);
        p->tok++;
        return binary(p, JN_ITEM, line, of, key);
    }
    jj_node *n = node(p, JN_ATTR, line);
    n->name = expect_name(p, "a name or number");
    n->a = below(p, n, of);
    return n;
}

static jj_node *postfix(parser *p, jj_node *n)
{
    for (;;) {
        if (at(p, JT_DOT) || at(p, JT_LBRACKET)) n = subscript(p, n);
        else if (at(p, JT_LPAREN)) n = call(p, n);
        else return n;
    }
}

/* Filters and tests that do not exist are an error only where they run: a template may ask first. */
static jj_node *filter(parser *p, jj_node *of)
{
    jj_node *n = node(p, JN_FILTER, p->tok->line);
    n->name = expect_name(p, "a filter's name");
    n->op = jj_filter(n->name);
    n->a = below(p, n, of);
    if (at(p, JT_LPAREN)) call_arguments(p, n);
    return n;
}

static bool starts_argument(const parser *p)
{
    switch (p->tok->kind) {
    case JT_NAME: return !at_word(p, "else") && !at_word(p, "or") && !at_word(p, "and");
    case JT_STRING: case JT_INT: case JT_FLOAT: case JT_LBRACKET: case JT_LBRACE: return true;
    default: return false;
    }
}

static jj_node *test(parser *p, jj_node *of)
{
    int line = p->tok->line;
    bool negated = skip_word(p, "not");
    jj_node *n = node(p, JN_TEST, line);
    n->name = expect_name(p, "a test's name");
    n->op = jj_test(n->name);
    n->a = below(p, n, of);
    if (at(p, JT_LPAREN)) {
        call_arguments(p, n);
    } else if (starts_argument(p)) {
        if (at_word(p, "is")) unexpected(p, "an argument of the test");
        push(p, n, &n->list, postfix(p, primary(p)));
    }
    return negated ? binary(p, JN_NOT, line, n, NULL) : n;
}

static jj_node *filters_and_tests(parser *p, jj_node *n)
{
    for (;;) {
        if (skip(p, JT_PIPE)) n = filter(p, n);
        else if (skip_word(p, "is")) n = test(p, n);
        else if (at(p, JT_LPAREN)) n = call(p, n);
        else return n;
    }
}

/* ---- operators ---- */

static jj_node *unary(parser *p, bool with_filters)
{
    int line = p->tok->line;
    jj_node *n;
    enter(p);
    if (skip(p, JT_SUB)) n = binary(p, JN_NEG, line, unary(p, false), NULL);
    else if (skip(p, JT_ADD)) n = binary(p, JN_POS, line, unary(p, false), NULL);
    else n = primary(p);
    n = postfix(p, n);
    if (with_filters) n = filters_and_tests(p, n);
    p->nesting--;
    return n;
}

static jj_node *power(parser *p)
{
    jj_node *n = unary(p, true);
    for (int line = p->tok->line; skip(p, JT_POW); line = p->tok->line) n = binary(p, JN_POW, line, n, unary(p, true));
    return n;
}

static jj_node *product(parser *p)
{
    jj_node *n = power(p);
    for (;;) {
        int line = p->tok->line;
        if (skip(p, JT_MUL)) n = binary(p, JN_MUL, line, n, power(p));
        else if (skip(p, JT_DIV)) n = binary(p, JN_DIV, line, n, power(p));
        else if (skip(p, JT_FLOORDIV)) n = binary(p, JN_FLOORDIV, line, n, power(p));
        else if (skip(p, JT_MOD)) n = binary(p, JN_MOD, line, n, power(p));
        else return n;
    }
}

static jj_node *concat(parser *p)
{
    jj_node *first = product(p);
    if (!at(p, JT_TILDE)) return first;
    jj_node *n = node(p, JN_CONCAT, p->tok->line);
    push(p, n, &n->list, first);
    while (skip(p, JT_TILDE)) push(p, n, &n->list, product(p));
    return n;
}

static jj_node *sum(parser *p)
{
    jj_node *n = concat(p);
    for (;;) {
        int line = p->tok->line;
        if (skip(p, JT_ADD)) n = binary(p, JN_ADD, line, n, concat(p));
        else if (skip(p, JT_SUB)) n = binary(p, JN_SUB, line, n, concat(p));
        else return n;
    }
}

static bool comparison(parser *p, jj_compare *out)
{
    if (p->tok->kind >= JT_EQ && p->tok->kind <= JT_GE) {
        *out = (jj_compare)(JC_EQ + (p->tok->kind - JT_EQ));
        p->tok++;
        return true;
    }
    if (skip_word(p, "in")) return *out = JC_IN, true;
    if (!at_word(p, "not") || p->tok[1].kind != JT_NAME || strcmp(p->tok[1].name, "in") != 0) return false;
    p->tok += 2;
    return *out = JC_NOT_IN, true;
}

/* a < b <= c: a of COMPARE is the first operand, list[i] follows compares[i]. */
static jj_node *compare(parser *p)
{
    jj_node *first = sum(p), *n = NULL;
    jj_compare c;
    for (int line = p->tok->line; comparison(p, &c); line = p->tok->line) {
        if (!n) {
            n = node(p, JN_COMPARE, line);
            n->a = below(p, n, first);
        }
        size_t cap = n->list.cap;
        n->compares = jj_grow(p->j, n->compares, n->list.n, &cap, n->list.n + 1, sizeof *n->compares);
        n->compares[n->list.n] = c;
        push(p, n, &n->list, sum(p));
    }
    return n ? n : first;
}

static jj_node *negation(parser *p)
{
    int line = p->tok->line;
    if (!skip_word(p, "not")) return compare(p);
    enter(p);
    jj_node *n = binary(p, JN_NOT, line, negation(p), NULL);
    p->nesting--;
    return n;
}

static jj_node *both(parser *p)
{
    jj_node *n = negation(p);
    for (int line = p->tok->line; skip_word(p, "and"); line = p->tok->line) n = binary(p, JN_AND, line, n, negation(p));
    return n;
}

static jj_node *either(parser *p)
{
    jj_node *n = both(p);
    for (int line = p->tok->line; skip_word(p, "or"); line = p->tok->line) n = binary(p, JN_OR, line, n, both(p));
    return n;
}

/* a if b else c: b of IF_ELSE is the condition, c NULL when not written. */
static jj_node *expression(parser *p)
{
    enter(p);
    jj_node *n = either(p);
    for (int line = p->tok->line; skip_word(p, "if"); line = p->tok->line) {
        jj_node *condition = either(p);
        n = binary(p, JN_IF_ELSE, line, n, condition);
        if (skip_word(p, "else")) n->c = below(p, n, expression(p));
    }
    p->nesting--;
    return n;
}

/* ---- statements ---- */

static jj_node *name_target(parser *p)
{
    int line = p->tok->line;
    jj_node *n = node(p, JN_NAME, line);
    n->name = expect_name(p, "a name");
    return n;
}

static jj_node *set_target(parser *p)
{
    jj_node *name = name_target(p);
    if (!skip(p, JT_DOT)) return name;
    jj_node *n = node(p, JN_ATTR, name->line);
    n->name = expect_name(p, "an attribute's name");
    n->a = name;
    return n;
}

static void end_tag(parser *p)
{
    p->tok++; /* the word that ended the body */
    expect(p, JT_BLOCK_END, "%}");
}

/* a: target; b: iterable; c: condition; list: body; other: what runs when there was nothing; flag: recursive. */
static jj_node *for_statement(parser *p, int line)
{
    static const char *const ends[] = {"else", "endfor", NULL}, *const end[] = {"endfor", NULL};
    jj_node *n = node(p, JN_FOR, line);
    n->a = tuple(p, name_target, "in", false);
    if (!skip_word(p, "in")) unexpected(p, "in");
    n->b = tuple(p, either, "recursive", false);
    if (skip_word(p, "if")) n->c = expression(p);
    n->flag = skip_word(p, "recursive");
    expect(p, JT_BLOCK_END, "%}");
    p->loops++;
    body_until(p, ends, &n->list);
    p->loops--;
    if (at_word(p, "else")) {
        end_tag(p);
        body_until(p, end, &n->other);
    }
    end_tag(p);
    return n;
}

/* a: condition; list: body; c: the IF of an elif; other: body of else. */
static jj_node *if_statement(parser *p, int line)
{
    static const char *const ends[] = {"elif", "else", "endif", NULL}, *const end[] = {"endif", NULL};
    jj_node *first = node(p, JN_IF, line), *n = first;
    for (;;) {
        n->a = tuple(p, either, NULL, false);
        expect(p, JT_BLOCK_END, "%}");
        body_until(p, ends, &n->list);
        if (!at_word(p, "elif")) break;
        line = p->tok->line;
        p->tok++;
        n = n->c = node(p, JN_IF, line);
    }
    if (at_word(p, "else")) {
        end_tag(p);
        body_until(p, end, &n->other);
    }
    end_tag(p);
    return first;
}

/* SET: a = target, b = value. SET_BLOCK: a = target, list = body, b = filters on top of a NULL operand, or NULL. */
static jj_node *set_statement(parser *p, int line)
{
    static const char *const ends[] = {"endset", NULL};
    jj_node *n = node(p, JN_SET, line);
    n->a = tuple(p, set_target, NULL, false);
    if (skip(p, JT_ASSIGN)) {
        n->b = tuple(p, expression, NULL, false);
        expect(p, JT_BLOCK_END, "%}");
        return n;
    }
    n->kind = JN_SET_BLOCK;
    while (skip(p, JT_PIPE)) n->b = filter(p, n->b);
    expect(p, JT_BLOCK_END, "%}");
    body_until(p, ends, &n->list);
    end_tag(p);
    return n;
}

/* name; names[other.n] = parameters; other = their defaults, NULL where there is none; list = body. */
static jj_node *macro_statement(parser *p, int line)
{
    static const char *const ends[] = {"endmacro", NULL};
    jj_node *n = node(p, JN_MACRO, line);
    int loops = p->loops;
    n->name = expect_name(p, "the macro's name");
    expect(p, JT_LPAREN, "(");
    while (!at(p, JT_RPAREN)) {
        size_t i = n->other.n;
        const char *name = expect_name(p, "a parameter's name");
        jj_node *preset = skip(p, JT_ASSIGN) ? expression(p) : NULL;
        if (!preset && i && n->other.at[i - 1]) jj_fail(p->j, AD_EFORMAT, "a parameter without a default follows one with a default");
        push_named(p, n, name, preset);
        if (!skip(p, JT_COMMA)) break;
    }
    expect(p, JT_RPAREN, ") or ,");
    expect(p, JT_BLOCK_END, "%}");
    p->loops = 0;
    body_until(p, ends, &n->list);
    p->loops = loops;
    end_tag(p);
    return n;
}

/* A body in a scope of its own, b: the filters its text passes through. */
static jj_node *block_statement(parser *p, int line, jj_node_kind kind, const char *end)
{
    const char *const ends[] = {end, NULL};
    jj_node *n = node(p, kind, line);
    if (kind == JN_FILTER_BLOCK) {
        n->b = filter(p, NULL);
        while (skip(p, JT_PIPE)) n->b = filter(p, n->b);
    }
    expect(p, JT_BLOCK_END, "%}");
    int loops = p->loops;
    p->loops = 0;
    body_until(p, ends, &n->list);
    p->loops = loops;
    end_tag(p);
    return n;
}

static jj_node *loop_control(parser *p, int line, jj_node_kind kind)
{
    if (!p->loops) jj_fail(p->j, AD_EFORMAT, "break or continue outside of a loop");
    expect(p, JT_BLOCK_END, "%}");
    return node(p, kind, line);
}

static jj_node *statement(parser *p)
{
    int line = p->j->line = p->tok->line;
    const char *word = expect_name(p, "a tag's name");
    if (!strcmp(word, "for")) return for_statement(p, line);
    if (!strcmp(word, "if")) return if_statement(p, line);
    if (!strcmp(word, "set")) return set_statement(p, line);
    if (!strcmp(word, "macro")) return macro_statement(p, line);
    if (!strcmp(word, "generation")) return block_statement(p, line, JN_SCOPE, "endgeneration");
    if (!strcmp(word, "filter")) return block_statement(p, line, JN_FILTER_BLOCK, "endfilter");
    if (!strcmp(word, "break")) return loop_control(p, line, JN_BREAK);
    if (!strcmp(word, "continue")) return loop_control(p, line, JN_CONTINUE);
    static const char *const others[] = {"block", "extends", "include", "import", "from", "call", "with", "autoescape", "do", "trans", "debug"};
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (!strcmp(word, others[i])) jj_fail(p->j, AD_EUNSUPPORTED, "the tag {%% %s %%} is not supported", word);
    jj_fail(p->j, AD_EFORMAT, "the tag {%% %.60s %%} is unknown or in the wrong place", word);
}

static bool at_any(const parser *p, const char *const *words)
{
    for (; *words; words++)
        if (at_word(p, *words)) return true;
    return false;
}

static jj_node *text_node(parser *p)
{
    jj_node *n = node(p, JN_TEXT, p->tok->line);
    n->value = (p->tok++)->value;
    return n;
}

/* Statements up to a tag with one of these words (the one that closes is the last), which becomes the current token; NULL: up to the end of the template. */
static void body_until(parser *p, const char *const *ends, jj_nodes *body)
{
    int line = p->j->line;
    enter(p);
    while (!at(p, JT_END)) {
        if (at(p, JT_TEXT)) {
            push(p, NULL, body, text_node(p));
        } else if (skip(p, JT_PRINT_BEGIN)) {
            jj_node *n = node(p, JN_PRINT, p->tok->line);
            n->a = tuple(p, expression, NULL, false);
            expect(p, JT_PRINT_END, "}}");
            push(p, NULL, body, n);
        } else {
            expect(p, JT_BLOCK_BEGIN, "{%");
            if (ends && at_any(p, ends)) break;
            push(p, NULL, body, statement(p));
        }
    }
    if (ends && at(p, JT_END)) {
        p->j->line = line;
        while (ends[1]) ends++;
        jj_fail(p->j, AD_EFORMAT, "{%% %s %%} is missing", *ends);
    }
    p->nesting--;
}

void jj_parse(jj *j, ad_jinja *t, const char *source, size_t len)
{
    parser p = {.j = j, .t = t, .tok = jj_lex(j, &t->names, source, len)};
    body_until(&p, NULL, &t->body);
}
