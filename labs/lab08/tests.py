"""
Lab 8, SMP: core/machine/smp.c. A machine is started, kicked, paused, called and ended from outside while its guest
computes. What is judged: which thread made which KVM_RUN, what stood in immediate_exit when a signal was sent, and what
the guest left in its registers and memory. Moments that come once in a million times are made by the rig: a vCPU is
held in its device, or at its next write to the kvm_run area, until the other thread has done its part. Rules: KVM API 5
(immediate_exit), 4.10, SDM vol. 3A, 9.4.
"""

from kit.testing import test

EAGAIN, EINTR = -11, -4
MARK = 0x6c616200
LINGERED = 255
QUIT = "quit"
LIMIT = 500  # ms until something that should be quick counts as never


# --- what several tests do ---

class Machine:
    """A guest with its seeded numbers, and the script that puts it into a machine with a gate at its port."""

    def __init__(self, t, name, cpus=1, irqchip="split", gate="", **defines):
        self.cpus, self.nonce = cpus, t.nonce
        self.port = t.random.randrange(0x4000, 0x7000, 16)
        self.image = t.guest(name, NONCE=t.nonce, PORT=self.port, **defines)
        self.lines = [f"machine_create image={self.image.path} boot=flat mem=2M cpus={cpus} irqchip={irqchip}",
                      f"gate {self.port:#x} {gate}"]

    def script(self, *commands):
        return "\n".join(self.lines + list(commands)) + "\n"


def mark_at(run, number):
    """When the rig's `mark NUMBER` was made, and by which thread; None when it wasn't."""
    for call in run.trace.ioctls("KVM_CHECK_EXTENSION"):
        if call.args.get("cap") == MARK + number:
            return call
    return None


def after(events, mark):
    return [e for e in events if mark is None or e.t > mark.t]


def started(t, run):
    """machine_start was answered with 0."""
    answer = run.answer("machine_start")
    t.require(answer and answer.rc == 0, "NOT_AS_EXPECTED",
              message=f"hv_smp_start failed: {answer.rc} {answer.error}" if answer else "hv_smp_start did not return")


def check_threads(t, run, cpus, main):
    """Each vCPU was run, by one thread, and each thread ran one vCPU; never the thread that started the machine."""
    threads = {}
    for e in run.trace.exits():
        threads.setdefault(e.vcpu, set()).add(e.tid)
    for vcpu, tids in sorted(threads.items()):
        t.require(len(tids) == 1, "VCPU_WRONG_THREAD", vcpu=vcpu, threads=len(tids), what="by several threads")
        t.require(main not in tids, "VCPU_WRONG_THREAD", vcpu=vcpu, threads=1,
                  what="by the thread that started the machine")
    for vcpu, tids in threads.items():
        others = [v for v, ts in threads.items() if v != vcpu and ts & tids]
        t.require(not others, "VCPU_WRONG_THREAD", vcpu=vcpu, threads=1,
                  what=f"by the thread of vCPU {others and others[0]}")
    for vcpu in range(cpus):
        t.require(vcpu in threads, "AP_NOT_STARTED", cpus=cpus, ran=len(threads), what=f"vCPU {vcpu} has no thread.")
    return {vcpu: next(iter(tids)) for vcpu, tids in threads.items()}


def check_kicks(t, run, since=None):
    """Every signal went to a vCPU's thread, and the first to each of them could not be missed. (At a later one the vCPU
    may just be clearing the notes of the one before.)"""
    signals = [s for s in after(run.trace.signals(), since) if s.signo >= 32]
    t.require(signals, "KICK_NOT_SENT")
    seen, threads = {None}, {e.tid for e in run.trace.threads()}
    for s in signals:  # a thread that has not come to its first KVM_RUN yet may be a vCPU's all the same
        t.require(s.vcpu is not None or s.target in threads, "KICK_WRONG_THREAD", target=s.target, what="runs no vCPU")
        t.require(s.immediate or s.vcpu in seen or not (s.inside or s.tid == s.target), "KICK_RACE", vcpu=s.vcpu,
                  what="immediate_exit was 0 when the signal was sent")
        seen.add(s.vcpu)
    return signals


def check_no_livelock(t, run):
    """No vCPU goes back in again and again only to be thrown out: someone has to look why it was kicked."""
    in_a_row = {}
    for e in run.trace.exits():
        in_a_row[e.vcpu] = in_a_row.get(e.vcpu, 0) + 1 if e.ret == EINTR and e.immediate else 0
        t.require(in_a_row[e.vcpu] < 20, "IMMEDIATE_EXIT_STUCK", vcpu=e.vcpu, times=in_a_row[e.vcpu])


def deeds(run):
    return [a for a in run.answers if a.command == "within"]


# --- task 1 ---

@test(task=1)
def each_vcpu_has_a_thread(t):
    """As many threads are started as there are vCPUs."""
    cpus = t.random.randrange(2, 5)
    m = Machine(t, "spin", cpus)
    run = t.rig(m.script("mark 1", "machine_start", "mark 2", "sleep 10", "exit"))
    started(t, run)
    threads = [e for e in after(run.trace.threads(), mark_at(run, 1)) if e.t < mark_at(run, 2).t]
    t.require(len(threads) >= cpus, "AP_NOT_STARTED", cpus=cpus, ran=len(threads),
              what=f"hv_smp_start made {len(threads)} threads.")
    t.require(len(threads) == cpus, "NOT_AS_EXPECTED", message=f"{len(threads)} threads were started for {cpus} vCPUs")


@test(task=1)
def signals_stay_with_the_tool(t):
    """A signal for the process reaches the tool's thread, not a vCPU's."""
    m = Machine(t, "spin", 2)
    run = t.rig(m.script("machine_start", "cpus_await", "signal_self", "exit"), may_fail=True)
    started(t, run)
    answer = run.answer("signal_self")
    t.require(run.ended == "exit" and answer and answer.rc == 0, "SIGNALS_NOT_BLOCKED",
              ended="it went to another thread")


# --- task 2 ---

@test(task=2)
def each_vcpu_runs_on_its_own_thread(t):
    """Each vCPU is run by one thread of its own."""
    cpus = t.random.randrange(2, 5)
    m = Machine(t, "spin", cpus)
    run = t.rig(m.script("mark 1", "machine_start", "gate_await 1 ms=400", "cpus_await", "exit"))
    started(t, run)
    check_threads(t, run, cpus, mark_at(run, 1).tid)
    t.require(run.answer("gate_await").rc == 0, "NOT_AS_EXPECTED",
              message="the guest's first exit did not reach its device")


@test(task=2)
def every_exit_is_handled(t):
    """Each exit is handled once, before the guest goes on."""
    count = t.random.randrange(5, 12)
    answer = bytes(t.random.randrange(256) for _ in range(count))
    m = Machine(t, "ask", gate=f"in={answer.hex()}", irqchip="none", ROUNDS=count)
    run = t.rig(m.script("machine_start", f"gate_await {count + 1} ms=400", "exit"), dump=[("last", 0x3000, count)])
    started(t, run)
    seen = run.answer("gate_await")["seen"]
    got = run.memory("last", 0x3000, count)
    t.require(seen == count + 1 and got == answer, "EXIT_NOT_HANDLED", asked=count + 1, seen=seen,
              got=got.hex() if got else None,
              want=answer.hex())


# --- task 3 ---

@test(task=3)
def a_kick_is_told_before_it_is_sent(t):
    """Every vCPU is kicked, and immediate_exit is set before the signal goes."""
    cpus = t.random.randrange(2, 4)
    m = Machine(t, "spin", cpus)
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", "mark 1", "machine_end", "kick_await",
                         "sleep 10", "exit"),
                may_fail=True)
    started(t, run)
    check_no_livelock(t, run)
    kicked = {s.vcpu for s in check_kicks(t, run, mark_at(run, 1))}
    for vcpu in range(cpus):
        t.require(vcpu in kicked, "STOP_MISSES_A_CPU", vcpu=vcpu, kicked=sorted(kicked))
    t.require(run.ended == "exit", "NOT_AS_EXPECTED", message=f"the program ended by {run.ended}")
    out = [e for e in after(run.trace.exits(vcpu=0), None) if e.ret == EINTR]
    t.require(out, "KICK_NOT_SENT")


@test(task=3)
def only_the_vcpus_that_are_meant(t):
    """A kick of one vCPU leaves the others alone."""
    m = Machine(t, "spin", 3)
    meant = t.random.randrange(1, 3)
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", "mark 1", f"within {LIMIT} call {meant}",
                         "mark 2", "exit"), may_fail=True)
    started(t, run)
    signals = check_kicks(t, run, mark_at(run, 1))
    for s in signals:
        t.require(s.vcpu == meant, "KICK_WRONG_THREAD", target=s.target, what=f"runs vCPU {s.vcpu}, not vCPU {meant}")


# --- task 4 ---

@test(task=4)
def the_end_waits_for_every_thread(t):
    """When the end has been waited for, no vCPU thread is left."""
    m = Machine(t, "spin", 2, gate="linger=60")
    run = t.rig(m.script("gate_hold slow", "machine_start", "gate_await 1 ms=400", "within 300 end",
                         "within 800 wait", "mark 7",
                         "sleep 100", "exit"), may_fail=True)
    started(t, run)
    wait = deeds(run)[-1] if len(deeds(run)) == 2 else {}
    lingered, back = mark_at(run, LINGERED), mark_at(run, 7)
    t.require(wait.get("late") is False, "END_NEVER_COMES", ms=800)
    t.require(wait.get("status") == 0 and wait.get("reason") == QUIT, "JOIN_GAVE_UP", status=wait.get("status"))
    t.require(lingered and back and lingered.t < back.t, "THREAD_NOT_JOINED")


def count_together(t, cpus):
    port = t.random.randrange(0x4000, 0x7000, 16)
    rounds = t.random.randrange(8, 20)
    image = t.guest("count", kind="elf64", NONCE=t.nonce, PORT=port, ROUNDS=rounds, CPUS=cpus)
    run = t.hvrun(["--cpus", cpus, "--irqchip", "split", "--mem", "4M", "--timeout", "5", image.path], may_fail=True)
    exits = run.trace.exits()
    said = run.stderr.decode(errors="replace").strip()[:200]
    t.require(exits, "NOT_AS_EXPECTED", message=f"no vCPU ran at all; hvrun ended with {run.status}: {said}")
    ran = {e.vcpu for e in exits}
    for vcpu in range(cpus):
        t.require(vcpu in ran, "AP_NOT_STARTED", cpus=cpus, ran=len(ran), what=f"vCPU {vcpu} has no thread.")
    told = {e.port - port: int.from_bytes(e.data, "little") for e in exits if e.reason == "io" and e.out}
    up = told.get(0) or 0
    left = [v for v in range(1, cpus) if [e.ret for e in exits if e.vcpu == v][-1] == EAGAIN]
    t.require(up == cpus - 1, "AP_NOT_STARTED", cpus=cpus, ran=up + 1,
              what=f"vCPU {left[0]}'s KVM_RUN came back with EAGAIN, and was not entered again." if left
              else f"The guest saw {up} of its {cpus - 1} APs come up.")
    want = cpus * rounds * t.nonce & 0xffffffff
    t.require(told.get(1) == cpus - 1 and told.get(2) == want, "NOT_AS_EXPECTED",
              message=f"{told.get(1)} of {cpus - 1} APs were done, and the sum is {told.get(2)} instead of {want}")
    kicked = {s.vcpu for s in run.trace.signals()} | {e.vcpu for e in exits if e.reason == "io" and e.port == 0xf4}
    for vcpu in range(cpus):
        t.require(vcpu in kicked, "STOP_MISSES_A_CPU", vcpu=vcpu, kicked=sorted(v for v in kicked if v is not None))
    check_kicks(t, run)
    t.require(run.ended != "timeout", "END_NEVER_COMES", ms=int(run.seconds * 1000))
    t.require(run.ended == "exit" and run.status == 33, "JOIN_GAVE_UP", status=run.status)


@test(task=4)
def all_cpus_count_together(t):
    """All CPUs come up by INIT and SIPI, count under one lock, and hvrun ends with the guest's status."""
    count_together(t, t.random.randrange(2, 5))


# --- task 5 ---

@test(task=5)
def a_pause_holds_every_vcpu(t):
    """A paused machine runs no vCPU, and goes on when it is resumed."""
    m = Machine(t, "spin", 2)
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", f"within {LIMIT} pause", "mark 1",
                         "sleep 20",
                         "mark 2", f"within {LIMIT} resume", "sleep 30", "mark 3", f"within {LIMIT} pause", "mark 4",
                         "sleep 5", "mark 5", f"within {LIMIT} end", "exit"), may_fail=True)
    started(t, run)
    check_no_livelock(t, run)
    t.require(deeds(run) and not deeds(run)[0]["late"], "PARKED_NOT_SET", ms=LIMIT)
    check_kicks(t, run)
    t.require(len(deeds(run)) == 4 and mark_at(run, 5), "NOT_AS_EXPECTED",
              message="the machine could not be resumed, paused once more and ended")
    last = mark_at(run, 2)
    for first, until in ((mark_at(run, 1), last), (mark_at(run, 4), mark_at(run, 5))):
        ran = [e for e in run.trace.exits() if e.t < until.t and (e.d is None or e.t + e.d > first.t)]
        t.require(not ran, "RUNS_WHILE_PAUSED", vcpu=ran[0].vcpu if ran else 0, times=len(ran))
    resumed = [e for e in run.trace.exits(vcpu=0) if last.t < e.t < mark_at(run, 3).t]
    t.require(resumed, "NOT_RESUMED")
    t.require(not resumed[-1].immediate, "NOT_RESUMED")


@test(task=5)
def calls_run_on_the_vcpus_thread(t):
    """What another thread wants run on a vCPU's thread is run there, while the guest goes on."""
    m = Machine(t, "spin", 2)
    run = t.rig(m.script("mark 1", "machine_start", "gate_await 1 ms=400", "cpus_await",
                         *[f"within {LIMIT} call {cpu}" for cpu in (0, 1, 0)], "sleep 5", "mark 2", "exit"))
    started(t, run)
    threads = check_threads(t, run, 2, mark_at(run, 1).tid)
    t.require(len(deeds(run)) == 3 and not any(d["late"] for d in deeds(run)), "CALL_NOT_SERVED", ms=LIMIT)
    read = [i for i in after(run.trace.ioctls("KVM_GET_REGS"), mark_at(run, 1))]
    t.require([i.vcpu for i in read] == [0, 1, 0], "CALL_NOT_SERVED", ms=LIMIT)
    for i in read:
        t.require(i.tid == threads[i.vcpu], "VCPU_WRONG_THREAD", vcpu=i.vcpu, threads=1,
                  what="by another thread than its own")
    t.require(read[0].out["rbx"] == t.nonce and read[2].out["rbx"] == t.nonce, "NOT_AS_EXPECTED",
              message="the registers that a call read are not the guest's")
    # the guest was not lost on the way: it is inside again when the rig ends
    runs = run.trace.exits(vcpu=0)
    t.require(runs and runs[-1].ret is None and not runs[-1].immediate, "NOT_RESUMED")


@test(task=5)
def interrupts_from_outside_arrive(t):
    """Without an irqchip, an interrupt from outside is injected before the next KVM_RUN."""
    line, salt = t.random.randrange(1, 16), t.random.randrange(1, 200)
    m = Machine(t, "wait", irqchip="none", LINE=line, SALT=salt)
    run = t.rig(m.script("machine_start", "gate_await 1 ms=400", "cpus_await", f"machine_irq {line}",
                         "gate_await 2 ms=400",
                         f"machine_irq {line}", "gate_await 3 ms=400", "exit"))
    started(t, run)
    taken = [e.data[0] for e in run.trace.exits(vcpu=0) if e.reason == "io" and e.port == m.port][1:]
    t.require(taken == [salt + 1, salt + 2], "VECTOR_FORGOTTEN", line=line, taken=len(taken),
              told=len(run.trace.ioctls("KVM_INTERRUPT")))


@test(task=5)
def no_kick_is_lost(t):
    """A kick at the worst moment is not lost: just before KVM_RUN, and while the vCPU looks what is wanted."""
    m = Machine(t, "spin", 1)
    plain = t.rig(m.script("machine_start", "gate_await 1 ms=400", "sleep 2", f"within {LIMIT} call 0", "exit"),
                  may_fail=True)
    started(t, plain)
    check_no_livelock(t, plain)
    check_kicks(t, plain)
    t.require(deeds(plain) and not deeds(plain)[0]["late"], "CALL_NOT_SERVED", ms=LIMIT)
    for late in ("", " late"):
        run = t.rig(m.script("gate_hold open", "machine_start", "gate_await 1 ms=400", f"race{late}", "exit"),
                    may_fail=True)
        started(t, run)
        check_kicks(t, run, mark_at(run, 1))
        race = run.answer("race")
        what = "it came after the vCPU had looked what is wanted" if late else "it came between the look at kicked and KVM_RUN"
        t.require(race and not race["late"], "KICK_RACE", vcpu=0, what=what + ", and was forgotten")
        check_no_livelock(t, run)
        read = run.trace.ioctls("KVM_GET_REGS")
        t.require(read and read[-1].out["rbx"] == t.nonce, "CALL_NOT_SERVED", ms=LIMIT)


# --- task 6 ---

@test(task=6)
def a_pause_sees_whole_instructions(t):
    """A vCPU parks between two instructions: the answer to its last `in` has arrived."""
    count = t.random.randrange(3, 7)
    answer = bytes(t.random.randrange(1, 256) for _ in range(count))
    m = Machine(t, "ask", gate=f"in={answer.hex()}", ROUNDS=count)
    run = t.rig(m.script("gate_hold kicked", "machine_start", "gate_await 1 ms=400", "mark 1", f"within {LIMIT} pause",
                         f"within {LIMIT} call 0", "mark 2", "gate_hold none", f"within {LIMIT} resume",
                         f"gate_await {count + 1} ms=400", f"within {LIMIT} pause", "exit"),
                dump=[("last", 0x3000, count)], may_fail=True)
    started(t, run)
    begin, end = mark_at(run, 1), mark_at(run, 2)
    ran = [e for e in run.trace.exits(vcpu=0) if e.t > begin.t and (not end or e.t < end.t)]
    ran_on = [e for e in ran if not e.immediate]
    t.require(not ran_on, "SETTLE_RUNS_ON", times=len(ran_on))
    t.require(len(deeds(run)) > 1 and not deeds(run)[0]["late"], "PARKED_NOT_SET", ms=LIMIT)
    read = [i for i in after(run.trace.ioctls("KVM_GET_REGS"), begin)]
    t.require(read, "CALL_NOT_SERVED", ms=LIMIT)
    rip, al, want = read[0].out["rip"], read[0].out["rax"] & 0xff, m.image.symbols["asked"]
    t.require(rip == want and al == answer[0], "PAUSE_WITH_UNFINISHED_IO", rip=rip, want=want, al=al, answer=answer[0])
    got = run.memory("last", 0x3000, count)
    t.require(got == answer, "EXIT_NOT_HANDLED", asked=count + 1,
              seen=[a for a in run.answers if a.command == "gate_await"][-1].get("seen"), got=got.hex() if got else None,
              want=answer.hex())
