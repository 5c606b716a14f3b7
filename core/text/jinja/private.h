/* SPDX-License-Identifier: MIT */
/* What the files of the template interpreter share: syntax tree, values, and the state of one parse or one rendering.
 *
 * Everything a parse makes lives in the template's heap, everything a rendering makes in the rendering's: nothing is freed
 * alone. So an error needs no unwinding: jj_fail jumps to the one place that drops the heap.
 *
 * A string knows which of its bytes came from outside. Every operation that makes a string out of others keeps that
 * knowledge byte by byte. */
#ifndef AD_TEXT_JINJA_PRIVATE_H
#define AD_TEXT_JINJA_PRIVATE_H

#include <setjmp.h>

#include "core/text/jinja/jinja.h"

enum {
    JJ_MAX_NESTING = 120, /* of expressions and statements in the source */
    JJ_MAX_TREE = 600,    /* depth of one expression: a + b + c + ... grows to the left */
    JJ_MAX_DEPTH = 1200,  /* nested evaluations, macro calls included; each costs some hundred bytes of stack */
    JJ_MAX_RANGE = 100000, /* items of range(), as in Jinja2's sandbox */
    JJ_MAX_WIDTH = 4096,  /* of a padded or indented field */
    JJ_MAX_ARGS = 8,      /* parameters of a filter, test or method */
};

/* ---- values ---- */

typedef enum {
    JJ_ABSENT, /* an argument that was not given */
    JJ_UNDEFINED,
    JJ_NONE,
    JJ_BOOL,
    JJ_INT,
    JJ_FLOAT,
    JJ_STR,
    JJ_LIST,
    JJ_TUPLE,
    JJ_DICT,
    JJ_NAMESPACE,
    JJ_MACRO,
    JJ_BOUND, /* a function, or a method with its object */
    JJ_LOOP,
} jj_kind;

typedef struct jj_str jj_str;
typedef struct jj_list jj_list;
typedef struct jj_dict jj_dict;
typedef struct jj_macro jj_macro;
typedef struct jj_bound jj_bound;
typedef struct jj_loop jj_loop;
typedef struct jj_node jj_node;
typedef struct jj jj;

typedef struct {
    jj_kind kind;
    union {
        const char *name; /* UNDEFINED: of what is missing; may be NULL */
        bool b;
        int64_t i;
        double f;
        const jj_str *s;
        jj_list *list; /* LIST, TUPLE */
        jj_dict *dict; /* DICT, NAMESPACE */
        jj_macro *macro;
        jj_bound *bound;
        jj_loop *loop;
    };
} jj_val;

struct jj_str {
    const char *p; /* valid UTF-8 */
    size_t len;
    size_t chars;        /* code points; 0: not counted yet */
    const uint8_t *mask; /* [len] 1: untrusted; NULL: all bytes are what `untrusted` says */
    bool untrusted;
    bool markup; /* came out of safe or escape: what + joins to it is escaped, as in Jinja2 */
};

struct jj_list {
    jj_val *items;
    size_t n, cap;
};

typedef struct {
    jj_val key, value;
} jj_pair;

struct jj_dict {
    jj_pair *pairs; /* in order of insertion */
    size_t n, cap;
};

/* Arguments of a call. */
typedef struct {
    const char *name; /* interned or static */
    jj_val value;
} jj_named;

typedef struct {
    jj_val *pos;
    size_t n;
    jj_named *named;
    size_t n_named;
} jj_args;

/* A filter, test, method or function. a[] holds its parameters in order, ABSENT where not given; args is all of them. */
typedef jj_val (*jj_fn)(jj *j, jj_val self, const jj_val *a, const jj_args *args);

typedef struct {
    const char *name;
    const char *params; /* "old,new,count"; NULL: fn takes args as they are */
    int required;
    jj_fn fn;
} jj_op;

struct jj_bound {
    const jj_op *op;
    jj_val self; /* ABSENT for functions */
};

/* ---- syntax ---- */

typedef enum {
    /* expressions */
    JN_CONST, JN_NAME, JN_LIST, JN_TUPLE, JN_DICT, JN_ATTR, JN_ITEM, JN_SLICE, JN_CALL, JN_FILTER, JN_TEST, JN_COMPARE, JN_CONCAT, JN_IF_ELSE,
    JN_NOT, JN_AND, JN_OR, JN_NEG, JN_POS, JN_ADD, JN_SUB, JN_MUL, JN_DIV, JN_FLOORDIV, JN_MOD, JN_POW,
    /* statements */
    JN_TEXT, JN_PRINT, JN_FOR, JN_IF, JN_SET, JN_SET_BLOCK, JN_MACRO, JN_FILTER_BLOCK, JN_SCOPE, JN_BREAK, JN_CONTINUE,
} jj_node_kind;

typedef enum { JC_EQ, JC_NE, JC_LT, JC_LE, JC_GT, JC_GE, JC_IN, JC_NOT_IN } jj_compare;

typedef struct {
    jj_node **at;
    size_t n, cap;
} jj_nodes;

/* Which fields a kind uses is said where the parser makes it. */
struct jj_node {
    jj_node_kind kind;
    int line, depth;
    bool flag;          /* FOR: recursive */
    const char *name;   /* NAME, ATTR, FILTER, TEST, MACRO: interned, so that equal names are equal pointers */
    const jj_op *op;    /* FILTER, TEST; NULL: no such one, which is an error when it runs */
    jj_val value;       /* CONST, TEXT */
    jj_node *a, *b, *c; /* operands; condition, iterable, target */
    jj_nodes list;      /* items, arguments, body; DICT: key, value, key, value; COMPARE: further operands */
    jj_nodes other;     /* keyword values, else body */
    const char **names; /* [other.n] keywords; MACRO: [list.n] parameters */
    jj_compare *compares; /* [list.n] */
};

/* ---- one parse or one rendering ---- */

typedef struct jj_block jj_block;

typedef struct {
    jj_block *blocks;
    size_t bytes, limit;
} jj_heap;

typedef struct {
    const char *name; /* interned */
    jj_val value;
} jj_var;

typedef struct jj_scope jj_scope;
struct jj_scope {
    jj_scope *parent;
    jj_var *vars;
    size_t n, cap;
    bool captured; /* a macro keeps it */
};

/* A string being built. */
typedef struct {
    char *p;
    uint8_t *mask; /* NULL while all bytes are alike */
    size_t len, cap;
    bool untrusted;
} jj_build;

typedef struct {
    const char **slots; /* open addressing */
    size_t n, cap;
} jj_names;

struct ad_jinja {
    jj_heap heap;
    jj_names names; /* every name and constant string of the source */
    char *label;
    jj_nodes body;
};

struct jj {
    jj_heap heap;
    const char *label;
    int line; /* being parsed or run */
    ad_err *err;
    ad_status status;
    jmp_buf escape;
    int depth;
    /* rendering */
    const ad_jinja *tmpl;
    ad_jinja_limits limits;
    size_t steps;
    jj_scope *scope;
    jj_build *out;
    json_t *parsed; /* JSON text that is being converted: dropped at the end */
};

struct jj_macro {
    const jj_node *node;
    jj_scope *scope; /* where it was defined: what its body sees */
};

struct jj_loop {
    const jj_node *node;
    jj_scope *scope; /* around the loop */
    jj_list *items;
    size_t index; /* from 0 */
    int64_t depth;
    jj_val last; /* what changed() saw */
};

/* ---- state (state.c) ---- */

_Noreturn void jj_fail(jj *j, ad_status code, const char *fmt, ...) AD_PRINTF(3, 4); /* "label, line N: ..." */
_Noreturn void jj_raise(jj *j, const jj_str *message);                                /* the message alone */
void *jj_alloc(jj *j, size_t count, size_t size); /* zeroed; never NULL */
void *jj_grow(jj *j, void *old, size_t n, size_t *cap, size_t want, size_t size); /* room for `want` items; n are kept */
void jj_heap_drop(jj_heap *h);
void jj_step(jj *j, size_t n);
void jj_enter(jj *j); /* one level deeper; leave with j->depth-- */
const char *jj_intern(jj *j, jj_names *names, const char *s, size_t len);
const char *jj_known_name(const jj_names *names, const char *s, size_t len); /* NULL: the template never says it */

/* ---- source to tree (lexer.c, parser.c) ---- */

typedef enum {
    JT_END, JT_TEXT, JT_BLOCK_BEGIN, JT_BLOCK_END, JT_PRINT_BEGIN, JT_PRINT_END,
    JT_NAME, JT_STRING, JT_INT, JT_FLOAT,
    JT_ADD, JT_SUB, JT_MUL, JT_DIV, JT_FLOORDIV, JT_MOD, JT_POW, JT_TILDE, JT_LBRACKET, JT_RBRACKET, JT_LPAREN, JT_RPAREN, JT_LBRACE, JT_RBRACE,
    JT_EQ, JT_NE, JT_LT, JT_LE, JT_GT, JT_GE, JT_ASSIGN, JT_DOT, JT_COLON, JT_PIPE, JT_COMMA, JT_SEMICOLON,
} jj_token_kind;

typedef struct {
    jj_token_kind kind;
    int line;
    const char *name; /* NAME: interned */
    jj_val value;     /* TEXT, STRING, INT, FLOAT */
} jj_token;

/* The tokens of source[len], which lives as long as the heap; the last is JT_END. */
jj_token *jj_lex(jj *j, jj_names *names, const char *source, size_t len);
void jj_parse(jj *j, ad_jinja *t, const char *source, size_t len);

/* ---- values (value.c) ---- */

jj_val jj_undefined(const char *name);
jj_val jj_none(void);
jj_val jj_bool(bool b);
jj_val jj_int(int64_t i);
jj_val jj_float(double f);
jj_val jj_text(jj *j, const char *p, size_t len, bool untrusted); /* p must live as long as the heap */
jj_val jj_part(jj *j, const jj_str *s, size_t from, size_t to);   /* bytes [from, to) */
jj_val jj_literal(jj *j, const char *s);                          /* static text */
jj_val jj_list_new(jj *j, jj_kind kind);                          /* LIST or TUPLE */
void jj_push(jj *j, jj_val list, jj_val item);
jj_val jj_pair_new(jj *j, jj_val a, jj_val b);
jj_val jj_dict_new(jj *j, jj_kind kind); /* DICT or NAMESPACE */
void jj_put(jj *j, jj_dict *d, jj_val key, jj_val value);
jj_val *jj_find(jj *j, const jj_dict *d, jj_val key); /* NULL when absent */
jj_val *jj_find_name(jj *j, const jj_dict *d, const char *key);
void jj_remove(jj *j, jj_dict *d, const jj_val *value); /* value: from jj_find */

const char *jj_type_name(jj_val v); /* Python's: "str", "int" ... */
bool jj_truth(jj_val v);
bool jj_is_number(jj_val v); /* bool included */
double jj_number(jj_val v);
bool jj_as_int(jj_val v, int64_t *out); /* int or bool */
bool jj_equal(jj *j, jj_val a, jj_val b);
int jj_order(jj *j, jj_val a, jj_val b); /* < 0, 0, > 0; fails when they have no order */
bool jj_contains(jj *j, jj_val container, jj_val item);
size_t jj_chars(const jj_str *s);
size_t jj_length(jj *j, jj_val v); /* what len() says; undefined has none of anything */
/* The items of anything that can be iterated, as a list: a dict gives its keys, a string its characters. A list gives itself. */
jj_list *jj_items(jj *j, jj_val v);
jj_val jj_slice(jj *j, jj_val v, jj_val from, jj_val to, jj_val step);

/* ---- text of values (print.c) ---- */

void jj_add(jj *j, jj_build *b, const char *p, size_t len, bool untrusted);
void jj_adds(jj *j, jj_build *b, const char *s); /* trusted */
void jj_add_part(jj *j, jj_build *b, const jj_str *s, size_t from, size_t to);
void jj_add_str(jj *j, jj_build *b, const jj_str *s);
void jj_add_val(jj *j, jj_build *b, jj_val v);  /* str(v) */
void jj_add_repr(jj *j, jj_build *b, jj_val v); /* repr(v) */
jj_val jj_built(jj *j, const jj_build *b);
const jj_str *jj_to_str(jj *j, jj_val v);       /* str(v) */
bool jj_untrusted_at(const jj_str *s, size_t i);
size_t jj_float_repr(double f, char dst[32]);
typedef struct {
    const jj_str *indent;        /* NULL: one line */
    const jj_str *comma, *colon; /* NULL: Python's */
    bool sort_keys, ascii;
} jj_json_style;
void jj_add_json(jj *j, jj_build *b, jj_val v, const jj_json_style *style);
jj_val jj_from_json(jj *j, const json_t *v, const ad_jinja_var *var); /* var says which strings are trusted */
jj_val jj_parse_json(jj *j, const jj_str *text);

/* ---- running (eval.c) ---- */

jj_val jj_eval(jj *j, const jj_node *n);
jj_val jj_call(jj *j, jj_val f, const jj_args *args);
jj_val jj_apply(jj *j, const char *what, const jj_op *op, jj_val self, const jj_args *args); /* what: "filter", for messages */
jj_val jj_attr(jj *j, jj_val v, const char *name, size_t len); /* v.name */
jj_val jj_item(jj *j, jj_val v, jj_val key);                   /* v[key] */
jj_val jj_binary(jj *j, jj_node_kind op, jj_val a, jj_val b);
void jj_run(jj *j);

/* ---- the library (filters.c, tests.c, methods.c) ---- */

const jj_op *jj_filter(const char *name); /* NULL: none of that name */
const jj_op *jj_test(const char *name);
const jj_op *jj_method(jj_kind kind, const char *name, size_t len);
extern const jj_op jj_functions[]; /* ends with a NULL name */
bool jj_run_test(jj *j, const jj_str *name, jj_val v, const jj_args *args);

/* ---- strings (strings.c, format.c) ---- */

bool jj_is_space(uint32_t cp); /* as Python's str.isspace */
const jj_str *jj_want_str(jj *j, jj_val v, const char *what);
int64_t jj_want_int(jj *j, jj_val v, const char *what);
/* chars: the set to strip; ABSENT or none: white space. */
jj_val jj_strip(jj *j, const jj_str *s, jj_val chars, bool left, bool right);
jj_val jj_replace(jj *j, const jj_str *s, const jj_str *from, const jj_str *to, int64_t count); /* count < 0: all */
/* The pieces between sep, which is ABSENT or none for runs of white space; at most `most` cuts, < 0: all; from the right or the left. */
jj_val jj_split(jj *j, const jj_str *s, jj_val sep, int64_t most, bool from_right);
jj_val jj_lines(jj *j, const jj_str *s, bool keep_ends);
typedef enum { JJ_UPPER, JJ_LOWER, JJ_TITLE, JJ_CAPITALIZE } jj_case;
jj_val jj_change_case(jj *j, const jj_str *s, jj_case how);
jj_val jj_escape(jj *j, const jj_str *s); /* HTML; markup stays as it is */
/* Blanks up to `width` characters; where < 0: the text at the left, 0: in the middle, > 0: at the right. */
jj_val jj_pad(jj *j, const jj_str *s, int64_t width, const jj_str *with, int where);
/* Where `what` first (or last) begins in bytes [from, to) of s; to + 1 when it is not there. */
size_t jj_search(jj *j, const jj_str *s, const jj_str *what, size_t from, size_t to, bool last);
jj_val jj_join(jj *j, const jj_str *sep, const jj_list *items);
jj_val jj_format_percent(jj *j, const jj_str *fmt, jj_val args);
jj_val jj_format_braces(jj *j, const jj_str *fmt, const jj_args *args);

#endif
