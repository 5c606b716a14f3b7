/* SPDX-License-Identifier: MIT */
/* POST /completion, as llama-server has it: its fields, its defaults, its words for why a text ended. The order of samplers is ours (sampler.h), and what is
 * not served is refused where it would change the answer. Without `lora`, what POST /lora-adapters set answers; `lora`: [] is the base. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/api/constraint.h"
#include "server/api/generation.h"
#include "server/api/llama_server.h"

enum { DRAWN = -1 };
static const double never = -1e6; /* as a bias: no other token is that unlikely */

/* What only this dialect knows of a request. */
typedef struct {
    bool timings_per_token, return_tokens;
    const json_t *fields;  /* response_fields: paths into the last object; or NULL */
} options;

/* ---- who answers ---- */

bool ad_llama_read_target(const ad_reader *rd)
{
    ad_request *r = rd->r;
    if (!ad_read_model(rd, false) || !ad_read_adapters(rd) || !ad_read_turn(rd)) return false;
    r->use_defaults = !r->lora && !r->n_adapters;
    return true;
}

/* ---- prompts ---- */

static bool encode(const ad_reader *rd, const char *name, const json_t *text, bool first, ad_ids *ids)
{
    ad_err err;
    unsigned flags = AD_ENCODE_PARSE_SPECIAL | (first ? AD_ENCODE_ADD_SPECIAL : 0);
    return ad_tokenizer_encode(rd->cx->tokenizer, json_string_value(text), json_string_length(text), flags, ids, &err) == AD_OK || ad_fault_from(rd->f, &err, name);
}

/* Strings and ids in turn. */
static bool read_parts(const ad_reader *rd, const json_t *list, ad_ids *ids)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!(json_is_string(v) ? encode(rd, "prompt", v, i == 0, ids) : ad_read_id(rd, "prompt", v, i, ids))) return false;
    }
    return true;
}

static bool read_prompt(const ad_reader *rd, const json_t *v)
{
    const json_t *media = json_object_get(v, "multimodal_data");
    ad_ids ids = {0};
    if (json_is_object(v)) v = json_object_get(v, "prompt_string");
    if (json_array_size(media)) return ad_read_wrong(rd, "prompt", "holds multimodal_data: this model reads text only");
    if (!json_is_string(v) && !json_is_array(v)) return ad_read_wrong(rd, "prompt", "must be a string, an array of token ids and strings, or an array of these");
    if (json_is_string(v) ? encode(rd, "prompt", v, true, &ids) : read_parts(rd, v, &ids)) return ad_request_add_prompt(rd, "prompt", ids);
    free(ids.ids);
    return false;
}

/* An array without an id of its own holds prompts. */
static bool is_list(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        if (json_is_integer(json_array_get(v, i))) return false;
    return json_is_array(v);
}

static bool read_prompts(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "prompt");
    bool many = is_list(v);
    size_t n = many ? json_array_size(v) : 1;
    if (!v) return ad_read_wrong(rd, "prompt", "is missing");
    if (!n) return ad_read_wrong(rd, "prompt", "is an empty array");
    if (n > AD_MAX_PROMPTS) return ad_fault_set(rd->f, 400, "invalid_value", "prompt", "`prompt` has %zu entries; at most %d are allowed", n, AD_MAX_PROMPTS);
    if (!ad_request_reserve(rd, n)) return false;
    for (size_t i = 0; i < n; i++)
        if (!read_prompt(rd, many ? json_array_get(v, i) : v)) return false;
    return true;
}

/* ---- sampling ---- */

const ad_sampling ad_llama_defaults = {
    .temperature = 0.8f, .top_k = 40, .top_p = 0.95f, .min_p = 0.05f, .repetition_penalty = 1, .seed = UINT32_MAX, .max_tokens = INT32_MAX, .logprobs = -1, .prompt_logprobs = -1,
};

/* A number that must have the value which switches it off, or be absent. */
static bool read_off(const ad_reader *rd, const char *name, double low, double high)
{
    const json_t *v = ad_read_field(rd, name);
    double d = json_number_value(v);
    return !v || (json_is_number(v) && d >= low && d <= high) || ad_fault_set(rd->f, 400, "unsupported_parameter", name, "`%s` is not supported", name);
}

static bool read_unserved(const ad_reader *rd)
{
    static const char *const names[] = {"mirostat", "dry_multiplier", "xtc_probability", "dynatemp_range", "samplers", "post_sampling_probs", "n_indent",
                                        "grammar_lazy", "control_vectors"};
    return ad_read_unserved(rd, names, sizeof names / sizeof *names) && read_off(rd, "typical_p", 1, INFINITY) && read_off(rd, "top_n_sigma", -INFINITY, 0) &&
           read_off(rd, "adaptive_target", -INFINITY, -1e-9) &&
           read_off(rd, "t_max_predict_ms", -INFINITY, 0) && read_off(rd, "min_keep", 0, 1) && read_off(rd, "n", 1, 1) && read_off(rd, "n_cmpl", 1, 1);
}

static bool add_bias(const ad_reader *rd, int32_t id, double bias)
{
    ad_request *r = rd->r;
    if (r->sampling.n_logit_bias == AD_MAX_BIASES) return ad_fault_set(rd->f, 400, "invalid_value", "logit_bias", "`logit_bias` has more than %d tokens", AD_MAX_BIASES);
    r->logit_bias[r->sampling.n_logit_bias++] = (ad_logit_bias){id, (float)bias};
    return true;
}

/* A token's id, or a text whose tokens all get the bias. */
static bool add_biases(const ad_reader *rd, const json_t *token, const json_t *bias)
{
    ad_ids ids = {0};
    double value = json_is_false(bias) ? never : json_number_value(bias);
    bool good = json_is_false(bias) || json_is_number(bias);
    if (!good || !(fabs(value) <= -never)) return ad_read_wrong(rd, "logit_bias", "must have numbers, or false, as biases");
    good = json_is_string(token) ? encode(rd, "logit_bias", token, false, &ids) : ad_read_id(rd, "logit_bias", token, 0, &ids);
    for (size_t i = 0; good && i < ids.count; i++) good = add_bias(rd, ids.ids[i], value);
    free(ids.ids);
    return good;
}

/* [[TOKEN, BIAS], ...] or {"TEXT": BIAS, ...}; false for a bias: never. */
static bool read_logit_bias(const ad_reader *rd)
{
    json_t *v = (json_t *)ad_read_field(rd, "logit_bias"), *bias;
    ad_request *r = rd->r;
    const char *key;
    if (!v) return true;
    if (!json_is_array(v) && !json_is_object(v)) return ad_read_wrong(rd, "logit_bias", "must be an array of [token, bias], or an object of texts and biases");
    r->logit_bias = ad_calloc(AD_MAX_BIASES, sizeof *r->logit_bias);
    if (!r->logit_bias) return ad_fault_no_memory(rd->f);
    r->sampling.logit_bias = r->logit_bias;
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *pair = json_array_get(v, i);
        if (json_array_size(pair) != 2) return ad_read_wrong(rd, "logit_bias", "must be an array of [token, bias]");
        if (!add_biases(rd, json_array_get(pair, 0), json_array_get(pair, 1))) return false;
    }
    json_object_foreach(v, key, bias) {
        char *end;
        long id = strtol(key, &end, 10);
        json_t *token = *key && !*end ? json_integer(id) : json_string(key); /* a number is an id */
        bool good = token ? add_biases(rd, token, bias) : ad_fault_no_memory(rd->f);
        json_decref(token);
        if (!good) return false;
    }
    return true;
}

/* An empty grammar is none, as llama-server has it. */
static bool read_grammar(const ad_reader *rd)
{
    const json_t *grammar = ad_read_field(rd, "grammar"), *schema = ad_read_field(rd, "json_schema");
    if (grammar && (!json_is_string(grammar) || json_string_length(grammar)) && !ad_request_constrain(rd, "grammar", AD_GRAMMAR_GBNF, grammar)) return false;
    if (schema && !ad_request_constrain(rd, "json_schema", AD_GRAMMAR_JSON_SCHEMA, schema)) return false;
    return ad_read_response_format(rd, "response_format", ad_read_field(rd, "response_format"));
}

/* -1, or none: drawn, within 32 bits as llama-server tells it. */
static bool read_seed(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "seed");
    uint32_t drawn;
    json_int_t seed = v ? json_integer_value(v) : DRAWN;
    if (v && !json_is_integer(v)) return ad_read_wrong(rd, "seed", "must be a whole number");
    if (seed < 0 || seed == UINT32_MAX) {
        if (getrandom(&drawn, sizeof drawn, 0) != sizeof drawn) return ad_read_wrong(rd, "seed", "cannot be drawn");
        seed = drawn;
    }
    rd->r->sampling.seed = (uint64_t)seed;
    return true;
}

/* Repetition counts over the whole text; a window is another answer. */
static bool read_window(const ad_reader *rd)
{
    ad_sampling *s = &rd->r->sampling;
    int window = -1;
    if (!ad_read_integer(rd, "repeat_last_n", -1, INT32_MAX, &window)) return false;
    if (window == 0) s->repetition_penalty = 1, s->presence_penalty = s->frequency_penalty = 0;
    bool counts = s->repetition_penalty != 1 || s->presence_penalty != 0 || s->frequency_penalty != 0;
    return !counts || window < 0 || window >= rd->cx->context ||
           ad_fault_set(rd->f, 400, "unsupported_parameter", "repeat_last_n", "`repeat_last_n` is not supported but for 0 and -1: penalties look at the whole text");
}

static bool read_sampling(const ad_reader *rd)
{
    ad_sampling *s = &rd->r->sampling;
    int n_predict = -1;
    *s = ad_llama_defaults;
    bool good = ad_read_integer(rd, "max_tokens", -1, INT32_MAX, &n_predict) && ad_read_integer(rd, "n_predict", -1, INT32_MAX, &n_predict) &&
                ad_read_number(rd, "temperature", -1e6, 1e6, false, &s->temperature) && ad_read_integer(rd, "top_k", INT32_MIN, INT32_MAX, &s->top_k) &&
                ad_read_number(rd, "top_p", 0, 1e6, false, &s->top_p) && ad_read_number(rd, "min_p", 0, 1, false, &s->min_p) &&
                ad_read_number(rd, "repeat_penalty", AD_MIN_REPETITION_PENALTY, 10, false, &s->repetition_penalty) && ad_read_number(rd, "presence_penalty", -100, 100, false, &s->presence_penalty) &&
                ad_read_number(rd, "frequency_penalty", -100, 100, false, &s->frequency_penalty) && ad_read_flag(rd, "ignore_eos", &s->ignore_eos) && read_window(rd) && read_seed(rd);
    s->max_tokens = n_predict < 0 ? INT32_MAX : n_predict; /* as far as the context goes, also when more is asked for */
    s->temperature = fmaxf(s->temperature, 0);
    s->top_k = s->top_k > 0 ? s->top_k : 0;
    s->top_p = fminf(fmaxf(s->top_p, 1e-9f), 1); /* 0 leaves one token */
    return good;
}

/* ---- the body ---- */

static bool read_options(const ad_reader *rd)
{
    ad_request *r = rd->r;
    options *o = ad_calloc(1, sizeof *o);
    int n_probs = 0;
    if (!o) return ad_fault_no_memory(rd->f);
    r->extra = o;
    r->free_extra = free;
    o->fields = ad_read_field(rd, "response_fields");
    if (o->fields && !json_is_array(o->fields)) return ad_read_wrong(rd, "response_fields", "must be an array of strings");
    if (!ad_read_flag(rd, "stream", &r->stream) || !ad_read_flag(rd, "return_tokens", &o->return_tokens) || !ad_read_flag(rd, "timings_per_token", &o->timings_per_token)) return false;
    if (!ad_read_integer(rd, "n_probs", 0, AD_MAX_LOGPROBS, &n_probs)) return false;
    if (n_probs) r->sampling.logprobs = n_probs;
    r->keep_tokens = r->stream || o->return_tokens || n_probs;
    return true;
}

static bool read_body(const ad_reader *rd)
{
    return read_unserved(rd) && read_sampling(rd) && read_logit_bias(rd) && read_grammar(rd) && read_options(rd) && ad_read_stops(rd, "stop", AD_MAX_STOPS) && read_prompts(rd);
}

/* ---- pieces of replies ---- */

static json_t *probability_json(const ad_generation *g, int32_t id, float logprob)
{
    const ad_tokenizer *tk = g->cx.tokenizer;
    return json_pack("{s:i, s:o, s:o, s:f}", "id", (int)id, "token", ad_piece_json(tk, id), "bytes", ad_piece_bytes_json(tk, id), "logprob", (double)logprob);
}

static json_t *probabilities_json(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    json_t *list = json_array();
    for (size_t i = 0; i < ch->n_tokens; i++) {
        const ad_token_info *t = &ch->tokens[i];
        json_t *v = probability_json(g, t->id, t->logprob), *top = json_array();
        for (int k = 0; k < t->n_top; k++) json_array_append_new(top, probability_json(g, t->top_id[k], t->top_logprob[k]));
        json_object_set_new(v, "top_logprobs", top);
        json_array_append_new(list, v);
    }
    return list;
}

static double per(double a, double b)
{
    return b > 0 ? ad_rounded(a / b, 1000) : 0;
}

/* The prompt's time is that to the first token, waiting included. */
static json_t *timings_json(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    int n_prompt = (int)g->rq.prompts[ch->prompt].ids.count - ch->n_cached, n = ch->n_generated;
    double prompt_ms = ad_rounded(ch->first_token_ns ? (double)(ch->first_token_ns - ad_http_start_ns(g->x)) / 1e6 : 0, 1000), ms = ad_rounded((double)(ch->last_token_ns - ch->first_token_ns) / 1e6, 1000);
    return json_pack("{s:i, s:i, s:f, s:f, s:f, s:i, s:f, s:f, s:f}", "cache_n", ch->n_cached, "prompt_n", n_prompt, "prompt_ms", prompt_ms, "prompt_per_token_ms", per(prompt_ms, n_prompt),
                     "prompt_per_second", per(1000.0 * n_prompt, prompt_ms), "predicted_n", n, "predicted_ms", ms, "predicted_per_token_ms", per(ms, n), "predicted_per_second", per(1000.0 * n, ms));
}

json_t *ad_llama_settings(const ad_sampling *s)
{
    int n_predict = s->max_tokens == INT32_MAX ? -1 : s->max_tokens;
    return json_pack("{s:I, s:f, s:f, s:i, s:f, s:f, s:i, s:f, s:f, s:i, s:f, s:f, s:f, s:f, s:i, s:i, s:i, s:b, s:i, s:i, s:b, s:[sssss]}", "seed", (json_int_t)s->seed, "temperature",
                     ad_plain_float(s->temperature), "dynatemp_range", 0.0, "top_k", s->top_k, "top_p", ad_plain_float(s->top_p), "min_p", ad_plain_float(s->min_p), "top_n_sigma", -1, "xtc_probability", 0.0,
                     "typical_p", 1.0, "repeat_last_n", -1, "repeat_penalty", ad_plain_float(s->repetition_penalty), "presence_penalty", ad_plain_float(s->presence_penalty), "frequency_penalty",
                     ad_plain_float(s->frequency_penalty), "dry_multiplier", 0.0, "mirostat", 0, "max_tokens", n_predict, "n_predict", n_predict, "ignore_eos", s->ignore_eos, "n_probs",
                     s->logprobs > 0 ? s->logprobs : 0, "min_keep", 0, "post_sampling_probs", 0, "samplers", "penalties", "temperature", "min_p", "top_k", "top_p");
}

static json_t *settings_json(const ad_generation *g)
{
    const options *o = g->rq.extra;
    json_t *v = ad_llama_settings(&g->rq.sampling), *stops = json_array(), *lora = json_array();
    for (int i = 0; i < g->rq.n_stops; i++) json_array_append_new(stops, json_stringn(g->rq.stops[i].ptr, g->rq.stops[i].len));
    for (int i = 0; i < g->lease.n; i++) {
        const ad_entry *e = g->lease.versions[i]->entry; /* NULL: removed meanwhile */
        json_array_append_new(lora, json_pack("{s:i, s:f}", "id", e ? e->id : -1, "scale", ad_plain_float(g->lease.mix.weights[i])));
    }
    json_object_set_new(v, "stop", stops);
    json_object_set_new(v, "stream", json_boolean(g->rq.stream));
    json_object_set_new(v, "timings_per_token", json_boolean(o->timings_per_token));
    json_object_set_new(v, "lora", lora);
    return v;
}

static json_t *prompt_json(const ad_choice *ch)
{
    const ad_ids *ids = &ch->owner->rq.prompts[ch->prompt].ids;
    ad_buf b = {0};
    ad_tokenizer_decode(ch->owner->cx.tokenizer, ids->ids, ids->count, false, &b);
    json_t *v = ad_buf_json(&b);
    ad_buf_deinit(&b);
    return v;
}

static const char *stop_type(ad_end end)
{
    switch (end) {
    case AD_END_EOS: return "eos";
    case AD_END_STOP_STRING: return "word";
    case AD_END_LENGTH: return "limit";
    default: return "none";
    }
}

/* The context was full before what was asked for was there. */
static bool is_truncated(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    return ch->end == AD_END_LENGTH && ch->n_generated < g->rq.sampling.max_tokens;
}

/* The parts that `response_fields` names, each under its path. */
static json_t *select_fields(json_t *v, const json_t *fields)
{
    json_t *out = json_object();
    for (size_t i = 0; i < json_array_size(fields); i++) {
        const char *path = json_string_value(json_array_get(fields, i));
        json_t *part = path ? v : NULL;
        for (size_t n, at = 0; part; at += n + 1) {
            n = strcspn(path + at, "/");
            part = json_object_getn(part, path + at, n);
            if (!path[at + n]) break;
        }
        if (part) json_object_set(out, path, part);
    }
    json_decref(v);
    return out;
}

/* ---- the reply ---- */

static bool has_new_line(ad_choice *ch)
{
    bool *seen = ch->state; /* of a stream's events so far; NULL: there were none */
    return (seen && *seen) || (ch->text.data && memchr(ch->text.data, '\n', ch->text.len));
}

/* The whole of it; a stream has had text and tokens before. */
static json_t *last_json(ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    const options *o = g->rq.extra;
    bool stopped = ch->end == AD_END_STOP_STRING;
    ad_str word = stopped ? g->rq.stops[ch->stop] : (ad_str){"", 0};
    json_t *v = json_pack("{s:i, s:o, s:o, s:i, s:b, s:s, s:i, s:i, s:o, s:o, s:b, s:b, s:s, s:s%, s:i, s:o}", "index", ch->index, "content", ad_buf_json(&ch->text),
                          "tokens", o->return_tokens && !g->rq.stream ? ad_choice_ids_json(ch) : json_array(), "id_slot", -1, "stop", 1, "model", ad_generation_model(g), "tokens_predicted",
                          ch->n_generated, "tokens_evaluated", (int)g->rq.prompts[ch->prompt].ids.count, "generation_settings", settings_json(g), "prompt", prompt_json(ch), "has_new_line",
                          has_new_line(ch), "truncated", is_truncated(ch), "stop_type", stop_type(ch->end), "stopping_word", word.ptr, word.len, "tokens_cached", ch->n_cached, "timings",
                          timings_json(ch));
    if (v && g->rq.sampling.logprobs >= 0 && !g->rq.stream) json_object_set_new(v, "completion_probabilities", probabilities_json(ch));
    if (v && o->fields) v = select_fields(v, o->fields);
    if (v) ad_lease_write_receipt(&g->lease, v); /* whatever was selected */
    return v;
}

static json_t *reply(ad_generation *g)
{
    if (g->rq.n_prompts == 1) return last_json(&g->choices[0]);
    json_t *list = json_array();
    for (int i = 0; i < g->rq.n_prompts; i++) json_array_append_new(list, last_json(&g->choices[i]));
    return list;
}

static void send_piece(ad_choice *ch)
{
    ad_generation *g = ch->owner;
    const options *o = g->rq.extra;
    json_t *v = json_pack("{s:i, s:o, s:o, s:b, s:i, s:i, s:i}", "index", ch->index, "content", ad_buf_json(&ch->text), "tokens", ad_choice_ids_json(ch), "stop", 0,
                          "id_slot", -1, "tokens_predicted", ch->n_generated, "tokens_evaluated", (int)g->rq.prompts[ch->prompt].ids.count);
    if (g->rq.sampling.logprobs >= 0) json_object_set_new(v, "completion_probabilities", probabilities_json(ch));
    if (o->timings_per_token) json_object_set_new(v, "timings", timings_json(ch));
    ad_lease_write_receipt(&g->lease, v);
    bool new_line = has_new_line(ch), *seen = ch->state ? ch->state : ad_calloc(1, sizeof *seen);
    ch->state = seen;
    if (seen) *seen = new_line;
    ad_choice_clear(ch);
    ad_generation_send(g, NULL, v);
}

static void send_choice(ad_choice *ch)
{
    if (ch->text.len || ch->n_tokens) send_piece(ch);
    if (ch->end) ad_generation_send(ch->owner, NULL, last_json(ch));
}

const ad_dialect ad_llama_completion = {
    .id_prefix = "cmpl-", .read_target = ad_llama_read_target, .read = read_body, .reply = reply, .event = send_choice, .free_choice = free,
};

void ad_handle_llama_completion(ad_http_exchange *x, void *app)
{
    ad_generation_start(x, app, &ad_llama_completion);
}
