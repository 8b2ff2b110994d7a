"""Reports: one grading's result as own JSON, for Gradescope, for Autolab, and as JUnit XML.

A result is the dict that staff/schemas/results.schema.json describes; what people read is kit/show.py's. Rules come from
Gradescope's "Autograder Specifications" (results.json, output string formats, visibility), Autolab's "Guide for Lab
Authors" (the last line is the autoresult) and "Formatted Feedback", and the JUnit XML that Ant writes and CI systems
read. What a student's program printed is hostile: control characters never reach a terminal or an XML file.
"""
import contextlib
import json
import os
import re
import tempfile
import xml.etree.ElementTree as xml

FORMATS = ("json", "gradescope", "autolab", "junit")
VISIBILITIES = ("hidden", "after_due_date", "after_published", "visible")
OUTPUT_LIMIT = 4000  # characters of a test's output in a report: Gradescope and mail programs choke on megabytes

# All but tab and newline; what XML 1.0 doesn't allow is among them.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def clean(text):
    """Text that does nothing to a terminal or an XML parser: control characters become \\x1b and the like."""
    return CONTROL.sub(lambda c: f"\\x{ord(c[0]):02x}", text.replace("\r\n", "\n"))


def shorten(text, limit=OUTPUT_LIMIT):
    """The head and the tail of a long text, with the number of characters left out between them."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters ...]\n{text[-half:]}"


def number(value):
    """Points without a fraction that isn't there: 4, 2.5."""
    return int(value) if float(value).is_integer() else round(value, 3)


def diagnosis_text(diagnosis):
    """What was seen, why, where to read: the same lines in each report."""
    return clean(f"{diagnosis['id']}: {diagnosis['seen']}\nWhy: {diagnosis['why']}\nRead: {diagnosis['read']}")


def test_text(test):
    """A test's diagnosis, then what its program printed."""
    parts = []
    if test["diagnosis"]:
        parts.append(diagnosis_text(test["diagnosis"]))
    if test["output"].strip():
        parts.append("Output:\n" + shorten(clean(test["output"])))
    return "\n\n".join(parts)


def points_of(result):
    """(score, extra) that count: nothing counts beside a verdict."""
    return (0, 0) if result["verdict"] else (result["score"], result["extra"])


def test_points(result, test):
    return 0 if result["verdict"] else test["score"]


def lab_name(result):
    return f"Lab {result['lab']}: {result['title']}"


def head_lines(result):
    """What a report says of a lab as a whole, before its tests."""
    score, extra = points_of(result)
    lines = [f"{lab_name(result)}: {number(score)} of {number(result['max'])} points"
             + (f", and {number(extra)} extra" if extra else "")]
    if not result["complete"]:
        lines.append("The grading did not end. What stands here was seen before it stopped.")
    if result["verdict"]:
        lines.append("The whole lab counts zero.\n" + diagnosis_text(result["verdict"]))
    if not result["compile"]["ok"]:
        lines.append("It does not compile:\n" + shorten(clean(result["compile"]["output"])))
    elif result["compile"]["warnings"]:
        lines.append(f"The compiler warns {result['compile']['warnings']} times:\n"
                     + shorten(clean(result["compile"]["output"])))
    if result["hidden_withheld"]:
        lines.append(f"Hidden tests with {number(result['hidden_withheld'])} more points run when it is graded "
                     "for the course.")
    return lines


# --- own JSON ---------------------------------------------------------------------------------------------------------
def as_json(results):
    """One lab's result as it is; several in a list with their sum."""
    whole = results[0] if len(results) == 1 else {
        "format": "hvlab-results-1", "labs": results, "max": sum(r["max"] for r in results),
        "score": sum(points_of(r)[0] for r in results), "extra": sum(points_of(r)[1] for r in results)}
    return json.dumps(whole, indent=1, sort_keys=True) + "\n"


# --- Gradescope -------------------------------------------------------------------------------------------------------
def gradescope_test(result, test, index, hidden, prefix):
    """One entry of tests: numbered TASK.INDEX (LAB.TASK.INDEX when several labs are in one file)."""
    tags = [f"lab{result['lab']:02d}"] + [f"task{test['task']}"] * bool(test["task"])
    tags += ["hidden"] * test["hidden"] + ["extra"] * test["extra"]
    score = test_points(result, test)
    entry = {
        "name": clean(test["title"]), "name_format": "text",
        "number": f"{prefix}{test['task'] or 0}.{index}",
        "score": number(score), "max_score": number(test["max"]),
        "status": "passed" if test["status"] == "passed" and not result["verdict"] else "failed",
        "output": test_text(test), "output_format": "text",
        "tags": tags, "visibility": hidden if test["hidden"] else "visible",
        "extra_data": {"test": test["name"], "status": test["status"], "duration_s": test["duration_s"],
                       "diagnosis": test["diagnosis"]["id"] if test["diagnosis"] else None}}
    if test["extra"]:
        entry["max_score"] = 0  # Gradescope lets a score exceed its maximum: that is extra credit
    return entry


def gradescope_tests(result, hidden, several):
    seen = {}
    for test in result["tests"]:
        seen[test["task"]] = seen.get(test["task"], 0) + 1
        yield gradescope_test(result, test, seen[test["task"]], hidden, f"{result['lab']}." if several else "")


def as_gradescope(results, hidden="after_published"):
    """results.json. hidden: who sees the hidden tests, one of VISIBILITIES."""
    score = sum(sum(points_of(r)) for r in results)
    seconds = sum(r["duration_s"] for r in results)
    keep = ("lab", "term", "user", "started", "duration_s", "kit", "backend", "max", "complete")
    return json.dumps({
        "score": number(score),
        "execution_time": int(seconds + 0.5),
        "output": "\n\n".join("\n\n".join(head_lines(r)) for r in results),
        "output_format": "text", "test_output_format": "text", "test_name_format": "text",
        "visibility": "visible", "stdout_visibility": "hidden",
        "extra_data": {"labs": [dict({k: r[k] for k in keep}, verdict=r["verdict"]["id"] if r["verdict"] else None)
                                for r in results]},
        "tests": [t for r in results for t in gradescope_tests(r, hidden, len(results) > 1)],
        "leaderboard": [
            {"name": "Points", "value": number(score), "order": "desc"},
            {"name": "Extra", "value": number(sum(points_of(r)[1] for r in results)), "order": "desc"},
            {"name": "Seconds", "value": round(seconds, 2), "order": "asc"}],
    }, indent=1) + "\n"


# --- Autolab ----------------------------------------------------------------------------------------------------------
def autolab_problem(test):
    """The problem that a test belongs to. The assessment's problems must have these names."""
    return "extra" if test["extra"] else "hidden" if test["hidden"] else f"task{test['task'] or 0}"


def autolab_problems(result):
    """{name: (score, max)} in order: the tasks, hidden, extra."""
    problems = {f"task{task['number']}": [0, 0] for task in result["tasks"]}
    for test in sorted(result["tests"], key=lambda t: (t["extra"], t["hidden"])):
        pair = problems.setdefault(autolab_problem(test), [0, 0])
        pair[0] += test_points(result, test)
        pair[1] += test["max"]
    return problems


def as_autolab(results):
    """Feedback as text, the semantic line that Autolab renders, and as the last line the autoresult."""
    several = len(results) > 1
    lines, stages, scores = [], {}, {}
    for result in results:
        lab = f"lab{result['lab']:02d}"
        lines += ["\n".join(head_lines(result))]
        stage = stages.setdefault(lab, {"It compiles": {"passed": result["compile"]["ok"]}})
        for test in result["tests"]:
            if test["hidden"]:
                continue  # only their sum is told
            passed = test["status"] == "passed" and not result["verdict"]
            stage[clean(test["title"])] = {"passed": passed} if passed or not test["diagnosis"] else {
                "passed": False, "hint": diagnosis_text(test["diagnosis"])}
            lines.append(f"{'passed' if passed else 'FAILED'} {clean(test['title'])}: "
                         f"{number(test_points(result, test))} of {number(test['max'])}")
            if not passed and test_text(test):
                lines.append(re.sub("^", "    ", test_text(test), flags=re.M))
        for name, (score, _) in autolab_problems(result).items():
            scores[f"{lab} {name}" if several else name] = number(score)
    text = "\n".join(lines)
    semantic = {"_presentation": "semantic", "stages": list(stages), **stages}
    score = sum(sum(points_of(r)) for r in results)
    board = [number(score), round(sum(r["duration_s"] for r in results), 2)]
    return f"{text}\n{json.dumps(semantic)}\n{json.dumps({'scores': scores, 'scoreboard': board})}\n"


# --- JUnit ------------------------------------------------------------------------------------------------------------
def junit_case(suite, classname, name, seconds=0.0, problem=None, output=""):
    """problem: None or (element, type, message, text)."""
    case = xml.SubElement(suite, "testcase", classname=classname, name=clean(name), time=f"{seconds:.3f}")
    if problem:
        kind, what, message, text = problem
        xml.SubElement(case, kind, type=what, message=clean(message)).text = clean(text)
    if output.strip():
        xml.SubElement(case, "system-out").text = shorten(clean(output))


def junit_problem(test):
    if test["status"] == "passed":
        return None
    kind = "error" if test["status"] == "error" else "failure"
    diagnosis = test["diagnosis"]
    if not diagnosis:
        return kind, test["status"], f"{number(test['score'])} of {number(test['max'])} points", ""
    return kind, diagnosis["id"], diagnosis["seen"], diagnosis_text(diagnosis)


def junit_suite(result):
    lab = f"lab{result['lab']:02d}"
    suite = xml.Element("testsuite", name=f"{lab} {clean(result['title'])}", timestamp=result["started"][:19],
                        hostname="localhost", time=f"{result['duration_s']:.3f}")
    properties = xml.SubElement(suite, "properties")
    for key in ("score", "max", "extra", "hidden_withheld", "term", "user", "kit", "backend", "complete"):
        if result[key] is not None:
            xml.SubElement(properties, "property", name=key, value=clean(str(result[key])))
    built = None if result["compile"]["ok"] else ("error", "COMPILE", "it does not compile", result["compile"]["output"])
    junit_case(suite, lab, "it compiles", problem=built)
    if verdict := result["verdict"]:
        junit_case(suite, lab, "it may be graded", problem=("error", verdict["id"], verdict["seen"],
                                                            diagnosis_text(verdict)))
    for test in result["tests"]:
        junit_case(suite, f"{lab}.task{test['task'] or 0}", test["title"], test["duration_s"], junit_problem(test),
                   test["output"])
    for name, tag in (("tests", "testcase"), ("failures", "testcase/failure"), ("errors", "testcase/error")):
        suite.set(name, str(len(suite.findall(tag))))
    suite.set("skipped", "0")
    return suite


def as_junit(results):
    root = xml.Element("testsuites", name="hvlab")
    root.extend(junit_suite(r) for r in results)
    for name in ("tests", "failures", "errors"):
        root.set(name, str(sum(int(suite.get(name)) for suite in root)))
    root.set("time", f"{sum(r['duration_s'] for r in results):.3f}")
    xml.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + xml.tostring(root, encoding="unicode") + "\n"


# --- files ------------------------------------------------------------------------------------------------------------
def hidden_tests(hidden=None):
    """Who sees hidden tests: as told, or by HVLAB_HIDDEN, or all once grades are published."""
    return hidden or (told if (told := os.environ.get("HVLAB_HIDDEN")) in VISIBILITIES else "after_published")


def render(kind, results, hidden=None):
    """The report that a FORMATS name asks for. results: one dict or a list of them."""
    results = [results] if isinstance(results, dict) else list(results)
    if kind == "gradescope":
        return as_gradescope(results, hidden_tests(hidden))
    return {"json": as_json, "autolab": as_autolab, "junit": as_junit}[kind](results)


def replace_file(path, text):
    """path holds all of text, or what it held before: never a half. A link at path is replaced, not followed."""
    path = os.path.abspath(path)
    fd, name = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=os.path.dirname(path))
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="backslashreplace") as out:
            out.write(text)
            out.flush()
            os.fsync(out.fileno())
        os.chmod(name, 0o644)
        os.replace(name, path)
    except BaseException:  # a time limit's, too, which may come when the name is its own no more
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
        raise


class Writer:
    """Keeps a results file true while labs are being graded: the grader calls it after each test.

    Call it with one lab's result so far; labs that were given before keep their place.
    """

    def __init__(self, kind, path, hidden=None):
        self.kind, self.path, self.hidden = kind, path, hidden
        self.labs = {}

    def __call__(self, result):
        self.labs[result["lab"]] = result
        replace_file(self.path, render(self.kind, list(self.labs.values()), self.hidden))
