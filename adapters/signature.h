/* SPDX-License-Identifier: MIT */
/* minisign signatures over an adapter's digest. What is signed is a file with the 64 hex digits of the digest and one line feed
 * (or none): `adapterctl digest DIR > d; minisign -Sm d`. Formats: minisign's documentation. Any thread. */
#ifndef AD_ADAPTERS_SIGNATURE_H
#define AD_ADAPTERS_SIGNATURE_H

#include <stdbool.h>

#include "core/base/hash.h"
#include "core/base/status.h"

typedef struct ad_trust ad_trust; /* the keys that are trusted; immutable once made */

typedef enum { AD_SIGNATURES_OFF, AD_SIGNATURES_WARN, AD_SIGNATURES_REQUIRE } ad_signature_policy;
bool ad_signature_policy_parse(const char *name, ad_signature_policy *out); /* "off", "warn", "require" */

/* Each key is a minisign public key file, or the base64 line of one. n may be 0: then nobody is trusted. AD_ENOTFOUND, AD_EIO and AD_EFORMAT
 * name the key. */
AD_MUSTUSE ad_status ad_trust_new(ad_trust **out, const char *const *keys, int n, ad_err *err);
void ad_trust_free(ad_trust **t); /* NULL is fine */
bool ad_trust_has(const ad_trust *t, const char *key_id); /* as ad_signer has it */

typedef struct {
    char key_id[17];       /* 16 hex digits, as minisign prints it */
    char comment[257];     /* the trusted comment, which is signed too: UTF-8 without control characters but tabs. A longer one is cut here,
                              after it was verified whole */
} ad_signer;

/* text: the whole .minisig file, at most AD_SIGNATURE_TEXT bytes. AD_EFORMAT when it is none, AD_EUNTRUSTED for an unknown key or a wrong signature.
 * Messages hold nothing of text but the key's id. */
enum { AD_SIGNATURE_TEXT = 16 << 10 };
AD_MUSTUSE ad_status ad_signature_check(const ad_trust *t, const char *text, const ad_digest *digest, ad_signer *out, ad_err *err);

#endif
