"""Lab 1's hidden tests: what goes wrong seldom. The same means as in tests.py."""
from kit.testing import test

EINTR = 4
SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss")


def need(t, answer, task):
    if answer.rc == -38:
        t.fail("STILL_A_HOLE", what=answer.command, task=task, lab=1)
    t.require(answer.rc == 0, "NOT_AS_EXPECTED",
              message=f"{answer.command}, which task {task} is about, failed: {answer.error or answer.rc}")


@test(task=2)
def a_signal_does_not_stop_a_vm_from_being_made(t):
    """KVM_CREATE_VM that a signal cut short is tried again; any other failure is told."""
    times = t.random.randrange(1, 4)
    run = t.rig(f"kvm_open\nlie KVM_CREATE_VM error={EINTR} times={times}\nvm_create\nlie none\n"
                "lie KVM_CREATE_VM error=12\nvm_create\n")
    need(t, run.answers[0], 1)
    made = run.answers[2]
    if made.rc == -38:
        need(t, made, 2)
    t.require(made.rc == 0, "CREATE_VM_GAVE_UP", times=times, error=made.error)
    t.require(run.answers[5].rc < 0 and run.answers[5].error, "NO_SENTENCE", what="hv_vm_create", rc=run.answers[5].rc)


@test(task=3)
def a_failed_vcpu_leaves_nothing_open(t):
    """When the area can't be mapped, the vCPU's descriptor is closed and the error told."""
    run = t.rig("kvm_open\nvm_create\nfds\nrun_size 0x1000000000000000\nvcpu_create 1\nfds\n")
    before, made, after = run.answers[2], run.answers[4], run.answers[5]
    need(t, run.answers[0], 1)
    need(t, run.answers[1], 2)
    if made.rc == -38:
        need(t, made, 3)
    t.require(made.rc < 0, "NOT_AS_EXPECTED", message="hv_vcpu_create returned 0, though the mapping failed")
    t.require(after["open"] == before["open"], "FD_LEAKED", what="hv_vcpu_create", left=after["open"] - before["open"])
    t.require(made.error, "NO_SENTENCE", what="hv_vcpu_create", rc=made.rc)


@test(task=5)
def real_mode_ends_every_other_mode(t):
    """Whatever mode the vCPU was in, as at a reset: protection, paging and long mode are off afterwards."""
    run = t.rig("real_mode fill=0xff\nreal_mode fill=0\n")
    for answer in run.answers:
        if answer["cs_limit"] != 0xFFFF and answer["ds_limit"] != 0xFFFF:
            t.fail("STILL_A_HOLE", what="hv_vcpu_real_mode", task=5, lab=1)
        for register, mask, want in (("cr0", 0x80000001, 0), ("cr4", ~0, 0), ("efer", ~0, 0)):
            t.require(answer[register] & mask == want, "MODE_LEFT_ON", register=register, value=answer[register])
        for name in SEGMENTS:
            for field, want in (("base", 0), ("limit", 0xFFFF), ("db", 0), ("l", 0), ("g", 0), ("unusable", 0)):
                got = answer[f"{name}_{field}"]
                t.require(got == want, "SEGMENT_NOT_REAL", segment=name, field=field, got=got, want=want)
        t.require(answer["idt_base"] == 0 and answer["idt_limit"] >= 0x3FF, "SEGMENT_NOT_REAL", segment="idt",
                  field="limit", got=answer["idt_limit"], want=0x3FF)
