/* SPDX-License-Identifier: MIT */
#include "server/tenancy/audit.h"

#include <stdlib.h>
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

/* ---- on their way to the store, which may have no room for them for a while ---- */

enum { MOST_KEPT = 20000 }; /* some hundred bytes each */

/* What is not written yet, nor on its way. */
static struct {
    ad_store_change *rows;    /* [n], of kind AD_ADD_AUDIT */
    size_t n, cap;
    bool failing;
    int64_t added;            /* of all rows; their seq until they have the store's */
} kept;

typedef struct {
    ad_store_thread *store;
    ad_store_change *rows;    /* the store's to free */
    size_t n;
} batch;

static void note_failure(const ad_err *err)
{
    if (!kept.failing) ad_log(AD_LOG_ERROR, "audit: rows cannot be written, and are kept until they can: %s", err->msg);
    kept.failing = true;
}

/* Takes what the row points to. */
static void keep(ad_stored_audit *row)
{
    if (kept.n < MOST_KEPT && ad_grow(&kept.rows, &kept.cap, kept.n + 1, sizeof *kept.rows) == AD_OK) {
        kept.rows[kept.n++] = (ad_store_change){.kind = AD_ADD_AUDIT, .audit = *row};
        return;
    }
    ad_stored_audit_deinit(row);
    ad_log(AD_LOG_ERROR, "audit: a row is lost: %zu wait to be written", kept.n);
}

/* Of a batch that was not written: later ones may be there already. */
static void keep_again(batch *b)
{
    for (size_t i = 0; i < b->n; i++) {
        keep(&b->rows[i].audit);
        b->rows[i].audit = (ad_stored_audit){0};
    }
}

static int by_age(const void *a, const void *b)
{
    int64_t x = ((const ad_store_change *)a)->audit.seq, y = ((const ad_store_change *)b)->audit.seq;
    return (x > y) - (x < y);
}

static void on_written(void *user, ad_status st, const ad_err *err)
{
    batch *b = user;
    if (st != AD_OK) {
        note_failure(err);
        keep_again(b);
    } else if (kept.failing) {
        kept.failing = false;
        ad_log(AD_LOG_INFO, "audit: rows are written again");
        ad_audit_flush(b->store);
    }
    free(b);
}

void ad_audit_flush(ad_store_thread *store)
{
    ad_err err;
    if (!kept.n) return;
    batch *b = ad_store_thread_has_room(store) ? ad_calloc(1, sizeof *b) : NULL;
    if (!b) {
        ad_fail(&err, AD_EBUSY, "too many changes wait for the disk");
        note_failure(&err);
        return;
    }
    if (kept.failing) qsort(kept.rows, kept.n, sizeof *kept.rows, by_age);
    *b = (batch){store, kept.rows, kept.n};
    kept.rows = NULL;
    kept.n = kept.cap = 0;
    if (ad_store_thread_submit(store, b->rows, (int)b->n, on_written, b, &err) == AD_OK) return;
    note_failure(&err); /* out of memory, and they went with it */
    free(b);
}

void ad_audit_end(void)
{
    if (kept.n) ad_log(AD_LOG_ERROR, "audit: %zu rows could not be written, and are lost", kept.n);
    for (size_t i = 0; i < kept.n; i++) ad_store_change_deinit(&kept.rows[i]);
    free(kept.rows);
    memset(&kept, 0, sizeof kept);
}

void ad_audit_add(ad_store_thread *store, ad_stored_audit *row)
{
    if (!row->action) {
        ad_stored_audit_deinit(row);
        ad_log(AD_LOG_ERROR, "audit: a row is lost: out of memory");
        return;
    }
    ad_audit_say(row);
    row->seq = ++kept.added;
    keep(row);
    if (!kept.failing) ad_audit_flush(store); /* else now and then */
}

void ad_audit_tell(ad_store_thread *store, const char *by, const char *action, const char *object, int status, const char *detail)
{
    ad_stored_audit row = ad_audit_row(by, action, object, status, detail);
    ad_audit_add(store, &row);
}
