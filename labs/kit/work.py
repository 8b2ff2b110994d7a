"""The work folder: giving out starters, and what a student changed since."""
import difflib
import os
import shutil
import sys

from kit.show import Paint

DONE, FAILED = 0, 1


def memory(tree, lab, what):
    """Where copies of a lab's files are remembered: as they were given out, or as they were graded last."""
    return os.path.join(tree.state, what, f"lab{lab.number:02d}")


def remember(tree, lab, what):
    """Keeps copies of the work folder's files; a tree that can't be written to remembers nothing."""
    try:
        for name in lab.files:
            source, target = os.path.join(tree.work, name), os.path.join(memory(tree, lab, what), name)
            if os.path.isfile(source) and not os.path.islink(source):
                os.makedirs(os.path.dirname(target), exist_ok=True)
                shutil.copyfile(source, target)
    except OSError:
        pass


def put(source, target):
    """A copy under its final name, never a half one."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, f"{target}.new")
    os.replace(f"{target}.new", target)


def backup_name(path):
    name, count = f"{path}.bak", 1
    while os.path.lexists(name):
        name, count = f"{path}.bak{count}", count + 1
    return name


def start(tree, lab, again):
    tree.need_handout()
    if tree.in_repo and tree.work == tree.root:
        print("hvlab: in the repository the work folder is the core itself; give another (HVLAB_WORK=DIR)", file=sys.stderr)
        return FAILED
    there = [name for name in lab.files if os.path.lexists(os.path.join(tree.work, name))]
    if there and not again:
        print(f"hvlab: {', '.join(os.path.join(tree.work, name) for name in there)}: you have that already; "
              "--again begins anew and keeps yours beside it", file=sys.stderr)
        return FAILED
    for name in lab.files:
        target = os.path.join(tree.work, name)
        if os.path.lexists(target):
            kept = backup_name(target)
            os.rename(target, kept)
            print(f"{kept}: what you had")
        put(os.path.join(tree.starters, name), target)
        print(target)
    remember(tree, lab, "start")
    if lab.hours:
        print(f"Lab {lab.number}, {lab.title}: about {lab.hours} hours. Next: docs/labs/lab{lab.number:02d}.md")
    return DONE


def lines_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines(keepends=True)
    except FileNotFoundError:
        return None


def diff(tree, lab, last, colour):
    """What changed since the start (or the last grading): 0, whether or not anything did."""
    paint, since = Paint(colour), "graded" if last else "start"
    for name in lab.files:
        before = lines_of(os.path.join(memory(tree, lab, since), name))
        if before is None and not last:
            before = lines_of(os.path.join(tree.starters, name))
        now = lines_of(os.path.join(tree.work, name))
        if before is None or now is None:
            what = f"{tree.work} has no {name}; hvlab start {lab.number}" if now is None else \
                f"{name} was never graded; hvlab grade {lab.number}"
            print(f"hvlab: {what}", file=sys.stderr)
            return FAILED
        label = "at the last grading" if last else "at the start"
        for line in difflib.unified_diff(before, now, f"{name} ({label})", f"{name} (now)"):
            text = line.rstrip("\n")
            kind = "passed" if text.startswith("+") else "failed" if text.startswith("-") else None
            print(paint(text, kind) if kind else text)
    return DONE
