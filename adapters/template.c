/* SPDX-License-Identifier: MIT */
#include "adapters/template.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/text/utf8.h"

enum { PATH = 4096 + 32 };

size_t ad_template_file_bytes(const char *name)
{
    if (!strcmp(name, AD_TEMPLATE_FILE)) return AD_TEMPLATE_BYTES;
    return strcmp(name, AD_TOKENIZER_CONFIG) ? 0 : AD_TOKENIZER_CONFIG_BYTES;
}

static void path_in(char path[PATH], const char *dir, const char *name) { snprintf(path, PATH, "%s/%s", dir, name); }

static bool is_there(const char *dir, const char *name)
{
    char path[PATH];
    path_in(path, dir, name);
    return access(path, F_OK) == 0;
}

static ad_status take_text(const char *text, size_t len, const char *file, ad_chat_template **out, ad_err *err)
{
    if (len > AD_TEMPLATE_BYTES) return ad_fail(err, AD_ELIMIT, "%s: the chat template has %zu bytes; %d are allowed", file, len, AD_TEMPLATE_BYTES);
    if (ad_utf8_check(text, len) != len || memchr(text, '\0', len)) return ad_fail(err, AD_EFORMAT, "%s: the chat template is not UTF-8 text", file);
    return ad_chat_template_new(out, text, len, file, err);
}

ad_status ad_template_compile(const char *text, ad_chat_template **out, ad_err *err)
{
    *out = NULL;
    return *text ? take_text(text, strlen(text), "chat_template", out, err) : AD_OK;
}

/* The text of "chat_template", which may be a list of {"name", "template"}; NULL: there is none. */
static const json_t *find_template(const json_t *config)
{
    const json_t *t = json_object_get(config, "chat_template"), *item;
    size_t i;
    if (!json_is_array(t)) return json_is_null(t) ? NULL : t;
    json_array_foreach(t, i, item) {
        const char *name = json_string_value(json_object_get(item, "name"));
        if (name && !strcmp(name, "default")) return json_object_get(item, "template");
    }
    return NULL;
}

static ad_status read_tokenizer_config(const ad_file *f, ad_chat_template **out, ad_err *err)
{
    json_error_t why;
    json_t *config = json_loadb(f->data ? f->data : "", f->len, 0, &why);
    const json_t *t = find_template(config);
    ad_status st = AD_OK;
    if (!json_is_object(config)) st = ad_fail(err, AD_EFORMAT, AD_TOKENIZER_CONFIG ": %s", config ? "not a JSON object" : why.text);
    else if (t && !json_is_string(t)) st = ad_fail(err, AD_EFORMAT, AD_TOKENIZER_CONFIG ": \"chat_template\" is neither a text nor a list with a \"default\"");
    else if (t) st = take_text(json_string_value(t), json_string_length(t), AD_TOKENIZER_CONFIG, out, err);
    json_decref(config);
    return st;
}

ad_status ad_template_read(const char *dir, ad_chat_template **out, ad_err *err)
{
    char path[PATH];
    ad_file f = {0};
    *out = NULL;
    const char *name = is_there(dir, AD_TEMPLATE_FILE) ? AD_TEMPLATE_FILE : AD_TOKENIZER_CONFIG;
    if (!is_there(dir, name)) return AD_OK;
    path_in(path, dir, name);
    ad_status st = ad_file_read(&f, path, ad_template_file_bytes(name), err);
    if (st != AD_OK) return st;
    if (!strcmp(name, AD_TEMPLATE_FILE)) st = take_text(f.data ? f.data : "", f.len, name, out, err);
    else st = read_tokenizer_config(&f, out, err);
    ad_file_close(&f);
    return st;
}

void ad_template_remove_files(const char *dir)
{
    static const char *const names[] = {AD_TEMPLATE_FILE, AD_TOKENIZER_CONFIG};
    char path[PATH];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        path_in(path, dir, names[i]);
        unlink(path);
    }
}
