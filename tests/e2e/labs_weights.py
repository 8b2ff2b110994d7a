#!/usr/bin/env python3
"""Each lab's files agree: tests and points, hidden points, tasks and the core's marks, diagnoses and mutants, hints."""
# kvm: none
import re

from labs_lib import *

HERE = tree.find()
known = lab.all_diagnoses(HERE)
check(known, "all diagnoses can be read, and none is there twice")
marks = {}
for path in (SRC / "core").rglob("*.c"):
    for region in cut.regions(path.read_text(), str(path)):
        marks.setdefault(region.lab, {}).setdefault(str(path.relative_to(SRC)), set()).add(region.task)

for number in LABS:
    one = lab.Lab(HERE, number)
    planned = grade.plan(one)
    check(planned, f"lab {number}: every test has points, and all points have a test")
    hidden = sum(p.points for p in planned if p.hidden)
    check(hidden == one.hidden_points, f"lab {number}: hidden_points is the sum of hidden.ini", one.hidden_points, hidden)
    check(set(marks.get(number, {})) == set(one.files), f"lab {number}: its files are those with its marks",
          sorted(marks.get(number, {})), sorted(one.files))
    tasks = set().union(*marks[number].values())
    check(tasks <= set(one.tasks), f"lab {number}: each marked region is of a task of lab.ini", tasks, sorted(one.tasks))
    tested = {p.info.task for p in planned if not p.hidden and not p.extra}
    check(set(one.tasks) <= tested, f"lab {number}: each task has a test of its own", set(one.tasks) - tested)
    sources = {name: pathlib.Path(one.folder, name).read_text() for name in ("tests.py", "hidden.py")
               if pathlib.Path(one.folder, name).exists()}
    own = {ident for ident, entry in known.items() if entry.lab == number}
    named = set(re.findall(r"\"([A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+)\"", "".join(sources.values())))
    used = {ident for ident in named if ident in known}
    check(own <= used, f"lab {number}: each of its diagnoses is given by a test", own - used)
    foreign = {ident for ident in used if known[ident].lab not in (None, number)}
    check(not foreign, f"lab {number}: no test gives another lab's diagnosis", foreign)
    check(len(own) >= 5, f"lab {number}: five diagnoses at least", sorted(own))
    if one.hints():
        check(set(one.hints()) == set(one.tasks), f"lab {number}: each task has hints", sorted(one.hints()))
    total = one.max + one.hidden_points
    check(total == 100, f"lab {number}: all points together are 100", total)
    print(f"     lab {number}: {one.max:g} points and {one.hidden_points:g} hidden, {total:g} in all")
