# SPDX-License-Identifier: MIT
"""Chat templates that adapters bring along: from every place an adapter comes from, through restarts and roll-backs."""
import json
import os
import select
import shutil
import socket
import tempfile
import time
import unittest

from daemon import fails_to_start, wait_until
from registry_util import ADAPTERS, BASE, Registry, files_of, make_adapter, parts_of

ONE, TWO = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}", "{{ messages[0].content }} é"


def tokenizer_config(template):
    return json.dumps({"eos_token": "</s>", "chat_template": template}).encode()


class Templates(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        self.at = lambda *p: os.path.join(self.tmp.name, *p)
        self.d = None

    def start(self, *options, **kw):
        if self.d:
            self.d.stop()
        self.d = Registry(BASE, "--served-name", "base", "--threads", "1", *options, **kw)
        return self.d

    def stored(self):
        return self.start("--state-dir", self.at("state"))

    def tearDown(self):
        if self.d:
            self.d.stop()
        self.tmp.cleanup()

    def template(self, name):
        a = self.d.show(name)[1]
        self.assertEqual(a["has_chat_template"], a["chat_template"] is not None)
        return a["chat_template"]

    def folder(self, *path, **files):
        """A copy of an adapter's directory with these files beside it."""
        shutil.copytree(os.path.join(ADAPTERS, "qv"), self.at(*path))
        for name, data in files.items():
            with open(self.at(*path, name.replace("__", ".")), "wb") as f:
                f.write(data)
        return self.at(*path)

    def test_a_template_comes_in_every_form_an_upload_has(self):
        d = self.stored()
        self.assertEqual(d.upload("field", files_of("qv"), chat_template=ONE)[0], 201)
        self.assertEqual(d.send("/v1/adapters", parts_of(files_of("qv"), name="file") + [("chat_template", "chat_template.jinja", TWO.encode())])[0], 201)
        self.assertEqual(d.send("/v1/adapters", parts_of(files_of("qv"), name="config") + [("tokenizer_config", "t", tokenizer_config([{"name": "default", "template": ONE}]))])[0], 201)
        self.folder("jinja", chat_template__jinja=TWO.encode(), tokenizer_config__json=tokenizer_config(ONE))
        self.folder("list", tokenizer_config__json=tokenizer_config(ONE))
        for name, kind in (("jinja", "gztar"), ("list", "zip")):
            path = shutil.make_archive(self.at(name), kind, self.tmp.name, name)
            with open(path, "rb") as f:
                status, a = d.send("/v1/adapters", [("name", None, name.encode()), ("archive", "a", f.read())])
            self.assertEqual(status, 201, a)
        self.assertEqual(d.upload("none", files_of("qv"))[0], 201)
        want = {"field": ONE, "file": TWO, "config": ONE, "jinja": TWO, "list": ONE, "none": None}
        self.assertEqual({name: self.template(name) for name in want}, want)
        self.assertEqual({a["name"]: a["has_chat_template"] for a in d.call("GET", "/v1/adapters")[1]["data"]}, {name: t is not None for name, t in want.items()})
        self.assertEqual({d.show(name)[1]["digest"] for name in want}, {d.show("none")[1]["digest"]})
        d = self.stored()
        self.assertEqual({name: self.template(name) for name in want}, want)
        blobs = [f for _, _, files in os.walk(self.at("state", "blobs")) for f in files]
        self.assertEqual(sorted(blobs), ["adapter_config.json", "adapter_model.safetensors"])

    def test_the_field_goes_before_the_file_and_an_empty_one_means_none(self):
        d = self.stored()
        self.folder("x", chat_template__jinja=ONE.encode())
        path = shutil.make_archive(self.at("x"), "tar", self.tmp.name, "x")
        with open(path, "rb") as f:
            data = f.read()
        for name, field, want in (("a", TWO, TWO), ("b", "", None)):
            self.assertEqual(d.send("/v1/adapters", [("name", None, name.encode()), ("archive", "a", data), ("chat_template", None, field.encode())])[0], 201)
            self.assertEqual(self.template(name), want)

    def test_a_version_has_its_own_template_whichever_is_active(self):
        d = self.stored()
        d.upload("a", files_of("qv"), chat_template=ONE)
        self.assertEqual(d.upload("a", files_of("qv"), chat_template=ONE)[0], 200)
        self.assertEqual(d.upload("a", files_of("qv"), chat_template=TWO)[0], 409)  # it would answer otherwise
        self.assertEqual(d.new_version("a", files_of("qv"), chat_template=TWO)[1]["version"], 2)
        self.assertEqual(d.new_version("a", make_adapter(3), activate="false")[0], 201)
        self.assertEqual(self.template("a"), TWO)
        self.assertEqual([v["has_chat_template"] for v in d.show("a")[1]["versions"]], [True, True, False])
        d.call("POST", "/v1/adapters/a/rollback")
        self.assertEqual(self.template("a"), ONE)
        d.call("POST", "/v1/adapters/a/activate", {"version": 3})
        self.assertEqual(self.template("a"), None)
        d = self.stored()
        self.assertEqual(self.template("a"), None)
        d.call("POST", "/v1/adapters/a/activate", {"version": 2})
        self.assertEqual(self.template("a"), TWO)

    def test_a_chat_is_written_by_the_template_of_the_version_that_answers(self):
        d = self.stored()
        d.upload("a", files_of("qv"), chat_template=ONE)
        d.new_version("a", files_of("qv"), chat_template=TWO)

        def prompt(model):
            status, r = self.d.call("POST", "/v1/chat/completions", {"model": model, "messages": [{"role": "user", "content": "Hello there"}], "max_tokens": 1, "temperature": 0})
            return r["usage"]["prompt_tokens"] if status == 200 else r["error"]["code"]

        def tokens(text):
            return len(self.d.call("POST", "/tokenize", {"model": "base", "prompt": text, "add_special_tokens": False})[1]["tokens"])
        for restart in (False, True):
            if restart:
                self.stored()
            self.assertEqual(prompt("base"), "no_chat_template")
            self.assertEqual(prompt("a"), tokens("Hello there é"))
            self.assertEqual(prompt("a@1"), tokens("<user>Hello there"))
        self.d.call("PUT", "/v1/aliases/chat", {"targets": [{"model": "a@1"}]})
        self.assertEqual(prompt("chat"), tokens("<user>Hello there"))

    def test_what_is_no_template_refuses_the_adapter(self):
        d = self.stored()
        parts = parts_of(files_of("qv"), name="a")
        for part, want in ((("chat_template", None, b"x" * 65537), 413), (("chat_template", None, b"caf\xe9"), 400), (("tokenizer_config", "t", b"{"), 422), (("tokenizer_config", None, b"{}"), 400),
                           (("tokenizer_config", "t", tokenizer_config(7)), 422), (("chat_template", None, b"{% for m in messages %}"), 422),
                           (("tokenizer_config", "t", tokenizer_config("{{ a b }}")), 422), (("tokenizer_config", "t", tokenizer_config("x" * 65537)), 413)):
            status, e = d.send("/v1/adapters", parts + [part])
            self.assertEqual(status, want, (part[0], part[2][:20], e))
            self.assertNotIn(self.tmp.name, json.dumps(e))
        self.assertEqual(d.names(), [])

    def test_places_of_the_server_bring_their_template(self):
        self.folder("roots", "r", tokenizer_config__json=tokenizer_config(ONE))
        self.folder("given", chat_template__jinja=TWO.encode())
        os.makedirs(self.at("watched"))
        d = self.start("--adapter", f"given={self.at('given')}", "--adapter-root", self.at("roots"), "--watch-dir", self.at("watched"))
        self.assertEqual(self.template("given"), TWO)
        for name, field, want in (("r", {}, ONE), ("s", {"chat_template": TWO}, TWO)):
            status, a = d.call("POST", "/v1/adapters", {"name": name, "path": self.at("roots", "r"), **field})
            self.assertEqual((status, a["chat_template"]), (201, want), a)
        self.assertEqual(d.call("POST", "/v1/adapters", {"name": "t", "path": self.at("roots", "r"), "chat_template": 7})[0], 400)
        self.folder("coming", chat_template__jinja=ONE.encode())
        os.rename(self.at("coming"), self.at("watched", "w"))
        wait_until(lambda: d.show("w")[0] == 200 and self.template("w") == ONE, "it is served")
        with open(self.at("watched", "w", "chat_template.jinja"), "w") as f:
            f.write(TWO)
        wait_until(lambda: self.template("w") == TWO, "another template")

    def test_a_broken_template_on_the_command_line_may_refuse_the_start(self):
        self.folder("bad", tokenizer_config__json=b"{")
        out = fails_to_start("--model", BASE, "--bad-adapter", "refuse", "--adapter", f"bad={self.at('bad')}")
        self.assertIn("tokenizer_config.json", out)

    def test_programs_of_strangers_run_beside_the_loop(self):
        d = self.stored()
        d.upload("slow", files_of("qv"), chat_template="{% set l = [0] %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}")  # until its steps are used up
        dots = "(" + "|".join("." * i + "x" for i in range(170)) + ")*"  # a megabyte of program
        for path, body in (("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]}), ("/tokenize", {"messages": [{"role": "user", "content": "a"}]}),
                           ("/apply-template", {"messages": [{"role": "user", "content": "a"}]}), ("/v1/responses", {"input": "a"}), ("/v1/completions", {"prompt": "a", "regex": dots})):
            raw = json.dumps({"model": "slow", **body}).encode()
            self.assertLess(len(raw), 16384)  # longer ones are read on the pool anyway
            self.assertTrue(any(self.health_comes_before(path, raw) for _ in range(5)), path)

    def health_comes_before(self, path, raw):
        """Whether /health answers while this request is being read."""
        with socket.create_connection((self.d.host, self.d.port), timeout=60) as s:
            s.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n".encode() + raw)
            time.sleep(0.02)
            self.d.request("GET", "/health")
            early = not select.select([s], [], [], 0)[0]
            self.assertEqual(s.recv(12), b"HTTP/1.1 400")
            return early


if __name__ == "__main__":
    unittest.main()
