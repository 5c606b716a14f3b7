/* SPDX-License-Identifier: MIT */
/* How a thread wakes the loop: at least one call there for any number of sends. In place of uv_async_t, on which the loop spins while the thread it has just
 * taken the CPU from is inside of uv_async_send (libuv before 1.45), which lasts when that thread is one of low priority. Loop thread, unless said otherwise. */
#ifndef AD_SERVER_WAKEUP_H
#define AD_SERVER_WAKEUP_H

#include <uv.h>

#include "core/base/status.h"

typedef struct ad_wakeup ad_wakeup;
struct ad_wakeup {
    uv_poll_t poll; /* first; data is the owner's; keeps the loop alive */
    void (*woken)(ad_wakeup *w);
    int fd;
};

AD_MUSTUSE ad_status ad_wakeup_init(ad_wakeup *w, uv_loop_t *loop, void (*woken)(ad_wakeup *w), ad_err *err);
void ad_wakeup_send(const ad_wakeup *w); /* any thread, until the close */
/* Also before the loop runs. `closed` may be NULL. */
void ad_wakeup_close(ad_wakeup *w, uv_close_cb closed);

#endif
