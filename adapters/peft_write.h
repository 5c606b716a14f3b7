/* SPDX-License-Identifier: MIT */
/* PEFT directories, as PEFT saves them. Any thread. */
#ifndef AD_ADAPTERS_PEFT_WRITE_H
#define AD_ADAPTERS_PEFT_WRITE_H

#include "adapters/adapter.h"

/* Writes the adapter for its base in f32: adapter_model.safetensors, then adapter_config.json, into `dir`, which is made when it is
 * not there. Each file appears complete or not at all. Modules whose rank or alpha is not the most frequent one are in rank_pattern and alpha_pattern.
 * The values are those that are packed: load the base with AD_WEIGHTS_F32 to keep the file's. AD_EIO, AD_EFULL. */
AD_MUSTUSE ad_status ad_peft_write(const ad_adapter *a, const ad_model *base, const char *dir, ad_err *err);

#endif
