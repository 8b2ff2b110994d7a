"""What the end-to-end tests of hvrun share: tiny guests as bytes, and runs that always end."""
import ctypes
import os
import pathlib
import struct
import subprocess
import sys
import time

HVRUN = os.environ["HVRUN"]
TMP = pathlib.Path(os.environ["TMP"])
SAN = os.environ.get("HV_SAN", "")
STRETCH = int(os.environ["HV_STRETCH"])  # limits are for a fast machine; tests/run knows how slow this one is
LIMIT = 30 * STRETCH  # seconds: a watchdog, never a measure

# --- guests: real-mode code, loaded at 0x1000 ------------------------------------------------------------------------


def say(text):
    """out 0x3f8, one byte after the other."""
    return b"\xba\xf8\x03" + b"".join(bytes([0xB0, c, 0xEE]) for c in text.encode())


def leave(code):
    """The debug exit: the status is code << 1 | 1."""
    return bytes([0xBA, 0xF4, 0x00, 0xB0, code, 0xEE, 0xF4])


SPIN = b"\xeb\xfe"
HALT = b"\xfa\xf4"
FLOOD = b"\xba\xf8\x03\xb0\x78\xee\xeb\xfd"
# An empty interrupt table, protected mode, an invalid instruction.
TRIPLE_FAULT = b"\x0f\x01\x1e\x00\x20\x0f\x20\xc0\x0c\x01\x0f\x22\xc0\x0f\x0b"
# Gives back what comes in, until a 'q': wait for LSR bit 0, in, out, compare.
ECHO = b"\xba\xfd\x03\xec\xa8\x01\x74\xfb\xba\xf8\x03\xec\xee\x3c\x71\x75\xef" + leave(5)


def image(name, code):
    path = TMP / name
    path.write_bytes(code)
    return str(path)


# --- runs --------------------------------------------------------------------------------------------------------------


def hvrun(*args, limit=LIMIT, **more):
    """Runs hvrun to its end. more: subprocess.run's arguments; stdin is empty unless told otherwise."""
    if "input" not in more:
        more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run([HVRUN, *map(str, args)], timeout=limit, check=False, **more)
    done.out = (done.stdout or b"").decode(errors="replace")
    done.err = (done.stderr or b"").decode(errors="replace")
    return done


class Running:
    """A hvrun in the background; leaving the block ends it."""

    def __init__(self, *args, **more):
        more.setdefault("stdin", subprocess.DEVNULL)
        more.setdefault("stdout", subprocess.PIPE)
        more.setdefault("stderr", subprocess.PIPE)
        self.p = subprocess.Popen([HVRUN, *map(str, args)], **more)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.p.poll() is None:
            self.p.terminate()
        try:
            self.p.wait(10)
        except subprocess.TimeoutExpired:
            self.p.kill()
        self.p.communicate(timeout=LIMIT)

    def wait(self):
        self.out, self.err = ((b or b"").decode(errors="replace") for b in self.p.communicate(timeout=LIMIT))
        return self.p.returncode


def tidy():
    """Removes what runs that were killed had no time to remove."""
    for path in pathlib.Path(os.environ["XDG_RUNTIME_DIR"], "hvkit").glob("*"):
        path.unlink()


def until(what, why):
    """Waits for something that comes in its own time."""
    end = time.monotonic() + LIMIT
    while not (got := what()):
        if time.monotonic() > end:
            fail(f"never came: {why}")
        time.sleep(0.01)
    return got


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def check(ok, text, *details):
    if not ok:
        fail(" | ".join([text, *map(repr, details)]))
    print("ok  ", text)


def refused(name, done, status, *words):
    """An orderly refusal: that status, a sentence with those words, nothing else."""
    check(done.returncode == status and done.err.startswith("hvrun: ") and all(w in done.err for w in words),
          f"{name}: {done.err.strip()[:140]}", done.returncode, words)


# --- what the host does to a process ---------------------------------------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)


def deny(nr, errno, arg=0, value=None):
    """A preexec_fn: system call nr fails with errno, always or where its argument arg is value."""
    def load(offset):
        return struct.pack("HBBI", 0x20, 0, 0, offset)

    def jump(k, no):
        return struct.pack("HBBI", 0x15, 0, no, k)

    def ret(k):
        return struct.pack("HBBI", 0x06, 0, 0, k)

    where = b"" if value is None else load(16 + 8 * arg) + jump(value, 1)
    code = load(0) + jump(nr, len(where) // 8 + 1) + where + ret(0x00050000 | errno) + ret(0x7FFF0000)
    buf = ctypes.create_string_buffer(code, len(code))
    prog = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(buf)), 16)

    def install(keep=(buf, prog)):
        if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, prog, 0, 0):
            os._exit(99)
    return install


def drop_privileges_over_files():
    """A preexec_fn: after exec even root is bound by file modes."""
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)
