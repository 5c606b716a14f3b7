/* SPDX-License-Identifier: MIT */
/* The safetensors reader: the header, then one sorted walk that leaves no hole and no overlap. Headers as the usual writers make them, plain
 * text and nothing unusual, are scanned directly: an adapter's takes a tenth of the time. All others go through jansson, which
 * knows what is JSON and what is wrong with it. */
#include "core/formats/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

static const uint64_t MAX_HEADER = 100000000; /* the reference reader's */
static const size_t MAX_LENGTH = (size_t)1 << 46; /* of a file that still grows: pointers behind it do not overflow */
enum { MAX_TENSORS = 1000000, MAX_DIMS = 8 };

struct ad_safetensors {
    char *label;
    ad_file file;
    json_t *header;            /* keeps the names */
    char *text;                /* or this, when jansson was not needed */
    ad_tensor *tensors;        /* in offset order */
    const ad_tensor **by_name; /* sorted */
    size_t count, cap;
};

static bool dtype_of(const char *s, ad_dtype *out)
{
    static const struct { const char *name; ad_dtype t; } map[] = {
        {"F32", AD_F32}, {"F16", AD_F16}, {"BF16", AD_BF16}, {"F64", AD_F64}, {"I64", AD_I64}, {"I32", AD_I32},
        {"I16", AD_I16}, {"I8", AD_I8}, {"U8", AD_U8}, {"BOOL", AD_BOOL},
    };
    for (size_t i = 0; s && i < sizeof map / sizeof *map; i++)
        if (!strcmp(map[i].name, s)) {
            *out = map[i].t;
            return true;
        }
    return false;
}

static bool natural(const json_t *v, int64_t *out)
{
    if (!json_is_integer(v) || json_integer_value(v) < 0) return false;
    *out = json_integer_value(v);
    return true;
}

/* What the header says of one tensor. */
typedef struct {
    const char *name, *dtype;
    int n_dims;
    int64_t dims[MAX_DIMS];
    int64_t offsets[2];
} entry;

static ad_status add_entry(ad_safetensors *s, const entry *e, size_t data_len, const char *data, ad_err *err)
{
    if (s->count >= MAX_TENSORS) return AD_ELIMIT; /* only of a plain header: jansson counts before */
    if (ad_grow(&s->tensors, &s->cap, s->count + 1, sizeof *s->tensors) != AD_OK) return ad_fail(err, AD_ENOMEM, "%s: out of memory", s->label);
    ad_tensor *t = &s->tensors[s->count];
    *t = (ad_tensor){.name = e->name, .n_dims = e->n_dims};
    if (!dtype_of(e->dtype, &t->dtype)) return ad_fail(err, AD_EUNSUPPORTED, "%s: tensor %.200s has dtype %.20s, which is not supported", s->label, e->name, e->dtype);
    size_t n = 1;
    for (int i = 0; i < e->n_dims; i++) {
        t->dims[i] = e->dims[i];
        if (!ad_mul_size(n, (size_t)e->dims[i], &n) || n > INT64_MAX) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its size overflows", s->label, e->name);
    }
    if (!ad_mul_size(n, ad_dtype_block_bytes(t->dtype), &t->bytes) || t->bytes > INT64_MAX)
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its size overflows", s->label, e->name);
    int64_t begin = e->offsets[0], end = e->offsets[1];
    if (begin > end || (uint64_t)(end - begin) != t->bytes)
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: data_offsets span %lld bytes, its shape needs %zu", s->label, e->name, (long long)(end - begin), t->bytes);
    if ((uint64_t)end > data_len) return ad_fail(err, AD_EFORMAT, "%s: the file ends inside tensor %.200s", s->label, e->name);
    t->data = data + begin;
    s->count++;
    return AD_OK;
}

static ad_status read_entry(ad_safetensors *s, const char *name, const json_t *v, size_t data_len, const char *data, ad_err *err)
{
    const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
    entry e = {.name = name, .dtype = json_string_value(json_object_get(v, "dtype"))};
    if (!json_is_object(v) || json_object_size(v) != 3 || !e.dtype || !json_is_array(shape) || !json_is_array(offsets))
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s must have exactly dtype, shape and data_offsets", s->label, name);
    if (json_array_size(shape) > MAX_DIMS) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s has more than %d dimensions", s->label, name, MAX_DIMS);
    e.n_dims = (int)json_array_size(shape);
    for (int i = 0; i < e.n_dims; i++)
        if (!natural(json_array_get(shape, (size_t)i), &e.dims[i])) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its shape must hold non-negative integers", s->label, name);
    if (json_array_size(offsets) != 2 || !natural(json_array_get(offsets, 0), &e.offsets[0]) || !natural(json_array_get(offsets, 1), &e.offsets[1]))
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: data_offsets must be two non-negative integers", s->label, name);
    return add_entry(s, &e, data_len, data, err);
}

static int by_offset(const void *a, const void *b)
{
    const ad_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    if (x->bytes != y->bytes) return x->bytes < y->bytes ? -1 : 1;
    return strcmp(x->name, y->name);
}

static int by_tensor_name(const void *a, const void *b)
{
    return strcmp((*(const ad_tensor *const *)a)->name, (*(const ad_tensor *const *)b)->name);
}

static ad_status check_layout(ad_safetensors *s, const char *data, size_t data_len, ad_err *err)
{
    const char *expected = data;
    if (s->count) qsort(s->tensors, s->count, sizeof *s->tensors, by_offset);
    for (size_t i = 0; i < s->count; i++) {
        const ad_tensor *t = &s->tensors[i];
        if (t->data != expected)
            return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s begins at byte %lld of the data, expected %lld: a hole or an overlap", s->label, t->name,
                           (long long)((const char *)t->data - data), (long long)(expected - data));
        expected += t->bytes;
    }
    if (expected != data + data_len)
        return ad_fail(err, AD_EFORMAT, "%s: %lld bytes follow the last tensor", s->label, (long long)(data + data_len - expected));
    return AD_OK;
}

static ad_status check_metadata(const ad_safetensors *s, const json_t *meta, ad_err *err)
{
    const char *key;
    json_t *v;
    if (!json_is_object(meta)) return ad_fail(err, AD_EFORMAT, "%s: __metadata__ must be an object", s->label);
    json_object_foreach((json_t *)meta, key, v)
        if (!json_is_string(v)) return ad_fail(err, AD_EFORMAT, "%s: __metadata__ %.100s must be a string", s->label, key);
    return AD_OK;
}

/* Through jansson: all that JSON may be, and what is wrong with the rest. */
static ad_status read_json(ad_safetensors *s, const char *text, size_t len, size_t data_len, const char *data, ad_err *err)
{
    json_error_t je;
    const char *name;
    json_t *v;
    ad_status st = AD_OK;
    s->header = json_loadb(text, len, JSON_REJECT_DUPLICATES, &je);
    if (!s->header) return ad_fail(err, AD_EFORMAT, "%s: header, byte %d: %s", s->label, je.position, je.text);
    if (!json_is_object(s->header)) return ad_fail(err, AD_EFORMAT, "%s: the header must be a JSON object", s->label);
    if (json_object_size(s->header) > MAX_TENSORS) return ad_fail(err, AD_ELIMIT, "%s: more than %d tensors", s->label, MAX_TENSORS);
    json_object_foreach(s->header, name, v) {
        if (st != AD_OK) break;
        st = strcmp(name, "__metadata__") ? read_entry(s, name, v, data_len, data, err) : check_metadata(s, v, err);
    }
    return st;
}

/* ---- plain headers: {"NAME":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]},...} with blanks between, and no escapes ---- */

static bool take(char **p, char c)
{
    while (**p == ' ') ++*p;
    if (**p != c) return false;
    ++*p;
    return true;
}

/* The closing quote becomes the string's end. */
static char *take_string(char **p)
{
    if (!take(p, '"')) return NULL;
    char *begin = *p;
    while (**p >= ' ' && **p < 127 && **p != '"' && **p != '\\') ++*p;
    if (**p != '"') return NULL;
    *(*p)++ = '\0';
    return begin;
}

/* Numbers of up to 18 digits, as JSON writes them; how many, or -1. */
static int take_numbers(char **p, int64_t *out, int most)
{
    int n = 0;
    if (!take(p, '[')) return -1;
    if (take(p, ']')) return 0;
    do {
        int64_t v = 0;
        while (**p == ' ') ++*p;
        char *begin = *p;
        for (; **p >= '0' && **p <= '9' && *p - begin < 18; ++*p) v = 10 * v + (**p - '0');
        if (n == most || *p == begin || (*begin == '0' && *p - begin > 1)) return -1;
        out[n++] = v;
    } while (take(p, ','));
    return take(p, ']') ? n : -1;
}

static bool take_entry(char **p, entry *e)
{
    int n_offsets = -1;
    e->n_dims = -1;
    if (!take(p, '{')) return false;
    for (int i = 0; i < 3; i++) {
        char *key = i && !take(p, ',') ? NULL : take_string(p);
        if (!key || !take(p, ':')) return false;
        if (!strcmp(key, "dtype") && !e->dtype) e->dtype = take_string(p);
        else if (!strcmp(key, "shape") && e->n_dims < 0) e->n_dims = take_numbers(p, e->dims, MAX_DIMS);
        else if (!strcmp(key, "data_offsets") && n_offsets < 0) n_offsets = take_numbers(p, e->offsets, 2);
        else return false;
    }
    return take(p, '}') && e->dtype && e->n_dims >= 0 && n_offsets == 2;
}

/* One pair, as "format":"pt": more could be the same key twice. */
static bool take_metadata(char **p)
{
    if (!take(p, '{')) return false;
    if (take(p, '}')) return true;
    return take_string(p) && take(p, ':') && take_string(p) && take(p, '}');
}

/* False: not as plain as that, or wrong in some way that jansson or the checks can say better. */
static bool scan_plain(ad_safetensors *s, const char *text, size_t len, size_t data_len, const char *data)
{
    char *p = s->text = strndup(text, len);
    bool seen = false; /* __metadata__ */
    if (!p || strlen(p) != len || !take(&p, '{')) return false;
    do {
        char *name = take_string(&p);
        entry e = {.name = name};
        ad_err ignored;
        if (!name || !take(&p, ':')) return false;
        bool metadata = !strcmp(name, "__metadata__");
        if (metadata ? seen || !take_metadata(&p) : !take_entry(&p, &e) || add_entry(s, &e, data_len, data, &ignored) != AD_OK) return false;
        seen |= metadata;
    } while (take(&p, ','));
    return take(&p, '}') && !*p;
}

static ad_status index_names(ad_safetensors *s, ad_err *err)
{
    s->by_name = ad_calloc(s->count, sizeof *s->by_name);
    if (!s->by_name) return ad_fail(err, AD_ENOMEM, "%s: out of memory", s->label);
    for (size_t i = 0; i < s->count; i++) s->by_name[i] = &s->tensors[i];
    qsort(s->by_name, s->count, sizeof *s->by_name, by_tensor_name);
    for (size_t i = 1; i < s->count; i++)
        if (!strcmp(s->by_name[i - 1]->name, s->by_name[i]->name)) return ad_fail(err, AD_EFORMAT, "%s: two tensors have the name %.200s, a duplicate", s->label, s->by_name[i]->name);
    return AD_OK;
}

/* Where the tensors end when the file is as long as its header says. */
static size_t end_of_data(const ad_safetensors *s, const char *data)
{
    size_t end = 0;
    for (size_t i = 0; i < s->count; i++) {
        const ad_tensor *t = &s->tensors[i];
        size_t e = (size_t)((const char *)t->data - data) + t->bytes;
        end = e > end ? e : end;
    }
    return end;
}

/* total NULL: the file is whole. */
static ad_status parse(ad_safetensors *s, const void *bytes, size_t len, size_t *total, ad_err *err)
{
    const char *p = bytes;
    uint64_t n = 0;
    if (len >= 8) memcpy(&n, p, 8);
    if (len < 8) return ad_fail(err, AD_EFORMAT, "%s: %zu bytes are too few for a safetensors file", s->label, len);
    if (n > MAX_HEADER || n > len - 8)
        return ad_fail(err, AD_EFORMAT, "%s: its header says it has %llu bytes, the file has %zu (limit %llu)", s->label, (unsigned long long)n, len - 8, (unsigned long long)MAX_HEADER);
    size_t end = n;
    while (end > 0 && strchr(" \t\r\n", p[8 + end - 1]) && p[8 + end - 1]) end--;
    const char *data = p + 8 + n;
    size_t data_len = total ? MAX_LENGTH : len - 8 - (size_t)n;
    ad_status st = AD_OK;
    if (!scan_plain(s, p + 8, end, data_len, data)) {
        s->count = 0;
        st = read_json(s, p + 8, end, data_len, data, err);
    }
    if (st == AD_OK && total) {
        data_len = end_of_data(s, data);
        *total = 8 + (size_t)n + data_len;
    }
    if (st == AD_OK) st = check_layout(s, data, data_len, err);
    return st == AD_OK ? index_names(s, err) : st;
}

static ad_safetensors *new_reader(const char *label)
{
    ad_safetensors *s = ad_calloc(1, sizeof *s);
    if (s && !(s->label = strdup(label))) free(s), s = NULL;
    return s;
}

static ad_status parse_bytes(ad_safetensors **out, const void *data, size_t len, const char *label, size_t *total, ad_err *err)
{
    ad_safetensors *s = new_reader(label);
    if (!s) return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    ad_status st = parse(s, data, len, total, err);
    if (st == AD_OK) *out = s;
    else ad_safetensors_close(&s);
    return st;
}

ad_status ad_safetensors_parse(ad_safetensors **out, const void *data, size_t len, const char *label, ad_err *err) { return parse_bytes(out, data, len, label, NULL, err); }

ad_status ad_safetensors_parse_head(ad_safetensors **out, const void *data, size_t have, const char *label, size_t *total, ad_err *err)
{
    return parse_bytes(out, data, have, label, total, err);
}

size_t ad_safetensors_head(const void *data)
{
    uint64_t n;
    memcpy(&n, data, sizeof n);
    return n > MAX_HEADER ? SIZE_MAX : sizeof n + (size_t)n;
}

/* Reads at most *max_bytes, or maps when max_bytes is NULL. */
static ad_status open_with(ad_safetensors **out, const char *path, const size_t *max_bytes, ad_err *err)
{
    ad_safetensors *s = new_reader(path);
    if (!s) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = max_bytes ? ad_file_read(&s->file, path, *max_bytes, err) : ad_file_map(&s->file, path, err);
    if (st == AD_OK) st = parse(s, s->file.data, s->file.len, NULL, err);
    if (st == AD_OK) *out = s;
    else ad_safetensors_close(&s);
    return st;
}

ad_status ad_safetensors_open(ad_safetensors **out, const char *path, ad_err *err) { return open_with(out, path, NULL, err); }
ad_status ad_safetensors_read(ad_safetensors **out, const char *path, size_t max_bytes, ad_err *err) { return open_with(out, path, &max_bytes, err); }

void ad_safetensors_release_pages(const ad_safetensors *s)
{
    ad_file_release_pages(&s->file);
}

void ad_safetensors_close(ad_safetensors **sp)
{
    ad_safetensors *s = *sp;
    if (!s) return;
    ad_file_close(&s->file);
    json_decref(s->header);
    free(s->tensors), free(s->by_name), free(s->label), free(s->text);
    free(s);
    *sp = NULL;
}

const char *ad_safetensors_label(const ad_safetensors *s) { return s->label; }
size_t ad_safetensors_count(const ad_safetensors *s) { return s->count; }
const ad_tensor *ad_safetensors_at(const ad_safetensors *s, size_t i) { return &s->tensors[i]; }

const ad_tensor *ad_safetensors_find(const ad_safetensors *s, const char *name)
{
    ad_tensor key = {.name = name}, *kp = &key;
    const ad_tensor **hit = bsearch(&kp, s->by_name, s->count, sizeof *s->by_name, by_tensor_name);
    return hit ? *hit : NULL;
}
