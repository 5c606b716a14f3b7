/* SPDX-License-Identifier: MIT */
#include "tests/unit/disk_double.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/mem.h"

enum { SECTOR = 512 };

typedef struct node node;

typedef struct {
    char name[96];
    node *node;
} entry;

typedef struct {
    entry *items;
    size_t n, cap;
} names;

/* A file or directory, whatever it is called. */
struct node {
    bool is_dir;
    char *bytes; /* [len]: of a file, durable */
    size_t len;
    names live, durable;
    node *next, *copy;
};

struct dd_disk {
    char dir[AD_STORE_PATH];
    node *root, *all;
};

static dd_disk *disk;
static dd_before before;
static void *before_user;
static int last_error; /* what the VFS says when SQLite asks */

/* ---- the tree ---- */

static node *new_node(dd_disk *d, bool is_dir)
{
    node *n = ad_calloc(1, sizeof *n);
    assert(n);
    n->is_dir = is_dir;
    n->next = d->all;
    d->all = n;
    return n;
}

static entry *find_name(const names *l, const char *name)
{
    for (entry *e = l->items; e < l->items + l->n; e++)
        if (!strcmp(e->name, name)) return e;
    return NULL;
}

static void set_name(names *l, const char *name, node *n)
{
    entry *e = find_name(l, name);
    if (!e) {
        ad_status st = ad_grow(&l->items, &l->cap, l->n + 1, sizeof *e);
        assert(st == AD_OK && strlen(name) < sizeof e->name);
        (void)st;
        e = &l->items[l->n++];
        strcpy(e->name, name);
    }
    e->node = n;
}

static void remove_name(names *l, const char *name)
{
    entry *e = find_name(l, name);
    if (e) *e = l->items[--l->n];
}

static void copy_names(names *to, const names *from)
{
    to->n = 0;
    for (const entry *e = from->items; e < from->items + from->n; e++) set_name(to, e->name, e->node);
}

static const char *below(const dd_disk *d, const char *path)
{
    size_t len = strlen(d->dir);
    assert(!strncmp(path, d->dir, len) && (path[len] == '/' || !path[len]));
    return path[len] ? path + len + 1 : path + len;
}

static const char *base_name(const char *path) { return strrchr(path, '/') + 1; }

static node *find(dd_disk *d, const char *path)
{
    char rest[AD_STORE_PATH], *save = NULL;
    strcpy(rest, below(d, path));
    node *n = d->root;
    for (char *part = strtok_r(rest, "/", &save); n && part; part = strtok_r(NULL, "/", &save)) {
        entry *e = find_name(&n->live, part);
        n = e ? e->node : NULL;
    }
    return n;
}

static node *parent_of(dd_disk *d, const char *path)
{
    char up[AD_STORE_PATH];
    strcpy(up, path);
    *strrchr(up, '/') = '\0';
    node *n = find(d, up);
    assert(n && n->is_dir);
    return n;
}

/* The file or directory of this path, which is there; uploads are written beside us and seen here for the first time. */
static node *meet(dd_disk *d, const char *path, bool is_dir)
{
    node *n = find(d, path);
    if (n) return n;
    n = new_node(d, is_dir);
    set_name(&parent_of(d, path)->live, base_name(path), n);
    return n;
}

static void meet_all(dd_disk *d, const char *path)
{
    char sub[AD_STORE_PATH + 256];
    struct stat st;
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (lstat(sub, &st) == 0) meet(d, sub, S_ISDIR(st.st_mode));
    }
    if (dir) closedir(dir);
}

static char *read_bytes(const char *path, size_t *len)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) != 0) st.st_size = 0;
    char *p = malloc((size_t)st.st_size + 1);
    ssize_t n = st.st_size ? read(fd, p, (size_t)st.st_size) : 0;
    assert(n == st.st_size);
    if (fd >= 0) close(fd);
    *len = (size_t)n;
    return p;
}

static void keep_bytes(node *n, const char *path)
{
    free(n->bytes);
    n->bytes = read_bytes(path, &n->len);
}

dd_disk *dd_new(const char *dir)
{
    dd_disk *d = ad_calloc(1, sizeof *d);
    assert(d);
    strcpy(d->dir, dir);
    d->root = new_node(d, true);
    return d;
}

void dd_free(dd_disk **dp)
{
    dd_disk *d = *dp;
    if (!d) return;
    *dp = NULL;
    for (node *n = d->all, *next; n; n = next) {
        next = n->next;
        free(n->bytes);
        free(n->live.items);
        free(n->durable.items);
        free(n);
    }
    free(d);
}

void dd_use(dd_disk *d, dd_before b, void *user)
{
    disk = d;
    before = b;
    before_user = user;
}

/* 0 to go on, 1 when the operation is to be skipped, -1 with errno when it fails. */
static int ask(dd_kind kind, const char *path)
{
    dd_op op = {kind, below(disk, path)};
    int answer = before ? before(before_user, &op) : 0;
    if (answer <= 0) return -answer;
    errno = last_error = answer;
    return -1;
}

/* ---- the store's operations ---- */

/* As the kernel does, before it asks the disk for anything. */
static bool is_there(const char *path)
{
    struct stat st;
    return lstat(path, &st) == 0;
}

static int make_dir(const char *path)
{
    if (is_there(path)) return errno = EEXIST, -1;
    int go = ask(DD_MAKE_DIR, path);
    if (go) return go < 0 ? -1 : 0;
    int rc = ad_store_disk.make_dir(path);
    if (rc == 0) meet(disk, path, true);
    return rc;
}

static int create(const char *path)
{
    if (is_there(path)) return 0;
    int go = ask(DD_CREATE, path);
    if (go) return go < 0 ? -1 : 0;
    int rc = ad_store_disk.create(path);
    if (rc == 0) meet(disk, path, false);
    return rc;
}

static int rename_path(const char *from, const char *to)
{
    int go = ask(DD_RENAME, to);
    if (go) return go < 0 ? -1 : 0;
    node *n = find(disk, from);
    int rc = rename(from, to);
    if (rc != 0) return rc;
    if (!n) n = meet(disk, from, true);
    remove_name(&parent_of(disk, from)->live, base_name(from));
    set_name(&parent_of(disk, to)->live, base_name(to), n);
    return 0;
}

static int exchange(const char *a, const char *b)
{
    int go = ask(DD_EXCHANGE, b);
    if (go) return go < 0 ? -1 : 0;
    node *x = meet(disk, a, true), *y = meet(disk, b, true);
    int rc = ad_store_disk.exchange(a, b);
    if (rc != 0) return rc;
    set_name(&parent_of(disk, a)->live, base_name(a), y);
    set_name(&parent_of(disk, b)->live, base_name(b), x);
    return 0;
}

static int remove_path(const char *path, int (*real)(const char *))
{
    int go = ask(DD_REMOVE, path);
    if (go) return go < 0 ? -1 : 0;
    int rc = real(path);
    if (rc == 0) remove_name(&parent_of(disk, path)->live, base_name(path));
    return rc;
}

static int remove_file(const char *path) { return remove_path(path, unlink); }
static int remove_dir(const char *path) { return remove_path(path, rmdir); }

static int sync_file(const char *path)
{
    int go = ask(DD_SYNC_FILE, path);
    if (go) return go < 0 ? -1 : 0;
    keep_bytes(meet(disk, path, false), path);
    return 0;
}

static int sync_dir(const char *path)
{
    int go = ask(DD_SYNC_DIR, path);
    if (go) return go < 0 ? -1 : 0;
    node *n = find(disk, path);
    assert(n && n->is_dir);
    meet_all(disk, path);
    copy_names(&n->durable, &n->live);
    return 0;
}

const ad_store_files dd_files = {make_dir, create, rename_path, exchange, remove_file, remove_dir, sync_file, sync_dir};

/* ---- SQLite's operations ---- */

typedef struct {
    sqlite3_file base;
    sqlite3_file *real;
    node *node;
    char path[AD_STORE_PATH];
    bool keeps_name; /* the first sync does: it is a log that may be new */
} dd_file;

static dd_file *of(sqlite3_file *f) { return (dd_file *)f; }

static int on_close(sqlite3_file *f) { return of(f)->real->pMethods->xClose(of(f)->real); }
static int on_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) { return of(f)->real->pMethods->xRead(of(f)->real, p, n, at); }
static int on_size(sqlite3_file *f, sqlite3_int64 *size) { return of(f)->real->pMethods->xFileSize(of(f)->real, size); }
static int on_lock(sqlite3_file *f, int level) { return of(f)->real->pMethods->xLock(of(f)->real, level); }
static int on_unlock(sqlite3_file *f, int level) { return of(f)->real->pMethods->xUnlock(of(f)->real, level); }
static int on_reserved(sqlite3_file *f, int *out) { return of(f)->real->pMethods->xCheckReservedLock(of(f)->real, out); }
static int on_sector(sqlite3_file *f) { return of(f)->real->pMethods->xSectorSize(of(f)->real); }
static int on_device(sqlite3_file *f) { return of(f)->real->pMethods->xDeviceCharacteristics(of(f)->real); }

static int on_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
    if (ask(DD_WRITE, of(f)->path)) return last_error == ENOSPC ? SQLITE_FULL : SQLITE_IOERR_WRITE; /* as SQLite's own does */
    return of(f)->real->pMethods->xWrite(of(f)->real, p, n, at);
}

static int on_truncate(sqlite3_file *f, sqlite3_int64 size)
{
    if (ask(DD_TRUNCATE, of(f)->path)) return SQLITE_IOERR_TRUNCATE;
    return of(f)->real->pMethods->xTruncate(of(f)->real, size);
}

static int on_sync(sqlite3_file *f, int flags)
{
    dd_file *file = of(f);
    int go = ask(DD_SYNC_FILE, file->path);
    if (go) return go < 0 ? SQLITE_IOERR_FSYNC : SQLITE_OK;
    keep_bytes(file->node, file->path);
    if (file->keeps_name) set_name(&parent_of(disk, file->path)->durable, base_name(file->path), file->node);
    file->keeps_name = false;
    return SQLITE_OK;
}

static int on_control(sqlite3_file *f, int op, void *arg)
{
    if (op == SQLITE_FCNTL_SIZE_HINT) return SQLITE_OK; /* would write beside us */
    if (op != SQLITE_FCNTL_LAST_ERRNO) return of(f)->real->pMethods->xFileControl(of(f)->real, op, arg);
    *(int *)arg = last_error;
    return SQLITE_OK;
}

static const sqlite3_io_methods file_methods = {1, on_close, on_read, on_write, on_truncate, on_sync, on_size, on_lock, on_unlock, on_reserved, on_control, on_sector, on_device,
    NULL, NULL, NULL, NULL, NULL, NULL};

static sqlite3_vfs *real_vfs(sqlite3_vfs *v) { return v->pAppData; }

static int on_open(sqlite3_vfs *v, const char *path, sqlite3_file *f, int flags, int *out_flags)
{
    dd_file *file = of(f);
    f->pMethods = NULL;
    assert(path);
    if (!is_there(path) && (flags & SQLITE_OPEN_CREATE) && ask(DD_CREATE, path)) return SQLITE_CANTOPEN;
    file->real = (sqlite3_file *)(file + 1);
    int rc = real_vfs(v)->xOpen(real_vfs(v), path, file->real, flags, out_flags);
    if (rc != SQLITE_OK) return rc;
    f->pMethods = &file_methods;
    strcpy(file->path, path);
    file->node = meet(disk, path, false);
    file->keeps_name = (flags & SQLITE_OPEN_CREATE) && (flags & (SQLITE_OPEN_WAL | SQLITE_OPEN_MAIN_JOURNAL | SQLITE_OPEN_SUPER_JOURNAL));
    return SQLITE_OK;
}

static int on_delete(sqlite3_vfs *v, const char *path, int sync)
{
    if (remove_path(path, unlink) != 0) return errno == ENOENT ? SQLITE_IOERR_DELETE_NOENT : SQLITE_IOERR_DELETE;
    if (sync) remove_name(&parent_of(disk, path)->durable, base_name(path));
    return SQLITE_OK;
}

static int on_access(sqlite3_vfs *v, const char *path, int flags, int *out) { return real_vfs(v)->xAccess(real_vfs(v), path, flags, out); }
static int on_full_path(sqlite3_vfs *v, const char *path, int size, char *out) { return real_vfs(v)->xFullPathname(real_vfs(v), path, size, out); }
static int on_random(sqlite3_vfs *v, int n, char *out) { return real_vfs(v)->xRandomness(real_vfs(v), n, out); }
static int on_sleep(sqlite3_vfs *v, int us) { return real_vfs(v)->xSleep(real_vfs(v), us); }
static int on_time(sqlite3_vfs *v, double *out) { return real_vfs(v)->xCurrentTime(real_vfs(v), out); }
static int on_last_error(sqlite3_vfs *v, int n, char *out) { return last_error; }

const char *dd_vfs(void)
{
    static sqlite3_vfs vfs = {.iVersion = 1, .mxPathname = AD_STORE_PATH - 1, .zName = "disk_double", .xOpen = on_open, .xDelete = on_delete, .xAccess = on_access,
        .xFullPathname = on_full_path, .xRandomness = on_random, .xSleep = on_sleep, .xCurrentTime = on_time, .xGetLastError = on_last_error};
    if (vfs.pAppData) return vfs.zName;
    sqlite3_vfs *real = sqlite3_vfs_find(NULL);
    vfs.pAppData = real;
    vfs.szOsFile = (int)sizeof(dd_file) + real->szOsFile;
    int rc = sqlite3_vfs_register(&vfs, 0);
    assert(rc == SQLITE_OK);
    (void)rc;
    return vfs.zName;
}

/* ---- losing power ---- */

typedef struct {
    const dd_disk *disk;
    dd_luck luck;
    unsigned seed;
} loss;

static bool toss(loss *l)
{
    l->seed = l->seed * 1664525u + 1013904223u;
    return l->seed >> 31;
}

/* Where the node is now, into path; false when it was removed. */
static bool live_path(const node *from, const node *wanted, char *path)
{
    if (from == wanted) return true;
    size_t len = strlen(path);
    for (const entry *e = from->live.items; e < from->live.items + from->live.n; e++) {
        sprintf(path + len, "/%s", e->name);
        if (live_path(e->node, wanted, path)) return true;
        path[len] = '\0';
    }
    return false;
}

static void write_bytes(const char *path, const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    ssize_t n = write(fd, bytes, len);
    assert(n == (ssize_t)len);
    (void)n;
    close(fd);
}

/* Every sector is either as synced or as written last. */
static void mix_bytes(loss *l, char **bytes, size_t *len, const node *n)
{
    size_t size = toss(l) ? *len : n->len;
    char *mixed = ad_calloc(1, size + 1);
    for (size_t at = 0; at < size; at += SECTOR) {
        bool live = toss(l);
        const char *from = live ? *bytes : n->bytes;
        size_t have = live ? *len : n->len, end = at + SECTOR < size ? at + SECTOR : size;
        if (end > have) end = have;
        if (end > at) memcpy(mixed + at, from + at, end - at);
    }
    free(*bytes);
    *bytes = mixed;
    *len = size;
}

static void write_file(loss *l, const node *n, const char *to)
{
    char path[AD_STORE_PATH];
    strcpy(path, l->disk->dir);
    if (l->luck == DD_NOTHING || l->luck == DD_NAMES || !live_path(l->disk->root, n, path)) {
        write_bytes(to, n->bytes, n->len);
        return;
    }
    size_t len;
    char *bytes = read_bytes(path, &len);
    if (l->luck == DD_MIXTURE) mix_bytes(l, &bytes, &len, n);
    write_bytes(to, bytes, len);
    free(bytes);
}

static void write_node(loss *l, const node *n, const char *to);

static void write_name(loss *l, const entry *e, const char *to)
{
    char sub[AD_STORE_PATH + 128];
    snprintf(sub, sizeof sub, "%s/%s", to, e->name);
    if (e->node->is_dir && mkdir(sub, 0700) != 0) assert(errno == EEXIST);
    write_node(l, e->node, sub);
}

static void write_names(loss *l, const node *n, const char *to)
{
    names chosen = {0};
    copy_names(&chosen, l->luck == DD_NAMES || l->luck == DD_ALL ? &n->live : &n->durable);
    for (size_t i = 0; l->luck == DD_MIXTURE && i < n->live.n; i++)
        if (toss(l)) set_name(&chosen, n->live.items[i].name, n->live.items[i].node);
    for (size_t i = 0; l->luck == DD_MIXTURE && i < n->durable.n; i++)
        if (!find_name(&n->live, n->durable.items[i].name) && toss(l)) remove_name(&chosen, n->durable.items[i].name);
    for (size_t i = 0; i < chosen.n; i++) write_name(l, &chosen.items[i], to);
    free(chosen.items);
}

static void write_node(loss *l, const node *n, const char *to)
{
    if (n->is_dir) write_names(l, n, to);
    else write_file(l, n, to);
}

void dd_lose_power(const dd_disk *d, dd_luck luck, unsigned seed, const char *dir)
{
    loss l = {d, luck, seed};
    write_node(&l, d->root, dir);
}

static void repoint(names *to, const names *from)
{
    for (const entry *e = from->items; e < from->items + from->n; e++) set_name(to, e->name, e->node->copy);
}

dd_disk *dd_kill(const dd_disk *d, const char *dir)
{
    dd_disk *copy = dd_new(dir);
    for (node *n = d->all; n; n = n->next) {
        n->copy = n == d->root ? copy->root : new_node(copy, n->is_dir);
        n->copy->bytes = malloc(n->len + 1);
        if (n->len) memcpy(n->copy->bytes, n->bytes, n->len);
        n->copy->len = n->len;
    }
    for (const node *n = d->all; n; n = n->next) {
        repoint(&n->copy->live, &n->live);
        repoint(&n->copy->durable, &n->durable);
    }
    dd_lose_power(d, DD_ALL, 0, dir);
    return copy;
}
