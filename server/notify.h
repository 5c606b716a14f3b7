/* SPDX-License-Identifier: MIT */
/* What a service manager hears from us, and hands us: systemd's protocol of notifications, watchdog and passed sockets. */
#ifndef AD_SERVER_NOTIFY_H
#define AD_SERVER_NOTIFY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "core/base/status.h"

/* Sends lines such as "READY=1\nSTATUS=serving" to $NOTIFY_SOCKET, as one datagram, and never waits. Without that variable nothing happens. Any thread. */
void ad_notify(const char *fmt, ...) AD_PRINTF(1, 2);
/* The same, then "RELOADING=1" with the time that systemd wants beside it; READY=1 ends it. */
void ad_notify_reloading(void);

/* Tells every few seconds that the start goes on, so that it may take longer than the manager would wait; at most an hour. One at a time. */
void ad_notify_begin_start(void);
void ad_notify_end_start(void); /* fine when none was begun */

/* Within which time the manager wants to hear WATCHDOG=1, in microseconds; 0: it does not. By $WATCHDOG_USEC and $WATCHDOG_PID. */
uint64_t ad_notify_watchdog_us(void);

/* ---- what these read, for tests ---- */

/* The address of a socket as $NOTIFY_SOCKET has it: a path, or an abstract name behind '@'. Its length; 0: it is neither, or too long. */
socklen_t ad_notify_address(const char *name, struct sockaddr_un *out);
/* usec and pid: the variables' values, or NULL. */
uint64_t ad_notify_parse_watchdog(const char *usec, const char *pid, long self);

#endif
