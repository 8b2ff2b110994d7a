"""
Lab 10, Linux: core/boot/linux.c. A bzImage is made anew for each question, with other sizes, places and bytes, and given
to the student's loader. What is judged: what it refuses, and what stands in guest memory afterwards. The kernel inside is
the kit's own (guests/kernel.S): entered, it tells what it found. A hostile image comes with a sound twin, from which it
differs in one field. Rules: the kernel's Documentation/arch/x86/boot.rst and zero-page.rst.
"""
import glob
import os
import struct

from kit.run import STRETCH
from kit.testing import test

EBADMSG, ENOSYS = -74, -38
MIB, SECTOR, PAGE = 1 << 20, 512, 4096
ZERO_PAGE, LOW_HOLE = 0x6000, (0xA0000, 0x100000)
HIGH_LIMIT = 0xBFE00000  # where hvkit's own tables may stand
FIELDS = {  # offset and form of what tests set or look at
    "setup_sects": (0x1F1, "B"), "syssize": (0x1F4, "I"), "boot_flag": (0x1FE, "H"), "jump": (0x200, "B"),
    "header_length": (0x201, "B"), "magic": (0x202, "I"), "version": (0x206, "H"), "type_of_loader": (0x210, "B"),
    "loadflags": (0x211, "B"), "code32_start": (0x214, "I"), "ramdisk_image": (0x218, "I"), "ramdisk_size": (0x21C, "I"),
    "cmd_line_ptr": (0x228, "I"), "initrd_addr_max": (0x22C, "I"), "kernel_alignment": (0x230, "I"),
    "relocatable_kernel": (0x234, "B"), "xloadflags": (0x236, "H"), "cmdline_size": (0x238, "I"),
    "setup_data": (0x250, "Q"),
    "pref_address": (0x258, "Q"), "init_size": (0x260, "I"),
}


def bytes_of(t, length):
    return t.random.randbytes(length)


class BzImage:
    """A bzImage under construction: a sound one, until a test sets a field to something else."""

    def __init__(self, t, kernel=None, **fields):
        self.kernel = kernel or bytes_of(t, 16 * t.random.randrange(0x40, 0x200))
        self.kernel += bytes(-len(self.kernel) % 16)
        self.fields = {"setup_sects": t.random.randrange(2, 30), "boot_flag": 0xAA55, "jump": 0xEB, "header_length": 0x6A,
                       "magic": 0x53726448, "version": 0x20F, "loadflags": 1, "code32_start": 0x100000, "xloadflags": 1,
                       "initrd_addr_max": 0x7FFFFFFF, "kernel_alignment": 0x200000, "relocatable_kernel": 1,
                       "cmdline_size": 2047, "pref_address": t.random.randrange(1, 4) * 0x200000,
                       "init_size": len(self.kernel) + PAGE * t.random.randrange(1, 64),
                       "syssize": len(self.kernel) // 16}
        self.fields.update(fields)
        self.setup = bytearray(bytes_of(t, ((self.fields["setup_sects"] or 4) + 1) * SECTOR))
        # Between the fields that have a meaning here stand seeded bytes; but what the loader fills in is not there yet.
        for name in ("type_of_loader", "ramdisk_image", "ramdisk_size", "cmd_line_ptr", "setup_data"):
            self.fields.setdefault(name, t.random.randrange(1, 256 if name == "type_of_loader" else 1 << 31))

    def data(self):
        out = bytearray(self.setup)
        for name, value in self.fields.items():
            offset, form = FIELDS[name]
            struct.pack_into("<" + form, out, offset, value)
        return bytes(out) + self.kernel

    @property
    def header_end(self):
        return 0x202 + self.fields["header_length"]

    @property
    def gpa(self):
        """Where the kernel belongs."""
        f = self.fields
        if not f["relocatable_kernel"]:
            return f["pref_address"]
        at = max(f["pref_address"], MIB)
        return at + -at % f["kernel_alignment"]

    @property
    def end(self):
        """Behind the memory that it wants."""
        return self.gpa + max(self.fields["init_size"], len(self.kernel))


RAM = 32 * MIB
MEMORY = f"mem_ram {RAM:#x}\n"


def boot(t, image, options="", data=None):
    return f"linux_boot {t.file('bzImage', image.data() if data is None else data)} {options}\n"


def told(answer):
    return f"{answer.rc} ({answer.error[:90]})" if answer.rc else "0"


def answers(run, command):
    return [a for a in run.answers if a.command == command]


def taken(answer):
    """The image was not refused; what is not written yet comes later."""
    return answer is not None and answer.rc in (0, ENOSYS)


def check_refusals(t, twin, cases, memory=MEMORY):
    """Each case is (image, file or None, id, damaged, seen): refused, the damaged ones as damaged."""
    script = memory + boot(t, twin) + "".join(boot(t, image, data=data) for image, data, _, _, _ in cases)
    run = t.rig(script, may_fail=True)
    said = answers(run, "linux_boot")
    t.require(said and taken(said[0]), "SOUND_KERNEL_REFUSED", what="the sound twin of the damaged ones",
              rc=told(said[0]) if said else run.ended)
    for number, (_, _, name, damaged, seen) in enumerate(cases, 1):
        answer = said[number] if number < len(said) else None
        t.require(answer is not None and not (answer.rc == ENOSYS or answer.rc == 0), name,
                  rc=answer.rc if answer is not None else f"a crash ({run.ended})", **seen)
        as_damaged = answer.rc == EBADMSG and answer.get("unsafe")
        t.require(as_damaged or name != "ALIGNMENT_UNCHECKED", name, rc=answer.rc, **seen)  # refused for what came of it
        t.require(as_damaged or not damaged, "NOT_TOLD_AS_DAMAGED", what=name, rc=answer.rc)


# --- task 1: the header ---

@test(task=1)
def headers_that_lie_are_refused(t):
    """A wrong mark, a protocol that is too old, and a header that ends nowhere are refused."""
    cases = []
    flag = BzImage(t, boot_flag=t.random.choice((0xAA54, 0x55AA, 0)))
    cases.append((flag, None, "BOOT_FLAG_IGNORED", True, {"flag": f"{flag.fields['boot_flag']:#x}"}))
    for version in (0x20B, 0x200):
        cases.append((BzImage(t, version=version), None, "VERSION_IGNORED", False,
                      {"version": f"{version >> 8}.{version & 255:02}"}))
    for length in (0x61, t.random.randrange(0, 0x60)):
        cases.append((BzImage(t, header_length=length), None, "HEADER_END_UNCHECKED", True,
                      {"end": f"{0x202 + length:#x}", "where": "inside its own fields, which end at 0x264"}))
    short = BzImage(t, header_length=0xFF)
    size = t.random.randrange(0x270, 0x300)
    cases.append((short, short.data()[:size], "HEADER_END_UNCHECKED", True,
                  {"end": "0x301", "where": f"behind the file's end at {size:#x}"}))
    check_refusals(t, BzImage(t, version=0x20C, header_length=0x62), cases)


# --- task 2: the kernel in the file ---

@test(task=2)
def kernels_that_cannot_be_entered_are_refused(t):
    """A zImage, a 32-bit kernel, and one that is too short for a 64-bit entry are refused."""
    tiny = BzImage(t, kernel=bytes_of(t, 0x200))
    cases = [(BzImage(t, loadflags=0x80), None, "ZIMAGE_TAKEN", False, {}),
             (BzImage(t, xloadflags=t.random.choice((0, 2, 0x7E))), None, "ENTRY_64_NOT_ASKED_FOR", False, {}),
             (tiny, None, "KERNEL_TOO_SHORT", True, {"size": len(tiny.kernel)})]
    check_refusals(t, BzImage(t, loadflags=0x81, xloadflags=0x7F, kernel=bytes_of(t, 0x210)), cases)


@test(task=2)
def the_kernel_begins_behind_the_setup_code(t):
    """The kernel's bytes are those behind boot sector and setup code, all of them, and the file has them."""
    images = [BzImage(t, setup_sects=n) for n in (t.random.randrange(5, 60), 0, 1, 255)]
    script = MEMORY
    for image in images:
        whole = image.data()
        script += boot(t, image) + boot(t, image, data=whole[:-1]) + boot(t, image, data=whole[:-SECTOR - 1])
    huge = BzImage(t)
    huge.fields["syssize"] += 1 << 28
    script += boot(t, huge)
    run = t.rig(script, may_fail=True)
    said = answers(run, "linux_boot")
    t.require(len(said) >= 3, "KERNEL_PAST_FILE_END", sectors=images[0].fields["setup_sects"], missing=1, rc=run.ended)
    for i, image in enumerate(images):
        n = image.fields["setup_sects"]
        name = "SETUP_SECTS_ZERO" if n == 0 else "SECTORS_MISCOUNTED"
        three = said[3 * i:3 * i + 3]
        t.require(three and taken(three[0]), name, sectors=n, what="the whole file was refused",
                  rc=told(three[0]) if three else run.ended)
        t.require(len(three) == 3 and three[2].rc == EBADMSG or n == 0, "KERNEL_PAST_FILE_END", sectors=n,
                  missing=SECTOR + 1,
                  rc=three[-1].rc)
        t.require(three[1].rc == EBADMSG, name, sectors=n, what="a file that lacks one byte was taken", rc=three[1].rc)
    t.require(said[-1].rc == EBADMSG and len(said) == 13, "SYSSIZE_WRAPS", syssize=f"{huge.fields['syssize']:#x}",
              rc=said[-1].rc)


# --- task 3: its place ---

@test(task=3)
def the_kernel_goes_where_it_likes_to_be(t):
    """The kernel is put to its preferred address, or to the next one that suits its alignment, never below 1 MiB."""
    align = 1 << t.random.randrange(16, 22)
    odd = t.random.randrange(1, 4) * MIB + PAGE * t.random.randrange(1, 15)
    cases = [(BzImage(t), "KERNEL_MISPLACED"),
             (BzImage(t, pref_address=odd, kernel_alignment=align), "PREF_NOT_ALIGNED"),
             (BzImage(t, pref_address=odd, relocatable_kernel=0, kernel_alignment=align), "KERNEL_MOVED"),
             (BzImage(t, pref_address=t.random.randrange(0, 0x40) * PAGE, kernel_alignment=0x10000),
              "KERNEL_BELOW_1_MIB")]
    script = ""
    for image, _ in cases:
        script += (f"mem_free\nmem_ram {RAM:#x}\n" if script else MEMORY) + boot(t, image)
        script += f"mem_read {image.gpa:#x} {min(len(image.kernel), 4096)}\nmem_read {image.fields['pref_address']:#x} 64\n"
    run = t.rig(script, may_fail=True)
    said, reads = answers(run, "linux_boot"), answers(run, "mem_read")
    for i, (image, name) in enumerate(cases):
        where = {"at": f"{image.gpa:#x}", "pref": f"{image.fields['pref_address']:#x}",
                 "align": f"{image.fields['kernel_alignment']:#x}"}
        t.require(i < len(said) and 2 * i < len(reads), name, seen=f"nothing ({run.ended})", **where)
        t.require(taken(said[i]) or name != "KERNEL_MISPLACED", "SOUND_KERNEL_REFUSED", what="an ordinary kernel",
                  rc=told(said[i]))
        seen = bytes.fromhex(reads[2 * i]["data"])
        t.require(seen == image.kernel[:len(seen)], name, seen=f"{seen[:8].hex(' ')} (result {told(said[i])})", **where)


@test(task=3)
def kernels_without_room_are_refused(t):
    """An alignment that is none, memory that isn't there, and places that are hvkit's own are refused."""
    small = BzImage(t)
    low = BzImage(t, relocatable_kernel=0, pref_address=t.random.randrange(0x40, 0xE0) * PAGE, init_size=PAGE)
    outside = BzImage(t, pref_address=RAM + 0x200000 * t.random.randrange(1, 8))
    high = BzImage(t, relocatable_kernel=0, pref_address=(1 << 64) - 0x1000, init_size=0x2000)
    unpacking = BzImage(t, pref_address=0x400000, init_size=RAM - 0x400000 + PAGE)
    top = BzImage(t, pref_address=0x400000, init_size=RAM - 0x400000)
    cases = [(BzImage(t, kernel_alignment=value), None, "ALIGNMENT_UNCHECKED", True, {"align": f"{value:#x}"})
             for value in (0, 0x200000 + PAGE)]
    cases += [(low, None, "KERNEL_BELOW_1_MIB", False,
               {"at": f"{low.gpa:#x}", "pref": f"{low.gpa:#x}", "align": "?", "seen": "?"}),
              *((one, None, "INIT_SIZE_IGNORED", False,
                 {"at": f"{one.gpa:#x}", "size": f"{one.fields['init_size']:#x}", "ram": f"{RAM:#x}"})
                for one in (outside, high)),
              (unpacking, None, "INIT_SIZE_IGNORED", False,
               {"at": "0x400000", "size": f"{unpacking.fields['init_size']:#x}", "ram": f"{RAM:#x}"})]
    check_refusals(t, small, cases)
    run = t.rig(MEMORY + boot(t, top), may_fail=True)
    said = run.answer("linux_boot")
    t.require(taken(said), "SOUND_KERNEL_REFUSED", what="a kernel that wants all memory up to the top",
              rc=told(said) if said else run.ended)


# --- task 4: the initrd ---

def initrd_place(image, size, ram=RAM):
    """Where an initrd of this size belongs: as high as RAM and initrd_addr_max let it."""
    top = min(ram, image.fields["initrd_addr_max"] + 1) & -PAGE
    return (top - size) & -PAGE


@test(task=4)
def the_initrd_goes_as_high_as_it_may(t):
    """The initrd lies on a page, below the kernel's limit and below the end of memory, and all of it is there."""
    limit = t.random.randrange(14, 28) * MIB + t.random.randrange(0, PAGE)
    cases = [BzImage(t), BzImage(t, initrd_addr_max=limit), BzImage(t, initrd_addr_max=0xFFFFFFFF)]
    script, wanted = "", []
    for image in cases:
        data = bytes_of(t, t.random.randrange(5000, 30000))
        at = initrd_place(image, len(data))
        high = initrd_place(BzImage(t), len(data))
        wanted.append((image, data, at))
        script += (f"mem_free\nmem_ram {RAM:#x}\n" if script else MEMORY) + boot(t, image,
                                                                                 f"initrd={t.file('initrd', data)}")
        script += f"mem_read {at:#x} {len(data)}\nmem_read {high:#x} 64\n"
    run = t.rig(script, may_fail=True)
    said, reads = answers(run, "linux_boot"), answers(run, "mem_read")
    for i, (image, data, at) in enumerate(wanted):
        t.require(2 * i + 1 < len(reads), "INITRD_MISPLACED", at=f"{at:#x}", size=len(data),
                  seen=f"nothing ({run.ended})")
        t.require(taken(said[i]), "INITRD_REFUSED", size=len(data), rc=told(said[i]))
        here, above = (bytes.fromhex(a["data"]) for a in reads[2 * i:2 * i + 2])
        t.require(here == data or above != data[:64], "INITRD_HIGH", limit=f"{image.fields['initrd_addr_max']:#x}",
                  seen=f"{initrd_place(BzImage(t), len(data)):#x}", size=len(data))
        t.require(here == data, "INITRD_MISPLACED", at=f"{at:#x}", size=len(data), seen=here[:8].hex(" "))
        t.credit((i + 1) / 3)


@test(task=4)
def an_initrd_without_room_is_refused(t):
    """An initrd that would lie over the memory in which the kernel unpacks itself is refused, one that just fits isn't."""
    image = BzImage(t, pref_address=8 * MIB, initrd_addr_max=12 * MIB - 1)
    image.fields["init_size"] = 4 * MIB - 5 * PAGE - t.random.randrange(1, PAGE)
    room = 5 * PAGE  # above the kernel, to the page
    below = BzImage(t, pref_address=16 * MIB, initrd_addr_max=t.random.randrange(2, 14) * MIB)
    fits = t.random.randrange(4 * PAGE + 1, room + 1)
    script = MEMORY
    for one, size in ((image, fits), (image, room + 1), (image, 5 * MIB), (below, PAGE)):
        script += boot(t, one, f"initrd={t.file('initrd', bytes(size))}")
    run = t.rig(script, may_fail=True)
    said = answers(run, "linux_boot")
    t.require(said and taken(said[0]), "INITRD_REFUSED", size=fits, rc=told(said[0]) if said else run.ended)
    for i, size in enumerate((room + 1, 5 * MIB, PAGE), 1):
        t.require(i < len(said) and said[i].rc not in (0, ENOSYS), "INITRD_OVER_KERNEL", size=size,
                  room=room if i < 3 else 0,
                  rc=said[i].rc if i < len(said) else run.ended)


# --- task 5: E820 ---

def e820_of(page):
    """[(address, size, type)] of a zero page."""
    return [struct.unpack_from("<QQI", page, 0x2D0 + 20 * i) for i in range(min(page[0x1E8], 128))]


def check_map(t, page, ram):
    """ram: [(start, end)] of the slots. The hole for VGA and firmware is none of it."""
    entries = e820_of(page)
    t.require(entries, "E820_EMPTY", count=page[0x1E8])
    for address, size, kind in entries:
        t.require(kind in (1, 2) and size > 0 and address + size <= 1 << 52, "E820_ENTRY_WRONG", address=f"{address:#x}",
                  size=f"{size:#x}", kind=kind)
    for (a, n, _), (b, m, _) in zip(sorted(entries), sorted(entries)[1:]):
        t.require(a + n <= b, "E820_OVERLAP", first=f"{a:#x}..{a + n:#x}", second=f"{b:#x}..{b + m:#x}")
    usable = sorted((a, a + n) for a, n, kind in entries if kind == 1)
    for start, end in usable:
        hole = start < LOW_HOLE[1] and end > LOW_HOLE[0]
        t.require(not hole and any(a <= start and end <= b for a, b in ram), "E820_NOT_RAM", start=f"{start:#x}",
                  end=f"{end:#x}")
    want = sum(b - a for a, b in ram) - (LOW_HOLE[1] - LOW_HOLE[0])
    have = sum(b - a for a, b in usable)
    t.require(have == want, "E820_RAM_MISSING", have=f"{have:#x}", want=f"{want:#x}", count=len(entries))


@test(task=5)
def the_map_tells_all_memory_once(t):
    """E820 tells all memory, no address twice, and neither the hole at 640 KiB nor what is no memory."""
    for slots in ([(0, t.random.randrange(12, 30) * MIB)],
                  [(0, 16 * MIB), (t.random.randrange(20, 40) * MIB, t.random.randrange(41, 60) * MIB),
                   (4 << 30, (4 << 30) + 8 * MIB)]):
        script = "".join(f"mem_add {a:#x} {b - a:#x}\n" for a, b in slots) + "mem_dirty 0x5a\n"
        run = t.rig(script + boot(t, BzImage(t, pref_address=0x200000)) + f"mem_read {ZERO_PAGE:#x} {PAGE}\n",
                    may_fail=True)
        said, read = run.answer("linux_boot"), run.answer("mem_read")
        t.require(said and read, "E820_EMPTY", count=f"nothing ({run.ended})")
        t.require(taken(said), "SOUND_KERNEL_REFUSED", what="an ordinary kernel", rc=told(said))
        page = bytes.fromhex(read["data"])
        t.require(said.rc == 0 or page[0x1E8] != 0x5A, "E820_EMPTY", count="nothing")
        check_map(t, page, slots)
        t.credit(0.5)


# --- task 6: the zero page ---

def field(page, name):
    offset, form = FIELDS[name]
    return struct.unpack_from("<" + form, page, offset)[0]


def page_of(t, image, options="", ram=RAM):
    """The zero page after a boot, and the answer."""
    run = t.rig(f"mem_ram {ram:#x}\nmem_dirty 0x5a\n" + boot(t, image, options) + f"mem_read {ZERO_PAGE:#x} {PAGE}\n",
                may_fail=True)
    said, read = run.answer("linux_boot"), run.answer("mem_read")
    t.require(said and read, "HEADER_NOT_COPIED", name="the page", seen=f"nothing ({run.ended})", want="it")
    t.require(said.rc == 0, "SOUND_KERNEL_REFUSED", what="an ordinary kernel", rc=told(said))
    return bytes.fromhex(read["data"])


@test(task=6)
def the_kernel_finds_its_own_header(t):
    """The kernel's setup header stands in the zero page, as long as it says, and does not reach into what follows."""
    filled = {"type_of_loader", "code32_start", "ramdisk_image", "ramdisk_size", "cmd_line_ptr", "setup_data"}
    for length in (0x62, 0x6A, 0xFF):
        image = BzImage(t, header_length=length)
        page, file = page_of(t, image), image.data()
        for name, (offset, form) in FIELDS.items():
            size = struct.calcsize("<" + form)
            t.require(name in filled or page[offset:offset + size] == file[offset:offset + size], "HEADER_NOT_COPIED",
                      name=name,
                      seen=page[offset:offset + size].hex(" "), want=file[offset:offset + size].hex(" "))
        end = min(image.header_end, 0x290)
        t.require(page[0x264:end] == file[0x264:end], "HEADER_NOT_COPIED",
                  name=f"the header's bytes from 0x264 to {end:#x}",
                  seen=page[0x264:end][:8].hex(" "), want=file[0x264:end][:8].hex(" "))
        t.require(not any(page[end:0x2D0]), "HEADER_OVERRUN", end=f"{end:#x}", said=f"{image.header_end:#x}")
        t.credit(0.3)


@test(task=6)
def the_loader_says_where_things_are(t):
    """Loader, kernel, initrd and command line are told, and nothing of what the file had in these places."""
    line = "+".join("".join(t.random.choice("abcdefgh=") for _ in range(9)) for _ in range(t.random.randrange(2, 9)))
    data = bytes_of(t, t.random.randrange(5000, 9000))
    image = BzImage(t)
    page = page_of(t, image, f"initrd={t.file('initrd', data)} cmdline={line}")
    t.require(field(page, "type_of_loader") == 0xFF, "LOADER_TYPE_MISSING", seen=f"{field(page, 'type_of_loader'):#x}")
    t.require(field(page, "code32_start") == image.gpa, "CODE32_START_WRONG", seen=f"{field(page, 'code32_start'):#x}",
              want=f"{image.gpa:#x}")
    told_initrd = (field(page, "ramdisk_image"), field(page, "ramdisk_size"))
    t.require(told_initrd == (initrd_place(image, len(data)), len(data)), "INITRD_UNTOLD", at=f"{told_initrd[0]:#x}",
              size=told_initrd[1], want=len(data))
    t.require(field(page, "setup_data") == 0, "SETUP_DATA_BELIEVED", seen=f"{field(page, 'setup_data'):#x}")
    pointer = field(page, "cmd_line_ptr")
    run = t.rig(MEMORY + boot(t, image, f"cmdline={line}") + f"mem_read {pointer:#x} {len(line) + 1}\n", may_fail=True)
    read = run.answer("mem_read")
    seen = bytes.fromhex(read["data"]) if read and read.rc == 0 else b""
    t.require(seen[:-1] == line.replace("+", " ").encode(), "CMDLINE_LOST", at=f"{pointer:#x}", seen=repr(seen[:24]))
    t.require(seen[-1:] == b"\0", "CMDLINE_UNTERMINATED", at=f"{pointer:#x}", size=len(line))
    none = page_of(t, image)
    t.require(field(none, "ramdisk_image") == 0 and field(none, "ramdisk_size") == 0, "INITRD_UNTOLD",
              at=f"{field(none, 'ramdisk_image'):#x}", size=field(none, "ramdisk_size"), want=0)


# --- task 7: the entry ---

REPORT = ("entry", "start", "rsi", "rsp", "cr0", "magic", "loader", "code32_start", "cmdline", "cmdline_hash", "initrd",
          "initrd_hash", "e820", "e820_hash")


def hash_of(data):
    value = 5381
    for byte in data:
        value = (value * 33 + byte) & 0xFFFFFFFF
    return value


class Kernel:
    """The kit's kernel with its seeded port and salt, in a bzImage."""

    def __init__(self, t):
        self.port, self.salt = 0x4000 + 16 * t.random.randrange(0x200), t.nonce
        code = t.guest("kernel", base=0x100000, PORT=self.port, SALT=self.salt).data
        self.image = BzImage(t, kernel=code + bytes_of(t, 16 * t.random.randrange(1, 200)))

    def report(self, run):
        """{what: value} of what it told."""
        values = [struct.unpack("<I", e.data[:4])[0] for e in run.trace.exits(vcpu=0)
                  if e.reason == "io" and e.out and e.port == self.port and e.data and len(e.data) >= 4]
        return dict(zip(REPORT, ((v - self.salt) & 0xFFFFFFFF for v in values)))


@test(task=7)
def the_kernel_is_entered_in_64_bit_mode(t):
    """The kernel is entered 0x200 behind its first byte, in long mode, with the zero page in RSI and a stack."""
    kernel = Kernel(t)
    run = t.rig(f"kvm_open\nvm_create\n{MEMORY}vcpu_create\n" + boot(t, kernel.image) + "run 20\nexit\n", may_fail=True)
    said = run.answer("linux_boot")
    t.require(said and said.rc == 0, "SOUND_KERNEL_REFUSED", what="the kit's kernel",
              rc=told(said) if said else run.ended)
    report = kernel.report(run)
    exits = run.trace.exits(vcpu=0)
    want = kernel.image.gpa + 0x200
    t.require(report.get("entry") == 64 and said["rip"] == want, "ENTRY_NOT_64", rip=f"{said['rip']:#x}",
              want=f"{want:#x}",
              seen=f"entry {report['entry']}" if "entry" in report else exits[0].reason if exits else run.ended)
    t.require(report.get("rsi") == ZERO_PAGE, "ZERO_PAGE_LOST", rsi=f"{said['rsi']:#x}", want=f"{ZERO_PAGE:#x}")
    rsp = said["rsp"]
    t.require(0x1000 <= rsp < LOW_HOLE[0] and not ZERO_PAGE < rsp <= ZERO_PAGE + PAGE, "STACK_MISSING", rsp=f"{rsp:#x}")
    t.require(report.get("e820_hash") is not None, "STACK_MISSING", rsp=f"{rsp:#x}")


# --- the challenge ---

def real_kernel():
    """A kernel of this machine's that can be read, or None."""
    found = [p for p in sorted(glob.glob("/boot/vmlinuz-*") + glob.glob("/vmlinuz")) if os.access(p, os.R_OK)]
    named = os.environ.get("HVLAB_KERNEL")
    return named if named and os.access(named, os.R_OK) else found[-1] if found else None


@test(task=7)
def a_real_kernel_says_its_name(t):
    """Linux itself, as this machine has it, boots until it tells its version."""
    path = real_kernel()
    t.require(path, "NOT_AS_EXPECTED",
              message="not tried: no kernel of this machine can be read (/boot/vmlinuz-*, $HVLAB_KERNEL)")
    with open(path, "rb") as file:
        data = file.read()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        flags = file.read()
    t.require(" svm" in flags or " vmx" in flags, "NOT_AS_EXPECTED",
              message="not tried: this machine's KVM runs kernels in software, which takes minutes")
    run = t.hvrun(["--mem", "256M", "--timeout", 15 * STRETCH, "--append",
                   "earlyprintk=serial,ttyS0,115200 console=ttyS0 panic=-1",
                   t.file("vmlinuz", data)], may_fail=True)
    t.require(b"Linux version " in run.stdout, "SOUND_KERNEL_REFUSED", what=os.path.basename(path),
              rc=(run.stderr.decode(errors="replace").strip().splitlines() or [run.ended])[-1][:200])
