/* SPDX-License-Identifier: MIT */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static ad_status open_regular(int *fd, size_t *len, const char *path, ad_err *err)
{
    *fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (*fd < 0) return ad_fail(err, errno == ENOENT ? AD_ENOTFOUND : AD_EIO, "%s: %s", path, strerror(errno));
    struct stat st;
    if (fstat(*fd, &st) != 0 || !S_ISREG(st.st_mode)) {
        close(*fd);
        return ad_fail(err, AD_EIO, "%s: not a regular file", path);
    }
    *len = (size_t)st.st_size;
    return AD_OK;
}

ad_status ad_file_map(ad_file *out, const char *path, ad_err *err)
{
    int fd;
    size_t len;
    ad_status st = open_regular(&fd, &len, path, err);
    if (st != AD_OK) return st;
    void *p = len ? mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0) : NULL;
    if (p == MAP_FAILED) st = ad_fail(err, AD_EIO, "%s: cannot map %zu bytes: %s", path, len, strerror(errno));
    close(fd);
    if (st == AD_OK) *out = (ad_file){.data = p, .len = len, .mapped = 1};
    return st;
}

static ad_status read_all(int fd, char *dst, size_t len, const char *path, ad_err *err)
{
    for (size_t got = 0; got < len;) {
        ssize_t n = read(fd, dst + got, len - got);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return ad_fail(err, AD_EIO, "%s: %s", path, strerror(errno));
        if (n == 0) return ad_fail(err, AD_EIO, "%s: ends after %zu of %zu bytes; it changed while being read", path, got, len);
        got += (size_t)n;
    }
    return AD_OK;
}

/* Large files are read into huge pages: thousands of page faults less. */
enum { BIG = 4 << 20 };

static void give_back(void *p, size_t len)
{
    if (len < BIG) free(p);
    else if (p) ad_arena_free(p, len + 1);
}

ad_status ad_file_read(ad_file *out, const char *path, size_t max_bytes, ad_err *err)
{
    int fd;
    size_t len;
    ad_status st = open_regular(&fd, &len, path, err);
    if (st != AD_OK) return st;
    char *p = NULL;
    if (len > max_bytes) st = ad_fail(err, AD_ELIMIT, "%s: %zu bytes is over the limit of %zu", path, len, max_bytes);
    else if (!(p = len < BIG ? malloc(len + 1) : ad_arena_new(len + 1))) st = ad_fail(err, AD_ENOMEM, "%s: no memory for %zu bytes", path, len);
    else st = read_all(fd, p, len, path, err);
    close(fd);
    if (st != AD_OK) {
        give_back(p, len);
        return st;
    }
    p[len] = '\0';
    *out = (ad_file){.data = p, .len = len};
    return AD_OK;
}

void ad_file_release_pages(const ad_file *f)
{
    if (f->mapped && f->data) madvise((void *)f->data, f->len, MADV_DONTNEED);
}

void ad_file_close(ad_file *f)
{
    if (f->mapped && f->data) munmap((void *)f->data, f->len);
    else if (!f->mapped) give_back((void *)f->data, f->len);
    *f = (ad_file){0};
}

bool ad_write_all(int fd, const void *data, size_t len)
{
    for (const char *p = data; len;) {
        ssize_t n = write(fd, p, len);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

ad_status ad_errno_status(int error)
{
    switch (error) {
    case ENOSPC: case EDQUOT: case EFBIG: return AD_EFULL;
    case ENOMEM: return AD_ENOMEM;
    default: return AD_EIO;
    }
}
