/* SPDX-License-Identifier: MIT */
/* The Llama family: Llama 1-3, SmolLM2, TinyLlama, Mistral. Reads its configuration and names its tensors in
 * both file kinds; the graph itself is the pre-norm GQA + SwiGLU decoder of decoder.c. */
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/model/decoder.h"
#include "core/model/family.h"

/* No published model comes near these; they keep products of two sizes inside an int. */
enum { MAX_DIM = 1 << 20, MAX_LAYERS = 1024, MAX_HEAD_DIM = 1024, MAX_VOCAB = 4 << 20 };

static ad_status check_config(ad_model *m, ad_err *err)
{
    ad_model_config *c = &m->config;
    const struct { const char *name; int value, max; } sizes[] = {
        {"vocabulary", c->vocab, MAX_VOCAB}, {"hidden size", c->hidden, MAX_DIM}, {"number of layers", c->layers, MAX_LAYERS},
        {"number of heads", c->heads, 4096}, {"number of key-value heads", c->kv_heads, 4096}, {"head dimension", c->head_dim, MAX_HEAD_DIM},
        {"MLP width", c->intermediate, MAX_DIM}, {"context length", c->max_positions, INT_MAX},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (sizes[i].value < 1 || sizes[i].value > sizes[i].max)
            return ad_fail(err, AD_EFORMAT, "%s: %s %d is not in 1..%d", m->path, sizes[i].name, sizes[i].value, sizes[i].max);
    if (c->heads % c->kv_heads)
        return ad_fail(err, AD_EFORMAT, "%s: %d heads are not a multiple of %d key-value heads", m->path, c->heads, c->kv_heads);
    if (c->head_dim % 2) return ad_fail(err, AD_EFORMAT, "%s: head dimension %d is odd", m->path, c->head_dim);
    if (!isfinite(c->norm_eps) || c->norm_eps < 0 || c->norm_eps > 1)
        return ad_fail(err, AD_EFORMAT, "%s: norm epsilon %g is not in 0..1", m->path, (double)c->norm_eps);
    return AD_OK;
}

/* ---- GGUF ---- */

static ad_status gguf_int(ad_model *m, const char *key, int def, int *out, ad_err *err)
{
    const ad_gguf *g = ad_source_gguf(m->src);
    char full[96];
    snprintf(full, sizeof full, "llama.%s", key);
    if (!ad_gguf_has(g, full) && def >= 0) {
        *out = def;
        return AD_OK;
    }
    int64_t v;
    if (!ad_gguf_int(g, full, &v)) return ad_fail(err, AD_EFORMAT, "%s: %s is missing or not an integer", m->path, full);
    if (v < 0 || v > INT_MAX) return ad_fail(err, AD_EFORMAT, "%s: %s = %lld is out of range", m->path, full, (long long)v);
    *out = (int)v;
    return AD_OK;
}

static ad_status configure_gguf(ad_model *m, ad_err *err)
{
    const ad_gguf *g = ad_source_gguf(m->src);
    ad_model_config *c = &m->config;
    int experts = 0, window = 0, value_dim = 0, vocab_rows = 0;
    double eps = 1e-5;
    const ad_tensor *embed = ad_gguf_tensor(g, "token_embd.weight");
    if (!embed || embed->n_dims != 2) return ad_fail(err, AD_EFORMAT, "%s: token_embd.weight is missing or not a matrix", m->path);
    vocab_rows = embed->dims[0] > MAX_VOCAB ? 0 : (int)embed->dims[0];
    ad_status st = gguf_int(m, "embedding_length", -1, &c->hidden, err);
    if (st == AD_OK) st = gguf_int(m, "block_count", -1, &c->layers, err);
    if (st == AD_OK) st = gguf_int(m, "feed_forward_length", -1, &c->intermediate, err);
    if (st == AD_OK) st = gguf_int(m, "attention.head_count", -1, &c->heads, err);
    if (st == AD_OK) st = gguf_int(m, "attention.head_count_kv", c->heads, &c->kv_heads, err);
    if (st == AD_OK) st = gguf_int(m, "attention.key_length", c->heads ? c->hidden / c->heads : 0, &c->head_dim, err);
    if (st == AD_OK) st = gguf_int(m, "attention.value_length", c->head_dim, &value_dim, err);
    if (st == AD_OK) st = gguf_int(m, "context_length", -1, &c->max_positions, err);
    if (st == AD_OK) st = gguf_int(m, "expert_count", 0, &experts, err);
    if (st == AD_OK) st = gguf_int(m, "attention.sliding_window", 0, &window, err);
    if (st != AD_OK) return st;
    if (experts) return ad_fail(err, AD_EUNSUPPORTED, "%s: a mixture of %d experts is not supported", m->path, experts);
    if (value_dim != c->head_dim) return ad_fail(err, AD_EUNSUPPORTED, "%s: value and key head dimensions differ (%d, %d)", m->path, value_dim, c->head_dim);
    if (ad_gguf_has(g, "llama.attention.layer_norm_rms_epsilon") && !ad_gguf_float(g, "llama.attention.layer_norm_rms_epsilon", &eps))
        return ad_fail(err, AD_EFORMAT, "%s: llama.attention.layer_norm_rms_epsilon must be a number", m->path);
    c->family = "llama";
    c->vocab = vocab_rows;
    c->norm_eps = (float)eps;
    c->tied_head = !ad_gguf_tensor(g, "output.weight");
    if (window > 0 && window < c->max_positions) c->max_positions = window; /* full attention is exact up to the window */
    st = check_config(m, err);
    return st == AD_OK ? ad_rope_from_gguf(&m->rope, g, "llama", c->head_dim, err) : st;
}

/* ---- config.json ---- */

/* def < 0: the key is required. null means absent. */
static ad_status hf_int(const ad_model *m, const char *key, int def, int *out, ad_err *err)
{
    const json_t *v = json_object_get(ad_source_config(m->src), key);
    if ((!v || json_is_null(v)) && def >= 0) {
        *out = def;
        return AD_OK;
    }
    if (!json_is_integer(v)) return ad_fail(err, AD_EFORMAT, "%s/config.json: %s is missing or not an integer", m->path, key);
    json_int_t i = json_integer_value(v);
    if (i < 0 || i > INT_MAX) return ad_fail(err, AD_EFORMAT, "%s/config.json: %s = %lld is out of range", m->path, key, (long long)i);
    *out = (int)i;
    return AD_OK;
}

static ad_status hf_bool(const ad_model *m, const char *key, bool *out, ad_err *err)
{
    const json_t *v = json_object_get(ad_source_config(m->src), key);
    *out = json_is_true(v);
    if (v && !json_is_null(v) && !json_is_boolean(v)) return ad_fail(err, AD_EFORMAT, "%s/config.json: %s must be true or false", m->path, key);
    return AD_OK;
}

static ad_status hf_refuse(const ad_model *m, ad_err *err)
{
    const json_t *c = ad_source_config(m->src), *v = json_object_get(c, "architectures");
    const char *arch = json_string_value(json_array_get(v, 0));
    if (arch && !strstr(arch, "ForCausalLM"))
        return ad_fail(err, AD_EUNSUPPORTED, "%s/config.json: architecture %.60s does not generate text (LlamaForCausalLM does)", m->path, arch);
    v = json_object_get(c, "quantization_config");
    if (v && !json_is_null(v)) return ad_fail(err, AD_EUNSUPPORTED, "%s/config.json: quantization_config is not supported; use the plain weights or a GGUF file", m->path);
    v = json_object_get(c, "hidden_act");
    const char *act = json_string_value(v);
    if (v && !json_is_null(v) && (!act || (strcmp(act, "silu") && strcmp(act, "swish"))))
        return ad_fail(err, AD_EUNSUPPORTED, "%s/config.json: hidden_act must be silu", m->path);
    return AD_OK;
}

static ad_status configure_hf(ad_model *m, ad_err *err)
{
    ad_model_config *c = &m->config;
    const json_t *config = ad_source_config(m->src), *v;
    bool mistral = !strcmp(json_string_value(json_object_get(config, "model_type")), "mistral");
    int window = 0;
    c->family = mistral ? "mistral" : "llama";
    ad_status st = hf_refuse(m, err);
    if (st == AD_OK) st = hf_int(m, "vocab_size", -1, &c->vocab, err);
    if (st == AD_OK) st = hf_int(m, "hidden_size", -1, &c->hidden, err);
    if (st == AD_OK) st = hf_int(m, "num_hidden_layers", -1, &c->layers, err);
    if (st == AD_OK) st = hf_int(m, "num_attention_heads", -1, &c->heads, err);
    if (st == AD_OK) st = hf_int(m, "num_key_value_heads", mistral ? 8 : c->heads, &c->kv_heads, err);
    if (st == AD_OK) st = hf_int(m, "head_dim", c->heads ? c->hidden / c->heads : 0, &c->head_dim, err);
    if (st == AD_OK) st = hf_int(m, "intermediate_size", mistral ? 14336 : 11008, &c->intermediate, err);
    if (st == AD_OK) st = hf_int(m, "max_position_embeddings", mistral ? 131072 : 2048, &c->max_positions, err);
    if (st == AD_OK) st = hf_bool(m, "tie_word_embeddings", &c->tied_head, err);
    if (st == AD_OK && !mistral) st = hf_bool(m, "attention_bias", &m->attention_bias, err);
    if (st == AD_OK && !mistral) st = hf_bool(m, "mlp_bias", &m->mlp_bias, err);
    if (st == AD_OK && mistral) st = hf_int(m, "sliding_window", json_object_get(config, "sliding_window") ? 0 : 4096, &window, err);
    if (st != AD_OK) return st;
    v = json_object_get(config, "rms_norm_eps");
    if (v && !json_is_null(v) && !json_is_number(v)) return ad_fail(err, AD_EFORMAT, "%s/config.json: rms_norm_eps must be a number", m->path);
    c->norm_eps = json_is_number(v) ? (float)json_number_value(v) : 1e-6f;
    st = check_config(m, err);
    if (st == AD_OK) st = ad_rope_from_config(&m->rope, config, m->path, c->max_positions, err);
    if (window > 0 && window < c->max_positions) c->max_positions = window; /* full attention is exact up to the window */
    return st;
}

static ad_status configure(ad_model *m, ad_err *err)
{
    return ad_source_gguf(m->src) ? configure_gguf(m, err) : configure_hf(m, err);
}

/* ---- tensors ---- */

static const char *const gguf_names[AD_MOD_KINDS] = {"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down", "token_embd", "output"};

static ad_status bind_module(ad_model *m, int layer, int kind, ad_err *err)
{
    const ad_model_config *c = &m->config;
    bool gguf = ad_source_gguf(m->src) != NULL;
    int index = layer * AD_MOD_PER_LAYER + kind;
    const ad_module *mod = ad_model_module(m, index);
    ad_linear *lin = &m->layers[layer].mod[kind];
    int heads = !gguf ? 0 : kind == AD_MOD_Q ? c->heads : kind == AD_MOD_K ? c->kv_heads : 0;
    char base[80], name[96];
    if (gguf) snprintf(base, sizeof base, "blk.%d.%s", layer, gguf_names[kind]);
    else snprintf(base, sizeof base, "%s", mod->name);
    snprintf(name, sizeof name, "%s.weight", base);
    ad_status st = ad_model_want_matrix(m, name, &lin->w, mod->out, mod->in, heads, index, err);
    if (st != AD_OK || (!gguf && !(kind <= AD_MOD_O ? m->attention_bias : m->mlp_bias))) return st;
    snprintf(name, sizeof name, "%s.bias", base);
    return ad_model_want_vector(m, name, &lin->bias, mod->out, heads, gguf, err);
}

static ad_status bind_norms(ad_model *m, int layer, ad_err *err)
{
    bool gguf = ad_source_gguf(m->src) != NULL;
    char name[96];
    snprintf(name, sizeof name, gguf ? "blk.%d.attn_norm.weight" : "model.layers.%d.input_layernorm.weight", layer);
    ad_status st = ad_model_want_vector(m, name, &m->layers[layer].attn_norm, m->config.hidden, 0, false, err);
    if (st != AD_OK) return st;
    snprintf(name, sizeof name, gguf ? "blk.%d.ffn_norm.weight" : "model.layers.%d.post_attention_layernorm.weight", layer);
    return ad_model_want_vector(m, name, &m->layers[layer].mlp_norm, m->config.hidden, 0, false, err);
}

static ad_status bind(ad_model *m, ad_err *err)
{
    const ad_model_config *c = &m->config;
    bool gguf = ad_source_gguf(m->src) != NULL;
    int embed = m->n_modules - 2, head = m->n_modules - 1;
    ad_status st = ad_model_want_matrix(m, gguf ? "token_embd.weight" : "model.embed_tokens.weight", &m->embed, c->vocab, c->hidden, 0, embed, err);
    if (st == AD_OK) st = ad_model_want_vector(m, gguf ? "output_norm.weight" : "model.norm.weight", &m->final_norm, c->hidden, 0, false, err);
    if (st == AD_OK && !c->tied_head)
        st = ad_model_want_matrix(m, gguf ? "output.weight" : "lm_head.weight", &m->head.w, c->vocab, c->hidden, 0, head, err);
    for (int l = 0; st == AD_OK && l < c->layers; l++) {
        st = bind_norms(m, l, err);
        for (int k = 0; st == AD_OK && k < AD_MOD_PER_LAYER; k++) st = bind_module(m, l, k, err);
    }
    return st;
}

static const char *const archs[] = {"llama", NULL};
static const char *const types[] = {"llama", "mistral", NULL};
const ad_family ad_family_llama = {"llama", archs, types, gguf_names, configure, bind, ad_decoder_step};
