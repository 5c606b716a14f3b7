/* SPDX-License-Identifier: MIT */
/* Self-tests, as far as they are read before a model is asked. */
#include "tests/fuzz/fuzz.h"

#include "server/selftest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_err err;
    char *text = malloc(size + 1);
    if (!text) abort();
    memcpy(text, data, size);
    text[size] = '\0';
    ad_status st = ad_selftest_check(text, &err);
    if (st != AD_OK && st != AD_EINVAL) abort();
    free(text);
    return 0;
}
