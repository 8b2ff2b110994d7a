#!/usr/bin/env python3
"""The small Linux of guests/linux boots: by bzImage and by PVH, from an initial RAM disk and from a disk, with 1 and 4 CPUs,
in each of the kernel's own ways of packing, to a login on the console. There /upgrade does what it says, /upgrade --break
leaves what doesn't work, disks are mounted, reboot and poweroff end what they should.

That is user space, which needs VT-x or AMD-V (the box, where this machine has neither). On a software back end of /dev/kvm
the kernel comes to its first program, with its root file system from a disk and its address by DHCP; the instructions that
are completed for it are counted.
"""
# limit: 1500
# kvm: none
# once
# alone
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import linux_lib
from labs_staff_lib import SRC, STRETCH, TMP, check, skip
from linux_lib import HVRUN, SECONDS, result, tail

OUT = SRC / "build-linux" / "guest"
NEEDED = ("bzImage", "vmlinux", "initrd", "root.ext2", "packed/bzImage.gzip")
CLEARED = (SRC / "guests/linux/clearcpuid").read_text().strip()
PACKINGS = {"gzip": b"\x1f\x8b", "xz": b"\xfd7zXZ\0", "zstd": b"\x28\xb5\x2f\xfd", "lz4": b"\x02\x21\x4c\x18"}
os.environ["PATH"] += ":/usr/sbin:/sbin"


def said_everywhere():
    """The features that a software back end lacks are named in three places, and are the same there."""
    doctor = subprocess.run([HVRUN, "--doctor"], capture_output=True, text=True, timeout=60, check=False).stdout
    if "kvm_pvm" in doctor:
        check(f"clearcpuid={CLEARED}" in doctor, "the doctor tells which features Linux must be told to leave alone", doctor)
    check(f"clearcpuid={CLEARED}" in (SRC / "docs/boot.md").read_text(), "and so does docs/boot.md")


if os.environ.get("HV_SAN"):
    skip("no sanitized program boots Linux in a time worth waiting for")
said_everywhere()
missing = [name for name in NEEDED if not (OUT / name).exists()]
if missing:
    skip(f"the small Linux isn't there ({missing[0]}): make linux-guest")
if not os.access("/dev/kvm", os.R_OK | os.W_OK) and os.environ.get("HVLAB_BOX"):
    skip("the box has no /dev/kvm")


def has_net():
    text = subprocess.run([HVRUN, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    return re.search(r"^  --net ", text, re.MULTILINE) is not None


NET = has_net()


def disk(name, source=None):
    """A disk of its own for each run: the root file system, or an empty ext2."""
    path = TMP / name
    if source:
        shutil.copyfile(source, path)
    else:
        with open(path, "wb") as file:
            file.truncate(8 << 20)
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext2", path], check=True, timeout=60, stdin=subprocess.DEVNULL)
    return path


def command(kernel, *options, cpus=1, append=""):
    return shlex.join(map(str, (HVRUN, "--mem", "192M", "--cpus", cpus, "--timeout", SECONDS, *options, "--append",
                                f"console=ttyS0 panic=-1 {append}".strip(), OUT / kernel)))


# --- the kernel on a software back end --------------------------------------------------------------------------------------
def kernel_alone():
    """No user space there: ended as soon as the first program would start, or after a limit for a machine that is busy."""
    root = disk("alone.ext2", OUT / "root.ext2")
    words = [HVRUN, "--mem", "64M", "--disk", root, "--stats", "--verbose", "--append",
             f"console=ttyS0 panic=-1 root=/dev/vda init=/init clearcpuid={CLEARED}" + (" ip=dhcp" if NET else "")]
    words += ["--net", "user"] if NET else []
    log, started = TMP / "alone.log", time.monotonic()
    with open(log, "wb") as file:
        child = subprocess.Popen([*map(str, words), str(OUT / "vmlinux")], stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            while child.poll() is None and time.monotonic() < started + 600 * STRETCH:
                if b"Run /init as init process" in log.read_bytes():
                    break
                time.sleep(0.5)
        finally:
            child.terminate()
            child.wait(60)
    text = log.read_text(errors="replace")
    print(f"{time.monotonic() - started:.0f} s until the first program")
    check("Run /init as init process" in text, "the kernel comes to its first program on a software back end", tail(text))
    check("VFS: Mounted root (ext2 filesystem)" in text, "with its root file system from a virtio disk", tail(text))
    check("doesn't know int3; hvkit completes it" in text, "it is said that int3 is completed for it", tail(text))
    check(re.search(r"^int3, which the back end does not know, was completed \d+ times$", text, re.MULTILINE),
          "and --stats counts it", tail(text))
    if NET:
        check("IP-Config: Got DHCP answer" in text or "IP-Config: Complete" in text, "its address comes by DHCP", tail(text))
    else:
        print("not tried: DHCP, as this hvrun has no --net")


# --- user space ---------------------------------------------------------------------------------------------------------
LOGIN = ("hvkit login:", "root\n")
PROMPT = "hvkit# "


def session(*lines):
    return (PROMPT, "\n".join(lines) + "\n")


def small(*more):
    return ("--initrd", OUT / "initrd", *more)


def scripts_for_one_cpu():
    data = disk("data.ext2")
    root = disk("root.ext2", OUT / "root.ext2")
    net = ("--net", "user") if NET else ()
    yield linux_lib.run_typing(
        "disk", command("bzImage", "--disk", root, *net, append="root=/dev/vda init=/init" + (" ip=dhcp" if NET else "")), LOGIN,
        session("/status", "/upgrade", "/status", "/upgrade", "cat /etc/version", "ip -4 addr show", "echo NPROC-$(nproc)", "poweroff"))
    yield linux_lib.run_typing(
        "break", command("vmlinux", *small("--disk", data, "--rng")), LOGIN,
        session("/status", "/upgrade --break; echo UPGRADE-$?", "/status; echo STATUS-$?", "reboot"),
        ("hvkit login:", 2, "root\n"), ("root login on", 2, "echo AGAIN; /status; /upgrade; poweroff\n"))
    for name in PACKINGS:
        yield linux_lib.run_typing(f"packed-{name}", command(f"packed/bzImage.{name}", *small(), append="hv.login=root quiet"),
                                   session("echo A-SHELL-$((6 * 7))", "poweroff"))


def scripts_for_four():
    more = ("--disk", f"{OUT / 'root.squashfs'},ro") if (OUT / "root.squashfs").exists() else small()
    append = "root=/dev/vda init=/init hv.login=root" if (OUT / "root.squashfs").exists() else "hv.login=root"
    yield linux_lib.run_typing("four", command("vmlinux", *more, cpus=4, append=append),
                               session("echo NPROC-$(nproc)", "cat /proc/cpuinfo", "/status", "/upgrade", "/status", "poweroff"))


def user_space():
    direct = linux_lib.need_user_space()
    linux_lib.execute(direct, list(scripts_for_one_cpu()))
    linux_lib.execute(direct, list(scripts_for_four()))

    out, err, status = result("disk")
    check("init: /system is on /dev/vda" in out, "bzImage: the root file system is on the disk", tail(out), err)
    check(out.count("the system WORKS") == 2 and "BROKEN" not in out, "/upgrade leaves a system that works", tail(out), err)
    check(re.search(r"version 1\r?$", out, re.M) and re.search(r"version 2\r?$", out, re.M) and out.count("upgrade: step ") == 5,
          "of the next version, after five steps that are told", tail(out))
    check("only version 1 can be upgraded" in out, "and there is no second upgrade", tail(out))
    check("NPROC-1" in out and status == 0, "on one CPU; poweroff is an orderly end", status, tail(out), err)
    if NET:
        check(re.search(r"inet \d+\.\d+\.\d+\.\d+/\d+.* eth0", out), "with an address by DHCP", tail(out))
    out, err, status = result("break")
    check("init: /system is on /dev/vda" in out, "PVH: a second disk is mounted, and the system is there", tail(out), err)
    first, again = out.split("AGAIN", 1) if "AGAIN" in out else (out, "")
    check("the system WORKS" in first and "UPGRADE-1" in first and "step 3 failed after 4 of 8 records" in first,
          "/upgrade --break fails half-way", tail(first), err)
    check("the system is BROKEN" in first and "STATUS-1" in first, "and leaves a system that doesn't work", tail(first))
    check(out.count("Linux version") == 2, "reboot starts the kernel anew", out.count("Linux version"), err)
    check("the system is BROKEN" in again and "WORKS" not in again and "only version 1 can be upgraded" in again,
          "which doesn't help it", tail(out))
    check(status == 0, "an orderly end", status, err)
    for name, magic in PACKINGS.items():
        out, err, status = result(f"packed-{name}")
        packed = linux_lib.payload((OUT / f"packed/bzImage.{name}").read_bytes())
        check(packed.startswith(magic), f"{name}: the kernel is packed that way", packed[:8].hex())
        check("A-SHELL-42" in out and status == 0, f"{name}: it unpacks itself and boots", status, tail(out), err)
    out, err, status = result("four")
    check("NPROC-4" in out, "four CPUs come up", tail(out), err)
    check(len(re.findall(r"^siblings\s*: 4\r?$", out, re.MULTILINE)) == 4 and
          len(re.findall(r"^cpu cores\s*: 4\r?$", out, re.MULTILINE)) == 4 and
          sorted(re.findall(r"^core id\s*: (\d+)", out, re.MULTILINE)) == ["0", "1", "2", "3"] and
          re.findall(r"^physical id\s*: (\d+)", out, re.MULTILINE) == ["0"] * 4, "as four cores of one package", tail(out))
    if (OUT / "root.squashfs").exists():
        check("init: /system is in memory" in out, "from a squashfs that nobody can write to", tail(out))
    check(out.count("the system WORKS") == 2 and status == 0, "there too, an upgrade works", status, tail(out), err)
    check(all("completes it" not in result(name)[1] for name in ("disk", "break", "four")),
          "and nothing is completed for a back end that needs no help")


if os.access("/dev/kvm", os.R_OK | os.W_OK) and not linux_lib.is_hardware():
    kernel_alone()
user_space()
sys.exit(0)
