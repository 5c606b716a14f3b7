/* SPDX-License-Identifier: MIT */
/* The store at work, for tests that look at it from outside.
 *   store_driver admit DIR    admits, replaces and deletes adapters, one at a time; says "acknowledged ..." when each is done
 *   store_driver full DIR     DIR is an empty file system of a few megabytes: leaves it 0, 1, 2 ... pages and admits an adapter each time */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/store.h"

enum { PAGE = 4096, MAX_PAGES = 60 };

static ad_store *store;
static ad_err err;
static int revision;

_Noreturn static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static void must(ad_status st)
{
    if (st != AD_OK) die("%s: %s", ad_status_name(st), err.msg);
}

static ad_digest digest_of(int number) { return (ad_digest){{(uint8_t)(number * 37), (uint8_t)(number >> 8), (uint8_t)number}}; }

/* What an upload does: bytes into a file, and nothing more. */
static ad_status write_file(const char *dir, const char *name, int length)
{
    char path[AD_STORE_PATH + 64], text[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    memset(text, 'w', sizeof text);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0) return ad_fail(&err, errno == ENOSPC ? AD_EFULL : AD_EIO, "%s: %m", path);
    ad_status st = AD_OK;
    for (int at = 0; st == AD_OK && at < length; at += (int)sizeof text)
        if (write(fd, text, sizeof text) != sizeof text) st = ad_fail(&err, errno == ENOSPC ? AD_EFULL : AD_EIO, "%s: %m", path);
    close(fd);
    return st;
}

static ad_status commit(const ad_store_change *changes, int n)
{
    ad_err other;
    ad_status st = ad_store_begin(store, &err);
    if (st != AD_OK) return st;
    st = ad_store_apply(store, changes, n, &err);
    ad_status committed = ad_store_commit(store, st == AD_OK ? &err : &other);
    return st == AD_OK ? committed : st;
}

static ad_status keep(int number)
{
    char path[AD_STORE_PATH];
    ad_digest d = digest_of(number);
    ad_status st = ad_store_new_incoming(store, path, &err);
    if (st != AD_OK) return st;
    st = write_file(path, "adapter_config.json", 256);
    if (st == AD_OK) st = write_file(path, "adapter_model.safetensors", 2 * PAGE);
    if (st == AD_OK) st = ad_store_sync_incoming(store, path, &err);
    if (st == AD_OK) st = ad_store_keep(store, path, &d, &err);
    if (st != AD_OK) ad_store_discard(store, path);
    return st;
}

static ad_status admit(const char *name, int version, int number)
{
    ad_digest d = digest_of(number);
    ad_store_change c[] = {{.kind = AD_PUT_ADAPTER, .adapter = {.revision = ++revision, .active = version, .next_number = version + 1}},
        {.kind = AD_PUT_VERSION, .version = {.number = version, .digest = d, .fits = true}}};
    strcpy(c[0].adapter.name, name);
    strcpy(c[1].version.name, name);
    ad_status st = keep(number);
    if (st != AD_OK) return st;
    st = commit(c, 2);
    ad_store_unhold(store, &d);
    if (st != AD_OK) ad_store_collect(store, &d);
    return st;
}

static void drop(const char *name, int number)
{
    ad_store_change c = {.kind = AD_DROP_ADAPTER};
    ad_digest d = digest_of(number);
    strcpy(c.adapter.name, name);
    must(commit(&c, 1));
    ad_store_collect(store, &d);
}

static void acknowledge(const char *what)
{
    dprintf(STDOUT_FILENO, "acknowledged %s\n", what);
}

static void admit_some(const char *dir)
{
    char name[32], what[64];
    must(ad_store_open(&store, dir, &err));
    for (int i = 0; i < 5; i++) {
        snprintf(name, sizeof name, "adapter-%d", i);
        must(admit(name, 1, i));
        snprintf(what, sizeof what, "blob %s@1", name);
        acknowledge(what);
    }
    must(admit("adapter-0", 2, 5));
    acknowledge("blob adapter-0@2");
    must(admit("adapter-5", 1, 2)); /* a blob that is there */
    acknowledge("blob adapter-5@1");
    drop("adapter-1", 1);
    acknowledge("drop adapter-1");
    ad_store_close(&store);
}

/* ---- a full disk ---- */

static int n_versions, n_broken;

static ad_status count_version(void *user, const ad_stored_version *v, ad_err *e)
{
    char path[AD_STORE_PATH], file[AD_STORE_PATH + 64];
    ad_store_blob_path(store, &v->digest, path);
    snprintf(file, sizeof file, "%s/adapter_model.safetensors", path);
    n_versions++;
    n_broken += access(file, R_OK) != 0;
    return AD_OK;
}

static void check_count(int wanted, const char *when)
{
    ad_store_reader reader = {.version = count_version};
    n_versions = n_broken = 0;
    must(ad_store_read(store, &reader, &err));
    if (n_versions != wanted || n_broken) die("%s: %d adapters instead of %d, %d without their blob", when, n_versions, wanted, n_broken);
}

/* Takes all space but some pages. */
static void fill_up(const char *ballast, int pages_left)
{
    static char page[PAGE];
    int fd = open(ballast, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    long pages = 0;
    if (fd < 0) die("%s: %m", ballast);
    while (write(fd, page, PAGE) == PAGE) pages++;
    if (errno != ENOSPC || pages < pages_left || ftruncate(fd, (pages - pages_left) * PAGE) != 0) die("%s: %ld pages, %m", ballast, pages);
    close(fd);
}

static void admit_on_a_full_disk(const char *dir)
{
    char state[AD_STORE_PATH], ballast[AD_STORE_PATH], name[32];
    int n_done = 1, n_full = 0;
    snprintf(state, sizeof state, "%s/state", dir);
    snprintf(ballast, sizeof ballast, "%s/ballast", dir);
    must(ad_store_open(&store, state, &err));
    must(admit("first", 1, 1000));
    for (int pages = 0; pages < MAX_PAGES; pages++) {
        snprintf(name, sizeof name, "adapter-%d", pages);
        fill_up(ballast, pages);
        ad_status st = admit(name, 1, pages);
        if (st != AD_OK && st != AD_EFULL) die("%d pages left: %s: %s", pages, ad_status_name(st), err.msg);
        n_done += st == AD_OK;
        n_full += st == AD_EFULL;
        check_count(n_done, "after a try");
        fill_up(ballast, 0);
        if (pages % 7 == 0) { /* the daemon can be started again, with no page left */
            ad_store_close(&store);
            must(ad_store_open(&store, state, &err));
            check_count(n_done, "after a restart");
        }
        unlink(ballast);
    }
    ad_store_close(&store);
    must(ad_store_open(&store, state, &err));
    check_count(n_done, "in the end");
    ad_store_close(&store);
    if (n_full < 5 || n_done < 5) die("%d times full and %d times not: the sizes are wrong", n_full, n_done);
    printf("%d times full, %d times not\n", n_full, n_done);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "admit")) admit_some(argv[2]);
    else if (argc == 3 && !strcmp(argv[1], "full")) admit_on_a_full_disk(argv[2]);
    else die("usage: store_driver admit|full DIR");
    return 0;
}
