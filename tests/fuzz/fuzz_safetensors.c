/* SPDX-License-Identifier: MIT */
/* safetensors bytes: every tensor found and read to its end; and the same when a line end in the header sends it through jansson. */
#include "tests/fuzz/fuzz.h"

#include "core/formats/safetensors.h"

static bool same_tensor(const ad_tensor *a, const ad_tensor *b)
{
    if (strcmp(a->name, b->name) || a->dtype != b->dtype || a->n_dims != b->n_dims || a->bytes != b->bytes) return false;
    return !memcmp(a->dims, b->dims, (size_t)a->n_dims * sizeof a->dims[0]) && (!a->bytes || !memcmp(a->data, b->data, a->bytes));
}

/* s: what the file was read as, or NULL. */
static void compare_with_jansson(const ad_safetensors *s, const uint8_t *data, size_t size)
{
    uint64_t len;
    ad_safetensors *other = NULL;
    ad_err err;
    if (size < 9 || data[8] != '{') return;
    memcpy(&len, data, sizeof len);
    uint8_t *copy = malloc(size + 1);
    if (!copy) abort();
    len++;
    memcpy(copy, &len, sizeof len);
    copy[8] = '{', copy[9] = '\n';
    memcpy(copy + 10, data + 9, size - 9);
    if ((ad_safetensors_parse(&other, copy, size + 1, "fuzz", &err) == AD_OK) != (s != NULL)) abort();
    if (s && ad_safetensors_count(s) != ad_safetensors_count(other)) abort();
    for (size_t i = 0; s && i < ad_safetensors_count(s); i++)
        if (!same_tensor(ad_safetensors_at(s, i), ad_safetensors_at(other, i))) abort();
    ad_safetensors_close(&other);
    free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ad_safetensors *s = NULL;
    ad_err err;
    bool good = ad_safetensors_parse(&s, data, size, "fuzz", &err) == AD_OK;
    compare_with_jansson(s, data, size);
    if (!good) return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < ad_safetensors_count(s); i++) {
        const ad_tensor *t = ad_safetensors_at(s, i);
        if (ad_safetensors_find(s, t->name) != t) abort();
        for (size_t b = 0; b < t->bytes; b++) sum += ((const uint8_t *)t->data)[b];
    }
    ad_safetensors_close(&s);
    return sum == 0xFFFFFFFF ? -1 : 0;
}
