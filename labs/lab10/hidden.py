"""Lab 10's tests that students don't have: a whole boot by hvrun, a VM above 4 GiB, and a second boot in old memory."""

from kit.testing import test
from lab10.tests import (MIB, PAGE, ZERO_PAGE, BzImage, Kernel, boot, bytes_of, check_map, e820_of, field, hash_of,
                         initrd_place, page_of,
                         taken, told)


@test(task=7)
def a_kernel_boots_by_hvrun(t):
    """hvrun boots a kernel that finds its command line, its initrd and the memory map."""
    kernel = Kernel(t)
    line = " ".join("".join(t.random.choice("abcdefgh=") for _ in range(7)) for _ in range(t.random.randrange(2, 6)))
    data = bytes_of(t, t.random.randrange(1000, 5000))
    mem = t.random.randrange(40, 64)
    run = t.hvrun(["--mem", f"{mem}M", "--irqchip", "split", "--append", line, "--initrd", t.file("initrd", data),
                   t.file("bzImage", kernel.image.data())], dump=[("last", ZERO_PAGE, PAGE)], may_fail=True)
    report = kernel.report(run)
    t.require(report, "SOUND_KERNEL_REFUSED", what="the kit's kernel",
              rc=run.stderr.decode(errors="replace").strip()[-200:] or run.ended)
    t.require(report.get("entry") == 64, "ENTRY_NOT_64", rip="?", want="?", seen=f"entry {report.get('entry')}")
    t.require(report.get("rsi") == ZERO_PAGE, "ZERO_PAGE_LOST", rsi=f"{report.get('rsi', 0):#x}", want=f"{ZERO_PAGE:#x}")
    t.require(report.get("magic") == 0x53726448, "HEADER_NOT_COPIED", name="magic", seen=hex(report.get("magic", 0)),
              want="HdrS")
    t.require(report.get("loader") == 0xFF, "LOADER_TYPE_MISSING", seen=hex(report.get("loader", 0)))
    t.require(report.get("code32_start") == kernel.image.gpa, "CODE32_START_WRONG",
              seen=hex(report.get("code32_start", 0)),
              want=hex(kernel.image.gpa))
    t.require((report.get("cmdline"), report.get("cmdline_hash")) == (len(line), hash_of(line.encode())), "CMDLINE_LOST",
              at="?",
              seen=f"{report.get('cmdline')} bytes of {len(line)}")
    t.require((report.get("initrd"), report.get("initrd_hash")) == (len(data), hash_of(data)), "INITRD_UNTOLD", at="?",
              size=report.get("initrd"), want=len(data))
    page = run.memory("last", ZERO_PAGE, PAGE)
    t.require(page and report.get("e820") == len(e820_of(page)), "E820_EMPTY", count=report.get("e820"))
    check_map(t, page, [(0, mem * MIB)])


@test(task=5)
def memory_above_4_gib_is_told(t):
    """Of a VM with memory on both sides of 4 GiB both are told, and the initrd stays below."""
    slots = [(0, 24 * MIB), (4 << 30, (4 << 30) + t.random.randrange(2, 20) * MIB)]
    image = BzImage(t, initrd_addr_max=0xFFFFFFFF)
    data = bytes_of(t, 6000)
    at = initrd_place(image, len(data), 24 * MIB)
    script = "".join(f"mem_add {a:#x} {b - a:#x}\n" for a, b in slots) + "mem_dirty 0x5a\n"
    script += boot(t, image, f"initrd={t.file('initrd', data)}")
    run = t.rig(script + f"mem_read {ZERO_PAGE:#x} {PAGE}\nmem_read {at:#x} 6000\n",
                may_fail=True)
    said = run.answer("linux_boot")
    t.require(taken(said), "INITRD_REFUSED", size=len(data), rc=told(said) if said else run.ended)
    reads = [bytes.fromhex(a["data"]) for a in run.answers if a.command == "mem_read"]
    check_map(t, reads[0], slots)
    t.require(reads[1] == data, "INITRD_MISPLACED", at=f"{at:#x}", size=len(data), seen=reads[1][:8].hex(" "))


@test(task=6)
def the_zero_page_holds_nothing_old(t):
    """A second boot in the same memory finds nothing of the first one's."""
    first = BzImage(t, header_length=0xFF)
    second = BzImage(t, header_length=0x62)
    data = t.file("initrd", bytes_of(t, 4096))
    script = f"mem_ram {32 * MIB:#x}\n" + boot(t, first, f"initrd={data}") + boot(t, second)
    run = t.rig(script + f"mem_read {ZERO_PAGE:#x} {PAGE}\n", may_fail=True)
    said, read = run.answer("linux_boot"), run.answer("mem_read")
    t.require(said and read and said.rc == 0, "SOUND_KERNEL_REFUSED", what="the first of two",
              rc=told(said) if said else run.ended)
    page = bytes.fromhex(read["data"])
    t.require(field(page, "ramdisk_size") == 0, "INITRD_UNTOLD", at="?", size=field(page, "ramdisk_size"), want=0)
    t.require(not any(page[0x264:0x2D0]), "HEADER_OVERRUN", end="0x264", said="0x264")
    fresh = page_of(t, second)
    t.require(page == fresh, "HEADER_NOT_COPIED", name="the page", seen="traces of the first boot", want="none")
