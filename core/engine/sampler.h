/* SPDX-License-Identifier: MIT */
/* From logits to a token: biases, penalties, the mask of what is allowed, temperature, min_p, top_k, top_p, draw (in that
 * order, as vLLM), and log-probabilities of the raw logits. Any thread; one owner per object. */
#ifndef AD_ENGINE_SAMPLER_H
#define AD_ENGINE_SAMPLER_H

#include "core/engine/engine.h"
#include "core/tensor/kernels.h"

/* Working memory of one thread. */
typedef struct {
    float *work;       /* [vocab] logits after penalties */
    int32_t *order;    /* [vocab] candidate ids */
    float *weight;     /* [vocab] exp of the candidates */
    uint64_t *mask, *other_mask; /* [(vocab + 63) / 64] for the caller: a bit per token */
} ad_sampler_scratch;

AD_MUSTUSE ad_status ad_sampler_scratch_init(ad_sampler_scratch *s, int vocab, ad_err *err);
void ad_sampler_scratch_deinit(ad_sampler_scratch *s);

/* Which tokens a sequence has seen; kept only when a penalty is on. */
typedef struct {
    uint32_t *seen;    /* [vocab] bit 31: in prompt or output; low bits: count in the output. NULL = no penalty is on */
    int32_t *ids;      /* [n] distinct ids seen */
    int n;
} ad_history;

AD_MUSTUSE ad_status ad_history_init(ad_history *h, int vocab, const int32_t *prompt, int n_prompt, ad_err *err);
void ad_history_add(ad_history *h, int32_t id); /* one generated token; does nothing without a penalty */
void ad_history_deinit(ad_history *h);

/* A number in [0, 1) that depends on these three only. */
double ad_sampler_uniform(uint64_t seed, int choice, int position);

/* logits[vocab] are raw; ids from n_usable on are never drawn (padding rows of the head), nor those whose bit in
 * mask[(n_usable + 63) / 64] is not set (NULL: all are). position counts generated tokens. False when the row is not finite or
 * nothing can be drawn. */
bool ad_sample(const ad_kernels *k, ad_sampler_scratch *s, const ad_sampling *p, const ad_history *h, const float *logits, int vocab,
               int n_usable, const uint64_t *mask, int position, ad_token_info *out);

/* Fills out->id, logprob and n_top alternatives of a raw row. False when the row is not finite. */
bool ad_logprobs(const ad_kernels *k, const float *logits, int vocab, int32_t id, int n_top, ad_token_info *out);

#endif
