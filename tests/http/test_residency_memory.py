# SPDX-License-Identifier: MIT
"""Memory of replaced versions goes back to the system, not only out of a gauge."""
import tempfile
import threading
import unittest

from daemon import wait_until
from registry_util import BASE, Registry, make_adapter


class Memory(unittest.TestCase):
    def setUp(self):
        self.state = tempfile.TemporaryDirectory(prefix="adapterd-test-")
        self.d = Registry(BASE, "--served-name", "base", "--state-dir", self.state.name, "--threads", "1")
        self.pool = [make_adapter(i, rank=192, modules=("q_proj", "k_proj", "v_proj")) for i in range(3)]  # 1 MB each, packed
        self.d.upload("a", self.pool[0])
        self.d.answer("a")
        self.live = self.d.metric("adapterd_adapter_live_bytes")

    def tearDown(self):
        self.d.stop()
        self.state.cleanup()

    def replace(self, times):
        for i in range(times):
            self.assertEqual(self.d.new_version("a", self.pool[(i + 1) % 3])[0], 201)
            self.d.answer("a", n=1)
        self.d.wait_for("adapterd_adapter_live_bytes", self.live)
        return self.d.metric("process_resident_memory_bytes")

    def test_resident_memory_does_not_grow_with_replacements(self):
        before = self.replace(12)  # threads have their stacks and buffers from then on
        grown = self.replace(36) - before
        self.assertLess(grown, 3 * self.live, f"36 versions of {self.live:.0f} bytes later {grown:.0f} bytes more are resident")

    def test_a_running_request_holds_its_version_and_no_longer(self):
        ask = threading.Thread(target=lambda: self.d.post({"model": "a", "prompt": [1, 2], "max_tokens": 400, "n": 64, "ignore_eos": True}))
        ask.start()
        wait_until(lambda: self.d.show("a")[1]["versions"][-1]["leases"], "it runs")
        self.d.new_version("a", self.pool[1])
        self.assertEqual(self.d.metric("adapterd_adapter_live_bytes"), 2 * self.live)
        ask.join()
        self.d.wait_for("adapterd_adapter_live_bytes", self.live)
        self.assertEqual(self.d.metric("adapterd_adapter_memory_bytes"), self.live)


if __name__ == "__main__":
    unittest.main()
