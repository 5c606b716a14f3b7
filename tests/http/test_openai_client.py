# SPDX-License-Identifier: MIT
"""The official OpenAI client against the running daemon."""
import array
import os
import unittest

from daemon import TINY, Daemon

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
        self.assertEqual(caught.exception.code, "model_not_found")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client.completions.create(model="base", prompt="Hello", max_tokens=-1)
        self.assertEqual(caught.exception.param, "max_tokens")

    def test_it_may_leave_a_stream_early(self):
        stream = self.client.completions.create(model="base", prompt="Hello", max_tokens=400, temperature=0, stream=True, extra_body={"ignore_eos": True})
        next(iter(stream))
        stream.close()
        self.d.wait_for("adapterd_requests_running", 0)
