/* SPDX-License-Identifier: MIT */
/* Lines that come again and again: of each class the first few in a window are said, the rest is counted. Pure: one thread at a time, the caller brings the time. */
#ifndef AD_OBSERVE_REPEAT_H
#define AD_OBSERVE_REPEAT_H

#include <stdbool.h>
#include <stdint.h>

enum { AD_REPEAT_CLASSES = 256, AD_REPEAT_BURST = 10, AD_REPEAT_WINDOW_S = 10 };

/* Zero-initialise. */
typedef struct {
    struct {
        const void *class;    /* NULL: free */
        int64_t since;        /* the window's begin */
        unsigned said, held;  /* in it; held: since a line was last said */
    } slots[AD_REPEAT_CLASSES];
} ad_repeat;

/* Whether a line of this class is to be said now; *held then gets how many were not since the last one. More classes than there is room for are all said. */
bool ad_repeat_allow(ad_repeat *r, const void *class, int64_t now_s, unsigned *held);

#endif
