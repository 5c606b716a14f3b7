/* SPDX-License-Identifier: MIT */
/* A counter of the kernel's that the loop polls. */
#include "server/wakeup.h"

#include <assert.h>
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void on_poll(uv_poll_t *poll, int status, int events)
{
    ad_wakeup *w = (ad_wakeup *)poll;
    uint64_t count;
    if (read(w->fd, &count, sizeof count) < 0) {} /* it was zero: nothing is lost by a call too many */
    w->woken(w); /* may close it */
}

ad_status ad_wakeup_init(ad_wakeup *w, uv_loop_t *loop, void (*woken)(ad_wakeup *w), ad_err *err)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (fd < 0) return ad_fail(err, AD_EIO, "cannot make an event descriptor: %s", strerror(errno));
    int rc = uv_poll_init(loop, &w->poll, fd);
    if (rc != 0) {
        close(fd);
        return ad_fail(err, AD_EIO, "the loop cannot poll an event descriptor: %s", uv_strerror(rc));
    }
    w->woken = woken;
    w->fd = fd;
    uv_poll_start(&w->poll, UV_READABLE, on_poll);
    return AD_OK;
}

void ad_wakeup_send(const ad_wakeup *w)
{
    uint64_t one = 1;
    assert(w->fd >= 0); /* its number may be another file's by now */
    if (write(w->fd, &one, sizeof one) < 0) {} /* it is at its most, and the loop is awake */
}

void ad_wakeup_close(ad_wakeup *w, uv_close_cb closed)
{
    uv_close((uv_handle_t *)&w->poll, closed);
    close(w->fd); /* the loop has let go of it */
    w->fd = -1;
}
