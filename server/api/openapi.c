/* SPDX-License-Identifier: MIT */
/* GET /openapi.json: every route of the server in OpenAPI 3.1. server/api/openapi/ has the parts, which bundle.py puts together at build time. */
#include <string.h>

#include "server/api/api.h"

void ad_handle_openapi(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_http_reply(x, 200, "application/json", ad_openapi_json, strlen(ad_openapi_json));
}
