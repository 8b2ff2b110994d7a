"""Writes a student's tree: `make handout`. Starters, headers, reference objects, the kit, handouts, guests; no solution.

Only make calls this, from the repository, after it has built everything; what was built and with which flags it says by
options. The tree is put together beside its final place and takes it in one step. At the end every text in it is searched
for the solutions' lines: a tree that has any is not handed out.
"""
import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

from kit import cut, lab, tree

STAFF_ONLY = ("hidden.py", "hidden.ini")
KIT_ONLY = ("cut.py", "handout.py")
TEXT_MAX = 4 << 20
WINDOW = 3  # so many lines of a region in a row are a solution's text
TELLING = 60  # when they have so many characters


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def copy(source, target):
    os.makedirs(os.path.dirname(target), exist_ok=True)
    shutil.copyfile(source, target)
    shutil.copymode(source, target)


def files_below(folder):
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if name != "__pycache__")
        for name in sorted(names):
            if not name.endswith((".pyc", "~", ".swp", ".orig", ".rej")):
                yield os.path.relpath(os.path.join(where, name), folder)


def copy_tree(source, target, keep=lambda name: True):
    for name in files_below(source):
        if keep(name):
            copy(os.path.join(source, name), os.path.join(target, name))


class Handout:
    """One tree under way. repo: the repository; out: where the tree is being put together."""

    def __init__(self, options, repo, out):
        self.options, self.repo, self.out = options, repo, out
        self.solutions = {}

    def at(self, *names):
        return os.path.join(self.out, *names)

    def kit(self):
        source = os.path.join(self.repo, "labs")
        copy(os.path.join(source, "hvlab"), self.at("labs", "hvlab"))
        copy_tree(os.path.join(source, "kit"), self.at("labs", "kit"), lambda name: name not in KIT_ONLY)
        for name in sorted(os.listdir(source)):
            if re.fullmatch(r"lab\d\d", name):
                copy_tree(os.path.join(source, name), self.at("labs", name),
                          lambda inside: os.path.basename(inside) not in STAFF_ONLY)
        if os.path.exists(os.path.join(source, "term.ini")):
            copy(os.path.join(source, "term.ini"), self.at("labs", "term.ini"))
        copy_tree(os.path.join(source, "handout"), self.out)
        copy_tree(os.path.join(source, "staff", "tree"), self.out)
        copy(os.path.join(self.repo, "LICENSE"), self.at("LICENSE"))

    def starters(self, titles):
        self.starters_written = 0
        core = os.path.join(self.repo, "core")
        for name in files_below(core):
            path = os.path.join(core, name)
            if name.endswith(".h"):
                copy(path, self.at("core", name))
            elif name.endswith(".c") and (labs := cut.labs_of(text := read(path))):
                self.solutions[f"core/{name}"] = text
                if not set(labs) & {number for number, _ in titles}:  # of a lab that is yet to be written
                    continue
                os.makedirs(os.path.dirname(self.at("starters", "core", name)), exist_ok=True)
                with open(self.at("starters", "core", name), "w", encoding="utf-8") as file:
                    file.write(cut.cut(text, titles, f"core/{name}"))
                self.starters_written += 1

    def objects(self):
        """Each object by itself, without what a debugger would tell of its source."""
        commands = []
        for path in self.options.core_objects:
            commands.append((path, self.at("lib", "core", path.split("/core/", 1)[1])))
        for program, paths in (("rig", self.options.rig_objects), ("hvrun", self.options.hvrun_objects)):
            commands += [(path, self.at("lib", program, os.path.basename(path))) for path in paths]
        for source, target in commands:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            subprocess.run([self.options.objcopy, "--strip-debug", source, target], check=True)
        for path in self.options.programs:
            copy(path, self.at("bin", os.path.basename(path)))
            subprocess.run([self.options.objcopy, "--strip-all", self.at("bin", os.path.basename(path))], check=True)

    def guests(self):
        copy_tree(os.path.join(self.repo, "guests"), self.at("guests"), lambda name: not name.endswith(".mk"))
        for path in self.options.guests:
            copy(path, self.at("guests", "images", os.path.basename(path)))

    def docs(self):
        """The handouts as they are written and, where it was made, as a site."""
        copy_tree(os.path.join(self.repo, "docs", "labs"), self.at("docs", "labs"), lambda name: name.endswith((".md", ".svg")))
        if self.options.html and os.path.isdir(self.options.html):
            copy_tree(self.options.html, self.at("docs", "site"))

    def flags(self):
        """Written last: a tree that has this file is whole."""
        said = {name: shlex.split(getattr(self.options, name)) for name in ("cflags", "warnings", "clang_only", "libs")}
        with open(self.at("lib", "flags.mk"), "w", encoding="utf-8") as file:
            file.write(f"LAB_CFLAGS := {shlex.join(said['cflags'] + said['warnings'])} -Icore\n"
                       f"LAB_CLANG := {shlex.join(said['clang_only'])}\n")
        with open(self.at(tree.VERSION_FILE), "w", encoding="utf-8") as file:
            json.dump({"version": self.options.kit_version, **said}, file, indent=1)
            file.write("\n")


def plain_lines(text):
    """Lines without blanks at their ends, empty ones left out: what is compared."""
    return [" ".join(line.split()) for line in text.split("\n") if line.strip()]


def windows(lines):
    for at in range(len(lines) - WINDOW + 1):
        window = tuple(lines[at:at + WINDOW])
        if sum(map(len, window)) >= TELLING:
            yield window


def leaks(out, solutions):
    """(file, line of the solution) of each solution's text that stands in the tree, and files that must not be there."""
    secret = {}
    for name, text in solutions.items():
        for region in cut.regions(text, name):
            for window in windows(plain_lines("\n".join(region.lines))):
                secret.setdefault(window, f"{name}: {window[0]}")
            if len(plain_lines("\n".join(region.lines))) < WINDOW:
                line = tuple(plain_lines("\n".join(region.lines)))
                if sum(map(len, line)) >= TELLING // 2:
                    secret.setdefault(line, f"{name}: {line[0]}")
    for name in files_below(out):
        if os.path.basename(name) in STAFF_ONLY or "/staff/" in f"/{name}":
            yield name, "is the staff's"
        path = os.path.join(out, name)
        if name.startswith(("lib/", "bin/")) or os.path.getsize(path) > TEXT_MAX:
            continue
        with open(path, "rb") as file:
            text = file.read().decode("utf-8", errors="replace")
        if "hv:solution" in text and "labs/kit" not in name:
            yield name, "has a solution's mark"
        lines = plain_lines(text)
        for size in (1, 2, WINDOW):
            for at in range(len(lines) - size + 1):
                if (found := secret.get(tuple(lines[at:at + size]))):
                    yield name, found


def put_in_place(new, final):
    """The new tree under its name; what a user had in the old one's work folder stays."""
    old = f"{final}.old"
    shutil.rmtree(old, ignore_errors=True)
    if os.path.exists(final):
        if os.path.exists(os.path.join(final, "work")) and not os.path.exists(os.path.join(new, "work")):
            os.rename(os.path.join(final, "work"), os.path.join(new, "work"))
        os.rename(final, old)
    os.rename(new, final)
    shutil.rmtree(old, ignore_errors=True)


def arguments():
    parser = argparse.ArgumentParser(description="Write a student's tree.")
    parser.add_argument("--out", required=True)
    parser.add_argument("--kit-version", required=True)
    parser.add_argument("--objcopy", default="objcopy")
    parser.add_argument("--html", default="")
    for name in ("cflags", "warnings", "clang-only", "libs"):
        parser.add_argument(f"--{name}", default="")
    for name in ("core-objects", "rig-objects", "hvrun-objects", "programs", "guests"):
        parser.add_argument(f"--{name}", nargs="*", default=[])
    return parser.parse_args()


def main():
    options = arguments()
    here = tree.find()
    final = os.path.abspath(options.out)
    if os.path.exists(final) and os.listdir(final) and not os.path.exists(os.path.join(final, tree.VERSION_FILE)):
        print(f"handout: {final} is there and is no student's tree; it stays as it is", file=sys.stderr)
        return 1
    new = f"{final}.new.{os.getpid()}"
    os.makedirs(new)
    try:
        handout = Handout(options, here.root, new)
        handout.kit()
        handout.starters(lab.task_titles(here))
        handout.objects()
        handout.guests()
        handout.docs()
        found = sorted(set(leaks(new, handout.solutions)))
        if found:
            print("handout: the tree would give solutions away:", file=sys.stderr)
            for name, what in found[:20]:
                print(f"  {name}: {what}", file=sys.stderr)
            return 1
        handout.flags()
        put_in_place(new, final)
    except (cut.CutError, lab.LabError, OSError, subprocess.CalledProcessError) as error:
        print(f"handout: {error}", file=sys.stderr)
        return 1
    finally:
        shutil.rmtree(new, ignore_errors=True)
    print(f"{final}: labs {' '.join(str(n) for n in here.numbers()) or 'none yet'}, "
          f"{handout.starters_written} starters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
