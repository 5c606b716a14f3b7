/* SPDX-License-Identifier: MIT */
/* safetensors bytes: every tensor found and read to its end. */
#include "tests/fuzz/fuzz.h"

#include "core/formats/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_safetensors *s = NULL;
    ad_err err;
    if (ad_safetensors_parse(&s, data, size, "fuzz", &err) != AD_OK) return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < ad_safetensors_count(s); i++) {
        const ad_tensor *t = ad_safetensors_at(s, i);
        if (ad_safetensors_find(s, t->name) != t) abort();
        for (size_t b = 0; b < t->bytes; b++) sum += ((const uint8_t *)t->data)[b];
    }
    ad_safetensors_close(&s);
    return sum == 0xFFFFFFFF ? -1 : 0;
}
