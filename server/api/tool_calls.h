/* SPDX-License-Identifier: MIT */
/* Function calls in what a model writes: found in the stream of its text and taken out of it. Pure; one owner. */
#ifndef AD_API_TOOL_CALLS_H
#define AD_API_TOOL_CALLS_H

#include <jansson.h>

#include "core/base/mem.h"

typedef enum {
    AD_TOOLS_NONE,   /* all text is text */
    AD_TOOLS_HERMES, /* <tool_call>{"name": ..., "arguments": {...}}</tool_call>, anywhere in the text: Hermes, Qwen */
    AD_TOOLS_LLAMA,  /* the whole text is {"name": ..., "parameters": {...}}, or several with ';' between: Llama 3 */
    AD_TOOLS_FORCED, /* the whole text is one call, as a grammar made sure */
} ad_tool_style;

typedef struct {
    ad_tool_style style;
    const json_t *tools; /* as chat requests have them; only their functions are called; borrowed */
    int max_calls;       /* later ones are dropped */
    int n_calls;
    bool in_call, whole; /* held begins behind an opening tag; the text is held to its end */
    bool begun;          /* something but blanks was seen */
    size_t searched;     /* bytes of held known to hold no tag */
    ad_buf held;         /* what may be, or is, part of a call */
} ad_tool_parser;

void ad_tool_parser_init(ad_tool_parser *p, ad_tool_style style, const json_t *tools, int max_calls);
void ad_tool_parser_deinit(ad_tool_parser *p);
/* More of the text. What cannot be part of a call goes to *content; finished calls are added to the array `calls` as {"name": "...", "arguments": "JSON"}.
 * A call that is malformed, or of a function nobody offered, is text. False: out of memory. */
bool ad_tool_parser_feed(ad_tool_parser *p, const char *text, size_t len, ad_buf *content, json_t *calls);
/* The text has ended. */
bool ad_tool_parser_end(ad_tool_parser *p, ad_buf *content, json_t *calls);

#endif
