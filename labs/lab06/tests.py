"""Lab 6: guests that drive the student's UART through its ports, and what they read, sent and were interrupted by.

Most tests write their guest as a script of port accesses (class Script): each `out` and `in` is one exit, and what
the device answered stands in the record as that exit's reply. Values are seeded. The drivers poll.S, echo.S and irq.S
are what a real driver does.
"""
from kit.testing import test

UART = 0x3F8
DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR = range(8)
FCR = IIR
NAMES = ("DATA", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")
DLAB, LOOP, OUT2 = 0x80, 0x10, 0x08
GAVE_UP = 35  # the status of a driver that waited in vain


# --- a guest made of port accesses ---

class Script:
    """A flat real-mode guest that does one port access after the other, then halts.

    read() gives a ticket; after run() the ticket's value is what the guest got.
    """

    def __init__(self, t):
        self.t, self.code, self.reads, self.values = t, bytearray(), 0, []
        self.run = None

    def _port(self, register):
        self.code += bytes([0xBA]) + (UART + register).to_bytes(2, "little")    # mov $port, %dx

    def write(self, register, value):
        self._port(register)
        self.code += bytes([0xB0, value, 0xEE])                                  # mov $value, %al; out %al, %dx
        return self

    def read(self, register):
        self._port(register)
        self.code += b"\xEC"                                                     # in %dx, %al
        self.reads += 1
        return self.reads - 1

    def go(self, *options, name="script"):
        """Runs it; afterwards values[ticket] is each reply, None where the guest didn't get so far."""
        irqchip = "--irqchip" in options
        code = bytes(self.code) + (b"\xB0\x10\xE6\xF4" if irqchip else b"") + b"\xF4"  # debug exit; hlt
        self.run = self.t.hvrun([*options, self.t.file(f"{name}.bin", code)])
        replies = [e.reply for e in accesses(self.run) if not e.out]
        self.values = [r[0] if r else None for r in replies] + [None] * self.reads
        return self


def accesses(run):
    """The exits by which the guest touched the UART, in order."""
    return [e for e in run.trace.exits(vcpu=0) if e.reason == "io" and UART <= e.port < UART + 8]


def edges(run):
    """What KVM was told of IRQ 4, in order: True for high."""
    found = []
    for call in run.trace.ioctls():
        if call.name in ("KVM_IRQ_LINE", "KVM_IRQ_LINE_STATUS") and call.args.get("irq") == 4:
            found.append(bool(call.args.get("level")))
    return found


def hexed(value):
    return "nothing" if value is None else f"{value:#04x}"


def text_of(data):
    return data.decode("latin-1").encode("unicode_escape").decode()


def byte(t, *but):
    """A seeded byte that is none of these."""
    return t.random.choice([b for b in range(1, 256) if b not in but])


def apart(got, right, shown=6):
    """Both lists as text, from the first place on at which they differ."""
    at = next((i for i, (a, b) in enumerate(zip(got, right)) if a != b), 0)
    return {"value": " ".join(hexed(v) for v in got[at:at + shown]),
            "right": " ".join(hexed(v) for v in right[at:at + shown]), "at": at + 1}


def digits(nonce):
    return f"{nonce:08x}\n".encode()



# --- task 1: the divisor latch ---

@test(task=1)
def the_divisor_hides_behind_dlab(t):
    """With DLAB set, registers 0 and 1 are the divisor, and nothing is sent."""
    low, high = byte(t), byte(t)
    s = Script(t)
    s.write(LCR, 0x83).write(DATA, low).write(IER, high)
    first, second = s.read(DATA), s.read(IER)
    s.go()
    t.require(s.run.stdout == b"", "DLAB_IGNORED", what=f"the divisor's low byte {low:#04x}",
              instead="was sent over the line")
    t.require(s.values[first] == low, "DIVISOR_LOST", which="low", value=hexed(s.values[first]), right=hexed(low))
    t.require(s.values[second] == high, "DIVISOR_LOST", which="high", value=hexed(s.values[second]), right=hexed(high))


@test(task=1)
def ier_is_untouched_behind_dlab(t):
    """IER keeps its bits while the divisor is written, and is there again when DLAB is cleared."""
    ier = t.random.randrange(1, 16)
    high = t.random.choice([b for b in range(16, 256) if b & 15 != ier])
    s = Script(t)
    s.write(IER, ier | 0xF0)
    before = s.read(IER)
    s.write(LCR, 0x83).write(IER, high)
    latch = s.read(IER)
    s.write(LCR, 0x03)
    after = s.read(IER)
    s.go()
    t.require(s.values[before] == ier, "UART_REGISTER_WRONG", register="IER", value=hexed(s.values[before]),
              right=hexed(ier), when=f"after 0x{ier | 0xf0:02x} was written; it has four bits")
    t.require(s.values[after] == ier, "DLAB_IGNORED", what=f"the divisor's high byte {high:#04x}",
              instead=f"changed IER from {ier:#04x} to {hexed(s.values[after])}")
    t.require(s.values[latch] == high, "DIVISOR_LOST", which="high", value=hexed(s.values[latch]), right=hexed(high))


# --- task 2: sending ---

@test(task=2)
def an_idle_line_is_ready_to_send(t):
    """LSR says that the transmitter is empty and idle, and that nothing has been received."""
    s = Script(t)
    first = s.read(LSR)
    s.write(DATA, byte(t))
    after = s.read(LSR)
    s.go()
    for ticket, when in ((first, "at power-on"), (after, "after a byte was written to THR")):
        value = s.values[ticket]
        t.require(value is not None and value & 0x20, "LSR_NEVER_READY", value=hexed(value), when=when)
        t.require(not value & 0x01, "READY_WITHOUT_DATA", value=hexed(value))
        t.require(value == 0x60, "UART_REGISTER_WRONG", register="LSR", value=hexed(value), right="0x60", when=when)


@test(task=2)
def a_polling_driver_prints(t):
    """A driver that polls LSR before each byte prints its text."""
    divisor = byte(t) << 8 | byte(t)
    guest = t.guest("poll", NONCE=t.nonce, DIVISOR=divisor)
    run = t.hvrun([guest.path])
    wanted = digits(t.nonce)
    looks = [e.reply[0] for e in accesses(run) if not e.out and e.port == UART + LSR and e.reply]
    t.require(not looks or any(v & 0x20 for v in looks), "LSR_NEVER_READY", value=hexed(looks[0] if looks else None),
              when=f"at each of {len(looks)} looks")
    t.require(not run.stdout.startswith(bytes([divisor & 0xFF])), "DLAB_IGNORED",
              what=f"the divisor's low byte {divisor & 0xff:#04x}", instead="was sent over the line")
    t.require(run.stdout == wanted, "SERIAL_OUTPUT_WRONG", text=text_of(run.stdout[:40]), right=text_of(wanted))


@test(task=2)
def a_byte_of_any_value_leaves_once(t):
    """Every value of a byte leaves unchanged, once, in order."""
    values = [0, 0xFF, 0x0A, 0x80] + [byte(t) for _ in range(8)]
    t.random.shuffle(values)
    s = Script(t)
    for value in values:
        s.write(DATA, value)
    s.go()
    t.require(s.run.stdout == bytes(values), "SERIAL_OUTPUT_WRONG", text=text_of(s.run.stdout[:40]),
              right=text_of(bytes(values)))


# --- task 3: receiving ---

@test(task=3)
def a_byte_comes_back_in_loopback(t):
    """In loopback a sent byte is received: LSR says so, RBR gives it, and the line outside stays silent."""
    s = Script(t)
    s.write(MCR, LOOP)
    tickets = []
    values = [byte(t) for _ in range(3)]
    for value in values:
        s.write(DATA, value)
        tickets.append((s.read(LSR), s.read(DATA), s.read(LSR)))
    s.go()
    t.require(s.run.stdout == b"", "LOOPBACK_LEAKS", text=text_of(s.run.stdout[:8]))
    for value, (full, data, empty) in zip(values, tickets):
        t.require(s.values[full] is not None and s.values[full] & 1, "DATA_NEVER_READY", value=hexed(s.values[full]))
        t.require(s.values[data] == value, "RECEIVED_WRONG", value=hexed(s.values[data]), right=hexed(value),
                  what="the byte that was looped back")
        t.require(not s.values[empty] & 1, "READY_WITHOUT_DATA", value=hexed(s.values[empty]))


@test(task=3)
def piped_input_arrives_whole(t):
    """What is piped into the VM arrives, every byte, in order, without FIFOs."""
    count, key = t.random.randrange(20, 30), t.random.randrange(1, 128)
    sent = bytes(t.random.randrange(1, 128) for _ in range(count))
    guest = t.guest("echo", COUNT=count, KEY=key)
    run = t.hvrun([guest.path], stdin=sent)
    back = bytes(b ^ key for b in run.stdout)
    looks = [e.reply[0] for e in accesses(run) if not e.out and e.port == UART + LSR and e.reply]
    t.require(any(v & 1 for v in looks), "DATA_NEVER_READY", value=hexed(looks[-1] if looks else None))
    t.require(back == sent, "RECEIVED_WRONG", value=text_of(back[:30]), right=text_of(sent), what="piped input")


@test(task=3)
def an_overrun_is_told_once(t):
    """Without FIFOs a second byte overruns the first: LSR says so once, and RBR has the second."""
    first, second = byte(t), byte(t)
    s = Script(t)
    s.write(MCR, LOOP).write(DATA, first).write(DATA, second)
    told, again, data, last = s.read(LSR), s.read(LSR), s.read(DATA), s.read(LSR)
    s.go()
    t.require(s.values[told] is not None and s.values[told] & 2, "OVERRUN_LOST", value=hexed(s.values[told]))
    t.require(not s.values[again] & 2, "OVERRUN_STICKS", value=hexed(s.values[again]))
    t.require(s.values[data] == second, "OVERRUN_KEPT_THE_WRONG_BYTE", value=hexed(s.values[data]), right=hexed(second),
              mode="without FIFOs the new byte overwrites RBR")
    t.require(not s.values[last] & 1, "READY_WITHOUT_DATA", value=hexed(s.values[last]))


# --- task 4: the FIFOs ---

def fifo_on(s, trigger=0):
    return s.write(FCR, 0x07 | trigger << 6)


@test(task=4)
def the_fifo_keeps_sixteen_bytes_in_order(t):
    """The receiver's FIFO gives back sixteen bytes in the order in which they came, round its end and all."""
    s = Script(t)
    fifo_on(s)
    s.write(MCR, LOOP)
    chip = s.read(IIR)
    waiting, tickets = [], []
    for fill in (t.random.randrange(3, 9), 16):
        while len(waiting) < fill:
            waiting.append(byte(t))
            s.write(DATA, waiting[-1])
        while waiting:
            tickets.append((s.read(DATA), waiting.pop(0)))
    empty = s.read(LSR)
    s.go()
    t.require(s.values[chip] is not None and s.values[chip] & 0xC0 == 0xC0, "FIFOS_NOT_ENABLED",
              value=hexed(s.values[chip]))
    got = [s.values[ticket] for ticket, _ in tickets]
    right = [value for _, value in tickets]
    t.require(got != right[:-16][::-1] + right[-16:][::-1], "RECEIVE_ORDER_REVERSED", first=hexed(got[0]),
              right=hexed(right[0]))
    differ = apart(got, right)
    t.require(got == right, "RECEIVED_WRONG", value=differ["value"], right=differ["right"],
              what=f"what was in the FIFO, from byte {differ['at']} of {len(right)} on")
    t.require(not s.values[empty] & 1, "READY_WITHOUT_DATA", value=hexed(s.values[empty]))


@test(task=4)
def a_full_fifo_loses_the_new_byte(t):
    """The seventeenth byte is lost, told as an overrun, and the sixteen stay."""
    values = [byte(t) for _ in range(16)]
    s = Script(t)
    fifo_on(s)
    s.write(MCR, LOOP)
    for value in values:
        s.write(DATA, value)
    before = s.read(LSR)
    s.write(DATA, byte(t, values[0], values[15]))
    told = s.read(LSR)
    tickets = [s.read(DATA) for _ in values]
    s.go()
    t.require(s.values[before] is not None and not s.values[before] & 2, "FIFOS_NOT_ENABLED",
              value=hexed(s.values[before]))
    t.require(s.values[told] & 2, "OVERRUN_LOST", value=hexed(s.values[told]))
    got = [s.values[ticket] for ticket in tickets]
    t.require(got == values, "OVERRUN_KEPT_THE_WRONG_BYTE", value=" ".join(hexed(v) for v in got[:1] + got[-1:]),
              right=" ".join(hexed(v) for v in values[:1] + values[-1:]),
              mode="with FIFOs the new byte is lost, and the sixteen stay (first and last are shown)")


@test(task=4)
def fcr_empties_the_receiver(t):
    """FCR's reset bit empties the receiver, and so does switching the FIFOs on or off."""
    s = Script(t)
    fifo_on(s)
    s.write(MCR, LOOP)
    tickets = []
    for value, what in ((0x03, "the reset bit"), (0x00, "switching the FIFOs off"), (0x01, "switching them on")):
        for _ in range(t.random.randrange(1, 3)):
            s.write(DATA, byte(t))
        before = s.read(LSR)
        s.write(FCR, value)
        tickets.append((before, s.read(LSR), what))
    kept = byte(t)
    s.write(DATA, kept).write(FCR, 0x81)                # a new trigger alone empties nothing
    still = s.read(DATA)
    s.go()
    for before, after, what in tickets:
        t.require(s.values[before] is not None and s.values[before] & 1, "DATA_NEVER_READY",
                  value=hexed(s.values[before]))
        t.require(not s.values[after] & 1, "FCR_RESET_IGNORED", what=what, value=hexed(s.values[after]))
    t.require(s.values[still] == kept, "FCR_EMPTIES_ALWAYS", value=hexed(s.values[still]), right=hexed(kept))


# --- task 5: interrupts ---

@test(task=5)
def the_trigger_is_where_fcr_says(t):
    """Below the trigger received bytes are told as a timeout, from it on as received data."""
    s = Script(t)
    order = [1, 2, 3]
    t.random.shuffle(order)
    checks = []
    for trigger in order[:2]:
        level = (1, 4, 8, 14)[trigger]
        fifo_on(s, trigger)
        s.write(MCR, LOOP).write(IER, 0x01)
        checks.append((s.read(IIR), 0xC1, 0, level))
        for count in range(1, level + 1):
            s.write(DATA, byte(t))
            if count in (1, level - 1, level):
                checks.append((s.read(IIR), 0xC4 if count >= level else 0xCC, count, level))
        s.read(DATA)
        checks.append((s.read(IIR), 0xCC, level - 1, level))
        for _ in range(level - 1):
            s.read(DATA)
    s.go()
    for ticket, right, count, level in checks:
        value = s.values[ticket]
        if value == right:
            continue
        t.require(value is not None and value & 0xC0 == 0xC0, "FIFOS_NOT_ENABLED", value=hexed(value))
        seen = {"value": hexed(value), "right": hexed(right), "count": count, "level": level}
        t.require(not (right == 0xCC and value == 0xC4), "FIFO_TRIGGER_IGNORED", **seen)
        t.require(not (right == 0xCC and value == 0xC1), "TIMEOUT_MISSING", **seen)
        t.fail("FIFO_TRIGGER_IGNORED", **seen)


@test(task=5)
def the_highest_reason_is_told_first(t):
    """IIR tells the reasons one at a time, highest first: line status, received data, transmitter."""
    s = Script(t)
    fifo_on(s)
    s.write(MCR, LOOP).write(IER, 0x07)
    for _ in range(17):
        s.write(DATA, byte(t))
    steps = [(s.read(IIR), 0xC6, "an overrun, data and an empty transmitter")]
    s.read(LSR)
    steps.append((s.read(IIR), 0xC4, "data and an empty transmitter, LSR having been read"))
    for _ in range(16):
        s.read(DATA)
    steps.append((s.read(IIR), 0xC2, "an empty transmitter, the data having been read"))
    steps.append((s.read(IIR), 0xC1, "no reason any more: the last IIR has told of the transmitter"))
    s.go()
    got = [s.values[ticket] for ticket, _, _ in steps]
    t.require(got[2] != 0xC1 or 0xC2 in got, "THRE_IRQ_MISSING", value=hexed(got[2]),
              when="after a byte was sent, IIR having told of an overrun and of data meanwhile")
    t.require(got[3] != 0xC2, "THRE_IRQ_NOT_CLEARED", value=hexed(got[3]))
    for (ticket, right, when) in steps:
        t.require(s.values[ticket] == right, "IIR_PRIORITY_WRONG", value=hexed(s.values[ticket]), right=hexed(right),
                  when=when)


@test(task=5)
def only_enabled_reasons_are_told(t):
    """A reason whose bit in IER is clear isn't told; it is as soon as the bit is set."""
    s = Script(t)
    s.write(MCR, LOOP).write(DATA, byte(t)).write(DATA, byte(t))      # an overrun, data, an empty transmitter
    steps = []
    for ier, right in ((0, 0x01), (0x01, 0x04), (0x04, 0x06), (0x02, 0x02)):
        s.write(IER, ier)
        steps.append((s.read(IIR), right, ier))
    s.go()
    for ticket, right, ier in steps:
        value = s.values[ticket]
        t.require(not (right == 0x02 and value == 0x01), "THRE_IRQ_MISSING", when="when its bit in IER is set",
                  value=hexed(value))
        t.require((right, value) != (0x04, 0x0C), "FIFO_TRIGGER_IGNORED", count=1, level=1, value=hexed(value),
                  right=hexed(right))
        t.require(value == right, "IER_IGNORED", ier=hexed(ier), value=hexed(value), right=hexed(right))


@test(task=5)
def enabling_the_transmitter_interrupts_at_once(t):
    """Setting IER's transmitter bit while THR is empty is a reason at once, each time it is set anew."""
    s = Script(t)
    steps = []
    for ier, right in ((0x02, 0x02), (0x02, 0x01), (0x00, 0x01), (0x02, 0x02)):
        s.write(IER, ier)
        steps.append((s.read(IIR), right))
    steps.append((s.read(IIR), 0x01))
    s.go()
    got = [s.values[ticket] for ticket, _ in steps]
    t.require(got[0] == 0x02 and got[3] == 0x02, "THRE_IRQ_MISSING", when="when its bit in IER is set",
              value=hexed(got[0] if got[0] != 0x02 else got[3]))
    t.require(got[1] == 0x01 and got[4] == 0x01, "THRE_IRQ_NOT_CLEARED",
              value=hexed(got[1] if got[1] != 0x01 else got[4]))
    t.require(got[2] == 0x01, "IER_IGNORED", ier="0x00", value=hexed(got[2]), right="0x01")


@test(task=5)
def an_interrupt_driven_driver_works(t):
    """A driver that sends and receives by interrupts gets one for each byte, as edges of IRQ 4."""
    count = t.random.randrange(3, 9)
    sent = bytes(byte(t) for _ in range(count))
    guest = t.guest("irq", NONCE=t.nonce, COUNT=count)
    run = t.hvrun(["--irqchip", "full", guest.path], stdin=sent, dump=[("last", 0x7000, 8)])
    wanted, told = digits(t.nonce), edges(run)
    if run.stdout != wanted:
        reasons = [e.reply[0] & 0x0F for e in accesses(run) if not e.out and e.port == UART + IIR and e.reply]
        t.require(reasons, "THRE_IRQ_MISSING", when="when its bit in IER is set", value="never read: no interrupt came")
        # The reason is there, the line has not moved: the PIC saw one edge only.
        t.require(len(run.stdout) > 1 or told.count(False) > 0, "THRE_EDGE_MISSING", count=len(run.stdout),
                  rises=told.count(True))
        t.fail("THRE_IRQ_MISSING", when=f"after byte {len(run.stdout)}", value=hexed(reasons[-1]))
    t.credit(0.5)
    total = int.from_bytes(run.memory("last", 0x7000, 2) or b"", "little")
    t.require(run.status != GAVE_UP, "RECEIVE_IRQ_MISSING", total=total, right=sum(sent))
    t.require(total == sum(sent) & 0xFFFF, "RECEIVED_WRONG", value=total, right=sum(sent), what="the sum of the input")


# --- task 6: the modem's lines ---

@test(task=6)
def the_host_is_there_and_ready(t):
    """Outside loopback CTS, DSR and DCD are set, RI is clear, and nothing has changed."""
    s = Script(t)
    outputs = t.random.choice([0x03, 0x0B, 0x0F, 0x01])
    first = s.read(MSR)
    s.write(MCR, outputs)
    second = s.read(MSR)
    s.go()
    for ticket, mcr in ((first, 0), (second, outputs)):
        t.require(s.values[ticket] == 0xB0, "MODEM_LINES_WRONG", mcr=hexed(mcr), value=hexed(s.values[ticket]),
                  right="0xb0")


@test(task=6)
def loopback_joins_the_modem_lines(t):
    """In loopback MCR's outputs come back: RTS as CTS, DTR as DSR, OUT1 as RI, OUT2 as DCD."""
    wires = ((0x01, 0x20), (0x02, 0x10), (0x04, 0x40), (0x08, 0x80))
    s = Script(t)
    tickets = []
    for outputs in [1, 2, 4, 8] + [t.random.randrange(16) for _ in range(4)]:
        s.write(MCR, LOOP | outputs)
        tickets.append((s.read(MSR), outputs))
    s.go()
    for ticket, outputs in tickets:
        right = sum(line for out, line in wires if outputs & out)
        value = s.values[ticket]
        t.require(value is not None and value & 0xF0 == right, "MODEM_LINES_WRONG", mcr=hexed(LOOP | outputs),
                  value=hexed(value), right=hexed(right))


@test(task=6)
def changes_are_told_once(t):
    """MSR's low half tells which lines changed since it was last read; of the ring only its end."""
    pairs = ((0x02, 0x01), (0x01, 0x02), (0x08, 0x08))              # RTS: CTS changed, DTR: DSR, OUT2: DCD
    s = Script(t)
    s.write(MCR, LOOP)
    s.read(MSR)
    steps, now = [], 0
    for _ in range(4):
        out, change = t.random.choice(pairs)
        now ^= out
        s.write(MCR, LOOP | now)
        steps.append((s.read(MSR), change, f"{now ^ out:#03x} to {now:#03x}"))
        steps.append((s.read(MSR), 0, "nothing since the last read"))
    s.write(MCR, LOOP | now | 0x04)
    rises = s.read(MSR)
    s.write(MCR, LOOP | now)
    ends = s.read(MSR)
    s.go()
    for ticket, change, what in steps:
        value = s.values[ticket]
        told = None if value is None else value & 0x0F
        t.require(not (change and told == 0), "MODEM_DELTA_MISSING", what=what, value=hexed(value), right=hexed(change))
        t.require(told == change, "MODEM_DELTA_WRONG", what=what, value=hexed(value), right=hexed(change))
    t.require(not s.values[rises] & 0x0F, "MODEM_DELTA_WRONG", what="the ring began", value=hexed(s.values[rises]),
              right="0x00")
    t.require(s.values[ends] & 0x0F == 0x04, "MODEM_DELTA_MISSING", what="the ring ended", value=hexed(s.values[ends]),
              right="0x04")


@test(task=6)
def a_change_is_the_lowest_reason(t):
    """A changed line is IIR's lowest reason, below received data, and reading MSR ends it."""
    s = Script(t)
    s.write(MCR, LOOP)
    s.read(MSR)
    s.write(IER, 0x09).write(DATA, byte(t))
    s.write(MCR, LOOP | t.random.choice([1, 2, 8]))
    steps = [(s.read(IIR), 0x04)]
    s.read(DATA)
    steps.append((s.read(IIR), 0x00))
    s.read(MSR)
    steps.append((s.read(IIR), 0x01))
    s.go()
    for ticket, right in steps:
        value = s.values[ticket]
        t.require(not (right == 0x00 and value == 0x01), "MODEM_DELTA_MISSING", what="an output in loopback changed",
                  value=hexed(value), right="0x00 in IIR")
        t.require((right, value) != (0x04, 0x0C), "FIFO_TRIGGER_IGNORED", count=1, level=1, value=hexed(value),
                  right=hexed(right))
        t.require(value == right, "IIR_PRIORITY_WRONG", value=hexed(value), right=hexed(right),
                  when="a received byte and a changed line, then the line alone, then neither")


# --- challenge ---

@test(task=5)
def each_byte_makes_an_edge(t):
    """Challenge: a byte sent without having read IIR lowers the line and raises it anew."""
    s = Script(t)
    s.write(MCR, 0x0B).write(IER, 0x02)
    count = t.random.randrange(2, 5)
    for _ in range(count):
        s.write(DATA, byte(t))
    s.read(IIR)
    s.go("--irqchip", "full")
    t.require(edges(s.run) == [True, False] * (count + 1), "THRE_EDGE_MISSING", count=count,
              rises=edges(s.run).count(True))
