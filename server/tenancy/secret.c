/* SPDX-License-Identifier: MIT */
#include "server/tenancy/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "server/observe/log.h"

static const char prefix[] = "sk-ad-";
enum { PREFIX = sizeof prefix - 1, KEY_BYTES = 32 };

static ad_status fail_file(ad_err *err, const char *path, const char *what)
{
    int error = errno;
    return ad_fail(err, ad_errno_status(error), "%s: cannot %s: %s", path, what, strerror(error));
}

/* ---- the secret ---- */

static bool fill_randomly(void *to, size_t len) { return getrandom(to, len, 0) == (ssize_t)len; }

static bool write_durably(int fd, const uint8_t secret[AD_KEY_SECRET]) { return ad_write_all(fd, secret, AD_KEY_SECRET) && fsync(fd) == 0; }

static bool sync_names(const char *dir)
{
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    bool ok = fd >= 0 && fsync(fd) == 0;
    if (fd >= 0) close(fd);
    return ok;
}

/* Under another name first: there is never half a secret. */
static ad_status create(const uint8_t secret[AD_KEY_SECRET], const char *dir, const char *path, ad_err *err)
{
    char fresh[AD_STORE_PATH];
    snprintf(fresh, sizeof fresh, "%s/key.secret.new", dir);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0) return fail_file(err, fresh, "make the file");
    bool written = write_durably(fd, secret);
    ad_status st = written ? AD_OK : fail_file(err, fresh, "write the file");
    close(fd);
    if (st == AD_OK && rename(fresh, path) != 0) st = fail_file(err, path, "make the file");
    if (st == AD_OK && !sync_names(dir)) st = fail_file(err, dir, "sync the directory");
    if (st != AD_OK) unlink(fresh);
    return st;
}

static ad_status read_secret(int fd, uint8_t secret[AD_KEY_SECRET], const char *path, ad_err *err)
{
    struct stat info;
    if (fstat(fd, &info) != 0) return fail_file(err, path, "read the file");
    if (!S_ISREG(info.st_mode) || info.st_size != AD_KEY_SECRET || read(fd, secret, AD_KEY_SECRET) != AD_KEY_SECRET)
        return ad_fail(err, AD_EFORMAT, "%s is not the file of %d bytes that keys were made with; restore it", path, AD_KEY_SECRET);
    if (info.st_mode & 077) ad_log(AD_LOG_WARN, "%s can be read by others than its owner (mode %03o): chmod 600", path, (unsigned)info.st_mode & 0777);
    return AD_OK;
}

ad_status ad_key_secret_open(uint8_t secret[AD_KEY_SECRET], const char *dir, bool needed, ad_err *err)
{
    char path[AD_STORE_PATH];
    if (!dir) return fill_randomly(secret, AD_KEY_SECRET) ? AD_OK : ad_fail(err, AD_EIO, "no random number for the secret of keys");
    if ((size_t)snprintf(path, sizeof path, "%s/key.secret", dir) >= sizeof path - 8) return ad_fail(err, AD_EINVAL, "%.200s...: the path is too long", dir);
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno != ENOENT) return fail_file(err, path, "open the file");
    if (fd < 0 && needed) return ad_fail(err, AD_EFORMAT, "%s is missing, with which the stored keys were made: without it none of them can be told; restore it from a backup", path);
    ad_status st = AD_OK;
    if (fd >= 0) st = read_secret(fd, secret, path, err);
    else if (!fill_randomly(secret, AD_KEY_SECRET)) st = ad_fail(err, AD_EIO, "no random number for the secret of keys");
    else st = create(secret, dir, path, err);
    if (fd >= 0) close(fd);
    return st;
}

/* ---- keys ---- */

ad_status ad_key_mac(const uint8_t secret[AD_KEY_SECRET], const char *text, ad_digest *out, ad_err *err)
{
    unsigned len = 0;
    if (HMAC(EVP_sha256(), secret, AD_KEY_SECRET, (const unsigned char *)text, strlen(text), out->bytes, &len) && len == sizeof out->bytes) return AD_OK;
    return ad_fail(err, AD_ENOMEM, "out of memory for the hash of a key");
}

/* Six bits a character, the most significant first, without padding. */
static void write_base64url(char *to, const uint8_t *from, size_t len)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    unsigned bits = 0, n = 0;
    for (size_t i = 0; i < len; i++) {
        bits = bits << 8 | from[i];
        for (n += 8; n >= 6; n -= 6) *to++ = digits[bits >> (n - 6) & 63];
    }
    if (n) *to++ = digits[bits << (6 - n) & 63];
    *to = '\0';
}

ad_status ad_key_make(char text[AD_KEY_TEXT + 1], ad_err *err)
{
    uint8_t id[AD_KEY_ID / 2], random[KEY_BYTES];
    if (!fill_randomly(id, sizeof id) || !fill_randomly(random, sizeof random)) return ad_fail(err, AD_EIO, "no random number for a key");
    memcpy(text, prefix, PREFIX);
    for (size_t i = 0; i < sizeof id; i++) snprintf(text + PREFIX + 2 * i, 3, "%02x", id[i]);
    text[PREFIX + AD_KEY_ID] = '-';
    write_base64url(text + PREFIX + AD_KEY_ID + 1, random, sizeof random);
    OPENSSL_cleanse(random, sizeof random);
    return AD_OK;
}

bool ad_key_read_id(const char *text, char id[AD_KEY_ID + 1])
{
    if (strlen(text) != AD_KEY_TEXT || memcmp(text, prefix, PREFIX) || text[PREFIX + AD_KEY_ID] != '-') return false;
    memcpy(id, text + PREFIX, AD_KEY_ID);
    id[AD_KEY_ID] = '\0';
    return strspn(id, "0123456789abcdef") == AD_KEY_ID;
}
