#!/usr/bin/env python3
"""hvlab hint and explain: one step further each time, names that are nearly right, and every text of every lab."""
# kvm: none
import importlib.util
import re
import shutil

from labs_staff_lib import *

if not importlib.util.find_spec("kit.lab"):
    skip("the kit is not there")
from kit import help as helping, lab as labs, tree as trees

# A made-up lab beside the kit's own diagnoses.
folder = TMP / "labs/lab01"
folder.mkdir(parents=True)
shutil.copytree(SRC / "labs/kit", TMP / "labs/kit", ignore=shutil.ignore_patterns("__pycache__"))
(folder / "lab.ini").write_text("[lab]\nnumber = 1\ntitle = First exit\nfiles = core/kvm/kvm.c\n[task 1]\ntitle = Open\n"
                                "[task 2]\ntitle = Run\n[points]\nit_opens = 4\n")
(folder / "diagnoses.ini").write_text("[CS_BASE_NOT_RESET]\nseen = CS base was {base:#x}, not {{0}}; 100% sure.\n"
                                      "why = Reset put it there;\n  nobody took it away.\nread = SDM volume 3, 10.1.4\n"
                                      "[RUN_MAP_TOO_SMALL]\nseen = a\nwhy = b\nread = c\n")
(folder / "hints.ini").write_text("[task 1]\n1 = Vague; very.\n2 = Plainer,\n  over two lines.\n3 = Plain.\n"
                                  "[task 2]\n1 = Only this.\n")
tree = trees.Tree(str(TMP / "labs"), str(TMP), False)
DIAGNOSED = made_up()

# --- explain ------------------------------------------------------------------------------------------------------------
text, status = helping.explain(tree, "CS_BASE_NOT_RESET")
check(status == 0 and "CS base was <base>, not {0}; 100% sure." in text, "explain tells what is seen", text)
check("Reset put it there; nobody took it away." in text and "SDM volume 3, 10.1.4" in text, "why, and where to read")
check(helping.explain(tree, " cs-base-not-reset ")[0] == text, "case and dashes don't matter")
text, _ = helping.explain(tree, "CS_BASE_NOT_RESET", [DIAGNOSED])
check("In your last grading, 'It runs'" in text.replace("lab 1, ", "") and "0xffff0000" in text, "and what was seen last time", text)
for wrong in ("CS_BASE_NOT_REST", "CS_BASE", "cs base not reset"):
    text, status = helping.explain(tree, wrong)
    check(status == 1 and "CS_BASE_NOT_RESET" in text, f"{wrong} is nearly right", text)
text, status = helping.explain(tree, "\x1b[2J" * 9)
check(status == 1 and "\x1b" not in text and "lists them all" in text, "nonsense is refused")
text, status = helping.explain(tree)
check(status == 0 and all(name in text for name in ("RUN_MAP_TOO_SMALL", "TIMED_OUT", "Any lab:", "Lab 1:")), "without an id all are listed")


# --- hint ---------------------------------------------------------------------------------------------------------------
def hint(result=None, **more):
    text, status = helping.hint(tree, 1, result, **more)
    check(status == 0, f"hint {more or ''}", text)
    return text, re.findall(r"^  (\d)\. ", text, re.M)


check(hint()[1] == ["1"], "before any grading: the first task's first hint")
text, told = hint(DIAGNOSED)
check(told == ["1", "2"] and "Plainer, over two lines." in text and "hint 3 of 3" in text, "the same again: one step further", text)
check("hvlab explain CS_BASE_NOT_RESET" in text, "it points to what was seen")
check(hint(DIAGNOSED)[1] == ["1", "2", "3"] and "last hint" in hint(DIAGNOSED)[0], "until the last")
check(hint(DIAGNOSED, task=2)[1] == ["1"], "--task has steps of its own")
check(hint(DIAGNOSED, task=1, everything=True)[1] == ["1", "2", "3"], "--all tells all")
later = made_up()
later["tests"] = [dict(t, status="passed") if t["task"] == 1 else t for t in later["tests"]]
check("task 2" in hint(later)[0], "the first task that fails is the one that counts")
fine = made_up()
fine["tests"] = [dict(t, status="passed") for t in fine["tests"] if not t["hidden"]]
check("Nothing failed" in hint(fine)[0], "nothing failed, nothing to hint at")
check("explain CS_BASE_NOT_RESET" in hint(made_up(verdict=DIAGNOSIS))[0], "a verdict is explained instead")
broken = made_up(compile={"ok": False, "warnings": 0, "output": "x"}, verdict=dict(DIAGNOSIS, id="DOES_NOT_COMPILE"))
check("compile" in hint(broken)[0], "and what doesn't compile")
text, status = helping.hint(tree, 1, None, task=7)
check(status == 1 and "1, 2" in text, "a task that isn't there", text)
state = pathlib.Path(helping.state_path(tree, 1))
for damage in ("{", '{"told": 7}', '{"told": {"x": 1}}', '{"told": {"1": -5}}', "[" * 100_000):
    state.write_text(damage)
    check(hint(DIAGNOSED)[1] == ["1"], f"a damaged state counts as none: {damage[:20]}")

# --- the labs themselves --------------------------------------------------------------------------------------------------
here = trees.Tree(str(SRC / "labs"), str(SRC), True)
known = labs.all_diagnoses(here)
for ident, entry in known.items():
    text, status = helping.explain(here, ident)
    check(status == 0 and len(entry.why) > 20 and "{" not in text, f"explain {ident}")
for number in here.numbers():
    lab = labs.Lab(here, number)
    hints = lab.hints()
    check(set(hints) == set(lab.tasks), f"lab {number}: each task has hints", sorted(hints))
    check(all(hints.values()) and sum(map(len, hints.values())) >= 2 * len(hints), f"lab {number}: two on average", {t: len(h) for t, h in hints.items()})
    own = [i for i, e in known.items() if e.lab == number]
    check(len(own) >= 5, f"lab {number}: at least five mistakes are known by name", own)
