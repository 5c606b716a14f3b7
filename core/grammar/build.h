/* SPDX-License-Identifier: MIT */
/* What the files of core/grammar share: expressions, which the front ends build, and the program they are compiled to.
 * A builder belongs to one thread; a program is immutable. */
#ifndef AD_GRAMMAR_BUILD_H
#define AD_GRAMMAR_BUILD_H

#include "core/grammar/grammar.h"
#include "core/grammar/index.h"

enum {
    AD_GR_MAX_TEXT = 1 << 20,   /* bytes of a schema, pattern or grammar: more than any request we know */
    AD_GR_MAX_EXPRS = 1 << 20,  /* 20 MB of expressions while compiling */
    AD_GR_MAX_CODE = 1 << 18,   /* instructions: 5 MB */
    AD_GR_MAX_RULES = 1 << 14,
    AD_GR_MAX_NESTING = 200,    /* of groups, schemas and the like: bounds the C stack */
};
#define AD_GR_INF UINT32_MAX

/* ---- sets of characters ---- */

typedef struct {
    uint32_t lo, hi; /* lo <= hi <= 0x10FFFF */
} ad_gr_range;

/* Zero-initialise, ad_gr_chars_deinit when done. Sorted and disjoint after ad_gr_chars_sort. */
typedef struct {
    ad_gr_range *ranges;
    size_t n, cap;
    bool failed; /* out of memory */
} ad_gr_chars;

void ad_gr_chars_add(ad_gr_chars *c, uint32_t lo, uint32_t hi);
void ad_gr_chars_sort(ad_gr_chars *c);
void ad_gr_chars_negate(ad_gr_chars *c);                        /* sorts first */
void ad_gr_chars_without(ad_gr_chars *c, uint32_t lo, uint32_t hi);
void ad_gr_chars_join(ad_gr_chars *c, const ad_gr_chars *more);
void ad_gr_chars_meet(ad_gr_chars *c, const ad_gr_chars *other); /* both sorted */
void ad_gr_chars_deinit(ad_gr_chars *c);

/* ---- expressions ---- */

typedef uint32_t ad_gx; /* an expression of a builder; may be used in several places */
enum { AD_GX_EMPTY = 0, AD_GX_NONE = 1 }; /* the empty text; no text at all */

typedef struct {
    uint64_t bits[4];
} ad_gr_set; /* of bytes */

typedef enum {
    AD_GX_KIND_EMPTY,
    AD_GX_KIND_NONE,
    AD_GX_KIND_SET,    /* a: a set of bytes */
    AD_GX_KIND_SEQ,    /* a, then b */
    AD_GX_KIND_ALT,    /* a or b */
    AD_GX_KIND_REPEAT, /* a, min to max times */
    AD_GX_KIND_REF,    /* a: a rule */
} ad_gx_kind;

typedef struct {
    ad_gx_kind kind;
    uint32_t a, b, min, max;
} ad_gr_expr;

typedef struct {
    ad_gx body;
    char *name; /* owned; NULL when the user did not name it */
} ad_gr_rule;

/* Errors are sticky: after one, everything returns AD_GX_EMPTY and `st` tells. */
typedef struct {
    ad_gr_expr *exprs;
    size_t n_exprs, exprs_cap;
    ad_gr_set *sets;
    size_t n_sets, sets_cap;
    ad_gr_index set_index;
    ad_gr_rule *rules;
    size_t n_rules, rules_cap;
    uint32_t json[5]; /* rules of JSON's values, once made; 0: not yet (see json.h) */
    ad_status st;
    ad_err *err;
} ad_gr_builder;

AD_MUSTUSE ad_status ad_gr_builder_init(ad_gr_builder *b, ad_err *err);
void ad_gr_builder_deinit(ad_gr_builder *b);
ad_gx ad_gr_fail(ad_gr_builder *b, ad_status st, const char *fmt, ...) AD_PRINTF(3, 4); /* the first failure stays */

ad_gx ad_gr_text(ad_gr_builder *b, ad_str s);
ad_gx ad_gr_lit(ad_gr_builder *b, const char *s);
ad_gx ad_gr_bytes(ad_gr_builder *b, const ad_gr_set *set); /* one byte of the set */
ad_gx ad_gr_class(ad_gr_builder *b, ad_gr_chars *c); /* one character of c, as UTF-8; sorts c */
ad_gx ad_gr_seq(ad_gr_builder *b, ad_gx x, ad_gx y);
ad_gx ad_gr_alt(ad_gr_builder *b, ad_gx x, ad_gx y);
ad_gx ad_gr_repeat(ad_gr_builder *b, ad_gx x, uint32_t min, uint32_t max); /* max AD_GR_INF: no limit */
ad_gx ad_gr_choice(ad_gr_builder *b, ad_str *strs, size_t n);              /* one of the texts; sorts strs */
uint32_t ad_gr_rule_new(ad_gr_builder *b, const char *name, size_t len);   /* name may be NULL; its body is NONE yet */
void ad_gr_rule_set(ad_gr_builder *b, uint32_t rule, ad_gx body);
ad_gx ad_gr_ref(ad_gr_builder *b, uint32_t rule);

/* ---- front ends: the expression of a text ---- */

ad_gx ad_gr_regex(ad_gr_builder *b, ad_str pattern);
ad_gx ad_gr_gbnf(ad_gr_builder *b, ad_str text);
ad_gx ad_gr_schema_text(ad_gr_builder *b, ad_str text);
ad_gx ad_gr_json_object(ad_gr_builder *b);
ad_gx ad_gr_choices_text(ad_gr_builder *b, ad_str text);
ad_gx ad_gr_structure_text(ad_gr_builder *b, ad_str text);

/* ---- programs ---- */

/* A pushdown program over bytes. Frames are pushed by CALL and LOOP and popped by RET and END. */
typedef enum {
    AD_GR_ACCEPT, /* instruction 0 only: the end of the text */
    AD_GR_BYTE,   /* a byte of set `arg`, then next */
    AD_GR_SPLIT,  /* next or arg */
    AD_GR_CALL,   /* rule at `arg`, then next */
    AD_GR_RET,
    AD_GR_LOOP,   /* body at `arg`, min to max times, then next */
    AD_GR_END,    /* of the body of the loop at `arg` */
    AD_GR_FAIL,
} ad_gr_op;

typedef struct {
    uint32_t op, next, arg, min, max;
} ad_gr_instr;

typedef struct {
    ad_gr_instr *code;
    size_t n_code, code_cap;
    uint32_t start;        /* of the root rule */
    uint8_t *live;         /* [n_code] an end can be reached from here */
    ad_gr_set *sets;       /* [n_sets] */
    size_t n_sets;
    uint8_t class_of[256]; /* bytes that no set tells apart share a class */
    uint8_t byte_of[256];  /* [n_classes] one byte of each */
    int n_classes;
} ad_gr_program;

/* Compiles `root` and all rules. AD_EINVAL: left recursion, or no text at all. */
AD_MUSTUSE ad_status ad_gr_compile(ad_gr_builder *b, ad_gx root, ad_gr_program *out);
void ad_gr_program_deinit(ad_gr_program *p);

static inline bool ad_gr_has(const ad_gr_set *s, uint8_t byte) { return s->bits[byte >> 6] >> (byte & 63) & 1; }

#endif
