"""hvlab doctor's first VM: asks /dev/kvm what it can do, then runs a few instructions of real-mode code.

A program of its own, so that a kernel that never comes back can be given up. Each step is one JSON line as it is
reached; the last line that came says how far it got.

    probe.py DEVICE [NUMBER...]        the numbers are those of KVM_CHECK_EXTENSION

Rules: KVM API 4.1 to 4.4, 4.7, 4.10, 4.35 and 5 (struct kvm_run). The guest: add, out, a thousand outs, hlt.
"""
import ctypes
import errno
import fcntl
import json
import mmap
import os
import struct
import sys
import time

GET_API_VERSION, CREATE_VM, CHECK_EXTENSION, GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE03, 0xAE04
CREATE_VCPU, SET_TSS_ADDR, RUN = 0xAE41, 0xAE47, 0xAE80
SET_IDENTITY_MAP_ADDR, SET_USER_MEMORY_REGION = 0x4008AE48, 0x4020AE46
SET_REGS, GET_SREGS, SET_SREGS = 0x4090AE82, 0x8138AE83, 0x4138AE84
EXIT_IO, EXIT_HLT = 2, 5
OUTS = 1000
GUEST = bytes.fromhex("ba8000" "b002" "0402" "ee" "b9") + struct.pack("<H", OUTS) + bytes.fromhex("ee" "e2fd" "f4")
ENTRY = 0x1000


def say(**what):
    print(json.dumps(what), flush=True)


def step(name, call, *args):
    """One step; an error is told and ends the program."""
    try:
        value = call(*args)
    except OSError as error:
        say(step=name, errno=errno.errorcode.get(error.errno, str(error.errno)), text=error.strerror)
        sys.exit(1)
    say(step=name, value=value if isinstance(value, int) else 0)
    return value


def set_up(vm, vcpu):
    """Memory with the guest in it, registers of real mode. The memory has to live as long as the VM."""
    memory = mmap.mmap(-1, 0x10000)
    memory[ENTRY:ENTRY + len(GUEST)] = GUEST
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    step("memory", fcntl.ioctl, vm, SET_USER_MEMORY_REGION, struct.pack("<IIQQQ", 0, 0, 0, len(memory), address))
    sregs = bytearray(312)
    fcntl.ioctl(vcpu, GET_SREGS, sregs)
    struct.pack_into("<Q", sregs, 0, 0)  # cs.base
    struct.pack_into("<H", sregs, 12, 0)  # cs.selector
    step("sregs", fcntl.ioctl, vcpu, SET_SREGS, bytes(sregs))
    regs = struct.pack("<18Q", *[0] * 16, ENTRY, 2)
    step("regs", fcntl.ioctl, vcpu, SET_REGS, regs)
    return memory


def run(vcpu, area):
    """Runs to hlt; how long until the first exit and how long the rest took."""
    started = time.perf_counter_ns()
    first, outs = 0, 0
    while True:
        fcntl.ioctl(vcpu, RUN, 0)
        reason = struct.unpack_from("<I", area, 8)[0]
        if reason == EXIT_HLT:
            break
        port, offset = struct.unpack_from("<H", area, 34)[0], struct.unpack_from("<Q", area, 40)[0]
        if reason != EXIT_IO or port != 0x80 or area[offset] != 4:
            say(step="run", errno="WRONG", text=f"exit reason {reason} where an out of 4 to port 0x80 was due")
            sys.exit(1)
        outs += 1
        if not first:
            first = time.perf_counter_ns()
    say(step="ran", first=first - started, each=(time.perf_counter_ns() - first) // OUTS, outs=outs)


def main():
    kvm = step("open", os.open, sys.argv[1], os.O_RDWR | os.O_CLOEXEC)
    if step("version", fcntl.ioctl, kvm, GET_API_VERSION, 0) != 12:
        return 1
    say(step="extensions", value={n: fcntl.ioctl(kvm, CHECK_EXTENSION, int(n)) for n in sys.argv[2:]})
    started = time.perf_counter_ns()
    vm = step("vm", fcntl.ioctl, kvm, CREATE_VM, 0)
    for name, request, value in (("tss", SET_TSS_ADDR, 0x40001000),
                                 ("identity", SET_IDENTITY_MAP_ADDR, struct.pack("<Q", 0x40000000))):
        try:
            fcntl.ioctl(vm, request, value)
        except OSError as error:  # not every back end needs them or has them
            say(step=name, text=error.strerror)
    vcpu = step("vcpu", fcntl.ioctl, vm, CREATE_VCPU, 0)
    size = step("area", fcntl.ioctl, kvm, GET_VCPU_MMAP_SIZE, 0)
    area = mmap.mmap(vcpu, size, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
    memory = set_up(vm, vcpu)
    say(step="ready", took=time.perf_counter_ns() - started)
    try:
        run(vcpu, area)
    except OSError as error:
        say(step="run", errno=errno.errorcode.get(error.errno, str(error.errno)), text=error.strerror)
        return 1
    return 0 if memory else 1


if __name__ == "__main__":
    sys.exit(main())
