/* SPDX-License-Identifier: MIT */
/* How many cores this process may keep busy: its affinity, the machine's topology, its cgroups' quotas; and how much memory
 * it may still take. Any thread. A file that is missing or odd limits nothing: the answer is a default that the
 * operator can override, so no error can come out of here. */
#include <ctype.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/mem.h"
#include "core/base/team.h"

#define MAX_CPUS 8192 /* what a Linux kernel can be built for */

/* One line of a small file, without its newline; false when there is none. */
static bool read_line(char *line, size_t size, const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f) return false;
    bool got = fgets(line, (int)size, f) != NULL;
    fclose(f);
    if (got) line[strcspn(line, "\n")] = '\0';
    return got;
}

/* True when a CPU below `cpu` that we may run on shares its core. The list reads "0,64" or "0-1". */
static bool has_lower_sibling(const char *list, int cpu, const cpu_set_t *set, size_t set_bytes)
{
    while (*list) {
        char *rest;
        long first = strtol(list, &rest, 10);
        if (rest == list) return false;
        long last = first;
        if (*rest == '-') last = strtol(rest + 1, &rest, 10);
        for (long c = first < 0 ? 0 : first; c <= last && c < cpu; c++)
            if (CPU_ISSET_S((size_t)c, set_bytes, set)) return true;
        if (*rest != ',') return false;
        list = rest + 1;
    }
    return false;
}

static int count_cores(const char *root, const cpu_set_t *set, size_t set_bytes)
{
    int n = 0;
    for (int cpu = 0; cpu < MAX_CPUS; cpu++) {
        if (!CPU_ISSET_S((size_t)cpu, set_bytes, set)) continue;
        char path[512], list[1024];
        snprintf(path, sizeof path, "%s/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", root, cpu);
        if (!read_line(list, sizeof list, path) || !has_lower_sibling(list, cpu, set, set_bytes)) n++;
    }
    return n;
}

/* ---- cgroups ---- */

/* What one controller allows in a group's directory, at most `limit`, which it is when the group sets none. */
typedef size_t (*limit_in)(const char *dir, size_t limit);
typedef struct {
    const char *v1_name;
    limit_in v2, v1;
} controller;

/* The smallest limit of the group and all above it. Inside a container the path may name directories that only
 * the host has; walking up ends at the mount, which then is the container's own group. */
static size_t limit_upwards(const char *mount, const char *group, size_t limit, limit_in limit_of)
{
    char dir[4096];
    int len = snprintf(dir, sizeof dir, "%s%s", mount, group);
    if (len < 0 || (size_t)len >= sizeof dir) return limit;
    size_t base = strlen(mount);
    for (;;) {
        limit = limit_of(dir, limit);
        char *slash = strrchr(dir + base, '/');
        if (!slash) return limit;
        *slash = '\0';
    }
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p += n)
        if ((p == list || p[-1] == ',') && (p[n] == ',' || !p[n])) return true;
    return false;
}

/* Lines of /proc/self/cgroup: "0::/group" (version 2) and "4:cpu,cpuacct:/group" (version 1). */
static size_t limit_by_cgroups(const char *root, size_t limit, const controller *c)
{
    char path[512], line[4096];
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *f = fopen(path, "re");
    if (!f) return limit;
    while (fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *names = strchr(line, ':');
        char *group = names ? strchr(names + 1, ':') : NULL;
        if (!group) continue;
        *names++ = *group++ = '\0';
        char mount[512];
        if (!*names) {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
            limit = limit_upwards(mount, group, limit, c->v2);
        } else if (has_word(names, c->v1_name)) {
            snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, c->v1_name);
            limit = limit_upwards(mount, group, limit, c->v1);
        }
    }
    fclose(f);
    return limit;
}

/* ---- CPUs ---- */

/* Whole CPUs of a quota, at least 1; `limit` when there is none. A fraction is dropped: a team that is
 * throttled in the middle of a step waits for its slowest member. */
static size_t quota_cpus(double quota, double period, size_t limit)
{
    if (!(quota > 0 && period > 0)) return limit;
    double cpus = quota / period;
    return cpus < 1 ? 1 : cpus < (double)limit ? (size_t)cpus : limit;
}

static size_t cpus_v2(const char *dir, size_t limit)
{
    char path[4352], line[128];
    double quota, period;
    snprintf(path, sizeof path, "%s/cpu.max", dir);
    if (!read_line(line, sizeof line, path) || sscanf(line, "%lf %lf", &quota, &period) != 2) return limit;
    return quota_cpus(quota, period, limit);
}

static size_t cpus_v1(const char *dir, size_t limit)
{
    char path[4352], quota[64], period[64];
    snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", dir);
    if (!read_line(quota, sizeof quota, path)) return limit;
    snprintf(path, sizeof path, "%s/cpu.cfs_period_us", dir);
    if (!read_line(period, sizeof period, path)) return limit;
    return quota_cpus(atof(quota), atof(period), limit);
}

static const controller cpu_controller = {"cpu", cpus_v2, cpus_v1};

/* The CPUs we may run on; NULL when the kernel does not say. Owned: CPU_FREE. */
static cpu_set_t *allowed_cpus(size_t *set_bytes)
{
    cpu_set_t *set = CPU_ALLOC(MAX_CPUS);
    *set_bytes = CPU_ALLOC_SIZE(MAX_CPUS);
    if (!set) return NULL;
    CPU_ZERO_S(*set_bytes, set);
    if (sched_getaffinity(0, *set_bytes, set) == 0 && CPU_COUNT_S(*set_bytes, set) > 0) return set;
    CPU_FREE(set);
    return NULL;
}

int ad_usable_cores_in(const char *root)
{
    size_t set_bytes;
    cpu_set_t *set = allowed_cpus(&set_bytes);
    if (!set) return 1;
    int n = (int)limit_by_cgroups(root, (size_t)count_cores(root, set, set_bytes), &cpu_controller);
    CPU_FREE(set);
    return n;
}

int ad_usable_cores(void)
{
    return ad_usable_cores_in("");
}

int ad_usable_cpus(void)
{
    size_t set_bytes;
    cpu_set_t *set = allowed_cpus(&set_bytes);
    if (!set) return 1;
    int n = (int)limit_by_cgroups("", (size_t)CPU_COUNT_S(set_bytes, set), &cpu_controller);
    CPU_FREE(set);
    return n;
}

void ad_leave_cpu(int cpu)
{
    size_t set_bytes;
    cpu_set_t *set = allowed_cpus(&set_bytes);
    if (set && CPU_ISSET_S((size_t)cpu, set_bytes, set)) {
        CPU_CLR_S((size_t)cpu, set_bytes, set);
        int rc = sched_setaffinity(0, set_bytes, set); /* none is left, or it is forbidden: it stays */
        CPU_SET_S((size_t)cpu, set_bytes, set);
        if (rc == 0) (void)sched_setaffinity(0, set_bytes, set);
    }
    CPU_FREE(set);
}

/* ---- memory ---- */

static bool read_bytes(const char *dir, const char *file, size_t *out)
{
    char path[4352], line[64];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    if (!read_line(line, sizeof line, path) || !isdigit((unsigned char)*line)) return false; /* "max" */
    *out = (size_t)strtoull(line, NULL, 10);
    return true;
}

/* The sum of the lines "NAME BYTES" or "NAME: KILOBYTES kB" of a file that have one of two names; false when none has. */
static bool sum_lines(const char *path, const char *a, const char *b, size_t *out)
{
    char line[256], name[64], unit[8] = "";
    unsigned long long n;
    bool found = false;
    FILE *f = fopen(path, "re");
    if (!f) return false;
    *out = 0;
    while (fgets(line, sizeof line, f)) {
        *unit = '\0';
        if (sscanf(line, "%63s %llu %7s", name, &n, unit) < 2 || (strcmp(name, a) && strcmp(name, b))) continue;
        *out += (size_t)n << (strcmp(unit, "kB") ? 0 : 10);
        found = true;
    }
    fclose(f);
    return found;
}

/* Pages of files count as used and yet go when others need the room. */
static size_t room_in(const char *dir, size_t limit, const char *max_file, const char *used_file, const char *inactive, const char *active)
{
    size_t max, used, cached = 0;
    char path[4352];
    if (!read_bytes(dir, max_file, &max) || !read_bytes(dir, used_file, &used)) return limit;
    snprintf(path, sizeof path, "%s/memory.stat", dir);
    if (!sum_lines(path, inactive, active, &cached)) cached = 0;
    used -= cached < used ? cached : used;
    size_t room = used < max ? max - used : 0;
    return room < limit ? room : limit;
}

static size_t room_v2(const char *dir, size_t limit)
{
    return room_in(dir, limit, "memory.max", "memory.current", "inactive_file", "active_file");
}

static size_t room_v1(const char *dir, size_t limit)
{
    return room_in(dir, limit, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file");
}

size_t ad_free_memory_in(const char *root)
{
    static const controller memory = {"memory", room_v2, room_v1};
    char path[512];
    size_t available;
    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    if (!sum_lines(path, "MemAvailable:", "", &available)) available = (size_t)sysconf(_SC_AVPHYS_PAGES) * (size_t)sysconf(_SC_PAGESIZE);
    return limit_by_cgroups(root, available, &memory);
}

size_t ad_free_memory(void)
{
    return ad_free_memory_in("");
}
