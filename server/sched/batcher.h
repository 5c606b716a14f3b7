/* SPDX-License-Identifier: MIT */
/* Decides how many rows each running sequence contributes to the next step. Pure: no clock, no thread. */
#ifndef AD_SCHED_BATCHER_H
#define AD_SCHED_BATCHER_H

/* pending[n]: rows each sequence could contribute, oldest first: 1 = it decodes, more = prompt left.
 * rows[n] gets its share: every decoding sequence gets its row, then prompts are filled oldest first until
 * step_tokens rows are used. The oldest sequence always gets at least one row. Returns the sum. */
int ad_batcher_plan(const int *pending, int n, int step_tokens, int *rows);

#endif
