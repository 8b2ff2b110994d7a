"""Lab 8's tests that students don't have: more CPUs, more kicks, and a reset while the guest runs."""

from kit.testing import test
from lab08.tests import LIMIT, Machine, check_kicks, check_no_livelock, count_together, deeds, started


@test(task=4)
def six_cpus_count_together(t):
    """Six CPUs count under one lock."""
    count_together(t, 6)


@test(task=5)
def many_pauses_and_calls(t):
    """Twelve times paused, called and resumed, the guest is still itself."""
    m = Machine(t, "spin", 2)
    step = [f"within {LIMIT} pause", f"within {LIMIT} call {t.random.randrange(2)}", f"within {LIMIT} resume"]
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", *step * 12, f"within {LIMIT} call 0",
                         "exit"), may_fail=True)
    started(t, run)
    check_no_livelock(t, run)
    check_kicks(t, run)
    late = [i for i, d in enumerate(deeds(run)) if d["late"]]
    t.require(not late, "PARKED_NOT_SET", ms=LIMIT)
    read = run.trace.ioctls("KVM_GET_REGS", vcpu=0)
    t.require(len(deeds(run)) == 37 and read and read[-1].out["rbx"] == t.nonce, "CALL_NOT_SERVED", ms=LIMIT)


@test(task=5)
def a_reset_starts_the_guest_again(t):
    """A reset parks all vCPUs, and the guest begins anew."""
    m = Machine(t, "spin", 2)
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", "within 2000 reset",
                         "gate_await 2 ms=400", "exit"),
                may_fail=True)
    started(t, run)
    check_no_livelock(t, run)
    t.require(deeds(run) and not deeds(run)[0]["late"], "PARKED_NOT_SET", ms=2000)
    t.require(run.answers and run.answers[-1].get("seen") == 2, "NOT_RESUMED")
