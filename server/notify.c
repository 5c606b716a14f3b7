/* SPDX-License-Identifier: MIT */
#include "server/notify.h"

#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { EVERY_S = 5, EXTENSION_S = 30, LONGEST_START_S = 3600 };

socklen_t ad_notify_address(const char *name, struct sockaddr_un *out)
{
    size_t n = strlen(name);
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if ((*name != '/' && *name != '@') || n < 2 || n >= sizeof out->sun_path) return 0;
    memcpy(out->sun_path, name, n);
    if (*name == '@') out->sun_path[0] = '\0';
    return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + n + (*name == '/')); /* an abstract name ends with its length, a path with NUL */
}

static void send_text(const char *text, size_t len)
{
    const char *name = getenv("NOTIFY_SOCKET");
    struct sockaddr_un to;
    socklen_t size = name ? ad_notify_address(name, &to) : 0;
    int fd = size ? socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0) : -1;
    if (fd < 0) return;
    ssize_t rc = sendto(fd, text, len, MSG_NOSIGNAL | MSG_DONTWAIT, (const struct sockaddr *)&to, size);
    (void)rc; /* the manager is gone, or does not listen: we serve all the same */
    close(fd);
}

void ad_notify(const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n > 0) send_text(text, (size_t)n < sizeof text ? (size_t)n : sizeof text - 1);
}

void ad_notify_reloading(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    ad_notify("RELOADING=1\nMONOTONIC_USEC=%llu", (unsigned long long)now.tv_sec * 1000000u + (unsigned long long)now.tv_nsec / 1000u);
}

/* ---- a start that takes long ---- */

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t end;
    pthread_t thread;
    bool running, ended;
} start = {.mutex = PTHREAD_MUTEX_INITIALIZER, .end = PTHREAD_COND_INITIALIZER};

static void *start_main(void *arg)
{
    (void)arg;
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    pthread_mutex_lock(&start.mutex);
    for (int left = LONGEST_START_S; left > 0 && !start.ended; left -= EVERY_S) {
        ad_notify("EXTEND_TIMEOUT_USEC=%llu", EXTENSION_S * 1000000ull);
        until.tv_sec += EVERY_S;
        while (!start.ended && pthread_cond_timedwait(&start.end, &start.mutex, &until) != ETIMEDOUT) continue;
    }
    pthread_mutex_unlock(&start.mutex);
    return NULL;
}

void ad_notify_begin_start(void)
{
    if (!getenv("NOTIFY_SOCKET")) return;
    start.ended = false;
    start.running = pthread_create(&start.thread, NULL, start_main, NULL) == 0;
}

void ad_notify_end_start(void)
{
    if (!start.running) return;
    pthread_mutex_lock(&start.mutex);
    start.ended = true;
    pthread_cond_signal(&start.end);
    pthread_mutex_unlock(&start.mutex);
    pthread_join(start.thread, NULL);
    start.running = false;
}

/* ---- the watchdog ---- */

/* A whole number of at least 1; 0: it is none. */
static unsigned long long read_number(const char *text)
{
    char *end;
    errno = 0;
    if (!text || *text < '0' || *text > '9') return 0;
    unsigned long long v = strtoull(text, &end, 10);
    return *end || errno ? 0 : v;
}

uint64_t ad_notify_parse_watchdog(const char *usec, const char *pid, long self)
{
    if (pid && read_number(pid) != (unsigned long long)self) return 0; /* another process is meant */
    return read_number(usec);
}

uint64_t ad_notify_watchdog_us(void)
{
    return getenv("NOTIFY_SOCKET") ? ad_notify_parse_watchdog(getenv("WATCHDOG_USEC"), getenv("WATCHDOG_PID"), (long)getpid()) : 0;
}
