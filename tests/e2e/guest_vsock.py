#!/usr/bin/env python3
"""The bare-metal driver's stream over the socket device: megabytes to a listener of the host's within its credit, an answer
behind the end, a port where nobody listens; the socket's name before, during and after a run; and that a guest inside the
sandbox reaches a listener that came later than the VM.
"""
# limit: 120
import os
import socket
import subprocess
import sys
import tempfile
import threading

from hvrun_lib import HVRUN, LIMIT, TMP, check, hvrun, refused

GUEST = os.environ["GUESTS"] + "/virtio"
SIZE = 5_000_000
folder = tempfile.mkdtemp(dir=os.environ["XDG_RUNTIME_DIR"])
path = os.path.join(folder, "a,b")  # a comma is written twice
option = path.replace(",", ",,")


def sum_up(listener, result):
    """Takes one connection's bytes, and says how many there were and whether they were right."""
    s = listener.accept()[0]
    s.settimeout(LIMIT)
    block = bytes(range(251)) * 300
    total, good = 0, True
    while data := s.recv(65536):
        good &= block[total % 251:total % 251 + len(data)] == data
        total += len(data)
    s.sendall(b"%d %s" % (total, b"good" if good else b"BAD"))
    s.close()
    result.append(total)


def listen():
    listener = socket.socket(socket.AF_UNIX)
    listener.settimeout(LIMIT)
    listener.bind(path + "_1234")
    listener.listen(4)
    return listener


for chip in ("split", "full"):
    listener, result = listen(), []
    thread = threading.Thread(target=sum_up, args=(listener, result))
    thread.start()
    done = hvrun("--irqchip", chip, "--timeout", LIMIT, "--rng", "--vsock", f"{option},cid=77", "--append", f"vsock={SIZE}", GUEST)
    thread.join(LIMIT)
    listener.close()
    os.unlink(path + "_1234")
    check(done.returncode == 33 and result == [SIZE] and f"CID 77, the host says '{SIZE} good'" in done.out,
          f"{SIZE} bytes reach the host, and the answer the guest, with --irqchip {chip}", done.returncode, result, done.out, done.err)
    check(os.listdir(folder) == [], "nothing is left of the socket")

done = hvrun("--timeout", LIMIT, "--vsock", option, GUEST)
check("nobody listens on the host" in done.out and done.returncode != 33, "where nobody listens the guest is refused", done.out, done.err)

# --- the socket -------------------------------------------------------------------------------------------------------
with socket.socket(socket.AF_UNIX) as live:
    live.bind(path)
    live.listen(1)
    refused("a live socket", hvrun("--vsock", option, GUEST), 1, path, "another path")
done = hvrun("--timeout", LIMIT, "--vsock", option, GUEST)
check("nobody listens" in done.out and os.listdir(folder) == [], "a socket that a dead process left is replaced", done.out, done.err)
refused("no folder", hvrun("--vsock", TMP / "nowhere" / "v", GUEST), 1, "folder")
refused("a long path", hvrun("--vsock", "/tmp/" + "x" * 100, GUEST), 2, "vsock")
refused("a CID of the host's", hvrun("--vsock", f"{option},cid=2", GUEST), 2, "from 3 on")
os.rmdir(folder)
sys.exit(0)
