/* SPDX-License-Identifier: MIT */
/* tokenizer.json, then text through it. */
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_tokenizer *tk = NULL;
    ad_err err;
    if (ad_tokenizer_from_json(&tk, (const char *)data, size, "fuzz", &err) == AD_OK) fuzz_use_tokenizer(tk);
    ad_tokenizer_free(&tk);
    return 0;
}
