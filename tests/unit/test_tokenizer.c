/* SPDX-License-Identifier: MIT */
/* Tokenizers against the golden cases of the tokenizers library and sentencepiece; hostile tokenizer files; and the
 * time that hostile text takes. */
#include "tests/unit/golden.h"
#include "tests/unit/suite.h"

#include <jansson.h>
#include <string.h>
#include <time.h>

#include "core/base/file.h"

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static ad_tokenizer *load_dir(const char *rest)
{
    ad_err err;
    ad_tokenizer *tk = NULL;
    ck_assert_msg(ad_tokenizer_from_dir(&tk, golden_path(rest), &err) == AD_OK, "%s", err.msg);
    return tk;
}

/* ---- golden cases ---- */

static void check_ids(const ad_tokenizer *tk, const json_t *c, const char *key, unsigned flags)
{
    const json_t *text = json_object_get(c, "text"), *want = json_object_get(c, key);
    ad_ids ids = {0};
    ad_err err;
    if (!want) return;
    ck_assert_int_eq(ad_tokenizer_encode(tk, json_string_value(text), json_string_length(text), AD_ENCODE_PARSE_SPECIAL | flags, &ids, &err), AD_OK);
    ck_assert_msg(ids.count == json_array_size(want), "%s of \"%s\": %zu ids", key, json_string_value(text), ids.count);
    for (size_t i = 0; i < ids.count; i++)
        ck_assert_msg(ids.ids[i] == json_integer_value(json_array_get(want, i)), "%s of \"%s\": id %zu is %d", key, json_string_value(text), i, (int)ids.ids[i]);
    free(ids.ids);
}

static void check_text(const ad_tokenizer *tk, const json_t *c, const char *key, bool skip)
{
    const json_t *want = json_object_get(c, key), *list = json_object_get(c, "ids");
    if (!want) return;
    size_t n = json_array_size(list);
    int32_t *ids = calloc(n + 1, sizeof *ids);
    for (size_t i = 0; i < n; i++) ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    ad_buf out = {0};
    ad_tokenizer_decode(tk, ids, n, skip, &out);
    ck_assert_msg(out.len == json_string_length(want) && !memcmp(out.data ? out.data : "", json_string_value(want), out.len), "%s: \"%s\", not \"%s\"", key, out.data,
                  json_string_value(want));
    ad_buf_deinit(&out);
    free(ids);
}

static void check_cases(const ad_tokenizer *tk, const char *path, size_t at_least)
{
    json_t *root = json_load_file(path, JSON_ALLOW_NUL, NULL), *cases = json_is_array(root) ? root : json_object_get(root, "cases");
    ck_assert_msg(json_array_size(cases) >= at_least, "%s", path);
    for (size_t i = 0; i < json_array_size(cases); i++) {
        const json_t *c = json_array_get(cases, i);
        check_ids(tk, c, "ids", 0);
        check_ids(tk, c, "ids_with_specials", AD_ENCODE_ADD_SPECIAL);
        check_text(tk, c, "decoded", false);
        check_text(tk, c, "decoded_skip", true);
    }
    json_decref(root);
}

START_TEST(every_golden_case_has_its_ids_and_its_text)
{
    static const char *const kinds[] = {"gpt-2", "smollm", "llama-bpe", "qwen2", "spm"};
    for (size_t i = 0; i < 5; i++) {
        char rest[100];
        snprintf(rest, sizeof rest, "tokenizers/%s", kinds[i]);
        ad_tokenizer *tk = load_dir(rest);
        strcat(rest, "/cases.json");
        check_cases(tk, golden_path(rest), 30);
        ad_tokenizer_free(&tk);
    }
}
END_TEST

START_TEST(the_default_model_s_gguf_has_its_golden_ids_too)
{
    const char *path = getenv("AD_TEST_MODEL");
    if (!path || !*path) return; /* tests/run sets it; there is no small file of this kind */
    ad_err err;
    ad_gguf *g = NULL;
    ad_tokenizer *tk = NULL;
    ck_assert_msg(ad_gguf_open(&g, path, &err) == AD_OK && ad_tokenizer_from_gguf(&tk, g, &err) == AD_OK, "%s", err.msg);
    ad_gguf_close(&g);
    char cases[4096];
    snprintf(cases, sizeof cases, "%s/../smollm2/tokenizer_cases.json", golden_path(""));
    check_cases(tk, cases, 20);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(a_gguf_and_a_directory_of_one_tokenizer_agree)
{
    ad_err err;
    ad_gguf *g = NULL;
    ad_tokenizer *a = NULL, *b = load_dir("models/llama-spm-mha");
    ck_assert_int_eq(ad_gguf_open(&g, golden_path("gguf/llama-spm-mha-F32.gguf"), &err), AD_OK);
    ck_assert_msg(ad_tokenizer_from_gguf(&a, g, &err) == AD_OK, "%s", err.msg);
    ad_gguf_close(&g);
    static const char text[] = "<s>Hello  w\xC3\xB6rld \xF0\x9F\x99\x82\n\n 123 </s> x";
    ad_ids x = {0}, y = {0};
    ck_assert_int_eq(ad_tokenizer_encode(a, text, sizeof text - 1, 3, &x, &err), AD_OK);
    ck_assert_int_eq(ad_tokenizer_encode(b, text, sizeof text - 1, 3, &y, &err), AD_OK);
    ck_assert(x.count == y.count && !memcmp(x.ids, y.ids, x.count * sizeof *x.ids));
    ck_assert(ad_tokenizer_is_eog(a, 2) && ad_tokenizer_is_eog(b, 2) && ad_tokenizer_bos(a) == 1 && ad_tokenizer_bos(b) == 1);
    free(x.ids), free(y.ids);
    ad_tokenizer_free(&a), ad_tokenizer_free(&b);
}
END_TEST

START_TEST(special_tokens_in_the_text_are_tokens_only_when_asked)
{
    ad_tokenizer *tk = load_dir("tokenizers/smollm");
    ad_ids ids = {0};
    ad_err err;
    ck_assert_int_eq(ad_tokenizer_encode(tk, "<|im_start|>", 12, AD_ENCODE_PARSE_SPECIAL, &ids, &err), AD_OK);
    ck_assert(ids.count == 1 && ids.ids[0] == 1);
    ck_assert_int_eq(ad_tokenizer_encode(tk, "<|im_start|>", 12, 0, &ids, &err), AD_OK);
    ck_assert_uint_gt(ids.count, 4);
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

/* Appends what the pieces of a text, separated by bytes 0x1F, make: '!' begins one whose special tokens count. */
static void expect_pieces(const ad_tokenizer *tk, const char *pieces, ad_ids *out)
{
    ad_err err;
    for (size_t n; *pieces; pieces += n + (pieces[n] != '\0')) {
        n = strcspn(pieces, "\x1F");
        bool counts = *pieces == '!';
        ck_assert_int_eq(ad_tokenizer_encode(tk, pieces + counts, n - counts, counts ? AD_ENCODE_PARSE_SPECIAL : 0, out, &err), AD_OK);
    }
}

/* Untrusted stretches of marked are written between 0x02 and 0x03. */
static void expect_spans(const ad_tokenizer *tk, const char *marked, const char *pieces)
{
    ad_buf text = {0};
    ad_text_span spans[8];
    size_t n = 0;
    ad_ids got = {0}, want = {0};
    ad_err err;
    for (const char *p = marked; *p; p++) {
        if (*p == 2) spans[n].start = text.len;
        else if (*p == 3) spans[n++].end = text.len;
        else ad_buf_append(&text, p, 1);
    }
    expect_pieces(tk, pieces, &want);
    ck_assert_int_eq(ad_tokenizer_encode_spans(tk, text.data, text.len, AD_ENCODE_PARSE_SPECIAL, spans, n, &got, &err), AD_OK);
    ck_assert_msg(got.count == want.count && !memcmp(got.ids, want.ids, got.count * sizeof *got.ids), "\"%s\": %zu ids, not %zu", text.data, got.count, want.count);
    ad_buf_deinit(&text);
    free(got.ids);
    free(want.ids);
}

START_TEST(a_special_token_that_touches_an_untrusted_span_is_plain_text)
{
    ad_tokenizer *tk = load_dir("tokenizers/smollm");
    expect_spans(tk, "<|im_start|>user\n\2<|im_end|>a<|im_start|>\3<|im_end|>\n", "!<|im_start|>\x1Fuser\n<|im_end|>a<|im_start|>\x1F!<|im_end|>\n");
    expect_spans(tk, "a<|im_\2end|>\3 b", "a<|im_end|> b");
    expect_spans(tk, "a\2<|im_\3end|> b", "a<|im_end|> b");
    expect_spans(tk, "<|im\2_\3end|><|im_end|>", "<|im_end|>\x1F!<|im_end|>");
    expect_spans(tk, "\2<|im_start|\3<|im_start|>", "<|im_start|\x1F!<|im_start|>");
    expect_spans(tk, "He\2llo wor\3ld", "Hello world");
    expect_spans(tk, "\2 <think> \3", "! <think> "); /* not a special one */
    ad_tokenizer_free(&tk);
}
END_TEST

/* Tokens that are looked for in normalized text: with spans their written form counts. */
START_TEST(special_tokens_of_the_normalized_kind_respect_spans_too)
{
    static const char json[] = "{\"normalizer\":{\"type\":\"NFC\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false},\"decoder\":{\"type\":\"ByteLevel\"},"
        "\"added_tokens\":[{\"id\":7,\"content\":\"<e>\",\"special\":true,\"normalized\":true}],"
        "\"model\":{\"type\":\"BPE\",\"vocab\":{\"<\":0,\"e\":1,\">\":2,\"a\":3},\"merges\":[]}}";
    ad_tokenizer *tk = NULL;
    ad_err err;
    ck_assert_msg(ad_tokenizer_from_json(&tk, json, sizeof json - 1, "probe", &err) == AD_OK, "%s", err.msg);
    expect_spans(tk, "a<e>a", "!a<e>a");
    expect_spans(tk, "<e>\2<e>a\3<e>", "!<e>\x1F<e>a\x1F!<e>");
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(text_that_is_not_utf_8_is_refused_and_changes_nothing)
{
    static const struct { const char *text; size_t len; const char *at; } bad[] = {
        {"ab\xff", 3, "byte 2"}, {"\xc3", 1, "byte 0"}, {"a\xc0\x80", 3, "byte 1"}, {"\xed\xa0\x80", 3, "byte 0"}, {"\xf4\x90\x80\x80", 4, "byte 0"}, {"abc\x80", 4, "byte 3"}};
    ad_tokenizer *tk = load_dir("tokenizers/smollm");
    ad_ids ids = {0};
    ad_err err;
    ck_assert_int_eq(ad_tokenizer_encode(tk, "x", 1, 0, &ids, &err), AD_OK);
    size_t had = ids.count;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        ck_assert_int_eq(ad_tokenizer_encode(tk, bad[i].text, bad[i].len, 0, &ids, &err), AD_EINVAL);
        ck_assert_msg(strstr(err.msg, bad[i].at), "%s", err.msg);
        ck_assert_uint_eq(ids.count, had);
    }
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

/* ---- time ---- */

typedef void (*shape_fn)(char *dst, size_t n);

static void repeat(char *dst, size_t n, const char *unit)
{
    size_t k = strlen(unit), i = 0;
    for (; i + k <= n; i += k) memcpy(dst + i, unit, k);
    memset(dst + i, ' ', n - i);
}

static void all_a(char *d, size_t n) { repeat(d, n, "a"); }
static void spaces(char *d, size_t n) { repeat(d, n, " "); }
static void digits(char *d, size_t n) { repeat(d, n, "7"); }
static void marks(char *d, size_t n) { repeat(d, n, "\xCC\x81\xCC\xA3"); }
static void emoji(char *d, size_t n) { repeat(d, n, "\xF0\x9F\x99\x82"); }
static void mixed(char *d, size_t n) { repeat(d, n, "the quick brown fox's 123 jump\n\n  ."); }
static void specials(char *d, size_t n) { repeat(d, n, "<|im_start|><|im_"); }
static void apostrophes(char *d, size_t n) { repeat(d, n, "'"); }

static double time_of(const ad_tokenizer *tk, shape_fn shape, size_t n)
{
    char *text = malloc(n);
    ad_ids ids = {0};
    ad_err err;
    shape(text, n);
    double start = now();
    ck_assert_msg(ad_tokenizer_encode(tk, text, n, AD_ENCODE_PARSE_SPECIAL, &ids, &err) == AD_OK, "%s", err.msg);
    start = now() - start;
    free(ids.ids);
    free(text);
    return start;
}

/* Doubling the text must not quadruple the time; small absolute times are too noisy to judge. */
START_TEST(a_megabyte_of_any_text_takes_little_and_nearly_linear_time)
{
    static const shape_fn shapes[] = {all_a, spaces, digits, marks, emoji, mixed, specials, apostrophes};
    static const char *const kinds[] = {"tokenizers/smollm", "tokenizers/llama-bpe", "tokenizers/qwen2", "tokenizers/spm"};
    for (size_t k = 0; k < 4; k++) {
        ad_tokenizer *tk = load_dir(kinds[k]);
        for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
            double half = time_of(tk, shapes[i], 1 << 19), whole = time_of(tk, shapes[i], 1 << 20);
            for (int again = 0; again < 3 && whole >= 0.3 && whole >= 3.6 * half; again++) { /* other programs disturb the caches */
                half = time_of(tk, shapes[i], 1 << 19);
                whole = time_of(tk, shapes[i], 1 << 20);
            }
            ck_assert_msg(whole < 20, "%s, shape %zu: %g s", kinds[k], i, whole);
            ck_assert_msg(whole < 0.3 || whole < 3.6 * half, "%s, shape %zu: %g s for half, %g s for all", kinds[k], i, half, whole);
        }
        ad_tokenizer_free(&tk);
    }
}
END_TEST

START_TEST(a_span_for_every_other_byte_costs_no_more_than_linear_time)
{
    enum { N = 1 << 20 };
    ad_tokenizer *tk = load_dir("tokenizers/smollm");
    char *text = malloc(N);
    ad_text_span *spans = calloc(N / 2, sizeof *spans);
    ad_ids ids = {0};
    ad_err err;
    specials(text, N);
    for (size_t i = 0; i < N / 2; i++) spans[i] = (ad_text_span){2 * i, 2 * i + 1};
    double start = now();
    ck_assert_int_eq(ad_tokenizer_encode_spans(tk, text, N, AD_ENCODE_PARSE_SPECIAL, spans, N / 2, &ids, &err), AD_OK);
    ck_assert_msg(now() - start < 20, "%g s", now() - start);
    for (size_t i = 0; i < ids.count; i++) ck_assert(!ad_tokenizer_is_special(tk, ids.ids[i]));
    free(ids.ids), free(spans), free(text);
    ad_tokenizer_free(&tk);
}
END_TEST

/* ---- hostile tokenizer.json ---- */

#define VOCAB "\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]"
#define MODEL "\"model\":{\"type\":\"BPE\"," VOCAB "}"
#define DECODER "\"decoder\":{\"type\":\"ByteLevel\"}"
#define PRE "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false}"

static void refuse_json(const char *json, const char *why)
{
    ad_err err = {0};
    ad_tokenizer *tk = NULL;
    ad_status st = ad_tokenizer_from_json(&tk, json, strlen(json), "probe", &err);
    ck_assert_msg(st == AD_EFORMAT || st == AD_EUNSUPPORTED, "status %d for %s: %s", (int)st, json, err.msg);
    ck_assert_msg(strstr(err.msg, "probe") && strstr(err.msg, why), "\"%s\" does not say \"%s\"", err.msg, why);
    ck_assert_ptr_null(tk);
}

START_TEST(a_small_tokenizer_json_loads)
{
    ad_err err;
    ad_tokenizer *tk = NULL;
    static const char json[] = "{" PRE "," MODEL "," DECODER "}";
    ck_assert_msg(ad_tokenizer_from_json(&tk, json, sizeof json - 1, "probe", &err) == AD_OK, "%s", err.msg);
    ad_ids ids = {0};
    ck_assert_int_eq(ad_tokenizer_encode(tk, "abba", 4, 0, &ids, &err), AD_OK);
    ck_assert(ids.count == 3 && ids.ids[0] == 2 && ids.ids[1] == 1 && ids.ids[2] == 0);
    free(ids.ids);
    ad_tokenizer_free(&tk);
}
END_TEST

START_TEST(tokenizer_json_that_is_not_understood_is_refused_by_part)
{
    static const char *const bad[][2] = {
        {"", "line"}, {"[]", "object"}, {"{}", "model"}, {"{\"a\":1,\"a\":2}", "duplicate"},
        {"{\"model\":{\"type\":\"WordPiece\"," VOCAB "}}", "WordPiece"}, {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", "Unigram"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":[],\"merges\":[]}}", "vocab"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{},\"merges\":[]}}", "empty"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":-1},\"merges\":[]}}", "empty"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":\"0\",\"b\":1},\"merges\":[]}}", "\"a\""},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":0},\"merges\":[]}}", "same id"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":2000000000},\"merges\":[]}}", "limit"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"\":1},\"merges\":[]}}", "empty"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"a b\"]}}", "merges[0]"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[\"ab\"]}}", "merges[0]"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\"]]}}", "merges[0]"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1},\"merges\":{}}}", "merges"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"dropout\":0.5," VOCAB "}}", "dropout"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"end_of_word_suffix\":\"</w>\"," VOCAB "}}", "end_of_word_suffix"},
        {"{" PRE "," DECODER ",\"model\":{\"type\":\"BPE\",\"unk_token\":\"x\"," VOCAB "}}", "unk_token"},
        {"{" PRE "," DECODER "," MODEL ",\"added_tokens\":5}", "added_tokens"}, {"{" PRE "," DECODER "," MODEL ",\"added_tokens\":[{\"id\":3}]}", "added_tokens[0]"},
        {"{" PRE "," DECODER "," MODEL ",\"added_tokens\":[{\"id\":-3,\"content\":\"x\"}]}", "\"x\""},
        {"{" PRE "," DECODER "," MODEL ",\"added_tokens\":[{\"id\":1,\"content\":\"x\"}]}", "same id"},
        {"{" PRE "," DECODER "," MODEL ",\"added_tokens\":[{\"id\":7,\"content\":\"a\"}]}", "two ids"},
        {"{" PRE "," DECODER "," MODEL ",\"normalizer\":{\"type\":\"Lowercase\"}}", "Lowercase"},
        {"{" PRE "," DECODER "," MODEL ",\"normalizer\":{\"type\":\"Sequence\"}}", "normalizers"},
        {"{" PRE "," DECODER "," MODEL ",\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"a\"},\"content\":\"\"}}", "Replace"},
        {"{" DECODER "," MODEL ",\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"}}", "BertPreTokenizer"},
        {"{" DECODER "," MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}", "probe"},
        {"{" DECODER "," MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"a\"},\"behavior\":\"Strange\"}}", "Split"},
        {"{" DECODER "," MODEL ",\"pre_tokenizer\":{\"type\":\"Split\",\"behavior\":\"Isolated\"}}", "pattern"},
        {"{" PRE "," DECODER "," MODEL ",\"post_processor\":{\"type\":\"BertProcessing\"}}", "BertProcessing"},
        {"{" PRE "," DECODER "," MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\"}}", "single"},
        {"{" PRE "," DECODER "," MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}]}}", "ids"},
        {"{" PRE "," DECODER "," MODEL ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],\"special_tokens\":{\"x\":{\"ids\":[99]}}}}", "vocabulary"},
        {"{" PRE "," MODEL "}", "decoder"}, {"{" PRE "," MODEL ",\"decoder\":{\"type\":\"WordPiece\"}}", "WordPiece"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) refuse_json(bad[i][0], bad[i][1]);
}
END_TEST

START_TEST(deeply_nested_tokenizer_json_is_refused)
{
    ad_buf b = {0};
    ad_buf_puts(&b, "{" PRE "," DECODER "," MODEL ",\"normalizer\":");
    for (int i = 0; i < 50; i++) ad_buf_puts(&b, "{\"type\":\"Sequence\",\"normalizers\":[");
    ad_buf_puts(&b, "{\"type\":\"NFC\"}");
    for (int i = 0; i < 50; i++) ad_buf_puts(&b, "]}");
    ad_buf_puts(&b, "}");
    refuse_json(b.data, "deep");
    ad_buf_clear(&b);
    for (int i = 0; i < 100000; i++) ad_buf_puts(&b, "[");
    refuse_json(b.data, "line");
    ad_buf_deinit(&b);
}
END_TEST

/* ---- hostile GGUF metadata ---- */

static void put64(ad_buf *b, uint64_t v) { ad_buf_append(b, &v, 8); }
static void put32(ad_buf *b, uint32_t v) { ad_buf_append(b, &v, 4); }

static void put_str(ad_buf *b, const char *s)
{
    put64(b, strlen(s));
    ad_buf_puts(b, s);
}

static void pair_str(ad_buf *b, const char *key, const char *s)
{
    put_str(b, key), put32(b, AD_GGUF_STRING), put_str(b, s);
}

/* Items separated by '|'. */
static void pair_strs(ad_buf *b, const char *key, const char *items)
{
    size_t n = 1;
    for (const char *p = items; *p; p++) n += *p == '|';
    put_str(b, key), put32(b, AD_GGUF_ARRAY), put32(b, AD_GGUF_STRING), put64(b, n);
    for (const char *p = items; n--; p += strcspn(p, "|") + 1) put64(b, strcspn(p, "|")), ad_buf_append(b, p, strcspn(p, "|"));
}

static void pair_ints(ad_buf *b, const char *key, const int *v, size_t n)
{
    put_str(b, key), put32(b, AD_GGUF_ARRAY), put32(b, AD_GGUF_I32), put64(b, n);
    for (size_t i = 0; i < n; i++) put32(b, (uint32_t)v[i]);
}

static void pair_int(ad_buf *b, const char *key, int v)
{
    put_str(b, key), put32(b, AD_GGUF_I32), put32(b, (uint32_t)v);
}

/* Finishes a file of n pairs and expects its tokenizer to be refused, or to load when why is NULL. */
static void try_gguf(ad_buf *pairs, uint64_t n, const char *why)
{
    ad_buf f = {0};
    ad_err err = {0};
    ad_gguf *g = NULL;
    ad_tokenizer *tk = NULL;
    ad_buf_puts(&f, "GGUF"), put32(&f, 3), put64(&f, 0), put64(&f, n);
    ad_buf_append(&f, pairs->data, pairs->len);
    while (f.len % 32) ad_buf_append(&f, "", 1);
    ck_assert_msg(ad_gguf_parse(&g, f.data, f.len, "probe", &err) == AD_OK, "%s", err.msg);
    ad_status st = ad_tokenizer_from_gguf(&tk, g, &err);
    if (!why) ck_assert_msg(st == AD_OK, "%s", err.msg);
    else ck_assert_msg((st == AD_EFORMAT || st == AD_EUNSUPPORTED) && strstr(err.msg, why) && strstr(err.msg, "probe"), "status %d, \"%s\" (wanted \"%s\")", (int)st, err.msg, why);
    ad_tokenizer_free(&tk);
    ad_gguf_close(&g);
    ad_buf_deinit(&f);
    ad_buf_deinit(pairs);
}

static void bpe(ad_buf *b, const char *tokens, const char *merges)
{
    pair_str(b, "tokenizer.ggml.model", "gpt2");
    pair_str(b, "tokenizer.ggml.pre", "smollm");
    pair_strs(b, "tokenizer.ggml.tokens", tokens);
    if (merges) pair_strs(b, "tokenizer.ggml.merges", merges);
}

START_TEST(gguf_metadata_that_is_not_understood_is_refused_by_key)
{
    ad_buf b = {0};
    pair_int(&b, "x", 1), try_gguf(&b, 1, "tokenizer.ggml.model");
    pair_str(&b, "tokenizer.ggml.model", "bert"), try_gguf(&b, 1, "bert");
    pair_str(&b, "tokenizer.ggml.model", "gpt2"), try_gguf(&b, 1, "tokenizer.ggml.pre");
    pair_str(&b, "tokenizer.ggml.model", "gpt2"), pair_str(&b, "tokenizer.ggml.pre", "strange"), try_gguf(&b, 2, "strange");
    pair_str(&b, "tokenizer.ggml.model", "gpt2"), pair_str(&b, "tokenizer.ggml.pre", "smollm"), try_gguf(&b, 2, "tokenizer.ggml.tokens");
    bpe(&b, "a|b|ab", NULL), try_gguf(&b, 3, "tokenizer.ggml.merges");
    bpe(&b, "a|b|ab", "a b"), try_gguf(&b, 4, NULL);
    bpe(&b, "a|b|ab", "a x"), try_gguf(&b, 4, "merges[0]");
    bpe(&b, "a|b|ab", "ab"), try_gguf(&b, 4, "merges[0]");
    bpe(&b, "a|b|a", "a b"), try_gguf(&b, 4, "repeats");
    bpe(&b, "a|\xff", "a b"), try_gguf(&b, 4, "UTF-8");
    bpe(&b, "a|b|ab", "a b"), pair_int(&b, "tokenizer.ggml.eos_token_id", 3), try_gguf(&b, 5, "eos_token_id");
    bpe(&b, "a|b|ab", "a b"), pair_int(&b, "tokenizer.ggml.eos_token_id", -1), try_gguf(&b, 5, "eos_token_id");
    bpe(&b, "a|b|ab", "a b"), pair_str(&b, "tokenizer.ggml.eos_token_id", "2"), try_gguf(&b, 5, "eos_token_id");
    bpe(&b, "a|b|ab", "a b"), pair_int(&b, "tokenizer.ggml.add_bos_token", 1), try_gguf(&b, 5, "add_bos_token");
    bpe(&b, "a|b|ab", "a b"), put_str(&b, "tokenizer.ggml.add_bos_token"), put32(&b, AD_GGUF_BOOL), ad_buf_append(&b, "\1", 1), try_gguf(&b, 5, "bos_token_id is missing");
    bpe(&b, "a|b|ab", "a b"), pair_ints(&b, "tokenizer.ggml.token_type", (int[]){1, 1}, 2), try_gguf(&b, 5, "token_type");
    bpe(&b, "a|b|ab", "a b"), pair_ints(&b, "tokenizer.ggml.token_type", (int[]){1, 1, 9}, 3), try_gguf(&b, 5, "token_type[2]");
    bpe(&b, "a|b|ab", "a b"), pair_ints(&b, "tokenizer.ggml.token_type", (int[]){1, 1, 6}, 3), try_gguf(&b, 5, "byte type");
    pair_str(&b, "tokenizer.ggml.model", "llama"), pair_strs(&b, "tokenizer.ggml.tokens", "a|b"), try_gguf(&b, 2, "tokenizer.ggml.scores");
    pair_str(&b, "tokenizer.ggml.model", "llama"), pair_strs(&b, "tokenizer.ggml.tokens", "a|b"), pair_ints(&b, "tokenizer.ggml.scores", (int[]){1}, 1), try_gguf(&b, 3, "scores");
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("tokenizer");
    TCase *t = tcase_create("tokenizer");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, every_golden_case_has_its_ids_and_its_text);
    tcase_add_test(t, the_default_model_s_gguf_has_its_golden_ids_too);
    tcase_add_test(t, a_gguf_and_a_directory_of_one_tokenizer_agree);
    tcase_add_test(t, special_tokens_in_the_text_are_tokens_only_when_asked);
    tcase_add_test(t, a_special_token_that_touches_an_untrusted_span_is_plain_text);
    tcase_add_test(t, special_tokens_of_the_normalized_kind_respect_spans_too);
    tcase_add_test(t, text_that_is_not_utf_8_is_refused_and_changes_nothing);
    tcase_add_test(t, a_megabyte_of_any_text_takes_little_and_nearly_linear_time);
    tcase_add_test(t, a_span_for_every_other_byte_costs_no_more_than_linear_time);
    tcase_add_test(t, a_small_tokenizer_json_loads);
    tcase_add_test(t, tokenizer_json_that_is_not_understood_is_refused_by_part);
    tcase_add_test(t, deeply_nested_tokenizer_json_is_refused);
    tcase_add_test(t, gguf_metadata_that_is_not_understood_is_refused_by_key);
    suite_add_tcase(suite, t);
    return tu_run(suite);
}
