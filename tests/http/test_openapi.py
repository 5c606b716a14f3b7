# SPDX-License-Identifier: MIT
"""The OpenAPI document is one."""
import json
import os
import unittest

from daemon import TINY, Daemon

try:
    import openapi_spec_validator
except ImportError:
    openapi_spec_validator = None


class Document(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv",))
        cls.status, cls.headers, cls.text = cls.d.request("GET", "/openapi.json")
        cls.doc = json.loads(cls.text)

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_it_is_served_as_json_to_anybody(self):
        self.assertEqual((self.status, self.headers["Content-Type"]), (200, "application/json"))
        self.assertEqual(self.doc["openapi"], "3.1.0")
        status, headers, body = self.d.request("HEAD", "/openapi.json")
        self.assertEqual((status, headers["Content-Length"], body), (200, str(len(self.text)), b""))

    @unittest.skipUnless(openapi_spec_validator, "the Python package openapi-spec-validator is not installed")
    def test_it_is_valid_openapi_3_1(self):
        openapi_spec_validator.validate(self.doc)
