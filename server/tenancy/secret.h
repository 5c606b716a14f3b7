/* SPDX-License-Identifier: MIT */
/* What a key is made of, and what is kept of it. Loop thread. */
#ifndef AD_TENANCY_SECRET_H
#define AD_TENANCY_SECRET_H

#include "server/tenancy/tenancy.h"

enum { AD_KEY_SECRET = 32 };

/* DIR/key.secret into secret; where there is none, a new one, durable when it returns. AD_EFORMAT: it is not ours, or is missing although `needed`: keys were made with it.
 * dir NULL: a random one that is kept nowhere. */
AD_MUSTUSE ad_status ad_key_secret_open(uint8_t secret[AD_KEY_SECRET], const char *dir, bool needed, ad_err *err);

/* HMAC-SHA256 of the text. */
AD_MUSTUSE ad_status ad_key_mac(const uint8_t secret[AD_KEY_SECRET], const char *text, ad_digest *out, ad_err *err);

/* A new key; wipe it after use. AD_EIO: no random numbers. */
AD_MUSTUSE ad_status ad_key_make(char text[AD_KEY_TEXT + 1], ad_err *err);
/* Its id; false: it has not a key's form. */
bool ad_key_read_id(const char *text, char id[AD_KEY_ID + 1]);

#endif
