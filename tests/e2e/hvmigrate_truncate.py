#!/usr/bin/env python3
"""A damaged image is never converted with status 0 to other bytes. Every sample of every subformat is cut at every 512
bytes, and bytes are flipped; each time a conversion must be refused with a sentence, or give the very bytes that the
whole image gives. It may never crash and never hang. (Raw disks are left out: a shorter one is a raw disk too.)

The many are done in one process by build/tests/cut, which calls what the tool calls; some of them by the tool itself.
A flipped byte may lead to other bytes of the disk where a format has no checksum for it, or lie in the data; what is
asked of flips is an orderly end."""
# limit: 900
# kvm: none
import multiprocessing
import signal
import time
from disks import *

need_qemu_img()
rng = random.Random(seed())
CUT = os.path.join(os.environ["BUILD"], "tests/cut")
STEP = SECTOR if STRETCH == 1 else 8 * SECTOR * STRETCH  # a sanitizer, or a slow machine: fewer cuts
FLIPS = 2000 // STRETCH
BY_TOOL = 60 // STRETCH  # cuts and flips of each sample by the tool itself
RUN_LIMIT = 20 * STRETCH


class Sample:
    """An image in a folder of its own: which of its files is damaged, and the bytes of its disk."""

    def __init__(self, name, path, victim, data):
        self.name, self.path, self.victim, self.data = name, path, victim, data


def small_disk():
    """Little data, for small files, but of every kind, and up to the disk's last byte."""
    data = bytearray(150 * 1024 + 512)
    data[0:512] = rng.randbytes(512)
    data[70_000:71_000] = b"compressible " * 76 + bytes(12)
    data[100 * 1024:110 * 1024] = rng.randbytes(10 * 1024)
    data[-700:] = rng.randbytes(700)
    return bytes(data)


SMALLEST = {  # the same subformats with the smallest blocks, so that a file has few places to cut
    "vhdx-dynamic": "subformat=dynamic,block_size=1M,log_size=1M",
    "vhdx-fixed": "subformat=fixed,block_size=1M,log_size=1M",
}


def samples():
    data = small_disk()
    raw = write_raw(TMP / "sample.raw", data)
    made = []
    for kind in MADE:
        if kind.ours == "raw" or kind.name in ("vhdx-dynamic-1M", "vhdx-dynamic-4M", "qcow2-v3-2M"):
            continue
        if kind.name in SMALLEST:
            kind = Kind(kind.name, kind.qemu, kind.ours, kind.suffix, [SMALLEST[kind.name]])
        path = kind.make(raw, TMP / "samples" / kind.name)
        made += of_files(kind.name, path)
    for target in TARGETS[1:]:
        name = "our-" + target.name.replace(":", "-")
        path = TMP / "samples" / name / f"disk.{target.suffix}"
        path.parent.mkdir(parents=True)
        small = ["--block-size", "1M"] if target.name.startswith("vhdx") else []
        done = hvmigrate("convert", "-f", "raw", "-O", target.name, *small, raw, path)
        if done.returncode != 0:
            fail(f"{target}: {done.err.strip()}")
        made += of_files(name, path)
    return made


def of_files(name, path):
    """A sample for each of the image's files; what its disk holds is what hvmigrate says of the whole image, and the
    roundtrip test has shown that to be right."""
    done = hvmigrate("convert", "-O", "raw", path, "-")
    if done.returncode != 0:
        fail(f"{name}: {done.err.strip()}")
    made = []
    for victim in sorted(p.name for p in path.parent.iterdir()):
        folder = path.parent.with_name(f"{name}-{victim}")  # a copy for each: they are damaged side by side
        shutil.copytree(path.parent, folder)
        made.append(Sample(f"{name}/{victim}", folder / path.name, folder / victim, done.stdout))
    return made


# --- one worker -------------------------------------------------------------------------------------------------------


class Runner:
    """Runs hvmigrate fast: no shell, no pipes, output into one file that is used again and again."""

    def __init__(self, number):
        self.out = os.open(TMP / f"out-{number}", os.O_RDWR | os.O_CREAT, 0o600)
        self.err = os.open(TMP / f"err-{number}", os.O_RDWR | os.O_CREAT, 0o600)
        self.null = os.open("/dev/null", os.O_RDONLY)

    def convert(self, path):
        """(status, output): negative when a signal ended it; None after the limit."""
        for fd in (self.out, self.err):
            os.ftruncate(fd, 0)
            os.lseek(fd, 0, os.SEEK_SET)
        pid = os.posix_spawn(HVMIGRATE, [HVMIGRATE, "convert", "-q", "-j1", "-O", "raw", str(path), "-"], os.environ,
                             file_actions=[(os.POSIX_SPAWN_DUP2, self.null, 0), (os.POSIX_SPAWN_DUP2, self.out, 1),
                                           (os.POSIX_SPAWN_DUP2, self.err, 2)])
        signal.setitimer(signal.ITIMER_REAL, RUN_LIMIT)
        try:
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        except TimeoutError:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        return status

    def output(self):
        return os.pread(self.out, os.fstat(self.out).st_size, 0)

    def said(self):
        return os.pread(self.err, 2000, 0).decode(errors="replace").strip()


def late(*_):
    raise TimeoutError


def judge(runner, sample, status, what, strict=True):
    """A sentence when this run was wrong; None when it was right."""
    if status is None:
        return f"{sample.name} {what}: took longer than {RUN_LIMIT} s"
    if status < 0 or status > 3:
        return f"{sample.name} {what}: status {status}: {runner.said()[-300:]}"
    if status == 0 and strict and (got := runner.output()) != sample.data:
        return f"{sample.name} {what}: status 0 with other bytes: {difference(got, sample.data)}"
    if status != 0 and not runner.said().splitlines()[-1:][0].startswith("hvmigrate: "):
        return f"{sample.name} {what}: status {status} without a sentence: {runner.said()[-300:]}"
    return None


def cut_by_tool(runner, sample, random_of):
    """Some cuts, from the end to the start, and the last bytes."""
    faults = []
    whole = sample.victim.read_bytes()
    sectors = random_of.sample(range(len(whole) // SECTOR), min(BY_TOOL, len(whole) // SECTOR))
    places = {p * SECTOR for p in sectors} | {0, 1, len(whole) - 1, len(whole) - 511, len(whole) - SECTOR}
    for place in sorted((p for p in places if 0 <= p < len(whole)), reverse=True):
        os.truncate(sample.victim, place)
        if fault := judge(runner, sample, runner.convert(sample.path), f"cut to {place}"):
            faults.append(fault)
    sample.victim.write_bytes(whole)
    return faults, len(places)


def metadata_places(whole, data):
    """Places that hold something, and that are no copy of the disk's own bytes: tables, headers, footers."""
    places = []
    for at in range(0, len(whole), SECTOR):
        part = whole[at:at + SECTOR]
        if any(part) and (len(part) < SECTOR or part not in data):
            places += [at + i for i in range(len(part)) if part[i] or i % 64 == 0]
    return places


def flip_by_tool(runner, sample, random_of):
    """A byte of the metadata is another one: never a crash, never a hang, never an end without a sentence."""
    faults, runs = [], 0
    whole = sample.victim.read_bytes()
    places = metadata_places(whole, sample.data)
    with open(sample.victim, "r+b", buffering=0) as f:
        for place in random_of.sample(places, min(BY_TOOL, len(places))):
            old = whole[place]
            new = random_of.choice([old ^ (1 << random_of.randrange(8)), 0, 0xFF, random_of.randrange(256)])
            os.pwrite(f.fileno(), bytes([new]), place)
            status = runner.convert(sample.path)
            runs += 1
            if fault := judge(runner, sample, status, f"byte {place} is {new:#x}, not {old:#x}", strict=False):
                faults.append(fault)
            os.pwrite(f.fileno(), bytes([old]), place)
    return faults, runs


def in_one_process(sample, wanted, *what):
    """build/tests/cut: (faults, runs, how many gave the same bytes)."""
    try:
        done = run(CUT, sample.path, sample.victim, wanted, *what, limit=500 * STRETCH)
    except subprocess.TimeoutExpired:
        return [f"{sample.name}: cut {what} has no end"], 0, 0
    faults = [f"{sample.name}: {line}" for line in done.err.strip().splitlines()]
    if done.returncode not in (0, 1):
        return faults + [f"{sample.name}: cut {what} ended with {done.returncode}"], 0, 0
    runs, same, count = map(int, done.out.split())
    return faults if count else [], runs, same


def work(job):
    number, sample, seed_of = job
    signal.signal(signal.SIGALRM, late)
    random_of = random.Random(seed_of)
    runner = Runner(number)
    started = time.monotonic()
    wanted = TMP / f"wanted-{number}"
    wanted.write_bytes(sample.data)
    whole = sample.victim.read_bytes()
    faults, cuts, same = in_one_process(sample, wanted, STEP)
    more, flips, _ = in_one_process(sample, wanted, "flip", seed_of, FLIPS)
    faults += more
    sample.victim.write_bytes(whole)  # should it have crashed
    for by_tool in (cut_by_tool, flip_by_tool):
        more, runs = by_tool(runner, sample, random_of)
        faults += more
        cuts, flips = (cuts + runs, flips) if by_tool is cut_by_tool else (cuts, flips + runs)
    if runner.convert(sample.path) != 0 or runner.output() != sample.data:
        faults.append(f"{sample.name}: put together again it is not read as before: {runner.said()}")
    wanted.unlink()
    return sample.name, faults, cuts, same, flips, time.monotonic() - started


def main():
    jobs = [(i, sample, rng.randrange(1 << 32)) for i, sample in enumerate(samples())]
    jobs.sort(key=lambda job: -job[1].victim.stat().st_size)
    total, bad = [0, 0], 0
    with multiprocessing.Pool(CPUS) as pool:
        for name, faults, cuts, same, flips, took in pool.imap_unordered(work, jobs, chunksize=1):
            for fault in faults[:8]:
                print("FAILED:", fault)
            print(f"{'ok  ' if not faults else 'BAD '} {name}: {cuts} cuts, {same} of them harmless, {flips} flips, "
                  f"{len(faults)} faults, {took:.1f} s", flush=True)
            total[0] += cuts
            total[1] += flips
            bad += len(faults)
    check(bad == 0, f"{total[0]} cuts and {total[1]} flips of {len(jobs)} files: refused, or the same bytes", bad)


if __name__ == "__main__":
    main()
