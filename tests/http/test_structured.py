# SPDX-License-Identifier: MIT
"""Answers held to a schema, an expression, a grammar or a choice, and what else steers tokens, on a small model."""
import json
import re
import unittest
from concurrent.futures import ThreadPoolExecutor

from daemon import MODEL, Daemon, TemplateTests, needs_model
from test_chat import WEATHER, messages

PERSON = {"type": "object", "properties": {"name": {"type": "string", "maxLength": 6}, "age": {"type": "integer", "minimum": 0, "maximum": 120},
                                           "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3}}, "required": ["name", "age", "tags"], "additionalProperties": False}


def is_person(text):
    v = json.loads(text)
    return (set(v) == {"name", "age", "tags"} and isinstance(v["name"], str) and len(v["name"]) <= 6 and isinstance(v["age"], int) and 0 <= v["age"] <= 120
            and len(v["tags"]) <= 3 and set(v["tags"]) <= {"a", "b"})


class Structured(TemplateTests):
    def text(self, **fields):
        c, = self.d.complete(model="base", prompt="Hello", temperature=1, max_tokens=120, **fields)["choices"]
        self.assertEqual(c["finish_reason"], "stop", c)
        return c["text"]

    def refused(self, param, path="/v1/completions", **fields):
        status, reply = self.d.post({"model": "base", "prompt": "Hello", "messages": messages("Hello"), **fields}, path)
        self.assertEqual((status, reply["error"]["param"]), (400, param), reply)
        return reply["error"]["message"]

    def test_every_spelling_of_a_schema_holds_the_answer_to_it(self):
        for seed in range(4):
            for spelling in ({"response_format": {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}}, {"structured_outputs": {"json": PERSON}},
                             {"guided_json": PERSON}, {"guided_json": json.dumps(PERSON)}, {"json_schema": PERSON}):
                with self.subTest(seed=seed, spelling=spelling):
                    self.assertTrue(is_person(self.text(seed=seed, **spelling)))

    def test_expressions_choices_and_grammars_hold_it_too(self):
        for seed in range(6):
            self.assertTrue(re.fullmatch(r"[A-F]{3}-\d{1,4}", self.text(seed=seed, regex=r"[A-F]{3}-\d{1,4}")))
            self.assertIn(self.text(seed=seed, structured_outputs={"choice": ["yes", "no", "perhaps"]}), ("yes", "no", "perhaps"))
            self.assertTrue(re.fullmatch(r"(ab|c){2}!", self.text(seed=seed, grammar='root ::= part part "!"\npart ::= "ab" | "c"')))
        self.assertEqual(self.text(guided_choice=["only"]), "only")

    def test_structural_tags_hold_parts_of_it(self):
        tag = {"type": "tag", "begin": "<p>", "content": {"type": "json_schema", "json_schema": PERSON}, "end": "</p>"}
        form = {"type": "structural_tag", "format": {"type": "sequence", "elements": [{"type": "regex", "pattern": "[a-c]{2}"}, tag]}}
        for seed in range(3):
            for spelling in ({"response_format": form}, {"structured_outputs": {"structural_tag": json.dumps(form)}}):
                text = self.text(seed=seed, **spelling)
                self.assertTrue(re.match("[a-c]{2}<p>", text) and text.endswith("</p>") and is_person(text[5:-4]), text)
        self.assertIn("qwen", self.refused("response_format", response_format={"type": "structural_tag", "format": {"type": "qwen"}}))

    def test_a_json_object_is_one(self):
        for seed in range(4):
            c = self.d.complete(model="base", prompt="Hello", temperature=1, seed=seed, max_tokens=200, response_format={"type": "json_object"})["choices"][0]
            if c["finish_reason"] == "stop":
                self.assertIsInstance(json.loads(c["text"]), dict)
            else:
                self.assertTrue(c["text"].startswith("{"))

    def test_neighbours_in_the_batch_are_not_disturbed(self):
        plain = {"model": "all", "prompt": "Hello there", "max_tokens": 40, "temperature": 0}
        alone = self.d.complete(**plain)["choices"]
        with ThreadPoolExecutor(24) as pool:
            others = [pool.submit(self.text, seed=i, guided_json=PERSON) for i in range(12)]
            mine = [pool.submit(self.d.complete, **plain) for _ in range(12)]
            self.assertEqual({json.dumps(f.result()["choices"]) for f in mine}, {json.dumps(alone)})
            self.assertTrue(all(is_person(f.result()) for f in others))

    def test_a_seed_gives_the_same_answer_alone_and_in_company(self):
        alone = [self.text(seed=i, guided_json=PERSON) for i in range(8)]
        with ThreadPoolExecutor(8) as pool:
            self.assertEqual(list(pool.map(lambda i: self.text(seed=i, guided_json=PERSON), range(8))), alone)

    def test_what_cannot_be_held_to_is_refused_by_name(self):
        self.assertIn("uniqueItems", self.refused("response_format", response_format={"type": "json_schema", "json_schema": {"schema": {"type": "array", "uniqueItems": True}}}))
        self.refused("response_format", response_format={"type": "yaml"})
        self.refused("response_format", response_format={"type": "json_schema"})
        self.refused("regex", regex="(?=a)b")
        self.refused("regex", regex="[")
        self.refused("grammar", grammar='root ::= missing')
        self.refused("guided_choice", guided_choice=[])
        for text in ("{", '{"type": "object", "type": "string"}', '{"items":' * 70 + "{}" + "}" * 70): # the rules of bodies hold for JSON in strings
            self.refused("guided_json", guided_json=text)
        self.assertIn("another", self.refused("regex", regex="a", guided_json=PERSON))
        self.refused("tools", "/v1/chat/completions", tools=[WEATHER], response_format={"type": "json_object"})

    def test_what_leaves_no_token_to_draw_is_the_request_s_fault(self):
        status, reply = self.d.post({"model": "base", "prompt": "Hello", "regex": "[0-9]", "allowed_token_ids": [0], "max_tokens": 3})
        self.assertEqual((status, reply["error"]["code"]), (400, "invalid_value"), reply)
        self.assertIn("no token is left", reply["error"]["message"])

    # ---- tools ----

    def chat(self, **fields):
        status, reply = self.d.post({"model": "base", "messages": messages("Weather in Rome?"), "temperature": 1, "seed": 1, **fields}, "/v1/chat/completions")
        self.assertEqual(status, 200, reply)
        return reply["choices"][0]

    def tool(self, name="weather"):
        function = {"name": name, "parameters": {"type": "object", "properties": {"city": {"$ref": "#/$defs/city"}}, "required": ["city"], "additionalProperties": False,
                                                                        "$defs": {"city": {"enum": [f"{name} Rome", f"{name} Oslo"]}}}}
        return {"type": "function", "function": function}

    def test_a_call_that_is_required_comes(self):
        for seed in range(4):
            c = self.chat(seed=seed, tools=[self.tool("one"), self.tool("two")], tool_choice="required")
            call, = c["message"]["tool_calls"]
            self.assertEqual((c["finish_reason"], c["message"]["content"], call["type"]), ("tool_calls", None, "function"))
            name = call["function"]["name"]
            self.assertIn(name, ("one", "two"))
            self.assertIn(json.loads(call["function"]["arguments"]), [{"city": f"{name} Rome"}, {"city": f"{name} Oslo"}])
        c = self.chat(tools=[self.tool("one"), self.tool("two")], tool_choice={"type": "function", "function": {"name": "two"}})
        self.assertEqual((c["message"]["tool_calls"][0]["function"]["name"], c["finish_reason"]), ("two", "stop"))

    def test_a_call_is_streamed_like_it_is_answered(self):
        fields = {"tools": [self.tool()], "tool_choice": "required"}
        whole = self.chat(**fields)["message"]["tool_calls"][0]
        body = {"model": "base", "messages": messages("Weather in Rome?"), "temperature": 1, "seed": 1, "stream": True, **fields}
        _, _, data = self.d.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        choices = [json.loads(e[6:])["choices"][0] for e in data.decode().split("\n\n") if e and e != "data: [DONE]"]
        call, = [t for c in choices for t in c["delta"].get("tool_calls", [])]
        self.assertEqual((call["index"], call["type"], call["function"]), (0, "function", whole["function"]))
        self.assertEqual(choices[-1]["finish_reason"], "tool_calls")

    def test_a_response_s_call_is_an_item(self):
        flat = {"type": "function", "name": "weather", "parameters": self.tool()["function"]["parameters"]}
        body = {"model": "base", "input": "Weather?", "tools": [flat], "tool_choice": "required", "temperature": 1, "seed": 1, "max_output_tokens": 150}
        status, r = self.d.post(body, "/v1/responses")
        self.assertEqual((status, r["status"]), (200, "completed"), r)
        item, = r["output"]
        self.assertEqual((item["type"], item["name"], item["status"]), ("function_call", "weather", "completed"))
        again = {**body, "tool_choice": "none", "input": [{"role": "user", "content": "Weather?"}, item, {"type": "function_call_output", "call_id": item["call_id"], "output": "Sunny"}]}
        self.assertEqual(self.d.post(again, "/v1/responses")[0], 200)

    # ---- tokens ----

    def test_biases_and_lists_of_ids_steer_what_is_drawn(self):
        ids = lambda **f: self.d.complete(model="base", prompt="Hello", max_tokens=10, ignore_eos=True, return_token_ids=True, **f)["choices"][0]["token_ids"]
        first = ids()[0]
        self.assertNotEqual(ids(logit_bias={str(first): -100})[0], first)
        self.assertEqual(set(ids(logit_bias={"77": 100})), {77})
        self.assertLessEqual(set(ids(allowed_token_ids=[5, 6, 7], temperature=1)), {5, 6, 7})
        c = self.d.complete(model="base", prompt="Hello", max_tokens=10, ignore_eos=True, stop_token_ids=[ids()[3]])
        self.assertEqual((c["choices"][0]["finish_reason"], c["usage"]["completion_tokens"]), ("stop", ids().index(ids()[3]) + 1))
        for field, values in {"logit_bias": [[1], {"x": 1}, {"1": 101}, {"1": "x"}, {"-1": 1}, {"99999999": 1}], "stop_token_ids": [1, ["x"], [-1], [1] * 65], "allowed_token_ids": [1, [1e9]]}.items():
            for value in values:
                self.refused(field, **{field: value})


@needs_model
class DefaultModel(unittest.TestCase):
    def test_it_writes_json_to_a_schema_and_calls_tools(self):
        d = Daemon(MODEL, "--served-name", "base")
        try:
            ask = lambda **f: d.post({"model": "base", "temperature": 0, "max_tokens": 80, **f}, "/v1/chat/completions")[1]["choices"][0]
            capital = {"type": "object", "properties": {"country": {"type": "string"}, "capital": {"type": "string"}}, "required": ["country", "capital"], "additionalProperties": False}
            c = ask(messages=messages("Which city is the capital of France? Answer as JSON."), response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": capital}})
            self.assertEqual((c["finish_reason"], json.loads(c["message"]["content"])["capital"]), ("stop", "Paris"))
            c = ask(messages=messages("What is the weather in Rome?"), tools=[WEATHER], tool_choice="required")
            self.assertEqual(json.loads(c["message"]["tool_calls"][0]["function"]["arguments"]), {"city": "Rome"})
        finally:
            d.stop()


if __name__ == "__main__":
    unittest.main()
