# SPDX-License-Identifier: MIT
"""Uploads: what is kept of a multipart body, every way it is refused, and that nothing stays on disk."""
import concurrent.futures
import hashlib
import json
import os
import random
import resource
import shutil
import socket
import tempfile
import time
import unittest

from daemon import PATIENCE, wait_until
from upload_daemon import UploadDaemon

MAX = 3_000_000
WINDOW = "60000"  # ms, in each of which a body brings 4 KiB a second
CONFIG = b'{"r":8}'
WEIGHTS = random.Random(1).randbytes(1_000_000)


def part(name, data, file=False, type=None):
    head = f'Content-Disposition: form-data; name="{name}"' + (f'; filename="{name}.x"' if file else "") + (f"\r\nContent-Type: {type}" if type else "")
    return b"--XyZ\r\n" + head.encode() + b"\r\n\r\n" + data + b"\r\n"


def form(*parts):
    return b"".join(parts) + b"--XyZ--\r\n"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


CONFIG_PART, WEIGHTS_PART = part("config", CONFIG, True), part("weights", WEIGHTS, True, "application/octet-stream")
TYPE = {"Content-Type": "multipart/form-data; boundary=XyZ"}


class UploadCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp()
        cls.d = UploadDaemon(WINDOW, str(MAX), cls.dir)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        shutil.rmtree(cls.dir)

    def tearDown(self):
        wait_until(lambda: not self.pending() and not os.listdir(os.path.join(self.dir, "incoming")), "nothing is left")

    def wait_until_less_than(self, n):
        wait_until(lambda: self.pending() < n, f"less than {n} are pending")

    def pending(self):
        return self.d.get("/counts")[1]["pending"]

    def upload(self, *parts, headers=TYPE, body=None):
        status, headers, reply = self.d.request("POST", "/upload", form(*parts) if body is None else body, headers)
        reply = json.loads(reply)
        return status, reply if status == 200 else {**reply["error"], "retry": headers["Retry-After"]}

    def refused(self, status, says, *parts, **more):
        got, error = self.upload(*parts, **more)
        self.assertEqual(got, status, error)
        self.assertIn(says, error["message"])
        return error

    def head(self, length, extra=b""):
        return b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: %d\r\n" % length + extra + b"\r\n"

    def connect(self):
        return socket.create_connection((self.d.host, self.d.port), timeout=PATIENCE)


class Kept(UploadCase):
    def test_config_and_weights_in_any_order(self):
        for parts in ((CONFIG_PART, WEIGHTS_PART), (WEIGHTS_PART, CONFIG_PART)):
            status, u = self.upload(*parts)
            self.assertEqual(status, 200, u)
            self.assertEqual(u["files"], {"adapter_config.json": len(CONFIG), "adapter_model.safetensors": len(WEIGHTS)})
            self.assertEqual((u["weights"], u["bytes"], u["is_archive"], u["activate"]), (sha256(WEIGHTS), len(CONFIG) + len(WEIGHTS), False, True))
            self.assertEqual([u[k] for k in ("name", "description", "labels", "selftest", "signature", "sha256")], [None] * 5 + [""])

    def test_gguf_and_archive(self):
        status, u = self.upload(part("gguf", WEIGHTS, True))
        self.assertEqual((status, u["files"], u["weights"], u["is_archive"]), (200, {"adapter.gguf": len(WEIGHTS)}, sha256(WEIGHTS), False))
        status, u = self.upload(part("archive", WEIGHTS, True), part("sha256", sha256(b"what is inside").encode()))
        self.assertEqual((status, u["files"], u["is_archive"], u["sha256"]), (200, {"archive": len(WEIGHTS)}, True, sha256(b"what is inside")))

    def test_every_field(self):
        fields = {"name": "sql/é", "description": "two\r\nlines", "labels": '{"team": "a", "x": ""}', "selftest": '[{"prompt":"a"}]', "signature": "untrusted comment: x\nRU..", "sha256": sha256(WEIGHTS)}
        parts = [part(k, v.encode()) for k, v in fields.items()]
        status, u = self.upload(*parts[:3], CONFIG_PART, part("activate", b"false"), *parts[3:5], WEIGHTS_PART, parts[5])
        self.assertEqual(status, 200, u)
        self.assertEqual({k: u[k] for k in fields}, fields)
        self.assertFalse(u["activate"])

    def test_a_digest_is_checked_while_the_weights_come_or_left_to_the_owner(self):
        sha = part("sha256", sha256(WEIGHTS).encode())
        for parts, checked in (((sha, CONFIG_PART, WEIGHTS_PART), True), ((CONFIG_PART, WEIGHTS_PART, sha), False), ((sha, part("gguf", WEIGHTS, True)), True), ((sha, part("archive", WEIGHTS, True)), False)):
            status, u = self.upload(*parts)
            self.assertEqual((status, u["sha256"], u["sha256_checked"]), (200, sha256(WEIGHTS), checked))

    def test_fields_that_may_be_files(self):
        status, u = self.upload(CONFIG_PART, WEIGHTS_PART, part("signature", b"s", True), part("labels", b"{}", True), part("selftest", b"x" * 1_000_000, True))
        self.assertEqual((status, u["signature"], u["labels"], len(u["selftest"])), (200, "s", "{}", 1_000_000))

    def test_empty_files(self):
        status, u = self.upload(part("config", b"", True), part("weights", b"", True))
        self.assertEqual((status, u["files"], u["weights"]), (200, {"adapter_config.json": 0, "adapter_model.safetensors": 0}, sha256(b"")))

    def test_digests_may_be_upper_case(self):
        self.assertEqual(self.upload(CONFIG_PART, WEIGHTS_PART, part("sha256", sha256(WEIGHTS).upper().encode()))[0], 200)

    def test_sizes_around_the_buffers(self):
        for n in (65535, 65536, 65537, 262143, 262144, 262145, 524288, 600000):
            data = WEIGHTS[:n]
            status, u = self.upload(part("weights", data, True), CONFIG_PART)
            self.assertEqual((status, u["weights"], u["files"]["adapter_model.safetensors"]), (200, sha256(data), n))

    def test_a_body_in_small_pieces(self):
        body = form(CONFIG_PART, part("weights", WEIGHTS[:20_000], True))
        for piece in (1, 7, 1000):
            s = self.connect()
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            s.sendall(self.head(len(body)))
            for i in range(0, len(body), piece):
                s.sendall(body[i:i + piece])
            self.assertIn(sha256(WEIGHTS[:20_000]).encode(), s.recv(65536))
            s.close()

    def test_several_on_one_connection(self):
        body = form(CONFIG_PART, WEIGHTS_PART)
        out = self.d.raw((self.head(len(body)) + body) * 2 + self.head(len(body), b"Connection: close\r\n") + body)
        self.assertEqual((out.count(b"HTTP/1.1 200 OK"), out.count(sha256(WEIGHTS).encode())), (3, 3))

    def test_many_at_once_do_not_mix(self):
        def one(i):
            data = random.Random(i).randbytes(200_000 + i * 1000)
            return self.upload(CONFIG_PART, part("weights", data, True))[1].get("weights") == sha256(data)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            self.assertEqual(list(pool.map(one, range(32))), [True] * 32)

    def test_the_largest_adapter_and_not_a_byte_more(self):
        room = MAX - len(CONFIG)
        self.assertEqual(self.upload(CONFIG_PART, part("weights", bytes(room), True))[0], 200)
        self.refused(413, "larger than 3000000 bytes together", CONFIG_PART, part("weights", bytes(room + 1), True))


class Refused(UploadCase):
    def test_other_content_types(self):
        self.refused(415, "must be multipart/form-data", headers={"Content-Type": "application/json"}, body=b"{}")
        self.refused(415, "must be multipart/form-data", headers={}, body=b"{}")
        self.refused(400, "no boundary", headers={"Content-Type": "multipart/form-data"}, body=b"{}")

    def test_malformed_bodies(self):
        whole = form(CONFIG_PART, WEIGHTS_PART)
        self.refused(400, "closing boundary", body=whole[:-8])
        self.refused(400, "closing boundary", body=whole[:-2000])
        self.refused(400, "does not hold the boundary", body=b"nothing of the kind")
        self.refused(400, "does not hold the boundary", body=b"")
        self.refused(400, "Content-Disposition", body=b"--XyZ\r\n\r\nx\r\n--XyZ--")
        self.refused(400, "8192 bytes of headers", body=b"--XyZ\r\n" + b"A: b\r\n" * 2000)

    def test_unknown_fields_by_name(self):
        error = self.refused(400, '"wieghts"', CONFIG_PART, part("wieghts", WEIGHTS, True))
        self.assertEqual((error["code"], error["param"]), ("unknown_field", "wieghts"))
        self.refused(400, "there is no field", part("Name", b"x"))

    def test_fields_that_come_twice(self):
        for name in ("name", "labels", "sha256", "activate"):
            value = {"labels": b"{}", "sha256": sha256(b"").encode(), "activate": b"true"}.get(name, b"x")
            self.assertEqual(self.refused(400, f"{name}: it is there twice", part(name, value), part(name, value))["param"], name)
        self.refused(400, "config: it is there twice", CONFIG_PART, CONFIG_PART, WEIGHTS_PART)

    def test_files_that_do_not_go_together(self):
        archive, gguf = part("archive", b"x", True), part("gguf", b"x", True)
        for parts in ((archive, WEIGHTS_PART), (WEIGHTS_PART, archive), (CONFIG_PART, archive), (archive, gguf), (gguf, CONFIG_PART)):
            self.refused(400, "send either config and weights, or archive, or gguf", *parts)

    def test_missing_files(self):
        self.assertEqual(self.refused(400, "weights is missing", CONFIG_PART)["param"], "weights")
        self.assertEqual(self.refused(400, "config is missing", WEIGHTS_PART)["param"], "config")
        self.refused(400, "config and weights, or archive, or gguf is missing", part("name", b"x"))
        self.refused(400, "is missing", body=b"--XyZ--")

    def test_files_must_be_files_and_short_fields_not(self):
        self.refused(400, "weights: it must be a file part", CONFIG_PART, part("weights", b"adapter_model.safetensors"))
        self.refused(400, "name: it must not be a file part", part("name", b"x", True))

    def test_bad_values(self):
        for name, value, says in (("labels", b"[]", "not a JSON object of strings"), ("labels", b'{"a":1}', "not a JSON object"), ("labels", b'{"a":"b","a":"c"}', "not a JSON object"),
                                  ("labels", b"", "not a JSON object"), ("sha256", b"", "64 hex digits"), ("sha256", b"g" * 64, "64 hex digits"), ("sha256", b"a" * 65, "64 hex digits"),
                                  ("activate", b"yes", "neither true nor false"), ("activate", b"", "neither"), ("name", b"a\0b", "not UTF-8 text"), ("description", b"\xff", "not UTF-8 text")):
            error = self.refused(400, says, part(name, value), CONFIG_PART, WEIGHTS_PART)
            self.assertEqual((error["param"], error["code"]), (name, "invalid_value"))

    def test_fields_that_are_too_large(self):
        self.refused(413, "config: it is larger than 1048576 bytes", part("config", bytes(1048577), True), WEIGHTS_PART)
        self.refused(413, "description: it is larger than 65536 bytes", part("description", b"x" * 65537))
        self.refused(413, "selftest: it is larger than 1048576 bytes", part("selftest", b"x" * 1048577))

    def test_bodies_that_are_too_large(self):
        self.refused(413, "larger than 3000000 bytes", part("gguf", bytes(5_000_000), True))
        self.refused(413, "larger than this server accepts", part("gguf", bytes(8_000_000), True))
        out = self.d.raw(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nTransfer-Encoding: chunked\r\n\r\n" + b"800000\r\n" + part("gguf", bytes(0x800000), True))
        self.assertIn(b"HTTP/1.1 413 ", out)

    def test_another_digest_than_promised(self):
        error = self.refused(422, sha256(WEIGHTS), CONFIG_PART, part("sha256", sha256(b"other").encode()), WEIGHTS_PART)
        self.assertIn(sha256(b"other"), error["message"])
        self.assertEqual((error["code"], error["param"]), ("digest_mismatch", "sha256"))

    def test_before_the_client_sends_the_body(self):
        out = self.d.raw(self.head(100_000_000, b"Expect: 100-continue\r\n"))
        self.assertTrue(out.startswith(b"HTTP/1.1 413 "), out)
        body = form(CONFIG_PART, WEIGHTS_PART)
        s = self.connect()
        s.sendall(self.head(len(body), b"Expect: 100-continue\r\n"))
        self.assertEqual(s.recv(100), b"HTTP/1.1 100 Continue\r\n\r\n")
        s.sendall(body)
        self.assertIn(b"HTTP/1.1 200 OK", s.recv(65536))
        s.close()

    def test_more_than_eight_at_a_time(self):
        open_ones = []
        for _ in range(8):
            s = self.connect()
            s.sendall(self.head(1_000_000) + CONFIG_PART + WEIGHTS_PART[:100_000])
            open_ones.append(s)
        wait_until(lambda: self.pending() == 8, "eight are coming")
        error = self.refused(503, "8 uploads", CONFIG_PART, WEIGHTS_PART)
        self.assertEqual(error["retry"], "1")
        for s in open_ones:
            s.close()

    def test_broken_framing_in_the_middle(self):
        out = self.d.raw(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nTransfer-Encoding: chunked\r\n\r\n40000\r\n" + (CONFIG_PART + WEIGHTS_PART)[:0x40000] + b"\r\nzz\r\n")
        self.assertIn(b"HTTP/1.1 400 ", out)

    def test_clients_that_leave_at_any_point(self):
        body = form(CONFIG_PART, WEIGHTS_PART)
        rng = random.Random(3)
        for _ in range(100):
            self.wait_until_less_than(6)
            s = self.connect()
            s.sendall((self.head(len(body)) + body)[:rng.randrange(len(body))])
            if rng.random() < 0.5:
                time.sleep(rng.random() * 0.005)
            s.close()
        self.wait_until_less_than(8)
        self.assertEqual(self.upload(CONFIG_PART, WEIGHTS_PART)[0], 200)


class Ends(unittest.TestCase):
    def test_a_slow_body_is_408(self):
        with tempfile.TemporaryDirectory() as dir:
            d = UploadDaemon("1000", str(MAX), dir)
            s = socket.create_connection((d.host, d.port), timeout=PATIENCE)
            s.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: 1000000\r\n\r\n" + CONFIG_PART + WEIGHTS_PART[:70_000])
            self.assertIn(b"HTTP/1.1 408 ", s.recv(65536))
            s.close()
            wait_until(lambda: not os.listdir(os.path.join(dir, "incoming")), "nothing is left")
            d.stop()

    def test_a_full_disk_is_507_and_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as dir:
            d = UploadDaemon(WINDOW, str(MAX), dir)
            resource.prlimit(d.process.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
            status, _, reply = d.request("POST", "/upload", form(CONFIG_PART, WEIGHTS_PART), TYPE)
            self.assertEqual(status, 507, reply)
            self.assertIn(b"adapter_model.safetensors cannot be written", reply)
            self.assertEqual(d.request("POST", "/upload", form(CONFIG_PART, part("weights", WEIGHTS[:100_000], True)), TYPE)[0], 200)
            d.stop()
            self.assertEqual(os.listdir(os.path.join(dir, "incoming")), [])

    def test_a_directory_that_cannot_be_made_is_told_before_the_body_is_sent(self):
        with tempfile.TemporaryDirectory() as dir:
            d = UploadDaemon(WINDOW, str(MAX), dir)
            shutil.rmtree(os.path.join(dir, "incoming"))
            out = d.raw(b"POST /upload HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: 1000\r\n\r\n")
            self.assertRegex(out, rb"^HTTP/1.1 50[07] ")
            d.stop()

    def test_the_server_may_end_while_bodies_come(self):
        with tempfile.TemporaryDirectory() as dir:
            d = UploadDaemon(WINDOW, str(MAX), dir)
            conns = [socket.create_connection((d.host, d.port)) for _ in range(6)]
            for s in conns:
                s.sendall(b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XyZ\r\nContent-Length: 2000000\r\n\r\n" + CONFIG_PART + WEIGHTS_PART[:500_000])
            d.stop()
            for s in conns:
                s.close()
            self.assertEqual(os.listdir(os.path.join(dir, "incoming")), [])
