/* SPDX-License-Identifier: MIT */
/* Tokenizers where memory can't be made executable (systemd's MemoryDenyWriteExecute=, SELinux's execmem): PCRE2's
 * compiler has nowhere to put its code, and its interpreter must say the same. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <errno.h>
#include <jansson.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "core/text/text.h"

enum { MAX_RESULTS = 1024 };

typedef struct {
    int status;
    size_t count;
    uint64_t hash; /* of the ids */
} result;

typedef struct {
    int n, n_jit, n_patterns;
    result of[MAX_RESULTS];
} results;

/* From here on this process gets no executable memory; false where the kernel has no seccomp. */
static bool deny_executable_memory(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mmap, 2, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mprotect, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pkey_mprotect, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])), /* the low half, where bytes are in that order */
        BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, PROT_EXEC, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog prog = {sizeof code / sizeof *code, code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0;
}

static result encode(const ad_tokenizer *tk, const char *text, size_t len)
{
    ad_ids ids = {0};
    ad_err err;
    result r = {.hash = 14695981039346656037u};
    r.status = ad_tokenizer_encode(tk, text, len, AD_ENCODE_ADD_SPECIAL | AD_ENCODE_PARSE_SPECIAL, &ids, &err);
    r.count = ids.count;
    for (size_t i = 0; i < ids.count; i++) r.hash = (r.hash ^ (uint32_t)ids.ids[i]) * 1099511628211u;
    free(ids.ids);
    return r;
}

static void add(results *all, const ad_tokenizer *tk, const char *text, size_t len)
{
    if (all->n < MAX_RESULTS) all->of[all->n++] = encode(tk, text, len);
}

static void add_repeated(results *all, const ad_tokenizer *tk, const char *what, size_t times)
{
    size_t len = strlen(what) * times;
    char *text = malloc(len + 1), *end = text;
    for (size_t i = 0; text && i < times; i++) end = stpcpy(end, what);
    if (text) add(all, tk, text, len);
    free(text);
}

static void count_patterns(results *all, const ad_tokenizer *tk)
{
    for (int i = 0; i < tk->n_steps; i++) {
        size_t size = 0;
        if (!tk->steps[i].re) continue;
        pcre2_pattern_info(tk->steps[i].re, PCRE2_INFO_JITSIZE, &size);
        all->n_patterns++;
        all->n_jit += size > 0;
    }
}

/* Every golden text and some long ones, by every tokenizer. */
static void run_all(results *all)
{
    static const char *const names[] = {"gpt-2", "llama-bpe", "qwen2", "smollm", "spm"};
    static const char *const long_ones[] = {" ", "a", " a", "\n", " \n\t", "7", "'s", "Ünï", "\xe4\xb8\xad", "!?", "e\xcc\x81 ", "don't "};
    memset(all, 0, sizeof *all);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[100];
        ad_err err;
        ad_tokenizer *tk = NULL;
        snprintf(path, sizeof path, "tokenizers/%s", names[i]);
        if (ad_tokenizer_from_dir(&tk, golden_path(path), &err) != AD_OK) continue;
        count_patterns(all, tk);
        strcat(path, "/cases.json");
        json_t *root = json_load_file(golden_path(path), JSON_ALLOW_NUL, NULL), *cases = json_is_array(root) ? root : json_object_get(root, "cases"), *c;
        size_t k;
        json_array_foreach(cases, k, c) {
            const json_t *text = json_object_get(c, "text");
            if (text) add(all, tk, json_string_value(text), json_string_length(text));
        }
        json_decref(root);
        for (size_t l = 0; l < sizeof long_ones / sizeof *long_ones; l++) add_repeated(all, tk, long_ones[l], 20000);
        ad_tokenizer_free(&tk);
    }
}

/* Runs `what` in a process without executable memory; false when there is no such process. */
static bool run_confined(void (*what)(results *all), results *out)
{
    int pipe_of[2], status;
    ck_assert_int_eq(pipe(pipe_of), 0);
    pid_t child = fork();
    ck_assert_int_ge(child, 0);
    if (child == 0) {
        static results all;
        if (!deny_executable_memory()) _exit(2);
        if (mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED) _exit(3);
        what(&all);
        FILE *f = fdopen(pipe_of[1], "w");
        _exit(f && fwrite(&all, sizeof all, 1, f) == 1 && fflush(f) == 0 ? 0 : 4);
    }
    close(pipe_of[1]);
    FILE *f = fdopen(pipe_of[0], "r");
    bool whole = fread(out, sizeof *out, 1, f) == 1;
    fclose(f);
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFEXITED(status));
    if (WEXITSTATUS(status) == 2) return false;
    ck_assert_int_eq(WEXITSTATUS(status), 0);
    ck_assert(whole);
    return true;
}

static void expect_same(const results *with, const results *without)
{
    ck_assert_int_eq(with->n, without->n);
    for (int i = 0; i < with->n; i++) {
        ck_assert_int_eq(with->of[i].status, without->of[i].status);
        ck_assert_uint_eq(with->of[i].count, without->of[i].count);
        ck_assert_uint_eq(with->of[i].hash, without->of[i].hash);
    }
}

static void skip(const char *why)
{
    fprintf(stderr, "skipped: %s\n", why);
}

START_TEST(tokens_are_the_same_without_executable_memory)
{
    static results with, without;
    uint32_t jit = 0;
    pcre2_config(PCRE2_CONFIG_JIT, &jit);
    if (!run_confined(run_all, &without)) { /* first: no executable memory is left over from here */
        skip("this kernel has no seccomp");
        return;
    }
    run_all(&with);
    ck_assert_int_gt(with.n, 250);
    ck_assert_int_gt(with.n_patterns, 0);
    ck_assert_int_eq(with.n_jit, jit ? with.n_patterns : 0);
    ck_assert_int_eq(without.n_patterns, with.n_patterns);
    ck_assert_int_eq(without.n_jit, 0);
    expect_same(&with, &without);
}
END_TEST

/* Its time doubles with every letter; the limits of the match end it. */
static void run_hostile(results *all)
{
    static const char json[] = "{\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2},\"merges\":[]},\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":["
                               "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(?:a|a?)+c\\\\z\"},\"behavior\":\"Isolated\",\"invert\":false},"
                               "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}";
    ad_err err;
    ad_tokenizer *tk = NULL;
    memset(all, 0, sizeof *all);
    if (ad_tokenizer_from_json(&tk, json, strlen(json), "hostile", &err) != AD_OK) return;
    count_patterns(all, tk);
    add(all, tk, "aaaab", 5);
    add(all, tk, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaacb", 58);
    ad_tokenizer_free(&tk);
}

START_TEST(a_hostile_pattern_ends_with_an_error_without_executable_memory)
{
    static results with, without;
    if (!run_confined(run_hostile, &without)) {
        skip("this kernel has no seccomp");
        return;
    }
    run_hostile(&with);
    ck_assert_int_eq(with.n, 2);
    ck_assert_int_eq(with.of[0].status, AD_OK);
    ck_assert_int_eq(with.of[1].status, AD_EINVAL);
    expect_same(&with, &without);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("no_jit");
    TCase *t = tcase_create("no_jit");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, tokens_are_the_same_without_executable_memory);
    tcase_add_test(t, a_hostile_pattern_ends_with_an_error_without_executable_memory);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
