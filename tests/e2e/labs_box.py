#!/usr/bin/env python3
"""The box: a command there has the machine's files, KVM by AMD-V, its output and status passed through; and leaves nothing."""
# limit: 420
# once
# kvm: none
import os
import pathlib
import shutil
import subprocess
import sys
import time

from labs_staff_lib import SRC, TMP, check, run, skip

if os.environ.get("HVLAB_BOX"):
    skip("this is the box")
if os.environ.get("HV_SAN"):
    skip("no sanitized program runs in it")
for tool, package in (("qemu-system-x86_64", "qemu-system-x86"), ("busybox", "busybox-static")):
    if not shutil.which(tool):
        skip(f"{tool} is missing ({package}): tests/deps box")

# The kernel is fetched once for all builds, not once for each test's own home.
CACHE = SRC / "build-box"
ENV = dict(os.environ, XDG_CACHE_HOME=str(CACHE), TMPDIR=str(TMP), HV_STRETCH="10")
HVLAB = SRC / "labs" / "hvlab"
WHERE = TMP / "with a blank"
WHERE.mkdir()


def box(*words, limit=400, **more):
    return subprocess.run([str(HVLAB), "box", *words], env=ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=limit,
                          cwd=WHERE, check=False, **more)


def left():
    """What a box would leave behind: its emulator, its folder."""
    running = run("ps", "-eo", "args").stdout
    return [line for line in running.splitlines() if f"{TMP}/hvlab-box" in line] + list(TMP.glob("hvlab-box.*"))


done = run(HVLAB, "box", "--memory", "1", status=2, env=ENV)
check("256 MiB" in done.stderr, "too little memory is refused before anything is fetched", done.stderr)
done = run(HVLAB, "box", "--kernel", TMP / "none", "--", "true", status=1, env=ENV)
check("none" in done.stderr, "a folder without a kernel is refused", done.stderr)
run(HVLAB, "box", "--help", env=ENV)
for command in (("grade", "1"), ("watch", "1", "--times", "1")):
    done = run(HVLAB, *command, status=1, env={**ENV, "HV_KVM_DEVICE": "/nonexistent"})
    check(f"hvlab box -- hvlab {command[0]} 1" in done.stderr, f"{command[0]} without KVM says where to go", done.stderr)

first = box("--", "sh", "-c", "test -w /dev/kvm && grep -o -m 1 svm /proc/cpuinfo; pwd; printf 'a\\nb\\r\\n'; echo later >made; "
            "echo aside >&2; exit 7")
if b"can't be fetched" in first.stderr or b"no kernel package" in first.stderr:
    skip(f"no kernel can be fetched here: {first.stderr.decode().strip()}")
check(first.returncode == 7, "the status of the command is the box's", first.returncode, first.stdout, first.stderr[-500:])
lines = first.stdout.split(b"\n")
check(lines[0] == b"svm", "it has AMD-V and a /dev/kvm that can be written to", first.stdout)
check(lines[1] == os.fsencode(WHERE), "it is in the same folder", first.stdout)
check(b"a\nb\r\n" in first.stdout and b"aside" in first.stdout, "its output comes through byte for byte", first.stdout)
check((WHERE / "made").read_text() == "later\n", "and its files are here")
check(not left(), "nothing stays", left())

hello = pathlib.Path(os.environ["BUILD"])
(WHERE / "seen").write_text("old")
shell = subprocess.Popen([str(HVLAB), "box", "--cache", "no", "--", "sh", "-c", "cat seen; until [ -e go ]; do sleep 0.2; done; cat seen"],
                         env=ENV, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=WHERE)
text = shell.stdout.read(3)
(WHERE / "seen").write_text("new")
(WHERE / "go").touch()
text += shell.communicate(timeout=300)[0]
check(text == b"oldnew", "without a cache, changes made outside are seen", text)

second = box("--", str(hello / "bin/hvrun"), "--stats", str(hello / "guests/hello.bin"))
check(second.returncode == 0 and b"Hello from real mode!" in second.stdout, "a VM runs there", second.stdout, second.stderr[-500:])

third = subprocess.Popen([str(HVLAB), "box", "--", "sleep", "1000"], env=ENV, stdin=subprocess.DEVNULL, cwd=WHERE,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
time.sleep(2)
third.terminate()
third.communicate(timeout=60)
check(third.returncode != 0 and not left(), "ended from outside, it takes its machine along", third.returncode, left())
sys.exit(0)
