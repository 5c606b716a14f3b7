/* SPDX-License-Identifier: MIT */
/* What the fuzz targets share. Each target keeps its fixed parts for the life of the process. */
#ifndef TESTS_FUZZ_H
#define TESTS_FUZZ_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "core/text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* AD_SOURCE_ROOT/tests/golden/tiny/REST; static. */
static inline const char *fuzz_path(const char *rest)
{
    static char path[4096];
    const char *root = getenv("AD_SOURCE_ROOT");
    if (!root) abort();
    strcpy(path, root);
    strcat(path, "/tests/golden/tiny/");
    return strcat(path, rest);
}

/* Encodes and decodes with a tokenizer that survived loading. */
static inline void fuzz_use_tokenizer(const ad_tokenizer *tk)
{
    static const char text[] = "Hello  world 12345 \xC3\xA9\xF0\x9F\x99\x82 <|im_start|> don't\r\n\t</s><s>";
    ad_ids ids = {0};
    ad_buf out = {0};
    ad_err err;
    if (ad_tokenizer_encode(tk, text, sizeof text - 1, AD_ENCODE_ADD_SPECIAL | AD_ENCODE_PARSE_SPECIAL, &ids, &err) == AD_OK)
        ad_tokenizer_decode(tk, ids.ids, ids.count, false, &out);
    ad_detok *d = NULL;
    if (ad_detok_new(&d, tk, &(ad_str){"wor", 3}, 1, true, 0, &err) == AD_OK) {
        bool stopped;
        for (size_t i = 0; i < ids.count; i++)
            if (ad_detok_push(d, ids.ids[i], &out, &stopped) != AD_OK) abort();
        if (ad_detok_finish(d, &out) != AD_OK) abort();
    }
    ad_detok_free(&d);
    ad_buf_deinit(&out);
    free(ids.ids);
}

#endif
