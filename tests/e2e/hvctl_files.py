#!/usr/bin/env python3
"""Files that hvctl writes for a sandboxed VM: complete or not there, in the user's own place, and gone after Ctrl-C."""
import json
import os
import signal
import subprocess
import time

from qmp_common import HVCTL, LIMIT, TMP, until, vm


def hvctl(*words, status=0):
    done = subprocess.run([HVCTL, "files", *words], capture_output=True, text=True, timeout=2 * LIMIT, stdin=subprocess.DEVNULL)
    assert done.returncode == status, f"hvctl {words}: status {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def names():
    return {p.name for p in folder.iterdir()}


folder = TMP / "here"
folder.mkdir()
os.chdir(folder)
with vm("files") as process:
    hvctl("trace", "on")
    hvctl("send", "keys")
    time.sleep(0.2)
    assert "wrote my trace.json" in hvctl("trace", "save", "my trace.json")
    trace = json.loads((folder / "my trace.json").read_text())
    assert any(event["ph"] == "X" for event in trace["traceEvents"]), trace
    assert "wrote core" in hvctl("dump", "core")
    assert (folder / "core").read_bytes()[:4] == b"\x7fELF"
    assert (folder / "core").stat().st_mode & 0o777 == 0o600
    hvctl("dump", "-p", "core")  # again, over the old one
    assert "cannot" in hvctl("dump", "no/such/folder/core", status=1)
    assert "usage: dump" in hvctl("dump", status=2)
    assert names() == {"core", "my trace.json"}, names()
    # Ctrl-C at any moment: the file is there and whole, or it is not there, and nothing else is left.
    for delay in (0, 0.001, 0.003, 0.01, 0.03):
        dump = subprocess.Popen([HVCTL, "files", "dump", "cut"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        dump.send_signal(signal.SIGINT)
        dump.wait(30)
        assert names() <= {"core", "my trace.json", "cut"}, names()
        if (folder / "cut").exists():
            assert (folder / "cut").stat().st_size == (folder / "core").stat().st_size
            (folder / "cut").unlink()
    # A dump whose client has gone holds the VM until its file is written.
    until("running on after the dumps", lambda: "running" in hvctl("status"))
    hvctl("stop")
    assert process.wait(30) == 0
