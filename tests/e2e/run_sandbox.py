#!/usr/bin/env python3
"""The sandbox around a running VM, as the kernel reports it, on every thread."""
import os
import signal
from hvrun_lib import *

spin = image("spin.bin", say("up\n") + SPIN)


def threads(pid):
    found = {}
    for tid in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{tid}/status") as f:
                found[tid] = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
        except OSError:  # the start has threads that end, too
            pass
    return found


for cpus in ("1", "3"):
    with Running("--cpus", cpus, "--gdb", f"unix:{TMP}/gdb", "--serial", f"unix:{TMP}/line", spin) as run:
        until(lambda: len(threads(run.p.pid)) > int(cpus), "its threads")
        time.sleep(0.1)
        all_threads = threads(run.p.pid)
        for tid, status in all_threads.items():
            check(status["Seccomp"] == "2" and status["NoNewPrivs"] == "1",
                  f"thread {status['Name']}: filtered, no new privileges", status["Seccomp"])
        run.p.send_signal(signal.SIGTERM)
        check(run.wait() == 0, f"{len(all_threads)} threads end in order", run.err)

with Running("--sandbox", "off", spin) as run:
    check(run.p.stdout.read(3) == b"up\n", "--sandbox off")
    for status in threads(run.p.pid).values():
        check(status["Seccomp"] == "0", f"thread {status['Name']}: not filtered")

# All that a run does at its end it must still be able to do: trace, statistics, sockets removed.
done = hvrun("--trace", TMP / "t.json", "--stats", "--serial", f"unix:{TMP}/line", "--gdb", f"unix:{TMP}/gdb",
             image("end.bin", say("x") + leave(0)))
check(done.returncode == 1 and (TMP / "t.json").stat().st_size > 100, "the end works from inside", done.err)
check(sorted(p.name for p in TMP.iterdir()) == ["end.bin", "spin.bin", "t.json"], "and leaves nothing behind",
      sorted(p.name for p in TMP.iterdir()))
