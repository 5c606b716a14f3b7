/* SPDX-License-Identifier: MIT */
/* GET and PUT /v1/admin/log: what is logged, from now on. Loop thread. */
#include "server/api/api.h"
#include "server/observe/access.h"
#include "server/observe/log.h"

void ad_handle_log(ad_http_exchange *x, void *app)
{
    (void)app;
    ad_reply_json(x, 200, json_pack("{s:s}", "level", ad_log_level_name(ad_log_get_level())));
}

void ad_handle_put_log(ad_http_exchange *x, void *app)
{
    ad_str body = ad_http_body(x);
    if (!ad_require_json(x)) return;
    json_t *root = ad_read_json(body.ptr, body.len, 0, NULL);
    const char *name = json_string_value(json_object_get(root, "level"));
    ad_log_level level;
    if (!json_is_object(root)) {
        ad_reply_refusal(x, 400, "invalid_json", NULL, "The body is not a JSON object");
    } else if (!name || !ad_log_parse_level(name, &level)) {
        ad_reply_refusal(x, 400, "invalid_value", "level", "`level` must be one of error, warn, info and debug");
    } else {
        ad_access_tell(x, "%s to %s", ad_log_level_name(ad_log_get_level()), name);
        ad_log_set_level(level);
        ad_handle_log(x, app);
    }
    json_decref(root);
}
