#!/usr/bin/env python3
"""Every reader times every writer: images that qemu-img made become the same bytes again, and what hvmigrate writes passes
qemu-img's check and is read back by it to the same bytes."""
# limit: 900
# kvm: none
import itertools
import shutil
from disks import *

need_qemu_img()
rng = random.Random(seed())


def sources():
    """Disks whose sizes are multiples of nothing: one of a few bytes, one within a VHD block, one over several."""
    made = []
    for low, high in ((1, 2000), (300_000, 1_900_000), (4_500_000, 9_000_000)):
        size = rng.randrange(low, high) | 1
        data, _ = content(rng, size)
        made.append((write_raw(TMP / f"source-{size}.raw", data), data))
    return made


class Image:
    """What qemu-img made of one source: the path, and the bytes that the disk must hold."""

    def __init__(self, kind, raw, data):
        self.kind, self.name = kind, f"{kind}-{len(data)}"
        self.folder = TMP / self.name
        self.path = kind.make(raw, self.folder)
        size = -len(data) % SECTOR + len(data)
        if kind.sized or kind.ours == "parallels":
            size = virtual_size(self.path, kind.qemu)
        self.data = padded(data, size)
        self.sha = sha(self.data)


def bytes_of(path):
    with open(path, "rb") as f:
        return f.read()


def reads_right(image):
    """To a file, to standard output, and by --digest: three ways to the same bytes. Info and map agree."""
    out = TMP / f"{image.name}.out"
    done = hvmigrate("convert", "-O", "raw", "--verify", "--digest", image.path, out)
    if done.returncode != 0:
        return f"{image.name}: {done.err.strip()}"
    got = bytes_of(out)
    if got != image.data:
        return f"{image.name}: {difference(got, image.data)}"
    if image.sha not in done.out:
        return f"{image.name}: --digest says {done.out.strip()!r}, not {image.sha}"
    out.unlink()
    done = hvmigrate("convert", "-O", "raw", image.path, "-")
    if done.returncode != 0 or done.stdout != image.data:
        return f"{image.name}: to standard output: {done.err.strip()} {difference(done.stdout, image.data)}"
    done = hvmigrate("info", "--json", image.path)
    if done.returncode != 0:
        return f"{image.name}: info: {done.err.strip()}"
    told = json.loads(done.out)
    if (told["format"], told["virtual-size"]) != (image.kind.ours, len(image.data)):
        return f"{image.name}: info says {told['format']}, {told['virtual-size']} bytes"
    done = hvmigrate("check", image.path)
    if done.returncode != 0:
        return f"{image.name}: check: {done.out.strip()} {done.err.strip()}"
    return "; ".join(map_faults(map_of(image.path), image.data, image.folder)[:3]) or None


def writes_right(pair):
    """The image by hvmigrate into the target; qemu-img checks it and reads it back."""
    image, target = pair
    name = f"{image.name} to {target}"
    folder = TMP / f"{image.name}-{target.name.replace(':', '-')}"
    folder.mkdir()
    path = folder / f"disk.{target.suffix}"
    done = hvmigrate("convert", "-O", target.name, image.path, path)
    if done.returncode != 0:
        return f"{name}: {done.err.strip()}"
    if left := [p.name for p in folder.iterdir() if ".partial" in p.name or "journal" in p.name]:
        return f"{name}: left {left}"
    if target.checks:
        done = run("qemu-img", "check", "-f", target.qemu, path)
        if done.returncode != 0:
            return f"{name}: qemu-img check: {done.out.strip()} {done.err.strip()}"
    back = folder / "back.raw"
    qemu_img("convert", "-f", target.qemu, "-O", "raw", path, back)
    got = bytes_of(back)
    if got != image.data:
        return f"{name}: qemu-img reads {difference(got, image.data)}"
    for words in (("check", path), ("compare", path, image.path), ("compare", image.path, path)):
        done = hvmigrate(*words)
        if done.returncode != 0:
            return f"{name}: {' '.join(map(str, words))}: {done.out.strip()} {done.err.strip()}"
    shutil.rmtree(folder)
    return None


def no_faults(faults, text):
    faults = [f for f in faults if f]
    for fault in faults[:20]:
        print("FAILED:", fault)
    check(not faults, text, len(faults))


raws = sources()
images = in_parallel(lambda pair: Image(pair[0], *pair[1]), list(itertools.product(MADE, raws)))
no_faults(in_parallel(reads_right, images), f"{len(images)} images of {len(MADE)} subformats are read to the same bytes")

pairs = [(image, target) for image in images for target in TARGETS if len(image.data) != len(images[1].data)]
no_faults(in_parallel(writes_right, pairs), f"{len(pairs)} conversions to {len(TARGETS)} subformats are read back by qemu-img")

# --- raw disks of odd sizes ------------------------------------------------------------------------------------------

for raw, data in raws:
    out = TMP / "odd.raw"
    done = hvmigrate("convert", "--force", raw, out)
    check(done.returncode == 0 and bytes_of(out) == data, f"raw to raw, exact to the byte: {len(data)}", done.err)
    for target in TARGETS[1:]:
        made = TMP / f"odd.{target.suffix}"
        done = hvmigrate("convert", "--force", "-f", "raw", "-O", target.name, raw, made)
        check(done.returncode == 0, f"{len(data)} bytes to {target}", done.err)
        done = hvmigrate("convert", "-O", "raw", made, "-")
        check(done.stdout == padded(data, -len(data) % SECTOR + len(data)), f"{len(data)} bytes through {target}",
              difference(done.stdout, data))

# --- holes stay holes, and the other two ways ------------------------------------------------------------------------

size = 64 * MIB + 513
with open(TMP / "holes.raw", "wb") as f:
    f.truncate(size)
    for at in (0, 20 * MIB, 63 * MIB):
        f.seek(at)
        f.write(rng.randbytes(100_000))
    f.seek(40 * MIB)
    f.write(bytes(4 * MIB))  # zeros that take room
raw = TMP / "holes.raw"


def room(path):
    return os.stat(path).st_blocks * 512


whole = file_sha(raw)
for name, words, low, high in (("kept", (), 4 * MIB, 6 * MIB), ("made of zeros by --sparse", ("--sparse",), 0, 1 * MIB),
                               ("filled by --full", ("--full",), size, size + MIB)):
    done = hvmigrate("convert", "--force", *words, raw, TMP / "holes.out")
    check(done.returncode == 0 and file_sha(TMP / "holes.out") == whole and low <= room(TMP / "holes.out") <= high,
          f"holes are {name}", done.err, room(TMP / "holes.out"))
for target in TARGETS[1:]:
    made = TMP / f"holes.{target.suffix}"
    done = hvmigrate("convert", "--force", "-O", target.name, raw, made)
    check(done.returncode == 0, f"a disk of holes to {target}", done.err)
    done = hvmigrate("convert", "--force", "-O", "raw", made, TMP / "holes.out")
    # A fixed VHDX says that all its blocks hold data; the others' blocks are small enough to leave something out.
    check(done.returncode == 0 and (target.name == "vhdx:fixed" or room(TMP / "holes.out") < size),
          f"and back, with holes in it: {room(TMP / 'holes.out')}", done.err)
    back = bytes_of(TMP / "holes.out")
    check(sha(back[:size]) == whole and not any(back[size:]), "to the same bytes")
