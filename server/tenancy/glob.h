/* SPDX-License-Identifier: MIT */
/* Patterns of names: '*' is any run of bytes, also none and also with '/' in it; '?' is one. */
#ifndef AD_TENANCY_GLOB_H
#define AD_TENANCY_GLOB_H

#include <stdbool.h>

/* Takes at most as many steps as the product of the lengths. */
bool ad_glob_matches(const char *glob, const char *name);

#endif
