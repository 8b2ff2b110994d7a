"""
Lab 4's tests that students don't have: 32-bit mode by the same functions, CPL 3, what must stay, and the largest map.
"""

from kit.testing import test
from lab04.tests import (ADDRESS, DATA_SEGMENTS, GIB, HIGH_TABLES, PML4, check_gdt, check_segment, check_state,
                         check_tables, check_task, guest_run, made, memory_of, place, told, words)

LEFT_ALONE = ("cr2", "cr8", "apic_base")


@test(task=1)
def protected_mode_uses_the_same_functions(t):
    """Flat 32-bit protected mode comes from the same functions"""
    s, run = made(t, command="protected")
    t.require(s["cs"]["db"] and not s["cs"]["l"], "PROTECTED_NOT_32_BIT", db=s["cs"]["db"], l=s["cs"]["l"])
    check_segment(t, "cs", s["cs"], 11)
    for name in DATA_SEGMENTS:
        check_segment(t, name, s[name], 3)
    check_task(t, s, base=0)
    check_gdt(t, s, memory_of(run))
    at, port = place(t), t.random.randrange(0x200, 0x3f0, 4)
    image = t.guest("flat32", NONCE=t.nonce, PORT=port)
    lines = ["kvm_open", "vm_create", "mem_ram 0x100000", "vcpu_create", f"load {image.path} {at:#x}",
             f"entry protected {at:#x} rsp=0x8000", "run 2"]
    run = t.rig("\n".join(lines) + "\n")
    got, want = told(t, run, 1, port), [t.nonce - 1 & 0xffffffff]
    t.require(got == want, "NOT_AS_EXPECTED", message=f"the guest told {words(got)}; right is {words(want)}")


@test(task=4)
def code_runs_at_cpl_3(t):
    """A guest opens pages to CPL 3, goes there, and computes with SSE"""
    check_state(t)
    at = place(t)
    away = t.random.randrange(0xc8000000, 0xf0000000, 1 << 21) + t.random.randrange(0, 1 << 20, 8)
    run = guest_run(t, t.guest("user", NONCE=t.nonce, AWAY=away, STACK=0x7000), at, 2)
    exits = run.trace.exits(vcpu=0)
    got = [(e.gpa, int.from_bytes(e.data, "little")) for e in exits if e.reason == "mmio" and e.write]
    want = [(away, 3), (away + 4, t.nonce * 2 & 0xffffffff)]
    t.require(len(got) == 2, "GUEST_ENDED_EARLY", count=len(got), want=2,
              end=exits[-1].reason or f"a KVM_RUN that failed with {exits[-1].ret}")
    t.require(got == want, "NOT_AS_EXPECTED",
              message=f"the guest told {words(v for _, v in got)}; right is {words(v for _, v in want)}")


@test(task=4)
def nothing_else_changes(t):
    """The APIC's address, CR2, CR8 and waiting interrupts stay as they were"""
    s, run = made(t)
    before = run.trace.ioctls("KVM_GET_SREGS")[0].out
    for field in LEFT_ALONE:
        t.require(s[field] == before[field], "FIELD_CLOBBERED", field=field, before=before[field], after=s[field])


@test(task=3)
def tables_end_at_512_gib(t):
    """Whatever size is asked for, the map has one PDPT: 512 GiB at most"""
    high = (HIGH_TABLES, 508 * 4096)
    size = 512 * GIB + t.random.randrange(1, 1 << 44)
    _, run = made(t, ram=3 * GIB, map_size=size, dump=[("last", *high)])
    read = memory_of(run, high)
    check_tables(t, read, PML4, 512, GIB - 2 * (1 << 21))
    t.require(read(PML4 + 8) == 0 and read(PML4) & ADDRESS, "MAPPED_TOO_FAR", index=512, entry=hex(read(PML4 + 8)),
              size=hex(size))
