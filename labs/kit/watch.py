"""`hvlab watch N`: grades again whenever a file of the lab is saved, until Ctrl-C or its limit."""
import os
import time

from kit import tree as trees
from kit.grading import DONE, FAILED, full_marks, grade_one

LOOK = 0.2  # seconds between two looks: a person saves, looks up, and should see it run
SETTLE = 0.1  # editors write in several steps


def stamps(tree, lab):
    """What changes when a file is saved, also by a rename."""
    found = []
    for name in lab.files:
        try:
            info = os.stat(os.path.join(tree.work, name))
            found.append((info.st_mtime_ns, info.st_size, info.st_ino))
        except OSError:
            found.append(None)
    return found


def wait(tree, lab, before, until):
    """The new stamps after a change that has come to rest; None when the limit is over."""
    while time.monotonic() < until:
        now = stamps(tree, lab)
        if now != before:
            time.sleep(SETTLE)
            if stamps(tree, lab) == now:
                return now
        time.sleep(LOOK)
    return None


def main(tree, lab, options):
    from kit.show import Report
    tree.need_handout()
    until, done, status = time.monotonic() + options.limit, 0, FAILED
    options.only = None
    before = stamps(tree, lab)
    while True:
        if trees.colour():
            print("\033[2J\033[H", end="")
        grading, result = grade_one(tree, lab, options)
        print(Report(result, trees.colour(), grading.warning, options.my_own).text(), flush=True)
        status, done = DONE if full_marks(result) else FAILED, done + 1
        if done == options.times:
            return status
        print(f"  waiting for {', '.join(lab.files)} to be saved (Ctrl-C ends)", flush=True)
        before = wait(tree, lab, before, until)
        if before is None:
            return status
