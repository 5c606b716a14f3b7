/* SPDX-License-Identifier: MIT */
/* Opens a model's files and finds its tensors by name. */
#include "core/model/source.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/file.h"

enum { MAX_SHARDS = 1000 };                  /* the numbering scheme of shards has five digits; nobody uses more */
static const size_t MAX_JSON = 64u << 20;    /* config.json and the index of shards */

typedef struct {
    char *file;
    ad_safetensors *st;
} shard;

struct ad_source {
    char *path;
    ad_gguf *gguf;
    json_t *config, *index; /* index: the weight_map object, borrowed from index_doc */
    json_t *index_doc;
    shard *shards;
    int n_shards;
};

static char *join(const char *dir, const char *file)
{
    ad_buf b = {0};
    ad_buf_printf(&b, "%s/%s", dir, file);
    if (b.failed) { ad_buf_deinit(&b); return NULL; }
    return b.data;
}

static ad_status read_json(json_t **out, const char *path, ad_err *err)
{
    ad_file f = {0};
    ad_status st = ad_file_read(&f, path, MAX_JSON, err);
    if (st != AD_OK) return st;
    json_error_t je;
    json_t *doc = json_loadb(f.data ? f.data : "", f.len, JSON_REJECT_DUPLICATES, &je);
    ad_file_close(&f);
    if (!doc) return ad_fail(err, AD_EFORMAT, "%s: line %d: %s", path, je.line, je.text);
    if (!json_is_object(doc)) {
        json_decref(doc);
        return ad_fail(err, AD_EFORMAT, "%s: must hold a JSON object", path);
    }
    *out = doc;
    return AD_OK;
}

static int find_shard(const ad_source *s, const char *file)
{
    for (int i = 0; i < s->n_shards; i++)
        if (!strcmp(s->shards[i].file, file)) return i;
    return -1;
}

static ad_status open_shard(ad_source *s, const char *file, ad_err *err)
{
    shard *sh = &s->shards[s->n_shards];
    char *path = join(s->path, file);
    sh->file = strdup(file);
    ad_status st = path && sh->file ? AD_OK : ad_fail(err, AD_ENOMEM, "%s: out of memory", s->path);
    if (st == AD_OK) st = ad_safetensors_open(&sh->st, path, err);
    free(path);
    s->n_shards++; /* also when it failed: the close frees what is there */
    return st;
}

static bool plain_name(const char *file)
{
    return *file && *file != '.' && !strpbrk(file, "/\\");
}

/* Each shard is opened once; each mapped name must be in its shard, and in no other. */
static ad_status open_index(ad_source *s, const char *path, ad_err *err)
{
    ad_status st = read_json(&s->index_doc, path, err);
    if (st != AD_OK) return st;
    s->index = json_object_get(s->index_doc, "weight_map");
    if (!json_is_object(s->index) || !json_object_size(s->index))
        return ad_fail(err, AD_EFORMAT, "%s: weight_map must be a non-empty object", path);
    s->shards = ad_calloc(MAX_SHARDS, sizeof *s->shards);
    if (!s->shards) return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    const char *name;
    json_t *v;
    json_object_foreach(s->index, name, v) {
        const char *file = json_string_value(v);
        if (!file || !plain_name(file))
            return ad_fail(err, AD_EFORMAT, "%s: weight_map[\"%.100s\"] must name a file beside it", path, name);
        int i = find_shard(s, file);
        if (i < 0) {
            if (s->n_shards == MAX_SHARDS) return ad_fail(err, AD_ELIMIT, "%s: more than %d shards", path, MAX_SHARDS);
            i = s->n_shards;
            if ((st = open_shard(s, file, err)) != AD_OK) return st;
        }
        if (!ad_safetensors_find(s->shards[i].st, name))
            return ad_fail(err, AD_EFORMAT, "%s: %s does not hold tensor %.100s", path, file, name);
    }
    json_object_foreach(s->index, name, v) {
        int holders = 0;
        for (int i = 0; i < s->n_shards; i++) holders += ad_safetensors_find(s->shards[i].st, name) != NULL;
        if (holders > 1) return ad_fail(err, AD_EFORMAT, "%s: tensor %.100s is in %d shards", path, name, holders);
    }
    return AD_OK;
}

static bool is_file(const char *path)
{
    struct stat sb;
    return path && stat(path, &sb) == 0 && S_ISREG(sb.st_mode);
}

static ad_status open_dir(ad_source *s, ad_err *err)
{
    char *config = join(s->path, "config.json"), *one = join(s->path, "model.safetensors");
    char *many = join(s->path, "model.safetensors.index.json"), *pickle = join(s->path, "pytorch_model.bin");
    ad_status st;
    if (!config || !one || !many || !pickle) {
        st = ad_fail(err, AD_ENOMEM, "%s: out of memory", s->path);
    } else if (!is_file(config)) {
        st = ad_fail(err, AD_ENOTFOUND, "%s: no config.json in this directory; a model is a GGUF file or a Hugging Face directory", s->path);
    } else if ((st = read_json(&s->config, config, err)) != AD_OK) {
        ;
    } else if (is_file(one)) {
        s->shards = ad_calloc(1, sizeof *s->shards);
        st = s->shards ? open_shard(s, "model.safetensors", err) : ad_fail(err, AD_ENOMEM, "%s: out of memory", s->path);
    } else if (is_file(many)) {
        st = open_index(s, many, err);
    } else if (is_file(pickle)) {
        st = ad_fail(err, AD_EUNSUPPORTED, "%s: pytorch_model.bin is a Python pickle; convert the model to safetensors", s->path);
    } else {
        st = ad_fail(err, AD_ENOTFOUND, "%s: neither model.safetensors nor model.safetensors.index.json is there", s->path);
    }
    free(config), free(one), free(many), free(pickle);
    return st;
}

ad_status ad_source_open(ad_source **out, const char *path, ad_err *err)
{
    struct stat sb;
    if (stat(path, &sb) != 0) return ad_fail(err, AD_ENOTFOUND, "%s: no such file or directory", path);
    ad_source *s = ad_calloc(1, sizeof *s);
    if (!s || !(s->path = strdup(path))) {
        free(s);
        return ad_fail(err, AD_ENOMEM, "%s: out of memory", path);
    }
    ad_status st = S_ISDIR(sb.st_mode) ? open_dir(s, err) : ad_gguf_open(&s->gguf, path, err);
    if (st == AD_OK) *out = s;
    else ad_source_close(&s);
    return st;
}

void ad_source_close(ad_source **sp)
{
    ad_source *s = *sp;
    if (!s) return;
    for (int i = 0; i < s->n_shards; i++) {
        ad_safetensors_close(&s->shards[i].st);
        free(s->shards[i].file);
    }
    free(s->shards);
    json_decref(s->config);
    json_decref(s->index_doc);
    ad_gguf_close(&s->gguf);
    free(s->path);
    free(s);
    *sp = NULL;
}

const ad_gguf *ad_source_gguf(const ad_source *s) { return s->gguf; }
const json_t *ad_source_config(const ad_source *s) { return s->config; }

const ad_tensor *ad_source_tensor(const ad_source *s, const char *name)
{
    if (s->gguf) return ad_gguf_tensor(s->gguf, name);
    if (!s->index) return ad_safetensors_find(s->shards[0].st, name);
    const char *file = json_string_value(json_object_get(s->index, name));
    return file ? ad_safetensors_find(s->shards[find_shard(s, file)].st, name) : NULL;
}

size_t ad_source_count(const ad_source *s)
{
    if (s->gguf) return ad_gguf_tensor_count(s->gguf);
    size_t n = 0;
    for (int i = 0; i < s->n_shards; i++) n += ad_safetensors_count(s->shards[i].st);
    return n;
}

const ad_tensor *ad_source_at(const ad_source *s, size_t i)
{
    if (s->gguf) return ad_gguf_tensor_at(s->gguf, i);
    for (int k = 0; k < s->n_shards; k++) {
        size_t n = ad_safetensors_count(s->shards[k].st);
        if (i < n) return ad_safetensors_at(s->shards[k].st, i);
        i -= n;
    }
    return NULL;
}

void ad_source_release_pages(const ad_source *s)
{
    if (s->gguf) ad_gguf_release_pages(s->gguf);
    for (int i = 0; i < s->n_shards; i++) ad_safetensors_release_pages(s->shards[i].st);
}

size_t ad_source_bytes(const ad_source *s)
{
    size_t sum = 0;
    for (size_t i = 0, n = ad_source_count(s); i < n; i++) sum += ad_source_at(s, i)->bytes;
    return sum;
}
