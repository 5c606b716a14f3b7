# SPDX-License-Identifier: MIT
"""POST /v1/completions and the other routes, field by field, on a small model."""
import json
import os
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import TINY, Daemon


class Api(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--max-body", "200k", "--queue-limit", "64",
                       adapters=("qv", "all", "rslora", "patterns", "head"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def refused(self, status, param, **fields):
        got, reply = self.d.post({"model": "base", "prompt": "Hello", **fields})
        self.assertEqual(got, status, (fields, reply))
        error = reply["error"]
        self.assertEqual(set(error), {"message", "type", "param", "code"})
        self.assertEqual(error["param"], param, reply)
        self.assertTrue(error["message"])
        return error

    # ---- answers ----

    def test_a_completion_has_openai_s_fields(self):
        r = self.d.complete(model="base", prompt="Hello there", max_tokens=5)
        self.assertEqual(r["object"], "text_completion")
        self.assertTrue(r["id"].startswith("cmpl-"))
        self.assertIsInstance(r["created"], int)
        self.assertEqual(r["model"], "base")
        choice, = r["choices"]
        self.assertEqual(set(choice), {"text", "index", "logprobs", "finish_reason"})
        self.assertIsNone(choice["logprobs"])
        self.assertEqual(r["usage"]["total_tokens"], r["usage"]["prompt_tokens"] + r["usage"]["completion_tokens"])

    def test_max_tokens_is_16_unless_given_and_null_is_absent(self):
        for extra in ({}, {"max_tokens": None}):
            r = self.d.complete(model="base", prompt="Hello there", ignore_eos=True, **extra)
            self.assertEqual(r["usage"]["completion_tokens"], 16)
            self.assertEqual(r["choices"][0]["finish_reason"], "length")

    def test_max_tokens_0_generates_nothing(self):
        r = self.d.complete(model="base", prompt="Hello there", max_tokens=0)
        self.assertEqual((r["choices"][0]["text"], r["usage"]["completion_tokens"], r["choices"][0]["finish_reason"]), ("", 0, "length"))
        r = self.d.complete(model="base", prompt="Hello there", max_tokens=0, echo=True, logprobs=1)
        self.assertEqual(r["choices"][0]["text"], "Hello there")
        self.assertEqual(len(r["choices"][0]["logprobs"]["tokens"]), r["usage"]["prompt_tokens"])

    def test_prompts_may_be_a_string_strings_ids_or_lists_of_ids(self):
        ids = self.d.complete(model="base", prompt="Hello there", max_tokens=4, return_token_ids=True)["choices"][0]
        one = self.d.complete(model="base", prompt=ids["prompt_token_ids"], max_tokens=4)
        self.assertEqual(one["choices"][0]["text"], ids["text"])
        many = self.d.complete(model="base", prompt=["Hello there", "Goodbye"], max_tokens=4)
        self.assertEqual([c["index"] for c in many["choices"]], [0, 1])
        self.assertEqual(many["choices"][0]["text"], ids["text"])
        lists = self.d.complete(model="base", prompt=[ids["prompt_token_ids"]] * 2, max_tokens=4)
        self.assertEqual([c["text"] for c in lists["choices"]], [ids["text"]] * 2)

    def test_choices_are_prompt_major(self):
        r = self.d.complete(model="base", prompt=["Hello there", "Goodbye"], max_tokens=6, n=2, temperature=1, seed=3, return_token_ids=True)
        self.assertEqual([c["index"] for c in r["choices"]], [0, 1, 2, 3])
        p = [c["prompt_token_ids"] for c in r["choices"]]
        self.assertTrue(p[0] == p[1] != p[2] == p[3])

    def test_a_seed_repeats_and_choices_differ(self):
        ask = lambda seed: [c["token_ids"] for c in self.d.complete(model="base", prompt="Hello", max_tokens=12, n=3, temperature=1, seed=seed,
                                                                    return_token_ids=True, ignore_eos=True)["choices"]]
        a = ask(5)
        self.assertEqual(a, ask(5))
        self.assertNotEqual(a, ask(6))
        self.assertNotEqual(a[0], a[1])

    def test_without_a_seed_draws_differ(self):
        ask = lambda: self.d.complete(model="base", prompt="Hello", max_tokens=16, temperature=1, return_token_ids=True, ignore_eos=True)["choices"][0]["token_ids"]
        self.assertGreater(len({tuple(ask()) for _ in range(4)}), 1)

    def test_temperature_0_is_greedy_and_top_k_1_too(self):
        greedy = self.d.complete(model="base", prompt="Hello", max_tokens=8, return_token_ids=True)["choices"][0]["token_ids"]
        for extra in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
            got = self.d.complete(model="base", prompt="Hello", max_tokens=8, return_token_ids=True, temperature=1, **extra)["choices"][0]["token_ids"]
            self.assertEqual(got, greedy, extra)

    def test_adapters_answer_differently_and_the_same_in_any_company(self):
        names = ["base", "qv", "all", "rslora", "patterns", "head"]
        ask = lambda m: self.d.complete(model=m, prompt=[11, 22, 33, 44], max_tokens=12, logprobs=1, return_token_ids=True, ignore_eos=True)["choices"][0]
        alone = {m: ask(m) for m in names}
        self.assertGreater(len({tuple(c["token_ids"]) for c in alone.values()}), 3)
        with ThreadPoolExecutor(16) as pool:
            for m, c in zip(names * 6, pool.map(ask, names * 6)):
                self.assertEqual(c, alone[m], m)  # to the last bit of each log-probability

    def test_echo_puts_the_prompt_in_front(self):
        r = self.d.complete(model="base", prompt="Hello there", max_tokens=3, echo=True)
        self.assertTrue(r["choices"][0]["text"].startswith("Hello there"))
        self.assertGreater(len(r["choices"][0]["text"]), len("Hello there"))

    def test_logprobs_have_parallel_lists_and_sorted_alternatives(self):
        for k in (0, 1, 5):
            l = self.d.complete(model="base", prompt="Hello", max_tokens=6, logprobs=k, ignore_eos=True, return_tokens_as_token_ids=True)["choices"][0]["logprobs"]
            self.assertEqual({len(v) for v in l.values()}, {6})
            for token, lp, top in zip(l["tokens"], l["token_logprobs"], l["top_logprobs"]):
                self.assertEqual(top[token], lp)
                self.assertEqual(max(top.values()), lp)  # greedy
                self.assertLessEqual(len(top), max(k, 1))
                self.assertRegex(token, r"^token_id:\d+$")

    def test_text_offsets_point_into_the_text(self):
        c = self.d.complete(model="base", prompt="Hello there", max_tokens=8, logprobs=0, echo=True, ignore_eos=True)["choices"][0]
        offsets = c["logprobs"]["text_offset"]
        self.assertEqual(offsets, sorted(offsets))
        self.assertEqual(offsets[0], 0)
        self.assertLessEqual(offsets[-1], len(c["text"]))

    def test_stop_strings_end_the_text_before_them(self):
        text = self.d.complete(model="base", prompt="Hello there", max_tokens=24, ignore_eos=True)["choices"][0]["text"]
        stop = text[5:8]
        for stops in (stop, [stop], ["\x00never", stop]):
            c = self.d.complete(model="base", prompt="Hello there", max_tokens=24, ignore_eos=True, stop=stops)["choices"][0]
            self.assertEqual((c["text"], c["finish_reason"]), (text[:text.index(stop)], "stop"))
            events = self.d.stream(model="base", prompt="Hello there", max_tokens=24, ignore_eos=True, stop=stops)
            self.assertEqual("".join(e["choices"][0]["text"] for e in events), text[:text.index(stop)])

    def test_min_tokens_also_holds_stop_strings_back(self):
        text = self.d.complete(model="base", prompt="Hello there", max_tokens=12, ignore_eos=True)["choices"][0]["text"]
        r = self.d.complete(model="base", prompt="Hello there", max_tokens=12, min_tokens=12, ignore_eos=True, stop=text[1:3])
        self.assertEqual(r["choices"][0]["text"], text)

    def test_a_stream_says_what_the_whole_reply_says(self):
        for model in ("base", "all"):
            whole = self.d.complete(model=model, prompt="Hello there", max_tokens=20, return_token_ids=True, logprobs=2)["choices"][0]
            events = self.d.stream(model=model, prompt="Hello there", max_tokens=20, return_token_ids=True, logprobs=2)
            parts = [e["choices"][0] for e in events]
            self.assertEqual("".join(p["text"] for p in parts), whole["text"])
            self.assertEqual([t for p in parts for t in p["token_ids"]], whole["token_ids"])
            for key in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
                self.assertEqual([v for p in parts if p["logprobs"] for v in p["logprobs"][key]], whole["logprobs"][key], key)
            self.assertEqual(parts[0]["prompt_token_ids"], whole["prompt_token_ids"])
            self.assertEqual([p["finish_reason"] for p in parts[:-1]], [None] * (len(parts) - 1))
            self.assertEqual(parts[-1]["finish_reason"], whole["finish_reason"])
            self.assertEqual({e["id"] for e in events}, {events[0]["id"]})

    def test_include_usage_adds_one_last_event(self):
        events = self.d.stream(model="base", prompt="Hello", max_tokens=4, ignore_eos=True, stream_options={"include_usage": True})
        self.assertEqual(events[-1]["choices"], [])
        self.assertEqual(events[-1]["usage"]["completion_tokens"], 4)
        self.assertTrue(all(e["usage"] is None for e in events[:-1]))
        events = self.d.stream(model="base", prompt="Hello", max_tokens=4)
        self.assertTrue(all("usage" not in e for e in events))

    def test_a_stream_of_several_choices_keeps_them_apart(self):
        whole = self.d.complete(model="base", prompt=["Hello", "Goodbye"], n=2, max_tokens=10, temperature=1, seed=1)
        events = self.d.stream(model="base", prompt=["Hello", "Goodbye"], n=2, max_tokens=10, temperature=1, seed=1, echo=False)
        texts = {}
        for e in events:
            c = e["choices"][0]
            texts[c["index"]] = texts.get(c["index"], "") + c["text"]
        self.assertEqual(texts, {c["index"]: c["text"] for c in whole["choices"]})

    def test_echo_streams_the_prompt_first(self):
        events = self.d.stream(model="base", prompt="Hello there", max_tokens=4, echo=True, logprobs=1)
        self.assertTrue("".join(e["choices"][0]["text"] for e in events).startswith("Hello there"))
        self.assertIsNone(events[0]["choices"][0]["logprobs"]["token_logprobs"][0])

    def test_penalties_change_what_repeats(self):
        plain = self.d.complete(model="base", prompt="Hello", max_tokens=32, ignore_eos=True, return_token_ids=True)["choices"][0]["token_ids"]
        for extra in ({"repetition_penalty": 2.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}):
            got = self.d.complete(model="base", prompt="Hello", max_tokens=32, ignore_eos=True, return_token_ids=True, **extra)["choices"][0]["token_ids"]
            self.assertGreaterEqual(len(set(got)), len(set(plain)), extra)

    def test_long_bodies_are_read_on_the_pool_and_answered_alike(self):
        ids = [(i * 7) % 1000 for i in range(300)]
        a = self.d.complete(model="qv", prompt=ids, max_tokens=4, return_token_ids=True)["choices"]
        b = self.d.complete(model="qv", prompt=ids, max_tokens=4, return_token_ids=True, user="x" * 30000)["choices"]
        self.assertEqual(a, b)
        self.refused(400, "prompt", prompt=[0] * 20000)

    # ---- refusals ----

    def test_unknown_models_are_404_and_never_the_base(self):
        for name in ("nope", "", "BASE", "base ", "qv\n", "../qv", "é" * 300):
            status, reply = self.d.post({"model": name, "prompt": "Hello"})
            self.assertEqual((status, reply["error"]["code"], reply["error"]["param"]), (404, "model_not_found", "model"), name)

    def test_wrong_types_are_400_and_name_the_field(self):
        wrong = {"prompt": [1, {}, True, [], [[]], ["a", 1], [1, "a"], [1.5], [-1], [10**6], [[1], "a"], [True]], "model": [1, [], {}, True], "max_tokens": ["5", 1.5, -1, True, 2**40],
                 "temperature": ["1", -0.1, 2.1, [], True], "top_p": [0, 1.1, "x", 5e-324], "top_k": [1.5, -2, "x"], "min_p": [-0.1, 1.1], "seed": [1.5, "x"],
                 "n": [0, 129, 1.5, "2"], "stop": [1, [1], "", [""], ["a"] * 5, {}], "stream": [1, "true"], "logprobs": [-1, 6, True, 1.5], "echo": [1, "x"],
                 "presence_penalty": [-2.1, 2.1, "x"], "frequency_penalty": [-2.1, 2.1], "repetition_penalty": [0, -1, "x", 0.009, 5e-324], "ignore_eos": [1], "min_tokens": [-1, 1.5],
                 "return_token_ids": [1], "return_tokens_as_token_ids": ["x"], "stream_options": [1, [], {}]}
        for field, values in wrong.items():
            for value in values:
                with self.subTest(field=field, value=value):
                    self.assertIn(field, self.refused(400, field, **{field: value})["message"])

    def test_the_least_repetition_penalty_leaves_numbers_finite(self):
        self.d.complete(model="all", prompt="Hello Hello", max_tokens=8, repetition_penalty=0.01, ignore_eos=True)

    def test_what_is_not_served_is_refused_by_name(self):
        for field, value in {"suffix": "x", "use_beam_search": True, "bad_words": ["x"], "prompt_embeds": "x"}.items():
            self.refused(400, field, **{field: value})
        self.d.complete(model="base", prompt="x", suffix=None, logit_bias={}, best_of=1, use_beam_search=False, user="me", unknown_field=1, max_tokens=1)

    def test_best_of_gives_the_likeliest_by_token(self):
        fields = {"model": "base", "prompt": ["x", "y"], "max_tokens": 12, "temperature": 1, "seed": 3, "logprobs": 0}
        everything = self.d.complete(**fields, n=6)["choices"]
        mean = lambda c: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["tokens"])
        best = self.d.complete(**fields, n=2, best_of=6)
        expected = [c["text"] for p in (0, 1) for c in sorted(everything[p * 6:p * 6 + 6], key=mean, reverse=True)[:2]]
        self.assertEqual([c["text"] for c in best["choices"]], expected)
        self.assertEqual([c["index"] for c in best["choices"]], [0, 1, 2, 3])
        self.assertEqual(best["usage"]["completion_tokens"], sum(len(c["logprobs"]["tokens"]) for c in everything))
        self.assertIn("best_of", self.refused(400, "best_of", n=3, best_of=2)["message"])
        self.refused(400, "best_of", n=1, best_of=2, stream=True)

    def test_missing_fields_are_named(self):
        status, reply = self.d.post({"prompt": "x"})
        self.assertEqual((status, reply["error"]["param"]), (400, "model"))
        status, reply = self.d.post({"model": "base"})
        self.assertEqual((status, reply["error"]["param"]), (400, "prompt"))

    def test_bad_json_is_400(self):
        for body in (b"", b"{", b"[]", b"null", b'"x"', b"{} {}", b'{"model":"base","model":"qv","prompt":"x"}', b"\xff\xfe", b'{"model":"base","prompt":"\xff"}', b'{"a":1e999}',
                     b'{"prompt":"\\ud800","model":"base"}', b"[" * 100000):
            with self.subTest(body=body[:40]):
                status, reply = self.d.post(body)
                self.assertEqual(status, 400, reply)

    def test_prompts_beyond_the_context_are_400(self):
        error = self.refused(400, "prompt", prompt=[1] * 512)
        self.assertEqual(error["code"], "context_length_exceeded")
        error = self.refused(400, "max_tokens", prompt=[1] * 500, max_tokens=13)
        self.assertEqual(error["code"], "context_length_exceeded")
        self.assertEqual(self.d.complete(model="base", prompt=[1] * 500, max_tokens=12, ignore_eos=True)["usage"]["completion_tokens"], 12)
        self.assertEqual(self.d.complete(model="base", prompt=[1] * 508, ignore_eos=True)["usage"]["completion_tokens"], 4)

    def test_bodies_over_the_limit_are_413(self):
        status, reply = self.d.post({"model": "base", "prompt": "x" * 210000})
        self.assertEqual(status, 413)
        self.assertIn("error", reply)

    def test_bodies_that_are_not_json_by_type_are_415(self):
        status, _, body = self.d.request("POST", "/v1/completions", b"{}", {"Content-Type": "text/plain"})
        self.assertEqual(status, 415, body)
        status, _, body = self.d.request("POST", "/v1/completions", b'{"model":"base","prompt":"x","max_tokens":1}', {"Content-Type": "application/json; charset=utf-8"})
        self.assertEqual(status, 200, body)

    def test_more_choices_than_the_queue_holds_are_503_with_retry_after(self):
        status, headers, body = self.d.request("POST", "/v1/completions", json.dumps({"model": "base", "prompt": ["a"] * 2, "n": 128}).encode(), {"Content-Type": "application/json"})
        self.assertEqual(status, 503, body)
        self.assertTrue(headers["Retry-After"])
        self.assertEqual(json.loads(body)["error"]["code"], "queue_full")

    # ---- the other routes ----

    def test_models_lists_the_base_first_and_adapters_with_their_parent(self):
        status, reply = self.d.get("/v1/models")
        self.assertEqual((status, reply["object"]), (200, "list"))
        self.assertEqual([m["id"] for m in reply["data"]], ["base", "all", "head", "patterns", "qv", "rslora"])
        self.assertIsNone(reply["data"][0]["parent"])
        self.assertEqual({m["parent"] for m in reply["data"][1:]}, {"base"})
        self.assertEqual(self.d.get("/v1/models/all"), (200, reply["data"][1]))
        self.assertEqual(self.d.get("/v1/models/%71v")[0], 200)
        self.assertEqual(self.d.get("/v1/models/nope")[0], 404)

    def test_health_routes_answer(self):
        for path in ("/health", "/livez", "/readyz"):
            self.assertEqual(self.d.request("GET", path)[0], 200, path)
            self.assertEqual(self.d.request("HEAD", path)[::2], (200, b""), path)

    def test_metrics_are_prometheus_text(self):
        before = self.d.metric("adapterd_generated_tokens_total")
        self.d.complete(model="qv", prompt=[1, 2, 3], max_tokens=5, ignore_eos=True)
        self.assertEqual(self.d.metric("adapterd_generated_tokens_total"), before + 5)
        status, headers, body = self.d.request("GET", "/metrics")
        self.assertEqual(headers["Content-Type"], "text/plain; version=0.0.4; charset=utf-8")
        seen = set()
        family = None
        for line in body.decode().splitlines():
            if line.startswith("# HELP "):
                family = line.split()[2]
                self.assertNotIn(family, seen)
                seen.add(family)
            elif not line.startswith("#"):
                name = line.split("{")[0].split(" ")[0]
                self.assertTrue(name == family or (name.startswith(family) and name[len(family):] in ("_bucket", "_sum", "_count")), line)
                float(line.rsplit(" ", 1)[1])
        for name in ("adapterd_http_requests_total", "adapterd_prompt_tokens_total", "adapterd_requests_waiting", "adapterd_requests_running",
                     "adapterd_time_to_first_token_seconds", "adapterd_inter_token_latency_seconds"):
            self.assertIn(name, seen)
        self.assertGreaterEqual(self.d.metric('adapterd_http_requests_total{route="/v1/completions",status="200"}'), 1)

    def test_json_replies_and_refusals_tell_how_long_they_took(self):
        for method, path, body in (("GET", "/v1/models", None), ("GET", "/v1/models/nope", None), ("POST", "/v1/completions", b"{}"), ("GET", "/health", None), ("GET", "/v1/adapters", None)):
            headers = self.d.request(method, path, body, {"Content-Type": "application/json"})[1]
            self.assertEqual(len(headers.get_all("openai-processing-ms")), 1, path)
            self.assertLess(int(headers["openai-processing-ms"]), 60000)

    def test_unknown_paths_are_404_and_wrong_methods_405(self):
        self.assertEqual(self.d.get("/nope")[0], 404)
        self.assertEqual(self.d.get("/v1/models/")[0], 404)
        status, headers, _ = self.d.request("GET", "/v1/completions")
        self.assertEqual((status, headers["Allow"]), (405, "POST, OPTIONS"))
        self.assertEqual(self.d.request("DELETE", "/health")[0], 405)

    def test_request_ids_are_given_back(self):
        self.assertEqual(self.d.request("GET", "/health", headers={"X-Request-Id": "my-id.1"})[1]["x-request-id"], "my-id.1")
        for bad in ("a b", "x" * 200, '"'):
            self.assertNotEqual(self.d.request("GET", "/health", headers={"X-Request-Id": bad})[1]["x-request-id"], bad)
