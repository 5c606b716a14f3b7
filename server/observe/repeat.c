/* SPDX-License-Identifier: MIT */
#include "server/observe/repeat.h"

#include <stddef.h>

bool ad_repeat_allow(ad_repeat *r, const void *class, int64_t now_s, unsigned *held)
{
    uintptr_t hash = ((uintptr_t)class >> 4) % AD_REPEAT_CLASSES;
    *held = 0;
    for (unsigned i = 0; i < AD_REPEAT_CLASSES; i++) {
        unsigned at = (unsigned)(hash + i) % AD_REPEAT_CLASSES;
        if (r->slots[at].class && r->slots[at].class != class) continue;
        if (!r->slots[at].class || now_s - r->slots[at].since >= AD_REPEAT_WINDOW_S) {
            *held = r->slots[at].held;
            r->slots[at].class = class;
            r->slots[at].since = now_s;
            r->slots[at].said = r->slots[at].held = 0;
        }
        if (r->slots[at].said++ < AD_REPEAT_BURST) return true;
        r->slots[at].held++;
        return false;
    }
    return true;
}
