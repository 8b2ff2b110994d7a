#!/usr/bin/env python3
"""A teacher's way: a term's release, graded elsewhere by hidden seeds, by Gradescope's script and by Autolab's."""
# limit: 600
# once
# box: long
import configparser
import re
import shutil
import stat
import tarfile
import zipfile

from labs_staff_lib import *

HANDOUT = BUILD / "handout"
if os.environ.get("HV_SAN"):
    skip("students' programs are built without sanitizers")
if not (HANDOUT / "lib/flags.json").exists():
    skip("no student's tree was built (make labs)")
NUMBERS = sorted(int(p.parent.name[3:]) for p in HANDOUT.glob("labs/lab[0-9][0-9]/lab.ini")
                 if (p.parent / "tests.py").exists())
if not NUMBERS:
    skip("there are no labs yet")
LAB = NUMBERS[0]
RELEASE = SRC / "labs/staff/release.py"


def release(term, *args, status=0, out=TMP / "release"):
    return run(RELEASE, "--term", term, "--handout", HANDOUT, "--out", out, *args, status=status)


def seed_of(archive, folder):
    """The term.ini of an archive, unpacked into folder."""
    folder.mkdir()
    run("tar", "-xzf", archive, "-C", folder, "--strip-components=1")
    ini = configparser.ConfigParser(interpolation=None)
    ini.read(folder / "labs/term.ini")
    return ini["term"]


# --- a release ----------------------------------------------------------------------------------------------------------
(TMP / "users.txt").write_text("ada\nbob@example.edu\n\n")
release("2027S", "--users", TMP / "users.txt")
made = TMP / "release/2027S"
names = {p.name for p in made.iterdir()}
check({"hvkit-labs-2027S.tar.gz", "hvkit-labs-2027S-staff.tar.gz", "hvkit-labs-2027S-ada.tar.gz",
       "hvkit-labs-2027S-bob@example.edu.tar.gz", "seeds.ini", "SHA256SUMS", f"gradescope-lab{LAB:02d}.zip",
       f"autolab-lab{LAB:02d}"} <= names, "a release holds what it should", sorted(names))
check([p.name for p in (TMP / "release").iterdir()] == ["2027S"], "and leaves nothing beside it")
run("sha256sum", "--check", "--quiet", "SHA256SUMS", cwd=made)
private = {p.name for p in made.iterdir() if not stat.S_IMODE(p.stat().st_mode) & 0o77}
check(private == {n for n in names if not n.startswith("hvkit-labs")} | {"hvkit-labs-2027S-staff.tar.gz"},
      "what holds the staff's seed is the owner's alone", sorted(private))

student, staff = TMP / "student", TMP / "staff"
open_seed, secret = seed_of(made / "hvkit-labs-2027S.tar.gz", student), seed_of(made / "hvkit-labs-2027S-staff.tar.gz", staff)
check(open_seed["term"] == secret["term"] == "2027S" and (open_seed["kind"], secret["kind"]) == ("student", "staff"), "term.ini")
check(len(secret["seed"]) >= 32 and secret["seed"] != open_seed["seed"], "the staff's seed is another")
mine = seed_of(made / "hvkit-labs-2027S-ada.tar.gz", TMP / "ada")
check(len({mine["seed"], open_seed["seed"], seed_of(made / "hvkit-labs-2027S-bob@example.edu.tar.gz", TMP / "bob")["seed"]}) == 3,
      "each student's archive has its own")
for folder in (student, TMP / "ada", TMP / "bob"):
    held = [p for p in folder.rglob("*") if p.is_file()]
    check(not [p for p in held if p.name.startswith("hidden.") or "staff" in p.relative_to(folder).parts
               or "solutions" in p.relative_to(folder).parts], f"{folder.name}'s tree has nothing of the staff's")
    check(not [p for p in held if secret["seed"].encode() in p.read_bytes()], "nor their seed")
    check(not [p for p in held if p.suffix in (".c", ".h", ".md") and "hv:solution" in p.read_text(errors="replace")],
          "nor a solution")
for name in ("hvlab", "labs/hvlab"):
    check(os.access(student / name, os.X_OK), f"{name} may be run")
check((staff / f"labs/lab{LAB:02d}/hidden.py").exists() and (staff / "labs/staff/similar.py").exists(), "the staff's has both")

before = {p.name: p.read_bytes() for p in made.iterdir() if p.is_file()}
release("2027S", "--users", TMP / "users.txt")
check(before == {p.name: p.read_bytes() for p in made.iterdir() if p.is_file()}, "made again, it is the same, byte by byte")
release("2027S", "--fresh")
check((made / "seeds.ini").read_bytes() != before["seeds.ini"] and "hvkit-labs-2027S-ada.tar.gz" not in
      {p.name for p in made.iterdir()}, "--fresh has new seeds, and old archives are gone")
release("2027S", out=TMP / "other")
check((TMP / "other/2027S/seeds.ini").read_bytes() != before["seeds.ini"], "seeds are random")
for term in ("../up", "", "a b", "-x"):
    done = release(f"--{term}" if term == "-x" else term, status=None)
    check(done.returncode in (1, 2) and "Traceback" not in done.stderr, f"no term: {term!r}", done.stderr[-200:])
(TMP / "bad.txt").write_text("../../etc\n")
check("no name" in release("2027A", "--users", TMP / "bad.txt", status=1).stderr, "a user's name leads nowhere")
done = run(RELEASE, "--term", "x", "--handout", TMP / "ada/labs", "--out", TMP / "other", status=1)
check("no student's tree" in done.stderr, "only a student's tree is released")
check(sorted(p.name for p in TMP.iterdir() if p.name.startswith(".")) == [], "nothing half-made is left")

# What autolab and Gradescope get.
ini = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
ini.optionxform = str
for number in NUMBERS:
    lab = staff / f"labs/lab{number:02d}"
    ini.clear()
    ini.read(lab / "lab.ini")
    want = sum(map(float, ini["points"].values()))
    text = (made / f"autolab-lab{number:02d}/hvlab{number:02d}.yml").read_text()
    problems = dict(re.findall(r"- name: (\w+)\n.*\n  max_score: ([\d.]+)", text))
    check(sum(float(v) for k, v in problems.items() if k.startswith("task")) == want, f"lab {number}: Autolab's points add up",
          problems, want)
try:
    import yaml
    for path in made.glob("autolab-*/*.yml"):
        check(yaml.safe_load(path.read_text())["problems"], f"{path.name} is YAML")
except ImportError:
    print("not parsed as YAML (python3-yaml is not installed): Autolab's assessment")

# --- grading ------------------------------------------------------------------------------------------------------------
files = configparser.ConfigParser(interpolation=None, inline_comment_prefixes=(";",))
files.read(staff / f"labs/lab{LAB:02d}/lab.ini")
FILES = files["lab"]["files"].split()
RIGHT = {name: (staff / "solutions" / name).read_bytes() for name in FILES}
WRONG = {name: (staff / "starters" / name).read_bytes() for name in FILES}
HOSTILE = dict(RIGHT)
HOSTILE[FILES[0]] += b"""
#include <unistd.h>
__attribute__((constructor)) static void attack(void)
{
	for (;;)
		if (fork() < 0)
			_exit(9);
}
"""


def write(folder, texts):
    for name, data in texts.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def pack(folder, texts, user="ada"):
    """A submission as the student's own hvlab writes it."""
    write(folder / "work", texts)
    env = dict(os.environ, HVLAB_WORK=str(folder / "work"), HVLAB_USER=user)
    run(student / "hvlab", "submit", LAB, "--output", folder, env=env)
    return folder / f"lab{LAB:02d}-{user}.tar.gz"


right, wrong = pack(TMP / "right", RIGHT), pack(TMP / "wrong", WRONG, "bob")
hostile = pack(TMP / "hostile", HOSTILE, "eve")
with tarfile.open(TMP / "link.tar.gz", "w:gz") as tar:
    info = tarfile.TarInfo(f"lab{LAB:02d}/{FILES[0]}")
    info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
    tar.addfile(info)
(TMP / "broken.tar.gz").write_bytes(right.read_bytes()[:500])

# Gradescope: its places in a folder of our own, the zip unpacked as Gradescope does it.
scope = TMP / "autograder"
with zipfile.ZipFile(made / f"gradescope-lab{LAB:02d}.zip") as archive:
    for info in archive.infolist():
        path = archive.extract(info, scope / "source")
        os.chmod(path, info.external_attr >> 16)
for folder in (TMP, scope, scope / "source"):
    folder.chmod(0o755)  # the sandbox's user has to get in
ENV = {k: v for k, v in os.environ.items() if k not in ("BUILD", "SRC")}
ENV.update(AUTOGRADER=str(scope), HVLAB_NO_PACKAGES="1")
run(scope / "source/setup.sh", env=ENV)
check((scope / "source/tree/labs/term.ini").exists(), "setup.sh unpacks the staff's tree")


def gradescope(submission, user="ada@example.edu", status=0, **env):
    shutil.rmtree(scope / "submission", ignore_errors=True)
    if isinstance(submission, dict):
        write(scope / "submission", submission)
    else:
        (scope / "submission").mkdir()
        shutil.copy(submission, scope / "submission")
    (scope / "submission_metadata.json").write_text(json.dumps({"users": [{"email": user, "name": "x"}]}))
    run(scope / "source/run_autograder", env=dict(ENV, **env), status=status)
    told = json.loads((scope / "results/results.json").read_text())
    validate("gradescope", told, f"results.json of {getattr(submission, 'name', 'loose files')}")
    return told


told = gradescope(right)
full = sum(t["max_score"] for t in told["tests"])
check(told["score"] >= full and all(t["status"] == "passed" for t in told["tests"] if "extra" not in t["tags"]),
      "the right answer gets full marks", told["score"], full,
      [(t["name"], t["output"]) for t in told["tests"] if t["status"] != "passed"])
hidden = [t for t in told["tests"] if "hidden" in t["tags"]]
check(hidden and {t["visibility"] for t in hidden} == {"after_published"}, "hidden tests ran, and are hidden until published")
check(told["extra_data"]["labs"][0]["user"] == "ada@example.edu" and told["extra_data"]["labs"][0]["term"] == "2027S",
      "for the user whom Gradescope names")
check(secret["seed"] not in json.dumps(told), "the secret seed stays secret")
loose = gradescope({f"{pathlib.Path(n).name}": d for n, d in RIGHT.items()}, HVLAB_HIDDEN="visible")
check(loose["score"] == told["score"], "files that were handed in side by side are as good", loose["score"])
check({t["visibility"] for t in loose["tests"]} == {"visible"}, "HVLAB_HIDDEN says who sees hidden tests")
told = gradescope(wrong)
check(told["score"] < full / 2, "the untouched starter gets little", told["score"])
check(any("STILL_A_HOLE" in t["output"] for t in told["tests"]), "and is told why")
told = gradescope(hostile)
check(told["score"] == 0 and "FORBIDDEN" in told["output"], "a fork bomb scores zero by name", told["score"], told["output"][:300])
for submission, ident in ((TMP / "link.tar.gz", "ARCHIVE_UNSAFE"), (TMP / "broken.tar.gz", "ARCHIVE_DAMAGED")):
    told = gradescope(submission)
    check(told["score"] == 0 and ident in told["output"], f"{ident} is told", told["output"])
for submission, ident in (({"notes.txt": b"x"}, "ARCHIVE_DAMAGED"), (dict.fromkeys(("a.tar.gz", "b.tar.gz"), b"x"), "ARCHIVE_DAMAGED")):
    check(ident in gradescope(submission)["output"], f"{sorted(submission)}: {ident}")
(scope / "submission_metadata.json").unlink()
done = run(scope / "source/run_autograder", env=ENV, status=None)
check((scope / "results/results.json").exists() and done.returncode == 0, "without metadata it grades all the same")
shutil.move(scope / "source/tree/lib", scope / "lib")
told = gradescope(right, status=1)
check(told["score"] == 0 and "not end" in told["output"] or "itself failed" in told["output"], "a grader that fails says so", told)
shutil.move(scope / "lib", scope / "source/tree/lib")
told = gradescope(right, status=1, HV_KVM_DEVICE="/nowhere")
check("no KVM" in told["output"] and told["extra_data"]["labs"][0]["complete"] is False and not told["tests"],
      "a machine without KVM says so, and judges nothing", told)
done = run(staff / "labs/staff/grade_submission.py", "--lab", LAB, "--limit", "0.05", "--out", TMP / "late.json", right, status=1)
late = json.loads((TMP / "late.json").read_text())
validate("results", late, "a grading that took too long")
check(not late["complete"] and "longer than 0.05 s" in done.stderr, "what takes too long is ended, and says so", done.stderr)


# Autolab: its files and the handin in an empty folder, then make.
def autolab(submission, status=0):
    folder = TMP / "autolab"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o755)
    source = made / f"autolab-lab{LAB:02d}"
    shutil.copy(source / "autograde.tar", folder)
    shutil.copy(source / "autograde-Makefile", folder / "Makefile")
    shutil.copy(submission, folder / "handin.tar.gz")
    done = run("make", "-C", folder, "--no-print-directory", status=status)
    lines = done.stdout.splitlines()
    result = json.loads(lines[-1])
    validate("autolab", result, f"the autoresult of {submission.name}")
    validate("autolab", json.loads(lines[-2]), f"the feedback of {submission.name}")
    return result, done.stdout


result, text = autolab(right)
problems = dict(re.findall(r"- name: (\w+)\n.*\n  max_score: ([\d.]+)",
                           (made / f"autolab-lab{LAB:02d}/hvlab{LAB:02d}.yml").read_text()))
check(set(result["scores"]) <= set(problems), "scores go to the assessment's problems", result, problems)
check(all(result["scores"][k] == float(v) for k, v in problems.items() if k != "extra" and float(v)), "full marks", result, problems)
result, text = autolab(wrong)
check(sum(result["scores"].values()) < full / 2 and "STILL_A_HOLE" in text, "little, and why, for the starter")
result, text = autolab(hostile)
check(not any(result["scores"].values()) and "FORBIDDEN" in text, "nothing for a fork bomb", result)
result, text = autolab(TMP / "link.tar.gz")
check(not any(result["scores"].values()) and "ARCHIVE_UNSAFE" in text, "nor for a link")

# By hand, with the staff's tree: grade, and look for copies.
done = run(staff / "labs/staff/grade_submission.py", "--lab", LAB, "--kind", "junit", "--out", TMP / "one.xml", right)
validate_junit(TMP / "one.xml", "a grading by hand, JUnit XML,")
done = run(staff / "labs/staff/grade_submission.py", "--lab", LAB, "--out", TMP / "one.json", right)
one = json.loads((TMP / "one.json").read_text())
validate("results", one, "a grading by hand, own JSON,")
check(one["user"] == "ada" and one["score"] == one["max"], "the archive's user, full marks")
again = pack(TMP / "copy", RIGHT, "cleo")
done = run(staff / "labs/staff/similar.py", "--lab", LAB, right, again, wrong)
check("100%" in done.stdout and "1 pairs" in done.stdout and "bob" not in done.stdout, "two copies and a starter", done.stdout)
left = run("pgrep", "-f", str(scope), status=None).stdout
check(not left.strip(), "no process is left", left)
