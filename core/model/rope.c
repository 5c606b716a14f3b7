/* SPDX-License-Identifier: MIT */
/* RoPE parameters from both file kinds, and their inverse frequencies. */
#include "core/model/rope.h"

#include <math.h>
#include <string.h>

/* A positive finite number, or `def` when the key is absent or null. */
static ad_status number(const json_t *o, const char *key, double def, double *out, const char *label, ad_err *err)
{
    const json_t *v = json_object_get(o, key);
    *out = def;
    if (!v || json_is_null(v)) return AD_OK;
    double d = json_number_value(v);
    if (!json_is_number(v) || !isfinite(d) || d <= 0)
        return ad_fail(err, AD_EFORMAT, "%s: rope parameter %s must be a positive number", label, key);
    *out = d;
    return AD_OK;
}

static double yarn_gain(double factor, double m) { return factor <= 1 ? 1 : 0.1 * m * log(factor) + 1; }

static ad_status yarn_from_config(ad_rope *r, const json_t *o, const char *label, int max_positions, ad_err *err)
{
    double attention, mscale, mscale_all;
    ad_status st = number(o, "beta_fast", 32, &r->beta_fast, label, err);
    if (st == AD_OK) st = number(o, "beta_slow", 1, &r->beta_slow, label, err);
    if (st == AD_OK) st = number(o, "attention_factor", 0, &attention, label, err);
    if (st == AD_OK) st = number(o, "mscale", 0, &mscale, label, err);
    if (st == AD_OK) st = number(o, "mscale_all_dim", 0, &mscale_all, label, err);
    if (st != AD_OK) return st;
    const json_t *t = json_object_get(o, "truncate");
    r->truncate = !t || !json_is_false(t);
    if (r->factor == 0) r->factor = max_positions / r->original_positions;
    if (attention > 0) r->magnitude = attention;
    else if (mscale > 0 && mscale_all > 0) r->magnitude = yarn_gain(r->factor, mscale) / yarn_gain(r->factor, mscale_all);
    return AD_OK;
}

ad_status ad_rope_from_config(ad_rope *out, const json_t *config, const char *label, int max_positions, ad_err *err)
{
    ad_rope r = {.truncate = true};
    const json_t *p = json_object_get(config, "rope_parameters");
    const json_t *o = p && !json_is_null(p) ? p : json_object_get(config, "rope_scaling");
    if (o && !json_is_null(o) && !json_is_object(o))
        return ad_fail(err, AD_EFORMAT, "%s: rope_parameters / rope_scaling must be an object", label);
    ad_status st = number(config, "rope_theta", 10000, &r.theta, label, err);
    if (st == AD_OK) st = number(o, "rope_theta", r.theta, &r.theta, label, err);
    double partial;
    if (st == AD_OK) st = number(config, "partial_rotary_factor", 1, &partial, label, err);
    if (st == AD_OK) st = number(o, "partial_rotary_factor", partial, &partial, label, err);
    if (st != AD_OK) return st;
    if (partial != 1) return ad_fail(err, AD_EUNSUPPORTED, "%s: partial_rotary_factor %g is not supported", label, partial);

    const json_t *t = json_object_get(o, "rope_type");
    if (!t || json_is_null(t)) t = json_object_get(o, "type");
    const char *type = !t || json_is_null(t) ? "default" : json_string_value(t);
    if (!type) return ad_fail(err, AD_EFORMAT, "%s: rope_type must be a string", label);
    /* "dynamic" equals the default up to the trained context, and we never go beyond it. */
    if (!strcmp(type, "default") || !strcmp(type, "mrope") || !strcmp(type, "dynamic")) r.kind = AD_ROPE_PLAIN;
    else if (!strcmp(type, "linear")) r.kind = AD_ROPE_LINEAR;
    else if (!strcmp(type, "llama3")) r.kind = AD_ROPE_LLAMA3;
    else if (!strcmp(type, "yarn")) r.kind = AD_ROPE_YARN;
    else return ad_fail(err, AD_EUNSUPPORTED, "%s: rope_type \"%.40s\" is not supported (default, linear, llama3, yarn)", label, type);

    st = number(o, "factor", 0, &r.factor, label, err);
    if (st == AD_OK) st = number(config, "original_max_position_embeddings", max_positions, &r.original_positions, label, err);
    if (st == AD_OK) st = number(o, "original_max_position_embeddings", r.original_positions, &r.original_positions, label, err);
    if (st == AD_OK && r.kind != AD_ROPE_PLAIN && r.kind != AD_ROPE_YARN && r.factor == 0)
        st = ad_fail(err, AD_EFORMAT, "%s: rope_type \"%s\" needs a factor", label, type);
    if (st == AD_OK && r.kind == AD_ROPE_LLAMA3) {
        st = number(o, "low_freq_factor", 0, &r.low_freq, label, err);
        if (st == AD_OK) st = number(o, "high_freq_factor", 0, &r.high_freq, label, err);
        if (st == AD_OK && (r.low_freq == 0 || r.high_freq <= r.low_freq))
            st = ad_fail(err, AD_EFORMAT, "%s: llama3 rope needs low_freq_factor < high_freq_factor", label);
    }
    if (st == AD_OK && r.kind == AD_ROPE_YARN) st = yarn_from_config(&r, o, label, max_positions, err);
    if (st == AD_OK) *out = r;
    return st;
}

static ad_status gguf_number(const ad_gguf *g, const char *arch, const char *key, double def, double *out, ad_err *err)
{
    char full[128];
    snprintf(full, sizeof full, "%s.rope.%s", arch, key);
    *out = def;
    if (!ad_gguf_has(g, full)) return AD_OK;
    double d;
    if (!ad_gguf_float(g, full, &d) || !isfinite(d) || d < 0)
        return ad_fail(err, AD_EFORMAT, "%s: %s must be a number of at least 0", ad_gguf_label(g), full);
    if (d != 0) *out = d; /* 0 stands for "not set" */
    return AD_OK;
}

static ad_status gguf_divisors(ad_rope *r, const ad_gguf *g, int head_dim, ad_err *err)
{
    const ad_tensor *t = ad_gguf_tensor(g, "rope_freqs.weight");
    if (!t) return AD_OK;
    if (t->dtype != AD_F32 || t->n_dims != 1 || t->dims[0] != head_dim / 2 || (uintptr_t)t->data % sizeof(float))
        return ad_fail(err, AD_EFORMAT, "%s: rope_freqs.weight must be %d aligned F32 values", ad_gguf_label(g), head_dim / 2);
    r->divisors = t->data;
    for (int i = 0; i < head_dim / 2; i++)
        if (!isfinite(r->divisors[i]) || r->divisors[i] <= 0)
            return ad_fail(err, AD_EFORMAT, "%s: rope_freqs.weight[%d] is not positive", ad_gguf_label(g), i);
    return AD_OK;
}

ad_status ad_rope_from_gguf(ad_rope *out, const ad_gguf *g, const char *arch, int head_dim, ad_err *err)
{
    ad_rope r = {.truncate = true};
    double old_linear, ext, attn, yarn_attn, dims;
    ad_status st = gguf_number(g, arch, "freq_base", 10000, &r.theta, err);
    if (st == AD_OK) st = gguf_number(g, arch, "dimension_count", head_dim, &dims, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scale_linear", 0, &old_linear, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.factor", old_linear, &r.factor, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.original_context_length", 0, &r.original_positions, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.yarn_beta_fast", 32, &r.beta_fast, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.yarn_beta_slow", 1, &r.beta_slow, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.attn_factor", 1, &attn, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.yarn_attn_factor", attn, &yarn_attn, err);
    if (st == AD_OK) st = gguf_number(g, arch, "scaling.yarn_ext_factor", 1, &ext, err);
    if (st == AD_OK) st = gguf_divisors(&r, g, head_dim, err);
    if (st != AD_OK) return st;
    if (dims != head_dim)
        return ad_fail(err, AD_EUNSUPPORTED, "%s: rope.dimension_count %g differs from the head dimension %d", ad_gguf_label(g), dims, head_dim);

    char key[128];
    ad_str type = {"", 0};
    snprintf(key, sizeof key, "%s.rope.scaling.type", arch);
    if (ad_gguf_has(g, key) && !ad_gguf_str(g, key, &type))
        return ad_fail(err, AD_EFORMAT, "%s: %s must be a string", ad_gguf_label(g), key);
    if (ad_str_eq(type, "none") || r.factor == 0) r.kind = AD_ROPE_PLAIN;
    else if (ad_str_eq(type, "linear") || type.len == 0) r.kind = AD_ROPE_LINEAR;
    else if (ad_str_eq(type, "yarn")) r.kind = AD_ROPE_YARN;
    else return ad_fail(err, AD_EUNSUPPORTED, "%s: %s \"%.*s\" is not supported (none, linear, yarn)", ad_gguf_label(g), key, (int)(type.len > 40 ? 40 : type.len), type.ptr);
    if (r.kind == AD_ROPE_YARN) {
        if (ext != 1) return ad_fail(err, AD_EUNSUPPORTED, "%s: yarn_ext_factor %g is not supported", ad_gguf_label(g), ext);
        if (r.original_positions == 0)
            return ad_fail(err, AD_EFORMAT, "%s: yarn needs %s.rope.scaling.original_context_length", ad_gguf_label(g), arch);
        r.magnitude = yarn_attn * yarn_gain(r.factor, 1);
    }
    *out = r;
    return AD_OK;
}

static double llama3_scaled(const ad_rope *r, double inv)
{
    double wavelength = 2 * M_PI / inv;
    if (wavelength < r->original_positions / r->high_freq) return inv;
    if (wavelength > r->original_positions / r->low_freq) return inv / r->factor;
    double s = (r->original_positions / wavelength - r->low_freq) / (r->high_freq - r->low_freq);
    return (1 - s) * inv / r->factor + s * inv;
}

/* The pair index whose frequency turns `turns` times over the original context. */
static double yarn_dim(const ad_rope *r, int head_dim, double turns)
{
    return head_dim * log(r->original_positions / (2 * M_PI * turns)) / (2 * log(r->theta));
}

static void yarn_scale(const ad_rope *r, int head_dim, float *inv)
{
    double low = yarn_dim(r, head_dim, r->beta_fast), high = yarn_dim(r, head_dim, r->beta_slow);
    if (r->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, head_dim - 1);
    if (low == high) high += 0.001;
    for (int i = 0; i < head_dim / 2; i++) {
        double ramp = fmin(fmax((i - low) / (high - low), 0), 1);
        inv[i] = (float)(inv[i] / r->factor * ramp + inv[i] * (1 - ramp));
    }
}

void ad_rope_frequencies(const ad_rope *r, int head_dim, float *inv, float *magnitude)
{
    for (int i = 0; i < head_dim / 2; i++) {
        double f = pow(r->theta, -2.0 * i / head_dim);
        if (r->divisors) f /= r->divisors[i];
        if (r->kind == AD_ROPE_LINEAR) f /= r->factor;
        if (r->kind == AD_ROPE_LLAMA3) f = llama3_scaled(r, f);
        inv[i] = (float)f;
    }
    *magnitude = 1;
    if (r->kind != AD_ROPE_YARN) return;
    yarn_scale(r, head_dim, inv);
    *magnitude = (float)(r->magnitude > 0 ? r->magnitude : yarn_gain(r->factor, 1));
}
