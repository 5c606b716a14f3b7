/* SPDX-License-Identifier: MIT */
#include "server/api/etag.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void ad_etag(const ad_entry *e, char out[AD_ETAG])
{
    snprintf(out, AD_ETAG, "\"r%" PRId64 "\"", e->revision);
}

void ad_set_etag(ad_http_exchange *x, const ad_entry *e)
{
    char tag[AD_ETAG];
    ad_etag(e, tag);
    ad_http_set_header(x, "ETag", tag);
}

/* The next tag of a list: false at its end, or where it is none. *revision is -1 for a tag that is not ours. */
static bool next_tag(const char **p, bool *weak, int64_t *revision)
{
    *p += strspn(*p, " \t,");
    *weak = !strncmp(*p, "W/", 2);
    if (*weak) *p += 2;
    if (**p != '"') return false;
    const char *begin = ++*p, *end = strchr(begin, '"');
    if (!end) return false;
    size_t n = (size_t)(end - begin), digits = n && *begin == 'r' ? strspn(begin + 1, "0123456789") : 0;
    *revision = digits && digits + 1 == n && digits <= 18 ? strtoll(begin + 1, NULL, 10) : -1;
    *p = end + 1;
    return true;
}

bool ad_read_if_match(ad_http_exchange *x, const ad_entry *e, int64_t *out)
{
    const char *list = ad_http_header(x, "if-match");
    int64_t revision, found = -1;
    bool weak;
    *out = AD_ANY_REVISION;
    if (!list || !strcmp(list, "*")) return true;
    while (next_tag(&list, &weak, &revision)) /* a weak tag matches nothing here */
        if (!weak && revision >= 0 && (found < 0 || (e && revision == e->revision))) found = revision;
    if (found < 0) return ad_reply_refusal(x, 412, "precondition_failed", NULL, "If-Match has no ETag of this server");
    *out = found;
    return true;
}

bool ad_is_unmodified(const ad_http_exchange *x, const ad_entry *e)
{
    const char *list = ad_http_header(x, "if-none-match");
    int64_t revision;
    bool weak;
    if (!list) return false;
    if (!strcmp(list, "*")) return true;
    while (next_tag(&list, &weak, &revision))
        if (revision == e->revision) return true;
    return false;
}
