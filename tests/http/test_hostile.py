# SPDX-License-Identifier: MIT
"""Damaged model files given to the daemon itself: it says which file and why, and ends; it never crashes."""
import json
import os
import random
import shutil
import struct
import subprocess
import tempfile
import unittest

from daemon import ADAPTERD, TINY, clean_env, fails_to_start

GGUF = os.path.join(TINY, "gguf", "llama-spm-mha-F32.gguf")
TIED = os.path.join(TINY, "models", "llama-tied-bf16")


class Hostile(unittest.TestCase):
    def setUp(self):
        self.dir = tempfile.mkdtemp()
        self.addCleanup(shutil.rmtree, self.dir)

    def gguf(self, data):
        path = os.path.join(self.dir, "model.gguf")
        with open(path, "wb") as f:
            f.write(data)
        return fails_to_start("--model", path, "--port", "0")

    def directory(self, change):
        """A copy of a good directory after change(path)."""
        path = os.path.join(self.dir, "model")
        shutil.copytree(TIED, path)
        os.chmod(path, 0o755)
        for name in os.listdir(path):
            os.chmod(os.path.join(path, name), 0o644)
        change(path)
        try:
            return fails_to_start("--model", path, "--port", "0")
        finally:
            shutil.rmtree(path)

    def config(self, **fields):
        def change(path):
            with open(os.path.join(path, "config.json")) as f:
                c = json.load(f)
            for k, v in fields.items():
                if v is ...:
                    c.pop(k, None)
                else:
                    c[k] = v
            with open(os.path.join(path, "config.json"), "w") as f:
                json.dump(c, f)
        return self.directory(change)

    def test_truncated_gguf_files(self):
        with open(GGUF, "rb") as f:
            data = f.read()
        for n in (0, 3, 4, 8, 20, 24, 100, 1000, 30000, len(data) // 2, len(data) - 1):
            with self.subTest(bytes=n):
                self.assertIn("model.gguf", self.gguf(data[:n]))

    def test_gguf_files_of_other_versions_and_byte_orders(self):
        with open(GGUF, "rb") as f:
            data = f.read()
        for version in (0, 1, 4):
            with self.subTest(version=version):
                self.assertIn("version", self.gguf(data[:4] + struct.pack("<I", version) + data[8:]))
        self.assertIn("big-endian", self.gguf(data[:4] + struct.pack(">I", 3) + data[8:]))

    def test_gguf_files_with_random_damage_never_crash_it(self):
        """Damage to the first 60 kB (keys, tokenizer, tensor table): refused with a message, or served; never a crash."""
        with open(GGUF, "rb") as f:
            data = f.read()
        rng = random.Random(7)
        path = os.path.join(self.dir, "model.gguf")
        for _ in range(60):
            damaged = bytearray(data)
            for _ in range(rng.choice((1, 2, 8))):
                damaged[rng.randrange(8, min(60000, len(data)))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
            with open(path, "wb") as f:
                f.write(damaged)
            p = subprocess.Popen([ADAPTERD, "--model", path, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_env())
            line = p.stdout.readline()
            if line:
                p.terminate()
            _, errors = p.communicate(timeout=60)
            self.assertIn(p.returncode, (0, 1), errors[-3000:])
            if p.returncode:
                self.assertIn("adapterd: ", errors.splitlines()[-1])

    def test_configurations_that_do_not_fit(self):
        for key, value in {"model_type": "mystery", "hidden_size": 0, "num_hidden_layers": -1, "num_attention_heads": 3, "num_key_value_heads": 3, "vocab_size": 10**9,
                           "hidden_act": "relu", "rms_norm_eps": "x", "intermediate_size": 7, "max_position_embeddings": 0}.items():
            with self.subTest(key=key):
                self.assertIn("model", self.config(**{key: value}))
        self.assertIn("hidden_size", self.config(hidden_size=...))

    def test_directories_with_parts_missing(self):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            with self.subTest(name=name):
                self.assertIn(name, self.directory(lambda path: os.unlink(os.path.join(path, name))))

    def test_truncated_parts(self):
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            with self.subTest(name=name):
                self.assertIn(name, self.directory(lambda path: os.truncate(os.path.join(path, name), os.path.getsize(os.path.join(path, name)) // 2)))
