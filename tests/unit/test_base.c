/* SPDX-License-Identifier: MIT */
/* Errors, memory, files, the worker team and how many cores it gets. */
#include <check.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/team.h"
#include "tests/unit/suite.h"

START_TEST(a_failure_returns_its_code_and_cuts_long_messages)
{
    char longer[2000];
    ad_err err;
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    ck_assert_int_eq(ad_fail(&err, AD_EINVAL, "%s", longer), AD_EINVAL);
    ck_assert_uint_eq(strlen(err.msg), sizeof err.msg - 1);
    ck_assert_int_eq(ad_fail(NULL, AD_EIO, "nobody listens"), AD_EIO);
    for (int i = 0; i < AD_STATUS_COUNT; i++) ck_assert_uint_gt(strlen(ad_status_name((ad_status)i)), 1);
}
END_TEST

START_TEST(sizes_that_overflow_are_refused)
{
    size_t n;
    ck_assert(ad_mul_size(3, 4, &n) && n == 12);
    ck_assert(!ad_mul_size(SIZE_MAX / 2, 3, &n));
    ck_assert_ptr_null(ad_calloc(SIZE_MAX / 2, 3));
    int *p = NULL;
    size_t cap = 0;
    ck_assert_int_ne(ad_grow(&p, &cap, SIZE_MAX / 2, sizeof *p), AD_OK);
    ck_assert_int_eq(ad_grow(&p, &cap, 10, sizeof *p), AD_OK);
    ck_assert_uint_ge(cap, 10);
    free(p);
}
END_TEST

START_TEST(a_buffer_is_always_terminated_and_remembers_a_failure)
{
    ad_buf b = {0};
    ad_buf_puts(&b, "abc");
    ad_buf_printf(&b, "%d-%s", 42, "x");
    ck_assert_str_eq(b.data, "abc42-x");
    ck_assert_uint_eq(b.len, 7);
    ad_buf_append(&b, "", SIZE_MAX / 2);
    ck_assert(b.failed && b.len == 7);
    ad_buf_puts(&b, "more");
    ck_assert_str_eq(b.data, "abc42-x");
    ad_buf_clear(&b);
    ad_buf_puts(&b, "new");
    ck_assert(!b.failed && !strcmp(b.data, "new"));
    ad_buf_deinit(&b);
}
END_TEST

START_TEST(files_are_read_mapped_or_refused_by_name)
{
    char path[] = "/tmp/ad-base-XXXXXX";
    int fd = mkstemp(path);
    ad_file f = {0};
    ad_err err;
    ck_assert_int_eq(write(fd, "hello", 5), 5);
    close(fd);
    ck_assert(ad_file_read(&f, path, 100, &err) == AD_OK && f.len == 5 && !memcmp(f.data, "hello", 6));
    ad_file_close(&f);
    ck_assert(ad_file_map(&f, path, &err) == AD_OK && f.len == 5 && !memcmp(f.data, "hello", 5));
    ad_file_close(&f);
    ck_assert_int_eq(ad_file_read(&f, path, 4, &err), AD_ELIMIT);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(truncate(path, 0), 0);
    ck_assert(ad_file_map(&f, path, &err) == AD_OK && f.len == 0);
    ad_file_close(&f);
    unlink(path);
    ck_assert_int_eq(ad_file_map(&f, path, &err), AD_ENOTFOUND);
    ck_assert_ptr_nonnull(strstr(err.msg, path));
    ck_assert_int_eq(ad_file_read(&f, "/tmp", 100, &err), AD_EIO);
    ck_assert_int_eq(ad_file_read(&f, "/dev/null", 100, &err), AD_EIO);
}
END_TEST

/* ---- team ---- */

enum { PHASES = 50, RUNS = 200 };

typedef struct {
    ad_team *team;
    atomic_int arrived[PHASES];
    atomic_int members, early;
} job;

static void count_phases(void *arg, int index, int count)
{
    job *j = arg;
    atomic_fetch_add(&j->members, 1 << (8 * (index % 4)));
    for (int p = 0; p < PHASES; p++) {
        atomic_fetch_add(&j->arrived[p], 1);
        ad_team_barrier(j->team);
        if (atomic_load(&j->arrived[p]) != count) atomic_fetch_add(&j->early, 1);
    }
}

START_TEST(nobody_passes_a_barrier_before_everybody_arrived)
{
    for (int threads = 1; threads <= 5; threads++) {
        ad_err err;
        job j = {0};
        ck_assert_int_eq(ad_team_new(&j.team, threads, &err), AD_OK);
        ck_assert_int_eq(ad_team_size(j.team), threads);
        for (int r = 0; r < RUNS / threads; r++) {
            for (int p = 0; p < PHASES; p++) atomic_store(&j.arrived[p], 0);
            atomic_store(&j.members, 0);
            ad_team_run(j.team, count_phases, &j);
            int seen = atomic_load(&j.members), total = (seen & 255) + (seen >> 8 & 255) + (seen >> 16 & 255) + (seen >> 24 & 255);
            ck_assert_int_eq(total, threads);
        }
        ck_assert_int_eq(atomic_load(&j.early), 0);
        ad_team_free(&j.team);
        ck_assert_ptr_null(j.team);
    }
}
END_TEST

/* Of this thread: the first n it may use. How many these are. */
static int keep_cpus(int n, cpu_set_t *set)
{
    int kept = 0;
    ck_assert_int_eq(sched_getaffinity(0, sizeof *set, set), 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, set) && kept++ >= n) CPU_CLR(cpu, set);
    ck_assert_int_eq(sched_setaffinity(0, sizeof *set, set), 0);
    return CPU_COUNT(set);
}

START_TEST(a_thread_leaves_a_cpu_for_another_that_it_may_use_and_keeps_its_choice)
{
    cpu_set_t all, before, after;
    ck_assert_int_eq(sched_getaffinity(0, sizeof all, &all), 0);
    int cpus = keep_cpus(2, &before), left = 0;
    for (int i = 0; i < 100; i++) { /* the kernel may bring it back at once */
        int cpu = sched_getcpu();
        ad_leave_cpu(cpu);
        left += sched_getcpu() != cpu;
    }
    ck_assert(cpus == 1 ? left == 0 : left > 50);
    ck_assert_int_eq(sched_getaffinity(0, sizeof after, &after), 0);
    ck_assert(CPU_EQUAL(&before, &after));
    ad_leave_cpu(-1); /* as of a kernel that does not know */
    ck_assert_int_eq(keep_cpus(1, &before), 1);
    ad_leave_cpu(sched_getcpu());
    ck_assert_int_eq(sched_getaffinity(0, sizeof after, &after), 0);
    ck_assert(CPU_EQUAL(&before, &after));
    ck_assert_int_eq(sched_setaffinity(0, sizeof all, &all), 0);
}
END_TEST

START_TEST(slices_cover_everything_once_at_multiples_of_the_grain)
{
    for (int n = 0; n < 200; n += 7)
        for (int grain = 1; grain <= 16; grain += 5)
            for (int count = 1; count < 9; count++) {
                int at = 0;
                for (int i = 0; i < count; i++) {
                    int begin, end;
                    ad_team_slice(n, grain, i, count, &begin, &end);
                    ck_assert_int_eq(begin, at);
                    ck_assert_int_ge(end, begin);
                    ck_assert(end == n || end % grain == 0);
                    at = end;
                }
                ck_assert_int_eq(at, n);
            }
}
END_TEST

START_TEST(a_team_of_nobody_is_refused)
{
    ad_err err;
    ad_team *t = NULL;
    ck_assert_int_eq(ad_team_new(&t, 0, &err), AD_EINVAL);
    ad_team_free(&t);
}
END_TEST

/* ---- cores ---- */

static char root[] = "/tmp/ad-cores-XXXXXX";

static void put(const char *name, const char *text)
{
    char path[512], command[600];
    snprintf(path, sizeof path, "%s/%s", root, name);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname %s)\"", path);
    ck_assert_int_eq(system(command), 0);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

START_TEST(cores_respect_quotas_and_hyperthreads)
{
    strcpy(root, "/tmp/ad-cores-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    int all = ad_usable_cores_in(root); /* nothing is known but the affinity */
    ck_assert_int_ge(all, 1);
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/cpu.max", "150000 100000\n");
    ck_assert_int_eq(ad_usable_cores_in(root), 1);
    put("sys/fs/cgroup/a/cpu.max", "max 100000\n");
    ck_assert_int_eq(ad_usable_cores_in(root), all);
    put("sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    ck_assert_int_eq(ad_usable_cores_in(root), 1);
    put("proc/self/cgroup", "5:cpuacct,cpu:/x\n");
    put("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", "100000\n");
    put("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "100000\n");
    ck_assert_int_eq(ad_usable_cores_in(root), 1);
    put("proc/self/cgroup", "nonsense\n::\n");
    ck_assert_int_eq(ad_usable_cores_in(root), all);
    for (int cpu = 0; cpu < 64; cpu++) { /* all threads of one core */
        char name[100];
        snprintf(name, sizeof name, "sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
        put(name, "0-63\n");
    }
    if (ad_usable_cpus() <= 64) ck_assert_int_eq(ad_usable_cores_in(root), 1);
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

START_TEST(free_memory_is_what_the_machine_and_all_groups_leave)
{
    const size_t MiB = 1u << 20;
    strcpy(root, "/tmp/ad-cores-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(root));
    ck_assert_uint_gt(ad_free_memory_in(root), 0); /* nothing is known but what sysconf says */
    put("proc/meminfo", "MemTotal:  9999999 kB\nMemFree: 10 kB\nMemAvailable:    1048576 kB\n");
    ck_assert_uint_eq(ad_free_memory_in(root), 1024 * MiB);
    put("proc/self/cgroup", "0::/a/b\n");
    put("sys/fs/cgroup/a/b/memory.max", "max\n");
    put("sys/fs/cgroup/a/b/memory.current", "104857600\n");
    put("sys/fs/cgroup/a/memory.max", "536870912\n");
    put("sys/fs/cgroup/a/memory.current", "209715200\n");
    ck_assert_uint_eq(ad_free_memory_in(root), (512 - 200) * MiB);
    put("sys/fs/cgroup/a/memory.stat", "anon 1\ninactive_file 52428800\nactive_file 52428800\ninactive_anon 7\n"); /* of files, which may go */
    ck_assert_uint_eq(ad_free_memory_in(root), (512 - 100) * MiB);
    put("sys/fs/cgroup/a/b/memory.max", "52428800\n"); /* lowered below what is used */
    ck_assert_uint_eq(ad_free_memory_in(root), 0);
    put("proc/self/cgroup", "3:cpu:/x\n4:memory:/x\n");
    put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "314572800\n");
    put("sys/fs/cgroup/memory/x/memory.usage_in_bytes", "209715200\n");
    put("sys/fs/cgroup/memory/x/memory.stat", "inactive_file 1\ntotal_inactive_file 104857600\ntotal_active_file 0\n");
    ck_assert_uint_eq(ad_free_memory_in(root), 200 * MiB);
    put("sys/fs/cgroup/memory/x/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    ck_assert_uint_eq(ad_free_memory_in(root), 1024 * MiB);
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", root);
    ck_assert_int_eq(system(command), 0);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("base");
    TCase *t = tcase_create("base");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, a_failure_returns_its_code_and_cuts_long_messages);
    tcase_add_test(t, sizes_that_overflow_are_refused);
    tcase_add_test(t, a_buffer_is_always_terminated_and_remembers_a_failure);
    tcase_add_test(t, files_are_read_mapped_or_refused_by_name);
    tcase_add_test(t, nobody_passes_a_barrier_before_everybody_arrived);
    tcase_add_test(t, a_thread_leaves_a_cpu_for_another_that_it_may_use_and_keeps_its_choice);
    tcase_add_test(t, slices_cover_everything_once_at_multiples_of_the_grain);
    tcase_add_test(t, a_team_of_nobody_is_refused);
    tcase_add_test(t, cores_respect_quotas_and_hyperthreads);
    tcase_add_test(t, free_memory_is_what_the_machine_and_all_groups_leave);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
