/* SPDX-License-Identifier: MIT */
/* A row of the audit log for every request that changes something, or was refused it, right behind the change. Loop thread. */
#ifndef AD_API_AUDIT_H
#define AD_API_AUDIT_H

#include "server/api/api.h"

/* What the audit log calls a request by this route ("adapter.upload"); path: the request's. NULL: such requests change nothing. Static. */
const char *ad_audit_action(const ad_http_route *r, const char *path);

/* The exchange ends with this status: nothing is done unless it was to change something. Of those who have no valid key ten attempts are written in ten seconds. */
void ad_audit_exchange(ad_app *app, const ad_http_exchange *x, int status);

/* For a change that goes on although its client has left: what is known of it, to be completed by ad_audit_complete; ad_audit_exchange will not write it. NULL: there is nothing to
 * write, or no memory, then it is written as one whose client left. */
ad_stored_audit *ad_audit_keep(const ad_http_exchange *x);
void ad_audit_complete(ad_app *app, ad_stored_audit *row, int status); /* takes row; NULL is fine */

#endif
