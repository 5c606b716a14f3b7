/* SPDX-License-Identifier: MIT */
/* The step plan: which adapters, then decode rows, then prompts in even shares beside them. */
#include "server/sched/batcher.h"

#include <limits.h>
#include <stdbool.h>

/* rows: -1 = its group is not decided, -2 = its group stays out of this step, 0 and more = it takes part. */
enum { OPEN = -1, OUT = -2 };

static int count_group(const ad_batch_seq *seqs, int n, const void *group)
{
    int k = 0;
    for (int i = 0; i < n; i++) k += seqs[i].group == group;
    return k;
}

/* The open sequence whose group is to be decided next; -1 when all are. */
static int next_open(const ad_batch_seq *seqs, int n)
{
    int best = -1, best_count = 0;
    for (int i = 0; i < n; i++) {
        if (seqs[i].rows != OPEN) continue;
        int count = count_group(seqs, n, seqs[i].group);
        if (best >= 0 && (seqs[i].waited < seqs[best].waited || (seqs[i].waited == seqs[best].waited && count <= best_count))) continue;
        best = i;
        best_count = count;
    }
    return best;
}

static void choose_groups(ad_batch_seq *seqs, int n, size_t budget)
{
    size_t used = 0;
    for (int i = 0; i < n; i++) seqs[i].rows = seqs[i].group && budget ? OPEN : 0;
    for (int i; (i = next_open(seqs, n)) >= 0;) {
        bool fits = used == 0 || used + seqs[i].bytes <= budget;
        const void *group = seqs[i].group;
        if (fits) used += seqs[i].bytes ? seqs[i].bytes : 1;
        for (int k = i; k < n; k++)
            if (seqs[k].group == group) seqs[k].rows = fits ? 0 : OUT;
        for (int k = 0; k < i; k++)
            if (seqs[k].group == group) seqs[k].rows = fits ? 0 : OUT;
    }
}

static int give(ad_batch_seq *s, int rows, int left)
{
    int most = s->pending - s->rows;
    if (rows > most) rows = most;
    if (rows > left) rows = left;
    s->rows += rows;
    return rows;
}

int ad_batcher_plan(ad_batch_seq *seqs, int n, const ad_batch_limits *limits)
{
    int left = limits->step_tokens, prompts = 0;
    choose_groups(seqs, n, limits->adapter_bytes);
    for (int i = 0; i < n; i++) {
        if (seqs[i].rows == OUT) continue;
        if (seqs[i].pending == 1) left -= give(&seqs[i], 1, left);
        else prompts++;
    }
    int share = prompts ? left / prompts : 0;
    for (int pass = 0; pass < 2; pass++) /* even shares, then what is over to the oldest */
        for (int i = 0; i < n; i++)
            if (seqs[i].rows != OUT && seqs[i].pending > 1) left -= give(&seqs[i], pass ? INT_MAX : share > 0 ? share : 1, left);
    for (int i = 0; i < n; i++)
        if (seqs[i].rows == OUT) seqs[i].rows = 0;
    return limits->step_tokens - left;
}
