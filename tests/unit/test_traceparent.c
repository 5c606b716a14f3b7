/* SPDX-License-Identifier: MIT */
/* traceparent, rule by rule. The valid examples are those of the W3C recommendation. */
#include "server/observe/trace.h"
#include "tests/unit/suite.h"

#include <string.h>

#define TRACE "4bf92f3577b34da6a3ce929d0e0e4736"
#define SPAN "00f067aa0ba902b7"

static bool is_refused(const char *text)
{
    ad_trace t = {"t", "p", "s", 99};
    return !ad_traceparent_read(&t, text) && !strcmp(t.trace_id, "t") && !strcmp(t.parent_id, "p") && !strcmp(t.span_id, "s") && t.flags == 99;
}

START_TEST(a_valid_header_is_read)
{
    ad_trace t = {0};
    ck_assert(ad_traceparent_read(&t, "00-" TRACE "-" SPAN "-01"));
    ck_assert_str_eq(t.trace_id, TRACE);
    ck_assert_str_eq(t.parent_id, SPAN);
    ck_assert_uint_eq(t.flags, 1);
    ck_assert(ad_traceparent_read(&t, "00-" TRACE "-" SPAN "-00"));
    ck_assert_uint_eq(t.flags, 0);
}
END_TEST

START_TEST(flags_that_are_not_known_are_not_passed_on)
{
    ad_trace t = {0};
    ck_assert(ad_traceparent_read(&t, "00-" TRACE "-" SPAN "-ff"));
    ck_assert_uint_eq(t.flags, 3);
}
END_TEST

START_TEST(a_later_version_is_read_as_far_as_the_first_goes)
{
    ad_trace t = {0};
    ck_assert(ad_traceparent_read(&t, "cc-" TRACE "-" SPAN "-01"));
    ck_assert(ad_traceparent_read(&t, "cc-" TRACE "-" SPAN "-01-what-the-future-brings"));
    ck_assert(is_refused("cc-" TRACE "-" SPAN "-01.what"));
    ck_assert(is_refused("cc-" TRACE "-" SPAN "-01x"));
}
END_TEST

START_TEST(every_violation_is_refused_and_leaves_the_trace_as_it_was)
{
    static const char *const bad[] = {
        "", "-", "00", "00-", "garbage",
        "ff-" TRACE "-" SPAN "-01",                                     /* the forbidden version */
        "0-" TRACE "-" SPAN "-01", "000-" TRACE "-" SPAN "-01", "0x-" TRACE "-" SPAN "-01",
        "00-00000000000000000000000000000000-" SPAN "-01",              /* ids of zeroes */
        "00-" TRACE "-0000000000000000-01",
        "00-4BF92F3577B34DA6A3CE929D0E0E4736-" SPAN "-01",              /* upper case */
        "00-" TRACE "-00F067AA0BA902B7-01", "00-" TRACE "-" SPAN "-0A", "AA-" TRACE "-" SPAN "-01",
        "00-" TRACE "0-" SPAN "-01", "00-4bf92f3577b34da6a3ce929d0e0e473-" SPAN "-01", /* lengths */
        "00-" TRACE "-" SPAN "0-01", "00-" TRACE "-00f067aa0ba902b-01",
        "00-" TRACE "-" SPAN "-1", "00-" TRACE "-" SPAN "-", "00-" TRACE "-" SPAN, "00-" TRACE "-" SPAN "-001",
        "00-" TRACE "-" SPAN "-01-", "00-" TRACE "-" SPAN "-01-more", "00-" TRACE "-" SPAN "-01 ", " 00-" TRACE "-" SPAN "-01",
        "00-4bf92f3577b34da6a3ce929d0e0e473g-" SPAN "-01", "00-" TRACE "-00f067aa0ba902bz-01", "00-" TRACE "-" SPAN "-0g",
        "00_" TRACE "_" SPAN "_01", "00-" TRACE SPAN "-01", "00-" TRACE "-" SPAN "-01,00-" TRACE "-" SPAN "-01",
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(is_refused(bad[i]), "%s", bad[i]);
}
END_TEST

START_TEST(every_prefix_of_a_valid_header_is_refused)
{
    static const char whole[] = "00-" TRACE "-" SPAN "-01";
    ck_assert_uint_eq(strlen(whole), AD_TRACEPARENT);
    for (size_t n = 0; n < strlen(whole); n++) {
        char part[sizeof whole];
        memcpy(part, whole, n);
        part[n] = '\0';
        ck_assert_msg(is_refused(part), "%s", part);
    }
}
END_TEST

START_TEST(a_trace_goes_on_with_a_span_of_its_own)
{
    ad_trace a = {0}, b = {0};
    char header[AD_TRACEPARENT + 1];
    ck_assert(ad_trace_begin(&a, "00-" TRACE "-" SPAN "-01"));
    ck_assert(ad_trace_begin(&b, "00-" TRACE "-" SPAN "-01"));
    ck_assert_str_eq(a.trace_id, TRACE);
    ck_assert_str_eq(a.parent_id, SPAN);
    ck_assert_str_ne(a.span_id, SPAN);
    ck_assert_str_ne(a.span_id, b.span_id);
    ad_traceparent_write(&a, header);
    ck_assert(ad_traceparent_read(&b, header)); /* what we say is what we would take */
    ck_assert_str_eq(b.parent_id, a.span_id);
    ck_assert_uint_eq(b.flags, 1);
}
END_TEST

START_TEST(a_trace_begins_where_there_is_none_or_a_bad_one)
{
    ad_trace a = {0}, b = {0}, c = {0};
    char header[AD_TRACEPARENT + 1];
    ck_assert(!ad_trace_begin(&a, NULL));
    ck_assert(!ad_trace_begin(&b, "ff-" TRACE "-" SPAN "-01"));
    ck_assert_str_ne(a.trace_id, b.trace_id);
    ck_assert_str_ne(b.trace_id, TRACE);
    ck_assert_str_eq(b.parent_id, "");
    ad_traceparent_write(&b, header);
    ck_assert(ad_traceparent_read(&c, header));
    ck_assert_str_eq(c.trace_id, b.trace_id);
    ck_assert_uint_eq(c.flags, 2); /* random, and nobody sampled it */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("trace");
    TCase *tc = tcase_create("traceparent");
    tcase_add_test(tc, a_valid_header_is_read);
    tcase_add_test(tc, flags_that_are_not_known_are_not_passed_on);
    tcase_add_test(tc, a_later_version_is_read_as_far_as_the_first_goes);
    tcase_add_test(tc, every_violation_is_refused_and_leaves_the_trace_as_it_was);
    tcase_add_test(tc, every_prefix_of_a_valid_header_is_refused);
    tcase_add_test(tc, a_trace_goes_on_with_a_span_of_its_own);
    tcase_add_test(tc, a_trace_begins_where_there_is_none_or_a_bad_one);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
