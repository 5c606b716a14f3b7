/* SPDX-License-Identifier: MIT */
/* POST /v1/completions: the body, checked and tokenized. Pure: any thread. */
#ifndef AD_API_COMPLETION_REQUEST_H
#define AD_API_COMPLETION_REQUEST_H

#include "core/text/tokenizer.h"
#include "server/api/api.h"

enum { AD_MAX_CHOICES = 128, AD_MAX_PROMPTS = 1024, AD_MAX_STOPS = 4 };

typedef struct {
    ad_ids ids;
    ad_str text;      /* as the request wrote it, in the JSON document; NULL ptr: it was given as ids */
} ad_prompt;

typedef struct {
    const char *name; /* in the JSON document */
    float weight;
} ad_weighted_name;

typedef struct {
    json_t *root;     /* owns the strings */
    const char *model;
    ad_weighted_name adapters[AD_MAX_MIX]; /* beside the base model's name */
    int n_adapters;
    ad_str cache_salt;
    uint64_t hash;    /* of `user`, or of the whole body: which target of an alias answers */
    ad_prompt *prompts; /* [n_prompts] */
    int n_prompts;
    int n;            /* choices per prompt */
    ad_sampling sampling; /* max_tokens: already within the context, for each prompt */
    bool max_tokens_given;
    ad_str stops[AD_MAX_STOPS];
    int n_stops;
    bool stream, include_usage, echo, return_token_ids, tokens_as_ids, skip_special;
} ad_completion_request;

/* body[len] is borrowed for the call. vocab: ids the base model has; context: tokens per sequence.
 * False with *f filled when the request is refused; *out is then zero. Otherwise release *out. */
bool ad_completion_parse(ad_completion_request *out, const char *body, size_t len, const ad_tokenizer *tk, int vocab, int context, ad_fault *f);
void ad_completion_request_deinit(ad_completion_request *r);

/* max_tokens of one prompt: what was asked for, or the default as far as the context has room. */
int ad_completion_max_tokens(const ad_completion_request *r, int prompt, int context);

#endif
