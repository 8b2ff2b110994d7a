"""What a lab's tests.py sees: the decorator `test`, and `t`, by which a test builds guests, runs programs and judges.

A test is a function of t. It ends well, or by t.fail and t.require with a diagnosis from the lab's diagnoses.ini. What
a program did is compared with what the test's seed makes right; nothing that the program says of itself is believed.
"""
import hashlib
import os
import random
import re
import signal as signals
import threading

from kit import build, run as running
from kit.lab import LabError

ENOSYS = -38
HUNG_OFTEN = 4  # a submission that hangs so often won't be waited for any longer than it must
FORBIDDEN = {"fork": "FORK_FORBIDDEN", "exec": "EXEC_FORBIDDEN", "kill": "KILL_FORBIDDEN", "file": "FILE_FORBIDDEN",
             "network": "NETWORK_FORBIDDEN", "ptrace": "PTRACE_FORBIDDEN"}


class Failed(Exception):
    """The test ends with this diagnosis."""

    def __init__(self, ident, seen):
        super().__init__(ident)
        self.id, self.seen = ident, seen


class Forbidden(Exception):
    """The program did what nobody does by mistake: the whole lab counts zero by this name."""

    def __init__(self, ident, seen):
        super().__init__(ident)
        self.id, self.seen = ident, seen


class TestInfo:
    """What the decorator knows of a test."""

    def __init__(self, function, task, alone):
        self.function, self.task, self.alone = function, task, alone
        self.name = function.__name__
        lines = (function.__doc__ or "").strip().splitlines()
        self.title = lines[0].strip().rstrip(".") if lines else self.name.replace("_", " ").capitalize()


def test(task=None, alone=False):
    """Makes a function a test. task: its number in lab.ini; alone: no other test runs beside it, for one that measures."""
    def decorate(function):
        function.hv_test = TestInfo(function, task, alone)
        return function
    return decorate


def tests_of(module):
    """The tests of a module, in the order in which they stand there."""
    found = [value.hv_test for value in vars(module).values() if hasattr(value, "hv_test")]
    return [info for info in found if info.function.__module__ == module.__name__]


class T:
    """One test under way.

    seed      an int, of the grading's seed, the user, the term, the lab and the test
    random    a random.Random of it
    nonce     32 bits of it
    runs      the runs so far
    """

    def __init__(self, session, info):
        self.session, self.info = session, info
        digest = hashlib.sha256("\0".join([*session.seed_words, str(session.lab.number), info.name]).encode()).digest()
        self.seed = int.from_bytes(digest[:8], "little")
        self.nonce = int.from_bytes(digest[8:12], "little")
        self.random = random.Random(self.seed)
        self.runs, self.part, self._files = [], 0.0, 0
        self.folder = os.path.join(session.files, info.name)
        os.mkdir(self.folder)
        os.chmod(self.folder, 0o755)

    # --- judging ---
    def fail(self, ident, **seen):
        """Ends the test with this diagnosis; seen fills the braces of its text."""
        raise Failed(ident, seen)

    def require(self, condition, ident, **seen):
        """Ends the test with this diagnosis unless the condition holds."""
        if not condition:
            raise Failed(ident, seen)

    def credit(self, fraction):
        """This part of the points is safe, whatever a later step finds. The whole is 1."""
        if not 0 <= fraction <= 1:
            raise LabError(f"{self.info.name}: credit({fraction}) is no part of 1")
        self.part = max(self.part, float(fraction))

    # --- files ---
    def _path(self, name):
        self._files += 1
        return os.path.join(self.folder, f"{self._files}-{re.sub('[^A-Za-z0-9._-]', '_', name)}")

    def file(self, name, data):
        """A file that the program can read and write; returns its path."""
        path = self._path(name)
        with open(path, "wb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
        if (uid := running.plain_user()) is not None:
            os.chown(path, uid, uid)
        return path

    def guest(self, name, kind="flat", base=None, script=None, **defines):
        """Builds guests/NAME.S (or .c) of the lab for this run: .path, .data, .symbols, .entry, .base.

        kind: "flat", "elf32" or "elf64". base: the address that it is linked for (flat 0x1000, ELF 0x100000). script: a
        linker script of the guests folder instead of the kit's. defines: what -D gives; ints as hexadecimal.
        """
        if kind not in ("flat", "elf32", "elf64"):
            raise LabError(f"{self.info.name}: a guest's kind is flat, elf32 or elf64, not {kind}")
        folder = os.path.join(self.session.lab.folder, "guests")
        source = next((path for path in (os.path.join(folder, name + end) for end in (".S", ".c"))
                       if os.path.exists(path)), None)
        if not source:
            raise LabError(f"{self.info.name}: {folder} has no {name}.S")
        base = (0x1000 if kind == "flat" else 0x100000) if base is None else base
        script = os.path.join(folder, script) if script else os.path.join(self.session.tree.kit, "guest.ld")
        return build.build_guest(source, self._path(name), kind, base, script, defines,
                                 os.path.join(self.session.tree.guests, "lib"))

    # --- running ---
    def rig(self, script, dump=(), may_fail=False):
        """Runs the rig with this script; each line's answer is in .answers. Returns a Run (kit/record.py)."""
        text = script if isinstance(script, str) else "\n".join(script)
        run = self._run("rig", (), text.encode() + b"\n", dump, True)
        self._judge(run, may_fail)
        if not may_fail and run.ended == "exit" and run.status == 2:
            raise LabError(f"{self.info.name}: the rig doesn't understand its script: "
                           f"{run.stderr.decode(errors='replace').strip()[:300]}")
        return run

    def hvrun(self, args, stdin=b"", dump=(), may_fail=False):
        """Runs hvrun with these arguments (a list). Returns a Run."""
        words = args.split() if isinstance(args, str) else [str(word) for word in args]
        run = self._run("hvrun", words, stdin.encode() if isinstance(stdin, str) else stdin, dump, False)
        self._judge(run, may_fail)
        return run

    def _run(self, program, args, stdin, dump, answers):
        session = self.session
        if session.stopped():
            raise Stopped()
        path = session.builder.program(program)
        number = len(self.runs) + 1
        record = os.path.join(session.records, f"{self.info.name}-{number}.trace")
        run = session.execute(path, program, args, stdin, dump, answers, record, self.folder)
        self.runs.append(run)
        if run.ended == "stopped":
            raise Stopped()
        return run

    def _judge(self, run, may_fail):
        """What ends a test whatever it looks for."""
        if run.forbidden:
            act = run.forbidden[0]
            raise Forbidden(FORBIDDEN.get(act.get("what"), "ACT_FORBIDDEN"), {"detail": act.get("detail") or "?"})
        if run.ended == "lost":
            raise LabError(f"the recorder gave up with status {run.status}: "
                           f"{run.stderr.decode(errors='replace').strip()[-300:]}")
        if may_fail:
            return
        if run.ended == "timeout" and run.reference and run.reference >= running.REFERENCE_MOST:
            raise LabError(f"the reference doesn't end either, {where(run)}")
        if run.ended == "timeout":
            raise Failed("TIMED_OUT", {"seconds": run.seconds, "reference": run.reference or 0.0, "at": where(run)})
        if run.ended == "flood":
            raise Failed("OUTPUT_FLOOD", {"limit": running.FLOOD})
        if run.ended == "signal":
            raise Failed("CRASHED", {"signal": signal_name(run.signal), "at": where(run)})

    def hole(self):
        """The first -ENOSYS of this test's runs, in words, or None."""
        for run in self.runs:
            for answer in run.answers:
                if answer.rc == ENOSYS:
                    return answer.command
            if b"Function not implemented" in run.stderr:
                return "hvrun"
        return None


class Stopped(Exception):
    """The grading ends before its time: Ctrl-C, or a verdict that needs no further test."""


def signal_name(number):
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def where(run):
    """What the program was at when it ended: the last thing that was seen of it."""
    exits = [event for event in run.trace.events if event.kind in ("exit", "ioctl")]
    parts = []
    if run.answers:
        parts.append(f"after the rig's '{run.answers[-1].command}'")
    elif run.program_name == "rig":
        parts.append("in the rig's first command")
    if exits:
        last = exits[-1]
        parts.append(f"last exit {last.reason or 'failed'} on vCPU {last.vcpu}" if last.kind == "exit"
                     else f"last ioctl {last.name}")
    return ", ".join(parts) or "before its first ioctl"


class Session:
    """What the tests of one grading share: where to put things, how to run programs, the reference's times."""

    def __init__(self, tree, lab, builder, scratch, seed_words, stop=None):
        self.tree, self.lab, self.builder, self.scratch = tree, lab, builder, scratch
        self.seed_words = seed_words
        self.files, self.records = os.path.join(scratch, "files"), os.path.join(scratch, "records")
        for path, mode in ((self.files, 0o755), (self.records, 0o700)):
            os.mkdir(path)
            os.chmod(path, mode)
        self.stop = stop or threading.Event()
        self._references, self._lock, self._runs = {}, threading.Lock(), 0
        self._hung = 0
        # A reference may still run when the program for which it was asked has ended.
        self._over, self._calibrations = threading.Event(), []

    def stopped(self):
        return self.stop.is_set()

    def close(self):
        """Ends what still runs. Call it before the scratch folder goes."""
        self._over.set()
        for calibration in self._calibrations:
            calibration.join()

    def _room(self):
        """A fresh folder that the program may write to."""
        with self._lock:
            self._runs += 1
            path = os.path.join(self.scratch, f"run{self._runs}")
        os.mkdir(path)
        running.own(path, running.plain_user())
        return path

    def _words(self, path, program, args):
        if program == "rig":
            return lambda descriptor: [path, "--answers", str(descriptor)]
        return [path, *args]

    def execute(self, path, program, args, stdin, dump, answers, record, files):
        def measure():
            return self.reference_seconds(program, args, stdin, files)
        calibration = running.Calibration(measure)
        with self._lock:
            self._calibrations.append(calibration)
        run = running.execute(self.builder.sandbox, self._words(path, program, args), record=record, folder=self._room(),
                              stdin=stdin, dump=dump, read=[path], write=[files], answers=answers, calibrate=calibration,
                              generous=self._hung < HUNG_OFTEN, stop=self.stop)
        run.program_name = program
        with self._lock:
            self._hung += run.ended == "timeout"
        return run

    def reference_seconds(self, program, args, stdin, files):
        """How long the reference needs for the same, under the same eyes. Asked once for each input."""
        key = (program, tuple(args), stdin)
        with self._lock:
            lock = self._references.setdefault(key, [threading.Lock(), None])
        with lock[0]:
            if lock[1] is None:
                path = self.builder.reference(program)
                if not path:
                    return 0.0
                record = os.path.join(self.records, f"reference-{threading.get_ident()}.trace")
                run = running.execute(self.builder.sandbox, self._words(path, program, args), record=record,
                                      folder=self._room(), stdin=stdin, read=[path], write=[files], answers=program == "rig",
                                      stop=self._over)
                lock[1] = run.seconds
                for end in ("", ".mem"):
                    if os.path.exists(record + end):
                        os.unlink(record + end)
            return lock[1]
