"""What the tests of the lab kit share: the tree that make built, solutions as submissions, gradings in this process."""
import os
import pathlib
import shutil
import sys

from labs_staff_lib import BUILD, SKIP, SRC, STRETCH, TMP, check, run, skip, validate  # noqa: F401

SAN = os.environ.get("HV_SAN", "")
if "thread" in SAN:
    skip("ThreadSanitizer starts its program twice, which the recorder's sandbox forbids")
if SAN:
    os.environ["ASAN_OPTIONS"] = "detect_leaks=0"  # its search for leaks stops the program as a debugger would
os.environ["BUILD"] = str(BUILD)
os.environ["HVLAB_HANDOUT"] = str(BUILD / "handout")

from kit import cut, grade, lab, tree  # noqa: E402

LABS = tree.find().numbers()


def solution(number, folder):
    """The lab's files of the core, as a submission below folder."""
    for name in lab.Lab(tree.find(), number).files:
        target = pathlib.Path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(SRC / name, target)
    return pathlib.Path(folder)


def starter(number, folder):
    here = tree.find()
    for name in lab.Lab(here, number).files:
        target = pathlib.Path(folder, name)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(pathlib.Path(here.starters, name), target)
    return pathlib.Path(folder)


def graded(number, folder, **more):
    """The result of grading what is below folder, hidden tests included."""
    here = tree.find()
    here.work = str(folder)
    return grade.Grading(here, lab.Lab(here, number), **more).run()


def losers(result):
    """Names of tests without full points."""
    return {t["name"] for t in result["tests"] if t["score"] < t["max"]}


def ids(result):
    """{test: id} of what was named; the verdict under an empty name."""
    found = {t["name"]: t["diagnosis"]["id"] for t in result["tests"] if t["diagnosis"]}
    return {"": result["verdict"]["id"], **found} if result["verdict"] else found


def story(result):
    """A result in short, for a failure."""
    lines = [f"{result['score']} of {result['max']}, seed {result['seed']}"]
    if result["verdict"]:
        lines.append(f"{result['verdict']['id']}: {result['verdict']['seen']}")
    if not result["compile"]["ok"]:
        lines.append(result["compile"]["output"][:1500])
    for t in result["tests"]:
        if t["diagnosis"]:
            lines.append(f"{t['name']} {t['score']}/{t['max']}: {t['diagnosis']['id']}: {t['diagnosis']['seen']}")
    return "\n    ".join(lines)
