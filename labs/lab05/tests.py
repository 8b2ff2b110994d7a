"""Lab 5: images made anew for each run, sound and hostile, and what the student's loader does with them.

A hostile image comes with a sound twin, from which it differs in one number: who refuses everything refuses nothing.
Guest memory is filled with hlt (0xf4) before an image is loaded: what a loader forgets to zero or writes to the wrong
place shows, and a guest that is entered at a wrong address stops there and then.
"""
import struct

from kit.testing import test

RAM = 0x400000          # of the rig's memory: 4 MiB
HLT = 0xF4
PT_NULL, PT_LOAD, PT_NOTE = 0, 1, 4
EBADMSG, ENOMEM = -74, -12
TOP32, TOP64 = 1 << 32, 1 << 64


# --- images ---

class Image:
    """An ELF file under construction. load() adds a segment, data() gives the bytes.

    head overrides fields of the ELF header: phoff, phnum, phentsize, entry.
    """

    def __init__(self, bits=64, table_at=None, entry=None):
        self.bits = bits
        self.headers = []               # dicts of p_* without the p_
        self.pieces = []                # (offset, bytes)
        self.table_at = table_at or (64 if bits == 64 else 52)
        self.room = 8                   # program headers that the table has room for
        self.end = 0
        self.head = {}
        if entry is not None:
            self.head["entry"] = entry

    def put(self, data):
        """Bytes into the file; returns their offset."""
        entry = 56 if self.bits == 64 else 32
        offset = max(self.end, self.table_at + self.room * entry)
        self.pieces.append((offset, data))
        self.end = offset + len(data)
        return offset

    def load(self, data, paddr, vaddr=None, memsz=None, **fields):
        """A PT_LOAD segment with these bytes. fields override what its header says."""
        header = {"type": PT_LOAD, "offset": self.put(data), "vaddr": paddr if vaddr is None else vaddr,
                  "paddr": paddr, "filesz": len(data), "memsz": len(data) if memsz is None else memsz,
                  "flags": 7, "align": 1}
        header.update(fields)
        self.headers.append(header)
        return header

    def add(self, **fields):
        """A header of any kind."""
        header = {"type": PT_NULL, "offset": 0, "vaddr": 0, "paddr": 0, "filesz": 0, "memsz": 0, "flags": 4, "align": 1}
        header.update(fields)
        self.headers.append(header)
        return header

    def _header(self, h):
        if self.bits == 64:
            return struct.pack("<IIQQQQQQ", h["type"], h["flags"], h["offset"], h["vaddr"], h["paddr"], h["filesz"],
                               h["memsz"], h["align"])
        return struct.pack("<IIIIIIII", h["type"], h["offset"], h["vaddr"], h["paddr"], h["filesz"], h["memsz"],
                           h["flags"], h["align"])

    def data(self):
        wide = self.bits == 64
        size, entry_size = (64, 56) if wide else (52, 32)
        ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
        head = {"entry": self.headers[0]["vaddr"] if self.headers else 0, "phoff": self.table_at,
                "phentsize": entry_size, "phnum": len(self.headers)}
        head.update(self.head)
        out = bytearray(ident + struct.pack("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", 2, 62 if wide else 3, 1,
                                            head["entry"], head["phoff"], 0, 0, size, head["phentsize"],
                                            head["phnum"], 0, 0, 0))
        table = b"".join(self._header(h) for h in self.headers)
        out = out.ljust(max(self.end, self.table_at + len(table)), b"\xEE")
        out[self.table_at:self.table_at + len(table)] = table
        for offset, data in self.pieces:
            out[offset:offset + len(data)] = data
        return bytes(out)


def some_bytes(t, length):
    """Seeded bytes without the one that memory is filled with, and without zeros."""
    return bytes(t.random.choice([b for b in range(1, 256) if b != HLT]) for _ in range(length))


def page(t, low=0x100, high=0x200):
    """A seeded page's address, 1 MiB or above."""
    return t.random.randrange(low, high) << 12


# --- asking the rig ---

START = "kvm_open\nvm_create\nmem_ram 0x400000\nmem_dirty 0xf4\n"


def ask(t, script, **how):
    """Runs the rig with memory that is filled with hlt."""
    return t.rig(START + script, **how)


def opened(t, run, what="sound"):
    """The answer to elf_open, which a sound image has to pass."""
    answer = run.answer("elf_open")
    t.require(answer is not None and answer.rc == 0, "SOUND_IMAGE_REFUSED", what=what,
              rc=answer.rc if answer else None, error=answer.error if answer else "nothing")
    return answer


def try_open(t, images):
    """elf_open of each image in one run; their answers, in order. Fewer when the rig died on the way."""
    script = "".join(f"elf_open {t.file(f'image{i}.elf', image.data())}\n" for i, image in enumerate(images))
    return t.rig(script, may_fail=True)


def refused(answer):
    return answer.rc == EBADMSG and answer.get("unsafe")


def told(answer):
    """An answer that is no refusal of a damaged image, in words."""
    if answer.rc == EBADMSG:
        return f"{EBADMSG}, but without hv_fail_unsafe: hvrun's status would not be 3"
    if answer.rc is not None and answer.rc < 0:
        return f"{answer.rc}; a damaged image is {EBADMSG}, EBADMSG"
    return answer.rc


def check_refusals(t, twin, cases, share=1.0, what="the sound twin of the damaged ones"):
    """Each case is (image, id, seen). The sound twin must be taken, each case refused as damaged, each for its part of
    share."""
    run = try_open(t, [twin] + [image for image, _, _ in cases])
    t.require(run.answers and run.answers[0].rc == 0, "SOUND_IMAGE_REFUSED", what=what,
              rc=run.answers[0].rc if run.answers else None,
              error=run.answers[0].error if run.answers else "nothing")
    good = 0
    failed = None
    for number, (_, name, seen) in enumerate(cases, 1):
        if number < len(run.answers) and refused(run.answers[number]):
            good += 1
            continue
        crashed = number >= len(run.answers)
        rc = "a crash" if crashed else told(run.answers[number])
        failed = failed or (name, {"rc": rc, **seen})
        if crashed:
            break
    t.credit(share * good / len(cases))
    if failed:
        t.fail(failed[0], **failed[1])


def hexed(value):
    return f"{value:#x}"


# --- task 1: the table ---

@test(task=1)
def the_program_headers_are_found(t):
    """The program headers are found wherever the file keeps them."""
    for bits in (64, 32):
        image = Image(bits, table_at=64 + 8 * t.random.randrange(1, 40))
        base = page(t)
        for i in range(t.random.randrange(2, 7)):
            image.load(some_bytes(t, 32), base + i * 0x1000)
        run = ask(t, f"elf_open {t.file(f'table{bits}.elf', image.data())}\n")
        answer = opened(t, run, f"a {bits}-bit image whose table is at {image.table_at:#x}")
        right = {"phnum": len(image.headers), "phoff": image.table_at, "phentsize": 56 if bits == 64 else 32,
                 "entry": base}
        for field, value in right.items():
            t.require(answer.get(field) == value, "HEADERS_NOT_KEPT", field=field, value=hexed(answer.get(field) or 0),
                      right=hexed(value), bits=bits)
        t.credit(0.5)


def with_headers(t, count, base):
    """An image of so many program headers, all there and all sound."""
    image = Image(64)
    image.room = count
    image.load(some_bytes(t, 64), base)
    for _ in range(count - 1):
        image.add(type=PT_NULL)
    return image


@test(task=1)
def a_table_that_lies_is_refused(t):
    """A table of program headers that can't be is refused, and nothing is written past its end."""
    base = page(t)
    cases = []
    for size in (32, 64):
        image = with_headers(t, 2, base)
        image.head["phentsize"] = size
        cases.append((image, "PHENTSIZE_IGNORED", {"size": size}))
    for offset in (len(with_headers(t, 2, base).data()) - 56, TOP64 - 56 * t.random.randrange(1, 3)):
        image = with_headers(t, 2, base)
        image.head["phoff"] = offset
        cases.append((image, "PHDR_OVERFLOW", {"what": "e_phoff + e_phnum * e_phentsize", "at": hexed(offset),
                                               "size": hexed(2 * 56)}))
    for count in (129, t.random.randrange(130, 500)):
        cases.append((with_headers(t, count, base), "PHDRS_TOO_MANY", {"count": count}))
    check_refusals(t, with_headers(t, 128, base), cases, what="128 program headers, as many as there is room for")


# --- task 2: into memory ---

@test(task=2)
def bytes_land_at_the_physical_address(t):
    """A segment's bytes land at p_paddr, not at p_vaddr."""
    for bits in (64, 32):
        image = Image(bits)
        first, second = page(t, 0x100, 0x140), page(t, 0x180, 0x1C0)
        shift = page(t, 0x100, 0x140)
        parts = [(some_bytes(t, t.random.randrange(40, 200)), at + t.random.randrange(0, 64)) for at in (first, second)]
        for data, at in parts:
            image.load(data, at, vaddr=at + shift)
        mode = "long" if bits == 64 else "protected"
        script = f"elf_open {t.file(f'paddr{bits}.elf', image.data())}\nelf_load {mode}\n"
        for data, at in parts:
            script += f"mem_read {at} {len(data)}\nmem_read {at + shift} {len(data)}\n"
        run = ask(t, script)
        opened(t, run)
        load = run.answer("elf_load")
        t.require(load.rc == 0, "SOUND_IMAGE_REFUSED", what="an image with p_vaddr above p_paddr", rc=load.rc,
                  error=load.error)
        reads = [bytes.fromhex(a["data"]) for a in run.answers if a.command == "mem_read"]
        for i, (data, at) in enumerate(parts):
            t.require(reads[2 * i + 1] != data, "VADDR_FOR_PADDR", paddr=hexed(at), vaddr=hexed(at + shift))
            t.require(reads[2 * i] == data, "SEGMENT_NOT_LOADED", paddr=hexed(at), seen=reads[2 * i][:8].hex(" "),
                      right=data[:8].hex(" "))
        t.credit(0.5)


@test(task=2)
def bss_is_zeroed_and_no_more(t):
    """What the file has no bytes for is zero, and memory behind the segment is left alone."""
    filesz, zeros = t.random.randrange(20, 100), t.random.randrange(100, 6000)
    at = page(t) + t.random.randrange(0, 100)
    image = Image(64)
    data = some_bytes(t, filesz)
    image.load(data, at, vaddr=at + 0x400000, memsz=filesz + zeros)
    image.put(some_bytes(t, zeros))             # what follows in the file belongs to nobody
    behind = at + filesz + zeros
    run = ask(t, f"elf_open {t.file('bss.elf', image.data())}\nelf_load long\n"
                 f"mem_read {at} {filesz}\nmem_read {at + filesz} {zeros}\nmem_read {behind} {filesz + zeros}\n")
    opened(t, run)
    head, bss, behind = [bytes.fromhex(a["data"]) for a in run.answers if a.command == "mem_read"]
    following = image.pieces[1][1]
    t.require(bss[:16] != following[:16], "LOADED_PAST_FILE_END", filesz=filesz, memsz=filesz + zeros)
    t.require(any(head), "SEGMENT_NOT_LOADED", paddr=hexed(at), seen=head[:8].hex(" "), right=data[:8].hex(" "))
    dirty = next((i for i, b in enumerate(bss) if b != 0), None)
    t.require(dirty is None, "BSS_NOT_ZEROED", offset=filesz + (dirty or 0), value=hexed(bss[dirty or 0]),
              filesz=filesz, memsz=filesz + zeros)
    touched = sum(b != HLT for b in behind)
    t.require(touched == 0, "ZEROED_TOO_MUCH", count=touched, memsz=filesz + zeros)
    t.require(head == data, "SEGMENT_NOT_LOADED", paddr=hexed(at), seen=head[:8].hex(" "), right=data[:8].hex(" "))


# --- task 3: the entry ---

@test(task=3)
def the_entry_is_made_physical(t):
    """The entry point, a virtual address, becomes the physical one of the same byte."""
    for bits, high in ((64, 0xFFFFFFFF80000000), (32, 0xC0000000)):
        first, second = page(t, 0x100, 0x180), page(t, 0x180, 0x200)
        image = Image(bits)
        image.load(some_bytes(t, 64), first, vaddr=high + first)
        image.load(some_bytes(t, 256), second, vaddr=high + second + 0x10000)
        inside = t.random.randrange(1, 256)
        image.head["entry"] = high + second + 0x10000 + inside
        run = ask(t, f"elf_open {t.file(f'entry{bits}.elf', image.data())}\nelf_entry\n")
        opened(t, run)
        answer = run.answer("elf_entry")
        t.require(answer.rc == 0 and answer["gpa"] == second + inside, "ENTRY_NOT_TRANSLATED",
                  entry=hexed(image.head["entry"]), gpa=hexed(answer["gpa"]) if answer.rc == 0 else "nothing",
                  right=hexed(second + inside))
        t.credit(0.5)


@test(task=3)
def an_entry_without_code_is_refused(t):
    """An entry point where the file has no bytes is refused: behind a segment, and in .bss."""
    at, shift = page(t), 0xFFFFFFFF80000000
    filesz, memsz = 128, 128 + t.random.randrange(16, 4096)
    scripts = ""
    for offset in (filesz - 1, filesz + t.random.randrange(0, memsz - filesz), memsz):
        image = Image(64, entry=shift + at + offset)
        image.load(some_bytes(t, filesz), at, vaddr=shift + at, memsz=memsz)
        scripts += f"elf_open {t.file(f'entry{offset}.elf', image.data())}\nelf_entry\n"
    run = ask(t, scripts)
    opened(t, run)
    entries = [a for a in run.answers if a.command == "elf_entry"]
    t.require(entries[0].rc == 0 and entries[0]["gpa"] == at + filesz - 1, "ENTRY_NOT_TRANSLATED",
              entry=hexed(shift + at + filesz - 1), gpa=hexed(entries[0]["gpa"]), right=hexed(at + filesz - 1))
    for answer, where in zip(entries[1:], (".bss, where the file has no bytes", "no segment at all")):
        t.require(answer.rc != 0, "ENTRY_WITHOUT_CODE", where=where, gpa=hexed(answer["gpa"]))


def guest_image(t, code, bits, low, high):
    """A kernel linked high and loaded low, with .bss that it adds up and data in a second segment."""
    image = Image(bits, table_at=0x100)
    image.load(code, low, vaddr=(high + low) % (TOP64 if bits == 64 else TOP32), memsz=len(code) + 0x2000)
    return image


@test(task=3)
def a_kernel_of_the_higher_half_runs(t):
    """A kernel that is linked high and loaded low runs, in 64 bits and in 32."""
    for bits, high in ((64, 0xFFFFFFFF80000000), (32, 0xC0000000)):
        low = page(t)
        guest = t.guest("where", BITS=bits, NONCE=t.nonce, BSS=0x2000)
        image = guest_image(t, guest.data, bits, low, high)
        run = t.rig(START + f"vcpu_create\nelf_boot {t.file(f'where{bits}.elf', image.data())}\nrun 40\n")
        boot = run.answer("elf_boot")
        t.require(boot.rc == 0, "SOUND_IMAGE_REFUSED", what=f"a {bits}-bit kernel of the higher half", rc=boot.rc,
                  error=boot.error)
        exits = run.trace.exits(vcpu=0)
        said = b"".join(e.data for e in exits if e.reason == "io" and e.out)
        t.require(boot["rip"] == low, "ENTRY_NOT_TRANSLATED", entry=hexed(image.headers[0]["vaddr"]),
                  gpa=hexed(boot["rip"]), right=hexed(low))
        t.require(said[:4] == struct.pack("<I", t.nonce), "SEGMENT_NOT_LOADED", paddr=hexed(low),
                  seen=said[:4].hex(" ") or "no byte sent", right=struct.pack("<I", t.nonce).hex(" "))
        dirty = int.from_bytes(said[8:12].ljust(4, b"\xff"), "little")
        t.require(dirty == 0, "BSS_NOT_ZEROED", offset=len(guest.data), value=hexed(HLT), filesz=len(guest.data),
                  memsz=len(guest.data) + 0x2000)
        t.credit(0.5)


# --- task 4: believe no number ---

def one_segment(t, bits=64, **fields):
    image = Image(bits)
    header = image.load(some_bytes(t, 64), page(t), memsz=256)
    header.update(fields)
    return image


@test(task=4)
def segments_past_the_files_end_are_refused(t):
    """A segment whose bytes aren't in the file is refused, and so is one whose sum wraps."""
    twin = one_segment(t)
    size = len(twin.data())
    cases = []
    for offset, filesz in ((size - 63, 64), (size + t.random.randrange(1, 1 << 30), 1), (size - 64, 65)):
        cases.append((one_segment(t, offset=offset, filesz=filesz, memsz=256), "SEGMENT_PAST_FILE_END",
                      {"offset": hexed(offset), "filesz": hexed(filesz), "size": hexed(size)}))
    for below in (t.random.randrange(1, 64), t.random.randrange(0x1000, 0x100000)):
        offset, filesz = TOP64 - below, below + t.random.randrange(0, 64)
        cases.append((one_segment(t, offset=offset, filesz=filesz, memsz=filesz), "PHDR_OVERFLOW",
                      {"what": "p_offset + p_filesz", "at": hexed(offset), "size": hexed(filesz)}))
    notes = one_segment(t)
    size = len(notes.data())
    notes.add(type=PT_NOTE, offset=size - 8, filesz=24, memsz=24)
    cases.append((notes, "SEGMENT_PAST_FILE_END", {"offset": hexed(size - 8) + " (PT_NOTE)", "filesz": hexed(24),
                                                   "size": hexed(size)}))
    check_refusals(t, twin, cases)


@test(task=4)
def more_file_than_memory_is_refused(t):
    """A segment with more bytes in the file than in memory is refused."""
    twin = one_segment(t, memsz=64)
    cases = [(one_segment(t, memsz=memsz), "FILESZ_OVER_MEMSZ", {"filesz": 64, "memsz": memsz})
             for memsz in (63, t.random.randrange(1, 63))]
    check_refusals(t, twin, cases)


@test(task=4)
def addresses_that_wrap_are_refused(t):
    """A segment that wraps around the end of its address space is refused: 2^64, and 2^32 in a 32-bit file."""
    base = page(t)
    cases = []
    for bits, top in ((64, TOP64), (32, TOP32)):
        for which in ("paddr", "vaddr"):
            memsz = t.random.randrange(0x100, 0x10000)
            start = top - t.random.randrange(1, memsz)
            # The other address stays harmless, so that this one alone is wrong.
            image = one_segment(t, bits, paddr=base, vaddr=base, memsz=memsz)
            image.headers[0][which] = start
            cases.append((image, "PADDR_WRAPS", {"which": f"p_{which}", "at": hexed(start), "memsz": hexed(memsz),
                                                 "bits": bits}))
    check_refusals(t, one_segment(t, paddr=base, vaddr=base), cases)


@test(task=4)
def a_hostile_image_never_runs(t):
    """hvrun ends with status 3 on a hostile image, and its guest executes not one instruction."""
    guest = t.guest("where", BITS=64, NONCE=t.nonce, BSS=0)
    low = page(t)
    for hostile in (False, True):
        image = guest_image(t, guest.data, 64, low, 0)
        image.headers[0]["memsz"] = len(guest.data)
        if hostile:
            image.load(some_bytes(t, 64), low + 0x10000, offset=TOP64 - 0x1000, filesz=0x1040, memsz=0x1040)
        path = t.file(f"hostile{int(hostile)}.elf", image.data())
        run = t.hvrun(["--irqchip", "none", "--mem", "4M", "--timeout", "2", path], may_fail=hostile)
        ran = len(run.trace.exits())
        if not hostile:
            t.require(ran > 0 and run.status == 0, "SOUND_IMAGE_REFUSED", what="the sound twin", rc=run.status,
                      error=run.stderr.decode(errors="replace").strip()[:200])
            continue
        ended = f"status {run.status}" if run.ended == "exit" else f"signal {run.signal}" if run.signal else run.ended
        t.require(ran == 0 and run.status == 3, "HOSTILE_IMAGE_RAN", ended=ended, runs=ran)


# --- task 5: one byte, one source ---

@test(task=5)
def segments_that_share_memory_are_refused(t):
    """Two segments that want the same byte are refused; neighbours are not."""
    base = page(t, 0x110, 0x180)

    def pair(at, size, turned=False):
        """A segment of 0x1000 bytes at base, and one more behind or before it in the table."""
        image = Image(64, entry=base)
        image.load(some_bytes(t, 64), base, memsz=0x1000)
        image.load(some_bytes(t, 16), at, vaddr=0x40000000, memsz=size)
        if turned:
            image.headers.reverse()
        return image

    places = [(base, 0x1000), (base + 0xFFF, 16), (base - 15, 16), (base + t.random.randrange(1, 0xE00), 0x100),
              (base - 0x1000, 0x3000)]
    cases = [(pair(at, size, turned), "SEGMENTS_OVERLAP_ACCEPTED",
              {"first": f"{base:#x} to {base + 0xfff:#x}", "second": f"{at:#x} to {at + size - 1:#x}"})
             for at, size in places for turned in (False, True)]
    check_refusals(t, pair(base + 0x4000, 16), cases, share=0.7)
    neighbours = try_open(t, [pair(base + 0x1000, 16), pair(base - 16, 16), pair(base - 16, 16, True)])
    for answer in neighbours.answers:
        t.require(answer.rc == 0, "NEIGHBOURS_REFUSED", error=answer.error)


# --- task 6: all before the first ---

@test(task=6)
def a_refused_image_leaves_memory_alone(t):
    """When one segment can't be placed, none is written."""
    base = page(t)
    for bad, error in ((RAM - 0x10, ENOMEM), (1 << 40, ENOMEM), (0x8000, -98)):
        image = Image(64)
        image.load(some_bytes(t, 64), base)
        image.load(some_bytes(t, 64), bad)
        run = ask(t, f"elf_open {t.file(f'half{bad}.elf', image.data())}\nelf_load long\nmem_read {base} 64\n"
                     f"mem_read {0x8000} 64\n")
        opened(t, run)
        load = run.answer("elf_load")
        t.require(load.rc < 0, "PLACE_NOT_CHECKED", at=hexed(bad), rc=load.rc)
        written = [a for a in run.answers if a.command == "mem_read" and set(bytes.fromhex(a["data"])) != {HLT}]
        t.require(not written, "HALF_LOADED", bad=hexed(bad), first=hexed(base))
        t.require(load.rc == error, "PLACE_NOT_CHECKED", at=hexed(bad), rc=load.rc)


@test(task=6)
def the_end_is_above_everything(t):
    """The end that the loader reports is the first byte above the highest segment, .bss included."""
    low, high = page(t, 0x100, 0x180), page(t, 0x180, 0x200)
    for order in (0, 1):
        image = Image(64)
        memsz = t.random.randrange(0x1000, 0x20000)
        image.load(some_bytes(t, 64), high, memsz=memsz)
        image.load(some_bytes(t, 64), low)
        if order:
            image.headers.reverse()
        run = ask(t, f"elf_open {t.file(f'end{order}.elf', image.data())}\nelf_load long\n")
        opened(t, run)
        load = run.answer("elf_load")
        t.require(load.rc == 0 and load["end"] == high + memsz, "END_TOO_LOW", end=hexed(load["end"]),
                  right=hexed(high + memsz), rc=load.rc)
        t.credit(0.5)


# --- challenge ---

@test(task=4)
def the_top_of_the_address_space_is_no_wrap(t):
    """Challenge: a segment that ends exactly at 2^64 (or 2^32) doesn't wrap."""
    images = []
    for bits, top in ((64, TOP64), (32, TOP32)):
        memsz = t.random.randrange(64, 0x4000)
        images.append(one_segment(t, bits, vaddr=top - memsz, memsz=memsz))
        images.append(one_segment(t, bits, paddr=top - memsz, memsz=memsz))
    run = try_open(t, images)
    hostile = one_segment(t, vaddr=TOP64 - 255, memsz=256)
    check_refusals(t, one_segment(t), [(hostile, "PADDR_WRAPS", {"which": "p_vaddr", "at": hexed(TOP64 - 255),
                                                                 "memsz": "0x100", "bits": 64})], share=0)
    for answer in run.answers:
        t.require(answer.rc == 0, "TOP_TAKEN_FOR_WRAP", error=answer.error)
