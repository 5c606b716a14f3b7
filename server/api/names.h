/* SPDX-License-Identifier: MIT */
/* Names at the edge of the API. Handlers turn what a request says into whole names first thing; messages are written with whole names, and ad_reply_fault makes
 * them the caller's; what replies show goes through ad_scope_shown. Loop thread. */
#ifndef AD_API_NAMES_H
#define AD_API_NAMES_H

#include "server/api/auth.h"
#include "server/tenancy/scope.h"

/* What there is for who sent x, which does what its route does; borrowed while x is open. */
ad_scope ad_scope_of(const ad_http_exchange *x, const ad_app *app);
/* Whether the sender may give `said` to something new. 403 for a name outside its key's, 409 for the base model's, 400 for one that begins like a tenant's; param: of the fault. */
bool ad_may_add(const ad_scope *s, const ad_app *app, const char *said, const char *param, ad_fault *f);
/* Whether /v1/adapters/SAID can be an adapter's own address. False: 400 in *f. */
bool ad_is_free_path(const char *said, const char *param, ad_fault *f);
/* Whether the sender may change what has that whole name. What is not there counts as its own: the change will find out. False: 403 in *f. */
bool ad_may_change(const ad_scope *s, const char *full, ad_fault *f);
/* The id of the tenant that is going to own the sender's new `full`. */
int ad_owner_id(const ad_scope *s, const char *full);
/* Whose it is: the tenant's name. */
const char *ad_owner_name(const ad_app *app, const char *full);

#endif
