# SPDX-License-Identifier: MIT
"""The official OpenAI client for Node against the running daemon: openai_client.mjs, a test per check of it."""
import os
import shutil
import subprocess
import unittest

from daemon import ROOT, TemplateTests

NODE = os.environ.get("AD_NODE", os.path.join(ROOT, "build-tests", "node"))  # has node_modules/openai and zod: tests/run puts them there
HAS_NODE = shutil.which("node") and os.path.isdir(os.path.join(NODE, "node_modules", "openai"))


@unittest.skipUnless(HAS_NODE, "node, or its packages openai and zod, are not installed")
class OpenAiNode(TemplateTests):
    def test_every_check_of_the_client_holds(self):
        script = shutil.copy(os.path.join(ROOT, "tests", "http", "openai_client.mjs"), NODE)  # modules are looked for beside it
        p = subprocess.run(["node", script, f"http://127.0.0.1:{self.d.port}"], capture_output=True, text=True, timeout=300)
        lines = p.stdout.splitlines()
        for line in lines:
            with self.subTest(line.removeprefix("ok ").split(":")[0]):
                self.assertTrue(line.startswith("ok "), line)
        self.assertEqual((p.returncode, p.stderr), (0, ""))
        self.assertGreaterEqual(len(lines), 10)
