/* SPDX-License-Identifier: MIT */
/* Rounds of the engine thread on a small model, counted one by one: tenants beside a flood, shares, who gives way. No clock, no thread. */
#include <check.h>
#include <stdlib.h>
#include <uv.h>

#include "server/sched/scheduler.h"
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

enum { MAX_STREAMS = 160, MAX_TOKENS = 64 };

/* One request after another of a tenant. */
typedef struct {
    ad_sched_job job;
    int tenant, prompt, output, priority, id;
    uint64_t deadline;
    bool live, once;
    int submitted, first, latest; /* rounds; -1: not yet */
    int n_tokens;
    int32_t tokens[MAX_TOKENS];
    ad_finish finish;
    /* Over all of its requests. */
    int worst_first, worst_gap, done;
} stream;

static ad_model *base;
static ad_engine *engine;
static ad_scheduler *sched;
static ad_worker_stats stats;
static ad_sched_tenant tenants[4];
static double weights[4], served[4];
static stream streams[MAX_STREAMS];
static int n_streams, now, n_requests;

static void setup(void) { base = golden_model_as("models/llama-gqa", AD_WEIGHTS_INT8); } /* under ASan half the time of f32 */

static void on_report(void *user, ad_sched_job *job, const ad_token_info *token, ad_finish finish, const char *error, double cost)
{
    stream *st = (stream *)job;
    (void)user, (void)error;
    served[st->tenant] += cost;
    if (token) {
        int gap = now - st->latest;
        if (st->first < 0) st->first = now;
        else if (gap > st->worst_gap) st->worst_gap = gap;
        if (st->first == now && now - st->submitted > st->worst_first) st->worst_first = now - st->submitted;
        st->latest = now;
        if (st->n_tokens < MAX_TOKENS) st->tokens[st->n_tokens] = token->id;
        st->n_tokens++;
    }
    if (finish == AD_FINISH_NONE) return;
    st->finish = finish;
    st->live = false;
    st->done++;
}

static void open_rig(int max_running, int step_tokens, int pages)
{
    ad_err err;
    memset(&stats, 0, sizeof stats);
    memset(tenants, 0, sizeof tenants);
    memset(served, 0, sizeof served);
    memset(streams, 0, sizeof streams);
    for (int i = 0; i < 4; i++) weights[i] = 1;
    n_streams = now = n_requests = 0;
    ad_engine_options eo = {.max_running = max_running, .step_tokens = step_tokens, .context = 512, .kv_bytes = (size_t)pages * ad_kv_page_bytes(base, AD_KV_F16), .kv_type = AD_KV_F16, .n_threads = 1, .cpu = ad_cpu_detect()};
    ad_scheduler_options so = {.max_running = max_running, .step_tokens = step_tokens, .stats = &stats, .report = on_report};
    ck_assert_msg(ad_engine_new(&engine, base, &eo, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_scheduler_new(&sched, engine, &so, &err) == AD_OK, "%s", err.msg);
}

static void submit(stream *st)
{
    int32_t prompt[300];
    ad_err err;
    ad_sampling s = {.top_p = 1, .repetition_penalty = 1, .max_tokens = st->output, .ignore_eos = true, .logprobs = -1, .prompt_logprobs = -1};
    ad_seq_free(&st->job.seq);
    for (int i = 0; i < st->prompt; i++) prompt[i] = (st->id + 31 * i) % 1000;
    memset(&st->job, 0, sizeof st->job);
    ck_assert_msg(ad_seq_new(&st->job.seq, prompt, st->prompt, &s, (ad_seq_weights){.root = {(uint64_t)++n_requests, 1}}, &err) == AD_OK, "%s", err.msg);
    st->job.fair = (ad_fair_entry){.tenant = &tenants[st->tenant].fair, .weight = weights[st->tenant], .priority = st->priority, .deadline = st->deadline};
    st->submitted = now;
    st->first = st->latest = -1;
    st->n_tokens = 0;
    st->finish = AD_FINISH_NONE;
    st->live = true;
    ad_scheduler_add(sched, &st->job);
}

static stream *add(int tenant, int prompt, int output)
{
    ck_assert_int_lt(n_streams, MAX_STREAMS);
    stream *st = &streams[n_streams];
    *st = (stream){.tenant = tenant, .prompt = prompt, .output = output, .id = n_streams++};
    return st;
}

static stream *add_once(int tenant, int prompt, int output)
{
    stream *st = add(tenant, prompt, output);
    st->once = true;
    submit(st);
    return st;
}

/* As many rounds; streams whose request has ended begin the next. */
static void run(int rounds)
{
    for (int i = 0; i < rounds; i++, now++) {
        for (int k = 0; k < n_streams; k++)
            if (!streams[k].live && !streams[k].once) submit(&streams[k]);
        ad_scheduler_round(sched, false);
    }
}

static void close_rig(void)
{
    ad_scheduler_round(sched, true);
    ck_assert(!ad_scheduler_busy(sched));
    ck_assert_int_eq(ad_engine_pages_free(engine), ad_engine_pages_total(engine));
    for (int i = 0; i < n_streams; i++) ad_seq_free(&streams[i].job.seq);
    ad_scheduler_free(&sched);
    ad_engine_free(&engine);
}

static void teardown(void) { ad_model_free(&base); }

/* ---- a quiet tenant beside a flood ---- */

START_TEST(beside_64_streams_a_quiet_one_has_its_first_token_at_once_and_a_row_in_every_step)
{
    open_rig(64, 256, 2000);
    for (int i = 0; i < 64; i++) add(0, 20 + i % 30, 20 + i % 17);
    run(40); /* the flood has all the slots, and comes and goes */
    stream *quiet = add(1, 90, 25);
    run(150);
    ck_assert_int_ge(quiet->done, 5);
    ck_assert_msg(quiet->worst_first <= 1, "first token after %d rounds", quiet->worst_first); /* its prefill takes one */
    ck_assert_int_eq(quiet->worst_gap, 1);
    ck_assert_int_le((int)stats.preemptions, quiet->done + 1); /* one for each of its requests, at most */
    close_rig();
}
END_TEST

START_TEST(a_queue_of_hundreds_of_another_does_not_delay_a_quiet_one)
{
    open_rig(8, 64, 2000);
    for (int i = 0; i < 150; i++) add(0, 40, 30);
    run(30);
    stream *quiet = add(1, 20, 10);
    run(300);
    ck_assert_int_ge(quiet->done, 20);
    ck_assert_msg(quiet->worst_first <= 2, "first token after %d rounds", quiet->worst_first);
    ck_assert_int_eq(quiet->worst_gap, 1);
    close_rig();
}
END_TEST

START_TEST(pages_that_a_flood_holds_are_given_back_for_a_quiet_one)
{
    open_rig(32, 256, 40); /* of 5 to 8 pages each: the pool is full with 6 or so */
    weights[1] = 10; /* so that it never has more than its share */
    for (int i = 0; i < 32; i++) add(0, 60, 60);
    run(40);
    stream *quiet = add(1, 100, 20);
    run(200);
    ck_assert_int_ge(quiet->done, 5);
    ck_assert_msg(quiet->worst_first <= 3, "first token after %d rounds", quiet->worst_first); /* its prefill takes two */
    ck_assert_int_le(quiet->worst_gap, 1);
    close_rig();
}
END_TEST

START_TEST(prompts_that_come_at_once_are_spread_over_steps_in_which_others_decode)
{
    open_rig(64, 256, 2000);
    stream *quiet = add(1, 10, 60);
    run(10);
    for (int i = 0; i < 40; i++) add_once(0, 200, 10);
    for (int i = 0; i < 45; i++) {
        unsigned long long before = stats.prompt_tokens;
        run(1);
        ck_assert_int_le((int)(stats.prompt_tokens - before), 64 + 10); /* a quarter of a step, and its own */
    }
    ck_assert_int_eq(quiet->worst_gap, 1);
    ck_assert_int_gt((int)stats.prompt_tokens, 45 * 60);
    close_rig();
}
END_TEST

/* The rows of one more round. */
static int rows_of_round(void)
{
    unsigned long long before = stats.prompt_tokens;
    run(1);
    int rows = (int)(stats.prompt_tokens - before);
    for (int i = 0; i < n_streams; i++) rows += streams[i].latest == now - 1 && streams[i].first < now - 1; /* it decoded */
    return rows;
}

START_TEST(a_flood_that_comes_and_goes_makes_no_step_beside_a_quiet_one_an_eighth_longer)
{
    open_rig(64, 256, 2000);
    for (int i = 0; i < 64; i++) add(0, 32, 40 + i % 40);
    run(20);
    stream *quiet = add(1, 10, 15);
    run(3); /* it is there, and decodes */
    for (int i = 0; i < 300; i++) {
        int rows = rows_of_round(); /* also in those between two of its requests */
        ck_assert_msg(rows <= 63 + 63 / 8 + 10, "%d rows", rows);
    }
    ck_assert_int_ge(quiet->done, 15);
    ck_assert_int_eq(quiet->worst_gap, 1);
    close_rig();
}
END_TEST

START_TEST(a_tenant_that_was_left_alone_fills_its_steps_again)
{
    open_rig(64, 256, 2000);
    stream *quiet = add_once(1, 10, 5);
    run(2);
    for (int i = 0; i < 60; i++) add_once(0, 300, 1);
    run(4);
    ck_assert_int_eq(quiet->done, 1);
    ck_assert_int_eq(rows_of_round(), 64); /* it may come back */
    run(40);
    ck_assert_int_eq(rows_of_round(), 256);
    close_rig();
}
END_TEST

START_TEST(prompts_that_come_at_once_fill_the_steps_when_nobody_else_decodes)
{
    open_rig(64, 256, 2000);
    for (int i = 0; i < 20; i++) add_once(0, 200, 10);
    run(4);
    ck_assert_int_eq((int)stats.prompt_tokens, 4 * 256);
    close_rig();
}
END_TEST

/* ---- shares ---- */

static void expect_share(int tenant, double want)
{
    double sum = 0;
    for (int i = 0; i < 4; i++) sum += served[i];
    ck_assert_msg(served[tenant] / sum > want * 0.9 && served[tenant] / sum < want * 1.1, "tenant %d: %g of %g", tenant, served[tenant] / sum, want);
}

START_TEST(saturating_tenants_of_equal_weight_get_equal_shares_whatever_their_streams_and_lengths)
{
    open_rig(12, 64, 2000);
    for (int i = 0; i < 40; i++) add(0, 30, 20);
    for (int i = 0; i < 12; i++) add(1, 90, 8);
    for (int i = 0; i < 15; i++) add(2, 5, 50);
    run(600);
    for (int t = 0; t < 3; t++) expect_share(t, 1.0 / 3);
    close_rig();
}
END_TEST

START_TEST(saturating_tenants_of_weights_2_and_1_get_2_to_1)
{
    open_rig(12, 64, 2000);
    weights[0] = 2;
    for (int i = 0; i < 20; i++) add(0, 30, 20), add(1, 30, 20);
    run(600);
    expect_share(0, 2.0 / 3);
    expect_share(1, 1.0 / 3);
    close_rig();
}
END_TEST

START_TEST(tenants_whose_prompts_fill_every_step_share_them_by_weight)
{
    open_rig(32, 64, 2000);
    weights[1] = 3;
    for (int i = 0; i < 14; i++) add(0, 200, 1), add(1, 200, 1);
    run(300);
    expect_share(0, 1.0 / 4);
    expect_share(1, 3.0 / 4);
    close_rig();
}
END_TEST

/* ---- what does not change ---- */

START_TEST(who_gave_way_goes_on_with_the_same_tokens)
{
    int32_t alone[8][40];
    open_rig(1, 64, 400);
    for (int i = 0; i < 8; i++) {
        stream *st = add_once(0, 50, 40);
        run(60);
        ck_assert_int_eq(st->finish, AD_FINISH_LENGTH);
        memcpy(alone[i], st->tokens, sizeof alone[i]);
    }
    close_rig();
    open_rig(4, 64, 20);
    for (int i = 0; i < 8; i++) add_once(i % 3, 50, 40);
    add(3, 20, 3); /* comes and goes, and pushes */
    run(400);
    ck_assert_int_gt((int)stats.preemptions, 3);
    for (int i = 0; i < 8; i++) {
        ck_assert_int_eq(streams[i].finish, AD_FINISH_LENGTH);
        ck_assert_msg(!memcmp(alone[i], streams[i].tokens, sizeof alone[i]), "stream %d", i);
    }
    close_rig();
}
END_TEST

START_TEST(one_tenant_alone_is_served_in_the_order_of_arrival)
{
    open_rig(3, 64, 2000);
    for (int i = 0; i < 12; i++) add_once(0, 20, 10);
    run(60);
    for (int i = 0; i < 12; i++) {
        ck_assert_int_eq(streams[i].finish, AD_FINISH_LENGTH);
        ck_assert_int_eq(streams[i].first, i / 3 * 10); /* three at a time, and no step is lost */
    }
    ck_assert_int_eq((int)stats.preemptions, 0);
    close_rig();
}
END_TEST

START_TEST(one_tenant_alone_with_too_few_pages_finishes_everything)
{
    open_rig(16, 64, 14);
    for (int i = 0; i < 16; i++) add_once(0, 60, 60);
    run(1500);
    for (int i = 0; i < 16; i++) ck_assert_int_eq(streams[i].finish, AD_FINISH_LENGTH);
    ck_assert_int_gt((int)stats.preemptions, 0);
    close_rig();
}
END_TEST

START_TEST(four_tenants_with_too_few_pages_finish_everything)
{
    open_rig(16, 64, 14);
    for (int i = 0; i < 32; i++) {
        streams[n_streams].priority = 0;
        stream *st = add(i % 4, 60, 60);
        st->once = true;
        st->priority = i % 5 == 0;
        submit(st);
    }
    run(3000);
    for (int i = 0; i < 32; i++) ck_assert_int_eq(streams[i].finish, AD_FINISH_LENGTH);
    close_rig();
}
END_TEST

/* ---- priorities, deadlines, books ---- */

START_TEST(interactive_requests_do_not_wait_for_running_batch)
{
    open_rig(4, 64, 2000);
    for (int i = 0; i < 8; i++) {
        stream *st = add(0, 20, 50);
        st->priority = 1;
    }
    run(20);
    stream *st = add_once(0, 20, 10);
    run(200);
    ck_assert_int_eq(st->first, st->submitted);
    ck_assert_int_eq((int)stats.preemptions, 1);
    ck_assert_int_gt(streams[0].done, 1);
    close_rig();
}
END_TEST

START_TEST(a_deadline_that_is_over_before_it_began_ends_the_request_and_one_that_holds_does_not)
{
    open_rig(1, 64, 2000);
    add_once(0, 20, 30);
    run(1);
    stream *late = add(0, 20, 5), *fine = add(0, 20, 5), *sooner = add(0, 20, 5), *hopeless = add(0, 20, 5);
    late->once = fine->once = sooner->once = hopeless->once = true;
    late->deadline = 1;
    fine->deadline = uv_hrtime() + 3600000000000u;
    sooner->deadline = fine->deadline - 1;
    hopeless->deadline = uv_hrtime() + 600000000000u;
    submit(late), submit(fine), submit(sooner), submit(hopeless);
    hopeless->job.least_tokens = INT32_MAX; /* at any speed of steps */
    run(60);
    ck_assert_int_eq(late->finish, AD_FINISH_LATE);
    ck_assert_int_eq(hopeless->finish, AD_FINISH_LATE);
    ck_assert(late->first < 0 && hopeless->first < 0);
    ck_assert(fine->finish == AD_FINISH_LENGTH && sooner->finish == AD_FINISH_LENGTH);
    ck_assert_int_lt(sooner->first, fine->first);
    ck_assert_int_eq((int)stats.late, 2);
    close_rig();
}
END_TEST

START_TEST(a_tenant_pays_for_what_was_computed_and_less_for_what_was_cached)
{
    open_rig(4, 64, 2000);
    stream *st = add_once(0, 40, 10);
    run(20);
    ck_assert_double_eq_tol(served[0], 40 + 2 * 10, 1e-9);
    ck_assert_double_eq_tol(tenants[0].fair.counter, 60, 1e-9);
    n_requests--; /* the same prefix root: two pages of 16 are known */
    st->output = 1;
    submit(st);
    run(3);
    ck_assert_double_eq_tol(served[0], 60 + 8 + 32 * 0.1 + 2, 1e-9);
    stream *canceled = add_once(1, 200, 10);
    run(1);
    ck_assert_int_gt((int)stats.prompt_tokens, 40 + 8);
    atomic_store(&canceled->job.canceled, true);
    run(1);
    ck_assert_int_eq(canceled->finish, AD_FINISH_CANCELED);
    ck_assert_double_eq_tol(served[1], 64, 1e-9); /* one step's rows */
    close_rig();
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("scheduler");
    TCase *t = tcase_create("rounds");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, beside_64_streams_a_quiet_one_has_its_first_token_at_once_and_a_row_in_every_step);
    tcase_add_test(t, a_queue_of_hundreds_of_another_does_not_delay_a_quiet_one);
    tcase_add_test(t, pages_that_a_flood_holds_are_given_back_for_a_quiet_one);
    tcase_add_test(t, prompts_that_come_at_once_are_spread_over_steps_in_which_others_decode);
    tcase_add_test(t, a_flood_that_comes_and_goes_makes_no_step_beside_a_quiet_one_an_eighth_longer);
    tcase_add_test(t, a_tenant_that_was_left_alone_fills_its_steps_again);
    tcase_add_test(t, prompts_that_come_at_once_fill_the_steps_when_nobody_else_decodes);
    tcase_add_test(t, saturating_tenants_of_equal_weight_get_equal_shares_whatever_their_streams_and_lengths);
    tcase_add_test(t, saturating_tenants_of_weights_2_and_1_get_2_to_1);
    tcase_add_test(t, tenants_whose_prompts_fill_every_step_share_them_by_weight);
    tcase_add_test(t, who_gave_way_goes_on_with_the_same_tokens);
    tcase_add_test(t, one_tenant_alone_is_served_in_the_order_of_arrival);
    tcase_add_test(t, one_tenant_alone_with_too_few_pages_finishes_everything);
    tcase_add_test(t, four_tenants_with_too_few_pages_finish_everything);
    tcase_add_test(t, interactive_requests_do_not_wait_for_running_batch);
    tcase_add_test(t, a_deadline_that_is_over_before_it_began_ends_the_request_and_one_that_holds_does_not);
    tcase_add_test(t, a_tenant_pays_for_what_was_computed_and_less_for_what_was_cached);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
