# SPDX-License-Identifier: MIT
"""The official OpenAI client against the running daemon."""
import array
import asyncio
import os
import tempfile
import unittest

from daemon import TINY, Daemon
from registry_util import Registry, files_of

try:
    import openai
except ImportError:
    openai = None


@unittest.skipUnless(openai, "the Python package openai is not installed")
class OpenAiClient(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv", "all"))
        cls.client = openai.OpenAI(base_url=f"http://127.0.0.1:{cls.d.port}/v1", api_key="none", max_retries=0)

    @classmethod
    def tearDownClass(cls):
        cls.client.close()
        cls.d.stop()

    def test_it_lists_models(self):
        self.assertEqual([m.id for m in self.client.models.list()], ["base", "all", "qv"])
        self.assertEqual(self.client.models.retrieve("qv").id, "qv")
        with self.assertRaises(openai.PermissionDeniedError):
            self.client.models.delete("base")

    def test_it_completes(self):
        r = self.client.completions.create(model="qv", prompt="Hello", max_tokens=5, temperature=0, logprobs=2)
        self.assertEqual(r.choices[0].finish_reason, "length")
        self.assertEqual(r.usage.completion_tokens, 5)
        self.assertEqual(len(r.choices[0].logprobs.tokens), 5)

    def test_it_streams(self):
        whole = self.client.completions.create(model="all", prompt="Hello", max_tokens=12, temperature=0)
        text, usage = "", None
        for event in self.client.completions.create(model="all", prompt="Hello", max_tokens=12, temperature=0, stream=True, stream_options={"include_usage": True}):
            text += event.choices[0].text if event.choices else ""
            usage = event.usage or usage
        self.assertEqual(text, whole.choices[0].text)
        self.assertEqual(usage, whole.usage)

    def test_it_embeds(self):
        texts = ["Hello there", "Goodbye"]
        r = self.client.embeddings.create(model="qv", input=texts)  # asks for base64 and unpacks it
        floats = self.client.embeddings.create(model="qv", input=texts, encoding_format="float")
        for a, b in zip(r.data, floats.data, strict=True):
            self.assertEqual(array.array("f", a.embedding), array.array("f", b.embedding))
        self.assertEqual([len(d.embedding) for d in r.data], [256, 256])
        self.assertAlmostEqual(sum(x * x for x in r.data[0].embedding), 1, 5)
        self.assertEqual(r.usage.total_tokens, floats.usage.prompt_tokens)
        self.assertEqual(len(self.client.embeddings.create(model="qv", input=[1, 2, 3], dimensions=12).data[0].embedding), 12)
        with self.assertRaises(openai.NotFoundError):
            self.client.embeddings.create(model="nope", input="x")

    def test_it_raises_its_own_errors(self):
        with self.assertRaises(openai.NotFoundError) as caught:
            self.client.completions.create(model="nope", prompt="Hello")
        self.assertEqual((caught.exception.code, caught.exception.param, caught.exception.type), ("model_not_found", "model", "invalid_request_error"))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="base", prompt="Hello", max_tokens=-1)
        self.assertEqual((caught.exception.code, caught.exception.param), ("invalid_value", "max_tokens"))
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="base", prompt="Hello", max_tokens=100000)
        self.assertEqual(caught.exception.code, "context_length_exceeded")
        with self.assertRaises(openai.NotFoundError):
            self.client.models.retrieve("nope")
        with self.assertRaises(openai.PermissionDeniedError):
            self.client.models.delete("base")
        with self.assertRaises(openai.ConflictError) as caught:
            self.client.post("/adapters/qv/rollback", cast_to=object)
        self.assertEqual(caught.exception.code, "adapter_not_stored")  # it comes from the command line
        self.assertEqual(caught.exception.request_id, caught.exception.response.headers["x-request-id"])
        with self.assertRaises(openai.NotFoundError):
            self.client.files.list()

    def test_errors_in_a_stream_s_beginning_are_raised_before_it(self):
        with self.assertRaises(openai.NotFoundError):
            self.client.completions.create(model="nope", prompt="Hello", stream=True)

    def test_it_takes_every_shape_of_prompt_and_several_choices(self):
        for prompt, n_prompts in (("Hello", 1), (["Hello", "Hi"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)):
            r = self.client.completions.create(model="qv", prompt=prompt, max_tokens=3, n=2, seed=7, stop=["\n\n", "zzz"], presence_penalty=0.1, user="someone")
            self.assertEqual([c.index for c in r.choices], list(range(2 * n_prompts)))
        again = self.client.completions.create(model="qv", prompt=[[1, 2], [3]], max_tokens=3, n=2, seed=7, stop=["\n\n", "zzz"], presence_penalty=0.1, user="someone else")
        self.assertEqual([c.text for c in again.choices], [c.text for c in r.choices])
        self.assertEqual(again.system_fingerprint, r.system_fingerprint)

    def test_it_reads_log_probabilities_and_echoes(self):
        r = self.client.completions.create(model="base", prompt="Hello there", max_tokens=2, temperature=0, logprobs=3, echo=True)
        told = r.choices[0].logprobs
        self.assertTrue(r.choices[0].text.startswith("Hello there"))
        self.assertEqual(len(told.tokens), r.usage.total_tokens)
        self.assertIsNone(told.token_logprobs[0])
        self.assertEqual(told.token_logprobs[-1], max(told.top_logprobs[-1].values()))
        self.assertEqual("".join(told.tokens), r.choices[0].text)

    def test_raw_replies_have_its_headers(self):
        raw = self.client.completions.with_raw_response.create(model="qv", prompt="Hello", max_tokens=2, extra_headers={"x-request-id": "mine-1"})
        self.assertEqual(raw.headers["x-request-id"], "mine-1")
        self.assertGreaterEqual(int(raw.headers["openai-processing-ms"]), 0)
        self.assertRegex(raw.headers["x-adapter-version"], "^[0-9a-f]{64}$")
        self.assertEqual(raw.parse()._request_id, "mine-1")

    def test_it_deletes_a_model(self):
        with tempfile.TemporaryDirectory() as state:
            d = Registry(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", "--state-dir", state)
            try:
                self.assertEqual(d.upload("team/doomed:v1", files_of("qv"))[0], 201)
                with openai.OpenAI(base_url=f"http://127.0.0.1:{d.port}/v1", api_key="none", max_retries=0) as client:
                    self.assertEqual(client.models.retrieve("team/doomed:v1").id, "team/doomed:v1")
                    gone = client.models.delete("team/doomed:v1")
                    self.assertEqual((gone.id, gone.object, gone.deleted), ("team/doomed:v1", "model", True))
                    self.assertEqual([m.id for m in client.models.list()], ["base"])
            finally:
                d.stop()

    def test_it_may_leave_a_stream_early(self):
        stream = self.client.completions.create(model="base", prompt="Hello", max_tokens=400, temperature=0, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.d.wait_for("adapterd_requests_running", 0)

    def test_a_timeout_cancels_what_it_asked_for(self):
        with self.assertRaises(openai.APITimeoutError):
            self.client.with_options(timeout=0.15).completions.create(model="base", prompt=["Hello"] * 64, max_tokens=400, extra_body={"ignore_eos": True})
        self.d.wait_for("adapterd_requests_running", 0)

    def test_the_asynchronous_client_does_the_same_at_once(self):
        async def all_at_once():
            async with openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{self.d.port}/v1", api_key="none", max_retries=0) as client:
                async def streamed(model):
                    text = ""
                    async for event in await client.completions.create(model=model, prompt="Hello", max_tokens=12, temperature=0, stream=True):
                        text += event.choices[0].text
                    return text
                whole = [client.completions.create(model=m, prompt="Hello", max_tokens=12, temperature=0) for m in ("base", "qv", "all")]
                pieces = [streamed(m) for m in ("base", "qv", "all")]
                got = await asyncio.gather(*whole, *pieces, client.models.list(), client.embeddings.create(model="qv", input="Hello"))
                self.assertEqual([r.choices[0].text for r in got[:3]], got[3:6])
                self.assertEqual([m.id async for m in got[6]], ["base", "all", "qv"])
                self.assertEqual(len(got[7].data), 1)
                with self.assertRaises(openai.NotFoundError):
                    await client.completions.create(model="nope", prompt="Hello")
                stream = await client.completions.create(model="base", prompt="Hello", max_tokens=400, stream=True, extra_body={"ignore_eos": True})
                await anext(aiter(stream))
                await stream.close()
        asyncio.run(all_at_once())
        self.d.wait_for("adapterd_requests_running", 0)
