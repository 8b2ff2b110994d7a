"""The box with VT-x: Bochs emulates an Intel processor that has VMX with EPT, and KVM runs in it with kvm-intel.

QEMU's TCG knows no VMX, and most machines with KVM have VT-x, whose checks of a guest's state are stricter than AMD-V's.
Bochs starts no kernel by itself and shares no folder. So the kernel and an initial RAM disk stand on a CD with isolinux;
the first ATA disk holds a copy of what the command may need (pack.py); what the command changed in the tree comes back on
the second one, as a tar archive, and is put into the tree here. Its output goes through a serial line into a file that is
followed; a shell gets a pseudo-terminal at that line instead. Bochs wants a terminal for its own screen, and opens another
one: both are pseudo-terminals here whose output is read and dropped.

Bochs is one thread that interprets: some tens of millions of instructions a second. Its clock counts instructions, so what
is slow outside is not slow inside. Rules: bochsrc(5); the kernel's Documentation/admin-guide/serial-console.rst.
"""
import fcntl
import glob
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import tty

from kit import pack
from kit.box import (BEGUN, TIMED_OUT, Trouble, cpio, die_with_us, environment, kernel_folder, last_words, modules, script_of,
                     write)

BOOT_LIMIT = 1200                         # until the command starts; 75 s of an idle processor with a distribution's kernel
MODULES = ("kvm-intel", "ata_piix", "sd_mod", "crc32c_generic", "ext4")
INSIDE = {"CONFIG_KVM_INTEL=y", "CONFIG_ATA_PIIX=y", "CONFIG_BLK_DEV_SD=y", "CONFIG_EXT4_FS=y"}  # of a kernel without modules
COMMAND_LINE = "console=ttyS0 panic=-1 mitigations=off tsc=reliable lpj=1000000 quiet loglevel=3 nomodeset"
RESULTS = 256 << 20                       # bytes that can come back
SECTOR = 512
ENDED = re.compile(rb"\x01box-end (\d+) (\w+)\x02")
PROGRAMS = ((("bochs-bin", "bochs"), "bochs"), (("xorriso",), "xorriso"), (("mke2fs",), "e2fsprogs"), (("ldd",), "libc-bin"),
            (("tar",), "tar"), (("find",), "findutils"), (("busybox",), "busybox-static"))
ELSEWHERE = {"bochs-term": ("bochs", "bochs"), "bochsbios": ("bochs", "bochs"), "vgabios": ("bochs", "bochs"),  # Fedora, Arch
             "isolinux": ("syslinux", "syslinux"), "syslinux-common": ("syslinux", "syslinux"), "xorriso": ("xorriso", "libisoburn"),
             "libc-bin": ("glibc-common", "glibc"), "busybox-static": ("busybox", "busybox")}
FILES = {                                 # where distributions put them, and Debian's package
    "BIOS": (("/usr/share/bochs/BIOS-bochs-latest",), "bochsbios"),
    "VGA": (("/usr/share/bochs/VGABIOS-lgpl-latest", "/usr/share/vgabios/vgabios.bin"), "vgabios"),
    "isolinux": (("/usr/lib/ISOLINUX/isolinux.bin", "/usr/lib/syslinux/bios/isolinux.bin", "/usr/share/syslinux/isolinux.bin"),
                 "isolinux"),
    "ldlinux": (("/usr/lib/syslinux/modules/bios/ldlinux.c32", "/usr/lib/syslinux/bios/ldlinux.c32",
                 "/usr/share/syslinux/ldlinux.c32"), "syslinux-common"),
    "display": (("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so", "/usr/lib64/bochs/plugins/libbx_term_gui.so",
                 "/usr/lib/bochs/plugins/libbx_term_gui.so"), "bochs-term"),
}

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc; $b mount -t sysfs sys /sys; $b mount -t devtmpfs dev /dev
for m in {modules}; do $b insmod /m/$m.ko; done
end() {{ $b sync; printf '\\001box-end %s %s\\002' "$1" "$2"; $b sleep 1000; }}
n=0; until [ -b /dev/sdb ] || [ $n -ge 100 ]; do $b sleep 0.1; n=$(($n + 1)); done
$b mount -t ext4 /dev/sda /mnt || end 1 disk
for f in proc dev sys; do $b mount --move /$f /mnt/$f; done
$b mkdir -p /mnt/dev/shm /mnt/dev/pts
$b mount -t tmpfs shm /mnt/dev/shm; $b mount -t devpts pts /mnt/dev/pts; $b mount -t tmpfs run /mnt/run
$b chmod 1777 /mnt/tmp /mnt/var/tmp
$b ip link set lo up
$b ln -s /proc/self/fd /mnt/dev/fd; $b ln -s fd/0 /mnt/dev/stdin; $b ln -s fd/1 /mnt/dev/stdout; $b ln -s fd/2 /mnt/dev/stderr
: >/mnt/run/before; $b sleep 0.1
$b chroot /mnt /bin/sh /hvlab-box </mnt/dev/null >/mnt/dev/null 2>&1
status=$?
$b chroot /mnt /bin/sh -c {collect}
end $status command
"""

# Not busybox' find, which compares whole seconds: as much as a short command takes.
COLLECT = "cd {top} && find . -type f -newer {before} | tar -cf {disk} -T -"

CONFIGURATION = """megs: {memory}
romimage: file="{BIOS}"
vgaromimage: file="{VGA}"
cpu: model=corei7_skylake_x, count={cpus}, ips=100000000, reset_on_triple_fault=0
ata0-master: type=disk, path="{folder}/disk", mode=flat
ata0-slave: type=disk, path="{folder}/results", mode=flat
ata1-master: type=cdrom, path="{folder}/cd.iso", status=inserted
boot: cdrom
com1: enabled=1, mode=file, dev="{folder}/console"
com2: enabled=1, mode={mode}, dev="{line}"
display_library: term
log: "{folder}/bochs.log"
panic: action=fatal
clock: sync=none, time0=utc
plugin_ctrl: unmapped=1, speaker=0, sb16=0, es1370=0, e1000=0, voodoo=0
sound: driver=dummy
"""


# --- what it needs ------------------------------------------------------------------------------------------------------
def which(name):
    """A program, those for root included: mke2fs is no secret."""
    return shutil.which(name, path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")


def lacking(find=which, there=os.path.exists):
    """The packages (by Debian's names) of what isn't here."""
    lacks = [package for names, package in PROGRAMS if not any(find(name) for name in names)]
    lacks += [package for places, package in FILES.values() if not any(there(place) for place in places)]
    return list(dict.fromkeys(lacks))


def needed():
    """Where the files and programs are; a sentence when something is missing."""
    lacks = lacking()
    if lacks:
        raise Trouble(f"the machine with VT-x lacks something: install {' '.join(lacks)} (Debian's names; `tests/deps bochs` does "
                      "it on Fedora and Arch, too)")
    found = {name: next(place for place in places if os.path.exists(place)) for name, (places, _) in FILES.items()}
    for names, _ in PROGRAMS:
        found[names[0]] = next(filter(None, map(which, names)))
    with open(found["busybox"], "rb") as file:
        if b"/ld-linux" in file.read(4096):
            raise Trouble("there is no busybox that needs no libraries: install busybox-static")
    return found


def small_kernel():
    """The newest of hvkit's own kernels for boxes, which `make box-kernel` keeps; None where there is none. It is told by
    what is built into it: each lies in a folder of its own, beside its configuration."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    ready = []
    for image in glob.glob(os.path.join(base, "hvkit", "linux", "*", "bzImage")):
        try:
            with open(os.path.join(os.path.dirname(image), "config"), encoding="utf-8") as file:
                inside = set(file.read().split())
        except OSError:
            continue
        if INSIDE <= inside:
            ready.append(image)
    return max(ready, key=os.path.getmtime, default=None)


def kernel_and_modules(options, say):
    """(the kernel's file, [(name, bytes)] of its modules). The small one has everything inside and starts far sooner."""
    image = None if options.kernel else small_kernel()
    if image:
        return image, []
    folder = options.kernel or kernel_folder(say)
    images = sorted(glob.glob(os.path.join(folder, "boot", "vmlinuz-*")))
    if not images:
        raise Trouble(f"{folder} has no boot/vmlinuz-*")
    say("starting a distribution's kernel takes minutes on Bochs; `make box-kernel` builds one that starts in less")
    return images[-1], modules(folder, MODULES)


# --- its media ----------------------------------------------------------------------------------------------------------
def ramdisk(busybox, loaded, top):
    init = INIT.format(modules=" ".join(name for name, _ in loaded),
                       collect=shlex.quote(collecting(top, "/run/before", "/dev/sdb")))
    entries = [(name, 0o40755, b"") for name in ("bin", "dev", "proc", "sys", "m", "mnt")]
    with open(busybox, "rb") as file:
        entries += [("bin/busybox", 0o100755, file.read()), ("init", 0o100755, init.encode())]
    entries += [(f"m/{name}.ko", 0o100644, data) for name, data in loaded]
    return cpio(entries)


def collecting(top, before, disk):
    """The command that packs what was made or changed below top after the file before."""
    return COLLECT.format(top=shlex.quote(top), before=shlex.quote(before), disk=shlex.quote(disk))


def make_cd(found, folder, kernel, initrd):
    """A CD that isolinux starts the kernel from."""
    inside = os.path.join(folder, "cd")
    os.makedirs(os.path.join(inside, "isolinux"))
    for name in ("isolinux", "ldlinux"):
        shutil.copy(found[name], os.path.join(inside, "isolinux"))
    shutil.copyfile(kernel, os.path.join(inside, "vmlinuz"))
    write(os.path.join(inside, "initrd"), initrd)
    write(os.path.join(inside, "isolinux", "isolinux.cfg"),
          f"DEFAULT box\nPROMPT 0\nTIMEOUT 1\nLABEL box\n KERNEL /vmlinuz\n APPEND initrd=/initrd {COMMAND_LINE}\n")
    pack.checked([found["xorriso"], "-as", "mkisofs", "-quiet", "-o", os.path.join(folder, "cd.iso"), "-b", "isolinux/isolinux.bin",
                  "-c", "isolinux/boot.cat", "-no-emul-boot", "-boot-load-size", "4", "-boot-info-table", inside])
    shutil.rmtree(inside)


def take_back(results, top, say):
    """Puts the files that the command made or changed below top there. The archive is the machine's: its names are checked."""
    try:
        with tarfile.open(results, "r:") as archive:
            for entry in archive:
                put_back(archive, entry, top, say)
    except (tarfile.TarError, EOFError) as why:
        with open(results, "rb") as file:
            if any(file.read(SECTOR)):
                say(f"what the command changed did not come back whole: {why}")


def put_back(archive, entry, top, say):
    name = os.path.normpath(entry.name)
    target = os.path.join(top, name)
    real = os.path.realpath(os.path.dirname(target))
    if not entry.isreg() or os.path.isabs(name) or name.startswith("..") or os.path.commonpath([real, top]) != top:
        say(f"{entry.name} lies outside {top} or is no plain file; it stays in the box")
        return
    os.makedirs(real, exist_ok=True)
    descriptor, new = tempfile.mkstemp(prefix=".hvlab-box.", dir=real)
    try:
        with open(descriptor, "wb") as file:
            shutil.copyfileobj(archive.extractfile(entry), file)
        os.chmod(new, entry.mode & 0o777)
        os.rename(new, os.path.join(real, os.path.basename(name)))
    except OSError:
        os.unlink(new)
        raise


# --- running ------------------------------------------------------------------------------------------------------------
def pseudo_terminal():
    """(our side, its name's side): raw, so that bytes pass as they are."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    return ours, theirs


class Machine:
    """Bochs, and all that is read from it: its terminals are drained, its serial line is passed on, its end is noticed."""

    def __init__(self, options, found, folder, interactive):
        self.options, self.folder, self.interactive = options, folder, interactive
        self.status, self.why, self.begun, self.seen, self.said = None, "", False, b"", b""
        self.line, self.line_slave = pseudo_terminal() if interactive else (None, None)
        self.followed, self.console, self.tail = None, None, b""
        self.drained, self.terminal = [], None
        line = os.ttyname(self.line_slave) if interactive else os.path.join(folder, "output")
        values = {name: path for name, path in found.items() if name in FILES}
        write(os.path.join(folder, "bochsrc"), CONFIGURATION.format(memory=options.memory, cpus=options.cpus, folder=folder, line=line,
                                                                    mode="term" if interactive else "file", **values))
        write(os.path.join(folder, "go"), "c\n")
        for name in ("console", "output"):
            write(os.path.join(folder, name), b"")
        self.child = self.start(found["bochs-bin"])

    def start(self, program):
        words = [program, "-q", "-f", os.path.join(self.folder, "bochsrc")]
        help_text = subprocess.run([program, "--help"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   check=False, timeout=30, cwd=self.folder).stdout
        if b"-rc filename" in help_text:  # built with its debugger, which waits for a command first
            words += ["-rc", os.path.join(self.folder, "go")]
        self.terminal, theirs = pty.openpty()
        self.drained.append(self.terminal)

        def own_terminal():
            os.setsid()
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            die_with_us()

        try:
            return subprocess.Popen(words, stdin=theirs, stdout=theirs, stderr=theirs, cwd=self.folder, preexec_fn=own_terminal,
                                    env={**os.environ, "TERM": "vt100", "LINES": "25", "COLUMNS": "80"})
        finally:
            os.close(theirs)

    def close(self):
        self.child.kill()
        self.child.wait()
        for descriptor in (*self.drained, self.line, self.line_slave):
            if descriptor is not None:
                os.close(descriptor)
        for file in (self.followed, self.console):
            if file:
                file.close()

    # --- what is read ---
    def drain(self, descriptor):
        """What Bochs shows on its terminals is of no use, but for its words before it ends, and where its screen is."""
        try:
            data = os.read(descriptor, 65536)
        except OSError:                   # its other side is closed
            self.drained.remove(descriptor)
            os.close(descriptor)
            return
        if descriptor != self.terminal:
            return
        self.said = (self.said + data)[-8192:]
        screen = re.search(rb'connected to screen "(/dev/pts/\d+)"', self.said)
        if screen and len(self.drained) == 1:
            self.drained.append(os.open(screen.group(1), os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK))

    def out(self, data):
        if not self.begun:
            self.seen += data
            if BEGUN not in self.seen:
                return
            self.begun = True
            data = self.seen.split(BEGUN, 1)[1]
        while data:
            data = data[os.write(1, data):]

    def grown(self, file, name):
        """The file, opened, and what was added to it since it was read last."""
        file = file or open(os.path.join(self.folder, name), "rb")
        return file, file.read()

    def look(self):
        """True once the machine said that the command ended. All of its output is in the file by then."""
        self.console, data = self.grown(self.console, "console")
        self.tail = (self.tail + data)[-200:]
        ended = ENDED.search(self.tail)
        if ended:
            self.status, self.why = int(ended.group(1)), ended.group(2).decode()
        if not self.interactive:
            self.followed, data = self.grown(self.followed, "output")
            self.out(data)
        return ended is not None

    # --- until it ends ---
    def run(self):
        """True: the command ended, or the machine. False: out of time."""
        limit = BOOT_LIMIT * float(os.environ.get("HV_STRETCH") or 1)
        start, begun = time.monotonic(), False
        listening = self.interactive
        while True:
            sources = [*self.drained, *([self.line] if self.interactive else []), *([0] if listening and self.begun else [])]
            ready = select.select(sources, [], [], 0.2)[0]
            for descriptor in [one for one in ready if one in self.drained]:
                self.drain(descriptor)
            if self.line in ready:
                self.out(os.read(self.line, 65536))
            if 0 in ready:
                data = os.read(0, 4096)
                listening = bool(data)
                os.write(self.line, data)
            if self.look():
                return True
            if self.child.poll() is not None:
                return True
            if self.begun and not begun:
                start, begun, limit = time.monotonic(), True, self.options.timeout
            if limit and time.monotonic() - start > limit:
                return False


def trouble_of(machine):
    """What Bochs said at last: its log's panics, or its terminal."""
    try:
        with open(os.path.join(machine.folder, "bochs.log"), encoding="utf-8", errors="replace") as file:
            panics = [line.strip() for line in file if re.match(r"\d+[ep]\[", line)]
    except OSError:
        panics = []
    words = [line.strip() for line in machine.said.decode(errors="replace").splitlines() if line.strip()]
    return (panics or words or ["it said nothing"])[-1][:300]


def verdict(machine, ended, top, say):
    if machine.status is not None and machine.why == "command":
        take_back(os.path.join(machine.folder, "results"), top, say)
        return machine.status
    if machine.status is not None:
        raise Trouble(f"the emulated machine's kernel can't mount its disk{last_words(machine.folder, 3)}")
    if machine.begun and not ended:
        print("hvlab box: the command did not end in its time (--timeout)", file=sys.stderr)
        return TIMED_OUT
    if machine.begun:
        raise Trouble(f"the emulated machine ended before the command did: {trouble_of(machine)}{last_words(machine.folder, 12)}")
    if not ended:
        raise Trouble(f"the emulated machine did not start in its time{last_words(machine.folder, 3)}")
    raise Trouble(f"the emulated machine did not start: {trouble_of(machine)}{last_words(machine.folder, 3)}")


def run(options, say):
    found = needed()
    interactive = not options.command
    kernel, loaded = kernel_and_modules(options, say)
    top = pack.tree_of(os.getcwd())
    with tempfile.TemporaryDirectory(prefix="hvlab-box.") as folder:
        if '"' in folder or "\n" in folder:  # bochsrc(5) knows no way to quote them
            raise Trouble(f"Bochs can't be told of the folder {folder!r}: set TMPDIR to another")
        # This Python first in PATH: a version manager's own would want all of the manager.
        contents = pack.packed(options.command, top, os.environ.get("BUILD") or "build", options.pack)
        pack.make_disk(contents, folder, os.path.join(folder, "disk"),
                       {"/hvlab-box": script_of(options, environment("intel", 6, os.path.dirname(sys.executable)))})
        with open(os.path.join(folder, "results"), "wb") as file:
            file.truncate(RESULTS + -RESULTS % (16 * 63 * SECTOR))
        make_cd(found, folder, kernel, ramdisk(found["busybox"], loaded, top))
        saved = termios.tcgetattr(0) if interactive and os.isatty(0) else None
        machine = Machine(options, found, folder, interactive)
        try:
            if saved:
                tty.setraw(0)
            ended = machine.run()
        finally:
            if saved:
                termios.tcsetattr(0, termios.TCSADRAIN, saved)
            machine.close()
        return verdict(machine, ended, top, say)
