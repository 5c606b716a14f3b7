/* SPDX-License-Identifier: MIT */
/* adapterd --create-admin-key: the way in where there is none yet, or no longer. */
#ifndef AD_SERVER_ADMIN_KEY_H
#define AD_SERVER_ADMIN_KEY_H

#include <stdio.h>

#include "core/base/status.h"

/* Makes a key that may do everything, known in the state directory `dir`, and prints it, alone on a line, to `out`. AD_EBUSY: a daemon runs there. name may be NULL.
 * Run by root in a directory of somebody else's, it goes on as that user: its daemon must be able to read what is made here. */
AD_MUSTUSE ad_status ad_create_admin_key(const char *dir, const char *name, FILE *out, ad_err *err);

#endif
