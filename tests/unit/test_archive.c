/* SPDX-License-Identifier: MIT */
/* Uploaded archives: what is taken out of them, and every way they are refused. libarchive writes them too, except for those it cannot. */
#include <archive.h>
#include <archive_entry.h>
#include <check.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "adapters/archive.h"
#include "core/base/file.h"
#include "tests/unit/suite.h"

typedef struct {
    const char *name;
    const char *data;   /* NULL: no data */
    unsigned type;      /* 0: a regular file */
    const char *link;   /* target of a symbolic link */
    const char *hard;   /* target of a hard link */
    size_t zeros;       /* this many instead of data */
} entry;

#define MAX_BYTES (64u << 20)
#define CONFIG {.name = "adapter_config.json", .data = "{\"r\":1}"}
#define WEIGHTS {.name = "adapter_model.safetensors", .data = "weights"}
#define ENTRIES(...) (const entry[]){__VA_ARGS__, {0}}

/* adapter_config.json in a zip packed by LZMA and by bzip2, made with Python. */
#define LZMA_ZIP \
    "\x50\x4b\x03\x04\x3f\x00\x02\x00\x0e\x00\x00\x00\x21\x00\x43\xbf\xa6\xa3\x15\x00\x00\x00\x02\x00\x00\x00\x13\x00\x00\x00\x61\x64\x61\x70\x74\x65" \
    "\x72\x5f\x63\x6f\x6e\x66\x69\x67\x2e\x6a\x73\x6f\x6e\x09\x04\x05\x00\x5d\x00\x00\x80\x00\x00\x3d\x9f\x5c\xff\xff\xff\xff\xf0\x00\x00\x00\x50\x4b" \
    "\x01\x02\x3f\x03\x3f\x00\x02\x00\x0e\x00\x00\x00\x21\x00\x43\xbf\xa6\xa3\x15\x00\x00\x00\x02\x00\x00\x00\x13\x00\x00\x00\x00\x00\x00\x00\x00\x00" \
    "\x00\x00\x80\x01\x00\x00\x00\x00\x61\x64\x61\x70\x74\x65\x72\x5f\x63\x6f\x6e\x66\x69\x67\x2e\x6a\x73\x6f\x6e\x50\x4b\x05\x06\x00\x00\x00\x00\x01" \
    "\x00\x01\x00\x41\x00\x00\x00\x46\x00\x00\x00\x00\x00"
#define BZIP2_ZIP \
    "\x50\x4b\x03\x04\x2e\x00\x00\x00\x0c\x00\x00\x00\x21\x00\x43\xbf\xa6\xa3\x25\x00\x00\x00\x02\x00\x00\x00\x13\x00\x00\x00\x61\x64\x61\x70\x74\x65" \
    "\x72\x5f\x63\x6f\x6e\x66\x69\x67\x2e\x6a\x73\x6f\x6e\x42\x5a\x68\x39\x31\x41\x59\x26\x53\x59\xa7\x26\xdd\x4e\x00\x00\x00\x00\x80\x00\x0a\x20\x00" \
    "\x21\x00\x82\xb1\x77\x24\x53\x85\x09\x0a\x72\x6d\xd4\xe0\x50\x4b\x01\x02\x2e\x03\x2e\x00\x00\x00\x0c\x00\x00\x00\x21\x00\x43\xbf\xa6\xa3\x25\x00" \
    "\x00\x00\x02\x00\x00\x00\x13\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x80\x01\x00\x00\x00\x00\x61\x64\x61\x70\x74\x65\x72\x5f\x63\x6f\x6e\x66" \
    "\x69\x67\x2e\x6a\x73\x6f\x6e\x50\x4b\x05\x06\x00\x00\x00\x00\x01\x00\x01\x00\x41\x00\x00\x00\x56\x00\x00\x00\x00\x00"

static const char *const formats[] = {"tar", "tar.gz", "zip"};
static char dir[] = "/tmp/ad-archive-XXXXXX", path[100];
static const char *zip_options; /* of the next zip */

/* ---- making ---- */

static void add(struct archive *a, const entry *e)
{
    static const char zeros[65536];
    struct archive_entry *ae = archive_entry_new();
    archive_entry_set_pathname(ae, e->name);
    archive_entry_set_filetype(ae, e->type ? e->type : AE_IFREG);
    archive_entry_set_perm(ae, 0644);
    size_t len = e->data ? strlen(e->data) : e->zeros;
    archive_entry_set_size(ae, (la_int64_t)len);
    if (e->link) archive_entry_set_symlink(ae, e->link);
    if (e->hard) archive_entry_set_hardlink(ae, e->hard);
    ck_assert_msg(archive_write_header(a, ae) >= ARCHIVE_WARN, "%s", archive_error_string(a));
    if (e->data) ck_assert_int_eq(archive_write_data(a, e->data, len), (la_ssize_t)len);
    for (size_t n; !e->data && len; len -= n) {
        n = len < sizeof zeros ? len : sizeof zeros;
        ck_assert_int_eq(archive_write_data(a, zeros, n), (la_ssize_t)n);
    }
    archive_entry_free(ae);
}

static void make(const char *format, const entry *entries)
{
    struct archive *a = archive_write_new();
    if (!strcmp(format, "tar.gz")) archive_write_add_filter_gzip(a);
    if (!strcmp(format, "zip")) archive_write_set_format_zip(a);
    else archive_write_set_format_pax(a);
    if (zip_options) ck_assert_int_eq(archive_write_set_options(a, zip_options), ARCHIVE_OK);
    archive_write_set_passphrase(a, "secret");
    ck_assert_int_eq(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (; entries->name; entries++) add(a, entries);
    ck_assert_int_eq(archive_write_close(a), ARCHIVE_OK);
    archive_write_free(a);
}

static void make_bytes(const void *data, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    ck_assert(fd >= 0 && write(fd, data, len) == (ssize_t)len);
    close(fd);
}

/* ---- unpacking ---- */

static void begin(void)
{
    strcpy(dir, "/tmp/ad-archive-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/archive", dir);
    zip_options = NULL;
}

/* Empties the directory, where there must be nothing but files of ours and, kept or not, the archive. */
static int empty_dir(void)
{
    int n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));) {
        if (*e->d_name == '.') continue;
        const char *good[] = {"archive", "adapter_config.json", "adapter_model.safetensors", "adapter.gguf", "adapter.minisig", "chat_template.jinja", "tokenizer_config.json"};
        bool known = false;
        for (int i = 0; i < 7; i++) known = known || !strcmp(e->d_name, good[i]);
        ck_assert_msg(known, "%s was unpacked", e->d_name);
        ck_assert_int_eq(unlinkat(dirfd(d), e->d_name, 0), 0);
        n++;
    }
    closedir(d);
    return n;
}

static void end(void)
{
    empty_dir();
    ck_assert_int_eq(rmdir(dir), 0);
}

static void holds(const char *name, const char *text)
{
    char file[200];
    ad_file f;
    ad_err err;
    snprintf(file, sizeof file, "%s/%s", dir, name);
    ck_assert_msg(ad_file_read(&f, file, 1 << 20, &err) == AD_OK, "%s", err.msg);
    ck_assert(f.len == strlen(text) && !memcmp(f.data, text, f.len));
    ad_file_close(&f);
}

/* In every format: `files` files come out. */
static void good(const entry *entries, int files, const char *file, const char *text)
{
    for (int i = 0; i < 3; i++) {
        ad_err err = {0};
        make(formats[i], entries);
        ck_assert_msg(ad_archive_unpack(path, dir, MAX_BYTES, &err) == AD_OK, "%s: %s", formats[i], err.msg);
        holds(file, text);
        ck_assert_int_eq(access(path, F_OK), -1);
        ck_assert_int_eq(empty_dir(), files);
    }
}

static void refuse_made(ad_status status, const char *why)
{
    ad_err err = {0};
    ad_status st = ad_archive_unpack(path, dir, MAX_BYTES, &err);
    ck_assert_msg(st == status && strstr(err.msg, why), "status %d, \"%s\" does not say \"%s\"", st, err.msg, why);
    empty_dir();
}

static void refuse(const entry *entries, ad_status status, const char *why)
{
    for (int i = 0; i < 3; i++) {
        make(formats[i], entries);
        refuse_made(status, why);
    }
}

/* ---- what is taken ---- */

START_TEST(a_peft_directory_is_unpacked)
{
    good(ENTRIES(CONFIG, WEIGHTS), 2, "adapter_model.safetensors", "weights");
    good(ENTRIES(WEIGHTS, CONFIG, {.name = "adapter.minisig", .data = "signed"}), 3, "adapter.minisig", "signed");
}
END_TEST

START_TEST(a_chat_template_of_the_adapters_own_folder_comes_along)
{
    good(ENTRIES({.name = "chat_template.jinja", .data = "{{ x }}"}, CONFIG, WEIGHTS), 3, "chat_template.jinja", "{{ x }}");
    good(ENTRIES(CONFIG, WEIGHTS, {.name = "./tokenizer_config.json", .data = "{}"}), 3, "tokenizer_config.json", "{}");
    good(ENTRIES(CONFIG, {.name = "tokenizer/tokenizer_config.json", .data = "other"}, {.name = "tokenizer_config.json", .data = "{}"}, WEIGHTS), 3, "tokenizer_config.json", "{}");
    good(ENTRIES({.name = "base/tokenizer_config.json", .data = "other"}, {.name = "base/chat_template.jinja", .data = "other"}, CONFIG, WEIGHTS), 2, "adapter_config.json", "{\"r\":1}");
    refuse(ENTRIES(CONFIG, WEIGHTS, {.name = "chat_template.jinja", .data = "a"}, {.name = "./chat_template.jinja", .data = "b"}), AD_EFORMAT, "second chat_template.jinja");
}
END_TEST

START_TEST(a_gguf_file_is_unpacked_under_its_plain_name)
{
    good(ENTRIES({.name = "sql.gguf", .data = "GGUF"}), 1, "adapter.gguf", "GGUF");
    good(ENTRIES({.name = "x/adapter.gguf", .data = "GGUF"}, {.name = "x/.gguf", .data = "none"}, {.name = "x/._adapter.gguf", .data = "macOS"}), 1, "adapter.gguf", "GGUF");
}
END_TEST

START_TEST(any_folder_is_good_as_long_as_it_is_one)
{
    good(ENTRIES({.name = "./a/b/adapter_config.json", .data = "{}"}, {.name = "a/./b//adapter_model.safetensors", .data = "w"}), 2, "adapter_config.json", "{}");
    good(ENTRIES({.name = "a/", .type = AE_IFDIR}, {.name = "a/b/", .type = AE_IFDIR}, {.name = "a/adapter_config.json", .data = "{}"}, {.name = "a/adapter_model.safetensors", .data = "w"}), 2,
         "adapter_model.safetensors", "w");
    good(ENTRIES({.name = "caf\xC3\xA9/adapter_config.json", .data = "{}"}, {.name = "caf\xC3\xA9/adapter_model.safetensors", .data = "w"}), 2, "adapter_model.safetensors", "w");
}
END_TEST

START_TEST(other_files_are_skipped)
{
    good(ENTRIES({.name = "README.md", .data = "read me"}, CONFIG, {.name = "\xE8\xAA\xAD\xE3\x82\x80", .data = "x"}, {.name = "checkpoint/optimizer.pt", .data = "state"}, WEIGHTS,
                 {.name = "adapter_model.bin", .data = "pickle"}, {.name = "Adapter_Config.json", .data = "other"}), 2, "adapter_config.json", "{\"r\":1}");
}
END_TEST

START_TEST(empty_files_are_files)
{
    good(ENTRIES({.name = "adapter_config.json", .data = ""}, WEIGHTS), 2, "adapter_config.json", "");
}
END_TEST

/* ---- what is refused ---- */

START_TEST(names_that_lead_out_are_refused)
{
    static const char *const names[] = {"../adapter_config.json", "/adapter_config.json", "a/../adapter_config.json", "..", "a/..", "..\\adapter_config.json", "\\adapter_config.json",
                                        "C:\\adapter_config.json", "/etc/README.md", "a/../../README.md"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) refuse(ENTRIES({.name = names[i], .data = "{}"}, WEIGHTS), AD_EFORMAT, "leads out");
}
END_TEST

START_TEST(only_regular_files_and_directories_are_taken)
{
    refuse(ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .type = AE_IFLNK, .link = "/etc/passwd"}), AD_EFORMAT, "adapter_model.safetensors: neither a regular file");
    refuse(ENTRIES(CONFIG, WEIGHTS, {.name = "README.md", .type = AE_IFLNK, .link = "x"}), AD_EFORMAT, "README.md: neither");
    static const unsigned types[] = {AE_IFCHR, AE_IFBLK, AE_IFIFO};
    for (int i = 0; i < 2; i++) {
        make(formats[i], ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .hard = "adapter_config.json"}));
        refuse_made(AD_EFORMAT, "neither a regular file");
        for (int t = 0; t < 3; t++) {
            make(formats[i], ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .type = types[t]}));
            refuse_made(AD_EFORMAT, "neither a regular file");
        }
    }
}
END_TEST

START_TEST(a_file_twice_is_refused)
{
    refuse(ENTRIES(CONFIG, WEIGHTS, CONFIG), AD_EFORMAT, "a second adapter_config.json");
    refuse(ENTRIES(CONFIG, WEIGHTS, {.name = "./adapter_model.safetensors", .data = "other"}), AD_EFORMAT, "a second");
    refuse(ENTRIES({.name = "a.gguf", .data = "x"}, {.name = "b.gguf", .data = "y"}), AD_EFORMAT, "a second adapter.gguf");
}
END_TEST

START_TEST(adapters_in_two_folders_are_refused)
{
    refuse(ENTRIES(CONFIG, {.name = "a/adapter_model.safetensors", .data = "w"}), AD_EFORMAT, "two folders");
    refuse(ENTRIES(CONFIG, WEIGHTS, {.name = "checkpoint-1/adapter_config.json", .data = "{}"}), AD_EFORMAT, "checkpoint-1/adapter_config.json: files of an adapter stand in two folders");
    refuse(ENTRIES({.name = "a/adapter_config.json", .data = "{}"}, {.name = "aa/adapter_model.safetensors", .data = "w"}), AD_EFORMAT, "two folders");
}
END_TEST

START_TEST(incomplete_and_double_adapters_are_refused)
{
    refuse(ENTRIES({.name = "README.md", .data = "x"}), AD_EFORMAT, "holds no adapter");
    refuse(ENTRIES({.name = "a/", .type = AE_IFDIR}), AD_EFORMAT, "holds no adapter");
    refuse(ENTRIES(CONFIG), AD_EFORMAT, "holds no adapter_model.safetensors");
    refuse(ENTRIES(WEIGHTS), AD_EFORMAT, "holds no adapter_config.json");
    refuse(ENTRIES(CONFIG, WEIGHTS, {.name = "a.gguf", .data = "x"}), AD_EFORMAT, "send one of them");
    make("tar", (const entry[]){{0}});
    refuse_made(AD_EFORMAT, "holds no adapter");
}
END_TEST

START_TEST(pickles_as_the_only_weights_are_unsupported)
{
    refuse(ENTRIES(CONFIG, {.name = "adapter_model.bin", .data = "pickle"}), AD_EUNSUPPORTED, "Python pickle");
    refuse(ENTRIES({.name = "x.pt", .data = "pickle"}), AD_EUNSUPPORTED, "Python pickle");
}
END_TEST

START_TEST(bombs_go_off_by_ratio_even_among_the_skipped)
{
    const entry *inside = ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .zeros = 5u << 20}), *beside = ENTRIES({.name = "x", .zeros = 5u << 20}, CONFIG, WEIGHTS);
    for (int i = 1; i < 3; i++) {
        make(formats[i], inside);
        refuse_made(AD_ELIMIT, "200 times its size");
        make(formats[i], beside);
        refuse_made(AD_ELIMIT, "200 times its size");
    }
}
END_TEST

START_TEST(bombs_behind_the_end_of_a_tar_go_off)
{
    static const char zeros[1 << 20];
    ad_file tar;
    ad_err err;
    make("tar", ENTRIES(CONFIG, WEIGHTS));
    ck_assert_int_eq(ad_file_read(&tar, path, 1 << 20, &err), AD_OK);
    gzFile gz = gzopen(path, "wb");
    ck_assert_int_eq(gzwrite(gz, tar.data, (unsigned)tar.len), (int)tar.len);
    for (int i = 0; i < 20; i++) ck_assert_int_gt(gzwrite(gz, zeros, sizeof zeros), 0);
    ck_assert_int_eq(gzclose(gz), Z_OK);
    ad_file_close(&tar);
    refuse_made(AD_ELIMIT, "its end it unpacks to more than");
}
END_TEST

START_TEST(what_unpacks_to_more_than_the_limit_is_refused)
{
    ad_err err = {0};
    const entry *e = ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .zeros = 100000});
    make("tar", e);
    ck_assert_int_eq(ad_archive_unpack(path, dir, 100006, &err), AD_ELIMIT);
    ck_assert_msg(strstr(err.msg, "adapter_model.safetensors") && strstr(err.msg, "100006 bytes"), "%s", err.msg);
    empty_dir();
    make("tar", e);
    ck_assert_int_eq(ad_archive_unpack(path, dir, 100007, &err), AD_OK);
}
END_TEST

START_TEST(holes_count_as_what_they_unpack_to)
{
    struct archive *a = archive_write_new();
    struct archive_entry *ae = archive_entry_new();
    archive_write_set_format_pax(a);
    ck_assert_int_eq(archive_write_open_filename(a, path), ARCHIVE_OK);
    archive_entry_set_pathname(ae, "adapter_model.safetensors");
    archive_entry_set_filetype(ae, AE_IFREG);
    archive_entry_set_size(ae, 1ll << 40);
    archive_entry_sparse_add_entry(ae, 0, 1);
    ck_assert_int_eq(archive_write_header(a, ae), ARCHIVE_OK);
    ck_assert_int_eq(archive_write_data(a, "x", 1), 1);
    archive_entry_free(ae);
    archive_write_free(a);
    refuse_made(AD_ELIMIT, "200 times its size");
}
END_TEST

START_TEST(entries_are_counted)
{
    entry many[AD_ARCHIVE_ENTRIES + 2] = {CONFIG, WEIGHTS};
    for (int i = 2; i < AD_ARCHIVE_ENTRIES; i++) many[i] = (entry){.name = "x", .data = ""};
    good(many, 2, "adapter_config.json", "{\"r\":1}");
    many[AD_ARCHIVE_ENTRIES] = many[2];
    refuse(many, AD_ELIMIT, "more than 1000 entries");
}
END_TEST

START_TEST(encrypted_zips_are_unsupported)
{
    zip_options = "zip:encryption=zipcrypt";
    make("zip", ENTRIES(CONFIG, WEIGHTS));
    refuse_made(AD_EUNSUPPORTED, "encrypted");
    zip_options = "zip:encryption=aes256";
    make("zip", ENTRIES(CONFIG, WEIGHTS));
    refuse_made(AD_EUNSUPPORTED, "encrypted");
}
END_TEST

START_TEST(zips_may_be_stored_or_deflated_only)
{
    zip_options = "zip:compression=store";
    make("zip", ENTRIES(CONFIG, WEIGHTS));
    ad_err err = {0};
    ck_assert_msg(ad_archive_unpack(path, dir, MAX_BYTES, &err) == AD_OK, "%s", err.msg);
    empty_dir();
    static const char lzma[] = LZMA_ZIP, bzip2[] = BZIP2_ZIP;
    make_bytes(lzma, sizeof lzma - 1);
    refuse_made(AD_EUNSUPPORTED, "deflate only");
    make_bytes(bzip2, sizeof bzip2 - 1);
    refuse_made(AD_EUNSUPPORTED, "deflate only");
}
END_TEST

START_TEST(what_is_no_such_archive_is_refused)
{
    make_bytes("", 0);
    refuse_made(AD_EFORMAT, "empty");
    make_bytes("\x1F\x8B", 2);
    refuse_made(AD_EFORMAT, "archive: ");
    make_bytes("7z\xBC\xAF\x27\x1C rest of a file of another format that is long enough to be looked at", 70);
    refuse_made(AD_EFORMAT, "archive: ");
    unlink(path);
    refuse_made(AD_EIO, "No such file");
    ck_assert_int_eq(symlink("/etc/passwd", path), 0);
    refuse_made(AD_EIO, "archive");
}
END_TEST

/* Weights that do not pack, long enough to be cut anywhere. */
static char *noise(void)
{
    static char data[5001];
    unsigned x = 1;
    for (int i = 0; i < 5000; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (char)(1 + (x >> 24) % 255);
    }
    return data;
}

START_TEST(truncated_archives_are_refused_unless_all_came)
{
    const entry *e = ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .data = noise()});
    for (int i = 0; i < 3; i++) {
        ad_file whole;
        ad_err err;
        make(formats[i], e);
        ck_assert_int_eq(ad_file_read(&whole, path, 1 << 20, &err), AD_OK);
        for (size_t n = 0; n < whole.len; n += n < 4000 ? 41 : 13) {
            make_bytes(whole.data, n);
            ad_status st = ad_archive_unpack(path, dir, MAX_BYTES, &err);
            if (st == AD_OK) {
                ck_assert_int_eq(i, 0); /* without its end a tar is still whole */
                holds("adapter_model.safetensors", noise());
                holds("adapter_config.json", "{\"r\":1}");
            } else {
                ck_assert_msg(st == AD_EFORMAT || st == AD_ELIMIT, "%s of %zu bytes: %d, %s", formats[i], n, st, err.msg);
            }
            empty_dir();
        }
        ad_file_close(&whole);
    }
}
END_TEST

START_TEST(damaged_data_is_noticed)
{
    const entry *e = ENTRIES(CONFIG, {.name = "adapter_model.safetensors", .data = noise()});
    for (int i = 1; i < 3; i++) { /* a tar has no checksum of its files */
        ad_file whole;
        ad_err err;
        make(formats[i], e);
        ck_assert_int_eq(ad_file_read(&whole, path, 1 << 20, &err), AD_OK);
        char *copy = malloc(whole.len);
        memcpy(copy, whole.data, whole.len);
        copy[3000] ^= 4;
        make_bytes(copy, whole.len);
        refuse_made(AD_EFORMAT, "archive: ");
        free(copy);
        ad_file_close(&whole);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("archive");
    TCase *t = tcase_create("taken");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, a_peft_directory_is_unpacked);
    tcase_add_test(t, a_chat_template_of_the_adapters_own_folder_comes_along);
    tcase_add_test(t, a_gguf_file_is_unpacked_under_its_plain_name);
    tcase_add_test(t, any_folder_is_good_as_long_as_it_is_one);
    tcase_add_test(t, other_files_are_skipped);
    tcase_add_test(t, empty_files_are_files);
    suite_add_tcase(s, t);
    t = tcase_create("refused");
    tcase_add_checked_fixture(t, begin, end);
    tcase_add_test(t, names_that_lead_out_are_refused);
    tcase_add_test(t, only_regular_files_and_directories_are_taken);
    tcase_add_test(t, a_file_twice_is_refused);
    tcase_add_test(t, adapters_in_two_folders_are_refused);
    tcase_add_test(t, incomplete_and_double_adapters_are_refused);
    tcase_add_test(t, pickles_as_the_only_weights_are_unsupported);
    tcase_add_test(t, bombs_go_off_by_ratio_even_among_the_skipped);
    tcase_add_test(t, bombs_behind_the_end_of_a_tar_go_off);
    tcase_add_test(t, what_unpacks_to_more_than_the_limit_is_refused);
    tcase_add_test(t, holes_count_as_what_they_unpack_to);
    tcase_add_test(t, entries_are_counted);
    tcase_add_test(t, encrypted_zips_are_unsupported);
    tcase_add_test(t, zips_may_be_stored_or_deflated_only);
    tcase_add_test(t, what_is_no_such_archive_is_refused);
    tcase_add_test(t, truncated_archives_are_refused_unless_all_came);
    tcase_add_test(t, damaged_data_is_noticed);
    suite_add_tcase(s, t);
    return tu_run(s);
}
