/* SPDX-License-Identifier: MIT */
/* TLS 1.2 and 1.3 between a socket and what is said over it: bytes in, bytes out, no socket here. Loop thread only.
 * A filter keeps no output, and of its input no more than the part of a record that has arrived. */
#ifndef AD_HTTP_TLS_H
#define AD_HTTP_TLS_H

#include "core/base/mem.h"

typedef struct ad_tls ad_tls;               /* certificate and key, as new connections get them */
typedef struct ad_tls_filter ad_tls_filter; /* of one connection */

/* Files, all PEM. */
typedef struct {
    const char *cert;       /* the certificate, then those between it and its authority's; borrowed for the life of the ad_tls, as the others */
    const char *key;        /* NULL: in the same file */
    const char *client_ca;  /* clients must show a certificate that one of these vouches for; NULL: they need none */
} ad_tls_files;

/* The error names the file and what is wrong with it. A certificate that is not valid at this time is served all the same, with a warning in the log. */
AD_MUSTUSE ad_status ad_tls_new(ad_tls **out, const ad_tls_files *files, ad_err *err);
/* Reads the files again: filters to come get what is there now, those there are keep what they have. On an error nothing changes. */
AD_MUSTUSE ad_status ad_tls_reload(ad_tls *t, bool *renewed, ad_err *err); /* *renewed: it is another certificate */
uint64_t ad_tls_expiry(const ad_tls *t); /* until when the certificate is valid, in seconds since 1970 */
void ad_tls_free(ad_tls **t); /* after all filters */

typedef enum {
    AD_TLS_SHAKING, /* hands; nothing can be sent yet */
    AD_TLS_OPEN,
    AD_TLS_ENDED,   /* the client says no more */
    AD_TLS_FAILED,
} ad_tls_state;

ad_tls_filter *ad_tls_filter_new(ad_tls *t); /* NULL: out of memory */
void ad_tls_filter_free(ad_tls_filter **f);
/* Takes data[len] from the socket. What it says is appended to `plain`, what must be sent because of it (also when it failed: the alert) to `wire`. */
ad_tls_state ad_tls_receive(ad_tls_filter *f, const char *data, size_t len, ad_buf *plain, ad_buf *wire);
const char *ad_tls_problem(const ad_tls_filter *f); /* why it failed, for people */
/* Appends to `wire` what says data[len]; false: it cannot be said. */
AD_MUSTUSE bool ad_tls_send(ad_tls_filter *f, const char *data, size_t len, ad_buf *wire);
/* Appends to `wire` that nothing more will be said, once and where it makes sense. */
void ad_tls_end(ad_tls_filter *f, ad_buf *wire);

#endif
