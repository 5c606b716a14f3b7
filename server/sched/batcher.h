/* SPDX-License-Identifier: MIT */
/* Decides how many rows each running sequence contributes to the next step. Pure: no clock, no thread, no memory of
 * its own; the caller keeps how long each sequence has waited. */
#ifndef AD_SCHED_BATCHER_H
#define AD_SCHED_BATCHER_H

#include <stddef.h>

typedef struct {
    int pending;          /* rows it could contribute: 1 = it decodes, more = prompt left */
    const void *group;    /* sequences with the same corrections have the same group; NULL: the base */
    size_t bytes;         /* that a step with this group reads beside the base */
    unsigned waited;      /* steps since it last got a row, 0 if it got one in the last */
    int rows;             /* out */
} ad_batch_seq;

typedef struct {
    int step_tokens;      /* rows of a step; at least n */
    size_t adapter_bytes; /* of all groups of a step together; the first group is taken whatever its size. 0: no limit */
} ad_batch_limits;

/* Fills rows of seqs[n], oldest first, and returns their sum, which is 1..step_tokens.
 *
 * Groups are taken until adapter_bytes are used: the base always, then the group whose sequence has waited longest, among
 * equals the one with the most sequences. So a group waits at most G - 1 steps, G being the groups that run: each step
 * takes the one that waited longest, and whoever was taken begins again at 0. Inside the groups taken every decoding
 * sequence gets its row; what is left is shared evenly by the prompts, at least a row each, the rest to the oldest. So
 * no sequence of a running group ever waits while its group is taken. */
int ad_batcher_plan(ad_batch_seq *seqs, int n, const ad_batch_limits *limits);

#endif
