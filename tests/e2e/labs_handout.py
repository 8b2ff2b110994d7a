#!/usr/bin/env python3
"""A student's tree: starters compile, score their baseline, the solutions full marks; nothing gives a solution away.

The tree that make built is copied elsewhere first, to a path with a blank in it, so that it works wherever it is put.
"""
# limit: 500
# box: long
import json

from labs_lib import *

from kit import handout

TREE = TMP / "a tree"
shutil.copytree(BUILD / "handout", TREE, symlinks=True)
shutil.rmtree(TREE / "work", ignore_errors=True)
HVLAB = TREE / "hvlab"
for name in ("HVLAB_HANDOUT", "HVLAB_WORK", "BUILD"):
    os.environ.pop(name, None)

# Starters, with both compilers, as the kit compiles them.
starters = sorted(p.relative_to(TREE / "starters") for p in (TREE / "starters").rglob("*.c"))
check(starters, "there are starters")
for compiler in ("gcc", "clang"):
    if not shutil.which(compiler):
        print(f"not tried: {compiler} is not here")
        continue
    done = run("make", "-C", TREE, "-j4", f"CC={compiler} -Werror", status=None)
    check(done.returncode == 0 and "warning" not in done.stderr, f"every starter compiles with {compiler} without a warning",
          done.stderr[:3000])
    objects = {p.relative_to(TREE / "build").with_suffix(".c") for p in (TREE / "build").rglob("*.o")}
    check(objects == set(starters), "and there is an object of each", objects ^ set(starters))
    run("make", "-C", TREE, "clean")

# What is not there.
solutions = {str(p): (SRC / p).read_text() for p in starters}
check(not list(handout.leaks(str(TREE), solutions)), "no solution's text is in the tree",
      *list(handout.leaks(str(TREE), solutions))[:3])
planted = TREE / "docs/planted.md"
planted.parent.mkdir(exist_ok=True)
for text in solutions.values():
    region = max(cut.regions(text), key=lambda r: len(r.lines))
    planted.write_text("Prose.\n" + "\n".join("   " + line.strip() for line in region.lines[:12]))
    check(list(handout.leaks(str(TREE), solutions)), "a planted region is found", region.lines[:3])
planted.unlink()
left = [p for p in TREE.rglob("*") if p.name in ("hidden.py", "hidden.ini", "cut.py") or "staff" in p.parts]
check(not left, "nothing of the staff's is in the tree", left)

done = run(SRC / "tests/check_doc_links.py", "--root", TREE, status=None)
check(done.returncode == 0, "each link of the handouts leads somewhere in the tree", done.stdout + done.stderr)

# The command.
done = run(HVLAB, "list")
check([int(line.split()[0]) for line in done.stdout.splitlines()] == LABS, "hvlab list names the labs", done.stdout)
check("hvlab 0" in run(HVLAB, "--version").stdout, "hvlab --version")
for words, status in (((), 2), (("grade", "77"), 2), (("start", "x"), 2), (("explain", "NO_SUCH_ID"), 1), (("view", "/nowhere"), 1)):
    run(HVLAB, *words, status=None if words[:1] == ("view",) else status)

for number in LABS:
    here = lab.Lab(tree.Tree(str(TREE / "labs"), str(TREE), False), number)
    run(HVLAB, "start", number)
    run(HVLAB, "start", number, status=1)
    done = run(HVLAB, "grade", number, "--json", status=None)
    result = json.loads(done.stdout)
    validate("results", result, f"lab {number}: the starter's result")
    check(result["compile"]["ok"] and not result["compile"]["warnings"], f"lab {number}: the starter is built without a warning",
          result["compile"]["output"])
    check(not any(t["status"] == "error" for t in result["tests"]), f"lab {number}: the starter makes no test fall over",
          story(result))
    check(result["score"] == here.baseline, f"lab {number}: the starter scores its baseline, {here.baseline:g}", story(result))
    check(done.returncode == 1, f"lab {number}: less than full marks is status 1", done.returncode)
    for name in here.files:
        shutil.copyfile(SRC / name, TREE / "work" / name)
    check("+" in run(HVLAB, "diff", number).stdout, f"lab {number}: hvlab diff shows what was added")
    done = run(HVLAB, "grade", number, "--json", status=None)
    result = json.loads(done.stdout)
    check(result["score"] == result["max"] and done.returncode == 0, f"lab {number}: the solution scores full marks in "
          f"{result['duration_s']} s", story(result), done.stderr)
    extra = sum(t["max"] for t in result["tests"] if t["extra"])
    print(f"     lab {number}: challenges {result['extra']:g} of {extra:g}")

if LABS:
    number = LABS[0]
    text = run(HVLAB, "grade", number).stdout
    check("\x1b" not in text, "no colours where there is no terminal")
    again = [json.loads(run(HVLAB, "grade", number, "--json", "--seed", "s1", "--user", user).stdout) for user in ("a", "a", "b")]
    check(again[0]["seed"] == "s1" and again[0]["user"] == "a", "a seed and a user can be given")
    run(HVLAB, "grade", number, "--my-own")
    run(HVLAB, "start", number, "--again")
    check(list((TREE / "work").rglob("*.bak")), "--again keeps what was there")
    run(HVLAB, "watch", number, "--times", "1", status=1)
    for form in ("gradescope", "junit", "autolab"):
        run(HVLAB, "grade", number, f"--{form}", "--output", TMP / form, status=1)
        check((TMP / form).stat().st_size > 100, f"--{form} --output writes a file")
