#!/usr/bin/env python3
"""The distribution's own kernel, unmodified, boots to a shell: by bzImage and by PVH, with 1 and 4 CPUs. It finds virtio
disks of four formats and the entropy device by ACPI; what it reads and writes there is right, and so are the images
afterwards. It turns the VM off and resets it through ACPI, and its panic is reported. Damaged and misplaced images are
refused.

The kernel's user space needs faithful hardware virtualisation. Where /dev/kvm has none, the box gives it: all runs are put
into scripts, which go through `hvlab box` there.
"""
# limit: 900
# once
# alone
import hashlib
import pathlib
import random
import shlex
import shutil
import struct
import subprocess
import sys

import linux_lib
from linux_lib import HVRUN, SECONDS, TMP, Linux, check, result, tail, write

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in %s; do $b insmod /m/$m.ko; done 2>/dev/null
echo "INIT-REACHED cpus=$($b nproc) id=$($b cat /proc/sys/kernel/random/boot_id)"
$b grep ttyS0 /proc/interrupts
case $do in
disks)
	for d in a b c d; do $b sha256sum /dev/vd$d; $b blockdev --getro /dev/vd$d; done
	for d in a b c; do $b dd if=/pattern of=/dev/vd$d bs=64k seek=20 conv=fsync,notrunc 2>/dev/null || echo "NOT-WRITTEN vd$d"; done
	$b dd if=/pattern of=/dev/vdd bs=64k count=1 conv=fsync 2>/dev/null && echo "WRITTEN vdd"
	echo 3 >/proc/sys/vm/drop_caches
	for d in a b c; do $b sha256sum /dev/vd$d; done
	echo "ENTROPY $(cat /sys/class/misc/hw_random/rng_current) $($b head -c 64 /dev/hwrng | $b wc -c)"
	echo "SERIAL $(cat /sys/block/vda/serial)"
	$b poweroff -f;;
panic) echo c >/proc/sysrq-trigger;;
reboot) $b reboot -f;;
esac
exec $b sh
"""  # sysfs, proc and the modules of the kernel are all that it needs
SHELL = "echo A-SHELL-$((6 * 7))\nmkdir /t && echo MADE >/t/f && cat /t/f\npoweroff -f\n"

linux = Linux()
MODULES = linux.modules("pvpanic", "pvpanic_mmio", "virtio_mmio", "virtio_blk", "virtio_rng")
PANICS = sum(name.startswith("pvpanic") for name, _ in MODULES)
BZIMAGE = linux.image
image = pathlib.Path(BZIMAGE).read_bytes()


# --- what is booted -----------------------------------------------------------------------------------------------------
# Disks of four formats with the same content; the guest writes a pattern over a part of the first three.
SIZE, AT = 8 << 20, 20 << 16
content = bytearray(SIZE)
content[1 << 20:3 << 20] = random.Random(5).randbytes(2 << 20)
content[-4096:] = b"the end\n" * 512
pattern = random.Random(6).randbytes(300_000 // 512 * 512)
written = bytearray(content)
written[AT:AT + len(pattern)] = pattern
FORMATS = {"raw": "raw", "qcow2": "qcow2", "vhdx": "vhdx", "vmdk": "vmdk"}  # vda to vdd; the last one is read-only


def make_disks():
    if not shutil.which("qemu-img"):
        return False
    write("disk.raw", content)
    for name in ("qcow2", "vhdx", "vmdk"):
        subprocess.run(["qemu-img", "convert", "-O", name, TMP / "disk.raw", TMP / f"disk.{name}"], check=True, timeout=60)
    return True


INITRD = linux.initrd("initrd", INIT % " ".join(name for name, _ in MODULES), MODULES, [("pattern", 0o100644, pattern)])
scripts = []


def command(kernel, *options, do="shell", cpus=1, mem="512M", initrd=INITRD, append=""):
    return shlex.join(map(str, (HVRUN, "--mem", mem, "--cpus", cpus, "--timeout", SECONDS, "--initrd", initrd, "--append",
                                f"console=ttyS0 panic=-1 do={do}{append}", *options, kernel)))


def run(name, words):
    scripts.append(linux_lib.run(name, words))


scripts.append(linux_lib.run_typing("shell", command(BZIMAGE, append=" quiet"), ("/ # ", SHELL)))
run("panic", command(BZIMAGE, do="panic", cpus=4, append=" quiet"))
disks = make_disks()
if disks:
    run("disks", command(BZIMAGE, "--disk", "disk.raw,serial=HV-1", "--disk", "disk.qcow2", "--disk", "disk.vhdx", "--disk",
                         "disk.vmdk,ro", "--rng", do="disks", cpus=2, append=" quiet"))
else:
    print("not tried: disks, as qemu-img is missing")
elf = linux_lib.vmlinux(image)
if elf:
    scripts.append(linux_lib.run_until("reboot", command(write("vmlinux", elf), do="reboot"), "Linux version", 2))
else:
    scripts.append(linux_lib.run_until("reboot", command(BZIMAGE, do="reboot"), "Linux version", 2))
    print("not tried: PVH, as this kernel's payload is packed by a way that isn't known here")

# --- what is refused ----------------------------------------------------------------------------------------------------
booted = len(scripts)
CUTS = [0x205, 0x250, 0x400, len(image) // 2, image[0x1F1] * 512]
for cut in CUTS:
    run(f"cut{cut}", command(write(f"cut{cut}.img", image[:cut]), "--boot", "linux"))
magic = bytearray(image)
magic[0x202] = ord("h")
run("magic", command(write("magic.img", magic), "--boot", "linux"))
sects = bytearray(image)
sects[0x1F1] = 255
struct.pack_into("<I", sects, 0x1F4, len(image) // 16)
run("sects", command(write("sects.img", sects)))
with open(TMP / "big", "wb") as file:
    file.truncate(200 << 20)
run("big", command(BZIMAGE, mem="128M", initrd=TMP / "big"))
run("small", command(BZIMAGE, mem="32M"))
run("long", command(BZIMAGE, append=" " + "x" * 4000))

# --- the runs -----------------------------------------------------------------------------------------------------------
for one in scripts[:booted]:
    linux.execute([one])
linux.execute(scripts[booted:])

out, err, status = result("shell")
check("INIT-REACHED cpus=1 " in out, "a stock bzImage runs its init on one CPU", tail(out), err)
check("A-SHELL-42" in out and "MADE" in out, "a shell takes commands from the serial line", tail(out), err)
check("IO-APIC" in out, "whose interrupt comes by the IOAPIC, as the ACPI tables say", tail(out))
check(status == 0, "power-off through ACPI is an orderly end", status, tail(out), err)
out, err, status = result("panic")
check("INIT-REACHED cpus=4 " in out, "four CPUs come up", tail(out), err)
check("sysrq triggered crash" in out, "the kernel panics", tail(out), err)
if PANICS == 2:
    check(status == 1 and "panicked" in err and "pvpanic" in err, "which is told by name, with status 1", status, err)
if disks:
    out, err, status = result("disks")
    for disk, name in zip("abcd", FORMATS):
        check(f"{hashlib.sha256(content).hexdigest()}  /dev/vd{disk}" in out, f"{name}: the guest reads what is in the image", tail(out), err)
        if name != "vmdk":
            check(f"{hashlib.sha256(written).hexdigest()}  /dev/vd{disk}" in out, f"{name}: and what it has written", tail(out), err)
        subprocess.run(["qemu-img", "convert", "-O", "raw", "-f", name, TMP / f"disk.{name}", TMP / "back"], check=True, timeout=60)
        check((TMP / "back").read_bytes() == (content if name == "vmdk" else written), f"{name}: qemu-img reads the same afterwards")
        if name != "raw":
            found = subprocess.run(["qemu-img", "check", "-f", name, TMP / f"disk.{name}"], capture_output=True, text=True, timeout=60, check=False)
            check(found.returncode == 0, f"{name}: qemu-img check finds nothing", found.stdout, found.stderr)
    check("NOT-WRITTEN" not in out and "WRITTEN vdd" not in out, "three disks can be written to, the read-only one can't", tail(out))
    check("ENTROPY virtio_rng.0 64" in out, "the entropy device gives what is asked for", tail(out))
    check("SERIAL HV-1" in out, "the disk has its serial number", tail(out))
    check(status == 0, "an orderly end", status, err)
out, err, status = result("reboot")
check("INIT-REACHED cpus=1 " in out, "the kernel boots by PVH" if elf else "the kernel boots", tail(out), err)
check(out.count("Linux version") == 2 and status == 0, "reboot resets the VM, and the kernel starts anew", status, tail(out), err)


def refused(name, wanted, *words):
    text, said, code = result(name)
    check(code == wanted and not text and said.count("\n") == 1 and all(word in said for word in words),
          f"{name}: one sentence and status {wanted}", code, text[-300:], said)


for cut in CUTS:
    refused(f"cut{cut}", 3)
refused("magic", 3, "HdrS")
refused("sects", 3, "truncated")
refused("big", 1, "initrd", "--mem")
refused("small", 1, "--mem")
refused("long", 2, "cmdline_size")
sys.exit(0)
