"""What observe recorded of a program, as objects that a test can ask. labs/README.md describes the format.

A record is read when the first question is put, not before: many tests ask only for the exit status. Lines that a
test can't use (an unknown kind, a half line at the end of a run that was cut short) are passed over; what is there is
believed, as the program can't write to its own record.
"""
import json


class Event:
    """One line of the record: its fields as attributes, None where it has no such field."""

    kind = "event"

    def __init__(self, raw):
        self.raw = raw

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return self.raw.get(name)

    def __repr__(self):
        inside = ", ".join(f"{key}={value!r}" for key, value in self.raw.items()
                           if key not in ("k", "regs", "sregs") and value is not None)
        return f"{self.kind}({inside})"


class Ioctl(Event):
    """An ioctl on one of KVM's descriptors. .args and .out are the kernel's structure before and after the call."""

    kind = "ioctl"

    @property
    def args(self):
        return self.raw.get("in") or {}

    @property
    def out(self):
        return self.raw.get("out") or {}


class Exit(Event):
    """One KVM_RUN: how it was entered, what it came back with, and how it was answered."""

    kind = "exit"

    def __init__(self, raw):
        super().__init__(raw)
        self._reply = None  # set when the next entry is read: it carries the answer

    @property
    def reason(self):
        return self.raw.get("reason") if self.raw.get("ret", -1) >= 0 else None

    @property
    def immediate(self):
        return bool(self.raw.get("immediate"))

    def _io(self, key):
        return (self.raw.get("io") or {}).get(key)

    def _mmio(self, key):
        return (self.raw.get("mmio") or {}).get(key)

    @property
    def port(self):
        return self._io("port")

    @property
    def out(self):
        """True: the guest writes to the port."""
        return self._io("out")

    @property
    def size(self):
        """Of one unit, in bytes; for MMIO the length of the access."""
        return self._io("size") if self.raw.get("io") else self._mmio("size") or self._mmio("len")

    @property
    def count(self):
        return self._io("count") if self.raw.get("io") else 1 if self.raw.get("mmio") else None

    @property
    def gpa(self):
        mmio = self.raw.get("mmio") or {}
        return mmio.get("gpa", mmio.get("phys_addr"))

    @property
    def write(self):
        """True: the guest writes to memory that isn't there."""
        mmio = self.raw.get("mmio") or {}
        return mmio.get("write", mmio.get("is_write"))

    @property
    def data(self):
        text = self._io("data") if self.raw.get("io") else self._mmio("data")
        return bytes.fromhex(text) if text is not None else None

    @property
    def reply(self):
        """What stood in the data when KVM_RUN was entered again, for `in` and MMIO reads; None if it never was."""
        return self._reply

    @property
    def is_read(self):
        """Whether the guest waits for an answer: `in`, or an MMIO read."""
        return (bool(self.raw.get("io")) and not self.out) or (bool(self.raw.get("mmio")) and not self.write)


class Signal(Event):
    kind = "signal"

    @property
    def immediate(self):
        return bool(self.raw.get("immediate"))

    @property
    def inside(self):
        return bool(self.raw.get("inside"))


class Mmap(Event):
    kind = "mmap"


class Thread(Event):
    kind = "thread"


KINDS = {"ioctl": Ioctl, "run": Exit, "signal": Signal, "mmap": Mmap, "thread": Thread}


def lines_of(path):
    """Every whole line of the record as a dict."""
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError:
        return
    for line in text.split(b"\n"):
        if line:
            try:
                raw = json.loads(line)
            except ValueError:
                continue
            if isinstance(raw, dict):
                yield raw


class Trace:
    """The record of one run."""

    def __init__(self, path):
        self.path = path
        self._events = None
        self._others = []

    def _read(self):
        if self._events is not None:
            return
        events, last = [], {}
        for raw in lines_of(self.path):
            kind = KINDS.get(raw.get("k"))
            if not kind:
                self._others.append(raw)
                continue
            event = kind(raw)
            if kind is Exit:
                cpu = raw.get("vm"), raw.get("vcpu")
                before = last.get(cpu)
                if before is not None and before.is_read and raw.get("reply") is not None:
                    before._reply = bytes.fromhex(raw["reply"])
                last[cpu] = event
            events.append(event)
        self._events = events

    @property
    def events(self):
        """All of them, in the order in which they ended."""
        self._read()
        return self._events

    def others(self, kind):
        """Lines of another kind, as dicts: start, dump, forbidden, end."""
        self._read()
        return [raw for raw in self._others if raw.get("k") == kind]

    def _of(self, kind):
        return [event for event in self.events if type(event) is kind]

    def ioctls(self, name=None, vcpu=None):
        """Ioctls by the kernel's name (KVM_CREATE_VM...), of one vCPU's descriptor or of all."""
        return [e for e in self._of(Ioctl) if (name is None or e.name == name) and (vcpu is None or e.vcpu == vcpu)]

    def exits(self, vcpu=None):
        """Each KVM_RUN, those that failed (.ret < 0, .reason None) included."""
        return [e for e in self._of(Exit) if vcpu is None or e.vcpu == vcpu]

    def signals(self):
        return self._of(Signal)

    def mmaps(self):
        return self._of(Mmap)

    def threads(self):
        return self._of(Thread)


class Answer(dict):
    """What the rig said to one command: its values by name, .rc and .error."""

    @property
    def rc(self):
        return self.get("rc")

    @property
    def error(self):
        return self.get("error") or ""

    @property
    def command(self):
        return self.get("command") or ""


def answers_of(data):
    """The rig's answers. A line that is no JSON object ends them: whatever follows was not written by the rig."""
    found = []
    for line in data.split(b"\n"):
        if not line.strip():
            continue
        try:
            raw = json.loads(line)
        except ValueError:
            break
        if not isinstance(raw, dict):
            break
        found.append(Answer(raw))
    return found


class Run:
    """One run of a program that has ended.

    status    its exit status, None when it had none
    signal    the number of the signal that ended it, or None
    ended     "exit", "signal", "timeout", "flood" (too much output) or "forbidden"
    stdout, stderr    bytes
    answers   of the rig, one a command that it got to
    seconds   by the wall clock
    trace     its record
    """

    def __init__(self, program, command, trace_path):
        self.program, self.command = program, command
        self.status = self.signal = None
        self.ended = "exit"
        self.stdout = self.stderr = b""
        self.answers = []
        self.seconds = 0.0
        self.allowed = self.reference = None  # seconds: the limit, and what the reference needed, if it was asked
        self.program_name = None
        self.trace = Trace(trace_path)

    @property
    def forbidden(self):
        """The acts that the sandbox refused: dicts with `what` and `detail`."""
        return self.trace.others("forbidden")

    def memory(self, when, gpa, length, vm=0):
        """Guest memory that was kept by dump=: bytes, or None when not all of it was there."""
        data, have = bytearray(length), bytearray(length)
        with open(f"{self.trace.path}.mem", "rb") as file:
            for dump in self.trace.others("dump"):
                start, end = max(gpa, dump["gpa"]), min(gpa + length, dump["gpa"] + dump["length"])
                if dump["when"] != when or dump.get("vm", 0) != vm or start >= end:
                    continue
                file.seek(dump["offset"] + start - dump["gpa"])
                part = file.read(end - start)
                data[start - gpa:start - gpa + len(part)] = part
                have[start - gpa:start - gpa + len(part)] = b"\1" * len(part)
        return bytes(data) if all(have) else None

    def answer(self, command):
        """The first answer to this command, or None."""
        return next((a for a in self.answers if a.command == command), None)
