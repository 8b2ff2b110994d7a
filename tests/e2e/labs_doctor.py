#!/usr/bin/env python3
# limit: 120
"""hvlab doctor: this machine as it is, and others that it is made to see: each lack has its verdict, its meaning, a cure."""
import json
import os
import pathlib
import stat
import subprocess
import sys
import time

SRC, TMP = pathlib.Path(os.environ["SRC"]), pathlib.Path(os.environ["TMP"])
sys.path.insert(0, str(SRC / "labs"))
from kit import doctor  # noqa: E402

INTEL = "processor : 0\nmodel name : Intel Core\nflags : fpu vmx lm\n"


def check(ok, text, *details):
    if not ok:
        print("FAILED:", text, *map(repr, details))
        sys.exit(1)
    print("ok  ", text)


def run(*args, **env):
    done = subprocess.run([sys.executable, "-m", "kit.doctor", *args], cwd=SRC / "labs", capture_output=True, text=True,
                          timeout=60 * int(os.environ["HV_STRETCH"]), check=False, env={**os.environ, **env})
    check("Traceback" not in done.stderr, f"doctor {' '.join(args)} {env}", done.stderr)
    return done


number = 0


def machine(files, **more):
    """A host with these files below its root."""
    global number
    number += 1
    root = TMP / f"root{number}"
    for name, text in {"proc/cpuinfo": INTEL, "etc/os-release": "ID=debian\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.mkdir()
        else:
            path.write_text(text)
    more.setdefault("system", "Linux")
    more.setdefault("machine", "x86_64")
    return doctor.Host(root=str(root), **more)


def one(checks, name):
    found = [c for c in checks if c.name == name]
    check(len(found) == 1, f"{name} is told once", [c.name for c in checks])
    return found[0]


def expect(checks, name, verdict, *words):
    c = one(checks, name)
    text = f"{c.detail} {c.means} {c.cure}"
    check(c.verdict == verdict and all(w in text for w in words), f"{name}: {verdict}, {words}", c)


# --- this machine ---------------------------------------------------------------------------------------------------
done = run()
check(done.returncode == 0 and "The labs can be done here." in done.stdout, "the labs can be done here", done.stdout)
check("agrees" in done.stdout and "first exit after" in done.stdout, "a first VM ran, and hvrun --doctor agrees", done.stdout)
observe = pathlib.Path(os.environ["BUILD"], "labs/observe")
check(not observe.exists() or "the recorder saw 23 exits" in done.stdout, "and the recorder saw its exits", done.stdout)
report = json.loads(run("--json").stdout)
check(report["runs"] and set(report["labs"]) == {str(n) for n in range(1, 13)}, "--json tells of each lab")
for c in report["checks"]:
    check(c["verdict"] == "ok" or (c["means"] and c["cure"]), f"{c['check']}: {c['verdict']}")
check(run("--nonsense").returncode == 2, "wrong usage")
done = run(HV_KVM_DEVICE="/nonexistent")
check(done.returncode == 1 and "/nonexistent is not there" in done.stdout and "No lab can be done here yet" in done.stdout, "without the device")
done = run(HV_KVM_DEVICE="/dev/null")
check(done.returncode == 1 and "is not KVM's device" in done.stdout, "with another device", done.stdout)
done = run(HV_KVM_DEVICE="/etc/passwd")
check(done.returncode == 1 and "is no device" in done.stdout, "with a file")

# --- other systems ----------------------------------------------------------------------------------------------------
checks = doctor.examine(machine({}, system="Darwin", machine="arm64"))
expect(checks, "system", "missing", "macOS", "QEMU")
expect(checks, "processor", "missing", "Apple", "x86-64")
checks = doctor.examine(machine({}, system="Windows", machine="AMD64"))
expect(checks, "system", "missing", "WSL2")
arm = machine({"proc/cpuinfo": "processor : 0\n", "proc/device-tree/compatible": "raspberrypi"}, machine="aarch64")
expect(doctor.check_processor(arm), "processor", "missing", "aarch64", "QEMU")
check(not doctor.check_kvm(arm), "an ARM machine's KVM is not asked")
rosetta = machine({"proc/cpuinfo": "model name : VirtualApple @ 2.50GHz\nflags : fpu lm\n"})
expect(doctor.check_processor(rosetta), "processor", "missing", "translated", "QEMU")
wsl = machine({"proc/version": "Linux version 5.15-microsoft-standard-WSL2", "proc/cpuinfo": "flags : fpu hypervisor\n"})
expect(doctor.check_system(wsl), "system", "ok", "WSL2")
expect(doctor.check_processor(wsl), "virtualisation", "missing", "nestedVirtualization=true")
expect(doctor.check_device(wsl), "/dev/kvm", "missing", "wsl --shutdown")
wsl1 = machine({"proc/version": "Linux version 4.4.0-19041-Microsoft"})
expect(doctor.check_system(wsl1), "system", "missing", "--set-version")

# --- processors and hypervisors ---------------------------------------------------------------------------------------
none = machine({"proc/cpuinfo": "model name : Old\nflags : fpu lm\n"})
expect(doctor.check_processor(none), "virtualisation", "missing", "firmware", "SVM Mode")
for vendor, words in (("innotek GmbH", "--nested-hw-virt"), ("VMware, Inc.", "Virtualize Intel"), ("QEMU", "nested=1"),
                      ("Microsoft Corporation", "ExposeVirtualizationExtensions"), ("Amazon EC2", ".metal"), ("Nobody", "its host")):
    vm = machine({"proc/cpuinfo": "flags : fpu hypervisor\n", "sys/class/dmi/id/sys_vendor": vendor + "\n"})
    expect(doctor.check_processor(vm), "virtualisation", "missing", words)
nested = machine({"proc/cpuinfo": "flags : svm hypervisor\n", "sys/class/dmi/id/sys_vendor": "QEMU\n"})
expect(doctor.check_processor(nested), "virtualisation", "ok", "AMD-V", "nested in QEMU")
for flags, module, verdict, words in (("vmx", "kvm_intel", "ok", "VT-x"), ("svm", "kvm_amd", "ok", "AMD-V"), ("fpu", "kvm_pvm", "limited", "software"),
                                      ("vmx", "kvm", "missing", "modprobe kvm_intel"), ("svm", "kvm", "missing", "modprobe kvm_amd")):
    host = machine({"proc/cpuinfo": f"flags : {flags}\n", f"sys/module/{module}": None, "dev/kvm": ""})
    expect([doctor.check_backend(host)], "back end", verdict, words)
for module in ("kvm_pvm", "kvm"):  # built in, but it serves this processor not
    expect([doctor.check_backend(machine({"proc/cpuinfo": "flags : fpu\n", f"sys/module/{module}": None}))], "back end", "missing", "none")

# --- the device -------------------------------------------------------------------------------------------------------
box = machine({".dockerenv": ""})
expect(doctor.check_device(box), "/dev/kvm", "missing", "--device /dev/kvm", "hvlab box")
expect(doctor.check_device(machine({})), "/dev/kvm", "missing", "not there", "hvlab box")


def denied(mode, gid, group_file):
    host = machine({"etc/group": group_file})
    host.user = ("ann", {1000})
    info = os.stat_result((stat.S_IFCHR | mode, 0, 0, 1, 0, gid, 0, 0, 0, 0))
    real, doctor.group_name = doctor.group_name, lambda _: "kvm"
    try:
        return doctor.permission_cure(host, info)
    finally:
        doctor.group_name = real


check("usermod -aG kvm ann" in denied(0o660, 104, "kvm:x:104:\n"), "not in the group")
check("log out and in again" in denied(0o660, 104, "kvm:x:104:bob,ann\n") and "newgrp kvm" in denied(0o660, 104, "kvm:x:104:ann\n"), "in it since the last login")
check("setfacl" in denied(0o600, 0, ""), "a device for root alone")

# --- what the first VM says --------------------------------------------------------------------------------------------
all_there = {str(n): 1 for n, *_ in doctor.EXTENSIONS} | {"9": 4}
said = {"version": {"value": 12}, "extensions": {"value": all_there}}
expect(doctor.check_extensions(said), "extensions", "ok")
for number_, name, labs, _ in doctor.EXTENSIONS:
    checks = doctor.check_extensions({"extensions": {"value": {**all_there, str(number_): 0}}})
    lack = one(checks, name)
    check(lack.verdict == ("missing" if len(labs) == 12 else "limited") and lack.labs == labs, f"without {name}: {labs}")
expect(doctor.check_version({"version": {"value": 11}}), "API version", "missing")
busy = machine({"sys/module/vboxdrv": None})
expect(doctor.check_first_vm(busy, {}, "vm: Device or resource busy (EBUSY)"), "a first VM", "missing", "vboxdrv", "modprobe -r")
expect(doctor.check_first_vm(busy, {"ready": {}}, "timeout"), "a first VM", "missing", '"ready"', "never returns")
expect(doctor.check_first_vm(busy, {}, "vm: no (EINVAL)"), "a first VM", "missing", "dmesg")

# A probe that hangs is given up; so is one that leaves a child behind.
slow = machine({})
started = time.monotonic()
done = slow.run(["sh", "-c", "echo here; sleep 1000 & sleep 1000"], 0.5)
check(done.returncode is None and done.stdout == "here\n" and time.monotonic() - started < 20, "a program that hangs is given up")
check(slow.run(["/nonexistent"]).returncode is None, "one that isn't there does no harm")

# --- compilers and libraries ------------------------------------------------------------------------------------------
tools = TMP / "bin"
tools.mkdir()


def program(name, text):
    (tools / name).write_text("#!/bin/sh\n" + text)
    (tools / name).chmod(0o755)


os.environ.pop("CC", None)
bare = machine({}, path=str(tools))
checks = doctor.check_tools(bare)
expect(checks, "C compiler", "missing", "sudo apt-get install gcc")
expect(checks, "make", "missing", "apt-get install make")
for release, words in (("ID=fedora\n", "sudo dnf install elfutils-libelf-devel"), ("ID=arch\n", "sudo pacman -S libelf"),
                       ("ID=mint\nID_LIKE=\"ubuntu debian\"\n", "apt-get install libelf-dev"), ("ID=other\n", "Debian calls libelf-dev")):
    host = machine({"etc/os-release": release}, path=f"{tools}:/usr/bin:/bin")
    program("gcc", 'for a; do case $a in *.c) grep -q gelf.h "$a" && exit 1;; esac; done; exit 0\n')
    expect(doctor.check_libraries(host, str(tools / "gcc")), "elf", "missing", words)
program("gcc", "exit 1\n")
expect(doctor.check_libraries(host, str(tools / "gcc")), "libraries", "missing", "build-essential")
expect(doctor.check_tools(machine({}, python=(3, 9))), "Python", "missing", "3.10")

# --- the grader -------------------------------------------------------------------------------------------------------
expect(doctor.check_recorder(machine({"proc/sys/kernel/yama/ptrace_scope": "3\n"})), "ptrace", "missing", "ptrace_scope=1")
expect(doctor.check_recorder(machine({"proc/sys/kernel/yama/ptrace_scope": "1\n"})), "ptrace", "ok", "yama: 1")
full = machine({})
full.work = "/nonexistent/folder"
expect(doctor.check_room(full), "disk, work folder", "limited")

worst = doctor.affected([doctor.Check("KVM", "a", "limited", "", labs=(7, 8)), doctor.Check("KVM", "b", "missing", "", labs=(8,)),
                         doctor.Check("KVM", "c", "limited", "", labs=(8,))])
check(worst[7] == "limited" and worst[8] == "missing" and worst[1] == "ok", "each lab has its worst")
check(not list(TMP.glob("hvlab-doctor-*")), "nothing is left behind")
