/* SPDX-License-Identifier: MIT */
/* The step plan: which adapters, then decode rows, then prompts beside them: shares of tenants, and in them even shares of prompts. */
#include "server/sched/batcher.h"

#include <limits.h>

/* rows: -1 = its group is not decided, -2 = its group stays out of this step, 0 and more = it takes part. */
enum { OPEN = -1, OUT = -2 };

/* ---- groups ---- */

static int count_group(const ad_batch_seq *seqs, int n, const void *group)
{
    int k = 0;
    for (int i = 0; i < n; i++) k += seqs[i].group == group;
    return k;
}

/* Whether a's group is decided before b's; of sequences alike in this the oldest comes first. */
static bool goes_before(const ad_batch_seq *a, int count_a, const ad_batch_seq *b, int count_b, const ad_batch_tenant *tenants)
{
    double turns_a = tenants[a->tenant].turns, turns_b = tenants[b->tenant].turns;
    if (a->tenant != b->tenant && turns_a != turns_b) return turns_a < turns_b;
    if (a->waited != b->waited) return a->waited > b->waited;
    return count_a > count_b;
}

/* The open sequence whose group is to be decided next; -1 when all are. */
static int next_open(const ad_batch_seq *seqs, int n, const ad_batch_tenant *tenants)
{
    int best = -1, best_count = 0;
    for (int i = 0; i < n; i++) {
        if (seqs[i].rows != OPEN) continue;
        int count = count_group(seqs, n, seqs[i].group);
        if (best >= 0 && !goes_before(&seqs[i], count, &seqs[best], best_count, tenants)) continue;
        best = i;
        best_count = count;
    }
    return best;
}

/* Turns are relative: those of who had fewest are 0, and so are those of who has nothing to wait for. */
static void settle_turns(const ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants)
{
    bool contended = false;
    double least = 0;
    for (int t = 0; t < n_tenants; t++) tenants[t].wants = 0; /* here: whether it has groups */
    for (int i = 0; i < n; i++) {
        contended |= seqs[i].rows == OUT;
        if (seqs[i].group) tenants[seqs[i].tenant].wants = 1;
    }
    bool any = false;
    for (int t = 0; t < n_tenants; t++) {
        if (!tenants[t].wants) continue;
        if (!any || tenants[t].turns < least) least = tenants[t].turns;
        any = true;
    }
    for (int t = 0; t < n_tenants; t++) tenants[t].turns = contended && tenants[t].wants ? tenants[t].turns - least : 0;
}

static void choose_groups(ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants, size_t budget)
{
    size_t used = 0;
    for (int i = 0; i < n; i++) seqs[i].rows = seqs[i].group && budget ? OPEN : 0;
    for (int i; (i = next_open(seqs, n, tenants)) >= 0;) {
        bool fits = used == 0 || used + seqs[i].bytes <= budget;
        const void *group = seqs[i].group;
        ad_batch_tenant *t = &tenants[seqs[i].tenant];
        if (fits) {
            used += seqs[i].bytes ? seqs[i].bytes : 1;
            t->turns += 1 / t->weight;
        }
        for (int k = 0; k < n; k++)
            if (seqs[k].group == group) seqs[k].rows = fits ? 0 : OUT;
    }
    settle_turns(seqs, n, tenants, n_tenants);
}

/* ---- rows ---- */

static int give(ad_batch_seq *s, int rows, int left)
{
    int most = s->pending - s->rows;
    if (rows > most) rows = most;
    if (rows > left) rows = left;
    s->rows += rows;
    return rows;
}

/* Decoding sequences get their rows; what prompts want is summed up. Returns how many rows were given. */
static int serve_decodes(ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants)
{
    int given = 0;
    for (int t = 0; t < n_tenants; t++) tenants[t].decodes = tenants[t].wants = tenants[t].prompts = tenants[t].rows = 0;
    for (int i = 0; i < n; i++) {
        ad_batch_tenant *t = &tenants[seqs[i].tenant];
        if (seqs[i].rows == OUT) continue;
        if (seqs[i].pending == 1) {
            seqs[i].rows = 1;
            t->decodes++;
            given++;
        } else {
            t->prompts++;
            t->wants = seqs[i].pending < INT_MAX - t->wants ? t->wants + seqs[i].pending : INT_MAX;
        }
    }
    return given;
}

/* The rows that prompts of a tenant get at most beside others who decode. */
static int most_beside(const ad_batch_tenant *t, int step_tokens)
{
    int quarter = step_tokens / 4 - t->decodes, eighth = t->decodes / 8;
    int most = quarter > eighth ? quarter : eighth;
    return most > 1 ? most : 1;
}

static void limit_wants(ad_batch_tenant *tenants, int n_tenants, int decodes, int step_tokens)
{
    for (int i = 0; i < n_tenants; i++) {
        int most = most_beside(&tenants[i], step_tokens);
        bool beside = tenants[i].beside || decodes > tenants[i].decodes;
        if (beside && tenants[i].wants > most) tenants[i].wants = most;
    }
}

/* The rows of `left` that a tenant gets while `open` tenants of `weights` together still want some: one, and its share of the others. */
static int share_of(const ad_batch_tenant *t, int left, int open, double weights)
{
    return left <= open ? left > 0 : 1 + (int)((left - open) * (t->weight / weights));
}

static bool is_open(const ad_batch_tenant *t) { return t->wants > t->rows; }

/* Shares `left` among the tenants: rounds of shares by weight, until nobody wants less than his; then what rounding left, to the first. */
static void share_rows(ad_batch_tenant *tenants, int n_tenants, int left)
{
    for (bool satisfied = true; satisfied;) {
        int open = 0, before = left;
        double weights = 0;
        satisfied = false;
        for (int t = 0; t < n_tenants; t++)
            if (is_open(&tenants[t])) open++, weights += tenants[t].weight;
        for (int t = 0; t < n_tenants; t++) {
            if (!is_open(&tenants[t]) || tenants[t].wants > share_of(&tenants[t], before, open, weights)) continue;
            left -= tenants[t].rows = tenants[t].wants;
            satisfied = true;
        }
        for (int t = 0, now = left; t < n_tenants && !satisfied; t++) {
            if (!is_open(&tenants[t]) || !left) continue;
            tenants[t].rows = share_of(&tenants[t], now, open, weights);
            if (tenants[t].rows > left) tenants[t].rows = left;
            left -= tenants[t].rows;
        }
    }
    for (int t = 0; t < n_tenants; t++) {
        int more = tenants[t].wants - tenants[t].rows < left ? tenants[t].wants - tenants[t].rows : left;
        tenants[t].rows += more;
        left -= more;
    }
}

/* Even shares of the tenant's prompts, then what is over to the oldest. */
static void serve_prompts(ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants)
{
    for (int t = 0; t < n_tenants; t++) {
        int left = tenants[t].rows, share = tenants[t].prompts ? left / tenants[t].prompts : 0;
        for (int pass = 0; pass < 2 && left; pass++)
            for (int i = 0; i < n; i++)
                if (seqs[i].tenant == t && seqs[i].rows != OUT && seqs[i].pending > 1) left -= give(&seqs[i], pass ? INT_MAX : share > 0 ? share : 1, left);
    }
}

int ad_batcher_plan(ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants, const ad_batch_limits *limits)
{
    choose_groups(seqs, n, tenants, n_tenants, limits->adapter_bytes);
    int total = serve_decodes(seqs, n, tenants, n_tenants);
    limit_wants(tenants, n_tenants, total, limits->step_tokens);
    share_rows(tenants, n_tenants, limits->step_tokens - total);
    serve_prompts(seqs, n, tenants, n_tenants);
    for (int t = 0; t < n_tenants; t++) total += tenants[t].rows;
    for (int i = 0; i < n; i++) {
        seqs[i].taken = seqs[i].rows != OUT;
        if (!seqs[i].taken) seqs[i].rows = 0;
    }
    return total;
}
