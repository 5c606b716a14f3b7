/* SPDX-License-Identifier: MIT */
/* Chat templates: a conversation as JSON becomes the prompt the model was trained on, by the template that came with
 * the model. A template is immutable once made: any thread may render. */
#ifndef AD_TEXT_CHAT_H
#define AD_TEXT_CHAT_H

#include <jansson.h>
#include <time.h>

#include "core/text/tokenizer.h"

typedef struct ad_chat_template ad_chat_template;

/* source[len] is copied; label names it in messages. AD_EFORMAT with the line for what is no template. */
AD_MUSTUSE ad_status ad_chat_template_new(ad_chat_template **out, const char *source, size_t len, const char *label, ad_err *err);
/* From a file that the operator names. */
AD_MUSTUSE ad_status ad_chat_template_from_file(ad_chat_template **out, const char *path, ad_err *err);
/* tokenizer.chat_template and tokenizer.chat_template.tool_use of a GGUF file; chat_template.jinja or tokenizer_config.json's
 * chat_template of a directory. *out is NULL when there is none. A template that cannot be read does not fail the call:
 * ad_chat_template_problem tells. */
AD_MUSTUSE ad_status ad_chat_template_from_gguf(ad_chat_template **out, const ad_gguf *g, const char *label, ad_err *err);
AD_MUSTUSE ad_status ad_chat_template_from_dir(ad_chat_template **out, const char *dir, ad_err *err);
void ad_chat_template_free(ad_chat_template **t); /* NULL is fine */

/* Why it cannot render; NULL when it can. */
const char *ad_chat_template_problem(const ad_chat_template *t);
/* The text of the template, NUL-terminated. Borrowed from t. */
const char *ad_chat_template_source(const ad_chat_template *t);
/* Whether it reads a variable or a field of that name: "tools", "enable_thinking", "reasoning_content". */
bool ad_chat_template_mentions(const ad_chat_template *t, const char *name);

typedef struct {
    const json_t *messages;        /* array of objects with "role"; "content" is a string, null or an array of text parts */
    const json_t *tools;           /* array of {"type": "function", "function": {...}}; NULL: none */
    const json_t *documents;       /* array; NULL: none */
    const json_t *kwargs;          /* object: further variables of the template, such as "enable_thinking"; NULL: none */
    bool add_generation_prompt;    /* end with the beginning of an assistant's turn */
    bool continue_final_message;   /* end where the last message's content ends, its turn still open */
    const ad_tokenizer *tokenizer; /* gives bos_token and eos_token; NULL: they are undefined */
    time_t now;                    /* what strftime_now formats, as local time */
} ad_chat_input;

/* Appends the prompt to *out, to be encoded without AD_ENCODE_ADD_SPECIAL, and to *untrusted (NULL is fine) the spans of
 * *out that came from the input rather than from the template. Before that a "developer" role becomes "system", a list of text
 * parts one string, and a tool call's arguments, a JSON string, the object they say.
 * AD_EINVAL: the template refuses this conversation (err is its own sentence), or the conversation does not suit it;
 * AD_ELIMIT: it takes too many steps or too much memory; AD_EUNSUPPORTED: the template has a problem. On failure *out and
 * *untrusted keep what they had. */
AD_MUSTUSE ad_status ad_chat_render(const ad_chat_template *t, const ad_chat_input *in, ad_buf *out, ad_text_spans *untrusted, ad_err *err);

#endif
