#!/usr/bin/env python3
"""How a run ends and what it tells: time limit, signals, statistics, trace, paused."""
# box: intel
import json
import re
import signal
from hvrun_lib import *

spin = image("spin.bin", say("up\n") + SPIN)
out5 = image("out.bin", say("abcde") + leave(0))

done = hvrun("--timeout", "0.2", spin)
check(done.returncode == 124 and done.out == "up\n" and "--timeout" in done.err, "--timeout", done.err)
done = hvrun("--timeout", "0.2", "--paused", spin)
check(done.returncode == 124 and done.out == "", "--paused: nothing runs, the time does", done.out)
done = hvrun("--timeout", 50 * STRETCH, out5)
check(done.returncode == 1, "a limit that isn't reached changes nothing")

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    with Running("--verbose", spin) as run:
        check(run.p.stdout.read(3) == b"up\n", f"a run for {number.name}")
        run.p.send_signal(number)
        check(run.wait() == 0 and f"signal {int(number)}" in run.err, f"{number.name} is an orderly end", run.err)

done = hvrun("--stats", out5)
check(done.out == "abcde", "--stats leaves stdout alone")
row = re.search(r"^io\s+(\d+)\s+([\d.]+)%\s+\S+ [mun]?s\s+\S+ [mun]?s$", done.err, re.M)
check(row and row[1] == "6" and row[2] == "100.0", "--stats counts six exits", done.err)

trace = TMP / "t.json"
done = hvrun("--trace", trace, out5)
check(done.returncode == 1, "--trace")
t = json.loads(trace.read_text())
events = [e for e in t["traceEvents"] if e["ph"] == "X"]
names = [e["args"]["name"] for e in t["traceEvents"] if e["ph"] == "M"]
check("vCPU 0" in names and t["otherData"]["dropped"] == 0, "the process and its vCPU are named", names)
check([e["name"] for e in events] == ["out 0x3f8"] * 5 + ["out 0xf4"], "every exit is there, in order", events)
check([chr(int(e["args"]["value"], 16)) for e in events[:5]] == list("abcde"), "with its value")
for e in events:
    check(e["pid"] == 1 and e["tid"] == 0 and e["ts"] >= 0 and e["dur"] > 0 and e["args"]["size"] == 1,
          f"an event as the format wants it: {e['name']} at {e['ts']} us")
check(all(a["ts"] + a["dur"] <= b["ts"] for a, b in zip(events, events[1:])), "they don't overlap")

# 200,000 exits into a ring of 65,536.
loop = b"\x66\xb9\x40\x0d\x03\x00\xba\x80\x00\xee\x66\x49\x75\xfb" + leave(0)
done = hvrun("--trace", trace, image("loop.bin", loop))
t = json.loads(trace.read_text())
events = sum(e["ph"] == "X" for e in t["traceEvents"])
check(done.returncode == 1 and events == 65536 and t["otherData"]["dropped"] == 200001 - 65536,
      "the ring can't grow, and tells what it lost", events, t["otherData"])
check(sorted(p.name for p in TMP.iterdir() if "json" in p.name) == ["t.json"], "nothing half-written stays")

done = hvrun(image("fault.bin", TRIPLE_FAULT))
check(done.returncode == 1 and "triple fault" in done.err.lower() and "rip" in done.err.lower(),
      "a triple fault is told with its registers", done.err)
