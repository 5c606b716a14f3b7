/* SPDX-License-Identifier: MIT */
/* Watches a directory by looking at it again and again: no notifications, which network file systems do not send and full queues lose.
 * Nothing here opens an adapter's files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/source.h"
#include "adapters/template.h"
#include "core/base/mem.h"

enum { PATH = 4096 };

typedef struct {
    bool there;           /* it is a directory */
    bool complete;        /* and holds an adapter */
    ad_watch_state state;
} look;

typedef struct {
    char *name;           /* owned */
    look seen;            /* last scan */
    uint64_t since_ms;    /* it looks like this */
    bool told;            /* its arrival, and not that it is gone */
    ad_watch_state told_state;
} folder;

struct ad_watch {
    char dir[PATH - 256]; /* with room for a name */
    int settle_ms;
    folder *folders;      /* [n] by name */
    size_t n;
};

typedef struct {
    char **items;
    size_t n, cap;
} name_list;

ad_status ad_watch_new(ad_watch **out, const char *dir, int settle_ms, ad_err *err)
{
    ad_watch *w = NULL;
    if (strlen(dir) >= sizeof w->dir) return ad_fail(err, AD_EINVAL, "watched directory: the path is longer than %zu bytes", sizeof w->dir - 1);
    w = ad_calloc(1, sizeof *w);
    if (!w) return ad_fail(err, AD_ENOMEM, "watched directory: out of memory");
    strcpy(w->dir, dir);
    w->settle_ms = settle_ms;
    *out = w;
    return AD_OK;
}

void ad_watch_free(ad_watch **wp)
{
    ad_watch *w = *wp;
    if (!w) return;
    for (size_t i = 0; i < w->n; i++) free(w->folders[i].name);
    free(w->folders);
    free(w);
    *wp = NULL;
}

/* ---- reading ---- */

static void free_names(name_list *l)
{
    for (size_t i = 0; i < l->n; i++) free(l->items[i]);
    free(l->items);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static ad_status add_name(name_list *l, const char *name, const char *dir, ad_err *err)
{
    if (l->n == AD_WATCH_FOLDERS) return ad_fail(err, AD_ELIMIT, "%.300s: more than %d folders", dir, AD_WATCH_FOLDERS);
    char *copy = strdup(name);
    if (!copy || ad_grow(&l->items, &l->cap, l->n + 1, sizeof *l->items) != AD_OK) {
        free(copy);
        return ad_fail(err, AD_ENOMEM, "%.300s: out of memory", dir);
    }
    l->items[l->n++] = copy;
    return AD_OK;
}

/* All names but hidden ones, sorted; files are among them. */
static ad_status read_names(const char *dir, DIR *d, name_list *l, ad_err *err)
{
    ad_status st = AD_OK;
    errno = 0;
    for (struct dirent *e; st == AD_OK && (e = readdir(d)); errno = 0)
        if (e->d_name[0] != '.' && e->d_type != DT_REG) st = add_name(l, e->d_name, dir, err);
    if (st == AD_OK && errno) st = ad_fail(err, AD_EIO, "%.300s: %s", dir, strerror(errno));
    if (l->n) qsort(l->items, l->n, sizeof *l->items, by_name);
    return st;
}

/* False when there is no such regular file. */
static bool take_stamp(int dir, const char *name, ad_watch_state *state, int i)
{
    struct stat s;
    if (fstatat(dir, name, &s, 0) != 0 || !S_ISREG(s.st_mode)) return false;
    state->files[i].device = s.st_dev, state->files[i].inode = s.st_ino;
    state->files[i].bytes = s.st_size, state->files[i].seconds = s.st_mtim.tv_sec, state->files[i].nanoseconds = s.st_mtim.tv_nsec;
    return true;
}

static void take_stamps(int dir, const ad_origin_files *f, look *out)
{
    bool config = f->config && take_stamp(dir, "adapter_config.json", &out->state, 0);
    bool weights = f->weights && take_stamp(dir, "adapter_model.safetensors", &out->state, 1);
    if (f->signature) take_stamp(dir, "adapter.minisig", &out->state, 2);
    bool gguf = f->n_gguf && take_stamp(dir, f->gguf, &out->state, 3);
    if (f->template) take_stamp(dir, AD_TEMPLATE_FILE, &out->state, 4);
    if (f->tokenizer) take_stamp(dir, AD_TOKENIZER_CONFIG, &out->state, 5);
    out->complete = ad_origin_complete(f, "", NULL) == AD_OK && (f->config ? config && weights : gguf);
}

/* A folder that may not be entered is there, but no adapter; that the machine is short of something says nothing about a folder. */
static ad_status look_at(int dir, const char *name, look *out, ad_err *err)
{
    ad_origin_files f;
    *out = (look){0};
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0 && (errno == ENOENT || errno == ENOTDIR || errno == ELOOP)) return AD_OK;
    out->there = true;
    if (fd < 0 && errno == EACCES) return AD_OK;
    if (fd < 0) return ad_fail(err, AD_EIO, "%.255s: %s", name, strerror(errno));
    ad_status st = ad_origin_list(&f, fd, name, err);
    if (st == AD_OK) take_stamps(fd, &f, out);
    close(fd);
    return st == AD_ELIMIT ? AD_OK : st; /* too many files to be an adapter */
}

void ad_watch_read_state(const char *path, ad_watch_state *out)
{
    look l;
    *out = look_at(AT_FDCWD, path, &l, NULL) == AD_OK ? l.state : (ad_watch_state){0};
}

/* ---- comparing ---- */

/* What was known, and what is new, by name. Takes the new names; w is as it was when this fails. */
static ad_status merge(ad_watch *w, name_list *l, ad_err *err)
{
    folder *all = ad_calloc(w->n + l->n, sizeof *all);
    size_t n = 0, i = 0, k = 0;
    if (!all) return ad_fail(err, AD_ENOMEM, "%.300s: out of memory", w->dir);
    while (i < w->n || k < l->n) {
        int order = i == w->n ? 1 : k == l->n ? -1 : strcmp(w->folders[i].name, l->items[k]);
        if (order <= 0) all[n++] = w->folders[i++];
        else all[n++] = (folder){.name = l->items[k], .since_ms = UINT64_MAX}, l->items[k] = NULL;
        if (order >= 0) k++;
    }
    free(w->folders);
    w->folders = all;
    w->n = n;
    return AD_OK;
}

static bool same_look(const look *a, const look *b)
{
    return a->there == b->there && a->complete == b->complete && !memcmp(&a->state, &b->state, sizeof a->state);
}

/* Whether there is something to tell of a folder that looks like this now. */
static bool compare(folder *f, const look *now, uint64_t now_ms, int settle_ms, ad_watch_event *what)
{
    bool is_new = f->since_ms == UINT64_MAX;
    if (is_new || !same_look(&f->seen, now)) {
        f->seen = *now;
        f->since_ms = now_ms;
        return false;
    }
    if (now_ms - f->since_ms < (uint64_t)settle_ms) return false;
    if (!now->there) {
        *what = AD_WATCH_GONE;
        return f->told;
    }
    if (!now->complete || (f->told && !memcmp(&f->told_state, &now->state, sizeof now->state))) return false;
    *what = f->told ? AD_WATCH_CHANGED : AD_WATCH_ARRIVED;
    return true;
}

/* The folder's state is written before anybody hears of it. */
static void tell(const ad_watch *w, folder *f, ad_watch_event what, ad_watch_fn event, void *user)
{
    char path[PATH];
    snprintf(path, sizeof path, "%s/%.255s", w->dir, f->name);
    f->told = what != AD_WATCH_GONE;
    f->told_state = f->seen.state;
    event(user, what, f->name, path);
}

/* Those that are gone, and of which nobody waits to hear it. */
static void forget(ad_watch *w)
{
    size_t kept = 0;
    for (size_t i = 0; i < w->n; i++) {
        folder *f = &w->folders[i];
        if (f->seen.there || f->told) w->folders[kept++] = *f;
        else free(f->name);
    }
    w->n = kept;
}

static ad_status look_at_all(const ad_watch *w, int dir, look *looks, ad_err *err)
{
    ad_status st = AD_OK;
    for (size_t i = 0; i < w->n && st == AD_OK; i++) st = look_at(dir, w->folders[i].name, &looks[i], err);
    return st;
}

static ad_status scan(ad_watch *w, int dir, uint64_t now_ms, ad_watch_fn event, void *user, ad_err *err)
{
    look *looks = ad_calloc(w->n, sizeof *looks);
    ad_status st = looks ? look_at_all(w, dir, looks, err) : ad_fail(err, AD_ENOMEM, "%.300s: out of memory", w->dir);
    for (size_t i = 0; i < w->n && st == AD_OK; i++) {
        ad_watch_event what;
        if (compare(&w->folders[i], &looks[i], now_ms, w->settle_ms, &what)) tell(w, &w->folders[i], what, event, user);
    }
    free(looks);
    forget(w);
    return st;
}

ad_status ad_watch_scan(ad_watch *w, uint64_t now_ms, ad_watch_fn event, void *user, ad_err *err)
{
    name_list l = {0};
    DIR *d = opendir(w->dir);
    if (!d) return ad_fail(err, AD_EIO, "%.300s: %s", w->dir, strerror(errno));
    ad_status st = read_names(w->dir, d, &l, err);
    if (st == AD_OK) st = merge(w, &l, err);
    if (st == AD_OK) st = scan(w, dirfd(d), now_ms, event, user, err);
    closedir(d);
    free_names(&l);
    return st;
}
