"""Reads what a lab says of itself: lab.ini, hidden.ini, diagnoses.ini, hints.ini, and the term's term.ini.

A teacher edits these files by hand, so each mistake is told as a sentence with the file's name, never as a trace of
Python. labs/README.md describes the formats.
"""
import configparser
import os
import re
import string

ID = re.compile(r"^[A-Z][A-Z0-9]*(_[A-Z0-9]+)*$")
HARDNESS = ("easy", "moderate", "hard", "very hard")


class LabError(Exception):
    """Something in a lab's files is wrong; says what, and in which file."""


def read_ini(path, comments=True):
    """A file as {section: {key: text}}; keys keep their case. Empty when there is no file."""
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=True,
                                       comment_prefixes=("#", ";"), default_section="\0",
                                       inline_comment_prefixes=(";",) if comments else None)
    parser.optionxform = str
    try:
        with open(path, encoding="utf-8") as file:
            parser.read_file(file, source=path)
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise LabError(f"{path}: {' '.join(str(error).split())}") from None
    return {section: dict(parser[section]) for section in parser.sections()}


def number(text, path, what, least=0.0):
    try:
        value = float(text)
    except (TypeError, ValueError):
        raise LabError(f"{path}: {what} is '{text}'; a number is wanted") from None
    if not least <= value < 1e6:
        raise LabError(f"{path}: {what} is {text}; it must be {least:g} or more")
    return value


class Diagnosis:
    """A mistake known by name. seen has braces that a test fills."""

    def __init__(self, ident, fields, path, lab):
        self.id, self.lab, self.path = ident, lab, path
        self.seen, self.why, self.read = (" ".join(fields.get(key, "").split()) for key in ("seen", "why", "read"))
        self.task = int(number(fields["task"], path, f"[{ident}] task", 1)) if fields.get("task") else None

    def filled(self, seen):
        """The dict that results carry. What the text asks for and the test didn't tell is shown as a question mark."""
        try:
            text = string.Formatter().vformat(self.seen, (), Unknown(seen))
        except (ValueError, TypeError, KeyError, AttributeError, IndexError):
            text = self.seen + " (" + ", ".join(f"{key}={value}" for key, value in seen.items()) + ")"
        return {"id": self.id, "seen": text, "why": self.why, "read": self.read}


class Unknown(dict):
    """The values of a text's braces; one that is missing or None prints as a question mark, whatever its format."""

    class Mark:
        def __format__(self, spec):
            return "?"

        def __getattr__(self, name):
            return self

        def __getitem__(self, key):
            return self

    def __missing__(self, key):
        return self.Mark()

    def __getitem__(self, key):
        value = super().get(key)
        return self.Mark() if value is None else value


def read_diagnoses(path, lab):
    """{id: Diagnosis} of a file."""
    found = {}
    for ident, fields in read_ini(path, comments=False).items():
        if not ID.match(ident):
            raise LabError(f"{path}: [{ident}] is no id; ids are like CS_BASE_NOT_RESET")
        for key in ("seen", "why", "read"):
            if not fields.get(key, "").strip():
                raise LabError(f"{path}: [{ident}] has no '{key}'")
        for key in fields:
            if key not in ("seen", "why", "read", "task", "title"):
                raise LabError(f"{path}: [{ident}] has '{key}', which nothing reads")
        try:
            list(string.Formatter().parse(fields["seen"]))
        except ValueError as error:
            raise LabError(f"{path}: [{ident}] seen: {error}") from None
        found[ident] = Diagnosis(ident, fields, path, lab)
    return found


class Lab:
    """One lab: what its files say."""

    def __init__(self, tree, num):
        self.tree, self.number = tree, num
        self.folder = tree.lab_folder(num)
        self.path = os.path.join(self.folder, "lab.ini")
        if not os.path.exists(self.path):
            raise LabError(f"there is no lab {num} here")
        ini = read_ini(self.path)
        head = self._section(ini, "lab")
        if int(number(head.get("number"), self.path, "[lab] number", 1)) != num:
            raise LabError(f"{self.path}: [lab] number is not {num}")
        self.title = head.get("title", "").strip()
        self.files = head.get("files", "").split()
        self.hours = head.get("hours", "").strip()
        self.hardness = head.get("hardness", "").strip()
        self.guest = head.get("guest", "hello.bin").strip()
        self.hidden_points = number(head.get("hidden_points", "0"), self.path, "[lab] hidden_points")
        self._check_head()
        self.tasks = self._tasks(ini)
        self.points = self._points(ini.get("points", {}), "points", self.path)
        self.extra = self._points(ini.get("extra", {}), "extra", self.path)
        self.baseline = number(ini.get("baseline", {}).get("score", "0"), self.path, "[baseline] score")
        hidden_path = os.path.join(self.folder, "hidden.ini")
        self.has_hidden = os.path.exists(os.path.join(self.folder, "hidden.py"))
        self.hidden = self._points(read_ini(hidden_path).get("points", {}), "points", hidden_path)
        self._diagnoses = None

    def _section(self, ini, name):
        if name not in ini:
            raise LabError(f"{self.path}: there is no [{name}]")
        return ini[name]

    def _check_head(self):
        if not self.title:
            raise LabError(f"{self.path}: [lab] has no title")
        if not self.files:
            raise LabError(f"{self.path}: [lab] files names no file")
        for name in self.files:
            if os.path.isabs(name) or ".." in name.split("/") or not name.endswith(".c"):
                raise LabError(f"{self.path}: [lab] files: '{name}' is no source file below the work folder")
        if self.hardness and self.hardness not in HARDNESS:
            raise LabError(f"{self.path}: [lab] hardness is '{self.hardness}'; it is one of {', '.join(HARDNESS)}")

    def _tasks(self, ini):
        tasks = {}
        for section, fields in ini.items():
            if section.startswith("task "):
                num = int(number(section[5:], self.path, f"[{section}]", 1))
                tasks[num] = fields.get("title", "").strip()
                if not tasks[num]:
                    raise LabError(f"{self.path}: [{section}] has no title")
            elif section not in ("lab", "points", "extra", "baseline"):
                raise LabError(f"{self.path}: [{section}] is nothing that a lab has")
        return dict(sorted(tasks.items()))

    @staticmethod
    def _points(fields, section, path):
        return {name: number(text, path, f"[{section}] {name}") for name, text in fields.items()}

    @property
    def max(self):
        """The full mark, without hidden tests and challenges."""
        return sum(self.points.values())

    @property
    def diagnoses(self):
        """{id: Diagnosis}: the lab's own and the kit's."""
        if self._diagnoses is None:
            known = read_diagnoses(os.path.join(self.tree.kit, "diagnoses.ini"), None)
            known.update(read_diagnoses(os.path.join(self.folder, "diagnoses.ini"), self.number))
            self._diagnoses = known  # whole at once: tests run side by side
        return self._diagnoses

    def hints(self):
        """{task: [hint, ...]} from vague to plain."""
        path = os.path.join(self.folder, "hints.ini")
        found = {}
        for section, fields in read_ini(path, comments=False).items():
            if not section.startswith("task "):
                raise LabError(f"{path}: [{section}] is no task")
            task = int(number(section[5:], path, f"[{section}]", 1))
            if task not in self.tasks:
                raise LabError(f"{path}: [{section}]: {self.path} has no such task")
            ordered = sorted(fields, key=lambda key: number(key, path, f"[{section}] {key}", 1))
            found[task] = [" ".join(fields[key].split()) for key in ordered]
        return found


def load_all(tree):
    return [Lab(tree, num) for num in tree.numbers()]


def task_titles(tree):
    """{(lab, task): title} of all labs, for the starters' comments."""
    return {(lab.number, task): title for lab in load_all(tree) for task, title in lab.tasks.items()}


def all_diagnoses(tree):
    """{id: Diagnosis} of the kit and of all labs."""
    found = read_diagnoses(os.path.join(tree.kit, "diagnoses.ini"), None)
    for num in tree.numbers():
        for ident, diagnosis in read_diagnoses(os.path.join(tree.lab_folder(num), "diagnoses.ini"), num).items():
            if ident in found:
                raise LabError(f"{diagnosis.path}: [{ident}] is also in {found[ident].path}")
            found[ident] = diagnosis
    return found


class Term:
    """labs/term.ini: whose course this is. Seeds of all tests depend on it."""

    def __init__(self, tree):
        path = os.path.join(tree.labs, "term.ini")
        fields = read_ini(path).get("term", {})
        self.name = fields.get("term", "").strip() or None
        self.seed = fields.get("seed", "").strip()
