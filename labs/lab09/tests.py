"""
Lab 9, virtio: core/device/virtio/queue.c and blk.c. Tasks 1 to 5 are asked of the queue alone, whose rings stand in the
rig's memory, at seeded addresses and with seeded contents. From task 6 on a guest drives a disk: its descriptors, heads
and buffers are laid out here, and what it finds in its memory at the end, and the host in the disk's file, is judged.
Hostile rings come with a sound twin: who refuses everything refuses nothing. Rules: virtio 1.2, sections 2.7 and 5.2.
"""
import struct

from kit.testing import test

RAM = 0x400000
EBADMSG = -74
NEXT, WRITE, INDIRECT = 1, 2, 4
F_FLUSH, F_DISCARD, F_ZEROES, F_INDIRECT, F_EVENT = 1 << 9, 1 << 13, 1 << 14, 1 << 28, 1 << 29
UNTOUCHED = 0xEE  # what memory holds that a device may write


def bytes_of(t, length):
    """Seeded bytes without the one that stands for untouched memory."""
    return bytes(t.random.choice([b for b in range(256) if b != UNTOUCHED]) for _ in range(length))


def cut(t, data, pieces):
    """data in so many pieces at seeded places, none of them empty."""
    at = sorted(t.random.sample(range(1, len(data)), min(pieces, len(data)) - 1))
    return [data[i:j] for i, j in zip([0, *at], [*at, len(data)])]


def descriptor(gpa, length, flags=0, following=0):
    return struct.pack("<QIHH", gpa, length, flags, following)


# --- a queue in the rig's memory ---

class Queue:
    """A queue at seeded addresses, and the script that makes it. A chain's buffers are (gpa, length, is writable)."""

    def __init__(self, t, size=None, **features):
        self.t, self.size, self.features = t, size or t.random.choice((8, 16, 32)), features
        start = t.random.randrange(0x100, 0x180) << 12
        self.table = start + 16 * t.random.randrange(64)
        self.available = start + 0x2000 + 2 * t.random.randrange(64)
        self.used = start + 0x4000 + 4 * t.random.randrange(64)
        self.buffers, self.buffers_end = start + 0x8000, RAM
        self.descriptors = {}
        self.free = list(range(self.size))
        t.random.shuffle(self.free)
        self.extra = []  # (gpa, bytes) that stand in memory, too

    def buffer(self, length=None):
        """A room of its own, at an odd place: (gpa, length)."""
        length = length or self.t.random.randrange(1, 700)
        self.buffers += self.t.random.randrange(1, 64) + 700
        return self.buffers, length

    def parts(self, readable, writable):
        return [(*self.buffer(), False) for _ in range(readable)] + [(*self.buffer(), True) for _ in range(writable)]

    def chain(self, parts):
        """Links them by descriptors in no order; returns the head."""
        taken = [self.free.pop() for _ in parts]
        for i, (gpa, length, writable) in enumerate(parts):
            last = i + 1 == len(parts)
            # A chain's end has a `next` as well; it means nothing.
            following = self.t.random.randrange(self.size) if last else taken[i + 1]
            self.descriptors[taken[i]] = descriptor(gpa, length, WRITE * writable | NEXT * (not last), following)
        return taken[0]

    def put(self, index, gpa, length, flags=0, following=0):
        """A descriptor by hand."""
        self.descriptors[index] = descriptor(gpa, length, flags, following)
        if index in self.free:
            self.free.remove(index)
        return index

    def indirect_table(self, parts, head=None, **fields):
        """A table somewhere in memory, and the descriptor that names it; returns its head."""
        room = self.buffer(16 * len(parts))
        table = b""
        for i, (gpa, length, writable) in enumerate(parts):
            last = i + 1 == len(parts)
            table += descriptor(gpa, length, WRITE * writable | NEXT * (not last), 0 if last else i + 1)
        self.extra.append((room[0], table))
        self.buffers += len(table)
        index = self.free.pop() if head is None else head
        return self.put(index, fields.get("gpa", room[0]), fields.get("length", len(table)),
                        fields.get("flags", INDIRECT), fields.get("following", 0))

    def script(self, *commands):
        table = b"".join(self.descriptors.get(i, descriptor(self.table, 16)) for i in range(self.size))
        words = " ".join(f"{key}={value}" for key, value in self.features.items())
        lines = [f"mem_write {self.table:#x} {table.hex()}",
                 f"mem_write {self.available:#x} {bytes(6 + 2 * self.size).hex()}",
                 f"mem_write {self.used:#x} {bytes(6 + 8 * self.size).hex()}",
                 *(f"mem_write {gpa:#x} {data.hex()}" for gpa, data in self.extra),
                 f"virtq table={self.table:#x} available={self.available:#x} used={self.used:#x} size={self.size} {words}"]
        return "\n".join([*lines, *commands]) + "\n"

    @property
    def used_ring(self):
        return f"mem_read {self.used:#x} {6 + 8 * self.size}"

    @property
    def used_event(self):
        return self.available + 4 + 2 * self.size


MEMORY = f"mem_ram {RAM:#x}\n"


def ask(t, *queues, may_fail=False):
    """One run of the rig over these scripts."""
    return t.rig(MEMORY + "".join(queues), may_fail=may_fail)


def answers(run, command):
    return [a for a in run.answers if a.command == command]


def used_ring(answer, size):
    """(idx, [(id, length)]) of a used ring that was read."""
    raw = bytes.fromhex(answer["data"])
    return (struct.unpack_from("<H", raw, 2)[0], [struct.unpack_from("<II", raw, 4 + 8 * i) for i in range(size)],
            struct.unpack_from("<H", raw, 4 + 8 * size)[0])


def told(parts):
    return ",".join(f"{gpa:x}+{length:x}" for gpa, length, _ in parts)


def taken(t, answer, head, place="the ring's next slot"):
    """A chain came out, by this head. What comes after the head is another task's."""
    t.require(answer and (answer.rc == 1 or answer.get("head") == head), "HEAD_WRONG", want=head, place=place,
              head=answer.get("head") if answer else None, rc=answer.rc if answer else None)
    t.require(answer["head"] == head, "HEAD_WRONG", want=head, place=place, head=answer["head"], rc=answer.rc)


def check_chain(t, answer, head, parts):
    """The chain has these buffers."""
    taken(t, answer, head)
    seen, want = answer["buffers"], told(parts)
    length = [sum(n for _, n, w in parts if w == kind) for kind in (False, True)]
    astray = answer.rc != 1 and not want.startswith(seen)
    t.require(answer.rc == 1 or astray, "SOUND_CHAIN_REFUSED", count=len(parts), rc=answer.rc, broken=answer["broken"])
    t.require(seen == want or answer["count"] != 3, "CHAIN_FIXED_3", count=len(parts), seen=answer["count"])
    t.require(seen == want, "CHAIN_WRONG", want=want, seen=seen, count=answer["count"], wanted=len(parts))
    readable = sum(not w for _, _, w in parts)
    t.require(answer["readable"] == readable, "WRITE_FLAG_IGNORED", readable=answer["readable"], want=readable,
              count=len(parts))
    t.require([answer["read_length"], answer["write_length"]] == length, "LENGTHS_WRONG", read=answer["read_length"],
              write=answer["write_length"], want_read=length[0], want_write=length[1])


def check_refusals(t, twin, cases):
    """twin: (queue, head, parts) that must be taken. Each case is (queue, commands, id, seen): its first pop breaks the
    queue, and so it stays."""
    queue, head, parts = twin
    scripts = [queue.script(f"virtq_offer {head}", "virtq_pop")]
    scripts += [q.script(*commands, "virtq_pop", "virtq_pop") for q, commands, _, _ in cases]
    run = ask(t, *scripts, may_fail=True)
    pops = answers(run, "virtq_pop")
    if parts is None:
        taken(t, pops[0] if pops else None, head)
    else:
        check_chain(t, pops[0] if pops else None, head, parts)
    for i, (_, _, name, seen) in enumerate(cases):
        both = pops[1 + 2 * i:3 + 2 * i]
        rc = both[0].rc if both else f"never ({run.ended})"
        t.require(both and rc == EBADMSG, name, rc=rc, **seen)
        t.require(len(both) == 2 and both[1].rc == EBADMSG, "BROKEN_QUEUE_GOES_ON", rc=both[-1].rc, **seen)


# --- task 1: the available ring ---

@test(task=1)
def the_next_head_is_taken(t):
    """An empty queue gives nothing, and the first chain comes by the head that the driver wrote."""
    scripts, heads = [], []
    for size in t.random.sample((4, 8, 16, 64, 256), 3):
        q = Queue(t, size)
        heads.append(q.chain(q.parts(1, 0)))
        scripts.append(q.script("virtq_pop", f"virtq_offer {heads[-1]}", "virtq_pop"))
    run = ask(t, *scripts, may_fail=True)
    pops = answers(run, "virtq_pop")
    for i, head in enumerate(heads):
        both = pops[2 * i:2 * i + 2]
        t.require(both and both[0].rc == 0, "EMPTY_QUEUE_GIVES", rc=both[0].rc if both else None)
        taken(t, both[1] if len(both) == 2 else None, head)


@test(task=1)
def indexes_that_lie_break_the_queue(t):
    """A head that the table doesn't have, and an index that is ahead by more than the ring, break the queue."""
    twin = Queue(t, 8)
    head = twin.put(7, *twin.buffer())
    full = Queue(t, 8)
    first = full.put(t.random.randrange(8), *full.buffer())
    ring = struct.pack("<8H", *[first] * 8).hex()
    cases = []
    for bad in (8, t.random.randrange(9, 0x10000)):
        q = Queue(t, 8)
        gpa, length = q.buffer()
        q.extra.append((q.table + 16 * 8, descriptor(gpa, length)))  # what stands behind the table looks sound
        cases.append((q, [f"virtq_offer {bad}"], "IDX_OOB", {"head": bad, "size": 8}))
    for ahead in (9, t.random.randrange(10, 0x10000)):
        q = Queue(t, 8)
        q.put(first, *q.buffer())
        commands = [f"mem_write {q.available + 4:#x} {ring}",
                    f"mem_write {q.available + 2:#x} {struct.pack('<H', ahead).hex()}"]
        cases.append((q, commands, "IDX_JUMP_ACCEPTED", {"ahead": ahead, "size": 8}))
    check_refusals(t, (twin, head, None), cases)
    run = ask(t, full.script(f"mem_write {full.available + 4:#x} {ring}", f"mem_write {full.available + 2:#x} 0800",
                             "virtq_pop"), may_fail=True)
    pops = answers(run, "virtq_pop")
    t.require(pops and pops[0]["head"] == first, "FULL_RING_REFUSED", size=8, rc=pops[0].rc if pops else None)


# --- task 2: chains ---

@test(task=2)
def chains_are_followed_as_they_are_linked(t):
    """Chains of one, two, three, four and more buffers are taken whole, however their descriptors lie."""
    q = Queue(t, 64)
    shapes = [(2, 1), (1, 3), (0, 1), (1, 0), (1, 1), (3, 1), (t.random.randrange(4, 8), t.random.randrange(4, 8))]
    chains = []
    for readable, writable in shapes:
        parts = q.parts(readable, writable)
        chains.append((q.chain(parts), parts))
    lines = [f"virtq_offer {' '.join(str(head) for head, _ in chains)}"]
    lines += [f"virtq_pop slot={i}" for i in range(len(chains))]
    run = ask(t, q.script(*lines), may_fail=True)
    pops = answers(run, "virtq_pop")
    for i, (head, parts) in enumerate(chains):
        check_chain(t, pops[i] if i < len(pops) else None, head, parts)


@test(task=2)
def chains_that_lie_break_the_queue(t):
    """Loops, descriptors that aren't there, empty buffers, buffers outside memory or out of order break the queue."""
    twin = Queue(t, 8)
    parts = twin.parts(2, 1)
    head = twin.chain(parts)
    cases = []

    def case(name, *descriptors, **seen):
        """descriptors: (gpa, length, flags, next) of descriptor 0, 1...; the head is 0."""
        q = Queue(t, 8)
        room = q.buffer(64)[0]
        for i, (gpa, length, flags, following) in enumerate(descriptors):
            q.put(i, room if gpa is None else gpa, length, flags, following)
        for i in range(8):  # what stands behind the table looks sound
            q.extra.append((q.table + 16 * (8 + i), descriptor(room, 8)))
        cases.append((q, ["virtq_offer 0"], name, seen))

    case("LOOP_NOT_SEEN", (None, 8, NEXT, 0), what="a descriptor that names itself")
    case("LOOP_NOT_SEEN", (None, 8, NEXT, 1), (None, 8, NEXT, 2), (None, 8, NEXT, 1),
         what="a loop that leaves the head out")
    case("NEXT_OOB", (None, 8, NEXT, 8), next=8, size=8)
    far = t.random.randrange(9, 0x10000)
    case("NEXT_OOB", (None, 8, NEXT, 1), (None, 8, NEXT, far), next=far, size=8)
    case("BUFFER_UNCHECKED", (None, 0, WRITE, 0), what="no bytes")
    case("BUFFER_UNCHECKED", (RAM - 8, 9, WRITE, 0), what="a last byte behind the memory's end")
    case("BUFFER_UNCHECKED", ((1 << 64) - 8, 16, WRITE, 0), what="an address whose sum with its length is 8")
    case("BUFFER_UNCHECKED", (None, 8, NEXT, 1), (t.random.randrange(RAM, 1 << 40), 8, WRITE, 0),
         what="an address without memory")
    case("ORDER_UNCHECKED", (None, 8, WRITE | NEXT, 1), (None, 8, 0, 0))
    check_refusals(t, (twin, head, parts), cases)


# --- task 3: indirect tables ---

@test(task=3)
def indirect_tables_are_followed(t):
    """A table in memory is walked like the queue's own, also behind other buffers, and may be longer than the queue."""
    q = Queue(t, 8, indirect=1)
    alone = q.parts(t.random.randrange(1, 4), t.random.randrange(1, 4))
    alone_head = q.indirect_table(alone, flags=INDIRECT | WRITE)
    front, behind = q.parts(1, 0), q.parts(t.random.randrange(1, 3), t.random.randrange(1, 4))
    inner = q.indirect_table(behind)
    front_head = q.put(q.free.pop(), front[0][0], front[0][1], NEXT, inner)
    many = q.parts(t.random.randrange(10, 20), t.random.randrange(1, 10))
    many_head = q.indirect_table(many)
    wanted = [(alone_head, alone), (front_head, front + behind), (many_head, many)]
    run = ask(t, q.script("virtq_offer " + " ".join(str(head) for head, _ in wanted),
                          *(f"virtq_pop slot={i}" for i in range(3))), may_fail=True)
    pops = answers(run, "virtq_pop")
    for i, (head, parts) in enumerate(wanted):
        pop = pops[i] if i < len(pops) else None
        table = q.descriptors[inner if head == front_head else head][:12]
        as_buffer = "{:x}+{:x}".format(*struct.unpack("<QI", table))
        t.require(pop is None or as_buffer not in pop["buffers"].split(","), "INDIRECT_IGNORED", table=as_buffer,
                  entries=len(parts))
        check_chain(t, pop, head, parts)


@test(task=3)
def tables_that_lie_break_the_queue(t):
    """An indirect table that can't be, or wasn't agreed on, breaks the queue."""
    twin = Queue(t, 8, indirect=1)
    parts = twin.parts(1, 2)
    head = twin.indirect_table(parts)
    cases = []

    def case(what, negotiated=1, **fields):
        q = Queue(t, 8, indirect=negotiated)
        h = q.indirect_table(q.parts(1, 2), head=0, **fields)
        q.put(1, *q.buffer(16))
        cases.append((q, [f"virtq_offer {h}"], "TABLE_UNCHECKED", {"what": what}))

    case("an indirect descriptor though the feature was not accepted", negotiated=0)
    case("a table of no bytes", length=0)
    case(f"a table of {16 * 3 + 5} bytes", length=16 * 3 + 5)
    case("a table behind the memory's end", gpa=RAM - 16)
    case("an indirect descriptor with NEXT set", flags=INDIRECT | NEXT, following=1)
    nested = Queue(t, 8, indirect=1)
    room, inner = nested.buffer(64), nested.buffer(16)
    nested.extra += [(room[0], descriptor(inner[0], 16, INDIRECT)), (inner[0], descriptor(*nested.buffer(16)))]
    nested.put(0, room[0], 16, INDIRECT)
    cases.append((nested, ["virtq_offer 0"], "TABLE_UNCHECKED", {"what": "an indirect descriptor in an indirect table"}))
    check_refusals(t, (twin, head, parts), cases)


# --- task 4: the used ring ---

@test(task=4)
def chains_come_back_by_their_head(t):
    """Chains come back by their heads, with the bytes that were written, in whatever order they are done."""
    q = Queue(t, 8)
    heads = [q.put(i, *q.buffer(), WRITE) for i in range(8)]
    rounds, lines = [], []
    for _ in range(4):
        out = t.random.sample(heads, t.random.randrange(3, 8))
        order = [(i, t.random.randrange(1, 1 << 32)) for i in range(len(out))]
        t.random.shuffle(order)
        rounds.append((out, order))
        lines += [f"virtq_offer {' '.join(map(str, out))}", *(f"virtq_pop slot={i}" for i in range(len(out))),
                  *(f"virtq_push {written} slot={i}" for i, written in order), q.used_ring]
    run = ask(t, q.script(*lines), may_fail=True)
    pops, reads, idx = answers(run, "virtq_pop"), answers(run, "mem_read"), 0
    for number, (out, order) in enumerate(rounds):
        for i, head in enumerate(out):
            pop = pops.pop(0) if pops else None
            taken(t, pop, head, f"slot {(idx + i) % q.size} of round {number + 1}")
            t.require(pop.rc == 1, "SOUND_CHAIN_REFUSED", count=1, rc=pop.rc, broken=pop["broken"])
        t.require(number < len(reads), "HEAD_NOT_RETURNED", seen=f"nothing ({run.ended})", want=out[0], slot=idx % q.size)
        seen, ring, _ = used_ring(reads[number], q.size)
        t.require(seen == idx + len(out), "USED_IDX_WRONG", seen=seen, want=idx + len(out))
        for k, (i, written) in enumerate(order):
            slot = (idx + k) % q.size
            t.require(ring[slot][0] == out[i], "HEAD_NOT_RETURNED", seen=ring[slot][0], want=out[i], slot=slot)
            t.require(ring[slot][1] == written, "USED_LEN_WRONG", seen=ring[slot][1], want=written)
        idx += len(out)


@test(task=4)
def the_indexes_go_on_past_65535(t):
    """The indexes count on over 65535 to 0, in rings of any size."""
    for size in t.random.sample((2, 8, 64), 2):
        q = Queue(t, size)
        for i in range(size):
            q.put(i, *q.buffer(8), WRITE)
        rounds = 0x10000 + t.random.randrange(3, 3 * size + 4)
        run = ask(t, q.script(f"virtq_cycle {rounds}", q.used_ring), may_fail=True)
        cycle, read = run.answer("virtq_cycle"), run.answer("mem_read")
        done = cycle["done"] if cycle else f"no ({run.ended})"
        t.require(cycle and read and done == rounds, "WRAP_BROKEN", done=done, size=size,
                  idx=used_ring(read, size)[0] if read else "?", want=rounds % 0x10000)
        idx, ring, _ = used_ring(read, size)
        t.require(idx == rounds % 0x10000, "WRAP_BROKEN", done=rounds, size=size, idx=idx, want=rounds % 0x10000)
        last = (rounds - 1) % size
        t.require(ring[last] == (last, rounds - 1), "WRAP_BROKEN", done=rounds, size=size, idx=idx, want=rounds % 0x10000)
        t.credit(0.5)


@test(task=4)
def chains_come_back_in_order(t):
    """With IN_ORDER the driver sees chains in the order in which it made them available."""
    q = Queue(t, 8, in_order=1)
    out = [q.put(i, *q.buffer(), WRITE) for i in t.random.sample(range(8), 5)]
    order, lines = list(range(5)), []
    t.random.shuffle(order)
    order.sort(key=lambda i: i == 0)  # the first one is done last
    for i in order:
        lines += [f"virtq_push {100 + i} slot={i}", q.used_ring]
    run = ask(t, q.script(f"virtq_offer {' '.join(map(str, out))}", *(f"virtq_pop slot={i}" for i in range(5)), *lines),
              may_fail=True)
    reads, done = answers(run, "mem_read"), set()
    t.require(len(reads) == 5, "ORDER_LOST", seen=f"nothing ({run.ended})", want="every chain")
    for read, i in zip(reads, order):
        done.add(i)
        visible = next((k for k in range(5) if k not in done), 5)
        idx, ring, _ = used_ring(read, q.size)
        t.require((idx, ring[:idx]) == (visible, [(out[k], 100 + k) for k in range(visible)]), "ORDER_LOST",
                  seen=[head for head, _ in ring[:idx]], want=out[:visible])


# --- task 5: who is told ---

def needs_event(event, new, old):
    """virtio 1.2, 2.7.7.2: was the index `event` passed on the way from old to new?"""
    return (new - event - 1) % 0x10000 < (new - old) % 0x10000


@test(task=5)
def interrupts_come_when_they_are_asked_for(t):
    """The driver is interrupted when it wants that: by its flag, and by the index that it names."""
    scripts, wanted = [], []

    def rounds(count):
        return [line for _ in range(count) for line in ("virtq_offer 0", "virtq_pop", "virtq_push 1")]

    plain = Queue(t, 8)
    plain.put(0, *plain.buffer(), WRITE)
    lines = ["virtq_wants"]
    wanted.append((False, "nothing has come back"))
    for flag in (0, 1, 0):
        lines += [f"mem_write {plain.available:#x} {flag:02x}00", *rounds(1), "virtq_wants", "virtq_wants"]
        wanted += [(flag == 0, f"the available ring's flags are {flag}"), (False, "nothing has come back since")]
    scripts.append(plain.script(*lines))
    q = Queue(t, 8, event=1)
    for i in range(8):
        q.put(i, *q.buffer(), WRITE)
    lines, old = [], 0
    for jump in (0, 0x10000 - t.random.randrange(1, 4)):
        if jump:  # up to the wrap
            lines.append(f"virtq_cycle {jump - old}")
            old = jump
        for ahead in (0, 1, 2, 40000, -1, t.random.randrange(3, 7)):
            count, event = t.random.randrange(1, 4), (old + ahead) % 0x10000
            lines += [f"mem_write {q.used_event:#x} {struct.pack('<H', event).hex()}", *rounds(count), "virtq_wants"]
            new = (old + count) % 0x10000
            wanted.append((needs_event(event, new, old),
                           f"used_event is {event} and the used index went from {old} to {new}"))
            old = new
    scripts.append(q.script(*lines))
    run = ask(t, *scripts, may_fail=True)
    said = answers(run, "virtq_wants")
    for i, (want, why) in enumerate(wanted):
        t.require(i < len(said), "INTERRUPT_MISSING", why=why)
        t.require(said[i]["wants"] or not want, "INTERRUPT_MISSING", why=why)
        t.require(want or not said[i]["wants"], "INTERRUPT_UNASKED", why=why)


@test(task=5)
def the_driver_is_asked_to_notify(t):
    """With an empty ring the device says at which index it wants to be notified, and where it wasn't agreed it doesn't."""
    q = Queue(t, 8, event=1)
    q.put(0, *q.buffer(), WRITE)
    rounds = t.random.randrange(3, 30)
    plain = Queue(t, 8)
    plain.put(0, *plain.buffer(), WRITE)
    mark = f"mem_write {plain.used + 4 + 8 * 8:#x} a5a5"
    cycle = [line for _ in range(rounds) for line in ("virtq_offer 0", "virtq_pop", "virtq_push 1")]
    run = ask(t, q.script("virtq_offer 0", "virtq_pop", "virtq_push 1", "virtq_pop", q.used_ring, *cycle, "virtq_pop",
                          q.used_ring),
              plain.script(mark, "virtq_offer 0", "virtq_pop", "virtq_push 1", "virtq_pop", plain.used_ring),
              may_fail=True)
    reads = answers(run, "mem_read")
    for read, want in zip(reads, (1, rounds + 1)):
        seen = used_ring(read, 8)[2]
        t.require(seen == want, "NOTIFY_NOT_ASKED", seen=seen, want=want)
    t.require(len(reads) == 3, "NOTIFY_NOT_ASKED", seen="?", want=1)
    t.require(used_ring(reads[2], 8)[2] == 0xa5a5, "NOTIFY_UNNEGOTIATED", seen=used_ring(reads[2], 8)[2])


# --- a guest and its disk ---

IN, OUT, FLUSH, GET_ID, DISCARD, ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = 0, 1, 2
DONE, NEEDS_RESET, IMPATIENT = 0x10, 0x11, 0x12  # by what the guest ends
SECTOR = 512
NAMES = {IN: "a read", OUT: "a write", FLUSH: "a flush", GET_ID: "a request for the serial number", DISCARD: "a discard",
         ZEROES: "a write of zeroes"}


class Raw:
    """An image whose bytes are the disk's."""

    name = "raw"

    @staticmethod
    def pack(_, disk):
        return disk

    @staticmethod
    def unpack(image, _):
        return image


class Scattered:
    """A qcow2 image of clusters that have one sector each and lie in no order: what a request names is nowhere in one
    piece, so nobody can hand it on as a whole. One table of the second level, 64 sectors at most. (QEMU, docs/interop/qcow2.)
    """

    name = "qcow2"
    COPIED, OFFSET = 1 << 63, 0x00FFFFFFFFFFFE00

    @classmethod
    def pack(cls, t, disk):
        count = len(disk) // SECTOR
        places = t.random.sample(range(5, 5 + count), count)
        # Clusters: 0 header, 1 the first level, 2 the second, 3 the table of refcounts, 4 refcounts; then data.
        head = struct.pack(">IIQIIQIIQQIIQQQQII", 0x514649FB, 3, 0, 0, 9, len(disk), 0, 1, SECTOR, 3 * SECTOR, 1, 0, 0, 0,
                           0, 0, 4, 104)
        level2 = struct.pack(f">{count}Q", *(cls.COPIED | place * SECTOR for place in places))
        refcounts = struct.pack(f">{5 + count}H", *[1] * (5 + count))
        image = bytearray((5 + count) * SECTOR)
        for at, data in ((0, head), (1, struct.pack(">Q", cls.COPIED | 2 * SECTOR)), (2, level2),
                         (3, struct.pack(">Q", 4 * SECTOR)),
                         (4, refcounts), *((place, disk[i * SECTOR:(i + 1) * SECTOR]) for i, place in enumerate(places))):
            image[at * SECTOR:at * SECTOR + len(data)] = data
        return bytes(image)

    @classmethod
    def unpack(cls, image, size):
        """The disk's bytes; what the image has no sound place for is told as 0xEE."""
        def table(at, count):
            raw = image[at:at + 8 * count].ljust(8 * count, b"\0")
            return struct.unpack(f">{count}Q", raw)
        level1, = table(SECTOR, 1)
        out = b""
        for entry in table(level1 & cls.OFFSET, size // SECTOR):
            at = entry & cls.OFFSET
            out += bytes(SECTOR) if entry & 1 or not at else image[at:at + SECTOR].ljust(SECTOR, b"\xEE")
        return out


def header(kind, sector=0):
    return struct.pack("<IIQ", kind, 0, sector)


class Request:
    """One request: pieces that the device reads, rooms that it may write, and how they are linked."""

    def __init__(self, kind, readable, writable, sector=0, indirect=False):
        self.kind, self.sector, self.readable, self.writable = kind, sector, readable, writable
        self.indirect, self.head = indirect, None
        self.rooms = []  # gpas of the writable pieces

    @property
    def name(self):
        return NAMES.get(self.kind, f"a request of the unknown type {self.kind:#x}")

    @property
    def shape(self):
        words = [str(len(p)) for p in self.readable] + [f"{n}w" for n in self.writable]
        return ("an indirect table of " if self.indirect else "") + "+".join(words) + " bytes"

    @property
    def write_length(self):
        return sum(self.writable)


class Session:
    """A guest with its rings and buffers laid out, its disk, and what happened."""

    def __init__(self, t, disk, size=32, options="", features=0, form=Raw):
        self.t, self.disk, self.size, self.options, self.form = t, disk, size, options, form
        self.features = features | F_INDIRECT
        self.arena = t.random.randrange(0x180, 0x200) << 12
        self.code = t.random.randrange(0x110, 0x140) << 12
        self.memory = bytearray()
        self.free = list(range(size))
        t.random.shuffle(self.free)
        self.descriptors, self.heads, self.steps, self.requests = {}, [], [], []
        self.table = self.room(16 * size, 16)
        self.available = self.room(6 + 2 * size, 2)
        self.used = self.room(6 + 8 * size, 4)

    def room(self, size, align=1, data=None, gap=0):
        """Memory of its own: its GPA."""
        at = len(self.memory) + gap
        at += -at % align
        self.memory.extend(bytes(at + size - len(self.memory)))
        if data is not None:
            self.memory[at:at + size] = data
        return self.arena + at

    def add(self, *requests, wait=None):
        """One step: these are made available together. wait: how many of them are waited for, else all."""
        for r in requests:
            self.place(r)
            self.heads.append(r.head)
            self.requests.append(r)
        before = self.steps[-1][1] if self.steps else 0
        self.steps.append((len(self.heads), before + (len(requests) if wait is None else wait)))
        return self

    def place(self, r):
        odd = self.t.random.randrange
        parts = [(self.room(len(p), data=p, gap=odd(1, 40)), len(p), 0) for p in r.readable]
        for length in r.writable:
            r.rooms.append(self.room(length, data=bytes([UNTOUCHED]) * length, gap=odd(1, 40)))
            parts.append((r.rooms[-1], length, WRITE))
        if r.indirect:
            table = b"".join(descriptor(gpa, n, flag | (NEXT if i + 1 < len(parts) else 0), (i + 1) % len(parts))
                             for i, (gpa, n, flag) in enumerate(parts))
            parts = [(self.room(len(table), data=table, gap=odd(1, 40)), len(table), INDIRECT)]
        slots = [self.free.pop() for _ in parts]
        for i, (gpa, n, flag) in enumerate(parts):
            more = i + 1 < len(parts)
            self.descriptors[slots[i]] = descriptor(gpa, n, flag | (NEXT if more else 0), slots[i + 1] if more else 0)
        r.head = slots[0]

    def image(self):
        steps = self.room(4 * len(self.steps), 4, b"".join(struct.pack("<HH", *s) for s in self.steps))
        for i, d in self.descriptors.items():
            at = self.table - self.arena + 16 * i
            self.memory[at:at + 16] = d
        at = self.available - self.arena + 4
        self.memory[at:at + 2 * len(self.heads)] = struct.pack(f"<{len(self.heads)}H", *self.heads)
        guest = self.t.guest("driver", base=self.code, WINDOW=0xd0000000, FEATURES=self.features, FEATURES_HIGH=1,
                             SIZE=self.size, TABLE=self.table, AVAILABLE=self.available, USED=self.used, STEPS=steps,
                             COUNT=len(self.steps))
        return elf(((self.code, guest.data), (self.arena, bytes(self.memory))), self.code)

    def run(self):
        t = self.t
        self.file = t.file("disk.img", self.form.pack(t, self.disk))
        path = t.file("guest.elf", self.image())
        probe = Queue(t, 8)
        probe.put(0, *probe.buffer())
        script = (MEMORY + probe.script("virtq_offer 0", "virtq_pop") +  # a hole in the queue is told as one
                  f"machine_create image={path} mem=4M irqchip=split disk={self.file},format={self.form.name}{self.options}\n"
                  "machine_start\nmachine_wait ms=9000\nsyncs\nexit\n")
        self.ran = t.rig(script, dump=[("last", self.arena, len(self.memory))], may_fail=True)
        made = self.ran.answer("machine_start")
        t.require(made is None or made.rc == 0, "NOT_AS_EXPECTED",
                  message=f"the machine did not start: {made and made.error}")
        ends = [e.data[0] for e in self.ran.trace.exits(vcpu=0) if e.reason == "io" and e.port == 0xf4 and e.out and e.data]
        self.end = ends[0] if ends else None
        with open(self.file, "rb") as file:
            self.disk_after = self.form.unpack(file.read(), len(self.disk))
        return self

    def bytes_at(self, gpa, length):
        """Guest memory at the end; what stood there in the beginning, if the run has left none."""
        kept = self.ran.memory("last", gpa, length)
        return kept if kept is not None else bytes(self.memory[gpa - self.arena:gpa - self.arena + length])

    def returned(self):
        """(idx, {head: length}) of the used ring."""
        raw = self.bytes_at(self.used, 6 + 8 * self.size)
        idx = struct.unpack_from("<H", raw, 2)[0]
        return idx, dict(struct.unpack_from("<II", raw, 4 + 8 * i) for i in range(min(idx, self.size)))

    def written(self, r):
        """What the device left in the request's rooms, all in a row."""
        return b"".join(self.bytes_at(gpa, n) for gpa, n in zip(r.rooms, r.writable))


def elf(segments, entry):
    """An ELF64 image of these (gpa, bytes)."""
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, entry, 64, 0, 0, 64, 56, len(segments),
                                                     0, 0, 0)
    table, body, at = b"", b"", 64 + 56 * len(segments)
    for gpa, data in segments:
        table += struct.pack("<IIQQQQQQ", 1, 7, at + len(body), gpa, gpa, len(data), len(data), 1)
        body += data
    return head + table + body


def check_answered(t, s, wanted=DONE):
    """All requests came back, each by its head; s.end says that the device didn't ask for a reset."""
    if s.ran.ended == "signal":
        t.fail("CRASHED", signal=f"signal {s.ran.signal}", at="a request of the guest's")
    t.require(s.end != NEEDS_RESET, "SOUND_REQUEST_REFUSED", shape="; ".join(r.shape for r in s.requests[:3]))
    idx, back = s.returned()
    t.require(s.end == DONE and idx == len(s.requests), "REQUEST_NEVER_ANSWERED", count=idx, want=len(s.requests),
              shape=s.requests[min(idx, len(s.requests) - 1)].shape)
    for r in s.requests:
        t.require(r.head in back, "HEAD_NOT_RETURNED", seen=sorted(back), want=r.head, slot="?")
    return back


def check_status(t, s, r, want=OK):
    """The status is the very last byte that the device may write."""
    out = s.written(r)
    if out[-1] == UNTOUCHED:
        elsewhere = [i for i, b in enumerate(out[:-1]) if b in (OK, IOERR, UNSUPP)]
        if r.kind in (IN, GET_ID) and r.write_length > 1 and not elsewhere or not any(b != UNTOUCHED for b in out[:-1]):
            t.fail("STATUS_NOT_WRITTEN", what=r.name, shape=r.shape)
        t.fail("STATUS_MISPLACED", what=r.name, shape=r.shape, at=elsewhere[0] if elsewhere else "?", want=len(out) - 1)
    t.require(out[-1] == want or out[-1] != UNSUPP, "REQUEST_UNSERVED", what=r.name, shape=r.shape)
    return out[-1]


def check_length(t, back, r):
    t.require(back[r.head] == r.write_length, "USED_LEN_WRONG", seen=back[r.head], want=r.write_length)


# --- task 6: requests ---

def cut_request(t, kind, data_out=b"", room=0, sector=0, reads=1, writes=1, indirect=False):
    """A request whose readable bytes are cut into so many pieces, and its room with the status byte likewise."""
    readable = cut(t, header(kind, sector) + data_out, reads)
    writable = [len(p) for p in cut(t, bytes(room + 1), writes)] if room else [1]
    return Request(kind, readable, writable, sector, indirect)


@test(task=6)
def requests_are_answered_however_they_are_cut(t):
    """The serial number is told, and unknown types are refused, however header, data and status are cut into buffers."""
    serial = "".join(t.random.choice("abcdefghkmnprstuvwxyz23456789") for _ in range(t.random.randrange(6, 20)))
    s = Session(t, bytes_of(t, 8 * SECTOR), 64, f",serial={serial}")
    whole = Request(GET_ID, [header(GET_ID)], [20, 1])
    ids = [whole, cut_request(t, GET_ID, room=20, reads=1, writes=1), cut_request(t, GET_ID, room=20, reads=3, writes=4),
           cut_request(t, GET_ID, room=20, reads=2, writes=2, indirect=True),
           cut_request(t, GET_ID, room=20, reads=16, writes=3),
           Request(GET_ID, cut(t, header(GET_ID), 2), [7, 13, t.random.randrange(2, 40)])]
    unknown = [cut_request(t, t.random.randrange(0x100, 1 << 32), room=t.random.choice((0, 9)), reads=n) for n in (1, 2)]
    for r in ids + unknown:
        s.add(r)
    s.run()
    back = check_answered(t, s)
    want = serial.encode().ljust(20, b"\0")
    for r in ids:
        status = check_status(t, s, r) if r is whole or s.written(r)[-1] != UNSUPP else UNSUPP
        t.require(status == OK, "HEADER_NOT_GATHERED", status=status, shape=r.shape)
        t.require(s.written(r)[:20] == want, "ID_WRONG", seen=s.written(r)[:20].hex(" "), want=want.hex(" "),
                  shape=r.shape)
        check_length(t, back, r)
    for r in unknown:
        out = s.written(r)[-1]
        t.require(out != UNTOUCHED, "STATUS_NOT_WRITTEN", what=r.name, shape=r.shape)
        t.require(out == UNSUPP, "UNKNOWN_TYPE_ACCEPTED", type=r.kind, status=out)


@test(task=6)
def requests_without_a_header_or_status_need_a_reset(t):
    """A request that has no whole header, or no room for its status, can't be answered: the device needs a reset."""
    for bad in (Request(GET_ID, [header(GET_ID)[:t.random.randrange(1, 16)]], [21]), Request(FLUSH, [header(FLUSH)], [])):
        s = Session(t, bytes(8 * SECTOR))
        good = Request(GET_ID, [header(GET_ID)], [21])
        s.add(good).add(bad).run()
        idx, _ = s.returned()
        if s.ran.ended == "signal":
            t.fail("CRASHED", signal=f"signal {s.ran.signal}", at=f"a request of {bad.shape}")
        t.require(idx >= 1, "REQUEST_NEVER_ANSWERED", count=idx, want=1, shape=good.shape)
        check_status(t, s, good)
        t.require(s.end == NEEDS_RESET and idx == 1, "BAD_REQUEST_ANSWERED", shape=bad.shape, count=idx)
        t.credit(0.5)


# --- task 7: sectors ---

@test(task=7)
def sectors_are_read(t):
    """Sectors are read into buffers that are cut anywhere."""
    sectors = t.random.randrange(40, 64)
    s = Session(t, bytes_of(t, sectors * SECTOR), 64, form=Scattered)
    shapes = [(1, 1, 2), (t.random.randrange(2, 6), 1, 1), (3, 2, 4), (t.random.randrange(1, 8), 1, 9), (2, 3, 2)]
    reads = [Request(IN, [header(IN, sectors - 1)], [SECTOR, 1], sectors - 1)]
    for i, (count, r, w) in enumerate(shapes):
        reads.append(cut_request(t, IN, room=count * SECTOR, sector=t.random.randrange(0, sectors - count), reads=r,
                                 writes=w,
                                 indirect=i % 2 == 1))
    s.add(*reads[:2])
    for r in reads[2:]:
        s.add(r)
    s.run()
    back = check_answered(t, s)
    for r in reads:
        status = check_status(t, s, r)
        t.require(status == OK, "SECTORS_REFUSED", what=r.name, sector=r.sector, shape=r.shape, status=status,
                  sectors=sectors)
        out, at = s.written(r)[:-1], r.sector * SECTOR
        wrong = next((i for i, (a, b) in enumerate(zip(out, s.disk[at:])) if a != b), None)
        t.require(wrong is None, "DATA_WRONG", sector=r.sector, at=wrong, shape=r.shape,
                  seen=out[wrong or 0:][:4].hex(" "), want=s.disk[at + (wrong or 0):][:4].hex(" "))
        check_length(t, back, r)
    t.require(s.disk_after == s.disk, "DISK_WRONG", at=0, shape="reads alone", seen="?", want="?")


def check_disk(t, s, want, what):
    wrong = next((i for i, (a, b) in enumerate(zip(s.disk_after, want)) if a != b), None)
    t.require(wrong is None and len(s.disk_after) == len(want), "DISK_WRONG", at=wrong, shape=what,
              seen=s.disk_after[wrong or 0:][:4].hex(" "), want=want[wrong or 0:][:4].hex(" "))


@test(task=7)
def sectors_are_written(t):
    """Sectors are written from buffers that are cut anywhere, also in the header's; no other byte of the disk changes."""
    sectors = t.random.randrange(40, 64)
    s = Session(t, bytes_of(t, sectors * SECTOR), 64, form=Scattered)
    want, free = bytearray(s.disk), list(range(0, sectors - 8, 8))
    writes = []
    for count, pieces, indirect in ((1, 2, False), (t.random.randrange(2, 6), 1, False), (3, 7, True),
                                    (t.random.randrange(1, 8), 4, False)):
        sector = free.pop(t.random.randrange(len(free)))
        data = bytes_of(t, count * SECTOR)
        want[sector * SECTOR:(sector + count) * SECTOR] = data
        r = (Request(OUT, [header(OUT, sector), data], [1], sector) if pieces == 2 else
             cut_request(t, OUT, data, sector=sector, reads=pieces, indirect=indirect))
        r.sector = sector
        writes.append(r)
        s.add(r)
    s.run()
    check_answered(t, s)
    for r in writes:
        status = check_status(t, s, r)
        t.require(status == OK, "SECTORS_REFUSED", what=r.name, sector=r.sector, shape=r.shape, status=status,
                  sectors=sectors)
    check_disk(t, s, want, "; ".join(r.shape for r in writes))


@test(task=7)
def what_is_not_on_the_disk_is_an_error(t):
    """Sectors behind the end, parts of sectors, and writes to a read-only disk are I/O errors, and the disk goes on."""
    sectors = t.random.randrange(20, 30)
    s = Session(t, bytes_of(t, sectors * SECTOR), 64)
    data = bytes_of(t, 2 * SECTOR)
    good = Request(IN, [header(IN, sectors - 2)], [2 * SECTOR, 1], sectors - 2)
    beyond = [Request(IN, [header(IN, at)], [n * SECTOR, 1], at) for at, n in
              ((sectors, 1), (sectors - 1, 2), (t.random.randrange(1 << 40, 1 << 54), 1), (1 << 55, 1),
               ((1 << 64) - 1, 2))]
    beyond += [Request(OUT, [header(OUT, sectors - 1), data], [1], sectors - 1),
               Request(OUT, [header(OUT, 1 << 55), data], [1], 1 << 55)]
    parts = [Request(IN, [header(IN, 1)], [SECTOR - 1, 1], 1), Request(OUT, [header(OUT, 1), data[:700]], [1], 1)]
    for r in (*beyond, *parts, good):
        s.add(r)
    s.run()
    check_answered(t, s)
    status = check_status(t, s, good)
    t.require(status == OK, "SECTORS_REFUSED", what=good.name, sector=good.sector, shape=good.shape, status=status,
              sectors=sectors)
    for group, name in ((beyond, "PAST_THE_END"), (parts, "PARTIAL_SECTOR")):
        for r in group:
            status = check_status(t, s, r, IOERR)
            t.require(status == IOERR, name, what=r.name, sector=r.sector,
                      length=len(b"".join(r.readable)) - 16 or r.write_length - 1,
                      sectors=sectors, status=status)
    t.require(s.disk_after == s.disk, "PAST_THE_END", what="a write", sector="?", length="?", sectors=sectors, status=0)
    t.credit(0.75)
    ro = Session(t, s.disk, 64, ",ro")
    write, read = Request(OUT, [header(OUT, 1), data], [1], 1), Request(IN, [header(IN, 1)], [SECTOR, 1], 1)
    ro.add(write).add(read).run()
    check_answered(t, ro)
    status = check_status(t, ro, write, IOERR)
    t.require(status == IOERR and ro.disk_after == ro.disk, "READ_ONLY_WRITTEN", status=status)
    t.require(check_status(t, ro, read) == OK, "SECTORS_REFUSED", what=read.name, sector=1, shape=read.shape,
              status=IOERR, sectors=sectors)


# --- task 8 ---

@test(task=8)
def a_flush_is_done_before_it_is_answered(t):
    """A flush makes the disk's file durable."""
    s = Session(t, bytes_of(t, 16 * SECTOR), 64, features=F_FLUSH)
    flush = cut_request(t, FLUSH, reads=t.random.randrange(1, 4))
    s.add(flush).run()
    check_answered(t, s)
    status = check_status(t, s, flush)
    syncs = s.ran.answer("syncs")
    t.require(status == OK and syncs and syncs["count"] > 0, "FLUSH_NOT_DONE", status=status,
              count=syncs["count"] if syncs else "?")


def ranges_of(*ranges):
    return b"".join(struct.pack("<QII", *r) for r in ranges)


@test(task=8)
def ranges_read_as_zeros(t):
    """Ranges that are discarded or zeroed read as zeros, all of a request's, and nothing beside them."""
    sectors = t.random.randrange(60, 80)
    s = Session(t, bytes_of(t, sectors * SECTOR), 64, features=F_DISCARD | F_ZEROES)
    want, starts = bytearray(s.disk), t.random.sample(range(0, sectors - 8, 8), 5)
    lengths = [t.random.randrange(1, 7) for _ in starts]
    for at, n in zip(starts, lengths):
        want[at * SECTOR:(at + n) * SECTOR] = bytes(n * SECTOR)
    spans = list(zip(starts, lengths))
    asked = [Request(ZEROES, [header(ZEROES), ranges_of((*spans[0], 0))], [1]),
             cut_request(t, ZEROES, ranges_of((*spans[1], 1), (*spans[2], 0)), reads=4),
             cut_request(t, DISCARD, ranges_of(*((*span, 0) for span in spans[3:])), reads=3, indirect=True)]
    for r in asked:
        s.add(r)
    s.run()
    check_answered(t, s)
    for r in asked:
        status = check_status(t, s, r)
        t.require(status == OK, "RANGE_REFUSED", what=r.name, status=status, shape=r.shape)
    for at, n in spans:
        t.require(not any(s.disk_after[at * SECTOR:(at + n) * SECTOR]), "RANGE_NOT_ZEROED", sector=at, count=n)
    check_disk(t, s, want, "zeroed ranges")
