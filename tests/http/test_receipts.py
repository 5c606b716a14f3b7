# SPDX-License-Identifier: MIT
"""Receipts: every reply of every dialect names what answered, in its body, its header, each event of a stream and the line of the log."""
import json
import os
import tempfile
import unittest

from daemon import CHATML, wait_until
from registry_util import BASE, Registry

MESSAGES = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"]}}}]


def exchanges(model):
    """(path, body) of each way to ask; streams are told by their Content-Type."""
    openai = {"model": model, "max_tokens": 3, "temperature": 0}
    yield from (("/v1/completions", {**openai, "prompt": "x", **more}) for more in ({}, {"n": 2}, {"prompt": ["x", "y"]}, {"max_tokens": 0, "echo": True}, {"stream": True},
                                                                                    {"stream": True, "stream_options": {"include_usage": True}}))
    yield from (("/v1/chat/completions", {**openai, "messages": MESSAGES, **more}) for more in ({}, {"stream": True}, {"stream": True, "tools": TOOLS, "tool_choice": "required", "max_tokens": 100}))
    yield from (("/v1/responses", {"model": model, "input": "hi", "max_output_tokens": 100, **more}) for more in ({"max_output_tokens": 3}, {"stream": True, "max_output_tokens": 3},
                {"stream": True, "tools": [{"type": "function", **TOOLS[0]["function"]}], "tool_choice": "required"}))
    yield from (("/v1/embeddings", {"model": model, "input": "hi", **more}) for more in ({}, {"encoding_format": "base64", "input": ["hi", "you"]}))
    for path in ("/completion", "/completions"):
        yield from ((path, {"model": model, "prompt": "hi", "n_predict": 3, **more}) for more in ({}, {"stream": True}, {"prompt": ["hi", "you"]}, {"response_fields": ["content"]}))
    yield from ((path, {"model": model, "content": ["hi", "you"]}) for path in ("/embedding", "/embeddings"))
    for prefix in ("", "/v1"):
        yield from ((prefix + "/tokenize", {"model": model, **more}) for more in ({"prompt": "hi", "return_token_strs": True}, {"messages": MESSAGES}, {"content": "hi"}, {"content": "", "with_pieces": True}))
        yield prefix + "/detokenize", {"model": model, "tokens": [5, 17]}
    yield "/apply-template", {"model": model, "messages": MESSAGES}
    tgi = {"max_new_tokens": 3, **({} if model == "base" else {"adapter_id": model})}
    yield from (("/generate", {"inputs": "hi", "parameters": {**tgi, **more}}) for more in ({}, {"details": True}, {"details": True, "best_of": 2, "do_sample": True}))
    yield "/generate_stream", {"inputs": "hi", "parameters": tgi}
    yield from (("/", {"inputs": "hi", "stream": stream, "parameters": tgi}) for stream in (False, True))


def objects(headers, reply):
    """What has to carry a receipt: the body, each element of a list, each event."""
    if headers["Content-Type"].startswith("text/event-stream"):
        lines = [line[len("data:"):].strip() for line in reply.decode().splitlines() if line.startswith("data:")]
        return [json.loads(line) for line in lines if line != "[DONE]"]
    body = json.loads(reply)
    return body if isinstance(body, list) else [body]


class Receipts(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        template = os.path.join(cls.dir.name, "chat.jinja")
        with open(template, "w") as f:
            f.write(CHATML)
        cls.d = Registry(BASE, "--served-name", "base", "--chat-template-file", template, adapters=("qv", "all"), log_level="info")
        cls.versions = {m["id"]: m["adapter_version"] for m in cls.d.get("/v1/models")[1]["data"]}

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        cls.dir.cleanup()

    def ask(self, path, body):
        status, headers, reply = self.d.request("POST", path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        self.assertEqual(status, 200, (path, body, reply))
        return headers, objects(headers, reply)

    def check(self, model, want, mode):
        for path, body in exchanges(model):
            with self.subTest(path=path, body=body):
                headers, found = self.ask(path, body)
                self.assertEqual(headers["x-adapter-version"], want)
                self.assertTrue(found)
                for o in found:
                    self.assertEqual((o.get("adapter_version"), o.get("adapter_mode")), (want, mode), o)

    def test_every_reply_and_event_of_an_adapter_names_its_version(self):
        self.check("qv", self.d.show("qv")[1]["digest"], "unmerged")

    def test_every_reply_and_event_of_the_base_names_the_base(self):
        self.check("base", self.versions["base"], None)

    def test_a_mix_names_all_of_its_versions_in_order(self):
        mix = {"model": "base", "prompt": "hi", "adapters": [{"name": "all"}, {"name": "qv", "weight": 0.5}]}
        for path, body in (("/v1/completions", {**mix, "max_tokens": 1}), ("/v1/completions", {**mix, "max_tokens": 1, "stream": True}), ("/v1/embeddings", {**mix, "input": "hi"})):
            headers, found = self.ask(path, body)
            for got in (headers["x-adapter-version"], *(o["adapter_version"] for o in found)):
                self.assertEqual(got, self.versions["all"] + "," + self.versions["qv"])

    def test_the_line_of_the_log_names_what_answered(self):
        for model in ("qv", "base"):
            for path, body in exchanges(model):
                headers, _ = self.ask(path, body)
                line = wait_until(lambda: next((o for o in map(json.loads, self.d.stderr().splitlines()) if o.get("request_id") == headers["x-request-id"]), None), "its line")
                self.assertEqual((line["route"], line.get("adapter_version")), (path, self.versions[model]))

    def test_the_list_of_models_tells_what_receipts_say(self):
        self.assertEqual(self.versions, {"base": self.versions["base"], **{n: self.d.show(n)[1]["digest"] for n in ("all", "qv")}})
        self.assertRegex(self.versions["base"], "^[0-9a-f]{64}$")
        self.assertEqual(len(set(self.versions.values())), 3)

    def test_a_version_and_an_alias_tell_theirs(self):
        first = self.d.show("qv")[1]["digest"]
        self.assertEqual(self.d.get("/v1/models/qv@1")[1]["adapter_version"], first)
        self.assertEqual(self.d.call("PUT", "/v1/aliases/chat", {"targets": [{"model": "qv", "weight": 1}]})[0], 200)
        self.assertIsNone(self.d.get("/v1/models/chat")[1]["adapter_version"])
        for model in ("qv@1", "chat"):
            self.assertEqual(self.d.complete(model=model, prompt="hi", max_tokens=1)["adapter_version"], first)
        self.assertEqual(self.d.call("DELETE", "/v1/aliases/chat")[0], 200)

    def test_what_is_refused_has_no_receipt(self):
        for body in ({"model": "qv", "prompt": "hi", "temperature": 9}, {"model": "nobody", "prompt": "hi"}):
            status, headers, reply = self.d.request("POST", "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
            self.assertEqual((status in (400, 404), headers["x-adapter-version"], json.loads(reply).get("adapter_version")), (True, None, None))


if __name__ == "__main__":
    unittest.main()
