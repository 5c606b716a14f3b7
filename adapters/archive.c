/* SPDX-License-Identifier: MIT */
/* Unpacking of uploaded archives. libarchive reads; no name from the archive ever becomes a path. Its gzip reader checks no checksum, so zlib
 * takes its place. */
#include "adapters/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "adapters/template.h"
#include "core/base/file.h"
#include "core/base/mem.h"

enum {
    BLOCK = 256 * 1024,
    HEADERS = AD_ARCHIVE_ENTRIES * 4096, /* what a tar may have beside its files */
};

typedef enum { CONFIG, WEIGHTS, GGUF, SIGNATURE, TEMPLATE, TOKENIZER, N_KINDS, OTHER = N_KINDS } kind;

static const char *const file_of[N_KINDS] = {"adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "adapter.minisig", AD_TEMPLATE_FILE, AD_TOKENIZER_CONFIG};

typedef struct {
    struct archive *in;
    int dir;                /* descriptor */
    size_t limit;           /* of what it may unpack to */
    bool by_ratio;          /* that is AD_ARCHIVE_RATIO times its size */
    size_t unpacked;        /* of all entries so far */
    int n_entries;
    bool have[N_KINDS];
    bool pickle;            /* weights that Python would have to run */
    char *folder;           /* where the first file of the adapter's own stood; NULL: none came */
    char *aside[N_KINDS];   /* where a chat template stood: it counts only in that folder */
    char *block;            /* BLOCK bytes */
    gzFile gzip;            /* NULL: not a tar.gz */
    char *inflated;         /* BLOCK bytes of it */
    size_t n_inflated;      /* so far */
    bool bomb;              /* it inflates to more than is allowed */
} unpacking;

/* ---- names ---- */

/* A name for messages: hostile ones are long. */
static const char *shown(const char *name, char out[128])
{
    snprintf(out, 128, "%.120s", name);
    return out;
}

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), t = strlen(tail);
    return n > t && !strcmp(s + n - t, tail);
}

/* Splits `path`, whose separators may be Windows', into its folder (written to folder, without "." and empty parts) and its last part. False: it leads
 * out of where it stands. */
static bool split_name(const char *path, char *folder, const char **base)
{
    size_t len = 0;
    if (*path == '/' || *path == '\\' || (*path && path[1] == ':' && (path[2] == '/' || path[2] == '\\'))) return false;
    *base = path;
    while (*path) {
        size_t n = strcspn(path, "/\\");
        if (n == 2 && path[0] == '.' && path[1] == '.') return false;
        *base = path;
        if (!path[n]) break;
        if (n && !(n == 1 && *path == '.')) { /* never longer than the path */
            memcpy(folder + len, path, n);
            folder[len + n] = '/';
            len += n + 1;
        }
        path += n + 1;
        *base = path;
    }
    folder[len] = '\0';
    return true;
}

static kind kind_of(const char *base)
{
    for (kind k = 0; k < N_KINDS; k++)
        if (!strcmp(base, file_of[k])) return k;
    return ends_in(base, ".gguf") && *base != '.' ? GGUF : OTHER; /* "._x.gguf" is what macOS knows about x.gguf */
}

static bool is_pickle(const char *base)
{
    return ends_in(base, ".bin") || ends_in(base, ".pt") || ends_in(base, ".pth") || ends_in(base, ".pkl") || ends_in(base, ".ckpt");
}

/* ---- entries ---- */

static ad_status too_much(const unpacking *u, const char *name, ad_err *err)
{
    char text[128], ratio[40] = "";
    if (u->by_ratio) snprintf(ratio, sizeof ratio, ", %d times its size", AD_ARCHIVE_RATIO);
    return ad_fail(err, AD_ELIMIT, "archive: with %s it unpacks to more than %zu bytes%s", shown(name, text), u->limit, ratio);
}

static ad_status read_error(const unpacking *u, const char *name, ad_err *err)
{
    char text[128];
    const char *why = archive_error_string(u->in);
    if (u->bomb) return too_much(u, name ? name : "its headers", err);
    if (archive_errno(u->in) == ENOMEM) return ad_fail(err, AD_ENOMEM, "archive: out of memory");
    return ad_fail(err, AD_EFORMAT, "archive: %s%s%.200s", name ? shown(name, text) : "", name ? ": " : "", why ? why : "it is damaged");
}

static ad_status file_error(const char *name, ad_err *err)
{
    int error = errno;
    return ad_fail(err, ad_errno_status(error), "archive: %s cannot be written: %s", name, strerror(error));
}

/* The data of the entry at hand into fd; -1: only counted, so that a bomb among the skipped goes off too. */
static ad_status copy_data(unpacking *u, const char *name, int fd, ad_err *err)
{
    for (;;) {
        la_ssize_t n = archive_read_data(u->in, u->block, BLOCK);
        if (n == 0) return AD_OK;
        if (n < 0) return read_error(u, name, err);
        u->unpacked += (size_t)n;
        if (u->unpacked > u->limit) return too_much(u, name, err);
        if (fd >= 0 && !ad_write_all(fd, u->block, (size_t)n)) return file_error(name, err);
    }
}

static ad_status unpack_file(unpacking *u, kind k, const char *name, ad_err *err)
{
    int fd = openat(u->dir, file_of[k], O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return file_error(file_of[k], err);
    ad_status st = copy_data(u, name, fd, err);
    if (close(fd) != 0 && st == AD_OK) st = file_error(file_of[k], err);
    return st;
}

static bool is_aside(kind k) { return k == TEMPLATE || k == TOKENIZER; }

/* A file of ours: once, and where the others are. */
static ad_status place_file(unpacking *u, kind k, const char *name, const char *folder, ad_err *err)
{
    char text[128];
    char **place = is_aside(k) ? &u->aside[k] : &u->folder;
    if (*place && strcmp(*place, folder)) return ad_fail(err, AD_EFORMAT, "archive: %s: files of an adapter stand in two folders", shown(name, text));
    if (u->have[k]) return ad_fail(err, AD_EFORMAT, "archive: %s: there is a second %s", shown(name, text), file_of[k]);
    if (!*place) *place = strdup(folder);
    if (!*place) return ad_fail(err, AD_ENOMEM, "archive: out of memory");
    u->have[k] = true;
    return AD_OK;
}

/* Tokenizers are kept in folders of their own, too, or of the base model: what stands elsewhere says nothing about the adapter. */
static bool is_elsewhere(const unpacking *u, kind k, const char *folder)
{
    return is_aside(k) && u->folder && strcmp(u->folder, folder);
}

static void drop_what_stands_elsewhere(unpacking *u)
{
    for (kind k = 0; k < N_KINDS; k++)
        if (u->have[k] && is_elsewhere(u, k, u->aside[k])) unlinkat(u->dir, file_of[k], 0);
}

/* Whether the entry may be there at all. */
static ad_status check_entry(const unpacking *u, struct archive_entry *e, const char *name, ad_err *err)
{
    char text[128];
    const char *format = archive_format_name(u->in);
    bool zip = (archive_format(u->in) & ARCHIVE_FORMAT_BASE_MASK) == ARCHIVE_FORMAT_ZIP;
    unsigned type = archive_entry_filetype(e);
    if (archive_entry_is_encrypted(e)) return ad_fail(err, AD_EUNSUPPORTED, "archive: %s: it is encrypted", shown(name, text));
    if (archive_entry_hardlink(e) || archive_entry_symlink(e) || (type != AE_IFREG && type != AE_IFDIR))
        return ad_fail(err, AD_EFORMAT, "archive: %s: neither a regular file nor a directory", shown(name, text));
    if (zip && type == AE_IFREG && format && !strstr(format, "(deflation)") && !strstr(format, "(uncompressed)"))
        return ad_fail(err, AD_EUNSUPPORTED, "archive: %s: a zip may be packed by deflate only; this is %.60s", shown(name, text), format);
    return AD_OK;
}

static ad_status unpack_entry(unpacking *u, struct archive_entry *e, ad_err *err)
{
    char text[128];
    const char *base, *name = archive_entry_pathname(e);
    if (!name) name = archive_entry_pathname_utf8(e);
    if (!name) return ad_fail(err, AD_EFORMAT, "archive: entry %d has no readable name", u->n_entries);
    ad_status st = check_entry(u, e, name, err);
    if (st != AD_OK) return st;
    char *folder = malloc(strlen(name) + 1);
    if (!folder) return ad_fail(err, AD_ENOMEM, "archive: out of memory");
    if (!split_name(name, folder, &base)) {
        free(folder);
        return ad_fail(err, AD_EFORMAT, "archive: %s: the name leads out of the archive", shown(name, text));
    }
    bool regular = archive_entry_filetype(e) == AE_IFREG;
    kind k = regular ? kind_of(base) : OTHER;
    if (k != OTHER && is_elsewhere(u, k, folder)) k = OTHER;
    if (k != OTHER) st = place_file(u, k, name, folder, err);
    if (st == AD_OK && k != OTHER) st = unpack_file(u, k, name, err);
    else if (st == AD_OK) st = copy_data(u, name, -1, err);
    u->pickle = u->pickle || (regular && is_pickle(base));
    free(folder);
    return st;
}

/* ---- tar.gz ---- */

/* The next bytes of the tar, borrowed until the next call; 0 at the end, -1 when they cannot be had. */
static int inflate_block(unpacking *u)
{
    int n = gzread(u->gzip, u->inflated, BLOCK);
    if (n <= 0) return n;
    u->n_inflated += (size_t)n;
    u->bomb = u->n_inflated > HEADERS && u->n_inflated - HEADERS > u->limit;
    return u->bomb ? -1 : n;
}

static la_ssize_t on_read(struct archive *a, void *user, const void **data)
{
    unpacking *u = user;
    int n = inflate_block(u);
    *data = u->inflated;
    if (n < 0) archive_set_error(a, EILSEQ, "its gzip data is damaged");
    return n;
}

/* Behind the tar's end: the checksum is at the end of the gzip data. */
static ad_status finish_gzip(unpacking *u, ad_err *err)
{
    int n, code;
    while ((n = inflate_block(u)) > 0) {}
    if (u->bomb) return too_much(u, "its end", err);
    gzerror(u->gzip, &code);
    return n == 0 && code == Z_OK ? AD_OK : ad_fail(err, AD_EFORMAT, code == Z_BUF_ERROR ? "archive: its gzip data is truncated" : "archive: its gzip data is damaged");
}

/* ---- the whole ---- */

static ad_status unpack_entries(unpacking *u, ad_err *err)
{
    struct archive_entry *e;
    ad_status st = AD_OK;
    while (st == AD_OK) {
        int rc = archive_read_next_header(u->in, &e);
        if (rc == ARCHIVE_EOF) break;
        if (rc != ARCHIVE_OK && rc != ARCHIVE_WARN) return read_error(u, NULL, err); /* a warning is about names and attributes we do not use */
        if (++u->n_entries > AD_ARCHIVE_ENTRIES) return ad_fail(err, AD_ELIMIT, "archive: more than %d entries", AD_ARCHIVE_ENTRIES);
        st = unpack_entry(u, e, err);
    }
    return st;
}

static ad_status check_complete(const unpacking *u, ad_err *err)
{
    const bool *have = u->have;
    if (have[GGUF] && (have[CONFIG] || have[WEIGHTS])) return ad_fail(err, AD_EFORMAT, "archive: it holds a PEFT adapter and a GGUF file; send one of them");
    if (have[GGUF] || (have[CONFIG] && have[WEIGHTS])) return AD_OK;
    if (!have[WEIGHTS] && u->pickle) return ad_fail(err, AD_EUNSUPPORTED, "archive: its weights are a Python pickle, which could run anything; save them as adapter_model.safetensors");
    return ad_fail(err, AD_EFORMAT, "archive: it holds no %s",
                   have[WEIGHTS] ? file_of[CONFIG] : have[CONFIG] ? file_of[WEIGHTS] : "adapter: adapter_config.json and adapter_model.safetensors, or a *.gguf");
}

static bool is_gzip(int fd)
{
    unsigned char magic[2];
    return pread(fd, magic, 2, 0) == 2 && magic[0] == 0x1F && magic[1] == 0x8B;
}

static ad_status open_gzip(unpacking *u, int fd, ad_err *err)
{
    int own = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    u->gzip = own >= 0 ? gzdopen(own, "rb") : NULL;
    if (!u->gzip && own >= 0) close(own);
    u->inflated = malloc(BLOCK);
    if (!u->gzip || !u->inflated) return ad_fail(err, AD_ENOMEM, "archive: out of memory");
    gzbuffer(u->gzip, BLOCK / 2);
    return archive_read_open(u->in, u, NULL, on_read, NULL) == ARCHIVE_OK ? AD_OK : read_error(u, NULL, err);
}

static ad_status open_archive(unpacking *u, int fd, ad_err *err)
{
    struct stat sb;
    if (fstat(fd, &sb) != 0 || !S_ISREG(sb.st_mode)) return ad_fail(err, AD_EIO, "archive: its file cannot be read");
    u->by_ratio = (size_t)sb.st_size <= u->limit / AD_ARCHIVE_RATIO;
    if (u->by_ratio) u->limit = (size_t)sb.st_size * AD_ARCHIVE_RATIO;
    u->block = malloc(BLOCK);
    u->in = archive_read_new();
    if (!u->block || !u->in) return ad_fail(err, AD_ENOMEM, "archive: out of memory");
    if (sb.st_size == 0) return ad_fail(err, AD_EFORMAT, "archive: it is empty");
    bool ready = archive_read_support_format_tar(u->in) == ARCHIVE_OK;
    if (ready && is_gzip(fd)) return open_gzip(u, fd, err);
    /* A zip is what its directory at the end says; the reader that believes the entries' own headers is left out. */
    if (!ready || archive_read_support_format_zip_seekable(u->in) != ARCHIVE_OK) return ad_fail(err, AD_EUNSUPPORTED, "archive: this libarchive lacks tar or zip");
    return archive_read_open_fd(u->in, fd, BLOCK) == ARCHIVE_OK ? AD_OK : read_error(u, NULL, err);
}

ad_status ad_archive_unpack(const char *archive, const char *dir, size_t max_bytes, ad_err *err)
{
    unpacking u = {.limit = max_bytes, .dir = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
    int fd = open(archive, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    ad_status st = u.dir >= 0 && fd >= 0 ? open_archive(&u, fd, err) : ad_fail(err, AD_EIO, "archive: %.300s: %s", fd < 0 ? archive : dir, strerror(errno));
    if (st == AD_OK) st = unpack_entries(&u, err);
    if (st == AD_OK && u.gzip) st = finish_gzip(&u, err);
    if (st == AD_OK) st = check_complete(&u, err);
    if (st == AD_OK) drop_what_stands_elsewhere(&u);
    if (st == AD_OK && unlink(archive) != 0) st = ad_fail(err, AD_EIO, "archive: %.300s: %s", archive, strerror(errno));
    archive_read_free(u.in);
    if (u.gzip) gzclose(u.gzip);
    if (fd >= 0) close(fd);
    if (u.dir >= 0) close(u.dir);
    free(u.block);
    free(u.inflated);
    free(u.folder);
    for (kind k = 0; k < N_KINDS; k++) free(u.aside[k]);
    return st;
}
