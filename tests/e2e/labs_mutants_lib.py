"""Mutants: each patch of labs/staff/mutants/labNN makes one mistake, which the grader must name and mark down.

A patch begins with what it is for (labs/README.md): `expect:` the diagnosis, `loses:` the tests that lose points, with a
question mark behind those that may. Everything else keeps its full marks; other labs can't lose any, as the student's
files of this lab are all that is linked.
"""
import concurrent.futures

from labs_lib import *

MUTANTS = SRC / "labs/staff/mutants"


SEED = os.environ.get("HVLAB_SEED", "mutants")  # one that stays: a mutant may hide from some
failures = []


def want(good, what, *seen):
    """Like check, but the other mutants have their turn, too."""
    if good:
        print("ok  ", what)
    else:
        failures.append(what)
        print("FAIL", what + ":", " | ".join(map(str, seen)))
    return good


class Mutant:
    def __init__(self, path):
        self.path, self.name = path, f"{path.parent.name}/{path.stem}"
        head = path.read_text().split("\n--- ", 1)[0]
        fields = dict(line.split(":", 1) for line in head.splitlines() if line.startswith(("expect:", "loses:")))
        self.told = want(set(fields) == {"expect", "loses"}, f"{self.name} says what to expect and what it loses", head)
        self.expect = fields.get("expect", "").split()
        words = fields.get("loses", "").split()
        self.must = {word for word in words if not word.endswith("?")}
        self.may = {word.rstrip("?") for word in words}

    def spread(self, names):
        """* stands for all tests."""
        self.must = self.must - {"*"} | (names if "*" in self.must else set())
        self.may = self.may - {"*"} | (names if "*" in self.may else set())

    def fits(self, one, names):
        return (self.told and want(self.may <= names, f"{self.name} names tests of the lab", self.may - names)
                and want(set(self.expect) <= set(one.diagnoses), f"{self.name} expects what the lab can name", self.expect))

    def apply(self, number, folder):
        solution(number, folder)
        done = run("patch", "-s", "-p1", "-d", folder, "--no-backup-if-mismatch", "-i", self.path, status=None)
        return want(done.returncode == 0, f"{self.name} applies to the solution", done.stdout + done.stderr)


def judge(mutant, result, solved):
    """solved: the solution's result. A challenge that it doesn't take on can't be lost."""
    seen, lost = ids(result), losers(result) - losers(solved)
    sound = result["compile"]["ok"] and result["verdict"] is None and "error" not in {t["status"] for t in result["tests"]}
    if not want(sound, f"{mutant.name} builds, and no test falls over", story(result)):
        return
    missing = [ident for ident in mutant.expect if ident not in seen.values()]
    want(not missing, f"{mutant.name}: {' and '.join(mutant.expect)} named", story(result))
    want(mutant.must <= lost <= mutant.may, f"{mutant.name}: those that should lose points do, and no others",
         f"lost {sorted(lost)}, of {sorted(mutant.must)}, maybe {sorted(mutant.may - mutant.must)}", story(result))


def as_told(mutant, result, solved):
    lost = losers(result) - losers(solved)
    return mutant.must <= lost <= mutant.may and set(mutant.expect) <= set(ids(result).values())


def main(number, at_once=3):
    """at_once: how many mutants are graded side by side; one that hangs is only waited for."""
    if SAN:
        skip("a sanitizer ends a mutant before it shows what it does")
    if number not in LABS:
        skip(f"there is no lab {number} yet")
    one = lab.Lab(tree.find(), number)
    mutants = [Mutant(path) for path in sorted((MUTANTS / f"lab{number:02d}").glob("*.patch"))]
    names = {p.info.name for p in grade.plan(one)}
    solved = graded(number, solution(number, TMP / "solution"), seed=SEED)
    want(solved["score"] == solved["max"], f"lab {number}: the solution has full marks", story(solved))
    sound = []
    for mutant in mutants:
        mutant.spread(names)
        if mutant.fits(one, names) and mutant.apply(number, TMP / mutant.path.stem):
            sound.append(mutant)
    with concurrent.futures.ThreadPoolExecutor(at_once) as pool:
        results = pool.map(lambda mutant: graded(number, TMP / mutant.path.stem, seed=SEED), sound)
        results = list(results)
    for mutant, result in zip(sound, results):
        if not as_told(mutant, result, solved):  # a mistake in threads may show otherwise once, on a busy machine; it's said
            print(f"     {mutant.name} is graded again, alone: {story(result)}")
            result = graded(number, TMP / mutant.path.stem, seed=SEED)
        judge(mutant, result, solved)
    own = {ident for ident, entry in one.diagnoses.items() if entry.lab == number}
    missing = own - {ident for mutant in mutants for ident in mutant.expect}
    want(not missing, f"lab {number}: each diagnosis has a mutant", sorted(missing))
    if failures:
        sys.exit(f"{len(failures)} of lab {number}'s mutants' checks failed")


def some(chosen):
    """chosen: {lab: names of its mutants}. Only these are graded, one after another, each lab's solution first."""
    if SAN:
        skip("a sanitizer ends a mutant before it shows what it does")
    for number, stems in chosen.items():
        one = lab.Lab(tree.find(), number)
        names = {p.info.name for p in grade.plan(one)}
        solved = graded(number, solution(number, TMP / f"solution{number}"), seed=SEED)
        want(solved["score"] == solved["max"], f"lab {number}: the solution has full marks", story(solved))
        for stem in stems:
            mutant = Mutant(MUTANTS / f"lab{number:02d}" / f"{stem}.patch")
            mutant.spread(names)
            folder = TMP / f"{number}-{stem}"
            if mutant.fits(one, names) and mutant.apply(number, folder):
                judge(mutant, graded(number, folder, seed=SEED), solved)
    if failures:
        sys.exit(f"{len(failures)} checks failed: {'; '.join(failures)}")
