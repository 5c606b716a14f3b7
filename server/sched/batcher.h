/* SPDX-License-Identifier: MIT */
/* Decides how many rows each running sequence contributes to the next step. Pure: no clock, no thread, no memory of
 * its own; the caller keeps how long each sequence has waited, and what its tenants had. */
#ifndef AD_SCHED_BATCHER_H
#define AD_SCHED_BATCHER_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    int pending;          /* rows it could contribute: 1 = it decodes, more = prompt left */
    int tenant;           /* index of its tenant */
    const void *group;    /* sequences with the same corrections have the same group; NULL: the base */
    size_t bytes;         /* that a step with this group reads beside the base */
    unsigned waited;      /* steps since its group was last taken, 0 if it was in the last */
    int rows;             /* out */
    bool taken;           /* out: its group was taken */
} ad_batch_seq;

typedef struct {
    double weight;        /* of its share; > 0 */
    double turns;         /* in and out, 0 for a new one: groups it was given, over weight, beyond the one that was given fewest */
    bool beside;          /* others decoded a moment ago, and will again */
    int decodes, wants, prompts, rows; /* the batcher's: rows that decode, rows its prompts want, how many prompts, rows they get */
} ad_batch_tenant;

typedef struct {
    int step_tokens;      /* rows of a step; at least n */
    size_t adapter_bytes; /* of all groups of a step together; the first group is taken whatever its size. 0: no limit */
} ad_batch_limits;

/* Fills rows of seqs[n], oldest first, and returns their sum, which is 1..step_tokens. tenants[n_tenants] in order of their oldest sequence.
 *
 * Groups are taken until adapter_bytes are used: the base always, then a group of the tenant that had the fewest turns for its weight, of its groups the one whose
 * sequence has waited longest, among equals the one with the most sequences. So of T tenants of equal weight that run G groups each, a group waits at most
 * T G - 1 steps: a tenant is chosen every T steps, and then its group that waited longest. Other tenants' sequences of a group that is taken run with it.
 *
 * Inside the groups taken every decoding sequence gets its row. What is left is shared by the tenants whose prompts want it, by weight; what one does not
 * want goes to the others; but in a step in which somebody else decodes, or did a moment ago, a tenant has at most a quarter of step_tokens in all, or an eighth
 * as many rows again as it decodes, so that its prompts make neither others' tokens late nor their first ones: the rows it does without make its own steps
 * shorter, too. A tenant's prompts share evenly, at least a row each as far as it goes, the rest to the oldest. So no sequence that decodes waits while its
 * group is taken, and a tenant's prompts wait for nobody but their own. */
int ad_batcher_plan(ad_batch_seq *seqs, int n, ad_batch_tenant *tenants, int n_tenants, const ad_batch_limits *limits);

#endif
