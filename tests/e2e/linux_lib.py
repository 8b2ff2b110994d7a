"""What the tests that boot the distribution's own kernel share: where a faithful /dev/kvm is, the kernel and its modules, an
initial RAM disk around busybox, and running scripts there: here, or where /dev/kvm has no hardware behind it, in the box.
"""
import glob
import os
import pathlib
import shlex
import shutil
import subprocess

from labs_staff_lib import SRC, TMP, check, skip

from kit import box


def is_hardware():
    """Whether /dev/kvm here is VT-x or AMD-V: the box, or a real machine."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return False
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    return "svm" in flags or "vmx" in flags


def write(name, data):
    path = TMP / name
    path.write_bytes(data)
    return path


class Linux:
    """The distribution's kernel; skips the test where it or what runs it can't be had."""

    def __init__(self):
        if os.environ.get("HV_SAN"):
            skip("no sanitized program runs in the box")
        if not shutil.which("busybox"):
            skip("busybox is missing (busybox-static): tests/deps box")
        self.direct = is_hardware()
        if not self.direct and os.environ.get("HVLAB_BOX"):
            skip("the box has no /dev/kvm")
        if not self.direct and not shutil.which("qemu-system-x86_64"):
            skip("no VT-x or AMD-V here, and no qemu-system-x86_64 for the box: tests/deps box")
        # The kernel is fetched once for all builds, not once for each test's own home.
        os.environ["XDG_CACHE_HOME"] = str(SRC / "build-box")
        try:
            self.folder = pathlib.Path(box.kernel_folder(print))
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
        """Runs shell commands in the test's folder, where Linux runs; as root in the box. The emulated machine may die of a
        fault of its own: a second one is given its turn then."""
        text = "\n".join(["cd " + shlex.quote(str(TMP)), "export PATH=/bin:/sbin:/usr/bin:/usr/sbin", *commands, "exit 0", ""])
        path = write("script", text.encode())
        if self.direct:
            return subprocess.run(["sh", str(path)], stdin=subprocess.DEVNULL, timeout=2 * limit, check=True)
        for last in (False, True):
            done = subprocess.run([str(SRC / "labs" / "hvlab"), "box", "--memory", "3072", "--timeout", str(limit), "--", "sh",
                                   str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=limit + 100,
                                  check=False)
            if "the emulated machine ended before" not in done.stderr:
                break
            print("the box died" + ("" if last else "; tried once more"))
        return check(done.returncode == 0, "the box ran what it was given", done.returncode, done.stdout[-3000:],
                     done.stderr[-1000:])
