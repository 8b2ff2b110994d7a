"""The box: an emulated PC with AMD-V, so that everything here runs as on real hardware where the machine has none.
(With --cpu intel one with VT-x: bochs.py.)

QEMU's TCG emulates SVM with nested paging. The box boots Debian's or Ubuntu's own kernel there with kvm-amd, mounts this
machine's files by 9p as its root, changes to the working directory and runs one command, or a shell. What the command
prints and its exit status are passed through. Nothing is installed and nothing stays: kernel and modules are taken from
the distribution's package and kept in the cache, the initial RAM disk is made anew each time.

The command runs as root inside, with the rights of the user outside: QEMU opens the files. Rules: the kernel's
Documentation/driver-api/early-userspace/buffer-format.rst (cpio) and filesystems/9p.rst; QEMU's manual.
"""
import argparse
import ctypes
import glob
import gzip
import lzma
import os
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import tty

SHELL_LIMIT, COMMAND_LIMIT = 0, 600       # seconds; 0: none
MEMORY, CPUS = 2048, 2
INTEL_LIMIT, INTEL_MEMORY, INTEL_MOST_MEMORY = 3600, 1024, 2047  # the machine with VT-x (bochs.py)
BOOT_LIMIT = 90                           # until the command starts
MODULES = ("kvm-amd", "virtio_pci", "9pnet_virtio", "9p")
COMMAND_LINE = "console=ttyS0 panic=-1 mitigations=off tsc=reliable quiet loglevel=3"
BEGUN, TIMED_OUT, FAILED, USAGE = b"\x01box\x02", 124, 1, 2


class Trouble(Exception):
    """Why the box can't run; a sentence with its cure."""


# --- the kernel ---------------------------------------------------------------------------------------------------------
def cache_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "hvkit", "box")


def words_of(command):
    """What a command prints, or None where it fails or isn't there."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              timeout=60, check=False, text=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None


METAS = ("linux-image-amd64", "linux-image-generic", "linux-image-virtual")


def kernel_package(metas=METAS):
    """The name of the package with the newest kernel of this distribution: what its meta package depends on."""
    for meta in metas:
        found = re.search(r"Depends: (linux-image-\S+)", words_of(["apt-cache", "depends", meta]) or "")
        if found:
            return found.group(1)
    raise Trouble("no kernel package is known here: run `apt-get update` first; on a distribution without apt give --kernel "
                  "FOLDER, where a package with a kernel was unpacked (boot/vmlinuz-*, lib/modules/*)")


def unpack(package, folder, say):
    """Fetches packages of this distribution and unpacks them side by side under folder."""
    for name in package:
        say(f"fetching {name} (once; it is kept in {cache_folder()})")
        done = subprocess.run(["apt-get", "download", name], cwd=folder, stdin=subprocess.DEVNULL, timeout=900, check=False,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        files = glob.glob(os.path.join(folder, name + "_*.deb"))
        if done.returncode or not files:
            raise Trouble(f"{name} can't be fetched: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        subprocess.run(["dpkg", "-x", files[0], folder], timeout=300, check=True)
        os.unlink(files[0])


def kernel_folder(say, metas=METAS, flavour=""):
    """A folder with boot/vmlinuz-* and lib/modules: from the cache, or fetched now and renamed into place. A kernel of
    another flavour than the box's own has its folder in the cache apart."""
    cache = os.path.join(cache_folder(), flavour)
    for ready in sorted(glob.glob(os.path.join(cache, "linux-image-*")), reverse=True):
        if glob.glob(os.path.join(ready, "boot", "vmlinuz-*")):
            return ready
    name = kernel_package(metas)
    packages = [name]
    if name.endswith("-generic"):          # Ubuntu keeps the modules in a package of their own
        packages.append(name.replace("linux-image-", "linux-modules-"))
    os.makedirs(cache, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix="fetch.") as folder:
        inside = os.path.join(folder, "root")
        os.mkdir(inside)
        unpack(packages, inside, say)
        if not glob.glob(os.path.join(inside, "boot", "vmlinuz-*")):
            raise Trouble(f"{name} has no kernel in it")
        final = os.path.join(cache, name)
        try:
            os.rename(inside, final)
        except OSError:                    # somebody else was faster
            if not os.path.isdir(final):
                raise
    return final


def module_files(kernel):
    """Where each module is: its name with underscores -> path."""
    found = {}
    for folder in ("lib/modules", "usr/lib/modules"):
        for path in glob.glob(os.path.join(kernel, folder, "*", "kernel", "**", "*.ko*"), recursive=True):
            found[os.path.basename(path).split(".ko")[0].replace("-", "_")] = path
    return found


def module_bytes(path):
    """A module as insmod wants it. Distributions pack them with xz, gzip or zstd."""
    with open(path, "rb") as file:
        data = file.read()
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return gzip.decompress(data)
    if path.endswith(".zst"):
        done = subprocess.run(["zstd", "-dc", path], stdout=subprocess.PIPE, timeout=60, check=False)
        if done.returncode:
            raise Trouble(f"{path} is packed with zstd: install zstd")
        return done.stdout
    return data


def modules(kernel, names=MODULES):
    """[(name, bytes)] of these modules, what the box needs, each after those that it depends on (its own .modinfo says which)."""
    files, order, done = module_files(kernel), [], set()

    def add(name):
        name = name.replace("-", "_")
        if name in done or name not in files:  # built in, or another kernel's name
            return
        done.add(name)
        data = module_bytes(files[name])
        depends = re.search(rb"\0depends=([^\0]*)", data)
        for other in filter(None, depends.group(1).decode().split(",") if depends else []):
            add(other)
        order.append((name, data))

    for name in names:
        add(name)
    if "kvm-amd" in names and not any(name == "kvm_amd" for name, _ in order):
        raise Trouble(f"{kernel} has no module kvm-amd")
    return order


# --- the initial RAM disk -----------------------------------------------------------------------------------------------
def cpio(entries):
    """An archive in the kernel's "newc" format of (name, mode, bytes)."""
    out = bytearray()
    for number, (name, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08x" % f for f in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def holder():
    """A program that makes a VM and waits for ever, as an x86-64 ELF file.

    While any VM is there, KVM's static keys stay as they are. Without it each first VM and each last one's end patch the
    kernel's scheduler, and QEMU's TCG, with a thread for each CPU, may go on running the bytes from before the patch: one
    CPU then meets the patch's int3 for ever, and the other waits for it.
    """
    path = b"/dev/kvm\0"
    code = (b"\x6a\x02\x58\x48\x8d\x3d" + struct.pack("<i", 26) +       # push 2; pop rax (open); lea rdi, path
            b"\x6a\x02\x5e\x0f\x05"                                    # push 2; pop rsi (O_RDWR); syscall
            b"\x89\xc7\xbe" + struct.pack("<I", 0xAE01) +               # mov edi, eax; mov esi, KVM_CREATE_VM
            b"\x31\xd2\x6a\x10\x58\x0f\x05"                            # xor edx, edx; push 16; pop rax (ioctl); syscall
            b"\x6a\x22\x58\x0f\x05\xeb\xf9" + path)                     # again: push 34; pop rax (pause); syscall; jmp again
    start, head = 0x400000, 64 + 56
    elf = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, start + head, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return elf + struct.pack("<IIQQQQQQ", 1, 5, 0, start, start, head + len(code), head + len(code), 4096) + code


INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in {modules}; do $b insmod /m/$m.ko; done
/hold &
$b mount -t 9p -o trans=virtio,version=9p2000.L,msize=262144,cache={cache} host /mnt || {{ echo "box: no 9p"; $b poweroff -f; }}
for f in proc dev sys; do $b mount --move /$f /mnt/$f; done
$b mkdir -p /mnt/dev/shm /mnt/dev/pts
$b mount -t tmpfs shm /mnt/dev/shm; $b mount -t devpts pts /mnt/dev/pts; $b mount -t tmpfs run /mnt/run
$b ip link set lo up
$b ln -s /proc/self/fd /mnt/dev/fd; $b ln -s fd/0 /mnt/dev/stdin; $b ln -s fd/1 /mnt/dev/stdout; $b ln -s fd/2 /mnt/dev/stderr
$b chroot /mnt /bin/sh {script} </mnt/dev/null >/mnt/dev/null 2>&1
echo $? >/mnt{status}
$b sync; $b poweroff -f
"""

SCRIPT = """exec </dev/ttyS1 >/dev/ttyS1 2>&1
stty raw -echo 115200 2>/dev/null; printf '\\001box\\002'
{before}
export {environment}
mkdir -m 700 -p "$XDG_RUNTIME_DIR"
cd {cwd} || exit 1
{command}
"""


def ramdisk(kernel, script, status, cache):
    busybox = shutil.which("busybox")
    if not busybox or b"/ld-linux" in open(busybox, "rb").read(4096):
        raise Trouble("there is no busybox that needs no libraries: install busybox-static")
    loaded = modules(kernel)
    init = INIT.format(modules=" ".join(name for name, _ in loaded), script=script, status=status,
                       cache="loose" if cache else "none")
    entries = [(name, 0o40755, b"") for name in ("bin", "dev", "proc", "sys", "m", "mnt")]
    with open(busybox, "rb") as file:
        entries += [("bin/busybox", 0o100755, file.read()), ("init", 0o100755, init.encode()), ("hold", 0o100755, holder())]
    entries += [(f"m/{name}.ko", 0o100644, data) for name, data in loaded]
    return cpio(entries)


# --- running ------------------------------------------------------------------------------------------------------------
def qemu(options, kernel, folder, initrd):
    program = shutil.which("qemu-system-x86_64")
    if not program:
        raise Trouble("there is no qemu-system-x86_64: install qemu-system-x86")
    images = sorted(glob.glob(os.path.join(kernel, "boot", "vmlinuz-*")))
    if not images:
        raise Trouble(f"{kernel} has no boot/vmlinuz-*")
    return [program, "-accel", "tcg,thread=multi", "-cpu", "max,+svm", "-smp", str(options.cpus), "-m", str(options.memory),
            "-nodefaults", "-nic", "none", "-display", "none", "-no-reboot", "-serial", f"file:{folder}/console",
            "-serial", "stdio", "-kernel", images[-1], "-initrd", initrd, "-append", COMMAND_LINE,
            "-fsdev", f"local,id=host,path={options.root},security_model=none,multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=host,mount_tag=host"]


def die_with_us():
    """QEMU goes when this process does, however it ends."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


class Passing:
    """Moves bytes between the user and the box's second serial line until the box is gone or time is up."""

    def __init__(self, child, interactive, limit):
        self.child, self.interactive = child, interactive
        self.begin = time.monotonic() + BOOT_LIMIT * float(os.environ.get("HV_STRETCH") or 1)
        self.limit = limit
        self.seen, self.begun = b"", False

    def out(self, data):
        """What comes before the mark is the firmware's and the kernel's."""
        if not self.begun:
            self.seen += data
            if BEGUN not in self.seen:
                return
            self.begun = True
            data = self.seen.split(BEGUN, 1)[1]
            if self.limit:
                self.begin = time.monotonic() + self.limit
        while data:
            data = data[os.write(1, data):]

    def waits(self):
        return None if self.begun and not self.limit else self.begin - time.monotonic()

    def run(self):
        """True: the box switched itself off. False: out of time."""
        sources = [self.child.stdout] + ([0] if self.interactive else [])
        while True:
            left = self.waits()
            if left is not None and left <= 0:
                return False
            ready = select.select(sources, [], [], left)[0]
            if self.child.stdout in ready:
                data = os.read(self.child.stdout.fileno(), 65536)
                if not data:
                    return True
                self.out(data)
            if 0 in ready:
                data = os.read(0, 4096)
                if data and self.begun:
                    self.child.stdin.write(data)
                    self.child.stdin.flush()
                elif not data:
                    sources.remove(0)


def environment(cpu, stretch, first=None):
    """The command's, for the shell's export. first: a folder that comes before all others in PATH."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LD_LIBRARY_PATH", "TERM", "LANG", "NO_COLOR", "BUILD", "CC",
                                                "HVLAB_WORK", "PYTHONPATH") if name in os.environ}
    if first:
        kept["PATH"] = first + os.pathsep + kept.get("PATH", os.defpath)
    # Where a socket can be bound: the shared root can hold none.
    kept.update(XDG_RUNTIME_DIR="/run/box", TMPDIR="/dev/shm", HV_STRETCH=os.environ.get("HV_STRETCH") or str(stretch), HVLAB_BOX=cpu)
    return " ".join(f"{name}={shlex.quote(value)}" for name, value in kept.items())


def write(path, data):
    with open(path, "wb") as file:
        file.write(data if isinstance(data, bytes) else data.encode())


def script_of(options, variables):
    """What /bin/sh does in the emulated machine: the command on its second serial line."""
    command = shlex.join(options.command) if options.command else "exec setsid -c ${SHELL:-/bin/bash} -i"
    return SCRIPT.format(environment=variables, cwd=shlex.quote(os.getcwd()), command=command,
                         before="exec </dev/null" if options.command else "stty sane")


def run(options, say):
    interactive = not options.command
    kernel = options.kernel or kernel_folder(say)
    with tempfile.TemporaryDirectory(prefix="hvlab-box.") as folder:
        script, status = os.path.join(folder, "script"), os.path.join(folder, "status")
        write(script, script_of(options, environment("amd", 10)))
        write(os.path.join(folder, "initrd"), ramdisk(kernel, script, status, options.cache == "yes"))
        child = subprocess.Popen(qemu(options, kernel, folder, os.path.join(folder, "initrd")), stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE, preexec_fn=die_with_us)
        saved = termios.tcgetattr(0) if interactive and os.isatty(0) else None
        passing = Passing(child, interactive, options.timeout)
        try:
            if saved:
                tty.setraw(0)
            ended = passing.run()
        finally:
            if saved:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
            child.kill()
            trouble = child.communicate()[1].decode(errors="replace").strip()
        return verdict(folder, status, ended, passing.begun, trouble)


def verdict(folder, status, ended, begun, trouble):
    try:
        with open(status, encoding="utf-8") as file:
            return int(file.read())
    except (OSError, ValueError):
        pass
    if begun:
        if not ended:
            print("hvlab box: the command did not end in its time (--timeout)", file=sys.stderr)
            return TIMED_OUT
        raise Trouble("the emulated machine ended before the command did" + (f": {trouble}" if trouble else "") + last_words(folder, 12))
    raise Trouble("the emulated machine did not start" + (f": {trouble}" if trouble else "") + last_words(folder, 3))


def last_words(folder, count):
    """What the emulated machine's kernel said at last, for a sentence."""
    with open(os.path.join(folder, "console"), encoding="utf-8", errors="replace") as file:
        last = [line.strip() for line in file.read().splitlines() if line.strip()][-count:]
    return f" (its last lines: {' | '.join(last)})" if last else ""


def arguments(words):
    parser = argparse.ArgumentParser(prog="hvlab box", usage="hvlab box [options] [-- COMMAND...]",
                                     description="Runs a command, or a shell, on an emulated PC with AMD-V that has this "
                                     "machine's files, or on one with VT-x that has a copy of some.")
    parser.add_argument("--cpu", choices=("amd", "intel"), default="amd", help="AMD-V by QEMU, or VT-x by Bochs, which is many times "
                        "slower and gets a copy of the tree and of common programs; changes in the tree come back at the end (amd)")
    parser.add_argument("--timeout", type=float, metavar="SECONDS",
                        help=f"end the command after so long, with status {TIMED_OUT} ({COMMAND_LIMIT}, with VT-x {INTEL_LIMIT}; "
                        "a shell: none)")
    parser.add_argument("--memory", type=int, metavar="MIB", help=f"its memory ({MEMORY}, with VT-x {INTEL_MEMORY})")
    parser.add_argument("--cpus", type=int, metavar="N", help=f"its CPUs ({CPUS}, with VT-x 1)")
    parser.add_argument("--root", metavar="FOLDER", help="what it has as its root, an x86-64 Linux (/); not with VT-x")
    parser.add_argument("--cache", choices=("yes", "no"), help="keep what was read of a file: several times as fast, but changes "
                        "made outside meanwhile are not seen (for a command: yes; for a shell: no); not with VT-x")
    parser.add_argument("--pack", metavar="PATH", action="append", default=[], help="VT-x: one more file or folder that is copied")
    parser.add_argument("--kernel", metavar="FOLDER", help="an unpacked kernel package instead of this distribution's")
    split = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:split])
    options.command = words[split + 1:]
    intel = options.cpu == "intel"
    if intel and (options.root or options.cache):
        parser.error("--root and --cache are for AMD-V; the machine with VT-x has a copy of the files (--pack adds to it)")
    if options.pack and not intel:
        parser.error("--pack is for VT-x (--cpu intel); the machine with AMD-V sees all files")
    for path in options.pack:
        if not os.path.exists(path):
            parser.error(f"--pack {path}: it is not there")
    fill_in(options, intel)
    if options.memory < 256 or not 1 <= options.cpus <= (8 if intel else 64) or options.timeout < 0:
        parser.error(f"at least 256 MiB, 1 to {8 if intel else 64} CPUs, and a time that isn't negative")
    if intel and options.memory > INTEL_MOST_MEMORY:
        parser.error(f"Bochs gives at most {INTEL_MOST_MEMORY} MiB")
    return options


def fill_in(options, intel):
    """What was not said."""
    options.root = options.root or "/"
    options.cache = options.cache or ("yes" if options.command else "no")
    options.memory = (INTEL_MEMORY if intel else MEMORY) if options.memory is None else options.memory
    options.cpus = (1 if intel else CPUS) if options.cpus is None else options.cpus
    if options.timeout is None:
        options.timeout = (INTEL_LIMIT if intel else COMMAND_LIMIT) if options.command else SHELL_LIMIT


def main(words):
    options = arguments(words)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        start = run
        if options.cpu == "intel":
            from kit import bochs
            start = bochs.run
        return start(options, lambda line: print(f"hvlab box: {line}", file=sys.stderr))
    except Trouble as why:
        print(f"hvlab box: {why}", file=sys.stderr)
    except (OSError, subprocess.SubprocessError) as why:
        print(f"hvlab box: {why}", file=sys.stderr)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return FAILED
