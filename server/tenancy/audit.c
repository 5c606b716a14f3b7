/* SPDX-License-Identifier: MIT */
#include "server/tenancy/audit.h"

#include <string.h>
#include <time.h>

#include "core/base/mem.h"
#include "server/observe/log.h"
#include "server/tenancy/tenancy.h"

int64_t ad_audit_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static char *copy(const char *s) { return s ? strdup(s) : NULL; }

ad_stored_audit ad_audit_row(const char *by, const char *action, const char *object, int status, const char *detail)
{
    return (ad_stored_audit){.time_ms = ad_audit_now_ms(), .tenant = AD_SHARED_TENANT, .status = status, .peer = copy(by), .action = copy(action), .object = copy(object), .detail = copy(detail)};
}

json_t *ad_audit_json(const ad_stored_audit *r)
{
    return json_pack("{s:I, s:s, s:s, s:o*, s:o*, s:s, s:o*, s:i, s:o*}", "time", (json_int_t)(r->time_ms / 1000), "tenant", r->tenant, "key", r->key,
                     "peer", r->peer ? ad_json_text(r->peer) : NULL,
                     "request_id", r->request_id ? ad_json_text(r->request_id) : NULL, "action", r->action, "object", r->object ? ad_json_text(r->object) : NULL, "status", r->status,
                     "detail", r->detail ? ad_json_text(r->detail) : NULL);
}

void ad_audit_say(const ad_stored_audit *row) { ad_log_event(AD_LOG_INFO, "audit", ad_audit_json(row)); }

static void on_written(void *user, ad_status st, const ad_err *err)
{
    (void)user;
    if (st != AD_OK) ad_log(AD_LOG_ERROR, "audit: a row could not be written: %s", err->msg);
}

void ad_audit_add(ad_store_thread *store, ad_stored_audit *row)
{
    ad_err err;
    ad_store_change *c = row->action ? ad_calloc(1, sizeof *c) : NULL;
    if (row->action) ad_audit_say(row);
    if (!c) {
        ad_stored_audit_deinit(row);
        on_written(NULL, ad_fail(&err, AD_ENOMEM, "out of memory"), &err);
        return;
    }
    *c = (ad_store_change){.kind = AD_ADD_AUDIT, .audit = *row};
    if (ad_store_thread_submit(store, c, 1, on_written, NULL, &err) != AD_OK) on_written(NULL, err.code, &err);
}

void ad_audit_tell(ad_store_thread *store, const char *by, const char *action, const char *object, int status, const char *detail)
{
    ad_stored_audit row = ad_audit_row(by, action, object, status, detail);
    ad_audit_add(store, &row);
}
