/* SPDX-License-Identifier: MIT */
/* GGUF bytes: every key and tensor read, then a tokenizer made of the metadata. */
#include "tests/fuzz/fuzz.h"

#include "core/formats/gguf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_gguf *g = NULL;
    ad_tokenizer *tk = NULL;
    ad_err err;
    if (ad_gguf_parse(&g, data, size, "fuzz", &err) != AD_OK) return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < ad_gguf_tensor_count(g); i++) {
        const ad_tensor *t = ad_gguf_tensor_at(g, i);
        if (ad_gguf_tensor(g, t->name) != t) abort();
        for (size_t b = 0; b < t->bytes; b++) sum += ((const uint8_t *)t->data)[b];
    }
    if (ad_tokenizer_from_gguf(&tk, g, &err) == AD_OK) fuzz_use_tokenizer(tk);
    ad_tokenizer_free(&tk);
    ad_gguf_close(&g);
    return sum == 0xFFFFFFFF ? -1 : 0;
}
