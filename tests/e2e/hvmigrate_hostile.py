#!/usr/bin/env python3
"""Images that want to be read wrongly, or to lead somewhere else: other people's files, circles, bombs. And what qemu-img
7.2 gets wrong with exit status 0: here it is right, or refused."""
# limit: 400
# kvm: none
import shutil
import struct
import zlib
from disks import *

need_qemu_img()
rng = random.Random(seed())
SECRET = b"root:$y$secret:19000:0:99999:7:::\n"


def folder(name):
    path = TMP / name
    path.mkdir()
    return path


def secret_outside():
    """A file that no image may lead to: outside every image's folder, and a multiple of sectors."""
    path = folder("outside") / "secret"
    path.write_bytes(SECRET * 2048)
    return path


OTHER = write_raw(TMP / "other.raw", rng.randbytes(64 * 1024))


def flat(extents, cid="fffffffe", parent="ffffffff", create="monolithicFlat", hint=None, end="\n"):
    """A VMDK descriptor with these extent lines."""
    lines = ["# Disk DescriptorFile", "version=1", f"CID={cid}", f"parentCID={parent}", f'createType="{create}"']
    lines += [f'parentFileNameHint="{hint}"'] if hint else []
    lines += ["", "# Extent description", *extents, "", "# The Disk Data Base", "#DDB", "",
              'ddb.virtualHWVersion = "4"', 'ddb.geometry.cylinders = "1"', 'ddb.geometry.heads = "16"',
              'ddb.geometry.sectors = "63"', 'ddb.adapterType = "ide"', ""]
    return end.join(lines)


def converted(path, *options):
    return hvmigrate("convert", "-O", "raw", *options, path, "-")


def told(done):
    return done.err.strip().splitlines()[-1][:150] if done.err.strip() else ""


def unsafe(name, path, *words, options=(), bytes_only=False):
    """convert, compare and map all refuse with status 3, and nothing of the secret gets out. bytes_only: what is wrong
    shows when a disk's bytes are read, which map doesn't do, and check does."""
    last = ["check", path] if bytes_only else ["map", path]
    for command in (["convert", "-O", "raw", path, "-"], ["compare", path, OTHER], last):
        done = hvmigrate(command[0], *options, *command[1:])
        if command[0] == "check" and done.returncode == DAMAGED and "error" in done.out:
            continue
        if not refused(done, DAMAGED, *words) or SECRET[:12] in done.stdout + done.stderr:
            fail(f"{name}: {command[0]}: status {done.returncode}: {told(done)!r}, wanted {words}")
    check(True, f"{name}: {told(done)}")


def right(name, path, data, *options):
    done = converted(path, *options)
    check(done.returncode == 0 and done.stdout == data, name, done.returncode, told(done), difference(done.stdout, data))


secret = secret_outside()
sectors = secret.stat().st_size // SECTOR

# --- files that an image may not lead to --------------------------------------------------------------------------------

here = folder("flat")
for name, target in (("an absolute path", "/etc/passwd"), ("a file outside", str(secret)), ("dots", "../outside/secret"),
                     ("dots in the middle", "sub/../../outside/secret")):
    path = here / "disk.vmdk"
    (here / "sub").mkdir(exist_ok=True)
    path.write_text(flat([f'RW 2 FLAT "{target}" 0']))
    unsafe(f"VMDK extent, {name}", path)
(here / "link.bin").symlink_to(secret)
(here / "dir").symlink_to(secret.parent)
for name, target in (("a symbolic link out", "link.bin"), ("through a linked folder", "dir/secret")):
    path.write_text(flat([f'RW {sectors} FLAT "{target}" 0']))
    unsafe(f"VMDK extent, {name}", path)
os.mkfifo(here / "fifo")
for name, target in (("a FIFO", "fifo"), ("a device", "/dev/zero"), ("a folder", "sub"), ("itself", "disk.vmdk"),
                     ("the process's own memory", "/proc/self/mem"), ("nothing", ""), ("a URL", "nbd://localhost/x"),
                     ("backslashes", "..\\outside\\secret")):
    path.write_text(flat([f'RW 2 FLAT "{target}" 0']))
    done = converted(path)
    check(done.returncode in (1, DAMAGED) and done.err.startswith("hvmigrate: ") and not done.stdout,
          f"VMDK extent, {name}: {told(done)}", done.returncode)

# Opened by hand, one path at a time: as the image names it, or as it is in truth. Another path opens nothing.
path.write_text(flat([f'RW {sectors} FLAT "{secret}" 0']))
done = run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", path, TMP / "followed.raw")
followed = done.returncode == 0 and SECRET[:12] in (TMP / "followed.raw").read_bytes()
print(f"     (qemu-img {'follows' if followed else 'does not follow'} a VMDK's extent out of its folder)")
right("--allow-external opens the one path that it names", path, SECRET * 2048, "--allow-external", secret)
unsafe("--allow-external of another file", path, options=["--allow-external", "/etc/passwd"])
unsafe("--allow-external of its folder", path, options=["--allow-external", secret.parent])
second = secret.with_name("second")
shutil.copy(secret, second)
path.write_text(flat([f'RW {sectors} FLAT "{secret}" 0', f'RW {sectors} FLAT "{second}" 0']))
unsafe("--allow-external of one file of two", path, "second", options=["--allow-external", secret])
right("--allow-external of both", path, SECRET * 4096, "--allow-external", secret, "--allow-external", second)

here = folder("backing")
for name, backing in (("an absolute path", secret), ("dots", "../outside/secret"), ("/etc/shadow", "/etc/shadow")):
    path = here / "disk.qcow2"
    path.unlink(missing_ok=True)
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, str(sectors * SECTOR))
    unsafe(f"qcow2 backing file, {name}", path)
for name, backing in (("json:", 'json:{"driver":"raw","file":{"driver":"file","filename":"/etc/passwd"}}'),
                      ("a protocol", "nbd:localhost:10809"), ("file:", f"file:{secret}")):
    path.unlink()
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", backing, path, "1M")
    done = converted(path)
    check(done.returncode in (1, DAMAGED) and refused(done, done.returncode) and not done.stdout,
          f"qcow2 backing file, {name}: {told(done)}", done.returncode)
path.unlink()
qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, path, str(sectors * SECTOR))
right("--allow-external opens a backing file", path, SECRET * 2048, "--allow-external", secret)
path.unlink()
done = run("qemu-img", "create", "-q", "-f", "qcow2", "-o", f"data_file={secret.parent}/data,data_file_raw=on", path, "1M")
if done.returncode == 0:
    done = converted(path)
    check(done.returncode in (1, DAMAGED) and not done.stdout, f"qcow2 data file outside: {told(done)}", done.returncode)

# --- circles and chains -----------------------------------------------------------------------------------------------

here = folder("circle")
for one, other in (("a", "b"), ("b", "a"), ("self", "self")):
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", f"{other}.qcow2", here / f"{one}.qcow2", "1M")
unsafe("two qcow2 that back each other", here / "a.qcow2")
unsafe("a qcow2 that backs itself", here / "self.qcow2")
(here / "a.vmdk").write_text(flat(['RW 8 ZERO'], parent="fffffffe", hint="b.vmdk"))
(here / "b.vmdk").write_text(flat(['RW 8 ZERO'], parent="fffffffe", hint="a.vmdk"))
unsafe("two VMDKs that are each other's parent", here / "a.vmdk")

here = folder("deep")
base = rng.randbytes(64 * 1024)
(here / "0.raw").write_bytes(base)
for i in range(1, 101):
    below = ("raw", "0.raw") if i == 1 else ("qcow2", f"{i - 1}.qcow2")
    qemu_img("create", "-q", "-u", "-f", "qcow2", "-o", "cluster_size=4k", "-F", below[0], "-b", below[1],
             here / f"{i}.qcow2", "64k")
right("a chain of 20 images", here / "19.qcow2", base)
right("a chain of 64 images", here / "63.qcow2", base)
unsafe("a chain of 101 images", here / "100.qcow2")

# --- a raw disk whose guest wrote another format's header -----------------------------------------------------------------

here = folder("guest")
overlay = here / "overlay.qcow2"
qemu_img("create", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", secret, overlay, "1M")
body = overlay.read_bytes()
body += bytes(-len(body) % SECTOR)
disk = here / "disk.raw"
disk.write_bytes(body + rng.randbytes(8 * SECTOR))
right("told that it is raw, a disk with a qcow2 header is raw", disk, disk.read_bytes(), "-f", "raw")
done = converted(disk)
check(done.returncode != 0 and SECRET[:12] not in done.stdout, f"not told, the header leads nowhere: {told(done)}")
disk.write_text(flat([f'RW {sectors} FLAT "{secret}" 0']))
os.truncate(disk, 64 * SECTOR)
done = converted(disk)
check(done.returncode != 0 and SECRET[:12] not in done.stdout, f"nor a VMDK descriptor: {told(done)}")
inner = here / "inner.raw"
inner.write_bytes(body)
for name, words in (("qcow2", ("-f", "qcow2", "-F", "raw")),):
    top = here / f"top.{name}"
    qemu_img("create", "-q", "-u", *words, "-b", "inner.raw", top, str(len(body)))
    right("a backing file that is said to be raw is not looked into", top, body)

# --- bombs and lies ---------------------------------------------------------------------------------------------------

here = folder("bombs")


def peak_of(*words):
    """Status and peak memory, MiB. A sanitizer's memory is not judged."""
    done = run("/bin/sh", "-c", 'ulimit -t 60; exec "$@"', "sh", sys.executable, "-c", PEAK, HVMIGRATE, *words)
    status, peak = map(int, done.out.split()[-2:])
    return status, peak / 1024, done.err


PEAK = """
import os, sys
null = os.open('/dev/null', os.O_RDWR)
pid = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, null, 1)])
_, status, usage = os.wait4(pid, 0)
print(os.waitstatus_to_exitcode(status), usage.ru_maxrss)
"""


def stream_with(grain, size_field=None):
    """A streamOptimized image of one 64 KiB grain that is stored as these bytes."""
    raw = write_raw(here / "one.raw", rng.randbytes(64 * 1024))
    path = here / "stream.vmdk"
    path.unlink(missing_ok=True)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, path)
    data = bytearray(path.read_bytes())
    at = next(i for i in range(SECTOR, len(data), SECTOR)
              if data[i:i + 8] == bytes(8) and data[i + 12:i + 13] == b"\x78")
    struct.pack_into("<I", data, at + 8, len(grain) if size_field is None else size_field)
    data[at + 12:at + 12 + len(grain)] = grain
    path.write_bytes(data)
    return path


bomb = zlib.compress(bytes(64 << 20), 9)  # 64 MiB of zeros where 64 KiB belong
for name, grain, field in (("an inflate bomb", bomb[:60_000], None), ("a size that reaches out of the file", b"\x78\x9c", 1 << 31),
                           ("a size of all ones", b"\x78\x9c", 0xFFFFFFFF), ("a size of 0", b"\x78\x9c", 0),
                           ("too little in it", zlib.compress(bytes(1000)), None),
                           ("a byte too much", zlib.compress(bytes(64 * 1024 + 1)), None),
                           ("a stream that ends early", zlib.compress(rng.randbytes(64 * 1024))[:5000], None)):
    unsafe(f"streamOptimized, {name}", stream_with(grain, field), bytes_only=True)

raw = write_raw(here / "text.raw", b"qcow2 " * 100_000)
path = here / "bomb.qcow2"
qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", raw, path)
data = bytearray(path.read_bytes())
at = data.find(zlib.compressobj(9, zlib.DEFLATED, -12).compress(b"")[:1] or b"\0", 0)
l1 = struct.unpack_from(">Q", data, 40)[0]
l2 = struct.unpack_from(">Q", data, l1)[0] & 0x00FFFFFFFFFFFE00
entry = struct.unpack_from(">Q", data, l2)[0]
host = entry & ((1 << 54) - 1)
squeezed = zlib.compressobj(9, zlib.DEFLATED, -12)
bomb = squeezed.compress(bytes(16 << 20)) + squeezed.flush()
data[host:host + len(bomb)] = bomb
path.write_bytes(data)
done = converted(path)
check(done.returncode == DAMAGED or (done.returncode == 0 and not done.stdout[:65536].strip(b"\0")),
      f"qcow2, an inflate bomb: {told(done)}", done.returncode)

big = 1 << 50
for name, path, at, fmt, value in (
        ("qcow2 size", "qcow2", 24, ">Q", 1 << 63), ("qcow2 cluster bits 63", "qcow2", 20, ">I", 63),
        ("qcow2 cluster bits 0", "qcow2", 20, ">I", 0), ("qcow2 L1 entries", "qcow2", 36, ">I", 0x7FFFFFFF),
        ("qcow2 L1 offset", "qcow2", 40, ">Q", big), ("qcow2 refcount table", "qcow2", 48, ">Q", big),
        ("qcow2 header length", "qcow2", 100, ">I", 0xFFFFFFF8), ("qcow2 feature bits", "qcow2", 72, ">Q", 1 << 40),
        ("VMDK capacity", "vmdk", 12, "<Q", 1 << 63), ("VMDK grain size 0", "vmdk", 20, "<Q", 0),
        ("VMDK grain size", "vmdk", 20, "<Q", 1 << 40), ("VMDK table entries 0", "vmdk", 44, "<I", 0),
        ("VMDK table entries", "vmdk", 44, "<I", 0xFFFFFFFF), ("VMDK directory", "vmdk", 56, "<Q", big),
        ("VMDK descriptor offset", "vmdk", 28, "<Q", big), ("VMDK descriptor size", "vmdk", 36, "<Q", 1 << 40),
        ("VDI block size 0", "vdi", 0x178, "<I", 0), ("VDI blocks", "vdi", 0x180, "<I", 0xFFFFFFFF),
        ("VDI map offset", "vdi", 0x154, "<I", 0xFFFFFE00), ("VDI disk size", "vdi", 0x170, "<Q", 1 << 62),
        ("Parallels cluster 0", "parallels", 0x1C, "<I", 0), ("Parallels entries", "parallels", 0x20, "<I", 0xFFFFFFFF),
        ("Parallels sectors", "parallels", 0x24, "<Q", 1 << 60)):
    image = here / f"lie.{path}"
    image.unlink(missing_ok=True)
    qemu_img("convert", "-f", "raw", "-O", path, raw, image)
    with open(image, "r+b") as f:
        f.seek(at)
        f.write(struct.pack(fmt, value))
    status, peak, said = peak_of("convert", "-q", "-O", "raw", str(image), "-")
    check(status in (1, DAMAGED) and said.startswith("hvmigrate: ") and (SAN or peak < 48),
          f"{name}: {said.strip()[-130:]}", status, peak)

# --- what qemu-img 7.2 does wrong with exit status 0 --------------------------------------------------------------------

here = folder("qemu")

# A fixed VHD whose name says nothing: qemu-img takes it for raw, footer and all.
data = rng.randbytes(1 << 20)
raw = write_raw(here / "base.raw", data)
fixed = here / "fixed.vhd"
qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=fixed,force_size=on", raw, fixed)
unnamed = here / "disk"
fixed.rename(unnamed)
qemu_img("convert", "-O", "raw", unnamed, here / "qemu.raw")
wrong = (here / "qemu.raw").stat().st_size != len(data)
right(f"a fixed VHD is found by its footer (qemu-img {'adds the footer to the disk' if wrong else 'too'})", unnamed, data)

# Missing grains of a truncated sparse VMDK are zeros to qemu-img.
text = b"".join(b"%08d" % i for i in range(65536))
raw = write_raw(here / "text.raw", text)
for sub in ("monolithicSparse", "streamOptimized"):
    image = here / f"{sub}.vmdk"
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", f"subformat={sub}", raw, image)
    os.truncate(image, image.stat().st_size * 3 // 4 // SECTOR * SECTOR)
    done = run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, here / "qemu.raw")
    wrong = done.returncode == 0 and (here / "qemu.raw").read_bytes() != text
    unsafe(f"a truncated {sub} VMDK (qemu-img: status {done.returncode}{', other bytes' if wrong else ''})", image,
           bytes_only=sub == "streamOptimized")

# ZERO, RDONLY and NOACCESS extents; blank lines, CRLF, comments.
parts = [rng.randbytes(8 * SECTOR) for _ in range(3)]
for i, part in enumerate(parts):
    (here / f"part{i}.bin").write_bytes(part)
extent = ['RW 8 FLAT "part0.bin" 0', 'RW 8 FLAT "part1.bin" 0', 'RW 8 FLAT "part2.bin" 0']
image = here / "flat.vmdk"
for name, lines, want, options in (
        ("a ZERO extent between two others", [extent[0], "RW 8 ZERO", extent[2]], parts[0] + bytes(4096) + parts[2], {}),
        ("a ZERO extent at the end", [extent[0], "RW 8 ZERO"], parts[0] + bytes(4096), {}),
        ("an RDONLY extent", [extent[0], extent[1].replace("RW", "RDONLY"), extent[2]], b"".join(parts), {}),
        ("a blank line between extents", [extent[0], "", extent[1], "", "", extent[2]], b"".join(parts), {}),
        ("comments and blanks", [extent[0], "  # more", "   " + extent[1], "\t" + extent[2]], b"".join(parts), {}),
        ("CRLF", extent, b"".join(parts), {"end": "\r\n"}),
        ("CRLF and blank lines", [extent[0], "", extent[1]], b"".join(parts[:2]), {"end": "\r\n"}),
        ("an offset into the extent's file", ['RW 4 FLAT "part0.bin" 4', extent[1]], parts[0][2048:] + parts[1], {})):
    image.write_bytes(flat(lines, create="twoGbMaxExtentFlat", **options).encode())
    done = run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", image, here / "qemu.raw")
    wrong = done.returncode == 0 and (here / "qemu.raw").read_bytes() != want
    right(f"{name} (qemu-img: status {done.returncode}{', other bytes' if wrong else ''})", image, want)
image.write_text(flat([extent[0], "NOACCESS 8 ZERO", extent[2]], create="custom"))
done = converted(image)
check(done.returncode != 0 or done.stdout == parts[0] + bytes(4096) + parts[2], f"a NOACCESS extent: {told(done)}")
(here / "short.bin").write_bytes(bytes([7]) * (4 * SECTOR))
image.write_text(flat(['RW 8 FLAT "short.bin" 0']))
unsafe("an extent longer than its file", image, "short.bin")
image.write_text(flat(['RW 8 FLAT "missing.bin" 0']))
done = converted(image)
check(done.returncode in (1, DAMAGED) and "missing.bin" in done.err, f"an extent that isn't there: {told(done)}")

# A differencing VHD: qemu-img reads it as if it had no parent.
CHILD_MIB = 4


def vhd_checksum(part):
    return ~sum(part) & 0xFFFFFFFF


def differencing(path, parent_name, parent_id, parent_time):
    """A VHD of 4 MiB over a parent: its first sector is its own, everything else the parent's. By the specification."""
    uuid = rng.randbytes(16)
    size = CHILD_MIB * MIB
    footer = bytearray(512)
    struct.pack_into(">8sIIQI4sI4sQQHBBII", footer, 0, b"conectix", 2, 0x10000, 512, 0, b"win ", 0x60001, b"Wi2k", size, size,
                     120, 4, 17, 4, 0)
    footer[68:84] = uuid
    struct.pack_into(">I", footer, 64, vhd_checksum(footer))
    header = bytearray(1024)
    struct.pack_into(">8sQQIIII", header, 0, b"cxsparse", (1 << 64) - 1, 1536, 0x10000, CHILD_MIB // 2, 2 << 20, 0)
    header[40:56] = parent_id
    struct.pack_into(">I", header, 56, parent_time)
    name = parent_name.encode("utf-16-be")
    header[64:64 + len(name)] = name
    relative = f".\\{parent_name}".encode("utf-16-le")
    struct.pack_into(">4sIIIQ", header, 576, b"W2ru", 512, len(relative), 0, 2048)
    struct.pack_into(">I", header, 36, vhd_checksum(header))
    bat = struct.pack(">II", 5, 0xFFFFFFFF) + b"\xff" * (512 - 8)
    bitmap = b"\x80" + bytes(511)
    block = b"\xAA" * 512 + bytes((2 << 20) - 512)
    path.write_bytes(footer + header + bat + relative.ljust(512, b"\0") + bitmap + block + footer)


parent_data = rng.randbytes(CHILD_MIB * MIB)
raw = write_raw(here / "parent.raw", parent_data)
parent = here / "parent.vhd"
qemu_img("convert", "-f", "raw", "-O", "vpc", "-o", "subformat=dynamic,force_size=on", raw, parent)
head = parent.read_bytes()[:512]
child = here / "child.vhd"
differencing(child, "parent.vhd", head[68:84], struct.unpack_from(">I", head, 24)[0])
want = b"\xAA" * 512 + parent_data[512:]
done = run("qemu-img", "convert", "-f", "vpc", "-O", "raw", child, here / "qemu.raw")
wrong = done.returncode == 0 and (here / "qemu.raw").read_bytes() != want
right(f"a differencing VHD (qemu-img: status {done.returncode}{', other bytes' if wrong else ''})", child, want)
differencing(child, "parent.vhd", rng.randbytes(16), 0)
unsafe("a differencing VHD over another parent", child, "parent.vhd")
differencing(child, "gone.vhd", head[68:84], 0)
done = converted(child)
check(done.returncode in (1, DAMAGED) and "gone.vhd" in done.err and not done.stdout,
      f"a differencing VHD without its parent: {told(done)}")

# A VMDK delta over another parent than the one it was made of.
grain = rng.randbytes(64 * 1024)
base = here / "base.vmdk"
qemu_img("convert", "-f", "raw", "-O", "vmdk", write_raw(here / "grain.raw", grain), base)
delta = here / "delta.vmdk"
qemu_img("create", "-q", "-f", "vmdk", "-F", "vmdk", "-b", "base.vmdk", delta)
right("a VMDK delta reads its parent", delta, grain)
text = base.read_bytes()
at = text.index(b"CID=") + 4
base.write_bytes(text[:at] + (b"12345678" if text[at:at + 8] != b"12345678" else b"12345679") + text[at + 8:])
unsafe("a VMDK delta over a parent that was changed", delta, "CID")

# Empty files and noise.
for name, body in (("empty", b""), ("a byte", b"K"), ("noise", rng.randbytes(5000))):
    for suffix in ("vhd", "vhdx", "vmdk", "vdi", "qcow2", "hdd"):
        image = here / f"{name.replace(' ', '-')}.{suffix}"
        image.write_bytes(body)
        done = converted(image)
        check(done.returncode in (1, DAMAGED), f"{name}.{suffix}: {told(done)}", done.returncode)
