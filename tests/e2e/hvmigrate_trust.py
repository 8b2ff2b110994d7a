#!/usr/bin/env python3
"""What may be trusted: names that contradict contents, sources that change while they are read, destinations that come
into being meanwhile, parents in a circle, disks of a thousand extents, and a salvage inside the sandbox."""
# limit: 120
# kvm: none
import resource
import struct
import threading
import time
from disks import *

need_qemu_img()
rng = random.Random(seed())
DATA = rng.randbytes(4 * MIB)
RAW = write_raw(TMP / "disk.raw", DATA)


def said(done):
    return done.err.strip()[-160:]


# --- a raw disk's name over another format's content, which a guest can have written -----------------------------------

for fmt, ours in (("qcow2", "qcow2"), ("vmdk", "vmdk"), ("vpc", "vhd"), ("vhdx", "vhdx"), ("vdi", "vdi")):
    for name in ("guest.raw", "guest.dd"):
        path = TMP / name
        path.unlink(missing_ok=True)
        qemu_img("convert", "-f", "raw", "-O", fmt, *(["-o", "force_size=on"] if fmt == "vpc" else []), RAW, path)
        for command in (["convert", "-q", "-O", "raw", path, "-"], ["info", path], ["compare", path, RAW]):
            done = hvmigrate(*command)
            check(refused(done, DAMAGED, f"--format {ours}", "--format raw") and not done.stdout,
                  f"{name} of {ours}, {command[0]}: {said(done)}", done.returncode)
        done = hvmigrate("convert", "-q", "-f", "raw", "-O", "raw", path, "-")
        check(done.returncode == 0 and done.stdout == path.read_bytes(), f"{name} of {ours} as raw", said(done))
        done = hvmigrate("convert", "-q", "-f", ours, "-O", "raw", path, "-")
        check(done.returncode == 0 and done.stdout == DATA, f"{name} of {ours} as {ours}", said(done))
path = (TMP / "guest.dd").rename(TMP / "guest.img")
done = hvmigrate("convert", "-O", "raw", path, "-")
check(done.returncode == 0 and done.stdout == DATA and "--format raw" in done.err,
      "a name of all formats leaves it to the content, which is said", said(done))
path = path.rename(TMP / "nameless")
done = hvmigrate("convert", "-q", "-O", "raw", path, "-")
check(done.returncode == 0 and done.stdout == DATA, "a name that says nothing leaves it to the content", said(done))

# --- names that lead nowhere -------------------------------------------------------------------------------------------

for backing in ('json:{"driver":"raw","file.filename":"/etc/passwd"}', "nbd://127.0.0.1/x", "/dev/fd/0", "fat:/etc"):
    path = TMP / "leads.qcow2"
    path.unlink(missing_ok=True)
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-b", "x" * len(backing), "-F", "raw", path, "4M")
    path.write_bytes(path.read_bytes().replace(b"x" * len(backing), backing.encode(), 1))
    with open("/etc/passwd", "rb") as stdin:
        done = hvmigrate("convert", "-q", "-O", "raw", path, "-", stdin=stdin)
    check(done.returncode in (1, DAMAGED) and not done.stdout and backing[:8] in done.err, f"backing {backing}: {said(done)}")

# --- a source that somebody writes to ----------------------------------------------------------------------------------

class Toucher(threading.Thread):
    """Writes to a file again and again, the same bytes to the same place."""

    def __init__(self, path):
        super().__init__(daemon=True)
        self.path, self.over = path, threading.Event()
        self.start()

    def run(self):
        with open(self.path, "r+b") as f:
            byte = f.read(1)
            while not self.over.is_set():
                f.seek(0)
                f.write(byte)
                f.flush()
                time.sleep(0.001)


busy = write_raw(TMP / "busy.raw", rng.randbytes(64 * MIB))
for command in (["convert", "-q", busy, TMP / "from-busy.raw"], ["convert", "-q", "-O", "raw", busy, "-"],
                ["convert", "-q", "--verify", "-O", "qcow2", busy, TMP / "from-busy.qcow2"], ["compare", busy, RAW]):
    toucher = Toucher(busy)
    done = hvmigrate(*command)
    toucher.over.set()
    toucher.join()
    check(refused(done, 1, "busy.raw: was written to while it was read"), f"a source that changes, {command[0]}: {said(done)}",
          done.returncode)
    check(not list(TMP.glob("from-busy*")), "nothing is left of it", list(TMP.glob("from-busy*")))

# --- a destination that comes into being -------------------------------------------------------------------------------

for suffix, options in (("raw", []), ("vmdk", ["-O", "vmdk:monolithicFlat"])):
    target = TMP / f"late.{suffix}"
    run_ = subprocess.Popen([HVMIGRATE, "convert", "-q", "--verify", *options, busy, target], stderr=subprocess.PIPE, text=True)
    while run_.poll() is None and not target.with_name(target.name + ".partial").exists():
        time.sleep(0.0005)
    target.write_text("somebody else's")
    err = run_.communicate(timeout=LIMIT)[1]
    check(run_.returncode == 1 and "came into being" in err and target.read_text() == "somebody else's",
          f"a file that has the name by now: {err.strip()[-120:]}", run_.returncode)
    left = list(TMP.glob(f"late*.{suffix}*"))
    check(left == [target], "nothing else is left", left)
    done = hvmigrate("convert", "-q", "--force", *options, busy, target)
    check(done.returncode == 0 and target.stat().st_size != 15, "--force replaces it", said(done))

# --- circles -----------------------------------------------------------------------------------------------------------

for n in (2, 3):
    ring = [TMP / f"ring{i}.qcow2" for i in range(n)]
    for i, path in enumerate(ring):
        qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", ring[(i + 1) % n].name, path, "4M")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", ring[0].name, TMP / "above.qcow2", "4M")
    for path in (ring[0], TMP / "above.qcow2"):
        done = hvmigrate("info", "--chain", path)
        check(refused(done, DAMAGED, f"a circle of {n} images"), f"{path.name}: {said(done)}", done.returncode)
    (TMP / "above.qcow2").unlink()

# --- thousands of extents, with a shell's limit of files ---------------------------------------------------------------

EXTENT = 4192256  # sectors: 2047 MiB
folder = TMP / "split"
folder.mkdir()
lines = []
for i in range(1025):
    with open(folder / f"s{i:04}.vmdk", "wb") as f:
        f.truncate(EXTENT * SECTOR)
    lines.append(f'RW {EXTENT} FLAT "s{i:04}.vmdk" 0')
path = folder / "split.vmdk"
path.write_text("\n".join(["# Disk DescriptorFile", "version=1", "CID=fffffffe", "parentCID=ffffffff",
                           'createType="twoGbMaxExtentFlat"', *lines, "#DDB", 'ddb.adapterType = "lsilogic"', ""]))
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
if hard == resource.RLIM_INFINITY or hard > 1100:
    done = hvmigrate("info", path, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard)))
    check(done.returncode == 0 and "virtual size    2 TiB" in done.out, "2 TiB in extents of 2 GiB, with 1024 descriptors", said(done), done.out[:300])

# --- salvage where tables have to be made anew, inside the sandbox -----------------------------------------------------

stream = TMP / "stream.vmdk"
done = hvmigrate("convert", "-q", "-O", "vmdk:streamOptimized", RAW, stream)
check(done.returncode == 0, "a stream with its directory at the end", said(done))
os.truncate(stream, stream.stat().st_size // 2 // SECTOR * SECTOR)
done = hvmigrate("convert", "--salvage", stream, TMP / "saved.raw")
got = (TMP / "saved.raw").read_bytes() if (TMP / "saved.raw").exists() else b""
check(done.returncode == DAMAGED and len(got) == len(DATA) and got[:MIB] == DATA[:MIB], f"half a stream is saved: {said(done)}",
      done.returncode)
