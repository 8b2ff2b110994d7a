#!/usr/bin/env python3
"""Table entries that lead two blocks of a disk to the same bytes, or a block into a table: none of them is wrong by itself,
and the disk would have bytes that it never had. Every format refuses, in convert and in compare, with itself too."""
# limit: 120
# kvm: none
import struct
from disks import *

need_qemu_img()
rng = random.Random(seed())
DATA = rng.randbytes(8 * MIB)
RAW = write_raw(TMP / "disk.raw", DATA)
OTHER = write_raw(TMP / "other.raw", bytes(MIB))


def get(data, fmt, at):
    return struct.unpack_from(fmt, data, at)[0]


def made(name, fmt, *options, source=RAW):
    path = TMP / name
    qemu_img("convert", *options, "-f", "raw", "-O", fmt, source, path)
    return path.read_bytes()


def refuses(name, suffix, data, *changes):
    """changes: (format of struct, offset, value)."""
    path = TMP / f"wrong.{suffix}"
    data = bytearray(data)
    for fmt, at, value in changes:
        struct.pack_into(fmt, data, at, value)
    path.write_bytes(data)
    for command in (["convert", "-q", "-O", "raw", path, "-"], ["compare", path, OTHER], ["compare", path, path]):
        done = hvmigrate(*command)
        if not refused(done, DAMAGED, path.name):
            fail(f"{name}: {command[0]} of {command[-1]}: status {done.returncode} {done.err.strip()[-200:]}")
    check(True, f"{suffix}, {name}: {done.err.strip()[-110:]}")


vhd = made("a.vhd", "vpc", "-o", "subformat=dynamic,force_size=on")
bat = get(vhd, ">Q", 512 + 16)
first = get(vhd, ">I", bat)
for name, value in (("two entries, one block", first), ("blocks that overlap", first + 100), ("the footer's copy", 0),
                    ("the header", 1), ("the table", bat // SECTOR), ("the footer", len(vhd) // SECTOR - 1),
                    ("data on another's bitmap", first - 4096)):
    if value >= 0:
        refuses(name, "vhd", vhd, (">I", bat + 4, value))
# A bitmap that is another block's last sector: their data lie side by side.
refuses("a bitmap in another's data", "vhd", vhd + bytes(4 << 20) + vhd[:SECTOR], (">I", bat + 4, first + 4096))

vhdx = made("a.vhdx", "vhdx", "-o", "block_size=1M")
regions = {}
for i in range(get(vhdx, "<I", 192 * 1024 + 8)):
    at = 192 * 1024 + 16 + 32 * i
    regions["bat" if vhdx[at:at + 4] == b"\x66\x77\xc2\x2d" else "metadata"] = get(vhdx, "<Q", at + 16)
bat = regions["bat"]
for name, value in (("two entries, one block", get(vhdx, "<Q", bat)), ("the headers", 6),
                    ("the log", get(vhdx, "<Q", 65536 + 72) | 6), ("the table", bat | 6), ("the metadata", regions["metadata"] | 6)):
    refuses(name, "vhdx", vhdx, ("<Q", bat + 8, value))

vmdk = made("a.vmdk", "vmdk")
directory, redundant = get(vmdk, "<Q", 56) * SECTOR, get(vmdk, "<Q", 48) * SECTOR
table, second = get(vmdk, "<I", directory) * SECTOR, get(vmdk, "<I", redundant) * SECTOR
grain = get(vmdk, "<I", table)
for overhead in (get(vmdk, "<Q", 64), 1):  # what the header says of where the data begin
    for name, value in (("two entries, one grain", grain), ("grains that overlap", grain + 5), ("the directory", directory // SECTOR),
                        ("a table", table // SECTOR), ("a redundant table", second // SECTOR)):
        refuses(f"{name}, data from sector {overhead}", "vmdk", vmdk, ("<Q", 64, overhead), ("<I", table + 4, value),
                ("<I", second + 4, value))
stream = made("s.vmdk", "vmdk", "-o", "subformat=streamOptimized")
directory = get(stream, "<Q", 56)
directory = (get(stream, "<Q", len(stream) - 1024 + 56) if directory == (1 << 64) - 1 else directory) * SECTOR
table = get(stream, "<I", directory) * SECTOR
grain = get(stream, "<I", table)
refuses("two entries, one compressed grain", "vmdk", stream, ("<I", table + 4, grain))
refuses("a compressed grain that is damaged", "vmdk", stream, (">Q", grain * SECTOR + 4000, 0), (">Q", grain * SECTOR + 40, 0))

qcow2 = made("a.qcow2", "qcow2")
l1, counts = get(qcow2, ">Q", 40), get(qcow2, ">Q", 48)
l2, block = get(qcow2, ">Q", l1) & 0x00FFFFFFFFFFFE00, get(qcow2, ">Q", counts)
COPIED = 1 << 63
for name, value in (("two entries, one cluster", get(qcow2, ">Q", l2)), ("the header", COPIED), ("the L1 table", COPIED | l1),
                    ("an L2 table", COPIED | l2), ("the refcount table", COPIED | counts), ("a refcount block", COPIED | block)):
    refuses(name, "qcow2", qcow2, (">Q", l2 + 8, value))
refuses("an L2 table that is a refcount block", "qcow2", qcow2, (">Q", l1, COPIED | block))
small = made("b.qcow2", "qcow2", "-o", "cluster_size=4096")
l1 = get(small, ">Q", 40)
refuses("two entries, one L2 table", "qcow2", small, (">Q", l1 + 8, get(small, ">Q", l1)))
text = write_raw(TMP / "text.raw", b"".join(b"%015d\n" % i for i in range(1 << 19)))
squeezed = made("c.qcow2", "qcow2", "-c", source=text)
l2 = get(squeezed, ">Q", get(squeezed, ">Q", 40)) & 0x00FFFFFFFFFFFE00
for entry in (1, 10):
    refuses(f"two entries, one compressed cluster ({entry})", "qcow2", squeezed, (">Q", l2 + 8 * entry, get(squeezed, ">Q", l2)))

vdi = made("a.vdi", "vdi")
blocks = get(vdi, "<I", 0x154)
refuses("two entries, one block", "vdi", vdi, ("<I", blocks + 4, get(vdi, "<I", blocks)))
hdd = made("a.hdd", "parallels")
refuses("two entries, one cluster", "hdd", hdd, ("<I", 68, get(hdd, "<I", 64)))

(TMP / "half.bin").write_bytes(DATA[:MIB])
for name in ("half.bin", "./half.bin"):
    flat = TMP / "wrong-flat.vmdk"
    flat.write_text('# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\ncreateType="twoGbMaxExtentFlat"\n'
                    f'RW 1024 FLAT "half.bin" 0\nRW 1024 FLAT "{name}" 1000\n#DDB\nddb.adapterType = "ide"\n')
    for command in (["convert", "-q", "-O", "raw", flat, "-"], ["compare", flat, flat]):
        done = hvmigrate(*command)
        check(refused(done, DAMAGED, "half.bin"), f"flat extents that overlap: {done.err.strip()[-110:]}", done.returncode)
