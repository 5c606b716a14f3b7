/* SPDX-License-Identifier: MIT */
/* adapter_config.json as PEFT writes it: every key understood, harmless or refused. Any thread; one owner. */
#ifndef AD_ADAPTERS_PEFT_H
#define AD_ADAPTERS_PEFT_H

#include "core/model/model.h"

typedef struct ad_peft ad_peft;

/* json[len] is borrowed for the call; label names the file in messages. */
AD_MUSTUSE ad_status ad_peft_parse(ad_peft **out, const char *json, size_t len, const char *label, ad_err *err);
void ad_peft_free(ad_peft **p); /* NULL is fine */

/* What the configuration asks of one module of the base: PEFT's check_target_module_exists and get_pattern_key. */
typedef struct {
    int rank;    /* 0: the module is not adapted */
    float scale; /* alpha / rank, or alpha / sqrt(rank) with use_rslora */
} ad_peft_plan;
/* AD_EUNSUPPORTED when a regular expression of the file needs more steps or memory than it may. */
AD_MUSTUSE ad_status ad_peft_plan_module(ad_peft *p, const ad_module *m, ad_peft_plan *out, ad_err *err);

/* After all modules were planned: names of target_modules that selected none of them; NULL behind the last. */
const char *ad_peft_idle_target(const ad_peft *p, int i);
/* True when the file says fan_in_fan_out, which PEFT ignores for linear layers. */
bool ad_peft_fan_in_fan_out(const ad_peft *p);
/* base_model_name_or_path; NULL when absent or empty. Borrowed. */
const char *ad_peft_base_model(const ad_peft *p);

#endif
