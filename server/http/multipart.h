/* SPDX-License-Identifier: MIT */
/* multipart/form-data (RFC 7578, RFC 2046), read as it comes: however the body is cut into pieces, the parts are the same. Strict: what two
 * readers could take for different things is an error. Pure: no loop, no files. An object belongs to one thread at a time. */
#ifndef AD_HTTP_MULTIPART_H
#define AD_HTTP_MULTIPART_H

#include <stddef.h>

#include "core/base/status.h"

enum {
    AD_MULTIPART_PARTS = 64,       /* of one body */
    AD_MULTIPART_HEAD = 8 * 1024,  /* the headers of one part */
    AD_MULTIPART_BOUNDARY = 70,    /* RFC 2046 */
};

typedef struct ad_multipart ad_multipart;

/* For each part: begin, data any number of times (never empty), end. A status that is not AD_OK ends the reading and is what ad_multipart_feed returns. */
typedef struct {
    /* name is not empty; filename NULL: none was given; content_type as written, "text/plain" when absent. Borrowed for the call. */
    ad_status (*begin)(void *user, const char *name, const char *filename, const char *content_type, ad_err *err);
    ad_status (*data)(void *user, const char *data, size_t len, ad_err *err);
    ad_status (*end)(void *user, ad_err *err);
    void *user;
} ad_multipart_handler;

/* content_type is the request's header, or NULL. AD_EUNSUPPORTED: it is not multipart/form-data; AD_EINVAL: its boundary is missing or wrong. */
AD_MUSTUSE ad_status ad_multipart_new(ad_multipart **out, const char *content_type, const ad_multipart_handler *handler, ad_err *err);
void ad_multipart_free(ad_multipart **m); /* NULL is fine */

/* The next piece of the body. AD_EINVAL: it is malformed; AD_ELIMIT: too many parts or headers. After a failure only free it. */
AD_MUSTUSE ad_status ad_multipart_feed(ad_multipart *m, const char *data, size_t len, ad_err *err);
/* The body is complete: AD_EINVAL unless its closing boundary came. */
AD_MUSTUSE ad_status ad_multipart_finish(const ad_multipart *m, ad_err *err);

#endif
