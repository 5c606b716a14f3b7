# SPDX-License-Identifier: MIT
"""Starts upload_daemon.c, built beside $ADAPTERD."""
import os
import re
import subprocess
import tempfile

from daemon import ADAPTERD, Daemon, clean_env

PROGRAM = os.path.join(os.path.dirname(ADAPTERD), "..", "tests", "http", "upload_daemon")


class UploadDaemon(Daemon):
    def __init__(self, *args, env=None):
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen([PROGRAM, *args], stdout=subprocess.PIPE, stderr=self.log, text=True, env={**clean_env(), **(env or {})})
        match = re.fullmatch(r"adapterd: listening on https?://([^\n]+):(\d+)\n", self.process.stdout.readline())
        if not match:
            self.process.wait()
            raise RuntimeError(f"upload_daemon did not start: {self.stderr()}")
        self.host, self.port = match[1], int(match[2])
