"""Grades a lab: builds the student's files, runs all tests side by side, and makes one dict of what was found.

The dict's form is staff/schemas/results.schema.json; kit/report.py renders it. It is handed to whoever listens after
each test, so that a results file is true at any moment. Points come from lab.ini and hidden.ini alone.
"""
import getpass
import importlib
import os
import secrets
import shutil
import sys
import tempfile
import threading
import time
import traceback

from kit import testing
from kit.build import Builder, BuildError
from kit.lab import LabError, Term

JOBS = min(3, len(os.sched_getaffinity(0)) + 1)  # a traced program waits for its tracer half of the time
OUTPUT_KEPT = 4000  # characters of what a program printed
ZERO = ("FILE_FORBIDDEN", "UNSAFE_FILE")  # of the build: an attack, not a mistake


def user_name():
    if os.environ.get("HVLAB_USER"):
        return os.environ["HVLAB_USER"]
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def backend():
    """What stands behind /dev/kvm: vmx, svm, or a module's name."""
    for module, name in (("kvm_intel", "vmx"), ("kvm_amd", "svm")):
        if os.path.exists(f"/sys/module/{module}"):
            return name
    try:
        others = sorted(name for name in os.listdir("/sys/module") if name.startswith("kvm_"))
    except OSError:
        others = []
    return others[0] if others else None


class Planned:
    """A test with its points, and what became of it."""

    def __init__(self, info, points, hidden, extra):
        self.info, self.points, self.hidden, self.extra = info, points, hidden, extra
        self.status, self.score, self.seconds = None, 0.0, 0.0
        self.diagnosis, self.output, self.traces = None, "", []

    def as_dict(self):
        return {"name": self.info.name, "title": self.info.title, "task": self.info.task, "hidden": self.hidden,
                "extra": self.extra, "score": self.score, "max": self.points, "status": self.status or "failed",
                "duration_s": round(self.seconds, 3), "diagnosis": self.diagnosis,
                "output": self.output if self.status else "It was not run."}


def load(lab, name):
    """The tests of labNN/NAME.py. labs/ is on the path, so a file may import its neighbour: from lab01 import tests."""
    if lab.tree.labs not in sys.path:
        sys.path.insert(0, lab.tree.labs)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(f"lab{lab.number:02d}.{name}")
    except Exception as error:
        raise LabError(f"{lab.folder}/{name}.py cannot be loaded: {type(error).__name__}: {error}") from error
    return testing.tests_of(module)


def plan(lab, task=None, only=None):
    """The tests to run with their points. Every test has a line and every line a test."""
    planned = []
    sources = [("tests", False, {**{n: (p, False) for n, p in lab.points.items()},
                                 **{n: (p, True) for n, p in lab.extra.items()}}, lab.path)]
    if lab.has_hidden:
        sources.append(("hidden", True, {n: (p, False) for n, p in lab.hidden.items()},
                        os.path.join(lab.folder, "hidden.ini")))
    for name, hidden, points, path in sources:
        found = load(lab, name)
        for info in found:
            if info.name not in points:
                raise LabError(f"{path}: there are no points for {info.name} of {name}.py")
            if info.task is not None and info.task not in lab.tasks:
                raise LabError(f"{lab.path}: there is no [task {info.task}], which {info.name} is of")
            worth, extra = points[info.name]
            planned.append(Planned(info, worth, hidden, extra))
        missing = set(points) - {info.name for info in found}
        if missing:
            raise LabError(f"{path}: {', '.join(sorted(missing))}: {name}.py has no such test")
    return [p for p in planned if (task is None or p.info.task == task) and (not only or p.info.name in only)]


class Grading:
    """One grading of one lab."""

    def __init__(self, tree, lab, *, seed=None, user=None, my_own=False, task=None, only=None, listener=None):
        self.tree, self.lab, self.my_own = tree, lab, my_own
        self.term = Term(tree)
        self.seed = seed or secrets.token_hex(8)
        self.user = user or user_name()
        self.listener = listener
        self.planned = plan(lab, task, only)
        self.partial = bool(task or only)
        self.stop, self._lock = threading.Event(), threading.Lock()
        self.verdict, self.failure = None, None
        self.compile = {"ok": True, "warnings": 0, "output": ""}
        self.warning = None
        self.complete = False
        self.begun = time.time()
        self.started = time.monotonic()

    # --- the result ---
    def diagnose(self, ident, seen):
        known = self.lab.diagnoses.get(ident)
        if not known:
            raise LabError(f"{self.lab.folder}/diagnoses.ini: there is no [{ident}], by which a test failed")
        return known.filled(seen)

    def result(self):
        """The dict, as far as it is known."""
        tests = [p.as_dict() for p in self.planned]
        if self.verdict:
            tests = [{**t, "score": 0.0, "status": "failed" if t["status"] != "error" else "error"} for t in tests]
        plain = [t for t in tests if not t["extra"]]
        tasks = [{"number": number, "title": title,
                  "score": sum(t["score"] for t in plain if t["task"] == number and not t["hidden"]),
                  "max": sum(t["max"] for t in plain if t["task"] == number and not t["hidden"])}
                 for number, title in self.lab.tasks.items()]
        return {"format": "hvlab-result-1", "complete": self.complete, "lab": self.lab.number, "title": self.lab.title,
                "seed": self.seed, "term": self.term.name, "user": self.user,
                "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.begun)),
                "duration_s": round(time.monotonic() - self.started, 3), "kit": self.kit_version,
                "backend": backend(), "score": sum(t["score"] for t in plain), "max": sum(t["max"] for t in plain),
                "extra": sum(t["score"] for t in tests if t["extra"]),
                "hidden_withheld": 0.0 if self.lab.has_hidden else self.lab.hidden_points,
                "compile": dict(self.compile), "tasks": tasks, "tests": tests, "verdict": self.verdict}

    kit_version = "0"

    def tell(self):
        with self._lock:
            if self.listener:
                self.listener(self.result())

    # --- running ---
    def run(self):
        """Grades; returns the result. Raises LabError when the lab's own files are wrong."""
        scratch = tempfile.mkdtemp(prefix="hvlab-", dir=None if " " not in tempfile.gettempdir() else "/tmp")
        os.chmod(scratch, 0o711)
        try:
            self._run(scratch)
            self._keep(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if self.failure:
            raise self.failure
        self.complete = not self.stop.is_set() or self.verdict is not None
        self.tell()
        return self.result()

    def _run(self, scratch):
        try:
            builder = Builder(self.tree, self.lab, scratch, self.my_own)
            self.kit_version = builder.flags.version
            self.tell()
            builder.compile()
        except BuildError as error:
            self._cannot_build(error)
            return
        self.compile.update(warnings=builder.warnings, output=builder.output)
        if builder.seen_warnings:
            self.warning = self.diagnose("WARNINGS", {**builder.seen_warnings, "count": builder.warnings})
        words = [self.seed, self.term.seed, self.user]
        session = testing.Session(self.tree, self.lab, builder, scratch, words, self.stop)
        try:
            self._all(session, [p for p in self.planned if not p.info.alone], JOBS)
            self._all(session, [p for p in self.planned if p.info.alone], 1)
        finally:
            session.close()

    def _cannot_build(self, error):
        self.verdict = self.diagnose(error.id, error.seen)
        self.compile = {"ok": error.id in ZERO, "warnings": 0, "output": error.output or ""}

    def _all(self, session, tests, jobs):
        """Runs tests, so many at a time; the longest that are known need not come first, they are alike."""
        queue, lock = list(tests), threading.Lock()

        def work():
            while not self.stop.is_set() and not self.failure:
                with lock:
                    if not queue:
                        return
                    planned = queue.pop(0)
                self._one(session, planned)
        threads = [threading.Thread(target=work) for _ in range(min(jobs, len(tests)))]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            self.stop.set()
            for thread in threads:
                thread.join()
            raise

    def _one(self, session, planned):
        started = time.monotonic()
        t = None
        try:
            t = testing.T(session, planned.info)
            planned.info.function(t)
            status, part, diagnosis = "passed", 1.0, None
        except testing.Stopped:
            return
        except testing.Failed as failed:
            status, part, diagnosis = "failed", t.part, self._failed(t, failed)
        except testing.Forbidden as act:
            status, part, diagnosis = "failed", 0.0, self._forbidden(act)
        except BuildError as error:
            self._cannot_build(error)
            self.stop.set()
            return
        except LabError as error:
            status, part, diagnosis = "error", 0.0, self.diagnose("GRADER_FAILED", {"message": str(error)})
        except Exception as error:
            status, part, diagnosis = self._broke(t, error)
        if status == "failed" and part > 0:
            status = "partial"
        if diagnosis is None and status != "passed":
            return
        planned.seconds, planned.score = time.monotonic() - started, round(planned.points * part, 3)
        planned.diagnosis, planned.output = diagnosis, output_of(t)
        planned.traces = [run.trace.path for run in t.runs] if t else []
        planned.status = status
        self.tell()

    def _failed(self, t, failed):
        """A hole that nobody has filled explains what came of it."""
        hole = t.hole()
        try:
            if hole and failed.id not in ("TIMED_OUT", "CRASHED", "OUTPUT_FLOOD"):
                return self.diagnose("STILL_A_HOLE", {"what": hole})
            return self.diagnose(failed.id, failed.seen)
        except LabError as error:
            self.failure = self.failure or error
            return None

    def _forbidden(self, act):
        self.verdict = self.diagnose(act.id, act.seen)
        self.stop.set()
        return self.verdict

    def _broke(self, t, error):
        """The test itself fell over: a hole's echo when there is one, else a fault of the test."""
        if os.environ.get("HVLAB_DEBUG"):
            traceback.print_exc()
        hole = t.hole() if t else None
        if hole:
            return "failed", t.part, self.diagnose("STILL_A_HOLE", {"what": hole})
        last = traceback.extract_tb(error.__traceback__)[-1]
        message = f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}, line {last.lineno})"
        return "error", 0.0, self.diagnose("GRADER_FAILED", {"message": message})

    def _keep(self, scratch):
        """The records of this grading stay until the next, for hvlab view."""
        folder = os.path.join(self.tree.state, "last", f"lab{self.lab.number:02d}")
        records = os.path.join(scratch, "records")
        if not os.path.isdir(records) or not self.tree.remembers:
            return
        try:
            shutil.rmtree(folder, ignore_errors=True)
            os.makedirs(folder)
            for name in sorted(os.listdir(records)):
                if name.endswith((".trace", ".trace.mem")):
                    shutil.move(os.path.join(records, name), os.path.join(folder, name))
        except OSError:
            pass  # a grading is worth more than its records


def output_of(t):
    """What the program printed in the last run, the errors first."""
    if not t or not t.runs:
        return ""
    run = t.runs[-1]
    text = (run.stderr + run.stdout).decode(errors="replace")
    return text[:OUTPUT_KEPT]
