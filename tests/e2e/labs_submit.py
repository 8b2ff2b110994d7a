#!/usr/bin/env python3
"""Submissions: the same files make the same archive, and a hostile archive is refused by name and leaves nothing."""
# kvm: none
import gzip
import hashlib
import io
import resource
import tarfile

from labs_staff_lib import *

from kit import submit

SOURCE = {"core/kvm/kvm.c": b"int a;\n", "core/kvm/vcpu.c": b"int b;\n" * 300}
os.environ["SOURCE_DATE_EPOCH"] = "1800000000"
for path, data in SOURCE.items():
    target = TMP / "work" / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
paths = {p: TMP / "work" / p for p in SOURCE}


def hand_in(folder, user="ada", result=None):
    (TMP / folder).mkdir()
    return submit.submit(1, "First exit", paths, user, "2027S", "0.1.0", TMP / folder, result)


# --- an honest one --------------------------------------------------------------------------------------------------
path, manifest = hand_in("one", result=made_up())
validate("manifest", manifest, "a manifest")
validate("manifest", hand_in("ungraded")[1], "one without a grading")
check(path.name == "lab01-ada.tar.gz" and [p.name for p in (TMP / "one").iterdir()] == [path.name], "one file, named")
check(manifest["last_score"] == {"score": 6.5, "max": 16, "extra": 2}, "the last score goes along")
again, _ = hand_in("two", result=made_up())
check(path.read_bytes() == again.read_bytes(), "the same files make the same bytes")
check(hand_in("three", "../../e vil\n")[0].parent == TMP / "three", "a user's name leads nowhere")
done = run("tar", "-tvzf", path)
check([line.split()[-1] for line in done.stdout.splitlines()] ==
      ["lab01/manifest.json", "lab01/core/kvm/kvm.c", "lab01/core/kvm/vcpu.c"], "tar lists it", done.stdout)
got = submit.unpack(path, TMP / "out", 1, list(SOURCE))
check(got == manifest and all((TMP / "out" / p).read_bytes() == d for p, d in SOURCE.items()), "and back")
done = run("python3", "-m", "kit.submit", path, cwd=SRC / "labs")
check(json.loads(done.stdout) == manifest, "the graders' command shows a manifest")
try:
    submit.unpack(path, TMP / "out")
    check(False, "a folder that is there is left alone")
except FileExistsError:
    check(True, "a folder that is there is left alone")

# Someone packs it anew with tar: folders among the members, other owners and times, GNU's or pax's headers.
(TMP / "hand").mkdir()
run("tar", "-xzf", path, "-C", TMP / "hand")
for kind in ("gnu", "ustar", "pax", "v7"):
    run("tar", f"--format={kind}", "-czf", TMP / f"{kind}.tgz", "-C", TMP / "hand", "./lab01")
    check(submit.read(TMP / f"{kind}.tgz", 1, list(SOURCE))[0] == manifest, f"packed anew by tar as {kind}")


# --- hostile and broken ones ------------------------------------------------------------------------------------------
def archive(name, *members, gz=True, tail=b""):
    """An archive of (name, data or a TarInfo's changes) after an honest manifest and files."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for inside, content in members:
            info = tarfile.TarInfo(inside)
            if isinstance(content, dict):
                for key, value in content.items():
                    setattr(info, key, value)
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    data = whole.getvalue() + tail
    (TMP / name).write_bytes(gzip.compress(data) if gz else data)
    return TMP / name


def honest(**changes):
    files = {p: hashlib.sha256(d).hexdigest() for p, d in SOURCE.items()}
    text = dict(manifest, files=files)
    text.update(changes)
    return [("lab01/manifest.json", json.dumps(text).encode())] + [(f"lab01/{p}", d) for p, d in SOURCE.items()]


whole = path.read_bytes()
plain = bytearray(gzip.decompress(whole))
negative = bytearray(plain)
negative[124:136] = b"-0000000777\0"
huge = bytearray(plain)
huge[124:136] = b"77777777777\0"
base256 = bytearray(plain)
base256[124:136] = b"\x80" + b"\xff" * 11
for block in (negative, huge, base256):
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])

bomb = io.BytesIO()
with gzip.GzipFile(fileobj=bomb, mode="wb", compresslevel=9) as out:
    for _ in range(300):
        out.write(bytes(1 << 20))
(TMP / "bomb").write_bytes(bomb.getvalue())
(TMP / "big").write_bytes(os.urandom(1 << 20) * 5)
(TMP / "cut").write_bytes(whole[:len(whole) // 2])
(TMP / "empty").write_bytes(b"")
(TMP / "text").write_text("hello")
for name, data in (("negative", negative), ("huge", huge), ("base256", base256)):
    (TMP / name).write_bytes(gzip.compress(bytes(data)))
flipped = bytearray(whole)
flipped[len(flipped) // 2] ^= 0x10
(TMP / "flipped").write_bytes(bytes(flipped))

deep = b"[" * 100_000
cases = [
    ("Unsafe", "a symbolic link", archive("a1", *honest(), ("lab01/core/x.c", {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"}))),
    ("Unsafe", "a hard link", archive("a2", *honest(), ("lab01/core/x.c", {"type": tarfile.LNKTYPE, "linkname": "lab01/manifest.json"}))),
    ("Unsafe", "a device", archive("a3", *honest(), ("lab01/core/x.c", {"type": tarfile.BLKTYPE}))),
    ("Unsafe", "a FIFO", archive("a4", *honest(), ("lab01/core/x.c", {"type": tarfile.FIFOTYPE}))),
    ("Unsafe", "a way up", archive("a5", *honest(), ("lab01/../../core/x.c", b"x"))),
    ("Unsafe", "an absolute path", archive("a6", *honest(), ("/tmp/x.c", b"x"))),
    ("Unsafe", "a sparse file", archive("a7", *honest(), ("lab01/core/x.c", {"type": tarfile.GNUTYPE_SPARSE}))),
    ("Unsafe", "a long name", archive("a8", *honest(), ("lab01/" + "x" * 300, b"x"))),
    ("Unsafe", "a file twice", archive("a9", *honest(), ("lab01/core/kvm/kvm.c", b"other"))),
    ("Unsafe", "too many members", archive("b1", *honest(), *((f"lab01/core/x{i}.c", b"") for i in range(300)))),
    ("Unsafe", "a big file", archive("b2", *honest(), ("lab01/core/kvm/x.c", bytes(2 << 20)))),
    ("Unsafe", "a bomb of 300 MB", TMP / "bomb"),
    ("Unsafe", "an archive of 5 MB", TMP / "big"),
    ("Damaged", "a file of no lab", archive("b3", *honest(), ("lab01/core/kvm/kit.py", b"x"))),
    ("Damaged", "another lab's file", archive("b4", *honest(), ("lab01/core/kvm/irq.c", b"x"))),
    ("Damaged", "another lab", archive("b5", *honest(lab=2))),
    ("Damaged", "a file changed after", archive("b6", *honest(files={p: "0" * 64 for p in SOURCE}))),
    ("Damaged", "a missing file", archive("b7", *honest()[:-1])),
    ("Damaged", "no manifest", archive("b8", *honest()[1:])),
    ("Damaged", "a manifest of wrong types", archive("b9", *honest(user=7))),
    ("Damaged", "a manifest with a list for files", archive("c1", *honest(files=[1]))),
    ("Damaged", "a manifest of 100,000 brackets", archive("c2", ("lab01/manifest.json", deep))),
    ("Damaged", "a manifest in no encoding", archive("c3", ("lab01/manifest.json", b"\xff\xfe"))),
    ("Damaged", "a cut archive", TMP / "cut"),
    ("Damaged", "an empty file", TMP / "empty"),
    ("Damaged", "a text", TMP / "text"),
    ("Damaged", "a negative size", TMP / "negative"),
    ("Damaged", "a size of 8 GiB", TMP / "huge"),
    ("Damaged", "a size in base 256", TMP / "base256"),
    ("Damaged", "a flipped bit", TMP / "flipped"),
    ("Damaged", "a tar that isn't packed", archive("c4", *honest(), gz=False)),
]
before = sorted(p.name for p in TMP.iterdir())
for kind, what, path in cases:
    try:
        submit.unpack(path, TMP / "never", 1, list(SOURCE))
        check(False, f"{what} is refused")
    except (submit.Unsafe, submit.Damaged) as e:
        check(type(e).__name__ == kind and "\n" not in str(e) and len(str(e)) < 500, f"{what}: {kind}, {e}"[:150])
    check(not (TMP / "never").exists(), f"{what} leaves nothing")
check(sorted(p.name for p in TMP.iterdir()) == before, "no file was made anywhere")
done = run("python3", "-m", "kit.submit", TMP / "a1", TMP / "never", status=3, cwd=SRC / "labs")
check("symbolic link" in done.stderr and "Traceback" not in done.stderr, "the graders' command refuses with status 3")
check(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 250 << 10, "none of it cost much memory")

# Every cut and every flipped bit of a small archive: never another content, never another exception.
good = submit.read(again, 1, list(SOURCE))[1]
for i in range(len(whole)):
    for data in (whole[:i], whole[:i] + bytes([whole[i] ^ (1 << i % 8)]) + whole[i + 1:]):
        (TMP / "bent").write_bytes(data)
        try:
            check_same = submit.read(TMP / "bent", 1, list(SOURCE))[1] == good
        except (submit.Unsafe, submit.Damaged):
            check_same = True
        if not check_same:
            check(False, f"bent at {i}")
check(True, f"{2 * len(whole)} bent archives: never other bytes")
