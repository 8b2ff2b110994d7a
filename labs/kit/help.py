"""hvlab hint and hvlab explain: help that is given in steps, and the mistakes that are known by name.

Texts are in labNN/hints.ini and labNN/diagnoses.ini (the kit's own: kit/diagnoses.ini); README.md tells their form.
Nothing is graded here: what failed comes from the last grading's result. How many hints of a task were told is kept in
a small file of the work folder; a student who deletes it starts again, which is no harm.
"""
import difflib
import json
import os
import re
import shutil
import textwrap

from kit import lab as labs
from kit.report import clean, replace_file


def wrap(text, indent=""):
    width = min(shutil.get_terminal_size((100, 24)).columns, 100) - 1
    return textwrap.fill(clean(" ".join(text.split())), width, initial_indent=indent, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)


# --- explain ------------------------------------------------------------------------------------------------------------
def without_braces(text):
    """{base:#x} has nothing to fill it here: <base>. Doubled braces are braces."""
    text = re.sub(r"(?<!\{)\{(\w+)[^{}]*\}(?!\})", r"<\1>", text)
    return text.replace("{{", "{").replace("}}", "}")


def where(entry):
    return f"lab {entry.lab}" if entry.lab else "any lab"


def list_diagnoses(known):
    lines, last = [], 0
    for entry in sorted(known.values(), key=lambda e: (e.lab or 0, e.id)):
        if entry.lab != last:
            last = entry.lab
            lines.append(f"{where(entry).capitalize()}:")
        lines.append(f"  {entry.id}")
    return "\n".join(lines + ["hvlab explain ID tells what one of them means."])


def near(ident, known):
    """Names that may have been meant: misspelt, or a part of one."""
    part = [i for i in sorted(known) if len(ident) > 2 and ident in i]
    return list(dict.fromkeys(difflib.get_close_matches(ident, sorted(known), 4, 0.6) + part))[:6]


def explain(tree, ident=None, last=()):
    """(text, exit status) of `hvlab explain [ID]`. last: results of the last gradings, to tell what was seen there."""
    known = labs.all_diagnoses(tree)
    if not ident:
        return list_diagnoses(known), 0
    wanted = ident.strip().upper().replace("-", "_")
    if wanted not in known:
        close = near(wanted, known)
        meant = f"Did you mean {' or '.join(close)}?" if close else "hvlab explain lists them all."
        return f"There is no diagnosis {clean(ident)[:60]}. {meant}", 1
    entry = known[wanted]
    lines = [f"{wanted} ({where(entry)})", "", "What was seen:", wrap(without_braces(entry.seen), "  ")]
    for test, diagnosis in seen_before(last, wanted):
        lines.append(wrap(f"In your last grading, {test}: {diagnosis['seen']}", "  "))
    lines += ["", "Why:", wrap(without_braces(entry.why), "  "),
              "", "Read:", wrap(without_braces(entry.read), "  ")]
    return "\n".join(lines), 0


def seen_before(results, ident):
    """(where, diagnosis) of each time that the last gradings gave it; three are enough."""
    found = []
    for result in results:
        if result["verdict"] and result["verdict"]["id"] == ident:
            found.append((f"lab {result['lab']}", result["verdict"]))
        found += [(f"lab {result['lab']}, '{test['title']}'", test["diagnosis"]) for test in result["tests"]
                  if test["diagnosis"] and test["diagnosis"]["id"] == ident]
    return found[:3]


# --- hint ---------------------------------------------------------------------------------------------------------------
def state_path(tree, number):
    return os.path.join(tree.state, f"hints-lab{number:02d}.json")


def read_state(path):
    """{task: number of hints told}. A damaged file counts as none."""
    try:
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        return {int(task): max(0, int(told)) for task, told in state["told"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def failing(result):
    """Tests of a result that a student can see fail, in order."""
    return [t for t in result["tests"] if t["status"] != "passed" and not t["extra"] and not t["hidden"]]


def pick_task(result, known):
    """(task, why this one) for the last result; task None when there is nothing to hint at."""
    if result is None:
        first = min(known, default=None)
        return first, "Nothing was graded yet, so this is for the first task."
    if not result["compile"]["ok"]:
        return None, ("It did not compile when it was graded last; the compiler's first message is the one to read. "
                      "hvlab run shows it again.")
    if result["verdict"]:
        return None, f"The whole lab counted zero: hvlab explain {result['verdict']['id']} tells why."
    failed = failing(result)
    tasks = [t["task"] for t in failed if t["task"]]
    if failed and not tasks:
        return None, "What failed belongs to no one task: " + ", ".join(t["title"] for t in failed)
    if not tasks:
        return None, "Nothing failed in the last grading. The handout has challenges."
    return min(tasks), "It is the first task that failed in the last grading."


def hint(tree, number, result=None, task=None, everything=False):
    """(text, exit status) of `hvlab hint N [--task M] [--all]`. result: of this lab's last grading, or None."""
    known = labs.Lab(tree, number).hints()
    state = state_path(tree, number)
    why = ""
    if task is None:
        task, why = pick_task(result, known)
        if task is None:
            return why, 0
    if task not in known:
        names = ", ".join(map(str, sorted(known))) or "none"
        return f"There are no hints for task {task} of lab {number}; tasks with hints: {names}.", 1
    told = read_state(state)
    count = len(known[task]) if everything else min(told.get(task, 0) + 1, len(known[task]))
    lines = [f"Lab {number}, task {task}. {why}".rstrip()]
    lines += [wrap(f"{i}. {text}", "  ") for i, text in enumerate(known[task][:count], 1)]
    if count == len(known[task]):
        lines.append("That was the last hint of this task.")
    else:
        lines.append(f"The same command once more tells hint {count + 1} of {len(known[task])}.")
    if result:
        names = dict.fromkeys(t["diagnosis"]["id"] for t in failing(result) if t["diagnosis"] and t["task"] == task)
        lines += [f"hvlab explain {name} tells what was seen." for name in names]
    if not everything:
        told[task] = count
        os.makedirs(os.path.dirname(state), exist_ok=True)
        replace_file(state, json.dumps({"told": {str(t): n for t, n in sorted(told.items())}}) + "\n")
    return "\n".join(lines), 0
