/* SPDX-License-Identifier: MIT */
/* TLS without sockets: OpenSSL's client talks with a filter through memory, in pieces of any size, honestly and not. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <check.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>

#include "server/http/tls.h"
#include "tests/unit/suite.h"

static char cert_path[] = "/tmp/ad-tls-XXXXXX";

/* A certificate with its key in cert_path. */
static void write_certificate(long serial)
{
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *cert = X509_new();
    X509_set_version(cert, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(cert), serial);
    X509_gmtime_adj(X509_getm_notBefore(cert), -10);
    X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC, (const unsigned char *)"test", -1, -1, 0);
    X509_set_issuer_name(cert, X509_get_subject_name(cert));
    X509_set_pubkey(cert, key);
    ck_assert_int_gt(X509_sign(cert, key, EVP_sha256()), 0);
    FILE *f = fopen(cert_path, "w");
    ck_assert(f && PEM_write_X509(f, cert) && PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL));
    fclose(f);
    X509_free(cert);
    EVP_PKEY_free(key);
}

static ad_tls *server;

static void set_up(void)
{
    ad_err err;
    strcpy(cert_path, "/tmp/ad-tls-XXXXXX");
    int fd = mkstemp(cert_path);
    ck_assert_int_ge(fd, 0);
    close(fd);
    write_certificate(1);
    ck_assert_msg(ad_tls_new(&server, &(ad_tls_files){.cert = cert_path}, &err) == AD_OK, "%s", err.msg);
}

static void tear_down(void)
{
    ad_tls_free(&server);
    unlink(cert_path);
}

/* Both ends of a connection. */
typedef struct {
    SSL_CTX *ctx;
    SSL *client;
    BIO *to_client, *from_client;
    ad_tls_filter *filter;
    ad_buf plain, wire;     /* what the filter gave; wire is what the client has not got yet */
    ad_tls_state state;
    size_t piece;           /* the most that the filter gets at a time */
} pair;

static pair pair_open(size_t piece, int version)
{
    pair p = {.ctx = SSL_CTX_new(TLS_client_method()), .to_client = BIO_new(BIO_s_mem()), .from_client = BIO_new(BIO_s_mem()), .filter = ad_tls_filter_new(server), .piece = piece};
    SSL_CTX_set_max_proto_version(p.ctx, version);
    p.client = SSL_new(p.ctx);
    ck_assert(p.client && p.filter && p.to_client && p.from_client);
    SSL_set_bio(p.client, p.to_client, p.from_client);
    SSL_set_connect_state(p.client);
    return p;
}

static void pair_close(pair *p)
{
    SSL_free(p->client);
    SSL_CTX_free(p->ctx);
    ad_tls_filter_free(&p->filter);
    ad_buf_deinit(&p->plain);
    ad_buf_deinit(&p->wire);
}

static void to_client(pair *p)
{
    if (p->wire.len) ck_assert_int_eq(BIO_write(p->to_client, p->wire.data, (int)p->wire.len), (int)p->wire.len);
    ad_buf_clear(&p->wire);
}

/* What the client has said; the filter's answers wait in wire. */
static void to_filter(pair *p)
{
    char data[4096];
    size_t most = p->piece < sizeof data ? p->piece : sizeof data;
    for (int n; (n = BIO_read(p->from_client, data, (int)most)) > 0;) p->state = ad_tls_receive(p->filter, data, (size_t)n, &p->plain, &p->wire);
}

static void shake(pair *p)
{
    for (int i = 0; i < 10 && !(SSL_is_init_finished(p->client) && p->state == AD_TLS_OPEN); i++) {
        SSL_do_handshake(p->client);
        to_filter(p);
        to_client(p);
    }
    ck_assert(SSL_is_init_finished(p->client) && p->state == AD_TLS_OPEN);
}

static char *pattern(size_t n)
{
    char *data = malloc(n);
    ck_assert_ptr_nonnull(data);
    for (size_t i = 0; i < n; i++) data[i] = (char)(i * 31 % 251);
    return data;
}

START_TEST(what_is_said_arrives_however_it_is_cut)
{
    static const size_t pieces[] = {1, 2, 7, 100, 4096};
    enum { N = 100000 };
    char *data = pattern(N), *got = malloc(N);
    for (int i = 0; i < 10; i++) {
        pair p = pair_open(pieces[i / 2], i % 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
        shake(&p);
        ck_assert_int_eq(SSL_version(p.client), i % 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
        ck_assert_int_eq(SSL_write(p.client, data, N), N);
        to_filter(&p);
        ck_assert(p.plain.len == N && !memcmp(p.plain.data, data, N));
        ck_assert(ad_tls_send(p.filter, data, N, &p.wire));
        to_client(&p);
        for (int n = 0, more; n < N; n += more) {
            more = SSL_read(p.client, got + n, N - n);
            ck_assert_int_gt(more, 0);
        }
        ck_assert(!memcmp(got, data, N));
        pair_close(&p);
    }
    free(data);
    free(got);
}
END_TEST

START_TEST(nothing_is_sent_before_hands_are_shaken_or_after_the_end)
{
    pair p = pair_open(4096, TLS1_3_VERSION);
    ck_assert(!ad_tls_send(p.filter, "x", 1, &p.wire));
    ad_tls_end(p.filter, &p.wire);
    ck_assert_uint_eq(p.wire.len, 0);
    shake(&p);
    ad_tls_end(p.filter, &p.wire);
    ck_assert_uint_gt(p.wire.len, 0);
    to_client(&p);
    char byte;
    ck_assert_int_eq(SSL_get_error(p.client, SSL_read(p.client, &byte, 1)), SSL_ERROR_ZERO_RETURN);
    ad_tls_end(p.filter, &p.wire);
    ck_assert(!ad_tls_send(p.filter, "x", 1, &p.wire) && !p.wire.len);
    SSL_shutdown(p.client);
    to_filter(&p);
    ck_assert_int_eq(p.state, AD_TLS_ENDED);
    pair_close(&p);
}
END_TEST

START_TEST(a_client_that_always_wants_new_keys_is_given_up)
{
    pair p = pair_open(4096, TLS1_3_VERSION);
    shake(&p);
    int n = 0;
    for (; n < 100000 && p.state == AD_TLS_OPEN; n++) {
        SSL_key_update(p.client, SSL_KEY_UPDATE_REQUESTED);
        SSL_do_handshake(p.client);
        to_filter(&p);
    }
    ck_assert_int_eq(p.state, AD_TLS_FAILED);
    ck_assert_int_gt(n, 100); /* as often as anybody needs is fine */
    ck_assert_uint_lt(p.wire.len, 100000);
    pair_close(&p);
}
END_TEST

START_TEST(new_keys_lose_nothing)
{
    pair p = pair_open(50, TLS1_3_VERSION);
    shake(&p);
    for (int i = 0; i < 20; i++) {
        char back[2];
        SSL_key_update(p.client, SSL_KEY_UPDATE_REQUESTED);
        ck_assert_int_eq(SSL_write(p.client, "ab", 2), 2);
        to_filter(&p);
        ck_assert(ad_tls_send(p.filter, "cd", 2, &p.wire));
        to_client(&p);
        ck_assert(SSL_read(p.client, back, 2) == 2 && !memcmp(back, "cd", 2));
    }
    ck_assert_uint_eq(p.plain.len, 40);
    pair_close(&p);
}
END_TEST

START_TEST(a_record_that_somebody_changed_says_nothing)
{
    for (int at = 0;; at++) {
        pair p = pair_open(4096, at % 2 ? TLS1_2_VERSION : TLS1_3_VERSION);
        char data[200];
        shake(&p);
        ck_assert_int_eq(SSL_write(p.client, "attack at dawn", 14), 14);
        int n = BIO_read(p.from_client, data, sizeof data);
        if (at < n) {
            data[at] ^= 0x10;
            ad_tls_receive(p.filter, data, (size_t)n, &p.plain, &p.wire);
            ck_assert_uint_eq(p.plain.len, 0);
        }
        pair_close(&p);
        if (at >= n) break;
    }
}
END_TEST

START_TEST(hellos_of_any_kind_are_answered_or_refused)
{
    pair good = pair_open(4096, TLS1_3_VERSION);
    char hello[4096], changed[4096];
    SSL_do_handshake(good.client);
    int n = BIO_read(good.from_client, hello, sizeof hello), failed = 0;
    unsigned seed = 1;
    for (int round = 0; round < 1500; round++) {
        ad_tls_filter *f = ad_tls_filter_new(server);
        ad_buf plain = {0}, wire = {0};
        memcpy(changed, hello, (size_t)n);
        for (int k = 0; k <= round % 5; k++) changed[rand_r(&seed) % n] = (char)rand_r(&seed);
        ad_tls_state state = ad_tls_receive(f, changed, (size_t)n, &plain, &wire);
        ck_assert(state == AD_TLS_SHAKING || state == AD_TLS_FAILED);
        if (state == AD_TLS_FAILED) {
            failed++;
            ck_assert_ptr_nonnull(ad_tls_problem(f));
            ck_assert_int_eq(ad_tls_receive(f, hello, (size_t)n, &plain, &wire), AD_TLS_FAILED);
        }
        ck_assert_uint_eq(plain.len, 0);
        ad_tls_filter_free(&f);
        ad_buf_deinit(&plain);
        ad_buf_deinit(&wire);
    }
    ck_assert_int_gt(failed, 100);
    pair_close(&good);
}
END_TEST

static long serial_of(pair *p)
{
    X509 *cert = SSL_get1_peer_certificate(p->client);
    long serial = ASN1_INTEGER_get(X509_get0_serialNumber(cert));
    X509_free(cert);
    return serial;
}

START_TEST(filters_have_the_certificate_of_their_beginning)
{
    ad_err err;
    bool renewed = false;
    pair old = pair_open(4096, TLS1_3_VERSION);
    write_certificate(2);
    ck_assert_int_eq(ad_tls_reload(server, &renewed, &err), AD_OK);
    ck_assert(renewed);
    ck_assert_int_eq(ad_tls_reload(server, &renewed, &err), AD_OK);
    ck_assert(!renewed);
    pair new = pair_open(4096, TLS1_3_VERSION);
    unlink(cert_path);
    ck_assert_int_eq(ad_tls_reload(server, &renewed, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, cert_path));
    pair newer = pair_open(4096, TLS1_3_VERSION);
    shake(&old), shake(&new), shake(&newer);
    ck_assert_int_eq(serial_of(&old), 1);
    ck_assert_int_eq(serial_of(&new), 2);
    ck_assert_int_eq(serial_of(&newer), 2);
    pair_close(&old), pair_close(&new), pair_close(&newer);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tls");
    TCase *t = tcase_create("tls");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, what_is_said_arrives_however_it_is_cut);
    tcase_add_test(t, nothing_is_sent_before_hands_are_shaken_or_after_the_end);
    tcase_add_test(t, a_client_that_always_wants_new_keys_is_given_up);
    tcase_add_test(t, new_keys_lose_nothing);
    tcase_add_test(t, a_record_that_somebody_changed_says_nothing);
    tcase_add_test(t, hellos_of_any_kind_are_answered_or_refused);
    tcase_add_test(t, filters_have_the_certificate_of_their_beginning);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
