# SPDX-License-Identifier: MIT
"""What routers and controllers written for vLLM send and compare: the two LoRA calls, start-up spellings, small questions."""
import json
import os
import re
import shutil
import tempfile
import threading
import time
import unittest

from daemon import TINY, Daemon, fails_to_start
from registry_util import ADAPTERS, BASE, make_adapter, Registry


class Vllm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.root, cls.state = tempfile.mkdtemp(), tempfile.mkdtemp()
        for name in ("qv", "all"):
            shutil.copytree(os.path.join(ADAPTERS, name), os.path.join(cls.root, name))
        cls.start()

    @classmethod
    def start(cls):
        cls.d = Registry(BASE, "--served-name", "base", "--adapter-root", cls.root, "--state-dir", cls.state, adapters=["rslora"])

    @classmethod
    def tearDownClass(cls):
        cls.d.stop()
        shutil.rmtree(cls.root)
        shutil.rmtree(cls.state)

    def load(self, name="sql", path=None, **more):
        return self.text("load", {"lora_name": name, "lora_path": path or os.path.join(self.root, "qv"), **more})

    def unload(self, name="sql", **more):
        return self.text("unload", {"lora_name": name, **more})

    def text(self, what, body, kind="application/json"):
        """(status, body as text, content type)"""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        status, headers, reply = self.d.request("POST", f"/v1/{what}_lora_adapter", raw, {"Content-Type": kind} if kind else {})
        return status, reply.decode(), headers["Content-Type"]

    def refused(self, answer, status, kind, message=None):
        """A body that is flat and nested at once."""
        got, text, content_type = answer
        body = json.loads(text)
        self.assertEqual((got, content_type), (status, "application/json"), text)
        nested = body["error"]
        self.assertEqual({k: body[k] for k in nested}, nested)
        self.assertEqual(set(nested), {"message", "type", "param", "code"})
        self.assertEqual((body["object"], nested["type"], nested["code"]), ("error", kind, status))
        if message is not None:
            self.assertEqual(nested["message"], message)
        return nested["message"]

    def test_metrics_have_what_gateways_read(self):
        ended = lambda: {r: float(re.search(rf'vllm:request_success_total{{engine="0",model_name="base",finished_reason="{r}"}} (\d+)\n', self.d.request("GET", "/metrics")[2].decode())[1])
                         for r in ("stop", "length", "abort")}
        before = ended()
        self.d.complete(model="rslora", prompt=[1, 2], max_tokens=3, ignore_eos=True)
        self.assertEqual(ended(), {**before, "length": before["length"] + 1})
        text = self.d.request("GET", "/metrics")[2].decode()
        labels = 'engine="0",model_name="base"'
        for family, kind in {"num_requests_running": "gauge", "num_requests_waiting": "gauge", "kv_cache_usage_perc": "gauge", "prompt_tokens_total": "counter", "generation_tokens_total": "counter",
                             "prefix_cache_queries_total": "counter", "prefix_cache_hits_total": "counter", "num_preemptions_total": "counter"}.items():
            self.assertIn(f"# TYPE vllm:{family} {kind}\n", text)
            self.assertEqual(len(re.findall(rf"^vllm:{family}{{{labels}}} [0-9.e+]+$", text, re.M)), 1, family)
        self.assertEqual(len(re.findall(rf'^vllm:cache_config_info{{{labels},block_size="16",num_gpu_blocks="\d+"}} 1$', text, re.M)), 1)
        info, = re.findall(r'^vllm:lora_requests_info{max_lora="(\d+)",running_lora_adapters="([^"]*)",waiting_lora_adapters=""} (\d+)$', text, re.M)
        self.assertGreaterEqual(int(info[0]), 1)
        self.assertIn("rslora", info[1].split(","))
        self.assertLess(abs(int(info[2]) - time.time()), 60)
        for family in ("time_to_first_token_seconds", "inter_token_latency_seconds"):
            count = re.search(rf"^vllm:{family}_count{{{labels}}} (\d+)$", text, re.M)[1]
            self.assertIn(f'vllm:{family}_bucket{{{labels},le="+Inf"}} {count}\n', text)

    def test_loading_and_unloading_answer_plain_text_without_a_type(self):
        self.assertEqual(self.load("plain"), (200, "Success: LoRA adapter 'plain' added successfully.", None))
        self.assertEqual(self.d.post({"model": "plain", "prompt": "a", "max_tokens": 2})[0], 200)
        listed = next(m for m in self.d.get("/v1/models")[1]["data"] if m["id"] == "plain")
        self.assertEqual(listed["parent"], "base")
        self.assertEqual(self.unload("plain"), (200, "Success: LoRA adapter 'plain' removed successfully.", None))
        self.assertEqual(self.d.post({"model": "plain", "prompt": "a", "max_tokens": 2})[0], 404)

    def test_what_was_loaded_answers_as_if_it_had_been_there_at_the_start(self):
        with_adapter = Daemon(BASE, adapters=["qv"])
        self.addCleanup(with_adapter.stop)
        want = with_adapter.complete(model="qv", prompt="hello", max_tokens=8)
        self.load("same")
        self.addCleanup(self.unload, "same")
        got = self.d.complete(model="same", prompt="hello", max_tokens=8)
        self.assertEqual((got["choices"][0]["text"], got["adapter_version"]), (want["choices"][0]["text"], want["adapter_version"]))

    def test_a_name_or_path_that_is_empty_is_the_user_s_input(self):
        for body in ({"lora_name": "", "lora_path": "/x"}, {"lora_name": "x", "lora_path": ""}, {"lora_name": "", "lora_path": ""}):
            self.refused(self.text("load", body), 400, "InvalidUserInput", "Both 'lora_name' and 'lora_path' must be provided.")
        self.refused(self.unload(""), 400, "InvalidUserInput", "'lora_name' needs to be provided to unload a LoRA adapter.")

    def test_fields_that_are_missing_or_of_another_type_are_a_bad_request(self):
        path = os.path.join(self.root, "qv")
        for what, body in (("load", {"lora_name": "x"}), ("load", {"lora_path": path}), ("load", {"lora_name": 1, "lora_path": path}), ("load", {"lora_name": None, "lora_path": path}),
                           ("load", {"lora_name": "x", "lora_path": path, "load_inplace": "yes"}), ("unload", {}), ("unload", {"lora_name": ["x"]}),
                           ("load", b"[]"), ("load", b"{"), ("unload", b""), ("unload", b'{"lora_name": "x", "lora_name": "y"}')):
            self.refused(self.text(what, body), 400, "Bad Request")

    def test_another_content_type_is_400(self):
        for kind in ("text/plain", "application/x-www-form-urlencoded", "application/jsonx", None):
            self.refused(self.text("load", {"lora_name": "x", "lora_path": "/x"}, kind), 400, "Bad Request")
        self.assertEqual(self.text("unload", {"lora_name": "nope"}, "application/json; charset=utf-8")[0], 404)

    def test_a_name_that_is_loaded_is_told_in_the_words_controllers_look_for(self):
        self.load("twice")
        self.addCleanup(self.unload, "twice")
        for path in ("qv", "all"):
            message = self.refused(self.load("twice", os.path.join(self.root, path)), 400, "InvalidUserInput")
            self.assertTrue(message.startswith("The lora adapter 'twice' has already been loaded."), message)
        self.refused(self.load("rslora"), 400, "InvalidUserInput")

    def test_two_at_once_with_one_name_give_one_adapter_and_the_other_hears_it(self):
        answers = []
        threads = [threading.Thread(target=lambda p=p: answers.append(self.load("raced", os.path.join(self.root, p)))) for p in ("qv", "all")]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        self.addCleanup(self.unload, "raced")
        self.assertEqual(sorted(a[0] for a in answers), [200, 400])
        self.refused(max(answers), 400, "InvalidUserInput")

    def test_load_inplace_replaces_what_answers_and_loads_what_is_new(self):
        self.assertEqual(self.load("place", load_inplace=True)[0], 200)
        self.addCleanup(self.unload, "place")
        first = self.d.complete(model="place", prompt="hello", max_tokens=1)["adapter_version"]
        self.assertEqual(self.load("place", os.path.join(self.root, "all"), load_inplace=True), (200, "Success: LoRA adapter 'place' added successfully.", None))
        self.assertNotEqual(self.d.complete(model="place", prompt="hello", max_tokens=1)["adapter_version"], first)

    def test_unknown_fields_are_ignored(self):
        self.assertEqual(self.load("syncer", base_model_name="", engine={"x": 1})[0], 200)
        self.assertEqual(self.unload("syncer", lora_int_id=3, base_model_name="x")[0], 200)

    def test_a_path_that_is_not_there_is_404_and_one_outside_the_roots_400_whether_it_is_there_or_not(self):
        self.refused(self.load("x", os.path.join(self.root, "nope")), 404, "NotFoundError")
        outside = {self.refused(self.load("x", p), 400, "Bad Request").replace(p, "") for p in ("/etc", "/nope/nope")}
        self.assertEqual(len(outside), 1, outside)
        for p in ("qv", "org/adapter", "s3://bucket/adapter", os.path.join(self.root, "..", "etc"), "https://elsewhere.example/a.gguf"):
            self.refused(self.load("x", p), 400, "Bad Request")

    def test_mistakes_in_the_files_are_400_and_leave_nothing_behind(self):
        bad = os.path.join(self.root, "bad")
        config, weights = make_adapter(1)
        os.makedirs(bad)
        self.addCleanup(shutil.rmtree, bad)
        for c, w in ((b"{}", weights), (config.replace(b'"r": 4', b'"r": 5'), weights), (config, weights[:-100]), (config.replace(b"q_proj", b"x_proj"), weights)):
            for name, data in (("adapter_config.json", c), ("adapter_model.safetensors", w)):
                with open(os.path.join(bad, name), "wb") as f:
                    f.write(data)
            message = self.refused(self.load("bad", bad), 400, "Bad Request")
            self.assertNotIn(self.state, message)
            self.assertEqual(self.d.get("/v1/adapters/bad")[0], 404)

    def test_names_the_registry_does_not_take_are_400(self):
        for name in ("base", "a b", "a,b", "../x", "a" * 129, "a@1"):
            self.refused(self.load(name), 400, "Bad Request")

    def test_unloading_what_is_not_loaded_is_404(self):
        self.assertEqual(self.d.call("PUT", "/v1/aliases/alias", {"targets": [{"model": "rslora", "weight": 1}]})[0], 200)
        for name in ("nope", "base", "alias", "rslora@1"):
            self.refused(self.unload(name), 404, "NotFoundError", f"The lora adapter '{name}' cannot be found.")
        self.refused(self.load("alias"), 400, "InvalidUserInput")
        self.assertEqual(self.d.call("DELETE", "/v1/aliases/alias")[0], 200)

    def test_an_adapter_of_the_command_line_is_not_replaced(self):
        self.refused(self.load("rslora", load_inplace=True), 400, "Bad Request")
        self.assertEqual(self.d.post({"model": "rslora", "prompt": "a", "max_tokens": 1})[0], 200)

    def test_what_was_loaded_is_there_after_a_restart(self):
        self.load("durable")
        self.d.process.kill()
        self.d.process.wait()
        self.d.process.stdout.close()
        self.d.log.close()
        type(self).start()
        self.assertEqual(self.d.post({"model": "durable", "prompt": "a", "max_tokens": 1})[0], 200)
        self.assertEqual(self.unload("durable")[0], 200)

    def test_errors_of_the_http_layer_have_the_form_too(self):
        status, headers, body = self.d.request("GET", "/v1/load_lora_adapter")
        self.refused((status, body.decode(), headers["Content-Type"]), 405, "BadRequestError")

    def test_small_questions_have_small_answers(self):
        status, reply = self.d.get("/version")
        self.assertEqual((status, set(reply)), (200, {"version"}))
        self.assertRegex(reply["version"], r"^\d+\.\d+\.\d+$")
        self.assertEqual(self.d.get("/load"), (200, {"server_load": 0}))
        for method in ("GET", "POST"):
            status, _, body = self.d.request(method, "/ping")
            self.assertEqual((status, body), (200, b""))


class StartUp(unittest.TestCase):
    def test_lora_modules_are_adapters_in_either_spelling(self):
        d = Daemon(BASE, "--enable-lora", "--max-loras=2", "--max-lora-rank", "64", "--lora-modules", "a=" + os.path.join(ADAPTERS, "qv"),
                   json.dumps({"name": "publishers/ns/models/a", "path": os.path.join(ADAPTERS, "qv"), "base_model_name": "x"}), "--max-cpu-loras", "8")
        self.addCleanup(d.stop)
        texts = {d.complete(model=m, prompt="hello", max_tokens=8)["adapter_version"] for m in ("a", "publishers/ns/models/a")}
        self.assertEqual(len(texts), 1)

    def test_they_can_be_unloaded_until_the_next_start(self):
        d = Daemon(BASE, "--lora-modules", "a=" + os.path.join(ADAPTERS, "qv"))
        self.addCleanup(d.stop)
        status, _, body = d.request("POST", "/v1/unload_lora_adapter", b'{"lora_name": "a"}', {"Content-Type": "application/json"})
        self.assertEqual((status, body), (200, b"Success: LoRA adapter 'a' removed successfully."))
        self.assertEqual(d.post({"model": "a", "prompt": "x"})[0], 404)

    def test_a_module_that_is_not_there_ends_the_start(self):
        self.assertIn("nope", fails_to_start("--model", BASE, "--port", "0", "--lora-modules", json.dumps({"name": "x", "path": os.path.join(TINY, "nope")})))


if __name__ == "__main__":
    unittest.main()
