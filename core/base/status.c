/* SPDX-License-Identifier: MIT */
#include "core/base/status.h"

#include <stdarg.h>
#include <stdio.h>

ad_status ad_fail(ad_err *err, ad_status code, const char *fmt, ...)
{
    if (!err) return code;
    err->code = code;
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(err->msg, sizeof err->msg, fmt, ap);
    va_end(ap);
    return code;
}

const char *ad_status_name(ad_status code)
{
    static const char *const names[AD_STATUS_COUNT] = {
        [AD_OK] = "ok",
        [AD_EINVAL] = "invalid",
        [AD_ENOMEM] = "no_memory",
        [AD_EIO] = "io",
        [AD_EFORMAT] = "malformed",
        [AD_EUNSUPPORTED] = "unsupported",
        [AD_EMISMATCH] = "mismatch",
        [AD_ENOTFOUND] = "not_found",
        [AD_EEXIST] = "exists",
        [AD_ELIMIT] = "limit",
        [AD_EBUSY] = "busy",
        [AD_EFULL] = "full",
        [AD_EUNTRUSTED] = "untrusted",
        [AD_EREMOTE] = "remote",
        [AD_ETIMEOUT] = "timeout",
    };
    return code >= 0 && code < AD_STATUS_COUNT ? names[code] : "unknown";
}
