/* SPDX-License-Identifier: MIT */
/* The stepping engine: sequences with their own KV pages and adapter, run together as one ragged batch.
 * core's public face. Everything here belongs to one thread (the engine thread), except ad_seq_new and
 * ad_seq_free, which any thread may call for a sequence that is not inside an engine. */
#ifndef AD_ENGINE_ENGINE_H
#define AD_ENGINE_ENGINE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/model/lowrank.h"
#include "core/model/model.h"

enum { AD_MAX_LOGPROBS = 20 }; /* alternatives per position; the API allows fewer */

typedef struct {
    float temperature;          /* >= 0; 0 is greedy (lowest id on ties) */
    float top_p;                /* (0, 1]; 1 = off */
    float min_p;                /* [0, 1]; 0 = off */
    int top_k;                  /* 0 = off */
    float repetition_penalty;   /* > 0; 1 = off; over prompt and output */
    float presence_penalty;     /* over output only */
    float frequency_penalty;
    uint64_t seed;              /* with `choice` and the position it determines every draw */
    int choice;                 /* index of the choice within its request */
    int max_tokens;             /* >= 0 */
    int min_tokens;             /* end-of-generation ids are banned before this many */
    bool ignore_eos;            /* end-of-generation ids do not end it */
    int logprobs;               /* -1 = none; else number of alternatives per generated token, 0..AD_MAX_LOGPROBS */
    int prompt_logprobs;        /* the same for prompt positions 1..n-1 (each given what precedes it); -1 = none */
} ad_sampling;

typedef struct {
    int32_t id;
    float logprob;              /* log-softmax of the raw logits, before penalties and temperature */
    int n_top;                  /* alternatives, best first */
    int32_t top_id[AD_MAX_LOGPROBS];
    float top_logprob[AD_MAX_LOGPROBS];
} ad_token_info;

typedef enum { AD_FINISH_NONE, AD_FINISH_STOP, AD_FINISH_LENGTH, AD_FINISH_CANCELED, AD_FINISH_ERROR } ad_finish;

#endif
