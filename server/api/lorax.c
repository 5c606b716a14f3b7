/* SPDX-License-Identifier: MIT */
/* POST /generate, /generate_stream and / (which has `stream` in its body), as LoRAX and TGI have them. An adapter is named per request; it must be registered:
 * nothing is fetched because a request names it. merged_adapters add up exactly, each with its weight. Loop thread, but for what reads. */
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "server/api/chat_prompt.h"
#include "server/api/constraint.h"
#include "server/api/generation.h"

static const char base_id[] = "__base_model__"; /* how LoRAX calls the base beside "" */

/* What only this dialect knows of a request. */
typedef struct {
    bool full_text, details, sampled;
    int alternatives, top; /* per token: return_k_alternatives, top_n_tokens */
} options;

/* The reader of `parameters`, which may be absent; false: they are no object. */
static bool open_parameters(const ad_reader *rd, ad_reader *p)
{
    const json_t *v = ad_read_field(rd, "parameters");
    *p = *rd;
    p->object = v;
    return !v || json_is_object(v) || ad_read_wrong(rd, "parameters", "must be an object");
}

/* ---- who answers ---- */

static const char *plain_string(const json_t *v)
{
    const char *s = json_string_value(v);
    return s && strlen(s) == json_string_length(v) ? s : NULL;
}

static bool read_merged(const ad_reader *p, const json_t *v)
{
    const json_t *ids = json_object_get(v, "ids"), *weights = json_object_get(v, "weights"), *strategy = json_object_get(v, "merge_strategy");
    size_t n = json_array_size(ids);
    if (!json_is_object(v)) return ad_read_wrong(p, "merged_adapters", "must be an object");
    if (!n || n != json_array_size(weights)) return ad_read_wrong(p, "merged_adapters", "must have `ids` and as many `weights`");
    if (n > AD_MAX_MIX) return ad_fault_set(p->f, 400, "invalid_value", "merged_adapters", "`merged_adapters` has more than %d ids", AD_MAX_MIX);
    if (strategy && !json_is_null(strategy) && (!json_is_string(strategy) || strcmp(json_string_value(strategy), "linear")))
        return ad_fault_set(p->f, 400, "unsupported_parameter", "merged_adapters", "`merged_adapters`: only the merge_strategy \"linear\" is supported");
    for (size_t i = 0; i < n; i++) {
        const char *id = plain_string(json_array_get(ids, i));
        const json_t *w = json_array_get(weights, i);
        if (!id || !ad_is_weight(w)) return ad_read_wrong(p, "merged_adapters", "must have `ids` that are strings and `weights` that are numbers from -1000 to 1000");
        p->r->adapters[p->r->n_adapters++] = (ad_weighted_name){.name = id, .weight = (float)json_number_value(w)};
    }
    return true;
}

static bool read_target(const ad_reader *rd)
{
    ad_reader p;
    ad_str source = {0};
    if (!open_parameters(rd, &p)) return false;
    const json_t *id = ad_read_field(&p, "adapter_id"), *merged = ad_read_field(&p, "merged_adapters"), *where = ad_read_field(&p, "adapter_source");
    if (json_string_length(where) && !ad_read_string(&p, "adapter_source", 64, &source)) return false;
    if (where && (!json_is_string(where) || (source.len && strcmp(source.ptr, "local"))))
        return ad_fault_set(rd->f, 400, "unsupported_parameter", "adapter_source", "`adapter_source` must be \"local\": adapters are registered with POST /v1/adapters, requests fetch none");
    if (id && !plain_string(id)) return ad_read_wrong(rd, "adapter_id", "must be a string");
    if (json_string_length(id) && merged) return ad_read_wrong(rd, "merged_adapters", "does not go with `adapter_id`");
    if (json_string_length(id) && strcmp(json_string_value(id), base_id)) rd->r->model = json_string_value(id);
    return !merged || read_merged(&p, merged);
}

/* ---- everything else ---- */

/* Below 2^63, so that JSON can tell it. */
static bool read_seed(const ad_reader *p)
{
    const json_t *v = ad_read_field(p, "seed");
    uint64_t *seed = &p->r->sampling.seed;
    if (v && (!json_is_integer(v) || json_integer_value(v) < 0)) return ad_read_wrong(p, "seed", "must be a whole number from 0 on");
    if (v) *seed = (uint64_t)json_integer_value(v);
    else if (getrandom(seed, sizeof *seed, 0) != sizeof *seed) return ad_read_wrong(p, "seed", "cannot be drawn");
    *seed &= INT64_MAX;
    return true;
}

/* Without do_sample and whatever narrows the draw it is greedy. */
static bool read_sampling(const ad_reader *p, options *o)
{
    ad_sampling *s = &p->r->sampling;
    float typical = 1;
    bool sample = false, good = ad_read_number(p, "temperature", 0, 100, false, &s->temperature) && ad_read_integer(p, "top_k", 1, INT32_MAX, &s->top_k) &&
                                ad_read_number(p, "top_p", 0, 1, true, &s->top_p) && ad_read_number(p, "typical_p", 0, 1, true, &typical) &&
                                ad_read_number(p, "repetition_penalty", AD_MIN_REPETITION_PENALTY, 10, false, &s->repetition_penalty) && ad_read_number(p, "frequency_penalty", -2, 2, false, &s->frequency_penalty) &&
                                ad_read_number(p, "presence_penalty", -2, 2, false, &s->presence_penalty) && ad_read_flag(p, "do_sample", &sample) &&
                                ad_read_flag(p, "ignore_eos_token", &s->ignore_eos) && read_seed(p);
    if (!good) return false;
    if (typical < 1) return ad_fault_set(p->f, 400, "unsupported_parameter", "typical_p", "`typical_p` is not supported");
    o->sampled = s->temperature > 0 && (sample || s->temperature != 1 || s->top_k || s->top_p < 1);
    if (!o->sampled) s->temperature = 0;
    return true;
}

/* The likeliest of best_of is the reply; `details` have the others. */
static bool read_best_of(const ad_reader *p, const options *o)
{
    ad_request *r = p->r;
    if (!ad_read_integer(p, "best_of", 1, AD_MAX_CHOICES, &r->best_of)) return false;
    if (r->best_of > 1 && !o->sampled) return ad_read_wrong(p, "best_of", "above 1 needs sampling: set `do_sample`, `temperature`, `top_k` or `top_p`");
    return r->best_of == 1 || !r->stream || ad_read_wrong(p, "best_of", "!= 1 is not supported when streaming tokens");
}

static bool read_details(const ad_reader *p, options *o)
{
    ad_request *r = p->r;
    bool prefill = false;
    if (!ad_read_flag(p, "details", &o->details) || !ad_read_flag(p, "decoder_input_details", &prefill) || !ad_read_flag(p, "return_full_text", &o->full_text)) return false;
    if (!ad_read_integer(p, "return_k_alternatives", 1, AD_MAX_LOGPROBS, &o->alternatives) || !ad_read_integer(p, "top_n_tokens", 0, AD_MAX_LOGPROBS, &o->top)) return false;
    if (prefill && r->stream) return ad_read_wrong(p, "decoder_input_details", "== true is not supported when streaming tokens");
    o->details |= prefill;
    r->keep_tokens = o->details || r->stream;
    r->sampling.logprobs = o->alternatives > o->top ? o->alternatives : o->top;
    if (prefill) r->sampling.prompt_logprobs = 0;
    return true;
}

static bool read_unserved(const ad_reader *p)
{
    static const char *const names[] = {"watermark", "schema"};
    return ad_read_unserved(p, names, sizeof names / sizeof *names);
}

/* LoRAX's response_format, or TGI's {"type": "json" | "regex", "value"}. */
static bool read_constraint(const ad_reader *p)
{
    const json_t *grammar = ad_read_field(p, "grammar"), *value = json_object_get(grammar, "value");
    const char *type = json_string_value(json_object_get(grammar, "type"));
    if (!ad_read_response_format(p, "response_format", ad_read_field(p, "response_format"))) return false;
    if (!grammar) return true;
    if (!type || !value) return ad_read_wrong(p, "grammar", "must be an object with `type` and `value`");
    if (!strcmp(type, "regex")) return ad_request_constrain(p, "grammar", AD_GRAMMAR_REGEX, value);
    if (!strcmp(type, "json") || !strcmp(type, "json_object")) return ad_request_constrain(p, "grammar", AD_GRAMMAR_JSON_SCHEMA, value);
    if (!strcmp(type, "json_schema") && json_object_get(value, "schema")) return ad_request_constrain(p, "grammar", AD_GRAMMAR_JSON_SCHEMA, json_object_get(value, "schema"));
    return ad_read_wrong(p, "grammar", "has a `type` other than \"json\" and \"regex\"");
}

/* The messages that `inputs` are as JSON, else one of a user. */
static json_t *messages_of(ad_str text)
{
    json_t *list = ad_read_json(text.ptr, text.len, JSON_ALLOW_NUL, NULL);
    if (json_is_array(list)) return list;
    json_decref(list);
    return json_pack("[{s:s, s:s%}]", "role", "user", "content", text.ptr, text.len);
}

static bool add_chat(const ad_reader *rd, ad_str text)
{
    ad_chat *c = ad_chat_new();
    json_t *messages = c ? messages_of(text) : NULL;
    bool good = messages ? ad_chat_take_messages(rd, c, "inputs", messages) && ad_chat_add_prompt(rd, c, "inputs") : ad_fault_no_memory(rd->f);
    ad_chat_free(c);
    return good;
}

static bool read_inputs(const ad_reader *rd, const ad_reader *p)
{
    const json_t *v = ad_read_field(rd, "inputs");
    ad_str text = {json_string_value(v), json_string_length(v)};
    int truncate = INT32_MAX;
    bool chat = false;
    ad_ids ids = {0};
    ad_err err;
    if (!json_is_string(v)) return ad_read_wrong(rd, "inputs", v ? "must be a string" : "is missing");
    if (!text.len) return ad_read_wrong(rd, "inputs", "cannot be empty");
    if (!ad_read_integer(p, "truncate", 1, INT32_MAX, &truncate) || !ad_read_flag(p, "apply_chat_template", &chat)) return false;
    if (chat && truncate != INT32_MAX) return ad_read_wrong(rd, "truncate", "does not go with `apply_chat_template`");
    if (chat) {
        bool good = add_chat(rd, text);
        if (good) rd->r->prompts[0].text = text;
        return good;
    }
    if (!ad_request_reserve(rd, 1)) return false;
    if (ad_tokenizer_encode(rd->cx->tokenizer, text.ptr, text.len, AD_ENCODE_PARSE_SPECIAL | AD_ENCODE_ADD_SPECIAL, &ids, &err) != AD_OK) {
        free(ids.ids);
        return ad_fault_from(rd->f, &err, "inputs");
    }
    if (ids.count > (size_t)truncate) { /* the last of them stay */
        memmove(ids.ids, ids.ids + (ids.count - (size_t)truncate), (size_t)truncate * sizeof *ids.ids);
        ids.count = (size_t)truncate;
    }
    rd->r->prompts[0].text = text;
    return ad_request_add_prompt(rd, "inputs", ids);
}

static bool read_body(const ad_reader *rd)
{
    ad_request *r = rd->r;
    options *o = ad_calloc(1, sizeof *o);
    ad_reader p;
    if (!o) return ad_fault_no_memory(rd->f);
    r->extra = o;
    r->free_extra = free;
    if (!open_parameters(rd, &p)) return false;
    r->max_tokens_given = ad_read_field(&p, "max_new_tokens") != NULL;
    return ad_read_integer(&p, "max_new_tokens", 1, INT32_MAX, &r->sampling.max_tokens) && read_sampling(&p, o) && read_best_of(&p, o) && read_details(&p, o) &&
           ad_read_stops(&p, "stop", AD_MAX_STOPS) && read_unserved(&p) && read_constraint(&p) && read_inputs(rd, &p);
}

static bool read_stream(const ad_reader *rd)
{
    rd->r->stream = true;
    return read_body(rd);
}

static bool read_compat(const ad_reader *rd)
{
    return ad_read_flag(rd, "stream", &rd->r->stream) && read_body(rd);
}

/* ---- pieces of replies ---- */

static const char *finish_reason(ad_end end)
{
    return end == AD_END_LENGTH ? "length" : end == AD_END_STOP_STRING ? "stop_sequence" : "eos_token";
}

static json_t *seed_json(const ad_generation *g)
{
    const options *o = g->rq.extra;
    return o->sampled ? json_integer((json_int_t)g->rq.sampling.seed) : json_null();
}

static bool is_special(const ad_generation *g, int32_t id)
{
    return ad_tokenizer_is_special(g->cx.tokenizer, id) || ad_tokenizer_is_eog(g->cx.tokenizer, id);
}

/* text: taken. */
static json_t *token_json(const ad_generation *g, const ad_token_info *t, json_t *text)
{
    const options *o = g->rq.extra;
    json_t *v = json_pack("{s:i, s:o, s:f, s:b, s:b}", "id", (int)t->id, "text", text, "logprob", (double)t->logprob, "special", is_special(g, t->id), "skipped", 0);
    json_t *others = o->alternatives ? json_array() : NULL;
    for (int i = 0; i < o->alternatives && i < t->n_top; i++)
        json_array_append_new(others, json_pack("{s:i, s:o, s:f}", "id", (int)t->top_id[i], "text", ad_piece_json(g->cx.tokenizer, t->top_id[i]), "logprob", (double)t->top_logprob[i]));
    if (others) json_object_set_new(v, "alternative_tokens", others);
    return v;
}

static json_t *top_json(const ad_generation *g, const ad_token_info *t)
{
    const options *o = g->rq.extra;
    json_t *list = json_array();
    for (int i = 0; i < o->top && i < t->n_top; i++)
        json_array_append_new(list, json_pack("{s:i, s:o, s:f, s:b}", "id", (int)t->top_id[i], "text", ad_piece_json(g->cx.tokenizer, t->top_id[i]), "logprob", (double)t->top_logprob[i],
                                              "special", is_special(g, t->top_id[i])));
    return list;
}

/* The prompt's; nothing precedes the first. */
static json_t *prefill_json(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    json_t *list = json_array();
    for (size_t i = 0; i < ch->n_echoed; i++) {
        const ad_token_info *t = &ch->tokens[i];
        json_t *logprob = i ? json_real((double)t->logprob) : json_null();
        json_array_append_new(list, json_pack("{s:i, s:o, s:o}", "id", (int)t->id, "text", ad_piece_json(g->cx.tokenizer, t->id), "logprob", logprob));
    }
    return list;
}

/* What details of a reply and of each of best_of_sequences have in common. */
static json_t *details_json(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    const options *o = g->rq.extra;
    json_t *tokens = json_array(), *top = json_array();
    for (size_t i = ch->n_echoed; i < ch->n_tokens; i++) {
        json_array_append_new(tokens, token_json(g, &ch->tokens[i], ad_piece_json(g->cx.tokenizer, ch->tokens[i].id)));
        if (o->top) json_array_append_new(top, top_json(g, &ch->tokens[i]));
    }
    json_t *v = json_pack("{s:s, s:i, s:i, s:i, s:o, s:o, s:o}", "finish_reason", finish_reason(ch->end), "prompt_tokens", (int)g->rq.prompts[0].ids.count,
                          "generated_tokens", ch->n_generated,
                          "skipped_tokens", 0, "seed", seed_json(g), "prefill", prefill_json(ch), "tokens", tokens);
    if (o->top) json_object_set_new(v, "top_tokens", top);
    else json_decref(top);
    return v;
}

static void put_stop(const ad_choice *ch, ad_buf *b)
{
    if (ch->end == AD_END_STOP_STRING) ad_buf_append(b, ch->owner->rq.stops[ch->stop].ptr, ch->owner->rq.stops[ch->stop].len);
}

static json_t *buf_json(ad_buf *b)
{
    json_t *v = ad_buf_json(b);
    ad_buf_deinit(b);
    return v;
}

/* With the stop string that ended it, as these servers have it. */
static json_t *generated_json(const ad_choice *ch, const ad_buf *text)
{
    const ad_request *rq = &ch->owner->rq;
    const options *o = rq->extra;
    ad_buf b = {0};
    if (o->full_text) ad_buf_append(&b, rq->prompts[0].text.ptr, rq->prompts[0].text.len);
    if (text->len) ad_buf_append(&b, text->data, text->len);
    put_stop(ch, &b);
    return buf_json(&b);
}

/* ---- headers ---- */

static void set_number(ad_http_exchange *x, const char *name, double value)
{
    char text[32];
    snprintf(text, sizeof text, "%.0f", value);
    ad_http_set_header(x, name, text);
}

static void write_headers(ad_generation *g)
{
    const ad_request *rq = &g->rq;
    ad_http_set_header(g->x, "x-compute-type", "cpu");
    ad_http_set_header(g->x, "x-model-id", g->app->served_name);
    if (!g->lease.n) return;
    ad_buf ids = {0};
    if (rq->model) ad_buf_puts(&ids, rq->model);
    for (int i = 0; i < rq->n_adapters; i++) ad_buf_printf(&ids, "%s%s", i ? "," : "", rq->adapters[i].name);
    if (!ids.failed) ad_http_set_header(g->x, "x-adapter-id", ids.data);
    ad_http_set_header(g->x, "x-adapter-source", "local");
    ad_buf_deinit(&ids);
}

/* Milliseconds. What waited in the queue is in the time to the first token. */
static void write_times(const ad_generation *g, const ad_choice *ch)
{
    uint64_t start = ad_http_start_ns(g->x);
    double total = (double)(uv_hrtime() - start) / 1e6;
    ad_usage u = ad_generation_usage(g);
    set_number(g->x, "x-compute-time", total);
    set_number(g->x, "x-total-time", total);
    set_number(g->x, "x-prompt-tokens", (double)u.prompt);
    set_number(g->x, "x-generated-tokens", ch->n_generated);
    set_number(g->x, "x-total-tokens", (double)u.prompt + ch->n_generated);
    if (!ch->first_token_ns) return;
    set_number(g->x, "x-time-to-first-token", (double)(ch->first_token_ns - start) / 1e6);
    set_number(g->x, "x-time-per-token", total / ch->n_generated);
}

/* ---- the reply ---- */

static json_t *reply(ad_generation *g)
{
    const options *o = g->rq.extra;
    const ad_choice *best = ad_generation_choice(g, 0);
    json_t *v = json_pack("{s:o}", "generated_text", generated_json(best, &best->text)), *others = json_array();
    for (int i = 0; i < g->n_choices && o->details; i++) {
        const ad_choice *ch = &g->choices[i];
        json_t *one = ch == best ? NULL : details_json(ch);
        if (!one) continue;
        json_object_set_new(one, "generated_text", generated_json(ch, &ch->text));
        json_array_append_new(others, one);
    }
    json_t *details = o->details ? details_json(best) : NULL;
    if (json_array_size(others)) json_object_set(details, "best_of_sequences", others);
    if (details) json_object_set_new(v, "details", details);
    json_decref(others);
    if (v) ad_lease_write_receipt(&g->lease, v);
    write_times(g, best);
    return v;
}

/* LoRAX's "/" answers with a list of one. */
static json_t *reply_compat(ad_generation *g)
{
    return json_pack("[o]", reply(g));
}

/* ---- the stream ---- */

static void free_text(void *state)
{
    ad_buf_deinit(state);
    free(state);
}

/* All of the text so far; NULL: out of memory. */
static ad_buf *gather(ad_choice *ch)
{
    ad_buf *all = ch->state ? ch->state : ad_calloc(1, sizeof *all);
    ch->state = all;
    if (all && ch->text.len) ad_buf_append(all, ch->text.data, ch->text.len);
    return all;
}

/* The last event has the last token: when the length is what ends the text, that token waits for its end, which follows at once. */
static bool must_wait(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    return !ch->end && ch->n_generated >= ad_request_max_tokens(&g->rq, 0, g->cx.context);
}

static json_t *last_details(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    int prompt = (int)g->rq.prompts[0].ids.count;
    return json_pack("{s:s, s:i, s:i, s:i, s:o}", "finish_reason", finish_reason(ch->end), "prompt_tokens", prompt, "input_length", prompt, "generated_tokens", ch->n_generated, "seed",
                     seed_json(g));
}

/* What ended the text without a token of its own looks like an end-of-text token. */
static ad_token_info no_token(const ad_generation *g)
{
    int n;
    const int32_t *eogs = ad_tokenizer_eogs(g->cx.tokenizer, &n);
    return (ad_token_info){.id = n ? eogs[0] : 0};
}

static void send_choice(ad_choice *ch)
{
    ad_generation *g = ch->owner;
    const options *o = g->rq.extra;
    if (must_wait(ch)) return;
    ad_token_info last = ch->n_tokens ? ch->tokens[ch->n_tokens - 1] : no_token(g);
    ad_buf *all = gather(ch), text = {0};
    if (!all || all->failed) {
        ad_generation_fail(g, 503, NULL, "out of memory");
        return;
    }
    if (ch->text.len) ad_buf_append(&text, ch->text.data, ch->text.len);
    put_stop(ch, &text);
    bool whole = ch->end && last.ends && !text.len; /* the end-of-text token shows itself */
    json_t *shown = whole ? ad_piece_json(g->cx.tokenizer, last.id) : ad_buf_json(&text);
    json_t *v = json_pack("{s:i, s:o, s:o, s:o}", "index", ch->n_generated, "token", token_json(g, &last, shown),
                          "generated_text", ch->end ? generated_json(ch, all) : json_null(), "details",
                          ch->end ? last_details(ch) : json_null());
    if (o->top) json_object_set_new(v, "top_tokens", top_json(g, &last));
    if (v) ad_lease_write_receipt(&g->lease, v);
    ad_buf_deinit(&text);
    ad_choice_clear(ch);
    ad_generation_send(g, NULL, v);
}

const ad_dialect ad_generate = {
    .id_prefix = "gen-", .read_target = read_target, .read = read_body, .headers = write_headers, .reply = reply, .templated = true,
};
const ad_dialect ad_generate_stream = {
    .id_prefix = "gen-", .read_target = read_target, .read = read_stream, .headers = write_headers, .event = send_choice, .free_choice = free_text, .templated = true,
};
const ad_dialect ad_generate_compat = {
    .id_prefix = "gen-", .read_target = read_target, .read = read_compat, .headers = write_headers, .reply = reply_compat, .event = send_choice, .free_choice = free_text, .templated = true,
};

void ad_handle_generate(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_generate); }
void ad_handle_generate_stream(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_generate_stream); }
void ad_handle_generate_compat(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_generate_compat); }

/* ---- /info ---- */

void ad_handle_info(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_config *c = app->config;
    int context = ad_worker_context(app->worker);
    ad_reply_json(x, 200, json_pack("{s:s, s:n, s:s, s:s, s:s, s:i, s:i, s:i, s:i, s:i, s:i, s:s, s:n, s:n}", "model_id", app->served_name, "model_sha", "model_dtype", c->weights,
                                    "model_device_type", "cpu", "model_pipeline_tag", "text-generation", "max_concurrent_requests", c->max_running + c->queue_limit, "max_best_of", AD_MAX_CHOICES,
                                    "max_stop_sequences", AD_MAX_STOPS, "max_input_length", context - 1, "max_input_tokens", context - 1, "max_total_tokens", context, "version", AD_VERSION,
                                    "sha", "docker_label"));
}
