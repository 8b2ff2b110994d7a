"""What the scripts beside this one share: a VM that is ended whatever happens, and a line-wise QMP connection."""
import contextlib
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import time

HVRUN = os.environ["HVRUN"]
HVCTL = os.environ["HVCTL"]
GUESTS = pathlib.Path(os.environ["GUESTS"])
TMP = pathlib.Path(os.environ["TMP"])
RUNTIME = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "hvkit"
STRETCH = int(os.environ["HV_STRETCH"])
LIMIT = 30 * STRETCH


def skip(reason):
    print(reason)
    sys.exit(77)


def need(program):
    return shutil.which(program) or skip(f"{program} is not installed")


def until(what, condition):
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"{what} did not happen within {LIMIT} s"
        time.sleep(0.02)


@contextlib.contextmanager
def vm(name, *options, guest="shell"):
    """hvrun with a guest; yields its process when its socket is there and its serial line has said something."""
    serial = TMP / f"{name}.serial"
    process = subprocess.Popen(
        ["timeout", str(100 * STRETCH), HVRUN, "--name", name, "--serial", f"file:{serial}", "--timeout", str(90 * STRETCH), *options, GUESTS / guest],
        stdin=subprocess.DEVNULL, stderr=open(TMP / f"{name}.stderr", "w"))
    process.serial = serial
    try:
        until(f"start of {name}", lambda: (RUNTIME / f"{name}.sock").exists() or process.poll() is not None)
        assert process.poll() is None, (TMP / f"{name}.stderr").read_text()
        if "--paused" not in options:
            until("the guest's prompt", lambda: b"> " in serial.read_bytes())
        yield process
    finally:
        process.terminate()
        process.wait(LIMIT)


class Connection:
    """A plain socket; every object that arrives is kept in order."""

    def __init__(self, name, negotiate=True):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(LIMIT)
        folder = os.open(RUNTIME, os.O_PATH)
        until("a listener", lambda: self.reaches(f"/proc/self/fd/{folder}/{name}.sock"))
        os.close(folder)
        self.file = self.socket.makefile("rb")
        self.greeting = self.receive()
        self.events = []
        if negotiate:
            assert self.ask("qmp_capabilities") == {"return": {}}

    def reaches(self, path):
        """Somebody listens there, which is a moment after the socket has its name."""
        try:
            self.socket.connect(path)
        except ConnectionRefusedError:
            return False
        return True

    def send(self, data):
        self.socket.sendall(data if isinstance(data, bytes) else json.dumps(data).encode())

    def receive(self):
        line = self.file.readline()
        return json.loads(line) if line else None

    def answer(self):
        while (item := self.receive()) and "event" in item:
            self.events.append(item)
        return item

    def ask(self, command, **arguments):
        request = {"execute": command}
        if arguments:
            request["arguments"] = {key.replace("_", "-"): value for key, value in arguments.items()}
        self.send(request)
        return self.answer()

    def close(self):
        self.file.close()
        self.socket.close()
