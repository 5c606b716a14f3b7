/* SPDX-License-Identifier: MIT */
/* What becomes of an exchange that has ended: counters, the access log, the audit log. Loop thread. */
#ifndef AD_API_ENDED_H
#define AD_API_ENDED_H

#include "server/http/http.h"

/* ad_http_options.on_finish; app is the ad_app. */
void ad_exchange_ended(void *app, const ad_http_exchange *x, int status, uint64_t duration_ns, size_t bytes_out);

#endif
