/* SPDX-License-Identifier: MIT */
/* An adapter's self-test: prompts with the text they must give, or how far the adapter may move the base's answers. Runs through the engine
 * like any request. Loop thread.
 *
 *   {"prompts": [{"prompt": TEXT, "expect": TEXT, "max_tokens": N},          greedy; the answer must begin with `expect`
 *                {"prompt": TEXT, "max_divergence": NATS}]}                  mean over the prompt's tokens of |log p(adapter) - log p(base)|
 */
#ifndef AD_SERVER_SELFTEST_H
#define AD_SERVER_SELFTEST_H

#include <jansson.h>

#include "adapters/adapter.h"

struct ad_app;
typedef struct ad_selftest ad_selftest;

enum { AD_SELFTEST_PROMPTS = 32, AD_SELFTEST_TOKENS = 256 };

/* Whether the text is a self-test; AD_EINVAL says what is wrong with it. */
AD_MUSTUSE ad_status ad_selftest_check(const char *text, ad_err *err);

/* Runs it on `a`, which the caller keeps alive until done was called: with AD_OK when everything passed, AD_EMISMATCH naming the first that did not, or another reason it could
 * not run (a full queue: AD_EBUSY). results is borrowed: [{"prompt", "passed", "answer" | "divergence"}]. Never calls done before it returned. */
typedef void (*ad_selftest_done)(void *user, ad_status st, const ad_err *err, const json_t *results);
AD_MUSTUSE ad_status ad_selftest_run(struct ad_app *app, const ad_adapter *a, const char *text, ad_selftest_done done, void *user, ad_err *err);

#endif
