/* SPDX-License-Identifier: MIT */
/* Who sent a request, and whether it may do what its route does. Loop thread. */
#ifndef AD_API_AUTH_H
#define AD_API_AUTH_H

#include "server/api/api.h"
#include "server/tenancy/tenancy.h"

/* ad_http_options.admit: 401 for who has no key, or none that is live, once there are keys; 403 where its key lacks the route's verb. Routes of AD_VERB_OPEN are everybody's, and
 * those of AD_VERB_METRICS also this machine's. */
int ad_auth_admit(void *app, ad_http_exchange *x, const char **why);
/* Who sent it; never NULL in a handler. Borrowed until the exchange ends; ad_caller_retain makes it last. */
const ad_caller *ad_caller_of(const ad_http_exchange *x);
/* For routes that do more than one thing: whether the sender may do this to what its tenant names so (NULL: to something); else answers 403. */
bool ad_require_verb(ad_http_exchange *x, ad_verb verb, const char *name);

#endif
