"""Lab 6's tests that students don't have: a real driver's probe, and driving by lot beside a model of the chip."""
from kit.testing import test
from lab06.tests import DATA, FCR, IER, IIR, LCR, LOOP, LSR, MCR, MSR, SCR, Script, byte, hexed

LEVELS = (1, 4, 8, 14)
ACCESSES = 150


@test(task=6)
def a_drivers_self_test_passes(t):
    """The probe with which drivers begin finds a 16550A: IER, scratch, modem lines in loopback, FIFOs."""
    scratch = byte(t)
    s = Script(t)
    steps = []

    def expect(register, mask, right, ident, /, **seen):
        steps.append((s.read(register), mask, right, ident, seen))

    s.write(IER, 0x00)
    expect(IER, 0xFF, 0x00, "UART_REGISTER_WRONG", register="IER", when="after 0x00 was written")
    s.write(IER, 0x0F)
    expect(IER, 0xFF, 0x0F, "UART_REGISTER_WRONG", register="IER", when="after 0x0f was written")
    s.write(IER, 0x00).write(SCR, scratch)
    s.write(MCR, LOOP | 0x0A)
    expect(MSR, 0xF0, 0x90, "MODEM_LINES_WRONG", mcr="0x1a")
    s.write(MCR, 0x00)
    expect(MSR, 0xF0, 0xB0, "MODEM_LINES_WRONG", mcr="0x00")
    s.write(FCR, 0xC0)
    expect(IIR, 0xC0, 0x00, "FIFOS_NOT_ENABLED")          # nothing counts without the enable bit
    s.write(FCR, 0x01)
    expect(IIR, 0xC0, 0xC0, "FIFOS_NOT_ENABLED")
    s.write(FCR, 0x00)
    expect(IIR, 0xC0, 0x00, "FIFOS_NOT_ENABLED")
    expect(SCR, 0xFF, scratch, "UART_REGISTER_WRONG", register="SCR", when=f"after {scratch:#04x} was written")
    s.write(LCR, 0x80).write(DATA, 0x01).write(IER, 0x00).write(LCR, 0x03)
    expect(IER, 0xFF, 0x00, "DLAB_IGNORED", what="the divisor", instead="changed IER")
    s.go()
    for ticket, mask, right, ident, seen in steps:
        value = s.values[ticket]
        t.require(value is not None and value & mask == right, ident,
                  **{"value": hexed(value), "right": hexed(right), **seen})
    t.require(s.run.stdout == b"", "DLAB_IGNORED", what="the divisor", instead="was sent over the line")


class Chip:
    """The data sheet in a few lines: what each read gives in loopback, where a byte arrives as soon as it is sent."""

    def __init__(self):
        self.ier = self.lcr = self.fcr = self.scr = 0
        self.mcr = LOOP
        self.divisor = [12, 0]
        self.fifo, self.overrun, self.changes, self.empty_event = [], False, 0, False

    def size(self):
        return 16 if self.fcr & 1 else 1

    def lines(self):
        m = self.mcr
        return (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4

    def reason(self):
        level = LEVELS[self.fcr >> 6] if self.fcr & 1 else 1
        if self.ier & 4 and self.overrun:
            return 6
        if self.ier & 1 and self.fifo:
            return 4 if len(self.fifo) >= level else 0xC
        if self.ier & 2 and self.empty_event:
            return 2
        return 0 if self.ier & 8 and self.changes else 1

    def write(self, register, value):
        if self.lcr & 0x80 and register in (DATA, IER):
            self.divisor[register] = value
        elif register == DATA:
            if len(self.fifo) < self.size():
                self.fifo.append(value)
            else:
                self.overrun = True
                if self.size() == 1:
                    self.fifo[0] = value
            self.empty_event = True
        elif register == IER:
            self.empty_event = self.empty_event or bool(value & ~self.ier & 2)
            self.ier = value & 15
        elif register == FCR:
            if (value ^ self.fcr) & 1 or value & 3 == 3:
                self.fifo = []
            self.fcr = value & 0xC9 if value & 1 else 0
        elif register == LCR:
            self.lcr = value
        elif register == MCR:
            before = self.lines()
            self.mcr = value & 0x1F
            changed = before ^ self.lines()
            self.changes |= (changed >> 4) & 0xB | (changed & before & 0x40) >> 4
        elif register == SCR:
            self.scr = value

    def read(self, register):
        if self.lcr & 0x80 and register in (DATA, IER):
            return self.divisor[register]
        if register == DATA:
            return self.fifo.pop(0) if self.fifo else 0
        if register == IIR:
            reason = self.reason()
            if reason == 2:
                self.empty_event = False
            return reason | (0xC0 if self.fcr & 1 else 0)
        if register == LSR:
            value = 0x60 | (2 if self.overrun else 0) | (1 if self.fifo else 0)
            self.overrun = False
            return value
        if register == MSR:
            value, self.changes = self.lines() | self.changes, 0
            return value
        return {IER: self.ier, LCR: self.lcr, MCR: self.mcr, SCR: self.scr}[register]


def value_for(t, register):
    """What a driver by lot writes: loopback stays on, and DLAB is seldom set."""
    if register == MCR:
        return LOOP | t.random.randrange(16)
    if register == FCR:
        return t.random.choice((0x01, 0x01, 0x41, 0x81, 0xC1, 0x03, 0x00))
    if register == LCR:
        return t.random.choice((0x03, 0x03, 0x03, 0x83))
    return t.random.randrange(1, 256)


IDENTS = {DATA: "RECEIVED_WRONG", IER: "UART_REGISTER_WRONG", IIR: "IIR_PRIORITY_WRONG", LCR: "UART_REGISTER_WRONG",
          MCR: "UART_REGISTER_WRONG", LSR: "UART_REGISTER_WRONG", MSR: "MODEM_DELTA_WRONG", SCR: "UART_REGISTER_WRONG"}


@test(task=6)
def random_driving_agrees_with_the_data_sheet(t):
    """Accesses drawn by lot, in loopback, get the answers that the data sheet asks for."""
    chip, s, steps = Chip(), Script(t), []
    s.write(MCR, LOOP)
    chip.write(MCR, LOOP)
    s.read(MSR)
    chip.changes = 0
    for number in range(ACCESSES):
        if t.random.random() < 0.55:
            register = t.random.choice((DATA, DATA, DATA, DATA, IER, FCR, LCR, MCR, SCR))
            value = value_for(t, register)
            s.write(register, value)
            chip.write(register, value)
        else:
            register = t.random.choice((DATA, DATA, DATA, IER, IIR, IIR, LCR, MCR, LSR, LSR, MSR, SCR))
            steps.append((s.read(register), register, chip.read(register), number))
    s.go()
    t.require(s.run.stdout == b"", "LOOPBACK_LEAKS", text=s.run.stdout[:8].hex(" "))
    for done, (ticket, register, right, number) in enumerate(steps):
        if s.values[ticket] == right:
            continue
        t.credit(max(0.0, 0.8 * done / len(steps) - 0.2))      # what answers nothing gets nothing
        names = ("DATA", "IER", "IIR", "LCR", "MCR", "LSR", "MSR", "SCR")
        t.fail(IDENTS[register], register=names[register], value=hexed(s.values[ticket]), right=hexed(right),
               what=f"access {number} of a driver by lot", when=f"access {number} of a driver by lot")
