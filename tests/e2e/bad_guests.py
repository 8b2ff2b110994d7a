#!/usr/bin/env python3
# limit: 240
# box: intel
"""Bad input: guests. One that spins, dies at once, floods, or touches every port and address it can."""
import os
import struct
import subprocess
from hvrun_lib import *

done = hvrun("--timeout", "0.3", image("spin.bin", SPIN))
check(done.returncode == 124, "a guest that spins is ended")
done = hvrun("--timeout", "0.3", "--cpus", "2", image("spin.bin", SPIN))
check(done.returncode == 124, "with two CPUs too")

done = hvrun(image("fault.bin", TRIPLE_FAULT))
check(done.returncode == 1 and "triple fault" in done.err.lower(), "a triple fault at once", done.err)
done = hvrun(image("ud.bin", b"\x0f\x0b"), "--timeout", "5")
check(done.returncode in (1, 124), "an invalid instruction without a handler", done.returncode)

# The flood: nobody reads stdout, then somebody does.
reader, writer = os.pipe()
with Running("--timeout", "1", image("flood.bin", FLOOD), stdout=writer) as run:
    os.close(writer)
    check(run.p.wait(LIMIT) == 124, "a flooded pipe that nobody reads stops no one from ending it", run.p.returncode)
    os.close(reader)
with Running("--timeout", "1", image("flood.bin", FLOOD), stdout=subprocess.DEVNULL) as run:
    check(run.wait() == 124, "a flood into nothing")
with Running("--timeout", "1", "--serial", "pty", image("flood.bin", FLOOD)) as run:
    check(run.wait() == 124, "a flood into a terminal that nobody opened")

# Every port but those that end the machine: in and out of each, a byte, a word, a double word.
SKIP = {0xF4, 0xF1, 0xF2, 0xF3, 0x61, 0x62, 0x63, 0x64, 0x8F, 0x90, 0x91, 0x92}
# mov dx, cx; cmp cx, port; je next (for each that is skipped); in al, ax, eax; out al, ax, eax
work = b"\xec\xee\xed\xef\x66\xed\x66\xef"
body = bytearray(b"\x89\xca")
for index, port in enumerate(sorted(SKIP)):
    left = (len(SKIP) - index - 1) * 6 + len(work)
    body += b"\x81\xf9" + struct.pack("<H", port) + bytes([0x74, left])
body += work
loop = b"\x31\xc9" + bytes(body) + b"\x49\x0f\x85" + struct.pack("<h", -(len(body) + 5)) + leave(9)
done = hvrun("--timeout", 4 * LIMIT, "--mem", "1M", image("ports.bin", loop), "--serial", "none", limit=4 * LIMIT)
check(done.returncode in (19, 1, 0) and done.returncode != 124, "every port, read and written by 1, 2 and 4 bytes",
      done.returncode, done.err)

# Around the RAM's edge in 64-bit code: RAM ends at 1 MiB + 64 KiB; 8 bytes at every address from 32 bytes before its
# end to 32 behind, and at the edges of what is mapped.
EDGE = 0x110000
edge = b"\x48\xbb" + struct.pack("<Q", EDGE - 32) + b"\xb9\x40\x00\x00\x00"       # mov rbx, edge-32; mov ecx, 64
edge += b"\x48\x8b\x03\x48\x89\x03\x8a\x03\x88\x03\x48\xff\xc3\xff\xc9\x75\xef"   # each: load, store, 8 and 1 bytes
for far in (0xBFFFFFF8, 0xC0000000, 0xFEBFFFFC, 0xFEC00000, 0xFEE00000, 0xFFFFFFF0, 0xFFFFFFF8):
    edge += b"\x48\xbb" + struct.pack("<Q", far) + b"\x8b\x03\x89\x03"            # mov rbx, far; 4 bytes
edge += b"\x66\xba\xf4\x00\xb0\x09\xee\xf4"
head = b"\x7fELF\x02\x01\x01" + bytes(9)
head += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0x100000, 64, 0, 0, 64, 56, 1, 64, 0, 0)
head += struct.pack("<IIQQQQQQ", 1, 7, 0x1000, 0x100000, 0x100000, len(edge), len(edge), 0x1000)
done = hvrun("--timeout", LIMIT, "--mem", EDGE, image("edge.elf", head.ljust(0x1000, b"\0") + edge))
check(done.returncode in (19, 1) and (done.returncode == 19 or done.err.startswith("hvrun: ")),
      f"every address around the RAM's edge: status {done.returncode}", done.err)

# The same from the first byte to the last of the real-mode megabyte's top, where RAM has been made short.
for size in ("4K", "64K", "640K"):
    wrap = b"\xb8\xff\xff\x8e\xd8\xbb\x10\x00\x8a\x07\x88\x07\xa1\xff\xff" + leave(4)  # ds = 0xffff
    done = hvrun("--timeout", "5", "--mem", size, image("wrap.bin", wrap))
    check(done.returncode in (9, 1, 124, 2), f"segments beyond {size} of RAM: status {done.returncode}", done.err)
