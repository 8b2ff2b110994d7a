"""hvlab doctor: what this machine can do for the labs. Each check says what was found, what that means, and its cure.

It asks the thing itself wherever that is possible: the kernel by its ioctls, the compiler by compiling, KVM by running a
few instructions (probe.py, with a watchdog). What it reads from /proc, /sys and /etc it reads below Host.root, and
programs come from Host.path, so that tests can show it another machine. `hvrun --doctor` tells of the host what hvkit's
tools need; where it is built, the two are compared.
"""
from __future__ import annotations

import argparse
import ctypes
import dataclasses
import json
import os
import platform
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap

try:
    import grp
    import pwd
except ImportError:  # Windows, which is told what to do instead
    grp = pwd = None

OK, LIMITED, MISSING = "ok", "limited", "missing"
ALL_LABS = tuple(range(1, 13))
PYTHON = (3, 10)
STRETCH = max(1, int(os.environ.get("HV_STRETCH") or 1))  # a machine that is itself emulated waits longer
PROBE_SECONDS = 10
HERE = os.path.dirname(os.path.abspath(__file__))
BOX = ("`hvlab box` gives a shell on an emulated PC with AMD-V, on any x86-64 Linux (it needs qemu-system-x86 and busybox-static), "
       "and `hvlab box --cpu intel` one with VT-x, slower (it needs bochs and more, which it names); "
       "elsewhere: a Linux PC of the course, a Linux VM whose host offers nested virtualisation, or a whole Debian in QEMU: "
       "docs/labs/introduction.md, \"A machine without KVM\"")

# Numbers of KVM_CHECK_EXTENSION (linux/kvm.h): what is lost without it, and by which labs.
EXTENSIONS = (
    (3, "KVM_CAP_USER_MEMORY", ALL_LABS, "no VM can have memory"),
    (136, "KVM_CAP_IMMEDIATE_EXIT", ALL_LABS, "no vCPU can be stopped surely (Linux 4.13)"),
    (74, "KVM_CAP_SYNC_REGS", (), "the grader reads registers a slower way (Linux 4.17)"),
    (81, "KVM_CAP_READONLY_MEM", (3,), "read-only slots can't be made"),
    (7, "KVM_CAP_EXT_CPUID", (4, 10), "a vCPU can't be told that it has long mode"),
    (0, "KVM_CAP_IRQCHIP", (7, 8), "there is no interrupt controller in the kernel"),
    (33, "KVM_CAP_PIT2", (7,), "guests have no i8254 timer"),
    (121, "KVM_CAP_SPLIT_IRQCHIP", (7, 8), "a local APIC can't be had without PIC and IOAPIC (Linux 4.4)"),
    (77, "KVM_CAP_SIGNAL_MSI", (7, 8), "interrupts can't be sent to a split irqchip"),
    (14, "KVM_CAP_MP_STATE", (8, 11), "a second vCPU can't wait for its start"),
    (32, "KVM_CAP_IRQFD", (9,), "interrupts take a longer way"),
    (36, "KVM_CAP_IOEVENTFD", (9,), "doorbells take a longer way"),
    (41, "KVM_CAP_VCPU_EVENTS", (11, 12), "a pending exception can't be saved"),
    (55, "KVM_CAP_XSAVE", (11, 12), "only the old FPU state can be saved"),
    (39, "KVM_CAP_ADJUST_CLOCK", (11, 12), "a restored guest's clock jumps"),
    (168, "KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2", (12,), "the dirty log is slower (Linux 5.2)"),
)
NR_VCPUS = 9

# What a program of the labs is built from: header, library, and the package of Debian/Ubuntu, Fedora, Arch.
LIBRARIES = (
    ("linux/kvm.h", "", ("linux-libc-dev", "kernel-headers", "linux-api-headers")),
    ("gelf.h", "elf", ("libelf-dev", "elfutils-libelf-devel", "libelf")),
    ("capstone/capstone.h", "capstone", ("libcapstone-dev", "capstone-devel", "capstone")),
    ("jansson.h", "jansson", ("libjansson-dev", "jansson-devel", "jansson")),
    ("libdeflate.h", "deflate", ("libdeflate-dev", "libdeflate-devel", "libdeflate")),
    ("zstd.h", "zstd", ("libzstd-dev", "libzstd-devel", "zstd")),
    ("xxhash.h", "xxhash", ("libxxhash-dev", "xxhash-devel", "xxhash")),
    ("nettle/sha2.h", "nettle", ("nettle-dev", "nettle-devel", "nettle")),
    ("expat.h", "expat", ("libexpat1-dev", "expat-devel", "expat")),
    ("slirp/libslirp.h", "", ("libslirp-dev", "libslirp-devel", "libslirp")),
    ("liburing.h", "uring", ("liburing-dev", "liburing-devel", "liburing")),
    ("seccomp.h", "seccomp", ("libseccomp-dev", "libseccomp-devel", "libseccomp")),
)
PROGRAMS = (
    ("make", ("make", "make", "make")),
    ("ld", ("binutils", "binutils", "binutils")),
    ("objcopy", ("binutils", "binutils", "binutils")),
)

# A VM that doesn't pass virtualisation on: who runs it (a word of DMI's vendor and product), and how its host is told to.
HYPERVISORS = (
    ("virtualbox", "VirtualBox", "switch the VM off, then on its host: VBoxManage modifyvm NAME --nested-hw-virt on"),
    ("innotek", "VirtualBox", "switch the VM off, then on its host: VBoxManage modifyvm NAME --nested-hw-virt on"),
    ("vmware", "VMware", "switch the VM off, and tick \"Virtualize Intel VT-x/EPT or AMD-V/RVI\" in its processor settings"),
    ("parallels", "Parallels", "switch the VM off, and tick \"Enable nested virtualization\" in its CPU settings (Intel Macs only)"),
    ("microsoft", "Hyper-V", "on the host: Set-VMProcessor -VMName NAME -ExposeVirtualizationExtensions $true"),
    ("amazon", "Amazon EC2", "take an instance type that has nested virtualisation, or a .metal one"),
    ("google", "Google Compute Engine", "make the instance with --enable-nested-virtualization"),
    ("xen", "Xen", "on the host: nestedhvm = 1 in the VM's configuration"),
    ("qemu", "QEMU", "on the host: modprobe kvm_intel nested=1 (or kvm_amd), and start the VM with -cpu host"),
)


@dataclasses.dataclass
class Check:
    group: str
    name: str
    verdict: str
    detail: str
    means: str = ""
    cure: str = ""
    labs: tuple[int, ...] = ()

    def as_json(self) -> dict:
        out = {"group": self.group, "check": self.name, "verdict": self.verdict, "detail": self.detail}
        if self.verdict != OK:
            out.update(means=self.means, cure=self.cure, labs=list(self.labs))
        return out


class Host:
    """The machine that is looked at. Tests give it another root, another PATH, another name."""

    def __init__(self, root: str = "", path: str | None = None, system: str | None = None, machine: str | None = None,
                 device: str | None = None, work: str | None = None, python: tuple[int, int] | None = None):
        self.root = root.rstrip("/")
        self.path = path if path is not None else os.environ.get("PATH", os.defpath)
        self.system = system or platform.system()
        self.machine = machine or platform.machine()
        self.device = device or (self.at("/dev/kvm") if root else os.environ.get("HV_KVM_DEVICE") or "/dev/kvm")
        self.work = work or os.getcwd()
        self.python = python or sys.version_info[:2]
        self.user = ids()

    def at(self, path: str) -> str:
        return self.root + path

    def there(self, path: str) -> bool:
        return os.path.exists(self.at(path))

    def read(self, path: str, limit: int = 1 << 16) -> str:
        """A small file's text; "" when it can't be read."""
        try:
            with open(self.at(path), encoding="utf-8", errors="replace") as file:
                return file.read(limit)
        except OSError:
            return ""

    def which(self, name: str) -> str | None:
        return shutil.which(name, path=self.path)

    def run(self, argv: list[str], seconds: float = 20, **more) -> subprocess.CompletedProcess:
        """A program that is given up after a while: its whole group is ended. returncode None then, and for one that
        can't be started."""
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                       errors="replace", start_new_session=True, env={**os.environ, "PATH": self.path, "LC_ALL": "C"}, **more)
        except OSError as error:
            return subprocess.CompletedProcess(argv, None, str(error), "")
        try:
            out, _ = process.communicate(timeout=seconds * STRETCH)
            return subprocess.CompletedProcess(argv, process.returncode, out, "")
        except subprocess.TimeoutExpired:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except OSError:
                pass
            try:
                out, _ = process.communicate(timeout=5)
            except subprocess.TimeoutExpired:  # a process that not even SIGKILL ends; the kernel holds it
                out = ""
            return subprocess.CompletedProcess(argv, None, out or "", "")

    def cpu_flags(self) -> set[str]:
        for line in self.read("/proc/cpuinfo").splitlines():
            if line.startswith("flags"):
                return set(line.partition(":")[2].split())
        return set()

    def distro(self) -> int | None:
        """The column of a package's name: Debian and its kin, Fedora's, Arch's; None for others."""
        words = " ".join(line.partition("=")[2].strip("\"'") for line in self.read("/etc/os-release").splitlines()
                         if line.startswith(("ID=", "ID_LIKE="))).split()
        for column, names in enumerate((("debian", "ubuntu"), ("fedora", "rhel", "centos"), ("arch", "archlinux"))):
            if any(name in words for name in names):
                return column
        return None

    def install(self, packages) -> str:
        """The command that installs what the table of packages names."""
        column = self.distro()
        names = " ".join(dict.fromkeys(p[column or 0] for p in packages))
        if column is None:
            return f"install the package that Debian calls {names}"
        return ("sudo apt-get install ", "sudo dnf install ", "sudo pacman -S ")[column] + names

    def in_container(self) -> bool:
        return self.there("/.dockerenv") or self.there("/run/.containerenv")

    def wsl(self) -> int:
        """1 or 2 under the Windows Subsystem for Linux, else 0."""
        version = self.read("/proc/version").lower()
        return 0 if "microsoft" not in version else 2 if "wsl2" in version or "standard" in version else 1


def ids() -> tuple[str, set[int]]:
    """The user's name, and the groups that this session has."""
    if pwd is None:
        return os.environ.get("USERNAME", ""), set()
    try:
        name = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        name = str(os.getuid())
    return name, set(os.getgroups()) | {os.getegid()}


# --- the machine -------------------------------------------------------------------------------------------------------
def check_system(host: Host) -> list[Check]:
    group = "machine"
    if host.system != "Linux":
        name = {"Darwin": "macOS", "Windows": "Windows"}.get(host.system, host.system)
        return [Check(group, "system", MISSING, name, "KVM is a part of Linux; the labs run there",
                      "on Windows: WSL2 (wsl --install), then run this again inside it" if name == "Windows" else BOX, ALL_LABS)]
    if host.wsl() == 1:
        return [Check(group, "system", MISSING, "Windows Subsystem for Linux, version 1",
                      "version 1 has no Linux kernel, so no KVM", "in a Windows terminal: wsl --set-version NAME 2", ALL_LABS)]
    about = "Linux" + (", WSL2" if host.wsl() else "") + (", in a container" if host.in_container() else "")
    return [Check(group, "system", OK, about)]


def hypervisor(host: Host) -> tuple[str, str] | None:
    """Who runs the VM that this machine is, and how nested virtualisation is switched on there; None: no VM."""
    if host.wsl():
        return "Windows", ("Windows 11: nestedVirtualization=true under [wsl2] in %UserProfile%\\.wslconfig, then wsl --shutdown; "
                           "on Windows 10, or an ARM PC, it can't be had: " + BOX)
    if "hypervisor" not in host.cpu_flags():
        return None
    dmi = " ".join(host.read(f"/sys/class/dmi/id/{f}") for f in ("sys_vendor", "product_name", "bios_vendor")).lower()
    for word, name, cure in HYPERVISORS:
        if word in dmi:
            return name, cure
    return "a hypervisor", "switch on nested virtualisation for this VM on its host"


def x86(host: Host) -> bool:
    return host.machine.lower() in ("x86_64", "amd64")


def check_processor(host: Host) -> list[Check]:
    group = "machine"
    if not x86(host):
        apple = host.system == "Darwin" or "apple" in host.read("/proc/device-tree/compatible").lower()
        what = f"{host.machine}" + (", Apple" if apple else "")
        return [Check(group, "processor", MISSING, what, "KVM runs guests of the processor's own kind, and the labs' guests and objects are x86-64",
                      BOX, ALL_LABS)]
    info = host.read("/proc/cpuinfo")
    if "VirtualApple" in info or (info and not host.cpu_flags()):
        return [Check(group, "processor", MISSING, "x86-64, translated on another processor (a container on an ARM machine?)",
                      "programs run, but there is no x86-64 processor that KVM could hand out", BOX, ALL_LABS)]
    flags = host.cpu_flags()
    kind = "VT-x (vmx)" if "vmx" in flags else "AMD-V (svm)" if "svm" in flags else None
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")), "")
    checks = [Check(group, "processor", OK, f"x86-64{', ' + model if model else ''}")]
    if kind:
        nested = hypervisor(host)
        checks.append(Check(group, "virtualisation", OK, kind + (f", nested in {nested[0]}" if nested else "")))
    elif host.there("/sys/module/kvm_pvm"):
        checks.append(Check(group, "virtualisation", OK, "none in the processor; the kernel's back end does without"))
    elif found := hypervisor(host):
        checks.append(Check(group, "virtualisation", MISSING, f"this machine is a VM of {found[0]} and sees neither VT-x nor AMD-V",
                            "its host doesn't pass virtualisation on", found[1], ALL_LABS))
    else:
        checks.append(Check(group, "virtualisation", MISSING, "the processor shows neither vmx nor svm",
                            "it has no virtualisation, or the firmware keeps it off",
                            "in the firmware's setup switch on \"Intel Virtualization Technology\" or \"SVM Mode\"; if it isn't there: " + BOX,
                            ALL_LABS))
    return checks


def check_room(host: Host) -> list[Check]:
    checks = []
    for name, folder, wanted in (("disk, work folder", host.work, 500), ("disk, temporary files", tempfile.gettempdir(), 200)):
        try:
            free = shutil.disk_usage(folder).free >> 20
        except OSError as error:
            checks.append(Check("machine", name, LIMITED, f"{folder}: {error.strerror}", "it can't be looked at", "check its path", ()))
            continue
        verdict = OK if free >= wanted else LIMITED if free >= 50 else MISSING
        checks.append(Check("machine", name, verdict, f"{folder}: {free:,} MiB free", f"a grading wants {wanted} MiB",
                            "make room, or set TMPDIR", ALL_LABS if verdict == MISSING else ()))
    total = next((int(line.split()[1]) >> 10 for line in host.read("/proc/meminfo").splitlines() if line.startswith("MemAvailable")), None)
    if total is not None:
        checks.append(Check("machine", "memory", OK if total >= 512 else LIMITED, f"{total:,} MiB can be had",
                            "gradings may be slow or ended by the kernel", "close other programs"))
    return checks


# --- KVM ---------------------------------------------------------------------------------------------------------------
def check_backend(host: Host) -> Check:
    group, flags = "KVM", host.cpu_flags()
    vmx, svm = "vmx" in flags, "svm" in flags
    if vmx and host.there("/sys/module/kvm_intel"):
        return Check(group, "back end", OK, "Intel VT-x (kvm_intel)")
    if svm and host.there("/sys/module/kvm_amd"):
        return Check(group, "back end", OK, "AMD-V (kvm_amd)")
    if host.there("/sys/module/kvm_pvm") and os.path.exists(host.device):
        return Check(group, "back end", LIMITED, "software (kvm_pvm)",
                     "all labs can be done; a guest's kernel code is slow, and states that a processor refuses are taken: your code may "
                     "pass here and be refused by VT-x", "nothing to do; have the last word on a machine with VT-x or AMD-V")
    if vmx or svm:
        name = "kvm_intel" if vmx else "kvm_amd"
        return Check(group, "back end", MISSING, f"the module {name} is not loaded", "without it there is no /dev/kvm",
                     f"sudo modprobe {name}; if that says \"not supported\", switch virtualisation on in the firmware", ALL_LABS)
    if not os.path.exists(host.device):
        return Check(group, "back end", MISSING, "none", "the kernel has no KVM for this processor", "see /dev/kvm below", ALL_LABS)
    return Check(group, "back end", LIMITED, "one that this program doesn't know", "the labs may work", "see what the first VM says below")


def in_group_file(host: Host, name: str, user: str) -> bool:
    return any(fields[0] == name and user in fields[3].split(",") for fields in
               (line.strip().split(":") for line in host.read("/etc/group").splitlines()) if len(fields) >= 4)


def group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def permission_cure(host: Host, info: os.stat_result) -> str:
    """Which of three it is: not in the group, in it since a login that is yet to come, or a device for root alone."""
    user, group = host.user[0], group_name(info.st_gid)
    if info.st_mode & stat.S_IRGRP and info.st_mode & stat.S_IWGRP and info.st_gid != 0:
        if in_group_file(host, group, user):
            return f"you are in the group {group} since your last login: log out and in again, or type: newgrp {group}"
        return f"sudo usermod -aG {group} {user}, then log out and in again"
    if host.in_container():
        return "start the container with --device /dev/kvm and --group-add of the device's group"
    return f"for now: sudo setfacl -m u:{user}:rw {host.device}; for good: your distribution's udev rules give it to the group kvm"


def check_device(host: Host) -> list[Check]:
    group, device = "KVM", host.device
    try:
        info = os.stat(device)
    except OSError:
        if host.in_container():
            cure = "start the container with --device /dev/kvm (on a host that has it); where that can't be: " + BOX
        elif host.wsl():
            cure = hypervisor(host)[1] + "; then sudo modprobe kvm_intel or kvm_amd; where that can't be: " + BOX
        else:
            cure = "see processor and back end above; where they can't be helped: " + BOX
        return [Check(group, "/dev/kvm", MISSING, f"{device} is not there", "no VM can be made", cure, ALL_LABS)]
    if not stat.S_ISCHR(info.st_mode):
        return [Check(group, "/dev/kvm", MISSING, f"{device} is no device", "something has put a file in its place",
                      "remove it and load kvm_intel or kvm_amd; or unset HV_KVM_DEVICE", ALL_LABS)]
    who = f"{group_name(info.st_gid)}, mode {stat.S_IMODE(info.st_mode):04o}"
    if not os.access(device, os.R_OK | os.W_OK):
        return [Check(group, "/dev/kvm", MISSING, f"{device} is there, but not for {host.user[0]} (group {who})", "no VM can be made by you",
                      permission_cure(host, info), ALL_LABS)]
    return [Check(group, "/dev/kvm", OK, f"{device} may be used (group {who})")]


def probe(host: Host) -> tuple[dict, str]:
    """What probe.py said, by step; and how it ended: "", "timeout" or a sentence."""
    numbers = [str(e[0]) for e in EXTENSIONS] + [str(NR_VCPUS)]
    done = host.run([sys.executable, "-I", os.path.join(HERE, "probe.py"), host.device, *numbers], PROBE_SECONDS)
    said = {}
    for line in done.stdout.splitlines():
        try:
            one = json.loads(line)
            said[one["step"]] = one
        except (ValueError, KeyError, TypeError):
            pass  # a traceback; its last line is told below
    failed = next((one for one in said.values() if one.get("errno")), None)
    if failed:
        return said, f"{failed['step']}: {failed['text']} ({failed['errno']})"
    if done.returncode is None:
        return said, "timeout"
    return said, "" if done.returncode == 0 else (done.stdout.strip().splitlines() or ["it ended at once"])[-1][:200]


def check_version(said: dict) -> list[Check]:
    version = said.get("version", {}).get("value")
    if version is None:
        return []
    if version != 12:
        return [Check("KVM", "API version", MISSING, str(version), "it has been 12 since Linux 2.6.22; this is no KVM that the labs know",
                      "use a current kernel", ALL_LABS)]
    return [Check("KVM", "API version", OK, "12")]


def check_extensions(said: dict) -> list[Check]:
    have = said.get("extensions", {}).get("value")
    if not have:
        return []
    checks = []
    for number, name, labs, lost in EXTENSIONS:
        if not have.get(str(number)):
            checks.append(Check("KVM", name, MISSING if labs == ALL_LABS else LIMITED, "not there", lost,
                                "a newer kernel may have it; on a VM, a newer hypervisor below it", labs))
    if not checks:
        checks.append(Check("KVM", "extensions", OK, f"all {len(EXTENSIONS)} that the labs use"))
    cpus = have.get(str(NR_VCPUS), 0)
    checks.append(Check("KVM", "vCPUs", OK if cpus >= 2 else LIMITED, f"{cpus} recommended a VM", "lab 8 starts four; with fewer real "
                        "ones they take turns", "nothing to do", ()))
    return checks


BUSY = ("vboxdrv", "vmmon", "acrn", "mshv")


def check_first_vm(host: Host, said: dict, ended: str) -> list[Check]:
    group, name = "KVM", "a first VM"
    if not ended:
        ran = said.get("ran", {})
        return [Check(group, name, OK, f"made in {said.get('ready', {}).get('took', 0) / 1e6:.1f} ms, first exit after "
                      f"{ran.get('first', 0) / 1e3:.0f} us, {ran.get('each', 0) / 1e3:.1f} us an exit (Python's part included)")]
    if ended == "timeout":
        last = list(said)[-1] if said else "start"
        return [Check(group, name, MISSING, f"it did not come back in {PROBE_SECONDS * STRETCH} s, after the step \"{last}\"",
                      "KVM takes the guest and never returns: this kernel's KVM is broken, or the machine below it is",
                      "restart the machine; if it comes again: " + BOX, ALL_LABS)]
    if "EBUSY" in ended:
        others = [m for m in BUSY if host.there(f"/sys/module/{m}")]
        return [Check(group, name, MISSING, ended, "another hypervisor holds the processor" + (f": {', '.join(others)}" if others else ""),
                      "stop its VMs; if that isn't enough, unload its module (sudo modprobe -r " + " ".join(others or ["vboxdrv"]) + ")", ALL_LABS)]
    if "ENOMEM" in ended:
        return [Check(group, name, MISSING, ended, "the kernel has no memory left for a VM", "close other programs", ALL_LABS)]
    return [Check(group, name, MISSING, ended, "KVM is there, but a VM of eight instructions doesn't run",
                  "show this to your teacher; `sudo dmesg | grep -i kvm` may say more", ALL_LABS)]


def check_kvm(host: Host) -> list[Check]:
    if not x86(host):
        return []  # another processor's KVM is another KVM
    checks = [check_backend(host)]
    device = check_device(host)
    checks += device
    if any(c.verdict != OK for c in device):
        return checks
    said, ended = probe(host)
    if ended.startswith("open:"):
        return checks + [Check("KVM", "open", MISSING, ended, "the device is there and can't be opened",
                               "sudo modprobe kvm_intel or kvm_amd; the kernel's log says why it refuses", ALL_LABS)]
    if ended.startswith("version:"):
        return checks + [Check("KVM", "API version", MISSING, ended, f"{host.device} is not KVM's device",
                               "remove it and load kvm_intel or kvm_amd; or unset HV_KVM_DEVICE", ALL_LABS)]
    return checks + check_version(said) + check_extensions(said) + check_first_vm(host, said, ended)


# --- what builds -------------------------------------------------------------------------------------------------------
def compiler(host: Host) -> str | None:
    words = os.environ.get("CC", "").split()
    return next((found for name in ([words[0]] if words else []) + ["gcc", "clang", "cc"] if (found := host.which(name))), None)


def check_python(host: Host) -> Check:
    version = ".".join(map(str, host.python))
    return Check("tools", "Python", OK if tuple(host.python) >= PYTHON else MISSING, version,
                 f"the kit is written for {PYTHON[0]}.{PYTHON[1]} and later", "install a newer python3", ALL_LABS)


def check_tools(host: Host) -> list[Check]:
    checks = [check_python(host)]
    cc = compiler(host)
    if not cc:
        checks.append(Check("tools", "C compiler", MISSING, "neither gcc nor clang", "nothing can be built",
                            host.install([("gcc", "gcc", "gcc")]), ALL_LABS))
    else:
        first = host.run([cc, "--version"]).stdout.splitlines()
        checks.append(Check("tools", "C compiler", OK, f"{cc}: {first[0] if first else 'says no version'}"))
    for name, packages in PROGRAMS:
        found = host.which(name)
        checks.append(Check("tools", name, OK if found else MISSING, found or "not found", "the labs are built with it",
                            host.install([packages]), ALL_LABS))
    return checks + (check_libraries(host, cc) if cc else [])


def links(host: Host, cc: str, libraries) -> bool:
    """Whether a program that includes these headers and links these libraries can be built."""
    with tempfile.TemporaryDirectory(prefix="hvlab-doctor-") as folder:
        source = os.path.join(folder, "try.c")
        with open(source, "w", encoding="utf-8") as file:
            file.write("".join(f"#include <{header}>\n" for header, _, _ in libraries) + "int main(void) { return 0; }\n")
        done = host.run([cc, "-std=gnu17", "-o", os.path.join(folder, "try"), source, *[f"-l{lib}" for _, lib, _ in libraries if lib]], 60)
        return done.returncode == 0


def check_libraries(host: Host, cc: str) -> list[Check]:
    if links(host, cc, LIBRARIES):
        return [Check("tools", "libraries", OK, "headers and libraries: " + ", ".join(lib or header for header, lib, _ in LIBRARIES))]
    bad = [one for one in LIBRARIES if not links(host, cc, [one])]
    if not bad or len(bad) == len(LIBRARIES):
        return [Check("tools", "libraries", MISSING, f"{cc} can't build a program that uses them", "the compiler or the C library's headers are "
                      "not whole", host.install([("build-essential", "gcc glibc-devel", "base-devel"), *(p for _, _, p in LIBRARIES)]), ALL_LABS)]
    return [Check("tools", lib or header, MISSING, f"<{header}>{' or lib' + lib if lib else ''} is not there", "programs of the labs can't be built",
                  host.install([packages]), ALL_LABS) for header, lib, packages in bad]


# --- emulated PCs -----------------------------------------------------------------------------------------------------
def check_boxes(host: Host) -> list[Check]:
    """What `hvlab box` needs. No lab does, where KVM is."""
    from kit import bochs
    busybox = ("busybox", ("busybox-static", "busybox", "busybox"))
    qemu = ("qemu-system-x86_64", ("qemu-system-x86", "qemu-system-x86-core", "qemu-system-x86"))
    boxes = {"hvlab box": ("AMD-V, by QEMU", [packages for name, packages in (qemu, busybox) if not host.which(name)]),
             "hvlab box --cpu intel": ("VT-x, by Bochs", [(one, *bochs.ELSEWHERE.get(one, (one, one))) for one in
                                                          bochs.lacking(lambda name: host.which(name), host.there)])}
    return [Check("boxes", name, LIMITED if lacks else OK, f"{what}: " + (f"it lacks {', '.join(p[0] for p in lacks)}" if lacks else "all there"),
                  "nothing for the labs where KVM is", host.install(lacks) if lacks else "") for name, (what, lacks) in boxes.items()]


# --- the recorder -----------------------------------------------------------------------------------------------------
def try_ptrace(host: Host) -> bool:
    """Whether a program may be traced by its parent: a child asks for it."""
    code = "import ctypes,os\nos._exit(0 if ctypes.CDLL(None).ptrace(0,0,0,0)==0 else 1)"
    return host.run([sys.executable, "-I", "-c", code], 10).returncode == 0


def check_recorder(host: Host) -> list[Check]:
    group, checks = "grader", []
    scope = host.read("/proc/sys/kernel/yama/ptrace_scope").strip() or "0"
    if scope in ("2", "3") and (scope == "3" or os.geteuid() != 0):
        checks.append(Check(group, "ptrace", MISSING, f"kernel.yama.ptrace_scope is {scope}", "the grader can't watch your program",
                            "sudo sysctl kernel.yama.ptrace_scope=1" if scope == "2" else "set kernel.yama.ptrace_scope=1 in /etc/sysctl.d "
                            "and restart the machine (3 can't be taken back)", ALL_LABS))
    elif not try_ptrace(host):
        checks.append(Check(group, "ptrace", MISSING, "a child may not be traced", "the grader can't watch your program",
                            "in a container: start it with --cap-add SYS_PTRACE or a seccomp profile that has ptrace", ALL_LABS))
    else:
        checks.append(Check(group, "ptrace", OK, f"allowed (yama: {scope})"))
    libc = ctypes.CDLL(None, use_errno=True)
    abi = libc.syscall(444, None, 0, 1) if host.system == "Linux" else -1
    checks.append(Check(group, "Landlock", OK if abi > 0 else LIMITED, f"ABI {abi}" if abi > 0 else "not in this kernel",
                        "the grader's sandbox has one wall less; gradings work", "Linux 5.13 and lsm=landlock on its command line; nothing you "
                        "have to do"))
    action = ctypes.c_uint32(0x00050000)
    seccomp = host.system == "Linux" and libc.syscall(317, 2, 0, ctypes.byref(action)) == 0
    checks.append(Check(group, "seccomp", OK if seccomp else MISSING, "there" if seccomp else "not in this kernel",
                        "the grader won't run a program without it", "use a distribution's kernel", ALL_LABS))
    return checks


def check_record(host: Host) -> list[Check]:
    """One run under the grader's own recorder, where it is built: it must see the guest's exits."""
    group, name = "grader", "a recorded run"
    root = os.path.dirname(os.path.dirname(HERE))
    build = os.path.join(root, os.environ.get("BUILD", "build"))
    places = ((os.path.join(root, "bin", "observe"), os.path.join(root, "guests", "images", "hello.bin")),
              (os.path.join(build, "labs", "observe"), os.path.join(build, "guests", "hello.bin")))
    observe, guest = next((pair for pair in places if all(os.path.exists(p) for p in pair)), (None, None))
    hvrun = find_hvrun(host)
    if not observe or not hvrun or host.root:
        return []
    with tempfile.TemporaryDirectory(prefix="hvlab-doctor-") as folder:
        record = os.path.join(folder, "record")
        done = host.run([observe, "--no-sandbox", "--trace", record, "--", hvrun, "--sandbox", "off", guest], PROBE_SECONDS)
        try:
            with open(record, encoding="utf-8", errors="replace") as file:
                exits = sum('"k":"run"' in line for line in file)
        except OSError:
            exits = 0
    if exits:
        return [Check(group, name, OK, f"the recorder saw {exits} exits of a first guest")]
    how = "it did not end in time" if done.returncode is None else (done.stdout.strip().splitlines() or ["it said nothing"])[-1][:200]
    return [Check(group, name, MISSING, how, "the recorder sees no exit, so nothing can be graded here",
                  "in a container: start it with --cap-add SYS_PTRACE --security-opt seccomp=unconfined; else show this to your teacher", ALL_LABS)]


# --- hvrun's own opinion ------------------------------------------------------------------------------------------------
def find_hvrun(host: Host) -> str | None:
    root = os.path.dirname(os.path.dirname(HERE))
    for path in (os.environ.get("HVRUN", ""), os.path.join(root, "bin", "hvrun"),
                 os.path.join(root, os.environ.get("BUILD", "build"), "bin", "hvrun")):
        if path and os.access(path, os.X_OK):
            return path
    return host.which("hvrun")


def check_hvrun(host: Host, runs: bool) -> list[Check]:
    """hvrun --doctor on the same device: the two must agree on whether VMs run."""
    path = find_hvrun(host)
    if not path or host.root:
        return []
    done = host.run([path, "--doctor", "--json"], 30)
    try:
        said = json.loads(done.stdout)
        theirs, lacks = bool(said["runs"]), [c["check"] for c in said["checks"] if c["verdict"] != OK]
    except (ValueError, KeyError, TypeError):
        return [Check("hvrun", "hvrun --doctor", LIMITED, f"{path} gave no report", "it is of another version, or of another machine",
                      "build it again, or unpack the course's archive again")]
    if theirs != runs:
        return [Check("hvrun", "hvrun --doctor", LIMITED, f"says that VMs {'run' if theirs else 'do not run'} here",
                      "it disagrees with what was found above", f"show your teacher both: {path} --doctor")]
    return [Check("hvrun", "hvrun --doctor", OK, "agrees" + (f"; for the tools it would like: {', '.join(lacks)}" if lacks else ""))]


# --- the report ---------------------------------------------------------------------------------------------------------
def examine(host: Host) -> list[Check]:
    checks = check_system(host)
    if host.system == "Linux":
        checks += check_processor(host) + check_room(host) + check_kvm(host) + check_tools(host) + check_recorder(host)
        if not any(c.verdict == MISSING and c.group in ("KVM", "grader") for c in checks):
            checks += check_record(host)
        checks += check_boxes(host)
        checks += check_hvrun(host, not any(c.verdict == MISSING for c in checks if c.group == "KVM"))
    else:
        checks += check_processor(host) + [check_python(host)]
    return checks


def affected(checks: list[Check]) -> dict[int, str]:
    """For each lab the worst verdict of a check that it needs."""
    worst = {lab: OK for lab in ALL_LABS}
    for check in checks:
        for lab in check.labs if check.verdict != OK else ():
            if worst[lab] != MISSING:
                worst[lab] = check.verdict
    return worst


def labs_text(labs) -> str:
    labs = sorted(labs)
    return "all labs" if labs == list(ALL_LABS) else "lab " + str(labs[0]) if len(labs) == 1 else "labs " + ", ".join(map(str, labs))


GROUPS = {"boxes": "Emulated PCs with KVM", "machine": "The machine", "KVM": "KVM", "tools": "Compiler, libraries, tools", "grader": "What the grader needs",
          "hvrun": "What hvkit's own tools say"}
SIGNS = {OK: ("ok", 32), LIMITED: ("limited", 33), MISSING: ("MISSING", 31)}


def print_report(checks: list[Check], colour: bool) -> None:
    group = None
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for check in checks:
        if check.group != group:
            group = check.group
            print(f"\n{GROUPS[group]}")
        word, code = SIGNS[check.verdict]
        sign = f"\033[{code}m{word:8}\033[0m" if colour else f"{word:8}"
        print(f"  {sign} {check.name}: {check.detail}")
        if check.verdict != OK:
            for label, text in (("means", check.means), ("cure", check.cure), ("touches", labs_text(check.labs) if check.labs else "")):
                if text:
                    print(textwrap.fill(text, width, initial_indent=f"           {label + ':':9}", subsequent_indent=" " * 20,
                                        break_long_words=False, break_on_hyphens=False))
    worst = affected(checks)
    missing, limited = ([lab for lab, v in worst.items() if v == which] for which in (MISSING, LIMITED))
    print()
    if missing == list(ALL_LABS):
        print("No lab can be done here yet. Cure what is MISSING, from the top.")
    elif missing:
        print(f"{labs_text(missing).capitalize()} can't be done here yet. Cure what is MISSING, from the top.")
    else:
        print("The labs can be done here." + (f" {labs_text(limited).capitalize()} would lack something." if limited else ""))


def report(checks: list[Check]) -> dict:
    worst = affected(checks)
    return {"runs": MISSING not in worst.values(), "labs": {str(lab): verdict for lab, verdict in worst.items()},
            "checks": [c.as_json() for c in checks]}


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hvlab doctor", description="Look whether this machine has what the labs need.")
    parser.add_argument("--json", action="store_true", help="tell it to a program")
    args = parser.parse_args(argv)
    checks = examine(Host())
    if args.json:
        json.dump(report(checks), sys.stdout, indent=2)
        print()
    else:
        print_report(checks, sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb")
    return 0 if report(checks)["runs"] else 1


if __name__ == "__main__":
    sys.exit(main())
