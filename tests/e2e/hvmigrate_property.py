#!/usr/bin/env python3
"""Random walks: a disk is written to here and there, by dd or by qemu-io in an image of some format, then converted to
another format, by hvmigrate or by qemu-img, and so on. After each step the image's bytes, its map and its comparison
with the step before must be what the writes make them."""
# limit: 400
# kvm: none
import shutil
from disks import *

need_qemu_img()
WALKS, STEPS = (8, 7) if STRETCH == 1 else (3, 4)
START = seed()
# qemu-io writes these in place; the others are made anew by a conversion.
WRITABLE = ("raw", "vhd-dynamic-exact", "vhd-fixed-exact", "vhdx-dynamic", "vhdx-dynamic-1M", "vhdx-fixed", "vmdk-sparse",
            "vmdk-sparse-zeroed", "vmdk-flat", "vmdk-2gb-sparse", "vmdk-2gb-flat", "vdi", "vdi-static", "qcow2-v2", "qcow2-v3",
            "qcow2-v3-512", "qcow2-v3-2M", "qcow2-v3-zlib", "qcow2-v3-zstd", "qcow2-v3-subclusters", "parallels-64k")
BY_NAME = {kind.name: kind for kind in MADE}


class Walk:
    """A disk on its way through formats: its bytes as they must be, and the image that holds them now."""

    def __init__(self, number):
        self.rng = random.Random(START * 1000 + number)
        self.folder = TMP / f"walk-{number}"
        self.folder.mkdir()
        self.name = f"walk {number}"
        size = self.rng.randrange(1, 8000) * SECTOR
        data, _ = content(self.rng, size)
        self.data = bytearray(data)
        self.kind = BY_NAME["raw"]
        self.path = write_raw(self.folder / "start.raw", data)
        self.trail, self.step = ["raw"], 0

    def fault(self, text):
        return f"{self.name}, {' -> '.join(self.trail)}: {text}"

    # --- writing --------------------------------------------------------------------------------------------------------
    def writes(self):
        """Some writes: a pattern, noise from a file, zeros, or zeros that may be given back."""
        words = []
        for i in range(self.rng.randrange(1, 6)):
            at = self.rng.randrange(len(self.data) // SECTOR) * SECTOR
            length = min(len(self.data) - at, self.rng.choice((SECTOR, 8 * SECTOR, 128 * SECTOR, 2000 * SECTOR)))
            what = self.rng.choice(("pattern", "noise", "zeros", "give back"))
            if what == "noise":
                noise = self.rng.randbytes(length)
                source = self.folder / f"noise-{i}"
                source.write_bytes(noise)
                self.data[at:at + length] = noise
                words += ["-c", f"write -s {source} {at} {length}"]
            elif what == "pattern":
                byte = self.rng.randrange(1, 256)
                self.data[at:at + length] = bytes([byte]) * length
                words += ["-c", f"write -P {byte} {at} {length}"]
            else:
                self.data[at:at + length] = bytes(length)
                # Not every format can mark zeros; -z writes them then.
                words += ["-c", f"write -z {'-u ' if what == 'give back' else ''}{at} {length}"]
        return words

    def write(self):
        if self.kind.name not in WRITABLE:
            return None
        done = run("qemu-io", "-f", self.kind.qemu, *self.writes(), self.path)
        self.trail.append("write")
        # qemu-io says what failed and goes on, with status 0 in older releases.
        if done.returncode != 0 or "failed" in done.out + done.err:
            return self.fault(f"qemu-io: {done.out.strip()} {done.err.strip()}")
        return None

    # --- converting -----------------------------------------------------------------------------------------------------
    def convert(self):
        """By hvmigrate to one of its formats, or by qemu-img to one of its own."""
        before, self.step = self.path, self.step + 1
        folder = self.folder / str(self.step)
        if self.rng.random() < 0.6:
            target = self.rng.choice(TARGETS)
            folder.mkdir()
            self.path = folder / f"disk.{target.suffix}"
            self.trail.append(f"{target} by hvmigrate")
            done = hvmigrate("convert", "-O", target.name, *self.rng.choice(((), (), ("--sparse",), ("-j", "1"), ("-j", "4"),
                             ("--full",), ("--verify",))), before, self.path)
            if done.returncode != 0:
                return self.fault(done.err.strip())
            names = dict(raw="raw", qcow2="qcow2-v3", vhd="vhd-dynamic-exact", vhdx="vhdx-dynamic", vmdk="vmdk-sparse")
            self.kind = BY_NAME[names[target.name.split(":")[0]]]
            if target.name == "vmdk:streamOptimized":
                self.kind = BY_NAME["vmdk-stream"]
            elif target.name == "vhd:fixed":
                self.kind = BY_NAME["vhd-fixed-exact"]
        else:
            kind = self.rng.choice([k for k in MADE if not k.sized and k.name != "parallels"])
            self.trail.append(f"{kind} by qemu-img")
            folder.mkdir()
            words = [word for option in kind.options for word in ("-o", option)]
            self.path = folder / f"disk.{kind.suffix}"
            qemu_img("convert", "-f", self.kind.qemu, "-O", kind.qemu, *kind.flags, *words, before, self.path)
            self.kind = kind
        if before.parent != self.folder:
            done = hvmigrate("compare", before, self.path)
            shutil.rmtree(before.parent)
            if done.returncode != 0:
                return self.fault(f"compare with the step before: {done.out.strip()} {done.err.strip()}")
        return None

    # --- looking --------------------------------------------------------------------------------------------------------
    def look(self):
        done = hvmigrate("convert", "-O", "raw", self.path, "-")
        if done.returncode != 0 or done.stdout != self.data:
            return self.fault(f"status {done.returncode}: {done.err.strip()[-200:]} {difference(done.stdout, self.data)}")
        if faults := map_faults(map_of(self.path), bytes(self.data), self.path.parent):
            return self.fault(f"map: {faults[:3]}")
        # qemu-img 7.2 leaks clusters in images that it wrote itself now and then: what counts is that nothing is wrong.
        done = hvmigrate("check", "--json", self.path)
        if done.returncode != 0:
            return self.fault(f"check: {done.out.strip()} {done.err.strip()}")
        return None

    def differs(self):
        """compare finds one flipped byte, and where."""
        other = self.folder / "other.raw"
        at = self.rng.randrange(len(self.data))
        changed = bytearray(self.data)
        changed[at] ^= 1 << self.rng.randrange(8)
        write_raw(other, bytes(changed))
        done = hvmigrate("compare", "--json", self.path, other)
        other.unlink()
        if done.returncode != 1:
            return self.fault(f"compare with a flipped byte at {at}: status {done.returncode}: {done.err.strip()}")
        told = json.loads(done.out)
        if told["same"] or told["offset"] != at:
            return self.fault(f"compare with a flipped byte at {at}: {told}")
        return None

    def walk(self):
        for _ in range(STEPS):
            for part in (self.convert, self.look, self.write, self.look, self.differs):
                if fault := part():
                    return fault
        shutil.rmtree(self.folder)
        return None


faults = [f for f in in_parallel(lambda number: Walk(number).walk(), range(WALKS)) if f]
for fault in faults:
    print("FAILED:", fault)
check(not faults, f"{WALKS} walks of {STEPS} conversions and writes", len(faults))
