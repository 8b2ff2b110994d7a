#!/usr/bin/env python3
"""The distribution's own kernel uses the socket device, in both directions: several megabytes with checksums, many connections
at once, ends of one side only, ports where nobody listens, a host program that is slow, one that is killed in mid-transfer, a
pause in mid-transfer. The guest's end is guest/vsock_peer.c, made here as a static program; the host's end is this script
again, run where Linux runs: here, or where /dev/kvm has no hardware behind it, in the box.
"""
# limit: 900
# kvm: none
# once
import os
import pathlib
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib

HVRUN = os.environ["HVRUN"]
HVCTL = os.environ["HVCTL"]
SECONDS = 300  # for the whole of a VM's life
SIZE = 4_000_000
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in %s; do $b insmod /m/$m.ko; done
echo "PEER: $($b cat /sys/bus/virtio/devices/*/device)"
/peer
$b poweroff -f
"""

# --- the host's end, where the VM runs ---------------------------------------------------------------------------------


def here(good, what, *seen):
    if not good:
        sys.exit(f"FAIL {what}: {' | '.join(map(str, seen))}")
    print("ok  ", what, flush=True)


def pattern(size):
    x, block = 1, bytearray()
    while len(block) < 65521:
        x = (x * 1664525 + 1013904223) % 2**32
        block.append(x >> 24)
    return (bytes(block) * (size // len(block) + 1))[:size]


def new_socket():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(SECONDS)
    return s


def line_of(s):
    """A line, byte by byte: what follows it is the stream's. b"" at the end."""
    line = b""
    while not line.endswith(b"\n") and (more := s.recv(1)):
        line += more
    return line


def call(path, port):
    """A stream to the guest's port, or None where the guest doesn't listen."""
    s = new_socket()
    s.connect(path)
    try:
        s.sendall(f"CONNECT {port}\n".encode())
        answer = line_of(s)
    except OSError:
        answer = b""
    if re.fullmatch(rb"OK \d+\n", answer):
        return s
    s.close()
    return None


def listen(path, port):
    s = new_socket()
    s.bind(f"{path}_{port}")
    s.listen(16)
    return s


def rest_of(s):
    data = bytearray()
    while more := s.recv(1 << 18):
        data += more
    return bytes(data)


def summary(data):
    return f"{len(data)} {zlib.adler32(data)}\n".encode()


def send_to_guest(path, data):
    with call(path, 5001) as s:
        s.sendall(data)
        s.shutdown(socket.SHUT_WR)  # and the answer still comes
        return line_of(s)


def get_from_guest(path, size):
    with call(path, 5002) as s:
        s.sendall(b"%d\n" % size)
        return rest_of(s)


def echo(path, data):
    with call(path, 5003) as s:
        sender = threading.Thread(target=lambda: (s.sendall(data), s.shutdown(socket.SHUT_WR)))
        sender.start()
        back = rest_of(s)
        sender.join(SECONDS)
        return back


def many_at_once(path, data):
    results = {}

    def one(i):
        part = data[i * 1000:i * 1000 + 300_000]
        if i % 3 == 0:
            results[i] = send_to_guest(path, part) == summary(part)
        elif i % 3 == 1:
            results[i] = get_from_guest(path, 300_000) == data[:300_000]
        else:
            results[i] = echo(path, part) == part

    threads = [threading.Thread(target=one, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(SECONDS)
    return results


class Control:
    """The line to the guest's end."""

    def __init__(self, path):
        end = time.monotonic() + SECONDS
        while not (s := call(path, 5000)):  # until the driver and its peer are there
            if time.monotonic() > end:
                sys.exit("FAIL the guest never listens")
            time.sleep(0.2)
        self.s = s

    def ask(self, command):
        self.s.sendall(command.encode() + b"\n")

    def answer(self):
        return line_of(self.s)


def from_guest(path, control, data):
    with listen(path, 6000) as listener:
        control.ask(f"push 6000 {len(data)}")
        s = listener.accept()[0]
        s.settimeout(SECONDS)
        got = rest_of(s)
        here(got == data, f"the guest sends {len(data)} bytes to a listener of the host's and ends its side", len(got))
        s.sendall(b"and this comes back\n")
        here(control.answer() == b"and this comes back\n", "the other side is still open then")
        s.close()
    control.ask("push 6999 1")
    here((got := control.answer()) == b"error ECONNRESET\n", "a port of the host's where nobody listens refuses", got)
    control.ask("push 6000 1")
    here((got := control.answer()) == b"error ECONNRESET\n", "so does one whose listener has gone", got)


def slow_program(path, control, data):
    with listen(path, 6002) as listener:
        control.ask(f"push 6002 {len(data)}")
        s = listener.accept()[0]
        s.settimeout(SECONDS)
        time.sleep(2)  # the guest has filled all buffers by now, or is still at it; both are right
        got = rest_of(s)
        here(got == data, "a program that is slow loses nothing", len(got))
        s.sendall(b"\n")
        s.close()
        control.answer()


def killed_program(path, control):
    """A child takes some of what the guest sends without end, and is killed over the rest."""
    with listen(path, 6001) as listener:
        control.ask("flood 6001")
        s = listener.accept()[0]
        child = os.fork()
        if child == 0:
            s.settimeout(SECONDS)
            got = 0
            while got < 200_000:
                got += len(s.recv(65536))
            os.kill(os.getpid(), signal.SIGKILL)
        s.close()
        os.waitpid(child, 0)
        got = control.answer()
        here(got in (b"error EPIPE\n", b"error ECONNRESET\n"), "a host program that is killed ends the guest's stream", got)


def hvctl(*words):
    return subprocess.run([HVCTL, "linux-vsock", *words], capture_output=True, text=True, timeout=120, check=True).stdout


def pause_and_resume(path, data):
    with call(path, 5002) as s:
        s.sendall(b"%d\n" % len(data))
        got = b""
        while len(got) < 300_000:
            got += s.recv(65536)
        hvctl("pause")
        told = hvctl("info", "devices")
        here(re.search(r", ([2-9]|\d\d+) connections", told), "a stream outlives a pause, beside the line to the peer", told)
        hvctl("resume")
        got += rest_of(s)
        here(got == data, "and goes on after it", len(got))


def drive(path):
    data = pattern(SIZE)
    control = Control(path)
    here(True, "the guest's driver and its program are there")
    here(call(path, 4999) is None, "a port where the guest doesn't listen closes the connection")
    here((got := send_to_guest(path, data)) == summary(data), f"{SIZE} bytes to the guest, and an answer behind the end", got)
    here((got := get_from_guest(path, SIZE)) == data, f"{SIZE} bytes from the guest", len(got))
    results = many_at_once(path, data)
    here(len(results) == 12 and all(results.values()), "12 connections at once, each with its own bytes", results)
    from_guest(path, control, data)
    slow_program(path, control, data[:1_500_000])
    killed_program(path, control)
    pause_and_resume(path, data)
    line = next(line for line in hvctl("info", "devices").splitlines() if "virtio-vsock" in line)
    here("CID 42" in line and "in use" in line, "info devices tells of it", line)
    control.ask("quit")


def run_vm(kernel):
    folder = tempfile.mkdtemp(dir=os.environ.get("XDG_RUNTIME_DIR") or "/run")
    path = os.path.join(folder, "v")
    with open("hvrun.out", "wb") as out, open("hvrun.err", "wb") as err:
        vm = subprocess.Popen([HVRUN, "--name", "linux-vsock", "--mem", "512M", "--cpus", "2", "--timeout", str(SECONDS), "--initrd",
                               "initrd", "--append", "console=ttyS0 panic=-1 quiet", "--vsock", f"{path},cid=42", kernel],
                              stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    try:
        while not os.path.exists(path) and vm.poll() is None:
            time.sleep(0.05)
        drive(path)
        status = vm.wait(SECONDS)
        here(status == 0, "the guest turns itself off", status)
        here(not os.path.exists(path), "and the socket is gone")
    finally:
        if vm.poll() is None:
            vm.kill()
            vm.wait()
        print(pathlib.Path("hvrun.out").read_text(errors="replace")[-3000:], pathlib.Path("hvrun.err").read_text())
        shutil.rmtree(folder)


if sys.argv[1:2] == ["host"]:
    run_vm(sys.argv[2])
    sys.exit(0)

# --- the test's end ----------------------------------------------------------------------------------------------------
from labs_staff_lib import TMP, check, skip  # noqa: E402
from linux_lib import Linux  # noqa: E402

linux = Linux()
here_folder = pathlib.Path(__file__).resolve().parent
peer = TMP / "peer"
made = subprocess.run([os.environ.get("CC", "cc").split()[0], "-static", "-O2", "-Wall", "-D_GNU_SOURCE", "-o", peer,
                       here_folder / "guest" / "vsock_peer.c"], capture_output=True, text=True, timeout=120, check=False)
if made.returncode:
    skip(f"no static program can be made here: {made.stderr.strip()[-200:]}")
modules = linux.modules("virtio_mmio", "vsock", "vmw_vsock_virtio_transport_common", "vmw_vsock_virtio_transport")
linux.initrd("initrd", INIT % " ".join(name for name, _ in modules), modules, [("peer", 0o100755, peer.read_bytes())])
linux.execute([f"HVRUN={shlex.quote(HVRUN)} HVCTL={shlex.quote(HVCTL)} python3 {shlex.quote(str(pathlib.Path(__file__).resolve()))} "
               f"host {shlex.quote(linux.image)} >out 2>&1; echo $? >status"])
text = (TMP / "out").read_text(errors="replace")
print(text)
check((TMP / "status").read_text().strip() == "0" and "PEER: done" in text, "the host's end is content")
