/* SPDX-License-Identifier: MIT */
/* POST /v1/completions, as OpenAI and vLLM have it. */
#include <stdlib.h>
#include <string.h>

#include "server/api/constraint.h"
#include "server/api/generation.h"

enum { DEFAULT_MAX_TOKENS = 16 };

/* ---- the body ---- */

static bool read_best_of(const ad_reader *rd)
{
    ad_request *r = rd->r;
    if (!ad_read_integer(rd, "n", 1, AD_MAX_CHOICES, &r->n)) return false;
    r->best_of = r->n;
    if (!ad_read_integer(rd, "best_of", 1, AD_MAX_CHOICES, &r->best_of)) return false;
    if (r->best_of < r->n) return ad_read_wrong(rd, "best_of", "is less than `n`");
    return !r->stream || r->best_of == r->n || ad_read_wrong(rd, "best_of", "above `n` does not go with `stream`");
}

static bool read_unserved(const ad_reader *rd)
{
    static const char *const names[] = {"suffix", "use_beam_search", "include_stop_str_in_output", "truncate_prompt_tokens",
                                        "prompt_logprobs", "logits_processors", "bad_words", "prompt_embeds"};
    return ad_read_unserved(rd, names, sizeof names / sizeof *names);
}

static bool read_body(const ad_reader *rd)
{
    ad_request *r = rd->r;
    ad_sampling *s = &r->sampling;
    bool special = true;
    s->max_tokens = DEFAULT_MAX_TOKENS;
    r->max_tokens_given = ad_read_field(rd, "max_tokens") != NULL;
    bool good = ad_read_flag(rd, "echo", &r->echo) && ad_read_integer(rd, "max_tokens", 0, INT32_MAX, &s->max_tokens) && ad_read_sampling(rd) &&
                ad_read_integer(rd, "logprobs", 0, 5, &s->logprobs) && ad_read_logit_bias(rd) && ad_read_token_ids(rd) && ad_read_stops(rd, "stop", AD_OPENAI_STOPS) && ad_read_stream(rd) && read_best_of(rd) &&
                ad_read_token_options(rd) && ad_read_flag(rd, "add_special_tokens", &special) && read_unserved(rd) && ad_read_constraint(rd);
    if (!good) return false;
    if (r->echo) s->prompt_logprobs = s->logprobs;
    r->keep_tokens = s->logprobs >= 0 || r->return_token_ids;
    return ad_read_prompts(rd, "prompt", special);
}

/* ---- the reply ---- */

static json_t *ids_json(const ad_ids *ids)
{
    json_t *list = json_array();
    for (size_t i = 0; i < ids->count; i++) json_array_append_new(list, json_integer(ids->ids[i]));
    return list;
}

static size_t count_chars(ad_str s)
{
    size_t n = 0;
    for (size_t i = 0; i < s.len; i++) n += ((unsigned char)s.ptr[i] & 0xC0) != 0x80;
    return n;
}

static json_t *top_json(const ad_generation *g, const ad_token_info *t)
{
    json_t *top = json_object();
    for (int i = -1; i < t->n_top; i++) {
        json_t *name = ad_token_name(g, i < 0 ? t->id : t->top_id[i]);
        const char *key = json_string_value(name);
        if (key && !json_object_get(top, key)) json_object_set_new(top, key, json_real((double)(i < 0 ? t->logprob : t->top_logprob[i])));
        json_decref(name);
    }
    return top;
}

/* The offset counts code points from the text's start; a stream's choice remembers where its last event ended. */
static json_t *logprobs_json(ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    if (g->rq.sampling.logprobs < 0 || !ch->n_tokens) return json_null();
    if (!ch->state) ch->state = ad_calloc(1, sizeof(size_t));
    size_t *chars = ch->state;
    if (!chars) return NULL;
    json_t *names = json_array(), *logprobs = json_array(), *tops = json_array(), *offsets = json_array();
    for (size_t i = 0; i < ch->n_tokens; i++) {
        const ad_token_info *t = &ch->tokens[i];
        bool first = i == 0 && ch->n_echoed; /* nothing precedes it */
        json_array_append_new(names, ad_token_name(g, t->id));
        json_array_append_new(logprobs, first ? json_null() : json_real((double)t->logprob));
        json_array_append_new(tops, first ? json_null() : top_json(g, t));
        json_array_append_new(offsets, json_integer((json_int_t)*chars));
        bool hidden = t->ends || (g->rq.skip_special && ad_tokenizer_is_special(g->cx.tokenizer, t->id));
        if (!hidden) *chars += count_chars(ad_tokenizer_piece(g->cx.tokenizer, t->id));
    }
    return json_pack("{s:o, s:o, s:o, s:o}", "tokens", names, "token_logprobs", logprobs, "top_logprobs", tops, "text_offset", offsets);
}

/* Takes what the choice has gathered since the last time. */
static json_t *choice_json(ad_choice *ch)
{
    const ad_request *rq = &ch->owner->rq;
    json_t *v = json_pack("{s:o, s:i, s:o, s:s?}", "text", ad_buf_json(&ch->text), "index", ch->index, "logprobs", logprobs_json(ch),
                          "finish_reason", ad_finish_reason(ch->end));
    if (rq->return_token_ids) {
        json_object_set_new(v, "token_ids", ad_choice_ids_json(ch));
        json_object_set_new(v, "prompt_token_ids", ch->started ? json_null() : ids_json(&rq->prompts[ch->prompt].ids));
    }
    ad_choice_clear(ch);
    return v;
}

static json_t *reply(ad_generation *g)
{
    json_t *choices = json_array();
    for (int i = 0; i < g->rq.n_prompts * g->rq.n; i++) json_array_append_new(choices, choice_json(ad_generation_choice(g, i)));
    json_t *v = ad_generation_envelope(g, "text_completion", choices);
    json_object_set_new(v, "usage", ad_usage_json(g));
    return v;
}

static void send_choice(ad_choice *ch)
{
    ad_generation *g = ch->owner;
    json_t *v = ad_generation_envelope(g, "text_completion", json_pack("[o]", choice_json(ch)));
    if (g->rq.include_usage) json_object_set_new(v, "usage", json_null());
    ad_generation_send(g, NULL, v);
}

static void send_end(ad_generation *g)
{
    if (g->rq.include_usage) {
        json_t *v = ad_generation_envelope(g, "text_completion", json_array());
        json_object_set_new(v, "usage", ad_usage_json(g));
        ad_generation_send(g, NULL, v);
    }
    ad_generation_send_text(g, "data: [DONE]\n\n");
}

const ad_dialect ad_completions = {
    .id_prefix = "cmpl-", .read_target = ad_read_target, .read = read_body, .reply = reply, .event = send_choice, .end = send_end, .free_choice = free,
};

void ad_handle_completions(ad_http_exchange *x, void *app)
{
    ad_generation_start(x, app, &ad_completions);
}
