/* SPDX-License-Identifier: MIT */
/* How each family of routes tells what went wrong. A route's tag is its form; without one it is OpenAI's. Loop thread. */
#ifndef AD_API_ERROR_FORM_H
#define AD_API_ERROR_FORM_H

#include "server/api/api.h"

typedef struct ad_error_form {
    int (*status)(const ad_fault *f);  /* what the family answers instead of f->http; NULL: that itself */
    json_t *(*body)(const ad_fault *f, int status);
    const char *out_of_memory;         /* the body when there is no memory for one */
} ad_error_form;

extern const ad_error_form ad_openai_errors;       /* {"error": {message, type, param, code: string or null}} */
extern const ad_error_form ad_vllm_errors;         /* {"error": {message, type, param, code: status}} and the same fields beside it, as older versions had them; of 401 {"error": "Unauthorized"} */
extern const ad_error_form ad_llama_server_errors; /* {"error": {code: status, message, type}} */
extern const ad_error_form ad_tgi_errors;          /* {"error": message, "error_type"}, LoRAX's too */

/* Of a route; NULL is fine. */
const ad_error_form *ad_error_form_of(const ad_http_route *route);
int ad_error_status(const ad_error_form *form, const ad_fault *f);
json_t *ad_error_json(const ad_error_form *form, const ad_fault *f); /* the caller owns it */

/* Codes of faults that the HTTP layer answers for us. */
extern const char ad_invalid_api_key[], ad_insufficient_permissions[];
/* Codes of faults that only the vLLM form tells apart. */
extern const char ad_invalid_user_input[];

#endif
