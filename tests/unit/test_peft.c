/* SPDX-License-Identifier: MIT */
/* adapter_config.json: what selects which module at which rank; what is refused, and that the message names it.
 * Then whole adapter directories with one thing wrong each. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <math.h>
#include <string.h>
#include <sys/stat.h>

#include "adapters/adapter.h"
#include "adapters/gguf_lora.h"
#include "adapters/peft.h"
#include "adapters/peft_write.h"
#include "core/base/file.h"

/* ---- configurations ---- */

static ad_status parse(ad_peft **out, const char *fields, ad_err *err)
{
    ad_buf b = {0};
    ad_buf_printf(&b, "{\"peft_type\":\"LORA\"%s%s}", *fields ? "," : "", fields);
    ad_status st = ad_peft_parse(out, b.data, b.len, "probe", err);
    ad_buf_deinit(&b);
    return st;
}

static void refuse(const char *fields, ad_status want, const char *why)
{
    ad_err err = {0};
    ad_peft *p = NULL;
    ad_status st = parse(&p, fields, &err);
    ck_assert_msg(st == want, "%s: status %d, %s", fields, (int)st, err.msg);
    ck_assert_msg(strstr(err.msg, why) && strstr(err.msg, "probe"), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(p);
}

static void accept(const char *fields)
{
    ad_err err = {0};
    ad_peft *p = NULL;
    ck_assert_msg(parse(&p, fields, &err) == AD_OK, "%s: %s", fields, err.msg);
    ad_peft_free(&p);
}

static ad_module module(const char *name)
{
    static const struct { const char *end; ad_module_kind kind; } kinds[] = {
        {"q_proj", AD_MOD_Q}, {"k_proj", AD_MOD_K}, {"v_proj", AD_MOD_V}, {"o_proj", AD_MOD_O}, {"gate_proj", AD_MOD_GATE},
        {"up_proj", AD_MOD_UP}, {"down_proj", AD_MOD_DOWN}, {"embed_tokens", AD_MOD_EMBED}, {"lm_head", AD_MOD_HEAD}};
    ad_module m = {.layer = -1, .in = 8, .out = 8};
    snprintf(m.name, sizeof m.name, "%s", name);
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strlen(name) >= strlen(kinds[i].end) && !strcmp(name + strlen(name) - strlen(kinds[i].end), kinds[i].end)) m.kind = kinds[i].kind;
    return m;
}

static ad_peft_plan plan(const char *fields, const char *name)
{
    ad_err err = {0};
    ad_peft *p = NULL;
    ad_peft_plan out = {0};
    ad_module m = module(name);
    ck_assert_msg(parse(&p, fields, &err) == AD_OK, "%s: %s", fields, err.msg);
    ck_assert_msg(ad_peft_plan_module(p, &m, &out, &err) == AD_OK, "%s: %s", fields, err.msg);
    ad_peft_free(&p);
    return out;
}

static bool selects(const char *fields, const char *name) { return plan(fields, name).rank > 0; }

#define Q0 "model.layers.0.self_attn.q_proj"
#define K0 "model.layers.0.self_attn.k_proj"
#define V0 "model.layers.0.self_attn.v_proj"
#define Q1 "model.layers.1.self_attn.q_proj"
#define Q11 "model.layers.11.self_attn.q_proj"
#define DOWN1 "model.layers.1.mlp.down_proj"

START_TEST(absent_keys_have_peft_s_defaults)
{
    ad_peft_plan p = plan("", Q0);
    ck_assert(p.rank == 8 && p.scale == 1.0f);
    ck_assert(selects("", V0) && !selects("", K0) && !selects("", DOWN1) && !selects("", "lm_head"));
}
END_TEST

START_TEST(the_scale_is_alpha_over_rank_or_its_root)
{
    ck_assert_float_eq(plan("\"r\":4,\"lora_alpha\":6", Q0).scale, 1.5f);
    ck_assert_float_eq(plan("\"r\":9,\"lora_alpha\":6,\"use_rslora\":true", Q0).scale, 2.0f);
    ck_assert_float_eq(plan("\"r\":4,\"lora_alpha\":0.5", Q0).scale, 0.125f);
    ck_assert_float_eq(plan("\"r\":4,\"lora_alpha\":-4", Q0).scale, -1.0f);
}
END_TEST

START_TEST(a_list_selects_by_name_or_by_ending_behind_a_dot)
{
    ck_assert(selects("\"target_modules\":[\"q_proj\"]", Q11));
    ck_assert(!selects("\"target_modules\":[\"_proj\"]", Q0));
    ck_assert(!selects("\"target_modules\":[\"proj\"]", Q0));
    ck_assert(selects("\"target_modules\":[\"self_attn.q_proj\"]", Q0));
    ck_assert(selects("\"target_modules\":[\"" Q1 "\"]", Q1) && !selects("\"target_modules\":[\"" Q1 "\"]", Q11));
    ck_assert(selects("\"target_modules\":[\"lm_head\"]", "lm_head"));
    ck_assert(!selects("\"target_modules\":[]", Q0));
}
END_TEST

START_TEST(a_string_is_a_full_match)
{
    ck_assert(selects("\"target_modules\":\".*q_proj\"", Q0));
    ck_assert(!selects("\"target_modules\":\"q_proj\"", Q0));
    ck_assert(!selects("\"target_modules\":\"model\"", Q0));
    ck_assert(selects("\"target_modules\":\".*\\\\.1\\\\.(self_attn\\\\.(q|o)_proj|mlp\\\\.gate_proj)\"", Q1));
    ck_assert(!selects("\"target_modules\":\".*\\\\.1\\\\.(self_attn\\\\.(q|o)_proj|mlp\\\\.gate_proj)\"", Q11));
    ck_assert(selects("\"target_modules\":\"model.*x|.*q_proj\"", Q0)); /* an alternative is inside the full match */
    ck_assert(selects("\"target_modules\":\"(?P<a>.*)q_proj\"", Q0));
}
END_TEST

START_TEST(all_linear_is_every_linear_layer_but_the_head)
{
    static const char *const spellings[] = {"\"target_modules\":\"all-linear\"", "\"target_modules\":\"ALL-Linear\""};
    for (int i = 0; i < 2; i++) {
        ck_assert(selects(spellings[i], Q0) && selects(spellings[i], DOWN1));
        ck_assert(!selects(spellings[i], "lm_head") && !selects(spellings[i], "model.embed_tokens"));
    }
}
END_TEST

START_TEST(exclude_modules_wins)
{
    ck_assert(!selects("\"target_modules\":\"all-linear\",\"exclude_modules\":[\"k_proj\"]", K0));
    ck_assert(selects("\"target_modules\":\"all-linear\",\"exclude_modules\":[\"k_proj\"]", Q0));
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"exclude_modules\":\".*layers\\\\.1\\\\..*\"", Q1));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"exclude_modules\":\".*layers\\\\.1\\\\..*\"", Q11));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"exclude_modules\":\"layers\"", Q0)); /* no full match */
}
END_TEST

START_TEST(layers_to_transform_keeps_some_layers)
{
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1", Q1));
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1", Q11));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0,11]", Q11));
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":[0,11]", Q1));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":0", Q0));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1,\"layers_pattern\":\"layers\"", Q1));
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1,\"layers_pattern\":[\"h\"]", Q1));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"layers_to_transform\":1,\"layers_pattern\":[\"h\",\"layers\"]", Q1));
    ck_assert(!selects("\"layers_to_transform\":[0]", Q1) && selects("\"layers_to_transform\":[0]", Q0));
    ck_assert(!selects("\"target_modules\":[\"lm_head.x\",\"lm_head\",\"q_proj\"],\"layers_to_transform\":[0]", Q1));
    ck_assert(selects("\"target_modules\":[\"lm_head\"],\"layers_to_transform\":[0]", "lm_head")); /* named exactly: no filter */
}
END_TEST

START_TEST(the_first_pattern_of_the_file_that_matches_gives_rank_and_alpha)
{
    static const char fields[] = "\"r\":4,\"lora_alpha\":4,\"target_modules\":\"all-linear\",\"rank_pattern\":{\"layers.1.mlp.down_proj\":7,\"q_proj\":1,\".*\\\\.1\\\\..*_proj\":2,\"down_proj\":3},"
                                 "\"alpha_pattern\":{\"^model.layers.0.self_attn.k_proj\":20,\"z\":9,\"k_proj\":2,\"gate_proj\":8}";
    ck_assert(plan(fields, DOWN1).rank == 7 && plan(fields, "model.layers.0.mlp.down_proj").rank == 3);
    ck_assert(plan(fields, Q0).rank == 1 && plan(fields, Q1).rank == 1);
    ck_assert(plan(fields, "model.layers.1.mlp.up_proj").rank == 2);
    ck_assert_float_eq(plan(fields, K0).scale, 5);
    ck_assert_float_eq(plan(fields, "model.layers.2.self_attn.k_proj").scale, 0.5f);
    ck_assert_float_eq(plan(fields, Q0).scale, 4);
    ck_assert(plan("\"rank_pattern\":{\"_proj\":3}", Q0).rank == 8);   /* not behind a dot */
    ck_assert(plan("\"rank_pattern\":{\"q_pro\":3}", Q0).rank == 8);   /* not to the end */
    ck_assert(plan("\"rank_pattern\":{\"^q_proj\":3}", Q0).rank == 8); /* anchored at the start */
}
END_TEST

START_TEST(active_keys_that_are_not_known_are_refused_by_name)
{
    refuse("\"shiny_new_thing\":true", AD_EUNSUPPORTED, "shiny_new_thing");
    refuse("\"shiny_new_thing\":{\"a\":1}", AD_EUNSUPPORTED, "shiny_new_thing");
    refuse("\"shiny_new_thing\":1", AD_EUNSUPPORTED, "shiny_new_thing");
    refuse("\"shiny_new_thing\":\"x\"", AD_EUNSUPPORTED, "shiny_new_thing");
    accept("\"shiny_new_thing\":null,\"b\":false,\"c\":[],\"d\":{},\"e\":\"\"");
}
END_TEST

START_TEST(parts_of_peft_that_are_not_served_are_refused_by_name)
{
    static const char *const keys[] = {"ensure_weight_tying", "use_qalora", "use_bdlora"};
    static const char *const lists[] = {"alora_invocation_tokens", "layer_replication", "target_parameters"};
    static const char *const objects[] = {"corda_config", "loftq_config", "lora_ga_config", "arrow_config", "kasa_config", "monteclora_config", "megatron_config"};
    char f[100];
    for (size_t i = 0; i < 3; i++) snprintf(f, sizeof f, "\"%s\":true", keys[i]), refuse(f, AD_EUNSUPPORTED, keys[i]);
    for (size_t i = 0; i < 3; i++) snprintf(f, sizeof f, "\"%s\":[1]", lists[i]), refuse(f, AD_EUNSUPPORTED, lists[i]);
    for (size_t i = 0; i < 7; i++) snprintf(f, sizeof f, "\"%s\":{\"a\":1}", objects[i]), refuse(f, AD_EUNSUPPORTED, objects[i]);
    refuse("\"use_dora\":true,\"lora_bias\":true", AD_EUNSUPPORTED, "use_dora");
    refuse("\"task_type\":\"SEQ_CLS\"", AD_EUNSUPPORTED, "task_type");
    accept("\"bias\":\"none\",\"task_type\":null,\"use_dora\":false,\"modules_to_save\":[],\"loftq_config\":{}");
}
END_TEST

static bool saves(const char *items, const char *name)
{
    ad_err err = {0};
    ad_peft *p = NULL;
    char f[200];
    snprintf(f, sizeof f, "\"modules_to_save\":%s", items);
    ck_assert_msg(parse(&p, f, &err) == AD_OK, "%s", err.msg);
    bool yes = ad_peft_saves(p, name);
    ck_assert(yes == (ad_peft_idle_saved(p, 0) == NULL));
    ad_peft_free(&p);
    return yes;
}

START_TEST(modules_to_save_names_whole_modules_by_any_ending_of_theirs_or_of_one_around_them)
{
    ck_assert(saves("[\"norm\"]", "model.norm") && saves("[\"norm\"]", "model.layers.0.input_layernorm"));
    ck_assert(saves("[\"lm_head\"]", "lm_head") && saves("[\"head\"]", "lm_head") && !saves("[\"lm_hea\"]", "lm_head"));
    ck_assert(saves("[\"layers.1.mlp\"]", DOWN1) && saves("[\"layers.1\"]", Q1) && !saves("[\"layers.1\"]", Q11));
    ck_assert(saves("[\"model\"]", "model.norm") && !saves("[\"model\"]", "lm_head"));
    ck_assert(!saves("[\"model.layers.1.mlp.down_proj.x\"]", DOWN1));
}
END_TEST

START_TEST(a_saved_module_is_not_targeted_when_the_item_is_its_name_behind_a_dot)
{
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"q_proj\"]", Q0));
    ck_assert(!selects("\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"layers.1\"]", Q1));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"layers.1\"]", Q11));
    ck_assert(selects("\"target_modules\":[\"q_proj\"],\"modules_to_save\":[\"_proj\",\"norm\"]", Q0));
    ck_assert(!selects("\"target_modules\":\"all-linear\",\"modules_to_save\":[\"mlp\"]", DOWN1));
}
END_TEST

START_TEST(an_embedding_has_no_bias_of_its_pair)
{
    ad_err err = {0};
    ad_peft *p = NULL;
    ad_peft_plan out;
    ad_module m = module("model.embed_tokens");
    ck_assert_int_eq(parse(&p, "\"lora_bias\":true,\"target_modules\":[\"embed_tokens\"]", &err), AD_OK);
    ck_assert_int_eq(ad_peft_plan_module(p, &m, &out, &err), AD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "lora_bias"));
    ad_peft_free(&p);
}
END_TEST

START_TEST(initialisers_that_change_the_base_are_refused)
{
    static const char *const bad[] = {"pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "mica", "anything"};
    static const char *const good[] = {"true", "false", "\"gaussian\"", "\"eva\"", "\"orthogonal\"", "null"};
    char f[100];
    for (size_t i = 0; i < 8; i++) snprintf(f, sizeof f, "\"init_lora_weights\":\"%s\"", bad[i]), refuse(f, AD_EUNSUPPORTED, bad[i]);
    for (size_t i = 0; i < 6; i++) snprintf(f, sizeof f, "\"init_lora_weights\":%s", good[i]), accept(f);
    refuse("\"init_lora_weights\":3", AD_EFORMAT, "init_lora_weights");
}
END_TEST

START_TEST(wrong_types_and_ranges_are_refused_by_name)
{
    static const char *const bad[][2] = {
        {"\"r\":0", "r"}, {"\"r\":-1", "r"}, {"\"r\":1.5", "r"}, {"\"r\":\"8\"", "r"}, {"\"r\":100000", "r"}, {"\"r\":null", "r"}, {"\"lora_alpha\":\"8\"", "lora_alpha"},
        {"\"use_rslora\":1", "use_rslora"}, {"\"target_modules\":5", "target_modules"}, {"\"target_modules\":[5]", "target_modules"}, {"\"target_modules\":[\"\"]", "target_modules"},
        {"\"target_modules\":{}", "target_modules"}, {"\"exclude_modules\":5", "exclude_modules"}, {"\"exclude_modules\":[5]", "exclude_modules"},
        {"\"layers_to_transform\":\"1\"", "layers_to_transform"}, {"\"layers_to_transform\":[-1]", "layers_to_transform"}, {"\"layers_to_transform\":[1.5]", "layers_to_transform"},
        {"\"layers_to_transform\":[1],\"layers_pattern\":5", "layers_pattern"}, {"\"layers_pattern\":\"layers\"", "layers_pattern"},
        {"\"rank_pattern\":[1]", "rank_pattern"}, {"\"rank_pattern\":{\"a\":0}", "rank_pattern"}, {"\"rank_pattern\":{\"a\":\"x\"}", "rank_pattern"}, {"\"rank_pattern\":{\"a\":1.5}", "rank_pattern"},
        {"\"alpha_pattern\":{\"a\":\"x\"}", "alpha_pattern"}, {"\"target_modules\":\"all-linear\",\"layers_to_transform\":[1]", "layers_to_transform"},
        {"\"target_modules\":\".*q_proj\",\"layers_to_transform\":[1]", "layers_to_transform"}, {"\"fan_in_fan_out\":\"yes\"", "fan_in_fan_out"},
        {"\"use_dora\":1", "use_dora"}, {"\"lora_bias\":\"all\"", "lora_bias"}, {"\"bias\":true", "bias"}, {"\"bias\":\"some\"", "bias"}, {"\"bias\":[\"all\"]", "bias"},
        {"\"modules_to_save\":\"lm_head\"", "modules_to_save"}, {"\"modules_to_save\":[5]", "modules_to_save"}, {"\"modules_to_save\":[\"\"]", "modules_to_save"},
        {"\"trainable_token_indices\":5", "trainable_token_indices"}, {"\"trainable_token_indices\":[-1]", "trainable_token_indices"},
        {"\"trainable_token_indices\":[1.5]", "trainable_token_indices"}, {"\"trainable_token_indices\":[4294967296]", "trainable_token_indices"},
        {"\"trainable_token_indices\":{\"lm_head\":5}", "trainable_token_indices"}, {"\"trainable_token_indices\":{\"lm_head\":[1],\"embed_tokens\":[]}", "trainable_token_indices"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse(bad[i][0], AD_EFORMAT, bad[i][1]);
}
END_TEST

START_TEST(files_that_are_no_configuration_are_refused)
{
    static const char *const bad[] = {"", "[]", "{", "null", "{\"peft_type\":5}", "{}", "{\"r\":1,\"r\":2,\"peft_type\":\"LORA\"}", "\xff"};
    ad_err err;
    ad_peft *p = NULL;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(ad_peft_parse(&p, bad[i], strlen(bad[i]), "probe", &err) == AD_EFORMAT, "%s", bad[i]);
    static const char ia3[] = "{\"peft_type\":\"IA3\"}";
    ck_assert_int_eq(ad_peft_parse(&p, ia3, sizeof ia3 - 1, "probe", &err), AD_EUNSUPPORTED);
    ck_assert_ptr_nonnull(strstr(err.msg, "IA3"));
}
END_TEST

START_TEST(patterns_that_do_not_compile_are_refused_by_key)
{
    refuse("\"target_modules\":\"(\"", AD_EFORMAT, "target_modules");
    refuse("\"exclude_modules\":\"[\"", AD_EFORMAT, "exclude_modules");
    refuse("\"rank_pattern\":{\"*\":1}", AD_EFORMAT, "rank_pattern");
    refuse("\"alpha_pattern\":{\"a)(\":1,\"(\":2}", AD_EFORMAT, "alpha_pattern");
    refuse("\"target_modules\":\"((((((a{1,1000}){1,1000}){1,1000}){1,1000}){1,1000})\"", AD_EFORMAT, "target_modules");
}
END_TEST

START_TEST(patterns_that_explode_end_with_an_error)
{
    static const char *const evil[] = {"\"target_modules\":\"(.*)*(.*)*(.*)*(.*)*l\"", "\"target_modules\":\"(([a-z_.0-9]+)+)+l\"", "\"target_modules\":\"(a|b|ab|m|o|mo|[a-z.]|[a-z_.]+|.)*l\"",
                                       "\"target_modules\":[\"q_proj\"],\"rank_pattern\":{\"(([a-z_.0-9]*)*)*l\":1}"};
    for (size_t i = 0; i < sizeof evil / sizeof *evil; i++) {
        ad_err err = {0};
        ad_peft *p = NULL;
        ad_peft_plan out;
        ad_module m = module("model.layers.0.self_attn.q_proj");
        ck_assert_int_eq(parse(&p, evil[i], &err), AD_OK);
        ck_assert_msg(ad_peft_plan_module(p, &m, &out, &err) == AD_EUNSUPPORTED, "%s", evil[i]);
        ck_assert_ptr_nonnull(strstr(err.msg, "too hard"));
        ad_peft_free(&p);
    }
}
END_TEST

/* ---- directories ---- */

static ad_model *base;
static char dir[] = "/tmp/ad-peft-XXXXXX";

static void setup(void)
{
    base = golden_model("models/llama-gqa");
    strcpy(dir, "/tmp/ad-peft-XXXXXX");
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

static void teardown(void)
{
    unlink(in_dir("adapter_config.json"));
    unlink(in_dir("adapter_model.safetensors"));
    unlink(in_dir("adapter_model.bin"));
    rmdir(dir);
    ad_model_free(&base);
}

static void write_file(const char *name, const void *data, size_t len)
{
    FILE *f = fopen(in_dir(name), "w");
    ck_assert(f && fwrite(data, 1, len, f) == len);
    fclose(f);
}

static void write_config(const char *fields)
{
    ad_buf b = {0};
    ad_buf_printf(&b, "{\"peft_type\":\"LORA\",%s}", fields);
    write_file("adapter_config.json", b.data, b.len);
    ad_buf_deinit(&b);
}

/* One tensor of a file to be written. */
typedef struct {
    const char *name, *dtype;
    int rows, cols; /* rows 0: one dimension */
    float fill;     /* all values */
    const float *values; /* F32: these instead */
} spec;

static void write_weights(const spec *specs, int n)
{
    ad_buf head = {0}, data = {0}, file = {0};
    for (int i = 0; i < n; i++) {
        size_t count = (size_t)(specs[i].rows ? specs[i].rows : 1) * (size_t)specs[i].cols, begin = data.len, width = strcmp(specs[i].dtype, "F32") ? 2 : 4;
        if (specs[i].values) ad_buf_append(&data, specs[i].values, count * 4);
        else for (size_t k = 0; k < count; k++) ad_buf_append(&data, width == 4 ? (const char *)&specs[i].fill : (const char *)&specs[i].fill + 2, width); /* BF16: the upper half */
        ad_buf_printf(&head, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[", i ? "," : "{", specs[i].name, specs[i].dtype);
        if (specs[i].rows) ad_buf_printf(&head, "%d,", specs[i].rows);
        ad_buf_printf(&head, "%d],\"data_offsets\":[%zu,%zu]}", specs[i].cols, begin, data.len);
    }
    ad_buf_puts(&head, "}");
    uint64_t len = head.len;
    ad_buf_append(&file, &len, 8);
    ad_buf_append(&file, head.data, head.len);
    if (data.len) ad_buf_append(&file, data.data, data.len);
    write_file("adapter_model.safetensors", file.data, file.len);
    ad_buf_deinit(&head), ad_buf_deinit(&data), ad_buf_deinit(&file);
}

#define P "base_model.model."
#define QA P Q0 ".lora_A.weight"
#define QB P Q0 ".lora_B.weight"
#define ONE_Q "\"r\":2,\"lora_alpha\":0.25,\"target_modules\":[\"" Q0 "\"]"
static const spec good_a = {QA, "F32", 2, 256, 0.5f, NULL}, good_b = {QB, "F32", 256, 2, 0.25f, NULL};

static ad_adapter *load(const char *name, ad_err *err)
{
    ad_adapter *a = NULL;
    ad_status st = ad_adapter_load(&a, name, dir, base, err);
    ck_assert((st == AD_OK) == (a != NULL));
    return a;
}

static void loads(int warnings)
{
    ad_err err = {0};
    ad_adapter *a = load("probe", &err);
    ck_assert_msg(a != NULL, "%s", err.msg);
    ck_assert_int_eq(ad_adapter_warning_count(a), warnings);
    int q = ad_model_find_module(base, Q0);
    const ad_lowrank *low = &ad_adapter_lowrank(a)->modules[q];
    ck_assert_int_eq(low->rank, 2);
    float last_a, last_b;
    ad_matrix_read(&ad_adapter_lowrank(a)->a[ad_model_group_of(base, q)], low->at + 1, 255, 256, &last_a);
    ad_matrix_read(&low->b, 255, 1, 2, &last_b);
    ck_assert_float_eq(last_a, 0.5f);
    ck_assert_float_eq(last_b, 0.25f);
    ck_assert_int_eq(ad_adapter_matched_modules(a), 1);
    ad_adapter_release(&a);
}

static void fails(ad_status want, const char *why)
{
    ad_err err = {0};
    ad_adapter *a = load("probe", &err);
    ck_assert_msg(!a && err.code == want && strstr(err.msg, why), "status %d, \"%s\" (wanted \"%s\")", (int)err.code, err.msg, why);
}

START_TEST(a_plain_adapter_loads_under_all_its_spellings)
{
    static const char *const a[] = {QA, Q0 ".lora_A.weight", P Q0 ".lora_A.default.weight", P "layers.0.self_attn.q_proj.lora_A.weight", P "model.language_model.layers.0.self_attn.q_proj.lora_A.weight"};
    static const char *const b[] = {QB, Q0 ".lora_B.weight", P Q0 ".lora_B.default.weight", P "layers.0.self_attn.q_proj.lora_B.weight", P "model.language_model.layers.0.self_attn.q_proj.lora_B.weight"};
    write_config(ONE_Q);
    for (int i = 0; i < 5; i++) {
        spec s[] = {good_a, good_b};
        s[0].name = a[i], s[1].name = b[i], s[0].dtype = s[1].dtype = i % 2 ? "BF16" : "F32";
        write_weights(s, 2);
        loads(0);
    }
}
END_TEST

START_TEST(every_tensor_must_belong_to_a_targeted_module)
{
    static const struct { spec extra; const char *why; } cases[] = {
        {{P K0 ".lora_A.weight", "F32", 2, 256, 1, NULL}, "does not target"},
        {{P "model.layers.9.self_attn.q_proj.lora_A.weight", "F32", 2, 256, 1, NULL}, "no module"},
        {{P "model.layers.0.self_attn.x_proj.lora_A.weight", "F32", 2, 256, 1, NULL}, "no module"},
        {{P Q0 ".lora_magnitude_vector", "F32", 0, 256, 1, NULL}, "DoRA"},
        {{P Q0 ".lora_B.bias", "F32", 0, 256, 1, NULL}, "bias"},
        {{P Q0 ".base_layer.bias", "F32", 0, 256, 1, NULL}, "bias"},
        {{P "model.embed_tokens.token_adapter.trainable_tokens_delta", "F32", 2, 256, 1, NULL}, "token embedding"},
        {{P Q0 ".lora_C", "F32", 2, 256, 1, NULL}, "nothing that is known"},
        {{P "model.norm.weight", "F32", 0, 256, 1, NULL}, "a norm that modules_to_save does not name"},
        {{P "model.norm.bias", "F32", 0, 256, 1, NULL}, "no module"},
        {{P "model.layers.2.input_layernorm.weight", "F32", 0, 256, 1, NULL}, "no module"},
        {{P Q0 ".modules_to_save.weight", "F32", 2, 256, 1, NULL}, "no module"},
        {{P Q0 ".lora_embedding_A", "F32", 2, 256, 1, NULL}, "form"},
        {{Q0 ".lora_A.weight", "F32", 2, 256, 1, NULL}, "twice"},
        {{P Q0 ".lora_A.other.weight", "F32", 2, 256, 1, NULL}, "twice"},
    };
    write_config(ONE_Q);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_weights((spec[]){good_a, good_b, cases[i].extra}, 3);
        fails(AD_EMISMATCH, cases[i].why);
    }
}
END_TEST

START_TEST(shapes_ranks_types_and_values_are_checked)
{
    write_config(ONE_Q);
    spec a = good_a, b = good_b;
    a.rows = 3, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[3, 256]"), a = good_a;
    a.cols = 255, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[2, 255]"), a = good_a;
    a.rows = 0, a.cols = 512, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[512]"), a = good_a;
    b.cols = 3, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[256, 3]"), b = good_b;
    b.rows = 128, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "[128, 2]"), b = good_b;
    a.dtype = "I16", write_weights((spec[]){a, b}, 2), fails(AD_EUNSUPPORTED, "I16"), a = good_a;
    a.fill = NAN, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "not finite"), a = good_a;
    b.fill = INFINITY, write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, "not finite"), b = good_b;
    write_config("\"r\":4,\"target_modules\":[\"" Q0 "\"]"), write_weights((spec[]){a, b}, 2), fails(AD_EMISMATCH, QA);
}
END_TEST

START_TEST(every_targeted_module_must_have_its_pair)
{
    write_config(ONE_Q);
    write_weights(&good_a, 1), fails(AD_EMISMATCH, "no lora_B");
    write_weights(&good_b, 1), fails(AD_EMISMATCH, "no lora_A");
    write_weights(NULL, 0), fails(AD_EFORMAT, "");
    write_config("\"r\":2,\"target_modules\":[\"q_proj\"]");
    write_weights((spec[]){good_a, good_b}, 2), fails(AD_EMISMATCH, Q1);
}
END_TEST

START_TEST(a_target_that_selects_nothing_is_a_warning_while_others_do)
{
    write_config("\"r\":2,\"lora_alpha\":0.25,\"target_modules\":[\"" Q0 "\",\"c_attn\"]");
    write_weights((spec[]){good_a, good_b}, 2);
    ad_err err;
    ad_adapter *a = load("probe", &err);
    ck_assert_msg(a && ad_adapter_warning_count(a) == 1 && strstr(ad_adapter_warning(a, 0), "c_attn"), "%s", err.msg);
    ad_adapter_release(&a);
    write_config("\"r\":2,\"target_modules\":[\"c_attn\"]");
    fails(AD_EMISMATCH, "selects no module");
}
END_TEST

START_TEST(a_saved_copy_of_a_base_weight_must_be_the_base_s)
{
    int head = ad_model_find_module(base, "lm_head");
    const ad_module *m = ad_model_module(base, head);
    size_t n = (size_t)m->in * (size_t)m->out;
    float *w = malloc(n * sizeof *w);
    ad_model_read_rows(base, head, 0, m->out, w, NULL);
    for (int change = 0; change < 2; change++) {
        ad_buf file = {0}, h = {0};
        size_t a = 2 * 256 * 4, at = 2 * a;
        ad_buf_printf(&h, "{\"" QA "\":{\"dtype\":\"F32\",\"shape\":[2,256],\"data_offsets\":[0,%zu]},\"" QB "\":{\"dtype\":\"F32\",\"shape\":[256,2],\"data_offsets\":[%zu,%zu]},"
                          "\"" P "lm_head.base_layer.weight\":{\"dtype\":\"F32\",\"shape\":[%d,%d],\"data_offsets\":[%zu,%zu]}}", a, a, at, m->out, m->in, at, at + n * 4);
        uint64_t len = h.len;
        ad_buf_append(&file, &len, 8), ad_buf_append(&file, h.data, h.len);
        for (int i = 0; i < 512; i++) ad_buf_append(&file, &good_a.fill, 4);
        for (int i = 0; i < 512; i++) ad_buf_append(&file, &good_b.fill, 4);
        if (change) w[n - 1] += 1e-3f;
        ad_buf_append(&file, w, n * 4);
        write_config(ONE_Q);
        write_file("adapter_model.safetensors", file.data, file.len);
        if (change) fails(AD_EMISMATCH, "trained on another");
        else loads(1);
        ad_buf_deinit(&file), ad_buf_deinit(&h);
    }
    free(w);
}
END_TEST

START_TEST(missing_files_and_pickles_are_named)
{
    fails(AD_ENOTFOUND, "adapter_config.json");
    write_config(ONE_Q);
    fails(AD_EIO, "adapter_model.safetensors");
    write_file("adapter_model.bin", "x", 1);
    fails(AD_EUNSUPPORTED, "pickle");
    write_file("adapter_model.safetensors", "x", 1);
    fails(AD_EFORMAT, "adapter_model.safetensors");
}
END_TEST

START_TEST(names_are_checked)
{
    char longest[130];
    static const char *const bad[] = {"", ".", "..", "a b", "a\n", "\xc3\xa9", "a\"b", "a\\b", "a?b"};
    ad_err err = {0};
    write_config(ONE_Q);
    write_weights((spec[]){good_a, good_b}, 2);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) ck_assert_msg(!load(bad[i], &err) && err.code == AD_EINVAL, "%s", bad[i]);
    memset(longest, 'a', 129), longest[129] = '\0';
    ck_assert(!load(longest, &err));
    longest[128] = '\0';
    ad_adapter *a = load(longest, &err);
    ck_assert_ptr_nonnull(a);
    ad_adapter_release(&a);
    a = load("org/model:v1.2_x-y", &err);
    ck_assert_ptr_nonnull(a);
    ad_adapter_release(&a);
}
END_TEST

/* ---- directories with more than pairs ---- */

static void use_base(const char *rest)
{
    ad_model_free(&base);
    base = golden_model(rest);
}

/* Loads with `fields` beside a pair for q of layer 0, of hidden size d, and these tensors. */
static ad_adapter *load_parts(const char *fields, const spec *extra, int n, ad_err *err)
{
    spec all[16];
    int d = ad_model_get_config(base)->hidden;
    ad_buf b = {0};
    ad_buf_printf(&b, "%s%s%s", strstr(fields, "target_modules") ? "\"r\":2" : ONE_Q, *fields ? "," : "", fields);
    write_config(b.data);
    ad_buf_deinit(&b);
    all[0] = good_a, all[1] = good_b;
    all[0].cols = d, all[1].rows = d;
    for (int i = 0; i < n; i++) all[2 + i] = extra[i];
    write_weights(all, 2 + n);
    return load("probe", err);
}

static void parts_load(const char *fields, const spec *extra, int n, bool alone, int warnings)
{
    ad_err err = {0};
    ad_adapter *a = load_parts(fields, extra, n, &err);
    ck_assert_msg(a != NULL, "%s: %s", fields, err.msg);
    ck_assert_msg(ad_adapter_lowrank(a)->parts && ad_adapter_lowrank(a)->alone == alone, "%s", fields);
    ck_assert_int_eq(ad_adapter_warning_count(a), warnings);
    ad_adapter_release(&a);
}

static void parts_fail(const char *fields, const spec *extra, int n, ad_status want, const char *why)
{
    ad_err err = {0};
    ad_adapter *a = load_parts(fields, extra, n, &err);
    ck_assert_msg(!a && err.code == want && strstr(err.msg, why), "%s: status %d, \"%s\" (wanted \"%s\")", fields, (int)err.code, err.msg, why);
}

#define DORA "\"use_dora\":true"
#define EMBED P "model.embed_tokens"
#define TOKENS EMBED ".token_adapter.trainable_tokens_delta"

START_TEST(a_magnitude_is_one_length_for_each_output_of_every_dora_module)
{
    spec m = {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 1, NULL};
    static const char *const names[] = {P Q0 ".lora_magnitude_vector", P Q0 ".lora_magnitude_vector.weight", P Q0 ".lora_magnitude_vector.default", P Q0 ".lora_magnitude_vector.default.weight"};
    for (int i = 0; i < 4; i++) m.name = names[i], m.dtype = i % 2 ? "BF16" : "F32", parts_load(DORA, &m, 1, true, 0);
    parts_fail(DORA, NULL, 0, AD_EMISMATCH, "no lora_magnitude_vector");
    parts_fail("", &m, 1, AD_EMISMATCH, "use_dora is not set");
    parts_fail(DORA, (spec[]){m, {P K0 ".lora_magnitude_vector", "F32", 0, 128, 1, NULL}}, 2, AD_EMISMATCH, "does not target");
    parts_fail(DORA, (spec[]){m, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 1, NULL}}, 2, AD_EMISMATCH, "twice");
    m.cols = 255, parts_fail(DORA, &m, 1, AD_EMISMATCH, "[255]"), m.cols = 256;
    m.rows = 1, parts_fail(DORA, &m, 1, AD_EMISMATCH, "[1, 256]"), m.rows = 0;
    m.dtype = "I16", parts_fail(DORA, &m, 1, AD_EUNSUPPORTED, "I16"), m.dtype = "F32";
    m.fill = NAN, parts_fail(DORA, &m, 1, AD_EMISMATCH, "not finite");
}
END_TEST

START_TEST(an_output_without_length_has_no_dora_factor)
{
    float a[512] = {0}, b[512] = {0}, ones[256]; /* B A = -W in row 3 */
    ad_err err = {0};
    for (int i = 0; i < 256; i++) ones[i] = 1;
    ad_model_read_rows(base, ad_model_find_module(base, Q0), 3, 1, a, NULL);
    b[2 * 3] = -8; /* the scale is 1/8 */
    write_config(ONE_Q "," DORA);
    write_weights((spec[]){{QA, "F32", 2, 256, 0, a}, {QB, "F32", 256, 2, 0, b}, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 0, ones}}, 3);
    fails(AD_EMISMATCH, "a length of an output that has none");
    ones[3] = 0; /* no way out: 0 / 0 */
    write_weights((spec[]){{QA, "F32", 2, 256, 0, a}, {QB, "F32", 256, 2, 0, b}, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 0, ones}}, 3);
    fails(AD_EMISMATCH, "a length of an output that has none");
    b[2 * 3] = -4;
    write_weights((spec[]){{QA, "F32", 2, 256, 0, a}, {QB, "F32", 256, 2, 0, b}, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 0, ones}}, 3);
    ad_adapter *good = load("probe", &err);
    ck_assert_msg(good != NULL, "%s", err.msg);
    ad_adapter_release(&good);
}
END_TEST

START_TEST(a_bias_of_lora_b_is_there_for_every_pair_or_for_none)
{
    spec bias = {P Q0 ".lora_B.bias", "F32", 0, 256, 1, NULL};
    static const char fields[] = "\"lora_bias\":true";
    parts_load(fields, &bias, 1, false, 0);
    bias.name = P Q0 ".lora_B.default.bias", parts_load(fields, &bias, 1, false, 0), bias.name = P Q0 ".lora_B.bias";
    parts_fail(fields, NULL, 0, AD_EMISMATCH, "no bias of lora_B");
    parts_fail("", &bias, 1, AD_EMISMATCH, "lora_bias is not set");
    parts_fail(fields, (spec[]){bias, {P K0 ".lora_B.bias", "F32", 0, 128, 1, NULL}}, 2, AD_EMISMATCH, "does not target");
    bias.cols = 128, parts_fail(fields, &bias, 1, AD_EMISMATCH, "[128]"), bias.cols = 256;
    bias.fill = INFINITY, parts_fail(fields, &bias, 1, AD_EMISMATCH, "not finite");
}
END_TEST

START_TEST(trained_biases_are_all_there_and_announced)
{
    static const char all[] = "\"bias\":\"all\"", adapted[] = "\"bias\":\"lora_only\"";
    spec q = {P Q0 ".base_layer.bias", "F32", 0, 64, 1, NULL}, k = {P K0 ".bias", "F32", 0, 32, 1, NULL};
    parts_load(adapted, &(spec){P Q0 ".bias", "F32", 0, 256, 1, NULL}, 1, true, 1); /* the base has none: a warning */
    use_base("models/llama-bias");
    parts_load(adapted, &q, 1, true, 0);
    q.name = P Q0 ".bias", parts_load(adapted, &q, 1, true, 0);
    parts_fail(adapted, NULL, 0, AD_EMISMATCH, "bias of \"" Q0);
    parts_fail(adapted, (spec[]){q, k}, 2, AD_EMISMATCH, "neither \"bias\" nor modules_to_save");
    parts_fail(all, (spec[]){q, k}, 2, AD_EMISMATCH, "bias of \"" V0);
    parts_fail("", &q, 1, AD_EMISMATCH, "neither \"bias\" nor modules_to_save");
    parts_fail(adapted, (spec[]){q, {P Q0 ".base_layer.bias", "F32", 0, 64, 1, NULL}}, 2, AD_EMISMATCH, "twice");
    parts_fail(all, &(spec){EMBED ".bias", "F32", 0, 64, 1, NULL}, 1, AD_EMISMATCH, "embedding does not have");
    q.cols = 63, parts_fail(adapted, &q, 1, AD_EMISMATCH, "[63]"), q.cols = 64;
    q.fill = NAN, parts_fail(adapted, &q, 1, AD_EMISMATCH, "not finite");
}
END_TEST

START_TEST(saved_modules_are_whole_and_announced)
{
    static const char norm[] = "\"modules_to_save\":[\"model.norm\"]", k_proj[] = "\"modules_to_save\":[\"0.self_attn.k_proj\"]";
    spec n = {P "model.norm.weight", "F32", 0, 256, 1, NULL}, k = {P K0 ".weight", "F32", 128, 256, 1, NULL};
    parts_load(norm, &n, 1, true, 0);
    n.name = P "norm.weight", parts_load(norm, &n, 1, true, 0);
    parts_load(k_proj, &k, 1, true, 0);
    parts_load("\"modules_to_save\":[\"model.norm\",\"classifier\"]", &n, 1, true, 1);
    parts_fail(norm, NULL, 0, AD_EMISMATCH, "weight of \"model.norm\"");
    parts_fail(k_proj, NULL, 0, AD_EMISMATCH, "weight of \"" K0);
    parts_fail("\"modules_to_save\":[\"norm\"]", &n, 1, AD_EMISMATCH, "weight of \"model.layers.0.input_layernorm\"");
    parts_fail("", &n, 1, AD_EMISMATCH, "a norm that modules_to_save does not name");
    parts_fail("", &k, 1, AD_EMISMATCH, "trained on another"); /* taken for a copy of the base's */
    parts_fail("\"modules_to_save\":[\"k_proj\"]", &k, 1, AD_EMISMATCH, "weight of \"model.layers.1.self_attn.k_proj\"");
    parts_fail("\"modules_to_save\":[\"_proj\"]", NULL, 0, AD_EUNSUPPORTED, "both name \"" Q0);
    parts_fail(norm, (spec[]){n, {P "model.norm.weight", "F32", 0, 256, 1, NULL}}, 2, AD_EMISMATCH, "twice");
    n.cols = 255, parts_fail(norm, &n, 1, AD_EMISMATCH, "[255]"), n.cols = 256;
    k.rows = 256, parts_fail(k_proj, &k, 1, AD_EMISMATCH, "[256, 256]"), k.rows = 128;
    n.fill = NAN, parts_fail(norm, &n, 1, AD_EMISMATCH, "not finite");
    k.fill = INFINITY, parts_fail(k_proj, &k, 1, AD_EMISMATCH, "not finite"), k.fill = 1;
    parts_fail("\"modules_to_save\":[\"lm_head\"]", &(spec){P "lm_head.weight", "F32", 1027, 256, 1, NULL}, 1, AD_EMISMATCH, "[1027, 256]"); /* a grown vocabulary */
    use_base("models/llama-bias");
    parts_fail(k_proj, &(spec){P K0 ".weight", "F32", 32, 64, 1, NULL}, 1, AD_EMISMATCH, "bias of \"" K0);
    parts_load(k_proj, (spec[]){{P K0 ".weight", "F32", 32, 64, 1, NULL}, {P K0 ".bias", "F32", 0, 32, 1, NULL}}, 2, true, 0);
}
END_TEST

START_TEST(trained_tokens_have_one_row_each_in_embedding_or_head)
{
    static const char two[] = "\"trainable_token_indices\":[7,5]";
    spec rows = {TOKENS, "F32", 2, 256, 1, NULL}, of_head = {P "lm_head.token_adapter.trainable_tokens_delta", "F32", 1, 256, 1, NULL};
    parts_load(two, &rows, 1, true, 0);
    rows.name = TOKENS ".default", parts_load(two, &rows, 1, true, 0), rows.name = TOKENS;
    parts_load("\"trainable_token_indices\":{\"lm_head\":[1025],\"embed_tokens\":[1,2]}", (spec[]){rows, of_head}, 2, true, 0);
    parts_fail(two, NULL, 0, AD_EMISMATCH, "have no rows");
    parts_fail("", &rows, 1, AD_EMISMATCH, "does not announce");
    parts_fail(two, (spec[]){rows, of_head}, 2, AD_EMISMATCH, "does not announce");
    parts_fail("\"trainable_token_indices\":[7,7]", &rows, 1, AD_EFORMAT, "a token twice");
    parts_fail("\"trainable_token_indices\":[7,1026]", &rows, 1, AD_EMISMATCH, "vocabulary");
    parts_fail("\"trainable_token_indices\":{\"wte\":[7,5]}", &rows, 1, AD_EMISMATCH, "no module");
    parts_fail("\"trainable_token_indices\":{\"q_proj\":[7,5]}", &rows, 1, AD_EUNSUPPORTED, "embedding or the head");
    parts_fail("\"trainable_token_indices\":{\"embed_tokens\":[7,5],\"tokens\":[1]}", &rows, 1, AD_EFORMAT, "given twice");
    parts_fail("\"trainable_token_indices\":[7,5],\"modules_to_save\":[\"embed_tokens\"]", &rows, 1, AD_EUNSUPPORTED, "modules_to_save");
    parts_fail("\"trainable_token_indices\":[7,5],\"target_modules\":[\"" Q0 "\",\"embed_tokens\"]", &rows, 1, AD_EUNSUPPORTED, "target_modules");
    rows.rows = 3, parts_fail(two, &rows, 1, AD_EMISMATCH, "[3, 256]"), rows.rows = 2;
    rows.fill = NAN, parts_fail(two, &rows, 1, AD_EMISMATCH, "not finite");
}
END_TEST

START_TEST(tokens_of_a_tied_head_are_the_embedding_s_and_saved_once)
{
    use_base("models/llama-tied-bf16");
    static const char same[] = "\"trainable_token_indices\":{\"lm_head\":[7,5],\"embed_tokens\":[7,5]}", other[] = "\"trainable_token_indices\":{\"lm_head\":[5,7],\"embed_tokens\":[7,5]}";
    spec rows = {TOKENS, "F32", 2, 64, 1, NULL}, of_head = {P "lm_head.token_adapter.trainable_tokens_delta", "F32", 2, 64, 1, NULL};
    parts_load(same, &rows, 1, true, 0);
    parts_load(other, (spec[]){rows, of_head}, 2, true, 0);
    parts_fail(same, (spec[]){rows, of_head}, 2, AD_EMISMATCH, "does not announce");
    parts_fail(other, &rows, 1, AD_EMISMATCH, "have no rows");
    parts_fail("\"trainable_token_indices\":[7,5],\"modules_to_save\":[\"lm_head\"]", &rows, 1, AD_EUNSUPPORTED, "modules_to_save");
    parts_fail("\"trainable_token_indices\":[7,5]," DORA ",\"target_modules\":[\"" Q0 "\",\"lm_head\"]", &rows, 1, AD_EUNSUPPORTED, "target_modules");
}
END_TEST

/* Digests of loads that differ in one thing each are different, and set.bytes counts what came with them. */
START_TEST(every_part_beside_pairs_is_in_the_digest_and_in_the_bytes)
{
    float odd[512];
    for (int i = 0; i < 512; i++) odd[i] = i == 300 || i == 200 ? 2 : 1;
    static const char tokens[] = "\"trainable_token_indices\":[7,5]", norm[] = "\"modules_to_save\":[\"model.norm\"]", k_proj[] = "\"modules_to_save\":[\"0.self_attn.k_proj\"]";
    const struct { const char *fields; spec extra; } cases[] = {
        {"", {0}},
        {DORA, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 1, NULL}}, {DORA, {P Q0 ".lora_magnitude_vector", "F32", 0, 256, 1, odd}},
        {"\"lora_bias\":true", {P Q0 ".lora_B.bias", "F32", 0, 256, 1, NULL}}, {"\"lora_bias\":true", {P Q0 ".lora_B.bias", "F32", 0, 256, 1, odd}},
        {"\"bias\":\"lora_only\"", {P Q0 ".bias", "F32", 0, 256, 1, NULL}}, {"\"bias\":\"lora_only\"", {P Q0 ".bias", "F32", 0, 256, 1, odd}},
        {norm, {P "model.norm.weight", "F32", 0, 256, 1, NULL}}, {norm, {P "model.norm.weight", "F32", 0, 256, 1, odd}},
        {"\"modules_to_save\":[\"1.input_layernorm\"]", {P "model.layers.1.input_layernorm.weight", "F32", 0, 256, 1, NULL}},
        {k_proj, {P K0 ".weight", "F32", 128, 256, 1, NULL}}, {k_proj, {P K0 ".weight", "F32", 128, 256, 2, NULL}},
        {tokens, {TOKENS, "F32", 2, 256, 1, NULL}}, {tokens, {TOKENS, "F32", 2, 256, 1, odd}},
        {"\"trainable_token_indices\":[5,7]", {TOKENS, "F32", 2, 256, 1, NULL}}, {"\"trainable_token_indices\":{\"lm_head\":[7,5]}", {P "lm_head.token_adapter.trainable_tokens_delta", "F32", 2, 256, 1, NULL}},
    };
    enum { N = sizeof cases / sizeof *cases };
    ad_digest seen[N];
    size_t plain = 0;
    for (int i = 0; i < N; i++) {
        ad_err err = {0};
        ad_adapter *a = load_parts(cases[i].fields, &cases[i].extra, cases[i].extra.name != NULL, &err);
        ck_assert_msg(a != NULL, "%s: %s", cases[i].fields, err.msg);
        seen[i] = *ad_adapter_digest(a);
        for (int j = 0; j < i; j++) ck_assert_msg(memcmp(&seen[i], &seen[j], sizeof *seen), "%d and %d: %s", j, i, cases[i].fields);
        size_t bytes = ad_adapter_packed_bytes(a);
        if (!i) plain = bytes;
        else ck_assert_msg(bytes >= plain + 256 * 4, "%s: %zu bytes", cases[i].fields, bytes);
        ck_assert(!i == !ad_adapter_lowrank(a)->parts);
        ad_adapter_release(&a);
    }
}
END_TEST

START_TEST(only_pairs_are_converted)
{
    ad_err err = {0};
    ad_adapter *a = load_parts("\"lora_bias\":true", &(spec){P Q0 ".lora_B.bias", "F32", 0, 256, 1, NULL}, 1, &err);
    ck_assert_msg(a != NULL, "%s", err.msg);
    ck_assert_int_eq(ad_gguf_lora_write(a, base, in_dir("x.gguf"), &err), AD_EUNSUPPORTED);
    ck_assert_int_eq(ad_peft_write(a, base, in_dir("x"), &err), AD_EUNSUPPORTED);
    ad_adapter_release(&a);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("peft");
    TCase *t = tcase_create("configurations"), *d = tcase_create("directories");
    tcase_add_test(t, absent_keys_have_peft_s_defaults);
    tcase_add_test(t, the_scale_is_alpha_over_rank_or_its_root);
    tcase_add_test(t, a_list_selects_by_name_or_by_ending_behind_a_dot);
    tcase_add_test(t, a_string_is_a_full_match);
    tcase_add_test(t, all_linear_is_every_linear_layer_but_the_head);
    tcase_add_test(t, exclude_modules_wins);
    tcase_add_test(t, layers_to_transform_keeps_some_layers);
    tcase_add_test(t, the_first_pattern_of_the_file_that_matches_gives_rank_and_alpha);
    tcase_add_test(t, active_keys_that_are_not_known_are_refused_by_name);
    tcase_add_test(t, parts_of_peft_that_are_not_served_are_refused_by_name);
    tcase_add_test(t, modules_to_save_names_whole_modules_by_any_ending_of_theirs_or_of_one_around_them);
    tcase_add_test(t, a_saved_module_is_not_targeted_when_the_item_is_its_name_behind_a_dot);
    tcase_add_test(t, an_embedding_has_no_bias_of_its_pair);
    tcase_add_test(t, initialisers_that_change_the_base_are_refused);
    tcase_add_test(t, wrong_types_and_ranges_are_refused_by_name);
    tcase_add_test(t, files_that_are_no_configuration_are_refused);
    tcase_add_test(t, patterns_that_do_not_compile_are_refused_by_key);
    tcase_add_test(t, patterns_that_explode_end_with_an_error);
    tcase_add_checked_fixture(d, setup, teardown);
    tcase_add_test(d, a_plain_adapter_loads_under_all_its_spellings);
    tcase_add_test(d, every_tensor_must_belong_to_a_targeted_module);
    tcase_add_test(d, shapes_ranks_types_and_values_are_checked);
    tcase_add_test(d, every_targeted_module_must_have_its_pair);
    tcase_add_test(d, a_target_that_selects_nothing_is_a_warning_while_others_do);
    tcase_add_test(d, a_saved_copy_of_a_base_weight_must_be_the_base_s);
    tcase_add_test(d, missing_files_and_pickles_are_named);
    tcase_add_test(d, names_are_checked);
    tcase_add_test(d, a_magnitude_is_one_length_for_each_output_of_every_dora_module);
    tcase_add_test(d, an_output_without_length_has_no_dora_factor);
    tcase_add_test(d, a_bias_of_lora_b_is_there_for_every_pair_or_for_none);
    tcase_add_test(d, trained_biases_are_all_there_and_announced);
    tcase_add_test(d, saved_modules_are_whole_and_announced);
    tcase_add_test(d, trained_tokens_have_one_row_each_in_embedding_or_head);
    tcase_add_test(d, tokens_of_a_tied_head_are_the_embedding_s_and_saved_once);
    tcase_add_test(d, every_part_beside_pairs_is_in_the_digest_and_in_the_bytes);
    tcase_add_test(d, only_pairs_are_converted);
    suite_add_tcase(suite, t);
    suite_add_tcase(suite, d);
    return tu_run(suite);
}
