/* SPDX-License-Identifier: MIT */
/* Where to listen, as the configuration writes it: "127.0.0.1:8080", "https://[::1]:8443", "unix:/path,mode=0660,group=web". Any thread. */
#ifndef AD_HTTP_ADDRESS_H
#define AD_HTTP_ADDRESS_H

#include "core/base/mem.h"

enum { AD_HTTP_MAX_ADDRESSES = 16 };

typedef struct {
    char host[256];   /* without brackets; "" for a Unix socket */
    int port;         /* 0: any free one */
    bool tls;         /* https://; without, or with http://, it is not */
    char path[108];   /* of a Unix socket, as long as one may be */
    unsigned mode;    /* of it; preset 0660 */
    char group[64];   /* that owns it; "": the process's */
} ad_http_address;

/* Adds the addresses of `text` to list[*n]: separated by commas, options behind the address they belong to. As a comma also separates the items of a
 * list, an option at the beginning belongs to the last address there. */
AD_MUSTUSE ad_status ad_http_address_read(ad_http_address *list, int *n, const char *text, ad_err *err);

/* Whether only this machine can come in there: a loopback address, "localhost" or a Unix socket. */
bool ad_http_address_is_local(const ad_http_address *a);

/* Removes the socket of `a` when nobody listens there any more. AD_EEXIST: somebody does, or it is no socket. */
AD_MUSTUSE ad_status ad_http_unlink_stale(const ad_http_address *a, ad_err *err);
/* Gives the bound socket of `a` its mode and group. */
AD_MUSTUSE ad_status ad_http_set_owner(const ad_http_address *a, ad_err *err);

#endif
