/* SPDX-License-Identifier: MIT */
/* SHA-256, by OpenSSL. A hasher belongs to one thread at a time. */
#ifndef AD_BASE_HASH_H
#define AD_BASE_HASH_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/status.h"

typedef struct {
    uint8_t bytes[32];
} ad_digest;

typedef struct ad_hasher ad_hasher;

AD_MUSTUSE ad_status ad_hasher_new(ad_hasher **out, ad_err *err);
void ad_hasher_add(ad_hasher *h, const void *data, size_t len);
/* Writes the digest of all that was added (also after a failure inside, which AD_ENOMEM tells) and frees the hasher. */
AD_MUSTUSE ad_status ad_hasher_finish(ad_hasher **h, ad_digest *out, ad_err *err);

/* 64 lower-case hex digits and a NUL. */
void ad_digest_hex(const ad_digest *d, char out[65]);

#endif
