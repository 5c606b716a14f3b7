/* SPDX-License-Identifier: MIT */
/* The frozen base model: its configuration, its modules by their Hugging Face names, its weights.
 * Immutable once loaded: any thread may read. */
#ifndef AD_MODEL_MODEL_H
#define AD_MODEL_MODEL_H

#include "core/base/hash.h"
#include "core/base/mem.h"
#include "core/tensor/pack.h"
#include "core/text/chat.h"
#include "core/text/tokenizer.h"

typedef struct ad_model ad_model;

typedef struct {
    const char *family;     /* "llama", "mistral": borrowed from the model */
    int vocab;              /* rows of the embedding */
    int hidden;             /* D */
    int layers;
    int heads, kv_heads;    /* H, K; H is a multiple of K */
    int head_dim;           /* hd; heads * head_dim need not be D */
    int intermediate;       /* MLP width */
    int max_positions;      /* trained context in tokens */
    float norm_eps;
    bool tied_head;         /* the head is the embedding */
} ad_model_config;

/* What a low-rank pair can attach to. Order within a layer is execution order. */
typedef enum {
    AD_MOD_Q, AD_MOD_K, AD_MOD_V, AD_MOD_O, AD_MOD_GATE, AD_MOD_UP, AD_MOD_DOWN,
    AD_MOD_PER_LAYER,
    AD_MOD_EMBED = AD_MOD_PER_LAYER, /* one each, after the layers */
    AD_MOD_HEAD,
    AD_MOD_KINDS
} ad_module_kind;

typedef struct {
    char name[64];       /* "model.layers.3.self_attn.q_proj", "model.embed_tokens", "lm_head" */
    ad_module_kind kind;
    int layer;           /* -1 for embed and head */
    int in, out;         /* Linear: y[out] = W[out, in] x. Embedding: in = vocab, out = hidden */
    bool has_bias;
} ad_module;

/* Types of the resident weights. AUTO: 4 bits for tensors of 4-bit formats, 8 for other quantised ones, bf16 for the rest.
 * 4-bit tensors are repacked, not rounded again, with AUTO and INT4; INT4 leaves embedding and head at 8 bits. */
typedef enum { AD_WEIGHTS_AUTO, AD_WEIGHTS_F32, AD_WEIGHTS_BF16, AD_WEIGHTS_INT8, AD_WEIGHTS_INT4 } ad_weights;
/* "auto", "f32", ...; false: unknown. */
bool ad_weights_parse(const char *name, ad_weights *out);

typedef struct {
    ad_weights weights;
    size_t memory_bytes; /* refuse a model whose resident weights would need more; 0 = what the machine has */
    int n_threads;       /* used while loading; 0 = 1 */
} ad_model_options;

/* path is a GGUF file or a Hugging Face directory. Errors name the file, the tensor or key, and the reason.
 * AD_EUNSUPPORTED for an unknown family, AD_ENOMEM for a model that does not fit. */
AD_MUSTUSE ad_status ad_model_load(ad_model **out, const char *path, const ad_model_options *opt, ad_err *err);
void ad_model_free(ad_model **m);

const ad_model_config *ad_model_get_config(const ad_model *m);
const char *ad_model_path(const ad_model *m);
const char *ad_model_name(const ad_model *m); /* general.name, or the last part of the path */
const ad_tokenizer *ad_model_tokenizer(const ad_model *m);
/* The chat template in the model's own files; NULL when they have none. Borrowed from m. */
const ad_chat_template *ad_model_chat_template(const ad_model *m);
size_t ad_model_resident_bytes(const ad_model *m); /* packed weights in memory of our own */
/* What the modules' weights are packed as, with counts: "210 int4, 1 int8". */
void ad_model_describe_weights(const ad_model *m, char *text, size_t size);
/* Largest root mean square of what packing changed in a module, relative to the module's own; 0: every value is as in the file. */
float ad_model_packing_loss(const ad_model *m);
/* Frobenius norm of a module's weight, estimated from every 16th row or so: what corrections are measured against. */
float ad_model_module_norm(const ad_model *m, int module);
ad_pack ad_model_adapter_type(const ad_model *m); /* what adapters of this model are packed as */
/* What a module's weights are packed as when they come as floats: merged, or replaced by an adapter. */
ad_pack ad_model_merged_type(const ad_model *m, int module);
size_t ad_model_mapped_bytes(const ad_model *m);

/* Which base model this is: SHA-256 over the family, the numbers of the configuration, and every tensor's name, type, shape and first, middle and last 4 KiB.
 * It does not see where the files are or how they are sharded, how weights are packed, tokenizer and chat template, or a change between
 * the samples; the same weights in another format or type are another model. */
const ad_digest *ad_model_fingerprint(const ad_model *m);

/* Modules: index = layer * AD_MOD_PER_LAYER + kind, then embed, then head. */
int ad_model_module_count(const ad_model *m);
const ad_module *ad_model_module(const ad_model *m, int index);
/* Exact name without prefixes such as "base_model.model."; -1 when there is none. O(1). */
int ad_model_find_module(const ad_model *m, const char *name);

/* The weight's name in GGUF files of this family, "blk.3.attn_q.weight"; returns its length like snprintf. */
int ad_model_gguf_name(const ad_model *m, int module, char *out, size_t size);
/* The module whose weight has this name there; -1 when there is none. */
int ad_model_find_gguf(const ad_model *m, ad_str name);
const char *ad_model_gguf_arch(const ad_model *m); /* general.architecture of such files: "llama" */

/* Modules with the same input: index = 4 * layer + (q k v, o, gate up, down), then embedding, then head. */
int ad_model_group_count(const ad_model *m);
int ad_model_group_of(const ad_model *m, int module);

/* The base weight of a module as the file has it, Hugging Face row order, f32: rows [row, row + n) into
 * dst[n, cols]; bound (may be NULL) gets the file format's own quantisation error per value. A tied head
 * reads the embedding. For the embedding, rows are tokens and cols = hidden. */
void ad_model_read_rows(const ad_model *m, int module, int row, int n, float *dst, float *bound);

#endif
