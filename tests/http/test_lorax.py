# SPDX-License-Identifier: MIT
"""What clients of LoRAX and TGI send and read: /generate, /generate_stream, / and /info. Where they are wrong, the right thing: an unknown adapter is an error, never the base."""
import json
import tempfile
import unittest

from registry_util import BASE, Registry

try:
    import lorax
    from lorax import errors
except ImportError:
    lorax = None

DETAILS = {"finish_reason", "prompt_tokens", "generated_tokens", "skipped_tokens", "seed", "prefill", "tokens"}
TOKEN = {"id", "text", "logprob", "special", "skipped"}


class Client(Registry):
    def ask(self, inputs="hello", path="/generate", **parameters):
        return self.call("POST", path, {"inputs": inputs, "parameters": parameters})

    def generate(self, inputs="hello", **parameters):
        status, reply = self.ask(inputs, **{"max_new_tokens": 6, **parameters})
        assert status == 200, (status, reply)
        return reply

    def events(self, path="/generate_stream", body=None, **parameters):
        raw = json.dumps({"inputs": "hello", "parameters": {"max_new_tokens": 6, **parameters}, **(body or {})}).encode()
        status, self.headers, text = self.request("POST", path, raw, {"Content-Type": "application/json"})
        assert status == 200 and self.headers["Content-Type"].startswith("text/event-stream"), (status, text)
        events = text.decode().split("\n\n")
        assert events.pop() == ""
        return [json.loads(e.removeprefix("data: ")) for e in events]


class Generate(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Client(BASE, "--served-name", "base", "--context", "64", adapters=["qv", "all"])

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def refused(self, word, status=422, kind="validation", inputs="hello", path="/generate", **parameters):
        got, reply = self.d.ask(inputs, path, **{"max_new_tokens": 2, **parameters})
        self.assertEqual((got, set(reply), reply["error_type"]), (status, {"error", "error_type"}, kind), reply)
        self.assertIn(word, reply["error"])

    def openai(self, **fields):
        return self.d.complete(prompt="hello", **{"model": "base", "max_tokens": 6, **fields})

    # ---- the reply ----

    def test_a_reply_is_the_text_that_v1_completions_generates(self):
        self.assertEqual(self.d.generate(), {"generated_text": self.openai()["choices"][0]["text"], **self.d.receipt()})

    def test_parameters_may_be_missing_and_the_text_then_goes_to_the_end_of_the_context(self):
        for body in ({"inputs": "hello"}, {"inputs": "hello", "parameters": None}, {"inputs": "hello", "parameters": {}}):
            status, reply = self.d.call("POST", "/generate", body)
            self.assertEqual((status, reply["generated_text"]), (200, self.openai(max_tokens=61)["choices"][0]["text"]))

    def test_details_tell_the_tokens(self):
        reply = self.d.generate(details=True)
        want = self.openai(logprobs=1, return_token_ids=True)
        details = reply["details"]
        self.assertEqual(set(details), DETAILS)
        self.assertEqual((details["finish_reason"], details["prompt_tokens"], details["generated_tokens"], details["seed"], details["prefill"]), ("length", want["usage"]["prompt_tokens"], 6, None, []))
        self.assertEqual([t["id"] for t in details["tokens"]], want["choices"][0]["token_ids"])
        for t, logprob in zip(details["tokens"], want["choices"][0]["logprobs"]["token_logprobs"]):
            self.assertEqual((set(t), t["special"]), (TOKEN, False))
            self.assertAlmostEqual(t["logprob"], logprob, places=6)

    def test_decoder_input_details_tell_the_prompt_s_tokens_and_imply_details(self):
        prefill = self.d.generate(decoder_input_details=True)["details"]["prefill"]
        want = self.openai(echo=True, logprobs=0, max_tokens=0)["choices"][0]["logprobs"]
        self.assertEqual([t["text"] for t in prefill], want["tokens"])
        self.assertIsNone(prefill[0]["logprob"])
        for t, logprob in zip(prefill[1:], want["token_logprobs"][1:]):
            self.assertAlmostEqual(t["logprob"], logprob, places=6)

    def test_alternatives_come_under_either_name(self):
        reply = self.d.generate(details=True, return_k_alternatives=2, top_n_tokens=3)
        for t, top in zip(reply["details"]["tokens"], reply["details"]["top_tokens"]):
            self.assertEqual([set(a) for a in t["alternative_tokens"]], [{"id", "text", "logprob"}] * 2)
            self.assertEqual([set(a) for a in top], [{"id", "text", "logprob", "special"}] * 3)
            self.assertEqual((t["alternative_tokens"][0]["id"], top[0]["id"]), (t["id"], t["id"]))  # greedy

    def test_a_stop_sequence_ends_the_text_and_is_part_of_it(self):
        text = self.d.generate()["generated_text"]
        stop = text[3:5]
        reply = self.d.generate(stop=["never", stop], details=True)
        self.assertEqual((reply["generated_text"], reply["details"]["finish_reason"]), (text[:text.index(stop) + len(stop)], "stop_sequence"))

    def test_return_full_text_begins_with_the_inputs(self):
        self.assertEqual(self.d.generate(return_full_text=True)["generated_text"], "hello" + self.d.generate()["generated_text"])

    def test_apply_chat_template_takes_a_user_s_text_or_messages(self):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
            f.write("{% for m in messages %}{{ m.role }}: {{ m.content }} {% endfor %}")
            f.flush()
            d = Client(BASE, "--chat-template-file", f.name)
        self.addCleanup(d.stop)
        want = d.generate("user: hello ")["generated_text"]
        self.assertEqual(d.generate("hello", apply_chat_template=True)["generated_text"], want)
        self.assertEqual(d.generate(json.dumps([{"role": "user", "content": "hello"}]), apply_chat_template=True)["generated_text"], want)
        self.assertEqual(d.generate("hello", apply_chat_template=True, return_full_text=True)["generated_text"], "hello" + want)
        for inputs in ("[]", "[3]", '[{"role": "user"}]'):
            status, reply = d.ask(inputs, apply_chat_template=True)
            self.assertEqual((status, reply["error_type"]), (422, "validation"), reply)
        self.refused("template", apply_chat_template=True)  # this model has none

    def test_truncate_keeps_the_last_tokens(self):
        ids = self.d.call("POST", "/tokenize", {"content": "hello world, hello"})[1]["tokens"]
        want = self.d.complete(model="base", prompt=ids[-3:], max_tokens=6)
        got = self.d.generate("hello world, hello", truncate=3, details=True)
        self.assertEqual((got["generated_text"], got["details"]["prompt_tokens"]), (want["choices"][0]["text"], 3))
        self.assertEqual(self.d.generate("hello", truncate=60), self.d.generate("hello"))

    def test_headers_tell_times_and_tokens(self):
        self.d.generate(adapter_id="qv")
        h = self.d.headers
        self.assertEqual([h[f"x-{k}"] for k in ("model-id", "adapter-id", "adapter-source", "generated-tokens", "compute-type")], ["base", "qv", "local", "6", "cpu"])
        self.assertEqual(int(h["x-total-tokens"]), int(h["x-prompt-tokens"]) + 6)
        for k in ("compute-time", "total-time", "time-per-token", "time-to-first-token"):
            self.assertRegex(h[f"x-{k}"], r"^\d+$")
        self.assertLessEqual(int(h["x-time-to-first-token"]), int(h["x-total-time"]))
        self.d.generate()
        self.assertIsNone(self.d.headers["x-adapter-id"])

    # ---- sampling ----

    def test_it_is_greedy_until_something_asks_for_sampling(self):
        want = self.d.generate()["generated_text"]
        self.assertEqual(self.d.generate(temperature=1.0)["generated_text"], want)
        self.assertEqual(self.d.generate(temperature=0, do_sample=True)["generated_text"], want)
        for parameters in ({"do_sample": True}, {"temperature": 1.3}, {"top_k": 50}, {"top_p": 0.99}):
            reply = self.d.generate(details=True, **parameters)
            again = self.d.generate(details=True, seed=reply["details"]["seed"], **parameters)
            self.assertEqual(again, reply)
            self.assertGreaterEqual(reply["details"]["seed"], 0)
        self.assertGreater(len({self.d.generate(do_sample=True)["generated_text"] for _ in range(4)}), 1)

    def test_sampling_parameters_mean_what_they_mean_elsewhere(self):
        got = self.d.generate(do_sample=True, seed=7, temperature=1.2, top_k=20, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1)
        want = self.openai(seed=7, temperature=1.2, top_k=20, top_p=0.9, repetition_penalty=1.3, frequency_penalty=0.2, presence_penalty=0.1)
        self.assertEqual(got["generated_text"], want["choices"][0]["text"])

    def test_best_of_gives_the_likeliest_and_details_have_the_others(self):
        reply = self.d.generate(best_of=4, do_sample=True, temperature=1.5, details=True)
        others = reply["details"]["best_of_sequences"]
        self.assertEqual((len(others), {frozenset(o) for o in others}), (3, {frozenset(DETAILS | {"generated_text"})}))
        likelihood = lambda d: sum(t["logprob"] for t in d["tokens"]) / len(d["tokens"])  # noqa: E731
        self.assertGreaterEqual(likelihood(reply["details"]) + 1e-6, max(map(likelihood, others)))
        self.assertEqual(set(self.d.generate(best_of=2, do_sample=True)), {"generated_text", "adapter_version"})

    def test_a_response_format_or_tgi_s_grammar_holds_the_answer_to_its_form(self):
        schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["a"], "additionalProperties": False}
        for parameters in ({"response_format": {"type": "json_object", "schema": schema}}, {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}},
                           {"grammar": {"type": "json", "value": schema}}, {"grammar": {"type": "json_schema", "value": {"name": "x", "schema": schema}}}):
            reply = self.d.generate(max_new_tokens=55, details=True, **parameters)
            self.assertEqual((set(json.loads(reply["generated_text"])), reply["details"]["finish_reason"]), ({"a"}, "eos_token"), parameters)
            self.assertEqual(self.d.events(max_new_tokens=55, **parameters)[-1]["generated_text"], reply["generated_text"])
        self.assertRegex(self.d.generate(grammar={"type": "regex", "value": "[0-9]{3}"}, max_new_tokens=20)["generated_text"], "^[0-9]{3}$")
        for grammar in (3, {}, {"type": "regex"}, {"type": "regex", "value": "("}, {"type": "x", "value": "a"}, {"type": "json", "value": {"type": "x"}}):
            self.refused("grammar", grammar=grammar)
        self.refused("response_format", response_format={"type": "x"})

    # ---- adapters ----

    def test_adapter_id_names_a_registered_adapter(self):
        for name in ("qv", "all", "qv@1"):
            want = self.openai(model=name)
            for source in (None, "", "local"):
                got = self.d.generate(adapter_id=name, adapter_source=source)
                self.assertEqual((got["generated_text"], got["adapter_version"]), (want["choices"][0]["text"], want["adapter_version"]))

    def test_no_id_an_empty_one_and_the_base_s_are_the_base(self):
        want = self.d.generate()
        for name in (None, "", "base", "__base_model__"):
            self.assertEqual(self.d.generate(adapter_id=name), want)

    def test_an_unknown_adapter_is_an_error_and_never_the_base(self):
        self.refused("nope", 404, "not_found", adapter_id="nope")
        self.refused("nope", 404, "not_found", path="/generate_stream", adapter_id="nope")
        self.refused("nope", 404, "not_found", merged_adapters={"ids": ["qv", "nope"], "weights": [1, 1]})

    def test_other_sources_are_refused_since_requests_fetch_nothing(self):
        for source in ("hub", "s3", "pbase", "x", 3):
            self.refused("adapter_source", adapter_id="qv", adapter_source=source)

    def test_merged_adapters_add_up_with_their_weights(self):
        want = self.openai(adapters=[{"name": "qv", "weight": 0.5}, {"name": "all", "weight": -1}])
        for strategy in (None, "linear"):
            got = self.d.generate(merged_adapters={"ids": ["qv", "all"], "weights": [0.5, -1], "density": 0.2, "merge_strategy": strategy, "majority_sign_method": "total"})
            self.assertEqual((got["generated_text"], got["adapter_version"]), (want["choices"][0]["text"], want["adapter_version"]))
        self.assertEqual(self.d.headers["x-adapter-id"], "qv,all")

    def test_merges_that_cannot_be_are_refused(self):
        for merged in ({"ids": ["qv"], "weights": [1], "merge_strategy": "ties"}, {"ids": ["qv"], "weights": [1], "merge_strategy": "dare_linear"}, {"ids": [], "weights": []}, {"ids": ["qv"], "weights": []},
                       {"ids": ["qv"]}, {"ids": [1], "weights": [1]}, {"ids": ["qv"], "weights": ["1"]}, {"ids": ["qv"] * 9, "weights": [1] * 9}, 3, {"ids": ["qv"], "weights": [1], "merge_strategy": 3}):
            self.refused("merged_adapters", merged_adapters=merged)
        self.refused("merged_adapters", adapter_id="qv", merged_adapters={"ids": ["all"], "weights": [1]})

    # ---- streams ----

    def test_a_stream_has_an_event_per_token_and_the_whole_in_the_last(self):
        whole = self.d.generate(details=True, adapter_id="qv")
        events = self.d.events(adapter_id="qv")
        self.assertEqual([e["token"]["id"] for e in events], [t["id"] for t in whole["details"]["tokens"]])
        self.assertEqual("".join(e["token"]["text"] for e in events), whole["generated_text"])
        self.assertEqual([e["index"] for e in events], [1, 2, 3, 4, 5, 6])
        self.assertEqual({(e["generated_text"], e["details"]) for e in events[:-1]}, {(None, None)})
        self.assertEqual(events[-1]["generated_text"], whole["generated_text"])
        self.assertEqual(events[-1]["details"], {"finish_reason": "length", "prompt_tokens": 3, "input_length": 3, "generated_tokens": 6, "seed": None})
        self.assertEqual((self.d.headers["x-adapter-id"], self.d.headers["x-model-id"]), ("qv", "base"))

    def test_a_stream_s_stop_sequence_is_part_of_it(self):
        text = self.d.generate()["generated_text"]
        for stop in (text[3:5], text[1:6]):
            events = self.d.events(stop=[stop])
            want = text[:text.index(stop) + len(stop)]
            self.assertEqual(("".join(e["token"]["text"] for e in events), events[-1]["generated_text"], events[-1]["details"]["finish_reason"]), (want, want, "stop_sequence"))

    def test_an_end_of_text_token_is_special_and_no_part_of_the_text(self):
        for adapter in (None, "all"):
            whole = self.d.generate("Once upon", adapter_id=adapter, details=True, max_new_tokens=50)
            events = self.d.events(body={"inputs": "Once upon"}, adapter_id=adapter, max_new_tokens=50)
            for details in (whole["details"], events[-1]["details"]):
                self.assertEqual(details["finish_reason"], "eos_token")
            self.assertEqual([t["special"] for t in whole["details"]["tokens"]], [False] * (whole["details"]["generated_tokens"] - 1) + [True])
            self.assertEqual(events[-1]["token"], whole["details"]["tokens"][-1])
            self.assertEqual("".join(e["token"]["text"] for e in events if not e["token"]["special"]), events[-1]["generated_text"])
            self.assertEqual(events[-1]["generated_text"], whole["generated_text"])

    def test_what_only_a_whole_reply_can_have_is_refused_of_a_stream(self):
        self.refused("streaming", path="/generate_stream", best_of=2, do_sample=True)
        self.refused("streaming", path="/generate_stream", decoder_input_details=True)

    def test_the_root_answers_a_list_of_one_or_a_stream_as_its_body_says(self):
        want = self.d.generate()
        self.assertEqual(self.d.ask(path="/", max_new_tokens=6), (200, [want]))
        self.assertEqual(self.d.call("POST", "/", {"inputs": "hello", "stream": False, "parameters": {"max_new_tokens": 6}}), (200, [want]))
        events = self.d.events("/", {"stream": True})
        self.assertEqual(events[-1]["generated_text"], want["generated_text"])

    # ---- refusals ----

    def test_inputs_that_are_none_are_refused(self):
        for inputs in (None, "", 3, ["a"], {"a": 1}):
            self.refused("inputs", inputs=inputs)
        self.refused("inputs", inputs="hello " * 100)
        self.refused("inputs", max_new_tokens=62)

    def test_values_out_of_range_or_of_another_type_are_refused(self):
        for field, value in {"temperature": -1, "top_k": 0, "top_p": 0, "max_new_tokens": 0, "best_of": 0, "seed": -1, "stop": "", "truncate": 0, "repetition_penalty": 0.009, "details": "yes", "do_sample": 1,
                             "return_k_alternatives": 0, "typical_p": 0.5, "watermark": True, "adapter_id": 3, "return_full_text": "x", "top_n_tokens": 21}.items():
            self.refused(field, **{field: value})
        self.refused("best_of", best_of=2)
        self.assertEqual(self.d.call("POST", "/generate", {"inputs": "a", "parameters": 3})[0], 422)

    def test_errors_of_the_http_layer_have_the_form_too(self):
        for method, path, body, status in (("GET", "/generate", None, 405), ("POST", "/generate", b"{", 422), ("POST", "/", b"[]", 422)):
            got, _, reply = self.d.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            self.assertEqual((got, set(json.loads(reply))), (status, {"error", "error_type"}))

    def test_a_full_queue_is_429(self):
        d = Client(BASE, "--max-running", "1", "--queue-limit", "0", "--context", "4096")
        self.addCleanup(d.stop)
        status, reply = d.ask(best_of=3, do_sample=True, max_new_tokens=5)
        self.assertEqual((status, reply["error_type"], d.headers["Retry-After"]), (429, "overloaded", "1"))

    # ---- small questions ----

    def test_info_tells_the_model_and_its_limits(self):
        status, info = self.d.get("/info")
        self.assertEqual((status, info["model_id"], info["max_total_tokens"], info["max_input_length"], info["model_device_type"]), (200, "base", 64, 63, "cpu"))
        self.assertTrue({"model_sha", "model_dtype", "model_pipeline_tag", "max_concurrent_requests", "max_best_of", "max_stop_sequences", "version", "sha", "docker_label"} <= set(info))

    def test_the_root_and_startup_answer_health_checks(self):
        for path in ("/", "/startup"):
            self.assertEqual(self.d.get(path), (200, {"status": "ok"}))


@unittest.skipUnless(lorax, "the Python package lorax-client is not installed")
class OfficialClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Client(BASE, "--served-name", "base", "--context", "64", adapters=["qv", "all"])
        cls.c = lorax.Client(f"http://127.0.0.1:{cls.d.port}")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_generate_reads_the_reply_and_its_details(self):
        r = self.c.generate("hello", adapter_id="qv", max_new_tokens=6, decoder_input_details=True, return_k_alternatives=2)
        self.assertEqual(r.generated_text, self.d.generate(adapter_id="qv")["generated_text"])
        self.assertEqual((r.details.finish_reason, len(r.details.tokens), len(r.details.prefill), len(r.details.tokens[0].alternative_tokens)), ("length", 6, r.details.prompt_tokens, 2))

    def test_generate_reads_best_of_and_merged_adapters(self):
        merged = lorax.MergedAdapters(ids=["qv", "all"], weights=[0.5, 0.5], merge_strategy="linear", density=0)
        r = self.c.generate("hello", merged_adapters=merged, do_sample=True, best_of=2, max_new_tokens=4)
        self.assertEqual(len(r.details.best_of_sequences), 1)

    def test_generate_stream_reads_the_events(self):
        events = list(self.c.generate_stream("hello", adapter_id="qv", max_new_tokens=6))
        self.assertEqual("".join(e.token.text for e in events if not e.token.special), events[-1].generated_text)
        self.assertEqual((len(events), events[-1].details.generated_tokens), (6, 6))

    def test_errors_are_the_client_s_own(self):
        with self.assertRaises(errors.NotFoundError):
            self.c.generate("hello", adapter_id="nope")
        with self.assertRaises(errors.ValidationError):
            self.c.generate("hello", adapter_id="qv", adapter_source="hub")
        with self.assertRaises(errors.ValidationError):
            self.c.generate("hello", max_new_tokens=1000)


if __name__ == "__main__":
    unittest.main()
