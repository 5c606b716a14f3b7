/* SPDX-License-Identifier: MIT */
/* Reads adapter_config.json and answers, for each module of the base, whether and how it is adapted. Regular
 * expressions come from strangers: they run in PCRE2 with small limits. One owner at a time. */
#include "adapters/peft.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <jansson.h>
#include <math.h>
#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

enum {
    MAX_RANK = 1024,
    MAX_PATTERNS = 1024, /* all regular expressions of one file */
    MAX_PATTERN = 4096,  /* bytes of one */
    MAX_TOKENS = 65536,  /* of one trainable_token_indices */
    MATCH_LIMIT = 20000, /* steps over one module name; sensible patterns take some hundreds */
    HEAP_LIMIT_KB = 1024,
};

typedef enum { TARGET_DEFAULT, TARGET_LIST, TARGET_REGEX, TARGET_ALL_LINEAR } target_kind;

typedef struct {
    pcre2_code *re;
    const char *text; /* in the JSON document */
    double value;     /* of rank_pattern and alpha_pattern */
} pattern;

typedef struct {
    pattern *items;
    int n;
} pattern_list;

struct ad_peft {
    json_t *root;
    const char *label;
    int rank;
    double alpha;
    bool rslora, fan_in_fan_out, dora, lora_bias;
    ad_peft_bias bias;
    target_kind target;
    pattern_list target_regex, exclude_regex, ranks, alphas, layer_patterns;
    const json_t *targets, *excluded; /* lists, or NULL */
    const json_t *layers;             /* a list or an integer, or NULL */
    const json_t *saved;              /* modules_to_save, or NULL */
    bool *used, *saved_used;          /* [targets], [saved] selected something */
    ad_peft_tokens *tokens;           /* trainable_token_indices */
    int n_tokens;
    int n_patterns;
    pcre2_match_data *match;
    pcre2_match_context *limits;
};

static ad_status wrong(const ad_peft *p, ad_err *err, const char *key, const char *what)
{
    return ad_fail(err, AD_EFORMAT, "%s: \"%s\" %s", p->label, key, what);
}

static bool is_empty(const json_t *v)
{
    if (!v || json_is_null(v) || json_is_false(v)) return true;
    if (json_is_string(v)) return json_string_length(v) == 0;
    return json_is_array(v) ? json_array_size(v) == 0 : json_is_object(v) && json_object_size(v) == 0;
}

/* ---- which keys may be active ---- */

typedef enum { READ, HARMLESS, REFUSED } key_use;

static const struct {
    const char *key;
    key_use use;
    const char *reason; /* REFUSED: why */
} known_keys[] = {
    {"peft_type", READ, NULL},
    {"r", READ, NULL},
    {"lora_alpha", READ, NULL},
    {"use_rslora", READ, NULL},
    {"rank_pattern", READ, NULL},
    {"alpha_pattern", READ, NULL},
    {"target_modules", READ, NULL},
    {"exclude_modules", READ, NULL},
    {"layers_to_transform", READ, NULL},
    {"layers_pattern", READ, NULL},
    {"init_lora_weights", READ, NULL},
    {"bias", READ, NULL},
    {"use_dora", READ, NULL},
    {"lora_bias", READ, NULL},
    {"modules_to_save", READ, NULL},
    {"trainable_token_indices", READ, NULL},
    {"task_type", READ, NULL},
    {"fan_in_fan_out", READ, NULL},
    {"base_model_name_or_path", HARMLESS, NULL},
    {"revision", HARMLESS, NULL},
    {"inference_mode", HARMLESS, NULL},
    {"auto_mapping", HARMLESS, NULL},
    {"peft_version", HARMLESS, NULL},
    {"lora_dropout", HARMLESS, NULL},      /* training only */
    {"runtime_config", HARMLESS, NULL},    /* how PEFT itself runs it */
    {"eva_config", HARMLESS, NULL},        /* initialises A from data; the base stays as it is */
    {"velora_config", HARMLESS, NULL},     /* saves memory in training */
    {"megatron_core", HARMLESS, NULL},     /* means nothing without megatron_config */
    {"qalora_group_size", HARMLESS, NULL}, /* means nothing without use_qalora */
    {"alora_invocation_tokens", REFUSED, "activated LoRA (aLoRA) is not supported"},
    {"ensure_weight_tying", REFUSED, "adapters that are shared between embedding and head are not supported"},
    {"corda_config", REFUSED, "the CorDA initialiser changes the base model"},
    {"loftq_config", REFUSED, "the LoftQ initialiser changes the base model"},
    {"lora_ga_config", REFUSED, "the LoRA-GA initialiser changes the base model"},
    {"layer_replication", REFUSED, "replicated layers are not supported"},
    {"target_parameters", REFUSED, "adapters of bare parameters are not supported"},
    {"use_qalora", REFUSED, "QA-LoRA is not supported"},
    {"use_bdlora", REFUSED, "block-diagonal LoRA is not supported"},
    {"arrow_config", REFUSED, "Arrow routing is not supported"},
    {"kasa_config", REFUSED, "KaSA changes the base model"},
    {"monteclora_config", REFUSED, "MonteCLoRA is not supported"},
    {"megatron_config", REFUSED, "Megatron-parallel adapters are not supported"},
};

static ad_status check_key(const ad_peft *p, const char *key, const json_t *v, ad_err *err)
{
    for (size_t i = 0; i < sizeof known_keys / sizeof *known_keys; i++) {
        if (strcmp(key, known_keys[i].key)) continue;
        if (known_keys[i].use != REFUSED || is_empty(v)) return AD_OK;
        return ad_fail(err, AD_EUNSUPPORTED, "%s: \"%s\" is set: %s", p->label, key, known_keys[i].reason);
    }
    if (is_empty(v)) return AD_OK;
    return ad_fail(err, AD_EUNSUPPORTED, "%s: key \"%.80s\" is set, and what it means for the adapter is not known", p->label, key);
}

static ad_status check_keys(const ad_peft *p, ad_err *err)
{
    const char *key;
    json_t *v;
    ad_status st = AD_OK;
    json_object_foreach(p->root, key, v) if (st == AD_OK) st = check_key(p, key, v, err);
    return st;
}

static bool is_one_of(const json_t *v, const char *const *names)
{
    for (; *names; names++)
        if (json_is_string(v) && !strcmp(json_string_value(v), *names)) return true;
    return false;
}

static ad_status check_kind(const ad_peft *p, ad_err *err)
{
    static const char *const lora[] = {"LORA", NULL}, *const tasks[] = {"CAUSAL_LM", NULL};
    static const char *const inits[] = {"gaussian", "eva", "orthogonal", NULL};
    const json_t *type = json_object_get(p->root, "peft_type"), *task = json_object_get(p->root, "task_type");
    const json_t *init = json_object_get(p->root, "init_lora_weights");
    if (!json_is_string(type)) return wrong(p, err, "peft_type", "is missing or not a string");
    if (!is_one_of(type, lora))
        return ad_fail(err, AD_EUNSUPPORTED, "%s: \"peft_type\" is \"%.40s\"; only LORA is supported", p->label, json_string_value(type));
    if (!is_empty(task) && !is_one_of(task, tasks))
        return ad_fail(err, AD_EUNSUPPORTED, "%s: \"task_type\" is not CAUSAL_LM: only adapters of language models are supported", p->label);
    if (is_empty(init) || json_is_true(init) || is_one_of(init, inits)) return AD_OK;
    if (!json_is_string(init)) return wrong(p, err, "init_lora_weights", "is neither a boolean nor a name");
    return ad_fail(err, AD_EUNSUPPORTED, "%s: \"init_lora_weights\" is \"%.40s\", which changes the base model; convert the adapter to plain LoRA when saving it",
                   p->label, json_string_value(init));
}

/* ---- numbers ---- */

static ad_status read_flag(const ad_peft *p, const char *key, bool *out, ad_err *err)
{
    const json_t *v = json_object_get(p->root, key);
    if (v && !json_is_boolean(v) && !json_is_null(v)) return wrong(p, err, key, "is not a boolean");
    *out = json_is_true(v);
    return AD_OK;
}

static ad_status read_numbers(ad_peft *p, ad_err *err)
{
    const json_t *r = json_object_get(p->root, "r"), *alpha = json_object_get(p->root, "lora_alpha");
    p->rank = 8;
    p->alpha = 8;
    if (r && (!json_is_integer(r) || json_integer_value(r) < 1 || json_integer_value(r) > MAX_RANK))
        return ad_fail(err, AD_EFORMAT, "%s: \"r\" is not a whole number from 1 to %d", p->label, MAX_RANK);
    if (alpha && !json_is_number(alpha)) return wrong(p, err, "lora_alpha", "is not a number");
    if (r) p->rank = (int)json_integer_value(r);
    if (alpha) p->alpha = json_number_value(alpha);
    ad_status st = read_flag(p, "use_rslora", &p->rslora, err);
    return st == AD_OK ? read_flag(p, "fan_in_fan_out", &p->fan_in_fan_out, err) : st;
}

/* ---- what there is beside pairs ---- */

static ad_status read_biases(ad_peft *p, ad_err *err)
{
    static const char *const names[] = {[AD_PEFT_BIAS_NONE] = "none", [AD_PEFT_BIAS_ALL] = "all", [AD_PEFT_BIAS_ADAPTED] = "lora_only"};
    const json_t *v = json_object_get(p->root, "bias");
    int kind = AD_PEFT_BIAS_NONE, kinds = (int)(sizeof names / sizeof *names);
    while (!is_empty(v) && kind < kinds && !(json_is_string(v) && !strcmp(json_string_value(v), names[kind]))) kind++;
    if (kind == kinds) return wrong(p, err, "bias", "is neither \"none\" nor \"all\" nor \"lora_only\"");
    p->bias = (ad_peft_bias)kind;
    ad_status st = read_flag(p, "use_dora", &p->dora, err);
    if (st == AD_OK) st = read_flag(p, "lora_bias", &p->lora_bias, err);
    if (st != AD_OK || !p->dora || !p->lora_bias) return st;
    return ad_fail(err, AD_EUNSUPPORTED, "%s: \"use_dora\" and \"lora_bias\" are both set, which PEFT does not define", p->label);
}

static ad_status add_tokens(ad_peft *p, const char *module, const json_t *list, ad_err *err)
{
    const char *key = "trainable_token_indices";
    ad_peft_tokens *t = &p->tokens[p->n_tokens];
    if (!json_is_array(list)) return wrong(p, err, key, "is neither a list of tokens nor lists of them by module");
    if (json_array_size(list) > MAX_TOKENS) return ad_fail(err, AD_ELIMIT, "%s: \"%s\" lists more than %d tokens", p->label, key, MAX_TOKENS);
    if (!json_array_size(list)) return wrong(p, err, key, "has an empty list");
    int32_t *ids = ad_calloc(json_array_size(list), sizeof *ids);
    if (!ids) return ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    *t = (ad_peft_tokens){.module = module, .ids = ids};
    p->n_tokens++;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX) return wrong(p, err, key, "holds something that is no token");
        ids[t->n++] = (int32_t)json_integer_value(v);
    }
    return AD_OK;
}

/* A list is the input embedding's; an object has a list for each module. */
static ad_status read_tokens(ad_peft *p, ad_err *err)
{
    const json_t *v = json_object_get(p->root, "trainable_token_indices");
    if (is_empty(v)) return AD_OK;
    p->tokens = ad_calloc(json_is_object(v) ? json_object_size(v) : 1, sizeof *p->tokens);
    if (!p->tokens) return ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    if (!json_is_object(v)) return add_tokens(p, "embed_tokens", v, err);
    const char *module;
    json_t *list;
    json_object_foreach((json_t *)v, module, list) {
        ad_status st = add_tokens(p, module, list, err);
        if (st != AD_OK) return st;
    }
    return AD_OK;
}

/* ---- regular expressions ---- */

/* before + text + after, compiled; anchored at the start, and at the end when `whole`. */
static ad_status compile(ad_peft *p, const char *key, const char *before, const char *text, const char *after, bool whole, pcre2_code **out, ad_err *err)
{
    size_t len = strlen(text);
    if (len > MAX_PATTERN) return ad_fail(err, AD_ELIMIT, "%s: \"%s\": a pattern is longer than %d bytes", p->label, key, MAX_PATTERN);
    if (++p->n_patterns > MAX_PATTERNS) return ad_fail(err, AD_ELIMIT, "%s: more than %d patterns", p->label, MAX_PATTERNS);
    ad_buf b = {0};
    ad_buf_puts(&b, before);
    ad_buf_append(&b, text, len);
    ad_buf_puts(&b, after);
    if (b.failed) return ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    uint32_t options = PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C | (whole ? PCRE2_ENDANCHORED : 0);
    int code;
    size_t at;
    *out = pcre2_compile((PCRE2_SPTR)b.data, b.len, options, &code, &at, NULL);
    ad_buf_deinit(&b);
    if (*out) return AD_OK;
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(code, why, sizeof why);
    return ad_fail(err, AD_EFORMAT, "%s: \"%s\": \"%.80s\" is not a regular expression: %s", p->label, key, text, (const char *)why);
}

static ad_status add_pattern(ad_peft *p, pattern_list *list, const char *key, const char *before, const char *text, const char *after, bool whole, double value, ad_err *err)
{
    pattern *more = realloc(list->items, (size_t)(list->n + 1) * sizeof *more);
    if (!more) return ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    list->items = more;
    more[list->n] = (pattern){.text = text, .value = value};
    ad_status st = compile(p, key, before, text, after, whole, &more[list->n].re, err);
    if (st == AD_OK) list->n++;
    return st;
}

static ad_status match(const ad_peft *p, const pattern *pat, const char *name, bool *yes, ad_err *err)
{
    int rc = pcre2_match(pat->re, (PCRE2_SPTR)name, strlen(name), 0, 0, p->match, p->limits);
    *yes = rc >= 0;
    if (rc >= 0 || rc == PCRE2_ERROR_NOMATCH) return AD_OK;
    PCRE2_UCHAR why[128] = "";
    pcre2_get_error_message(rc, why, sizeof why);
    return ad_fail(err, AD_EUNSUPPORTED, "%s: the pattern \"%.80s\" is too hard to match: %s", p->label, pat->text, (const char *)why);
}

static void free_patterns(pattern_list *list)
{
    for (int i = 0; i < list->n; i++) pcre2_code_free(list->items[i].re);
    free(list->items);
}

/* ---- what is targeted ---- */

static bool is_name_list(const json_t *v)
{
    if (!json_is_array(v)) return false;
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_string_length(json_array_get(v, i))) return false;
    return true;
}

static ad_status read_targets(ad_peft *p, ad_err *err)
{
    const json_t *v = json_object_get(p->root, "target_modules");
    p->target = TARGET_DEFAULT;
    if (!v || json_is_null(v)) return AD_OK;
    if (is_name_list(v)) {
        p->target = TARGET_LIST;
        p->targets = v;
        p->used = ad_calloc(json_array_size(v) + 1, sizeof *p->used);
        return p->used ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    }
    if (!json_is_string(v)) return wrong(p, err, "target_modules", "is neither a list of names nor a regular expression");
    p->target = TARGET_ALL_LINEAR;
    if (!strcasecmp(json_string_value(v), "all-linear")) return AD_OK;
    p->target = TARGET_REGEX;
    return add_pattern(p, &p->target_regex, "target_modules", "(?:", json_string_value(v), ")", true, 0, err);
}

static ad_status read_excluded(ad_peft *p, ad_err *err)
{
    const json_t *v = json_object_get(p->root, "exclude_modules");
    if (is_empty(v)) return AD_OK;
    if (is_name_list(v)) return p->excluded = v, AD_OK;
    if (!json_is_string(v)) return wrong(p, err, "exclude_modules", "is neither a list of names nor a regular expression");
    return add_pattern(p, &p->exclude_regex, "exclude_modules", "(?:", json_string_value(v), ")", true, 0, err);
}

static ad_status read_saved(ad_peft *p, ad_err *err)
{
    const json_t *v = json_object_get(p->root, "modules_to_save");
    if (is_empty(v)) return AD_OK;
    if (!is_name_list(v)) return wrong(p, err, "modules_to_save", "is not a list of names");
    p->saved = v;
    p->saved_used = ad_calloc(json_array_size(v), sizeof *p->saved_used);
    return p->saved_used ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
}

static bool is_layer(const json_t *v)
{
    return json_is_integer(v) && json_integer_value(v) >= 0;
}

static ad_status read_layers(ad_peft *p, ad_err *err)
{
    const json_t *v = json_object_get(p->root, "layers_to_transform"), *names = json_object_get(p->root, "layers_pattern");
    if (is_empty(v)) return is_empty(names) ? AD_OK : wrong(p, err, "layers_pattern", "is set without \"layers_to_transform\"");
    bool good = is_layer(v) || json_is_array(v);
    for (size_t i = 0; good && i < json_array_size(v); i++) good = is_layer(json_array_get(v, i));
    if (!good) return wrong(p, err, "layers_to_transform", "is neither a layer number nor a list of them");
    if (p->target == TARGET_REGEX || p->target == TARGET_ALL_LINEAR) return wrong(p, err, "layers_to_transform", "cannot be used when \"target_modules\" is a string");
    p->layers = v;
    if (is_empty(names)) return add_pattern(p, &p->layer_patterns, "layers_pattern", ".*?\\.", "[^.]*", "\\.(\\d+)\\.", false, 0, err);
    if (json_is_string(names)) return add_pattern(p, &p->layer_patterns, "layers_pattern", ".*?\\.", json_string_value(names), "\\.(\\d+)\\.", false, 0, err);
    if (!is_name_list(names)) return wrong(p, err, "layers_pattern", "is neither a name nor a list of names");
    ad_status st = AD_OK;
    for (size_t i = 0; st == AD_OK && i < json_array_size(names); i++)
        st = add_pattern(p, &p->layer_patterns, "layers_pattern", ".*?\\.", json_string_value(json_array_get(names, i)), "\\.(\\d+)\\.", false, 0, err);
    return st;
}

/* rank_pattern and alpha_pattern: jansson keeps the file's order. */
static ad_status read_pattern_map(ad_peft *p, const char *key, bool ranks, pattern_list *list, ad_err *err)
{
    const json_t *map = json_object_get(p->root, key);
    if (is_empty(map)) return AD_OK;
    if (!json_is_object(map)) return wrong(p, err, key, "is not an object");
    const char *text;
    json_t *v;
    json_object_foreach((json_t *)map, text, v) {
        bool good = ranks ? json_is_integer(v) && json_integer_value(v) >= 1 && json_integer_value(v) <= MAX_RANK : json_is_number(v);
        if (!good) return ad_fail(err, AD_EFORMAT, "%s: \"%s\": the value of \"%.80s\" is not a %s", p->label, key, text, ranks ? "rank from 1 to 1024" : "number");
        ad_status st = add_pattern(p, list, key, "(.*\\.)?(", text, ")$", false, json_number_value(v), err);
        if (st != AD_OK) return st;
    }
    return AD_OK;
}

static ad_status read_all(ad_peft *p, ad_err *err)
{
    p->match = pcre2_match_data_create(2, NULL);
    p->limits = pcre2_match_context_create(NULL);
    if (!p->match || !p->limits) return ad_fail(err, AD_ENOMEM, "%s: out of memory", p->label);
    pcre2_set_match_limit(p->limits, MATCH_LIMIT);
    pcre2_set_heap_limit(p->limits, HEAP_LIMIT_KB);
    ad_status st = check_kind(p, err);
    if (st == AD_OK) st = check_keys(p, err);
    if (st == AD_OK) st = read_numbers(p, err);
    if (st == AD_OK) st = read_biases(p, err);
    if (st == AD_OK) st = read_tokens(p, err);
    if (st == AD_OK) st = read_saved(p, err);
    if (st == AD_OK) st = read_targets(p, err);
    if (st == AD_OK) st = read_excluded(p, err);
    if (st == AD_OK) st = read_layers(p, err);
    if (st == AD_OK) st = read_pattern_map(p, "rank_pattern", true, &p->ranks, err);
    return st == AD_OK ? read_pattern_map(p, "alpha_pattern", false, &p->alphas, err) : st;
}

ad_status ad_peft_parse(ad_peft **out, const char *json, size_t len, const char *label, ad_err *err)
{
    json_error_t why;
    ad_peft *p = ad_calloc(1, sizeof *p);
    if (!p) return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    p->label = label;
    p->root = json_loadb(json, len, JSON_REJECT_DUPLICATES, &why);
    ad_status st = AD_OK;
    if (!p->root) st = ad_fail(err, AD_EFORMAT, "%s: line %d: %s", label, why.line, why.text);
    else if (!json_is_object(p->root)) st = ad_fail(err, AD_EFORMAT, "%s: not a JSON object", label);
    if (st == AD_OK) st = read_all(p, err);
    if (st == AD_OK) *out = p;
    else ad_peft_free(&p);
    return st;
}

void ad_peft_free(ad_peft **pp)
{
    ad_peft *p = *pp;
    if (!p) return;
    *pp = NULL;
    free_patterns(&p->target_regex);
    free_patterns(&p->exclude_regex);
    free_patterns(&p->ranks);
    free_patterns(&p->alphas);
    free_patterns(&p->layer_patterns);
    pcre2_match_data_free(p->match);
    pcre2_match_context_free(p->limits);
    for (int i = 0; i < p->n_tokens; i++) free((void *)p->tokens[i].ids);
    free(p->tokens);
    free(p->used);
    free(p->saved_used);
    json_decref(p->root);
    free(p);
}

/* ---- one module ---- */

static bool equals_or_ends(const char *name, const char *item, bool *equal)
{
    size_t n = strlen(name), k = strlen(item);
    *equal = n == k && !memcmp(name, item, k);
    return *equal || (n > k && name[n - k - 1] == '.' && !memcmp(name + n - k, item, k));
}

/* Whether a module, or one around it, is called `item`: such a module is never adapted. */
static bool is_part_of(const char *name, const char *item)
{
    size_t n = strlen(item);
    for (const char *at = name; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL)
        if (!strncmp(at, item, n) && (at[n] == '\0' || at[n] == '.')) return true;
    return false;
}

static ad_status is_excluded(const ad_peft *p, const ad_module *m, bool *yes, ad_err *err)
{
    bool equal;
    *yes = false;
    for (size_t i = 0; i < json_array_size(p->saved) && !*yes; i++) *yes = is_part_of(m->name, json_string_value(json_array_get(p->saved, i)));
    if (*yes) return AD_OK;
    for (size_t i = 0; i < json_array_size(p->excluded) && !*yes; i++) *yes = equals_or_ends(m->name, json_string_value(json_array_get(p->excluded, i)), &equal);
    return p->exclude_regex.n ? match(p, &p->exclude_regex.items[0], m->name, yes, err) : AD_OK;
}

static bool has_layer(const ad_peft *p, long layer)
{
    if (json_is_integer(p->layers)) return json_integer_value(p->layers) == layer;
    for (size_t i = 0; i < json_array_size(p->layers); i++)
        if (json_integer_value(json_array_get(p->layers, i)) == layer) return true;
    return false;
}

/* The layer number is the first group of the first pattern that matches; without one the module is not adapted. */
static ad_status in_layers(const ad_peft *p, const ad_module *m, bool *yes, ad_err *err)
{
    for (int i = 0; i < p->layer_patterns.n; i++) {
        ad_status st = match(p, &p->layer_patterns.items[i], m->name, yes, err);
        if (st != AD_OK) return st;
        if (!*yes) continue;
        const size_t *group = pcre2_get_ovector_pointer(p->match) + 2;
        *yes = group[0] != PCRE2_UNSET && has_layer(p, strtol(m->name + group[0], NULL, 10));
        return AD_OK;
    }
    *yes = false;
    return AD_OK;
}

static ad_status is_listed(ad_peft *p, const ad_module *m, bool *yes, ad_err *err)
{
    bool exact = false;
    *yes = false;
    for (size_t i = 0; i < json_array_size(p->targets); i++) {
        bool equal;
        if (!equals_or_ends(m->name, json_string_value(json_array_get(p->targets, i)), &equal)) continue;
        p->used[i] = *yes = true;
        exact |= equal;
    }
    return *yes && !exact && p->layers ? in_layers(p, m, yes, err) : AD_OK;
}

static ad_status is_target(ad_peft *p, const ad_module *m, bool *yes, ad_err *err)
{
    switch (p->target) {
    case TARGET_DEFAULT:
        *yes = m->kind == AD_MOD_Q || m->kind == AD_MOD_V;
        return *yes && p->layers ? in_layers(p, m, yes, err) : AD_OK;
    case TARGET_ALL_LINEAR: *yes = m->kind < AD_MOD_PER_LAYER; return AD_OK;
    case TARGET_REGEX: return match(p, &p->target_regex.items[0], m->name, yes, err);
    default: return is_listed(p, m, yes, err);
    }
}

static ad_status first_match(const ad_peft *p, const pattern_list *list, const char *name, double *value, ad_err *err)
{
    bool yes = false;
    ad_status st = AD_OK;
    for (int i = 0; st == AD_OK && !yes && i < list->n; i++) {
        st = match(p, &list->items[i], name, &yes, err);
        if (yes) *value = list->items[i].value;
    }
    return st;
}

ad_status ad_peft_plan_module(ad_peft *p, const ad_module *m, ad_peft_plan *out, ad_err *err)
{
    bool excluded, target = false;
    double rank = p->rank, alpha = p->alpha;
    *out = (ad_peft_plan){0};
    ad_status st = is_excluded(p, m, &excluded, err);
    if (st == AD_OK && !excluded) st = is_target(p, m, &target, err);
    if (st != AD_OK || !target) return st;
    st = first_match(p, &p->ranks, m->name, &rank, err);
    if (st == AD_OK) st = first_match(p, &p->alphas, m->name, &alpha, err);
    if (st == AD_OK) *out = (ad_peft_plan){(int)rank, (float)(alpha / (p->rslora ? sqrt(rank) : rank)), p->dora, p->lora_bias};
    if (st == AD_OK && p->lora_bias && m->kind == AD_MOD_EMBED)
        return ad_fail(err, AD_EUNSUPPORTED, "%s: \"lora_bias\" is set and \"%s\" is targeted: an embedding has no bias", p->label, m->name);
    return st;
}

const char *ad_peft_idle_target(const ad_peft *p, int i)
{
    for (size_t t = 0; t < json_array_size(p->targets); t++)
        if (!p->used[t] && i-- == 0) return json_string_value(json_array_get(p->targets, t));
    return NULL;
}

/* Some prefix of the name, up to a dot or the end, ends with the item: not behind a dot, so "norm" saves every norm. */
static bool is_saved_by(const char *name, const char *item)
{
    size_t k = strlen(item);
    for (size_t end = 0;; end++) {
        if (name[end] && name[end] != '.') continue;
        if (end >= k && !memcmp(name + end - k, item, k)) return true;
        if (!name[end]) return false;
    }
}

bool ad_peft_saves(ad_peft *p, const char *name)
{
    bool yes = false;
    for (size_t i = 0; i < json_array_size(p->saved); i++) {
        if (!is_saved_by(name, json_string_value(json_array_get(p->saved, i)))) continue;
        p->saved_used[i] = yes = true;
    }
    return yes;
}

const char *ad_peft_idle_saved(const ad_peft *p, int i)
{
    for (size_t t = 0; t < json_array_size(p->saved); t++)
        if (!p->saved_used[t] && i-- == 0) return json_string_value(json_array_get(p->saved, t));
    return NULL;
}

ad_peft_bias ad_peft_biases(const ad_peft *p) { return p->bias; }
const ad_peft_tokens *ad_peft_trained_tokens(const ad_peft *p, int i) { return i < p->n_tokens ? &p->tokens[i] : NULL; }

bool ad_peft_fan_in_fan_out(const ad_peft *p)
{
    return p->fan_in_fan_out;
}

const char *ad_peft_base_model(const ad_peft *p)
{
    const json_t *v = json_object_get(p->root, "base_model_name_or_path");
    return json_string_length(v) ? json_string_value(v) : NULL;
}
