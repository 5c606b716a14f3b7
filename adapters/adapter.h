/* SPDX-License-Identifier: MIT */
/* One immutable adapter version: PEFT or GGUF files read, understood completely or refused, matched to the
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

/* path: a directory that holds adapter_config.json and adapter_model.safetensors, or adapter.gguf; or a .gguf file. name: 1..128 of
 * [A-Za-z0-9._:/-], not "." or "..". The error names the key or tensor and the reason. On success the caller owns one reference.
 * The files are read into memory of our own: whoever may change them could end the process by cutting a mapped one. */
AD_MUSTUSE ad_status ad_adapter_load(ad_adapter **out, const char *name, const char *path, const ad_model *base, ad_err *err);
/* The same for files that nobody else can change, as in the state directory: mapped while the load lasts, which spares a copy. */
AD_MUSTUSE ad_status ad_adapter_load_mapped(ad_adapter **out, const char *name, const char *path, const ad_model *base, ad_err *err);

/* All that is wrong with a PEFT directory that does not load, each as its own sentence, at most `most` of them; how many more there are. Of other files: the first. */
int ad_adapter_reasons(const char *path, const ad_model *base, int most, void (*reason)(void *user, const char *text), void *user);

/* A PEFT adapter that is loaded while its weights still arrive: all but the last bytes' work is done when they have come. dir is as for ad_adapter_load_mapped, and
 * adapter_config.json in it is whole. What cannot be loaded that way is refused, but not with the best of reasons: load it once it is whole. One thread at a time. */
typedef struct ad_adapter_stream ad_adapter_stream;
/* max_bytes: what the weights may have. */
AD_MUSTUSE ad_status ad_adapter_stream_new(ad_adapter_stream **out, const char *dir, const ad_model *base, size_t max_bytes, ad_err *err);
/* The first `have` bytes of adapter_model.safetensors are in the file. After a failure only ad_adapter_stream_free is left. */
AD_MUSTUSE ad_status ad_adapter_stream_advance(ad_adapter_stream *s, size_t have, ad_err *err);
/* The file has its last byte, `have` together. Takes *s in any case. */
AD_MUSTUSE ad_status ad_adapter_stream_finish(ad_adapter_stream **s, size_t have, const char *name, ad_adapter **out, ad_err *err);
void ad_adapter_stream_free(ad_adapter_stream **s); /* NULL is fine */

ad_adapter *ad_adapter_retain(ad_adapter *a);
void ad_adapter_release(ad_adapter **a); /* takes *a; NULL is fine; leaves *a NULL */

const char *ad_adapter_name(const ad_adapter *a);
const ad_lowrank_set *ad_adapter_lowrank(const ad_adapter *a); /* borrowed while a reference is held */
const ad_mix *ad_adapter_mix(const ad_adapter *a);             /* the adapter alone, with weight 1; borrowed alike */

/* SHA-256 of all that the adapter does; its name, prefixes of keys, the order in files and the base model do not count. The bytes, with
 * numbers little-endian and text(x) = u32 length, then x:
 *   text("adapterd adapter 1"), text(FORMAT), text(ARCH)        "peft" and ""; "gguf" and the file's general.architecture
 *   u32 count, then settings in order of module, key:           text(MODULE) text(KEY) text(VALUE)
 *   u32 count, then tensors in order of module, part:           text(MODULE) text(PART) text(DTYPE) u32 dims, u64 each dim, u64 bytes, the bytes
 * MODULE is the canonical name ("model.layers.0.self_attn.q_proj"); names are compared byte by byte. Settings of each adapted module: "rank", a u32;
 * "scaling", an f32; with DoRA "use_dora", a byte of 1; of embedding and head "trainable_token_indices", i32 each as the configuration lists them. Parts:
 * "lora_A", "lora_B" (of embeddings too), "lora_B.bias", "lora_magnitude_vector", "trainable_tokens_delta"; "weight" and "bias" of modules (and norms)
 * that are replaced. DTYPE, dims (outermost first) and bytes are the file's. */
const ad_digest *ad_adapter_digest(const ad_adapter *a);

const char *ad_adapter_format(const ad_adapter *a);            /* "peft" or "gguf" */
int ad_adapter_rank(const ad_adapter *a);                      /* largest rank of any module */
int ad_adapter_matched_modules(const ad_adapter *a);
int ad_adapter_matched_tensors(const ad_adapter *a);           /* those in use: every other one of the file is in a warning */
const char *ad_adapter_base_name(const ad_adapter *a);         /* the base model that the files name; NULL: none */
/* Frobenius norm of a module's scale * B A; 0 when it is not adapted. Finite. module is ad_model_module's index. */
float ad_adapter_norm(const ad_adapter *a, int module);
size_t ad_adapter_packed_bytes(const ad_adapter *a);
/* Packed bytes of all adapters alive in this process, those that are being loaded too. Any thread. */
size_t ad_adapter_live_bytes(void);
/* Notes and warnings of the load, one sentence each: targets that select nothing, another base model's name, corrections of 0, corrections larger than
 * the weight they correct, and what was ignored. Borrowed. */
int ad_adapter_warning_count(const ad_adapter *a);
const char *ad_adapter_warning(const ad_adapter *a, int i);

#endif
