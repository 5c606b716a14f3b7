/* SPDX-License-Identifier: MIT */
#include "server/api/error_form.h"

#include <string.h>

#include "server/observe/log.h"

const char ad_invalid_user_input[] = "invalid_user_input", ad_invalid_api_key[] = "invalid_api_key", ad_insufficient_permissions[] = "insufficient_permissions";

static bool has_code(const ad_fault *f, const char *code)
{
    return f->code && !strcmp(f->code, code);
}

/* ---- OpenAI ---- */

static const char *openai_type(int http)
{
    switch (http) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 429: return "rate_limit_error";
    case 503: return "service_unavailable";
    default: return http >= 500 ? "server_error" : "invalid_request_error";
    }
}

static json_t *openai_body(const ad_fault *f, int status)
{
    return json_pack("{s:{s:o, s:s, s:s?, s:s?}}", "error", "message", ad_json_text(f->message), "type", openai_type(status), "param", *f->param ? f->param : NULL, "code", f->code);
}

const ad_error_form ad_openai_errors = {
    .body = openai_body, .out_of_memory = "{\"error\":{\"message\":\"out of memory\",\"type\":\"service_unavailable\",\"param\":null,\"code\":null}}",
};

/* ---- vLLM ---- */

/* Controllers try again when a body has these words, which are also the phrase of 503. */
static const char *vllm_type(const ad_fault *f, int status)
{
    if (has_code(f, ad_invalid_user_input)) return "InvalidUserInput";
    switch (status) {
    case 400: return "Bad Request";
    case 403: return "Forbidden";
    case 404: return "NotFoundError";
    case 429: return "Too Many Requests";
    case 503: return "Service Unavailable";
    default: return status >= 500 ? "InternalServerError" : "BadRequestError";
    }
}

static json_t *vllm_body(const ad_fault *f, int status)
{
    if (status == 401) return json_pack("{s:s}", "error", "Unauthorized");
    json_t *v = json_pack("{s:o, s:s, s:s?, s:i}", "message", ad_json_text(f->message), "type", vllm_type(f, status), "param", *f->param ? f->param : NULL, "code", status);
    json_t *nested = json_copy(v);
    json_object_set_new(v, "object", json_string("error"));
    json_object_set_new(v, "error", nested);
    return v;
}

/* Its LoRA routes know 400 for what is the user's mistake, in the files, too. */
static int vllm_status(const ad_fault *f)
{
    return f->http == 409 || f->http == 413 || f->http == 422 ? 400 : f->http;
}

const ad_error_form ad_vllm_errors = {
    .status = vllm_status, .body = vllm_body,
    .out_of_memory = "{\"object\":\"error\",\"message\":\"out of memory\",\"type\":\"Service Unavailable\",\"param\":null,\"code\":503,"
                     "\"error\":{\"message\":\"out of memory\",\"type\":\"Service Unavailable\",\"param\":null,\"code\":503}}",
};

/* ---- llama-server ---- */

static const char *llama_server_type(const ad_fault *f, int status)
{
    if (has_code(f, "context_length_exceeded")) return "exceed_context_size_error";
    switch (status) {
    case 401: return "authentication_error";
    case 403: return "permission_error";
    case 404: return "not_found_error";
    case 501: return "not_supported_error";
    case 503: return "unavailable_error";
    default: return status >= 500 ? "server_error" : "invalid_request_error";
    }
}

static json_t *llama_server_body(const ad_fault *f, int status)
{
    return json_pack("{s:{s:i, s:o, s:s}}", "error", "code", status, "message", ad_json_text(f->message), "type", llama_server_type(f, status));
}

const ad_error_form ad_llama_server_errors = {
    .body = llama_server_body, .out_of_memory = "{\"error\":{\"code\":503,\"message\":\"out of memory\",\"type\":\"unavailable_error\"}}",
};

/* ---- TGI, LoRAX ---- */

/* A full queue is 429; an adapter that cannot be used, or a generation that broke, 424; any other mistake in the request 422. */
static int tgi_status(const ad_fault *f)
{
    if (has_code(f, "queue_full")) return 429;
    if (has_code(f, "adapter_unusable") || f->http == 500 || f->http == 422) return 424;
    return f->http == 400 ? 422 : f->http;
}

static const char *tgi_type(int status)
{
    switch (status) {
    case 401:
    case 403: return "authentication";
    case 404: return "not_found";
    case 424: return "generation";
    case 429: return "overloaded";
    default: return status >= 500 ? "unavailable" : "validation";
    }
}

static json_t *tgi_body(const ad_fault *f, int status)
{
    return json_pack("{s:o, s:s}", "error", ad_json_text(f->message), "error_type", tgi_type(status));
}

const ad_error_form ad_tgi_errors = {
    .status = tgi_status, .body = tgi_body, .out_of_memory = "{\"error\":\"out of memory\",\"error_type\":\"unavailable\"}",
};

/* ---- */

const ad_error_form *ad_error_form_of(const ad_http_route *route)
{
    return route && route->tag ? route->tag : &ad_openai_errors;
}

int ad_error_status(const ad_error_form *form, const ad_fault *f)
{
    return form->status ? form->status(f) : f->http;
}

json_t *ad_error_json(const ad_error_form *form, const ad_fault *f)
{
    return form->body(f, ad_error_status(form, f));
}
