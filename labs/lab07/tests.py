"""
Lab 7, interrupts: core/kvm/irq.c. The rig calls its functions one by one, in between the guest runs to its next exit,
so an interrupt is always asked for at the same instruction. What is judged is what KVM was told (the arguments of each
ioctl), in which order, and what the guest showed at its ports. Rules: KVM API 4.16, 4.24, 4.25, 4.52, 4.64, 4.70, 4.71,
7.5.
"""

from kit.testing import test

EAGAIN, EINVAL = -11, -22
CAP_SPLIT_IRQCHIP = 121
SPEAKER_DUMMY = 1
PINS = 24
ROUTE_MSI = 2
IF_FLAG = 1 << 9
BEFORE, AFTER = 0x1111, 0x2222  # window.S
PIT_PORTS = range(0x40, 0x44)
NO_ROUTES = "hv_irq_route_ioapic told KVM nothing (KVM_SET_GSI_ROUTING)"
LEVEL_MSI = 0xc000  # a message's trigger and assert bits


# --- what several tests do ---

class Guest:
    """A guest with its seeded numbers: the vector, the port, what is added to counts."""

    def __init__(self, t, name, **defines):
        self.vector = t.random.randrange(0x30, 0xe0, 8)
        self.port = t.random.randrange(0x4000, 0x7000, 16)
        self.salt = t.random.randrange(0x100, 0x7000)
        self.image = t.guest(name, VECTOR=self.vector, PORT=self.port, SALT=self.salt, **defines)

    def script(self, irqchip, mode, *commands):
        """A VM with this irqchip and one vCPU at the guest's first instruction; then the commands."""
        create = [f"irqchip {irqchip}"] if irqchip else []
        return "\n".join(["kvm_open", "vm_create", "mem_ram 0x200000", *create, "vcpu_create",
                          f"load {self.image.path} 0x1000", f"entry {mode} 0x1000 rsp=0x80000", *commands]) + "\n"

    def shown(self, run):
        """What the guest showed, in order: ("main" or "handler", the number)."""
        names = {self.port: "main", self.port + 1: "handler"}
        return [(names[e.port], int.from_bytes(e.data, "little")) for e in run.trace.exits(vcpu=0)
                if e.reason == "io" and e.out and e.port in names]

    def counts(self, run, where):
        """The counts that were shown by the main loop, or by the handler, without the salt."""
        return [number - self.salt for name, number in self.shown(run) if name == where]


def calls(run, name):
    return run.trace.ioctls(name)


def answers(run, command):
    return [a for a in run.answers if a.command == command]


def went_well(t, run, what):
    """KVM took the controllers; a VM without them can't show anything that follows."""
    answer = run.answer(what)
    t.require(answer and answer.rc == 0, "IRQCHIP_REFUSED", what=what, rc=answer and answer.rc,
              error=answer and answer.error)


def check_order(t, run, what):
    """The timer was not asked for before the controllers: whoever stops at KVM's refusal never asks for them."""
    first = [i for i in run.trace.ioctls() if i.name in ("KVM_CREATE_IRQCHIP", "KVM_CREATE_PIT2")][:1]
    if first and first[0].name == "KVM_CREATE_PIT2" and first[0].ret < 0:
        went_well(t, run, what)


def lines_told(run):
    """[(gsi, level)] of each KVM_IRQ_LINE."""
    return [(c.args["irq"], c.args["level"]) for c in calls(run, "KVM_IRQ_LINE") + calls(run, "KVM_IRQ_LINE_STATUS")]


def check_line(t, run, pin, vector, levels):
    """KVM was told of this pin, with these levels in this order."""
    told = lines_told(run)
    t.require(told, "LINE_NOT_TOLD", gsi=pin)
    for gsi, _ in told:
        t.require(gsi == pin, "LINE_WRONG_GSI", told=gsi, gsi=pin, vector=vector)
    want = [level for level in levels]
    have = [int(bool(level)) for _, level in told]
    t.require(have == want or 0 in have or 0 not in want, "LEVEL_NOT_LOWERED", gsi=pin, levels=have, want=want)
    t.require(have == want, "LINE_NOT_TOLD", gsi=pin, levels=have, want=want)


def check_split(t, run):
    """KVM was told to leave all of the IOAPIC's pins to us."""
    for call in calls(run, "KVM_ENABLE_CAP"):
        if call.args["cap"] == CAP_SPLIT_IRQCHIP:
            t.require(call.args["args0"] == PINS, "SPLIT_PINS_ZERO", pins=call.args["args0"], want=PINS)


# --- task 1 ---

@test(task=1)
def the_controllers_come_before_the_first_vcpu(t):
    """The controllers are created before the first vCPU."""
    guest = Guest(t, "takes")
    run = t.rig(f"machine_create image={guest.image.path} boot=flat mem=2M irqchip=full\nmachine_irq 5\n",
                may_fail=True)
    kinds = [(i.name, i.ret) for i in run.trace.ioctls()]
    check_order(t, run, "machine_create")
    names = [name for name, _ in kinds]
    t.require("KVM_CREATE_IRQCHIP" in names, "IRQCHIP_MISSING", kind="full", wanted="KVM_CREATE_IRQCHIP")
    if "KVM_CREATE_VCPU" in names:
        late = names.index("KVM_CREATE_IRQCHIP") > names.index("KVM_CREATE_VCPU")
        t.require(not late, "IRQCHIP_AFTER_VCPU", rc=dict(kinds)["KVM_CREATE_IRQCHIP"])
    went_well(t, run, "machine_create")


@test(task=1)
def each_kind_is_what_it_says(t):
    """None, split and full create what they say, auto nothing."""
    made = {}
    for kind in ("none", "split", "full", "auto"):
        run = t.rig(f"kvm_open\nvm_create\nirqchip {kind}\n")
        made[kind] = (run.answer("irqchip"), [i for i in run.trace.ioctls() if i.on == "vm"], run)
    names = {kind: [i.name for i in ioctls] for kind, (_, ioctls, _) in made.items()}
    split = [i for i in made["split"][1] if i.name == "KVM_ENABLE_CAP"]
    check_order(t, made["full"][2], "irqchip")
    t.require("KVM_CREATE_IRQCHIP" in names["full"], "IRQCHIP_MISSING", kind="full", wanted="KVM_CREATE_IRQCHIP")
    t.require(split and split[0].args["cap"] == CAP_SPLIT_IRQCHIP, "IRQCHIP_MISSING", kind="split",
              wanted="KVM_ENABLE_CAP of KVM_CAP_SPLIT_IRQCHIP")
    check_split(t, made["split"][2])
    for kind in ("none", "auto"):
        unasked = [n for n in names[kind] if n in ("KVM_CREATE_IRQCHIP", "KVM_CREATE_PIT2", "KVM_ENABLE_CAP")]
        t.require(not unasked, "IRQCHIP_UNASKED", kind=kind, made=", ".join(unasked))
    t.require(made["auto"][0].rc == EINVAL, "IRQCHIP_UNASKED", kind="auto", made=f"the answer {made['auto'][0].rc}")
    for kind in ("none", "split", "full"):
        answer = made[kind][0]
        t.require(answer.rc == 0, "IRQCHIP_REFUSED", what=f"irqchip {kind}", rc=answer.rc, error=answer.error)


def check_timer(t, guest, ticks):
    run = t.rig(guest.script("full", "long", "run 2"), may_fail=True)
    exits = [e for e in run.trace.exits(vcpu=0) if e.reason == "io"]
    went_well(t, run, "irqchip")
    outside = [e.port for e in exits if e.port in PIT_PORTS]
    t.require(not outside, "PIT_MISSING", port=outside[:1] and outside[0])
    t.require(not [e for e in exits if e.port == 0x61], "SPEAKER_PORT_EXITS", port=0x61)
    main, handler = guest.counts(run, "main"), [n for where, n in guest.shown(run) if where == "handler"]
    t.require(main[:1] == [ticks], "NOT_AS_EXPECTED",
              message=f"the guest took {main[0] if main else 'no'} ticks of the PIT instead of {ticks}")
    t.require(handler[:1] == [1], "SPEAKER_PORT_EXITS", port=0x61)


@test(task=1)
def the_timer_ticks(t):
    """The PIT ticks through the PIC, and port 0x61 is the kernel's."""
    ticks = t.random.randrange(2, 6)
    check_timer(t, Guest(t, "ticks", TICKS=ticks), ticks)


# --- task 2 ---

@test(task=2)
def an_edge_interrupts_once(t):
    """A pulse on an edge-triggered line interrupts once, and the next pulse again."""
    pin = t.random.choice((5, 7, 9, 10, 11))
    guest = Guest(t, "takes", PIN=pin, LEVEL=0)
    pulse = [f"irq_line {pin} 1", f"irq_line {pin} 0"]
    run = t.rig(guest.script("full", "long", "run", *pulse, "run 3", *pulse, "run 3"))
    went_well(t, run, "irqchip")
    check_line(t, run, pin, guest.vector, [1, 0, 1, 0])
    t.require(guest.counts(run, "handler") == [1, 2], "LINE_NOT_TOLD", gsi=pin, levels=guest.counts(run, "handler"),
              want=[1, 2])
    t.require(all(a.rc == 0 for a in answers(run, "irq_line")), "LINE_RESULT_WRONG",
              rc=[a.rc for a in answers(run, "irq_line")])


@test(task=2)
def a_level_interrupts_until_it_is_lowered(t):
    """A level-triggered line interrupts again after each EOI, until it is lowered."""
    pin = t.random.choice((5, 7, 9, 10, 11))
    guest = Guest(t, "takes", PIN=pin, LEVEL=1)
    # main loop; up: handler, main, handler again; down while the handler is there: no more
    run = t.rig(guest.script("full", "long", "run", f"irq_line {pin} 1", "run 3", f"irq_line {pin} 0", "run 3"))
    went_well(t, run, "irqchip")
    check_line(t, run, pin, guest.vector, [1, 0])
    taken = guest.counts(run, "handler")
    t.require(len(taken) >= 2, "LINE_NOT_TOLD", gsi=pin, levels=taken, want=[1, 2])
    t.require(len(taken) <= 3, "LEVEL_NOT_LOWERED", gsi=pin, levels=taken, want=[1, 2])
    gone = t.rig("kvm_open\nvm_create\nirq_line 4 1\n")
    told = [c.ret for c in calls(gone, "KVM_IRQ_LINE") + calls(gone, "KVM_IRQ_LINE_STATUS")]
    rc = gone.answer("irq_line").rc
    t.require(rc < 0 and (not told or rc in told), "LINE_RESULT_WRONG", rc=[rc])


# --- task 3 ---

@test(task=3)
def a_message_reaches_its_vector(t):
    """A message interrupts the CPU and vector that it names."""
    guest = Guest(t, "takes")
    message = f"irq_msi 0xfee00000 {guest.vector:#x}"
    run = t.rig(guest.script("split", "long", "run", message, "run 3", message, "run 3"))
    went_well(t, run, "irqchip")
    told = calls(run, "KVM_SIGNAL_MSI")
    t.require(told, "NOT_AS_EXPECTED", message="hv_irq_msi told KVM nothing (KVM_SIGNAL_MSI)")
    t.require(told[0].args["data"] == guest.vector and told[0].args["address_lo"] == 0xfee00000, "MSI_FIELDS_WRONG",
              address=told[0].args["address_lo"], data=told[0].args["data"], want_data=guest.vector)
    t.require(guest.counts(run, "handler") == [1, 2], "MSI_FIELDS_WRONG", address=told[0].args["address_lo"],
              data=told[0].args["data"], want_data=guest.vector)


def check_message_result(t, run):
    """What KVM answered to the only message, as the caller wants it."""
    told, answer = calls(run, "KVM_SIGNAL_MSI"), run.answer("irq_msi")
    t.require(told and answer, "NOT_AS_EXPECTED", message="hv_irq_msi told KVM nothing (KVM_SIGNAL_MSI)")
    want = min(told[0].ret or 0, 0)
    t.require(answer.rc == want, "MSI_RESULT_LEAKED", ret=told[0].ret, rc=answer.rc, want=want)


@test(task=3)
def messages_arrive_whole(t):
    """All 64 bits of the address are told, and what KVM answers is made 0 or an errno."""
    guest = Guest(t, "takes")
    high = t.random.randrange(1, 1 << 24) << 8
    address = high << 32 | 0xfee00000
    run = t.rig(guest.script("split", "long", "run", f"irq_msi {address:#x} {guest.vector:#x}", "run 2"))
    went_well(t, run, "irqchip")
    told = calls(run, "KVM_SIGNAL_MSI")
    t.require(told, "NOT_AS_EXPECTED", message="hv_irq_msi told KVM nothing (KVM_SIGNAL_MSI)")
    t.require(told[0].args["address_hi"] == high, "MSI_HIGH_HALF_LOST", address=address,
              high=told[0].args["address_hi"],
              want=high)
    check_message_result(t, run)
    # after a reset the local APIC is off: KVM knows whom the message is for, and answers 0
    check_message_result(t, t.rig("kvm_open\nvm_create\nirqchip split\nvcpu_create\n"
                                  f"irq_msi 0xfee00000 {guest.vector:#x}\n"))
    check_message_result(t, t.rig(f"kvm_open\nvm_create\nirq_msi 0xfee00000 {guest.vector:#x}\n"))


# --- task 4 ---

def routes_told(run):
    """{gsi: entry} of the last KVM_SET_GSI_ROUTING, or None. For an MSI, `irqchip` and `pin` are its address's halves."""
    told = calls(run, "KVM_SET_GSI_ROUTING")
    return {e["gsi"]: e for e in told[-1].args["entries"]} if told else None


def route(pin, address, data, masked):
    return f"{pin},{address:#x},{data:#x},{int(masked)}"


@test(task=4)
def the_end_of_a_level_interrupt_comes_out(t):
    """KVM knows the route of a level-triggered pin, so its EOI comes out."""
    guest = Guest(t, "takes")
    pin = t.random.randrange(3, PINS)
    data = LEVEL_MSI | guest.vector
    run = t.rig(guest.script("split", "long", "run", "irq_route " + route(pin, 0xfee00000, data, False),
                             f"irq_msi 0xfee00000 {data:#x}", "run 1", "run 1", "run 1", "run 1"))
    went_well(t, run, "irqchip")
    routes = routes_told(run)
    t.require(routes is not None, "NOT_AS_EXPECTED", message=NO_ROUTES)
    t.require(pin in routes, "ROUTE_BY_INDEX", told=sorted(routes), want=[pin])
    told = routes[pin]
    t.require(told["type"] == ROUTE_MSI and told["data"] == data and told["irqchip"] == 0xfee00000,
              "ROUTE_FIELDS_WRONG",
              gsi=pin, type=told["type"], address=told["pin"] << 32 | told["irqchip"], data=told["data"],
              want=0xfee00000, want_data=data)
    t.require(run.answer("irq_route").rc == 0, "NOT_AS_EXPECTED",
              message=f"the answer was {run.answer('irq_route').rc}")
    check_split(t, run)
    if guest.counts(run, "handler"):  # task 3 is needed to get so far
        reasons = [a.get("reason") for a in answers(run, "run")]
        t.require("ioapic-eoi" in reasons, "NOT_AS_EXPECTED",
                  message="the guest's EOI did not come out; KVM_RUN came back with " + ", ".join(map(str, reasons)))


@test(task=4)
def only_unmasked_pins_have_routes(t):
    """A masked pin has no entry, the others stand side by side, under their own numbers."""
    pins = sorted(t.random.sample(range(1, PINS), 5))
    masked = set(t.random.sample(pins[:4], 2))
    data = {pin: t.random.randrange(0x30, 0xe0) for pin in pins}
    high = t.random.randrange(1, 1 << 20) << 8
    words = " ".join(route(p, high << 32 | 0xfee00000, data[p], p in masked) for p in pins)
    run = t.rig(f"kvm_open\nvm_create\nirqchip split\nirq_route {words}\nirq_route\n")
    told = calls(run, "KVM_SET_GSI_ROUTING")
    t.require(told, "NOT_AS_EXPECTED", message=NO_ROUTES)
    gsis = sorted(e["gsi"] for e in told[0].args["entries"])
    want = [p for p in pins if p not in masked]
    t.require(not masked & set(gsis) and told[0].args["nr"] <= len(want), "MASKED_PIN_ROUTED", told=gsis, want=want,
              masked=sorted(masked))
    t.require(gsis == want, "ROUTE_BY_INDEX", told=gsis, want=want)
    for entry in told[0].args["entries"]:
        t.require(entry["data"] == data[entry["gsi"]] and entry["pin"] == high, "ROUTE_FIELDS_WRONG", gsi=entry["gsi"],
                  type=entry["type"], address=entry["pin"] << 32 | entry["irqchip"], data=entry["data"],
                  want=high << 32 | 0xfee00000, want_data=data[entry["gsi"]])
    t.require(len(told) == 2 and told[1].args["nr"] == 0, "NOT_AS_EXPECTED",
              message="an empty table was not told; it takes all routes away")


@test(task=4)
def too_many_routes_are_refused(t):
    """More routes than pins are refused before KVM is asked; as many as pins are taken."""
    def words(count):
        return " ".join(route(i % PINS, 0xfee00000, 0x30 + i, False) for i in range(count))
    run = t.rig(f"kvm_open\nvm_create\nirqchip split\nirq_route {words(PINS)}\nirq_route {words(PINS + 1)}\n",
                may_fail=True)
    told = calls(run, "KVM_SET_GSI_ROUTING")
    asked = answers(run, "irq_route")
    t.require(told or (asked and asked[0].rc == EINVAL), "NOT_AS_EXPECTED", message=NO_ROUTES)
    t.require(told and told[0].args["nr"] == PINS, "ROUTES_OVERFLOW", count=PINS, pins=PINS,
              rc=asked[0].rc if asked else "?")
    t.require(run.ended == "exit" and len(told) == 1 and len(asked) == 2 and asked[1].rc == EINVAL, "ROUTES_OVERFLOW",
              count=PINS + 1, pins=PINS, rc=asked[1].rc if len(asked) == 2 else run.ended)


# --- task 5 ---

@test(task=5)
def an_nmi_comes_in_spite_of_cli(t):
    """An NMI interrupts a guest with IF clear, and a second one when the first is over."""
    guest = Guest(t, "window", NEVER=1)
    image = t.guest("window", VECTOR=2, PORT=guest.port, SALT=guest.salt, NEVER=1)
    guest.image = image
    run = t.rig(guest.script(None, "real", "run", "irq_nmi", "run", "irq_nmi", "run 3"))
    told = calls(run, "KVM_NMI")
    if not told:
        by_hand = [c.args["irq"] for c in calls(run, "KVM_INTERRUPT")]
        t.require(not by_hand, "NMI_AS_INTERRUPT", vector=by_hand and by_hand[0])
        t.fail("NOT_AS_EXPECTED", message="hv_vcpu_nmi told KVM nothing (KVM_NMI)")
    handler = [n for where, n in guest.shown(run) if where == "handler"]
    t.require(handler == [BEFORE, BEFORE], "NOT_AS_EXPECTED",
              message=f"the guest took {len(handler)} NMIs instead of 2")
    codes = [a.rc for a in answers(run, "irq_nmi")]
    t.require(codes == [0, 0], "NOT_AS_EXPECTED", message=f"KVM took both NMIs, and the answers were {codes}")


# --- task 6 ---

def check_not_early(t, run):
    """No vector went in while the guest had IF clear, by the flags at its last exit."""
    flags = 0
    for event in run.trace.events:
        if event.kind == "exit" and event.regs:
            flags = event.regs["rflags"]
        elif event.kind == "ioctl" and event.name == "KVM_INTERRUPT":
            t.require(flags & IF_FLAG, "INJECT_IF0", vector=event.args["irq"], rflags=flags)


def check_taken(t, guest, run, rc, times):
    """So many vectors went in, and the guest took each, after its sti."""
    told = [c.args["irq"] for c in calls(run, "KVM_INTERRUPT")]
    t.require(told == [guest.vector] * times, "INTERRUPT_DROPPED", vector=guest.vector, rc=rc)
    t.require(rc == 0, "INTERRUPT_DROPPED", vector=guest.vector, rc=rc)
    handler = [n for where, n in guest.shown(run) if where == "handler"]
    t.require(handler == [AFTER] * times, "NOT_AS_EXPECTED",
              message=f"the guest took {len(handler)} of {times} interrupts")


@test(task=6)
def an_interrupt_waits_until_the_guest_can_take_it(t):
    """A vector is held back while IF is clear, and KVM is asked to say when it isn't."""
    guest = Guest(t, "window")
    ask = f"irq_vector {guest.vector:#x}"
    run = t.rig(guest.script(None, "real", "run", ask, "run", ask, "run", "run"))
    check_not_early(t, run)
    asked = answers(run, "irq_vector")
    t.require(asked[0].rc == EAGAIN, "INTERRUPT_DROPPED", vector=guest.vector, rc=asked[0].rc)
    entries = run.trace.exits(vcpu=0)
    t.require(entries[1].request_interrupt_window == 1, "WINDOW_NOT_REQUESTED", reason=entries[1].reason)
    check_taken(t, guest, run, asked[1].rc, 1)


@test(task=6)
def the_window_is_shut_again(t):
    """Once the vector is in, KVM_RUN no longer comes back for the window."""
    guest = Guest(t, "window")
    ask = f"irq_vector {guest.vector:#x}"
    run = t.rig(guest.script(None, "real", "run", ask, "run", ask, *["run"] * 4))
    check_not_early(t, run)
    told = calls(run, "KVM_INTERRUPT")
    t.require(told, "INTERRUPT_DROPPED", vector=guest.vector, rc=answers(run, "irq_vector")[-1].rc)
    after = [e for e in run.trace.exits(vcpu=0) if e.t > told[0].t]
    t.require(not any(e.request_interrupt_window for e in after), "WINDOW_LEFT_OPEN",
              times=sum(1 for e in after if e.reason == "irq-window-open"))


# --- the challenge ---

@test(task=6)
def a_second_interrupt_is_not_lost(t):
    """Two vectors before one KVM_RUN: the second is held back until the first is taken."""
    guest = Guest(t, "window")
    ask = f"irq_vector {guest.vector:#x}"
    run = t.rig(guest.script(None, "real", "run 3", ask, ask, "run", "run", "run", "run"))
    check_not_early(t, run)
    asked = answers(run, "irq_vector")
    t.require(asked[0].rc == 0, "INTERRUPT_DROPPED", vector=guest.vector, rc=asked[0].rc)
    t.require(asked[1].rc == EAGAIN, "SECOND_VECTOR_REPLACES", rc=asked[1].rc, taken=len(guest.counts(run, "handler")))
