/* SPDX-License-Identifier: MIT */
/* The texts of JSON values. Blanks: at most one after ',' and ':' and none elsewhere, so that a model cannot go on for ever
 * with them. Numbers have at most 16 digits before and behind the point and two in the exponent, integers 18: every reader
 * takes them, and none is endless. */
#ifndef AD_GRAMMAR_JSON_H
#define AD_GRAMMAR_JSON_H

#include <jansson.h>

#include "core/grammar/build.h"

ad_gx ad_gr_json_value(ad_gr_builder *b);   /* any */
ad_gx ad_gr_json_array(ad_gr_builder *b);   /* any */
ad_gx ad_gr_json_char(ad_gr_builder *b);    /* one character of a string, escaped in any way */
ad_gx ad_gr_json_string(ad_gr_builder *b, ad_gx content);
ad_gx ad_gr_json_class(ad_gr_builder *b, ad_gr_chars *c); /* a character of a set, written in its shortest way */
ad_gx ad_gr_json_comma(ad_gr_builder *b);
ad_gx ad_gr_json_colon(ad_gr_builder *b);
ad_gx ad_gr_json_literal(ad_gr_builder *b, const json_t *v); /* this value, members in their order */
ad_gx ad_gr_json_key_but(ad_gr_builder *b, ad_str *names, size_t n); /* a string that is none of these; sorts names */

/* Bounds of numbers. */
typedef struct {
    bool has_lo, has_hi, lo_open, hi_open; /* open: the bound itself is outside */
    double lo, hi;
} ad_gr_bounds;

ad_gx ad_gr_json_number(ad_gr_builder *b, const ad_gr_bounds *r);
ad_gx ad_gr_json_integer(ad_gr_builder *b, const ad_gr_bounds *r);

ad_gx ad_gr_schema(ad_gr_builder *b, const json_t *schema); /* schema.c */

#endif
