/* SPDX-License-Identifier: MIT */
/* multipart/form-data: the parts are the same however the body is cut, and what is ambiguous is refused. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/http/multipart.h"
#include "tests/unit/suite.h"

#define TYPE "multipart/form-data; boundary=XyZ"
#define PART(name) "--XyZ\r\nContent-Disposition: form-data; name=\"" name "\"\r\n\r\n"
#define FIELD(name, value) PART(name) value "\r\n"
#define END "--XyZ--\r\n"

/* ---- what came, as text: [name|filename|type]data; ---- */

static ad_status on_begin(void *user, const char *name, const char *filename, const char *type, ad_err *err)
{
    if (!strcmp(name, "refused")) return ad_fail(err, AD_EEXIST, "no %s here", name);
    ad_buf_printf(user, "[%s|%s|%s]", name, filename ? filename : "-", type);
    return AD_OK;
}

static ad_status on_data(void *user, const char *data, size_t len, ad_err *err)
{
    if (len == 4 && !memcmp(data, "stop", 4)) return ad_fail(err, AD_EFULL, "stopped");
    ck_assert_uint_gt(len, 0);
    ad_buf_append(user, data, len);
    return AD_OK;
}

static ad_status on_end(void *user, ad_err *err)
{
    (void)err;
    ad_buf_puts(user, ";");
    return AD_OK;
}

/* Reads the body in pieces of `piece` bytes; what came is appended to *out. */
static ad_status read_in(const char *type, const char *body, size_t len, size_t piece, ad_buf *out, ad_err *err)
{
    ad_multipart *m = NULL;
    ad_multipart_handler handler = {on_begin, on_data, on_end, out};
    ad_status st = ad_multipart_new(&m, type, &handler, err);
    for (size_t i = 0; i < len && st == AD_OK; i += piece) {
        char *copy = malloc(piece); /* of its own, so that a sanitizer sees every byte read too many */
        size_t n = len - i < piece ? len - i : piece;
        memcpy(copy, body + i, n);
        st = ad_multipart_feed(m, copy, n, err);
        free(copy);
    }
    if (st == AD_OK) st = ad_multipart_finish(m, err);
    ad_multipart_free(&m);
    return st;
}

static void good_bytes(const char *type, const char *body, size_t len, const char *expect, size_t expect_len)
{
    for (size_t piece = 1; piece <= len; piece++) {
        ad_buf out = {0};
        ad_err err = {0};
        ad_status st = read_in(type, body, len, piece, &out, &err);
        ck_assert_msg(st == AD_OK, "in pieces of %zu: %s", piece, err.msg);
        ck_assert_msg(out.len == expect_len && !memcmp(out.data ? out.data : "", expect, expect_len), "in pieces of %zu: %s", piece, out.data);
        ad_buf_deinit(&out);
    }
}

static void good_with(const char *type, const char *body, const char *expect)
{
    good_bytes(type, body, strlen(body), expect, strlen(expect));
}

static void good(const char *body, const char *expect)
{
    good_with(TYPE, body, expect);
}

static void refuse_with(const char *type, const char *body, ad_status status, const char *why)
{
    for (size_t piece = 1; piece <= strlen(body) || piece == 1; piece++) {
        ad_buf out = {0};
        ad_err err = {0};
        ad_status st = read_in(type, body, strlen(body), piece, &out, &err);
        ck_assert_msg(st == status && strstr(err.msg, why), "in pieces of %zu: status %d, \"%s\" does not say \"%s\"", piece, st, err.msg, why);
        ad_buf_deinit(&out);
    }
}

static void refuse(const char *body, const char *why)
{
    refuse_with(TYPE, body, AD_EINVAL, why);
}

/* ---- bodies ---- */

START_TEST(parts_are_the_same_however_the_body_is_cut)
{
    good(FIELD("name", "sql") "--XyZ\r\nContent-Disposition: form-data; name=\"weights\"; filename=\"a.safetensors\"\r\nContent-Type: application/octet-stream\r\n\r\n"
         "\r\nbytes\r\r\n--Xy\r\n--XyW\r\n\r\n" END, "[name|-|text/plain]sql;[weights|a.safetensors|application/octet-stream]\r\nbytes\r\r\n--Xy\r\n--XyW\r\n;");
}
END_TEST

START_TEST(data_may_hold_any_bytes_that_are_no_boundary)
{
    static const char body[] = PART("a") "\0\r\n\0--XyZ\r\r\n-\r\n--Xy\r\n--\r\n" END;
    static const char expect[] = "[a|-|text/plain]\0\r\n\0--XyZ\r\r\n-\r\n--Xy\r\n--;";
    good_bytes(TYPE, body, sizeof body - 1, expect, sizeof expect - 1);
}
END_TEST

START_TEST(parts_may_be_empty_with_or_without_a_line_end_of_their_own)
{
    good(PART("a") "\r\n" PART("b") END, "[a|-|text/plain];[b|-|text/plain];");
}
END_TEST

START_TEST(data_that_looks_like_the_line_end_of_the_headers_is_kept)
{
    good(FIELD("a", "--Xy") END, "[a|-|text/plain]--Xy;");
    good(FIELD("a", "\r\n") END, "[a|-|text/plain]\r\n;");
    good(FIELD("a", "\r") END, "[a|-|text/plain]\r;");
}
END_TEST

START_TEST(preamble_epilogue_and_blanks_behind_boundaries_are_ignored)
{
    good("a preamble\r\n--Xyz\r\n" "--XyZ \t \r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--XyZ-- \r\nan epilogue\r\n" FIELD("b", "y"), "[a|-|text/plain]x;");
    good(FIELD("a", "x") "--XyZ--", "[a|-|text/plain]x;");
    good(END, "");
}
END_TEST

START_TEST(boundaries_have_70_characters_quoted_or_not)
{
    good_with("Multipart/Form-Data ; charset=utf-8; BOUNDARY=\"a b:c\" ", "--a b:c\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--a b:c--", "[a|-|text/plain]x;");
    good_with("multipart/form-data; boundary=----x:y/z=?", "------x:y/z=?\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n------x:y/z=?--", "[a|-|text/plain]x;");
#define SEVENTY "0123456789012345678901234567890123456789012345678901234567890123456789"
    good_with("multipart/form-data;boundary=" SEVENTY, "--" SEVENTY "\r\nContent-Disposition: form-data; name=a\r\n\r\nx\r\n--" SEVENTY "--", "[a|-|text/plain]x;");
    refuse_with("multipart/form-data; boundary=" SEVENTY "0", "", AD_EINVAL, "1 to 70 characters");
}
END_TEST

START_TEST(names_and_files_are_read_as_browsers_and_tools_write_them)
{
#define HEAD(text) "--XyZ\r\n" text "\r\n\r\nx\r\n" END
    good(HEAD("content-disposition:form-data;name=plain;filename=b.c"), "[plain|b.c|text/plain]x;");
    good(HEAD("Content-Disposition: form-data; filename=\"q\\\"uo\\\\te\\d\"; name=\"a;b\""), "[a;b|q\"uo\\te\\d|text/plain]x;");
    good(HEAD("Content-Disposition: Form-Data; name=\"a\"; filename*=UTF-8''other; filename=\"\";"), "[a||text/plain]x;");
    good(HEAD("X-Other: 1\r\nContent-Type:  text/csv; charset=utf-8  \r\nContent-Transfer-Encoding: BINARY\r\nContent-Disposition: form-data; name=\"\xC3\xA9\""),
         "[\xC3\xA9|-|text/csv; charset=utf-8]x;");
}
END_TEST

/* ---- refusals ---- */

START_TEST(other_content_types_are_unsupported)
{
    refuse_with(NULL, "", AD_EUNSUPPORTED, "must be multipart/form-data");
    refuse_with("application/json", "", AD_EUNSUPPORTED, "not \"application/json\"");
    refuse_with("multipart/mixed; boundary=a", "", AD_EUNSUPPORTED, "multipart/mixed");
    refuse_with("multipart/form-data-x; boundary=a", "", AD_EUNSUPPORTED, "form-data-x");
}
END_TEST

START_TEST(boundaries_must_be_there_once_and_well_formed)
{
    refuse_with("multipart/form-data", "", AD_EINVAL, "no boundary");
    refuse_with("multipart/form-data; boundary=", "", AD_EINVAL, "malformed");
    refuse_with("multipart/form-data; boundary=\"\"", "", AD_EINVAL, "1 to 70");
    refuse_with("multipart/form-data; boundary=\"a", "", AD_EINVAL, "malformed");
    refuse_with("multipart/form-data; boundary=\"a \"", "", AD_EINVAL, "1 to 70");
    refuse_with("multipart/form-data; boundary=\"a\"b", "", AD_EINVAL, "malformed");
    refuse_with("multipart/form-data; boundary=a b", "", AD_EINVAL, "malformed");
    refuse_with("multipart/form-data; boundary=a;boundary=b", "", AD_EINVAL, "two boundaries");
    refuse_with("multipart/form-data; boundary=\xFF", "", AD_EINVAL, "malformed");
    refuse_with("multipart/form-data; boundary=a|b", "", AD_EINVAL, "RFC 2046");
    refuse_with("multipart/form-data; =a", "", AD_EINVAL, "malformed");
}
END_TEST

START_TEST(a_body_must_end_with_its_boundary)
{
    refuse("", "does not hold the boundary");
    refuse("nothing of the kind", "does not hold the boundary");
    refuse("--XyZ", "does not hold the boundary");
    refuse(PART("a"), "before its closing boundary");
    refuse(PART("a") "x", "before its closing boundary");
    refuse(FIELD("a", "x") "--XyZ-", "before its closing boundary");
    refuse(FIELD("a", "x") "--XyZ\r\n", "before its closing boundary");
}
END_TEST

START_TEST(a_boundary_must_be_alone_on_its_line)
{
    refuse("--XyZ0\r\n", "not followed by the end of its line");
    refuse("--XyZ\n" FIELD("a", "x") END, "not followed by the end of its line");
    refuse("--XyZ \r\r\n" FIELD("a", "x") END, "not followed by the end of its line");
    refuse(FIELD("a", "x\r\n--XyZ0") END, "not followed by the end of its line");
    refuse(FIELD("a", "x\r\n--XyZ-0") END, "not followed by the end of its line");
}
END_TEST

START_TEST(part_headers_must_be_well_formed)
{
    refuse("--XyZ\r\n\r\nx\r\n" END, "no Content-Disposition");
    refuse(HEAD("Content-Type: text/plain"), "no Content-Disposition");
    refuse(HEAD("Content-Disposition: form-data; name=a\r\ncontent-disposition: form-data; name=b"), "two content-disposition");
    refuse(HEAD("Content-Disposition: form-data; name=a\r\nContent-Type: a/b\r\nContent-Type: a/c"), "two Content-Type");
    refuse(HEAD("Content-Disposition: attachment; name=a"), "is not form-data");
    refuse(HEAD("Content-Disposition: form-data"), "has no name");
    refuse(HEAD("Content-Disposition: form-data; name=\"\""), "has no name");
    refuse(HEAD("Content-Disposition: form-data; name="), "malformed");
    refuse(HEAD("Content-Disposition: form-data; name=\"a"), "malformed");
    refuse(HEAD("Content-Disposition: form-data; name=\"a\"x"), "malformed");
    refuse(HEAD("Content-Disposition: form-data; name a"), "malformed");
    refuse(HEAD("Content-Disposition: form-data; name=a; name=b"), "two of name");
    refuse(HEAD("Content-Disposition: form-data; name=a; filename=b; FileName=c"), "two of FileName");
    refuse(HEAD("Content-Disposition: form-data; name=a\r\n folded: b"), "not \"name: value\"");
    refuse(HEAD("Content-Disposition : form-data; name=a"), "not \"name: value\"");
    refuse(HEAD("Content-Disposition: form-data; name=a\nA: b"), "bare line end");
    refuse(HEAD("Content-Disposition: form-data; name=a\rA: b"), "bare line end");
    refuse(HEAD("Content-Disposition: form-data; name=a\x01"), "control byte");
    refuse(HEAD("Content-Disposition: form-data; name=a\r\nContent-Transfer-Encoding: base64"), "encoded as \"base64\"");
}
END_TEST

START_TEST(headers_and_parts_are_limited)
{
    ad_buf body = {0};
    ad_buf_puts(&body, "--XyZ\r\nContent-Disposition: form-data; name=a\r\nX: ");
    while (body.len < AD_MULTIPART_HEAD - 4 + strlen("--XyZ\r\n")) ad_buf_puts(&body, "x");
    ad_buf most = {0};
    ad_buf_append(&most, body.data, body.len);
    ad_buf_puts(&most, "\r\n\r\nx\r\n" END);
    ad_buf out = {0};
    ad_err err = {0};
    ck_assert_msg(read_in(TYPE, most.data, most.len, 1000, &out, &err) == AD_OK, "%s", err.msg);
    ad_buf_puts(&body, "x\r\n\r\nx\r\n" END);
    ck_assert_int_eq(read_in(TYPE, body.data, body.len, 1000, &out, &err), AD_ELIMIT);
    ad_buf_clear(&body);
    ad_buf_puts(&body, "--XyZ");
    for (int i = 0; i <= AD_MULTIPART_HEAD; i++) ad_buf_puts(&body, " ");
    ck_assert_int_eq(read_in(TYPE, body.data, body.len, 1000, &out, &err), AD_EINVAL);
    ad_buf_clear(&body);
    for (int i = 0; i < AD_MULTIPART_PARTS; i++) ad_buf_puts(&body, FIELD("a", "x"));
    ck_assert_int_eq(read_in(TYPE, body.data, body.len, 1000, &out, &err), AD_EINVAL); /* only the end is missing */
    ad_buf_puts(&body, FIELD("a", "x"));
    ck_assert_int_eq(read_in(TYPE, body.data, body.len, 1000, &out, &err), AD_ELIMIT);
    ad_buf_deinit(&body);
    ad_buf_deinit(&most);
    ad_buf_deinit(&out);
}
END_TEST

START_TEST(a_callback_may_end_the_reading)
{
    refuse_with(TYPE, FIELD("a", "x") FIELD("refused", "x") END, AD_EEXIST, "no refused here");
    ad_buf out = {0};
    ad_err err = {0};
    static const char body[] = FIELD("a", "stop") END;
    ck_assert_int_eq(read_in(TYPE, body, sizeof body - 1, sizeof body, &out, &err), AD_EFULL);
    ad_buf_deinit(&out);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("multipart");
    TCase *t = tcase_create("bodies");
    tcase_add_test(t, parts_are_the_same_however_the_body_is_cut);
    tcase_add_test(t, data_may_hold_any_bytes_that_are_no_boundary);
    tcase_add_test(t, parts_may_be_empty_with_or_without_a_line_end_of_their_own);
    tcase_add_test(t, data_that_looks_like_the_line_end_of_the_headers_is_kept);
    tcase_add_test(t, preamble_epilogue_and_blanks_behind_boundaries_are_ignored);
    tcase_add_test(t, boundaries_have_70_characters_quoted_or_not);
    tcase_add_test(t, names_and_files_are_read_as_browsers_and_tools_write_them);
    suite_add_tcase(s, t);
    t = tcase_create("refusals");
    tcase_add_test(t, other_content_types_are_unsupported);
    tcase_add_test(t, boundaries_must_be_there_once_and_well_formed);
    tcase_add_test(t, a_body_must_end_with_its_boundary);
    tcase_add_test(t, a_boundary_must_be_alone_on_its_line);
    tcase_add_test(t, part_headers_must_be_well_formed);
    tcase_add_test(t, headers_and_parts_are_limited);
    tcase_add_test(t, a_callback_may_end_the_reading);
    suite_add_tcase(s, t);
    return tu_run(s);
}
