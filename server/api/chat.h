/* SPDX-License-Identifier: MIT */
/* What a choice of a conversation becomes: content and tool calls. Shared by the routes that answer messages. Loop thread. */
#ifndef AD_API_CHAT_H
#define AD_API_CHAT_H

#include "server/api/chat_prompt.h"
#include "server/api/generation.h"

/* A choice's state. */
typedef struct {
    ad_tool_parser parser;
    ad_buf content;      /* since the last event, or all of it */
    json_t *calls;       /* the same: [{"name", "arguments"}] */
    int n_calls;         /* before those */
} ad_chat_state;

/* The choice's state with what it gathered taken in; made at the first call. NULL: out of memory, which the generation is told. */
ad_chat_state *ad_chat_take(ad_choice *ch);
void ad_chat_state_free(void *state);
/* "tool_calls" where it called and was free to, else as ad_finish_reason has it. */
const char *ad_chat_finish(const ad_choice *ch, const ad_chat_state *s);
/* The id of a choice's i-th call, into out[size]. */
void ad_chat_call_id(const ad_choice *ch, int i, char *out, size_t size);

#endif
