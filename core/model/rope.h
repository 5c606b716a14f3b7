/* SPDX-License-Identifier: MIT */
/* Rotary position embedding: the inverse frequency of each pair for every scaling kind we serve.
 * Formulas: transformers modeling_rope_utils.py; GGUF stores llama3's as a divisor per pair. */
#ifndef AD_MODEL_ROPE_H
#define AD_MODEL_ROPE_H

#include <jansson.h>
#include <stdbool.h>

#include "core/formats/gguf.h"

typedef enum { AD_ROPE_PLAIN, AD_ROPE_LINEAR, AD_ROPE_LLAMA3, AD_ROPE_YARN } ad_rope_kind;

typedef struct {
    ad_rope_kind kind;
    double theta;
    double factor;               /* linear, llama3, yarn */
    double original_positions;   /* llama3, yarn: context before scaling */
    double low_freq, high_freq;  /* llama3 */
    double beta_fast, beta_slow; /* yarn */
    double magnitude;            /* yarn: what cos and sin are multiplied by; 0 = 0.1 ln(factor) + 1 */
    bool truncate;               /* yarn: ramp limits are rounded outwards */
    const float *divisors;       /* GGUF rope_freqs.weight [head_dim / 2] or NULL; borrowed */
} ad_rope;

/* config.json: `rope_parameters`, or the older `rope_theta` + `rope_scaling`. max_positions is the model's. */
AD_MUSTUSE ad_status ad_rope_from_config(ad_rope *out, const json_t *config, const char *label, int max_positions, ad_err *err);
/* GGUF metadata under the architecture's prefix, and rope_freqs.weight. */
AD_MUSTUSE ad_status ad_rope_from_gguf(ad_rope *out, const ad_gguf *g, const char *arch, int head_dim, ad_err *err);

/* inv[head_dim / 2], and the factor of cos and sin. */
void ad_rope_frequencies(const ad_rope *r, int head_dim, float *inv, float *magnitude);

#endif
