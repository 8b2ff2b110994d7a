"""What the tests that boot Linux share: where its kernels are, the box for where /dev/kvm is no faithful hardware, and runs
of hvrun as lines of a shell script, which can be run here or in the box alike.
"""
import glob
import lzma
import os
import pathlib
import shlex
import shutil
import struct
import subprocess
import zlib

from labs_staff_lib import SRC, STRETCH, TMP, check, skip

from kit import box

HVRUN = os.environ["HVRUN"]
SECONDS = 240 * STRETCH  # for one boot, a watchdog: 3 on hardware, 30 to 60 emulated


def write(name, data):
    path = TMP / name
    path.write_bytes(data)
    return path


# --- where ------------------------------------------------------------------------------------------------------------
def is_hardware():
    """Whether /dev/kvm here is VT-x or AMD-V: the box, or a real machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    return "svm" in flags or "vmx" in flags


def need_user_space():
    """True: Linux user space runs on this /dev/kvm. False: it does in the box. Skips the test where there is neither."""
    if os.environ.get("HV_SAN"):
        skip("no sanitized program runs in the box")
    if not shutil.which("busybox"):
        skip("busybox is missing (busybox-static): tests/deps box")
    direct = is_hardware()
    if not direct and os.environ.get("HVLAB_BOX"):
        skip("the box has no /dev/kvm")
    if not direct and not shutil.which("qemu-system-x86_64"):
        skip("no VT-x or AMD-V here, and no qemu-system-x86_64 for the box: tests/deps box")
    # The box's kernel is fetched once for all builds, not once for each test's own home.
    os.environ["XDG_CACHE_HOME"] = str(SRC / "build-box")
    return direct


def execute(direct, commands, limit=400):
    """Runs lines of a shell script in the test's folder, here (direct) or, as root, in the box; limit: seconds.

    The emulated machine may die of a fault of its own with several CPUs in its guest; another one is given its turn then, twice
    at most.
    """
    limit *= STRETCH
    text = "\n".join(["cd " + shlex.quote(str(TMP)), "export PATH=/bin:/sbin:/usr/bin:/usr/sbin", *commands, "exit 0", ""])
    path = write("script", text.encode())
    if direct:
        return subprocess.run(["sh", str(path)], stdin=subprocess.DEVNULL, timeout=2 * limit, check=True)
    for last in (False, False, True):
        done = subprocess.run([str(SRC / "labs" / "hvlab"), "box", "--memory", "3072", "--timeout", str(limit), "--", "sh", str(path)],
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit + 100, check=False)
        if "the emulated machine ended before" not in done.stderr:
            break
        print("the box died" + ("" if last else "; another one is tried"))
    return check(done.returncode == 0, "the box ran what it was given", done.returncode, done.stdout[-3000:], done.stderr[-1000:])


# --- kernels ----------------------------------------------------------------------------------------------------------
def payload(image):
    """What a bzImage carries, packed as it is."""
    start = (image[0x1F1] + 1) * 512
    offset, length = struct.unpack_from("<II", image, 0x248)
    return image[start + offset:start + offset + length]


def vmlinux(image):
    """The ELF file inside a bzImage, or None where it is packed by a way that isn't known here."""
    packed = payload(image)
    if packed.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(packed)
    if packed.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(packed)
    if packed.startswith(b"\x28\xb5\x2f\xfd") and shutil.which("zstd"):
        done = subprocess.run(["zstd", "-dc"], input=packed[:-4], capture_output=True, timeout=120, check=False)
        return done.stdout or None
    return None


class Linux:
    """A kernel of the distribution's, its usual one or another flavour; skips the test where it or what runs it can't be had."""

    def __init__(self, metas=box.METAS, flavour=""):
        self.direct = need_user_space()
        try:
            self.folder = pathlib.Path(box.kernel_folder(print, metas, flavour))
        except (box.Trouble, OSError, subprocess.SubprocessError) as why:
            skip(f"no kernel package can be had here: {why}")
        self.image = sorted(glob.glob(str(self.folder / "boot" / "vmlinuz-*")))[-1]

    def modules(self, *names):
        """[(name, bytes)] of these and what they depend on, in the order in which they load."""
        try:
            return box.modules(self.folder, names)
        except (box.Trouble, OSError, subprocess.SubprocessError) as why:
            return skip(f"the kernel's modules can't be had: {why}")

    def initrd(self, name, init, modules, files=()):
        """An initial RAM disk: busybox, the script init, modules in /m, and (name, mode, bytes) more. Its path."""
        busybox = pathlib.Path(shutil.which("busybox")).read_bytes()
        return write(name, box.cpio(
            [(folder, 0o40755, b"") for folder in ("bin", "dev", "proc", "sys", "m", "tmp", "etc")] +
            [("bin/busybox", 0o100755, busybox), ("init", 0o100755, init.encode()), *files] +
            [(f"m/{module}.ko", 0o100644, data) for module, data in modules]))

    def execute(self, commands, limit=400):
        """Runs shell commands in the test's folder, where Linux runs; as root in the box."""
        return execute(self.direct, commands, limit)


# --- runs, as lines of a script; each leaves NAME.out, NAME.err and NAME.status ----------------------------------------
def run(name, words):
    return f"{words} </dev/null >{name}.out 2>{name}.err; echo $? >{name}.status"


def run_typing(name, words, *steps):
    """Types as a person does: each step is (prompt, text), and the text is typed when the prompt is there, or (prompt, times,
    text) when it is there so many times. A driver empties its port's FIFO when it starts."""
    (TMP / f"{name}.out").touch()
    waits = []
    for number, (prompt, *times, text) in enumerate(steps):
        write(f"{name}.{number}.in", text.encode())
        waits.append(f"n=0; until [ $(grep -cF {shlex.quote(prompt)} {name}.out) -ge {times[0] if times else 1} ] || "
                     f"[ $n -gt {SECONDS} ]; do sleep 1; n=$((n + 1)); done; cat {name}.{number}.in")
    return f": >{name}.out; ({'; '.join(waits)}) | {words} >{name}.out 2>{name}.err; echo $? >{name}.status"


def run_until(name, words, text, times):
    """Ends the VM by SIGTERM as soon as the text came so many times."""
    return (f": >{name}.out; {words} </dev/null >{name}.out 2>{name}.err & p=$!; n=0\n"
            f"while [ $n -lt {SECONDS} ] && kill -0 $p 2>/dev/null && "
            f"[ $(grep -c {shlex.quote(text)} {name}.out) -lt {times} ]; do sleep 1; n=$((n + 1)); done\n"
            f"kill $p; wait $p; echo $? >{name}.status")


def result(name):
    """(output, errors, status) of a run."""
    texts = [(TMP / f"{name}.{kind}").read_text(errors="replace") for kind in ("out", "err", "status")]
    return texts[0], texts[1], int(texts[2])


def tail(text):
    return "\n".join(text.splitlines()[-25:])
