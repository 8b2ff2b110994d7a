"""
Lab 3's tests that students don't have: leaks, memory without a VM, copies near 2^64, and many slots at once.
"""

from kit.testing import test
from lab03.tests import (EFAULT, EINVAL, PAGE, WITH_VM, added, check_regions, check_told, filled, host_of, regions, script)

TIB = 1 << 40


@test(task=2)
def refused_slots_give_their_memory_back(t):
    """A slot that KVM refuses leaves no mapping behind"""
    # KVM takes slots below 8 TiB. A process has 128 TiB of addresses: what is not given back shows soon.
    gpa = PAGE * t.random.randrange(1, 1 << 20)
    size = 16 * TIB + PAGE * t.random.randrange(1 << 10)
    run = t.rig(script(WITH_VM, [f"mem_add {gpa:#x} {size:#x}"] * 12)[0])
    codes = [a.rc for a in run.answers[len(WITH_VM):]]
    t.require(all(rc < 0 for rc in codes), "KVM_REFUSAL_IGNORED", gpa=hex(gpa), size=hex(size))
    t.require(len(set(codes)) == 1, "HOST_LEAKED", times=next((i for i, rc in enumerate(codes) if rc != codes[0]), 0),
              first=codes[0], then=codes[-1])


@test(task=2)
def memory_works_without_a_vm(t):
    """Slots can be made without a VM: KVM isn't told, the rest works"""
    slots = [(PAGE * 16, PAGE * t.random.randrange(1, 9)), (1 << 32, PAGE * t.random.randrange(1, 9))]
    lines, contents = filled(t, slots)
    text, at = script(lines, [(f"read{i}", f"mem_read {g:#x} 512") for i, (g, _) in enumerate(slots)])
    run = t.rig(text)
    t.require(not regions(run), "SLOT_NEEDS_VM", rc=regions(run)[0].ret if regions(run) else 0)
    for answer in run.answers[:2]:
        t.require(answer.rc == 0, "SLOT_NEEDS_VM", rc=answer.rc)
    for i, content in enumerate(contents):
        t.require(run.answers[at[f"read{i}"]]["data"] == content[:512].hex(), "COPY_WRONG_BYTES",
                  what="hv_memory_read", gpa=hex(slots[i][0]), length=512, border="none")


@test(task=5)
def copies_do_not_wrap(t):
    """A copy that would pass 2^64 is refused, though there is memory on both sides of it"""
    size = PAGE * t.random.randrange(2, 9)
    top = 1 << 64
    asked = [(top - 8, 16), (top - PAGE, PAGE), (top - 1, 1), (top - PAGE - 8, PAGE + 16)]
    text, at = script(WITH_VM, f"mem_add 0 {size:#x}", f"mem_add {top - 2 * PAGE:#x} {PAGE:#x}",
                      [(f"{i}", f"mem_read {g:#x} {n:#x}") for i, (g, n) in enumerate(asked)])
    run = t.rig(text)
    for i, (g, n) in enumerate(asked):
        rc = run.answers[at[str(i)]].rc
        t.require(rc == EFAULT, "COPY_LEAPS_HOLE", what="hv_memory_read", gpa=hex(g), length=hex(n), rc=rc)


@test(task=4)
def many_slots_in_any_order(t):
    """Sixteen slots of all sizes, added in any order: each byte is where KVM has it"""
    r = t.random
    slots, gpa = [], PAGE
    for _ in range(16):
        size = PAGE * r.randrange(1, 400)
        slots.append((gpa, size))
        gpa += size + r.choice([0, 0, PAGE, 3 * PAGE, 1 << 33])
    r.shuffle(slots)
    questions = [(g + r.randrange(s), 1) for g, s in slots] + [(g, s) for g, s in slots]
    run = t.rig(script(WITH_VM, [f"mem_add {g:#x} {s:#x}" for g, s in slots],
                       [f"mem_at {g:#x} {n:#x}" for g, n in questions])[0])
    check_regions(t, run)
    for answer, (g, s) in zip(run.answers[len(WITH_VM):], slots):
        added(t, run, answer, g, s)
    check_told(t, run, slots)
    for answer, (g, n) in zip(run.answers[len(WITH_VM) + 16:], questions):
        t.require(answer["there"], "ACCESS_REFUSED", gpa=hex(g), length=hex(n))
        off = answer["host"] - host_of(t, run, g)
        t.require(off == 0, "ACCESS_WRONG_BYTE", gpa=hex(g), length=hex(n), off=off)
