"""A disk for a machine that can't see this one's files: the folder that a command works in, and the programs it may need.

Bochs shares no folder, so its box gets a copy: an ext4 file system made by `mke2fs -d`. On it are the tree that the working
directory belongs to (a repository of hvkit with one build folder, a student's tree, or just the directory), a set of common
programs, a compiler and Python, and the shared libraries of all of those, each under the path that it has here. Symbolic links
are kept, so that /bin/sh is there the way it is here. Files that may not be read are left out.
"""
import os
import re
import shutil
import stat
import subprocess
import sys
import sysconfig

from kit.box import Trouble

COMMANDS = """
    sh bash dash env ls cat cp mv ln rm mkdir rmdir mktemp mkfifo touch chmod chown stat dd head tail cut sort uniq tr wc seq sleep
    timeout date echo printf test [ true false tee od cmp diff patch find xargs grep egrep sed awk mawk gawk gzip tar cpio id whoami
    uname hostname tty stty ps pgrep kill setsid unshare setpriv nohup nice nproc dmesg ip mount umount getent readlink realpath basename
    dirname expr sha256sum md5sum sync truncate strings gdb make cc gcc as ld objcopy objdump readelf nm ar strip busybox python3
    qemu-img su clear less
""".split()
LIBRARIES = """
    c m pthread dl rt util gcc_s elf capstone jansson deflate zstd xxhash nettle expat seccomp readline nbd archive criterion
""".split()
FILES = ("/etc/passwd", "/etc/group", "/etc/hosts", "/etc/nsswitch.conf", "/etc/protocols", "/etc/services", "/etc/localtime",
         "/etc/ld.so.conf", "/etc/ld.so.cache", "/etc/bash.bashrc", "/etc/os-release", "/lib64/ld-linux-x86-64.so.2",
         "/lib/terminfo", "/usr/share/terminfo/x", "/usr/share/terminfo/v", "/usr/share/gdb", "/usr/lib/locale/C.utf8")
COMPILER_LEFT_OUT = re.compile(r"cc1plus|lto1$|f951|cc1obj|plugin$|lib(a|l|t|ub|hwa)san|libstdc\+\+|\.spec$")
HEADERS_LEFT_OUT = re.compile(r"c\+\+$|llvm|clang|boost$|X11$|node|python|ruby|qt|gtk|glib|GL$|opencv|unicode$")
PYTHON_LEFT_OUT = re.compile(r"^(test|tests|idlelib|tkinter|turtledemo|ensurepip|site-packages|config-3.*|lib2to3)$")
SPARE = 1024 << 20                        # bytes that the command may write
MOST = 6 << 30                            # bytes that are copied


class Pack:
    """Paths of this machine that go onto the disk: folders, links, files. Each path is walked link by link."""

    def __init__(self):
        self.folders, self.links, self.files, self.elf, self.bytes = set(), {}, {}, set(), 0

    def _step(self, path):
        """The path with the first link on it replaced; None where it has none. Folders above it are noted."""
        at = "/"
        parts = [part for part in path.split("/") if part]
        for number, part in enumerate(parts):
            at = os.path.join(at, part)
            if os.path.islink(at):
                target = os.readlink(at)
                self.links[at] = target
                return os.path.normpath(os.path.join(os.path.realpath(os.path.dirname(at)), target, *parts[number + 1:]))
            if number < len(parts) - 1:
                self.folders.add(at)
        return None

    def add(self, path):
        """One file or empty folder, and the links that lead to it. What isn't there is left out."""
        path = os.path.normpath(os.path.join(os.getcwd(), path))
        for _ in range(40):               # as many links as the kernel follows
            further = self._step(path)
            if further is None:
                break
            path = further
        try:
            info = os.lstat(path)
        except OSError:
            return None
        if stat.S_ISDIR(info.st_mode):
            self.folders.add(path)
        elif stat.S_ISREG(info.st_mode) and path not in self.files and os.access(path, os.R_OK):
            self.files[path] = info.st_size
            self.bytes += info.st_size
            if self.bytes > MOST:
                raise Trouble(f"more than {MOST >> 30} GiB would be copied for the machine with VT-x ({path} and before): start it in a "
                              "smaller folder")
            if info.st_size > 64 and (info.st_mode & 0o111 or ".so" in path):
                with open(path, "rb") as file:
                    if file.read(4) == b"\x7fELF":
                        self.elf.add(path)
        return path if path in self.files or path in self.folders else None

    def add_tree(self, top, leaves_out=lambda folder, name: False):
        """A folder with all that is in it, but for what leaves_out(folder, name) says."""
        top = self.add(top)
        if not top or not os.path.isdir(top):
            return
        for folder, folders, names in os.walk(top):
            folders[:] = [name for name in folders if not leaves_out(folder, name)]
            self.folders.add(folder)
            for name in [*names, *(name for name in folders if os.path.islink(os.path.join(folder, name)))]:
                path = os.path.join(folder, name)
                if leaves_out(folder, name):
                    continue
                if os.path.islink(path):
                    self.links[path] = os.readlink(path)
                else:
                    self.add(path)

    def add_libraries(self):
        """The shared libraries of all programs so far."""
        wanted = sorted(self.elf)
        for start in range(0, len(wanted), 200):
            done = subprocess.run(["ldd", *wanted[start:start + 200]], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.DEVNULL, check=False, timeout=120, text=True)
            for path in sorted(set(re.findall(r"(?:=> |^\t)(/\S+) \(0x", done.stdout, re.M))):
                self.add(path)

    def size(self):
        return sum((size + 4095) // 4096 * 4096 for size in self.files.values())

    def copy(self, root):
        """Makes all of it below root."""
        for path in sorted(self.folders):
            os.makedirs(root + path, exist_ok=True)
        for path, target in self.links.items():
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            if not os.path.lexists(root + path):
                os.symlink(target, root + path)
        for path in self.files:
            os.makedirs(root + os.path.dirname(path), exist_ok=True)
            try:
                shutil.copyfile(path, root + path)
                shutil.copystat(path, root + path)
            except (FileNotFoundError, PermissionError):  # it changed meanwhile
                continue
        for path in sorted(self.folders, reverse=True):
            if os.path.isdir(path):
                os.chmod(root + path, stat.S_IMODE(os.stat(path).st_mode) | 0o700)


# --- what belongs to a command ------------------------------------------------------------------------------------------
def tree_of(folder):
    """The tree that a folder belongs to: the nearest above it that has hvlab in it (labs/hvlab: the repository), or itself."""
    at = os.path.realpath(folder)
    while at != "/":
        if os.path.exists(os.path.join(at, "labs", "hvlab")) or os.path.exists(os.path.join(at, "hvlab")):
            return os.path.dirname(at) if os.path.basename(at) == "labs" and os.path.exists(os.path.join(at, "kit")) else at
        at = os.path.dirname(at)
    return os.path.realpath(folder)


def add_work(pack, top, build):
    """The tree, without its history, without objects, and with one build folder of the repository's."""
    built = os.path.realpath(os.path.join(top, build))

    def leaves_out(folder, name):
        path = os.path.join(folder, name)
        if name == ".git":
            return True
        if folder == top and name.startswith("build") and os.path.isdir(path):
            return path != built
        return name == "obj" and os.path.basename(os.path.dirname(path)).startswith(("build", "guests"))

    pack.add_tree(top, leaves_out)
    if not built.startswith(top + "/") and os.path.isdir(built):
        pack.add_tree(built, leaves_out)


def add_python(pack):
    """The Python that runs this, and its library without what nobody needs here."""
    pack.add(sys.executable)
    pack.add(os.path.realpath(sys.executable))
    for folder in {sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]}:
        pack.add_tree(folder, lambda _, name: bool(PYTHON_LEFT_OUT.match(name)))
    system = "/usr/bin/python3"           # what a script's first line may name
    if os.path.exists(system) and os.path.realpath(system) != os.path.realpath(sys.executable):
        pack.add(system)
        pack.add_tree(f"/usr/lib/{os.path.basename(os.path.realpath(system))}", lambda _, name: bool(PYTHON_LEFT_OUT.match(name)))


def add_compiler(pack):
    """gcc with what it needs for C: its own programs, headers, start files, and the libraries that the labs link."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        return

    def asked(what):
        done = subprocess.run([compiler, what], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                              check=False, timeout=30, text=True)
        return os.path.normpath(done.stdout.strip()) if os.path.isabs(done.stdout.strip()) else None

    for folder in {os.path.dirname(path) for path in (asked("-print-prog-name=cc1"), asked("-print-libgcc-file-name")) if path}:
        pack.add_tree(folder, lambda _, name: bool(COMPILER_LEFT_OUT.search(name)))
    for name in ("crt1.o", "Scrt1.o", "crti.o", "crtn.o", "libc_nonshared.a", "libpthread.a", "libmvec.so.1",
                 *(f"lib{library}.{end}" for library in LIBRARIES for end in ("so", "so.6"))):
        path = asked(f"-print-file-name={name}")
        if path:
            pack.add(path)
    pack.add_tree("/usr/include", lambda _, name: bool(HEADERS_LEFT_OUT.search(name)))


def packed(command, top, build, more):
    """All that goes onto the disk for a command (a list of words; empty: a shell) that starts in the current folder, of the tree
    at top."""
    if top in ("/", "/usr", "/etc", "/home", "/root", "/var"):
        raise Trouble(f"the machine with VT-x gets a copy of the folder that it is started in, and {top} is too much: start it in "
                      "the one with your files")
    pack = Pack()
    for path in FILES:
        if os.path.isdir(path):
            pack.add_tree(path)
        else:
            pack.add(path)
    for name in [*COMMANDS, *command[:1]]:
        path = shutil.which(name)
        if path:
            pack.add(path)
    add_python(pack)
    add_compiler(pack)
    add_work(pack, top, build)
    pack.add(os.getcwd())
    for path in more:
        pack.add_tree(path)
    pack.add_libraries()
    for folder in ("/proc", "/sys", "/dev", "/tmp", "/run", "/mnt", "/root", "/var/tmp", "/var/lib"):
        pack.folders.add(folder)
    return pack


def checked(words):
    """Runs a program that has to succeed; its last words are the sentence when it doesn't."""
    done = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=900, check=False,
                          text=True, errors="replace")
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        raise Trouble(f"{os.path.basename(words[0])} fails: {said[-1] if said else 'it says nothing'}")


def make_disk(pack, folder, image, texts):
    """An ext4 image of it and of texts ({path: words}); folder holds the copy meanwhile."""
    root = os.path.join(folder, "packed")
    os.mkdir(root)
    os.chmod(root, 0o755)
    try:
        pack.copy(root)
        for path, text in texts.items():
            with open(root + path, "w", encoding="utf-8", errors="surrogateescape") as file:
                file.write(text)
        size = pack.size() + (len(pack.files) + len(pack.folders)) * 512 + SPARE
        size += -size % (16 * 63 * 512)   # whole cylinders
        with open(image, "wb") as file:
            file.truncate(size)
        inodes = (len(pack.files) + len(pack.folders) + len(pack.links)) * 2 + 20000
        checked([shutil.which("mke2fs", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"), "-q", "-F", "-t", "ext4", "-O",
                 "^has_journal", "-E", "root_owner=0:0,lazy_itable_init=1,nodiscard", "-m", "0", "-I", "256", "-N", str(inodes), "-d", root, image])
    finally:
        shutil.rmtree(root, ignore_errors=True)
