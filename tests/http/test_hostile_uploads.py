# SPDX-License-Identifier: MIT
"""Uploads that nobody should send: each gets its status code and a message, and changes nothing."""
import io
import json
import os
import socket
import struct
import tarfile
import tempfile
import time
import unittest
import zipfile

from daemon import PATIENCE, wait_until
from registry_util import BASE, Registry, make_adapter, multipart, parts_of

CONFIG, WEIGHTS = make_adapter(1)
N = struct.unpack("<Q", WEIGHTS[:8])[0]
HEADER, DATA = json.loads(WEIGHTS[8:8 + N]), WEIGHTS[8 + N:]
FIRST = next(iter(HEADER))


def pack(header, data=DATA):
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(head)) + head + data


def with_entry(**change):
    return pack({**HEADER, FIRST: {**HEADER[FIRST], **change}})


def without(key):
    return pack({k: v for k, v in HEADER.items() if k != key})


BEGIN, END = HEADER[FIRST]["data_offsets"]

# The rules of the format, in the order of the reference's list: what is sent, and what the message must name.
SAFETENSORS = {
    "shorter than its length field": b"1234567",
    "empty": b"",
    "header longer than the file": struct.pack("<Q", len(WEIGHTS)) + WEIGHTS[8:],
    "header length over the limit": struct.pack("<Q", 100_000_001) + WEIGHTS[8:],
    "header length that overflows": struct.pack("<Q", 2**64 - 1) + WEIGHTS[8:],
    "header that is no UTF-8": pack(b'{"\xff": 1}'),
    "header that is no object": pack(b"[]"),
    "two objects": pack(json.dumps(HEADER).encode() + b"{}"),
    "header that is cut": pack(json.dumps(HEADER).encode()[:-1]),
    "duplicate keys": pack(json.dumps(HEADER).encode()[:-1] + b',"' + FIRST.encode() + b'":' + json.dumps(HEADER[FIRST]).encode() + b"}"),
    "NUL in a name": pack(json.dumps({**HEADER, "a\0b": HEADER[FIRST]}).encode()),
    "metadata that is no object": pack({"__metadata__": [], **HEADER}),
    "metadata with a number": pack({"__metadata__": {"a": 1}, **HEADER}),
    "entry without dtype": pack({**HEADER, FIRST: {k: v for k, v in HEADER[FIRST].items() if k != "dtype"}}),
    "unknown dtype": with_entry(dtype="F31"),
    "shape that is no list": with_entry(shape=4),
    "negative dimension": with_entry(shape=[-1, 4]),
    "dimension that is a real": with_entry(shape=[4.0, 4]),
    "product that overflows": with_entry(shape=[2, 18446744073709551614]),
    "product past the signed limit": with_entry(shape=[2, 9223372036854775807]),
    "three offsets": with_entry(data_offsets=[BEGIN, END, END]),
    "negative offset": with_entry(data_offsets=[-4, END]),
    "end before begin": with_entry(data_offsets=[END, BEGIN]),
    "span that is not the shape's": with_entry(data_offsets=[BEGIN, END - 4]),
    "overlap": pack({**HEADER, FIRST: {**HEADER[FIRST], "data_offsets": [BEGIN + 4, END + 4]}}),
    "hole": pack({k: ({**v, "data_offsets": [x + 16 for x in v["data_offsets"]]} if k != FIRST else v) for k, v in HEADER.items()}, DATA + bytes(16)),
    "trailing bytes": pack(HEADER, DATA + b"PK\3\4"),
    "data that is cut": pack(HEADER, DATA[:-1]),
    "a value that is infinite": pack(HEADER, struct.pack("<f", float("inf")) + DATA[4:]),
    "a value that is no number": pack(HEADER, struct.pack("<f", float("nan")) + DATA[4:]),
    "a tensor that is missing": without(FIRST),
    "an unknown tensor": pack(json.dumps({**HEADER, "base_model.model.lm_head.surprise": {"dtype": "F32", "shape": [0], "data_offsets": [len(DATA), len(DATA)]}}).encode()),
}


def tar_with(*members, mode="w"):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as t:
        for name, data, kind in members:
            info = tarfile.TarInfo(name)
            if isinstance(data, bytes):
                info.size = len(data)
                t.addfile(info, io.BytesIO(data))
            else:
                info.type, info.linkname = kind, data
                t.addfile(info)
    return out.getvalue()


def zip_with(*members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, data in members:
            z.writestr(name, data)
    return out.getvalue()


GOOD = [("adapter_config.json", CONFIG, None), ("adapter_model.safetensors", WEIGHTS, None)]

# (archive, statuses that are right)
ARCHIVES = {
    "no archive": (b"this is no archive", {400, 422}),
    "empty": (b"", {400, 422}),
    "tar that is cut": (tar_with(*GOOD)[:1500], {400, 422}),
    "gzip that is cut": (tar_with(*GOOD, mode="w:gz")[:-30], {400, 422}),
    "traversal in a tar": (tar_with(*GOOD, ("../../evil", b"x", None)), {400, 422}),
    "absolute name in a tar": (tar_with(*GOOD, ("/tmp/evil", b"x", None)), {400, 422}),
    "traversal in a zip": (zip_with(("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS), ("../evil", b"x")), {400, 422}),
    "symbolic link": (tar_with(*GOOD, ("link", "/etc/passwd", tarfile.SYMTYPE)), {400, 422}),
    "symbolic link in place of the weights": (tar_with(GOOD[0], ("adapter_model.safetensors", "/etc/passwd", tarfile.SYMTYPE)), {400, 422}),
    "hard link": (tar_with(*GOOD, ("link", "adapter_config.json", tarfile.LNKTYPE)), {400, 422}),
    "device": (tar_with(*GOOD, ("null", "", tarfile.CHRTYPE)), {400, 422}),
    "fifo": (tar_with(*GOOD, ("fifo", "", tarfile.FIFOTYPE)), {400, 422}),
    "the same file twice": (tar_with(*GOOD, GOOD[0]), {400, 422}),
    "two adapters": (tar_with(*[("a/" + n, d, k) for n, d, k in GOOD], *[("b/" + n, d, k) for n, d, k in GOOD]), {400, 422}),
    "pickle": (tar_with(GOOD[0], ("adapter_model.bin", b"\x80\x04", None)), {400, 422}),
    "bomb by ratio": (zip_with(("adapter_config.json", CONFIG), ("adapter_model.safetensors", bytes(8_000_000))), {400, 413, 422}),
    "bomb by size": (tar_with(GOOD[0], ("adapter_model.safetensors", bytes(40_000_000), None), mode="w:gz"), {400, 413, 422}),
    "too many entries": (tar_with(*GOOD, *[(f"f{i}", b"", None) for i in range(1200)]), {400, 413, 422}),
}


class HostileUploads(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.tmp = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        cls.state = os.path.join(cls.tmp.name, "state")
        cls.d = Registry(BASE, "--served-name", "base", "--threads", "1", "--state-dir", cls.state, "--max-adapter-bytes", "20M", log_level="error")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        cls.tmp.cleanup()

    def tearDown(self):
        left = lambda: os.listdir(os.path.join(self.state, "incoming")) + [f for _, _, fs in os.walk(os.path.join(self.state, "blobs")) for f in fs]
        wait_until(lambda: not left(), lambda: f"{left()} gone")
        self.assertEqual(self.d.names(), [])
        self.assertFalse(os.path.exists("/tmp/evil") or os.path.exists(os.path.join(self.tmp.name, "evil")))
        self.assertEqual(self.d.post({"model": "x", "prompt": "x"})[0], 404)

    def test_every_rule_of_safetensors_is_kept(self):
        for what, weights in SAFETENSORS.items():
            with self.subTest(what):
                status, e = self.d.upload("x", (CONFIG, weights))
                self.assertEqual(status, 422, e)
                self.assertIn("adapter_model.safetensors", e["error"]["message"])
                self.assertNotIn(self.state, json.dumps(e))
                self.assertFalse(e["report"]["admitted"])

    def test_archives_that_are_traps_are_refused(self):
        for what, (data, right) in ARCHIVES.items():
            with self.subTest(what):
                status, e = self.d.send("/v1/adapters", [("name", None, b"x"), ("archive", "a", data)])
                self.assertIn(status, right, e)
                self.assertTrue(e["error"]["message"])
                self.assertNotIn(self.state, json.dumps(e))

    def test_configurations_that_are_wrong_are_refused(self):
        good = json.loads(CONFIG)
        for change in ({"peft_type": "LOHA"}, {"r": 0}, {"r": 10**9}, {"lora_alpha": "x"}, {"target_modules": "(" * 1000}, {"target_modules": "(a+)+$"}, {"target_modules": []},
                       {"init_lora_weights": "pissa"}, {"rank_pattern": {"x": -1}}, {"alora_invocation_tokens": [1]}, {"layers_to_transform": [-1]}):
            with self.subTest(change):
                self.assertEqual(self.d.upload("x", (json.dumps({**good, **change}).encode(), WEIGHTS))[0], 422)
        for raw in (b"", b"[]", b"null", b"\xff", b"{" * 100000, b'{"r":1,"r":2}', b'{"a":' * 5000):
            with self.subTest(raw[:20]):
                self.assertEqual(self.d.upload("x", (raw, WEIGHTS))[0], 422)

    def test_forms_that_are_wrong_are_refused(self):
        files = [("config", "c", CONFIG), ("weights", "w", WEIGHTS)]
        for what, parts, want in (
            ("no name", files, 400), ("no files", [("name", None, b"x")], 400), ("only a configuration", [("name", None, b"x"), files[0]], 400),
            ("a field twice", [("name", None, b"x"), ("name", None, b"y"), *files], 400), ("an unknown field", [("name", None, b"x"), ("surprise", None, b"y"), *files], 400),
            ("archive and weights", [("name", None, b"x"), *files, ("archive", "a", b"x")], 400), ("labels that are no object", [("name", None, b"x"), ("labels", None, b"[]"), *files], 400),
            ("sha256 of wrong form", [("name", None, b"x"), ("sha256", None, b"abc"), *files], 400), ("sha256 of other bytes", [("name", None, b"x"), ("sha256", None, b"0" * 64), *files], 422),
            ("activate that is neither", [("name", None, b"x"), ("activate", None, b"maybe"), *files], 400), ("a bad name", [("name", None, b"../x"), *files], 400),
            ("a long name", [("name", None, b"x" * 129), *files], 400), ("a self-test that is none", [("name", None, b"x"), ("selftest", None, b"{"), *files], 400),
            ("a name that is no text", [("name", None, b"\xff"), *files], 400), ("a name with a NUL", [("name", None, b"x\0y"), *files], 400),
        ):
            with self.subTest(what):
                status, e = self.d.send("/v1/adapters", parts)
                self.assertEqual(status, want, e)

    def test_files_that_are_too_large_are_refused(self):
        status, e = self.d.upload("x", (CONFIG, bytes(21 << 20)))
        self.assertEqual(status, 413, e)
        status, e = self.d.upload("x", (bytes(3 << 20), WEIGHTS))
        self.assertIn(status, (400, 413), e)

    def test_bodies_of_other_types_are_refused(self):
        for kind in ("text/plain", "multipart/mixed; boundary=x", "application/x-www-form-urlencoded"):
            self.assertEqual(self.d.call("POST", "/v1/adapters", b"x", {"Content-Type": kind})[0], 415, kind)
        for kind in ("multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=" + "x" * 71):
            self.assertEqual(self.d.call("POST", "/v1/adapters", b"x", {"Content-Type": kind})[0], 400, kind)

    def head(self, length):
        kind, body = multipart(parts_of((CONFIG, WEIGHTS), name="x"))
        return f"POST /v1/adapters HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: {length(body)}\r\nConnection: close\r\n\r\n".encode(), body

    def test_a_body_that_ends_too_early_changes_nothing(self):
        head, body = self.head(lambda b: len(b))
        for part in (0, 10, 500, len(body) // 2, len(body) - 1):
            s = socket.create_connection((self.d.host, self.d.port), timeout=PATIENCE)
            s.sendall(head + body[:part])
            time.sleep(0.05)
            s.close()
        head, body = self.head(lambda b: len(b) - 30)  # the closing boundary is missing
        answer = self.d.raw(head + body[:-30])
        self.assertTrue(answer.startswith(b"HTTP/1.1 400"), answer[:100])

    def test_a_body_that_trickles_is_given_up(self):
        head, body = self.head(lambda b: len(b))
        s = socket.create_connection((self.d.host, self.d.port), timeout=PATIENCE)
        s.sendall(head)
        begin, answer = time.monotonic(), b""
        s.settimeout(0.2)
        while not answer and time.monotonic() - begin < 40:
            try:
                s.sendall(body[:1])
                answer = s.recv(65536)
            except TimeoutError:
                pass
        s.close()
        self.assertTrue(answer.startswith(b"HTTP/1.1 408"), answer[:100])


if __name__ == "__main__":
    unittest.main()
