/* SPDX-License-Identifier: MIT */
/* Bodies of the routes that generate; the first byte chooses the dialect. */
#include "tests/fuzz/fuzz.h"

#include "server/api/generation.h"

static bool read_all(ad_request *r, const ad_dialect *d, const ad_request_context *cx, const char *body, size_t len, ad_fault *f)
{
    ad_reader rd = {.r = r, .cx = cx, .f = f};
    if (!ad_request_open(r, body, len, f)) return false;
    rd.object = r->root;
    return d->read_target(&rd) && d->read(&rd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const ad_dialect *const dialects[] = {&ad_completions, &ad_embeddings, &ad_llama_embedding, &ad_tokenize, &ad_detokenize, &ad_llama_completion, &ad_generate,
                                                 &ad_generate_stream, &ad_generate_compat, &ad_chat_completions, &ad_responses, &ad_apply_template};
    static const char template[] = "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls %}{{ c.function.arguments | tojson }}{% endfor %}<eos>{% endfor %}{{ x }}";
    static ad_grammar_cache *grammars;
    static ad_chat_template *chat;
    static ad_tokenizer *tk;
    ad_err err;
    ad_request r;
    ad_fault f = {0};
    if (!tk && ad_tokenizer_from_dir(&tk, fuzz_path("tokenizers/smollm"), &err) != AD_OK) abort();
    if (!grammars && ad_grammar_cache_new(&grammars, tk, (ad_grammar_cache_limits){.max_count = 16, .max_bytes = 1u << 20}, &err) != AD_OK) abort();
    if (!chat && ad_chat_template_new(&chat, template, sizeof template - 1, "chat", &err) != AD_OK) abort();
    if (!size) return 0;
    ad_request_context cx = {.tokenizer = tk, .vocab = 1024, .context = 256, .hidden = 64, .grammars = grammars, .chat = chat};
    if (read_all(&r, dialects[data[0] % (sizeof dialects / sizeof *dialects)], &cx, (const char *)data + 1, size - 1, &f)) {
        for (int i = 0; i < r.n_prompts; i++)
            if (ad_request_max_tokens(&r, i, 256) < 0) abort();
    } else if (f.http < 400) {
        abort(); /* a refusal without a reason */
    } else {
        json_decref(ad_fault_json(&f));
    }
    ad_request_deinit(&r);
    return 0;
}
