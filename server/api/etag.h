/* SPDX-License-Identifier: MIT */
/* Entity tags of adapters and aliases: "rN" is revision N. Loop thread. */
#ifndef AD_API_ETAG_H
#define AD_API_ETAG_H

#include "server/api/api.h"

enum { AD_ETAG = 32 };
void ad_etag(const ad_entry *e, char out[AD_ETAG]); /* with its quotes */
void ad_set_etag(ad_http_exchange *x, const ad_entry *e);
/* If-Match, a list of tags or "*": the revision that a change of e (NULL: nothing is there) must find, into *out; AD_ANY_REVISION without the header. False: none of
 * them is a tag of ours, which is answered by 412. */
bool ad_read_if_match(ad_http_exchange *x, const ad_entry *e, int64_t *out);
/* Whether If-None-Match is "*" or lists e's tag. */
bool ad_is_unmodified(const ad_http_exchange *x, const ad_entry *e);

#endif
