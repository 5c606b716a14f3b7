/* SPDX-License-Identifier: MIT */
/* The forward step of pre-norm decoders with GQA, RoPE and SwiGLU. Private to core/model. */
#ifndef AD_MODEL_DECODER_H
#define AD_MODEL_DECODER_H

#include "core/model/family.h"

/* Called on every team member with the same arguments but `index`. */
void ad_decoder_step(const ad_model *m, ad_scratch *s, int index, int count);

#endif
