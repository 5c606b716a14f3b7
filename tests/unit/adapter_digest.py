#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The digest of a PEFT directory, computed from the description in adapters/adapter.h with nothing but the standard library.

adapter_digest.py DIR...   prints 64 hex digits a line. Plain LoRA only; ranks are the tensors' own.
"""
import hashlib
import json
import math
import os
import re
import struct
import sys

WIDTH = {"F32": 4, "F16": 2, "BF16": 2}


def u32(v):
    return struct.pack("<I", v)


def u64(v):
    return struct.pack("<Q", v)


def text(v):
    v = v.encode() if isinstance(v, str) else v
    return u32(len(v)) + v


def tensors(path):
    """(module, part) -> (dtype, shape, bytes)"""
    with open(path, "rb") as f:
        (n,) = struct.unpack("<Q", f.read(8))
        head, data, out = json.loads(f.read(n)), f.read(), {}
    for key, t in head.items():
        if key == "__metadata__" or key.endswith(".base_layer.weight"):
            continue
        m = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(lora_A|lora_B|lora_embedding_A|lora_embedding_B)(?:\.weight)?", key)
        begin, end = t["data_offsets"]
        out[m[1], m[2].replace("embedding_", "")] = t["dtype"], t["shape"], data[begin:end]
    return out


def of_pattern(patterns, module, default):
    for p, v in (patterns or {}).items():
        if re.match(rf"(.*\.)?({p})$", module):
            return v
    return default


def settings(config, parts):
    for (module, part), (_, shape, _) in parts.items():
        if part != "lora_A":
            continue
        rank = shape[0]
        alpha = of_pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
        yield module, "rank", u32(rank)
        yield module, "scaling", struct.pack("<f", alpha / (math.sqrt(rank) if config.get("use_rslora") else rank))


def digest(path):
    with open(os.path.join(path, "adapter_config.json")) as f:
        config = json.load(f)
    parts = tensors(os.path.join(path, "adapter_model.safetensors"))
    chosen = sorted(settings(config, parts))
    h = hashlib.sha256(text("adapterd adapter 1") + text("peft") + text("") + u32(len(chosen)))
    for module, key, value in chosen:
        h.update(text(module) + text(key) + text(value))
    h.update(u32(len(parts)))
    for (module, part), (dtype, shape, data) in sorted(parts.items()):
        assert len(data) == WIDTH[dtype] * math.prod(shape)
        h.update(text(module) + text(part) + text(dtype) + u32(len(shape)) + b"".join(map(u64, shape)) + u64(len(data)) + data)
    return h.hexdigest()


for path in sys.argv[1:]:
    print(digest(path))
