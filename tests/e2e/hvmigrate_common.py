"""What the end-to-end tests of hvmigrate share: runs that always end, runs on a terminal, and an NBD server of our own
that can be as slow or as wrong as a test wants."""
import fcntl
import json
import os
import pathlib
import pty
import random
import re
import select
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time

HVMIGRATE = os.environ["HVMIGRATE"]
TMP = pathlib.Path(os.environ["TMP"])
SAN = os.environ.get("HV_SAN", "")
STRETCH = int(os.environ["HV_STRETCH"])
LIMIT = 30 * STRETCH  # seconds: a watchdog, never a measure


# --- runs --------------------------------------------------------------------------------------------------------------


def hvmigrate(*args, **more):
    """Runs hvmigrate to its end. more: subprocess.run's arguments."""
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    more.setdefault("cwd", TMP)
    done = subprocess.run([HVMIGRATE, *map(str, args)], timeout=LIMIT, check=False, **more)
    done.out = (done.stdout or b"").decode(errors="replace")
    done.err = (done.stderr or b"").decode(errors="replace")
    return done


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def check(ok, text, *details):
    if not ok:
        fail(" | ".join([text, *map(repr, details)]))
    print("ok  ", text)


def refused(name, done, status, *words):
    """That status, nothing on stdout, and one sentence with those words."""
    lines = [line for line in done.err.splitlines() if not line.startswith("hvmigrate: note: ")]
    check(done.returncode == status and not done.out and lines and lines[-1].startswith("hvmigrate: ")
          and all(w in lines[-1] for w in words), f"{name}: {done.err.strip()[-200:]}", done.returncode, done.out, words)


def until(what, why):
    end = time.monotonic() + LIMIT
    while not (got := what()):
        if time.monotonic() > end:
            fail(f"never came: {why}")
        time.sleep(0.01)
    return got


def tool(name):
    """The path of another program, or a skip."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/local/bin")
    if not found:
        print(f"{name} is not installed")
        sys.exit(77)
    return found


class Terminal:
    """hvmigrate as the leader of a session on a pseudo-terminal of its own; all that it writes is in .seen."""

    def __init__(self, *args, columns=80, stdout=None, env=None):
        self.master, slave = pty.openpty()
        self.resize(columns)
        self.seen = b""
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
            os.dup2(slave, 0)
            os.dup2(slave if stdout is None else stdout, 1)
            os.dup2(slave, 2)
            os.close(self.master)
            os.chdir(TMP)
            os.execve(HVMIGRATE, [HVMIGRATE, *map(str, args)], {**os.environ, "TERM": "xterm", **(env or {})})
        os.close(slave)

    def resize(self, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def key(self, text):
        os.write(self.master, text.encode())

    def look(self):
        """More of what it writes; false at its end."""
        if not select.select([self.master], [], [], 0.02)[0]:
            return True
        try:
            more = os.read(self.master, 65536)
        except OSError:
            return False
        self.seen += more
        return bool(more)

    def expect(self, text, why):
        until(lambda: self.look() and text.encode() in self.seen, f"{why}: {text!r} in {self.seen[-300:]!r}")
        print("ok  ", why)

    def end(self):
        """The exit status, or minus the signal."""
        until(lambda: not self.look(), "its end")
        os.close(self.master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


# --- images ------------------------------------------------------------------------------------------------------------


def pattern(size, seed=1):
    """Bytes of a disk: random data, zeros and text in pieces of no even size."""
    rng = random.Random(seed)
    out = bytearray()
    while len(out) < size:
        n = rng.randrange(1, 200_000)
        out += (bytes(n), rng.randbytes(n), b"hvkit " * (n // 6 + 1))[rng.randrange(3)][:n]
    return bytes(out[:size])


def write(name, data):
    path = TMP / name
    path.write_bytes(data)
    return path


def sparse(name, size, *pieces):
    """A file of holes with pieces (offset, bytes)."""
    path = TMP / name
    with open(path, "wb") as f:
        f.truncate(size)
        for offset, data in pieces:
            f.seek(offset)
            f.write(data)
    return path


# --- an NBD server -----------------------------------------------------------------------------------------------------

REQUEST, SIMPLE, STRUCTURED = 0x25609513, 0x67446698, 0x668E33EF


class Server:
    """Serves self.data on a Unix socket. What a test wants to go wrong it overrides: read, write, status, size_of."""

    flags = 1 | 4 | 64 | 256  # HAS_FLAGS, FLUSH, WRITE_ZEROES, MULTI_CONN
    limits = None  # (least, preferred, most)
    extents = None  # [(length, flags), ...] over the whole disk; None: the server doesn't tell

    def __init__(self, data, name="nbd.sock"):
        self.data = bytearray(data)
        self.path = str(TMP / name)
        self.uri = f"nbd+unix:///?socket={self.path}"
        self.connections = 0
        self.reads = self.flushes = self.zeroed = 0
        self.lock = threading.Lock()
        self.listener = socket.socket(socket.AF_UNIX)
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.listener.bind(self.path)
        self.listener.listen(8)
        self.over = threading.Event()
        threading.Thread(target=self.accept, daemon=True).start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.over.set()
        self.listener.close()
        os.unlink(self.path)

    # What tests override.
    def size_of(self, connection):
        return len(self.data)

    def read(self, offset, length):
        """The bytes, an errno, or None to say nothing any more."""
        return bytes(self.data[offset:offset + length])

    def write(self, offset, data):
        self.data[offset:offset + len(data)] = data
        return 0

    def status(self, offset, length):
        out, at = [], 0
        for size, flags in self.extents:
            start, end = max(at, offset), min(at + size, offset + length)
            if start < end:
                out.append((end - start, flags))
            at += size
        return out

    def accept(self):
        while not self.over.is_set():
            try:
                peer, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self.serve, args=(peer, self.connections), daemon=True).start()

    def serve(self, peer, number):
        try:
            with peer:
                if self.negotiate(peer, number):
                    while self.answer(peer):
                        pass
        except (OSError, EOFError, struct.error):
            pass

    @staticmethod
    def take(peer, length):
        out = b""
        while len(out) < length:
            more = peer.recv(length - len(out))
            if not more:
                raise EOFError
            out += more
        return out

    def negotiate(self, peer, number):
        peer.sendall(b"NBDMAGICIHAVEOPT" + struct.pack(">H", 3))
        self.take(peer, 4)
        structured = False
        while True:
            _, option, length = struct.unpack(">QII", self.take(peer, 16))
            self.take(peer, length)

            def reply(kind, data=b"", option=option):
                peer.sendall(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)) + data)
            if option == 8:
                structured = True
                reply(1)
            elif option in (9, 10) and structured and self.extents is not None:
                reply(4, struct.pack(">I", 1) + b"base:allocation")
                reply(1)
            elif option in (9, 10):
                reply(1)
            elif option in (6, 7):
                reply(3, struct.pack(">HQH", 0, self.size_of(number), self.flags))
                if self.limits:
                    reply(3, struct.pack(">HIII", 3, *self.limits))
                reply(1)
                if option == 7:
                    return True
            elif option == 2:
                reply(1)
                return False
            else:
                reply(0x80000001)

    def answer(self, peer):
        magic, _, kind, handle, offset, length = struct.unpack(">IHHQQI", self.take(peer, 28))
        if magic != REQUEST or kind == 2:
            return False

        def simple(error):
            peer.sendall(struct.pack(">IIQ", SIMPLE, error, handle))

        def chunk(kind, data):
            peer.sendall(struct.pack(">IHHQI", STRUCTURED, 1, kind, handle, len(data)) + data)
        if kind == 0:
            with self.lock:
                self.reads += 1
            got = self.read(offset, length)
            if got is None:
                self.over.wait()
                return False
            if isinstance(got, int):
                chunk(32769, struct.pack(">IH", got, 0))
            else:
                chunk(1, struct.pack(">Q", offset) + got)
        elif kind == 1:
            simple(self.write(offset, self.take(peer, length)))
        elif kind == 3:
            self.flushes += 1
            simple(0)
        elif kind == 6:
            self.zeroed += length
            simple(self.write(offset, bytes(length)))
        elif kind == 7:
            chunk(5, struct.pack(">I", 1) + b"".join(struct.pack(">II", *e) for e in self.status(offset, length)))
        else:
            simple(22)
        return True


class Slow(Server):
    """Takes its time for each read."""

    delay = 0.05

    def read(self, offset, length):
        self.over.wait(self.delay)
        return super().read(offset, length)
