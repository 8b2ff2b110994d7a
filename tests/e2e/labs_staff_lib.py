"""What the tests of the labs' staff side share: where things are, checks, made-up results, validation."""
import importlib
import json
import os
import pathlib
import subprocess
import sys

SRC = pathlib.Path(os.environ["SRC"])
BUILD = pathlib.Path(os.environ["BUILD"])
TMP = pathlib.Path(os.environ["TMP"])
STRETCH = int(os.environ["HV_STRETCH"])
LIMIT = 120 * STRETCH  # seconds: a watchdog, never a measure
SCHEMAS = SRC / "labs/staff/schemas"
sys.path.insert(0, str(SRC / "labs"))
SKIP = 77


def check(good, what, *seen):
    if not good:
        sys.exit(f"FAIL {what}: {' | '.join(map(str, seen))}")
    print("ok  ", what)


def skip(why):
    print(why)
    sys.exit(SKIP)


def run(*command, status=0, limit=LIMIT, **more):
    """Runs a command to its end; its status must be the one given (None: any)."""
    if "input" not in more:
        more.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(c) for c in command], text=True,
                          capture_output=True, timeout=limit, errors="replace", **more)
    if status is not None and done.returncode != status:
        sys.exit(f"FAIL {' '.join(map(str, command))} ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def validator(name):
    """A jsonschema validator of schemas/NAME.schema.json; None when the module is not installed."""
    try:
        jsonschema = importlib.import_module("jsonschema")
    except ImportError:
        return None
    schema = json.loads((SCHEMAS / f"{name}.schema.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    kind.check_schema(schema)
    return kind(schema)


def validate(name, value, what):
    """value fits the schema. Says so when it could not be looked at."""
    tool = validator(name)
    if not tool:
        print(f"not validated (python3-jsonschema is not installed): {what}")
        return
    errors = [f"{list(e.absolute_path)}: {e.message[:200]}" for e in tool.iter_errors(value)]
    check(not errors, f"{what} fits {name}.schema.json", *errors[:5])


def validate_junit(path, what):
    try:
        done = run("xmllint", "--nonet", "--noout", "--schema", SCHEMAS / "junit.xsd", path, status=None)
    except FileNotFoundError:
        print(f"not validated (xmllint is not installed): {what}")
        return
    check(done.returncode == 0, f"{what} fits junit.xsd", done.stderr)


DIAGNOSIS = {"id": "CS_BASE_NOT_RESET", "seen": "CS base was 0xffff0000.", "why": "Reset put it there.",
             "read": "SDM volume 3, 10.1.4"}


def made_up(lab=1, **changes):
    """A result as kit/grade.py makes it: one test of each kind, hostile text among it."""
    def test(name, task, score, full, status, hidden=False, extra=False, diagnosis=None, output=""):
        return {"name": name, "title": name.replace("_", " ").capitalize(), "task": task, "hidden": hidden,
                "extra": extra, "score": score, "max": full, "status": status, "duration_s": 0.25,
                "diagnosis": diagnosis, "output": output}
    hostile = "\x1b[2J\x00\ud800 ]]> <b>&amp; \u202e" + "x" * 20_000
    result = {
        "format": "hvlab-result-1", "complete": True, "lab": lab, "title": "First exit", "seed": "00ff", "term": "2027S",
        "user": "ada", "started": "2027-03-01T10:00:00Z", "duration_s": 2.5, "kit": "0.1.0", "backend": "vmx",
        "score": 6.5, "max": 16, "extra": 2, "hidden_withheld": 0,
        "compile": {"ok": True, "warnings": 1, "output": "vcpu.c:1:1: warning: \x1b[31m'quoted'"},
        "tasks": [{"number": 1, "title": "Open", "score": 6.5, "max": 12}, {"number": 2, "title": "Run", "score": 0, "max": 4}],
        "tests": [test("it_opens", 1, 4, 4, "passed"), test("it_runs", 1, 2.5, 4, "partial", diagnosis=DIAGNOSIS),
                  test("it_ends", 2, 0, 4, "failed", diagnosis=DIAGNOSIS, output=hostile),
                  test("a_secret", 1, 0, 4, "error", hidden=True), test("a_challenge", None, 2, 2, "passed", extra=True)],
        "verdict": None}
    result.update(changes)
    return result
