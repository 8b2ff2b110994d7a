"""What each exit of a VM is called, the letter that marks it, and the path that it takes through the core.

Two views need it: the page of `hvlab view` and texts that explain a trace. The devices are those of docs/devices.md (a
test compares the two), the files and functions those of docs/architecture.md, "First walk: an exit"; the labs that own
the files are the course's. An exit is known by its reason (the names of hv_exit_name), the direction, and the address.
"""
from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Kind:
    """A row of the legend: exits that look alike on the time line."""

    key: str
    letter: str
    name: str
    meaning: str


KINDS = (
    Kind("io-out", "O", "io, out", "the guest writes to a port"),
    Kind("io-in", "I", "io, in", "the guest reads a port and waits for the answer"),
    Kind("mmio-write", "W", "mmio, write", "the guest writes to an address that no memory slot has"),
    Kind("mmio-read", "R", "mmio, read", "the guest reads an address that no memory slot has"),
    Kind("hlt", "H", "hlt", "the guest halts and waits for an interrupt"),
    Kind("intr", "K", "kick", "a signal or immediate_exit brought KVM_RUN back (EINTR)"),
    Kind("irq-window-open", "Q", "irq window", "the guest can take an interrupt now, as was asked for"),
    Kind("ioapic-eoi", "A", "ioapic eoi", "the guest has handled a level-triggered interrupt"),
    Kind("msr", "M", "rdmsr, wrmsr", "an MSR that user space wanted to see"),
    Kind("hypercall", "C", "hypercall", "the guest calls its hypervisor by name"),
    Kind("debug", "D", "debug", "a breakpoint, a watchpoint or a single step"),
    Kind("system-event", "Y", "system event", "the guest asks to be switched off or reset, or says that it crashed"),
    Kind("shutdown", "S", "shutdown", "a triple fault: an exception while no handler worked"),
    Kind("fail-entry", "F", "fail entry", "the processor refuses the guest's state"),
    Kind("internal-error", "E", "internal error", "KVM can't go on with this guest"),
    Kind("inside", "N", "never came back", "the program ended while the vCPU was in the guest"),
    Kind("failed", "X", "KVM_RUN failed", "KVM_RUN itself returned an error"),
    Kind("other", "?", "other", "a reason that is none of the above"),
)
BY_KEY = {kind.key: kind for kind in KINDS}
SAME_KEY = {"rdmsr": "msr", "wrmsr": "msr"}
EINTR, EAGAIN = 4, 11


def kind_of(reason: str | None, *, out: bool = False, ret: int | None = 0) -> Kind:
    """The kind of an exit. out: of `io`, direction out; of `mmio`, a write. ret: what KVM_RUN returned, -errno; None: it
    never did."""
    if ret is None:
        return BY_KEY["inside"]
    if ret < 0 or reason is None:
        return BY_KEY["intr" if -ret in (EINTR, EAGAIN) else "failed"]
    if reason == "io":
        return BY_KEY["io-out" if out else "io-in"]
    if reason == "mmio":
        return BY_KEY["mmio-write" if out else "mmio-read"]
    return BY_KEY.get(SAME_KEY.get(reason, reason), BY_KEY["other"])


@dataclasses.dataclass(frozen=True)
class Device:
    name: str
    file: str
    first: int
    last: int
    mmio: bool = False


VIRTIO = range(0xD0000000, 0xD000C000, 0x1000)  # the windows
VIRTIO_NOTIFY = 0x50
DEVICES = (
    Device("serial port", "serial.c", 0x3F8, 0x3FF),
    Device("debug console", "debugcon.c", 0xE9, 0xE9),
    Device("debug exit", "debugexit.c", 0xF4, 0xF7),
    Device("POST code", "post.c", 0x80, 0x80),
    Device("panic", "pvpanic.c", 0x505, 0x505),
    Device("power", "power.c", 0x600, 0x602),
    Device("keyboard controller", "i8042.c", 0x60, 0x60),
    Device("keyboard controller", "i8042.c", 0x64, 0x64),
    Device("keyboard controller", "i8042.c", 0x92, 0x92),
    Device("clock and CMOS memory", "rtc.c", 0x70, 0x71),
    Device("firmware configuration", "fwcfg.c", 0x510, 0x511),
    Device("I/O APIC", "ioapic.c", 0xFEC00000, 0xFEC00FFF, mmio=True),
    *(Device("virtio device", "virtio/mmio.c", at, at + 0x1FF, mmio=True) for at in VIRTIO),
)


def device_at(address: int, mmio: bool) -> Device | None:
    return next((d for d in DEVICES if d.mmio == mmio and d.first <= address <= d.last), None)


@dataclasses.dataclass(frozen=True)
class Step:
    """One stop on an exit's way: where it is, what happens there, and the lab that owns the file (0: none)."""

    where: str
    what: str
    lab: int = 0


RUN = Step("KVM_RUN", "the kernel leaves the guest and fills struct kvm_run", 1)
LOOP = Step("machine/smp.c", "the vCPU thread's loop", 8)
AGAIN = Step("KVM_RUN", "back into the guest", 1)
SEND = Step("device/chardev.c", "the byte goes out")
NOTIFIED = Step("device/virtio/queue.c", "a thread of the device's takes what was made available", 9)
END = Step("machine/machine.c", "the machine ends and says why")
DIAGNOSE = Step("machine/diagnose.c", "what was seen, as a text")


def _handler(what: str) -> Step:
    return Step("machine/exit.c", what, 2)


AFTER = {
    "hlt": (_handler("exit_hlt: does anything wait to be injected?"), END),
    "intr": (Step("machine/smp.c", "looks why it was kicked: to stop, to pause, to inject", 8),),
    "irq-window-open": (_handler("nothing to do here"), Step("machine/smp.c", "injects the interrupt that waits", 8)),
    "ioapic-eoi": (_handler("hands the vector on"), Step("device/ioapic.c", "clears remote IRR")),
    "msr": (_handler("answers with an error: the guest gets #GP"),),
    "hypercall": (_handler("answers that there is none"),),
    "debug": (_handler("exit_debug: the debugger's, or the guest's own"),),
    "system-event": (_handler("exit_system_event"), END),
    "shutdown": (_handler("a triple fault"), DIAGNOSE, END),
    "fail-entry": (_handler("the hardware's reason"), DIAGNOSE, END),
    "internal-error": (_handler("exit_internal_error"), DIAGNOSE, END),
    "failed": (Step("kvm/vcpu.c", "hv_vcpu_run hands the error up", 1), END),
    "other": (_handler("a reason that this VM didn't ask for"), DIAGNOSE, END),
}


def path_of(kind: Kind, address: int | None, again: bool) -> list[Step]:
    """The stops of an exit, from KVM_RUN on; again: the vCPU went back into the guest."""
    if kind.key == "inside":
        return [Step("KVM_RUN", "the vCPU is in the guest", 1), Step("the program's end", "the kernel takes the vCPU out")]
    if kind.key in AFTER:
        middle = list(AFTER[kind.key])
        if again and middle and middle[-1] in (END,):
            middle = [s for s in middle if s not in (END, DIAGNOSE)]
    else:
        mmio, write = kind.key.startswith("mmio"), kind.key in ("io-out", "mmio-write")
        device = None if address is None else device_at(address, mmio)
        bus = "hv_bus_write" if write else "hv_bus_read"
        middle = [_handler("exit_mmio" if mmio else "exit_io"), Step("device/bus.c", f"{bus}: who has this address?", 2)]
        if device:
            middle.append(Step(f"device/{device.file}", device.name, 6 if device.file == "serial.c" else 0))
            if kind.key == "io-out" and (device.file == "debugcon.c" or address == 0x3F8):
                middle.append(SEND)
            if write and address is not None and device.first in VIRTIO and address - device.first == VIRTIO_NOTIFY:
                middle.append(NOTIFIED)
        else:
            middle.append(Step("no device", "the write is lost" if write else "the guest reads all ones"))
    if middle and middle[0].where == LOOP.where:
        return [RUN, *middle] + ([AGAIN] if again else [])
    return [RUN, LOOP, *middle] + ([AGAIN] if again else [])
