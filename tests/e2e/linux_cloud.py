#!/usr/bin/env python3
"""The distribution's kernel for clouds, unmodified: an initial RAM disk's shell, with one CPU by bzImage and with four by PVH,
and, where it has a driver for virtio's windows, a disk that it reads and writes.
"""
# limit: 600
# kvm: none
# once
# alone
import hashlib
import pathlib
import random
import shlex
import sys

import linux_lib
from linux_lib import HVRUN, SECONDS, Linux, check, result, tail, write

linux = Linux(("linux-image-cloud-amd64", "linux-image-kvm"), "cloud")
MODULES = linux.modules("virtio_mmio", "virtio_blk")
HAS_MMIO = any(name == "virtio_mmio" for name, _ in MODULES)
INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in %s; do $b insmod /m/$m.ko; done 2>/dev/null
echo "INIT-REACHED cpus=$($b nproc) $($b uname -r)"
if [ -b /dev/vda ]; then
	$b sha256sum /dev/vda; $b dd if=/dev/zero of=/dev/vda bs=64k count=1 conv=fsync 2>/dev/null && echo WRITTEN
fi
exec $b sh
""" % " ".join(name for name, _ in MODULES)
SHELL = "echo A-SHELL-$((6 * 7))\npoweroff -f\n"

content = random.Random(9).randbytes(1 << 20)
disk = write("disk.raw", content)
initrd = linux.initrd("initrd", INIT, MODULES)
elf = linux_lib.vmlinux(pathlib.Path(linux.image).read_bytes())


def command(kernel, cpus):
    return shlex.join(map(str, (HVRUN, "--mem", "512M", "--cpus", cpus, "--timeout", SECONDS, "--initrd", initrd, "--append",
                                "console=ttyS0 panic=-1 quiet", "--disk", disk, kernel)))


runs = {"bzimage": (1, linux.image), "pvh": (4, write("vmlinux", elf) if elf else linux.image)}
for name, (cpus, kernel) in runs.items():
    linux.execute([linux_lib.run_typing(name, command(kernel, cpus), ("/ # ", SHELL))])
expected = content
for name, (cpus, _) in runs.items():
    out, err, status = result(name)
    check(f"INIT-REACHED cpus={cpus} " in out and "cloud" in out, f"{name}: the kernel for clouds runs its init", tail(out), err)
    check("A-SHELL-42" in out, f"{name}: a shell takes commands", tail(out), err)
    check(status == 0, f"{name}: power-off is an orderly end", status, tail(out), err)
    if HAS_MMIO:
        check(f"{hashlib.sha256(expected).hexdigest()}  /dev/vda" in out and "WRITTEN" in out, f"{name}: its disk", tail(out), err)
        expected = bytes(65536) + content[65536:]
if HAS_MMIO:
    check(disk.read_bytes() == expected, "what it wrote is in the image")
else:
    print("not tried: a disk, as this kernel has no driver for virtio's windows")
sys.exit(0)
