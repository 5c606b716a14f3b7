/* SPDX-License-Identifier: MIT */
/* llama-server's routes beside /completion: adapters by id, what is running. An id is one adapter's from its registration on, and no other's while the server
 * runs. Loop thread. */
#include "server/api/llama_server.h"

#include <string.h>

#include "server/api/chat_prompt.h"
#include "server/api/generation.h"
#include "server/api/names.h"
#include "server/observe/access.h"

/* ---- /lora-adapters ---- */

static double default_scale(const ad_tenant *t, int id)
{
    for (int i = 0; i < t->n_defaults; i++)
        if (t->defaults[i].id == id) return ad_plain_float(t->defaults[i].scale);
    return 0;
}

/* `path` is the name: where its files are is nobody's business. */
void ad_handle_lora_adapters(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_scope scope = ad_scope_of(x, app);
    json_t *list = json_array();
    for (size_t i = 0; i < ad_registry_adapters(app->registry); i++) {
        const ad_entry *e = ad_registry_at_id(app->registry, i);
        if (ad_is_model(e) && ad_scope_sees(&scope, e->name))
            json_array_append_new(list, json_pack("{s:i, s:s, s:f, s:s, s:s}", "id", e->id, "path", ad_scope_shown(scope.caller, e->name),
                                                  "scale", default_scale(scope.caller->tenant, e->id),
                                                  "task_name", "", "prompt_prefix", ""));
    }
    ad_reply_json(x, 200, list);
}

/* The scales other than 0, in order. */
static bool read_defaults(const ad_scope *scope, const json_t *body, ad_default_adapter *out, int *n, ad_fault *f)
{
    if (!json_is_array(body)) return ad_fault_set(f, 400, NULL, NULL, "Request body must be an array");
    if (!ad_read_lora(body, "body", f)) return false;
    for (size_t i = 0; i < json_array_size(body); i++) {
        const json_t *v = json_array_get(body, i);
        ad_default_adapter d = {(int)json_integer_value(json_object_get(v, "id")), (float)json_number_value(json_object_get(v, "scale"))};
        const ad_entry *e = ad_registry_by_id(scope->registry, d.id);
        if (!e || !ad_scope_sees(scope, e->name)) return ad_fault_set(f, 400, "invalid_value", "id", "There is no adapter with id %d: GET /lora-adapters lists them", d.id);
        for (int k = 0; k < *n; k++)
            if (out[k].id == d.id) return ad_fault_set(f, 400, "invalid_value", "id", "The adapter with id %d is named twice", d.id);
        if (d.scale == 0) continue;
        if (*n == AD_MAX_MIX) return ad_fault_set(f, 400, "invalid_value", "scale", "More than %d adapters together", AD_MAX_MIX);
        out[(*n)++] = d;
    }
    return true;
}

/* For the tenant's requests to come; those under way keep theirs. */
void ad_handle_set_lora_adapters(ad_http_exchange *x, void *arg)
{
    const ad_scope scope = ad_scope_of(x, arg);
    ad_tenant *t = scope.caller->tenant;
    ad_str text = ad_http_body(x);
    ad_default_adapter defaults[AD_MAX_MIX];
    ad_fault f = {0};
    int n = 0;
    if (!ad_require_json(x)) return;
    json_t *body = ad_read_json(text.ptr, text.len, 0, NULL);
    if (read_defaults(&scope, body, defaults, &n, &f)) {
        memcpy(t->defaults, defaults, (size_t)n * sizeof *defaults);
        t->n_defaults = n;
        ad_access_tell(x, "%d adapters", n);
        ad_reply_json(x, 200, json_pack("{s:b}", "success", 1));
    } else {
        ad_reply_fault(x, &f);
    }
    json_decref(body);
}

/* ---- what is running ---- */

static json_t *eos_json(const ad_tokenizer *tk)
{
    int n;
    const int32_t *eogs = ad_tokenizer_eogs(tk, &n);
    return n ? ad_piece_json(tk, eogs[0]) : json_string("");
}

void ad_handle_props(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    const ad_tokenizer *tk = ad_model_tokenizer(app->model);
    const ad_chat_template *chat = app->named_template ? app->named_template : ad_model_chat_template(app->model);
    int32_t bos = ad_tokenizer_bos(tk);
    ad_reply_json(x, 200, json_pack("{s:{s:o, s:i}, s:i, s:s, s:s, s:{s:b, s:b}, s:o, s:o, s:s, s:s, s:b}", "default_generation_settings",
                                    "params", ad_llama_settings(&ad_llama_defaults), "n_ctx",
                                    ad_worker_context(app->worker), "total_slots", app->config->max_running, "model_alias", app->served_name, "model_path", app->served_name, "modalities",
                                    "vision", 0, "audio", 0, "bos_token", bos >= 0 ? ad_piece_json(tk, bos) : json_string(""), "eos_token", eos_json(tk), "chat_template",
                                    chat ? ad_chat_template_source(chat) : "", "build_info", "adapterd " AD_VERSION,
                                    "is_sleeping", 0));
}

/* Sequences have no fixed place here: as many slots are busy as sequences run. What they say is their tenants' business. */
void ad_handle_slots(ad_http_exchange *x, void *arg)
{
    const ad_app *app = arg;
    int running = atomic_load(&ad_worker_get_stats(app->worker)->running);
    char flag[8];
    if (ad_http_query_value(x, "fail_on_no_slot", flag, sizeof flag) == 1 && running >= app->config->max_running) {
        ad_reply_refusal(x, 503, NULL, NULL, "no slot available");
        return;
    }
    json_t *list = json_array();
    for (int i = 0; i < app->config->max_running; i++)
        json_array_append_new(list, json_pack("{s:i, s:i, s:b, s:b}", "id", i, "n_ctx", ad_worker_context(app->worker), "speculative", 0, "is_processing", i < running));
    ad_reply_json(x, 200, list);
}

/* ---- /apply-template ---- */

static bool read_template_target(const ad_reader *rd)
{
    return ad_read_model(rd, false);
}

static bool read_template(const ad_reader *rd)
{
    ad_chat *c = ad_chat_new();
    ad_buf *b = ad_request_new_text(rd);
    bool good = c && b ? ad_chat_read_messages(rd, c) && ad_chat_read_tools(rd, c) && ad_chat_read_template_options(rd, c) && ad_chat_render_prompt(rd, c, "messages", b, NULL)
                       : ad_fault_no_memory(rd->f);
    ad_chat_free(c);
    return good;
}

static json_t *template_reply(ad_generation *g)
{
    json_t *v = json_pack("{s:o}", "prompt", ad_buf_json(g->rq.extra));
    if (v) ad_lease_write_receipt(&g->lease, v);
    return v;
}

/* The text that a conversation becomes, by the template of the adapter that `model` names or the model's own. */
const ad_dialect ad_apply_template = {.id_prefix = "", .read_target = read_template_target, .read = read_template, .reply = template_reply, .templated = true};

void ad_handle_apply_template(ad_http_exchange *x, void *app) { ad_generation_start(x, app, &ad_apply_template); }
