#!/usr/bin/env python3
"""Every command of docs/teaching.md runs, in the order in which it stands there, and the containers say what they should."""
# limit: 600
# once
# box: long
import re
import shlex
import shutil

from labs_staff_lib import *

HANDOUT = BUILD / "handout"
if os.environ.get("HV_SAN"):
    skip("students' programs are built without sanitizers")
if not (HANDOUT / "labs/lab01/tests.py").exists():
    skip("no student's tree was built (make labs), or it has no lab 1")
TEXT = (SRC / "docs/teaching.md").read_text()

# --- what a container holds ---------------------------------------------------------------------------------------------
TREE = SRC / "labs/staff/tree"
container = (TREE / ".devcontainer/Containerfile").read_text()
packages = re.findall(r"^        ([a-z0-9.+-]+) \\$", container, re.M)
check(len(packages) > 10 and packages == sorted(set(packages)), "the Containerfile lists its packages, sorted", packages)
check(re.search(r"^FROM \S*debian:12$", container, re.M), "it is Debian 12")
check(not re.search(r"\\\n\s*$|\\ +\n", container) and "&& rm -rf /var/lib/apt/lists/*" in container, "no loose backslash")
wanted = [line.split() for line in re.search(r"<<-'END'\n(.*?)\n\tEND", (SRC / "tests/deps").read_text(), re.S)[1].splitlines()]
debian = {row[2]: row[3] for row in wanted}
libraries = {"-lelf": debian["libelf"], "-lcapstone": debian["capstone"], "-ljansson": debian["jansson"],
             "-lseccomp": debian["libseccomp"], "-luring": debian["liburing"], "-ldeflate": debian["libdeflate"], "-lzstd": debian["libzstd"],
             "-lxxhash": debian["libxxhash"], "-lnettle": debian["nettle"], "-lexpat": debian["expat"]}
flags = json.loads((HANDOUT / "lib/flags.json").read_text())
check(set(flags["libs"]) <= set(libraries), "each library that is linked has a package", flags["libs"])
check({libraries[lib] for lib in flags["libs"]} <= set(packages), "and the container has it", packages)
check({"gcc", "make", "python3", "libc6-dev", "linux-libc-dev"} <= set(packages), "a compiler, make, Python")
release = pathlib.Path("/etc/os-release").read_text()
if shutil.which("apt-cache") and re.search(r'^ID="?debian"?$', release, re.M) and '"12"' in release:
    done = run("apt-cache", "policy", *packages, status=None)
    known = set(re.findall(r"^(\S+):$", done.stdout, re.M)) - set(re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: \(none\)", done.stdout, re.M))
    if known:
        check(set(packages) <= known, "Debian 12 has every package of the list", set(packages) - known)
    else:
        print("not looked up (no package lists here): the container's packages")
else:
    print("not looked up (this is not Debian 12): the container's packages")
development = json.loads((TREE / ".devcontainer/devcontainer.json").read_text())
check(development["build"]["dockerfile"] == "Containerfile" and "--device=/dev/kvm" in development["runArgs"], "devcontainer.json")
workflow = (TREE / ".github/workflows/grade.yml").read_text()
try:
    import yaml
    steps = yaml.safe_load(workflow)["jobs"]["grade"]["steps"]
    check(any("99-kvm.rules" in step.get("run", "") for step in steps), "the workflow has the udev rule for /dev/kvm")
    for step in steps:
        if "run" in step:
            run("bash", "-n", "-c", step["run"])
    course = TMP / "course"
    shutil.copytree(HANDOUT, course, ignore=shutil.ignore_patterns("work"))
    run("./hvlab", "start", 1, cwd=course)
    grading = next(step["run"] for step in steps if "hvlab grade" in step.get("run", ""))
    run("bash", "-e", "-c", grading, cwd=course, status=1)
    check([p.name for p in course.glob("*.xml")] == ["lab1.xml"], "it grades what was started, and fails below full marks")
    validate_junit(course / "lab1.xml", "its report")
    install = next(step["run"] for step in steps if "apt-get install" in step.get("run", ""))
    words = re.search(r"\$\((sed .*)\)", install)[1]
    check(run("bash", "-c", words, cwd=TREE).stdout.split() == packages, "and takes its packages from the Containerfile")
except ImportError:
    print("not parsed (python3-yaml is not installed): the workflow")
setup = re.search(r"< <\((sed .*)\)", (SRC / "labs/staff/gradescope/setup.sh").read_text())[1]
(TMP / "tree").symlink_to(TREE)
check(run("bash", "-c", setup, cwd=TMP).stdout.split() == packages, "Gradescope's setup.sh too")

# --- make release -------------------------------------------------------------------------------------------------------
# What it would do, by make -n: a real one would write over the student's tree that other tests are using.
env = {k: v for k, v in os.environ.items() if k != "BUILD"}
done = run("make", "-n", "-C", SRC, f"BUILD={BUILD}", "release", "TERM=2027S", "USERS=users.txt", env=env)
check(re.search(r'release\.py --term "2027S" --handout \S+handout --out \S+release\s.*--users "users.txt"', done.stdout, re.S),
      "make release calls release.py", done.stdout[-600:])
done = run("make", "-n", "-C", SRC, f"BUILD={BUILD}", "release", env=dict(env, TERM="xterm"))
check("release.py" not in done.stdout and "which term" in done.stdout, "the terminal's name is no term")

# --- the page's commands ------------------------------------------------------------------------------------------------
blocks = re.findall(r"^```sh\n(.*?)^```$", TEXT, re.M | re.S)
check(len(blocks) > 8 and "```\n\n```" not in TEXT, "the page has commands", len(blocks))
desk = TMP / "desk"
(desk / "last-year").mkdir(parents=True)
(desk / "submissions").mkdir()
(desk / "users.txt").write_text("ada\nbob\n")
for folder in (TMP, desk):
    folder.chmod(0o755)

# Someone else's submissions: lab 1's starter, this year and last.
files = re.search(r"^files = (.*)$", (HANDOUT / "labs/lab01/lab.ini").read_text(), re.M)[1].split(";")[0].split()
for user, folder in (("eve", "submissions"), ("bob", "last-year")):
    run(HANDOUT / "hvlab", "submit", 1, "--work", HANDOUT / "starters", "--output", desk / folder, "--user", user,
        env=dict(env, HVLAB_STATE=str(TMP / "state")))
prelude = f"""set -euo pipefail
make() {{
	if [ "$1" = release ]; then
		local args=()
		[ -z "${{3:-}}" ] || args=(--users "${{3#USERS=}}")
		{shlex.quote(str(SRC))}/labs/staff/release.py --term "${{2#TERM=}}" --handout {shlex.quote(str(HANDOUT))} \\
			--out build/release "${{args[@]}}"
	else
		command make "$@"
	fi
}}
set -x
"""
done = run("bash", "-c", prelude + "".join(blocks), cwd=desk, env=env, status=None, limit=4 * LIMIT)
check(done.returncode == 0, "all of them run", done.stdout[-1500:], done.stderr[-3000:])
check({"submissions", "similar.html", "pairs.json", "results.xml", "ada.json"} <= {p.name for p in desk.iterdir()}, "files are there")
validate("gradescope", json.loads((desk / "autograder/results/results.json").read_text()), "Gradescope's results.json")
validate("results", json.loads((desk / "ada.json").read_text()), "the grading by hand")
validate_junit(desk / "results.xml", "the JUnit XML")
check(json.loads((desk / "ada.json").read_text())["score"] > 0, "ada has points")
check((desk / "submissions/lab01-eve.json").exists(), "each submission was graded")

# --- links --------------------------------------------------------------------------------------------------------------
for page in (SRC / "docs/teaching.md", *sorted((SRC / "labs/staff").glob("*.md"))):
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", page.read_text()):
        if "://" not in target:
            check((page.parent / target).exists(), f"{page.name} links to {target}")
for ident in re.findall(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`", TEXT + (SRC / "labs/staff/questions.md").read_text()):
    if not ident.startswith(("HVLAB_", "SHA")):
        run(HANDOUT / "hvlab", "explain", ident, status=0)
check(True, "every diagnosis that the pages name is there")
