#!/usr/bin/env python3
# limit: 120
# box: intel
"""observe: what it records of a VM is what happened, and a hostile program is named and harms nothing."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

BUILD = pathlib.Path(os.environ["BUILD"])
TMP = pathlib.Path(os.environ["TMP"])
GUESTS = pathlib.Path(os.environ["GUESTS"])
OBSERVE, OBSERVED = BUILD / "labs/observe", BUILD / "tests/observed"
STRETCH = int(os.environ["HV_STRETCH"])
SAN = os.environ.get("HV_SAN", "")
LIMIT = 20 * STRETCH
NOBODY = 65534

scratch = TMP / "scratch"
scratch.mkdir()
if os.geteuid() == 0:
    os.chown(scratch, NOBODY, NOBODY)
# The leak checker would trace its own process.
ENV = {**os.environ, "TMPDIR": str(scratch), "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":detect_leaks=0"}
secret = TMP / "hidden.py"
secret.write_text("the answers\n")


def check(ok, text, *details):
    if not ok:
        print("FAILED:", text, *map(repr, details))
        sys.exit(1)
    print("ok  ", text, flush=True)


class Record:
    """One run under observe."""

    def __init__(self, *command, options=(), stop_at=None, **more):
        self.path = TMP / "record"
        self.path.unlink(missing_ok=True)
        words = [OBSERVE, "--trace", self.path, "--write", scratch, "--chdir", scratch, "--read", BUILD, *options, "--",
                 *command]
        more = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": ENV, **more}
        process = subprocess.Popen(list(map(str, words)), stdin=subprocess.DEVNULL, **more)
        try:
            if stop_at is not None:
                self.wait_for(stop_at)
                time.sleep(0.2 * STRETCH)
                process.terminate()
            self.out, self.err = process.communicate(timeout=LIMIT)
        finally:
            process.kill()
            process.wait()
        self.status = process.returncode
        self.lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        self.end = self.lines[-1]

    def wait_for(self, text):
        """Until it is in the record, which is written every few milliseconds."""
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and not (self.path.exists() and text in self.path.read_text()):
            time.sleep(0.01)

    def of(self, kind):
        return [line for line in self.lines if line["k"] == kind]

    def named(self, name):
        return [line for line in self.of("ioctl") if line["name"] == name]

    def memory(self, when, gpa, length, vm=0):
        """As a reader puts it together: later pieces replace earlier ones."""
        data = bytearray(length)
        seen = 0
        file = pathlib.Path(f"{self.path}.mem").read_bytes()
        for piece in self.of("dump"):
            if piece["when"] != when or piece["vm"] != vm:
                continue
            start, end = max(gpa, piece["gpa"]), min(gpa + length, piece["gpa"] + piece["length"])
            if start < end:
                offset = piece["offset"] + start - piece["gpa"]
                data[start - gpa:end - gpa] = file[offset:offset + end - start]
                seen += 1
        return bytes(data) if seen else None


def deed(*words, **more):
    return Record(OBSERVED, *words, **more)


# --- a right VM -----------------------------------------------------------------------------------------------------
def the_record_tells_what_happened():
    r = deed("tour", options=["--dump", "first:0x1000:64", "--dump", "last:0x2000:16"])
    check(r.status == 0 and r.end == {**r.end, "status": 0, "signal": None, "why": "exit"}, "a VM runs to its end", r.err,
          r.end)
    check(r.lines[0]["k"] == "start" and r.lines[0]["argv"][1] == "tour", "the first line tells what is run", r.lines[0])
    runs = r.of("run")
    check([x["reason"] for x in runs] == ["io", "io", "mmio", "mmio", "hlt"], "each exit by name", runs)
    out, into, read, write, halt = runs
    check(out["io"] == {"port": 0x3F8, "out": True, "size": 1, "count": 1, "data": "41"}, "out: port, size, data", out)
    check(into["io"]["port"] == 0x60 and not into["io"]["out"], "in: the port", into)
    check(read["reply"] == "5a" and "reply" not in into, "the answer to `in` comes with the next entry", read)
    check(read["mmio"]["gpa"] == 0xD0000 and not read["mmio"]["write"] and read["mmio"]["size"] == 1, "an MMIO read", read)
    check(write["reply"] == "a5" and write["mmio"] == {"gpa": 0xD0001, "write": True, "size": 1, "data": "a5"},
          "its answer, written back by the guest", write)
    if r.lines[0]["registers"]:
        check(halt["regs"]["rip"] == 0x1000 + 23 and halt["regs"]["rax"] & 0xFF == 0xA5, "registers at an exit",
              halt["regs"])
        check(halt["sregs"]["cs"]["base"] == 0 and halt["sregs"]["ds"]["base"] == 0xD0000, "segments", halt["sregs"])
        check({"exception", "interrupt", "nmi"} <= set(halt["events"]), "events", halt["events"])
    region = r.named("KVM_SET_USER_MEMORY_REGION")[0]
    check(region["on"] == "vm" and region["in"]["memory_size"] == 0x10000 and region["in"]["guest_phys_addr"] == 0,
          "a slot", region)
    check(r.named("KVM_SET_REGS")[0]["in"]["rip"] == 0x1000, "KVM_SET_REGS's registers")
    check(r.named("KVM_GET_SREGS")[0]["out"]["cr0"] & 0x10, "what KVM_GET_SREGS gave")
    check(r.named("KVM_CREATE_VCPU")[0]["in"]["vcpu_id"] == 0, "a number that is an argument itself")
    check([m["length"] for m in r.of("mmap")] == [3 * 4096], "the shared area's mapping")
    check(r.memory("first", 0x1000, 3) == b"\xb0\x41\xba", "memory at the first KVM_RUN")
    check(r.memory("first", 0x2000, 1) is None, "and only what was asked for")
    check(r.memory("last", 0x2000, 2) == b"\x5a\x00", "memory at the end")
    times = [x["t"] for x in r.lines if "t" in x and x["k"] == "run"]
    check(times == sorted(times) and all(x["d"] > 0 for x in runs), "times go forward")


def memory_is_kept_before_it_goes():
    for name, why in (("orderly", "before it is unmapped"), ("slot", "before its slot goes"), ("crash", "after a crash")):
        r = deed(name, options=["--dump", "last:0x1ff0:0x20"])
        check(r.memory("last", 0x2000, 2) == b"\x5a\x00", f"memory is kept {why}", r.lines[-3:])
    check(r.end == {**r.end, "signal": signal.SIGSEGV, "status": None, "why": "signal"}, "a crash is told", r.end)
    r = deed("spin", options=["--dump", "last:0x1000:2"], stop_at="KVM_SET_REGS")
    check(r.status == 0 and r.end["why"] == "killed", "SIGTERM ends the program", r.err, r.end)
    check(r.memory("last", 0x1000, 2) == b"\xeb\xfe", "memory is kept when the watchdog comes")
    last = r.of("run")[-1]
    check("ret" not in last and last["reason"] is None, "the KVM_RUN that never came back has no result", last)


def several_vms_and_wrong_descriptors():
    r = deed("two")
    check([x["reason"] for x in r.of("run") if x["vm"] == 0] == ["io", "io", "mmio", "mmio", "hlt"], "the first of two VMs")
    check([x["reason"] for x in r.of("run") if x["vm"] == 1] == ["io"] * 5 + ["hlt"],
          "the second, by a descriptor that was duplicated")
    wrong = r.named("KVM_RUN")
    check([(x["on"], x["ret"]) for x in wrong] == [("vm", -25), (None, -9)], "KVM_RUN on wrong descriptors", wrong)
    unknown = r.named("unknown")
    check(len(unknown) == 1 and unknown[0]["nr"] == 0xAEFE, "an ioctl without a name has its number", unknown)


def many_threads():
    r = deed("smp", "4")
    runs = r.of("run")
    for cpu in range(4):
        mine = [x for x in runs if x["vcpu"] == cpu]
        check([x["reason"] for x in mine] == ["io"] * 5 + ["hlt"] and {x["io"]["port"] for x in mine[:5]} == {0x10 + cpu},
              f"vCPU {cpu}'s exits", mine)
        check(len({x["tid"] for x in mine}) == 1, f"vCPU {cpu} has one thread")
    check(len({x["tid"] for x in runs}) == 4 and {x["tid"] for x in runs} <= {x["tid"] for x in r.of("thread")},
          "threads are told")


def a_kick():
    r = deed("kick")
    kicks = [x for x in r.of("signal") if x["signo"] == signal.SIGUSR1]
    check(len(kicks) == 1 and kicks[0]["vcpu"] == 0 and kicks[0]["immediate"] == 1 and kicks[0]["inside"],
          "a signal: whose, immediate_exit, inside KVM_RUN", kicks)
    last = r.of("run")[-1]
    check(last["ret"] == -4 and last["reason"] is None, "the KVM_RUN that it cuts short", last)


def limits():
    check(deed("reserve").end["status"] == 0, "8 GiB that are never touched are no offence")
    r = deed("exits", "300", options=["--limit-runs", "50"])
    check(r.end["why"] == "flood" and len(r.of("run")) == 50, "--limit-runs", r.end)
    check(deed("status", "9").end["status"] == 9, "a status is told")
    r = deed("harmless", scratch)
    check(r.end["why"] == "exit" and r.end["status"] == 0, "what well-meant programs do is allowed", r.err, r.lines[-2:])
    inherited = deed("descriptors")
    check(inherited.end["status"] == 0, "the program inherits nothing", inherited.end)


# --- hvrun, whose own count of exits must be the same -------------------------------------------------------------------
def exits_of(text):
    return {m[1]: int(m[2]) for m in re.finditer(r"^(\w+)\s+(\d+)\s+[\d.]+%", text, re.M)}


def hvrun_agrees():
    for guest, sandboxes, options in (("hello.bin", ("on", "off"), []), ("exits.bin", ("on",), []),
                                      ("smp", ("on",), ["--cpus", "2"])):
        for sandbox in sandboxes:
            r = Record(BUILD / "bin/hvrun", "--stats", "--sandbox", sandbox, *options, GUESTS / guest,
                       env={**ENV, "XDG_RUNTIME_DIR": str(scratch), "HOME": str(scratch)})
            told = exits_of(r.err.decode() + r.out.decode())
            check(r.end["why"] == "exit" and told, f"{guest}, hvrun's sandbox {sandbox}", r.err, r.lines[-2:])
            told.pop("all", None)
            seen = {}
            for run in r.of("run"):
                if run.get("ret") == 0:
                    seen[run["reason"]] = seen.get(run["reason"], 0) + 1
            check(seen == told, f"{guest}, sandbox {sandbox}: {sum(seen.values())} exits, as hvrun counts them", seen, told)


# --- hostile ones --------------------------------------------------------------------------------------------------------
def named(what, *words, text=None, **more):
    r = deed(*words, **more)
    found = r.of("forbidden")
    check(r.status == 0 and r.end["why"] == "forbidden" and found and found[0]["what"] == what
          and (text is None or text in found[0]["detail"]),
          f"{words[0]} is named: {what}: {found[0]['detail'] if found else '?'}", r.end, r.err, found)
    return r


def powerless(*words, status=1, **more):
    r = deed(*words, **more)
    check(r.end["why"] == "exit" and r.end["status"] == status, f"{words[0]} comes to nothing", r.end, r.err)


def hostile():
    victim = subprocess.Popen(["sleep", "60"])
    try:
        started = time.monotonic()
        named("fork", "fork_bomb")
        named("fork", "vfork")
        named("fork", "threads")
        named("exec", "shell")
        named("kill", "kill", victim.pid)
        named("kill", "kill", -1)
        named("kill", "kill_parent")
        named("kill", "kill_thread", victim.pid)
        named("ptrace", "ptrace")
        named("file", "parent_memory", text="/mem")
        named("network", "network")
        named("system", "listener")
        named("system", "old_calls")
        check(time.monotonic() - started < LIMIT, "none of them takes long")
        check(victim.poll() is None, "other processes are alive")
        powerless("limits")
        powerless("io_uring")
        powerless("clone3", status=7)
    finally:
        victim.kill()
        victim.wait()

    r = deed("endless_exits", stop_at='"reason":"io"')
    check(r.end["why"] == "killed" and len(r.of("run")) > 10, "exits without end are ended by SIGTERM", r.end)
    r = deed("loop", stop_at='"start"')
    check(r.end["why"] == "killed", "an endless loop is ended by SIGTERM", r.end)
    r = deed("memory", options=["--limit-memory", 128 << 20])
    check(r.end["why"] == "flood" and r.end["limit"] == "memory", "memory without end is ended", r.end)
    r = deed("big_file", scratch / "big", options=["--limit-output", 1 << 20])
    check((r.end["status"] == 7 or r.end["why"] == "flood") and (scratch / "big").stat().st_size <= 1 << 20,
          "10 GB into a file: cut at its limit", r.end)
    r = deed("rewrite", scratch / "big.one", options=["--limit-output", 10 << 20])
    check(r.end["why"] == "flood", "and all that is written counts", r.end)
    r = deed("many_files", scratch)
    check(r.end["why"] == "flood" and r.end["limit"] == "files", "files without end, too", r.end)
    for left in [*scratch.glob("many.*"), *scratch.glob("big*")]:
        left.unlink()


def files_stay():
    results = TMP / "results.json"
    results.write_text("zero points")
    text = results.read_text
    named("file", "write", results, text="results.json")
    named("file", "write", TMP / "new.json", text="new.json")
    named("file", "read", secret, text="hidden.py")
    named("file", "read", "../hidden.py", text="hidden.py")
    link = scratch / "link"
    link.symlink_to(secret)
    r = deed("read", link)
    check(r.end["status"] != 42, "a link leads nowhere", r.end)
    link.unlink()
    shared = TMP / "shared.h"
    shared.write_text("text")
    shared.chmod(0o666)
    named("file", "empty", shared, options=["--read", shared])
    check(shared.read_text() == "text", "what may be read is not emptied")
    for name in ("remove", "chmod", "truncate"):
        powerless(name, results)
    powerless("read", "/etc/shadow")
    powerless("write", f"/tmp/notes.{os.getpid()}")
    check(text() == "zero points" and os.access(results, os.R_OK), "the results are as they were")
    check(not (TMP / "new.json").exists(), "and no file more")
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory(dir="/tmp") as folder:
        server.bind(f"{folder}/s")
        server.listen()
        named("network", "unix_connect", f"{folder}/s")


def a_flood_of_output():
    """The pipe's reader has enough at some point, and says so by SIGTERM."""
    path = TMP / "record"
    process = subprocess.Popen([OBSERVE, "--trace", path, "--", OBSERVED, "flood"], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, env=ENV)
    try:
        process.stdout.read(1 << 20)
        process.terminate()
        check(process.wait(LIMIT) == 0, "a flood of output is ended by SIGTERM")
    finally:
        process.kill()
        process.communicate()


def nothing_outlives_observe():
    mark = f"observed.{os.getpid()}"
    copy = scratch / mark
    shutil.copy(OBSERVED, copy)
    copy.chmod(0o755)
    process = subprocess.Popen([OBSERVE, "--trace", TMP / "record", "--", copy, "loop"], stdin=subprocess.DEVNULL, env=ENV)
    deadline = time.monotonic() + LIMIT

    def there():
        found = []
        for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            try:
                found += [path] if f"{mark}\0loop".encode() in path.read_bytes() else []
            except OSError:
                pass
        return found

    while len(there()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.kill()
    process.wait()
    while there() and time.monotonic() < deadline:
        time.sleep(0.02)
    check(not there(), "the program ends with observe, even by SIGKILL", there())
    copy.unlink()


# --- a compiler ------------------------------------------------------------------------------------------------------------
def plain(*command, options=()):
    return subprocess.run([OBSERVE, "--plain", "--write", scratch, "--chdir", scratch, *map(str, options), "--",
                           *map(str, command)], env=ENV, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=LIMIT, check=False)


def a_compiler():
    cc = os.environ["CC"].split()[0]

    def source(text):
        (scratch / "a.c").write_text(text)
        return plain(cc, "-o", "a", "a.c")

    done = source("int main(void) { return 3; }\n")
    check(done.returncode == 0 and subprocess.run([scratch / "a"], check=False).returncode == 3, "a compiler compiles",
          done.stderr)
    done = source("int main(void) { return x; }\n")
    check(done.returncode == 1 and b"undeclared" in done.stderr, "and says what is wrong", done)
    for what, text in (("#include", f'#include "{secret}"\n'), (".incbin", f'__asm__(".incbin \\"{secret}\\"");\n'),
                       ("#include of /proc", '#include "/proc/1/environ"\n')):
        done = source(text)
        check(done.returncode != 0 and b"answers" not in done.stderr and b"Permission denied" in done.stderr,
              f"{what} of what it must not see is named", done.stderr)
    done = plain("sh", "-c", "f() { f & f; }; f")
    check(done.returncode != 0 and b"too many processes" in done.stderr, "a fork bomb is named", done.returncode,
          done.stderr[:300])
    done = plain("sh", "-c", "sleep 60 & sleep 60 & exit 5")
    check(done.returncode == 5, "the status is the program's", done)
    for left in scratch.glob("*.*"):
        left.unlink()


def usage():
    for words in ([], ["--", "true"], ["--trace", "/no/such/folder/x", "--", "/bin/true"], ["--dump", "never:0:1"],
                  ["--trace", TMP / "t", "--", "/no/such/program"]):
        done = subprocess.run([OBSERVE, *map(str, words)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, timeout=LIMIT,
                              check=False)
        check(done.returncode in (1, 2) and done.stderr.startswith((b"observe: ", b"usage: ")),
              f"wrong usage is told: {words}", done)


def the_cost():
    """Not a benchmark: a bound that only a mistake would pass."""
    times = [x["t"] for x in deed("exits", "300").of("run")]
    each = statistics.median(after - before for before, after in zip(times, times[1:])) / 1000
    check(each < 1000 * STRETCH * (5 if SAN else 1), f"a recorded exit takes {each:.0f} us")


TESTS = (the_record_tells_what_happened, memory_is_kept_before_it_goes, several_vms_and_wrong_descriptors, many_threads,
         a_kick, limits, hvrun_agrees, hostile, files_stay, a_flood_of_output, nothing_outlives_observe, a_compiler, usage,
         the_cost)
for test in TESTS:
    if not sys.argv[1:] or test.__name__ in sys.argv[1:]:
        print(f"--- {test.__name__}", flush=True)
        test()
