/* SPDX-License-Identifier: MIT */
/* The only file of core that knows OpenSSL. */
#include "core/base/hash.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct ad_hasher {
    EVP_MD_CTX *ctx;
    int failed;
};

ad_status ad_hasher_new(ad_hasher **out, ad_err *err)
{
    ad_hasher *h = calloc(1, sizeof *h);
    if (h) h->ctx = EVP_MD_CTX_new();
    if (!h || !h->ctx || EVP_DigestInit_ex(h->ctx, EVP_sha256(), NULL) != 1) {
        if (h) EVP_MD_CTX_free(h->ctx);
        free(h);
        return ad_fail(err, AD_ENOMEM, "out of memory for a digest");
    }
    *out = h;
    return AD_OK;
}

void ad_hasher_add(ad_hasher *h, const void *data, size_t len)
{
    if (len && EVP_DigestUpdate(h->ctx, data, len) != 1) h->failed = 1;
}

ad_status ad_hasher_finish(ad_hasher **hp, ad_digest *out, ad_err *err)
{
    ad_hasher *h = *hp;
    unsigned len = 0;
    memset(out, 0, sizeof *out);
    if (EVP_DigestFinal_ex(h->ctx, out->bytes, &len) != 1 || len != sizeof out->bytes) h->failed = 1;
    int failed = h->failed;
    EVP_MD_CTX_free(h->ctx);
    free(h);
    *hp = NULL;
    return failed ? ad_fail(err, AD_ENOMEM, "a digest could not be computed") : AD_OK;
}

void ad_digest_hex(const ad_digest *d, char out[65])
{
    for (size_t i = 0; i < sizeof d->bytes; i++) snprintf(out + 2 * i, 3, "%02x", d->bytes[i]);
}
