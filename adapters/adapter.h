/* SPDX-License-Identifier: MIT */
/* One immutable adapter version: a PEFT directory read, understood completely or refused, matched to the
 * base model and packed for the engine. Loading may run on any thread; the reference count belongs to the
 * loop thread. */
#ifndef AD_ADAPTERS_ADAPTER_H
#define AD_ADAPTERS_ADAPTER_H

#include <stdbool.h>

#include "core/base/hash.h"
#include "core/base/status.h"
#include "core/model/lowrank.h"
#include "core/model/model.h"

typedef struct ad_adapter ad_adapter;

/* dir holds adapter_config.json and adapter_model.safetensors. name: 1..128 of [A-Za-z0-9._:/-], not "." or "..".
 * The error names the key or tensor and the reason. On success the caller owns one reference. */
AD_MUSTUSE ad_status ad_adapter_load(ad_adapter **out, const char *name, const char *dir, const ad_model *base, ad_err *err);
ad_adapter *ad_adapter_retain(ad_adapter *a);
void ad_adapter_release(ad_adapter **a); /* takes *a; NULL is fine; leaves *a NULL */

const char *ad_adapter_name(const ad_adapter *a);
const char *ad_adapter_dir(const ad_adapter *a);
const ad_lowrank_set *ad_adapter_lowrank(const ad_adapter *a); /* borrowed while a reference is held */
const ad_mix *ad_adapter_mix(const ad_adapter *a);             /* the adapter alone, with weight 1; borrowed alike */
/* SHA-256 of what the adapter does: modules, ranks, scales, types and values of its tensors. Names and files do not count. */
const ad_digest *ad_adapter_digest(const ad_adapter *a);
int ad_adapter_rank(const ad_adapter *a);                      /* largest rank of any module */
int ad_adapter_matched_modules(const ad_adapter *a);
size_t ad_adapter_packed_bytes(const ad_adapter *a);
/* Notes and warnings of the load, one sentence each; borrowed. */
int ad_adapter_warning_count(const ad_adapter *a);
const char *ad_adapter_warning(const ad_adapter *a, int i);

#endif
