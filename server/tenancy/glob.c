/* SPDX-License-Identifier: MIT */
#include "server/tenancy/glob.h"

#include <stddef.h>

/* Only the last star need ever take more: whatever an earlier one could take instead, the last one can. */
bool ad_glob_matches(const char *glob, const char *name)
{
    const char *star = NULL, *tried = NULL; /* behind the last star; where the name goes on after what it has taken */
    while (*name) {
        if (*glob == '*') {
            star = ++glob;
            tried = name;
        } else if (*glob && (*glob == '?' || *glob == *name)) {
            glob++;
            name++;
        } else if (star) {
            glob = star;
            name = ++tried;
        } else {
            return false;
        }
    }
    while (*glob == '*') glob++;
    return !*glob;
}
