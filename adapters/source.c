/* SPDX-License-Identifier: MIT */
/* Copies adapters out of directories that clients name. A name is worth nothing here: what it leads to is pinned by a descriptor (O_PATH, which
 * opens no device and waits for no FIFO), the kernel says where that lies, and only then is the very same thing read. */
#include "adapters/source.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/template.h"
#include "core/base/file.h"
#include "core/base/mem.h"

enum { MAX_ENTRIES = 100000, CHUNK = 16 << 20, PLAIN_CHUNK = 64 << 10 };

/* ---- what a directory holds ---- */

static bool ends_in(const char *s, const char *end)
{
    size_t n = strlen(s), m = strlen(end);
    return n > m && !strcmp(s + n - m, end);
}

static void note_name(ad_origin_files *f, const char *name)
{
    if (!strcmp(name, "adapter_config.json")) f->config = true;
    else if (!strcmp(name, "adapter_model.safetensors")) f->weights = true;
    else if (!strcmp(name, "adapter.minisig")) f->signature = true;
    else if (!strcmp(name, "adapter_model.bin")) f->pickle = true;
    else if (!strcmp(name, AD_TEMPLATE_FILE)) f->template = true;
    else if (!strcmp(name, AD_TOKENIZER_CONFIG)) f->tokenizer = true;
    if (!ends_in(name, ".gguf") || name[0] == '.' || !strcmp(f->gguf, "adapter.gguf")) return;
    bool plain = !strcmp(name, "adapter.gguf"); /* makes the choice, whatever else is there */
    f->n_gguf = plain ? 1 : f->n_gguf + 1;
    snprintf(f->gguf, sizeof f->gguf, "%.255s", name);
}

ad_status ad_origin_list(ad_origin_files *out, int fd, const char *path, ad_err *err)
{
    ad_origin_files f = {0};
    int own = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* closedir closes it; the caller keeps his */
    DIR *d = own < 0 ? NULL : fdopendir(own);
    if (!d) {
        ad_status st = ad_fail(err, AD_EIO, "%.300s: %s", path, strerror(errno));
        if (own >= 0) close(own);
        return st;
    }
    int n = 0;
    errno = 0;
    for (struct dirent *e; n < MAX_ENTRIES && (e = readdir(d)); n++) note_name(&f, e->d_name);
    ad_status st = AD_OK;
    if (n == MAX_ENTRIES) st = ad_fail(err, AD_ELIMIT, "%.300s: more than %d files", path, MAX_ENTRIES);
    else if (errno) st = ad_fail(err, AD_EIO, "%.300s: %s", path, strerror(errno));
    closedir(d);
    if (st == AD_OK) *out = f;
    return st;
}

ad_status ad_origin_complete(const ad_origin_files *f, const char *path, ad_err *err)
{
    if (f->config && f->weights) return AD_OK;
    if (f->config && f->pickle) return ad_fail(err, AD_EUNSUPPORTED, "%.300s: the weights are a pickle (adapter_model.bin), which is never read; save them as safetensors", path);
    if (f->config) return ad_fail(err, AD_ENOTFOUND, "%.300s: adapter_model.safetensors is missing", path);
    if (f->weights) return ad_fail(err, AD_ENOTFOUND, "%.300s: adapter_config.json is missing", path);
    if (f->n_gguf == 1) return AD_OK;
    if (f->n_gguf) return ad_fail(err, AD_EINVAL, "%.300s: holds %d .gguf files; name one of them", path, f->n_gguf);
    return ad_fail(err, AD_ENOTFOUND, "%.300s: holds no adapter (adapter_config.json and adapter_model.safetensors, or a .gguf file)", path);
}

static int64_t bytes_at(int dir, const char *name)
{
    struct stat info;
    return fstatat(dir, name, &info, 0) == 0 && S_ISREG(info.st_mode) ? info.st_size : 0;
}

int64_t ad_origin_bytes(const char *path)
{
    ad_origin_files f;
    int64_t bytes = 0;
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return bytes_at(AT_FDCWD, path);
    bool listed = ad_origin_list(&f, dir, path, NULL) == AD_OK;
    if (listed && f.config) bytes = bytes_at(dir, "adapter_config.json") + bytes_at(dir, "adapter_model.safetensors");
    else if (listed && f.n_gguf) bytes = bytes_at(dir, f.gguf);
    close(dir);
    return bytes;
}

/* ---- the roots ---- */

typedef struct {
    char **paths; /* [n] without symbolic links; NULL: that one does not exist */
    int n;
} root_list;

static ad_status resolve_roots(root_list *r, const char *const *roots, int n, ad_err *err)
{
    r->paths = ad_calloc((size_t)n, sizeof *r->paths);
    if (!r->paths) return ad_fail(err, AD_ENOMEM, "allowed roots: out of memory");
    r->n = n;
    for (int i = 0; i < n; i++) r->paths[i] = realpath(roots[i], NULL);
    return AD_OK;
}

static void free_roots(root_list *r)
{
    for (int i = 0; i < r->n; i++) free(r->paths[i]);
    free(r->paths);
}

static bool is_under(const char *path, const char *root)
{
    size_t n = strlen(root);
    if (strncmp(path, root, n)) return false;
    return root[n - 1] == '/' || path[n] == '/' || !path[n]; /* only "/" itself ends in one */
}

/* Where the kernel says that the descriptor's file is. */
static bool is_allowed(const root_list *r, int fd)
{
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path);
    if (n <= 0 || (size_t)n == sizeof path) return false;
    path[n] = '\0';
    for (int i = 0; i < r->n; i++)
        if (r->paths[i] && is_under(path, r->paths[i])) return true;
    return false;
}

static ad_status refuse_root(const char *path, ad_err *err)
{
    return ad_fail(err, AD_EINVAL, "%.300s: not under one of the allowed roots", path);
}

/* Why something could not be pinned. Whoever may not look there does not learn what exists: only below the roots does the reason count. */
static ad_status explain_missing(const root_list *r, const char *path, int reason, ad_err *err)
{
    char up[4096];
    int fd = -1;
    if (strlen(path) >= sizeof up) return refuse_root("path", err);
    strcpy(up, path);
    for (char *slash; fd < 0 && (slash = strrchr(up, '/')) && slash != up;) {
        *slash = '\0';
        fd = open(up, O_PATH | O_CLOEXEC);
    }
    bool allowed = fd >= 0 && is_allowed(r, fd);
    if (fd >= 0) close(fd);
    if (!allowed) return refuse_root(path, err);
    bool never = reason == ELOOP || reason == ENAMETOOLONG; /* whatever is there */
    return ad_fail(err, never ? AD_EINVAL : reason == ENOENT || reason == ENOTDIR ? AD_ENOTFOUND : AD_EIO, "%.300s: %s", path, strerror(reason));
}

/* Pins what `name` in directory `at` leads to, and what it is. path is its full name. */
static ad_status pin(const root_list *r, int at, const char *name, const char *path, int *out, struct stat *info, ad_err *err)
{
    int fd = openat(at, name, O_PATH | O_CLOEXEC);
    if (fd < 0) return explain_missing(r, path, errno, err);
    ad_status st = AD_OK;
    if (!is_allowed(r, fd)) st = refuse_root(path, err);
    else if (fstat(fd, info) != 0) st = ad_fail(err, AD_EIO, "%.300s: %s", path, strerror(errno));
    if (st == AD_OK) *out = fd;
    else close(fd);
    return st;
}

/* The pinned thing itself, for reading. */
static int reopen(int fd)
{
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    return open(link, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
}

/* ---- copying ---- */

typedef struct {
    root_list roots;
    int to;           /* the directory copied into */
    size_t left;      /* bytes that may still be copied */
    size_t max_bytes;
} copier;

static ad_status write_failed(const char *name, ad_err *err)
{
    int error = errno;
    return ad_fail(err, ad_errno_status(error), "%.100s: cannot be written: %s", name, strerror(error));
}

/* By the kernel, which shares the blocks where the file system can. *total counts; true: that is all of the file, or all it may take. */
static bool copy_inside(int in, int out, size_t max, size_t *total)
{
    while (*total < max) {
        size_t want = max - *total < CHUNK ? max - *total : CHUNK;
        ssize_t k = copy_file_range(in, NULL, out, NULL, want, 0);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0 || (k == 0 && !*total)) return false; /* cannot: some file systems say so by copying nothing */
        if (k == 0) return true;
        *total += (size_t)k;
    }
    return true;
}

static ad_status copy_plain(int in, int out, size_t max, size_t *total, const char *name, ad_err *err)
{
    char buf[PLAIN_CHUNK];
    while (*total < max) {
        ssize_t k = read(in, buf, max - *total < sizeof buf ? max - *total : sizeof buf);
        if (k < 0 && errno == EINTR) continue;
        if (k < 0) return ad_fail(err, AD_EIO, "%.100s: %s", name, strerror(errno));
        if (k == 0) return AD_OK;
        if (!ad_write_all(out, buf, (size_t)k)) return write_failed(name, err);
        *total += (size_t)k;
    }
    return AD_OK;
}

static bool same_content(const struct stat *a, const struct stat *b)
{
    return a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static ad_status copy_open(copier *c, int in, int out, const char *name, ad_err *err)
{
    struct stat before, after;
    size_t total = 0;
    if (fstat(in, &before) != 0) return ad_fail(err, AD_EIO, "%.100s: %s", name, strerror(errno));
    if (before.st_size < 0 || (uint64_t)before.st_size > c->left) return ad_fail(err, AD_ELIMIT, "the adapter's files are over the limit of %zu bytes", c->max_bytes);
    size_t max = (size_t)before.st_size + 1; /* one more tells that it grows */
    ad_status st = copy_inside(in, out, max, &total) ? AD_OK : copy_plain(in, out, max, &total, name, err);
    if (st != AD_OK) return st;
    if (fstat(in, &after) != 0 || !same_content(&before, &after) || total != (size_t)before.st_size) return ad_fail(err, AD_EIO, "%.100s: changed while it was copied", name);
    c->left -= total;
    return AD_OK;
}

/* Copies the pinned file as `name`. */
static ad_status copy_pinned(copier *c, int pinned, const char *name, ad_err *err)
{
    int in = reopen(pinned);
    if (in < 0) return ad_fail(err, AD_EIO, "%.100s: %s", name, strerror(errno));
    int out = openat(c->to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0644);
    ad_status st = out < 0 ? write_failed(name, err) : copy_open(c, in, out, name, err);
    if (out >= 0 && close(out) != 0 && st == AD_OK) st = write_failed(name, err);
    close(in);
    return st;
}

/* One file of the directory `dir`, as `as`. */
static ad_status copy_from(copier *c, int dir, const char *path, const char *name, const char *as, ad_err *err)
{
    char full[4096];
    struct stat info;
    int fd = -1;
    snprintf(full, sizeof full, "%.3800s/%.255s", path, name);
    ad_status st = pin(&c->roots, dir, name, full, &fd, &info, err);
    if (st != AD_OK) return st;
    if (!S_ISREG(info.st_mode)) st = ad_fail(err, AD_EINVAL, "%.300s: not a regular file", full);
    else st = copy_pinned(c, fd, as, err);
    close(fd);
    return st;
}

static ad_status copy_dir(copier *c, int pinned, const char *path, ad_err *err)
{
    ad_origin_files f;
    int dir = reopen(pinned);
    if (dir < 0) return ad_fail(err, AD_EIO, "%.300s: %s", path, strerror(errno));
    ad_status st = ad_origin_list(&f, dir, path, err);
    if (st == AD_OK) st = ad_origin_complete(&f, path, err);
    if (st == AD_OK && f.config) {
        st = copy_from(c, dir, path, "adapter_config.json", "adapter_config.json", err);
        if (st == AD_OK) st = copy_from(c, dir, path, "adapter_model.safetensors", "adapter_model.safetensors", err);
    } else if (st == AD_OK) {
        st = copy_from(c, dir, path, f.gguf, "adapter.gguf", err);
    }
    if (st == AD_OK && f.signature) st = copy_from(c, dir, path, "adapter.minisig", "adapter.minisig", err);
    if (st == AD_OK && f.template) st = copy_from(c, dir, path, AD_TEMPLATE_FILE, AD_TEMPLATE_FILE, err);
    else if (st == AD_OK && f.tokenizer) st = copy_from(c, dir, path, AD_TOKENIZER_CONFIG, AD_TOKENIZER_CONFIG, err);
    close(dir);
    return st;
}

static bool has_dotdot(const char *path)
{
    for (const char *p = path; (p = strstr(p, "/..")); p += 3)
        if (p[3] == '/' || !p[3]) return true;
    return false;
}

static ad_status copy_path(copier *c, const char *path, ad_err *err)
{
    struct stat info;
    int fd = -1;
    ad_status st = pin(&c->roots, AT_FDCWD, path, path, &fd, &info, err);
    if (st != AD_OK) return st;
    if (S_ISDIR(info.st_mode)) st = copy_dir(c, fd, path, err);
    else if (S_ISREG(info.st_mode) && ends_in(path, ".gguf")) st = copy_pinned(c, fd, "adapter.gguf", err);
    else st = ad_fail(err, AD_EINVAL, "%.300s: neither a directory nor a .gguf file", path);
    close(fd);
    return st;
}

ad_status ad_origin_copy(const char *path, const char *const *roots, int n, const char *to, size_t max_bytes, ad_err *err)
{
    copier c = {.left = max_bytes, .max_bytes = max_bytes};
    if (path[0] != '/') return ad_fail(err, AD_EINVAL, "%.300s: not an absolute path", path);
    if (has_dotdot(path)) return ad_fail(err, AD_EINVAL, "%.300s: \"..\" is not allowed in a path", path);
    if (strlen(path) >= 4096) return ad_fail(err, AD_EINVAL, "the path is longer than 4095 bytes");
    c.to = open(to, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (c.to < 0) return ad_fail(err, AD_EIO, "%.300s: %s", to, strerror(errno));
    ad_status st = resolve_roots(&c.roots, roots, n, err);
    if (st == AD_OK) st = copy_path(&c, path, err);
    free_roots(&c.roots);
    close(c.to);
    return st;
}
