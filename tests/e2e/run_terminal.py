#!/usr/bin/env python3
"""A person at a terminal: raw mode, escape keys, the console, and a terminal that is always given back."""
import os
import pty
import select
import signal
import termios
from hvrun_lib import *

echo = image("echo.bin", say("ready\n") + ECHO)
spin = image("spin.bin", say("ready\n") + SPIN)


class Terminal:
    """hvrun as the leader of a session on a pseudo-terminal of its own."""

    def __init__(self, *args):
        # The slave stays open here: its settings can be looked at after hvrun has gone.
        self.master, self.slave = pty.openpty()
        self.before = termios.tcgetattr(self.slave)
        self.seen = ""
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            os.close(self.master)
            os.dup2(self.slave, 0)
            import fcntl
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            os.dup2(self.slave, 1)
            os.dup2(self.slave, 2)
            os.execv(HVRUN, [HVRUN, "--timeout", str(50 * STRETCH), *args])

    def key(self, text):
        os.write(self.master, text.encode())

    def expect(self, text, why):
        def look():
            if select.select([self.master], [], [], 0.05)[0]:
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            return text in self.seen
        until(look, f"{why}: {text!r} in {self.seen[-300:]!r}")
        at = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:at], self.seen[at:]
        print("ok  ", why)
        return before

    def raw(self):
        return not termios.tcgetattr(self.slave)[3] & (termios.ICANON | termios.ECHO | termios.ISIG)

    def end(self):
        """The exit status, or minus the signal; the terminal must be as it was."""
        def reap():
            while select.select([self.master], [], [], 0)[0]:  # it may wait for its last lines to be read
                self.seen += os.read(self.master, 4096).decode(errors="replace")
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            return (status,) if pid else None
        status, = until(reap, "its end")
        check(termios.tcgetattr(self.slave) == self.before, "the terminal is as it was")
        if "Sanitizer" in self.seen:
            fail(self.seen)
        os.close(self.master)
        os.close(self.slave)
        return os.waitstatus_to_exitcode(status)


signal.alarm(100)

t = Terminal(echo)
t.expect("ready\r\n", "the guest runs")
check(t.raw(), "the terminal is raw")
t.key("ab\x03")
t.expect("ab\x03", "keys are the guest's, Ctrl-C too")
t.key("\x01h")
t.expect("Ctrl-A x", "Ctrl-A h helps")
t.key("\x01\x01z")
t.expect("\x01z", "Ctrl-A twice is Ctrl-A for the guest")
t.key("\x01c")
t.expect("(hvkit) ", "Ctrl-A c opens the console")
t.key("info regz\x7fs\r")
t.expect("RIP", "a command, mended with backspace, is answered")
t.expect("(hvkit) ", "and the prompt comes again")
t.key("nonsense\r")
t.expect("nonsense", "a command that isn't one is answered too")
t.expect("(hvkit) ", "with a prompt")
t.key("\x1b[A\x15quit\r")
t.expect("back to the guest", "quit leaves the console")
t.key("y")
t.expect("y", "keys are the guest's again")
t.key("\x01c")
t.expect("(hvkit) ", "the console again")
t.key("\x01c")
t.expect("back to the guest", "Ctrl-A c leaves it as well")
t.key("q")
check(t.end() == 11, "the guest's status")

t = Terminal(spin)
t.expect("ready\r\n", "a guest that reads nothing runs")
t.key("x" * 3000 + "\x01x")
check(t.end() == 0, "Ctrl-A x ends it even so")

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
    t = Terminal(spin)
    t.expect("ready\r\n", f"a run for {number.name}")
    os.kill(t.pid, number)
    check(t.end() == 0, f"{number.name} is an orderly end")
crashes = () if SAN else (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS)
for number in (signal.SIGUSR1, signal.SIGALRM, signal.SIGXCPU, *crashes):
    t = Terminal(spin)
    t.expect("ready\r\n", f"a run for {number.name}")
    os.kill(t.pid, number)
    check(t.end() == -number, f"{number.name} ends it as it always does")

t = Terminal(image("hello.bin", say("x") + leave(1)))
check(t.end() == 3, "a guest that ends at once")
t = Terminal(image("fault.bin", TRIPLE_FAULT))
check(t.end() == 1, "a guest that dies")
t = Terminal("/nonexistent")
check(t.end() == 1, "a guest that isn't there")

# A crash in any thread, sent to that very thread as the processor would: nothing of the run stays behind.
def blocked(pid, tid):
    status = pathlib.Path(f"/proc/{pid}/task/{tid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("SigBlk")).split()[1], 16)


def threads(pid):
    """All but those that KVM puts into the process: the C library lets no thread block signal 32, the kernel does."""
    all_of_them = map(int, os.listdir(f"/proc/{pid}/task"))
    return {tid: pathlib.Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip() for tid in all_of_them
            if not blocked(pid, tid) >> 31 & 1}


faults = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP, signal.SIGSYS, signal.SIGABRT)
runtime = pathlib.Path(os.environ["XDG_RUNTIME_DIR"], "hvkit")
for turn in range(1 if SAN else 20):
    t = Terminal("--name", "crash", "--trace", str(TMP / "crash.json"), "--gdb", f"unix:{TMP}/gdb.sock", spin)
    t.expect("ready\r\n", "a run to crash")
    until(lambda: len(threads(t.pid)) >= 5, "all threads")
    these = threads(t.pid)
    for tid, comm in these.items():
        if SAN and comm == "hvrun" and tid != t.pid:
            continue  # a thread of the sanitizer's own
        mask = blocked(t.pid, tid)
        check(not any(mask >> (n - 1) & 1 for n in faults), f"thread {comm} dies of its own faults by the handler", hex(mask))
    if SAN:
        t.key("\x01x")
        t.end()
        break
    victim = sorted(these)[turn % len(these)]
    libc.syscall(234, t.pid, victim, signal.SIGSEGV)
    check(t.end() == -signal.SIGSEGV, f"a crash in thread {these[victim]}")
    check(not list(runtime.glob("crash.*")), "no socket and no lock stay", list(runtime.glob("*")))
    check(not list(TMP.glob("crash.json*")), "no half trace stays", list(TMP.glob("crash*")))
    pathlib.Path(TMP, "gdb.sock").unlink(missing_ok=True)
    if turn >= len(these) - 1:
        break

# Ignored when it starts, ignored after: nohup, and jobs that a script put into the background.
with Running("--name", "nohup", spin, preexec_fn=lambda: [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3)]) as run:
    until(lambda: (runtime / "nohup.sock").exists(), "its socket")
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        run.p.send_signal(number)
    time.sleep(0.3)
    check(run.p.poll() is None, "a run under nohup goes on")
    run.p.terminate()
    check(run.wait() == 0, "and ends by SIGTERM")

# A virtio console on the terminal: its keys, and its size, which the guest waits for.
t = Terminal("--console", "stdio", "--serial", f"file:{TMP}/sized", "--append", "size=1 typed=1", f"{os.environ['GUESTS']}/virtio")
t.expect("a line for the console", "a virtio console on the terminal")
termios.tcsetwinsize(t.slave, (43, 132))
until(lambda: "132 columns and 43 rows" in (TMP / "sized").read_text(), "the guest sees the terminal's size")
t.key("\x01h")
t.expect("Ctrl-A x", "Ctrl-A h on a virtio console")
t.key("\x01\x01 typed\r")
check(t.end() == 33, "the guest gets what is typed")
check("console, '\x01 typed' was typed" in (TMP / "sized").read_text(), "Ctrl-A too", (TMP / "sized").read_text())

# Stopped as a shell's job is: the terminal is given back first.
t = Terminal(spin)
t.expect("ready\r\n", "a run to suspend")
os.kill(t.pid, signal.SIGTSTP)
time.sleep(0.3)
until(lambda: not t.raw(), "the terminal as the shell knows it")
os.kill(t.pid, signal.SIGCONT)
until(t.raw, "raw mode after SIGTSTP and SIGCONT")
t.key("\x01x")
check(t.end() == 0, "it goes on after both")

# Stopped and continued: the shell sets the terminal to its liking meanwhile.
t = Terminal(spin)
t.expect("ready\r\n", "a run to stop")
os.kill(t.pid, signal.SIGSTOP)
os.waitpid(t.pid, os.WUNTRACED)
termios.tcsetattr(t.slave, termios.TCSANOW, t.before)
os.kill(t.pid, signal.SIGCONT)
until(t.raw, "raw mode after SIGCONT")
t.key("\x01x")
check(t.end() == 0, "raw again after SIGCONT")
tidy()
