/* SPDX-License-Identifier: MIT */
/* The step plan: decode first, prompts in chunks beside it. */
#include "server/sched/batcher.h"

int ad_batcher_plan(const int *pending, int n, int step_tokens, int *rows)
{
    int left = step_tokens;
    for (int i = 0; i < n; i++) {
        rows[i] = pending[i] == 1 && left > 0;
        left -= rows[i];
    }
    for (int i = 0; i < n && left > 0; i++) {
        if (pending[i] <= 1) continue;
        rows[i] = pending[i] < left ? pending[i] : left;
        left -= rows[i];
    }
    return step_tokens - left;
}
