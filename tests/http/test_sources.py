# SPDX-License-Identifier: MIT
"""Adapters that come from places: allowed directories, a watched directory, https; and who vouches for them."""
import hashlib
import http.client
import http.server
import io
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tarfile
import tempfile
import threading
import time
import unittest

from daemon import fails_to_start, wait_until
from registry_util import ADAPTERS, BASE, Registry, make_adapter


def write(path, files):
    os.makedirs(path, exist_ok=True)
    for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files):
        with open(os.path.join(path, name), "wb") as f:
            f.write(data)


class Places(unittest.TestCase):
    def setUp(self):
        self.tmp = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        self.at = lambda *p: os.path.join(self.tmp.name, *p)
        self.d = None

    def start(self, *options, log_level="warn"):
        self.d = Registry(BASE, "--served-name", "base", "--threads", "1", *options, log_level=log_level)
        return self.d

    def tearDown(self):
        if self.d:
            self.d.stop()
        self.tmp.cleanup()


class Directories(Places):
    def test_a_path_under_an_allowed_root_is_copied(self):
        write(self.at("roots", "x"), make_adapter(1))
        d = self.start("--adapter-root", self.at("roots"), "--state-dir", self.at("state"))
        status, a = d.call("POST", "/v1/adapters", {"name": "x", "path": self.at("roots", "x"), "labels": {"k": "v"}})
        self.assertEqual((status, a["labels"], a["origin"], a["versions"][0]["origin"]), (201, {"k": "v"}, "path", "path"), a)
        shutil.rmtree(self.at("roots", "x"))
        d.answer("x")
        write(self.at("roots", "y"), make_adapter(2))
        self.assertEqual(d.call("POST", "/v1/adapters/x/versions", {"path": self.at("roots", "y")})[1]["version"], 2)

    def test_a_path_elsewhere_is_refused_however_it_is_written(self):
        write(self.at("secret"), make_adapter(1))
        os.makedirs(self.at("roots"))
        os.symlink(self.at("secret"), self.at("roots", "link"))
        write(self.at("roots", "files"), make_adapter(1))
        os.unlink(self.at("roots", "files", "adapter_model.safetensors"))
        os.symlink(self.at("secret", "adapter_model.safetensors"), self.at("roots", "files", "adapter_model.safetensors"))
        d = self.start("--adapter-root", self.at("roots"))
        for path in (self.at("secret"), self.at("roots", "..", "secret"), self.at("roots", "link"), self.at("roots", "files"), "roots/link", "", "/etc", self.at("roots-not")):
            status, e = d.call("POST", "/v1/adapters", {"name": "x", "path": path})
            self.assertIn(status, (400, 404), (path, e))
        self.assertEqual(d.names(), [])

    def test_the_server_may_end_while_files_are_copied(self):
        write(self.at("roots", "x"), (make_adapter(1)[0], bytes(256 << 20)))
        d = self.start("--adapter-root", self.at("roots"), "--state-dir", self.at("state"), "--drain-timeout", "0")

        def post():
            try:
                d.call("POST", "/v1/adapters", {"name": "x", "path": self.at("roots", "x")})
            except (OSError, http.client.HTTPException):
                pass  # the server left
        client = threading.Thread(target=post)
        client.start()
        wait_until(lambda: any(files for _, _, files in os.walk(self.at("state", "incoming"))), "it has begun")
        d.process.terminate()
        self.assertEqual(d.process.wait(60), 0)
        client.join()

    def test_a_path_that_leads_nowhere_is_the_clients_mistake(self):
        os.symlink("loop", self.at("loop"))
        d = self.start("--adapter-root", self.at())
        for path in (self.at("loop"), self.at("loop", "x"), self.at("x" * 300)):
            status, e = d.call("POST", "/v1/adapters", {"name": "x", "path": path})
            self.assertEqual(status, 400, (path, e))

    def test_roots_come_and_go_without_a_restart(self):
        for name in "xyz":
            write(self.at("roots", name), make_adapter(ord(name)))
        with open(self.at("conf"), "w") as f:
            f.write("\n")
        d = self.start("--config", self.at("conf"), log_level="info")
        self.assertEqual(d.call("POST", "/v1/adapters", {"name": "x", "path": self.at("roots", "x")})[0], 400)
        for i, (text, name, status) in enumerate(((f"adapter-root = {self.at('roots')}\n", "y", 201), (f"adapter-root = {self.at('roots')}\nmax-adapter-bytes = 1k\n", "z", 413), ("\n", "z", 400))):
            with open(self.at("conf"), "w") as f:
                f.write(text)
            d.process.send_signal(signal.SIGHUP)
            wait_until(lambda: d.stderr().count("reload: done") == i + 1, "a reload")
            self.assertEqual(d.call("POST", "/v1/adapters", {"name": name, "path": self.at("roots", name)})[0], status)

    def test_without_roots_no_path_is_allowed(self):
        write(self.at("x"), make_adapter(1))
        self.assertEqual(self.start().call("POST", "/v1/adapters", {"name": "x", "path": self.at("x")})[0], 400)

    def test_bodies_of_wrong_form_are_refused(self):
        d = self.start("--adapter-root", self.at())
        for body in ({}, {"name": "x"}, {"path": "/x"}, {"name": "x", "path": "/x", "url": "https://x/"}, {"name": "x", "path": "/x", "surprise": 1}, {"name": 1, "path": "/x"},
                     {"name": "x", "path": "/x", "sha256": "zz"}, {"name": "x", "path": "/x", "labels": []}, {"name": "x", "path": "/x", "activate": "yes"}, {"name": "x" * 200, "path": "/x"},
                     {"name": "x", "path": "/x", "selftest": 1}, {"name": "x", "path": "/x", "selftest": []}, {"name": "x", "path": "/x", "signature": {}}, {"name": "x", "path": "/x", "description": 1},
                     {"name": "x", "path": "/x", "url": 1}):
            self.assertEqual(d.call("POST", "/v1/adapters", body)[0], 400, body)
        self.assertEqual(d.call("POST", "/v1/adapters", b"[1]", {"Content-Type": "application/json"})[0], 400)
        self.assertEqual(d.call("POST", "/v1/adapters", b"x", {"Content-Type": "text/plain"})[0], 415)

    def test_a_url_needs_an_allowed_host(self):
        d = self.start("--source-host", "models.example.com")
        for url in ("https://127.0.0.1/x.tar", "http://models.example.com/x.tar", "file:///etc/passwd", "https://example.com/x.tar", "https://models.example.com@127.0.0.1/", "x"):
            status, e = d.call("POST", "/v1/adapters", {"name": "x", "url": url})
            self.assertEqual(status, 400, (url, e))

    def test_a_server_that_cannot_be_reached_is_a_bad_gateway(self):
        with socket.create_server(("127.0.0.1", 0)) as s:
            host = f"127.0.0.1:{s.getsockname()[1]}"  # nobody listens there any longer
        status, e = self.start("--source-host", host).call("POST", "/v1/adapters", {"name": "x", "url": f"https://{host}/x.tar"})
        self.assertEqual(status, 502, e)


class SourceHandler(http.server.BaseHTTPRequestHandler):
    """Files by path; /to?URL leads there; /endless and /huge never stop."""
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes out as one

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def flood(self, header, begin, end):
        self.send_response(200)
        self.send_header(*header)
        self.end_headers()
        while True:
            self.wfile.write(begin + bytes(65536) + end)

    def do_GET(self):
        self.server.asked.append(self.path)
        try:
            self.serve(*self.path.partition("?")[::2])
        except OSError:
            self.close_connection = True  # the reader has had enough

    def serve(self, path, query):
        if path == "/to":
            self.answer(302, Location=query)
        elif path == "/huge":
            self.flood(("Content-Length", str(1 << 40)), b"", b"")
        elif path == "/endless":
            self.flood(("Transfer-Encoding", "chunked"), b"10000\r\n", b"\r\n")
        elif path in self.server.files:
            self.answer(200, self.server.files[path])
        else:
            self.answer(404, b"nothing here")


def archive_of(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as t:
        for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files):
            info = tarfile.TarInfo("x/" + name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return out.getvalue()


@unittest.skipUnless(shutil.which("openssl"), "the program openssl is not installed")
class Fetched(Places):
    """Adapters over https, from a server of ours that is on the list by its address."""

    def setUp(self):
        super().setUp()
        cert = self.at("cert.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=source", "-addext",
                        "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", self.at("key.pem"), "-out", cert], check=True, capture_output=True)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(cert, self.at("key.pem"))
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SourceHandler)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        self.server.asked, self.server.files = [], {}
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.host = f"127.0.0.1:{self.server.server_port}"
        self.options = ("--source-ca", cert, "--source-host", self.host, "--max-adapter-bytes", "1M")

    def tearDown(self):
        super().tearDown()
        self.server.shutdown()
        self.server.server_close()

    def put(self, path, files):
        self.server.files.update({path + name: data for name, data in zip(("adapter_config.json", "adapter_model.safetensors"), files)})

    def fetch(self, path, name="x", **fields):
        return self.d.call("POST", "/v1/adapters", {"name": name, "url": f"https://{self.host}{path}" if path.startswith("/") else path, **fields})

    def test_folders_and_archives_are_fetched_and_served(self):
        files, other = make_adapter(1), make_adapter(2)
        self.put("/sql/", files)
        self.server.files["/sql.tar.gz"] = archive_of(other)
        d = self.start(*self.options, "--state-dir", self.at("state"))
        digests = [d.upload("u", f, query="?dry_run=true")[1]["digest"] for f in (files, other)]
        for name, path, digest in (("a", "/sql/", digests[0]), ("b", "/sql.tar.gz", digests[1]), ("c", f"/to?https://{self.host}/sql.tar.gz", digests[1])):
            status, a = self.fetch(path, name)
            self.assertEqual((status, a["digest"], a["origin"]), (201, digest, "url"), a)
            self.assertEqual(d.answer(name)[1], digest)
        self.assertEqual(self.fetch("/sql/", "a")[0], 200)  # as it was
        status, a = d.call("POST", "/v1/adapters/a/versions", {"url": f"https://{self.host}/sql.tar.gz"})
        self.assertEqual((status, a["digest"], a["version"]), (201, digests[1], 2), a)

    def test_the_weights_must_have_the_promised_digest(self):
        files = make_adapter(1)
        self.put("/sql/", files)
        self.start(*self.options)
        self.assertEqual(self.fetch("/sql/", sha256="0" * 64)[0], 422)
        self.assertEqual(self.d.names(), [])
        self.assertEqual(self.fetch("/sql/", sha256=hashlib.sha256(files[1]).hexdigest())[0], 201)

    def test_what_is_too_large_is_413_whether_it_says_so_or_not(self):
        self.put("/big/", (b"{" + b" " * (1 << 20), b"x"))
        self.start(*self.options, "--state-dir", self.at("state"))
        for path in ("/huge", "/endless", "/huge.gguf", "/big/"):
            self.server.files[path] = bytes(1 << 21)
            status, e = self.fetch(path)
            self.assertEqual(status, 413, (path, e))
            self.assertIn("over the limit of 1048576 bytes", e["error"]["message"])
        wait_until(lambda: not os.listdir(self.at("state", "incoming")), "nothing of them is left")
        self.assertEqual(self.d.names(), [])

    def test_nothing_leads_to_a_private_address_that_is_not_listed_itself(self):
        self.put("/sql/", make_adapter(1))
        port = self.server.server_port
        self.start(*self.options, "--source-host", "localhost")
        asked = [f"https://{host}:{port}/sql/" for host in ("0.0.0.0", "0", "[::]", "[::1]", "localhost", "127.0.0.2", "100.64.0.1", "169.254.169.254", "10.0.0.1", "[fe80::1]", "[::ffff:10.0.0.1]")]
        for url in (*asked, "https://localhost/sql/"):
            for path in (url, f"/to?{url}"):
                status, e = self.fetch(path)
                self.assertEqual((status, e["error"]["code"]), (400, "invalid_value"), (path, e))
        self.assertEqual({path.partition("?")[0] for path in self.server.asked}, {"/to"})
        self.assertEqual(self.d.names(), [])

    def test_what_is_not_there_and_what_is_none_have_their_own_statuses(self):
        self.server.files.update({"/x.tar": b"no archive", "/half/adapter_config.json": make_adapter(1)[0]})
        self.start(*self.options)
        for path, want in (("/nothing.tar", 404), ("/half/", 404), ("/x.tar", 422), (f"http://{self.host}/x.tar", 400), (f"/to?http://{self.host}/x.tar", 400), ("/to?file:///etc/passwd", 400)):
            status, e = self.fetch(path)
            self.assertEqual(status, want, (path, e))
        self.assertEqual(self.d.names(), [])

    def test_only_the_authorities_of_the_option_are_believed(self):
        self.put("/sql/", make_adapter(1))
        self.start("--source-host", self.host)
        status, e = self.fetch("/sql/")
        self.assertEqual((status, self.server.asked), (502, []), e)

    def test_what_a_url_asks_with_is_told_to_the_source_alone(self):
        self.put("/sql/", make_adapter(1))
        self.start(*self.options, log_level="debug")
        self.assertEqual(self.fetch("/sql/?token=s3cret")[0], 201)
        self.assertIn("/sql/adapter_config.json?token=s3cret", self.server.asked)
        status, e = self.fetch("/none?token=s3cret", "y")
        self.assertEqual(status, 404)
        for text in (str(e), str(self.d.show("x")), self.d.stderr()):
            self.assertNotIn("s3cret", text)


class Watched(Places):
    def test_a_folder_over_the_limit_is_not_served(self):
        config, weights = make_adapter(1)
        write(self.at("watch", "a"), (config, weights))
        d = self.start("--watch-dir", self.at("watch"), "--max-adapter-bytes", str(len(config) + len(weights) - 1))
        wait_until(lambda: "--max-adapter-bytes allows" in d.stderr(), "the log says so")
        self.assertEqual(d.names(), [])

    def test_bytes_on_disk_are_those_of_the_adapters_files(self):
        config, weights = make_adapter(1)
        for place in ("watch", "given"):
            write(self.at(place, "a"), (config, weights))
            with open(self.at(place, "a", "optimizer.pt"), "wb") as f:
                f.write(b"x" * 1000)
        d = self.start("--watch-dir", self.at("watch"), "--adapter", f"b={self.at('given', 'a')}")
        wait_until(lambda: d.names() == ["a", "b"], "both are served")
        for name in ("a", "b"):
            self.assertEqual(d.show(name)[1]["bytes_disk"], len(config) + len(weights))

    def test_a_folder_appears_is_served_changes_and_goes(self):
        os.makedirs(self.at("watch"))
        d = self.start("--watch-dir", self.at("watch"))
        write(self.at("watch", "w"), make_adapter(1))
        wait_until(lambda: d.names() == ["w"], "it is served")
        first = d.answer("w")[1]
        self.assertEqual(d.show("w")[1]["origin"], "watch")
        write(self.at("watch", "w"), make_adapter(2))
        wait_until(lambda: d.show("w")[1]["digest"] != first, "another is served")
        self.assertEqual(d.call("DELETE", "/v1/adapters/w")[0], 409)
        self.assertEqual(d.new_version("w", make_adapter(3))[0], 409)
        shutil.rmtree(self.at("watch", "w"))
        wait_until(lambda: d.names() == [], "it is gone")
        self.assertEqual(d.post({"model": "w", "prompt": "x"})[0], 404)

    def test_half_copied_and_broken_folders_are_not_served(self):
        config, weights = make_adapter(1)
        os.makedirs(self.at("watch", "half"))
        d = self.start("--watch-dir", self.at("watch"))
        with open(self.at("watch", "half", "adapter_config.json"), "wb") as f:
            f.write(config)
        with open(self.at("watch", "half", "adapter_model.safetensors"), "wb") as f:
            for i in range(0, len(weights), len(weights) // 8):
                f.write(weights[i:i + len(weights) // 8])
                f.flush()
                time.sleep(0.4)
                self.assertEqual(d.names(), [])
        wait_until(lambda: d.names() == ["half"], "it is served")
        write(self.at("watch", "broken"), (config, weights[:-8]))
        time.sleep(3)
        self.assertEqual(d.names(), ["half"])

    def test_a_name_that_is_taken_is_left_alone(self):
        os.makedirs(self.at("watch"))
        d = self.start("--watch-dir", self.at("watch"), "--state-dir", self.at("state"))
        digest = d.upload("a", make_adapter(1))[1]["digest"]
        write(self.at("watch", "a"), make_adapter(2))
        write(self.at("watch", "b"), make_adapter(3))
        wait_until(lambda: d.names() == ["a", "b"], "both are served")
        self.assertEqual(d.show("a")[1]["digest"], digest)
        shutil.rmtree(self.at("watch", "a"))
        time.sleep(2.5)
        self.assertEqual(d.show("a")[1]["digest"], digest)

    def test_a_folder_is_served_once_its_name_is_free(self):
        os.makedirs(self.at("watch"))
        d = self.start("--watch-dir", self.at("watch"))
        self.assertEqual(d.upload("a", make_adapter(1))[0], 201)
        self.assertEqual(d.call("PUT", "/v1/aliases/b", {"targets": [{"model": "a", "weight": 1}]})[0], 200)
        for i, name in enumerate("ab"):
            write(self.at("watch", name), make_adapter(2 + i))
        wait_until(lambda: d.stderr().count("is there already") == 2, "both are refused")
        self.assertEqual(d.call("DELETE", "/v1/aliases/b")[0], 200)
        self.assertEqual(d.call("DELETE", "/v1/adapters/a")[0], 200)
        wait_until(lambda: d.names() == ["a", "b"], "both are served")
        self.assertEqual({d.show(name)[1]["origin"] for name in "ab"}, {"watch"})
        self.assertEqual(d.stderr().count("is there already"), 2)  # said once each, however often it is looked at

    def test_a_refused_folder_that_went_is_not_served_when_its_name_is_free(self):
        os.makedirs(self.at("watch"))
        d = self.start("--watch-dir", self.at("watch"), log_level="info")
        self.assertEqual(d.upload("a", make_adapter(1))[0], 201)
        write(self.at("watch", "a"), make_adapter(2))
        wait_until(lambda: "is there already" in d.stderr(), "it is refused")
        shutil.rmtree(self.at("watch", "a"))
        write(self.at("watch", "b"), make_adapter(3))
        wait_until(lambda: d.names() == ["a", "b"], "a later one is served, so the scan has seen that the first went")
        self.assertEqual(d.call("DELETE", "/v1/adapters/a")[0], 200)
        write(self.at("watch", "c"), make_adapter(4))
        wait_until(lambda: "c" in d.names(), "it has been looked at again")
        self.assertEqual(d.names(), ["b", "c"])
        self.assertEqual(d.stderr().count("/a: not served"), 1)

    def test_a_folder_with_the_base_models_name_is_not_served(self):
        write(self.at("watch", "base"), make_adapter(1))
        write(self.at("watch", "other"), make_adapter(2))
        d = self.start("--watch-dir", self.at("watch"))
        wait_until(lambda: d.names(), "one is served")
        write(self.at("watch", "third"), make_adapter(3))
        wait_until(lambda: "third" in d.names(), "it has been looked at again")
        self.assertEqual(d.names(), ["other", "third"])
        self.assertEqual(d.stderr().count("the name of the base model"), 1)
        self.assertEqual(d.post({"model": "base", "prompt": "x", "max_tokens": 1})[0], 200)


@unittest.skipUnless(shutil.which("minisign"), "the program minisign is not installed")
class Signatures(Places):
    def setUp(self):
        super().setUp()
        self.keys = [self.key(i) for i in range(2)]

    def key(self, i):
        subprocess.run(["minisign", "-G", "-W", "-f", "-p", self.at(f"{i}.pub"), "-s", self.at(f"{i}.key")], check=True, capture_output=True)
        return self.at(f"{i}.pub"), self.at(f"{i}.key")

    def sign(self, digest, key, comment="sql for customers"):
        with open(self.at("digest"), "w") as f:
            f.write(digest + "\n")
        subprocess.run(["minisign", "-S", "-W", "-s", key, "-m", self.at("digest"), "-x", self.at("sig"), "-t", comment], check=True, capture_output=True)
        with open(self.at("sig")) as f:
            return f.read()

    def digest_of(self, d, files):
        return d.upload("x", files, query="?dry_run=true")[1]["digest"]

    def test_what_a_trusted_key_signed_is_admitted_when_signatures_are_required(self):
        files = make_adapter(1)
        d = self.start()
        digest = self.digest_of(d, files)
        d.stop()
        d = self.start("--state-dir", self.at("state"), "--trusted-key", self.keys[0][0], "--signatures", "require")
        for signature in (None, self.sign(digest, self.keys[1][1]), self.sign("0" * 64, self.keys[0][1]), "junk"):
            status, e = d.upload("a", files, **({"signature": signature} if signature else {}))
            self.assertEqual((status, e["error"]["code"]), (422, "signature_required"), e)
        status, a = d.upload("a", files, signature=self.sign(digest, self.keys[0][1]))
        self.assertEqual((status, a["signer"]["comment"], a["report"]["signature"]["status"]), (201, "sql for customers", "valid"), a)
        d.stop()
        d = self.start("--state-dir", self.at("state"), "--trusted-key", self.keys[0][0], "--signatures", "require")
        d.answer("a")
        d.stop()
        d = self.start("--state-dir", self.at("state"), "--trusted-key", self.keys[1][0], "--signatures", "require")  # the key is no longer trusted
        self.assertEqual(d.post({"model": "a", "prompt": "x"})[0], 422)
        self.assertEqual(d.names(), ["a"])

    def test_keys_are_exchanged_without_a_restart(self):
        conf, files = self.at("conf"), [make_adapter(i) for i in range(3)]

        def trust(*keys):
            with open(conf, "w") as f:
                f.writelines(f"trusted-key = {self.keys[i][0]}\n" for i in keys)
        trust(0)
        d = self.start("--config", conf, "--signatures", "require", "--trusted-key", self.keys[0][0], log_level="info")
        digests = [self.digest_of(d, f) for f in files]
        d.stop()
        d = self.start("--config", conf, "--signatures", "require", log_level="info")
        self.assertEqual(d.upload("a", files[0], signature=self.sign(digests[0], self.keys[0][1]))[0], 201)
        self.assertEqual(d.upload("b", files[1], signature=self.sign(digests[1], self.keys[1][1]))[0], 422)
        trust(0, 1)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.stderr().count("reload: done") == 1, "a reload")
        self.assertEqual(d.upload("b", files[1], signature=self.sign(digests[1], self.keys[1][1]))[0], 201)
        d.answer("a")
        trust(1)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.stderr().count("reload: done") == 2, "another")
        self.assertEqual(d.post({"model": "a", "prompt": "x"})[0], 422)
        self.assertEqual(d.upload("c", files[2], signature=self.sign(digests[2], self.keys[0][1]))[0], 422)
        d.answer("b")
        trust()
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "nothing has changed" in d.stderr(), "the third")
        d.answer("b")
        self.assertIn("adapter a version 1: the key of its signature is trusted no more", d.stderr())

    def test_a_folder_that_was_refused_is_served_once_its_key_is_trusted(self):
        conf, files = self.at("conf"), make_adapter(1)

        def trust(i):
            with open(conf, "w") as f:
                f.write(f"trusted-key = {self.keys[i][0]}\n")
        trust(0)
        d = self.start()
        digest = self.digest_of(d, files)
        d.stop()
        write(self.at("watch", "a"), files)
        with open(self.at("watch", "a", "adapter.minisig"), "w") as f:
            f.write(self.sign(digest, self.keys[1][1]))
        d = self.start("--config", conf, "--signatures", "require", "--watch-dir", self.at("watch"), log_level="info")
        wait_until(lambda: "/a: not served" in d.stderr(), "it is refused")
        self.assertEqual(d.names(), [])
        trust(1)
        d.process.send_signal(signal.SIGHUP)
        wait_until(lambda: d.names() == ["a"], "it is served")
        self.assertEqual(d.show("a")[1]["digest"], digest)

    def test_warn_admits_and_says_so(self):
        d = self.start("--trusted-key", self.keys[0][0], "--signatures", "warn")
        status, a = d.upload("a", make_adapter(1))
        self.assertEqual((status, a["report"]["signature"]["status"]), (201, "none"))
        d.answer("a")
        self.assertIn("no signature", d.stop())
        self.d = None

    def test_adapters_of_the_command_line_need_signatures_too(self):
        options = ("--adapter", "qv=" + os.path.join(ADAPTERS, "qv"), "--trusted-key", self.keys[0][0], "--signatures", "require")
        self.assertIn("signature", fails_to_start("--model", BASE, "--port", "0", "--bad-adapter", "refuse", *options))
        d = self.start(*options)
        status, reply = d.post({"model": "qv", "prompt": "x", "max_tokens": 1})
        self.assertEqual((status, reply["error"]["code"]), (422, "adapter_unusable"))
        self.assertIn("signature", reply["error"]["message"])
        message = fails_to_start("--model", BASE, "--port", "0", "--signatures", "require")
        self.assertIn("--trusted-key", message)


if __name__ == "__main__":
    unittest.main()
