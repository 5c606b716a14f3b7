# SPDX-License-Identifier: MIT
"""GET /v1/adapters: what the load of each adapter found."""
import json
import os
import unittest

from daemon import TINY, Daemon


class Adapters(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.d = Daemon(os.path.join(TINY, "models", "llama-gqa"), "--served-name", "base", adapters=("qv", "all", "patterns", "dora", "save-head", "token-idx"))

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()

    def test_the_list_has_every_adapter_and_what_its_load_found(self):
        status, reply = self.d.get("/v1/adapters")
        self.assertEqual(status, 200)
        self.assertEqual([a["name"] for a in reply["data"]], ["all", "dora", "patterns", "qv", "save-head", "token-idx"])
        for a in reply["data"]:
            self.assertEqual(a["state"], "ready")
            self.assertRegex(a["digest"], r"^[0-9a-f]{64}$")
            self.assertGreater(a["bytes_packed"], 0)
            self.assertFalse(a["merged"])

    def test_one_adapter_lists_rank_and_scaling_of_each_module(self):
        status, a = self.d.get("/v1/adapters/qv")
        with open(os.path.join(TINY, "adapters", "qv", "adapter_config.json")) as f:
            config = json.load(f)
        self.assertEqual(status, 200)
        self.assertEqual(len(a["modules"]), a["modules_matched"])
        for name, module in a["modules"].items():
            self.assertRegex(name, r"^model\.layers\.\d\.self_attn\.[qv]_proj$")
            self.assertEqual(module["rank"], config["r"])
            self.assertAlmostEqual(module["scaling"], config["lora_alpha"] / config["r"], places=6)

    def test_what_an_adapter_has_beside_pairs_is_listed_with_its_module(self):
        def modules(name):
            return self.d.get(f"/v1/adapters/{name}")[1]["modules"]
        self.assertTrue(all(m["dora"] for m in modules("dora").values()))
        self.assertEqual((modules("save-head")["lm_head"]["saved"], modules("save-head")["lm_head"]["rank"]), (True, 0))
        self.assertEqual(modules("token-idx")["model.embed_tokens"]["trained_tokens"], 3)
        self.assertEqual({key for m in modules("qv").values() for key in m}, {"rank", "scaling", "norm"})

    def test_an_unknown_adapter_is_404(self):
        status, reply = self.d.get("/v1/adapters/nobody")
        self.assertEqual((status, reply["error"]["code"]), (404, "adapter_not_found"))


if __name__ == "__main__":
    unittest.main()
