/* SPDX-License-Identifier: MIT */
/* Addresses to listen on: their spelling, and the file of a Unix socket. */
#include "server/http/address.h"

#include <arpa/inet.h>
#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static ad_status bad(ad_err *err, const char *item)
{
    return ad_fail(err, AD_EINVAL, "\"%.120s\" is not ADDRESS:PORT, [ADDRESS]:PORT, https://ADDRESS:PORT or unix:/PATH[,mode=0660][,group=NAME]", item);
}

static ad_status read_option(ad_http_address *a, const char *item, ad_err *err)
{
    char *end = NULL;
    bool is_mode = !strncmp(item, "mode=", 5);
    if (!a || a->host[0]) return ad_fail(err, AD_EINVAL, "\"%.120s\" does not follow a unix:/PATH", item);
    if (!is_mode) {
        size_t n = strlen(item + 6);
        if (!n || n >= sizeof a->group) return bad(err, item);
        memcpy(a->group, item + 6, n + 1);
        return AD_OK;
    }
    a->mode = (unsigned)strtoul(item + 5, &end, 8);
    return strspn(item + 5, "01234567") && !*end && a->mode <= 0777 ? AD_OK : bad(err, item);
}

static ad_status read_tcp(ad_http_address *a, const char *item, ad_err *err)
{
    bool http = !strncmp(item, "http://", 7);
    a->tls = !strncmp(item, "https://", 8);
    const char *host = item + (a->tls ? 8 : http ? 7 : 0), *colon = strrchr(host, ':');
    size_t n = colon ? (size_t)(colon - host) : 0, digits = colon ? strspn(colon + 1, "0123456789") : 0;
    bool bracketed = n > 2 && *host == '[' && colon[-1] == ']';
    if (bracketed) host++, n -= 2;
    if (!n || n >= sizeof a->host || !digits || digits > 5 || colon[1 + digits]) return bad(err, item);
    memcpy(a->host, host, n);
    a->port = atoi(colon + 1);
    return a->port <= 65535 && !strpbrk(a->host, bracketed ? "[]/" : "[]:/") ? AD_OK : bad(err, item);
}

static ad_status read_item(ad_http_address *list, int *n, const char *item, ad_err *err)
{
    if (!strncmp(item, "mode=", 5) || !strncmp(item, "group=", 6)) return read_option(*n ? &list[*n - 1] : NULL, item, err);
    if (*n == AD_HTTP_MAX_ADDRESSES) return ad_fail(err, AD_ELIMIT, "more than %d addresses to listen on", AD_HTTP_MAX_ADDRESSES);
    ad_http_address a = {.mode = 0660};
    ad_status st = AD_OK;
    if (strncmp(item, "unix:", 5)) st = read_tcp(&a, item, err);
    else if (item[5] != '/' || strlen(item + 5) >= sizeof a.path) st = ad_fail(err, AD_EINVAL, "\"%.120s\": the path of a socket begins with / and has at most %zu bytes", item, sizeof a.path - 1);
    else strcpy(a.path, item + 5);
    if (st == AD_OK) list[(*n)++] = a;
    return st;
}

ad_status ad_http_address_read(ad_http_address *list, int *n, const char *text, ad_err *err)
{
    char *copy = strdup(text), *rest = copy;
    ad_status st = copy ? AD_OK : ad_fail(err, AD_ENOMEM, "out of memory");
    for (char *item; st == AD_OK && (item = strsep(&rest, ","));) st = read_item(list, n, item, err);
    free(copy);
    return st;
}

bool ad_http_address_is_local(const ad_http_address *a)
{
    struct in_addr v4;
    struct in6_addr v6;
    if (a->path[0] || !strcasecmp(a->host, "localhost")) return true;
    if (inet_pton(AF_INET, a->host, &v4) == 1) return ntohl(v4.s_addr) >> 24 == 127;
    return inet_pton(AF_INET6, a->host, &v6) == 1 && (IN6_IS_ADDR_LOOPBACK(&v6) || (IN6_IS_ADDR_V4MAPPED(&v6) && v6.s6_addr[12] == 127));
}

ad_status ad_http_unlink_stale(const ad_http_address *a, ad_err *err)
{
    struct stat sb;
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    if (lstat(a->path, &sb) != 0) return errno == ENOENT ? AD_OK : ad_fail(err, AD_EIO, "%s: %s", a->path, strerror(errno));
    if (!S_ISSOCK(sb.st_mode)) return ad_fail(err, AD_EEXIST, "%s: there is a file that is no socket", a->path);
    strcpy(to.sun_path, a->path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    bool refused = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) != 0 && errno == ECONNREFUSED;
    if (fd >= 0) close(fd);
    if (!refused) return ad_fail(err, AD_EEXIST, "%s: another process listens there", a->path);
    return unlink(a->path) == 0 || errno == ENOENT ? AD_OK : ad_fail(err, AD_EIO, "%s: %s", a->path, strerror(errno));
}

ad_status ad_http_set_owner(const ad_http_address *a, ad_err *err)
{
    const struct group *g = a->group[0] ? getgrnam(a->group) : NULL;
    if (a->group[0] && !g) return ad_fail(err, AD_EINVAL, "%s: there is no group \"%s\"", a->path, a->group);
    if (g && chown(a->path, (uid_t)-1, g->gr_gid) != 0) return ad_fail(err, AD_EIO, "%s: group %s: %s", a->path, a->group, strerror(errno));
    return chmod(a->path, a->mode) == 0 ? AD_OK : ad_fail(err, AD_EIO, "%s: %s", a->path, strerror(errno));
}
