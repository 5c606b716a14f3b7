/* SPDX-License-Identifier: MIT */
/* minisign signatures: what minisign signed is believed, and nothing else. The vectors were made with minisign 0.11; `--minisign`
 * makes new ones with the program at hand (exit code 77 without it). */
#include "tests/unit/suite.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "adapters/signature.h"
#include "core/base/mem.h"

#define KEY_A "RWT6d4v7z1iKhmWDdO0n3x6PKHvQxUugTMRz5Gs/14OgAP2N12qIG9xq"
#define KEY_B "RWRQQJaRMsNtS5OLurH74qExlkMib7TogVhlgAW07HehSXy65Obmbqz1"
#define ID_A "868A58CFFB8B77FA"
#define UNTRUSTED "untrusted comment: signature from minisign secret key\n"

/* All over SHA-256("the adapter"), with A's key unless it says B. */
static const char hashed_lf[] = UNTRUSTED
    "RUT6d4v7z1iKhrJOEK5VXY8GTsxPDf/j/FKlCUaPo6TAo0NSyAnEWJnHd4yTJV4jP8aOioH/dIkSY+CA1+75LMBa51wf/bUPEAQ=\n"
    "trusted comment: adapter=sql base=SmolLM2 lf\n"
    "r6+aKK3DOGquGrxjLrhqdmDYXucv9xN2+z1OOv4EbynWNdzVVPzJkSwjW4Hg9xSNiAl4IYbe0tD0mvZFsRIOBw==\n";
static const char legacy_lf[] = UNTRUSTED
    "RWT6d4v7z1iKhgtehmr9dm7WLk1ai1o0LMYrOEjcTTHJA0qMLoIJMUs2zBOQvLA5uMWYkaFYSdoiHmwH18s/hT+U1Me5tzcIhw0=\n"
    "trusted comment: legacy lf\n"
    "f3kvRaZzYgtE2kpCdB+kM77nW4fSrRi0VdUywL7VcT5vmK+ulP2qLkBA1+N60vMXeSj0uRJmYpUT/uktCVNcBw==\n";
static const char hashed_bare[] = UNTRUSTED
    "RUT6d4v7z1iKhgY6P4RoPNvuVisC7UmQmK9vzPfLSv7wmvRCXVUVPZWxo3nUnbn57dRy+jwlRJZl4ZyyKGG33SrJF1ucVCKPdgw=\n"
    "trusted comment: adapter=sql base=SmolLM2 nolf\n"
    "/YFVWfEoPb1VBRWu0Btl4ASgXeAqSdgXzSs3fGhxGDK+NO9MIanPRmzbRaYvdZGUZGLIUH3l06MJKspd2qBfBg==\n";
static const char legacy_bare[] = UNTRUSTED
    "RWT6d4v7z1iKhj+tLmrFcIKYtzoshSPROnYXh+cIFafVGXNbebSn6wKPwLRVixKM/qJAhH2q75nmB4yNjh/5qSzBxQiBDOBSTwg=\n"
    "trusted comment: legacy nolf\n"
    "NK8bILSP7uS/nfMPBmJtMz9nLSEe4nCdRDltJud76ud3LgFsqVGKOcFNbhxEkTpJ/JP4BnaIce7v1eWVOF6RCw==\n";
static const char hashed_by_b[] = UNTRUSTED
    "RURQQJaRMsNtS3R7I3Io9V+oCxDTrfi3mnINgCZBFt1Lwa5wkQgWahDyclG+SY5u+YXK+DTByygHC8n/cB1nNytS1+tjDL+0HwI=\n"
    "trusted comment: another\n"
    "Olx+dlOnXPMcal1pr/r/d9XWIoXpO+vCX1Zc6th/Qe4twyUr8XikWU+kMW9bHqlrjGhk691U/2F+Xv9UcMItBw==\n";

static ad_digest digest_of(const char *s)
{
    ad_digest d;
    ad_err err;
    ad_hasher *h = NULL;
    ck_assert_int_eq(ad_hasher_new(&h, &err), AD_OK);
    ad_hasher_add(h, s, strlen(s));
    ck_assert_int_eq(ad_hasher_finish(&h, &d, &err), AD_OK);
    return d;
}

static ad_trust *trust(const char *a, const char *b)
{
    ad_err err;
    ad_trust *t = NULL;
    const char *keys[] = {a, b};
    ck_assert_msg(ad_trust_new(&t, keys, b ? 2 : a ? 1 : 0, &err) == AD_OK, "%s", err.msg);
    return t;
}

/* The status of a check by A's key, or by both keys. */
static ad_status check_by(const char *a, const char *b, const char *text, ad_signer *out, ad_err *err)
{
    ad_trust *t = trust(a, b);
    ad_digest d = digest_of("the adapter");
    ad_status st = ad_signature_check(t, text, &d, out, err);
    ad_trust_free(&t);
    return st;
}

START_TEST(both_of_minisigns_formats_are_believed_with_and_without_a_line_feed)
{
    static const struct { const char *text, *comment; } good[] = {
        {hashed_lf, "adapter=sql base=SmolLM2 lf"}, {legacy_lf, "legacy lf"}, {hashed_bare, "adapter=sql base=SmolLM2 nolf"}, {legacy_bare, "legacy nolf"}};
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        ad_signer who;
        ad_err err;
        ck_assert_msg(check_by(KEY_A, NULL, good[i].text, &who, &err) == AD_OK, "%zu: %s", i, err.msg);
        ck_assert_str_eq(who.key_id, ID_A);
        ck_assert_str_eq(who.comment, good[i].comment);
    }
}
END_TEST

START_TEST(any_of_several_trusted_keys_may_sign_and_no_other)
{
    ad_signer who;
    ad_err err;
    ck_assert_int_eq(check_by(KEY_A, KEY_B, hashed_by_b, &who, &err), AD_OK);
    ck_assert_str_eq(who.comment, "another");
    ck_assert_int_eq(check_by(KEY_B, KEY_A, hashed_lf, &who, &err), AD_OK);
    ck_assert_int_eq(check_by(KEY_A, NULL, hashed_by_b, &who, &err), AD_EUNTRUSTED);
    ck_assert_str_eq(err.msg, "signature: key 4B6DC33291964050 is not trusted");
    ck_assert_int_eq(check_by(NULL, NULL, hashed_lf, &who, &err), AD_EUNTRUSTED);
}
END_TEST

/* B's key under A's id: ids are no proof. */
START_TEST(a_key_that_only_borrows_an_id_is_not_believed_but_does_not_hide_the_real_one)
{
    static const char impostor[] = "RWT6d4v7z1iKhpOLurH74qExlkMib7TogVhlgAW07HehSXy65Obmbqz1";
    ad_signer who;
    ad_err err;
    ck_assert_int_eq(check_by(impostor, NULL, hashed_lf, &who, &err), AD_EUNTRUSTED);
    ck_assert_int_eq(check_by(impostor, KEY_A, hashed_lf, &who, &err), AD_OK);
}
END_TEST

START_TEST(a_signature_is_good_for_one_digest_only)
{
    ad_trust *t = trust(KEY_A, NULL);
    const char *texts[] = {hashed_lf, legacy_lf, hashed_bare, legacy_bare};
    for (size_t k = 0; k < 4; k++) {
        for (int bit = 0; bit < 256; bit++) {
            ad_digest d = digest_of("the adapter");
            ad_signer who;
            ad_err err;
            d.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
            ck_assert_int_eq(ad_signature_check(t, texts[k], &d, &who, &err), AD_EUNTRUSTED);
        }
    }
    ad_trust_free(&t);
}
END_TEST

/* Only the untrusted comment may change; nothing signs it. */
START_TEST(no_bit_of_a_signature_file_may_flip)
{
    ad_trust *t = trust(KEY_A, NULL);
    ad_digest d = digest_of("the adapter");
    const char *texts[] = {hashed_lf, legacy_lf};
    size_t free_from = strlen("untrusted comment: "), free_to = strlen(UNTRUSTED) - 1, n_free = 0;
    for (size_t k = 0; k < 2; k++) {
        char text[1024];
        size_t len = strlen(texts[k]);
        strcpy(text, texts[k]);
        for (size_t bit = 0; bit < 8 * len; bit++) {
            ad_signer who;
            ad_err err;
            char *c = &text[bit / 8], was = *c;
            *c = (char)(*c ^ 1 << bit % 8);
            bool is_free = bit / 8 >= free_from && bit / 8 < free_to && *c && *c != '\n';
            ad_status st = ad_signature_check(t, text, &d, &who, &err);
            ck_assert_msg(is_free ? st == AD_OK : st == AD_EFORMAT || st == AD_EUNTRUSTED, "text %zu, byte %zu, bit %zu: status %d", k, bit / 8, bit % 8, (int)st);
            n_free += is_free;
            *c = was;
        }
    }
    ck_assert_uint_gt(n_free, 400);
    ad_trust_free(&t);
}
END_TEST

START_TEST(no_bit_of_a_key_may_flip)
{
    ad_digest d = digest_of("the adapter");
    for (size_t bit = 0; bit < 8 * strlen(KEY_A); bit++) {
        char key[] = KEY_A;
        const char *keys[] = {key};
        ad_trust *t = NULL;
        ad_signer who;
        ad_err err;
        key[bit / 8] = (char)(key[bit / 8] ^ 1 << bit % 8);
        if (ad_trust_new(&t, keys, 1, &err) != AD_OK) continue; /* no key at all any longer */
        ck_assert_int_eq(ad_signature_check(t, hashed_lf, &d, &who, &err), AD_EUNTRUSTED);
        ad_trust_free(&t);
    }
}
END_TEST

START_TEST(no_part_of_a_signature_file_is_enough)
{
    ad_signer who;
    ad_err err;
    size_t len = strlen(hashed_lf);
    for (size_t n = 0; n < len; n++) {
        char text[1024] = "";
        memcpy(text, hashed_lf, n);
        ad_status st = check_by(KEY_A, NULL, text, &who, &err);
        ck_assert_msg(st == (n == len - 1 ? AD_OK : AD_EFORMAT), "%zu bytes: status %d", n, (int)st); /* the last line feed is not needed */
    }
}
END_TEST

static char *replace(const char *text, const char *from, const char *to)
{
    static char out[4096];
    const char *at = strstr(text, from);
    ck_assert_ptr_nonnull(at);
    snprintf(out, sizeof out, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    return out;
}

START_TEST(an_altered_trusted_comment_is_found_out)
{
    ad_signer who;
    ad_err err;
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(hashed_lf, "adapter=sql", "adapter=law"), &who, &err), AD_EUNTRUSTED);
    ck_assert_str_eq(err.msg, "signature: its trusted comment was altered");
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(hashed_lf, " lf\n", " lf \n"), &who, &err), AD_EUNTRUSTED);
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(hashed_lf, "adapter=sql base=SmolLM2 lf", ""), &who, &err), AD_EUNTRUSTED);
    /* the comment and global signature of another file by the same key */
    char *mixed = replace(hashed_lf, strstr(hashed_lf, "trusted comment: a"), strstr(hashed_bare, "trusted comment: a"));
    ck_assert_int_eq(check_by(KEY_A, NULL, mixed, &who, &err), AD_EUNTRUSTED);
}
END_TEST

/* The algorithm says what was signed: one signature is not good as the other kind. */
START_TEST(the_two_formats_do_not_stand_for_each_other)
{
    ad_signer who;
    ad_err err;
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(hashed_lf, "RUT6", "RWT6"), &who, &err), AD_EUNTRUSTED);
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(legacy_lf, "RWT6", "RUT6"), &who, &err), AD_EUNTRUSTED);
    ck_assert_int_eq(check_by(KEY_A, NULL, replace(hashed_lf, "RUT6", "RVT6"), &who, &err), AD_EFORMAT);
}
END_TEST

START_TEST(what_is_no_signature_file_is_malformed)
{
    ad_signer who;
    ad_err err;
    char *big = malloc(1 << 20);
    memset(big, 'A', (1 << 20) - 1);
    big[(1 << 20) - 1] = '\0';
    ck_assert_int_eq(check_by(KEY_A, NULL, big, &who, &err), AD_EFORMAT);
    memcpy(big, UNTRUSTED, strlen(UNTRUSTED));
    ck_assert_int_eq(check_by(KEY_A, NULL, big, &who, &err), AD_EFORMAT);
    for (int over = 0; over <= 1; over++) { /* good but for its length */
        size_t rest = strlen(hashed_lf) - strlen(UNTRUSTED), at = AD_SIGNATURE_TEXT - rest - 1 + (size_t)over;
        memset(big, 'A', AD_SIGNATURE_TEXT);
        memcpy(big, UNTRUSTED, strlen(UNTRUSTED) - 1);
        strcpy(big + at, hashed_lf + strlen(UNTRUSTED) - 1);
        ck_assert_int_eq(check_by(KEY_A, NULL, big, &who, &err), over ? AD_EFORMAT : AD_OK);
    }
    free(big);
    const char *bad[] = {
        "", "\n\n\n\n", "{}", KEY_A, UNTRUSTED, "untrusted comment: \n\ntrusted comment: \n\n",
        strchr(hashed_lf, '\n') + 1,                                     /* no first line */
        replace(hashed_lf, "untrusted comment: ", "untrusted comment:"),
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(check_by(KEY_A, NULL, bad[i], &who, &err) == AD_EFORMAT, "case %zu", i);
    static const struct { const char *from, *to; } changes[] = {
        {"AQ=\n", "AQ==\n"}, {"AQ=\n", "AQ\n"}, {"AQ=\n", "AR=\n"}, {"AQ=\n", " AQ=\n"}, {"RUT6", "RUT-"}, {"RUT6", "RUT6\xC3"}, {"RUT6", "R=T6"}, /* the base64 of line 2 */
        {"Bw==\n", "Bw=\n"}, {"Bw==\n", "Bx==\n"}, {"Bw==\n", "Bw==\nmore\n"}, {"Bw==\n", "Bw==\n\n"}, {"r6+a", "r6-a"},                            /* of line 4 */
        {"trusted comment: adapter", "trusted comment:adapter"}, {"sql", "s\x1B[31m"}, {"sql", "s\xFFl"}, {"sql", "s\x7Fl"}, {"sql", "s\rl"}, {"sql", "s\nl"},
    };
    for (size_t i = 0; i < sizeof changes / sizeof *changes; i++)
        ck_assert_msg(check_by(KEY_A, NULL, replace(hashed_lf, changes[i].from, changes[i].to), &who, &err) == AD_EFORMAT, "change %zu", i);
}
END_TEST

START_TEST(line_ends_of_other_systems_do_no_harm)
{
    char text[1024];
    size_t n = 0;
    ad_signer who;
    ad_err err;
    for (const char *c = hashed_lf; *c; c++) {
        if (*c == '\n') text[n++] = '\r';
        text[n++] = *c;
    }
    text[n] = '\0';
    ck_assert_msg(check_by(KEY_A, NULL, text, &who, &err) == AD_OK, "%s", err.msg);
    ck_assert_str_eq(who.comment, "adapter=sql base=SmolLM2 lf");
}
END_TEST

START_TEST(messages_hold_nothing_of_the_file_but_the_id)
{
    ad_signer who;
    ad_err err;
    check_by(KEY_A, NULL, replace(hashed_lf, "sql", "s\x1B[31m"), &who, &err);
    for (const char *c = err.msg; *c; c++) ck_assert(*c >= 0x20 && *c < 0x7F);
    ck_assert_ptr_null(strstr(err.msg, "[31m"));
}
END_TEST

/* ---- keys ---- */

static char dir[64];

static void setup(void)
{
    strcpy(dir, "/tmp/ad-signature-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static void teardown(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", dir);
    ck_assert_int_eq(system(command), 0);
}

static const char *write_file(const char *name, const char *text, size_t len)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    ck_assert(f && fwrite(text, 1, len, f) == len);
    fclose(f);
    return path;
}

static ad_status key_status(const char *key, ad_err *err)
{
    ad_trust *t = NULL;
    ad_status st = ad_trust_new(&t, &key, 1, err);
    ad_signer who;
    if (st == AD_OK) {
        ad_digest d = digest_of("the adapter");
        ck_assert_int_eq(ad_signature_check(t, hashed_lf, &d, &who, err), AD_OK);
    }
    ad_trust_free(&t);
    return st;
}

static ad_status file_status(const char *text, ad_err *err) { return key_status(write_file("key.pub", text, strlen(text)), err); }

START_TEST(a_key_is_a_file_or_its_line)
{
    ad_err err;
    ck_assert_int_eq(key_status(KEY_A, &err), AD_OK);
    ck_assert_int_eq(file_status("untrusted comment: minisign public key " ID_A "\n" KEY_A "\n", &err), AD_OK);
    ck_assert_int_eq(file_status("untrusted comment: x\r\n" KEY_A, &err), AD_OK);
    ck_assert_int_eq(file_status(KEY_A "\n", &err), AD_OK);
}
END_TEST

START_TEST(what_is_no_key_is_refused_by_name)
{
    ad_err err;
    ck_assert_int_eq(key_status("", &err), AD_EINVAL);
    ck_assert_int_eq(key_status("/no/such/key.pub", &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, "/no/such/key.pub"));
    ck_assert_int_eq(key_status(KEY_A "=", &err), AD_ENOTFOUND);
    ck_assert_int_eq(key_status(dir, &err), AD_EIO);
    const char *bad[] = {"", "\n", "untrusted comment: x\n", "untrusted comment: x\n" KEY_A "A\n", "untrusted comment: x\n" KEY_A "\n" KEY_B "\n", "comment: x\n" KEY_A "\n",
                         "untrusted comment: x\nRUT6d4v7z1iKhmWDdO0n3x6PKHvQxUugTMRz5Gs/14OgAP2N12qIG9xq\n", hashed_lf};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_msg(file_status(bad[i], &err) == AD_EFORMAT, "case %zu", i);
        ck_assert_ptr_nonnull(strstr(err.msg, "key.pub"));
    }
    char huge[8192];
    memset(huge, 'A', sizeof huge);
    ck_assert_int_eq(key_status(write_file("huge", huge, sizeof huge), &err), AD_ELIMIT);
}
END_TEST

START_TEST(policies_have_three_names)
{
    ad_signature_policy p = AD_SIGNATURES_OFF;
    ck_assert(ad_signature_policy_parse("require", &p) && p == AD_SIGNATURES_REQUIRE);
    ck_assert(ad_signature_policy_parse("warn", &p) && p == AD_SIGNATURES_WARN);
    ck_assert(ad_signature_policy_parse("off", &p) && p == AD_SIGNATURES_OFF);
    ck_assert(!ad_signature_policy_parse("", &p) && !ad_signature_policy_parse("Off", &p) && p == AD_SIGNATURES_OFF);
}
END_TEST

/* ---- with the program ---- */

static void run(const char *fmt, ...) AD_PRINTF(1, 2);
static void run(const char *fmt, ...)
{
    char line[2048];
    va_list ap;
    va_start(ap, fmt);
    int n = snprintf(line, sizeof line, "cd '%s' && exec >log 2>&1 </dev/null && ", dir);
    vsnprintf(line + n, sizeof line - (size_t)n, fmt, ap);
    va_end(ap);
    ck_assert_msg(system(line) == 0, "%s", line);
}

static void read_signature(char *text, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/d.minisig", dir);
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    text[fread(text, 1, size - 1, f)] = '\0';
    fclose(f);
}

START_TEST(what_minisign_signs_today_is_believed)
{
    char hex[66], text[32768], key[128], id[128];
    run("minisign -G -W -p a.pub -s a.sec && minisign -G -W -p b.pub -s b.sec && sed -n '1s/.* //p' a.pub >id");
    snprintf(id, sizeof id, "%s/id", dir);
    FILE *f = fopen(id, "r");
    ck_assert(f && fgets(id, sizeof id, f));
    fclose(f);
    id[strcspn(id, "\n")] = '\0';
    for (int round = 0; round < 16; round++) {
        snprintf(key, sizeof key, "%s/%c.pub", dir, round & 1 ? 'b' : 'a');
        ad_trust *t = trust(key, NULL);
        ad_digest d = digest_of(key + round), other = digest_of("other");
        ad_signer who;
        ad_err err;
        ad_digest_hex(&d, hex);
        hex[64] = '\n';
        write_file("d", hex, round & 2 ? 64 : 65);
        run("minisign -S %s -m d -s a.sec %s", round & 4 ? "-l" : "", round & 8 ? "-t 'Größe 8'" : "");
        read_signature(text, sizeof text);
        ad_status st = ad_signature_check(t, text, &d, &who, &err);
        ck_assert_msg(st == (round & 1 ? AD_EUNTRUSTED : AD_OK), "round %d: %s", round, err.msg);
        if (st == AD_OK) {
            ck_assert(strtoull(who.key_id, NULL, 16) == strtoull(id, NULL, 16)); /* minisign leaves out leading zeros */
            if (round & 8) ck_assert_str_eq(who.comment, "Größe 8");
            else ck_assert_ptr_nonnull(strstr(who.comment, "file:d"));
            ck_assert_int_eq(ad_signature_check(t, text, &other, &who, &err), AD_EUNTRUSTED);
        }
        ad_trust_free(&t);
    }
}
END_TEST

START_TEST(a_long_trusted_comment_is_verified_whole_and_cut_between_characters)
{
    char hex[66], text[32768], key[128];
    ad_digest d = digest_of("long");
    ad_signer who;
    ad_err err;
    run("minisign -G -W -p a.pub -s a.sec");
    snprintf(key, sizeof key, "%s/a.pub", dir);
    ad_trust *t = trust(key, NULL);
    ad_digest_hex(&d, hex);
    write_file("d", hex, 64);
    run("minisign -Sm d -s a.sec -t \"x$(printf 'ü%%.0s' $(seq 500))end\"");
    read_signature(text, sizeof text);
    ck_assert_msg(ad_signature_check(t, text, &d, &who, &err) == AD_OK, "%s", err.msg);
    ck_assert_uint_eq(strlen(who.comment), 255);
    ck_assert_int_eq(strncmp(who.comment, "xüü", 5), 0);
    ck_assert_int_eq(ad_signature_check(t, replace(text, "end\n", "enf\n"), &d, &who, &err), AD_EUNTRUSTED);
    ad_trust_free(&t);
}
END_TEST

int main(int argc, char **argv)
{
    bool with_program = argc > 1 && !strcmp(argv[1], "--minisign");
    if (with_program && system("command -v minisign >/dev/null") != 0) {
        puts("minisign is not installed: skipped");
        return 77;
    }
    Suite *s = suite_create("signature");
    TCase *t = tcase_create("signature");
    tcase_add_checked_fixture(t, setup, teardown);
    if (with_program) {
        tcase_add_test(t, what_minisign_signs_today_is_believed);
        tcase_add_test(t, a_long_trusted_comment_is_verified_whole_and_cut_between_characters);
    } else {
        tcase_add_test(t, both_of_minisigns_formats_are_believed_with_and_without_a_line_feed);
        tcase_add_test(t, any_of_several_trusted_keys_may_sign_and_no_other);
        tcase_add_test(t, a_key_that_only_borrows_an_id_is_not_believed_but_does_not_hide_the_real_one);
        tcase_add_test(t, a_signature_is_good_for_one_digest_only);
        tcase_add_test(t, no_bit_of_a_signature_file_may_flip);
        tcase_add_test(t, no_bit_of_a_key_may_flip);
        tcase_add_test(t, no_part_of_a_signature_file_is_enough);
        tcase_add_test(t, an_altered_trusted_comment_is_found_out);
        tcase_add_test(t, the_two_formats_do_not_stand_for_each_other);
        tcase_add_test(t, what_is_no_signature_file_is_malformed);
        tcase_add_test(t, line_ends_of_other_systems_do_no_harm);
        tcase_add_test(t, messages_hold_nothing_of_the_file_but_the_id);
        tcase_add_test(t, a_key_is_a_file_or_its_line);
        tcase_add_test(t, what_is_no_key_is_refused_by_name);
        tcase_add_test(t, policies_have_three_names);
    }
    suite_add_tcase(s, t);
    return tu_run(s);
}
