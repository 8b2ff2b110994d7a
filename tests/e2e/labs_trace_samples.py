"""Traces as observe writes them, made by hand, for the tests of hvlab view."""
import json

REGS = "rax rbx rcx rdx rsi rdi rsp rbp r8 r9 r10 r11 r12 r13 r14 r15 rip rflags".split()
SEGMENTS = "cs ds es fs gs ss tr ldt".split()


def segment(base=0, **more):
    return {"base": base, "limit": 0xFFFF, "selector": 0, "type": 11, "present": 1, "dpl": 0, "db": 0, "s": 1, "l": 0,
            "g": 0, **more}


def real_mode():
    sregs = {name: segment() for name in SEGMENTS}
    sregs.update(gdt={"base": 0, "limit": 65535}, idt={"base": 0, "limit": 1023}, cr0=0x60000010, cr2=0, cr3=0, cr4=0,
                 cr8=0, efer=0, apic_base=0xFEE00900, interrupt_bitmap=[0, 0, 0, 0])
    return sregs


class Sample:
    """Lines of a record; times go on by themselves."""

    def __init__(self, argv=("rig",), backend="VT-x"):
        self.lines, self.now = [], {None: 0}
        self.add(k="start", argv=list(argv), backend=backend)

    def add(self, **event):
        self.lines.append(json.dumps(event))

    def ioctl(self, on, name, vcpu=None, ret=0, took=1000, **fields):
        self.now[None] += 2000 + took
        self.add(k="ioctl", t=self.now[None] - took, d=took, tid=100, fd=3, on=on, vm=0, vcpu=vcpu, name=name, nr=1,
                 arg=0, **{"in": fields}, out={}, ret=ret)

    def run(self, vcpu, reason=None, guest=5000, user=3000, ret=0, immediate=0, reply=None, rip=0x1000, rax=0, **part):
        start = self.now.setdefault(vcpu, self.now[None] + 1000 * (vcpu + 1))
        event = {"k": "run", "t": start, "d": guest, "tid": 101 + vcpu, "vcpu": vcpu, "ret": ret, "immediate": immediate,
                 "regs": dict.fromkeys(REGS, 0) | {"rip": rip, "rax": rax, "rflags": 2}, "sregs": real_mode(), **part}
        if reason:
            event["reason"] = reason
        if reply:
            event["reply"] = reply
        self.add(**event)
        self.now[vcpu] = start + guest + user

    def out(self, vcpu, port, data, **more):
        self.run(vcpu, "io", io={"port": port, "out": True, "size": len(data) // 2, "count": 1, "data": data}, **more)

    def read(self, vcpu, port, **more):
        self.run(vcpu, "io", io={"port": port, "out": False, "size": 1, "count": 1, "data": "00"}, **more)

    def end(self):
        self.add(k="end", t=max(self.now.values()), status=0, signal=None, why="exit")

    def text(self):
        return "\n".join(self.lines) + "\n"


def two_vcpus():
    """Setting up, two vCPUs, each kind of event."""
    s = Sample(["rig", "--script"])
    s.ioctl("kvm", "KVM_CREATE_VM", ret=4)
    s.ioctl("vm", "KVM_SET_USER_MEMORY_REGION", slot=0, guest_phys_addr=0, memory_size=0x100000)
    for cpu in (0, 1):
        s.ioctl("vm", "KVM_CREATE_VCPU", ret=5 + cpu, vcpu_id=cpu)
        s.add(k="mmap", t=s.now[None], tid=100, vcpu=cpu, length=12288, ret=0)
        s.add(k="thread", t=s.now[None], tid=101 + cpu, parent=100)
    s.ioctl("vcpu", "KVM_SET_SREGS", vcpu=0, ret=-22)
    for i, letter in enumerate("Hello"):
        s.read(0, 0x3FD, rip=0x1000 + i)
        s.out(0, 0x3F8, f"{ord(letter):02x}", reply="60", rip=0x1008 + i, rax=ord(letter))
    s.run(1, "mmio", mmio={"gpa": 0xFEC00010, "write": True, "size": 4, "data": "01000000"})
    s.run(1, "mmio", mmio={"gpa": 0xD1000000, "write": False, "size": 4, "data": "00000000"})
    s.run(1, "hlt", reply="ffffffff")
    s.add(k="signal", t=s.now[0], tid=100, target=101, signo=10, vcpu=0, immediate=1, inside=True)
    s.run(0, ret=-4, immediate=1)
    s.run(0, "shutdown", rip=0x1020)
    s.add(k="dump", when="last", gpa=0x1000, length=64, offset=0)
    s.end()
    return s
