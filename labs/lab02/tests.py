"""Lab 2, the exit loop: a bus that finds the device, and exits that are answered, gone on from, or told.

The devices are the rig's own: what they answer to a read follows from a number that is drawn for each run (byte_of),
and they keep a record of each access. So the value that a guest gets can only come from the device, by way of the
student's bus and exit handler. What really went into KVM_RUN again is read from the record.
"""
import os

from kit.testing import test

STRETCH = int(os.environ.get("HV_STRETCH", "1") or "1")  # a machine that is itself emulated
WAIT = 60000  # ms: longer than the kit's own watchdog, which knows how fast this host is
ONES64 = 0xFFFFFFFFFFFFFFFF
EAGAIN, EEXIST, EINTR, ENXIO, ETIMEDOUT = 11, 17, 4, 6, 110
END_HALT, END_TRIPLE_FAULT = "halt", "triple-fault"


def byte_of(nonce, offset, turn=0):
    """What the rig's device answers at this offset (labs/rig/lab02.c)."""
    x = (nonce + offset * 0x9E3779B97F4A7C15 + turn * 0xD1B54A32D192ED03) & ONES64
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & ONES64
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & ONES64
    return (x ^ x >> 31) & 0xFF


def bytes_of(nonce, offset, size, turn=0):
    return bytes(byte_of(nonce, offset + i, turn) for i in range(size))


def ask(t, *lines, **more):
    """Runs the rig; the run, and a list with the answer to each line (fewer when it died on its way)."""
    run = t.rig("\n".join(lines) + "\n", **more)
    return run, run.answers


def need(t, answer, task):
    """This command has to work before the test can go on."""
    if answer.rc == -38:
        t.fail("STILL_A_HOLE", what=answer.command, task=task, lab=2)
    t.require(answer.rc == 0, "NOT_AS_EXPECTED",
              message=f"{answer.command}, which task {task} is about, failed: {answer.error or answer.rc}")


def free_port(t):
    return t.random.randrange(0x1000, 0x7000) & ~0x3F


# --- task 1 -----------------------------------------------------------------------------------------------------------


@test(task=1)
def overlapping_ranges_are_refused(t):
    """A range that shares a byte with another is refused with -EEXIST; neighbours are welcome."""
    base, length = t.random.randrange(0x1000, 0x8000), t.random.randrange(8, 64)
    cases = [(base + length, 8, True), (base - 8, 8, True), (base + length - 1, 4, False), (base - 3, 4, False),
             (base, length, False), (base + 2, 3, False), (base - 20, length + 40, False)]
    _, answers = ask(t, "device max=1 nonce=1", f"bus_add 0 {base:#x} {length}",
                     *(f"bus_add 0 {at:#x} {size}" for at, size, _ in cases))
    need(t, answers[1], 1)
    for (at, size, welcome), answer in zip(cases, answers[2:]):
        if welcome:
            t.require(answer.rc == 0, "NEIGHBOUR_REFUSED", at=at, size=size, base=base, length=length, rc=answer.rc)
        else:
            t.require(answer.rc == -EEXIST, "OVERLAP_ACCEPTED", at=at, size=size, base=base, length=length,
                      rc=answer.rc)


@test(task=1)
def ranges_stay_in_order(t):
    """Whatever the order in which they come, the ranges lie sorted by their base."""
    bases = t.random.sample(range(0x100, 0x8000, 0x20), 12)
    _, answers = ask(t, "device max=1 nonce=1", *(f"bus_add 0 {base:#x} 16" for base in bases), "bus_ranges")
    need(t, answers[1], 1)
    found = [int(word, 16) for word in answers[-1]["bases"].split()]
    t.require(found == sorted(bases), "BUS_NOT_SORTED", found=" ".join(f"{base:#x}" for base in found[:6]),
              want=" ".join(f"{base:#x}" for base in sorted(bases)[:6]))


# --- task 2 -----------------------------------------------------------------------------------------------------------


@test(task=2)
def every_address_finds_its_device(t):
    """First and last byte of each range find its device; the bytes beside it don't."""
    bases = sorted(t.random.sample(range(0x1000, 0x8000, 0x100), 5))
    lengths = [t.random.randrange(1, 0x60) for _ in bases]
    cases = [(0, -1), (ONES64, -1)]
    for number, (base, length) in enumerate(zip(bases, lengths)):
        cases += [(base, number), (base + length - 1, number), (base + length, -1), (base - 1, -1),
                  (base + length // 2, number)]
    _, answers = ask(t, *["device max=1 nonce=1"] * len(bases),
                     *(f"bus_add {n} {base:#x} {length}" for n, (base, length) in enumerate(zip(bases, lengths))),
                     *(f"bus_find {address:#x}" for address, _ in cases))
    for answer in answers[len(bases):2 * len(bases)]:
        need(t, answer, 1)
    ends = {base + length for base, length in zip(bases, lengths)}
    for (address, want), answer in zip(cases, answers[2 * len(bases):]):
        got = answer["device"]
        if address in ends:
            t.require(got == want, "RANGE_END_INCLUSIVE", address=address)
        t.require(got == want, "WRONG_DEVICE_FOUND", address=address, got=name_of(got), want=name_of(want))


def name_of(device):
    return "no device" if device < 0 else f"device {device}"


# --- task 3 -----------------------------------------------------------------------------------------------------------


@test(task=3)
def a_device_sees_offsets(t):
    """A device is asked by its own offset, under its lock, and its bytes come back in little-endian order."""
    base, offset, nonce = t.random.randrange(0x1000, 0x7000) & ~7, t.random.randrange(0x100, 0x800) & ~7, t.nonce
    value = t.random.randrange(1 << 24, 1 << 32)
    written = value.to_bytes(4, "little")
    _, answers = ask(t, f"device max=4 nonce={nonce}", f"bus_add 0 {base:#x} 32 offset={offset:#x}",
                     f"bus_read {base + 8:#x} 4", f"bus_write {base + 12:#x} {written.hex()}", "accesses")
    need(t, answers[1], 1)
    need(t, answers[2], 3)
    need(t, answers[3], 3)
    log = answers[4]["log"].split()
    read = int.from_bytes(bytes_of(nonce, offset + 8, 4), "little")
    t.require(len(log) == 2, "NOT_AS_EXPECTED", message=f"the device saw {len(log)} accesses of 2: {answers[4]['log']}")
    for entry, at in zip(log, (8, 12)):
        seen = int(entry.split("+")[1].split(":")[0], 16)
        t.require(seen == offset + at, "OFFSET_LOST", seen=seen, want=offset + at, address=base + at)
    want = f"r0+{offset + 8:x}:4={read:x} w0+{offset + 12:x}:4={value:x}"
    t.require(answers[4]["log"].replace("!", "") == want, "WRONG_BYTES", seen=answers[4]["log"], want=want)
    t.require(answers[2]["data"] == bytes_of(nonce, offset + 8, 4).hex(), "WRONG_BYTES", seen=answers[2]["data"],
              want=bytes_of(nonce, offset + 8, 4).hex())
    t.credit(0.8)
    t.require(not any(entry.endswith("!") for entry in log), "LOCK_NOT_HELD")


@test(task=3)
def wide_accesses_are_split(t):
    """An access that is wider than the device, or lies across two devices, reaches each with its part."""
    base, one, two = free_port(t), t.nonce, t.nonce ^ 0x5A5A5A5A
    _, answers = ask(t, f"device max=2 nonce={one}", f"device max=4 nonce={two}", f"bus_add 0 {base:#x} 16",
                     f"bus_add 1 {base + 16:#x} 16", f"bus_read {base:#x} 8", "accesses",
                     f"bus_read {base + 12:#x} 8", "accesses", f"bus_write {base + 15:#x} 11223344", "accesses",
                     may_fail=True)
    need(t, answers[2], 1)
    need(t, answers[3], 1)
    if len(answers) > 4 and answers[4].rc == -38:
        need(t, answers[4], 3)
    t.require(len(answers) == 10, "NOT_AS_EXPECTED", message="the program died in hv_bus_read or hv_bus_write")
    want = [[("r0", 0, 2), ("r0", 2, 2), ("r0", 4, 2), ("r0", 6, 2)], [("r0", 12, 2), ("r0", 14, 2), ("r1", 0, 4)],
            [("w0", 15, 1), ("w1", 0, 2), ("w1", 2, 1)]]
    for what, answer in zip(want, (answers[5], answers[7], answers[9])):
        check_split(t, what, answer["log"])
    t.require(answers[4]["data"] == bytes_of(one, 0, 8).hex() and
              answers[6]["data"] == (bytes_of(one, 12, 4) + bytes_of(two, 0, 4)).hex(), "SPLIT_ACCESS_LOST",
              want=bytes_of(one, 0, 8).hex(), seen=answers[4]["data"])
    values = [int(entry.split("=")[1].rstrip("!"), 16) for entry in answers[9]["log"].split()]
    t.require(values[0] == 0x11 and sum(bytes_in(values[1:], (2, 1)), 0) == 0x22 + 0x33 + 0x44, "SPLIT_ACCESS_LOST",
              want="11, 22 33, 44 in this order", seen=answers[9]["log"])


def bytes_in(values, sizes):
    return [byte for value, size in zip(values, sizes) for byte in value.to_bytes(8, "little")[:size]]


def check_split(t, want, log):
    """Each part whole, none wider than its device takes, in any grouping: what counts is which bytes went where."""
    widest = {"0": 2, "1": 4}
    got = []
    for entry in log.split():
        way, rest = entry.split("+")
        offset, size = int(rest.split(":")[0], 16), int(rest.split(":")[1].split("=")[0])
        t.require(size in (1, 2, 4, 8) and size <= widest[way[1]], "SPLIT_ACCESS_LOST", seen=log,
                  want=f"at most {widest[way[1]]} bytes at once for device {way[1]}")
        got += [(way, offset + i) for i in range(size)]
    t.require(got == [(way, offset + i) for way, offset, size in want for i in range(size)], "SPLIT_ACCESS_LOST",
              seen=log or "nothing", want=" ".join(f"{way}+{offset:x}:{size}" for way, offset, size in want))


@test(task=3)
def where_nobody_answers_are_ones(t):
    """Bytes that no device has read as ones, swallow writes, and are told by -ENXIO; the others are as they are."""
    base, nonce = free_port(t), t.nonce
    size = t.random.choice([1, 2, 4])
    _, answers = ask(t, f"device max=1 nonce={nonce}", f"bus_add 0 {base:#x} 2", f"bus_read {base + 0x20:#x} {size}",
                     f"bus_write {base + 0x20:#x} {'5a' * size}", f"bus_read {base:#x} 4", "accesses")
    need(t, answers[1], 1)
    if answers[2].rc == -38:
        need(t, answers[2], 3)
    t.require(answers[2]["data"] == "ff" * size, "UNCLAIMED_NOT_ONES", seen=answers[2]["data"], want="ff" * size)
    t.require(answers[4]["data"][4:] == "ffff", "UNCLAIMED_NOT_ONES", seen=answers[4]["data"],
              want=bytes_of(nonce, 0, 2).hex() + "ffff")
    t.credit(0.5)
    for answer in (answers[2], answers[3], answers[4]):
        t.require(answer.rc == -ENXIO, "UNCLAIMED_UNTOLD", what=answer.command, rc=answer.rc)


# --- tasks 4 to 7: a guest in a machine -------------------------------------------------------------------------------


def machine(t, image, *lines, wait=WAIT, may_hang=False):
    """A machine with the rig's devices on its buses: runs the image to its end; the run, and the answers by command.

    may_hang: some answers may be missing, as a machine that doesn't end is ended by the kit.
    """
    run, answers = ask(t, *(line for line in lines if line.startswith("device")),
                       f"machine_create image={image.path} irqchip=none mem=2M",
                       *(line for line in lines if line.startswith("bus_add")),
                       *(line for line in lines if line.startswith("lie")), "machine_start",
                       f"machine_wait ms={wait}", "accesses", "machine_counts", may_fail=may_hang)
    by_name = {answer.command: answer for answer in answers}
    for command in ("machine_create", "bus_add"):
        if command in by_name:
            need(t, by_name[command], 1)
    return run, by_name


class Access:
    """One entry of a device's record: r0+1c:2=fe34."""

    def __init__(self, text):
        self.text, self.way, self.device = text, text[0], int(text[1])
        where, value = text.rstrip("!").split("=")
        offset, size = where.split("+")[1].split(":")
        self.offset, self.size, self.value = int(offset, 16), int(size), int(value, 16)

    @property
    def data(self):
        return self.value.to_bytes(8, "little")[:self.size]


def accesses(answers, way, device):
    found = [Access(text) for text in answers["accesses"]["log"].split()]
    return [access for access in found if access.way == way and access.device == device]


def outs(run, port):
    """What the guest sent to a port, as it left KVM_RUN: bytes of each exit."""
    return [e.data for e in run.trace.exits() if e.reason == "io" and e.out and e.port == port]


def check_ways(t, exits, log, device):
    """What the guest wrote is a write for the device, and not a read. Accesses that were lost are another matter."""
    want = ["w" if out else "r" for out in exits]
    ways = [text[0] for text in log.split() if text[1] == str(device)][:len(want)]
    t.require(len(ways) != len(want) or ways != ["r" if way == "w" else "w" for way in want], "DIRECTION_SWAPPED",
              log=log, want=" ".join(want))


def check_order(t, seen, sent):
    """The bytes are there, in the wrong order."""
    t.require(len(sent) < 2 or seen == sent or seen != sent[::-1], "WRONG_BYTES", seen=seen.hex(), want=sent.hex())


def shown(parts):
    return " ".join(part.hex() for part in parts) or "nothing"


@test(task=4)
def what_a_port_answers_reaches_the_guest(t):
    """In of 1, 2 and 4 bytes brings the device's bytes into the guest's register; out brings the guest's out."""
    port, value = free_port(t), t.random.randrange(1 << 28, 1 << 32)
    echo, nobody = port + 0x8000, port + 0x20
    guest = t.guest("io", PORT=port, ECHO=echo, VALUE=value, NOBODY=nobody)
    run, answers = machine(t, guest, f"device max=4 nonce={t.nonce}", f"bus_add 0 {port:#x} 4 on=pio")
    reads = [e for e in run.trace.exits() if e.reason == "io" and not e.out and e.port == port]
    answered, log = accesses(answers, "r", 0), answers["accesses"]["log"]
    check_ways(t, [e.out for e in run.trace.exits() if e.reason == "io" and e.port == port], log, 0)
    t.require(len(reads) == 3 and answered, "PORT_UNSERVED", port=port, log=log or "nothing")
    data = value.to_bytes(4, "little")
    written = [access.data for access in accesses(answers, "w", 0)]
    t.require(written == [data[:1], data[:2], data], "DATA_OFFSET_IGNORED", seen=shown(written),
              want=shown([data[:1], data[:2], data]))
    t.credit(0.3)
    for exit_, answer, arrived in zip(reads, answered, outs(run, echo)):
        check_order(t, exit_.reply or b"", answer.data)
        t.require(exit_.reply == answer.data == arrived, "IN_NOT_FILLED", port=port, want=answer.data.hex(),
                  seen=(exit_.reply or b"").hex(), size=exit_.size)
    t.credit(0.8)
    nobodys = outs(run, echo)[3:]
    t.require(nobodys == [b"\xff" * 4], "UNCLAIMED_NOT_ONES", seen=shown(nobodys), want="ffffffff")
    t.require(answers["machine_counts"]["unclaimed"] > 0, "UNCLAIMED_UNTOLD", what="the bus", rc="0")


@test(task=4)
def each_unit_of_a_string_counts(t):
    """Rep insw and rep outsb: each unit is one access of the device, at one port, in order."""
    port, nonce, count = free_port(t), t.nonce, t.random.randrange(5, 13)
    ins, echo = port + 0x20, port + 0x8000
    guest = t.guest("string", OUTS=port, INS=ins, ECHO=echo, COUNT=count, NONCE=nonce)
    run, answers = machine(t, guest, "device max=1 nonce=0", f"device max=2 nonce={nonce} stream=1",
                           f"bus_add 0 {port:#x} 16 on=pio", f"bus_add 1 {ins:#x} 32 on=pio")
    t.require(answers["accesses"]["log"], "PORT_UNSERVED", port=port, log="nothing")
    text = nonce.to_bytes(4, "little") + (~nonce & 0xFFFFFFFF).to_bytes(4, "little")
    written = [access.data for access in accesses(answers, "w", 0)]
    t.require(len(written) == 8, "COUNT_IGNORED", way="outs", units=8, seen=shown(written))
    t.require(b"".join(written) == text, "DATA_OFFSET_IGNORED", seen=shown(written), want=text.hex())
    t.credit(0.3)
    reads = accesses(answers, "r", 1)
    t.require(len({access.offset for access in reads}) < 2, "STRING_MOVES_PORT", port=ins,
              seen=" ".join(f"{access.offset:#x}" for access in reads))
    t.require(len(reads) == count, "COUNT_IGNORED", way="ins", units=count, seen=shown(access.data for access in reads))
    words = [access.data for access in reads]
    t.require(outs(run, echo) == words, "IN_NOT_FILLED", port=ins, size=2 * count, seen=shown(outs(run, echo)),
              want=shown(words))


@test(task=5)
def what_a_register_answers_reaches_the_guest(t):
    """Loads and stores of one to eight bytes where no memory is, some across two devices."""
    base, echo = 0xD0000000 + (t.random.randrange(0x1000) << 12), free_port(t)
    value = t.random.randrange(1 << 60, 1 << 64)
    back = t.random.randrange(1, 4)
    edge = base + 0x100 - back
    guest = t.guest("mmio", kind="elf64", MMIO=base, ECHO=echo, VALUE=value, EDGE=edge, HOLE=base + 0x800)
    run, answers = machine(t, guest, f"device max=8 nonce={t.nonce}", f"device max=4 nonce={t.nonce ^ 0xFFFF}",
                           f"bus_add 0 {base:#x} 0x100 on=mmio", f"bus_add 1 {base + 0x100:#x} 0x40 on=mmio")
    reads = [e for e in run.trace.exits() if e.reason == "mmio" and not e.write and e.gpa == base]
    answered, log = accesses(answers, "r", 0), answers["accesses"]["log"]
    check_ways(t, [e.write for e in run.trace.exits() if e.reason == "mmio" and e.gpa - base in (0, 16)],
               log, 0)
    t.require(len(reads) == 4 and answered, "MMIO_UNSERVED", gpa=base, log=log or "nothing")
    data = value.to_bytes(8, "little")
    stores = [access.data for access in accesses(answers, "w", 0)][:4]
    t.require(stores == [data[:n] for n in (1, 2, 4, 8)], "MMIO_LENGTH_FIXED", seen=shown(stores),
              want=shown(data[:n] for n in (1, 2, 4, 8)))
    t.credit(0.3)
    got = outs(run, echo)
    for exit_, answer, arrived in zip(reads, answered, [*got[:3], b"".join(got[3:5])]):
        check_order(t, arrived, answer.data)
        t.require(answer.data == arrived, "MMIO_READ_STALE", gpa=base, seen=arrived.hex(), want=answer.data.hex(),
                  size=exit_.size)
    t.credit(0.6)
    parts = [access.data for access in answered[4:]] + [access.data for access in accesses(answers, "r", 1)]
    t.require(got[5:6] == [b"".join(parts)] and accesses(answers, "r", 1), "SPLIT_ACCESS_LOST", seen=shown(got[5:6]),
              want=f"{back} of device 0's bytes and {4 - back} of device 1's")
    t.credit(0.8)
    t.require(got[6:] == [b"\xff" * 4] * 2, "UNCLAIMED_NOT_ONES", seen=shown(got[6:]), want="ffffffff ffffffff")
    t.credit(0.9)
    ports = len(outs(run, echo))  # nobody answers at this port either
    t.require(answers["machine_counts"]["unclaimed"] != ports, "UNCLAIMED_UNTOLD", what="exit_mmio's rc", rc=0)


@test(task=6)
def a_signal_is_no_failure(t):
    """KVM_RUN that fails by EINTR or EAGAIN is entered again, and the guest goes on as if nothing had been."""
    port, times = free_port(t), t.random.randrange(1, 5)
    guest = t.guest("spin", PORT=port, COUNT=50)
    for error, ident in ((EINTR, "EINTR_FATAL"), (EAGAIN, "EAGAIN_FATAL")):
        run, answers = machine(t, guest, f"lie KVM_RUN error={error} times={times}")
        t.require(outs(run, port) == [b"\x21"], ident, text=first_line(answers["machine_wait"]))
        if error == EINTR:
            counted = answers["machine_counts"]["signals"]
            t.require(counted == times, "EINTR_UNCOUNTED", times=times, counted=counted)
            t.credit(0.75)


def first_line(end):
    return (end.get("text") or "").split("\n")[0] or f"reason {end.get('reason')}, rc {end.get('rc')}"


def after(run, reason):
    """The entries that followed the first exit of this reason, or None where there is none.

    One that never came back (ret is None) counts: on AMD-V a vCPU is at its reset vector after a triple fault, where
    no memory is, and spins inside KVM.
    """
    exits = [e for e in run.trace.exits() if e.ret in (0, None)]
    found = [number for number, e in enumerate(exits) if e.reason == reason]
    return exits[found[0] + 1:] if found else None


@test(task=7)
def a_halted_guest_is_done(t):
    """A guest that halts with nothing to wake it ends the machine in good order, and is not entered again."""
    guest = t.guest("spin", PORT=free_port(t), COUNT=t.random.randrange(20, 200))
    run, answers = machine(t, guest, may_hang=True)
    more, end = after(run, "hlt"), answers.get("machine_wait", {})
    t.require(more is not None, "NOT_AS_EXPECTED", message="the guest never came to its hlt")
    t.require(not more, "HLT_IGNORED", more=len(more))
    t.require(end.get("reason") == END_HALT and end.get("status") == 0, "HLT_IS_NO_ERROR", status=end.get("status"),
              text=first_line(end))


@test(task=7)
def a_triple_fault_ends_the_machine(t):
    """A triple fault ends the machine with status 1 and the story of its last exits; the guest is not entered again."""
    port = free_port(t)
    byte = t.random.randrange(1, 256)
    guest = t.guest("triple", PORT=port, BYTE=byte)
    # Who goes in again comes out again, some thousand times a second: two seconds of that are enough.
    run, answers = machine(t, guest, wait=2000 * STRETCH, may_hang=True)
    more, end = after(run, "shutdown"), answers.get("machine_wait", {})
    if not more and end.get("rc") == -ETIMEDOUT:  # a slow host, or a machine that never ends: the watchdog tells which
        run, answers = machine(t, guest)
        more, end = after(run, "shutdown"), answers.get("machine_wait", {})
    t.require(more is not None, "NOT_AS_EXPECTED", message="the guest's triple fault never came out of KVM_RUN")
    t.require(not more, "SHUTDOWN_IGNORED", more=len(more), next=more[0].reason or "nothing" if more else "")
    right = end.get("reason") == END_TRIPLE_FAULT and end.get("status") == 1 and f"out {port:#x} 1 byte" in end.get("text", "")
    t.require(right, "SHUTDOWN_MISTOLD", reason=end.get("reason"), status=end.get("status"), text=first_line(end))
    t.credit(0.8)
    t.require(f"out {port:#x} 1 byte 0x0" not in end["text"], "NOT_AS_EXPECTED",
              message=f"the guest sent {byte:#x} to port {port:#x}; the story of the last exits says 0x0, which is "
              "rec->value of task 4")


@test(task=7)
def hvrun_shows_what_the_guest_says(t):
    """The program hvrun, linked with your files, prints what the guest writes to its serial port and ends with 0."""
    text = "".join(t.random.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(8)).encode()
    guest = t.guest("greet", LOW=int.from_bytes(text[:4], "little"), HIGH=int.from_bytes(text[4:], "little"))
    run = t.hvrun(["--sandbox", "off", "--timeout", WAIT // 1000, guest.path], may_fail=True)
    more = after(run, "hlt")
    t.require(not more, "HLT_IGNORED", more=len(more or ()))
    said = run.stderr[:200].decode(errors="replace")
    t.require(run.stdout == text, "NOT_AS_EXPECTED",
              message=f"hvrun printed {run.stdout[:40]!r}, the guest said {text!r}; {said}")
    t.require(run.status == 0, "HLT_IS_NO_ERROR", status=run.status, text=said)


# --- challenge --------------------------------------------------------------------------------------------------------


@test(task=2)
def the_last_of_many_ranges_is_found(t):
    """The last of 64 ranges is found as well as the first, and a range that ends at the last address is one too."""
    bases = t.random.sample(range(0x1000, 0xF000, 0x40), 62)
    _, answers = ask(t, *["device max=1 nonce=1"] * 4, *(f"bus_add {n % 4} {b:#x} 32" for n, b in enumerate(bases)),
                     f"bus_add 3 {ONES64 - 16:#x} 16", *(f"bus_find {b + 31:#x}" for b in bases),
                     f"bus_find {ONES64 - 1:#x}", f"bus_find {ONES64:#x}")
    for answer in answers[4:67]:
        need(t, answer, 1)
    wanted = [(b + 31, n % 4) for n, b in enumerate(bases)] + [(ONES64 - 1, 3), (ONES64, -1)]
    for (address, want), answer in zip(wanted, answers[67:]):
        t.require(answer["device"] == want, "WRONG_DEVICE_FOUND", address=address, got=name_of(answer["device"]),
                  want=name_of(want))
