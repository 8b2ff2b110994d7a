"""Builds programs out of a student's files: the rig or hvrun, with reference objects for everything else.

A submission is hostile before it runs: a source can ask the compiler for any file, by #include or .incbin. So the
compiler and the linker run in the sandbox too, see a copy of the source, the headers, the reference objects and the
system's own folders, and nothing else. Guests of the tests are the kit's own and need none of that.
"""
import json
import os
import re
import shutil
import struct
import subprocess
import threading

from kit import run as running
from kit.lab import LabError
from kit.record import Run

COMPILE_LIMIT = 15.0 * running.STRETCH
OUTPUT_LIMIT = 20000  # characters of the compiler's that are kept
SYSTEM_HEADERS = ("capstone/capstone.h", "gelf.h", "jansson.h", "libelf.h", "linux/kvm.h", "pthread.h", "stdio.h",
                  "stdlib.h", "string.h", "unistd.h", "errno.h", "fcntl.h")
GUEST_FLAGS = ["-std=gnu17", "-O1", "-ffreestanding", "-fno-builtin", "-fno-pic", "-no-pie", "-static", "-nostdlib",
               "-mno-red-zone", "-mgeneral-regs-only", "-fno-stack-protector", "-fcf-protection=none",
               "-fno-asynchronous-unwind-tables", "-Wl,--build-id=none", "-Wl,-z,noexecstack", "-Wl,-z,norelro",
               "-Wl,-z,max-page-size=4096", "-Wno-unused-command-line-argument"]


class BuildError(Exception):
    """A submission that can't be built, as a diagnosis: an id and what was seen."""

    def __init__(self, ident, output="", **seen):
        super().__init__(ident)
        self.id, self.output, self.seen = ident, output, seen


def compilers(language="c"):
    """The compiler to use: $CC, else the first that is there. A list, as CC may carry options."""
    if os.environ.get("CC"):
        return os.environ["CC"].split()
    for name in ("gcc", "clang", "cc"):
        if shutil.which(name):
            return [name]
    raise LabError("there is no C compiler: install gcc or clang (hvlab doctor tells how)")


def is_clang(command):
    return "clang" in os.path.basename(command[-1] if len(command) == 1 else " ".join(command))


class Flags:
    """lib/flags.json: what the tree's objects were built with, so that a student's file is built alike."""

    def __init__(self, tree):
        tree.need_handout()
        with open(os.path.join(tree.lib, "flags.json"), encoding="utf-8") as file:
            said = json.load(file)
        self.version, self.cflags, self.warnings = said["version"], said["cflags"], said["warnings"]
        self.clang_only, self.libs = said["clang_only"], said["libs"]

    def compile(self, command, core):
        return [*command, *self.cflags, *self.warnings, *(self.clang_only if is_clang(command) else []), f"-I{core}"]


def first_message(output):
    """The compiler's first error or warning, without the path before it."""
    for kind in ("error:", "warning:"):
        for line in output.splitlines():
            if kind in line:
                found = re.match(r".*?:(\d+)(?::\d+)?:\s*(?:fatal )?(?:error|warning):\s*(.*)", line)
                return f"line {found[1]}: {found[2]}" if found else line.split(kind, 1)[1].strip()
    return next((line.strip() for line in output.splitlines() if line.strip()), "it says nothing")


class Builder:
    """The programs of one grading: compiled once, each linked when it is first asked for."""

    def __init__(self, tree, lab, scratch, my_own=False):
        self.tree, self.lab, self.my_own = tree, lab, my_own
        self.flags = Flags(tree)
        self.compiler = compilers()
        self.folder = os.path.join(scratch, "build")
        os.mkdir(self.folder)
        uid = running.plain_user()
        running.own(self.folder, uid)
        self.sandbox = running.Sandbox(os.path.join(tree.bin, "observe"), uid)
        self.output, self.warnings, self.seen_warnings = "", 0, None
        self.objects, self.tools, self.counter = {}, 0, threading.Lock()
        self.locks = {"rig": threading.Lock(), "hvrun": threading.Lock()}
        self.programs = {}

    # --- the student's files ---
    def sources(self):
        """{core path: path in the work folder} of what is to be compiled."""
        names = list(self.lab.files)
        if self.my_own:
            for folder, _, files in os.walk(self.tree.starters):
                for name in files:
                    path = os.path.relpath(os.path.join(folder, name), self.tree.starters)
                    if path not in names and os.path.exists(os.path.join(self.tree.work, path)):
                        names.append(path)
        return {name: os.path.join(self.tree.work, name) for name in names}

    def _copy(self, name, path):
        """A copy of a source where the compiler can read it. Links are not followed: they may lead to the tests."""
        if not os.path.lexists(path):
            raise BuildError("FILE_MISSING", file=name, lab=self.lab.number)
        real = os.path.realpath(self.tree.work)
        if not running.regular(path) or os.path.realpath(path) != os.path.join(real, name):
            raise BuildError("UNSAFE_FILE", file=name, what="it is a link, or lies behind one")
        if os.path.getsize(path) > 1 << 20:
            raise BuildError("UNSAFE_FILE", file=name, what="it has more than a megabyte")
        copy = os.path.join(self.folder, name)
        os.makedirs(os.path.dirname(copy), exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as source, open(copy, "wb") as target:
            target.write(source.read(1 << 20))
        uid = running.plain_user()
        for folder in (os.path.dirname(copy), copy):
            os.chmod(folder, 0o755 if folder != copy else 0o644)
            if uid is not None and folder != copy:
                os.chown(folder, uid, uid)
        return copy

    def _tool(self, command, name):
        """Runs the compiler in the sandbox; (status, what it said, what it was to do that it may not)."""
        with self.counter:
            self.tools += 1
            record = f"{self.folder}-{self.tools}.trace"
        words = self.sandbox.command(command, record=record, plain=True, read=[self.tree.core, self.tree.lib],
                                     write=[self.folder], folder=self.folder)
        child = running.Child(words, subprocess.DEVNULL, running.environment(self.folder), self.folder)
        status = child.finish(lambda: child.started + COMPILE_LIMIT)
        said = (child.out.data + child.err.data).decode(errors="replace")
        ran = running.fill(Run(name, words, record), child, status if status == running.NOT_RUN else 0)
        if ran.ended == "lost":
            raise LabError(f"the sandbox doesn't work here ({said.strip()[-300:] or 'it says nothing'}); "
                           "hvlab doctor looks into it")
        if child.why:
            ran.status, said = 1, f"error: the compiler was ended ({child.why})\n{said}"
        acts = [f"{act.get('what')} {act.get('detail')}" for act in ran.forbidden]
        return 1 if acts else ran.status, said.replace(self.folder + "/", "")[:OUTPUT_LIMIT], acts

    def _compile(self, name, path, results):
        try:
            copy = self._copy(name, path)
            target = copy[:-2] + ".o"
            flags = self.flags.compile(self.compiler, self.tree.core)
            room = os.path.join(self.tree.core, *name.split("/")[1:-1])  # its own room's private headers
            results[name] = (*self._tool([*flags, f"-iquote{room}", "-c", "-o", target, name], name), target)
        except Exception as error:
            results[name] = error

    def compile(self):
        """Compiles all of the student's files, side by side. Raises BuildError for the first that fails."""
        results, threads = {}, []
        for name, path in self.sources().items():
            threads.append(threading.Thread(target=self._compile, args=(name, path, results)))
            threads[-1].start()
        for thread in threads:
            thread.join()
        outcomes = [(name, results[name]) for name in self.sources()]
        self.output = "".join(said[1] for _, said in outcomes if isinstance(said, tuple))[:OUTPUT_LIMIT]
        for name, outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
            status, said, acts, target = outcome
            if acts:
                raise BuildError("FILE_FORBIDDEN", said, detail=f"{name} asks the compiler for {acts[0]}")
            if outside := re.search(r"error: '?([^'\n:]*)'? file not found|[Cc]ould not find incbin file '([^'\n]*)'", said):
                wanted = outside[1] or outside[2] or ""  # clang asks whether a file is there before it opens it
                if wanted.startswith("/") or ".." in wanted.split("/"):
                    raise BuildError("FILE_FORBIDDEN", said, detail=f"{name} asks the compiler for {wanted}")
            if lacking := re.search(r"fatal error: '?([\w./]+\.h)'?(?::| file)", said):
                if lacking[1] in SYSTEM_HEADERS:
                    raise LabError(f"this machine has no <{lacking[1]}>, which the labs need; "
                                   "hvlab doctor tells the package")
            if status != 0:
                raise BuildError("DOES_NOT_COMPILE", said, file=name, message=first_message(said))
            count = said.count("warning:")
            if count and not self.seen_warnings:
                self.seen_warnings = {"file": name, "message": first_message(said)}
            self.warnings += count
            self.objects[name] = target

    # --- programs ---
    def _references(self, program):
        """The reference objects of a program, without those whose place a student's file takes."""
        found = []
        for room in ("core", program):
            for folder, folders, files in os.walk(os.path.join(self.tree.lib, room)):
                folders.sort()
                for name in sorted(files):
                    path = os.path.join(folder, name)
                    source = os.path.relpath(path, self.tree.lib)[:-2] + ".c"
                    if name.endswith(".o") and source not in self.objects:
                        found.append(path)
        return found

    def program(self, name):
        """The path of the rig or of hvrun, linked with the student's files. Raises BuildError."""
        with self.locks[name]:
            if name not in self.programs:
                try:
                    self.programs[name] = self._link(name)
                except BuildError as error:
                    self.programs[name] = error
        if isinstance(self.programs[name], BuildError):
            raise self.programs[name]
        return self.programs[name]

    def _link(self, name):
        target = os.path.join(self.folder, name)
        status, said, _ = self._tool([*self.compiler, "-pthread", "-Wl,--as-needed", "-o", target, *self.objects.values(),
                                      *self._references(name), *self.flags.libs], name)
        if status == 0:
            return target
        if lacking := re.search(r"cannot find -l(\w+)|unable to find library -l(\w+)", said):
            raise LabError(f"this machine lacks the library {lacking[1] or lacking[2]}, which the labs need; "
                           "hvlab doctor tells the package")
        files = ", ".join(self.objects)
        if missing := re.search(r"undefined reference to [`'](\w+)'|undefined symbol: (\w+)", said):
            raise BuildError("MISSING_FUNCTION", said, file=files, name=missing[1] or missing[2])
        if double := re.search(r"multiple definition of [`'](\w+)'|duplicate symbol: (\w+)", said):
            raise BuildError("DOUBLE_FUNCTION", said, name=double[1] or double[2])
        raise BuildError("DOES_NOT_LINK", said, message=first_message(said))

    def reference(self, name):
        """The same program, made of the reference alone; None when the tree has none."""
        path = os.path.join(self.tree.bin, name)
        return path if os.path.exists(path) else None


# --- guests -----------------------------------------------------------------------------------------------------------
class Image:
    """A guest that was built for this run: where its file is, its bytes, its symbols, and where it starts."""

    def __init__(self, path, data, symbols, entry, base):
        self.path, self.data, self.symbols, self.entry, self.base = path, data, symbols, entry, base


class Elf:
    """As much of an ELF file as guests need: what is loaded, and the symbols (System V ABI, chapters 4 and 5)."""

    def __init__(self, data):
        self.data, self.wide = data, data[4] == 2
        head = "<HHIQQQIHHHHHH" if self.wide else "<HHIIIIIHHHHHH"
        (_, _, _, self.entry, self.phoff, self.shoff, _, _, self.phsize, self.phcount,
         self.shsize, self.shcount, _) = struct.unpack_from(head, data, 16)

    def segments(self):
        """(physical address, bytes in the file) of each PT_LOAD."""
        for i in range(self.phcount):
            at = self.phoff + i * self.phsize
            if self.wide:
                kind, _, offset, _, paddr, size = struct.unpack_from("<IIQQQQ", self.data, at)
            else:
                kind, offset, _, paddr, size = struct.unpack_from("<IIIII", self.data, at)
            if kind == 1 and size:
                yield paddr, self.data[offset:offset + size]

    def _sections(self):
        for i in range(self.shcount):
            layout = "<IIQQQQIIQQ" if self.wide else "<IIIIIIIIII"
            yield struct.unpack_from(layout, self.data, self.shoff + i * self.shsize)

    def symbols(self):
        sections, found = list(self._sections()), {}
        for _, kind, _, _, offset, size, link, _, _, each in sections:
            if kind != 2 or not each:
                continue
            names = sections[link][4]
            for at in range(offset, offset + size, each):
                if self.wide:
                    name, info, _, where, value, _ = struct.unpack_from("<IBBHQQ", self.data, at)
                else:
                    name, value, _, info, _, where = struct.unpack_from("<IIIBBH", self.data, at)
                if name and where and info & 0xf not in (3, 4):
                    end = self.data.index(b"\0", names + name)
                    found[self.data[names + name:end].decode(errors="replace")] = value
        return found

    def flat(self):
        """(base, memory from there on) as a flat image has it."""
        pieces = sorted(self.segments())
        if not pieces:
            return 0, b""
        base, memory = pieces[0][0], bytearray()
        for address, content in pieces:
            memory[len(memory):] = bytes(max(0, address - base - len(memory)))
            memory[address - base:] = content
        return base, bytes(memory)


def text_of(value):
    return hex(value) if isinstance(value, int) and not isinstance(value, bool) else str(value)


def build_guest(source, target, kind, base, script, defines, include):
    """Assembles and links one guest by one call of the compiler; its Image stands at target."""
    wide = ["-m32"] if kind == "elf32" else ["-m64"]
    values = [f"-D{name}={text_of(value)}" for name, value in sorted(defines.items())]
    command = [*compilers(), *GUEST_FLAGS, *wide, *values, f"-I{include}", f"-I{os.path.dirname(source)}",
               "-o", target, source, f"-Wl,--defsym=BASE={base:#x},-T,{script}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=COMPILE_LIMIT, check=False,
                          stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"})
    if done.returncode != 0:
        raise LabError(f"{source} does not build: {first_message(done.stderr)}\n{done.stderr[:2000]}")
    with open(target, "rb") as file:
        data = file.read()
    elf = Elf(data)
    if kind == "flat":
        base, data = elf.flat()
        with open(target, "wb") as file:
            file.write(data)
    os.chmod(target, 0o644)
    return Image(target, data, elf.symbols(), elf.entry, base)
