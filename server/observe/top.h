/* SPDX-License-Identifier: MIT */
/* Counters by name for the names with the most traffic; everybody else's together. Bounded memory however many names there are. Pure: the caller brings the time.
 *
 * The first K names get a row each. When there are more, the others' traffic is watched, too, and one that has more than twice that of the quietest row takes its place once
 * that row is ROW_S old. Traffic counts half after each HALF_LIFE_S, so that who was busy yesterday makes room. Counters never go back: a row that goes is gone, with what it
 * had, and a name that gets a row (again) begins at zero, as after a restart. What was counted for others stays there. */
#ifndef AD_OBSERVE_TOP_H
#define AD_OBSERVE_TOP_H

#include <stdint.h>

#include "core/base/status.h"

typedef struct ad_top ad_top;

enum { AD_TOP_MAX = 1000, AD_TOP_NAME = 128, AD_TOP_ROW_S = 600, AD_TOP_HALF_LIFE_S = 300 };
#define AD_TOP_OTHER "other" /* a name that is this very word is always counted there */

typedef struct {
    uint64_t requests, failures, rejections, prompt_tokens, cached_tokens, generated_tokens;
} ad_top_counts;

/* rows: K, 0 to AD_TOP_MAX; with 0 everything is counted for others. */
AD_MUSTUSE ad_status ad_top_new(ad_top **out, int rows, ad_err *err);
void ad_top_free(ad_top **t); /* NULL inside is fine */
/* now_s: of any clock that does not go back. A name longer than AD_TOP_NAME is counted for others. */
void ad_top_add(ad_top *t, const char *name, const ad_top_counts *more, int64_t now_s);
int ad_top_rows(const ad_top *t); /* that there are, without the one of the others */
/* Row i; i == ad_top_rows: the others'. Borrowed until the next add. */
const char *ad_top_name(const ad_top *t, int i);
const ad_top_counts *ad_top_counts_of(const ad_top *t, int i);

#endif
