/* SPDX-License-Identifier: MIT */
/* Whose turn it is, driven without an engine: counters, classes, deadlines, and who gives way. */
#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "server/sched/fair.h"
#include "tests/unit/suite.h"

static ad_fair f;
static ad_fair_tenant tenants[5]; /* 0: a, 1: b ... */
static ad_fair_entry entries[512];
static int n_entries;

static void setup(void)
{
    memset(&f, 0, sizeof f);
    memset(tenants, 0, sizeof tenants);
    memset(entries, 0, sizeof entries);
    n_entries = 0;
}

static ad_fair_entry *add(int tenant, double weight, int priority, uint64_t deadline)
{
    ck_assert_int_lt(n_entries, 512);
    ad_fair_entry *e = &entries[n_entries++];
    *e = (ad_fair_entry){.tenant = &tenants[tenant], .weight = weight, .priority = priority, .deadline = deadline};
    ad_fair_wait(&f, e);
    return e;
}

static ad_fair_entry *wait_of(int tenant) { return add(tenant, 1, 0, 0); }

static ad_fair_entry *start_next(void)
{
    ad_fair_entry *e = ad_fair_next(&f, false);
    if (e) ad_fair_start(&f, e);
    return e;
}

START_TEST(one_tenant_is_served_in_the_order_of_arrival)
{
    ad_fair_entry *e[20];
    for (int i = 0; i < 20; i++) e[i] = wait_of(0);
    for (int i = 0; i < 20; i++) {
        ck_assert_ptr_eq(start_next(), e[i]);
        ad_fair_charge(e[i], 100 + i);
    }
    ck_assert_ptr_null(ad_fair_next(&f, false));
    for (int i = 0; i < 20; i++) ad_fair_end(&f, e[i]);
    ck_assert(!f.active && !f.n_waiting && !tenants[0].n_running);
}
END_TEST

START_TEST(within_a_tenant_priority_comes_first_then_who_had_begun_then_the_deadline_then_age)
{
    ad_fair_entry *late = add(0, 1, 0, 900), *never = add(0, 1, 0, 0), *soon = add(0, 1, 0, 200), *batch = add(0, 1, 1, 100), *first = add(0, 1, -5, 0), *last = add(0, 1, 9, 0);
    ad_fair_entry *begun = add(0, 1, 0, 999), *order[] = {first, begun, soon, late, never, batch, last};
    ad_fair_start(&f, begun);
    ad_fair_put_back(&f, begun);
    for (int i = 0; i < 7; i++) ck_assert_ptr_eq(start_next(), order[i]);
}
END_TEST

START_TEST(nobodys_batch_goes_before_anybodys_interactive)
{
    ad_fair_entry *batch = add(0, 1, 1, 0), *interactive = wait_of(1);
    tenants[1].counter = 1e9;
    ck_assert_ptr_eq(start_next(), interactive);
    ck_assert_ptr_eq(start_next(), batch);
}
END_TEST

/* Tenants with endless queues and the given weights on 12 slots; returns each tenant's share of what was served. */
static void saturate(const double *weights, int n, double *shares)
{
    struct { ad_fair_entry *e; int left; } slots[12] = {0};
    double served[5] = {0}, sum = 0;
    srand(3);
    for (int i = 0; i < n; i++) add(i, weights[i], 0, 0);
    for (int step = 0; step < 20000; step++) {
        for (int s = 0; s < 12; s++) {
            if (!slots[s].e) {
                slots[s].e = start_next();
                int k = (int)(slots[s].e->tenant - tenants), prompt = 1 + rand() % (k ? 40 : 200); /* the first one's requests are longer */
                slots[s].left = 1 + rand() % 100;
                ad_fair_charge(slots[s].e, prompt * AD_FAIR_PROMPT);
                served[k] += prompt * AD_FAIR_PROMPT;
                n_entries = n_entries < 500 ? n_entries : 0;
                while (entries[n_entries].tenant && entries[n_entries].weight > 0) n_entries = (n_entries + 1) % 500; /* a free place */
                add(k, weights[k], 0, 0);
            }
            served[slots[s].e->tenant - tenants] += AD_FAIR_GENERATED;
            ad_fair_charge(slots[s].e, AD_FAIR_GENERATED);
            if (--slots[s].left) continue;
            ad_fair_end(&f, slots[s].e);
            slots[s].e->weight = 0;
            slots[s].e = NULL;
        }
    }
    for (int i = 0; i < n; i++) sum += served[i];
    for (int i = 0; i < n; i++) shares[i] = served[i] / sum;
}

START_TEST(under_saturation_equal_weights_get_equal_shares_whatever_they_ask)
{
    double shares[4];
    saturate((double[]){1, 1, 1, 1}, 4, shares);
    for (int i = 0; i < 4; i++) ck_assert_msg(shares[i] > 0.245 && shares[i] < 0.255, "tenant %d: %g", i, shares[i]);
}
END_TEST

START_TEST(under_saturation_weights_2_to_1_give_2_to_1)
{
    double shares[2];
    saturate((double[]){2, 1}, 2, shares);
    ck_assert_msg(shares[0] / shares[1] > 1.96 && shares[0] / shares[1] < 2.04, "%g", shares[0] / shares[1]);
}
END_TEST

START_TEST(a_tenant_that_wakes_claims_no_idle_past)
{
    for (int i = 0; i < 10; i++) ad_fair_charge(wait_of(0), 1000);
    ad_fair_entry *e = wait_of(1);
    ck_assert_double_eq(tenants[1].counter, 10000);
    ck_assert_ptr_eq(ad_fair_next(&f, false), &entries[0]); /* equal counters, neither runs any: the older one */
    ad_fair_start(&f, &entries[0]);
    ck_assert_ptr_eq(ad_fair_next(&f, false), e); /* now who runs fewer */
}
END_TEST

START_TEST(a_tenant_that_wakes_after_everybody_slept_is_lifted_to_the_last_one)
{
    ad_fair_entry *e = wait_of(0);
    ad_fair_charge(e, 5000);
    ad_fair_end(&f, e);
    wait_of(1);
    ck_assert_double_eq(tenants[1].counter, 5000);
    wait_of(0); /* and does not owe it the past either */
    ck_assert_double_eq(tenants[0].counter, 5000);
}
END_TEST

START_TEST(a_tenant_that_wakes_keeps_what_it_owes)
{
    ad_fair_entry *e = wait_of(0);
    wait_of(1);
    ad_fair_charge(e, 700);
    ad_fair_end(&f, e);
    wait_of(0);
    ck_assert_double_eq(tenants[0].counter, 700);
    ck_assert_ptr_eq(ad_fair_next(&f, false)->tenant, &tenants[1]);
}
END_TEST

/* ---- who gives way ---- */

static ad_fair_entry *running[64];

static void run_of(int tenant, int n, int priority, int *total)
{
    for (int i = 0; i < n; i++) {
        running[*total] = add(tenant, 1, priority, 0);
        ad_fair_start(&f, running[(*total)++]);
    }
}

START_TEST(for_a_tenant_that_runs_nothing_the_youngest_of_the_one_furthest_ahead_gives_way)
{
    int n = 0;
    run_of(0, 3, 0, &n);
    run_of(1, 3, 0, &n);
    ad_fair_charge(running[0], 500);
    ad_fair_charge(running[3], 400);
    ad_fair_entry *w = wait_of(2);
    ck_assert_int_eq(ad_fair_victim(running, n, w), 2);
    ad_fair_put_back(&f, running[2]);
    ad_fair_start(&f, w);
    running[2] = w;
    ck_assert_int_eq(ad_fair_victim(running, n, wait_of(2)), -1); /* it runs one: no more */
    ck_assert_int_eq(ad_fair_victim(running, n, &entries[2]), -1); /* nor does it come back by force */
}
END_TEST

START_TEST(nobody_gives_way_to_one_who_had_more_or_gives_his_only_one)
{
    int n = 0;
    run_of(0, 1, 0, &n);
    run_of(1, 1, 0, &n);
    ad_fair_entry *w = wait_of(2);
    ck_assert_int_eq(ad_fair_victim(running, n, w), -1);
    run_of(0, 1, 0, &n);
    ck_assert_int_eq(ad_fair_victim(running, n, w), 2);
    ad_fair_charge(w, 1);
    ck_assert_int_eq(ad_fair_victim(running, n, w), -1);
}
END_TEST

START_TEST(batch_gives_way_to_interactive_and_never_the_other_way_round)
{
    int n = 0;
    run_of(0, 2, 0, &n);
    run_of(1, 1, 5, &n);
    ck_assert_int_eq(ad_fair_victim(running, n, wait_of(0)), 2); /* even the only one, even for who runs others */
    ck_assert_int_eq(ad_fair_victim(running, n, add(2, 1, 1, 0)), -1);
    ck_assert_int_eq(ad_fair_victim(running, n, NULL), 2);
}
END_TEST

START_TEST(when_memory_runs_out_somebody_gives_way_but_a_tenants_only_one_last)
{
    int n = 0;
    run_of(0, 1, 0, &n);
    run_of(1, 2, 0, &n);
    run_of(2, 1, 0, &n);
    ad_fair_charge(running[0], 900);
    ck_assert_int_eq(ad_fair_victim(running, n, NULL), 2);
    ad_fair_end(&f, running[2]);
    running[2] = running[3];
    ck_assert_int_eq(ad_fair_victim(running, 3, NULL), 0); /* now all have one: the furthest ahead */
    ck_assert_int_eq(ad_fair_victim(running, 1, NULL), 0);
    setup();
    n = 0;
    run_of(0, 5, 0, &n);
    ck_assert_int_eq(ad_fair_victim(running, n, NULL), 4); /* of one tenant the youngest */
}
END_TEST

/* ---- the queue ---- */

START_TEST(one_tenant_alone_may_fill_the_queue_and_one_among_others_three_quarters)
{
    ck_assert_int_eq(ad_fair_room(0, 0, 320, false), 320);
    ck_assert_int_eq(ad_fair_room(320, 320, 320, false), 0);
    int own = 0;
    while (ad_fair_room(own, own, 320, true)) own++;
    ck_assert_int_eq(own, 240);
    ck_assert_int_eq(ad_fair_room(0, 0, 320, true), 240);
    ck_assert_int_eq(ad_fair_room(0, 0, 1, true), 1);
}
END_TEST

START_TEST(however_many_flood_the_queue_there_is_room_for_one_more)
{
    int own[10] = {0}, used = 0;
    for (bool more = true; more;) {
        more = false;
        for (int t = 0; t < 10; t++)
            if (ad_fair_room(own[t], used, 320, true)) own[t]++, used++, more = true;
    }
    ck_assert_int_ge(ad_fair_room(0, used, 320, true), 1);
    ck_assert_int_ge(320 - used, 320 / 31);
    for (int t = 0; t < 10; t++) ck_assert_int_ge(own[t], 30);
}
END_TEST

START_TEST(random_lives_keep_the_books)
{
    enum { N = 200 };
    int state[N] = {0}; /* 0: not there, 1: waits, 2: runs */
    srand(7);
    for (int step = 0; step < 20000; step++) {
        int i = rand() % N, k = rand() % 5;
        ad_fair_entry *e = &entries[i];
        if (state[i] == 0) {
            *e = (ad_fair_entry){.tenant = &tenants[k], .weight = 1 + k, .priority = rand() % 4 - 1, .deadline = (uint64_t)(rand() % 3)};
            ad_fair_wait(&f, e);
            state[i] = 1;
        } else if (rand() % 4 == 0) {
            ad_fair_end(&f, e);
            state[i] = 0;
        } else if (state[i] == 1) {
            ad_fair_entry *next = ad_fair_next(&f, false);
            ck_assert_ptr_nonnull(next);
            ad_fair_start(&f, next);
            ad_fair_charge(next, rand() % 50);
            state[next - entries] = 2;
        } else {
            ad_fair_put_back(&f, e);
            state[i] = 1;
        }
        int waiting = 0, listed = 0, run[5] = {0};
        for (int j = 0; j < N; j++) waiting += state[j] == 1, run[state[j] == 2 ? entries[j].tenant - tenants : 0] += state[j] == 2;
        for (const ad_fair_tenant *t = f.active; t; t = t->next) {
            for (const ad_fair_entry *w = t->waiting; w; w = w->next) listed++;
            ck_assert(t->waiting || t->n_running);
        }
        ck_assert(listed == waiting && f.n_waiting == waiting);
        for (int t = 0; t < 5; t++) ck_assert_int_eq(tenants[t].n_running, run[t]);
    }
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("fair");
    TCase *t = tcase_create("order");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, one_tenant_is_served_in_the_order_of_arrival);
    tcase_add_test(t, within_a_tenant_priority_comes_first_then_who_had_begun_then_the_deadline_then_age);
    tcase_add_test(t, nobodys_batch_goes_before_anybodys_interactive);
    tcase_add_test(t, under_saturation_equal_weights_get_equal_shares_whatever_they_ask);
    tcase_add_test(t, under_saturation_weights_2_to_1_give_2_to_1);
    tcase_add_test(t, a_tenant_that_wakes_claims_no_idle_past);
    tcase_add_test(t, a_tenant_that_wakes_after_everybody_slept_is_lifted_to_the_last_one);
    tcase_add_test(t, a_tenant_that_wakes_keeps_what_it_owes);
    tcase_add_test(t, random_lives_keep_the_books);
    suite_add_tcase(suite, t);
    t = tcase_create("giving way");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, for_a_tenant_that_runs_nothing_the_youngest_of_the_one_furthest_ahead_gives_way);
    tcase_add_test(t, nobody_gives_way_to_one_who_had_more_or_gives_his_only_one);
    tcase_add_test(t, batch_gives_way_to_interactive_and_never_the_other_way_round);
    tcase_add_test(t, when_memory_runs_out_somebody_gives_way_but_a_tenants_only_one_last);
    suite_add_tcase(suite, t);
    t = tcase_create("queue");
    tcase_add_test(t, one_tenant_alone_may_fill_the_queue_and_one_among_others_three_quarters);
    tcase_add_test(t, however_many_flood_the_queue_there_is_room_for_one_more);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
