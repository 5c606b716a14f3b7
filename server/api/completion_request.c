/* SPDX-License-Identifier: MIT */
/* Every field by type and range; null is absent; what would change the answer and is not served is refused. */
#include "server/api/completion_request.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

enum { DEFAULT_MAX_TOKENS = 16 };

typedef struct {
    ad_completion_request *r;
    const ad_tokenizer *tk;
    int vocab, context;
    bool add_special;
    ad_fault *f;
} reader;

static bool wrong(const reader *rd, const char *param, const char *what)
{
    return ad_fault_set(rd->f, 400, "invalid_value", param, "`%s` %s", param, what);
}

static const json_t *field(const reader *rd, const char *name)
{
    const json_t *v = json_object_get(rd->r->root, name);
    return json_is_null(v) ? NULL : v;
}

/* ---- scalars ---- */

static bool read_number(const reader *rd, const char *name, double min, double max, bool open_min, float *out)
{
    const json_t *v = field(rd, name);
    if (!v) return true;
    if (!json_is_number(v)) return wrong(rd, name, "must be a number");
    double d = json_number_value(v);
    if (!(d <= max) || !(open_min ? d > min : d >= min))
        return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` is %g; it must be %s %g and at most %g", name, d, open_min ? "above" : "at least", min, max);
    *out = (float)d;
    return true;
}

static bool read_integer(const reader *rd, const char *name, json_int_t min, json_int_t max, int *out)
{
    const json_t *v = field(rd, name);
    if (!v) return true;
    if (!json_is_integer(v)) return wrong(rd, name, "must be a whole number");
    json_int_t i = json_integer_value(v);
    if (i < min || i > max) return ad_fault_set(rd->f, 400, "invalid_value", name, "`%s` is %lld; it must be from %lld to %lld", name, (long long)i, (long long)min, (long long)max);
    *out = (int)i;
    return true;
}

static bool read_flag(const reader *rd, const char *name, bool *out)
{
    const json_t *v = field(rd, name);
    if (!v) return true;
    if (!json_is_boolean(v)) return wrong(rd, name, "must be true or false");
    *out = json_is_true(v);
    return true;
}

static bool read_seed(const reader *rd, uint64_t *seed)
{
    const json_t *v = field(rd, "seed");
    if (!v) return getrandom(seed, sizeof *seed, 0) == sizeof *seed || wrong(rd, "seed", "cannot be drawn");
    if (!json_is_integer(v)) return wrong(rd, "seed", "must be a whole number");
    *seed = (uint64_t)json_integer_value(v);
    return true;
}

static bool read_sampling(const reader *rd)
{
    ad_sampling *s = &rd->r->sampling;
    *s = (ad_sampling){.temperature = 1, .top_p = 1, .repetition_penalty = 1, .max_tokens = DEFAULT_MAX_TOKENS, .logprobs = -1, .prompt_logprobs = -1};
    rd->r->max_tokens_given = field(rd, "max_tokens") != NULL;
    int top_k = 0;
    bool good = read_integer(rd, "max_tokens", 0, INT32_MAX, &s->max_tokens) && read_integer(rd, "min_tokens", 0, INT32_MAX, &s->min_tokens) &&
                read_number(rd, "temperature", 0, 2, false, &s->temperature) && read_number(rd, "top_p", 0, 1, true, &s->top_p) &&
                read_number(rd, "min_p", 0, 1, false, &s->min_p) && read_integer(rd, "top_k", -1, INT32_MAX, &top_k) &&
                read_number(rd, "repetition_penalty", 0, 10, true, &s->repetition_penalty) && read_number(rd, "presence_penalty", -2, 2, false, &s->presence_penalty) &&
                read_number(rd, "frequency_penalty", -2, 2, false, &s->frequency_penalty) && read_integer(rd, "logprobs", 0, 5, &s->logprobs) &&
                read_flag(rd, "ignore_eos", &s->ignore_eos) && read_seed(rd, &s->seed);
    if (!good) return false;
    s->top_k = top_k > 0 ? top_k : 0; /* -1 is off, as vLLM has it */
    if (rd->r->echo) s->prompt_logprobs = s->logprobs;
    if (s->min_tokens > s->max_tokens && rd->r->max_tokens_given) return wrong(rd, "min_tokens", "is more than `max_tokens`");
    return true;
}

/* ---- stop strings, stream options ---- */

static bool add_stop(const reader *rd, const json_t *v)
{
    if (!json_is_string(v) || !json_string_length(v)) return wrong(rd, "stop", "must be a non-empty string or an array of them");
    if (rd->r->n_stops == AD_MAX_STOPS) return wrong(rd, "stop", "has more than 4 strings");
    rd->r->stops[rd->r->n_stops++] = (ad_str){json_string_value(v), json_string_length(v)};
    return true;
}

static bool read_stops(const reader *rd)
{
    const json_t *v = field(rd, "stop");
    if (!v) return true;
    if (!json_is_array(v)) return add_stop(rd, v);
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_stop(rd, json_array_get(v, i))) return false;
    return true;
}

static bool read_stream(const reader *rd)
{
    const json_t *v = field(rd, "stream_options");
    if (!read_flag(rd, "stream", &rd->r->stream)) return false;
    if (!v) return true;
    if (!json_is_object(v)) return wrong(rd, "stream_options", "must be an object");
    if (!rd->r->stream) return wrong(rd, "stream_options", "is only allowed with `stream`: true");
    const json_t *usage = json_object_get(v, "include_usage");
    if (usage && !json_is_boolean(usage) && !json_is_null(usage)) return wrong(rd, "stream_options", "has an include_usage that is not true or false");
    rd->r->include_usage = json_is_true(usage);
    return true;
}

/* ---- adapters, cache ---- */

static bool add_adapter(const reader *rd, const json_t *v)
{
    const json_t *name = json_object_get(v, "name"), *weight = json_object_get(v, "weight");
    double w = weight && !json_is_null(weight) ? json_number_value(weight) : 1;
    if (!json_is_string(name) || strlen(json_string_value(name)) != json_string_length(name)) return wrong(rd, "adapters", "must be an array of objects with a \"name\"");
    if ((weight && !json_is_null(weight) && !json_is_number(weight)) || !isfinite((float)w)) return wrong(rd, "adapters", "has a \"weight\" that is not a number");
    if (rd->r->n_adapters == AD_MAX_MIX) return ad_fault_set(rd->f, 400, "invalid_value", "adapters", "`adapters` has more than %d entries", AD_MAX_MIX);
    rd->r->adapters[rd->r->n_adapters++] = (ad_weighted_name){json_string_value(name), (float)w};
    return true;
}

static bool read_adapters(const reader *rd)
{
    const json_t *v = field(rd, "adapters");
    if (v && !json_is_array(v)) return wrong(rd, "adapters", "must be an array of objects with a \"name\"");
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!add_adapter(rd, json_array_get(v, i))) return false;
    return true;
}

static bool read_cache_salt(const reader *rd)
{
    const json_t *v = field(rd, "cache_salt");
    if (!v) return true;
    if (!json_is_string(v) || !json_string_length(v) || json_string_length(v) > 256) return wrong(rd, "cache_salt", "must be a string of 1 to 256 bytes");
    rd->r->cache_salt = (ad_str){json_string_value(v), json_string_length(v)};
    return true;
}

/* ---- what is not served ---- */

static bool is_idle(const json_t *v)
{
    if (!v || json_is_null(v) || json_is_false(v)) return true;
    if (json_is_string(v)) return !json_string_length(v);
    return json_is_array(v) ? !json_array_size(v) : json_is_object(v) && !json_object_size(v);
}

static bool refuse_unserved(const reader *rd)
{
    static const char *const names[] = {"suffix", "logit_bias", "stop_token_ids", "use_beam_search", "include_stop_str_in_output", "truncate_prompt_tokens",
                                        "prompt_logprobs", "response_format", "structured_outputs", "guided_json", "guided_regex", "guided_choice",
                                        "guided_grammar", "grammar", "json_schema", "logits_processors", "bad_words", "allowed_token_ids", "prompt_embeds"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (!is_idle(field(rd, names[i]))) return ad_fault_set(rd->f, 400, "unsupported_parameter", names[i], "`%s` is not supported", names[i]);
    int best_of = rd->r->n;
    if (!read_integer(rd, "best_of", 1, AD_MAX_CHOICES, &best_of)) return false;
    return best_of == rd->r->n || ad_fault_set(rd->f, 400, "unsupported_parameter", "best_of", "`best_of` other than `n` is not supported");
}

/* ---- prompts ---- */

static bool check_length(const reader *rd, const ad_prompt *p)
{
    const ad_completion_request *r = rd->r;
    size_t n = p->ids.count;
    if (!n) return wrong(rd, "prompt", "is empty: it has no tokens");
    if (n > (size_t)rd->context || (n == (size_t)rd->context && r->sampling.max_tokens > 0))
        return ad_fault_set(rd->f, 400, "context_length_exceeded", "prompt", "This model's maximum context length is %d tokens, but `prompt` has %zu", rd->context, n);
    if (r->max_tokens_given && (size_t)r->sampling.max_tokens > (size_t)rd->context - n)
        return ad_fault_set(rd->f, 400, "context_length_exceeded", "max_tokens",
                            "This model's maximum context length is %d tokens, but `prompt` has %zu and `max_tokens` asks for %d more", rd->context, n, r->sampling.max_tokens);
    return true;
}

static bool add_text(const reader *rd, ad_prompt *p, const json_t *v)
{
    ad_err err;
    p->text = (ad_str){json_string_value(v), json_string_length(v)};
    ad_status st = ad_tokenizer_encode(rd->tk, p->text.ptr, p->text.len, AD_ENCODE_PARSE_SPECIAL | (rd->add_special ? AD_ENCODE_ADD_SPECIAL : 0), &p->ids, &err);
    return st == AD_OK ? check_length(rd, p) : ad_fault_from(rd->f, &err, "prompt");
}

static bool add_ids(const reader *rd, ad_prompt *p, const json_t *list)
{
    size_t n = json_array_size(list);
    if (ad_grow(&p->ids.ids, &p->ids.cap, n + 1, sizeof(int32_t)) != AD_OK) return ad_fault_set(rd->f, 503, NULL, "prompt", "out of memory for the prompt");
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        if (!json_is_integer(v)) return ad_fault_set(rd->f, 400, "invalid_value", "prompt", "`prompt` holds something other than token ids at position %zu", i);
        json_int_t id = json_integer_value(v);
        if (id < 0 || id >= rd->vocab)
            return ad_fault_set(rd->f, 400, "invalid_value", "prompt", "`prompt` holds token id %lld at position %zu; the vocabulary has 0 to %d", (long long)id, i, rd->vocab - 1);
        p->ids.ids[p->ids.count++] = (int32_t)id;
    }
    return check_length(rd, p);
}

static bool add_prompt(const reader *rd, const json_t *v)
{
    ad_prompt *p = &rd->r->prompts[rd->r->n_prompts++];
    if (json_is_string(v)) return add_text(rd, p, v);
    if (json_is_array(v)) return add_ids(rd, p, v);
    return wrong(rd, "prompt", "must be a string, an array of strings, an array of token ids, or an array of such arrays");
}

static bool read_prompts(const reader *rd)
{
    const json_t *v = field(rd, "prompt");
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (!v) return wrong(rd, "prompt", "is missing");
    if (!n) return wrong(rd, "prompt", "is an empty array");
    if (n > AD_MAX_PROMPTS) return ad_fault_set(rd->f, 400, "invalid_value", "prompt", "`prompt` has %zu prompts; at most %d are allowed", n, AD_MAX_PROMPTS);
    rd->r->prompts = ad_calloc(n, sizeof *rd->r->prompts);
    if (!rd->r->prompts) return ad_fault_set(rd->f, 503, NULL, "prompt", "out of memory for the prompts");
    if (!many) return add_prompt(rd, v);
    for (size_t i = 0; i < n; i++) {
        const json_t *one = json_array_get(v, i);
        if (json_typeof(one) != json_typeof(json_array_get(v, 0))) return wrong(rd, "prompt", "mixes strings with arrays of token ids");
        if (!add_prompt(rd, one)) return false;
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

static bool read_all(reader *rd)
{
    ad_completion_request *r = rd->r;
    const json_t *model = field(rd, "model");
    r->n = 1;
    r->skip_special = rd->add_special = true;
    if (!model) return wrong(rd, "model", "is missing: name the base model or an adapter");
    if (!json_is_string(model)) return wrong(rd, "model", "must be a string");
    r->model = json_string_value(model);
    if (strlen(r->model) != json_string_length(model)) return wrong(rd, "model", "holds a NUL character");
    return read_integer(rd, "n", 1, AD_MAX_CHOICES, &r->n) && read_flag(rd, "echo", &r->echo) && read_sampling(rd) && read_stops(rd) && read_stream(rd) &&
           read_flag(rd, "return_token_ids", &r->return_token_ids) && read_flag(rd, "return_tokens_as_token_ids", &r->tokens_as_ids) &&
           read_flag(rd, "skip_special_tokens", &r->skip_special) && read_flag(rd, "add_special_tokens", &rd->add_special) && read_adapters(rd) && read_cache_salt(rd) && refuse_unserved(rd) && read_prompts(rd);
}

bool ad_completion_parse(ad_completion_request *out, const char *body, size_t len, const ad_tokenizer *tk, int vocab, int context, ad_fault *f)
{
    json_error_t why;
    ad_completion_request r = {0};
    reader rd = {.r = &r, .tk = tk, .vocab = vocab, .context = context, .f = f};
    memset(out, 0, sizeof *out);
    r.root = json_loadb(body, len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    bool good = false;
    if (!r.root) ad_fault_set(f, 400, "invalid_json", NULL, "The body is not valid JSON: line %d, column %d: %s", why.line, why.column, why.text);
    else if (!json_is_object(r.root)) ad_fault_set(f, 400, "invalid_json", NULL, "The body is not a JSON object");
    else good = read_all(&rd);
    r.hash = hash_of(r.root, body, len);
    if (good) *out = r;
    else ad_completion_request_deinit(&r);
    return good;
}

void ad_completion_request_deinit(ad_completion_request *r)
{
    for (int i = 0; i < r->n_prompts; i++) free(r->prompts[i].ids.ids);
    free(r->prompts);
    json_decref(r->root);
    memset(r, 0, sizeof *r);
}

int ad_completion_max_tokens(const ad_completion_request *r, int prompt, int context)
{
    int room = context - (int)r->prompts[prompt].ids.count;
    return r->sampling.max_tokens < room ? r->sampling.max_tokens : room;
}
