"""Lab 5's tests that students don't have: damage drawn by lot, and whole machines."""
import struct

from kit.testing import test
from lab05.tests import EBADMSG, TOP32, TOP64, Image, guest_image, hexed, page, some_bytes

LIMITS = {64: TOP64, 32: TOP32}
ROUNDS = 60


def verdict(image, size):
    """What is wrong with an image of two segments, as an id and a reason; None for a sound one."""
    top = LIMITS[image.bits]
    for h in image.headers:
        if h["offset"] + h["filesz"] > size:
            return "PHDR_OVERFLOW" if h["offset"] + h["filesz"] >= TOP64 else "SEGMENT_PAST_FILE_END"
        if h["filesz"] > h["memsz"]:
            return "FILESZ_OVER_MEMSZ"
        if h["memsz"] and max(h["paddr"], h["vaddr"]) + h["memsz"] > top:
            return "PADDR_WRAPS"
    a, b = image.headers
    if a["memsz"] and b["memsz"] and a["paddr"] < b["paddr"] + b["memsz"] and b["paddr"] < a["paddr"] + a["memsz"]:
        return "SEGMENTS_OVERLAP_ACCEPTED"
    return None


def damaged(t, bits):
    """An image with one field drawn by lot, more often near a border than not. What ends exactly at the top of its
    address space is left to the challenge."""
    base = page(t, 0x110, 0x180)
    image = Image(bits)
    for i in range(2):
        image.load(some_bytes(t, 48), base + i * 0x1000, vaddr=0x40000000 + base + i * 0x2000, memsz=0x100)
    size, top = len(image.data()), LIMITS[bits]
    field = t.random.choice(("offset", "filesz", "memsz", "paddr", "vaddr"))
    near = {"offset": (0, size - 48, size, top - 48), "filesz": (0, 48, 0x100, top - 1),
            "memsz": (48, 0x1000, top - base), "paddr": (base, base + 0x1000, top - 0x100),
            "vaddr": (0, top - 0x100)}[field]
    value = t.random.choice(near) + t.random.choice((-1, 0, 0, 1, t.random.randrange(-300, 300)))
    header = image.headers[t.random.randrange(2)]
    header[field] = value % top
    if top in (header["paddr"] + header["memsz"], header["vaddr"] + header["memsz"]):
        header[field] = (value + 1) % top
    return image, field, header[field]


@test(task=5)
def random_damage_is_judged_right(t):
    """Sixty images with one number drawn by lot are taken or refused as they should be."""
    images = [damaged(t, t.random.choice((64, 64, 32))) for _ in range(ROUNDS)]
    script = "".join(f"elf_open {t.file(f'lot{i}.elf', image.data())}\n" for i, (image, _, _) in enumerate(images))
    run = t.rig(script)
    good, first = 0, None
    for answer, (image, field, value) in zip(run.answers, images):
        wrong = verdict(image, len(image.data()))
        if (answer.rc == EBADMSG) == (wrong is not None) and (wrong or answer.rc == 0):
            good += 1
        elif not first:
            first = (wrong, field, value, answer, image)
    t.credit(max(0.0, 2 * good / ROUNDS - 1))   # who takes all, or none, gets little
    if not first:
        return
    wrong, field, value, answer, image = first
    seen = {"rc": answer.rc, "error": answer.error, "bits": image.bits, "which": f"p_{field}", "at": hexed(value),
            "what": f"p_{field} {value:#x}", "size": hexed(len(image.data())), "offset": hexed(value),
            "filesz": hexed(value), "memsz": hexed(value), "first": "two segments", "second": f"p_{field} {value:#x}"}
    t.fail(wrong or "SOUND_IMAGE_REFUSED", **seen)


@test(task=3)
def a_whole_machine_boots_it(t):
    """hvrun boots a kernel of the higher half, whose .bss is large, with a second segment below the first."""
    for bits, high in ((64, 0xFFFFFFFF80000000), (32, 0xC0000000)):
        low = page(t, 0x180, 0x1F0)
        guest = t.guest("where", BITS=bits, NONCE=t.nonce ^ bits, BSS=0x8000)
        image = guest_image(t, guest.data, bits, low, high)
        image.headers[0]["memsz"] = len(guest.data) + 0x8000
        image.load(some_bytes(t, 64), low - 0x40000, vaddr=high + low - 0x40000)
        run = t.hvrun(["--irqchip", "none", "--mem", "8M", "--timeout", "3", t.file(f"boot{bits}.elf", image.data())])
        right = struct.pack("<III", t.nonce ^ bits, low, 0)
        t.require(run.status != 3, "SOUND_IMAGE_REFUSED", what=f"a {bits}-bit kernel with .bss and a second segment",
                  rc=run.status, error=run.stderr.decode(errors="replace").strip()[:200])
        t.require(run.stdout[:4] == right[:4], "SEGMENT_NOT_LOADED", paddr=hexed(low), right=right[:4].hex(" "),
                  seen=run.stdout[:4].hex(" ") or "no byte sent")
        t.require(run.stdout[4:8] == right[4:8], "ENTRY_NOT_TRANSLATED", entry=hexed(high + low),
                  gpa=hexed(int.from_bytes(run.stdout[4:8], "little")), right=hexed(low))
        t.require(run.stdout == right, "BSS_NOT_ZEROED", offset=len(guest.data), value="not 0", filesz=len(guest.data),
                  memsz=len(guest.data) + 0x8000)
        t.credit(0.5)
