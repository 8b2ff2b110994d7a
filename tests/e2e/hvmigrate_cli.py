#!/usr/bin/env python3
"""hvmigrate's command line: every command, option and exit status, the JSON, the progress, being stopped."""
# limit: 400
# kvm: none
import hashlib
import signal
from hvmigrate_common import *

MIB = 1 << 20
qemu_img = tool("qemu-img")


def qemu(*args):
    subprocess.run([qemu_img, *map(str, args)], check=True, stdout=subprocess.DEVNULL, cwd=TMP)


def same(name, a, b):
    check(pathlib.Path(TMP, a).read_bytes() == pathlib.Path(TMP, b).read_bytes(), name)


disk = sparse("disk.raw", 9 * MIB, (MIB, pattern(MIB + 700, 1)), (6 * MIB + 100, pattern(2 * MIB, 2)))
qemu("convert", "-f", "raw", "-O", "vpc", "-o", "force_size=on", "disk.raw", "disk.vhd")
cut = write("cut.vhd", (TMP / "disk.vhd").read_bytes()[:-3 * MIB // 2])

# --- help, version, wrong usage --------------------------------------------------------------------------------------

done = hvmigrate("--help")
check(done.returncode == 0 and "convert" in done.out and not done.err, "--help")
check(max(map(len, done.out.splitlines())) <= 80, "its lines fit", max(done.out.splitlines(), key=len))
COMMANDS = ("info", "convert", "check", "map", "compare", "import", "formats")
for command in COMMANDS:
    own = hvmigrate(command, "--help")
    check(own.returncode == 0 and own.out == hvmigrate("help", command).out and f"hvmigrate {command}" in own.out,
          f"{command} --help")
    for option in set(re.findall(r"--[a-z-]+", own.out)):
        check(option in done.out, f"--help knows {option} of {command}")
check(re.fullmatch(r"hvmigrate \(hvkit\) [\d.]+\n", hvmigrate("--version").out), "--version")

refused("no command", hvmigrate(), 2, "--help")
refused("an unknown command", hvmigrate("transmogrify"), 2, "transmogrify")
refused("an unknown option", hvmigrate("info", "--frobnicate", disk), 2, "--help")
refused("an option of another command", hvmigrate("map", "--verify", disk), 2, "--verify is not for")
refused("too few arguments", hvmigrate("convert", disk), 2, "SRC DST")
refused("no such format", hvmigrate("info", "-f", "zip", disk), 2, "zip")
refused("no such subformat", hvmigrate("convert", "-O", "vhd:thin", disk, "x"), 2, "thin", "dynamic, fixed")
refused("no threads", hvmigrate("convert", "-j", "0", disk, "x"), 2, "--threads")
refused("no such file", hvmigrate("info", "missing.vhd"), 1, "missing.vhd")
refused("a folder", hvmigrate("info", TMP), 1, str(TMP))
refused("no such source", hvmigrate("convert", "missing.raw", "x.raw"), 1, "missing.raw")
refused("an unreachable destination", hvmigrate("convert", "-q", disk, "no/such/folder/x.raw"), 1, "no/such/folder")
done = hvmigrate("info", "--json", "missing.vhd")
check(done.returncode == 1 and json.loads(done.out)["status"] == 1 and "missing.vhd" in json.loads(done.out)["error"],
      "a failure in JSON", done.out)

# --- formats, info ---------------------------------------------------------------------------------------------------

listed = {f["format"]: f for f in json.loads(hvmigrate("formats", "--json").out)}
check(listed["raw"]["writes"] and listed["vhd"]["subformats"][0] == "dynamic" and "img" in listed["raw"]["extensions"],
      "formats --json")
check(all(name in hvmigrate("formats").out for name in listed), "formats")

done = hvmigrate("info", "disk.vhd")
check(done.returncode == 0 and re.search(r"^virtual size +9 MiB \(9437184 bytes\)$", done.out, re.M)
      and "vhd dynamic" in done.out, "info", done.out)
info = json.loads(hvmigrate("info", "--json", "disk.vhd").out)
check(info["format"] == "vhd" and info["subformat"] == "dynamic" and info["virtual-size"] == 9 * MIB
      and info["file-size"] == (TMP / "disk.vhd").stat().st_size and info["sector-size"] == 512
      and info["block-size"] == 2 * MIB and len(info["chs"]) == 3 and info["files"] == ["disk.vhd"]
      and info["parent"] is False and info["notes"] == [] and info["properties"], "info --json", info)
check(json.loads(hvmigrate("info", "--json", "-f", "raw", "disk.vhd").out)["format"] == "raw", "-f is believed")
check(json.loads(hvmigrate("info", "--json", "-f", "vpc", "disk.vhd").out)["format"] == "vhd", "vpc is vhd")
check(json.loads(hvmigrate("info", "--json", "--chain", "disk.vhd").out)["chain"] == [], "--chain without parents")

# --- chains, and files that an image leads to ------------------------------------------------------------------------

(TMP / "chain").mkdir()
(TMP / "elsewhere").mkdir()
qemu("convert", "-f", "raw", "-O", "qcow2", "disk.raw", "elsewhere/base.qcow2")
shutil.copy(TMP / "elsewhere/base.qcow2", TMP / "chain/base.qcow2")
qemu("create", "-f", "qcow2", "-b", "base.qcow2", "-F", "qcow2", "chain/top.qcow2")
qemu("create", "-f", "qcow2", "-b", TMP / "elsewhere/base.qcow2", "-F", "qcow2", "chain/out.qcow2")
done = hvmigrate("info", "chain/top.qcow2")
check(done.returncode == 0 and "base.qcow2" in done.out and "--chain" in done.err, "info of an overlay", done.out, done.err)
done = hvmigrate("info", "--chain", "chain/top.qcow2")
check(re.search(r"^chain\n  chain/top.qcow2  qcow2 .*\n    chain/base.qcow2  qcow2 .*\n\Z", done.out, re.M), "info --chain", done.out)
info = json.loads(hvmigrate("info", "--chain", "--json", "chain/top.qcow2").out)
check(info["parent"] and [p["path"] for p in info["chain"]] == ["chain/base.qcow2"] and not info["chain"][0]["parent"],
      "info --chain --json", info)
runs = json.loads(hvmigrate("map", "--json", "chain/top.qcow2").out)
check({r["depth"] for r in runs if r["kind"] == "data"} == {1}, "the map knows the depth", runs)
refused("a parent in another tree", hvmigrate("convert", "-q", "chain/out.qcow2", "chain.raw"), 3, "--allow-external")
done = hvmigrate("check", "chain/out.qcow2")
check(done.returncode == 3 and "--allow-external" in done.out, "check tells of it", done.out)
done = hvmigrate("convert", "--allow-external", TMP / "elsewhere/base.qcow2", "chain/out.qcow2", "chain.raw")
check(done.returncode == 0, "--allow-external", done.err)
same("and the bytes are its", "disk.raw", "chain.raw")
refused("onto a parent", hvmigrate("convert", "--force", "chain/top.qcow2", "chain/base.qcow2"), 2, "part of the source")
os.unlink(TMP / "chain/base.qcow2")
refused("a parent that is gone", hvmigrate("map", "chain/top.qcow2"), 1, "base.qcow2")
check(hvmigrate("info", "chain/top.qcow2").returncode == 0, "info works without it")

write("whole.vmdk", b"""# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="fullDevice"
RW 18432 FLAT "/dev/null" 0
ddb.virtualHWVersion = "4"
""")
refused("a VMDK of a device", hvmigrate("convert", "-q", "whole.vmdk", "x.raw"), 1, "--raw-devices")
refused("that alone is not enough", hvmigrate("convert", "-q", "--raw-devices", "whole.vmdk", "x.raw"), 3, "--allow-external")

qemu("convert", "-f", "raw", "-O", "vhdx", "disk.raw", "disk.vhdx")
before = (TMP / "disk.vhdx").read_bytes()
done = hvmigrate("check", "--replay-log", "disk.vhdx")
check(done.returncode == 0 and (TMP / "disk.vhdx").read_bytes() == before, "--replay-log with nothing to replay", done.err)

# --- map -------------------------------------------------------------------------------------------------------------

runs = json.loads(hvmigrate("map", "--json", "disk.raw").out)
check(sum(r["length"] for r in runs) == 9 * MIB and all(a["offset"] + a["length"] == b["offset"] for a, b in zip(runs, runs[1:])),
      "map --json covers the disk")
check(all(a["kind"] != b["kind"] for a, b in zip(runs, runs[1:])), "runs of a kind are one")
check([r for r in runs if r["kind"] == "data"] == [
    {**r, "depth": 0, "encoding": "plain", "file": "disk.raw", "file-offset": r["offset"]} for r in runs if r["kind"] == "data"],
    "and tells where data is", runs)
check(set(runs[0]) == {"offset", "length", "kind"}, "of a hole there is nothing more to tell", runs[0])
text = hvmigrate("map", "disk.raw").out.splitlines()
check(len(text) == len(runs) + 1 and text[0].split() == ["offset", "length", "kind", "file", "offset", "depth", "file"]
      and [int(line.split()[0], 16) for line in text[1:]] == [r["offset"] for r in runs], "map")
image, data = (TMP / "disk.vhd").read_bytes(), (TMP / "disk.raw").read_bytes()
for r in json.loads(hvmigrate("map", "--json", "disk.vhd").out):
    if r["kind"] == "data":
        check(image[r["file-offset"]:][:r["length"]] == data[r["offset"]:][:r["length"]], f"the run at {r['offset']} is there")
empty = write("empty.raw", b"")
check(hvmigrate("map", "--json", empty).out == "[]\n", "an empty disk has an empty map")
big = sparse("big.raw", 2 << 40, (1 << 40, b"x"))
done = hvmigrate("map", "--json", big)
check(done.returncode == 0 and len(json.loads(done.out)) == 3, "a map of 2 TiB")
done = hvmigrate("map", "--json", cut)
check(done.returncode == 3 and json.loads(done.out)[-1]["status"] == 3 and "cut.vhd" in done.err,
      "a map that breaks off says so", done.returncode, done.out, done.err)

# --- check -----------------------------------------------------------------------------------------------------------

done = hvmigrate("check", "disk.vhd")
check(done.returncode == 0 and "no errors" in done.out, "check", done.out)
done = hvmigrate("check", "--json", "disk.vhd")
found = json.loads(done.out)
check(found["errors"] == found["leaks"] == 0 and found["findings"] == [] and 0 < found["used"] <= found["blocks"],
      "check --json", found)
done = hvmigrate("check", cut)
check(done.returncode == 3 and "\nerror: " in "\n" + done.out, "check of a cut image", done.returncode, done.out, done.err)
done = hvmigrate("check", "--json", cut)
found = json.loads(done.out)
check(done.returncode == 3 and found["errors"] == sum(f["severity"] == "error" for f in found["findings"]) > 0
      and all(f["text"] for f in found["findings"]), "check --json of a cut image", found)

# --- convert ---------------------------------------------------------------------------------------------------------

done = hvmigrate("convert", "disk.vhd", "out.raw")
check(done.returncode == 0 and not done.out and "disk.vhd (vhd dynamic, 9 MiB) to out.raw (raw)" in done.err, "convert says what it does",
      done.err)
same("the same bytes", "disk.raw", "out.raw")
check((TMP / "out.raw").stat().st_blocks * 512 <= 7 * MIB, "with holes")
refused("a destination that exists", hvmigrate("convert", "disk.vhd", "out.raw"), 1, "out.raw exists already", "--force")
same("is left as it was", "disk.raw", "out.raw")
write("out.raw", b"old")
done = hvmigrate("convert", "--force", "-q", "disk.vhd", "out.raw")
check(done.returncode == 0 and not done.out and not done.err, "--force --quiet says nothing", done.err)
same("--force replaces it", "disk.raw", "out.raw")

os.link(TMP / "disk.raw", TMP / "link.raw")
refused("onto itself", hvmigrate("convert", "--force", "disk.raw", "disk.raw"), 2, "part of the source")
refused("onto itself by another name", hvmigrate("convert", "--force", "disk.raw", "link.raw"), 2, "part of the source")
os.unlink(TMP / "link.raw")
os.symlink("disk.raw", TMP / "symlink.raw")
refused("onto itself by a link", hvmigrate("convert", "--force", "disk.raw", "symlink.raw"), 2, "part of the source")
os.symlink("elsewhere.raw", TMP / "dangling.raw")
refused("onto a link", hvmigrate("convert", "-q", "--force", "disk.raw", "dangling.raw"), 1, "symbolic link")
refused("onto a device without its option", hvmigrate("convert", "-q", "--force", "disk.raw", "/dev/null"), 1, "/dev/null")
refused("no device where one is said", hvmigrate("convert", "--overwrite-device", "disk.raw", "x.raw"), 2, "no block device")

for name, kind in (("by.vhd", "vpc"), ("by.VHD", "vpc"), ("by.img", "raw"), ("by.unknown", "raw"), ("by", "raw")):
    done = hvmigrate("convert", "disk.raw", name)
    check(done.returncode == 0 and f"to {name} ({'vhd dynamic' if kind == 'vpc' else kind})" in done.err, f"{name} is {kind}", done.err)
    qemu("compare", "-F", kind, "disk.raw", name)
done = hvmigrate("convert", "-O", "vhd:fixed", "disk.raw", "fixed.disk")
check(done.returncode == 0 and json.loads(hvmigrate("info", "--json", "fixed.disk").out)["subformat"] == "fixed", "-O vhd:fixed")
done = hvmigrate("convert", "-O", "VPC:Dynamic", "disk.raw", "case.disk")
check(done.returncode == 0 and json.loads(hvmigrate("info", "--json", "case.disk").out)["subformat"] == "dynamic", "-O in any case")
refused("sectors that the format can't have", hvmigrate("convert", "-q", "-O", "vhd", "--sector-size", 4096, "disk.raw", "x.vhd"), 2, "4096")
check(not (TMP / "x.vhd").exists() and not (TMP / "x.vhd.partial").exists(), "leaves nothing")
done = hvmigrate("convert", "--block-size", "512K", "disk.raw", "half.vhd")
check(done.returncode == 0 and json.loads(hvmigrate("info", "--json", "half.vhd").out)["block-size"] == MIB // 2, "--block-size", done.err)
qemu("compare", "-F", "vpc", "disk.raw", "half.vhd")

digest = hashlib.sha256(data).hexdigest()
done = hvmigrate("convert", "--force", "--verify", "--digest", "-j2", "disk.vhd", "out.raw")
check(done.returncode == 0 and done.out == f"{digest}  out.raw\n" and "read back" in done.err, "--verify --digest", done.out, done.err)
done = subprocess.run([HVMIGRATE, "convert", "--digest", "disk.vhd", "-"], capture_output=True, cwd=TMP, check=False, timeout=LIMIT)
check(done.returncode == 0 and done.stdout == data and f"{digest}  -".encode() in done.stderr, "to standard output", done.stderr)
refused("standard output, and another format", hvmigrate("convert", "-O", "vhd", "disk.raw", "-"), 2, "only raw")
with open("/dev/full", "wb") as full:
    done = hvmigrate("convert", "-q", "disk.raw", "-", stdout=full)
    check(done.returncode == 1 and done.err.startswith("hvmigrate: "), "standard output that is full", done.err)
reader, writer = os.pipe()
os.close(reader)
done = hvmigrate("convert", "-q", "disk.raw", "-", stdout=writer)
os.close(writer)
check(done.returncode == 1 and "pipe" in done.err, "a pipe that nobody reads", done.returncode, done.err)

zeros = write("zeros.raw", bytes(2 * MIB) + data[MIB:2 * MIB] + bytes(2 * MIB))
check(hvmigrate("convert", "--sparse", "zeros.raw", "thin.raw").returncode == 0, "--sparse")
same("has the same bytes", "zeros.raw", "thin.raw")
check((TMP / "thin.raw").stat().st_blocks * 512 <= MIB + 65536, "and zeros become holes", (TMP / "thin.raw").stat().st_blocks)
check(hvmigrate("convert", "--full", "disk.raw", "full.raw").returncode == 0, "--full")
same("has the same bytes", "disk.raw", "full.raw")
check((TMP / "full.raw").stat().st_blocks * 512 >= 9 * MIB, "and no hole is left")
check(hvmigrate("convert", "empty.raw", "empty2.raw").returncode == 0 and (TMP / "empty2.raw").stat().st_size == 0, "an empty disk")

# --- damage ----------------------------------------------------------------------------------------------------------

refused("a cut image", hvmigrate("convert", "-q", cut, "cut.raw"), 3, "cut.vhd")
check(not (TMP / "cut.raw").exists(), "gives nothing under the final name")
done = hvmigrate("convert", "--salvage", "--json", cut, "cut.raw")
events = [json.loads(line) for line in done.out.splitlines()]
lost = [e for e in events if e["event"] == "lost"]
check(done.returncode == 3 and lost and all(e["why"] for e in lost), "--salvage lists what is lost, status 3", done.returncode, done.out)
got, at = (TMP / "cut.raw").read_bytes(), 0
check(len(got) == len(data), "the size is right")
for e in lost:
    check(got[at:e["offset"]] == data[at:e["offset"]] and not any(got[e["offset"]:e["offset"] + e["length"]]),
          f"up to {e['offset']} the same, then zeros")
    at = e["offset"] + e["length"]
check(got[at:] == data[at:] and sum(e["length"] for e in lost) == events[-2]["lost"], "the rest is the same", events[-2])

# --- compare ---------------------------------------------------------------------------------------------------------

done = hvmigrate("compare", "disk.raw", "disk.vhd")
check(done.returncode == 0 and done.out.startswith("same: "), "compare", done.out)
changed = bytearray(data)
changed[6 * MIB + 5] ^= 1
changed[8 * MIB + 5] ^= 1
write("changed.raw", changed)
done = hvmigrate("compare", "changed.raw", "disk.vhd")
check(done.returncode == 1 and f"offset {6 * MIB + 5} (0x600005)" in done.out and "1 KiB" in done.out, "where they differ", done.out)
result = json.loads(hvmigrate("compare", "--json", "-F", "vhd", "changed.raw", "disk.vhd").out)
check(result == {"same": False, "sizes": [9 * MIB] * 2, "offset": 6 * MIB + 5, "length": result["length"], "differing": 1024}
      and 0 < result["length"] <= 512, "compare --json", result)
sparse("longer.raw", 10 * MIB)
with open(TMP / "longer.raw", "r+b") as f:
    f.write(data)
done = hvmigrate("compare", "disk.raw", "longer.raw")
check(done.returncode == 0 and "longer.raw is longer by 1 MiB" in done.out and "zeros" in done.out, "longer by zeros", done.out)
done = hvmigrate("compare", "disk.raw", cut)
check(done.returncode in (1, 3), "a cut image is never the same", done.returncode)

# --- events ----------------------------------------------------------------------------------------------------------

done = hvmigrate("convert", "--json", "--force", "--digest", "--verify", "disk.vhd", "out.raw")
events = [json.loads(line) for line in done.out.splitlines()]
check([e["event"] for e in events if e["event"] not in ("verify", "progress")] == ["start", "done"] and not done.err, "events of a short run", done.out, done.err)
check(events[0] == {"event": "start", "source": "disk.vhd", "source-format": "vhd dynamic", "destination": "out.raw",
                    "destination-format": "raw", "size": 9 * MIB}, "start", events[0])
end = events[-1]
check(end["sha256"] == digest and end["size"] == 9 * MIB and end["copied"] + end["skipped"] == 9 * MIB and end["lost"] == 0
      and end["verified"] and end["seconds"] > 0, "done", end)
done = hvmigrate("convert", "--json", "disk.vhd", "out.raw")
check(done.returncode == 1 and json.loads(done.out.splitlines()[-1])["event"] == "error"
      and json.loads(done.out.splitlines()[-1])["status"] == 1, "error", done.out)
done = subprocess.run([HVMIGRATE, "convert", "--json", "disk.vhd", "-"], capture_output=True, cwd=TMP, check=False, timeout=LIMIT)
check(done.stdout == data and json.loads(done.stderr.splitlines()[-1])["event"] == "done", "events beside a disk on standard output")

# --- names that are text from elsewhere ----------------------------------------------------------------------------------

evil = "e\033[31m\u202evil\n.raw"
write(evil, bytes(512))
done = hvmigrate("info", evil)
check(done.returncode == 0 and "\033" not in done.out and "\u202e" not in done.out and "e?[31m?vil?.raw" in done.out,
      "a name can't steer the terminal", done.out)
check(json.loads(hvmigrate("info", "--json", evil).out)["path"] == evil, "in JSON it is as it is")
odd = os.fsencode(str(TMP)) + b"/\xff\xc0\x80.raw"
with open(odd, "wb"):
    pass
check(json.loads(hvmigrate("info", "--json", os.fsdecode(odd)).out)["path"].endswith("/\ufffd\ufffd\ufffd.raw"), "bytes that are no UTF-8")
os.unlink(odd)

# --- progress, and being stopped: a source that takes its time ----------------------------------------------------------

with Slow(pattern(3 * MIB, 9)) as slow:
    t = Terminal("convert", "-j1", slow.uri, "slow.raw")
    t.expect("% ▕", "a bar on a terminal")
    t.expect("copied, ", "with figures")
    check(t.end() == 0, "it ends")
    last = t.seen.decode().split("\r")
    bars = [line for line in last if "▕" in line]
    check(all(len(re.sub(r"\033\[K", "", line)) <= 79 for line in bars), "that fits the screen", bars[:1])
    check(len(bars) >= 3 and "\r\033[K" in t.seen.decode().rpartition("▏")[2], "and is taken away at the end")
    check((TMP / "slow.raw").read_bytes() == bytes(slow.data), "the bytes are right")

    t = Terminal("convert", "--force", "-j1", slow.uri, "slow.raw", columns=40, env={"LC_ALL": "C"})
    t.expect("% [", "ASCII where the locale has no more")
    t.resize(20)
    t.end()
    check(b"\xe2" not in t.seen, "nothing else")

    t = Terminal("convert", "--force", "-j1", "--progress=none", slow.uri, "slow.raw")
    t.end()
    check("%" not in t.seen.decode(), "--progress=none")
    t = Terminal("convert", "--force", "-j1", "-q", slow.uri, "slow.raw")
    check(t.end() == 0 and not t.seen, "--quiet", t.seen)

    done = hvmigrate("convert", "--force", "-j1", "--progress=bar", slow.uri, "slow.raw")
    check("%" in done.err and "\r" in done.err, "--progress=bar without a terminal")
    done = hvmigrate("convert", "--force", "-j1", slow.uri, "slow.raw")
    check("%" not in done.err, "no line for a short run", done.err)

    out, into = os.pipe()
    t = Terminal("convert", "-j1", slow.uri, "-", stdout=into)
    os.close(into)
    threading.Thread(target=lambda: [None for _ in iter(lambda: os.read(out, 65536), b"")], daemon=True).start()
    t.expect("% ▕", "a bar while the disk goes through a pipe")
    check(t.end() == 0, "it ends")

with Slow(pattern(12 * MIB, 9)) as slow:
    slow.delay = 0.5
    t = Terminal("convert", "-j1", slow.uri, "stopped.raw")
    t.expect("% ▕", "a conversion")
    t.key("\x03")
    status = t.end()
    check(status == -signal.SIGINT and "stopped at " in t.seen.decode(), "Ctrl-C stops it, by that signal", status, t.seen[-200:])
    check(not (TMP / "stopped.raw").exists(), "nothing under the final name")

    p = subprocess.Popen([HVMIGRATE, "convert", "-j1", "--json", slow.uri, "stopped2.raw"], stdout=subprocess.PIPE, cwd=TMP)
    while json.loads(p.stdout.readline())["event"] != "progress":
        pass
    check(True, "progress events")
    p.terminate()
    rest = [json.loads(line) for line in p.stdout]
    check(p.wait(LIMIT) == -signal.SIGTERM and rest[-1]["event"] == "error" and "resumable" in rest[-1], "SIGTERM", rest)
    check(not (TMP / "stopped2.raw").exists(), "nothing under the final name")

    p = subprocess.Popen([HVMIGRATE, "convert", "-j1", slow.uri, "lines.raw"], stderr=subprocess.PIPE, cwd=TMP)
    line = ""
    while "%" not in line:
        line = p.stderr.readline().decode()
    check(re.fullmatch(r"hvmigrate: \d+%, \S+ \S+ copied, \S+ \S+ holes, \S+ \S+/s, [\d:-]+ left\n", line), "a line now and then", line)
    p.kill()
    p.communicate()
    check(not (TMP / "lines.raw").exists(), "killed: nothing under the final name")

# --- resume ----------------------------------------------------------------------------------------------------------

blob = write("blob.raw", pattern(24 * MIB, 11))
done = hvmigrate("convert", "--resume", blob, "fresh.raw")
check(done.returncode == 0, "--resume with nothing to go on with starts anew", done.err)
same("and is right", "blob.raw", "fresh.raw")
refused("what is complete is not resumed", hvmigrate("convert", "--resume", blob, "fresh.raw"), 1, "exists already")
