/* SPDX-License-Identifier: MIT */
/* Regular expressions for other front ends: over characters that are written in their own way, and searched for. */
#ifndef AD_GRAMMAR_REGEX_H
#define AD_GRAMMAR_REGEX_H

#include "core/grammar/build.h"

/* How one character of a set is written, e.g. ad_gr_class. */
typedef ad_gx ad_gr_char_fn(ad_gr_builder *b, ad_gr_chars *c);

typedef struct {
    ad_gx x;
    uint32_t min, max;           /* characters of a match; max AD_GR_INF: no limit */
    bool is_repeat;              /* it is one character, unit_min to unit_max times */
    ad_gx unit;                  /* valid with is_repeat */
    uint32_t unit_min, unit_max;
} ad_gr_match;

/* search: a match may lie anywhere in the text, unless anchored; else it is the whole text. */
ad_gr_match ad_gr_regex_of(ad_gr_builder *b, ad_str pattern, ad_gr_char_fn *write, bool search);

#endif
