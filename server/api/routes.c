/* SPDX-License-Identifier: MIT */
/* The route table and metrics. Loop thread. */
#include <string.h>

#include "server/api/error_form.h"
#include "server/observe/expose.h"
#include "server/tenancy/tenancy.h"

static void reply_text(ad_http_exchange *x, int status, const char *text)
{
    ad_http_reply(x, status, "text/plain; charset=utf-8", text, strlen(text));
}

static void metrics(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    ad_buf b = {0};
    bool open_metrics = ad_expose_wants_open_metrics(ad_http_header(x, "accept"));
    ad_metrics_write(app->metrics, app, open_metrics, &b);
    if (b.failed) reply_text(x, 503, "out of memory\n");
    else ad_http_reply(x, 200, ad_expose_content_type(open_metrics), b.data, b.len);
    ad_buf_deinit(&b);
}

static const ad_http_route routes[] = {
    {"POST", "/v1/completions", ad_handle_completions, "/v1/completions", false, NULL, AD_VERB_INFER},
    {"POST", "/v1/chat/completions", ad_handle_chat_completions, "/v1/chat/completions", false, NULL, AD_VERB_INFER},
    {"POST", "/v1/responses", ad_handle_responses, "/v1/responses", false, NULL, AD_VERB_INFER},
    {"POST", "/v1/embeddings", ad_handle_embeddings, "/v1/embeddings", false, NULL, AD_VERB_INFER},
    {"POST", "/embedding", ad_handle_llama_embedding, "/embedding", false, &ad_llama_server_errors, AD_VERB_INFER},
    {"POST", "/embeddings", ad_handle_llama_embedding, "/embeddings", false, &ad_llama_server_errors, AD_VERB_INFER},
    {"POST", "/tokenize", ad_handle_tokenize, "/tokenize", false, &ad_vllm_errors, AD_VERB_INFER},
    {"POST", "/v1/tokenize", ad_handle_tokenize, "/v1/tokenize", false, &ad_vllm_errors, AD_VERB_INFER},
    {"POST", "/detokenize", ad_handle_detokenize, "/detokenize", false, &ad_vllm_errors, AD_VERB_INFER},
    {"POST", "/v1/detokenize", ad_handle_detokenize, "/v1/detokenize", false, &ad_vllm_errors, AD_VERB_INFER},
    {"POST", "/v1/admin/merge", ad_handle_merge, "/v1/admin/merge", false, NULL, AD_VERB_MERGE},
    {"GET", "/v1/admin/status", ad_handle_status, "/v1/admin/status", false, NULL, AD_VERB_ADMIN},
    {"POST", "/v1/admin/drain", ad_handle_drain, "/v1/admin/drain", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/tenants", ad_handle_tenants, "/v1/admin/tenants", false, NULL, AD_VERB_ADMIN},
    {"POST", "/v1/admin/tenants", ad_handle_post_tenant, "/v1/admin/tenants", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/tenants/*", ad_handle_tenant, "/v1/admin/tenants/{name}", false, NULL, AD_VERB_ADMIN},
    {"PATCH", "/v1/admin/tenants/*", ad_handle_patch_tenant, "/v1/admin/tenants/{name}", false, NULL, AD_VERB_ADMIN},
    {"DELETE", "/v1/admin/tenants/*", ad_handle_delete_tenant, "/v1/admin/tenants/{name}", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/keys", ad_handle_keys, "/v1/admin/keys", false, NULL, AD_VERB_ADMIN},
    {"POST", "/v1/admin/keys", ad_handle_post_key, "/v1/admin/keys", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/keys/*", ad_handle_key, "/v1/admin/keys/{id}", false, NULL, AD_VERB_ADMIN},
    {"PATCH", "/v1/admin/keys/*", ad_handle_patch_key, "/v1/admin/keys/{id}", false, NULL, AD_VERB_ADMIN},
    {"DELETE", "/v1/admin/keys/*", ad_handle_delete_key, "/v1/admin/keys/{id}", false, NULL, AD_VERB_ADMIN},
    {"POST", "/v1/admin/keys/*", ad_handle_key_action, "/v1/admin/keys/{id}/rotate", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/audit", ad_handle_audit, "/v1/admin/audit", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/log", ad_handle_log, "/v1/admin/log", false, NULL, AD_VERB_ADMIN},
    {"PUT", "/v1/admin/log", ad_handle_put_log, "/v1/admin/log", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/limits", ad_handle_limits, "/v1/admin/limits", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/limits/tenants/*", ad_handle_limits_of, "/v1/admin/limits/tenants/{name}", false, NULL, AD_VERB_ADMIN},
    {"PUT", "/v1/admin/limits/tenants/*", ad_handle_put_limits, "/v1/admin/limits/tenants/{name}", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/limits/keys/*", ad_handle_limits_of, "/v1/admin/limits/keys/{id}", false, NULL, AD_VERB_ADMIN},
    {"PUT", "/v1/admin/limits/keys/*", ad_handle_put_limits, "/v1/admin/limits/keys/{id}", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/admin/usage", ad_handle_usage_rows, "/v1/admin/usage", false, NULL, AD_VERB_ADMIN},
    {"GET", "/v1/organization/usage/completions", ad_handle_usage, "/v1/organization/usage/completions", false, NULL, AD_VERB_LIST},
    {"GET", "/v1/adapters", ad_handle_adapters, "/v1/adapters", false, NULL, AD_VERB_LIST},
    {"POST", "/v1/adapters", ad_handle_post_adapter, "/v1/adapters", true, NULL, AD_VERB_UPLOAD},
    {"GET", "/v1/adapters/events", ad_handle_events, "/v1/adapters/events", false, NULL, AD_VERB_LIST},
    {"GET", "/v1/adapters/*", ad_handle_adapter, "/v1/adapters/{name}", false, NULL, AD_VERB_LIST},
    {"POST", "/v1/adapters/*/activate", ad_handle_adapter_action, "/v1/adapters/{name}/{action}", true, NULL, AD_VERB_ACTIVATE},
    {"POST", "/v1/adapters/*/rollback", ad_handle_adapter_action, "/v1/adapters/{name}/{action}", true, NULL, AD_VERB_ACTIVATE},
    {"POST", "/v1/adapters/*/verify", ad_handle_adapter_action, "/v1/adapters/{name}/{action}", true, NULL, AD_VERB_LIST},
    {"POST", "/v1/adapters/*", ad_handle_adapter_action, "/v1/adapters/{name}/{action}", true, NULL, AD_VERB_UPLOAD},
    {"PATCH", "/v1/adapters/*", ad_handle_patch_adapter, "/v1/adapters/{name}", false, NULL, AD_VERB_ACTIVATE},
    {"DELETE", "/v1/adapters/*", ad_handle_delete_adapter, "/v1/adapters/{name}", false, NULL, AD_VERB_DELETE},
    {"GET", "/v1/aliases", ad_handle_aliases, "/v1/aliases", false, NULL, AD_VERB_LIST},
    {"GET", "/v1/aliases/*", ad_handle_alias, "/v1/aliases/{name}", false, NULL, AD_VERB_LIST},
    {"PUT", "/v1/aliases/*", ad_handle_put_alias, "/v1/aliases/{name}", false, NULL, AD_VERB_ACTIVATE},
    {"DELETE", "/v1/aliases/*", ad_handle_delete_alias, "/v1/aliases/{name}", false, NULL, AD_VERB_DELETE},
    {"GET", "/v1/models", ad_handle_models, "/v1/models", false, NULL, AD_VERB_LIST},
    {"GET", "/v1/models/*", ad_handle_model, "/v1/models/{id}", false, NULL, AD_VERB_LIST},
    {"DELETE", "/v1/models/*", ad_handle_delete_model, "/v1/models/{id}", false, NULL, AD_VERB_DELETE},
    {"POST", "/v1/load_lora_adapter", ad_handle_load_lora, "/v1/load_lora_adapter", false, &ad_vllm_errors, AD_VERB_UPLOAD},
    {"POST", "/v1/unload_lora_adapter", ad_handle_unload_lora, "/v1/unload_lora_adapter", false, &ad_vllm_errors, AD_VERB_DELETE},
    {"GET", "/version", ad_handle_version, "/version", false, &ad_vllm_errors, AD_VERB_OPEN},
    {"GET", "/ping", ad_handle_ping, "/ping", false, &ad_vllm_errors, AD_VERB_OPEN},
    {"POST", "/ping", ad_handle_ping, "/ping", false, &ad_vllm_errors, AD_VERB_OPEN},
    {"GET", "/load", ad_handle_load, "/load", false, &ad_vllm_errors, AD_VERB_LIST},
    {"POST", "/completion", ad_handle_llama_completion, "/completion", false, &ad_llama_server_errors, AD_VERB_INFER},
    {"POST", "/completions", ad_handle_llama_completion, "/completions", false, &ad_llama_server_errors, AD_VERB_INFER},
    {"GET", "/lora-adapters", ad_handle_lora_adapters, "/lora-adapters", false, &ad_llama_server_errors, AD_VERB_LIST},
    {"POST", "/lora-adapters", ad_handle_set_lora_adapters, "/lora-adapters", false, &ad_llama_server_errors, AD_VERB_ACTIVATE},
    {"GET", "/props", ad_handle_props, "/props", false, &ad_llama_server_errors, AD_VERB_LIST},
    {"POST", "/apply-template", ad_handle_apply_template, "/apply-template", false, &ad_llama_server_errors, AD_VERB_INFER},
    {"GET", "/slots", ad_handle_slots, "/slots", false, &ad_llama_server_errors, AD_VERB_LIST},
    {"GET", "/models", ad_handle_models, "/models", false, &ad_llama_server_errors, AD_VERB_LIST},
    {"POST", "/generate", ad_handle_generate, "/generate", false, &ad_tgi_errors, AD_VERB_INFER},
    {"POST", "/generate_stream", ad_handle_generate_stream, "/generate_stream", false, &ad_tgi_errors, AD_VERB_INFER},
    {"POST", "/", ad_handle_generate_compat, "/", false, &ad_tgi_errors, AD_VERB_INFER},
    {"GET", "/", ad_handle_health, "/", false, &ad_tgi_errors, AD_VERB_OPEN},
    {"GET", "/startup", ad_handle_health, "/startup", false, &ad_tgi_errors, AD_VERB_OPEN},
    {"GET", "/info", ad_handle_info, "/info", false, &ad_tgi_errors, AD_VERB_LIST},
    {"GET", "/v1/health", ad_handle_health, "/v1/health", false, &ad_llama_server_errors, AD_VERB_OPEN},
    {"GET", "/health", ad_handle_health, "/health", false, NULL, AD_VERB_OPEN},
    {"GET", "/livez", ad_handle_livez, "/livez", false, NULL, AD_VERB_OPEN},
    {"GET", "/readyz", ad_handle_readyz, "/readyz", false, NULL, AD_VERB_OPEN},
    {"GET", "/metrics", metrics, "/metrics", false, NULL, AD_VERB_METRICS},
    {"GET", "/openapi.json", ad_handle_openapi, "/openapi.json", false, NULL, AD_VERB_OPEN},
};

const ad_http_route *ad_api_routes(int *n)
{
    *n = sizeof routes / sizeof *routes;
    return routes;
}
