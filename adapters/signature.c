/* SPDX-License-Identifier: MIT */
/* Reads minisign's two file formats and leaves the mathematics to OpenSSL.
 *
 *   public key:   "untrusted comment: ...", base64(alg[2] id[8] key[32])
 *   signature:    "untrusted comment: ...", base64(alg[2] id[8] signature[64]), "trusted comment: ...", base64(global[64])
 *
 * alg "Ed" signs the message itself, "ED" its BLAKE2b-512; global signs signature and trusted comment together. */
#include "adapters/signature.h"

#include <openssl/err.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/text/utf8.h"

enum { ID = 8, KEY = 32, SIGNATURE = 64, KEY_BYTES = 2 + ID + KEY, SIGNATURE_BYTES = 2 + ID + SIGNATURE, KEY_CHARS = 56, KEY_FILE = 4096 };

typedef struct {
    uint8_t id[ID], bytes[KEY];
} public_key;

struct ad_trust {
    int n;
    public_key keys[];
};

/* A .minisig file, taken apart; comment points into it. */
typedef struct {
    bool hashed;
    uint8_t id[ID], signature[SIGNATURE], global[SIGNATURE];
    ad_str comment;
} minisig;

bool ad_signature_policy_parse(const char *name, ad_signature_policy *out)
{
    static const char *const names[] = {[AD_SIGNATURES_OFF] = "off", [AD_SIGNATURES_WARN] = "warn", [AD_SIGNATURES_REQUIRE] = "require"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!strcmp(name, names[i])) return *out = (ad_signature_policy)i, true;
    return false;
}

/* ---- lines and base64 ---- */

/* Cuts the first line off *text, without its line feed or CR LF. False at the end. */
static bool next_line(ad_str *text, ad_str *line)
{
    if (!text->len) return false;
    const char *end = memchr(text->ptr, '\n', text->len);
    size_t len = end ? (size_t)(end - text->ptr) : text->len, used = end ? len + 1 : len;
    *line = (ad_str){text->ptr, len && text->ptr[len - 1] == '\r' ? len - 1 : len};
    *text = (ad_str){text->ptr + used, text->len - used};
    return true;
}

static bool skip_prefix(ad_str *line, const char *prefix)
{
    size_t n = strlen(prefix);
    if (line->len < n || memcmp(line->ptr, prefix, n)) return false;
    *line = (ad_str){line->ptr + n, line->len - n};
    return true;
}

static int sextet(char c)
{
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const char *at = c ? strchr(alphabet, c) : NULL;
    return at ? (int)(at - alphabet) : -1;
}

/* Exactly n bytes, with the padding that belongs to them and nothing in its spare bits: one text per value. */
static bool decode64(ad_str s, uint8_t *out, size_t n)
{
    size_t pad = (3 - n % 3) % 3, chars = (n + 2) / 3 * 4;
    uint32_t bits = 0, at = 0;
    if (s.len != chars) return false;
    for (size_t i = 0; i < chars; i++) {
        bool is_pad = i >= chars - pad;
        int v = is_pad ? 0 : sextet(s.ptr[i]);
        if (v < 0 || (is_pad && s.ptr[i] != '=')) return false;
        bits = bits << 6 | (uint32_t)v;
        if (i % 4 != 3) continue;
        for (int shift = 16; shift >= 0; shift -= 8, at++) {
            uint8_t byte = (uint8_t)(bits >> shift);
            if (at < n) out[at] = byte;
            else if (byte) return false;
        }
        bits = 0;
    }
    return true;
}

/* ---- public keys ---- */

static bool decode_key(ad_str line, public_key *out)
{
    uint8_t raw[KEY_BYTES];
    if (!decode64(line, raw, sizeof raw) || memcmp(raw, "Ed", 2)) return false;
    memcpy(out->id, raw + 2, ID);
    memcpy(out->bytes, raw + 2 + ID, KEY);
    return true;
}

static bool parse_key_file(ad_str text, public_key *out)
{
    ad_str line, rest;
    if (!next_line(&text, &line)) return false;
    if (skip_prefix(&line, "untrusted comment:") && !next_line(&text, &line)) return false;
    return decode_key(line, out) && !next_line(&text, &rest);
}

static ad_status read_key(public_key *out, const char *key, ad_err *err)
{
    if (decode_key((ad_str){key, strlen(key)}, out)) return AD_OK;
    if (!*key) return ad_fail(err, AD_EINVAL, "a trusted key is empty");
    ad_file f;
    ad_status st = ad_file_read(&f, key, KEY_FILE, err);
    if (st == AD_ENOTFOUND) return ad_fail(err, st, "trusted key \"%.200s\": neither a file nor the base64 line of a minisign public key", key);
    if (st != AD_OK) return st;
    if (!parse_key_file((ad_str){f.data ? f.data : "", f.len}, out)) st = ad_fail(err, AD_EFORMAT, "%.200s: not a minisign public key", key);
    ad_file_close(&f);
    return st;
}

ad_status ad_trust_new(ad_trust **out, const char *const *keys, int n, ad_err *err)
{
    ad_trust *t = ad_calloc(1, sizeof *t + (size_t)n * sizeof *t->keys);
    if (!t) return ad_fail(err, AD_ENOMEM, "trusted keys: out of memory");
    ad_status st = AD_OK;
    for (; t->n < n && st == AD_OK; t->n++) st = read_key(&t->keys[t->n], keys[t->n], err);
    if (st == AD_OK) *out = t;
    else ad_trust_free(&t);
    return st;
}

void ad_trust_free(ad_trust **t)
{
    free(*t);
    *t = NULL;
}

/* ---- signature files ---- */

static bool parse_algorithm(const uint8_t *raw, bool *hashed)
{
    *hashed = !memcmp(raw, "ED", 2);
    return *hashed || !memcmp(raw, "Ed", 2);
}

/* Comments are shown and logged: no control characters, nothing that is not UTF-8. */
static bool is_printable(ad_str s)
{
    for (size_t i = 0; i < s.len; i++)
        if (((unsigned char)s.ptr[i] < 0x20 && s.ptr[i] != '\t') || s.ptr[i] == 0x7F) return false;
    return ad_utf8_check(s.ptr, s.len) == s.len;
}

static ad_status parse_minisig(minisig *out, const char *text, ad_err *err)
{
    uint8_t raw[SIGNATURE_BYTES];
    ad_str rest = {text, strnlen(text, AD_SIGNATURE_TEXT + 1)}, line;
    if (rest.len > AD_SIGNATURE_TEXT) return ad_fail(err, AD_EFORMAT, "signature: longer than %d bytes", AD_SIGNATURE_TEXT);
    if (!next_line(&rest, &line) || !skip_prefix(&line, "untrusted comment: ")) return ad_fail(err, AD_EFORMAT, "signature: line 1 is no \"untrusted comment: \"");
    if (!next_line(&rest, &line) || !decode64(line, raw, sizeof raw)) return ad_fail(err, AD_EFORMAT, "signature: line 2 is not the base64 of a minisign signature");
    if (!parse_algorithm(raw, &out->hashed)) return ad_fail(err, AD_EFORMAT, "signature: its algorithm is not one of minisign's");
    if (!next_line(&rest, &out->comment) || !skip_prefix(&out->comment, "trusted comment: ")) return ad_fail(err, AD_EFORMAT, "signature: line 3 is no \"trusted comment: \"");
    if (!is_printable(out->comment)) return ad_fail(err, AD_EFORMAT, "signature: the trusted comment has control characters or is not UTF-8");
    if (!next_line(&rest, &line) || !decode64(line, out->global, sizeof out->global)) return ad_fail(err, AD_EFORMAT, "signature: line 4 is not the base64 of a signature");
    if (next_line(&rest, &line)) return ad_fail(err, AD_EFORMAT, "signature: it has more than four lines");
    memcpy(out->id, raw + 2, ID);
    memcpy(out->signature, raw + 2 + ID, SIGNATURE);
    return AD_OK;
}

/* ---- verification ---- */

static bool verifies(const public_key *k, const uint8_t signature[SIGNATURE], const void *message, size_t len)
{
    EVP_PKEY *key = EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, k->bytes, KEY);
    EVP_MD_CTX *ctx = EVP_MD_CTX_new();
    bool good = key && ctx && EVP_DigestVerifyInit(ctx, NULL, NULL, NULL, key) == 1 && EVP_DigestVerify(ctx, signature, SIGNATURE, message, len) == 1;
    EVP_MD_CTX_free(ctx);
    EVP_PKEY_free(key);
    ERR_clear_error(); /* whoever uses OpenSSL next on this thread must not find ours */
    return good;
}

static bool verifies_text(const public_key *k, const minisig *m, const char *text, size_t len)
{
    uint8_t hash[EVP_MAX_MD_SIZE];
    unsigned n = 0;
    if (!m->hashed) return verifies(k, m->signature, text, len);
    return EVP_Digest(text, len, hash, &n, EVP_blake2b512(), NULL) == 1 && n == 64 && verifies(k, m->signature, hash, n);
}

/* The digits were written with a line feed by most tools, and without one by printf. */
static bool verifies_digest(const public_key *k, const minisig *m, const ad_digest *digest)
{
    char text[66];
    ad_digest_hex(digest, text);
    text[64] = '\n';
    return verifies_text(k, m, text, 65) || verifies_text(k, m, text, 64);
}

static bool verifies_comment(const public_key *k, const minisig *m)
{
    ad_buf b = {0};
    ad_buf_append(&b, m->signature, SIGNATURE);
    ad_buf_append(&b, m->comment.ptr, m->comment.len);
    bool good = !b.failed && verifies(k, m->global, b.data, b.len);
    ad_buf_deinit(&b);
    return good;
}

/* The id is a little-endian number, written as minisign writes it. */
static void write_id(const uint8_t id[ID], char out[17])
{
    for (int i = 0; i < ID; i++) snprintf(out + 2 * i, 3, "%02X", id[ID - 1 - i]);
}

bool ad_trust_has(const ad_trust *t, const char *key_id)
{
    char id[17];
    for (int i = 0; i < t->n; i++) {
        write_id(t->keys[i].id, id);
        if (!strcmp(id, key_id)) return true;
    }
    return false;
}

static void write_signer(const minisig *m, ad_signer *out)
{
    size_t n = m->comment.len < sizeof out->comment ? m->comment.len : sizeof out->comment - 1;
    n = ad_utf8_check(m->comment.ptr, n); /* no half character at the cut */
    memset(out, 0, sizeof *out);
    memcpy(out->comment, m->comment.ptr, n);
    write_id(m->id, out->key_id);
}

ad_status ad_signature_check(const ad_trust *t, const char *text, const ad_digest *digest, ad_signer *out, ad_err *err)
{
    minisig m;
    char id[17];
    ad_status st = parse_minisig(&m, text, err);
    if (st != AD_OK) return st;
    write_id(m.id, id);
    bool known = false;
    for (int i = 0; i < t->n; i++) { /* ids are short and chosen by their makers: several keys may have the same */
        if (memcmp(t->keys[i].id, m.id, ID)) continue;
        known = true;
        if (!verifies_digest(&t->keys[i], &m, digest)) continue;
        if (!verifies_comment(&t->keys[i], &m)) return ad_fail(err, AD_EUNTRUSTED, "signature: its trusted comment was altered");
        write_signer(&m, out);
        return AD_OK;
    }
    if (known) return ad_fail(err, AD_EUNTRUSTED, "signature: it is not the one of key %s for this adapter", id);
    return ad_fail(err, AD_EUNTRUSTED, "signature: key %s is not trusted", id);
}
