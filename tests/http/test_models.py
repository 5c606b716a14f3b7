# SPDX-License-Identifier: MIT
"""/v1/models: what it lists, names with slashes and colons, and deletion."""
import os
import unittest

from daemon import TINY
from registry_util import BASE, Registry, files_of

PERMISSION = {"id", "object", "created", "allow_create_engine", "allow_sampling", "allow_logprobs", "allow_search_indices", "allow_view", "allow_fine_tuning", "organization",
              "group", "is_blocking"}


class Models(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Registry(BASE, "--served-name", "org/base:1", "--adapter", "team/sql:v2=" + os.path.join(TINY, "adapters", "qv"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_a_model_has_openai_s_and_vllm_s_fields_and_no_path_of_the_server(self):
        status, reply = self.d.get("/v1/models")
        self.assertEqual(status, 200)
        base, adapter = reply["data"][0], next(m for m in reply["data"] if m["id"] == "team/sql:v2")
        for m in (base, adapter):
            self.assertEqual(set(m), {"id", "object", "created", "owned_by", "root", "parent", "max_model_len", "adapter_version", "permission"})
            self.assertEqual((m["object"], m["root"]), ("model", m["id"]))
            self.assertGreater(m["created"], 1_500_000_000)
            self.assertIsInstance(m["max_model_len"], int)
            permission, = m["permission"]
            self.assertEqual(set(permission), PERMISSION)
            self.assertEqual(permission["object"], "model_permission")
        self.assertEqual((base["parent"], adapter["parent"]), (None, "org/base:1"))
        self.assertNotIn(TINY, str(reply))

    def test_ids_may_hold_slashes_and_colons_encoded_or_not(self):
        for path in ("team/sql:v2", "team%2Fsql%3Av2", "team/sql%3av2", "team/sql:v2@1", "org/base:1", "org%2fbase%3a1"):
            self.assertEqual(self.d.get("/v1/models/" + path)[0], 200, path)
        for path in ("sql:v2", "team/", "team/sql:v2/", "team/sql:v2@9", "team%2Fsql%3Av", "base"):
            status, reply = self.d.get("/v1/models/" + path)
            self.assertEqual((status, reply["error"]["code"]), (404, "model_not_found"), path)

    def test_deletion_removes_an_adapter_and_nothing_else(self):
        self.assertEqual(self.d.upload("doomed", files_of("all"))[0], 201)
        self.assertEqual(self.d.call("PUT", "/v1/aliases/chat", {"targets": [{"model": "doomed", "weight": 1}]})[0], 200)
        for path, status, code in (("org%2Fbase%3A1", 403, "base_model"), ("chat", 400, "alias"), ("doomed@1", 400, "invalid_value"), ("nope", 404, "model_not_found")):
            got, reply = self.d.call("DELETE", "/v1/models/" + path)
            self.assertEqual((got, reply["error"]["code"], reply["error"]["param"]), (status, code, "model"), reply)
        self.assertEqual(self.d.call("DELETE", "/v1/aliases/chat")[0], 200)
        self.assertEqual(self.d.call("DELETE", "/v1/models/doomed"), (200, {"id": "doomed", "object": "model", "deleted": True}))
        self.assertEqual(self.d.get("/v1/models/doomed")[0], 404)
        self.assertEqual(self.d.get("/v1/adapters/doomed")[0], 404)
        self.assertEqual(self.d.call("DELETE", "/v1/models/doomed")[0], 404)
