"""Cuts a starter out of a solution: each region between hv:solution and hv:end becomes a comment that names its task.

A core file is both the reference and, without its regions, what a student begins with; so the two can't drift. What
is left has to compile without a warning: where a region ended in a return, one that says "not done yet" takes its
place (the mark may say with which value: hole=NAME), and a few pragmas keep the compiler quiet about helpers that wait
for their user. `python3 -m kit.cut FILE` (in labs/) prints a starter.
"""
import re
import sys
import textwrap

BEGIN = re.compile(r"^(?P<indent>[ \t]*)/\* hv:solution lab=(?P<lab>\d+) task=(?P<task>\d+)"
                   r"(?: hole=(?P<hole>\w+))? \*/\s*$")
END = re.compile(r"^[ \t]*/\* hv:end \*/\s*$")
WIDTH = 110
PRAGMAS = """\
/* Some of what is here waits for your code. Until you use it, the compiler need not ask. */
#pragma GCC diagnostic ignored "-Wunused-function"
#pragma GCC diagnostic ignored "-Wunused-variable"
#pragma GCC diagnostic ignored "-Wunused-const-variable"
#pragma GCC diagnostic ignored "-Wunused-but-set-variable"
"""


class CutError(Exception):
    """Marks that don't pair up; says where."""


class Region:
    """One solution region: which task it is, its lines without the marks, and where the marks are. hole: what it returns
    until it's written, where its mark says so."""

    def __init__(self, lab, task, indent, begin, hole=None):
        self.lab, self.task, self.indent, self.begin, self.hole = lab, task, indent, begin, hole
        self.end = begin
        self.lines = []


def regions(text, name="?"):
    """All regions of a file, in order."""
    found, inside = [], None
    for number, line in enumerate(text.split("\n")):
        begin = BEGIN.match(line)
        if "hv:solution" in line and (inside or not begin):
            raise CutError(f"{name}:{number + 1}: misplaced {line.strip()}")
        if begin:
            inside = Region(int(begin["lab"]), int(begin["task"]), begin["indent"], number, begin["hole"])
        elif "hv:end" in line:
            if not inside or not END.match(line):
                raise CutError(f"{name}:{number + 1}: hv:end without its beginning")
            inside.end = number
            found.append(inside)
            inside = None
        elif inside:
            inside.lines.append(line)
    if inside:
        raise CutError(f"{name}:{inside.begin + 1}: this region has no end")
    return found


def without_comments(text):
    return re.sub(r"/\*.*?\*/|//[^\n]*", " ", text, flags=re.DOTALL)


def return_type(lines, at):
    """The type of the function that line `at` is in: what stands before its name, without storage class."""
    start = at
    while start >= 0 and lines[start] != "{":
        start -= 1
    head = []
    start -= 1
    while start >= 0 and lines[start].strip() and not re.search(r"[;}]\s*$|\*/\s*$|^#", lines[start]):
        head.insert(0, lines[start])
        start -= 1
    declared = re.match(r"\s*(.*?)\b\w+\s*\(", " ".join(head), flags=re.DOTALL)
    if not declared:
        raise CutError(f"line {at + 1}: no function around it")
    return re.sub(r"\b(static|inline|const|extern)\b", "", declared[1]).strip()


def empty_return(kind):
    """The statement by which a function of this type says that nobody has written it yet."""
    if kind == "void":
        return "return;"
    if kind.endswith("*"):
        return "return NULL;"
    if kind == "bool":
        return "return false;"
    if kind in ("int", "long", "ssize_t", "int64_t"):
        return "return -ENOSYS;"
    if kind.startswith("enum "):
        return f"return ({kind})-ENOSYS;"
    if kind.startswith("struct "):
        return f"return ({kind}){{0}};"
    return "return 0;"


def ends_in_return(region):
    """Whether the region's last statement is a return that always happens."""
    code = without_comments("\n".join(region.lines)).rstrip()
    return re.search(r"(?:^|[;{}:])\s*return\b[^;]*;$", code) is not None


def hole(lines, region, titles):
    """What stands in the region's place."""
    title = titles.get((region.lab, region.task))
    text = f"Lab {region.lab}, task {region.task}{': ' + title if title else ''}. Your code goes here."
    width = WIDTH - len(region.indent.expandtabs(8))
    if len(text) + 6 <= width:
        out = [f"{region.indent}/* {text} */"]
    else:
        wrapped = textwrap.wrap(text, width - 3)
        out = [f"{region.indent}/*", *(f"{region.indent} * {part}" for part in wrapped), f"{region.indent} */"]
    kind = return_type(lines, region.begin)
    following = next((line for line in lines[region.end + 1:] if line.strip()), "")
    if ends_in_return(region) or (following == "}" and kind != "void"):
        out.append(region.indent + (f"return {region.hole};" if region.hole else empty_return(kind)))
    return out


def head_length(lines):
    """How many lines the comment at the file's head takes."""
    if not lines or not lines[0].startswith("/*"):
        return 0
    return next(number for number, line in enumerate(lines) if "*/" in line) + 1


def cut(text, titles=None, name="?"):
    """The starter of a solution. titles: (lab, task) -> the task's title."""
    lines = text.split("\n")
    out, at = [], 0
    found = regions(text, name)
    for region in found:
        out += lines[at:region.begin] + hole(lines, region, titles or {})
        at = region.end + 1
    out += lines[at:]
    if found:
        head = head_length(lines)
        out[head:head] = PRAGMAS.rstrip("\n").split("\n")
    return "\n".join(out)


def labs_of(text):
    """The numbers of the labs that own regions of this file."""
    return sorted({int(number) for number in re.findall(r"hv:solution lab=(\d+)", text)})


def main(args):
    if len(args) != 1 or args[0].startswith("-"):
        print("usage: python3 -m kit.cut FILE", file=sys.stderr)
        return 2
    try:
        with open(args[0], encoding="utf-8") as file:
            text = file.read()
        from kit import lab, tree
        titles = lab.task_titles(tree.find())
        sys.stdout.write(cut(text, titles, args[0]))
    except (OSError, CutError) as error:
        print(f"cut: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
