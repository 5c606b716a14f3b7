/* SPDX-License-Identifier: MIT */
/* Bodies of POST /v1/completions. */
#include "tests/fuzz/fuzz.h"

#include "server/api/completion_request.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static ad_tokenizer *tk;
    ad_err err;
    ad_completion_request r;
    ad_fault f = {0};
    if (!tk && ad_tokenizer_from_dir(&tk, fuzz_path("tokenizers/smollm"), &err) != AD_OK) abort();
    if (ad_completion_parse(&r, (const char *)data, size, tk, 1024, 256, &f)) {
        for (int i = 0; i < r.n_prompts; i++)
            if (ad_completion_max_tokens(&r, i, 256) < 0) abort();
        ad_completion_request_deinit(&r);
    } else if (f.http < 400) {
        abort(); /* a refusal without a reason */
    } else {
        json_decref(ad_fault_json(&f));
    }
    return 0;
}
