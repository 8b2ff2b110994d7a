"""Submissions: hvlab submit writes an archive, and those who grade unpack it.

An archive is a gzipped tar (POSIX ustar) of one folder: manifest.json, then the lab's files under their paths in the
tree; names are sorted, owners and times are fixed, so the same files and manifest give the same bytes. What comes in is
hostile. It is unpacked by a reader of its own, which knows regular files and folders only and stops at a few limits:
tar readers of general use know links, devices, sparse files and extended headers, and each was somebody's hole. The
format is that of POSIX.1-2017, pax, "ustar Interchange Format"; gzip is RFC 1952.
"""
import argparse
import hashlib
import io
import json
import os
import re
import sys
import tarfile
import time
import zlib
from pathlib import Path

from kit.report import clean

FORMAT = "hvlab-submission-1"
MANIFEST = "manifest.json"
ARCHIVE_LIMIT = 4 << 20  # bytes, as it comes and unpacked; a lab's files are a hundredth of it
FILE_LIMIT = 1 << 20
MEMBER_LIMIT = 256
PATH = re.compile(r"core(/[a-z0-9_]+)+\.[ch]")
BLOCK = 512


class Unsafe(Exception):
    """An archive that nobody makes by mistake: links, ways out of its folder, bombs. Graded zero by name."""


class Damaged(Exception):
    """An archive that is broken, or not one of ours. Its student hands it in again."""


def utc(seconds=None):
    """Now as the manifest tells it; SOURCE_DATE_EPOCH stands in for now where it is set."""
    if seconds is None:
        seconds = int(os.environ.get("SOURCE_DATE_EPOCH") or time.time())
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# --- packing ------------------------------------------------------------------------------------------------------------
def make_manifest(number, title, files, user, term, kit, result=None):
    """files: {path in the tree: bytes}. result: of the student's last grading of this lab, or None."""
    score = {k: result[k] for k in ("score", "max", "extra")} if result else None
    return {"format": FORMAT, "lab": number, "title": title, "user": user, "term": term, "kit": kit, "time": utc(),
            "last_score": score, "files": {p: hashlib.sha256(files[p]).hexdigest() for p in sorted(files)}}


def member(name, data):
    """A tar member with nothing in it that differs from one machine to the next."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    return info, io.BytesIO(data)


def pack(manifest, files):
    """The archive's bytes."""
    top = f"lab{manifest['lab']:02d}"
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
        tar.addfile(*member(f"{top}/{MANIFEST}", text.encode()))
        for path in sorted(files):
            tar.addfile(*member(f"{top}/{path}", files[path]))
    # gzip by hand: the header's time and name are zero, the level is named.
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = whole.getvalue()
    body = packer.compress(data) + packer.flush()
    end = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return b"\x1f\x8b\x08\0\0\0\0\0\x02\xff" + body + end


def archive_name(number, user):
    return f"lab{number:02d}-{re.sub('[^A-Za-z0-9._-]', '_', user).lstrip('.') or 'nobody'}.tar.gz"


def compiles(tree, lab):
    """None when the lab's files compile, else the diagnosis: what nobody can build, nobody can grade."""
    import tempfile

    from kit.build import Builder, BuildError  # graders unpack without these
    tree.need_handout()
    with tempfile.TemporaryDirectory(prefix="hvlab-") as scratch:
        os.chmod(scratch, 0o711)
        try:
            Builder(tree, lab, scratch).compile()
        except BuildError as error:
            return lab.diagnoses[error.id].filled(error.seen)
    return None


def submit(number, title, paths, user, term, kit, folder, result=None):
    """Writes the archive into folder and returns (path, manifest). paths: {path in the tree: file to read}.

    Raises OSError when a file cannot be read and Damaged when one is too big to be handed in.
    """
    files = {name: Path(path).read_bytes() for name, path in paths.items()}
    for name, data in files.items():
        if len(data) > FILE_LIMIT:
            raise Damaged(f"{name} has {len(data)} bytes; {FILE_LIMIT} are the most")
    manifest = make_manifest(number, title, files, user, term, kit, result)
    path = Path(folder) / archive_name(number, user)
    half = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        half.write_bytes(pack(manifest, files))
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return path, manifest


# --- unpacking ----------------------------------------------------------------------------------------------------------
def gunzip(data):
    """What a gzip stream holds, never more than ARCHIVE_LIMIT of it."""
    reader = zlib.decompressobj(31)
    try:
        whole = reader.decompress(data, ARCHIVE_LIMIT + 1)
    except zlib.error as e:
        raise Damaged(f"it is no gzip file, or a broken one ({e})") from None
    if len(whole) > ARCHIVE_LIMIT:
        raise Unsafe(f"it unpacks to more than {ARCHIVE_LIMIT} bytes")
    if not reader.eof:
        raise Damaged("it is cut short")
    return whole


def octal(field, what):
    text = field.strip(b" \0")
    if not re.fullmatch(b"[0-7]{0,11}", text):
        raise Damaged(f"its tar header has no sensible {what}")
    return int(text or b"0", 8)


def members(data):
    """(name, kind, bytes) of each tar member. kind: one letter, "0" a regular file, "5" a folder."""
    at = count = 0
    while at + BLOCK <= len(data):
        head = data[at:at + BLOCK]
        at += BLOCK
        if head == bytes(BLOCK):
            return
        count += 1
        if count > MEMBER_LIMIT:
            raise Unsafe(f"it has more than {MEMBER_LIMIT} members")
        if sum(head[:148]) + 8 * 0x20 + sum(head[156:]) != octal(head[148:156], "check sum"):
            raise Damaged("a tar header's check sum is wrong")
        size = octal(head[124:136], "size")
        name = head[:100].split(b"\0")[0]
        if head[257:263] == b"ustar\0" and head[345]:
            name = head[345:500].split(b"\0")[0] + b"/" + name
        if at + size > len(data):
            raise Damaged("a member is cut short")
        kind = chr(head[156]) if head[156] else "0"
        yield name.decode("utf-8", "backslashreplace"), kind, data[at:at + size]
        at += (size + BLOCK - 1) // BLOCK * BLOCK


KINDS = {"1": "a hard link", "2": "a symbolic link", "3": "a character device", "4": "a block device", "6": "a FIFO",
         "S": "a sparse file", "L": "a long name", "K": "a long link"}


def inside(name):
    """A member's path below the archive's one folder; "" for the folder itself."""
    if name.startswith("/") or "\\" in name or ".." in name.split("/"):
        raise Unsafe(f"{clean(name)!r} leads out of its folder")
    parts = [p for p in name.split("/") if p not in ("", ".")]
    return "/".join(parts[1:])


def contents(data):
    """{path below the one folder: bytes} of an archive's regular files."""
    found = {}
    for name, kind, body in members(gunzip(data)):
        if kind in "xg":
            continue  # extended headers of other tar programs: times and owners, which nobody needs
        if kind not in "05":
            raise Unsafe(f"{clean(name)!r} is {KINDS.get(kind, 'of an unknown kind')}")
        path = inside(name)
        if kind == "5" or not path:
            continue
        if len(body) > FILE_LIMIT:
            raise Unsafe(f"{clean(name)!r} has {len(body)} bytes")
        if path in found:
            raise Unsafe(f"{clean(name)!r} is there twice")
        found[path] = body
    return found


def read_manifest(data):
    """A manifest whose fields have the types that they should. Raises Damaged."""
    try:
        manifest = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Damaged("its manifest is not JSON") from None
    kinds = {"format": str, "lab": int, "title": str, "user": str, "kit": str, "time": str, "files": dict}
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or \
            not all(type(manifest.get(k)) is kind for k, kind in kinds.items()):
        raise Damaged("its manifest is not one that hvlab submit writes")
    if not all(isinstance(v, str) for v in manifest["files"].values()) or not 1 <= manifest["lab"] <= 99:
        raise Damaged("its manifest is not one that hvlab submit writes")
    return manifest


def read(archive, number=None, allowed=None):
    """(manifest, {path in the tree: bytes}) of an archive. number: the lab that it should be of; allowed: its files.

    Raises Unsafe or Damaged, whose text is a sentence without its subject ("it is cut short").
    """
    with open(archive, "rb") as f:
        data = f.read(ARCHIVE_LIMIT + 1)
    if len(data) > ARCHIVE_LIMIT:
        raise Unsafe(f"it has more than {ARCHIVE_LIMIT} bytes")
    files = contents(data)
    if MANIFEST not in files:
        raise Damaged("it has no manifest: hvlab submit writes one")
    manifest = read_manifest(files.pop(MANIFEST))
    if number is not None and manifest["lab"] != number:
        raise Damaged(f"it is of lab {manifest['lab']}, not of lab {number}")
    for path, body in files.items():
        if not PATH.fullmatch(path) or (allowed is not None and path not in allowed):
            raise Damaged(f"{clean(path)!r} is not a file of this lab")
        if manifest["files"].get(path) != hashlib.sha256(body).hexdigest():
            raise Damaged(f"{path} is not what its manifest says")
    if missing := sorted((set(allowed or ()) | set(manifest["files"])) - set(files)):
        raise Damaged(f"{clean(missing[0])} is missing")
    return manifest, files


def unpack(archive, folder, number=None, allowed=None):
    """Writes an archive's files below folder, which is made and must not be there yet. Returns the manifest."""
    manifest, files = read(archive, number, allowed)
    folder = Path(folder)
    folder.mkdir(mode=0o700)
    for path, body in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(target, "xb") as out:
            out.write(body)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return manifest


def main(args=None):
    """python3 -m kit.submit ARCHIVE [FOLDER]: looks at an archive, or unpacks it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("archive")
    parser.add_argument("folder", nargs="?", help="where to unpack it; must not exist")
    parser.add_argument("--lab", type=int, help="refuse an archive of another lab")
    given = parser.parse_args(args)
    try:
        manifest = unpack(given.archive, given.folder, given.lab) if given.folder else read(given.archive, given.lab)[0]
    except (Unsafe, Damaged) as e:
        print(f"{given.archive}: {e}", file=sys.stderr)
        return 3
    except OSError as e:
        print(f"{given.archive}: {e.strerror}", file=sys.stderr)
        return 1
    print(json.dumps(manifest, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
