"""
Lab 3, guest memory: core/kvm/memory.c. What is judged is what KVM was told (the arguments of each
KVM_SET_USER_MEMORY_REGION), what guests did in that memory, and what hv_memory_at and the copies answer about
bytes that only the seed knows. Rules: KVM API 4.35.
"""

import struct

from kit.testing import test

PAGE = 4096
MIB = 1 << 20
GIB = 1 << 30
HOLE_START, HOLE_END = 3 * GIB, 4 * GIB
EINVAL, EFAULT, EEXIST, ENOSPC = -22, -14, -17, -28
READONLY = 2  # KVM_MEM_READONLY

WITH_VM = ["kvm_open", "vm_create"]
WITH_VCPU = WITH_VM + ["vcpu_create"]


# --- what several tests do ---

def script(*parts):
    """One script of commands, lists of commands and their answers' places: returns text and {name: index}."""
    lines, places = [], {}
    for part in parts:
        for line in [part] if isinstance(part, (str, tuple)) else part:
            if isinstance(line, tuple):
                places[line[0]] = len(lines)
                line = line[1]
            lines.append(line)
    return "\n".join(lines) + "\n", places


def regions(run):
    """Each KVM_SET_USER_MEMORY_REGION: what the slots are, by what KVM was told."""
    return run.trace.ioctls("KVM_SET_USER_MEMORY_REGION")


def check_regions(t, run, refusals=True):
    """What holds of every slot in every lab: pages, no live slot changed, no overlap, no refusal by KVM."""
    live = {}
    for call in regions(run):
        a = call.args
        slot, gpa, size, host = a["slot"], a["guest_phys_addr"], a["memory_size"], a["userspace_addr"]
        t.require(gpa % PAGE == 0 and size % PAGE == 0 and host % PAGE == 0, "SLOT_UNALIGNED",
                  gpa=hex(gpa), size=hex(size), rc=call.ret)
        if slot in live:
            old = live[slot]
            t.require(old[1] == size, "SLOT_RESIZED_LIVE", slot=slot, old=hex(old[1]), new=hex(size),
                      old_gpa=hex(old[0]), new_gpa=hex(gpa))
            t.fail("SLOT_NUMBER_TAKEN", slot=slot, old_gpa=hex(old[0]), new_gpa=hex(gpa))
        for number, (other, length) in live.items():
            t.require(gpa >= other + length or other >= gpa + size, "SLOT_OVERLAP",
                      gpa=hex(gpa), end=hex(gpa + size - 1), other=hex(other), other_end=hex(other + length - 1))
        t.require(call.ret == 0 or not refusals, "SLOT_REFUSED_BY_KVM", slot=slot, gpa=hex(gpa), size=hex(size), rc=call.ret)
        live[slot] = (gpa, size)
    return live


def host_of(t, run, gpa):
    """Where KVM was told that this byte of guest memory is."""
    for call in regions(run):
        a = call.args
        if call.ret == 0 and a["guest_phys_addr"] <= gpa < a["guest_phys_addr"] + a["memory_size"]:
            return a["userspace_addr"] + gpa - a["guest_phys_addr"]
    t.fail("SLOT_NOT_TOLD", told=told(check_regions(t, run)), want=f"such that {gpa:#x} is in one")


def added(t, run, answer, gpa, size):
    """A slot that is in order must be taken. Where KVM refused it, what KVM was told says why."""
    if answer.rc != 0:
        check_regions(t, run, refusals=False)
    t.require(answer.rc == 0, "GOOD_SLOT_REFUSED", gpa=hex(gpa), size=hex(size), rc=answer.rc, error=answer.error)


def pick(t, low, high, step=PAGE):
    """A seeded multiple of step in [low, high)."""
    return t.random.randrange(low, high, step)


# --- task 1: what can't be a slot ---

@test(task=1)
def slots_are_whole_pages(t):
    """A slot is whole pages of 4 KiB, and at least one"""
    r = t.random
    gpa, size = pick(t, 0, GIB), pick(t, PAGE, MIB)
    bad = [(gpa + r.randrange(1, PAGE), size), (gpa, size + r.randrange(1, PAGE)), (gpa, r.randrange(1, PAGE)),
           (gpa + 2048, size), (gpa, 0)]
    run = t.rig(script(WITH_VM, [f"mem_add {g:#x} {s:#x}" for g, s in bad])[0])
    for answer, (g, s) in zip(run.answers[len(WITH_VM):], bad):
        t.require(answer.rc == EINVAL, "SLOT_UNALIGNED", gpa=hex(g), size=hex(s), rc=answer.rc)
    check_regions(t, run)


@test(task=1)
def slots_end_below_2_to_the_64(t):
    """A slot may not wrap past the end of the address space"""
    top = 1 << 64
    pages = t.random.randrange(2, 1000)
    gpa = top - pages * PAGE
    bad = [(gpa, (pages + t.random.randrange(1, 500)) * PAGE), (pages * PAGE, top - pages * PAGE),
           (PAGE * 7, top - PAGE)]
    run = t.rig(script(WITH_VM, [f"mem_add {g:#x} {s:#x}" for g, s in bad])[0])
    for answer, (g, s) in zip(run.answers[len(WITH_VM):], bad):
        t.require(answer.rc == EINVAL, "SLOT_WRAPS", gpa=hex(g), size=hex(s), rc=answer.rc)
    t.require(not regions(run), "SLOT_WRAPS", gpa=hex(gpa), size="", rc=0)


# --- task 2: a slot ---

@test(task=2)
def kvm_gets_what_the_slot_says(t):
    """KVM is told address, size and host memory, and a guest runs in it"""
    code, data = pick(t, 0x1000, 0x8000), pick(t, 0x20000, 0x80000)
    sizes = t.random.sample(range(1, 8), 2)
    word, port = t.random.randrange(1 << 32), t.random.randrange(0x200, 0x3f0, 4)
    image = t.guest("slots", NONCE=t.nonce, DATA=data, PORT=port)
    values = t.file("data", struct.pack("<I", word))
    text, at = script(WITH_VM, ("code", f"mem_add {code:#x} {sizes[0] * PAGE:#x}"),
                      ("data", f"mem_add {data:#x} {sizes[1] * PAGE:#x}"), "vcpu_create",
                      f"load {image.path} {code:#x}", f"load {values} {data:#x}", f"entry real {code:#x}", "run 3")
    run = t.rig(text, dump=[("last", data, 8)])
    added(t, run, run.answers[at["code"]], code, sizes[0] * PAGE)
    added(t, run, run.answers[at["data"]], data, sizes[1] * PAGE)
    check_told(t, run, [(code, sizes[0] * PAGE), (data, sizes[1] * PAGE)])
    t.credit(0.5)
    exits = run.trace.exits(vcpu=0)
    seen = int.from_bytes(exits[0].data, "little") if exits and exits[0].reason == "io" else None
    t.require(seen == word ^ t.nonce, "GUEST_MEMORY_WRONG", gpa=hex(data), want=hex(word ^ t.nonce), seen=how(exits))
    t.require(run.memory("last", data, 8) == struct.pack("<II", word, word ^ t.nonce), "GUEST_MEMORY_WRONG",
              gpa=hex(data + 4), want=hex(word ^ t.nonce), seen=run.memory("last", data, 8).hex())


def told(live):
    """Slots in words."""
    return ", ".join(f"{size:#x} bytes at {gpa:#x}" for gpa, size in live.values()) or "nothing"


def how(exits):
    """The exits of a run in words."""
    if not exits:
        return "no exit at all"
    names = [e.reason or f"KVM_RUN failed with {e.ret}" for e in exits]
    last = exits[-1]
    if last.reason == "mmio":
        names[-1] += f" at {last.gpa:#x}"
    if last.reason == "io":
        names[-1] += f" with {last.data.hex()}"
    return ", ".join(names)


@test(task=2)
def numbers_of_live_slots_stay_theirs(t):
    """Each slot has a number of its own, in whatever order they come; the array stays sorted"""
    bases = [i * MIB for i in range(1, 8)]
    t.random.shuffle(bases)
    bases.append(0)  # and one below all others, so that at least one comes out of order
    sizes = t.random.sample(range(1, 200), len(bases))
    want = [(base, pages * PAGE) for base, pages in zip(bases, sizes)]
    text, at = script(WITH_VM, [(f"add{i}", f"mem_add {g:#x} {s:#x}") for i, (g, s) in enumerate(want)],
                      ("slots", "mem_slots"))
    run = t.rig(text)
    check_regions(t, run)
    for i, (g, s) in enumerate(want):
        added(t, run, run.answers[at[f"add{i}"]], g, s)
    check_told(t, run, want)
    t.credit(0.7)
    slots = run.answers[at["slots"]]
    order = [slots[f"gpa{i}"] for i in range(slots["count"])] if slots["count"] <= 16 else []
    t.require(order == sorted(bases), "SLOTS_UNSORTED", order=" ".join(map(hex, order)))


@test(task=2)
def neighbours_touch_but_never_overlap(t):
    """Slots may touch, but not share a byte; KVM isn't even asked"""
    r = t.random
    gpa, pages = pick(t, 64 * MIB, 128 * MIB), r.randrange(8, 64)
    size = pages * PAGE
    cut = r.randrange(1, pages)
    bad = [(gpa, size), (gpa + cut * PAGE, PAGE), (gpa + size - PAGE, 4 * PAGE), (gpa - 3 * PAGE, 4 * PAGE),
           (gpa - PAGE, size + 2 * PAGE), (gpa, PAGE), (gpa + cut * PAGE, size), (gpa - PAGE, size + PAGE)]
    good = [(gpa + size, PAGE * r.randrange(1, 9)), (gpa - PAGE * 5, 5 * PAGE)]
    text, at = script(WITH_VM, ("first", f"mem_add {gpa:#x} {size:#x}"),
                      [(f"bad{i}", f"mem_add {g:#x} {s:#x}") for i, (g, s) in enumerate(bad)],
                      [(f"good{i}", f"mem_add {g:#x} {s:#x}") for i, (g, s) in enumerate(good)])
    run = t.rig(text)
    added(t, run, run.answers[at["first"]], gpa, size)
    check_regions(t, run)
    for i, (g, s) in enumerate(bad):
        t.require(run.answers[at[f"bad{i}"]].rc == EEXIST, "SLOT_OVERLAP", gpa=hex(g), end=hex(g + s - 1),
                  other=hex(gpa), other_end=hex(gpa + size - 1))
    for i, (g, s) in enumerate(good):
        t.require(run.answers[at[f"good{i}"]].rc == 0, "TOUCHING_REFUSED", gpa=hex(g), end=hex(g + s),
                  other=hex(gpa), other_end=hex(gpa + size), rc=run.answers[at[f"good{i}"]].rc)


@test(task=2)
def roms_are_read_only(t):
    """A guest's write to a read-only slot comes out as MMIO and changes nothing"""
    code, rom = pick(t, 0x1000, 0x8000), pick(t, 0xc0000, 0xe0000)
    offset, port = t.random.randrange(0, 0x800, 4), t.random.randrange(0x200, 0x3f0, 4)
    content = t.random.randbytes(0x1000)
    word = content[offset:offset + 4]
    image = t.guest("rom", NONCE=t.nonce, ROM=rom, OFF=offset, PORT=port)
    text, at = script(WITH_VM, f"mem_add {code:#x} {2 * PAGE:#x}", ("rom", f"mem_add {rom:#x} {PAGE:#x} ro"),
                      "vcpu_create", f"load {image.path} {code:#x}",
                      ("load", f"load {t.file('rom', content)} {rom:#x}"),
                      f"entry real {code:#x}", "run 6")
    run = t.rig(text, dump=[("last", rom, PAGE)])
    added(t, run, run.answers[at["rom"]], rom, PAGE)
    check_told(t, run, [(code, 2 * PAGE), (rom, PAGE)])
    flags = {call.args["guest_phys_addr"]: call.args["flags"] for call in regions(run)}
    t.require(flags.get(rom, 0) & READONLY, "READONLY_FLAG_MISSING", gpa=hex(rom), flags=flags.get(rom))
    t.require(not flags.get(code, 0) & READONLY, "READONLY_EVERYWHERE", gpa=hex(code), flags=flags.get(code))
    t.credit(0.5)
    exits = run.trace.exits(vcpu=0)
    got = [(e.reason, e.gpa if e.reason == "mmio" else e.port, e.data) for e in exits[:3]]
    want = [("io", port, word), ("mmio", rom + offset, struct.pack("<I", t.nonce)), ("io", port, word)]
    t.require(run.answers[at["load"]]["bytes"] == PAGE, "NOT_AS_EXPECTED",
              message="the ROM's content could not be put into it: its host memory can't be written, though only the "
              "guest must not write there")
    t.require(got == want, "READONLY_FLAG_MISSING", gpa=hex(rom), flags=f"{flags[rom]}, exits: {how(exits)}")
    t.require(run.memory("last", rom, PAGE) == content, "READONLY_FLAG_MISSING", gpa=hex(rom), flags=flags[rom])


@test(task=2)
def sixteen_slots_and_no_more(t):
    """All sixteen slots can be used; the seventeenth is refused with -ENOSPC"""
    size = PAGE * t.random.randrange(1, 5)
    bases = [i * 2 * MIB for i in range(17)]
    t.random.shuffle(bases)
    text, at = script(WITH_VM, [(f"add{i}", f"mem_add {g:#x} {size:#x}") for i, g in enumerate(bases)])
    run = t.rig(text)
    check_regions(t, run)
    for i, g in enumerate(bases[:16]):
        added(t, run, run.answers[at[f"add{i}"]], g, size)
    last = run.answers[at["add16"]].rc
    if len(regions(run)) < 16:
        check_told(t, run, [(g, size) for g in bases[:16]])
    t.require(last == ENOSPC and len(regions(run)) == 16, "SLOTS_OVERRUN", rc=last)


# --- task 3: RAM ---

def ram(t, size):
    """mem_ram of this size, and the slots that came of it, sorted by address."""
    run = t.rig(script(WITH_VM, f"mem_ram {size:#x}")[0])
    answer = run.answers[len(WITH_VM)]
    live = sorted(check_regions(t, run).values())
    return answer, live


@test(task=3)
def ram_is_rounded_up_to_pages(t):
    """RAM starts at 0 and is rounded up to whole pages"""
    pages, rest = t.random.randrange(64, 4096), t.random.randrange(1, PAGE)
    for size, want in ((pages * PAGE, pages), (pages * PAGE + rest, pages + 1)):
        answer, live = ram(t, size)
        t.require(answer.rc == 0, "RAM_REFUSED", size=hex(size), rc=answer.rc, error=answer.error)
        t.require(live == [(0, want * PAGE)], "RAM_NOT_ROUNDED", size=hex(size),
                  slots=told(dict(enumerate(live))))


@test(task=3)
def large_ram_goes_around_the_hole(t):
    """RAM above 3 GiB goes on at 4 GiB; nothing lies between, nothing is lost"""
    pages = t.random.randrange(1, 1 << 18)
    for size in (HOLE_START + pages * PAGE, HOLE_START - pages * PAGE, HOLE_START, 2 * HOLE_START + pages * PAGE):
        answer, live = ram(t, size)
        slots = told(dict(enumerate(live)))
        t.require(all(g + s <= HOLE_START or g >= HOLE_END for g, s in live), "HOLE_FILLED", size=hex(size),
                  slots=slots)
        t.require(answer.rc == 0, "RAM_REFUSED", size=hex(size), rc=answer.rc, error=answer.error)
        low = min(size, HOLE_START)
        want = [(0, low)] + ([(HOLE_END, size - low)] if size > low else [])
        t.require(live == want, "RAM_LOST", size=hex(size), slots=slots,
                  lost=hex(max(0, size - sum(s for _, s in live))))


def tables(at, pages):
    """Three page tables, to be loaded at `at`: the first 2 MiB map to themselves, then these pages of 2 MiB follow."""
    flags = 3  # present, writable
    def table(entries):
        return struct.pack("<512Q", *entries, *[0] * (512 - len(entries)))
    large = [page | flags | 0x80 for page in (0, *pages)]
    return table([at + PAGE | flags]) + table([at + 2 * PAGE | flags]) + table(large)


@test(task=3)
def the_guest_finds_ram_on_both_sides_of_the_hole(t):
    """A guest finds RAM below 3 GiB and from 4 GiB on, and only exits between"""
    r = t.random
    top = HOLE_END + 2 * MIB * r.randrange(2, 64)
    size = top - HOLE_END + HOLE_START
    load, cr3 = pick(t, 0x1000, 0x8000), pick(t, 0x9000, 0x20000)
    offset, port = r.randrange(0, 0x100000, 8), r.randrange(0x200, 0x3f0, 4)
    pages = [HOLE_START - 2 * MIB, HOLE_START, HOLE_END - 2 * MIB, HOLE_END, top - 2 * MIB]
    image = t.guest("hole", NONCE=t.nonce, OFF=offset, PORT=port)
    reply = r.randbytes(4)
    text, at = script(WITH_VM, ("ram", f"mem_ram {size:#x}"), "vcpu_create", f"load {image.path} {load:#x}",
                      f"load {t.file('tables', tables(cr3, pages))} {cr3:#x}", f"long_mode {load:#x} {cr3:#x}",
                      f"run 12 in={reply.hex()}")
    inside = [pages[0] + offset, pages[3] + offset, pages[4] + offset]
    run = t.rig(text, dump=[("last", gpa, 4) for gpa in inside])
    answer = run.answers[at["ram"]]
    check_regions(t, run, refusals=False)
    t.require(answer.rc == 0, "RAM_REFUSED", size=hex(size), rc=answer.rc, error=answer.error)
    live = sorted(check_regions(t, run).values())
    t.require(all(g + s <= HOLE_START or g >= HOLE_END for g, s in live), "HOLE_FILLED", size=hex(size),
              slots=told(dict(enumerate(live))))
    want = []
    for n, page in enumerate(pages, 1):
        value = struct.pack("<I", t.nonce + n & 0xffffffff)
        if page in pages[1:3]:
            want += [("mmio", page + offset, True, value), ("mmio", page + offset, False, None),
                     ("io", port, True, reply)]
        else:
            want += [("io", port, True, value)]
    exits = run.trace.exits(vcpu=0)
    got = [("io", e.port, e.out, e.data) if e.reason == "io" else
           ("mmio", e.gpa, e.write, e.data if e.write else None) for e in exits if e.reason in ("io", "mmio")]
    t.require(got == want, "NOT_AS_EXPECTED", message=f"the guest's exits were {how(exits)}; expected were io for RAM, "
              "and for each end of the hole an mmio write, an mmio read and io")
    for n, gpa in zip((1, 4, 5), inside):
        value, seen = t.nonce + n & 0xffffffff, run.memory("last", gpa, 4)
        t.require(seen == struct.pack("<I", value), "GUEST_MEMORY_WRONG", gpa=hex(gpa), want=hex(value),
                  seen=seen.hex())


# --- task 4: the accessor ---

def layout(t):
    """Four slots: two that touch, a gap, one alone, and one far above 4 GiB. (gpa, size) each."""
    r = t.random
    a = pick(t, MIB, 2 * MIB)
    sizes = [PAGE * n for n in r.sample(range(2, 9), 4)]  # the rig reads 64 KiB at a time, so two together are less
    return [(a, sizes[0]), (a + sizes[0], sizes[1]), (a + sizes[0] + sizes[1] + PAGE * r.randrange(1, 5), sizes[2]),
            (pick(t, 5 * GIB, 500 * GIB), sizes[3])]


def check_told(t, run, slots):
    """KVM knows exactly these slots."""
    live = check_regions(t, run)
    t.require(sorted(live.values()) == sorted(slots), "SLOT_NOT_TOLD", told=told(live), want=told(dict(enumerate(slots))))


def ask(t, slots, questions):
    """mem_at for each (gpa, length); returns the run and its answers to them. One that says no to all gets nowhere."""
    plain = slots[0][0]
    run = t.rig(script(WITH_VM, [f"mem_add {g:#x} {s:#x}" for g, s in slots], f"mem_at {plain:#x} 1",
                       [f"mem_at {g:#x} {n:#x}" for g, n in questions])[0])
    for answer, (g, s) in zip(run.answers[len(WITH_VM):], slots):
        added(t, run, answer, g, s)
    check_told(t, run, slots)
    first, *answers = run.answers[len(WITH_VM) + len(slots):]
    t.require(first["there"], "ACCESS_REFUSED", gpa=hex(plain), length="0x1")
    return run, answers


@test(task=4)
def every_byte_of_a_slot_is_reached(t):
    """The accessor reaches each byte of each slot, the last one too, where KVM has it"""
    slots = layout(t)
    questions = []
    for g, s in slots:
        middle = t.random.randrange(1, s - 8)
        questions += [(g, 1), (g, s), (g + middle, 8), (g + middle, s - middle), (g + s - 1, 1)]
    run, answers = ask(t, slots, questions)
    for answer, (g, n) in zip(answers, questions):
        t.require(answer["there"], "ACCESS_REFUSED", gpa=hex(g), length=hex(n))
        off = answer["host"] - host_of(t, run, g)
        t.require(off == 0, "ACCESS_WRONG_BYTE", gpa=hex(g), length=hex(n), off=off)


@test(task=4)
def nothing_outside_is_reached(t):
    """The accessor refuses what begins or ends outside a slot, however large the length"""
    slots = layout(t)
    questions, wraps = [], []
    for g, s in (slots[0], slots[2], slots[3]):
        middle = t.random.randrange(1, s)
        if (g, s) != slots[0]:  # what follows the first is the second
            questions += [(g + s, 1), (g + s - 1, 2), (g + s - 8, 16), (g + middle, s)]
        questions += [(g - 1, 1), (g - 1, 2), (g - PAGE, s + PAGE), (g, 1 << 40)]
        top = 1 << 64
        wraps += [(g + middle, top - middle), (g + middle, top - 1), (g + 8, top - g), (g, top - 1),
                  (g + s - 1, top - s + 2)]
    wraps += [((1 << 64) - 1, 1), ((1 << 64) - 1, 2), ((1 << 64) - 8, 16)]
    _, answers = ask(t, slots, questions + wraps)
    for answer, (g, n) in zip(answers, questions):
        t.require(not answer["there"], "ACCESS_OUTSIDE", gpa=hex(g), length=hex(n), slots=told(dict(enumerate(slots))))
    t.credit(0.5)
    for answer, (g, n) in zip(answers[len(questions):], wraps):
        t.require(not answer["there"], "ACCESS_WRAPS", gpa=hex(g), length=hex(n))


@test(task=4)
def one_access_stays_in_one_slot(t):
    """The accessor gives no address for what lies in two slots, even when they touch"""
    slots = layout(t)
    (a, first), (b, second) = slots[:2]
    n = t.random.randrange(2, PAGE)
    questions = [(b - 1, 2), (b - n, n + 1), (a, first + second), (b - 4, 8)]
    _, answers = ask(t, slots, questions)
    for answer, (g, length) in zip(answers, questions):
        t.require(not answer["there"], "ACCESS_ACROSS_SLOTS", gpa=hex(g), length=hex(length), border=hex(b))


# --- task 5: copies ---

def filled(t, slots):
    """Commands that add these slots and fill each with seeded bytes; and the bytes."""
    contents = [t.random.randbytes(s) for _, s in slots]
    lines = [f"mem_add {g:#x} {s:#x}" for g, s in slots]
    lines += [f"load {t.file(f'slot{i}', c)} {g:#x}" for i, ((g, _), c) in enumerate(zip(slots, contents))]
    return lines, contents


@test(task=5)
def copies_go_on_in_the_next_slot(t):
    """A copy that reaches the end of a slot goes on in the one that touches it"""
    r = t.random
    slots = layout(t)
    (a, first), (b, second) = slots[:2]
    lines, contents = filled(t, slots)
    both = contents[0] + contents[1]
    before, behind = r.randrange(1, 4000), r.randrange(1, 4000)
    new = r.randbytes(r.randrange(2, 200))
    write_at = b - r.randrange(1, len(new))
    text, at = script(WITH_VM, lines, ("cross", f"mem_read {b - before:#x} {before + behind:#x}"),
                      ("inside", f"mem_read {a + 5:#x} 64"), ("all", f"mem_read {a:#x} {first + second:#x}"),
                      ("write", f"mem_write {write_at:#x} {new.hex()}"))
    run = t.rig(text, dump=[("last", a, first), ("last", b, second)])
    check_told(t, run, slots)
    for name, gpa, n in (("inside", a + 5, 64), ("cross", b - before, before + behind), ("all", a, first + second)):
        answer = run.answers[at[name]]
        t.require(answer.rc == 0, "COPY_STOPS_AT_SLOT", what="hv_memory_read", gpa=hex(gpa), length=n, border=hex(b),
                  rc=answer.rc)
        t.require(answer["data"] == both[gpa - a:gpa - a + n].hex(), "COPY_WRONG_BYTES", what="hv_memory_read",
                  gpa=hex(gpa), length=n, border=hex(b))
    t.credit(0.5)
    t.require(run.answers[at["write"]].rc == 0, "COPY_STOPS_AT_SLOT", what="hv_memory_write", gpa=hex(write_at),
              length=len(new), border=hex(b), rc=run.answers[at["write"]].rc)
    offset = write_at - a
    want = both[:offset] + new + both[offset + len(new):]
    t.require(run.memory("last", a, first) + run.memory("last", b, second) == want, "COPY_WRONG_BYTES",
              what="hv_memory_write", gpa=hex(write_at), length=len(new), border=hex(b))


@test(task=5)
def copies_are_whole_or_not_at_all(t):
    """A copy with a byte outside fails with -EFAULT and changes nothing"""
    r = t.random
    slots = layout(t)
    lines, contents = filled(t, slots)
    (a, first), (b, second), (c, third) = slots[:3]
    end = b + second
    new = r.randbytes(64)
    inside = r.randrange(1, 63)
    across = c - end + 32
    asked = [("end", end - inside, 64), ("front", a - inside, 64), ("nowhere", end, 1), ("gap", end - 16, across)]
    writes = [("end", end - inside, new), ("front", a - inside, new), ("gap", end - 16, r.randbytes(across))]
    text, at = script(WITH_VM, lines, [(f"r-{name}", f"mem_read {g:#x} {n:#x}") for name, g, n in asked],
                      [(f"w-{name}", f"mem_write {g:#x} {data.hex()}") for name, g, data in writes])
    run = t.rig(text, dump=[("last", g, s) for g, s in slots[:3]])
    check_told(t, run, slots)
    for name, g, n in asked:
        rc = run.answers[at[f"r-{name}"]].rc
        t.require(rc == EFAULT, "COPY_LEAPS_HOLE", what="hv_memory_read", gpa=hex(g), length=hex(n), rc=rc)
    for name, g, data in writes:
        rc = run.answers[at[f"w-{name}"]].rc
        t.require(rc == EFAULT, "COPY_LEAPS_HOLE", what="hv_memory_write", gpa=hex(g), length=hex(len(data)), rc=rc)
    t.credit(0.5)
    for (g, s), content in zip(slots[:3], contents):
        seen = run.memory("last", g, s)
        changed = [i for i in range(s) if seen[i] != content[i]]
        t.require(not changed, "HALF_WRITTEN", count=len(changed), gpa=hex(g + changed[0]) if changed else "")


# --- the challenge ---

@test(task=4)
def guard_pages(t):
    """The host faults when it runs past either end of a slot"""
    slots = layout(t)
    run = t.rig(script(WITH_VM, [f"mem_add {g:#x} {s:#x}" for g, s in slots],
                       [f"guard {g:#x} {s:#x}" for g, s in slots])[0])
    check_regions(t, run)
    for answer, (g, s) in zip(run.answers[len(WITH_VM) + len(slots):], slots):
        t.require(answer.rc == 0 and not answer["before"] and not answer["behind"], "NOT_AS_EXPECTED",
                  message=f"the host can read beside the slot at {g:#x}, before or behind its {s:#x} bytes")
