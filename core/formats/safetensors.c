/* SPDX-License-Identifier: MIT */
/* The safetensors reader: the JSON header through jansson, then one sorted walk that leaves no hole and no overlap. */
#include "core/formats/safetensors.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

static const uint64_t MAX_HEADER = 100000000; /* the reference reader's */
enum { MAX_TENSORS = 1000000, MAX_DIMS = 8 };

struct ad_safetensors {
    char *label;
    ad_file file;
    json_t *header;            /* keeps the names */
    ad_tensor *tensors;        /* in offset order */
    const ad_tensor **by_name; /* sorted */
    size_t count;
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

static ad_status read_entry(ad_safetensors *s, ad_tensor *t, const char *name, const json_t *v, size_t data_len, const char *data, ad_err *err)
{
    const json_t *shape = json_object_get(v, "shape"), *offsets = json_object_get(v, "data_offsets");
    const char *type = json_string_value(json_object_get(v, "dtype"));
    int64_t begin, end;
    t->name = name;
    if (!json_is_object(v) || json_object_size(v) != 3 || !type || !json_is_array(shape) || !json_is_array(offsets))
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s must have exactly dtype, shape and data_offsets", s->label, name);
    if (!dtype_of(type, &t->dtype)) return ad_fail(err, AD_EUNSUPPORTED, "%s: tensor %.200s has dtype %.20s, which is not supported", s->label, name, type);
    if (json_array_size(shape) > MAX_DIMS) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s has more than %d dimensions", s->label, name, MAX_DIMS);
    t->n_dims = (int)json_array_size(shape);
    size_t n = 1;
    for (int i = 0; i < t->n_dims; i++) {
        if (!natural(json_array_get(shape, (size_t)i), &t->dims[i])) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its shape must hold non-negative integers", s->label, name);
        if (!ad_mul_size(n, (size_t)t->dims[i], &n) || n > INT64_MAX) return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its size overflows", s->label, name);
    }
    if (!ad_mul_size(n, ad_dtype_block_bytes(t->dtype), &t->bytes) || t->bytes > INT64_MAX)
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: its size overflows", s->label, name);
    if (json_array_size(offsets) != 2 || !natural(json_array_get(offsets, 0), &begin) || !natural(json_array_get(offsets, 1), &end))
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: data_offsets must be two non-negative integers", s->label, name);
    if (begin > end || (uint64_t)(end - begin) != t->bytes)
        return ad_fail(err, AD_EFORMAT, "%s: tensor %.200s: data_offsets span %lld bytes, its shape needs %zu", s->label, name, (long long)(end - begin), t->bytes);
    if ((uint64_t)end > data_len) return ad_fail(err, AD_EFORMAT, "%s: the file ends inside tensor %.200s", s->label, name);
    t->data = data + begin;
    return AD_OK;
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
    qsort(s->tensors, s->count, sizeof *s->tensors, by_offset);
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

static ad_status read_entries(ad_safetensors *s, const char *data, size_t data_len, ad_err *err)
{
    size_t n = json_object_size(s->header);
    if (n > MAX_TENSORS) return ad_fail(err, AD_ELIMIT, "%s: more than %d tensors", s->label, MAX_TENSORS);
    s->tensors = ad_calloc(n ? n : 1, sizeof *s->tensors);
    s->by_name = ad_calloc(n ? n : 1, sizeof *s->by_name);
    if (!s->tensors || !s->by_name) return ad_fail(err, AD_ENOMEM, "%s: out of memory", s->label);
    const char *name;
    json_t *v;
    json_object_foreach(s->header, name, v) {
        ad_status st;
        if (!strcmp(name, "__metadata__")) st = check_metadata(s, v, err);
        else st = read_entry(s, &s->tensors[s->count++], name, v, data_len, data, err);
        if (st != AD_OK) return st;
    }
    ad_status st = check_layout(s, data, data_len, err);
    for (size_t i = 0; i < s->count; i++) s->by_name[i] = &s->tensors[i];
    qsort(s->by_name, s->count, sizeof *s->by_name, by_tensor_name);
    return st;
}

static ad_status parse(ad_safetensors *s, const void *bytes, size_t len, ad_err *err)
{
    const char *p = bytes;
    uint64_t n = 0;
    if (len >= 8) memcpy(&n, p, 8);
    if (len < 8) return ad_fail(err, AD_EFORMAT, "%s: %zu bytes are too few for a safetensors file", s->label, len);
    if (n > MAX_HEADER || n > len - 8)
        return ad_fail(err, AD_EFORMAT, "%s: its header says it has %llu bytes, the file has %zu (limit %llu)", s->label, (unsigned long long)n, len - 8, (unsigned long long)MAX_HEADER);
    size_t end = n;
    while (end > 0 && strchr(" \t\r\n", p[8 + end - 1]) && p[8 + end - 1]) end--;
    json_error_t je;
    s->header = json_loadb(p + 8, end, JSON_REJECT_DUPLICATES, &je);
    if (!s->header) return ad_fail(err, AD_EFORMAT, "%s: header, byte %d: %s", s->label, je.position, je.text);
    if (!json_is_object(s->header)) return ad_fail(err, AD_EFORMAT, "%s: the header must be a JSON object", s->label);
    return read_entries(s, p + 8 + n, len - 8 - (size_t)n, err);
}

static ad_safetensors *new_reader(const char *label)
{
    ad_safetensors *s = ad_calloc(1, sizeof *s);
    if (s && !(s->label = strdup(label))) free(s), s = NULL;
    return s;
}

ad_status ad_safetensors_parse(ad_safetensors **out, const void *data, size_t len, const char *label, ad_err *err)
{
    ad_safetensors *s = new_reader(label);
    if (!s) return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    ad_status st = parse(s, data, len, err);
    if (st == AD_OK) *out = s;
    else ad_safetensors_close(&s);
    return st;
}

/* Reads at most *max_bytes, or maps when max_bytes is NULL. */
static ad_status open_with(ad_safetensors **out, const char *path, const size_t *max_bytes, ad_err *err)
{
    ad_safetensors *s = new_reader(path);
    if (!s) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = max_bytes ? ad_file_read(&s->file, path, *max_bytes, err) : ad_file_map(&s->file, path, err);
    if (st == AD_OK) st = parse(s, s->file.data, s->file.len, err);
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
    free(s->tensors), free(s->by_name), free(s->label);
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
