/* SPDX-License-Identifier: MIT */
/* POST /tokenize and /detokenize, as vLLM has them and, for a body with `content`, as llama-server does. A body of `tokens` alone could be either's: its reply
 * has both names. The reply is written where the body is read, on the pool for a long one. */
#include <stdlib.h>

#include "server/api/chat_prompt.h"
#include "server/api/generation.h"

/* ---- JSON text ---- */

static void put_ids(ad_buf *b, const ad_ids *ids)
{
    for (size_t i = 0; i < ids->count; i++) ad_buf_printf(b, "%s%d", i ? "," : "", (int)ids->ids[i]);
}

/* The token's text, or its bytes where they are no text by themselves. */
static void put_piece(ad_buf *b, const ad_tokenizer *tk, int32_t id)
{
    ad_str s = ad_tokenizer_piece(tk, id);
    json_t *text = json_stringn(s.ptr ? s.ptr : "", s.len);
    if (text) {
        ad_put_json(b, text);
        return;
    }
    for (size_t i = 0; i < s.len; i++) ad_buf_printf(b, "%c%d", i ? ',' : '[', (unsigned char)s.ptr[i]);
    ad_buf_puts(b, "]");
}

/* ---- text to tokens ---- */

static bool encode(const ad_reader *rd, const char *name, const json_t *text, unsigned flags, ad_ids *ids)
{
    ad_err err;
    return ad_tokenizer_encode(rd->cx->tokenizer, json_string_value(text), json_string_length(text), flags, ids, &err) == AD_OK || ad_fault_from(rd->f, &err, name);
}

static void write_vllm(const ad_reader *rd, ad_buf *b, const ad_ids *ids, bool strings)
{
    ad_buf_printf(b, "{\"count\":%zu,\"max_model_len\":%d,\"tokens\":[", ids->count, rd->cx->context);
    put_ids(b, ids);
    ad_buf_puts(b, strings ? "],\"token_strs\":[" : "],\"token_strs\":null}");
    for (size_t i = 0; strings && i < ids->count; i++) {
        if (i) ad_buf_puts(b, ",");
        ad_put_json(b, ad_piece_json(rd->cx->tokenizer, ids->ids[i]));
    }
    if (strings) ad_buf_puts(b, "]}");
}

static bool encode_prompt(const ad_reader *rd, bool special, ad_ids *ids)
{
    const json_t *prompt = ad_read_field(rd, "prompt");
    if (!json_is_string(prompt)) return ad_read_wrong(rd, "prompt", prompt ? "must be a string" : "is missing");
    return encode(rd, "prompt", prompt, AD_ENCODE_PARSE_SPECIAL | (special ? AD_ENCODE_ADD_SPECIAL : 0), ids);
}

/* A conversation by the chat template, of which the special tokens come as a rule. */
static bool encode_messages(const ad_reader *rd, bool special, ad_ids *ids)
{
    ad_chat *c = ad_chat_new();
    bool good = c ? ad_chat_read_messages(rd, c) && ad_chat_read_tools(rd, c) && ad_chat_read_template_options(rd, c) && ad_chat_encode_prompt(rd, c, "messages", special, ids)
                  : ad_fault_no_memory(rd->f);
    ad_chat_free(c);
    return good;
}

static bool tokenize_vllm(const ad_reader *rd, ad_buf *b, ad_ids *ids)
{
    bool chat = ad_read_field(rd, "messages") != NULL, special = !chat, strings = false;
    if (!ad_read_flag(rd, "add_special_tokens", &special) || !ad_read_flag(rd, "return_token_strs", &strings)) return false;
    if (!(chat ? encode_messages : encode_prompt)(rd, special, ids)) return false;
    write_vllm(rd, b, ids, strings);
    return true;
}

/* llama-server: a string, or strings and ids in turn, of which the first string gets what the tokenizer adds. */
static bool tokenize_content(const ad_reader *rd, ad_buf *b, ad_ids *ids)
{
    const json_t *content = ad_read_field(rd, "content");
    bool special = false, parse = true, pieces = false;
    bool good = ad_read_flag(rd, "add_special", &special) && ad_read_flag(rd, "parse_special", &parse) && ad_read_flag(rd, "with_pieces", &pieces);
    size_t n = json_is_array(content) ? json_array_size(content) : 1;
    for (size_t i = 0; good && i < n; i++) {
        const json_t *part = json_is_array(content) ? json_array_get(content, i) : content;
        if (json_is_string(part)) good = encode(rd, "content", part, (parse ? AD_ENCODE_PARSE_SPECIAL : 0) | (special && !i ? AD_ENCODE_ADD_SPECIAL : 0), ids);
        else if (json_is_array(content)) good = ad_read_id(rd, "content", part, i, ids);
        else good = ad_read_wrong(rd, "content", "must be a string, or an array of strings and token ids");
    }
    if (!good) return false;
    ad_buf_puts(b, "{\"tokens\":[");
    if (!pieces) put_ids(b, ids);
    for (size_t i = 0; pieces && i < ids->count; i++) {
        ad_buf_printf(b, "%s{\"id\":%d,\"piece\":", i ? "," : "", (int)ids->ids[i]);
        put_piece(b, rd->cx->tokenizer, ids->ids[i]);
        ad_buf_puts(b, "}");
    }
    ad_buf_puts(b, "]}");
    return true;
}

static bool read_tokenize(const ad_reader *rd)
{
    ad_ids ids = {0};
    ad_buf *b = ad_request_new_text(rd);
    bool good = b && (ad_read_field(rd, "content") ? tokenize_content : tokenize_vllm)(rd, b, &ids);
    free(ids.ids);
    return good;
}

/* ---- tokens to text ---- */

static bool read_detokenize(const ad_reader *rd)
{
    const json_t *tokens = ad_read_field(rd, "tokens");
    ad_buf *b = ad_request_new_text(rd), text = {0};
    ad_ids ids = {0};
    bool good = b && (json_is_array(tokens) || ad_read_wrong(rd, "tokens", tokens ? "must be an array of token ids" : "is missing"));
    for (size_t i = 0; good && i < json_array_size(tokens); i++) good = ad_read_id(rd, "tokens", json_array_get(tokens, i), i, &ids);
    if (good) {
        ad_tokenizer_decode(rd->cx->tokenizer, ids.ids, ids.count, false, &text);
        json_t *v = ad_buf_json(&text);
        ad_put_json(b, json_pack("{s:O, s:o}", "prompt", v, "content", v));
    }
    ad_buf_deinit(&text);
    free(ids.ids);
    return good;
}

/* ---- the dialects ---- */

/* Adapters have the base model's tokenizer, but one that is not there is an error all the same. */
static bool read_target(const ad_reader *rd)
{
    return ad_read_model(rd, false);
}

static void write_reply(ad_generation *g, ad_buf *out)
{
    ad_buf *b = g->rq.extra;
    *out = *b;
    *b = (ad_buf){0};
    ad_lease_put_receipt(&g->lease, out);
}

const ad_dialect ad_tokenize = {.id_prefix = "", .read_target = read_target, .read = read_tokenize, .write = write_reply, .templated = true};
const ad_dialect ad_detokenize = {.id_prefix = "", .read_target = read_target, .read = read_detokenize, .write = write_reply};

void ad_handle_tokenize(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_tokenize); }
void ad_handle_detokenize(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_detokenize); }
