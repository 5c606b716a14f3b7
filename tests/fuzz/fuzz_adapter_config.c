/* SPDX-License-Identifier: MIT */
/* adapter_config.json, asked about modules of every kind. */
#include "tests/fuzz/fuzz.h"

#include "adapters/peft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ad_module modules[] = {
        {"model.layers.0.self_attn.q_proj", AD_MOD_Q, 0, 64, 64, false},
        {"model.layers.11.mlp.down_proj", AD_MOD_DOWN, 11, 64, 64, false},
        {"model.embed_tokens", AD_MOD_EMBED, -1, 100, 64, false},
        {"lm_head", AD_MOD_HEAD, -1, 64, 100, false},
    };
    ad_peft *p = NULL;
    ad_peft_plan plan;
    ad_err err;
    if (ad_peft_parse(&p, (const char *)data, size, "fuzz", &err) != AD_OK) return 0;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++)
        if (ad_peft_plan_module(p, &modules[i], &plan, &err) != AD_OK) break;
    for (size_t i = 0; i < sizeof modules / sizeof *modules; i++) ad_peft_saves(p, modules[i].name);
    for (int i = 0; ad_peft_idle_target(p, i); i++) {}
    for (int i = 0; ad_peft_idle_saved(p, i); i++) {}
    for (int i = 0; ad_peft_trained_tokens(p, i); i++)
        if (ad_peft_trained_tokens(p, i)->n < 1) __builtin_trap();
    ad_peft_free(&p);
    return 0;
}
