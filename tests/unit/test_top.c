/* SPDX-License-Identifier: MIT */
/* Whose counters have a row of their own, and that none of them ever goes back. */
#include "server/observe/top.h"
#include "tests/unit/suite.h"

#include <stdio.h>
#include <string.h>

static ad_top *new_top(int rows)
{
    ad_top *t = NULL;
    ck_assert_int_eq(ad_top_new(&t, rows, NULL), AD_OK);
    return t;
}

static void add(ad_top *t, const char *name, uint64_t tokens, int64_t now)
{
    ad_top_add(t, name, &(ad_top_counts){.requests = 1, .generated_tokens = tokens}, now);
}

/* The row of a name, or -1. */
static int find(const ad_top *t, const char *name)
{
    for (int i = 0; i < ad_top_rows(t); i++)
        if (!strcmp(ad_top_name(t, i), name)) return i;
    return -1;
}

static uint64_t tokens_of(const ad_top *t, int i) { return ad_top_counts_of(t, i)->generated_tokens; }

START_TEST(names_get_rows_until_there_are_no_more)
{
    ad_top *t = new_top(2);
    add(t, "a", 1, 0), add(t, "b", 2, 0), add(t, "a", 4, 0), add(t, "c", 8, 0);
    ck_assert_int_eq(ad_top_rows(t), 2);
    ck_assert_uint_eq(tokens_of(t, find(t, "a")), 5);
    ck_assert_uint_eq(tokens_of(t, find(t, "b")), 2);
    ck_assert_str_eq(ad_top_name(t, 2), "other");
    ck_assert_uint_eq(tokens_of(t, 2), 8);
    ad_top_free(&t);
    ck_assert_ptr_null(t);
}
END_TEST

START_TEST(every_field_is_added_up)
{
    ad_top *t = new_top(1);
    ad_top_counts all = {1, 2, 3, 4, 5, 6}, twice = {2, 4, 6, 8, 10, 12};
    for (int i = 0; i < 2; i++) ad_top_add(t, "a", &all, 0), ad_top_add(t, "b", &all, 0);
    ck_assert_mem_eq(ad_top_counts_of(t, 0), &twice, sizeof twice);
    ck_assert_mem_eq(ad_top_counts_of(t, 1), &twice, sizeof twice);
    ad_top_free(&t);
}
END_TEST

START_TEST(without_rows_everybody_is_other)
{
    ad_top *t = new_top(0);
    add(t, "a", 1, 0), add(t, "b", 2, 10000);
    ck_assert_int_eq(ad_top_rows(t), 0);
    ck_assert_uint_eq(tokens_of(t, 0), 3);
    ad_top_free(&t);
}
END_TEST

/* Else two series would have the same labels, which costs the whole scrape. */
START_TEST(an_adapter_called_other_and_one_whose_name_is_too_long_are_counted_there)
{
    char longest[AD_TOP_NAME + 2];
    ad_top *t = new_top(4);
    memset(longest, 'x', sizeof longest);
    longest[AD_TOP_NAME + 1] = '\0';
    add(t, "other", 1, 0), add(t, longest, 2, 0);
    ck_assert_int_eq(ad_top_rows(t), 0);
    longest[AD_TOP_NAME] = '\0';
    add(t, longest, 4, 0);
    ck_assert_int_eq(find(t, longest), 0);
    ck_assert_uint_eq(tokens_of(t, 1), 3);
    ad_top_free(&t);
}
END_TEST

START_TEST(a_busy_newcomer_takes_the_quietest_row_once_that_is_old_enough)
{
    ad_top *t = new_top(2);
    add(t, "loud", 1000, 0), add(t, "quiet", 10, 0);
    add(t, "new", 500, AD_TOP_ROW_S - 1);
    ck_assert_int_eq(find(t, "new"), -1);
    add(t, "new", 500, AD_TOP_ROW_S);
    ck_assert_int_ge(find(t, "new"), 0);
    ck_assert_int_eq(find(t, "quiet"), -1);
    ck_assert_int_ge(find(t, "loud"), 0);
    ck_assert_uint_eq(tokens_of(t, find(t, "new")), 0); /* a row begins at zero: what was counted for others stays there */
    ck_assert_uint_eq(tokens_of(t, 2), 1000);
    add(t, "new", 7, AD_TOP_ROW_S);
    ck_assert_uint_eq(tokens_of(t, find(t, "new")), 7);
    ck_assert_uint_eq(tokens_of(t, 2), 1000);
    ad_top_free(&t);
}
END_TEST

START_TEST(who_is_about_as_busy_does_not_push_anybody_out)
{
    ad_top *t = new_top(1);
    for (int64_t now = 0; now < 20 * AD_TOP_ROW_S; now += 10) add(t, "a", 100, now), add(t, "b", 110, now);
    ck_assert_int_eq(find(t, "a"), 0);
    ad_top_free(&t);
}
END_TEST

START_TEST(who_was_busy_yesterday_makes_room_for_who_is_today)
{
    ad_top *t = new_top(1);
    add(t, "yesterday", 1000000, 0);
    add(t, "today", 10, 86400);
    ck_assert_int_eq(find(t, "today"), 0);
    ad_top_free(&t);
}
END_TEST

/* A name per request, for ever: the steady ones keep their rows, memory is what it was. */
START_TEST(a_flood_of_names_hides_nobody_who_is_busy)
{
    ad_top *t = new_top(3);
    char name[20];
    for (int i = 0; i < 20000; i++) {
        int64_t now = i / 10;
        snprintf(name, sizeof name, "n%d", i);
        add(t, name, 5, now);
        if (i > 1000 && i % 4 == 0) add(t, "busy", 100, now);
    }
    ck_assert_int_ge(find(t, "busy"), 0);
    ck_assert_int_eq(ad_top_rows(t), 3);
    ad_top_free(&t);
}
END_TEST

/* Whatever comes: the counters of a row that stays, and those of the others, only grow, and only a name that got its row anew begins again. */
START_TEST(no_counter_ever_goes_back)
{
    enum { ROWS = 4, NAMES = 12 };
    ad_top *t = new_top(ROWS);
    uint64_t before[NAMES] = {0}, other = 0, added = 0;
    unsigned seed = 1, changes = 0;
    char name[NAMES][4];
    int had[NAMES];
    for (int i = 0; i < NAMES; i++) snprintf(name[i], sizeof name[i], "n%d", i), had[i] = -1;
    for (int64_t now = 0; now < 40000; now += 3) {
        seed = seed * 1103515245u + 12345u;
        int who = (int)(seed >> 16) % NAMES;
        uint64_t tokens = (int)(now / 8000) % NAMES == who ? 500 : seed >> 28;
        add(t, name[who], tokens, now);
        added += tokens;
        ck_assert_uint_ge(tokens_of(t, ad_top_rows(t)), other);
        other = tokens_of(t, ad_top_rows(t));
        for (int i = 0; i < NAMES; i++) {
            int at = find(t, name[i]);
            if (at >= 0 && had[i] >= 0) ck_assert_uint_ge(tokens_of(t, at), before[i]);
            changes += (at >= 0) != (had[i] >= 0);
            had[i] = at;
            before[i] = at < 0 ? 0 : tokens_of(t, at);
        }
    }
    ck_assert_uint_gt(changes, ROWS); /* rows did change hands */
    ck_assert_uint_le(other, added);
    ad_top_free(&t);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("top");
    TCase *tc = tcase_create("rows");
    tcase_add_test(tc, names_get_rows_until_there_are_no_more);
    tcase_add_test(tc, every_field_is_added_up);
    tcase_add_test(tc, without_rows_everybody_is_other);
    tcase_add_test(tc, an_adapter_called_other_and_one_whose_name_is_too_long_are_counted_there);
    tcase_add_test(tc, a_busy_newcomer_takes_the_quietest_row_once_that_is_old_enough);
    tcase_add_test(tc, who_is_about_as_busy_does_not_push_anybody_out);
    tcase_add_test(tc, who_was_busy_yesterday_makes_room_for_who_is_today);
    tcase_add_test(tc, a_flood_of_names_hides_nobody_who_is_busy);
    tcase_add_test(tc, no_counter_ever_goes_back);
    suite_add_tcase(s, tc);
    return tu_run(s);
}
