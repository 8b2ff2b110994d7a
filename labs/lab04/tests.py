"""
Lab 4, long mode: core/boot/longmode.c. A vCPU's state is judged before it is run: by what KVM_SET_SREGS was told, and
by the tables in guest memory, which are walked here as the processor walks them. A state that is wrong may be refused,
may run, may end in a triple fault or never come back, as the back end pleases; what is wrong with it is the same on
each. Only a state that holds is run. Rules: SDM vol. 3A, 3.4.5, 4.5, 8.2.3, 10.8.5; vol. 3C, 27.3.1.
"""

import struct

from kit.testing import test

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
GDT, PML4, HIGH_TABLES = 0x9000, 0xa000, 0xbfe00000
TSS_LIMIT = 0x67
ENOSYS = -38
STACK_TOP = 0x8ff0

PE, WP, PG = 1 << 0, 1 << 16, 1 << 31
PAE, OSFXSR, PGE = 1 << 5, 1 << 9, 1 << 7
LME, LMA, NXE = 1 << 8, 1 << 10, 1 << 11

PRESENT, WRITE, LARGE, GLOBAL, NX = 1, 2, 1 << 7, 1 << 8, 1 << 63
ADDRESS = 0x000ffffffffff000
LEVELS = (("PML4", 39), ("PDPT", 30), ("PD", 21))

DATA_SEGMENTS = ("ds", "es", "fs", "gs", "ss")


# --- making a state, and looking at it ---

def made(t, ram=MIB, map_size=None, command=None, dump=()):
    """A vCPU that was given the state, and not run: the sregs that KVM was told, and the run."""
    command = command or f"longmode {map_size if map_size is not None else ram:#x}"
    fill = [f"mem_dirty {t.random.randrange(1, 256)}"] if ram <= 16 * MIB else []
    lines = ["kvm_open", "vm_create", f"mem_ram {ram:#x}", "vcpu_create", *fill, command]
    run = t.rig("\n".join(lines) + "\n", dump=[("last", 0, 64 * KIB), *dump])
    answer = run.answers[-1]
    calls = run.trace.ioctls("KVM_SET_SREGS")
    t.require(calls, "NOT_AS_EXPECTED", message=f"KVM_SET_SREGS was never called: {answer.error}")
    check_holes(t, calls[-1].args, run)
    t.require(answer["setup"] in (0, ENOSYS) or t.info.task < 3, "SETUP_FAILED", rc=answer["setup"], ram=hex(ram))
    return calls[-1].args, run


def check_holes(t, s, run):
    """Says of a test's own task, and of the tasks before it, that nobody has done them yet, where that can be seen."""
    before = run.trace.ioctls("KVM_GET_SREGS")[0].out
    read = memory_of(run)
    signs = {1: all(s[name] == before[name] for name in ("cs", "ds", "ss", "tr")),
             2: read(GDT + 8) == read(GDT + 16) == 0, 3: read(PML4) == 0, 4: run.answers[-1]["setup"] == ENOSYS}
    last = 4 if t.info.task == 4 else 1 if t.info.task == 1 else None
    for task in range(1, last + 1) if last else (t.info.task,):
        t.require(not signs[task], "STILL_A_HOLE", what="hv_longmode_setup", task=task, lab=4)


def memory_of(run, *ranges):
    """A function that reads 8 bytes of the guest's memory as it was at the end; None outside of what was kept."""
    kept = [(gpa, run.memory("last", gpa, length)) for gpa, length in ((0, 64 * KIB), *ranges)]

    def read(gpa):
        for start, data in kept:
            if start <= gpa and gpa + 8 <= start + len(data):
                return int.from_bytes(data[gpa - start:gpa - start + 8], "little")
        return None
    return read


# --- what holds of segment registers ---

def check_code(t, s):
    """CS of 64-bit code."""
    cs = s["cs"]
    t.require(not (cs["l"] and cs["db"]), "CS_L_AND_DB")
    t.require(cs["l"], "CS_COMPAT", db=cs["db"])
    t.require(cs["s"] and cs["type"] & 8, "CS_NO_CODE", type=cs["type"], s=cs["s"])


def check_segment(t, name, segment, kind):
    """A code or data segment, by the rules of SDM vol. 3C, 27.3.1.2."""
    t.require(segment["present"] and not segment["unusable"] and segment["s"], "SEGMENT_UNUSABLE", name=name,
              present=segment["present"], s=segment["s"], unusable=segment["unusable"])
    t.require(segment["type"] & 1, "ACCESSED_BIT_MISSING", name=name, type=segment["type"])
    t.require(segment["type"] == kind, "SEGMENT_TYPE_WRONG", name=name, type=segment["type"], want=kind)
    t.require(not 0 < segment["selector"] < 8, "SELECTOR_OUTSIDE", name=name, selector=hex(segment["selector"]))
    t.require(segment["dpl"] == 0 and segment["selector"] & 7 == 0, "SEGMENT_NOT_KERNEL", name=name,
              dpl=segment["dpl"], selector=hex(segment["selector"]))
    limit, g = segment["limit"], segment["g"]
    t.require(limit != 0xfffff, "LIMIT_IN_PAGES", name=name, limit=hex(limit), g=g)
    t.require((g or not limit & 0xfff00000) and (not g or limit & 0xfff == 0xfff), "LIMIT_WITHOUT_G", name=name,
              limit=hex(limit), g=g)
    t.require(segment["base"] == 0 and limit == 0xffffffff, "SEGMENT_NOT_FLAT", name=name, base=hex(segment["base"]),
              limit=hex(limit))


def check_task(t, s, base=None):
    """TR and LDTR, by the same section."""
    tr, ldt = s["tr"], s["ldt"]
    t.require(tr["present"] and not tr["unusable"] and not tr["s"], "TR_UNUSABLE", present=tr["present"], s=tr["s"],
              unusable=tr["unusable"])
    t.require(tr["type"] == 11, "TSS_NOT_BUSY", type=tr["type"])
    t.require(not 0 < tr["selector"] < 8, "SELECTOR_OUTSIDE", name="tr", selector=hex(tr["selector"]))
    t.require(not tr["selector"] & 4 and tr["selector"] & ~7, "TR_UNUSABLE", present=tr["present"], s=tr["s"],
              unusable=f"{tr['unusable']}, selector {tr['selector']:#x}")
    t.require(tr["limit"] >= TSS_LIMIT and (not tr["g"] or tr["limit"] & 0xfff == 0xfff), "TSS_LIMIT_WRONG",
              limit=hex(tr["limit"]), g=tr["g"])
    t.require(base is None or tr["base"] == base, "TSS_BASE_WRONG", base=hex(tr["base"]))
    t.require(ldt["unusable"] or not ldt["present"] or (ldt["type"] == 2 and not ldt["s"]), "LDT_WRONG",
              type=ldt["type"], s=ldt["s"])


def check_segments(t, s):
    """All of them."""
    check_code(t, s)
    check_segment(t, "cs", s["cs"], 11)
    for name in DATA_SEGMENTS:
        check_segment(t, name, s[name], 3)
    check_task(t, s)


# --- what holds of the GDT ---

def decoded(value):
    """The fields of a descriptor: SDM vol. 3A, figure 3-8."""
    limit = (value & 0xffff) | (value >> 32 & 0xf0000)
    return {"base": (value >> 16 & 0xffffff) | (value >> 32 & 0xff000000), "limit": limit, "type": value >> 40 & 15,
            "s": value >> 44 & 1, "dpl": value >> 45 & 3, "present": value >> 47 & 1, "l": value >> 53 & 1,
            "db": value >> 54 & 1, "g": value >> 55 & 1}


def check_gdt(t, s, read):
    """Each register's descriptor says what its hidden part says."""
    gdt = s["gdt"]
    t.require(gdt["base"] == GDT and gdt["limit"] == 5 * 8 - 1, "GDT_ASTRAY", base=hex(gdt["base"]),
              limit=hex(gdt["limit"]))
    t.require(read(GDT) == 0, "GDT_DISAGREES", name="the null selector", selector="0x0", field="all of it",
              table=hex(read(GDT)), register="0x0")
    for name in ("cs", *DATA_SEGMENTS, "tr"):
        segment = s[name]
        at = gdt["base"] + (segment["selector"] & ~7)
        value = read(at) if at + 7 <= gdt["base"] + gdt["limit"] else None
        t.require(value is not None and segment["selector"] & ~7, "SELECTOR_OUTSIDE", name=name,
                  selector=hex(segment["selector"]))
        says = decoded(value)
        for field in says:
            want = segment[field] & 0xffffffff if field == "base" else segment[field]
            if field == "limit":
                want = want >> 12 if segment["g"] else want
                t.require(says[field] == want, "LIMIT_SCALED_WRONG", name=name, field=hex(says[field]), g=segment["g"],
                          limit=hex(segment["limit"]))
            t.require(says[field] == want, "GDT_DISAGREES", name=name, selector=hex(segment["selector"]), field=field,
                      table=hex(says[field]), register=hex(want))
    upper = read(gdt["base"] + (s["tr"]["selector"] & ~7) + 8)
    t.require(upper == s["tr"]["base"] >> 32, "TSS_UPPER_HALF", value=hex(upper))


# --- what holds of page tables ---

def walk(t, read, root, va, nxe=False):
    """The entry that maps va, by the processor's own way down; ends the test where the processor would fault."""
    base = root
    for level, shift in LEVELS:
        index = va >> shift & 511
        entry = read(base + index * 8)
        where = {"level": level, "index": index, "va": hex(va), "entry": hex(entry or 0), "table": hex(base)}
        t.require(entry is not None, "TABLE_ASTRAY", **where)
        t.require(entry == 0 or len(set(entry.to_bytes(8, "little"))) > 1, "TABLE_NOT_FILLED", **where)
        t.require(entry & PRESENT, "HIGH_MEMORY_UNMAPPED" if va >= 4 * GIB else "PDE_NOT_PRESENT", **where)
        t.require(nxe or not entry & NX, "RESERVED_BIT", bits="63 (no-execute, as EFER.NXE is clear)", **where)
        t.require(level != "PML4" or not entry & LARGE, "RESERVED_BIT", bits="7 (no page has 512 GiB)", **where)
        t.require(level != "PDPT" or not entry & LARGE, "GIB_PAGE", **where)
        if level == "PD":
            t.require(entry & LARGE, "PS_BIT_MISSING", **where)
            t.require(not entry & 0x1fe000, "RESERVED_BIT", bits="13 to 20 (below a 2 MiB page's address)", **where)
        t.require(entry & WRITE, "PAGE_READ_ONLY", **where)
        base = entry & ADDRESS
    page = base & ~(2 * MIB - 1)
    t.require(page == va & ~(2 * MIB - 1), "PAGE_ASTRAY", pa=hex(page), **where)
    return entry


def check_tables(t, read, root, gibs, step=2 * MIB):
    """Every large page of these GiB."""
    for va in range(0, gibs * GIB, step):
        walk(t, read, root, va)
    for va in {gibs * GIB - 2 * MIB, gibs * GIB - GIB}:
        walk(t, read, root, va)


# --- what holds of control registers ---

def check_control(t, s, run):
    """Long mode is on, on the way of SDM vol. 3A, 10.8.5."""
    t.require(s["cr4"] & PAE, "PAE_CLEAR", cr4=hex(s["cr4"]))
    t.require(s["cr0"] & PG and s["cr0"] & PE, "PAGING_OFF", cr0=hex(s["cr0"]))
    t.require(s["efer"] & LME, "LME_MISSING", efer=hex(s["efer"]))
    t.require(s["efer"] & LMA, "LMA_MISSING", efer=hex(s["efer"]))
    t.require(s["cr3"] & ~0x18 == PML4, "CR3_ASTRAY", cr3=hex(s["cr3"]))
    t.require(s["cr4"] & OSFXSR, "SSE_OFF", cr4=hex(s["cr4"]))
    t.require(s["cr0"] & WP, "WP_CLEAR", cr0=hex(s["cr0"]))
    call = run.trace.ioctls("KVM_SET_SREGS")[-1]
    t.require(call.ret == 0, "STATE_REFUSED", rc=call.ret)


def check_state(t, ram=MIB, map_size=None):
    """All that a guest needs; what stands before each run of one."""
    gibs = min(512, max(4, -(-(map_size or 0) // GIB)))
    high = [(HIGH_TABLES, (gibs - 4) * 4096)] if gibs > 4 else []
    s, run = made(t, ram, map_size, dump=[("last", gpa, n) for gpa, n in high])
    read = memory_of(run, *high)
    check_segments(t, s)
    check_control(t, s, run)
    check_gdt(t, s, read)
    check_tables(t, read, s["cr3"] & ~0xfff, gibs, 64 * MIB)


def guest_run(t, image, at, exits, ram=MIB, dump=(), extra=""):
    """Runs a guest in long mode. Its exits, none of which may be missing."""
    lines = ["kvm_open", "vm_create", f"mem_ram {ram:#x}", "vcpu_create", f"load {image.path} {at:#x}",
             f"entry long {at:#x} rsp={STACK_TOP:#x}", f"run {exits}"]
    run = t.rig("\n".join(lines) + "\n", dump=[("last", gpa, n) for gpa, n in dump])
    entry = run.answers[5]
    t.require(entry.rc == 0, "STATE_REFUSED", rc=entry.rc)
    return run


def told(t, run, count, port):
    """The first `count` values that a guest wrote to its port, 32 bits each."""
    exits = run.trace.exits(vcpu=0)
    values = [int.from_bytes(e.data, "little") for e in exits if e.reason == "io" and e.out and e.port == port]
    t.require(len(values) >= count, "GUEST_ENDED_EARLY", count=len(values), want=count,
              end=(exits[-1].reason or f"a KVM_RUN that failed with {exits[-1].ret}") if exits else "no exit at all")
    return values[:count]


def words(values):
    return " ".join(map(hex, values))


def place(t):
    """Where a guest's code goes: clear of all that the core writes."""
    return t.random.randrange(0x10000, 0x18000, 0x100)


# --- task 1: segments ---

@test(task=1)
def code_is_64_bit(t):
    """CS holds a 64-bit code segment"""
    s, _ = made(t)
    check_code(t, s)


@test(task=1)
def hidden_parts_pass_the_entry_checks(t):
    """CS and the data segments pass the checks that hardware makes at each entry"""
    s, _ = made(t)
    check_segment(t, "cs", s["cs"], 11)
    t.credit(0.5)
    for name in DATA_SEGMENTS:
        check_segment(t, name, s[name], 3)


@test(task=1)
def the_task_register_is_busy(t):
    """TR holds a busy TSS, LDTR nothing or an LDT"""
    s, _ = made(t)
    check_task(t, s)
    t.require(GDT <= s["tr"]["base"] <= GDT + 0x1000 - TSS_LIMIT - 1, "TSS_BASE_WRONG", base=hex(s["tr"]["base"]))


# --- task 2: the GDT ---

@test(task=2)
def the_gdt_says_what_the_registers_say(t):
    """Each selector's descriptor in memory says what the register holds"""
    s, run = made(t)
    check_gdt(t, s, memory_of(run))


# --- task 3: page tables ---

@test(task=3)
def each_address_maps_to_itself(t):
    """The first 4 GiB map to themselves, by pages of 2 MiB"""
    _, run = made(t, ram=t.random.randrange(256 * KIB, 4 * MIB, 4 * KIB))
    check_tables(t, memory_of(run), PML4, 4)


@test(task=3)
def ram_above_4_gib_is_mapped(t):
    """What lies above 4 GiB is mapped, to the next whole GiB, and no further"""
    gibs = t.random.randrange(6, 24)
    size = (gibs - 1) * GIB + t.random.randrange(2 * MIB, GIB, 2 * MIB)
    high = (HIGH_TABLES, (gibs - 4) * 4096)
    _, run = made(t, ram=3 * GIB, map_size=size, dump=[("last", *high)])
    read = memory_of(run, high)
    check_tables(t, read, PML4, gibs, 32 * MIB)
    t.credit(0.7)
    pdpt = read(PML4) & ADDRESS
    beyond = read(pdpt + gibs * 8)
    t.require(beyond == 0, "MAPPED_TOO_FAR", index=gibs, entry=hex(beyond), size=hex(size))


# --- task 4: control registers, and guests ---

@test(task=4)
def control_registers_switch_long_mode_on(t):
    """CR0, CR3, CR4 and EFER switch long mode on, and KVM takes the state"""
    s, run = made(t)
    check_control(t, s, run)


@test(task=4)
def the_guest_computes_in_64_bits(t):
    """A guest computes with 64-bit registers and a 64-bit stack"""
    check_state(t)
    at, port = place(t), t.random.randrange(0x200, 0x3f0, 4)
    wide, turn = t.nonce << 32 | t.random.randrange(1 << 32) | 1, t.random.randrange(1, 64)
    run = guest_run(t, t.guest("compute", WIDE=wide, TURN=turn, PORT=port), at, 5)
    square = wide * wide
    mask = (1 << 64) - 1
    low = square & mask ^ (wide << turn & mask | wide >> 64 - turn)
    want = [low & 0xffffffff, low >> 32, square >> 64 & 0xffffffff, square >> 96]
    got = told(t, run, 4, port)
    t.require(got == want, "NOT_AS_EXPECTED", message=f"the guest told {words(got)}; right is {words(want)}")


@test(task=4)
def the_guest_reloads_its_segments(t):
    """A guest loads all its segment registers from the GDT and goes on"""
    check_state(t)
    at, port = place(t), t.random.randrange(0x200, 0x3f0, 4)
    cell = t.random.randrange(0x1000, 0x6000, 4)
    run = guest_run(t, t.guest("reload", NONCE=t.nonce, CELL=cell, PORT=port), at, 5, dump=[(cell, 4)])
    got = told(t, run, 4, port)
    want = [t.nonce, t.nonce ^ 0xffffffff]
    t.require(got[2:] == want, "NOT_AS_EXPECTED", message=f"the guest told {words(got[2:])}; right is {words(want)}")
    t.require(run.memory("last", cell, 4) == struct.pack("<I", t.nonce), "PAGE_ASTRAY", va=hex(cell), pa="?")


@test(task=4)
def the_guest_reaches_all_its_ram(t):
    """A guest reaches the last of its RAM, below the hole and above 4 GiB"""
    r = t.random
    ram = 3 * GIB + r.randrange(1, 3) * GIB + r.randrange(2 * MIB, GIB, 2 * MIB)
    top = ram + GIB
    check_state(t, ram, top)
    spots = [r.randrange(MIB, 2 * GIB, 4), HIGH_TABLES - r.randrange(4, MIB, 4), 4 * GIB + r.randrange(0, GIB, 4),
             top - 4]
    at, port = place(t), r.randrange(0x200, 0x3f0, 4)
    image = t.guest("touch", NONCE=t.nonce, PORT=port, **{f"A{i}": spot for i, spot in enumerate(spots, 1)})
    run = guest_run(t, image, at, 5, ram=ram, dump=[(spot, 4) for spot in spots])
    want = [t.nonce + n & 0xffffffff for n in range(1, 5)]
    got = told(t, run, 4, port)
    t.require(got == want, "NOT_AS_EXPECTED", message=f"the guest told {words(got)}; right is {words(want)}")
    for spot, value in zip(spots, want):
        t.require(run.memory("last", spot, 4) == struct.pack("<I", value), "PAGE_ASTRAY", va=hex(spot), pa="?")


# --- the challenge ---

@test(task=4)
def pages_are_global(t):
    """Pages are global, so that a guest's changes of CR3 don't throw them out of the TLB"""
    s, run = made(t)
    t.require(s["cr4"] & PGE, "NOT_AS_EXPECTED", message=f"CR4 is {s['cr4']:#x}: PGE is clear")
    read = memory_of(run)
    for va in range(0, 4 * GIB, 2 * MIB):
        t.require(walk(t, read, PML4, va) & GLOBAL, "NOT_AS_EXPECTED", message=f"the page at {va:#x} is not global")
