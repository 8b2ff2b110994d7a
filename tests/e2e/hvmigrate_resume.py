#!/usr/bin/env python3
"""Conversions that are killed at random moments and go on with --resume until they are done: the disk's bytes are the same as
those of a run that nobody killed, and so is the file, where it has no random ids. A changed source is noticed and
refused; nothing is left behind."""
# limit: 300
# kvm: none
import shutil
import signal
import time
from disks import *
from hvmigrate_common import until

rng = random.Random(seed())
SIZE = (160 * MIB if STRETCH == 1 else 24 * MIB) + 37 * SECTOR
KILLS = 6
FIXED_IDS = ("raw", "qcow2")  # the others have a random id or a time stamp in them
ENV = {**os.environ, "HVMIGRATE_JOURNAL_MS": "1"}
RESUMED = []


def source_disk():
    """Noise, text and holes, in stretches of some MiB."""
    path = TMP / "source.raw"
    with open(path, "wb") as f:
        at = 0
        while at < SIZE:
            length = min(SIZE - at, rng.randrange(1, 4 * MIB))
            kind = rng.choice(("noise", "noise", "text", "hole"))
            f.seek(at)
            if kind == "noise":
                f.write(rng.randbytes(length))
            elif kind == "text":
                f.write((b"what compresses %d; " % at * (length // 16 + 1))[:length])
            at += length
        f.truncate(SIZE)
    return path


def start(*words):
    return subprocess.Popen([HVMIGRATE, "convert", *map(str, words)], env=ENV, stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def end(process):
    out, err = process.communicate(timeout=LIMIT)
    return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def killed_until_done(folder, target, words, took, signals=(signal.SIGKILL,)):
    """Starts the conversion, kills it after a part of the time that it takes, resumes, kills... The last one may end."""
    path = folder / f"disk.{target.suffix}"
    killed = 0
    for turn in range(KILLS + 1):
        process = start("--json", "-O", target.name, *words, *(["--resume"] if turn else []), path)
        if turn < KILLS:
            time.sleep(rng.uniform(0.05, 0.6) * took)
            process.send_signal(rng.choice(signals))
        status, out, err = end(process)
        if status == 0:
            break
        if turn == KILLS:
            fail(f"{target}: --resume: status {status}: {err.strip()}")
        if -status not in signals and not (status == 1 and "stopped" in err):
            fail(f"{target}: killed, and the status is {status}: {err.strip()}")
        killed += 1
        if path.exists():  # killed at its very end: what has its name is complete, though the journal may be left
            path.with_name(path.name + ".partial.journal").unlink(missing_ok=True)
            break
    events = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    went_on = max([event.get("resumed-from", 0) for event in events] + [0])
    RESUMED.append(went_on > 0)
    return path, killed, went_on


def same_disk(path):
    done = hvmigrate("compare", source, path)
    return done.returncode == 0 or done.out + done.err


def one_target(target):
    folder = TMP / f"whole-{target.name.replace(':', '-')}"
    folder.mkdir()
    whole = folder / f"disk.{target.suffix}"
    started = time.monotonic()
    status, _, err = end(start("-O", target.name, source, whole))
    took = time.monotonic() - started
    check(status == 0, f"{target}: {took:.2f} s without a kill", err)
    for turn in range(2):
        again = TMP / f"killed-{target.name.replace(':', '-')}-{turn}"
        again.mkdir()
        signals = (signal.SIGKILL,) if turn == 0 else (signal.SIGKILL, signal.SIGINT, signal.SIGTERM)
        path, killed, went_on = killed_until_done(again, target, [source], took, signals)
        check(same_disk(path) is True, f"{target}: after {killed} kills the disk is the same; last gone on from {went_on}",
              same_disk(path))
        if target.name in FIXED_IDS:
            check(file_sha(path) == file_sha(whole), f"{target}: and the file is, byte by byte")
        else:
            check(path.stat().st_size == whole.stat().st_size, f"{target}: and the file is as long",
                  path.stat().st_size, whole.stat().st_size)
        check(names(again) == names(folder), f"{target}: nothing is left beside it", names(again))
        done = hvmigrate("check", path)
        check(done.returncode == 0, f"{target}: check finds nothing", done.out, done.err)
        if target.checks and shutil.which("qemu-img"):
            done = run("qemu-img", "check", "-f", target.qemu, path)
            check(done.returncode == 0, f"{target}: nor does qemu-img check", done.out, done.err)
        shutil.rmtree(again)
    shutil.rmtree(folder)


def half_done(folder):
    """A conversion to raw that left something to resume, for it was killed when it had a journal; its destination."""
    path = folder / "disk.raw"
    journal = path.with_name(path.name + ".partial.journal")
    for _ in range(20):
        process = start("-O", "raw", source, path)
        until(lambda: process.poll() is not None or journal.exists(), "a journal")
        process.kill()
        status, _, _ = end(process)
        if status != 0 and any("journal" in name for name in names(folder)):
            return path
        for left in folder.iterdir():
            left.unlink()
    fail(f"no kill left a journal: {names(folder)}")


source = source_disk()
for each in TARGETS:
    one_target(each)
print(f"{sum(RESUMED)} of {len(RESUMED)} conversions went on from where one that was killed at random was")
folder = TMP / "half"
folder.mkdir()
path = half_done(folder)
status, out, err = end(start("--json", "-O", "raw", "--resume", source, path))
check(status == 0 and file_sha(path) == file_sha(source) and '"resumed-from"' in out,
      "what left a journal is gone on from where it was", status, out, err)

# --- a changed source -------------------------------------------------------------------------------------------------

for what in ("a byte", "its length", "another file"):
    folder = TMP / f"changed-{what.replace(' ', '-')}"
    folder.mkdir()
    path = half_done(folder)
    if what == "a byte":
        with open(source, "r+b") as f:
            f.seek(SIZE // 2)
            byte = f.read(1)
            f.seek(SIZE // 2)
            f.write(bytes([byte[0] ^ 1]))
    elif what == "its length":
        os.truncate(source, source.stat().st_size + SECTOR)
    else:
        shutil.copy(source, TMP / "copy.raw")
        os.rename(TMP / "copy.raw", source)
    status, _, err = end(start("-O", "raw", "--resume", source, path))
    check(status in (1, DAMAGED) and err.splitlines()[-1].startswith("hvmigrate: ") and not path.exists(),
          f"{what} of the source is changed: {err.strip().splitlines()[-1][-160:]}", status)
    status, _, err = end(start("-O", "raw", "--force", source, path))
    check(status == 0 and file_sha(path) == file_sha(source) and names(folder) == ["disk.raw"],
          "without --resume it starts anew, and leaves nothing", err, names(folder))
    shutil.rmtree(folder)

# --- another request, a damaged journal, nothing to resume ------------------------------------------------------------

folder = TMP / "other"
folder.mkdir()
path = half_done(folder)
status, _, err = end(start("-O", "qcow2", "--resume", source, path))
check(status != 0 and not path.exists(), f"another format is asked for: {err.strip().splitlines()[-1][-160:]}", status)
journal = next(p for p in folder.iterdir() if "journal" in p.name)
body = bytearray(journal.read_bytes())
body[len(body) // 2] ^= 0x10
journal.write_bytes(body)
status, _, err = end(start("-O", "raw", "--resume", source, path))
check(status == 0 and file_sha(path) == file_sha(source) and names(folder) == ["disk.raw"],
      "a damaged journal is not trusted: the conversion starts anew", status, err, names(folder))
path.unlink()
status, _, err = end(start("-O", "raw", "--resume", source, path))
check(status == 0 and file_sha(path) == file_sha(source), "--resume with nothing to resume starts at the start", err)

# --- a second writer --------------------------------------------------------------------------------------------------

folder = TMP / "second"
folder.mkdir()
first = start("-O", "raw", source, folder / "disk.raw")
first.send_signal(signal.SIGSTOP)
time.sleep(0.05)
if (folder / "disk.raw.partial").exists():
    status, _, err = end(start("-O", "raw", source, folder / "disk.raw"))
    check(status == 1 and "hvmigrate: " in err, f"two at once to one destination: {err.strip().splitlines()[-1][-120:]}", status)
first.send_signal(signal.SIGCONT)
status, _, err = end(first)
check(status == 0 and file_sha(folder / "disk.raw") == file_sha(source), "and the first is not disturbed", err)
