/* SPDX-License-Identifier: MIT */
/* POST /v1/chat/completions, as OpenAI and vLLM have it. */
#include "server/api/chat.h"

#include <stdlib.h>
#include <string.h>

#include "server/api/constraint.h"

/* ---- the body ---- */

static bool read_logprobs(const ad_reader *rd)
{
    bool wanted = false;
    int top = -1;
    if (!ad_read_flag(rd, "logprobs", &wanted) || !ad_read_integer(rd, "top_logprobs", 0, AD_MAX_LOGPROBS, &top)) return false;
    if (top >= 0 && !wanted) return ad_read_wrong(rd, "top_logprobs", "needs `logprobs`: true");
    if (wanted) rd->r->sampling.logprobs = top < 0 ? 0 : top;
    return true;
}

static bool read_max_tokens(const ad_reader *rd)
{
    ad_request *r = rd->r;
    const char *name = ad_read_field(rd, "max_completion_tokens") ? "max_completion_tokens" : "max_tokens"; /* the older name of the same */
    r->max_tokens_given = ad_read_field(rd, name) != NULL;
    return ad_read_integer(rd, name, 0, INT32_MAX, &r->sampling.max_tokens);
}

static bool read_n(const ad_reader *rd)
{
    if (!ad_read_integer(rd, "n", 1, AD_MAX_CHOICES, &rd->r->n)) return false;
    rd->r->best_of = rd->r->n;
    return true;
}

static bool read_unserved(const ad_reader *rd)
{
    static const char *const names[] = {"functions", "function_call", "audio", "web_search_options", "use_beam_search", "include_stop_str_in_output", "truncate_prompt_tokens",
                                        "prompt_logprobs", "logits_processors", "bad_words", "chat_template", "documents", "mm_processor_kwargs", "echo"};
    const json_t *modalities = ad_read_field(rd, "modalities");
    const char *first = json_string_value(json_array_get(modalities, 0));
    if (modalities && (json_array_size(modalities) != 1 || !first || strcmp(first, "text") != 0))
        return ad_fault_set(rd->f, 400, "unsupported_parameter", "modalities", "`modalities` other than [\"text\"] are not supported");
    return ad_read_unserved(rd, names, sizeof names / sizeof *names);
}

static bool read_body(const ad_reader *rd)
{
    ad_request *r = rd->r;
    ad_chat *c = ad_chat_new();
    if (!c) return ad_fault_no_memory(rd->f);
    r->extra = c;
    r->free_extra = ad_chat_free;
    bool good = ad_chat_read_messages(rd, c) && ad_chat_read_tools(rd, c) && ad_chat_read_template_options(rd, c) && read_max_tokens(rd) && ad_read_sampling(rd) &&
                read_logprobs(rd) && ad_read_logit_bias(rd) && ad_read_token_ids(rd) && ad_read_stops(rd, "stop", AD_OPENAI_STOPS) && ad_read_stream(rd) && read_n(rd) &&
                ad_read_token_options(rd) && read_unserved(rd) && ad_read_constraint(rd) && ad_chat_constrain(rd, c);
    if (!good) return false;
    r->keep_tokens = r->sampling.logprobs >= 0 || r->return_token_ids;
    return ad_chat_add_prompt(rd, c, "messages");
}

/* ---- what a choice becomes ---- */

void ad_chat_state_free(void *state)
{
    ad_chat_state *s = state;
    ad_tool_parser_deinit(&s->parser);
    ad_buf_deinit(&s->content);
    json_decref(s->calls);
    free(s);
}

static ad_chat_state *state_of(ad_choice *ch)
{
    const ad_chat *c = ch->owner->rq.extra;
    ad_chat_state *s = ch->state ? ch->state : ad_calloc(1, sizeof *s);
    if (!s || ch->state) return s;
    s->calls = json_array();
    ad_tool_parser_init(&s->parser, c->style, c->tools, c->max_calls);
    return ch->state = s;
}

ad_chat_state *ad_chat_take(ad_choice *ch)
{
    ad_chat_state *s = state_of(ch);
    bool good = s && (!ch->text.len || ad_tool_parser_feed(&s->parser, ch->text.data, ch->text.len, &s->content, s->calls));
    if (good && ch->end) good = ad_tool_parser_end(&s->parser, &s->content, s->calls);
    ad_buf_clear(&ch->text);
    if (good) return s;
    ad_generation_fail(ch->owner, 503, NULL, "out of memory");
    return NULL;
}

const char *ad_chat_finish(const ad_choice *ch, const ad_chat_state *s)
{
    const ad_chat *c = ch->owner->rq.extra;
    bool named = c->forced && *c->forced; /* then the client knows, and hears why the text ended */
    return s->n_calls + (int)json_array_size(s->calls) > 0 && ch->end != AD_END_LENGTH && !named ? "tool_calls" : ad_finish_reason(ch->end);
}

void ad_chat_call_id(const ad_choice *ch, int i, char *out, size_t size)
{
    snprintf(out, size, "call_%s_%d_%d", ch->owner->id + strlen(ch->owner->dialect->id_prefix), ch->index, i);
}

/* ---- the reply ---- */

static json_t *token_json(const ad_generation *g, int32_t id, float logprob)
{
    return json_pack("{s:o, s:f, s:o}", "token", ad_token_name(g, id), "logprob", (double)logprob, "bytes", ad_piece_bytes_json(g->cx.tokenizer, id));
}

static json_t *logprobs_json(const ad_choice *ch)
{
    const ad_generation *g = ch->owner;
    if (g->rq.sampling.logprobs < 0) return json_null();
    json_t *list = json_array();
    for (size_t i = 0; i < ch->n_tokens; i++) {
        const ad_token_info *t = &ch->tokens[i];
        json_t *top = json_array(), *v = token_json(g, t->id, t->logprob);
        for (int j = 0; j < t->n_top; j++) json_array_append_new(top, token_json(g, t->top_id[j], t->top_logprob[j]));
        json_object_set_new(v, "top_logprobs", top);
        json_array_append_new(list, v);
    }
    return json_pack("{s:o, s:n}", "content", list, "refusal");
}

static json_t *calls_json(const ad_choice *ch, const ad_chat_state *s, bool with_index)
{
    json_t *list = json_array(), *call;
    size_t i;
    json_array_foreach(s->calls, i, call) {
        char id[200];
        ad_chat_call_id(ch, s->n_calls + (int)i, id, sizeof id);
        json_t *v = json_pack("{s:s, s:s, s:O}", "id", id, "type", "function", "function", call);
        if (with_index) json_object_set_new(v, "index", json_integer(s->n_calls + (json_int_t)i));
        json_array_append_new(list, v);
    }
    return list;
}

static json_t *message_json(const ad_choice *ch, const ad_chat_state *s)
{
    bool called = json_array_size(s->calls) > 0;
    size_t blanks = s->content.len ? strspn(s->content.data, " \t\r\n") : 0;
    json_t *content = called && blanks >= s->content.len ? json_null() : ad_buf_json(&s->content);
    json_t *v = json_pack("{s:s, s:o, s:n}", "role", "assistant", "content", content, "refusal");
    if (called) json_object_set_new(v, "tool_calls", calls_json(ch, s, false));
    return v;
}

static json_t *choice_json(ad_choice *ch, const char *what, json_t *message, const ad_chat_state *s)
{
    json_t *v = json_pack("{s:i, s:o, s:o, s:s?}", "index", ch->index, what, message, "logprobs", logprobs_json(ch), "finish_reason", ad_chat_finish(ch, s));
    if (ch->owner->rq.return_token_ids) json_object_set_new(v, "token_ids", ad_choice_ids_json(ch));
    return v;
}

static json_t *usage_json(const ad_generation *g)
{
    json_t *usage = ad_usage_json(g);
    json_object_set_new(usage, "completion_tokens_details", json_pack("{s:i}", "reasoning_tokens", 0));
    return usage;
}

static json_t *reply(ad_generation *g)
{
    json_t *choices = json_array();
    for (int i = 0; i < g->rq.n; i++) {
        ad_choice *ch = ad_generation_choice(g, i);
        const ad_chat_state *s = ad_chat_take(ch);
        json_array_append_new(choices, s ? choice_json(ch, "message", message_json(ch, s), s) : NULL);
    }
    json_t *v = ad_generation_envelope(g, "chat.completion", choices);
    json_object_set_new(v, "usage", usage_json(g));
    return v;
}

/* ---- the stream ---- */

static void send_delta(ad_choice *ch, json_t *choice)
{
    ad_generation *g = ch->owner;
    json_t *v = ad_generation_envelope(g, "chat.completion.chunk", json_pack("[o]", choice));
    if (g->rq.include_usage) json_object_set_new(v, "usage", json_null());
    ad_generation_send(g, NULL, v);
}

static json_t *plain_choice(const ad_choice *ch, json_t *delta, const char *finish)
{
    return json_pack("{s:i, s:o, s:n, s:s?}", "index", ch->index, "delta", delta, "logprobs", "finish_reason", finish);
}

static void send_role(ad_choice *ch)
{
    send_delta(ch, plain_choice(ch, json_pack("{s:s, s:s}", "role", "assistant", "content", ""), NULL));
    ch->started = true;
}

/* Text and calls that are new, with the tokens that brought them, if there is any to tell. */
static void send_news(ad_choice *ch, ad_chat_state *s)
{
    bool tokens = ch->n_tokens && ch->owner->rq.keep_tokens;
    size_t n = json_array_size(s->calls);
    if (!s->content.len && !n && !tokens) return;
    json_t *delta = json_object();
    if (s->content.len || !n) json_object_set_new(delta, "content", ad_buf_json(&s->content));
    if (n) json_object_set_new(delta, "tool_calls", calls_json(ch, s, true));
    json_t *choice = json_pack("{s:i, s:o, s:o, s:n}", "index", ch->index, "delta", delta, "logprobs", logprobs_json(ch), "finish_reason");
    if (ch->owner->rq.return_token_ids) json_object_set_new(choice, "token_ids", ad_choice_ids_json(ch));
    send_delta(ch, choice);
    s->n_calls += (int)n;
    ad_buf_clear(&s->content);
    json_array_clear(s->calls);
    ad_choice_clear(ch);
}

static void event(ad_choice *ch)
{
    ad_chat_state *s = ad_chat_take(ch);
    if (!s) return;
    if (!ch->started) send_role(ch);
    send_news(ch, s);
    if (ch->end) send_delta(ch, plain_choice(ch, json_object(), ad_chat_finish(ch, s)));
}

static void end(ad_generation *g)
{
    if (g->rq.include_usage) {
        json_t *v = ad_generation_envelope(g, "chat.completion.chunk", json_array());
        json_object_set_new(v, "usage", usage_json(g));
        ad_generation_send(g, NULL, v);
    }
    ad_generation_send_text(g, "data: [DONE]\n\n");
}

const ad_dialect ad_chat_completions = {
    .id_prefix = "chatcmpl-", .read_target = ad_read_target, .read = read_body, .reply = reply, .event = event, .end = end, .free_choice = ad_chat_state_free, .templated = true,
};

void ad_handle_chat_completions(ad_http_exchange *x, void *app)
{
    ad_generation_start(x, app, &ad_chat_completions);
}
