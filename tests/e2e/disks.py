"""What the end-to-end tests of hvmigrate share: disks with known contents, images that qemu-img makes of them, and runs
that always end. Contents come from a seed; a test prints it, and HV_DISK_SEED gives it back."""
import concurrent.futures
import hashlib
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

HVMIGRATE = os.path.join(os.environ["BUILD"], "bin/hvmigrate")
TMP = pathlib.Path(os.environ["TMP"])
SAN = os.environ.get("HV_SAN", "")
STRETCH = int(os.environ["HV_STRETCH"])
LIMIT = 30 * STRETCH  # seconds: a watchdog, never a measure
CPUS = os.cpu_count() or 1
SECTOR = 512
MIB = 1 << 20
DAMAGED = 3  # hvmigrate's exit status for an image that is damaged or unsafe


def fail(text):
    print("FAILED:", text)
    sys.exit(1)


def check(ok, text, *details):
    if not ok:
        fail(" | ".join([text, *map(repr, details)]))
    print("ok  ", text, flush=True)


def skip(text):
    print(text)
    sys.exit(77)


def need_qemu_img():
    if not shutil.which("qemu-img"):
        skip("qemu-img is not installed (tests/deps test installs it)")


def seed():
    """This run's seed: contents, sizes and choices all follow from it."""
    number = int(os.environ.get("HV_DISK_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {number} (HV_DISK_SEED={number} repeats this run)", flush=True)
    return number


# --- runs -------------------------------------------------------------------------------------------------------------


def run(*words, limit=LIMIT, **more):
    more.setdefault("stdin", subprocess.DEVNULL)
    more.setdefault("stdout", subprocess.PIPE)
    more.setdefault("stderr", subprocess.PIPE)
    done = subprocess.run([*map(str, words)], timeout=limit, check=False, **more)
    done.out = (done.stdout or b"").decode(errors="replace")
    done.err = (done.stderr or b"").decode(errors="replace")
    return done


def hvmigrate(*words, **more):
    return run(HVMIGRATE, *words, **more)


def qemu_img(*words):
    done = run("qemu-img", *words)
    if done.returncode != 0:
        fail(f"qemu-img {' '.join(map(str, words))}: {done.err.strip()}")
    return done.out


def refused(done, status, *words):
    """Whether a run ended in an orderly refusal: that status, and one sentence with those words."""
    lines = done.err.strip().splitlines()
    return done.returncode == status and bool(lines) and lines[-1].startswith("hvmigrate: ") and \
        all(word in done.err for word in words)


def in_parallel(work, items):
    """work(item) for each, on all CPUs, in the items' order; a failure ends the test. Threads, as runs are waited for."""
    with concurrent.futures.ThreadPoolExecutor(CPUS) as pool:
        return list(pool.map(work, items))


# --- contents ---------------------------------------------------------------------------------------------------------


def content(rng, size, grain=4096):
    """size bytes in stretches of four kinds: nothing, zeros, text that compresses, noise. Their bounds fall anywhere, and
    now and then a single byte stands alone. Returns the bytes and which stretches are nothing, as (offset, length)."""
    parts, holes, at = [], [], 0
    while at < size:
        length = min(size - at, rng.choice((1, 511, 512, 513, grain - 1, grain, rng.randrange(1, 64 * grain),
                                            rng.randrange(1, 256 * grain))))
        kind = rng.choice(("hole", "zero", "text", "noise", "noise", "byte"))
        if kind == "noise":
            parts.append(rng.randbytes(length))
        elif kind == "text":
            line = b"%d: " % at + rng.choice((b"the grain directory, ", b"a block that compresses, ", b"0123456789"))
            parts.append((line * (length // len(line) + 1))[:length])
        elif kind == "byte":
            where = rng.randrange(length)
            parts.append(bytes(where) + bytes([rng.randrange(1, 256)]) + bytes(length - where - 1))
        else:
            parts.append(bytes(length))
            if kind == "hole":
                holes.append((at, length))
        at += length
    return b"".join(parts), holes


def write_raw(path, data):
    """The bytes as a raw disk: whole 4 KiB of zeros are left as holes."""
    empty = bytes(4096)
    with open(path, "wb") as f:
        for at in range(0, len(data), 4096):
            part = data[at:at + 4096]
            if part != empty[:len(part)]:
                f.seek(at)
                f.write(part)
        f.truncate(len(data))
    return path


def sha(data):
    return hashlib.sha256(data).hexdigest()


def file_sha(path):
    with open(path, "rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def padded(data, size):
    """The disk that an image of size bytes holds, made from data: formats of whole sectors round up."""
    return data + bytes(size - len(data)) if size >= len(data) else data[:size]


def difference(a, b):
    """Where two disks differ, for a sentence."""
    if len(a) != len(b):
        return f"{len(a)} and {len(b)} bytes"
    for at in range(0, len(a), 4096):
        if a[at:at + 4096] != b[at:at + 4096]:
            return f"bytes from {at} on: {a[at:at + 16].hex()} and {b[at:at + 16].hex()}"
    return "nothing"


# --- images -----------------------------------------------------------------------------------------------------------


class Kind:
    """A subformat as qemu-img makes it. sized: the virtual size is not simply rounded up to sectors (CHS)."""

    def __init__(self, name, qemu, ours, suffix, options=(), flags=(), sized=False):
        self.name, self.qemu, self.ours, self.suffix = name, qemu, ours, suffix
        self.options, self.flags, self.sized = options, flags, sized

    def make(self, source, folder, size=None):
        """An image of the raw disk at source, alone in a fresh folder; its path."""
        folder = pathlib.Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"disk.{self.suffix}"
        words = ["convert", "-f", "raw", "-O", self.qemu, *self.flags]
        for option in self.options:
            words += ["-o", option]
        qemu_img(*words, source, path)
        return path

    def __repr__(self):
        return self.name


# Everything that qemu-img 7.2 writes and hvmigrate reads.
MADE = [
    Kind("raw", "raw", "raw", "raw"),
    Kind("vhd-dynamic", "vpc", "vhd", "vhd", ["subformat=dynamic"], sized=True),
    Kind("vhd-dynamic-exact", "vpc", "vhd", "vhd", ["subformat=dynamic,force_size=on"]),
    Kind("vhd-fixed", "vpc", "vhd", "vhd", ["subformat=fixed"], sized=True),
    Kind("vhd-fixed-exact", "vpc", "vhd", "vhd", ["subformat=fixed,force_size=on"]),
    Kind("vhdx-dynamic", "vhdx", "vhdx", "vhdx", ["subformat=dynamic"]),
    Kind("vhdx-dynamic-1M", "vhdx", "vhdx", "vhdx", ["subformat=dynamic,block_size=1M,log_size=2M"]),
    Kind("vhdx-dynamic-4M", "vhdx", "vhdx", "vhdx", ["subformat=dynamic,block_size=4M"]),
    Kind("vhdx-fixed", "vhdx", "vhdx", "vhdx", ["subformat=fixed,block_size=2M"]),
    Kind("vmdk-sparse", "vmdk", "vmdk", "vmdk", ["subformat=monolithicSparse"]),
    Kind("vmdk-sparse-zeroed", "vmdk", "vmdk", "vmdk", ["subformat=monolithicSparse,zeroed_grain=on"]),
    Kind("vmdk-flat", "vmdk", "vmdk", "vmdk", ["subformat=monolithicFlat"]),
    Kind("vmdk-2gb-sparse", "vmdk", "vmdk", "vmdk", ["subformat=twoGbMaxExtentSparse"]),
    Kind("vmdk-2gb-flat", "vmdk", "vmdk", "vmdk", ["subformat=twoGbMaxExtentFlat"]),
    Kind("vmdk-stream", "vmdk", "vmdk", "vmdk", ["subformat=streamOptimized"]),
    Kind("vdi", "vdi", "vdi", "vdi"),
    Kind("vdi-static", "vdi", "vdi", "vdi", ["static=on"]),
    Kind("qcow2-v2", "qcow2", "qcow2", "qcow2", ["compat=0.10"]),
    Kind("qcow2-v2-zlib", "qcow2", "qcow2", "qcow2", ["compat=0.10"], ["-c"]),
    Kind("qcow2-v3", "qcow2", "qcow2", "qcow2", ["compat=1.1"]),
    Kind("qcow2-v3-512", "qcow2", "qcow2", "qcow2", ["compat=1.1,cluster_size=512"]),
    Kind("qcow2-v3-2M", "qcow2", "qcow2", "qcow2", ["compat=1.1,cluster_size=2M"]),
    Kind("qcow2-v3-refcount-1", "qcow2", "qcow2", "qcow2", ["compat=1.1,refcount_bits=1"]),
    Kind("qcow2-v3-zlib", "qcow2", "qcow2", "qcow2", ["compat=1.1,cluster_size=16k"], ["-c"]),
    Kind("qcow2-v3-zstd", "qcow2", "qcow2", "qcow2", ["compat=1.1,compression_type=zstd"], ["-c"]),
    Kind("qcow2-v3-subclusters", "qcow2", "qcow2", "qcow2", ["compat=1.1,extended_l2=on,cluster_size=128k"]),
    Kind("parallels", "parallels", "parallels", "hdd"),
    Kind("parallels-64k", "parallels", "parallels", "hdd", ["cluster_size=64k"]),
]


class Target:
    """A subformat that hvmigrate writes. qemu: the name by which qemu-img reads it back; checks: whether its check can."""

    def __init__(self, name, suffix, qemu, checks):
        self.name, self.suffix, self.qemu, self.checks = name, suffix, qemu, checks

    def __repr__(self):
        return self.name


TARGETS = [
    Target("raw", "raw", "raw", False),
    Target("qcow2", "qcow2", "qcow2", True),
    Target("vhd:dynamic", "vhd", "vpc", False),
    Target("vhd:fixed", "vhd", "vpc", False),
    Target("vhdx:dynamic", "vhdx", "vhdx", True),
    Target("vhdx:fixed", "vhdx", "vhdx", True),
    Target("vmdk:monolithicSparse", "vmdk", "vmdk", True),
    Target("vmdk:monolithicFlat", "vmdk", "vmdk", True),
    Target("vmdk:streamOptimized", "vmdk", "vmdk", True),
]


def virtual_size(path, qemu):
    """The virtual disk's size as qemu-img sees it."""
    return json.loads(qemu_img("info", "-f", qemu, "--output=json", path))["virtual-size"]


# --- maps -------------------------------------------------------------------------------------------------------------


def map_of(path, *options):
    done = hvmigrate("map", "--json", *options, path)
    if done.returncode != 0:
        fail(f"map of {path}: {done.err.strip()}")
    return json.loads(done.out)


def map_faults(runs, data, folder="."):
    """What is wrong with a map of the disk that holds data; an empty list when nothing is. Runs must follow each other
    without a gap, holes and zeros must be zeros, and plain data must stand in its file where the map says."""
    faults, at = [], 0
    for r in runs:
        where = f"{r['kind']} at {r['offset']}, {r['length']} bytes"
        if r["offset"] != at or r["length"] <= 0:
            faults.append(f"{where}: the run before ends at {at}")
        at = r["offset"] + r["length"]
        part = data[r["offset"]:at]
        if len(part) != r["length"]:
            faults.append(f"{where}: ends behind the disk, which has {len(data)} bytes")
        if r["kind"] in ("hole", "zero"):
            if part.count(0) != len(part):
                faults.append(f"{where}: the disk has other bytes there")
        elif r["kind"] != "data":
            faults.append(f"{where}: not a kind")
        elif r.get("encoding") == "plain":
            with open(os.path.join(folder, r["file"]), "rb") as f:
                f.seek(r["file-offset"])
                if f.read(r["length"]) != part:
                    faults.append(f"{where}: {r['file']} holds other bytes at {r['file-offset']}")
    if at != len(data):
        faults.append(f"the runs end at {at}, the disk has {len(data)} bytes")
    return faults
