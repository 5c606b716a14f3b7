/* SPDX-License-Identifier: MIT */
/* The chat template that an adapter brings along: tuning for a dialogue form of its own is common. It is no part of the adapter's digest. Any thread. */
#ifndef AD_ADAPTERS_TEMPLATE_H
#define AD_ADAPTERS_TEMPLATE_H

#include <stddef.h>

#include "core/text/chat.h"

enum { AD_TEMPLATE_BYTES = 64 << 10, AD_TOKENIZER_CONFIG_BYTES = 4 << 20 };

/* Where Hugging Face's tools leave it, beside the adapter's files; the first one counts when both are there. */
#define AD_TEMPLATE_FILE "chat_template.jinja"
#define AD_TOKENIZER_CONFIG "tokenizer_config.json"

/* What such a file may have: AD_TEMPLATE_BYTES or AD_TOKENIZER_CONFIG_BYTES; 0: it is none of the two. */
size_t ad_template_file_bytes(const char *name);

/* The template of the adapter in directory `dir` into *out, owned by the caller; NULL when it has none. Of tokenizer_config.json it is the text under
 * "chat_template", or the one that is named "default" in a list. AD_EFORMAT (no JSON, no UTF-8, no template), AD_ELIMIT over AD_TEMPLATE_BYTES, AD_EIO, AD_ENOMEM. */
AD_MUSTUSE ad_status ad_template_read(const char *dir, ad_chat_template **out, ad_err *err);
/* From text that came by itself: NULL inside for "". */
AD_MUSTUSE ad_status ad_template_compile(const char *text, ad_chat_template **out, ad_err *err);
/* Removes both files. */
void ad_template_remove_files(const char *dir);

#endif
