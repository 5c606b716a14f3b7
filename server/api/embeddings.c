/* SPDX-License-Identifier: MIT */
/* POST /v1/embeddings as OpenAI has it, and llama-server's /embedding: texts become vectors in the batch that others generate in. */
#include <math.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "server/api/generation.h"
#include "server/api/llama_server.h"

enum { LLAMA_RAW = -1, LLAMA_EUCLIDEAN = 2 }; /* embd_normalize */

typedef struct {
    int dimensions;       /* first numbers of the vector that are kept; 0: all */
    bool base64, normalize;
} options;

/* ---- the body ---- */

static bool read_pooling(const ad_reader *rd)
{
    static const struct { const char *name; ad_pooling pooling; } kinds[] = {{"mean", AD_POOL_MEAN}, {"last", AD_POOL_LAST}, {"cls", AD_POOL_CLS}};
    const json_t *v = ad_read_field(rd, "pooling");
    rd->r->pooling = AD_POOL_MEAN;
    if (!v) return true;
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds && json_is_string(v); i++)
        if (!strcmp(json_string_value(v), kinds[i].name)) {
            rd->r->pooling = kinds[i].pooling;
            return true;
        }
    return ad_read_wrong(rd, "pooling", "must be \"mean\", \"last\" or \"cls\"");
}

static bool read_format(const ad_reader *rd, bool *base64)
{
    const json_t *v = ad_read_field(rd, "encoding_format");
    const char *name = json_string_value(v);
    *base64 = name && !strcmp(name, "base64");
    return !v || *base64 || (name && !strcmp(name, "float")) || ad_read_wrong(rd, "encoding_format", "must be \"float\" or \"base64\"");
}

static options *new_options(const ad_reader *rd)
{
    options *o = ad_calloc(1, sizeof *o);
    if (!o) ad_fault_no_memory(rd->f);
    else o->normalize = true;
    rd->r->extra = o;
    rd->r->free_extra = free;
    rd->r->sampling.max_tokens = 0;
    return o;
}

static bool read_body(const ad_reader *rd)
{
    options *o = new_options(rd);
    bool special = true;
    return o && read_pooling(rd) && read_format(rd, &o->base64) && ad_read_integer(rd, "dimensions", 1, rd->cx->hidden, &o->dimensions) &&
           ad_read_flag(rd, "normalize", &o->normalize) && ad_read_flag(rd, "add_special_tokens", &special) && ad_read_prompts(rd, "input", special);
}

static bool read_llama_body(const ad_reader *rd)
{
    options *o = new_options(rd);
    int normalize = LLAMA_EUCLIDEAN;
    if (!o || !read_pooling(rd) || !ad_read_integer(rd, "embd_normalize", LLAMA_RAW, LLAMA_EUCLIDEAN, &normalize)) return false;
    if (normalize != LLAMA_RAW && normalize != LLAMA_EUCLIDEAN) return ad_read_wrong(rd, "embd_normalize", "must be 2 (Euclidean) or -1 (none); other norms are not served");
    o->normalize = normalize == LLAMA_EUCLIDEAN;
    return ad_read_prompts(rd, ad_read_field(rd, "content") ? "content" : "input", true);
}

/* ---- vectors to text ---- */

/* What v[n] is multiplied with to have length 1. */
static double length_factor(const float *v, int n)
{
    double sum = 0;
    for (int i = 0; i < n; i++) sum += (double)v[i] * (double)v[i];
    return sum > 0 ? 1 / sqrt(sum) : 1;
}

/* 9 digits give a float back exactly. */
static void put_floats(ad_buf *out, const float *v, int n)
{
    for (int i = 0; i < n; i++) ad_buf_printf(out, "%c%.9g", i ? ',' : '[', (double)v[i]);
    ad_buf_puts(out, "]");
}

/* Little-endian, as the machines that this runs on have it. */
static void put_base64(ad_buf *out, const float *v, int n)
{
    size_t bytes = (size_t)n * sizeof *v;
    unsigned char *text = malloc((bytes + 2) / 3 * 4 + 1);
    if (text) {
        int len = EVP_EncodeBlock(text, (const unsigned char *)v, (int)bytes);
        ad_buf_puts(out, "\"");
        ad_buf_append(out, text, (size_t)len);
        ad_buf_puts(out, "\"");
    }
    out->failed |= !text;
    free(text);
}

/* As soon as a vector comes it becomes text: thousands at once would hold up the loop. */
static void take_vector(ad_choice *ch, const float *raw, int n)
{
    const options *o = ch->owner->rq.extra;
    int kept = o->dimensions ? o->dimensions : n;
    double by = o->normalize ? length_factor(raw, kept) : 1;
    float *v = ad_calloc((size_t)kept, sizeof *v);
    for (int i = 0; v && i < kept; i++) v[i] = (float)((double)raw[i] * by);
    if (!v) ch->text.failed = true;
    else if (o->base64) put_base64(&ch->text, v, kept);
    else put_floats(&ch->text, v, kept);
    free(v);
}

/* ---- the reply ---- */

static void write_reply(ad_generation *g, ad_buf *out)
{
    ad_usage u = ad_generation_usage(g);
    json_t *rest = json_pack("{s:s, s:{s:I, s:I, s:{s:I}}}", "model", ad_generation_model(g), "usage", "prompt_tokens", u.prompt, "total_tokens", u.prompt,
                             "prompt_tokens_details", "cached_tokens", u.cached);
    ad_buf tail = {0};
    if (rest) ad_lease_write_receipt(&g->lease, rest);
    ad_put_json(&tail, rest);
    ad_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (int i = 0; i < g->n_choices; i++) {
        const ad_buf *vector = &ad_generation_choice(g, i)->text;
        ad_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%d,\"embedding\":", i ? "," : "", i);
        ad_buf_append(out, vector->data, vector->len);
        ad_buf_puts(out, "}");
    }
    ad_buf_puts(out, "],");
    if (!tail.failed) ad_buf_append(out, tail.data + 1, tail.len - 1);
    out->failed |= tail.failed;
    ad_buf_deinit(&tail);
}

static void write_llama_reply(ad_generation *g, ad_buf *out)
{
    ad_buf_puts(out, "[");
    for (int i = 0; i < g->n_choices; i++) {
        const ad_buf *vector = &ad_generation_choice(g, i)->text;
        ad_buf_printf(out, "%s{\"index\":%d,\"embedding\":[", i ? "," : "", i);
        ad_buf_append(out, vector->data, vector->len);
        ad_buf_puts(out, "]}");
        ad_lease_put_receipt(&g->lease, out);
    }
    ad_buf_puts(out, "]");
}

const ad_dialect ad_embeddings = {.id_prefix = "embd-", .read_target = ad_read_target, .read = read_body, .vector = take_vector, .write = write_reply};
const ad_dialect ad_llama_embedding = {.id_prefix = "embd-", .read_target = ad_llama_read_target, .read = read_llama_body, .vector = take_vector, .write = write_llama_reply};

void ad_handle_embeddings(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_embeddings); }
void ad_handle_llama_embedding(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_llama_embedding); }
