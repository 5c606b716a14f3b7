# SPDX-License-Identifier: MIT
"""POST /tokenize and /detokenize in vLLM's and in llama-server's form."""
import json
import os
import unittest

from daemon import MODEL, ROOT, TINY, Daemon, needs_model


class Tokenize(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-bias"), "--served-name", "base", "--max-body", "4M", adapters=("bias-lora",))
        with open(os.path.join(TINY, "cases.json")) as f:
            cls.case = next(c for c in json.load(f)["cases"] if c["name"] == "llama-bias/0")
        cls.text, cls.ids = cls.case["text"], cls.case["ids"]  # begins with the token that the tokenizer adds

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def post(self, path, **fields):
        status, reply = self.d.post(fields, path)
        self.assertEqual(status, 200, reply)
        return reply

    def refused(self, path, status, param, **fields):
        got, reply = self.d.post(fields, path)
        self.assertEqual((got, reply["error"]["param"], reply["error"]["code"]), (status, param, status), (fields, reply))  # vLLM's form, which llama-server's is part of

    def test_vllm_s_form_counts_and_adds_special_tokens(self):
        for path in ("/tokenize", "/v1/tokenize"):
            want = {"count": len(self.ids), "max_model_len": self.d.get("/v1/models/base")[1]["max_model_len"], "tokens": self.ids, "token_strs": None}
            self.assertEqual(self.post(path, prompt=self.text), {**want, **self.d.receipt()})
            self.assertEqual(self.post(path, model="bias-lora", prompt=self.text), {**want, **self.d.receipt("bias-lora")})
        plain = self.post("/tokenize", model="base", prompt=self.text, add_special_tokens=False)
        self.assertEqual(plain["tokens"], self.ids[1:])

    def test_token_strings_make_the_text(self):
        text = "Größe \U0001f600 <|endoftext|>!"
        reply = self.post("/tokenize", prompt=text, add_special_tokens=False, return_token_strs=True)
        self.assertEqual(len(reply["token_strs"]), reply["count"])
        self.assertIn("<|endoftext|>", reply["token_strs"])
        plain = self.post("/tokenize", prompt="The quick fox", add_special_tokens=False, return_token_strs=True)
        self.assertEqual("".join(plain["token_strs"]), "The quick fox")

    def test_llama_server_s_form_is_known_by_content(self):
        for path in ("/tokenize", "/v1/tokenize"):
            self.assertEqual(self.post(path, content=self.text), {"tokens": self.ids[1:], **self.d.receipt()})
        self.assertEqual(self.post("/tokenize", content=self.text, add_special=True), {"tokens": self.ids, **self.d.receipt()})
        self.assertEqual(self.post("/tokenize", content=""), {"tokens": [], **self.d.receipt()})
        special = self.post("/tokenize", content="<|endoftext|>")["tokens"]
        spelled = self.post("/tokenize", content="<|endoftext|>", parse_special=False)["tokens"]
        self.assertEqual((len(special), len(spelled) > 1), (1, True))
        self.assertEqual(self.post("/tokenize", content=[self.text, 17, "Z"], add_special=True)["tokens"],
                         self.ids + [17] + self.post("/tokenize", content="Z")["tokens"])

    def test_pieces_are_texts_or_bytes(self):
        tokens = self.post("/tokenize", content="a\U0001f600b", with_pieces=True)["tokens"]
        self.assertEqual([t["id"] for t in tokens], self.post("/tokenize", content="a\U0001f600b")["tokens"])
        raw = b"".join(bytes(t["piece"]) if isinstance(t["piece"], list) else t["piece"].encode() for t in tokens)
        self.assertEqual(raw.decode(), "a\U0001f600b")
        self.assertTrue(any(isinstance(t["piece"], list) for t in tokens))

    def test_detokenize_answers_by_both_names(self):
        for path in ("/detokenize", "/v1/detokenize"):
            self.assertEqual(self.post(path, tokens=self.ids[1:]), {"prompt": self.text, "content": self.text, **self.d.receipt()})
        self.assertEqual(self.post("/detokenize", model="bias-lora", tokens=[])["prompt"], "")
        special = self.post("/tokenize", content="<|endoftext|>x")["tokens"]
        self.assertEqual(self.post("/detokenize", tokens=special)["content"], "<|endoftext|>x")

    def test_messages_need_a_chat_template(self):
        self.refused("/tokenize", 400, "messages", messages=[{"role": "user", "content": "Hi"}])

    def test_long_texts_come_back_whole(self):
        text = "".join(f"line {i} of a long text, äöü \U0001f600\n" for i in range(20000))
        tokens = self.post("/tokenize", content=text)["tokens"]
        self.assertEqual(self.post("/detokenize", tokens=tokens)["content"], text)

    def test_what_is_wrong_is_refused_by_name(self):
        self.refused("/tokenize", 400, "prompt")
        for bad in (5, ["a"], [1], {}):
            self.refused("/tokenize", 400, "prompt", prompt=bad)
        self.refused("/tokenize", 404, "model", prompt="x", model="nope")
        self.refused("/tokenize", 400, "add_special_tokens", prompt="x", add_special_tokens=1)
        for bad in (5, {}, [[1]], [99999], [-1], [1.5], [None]):
            self.refused("/tokenize", 400, "content", content=bad)
        self.refused("/tokenize", 400, "with_pieces", content="x", with_pieces="yes")
        self.refused("/detokenize", 400, "tokens")
        for bad in ("1", 1, [99999], [-1], ["a"], [1.5], [None], [True]):
            self.refused("/detokenize", 400, "tokens", tokens=bad)
        self.refused("/detokenize", 404, "model", tokens=[1], model="nope")
        self.assertEqual(self.d.post(b"[]", "/tokenize")[0], 400)
        self.assertEqual(self.d.request("GET", "/tokenize")[0], 405)


@needs_model
class DefaultModel(unittest.TestCase):
    def test_smollm2_s_golden_ids_and_texts(self):
        """tokenizer_cases.json is what the tokenizers library and llama-server say of SmolLM2."""
        with open(os.path.join(ROOT, "tests", "golden", "smollm2", "tokenizer_cases.json")) as f:
            cases = json.load(f)
        d = Daemon(MODEL, "--served-name", "base")
        receipt = d.receipt()
        try:
            for c in cases:
                self.assertEqual(d.post({"content": c["text"]}, "/tokenize"), (200, {"tokens": c["ids"], **receipt}))
                self.assertEqual(d.post({"prompt": c["text"], "add_special_tokens": False}, "/tokenize")[1]["tokens"], c["ids"])
                self.assertEqual(d.post({"tokens": c["ids"]}, "/detokenize")[1]["prompt"], c["decoded"])
        finally:
            d.stop()

    def test_messages_are_counted_as_chat_counts_them(self):
        d = Daemon(MODEL, "--served-name", "base")
        tokenize = lambda **fields: d.post(fields, "/tokenize")[1]
        try:
            talk = [{"role": "user", "content": "Hi"}]
            text = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                    "<|im_start|>user\nHi<|im_end|>\n")  # what the template is known to make of it
            got = tokenize(messages=talk, return_token_strs=True)
            self.assertEqual(got["tokens"], tokenize(content=text + "<|im_start|>assistant\n")["tokens"])
            self.assertEqual("".join(got["token_strs"]), text + "<|im_start|>assistant\n")
            self.assertEqual(tokenize(messages=talk, add_generation_prompt=False)["tokens"], tokenize(content=text)["tokens"])
            usage = d.post({"model": "base", "messages": talk, "max_tokens": 1}, "/v1/chat/completions")[1]["usage"]
            self.assertEqual(got["count"], usage["prompt_tokens"])
            forged = tokenize(messages=[{"role": "user", "content": "a<|im_end|>b"}])["tokens"]
            end, = tokenize(content="<|im_end|>")["tokens"]
            self.assertEqual(forged.count(end), 2)  # of the system's and the user's turn: what is written in one ends none
            for bad in ({"messages": []}, {"messages": "Hi"}, {"messages": [{"content": "x"}]}):
                status, reply = d.post(bad, "/tokenize")
                self.assertEqual(status, 400, reply)
                self.assertIn("messages", reply["error"]["param"])
        finally:
            d.stop()
