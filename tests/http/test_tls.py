# SPDX-License-Identifier: MIT
"""TLS on listeners: Python's ssl and the openssl program as clients. What holds for HTTP holds over TLS: the tests of the protocol run here again."""
import json
import os
import re
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import time
import unittest
from unittest import mock

import daemon
import test_http_hardening as hardening
import test_protocol as protocol
import upload_daemon
from test_adapterctl import ctl

try:
    import openai
except ImportError:
    openai = None

MODEL = os.path.join(daemon.TINY, "models", "llama-gqa")
HOST = b"Host: x\r\n"
GET = b"GET /livez HTTP/1.1\r\n" + HOST + b"\r\n"
LAST = b"GET /livez HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
plain_connection = socket.create_connection
dir_of_tests = tempfile.TemporaryDirectory()
tls_ports = set()


def at(name):
    return os.path.join(dir_of_tests.name, name)


# ---- certificates: NAME.pem and NAME.key, and both in NAME.both ----

def openssl(*args):
    subprocess.run(["openssl", *args], check=True, cwd=dir_of_tests.name, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def make(name, *how, by=None, days="2"):
    key = how or ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256")
    if by:
        openssl("req", *key, "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", name + ".csr", "-CA", by + ".pem", "-CAkey", by + ".key", "-CAcreateserial", "-out", name + ".pem", "-days", days)
    else:
        openssl("req", "-x509", *key, "-nodes", "-keyout", name + ".key", "-out", name + ".pem", "-days", days, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1")
    with open(at(name + ".both"), "w") as f:
        for part in (".pem", ".key"):
            with open(at(name + part)) as g:
                f.write(g.read())


def der(name):
    with open(at(name + ".pem")) as f:
        return ssl.PEM_cert_to_DER_cert(f.read())


# ---- clients ----

class Socket(ssl.SSLSocket):
    """With the errors of plain sockets."""

    def send(self, *args):
        try:
            return super().send(*args)
        except ssl.SSLWantWriteError as e:
            raise BlockingIOError from e


def context(low=ssl.TLSVersion.TLSv1_2, high=ssl.TLSVersion.TLSv1_3, trust="one", ciphers=None):
    c = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    c.sslsocket_class = Socket
    c.load_verify_locations(at(trust + ".pem"))
    if ciphers:
        c.set_ciphers(ciphers)
    c.minimum_version, c.maximum_version = low, high
    return c


def connection(address, *args, **kwargs):
    """socket.create_connection for all daemons: TLS where it is spoken."""
    s = plain_connection(address, *args, **kwargs)
    return context().wrap_socket(s, server_hostname="127.0.0.1") if address[1] in tls_ports else s


def small_window(d):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    s.settimeout(daemon.PATIENCE)
    s.connect((d.host, d.port))
    return context().wrap_socket(s, server_hostname="127.0.0.1")


class TlsDaemon(daemon.Daemon):
    def __init__(self, model=MODEL, *options, cert="one", **more):
        super().__init__(model, "--tls-cert", at(cert + ".pem"), "--tls-key", at(cert + ".key"), *options, **more)
        tls_ports.add(self.port)

    def stop(self, *args, **kwargs):
        tls_ports.discard(self.port)
        return daemon.Daemon.stop(self, *args, **kwargs)

    def wrap(self, how=None, ragged=True, **more):
        s = plain_connection((self.host, self.port), timeout=daemon.PATIENCE)
        how = how or context()
        if not ragged:  # Python with OpenSSL 3 would take any end for one with a notice
            how.options &= ~getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)
        return how.wrap_socket(s, server_hostname="127.0.0.1", suppress_ragged_eofs=ragged, **more)


class TlsUploadDaemon(upload_daemon.UploadDaemon):
    def __init__(self, window_ms="60000", max_bytes=str(1 << 30), state_dir="", **more):
        super().__init__(window_ms, max_bytes, state_dir, at("one.both"), **more)
        tls_ports.add(self.port)

    stop, wrap = TlsDaemon.stop, TlsDaemon.wrap


def hello_of_a_client():
    """What it says first."""
    to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
    try:
        context().wrap_bio(to, fro, server_hostname="127.0.0.1").do_handshake()
    except ssl.SSLWantReadError:
        return fro.read()


def everything(s):
    out = b""
    while chunk := s.recv(65536):
        out += chunk
    return out


def setUpModule():
    for name in ("one", "two", "stranger", "authority"):
        make(name)
    make("rsa", "-newkey", "rsa:2048")
    make("client", by="authority")
    patches = [mock.patch.object(socket, "create_connection", connection), mock.patch.object(hardening, "small_window", small_window)]
    patches += [mock.patch.object(module, "Daemon", TlsDaemon) for module in (hardening, protocol)]
    patches += [mock.patch.object(module, "UploadDaemon", TlsUploadDaemon) for module in (hardening, protocol)]
    for p in patches:
        p.start()
        unittest.addModuleCleanup(p.stop)
    unittest.addModuleCleanup(dir_of_tests.cleanup)


# ---- the tests of the protocol, over TLS ----

class Table(hardening.Table):
    pass


class Rules(hardening.Rules):
    test_a_request_without_its_end_is_never_run = None  # a socket is not half closed beneath TLS


class SlowSenders(hardening.SlowSenders):
    pass


class SlowReaders(hardening.SlowReaders):
    pass


class ReadersAtTheDeadline(hardening.ReadersAtTheDeadline):
    pass


class ConnectionCap(hardening.ConnectionCap):
    test_one_address_gets_no_more_connections_than_it_may_have = None  # below
    test_clients_that_reset_their_connections_leave_nothing_behind = None  # below
    test_connections_beyond_the_cap_that_ask_nothing_make_room_for_a_probe = None  # these must shake hands first


class Protocol(protocol.Protocol):
    pass


class StreamedBodies(protocol.StreamedBodies):
    pass


class SlowBody(protocol.SlowBody):
    pass


class Clocks(protocol.Clocks):
    pass


# ---- what is TLS's own ----

class OneDaemon(unittest.TestCase):
    options = ()

    @classmethod
    def setUpClass(cls):
        cls.d = TlsDaemon(MODEL, "--served-name", "base", *cls.options)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def alive(self):
        self.assertEqual(self.d.request("GET", "/livez")[0], 200)


class Handshakes(OneDaemon):
    def refused(self, why, how=None, **more):
        with self.assertRaises(ssl.SSLError) as e:
            self.d.wrap(how or context(**more)).close()
        self.assertIn(why, str(e.exception))

    def test_tls_1_2_and_1_3_are_spoken(self):
        for version, name in ((ssl.TLSVersion.TLSv1_2, "TLSv1.2"), (ssl.TLSVersion.TLSv1_3, "TLSv1.3")):
            with self.d.wrap(context(version, version)) as s:
                self.assertEqual((s.version(), s.compression()), (name, None))
                s.sendall(LAST)
                self.assertIn(b"200 OK", everything(s))

    def test_tls_1_1_is_refused(self):
        self.refused("alert protocol version", low=ssl.TLSVersion.TLSv1, high=ssl.TLSVersion.TLSv1_1, ciphers="DEFAULT@SECLEVEL=0")

    def test_ciphers_without_forward_secrecy_or_authentication_are_refused(self):
        d = TlsDaemon(cert="rsa")
        try:
            for ciphers in ("AES256-GCM-SHA384", "ECDHE-RSA-AES128-SHA"):
                with self.assertRaises(ssl.SSLError) as e:
                    d.wrap(context(high=ssl.TLSVersion.TLSv1_2, trust="rsa", ciphers=ciphers)).close()
                self.assertIn("handshake failure", str(e.exception))
            with d.wrap(context(high=ssl.TLSVersion.TLSv1_2, trust="rsa", ciphers="ECDHE-RSA-AES128-GCM-SHA256")) as s:
                s.sendall(LAST)
                self.assertIn(b"200 OK", everything(s))
        finally:
            d.stop()

    def test_alpn_is_http_1_1_or_nothing(self):
        for offered, agreed in ((["h2", "http/1.1"], "http/1.1"), (["http/1.1"], "http/1.1"), ([], None)):
            how = context()
            how.set_alpn_protocols(offered)
            with self.d.wrap(how) as s:
                self.assertEqual(s.selected_alpn_protocol(), agreed)
        for offered in (["h2"], ["http/1.0"], ["h2", "spdy/3"]):
            how = context()
            how.set_alpn_protocols(offered)
            self.refused("alert no application protocol", how)

    def test_a_client_that_comes_back_need_not_shake_hands_in_full(self):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            how = context(version, version)
            with self.d.wrap(how) as s:
                s.sendall(LAST)
                everything(s)
                session = s.session
            with self.d.wrap(how, session=session) as s:
                self.assertTrue(s.session_reused)
                s.sendall(LAST)
                self.assertIn(b"200 OK", everything(s))

    def test_nothing_is_renegotiated(self):
        p = subprocess.Popen(["openssl", "s_client", "-tls1_2", "-connect", f"127.0.0.1:{self.d.port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = b""
        while b"Extended master secret" not in out:
            out += p.stdout.readline()
        p.stdin.write(b"R\n")
        p.stdin.flush()
        self.assertIn(b"no renegotiation", p.communicate(timeout=daemon.PATIENCE)[0])
        self.alive()

    def test_keys_are_renewed_when_the_client_asks(self):
        p = subprocess.Popen(["openssl", "s_client", "-tls1_3", "-connect", f"127.0.0.1:{self.d.port}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        out = b""
        while b"Verify return code" not in out:
            out += p.stdout.readline()
        for said, answer in ((b"K\n", b"KEYUPDATE"), (GET, b"200 OK")):
            p.stdin.write(said)
            p.stdin.flush()
            while answer not in out:
                more = p.stdout.readline()
                self.assertTrue(more, out)
                out += more
        p.communicate(timeout=daemon.PATIENCE)

    def test_a_request_in_the_clear_is_told_so(self):
        for request in (GET, b"POST /v1/completions HTTP/1.1\r\n", b"DELETE / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"G"):
            s = plain_connection((self.d.host, self.d.port), timeout=daemon.PATIENCE)
            s.sendall(request)
            out = everything(s)
            self.assertTrue(out.startswith(b"HTTP/1.1 400 Bad Request\r\n"), out)
            head, _, body = out.partition(b"\r\n\r\n")
            self.assertIn(b"Content-Length: %d" % len(body), head)
            self.assertIn(b"HTTPS", body)
            s.close()

    def test_garbage_ends_the_connection(self):
        hello = hello_of_a_client()
        for data in (b"\0" * 100, b"\xff" * 100, b"\x16\x03\x01\x00\x05hello", b"\x80\x2e\x01\x00\x02" + b"x" * 41, hello[:60] + b"\xff" * 200, hello[:5] + b"\x01\xff\xff\xff" + hello[9:], b"\r\n\r\n", b"\x15\x03\x01\x00\x02\x02\x28"):
            s = plain_connection((self.d.host, self.d.port), timeout=daemon.PATIENCE)
            s.sendall(data)
            self.assertNotIn(b"HTTP", everything(s))
            s.close()
        self.alive()

    def test_a_client_may_leave_in_the_middle_of_its_handshake(self):
        hello = hello_of_a_client()
        for n in list(range(1, len(hello), 23)) + [len(hello)] * 5:
            s = plain_connection((self.d.host, self.d.port), timeout=daemon.PATIENCE)
            s.sendall(hello[:n])
            s.close()
        self.d.wait_for("adapterd_connections", 1)
        self.alive()

    def test_a_handshake_may_come_byte_by_byte(self):
        s = plain_connection((self.d.host, self.d.port), timeout=daemon.PATIENCE)
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
        o = context().wrap_bio(to, fro, server_hostname="127.0.0.1")

        def trickle():
            for b in fro.read():
                s.sendall(bytes([b]))

        def until_done(what, *args):
            while True:
                try:
                    return what(*args)
                except ssl.SSLWantReadError:
                    trickle()
                    to.write(s.recv(65536))

        until_done(o.do_handshake)
        o.write(GET)
        trickle()
        self.assertIn(b"200 OK", until_done(o.read, 4096))
        s.close()

    def test_failed_handshakes_are_counted(self):
        before = self.d.metric("adapterd_tls_failures_total")
        with self.assertRaises(ssl.SSLError):
            self.d.wrap(context(trust="two"))  # the client does not like our certificate
        self.d.wait_for("adapterd_tls_failures_total", before + 1)


class UnfinishedHandshakes(OneDaemon):
    options = ("--header-timeout", "2")

    def test_handshakes_that_do_not_come_to_an_end_are_ended(self):
        hello, start, seconds = hello_of_a_client(), time.monotonic(), {}
        silent, half, whole, trickling = (plain_connection((self.d.host, self.d.port)) for _ in range(4))
        half.sendall(hello[:100])
        whole.sendall(hello)

        def watch(name, closed, *args):
            closed(*args)
            seconds[name] = time.monotonic() - start

        waits = [*((name, hardening.until_closed, s, b"", 0.1, 30) for name, s in (("silent", silent), ("half", half), ("whole", whole))), ("trickling", self.trickle, trickling, hello)]
        threads = [threading.Thread(target=watch, args=args) for args in waits]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.assertEqual(len(seconds), 4)
        for name, s in seconds.items():
            self.assertGreater(s, 1.8, name)
        self.alive()

    def trickle(self, s, data):
        """Until the other side closes."""
        s.settimeout(0.1)
        for b in data:
            try:
                s.sendall(bytes([b]))
                if not s.recv(1):
                    return
            except TimeoutError:
                pass
            except OSError:
                return
        raise AssertionError("the handshake may take as long as it likes")


class Connections(OneDaemon):
    def test_everybody_is_served_at_once(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 4, "temperature": 0}).encode()
        request = b"POST /v1/completions HTTP/1.1\r\n" + HOST + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        sockets = [self.d.wrap() for _ in range(150)]
        for s in sockets:
            s.sendall(request)
        for s in sockets:
            self.assertIn(b"200 OK", s.recv(65536))
        for s in sockets[::2]:
            s.close()
        for s in sockets[1::2]:
            s.sendall(LAST)
            self.assertIn(b"200 OK", everything(s))
            s.close()
        self.d.wait_for("adapterd_connections", 1)

    def test_clients_that_leave_in_any_way_leave_nothing_behind(self):
        body = json.dumps({"model": "base", "prompt": [1, 2], "max_tokens": 100, "stream": True}).encode()
        requests = (b"", GET[:9], GET, hardening.POST + b"Content-Length: 9\r\n\r\n{", hardening.CHUNKED + b"5\r\nab", hardening.POST + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for data in requests * 5:
            for how in ("reset", "close", "notify"):
                s = self.d.wrap()
                if how == "reset":
                    s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                s.sendall(data)
                if how == "notify":
                    s.setblocking(False)
                    try:
                        s.unwrap()
                    except (ssl.SSLError, OSError):
                        pass
                s.close()
        self.d.wait_for("adapterd_connections", 1)
        self.d.wait_for("adapterd_requests_running", 0)

    def test_a_stream_arrives_event_by_event(self):
        events = self.d.stream(model="base", prompt=[1, 2], max_tokens=20)
        whole = self.d.complete(model="base", prompt=[1, 2], max_tokens=20)
        self.assertEqual("".join(e["choices"][0]["text"] for e in events), whole["choices"][0]["text"])

    def test_bytes_that_somebody_changed_end_the_connection(self):
        to, fro = ssl.MemoryBIO(), ssl.MemoryBIO()
        o = context().wrap_bio(to, fro, server_hostname="127.0.0.1")
        s = plain_connection((self.d.host, self.d.port), timeout=daemon.PATIENCE)
        while True:
            try:
                o.do_handshake()
                break
            except ssl.SSLWantReadError:
                s.sendall(fro.read())
                to.write(s.recv(65536))
        o.write(GET)
        data = bytearray(fro.read())
        data[-1] ^= 1
        s.sendall(data)
        to.write(everything(s))
        with self.assertRaises(ssl.SSLError) as e:
            while o.read(4096):
                self.fail("an answer to what nobody asked")
        self.assertIn("alert bad record mac", str(e.exception))

    def test_one_address_gets_no_more_connections_than_it_may_have(self):
        d = TlsDaemon(MODEL, "--max-connections-per-ip", "4")
        try:
            held = [d.wrap() for _ in range(4)]
            with self.assertRaises((ssl.SSLError, ConnectionResetError)):
                d.wrap()
            held.pop().close()

            def taken():
                try:
                    return d.request("GET", "/livez")[0] == 200
                except (ssl.SSLError, ConnectionResetError):
                    return False
            daemon.wait_until(taken, "a place is free again")
            self.assertGreaterEqual(d.metric("adapterd_connections_refused_per_ip_total"), 1)
            for s in held:
                s.close()
        finally:
            d.stop()

    def test_adapterctl_trusts_whom_it_is_told_to(self):
        url = ("--url", f"https://127.0.0.1:{self.d.port}")
        p = ctl("list", *url, "--ca-file", at("one.pem"))
        self.assertEqual(p.returncode, 0, p.stderr)
        self.assertNotEqual(ctl("list", *url, "--ca-file", at("two.pem")).returncode, 0)
        self.assertNotEqual(ctl("list", *url).returncode, 0)

    @unittest.skipUnless(openai, "the Python package openai is not installed")
    def test_the_openai_client_speaks_https(self):
        tls_ports.discard(self.d.port)  # it has TLS of its own
        try:
            with openai.OpenAI(base_url=f"https://127.0.0.1:{self.d.port}/v1", api_key="none", max_retries=0, http_client=openai.DefaultHttpxClient(verify=context())) as client:
                whole = client.completions.create(model="base", prompt="Hello", max_tokens=12, temperature=0)
                events = client.completions.create(model="base", prompt="Hello", max_tokens=12, temperature=0, stream=True)
                self.assertEqual("".join(e.choices[0].text for e in events), whole.choices[0].text)
        finally:
            tls_ports.add(self.d.port)


class Ends(unittest.TestCase):
    """Whether a client can tell that it has everything."""

    @classmethod
    def setUpClass(cls):
        cls.d = TlsUploadDaemon("3000")

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def ask(self, target, version=b"1.1", extra=b"Connection: close\r\n"):
        s = self.d.wrap(ragged=False)
        s.sendall(b"GET " + target + b" HTTP/" + version + b"\r\n" + HOST + extra + b"\r\n")
        return s

    def test_the_last_reply_ends_with_a_notice(self):
        for s in (self.ask(b"/big?bytes=3000000"), self.ask(b"/silent?ms=10", b"1.0"), self.ask(b"/status/204")):
            self.assertTrue(everything(s))  # an end without notice is an exception
            s.close()

    def test_an_idle_connection_ends_with_a_notice(self):
        with self.ask(b"/status/200", extra=b"") as s:
            self.assertIn(b"text", everything(s))

    def test_a_stream_that_went_wrong_ends_without(self):
        for version in (b"1.0", b"1.1"):
            with self.ask(b"/torn", version) as s:
                with self.assertRaises(ssl.SSLError) as e:
                    everything(s)
                self.assertIn("EOF", str(e.exception).upper())  # SSLEOFError, or in older Pythons its parent with OpenSSL's words

    def test_a_notice_of_the_clients_is_answered(self):
        with self.d.wrap() as s:
            s.unwrap()


class Options(unittest.TestCase):
    def setUp(self):
        self.d = None

    def tearDown(self):
        if self.d:
            self.d.stop()

    def write(self, name, data):
        with open(at(name), "wb") as f:
            f.write(data)
        return at(name)

    def test_what_cannot_be_served_is_named_at_the_start(self):
        openssl("ec", "-in", "one.key", "-aes128", "-passout", "pass:secret", "-out", "locked.key")
        with open(at("one.pem"), "rb") as f:
            one = f.read()
        empty, noise, cut = self.write("empty.pem", b""), self.write("noise.pem", b"\0\1\2" * 1000), self.write("cut.pem", one[:200] + one[300:])
        second = self.write("second.pem", one + one[:200] + one[300:])
        for cert, key, why in ((at("nowhere.pem"), at("one.key"), "nowhere.pem: No such file"), (at("one.pem"), at("nowhere.key"), "nowhere.key: No such file"),
                               (at("one.pem"), at("two.key"), "two.key: the key is not that of the certificate"), (at("one.pem"), at("rsa.key"), "the key is not that of the certificate"),
                               (at("one.pem"), at("locked.key"), "passphrase"), (at("one.pem"), at("two.pem"), "no private key"), (at("one.key"), at("one.key"), "no certificate"),
                               (empty, at("one.key"), "no certificate"), (noise, at("one.key"), "no certificate"), (at("one.pem"), noise, "no private key"), (cut, at("one.key"), "malformed"),
                               (second, at("one.key"), "malformed"), (dir_of_tests.name, at("one.key"), "not a regular file")):
            with self.subTest(cert=cert, key=key):
                self.assertIn(why, daemon.fails_to_start("--model", MODEL, "--port", "0", "--tls-cert", cert, "--tls-key", key))
        self.assertIn("no private key", daemon.fails_to_start("--model", MODEL, "--port", "0", "--tls-cert", at("one.pem")))
        self.assertIn("nowhere", daemon.fails_to_start("--model", MODEL, "--port", "0", "--tls-cert", at("one.both"), "--tls-client-ca", at("nowhere")))
        make("weak", "-newkey", "rsa:1024")
        self.assertIn("key too small", daemon.fails_to_start("--model", MODEL, "--port", "0", "--tls-cert", at("weak.both")))

    def test_options_that_do_not_go_together_are_refused(self):
        for args, why in ((("--listen", "https://127.0.0.1:0"), "needs a certificate"), (("--listen", "127.0.0.1:0", "--tls-cert", at("one.both")), "no --listen address begins with https://"),
                          (("--tls-key", at("one.key")), "tls-key: needs --tls-cert"), (("--tls-client-ca", at("one.pem")), "tls-client-ca: needs --tls-cert"), (("--listen", "https://"), "listen"),
                          (("--listen", "https://unix:/tmp/s"), "listen"), (("--listen", "https://127.0.0.1"), "listen"), (("--listen", "https://127.0.0.1:1/x"), "listen"), (("--listen", "ftp://127.0.0.1:1"), "listen"),
                          (("--listen", "https://a/b:1"), "listen")):
            with self.subTest(args):
                self.assertIn(why, daemon.fails_to_start("--model", MODEL, *args))

    def test_plain_and_encrypted_addresses_are_served_at_once(self):
        p = subprocess.Popen([daemon.ADAPTERD, "--model", MODEL, "--log-level", "error", "--listen", "https://127.0.0.1:0", "--listen", "http://127.0.0.1:0", "--listen", "https://[::1]:0", "--tls-cert", at("one.both")],
                             stdout=subprocess.PIPE, text=True, env=daemon.clean_env())
        try:
            urls = [re.fullmatch(r"adapterd: listening on (https?)://\[?(\S+?)\]?:(\d+)\n", p.stdout.readline()).groups() for _ in range(3)]
            self.assertEqual([u[:2] for u in urls], [("https", "127.0.0.1"), ("http", "127.0.0.1"), ("https", "::1")])
            for scheme, host, port in urls:
                s = plain_connection((host, int(port)), timeout=daemon.PATIENCE)
                if scheme == "https":
                    s = context().wrap_socket(s, server_hostname="127.0.0.1")
                s.sendall(LAST)
                self.assertIn(b"200 OK", everything(s))
                s.close()
        finally:
            p.terminate()
            self.assertEqual(p.wait(daemon.PATIENCE), 0)
            p.stdout.close()

    def test_a_certificate_that_is_over_is_served_with_a_warning(self):
        make("over", by="authority", days="0")
        time.sleep(1)
        self.d = TlsDaemon(cert="over")
        how = context()
        how.check_hostname, how.verify_mode = False, ssl.CERT_NONE
        with self.d.wrap(how) as s:
            s.sendall(LAST)
            self.assertIn(b"200 OK", everything(s))
        self.assertIn("over.pem: the certificate has expired", self.d.stderr())

    def test_the_chain_is_sent_with_the_certificate(self):
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "root.key", "-out", "root.pem", "-days", "2", "-subj", "/CN=root")
        with open(at("ca.ext"), "w") as f:
            f.write("basicConstraints=critical,CA:true\n")
        with open(at("leaf.ext"), "w") as f:
            f.write("subjectAltName=IP:127.0.0.1\n")
        for name, by, ext in (("middle", "root", "ca.ext"), ("leaf", "middle", "leaf.ext")):
            openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", f"/CN={name}")
            openssl("x509", "-req", "-in", name + ".csr", "-CA", by + ".pem", "-CAkey", by + ".key", "-CAcreateserial", "-out", name + ".pem", "-days", "2", "-extfile", ext)
        with open(at("chain.pem"), "wb") as f:
            for name in ("leaf", "middle"):
                with open(at(name + ".pem"), "rb") as g:
                    f.write(g.read())
        os.link(at("leaf.key"), at("chain.key"))
        self.d = TlsDaemon(cert="chain")
        self.d.wrap(context(trust="root")).close()

    def test_clients_may_have_to_show_a_certificate(self):
        self.d = TlsDaemon(MODEL, "--tls-client-ca", at("authority.pem"), log_level="debug")
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for name, good in (("client", True), ("stranger", False), (None, False)):
                how = context(version, version)
                if name:
                    how.load_cert_chain(at(name + ".pem"), at(name + ".key"))
                try:
                    with self.d.wrap(how) as s:  # with TLS 1.3 the client hears of it when it reads
                        s.sendall(LAST)
                        out = everything(s)
                except (ssl.SSLError, ConnectionResetError, BrokenPipeError):
                    out = b""
                self.assertEqual(b"200 OK" in out, good, (version, name))
        how = context()
        how.load_cert_chain(at("client.pem"), at("client.key"))
        with self.d.wrap(how) as s:
            s.sendall(LAST)
            everything(s)
            session = s.session
        with self.d.wrap(how, session=session) as s:
            s.sendall(LAST)
            self.assertIn(b"200 OK", everything(s))
        tls_ports.discard(self.d.port)


class Reloads(unittest.TestCase):
    """SIGHUP: what is in the files now is what newcomers get."""

    def setUp(self):
        self.install("one")
        self.d = TlsDaemon(MODEL, "--served-name", "base", cert="now", log_level="info", adapters=("qv",))

    def tearDown(self):
        self.d.stop()

    def install(self, cert, key=None):
        for name, suffix in ((cert, ".pem"), (key or cert, ".key")):
            with open(at(name + suffix), "rb") as f, open(at("now" + suffix), "wb") as g:
                g.write(f.read())

    def served(self):
        how = context()
        how.check_hostname, how.verify_mode = False, ssl.CERT_NONE
        with self.d.wrap(how) as s:
            return s.getpeercert(True)

    def hang_up(self, said):
        """Sends the signal and waits until the log says so once more."""
        before = self.d.stderr().count(said)
        self.d.process.send_signal(signal.SIGHUP)
        daemon.wait_until(lambda: self.d.stderr().count(said) > before, lambda: f"{said} once more in {self.d.stderr()}")

    def test_streams_go_on_and_newcomers_get_the_new_certificate(self):
        with self.d.wrap() as stream, self.d.wrap() as idle:
            stream.sendall(b"GET /v1/adapters/events HTTP/1.1\r\n" + HOST + b"\r\n")
            self.assertIn(b"200 OK", stream.recv(4096))
            idle.sendall(GET)
            self.assertIn(b"200 OK", idle.recv(4096))
            self.assertEqual(self.served(), der("one"))
            self.install("two")
            self.hang_up("the certificate is valid until")
            self.assertEqual(self.served(), der("two"))
            self.install("rsa")
            self.hang_up("the certificate is valid until")
            self.assertEqual(self.served(), der("rsa"))
            idle.sendall(GET)
            self.assertIn(b"200 OK", idle.recv(4096))
            self.install("one")
            self.hang_up("the certificate is valid until")
            self.assertEqual(self.d.request("PUT", "/v1/aliases/a", b'{"targets": [{"model": "qv", "weight": 1}]}', {"Content-Type": "application/json"})[0], 200)
            out = b""
            while b"\n\n" not in out or b'"a"' not in out:
                more = stream.recv(4096)
                self.assertTrue(more, out)
                out += more

    def test_another_certificate_is_in_the_audit_log_and_the_same_again_is_not(self):
        for cert in ("one", "two", "two", "one"):  # which is what our client trusts
            self.install(cert)
            self.hang_up("reload: done")
        status, _, reply = self.d.request("GET", "/v1/admin/audit")
        self.assertEqual(status, 200, reply)
        self.assertEqual([(r["action"], r["object"], r["peer"], r["detail"]) for r in json.loads(reply)["data"]], [("config.reload", "tls-cert", "signal", "another certificate")] * 2)

    def test_the_end_of_the_certificate_is_a_metric(self):
        dates = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-in", at("now.pem")], capture_output=True, text=True, check=True).stdout
        self.assertEqual(self.d.metric("adapterd_tls_certificate_expiry_timestamp_seconds"), ssl.cert_time_to_seconds(dates.strip().removeprefix("notAfter=")))

    def test_a_session_of_the_old_certificate_is_not_resumed(self):
        how = context()
        with self.d.wrap(how) as s:
            s.sendall(LAST)
            everything(s)
            session = s.session
        self.hang_up("the certificate is valid until")
        with self.d.wrap(how, session=session) as s:
            self.assertFalse(s.session_reused)

    def test_files_that_cannot_be_served_change_nothing(self):
        self.install("two", "one")
        self.hang_up("the key is not that of the certificate")
        self.assertEqual(self.served(), der("one"))
        with open(at("now.pem"), "w") as f:
            f.write("nothing of the kind")
        self.hang_up("there is no certificate in it")
        self.assertEqual(self.served(), der("one"))
        os.remove(at("now.pem"))
        self.hang_up("now.pem: No such file")
        self.assertEqual(self.served(), der("one"))
        self.install("two")
        self.hang_up("the certificate is valid until")
        self.assertEqual(self.served(), der("two"))
