#!/usr/bin/env python3
"""The distribution's kernel without ACPI (--acpi off): it finds four CPUs and the serial line's interrupt in the MP table,
and resets the VM by the keyboard controller.
"""
# limit: 600
# kvm: none
# once
# alone
import shlex
import sys

import linux_lib
from linux_lib import HVRUN, SECONDS, Linux, check, result, tail

INIT = """#!/bin/busybox sh
b=/bin/busybox
$b mount -t proc proc /proc
$b grep ttyS0 /proc/interrupts
echo "INIT-REACHED cpus=$($b nproc)"
$b reboot -f
"""

linux = Linux()
words = (HVRUN, "--mem", "512M", "--cpus", 4, "--timeout", SECONDS, "--acpi", "off", "--initrd", linux.initrd("initrd", INIT, []),
         "--append", "console=ttyS0 panic=-1 quiet", linux.image)
linux.execute([linux_lib.run_until("mptable", shlex.join(map(str, words)), "INIT-REACHED", 2)])
out, err, _ = result("mptable")
check("INIT-REACHED cpus=4" in out, "four CPUs come up", tail(out), err)
check("IO-APIC" in out, "the serial line's interrupt comes by the IOAPIC", tail(out), err)
check(out.count("INIT-REACHED") == 2, "reboot resets the VM without ACPI, and the kernel starts anew", tail(out), err)
sys.exit(0)
