/* SPDX-License-Identifier: MIT */
/* Directories that somebody names: what lies under the roots is copied, all else does not exist. And a watched directory: folders arrive once
 * they are whole. Each test has a directory of its own with ROOT/ (allowed), other/ and to/ in it. */
#include "tests/unit/small_disk.h"
#include "tests/unit/suite.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "adapters/source.h"
#include "core/base/file.h"

enum { LIMIT = 1 << 20 };

static char dir[32];

/* A path in the test's directory; good for four calls. */
static char *at(const char *name)
{
    static char path[4][1024];
    static int turn;
    char *p = path[turn++ % 4];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void make_dir(const char *name) { ck_assert_msg(mkdir(at(name), 0755) == 0, "%s: %s", name, strerror(errno)); }

static void put(const char *name, const char *text)
{
    FILE *f = fopen(at(name), "wb");
    ck_assert_msg(f && fputs(text, f) >= 0, "%s", name);
    fclose(f);
}

static void make_adapter(const char *name)
{
    char path[256];
    make_dir(name);
    snprintf(path, sizeof path, "%s/adapter_config.json", name);
    put(path, "{config}");
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", name);
    put(path, "weights");
}

static void link_to(const char *target, const char *name) { ck_assert_msg(symlink(target, at(name)) == 0, "%s: %s", name, strerror(errno)); }

static void setup(void)
{
    strcpy(dir, "/tmp/ad-source-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    make_dir("root");
    make_dir("other");
    make_dir("to");
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}

/* ---- copying ---- */

static ad_status copy_limited(const char *path, size_t max, ad_err *err)
{
    const char *roots[] = {"/no/such/root", at("root")};
    return ad_origin_copy(path, roots, 2, at("to"), max, err);
}

static ad_status copy(const char *name, ad_err *err) { return copy_limited(at(name), LIMIT, err); }

static bool has(const char *name, const char *text)
{
    char path[256];
    ad_file f;
    ad_err err;
    snprintf(path, sizeof path, "to/%s", name);
    if (ad_file_read(&f, at(path), LIMIT, &err) != AD_OK) return false;
    bool same = f.len == strlen(text) && !memcmp(f.data, text, f.len);
    ad_file_close(&f);
    return same;
}

static int count_copied(void)
{
    int n = 0;
    DIR *d = opendir(at("to"));
    for (struct dirent *e; (e = readdir(d));) n += e->d_name[0] != '.';
    closedir(d);
    return n;
}

static void empty_to(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s/to' && mkdir '%s/to'", dir, dir);
    ck_assert_int_eq(system(command), 0);
}

#define REFUSED(name, status, words) do { \
    ad_err refused_err; \
    ad_status refused_st = copy(name, &refused_err); \
    ck_assert_msg(refused_st == (status), "%s: status %d: %s", name, (int)refused_st, refused_st == AD_OK ? "" : refused_err.msg); \
    ck_assert_msg(strstr(refused_err.msg, words), "%s: %s", name, refused_err.msg); \
    ck_assert_int_eq(count_copied(), 0); \
} while (0)

START_TEST(an_adapter_is_copied_and_nothing_beside_it)
{
    ad_err err;
    make_adapter("root/sql");
    put("root/sql/README.md", "no");
    put("root/sql/optimizer.pt", "no");
    put("root/sql/adapter_model.bin", "no");
    put("root/sql/x.gguf", "no");
    ck_assert_msg(copy("root/sql", &err) == AD_OK, "%s", err.msg);
    ck_assert(has("adapter_config.json", "{config}") && has("adapter_model.safetensors", "weights"));
    ck_assert_int_eq(count_copied(), 2);
    empty_to();
    put("root/sql/adapter.minisig", "signature");
    ck_assert_int_eq(copy("root/sql/", &err), AD_OK);
    ck_assert(has("adapter.minisig", "signature"));
    ck_assert_int_eq(count_copied(), 3);
    empty_to();
    put("root/sql/tokenizer_config.json", "{}");
    ck_assert_int_eq(copy("root/sql", &err), AD_OK);
    ck_assert(has("tokenizer_config.json", "{}"));
    ck_assert_int_eq(count_copied(), 4);
    empty_to();
    put("root/sql/chat_template.jinja", "{{ x }}"); /* counts before the other one */
    ck_assert_int_eq(copy("root/sql", &err), AD_OK);
    ck_assert(has("chat_template.jinja", "{{ x }}"));
    ck_assert_int_eq(count_copied(), 4);
}
END_TEST

START_TEST(a_gguf_file_is_copied_under_one_name_wherever_it_stands)
{
    ad_err err;
    make_dir("root/g");
    put("root/g/lora-f16.gguf", "one");
    put("root/g/._lora-f16.gguf", "what macOS knows about it");
    ck_assert_msg(copy("root/g", &err) == AD_OK, "%s", err.msg);
    ck_assert(has("adapter.gguf", "one"));
    empty_to();
    put("root/g/other.gguf", "two");
    REFUSED("root/g", AD_EINVAL, "2 .gguf files");
    ck_assert_int_eq(copy("root/g/other.gguf", &err), AD_OK);
    ck_assert(has("adapter.gguf", "two"));
    empty_to();
    put("root/g/adapter.gguf", "three"); /* the name decides */
    ck_assert_int_eq(copy("root/g", &err), AD_OK);
    ck_assert(has("adapter.gguf", "three"));
    ck_assert_int_eq(count_copied(), 1);
}
END_TEST

START_TEST(a_directory_without_an_adapter_says_what_is_missing)
{
    make_dir("root/a");
    REFUSED("root/a", AD_ENOTFOUND, "holds no adapter");
    put("root/a/adapter_config.json", "{}");
    REFUSED("root/a", AD_ENOTFOUND, "adapter_model.safetensors is missing");
    put("root/a/adapter_model.bin", "pickle");
    REFUSED("root/a", AD_EUNSUPPORTED, "pickle");
    make_dir("root/b");
    put("root/b/adapter_model.safetensors", "w");
    REFUSED("root/b", AD_ENOTFOUND, "adapter_config.json is missing");
    put("root/b/weights.txt", "w");
    REFUSED("root/b/weights.txt", AD_EINVAL, "neither a directory nor a .gguf file");
    REFUSED("root/c", AD_ENOTFOUND, "No such file");
    REFUSED("root/b/weights.txt/x", AD_ENOTFOUND, "Not a directory");
}
END_TEST

START_TEST(nothing_outside_of_the_roots_exists)
{
    make_adapter("other/a");
    make_adapter("rootless"); /* begins like the root */
    put("other/x.gguf", "g");
    REFUSED("other/a", AD_EINVAL, "allowed roots");
    REFUSED("rootless", AD_EINVAL, "allowed roots");
    REFUSED("other/x.gguf", AD_EINVAL, "allowed roots");
    REFUSED("other/missing", AD_EINVAL, "allowed roots"); /* the same words: nobody learns what is there */
    REFUSED("other/a/adapter_config.json/x", AD_EINVAL, "allowed roots");
    REFUSED("root/../other/a", AD_EINVAL, "\"..\" is not allowed");
    REFUSED("root/..", AD_EINVAL, "\"..\" is not allowed");
    REFUSED("root/../root/a", AD_EINVAL, "\"..\" is not allowed"); /* wherever it leads */
    ad_err err;
    ck_assert_int_eq(copy_limited("/etc/shadow.gguf", LIMIT, &err), AD_EINVAL);
    ck_assert_int_eq(copy_limited("root/a", LIMIT, &err), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "absolute"));
    ck_assert_int_eq(copy_limited("", LIMIT, &err), AD_EINVAL);
    ck_assert_int_eq(ad_origin_copy(at("other/a"), NULL, 0, at("to"), LIMIT, &err), AD_EINVAL);
    char longest[6000];
    memset(longest, 'a', sizeof longest);
    longest[0] = '/', longest[sizeof longest - 1] = '\0';
    ck_assert_int_eq(copy_limited(longest, LIMIT, &err), AD_EINVAL);
    ck_assert_int_eq(count_copied(), 0);
}
END_TEST

START_TEST(symbolic_links_lead_anywhere_but_out)
{
    ad_err err;
    make_adapter("root/a");
    make_adapter("other/a");
    link_to("a", "root/inside");
    link_to("../other/a", "root/outside");
    link_to(dir, "root/up");
    link_to("../root/a", "other/in");
    link_to("loop", "root/loop");
    ck_assert_msg(copy("root/inside", &err) == AD_OK, "%s", err.msg);
    empty_to();
    ck_assert_msg(copy("other/in", &err) == AD_OK, "%s", err.msg); /* where it leads is what counts */
    empty_to();
    REFUSED("root/outside", AD_EINVAL, "allowed roots");
    REFUSED("root/up/other/a", AD_EINVAL, "allowed roots");
    REFUSED("root/up/other/missing", AD_EINVAL, "allowed roots");
    REFUSED("root/loop", AD_EINVAL, "symbolic links"); /* the path is the client's */
}
END_TEST

START_TEST(files_that_link_out_of_the_roots_are_refused)
{
    ad_err err;
    put("other/secret", "secret");
    make_dir("root/a");
    put("root/a/adapter_config.json", "{}");
    link_to("../../other/secret", "root/a/adapter_model.safetensors");
    ck_assert_int_eq(copy("root/a", &err), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "adapter_model.safetensors"));
    ck_assert(!has("adapter_model.safetensors", "secret"));
    empty_to();
    make_dir("root/b"); /* as model caches have it: names that link to a store beside them */
    make_dir("root/blobs");
    put("root/blobs/1", "{}");
    put("root/blobs/2", "weights");
    link_to("../blobs/1", "root/b/adapter_config.json");
    link_to("../blobs/2", "root/b/adapter_model.safetensors");
    ck_assert_msg(copy("root/b", &err) == AD_OK, "%s", err.msg);
    ck_assert(has("adapter_model.safetensors", "weights"));
    empty_to();
    link_to("../../other/secret", "root/b/adapter.minisig");
    ck_assert_int_eq(copy("root/b", &err), AD_EINVAL);
}
END_TEST

/* Opening a FIFO would wait for ever, opening a device may do anything. */
START_TEST(only_regular_files_are_opened)
{
    ad_err err;
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    ck_assert_int_eq(mkfifo(at("root/fifo.gguf"), 0644), 0);
    snprintf(sun.sun_path, sizeof sun.sun_path, "%s/root/s.gguf", dir);
    ck_assert_int_eq(bind(s, (struct sockaddr *)&sun, sizeof sun), 0);
    link_to("/dev/zero", "root/zero.gguf");
    make_dir("root/d.gguf");
    REFUSED("root/fifo.gguf", AD_EINVAL, "neither a directory nor");
    REFUSED("root/s.gguf", AD_EINVAL, "neither a directory nor");
    REFUSED("root/zero.gguf", AD_EINVAL, "allowed roots");
    REFUSED("root/d.gguf", AD_ENOTFOUND, "holds no adapter");
    make_dir("root/a");
    put("root/a/adapter_config.json", "{}");
    ck_assert_int_eq(mkfifo(at("root/a/adapter_model.safetensors"), 0644), 0);
    ck_assert_int_eq(copy("root/a", &err), AD_EINVAL);
    ck_assert_ptr_nonnull(strstr(err.msg, "not a regular file"));
    if (mknod(at("root/null.gguf"), S_IFCHR | 0644, makedev(1, 5)) == 0) { /* root only */
        empty_to();
        REFUSED("root/null.gguf", AD_EINVAL, "neither a directory nor");
    }
    close(s);
}
END_TEST

START_TEST(the_limit_is_of_all_files_together)
{
    ad_err err;
    make_adapter("root/a"); /* 8 + 7 bytes */
    ck_assert_int_eq(copy_limited(at("root/a"), 15, &err), AD_OK);
    empty_to();
    ck_assert_int_eq(copy_limited(at("root/a"), 14, &err), AD_ELIMIT);
    empty_to();
    put("root/a/adapter.minisig", "s");
    ck_assert_int_eq(copy_limited(at("root/a"), 15, &err), AD_ELIMIT);
    int fd = open(at("root/sparse.gguf"), O_WRONLY | O_CREAT, 0644);
    ck_assert(fd >= 0 && ftruncate(fd, (off_t)1 << 40) == 0);
    close(fd);
    empty_to();
    ck_assert_int_eq(copy_limited(at("root/sparse.gguf"), LIMIT, &err), AD_ELIMIT);
    ck_assert_int_le(count_copied(), 1);
}
END_TEST

START_TEST(large_and_empty_files_arrive_whole)
{
    ad_err err;
    size_t size = (5u << 20) + 123;
    char *data = malloc(size + 1);
    ad_file f;
    for (size_t i = 0; i < size; i++) data[i] = (char)('a' + (i * 7 + i / 4096) % 26);
    data[size] = '\0';
    put("root/big.gguf", data);
    ck_assert_msg(copy_limited(at("root/big.gguf"), size, &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(ad_file_read(&f, at("to/adapter.gguf"), size, &err), AD_OK);
    ck_assert(f.len == size && !memcmp(f.data, data, size));
    ad_file_close(&f);
    free(data);
    empty_to();
    put("root/empty.gguf", "");
    ck_assert_int_eq(copy_limited(at("root/empty.gguf"), 0, &err), AD_OK);
    ck_assert(has("adapter.gguf", ""));
}
END_TEST

/* /dev/shm is another file system than /tmp where the kernel may not copy across; either way the bytes arrive. */
START_TEST(another_file_system_makes_no_difference)
{
    ad_err err;
    char shm[] = "/dev/shm/ad-source-XXXXXX", path[128], command[128];
    if (access("/dev/shm", W_OK) != 0) return;
    ck_assert_ptr_nonnull(mkdtemp(shm));
    const char *roots[] = {"/dev/shm"};
    snprintf(path, sizeof path, "%s/a.gguf", shm);
    FILE *f = fopen(path, "w");
    fputs("shared", f);
    fclose(f);
    ad_status st = ad_origin_copy(path, roots, 1, at("to"), LIMIT, &err);
    snprintf(command, sizeof command, "rm -rf '%s'", shm);
    ck_assert_int_eq(system(command), 0);
    ck_assert_msg(st == AD_OK, "%s", err.msg);
    ck_assert(has("adapter.gguf", "shared"));
}
END_TEST

START_TEST(a_place_that_is_taken_or_missing_is_said_to_be)
{
    ad_err err;
    make_adapter("root/a");
    put("to/adapter_config.json", "somebody's");
    ck_assert_int_eq(copy("root/a", &err), AD_EIO);
    ck_assert(has("adapter_config.json", "somebody's"));
    empty_to();
    const char *roots[] = {at("root")};
    ck_assert_int_eq(ad_origin_copy(at("root/a"), roots, 1, at("nowhere"), LIMIT, &err), AD_EIO);
}
END_TEST

START_TEST(a_full_disk_is_told_from_other_troubles)
{
    ad_err err;
    char big[200001];
    if (!tu_mount_small(at("to"), 64)) return; /* this kernel does not let us */
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = '\0';
    put("root/big.gguf", big);
    put("root/small.gguf", "fits");
    ck_assert_int_eq(copy("root/big.gguf", &err), AD_EFULL);
    unlink(at("to/adapter.gguf"));
    ck_assert_msg(copy("root/small.gguf", &err) == AD_OK, "%s", err.msg);
    ck_assert_int_eq(umount(at("to")), 0);
}
END_TEST

/* Somebody swaps a directory and a link out of the roots for each other as fast as he can: never does a secret come out. */
static atomic_bool stop;

static void *swap(void *unused)
{
    char a[128], good[128], evil[128];
    (void)unused;
    snprintf(a, sizeof a, "%s/root/a", dir);
    snprintf(good, sizeof good, "%s/root/good", dir);
    snprintf(evil, sizeof evil, "%s/root/evil", dir);
    while (!atomic_load(&stop)) {
        if (rename(a, good) == 0 && rename(evil, a) == 0) {}
        if (rename(a, evil) == 0 && rename(good, a) == 0) {}
    }
    return NULL;
}

START_TEST(nothing_swapped_in_between_gets_out)
{
    pthread_t thread;
    int copied = 0, refused = 0;
    make_adapter("root/a");
    make_adapter("other/a");
    put("other/a/adapter_config.json", "{secret}");
    link_to("../other/a", "root/evil");
    atomic_store(&stop, false);
    ck_assert_int_eq(pthread_create(&thread, NULL, swap, NULL), 0);
    for (int i = 0; i < 3000 || (i < 100000 && (!copied || !refused)); i++) {
        ad_err err;
        ad_status st = copy("root/a", &err);
        ck_assert_msg(st == AD_OK || st == AD_EINVAL || st == AD_ENOTFOUND, "status %d: %s", (int)st, err.msg);
        if (st == AD_OK) ck_assert(has("adapter_config.json", "{config}") && has("adapter_model.safetensors", "weights"));
        else ck_assert(!has("adapter_config.json", "{secret}"));
        copied += st == AD_OK;
        refused += st == AD_EINVAL;
        unlink(at("to/adapter_config.json")), unlink(at("to/adapter_model.safetensors"));
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    ck_assert_int_gt(copied, 0);
    ck_assert_int_gt(refused, 0);
}
END_TEST

static void *grow(void *unused)
{
    char path[128];
    (void)unused;
    snprintf(path, sizeof path, "%s/root/growing.gguf", dir);
    FILE *f = fopen(path, "ab");
    while (f && !atomic_load(&stop)) fputc('x', f), fflush(f);
    if (f) fclose(f);
    return NULL;
}

START_TEST(a_file_that_changes_while_it_is_copied_is_not_taken)
{
    pthread_t thread;
    int fd = open(at("root/growing.gguf"), O_WRONLY | O_CREAT, 0644);
    ck_assert(fd >= 0 && ftruncate(fd, 8 << 20) == 0);
    close(fd);
    atomic_store(&stop, false);
    ck_assert_int_eq(pthread_create(&thread, NULL, grow, NULL), 0);
    bool found = false;
    for (int i = 0; i < 1000 && !found; i++) {
        ad_err err;
        ad_status st = copy_limited(at("root/growing.gguf"), 1 << 30, &err);
        ck_assert_msg(st == AD_OK || st == AD_EIO, "status %d: %s", (int)st, err.msg);
        found = st == AD_EIO && strstr(err.msg, "changed while it was copied");
        unlink(at("to/adapter.gguf"));
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    ck_assert(found);
}
END_TEST

START_TEST(no_descriptor_is_left_open)
{
    ad_err err;
    struct rlimit few = {24, 24}, was;
    make_adapter("root/a");
    link_to("../other", "root/out");
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &was), 0);
    few.rlim_max = was.rlim_max;
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    for (int i = 0; i < 100; i++) {
        ck_assert_msg(copy("root/a", &err) == AD_OK, "round %d: %s", i, err.msg);
        unlink(at("to/adapter_config.json"));
        ck_assert_int_eq(copy("root/a", &err), AD_EIO); /* the weights are there already */
        unlink(at("to/adapter_config.json")), unlink(at("to/adapter_model.safetensors"));
        ck_assert_int_eq(copy("root/out", &err), AD_EINVAL);
        ck_assert_int_eq(copy("root/missing", &err), AD_ENOTFOUND);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
}
END_TEST

/* ---- addresses ---- */

START_TEST(only_addresses_of_the_public_internet_are_public)
{
    static const struct { const char *text; bool is_public; } cases[] = {
        {"8.8.8.8", true}, {"1.1.1.1", true}, {"9.255.255.255", true}, {"11.0.0.0", true}, {"100.63.255.255", true}, {"100.128.0.0", true}, {"126.255.255.255", true},
        {"128.0.0.1", true}, {"169.253.255.255", true}, {"169.255.0.0", true}, {"172.15.255.255", true}, {"172.32.0.0", true}, {"191.255.255.255", true}, {"192.0.1.1", true},
        {"192.167.255.255", true}, {"192.169.0.0", true}, {"198.17.255.255", true}, {"198.20.0.0", true}, {"223.255.255.255", true},
        {"0.0.0.0", false}, {"0.1.2.3", false}, {"10.0.0.0", false}, {"10.255.255.255", false}, {"100.64.0.0", false}, {"100.127.255.255", false}, {"127.0.0.1", false},
        {"127.255.255.255", false}, {"169.254.169.254", false}, {"172.16.0.0", false}, {"172.31.255.255", false}, {"192.0.0.8", false}, {"192.0.2.1", false},
        {"192.88.99.1", false}, {"192.168.0.0", false}, {"192.168.255.255", false}, {"198.18.0.0", false}, {"198.19.255.255", false}, {"198.51.100.1", false},
        {"203.0.113.1", false}, {"224.0.0.1", false}, {"239.255.255.255", false}, {"240.0.0.0", false}, {"255.255.255.255", false},
        {"2606:4700::1111", true}, {"2a00:1450::1", true}, {"2003::1", true}, {"2001:200::1", true}, {"64:ff9b::8.8.8.8", true}, {"::ffff:8.8.8.8", true},
        {"::", false}, {"::1", false}, {"::8.8.8.8", false}, {"::ffff:127.0.0.1", false}, {"::ffff:10.1.2.3", false}, {"::ffff:169.254.169.254", false}, {"64:ff9b::10.0.0.1", false},
        {"64:ff9b:1::8.8.8.8", false}, {"100::1", false}, {"2001::1", false}, {"2001:1ff::1", false}, {"2001:db8::1", false}, {"2002:808:808::1", false}, {"3fff::1", false},
        {"3fff:fff::1", false}, {"4000::1", false}, {"5f00::1", false}, {"fc00::1", false}, {"fd12:3456::1", false}, {"fe80::1", false}, {"fec0::1", false}, {"ff02::1", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct sockaddr_in in = {.sin_family = AF_INET};
        struct sockaddr_in6 in6 = {.sin6_family = AF_INET6};
        bool is4 = inet_pton(AF_INET, cases[i].text, &in.sin_addr) == 1;
        ck_assert_msg(is4 || inet_pton(AF_INET6, cases[i].text, &in6.sin6_addr) == 1, "%s", cases[i].text);
        bool is_public = ad_origin_is_public(is4 ? (struct sockaddr *)&in : (struct sockaddr *)&in6);
        ck_assert_msg(is_public == cases[i].is_public, "%s", cases[i].text);
    }
    struct sockaddr_un sun = {.sun_family = AF_UNIX};
    ck_assert(!ad_origin_is_public((struct sockaddr *)&sun));
}
END_TEST

/* ---- watching ---- */

enum { SETTLE = 1000 };

static ad_watch *watch;
static uint64_t clock_ms;
static char heard[4096]; /* "+name ", "~name ", "-name " */

static void setup_watch(void)
{
    ad_err err;
    setup();
    clock_ms = 5;
    ck_assert_int_eq(ad_watch_new(&watch, at("root"), SETTLE, &err), AD_OK);
}

static void teardown_watch(void)
{
    ad_watch_free(&watch);
    ck_assert_ptr_null(watch);
    teardown();
}

static void on_event(void *user, ad_watch_event what, const char *name, const char *path)
{
    char want[512];
    ck_assert_ptr_eq(user, &watch);
    snprintf(want, sizeof want, "%s/root/%s", dir, name);
    ck_assert_str_eq(path, want);
    size_t n = strlen(heard);
    snprintf(heard + n, sizeof heard - n, "%s%s ", what == AD_WATCH_ARRIVED ? "+" : what == AD_WATCH_CHANGED ? "~" : "-", name);
}

/* What a scan tells, `later` after the one before. */
static const char *scan(int later)
{
    ad_err err;
    clock_ms += (uint64_t)later;
    heard[0] = '\0';
    ck_assert_msg(ad_watch_scan(watch, clock_ms, on_event, &watch, &err) == AD_OK, "%s", err.msg);
    return heard;
}

START_TEST(a_folder_arrives_once_it_has_settled_and_only_once)
{
    ck_assert_str_eq(scan(0), "");
    make_adapter("root/b");
    make_adapter("root/a");
    ck_assert_str_eq(scan(5000), ""); /* seen for the first time */
    ck_assert_str_eq(scan(SETTLE - 1), "");
    ck_assert_str_eq(scan(1), "+a +b ");
    ck_assert_str_eq(scan(SETTLE), "");
    ck_assert_str_eq(scan(SETTLE), "");
}
END_TEST

START_TEST(a_half_copied_folder_is_not_picked_up)
{
    make_dir("root/a");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "");
    put("root/a/adapter_config.json", "{}");
    scan(SETTLE);
    ck_assert_str_eq(scan(SETTLE), "");
    char text[40] = "";
    for (int i = 0; i < 30; i++) { /* it grows slowly */
        text[i] = 'x';
        put("root/a/adapter_model.safetensors", text);
        ck_assert_str_eq(scan(SETTLE), "");
    }
    ck_assert_str_eq(scan(SETTLE), "+a ");
}
END_TEST

static void set_time(const char *name, long seconds, long nanoseconds)
{
    struct timespec t[2] = {{seconds, nanoseconds}, {seconds, nanoseconds}};
    ck_assert_int_eq(utimensat(AT_FDCWD, at(name), t, 0), 0);
}

/* Name, size, time to the nanosecond, inode: any of them. */
START_TEST(whatever_changes_in_an_adapters_files_is_a_change_and_nothing_else_is)
{
    const char *weights = "root/a/adapter_model.safetensors";
    make_adapter("root/a");
    set_time(weights, 1000, 5);
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "+a ");
    put("root/a/README.md", "news");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "");
    put(weights, "weightz"); /* the same size */
    set_time(weights, 1000, 6);
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    put(weights, "longer weights");
    set_time(weights, 1000, 6);
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    put("root/a/new", "longer weightz"); /* another file of the same size and time */
    set_time("root/a/new", 1000, 6);
    ck_assert_int_eq(rename(at("root/a/new"), at(weights)), 0);
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    put("root/a/adapter.minisig", "signed at last");
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    unlink(at("root/a/adapter.minisig"));
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    put("root/a/chat_template.jinja", "{{ x }}");
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
}
END_TEST

START_TEST(a_change_that_is_taken_back_is_none)
{
    const char *config = "root/a/adapter_config.json";
    make_adapter("root/a");
    set_time(config, 1000, 5);
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "+a ");
    set_time(config, 2000, 5);
    ck_assert_str_eq(scan(SETTLE), "");
    set_time(config, 1000, 5);
    ck_assert_str_eq(scan(SETTLE), "");
    ck_assert_str_eq(scan(SETTLE), "");
}
END_TEST

static void remove_dir(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -r '%s'", at(name));
    ck_assert_int_eq(system(command), 0);
}

START_TEST(a_folder_that_is_removed_goes_once_and_may_come_again)
{
    make_adapter("root/a");
    make_adapter("root/b");
    scan(0);
    scan(SETTLE);
    remove_dir("root/a");
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE - 1), "");
    ck_assert_str_eq(scan(1), "-a ");
    ck_assert_str_eq(scan(SETTLE), "");
    make_adapter("root/a");
    ck_assert_str_eq(scan(0), "");
    ck_assert_str_eq(scan(SETTLE), "+a ");
    make_dir("root/c"); /* nobody heard of it */
    scan(0);
    remove_dir("root/c");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "");
}
END_TEST

/* An adapter keeps serving what it has while its folder is emptied, or replaced by renaming. */
START_TEST(a_folder_that_is_replaced_or_emptied_is_not_gone)
{
    make_adapter("root/a");
    make_adapter("other/a");
    scan(0);
    scan(SETTLE);
    ck_assert_int_eq(rename(at("root/a"), at("other/old")), 0);
    ck_assert_str_eq(scan(0), "");
    ck_assert_int_eq(rename(at("other/a"), at("root/a")), 0);
    ck_assert_str_eq(scan(SETTLE - 1), "");
    ck_assert_str_eq(scan(SETTLE), "~a ");
    unlink(at("root/a/adapter_model.safetensors"));
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "");
    put("root/a/adapter_model.safetensors", "again");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "~a ");
}
END_TEST

START_TEST(only_visible_folders_with_adapters_count)
{
    make_adapter("root/.hidden");
    make_adapter("other/linked");
    put("root/file", "no folder");
    put("root/adapter_config.json", "{}");
    put("root/adapter_model.safetensors", "w");
    link_to("../other/linked", "root/linked");
    link_to("nowhere", "root/dangling");
    link_to("file", "root/to-file");
    ck_assert_int_eq(mkfifo(at("root/fifo"), 0644), 0);
    make_dir("root/gguf");
    put("root/gguf/x.gguf", "g");
    make_dir("root/two");
    put("root/two/x.gguf", "g");
    put("root/two/y.gguf", "g");
    make_dir("root/pickle");
    put("root/pickle/adapter_config.json", "{}");
    put("root/pickle/adapter_model.bin", "p");
    make_dir("root/odd");
    put("root/odd/adapter_config.json", "{}");
    ck_assert_int_eq(mkfifo(at("root/odd/adapter_model.safetensors"), 0644), 0);
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "+gguf +linked ");
    remove_dir("other/linked");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "-linked ");
}
END_TEST

static bool is_state_of(const ad_watch_state *was, const char *name)
{
    ad_watch_state now;
    ad_watch_read_state(at(name), &now);
    return !memcmp(was, &now, sizeof now);
}

START_TEST(a_folders_state_is_the_same_until_somebody_touches_its_files)
{
    static const char *const files[] = {"root/a/adapter_config.json", "root/a/adapter_model.safetensors", "root/a/adapter.minisig", "root/a/chat_template.jinja", "root/a/tokenizer_config.json"};
    ad_watch_state was, none = {0};
    make_adapter("root/a");
    for (size_t i = 2; i < 5; i++) put(files[i], "x");
    ad_watch_read_state(at("root/a"), &was);
    ck_assert(!is_state_of(&none, "root/a") && is_state_of(&was, "root/a"));
    put("root/a/README.md", "news");
    ck_assert(is_state_of(&was, "root/a"));
    for (size_t i = 0; i < 5; i++) {
        set_time(files[i], 1000, (long)i);
        ck_assert_msg(!is_state_of(&was, "root/a"), "%s", files[i]);
        ad_watch_read_state(at("root/a"), &was);
    }
    ck_assert_int_eq(rename(at("root/a"), at("root/b")), 0);
    ck_assert(is_state_of(&none, "root/a") && is_state_of(&was, "root/b"));
    unlink(at("root/b/adapter_model.safetensors"));
    ck_assert(!is_state_of(&was, "root/b"));
}
END_TEST

START_TEST(a_directory_that_cannot_be_read_takes_nothing_away)
{
    ad_err err;
    make_adapter("root/a");
    scan(0);
    scan(SETTLE);
    ck_assert_int_eq(rename(at("root"), at("away")), 0);
    for (int i = 0; i < 3; i++) {
        clock_ms += SETTLE;
        heard[0] = '\0';
        ck_assert_int_eq(ad_watch_scan(watch, clock_ms, on_event, &watch, &err), AD_EIO);
        ck_assert_ptr_nonnull(strstr(err.msg, "root"));
        ck_assert_str_eq(heard, "");
    }
    ck_assert_int_eq(rename(at("away"), at("root")), 0);
    ck_assert_str_eq(scan(SETTLE), "");
    remove_dir("root/a");
    scan(0);
    ck_assert_str_eq(scan(SETTLE), "-a ");
}
END_TEST

/* Too few descriptors for a folder says nothing about the folder. */
START_TEST(a_scan_that_breaks_off_takes_nothing_away)
{
    struct rlimit was, few;
    ad_err err;
    ad_status st = AD_OK;
    make_adapter("root/a");
    scan(0);
    scan(SETTLE);
    ck_assert_int_eq(getrlimit(RLIMIT_NOFILE, &was), 0);
    int lowest = dup(0);
    close(lowest);
    few = (struct rlimit){(rlim_t)lowest + 1, was.rlim_max}; /* the directory itself can be opened, and no more */
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &few), 0);
    heard[0] = '\0';
    for (int i = 0; i < 3; i++) {
        clock_ms += SETTLE;
        st = ad_watch_scan(watch, clock_ms, on_event, &watch, &err);
    }
    ck_assert_int_eq(setrlimit(RLIMIT_NOFILE, &was), 0);
    ck_assert_int_eq(st, AD_EIO);
    ck_assert_str_eq(heard, "");
    ck_assert_str_eq(scan(SETTLE), "");
}
END_TEST

START_TEST(hundreds_of_folders_come_change_and_go_in_order_of_name)
{
    char name[64], want[4096] = "";
    for (int i = 299; i >= 0; i--) {
        snprintf(name, sizeof name, "root/n%03d", i);
        make_adapter(name);
    }
    scan(0);
    ck_assert_int_eq((int)strlen(scan(SETTLE)), 300 * 6);
    ck_assert_int_eq(strncmp(heard, "+n000 +n001 +n002 ", 18), 0);
    for (int i = 0; i < 300; i += 3) {
        snprintf(name, sizeof name, "root/n%03d", i);
        if (i % 2) remove_dir(name);
        else snprintf(name + strlen(name), sizeof name - strlen(name), "/adapter_config.json"), put(name, "changed");
        snprintf(want + strlen(want), sizeof want - strlen(want), "%cn%03d ", i % 2 ? '-' : '~', i);
    }
    scan(0);
    ck_assert_str_eq(scan(SETTLE), want);
    ck_assert_str_eq(scan(SETTLE), "");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("source");
    TCase *t = tcase_create("copy");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, an_adapter_is_copied_and_nothing_beside_it);
    tcase_add_test(t, a_gguf_file_is_copied_under_one_name_wherever_it_stands);
    tcase_add_test(t, a_directory_without_an_adapter_says_what_is_missing);
    tcase_add_test(t, nothing_outside_of_the_roots_exists);
    tcase_add_test(t, symbolic_links_lead_anywhere_but_out);
    tcase_add_test(t, files_that_link_out_of_the_roots_are_refused);
    tcase_add_test(t, only_regular_files_are_opened);
    tcase_add_test(t, the_limit_is_of_all_files_together);
    tcase_add_test(t, large_and_empty_files_arrive_whole);
    tcase_add_test(t, another_file_system_makes_no_difference);
    tcase_add_test(t, a_place_that_is_taken_or_missing_is_said_to_be);
    tcase_add_test(t, a_full_disk_is_told_from_other_troubles);
    tcase_add_test(t, nothing_swapped_in_between_gets_out);
    tcase_add_test(t, a_file_that_changes_while_it_is_copied_is_not_taken);
    tcase_add_test(t, no_descriptor_is_left_open);
    tcase_add_test(t, only_addresses_of_the_public_internet_are_public);
    suite_add_tcase(s, t);
    t = tcase_create("watch");
    tcase_add_checked_fixture(t, setup_watch, teardown_watch);
    tcase_add_test(t, a_folder_arrives_once_it_has_settled_and_only_once);
    tcase_add_test(t, a_half_copied_folder_is_not_picked_up);
    tcase_add_test(t, whatever_changes_in_an_adapters_files_is_a_change_and_nothing_else_is);
    tcase_add_test(t, a_change_that_is_taken_back_is_none);
    tcase_add_test(t, a_folder_that_is_removed_goes_once_and_may_come_again);
    tcase_add_test(t, a_folder_that_is_replaced_or_emptied_is_not_gone);
    tcase_add_test(t, only_visible_folders_with_adapters_count);
    tcase_add_test(t, a_folders_state_is_the_same_until_somebody_touches_its_files);
    tcase_add_test(t, a_directory_that_cannot_be_read_takes_nothing_away);
    tcase_add_test(t, a_scan_that_breaks_off_takes_nothing_away);
    tcase_add_test(t, hundreds_of_folders_come_change_and_go_in_order_of_name);
    suite_add_tcase(s, t);
    return tu_run(s);
}
