/* SPDX-License-Identifier: MIT */
/* What a model family's file provides, and the insides of a loaded model that families fill and run.
 * Private to core/model. */
#ifndef AD_MODEL_FAMILY_H
#define AD_MODEL_FAMILY_H

#include "core/model/model.h"
#include "core/model/rope.h"
#include "core/model/source.h"
#include "core/model/step.h"

typedef struct {
    ad_matrix w;       /* [out, in] */
    const float *bias; /* [out] or NULL */
} ad_linear;

typedef struct {
    const float *attn_norm, *mlp_norm; /* [hidden] */
    ad_linear mod[AD_MOD_PER_LAYER];
} ad_layer;

typedef struct ad_family {
    const char *name;
    const char *const *gguf_archs; /* general.architecture values, NULL-terminated */
    const char *const *hf_types;   /* model_type values, NULL-terminated */
    const char *const *gguf_names; /* [AD_MOD_KINDS] of module weights in GGUF files, without layer and suffix */
    /* Fills m->config and m->rope from the source. */
    ad_status (*configure)(ad_model *m, ad_err *err);
    /* Names every tensor of the family through ad_model_want. */
    ad_status (*bind)(ad_model *m, ad_err *err);
    /* One step over a ragged batch; called on every member of the team. */
    void (*step)(const ad_model *m, ad_scratch *s, int index, int count);
} ad_family;

extern const ad_family ad_family_llama;

/* A tensor the model needs, and where it goes: a matrix is packed, a vector becomes f32. */
typedef struct {
    const ad_tensor *src;
    ad_matrix *matrix;
    const float **vector;
    int rows, cols;     /* a vector has one row */
    ad_pack type;       /* of a matrix */
    bool by_codes, exact; /* packed from the codes of its block format; without rounding */
    size_t at, bytes;   /* in the arena */
    int permuted_heads; /* GGUF's interleaved Q/K rows: the number of heads; 0 = rows are in order */
    int module;         /* module index or -1 */
    float norm;         /* of a matrix; see ad_model_module_norm */
} ad_want;

struct ad_model {
    const ad_family *family;
    ad_source *src;
    ad_model_config config;
    ad_rope rope;
    bool attention_bias, mlp_bias; /* config.json says which biases there are; GGUF shows them */
    char *path, *name;
    ad_tokenizer *tokenizer;
    ad_chat_template *chat; /* NULL: none */

    ad_layer *layers;         /* [config.layers] */
    ad_matrix embed;          /* [vocab, hidden] */
    ad_linear head;           /* [vocab, hidden]; the embedding when tied */
    const float *final_norm;  /* [hidden] */
    float *inv_freq;          /* [head_dim / 2] */
    float rope_magnitude;

    ad_want *wants;
    size_t n_wants, cap_wants;
    ad_module *modules;
    int n_modules;
    int *module_want;         /* [n_modules] index in wants of the weight */
    ad_weights weights;       /* as asked for */
    unsigned forms;           /* of activations that the weights read: 1 << ad_act */
    float loss;
    ad_digest fingerprint;
    char *arena;              /* packed weights */
    size_t arena_bytes;
};

/* Asks for tensor `name` of [rows, cols] as a packed matrix: the weight of module `module`. */
AD_MUSTUSE ad_status ad_model_want_matrix(ad_model *m, const char *name, ad_matrix *slot, int rows, int cols, int permuted_heads, int module, ad_err *err);
/* Asks for tensor `name` of n values as f32. An absent one is an error, or, when optional, leaves *slot NULL. */
AD_MUSTUSE ad_status ad_model_want_vector(ad_model *m, const char *name, const float **slot, int n, int permuted_heads, bool optional, ad_err *err);
/* Fills m->fingerprint from the configuration and the file. */
AD_MUSTUSE ad_status ad_model_make_fingerprint(ad_model *m, ad_err *err);

#endif
