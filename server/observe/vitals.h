/* SPDX-License-Identifier: MIT */
/* What a look at the engine once a second tells: whether it moves, and how fast. Pure: no clock, no threads.
 * Seconds are counted in looks. A process that was stopped, or a machine that slept, did not look meanwhile, and blames nobody for it. */
#ifndef AD_OBSERVE_VITALS_H
#define AD_OBSERVE_VITALS_H

#include <stdbool.h>
#include <stdint.h>

enum { AD_RATE_SECONDS = 5 };

typedef struct {
    uint64_t now_ns;
    bool has_work;            /* somebody waits for the engine */
    unsigned long long steps, prompt_tokens, generated_tokens; /* since the start */
} ad_vitals_look;

typedef struct {
    int still_s;              /* for how long it has had work and finished no step, in looks */
    ad_vitals_look seen[AD_RATE_SECONDS + 1]; /* [n] the newest looks, the newest first */
    int n;
} ad_vitals;

void ad_vitals_add(ad_vitals *v, const ad_vitals_look *look);
/* Tokens a second over the last AD_RATE_SECONDS seconds, or since the start. */
double ad_vitals_prompt_rate(const ad_vitals *v);
double ad_vitals_generated_rate(const ad_vitals *v);

#endif
