# SPDX-License-Identifier: MIT
"""Adapters as files and as multipart bodies, and a daemon that takes them."""
import json
import os
import random
import struct
import uuid

from daemon import TINY, Daemon

BASE = os.path.join(TINY, "models", "llama-gqa")
ADAPTERS = os.path.join(TINY, "adapters")


def read(path):
    with open(path, "rb") as f:
        return f.read()


def files_of(name):
    """(config, weights) of a golden adapter."""
    d = os.path.join(ADAPTERS, name)
    return read(os.path.join(d, "adapter_config.json")), read(os.path.join(d, "adapter_model.safetensors"))


def make_adapter(seed, rank=4, modules=("q_proj", "v_proj"), scale=0.05, layers=None):
    """(config, weights) of an adapter for llama-gqa with values drawn from `seed`, so that every seed has its own digest."""
    with open(os.path.join(BASE, "config.json")) as f:
        c = json.load(f)
    hd = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    outs = {"q_proj": c["num_attention_heads"] * hd, "k_proj": c["num_key_value_heads"] * hd, "v_proj": c["num_key_value_heads"] * hd}
    rng, header, data = random.Random(seed), {}, bytearray()
    for layer in range(layers or c["num_hidden_layers"]):
        for m in modules:
            for part, shape in (("lora_A", [rank, c["hidden_size"]]), ("lora_B", [outs[m], rank])):
                n = shape[0] * shape[1]
                values = [rng.gauss(0, scale) for _ in range(n)]
                header[f"base_model.model.model.layers.{layer}.self_attn.{m}.{part}.weight"] = {"dtype": "F32", "shape": shape, "data_offsets": [len(data), len(data) + 4 * n]}
                data += struct.pack(f"<{n}f", *values)
    head = json.dumps(header).encode()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 2 * rank, "target_modules": list(modules), "base_model_name_or_path": "llama-gqa"}
    return json.dumps(config).encode(), struct.pack("<Q", len(head)) + head + bytes(data)


def multipart(parts):
    """(content type, body) of [(name, filename or None, bytes)]."""
    boundary = "b" + uuid.uuid4().hex
    out = b""
    for name, filename, data in parts:
        disposition = f'form-data; name="{name}"' + (f'; filename="{filename}"' if filename else "")
        out += f"--{boundary}\r\nContent-Disposition: {disposition}\r\n\r\n".encode() + data + b"\r\n"
    return f"multipart/form-data; boundary={boundary}", out + f"--{boundary}--\r\n".encode()


def parts_of(files, **fields):
    parts = [(k, None, v if isinstance(v, bytes) else str(v).encode()) for k, v in fields.items()]
    if files:
        parts += [("config", "adapter_config.json", files[0]), ("weights", "adapter_model.safetensors", files[1])]
    return parts


class Registry(Daemon):
    """A daemon with calls for adapters; answers are (status, object)."""

    def call(self, method, path, body=None, headers=None, timeout=120):
        raw = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        status, got, reply = self.request(method, path, raw, {**({"Content-Type": "application/json"} if raw else {}), **(headers or {})}, timeout)
        self.headers = got
        return status, json.loads(reply) if reply else None

    def send(self, path, parts, headers=None, method="POST"):
        kind, body = multipart(parts)
        return self.call(method, path, body, {"Content-Type": kind, **(headers or {})})

    def upload(self, name, files, query="", headers=None, **fields):
        return self.send("/v1/adapters" + query, parts_of(files, name=name, **fields), headers)

    def new_version(self, name, files, query="", headers=None, **fields):
        return self.send(f"/v1/adapters/{name}/versions" + query, parts_of(files, **fields), headers)

    def show(self, name):
        return self.call("GET", f"/v1/adapters/{name}")

    def names(self):
        return [a["name"] for a in self.call("GET", "/v1/adapters?limit=1000")[1]["data"]]

    def answer(self, model, prompt=(1, 5, 9, 17), n=8):
        """(text's token ids, adapter_version)."""
        status, reply = self.post({"model": model, "prompt": list(prompt), "max_tokens": n, "temperature": 0, "ignore_eos": True, "return_token_ids": True})
        assert status == 200, (status, reply)
        return reply["choices"][0]["token_ids"], reply.get("adapter_version")
