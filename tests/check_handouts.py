#!/usr/bin/env python3
"""Handouts have the sections that labs/README.md names, in their order, and say what the lab's own files say.

Compared are: title, hours and hardness, tasks, the table of points (lab.ini and the tests), the ids of the diagnoses
(diagnoses.ini), and the figure with its text equivalent. A task's gap in the core is at most 40 lines. A lab without a
lab.ini isn't there yet.

    check_handouts.py [--only LAB] [--root DIR]
"""
import argparse
import ast
import configparser
import pathlib
import re
import sys
import xml.etree.ElementTree as ElementTree

HEADINGS = (
    "What you will see at the end", "Hours and hardness", "Deliverables and points", "Required reading", "Figure",
    "Predict, then run", "Tasks", "Exits you should see", "Symptom and cause", "Challenges", "Reflection",
)
TASK_LINES = 40
SVG = "{http://www.w3.org/2000/svg}"


def read_ini(path: pathlib.Path) -> configparser.ConfigParser:
    ini = configparser.ConfigParser(inline_comment_prefixes=(";",), interpolation=None)
    ini.optionxform = str  # names of tests and ids keep their case
    ini.read_string(path.read_text(encoding="utf-8"), source=str(path))
    return ini


def tests_of(path: pathlib.Path) -> dict[str, int]:
    """Name and task of each @test(task=N) function, read from the source; nothing is run."""
    found = {}
    if not path.exists():
        return found
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == "test":
                task = next((k.value.value for k in decorator.keywords
                             if k.arg == "task" and isinstance(k.value, ast.Constant)), None)
                found[node.name] = task
    return found


class Sections:
    """A Markdown file cut at its headings; what stands in a fence is no heading."""

    def __init__(self, text: str):
        self.title, self.intro = "", []
        self.parts: dict[str, list[str]] = {}
        self.order: list[str] = []
        fenced, lines = False, self.intro
        for line in text.splitlines():
            if line.lstrip().startswith("```"):
                fenced = not fenced
            if not fenced and line.startswith("# ") and not self.title:
                self.title = line[2:].strip()
            elif not fenced and line.startswith("## "):
                name = line[3:].strip()
                self.order.append(name)
                lines = self.parts.setdefault(name, [])
            else:
                lines.append(line)

    def text(self, name: str) -> str:
        return "\n".join(self.parts.get(name, []))


def rows(text: str) -> list[list[str]]:
    """The rows of the Markdown tables in text, without heads and rules."""
    found, before = [], None
    for line in text.splitlines():
        if not line.lstrip().startswith("|"):
            before = None
            continue
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
        if all(re.fullmatch(r":?-+:?", c) for c in cells):
            before = "rule"
        elif before == "rule":
            found.append(cells)
    return found


class Handout:
    def __init__(self, root: pathlib.Path, number: int):
        self.root, self.number = root, number
        self.name = f"lab{number:02d}"
        self.folder = root / "labs" / self.name
        self.path = root / "docs/labs" / f"{self.name}.md"
        self.bad: list[str] = []

    def complain(self, text: str):
        self.bad.append(f"docs/labs/{self.name}.md: {text}")

    def need(self, ok, text: str):
        if not ok:
            self.complain(text)

    def check(self) -> list[str]:
        if not self.path.exists():
            self.complain("is missing, though the lab is there")
            return self.bad
        text = self.path.read_text(encoding="utf-8")
        self.ini = read_ini(self.folder / "lab.ini")
        self.sections = Sections(text)
        self.check_form(text)
        self.check_points()
        self.check_tasks()
        self.check_ids()
        self.check_figure()
        return self.bad

    def check_form(self, text: str):
        lab, s = self.ini["lab"], self.sections
        self.need(s.title == f"Lab {self.number}: {lab['title']}", f"its title is not 'Lab {self.number}: {lab['title']}'")
        self.need("".join(s.intro).strip(), "no sentence below the title")
        if tuple(s.order) != HEADINGS:
            for wanted, found in zip(HEADINGS, s.order + [""] * len(HEADINGS)):
                if wanted != found:
                    self.complain(f"'## {wanted}' is expected where '## {found}' stands")
                    break
            else:
                self.complain(f"there are more sections than labs/README.md names: {s.order[len(HEADINGS):]}")
        for name in HEADINGS:
            self.need(s.text(name).strip(), f"'{name}' is empty")
        self.need("```" in s.text(HEADINGS[0]), "no transcript at the beginning")
        hours = f"{lab['hours']} hour{'' if lab['hours'] == '1' else 's'}, {lab['hardness']}."
        self.need(s.text("Hours and hardness").strip().startswith(hours), f"hours and hardness don't begin '{hours}'")
        for number, line in enumerate(text.splitlines(), 1):
            self.need("\u2014" not in line, f"line {number}: a dash that is none of this house's")

    def check_points(self):
        """task N | file | points, a row each; then hidden, sum and, where there are some, extra."""
        points = {k: float(v) for k, v in self.ini["points"].items()}
        tests = tests_of(self.folder / "tests.py")
        numbers = self.task_numbers()
        want = [str(sum(p for t, p in points.items() if tests.get(t) == n)) for n in numbers]
        hidden = float(self.ini["lab"].get("hidden_points", "0"))
        want += [str(hidden), str(sum(points.values()) + hidden)]
        labels = [str(n) for n in numbers] + ["hidden", "sum"]
        if self.ini.has_section("extra") and len(self.ini["extra"]):
            want.append(str(sum(float(v) for v in self.ini["extra"].values())))
            labels.append("extra")
        table = rows(self.sections.text("Deliverables and points"))
        if len(table) != len(labels):
            self.complain(f"the table of points has {len(table)} rows, not {len(labels)} ({', '.join(labels)})")
            return
        for label, points_wanted, row in zip(labels, want, table):
            first = row[0].lower()
            named = re.search(rf"\b{label}\b", first) if label.isdigit() else label in first
            number = re.search(r"\d+(\.\d+)?", row[-1])
            self.need(named, f"the row '{row[0]}' of the points should be that of {label}")
            self.need(number and float(number[0]) == float(points_wanted),
                      f"{label}: {row[-1]} points here, {float(points_wanted):g} by lab.ini")

    def task_numbers(self) -> list[int]:
        return [int(s.split()[1]) for s in self.ini.sections() if s.startswith("task ")]

    def check_tasks(self):
        text = self.sections.text("Tasks")
        parts = re.split(r"^### ", text, flags=re.M)[1:]
        want = [f"Task {n}: {self.ini[f'task {n}']['title']}" for n in self.task_numbers()]
        have = [p.splitlines()[0].strip() for p in parts]
        self.need(have == want, f"the tasks are {have}, by lab.ini {want}")
        tested = set(tests_of(self.folder / "tests.py").values())
        for number, part in zip(self.task_numbers(), parts):
            command = f"hvlab grade {self.number} --task {number}"
            self.need(command in part, f"task {number} doesn't say `{command}`")
            self.need(number in tested, f"task {number} has no test of its own")
        for path in self.ini["lab"]["files"].split():
            self.check_gaps(self.root / path)

    def check_gaps(self, path: pathlib.Path):
        lines: dict[str, int] = {}
        task = None
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
            if mark := re.search(r"hv:solution lab=\d+ task=(\d+)", line):
                task = mark[1]
            elif "hv:end" in line:
                task = None
            elif task:
                lines[task] = lines.get(task, 0) + 1
        for task, count in lines.items():
            self.need(count <= TASK_LINES, f"task {task} asks for {count} lines of {path.name}, more than {TASK_LINES}")

    def check_ids(self):
        path = self.folder / "diagnoses.ini"
        ids = read_ini(path).sections() if path.exists() else []
        self.need(len(ids) >= 5, f"the lab has {len(ids)} diagnoses, fewer than five")
        named = [i for row in rows(self.sections.text("Symptom and cause")) for i in re.findall(r"`([A-Z][A-Z0-9_]+)`", row[-1])]
        for name in ids:
            self.need(named.count(name) == 1, f"{name} stands {named.count(name)} times under symptom and cause, not once")
        for name in sorted(set(named) - set(ids)):
            self.complain(f"{name} is no diagnosis of this lab")

    def check_figure(self):
        text = self.sections.text("Figure")
        found = re.search(r"!\[([^\]]+)\]\(([^)\s]+)\)", text)
        self.need(found and found[2] == f"{self.name}.svg", f"no figure ![what it shows]({self.name}.svg)")
        self.need("**In words.**" in text, "the figure has no text equivalent (**In words.**)")
        path = self.path.with_suffix(".svg")
        if path.exists():
            self.bad += check_svg(path, self.root)
        else:
            self.complain(f"{path.name} is missing")


def check_svg(path: pathlib.Path, root: pathlib.Path) -> list[str]:
    """A title, a description, a viewBox; nothing active, nothing from elsewhere."""
    name, bad = path.relative_to(root), []
    try:
        svg = ElementTree.fromstring(path.read_text(encoding="utf-8"))
    except ElementTree.ParseError as error:
        return [f"{name}: {error}"]
    if svg.tag != f"{SVG}svg" or "viewBox" not in svg.attrib:
        bad.append(f"{name}: no svg with a viewBox")
    for tag in ("title", "desc"):
        node = svg.find(f"{SVG}{tag}")
        if node is None or not (node.text or "").strip():
            bad.append(f"{name}: <{tag}> is missing or empty")
    for node in svg.iter():
        if node.tag in (f"{SVG}script", f"{SVG}foreignObject", f"{SVG}image"):
            bad.append(f"{name}: <{node.tag.rpartition('}')[2]}> has no place in a figure")
        for key, value in node.attrib.items():
            if key.lower().startswith("on") or (key.endswith("href") and not value.startswith("#")):
                bad.append(f"{name}: {key}=\"{value}\" is active or leads away")
    if re.search(r"@import|url\(\s*['\"]?(?!#)", path.read_text(encoding="utf-8")):
        bad.append(f"{name}: its style loads something")
    return bad


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=pathlib.Path, default=pathlib.Path(__file__).resolve().parent.parent)
    parser.add_argument("--only", type=int, metavar="LAB")
    args = parser.parse_args()
    bad, seen = [], 0
    for number in range(1, 13):
        handout = Handout(args.root.resolve(), number)
        if (args.only or number) == number and (handout.folder / "lab.ini").exists():
            bad += handout.check()
            seen += 1
    done = {args.root.resolve() / "docs/labs" / f"lab{n:02d}.svg" for n in range(1, 13)}
    for path in sorted((args.root.resolve() / "docs").rglob("*.svg")):
        if path not in done:
            bad += check_svg(path, args.root.resolve())
    print("\n".join(bad) if bad else f"{seen} handouts agree with their labs")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
