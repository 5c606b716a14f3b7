/* SPDX-License-Identifier: MIT */
/* Server-sent events out of a stream cut anywhere. Pure: no clock, no sockets. */
#ifndef ADAPTERD_CLIENT_SSE_H
#define ADAPTERD_CLIENT_SSE_H

#include "clients/lib/internal.h"

enum { AD_CLIENT_SSE_ID = 128, AD_CLIENT_SSE_EVENT_BYTES = 1 << 20 };

typedef struct {
    /* Called at each blank line that ends an event with data; false stops the feeding. */
    bool (*on_event)(void *user, const char *id, const char *type, const char *data);
    void *user;
    char id[AD_CLIENT_SSE_ID]; /* of the last event that had one; may be set before the first byte */
    int retry_ms;              /* what the server asks for; 0: nothing */
    bool too_large;            /* a line or an event was over AD_CLIENT_SSE_EVENT_BYTES, or memory ran out */
    /* Inside. */
    ad_client_text line, data;
    char type[64], next_id[AD_CLIENT_SSE_ID];
    bool has_data, after_cr, started;
} ad_client_sse;

void ad_client_sse_init(ad_client_sse *s, const char *last_id, bool (*on_event)(void *user, const char *id, const char *type, const char *data), void *user);
bool ad_client_sse_feed(ad_client_sse *s, const char *data, size_t len); /* false: on_event said so, or too_large */
void ad_client_sse_restart(ad_client_sse *s); /* another connection: forgets what was half read, keeps id and retry_ms */
void ad_client_sse_deinit(ad_client_sse *s);

#endif
