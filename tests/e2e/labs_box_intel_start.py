#!/usr/bin/env python3
"""The box with VT-x, started: KVM by VMX, output and status passed through, changes put back; a shell; and nothing stays."""
# limit: 900
# kvm: none
# once
import os
import pathlib
import pty
import pwd
import select
import shutil
import subprocess
import sys
import time

from labs_staff_lib import BUILD, SRC, TMP, check, run, skip

from kit import bochs

if os.environ.get("HVLAB_BOX"):
    skip("this is the box")
if os.environ.get("HV_SAN"):
    skip("no sanitized program runs in it")
if bochs.lacking():
    skip(f"missing: {' '.join(bochs.lacking())}: tests/deps bochs")
for cache in (SRC / "build-box", pathlib.Path(pwd.getpwuid(os.geteuid()).pw_dir, ".cache")):
    os.environ["XDG_CACHE_HOME"] = str(cache)
    if bochs.small_kernel():
        break
else:
    skip("a distribution's kernel takes minutes to start on Bochs; `make box-kernel` builds one that doesn't")

ENV = dict(os.environ, TMPDIR=str(TMP), BUILD=str(BUILD))
HVLAB = SRC / "labs" / "hvlab"
LIMIT = 400
WHERE = TMP / "with a blank"
WHERE.mkdir()
(WHERE / "hello.bin").write_bytes((BUILD / "guests/hello.bin").read_bytes())
(WHERE / "old").write_text("old\n")
shutil.copy2(BUILD / "bin/hvrun", WHERE / "hvrun")


def left():
    """What a box would leave behind: its emulator, its folder."""
    running = run("ps", "-eo", "args").stdout
    return [line for line in running.splitlines() if f"{TMP}/hvlab-box" in line] + list(TMP.glob("hvlab-box.*"))


done = subprocess.run([str(HVLAB), "box", "--cpu", "intel", "--pack", str(SRC / "LICENSE"), "--", "sh", "-c",
                       "test -w /dev/kvm && grep -o -m 1 vmx /proc/cpuinfo; pwd; printf 'a\\nb\\r\\n'; head -n 1 old; echo new >old; mkdir sub; "
                       f"echo made >sub/file; ls {SRC}/LICENSE; ./hvrun hello.bin; echo aside >&2; exit 7"],
                      env=ENV, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT, cwd=WHERE, check=False)
said = done.stdout
check(done.returncode == 7, "the status of the command is the box's", done.returncode, said, done.stderr[-1500:])
lines = said.split(b"\n")
check(lines[0] == b"vmx", "it has VT-x and a /dev/kvm that can be written to", said)
check(lines[1] == os.fsencode(WHERE), "it is in the same folder", said)
check(b"a\nb\r\nold\n" in said and b"aside" in said, "its output comes through byte for byte", said)
check(os.fsencode(SRC / "LICENSE") in said, "what --pack names is there", said)
check(b"Hello from real mode!" in said, "a VM runs there", said)
check((WHERE / "old").read_text() == "new\n" and (WHERE / "sub/file").read_text() == "made\n", "changes are here")
check(not left(), "nothing stays", left())

ours, theirs = pty.openpty()
shell = subprocess.Popen([str(HVLAB), "box", "--cpu", "intel"], env={**ENV, "SHELL": "/bin/sh", "PS1": "ready> "}, cwd=WHERE, stdin=theirs,
                         stdout=theirs, stderr=subprocess.DEVNULL)
os.close(theirs)
text, typed, end = b"", False, time.monotonic() + LIMIT
while time.monotonic() < end and shell.poll() is None:
    if select.select([ours], [], [], 0.5)[0]:
        try:
            text += os.read(ours, 4096)
        except OSError:
            break
    if not typed and (b"# " in text or b"> " in text):
        typed = True
        os.write(ours, b"echo $((6 * 7)) >answer; exit 5\r")
status = shell.wait(30)
os.close(ours)
check(status == 5 and (WHERE / "answer").read_text() == "42\n", "a shell can be talked to", status, text[-800:])

last = subprocess.Popen([str(HVLAB), "box", "--cpu", "intel", "--", "sleep", "1000"], env=ENV, stdin=subprocess.DEVNULL, cwd=WHERE,
                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
while last.poll() is None and not any("bochs" in str(line) for line in left()) and time.monotonic() < end + LIMIT:
    time.sleep(0.3)
last.terminate()
last.communicate(timeout=60)
check(last.returncode != 0 and not left(), "ended from outside, it takes its machine along", last.returncode, left())
sys.exit(0)
