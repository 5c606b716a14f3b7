/* SPDX-License-Identifier: MIT */
/* An adapter's self-test: prompts with the text they must give, or how far the adapter may move the base's answers. Runs through the engine
 * like any request, one prompt after the other. Loop thread.
 *
 *   {"prompts": [{"prompt": TEXT, "expect": TEXT, "max_tokens": N},          greedy; the answer must begin with `expect`
 *                {"prompt": TEXT, "max_divergence": NATS}]}                  mean over the prompt's tokens but the first of |log p(adapter) - log p(base)|
 *
 * A prompt has exactly one of `expect` and `max_divergence`. Prompts are tokenized and answers written as /v1/completions does by default. max_tokens
 * (1..AD_SELFTEST_TOKENS) is what the answer may take, and when it is left out as much as is allowed; generation ends when the outcome is certain. */
#ifndef AD_SERVER_SELFTEST_H
#define AD_SERVER_SELFTEST_H

#include <jansson.h>

#include "adapters/adapter.h"

struct ad_app;

enum {
    AD_SELFTEST_PROMPTS = 32,
    AD_SELFTEST_TOKENS = 256,
    AD_SELFTEST_BYTES = 64 << 10, /* of the whole text; read on the loop */
    AD_SELFTEST_PROMPT = 8 << 10  /* bytes of one prompt: 2 ms of tokenizing */
};

/* Whether the text is a self-test; AD_EINVAL says what is wrong with it. Any thread. */
AD_MUSTUSE ad_status ad_selftest_check(const char *text, ad_err *err);

/* Runs it on `a`, which the caller keeps alive until done was called: with AD_OK when everything passed, AD_EMISMATCH naming the first that did not, or another reason it could
 * not run (AD_EBUSY: a full queue, or the server is shutting down; AD_EINVAL: a prompt that does not fit this model's context). results is borrowed, and
 * has those that ran: [{"prompt", "passed", "answer" | "divergence"}]; `answer` goes as far as was needed. Never calls done before it returned, nor when it did not return AD_OK. */
typedef void (*ad_selftest_done)(void *user, ad_status st, const ad_err *err, const json_t *results);
AD_MUSTUSE ad_status ad_selftest_run(struct ad_app *app, const ad_adapter *a, const char *text, ad_selftest_done done, void *user, ad_err *err);

#endif
