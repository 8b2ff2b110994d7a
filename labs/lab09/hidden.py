"""Lab 9's tests that students don't have: the longest chain, many chains at once, a long session, ranges that lie."""

from kit.testing import test
from lab09.tests import (DISCARD, EBADMSG, F_DISCARD, F_ZEROES, IN, IOERR, OK, OUT, SECTOR, UNSUPP, WRITE, ZEROES, Queue,
                         Request, Scattered, Session, answers, ask, bytes_of, check_answered, check_chain, check_disk,
                         check_length, check_status, cut_request, header, ranges_of)


@test(task=3)
def the_longest_chain_and_one_longer(t):
    """A chain of 256 buffers is taken, one of 257 breaks the queue."""
    scripts, wanted = [], []
    for count in (256, 257):
        q = Queue(t, 8, indirect=1)
        parts = [(*q.buffer(t.random.randrange(1, 60)), i > 100) for i in range(count)]
        wanted.append((q.indirect_table(parts), parts))
        scripts.append(q.script(f"virtq_offer {wanted[-1][0]}", "virtq_pop"))
    run = ask(t, *scripts, may_fail=True)
    pops = answers(run, "virtq_pop")
    check_chain(t, pops[0] if pops else None, *wanted[0])
    rc = pops[1].rc if len(pops) == 2 else f"never ({run.ended})"
    t.require(rc == EBADMSG, "CHAIN_TOO_LONG", count=257, rc=rc)


@test(task=4)
def many_chains_are_out(t):
    """As many chains as the ring has slots may be out; one more is a lie of the driver's."""
    q = Queue(t, 8)
    heads = [q.put(i, *q.buffer(), WRITE) for i in range(8)]
    t.random.shuffle(heads)
    offer = "virtq_offer " + " ".join(map(str, heads))
    run = ask(t, q.script(offer, *(f"virtq_pop slot={i}" for i in range(8)), "virtq_push 1 slot=3", "virtq_pop slot=9",
                          f"virtq_offer {heads[3]}", "virtq_pop slot=3", f"virtq_offer {heads[0]}", "virtq_pop slot=9"),
              may_fail=True)
    pops = answers(run, "virtq_pop")
    for i, head in enumerate([*heads, None, heads[3]]):
        pop = pops[i] if i < len(pops) else None
        if head is None:
            t.require(pop and pop.rc == 0, "EMPTY_QUEUE_GIVES", rc=pop.rc if pop else None)
        else:
            t.require(pop and pop.rc == 1 and pop["head"] == head, "HEAD_WRONG", want=head, place=f"slot {i % 8}",
                      head=pop["head"] if pop else None, rc=pop.rc if pop else None)
    t.require(pops[-1].rc == EBADMSG, "IDX_JUMP_ACCEPTED", ahead=9, size=8, rc=pops[-1].rc)


@test(task=7)
def a_long_session(t):
    """Reads and writes of many shapes, one after the other, and the disk is as it should be."""
    sectors = 64
    s = Session(t, bytes_of(t, sectors * SECTOR), 256, form=Scattered)
    disk, expected = bytearray(s.disk), []
    for _ in range(24):
        count, sector = t.random.randrange(1, 5), t.random.randrange(0, sectors - 5)
        span = slice(sector * SECTOR, (sector + count) * SECTOR)
        indirect = t.random.random() < 0.5
        if t.random.random() < 0.5:
            data = bytes_of(t, count * SECTOR)
            disk[span] = data
            r = cut_request(t, OUT, data, sector=sector, reads=t.random.randrange(1, 6), indirect=indirect)
            expected.append((r, None))
        else:
            r = cut_request(t, IN, room=count * SECTOR, sector=sector, reads=t.random.randrange(1, 4),
                            writes=t.random.randrange(1, 5), indirect=indirect)
            expected.append((r, bytes(disk[span])))
        s.add(r)
    s.run()
    back = check_answered(t, s)
    for r, data in expected:
        status = check_status(t, s, r)
        t.require(status == OK, "SECTORS_REFUSED", what=r.name, sector=r.sector, shape=r.shape, status=status,
                  sectors=sectors)
        t.require(data is None or s.written(r)[:-1] == data, "DATA_WRONG", sector=r.sector, at="?", shape=r.shape,
                  seen="?", want="?")
        check_length(t, back, r)
    check_disk(t, s, bytes(disk), "a session of 24 requests")
    told = [e.reply for e in s.ran.trace.exits(vcpu=0) if e.reason == "mmio" and not e.write and e.gpa & 0xfff == 0x60]
    missing = [i for i, reply in enumerate(told) if reply is not None and not reply[0] & 1]
    t.require(not missing, "INTERRUPT_MISSING",
              why=f"request {missing[0] + 1 if missing else 0} of the guest's has come back")


@test(task=8)
def ranges_that_lie_are_refused(t):
    """Ranges that are too many, too long, not on the disk, cut off or with unknown flags change nothing."""
    sectors = t.random.randrange(60, 80)
    s = Session(t, bytes_of(t, sectors * SECTOR), 64, features=F_DISCARD | F_ZEROES)
    at = t.random.randrange(0, 30)
    cases = [(ZEROES, ranges_of((sectors, 1, 0)), IOERR), (ZEROES, ranges_of((sectors - 1, 2, 0)), IOERR),
             (ZEROES, ranges_of((1 << 55, 1, 0)), IOERR), (ZEROES, ranges_of((at, 1, 0))[:15], IOERR),
             (ZEROES, b"", IOERR),
             (ZEROES, ranges_of((at, 1, 2)), UNSUPP), (DISCARD, ranges_of((at, 1, 1)), UNSUPP),
             (ZEROES, ranges_of(*[(at, 1, 0)] * 17), IOERR), (DISCARD, ranges_of((0, 1 << 31, 0)), IOERR)]
    asked = [(Request(kind, [header(kind), data] if data else [header(kind)], [1]), want) for kind, data, want in cases]
    good = Request(ZEROES, [header(ZEROES), ranges_of((sectors - 1, 1, 0))], [1])
    for r, _ in asked:
        s.add(r)
    s.add(good).run()
    check_answered(t, s)
    status = check_status(t, s, good)
    t.require(status == OK, "RANGE_REFUSED", what=good.name, status=status, shape=good.shape)
    for r, want in asked:
        status = s.written(r)[-1]
        t.require(status == want, "RANGE_UNCHECKED", what=r.name, shape=r.shape, status=status, want=want)
    check_disk(t, s, s.disk[:-SECTOR] + bytes(SECTOR), "ranges that must not be touched")
