/* SPDX-License-Identifier: MIT */
/* POST /v1/admin/merge {"adapter": NAME|null}: answers when the adapter is merged, or at once. Loop thread. */
#include <stdlib.h>
#include <string.h>

#include "server/api/api.h"
#include "server/merger.h"

typedef struct {
    ad_http_exchange *x; /* NULL: the client left */
    ad_app *app;
} waiter;

static void reply_state(ad_http_exchange *x, const ad_app *app)
{
    const ad_merge *m = ad_merger_current(app->merger);
    ad_reply_json(x, 200, json_pack("{s:s?, s:s}", "adapter", m ? ad_adapter_name(ad_merge_adapter(m)) : NULL, "state", m ? "merged" : "unmerged"));
}

static void on_merged(void *user, ad_status st, const ad_err *err)
{
    waiter *w = user;
    ad_fault f = {0};
    if (w->x) {
        ad_http_on_abort(w->x, NULL, NULL);
        if (st == AD_OK) reply_state(w->x, w->app);
        else ad_fault_from(&f, err, "adapter"), ad_reply_fault(w->x, &f);
    }
    free(w);
}

static void on_client_gone(ad_http_exchange *x, void *user)
{
    (void)x;
    ((waiter *)user)->x = NULL;
}

static bool start_merge(ad_http_exchange *x, ad_app *app, const char *name, ad_fault *f)
{
    ad_err err;
    ad_adapter *a = ad_registry_find(app->registry, name);
    if (!a) return ad_fault_set(f, 404, "model_not_found", "adapter", "The adapter `%.150s` does not exist.", name);
    waiter *w = ad_calloc(1, sizeof *w);
    if (!w) return ad_fault_set(f, 503, NULL, NULL, "out of memory");
    *w = (waiter){x, app};
    ad_status st = ad_merger_merge(app->merger, a, on_merged, w, &err);
    if (st == AD_OK) {
        ad_http_on_abort(x, on_client_gone, w);
        return true;
    }
    free(w);
    return st == AD_EBUSY ? ad_fault_set(f, 409, "merge_in_progress", "adapter", "%s", err.msg) : ad_fault_from(f, &err, "adapter");
}

void ad_handle_merge(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    ad_fault f = {0};
    json_t *root = json_loadb(body.ptr, body.len, JSON_REJECT_DUPLICATES, NULL), *name = json_object_get(root, "adapter");
    bool good = false;
    if (!json_is_object(root)) ad_fault_set(&f, 400, "invalid_json", NULL, "The body is not a JSON object");
    else if (!json_is_string(name) && !json_is_null(name)) ad_fault_set(&f, 400, "invalid_value", "adapter", "`adapter` must be the name of an adapter, or null");
    else if (json_is_string(name)) good = start_merge(x, app, json_string_value(name), &f);
    else {
        ad_merger_restore(app->merger);
        reply_state(x, app);
        good = true;
    }
    json_decref(root);
    if (!good) ad_reply_fault(x, &f);
}
