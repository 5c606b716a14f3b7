/* SPDX-License-Identifier: MIT */
/* Merged mode: which adapter, if any, has weights of its own; on request or by itself. Loop thread only; the building
 * runs on libuv's pool beside serving. */
#ifndef AD_SERVER_MERGER_H
#define AD_SERVER_MERGER_H

#include <stdint.h>

#include "adapters/merge.h"
#include "server/keeper/keeper.h"

typedef struct ad_merger ad_merger;
struct ad_app;

/* mode: "off", "auto", or the name of an adapter to merge at once; it must be there, and is brought into memory first. The app is borrowed. */
AD_MUSTUSE ad_status ad_merger_new(ad_merger **out, struct ad_app *app, const char *mode, ad_err *err);
/* The server leaves: whoever waits for a build hears it (AD_EBUSY), and nothing is merged any more. */
void ad_merger_stop(ad_merger *m);
/* Ends its timer and drops the merged weights; the memory goes with the loop's next turn. NULL is fine. */
void ad_merger_close(ad_merger **m);

/* Builds W' for `v`, once it is in memory, then publishes it in place of what was merged, and calls done once: with AD_OK, or with the reason.
 * AD_EBUSY while another build runs, AD_ENOMEM where memory does not allow it: then done is not called. */
typedef void (*ad_merger_done)(void *user, ad_status st, const ad_err *err);
AD_MUSTUSE ad_status ad_merger_merge(ad_merger *m, ad_version *v, ad_merger_done done, void *user, ad_err *err);
void ad_merger_restore(ad_merger *m); /* new requests run unmerged */

/* The merged weights of a version with this very content, or NULL; borrowed until the loop turns. */
ad_merge *ad_merger_find(const ad_merger *m, const ad_digest *digest);
ad_merge *ad_merger_current(const ad_merger *m);
bool ad_merger_is_building(const ad_merger *m);
uint64_t ad_merger_switches(const ad_merger *m);

/* Tells of served tokens; digest is NULL for the base and for mixes. What auto decides by. */
void ad_merger_count(ad_merger *m, const ad_digest *digest, int tokens);

#endif
