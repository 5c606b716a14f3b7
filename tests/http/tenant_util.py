# SPDX-License-Identifier: MIT
"""A daemon with tenants and keys, and clients that have one."""
import http.client
import json

from registry_util import BASE, Registry

VERBS = ["infer", "list", "upload", "activate", "delete", "merge"]


class Client(Registry):
    """Talks to a daemon with a key; the calls are the daemon's. key None: without one."""

    def __init__(self, daemon, key):  # pylint: disable=super-init-not-called
        self.daemon, self.key = daemon, key
        self.host, self.port = daemon.host, daemon.port

    def request(self, method, path, body=None, headers=None, timeout=120):
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return self.daemon.request(method, path, body, {**key, **(headers or {})}, timeout)

    def stop(self, *_):
        raise AssertionError("a client stops no daemon")

    def events(self, headers=None):
        """A generator of (id, object) that follows /v1/adapters/events; the stream is open when this returns."""
        c = http.client.HTTPConnection(self.host, self.port, timeout=60)
        c.request("GET", "/v1/adapters/events", headers={"Authorization": f"Bearer {self.key}", **(headers or {})})
        r = c.getresponse()
        assert r.status == 200, r.status

        def follow():
            last = None
            try:
                while line := r.readline().decode():
                    if line.startswith("id: "):
                        last = line[4:].strip()
                    elif line.startswith("data: "):
                        yield last, json.loads(line[6:])
            finally:
                c.close()
        return follow()


class Tenants(Registry):
    """A daemon with an operator's key (self.operator) and one of each tenant (self.of[NAME])."""

    def __init__(self, *options, tenants=("acme", "beta"), model=BASE, **kw):
        super().__init__(model, *options, **kw)
        status, key = self.call("POST", "/v1/admin/keys", {"tenant": "default", "name": "operator", "verbs": ["admin", "metrics", *VERBS], "adapters": ["*"]})
        assert status == 201, (status, key)
        self.operator = Client(self, key["key"])
        self.of = {}
        for name in tenants:
            self.add_tenant(name)

    def add_tenant(self, name, **fields):
        status, reply = self.operator.call("POST", "/v1/admin/tenants", {"name": name, **fields})
        assert status == 201, (status, reply)
        self.of[name] = self.new_client(name)

    def new_client(self, tenant, verbs=None, adapters=("*",), **fields):
        """A client with a new key of the tenant; client.id is the key's id."""
        status, key = self.operator.call("POST", "/v1/admin/keys", {"tenant": tenant, "name": "test", "verbs": VERBS if verbs is None else verbs, "adapters": list(adapters), **fields})
        assert status == 201, (status, key)
        client = Client(self, key["key"])
        client.id = key["id"]
        return client
