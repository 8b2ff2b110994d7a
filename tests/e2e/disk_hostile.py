#!/usr/bin/env python3
"""A guest that puts anything at all into a disk's rings, and resets it in the middle of requests: hvrun lives, says what
was wrong, answers the same to the same, and neither its memory nor its descriptors grow.

HV_HOSTILE_ROUNDS=1000000 asks for a longer torment than the usual one.
"""
# limit: 400
import re
import signal
from hvrun_lib import *

ROUNDS = int(os.environ.get("HV_HOSTILE_ROUNDS", "2000"))
LIMIT_S = 150 * STRETCH + ROUNDS // 50
GUEST = os.environ["GUESTS"] + "/virtio"
original = os.urandom(1 << 20)


def torment(spec, seed):
    """The guest's hash, and the most descriptors and memory that hvrun had after its first round and later."""
    with Running("--timeout", LIMIT_S, "--mem", "32M", "--disk", spec, "--append", f"hostile={ROUNDS} seed={seed}", GUEST) as run:
        fds, memory = [], []
        while run.p.poll() is None:
            try:
                fds.append(len(os.listdir(f"/proc/{run.p.pid}/fd")))
                status = pathlib.Path(f"/proc/{run.p.pid}/status").read_text()
                memory.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]))
            except (OSError, TypeError):  # it has just ended
                pass
            time.sleep(0.2)
        check(run.wait() == 33 and "virtio: all is well" in run.out, f"{spec.name}: seed {seed}", run.p.returncode, run.out, run.err)
        check("the guest's driver put " in run.err, "the log says what was wrong", run.err)
        check(run.err.count("warning") < 20, "and not too often", run.err.count("warning"))
    if len(fds) > 6 and STRETCH == 1:  # the first of them may have seen the start
        check(max(fds[3:]) <= fds[3], "no descriptor more", fds[3:])
        check(max(memory[3:]) <= memory[3] + 8192, "no memory more", memory[3:])
    return re.search(r"hash (0x[0-9a-f]+)", run.out)[1]


for form, seeds in (("raw", (1, 1, 2)), ("qcow2", (1,))):
    hashes = []
    for seed in seeds:
        path = TMP / f"disk.{form}"
        (TMP / "original").write_bytes(original)
        subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", form, TMP / "original", path], check=True)
        hashes.append(torment(path, seed))
        if form == "qcow2":
            subprocess.run(["qemu-img", "check", "-q", path], check=True)
    if len(hashes) > 1:
        check(hashes[0] == hashes[1], f"the same seed: the same run, {hashes[0]}", hashes)
        check(hashes[0] != hashes[2], "another seed: another one", hashes)
