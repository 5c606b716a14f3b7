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
    bool dora;   /* it has a magnitude */
    bool biased; /* its B has a bias */
} ad_peft_plan;
/* AD_EUNSUPPORTED when a regular expression of the file needs more steps or memory than it may. */
AD_MUSTUSE ad_status ad_peft_plan_module(ad_peft *p, const ad_module *m, ad_peft_plan *out, ad_err *err);

/* Whose biases the file has: nobody's, those of all modules, or of the adapted ones. */
typedef enum { AD_PEFT_BIAS_NONE, AD_PEFT_BIAS_ALL, AD_PEFT_BIAS_ADAPTED } ad_peft_bias;
ad_peft_bias ad_peft_biases(const ad_peft *p);
/* Whether modules_to_save names a module, here any part of the base with weights of its own ("model.layers.0.input_layernorm"), or
 * one around it. */
bool ad_peft_saves(ad_peft *p, const char *name);
/* After all of the base's parts were asked for: items of modules_to_save that named none of them; NULL behind the last. */
const char *ad_peft_idle_saved(const ad_peft *p, int i);

/* trainable_token_indices of one module, by an ending of its name; ids in the order of the rows. Borrowed; NULL behind the last. */
typedef struct {
    const char *module;
    const int32_t *ids;
    int n;
} ad_peft_tokens;
const ad_peft_tokens *ad_peft_trained_tokens(const ad_peft *p, int i);

/* After all modules were planned: names of target_modules that selected none of them; NULL behind the last. */
const char *ad_peft_idle_target(const ad_peft *p, int i);
/* True when the file says fan_in_fan_out, which PEFT ignores for linear layers. */
bool ad_peft_fan_in_fan_out(const ad_peft *p);
/* base_model_name_or_path; NULL when absent or empty. Borrowed. */
const char *ad_peft_base_model(const ad_peft *p);

#endif
