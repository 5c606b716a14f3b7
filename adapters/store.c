/* SPDX-License-Identifier: MIT */
/* The state directory: its lock, its blobs and uploads; store_db.c has the rows. */
#include "adapters/store.h"

#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "adapters/store_db.h"
#include "adapters/store_files.h"
#include "core/base/file.h"
#include "core/base/mem.h"

enum { ROOT_PATH = AD_STORE_PATH - 256 }; /* leaves room for what is below it */

/* A blob whose row is not committed yet, and how many uploads wait for that. */
typedef struct {
    ad_digest digest;
    int count;
} hold;

struct ad_store {
    const ad_store_files *files;
    ad_store_db *db;
    bool durable;
    int lock_fd;                 /* -1: in memory */
    char dir[ROOT_PATH];         /* absolute */
    pthread_mutex_t moving;      /* a blob comes to its place or leaves it; guards placings and named */
    uint64_t placings;           /* uploads that were moved to the blobs' places */
    bool named[256];             /* the name of blobs/xx is durable */
    pthread_mutex_t holding;     /* guards holds; never kept for long: the loop takes it */
    hold *holds;
    size_t n_holds, cap_holds;
};

static ad_status fail_path(ad_err *err, const char *path, const char *what)
{
    int error = errno;
    return ad_fail(err, ad_errno_status(error), "%s: cannot %s: %s", path, what, strerror(error));
}

static void path_in(const ad_store *s, char path[AD_STORE_PATH], const char *name) { snprintf(path, AD_STORE_PATH, "%s/%s", s->dir, name); }

/* ---- opening ---- */

static ad_status ensure_dir(ad_store *s, const char *path, ad_err *err)
{
    if (s->files->make_dir(path) == 0 || errno == EEXIST) return AD_OK;
    return fail_path(err, path, "make the directory");
}

static ad_status take_root(ad_store *s, const char *dir, ad_err *err)
{
    ad_status st = ensure_dir(s, dir, err);
    if (st != AD_OK) return st;
    char *whole = realpath(dir, NULL);
    if (!whole) return fail_path(err, dir, "find the directory");
    if (strlen(whole) < sizeof s->dir) strcpy(s->dir, whole);
    else st = ad_fail(err, AD_EINVAL, "%.200s...: the path of the state directory is over %zu bytes", whole, sizeof s->dir - 1);
    free(whole);
    return st;
}

static ad_status make_private_root(ad_store *s, ad_err *err)
{
    const char *tmp = getenv("TMPDIR");
    snprintf(s->dir, sizeof s->dir, "%s/adapterd-XXXXXX", tmp && strlen(tmp) < sizeof s->dir / 2 ? tmp : "/tmp");
    if (mkdtemp(s->dir)) return AD_OK;
    ad_status st = fail_path(err, s->dir, "make a temporary directory");
    s->dir[0] = '\0';
    return st;
}

static ad_status take_lock(ad_store *s, ad_err *err)
{
    char path[AD_STORE_PATH], pid[32];
    path_in(s, path, "lock");
    s->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0) return fail_path(err, path, "open the lock file");
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) == 0) {
        if (ftruncate(s->lock_fd, 0) == 0) dprintf(s->lock_fd, "%ld\n", (long)getpid()); /* only for the message; a full disk is no obstacle */
        return AD_OK;
    }
    if (errno != EWOULDBLOCK) return fail_path(err, path, "take the lock");
    ssize_t n = pread(s->lock_fd, pid, sizeof pid - 1, 0);
    pid[n > 0 ? n : 0] = '\0';
    return ad_fail(err, AD_EBUSY, "state directory %s is in use by another daemon (process %.*s)", s->dir, (int)strcspn(pid, "\n"), pid);
}

static ad_status make_dirs(ad_store *s, ad_err *err)
{
    char path[AD_STORE_PATH];
    path_in(s, path, "incoming");
    ad_status st = ensure_dir(s, path, err);
    path_in(s, path, "blobs");
    return st == AD_OK ? ensure_dir(s, path, err) : st;
}

static ad_status sync_dir(ad_store *s, const char *path, ad_err *err)
{
    return s->files->sync_dir(path) == 0 ? AD_OK : fail_path(err, path, "sync the directory");
}

/* Of what this start or a killed one has made. The directory above was often made by somebody else, and need not be ours to read. */
static ad_status sync_names(ad_store *s, ad_err *err)
{
    char path[AD_STORE_PATH];
    ad_status st = sync_dir(s, s->dir, err);
    if (st != AD_OK) return st;
    strcpy(path, s->dir);
    char *slash = strrchr(path, '/');
    slash[slash == path] = '\0';
    return s->files->sync_dir(path) == 0 || errno == EACCES ? AD_OK : fail_path(err, path, "sync the directory");
}

static void empty_incoming(ad_store *s)
{
    char path[AD_STORE_PATH], sub[AD_STORE_PATH + 256];
    path_in(s, path, "incoming");
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (e->d_name[0] != '.') ad_store_remove_tree(s->files, sub);
    }
    if (d) closedir(d);
}

/* ---- what is on the disk ---- */

static bool digest_from_hex(ad_digest *d, const char *hex)
{
    if (strlen(hex) != 64 || strspn(hex, "0123456789abcdef") != 64) return false;
    for (int i = 0; i < 32; i++) {
        char two[3] = {hex[2 * i], hex[2 * i + 1], '\0'};
        d->bytes[i] = (uint8_t)strtoul(two, NULL, 16);
    }
    return true;
}

static DIR *open_below(const ad_store *s, const char *name)
{
    char path[AD_STORE_PATH];
    path_in(s, path, name);
    return opendir(path);
}

/* Calls visit (NULL: none) for every blob in the directory, and closes that; how many there were. What has another form of name is not
 * ours and stays. */
static size_t visit_fan(ad_store *s, DIR *d, void (*visit)(ad_store *s, const ad_digest *d))
{
    ad_digest digest;
    size_t n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (!digest_from_hex(&digest, e->d_name)) continue;
        if (visit) visit(s, &digest);
        n++;
    }
    if (d) closedir(d);
    return n;
}

static size_t each_blob(ad_store *s, void (*visit)(ad_store *s, const ad_digest *d))
{
    char name[16];
    size_t n = 0;
    DIR *d = open_below(s, "blobs");
    for (struct dirent *e; d && (e = readdir(d));) {
        if (strlen(e->d_name) != 2 || e->d_name[0] == '.') continue;
        snprintf(name, sizeof name, "blobs/%.2s", e->d_name);
        n += visit_fan(s, open_below(s, name), visit);
    }
    if (d) closedir(d);
    return n;
}

/* Blobs without a database that names them: it was lost or moved away, and collecting them would make that final. */
static ad_status check_nothing_lost(ad_store *s, const char *db_path, ad_err *err)
{
    struct stat st;
    size_t n = lstat(db_path, &st) == 0 && st.st_size > 0 ? 0 : each_blob(s, NULL);
    if (!n) return AD_OK;
    return ad_fail(err, AD_EFORMAT, "%s has %zu blobs but no registry.db that names them; restore it, or begin with another state directory", s->dir, n);
}

static ad_status open_db(ad_store *s, const char *vfs, ad_err *err)
{
    char path[AD_STORE_PATH];
    if (!s->durable) return ad_store_db_open(&s->db, NULL, NULL, err);
    path_in(s, path, "registry.db");
    ad_status st = check_nothing_lost(s, path, err);
    if (st != AD_OK) return st;
    if (s->files->create(path) != 0) return fail_path(err, path, "make the database"); /* here for its mode; the log gets the same */
    return ad_store_db_open(&s->db, path, vfs, err);
}

/* ---- begin and end ---- */

static ad_status open_all(ad_store *s, const char *dir, const char *vfs, ad_err *err)
{
    ad_status st = s->durable ? take_root(s, dir, err) : make_private_root(s, err);
    if (st == AD_OK && s->durable) st = take_lock(s, err);
    if (st == AD_OK) st = make_dirs(s, err);
    if (st == AD_OK) st = open_db(s, vfs, err);
    if (st == AD_OK) st = sync_names(s, err);
    if (st != AD_OK) return st;
    empty_incoming(s);
    each_blob(s, ad_store_collect);
    return AD_OK;
}

ad_status ad_store_open_on(ad_store **out, const char *dir, const ad_store_files *files, const char *vfs, ad_err *err)
{
    ad_store *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_fail(err, AD_ENOMEM, "store: out of memory");
    s->files = files;
    s->durable = dir != NULL;
    s->lock_fd = -1;
    pthread_mutex_init(&s->moving, NULL);
    pthread_mutex_init(&s->holding, NULL);
    ad_status st = open_all(s, dir, vfs, err);
    if (st == AD_OK) *out = s;
    else ad_store_close(&s);
    return st;
}

ad_status ad_store_open(ad_store **out, const char *dir, ad_err *err)
{
    return ad_store_open_on(out, dir, dir ? &ad_store_disk : &ad_store_quick, NULL, err);
}

void ad_store_close(ad_store **sp)
{
    ad_store *s = *sp;
    if (!s) return;
    *sp = NULL;
    ad_store_db_close(&s->db);
    if (!s->durable && s->dir[0]) ad_store_remove_tree(s->files, s->dir);
    if (s->lock_fd >= 0) close(s->lock_fd);
    pthread_mutex_destroy(&s->moving);
    pthread_mutex_destroy(&s->holding);
    free(s->holds);
    free(s);
}

bool ad_store_durable(const ad_store *s) { return s->durable; }
const char *ad_store_dir(const ad_store *s) { return s->dir; }

/* ---- rows ---- */

ad_status ad_store_read(ad_store *s, const ad_store_reader *reader, ad_err *err) { return ad_store_db_read(s->db, reader, err); }
ad_status ad_store_report(ad_store *s, const char *name, int number, char **out, ad_err *err)
{
    return ad_store_db_report(s->db, name, number, out, err);
}

ad_status ad_store_last_revision(ad_store *s, int64_t *out, ad_err *err) { return ad_store_db_last_revision(s->db, out, err); }

ad_status ad_store_read_usage(ad_store *s, const ad_usage_query *q, ad_status (*row)(void *user, const ad_stored_usage *u, ad_err *err), void *user, ad_err *err)
{
    return ad_store_db_read_usage(s->db, q, row, user, err);
}

ad_status ad_store_read_audit(ad_store *s, int64_t after, int limit, ad_status (*row)(void *user, const ad_stored_audit *a, ad_err *err), void *user, ad_err *err)
{
    return ad_store_db_read_audit(s->db, after, limit, row, user, err);
}

ad_status ad_store_begin(ad_store *s, ad_err *err) { return ad_store_db_begin(s->db, err); }
ad_status ad_store_apply(ad_store *s, const ad_store_change *changes, int n, ad_err *err) { return ad_store_db_apply(s->db, changes, n, err); }
ad_status ad_store_commit(ad_store *s, ad_err *err) { return ad_store_db_commit(s->db, err); }

void ad_stored_adapter_deinit(ad_stored_adapter *a)
{
    free(a->description);
    free(a->labels);
    a->description = a->labels = NULL;
}

void ad_stored_version_deinit(ad_stored_version *v)
{
    free(v->source);
    free(v->report);
    free(v->signature);
    free(v->selftest);
    free(v->chat_template);
    free(v->reason);
    v->source = v->report = v->signature = v->selftest = v->chat_template = v->reason = NULL;
}

void ad_stored_alias_deinit(ad_stored_alias *a)
{
    free(a->targets);
    a->targets = NULL;
}

void ad_stored_tenant_deinit(ad_stored_tenant *t)
{
    free(t->priority);
    free(t->limits);
    free(t->description);
    t->priority = t->limits = t->description = NULL;
}

void ad_stored_key_deinit(ad_stored_key *k)
{
    free(k->name);
    free(k->verbs);
    free(k->adapters);
    free(k->limits);
    k->name = k->verbs = k->adapters = k->limits = NULL;
}

void ad_stored_audit_deinit(ad_stored_audit *a)
{
    free(a->peer);
    free(a->request_id);
    free(a->action);
    free(a->object);
    free(a->detail);
    a->peer = a->request_id = a->action = a->object = a->detail = NULL;
}

void ad_store_change_deinit(ad_store_change *c)
{
    switch (c->kind) {
    case AD_PUT_ADAPTER: case AD_DROP_ADAPTER: ad_stored_adapter_deinit(&c->adapter); break;
    case AD_PUT_VERSION: case AD_DROP_VERSION: case AD_MARK_VERSION: ad_stored_version_deinit(&c->version); break;
    case AD_PUT_ALIAS: case AD_DROP_ALIAS: ad_stored_alias_deinit(&c->alias); break;
    case AD_PUT_TENANT: case AD_DROP_TENANT: ad_stored_tenant_deinit(&c->tenant); break;
    case AD_PUT_KEY: case AD_MARK_KEY: case AD_DROP_KEY: ad_stored_key_deinit(&c->key); break;
    case AD_ADD_USAGE: break;
    case AD_ADD_AUDIT: ad_stored_audit_deinit(&c->audit); break;
    }
}

/* ---- uploads ---- */

ad_status ad_store_new_incoming(ad_store *s, char *path, ad_err *err)
{
    uint64_t r;
    char name[64];
    if (getrandom(&r, sizeof r, 0) != sizeof r) return ad_fail(err, AD_EIO, "no random number for an upload's directory");
    snprintf(name, sizeof name, "incoming/%016llx", (unsigned long long)r);
    path_in(s, path, name);
    return s->files->make_dir(path) == 0 ? AD_OK : fail_path(err, name, "make the directory");
}

void ad_store_discard(ad_store *s, const char *path)
{
    (void)ad_store_remove_tree(s->files, path); /* the next start takes the rest */
}

static ad_status sync_files(ad_store *s, DIR *d, const char *path, ad_err *err)
{
    char file[AD_STORE_PATH];
    for (struct dirent *e; (e = readdir(d));) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        if ((size_t)snprintf(file, sizeof file, "%s/%s", path, e->d_name) >= sizeof file) return ad_fail(err, AD_EINVAL, "%s: a path is too long", path);
        if (s->files->sync_file(file) != 0) return fail_path(err, file, "sync the file");
    }
    return AD_OK;
}

ad_status ad_store_sync_incoming(ad_store *s, const char *path, ad_err *err)
{
    if (!s->durable) return AD_OK;
    DIR *d = opendir(path);
    if (!d) return fail_path(err, path, "read the directory");
    ad_status st = sync_files(s, d, path, err);
    closedir(d);
    return st == AD_OK ? sync_dir(s, path, err) : st;
}

/* ---- blobs ---- */

static hold *find_hold(const ad_store *s, const ad_digest *d)
{
    for (hold *h = s->holds; h < s->holds + s->n_holds; h++)
        if (!memcmp(&h->digest, d, sizeof *d)) return h;
    return NULL;
}

static ad_status add_hold(ad_store *s, const ad_digest *d)
{
    pthread_mutex_lock(&s->holding);
    hold *h = find_hold(s, d);
    if (!h && ad_grow(&s->holds, &s->cap_holds, s->n_holds + 1, sizeof *h) == AD_OK) {
        h = &s->holds[s->n_holds++];
        *h = (hold){.digest = *d};
    }
    if (h) h->count++;
    pthread_mutex_unlock(&s->holding);
    return h ? AD_OK : AD_ENOMEM;
}

ad_status ad_store_hold(ad_store *s, const ad_digest *d, ad_err *err)
{
    return add_hold(s, d) == AD_OK ? AD_OK : ad_fail(err, AD_ENOMEM, "out of memory for holding a blob");
}

static int count_holds(ad_store *s, const ad_digest *d)
{
    pthread_mutex_lock(&s->holding);
    const hold *h = find_hold(s, d);
    int n = h ? h->count : 0;
    pthread_mutex_unlock(&s->holding);
    return n;
}

void ad_store_unhold(ad_store *s, const ad_digest *d)
{
    pthread_mutex_lock(&s->holding);
    hold *h = find_hold(s, d);
    assert(h);
    if (--h->count == 0) *h = s->holds[--s->n_holds];
    pthread_mutex_unlock(&s->holding);
}

void ad_store_blob_path(const ad_store *s, const ad_digest *d, char *path)
{
    char hex[65], name[128];
    ad_digest_hex(d, hex);
    snprintf(name, sizeof name, "blobs/%.2s/%s", hex, hex);
    path_in(s, path, name);
}

/* blobs/xx of this blob, cut from its path. */
static void fan_path(const char *blob, char fan[AD_STORE_PATH])
{
    strcpy(fan, blob);
    *strrchr(fan, '/') = '\0';
}

/* How an upload came to be the blob. */
typedef enum { NOT_PLACED, MOVED, EXCHANGED, THERE_ALREADY } placing;

/* A directory is not renamed onto one that has something in it. Whoever has opened the old one's files goes on with them: they say the same. */
static placing place(ad_store *s, const char *path, const char *blob)
{
    if (s->files->rename(path, blob) == 0) return MOVED;
    if (errno != ENOTEMPTY && errno != EEXIST) return NOT_PLACED;
    if (s->files->exchange(path, blob) == 0) return EXCHANGED;
    return errno == EINVAL || errno == ENOSYS ? THERE_ALREADY : NOT_PLACED;
}

static ad_status move_in(ad_store *s, const char *path, const char *blob, placing *how, uint64_t *turn, ad_err *err)
{
    char fan[AD_STORE_PATH];
    fan_path(blob, fan);
    pthread_mutex_lock(&s->moving);
    ad_status st = ensure_dir(s, fan, err);
    *how = st == AD_OK ? place(s, path, blob) : NOT_PLACED;
    *turn = ++s->placings;
    if (st == AD_OK && *how == NOT_PLACED) st = fail_path(err, path, "move the upload among the blobs");
    pthread_mutex_unlock(&s->moving);
    return st;
}

/* The blob cannot be made durable: where it was before, unless somebody else may have come to count on it since. Then it is left for ad_store_collect. */
static void move_back(ad_store *s, const char *path, const char *blob, placing how, uint64_t turn, const ad_digest *d)
{
    pthread_mutex_lock(&s->moving);
    bool last = s->placings == turn && count_holds(s, d) == 1;
    if (last && how == EXCHANGED) (void)s->files->exchange(path, blob);
    else if (last && how == MOVED) (void)s->files->rename(blob, path);
    pthread_mutex_unlock(&s->moving);
}

static bool is_named(ad_store *s, int fan)
{
    pthread_mutex_lock(&s->moving);
    bool named = s->named[fan];
    pthread_mutex_unlock(&s->moving);
    return named;
}

static void set_named(ad_store *s, int fan)
{
    pthread_mutex_lock(&s->moving);
    s->named[fan] = true;
    pthread_mutex_unlock(&s->moving);
}

/* Also who finds the blob there syncs its name: whoever moved it may not have come that far. */
static ad_status sync_blob_name(ad_store *s, const char *blob, const ad_digest *d, ad_err *err)
{
    char path[AD_STORE_PATH];
    fan_path(blob, path);
    ad_status st = sync_dir(s, path, err);
    if (st != AD_OK || is_named(s, d->bytes[0])) return st;
    path_in(s, path, "blobs");
    st = sync_dir(s, path, err);
    if (st == AD_OK) set_named(s, d->bytes[0]);
    return st;
}

ad_status ad_store_keep(ad_store *s, const char *path, const ad_digest *d, ad_err *err)
{
    char blob[AD_STORE_PATH];
    placing how = NOT_PLACED;
    uint64_t turn;
    ad_store_blob_path(s, d, blob);
    if (add_hold(s, d) != AD_OK) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = move_in(s, path, blob, &how, &turn, err);
    if (st == AD_OK) st = sync_blob_name(s, blob, d, err);
    if (st == AD_OK) {
        if (how != MOVED) ad_store_discard(s, path); /* not before the new one's name is durable: until then a power loss may bring the old one back */
        return AD_OK;
    }
    move_back(s, path, blob, how, turn, d);
    ad_store_unhold(s, d);
    return st;
}

/* Out of its place first, at once and whole: nobody finds half of it there. */
void ad_store_collect(ad_store *s, const ad_digest *d)
{
    char blob[AD_STORE_PATH], path[AD_STORE_PATH];
    ad_store_blob_path(s, d, blob);
    if (!ad_store_db_is_unused(s->db, d)) return;
    snprintf(path, sizeof path, "%s/incoming/%s", s->dir, strrchr(blob, '/') + 1);
    pthread_mutex_lock(&s->moving);
    bool moved = count_holds(s, d) == 0 && s->files->rename(blob, path) == 0;
    pthread_mutex_unlock(&s->moving);
    if (moved) (void)ad_store_remove_tree(s->files, path);
}
