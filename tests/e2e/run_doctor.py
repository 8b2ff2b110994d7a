#!/usr/bin/env python3
"""--doctor: one line a question, each with what to do."""
import json
import os
from hvrun_lib import *

done = hvrun("--doctor")
check(done.returncode == 0 and "VMs run here." in done.out, "this host runs VMs", done.out)
lines = [line for line in done.out.splitlines() if line and not line.startswith("VMs")]
check(all(line.split()[0] in ("ok", "limited", "missing") for line in lines), "each line has a verdict")
for word in ("/dev/kvm", "back end", "irqchip", "immediate exit", "dirty ring", "memory", "huge pages", "userfaultfd",
             "io_uring", "Landlock", "seccomp", "/dev/net/tun"):
    check(word in done.out, f"it tells of {word}")

done = hvrun("--doctor", "--json")
report = json.loads(done.out)
check(report["runs"] is True and len(report["checks"]) == len(lines), "--json tells the same")
check(all(c["verdict"] == "ok" or c.get("cure") or c["detail"] for c in report["checks"]), "with a cure for each lack")

done = hvrun("--doctor", env={**os.environ, "HV_KVM_DEVICE": "/nonexistent"})
check(done.returncode == 1 and "modprobe" in done.out and "do not run here" in done.out, "without /dev/kvm", done.out)
done = hvrun("--doctor", "--json", env={**os.environ, "HV_KVM_DEVICE": "/dev/null"})
check(done.returncode == 1 and json.loads(done.out)["runs"] is False, "with a device that isn't KVM's")
# A kernel that lacks something: each call denied is a line that says so, and no crash.
ENOSYS = 38
for nr, word in ((323, "userfaultfd"), (425, "io_uring"), (444, "Landlock")):
    done = hvrun("--doctor", preexec_fn=deny(nr, ENOSYS))
    lack = [line for line in done.out.splitlines() if word in line and not line.startswith("ok")]
    check(done.returncode == 0, f"without {word} VMs still run", done.out)
