/* SPDX-License-Identifier: MIT */
/* GGUF LoRA files: those we write say what the PEFT directory said, and come back as they went; those of strangers are read by
 * llama.cpp's rules. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <string.h>

#include "adapters/gguf_lora.h"
#include "adapters/peft_write.h"
#include "core/formats/gguf.h"

static float value(const ad_tensor *t, int row, int col)
{
    float v;
    memcpy(&v, (const char *)t->data + 4 * ((size_t)row * (size_t)t->dims[1] + (size_t)col), sizeof v);
    return v;
}

/* scale * (B A) of a module at one place, by the file and by the packed adapter. */
static double product_in_file(const ad_tensor *a, const ad_tensor *b, double alpha, int out, int in)
{
    double sum = 0;
    for (int r = 0; r < a->dims[0]; r++) sum += (double)value(b, out, r) * (double)value(a, r, in);
    return sum * alpha / (double)a->dims[0];
}

static double product_packed(const ad_model *m, const ad_lowrank_set *set, int module, int out, int in)
{
    const ad_lowrank *low = &set->modules[module];
    double sum = 0;
    for (int r = 0; r < low->rank; r++) {
        float x, y;
        ad_matrix_read(&set->a[ad_model_group_of(m, module)], low->at + r, in, in + 1, &x);
        ad_matrix_read(&low->b, out, r, r + 1, &y);
        sum += (double)x * (double)y;
    }
    return sum * (double)low->scale;
}

static void check(const char *name)
{
    char dir[64], path[] = "/tmp/ad-lora-XXXXXX";
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *a = NULL;
    ad_gguf *g = NULL;
    ad_err err;
    double alpha = 0;
    int fd = mkstemp(path), pairs = 0, hd = ad_model_get_config(m)->head_dim;
    ck_assert_int_ge(fd, 0);
    close(fd);
    snprintf(dir, sizeof dir, "adapters/%s", name);
    ck_assert_msg(ad_adapter_load(&a, name, golden_path(dir), m, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_gguf_lora_write(a, m, path, &err) == AD_OK, "%s", err.msg);
    ck_assert_msg(ad_gguf_open(&g, path, &err) == AD_OK, "%s", err.msg);
    ck_assert(ad_gguf_float(g, "adapter.lora.alpha", &alpha));
    for (int i = 0; i < ad_model_module_count(m); i++) {
        const ad_module *mod = ad_model_module(m, i);
        char part[80];
        int n = ad_model_gguf_name(m, i, part, sizeof part);
        if (!ad_adapter_lowrank(a)->modules[i].rank) continue;
        snprintf(part + n, sizeof part - (size_t)n, ".lora_a");
        const ad_tensor *ta = ad_gguf_tensor(g, part);
        snprintf(part + n, sizeof part - (size_t)n, ".lora_b");
        const ad_tensor *tb = ad_gguf_tensor(g, part);
        ck_assert_msg(ta && tb && ta->dims[1] == mod->in && tb->dims[0] == mod->out && ta->dims[0] == tb->dims[1], "%s", part);
        for (int out = 0; out < mod->out; out += 7) {
            /* Hugging Face row c * hd / 2 + i of a q or k head stands at 2 i + c. */
            int in_head = out % hd, row = mod->kind <= AD_MOD_K ? out - in_head + 2 * (in_head % (hd / 2)) + in_head / (hd / 2) : out;
            double want = product_packed(m, ad_adapter_lowrank(a), i, out, out % mod->in), got = product_in_file(ta, tb, alpha, row, out % mod->in);
            ck_assert_msg(fabs(want - got) <= 1e-6 * (1 + fabs(want)), "%s row %d: %g not %g", part, out, got, want);
        }
        pairs++;
    }
    ck_assert_uint_eq(ad_gguf_tensor_count(g), 2 * (size_t)pairs);
    ck_assert_int_eq(pairs, ad_adapter_matched_modules(a));
    unlink(path);
    ad_gguf_close(&g);
    ad_adapter_release(&a);
    ad_model_free(&m);
}

START_TEST(a_converted_adapter_has_the_same_products)
{
    check("qv");
    check("all");
}
END_TEST

START_TEST(ranks_and_scales_that_differ_between_modules_are_kept)
{
    check("patterns");
    check("rslora");
}
END_TEST

/* ---- there and back ---- */

static char dir[] = "/tmp/ad-lora-XXXXXX";

static void make_dir(void)
{
    strcpy(dir, "/tmp/ad-lora-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
}

static const char *in_dir(const char *name)
{
    static char path[2][256];
    static int turn;
    char *p = path[turn++ % 2];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static void remove_dir(void)
{
    unlink(in_dir("adapter_config.json"));
    unlink(in_dir("adapter_model.safetensors"));
    unlink(in_dir("adapter.gguf"));
    ck_assert_int_eq(rmdir(dir), 0); /* and no half-written file is left */
}

static ad_adapter *load_from(const ad_model *m, const char *path)
{
    ad_adapter *a = NULL;
    ad_err err;
    ck_assert_msg(ad_adapter_load(&a, "x", path, m, &err) == AD_OK, "%s", err.msg);
    return a;
}

static ad_adapter *load_golden(const ad_model *m, const char *name)
{
    char rest[64];
    snprintf(rest, sizeof rest, "adapters/%s", name);
    return load_from(m, golden_path(rest));
}

static void same_values(const char *name, const ad_model *m, const ad_adapter *x, const ad_adapter *y)
{
    const ad_lowrank_set *s = ad_adapter_lowrank(x), *t = ad_adapter_lowrank(y);
    for (int i = 0; i < s->n_modules; i++) {
        const ad_lowrank *p = &s->modules[i], *q = &t->modules[i];
        const ad_module *mod = ad_model_module(m, i);
        ck_assert_msg(p->rank == q->rank && p->scale == q->scale, "%s: %s: rank %d, scale %.9g; now %d, %.9g", name, mod->name, p->rank, (double)p->scale, q->rank, (double)q->scale);
        if (p->rank) ck_assert_msg(!memcmp(p->b.data, q->b.data, ad_pack_bytes(s->type, mod->out, (p->rank + 1) / 2 * 2)), "%s: B of %s", name, mod->name);
    }
    for (int g = 0; g < ad_model_group_count(m); g++)
        if (s->a[g].rows) ck_assert_msg(!memcmp(s->a[g].data, t->a[g].data, ad_pack_bytes(s->type, s->a[g].rows, s->a[g].cols)), "%s: A of group %d", name, g);
}

START_TEST(values_and_scales_come_back_from_gguf_and_then_from_peft)
{
    static const char *const cases[][2] = {{"models/llama-gqa", "qv"}, {"models/llama-gqa", "all"}, {"models/llama-gqa", "embed"}, {"models/llama-gqa", "head"}, {"models/llama-gqa", "layers"},
                                           {"models/llama-gqa", "regex"}, {"models/llama-gqa", "exclude"}, {"models/llama-spm-mha", "spm-all"}, {"models/mistral-headdim", "mistral"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ad_err err;
        ad_model *m = golden_model(cases[i][0]);
        ad_adapter *first = load_golden(m, cases[i][1]);
        make_dir();
        ck_assert_msg(ad_gguf_lora_write(first, m, in_dir("adapter.gguf"), &err) == AD_OK, "%s", err.msg);
        ad_adapter *second = load_from(m, i % 2 ? dir : in_dir("adapter.gguf"));
        ck_assert_str_eq(ad_adapter_format(second), "gguf");
        ck_assert_str_eq(ad_adapter_base_name(second), ad_adapter_base_name(first));
        ck_assert_int_eq(ad_adapter_warning_count(second), 0);
        ck_assert_int_eq(ad_adapter_matched_modules(second), ad_adapter_matched_modules(first));
        same_values(cases[i][1], m, first, second);
        unlink(in_dir("adapter.gguf"));
        ck_assert_msg(ad_peft_write(second, m, dir, &err) == AD_OK, "%s", err.msg);
        ad_adapter *third = load_from(m, dir);
        ck_assert_int_eq(ad_adapter_warning_count(third), 0);
        same_values(cases[i][1], m, first, third);
        remove_dir();
        ad_adapter_release(&first), ad_adapter_release(&second), ad_adapter_release(&third);
        ad_model_free(&m);
    }
}
END_TEST

START_TEST(peft_directories_keep_ranks_and_alphas_that_differ)
{
    static const char *const names[] = {"patterns", "rslora"};
    ad_model *m = golden_model("models/llama-gqa");
    for (int i = 0; i < 2; i++) {
        ad_err err;
        ad_adapter *first = load_golden(m, names[i]);
        make_dir();
        ck_assert_msg(ad_peft_write(first, m, dir, &err) == AD_OK, "%s", err.msg);
        ad_adapter *second = load_from(m, dir);
        same_values(names[i], m, first, second);
        remove_dir();
        ad_adapter_release(&first), ad_adapter_release(&second);
    }
    ad_model_free(&m);
}
END_TEST

START_TEST(the_two_forms_have_digests_of_their_own)
{
    ad_err err;
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *first = load_golden(m, "head"); /* no rows are permuted: the same values in both */
    make_dir();
    ck_assert_msg(ad_gguf_lora_write(first, m, in_dir("adapter.gguf"), &err) == AD_OK, "%s", err.msg);
    ad_adapter *second = load_from(m, dir);
    ck_assert(memcmp(ad_adapter_digest(first), ad_adapter_digest(second), sizeof(ad_digest)) != 0);
    remove_dir();
    ad_adapter_release(&first), ad_adapter_release(&second);
    ad_model_free(&m);
}
END_TEST

static void write_file(const char *path, const void *head, size_t head_len, size_t zeros)
{
    FILE *f = fopen(path, "w");
    ck_assert(f && fwrite(head, 1, head_len, f) == head_len);
    while (zeros--) ck_assert_int_eq(putc(0, f), 0);
    ck_assert_int_eq(fclose(f), 0);
}

START_TEST(a_head_that_is_the_embedding_is_refused_and_leaves_no_file)
{
    static const char config[] = "{\"peft_type\":\"LORA\",\"r\":1,\"target_modules\":[\"lm_head\"]}";
    ad_model *m = golden_model("models/llama-tied-bf16");
    int in = ad_model_get_config(m)->hidden, out = ad_model_get_config(m)->vocab;
    ad_buf file = {0};
    uint64_t len = 0;
    ad_err err;
    make_dir();
    write_file(in_dir("adapter_config.json"), config, strlen(config), 0);
    ad_buf_append(&file, &len, 8);
    ad_buf_printf(&file, "{\"lm_head.lora_A.weight\":{\"dtype\":\"F32\",\"shape\":[1,%d],\"data_offsets\":[0,%d]},\"lm_head.lora_B.weight\":{\"dtype\":\"F32\",\"shape\":[%d,1],\"data_offsets\":[%d,%d]}}",
                  in, 4 * in, out, 4 * in, 4 * (in + out));
    len = file.len - 8;
    memcpy(file.data, &len, 8);
    write_file(in_dir("adapter_model.safetensors"), file.data, file.len, 4 * (size_t)(in + out));
    ad_adapter *a = load_from(m, dir);
    ck_assert_int_eq(ad_gguf_lora_write(a, m, in_dir("adapter.gguf"), &err), AD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "lm_head"));
    remove_dir();
    ad_buf_deinit(&file);
    ad_adapter_release(&a);
    ad_model_free(&m);
}
END_TEST

START_TEST(a_directory_that_cannot_be_written_is_an_error)
{
    ad_model *m = golden_model("models/llama-gqa");
    ad_adapter *a = load_golden(m, "qv");
    ad_err err;
    ck_assert_int_eq(ad_gguf_lora_write(a, m, "/nonexistent/x.gguf", &err), AD_EIO);
    ck_assert_int_eq(ad_peft_write(a, m, "/nonexistent/x", &err), AD_EIO);
    if (access("/dev/full", W_OK) == 0) ck_assert_int_eq(ad_peft_write(a, m, "/dev/null", &err), AD_EIO);
    ad_adapter_release(&a);
    ad_model_free(&m);
}
END_TEST

/* ---- files of strangers ---- */

typedef struct {
    const char *name;
    uint32_t type;            /* as ggml counts */
    uint64_t contiguous, rows; /* rows 0: one dimension */
    const void *data;
    size_t bytes;
} spec;

static const char *arch, *kind, *adapter_kind, *extra_key;
static const float *alpha;

static ad_model *base;

static void put_text(ad_buf *b, const char *s)
{
    uint64_t n = strlen(s);
    ad_buf_append(b, &n, 8);
    ad_buf_puts(b, s);
}

static void put_pair(ad_buf *b, const char *key, uint32_t type, const void *value, size_t len, uint64_t *count)
{
    put_text(b, key);
    ad_buf_append(b, &type, 4);
    if (type == AD_GGUF_STRING) put_text(b, value);
    else ad_buf_append(b, value, len);
    ++*count;
}

static void put_spec(ad_buf *b, const spec *s, uint64_t offset)
{
    uint32_t dims = s->rows ? 2 : 1;
    put_text(b, s->name);
    ad_buf_append(b, &dims, 4);
    ad_buf_append(b, &s->contiguous, 8);
    if (s->rows) ad_buf_append(b, &s->rows, 8);
    ad_buf_append(b, &s->type, 4);
    ad_buf_append(b, &offset, 8);
}

static void align(ad_buf *b)
{
    while (b->len % 32) ad_buf_append(b, "", 1);
}

static void write_gguf(const spec *specs, size_t n)
{
    ad_buf keys = {0}, infos = {0}, data = {0}, file = {0};
    uint64_t count = 0, n_tensors = n;
    uint32_t version = 3;
    if (kind) put_pair(&keys, "general.type", AD_GGUF_STRING, kind, 0, &count);
    if (arch) put_pair(&keys, "general.architecture", AD_GGUF_STRING, arch, 0, &count);
    if (adapter_kind) put_pair(&keys, "adapter.type", AD_GGUF_STRING, adapter_kind, 0, &count);
    if (alpha) put_pair(&keys, "adapter.lora.alpha", AD_GGUF_F32, alpha, 4, &count);
    if (extra_key) put_pair(&keys, extra_key, AD_GGUF_U32, "\1\0\0", 4, &count);
    for (const spec *s = specs; s < specs + n; s++) {
        put_spec(&infos, s, data.len);
        ad_buf_append(&data, s->data, s->bytes);
        align(&data);
    }
    ad_buf_append(&file, "GGUF", 4);
    ad_buf_append(&file, &version, 4);
    ad_buf_append(&file, &n_tensors, 8);
    ad_buf_append(&file, &count, 8);
    ad_buf_append(&file, keys.data, keys.len);
    if (infos.len) ad_buf_append(&file, infos.data, infos.len);
    align(&file);
    if (data.len) ad_buf_append(&file, data.data, data.len);
    FILE *f = fopen(in_dir("adapter.gguf"), "w");
    ck_assert(f && fwrite(file.data, 1, file.len, f) == file.len);
    fclose(f);
    ad_buf_deinit(&keys), ad_buf_deinit(&infos), ad_buf_deinit(&data), ad_buf_deinit(&file);
}

enum { MAX_RANK_HERE = 32, WIDE = 256 };
static float values_a[MAX_RANK_HERE * WIDE], values_b[WIDE * MAX_RANK_HERE];
static const float two = 2;

static void setup(void)
{
    base = golden_model("models/llama-gqa");
    make_dir();
    arch = "llama", kind = "adapter", adapter_kind = "lora", extra_key = NULL, alpha = &two;
    for (int i = 0; i < MAX_RANK_HERE * WIDE; i++) values_a[i] = ((float)(i % 7) - 3) / 256, values_b[i] = ((float)(i % 5) - 2) / 256;
}

static void teardown(void)
{
    remove_dir();
    ad_model_free(&base);
}

#define O0 "blk.0.attn_output.weight"
static const spec good_a = {O0 ".lora_a", 0, WIDE, 2, values_a, 2 * WIDE * 4}, good_b = {O0 ".lora_b", 0, 2, WIDE, values_b, 2 * WIDE * 4};

static void fails(ad_status want, const char *why)
{
    ad_err err = {0};
    ad_adapter *a = NULL;
    ad_status st = ad_adapter_load(&a, "probe", dir, base, &err);
    ck_assert_msg(st == want && !a && strstr(err.msg, why) && strstr(err.msg, "adapter.gguf"), "status %d, \"%s\" (wanted \"%s\")", (int)st, err.msg, why);
}

static ad_adapter *loads(int warnings)
{
    ad_adapter *a = load_from(base, dir);
    ck_assert_int_eq(ad_adapter_warning_count(a), warnings);
    return a;
}

static const ad_lowrank *lowrank_of(const ad_adapter *a, const char *module)
{
    return &ad_adapter_lowrank(a)->modules[ad_model_find_module(base, module)];
}

START_TEST(alpha_over_rank_scales_and_zero_or_none_does_not)
{
    static const float zero = 0, odd = 3;
    static const struct { const float *alpha; float scale; int warnings; } cases[] = {{&two, 1, 0}, {&odd, 1.5f, 0}, {&zero, 1, 0}, {NULL, 1, 1}};
    for (int i = 0; i < 4; i++) {
        alpha = cases[i].alpha;
        write_gguf((spec[]){good_a, good_b}, 2);
        ad_adapter *a = loads(cases[i].warnings);
        ck_assert_float_eq(lowrank_of(a, "model.layers.0.self_attn.o_proj")->scale, cases[i].scale);
        ad_adapter_release(&a);
    }
}
END_TEST

START_TEST(metadata_that_is_not_a_lora_s_is_refused_by_name)
{
    static const float nan_alpha = NAN;
    write_gguf((spec[]){good_a, good_b}, 2);
    arch = "qwen2", write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EMISMATCH, "qwen2"), arch = NULL;
    write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EFORMAT, "general.architecture"), arch = "llama";
    kind = "model", write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EUNSUPPORTED, "general.type"), kind = "adapter";
    adapter_kind = "ia3", write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EUNSUPPORTED, "adapter.type"), adapter_kind = NULL;
    write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EFORMAT, "adapter.type"), adapter_kind = "lora";
    extra_key = "adapter.alora.invocation_tokens", write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EUNSUPPORTED, "aLoRA");
    extra_key = "adapter.lora.rslora", write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EUNSUPPORTED, "adapter.lora.rslora");
    extra_key = "general.file_type", alpha = &nan_alpha, write_gguf((spec[]){good_a, good_b}, 2), fails(AD_EFORMAT, "alpha"), alpha = &two;
    write_gguf((spec[]){good_a, good_b}, 2);
    ad_adapter *a = loads(0);
    ad_adapter_release(&a);
}
END_TEST

START_TEST(every_tensor_must_be_half_of_a_pair_of_a_known_weight)
{
    static const struct { const char *name, *why; } cases[] = {
        {"blk.0.attn_output.weight.lora_c", "neither"}, {"blk.0.attn_output.weight", "neither"}, {"blk.9.attn_output.weight.lora_a", "no weight"}, {"blk.0.attn_x.weight.lora_a", "no weight"},
        {"blk.00.attn_q.weight.lora_a", "no weight"}, {"blk.0.attn_output.lora_a", "no weight"}, {"rope_freqs.weight.lora_a", "no weight"}, {".lora_a", "no weight"},
        {"blk.0.attn_v.weight.lora_a", "other half"}, {"output.weight.lora_b", "other half"}, {"blk.0.attn_norm.weight.lora_a", "no weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        spec extra = good_a;
        extra.name = cases[i].name;
        write_gguf((spec[]){good_a, good_b, extra}, 3);
        fails(AD_EMISMATCH, cases[i].why);
    }
    write_gguf(NULL, 0), fails(AD_EFORMAT, "no tensor");
}
END_TEST

START_TEST(norms_are_ignored_with_a_warning)
{
    spec norm = {"blk.0.attn_norm.weight", 0, WIDE, 0, values_a, WIDE * 4};
    write_gguf((spec[]){good_a, norm, good_b}, 3);
    ad_adapter *a = loads(1);
    ck_assert_ptr_nonnull(strstr(ad_adapter_warning(a, 0), "norms"));
    ck_assert_int_eq(ad_adapter_matched_tensors(a), 2);
    ad_adapter_release(&a);
    write_gguf(&norm, 1), fails(AD_EFORMAT, "no tensor");
}
END_TEST

START_TEST(shapes_ranks_types_and_values_are_checked)
{
    static float bad_values[2 * WIDE];
    spec a = good_a, b = good_b;
    a.rows = 1, a.bytes /= 2, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[1, 256]"), a = good_a;
    a.contiguous = 128, a.bytes /= 2, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[2, 128]"), a = good_a;
    b.rows = 128, b.bytes /= 2, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[128, 2]"), b = good_b;
    b.rows = 0, b.contiguous = 2, b.bytes = 8, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[1, 2]"), b = good_b;
    a.type = 26, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "no weights"), a = good_a; /* I32 */
    bad_values[511] = INFINITY, a.data = bad_values, write_gguf((spec[]){a, b}, 2), fails(AD_EMISMATCH, "not finite");
    b.contiguous = 0, b.bytes = 0, write_gguf((spec[]){good_a, b}, 2), fails(AD_EMISMATCH, "rank"), b = good_b;
}
END_TEST

START_TEST(a_leading_dimension_of_one_may_be_missing)
{
    spec a = good_a, b = good_b;
    a.rows = 0, a.bytes = WIDE * 4, b.contiguous = 1, b.bytes = WIDE * 4;
    write_gguf((spec[]){a, b}, 2);
    ad_adapter *x = loads(0);
    ck_assert_int_eq(lowrank_of(x, "model.layers.0.self_attn.o_proj")->rank, 1);
    ad_adapter_release(&x);
}
END_TEST

/* 32 values a block: half scale, int8 codes. */
static size_t as_q8_0(char *dst, const float *src, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t one = ad_f32_to_f16(1.0f / 256);
        if (i % 32 == 0) memcpy(dst + i / 32 * 34, &one, 2);
        dst[i / 32 * 34 + 2 + i % 32] = (char)lrintf(src[i] * 256);
    }
    return n / 32 * 34;
}

static size_t as_half(char *dst, const float *src, size_t n, uint32_t type)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h = type == 1 ? ad_f32_to_f16(src[i]) : ad_f32_to_bf16(src[i]);
        memcpy(dst + 2 * i, &h, 2);
    }
    return 2 * n;
}

/* q has its rows permuted, o has not; all values are exact in all of these types. */
START_TEST(all_types_of_weights_give_the_same_adapter)
{
    static const uint32_t types[] = {0, 1, 30, 8}; /* F32, F16, BF16, Q8_0 */
    static char bytes_a[MAX_RANK_HERE * WIDE * 4], bytes_b[MAX_RANK_HERE * WIDE * 4];
    ad_adapter *first = NULL;
    for (int i = 0; i < 4; i++) {
        size_t n = MAX_RANK_HERE * WIDE, used = n * 4;
        memcpy(bytes_a, values_a, n * 4), memcpy(bytes_b, values_b, n * 4);
        if (types[i] == 8) used = as_q8_0(bytes_a, values_a, n), as_q8_0(bytes_b, values_b, n);
        else if (types[i]) used = as_half(bytes_a, values_a, n, types[i]), as_half(bytes_b, values_b, n, types[i]);
        write_gguf((spec[]){{O0 ".lora_a", types[i], WIDE, 32, bytes_a, used}, {O0 ".lora_b", types[i], 32, WIDE, bytes_b, used},
                            {"blk.1.attn_q.weight.lora_a", types[i], WIDE, 32, bytes_a, used}, {"blk.1.attn_q.weight.lora_b", types[i], 32, WIDE, bytes_b, used}}, 4);
        ad_adapter *a = loads(0);
        if (first) same_values("types", base, first, a), ad_adapter_release(&a);
        else first = a;
    }
    float got[2];
    int hd = ad_model_get_config(base)->head_dim;
    ad_matrix_read(&lowrank_of(first, "model.layers.1.self_attn.q_proj")->b, hd + 3, 5, 6, got); /* pair 3, first half: row hd + 6 of the file */
    ad_matrix_read(&lowrank_of(first, "model.layers.1.self_attn.q_proj")->b, hd + hd / 2 + 3, 5, 6, got + 1); /* second half: row hd + 7 */
    ck_assert_float_eq(got[0], values_b[(hd + 6) * 32 + 5]);
    ck_assert_float_eq(got[1], values_b[(hd + 7) * 32 + 5]);
    ad_adapter_release(&first);
}
END_TEST

START_TEST(a_of_the_embedding_is_turned)
{
    int vocab = ad_model_get_config(base)->vocab;
    float *rows = calloc(2 * (size_t)vocab, sizeof *rows), got;
    for (int i = 0; i < 2 * vocab; i++) rows[i] = (float)i / 65536;
    write_gguf((spec[]){{"token_embd.weight.lora_a", 0, 2, (uint64_t)vocab, rows, 8 * (size_t)vocab}, {"token_embd.weight.lora_b", 0, 2, WIDE, values_b, 2 * WIDE * 4}}, 2);
    ad_adapter *a = loads(0);
    const ad_lowrank *low = lowrank_of(a, "model.embed_tokens");
    int module = ad_model_find_module(base, "model.embed_tokens");
    ck_assert_int_eq(low->rank, 2);
    ad_matrix_read(&ad_adapter_lowrank(a)->a[ad_model_group_of(base, module)], low->at + 1, 700, 701, &got);
    ck_assert_float_eq(got, 1401.0f / 65536);
    ad_adapter_release(&a);
    write_gguf((spec[]){{"token_embd.weight.lora_a", 0, (uint64_t)vocab, 2, rows, 8 * (size_t)vocab}, {"token_embd.weight.lora_b", 0, 2, WIDE, values_b, 2 * WIDE * 4}}, 2);
    fails(AD_EMISMATCH, "shape");
    free(rows);
}
END_TEST

START_TEST(a_head_that_is_the_embedding_cannot_be_adapted)
{
    ad_model_free(&base);
    base = golden_model("models/llama-tied-bf16");
    spec head = good_a;
    head.name = "output.weight.lora_a";
    write_gguf(&head, 1), fails(AD_EMISMATCH, "head is its embedding");
}
END_TEST

START_TEST(what_is_no_adapter_is_named)
{
    ad_err err = {0};
    ad_adapter *a = NULL;
    FILE *f = fopen(in_dir("adapter.gguf"), "w");
    fclose(f);
    fails(AD_EFORMAT, "empty");
    f = fopen(in_dir("adapter_config.json"), "w");
    fclose(f);
    fails(AD_EFORMAT, "two adapters");
    ck_assert_int_eq(ad_adapter_load(&a, "x", in_dir("adapter_config.json"), base, &err), AD_EUNSUPPORTED);
    ck_assert_int_eq(ad_adapter_load(&a, "x", golden_path("gguf/llama-spm-mha-F32.gguf"), base, &err), AD_EFORMAT);
    ck_assert_msg(strstr(err.msg, "general.type"), "%s", err.msg);
    ck_assert_int_eq(ad_adapter_load(&a, "x", in_dir("none.gguf"), base, &err), AD_ENOTFOUND);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("gguf_lora");
    TCase *t = tcase_create("written"), *r = tcase_create("read");
    tcase_add_test(t, a_converted_adapter_has_the_same_products);
    tcase_add_test(t, ranks_and_scales_that_differ_between_modules_are_kept);
    tcase_add_test(t, values_and_scales_come_back_from_gguf_and_then_from_peft);
    tcase_add_test(t, peft_directories_keep_ranks_and_alphas_that_differ);
    tcase_add_test(t, the_two_forms_have_digests_of_their_own);
    tcase_add_test(t, a_head_that_is_the_embedding_is_refused_and_leaves_no_file);
    tcase_add_test(t, a_directory_that_cannot_be_written_is_an_error);
    tcase_add_checked_fixture(r, setup, teardown);
    tcase_add_test(r, alpha_over_rank_scales_and_zero_or_none_does_not);
    tcase_add_test(r, metadata_that_is_not_a_lora_s_is_refused_by_name);
    tcase_add_test(r, every_tensor_must_be_half_of_a_pair_of_a_known_weight);
    tcase_add_test(r, norms_are_ignored_with_a_warning);
    tcase_add_test(r, shapes_ranks_types_and_values_are_checked);
    tcase_add_test(r, a_leading_dimension_of_one_may_be_missing);
    tcase_add_test(r, all_types_of_weights_give_the_same_adapter);
    tcase_add_test(r, a_of_the_embedding_is_turned);
    tcase_add_test(r, a_head_that_is_the_embedding_cannot_be_adapted);
    tcase_add_test(r, what_is_no_adapter_is_named);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, r);
    return tu_run(suite);
}
