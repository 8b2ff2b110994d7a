"""Lab 1, first exit: the descriptors, the area shared with the kernel, one KVM_RUN, and real mode.

What was done is read from the record of the ioctls; what came of it from the guest's own exits, whose ports and values
are drawn for each run. Where an old kernel or a signal is wanted, the rig's `lie` answers in the kernel's place.
"""
from kit.testing import test

KVM_API_VERSION = 12
KVM_CAP_SET_TSS_ADDR, KVM_CAP_SET_IDENTITY_MAP_ADDR = 4, 37
TSS, IDENTITY_MAP = 0xFFFBD000, 0xFFFBC000
EINTR, EAGAIN, EFAULT = 4, 11, 14
VM = ("kvm_open", "vm_create", "mem_add 0 0x10000")
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")


def ask(t, *lines, **more):
    """Runs the rig; the run, and a list with the answer to each line (fewer when it died on its way)."""
    run = t.rig("\n".join(lines) + "\n", **more)
    return run, run.answers


def need(t, answer, task):
    """This command has to work before the test can go on."""
    if answer.rc == -38:
        t.fail("STILL_A_HOLE", what=answer.command, task=task, lab=1)
    t.require(answer.rc == 0, "NOT_AS_EXPECTED",
              message=f"{answer.command}, which task {task} is about, failed: {answer.error or answer.rc}")


def need_vm(t, run, answer):
    """hv_vm_create worked. When KVM refused one of its two addresses, that is the mistake to be told."""
    for name, want in (("KVM_SET_IDENTITY_MAP_ADDR", IDENTITY_MAP), ("KVM_SET_TSS_ADDR", TSS)):
        for told in run.trace.ioctls(name):
            t.require(answer.rc in (0, -38) or told.ret == 0, "TSS_MISPLACED", name=name, want=want,
                      how=how_told(name, told))
    need(t, answer, 2)


def how_told(name, ioctl):
    """Which address one of the two calls was given, in words."""
    got = ioctl.arg if name == "KVM_SET_TSS_ADDR" else ioctl.args.get("addr")
    return f"given {got:#x}" if got is not None else f"given {ioctl.arg:#x}, no readable address"


def need_vcpu(t, run, answers):
    """The first lines were VM and vcpu_create."""
    for answer, task in zip(answers, (1, 2, 2, 3)):
        if answer.command == "vm_create":
            need_vm(t, run, answer)
        need(t, answer, task)


def need_run(t, answer, exit_):
    """An exit was there, so hv_vcpu_run says 0."""
    if answer.rc == -38:
        need(t, answer, 4)
    t.require(answer.rc == 0 or exit_.ret != 0, "NOT_AS_EXPECTED",
              message=f"KVM_RUN came back with an exit ({exit_.reason}), and hv_vcpu_run returned {answer.rc}, not 0")


def free_port(t):
    return t.random.randrange(0x1000, 0xF000) & ~7


# --- task 1 -----------------------------------------------------------------------------------------------------------


@test(task=1)
def the_device_is_opened(t):
    """/dev/kvm is opened, and asked for its version and for the size of the shared area."""
    pages = t.random.randrange(5, 40)
    run, answers = ask(t, "kvm_open", "fds", f"lie KVM_GET_VCPU_MMAP_SIZE result={pages * 4096}", "kvm_open")
    need(t, answers[0], 1)
    t.require(run.trace.ioctls("KVM_GET_API_VERSION"), "API_VERSION_UNCHECKED", version=KVM_API_VERSION)
    for ioctl in run.trace.ioctls("KVM_GET_VCPU_MMAP_SIZE"):
        t.require(answers[0]["run_size"] == ioctl.ret, "RUN_SIZE_GUESSED", told=ioctl.ret, kept=answers[0]["run_size"])
    need(t, answers[3], 1)
    t.require(answers[3]["run_size"] == pages * 4096, "RUN_SIZE_GUESSED", told=pages * 4096,
              kept=answers[3]["run_size"])
    t.credit(0.75)
    t.require(answers[1]["cloexec"], "DESCRIPTOR_INHERITED")


@test(task=1)
def another_api_version_is_refused(t):
    """A kernel with another API version is refused, and its descriptor closed."""
    version = t.random.choice([v for v in range(1, 24) if v != KVM_API_VERSION])
    _, answers = ask(t, "fds", f"lie KVM_GET_API_VERSION result={version}", "kvm_open", "lie none", "fds")
    opened = answers[2]
    if opened.rc == -38:
        need(t, opened, 1)
    t.require(answers[3]["told"] > 0 and opened.rc < 0, "API_VERSION_UNCHECKED", version=version)
    t.credit(0.5)
    t.require(answers[4]["open"] == answers[0]["open"], "FD_LEAKED", what="hv_kvm_open",
              left=answers[4]["open"] - answers[0]["open"])
    t.require(opened.error, "NO_SENTENCE", what="hv_kvm_open", rc=opened.rc)


@test(task=1)
def a_failed_open_says_why(t):
    """A device that is missing, or is none of KVM's, is refused with a sentence, and nothing stays open."""
    plain = t.file("plain", b"no device\n")
    _, answers = ask(t, "fds", f"kvm_open_at {plain}-is-not-there", f"kvm_open_at {plain}", "fds")
    for answer in answers[1:3]:
        if answer.rc == -38:
            need(t, answer, 1)
        t.require(answer.rc < 0, "NOT_AS_EXPECTED", message="hv_kvm_open returned 0 for a file that isn't KVM's")
        t.require(answer.error, "NO_SENTENCE", what="hv_kvm_open", rc=answer.rc)
    t.require(answers[3]["open"] == answers[0]["open"], "FD_LEAKED", what="hv_kvm_open",
              left=answers[3]["open"] - answers[0]["open"])


# --- task 2 -----------------------------------------------------------------------------------------------------------


@test(task=2)
def a_vm_is_made(t):
    """KVM_CREATE_VM makes a VM that takes memory."""
    run, answers = ask(t, "kvm_open", "vm_create", "mem_add 0 0x10000")
    need(t, answers[0], 1)
    need_vm(t, run, answers[1])
    made = run.trace.ioctls("KVM_CREATE_VM")
    t.require(made and made[0].ret >= 0, "NOT_AS_EXPECTED", message="no KVM_CREATE_VM was seen to succeed")
    t.require(made[0].arg == 0, "NOT_AS_EXPECTED",
              message=f"KVM_CREATE_VM was asked for machine type {made[0].arg}, not 0")
    t.require(answers[1]["fd"] == made[0].ret, "NOT_AS_EXPECTED",
              message=f"vm->fd is {answers[1]['fd']}, but the VM's descriptor is {made[0].ret}")
    need(t, answers[2], 2)


@test(task=2)
def its_reserved_pages_are_placed(t):
    """TSS and identity map lie where HV_TSS_ADDR and HV_IDENTITY_MAP_ADDR say."""
    run, answers = ask(t, "kvm_open", f"kvm_has {KVM_CAP_SET_TSS_ADDR}", f"kvm_has {KVM_CAP_SET_IDENTITY_MAP_ADDR}",
                       "vm_create")
    need(t, answers[0], 1)
    if answers[3].rc == -38:
        need(t, answers[3], 2)
    for cap, name, want in ((answers[2], "KVM_SET_IDENTITY_MAP_ADDR", IDENTITY_MAP),
                            (answers[1], "KVM_SET_TSS_ADDR", TSS)):
        if cap["value"] > 0:
            told = run.trace.ioctls(name)
            t.require(told, "TSS_MISPLACED", name=name, want=want, how="never called")
            got = told[0].arg if name == "KVM_SET_TSS_ADDR" else told[0].args.get("addr")
            t.require(told[0].ret == 0 and got == want, "TSS_MISPLACED", name=name, want=want,
                      how=how_told(name, told[0]))
        t.credit(0.5)
    need(t, answers[3], 2)


# --- task 3 -----------------------------------------------------------------------------------------------------------


@test(task=3)
def the_vcpu_has_its_index(t):
    """KVM_CREATE_VCPU gets the vCPU's index."""
    index = t.random.randrange(1, 8)
    run, answers = ask(t, *VM, f"vcpu_create {index}")
    need_vcpu(t, run, answers)
    made = run.trace.ioctls("KVM_CREATE_VCPU")
    t.require(made, "NOT_AS_EXPECTED", message="no KVM_CREATE_VCPU was seen")
    t.require(made[0].arg == index, "VCPU_INDEX_LOST", want=index, got=made[0].arg)
    t.require(answers[3]["fd"] == made[0].ret, "NOT_AS_EXPECTED",
              message=f"vcpu->fd is {answers[3]['fd']}, but the vCPU's descriptor is {made[0].ret}")


@test(task=3)
def the_whole_run_area_is_mapped(t):
    """All of the shared area is mapped: what the guest sent to a port is found in it."""
    port, load = free_port(t), t.random.randrange(0x1000, 0xE000) & ~0xF
    guest = t.guest("add", PORT=port)
    low = t.random.randrange(256)
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} {load:#x}",
                       f"set_regs flat=1 rip={load:#x} rax={low}", "run", "look", may_fail=True)
    need_vcpu(t, run, answers)
    sizes = [i.ret for i in run.trace.ioctls("KVM_GET_VCPU_MMAP_SIZE")]
    maps = run.trace.mmaps()
    t.require(maps, "NOT_AS_EXPECTED", message="no mapping of the vCPU's descriptor was seen")
    t.require(maps[0].length >= max(sizes, default=0), "RUN_MAP_TOO_SMALL", mapped=maps[0].length,
              size=max(sizes, default=0))
    t.credit(0.6)
    t.require(len(answers) == 8, "NOT_AS_EXPECTED", message="the program died while it looked at the exit")
    for exit_ in run.trace.exits()[:1]:
        need_run(t, answers[6], exit_)
    t.require(answers[6].rc == 0 and answers[7].get("data") == f"{low:02x}", "GUEST_ASTRAY",
              want=f"io, {low:02x} found in the area", got=f"{answers[7].get('reason')}, {answers[7].get('data')}")


@test(task=3)
def the_run_area_is_shared(t):
    """What is written into the mapping reaches the kernel: immediate_exit keeps it from entering the guest."""
    guest = t.guest("add", PORT=free_port(t))
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} 0x1000", "set_regs flat=1 rip=0x1000",
                       "immediate_exit 1", "run", may_fail=True)
    need_vcpu(t, run, answers)
    t.require(run.trace.mmaps(), "NOT_AS_EXPECTED", message="no mapping of the vCPU's descriptor was seen")
    t.require(all(m.shared for m in run.trace.mmaps()), "RUN_MAP_PRIVATE")
    t.require(all(m.prot & 2 for m in run.trace.mmaps()), "NOT_AS_EXPECTED",
              message="the area is mapped to be read only, so nobody can set immediate_exit in it")
    entered = run.trace.exits()
    if entered and entered[0].ret == -EINTR and entered[0].immediate:
        return  # the kernel saw it; who goes in again all the same loses points in task 4
    t.require(len(answers) == 8, "NOT_AS_EXPECTED", message="the program died while it ran the vCPU")
    if answers[7].rc == -38:
        need(t, answers[7], 4)
    t.require(not entered or entered[0].immediate or run.trace.mmaps()[0].at, "NOT_AS_EXPECTED",
              message="immediate_exit was set before hv_vcpu_run was called, and clear when KVM_RUN was entered")
    t.require(entered and entered[0].ret == -EINTR, "NOT_AS_EXPECTED",
              message="immediate_exit was set, and KVM_RUN didn't see it; "
                      f"the mapping begins at offset {run.trace.mmaps()[0].at}")


# --- task 4 -----------------------------------------------------------------------------------------------------------


def seen(exit_):
    """An exit in a few words."""
    if exit_.reason != "io":
        return exit_.reason or f"error {exit_.ret}"
    return f"io, {exit_.data.hex()} {'out to' if exit_.out else 'in from'} port {exit_.port:#x}"


@test(task=4)
def one_call_is_one_exit(t):
    """Each call enters the guest once and comes back with the exit that happened: io, io, hlt."""
    port, load = free_port(t), t.random.randrange(0x1000, 0xE000) & ~0xF
    a, b = t.random.randrange(0x100, 0x8000), t.random.randrange(0x100, 0x8000)
    guest = t.guest("add", PORT=port)
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} {load:#x}",
                       f"set_regs flat=1 rip={load:#x} rax={a} rbx={b}", "run", "run", "run", may_fail=True)
    need_vcpu(t, run, answers)
    exits = run.trace.exits()
    if len(answers) > 6 and answers[6].rc == -38:
        need(t, answers[6], 4)
    for before, after in zip(exits, exits[1:]):
        called = sum(1 for answer in answers if answer.command == "run")
        if before.reason == "hlt" and len(exits) > called:
            t.fail("HLT_SWALLOWED", calls=called, runs=len(exits), after=after.reason or after.ret)
    t.require(len(answers) == 9, "NOT_AS_EXPECTED", message="the program died while it ran the vCPU")
    total = (a + b) & 0xFFFF
    for answer, exit_, byte in zip(answers[6:8], exits, (total & 0xFF, total >> 8)):
        want = f"io, {byte:02x} out to port {port:#x}"
        t.require(seen(exit_) == want, "GUEST_ASTRAY", want=want, got=seen(exit_))
        need_run(t, answer, exit_)
    t.credit(0.5)
    last = seen(exits[-1])
    t.require(len(exits) == 3 and last == "hlt", "HLT_SWALLOWED", calls=3, runs=len(exits), after=last)


@test(task=4)
def a_failed_run_gives_its_errno(t):
    """When KVM_RUN fails, the caller gets minus errno, and decides itself whether to try again."""
    error = t.random.choice([EFAULT, EAGAIN, 12, 22])
    guest = t.guest("add", PORT=free_port(t))
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} 0x1000", "set_regs flat=1 rip=0x1000",
                     f"lie KVM_RUN error={error}", "run", f"lie KVM_RUN error={EINTR}", "run", "lie none", "run")
    need_vcpu(t, run, answers)
    if answers[11].rc == -38:
        need(t, answers[11], 4)
    t.require(answers[7].rc == -error, "RUN_ERRNO_LOST", want=-error, got=answers[7].rc)
    t.credit(0.5)
    t.require(answers[9].rc != 0, "EINTR_RETRIED")
    t.require(answers[9].rc == -EINTR, "RUN_ERRNO_LOST", want=-EINTR, got=answers[9].rc)
    for exit_ in run.trace.exits()[-1:]:
        need_run(t, answers[11], exit_)


# --- task 5 -----------------------------------------------------------------------------------------------------------


def check_cs_base(t, given, load):
    """given: what each KVM_SET_SREGS was told."""
    t.require(given, "NOT_AS_EXPECTED", message="no KVM_SET_SREGS was seen")
    base = given[-1]["cs"]["base"]
    t.require(base == 0, "CS_BASE_NOT_RESET", base=base, load=load, first=base + load)


@test(task=5)
def the_guest_starts_where_it_was_loaded(t):
    """With RIP at the load address, the first exit is the guest's own."""
    port, load = free_port(t), t.random.randrange(0x1000, 0xE000) & ~0xF
    byte = t.random.randrange(1, 256)
    guest = t.guest("add", PORT=port)
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} {load:#x}", f"entry real {load:#x}",
                       f"set_regs rip={load:#x} rbx={byte}", "run", may_fail=True)
    need_vcpu(t, run, answers)
    given = [i.args for i in run.trace.ioctls("KVM_SET_SREGS")]
    check_cs_base(t, given, load)
    if len(answers) > 7 and answers[7].rc == -38:
        need(t, answers[7], 4)
    exits = run.trace.exits()
    t.require(exits, "NOT_AS_EXPECTED", message="the vCPU was never entered")
    first = exits[0]
    want = f"io, {byte:02x} out to port {port:#x}"
    t.require(seen(first) == want, "GUEST_ASTRAY", want=want, got=seen(first))


@test(task=5)
def its_data_and_stack_begin_at_zero(t):
    """A guest that reads, pushes, pops and stores finds its words where it put them."""
    port, load, data = free_port(t), t.random.randrange(0x1000, 0x6000) & ~0xF, t.random.randrange(0x8000, 0xC000) & ~3
    stack = t.random.randrange(0xD000, 0xF000) & ~1
    word = t.random.randrange(0x100, 0x10000)
    guest = t.guest("copy", PORT=port, DATA=data)
    run, answers = ask(t, *VM, "vcpu_create", f"load {guest.path} {load:#x}",
                       f"mem_write {data:#x} {word.to_bytes(2, 'little').hex()}", f"entry real {load:#x}",
                       f"set_regs rip={load:#x} rsp={stack:#x}", "run", f"mem_read {data:#x} 4",
                       f"mem_read {stack - 2:#x} 2", may_fail=True)
    need_vcpu(t, run, answers)
    given = [i.args for i in run.trace.ioctls("KVM_SET_SREGS")]
    check_cs_base(t, given, load)
    for name in SEGMENTS[1:]:
        check_segment(t, name, given[-1][name])
    check_segment(t, "cs", given[-1]["cs"], code=True)
    if len(answers) > 8 and answers[8].rc == -38:
        need(t, answers[8], 4)
    t.require(len(answers) == 11, "NOT_AS_EXPECTED", message="the program died while it ran the vCPU")
    bytes_of_word = word.to_bytes(2, "little").hex()
    t.require(answers[9].get("data") == 2 * bytes_of_word and answers[10].get("data") == bytes_of_word, "GUEST_ASTRAY",
              want=f"the word {word:#x} at {data:#x}, {data + 2:#x} and on the stack",
              got=f"{answers[9].get('data')} and {answers[10].get('data')} there")


def check_segment(t, name, s, code=False):
    """A real-mode segment as VT-x wants it: present, usable, 64 KiB, readable and writable (or executable)."""
    want = {"base": 0, "limit": 0xFFFF, "s": 1, "present": 1, "dpl": 0, "db": 0, "l": 0, "g": 0, "unusable": 0}
    for field, value in want.items():
        t.require(s[field] == value, "SEGMENT_NOT_REAL", segment=name, field=field, got=s[field], want=value)
    kinds = (11,) if code else (3,)
    t.require(s["type"] in kinds, "SEGMENT_NOT_REAL", segment=name, field="type", got=s["type"], want=kinds[0])


@test(task=5)
def what_is_not_part_of_the_mode_stays(t):
    """The APIC's address and the rest of what KVM_GET_SREGS said are given back as they were."""
    run, answers = ask(t, *VM, "vcpu_create", "entry real 0x1000", "real_mode fill=0x5a")
    need_vcpu(t, run, answers)
    got, given = run.trace.ioctls("KVM_GET_SREGS"), run.trace.ioctls("KVM_SET_SREGS")
    t.require(got, "NOT_AS_EXPECTED", message="no KVM_GET_SREGS was seen")
    check_cs_base(t, [i.args for i in given], 0x1000)
    before, after = got[0].out["apic_base"], given[-1].args["apic_base"]
    t.require(before == after, "SREGS_WIPED", field="apic_base", before=before, after=after)
    for field in ("cr2", "cr8", "apic_base"):
        t.require(answers[5][field] == 0x5A5A5A5A5A5A5A5A, "SREGS_WIPED", field=field, before=0x5A5A5A5A5A5A5A5A,
                  after=answers[5][field])


# --- challenge --------------------------------------------------------------------------------------------------------


@test(task=1)
def a_run_area_that_is_too_small_is_refused(t):
    """A kernel whose shared area can't hold struct kvm_run is refused."""
    size = t.random.choice([0, 64, 512, 1024])
    _, answers = ask(t, "fds", f"lie KVM_GET_VCPU_MMAP_SIZE result={size}", "kvm_open", "lie none",
                     "lie KVM_GET_VCPU_MMAP_SIZE error=22", "kvm_open", "fds")
    if answers[2].rc == -38:
        need(t, answers[2], 1)
    t.require(answers[2].rc < 0, "RUN_AREA_UNCHECKED", size=size)
    t.require(answers[5].rc < 0, "RUN_AREA_UNCHECKED", size=-1)
    t.require(answers[6]["open"] == answers[0]["open"], "FD_LEAKED", what="hv_kvm_open",
              left=answers[6]["open"] - answers[0]["open"])
