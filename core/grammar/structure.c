/* SPDX-License-Identifier: MIT */
/* Texts of several parts, in the form vLLM's "structural tags" have; a part is an object with a "type":
 *   const_string {value}; json_schema {json_schema}; regex {pattern}; grammar {grammar}; any_text;
 *   sequence {elements}; or {elements}; tag {begin, content, end};
 *   triggered_tags {triggers, tags, at_least_one, stop_after_first}: free text in which a trigger, once written, must become one of
 *     the tags that begin with it;
 *   tags_with_separator {tags, separator, at_least_one, stop_after_first}.
 * Around it may be {"type": "structural_tag", "format": PART}; the older {"structures": [{begin, schema, end}], "triggers"} is
 * triggered_tags. Free text is any bytes. */
#include <stdlib.h>
#include <string.h>

#include "core/grammar/json.h"

enum { MAX_MARK_BYTES = 1024 }; /* of the strings that end a free text, together: a state each */

typedef struct {
    ad_gr_builder *b;
    int nesting;
} reader;

/* ---- free text up to a mark ---- */

/* A string that free text is searched for, and what follows it. */
typedef struct {
    ad_str text;
    ad_gx after;
} mark;

/* The automaton of Aho and Corasick: a state per beginning of a mark. */
typedef struct {
    int16_t next[MAX_MARK_BYTES + 1][256];
    int16_t fallback[MAX_MARK_BYTES + 1], queue[MAX_MARK_BYTES + 1];
    int16_t found[MAX_MARK_BYTES + 1]; /* the mark that ends here; -1 */
    int n;
} searcher;

static int new_state(searcher *s)
{
    memset(s->next[s->n], 0xFF, sizeof s->next[s->n]);
    s->found[s->n] = -1;
    return s->n++;
}

static void add_mark(searcher *s, ad_str text, int index)
{
    int at = 0;
    for (size_t i = 0; i < text.len; i++) {
        int16_t *to = &s->next[at][(unsigned char)text.ptr[i]];
        if (*to < 0) *to = (int16_t)new_state(s);
        at = *to;
    }
    if (s->found[at] < 0) s->found[at] = (int16_t)index;
}

/* Breadth first: where a state has no way on, that of the longest beginning which is also an end of it. */
static void complete(searcher *s)
{
    int head = 0, tail = 0;
    s->queue[tail++] = 0;
    while (head < tail) {
        int at = s->queue[head++], back = s->fallback[at];
        if (at && s->found[at] < 0) s->found[at] = s->found[back];
        for (int byte = 0; byte < 256; byte++) {
            int other = at ? s->next[back][byte] : 0, to = s->next[at][byte];
            if (to < 0) {
                s->next[at][byte] = (int16_t)other;
                continue;
            }
            s->fallback[to] = (int16_t)other;
            s->queue[tail++] = (int16_t)to;
        }
    }
}

/* What may follow in one state: a rule each, which goes on to others at its end and so needs no stack. */
static ad_gx state_body(ad_gr_builder *b, const searcher *s, int at, const uint32_t *rules, bool may_end)
{
    ad_gx x = may_end ? AD_GX_EMPTY : AD_GX_NONE;
    bool done[256] = {false};
    for (int first = 0; first < 256; first++) {
        if (done[first]) continue;
        ad_gr_set set = {{0}};
        for (int byte = first; byte < 256; byte++)
            if (s->next[at][byte] == s->next[at][first]) {
                done[byte] = true;
                set.bits[byte >> 6] |= (uint64_t)1 << (byte & 63);
            }
        x = ad_gr_alt(b, x, ad_gr_seq(b, ad_gr_bytes(b, &set), ad_gr_ref(b, rules[s->next[at][first]])));
    }
    return x;
}

static ad_gx states_expr(ad_gr_builder *b, const searcher *s, const mark *marks, bool may_end)
{
    uint32_t *rules = ad_calloc((size_t)s->n, sizeof *rules);
    if (!rules) return ad_gr_fail(b, AD_ENOMEM, "structure: out of memory");
    for (int i = 0; i < s->n; i++) rules[i] = ad_gr_rule_new(b, NULL, 0);
    for (int i = 0; i < s->n; i++) ad_gr_rule_set(b, rules[i], s->found[i] >= 0 ? marks[s->found[i]].after : state_body(b, s, i, rules, may_end));
    ad_gx x = ad_gr_ref(b, rules[0]);
    free(rules);
    return x;
}

/* Any text up to the first mark, the mark, and what follows it; or, when it may end, a text without marks. */
static ad_gx free_text(ad_gr_builder *b, const mark *marks, size_t n, bool may_end)
{
    size_t bytes = 0;
    for (size_t i = 0; i < n; i++) {
        bytes += marks[i].text.len;
        if (!marks[i].text.len) return ad_gr_fail(b, AD_EINVAL, "structure: a trigger or an end of free text is empty");
    }
    if (bytes > MAX_MARK_BYTES) return ad_gr_fail(b, AD_ELIMIT, "structure: the triggers have %zu bytes; at most %d are allowed", bytes, MAX_MARK_BYTES);
    searcher *s = ad_calloc(1, sizeof *s);
    if (!s) return ad_gr_fail(b, AD_ENOMEM, "structure: out of memory");
    new_state(s);
    for (size_t i = 0; i < n; i++) add_mark(s, marks[i].text, (int)i);
    complete(s);
    ad_gx x = states_expr(b, s, marks, may_end);
    free(s);
    return x;
}

/* ---- parts ---- */

static ad_gx part_expr(reader *r, const json_t *part);

static ad_str string_of(reader *r, const json_t *part, const char *key)
{
    const json_t *v = json_object_get(part, key);
    if (!json_is_string(v)) ad_gr_fail(r->b, AD_EINVAL, "structure: `%s` is missing or not a string", key);
    return json_is_string(v) ? (ad_str){json_string_value(v), json_string_length(v)} : (ad_str){"", 0};
}

static const json_t *list_of(reader *r, const json_t *part, const char *key)
{
    const json_t *v = json_object_get(part, key);
    if (!json_is_array(v) || !json_array_size(v)) ad_gr_fail(r->b, AD_EINVAL, "structure: `%s` is missing or not a list", key);
    return v;
}

static bool is_type(const json_t *part, const char *name)
{
    const json_t *type = json_object_get(part, "type");
    return json_is_string(type) && !strcmp(json_string_value(type), name);
}

static const json_t *content_of(const json_t *tag)
{
    return json_object_get(tag, "content");
}

/* A tag whose first `skip` bytes have been written. Free content ends with the first `end`. */
static ad_gx tag_expr(reader *r, const json_t *tag, size_t skip)
{
    ad_gr_builder *b = r->b;
    const json_t *schema = json_object_get(tag, "schema"); /* the older form */
    ad_str begin = string_of(r, tag, "begin"), end = string_of(r, tag, "end");
    if (b->st != AD_OK) return AD_GX_EMPTY;
    ad_gx x = ad_gr_text(b, (ad_str){begin.ptr + skip, begin.len - skip});
    if (!schema && is_type(content_of(tag), "any_text")) return ad_gr_seq(b, x, free_text(b, &(mark){end, AD_GX_EMPTY}, 1, false));
    x = ad_gr_seq(b, x, schema ? ad_gr_schema(b, schema) : part_expr(r, content_of(tag)));
    return ad_gr_seq(b, x, ad_gr_text(b, end));
}

static bool begins_with(ad_str s, ad_str start) { return s.len >= start.len && !memcmp(s.ptr, start.ptr, start.len); }

/* What follows a trigger: the rest of one of its tags, and then `next`. */
static ad_gx triggered(reader *r, const json_t *tags, ad_str trigger, ad_gx next)
{
    ad_gx x = AD_GX_NONE;
    for (size_t i = 0; i < json_array_size(tags) && r->b->st == AD_OK; i++) {
        const json_t *tag = json_array_get(tags, i);
        if (begins_with(string_of(r, tag, "begin"), trigger)) x = ad_gr_alt(r->b, x, tag_expr(r, tag, trigger.len));
    }
    if (x == AD_GX_NONE) return ad_gr_fail(r->b, AD_EINVAL, "structure: no tag begins with the trigger \"%.60s\"", trigger.ptr);
    return ad_gr_seq(r->b, x, next);
}

static void need_triggers(reader *r, const json_t *tags, const json_t *triggers)
{
    for (size_t i = 0; i < json_array_size(tags); i++) {
        ad_str begin = string_of(r, json_array_get(tags, i), "begin");
        bool found = false;
        for (size_t k = 0; k < json_array_size(triggers) && !found; k++) {
            const json_t *t = json_array_get(triggers, k);
            found = json_is_string(t) && begins_with(begin, (ad_str){json_string_value(t), json_string_length(t)});
        }
        if (!found) ad_gr_fail(r->b, AD_EINVAL, "structure: the tag \"%.60s\" has no trigger", begin.ptr);
    }
}

static ad_gx triggered_expr(reader *r, const json_t *part, const json_t *tags)
{
    ad_gr_builder *b = r->b;
    const json_t *triggers = list_of(r, part, "triggers");
    bool once = json_is_true(json_object_get(part, "stop_after_first")), needed = json_is_true(json_object_get(part, "at_least_one"));
    size_t n = json_array_size(triggers);
    mark *marks = ad_calloc(n, sizeof *marks);
    if (!marks) return ad_gr_fail(b, AD_ENOMEM, "structure: out of memory");
    need_triggers(r, tags, triggers);
    uint32_t again = ad_gr_rule_new(b, NULL, 0); /* free text behind a tag */
    for (size_t i = 0; i < n && b->st == AD_OK; i++) {
        const json_t *t = json_array_get(triggers, i);
        marks[i].text = json_is_string(t) ? (ad_str){json_string_value(t), json_string_length(t)} : (ad_str){"", 0};
        marks[i].after = triggered(r, tags, marks[i].text, once ? AD_GX_EMPTY : ad_gr_ref(b, again));
    }
    ad_gx x = AD_GX_EMPTY;
    if (b->st == AD_OK && !once) ad_gr_rule_set(b, again, free_text(b, marks, n, true));
    if (b->st == AD_OK) x = once || needed ? free_text(b, marks, n, !needed) : ad_gr_ref(b, again);
    free(marks);
    return x;
}

static ad_gx separated_expr(reader *r, const json_t *part)
{
    ad_gr_builder *b = r->b;
    const json_t *tags = list_of(r, part, "tags");
    ad_gx one = AD_GX_NONE, separator = ad_gr_text(b, string_of(r, part, "separator"));
    for (size_t i = 0; i < json_array_size(tags) && b->st == AD_OK; i++) one = ad_gr_alt(b, one, tag_expr(r, json_array_get(tags, i), 0));
    uint32_t rule = ad_gr_rule_new(b, NULL, 0);
    ad_gr_rule_set(b, rule, one);
    ad_gx x = ad_gr_ref(b, rule);
    if (!json_is_true(json_object_get(part, "stop_after_first"))) x = ad_gr_seq(b, x, ad_gr_repeat(b, ad_gr_seq(b, separator, ad_gr_ref(b, rule)), 0, AD_GR_INF));
    return ad_gr_repeat(b, x, json_is_true(json_object_get(part, "at_least_one")), 1);
}

static ad_gx elements_expr(reader *r, const json_t *part, ad_gx start, ad_gx (*combine)(ad_gr_builder *b, ad_gx x, ad_gx y))
{
    const json_t *list = list_of(r, part, "elements");
    for (size_t i = 0; i < json_array_size(list) && r->b->st == AD_OK; i++) start = combine(r->b, start, part_expr(r, json_array_get(list, i)));
    return start;
}

static ad_gx any_part(reader *r, const json_t *part)
{
    ad_gr_builder *b = r->b;
    if (is_type(part, "const_string")) return ad_gr_text(b, string_of(r, part, "value"));
    if (is_type(part, "json_schema")) return ad_gr_schema(b, json_object_get(part, "json_schema"));
    if (is_type(part, "regex")) return ad_gr_regex(b, string_of(r, part, "pattern"));
    if (is_type(part, "grammar")) return ad_gr_gbnf(b, string_of(r, part, "grammar"));
    if (is_type(part, "any_text")) return free_text(b, NULL, 0, true);
    if (is_type(part, "sequence")) return elements_expr(r, part, AD_GX_EMPTY, ad_gr_seq);
    if (is_type(part, "or")) return elements_expr(r, part, AD_GX_NONE, ad_gr_alt);
    if (is_type(part, "tag")) return tag_expr(r, part, 0);
    if (is_type(part, "triggered_tags")) return triggered_expr(r, part, list_of(r, part, "tags"));
    if (is_type(part, "tags_with_separator")) return separated_expr(r, part);
    const char *type = json_string_value(json_object_get(part, "type"));
    if (!type) return ad_gr_fail(b, AD_EINVAL, "structure: a part has no type");
    return ad_gr_fail(b, AD_EUNSUPPORTED, "structure: a part of type \"%.60s\" is not supported", type);
}

static ad_gx part_expr(reader *r, const json_t *part)
{
    if (r->b->st != AD_OK) return AD_GX_EMPTY;
    if (!json_is_object(part)) return ad_gr_fail(r->b, AD_EINVAL, "structure: a part is missing or not an object");
    if (++r->nesting > AD_GR_MAX_NESTING) return ad_gr_fail(r->b, AD_ELIMIT, "structure: nested too deeply");
    ad_gx x = any_part(r, part);
    r->nesting--;
    return x;
}

ad_gx ad_gr_structure_text(ad_gr_builder *b, ad_str text)
{
    json_error_t why;
    reader r = {.b = b};
    ad_gx x;
    json_t *root = json_loadb(text.ptr, text.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &why);
    if (!root) return ad_gr_fail(b, AD_EINVAL, "structure: not valid JSON: line %d, column %d: %s", why.line, why.column, why.text);
    if (json_object_get(root, "structures")) x = triggered_expr(&r, root, list_of(&r, root, "structures"));
    else x = part_expr(&r, is_type(root, "structural_tag") ? json_object_get(root, "format") : root);
    json_decref(root);
    return x;
}
