# SPDX-License-Identifier: MIT
"""Chat completions and responses through the official OpenAI client: answers, tools, structured output, its streaming helpers, its errors. The model is tiny and says
nothing sensible; grammars hold it to a form where one is asked for."""
import asyncio
import json
import typing
import unittest

from daemon import TemplateTests

try:
    import openai
    import pydantic
except ImportError:
    openai = pydantic = None

HELLO = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
LETTERS = {"guided_regex": "[a-e]{8}"}  # an answer that ends by itself: the helpers raise one that is cut
PARAMETERS = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}, "days": {"type": "integer", "minimum": 1, "maximum": 3}}, "required": ["city", "days"], "additionalProperties": False}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Tells the weather", "parameters": PARAMETERS, "strict": True}}
FLAT = {"type": "function", "name": "weather", "description": "Tells the weather", "parameters": PARAMETERS, "strict": True}

if pydantic:
    class Person(pydantic.BaseModel):
        kind: typing.Literal["cat", "dog"]
        legs: typing.Literal[2, 4]
        tags: list[typing.Literal["a", "b"]] = pydantic.Field(max_length=2)


@unittest.skipUnless(openai, "the Python package openai is not installed")
class Base(TemplateTests):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.url = f"http://127.0.0.1:{cls.d.port}/v1"
        cls.client = openai.OpenAI(base_url=cls.url, api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        super().tearDownClass()

    def nothing_runs(self):
        self.d.wait_for("adapterd_requests_running", 0)


class Chat(Base):
    def ask(self, **fields):
        return self.client.chat.completions.create(**{"model": "qv", "messages": HELLO, "max_completion_tokens": 8, "temperature": 0, **fields})

    def test_it_answers(self):
        r = self.ask(n=2, temperature=1, seed=3, logprobs=True, top_logprobs=2, user="someone", metadata={"a": "b"}, store=False)
        self.assertEqual([c.index for c in r.choices], [0, 1])
        for c in r.choices:
            self.assertEqual((c.message.role, c.finish_reason, c.message.tool_calls, c.message.refusal), ("assistant", "length", None, None))
            self.assertEqual((len(c.logprobs.content), len(c.logprobs.content[0].top_logprobs)), (8, 2))
            self.assertEqual(b"".join(bytes(t.bytes) for t in c.logprobs.content).decode("utf-8", "replace"), c.message.content)
        self.assertEqual(r.usage.completion_tokens, 16)
        self.assertEqual(r.usage.completion_tokens_details.reasoning_tokens, 0)

    def test_a_stream_is_the_answer_in_pieces(self):
        whole = self.ask(n=2, stop=["zzz"])
        text, roles, ends, usage = ["", ""], [None, None], [None, None], None
        for chunk in self.ask(n=2, stop=["zzz"], stream=True, stream_options={"include_usage": True}):
            usage = chunk.usage or usage
            for c in chunk.choices:
                text[c.index] += c.delta.content or ""
                roles[c.index] = c.delta.role or roles[c.index]
                ends[c.index] = c.finish_reason or ends[c.index]
        self.assertEqual(text, [c.message.content for c in whole.choices])
        self.assertEqual((roles, ends), (["assistant"] * 2, ["length"] * 2))
        self.assertEqual((usage.prompt_tokens, usage.completion_tokens), (whole.usage.prompt_tokens, whole.usage.completion_tokens))

    def test_the_streaming_helper_gathers_the_same(self):
        kinds = set()
        with self.client.chat.completions.stream(model="qv", messages=HELLO, temperature=0, logprobs=True, extra_body=LETTERS) as stream:
            for event in stream:
                kinds.add(event.type)
            final = stream.get_final_completion()
        self.assertEqual(final.choices[0].message.content, self.ask(max_completion_tokens=50, extra_body=LETTERS).choices[0].message.content)
        self.assertLessEqual({"chunk", "content.delta", "content.done", "logprobs.content.delta"}, kinds)

    def test_a_call_that_is_required_comes_and_goes_back(self):
        for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
            r = self.ask(tools=[WEATHER], tool_choice=choice, max_completion_tokens=100)
            call, = r.choices[0].message.tool_calls
            self.assertEqual((call.type, call.function.name), ("function", "weather"))
            asked = json.loads(call.function.arguments)
            self.assertIn((asked["city"], asked["days"]), {(c, n) for c in ("Paris", "Oslo") for n in (1, 2, 3)})
        self.assertIsNone(r.choices[0].message.content)
        back = [*HELLO, r.choices[0].message, {"role": "tool", "tool_call_id": call.id, "content": "Rain"}]
        self.assertEqual(self.ask(messages=back, tools=[WEATHER], tool_choice="none").choices[0].finish_reason, "length")

    def test_a_streamed_call_is_the_same_call(self):
        fields = {"tools": [WEATHER], "tool_choice": "required", "max_completion_tokens": 100}
        want = self.ask(**fields).choices[0].message.tool_calls[0].function
        with self.client.chat.completions.stream(model="qv", messages=HELLO, temperature=0, **fields) as stream:
            done = [e for e in stream if e.type == "tool_calls.function.arguments.done"]
            got = stream.get_final_completion().choices[0]
        self.assertEqual((got.message.tool_calls[0].function.name, got.message.tool_calls[0].function.arguments), (want.name, want.arguments))
        self.assertEqual((len(done), done[0].name), (1, "weather"))

    def test_an_answer_parses_into_a_model_of_pydantic(self):
        for seed in range(4):
            r = self.client.chat.completions.parse(model="qv", messages=HELLO, response_format=Person, seed=seed, max_completion_tokens=200)
            self.assertIsInstance(r.choices[0].message.parsed, Person)

    def test_a_call_s_arguments_parse_into_one(self):
        tool = openai.pydantic_function_tool(Person, name="person")
        r = self.client.chat.completions.parse(model="qv", messages=HELLO, tools=[tool], tool_choice="required", max_completion_tokens=70, seed=1)
        self.assertIsInstance(r.choices[0].message.tool_calls[0].function.parsed_arguments, Person)

    def test_a_streamed_answer_parses(self):
        with self.client.chat.completions.stream(model="qv", messages=HELLO, response_format=Person, seed=1, max_completion_tokens=200) as stream:
            self.assertIsInstance(stream.get_final_completion().choices[0].message.parsed, Person)

    def test_an_answer_that_is_cut_is_the_client_s_own_error(self):
        with self.assertRaises(openai.LengthFinishReasonError):
            self.client.chat.completions.parse(model="qv", messages=HELLO, response_format=Person, max_completion_tokens=2)

    def test_a_json_object_is_one(self):
        r = self.ask(response_format={"type": "json_object"}, max_completion_tokens=300, logit_bias={"1": -100}, temperature=1, seed=5)
        if r.choices[0].finish_reason == "stop":
            self.assertIsInstance(json.loads(r.choices[0].message.content), dict)

    def test_its_errors_are_raised_by_class(self):
        for wrong, param in (({"messages": []}, "messages"), ({"messages": [{"role": "nobody", "content": "x"}]}, "messages[0].role"), ({"top_logprobs": 3}, "top_logprobs"), ({"temperature": 3}, "temperature"),
                             ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"), ({"tools": [{"type": "x"}]}, "tools")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.ask(**wrong)
            self.assertEqual(caught.exception.param, param)
        with self.assertRaises(openai.NotFoundError) as caught:
            self.ask(model="nope", stream=True)
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.ask(max_completion_tokens=100000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_who_leaves_or_loses_patience_cancels_it(self):
        long = {"model": "base", "messages": HELLO, "max_completion_tokens": 400, "n": 64, "extra_body": {"ignore_eos": True}}
        with self.client.chat.completions.create(**long, stream=True) as stream:
            next(iter(stream))
        self.nothing_runs()
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.15).chat.completions.create(**long)
        self.nothing_runs()


class Responses(Base):
    def ask(self, **fields):
        return self.client.responses.create(**{"model": "qv", "input": "Hello", "instructions": "Be brief", "max_output_tokens": 8, "temperature": 0, **fields})

    def test_it_says_what_chat_says(self):
        chat = self.client.chat.completions.create(model="qv", messages=HELLO, max_completion_tokens=8, temperature=0)
        for given in ("Hello", [{"role": "user", "content": "Hello"}], [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hello"}]}]):
            r = self.ask(input=given, metadata={"a": "b"}, store=False)
            self.assertEqual(r.output_text, chat.choices[0].message.content)
            self.assertEqual((r.status, r.incomplete_details.reason, r.metadata), ("incomplete", "max_output_tokens", {"a": "b"}))
            self.assertEqual((r.usage.input_tokens, r.usage.output_tokens), (chat.usage.prompt_tokens, 8))

    def test_a_stream_tells_each_step_and_ends_with_the_whole(self):
        want, events = self.ask(), list(self.ask(stream=True))
        self.assertEqual([e.sequence_number for e in events], list(range(len(events))))
        kinds = [e.type for e in events]
        self.assertEqual(kinds[:4], ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"])
        self.assertEqual(kinds[-4:], ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"])
        self.assertEqual("".join(e.delta for e in events if e.type == "response.output_text.delta"), want.output_text)
        self.assertEqual(events[-1].response.output_text, want.output_text)

    def test_the_streaming_helper_gathers_the_same(self):
        with self.client.responses.stream(model="qv", input="Hello", instructions="Be brief", temperature=0, tools=[FLAT], tool_choice="required", max_output_tokens=100) as stream:
            kinds = {e.type for e in stream}
            final = stream.get_final_response()
        self.assertLessEqual({"response.function_call_arguments.delta", "response.function_call_arguments.done", "response.completed"}, kinds)
        self.assertEqual((final.output[0].type, final.output[0].name), ("function_call", "weather"))

    def test_a_call_comes_and_its_result_goes_back(self):
        r = self.ask(tools=[FLAT], tool_choice={"type": "function", "name": "weather"}, max_output_tokens=100)
        call, = r.output
        self.assertIn(json.loads(call.arguments)["city"], ("Paris", "Oslo"))
        again = self.ask(input=[{"role": "user", "content": "Hello"}, *[o.model_dump() for o in r.output], {"type": "function_call_output", "call_id": call.call_id, "output": "Rain"}])
        self.assertEqual(again.output[0].type, "message")

    def test_an_answer_parses_into_a_model_of_pydantic(self):
        r = self.client.responses.parse(model="qv", input="Hello", text_format=Person, max_output_tokens=200)
        self.assertIsInstance(r.output_parsed, Person)

    def test_its_errors_are_raised_by_class(self):
        with self.assertRaises(openai.NotFoundError):
            self.ask(model="nope")
        for wrong, param in (({"previous_response_id": "resp_1"}, "previous_response_id"), ({"input": []}, "input"), ({"max_output_tokens": 0}, "max_output_tokens"), ({"background": True}, "background")):
            with self.assertRaises(openai.BadRequestError) as caught:
                self.ask(**wrong)
            self.assertEqual(caught.exception.param, param)
        with self.assertRaises(openai.NotFoundError):
            self.client.responses.retrieve("resp_1")  # nothing is stored

    def test_who_leaves_cancels_it(self):
        stream = self.ask(model="base", max_output_tokens=400, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.nothing_runs()


class Asynchronous(Base):
    def test_everything_at_once(self):
        async def all_at_once():
            async with openai.AsyncOpenAI(base_url=self.url, api_key="none", max_retries=0) as client:
                async def streamed(model):
                    text = ""
                    async for chunk in await client.chat.completions.create(model=model, messages=HELLO, max_completion_tokens=50, temperature=0, extra_body=LETTERS, stream=True):
                        text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
                    return text

                async def helped(model):
                    async with client.chat.completions.stream(model=model, messages=HELLO, temperature=0, extra_body=LETTERS) as stream:
                        return (await stream.get_final_completion()).choices[0].message.content
                models = ("base", "qv", "all")
                whole = [client.chat.completions.create(model=m, messages=HELLO, max_completion_tokens=50, temperature=0, extra_body=LETTERS) for m in models]
                responses = [client.responses.create(model=m, input="Hello", instructions="Be brief", max_output_tokens=12, temperature=0) for m in models]
                parsed = client.chat.completions.parse(model="qv", messages=HELLO, response_format=Person, max_completion_tokens=200)
                got = await asyncio.gather(*whole, *map(streamed, models), *map(helped, models), *responses, parsed)
                want = [r.choices[0].message.content for r in got[:3]]
                self.assertEqual([got[3:6], got[6:9]], [want] * 2)
                self.assertEqual([r.usage.output_tokens for r in got[9:12]], [12] * 3)
                self.assertIsInstance(got[12].choices[0].message.parsed, Person)
                with self.assertRaises(openai.BadRequestError):
                    await client.chat.completions.create(model="qv", messages=[])
                stream = await client.responses.create(model="base", input="Hello", max_output_tokens=400, stream=True, extra_body={"ignore_eos": True})
                await anext(aiter(stream))
                await stream.close()
        asyncio.run(all_at_once())
        self.nothing_runs()
