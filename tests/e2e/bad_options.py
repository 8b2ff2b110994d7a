#!/usr/bin/env python3
"""Bad input: options that can't be, and a host that has not what it takes."""
import os
from hvrun_lib import *

hello = image("hello.bin", say("hi\n") + leave(0))
spin = image("spin.bin", say("up\n") + SPIN)

refused("more RAM than the host", hvrun("--mem", "16T", hello), 2, "more than this host's")
refused("RAM beyond numbers", hvrun("--mem", "99999999999999999999G", hello), 2, "mem")
refused("no RAM", hvrun("--mem", "0", hello), 2, "mem")
refused("negative RAM", hvrun("--mem=-1", hello), 2, "mem")
refused("0 CPUs", hvrun("--cpus", "0", hello), 2, "at least 1")
refused("too many CPUs", hvrun("--cpus", "65", hello), 2, "cpus")
refused("far too many CPUs", hvrun("--cpus", "18446744073709551616", hello), 2, "cpus")
refused("CPUs that can't be started", hvrun("--cpus", "2", "--irqchip", "none", hello), 2, "--irqchip")
refused("a name with a slash", hvrun("--name", "a/b", hello), 2, "a/b")
refused("a name that climbs", hvrun("--name", "..", hello), 2, "name")
refused("a name too long", hvrun("--name", "a" * 65, hello), 2, "64")
refused("an unwritable trace", hvrun("--trace", "/nonexistent/t.json", hello), 1, "/nonexistent/t.json")
refused("a trace that is a folder", hvrun("--trace", f"{TMP}/", hello), 1, "file name")
refused("a taken port", hvrun("--gdb", "tcp:0", hello), 2, "port")
refused("an empty image name", hvrun(""), 2, "empty")

with Running("--name", "mine", spin) as run:
    check(run.p.stdout.read(3) == b"up\n", "a VM called mine")
    refused("a name that is taken", hvrun("--name", "mine", hello), 1, "mine")
    run.p.kill()
    run.p.wait()
done = hvrun("--name", "mine", hello)
check(done.returncode == 1 and done.out == "hi\n", "a name whose VM was killed is free again", done.err)

# Closed standard descriptors.
for closed in ([0], [1], [2], [0, 1, 2]):
    done = hvrun(hello, preexec_fn=lambda: [os.close(fd) for fd in closed], stdin=None)
    check(done.returncode == 1 and done.out == ("" if 1 in closed else "hi\n"),
          f"with descriptors {closed} closed", done.returncode, done.out)

# /dev/kvm: missing, forbidden, busy, something else.
def device(path):
    return {**os.environ, "HV_KVM_DEVICE": str(path)}


refused("/dev/kvm missing", hvrun(hello, env=device("/nonexistent")), 1, "missing", "modprobe")
(TMP / "kvm").write_bytes(b"")
(TMP / "kvm").chmod(0)
refused("/dev/kvm forbidden", hvrun(hello, env=device(TMP / "kvm"), preexec_fn=drop_privileges_over_files), 1,
        "forbidden", "group")
OPENAT, IOCTL, SECCOMP = 257, 16, 317
ENOMEM, EBUSY, ENOSYS = 12, 16, 38
refused("/dev/kvm busy", hvrun(hello, preexec_fn=deny(OPENAT, EBUSY, 2, os.O_RDWR | os.O_CLOEXEC)), 1, "busy")
refused("VT-x taken by another hypervisor", hvrun(hello, preexec_fn=deny(IOCTL, EBUSY, 1, 0xAE01)), 1, "busy")
refused("/dev/kvm that is something else", hvrun(hello, env=device("/dev/null")), 1, "not KVM")
refused("no memory for the VM's slot", hvrun(hello, preexec_fn=deny(IOCTL, ENOMEM, 1, 0x4020AE46)), 1, "emory")
for name, number in (("KVM_CREATE_VCPU", 0xAE41), ("KVM_GET_SUPPORTED_CPUID", 0xC008AE05), ("KVM_SET_SREGS", 0x4138AE84)):
    done = hvrun(hello, preexec_fn=deny(IOCTL, ENOMEM, 1, number))
    check(done.returncode == 1 and done.err.startswith("hvrun: "), f"{name} fails: {done.err.strip()[:100]}", done.err)
refused("a kernel without seccomp", hvrun(hello, preexec_fn=deny(SECCOMP, ENOSYS, 0, 1)), 1, "--sandbox off")
