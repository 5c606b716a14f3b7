/* SPDX-License-Identifier: MIT */
/* Rows of the audit log: who changed what. Each is a row of the store and a line of the log, and is never touched again. Loop thread. */
#ifndef AD_TENANCY_AUDIT_H
#define AD_TENANCY_AUDIT_H

#include <jansson.h>

#include "server/store_thread.h"

/* What changes something beside requests: the peer of such rows. */
#define AD_BY_COMMAND_LINE "command line"
#define AD_BY_SIGNAL "signal"
#define AD_BY_WATCHER "watch-dir"
#define AD_BY_DAEMON "daemon" /* by itself */

/* A row of now that no request made; status as HTTP would say it; object and detail may be NULL. The caller owns its strings; of what there was no memory for, it has NULL. */
ad_stored_audit ad_audit_row(const char *by, const char *action, const char *object, int status, const char *detail);
json_t *ad_audit_json(const ad_stored_audit *row); /* without seq; the caller owns it. NULL: out of memory */
void ad_audit_say(const ad_stored_audit *row);     /* its line of the log, when its store_change goes with others */

/* Says it and writes it; takes what the row points to. What the store does not take, a full disk's, is kept in memory and written with ad_audit_flush. */
void ad_audit_add(ad_store_thread *store, ad_stored_audit *row);
void ad_audit_flush(ad_store_thread *store); /* every second, and before the store closes */
void ad_audit_end(void);                     /* when it is closed */
/* The same of ad_audit_row's. */
void ad_audit_tell(ad_store_thread *store, const char *by, const char *action, const char *object, int status, const char *detail);

int64_t ad_audit_now_ms(void);

#endif
