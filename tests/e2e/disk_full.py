#!/usr/bin/env python3
"""A host without room for what a guest writes: the VM stops and says so, and goes on when there is room again."""
# limit: 120
import resource
import signal
from qmp_common import *

SECTORS = 64  # that the guest copies, from the disk's start to right behind, each byte changed


def start(name, disk, limit, *options):
    """hvrun whose files may not grow beyond `limit` bytes, which is how a full disk looks to it."""
    def in_child():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    return subprocess.Popen([HVRUN, "--name", name, "--paused", "--timeout", str(80 * STRETCH), "--disk", disk, *options,
                             GUESTS / "virtio"], stdin=subprocess.DEVNULL, stdout=open(TMP / "out", "w"),
                            stderr=open(TMP / "err", "w"), preexec_fn=in_child)


def answers():
    return subprocess.run([HVCTL, "full", "status"], capture_output=True, check=False).returncode == 0


def events(c, name):
    return [e for e in c.seen if e.get("event") == name]


def wait_event(c, name, count=1):
    while len(events(c, name)) < count:
        c.seen.append(c.receive())


def status(c):
    return ask(c, "query-status")["status"]


def ask(c, command, **arguments):
    c.send(json.dumps({"execute": command, "arguments": arguments}).encode())
    while True:
        answer = c.receive()
        if "event" not in answer:
            assert "return" in answer, answer
            return answer["return"]
        c.seen.append(answer)


original = os.urandom(1 << 20)
(TMP / "original").write_bytes(original)
for form in ("raw", "qcow2"):
    disk = TMP / f"disk.{form}"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, disk, "1M"], check=True)
    if form == "raw":
        disk.write_bytes(original)
        room = 100 * 512  # in the middle of what it writes
    else:
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", TMP / "original", "-F", "raw", disk], check=True)
        room = disk.stat().st_size  # for no cluster at all
    process = start("full", disk, room)
    try:
        until("its socket", lambda: answers() or process.poll() is not None)
        c = Connection("full")
        c.seen = []
        ask(c, "cont")
        wait_event(c, "BLOCK_IO_ERROR")
        wait_event(c, "STOP")
        assert status(c) == "io-error", status(c)
        data = events(c, "BLOCK_IO_ERROR")[0]["data"]
        assert data == {"device": "virtio-blk0", "node-name": "virtio-blk0", "operation": "write", "action": "stop",
                        "nospace": True, "reason": "File too large"}, data
        out = subprocess.run([HVCTL, "full", "status"], capture_output=True, text=True, check=True).stdout
        assert "io-error" in out, out
        ask(c, "cont")  # no room yet: the same once more
        wait_event(c, "BLOCK_IO_ERROR", 2)
        wait_event(c, "STOP", 2)
        assert status(c) == "io-error", status(c)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        ask(c, "cont")
        assert process.wait(LIMIT) == 33, (TMP / "err").read_text()
    finally:
        process.kill()
        process.wait()
    said = (TMP / "err").read_text()
    assert "found no room on the host" in said and "the VM stops: make room and resume it" in said, said
    assert f"window 0: {SECTORS} sectors written and read back" in (TMP / "out").read_text()
    if form == "qcow2":
        subprocess.run(["qemu-img", "check", "-q", disk], check=True)
        subprocess.run(["qemu-img", "convert", "-O", "raw", disk, TMP / "after"], check=True)
    after = (TMP / "after" if form == "qcow2" else disk).read_bytes()
    n = SECTORS * 512
    assert after == original[:n] + bytes(b ^ 0xa5 for b in original[:n]) + original[2 * n:], f"{form}: other bytes"
    print(f"{form}: stopped twice for want of room, then went on")
