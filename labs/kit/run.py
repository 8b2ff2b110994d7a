"""Runs a program in observe's sandbox, with a time limit that the reference sets and a limit to what it may write.

Nothing waits for ever: the program is asked to end (SIGTERM to observe, which ends all that it started), then killed.
How long it may take is not a fixed number. A run that is still going after a short first wait makes the kit run the
reference on the very same input, beside it, and ten times what that needs is allowed.
"""
import os
import selectors
import shutil
import signal
import stat
import subprocess
import threading
import time

from kit.record import Run, answers_of

STRETCH = max(1, int(os.environ.get("HV_STRETCH", "1") or "1"))  # a machine that is itself emulated
FIRST_WAIT = 0.5 * STRETCH  # seconds until the reference is asked
LEAST = 1.0 * STRETCH  # what every program is allowed
TIMES = 10  # of what the reference needs
MOST = 20.0 * STRETCH  # whatever the reference says
REFERENCE_MOST = 10.0 * STRETCH  # a reference that needs this long hangs itself
GRACE = 2.0 * STRETCH  # between asking and killing
FLOOD = 1 << 20  # bytes of stdout and stderr
ANSWERS_MAX = 16 << 20
RECORD_MAX = 256 << 20
COMPILER_MEMORY = 4 << 30
NOBODY = 65534
NOT_RUN = 125  # observe --plain ends so when it couldn't run the compiler; else as the compiler did


def plain_user():
    """The uid that programs run as: an unprivileged one when the kit runs as root, else None for the user's own."""
    if os.geteuid() != 0:
        return None
    return int(os.environ.get("HVLAB_UID") or NOBODY)


def own(path, uid):
    """Gives a folder to the program's user."""
    if uid is not None:
        os.chown(path, uid, uid)
    os.chmod(path, 0o700)


class Pipe:
    """What comes out of a program on one descriptor, up to a limit."""

    def __init__(self, limit):
        self.read_end, self.write_end = os.pipe()
        os.set_blocking(self.read_end, False)
        if (uid := plain_user()) is not None:
            os.fchown(self.write_end, uid, uid)  # a program may open its own output anew, by /proc/self/fd
        self.limit, self.size, self.parts, self.flooded = limit, 0, [], False

    def drain(self):
        """Takes what is there. False at the end of the stream."""
        while True:
            try:
                part = os.read(self.read_end, 65536)
            except BlockingIOError:
                return True
            if not part:
                return False
            room = self.limit - self.size
            if len(part) > room:
                part, self.flooded = part[:room], True
            self.parts.append(part)
            self.size += len(part)
            if self.flooded:
                return True

    def close(self):
        for end in (self.read_end, self.write_end):
            if end is not None:
                os.close(end)
        self.read_end = self.write_end = None

    def close_write(self):
        os.close(self.write_end)
        self.write_end = None

    @property
    def data(self):
        return b"".join(self.parts)


class Child:
    """A process with its pipes; finish() waits for it within its limit and says how it ended."""

    def __init__(self, command, stdin, env, cwd, answers_fd=False, record=None, stop=None):
        self.out, self.err = Pipe(FLOOD), Pipe(FLOOD)
        self.answers = Pipe(ANSWERS_MAX) if answers_fd else None
        self.record, self.stop = record, stop
        self.started = time.monotonic()
        self.why = None
        if callable(command):
            command = command(self.answers.write_end if self.answers else None)
        keep = (self.answers.write_end,) if self.answers else ()
        try:
            self.process = subprocess.Popen(command, stdin=stdin, stdout=self.out.write_end, stderr=self.err.write_end,
                                            env=env, cwd=cwd, pass_fds=keep, start_new_session=True)
        except BaseException:
            for pipe in self.pipes():
                pipe.close()
            raise
        for pipe in self.pipes():
            pipe.close_write()

    def pipes(self):
        return [pipe for pipe in (self.out, self.err, self.answers) if pipe]

    @property
    def seconds(self):
        return time.monotonic() - self.started

    def end(self, why):
        """Asks observe to end; it kills what it started."""
        if self.why is None:
            self.why, self.asked = why, time.monotonic()
            self._signal(signal.SIGTERM)

    def _signal(self, signo):
        try:
            self.process.send_signal(signo)
        except ProcessLookupError:
            pass

    def _too_much(self):
        if self.out.flooded or self.err.flooded or (self.answers and self.answers.flooded):
            return True
        try:
            return self.record is not None and os.stat(self.record).st_size > RECORD_MAX
        except OSError:
            return False

    def finish(self, deadline):
        """Waits. deadline() says until when (monotonic seconds), None while that isn't known yet."""
        with selectors.DefaultSelector() as selector:
            handle = self._handle()
            try:
                if handle is not None:
                    selector.register(handle, selectors.EVENT_READ)
                for pipe in self.pipes():
                    selector.register(pipe.read_end, selectors.EVENT_READ, pipe)
                self._wait(selector, deadline, 0.25 if handle is not None else 0.02)
            except BaseException:  # whoever waited is interrupted: nothing is left running
                self._signal(signal.SIGKILL)
                self.process.wait()
                raise
            finally:
                if handle is not None:
                    os.close(handle)
        self.process.wait()
        for pipe in self.pipes():
            pipe.drain()
            pipe.close()
        return self.process.returncode

    def _handle(self):
        """A descriptor that says when the process ends; None where a container forbids it, and looking has to do."""
        try:
            return os.pidfd_open(self.process.pid)
        except OSError:
            return None

    def _wait(self, selector, deadline, longest):
        while self.process.poll() is None:
            limit, now = deadline(), time.monotonic()
            if self.why and now > self.asked + GRACE:
                self._signal(signal.SIGKILL)
            elif not self.why and limit is not None and now >= limit:
                self.end("timeout")
            elif not self.why and self.stop and self.stop.is_set():
                self.end("stopped")
            until = self.asked + GRACE if self.why else limit if limit is not None else now + 0.1
            for key, _ in selector.select(max(0.001, min(until - now, longest))):
                if key.data and not key.data.drain():
                    selector.unregister(key.fd)
            if not self.why and self._too_much():
                self.end("flood")


class Calibration:
    """How long the reference needs for the same: measured once, beside the run that seems to last too long."""

    def __init__(self, measure):
        self.measure, self.seconds, self.thread = measure, None, None

    def ask(self):
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, daemon=True)
            self.thread.start()

    def _run(self):
        try:
            self.seconds = self.measure()
        except Exception:  # no reference, no patience beyond the least
            self.seconds = 0.0

    def join(self):
        """Waits until the reference isn't running any more."""
        if self.thread:
            self.thread.join()

    def allowed(self):
        """Seconds, or None while the reference still runs."""
        return None if self.seconds is None else min(MOST, max(LEAST, TIMES * self.seconds))


def starved(observer):
    """Seconds that the program of this observe was ready to run while others had the CPUs (proc(5), schedstat)."""
    try:
        with open(f"/proc/{observer}/task/{observer}/children", encoding="ascii") as file:
            programs = file.read().split()
        waits = [0.0]
        for program in programs:
            for task in os.listdir(f"/proc/{program}/task"):
                with open(f"/proc/{program}/task/{task}/schedstat", encoding="ascii") as file:
                    waits.append(int(file.read().split()[1]) / 1e9)
        return max(waits)
    except (OSError, ValueError, IndexError):
        return 0.0


def patience(child, calibration, generous):
    """The deadline of a run as Child.finish wants it. generous: a busy machine's time is not counted as the program's."""
    def deadline():
        if child.seconds < FIRST_WAIT:
            return None
        calibration.ask()
        allowed = calibration.allowed()
        if allowed is None:
            return None
        if generous and child.seconds >= allowed:
            allowed = min(MOST, allowed + starved(child.process.pid))
        return child.started + allowed
    return deadline


class Sandbox:
    """How observe is called. All knowledge of its command line is here."""

    def __init__(self, observe, uid):
        self.observe, self.uid = observe, uid

    def command(self, program, *, record, plain=False, dump=(), read=(), write=(), folder):
        """The command that runs program (a list) with only these paths in reach. plain: a compiler; nothing of KVM."""
        options = ["--trace", record, *(["--plain", "--limit-memory", str(COMPILER_MEMORY)] if plain else [])]
        if self.uid is not None:
            options += ["--uid", str(self.uid)]
        for path in read:
            options += ["--read", path]
        for path in write:
            options += ["--write", path]
        for when, gpa, length in dump:
            options += ["--dump", f"{when}:{gpa:#x}:{length:#x}"]
        path = program[0] if os.sep in program[0] else shutil.which(program[0]) or program[0]
        return [self.observe, *options, "--chdir", folder, "--", path, *program[1:]]


def environment(folder):
    """What a program sees of the environment: nothing of the grader's."""
    kept = {key: os.environ[key] for key in ("HV_KVM_DEVICE", "HV_TEST_ID", "ASAN_OPTIONS") if key in os.environ}
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "HOME": folder, "TMPDIR": folder, "LANG": "C", "LC_ALL": "C",
            "XDG_RUNTIME_DIR": folder, **kept}


def fill(run, child, status):
    """Puts what a child left into a Run: the record tells how the program ended, observe's status only whether it did."""
    run.seconds = child.seconds
    run.stdout, run.stderr = child.out.data, child.err.data
    if child.answers:
        run.answers = answers_of(child.answers.data)
    ends = run.trace.others("end")
    if ends:
        run.status, run.signal = ends[-1].get("status"), ends[-1].get("signal")
    if run.forbidden:
        run.ended = "forbidden"
    elif child.why:
        run.ended = child.why
    elif not ends or status not in (0, run.status if run.signal is None else 128 + run.signal):
        # The recorder itself gave up: nobody's mistake but the machine's. (Round a compiler it ends as that does.)
        run.ended, run.status = "lost", status
    elif ends[-1].get("why") == "flood":  # observe's own limit: memory, files or output
        run.ended = "flood"
    elif ends[-1].get("why") in ("signal", "killed") or run.signal:
        run.ended = "signal"
    elif ends[-1].get("why") == "forbidden":
        run.ended = "forbidden"
    return run


def regular(path):
    """Whether path is an ordinary file itself, not a link to one."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def execute(sandbox, program, *, record, folder, stdin=b"", dump=(), read=(), write=(), answers=False,
            calibrate=None, generous=True, stop=None):
    """One run under observe. program: a list, or a function of the answers' descriptor that gives one."""
    run = Run(os.path.basename(record), program, record)
    def command(descriptor):
        words = program(descriptor) if callable(program) else program
        run.command = words
        return sandbox.command(words, record=record, dump=dump, read=read, write=[folder, *write], folder=folder)

    with os.fdopen(os.memfd_create("stdin"), "w+b") as file:
        file.write(stdin)
        file.seek(0)
        child = Child(command, file, environment(folder), folder, answers, record, stop)
    if calibrate:
        status = child.finish(patience(child, calibrate, generous))
        run.allowed, run.reference = calibrate.allowed(), calibrate.seconds
    else:
        status = child.finish(lambda: child.started + REFERENCE_MOST)
    return fill(run, child, status)
