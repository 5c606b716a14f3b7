/* SPDX-License-Identifier: MIT */
/* The bar of an upload. */
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "clients/adapterctl/ctl.h"

enum { BAR = 30, TEXT = 60 };

static double now_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

ctl_progress ctl_progress_new(void)
{
    return (ctl_progress){.shown = isatty(STDERR_FILENO), .start_s = now_s()};
}

static int bar_width(void)
{
    struct winsize w;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || !w.ws_col) return BAR;
    int room = w.ws_col - TEXT;
    return room < 0 ? 0 : room > BAR ? BAR : room;
}

bool ctl_progress_step(void *progress, uint64_t sent, uint64_t total)
{
    ctl_progress *p = progress;
    double now = now_s(), seconds = now - p->start_s;
    bool end = sent == total;
    if (!p->shown || (!end && now - p->drawn_s < 0.05)) return true;
    p->drawn_s = now;
    int room = bar_width(), full = (int)((double)room * (double)sent / (double)total);
    double mib = 1024 * 1024;
    fprintf(stderr, "\r[%.*s%*s] %3.0f %%  %.1f of %.1f MiB  ", full, "##############################", room - full, "", 100 * (double)sent / (double)total, (double)sent / mib,
            (double)total / mib);
    if (end) fputs("the server checks it ", stderr);
    else fprintf(stderr, "%8.1f MiB/s    ", seconds > 0 ? (double)sent / mib / seconds : 0);
    fflush(stderr);
    p->at_end = end;
    return true;
}

void ctl_progress_end(ctl_progress *p)
{
    if (p->drawn_s > 0) fputs("\r\033[K", stderr);
}
