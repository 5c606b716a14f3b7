/* SPDX-License-Identifier: MIT */
/* Every field by type and range; null is absent; what would change the answer and is not served is refused. */
#include "server/api/request.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

const json_t *ad_read_field(const ad_reader *rd, const char *name)
{
    return ad_json_member(rd->object, name);
}

bool ad_read_wrong(const ad_reader *rd, const char *param, const char *what)
{
    return ad_fault_set(rd->f, 400, "invalid_value", param, "`%s` %s", param, what);
}

/* ---- scalars ---- */

bool ad_read_number(const ad_reader *rd, const char *name, double min, double max, bool open_min, float *out)
{
    const json_t *v = ad_read_field(rd, name);
    if (!v) return true;
    if (!json_is_number(v)) return ad_read_wrong(rd, name, "must be a number");
    double d = json_number_value(v);
    if (!(d <= max) || !(open_min ? (float)d > (float)min : d >= min))
        return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` is %g; it must be %s %g and at most %g", name, d, open_min ? "above" : "at least", min, max);
    *out = (float)d;
    return true;
}

bool ad_read_integer(const ad_reader *rd, const char *name, json_int_t min, json_int_t max, int *out)
{
    const json_t *v = ad_read_field(rd, name);
    if (!v) return true;
    if (!json_is_integer(v)) return ad_read_wrong(rd, name, "must be a whole number");
    json_int_t i = json_integer_value(v);
    if (i < min || i > max) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` is %lld; it must be from %lld to %lld", name, (long long)i, (long long)min, (long long)max);
    *out = (int)i;
    return true;
}

bool ad_read_flag(const ad_reader *rd, const char *name, bool *out)
{
    const json_t *v = ad_read_field(rd, name);
    if (!v) return true;
    if (!json_is_boolean(v)) return ad_read_wrong(rd, name, "must be true or false");
    *out = json_is_true(v);
    return true;
}

bool ad_read_string(const ad_reader *rd, const char *name, size_t max, ad_str *out)
{
    const json_t *v = ad_read_field(rd, name);
    if (!v) return true;
    if (!json_is_string(v) || !json_string_length(v) || json_string_length(v) > max)
        return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` must be a string of 1 to %zu bytes", name, max);
    *out = (ad_str){json_string_value(v), json_string_length(v)};
    return true;
}

static bool is_idle(const json_t *v)
{
    if (!v || json_is_null(v) || json_is_false(v)) return true;
    if (json_is_number(v)) return json_number_value(v) == 0;
    if (json_is_string(v)) return !json_string_length(v);
    return json_is_array(v) ? !json_array_size(v) : json_is_object(v) && !json_object_size(v);
}

bool ad_read_unserved(const ad_reader *rd, const char *const *names, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!is_idle(ad_read_field(rd, names[i]))) return ad_fault_set(rd->f, 400, "unsupported_parameter", names[i], "`%s` is not supported", names[i]);
    return true;
}

/* ---- who answers ---- */

bool ad_read_model(const ad_reader *rd, bool required)
{
    const json_t *v = ad_read_field(rd, "model");
    if (!v && !required) return true;
    if (!v) return ad_read_wrong(rd, "model", "is missing: name the base model or an adapter");
    if (!json_is_string(v)) return ad_read_wrong(rd, "model", "must be a string");
    if (strlen(json_string_value(v)) != json_string_length(v)) return ad_read_wrong(rd, "model", "holds a NUL character");
    if (required || json_string_length(v)) rd->r->model = json_string_value(v);
    return true;
}

bool ad_is_weight(const json_t *v)
{
    return json_is_number(v) && fabs(json_number_value(v)) <= AD_MAX_WEIGHT;
}

static bool add_adapter(const ad_reader *rd, const json_t *v)
{
    const json_t *name = json_object_get(v, "name"), *weight = json_object_get(v, "weight");
    double w = weight && !json_is_null(weight) ? json_number_value(weight) : 1;
    if (!json_is_string(name) || strlen(json_string_value(name)) != json_string_length(name)) return ad_read_wrong(rd, "adapters", "must be an array of objects with a \"name\"");
    if (weight && !json_is_null(weight) && !ad_is_weight(weight)) return ad_read_wrong(rd, "adapters", "has a \"weight\" that is not a number from -1000 to 1000");
    if (rd->r->n_adapters == AD_MAX_MIX) return ad_fault_set(rd->f, 400, "invalid_value", "adapters", "`adapters` has more than %d entries", AD_MAX_MIX);
    rd->r->adapters[rd->r->n_adapters++] = (ad_weighted_name){json_string_value(name), (float)w};
    return true;
}

bool ad_read_lora(const json_t *v, const char *param, ad_fault *f)
{
    static const char shape[] = "must be an array of objects with 'id' and 'scale' fields";
    bool good = json_is_array(v);
    for (size_t i = 0; good && i < json_array_size(v); i++) {
        const json_t *id = json_object_get(json_array_get(v, i), "id"), *scale = json_object_get(json_array_get(v, i), "scale");
        good = json_is_integer(id) && json_integer_value(id) >= 0 && json_integer_value(id) <= INT32_MAX && ad_is_weight(scale);
    }
    return good || ad_fault_set(f, 400, "invalid_value", param, "'%s' %s", param, shape);
}

bool ad_read_adapters(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "adapters");
    if (v && !json_is_array(v)) return ad_read_wrong(rd, "adapters", "must be an array of objects with a \"name\"");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_adapter(rd, json_array_get(v, i))) return false;
    rd->r->lora = ad_read_field(rd, "lora");
    if (rd->r->lora && !ad_read_lora(rd->r->lora, "lora", rd->f)) return false;
    return ad_read_string(rd, "cache_salt", 256, &rd->r->cache_salt);
}

/* vLLM's is a number, of which lower ones come earlier; 0 is its default. */
static bool read_priority(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "priority");
    const char *name = json_string_value(v);
    if (!name) return !v || json_is_integer(v) ? ad_read_integer(rd, "priority", INT32_MIN, INT32_MAX, &rd->r->priority) : ad_read_wrong(rd, "priority", "must be \"interactive\", \"batch\" or a whole number");
    rd->r->priority = !strcmp(name, "batch");
    return rd->r->priority || !strcmp(name, "interactive") || ad_read_wrong(rd, "priority", "must be \"interactive\", \"batch\" or a whole number");
}

bool ad_read_turn(const ad_reader *rd)
{
    return read_priority(rd) && ad_read_integer(rd, "deadline_ms", 1, AD_MAX_DEADLINE_MS, &rd->r->deadline_ms);
}

bool ad_read_target(const ad_reader *rd)
{
    return ad_read_model(rd, true) && ad_read_adapters(rd) && ad_read_turn(rd);
}

/* ---- sampling ---- */

bool ad_read_seed(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "seed");
    uint64_t *seed = &rd->r->sampling.seed;
    if (!v) return getrandom(seed, sizeof *seed, 0) == sizeof *seed || ad_read_wrong(rd, "seed", "cannot be drawn");
    if (!json_is_integer(v)) return ad_read_wrong(rd, "seed", "must be a whole number");
    *seed = (uint64_t)json_integer_value(v);
    return true;
}

bool ad_read_sampling(const ad_reader *rd)
{
    ad_sampling *s = &rd->r->sampling;
    int top_k = s->top_k;
    bool good = ad_read_integer(rd, "min_tokens", 0, INT32_MAX, &s->min_tokens) && ad_read_number(rd, "temperature", 0, 2, false, &s->temperature) &&
                ad_read_number(rd, "top_p", 0, 1, true, &s->top_p) && ad_read_number(rd, "min_p", 0, 1, false, &s->min_p) &&
                ad_read_integer(rd, "top_k", -1, INT32_MAX, &top_k) && ad_read_number(rd, "repetition_penalty", AD_MIN_REPETITION_PENALTY, 10, false, &s->repetition_penalty) &&
                ad_read_number(rd, "presence_penalty", -2, 2, false, &s->presence_penalty) && ad_read_number(rd, "frequency_penalty", -2, 2, false, &s->frequency_penalty) &&
                ad_read_flag(rd, "ignore_eos", &s->ignore_eos) && ad_read_seed(rd);
    if (!good) return false;
    s->top_k = top_k > 0 ? top_k : 0; /* -1 is off, as vLLM has it */
    return !rd->r->max_tokens_given || s->min_tokens <= s->max_tokens || ad_read_wrong(rd, "min_tokens", "is more than `max_tokens`");
}

static bool add_bias(const ad_reader *rd, const char *key, const json_t *v)
{
    ad_request *r = rd->r;
    char *end;
    long id = strtol(key, &end, 10);
    if (*key < '0' || *key > '9' || *end || id >= rd->cx->vocab)
        return ad_fault_set(rd->f, 400, "invalid_value", "logit_bias", "`logit_bias` has the key \"%.40s\", which is no token id; the vocabulary has 0 to %d", key, rd->cx->vocab - 1);
    double bias = json_number_value(v);
    if (!json_is_number(v) || !(bias >= -100 && bias <= 100)) return ad_read_wrong(rd, "logit_bias", "has a value that is not a number from -100 to 100");
    r->logit_bias[r->sampling.n_logit_bias++] = (ad_logit_bias){(int32_t)id, (float)bias};
    return true;
}

bool ad_read_logit_bias(const ad_reader *rd)
{
    json_t *map = (json_t *)ad_read_field(rd, "logit_bias"), *v;
    ad_request *r = rd->r;
    const char *key;
    if (!map) return true;
    if (!json_is_object(map) || json_object_size(map) > AD_MAX_BIASES) return ad_read_wrong(rd, "logit_bias", "must be an object of at most 1024 token ids and their biases");
    if (!json_object_size(map)) return true;
    r->logit_bias = ad_calloc(json_object_size(map), sizeof *r->logit_bias);
    if (!r->logit_bias) return ad_fault_no_memory(rd->f);
    r->sampling.logit_bias = r->logit_bias;
    json_object_foreach(map, key, v)
        if (!add_bias(rd, key, v)) return false;
    return true;
}

static bool read_ids(const ad_reader *rd, const char *name, size_t max, ad_ids *ids)
{
    const json_t *list = ad_read_field(rd, name);
    if (!list) return true;
    if (!json_is_array(list) || json_array_size(list) > max) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` must be an array of at most %zu token ids", name, max);
    for (size_t i = 0; i < json_array_size(list); i++)
        if (!ad_read_id(rd, name, json_array_get(list, i), i, ids)) return false;
    return true;
}

bool ad_read_token_ids(const ad_reader *rd)
{
    ad_request *r = rd->r;
    if (!read_ids(rd, "stop_token_ids", AD_MAX_STOP_IDS, &r->stop_ids) || !read_ids(rd, "allowed_token_ids", (size_t)rd->cx->vocab, &r->allowed_ids)) return false;
    r->sampling.stop_token_ids = r->stop_ids.ids;
    r->sampling.n_stop_token_ids = (int)r->stop_ids.count;
    r->sampling.allowed_token_ids = r->allowed_ids.ids;
    r->sampling.n_allowed_token_ids = (int)r->allowed_ids.count;
    return true;
}

/* ---- stop strings, stream options ---- */

static bool add_stop(const ad_reader *rd, const char *name, int max, const json_t *v)
{
    if (!json_is_string(v) || !json_string_length(v)) return ad_read_wrong(rd, name, "must be a non-empty string or an array of them");
    if (rd->r->n_stops == max) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` has more than %d strings", name, max);
    rd->r->stops[rd->r->n_stops++] = (ad_str){json_string_value(v), json_string_length(v)};
    return true;
}

bool ad_read_stops(const ad_reader *rd, const char *name, int max)
{
    const json_t *v = ad_read_field(rd, name);
    if (!v) return true;
    if (!json_is_array(v)) return add_stop(rd, name, max, v);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_stop(rd, name, max, json_array_get(v, i))) return false;
    return true;
}

bool ad_read_stream(const ad_reader *rd)
{
    const json_t *v = ad_read_field(rd, "stream_options");
    if (!ad_read_flag(rd, "stream", &rd->r->stream)) return false;
    if (!v) return true;
    if (!json_is_object(v)) return ad_read_wrong(rd, "stream_options", "must be an object");
    if (!rd->r->stream) return ad_read_wrong(rd, "stream_options", "is only allowed with `stream`: true");
    const json_t *usage = json_object_get(v, "include_usage");
    if (usage && !json_is_boolean(usage) && !json_is_null(usage)) return ad_read_wrong(rd, "stream_options", "has an include_usage that is not true or false");
    rd->r->include_usage = json_is_true(usage);
    return true;
}

bool ad_read_token_options(const ad_reader *rd)
{
    ad_request *r = rd->r;
    return ad_read_flag(rd, "return_token_ids", &r->return_token_ids) && ad_read_flag(rd, "return_tokens_as_token_ids", &r->tokens_as_ids) &&
           ad_read_flag(rd, "skip_special_tokens", &r->skip_special);
}

/* ---- prompts ---- */

static bool check_length(const ad_reader *rd, const char *name, size_t n)
{
    const ad_request *r = rd->r;
    size_t context = (size_t)rd->cx->context;
    const char *note = rd->cx->context_note ? rd->cx->context_note : "";
    if (!n) return ad_read_wrong(rd, name, "is empty: it has no tokens");
    if (n > context || (n == context && r->sampling.max_tokens > 0))
        return ad_fault_set(rd->f, 400, "context_length_exceeded", name, "This model's maximum context length is %zu tokens%s, but `%s` has %zu", context, note, name, n);
    if (r->max_tokens_given && (size_t)r->sampling.max_tokens > context - n)
        return ad_fault_set(rd->f, 400, "context_length_exceeded", "max_tokens",
                            "This model's maximum context length is %zu tokens%s, but `%s` has %zu and %d more are asked for", context, note, name, n, r->sampling.max_tokens);
    return true;
}

bool ad_request_reserve(const ad_reader *rd, size_t n)
{
    rd->r->prompts = ad_calloc(n, sizeof *rd->r->prompts);
    return rd->r->prompts || ad_fault_no_memory(rd->f);
}

bool ad_request_add_prompt(const ad_reader *rd, const char *name, ad_ids ids)
{
    rd->r->prompts[rd->r->n_prompts++].ids = ids;
    return check_length(rd, name, ids.count);
}

bool ad_request_add_text(const ad_reader *rd, const char *name, ad_str text, bool special)
{
    ad_prompt *p = &rd->r->prompts[rd->r->n_prompts++];
    ad_err err;
    ad_status st = ad_tokenizer_encode(rd->cx->tokenizer, text.ptr, text.len, AD_ENCODE_PARSE_SPECIAL | (special ? AD_ENCODE_ADD_SPECIAL : 0), &p->ids, &err);
    return st == AD_OK ? check_length(rd, name, p->ids.count) : ad_fault_from(rd->f, &err, name);
}

bool ad_read_id(const ad_reader *rd, const char *name, const json_t *v, size_t at, ad_ids *ids)
{
    if (!json_is_integer(v)) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` holds something other than token ids at position %zu", name, at);
    json_int_t id = json_integer_value(v);
    if (id < 0 || id >= rd->cx->vocab)
        return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` holds token id %lld at position %zu; the vocabulary has 0 to %d", name, (long long)id, at, rd->cx->vocab - 1);
    if (ad_grow(&ids->ids, &ids->cap, ids->count + 1, sizeof(int32_t)) != AD_OK) return ad_fault_set(rd->f, 503, NULL, name, "out of memory for the tokens");
    ids->ids[ids->count++] = (int32_t)id;
    return true;
}

static bool add_ids(const ad_reader *rd, const char *name, const json_t *list)
{
    ad_prompt *p = &rd->r->prompts[rd->r->n_prompts++];
    size_t n = json_array_size(list);
    for (size_t i = 0; i < n; i++)
        if (!ad_read_id(rd, name, json_array_get(list, i), i, &p->ids)) return false;
    return check_length(rd, name, n);
}

static bool read_prompt(const ad_reader *rd, const char *name, const json_t *v, bool special)
{
    if (json_is_array(v)) return add_ids(rd, name, v);
    if (!json_is_string(v)) return ad_read_wrong(rd, name, "must be a string, an array of strings, an array of token ids, or an array of such arrays");
    ad_str text = {json_string_value(v), json_string_length(v)};
    rd->r->prompts[rd->r->n_prompts].text = text;
    return ad_request_add_text(rd, name, text, special);
}

bool ad_read_prompts(const ad_reader *rd, const char *name, bool special)
{
    const json_t *v = ad_read_field(rd, name);
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (!v) return ad_read_wrong(rd, name, "is missing");
    if (!n) return ad_read_wrong(rd, name, "is an empty array");
    if (n > AD_MAX_PROMPTS) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` has %zu entries; at most %d are allowed", name, n, AD_MAX_PROMPTS);
    if (!ad_request_reserve(rd, n)) return false;
    if (!many) return read_prompt(rd, name, v, special);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(v, i);
        if (json_typeof(one) != json_typeof(json_array_get(v, 0))) return ad_read_wrong(rd, name, "mixes strings with arrays of token ids");
        if (!read_prompt(rd, name, one, special)) return false;
    }
    return true;
}

/* ---- the whole ---- */

/* The same request, or the same user, goes the same way at every draw. */
static uint64_t hash_of(const json_t *root, const char *body, size_t len)
{
    const json_t *user = json_object_get(root, "user");
    uint64_t h = 0xcbf29ce484222325u; /* FNV-1a, then mixed: alias weights look at the low digits */
    if (json_string_length(user)) body = json_string_value(user), len = json_string_length(user);
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)body[i]) * 0x100000001b3u;
    h ^= h >> 33, h *= 0xff51afd7ed558ccdu;
    return h ^ h >> 33;
}

bool ad_request_open(ad_request *r, const char *body, size_t len, ad_fault *f)
{
    json_error_t why;
    *r = (ad_request){.n = 1, .best_of = 1, .skip_special = true};
    r->sampling = (ad_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .max_tokens = INT32_MAX, .logprobs = -1, .prompt_logprobs = -1};
    r->root = ad_read_json(body, len, JSON_ALLOW_NUL, &why);
    if (!r->root) return ad_fault_set(f, 400, "invalid_json", NULL, "The body is not valid JSON: line %d, column %d: %s", why.line, why.column, why.text);
    if (!json_is_object(r->root)) return ad_fault_set(f, 400, "invalid_json", NULL, "The body is not a JSON object");
    r->hash = hash_of(r->root, body, len);
    return true;
}

void ad_request_deinit(ad_request *r)
{
    for (int i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids.ids);
    free(r->prompts);
    free(r->logit_bias);
    free(r->stop_ids.ids);
    free(r->allowed_ids.ids);
    ad_grammar_release(&r->grammar);
    if (r->extra) r->free_extra(r->extra);
    json_decref(r->root);
    memset(r, 0, sizeof *r);
}

static void text_free(void *text)
{
    ad_buf_deinit(text);
    free(text);
}

ad_buf *ad_request_new_text(const ad_reader *rd)
{
    ad_buf *text = ad_calloc(1, sizeof *text);
    if (!text) ad_fault_no_memory(rd->f);
    rd->r->extra = text;
    rd->r->free_extra = text_free;
    return text;
}

int ad_request_max_tokens(const ad_request *r, int prompt, int context)
{
    int room = context - (int)r->prompts[prompt].ids.count;
    return r->sampling.max_tokens < room ? r->sampling.max_tokens : room;
}
