/* SPDX-License-Identifier: MIT */
/* Which of the two text formats is meant, and how both are written. */
#include "server/observe/expose.h"
#include "tests/unit/suite.h"

#include <string.h>

START_TEST(open_metrics_is_chosen_only_when_it_is_named_and_not_liked_less)
{
    static const char *const yes[] = {
        "application/openmetrics-text", "application/openmetrics-text; version=1.0.0", "text/plain;q=0.5, application/openmetrics-text;version=1.0.0;q=0.5",
        /* Prometheus 2.42 and 3 */
        "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
        "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
        "APPLICATION/OPENMETRICS-TEXT;Q=1",
    };
    static const char *const no[] = {
        "", "*/*", "text/plain", "text/html,*/*;q=0.8", "application/openmetrics-text;q=0", "application/openmetrics-text;q=0.4,text/plain;q=0.5", "text/plain,application/openmetrics-text;q=0.9",
        "application/openmetrics-text;version=0.0.1", "application/openmetrics-textile", "x-application/openmetrics-text", "application/openmetrics-text;q=nonsense", "application/openmetrics-text;q=2", ",,;;,=", "application/*",
    };
    for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) ck_assert_msg(ad_expose_wants_open_metrics(yes[i]), "%s", yes[i]);
    for (size_t i = 0; i < sizeof no / sizeof *no; i++) ck_assert_msg(!ad_expose_wants_open_metrics(no[i]), "%s", no[i]);
    ck_assert(!ad_expose_wants_open_metrics(NULL));
}
END_TEST

static void is_written(void (*put)(const ad_expose *e), bool open_metrics, const char *want)
{
    ad_buf out = {0};
    ad_expose e = {&out, open_metrics};
    put(&e);
    ck_assert(!out.failed);
    ck_assert_str_eq(out.data, want);
    ad_buf_deinit(&out);
}

static void put_some(const ad_expose *e)
{
    ad_expose_counter(e, "x_total", "Things.", 18446744073709551615ull);
    ad_expose_gauge(e, "y", "More.", 0.25);
    ad_expose_end(e);
}

START_TEST(the_formats_differ_in_the_families_of_counters_and_in_the_last_line)
{
    is_written(put_some, false, "# TYPE x_total counter\n# HELP x_total Things.\nx_total 18446744073709551615\n# TYPE y gauge\n# HELP y More.\ny 0.25\n");
    is_written(put_some, true, "# TYPE x counter\n# HELP x Things.\nx_total 18446744073709551615\n# TYPE y gauge\n# HELP y More.\ny 0.25\n# EOF\n");
}
END_TEST

static const ad_histogram_bounds bounds = {3, {.0005, .25, 10}};

static void put_times(const ad_expose *e)
{
    ad_histogram h = {.bounds = &bounds};
    static const uint64_t ns[] = {1, 500000, 500001, 250000000, 9000000000, 11000000000};
    for (size_t i = 0; i < sizeof ns / sizeof *ns; i++) ad_histogram_observe(&h, ns[i]);
    ad_expose_histogram(e, "t", "", &h);
    ad_expose_histogram(e, "t", "p=\"q\"", &h);
}

START_TEST(buckets_are_cumulative_and_their_bounds_belong_to_them)
{
    is_written(put_times, false,
               "t_bucket{le=\"0.0005\"} 2\nt_bucket{le=\"0.25\"} 4\nt_bucket{le=\"10.0\"} 5\nt_bucket{le=\"+Inf\"} 6\nt_sum 20.251000002\nt_count 6\n"
               "t_bucket{p=\"q\",le=\"0.0005\"} 2\nt_bucket{p=\"q\",le=\"0.25\"} 4\nt_bucket{p=\"q\",le=\"10.0\"} 5\nt_bucket{p=\"q\",le=\"+Inf\"} 6\nt_sum{p=\"q\"} 20.251000002\nt_count{p=\"q\"} 6\n");
}
END_TEST

START_TEST(bounds_ascend_and_ours_between_tokens_begin_at_half_a_millisecond)
{
    const ad_histogram_bounds *const all[] = {&ad_vllm_ttft_bounds, &ad_vllm_token_bounds, &ad_vllm_request_bounds, &ad_token_bounds, &ad_step_bounds, &ad_queue_bounds, &ad_load_bounds, &ad_http_bounds};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        ck_assert_int_le(all[i]->n, AD_HISTOGRAM_BOUNDS);
        for (int k = 0; k < all[i]->n; k++) ck_assert_msg(all[i]->bounds[k] > (k ? all[i]->bounds[k - 1] : 0), "%zu, %d", i, k);
        for (int k = all[i]->n; k < AD_HISTOGRAM_BOUNDS; k++) ck_assert(all[i]->bounds[k] == 0);
    }
    ck_assert(ad_token_bounds.bounds[0] == 0.0005);
}
END_TEST

START_TEST(labels_are_escaped_and_always_utf_8)
{
    static const char *const pairs[][2] = {
        {"plain", "plain"}, {"a\\b\"c\nd", "a\\\\b\\\"c\\nd"}, {"\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80", "\xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80"}, {"\xFF\xC0\xAF", "???"}, {"\xC3", "?"}, {"\xE2\x82", "??"},
        {"\xED\xA0\x80", "???"}, {"\xE0\x80\x80", "???"}, {"\xF4\x90\x80\x80", "????"}, {"a\rb", "a?b"}, {"", ""},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        ad_buf b = {0};
        ad_expose_label(&b, "n", pairs[i][0]);
        ck_assert_uint_ge(b.len, 4);
        ck_assert_uint_eq(b.len, strlen(pairs[i][1]) + 4);
        ck_assert_mem_eq(b.data + 3, pairs[i][1], strlen(pairs[i][1]));
        ad_buf_deinit(&b);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("expose");
    TCase *tc = tcase_create("text");
    tcase_add_test(tc, open_metrics_is_chosen_only_when_it_is_named_and_not_liked_less);
    tcase_add_test(tc, the_formats_differ_in_the_families_of_counters_and_in_the_last_line);
    tcase_add_test(tc, buckets_are_cumulative_and_their_bounds_belong_to_them);
    tcase_add_test(tc, bounds_ascend_and_ours_between_tokens_begin_at_half_a_millisecond);
    tcase_add_test(tc, labels_are_escaped_and_always_utf_8);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
