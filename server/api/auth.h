/* SPDX-License-Identifier: MIT */
/* Who sent a request, and whether it may do what its route does. Loop thread. */
#ifndef AD_API_AUTH_H
#define AD_API_AUTH_H

#include "server/api/api.h"
#include "server/tenancy/tenancy.h"

/* ad_http_options.admit. */
int ad_auth_admit(void *app, ad_http_exchange *x, const char **why);
/* Who sent it; never NULL in a handler. Borrowed until the exchange ends. */
const ad_caller *ad_caller_of(const ad_http_exchange *x);

#endif
