#!/usr/bin/env python3
"""The distribution's own kernel uses a virtio console, the agent's channel beside it, and a balloon.

A shell on hvc0 is driven over a Unix socket, and a client that leaves does it no harm. Through the channel,
which the guest finds by its name, megabytes go both ways and arrive whole; the guest sees clients come and go. The balloon
takes memory from the guest, and the host has it back; then the guest gets it again, and reports what it doesn't use. Its
statistics arrive.

Where /dev/kvm has no hardware behind it all runs are put into the box.
"""
# limit: 1500
# kvm: none
# once
import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

HVRUN = os.environ["HVRUN"]
STARTED = time.monotonic()
SECONDS = 300  # for one step at most: 1 on hardware
MIB = 1 << 20
SIZE = 4 * MIB + 4321
MODULES = ("virtio_mmio", "virtio_console", "virtio_balloon", "virtio_blk")
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev; $b mkdir /t
$b mount -t tmpfs -o size=90%% tmp /t
for m in %s; do $b insmod /m/$m.ko; done 2>/dev/null
$b --install -s /bin
export PATH=/bin
if [ -c /dev/hvc0 ]; then while :; do setsid getty -n -l /bin/sh 38400 hvc0 vt100; done & fi
agent() {
	exec 3<>$1 || return
	echo "AGENT $1"; here=0
	while :; do
		if read word n <&3; then
			here=1
			case $word in
			put) dd bs=4096 iflag=count_bytes,fullblock count=$n <&3 2>/dev/null | sha256sum | cut -c1-64 >&3;;
			get) dd bs=65536 if=/pattern 2>/dev/null >&3;;
			say) echo "said $n" >&3;;
			esac
		else
			[ $here = 1 ] && echo "HOST-LEFT"; here=0; sleep 1
		fi
	done
}
for i in 1 2 3 4 5 6 7 8 9 10; do
	p=$(grep -lx "$name" /sys/class/virtio-ports/*/name 2>/dev/null) && break; sleep 1
done
if [ -n "$p" ]; then agent /dev/$(basename $(dirname $p)) & else echo "NO-PORT $name"; fi
echo INIT-REACHED
exec sh
"""
PATTERN = random.Random(11).randbytes(SIZE)
UP = random.Random(12).randbytes(SIZE)


def here(good, what, *seen):
    if not good:
        sys.exit(f"FAIL {what}: {' | '.join(map(str, seen))}")
    print(f"ok   {what} ({time.monotonic() - STARTED:.0f} s)", flush=True)


class Line:
    """A client of a line's socket."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        self.seen = b""

    def send(self, text):
        self.socket.sendall(text.encode() if isinstance(text, str) else text)

    def until(self, text, limit=SECONDS):
        """Reads on until the text has come; what came before it. The end of the connection, or the limit, fails."""
        text = text.encode()
        self.socket.settimeout(limit)
        while text not in self.seen:
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                more = b""
            if not more:
                sys.exit(f"FAIL '{text.decode()}' never came: {self.seen[-1000:]}")
            self.seen += more
        before, _, self.seen = self.seen.partition(text)
        return before.decode(errors="replace")

    def exactly(self, count):
        while len(self.seen) < count:
            more = self.socket.recv(65536)
            if not more:
                sys.exit(f"FAIL {len(self.seen)} of {count} bytes came")
            self.seen += more
        taken, self.seen = self.seen[:count], self.seen[count:]
        return taken

    def close(self):
        self.socket.close()


class Qmp:
    def __init__(self, name):
        path = pathlib.Path(os.environ["XDG_RUNTIME_DIR"]) / "hvkit" / f"{name}.sock"
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(SECONDS)
        self.socket.connect(str(path))
        self.file, self.events = self.socket.makefile("rwb"), []
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, execute, **arguments):
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while "event" in (line := json.loads(self.file.readline())):
            self.events.append(line)
        if "error" in line:
            sys.exit(f"FAIL {execute}: {line}")
        return line["return"]

    def balloon(self, what, good):
        """query-balloon until its answer is good."""
        for _ in range(SECONDS):
            if good(answer := self("query-balloon")):
                return answer
            time.sleep(1)
        return sys.exit(f"FAIL {what}: {answer}")

    def state(self, device):
        return next(d["state"] for d in self("x-hv-info", what="devices") if device in d["device"])


@contextlib.contextmanager
def linux(name, *options, append="", before="INIT-REACHED"):
    """hvrun with the kernel; its serial line is a file. Ended by the test, through QMP."""
    command = [HVRUN, "--name", name, "--mem", "512M", "--timeout", "800", "--initrd", "initrd", "--serial", f"file:{name}.out",
               "--append", f"console=ttyS0 panic=-1 quiet {append}", *options, "kernel"]
    pathlib.Path(f"{name}.out").unlink(missing_ok=True)  # of a box that died
    with open(f"{name}.err", "wb") as err, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=err) as process:
        try:
            wait_for(f"{name}.out", before, process)
            yield process
            process.wait(60)
        finally:
            process.kill()
    here(process.returncode == 0, f"{name}: an orderly end", process.returncode, said(name))
    here(said(name) == "", f"{name}: hvrun has nothing to say", said(name))


def said(name):
    return pathlib.Path(f"{name}.err").read_text(errors="replace")


def output(name):
    path = pathlib.Path(f"{name}.out")
    return path.read_text(errors="replace") if path.exists() else ""


def wait_for(path, text, process, times=1):
    name = path.rpartition(".")[0]
    for _ in range(SECONDS * 2):
        if output(name).count(text) >= times:
            return
        if process.poll() is not None:
            break
        time.sleep(0.5)
    sys.exit(f"FAIL '{text}' never came: {output(name)[-1500:]} | {said(name)}")


# --- what is tried --------------------------------------------------------------------------------------------------------
def lines():
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["XDG_RUNTIME_DIR"]))
    console, agent = folder / "console", folder / "agent"
    options = ("--console", f"unix:{console}", "--agent", f"unix:{agent},name=test.agent.0", "--cpus", "2")
    with linux("lines", *options, append="name=test.agent.0") as process:
        qmp = Qmp("lines")
        shell(console)
        channel(agent, process)
        for _ in range(SECONDS):  # until the last client has been seen to go
            state = qmp.state("virtio-console")
            if "host closed" in state:
                break
            time.sleep(1)
        here("console: guest open, host open" in state and "test.agent.0: guest open, host closed" in state, "info devices tells", state)
        qmp("stop")
        here(qmp("query-status")["status"] == "paused", "the VM is paused")
        paused = Line(console)
        paused.send("echo PAUSED-$((6 * 7))\n")
        try:
            paused.until("PAUSED-42", 2)
        except SystemExit:
            pass
        here(b"PAUSED" not in paused.seen, "while it is, nothing comes of what is typed", paused.seen[-200:])
        qmp("cont")
        paused.until("PAUSED-42")
        paused.close()
        here(True, "and it is not lost")
        qmp("quit")
    here(not console.exists() and not agent.exists(), "the sockets are gone")
    folder.rmdir()


def shell(path):
    line = Line(path)
    line.send("\n")
    line.until("# ")
    line.send("echo A-SHELL-$((6 * 7)) on $(tty)\n")
    line.until("A-SHELL-42 on /dev/hvc0")
    here(True, "a shell on hvc0 takes commands from a Unix socket")
    line.send("for i in $(seq 1200); do echo \"line $i of many\"; done; echo THE-$((1 + 1))-END\n")
    text = line.until("THE-2-END")
    numbers = [int(words.split()[1]) for words in text.split("\r\n") if words.startswith("line ") and words.endswith(" of many")]
    here(numbers == list(range(1, 1201)), "what a client reads is whole, however much it is", len(numbers), text[-200:])
    line.send("for i in $(seq 500); do echo \"line $i for nobody\"; done; echo DONE-$((2 + 2)) >/t/done\n")
    line.until("line 1 for nobody")
    line.close()
    line = Line(path)
    line.send("until [ -f /t/done ]; do sleep 1; done; echo AGAIN-$((5 * 5))\n")
    line.until("AGAIN-25")
    here(True, "a client that leaves in the middle stops nothing")
    line.send("stty -echo; PS2=; echo QUIET-$((6 * 6))\n")
    line.until("QUIET-36")
    line.send("cat >/t/typed <<'E'\n" + "".join(f"typed line {i}\n" for i in range(1000)) + "E\nsha256sum /t/typed | cut -c1-64\n")
    want = hashlib.sha256("".join(f"typed line {i}\n" for i in range(1000)).encode()).hexdigest()
    line.until(want)
    here(True, "what is typed faster than the guest reads waits, and none of it is lost")
    line.close()


def channel(path, process):
    for turn in range(2):
        line = Line(path)
        line.send(f"put {SIZE}\n")
        line.send(UP)
        digest = line.exactly(65).decode().strip()
        here(digest == hashlib.sha256(UP).hexdigest(), f"client {turn + 1}: {SIZE} bytes reach the guest's port", digest)
        line.send("get\n")
        here(hashlib.sha256(line.exactly(SIZE)).digest() == hashlib.sha256(PATTERN).digest(), "as many come from it")
        line.close()
        wait_for("lines.out", "HOST-LEFT", process, turn + 1)
        here(True, "the guest sees the client go")
    # One that leaves in the middle: the guest's program waits, as nobody is there, and the next client has what it still writes.
    line = Line(path)
    line.send("get\n")
    line.exactly(1000)
    line.close()
    line = Line(path)
    line.send("say hello\n")
    line.until("said hello\n")
    here(True, "a client that leaves in the middle harms nothing")
    line.close()


def rss(process):
    text = pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
    return next(int(words.split()[1]) * 1024 for words in text.splitlines() if words.startswith("VmRSS"))


def balloon():
    folder = pathlib.Path(tempfile.mkdtemp(dir=os.environ["XDG_RUNTIME_DIR"]))
    with open("disk", "wb") as file:
        file.truncate(300 * MIB)
    with linux("balloon", "--balloon", "--console", f"unix:{folder}/console", "--disk", "disk,ro") as process:
        qmp, line = Qmp("balloon"), Line(folder / "console")

        def run(command):
            line.send(f"{command}; echo DONE-$((20 + 3))\n")
            return line.until("DONE-23")

        def memory(name):
            text = run(f"grep ^{name}: /proc/meminfo")
            return int(text.split(f"{name}:")[-1].split()[0]) * 1024

        line.send("\n")
        answer = qmp.balloon("statistics arrive", lambda a: a["stats"].get("stat-free-memory"))
        stats = answer["stats"]
        here(answer["actual"] == 512 * MIB and answer["in-use"], "the guest has all of its memory at first", answer)
        here(0 < stats["stat-free-memory"] <= stats["stat-available-memory"] + 64 * MIB < 600 * MIB and
             400 * MIB < stats["stat-total-memory"] <= 512 * MIB, "its statistics arrive and make sense", stats)
        here(abs(answer["last-update"] - time.time()) < 60, "and they are of now", answer["last-update"])
        total, before = memory("MemTotal"), rss(process)
        here(abs(stats["stat-total-memory"] - total) < MIB, "the guest itself says the same", total)
        run("dd if=/dev/vda of=/dev/null bs=1M 2>/dev/null")
        full = rss(process)
        here(full > before + 200 * MIB, "the guest's page cache costs the host memory", before, full)
        qmp("balloon", value=160 * MIB)
        answer = qmp.balloon("the balloon is filled", lambda a: a["actual"] <= 161 * MIB)
        small, left = rss(process), memory("MemFree")
        here(small < full - 150 * MIB, "the host has memory back", full, small)
        here(left < 160 * MIB, "and the guest has less", left)
        qmp("query-status")
        changes = [e["data"]["actual"] for e in qmp.events if e["event"] == "BALLOON_CHANGE"]
        here(changes and changes == sorted(changes, reverse=True) and changes[0] < 512 * MIB, "BALLOON_CHANGE tells on the way", changes)
        qmp("balloon", value=512 * MIB)
        qmp.balloon("the balloon is empty", lambda a: a["actual"] == 512 * MIB)
        more = memory("MemFree")
        here(more > left + 200 * MIB, "the guest has its memory again", left, more)
        run("dd if=/dev/zero of=/t/big bs=1M count=200 2>/dev/null")
        again = rss(process)
        here(again > small + 150 * MIB, "and can use it", small, again)
        reported = qmp("query-balloon")["reported"]
        run("rm /t/big")
        qmp.balloon("free pages are reported", lambda a: a["reported"] > reported + 100 * MIB)
        here(rss(process) < again - 100 * MIB, "what the guest frees, the host gets by itself", again, rss(process))
        state = qmp.state("virtio-balloon")
        here("0 pages refused" in state, "no page was refused", state)
        qmp("quit")
    folder.rmdir()


if len(sys.argv) > 1:
    {"lines": lines, "balloon": balloon}[sys.argv[1]]()
    sys.exit(0)

# --- here -----------------------------------------------------------------------------------------------------------------
from linux_lib import Linux, SRC, TMP, check  # noqa: E402

kernel = Linux()
found = kernel.modules(*MODULES)
kernel.initrd("initrd", INIT % " ".join(name for name, _ in found), found, [("pattern", 0o100644, PATTERN)])
shutil.copyfile(kernel.image, TMP / "kernel")
for scene in ("lines", "balloon"):
    kernel.execute([f"HVRUN={HVRUN} python3 {SRC}/tests/e2e/linux_console.py {scene} >{scene}.log 2>&1; echo $? >{scene}.status"], 700)
    log = (TMP / f"{scene}.log").read_text(errors="replace")
    print(log, end="")
    check((TMP / f"{scene}.status").read_text().strip() == "0", f"{scene}: all of it")
