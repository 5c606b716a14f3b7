/* SPDX-License-Identifier: MIT */
/* What the writers of adapter files share. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "adapters/load.h"

enum { MAX_PATH = 4200 };

double ad_write_alpha(float scale, int rank)
{
    double exact = (double)scale * rank, near = rint(exact * 64) / 64;
    return (float)(near / rank) == scale ? near : exact;
}

ad_status ad_write_parts(const char *path, const ad_str *parts, int n, ad_err *err)
{
    char part[MAX_PATH + 8];
    if (strlen(path) > MAX_PATH) return ad_fail(err, AD_EINVAL, "%.100s...: the path is too long", path);
    snprintf(part, sizeof part, "%s.part", path);
    FILE *f = fopen(part, "wb");
    if (!f) return ad_fail(err, AD_EIO, "%s: %s", part, strerror(errno));
    bool good = true;
    for (int i = 0; good && i < n; i++) good = !parts[i].len || fwrite(parts[i].ptr, 1, parts[i].len, f) == parts[i].len;
    int why = errno;
    if (fclose(f) != 0 && good) good = false, why = errno;
    if (good && rename(part, path) == 0) return AD_OK;
    if (good) why = errno;
    unlink(part);
    return ad_fail(err, ad_errno_status(why), "%s: %s", path, strerror(why));
}
