/* SPDX-License-Identifier: MIT */
/* GGUF LoRA files, as llama.cpp reads and writes them; ad_adapter_load reads them too. Any thread. */
#ifndef AD_ADAPTERS_GGUF_LORA_H
#define AD_ADAPTERS_GGUF_LORA_H

#include "adapters/adapter.h"

/* Writes the adapter for its base in f32: `path` appears complete or not at all. One alpha serves the whole file, so modules whose
 * alpha differs have the quotient in their B. Rows of B of q and k are interleaved as in GGUF files of Llama models, A of the embedding is
 * turned. The values are those that are packed: load the base with AD_WEIGHTS_F32 to keep the file's.
 * AD_EUNSUPPORTED for an adapted head of a model whose head is its embedding: llama.cpp has no name for it; AD_EIO, AD_EFULL. */
AD_MUSTUSE ad_status ad_gguf_lora_write(const ad_adapter *a, const ad_model *base, const char *path, ad_err *err);

#endif
