/* SPDX-License-Identifier: MIT */
/* The GGUF reader. One pass over the header with every read checked against what is left; then two sorted
 * indices for names. Nothing is allocated in proportion to a count before the file proved big enough for it. */
#include "core/formats/gguf.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

enum {
    MAX_KEY = 65535,      /* the specification's */
    MAX_NAME = 63,        /* the reference reader's, without the NUL */
    MAX_TENSORS = 1000000,
    MAX_PAIRS = 100000,
    MIN_PAIR = 8 + 4 + 1, /* key length, type, the smallest value */
    MIN_TENSOR = 8 + 4 + 4 + 8,
};

typedef struct {
    ad_str key;
    ad_gguf_type type, element; /* element: of an array */
    uint64_t count;             /* elements of an array, bytes of a string */
    const uint8_t *data;        /* value, or first element */
} pair;

struct ad_gguf {
    char *label;
    ad_file file; /* when opened by path */
    pair *pairs;
    size_t n_pairs;
    ad_tensor *tensors;
    char (*names)[MAX_NAME + 1];
    size_t n_tensors;
    const ad_tensor **by_name; /* sorted */
};

typedef struct {
    const uint8_t *base, *at, *end;
    const char *label;
    ad_err *err;
} reader;

static const size_t type_bytes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};

static size_t left(const reader *r) { return (size_t)(r->end - r->at); }

static ad_status read_raw(reader *r, void *dst, size_t n, const char *what)
{
    if (left(r) < n) return ad_fail(r->err, AD_EFORMAT, "%s: the file ends inside %s", r->label, what);
    memcpy(dst, r->at, n);
    r->at += n;
    return AD_OK;
}

static ad_status read_u32(reader *r, uint32_t *v, const char *what) { return read_raw(r, v, sizeof *v, what); }
static ad_status read_u64(reader *r, uint64_t *v, const char *what) { return read_raw(r, v, sizeof *v, what); }

static ad_status read_string(reader *r, ad_str *s, const char *what)
{
    uint64_t n = 0;
    ad_status st = read_u64(r, &n, what);
    if (st != AD_OK) return st;
    if (n > left(r)) return ad_fail(r->err, AD_EFORMAT, "%s: %s says it has %llu bytes, the file has %zu left", r->label, what, (unsigned long long)n, left(r));
    *s = (ad_str){(const char *)r->at, (size_t)n};
    r->at += n;
    return AD_OK;
}

static int shown(ad_str s) { return s.len > 80 ? 80 : (int)s.len; }

static ad_status read_array(reader *r, pair *p)
{
    uint32_t type = 0;
    uint64_t n = 0;
    ad_status st = read_u32(r, &type, "an array");
    if (st == AD_OK) st = read_u64(r, &n, "an array");
    if (st != AD_OK) return st;
    if (type > AD_GGUF_F64) return ad_fail(r->err, AD_EFORMAT, "%s: %.*s: array of unknown type %u", r->label, shown(p->key), p->key.ptr, type);
    if (type == AD_GGUF_ARRAY) return ad_fail(r->err, AD_EUNSUPPORTED, "%s: %.*s: an array of arrays", r->label, shown(p->key), p->key.ptr);
    size_t each = type == AD_GGUF_STRING ? 8 : type_bytes[type];
    if (n > left(r) / each)
        return ad_fail(r->err, AD_EFORMAT, "%s: %.*s: %llu elements do not fit into the %zu bytes left", r->label, shown(p->key), p->key.ptr, (unsigned long long)n, left(r));
    p->element = (ad_gguf_type)type;
    p->count = n;
    p->data = r->at;
    if (type != AD_GGUF_STRING) {
        r->at += n * each;
        return AD_OK;
    }
    for (uint64_t i = 0; i < n; i++) {
        ad_str s = {NULL, 0};
        if ((st = read_string(r, &s, "a string of an array")) != AD_OK) return st;
    }
    return AD_OK;
}

static ad_status read_pair(reader *r, pair *p)
{
    uint32_t type = 0;
    ad_status st = read_string(r, &p->key, "a metadata key");
    if (st == AD_OK && p->key.len == 0) return ad_fail(r->err, AD_EFORMAT, "%s: an empty metadata key", r->label);
    if (st == AD_OK && (p->key.len > MAX_KEY || memchr(p->key.ptr, 0, p->key.len)))
        return ad_fail(r->err, AD_EFORMAT, "%s: metadata key %.*s is too long or holds a NUL", r->label, shown(p->key), p->key.ptr);
    if (st == AD_OK) st = read_u32(r, &type, "a metadata type");
    if (st != AD_OK) return st;
    if (type > AD_GGUF_F64) return ad_fail(r->err, AD_EFORMAT, "%s: %.*s: unknown type %u", r->label, shown(p->key), p->key.ptr, type);
    p->type = (ad_gguf_type)type;
    if (type == AD_GGUF_ARRAY) return read_array(r, p);
    if (type == AD_GGUF_STRING) {
        ad_str s = {NULL, 0};
        st = read_string(r, &s, "a metadata string");
        if (st == AD_OK) p->data = (const uint8_t *)s.ptr, p->count = s.len;
        return st;
    }
    p->data = r->at;
    uint8_t skip[8];
    st = read_raw(r, skip, type_bytes[type], "a metadata value");
    if (st == AD_OK && type == AD_GGUF_BOOL && skip[0] > 1)
        return ad_fail(r->err, AD_EFORMAT, "%s: %.*s: a bool must be 0 or 1", r->label, shown(p->key), p->key.ptr);
    return st;
}

static int str_cmp(ad_str a, ad_str b)
{
    int c = memcmp(a.ptr, b.ptr, a.len < b.len ? a.len : b.len);
    return c ? c : (a.len > b.len) - (a.len < b.len);
}

static int by_key(const void *a, const void *b) { return str_cmp(((const pair *)a)->key, ((const pair *)b)->key); }
static int by_tensor_name(const void *a, const void *b)
{
    return strcmp((*(const ad_tensor *const *)a)->name, (*(const ad_tensor *const *)b)->name);
}

static ad_status read_pairs(ad_gguf *g, reader *r, uint64_t n)
{
    if (n > MAX_PAIRS || n > left(r) / MIN_PAIR)
        return ad_fail(r->err, AD_EFORMAT, "%s: %llu metadata pairs are more than fit", r->label, (unsigned long long)n);
    g->pairs = ad_calloc(n ? n : 1, sizeof *g->pairs);
    if (!g->pairs) return ad_fail(r->err, AD_ENOMEM, "%s: out of memory", r->label);
    for (; g->n_pairs < n; g->n_pairs++) {
        ad_status st = read_pair(r, &g->pairs[g->n_pairs]);
        if (st != AD_OK) return st;
    }
    qsort(g->pairs, g->n_pairs, sizeof *g->pairs, by_key);
    for (size_t i = 1; i < g->n_pairs; i++)
        if (!by_key(&g->pairs[i - 1], &g->pairs[i]))
            return ad_fail(r->err, AD_EFORMAT, "%s: metadata key %.*s appears twice", r->label, shown(g->pairs[i].key), g->pairs[i].key.ptr);
    return AD_OK;
}

static ad_status dtype_of(uint32_t id, ad_dtype *out)
{
    static const struct { uint32_t id; ad_dtype t; } map[] = {
        {0, AD_F32}, {1, AD_F16}, {2, AD_Q4_0}, {3, AD_Q4_1}, {6, AD_Q5_0}, {7, AD_Q5_1}, {8, AD_Q8_0}, {12, AD_Q4_K}, {13, AD_Q5_K},
        {14, AD_Q6_K}, {24, AD_I8}, {25, AD_I16}, {26, AD_I32}, {27, AD_I64}, {28, AD_F64}, {30, AD_BF16},
    };
    for (size_t i = 0; i < sizeof map / sizeof *map; i++)
        if (map[i].id == id) {
            *out = map[i].t;
            return AD_OK;
        }
    return AD_EUNSUPPORTED;
}

/* Bytes of a tensor of these dims; false when they overflow or rows are not whole blocks. */
static bool tensor_bytes(const ad_tensor *t, size_t *bytes)
{
    size_t n = 1, block = (size_t)ad_dtype_block(t->dtype);
    for (int i = 0; i < t->n_dims; i++)
        if (!ad_mul_size(n, (size_t)t->dims[i], &n) || n > INT64_MAX / 16) return false;
    size_t row = t->n_dims ? (size_t)t->dims[t->n_dims - 1] : 1;
    return row % block == 0 && ad_mul_size(n / block, ad_dtype_block_bytes(t->dtype), bytes);
}

static ad_status read_tensor(ad_gguf *g, reader *r, size_t i, uint64_t *offset)
{
    ad_tensor *t = &g->tensors[i];
    ad_str name = {NULL, 0};
    uint32_t n_dims = 0, type = 0;
    ad_status st = read_string(r, &name, "a tensor name");
    if (st != AD_OK) return st;
    if (name.len == 0 || name.len > MAX_NAME || memchr(name.ptr, 0, name.len))
        return ad_fail(r->err, AD_EFORMAT, "%s: tensor name %.*s must have 1 to %d bytes and no NUL", r->label, shown(name), name.ptr, MAX_NAME);
    memcpy(g->names[i], name.ptr, name.len);
    t->name = g->names[i];
    st = read_u32(r, &n_dims, t->name);
    if (st == AD_OK && n_dims > 4) return ad_fail(r->err, AD_EFORMAT, "%s: tensor %s has %u dimensions, at most 4 are allowed", r->label, t->name, n_dims);
    if (st != AD_OK) return st;
    t->n_dims = (int)n_dims;
    for (int d = t->n_dims - 1; d >= 0; d--) { /* the file begins with the contiguous one */
        uint64_t v = 0;
        if ((st = read_u64(r, &v, t->name)) != AD_OK) return st;
        if (v > INT64_MAX) return ad_fail(r->err, AD_EFORMAT, "%s: tensor %s: a dimension overflows", r->label, t->name);
        t->dims[d] = (int64_t)v;
    }
    st = read_u32(r, &type, t->name);
    if (st == AD_OK) st = read_u64(r, offset, t->name);
    if (st != AD_OK) return st;
    if (dtype_of(type, &t->dtype) != AD_OK)
        return ad_fail(r->err, AD_EUNSUPPORTED, "%s: tensor %s has ggml type %u, which is not supported", r->label, t->name, type);
    if (!tensor_bytes(t, &t->bytes))
        return ad_fail(r->err, AD_EFORMAT, "%s: tensor %s: its size overflows or its rows are not whole %s blocks", r->label, t->name, ad_dtype_name(t->dtype));
    return AD_OK;
}

static ad_status read_alignment(const ad_gguf *g, reader *r, uint64_t *alignment)
{
    pair key = {.key = {"general.alignment", 17}}, *p = bsearch(&key, g->pairs, g->n_pairs, sizeof key, by_key);
    *alignment = 32;
    if (!p) return AD_OK;
    uint32_t v = 0;
    if (p->type == AD_GGUF_U32) memcpy(&v, p->data, sizeof v);
    if (v < 8 || v & (v - 1)) return ad_fail(r->err, AD_EFORMAT, "%s: general.alignment must be a u32 power of two of at least 8", r->label);
    *alignment = v;
    return AD_OK;
}

/* Tensors lie in file order, each at the next multiple of the alignment: no holes, no overlap. */
static ad_status place_tensors(ad_gguf *g, reader *r, const uint64_t *offsets, uint64_t alignment)
{
    uint64_t header = (uint64_t)(r->at - r->base), size = (uint64_t)(r->end - r->base), expected = 0;
    uint64_t start = (header + alignment - 1) & ~(alignment - 1);
    if (!g->n_tensors) return AD_OK;
    if (start > size) return ad_fail(r->err, AD_EFORMAT, "%s: the file ends before its tensor data", r->label);
    for (size_t i = 0; i < g->n_tensors; i++) {
        ad_tensor *t = &g->tensors[i];
        if (offsets[i] != expected)
            return ad_fail(r->err, AD_EFORMAT, "%s: tensor %s begins at %llu, expected %llu", r->label, t->name, (unsigned long long)offsets[i], (unsigned long long)expected);
        if (expected > size - start || t->bytes > size - start - expected)
            return ad_fail(r->err, AD_EFORMAT, "%s: the file ends inside tensor %s", r->label, t->name);
        t->data = r->base + start + expected;
        expected = (expected + t->bytes + alignment - 1) & ~(alignment - 1);
    }
    return AD_OK;
}

static ad_status index_tensors(ad_gguf *g, reader *r)
{
    g->by_name = ad_calloc(g->n_tensors ? g->n_tensors : 1, sizeof *g->by_name);
    if (!g->by_name) return ad_fail(r->err, AD_ENOMEM, "%s: out of memory", r->label);
    for (size_t i = 0; i < g->n_tensors; i++) g->by_name[i] = &g->tensors[i];
    qsort(g->by_name, g->n_tensors, sizeof *g->by_name, by_tensor_name);
    for (size_t i = 1; i < g->n_tensors; i++)
        if (!strcmp(g->by_name[i - 1]->name, g->by_name[i]->name))
            return ad_fail(r->err, AD_EFORMAT, "%s: tensor %s appears twice", r->label, g->by_name[i]->name);
    return AD_OK;
}

static ad_status read_tensors(ad_gguf *g, reader *r, uint64_t n)
{
    if (n > MAX_TENSORS || n > left(r) / MIN_TENSOR)
        return ad_fail(r->err, AD_EFORMAT, "%s: %llu tensors are more than fit", r->label, (unsigned long long)n);
    uint64_t *offsets = ad_calloc(n ? n : 1, sizeof *offsets), alignment;
    g->tensors = ad_calloc(n ? n : 1, sizeof *g->tensors);
    g->names = ad_calloc(n ? n : 1, sizeof *g->names);
    ad_status st = offsets && g->tensors && g->names ? AD_OK : ad_fail(r->err, AD_ENOMEM, "%s: out of memory", r->label);
    for (; st == AD_OK && g->n_tensors < n; g->n_tensors++) st = read_tensor(g, r, g->n_tensors, &offsets[g->n_tensors]);
    if (st == AD_OK) st = index_tensors(g, r);
    if (st == AD_OK) st = read_alignment(g, r, &alignment);
    if (st == AD_OK) st = place_tensors(g, r, offsets, alignment);
    free(offsets);
    return st;
}

static ad_status read_header(reader *r, uint64_t *n_tensors, uint64_t *n_pairs)
{
    char magic[4] = "";
    uint32_t version = 0;
    ad_status st = read_raw(r, magic, sizeof magic, "the magic");
    if (st != AD_OK) return st;
    if (memcmp(magic, "GGUF", 4)) return ad_fail(r->err, AD_EFORMAT, "%s: not a GGUF file (no GGUF magic)", r->label);
    if ((st = read_u32(r, &version, "the version")) != AD_OK) return st;
    if (version && !(version & 0xffff)) return ad_fail(r->err, AD_EUNSUPPORTED, "%s: a big-endian GGUF file", r->label);
    if (version != 2 && version != 3) return ad_fail(r->err, AD_EUNSUPPORTED, "%s: GGUF version %u is not supported (2 and 3 are)", r->label, version);
    st = read_u64(r, n_tensors, "the tensor count");
    return st == AD_OK ? read_u64(r, n_pairs, "the metadata count") : st;
}

static ad_status parse(ad_gguf *g, const void *data, size_t len, ad_err *err)
{
    reader r = {data, data, len ? (const uint8_t *)data + len : data, g->label, err};
    uint64_t n_tensors = 0, n_pairs = 0;
    int64_t splits;
    ad_status st = len ? read_header(&r, &n_tensors, &n_pairs) : ad_fail(err, AD_EFORMAT, "%s: the file is empty", g->label);
    if (st == AD_OK) st = read_pairs(g, &r, n_pairs);
    if (st == AD_OK && ad_gguf_int(g, "split.count", &splits) && splits > 1)
        st = ad_fail(err, AD_EUNSUPPORTED, "%s: one of %lld parts of a split model; join them first", g->label, (long long)splits);
    if (st == AD_OK) st = read_tensors(g, &r, n_tensors);
    return st;
}

static ad_gguf *gguf_new(const char *label)
{
    ad_gguf *g = ad_calloc(1, sizeof *g);
    if (g && !(g->label = strdup(label))) free(g), g = NULL;
    return g;
}

ad_status ad_gguf_parse(ad_gguf **out, const void *data, size_t len, const char *label, ad_err *err)
{
    ad_gguf *g = gguf_new(label);
    if (!g) return ad_fail(err, AD_ENOMEM, "%s: out of memory", label);
    ad_status st = parse(g, data, len, err);
    if (st == AD_OK) *out = g;
    else ad_gguf_close(&g);
    return st;
}

ad_status ad_gguf_open(ad_gguf **out, const char *path, ad_err *err)
{
    ad_gguf *g = gguf_new(path);
    if (!g) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    ad_status st = ad_file_map(&g->file, path, err);
    if (st == AD_OK) st = parse(g, g->file.data, g->file.len, err);
    if (st == AD_OK) *out = g;
    else ad_gguf_close(&g);
    return st;
}

void ad_gguf_release_pages(const ad_gguf *g)
{
    ad_file_release_pages(&g->file);
}

void ad_gguf_close(ad_gguf **gp)
{
    ad_gguf *g = *gp;
    if (!g) return;
    ad_file_close(&g->file);
    free(g->pairs), free(g->tensors), free(g->names), free(g->by_name), free(g->label);
    free(g);
    *gp = NULL;
}

const char *ad_gguf_label(const ad_gguf *g) { return g->label; }
size_t ad_gguf_tensor_count(const ad_gguf *g) { return g->n_tensors; }
const ad_tensor *ad_gguf_tensor_at(const ad_gguf *g, size_t i) { return &g->tensors[i]; }

const ad_tensor *ad_gguf_tensor(const ad_gguf *g, const char *name)
{
    ad_tensor key = {.name = name}, *kp = &key;
    const ad_tensor **hit = bsearch(&kp, g->by_name, g->n_tensors, sizeof *g->by_name, by_tensor_name);
    return hit ? *hit : NULL;
}

static const pair *find(const ad_gguf *g, const char *key)
{
    pair k = {.key = {key, strlen(key)}};
    return bsearch(&k, g->pairs, g->n_pairs, sizeof k, by_key);
}

size_t ad_gguf_key_count(const ad_gguf *g) { return g->n_pairs; }
ad_str ad_gguf_key_at(const ad_gguf *g, size_t i) { return g->pairs[i].key; }

bool ad_gguf_has(const ad_gguf *g, const char *key) { return find(g, key) != NULL; }

/* One scalar of any integer type at p. */
static bool load_int(ad_gguf_type type, const uint8_t *p, int64_t *out)
{
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; uint64_t u64; int64_t i64; } v;
    if (type == AD_GGUF_F32 || type == AD_GGUF_BOOL || type == AD_GGUF_STRING || type == AD_GGUF_ARRAY || type == AD_GGUF_F64) return false;
    memcpy(&v, p, type_bytes[type]);
    switch (type) {
    case AD_GGUF_U8: *out = v.u8; return true;
    case AD_GGUF_I8: *out = v.i8; return true;
    case AD_GGUF_U16: *out = v.u16; return true;
    case AD_GGUF_I16: *out = v.i16; return true;
    case AD_GGUF_U32: *out = v.u32; return true;
    case AD_GGUF_I32: *out = v.i32; return true;
    case AD_GGUF_I64: *out = v.i64; return true;
    default:
        if (v.u64 > INT64_MAX) return false;
        *out = (int64_t)v.u64;
        return true;
    }
}

static bool load_float(ad_gguf_type type, const uint8_t *p, double *out)
{
    float f;
    int64_t i;
    if (type == AD_GGUF_F64) {
        memcpy(out, p, sizeof *out);
        return true;
    }
    if (type == AD_GGUF_F32) {
        memcpy(&f, p, sizeof f);
        *out = (double)f;
        return true;
    }
    if (!load_int(type, p, &i)) return false;
    *out = (double)i;
    return true;
}

bool ad_gguf_int(const ad_gguf *g, const char *key, int64_t *out)
{
    const pair *p = find(g, key);
    return p && load_int(p->type, p->data, out);
}

bool ad_gguf_float(const ad_gguf *g, const char *key, double *out)
{
    const pair *p = find(g, key);
    return p && load_float(p->type, p->data, out);
}

bool ad_gguf_bool(const ad_gguf *g, const char *key, bool *out)
{
    const pair *p = find(g, key);
    if (!p || p->type != AD_GGUF_BOOL) return false;
    *out = p->data[0] != 0;
    return true;
}

bool ad_gguf_str(const ad_gguf *g, const char *key, ad_str *out)
{
    const pair *p = find(g, key);
    if (!p || p->type != AD_GGUF_STRING) return false;
    *out = (ad_str){(const char *)p->data, (size_t)p->count};
    return true;
}

bool ad_gguf_array(const ad_gguf *g, const char *key, ad_gguf_type *type, size_t *count)
{
    const pair *p = find(g, key);
    if (!p || p->type != AD_GGUF_ARRAY) return false;
    *type = p->element;
    *count = (size_t)p->count;
    return true;
}

bool ad_gguf_array_strings(const ad_gguf *g, const char *key, ad_str *out, size_t count)
{
    const pair *p = find(g, key);
    if (!p || p->type != AD_GGUF_ARRAY || p->element != AD_GGUF_STRING || p->count < count) return false;
    const uint8_t *at = p->data;
    for (size_t i = 0; i < count; i++) {
        uint64_t n;
        memcpy(&n, at, sizeof n);
        out[i] = (ad_str){(const char *)at + sizeof n, (size_t)n};
        at += sizeof n + n;
    }
    return true;
}

bool ad_gguf_array_ints(const ad_gguf *g, const char *key, int64_t *out, size_t count)
{
    const pair *p = find(g, key);
    if (!p || p->type != AD_GGUF_ARRAY || p->element == AD_GGUF_STRING || p->count < count) return false;
    for (size_t i = 0; i < count; i++)
        if (!load_int(p->element, p->data + i * type_bytes[p->element], &out[i])) return false;
    return true;
}

bool ad_gguf_array_floats(const ad_gguf *g, const char *key, float *out, size_t count)
{
    const pair *p = find(g, key);
    double d;
    if (!p || p->type != AD_GGUF_ARRAY || p->element == AD_GGUF_STRING || p->count < count) return false;
    for (size_t i = 0; i < count; i++) {
        if (!load_float(p->element, p->data + i * type_bytes[p->element], &d)) return false;
        out[i] = (float)d;
    }
    return true;
}
