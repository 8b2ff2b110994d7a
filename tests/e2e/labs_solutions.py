#!/usr/bin/env python3
"""The reference solution of each lab has full marks, hidden tests included, whatever kind of KVM this machine has."""
# limit: 300
# box: intel
# box: long
import os
import sys

from labs_lib import LABS, SAN, TMP, graded, check, skip, solution, story

if SAN:
    skip("a sanitizer's build is graded by labs_kit's small lab")
if not os.environ.get("HVLAB_BOX"):
    skip("labs_handout grades the solutions on this machine's KVM")
check(len(LABS) >= 8, "there are labs", LABS)
failed = []
for number in LABS:
    result = graded(number, solution(number, TMP / f"lab{number}"), seed="solutions")
    good = result["score"] == result["max"] and result["verdict"] is None
    print("ok  " if good else "FAIL", f"lab {number}: {story(result)}", flush=True)
    if not good:
        failed.append(number)
sys.exit(f"labs {failed}: the solution has not full marks" if failed else 0)
