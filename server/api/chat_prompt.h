/* SPDX-License-Identifier: MIT */
/* Messages and tools: checked, brought through the chat template, tokenized. Shared by all routes that take messages. Pure: any thread. */
#ifndef AD_API_CHAT_PROMPT_H
#define AD_API_CHAT_PROMPT_H

#include "server/api/request.h"
#include "server/api/tool_calls.h"

enum { AD_MAX_MESSAGES = 4096, AD_MAX_TOOLS = 128 };

typedef struct {
    json_t *messages;          /* in OpenAI's form; owned */
    json_t *tools;             /* the same, or NULL: none may be called; owned */
    json_t *kwargs;            /* chat_template_kwargs, or NULL; owned */
    ad_tool_style style;       /* how calls look in what the model writes */
    int max_calls;
    const char *forced;        /* the function that tool_choice names, "" for any; NULL: the model decides */
    bool add_generation_prompt, continue_final_message;
} ad_chat;

ad_chat *ad_chat_new(void); /* empty, with a generation prompt; NULL: out of memory */
void ad_chat_free(void *chat);

/* rd->object's `messages`: role, content (string or text parts), name, tool_calls, tool_call_id, all checked. */
bool ad_chat_read_messages(const ad_reader *rd, ad_chat *c);
/* Checks messages in OpenAI's form that were made from another one, and takes them. */
bool ad_chat_take_messages(const ad_reader *rd, ad_chat *c, const char *name, json_t *messages);
/* `tools`, `tool_choice`, `parallel_tool_calls`. */
bool ad_chat_read_tools(const ad_reader *rd, ad_chat *c);
/* add_generation_prompt, continue_final_message, chat_template_kwargs, reasoning_effort. */
bool ad_chat_read_template_options(const ad_reader *rd, ad_chat *c);

/* Sees to it that a call that must come does: a grammar for it. After the request's own constraint was read, which does not go with calls. */
bool ad_chat_constrain(const ad_reader *rd, const ad_chat *c);

/* The text that the template makes, appended to *out. name: the field that holds the messages. */
bool ad_chat_render_prompt(const ad_reader *rd, const ad_chat *c, const char *name, ad_buf *out, ad_text_spans *untrusted);
/* The same as tokens, appended to *ids; what messages say is never a special token. special: the tokenizer adds its own to those of the template. */
bool ad_chat_encode_prompt(const ad_reader *rd, const ad_chat *c, const char *name, bool special, ad_ids *ids);
/* The same as the request's one prompt. */
bool ad_chat_add_prompt(const ad_reader *rd, const ad_chat *c, const char *name);

#endif
