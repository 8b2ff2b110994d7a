#!/usr/bin/env python3
"""Grades one submission with the staff's tree: what Gradescope's and Autolab's scripts call, and staff by hand.

A submission is an archive of hvlab submit, or a folder that holds one, or the lab's files themselves, under their paths
or side by side. It is hostile: it is read with limits, never followed through a link, and copied into a work folder of
its own; then hvlab grades that one. The report file exists from the first moment on and is replaced as a whole after each
test, so whoever ends the grading early finds what was seen until then.

Status: 0 a report was written (whatever the score), 1 it was not, 2 wrong usage.
"""
import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

LABS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(LABS))
from kit import lab as labs, report, submit, tree as trees  # noqa: E402
from kit.grade import Grading  # noqa: E402

SEED = "course"  # with the term's secret seed and the user's name: each student's own numbers, the same when graded again
TIME_LIMIT = 240  # seconds for one lab, which takes 3: the kit has limits of its own for each run
KINDS = {"gradescope": "results.json", "autolab": "autolab.txt", "junit": "results.xml", "json": "results.json"}


def result_of(lab, user, started, diagnosis=None, problem=""):
    """A result without tests: zero by name, or (complete false) one that never came to be."""
    now = time.time()
    points = lab.max + sum(lab.hidden.values())
    return {"format": "hvlab-result-1", "complete": diagnosis is not None, "lab": lab.number, "title": lab.title,
            "seed": None, "term": labs.Term(lab.tree).name, "user": user, "started": submit.utc(int(started)),
            "duration_s": round(now - started, 3), "kit": version(lab.tree), "backend": None, "score": 0, "max": points,
            "extra": 0, "hidden_withheld": 0, "compile": {"ok": True, "warnings": 0, "output": problem},
            "tasks": [{"number": n, "title": title, "score": 0, "max": 0} for n, title in lab.tasks.items()],
            "tests": [], "verdict": diagnosis}


def version(tree):
    try:
        return json.loads((Path(tree.lib) / "flags.json").read_text(encoding="utf-8"))["version"]
    except (OSError, ValueError, KeyError):
        return "unknown"


# --- finding the files ----------------------------------------------------------------------------------------------------
def plain(path):
    """A regular file that no link leads to."""
    return path.is_file() and not path.is_symlink()


def archives_in(folder):
    return [p for p in sorted(folder.iterdir()) if plain(p) and p.name.endswith((".tar.gz", ".tgz"))]


def loose_files(folder, files):
    """{path in the tree: bytes} of files that were handed in one by one: under their paths, or by their names alone."""
    found = {}
    for name in files:
        for path in (folder / name, folder / "work" / name, folder / Path(name).name):
            inside = [p for p in (path, *path.parents) if folder in p.parents]
            if any(p.is_symlink() for p in inside):
                raise submit.Unsafe(f"{path.relative_to(folder)} is a symbolic link, or lies behind one")
            if not plain(path):
                continue
            if path.stat().st_size > submit.FILE_LIMIT:
                raise submit.Unsafe(f"{path.name} has {path.stat().st_size} bytes")
            found[name] = path.read_bytes()
            break
        else:
            raise submit.Damaged(f"{Path(name).name} is missing")
    return found


def take(source, lab):
    """(manifest or None, {path in the tree: bytes}) of what was handed in. Raises submit.Unsafe, submit.Damaged, OSError."""
    if source.is_dir():
        packed = archives_in(source)
        if len(packed) > 1:
            raise submit.Damaged("there are several archives; hand in one")
        if not packed:
            return None, loose_files(source, lab.files)
        source = packed[0]
    return submit.read(source, lab.number, lab.files)


# --- grading ------------------------------------------------------------------------------------------------------------
class NoKvm(Exception):
    """Nothing can be graded here."""


class Late(Exception):
    """The limit for all of it has passed."""


def late(*_):
    raise KeyboardInterrupt  # which the kit takes as the wish to stop: it ends what runs, and raises it again


def grade(lab, work, writer, user, limit):
    """Grades the work folder; writer is told after each test. Raises Late."""
    lab.tree.work = str(work)
    signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, limit)
    try:
        Grading(lab.tree, lab, seed=SEED, user=user, listener=writer).run()
    except KeyboardInterrupt:
        raise Late(f"it took longer than {limit:g} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def need_kvm():
    """Raises NoKvm where nothing can be graded: without it every test would fail, and look like the student's mistake."""
    device = os.environ.get("HV_KVM_DEVICE") or "/dev/kvm"
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as e:
        raise NoKvm(f"this machine gives no KVM ({device}: {e.strerror}). It is no fault of the submission") from None


def note(kind, out, text):
    """Says in a Gradescope report what went wrong with the grading itself; other kinds tell it on standard error."""
    if kind != "gradescope":
        return
    told = json.loads(out.read_text(encoding="utf-8"))
    told["output"] = (report.clean(text) + "\n\n" + told.get("output", "")).strip()
    report.replace_file(out, json.dumps(told, indent=1) + "\n")


def run(given):
    tree = trees.find()
    lab = labs.Lab(tree, given.lab)
    started = time.time()
    writer = report.Writer(given.kind, given.out, given.hidden)
    writer(result_of(lab, given.user, started))
    try:
        manifest, files = take(given.submission, lab)
    except submit.Unsafe as e:
        writer(result_of(lab, given.user, started, lab.diagnoses["ARCHIVE_UNSAFE"].filled({"message": str(e)})))
        return None
    except submit.Damaged as e:
        writer(result_of(lab, given.user, started, lab.diagnoses["ARCHIVE_DAMAGED"].filled({"message": str(e)})))
        return None
    user = given.user or (manifest["user"] if manifest else "nobody")
    with tempfile.TemporaryDirectory(prefix="hvlab-") as scratch:
        work = Path(scratch, "work")
        for name, data in files.items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_bytes(data)
        os.environ["HVLAB_STATE"] = str(work / ".hvlab")
        try:
            need_kvm()
            grade(lab, work, writer, user, given.limit)
        except (NoKvm, Late, labs.LabError, trees.TreeError, OSError) as e:
            note(given.kind, given.out, f"The grading did not end: {e}")
            return str(e)
    return None


def main(args=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("submission", type=Path, help="an archive, or a folder with one or with the files")
    parser.add_argument("--lab", type=int, required=True, metavar="N")
    parser.add_argument("--kind", choices=sorted(KINDS), default="json", help="the report's form (json)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the report (results.json and the like, here)")
    parser.add_argument("--user", help="whose it is; without it, the archive's word counts")
    parser.add_argument("--hidden", choices=report.VISIBILITIES, help="who sees hidden tests on Gradescope",
                        default=os.environ.get("HVLAB_HIDDEN") or "after_published")
    parser.add_argument("--limit", type=float, default=TIME_LIMIT, metavar="SECONDS", help=f"for all of it ({TIME_LIMIT})")
    given = parser.parse_args(args)
    given.out = (given.out or Path(KINDS[given.kind])).absolute()
    os.environ["HVLAB_HIDDEN"] = given.hidden
    try:
        problem = run(given)
    except (labs.LabError, trees.TreeError) as e:
        problem = str(e)
    except OSError as e:
        problem = f"{e.filename}: {e.strerror}"
    if problem:
        print(f"grade_submission: {problem}", file=sys.stderr)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
