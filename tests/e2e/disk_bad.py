#!/usr/bin/env python3
"""Disks with which something is wrong, before a VM starts and while it runs: each has its sentence, and costs no VM that runs.
A host without io_uring, and one without direct I/O."""
# limit: 200
import json
import signal
import socket
from hvrun_lib import *

GUEST = os.environ["GUESTS"] + "/virtio"
IO_URING_SETUP, IO_URING_ENTER = 425, 426
LOCKS = "another process has it open"


def disk(name, size=1 << 20):
    path = TMP / name
    path.write_bytes(os.urandom(size))
    return path


def run(spec, *more, **options):
    return hvrun("--timeout", 80 * STRETCH, "--disk", spec, *more, GUEST, limit=100 * STRETCH, **options)


def hvmigrate(*args):
    done = subprocess.run([os.environ["HVMIGRATE"], *map(str, args)], capture_output=True, text=True, check=False, timeout=LIMIT)
    done.out, done.err = done.stdout, done.stderr
    return done


def declined(name, done, *words):
    check(done.returncode == 1 and done.err.startswith("hvmigrate: ") and all(w in done.err for w in words), name, done.returncode, done.err)


def works(name, done, *words):
    check(done.returncode == 33 and all(w in done.out + done.err for w in words), name, done.returncode, done.out, done.err)


# --- before it starts ---

good = disk("good.raw")
refused("a disk that isn't there", run(TMP / "missing"), 1, f"{TMP}/missing: can't be opened")
refused("a folder", run(TMP), 1, "is a folder")
refused("no whole number of sectors", run(f"{disk('odd', 1000)},format=raw"), 2, "no whole number of 512-byte sectors")
refused("a format that there isn't", run(f"{good},format=floppy"), 2, "floppy")
refused("a cache that there isn't", run(f"{good},cache=lots"), 2, "cache 'lots' is neither none nor writeback")
stream = TMP / "stream.vmdk"
subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", good, stream], check=True)
refused("a format that can't be written", run(stream), 1, "can't be written in place")
works("the same to be read only", run(f"{stream},ro"), "read only")
readonly = disk("readonly.raw")
readonly.chmod(0o444)
refused("a file that may only be read", run(f"{readonly},format=raw", preexec_fn=drop_privileges_over_files), 1, "ermission denied")
works("the same to be read only", run(f"{readonly},format=raw,ro", preexec_fn=drop_privileges_over_files), "read only")
qcow2 = TMP / "disk.qcow2"
subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", good, qcow2], check=True)
refused("direct I/O on an image with tables", run(f"{qcow2},cache=none"), 2, "cache=none is for raw images")

# --- io_uring that the host doesn't let us have ---

for nr, errno, name in ((IO_URING_SETUP, 1, "io_uring_setup is forbidden"), (IO_URING_SETUP, 38, "a kernel without io_uring"),
                        (IO_URING_ENTER, 1, "io_uring_enter is forbidden")):
    works(name, run(f"{good},format=raw", "--verbose", preexec_fn=deny(nr, errno)), "no io_uring", "a thread waits for each request",
          "64 sectors written and read back")

# --- past the host's cache ---

try:
    os.close(os.open(good, os.O_RDONLY | os.O_DIRECT))
    works("cache=none", run(f"{good},format=raw,cache=none"), "64 sectors written and read back")
    works("cache=none without io_uring", run(f"{good},format=raw,cache=none", preexec_fn=deny(IO_URING_SETUP, 1)),
          "64 sectors written and read back")
except OSError:
    refused("cache=none where there is no direct I/O", run(f"{good},format=raw,cache=none"), 1, "no direct I/O")
works("cache=writeback", run(f"{good},format=raw,cache=writeback"), "64 sectors written and read back")

# --- while it runs ---


class Vm(Running):
    def __init__(self, *args):
        super().__init__("--name", "disk-bad", "--paused", "--timeout", 80 * STRETCH, *args, GUEST)
        path = pathlib.Path(os.environ["XDG_RUNTIME_DIR"], "hvkit", "disk-bad.sock")
        until(lambda: self.connect(path) or self.p.poll() is not None, "its socket")
        self.lines = self.qmp.makefile("rb")
        self.lines.readline()
        self.ask("qmp_capabilities")

    def connect(self, path):
        """False: there is no socket yet, or nobody listens at it yet."""
        self.qmp = socket.socket(socket.AF_UNIX)
        try:
            folder = os.open(path.parent, os.O_PATH)
            try:
                self.qmp.connect(f"/proc/self/fd/{folder}/{path.name}")
            finally:
                os.close(folder)
        except OSError:
            self.qmp.close()
            return False
        return True

    def ask(self, command, **arguments):
        self.qmp.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
        while "event" in (answer := json.loads(self.lines.readline())):
            pass
        return answer

    def __exit__(self, *error):
        self.lines.close()
        self.qmp.close()
        super().__exit__(*error)


with Vm("--disk", f"{good},format=raw") as vm:
    refused("a disk that another VM has", run(f"{good},format=raw"), 1, LOCKS)
    refused("the same to be read only", run(f"{good},format=raw,ro"), 1, LOCKS)
    copy = TMP / "copy.raw"
    for command in (["info", good], ["convert", good, copy], ["check", good], ["map", good], ["compare", good, good]):
        declined(f"hvmigrate {command[0]} of it", hvmigrate(command[0], "-f", "raw", *command[1:]), LOCKS, "--force-share reads it all the same")
    check(not copy.exists(), "nothing was made")
    check(hvmigrate("convert", "-U", "-f", "raw", good, copy).returncode == 0 and copy.read_bytes() == good.read_bytes(), "--force-share")
    for more in ([], ["--force"], ["--force", "-U"]):
        declined(f"hvmigrate convert {more} onto it", hvmigrate("convert", *more, qcow2, good), "another process has it open")
with Vm("--disk", f"{good},format=raw,ro") as vm:
    check(hvmigrate("info", "-f", "raw", good).returncode == 0, "hvmigrate reads beside a VM that only reads")
    declined("hvmigrate convert onto it", hvmigrate("convert", "--force", "-f", "qcow2", qcow2, good), "another process has it open")

cut = disk("cut.raw")
with Vm("--disk", f"{cut},format=raw") as vm:
    os.truncate(cut, 20 * 512)  # the guest reads 64
    vm.ask("cont")
    check(vm.wait() == 35 and "FAILED: a read" in vm.out and "virtio: something FAILED" in vm.out,
          "a file that was cut: an I/O error for the guest, which goes on", vm.out, vm.err)
    check("the file has become shorter" in vm.err, "and a line in the log", vm.err)

for spec, name in ((f"{disk('grow.raw')},format=raw", "raw"), (qcow2, "qcow2")):
    with Vm("--disk", spec) as vm:
        answer = vm.ask("block_resize", device="virtio-blk0", size=2 << 20)
        if name == "raw":
            check(answer == {"return": {}}, "block_resize", answer)
            check((TMP / "grow.raw").stat().st_size == 2 << 20, "the file has grown")
            done = subprocess.run([os.environ["HVCTL"], "disk-bad", "block_resize", "virtio-blk0", "3M"], capture_output=True, text=True, check=False)
            check(done.returncode == 0 and "resized" in done.stdout, "hvctl block_resize", done)
            for arguments, words in (({"device": "virtio-blk0", "size": 0}, "expects a >0 size"), ({"device": "virtio-blk0", "size": -5}, "expects a >0 size"),
                                     ({"device": "virtio-blk0", "size": 1000}, "multiple of 512"), ({"device": "hda", "size": 1024}, "there is no disk 'hda'"),
                                     ({"size": 1024}, "'device' is missing"), ({"device": "a", "node-name": "b", "size": 1024}, "give one of them")):
                answer = vm.ask("block_resize", **arguments)
                check(words in answer.get("error", {}).get("desc", ""), f"block_resize {arguments}", answer)
            check(vm.ask("block_resize", **{"node-name": "virtio-blk0", "size": 1 << 20}) == {"return": {}}, "and shrinks")
            check((TMP / "grow.raw").stat().st_size == 1 << 20, "the file, too")
            vm.ask("block_resize", device="virtio-blk0", size=3 << 20)
        else:
            check("qcow2 images can't be resized" in answer["error"]["desc"], "block_resize of qcow2", answer)
        vm.ask("cont")
        check(vm.wait() == 33 and f"disk, {6144 if name == 'raw' else 2048} sectors" in vm.out, f"{name}: the guest sees it", vm.out)

with Vm("--disk", f"{good},format=raw,ro") as vm:
    answer = vm.ask("block_resize", device="virtio-blk0", size=2 << 20)
    check("reading only" in answer["error"]["desc"], "block_resize of a disk that is read only", answer)
    vm.ask("quit")
    check(vm.wait() == 0, "the VM lives", vm.err)
