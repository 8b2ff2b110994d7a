#!/usr/bin/env python3
"""The serial line's back ends, with a guest that gives back what it gets."""
import os
import re
import socket
import stat
import subprocess
from hvrun_lib import *

hello = image("hello.bin", say("hello\r\n") + leave(0))
echo = image("echo.bin", say("[") + ECHO)

done = hvrun(echo, input=b"abc\x01x\x03q")
check(done.out == "[abc\x01x\x03q" and done.returncode == 11, "a pipe: every byte, escape keys too, is the guest's",
      done.out, done.returncode)
much = bytes(b"0123456789abcdef" * 600)
done = hvrun(echo, input=much + b"q")
check(done.out == "[" + much.decode() + "q", "9600 bytes through a FIFO of 16", len(done.out))

done = hvrun("--serial", "none", hello)
check(done.out == "" and done.returncode == 1, "none")

done = hvrun("--serial", f"file:{TMP}/out", hello)
check((TMP / "out").read_bytes() == b"hello\r\n", "file")
refused("a file that can't be", hvrun("--serial", "file:/nonexistent/out", hello), 1, "/nonexistent/out")

# A guest that has ended takes nothing with it that a slow reader still wants.
reader, writer = os.pipe()
with Running(image("long.bin", b"\xb9\x00\x80\xba\xf8\x03\xb0\x2e\xee\xe2\xfd" + leave(0)), stdout=writer) as run:
    os.close(writer)
    time.sleep(0.3)
    total = 0
    while chunk := os.read(reader, 4096):
        total += len(chunk)
    check(run.wait() == 1 and total == 32768, "a reader that starts late gets all", total)
    os.close(reader)

# A reader that leaves: the guest goes on.
reader, writer = os.pipe()
with Running("--timeout", "5", echo, stdin=subprocess.PIPE, stdout=writer) as run:
    os.close(writer)
    os.read(reader, 1)
    os.close(reader)
    run.p.stdin.write(b"abcq")
    run.p.stdin.flush()
    check(run.p.wait(LIMIT) == 11, "a reader that leaves stops nothing", run.p.returncode)

# pty
with Running("--serial", "pty", echo) as run:
    line = run.p.stderr.readline().decode()
    tty = re.search(r"/dev/pts/\d+", line)
    check(tty, "pty tells its name", line)
    fd = os.open(tty[0], os.O_RDWR | os.O_NOCTTY)
    check(os.read(fd, 1) == b"[", "pty: output from before the reader came")
    os.write(fd, b"hey\r")
    got = b""
    while len(got) < 4:
        got += os.read(fd, 16)
    check(got == b"hey\r", "pty: both ways, raw", got)
    os.write(fd, b"q")
    check(run.wait() == 11, "pty: end")
    os.close(fd)

# unix
path = f"{TMP}/line"


def client():
    """Connects as soon as somebody listens, which is a moment after the socket has its name."""
    def attempt():
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(LIMIT)
        try:
            s.connect(path)
        except ConnectionRefusedError:
            s.close()
            return None
        return s
    return until(attempt, "somebody who listens")


def receive(s, count):
    got = b""
    while len(got) < count and (chunk := s.recv(count - len(got))):
        got += chunk
    return got


with Running("--serial", f"unix:{path}", echo) as run:
    until(lambda: os.path.exists(path), "the socket")
    check(stat.S_IMODE(os.stat(path).st_mode) == 0o600, "unix: the socket is ours alone")
    done = hvrun("--serial", f"unix:{path}", hello)
    refused("unix: a path that is taken", done, 1, path)
    first = client()
    check(receive(first, 1) == b"[", "unix: output from before the first client")
    first.sendall(b"one")
    check(receive(first, 3) == b"one", "unix: both ways")
    first.close()
    second = client()
    second.sendall(b"twoq")
    check(receive(second, 4) == b"twoq", "unix: the next client is taken when one leaves")
    check(run.wait() == 11, "unix: end", run.p.returncode)
    second.close()
check(not os.path.exists(path), "unix: the socket is gone")

with Running("--serial", f"unix:{path}", "--timeout", "1", image("flood.bin", FLOOD)) as run:
    until(lambda: os.path.exists(path), "the socket")
    deaf = client()
    check(run.wait() == 124, "unix: a client that never reads stops nothing", run.p.returncode)
    deaf.close()
with Running("--serial", f"unix:{path}", echo) as run:
    until(lambda: os.path.exists(path), "the socket")
    run.p.kill()
check(os.path.exists(path), "a socket left by a crash")
done = hvrun("--serial", f"unix:{path}", hello)
check(done.returncode == 1 and not os.path.exists(path), "unix: a dead process's socket is replaced", done.err)
tidy()
