# SPDX-License-Identifier: MIT
"""What llama-server's clients send and read: /completion, adapters by id, small questions. Where it is wrong, the right thing: an unknown id is an error, an empty list the base."""
import json
import shutil
import tempfile
import threading
import unittest

from daemon import wait_until
from registry_util import BASE, Registry, files_of, make_adapter

COMPLETION = {"index", "content", "tokens", "id_slot", "stop", "model", "tokens_predicted", "tokens_evaluated", "generation_settings", "prompt", "has_new_line", "truncated", "stop_type",
              "stopping_word", "tokens_cached", "timings", "adapter_version"}
TIMINGS = {"cache_n", "prompt_n", "prompt_ms", "prompt_per_token_ms", "prompt_per_second", "predicted_n", "predicted_ms", "predicted_per_token_ms", "predicted_per_second"}


TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"


class Client(Registry):
    def completion(self, prompt="hello", path="/completion", **fields):
        """A greedy completion's reply, which must be 200."""
        status, reply = self.call("POST", path, {"prompt": prompt, "n_predict": 6, "temperature": 0, **fields})
        assert status == 200, (status, reply)
        return reply

    def events(self, **fields):
        raw = json.dumps({"prompt": "hello", "n_predict": 6, "temperature": 0, "stream": True, **fields}).encode()
        status, headers, body = self.request("POST", "/completion", raw, {"Content-Type": "application/json"})
        assert status == 200 and headers["Content-Type"].startswith("text/event-stream"), (status, body)
        events = body.decode().split("\n\n")
        assert events.pop() == ""
        return [json.loads(e.removeprefix("data: ")) for e in events]

    def scales(self):
        return {a["id"]: a["scale"] for a in self.call("GET", "/lora-adapters")[1]}


class Completion(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Client(BASE, "--served-name", "base", "--context", "64", adapters=["qv", "all", "dora"])

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def refused(self, field=None, status=400, kind="invalid_request_error", **fields):
        got, reply = self.d.call("POST", "/completion", {"prompt": "hello", "n_predict": 2, **fields})
        error = reply["error"]
        self.assertEqual((got, set(error), error["code"], error["type"]), (status, {"code", "message", "type"}, status, kind), reply)
        if field:
            self.assertIn(field, error["message"])
        return error["message"]

    # ---- the reply ----

    def test_a_reply_has_llama_server_s_fields_and_the_tokens_that_v1_completions_generates(self):
        reply = self.d.completion()
        want = self.d.complete(model="base", prompt="hello", max_tokens=6)
        self.assertEqual(set(reply), COMPLETION)
        self.assertEqual(set(reply["timings"]), TIMINGS)
        self.assertEqual((reply["content"], reply["stop"], reply["stop_type"], reply["index"], reply["tokens"]), (want["choices"][0]["text"], True, "limit", 0, []))
        self.assertEqual((reply["tokens_predicted"], reply["tokens_evaluated"], reply["prompt"], reply["model"]), (6, want["usage"]["prompt_tokens"], "hello", "base"))
        self.assertEqual((reply["truncated"], reply["stopping_word"], reply["timings"]["predicted_n"]), (False, "", 6))

    def test_completions_without_v1_is_the_same_route(self):
        self.assertEqual(self.d.completion(path="/completions")["content"], self.d.completion()["content"])

    def test_return_tokens_gives_the_ids_of_the_content(self):
        reply = self.d.completion(return_tokens=True)
        want = self.d.complete(model="base", prompt="hello", max_tokens=6, return_token_ids=True)
        self.assertEqual(reply["tokens"], want["choices"][0]["token_ids"])

    def test_n_predict_of_minus_one_goes_to_the_end_of_the_context_and_so_does_more_than_fits(self):
        for n in (-1, None, 1000):
            reply = self.d.completion(n_predict=n, ignore_eos=True)
            self.assertEqual((reply["tokens_predicted"] + reply["tokens_evaluated"], reply["stop_type"], reply["truncated"]), (64, "limit", True))
        self.assertEqual(self.d.completion(n_predict=0)["tokens_predicted"], 0)
        self.assertEqual(self.d.completion(n_predict=None, max_tokens=3)["tokens_predicted"], 3)

    def test_a_stop_string_is_told_and_not_shown(self):
        text = self.d.completion()["content"]
        stop = text[3:5]
        reply = self.d.completion(stop=["never", stop])
        self.assertEqual((reply["content"], reply["stop_type"], reply["stopping_word"]), (text[:text.index(stop)], "word", stop))
        self.assertEqual(self.d.completion(stop=stop)["stopping_word"], stop)

    def test_an_end_of_text_token_is_told(self):
        reply = self.d.completion(prompt="Once upon", n_predict=-1, return_tokens=True)
        self.assertEqual((reply["stop_type"], reply["truncated"], reply["tokens_predicted"]), ("eos", False, len(reply["tokens"])))
        self.assertNotIn("<|endoftext|>", reply["content"])
        events = self.d.events(prompt="Once upon", n_predict=-1)
        self.assertEqual((events[-1]["stop_type"], [t for e in events for t in e["tokens"]]), ("eos", reply["tokens"]))

    def test_n_probs_gives_candidates_with_their_bytes(self):
        reply = self.d.completion(n_probs=3)
        want = self.d.complete(model="base", prompt="hello", max_tokens=6, logprobs=3)["choices"][0]["logprobs"]
        rows = reply["completion_probabilities"]
        self.assertEqual(len(rows), 6)
        for row, logprob in zip(rows, want["token_logprobs"]):
            self.assertEqual(set(row), {"id", "token", "bytes", "logprob", "top_logprobs"})
            self.assertAlmostEqual(row["logprob"], logprob, places=6)
            self.assertEqual([set(t) for t in row["top_logprobs"]], [{"id", "token", "bytes", "logprob"}] * 3)
            self.assertEqual(row["top_logprobs"][0]["id"], row["id"])  # greedy
            self.assertEqual(bytes(row["bytes"]).decode("utf-8", "replace"), row["token"])

    def test_tokens_cached_counts_the_prompt_s_tokens_that_were_known(self):
        d = Client(BASE)
        self.addCleanup(d.stop)
        prompt = list(range(300, 350))
        first, second = (d.completion(prompt=prompt) for _ in range(2))
        self.assertEqual((first["tokens_cached"], first["timings"]["prompt_n"], first["content"]), (0, 50, second["content"]))
        self.assertGreater(second["tokens_cached"], 0)
        self.assertEqual(second["timings"]["prompt_n"] + second["timings"]["cache_n"], 50)

    def test_response_fields_selects_by_path(self):
        reply = self.d.completion(response_fields=["content", "generation_settings/n_predict", "timings/prompt_n", "nope", "content/x"])
        self.assertEqual(set(reply), {"content", "generation_settings/n_predict", "timings/prompt_n", "adapter_version"})  # and the receipt
        self.assertEqual(reply["generation_settings/n_predict"], 6)

    def test_settings_are_told_with_llama_server_s_defaults(self):
        status, reply = self.d.call("POST", "/completion", {"prompt": "hello", "n_predict": 1})
        s = reply["generation_settings"]
        self.assertEqual([round(s[k], 6) for k in ("temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "typical_p")],
                         [0.8, 40, 0.95, 0.05, 1, 0, 0, 1])
        self.assertEqual((s["n_predict"], s["stop"], s["stream"], s["lora"]), (1, [], False, []))

    def test_numbers_are_told_as_they_were_asked_for_and_times_to_the_microsecond(self):
        asked = {"temperature": 0.7, "top_p": 0.9, "min_p": 0.1, "repeat_penalty": 1.1, "presence_penalty": -0.3, "frequency_penalty": 1.2345678}
        reply = self.d.completion(**asked)
        self.assertEqual({k: reply["generation_settings"][k] for k in asked}, asked)  # not 0.699999988
        for name, value in reply["timings"].items():
            self.assertEqual(value, round(value, 3), name)
        self.assertEqual(self.d.completion(lora=[{"id": 0, "scale": 0.3}])["generation_settings"]["lora"], [{"id": 0, "scale": 0.3}])
        self.assertEqual(self.d.call("POST", "/lora-adapters", [{"id": 0, "scale": 0.3}])[0], 200)
        self.addCleanup(self.d.call, "POST", "/lora-adapters", [])
        self.assertEqual(self.d.scales()[0], 0.3)

    def test_the_seed_that_was_drawn_repeats_the_text(self):
        one = self.d.completion(temperature=1.5, n_predict=12)
        self.assertLess(one["generation_settings"]["seed"], 1 << 32)
        self.assertEqual(self.d.completion(temperature=1.5, n_predict=12, seed=one["generation_settings"]["seed"])["content"], one["content"])
        self.assertGreater(len({self.d.completion(temperature=1.5, n_predict=12, seed=-1)["content"] for _ in range(4)}), 1)

    # ---- the prompt ----

    def test_a_prompt_is_text_or_ids_or_both_in_turn(self):
        ids = self.d.call("POST", "/tokenize", {"content": "hello world"})[1]["tokens"]
        text = self.d.completion(prompt="hello world")
        self.assertEqual(self.d.completion(prompt=ids)["content"], text["content"])
        for mixed in ([ids[0], *ids[1:]], ["hello world"[:len("hello")], *ids[len(self.d.call("POST", "/tokenize", {"content": "hello"})[1]["tokens"]):]]):
            self.assertEqual(self.d.completion(prompt=mixed)["content"], text["content"], mixed)
        self.assertEqual(self.d.completion(prompt={"prompt_string": "hello world"})["content"], text["content"])

    def test_several_prompts_give_several_replies_in_order(self):
        prompts = ["hello", [300, 301], ["a", 302], "b"]
        alone = [self.d.completion(prompt=p)["content"] for p in prompts]
        together = self.d.completion(prompt=prompts)
        self.assertEqual([r["content"] for r in together], alone)
        self.assertEqual([r["index"] for r in together], [0, 1, 2, 3])
        self.assertEqual(self.d.completion(prompt=["hello"])["content"], alone[0])  # one is no list

    def test_prompts_that_are_none_are_refused(self):
        for prompt in (None, [], 3, {}, [[]], [1, [2]], ["a", {"x": 1}], [-1], [1 << 40], [1.5], {"prompt_string": "a", "multimodal_data": ["AA=="]}, True):
            self.refused("prompt", prompt=prompt)
        self.refused(prompt=list(range(3, 90)), kind="exceed_context_size_error")

    # ---- streams ----

    def test_a_stream_adds_up_and_ends_with_the_whole_but_its_text(self):
        whole = self.d.completion(return_tokens=True)
        events = self.d.events()
        *pieces, last = events
        self.assertEqual("".join(e["content"] for e in pieces), whole["content"])
        self.assertEqual([t for e in pieces for t in e["tokens"]], whole["tokens"])
        self.assertEqual({e["stop"] for e in pieces}, {False})
        self.assertEqual({frozenset(e) for e in pieces}, {frozenset({"index", "content", "tokens", "stop", "id_slot", "tokens_predicted", "tokens_evaluated", "adapter_version"})})
        self.assertEqual((set(last), last["content"], last["tokens"], last["stop"], last["stop_type"]), (COMPLETION, "", [], True, "limit"))
        self.assertEqual(last["has_new_line"], "\n" in whole["content"])

    def test_a_stream_of_several_prompts_numbers_its_events(self):
        alone = [self.d.completion(prompt=p)["content"] for p in ("hello", "world")]
        events = self.d.events(prompt=["hello", "world"])
        for i in (0, 1):
            self.assertEqual("".join(e["content"] for e in events if e["index"] == i), alone[i])
        self.assertEqual(sum(e["stop"] for e in events), 2)

    def test_a_stream_has_probabilities_and_timings_where_they_are_asked_for(self):
        events = self.d.events(n_probs=1, timings_per_token=True)
        self.assertEqual(sum(len(e["completion_probabilities"]) for e in events[:-1]), 6)
        self.assertEqual({frozenset(e["timings"]) for e in events}, {frozenset(TIMINGS)})

    def test_a_stream_stops_at_a_stop_string_that_never_shows(self):
        text = self.d.completion()["content"]
        events = self.d.events(stop=[text[4:6]])
        self.assertEqual("".join(e["content"] for e in events), text[:text.index(text[4:6])])
        self.assertEqual((events[-1]["stop_type"], events[-1]["stopping_word"]), ("word", text[4:6]))

    # ---- sampling ----

    def test_what_is_not_served_is_refused_where_it_would_change_the_answer(self):
        for field, value in {"mirostat": 1, "dry_multiplier": 0.8, "xtc_probability": 0.5, "typical_p": 0.9, "dynatemp_range": 0.5, "top_n_sigma": 1.5, "samplers": ["top_k"],
                             "post_sampling_probs": True, "min_keep": 2, "n": 2, "t_max_predict_ms": 100, "adaptive_target": 0.5}.items():
            self.refused(field, **{field: value})
        self.refused("repeat_last_n", repeat_last_n=32, repeat_penalty=1.1)

    def test_what_is_off_or_only_tunes_what_is_off_is_taken(self):
        want = self.d.completion()["content"]
        off = {"mirostat": 0, "mirostat_tau": 5, "mirostat_eta": 0.1, "dry_multiplier": 0, "dry_base": 1.75, "dry_allowed_length": 2, "dry_penalty_last_n": -1, "dry_sequence_breakers": ["\n"],
               "xtc_probability": 0, "xtc_threshold": 0.1, "typical_p": 1, "dynatemp_range": 0, "dynatemp_exponent": 1, "top_n_sigma": -1, "samplers": [], "min_keep": 0, "id_slot": -1,
               "cache_prompt": False, "n_keep": 0, "repeat_last_n": 64, "repeat_penalty": 1, "logit_bias": [], "grammar": "", "json_schema": None, "return_progress": True, "n": 1, "t_max_predict_ms": -1, "adaptive_target": -1.0, "adaptive_decay": 0.9, "top_k": -1, "top_p": 1.0, "unknown": 1}
        self.assertEqual(self.d.completion(**off)["content"], want)

    def test_logit_bias_takes_pairs_and_texts_and_false_for_never(self):
        first = self.d.completion(n_predict=1, return_tokens=True)["tokens"][0]
        for bias in ([[first, False]], [[first, -100]], {str(first): False}, {str(first): -1e6}):
            self.assertNotEqual(self.d.completion(n_predict=1, return_tokens=True, logit_bias=bias)["tokens"], [first], bias)
        world = self.d.call("POST", "/tokenize", {"content": " world"})[1]["tokens"]
        for bias in ([[" world", 1000]], {" world": 1000}, [[t, 1000] for t in world]):
            self.assertTrue(set(self.d.completion(n_predict=4, return_tokens=True, logit_bias=bias)["tokens"]) <= set(world), bias)
        for bias in (3, [3], [[1]], [[1, 2, 3]], [[1, "x"]], [[-1, 1]], [[1 << 40, 1]], [[1.5, 1]], {"a": None}, [[1, 1e9]], [[1, True]], [[1, 1]] * 1025):
            self.refused("logit_bias", logit_bias=bias)

    def test_a_grammar_or_a_schema_holds_the_answer_to_its_form(self):
        self.assertIn(self.d.completion(grammar='root ::= "yes" | "no"', n_predict=40)["content"], ("yes", "no"))
        schema = {"type": "object", "properties": {"a": {"type": "integer", "maximum": 9, "minimum": 0}}, "required": ["a"], "additionalProperties": False}
        for fields in ({"json_schema": schema}, {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}):
            reply = self.d.completion(n_predict=55, **fields)
            self.assertEqual((set(json.loads(reply["content"])), reply["stop_type"]), ({"a"}, "eos"), reply)
        self.refused("grammar", grammar="root ::= (")
        self.refused("grammar", grammar=3)
        self.refused("json_schema", json_schema={"type": "nothing"})
        self.refused("json_schema", json_schema={}, grammar='root ::= "a"')

    def test_penalties_change_the_text_and_a_window_of_nothing_does_not(self):
        want, penal = self.d.completion(n_predict=24)["content"], {"repeat_penalty": 2.0, "presence_penalty": 1.5, "frequency_penalty": 1.0}
        self.assertNotEqual(self.d.completion(n_predict=24, repeat_last_n=-1, **penal)["content"], want)
        self.assertEqual(self.d.completion(n_predict=24, repeat_last_n=0, **penal)["content"], want)

    def test_values_out_of_range_or_of_another_type_are_refused(self):
        for field, value in {"temperature": "hot", "top_p": -0.5, "min_p": 2, "n_predict": -2, "n_probs": 99, "seed": 1.5, "stop": [1], "stream": "yes", "repeat_penalty": 0.009, "top_k": 0.5,
                             "response_fields": "content"}.items():
            self.refused(field, **{field: value})

    # ---- adapters ----

    def test_adapters_are_listed_by_id_in_the_order_of_the_command_line_and_off(self):
        status, listed = self.d.call("GET", "/lora-adapters")
        self.assertEqual(status, 200)
        self.assertEqual(listed, [{"id": i, "path": n, "scale": 0, "task_name": "", "prompt_prefix": ""} for i, n in enumerate(("qv", "all", "dora"))])

    def test_lora_names_adapters_by_id_on_every_route(self):
        for i, name in enumerate(("qv", "all")):
            want = self.d.complete(model=name, prompt="hello", max_tokens=6)
            got = self.d.completion(lora=[{"id": i, "scale": 1}])
            self.assertEqual((got["content"], got["adapter_version"]), (want["choices"][0]["text"], want["adapter_version"]))
            self.assertEqual(got["generation_settings"]["lora"], [{"id": i, "scale": 1}])
            self.assertEqual(self.d.complete(model="base", prompt="hello", max_tokens=6, lora=[{"id": i, "scale": 1.0}])["choices"][0]["text"], want["choices"][0]["text"])
            for body, path in (({"model": "base", "input": "hello"}, "/v1/embeddings"), ({"content": "hello"}, "/embedding")):
                vector = lambda status, reply: (status, (reply["data"] if "data" in reply else reply)[0]["embedding"])  # noqa: E731
                self.assertEqual(vector(*self.d.post({**body, "lora": [{"id": i, "scale": 1}]}, path)), vector(*self.d.post({**body, "model": name}, path)), path)

    def test_several_add_up_with_their_scales(self):
        want = self.d.complete(model="base", prompt="hello", max_tokens=6, adapters=[{"name": "qv", "weight": 0.5}, {"name": "all", "weight": -1}])
        got = self.d.completion(lora=[{"id": 0, "scale": 0.5}, {"id": 1, "scale": -1}])
        self.assertEqual((got["content"], got["adapter_version"]), (want["choices"][0]["text"], want["adapter_version"]))

    def test_an_empty_list_and_a_scale_of_zero_are_the_base(self):
        base = self.d.completion()
        for lora in ([], [{"id": 0, "scale": 0}], [{"id": 0, "scale": 0}, {"id": 1, "scale": 0.0}]):
            got = self.d.completion(lora=lora)
            self.assertEqual((got["content"], set(got)), (base["content"], COMPLETION))

    def test_an_unknown_id_is_an_error_and_not_ignored(self):
        for lora in ([{"id": 3, "scale": 1}], [{"id": 99, "scale": 0}], [{"id": 0, "scale": 1}, {"id": 3, "scale": 1}]):
            self.refused("id", lora=lora)
        self.assertEqual(self.d.post({"model": "base", "prompt": "a", "lora": [{"id": 3, "scale": 1}]})[1]["error"]["param"], "lora")

    def test_lists_that_are_none_are_refused(self):
        for lora in (3, {"id": 0}, [3], [{"id": "0", "scale": 1}], [{"scale": 1}], [{"id": 0}], [{"id": -1, "scale": 1}], [{"id": 0, "scale": "1"}], [{"id": 0, "scale": -1001}], [{"id": 1 << 40, "scale": 1}]):
            self.assertEqual(self.refused(lora=lora), "'lora' must be an array of objects with 'id' and 'scale' fields")
        self.refused("twice", lora=[{"id": 0, "scale": 1}, {"id": 0, "scale": 0.5}])
        self.refused("lora", model="qv", lora=[{"id": 1, "scale": 1}])
        self.refused("lora", model="qv", lora=[])

    def test_model_may_be_missing_empty_the_base_or_an_adapter_and_nothing_else(self):
        base = self.d.completion()["content"]
        for model in (None, "", "base"):
            self.assertEqual(self.d.completion(model=model)["content"], base)
        self.assertEqual(self.d.completion(model="qv")["content"], self.d.completion(lora=[{"id": 0, "scale": 1}])["content"])
        self.refused("nope", 404, "not_found_error", model="nope")

    # ---- small questions ----

    def test_props_tells_the_defaults_and_no_path(self):
        status, reply = self.d.get("/props")
        self.assertEqual((status, reply["total_slots"], reply["model_path"], reply["modalities"], reply["default_generation_settings"]["n_ctx"]), (200, 64, "base", {"vision": False, "audio": False}, 64))
        self.assertAlmostEqual(reply["default_generation_settings"]["params"]["temperature"], 0.8, places=6)
        self.assertIn("adapterd", reply["build_info"])
        self.assertNotIn(BASE, json.dumps(reply))

    def test_health_and_models_have_their_other_names(self):
        self.assertEqual(self.d.get("/v1/health"), (200, {"status": "ok"}))
        self.assertEqual(self.d.get("/models"), self.d.get("/v1/models"))

    def test_metrics_have_llama_server_s_names_too(self):
        self.d.completion(n_predict=3)
        self.assertGreaterEqual(self.d.metric("llamacpp:tokens_predicted_total"), 3)
        self.assertGreaterEqual(self.d.metric("llamacpp:prompt_tokens_total"), 1)
        self.assertGreaterEqual(self.d.metric("llamacpp:n_decode_total"), 3)
        self.d.wait_for("llamacpp:requests_processing", 0)
        self.assertEqual(self.d.metric("llamacpp:requests_deferred"), 0)

    def test_errors_of_the_http_layer_have_the_form_too(self):
        for method, path, body, status in (("GET", "/completion", None, 405), ("POST", "/completion", b"{", 400), ("POST", "/completion", b"[]", 400)):
            got, _, reply = self.d.request(method, path, body, {"Content-Type": "application/json"} if body else {})
            error = json.loads(reply)["error"]
            self.assertEqual((got, set(error), error["code"]), (status, {"code", "message", "type"}, status))


class Template(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        with tempfile.NamedTemporaryFile("w", suffix=".jinja") as f:
            f.write(TEMPLATE)
            f.flush()
            cls.d = Client(BASE, "--served-name", "base", "--chat-template-file", f.name, adapters=["qv"])

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_apply_template_gives_the_prompt_that_chat_would_use(self):
        for fields in ({}, {"model": "base"}, {"model": "qv"}):
            reply = self.d.call("POST", "/apply-template", {"messages": [{"role": "user", "content": "Hi <|end|> you"}], **fields})
            self.assertEqual(reply, (200, {"prompt": "<user>Hi <|end|> you</user><assistant>", **self.d.receipt(fields.get("model", "base"))}))
        self.assertEqual(self.d.call("POST", "/apply-template", {"messages": [{"role": "user", "content": "a"}], "add_generation_prompt": False})[1]["prompt"], "<user>a</user>")

    def test_what_is_no_conversation_is_refused(self):
        for body in ({}, {"messages": []}, {"messages": "x"}, {"messages": [{"role": "user"}]}, {"messages": [{"role": 3, "content": "a"}]}):
            status, reply = self.d.call("POST", "/apply-template", body)
            self.assertEqual((status, reply["error"]["type"], reply["error"]["code"]), (400, "invalid_request_error", 400), body)
        self.assertEqual(self.d.call("POST", "/apply-template", {"messages": [{"role": "user", "content": "a"}], "model": "nope"})[0], 404)

    def test_props_has_the_template(self):
        self.assertEqual(self.d.get("/props")[1]["chat_template"], TEMPLATE)


class Slots(unittest.TestCase):
    def test_as_many_slots_are_busy_as_sequences_run_and_a_full_house_can_be_asked_for(self):
        d = Client(BASE, "--max-running", "2", "--context", "4096")
        self.addCleanup(d.stop)
        self.assertEqual([s["is_processing"] for s in d.get("/slots")[1]], [False, False])
        self.assertEqual(d.call("GET", "/slots?fail_on_no_slot=1")[0], 200)
        threads = [threading.Thread(target=d.completion, kwargs={"n_predict": 1500, "ignore_eos": True}) for _ in range(2)]
        for t in threads:
            t.start()
        d.wait_for("adapterd_requests_running", 2)
        status, slots = d.get("/slots")
        full, reply = d.call("GET", "/slots?fail_on_no_slot=1")
        if d.metric("adapterd_requests_running") == 2:  # still
            self.assertEqual((status, [s["is_processing"] for s in slots]), (200, [True, True]))
            self.assertEqual((full, reply["error"]["type"]), (503, "unavailable_error"))
        for t in threads:
            t.join()


class Defaults(unittest.TestCase):
    def setUp(self):
        self.state = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.state)
        self.d = Client(BASE, "--served-name", "base", "--state-dir", self.state, "--context", "4096", adapters=["qv", "all"])
        self.addCleanup(lambda: self.d.stop())

    def set(self, *scales):
        return self.d.call("POST", "/lora-adapters", [{"id": i, "scale": s} for i, s in scales])

    def test_scales_that_were_set_answer_requests_that_name_nothing_and_only_those(self):
        base = self.d.completion()["content"]
        qv = self.d.completion(lora=[{"id": 0, "scale": 1}])
        self.assertEqual(self.set((0, 1)), (200, {"success": True}))
        self.assertEqual(self.d.scales(), {0: 1, 1: 0})
        for fields in ({}, {"model": "base"}):
            got = self.d.completion(**fields)
            self.assertEqual((got["content"], got["adapter_version"]), (qv["content"], qv["adapter_version"]))
        embeddings = [self.d.post({"content": "hello", **fields}, "/embedding") for fields in ({}, {"model": "qv"}, {"lora": []})]
        self.assertEqual(embeddings[0], embeddings[1])
        self.assertNotEqual(embeddings[0], embeddings[2])
        self.assertEqual(self.d.completion(lora=[])["content"], base)
        self.assertEqual(self.d.completion(lora=[{"id": 0, "scale": 0}])["content"], base)
        self.assertEqual(self.d.completion(model="all")["content"], self.d.completion(lora=[{"id": 1, "scale": 1}])["content"])
        self.assertEqual(self.d.complete(model="base", prompt="hello", max_tokens=6)["choices"][0]["text"], base)  # OpenAI's routes know no defaults
        self.assertEqual(self.set((1, 0.5))[0], 200)
        self.assertEqual(self.d.scales(), {0: 0, 1: 0.5})
        self.assertEqual(self.set()[0], 200)
        self.assertEqual(self.d.completion()["content"], base)

    def test_what_is_refused_changes_nothing(self):
        self.set((0, 0.5))
        for body, word in (({"id": 0}, "array"), (3, "array"), ([{"id": 5, "scale": 1}], "id 5"), ([{"id": 0, "scale": 1}, {"id": 0, "scale": 1}], "twice"), ([{"id": 1}], "scale"), ([1], "scale"),
                           ([{"id": 1, "scale": 1}, {"id": 0, "scale": "x"}], "scale")):
            status, reply = self.d.call("POST", "/lora-adapters", json.dumps(body).encode())
            self.assertEqual((status, reply["error"]["type"], reply["error"]["code"]), (400, "invalid_request_error", 400))
            self.assertIn(word, reply["error"]["message"])
        self.assertEqual(self.d.call("POST", "/lora-adapters", b"[")[1]["error"]["message"], "Request body must be an array")
        self.assertEqual(self.d.scales(), {0: 0.5, 1: 0})

    def test_a_request_under_way_keeps_its_scales(self):
        want = self.d.completion(n_predict=1500, ignore_eos=True, lora=[{"id": 0, "scale": 1}])["content"]
        self.set((0, 1))
        got = []
        t = threading.Thread(target=lambda: got.append(self.d.completion(n_predict=1500, ignore_eos=True)["content"]))
        before = self.d.metric("adapterd_generated_tokens_total")
        t.start()
        wait_until(lambda: self.d.metric("adapterd_generated_tokens_total") > before, "it runs")
        self.set((1, 1))
        t.join()
        self.assertEqual(got, [want])

    def test_ids_stay_when_adapters_come_and_go_and_count_by_age_after_a_restart(self):
        for i, name in enumerate(("zebra", "ant")):
            self.assertEqual(self.d.upload(name, make_adapter(i))[0], 201)
        names = lambda: {a["id"]: a["path"] for a in self.d.call("GET", "/lora-adapters")[1]}  # noqa: E731
        self.assertEqual(names(), {0: "qv", 1: "all", 2: "zebra", 3: "ant"})
        self.set((2, 1))
        self.assertEqual(self.d.call("DELETE", "/v1/adapters/zebra")[0], 200)
        self.assertEqual(self.d.upload("zebra", files_of("rslora"))[0], 201)
        self.assertEqual(names(), {0: "qv", 1: "all", 3: "ant", 4: "zebra"})
        self.assertEqual(self.d.scales(), {0: 0, 1: 0, 3: 0, 4: 0})
        self.assertEqual(self.d.completion()["adapter_version"], self.d.receipt()["adapter_version"])  # the adapter that was set is gone
        self.assertEqual(self.d.call("POST", "/completion", {"prompt": "a", "lora": [{"id": 2, "scale": 1}]})[0], 400)
        self.d.stop()
        self.d = Client(BASE, "--served-name", "base", "--state-dir", self.state, adapters=["qv", "all"])
        self.assertEqual(sorted(names()), [0, 1, 2, 3])
        self.assertEqual({names()[2], names()[3]}, {"qv", "all"})


if __name__ == "__main__":
    unittest.main()
