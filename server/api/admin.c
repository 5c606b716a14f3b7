/* SPDX-License-Identifier: MIT */
/* POST /v1/admin/merge {"adapter": NAME|null}: answers when the adapter is merged, or at once. Loop thread. */
#include <stdlib.h>

#include "server/api/names.h"
#include "server/merger.h"
#include "server/observe/access.h"

/* The merged adapter's whole name, as far as the sender sees it; else NULL: for it nothing is merged. */
static const char *merged_name(const ad_scope *s, const ad_app *app)
{
    const ad_merge *m = ad_merger_current(app->merger);
    const char *full = m ? ad_adapter_name(ad_merge_adapter(m)) : NULL;
    return full && ad_scope_sees(s, full) ? full : NULL;
}

static void reply_state(ad_http_exchange *x, const ad_app *app)
{
    const ad_scope scope = ad_scope_of(x, app);
    const char *full = merged_name(&scope, app);
    ad_reply_json(x, 200, json_pack("{s:s?, s:s}", "adapter", full ? ad_scope_shown(scope.caller, full) : NULL, "state", full ? "merged" : "unmerged"));
}

static void on_merged(void *user, ad_status st, const ad_err *err)
{
    ad_later *l = user;
    ad_fault f = {0};
    if (ad_later_resume(l, st)) {
        if (st == AD_OK) reply_state(l->x, l->app);
        else if (l->app->draining) ad_fault_set(&f, 503, NULL, NULL, "%s", err->msg), ad_reply_fault(l->x, &f);
        else ad_fault_from(&f, err, "adapter"), ad_reply_fault(l->x, &f);
    }
    free(l);
}

static void start_merge(ad_http_exchange *x, ad_app *app, const char *said)
{
    const ad_scope scope = ad_scope_of(x, app);
    char buf[AD_SCOPE_NAME];
    const char *full = ad_scope_name(&scope, said, buf);
    ad_fault f = {0};
    ad_err err;
    const ad_entry *e = ad_registry_find(app->registry, full);
    ad_later *l = e && e->active ? ad_later_new(x, app, full) : NULL;
    if (!e || !e->active) {
        ad_fault_set(&f, 404, "model_not_found", "adapter", "The adapter `%.150s` does not exist.", full);
        ad_reply_fault(x, &f);
    }
    if (!l || ad_merger_merge(app->merger, e->active, on_merged, l, &err) == AD_OK) return;
    ad_later_resume(l, err.code);
    free(l);
    ad_fault_from(&f, &err, "adapter");
    if (err.code == AD_EBUSY) ad_fault_set(&f, 409, "merge_in_progress", "adapter", "%s",
                                           scope.caller->is_operator ? err.msg : "another adapter is being merged; try again when that is done");
    ad_reply_fault(x, &f);
}

void ad_handle_merge(ad_http_exchange *x, void *arg)
{
    ad_app *app = arg;
    ad_str body = ad_http_body(x);
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL), *name = json_object_get(root, "adapter");
    if (!json_is_object(root)) {
        ad_reply_refusal(x, 400, "invalid_json", NULL, "The body is not a JSON object");
    } else if (json_is_string(name) && app->draining) {
        ad_reply_refusal(x, 503, NULL, NULL, "the server is shutting down");
    } else if (json_is_string(name)) {
        start_merge(x, app, json_string_value(name));
    } else if (json_is_null(name)) {
        const ad_scope scope = ad_scope_of(x, app);
        ad_access_tell(x, "restored");
        if (merged_name(&scope, app)) ad_merger_restore(app->merger);
        reply_state(x, app);
    } else {
        ad_reply_refusal(x, 400, "invalid_value", "adapter", "`adapter` must be the name of an adapter, or null");
    }
    json_decref(root);
}
