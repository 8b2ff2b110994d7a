#!/usr/bin/env python3
"""hvctl on a terminal: prompt, completion, history, events above the prompt, Ctrl-C, a VM that ends, and the terminal as
it was afterwards; and hvctl fed by a pipe."""
import os
import pty
import re
import select
import subprocess
import termios
import time

from qmp_common import HVCTL, LIMIT, TMP, vm

STATE = TMP / "state"
STATE.mkdir()
ENV = {**os.environ, "XDG_STATE_HOME": str(STATE), "TERM": "xterm", "INPUTRC": os.devnull, "COLUMNS": "120"}


class Terminal:
    def __init__(self, *words):
        self.main, self.tty = pty.openpty()
        self.before = termios.tcgetattr(self.tty)
        self.process = subprocess.Popen([HVCTL, *words], stdin=self.tty, stdout=self.tty, stderr=self.tty, env=ENV,
                                        start_new_session=True,
                                        preexec_fn=lambda: __import__("fcntl").ioctl(0, termios.TIOCSCTTY, 0))
        self.seen = ""

    def expect(self, pattern):
        """Waits until what came since the last match matches; forgets it."""
        end = time.monotonic() + LIMIT
        while not (found := re.search(pattern, self.seen)):
            left = end - time.monotonic()
            assert left > 0, f"nothing like {pattern!r} in {self.seen!r}"
            if select.select([self.main], [], [], left)[0]:
                self.seen += os.read(self.main, 65536).decode(errors="replace")
        self.seen = self.seen[found.end():]

    def type(self, text):
        os.write(self.main, text.encode())

    def leave(self):
        self.type("\x04")
        assert self.process.wait(LIMIT) == 0
        after = termios.tcgetattr(self.tty)
        assert after[:4] == self.before[:4], "the terminal is not as it was"
        os.close(self.main)
        os.close(self.tty)


with vm("interactive") as process:
    t = Terminal("interactive")
    t.expect("`help` lists")
    t.expect("interactive> ")
    t.type("stat\t\r")
    t.expect("interactive: running")
    t.expect("interactive> ")
    t.type("info dev\t\r")
    t.expect("serial0")
    t.expect("interactive> ")
    t.type("bogus\r")
    t.expect("there is no command 'bogus'")
    t.expect("interactive> ")
    # Someone else pauses the VM while a line is being typed: it is told above, and the line goes on.
    t.type("stat")
    t.expect("stat")
    subprocess.run([HVCTL, "interactive", "pause"], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT)
    t.expect(r"\[VM 'interactive': STOP\]")
    t.expect("interactive> stat")
    t.type("us\r")
    t.expect("interactive: paused")
    t.expect("interactive> ")
    t.type("resume\r")
    t.expect("running")
    # Ctrl-C gives up the line, not hvctl.
    t.type("stop")
    t.expect("stop")
    t.type("\x03")
    t.expect("interactive> ")
    t.type("status\r")
    t.expect("interactive: running")
    t.expect("interactive> ")  # an end of input while no line is being read would be swallowed with the terminal's mode
    t.leave()
    assert "info devices" in (STATE / "hvkit/hvctl_history").read_text()
    assert (STATE / "hvkit/hvctl_history").stat().st_mode & 0o077 == 0

    # Without a name: the list, then a VM is chosen by a completed name; history is there again.
    t = Terminal()
    t.expect("interactive +running")
    t.expect("hvctl> ")
    t.type("status\r")
    t.expect("no VM chosen")
    t.type("use inter\t\r")
    t.expect("interactive> ")
    t.type("\x12info dev")
    t.expect("info dev")
    t.type("\r")
    t.expect("serial0")
    # The VM ends under us: one sentence, and the prompt without it.
    subprocess.run([HVCTL, "interactive", "stop"], check=True, stdout=subprocess.DEVNULL, timeout=LIMIT)
    t.expect("SHUTDOWN, host-qmp-quit")
    t.expect("VM 'interactive' has ended")
    t.expect("hvctl> ")
    t.leave()
    assert process.wait(LIMIT) == 0

with vm("piped") as process:
    done = subprocess.run([HVCTL, "piped"], input="status\n\ninfo cpus\nbogus\nquit\nstop\n", text=True, capture_output=True,
                          timeout=LIMIT)
    assert done.returncode == 2, done
    assert "piped: running" in done.stdout and "THREAD" in done.stdout and "bogus" in done.stderr
    # `wait` tells how a VM ends.
    waiting = subprocess.Popen([HVCTL, "piped", "wait"], stdout=subprocess.PIPE, text=True)
    time.sleep(0.3)
    done = subprocess.run([HVCTL, "piped"], input="stop\n", text=True, capture_output=True, timeout=LIMIT)
    assert done.returncode == 0, done
    assert "SHUTDOWN" in waiting.communicate(timeout=LIMIT)[0] and waiting.returncode == 0
    assert process.wait(LIMIT) == 0
