"""hvlab view: a trace as one HTML page that needs nothing else.

It reads what observe records (JSON lines, labs/README.md) and what `hvrun --trace` writes (Chrome trace events). A
trace comes from a student's program and is hostile: every line is bounded, every value checked for its type and cut to
a length, and what can't be used is counted and skipped. Big traces are thinned for the time line; the counts and mean
times in the tables are of all exits. The page itself is made by viewpage.py.
"""
from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import pathlib
import re
import sys
import tempfile

from . import exits as exit_kinds
from . import viewpage

LINE_MAX = 1 << 20
FILE_MAX = 256 << 20  # of a Chrome trace, which is one JSON text and has to be read whole
READ_MAX = 1 << 30  # of a record, which is read line by line; a page can't show more anyway
TEXT_MAX = 200
DETAIL_MAX = 800
BYTES_MAX = 64
TIME_MAX = 1 << 52  # ns, 52 days; beyond it a script's numbers lose precision
LANES_MAX = 64
PLACES_MAX = 4096
THREADS_MAX = 1024
DEFAULT_LIMIT = 12_000

REGS = ("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
        "rip", "rflags")


class Damaged(Exception):
    """The file is no trace; the text says why."""


# --- values of a trace: nothing is believed --------------------------------------------------------------------------
def clean(value, limit: int = TEXT_MAX) -> str:
    """A text for a person: characters that hide or turn text around are shown as escapes, and it ends somewhere."""
    text = value if isinstance(value, str) else "" if value is None else str(value)
    cut = len(text) > limit
    out = []
    for ch in text[:limit]:
        n = ord(ch)
        hidden = n < 0x20 or 0x7F <= n < 0xA0 or 0x200B <= n <= 0x200F or 0x2028 <= n <= 0x202E or \
            0x2060 <= n <= 0x206F or 0xD800 <= n <= 0xF8FF or n in (0xFEFF, 0xFFFE, 0xFFFF) or n >= 0xE0000
        out.append(f"\\u{n:04x}" if hidden else ch)
    return "".join(out) + ("..." if cut else "")


def whole(value, default=None, low: int = -(1 << 63), high: int = (1 << 64) - 1):
    """An integer in its range, or the default."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        return default
    return value


def time_of(value):
    """Nanoseconds, or None."""
    return whole(value, None, 0, TIME_MAX)


def hex_bytes(value) -> str:
    """A hexadecimal string of bytes as the record has it; "" when it is none."""
    if not isinstance(value, str) or not re.fullmatch(r"(?:[0-9a-fA-F]{2})*", value[:4 * BYTES_MAX]):
        return ""
    return value[:2 * BYTES_MAX].lower() + ("..." if len(value) > 2 * BYTES_MAX else "")


def little(value: str):
    """The number that these bytes are, little-endian, when they are at most eight."""
    return int.from_bytes(bytes.fromhex(value), "little") if value and len(value) <= 16 and "." not in value else None


def shown(value, depth: int = 0) -> str:
    """A dict or list of the record on one line, large numbers in hexadecimal."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return str(value) if -10 < value < 10 else hex(value)
    if isinstance(value, dict) and depth < 6:
        return "{" + ", ".join(f"{clean(k, 40)}: {shown(v, depth + 1)}" for k, v in list(value.items())[:40]) + "}"
    if isinstance(value, list) and depth < 6:
        return "[" + ", ".join(shown(v, depth + 1) for v in value[:40]) + (", ..." if len(value) > 40 else "") + "]"
    return clean(value, TEXT_MAX)


def fields(value) -> str:
    """The arguments of an ioctl: `slot: 0, guest_phys_addr: 0x1000`; "" for none."""
    text = shown(value) if isinstance(value, (dict, list)) and value else ""
    return clean(text[1:-1] if isinstance(value, dict) else text, DETAIL_MAX)


# --- a bounded selection of a long series ----------------------------------------------------------------------------
class Thinned:
    """Keeps at most `limit` items of a series: its beginning, its end, what is rare, and each n-th between."""

    def __init__(self, limit: int):
        self.first: list = []
        self.last: collections.deque = collections.deque()
        self.rare: list = []
        self.between: list = []
        self.first_max, self.last_max = limit * 2 // 5, limit * 2 // 5
        self.rare_max = self.between_max = max(1, limit // 10)
        self.count, self.step, self.phase = 0, 1, 0

    def add(self, item, rare: bool = False):
        self.count += 1
        if len(self.first) < self.first_max:
            self.first.append((self.count, item))
            return
        self.last.append((self.count, item, rare))
        if len(self.last) > self.last_max:
            self._fall_out(*self.last.popleft())

    def _fall_out(self, number, item, rare):
        if rare and len(self.rare) < self.rare_max:
            self.rare.append((number, item))
            return
        self.phase += 1
        if self.phase % self.step == 0:
            self.between.append((number, item))
        if len(self.between) > self.between_max:
            self.between = self.between[1::2]
            self.step *= 2
            self.phase = 0

    def items(self) -> list:
        """(number from 1 on, item), in order."""
        return sorted(self.first + self.rare + self.between + [(n, i) for n, i, _ in self.last], key=lambda e: e[0])


def lane_of(event: dict):
    """The time line of an event's vCPU; one program may have several VMs, each with a vCPU 0. None: no vCPU's."""
    vcpu, vm = whole(event.get("vcpu"), None, 0, (1 << 20) - 1), whole(event.get("vm"), 0, 0, 1 << 20)
    return None if vcpu is None else vm << 20 | vcpu


def lane_name(lane: int) -> str:
    return f"VM {lane >> 20} vCPU {lane & 0xFFFFF}" if lane >> 20 else f"vCPU {lane}"


# --- the model -------------------------------------------------------------------------------------------------------
class Sum:
    """Counts and times of one kind of exits, over the whole trace."""

    def __init__(self):
        self.count = self.guest = self.guest_n = self.user = self.user_n = self.user_max = 0

    def row(self) -> dict:
        return {"count": self.count, "guest": self.guest // self.guest_n if self.guest_n else None,
                "user": self.user // self.user_n if self.user_n else None,
                "longest": self.user_max if self.user_n else None}


class Model:
    """What the page shows."""

    def __init__(self, title: str, limit: int):
        self.title = clean(title)
        self.about: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.exits = Thinned(limit)
        self.ioctls = Thinned(max(500, limit // 2))
        self.marks = Thinned(max(500, limit // 4))
        self.kinds: dict[str, Sum] = collections.defaultdict(Sum)
        self.places: dict[tuple, int] = collections.Counter()
        self.open: dict[int, dict] = {}  # the latest exit of each vCPU
        self.lanes: dict[int, dict] = {}
        self.threads: dict[int, str] = {}
        self.sregs: list[dict] = []
        self.sregs_index: dict[str, int] = {}
        self.skipped = 0
        self.unshown = 0
        self.end = 0

    @property
    def returned(self) -> int:
        """How many exits there were: each entry but those that the program's end cut off."""
        return self.exits.count - (self.kinds["inside"].count if "inside" in self.kinds else 0)

    def lane(self, vcpu: int):
        """The time line of a vCPU; False when there are too many of them."""
        if vcpu not in self.lanes:
            if len(self.lanes) >= LANES_MAX:
                self.unshown += 1
                return False
            self.lanes[vcpu] = {"vcpu": vcpu, "name": lane_name(vcpu), "exits": 0, "tids": []}
        return True

    def thread(self, tid, role: str):
        if tid is not None and (tid in self.threads or len(self.threads) < THREADS_MAX):
            if role or tid not in self.threads:
                self.threads[tid] = role or self.threads.get(tid, "")

    def reach(self, time: int):
        self.end = max(self.end, time)

    def add_exit(self, item: dict, kind: exit_kinds.Kind, address=None):
        """item: v, tid, t0 (None: not known), t1 and whatever the page shows; u is filled in by the next entry."""
        if not self.lane(item["v"]):
            return
        self.leave(item)
        item["k"] = kind.key
        item.setdefault("u", None)
        self.open[item["v"]] = item
        lane = self.lanes[item["v"]]
        lane["exits"] += kind.key != "inside"
        if item["tid"] is not None and item["tid"] not in lane["tids"] and len(lane["tids"]) < 9:
            lane["tids"].append(item["tid"])
        self.reach(item["t1"])
        total = self.kinds[kind.key]
        total.count += 1
        if item.get("t0") is not None:
            total.guest += item["t1"] - item["t0"]
            total.guest_n += 1
        place = (kind.key, address)
        if place in self.places or len(self.places) < PLACES_MAX:
            self.places[place] += 1
        if item["u"] is not None:
            self.count_user(item)
        self.exits.add(item, rare=kind.key not in ("io-out", "io-in", "mmio-write", "mmio-read"))

    def leave(self, following: dict):
        """The vCPU goes in again: the time since its exit was user space's."""
        before = self.open.get(following["v"])
        if before is None:
            return
        before["again"] = True
        if before["u"] is None and following.get("t0") is not None:
            before["u"] = max(0, following["t0"] - before["t1"])
            self.count_user(before)

    def count_user(self, item: dict):
        total = self.kinds[item["k"]]
        total.user += item["u"]
        total.user_n += 1
        total.user_max = max(total.user_max, item["u"])

    def keep_sregs(self, value) -> int | None:
        """Special registers hardly ever change: each set is kept once."""
        if not isinstance(value, dict):
            return None
        text = json.dumps(value)
        if text not in self.sregs_index:
            if len(self.sregs) >= 4096:
                return None
            self.sregs_index[text] = len(self.sregs)
            self.sregs.append(flatten(value))
        return self.sregs_index[text]


def flatten(value: dict) -> dict[str, str]:
    """{"cs": {"base": 1}} becomes {"cs.base": "0x1"}."""
    flat = {}
    for key, inner in list(value.items())[:40]:
        for name, number in (list(inner.items())[:16] if isinstance(inner, dict) else [("", inner)]):
            if whole(number) is not None:
                flat[clean(f"{key}.{name}".rstrip("."), 40)] = f"{number:#x}"
    return flat


# --- observe's record --------------------------------------------------------------------------------------------------
def keep_regs(value):
    """18 numbers in hexadecimal, apart by blanks; a script's numbers would lose their low bits."""
    if not isinstance(value, dict):
        return None
    return " ".join(f"{whole(value.get(name), 0, 0):x}" for name in REGS)


def describe(reason, kind, size, count, address, data) -> str:
    """`out 0x3f8, 1 byte: 0x48`."""
    verb = {"io-out": "out", "io-in": "in", "mmio-write": "write", "mmio-read": "read"}.get(kind.key)
    if not verb:
        return clean(reason or kind.name)
    text = verb + (f" {address:#x}" if address is not None else "")
    if size:
        text += f", {size} byte{'' if size == 1 else 's'}" + (f" x {count}" if count and count > 1 else "")
    if data and kind.key in ("io-out", "mmio-write"):
        number = little(data)
        text += f": {number:#x}" if number is not None else f": {data}"
    return text


def add_run(model: Model, event: dict) -> bool:
    entered, took, vcpu = time_of(event.get("t")), time_of(event.get("d")), lane_of(event)
    if entered is None or took is None or vcpu is None:
        return False
    ret = whole(event.get("ret"))  # none: KVM_RUN was still running when the program ended
    reason = event.get("reason") if isinstance(event.get("reason"), str) else None
    io, mmio = (event.get(k) if isinstance(event.get(k), dict) else {} for k in ("io", "mmio"))
    address = size = count = None
    write, data = False, ""
    if reason == "io":
        address, size, count = whole(io.get("port"), None, 0), whole(io.get("size"), None, 0), whole(io.get("count"), None, 0)
        write, data = io.get("out") is True, hex_bytes(io.get("data"))
    elif reason == "mmio":
        address = whole(mmio.get("gpa", mmio.get("phys_addr")), None, 0)
        size = whole(mmio.get("size", mmio.get("len")), None, 0)
        write, data = bool(mmio.get("write", mmio.get("is_write"))), hex_bytes(mmio.get("data"))
    kind = exit_kinds.kind_of(reason, out=write, ret=ret)
    reply = hex_bytes(event.get("reply"))
    if reply and vcpu in model.open:
        model.open[vcpu]["reply"] = reply
    item = {"v": vcpu, "tid": whole(event.get("tid")), "t0": entered, "t1": entered + took, "ret": ret,
            "what": describe(reason, kind, size, count, address, data)}
    if address is not None:
        item["a"] = f"{address:#x}"
    if data:
        item["data"] = data
    if event.get("immediate"):
        item["imm"] = 1
    for key, field in (("win", "request_interrupt_window"), ("ready", "ready_for_interrupt_injection"), ("if", "if_flag")):
        if event.get(field):
            item[key] = 1
    if whole(event.get("suberror")) is not None:
        item["sub"] = event["suberror"]
    item["raw"] = (event.get("regs"), event.get("sregs"))  # made into texts by finish(), for those that are shown
    model.thread(item["tid"], lane_name(vcpu))
    model.add_exit(item, kind, address)
    return True


def add_ioctl(model: Model, event: dict) -> bool:
    start, took = time_of(event.get("t")), time_of(event.get("d")) or 0
    if start is None:
        return False
    vcpu = lane_of(event)
    if vcpu is not None and not model.lane(vcpu):
        return True
    item = {"t": start, "d": took, "v": vcpu, "tid": whole(event.get("tid")), "n": clean(event.get("name") or "ioctl", 60),
            "on": clean(event.get("on") or "", 10), "ret": whole(event.get("ret"), 0)}
    before, after = fields(event.get("in")), fields(event.get("out"))
    if before:
        item["in"] = before
    if after and after != before:
        item["out"] = after
    model.thread(item["tid"], "")
    model.reach(start + took)
    model.ioctls.add(item, rare=item["ret"] < 0)
    return True


def mark_text(event: dict) -> tuple[str, str] | None:
    """What a mark is (one of the page's shapes) and its sentence."""
    kind = event.get("k")
    if kind == "signal":
        target, signo = whole(event.get("target"), 0), whole(event.get("signo"), 0)
        vcpu = lane_of(event)
        whom = f"thread {target}" + (f" ({lane_name(vcpu)})" if vcpu is not None else "")
        inside = "inside KVM_RUN" if event.get("inside") is True else "outside KVM_RUN"
        return "signal", f"signal {signo} to {whom}, {inside}, immediate_exit {whole(event.get('immediate'), 0)}"
    if kind == "thread":
        return "thread", f"thread {whole(event.get('tid'), 0)} starts, made by {whole(event.get('parent'), 0)}"
    if kind == "mmap":
        return "mmap", f"the vCPU's kvm_run is mapped, {whole(event.get('length'), 0)} bytes"
    if kind == "close":
        return "close", f"the descriptor of a {clean(event.get('on'), 10)} is closed ({whole(event.get('fd'), 0)})"
    if kind == "dump":
        return "dump", f"memory at {whole(event.get('gpa'), 0):#x} kept, {whole(event.get('length'), 0)} bytes ({clean(event.get('when'), 10)})"
    if kind == "forbidden":
        return "forbidden", f"forbidden: {clean(event.get('what'), 40)} {clean(event.get('detail'))}"
    if kind == "end":
        how = clean(event.get("why"), 20)
        number = event.get("signal") if how == "signal" else event.get("status")
        return "end", f"the program ends: {how}" + (f" {whole(number)}" if whole(number) is not None else "")
    return None


def add_mark(model: Model, event: dict) -> bool:
    found = mark_text(event)
    if not found:
        return False
    time = time_of(event.get("t"))
    if time is None:
        time = model.end
    shape, text = found
    vcpu = lane_of(event)
    if vcpu is not None and not model.lane(vcpu):
        vcpu = None
    model.thread(whole(event.get("tid")), "")
    model.reach(time)
    model.marks.add({"t": time, "v": vcpu, "tid": whole(event.get("tid")), "m": shape, "text": text},
                    rare=shape in ("forbidden", "end"))
    if shape in ("forbidden", "end"):
        model.about.append(("Forbidden" if shape == "forbidden" else "Ended", text))
        del model.about[20:]
    return True


def add_start(model: Model, event: dict) -> bool:
    argv = event.get("argv")
    if isinstance(argv, list):
        model.about.append(("Program", clean(" ".join(clean(a, 80) for a in argv[:20]), 400)))
    if event.get("backend"):
        model.about.append(("KVM", clean(event["backend"])))
    del model.about[20:]
    return True


ADD = {"run": add_run, "ioctl": add_ioctl, "start": add_start}


# No number of a record is long; one with a million digits takes long to convert.
LONG_NUMBER = re.compile(rb"[\[:,\s-][0-9]{41}")  # not in a string of bytes, which begins with a quote


def read_lines(model: Model, file) -> None:
    seen = 0
    while line := file.readline(LINE_MAX + 1):
        if file.tell() > READ_MAX:
            model.notes.append(f"The file is larger than {READ_MAX >> 20} MiB; what comes after is left out.")
            break
        if len(line) > LINE_MAX:  # the rest of it goes with it
            while line and not line.endswith(b"\n"):
                line = file.readline(LINE_MAX)
            model.skipped += 1
            continue
        if not line.strip():
            continue
        try:
            event = None if len(line) > 20_000 and LONG_NUMBER.search(line) else json.loads(line)
            known = isinstance(event, dict) and ADD.get(event.get("k"), add_mark)(model, event)
        except (ValueError, RecursionError, TypeError, OverflowError):
            known = False
        seen += bool(known)
        model.skipped += not known
    if not seen:
        raise Damaged("no line of it is a record of observe, and it is no Chrome trace")


# --- hvrun's Chrome trace ------------------------------------------------------------------------------------------------
def micro(value):
    """The format's microseconds as ns."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < TIME_MAX / 1000:
        return None
    return round(value * 1000)


def number_of(value):
    """0x... of an event's arguments."""
    if isinstance(value, str) and re.fullmatch(r"0x[0-9a-fA-F]{1,16}", value):
        return int(value, 16)
    return whole(value, None, 0)


def add_event(model: Model, event: dict) -> bool:
    """An exit: ts is when KVM_RUN came back, dur the time in user space until it was called again."""
    if not isinstance(event, dict):
        return False
    args = event.get("args") if isinstance(event.get("args"), dict) else {}
    if event.get("ph") == "M":
        if event.get("name") == "process_name":
            model.about.append(("VM", clean(args.get("name"))))
        return True
    time, user, vcpu = micro(event.get("ts")), micro(event.get("dur")), whole(event.get("tid"), None, 0, 1 << 20)
    if event.get("ph") != "X" or time is None or vcpu is None:
        return False
    reason = event.get("cat") if isinstance(event.get("cat"), str) else None
    verb = clean(event.get("name")).split(" ")[0]
    kind = exit_kinds.kind_of(reason, out=verb in ("out", "write"))
    address = number_of(args.get("port", args.get("address")))
    value = number_of(args.get("value"))
    size, count = whole(args.get("size"), None, 0), whole(args.get("count"), None, 0)
    before = model.open.get(vcpu)
    entered = None if before is None or before["u"] is None else before["t1"] + before["u"]
    if entered is not None and entered > time:
        entered = time
    item = {"v": vcpu, "tid": None, "t0": entered, "t1": time, "u": user, "ret": 0,
            "what": describe(reason, kind, size, count, address, "")}
    if address is not None:
        item["a"] = f"{address:#x}"
        if value is not None:
            item["value"] = f"{value:#x}"
            item["what"] += f": {value:#x}"
    elif number_of(args.get("number")):
        item["what"] += f" {number_of(args['number']):#x}"
    if args.get("unclaimed") is True:
        item["lost"] = 1
    model.add_exit(item, kind, address)
    return True


def read_chrome(model: Model, file) -> None:
    text = file.read(FILE_MAX + 1)
    if len(text) > FILE_MAX:
        raise Damaged(f"it is larger than {FILE_MAX >> 20} MiB; trace a shorter run")
    if LONG_NUMBER.search(text):
        raise Damaged("it holds a number of more than 40 digits")
    try:
        whole_file = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"its JSON is damaged: {clean(str(error))}") from None
    events = whole_file.get("traceEvents") if isinstance(whole_file, dict) else whole_file
    if not isinstance(events, list):
        raise Damaged("it is JSON, but neither a record of observe nor a Chrome trace")
    usable = 0
    for event in sorted((e for e in events if isinstance(e, dict)),
                        key=lambda e: e["ts"] if isinstance(e.get("ts"), (int, float)) else -1):
        known = add_event(model, event)
        usable += known
        model.skipped += not known
    if not usable and events:
        raise Damaged("none of its events is an exit")
    other = whole_file.get("otherData") if isinstance(whole_file, dict) else None
    if isinstance(other, dict):
        if whole(other.get("dropped"), 0, 1):
            model.notes.append(f"hvrun kept the latest exits only; {other['dropped']} older ones are not in the file.")
        if other.get("generator"):
            model.about.append(("Made by", clean(other["generator"])))


# --- together --------------------------------------------------------------------------------------------------------
def load(path: pathlib.Path, limit: int = DEFAULT_LIMIT) -> Model:
    """The model of a trace. Raises OSError or Damaged."""
    model = Model(path.name, limit)
    if path.exists() and not path.is_file():
        raise Damaged("it is no ordinary file")
    with open(path, "rb") as file:
        head = file.read(4096)
        file.seek(0)
        first = head.split(b"\n", 1)[0].strip()
        if b'"k"' in first or not head.lstrip()[:1] in (b"{", b"["):
            read_lines(model, file)
        else:
            read_chrome(model, file)
    finish(model)
    return model


def finish(model: Model) -> None:
    for _, item in model.exits.items():
        regs, sregs = item.pop("raw", (None, None))
        if (text := keep_regs(regs)) is not None:
            item["r"] = text
        if (number := model.keep_sregs(sregs)) is not None:
            item["s"] = number
    for series, name in ((model.exits, "exits"), (model.ioctls, "ioctls"), (model.marks, "marks")):
        kept = len(series.items())
        if kept < series.count:
            model.notes.append(f"The trace has {series.count:,} {name}; {kept:,} of them are shown: the first and the last, "
                               "what is rare, and a selection between. The tables of reasons and places count all.")
    if model.unshown:
        model.notes.append(f"{model.unshown:,} events of vCPUs beyond the {LANES_MAX}th are left out.")
    if model.skipped:
        model.notes.append(f"{model.skipped:,} lines or events could not be read and were skipped.")
    if not model.exits.count:
        model.notes.append("The trace has no exit: KVM_RUN was never called, or never came back.")


def write_file(path: str, text: str) -> None:
    """Under its name only when it is whole."""
    if path == "-":
        sys.stdout.write(text)
        return
    folder = os.path.dirname(path) or "."
    fd, temporary = tempfile.mkstemp(prefix=".view-", dir=folder)
    try:
        with os.fdopen(fd, "w", encoding="utf-8", errors="replace") as out:
            out.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("trace", metavar="TRACE", help="what `hvlab run --trace`, observe or `hvrun --trace` has written")
    parser.add_argument("-o", "--output", metavar="FILE.html", help="the page (default: TRACE.html; - for standard output)")
    parser.add_argument("--limit", type=int, default=DEFAULT_LIMIT, metavar="N",
                        help=f"show at most N exits (default {DEFAULT_LIMIT})")


def execute(args: argparse.Namespace) -> int:
    if not 100 <= args.limit <= 200_000:
        print("hvlab view: --limit takes 100 to 200000", file=sys.stderr)
        return 2
    output = args.output or f"{args.trace}.html"
    try:
        model = load(pathlib.Path(args.trace), args.limit)
        write_file(output, viewpage.render(model))
    except Damaged as error:
        print(f"hvlab view: {args.trace}: {error}", file=sys.stderr)
        return 3
    except OSError as error:
        print(f"hvlab view: {error.filename or output}: {error.strerror}", file=sys.stderr)
        return 1
    if output != "-":
        print(f"{output}: {model.returned} exit{'' if model.returned == 1 else 's'} of {len(model.lanes)} vCPU{'' if len(model.lanes) == 1 else 's'}; "
              "open it in a browser")
    return 0


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="hvlab view", description=__doc__.split("\n\n")[0])
    configure(parser)
    return execute(parser.parse_args(argv))


if __name__ == "__main__":
    sys.exit(main())
