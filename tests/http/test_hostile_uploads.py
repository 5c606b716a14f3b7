# SPDX-License-Identifier: MIT
"""Uploads that nobody should send: each gets its status code and a message, and changes nothing."""
import gzip
import io
import json
import os
import re
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


def raw_entry(text):
    """The header with one more entry, written as it is."""
    return pack(json.dumps(HEADER).encode()[:-1] + b"," + text + b"}")


BEGIN, END = HEADER[FIRST]["data_offsets"]
LAST = max(HEADER, key=lambda k: HEADER[k]["data_offsets"])
EMPTY = b'"%s":{"dtype":"F32","shape":[0],"data_offsets":[' + b"%d,%d]}" % (len(DATA), len(DATA))

# The rules of the format, in the order of the reference's list: what is sent, and what the message says of it, so that no other rule hides that one is gone.
SAFETENSORS = {
    "shorter than its length field": (b"1234567", "7 bytes are too few"),
    "empty": (b"", "0 bytes are too few"),
    "header longer than the file": (struct.pack("<Q", len(WEIGHTS)) + WEIGHTS[8:], "its header says it has"),
    "header length over the limit": (struct.pack("<Q", 100_000_001) + WEIGHTS[8:], "its header says it has 100000001 bytes"),
    "header length that overflows": (struct.pack("<Q", 2**64 - 1) + WEIGHTS[8:], "its header says it has 18446744073709551615 bytes"),
    "header that is no UTF-8": (pack(b'{"\xff": 1}'), "unable to decode byte 0xff"),
    "header that is no object": (pack(b"[]"), "the header must be a JSON object"),
    "header that is no JSON": (pack(b"x" + json.dumps(HEADER).encode()), "header, byte 1"),
    "two objects": (pack(json.dumps(HEADER).encode() + b"{}"), "end of file expected"),
    "header with NUL behind it": (pack(json.dumps(HEADER).encode() + b"\0"), "end of file expected"),
    "header that is cut": (pack(json.dumps(HEADER).encode()[:-1]), "expected near end of file"),
    "duplicate keys": (raw_entry(EMPTY % b"twice" + b"," + EMPTY % b"twice"), "duplicate"),
    "duplicate keys in a header with escapes": (raw_entry(EMPTY % b"tw\\u0069ce" + b"," + EMPTY % b"twice"), "duplicate object key"),
    "duplicate keys in an entry": (raw_entry(b'"e":{"dtype":"F32","dtype":"F32","shape":[0],"data_offsets":[0,0]}'), "duplicate object key"),
    "NUL in a name": (raw_entry(EMPTY % b"a\\u0000b"), "NUL byte in object key"),
    "half a surrogate pair": (raw_entry(EMPTY % b"\\ud800"), "invalid Unicode"),
    "nesting without end": (pack(b'{"a":' * 5000), "maximum parsing depth"),
    "metadata that is no object": (pack({"__metadata__": [], **HEADER}), "__metadata__ must be an object"),
    "metadata with a number": (pack({"__metadata__": {"a": 1}, **HEADER}), "__metadata__ a must be a string"),
    "entry that is no object": (pack({**HEADER, FIRST: []}), "must have exactly dtype, shape and data_offsets"),
    "entry without dtype": (pack({**HEADER, FIRST: {k: v for k, v in HEADER[FIRST].items() if k != "dtype"}}), "must have exactly dtype, shape and data_offsets"),
    "entry with a fourth key": (with_entry(strides=[1, 1]), "must have exactly dtype, shape and data_offsets"),
    "unknown dtype": (with_entry(dtype="F31"), "has dtype F31"),
    "shape that is no list": (with_entry(shape=4), "must have exactly dtype, shape and data_offsets"),
    "negative dimension": (with_entry(shape=[-1, 4]), "its shape must hold non-negative integers"),
    "dimension that is a real": (with_entry(shape=[4.0, 4]), "its shape must hold non-negative integers"),
    "nine dimensions": (with_entry(shape=[1] * 7 + HEADER[FIRST]["shape"]), "has more than 8 dimensions"),
    "product that overflows": (with_entry(shape=[2, 18446744073709551614]), "too big integer"),
    "product past the signed limit": (with_entry(shape=[2, 9223372036854775807]), "its size overflows"),
    "bytes past the signed limit": (with_entry(shape=[2**61]), "its size overflows"),
    "three offsets": (with_entry(data_offsets=[BEGIN, END, END]), "data_offsets must be two non-negative integers"),
    "negative offset": (with_entry(data_offsets=[-4, END]), "data_offsets must be two non-negative integers"),
    "offset that is a real": (with_entry(data_offsets=[float(BEGIN), END]), "data_offsets must be two non-negative integers"),
    "offset that is past 63 bits": (with_entry(data_offsets=[BEGIN, 2**63]), "too big integer"),
    "end before begin": (with_entry(data_offsets=[END, BEGIN]), f"data_offsets span -{END - BEGIN} bytes"),
    "span that is not the shape's": (with_entry(data_offsets=[BEGIN, END - 4]), f"data_offsets span {END - BEGIN - 4} bytes"),
    "overlap": (with_entry(data_offsets=[BEGIN + 4, END + 4]), "a hole or an overlap"),
    "two names for the same bytes": (pack({**HEADER, "alias": HEADER[FIRST]}), "a hole or an overlap"),
    "hole": (pack({k: ({**v, "data_offsets": [x + 16 for x in v["data_offsets"]]} if k != FIRST else v) for k, v in HEADER.items()}, DATA + bytes(16)), "a hole or an overlap"),
    "trailing bytes": (pack(HEADER, DATA + b"PK\3\4"), "4 bytes follow the last tensor"),
    "data that is cut": (pack(HEADER, DATA[:-1]), "the file ends inside tensor"),
    "a value that is infinite": (pack(HEADER, struct.pack("<f", float("inf")) + DATA[4:]), "holds a value that is not finite"),
    "a value that is no number": (pack(HEADER, struct.pack("<f", float("nan")) + DATA[4:]), "holds a value that is not finite"),
    "a tensor that is missing": (pack({k: v for k, v in HEADER.items() if k != LAST}, DATA[:HEADER[LAST]["data_offsets"][0]]), "lora_B"),
    "an unknown tensor": (raw_entry(EMPTY % b"base_model.model.lm_head.surprise"), "is nothing that is known of a LoRA adapter"),
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


def tar_link():
    """A hard link with data behind it, which pax allows."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as t:
        for name, data, kind in GOOD:
            info = tarfile.TarInfo(name)
            info.size, info.pax_headers = len(data), {"comment": "pax"}
            if name == "adapter_model.safetensors":
                info.type, info.linkname = tarfile.LNKTYPE, "adapter_config.json"
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


def zip_link():
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as z:
        for name, data, _ in GOOD:
            z.writestr(name, data)
        link = zipfile.ZipInfo("link")
        link.create_system, link.external_attr = 3, 0o120777 << 16
        z.writestr(link, "/etc/passwd")
    return out.getvalue()


GOOD = [("adapter_config.json", CONFIG, None), ("adapter_model.safetensors", WEIGHTS, None)]

OUT, ODD, MUCH = "the name leads out of the archive", "neither a regular file nor a directory", "unpacks to more than"

# (archive, its status, what the message says of it)
ARCHIVES = {
    "no archive": (b"this is no archive", 422, "Unrecognized archive format"),
    "empty": (b"", 422, "it is empty"),
    "tar that is cut": (tar_with(*GOOD)[:1500], 422, "Truncated tar archive"),
    "gzip that is cut": (tar_with(*GOOD, mode="w:gz")[:-30], 422, "its gzip data is truncated"),
    "gzip that is damaged": (tar_with(*GOOD, mode="w:gz")[:-8] + b"12345678", 422, "its gzip data is damaged"),
    "bzip2": (tar_with(*GOOD, mode="w:bz2"), 422, "Unrecognized archive format"),
    "traversal in a tar": (tar_with(*GOOD, ("../../evil", b"x", None)), 422, OUT),
    "traversal in the middle": (tar_with(*GOOD, ("a/../../evil", b"x", None)), 422, OUT),
    "absolute name in a tar": (tar_with(*GOOD, ("/tmp/evil", b"x", None)), 422, OUT),
    "traversal in a zip": (zip_with(("adapter_config.json", CONFIG), ("adapter_model.safetensors", WEIGHTS), ("../evil", b"x")), 422, OUT),
    "traversal by backslashes": (zip_with(*[g[:2] for g in GOOD], ("..\\evil", b"x")), 422, OUT),
    "symbolic link": (tar_with(*GOOD, ("link", "/etc/passwd", tarfile.SYMTYPE)), 422, ODD),
    "symbolic link in place of the weights": (tar_with(GOOD[0], ("adapter_model.safetensors", "/etc/passwd", tarfile.SYMTYPE)), 422, ODD),
    "symbolic link in a zip": (zip_link(), 422, ODD),
    "hard link": (tar_with(*GOOD, ("link", "adapter_config.json", tarfile.LNKTYPE)), 422, ODD),
    "hard link with bytes of its own": (tar_link(), 422, ODD),
    "device": (tar_with(*GOOD, ("null", "", tarfile.CHRTYPE)), 422, ODD),
    "fifo": (tar_with(*GOOD, ("fifo", "", tarfile.FIFOTYPE)), 422, ODD),
    "the same file twice": (tar_with(*GOOD, GOOD[0]), 422, "there is a second adapter_config.json"),
    "two adapters": (tar_with(*[("a/" + n, d, k) for n, d, k in GOOD], *[("b/" + n, d, k) for n, d, k in GOOD]), 422, "stand in two folders"),
    "pickle": (tar_with(GOOD[0], ("adapter_model.bin", b"\x80\x04", None)), 422, "pickle"),
    "bomb by ratio": (zip_with(("adapter_config.json", CONFIG), ("adapter_model.safetensors", bytes(8_000_000))), 413, MUCH),
    "bomb among what is skipped": (zip_with(*[g[:2] for g in GOOD], ("notes.txt", bytes(20_000_000))), 413, MUCH),
    "bomb by size": (tar_with(GOOD[0], ("adapter_model.safetensors", bytes(40_000_000), None), mode="w:gz"), 413, MUCH),
    "bomb behind the end of a tar": (gzip.compress(tar_with(*GOOD) + bytes(40_000_000)), 413, MUCH),
    "too many entries": (tar_with(*GOOD, *[(f"f{i}", b"", None) for i in range(1200)]), 413, "more than 1000 entries"),
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
        for what, (weights, words) in SAFETENSORS.items():
            with self.subTest(what):
                status, e = self.d.upload("x", (CONFIG, weights))
                self.assertEqual(status, 422, e)
                self.assertRegex(e["error"]["message"], f"adapter_model.safetensors.*{re.escape(words)}")
                self.assertNotIn(self.state, json.dumps(e))
                self.assertFalse(e["report"]["admitted"])

    def test_archives_that_are_traps_are_refused(self):
        for what, (data, want, words) in ARCHIVES.items():
            with self.subTest(what):
                status, e = self.d.send("/v1/adapters", [("name", None, b"x"), ("archive", "a", data)])
                self.assertEqual(status, want, e)
                self.assertIn(words, e["error"]["message"])
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
        self.assertEqual(status, 413, e)

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
