/*
 * The machine as the gdb stub sees it. Software breakpoints are int3 bytes in guest memory, hardware ones are
 * debug registers that KVM lends us (KVM_SET_GUEST_DEBUG). Calls the machine, memory and translate rooms.
 * Rules: KVM API 4.87 (KVM_SET_GUEST_DEBUG), 5 (KVM_EXIT_DEBUG); SDM vol. 3B, 17.2 (debug registers).
 *
 * Whether the target has stopped is read off the machine's state, never counted from events, so an event too
 * many or too few does no harm. Several vCPUs may stop in one instant: each leaves its hit in hits[], one is
 * told to gdb, the others when gdb lets those vCPUs go on.
 *
 * The lock is held for a moment only and never while the machine is called: its hook takes it on vCPU
 * threads.
 */
#include "control/gdb_target.h"

#include <string.h>
#include <sys/ioctl.h>

#include "kvm/translate.h"
#include "machine/disasm.h"

#define INT3       0xcc
#define VECTOR_DB  1
#define DR7_ALWAYS 0x400ull

static uint64_t bit(unsigned cpu)
{
	return 1ull << cpu;
}

static uint64_t linear_pc(const struct kvm_regs *regs, const struct kvm_sregs *sregs)
{
	if (hv_code_bits(sregs) == 64)
		return regs->rip;
	return (sregs->cs.base + regs->rip) & 0xffffffffu;
}

void hv_gdb_target_init(struct hv_gdb_target *t, struct hv_machine *machine)
{
	memset(t, 0, sizeof(*t));
	t->machine = machine;
	t->cpus = hv_machine_cpus(machine);
	t->over = -1;
	pthread_mutex_init(&t->lock, NULL);
}

void hv_gdb_target_free(struct hv_gdb_target *t)
{
	pthread_mutex_destroy(&t->lock);
}

/* --- software breakpoints; the static functions are called with the lock held --- */

static struct hv_memory *memory(struct hv_gdb_target *t)
{
	return hv_machine_memory(t->machine);
}

/* The breakpoint under a linear address, whatever page tables lead there. */
static struct hv_gdb_soft *soft_at(struct hv_gdb_target *t, const struct kvm_sregs *sregs, uint64_t linear)
{
	struct hv_walk walk;

	if (t->soft_count == 0 || hv_translate(memory(t), sregs, linear, &walk) < 0)
		return NULL;
	for (unsigned i = 0; i < t->soft_count; i++) {
		if (t->soft[i].gpa == walk.gpa)
			return &t->soft[i];
	}
	return NULL;
}

static void soft_put(struct hv_gdb_target *t, struct hv_gdb_soft *s)
{
	const uint8_t int3 = INT3;

	if (hv_memory_read(memory(t), s->gpa, &s->original, 1) == 0)
		hv_memory_write(memory(t), s->gpa, &int3, 1);
	s->lifted = false;
}

/* Puts the instruction back, unless the guest has written something else there meanwhile. */
static void soft_lift(struct hv_gdb_target *t, struct hv_gdb_soft *s)
{
	uint8_t now;

	if (!s->lifted && hv_memory_read(memory(t), s->gpa, &now, 1) == 0 && now == INT3)
		hv_memory_write(memory(t), s->gpa, &s->original, 1);
	s->lifted = true;
}

void hv_gdb_land(struct hv_gdb_target *t)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++) {
		if (t->soft[i].lifted)
			soft_put(t, &t->soft[i]);
	}
	pthread_mutex_unlock(&t->lock);
}

bool hv_gdb_lift(struct hv_gdb_target *t, unsigned cpu, const struct kvm_regs *regs,
		 const struct kvm_sregs *sregs)
{
	const uint64_t pc = linear_pc(regs, sregs);
	struct hv_gdb_soft *s;
	bool on;

	pthread_mutex_lock(&t->lock);
	s = soft_at(t, sregs, pc);
	if (s)
		soft_lift(t, s);
	on = s != NULL;
	for (unsigned i = 0; i < HV_GDB_HARD_MAX; i++)
		on |= t->hard[i].used && t->hard[i].type == HV_GDB_EXEC && t->hard[i].gva == pc;
	pthread_mutex_unlock(&t->lock);
	return on;
}

void hv_gdb_reinsert(struct hv_gdb_target *t)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++) {
		uint8_t now = 0;

		if (hv_memory_read(memory(t), t->soft[i].gpa, &now, 1) == 0 && now != INT3)
			soft_put(t, &t->soft[i]);
	}
	pthread_mutex_unlock(&t->lock);
}

/* --- stops, as the vCPUs see them --- */

/* Which of our debug registers has fired, by DR6. */
static const struct hv_gdb_hard *hard_fired(const struct hv_gdb_target *t, uint64_t dr6)
{
	for (unsigned i = 0; i < HV_GDB_HARD_MAX; i++) {
		if (t->hard[i].used && (dr6 >> i & 1))
			return &t->hard[i];
	}
	return NULL;
}

/*
 * The machine's hook, on the vCPU's thread. RIP is at the int3 in both of its forms: VT-x and AMD-V stop the
 * vCPU before the exception is delivered, other back ends because they could not execute it at all.
 */
static bool debug_hook(void *ctx, struct hv_vcpu *vcpu, const struct kvm_debug_exit_arch *info)
{
	struct hv_gdb_target *t = ctx;
	struct hv_gdb_stop hit = {.cpu = vcpu->index};
	struct kvm_sregs sregs;
	struct kvm_regs regs;

	if (hv_vcpu_get_regs(vcpu, &regs, NULL) < 0 || hv_vcpu_get_sregs(vcpu, &sregs, NULL) < 0)
		return false;
	const uint64_t pc = linear_pc(&regs, &sregs);
	pthread_mutex_lock(&t->lock);
	if (info->exception == VECTOR_DB) {
		const struct hv_gdb_hard *hard = hard_fired(t, info->dr6);

		if (hard) {
			hit.why = HV_GDB_HIT;
			hit.type = hard->type;
			hit.address = hard->gva;
		} else if ((info->dr6 & 0xf) && soft_at(t, &sregs, pc)) {
			hit.why = HV_GDB_HIT; /* by the debug register that arm_soft gave it */
			hit.type = HV_GDB_SOFT;
			hit.address = pc;
		} else if (t->stepping & bit(vcpu->index)) {
			hit.why = HV_GDB_STEPPED;
		}
	} else if (soft_at(t, &sregs, pc)) {
		hit.why = HV_GDB_HIT;
		hit.type = HV_GDB_SOFT;
		hit.address = pc;
	}
	if (hit.why != HV_GDB_NOT_STOPPED)
		t->hits[vcpu->index] = hit;
	pthread_mutex_unlock(&t->lock);
	return hit.why != HV_GDB_NOT_STOPPED;
}

/* --- KVM_SET_GUEST_DEBUG --- */

/* SDM table 17-2: type and length of debug register i stand at bit 16 + 4i, its global enable bit at 2i + 1.
 */
static uint64_t dr7_bits(unsigned i, const struct hv_gdb_hard *h)
{
	const uint64_t type = h->type == HV_GDB_EXEC ? 0 : h->type == HV_GDB_WRITE ? 1 : 3;
	const uint64_t length = h->length == 8 ? 2 : h->length - 1; /* 1, 2, 4 bytes: 0, 1, 3 */

	return 2ull << (2 * i) | (type | length << 2) << (16 + 4 * i);
}

static void arm_register(struct kvm_guest_debug *d, unsigned i, const struct hv_gdb_hard *h)
{
	d->control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_HW_BP;
	d->arch.debugreg[i] = h->gva;
	d->arch.debugreg[7] |= DR7_ALWAYS | dr7_bits(i, h);
}

/*
 * In real mode a KVM that interprets the guest carries int3 out, through the guest's own vector table,
 * without a word to us. Debug registers that are free guard such breakpoints: they fire before the
 * instruction.
 */
static void arm_soft(const struct hv_gdb_target *t, struct kvm_guest_debug *d)
{
	unsigned i = 0;

	for (unsigned k = 0; k < t->soft_count; k++) {
		const struct hv_gdb_hard h = {.type = HV_GDB_EXEC, .gva = t->soft[k].gva, .length = 1};

		if (!t->soft[k].real || t->soft[k].lifted)
			continue;
		while (i < HV_GDB_HARD_MAX && t->hard[i].used)
			i++;
		if (i == HV_GDB_HARD_MAX)
			return;
		arm_register(d, i++, &h);
	}
}

static int set_guest_debug(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_SET_GUEST_DEBUG, ctx) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM_SET_GUEST_DEBUG", vcpu->index);
	return 0;
}

int hv_gdb_arm(struct hv_gdb_target *t, unsigned cpu, bool step, struct hv_error *err)
{
	struct kvm_guest_debug d = {0};

	pthread_mutex_lock(&t->lock);
	if (t->soft_count)
		d.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_USE_SW_BP;
	/* An interrupt must not carry a single step away into its handler. */
	if (step)
		d.control |= KVM_GUESTDBG_ENABLE | KVM_GUESTDBG_SINGLESTEP | KVM_GUESTDBG_BLOCKIRQ;
	for (unsigned i = 0; i < HV_GDB_HARD_MAX; i++) {
		const struct hv_gdb_hard *h = &t->hard[i];

		if (!h->used || (t->over == (int)cpu && h->type == HV_GDB_EXEC))
			continue;
		arm_register(&d, i, h);
	}
	arm_soft(t, &d);
	if (step)
		t->stepping |= bit(cpu);
	else
		t->stepping &= ~bit(cpu);
	pthread_mutex_unlock(&t->lock);
	return hv_machine_call(t->machine, cpu, set_guest_debug, &d, err);
}

/* --- attach, detach --- */

int hv_gdb_attach(struct hv_gdb_target *t, struct hv_error *err)
{
	int rc;

	if (t->attached)
		return 0;
	t->ran = hv_machine_state(t->machine) == HV_STATE_RUNNING;
	rc = hv_machine_set_debugger(t->machine, debug_hook, t, err);
	if (rc < 0)
		return rc;
	rc = hv_machine_debug_stop(t->machine, err);
	if (rc < 0) {
		hv_machine_set_debugger(t->machine, NULL, NULL, NULL);
		return rc;
	}
	t->attached = true;
	t->running = t->interrupted = false;
	t->over = -1;
	return 0;
}

void hv_gdb_detach(struct hv_gdb_target *t, bool go_on)
{
	const struct kvm_guest_debug none = {0};

	if (!t->attached)
		return;
	/* Parked vCPUs can't run into an int3 that has no owner any more. */
	const bool alive = hv_machine_debug_stop(t->machine, NULL) != -ESHUTDOWN;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++)
		soft_lift(t, &t->soft[i]);
	t->soft_count = 0;
	t->stepping = 0;
	memset(t->hard, 0, sizeof(t->hard));
	memset(t->hits, 0, sizeof(t->hits));
	pthread_mutex_unlock(&t->lock);
	for (unsigned cpu = 0; alive && cpu < t->cpus; cpu++) {
		struct kvm_guest_debug d = none;

		hv_machine_call(t->machine, cpu, set_guest_debug, &d, NULL);
	}
	hv_machine_set_debugger(t->machine, NULL, NULL, NULL);
	t->attached = t->running = false;
	t->over = -1;
	if (alive && (go_on || t->ran))
		hv_machine_resume(t->machine, NULL);
}

/* --- registers and memory --- */

static int fetch_state(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	return hv_gdb_state_get(vcpu, ctx, err);
}

struct change {
	struct hv_gdb_state *state;
	const struct hv_gdb_state *before;
};

static int store_state(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	const struct change *c = ctx;

	return hv_gdb_state_set(vcpu, c->state, c->before, err);
}

int hv_gdb_get_state(struct hv_gdb_target *t, unsigned cpu, struct hv_gdb_state *state, struct hv_error *err)
{
	return hv_machine_call(t->machine, cpu, fetch_state, state, err);
}

int hv_gdb_set_state(struct hv_gdb_target *t, unsigned cpu, struct hv_gdb_state *state,
		     const struct hv_gdb_state *before, struct hv_error *err)
{
	struct change c = {state, before};

	return hv_machine_call(t->machine, cpu, store_state, &c, err);
}

static int fetch_sregs(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	return hv_vcpu_get_sregs(vcpu, ctx, err);
}

/* A read of at most a page at gpa, with the instructions where our int3s are. */
static int read_hidden(struct hv_gdb_target *t, uint64_t gpa, uint8_t *out, uint64_t n)
{
	int rc;

	pthread_mutex_lock(&t->lock);
	rc = hv_memory_read(memory(t), gpa, out, n);
	for (unsigned i = 0; rc == 0 && i < t->soft_count; i++) {
		const struct hv_gdb_soft *s = &t->soft[i];

		if (!s->lifted && s->gpa >= gpa && s->gpa - gpa < n && out[s->gpa - gpa] == INT3)
			out[s->gpa - gpa] = s->original;
	}
	pthread_mutex_unlock(&t->lock);
	return rc;
}

/* A write of at most a page at gpa; our int3s stay, and remember what is under them now. */
static int write_hidden(struct hv_gdb_target *t, uint64_t gpa, const uint8_t *in, uint64_t n)
{
	uint8_t bytes[HV_PAGE_SIZE];
	int rc;

	memcpy(bytes, in, n);
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++) {
		struct hv_gdb_soft *s = &t->soft[i];

		if (!s->lifted && s->gpa >= gpa && s->gpa - gpa < n && hv_memory_at(memory(t), gpa, n)) {
			s->original = in[s->gpa - gpa];
			bytes[s->gpa - gpa] = INT3;
		}
	}
	rc = hv_memory_write(memory(t), gpa, bytes, n);
	pthread_mutex_unlock(&t->lock);
	return rc;
}

/* Reads into out, or writes from in when there is one. */
static int64_t copy(struct hv_gdb_target *t, unsigned cpu, uint64_t gva, uint8_t *out, const uint8_t *in,
		    size_t length)
{
	struct kvm_sregs sregs;
	size_t done = 0;
	int rc = hv_machine_call(t->machine, cpu, fetch_sregs, &sregs, NULL);

	if (rc < 0)
		return rc;
	if (!in && !out)
		return -EINVAL;
	while (done < length) {
		struct hv_walk walk;
		uint64_t n = HV_PAGE_SIZE - (gva & (HV_PAGE_SIZE - 1));

		n = n < length - done ? n : length - done;
		if (hv_translate(memory(t), &sregs, gva, &walk) < 0)
			break;
		if (in ? write_hidden(t, walk.gpa, in + done, n) : read_hidden(t, walk.gpa, out + done, n))
			break;
		done += n;
		if (__builtin_add_overflow(gva, n, &gva))
			break;
	}
	return (int64_t)done;
}

int64_t hv_gdb_read(struct hv_gdb_target *t, unsigned cpu, uint64_t gva, void *buf, size_t length)
{
	return copy(t, cpu, gva, buf, NULL, length);
}

int64_t hv_gdb_write(struct hv_gdb_target *t, unsigned cpu, uint64_t gva, const void *buf, size_t length)
{
	return copy(t, cpu, gva, NULL, buf, length);
}

/* --- breakpoints --- */

static int insert_soft(struct hv_gdb_target *t, unsigned cpu, uint64_t gva)
{
	struct kvm_sregs sregs;
	struct hv_walk walk;
	int rc = hv_machine_call(t->machine, cpu, fetch_sregs, &sregs, NULL);

	if (rc < 0)
		return rc;
	if (hv_translate(memory(t), &sregs, gva, &walk) < 0 || !hv_memory_at(memory(t), walk.gpa, 1))
		return -EFAULT;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++) {
		if (t->soft[i].gva == gva || t->soft[i].gpa == walk.gpa)
			goto out;
	}
	if (t->soft_count == HV_GDB_SOFT_MAX) {
		rc = -ENOSPC;
	} else {
		struct hv_gdb_soft *s = &t->soft[t->soft_count++];

		*s = (struct hv_gdb_soft){.gva = gva, .gpa = walk.gpa, .real = !(sregs.cr0 & 1)};
		soft_put(t, s);
	}
out:
	pthread_mutex_unlock(&t->lock);
	return rc;
}

static int remove_soft(struct hv_gdb_target *t, uint64_t gva)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < t->soft_count; i++) {
		if (t->soft[i].gva != gva)
			continue;
		soft_lift(t, &t->soft[i]);
		t->soft[i] = t->soft[--t->soft_count];
		break;
	}
	pthread_mutex_unlock(&t->lock);
	return 0;
}

/* The longest piece that one debug register can watch from gva on: 8, 4, 2 or 1 bytes, aligned. */
static uint64_t piece(uint64_t gva, uint64_t left)
{
	uint64_t n = 8;

	while (n > left || (gva & (n - 1)))
		n /= 2;
	return n;
}

/* A region that isn't aligned takes several debug registers, or none when there aren't enough. */
static int insert_hard(struct hv_gdb_target *t, enum hv_gdb_break type, uint64_t gva, uint64_t length)
{
	struct hv_gdb_hard wanted[HV_GDB_HARD_MAX];
	unsigned count = 0, unused = 0;
	uint64_t at = gva, left = type == HV_GDB_EXEC ? 1 : length;

	if (left == 0 || left > 8 * HV_GDB_HARD_MAX)
		return -ENOSPC;
	while (left > 0) {
		if (count == HV_GDB_HARD_MAX)
			return -ENOSPC;
		const uint64_t n = piece(at, left);
		wanted[count++] = (struct hv_gdb_hard){true, type, at, n, gva, length};
		at += n;
		left -= n;
	}
	for (unsigned i = 0; i < HV_GDB_HARD_MAX; i++) {
		const struct hv_gdb_hard *h = &t->hard[i];

		if (h->used && h->type == type && h->asked_gva == gva && h->asked_length == length)
			return 0;
		unused += !h->used;
	}
	if (unused < count)
		return -ENOSPC;
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; count > 0; i++) {
		if (!t->hard[i].used)
			t->hard[i] = wanted[--count];
	}
	pthread_mutex_unlock(&t->lock);
	return 0;
}

static int remove_hard(struct hv_gdb_target *t, enum hv_gdb_break type, uint64_t gva, uint64_t length)
{
	pthread_mutex_lock(&t->lock);
	for (unsigned i = 0; i < HV_GDB_HARD_MAX; i++) {
		struct hv_gdb_hard *h = &t->hard[i];

		if (h->used && h->type == type && h->asked_gva == gva && h->asked_length == length)
			h->used = false;
	}
	pthread_mutex_unlock(&t->lock);
	return 0;
}

int hv_gdb_insert(struct hv_gdb_target *t, unsigned cpu, enum hv_gdb_break type, uint64_t gva,
		  uint64_t length)
{
	return type == HV_GDB_SOFT ? insert_soft(t, cpu, gva) : insert_hard(t, type, gva, length);
}

int hv_gdb_remove(struct hv_gdb_target *t, enum hv_gdb_break type, uint64_t gva, uint64_t length)
{
	return type == HV_GDB_SOFT ? remove_soft(t, gva) : remove_hard(t, type, gva, length);
}
