"""Lab 7's tests that students don't have: the timer through the other controller, and many interrupts in a row."""

from kit.testing import test
from lab07.tests import Guest, answers, check_not_early, check_taken, check_timer


@test(task=1)
def the_timer_ticks_through_the_ioapic(t):
    """The PIT ticks through the IOAPIC."""
    ticks = t.random.randrange(2, 6)
    check_timer(t, Guest(t, "ticks", TICKS=ticks, IOAPIC=1), ticks)


@test(task=6)
def many_interrupts_one_by_one(t):
    """Interrupts that are injected one after the other all arrive."""
    guest = Guest(t, "window")
    ask = f"irq_vector {guest.vector:#x}"
    rounds = t.random.randrange(4, 8)
    run = t.rig(guest.script(None, "real", "run", ask, "run", *[ask, "run 2"] * rounds))
    check_not_early(t, run)
    check_taken(t, guest, run, answers(run, "irq_vector")[-1].rc, rounds)
