#!/usr/bin/env python3
"""Reports of a grading: each format fits its schema, tells the truth, and is never half on disk."""
# kvm: none
import re
import threading
import time

from labs_staff_lib import *

from kit import report

VERDICT = dict(DIAGNOSIS, id="FORBIDDEN_FORK", seen="The program forked.")
cases = {
    "a plain result": [made_up()],
    "a result on the way": [made_up(complete=False, tests=[])],
    "a lab that does not compile": [made_up(tests=[], score=0, extra=0, compile={"ok": False, "warnings": 0,
                                                                                "output": "no\x07"})],
    "a lab that attacked the grader": [made_up(verdict=VERDICT, score=0, extra=0)],
    "a verdict beside points": [made_up(verdict=VERDICT)],
    "two labs": [made_up(), made_up(2)],
    "nobody's": [made_up(seed=None, term=None, user=None, backend=None)],
}

for name, results in cases.items():
    validate("results", json.loads(report.render("json", results)), f"{name}, own JSON,")

    told = json.loads(report.render("gradescope", results))
    validate("gradescope", told, f"{name}, results.json,")
    lines = report.render("autolab", results).splitlines()
    validate("autolab", json.loads(lines[-1]), f"{name}, the autoresult")
    validate("autolab", json.loads(lines[-2]), f"{name}, the semantic line")
    (TMP / "junit.xml").write_text(report.render("junit", results))
    validate_junit(TMP / "junit.xml", f"{name}, JUnit XML,")
    for kind in report.FORMATS:
        text = report.render(kind, results)
        check(not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text), f"{name}, {kind}: no control characters")

check(report.render("json", made_up()) == report.render("json", [made_up()]), "one result need not be in a list")

# What Gradescope shows.
told = json.loads(report.render("gradescope", made_up()))
check(set(told) == set("score execution_time output output_format test_output_format test_name_format visibility "
                       "stdout_visibility extra_data tests leaderboard".split()), "every documented field is there",
      sorted(told))
check(all(set(t) == set("score max_score status name name_format number output output_format tags visibility "
                        "extra_data".split()) for t in told["tests"]), "and of each test")
check(told["score"] == 8.5, "extra credit counts in the sum", told["score"])
check([t["number"] for t in told["tests"]] == ["1.1", "1.2", "2.1", "1.3", "0.1"], "numbers are TASK.INDEX")
check([t["visibility"] for t in told["tests"]] == ["visible"] * 3 + ["after_published", "visible"], "hidden tests wait")
for who in report.VISIBILITIES:
    told = json.loads(report.render("gradescope", made_up(), hidden=who))
    validate("gradescope", told, f"hidden tests {who}")
    check(told["tests"][3]["visibility"] == who, f"as the teacher wants it: {who}")
check("00ff" not in json.dumps(told), "the seed stays with the grader")
check("CS_BASE_NOT_RESET: CS base was" in told["tests"][2]["output"] and "Read: SDM" in told["tests"][2]["output"],
      "a diagnosis is told in full")
check(len(told["tests"][2]["output"]) < 6000, "long output is cut", len(told["tests"][2]["output"]))

# A verdict beats any points that a test got.
told = json.loads(report.render("gradescope", made_up(verdict=VERDICT)))
check(told["score"] == 0 and all(t["score"] == 0 and t["status"] == "failed" for t in told["tests"]), "verdict: Gradescope")
check("FORBIDDEN_FORK" in told["output"], "it is told by name")
told = json.loads(report.render("autolab", made_up(verdict=VERDICT)).splitlines()[-1])
check(not any(told["scores"].values()) and told["scoreboard"][0] == 0, "verdict: Autolab", told)

# What Autolab shows.
text = report.render("autolab", made_up())
told = json.loads(text.splitlines()[-1])
check(told["scores"] == {"task1": 6.5, "task2": 0, "hidden": 0, "extra": 2}, "problems are tasks, hidden, extra", told)
check("secret" not in text, "hidden tests are told by their sum only")
told = json.loads(report.render("autolab", [made_up(), made_up(2)]).splitlines()[-1])
check("lab02 task1" in told["scores"], "with several labs, problems are named by lab")

# The schemas refuse what is wrong: they would prove nothing otherwise.
if validator("results"):
    for schema, bad in (("results", made_up(score=-1)), ("results", dict(made_up(), more=1)),
                        ("gradescope", {"tests": [{"name": "x"}]}), ("gradescope", {"score": 1, "visibility": "all"}),
                        ("autolab", {"scores": {}, "scoreboard": []}), ("manifest", {"format": "hvlab-submission-1"})):
        check(list(validator(schema).iter_errors(bad)), f"{schema}.schema.json refuses {str(bad)[:40]}")

# A reader that looks all the time never sees a half, and a link is not followed.
path = TMP / "results.json"
(TMP / "elsewhere").write_text("mine")
path.symlink_to(TMP / "elsewhere")
writer = report.Writer("gradescope", path)
done = threading.Event()
seen = []


def look():
    while not done.is_set():
        try:
            seen.append(len(json.loads(path.read_text())["tests"]))
        except FileNotFoundError:
            pass
        except ValueError as e:
            seen.append(str(e))
        time.sleep(0.0005)


watcher = threading.Thread(target=look)
writer(made_up(tests=[]))
watcher.start()
tests = made_up()["tests"]
for count in list(range(len(tests) + 1)) * 4:
    writer(made_up(tests=tests[:count], complete=count == len(tests)))
done.set()
watcher.join()
check(seen and all(isinstance(s, int) for s in seen), "written after each test, whole at any moment", seen[:3])
check(not path.is_symlink() and (TMP / "elsewhere").read_text() == "mine", "a link is replaced, not followed")
check(sorted(p.name for p in TMP.iterdir()) == ["elsewhere", "junit.xml", "results.json"], "nothing else is left")
writer(made_up(2, tests=[]))
check({t["number"][:2] for t in json.loads(path.read_text())["tests"]} == {"1."}, "a second lab adds to the first")
