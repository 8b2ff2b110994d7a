"""`hvlab grade`: grades the labs that were asked for, one after the other, and tells or writes what was found."""
import os
import sys

from kit import tree as trees
from kit import work
from kit.grade import Grading
from kit.lab import Lab

DONE, FAILED = 0, 1


def full_marks(result):
    return result["complete"] and not result["verdict"] and result["score"] >= result["max"]


def keep_result(tree, result):
    """The last result, for hint, list and submit. A tree that can't be written to keeps none."""
    from kit.report import render, replace_file
    try:
        os.makedirs(tree.state, exist_ok=True)
        replace_file(os.path.join(tree.state, f"result-lab{result['lab']:02d}.json"), render("json", result))
    except OSError:
        pass


def listeners(options):
    """Who is told of each step: the results file, when one was asked for."""
    if not options.output:
        return None
    from kit.report import Writer
    return Writer(options.format or "json", options.output)


def grade_one(tree, lab, options, listener=None, seed=None):
    grading = Grading(tree, lab, seed=seed or options.seed, user=options.user, my_own=options.my_own, task=options.task,
                      only=getattr(options, "only", None), listener=listener)
    result = grading.run()
    if tree.remembers:
        if not grading.partial:
            keep_result(tree, result)
        work.remember(tree, lab, "graded")
    return grading, result


def main(tree, numbers, options):
    tree.need_handout()
    writer, results = listeners(options), []
    for number in numbers:
        lab = Lab(tree, number)
        grading, result = grade_one(tree, lab, options, writer)
        results.append(result)
        if not options.format or options.output:
            from kit.show import Report
            print(Report(result, trees.colour(), grading.warning, options.my_own, options.whole).text(), flush=True)
    if options.format and not options.output:
        from kit.report import render
        sys.stdout.write(render(options.format, results))
    elif len(results) > 1:
        score, full = sum(r["score"] for r in results), sum(r["max"] for r in results)
        print(f"{score:g} of {full:g} points in {len(results)} labs")
    return DONE if all(full_marks(result) for result in results) else FAILED
