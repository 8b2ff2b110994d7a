#!/usr/bin/env python3
"""Bad input: images. Whatever the bytes, an answer in a sentence and an end."""
import os
import random
import struct
from hvrun_lib import *

EM_386, EM_ARM, EM_X86_64, EM_AARCH64, EM_RISCV = 3, 40, 62, 183, 243


def elf(machine=EM_X86_64, segments=(), entry=0x100000, phnum=None, kind=2, phoff=64, phentsize=56, tail=b"",
        shoff=0, shnum=0):
    count = len(segments) if phnum is None else phnum
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", kind, machine, 1, entry, phoff, shoff, 0, 64, phentsize, count, 64, shnum, 0)
    body = b"".join(struct.pack("<IIQQQQQQ", 1, 7, offset, paddr, paddr, filesz, memsz, 0x1000)
                    for offset, paddr, filesz, memsz in segments)
    return head + body + tail


code = b"\x66\xba\xf4\x00\xb0\x07\xee\xf4"  # exit 7 in 64-bit code
room = bytes(0x1000 - 64 - 56)


def good(**changes):
    arguments = {"segments": [(0x1000, 0x100000, len(code), 0x1000)], "tail": room + code, **changes}
    return elf(**arguments)


def run(name, data, *options):
    return hvrun("--timeout", "5", *options, image(name, data))


done = run("good.elf", good())
check(done.returncode == 15, "the image that the bad ones are made of runs", done.returncode, done.err)

refused("missing", hvrun(f"{TMP}/none"), 1, "none")
refused("empty", run("empty", b""), 3, "empty")
refused("a folder", hvrun(TMP), 1, str(TMP))
refused("a device", hvrun("/dev/zero"), 1, "/dev/zero")
os.mkfifo(TMP / "fifo")
refused("a FIFO", hvrun(TMP / "fifo"), 1, "fifo")
refused("a flat image beyond RAM", run("big.bin", bytes(2 << 20), "--mem", "1M"), 1, "big.bin")
with open(TMP / "huge", "wb") as f:
    f.truncate(1 << 40)
done = hvrun(TMP / "huge")
check(done.returncode in (1, 3) and done.err.startswith("hvrun: "), f"a TiB of holes: {done.err.strip()[:80]}")
os.unlink(TMP / "huge")

for machine, name in ((EM_ARM, "arm"), (EM_AARCH64, "arm64"), (EM_RISCV, "riscv"), (0, "none"), (0xFFFF, "0xffff")):
    done = run(f"{name}.elf", good(machine=machine))
    check(done.returncode in (1, 3) and done.err.startswith("hvrun: "), f"machine {name}: {done.err.strip()[:90]}",
          done.returncode)
arm64_linux = b"MZ" + bytes(54) + b"ARM\x64" + bytes(4096)
done = run("Image", arm64_linux, "--boot", "elf")
check(done.returncode in (1, 3) and done.err.startswith("hvrun: "), f"an arm64 kernel: {done.err.strip()[:90]}")

top = 1 << 64
bad = {
    "overlapping segments": good(segments=[(0x1000, 0x100000, 8, 0x2000), (0x1000, 0x101000, 8, 0x1000)], tail=room),
    "a wrapping address": good(segments=[(0x1000, top - 0x1000, 8, 0x2000)], tail=room + code),
    "a wrapping size": good(segments=[(0x1000, 0x100000, 8, top - 1)], tail=room + code),
    "a wrapping file offset": good(segments=[(top - 8, 0x100000, 16, 16)], tail=room),
    "a segment beyond RAM": good(segments=[(0x1000, 1 << 40, 8, 8)], tail=room + code),
    "a segment beyond the file": good(segments=[(0x1000, 0x100000, 1 << 20, 1 << 20)], tail=room + code),
    "more in the file than in memory": good(segments=[(0x1000, 0x100000, 8, 4)], tail=room + code),
    "no segments": elf(),
    "65535 program headers": good(phnum=0xFFFF, tail=room),
    "program headers beyond the file": good(phoff=1 << 40),
    "program headers that wrap": good(phoff=top - 8),
    "program headers of size 0": good(phentsize=0),
    "program headers of size 1": good(phentsize=1),
    "a relocatable file": good(kind=1),
    # e_phnum 0xffff: the true number is in sh_info of section 0.
    "2^32 program headers": elf(segments=[(0x1000, 0x100000, 8, 8)], phnum=0xFFFF, shoff=120, shnum=1,
                                tail=struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 0, 0, 0xFFFFFFFF, 0, 0) + room + code),
}
for name, data in bad.items():
    done = run("bad.elf", data)
    check(done.returncode in (1, 3) and done.err.startswith("hvrun: ") and done.out == "",
          f"{name}: {done.err.strip()[:110]}", done.returncode, done.err)

whole = good()
for length in (1, 4, 5, 16, 40, 63, 64, 65, 100, 119, 120, 121, 0x1000, len(whole) - 1):
    done = run("cut.elf", whole[:length])
    check(done.returncode in (1, 3, 124, 0) and (length < 4 or done.returncode in (1, 3)), f"cut to {length} bytes",
          done.returncode, done.err)

# A multiboot header that asks for what can't be.
for name, fields in {"load address above its header": (0x200000, 0x300000, 0, 0, 0x100000),
                     "end before start": (0x100000, 0x100000, 0x80000, 0, 0x100000),
                     "beyond RAM": (0xF0000000, 0xF0000000, 0, 0, 0xF0000000),
                     "BSS that wraps": (0x100000, 0x100000, 0, 0xFFFFFFFF, 0x100000)}.items():
    flags = 0x10003
    header = struct.pack("<III", 0x1BADB002, flags, (-0x1BADB002 - flags) & 0xFFFFFFFF) + struct.pack("<IIIII", *fields)
    done = run("bad.mb", header + bytes(4096))
    check(done.returncode in (1, 3) and done.err.startswith("hvrun: "), f"multiboot, {name}: {done.err.strip()[:90]}",
          done.returncode, done.err)

# Noise over a good image: any end will do but a crash or a hang.
random.seed(1)
for turn in range(20):
    data = bytearray(whole)
    for _ in range(random.randrange(1, 6)):
        data[random.randrange(0, 120)] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
    done = hvrun("--timeout", "1", image("noise.elf", bytes(data)))
    check(done.returncode >= 0, f"noise {turn}: status {done.returncode}", done.err)

refused("a missing module", hvrun("--initrd", "/nonexistent", image("good.elf", whole)), 1, "/nonexistent")
done = hvrun("--initrd", image("module", bytes(8 << 20)), "--mem", "2M", image("good.elf", whole))
check(done.returncode in (1, 2, 3) and done.err.startswith("hvrun: "), f"a module beyond RAM: {done.err.strip()[:90]}")
