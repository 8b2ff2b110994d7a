"""What `hvlab grade` and `hvlab list` print for people. A failure is told in words; colour only helps."""
import shutil
import textwrap

from kit.report import clean, number

CODES = {"passed": 32, "partial": 33, "failed": 31, "error": 35, "bold": 1, "dim": 2}
MARKS = {"passed": "ok", "partial": "part", "failed": "no", "error": "error"}


class Paint:
    def __init__(self, colour):
        self.colour = colour

    def __call__(self, text, kind):
        return f"\033[{CODES[kind]}m{text}\033[0m" if self.colour else text


def width():
    return min(shutil.get_terminal_size((100, 24)).columns, 110)


def wrapped(label, text, indent):
    head = " " * indent + label
    return textwrap.fill(clean(text), width(), initial_indent=head, subsequent_indent=" " * (indent + 6),
                         break_long_words=False, break_on_hyphens=False)


def diagnosis(entry, paint, indent=9, full=True):
    """The mistake by its name; in full, or what was seen alone."""
    if not full:
        return wrapped("", f"{entry['id']}: {entry['seen']}", indent)
    lines = [" " * indent + paint(entry["id"], "bold"), wrapped("seen  ", entry["seen"], indent),
             wrapped("why   ", entry["why"], indent), wrapped("read  ", entry["read"], indent)]
    return "\n".join(lines)


def points(score, full):
    return f"{number(score)}/{number(full)}"


def test_line(test, paint):
    mark = paint(f"{MARKS[test['status']]:5}", test["status"])
    tail = " (hidden)" * test["hidden"] + " (challenge)" * test["extra"]
    return f"    {mark} {points(test['score'], test['max']):>7}  {clean(test['title'])}{tail}"


class Report:
    """One lab's result as text: the first mistake in full, the others in a line."""

    def __init__(self, result, colour, warning=None, my_own=False, whole=False):
        self.result, self.paint, self.warning, self.my_own = result, Paint(colour), warning, my_own
        self.whole = whole
        self.told = set()

    def text(self):
        result = self.result
        lines = [self.paint(f"Lab {result['lab']}: {result['title']}", "bold")
                 + self.paint(f"   seed {result['seed']}, user {clean(result['user'] or '?')}"
                              + (f", term {result['term']}" if result["term"] else ""), "dim")]
        if result["verdict"]:
            lines += self.zero()
        else:
            lines += self.warnings() + self.tasks() + self.beside()
        return "\n".join(lines + self.total() + self.next())

    def zero(self):
        result = self.result
        lines = [diagnosis(result["verdict"], self.paint, 2)]
        if result["compile"]["output"]:
            lines += ["", *("    " + clean(line) for line in result["compile"]["output"].splitlines()[:25])]
        return lines

    def warnings(self):
        if not self.warning:
            return []
        shown = self.result["compile"]["output"].splitlines()[:12]
        return [diagnosis(self.warning, self.paint, 2), *("    " + clean(line) for line in shown), ""]

    def tests(self, tests, brief=False):
        """brief: in one line each, as nobody need have tried them."""
        lines = []
        for test in tests:
            lines.append(test_line(test, self.paint))
            entry = test["diagnosis"]
            if entry and test["status"] != "passed":
                full = self.whole or not (self.told or brief)
                if (entry["id"], entry["seen"]) in self.told and entry["id"] != "STILL_A_HOLE" and not self.whole:
                    lines.append(wrapped("", f"{entry['id']}, as above", 18))
                elif entry["id"] not in {told for told, _ in self.told} or self.whole or entry["id"] != "STILL_A_HOLE":
                    lines.append(diagnosis(entry, self.paint, 18, full))
                self.told.add((entry["id"], entry["seen"]))
                if full and test["output"].strip() and not test["hidden"]:
                    lines += [" " * 18 + "it printed: " + clean(line) for line in test["output"].splitlines()[-3:]]
        return lines

    def tasks(self):
        lines = []
        for task in self.result["tasks"]:
            tests = [t for t in self.result["tests"]
                     if t["task"] == task["number"] and not t["extra"] and not t["hidden"]]
            if tests:
                lines.append(f"  Task {task['number']}: {task['title']}   {points(task['score'], task['max'])}")
                lines += self.tests(tests)
        return lines

    def beside(self):
        lines = []
        numbers = {task["number"] for task in self.result["tasks"]}
        for title, keep in (("Beside the tasks", lambda t: not t["hidden"] and not t["extra"] and t["task"] not in numbers),
                            ("Hidden tests", lambda t: t["hidden"]), ("Challenges", lambda t: t["extra"])):
            tests = [t for t in self.result["tests"] if keep(t)]
            if tests:
                lines += [f"  {title}", *self.tests(tests, brief=title == "Challenges")]
        return lines

    def total(self):
        result = self.result
        text = f"  {number(result['score'])} of {number(result['max'])} points"
        if result["extra"]:
            text += f", {number(result['extra'])} extra"
        if result["hidden_withheld"]:
            text += f" ({number(result['hidden_withheld'])} more are for hidden tests)"
        if not result["complete"]:
            text += ", but the grading did not end"
        return [self.paint(text, "bold") + self.paint(f"   in {result['duration_s']:.1f} s", "dim")]

    def next(self):
        """What to do now."""
        result, lab = self.result, self.result["lab"]
        failed = [t for t in result["tests"] if t["status"] != "passed" and not t["hidden"] and not t["extra"]]
        if result["verdict"]:
            return [f"  next: hvlab explain {result['verdict']['id']}"]
        if not failed:
            return [f"  next: hvlab submit {lab}, or the challenges of docs/labs/lab{lab:02d}.md"]
        first = failed[0]
        lines = [f"  next: hvlab hint {lab}" + (f" --task {first['task']}" if first["task"] else "")]
        if first["diagnosis"]:
            lines.append(f"        hvlab explain {first['diagnosis']['id']}")
        lines.append(f"        hvlab view {lab}:{first['name']}     the exits of that test")
        return lines
