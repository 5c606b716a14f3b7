/* SPDX-License-Identifier: MIT */
#include "server/observe/vitals.h"

#include <string.h>

void ad_vitals_add(ad_vitals *v, const ad_vitals_look *look)
{
    bool moved = !v->n || look->steps != v->seen[0].steps;
    v->still_s = look->has_work && !moved ? v->still_s + 1 : 0;
    if (v->n <= AD_RATE_SECONDS) v->n++;
    memmove(v->seen + 1, v->seen, (size_t)(v->n - 1) * sizeof *v->seen);
    v->seen[0] = *look;
}

static double rate(const ad_vitals *v, unsigned long long newest, unsigned long long oldest)
{
    uint64_t ns = v->n ? v->seen[0].now_ns - v->seen[v->n - 1].now_ns : 0;
    return ns ? (double)(newest - oldest) * 1e9 / (double)ns : 0;
}

double ad_vitals_prompt_rate(const ad_vitals *v)
{
    return v->n ? rate(v, v->seen[0].prompt_tokens, v->seen[v->n - 1].prompt_tokens) : 0;
}

double ad_vitals_generated_rate(const ad_vitals *v)
{
    return v->n ? rate(v, v->seen[0].generated_tokens, v->seen[v->n - 1].generated_tokens) : 0;
}
