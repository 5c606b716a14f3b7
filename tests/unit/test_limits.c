/* SPDX-License-Identifier: MIT */
/* Limits of tenants and keys, with a clock that the test moves. */
#include "tests/unit/suite.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/mem.h"
#include "server/tenancy/limits.h"

#define DAY_MS ((int64_t)86400000)

static ad_clock now;
static ad_allowance tenant, key;
static ad_excess why;

static void set_up(void)
{
    now = (ad_clock){.ms = 5000, .unix_ms = 20000 * DAY_MS + 3600000};
    tenant = key = (ad_allowance){0};
}

static void pass(int64_t ms) { now.ms += ms, now.unix_ms += ms; }

static void set(ad_allowance *a, ad_limit kind, int64_t value)
{
    ad_limits l = a->limits;
    l.of[kind] = value;
    ad_allowance_set(a, &l, now);
}

static bool begin(ad_charge *c) { return ad_charge_begin(c, &tenant, &key, now, &why); }
static bool reserve(ad_charge *c, int64_t prompt, int64_t generated) { return ad_charge_reserve(c, (ad_token_counts){prompt, generated}, now, &why); }
static void settle(ad_charge *c, int64_t prompt, int64_t generated) { ad_charge_settle(c, (ad_token_counts){prompt, generated}, now); }

START_TEST(without_limits_nothing_is_refused)
{
    for (int i = 0; i < 1000; i++) {
        ad_charge c;
        ck_assert(begin(&c) && reserve(&c, INT32_MAX, (int64_t)INT32_MAX * 128 * 2048));
    }
    ck_assert_int_eq(tenant.meter.running, 1000);
}
END_TEST

START_TEST(a_bucket_holds_a_minute_and_fills_up_evenly)
{
    set(&tenant, AD_LIMIT_REQUESTS, 60);
    ad_charge c;
    for (int i = 0; i < 60; i++) ck_assert(begin(&c));
    ck_assert(!begin(&c));
    ck_assert(!c.begun && why.limit == AD_LIMIT_REQUESTS && !why.never && !why.of_key && why.value == 60);
    ck_assert_int_eq(why.wait_ms, 1000);
    pass(999);
    ck_assert(!begin(&c));
    ck_assert_int_eq(why.wait_ms, 1);
    pass(1);
    ck_assert(begin(&c) && !begin(&c));
    pass(30000);
    for (int i = 0; i < 30; i++) ck_assert(begin(&c));
    ck_assert(!begin(&c));
    pass(1000 * DAY_MS);
    for (int i = 0; i < 60; i++) ck_assert(begin(&c));
    ck_assert(!begin(&c));
}
END_TEST

/* After the time that was told, and not a millisecond earlier, it fits. */
START_TEST(the_time_told_is_the_time_it_takes)
{
    srand(7);
    for (int round = 0; round < 2000; round++) {
        int64_t limit = 1 + rand() % 5000;
        ad_charge c;
        set_up();
        set(&tenant, AD_LIMIT_GENERATED, limit);
        while (begin(&c) && reserve(&c, 0, 1 + rand() % limit)) pass(rand() % 50);
        ad_charge again;
        int64_t wanted = why.wanted, wait = why.wait_ms;
        ck_assert_int_gt(wait, 0);
        pass(wait - 1);
        ck_assert(begin(&again) && !reserve(&again, 0, wanted) && why.wait_ms == 1);
        pass(1);
        ck_assert(reserve(&again, 0, wanted));
    }
}
END_TEST

START_TEST(what_was_not_used_is_given_back)
{
    set(&tenant, AD_LIMIT_PROMPT, 100);
    set(&tenant, AD_LIMIT_GENERATED, 1000);
    set(&tenant, AD_LIMIT_GENERATED_DAY, 1500);
    ad_charge a, b;
    ck_assert(begin(&a) && reserve(&a, 60, 1000));
    ck_assert(begin(&b) && !reserve(&b, 10, 1));
    ck_assert_int_eq(why.limit, AD_LIMIT_GENERATED);
    settle(&a, 60, 20);
    settle(&a, 60, 20); /* once is enough */
    ck_assert(reserve(&b, 40, 980));
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_GENERATED_DAY, now), 1000);
    ad_charge_undo(&b, now);
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_GENERATED_DAY, now), 20);
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_PROMPT_DAY, now), 60);
    ck_assert_int_eq(tenant.meter.running, 0);
}
END_TEST

START_TEST(a_refused_request_takes_nothing_from_the_tenant_or_its_key)
{
    set(&tenant, AD_LIMIT_PROMPT, 1000);
    set(&tenant, AD_LIMIT_REQUESTS, 10);
    set(&key, AD_LIMIT_PROMPT, 100);
    set(&key, AD_LIMIT_CONCURRENT, 1);
    ad_charge c, d;
    ck_assert(begin(&c) && reserve(&c, 80, 0));
    ck_assert(!begin(&d));
    ck_assert(why.of_key && why.limit == AD_LIMIT_CONCURRENT && why.wait_ms > 0);
    ck_assert_int_eq(ad_allowance_rate(&tenant, AD_LIMIT_REQUESTS, now).remaining, 9);
    settle(&c, 80, 0);
    ck_assert(begin(&d) && !reserve(&d, 30, 0) && why.of_key);
    ck_assert_int_eq(ad_allowance_rate(&tenant, AD_LIMIT_PROMPT, now).remaining, 920);
    ad_charge_undo(&d, now);
    ck_assert_int_eq(ad_allowance_rate(&tenant, AD_LIMIT_REQUESTS, now).remaining, 9);
    ck_assert_int_eq(tenant.meter.running + key.meter.running, 0);
}
END_TEST

START_TEST(what_can_never_fit_is_told_so_even_when_something_else_is_used_up)
{
    set(&tenant, AD_LIMIT_PROMPT, 100);
    set(&key, AD_LIMIT_PROMPT_DAY, 50);
    ad_charge c, d;
    ck_assert(begin(&c) && reserve(&c, 50, 0));
    ck_assert(begin(&d) && !reserve(&d, 10, 0));
    ck_assert(!why.never && why.of_key && why.limit == AD_LIMIT_PROMPT_DAY);
    ck_assert(!reserve(&d, 101, 0) && why.never);
    set(&tenant, AD_LIMIT_PROMPT, 60);
    ck_assert(!reserve(&d, 51, 0) && why.never && why.of_key && why.limit == AD_LIMIT_PROMPT_DAY);
}
END_TEST

START_TEST(of_several_limits_the_one_that_takes_longest_is_told)
{
    set(&tenant, AD_LIMIT_PROMPT, 100);
    set(&key, AD_LIMIT_GENERATED, 100);
    ad_charge c, d;
    ck_assert(begin(&c) && reserve(&c, 100, 100));
    ck_assert(begin(&d) && !reserve(&d, 10, 20));
    ck_assert(why.of_key && why.limit == AD_LIMIT_GENERATED && why.wait_ms == 12000);
    ck_assert(!reserve(&d, 30, 20) && !why.of_key && why.wait_ms == 18000);
}
END_TEST

START_TEST(a_day_begins_at_midnight_in_utc)
{
    set(&tenant, AD_LIMIT_GENERATED_DAY, 100);
    ad_charge c, d;
    ck_assert(begin(&c) && reserve(&c, 5, 100) && begin(&d) && !reserve(&d, 5, 1));
    ck_assert_int_eq(why.wait_ms, DAY_MS - 3600000);
    pass(why.wait_ms - 1);
    ck_assert(!reserve(&d, 5, 1));
    pass(1);
    ck_assert(reserve(&d, 5, 60));
    settle(&c, 5, 30); /* reserved yesterday, ended today */
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_GENERATED_DAY, now), 90);
    settle(&d, 5, 0);
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_GENERATED_DAY, now), 30);
    ck_assert_int_eq(ad_allowance_today(&tenant, AD_LIMIT_PROMPT_DAY, now), 10);
}
END_TEST

START_TEST(what_was_used_before_a_restart_counts)
{
    set(&tenant, AD_LIMIT_PROMPT_DAY, 100);
    ad_allowance_restore(&tenant, (ad_token_counts){90, 7}, now);
    ad_charge c;
    ck_assert(begin(&c) && !reserve(&c, 11, 0) && reserve(&c, 10, 0));
}
END_TEST

START_TEST(other_limits_count_at_once_and_a_lower_one_is_not_in_debt_for_long)
{
    set(&tenant, AD_LIMIT_PROMPT, 1000000);
    ad_charge c, d;
    ck_assert(begin(&c) && reserve(&c, 900000, 0));
    set(&tenant, AD_LIMIT_PROMPT, 60);
    ck_assert(begin(&d) && !reserve(&d, 1, 0));
    ck_assert_int_eq(why.wait_ms, 1000);
    settle(&c, 900000, 0);
    set(&tenant, AD_LIMIT_PROMPT, 0);
    ck_assert(reserve(&d, 900000, 0));
}
END_TEST

/* Whatever happens in whatever order: when every request has ended nothing runs, today is what was used, and a minute later every bucket is full. */
START_TEST(reservations_always_return)
{
    enum { MANY = 64 };
    ad_charge charges[MANY];
    srand(42);
    for (int round = 0; round < 300; round++) {
        ad_token_counts used = {0}, most[MANY];
        set_up();
        memset(charges, 0, sizeof charges);
        for (int i = 0; i < AD_LIMIT_ADAPTERS; i++) {
            if (rand() % 2) set(&tenant, (ad_limit)i, 1 + rand() % 3000);
            if (rand() % 2) set(&key, (ad_limit)i, 1 + rand() % 3000);
        }
        for (int step = 0; step < 600; step++) {
            int i = rand() % MANY;
            ad_charge *c = &charges[i];
            pass(rand() % 40);
            if (!c->begun) {
                most[i] = (ad_token_counts){rand() % 100, rand() % 100};
                if (begin(c) && !ad_charge_reserve(c, most[i], now, &why)) ad_charge_undo(c, now);
            } else if (rand() % 4) {
                ad_token_counts u = {rand() % 2 ? most[i].prompt : 0, rand() % (most[i].generated + 1)};
                used.prompt += u.prompt, used.generated += u.generated;
                ad_charge_settle(c, u, now);
            } else {
                ad_charge_undo(c, now);
            }
        }
        for (int i = 0; i < MANY; i++) ad_charge_undo(&charges[i], now);
        ad_allowance *both[] = {&tenant, &key};
        for (int k = 0; k < 2; k++) {
            ck_assert_int_eq(both[k]->meter.running, 0);
            ck_assert_int_eq(ad_allowance_today(both[k], AD_LIMIT_PROMPT_DAY, now), used.prompt);
            ck_assert_int_eq(ad_allowance_today(both[k], AD_LIMIT_GENERATED_DAY, now), used.generated);
            for (int b = 0; b < AD_N_BUCKETS; b++) ck_assert(ad_allowance_rate(both[k], (ad_limit)b, now).remaining <= both[k]->limits.of[b]);
        }
        pass(60000);
        for (int k = 0; k < 2; k++)
            for (int b = 0; b < AD_N_BUCKETS; b++) ck_assert_int_eq(ad_allowance_rate(both[k], (ad_limit)b, now).remaining, both[k]->limits.of[b]);
    }
}
END_TEST

START_TEST(a_request_that_does_not_say_how_much_gets_what_could_fit)
{
    ad_charge c;
    ck_assert(begin(&c));
    ck_assert_int_eq(ad_charge_default_tokens(&c, 4, 8000), 8000);
    set(&tenant, AD_LIMIT_GENERATED, 1000);
    ck_assert_int_eq(ad_charge_default_tokens(&c, 4, 8000), 250);
    set(&key, AD_LIMIT_GENERATED_DAY, 3);
    ck_assert_int_eq(ad_charge_default_tokens(&c, 4, 8000), 1);
    ck_assert_int_eq(ad_charge_default_tokens(&c, 1, 8000), 3);
    set(&key, AD_LIMIT_MAX_TOKENS, 2);
    ck_assert_int_eq(ad_charge_default_tokens(&c, 1, 8000), 2);
}
END_TEST

START_TEST(the_rates_told_are_those_with_the_least_left)
{
    ad_rate requests, tokens;
    ad_charge c;
    set(&key, AD_LIMIT_REQUESTS, 600);
    set(&tenant, AD_LIMIT_PROMPT, 1000);
    set(&key, AD_LIMIT_GENERATED, 300);
    ck_assert(begin(&c) && reserve(&c, 100, 150));
    ad_charge_rates(&c, now, &requests, &tokens);
    ck_assert(requests.limit == 600 && requests.remaining == 599 && requests.reset_ms == 100);
    ck_assert(tokens.limit == 300 && tokens.remaining == 150 && tokens.reset_ms == 30000);
    settle(&c, 100, 0);
    pass(10);
    ad_charge_rates(&c, now, &requests, &tokens);
    ck_assert_int_eq(requests.reset_ms, 90);
    ck_assert_int_eq(tokens.remaining, 300);
}
END_TEST

START_TEST(durations_read_as_go_writes_them)
{
    static const struct { int64_t ms; const char *text; } cases[] = {
        {0, "0s"}, {1, "1ms"}, {12, "12ms"}, {999, "999ms"}, {1000, "1s"}, {1500, "1.5s"}, {1050, "1.05s"}, {1001, "1.001s"}, {60000, "1m0s"}, {61500, "1m1.5s"},
        {360000, "6m0s"}, {3600000, "1h0m0s"}, {86399999, "23h59m59.999s"}, {3600100, "1h0m0.1s"}};
    char text[AD_DURATION_TEXT];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) ck_assert_str_eq(ad_duration_text(cases[i].ms, text), cases[i].text);
    ck_assert_uint_lt(strlen(ad_duration_text(INT64_MAX, text)), AD_DURATION_TEXT);
}
END_TEST

static ad_status read(const char *text, bool of_key, ad_limits *out, char *param)
{
    ad_err err = {0};
    json_t *v = json_loads(text, 0, NULL);
    ad_status st = ad_limits_read(out, v, of_key, param, &err);
    json_decref(v);
    return st;
}

START_TEST(limits_are_read_by_their_names)
{
    ad_limits l;
    char param[64];
    ck_assert_int_eq(read("{\"requests_per_minute\": 60, \"max_tokens\": null, \"bytes_resident\": 1000000000000}", false, &l, param), AD_OK);
    ck_assert(l.of[AD_LIMIT_REQUESTS] == 60 && !l.of[AD_LIMIT_MAX_TOKENS] && l.of[AD_LIMIT_RESIDENT] == AD_MAX_LIMIT);
    json_t *v = ad_limits_json(&l);
    ck_assert_uint_eq(json_object_size(v), 2);
    json_decref(v);
    static const struct { const char *text, *param; bool of_key; } wrong[] = {
        {"{\"requests_per_hour\": 60}", "requests_per_hour", false}, {"{\"context\": 0}", "context", false}, {"{\"context\": -1}", "context", false}, {"{\"context\": 1.5}", "context", false},
        {"{\"context\": \"1\"}", "context", false}, {"{\"context\": 1000000000001}", "context", false}, {"{\"bytes_resident\": 1}", "bytes_resident", true}, {"[]", "", false}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        ck_assert_int_eq(read(wrong[i].text, wrong[i].of_key, &l, param), AD_EINVAL);
        ck_assert_str_eq(param, wrong[i].param);
        ck_assert_int_eq(l.of[AD_LIMIT_REQUESTS], 60); /* and nothing was written */
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("limits");
    TCase *t = tcase_create("limits");
    tcase_add_checked_fixture(t, set_up, NULL);
    tcase_add_test(t, without_limits_nothing_is_refused);
    tcase_add_test(t, a_bucket_holds_a_minute_and_fills_up_evenly);
    tcase_add_test(t, the_time_told_is_the_time_it_takes);
    tcase_add_test(t, what_was_not_used_is_given_back);
    tcase_add_test(t, a_refused_request_takes_nothing_from_the_tenant_or_its_key);
    tcase_add_test(t, what_can_never_fit_is_told_so_even_when_something_else_is_used_up);
    tcase_add_test(t, of_several_limits_the_one_that_takes_longest_is_told);
    tcase_add_test(t, a_day_begins_at_midnight_in_utc);
    tcase_add_test(t, what_was_used_before_a_restart_counts);
    tcase_add_test(t, other_limits_count_at_once_and_a_lower_one_is_not_in_debt_for_long);
    tcase_add_test(t, reservations_always_return);
    tcase_add_test(t, a_request_that_does_not_say_how_much_gets_what_could_fit);
    tcase_add_test(t, the_rates_told_are_those_with_the_least_left);
    tcase_add_test(t, durations_read_as_go_writes_them);
    tcase_add_test(t, limits_are_read_by_their_names);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
