# SPDX-License-Identifier: MIT
"""POST /v1/embeddings and llama-server's /embedding, against what transformers and PEFT make of the same ids."""
import base64
import json
import math
import os
import struct
import threading
import time
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import TINY, Daemon, wait_until
from registry_util import Registry, make_adapter

POOLING = ("mean", "last", "cls")


def read_pooled():
    """{case: [mean, last, cls]} of tests/golden/tiny/pooled.safetensors."""
    with open(os.path.join(TINY, "pooled.safetensors"), "rb") as f:
        data = f.read()
    n, = struct.unpack("<Q", data[:8])
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        begin, end = t["data_offsets"]
        rows, width = t["shape"]
        values = struct.unpack(f"<{rows * width}f", data[8 + n + begin:8 + n + end])
        out[name] = [values[i * width:(i + 1) * width] for i in range(rows)]
    return out


def unit(v):
    length = math.sqrt(sum(x * x for x in v))
    return [x / length for x in v]


class Embeddings(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Registry(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--weights", "f32", "--kv-type", "f32", "--max-body", "2M", "--queue-limit", "60",
                       "--max-running", "8", adapters=("qv", "all", "patterns", "dora"))
        with open(os.path.join(TINY, "cases.json")) as f:
            cls.cases = {c["name"]: c for c in json.load(f)["cases"]}
        cls.pooled = read_pooled()

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def embed(self, **fields):
        status, reply = self.d.post({"model": "base", **fields}, "/v1/embeddings")
        self.assertEqual(status, 200, reply)
        return reply

    def vectors(self, **fields):
        return [d["embedding"] for d in self.embed(**fields)["data"]]

    def refused(self, status, param, code, **fields):
        got, reply = self.d.post({"model": "base", "input": "Hello", **fields}, "/v1/embeddings")
        self.assertEqual((got, reply.get("error", {}).get("param"), reply.get("error", {}).get("code")), (status, param, code), (fields, reply))
        self.assertTrue(reply["error"]["message"])

    # ---- numbers ----

    def test_vectors_are_those_of_transformers_and_peft(self):
        """2e-4 of the largest value: ten times what two correct f32 programs differ by."""
        names = [n for n in self.pooled if n.split("/")[0] in ("llama-gqa", "qv", "all", "patterns", "dora")]
        self.assertGreaterEqual(len(names), 6)

        def check(job):
            name, kind = job
            c, want = self.cases[name], self.pooled[name][POOLING.index(kind)]
            for normalize in (True, False):
                got, = self.vectors(model=c["adapter"] or "base", input=c["ids"], pooling=kind, normalize=normalize)
                golden = unit(want) if normalize else want
                self.assertLess(max(abs(a - b) for a, b in zip(got, golden)), 2e-4 * max(map(abs, golden)), job)
                self.assertEqual(len(got), len(golden))

        with ThreadPoolExecutor(8) as pool:  # adapters share their steps
            list(pool.map(check, [(n, k) for n in names for k in POOLING]))

    def test_company_chunks_and_the_prefix_cache_do_not_change_a_bit(self):
        long = [(7 * i) % 1000 for i in range(400)]
        for kind in POOLING:
            alone = self.embed(model="all", input=long, pooling=kind, encoding_format="base64", cache_salt="alone" + kind)["data"][0]["embedding"]
            self.d.complete(model="all", prompt=long, max_tokens=2)
            with ThreadPoolExecutor(8) as pool:
                others = [pool.submit(self.d.complete, model=m, prompt=[i, 2, 3], max_tokens=40, ignore_eos=True) for i, m in enumerate(["base", "qv", "all", "dora"])]
                both = self.embed(model="all", input=[long, [1, 2]], pooling=kind, encoding_format="base64")
                for o in others:
                    o.result()
            self.assertEqual(both["data"][0]["embedding"], alone, kind)
            self.assertEqual(both["usage"]["prompt_tokens_details"]["cached_tokens"] > 300, kind == "last")

    def test_dimensions_keep_the_first_numbers_and_length_1(self):
        whole, = self.vectors(input="Hello there", normalize=False)
        short, = self.vectors(input="Hello there", dimensions=10)
        self.assertEqual(len(short), 10)
        self.assertLess(max(abs(a - b) for a, b in zip(short, unit(whole[:10]))), 1e-6)
        raw, = self.vectors(input="Hello there", dimensions=10, normalize=False)
        self.assertEqual(raw, whole[:10])

    def test_base64_holds_the_same_floats(self):
        for n in (1, 2, 3, 256):
            floats, = self.vectors(input="Hello there", dimensions=n)
            text, = self.vectors(input="Hello there", dimensions=n, encoding_format="base64")
            packed = base64.b64decode(text, validate=True)
            self.assertEqual(packed, struct.pack(f"<{n}f", *floats))

    # ---- forms ----

    def test_the_reply_has_openai_s_fields(self):
        r = self.embed(input="Hello there")
        self.assertEqual(set(r), {"object", "data", "model", "usage", "adapter_version"})
        self.assertEqual((r["object"], r["model"]), ("list", "base"))
        item, = r["data"]
        self.assertEqual((set(item), item["object"], item["index"], len(item["embedding"])), ({"object", "index", "embedding"}, "embedding", 0, 256))
        self.assertEqual(r["usage"]["prompt_tokens"], r["usage"]["total_tokens"])
        self.assertGreater(r["usage"]["prompt_tokens"], 0)

    def test_input_is_a_string_strings_ids_or_lists_of_ids(self):
        ids = self.d.complete(model="base", prompt="Hello there", max_tokens=1, return_token_ids=True)["choices"][0]["prompt_token_ids"]
        one, = self.vectors(input="Hello there")
        self.assertEqual(self.vectors(input=ids), [one])
        many = self.embed(input=["Hello there", "Goodbye", "Hello there"])
        self.assertEqual([d["index"] for d in many["data"]], [0, 1, 2])
        self.assertEqual([many["data"][0]["embedding"], many["data"][2]["embedding"]], [one, one])
        self.assertNotEqual(many["data"][1]["embedding"], one)
        self.assertEqual(self.vectors(input=[ids, ids]), [one, one])
        self.assertEqual(many["usage"]["prompt_tokens"], 2 * len(ids) + self.embed(input="Goodbye")["usage"]["prompt_tokens"])

    def test_adapters_answer_with_their_receipt(self):
        version = self.d.complete(model="qv", prompt="x", max_tokens=1)["adapter_version"]
        body = json.dumps({"model": "qv", "input": "Hello there"}).encode()
        status, headers, reply = self.d.request("POST", "/v1/embeddings", body, {"Content-Type": "application/json"})
        reply = json.loads(reply)
        self.assertEqual((status, headers["x-adapter-version"], reply["adapter_version"], reply["model"]), (200, version, version, "qv"))
        one, = self.vectors(model="qv@1", input="Hello there")
        self.assertEqual(one, reply["data"][0]["embedding"])
        self.assertNotEqual(one, self.vectors(input="Hello there")[0])
        self.assertEqual(self.vectors(adapters=[{"name": "qv", "weight": 1}], input="Hello there")[0], one)

    def test_merged_weights_give_nearly_the_same(self):
        """Within the 1e-3 of the largest value by which the two modes may differ."""
        apart, = self.vectors(model="all", input="Hello there")
        self.assertEqual(self.d.post({"adapter": "all"}, "/v1/admin/merge")[0], 200)
        try:
            merged = self.embed(model="all", input="Hello there")
        finally:
            self.assertEqual(self.d.post({"adapter": None}, "/v1/admin/merge")[0], 200)
        self.assertEqual(merged["adapter_mode"], "merged")
        self.assertLess(max(abs(a - b) for a, b in zip(apart, merged["data"][0]["embedding"])), 1e-3 * max(map(abs, apart)))

    def test_a_vector_that_is_not_finite_fails_alone(self):
        status, reply = self.d.upload("huge", make_adapter(7, scale=1e19))
        self.assertEqual(status, 201, reply)
        with ThreadPoolExecutor(2) as pool:
            good = pool.submit(self.embed, model="qv", input=["Hello"] * 40)
            status, reply = self.d.post({"model": "huge", "input": "Hello there"}, "/v1/embeddings")
            self.assertEqual(len(good.result()["data"]), 40)
        self.assertEqual((status, reply["error"]["type"]), (500, "server_error"))
        self.assertIn("not finite", reply["error"]["message"])

    def test_2048_inputs_are_one_request_and_do_not_fill_the_queue(self):
        job = threading.Thread(target=lambda: replies.append(self.embed(input=[[1 + i % 900, 5] for i in range(2048)], dimensions=4)))
        replies = []
        job.start()
        while job.is_alive():
            self.d.complete(model="base", prompt="x", max_tokens=2)  # never 503
            time.sleep(0.01)
        job.join()
        data = replies[0]["data"]
        self.assertEqual([d["index"] for d in data], list(range(2048)))
        self.assertEqual(data[3]["embedding"], data[903]["embedding"])
        self.assertNotEqual(data[3]["embedding"], data[4]["embedding"])
        self.refused(400, "input", "invalid_value", input=[[1]] * 2049)

    def test_who_leaves_cancels_what_is_left(self):
        before = self.d.metric("adapterd_engine_prompt_tokens_total")
        s = self.d.open_request({"model": "base", "input": [[i + 1] * 500 for i in range(800)]}, "/v1/embeddings")
        wait_until(lambda: self.d.metric("adapterd_engine_prompt_tokens_total") > before, "some are computed")
        s.close()
        self.d.wait_for("adapterd_requests_running", 0)
        self.d.wait_for("adapterd_requests_waiting", 0)
        self.assertLess(self.d.metric("adapterd_engine_prompt_tokens_total") - before, 500 * 800 / 2)

    def test_a_queue_shorter_than_the_list_is_enough(self):
        d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--queue-limit", "1", "--max-running", "2")
        try:
            status, reply = d.post({"model": "base", "input": [[1 + i] for i in range(50)], "dimensions": 2}, "/v1/embeddings")
            self.assertEqual((status, len(reply["data"])), (200, 50))
        finally:
            d.stop()

    # ---- what is refused ----

    def test_what_is_wrong_is_refused_by_name(self):
        for bad in ("", [], [""], None, 5, {"a": 1}, [1, "a"], ["a", 1], [[1], []], [[1.5]], [True], [[99999]], [-1]):
            self.refused(400, "input", "invalid_value", input=bad)
        self.refused(400, "input", "context_length_exceeded", input=[1] * 513)
        self.refused(400, "input", "context_length_exceeded", input=["fine", "word " * 2000])
        self.assertEqual(len(self.vectors(input=[1] * 512)), 1)
        for name, values in {"encoding_format": ("hex", 1, ["float"]), "dimensions": (0, 257, -1, 1.5, "4"), "pooling": ("max", 1, "none"), "normalize": (1, "yes"), "cache_salt": ("", 7)}.items():
            for bad in values:
                self.refused(400, name, "invalid_value", **{name: bad})
        self.refused(404, "model", "model_not_found", model="nope")
        self.refused(404, "model", "model_not_found", model="qv@7")
        self.refused(400, "model", "invalid_value", model=None)
        status, reply = self.d.post(b"{", "/v1/embeddings")
        self.assertEqual((status, reply["error"]["code"]), (400, "invalid_json"))
        self.assertEqual(self.d.request("POST", "/v1/embeddings", b"{}", {"Content-Type": "text/plain"})[0], 415)
        self.assertEqual(self.d.request("GET", "/v1/embeddings")[0], 405)

    # ---- llama-server's form ----

    def test_llama_server_s_form_nests_the_vector(self):
        one, = self.vectors(input="Hello there")
        for path in ("/embedding", "/embeddings"):
            for fields in ({"content": "Hello there"}, {"input": "Hello there", "model": "base"}, {"content": ["Hello there"]}):
                self.assertEqual(self.d.post(fields, path), (200, [{"index": 0, "embedding": [one], **self.d.receipt()}]))
        raw, = self.vectors(input="Hello there", normalize=False, pooling="last")
        self.assertEqual(self.d.post({"content": "Hello there", "embd_normalize": -1, "pooling": "last"}, "/embedding")[1][0]["embedding"], [raw])
        self.assertEqual(self.d.post({"content": "Hello there", "embd_normalize": 1}, "/embedding")[0], 400)
        status, reply = self.d.post({"content": "Hello there", "model": "nope"}, "/embedding")
        self.assertEqual((status, reply["error"]["code"], reply["error"]["type"]), (404, 404, "not_found_error"))
