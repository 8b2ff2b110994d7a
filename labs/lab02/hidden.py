"""Lab 2's hidden tests: edges, and exits that come seldom. The same means as in tests.py."""
from kit.testing import test

WAIT = 60000  # ms: longer than the kit's own watchdog, which knows how fast this host is
EFAULT = 14
EXIT_FAIL_ENTRY, EXIT_INTERNAL_ERROR = 9, 17
END_ERROR = "error"


def free_port(t):
    return t.random.randrange(0x1000, 0x7000) & ~0x3F


def need(t, answer, task):
    if answer.rc == -38:
        t.fail("STILL_A_HOLE", what=answer.command, task=task, lab=2)
    t.require(answer.rc == 0, "NOT_AS_EXPECTED",
              message=f"{answer.command}, which task {task} is about, failed: {answer.error or answer.rc}")


def machine(t, image, *lines, irq=None):
    """A machine that runs the image to its end; the run, and the answers by command."""
    run = t.rig("\n".join((f"machine_create image={image.path} irqchip=none mem=2M",
                           *([f"machine_irq {irq}"] if irq is not None else []), *lines, "machine_start",
                           f"machine_wait ms={WAIT}")))
    answers = {answer.command: answer for answer in run.answers}
    if "machine_create" in answers:
        need(t, answers["machine_create"], 1)
    return run, answers


def first_line(end):
    return (end.get("text") or "").split("\n")[0] or f"reason {end.get('reason')}, rc {end.get('rc')}"


@test(task=3)
def a_bus_has_no_edge_that_leaks(t):
    """A read of 1 to 8 bytes changes so many bytes and no more, whatever the device's width."""
    base = free_port(t)
    script = ["device max=8 nonce=7", f"bus_add 0 {base:#x} 16"]
    script += [f"bus_read {base + t.random.randrange(8):#x} {size}" for size in range(1, 9)]
    run = t.rig("\n".join(script), may_fail=True)
    need(t, run.answers[1], 1)
    for size, answer in zip(range(1, 9), run.answers[2:]):
        need(t, answer, 3)
        t.require(answer["before"] == answer["after"] == "a5a5a5a5", "BUFFER_OVERRUN", size=size,
                  around=f"{answer['before']} and {answer['after']}")
    t.require(len(run.answers) == 10, "BUFFER_OVERRUN", size=len(run.answers) - 1, around="what ended the program")


@test(task=7)
def a_refused_entry_is_told(t):
    """An entry that the processor refuses, and an error inside KVM, end the machine; the reason's number is told."""
    port = free_port(t)
    guest = t.guest("spin", PORT=port, COUNT=20)
    for reason, ident in ((EXIT_FAIL_ENTRY, "FAIL_ENTRY_IGNORED"), (EXIT_INTERNAL_ERROR, "INTERNAL_ERROR_IGNORED")):
        value = t.random.randrange(0x10000, 0x7FFFFFFF)
        _, answers = machine(t, guest, f"lie KVM_RUN exit={reason} value={value}")
        end = answers["machine_wait"]
        t.require(end.get("reason") == END_ERROR and end.get("status") == 1, ident, status=end.get("status"),
                  text=first_line(end))
        shown = f"{value:#x}" if reason == EXIT_FAIL_ENTRY else f"suberror {value}"
        t.require(shown in end["text"].split("\n")[0], ident, status=end["status"], text=first_line(end))
        t.credit(0.5)


@test(task=6)
def a_run_that_cannot_go_on_ends(t):
    """Any other failure of KVM_RUN ends the machine with status 1 and the failure's name."""
    port = free_port(t)
    guest = t.guest("spin", PORT=port, COUNT=20)
    _, answers = machine(t, guest, f"lie KVM_RUN error={EFAULT}")
    end = answers["machine_wait"]
    t.require(end.get("reason") == END_ERROR and end.get("status") == 1, "ERROR_SWALLOWED", reason=end.get("reason"),
              status=end.get("status"))
    t.require("Bad address" in end["text"], "ERROR_SWALLOWED", reason=end.get("reason"), status=end.get("status"))


@test(task=7)
def an_interrupt_wakes_a_halted_guest(t):
    """A halted guest for which an interrupt waits is entered again, and its handler runs."""
    port, line = free_port(t), t.random.randrange(1, 8)
    inside, after = t.random.sample(range(1, 256), 2)
    guest = t.guest("wake", PORT=port, VECTOR=0x20 + line, INSIDE=inside, AFTER=after)
    run, answers = machine(t, guest, irq=line)
    told = [e.data for e in run.trace.exits() if e.reason == "io" and e.port == port]
    t.require(told == [bytes([inside]), bytes([after])], "HLT_ENDS_WAITING", text=first_line(answers["machine_wait"]),
              log=" ".join(part.hex() for part in told) or "nothing")
