/* SPDX-License-Identifier: MIT */
/* What the store's tests share: directories, uploads and rows. Any failure here fails the test. */
#ifndef TESTS_STORE_UTIL_H
#define TESTS_STORE_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store.h"
#include "adapters/store_files.h"
#include "tests/unit/suite.h"

/* A fresh directory below $TMPDIR. */
static inline void tu_make_dir(char path[AD_STORE_PATH])
{
    const char *tmp = getenv("TMPDIR");
    snprintf(path, AD_STORE_PATH, "%s/ad-test-XXXXXX", tmp ? tmp : "/tmp");
    ck_assert_msg(mkdtemp(path) != NULL, "%s: %s", path, strerror(errno));
}

static inline void tu_remove_dir(const char *path) { ck_assert_int_eq(ad_store_remove_tree(&ad_store_quick, path), 0); }

static inline bool tu_exists(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static inline void tu_write_file(const char *dir, const char *name, const char *text)
{
    char path[4 * AD_STORE_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

/* The text of a small file, or "" when there is none. */
static inline const char *tu_read_file(const char *dir, const char *name)
{
    static char text[256];
    char path[4 * AD_STORE_PATH];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof text - 1) : 0;
    if (fd >= 0) close(fd);
    text[n > 0 ? n : 0] = '\0';
    return text;
}

/* A digest that is told from others by its number; they spread over the directories. */
static inline ad_digest tu_digest(int number)
{
    ad_digest d = {{(uint8_t)(number * 37), 0xAB, (uint8_t)(number >> 8), (uint8_t)number}};
    return d;
}

static inline ad_store_change tu_put_adapter(const char *name, int64_t revision, int active)
{
    ad_store_change c = {.kind = AD_PUT_ADAPTER, .adapter = {.revision = revision, .created = 1700000000, .active = active, .next_number = active + 1}};
    snprintf(c.adapter.name, sizeof c.adapter.name, "%s", name);
    return c;
}

static inline ad_store_change tu_put_version(const char *name, int number, ad_digest digest)
{
    ad_store_change c = {.kind = AD_PUT_VERSION, .version = {.number = number, .digest = digest, .fits = true, .created = 1700000000, .bytes_disk = 10}};
    snprintf(c.version.name, sizeof c.version.name, "%s", name);
    return c;
}

static inline ad_store_change tu_drop_adapter(const char *name)
{
    ad_store_change c = {.kind = AD_DROP_ADAPTER};
    snprintf(c.adapter.name, sizeof c.adapter.name, "%s", name);
    return c;
}

/* One group in a transaction of its own. */
static inline ad_status tu_commit(ad_store *s, const ad_store_change *changes, int n, ad_err *err)
{
    ad_status st = ad_store_begin(s, err);
    if (st != AD_OK) return st;
    st = ad_store_apply(s, changes, n, err);
    ad_err other;
    ad_status committed = ad_store_commit(s, st == AD_OK ? err : &other);
    return st == AD_OK ? committed : st;
}

/* An upload with two small files whose text follows from the digest's number, on its way up to its row. The caller unholds. */
static inline ad_status tu_keep(ad_store *s, int number, ad_err *err)
{
    char path[AD_STORE_PATH], text[64];
    ad_digest d = tu_digest(number);
    ad_status st = ad_store_new_incoming(s, path, err);
    if (st != AD_OK) return st;
    snprintf(text, sizeof text, "weights %d", number);
    tu_write_file(path, "adapter_config.json", "{}");
    tu_write_file(path, "adapter_model.safetensors", text);
    st = ad_store_sync_incoming(s, path, err);
    if (st == AD_OK) st = ad_store_keep(s, path, &d, err);
    if (st != AD_OK) ad_store_discard(s, path);
    return st;
}

static inline bool tu_blob_is_whole(const ad_store *s, int number)
{
    char path[AD_STORE_PATH], text[64];
    ad_digest d = tu_digest(number);
    ad_store_blob_path(s, &d, path);
    snprintf(text, sizeof text, "weights %d", number);
    return !strcmp(tu_read_file(path, "adapter_config.json"), "{}") && !strcmp(tu_read_file(path, "adapter_model.safetensors"), text);
}

static inline bool tu_blob_is_there(const ad_store *s, int number)
{
    char path[AD_STORE_PATH];
    ad_digest d = tu_digest(number);
    ad_store_blob_path(s, &d, path);
    return tu_exists(path);
}

/* What the store's rows say, as one line per row. */
typedef struct {
    char text[8192];
    int adapters, versions, aliases;
} tu_rows;

static inline ad_status tu_on_adapter(void *user, const ad_stored_adapter *a, ad_err *err)
{
    tu_rows *r = user;
    size_t at = strlen(r->text);
    r->adapters++;
    snprintf(r->text + at, sizeof r->text - at, "adapter %s r%lld active %d previous %d next %d pinned %d %s %s\n", a->name, (long long)a->revision, a->active,
        a->previous, a->next_number, a->pinned, a->description ? a->description : "-", a->labels ? a->labels : "-");
    return AD_OK;
}

static inline ad_status tu_on_version(void *user, const ad_stored_version *v, ad_err *err)
{
    tu_rows *r = user;
    size_t at = strlen(r->text);
    r->versions++;
    snprintf(r->text + at, sizeof r->text - at, "version %s@%d digest %d base %d fits %d bytes %lld/%lld rank %d modules %d active %d %s %s %s %s %s\n", v->name, v->number, v->digest.bytes[3], v->base.bytes[3],
        v->fits, (long long)v->bytes_disk, (long long)v->bytes_packed, v->rank, v->modules, v->active, v->source ? v->source : "-", v->reason ? v->reason : "-", v->signature ? v->signature : "-", v->selftest ? v->selftest : "-",
        v->chat_template ? v->chat_template : "-");
    return AD_OK;
}

static inline ad_status tu_on_alias(void *user, const ad_stored_alias *a, ad_err *err)
{
    tu_rows *r = user;
    size_t at = strlen(r->text);
    r->aliases++;
    snprintf(r->text + at, sizeof r->text - at, "alias %s r%lld %s\n", a->name, (long long)a->revision, a->targets);
    return AD_OK;
}

static inline tu_rows *tu_read_rows(ad_store *s)
{
    static tu_rows rows;
    rows = (tu_rows){0};
    ad_store_reader reader = {.adapter = tu_on_adapter, .version = tu_on_version, .alias = tu_on_alias, .user = &rows};
    ad_err err = {0};
    ck_assert_msg(ad_store_read(s, &reader, &err) == AD_OK, "%s", err.msg);
    return &rows;
}

#endif
