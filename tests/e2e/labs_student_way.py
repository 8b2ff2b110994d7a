#!/usr/bin/env python3
"""A student's way through all labs, from the handed-out tree alone: start, a wrong answer, what the grader names, hints,
an explanation, the right answer, full marks; and at the end hvrun, built on the student's own files, runs the shell."""
# limit: 900
# box: long
import configparser
import re
import shutil

from labs_staff_lib import *

HANDOUT = BUILD / "handout"
if os.environ.get("HV_SAN"):
    skip("students' programs are built without sanitizers")
if not (HANDOUT / "lib/flags.json").exists():
    skip("no student's tree was built (make labs)")
COURSE = TMP / "course"
shutil.copytree(HANDOUT, COURSE, ignore=shutil.ignore_patterns("work", "__pycache__"))
WORK = COURSE / "work"
ENV = {k: v for k, v in os.environ.items() if k not in ("SRC", "BUILD", "GUESTS", "HVRUN")}
ENV["HVLAB_USER"] = "ada"
WRONG_ANSWERS = 2  # of each lab's mutants; labs_mutants_*.py has them all


def hvlab(*words, status=0, **more):
    done = run("./hvlab", *words, status=status, cwd=COURSE, env=ENV, limit=4 * LIMIT, **more)
    check("Traceback" not in done.stderr, f"hvlab {' '.join(map(str, words))}", done.stderr)
    return done.stdout + done.stderr


def grade(number, status):
    """The text that the student reads, and the result."""
    text = hvlab("grade", number, "--json", "--output", TMP / "result.json", status=status)
    result = json.loads((TMP / "result.json").read_text())
    validate("results", result, f"lab {number}'s result")
    return text, result


def named(result):
    found = [t["diagnosis"]["id"] for t in result["tests"] if t["diagnosis"]]
    return [result["verdict"]["id"]] if result["verdict"] else found


def baseline(number):
    ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
    ini.read(COURSE / f"labs/lab{number:02d}/lab.ini")
    return ini.getfloat("baseline", "score", fallback=0)


def answer(files, patch=None):
    """What the student types: the core's text, with a mistake in it or without."""
    for name in files:
        shutil.copyfile(SRC / name, WORK / name)
    if patch:
        run("patch", "-s", "-p1", "--no-backup-if-mismatch", "-d", WORK, "-i", patch)


def wrong_answers(number):
    """Mutants of one mistake that one of the students' own tests names; hidden tests aren't here."""
    tests, found = (COURSE / f"labs/lab{number:02d}/tests.py").read_text(), []
    for path in sorted((SRC / f"labs/staff/mutants/lab{number:02d}").glob("*.patch")):
        fields = dict(re.findall(r"^(expect|loses):\s*(.*)$", path.read_text().split("\n--- ")[0], re.M))
        loses = [name for name in fields.get("loses", "").split() if not name.endswith("?")]
        if len(fields.get("expect", "").split()) == 1 and loses and \
                all(name == "*" or f"def {name}(" in tests for name in loses):
            found.append((path, fields["expect"].split()))
    return found[:WRONG_ANSWERS]


def lab(number):
    print(f"--- lab {number}")
    said = hvlab("start", number)
    files = [line.split("/work/", 1)[1] for line in said.splitlines() if "/work/core/" in line]
    check(files and all((WORK / n).read_bytes() == (COURSE / "starters" / n).read_bytes() for n in files),
          f"lab {number} begins with its starter", said)
    check((COURSE / f"docs/labs/lab{number:02d}.md").exists(), f"lab {number} has a handout")
    check("already" in hvlab("start", number, status=1), "starting again destroys nothing")

    text, result = grade(number, 1)
    check(result["compile"]["ok"] and not result["compile"]["warnings"], "the starter builds without a warning",
          result["compile"]["output"])
    check(result["score"] == baseline(number) < result["max"], "and scores what lab.ini says", text)
    check(named(result) and named(result)[0] in text, "the first thing to do is named", text)

    # The hints go from one to the next.
    first, second = hvlab("hint", number), hvlab("hint", number)
    check(re.search(r"^  1\. ", first, re.M) and not re.search(r"^  2\. ", first, re.M), "a first hint", first)
    check(re.search(r"^  2\. ", second, re.M) or "last hint" in second, "then the next", second)

    for patch, expected in wrong_answers(number):
        answer(files, patch)
        text, result = grade(number, 1)
        check(result["compile"]["ok"] and result["score"] < result["max"], f"{patch.stem} costs points", text)
        seen = [i for i in expected if i in named(result)]
        check(seen == expected and seen[0] in text, f"{patch.stem} is named {expected}", text)
        told = hvlab("explain", seen[0])
        check("In your last grading" in told and "Read:" in told, f"{seen[0]} is explained, with what was seen", told)
        check(re.search(r"^  1\. ", hvlab("hint", number), re.M), "and there is a hint")

    (WORK / files[0]).write_text((WORK / files[0]).read_text() + "\nint broken(\n")
    check("DOES_NOT_COMPILE" in hvlab("submit", number, "--output", TMP, status=1), "what doesn't compile isn't packed")
    answer(files)
    text, result = grade(number, 0)
    check(result["score"] == result["max"] > 0, f"the right answer to lab {number} has full marks", text)
    check("Nothing failed" in hvlab("hint", number), "no hint is needed any more")
    check("+" in hvlab("diff", number), "diff shows what was written")
    said = hvlab("submit", number, "--output", TMP)
    check((TMP / f"lab{number:02d}-ada.tar.gz").exists(), "and it is packed to be handed in", said)
    return files


def mark(name):
    return f"written by ada: {name}"


def own_hvrun(files):
    """hvrun of the student's own files: the program holds what stands in each of them, and runs the shell."""
    for name in files:
        with open(WORK / name, "a", encoding="utf-8") as out:
            out.write(f'\nstatic const char whose[] __attribute__((used)) = "{mark(name)}";\n')
    program = TMP / "hvrun-mine"
    hvlab("run", NUMBERS[-1], "--my-own", "--only-build", program)
    data = program.read_bytes()
    missing = [name for name in files if mark(name).encode() not in data]
    check(not missing, f"hvrun holds the student's {len(files)} files", missing)
    typed = "\rset colour green\rset shape round\rkeys\rget colour\rexit 5\r"
    done = run("./hvlab", "run", NUMBERS[-1], "--my-own", "--guest", "shell", "--", "--timeout", 50 * STRETCH, status=None,
               cwd=COURSE, env=ENV, input=typed)
    lines = done.stdout.replace("\r", "").splitlines()
    check(done.returncode == 11 and "green" in lines and "> get colour" in lines, "and it runs the shell",
          done.returncode, done.stdout[-800:], done.stderr[-800:])


listed = json.loads(hvlab("list", "--json"))
NUMBERS = [row["lab"] for row in listed]
if not NUMBERS:
    skip("there are no labs yet")
check(not WORK.exists() or not list(WORK.rglob("*.c")), "a new tree has no work in it")
check("hvlab start" in hvlab("grade", NUMBERS[0], status=1), "who grades before starting is told how to start")
FILES = [name for number in NUMBERS for name in lab(number)]
text = hvlab("list")
check(all(re.search(rf"^ +{n} .*?(\d+) points +\1 of \1$", text, re.M) for n in NUMBERS), "list shows full marks", text)
own_hvrun(FILES)
