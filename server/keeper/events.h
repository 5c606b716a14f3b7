/* SPDX-License-Identifier: MIT */
/* What happens to adapters, as server-sent events: the newest are kept for clients that come back. Loop thread only. */
#ifndef AD_KEEPER_EVENTS_H
#define AD_KEEPER_EVENTS_H

#include "server/http/http.h"

typedef struct ad_events ad_events;

enum { AD_EVENT_STREAMS = 256 };

/* Whose a name is at the time of an event: a number that is never another's. */
typedef int (*ad_events_owner_fn)(void *user, const char *name);
AD_MUSTUSE ad_status ad_events_new(ad_events **out, uv_loop_t *loop, ad_events_owner_fn owner, void *user, ad_err *err);
void ad_events_close(ad_events **e); /* ends the streams; the memory goes with the loop's next turn. NULL is fine */

void ad_events_end_streams(ad_events *e); /* everybody hears the end: the server is leaving */

/* digest_hex "" and version 0: not known yet; previous may be NULL. */
void ad_events_emit(ad_events *e, const char *name, int version, const char *digest_hex, const char *state, const char *previous);
/* What the client of x calls the owner's `name`; NULL: it hears nothing of it. */
typedef const char *(*ad_events_name_fn)(ad_http_exchange *x, void *user, const char *name, int owner);
/* Whether it may still follow; asked before each event, and now and then. */
typedef bool (*ad_events_may_fn)(ad_http_exchange *x, void *user);
/* How many follow them; *own: of these, how many of the tenant's. */
int ad_events_count(const ad_events *e, int tenant, int *own);
/* Answers with a stream that lasts until the client or the server leaves, or `may` says no. Begins behind the Last-Event-ID the client names, as far as events are kept.
 * False: out of memory, or there are AD_EVENT_STREAMS already; nothing is answered. */
bool ad_events_subscribe(ad_events *e, ad_http_exchange *x, int tenant, ad_events_name_fn shown, ad_events_may_fn may, void *user);

#endif
