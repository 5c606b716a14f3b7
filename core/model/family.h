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
    const float *w;    /* [out, in] */
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
    /* Fills m->config and m->rope from the source. */
    ad_status (*configure)(ad_model *m, ad_err *err);
    /* Names every tensor of the family through ad_model_want. */
    ad_status (*bind)(ad_model *m, ad_err *err);
    /* One step over a ragged batch; called on every member of the team. */
    void (*step)(const ad_model *m, ad_scratch *s, int index, int count);
} ad_family;

extern const ad_family ad_family_llama;

/* A tensor the model needs, and where its f32 values go. */
typedef struct {
    const ad_tensor *src;
    const float **slot;
    int rows, cols;     /* a vector has one row */
    int permuted_heads; /* GGUF's interleaved Q/K rows: the number of heads; 0 = rows are in order */
    int module;         /* module index or -1 */
} ad_want;

struct ad_model {
    const ad_family *family;
    ad_source *src;
    ad_model_config config;
    ad_rope rope;
    bool attention_bias, mlp_bias; /* config.json says which biases there are; GGUF shows them */
    char *path, *name;
    ad_tokenizer *tokenizer;

    ad_layer *layers;         /* [config.layers] */
    const float *embed;       /* [vocab, hidden] */
    ad_linear head;           /* [vocab, hidden]; w == embed when tied */
    const float *final_norm;  /* [hidden] */
    float *inv_freq;          /* [head_dim / 2] */
    float rope_magnitude;

    ad_want *wants;
    size_t n_wants, cap_wants;
    ad_module *modules;
    int n_modules;
    int *module_want;         /* [n_modules] index in wants of the weight */
    float *arena;             /* converted weights */
    size_t arena_bytes;
};

/* Asks for tensor `name` of [rows, cols] (cols 0: a vector of `rows` values). An absent one is an error, or,
 * when optional, leaves *slot NULL. module (or -1) makes it that module's weight. */
AD_MUSTUSE ad_status ad_model_want(ad_model *m, const char *name, const float **slot, int rows, int cols, int permuted_heads,
                                   int module, bool optional, ad_err *err);

#endif
