/* SPDX-License-Identifier: MIT */
/* What llama-server's routes share. */
#ifndef AD_API_LLAMA_SERVER_H
#define AD_API_LLAMA_SERVER_H

#include "server/api/request.h"

/* model, adapters, lora; nothing named: the defaults of /lora-adapters. */
bool ad_llama_read_target(const ad_reader *rd);
extern const ad_sampling ad_llama_defaults; /* its seed says that one is drawn */
/* The settings of a generation under llama-server's names; the caller owns it. */
json_t *ad_llama_settings(const ad_sampling *s);

#endif
