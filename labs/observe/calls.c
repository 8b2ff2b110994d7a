/*
 * The system calls that stop the program: what each one means for the record, on the way in and on the way
 * out. The call is told by its number and arguments alone, never by what the filter says: a program may add a
 * filter of its own.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "observe.h"

static const char *const kinds[] = {NULL, "kvm", "vm", "vcpu", "device"};

static void note_object(struct out *o, const struct object *on)
{
	on->kind ? out_text(o, "on", kinds[on->kind]) : out_null(o, "on");
	on->vm ? out_u64(o, "vm", on->vm->index) : out_null(o, "vm");
	on->vcpu ? out_u64(o, "vcpu", on->vcpu->id) : out_null(o, "vcpu");
}

/* --- ioctl --- */

static bool enter_ioctl(struct session *s, struct task *t)
{
	struct call *c = &t->call;
	unsigned long request = (uint32_t)c->args[1];

	if (_IOC_TYPE(request) != KVMIO)
		return false;
	c->ioctl = true;
	c->on = state_find(s, (int)c->args[0]);
	if (request == KVM_RUN && c->on.kind == KVM_VCPU) {
		run_entered(s, t);
		return true;
	}
	c->in_length = ioctl_in_size(s, request, c->args[2]);
	if (c->in_length > c->in_room) {
		free(c->in);
		c->in = malloc(c->in_length);
		c->in_room = c->in ? c->in_length : 0;
	}
	if (c->in_length > c->in_room)
		c->in_length = 0;
	c->in_length = peek(s, c->args[2], c->in, c->in_length);
	return true;
}

static void note_ioctl(struct session *s, struct task *t, bool returned, int64_t ret)
{
	struct call *c = &t->call;
	struct out *o = &s->out;
	unsigned long request = (uint32_t)c->args[1];
	const char *name = ioctl_name(request);

	out_open(o, NULL, '{');
	out_text(o, "k", "ioctl");
	out_u64(o, "t", c->entered);
	out_u64(o, "d", since(s) - c->entered);
	out_i64(o, "tid", t->tid);
	out_i64(o, "fd", (int)c->args[0]);
	note_object(o, &c->on);
	out_text(o, "name", name ? name : "unknown");
	out_u64(o, "nr", request);
	out_u64(o, "arg", c->args[2]);
	out_open(o, "in", '{');
	decode_in(o, request, c->args[2], c->in, c->in_length);
	out_close(o, '}');
	out_open(o, "out", '{');
	if (returned && ret >= 0)
		decode_out(s, request, c->args[2]);
	out_close(o, '}');
	if (returned)
		out_i64(o, "ret", ret);
	out_close(o, '}');
	out_end_line(o);
}

/* KVM_SET_USER_MEMORY_REGION, or its successor, which begins alike. */
static void learn_slot(struct session *s, const struct call *c)
{
	struct kvm_userspace_memory_region region;

	if (c->on.kind != KVM_VM || c->in_length < sizeof(region))
		return;
	memcpy(&region, c->in, sizeof(region));
	state_set_slot(s, c->on.vm, region.slot, region.flags, region.guest_phys_addr, region.memory_size,
		       region.userspace_addr);
}

/* KVM handed something out, or took a slot: remember it. */
static void learn(struct session *s, const struct call *c, int64_t ret)
{
	struct kvm_create_device device;

	switch ((uint32_t)c->args[1]) {
	case KVM_CREATE_VM:
		if (c->on.kind == KVM_SYSTEM)
			state_new_vm(s, (int)ret);
		break;
	case KVM_CREATE_VCPU:
		if (c->on.kind == KVM_VM)
			state_new_vcpu(s, (int)ret, c->on.vm, c->args[2]);
		break;
	case KVM_CREATE_DEVICE:
		if (c->on.kind == KVM_VM && peek(s, c->args[2], &device, sizeof(device)) == sizeof(device) &&
		    !(device.flags & KVM_CREATE_DEVICE_TEST))
			state_new_device(s, (int)device.fd, c->on.vm);
		break;
	case KVM_SET_USER_MEMORY_REGION:
	case SET_USER_MEMORY_REGION2:
		learn_slot(s, c);
		break;
	default:
		break;
	}
}

static void return_ioctl(struct session *s, struct task *t, int64_t ret)
{
	if ((uint32_t)t->call.args[1] == KVM_RUN && t->call.on.kind == KVM_VCPU) {
		run_returned(s, t, ret);
		return;
	}
	note_ioctl(s, t, true, ret);
	if (ret >= 0)
		learn(s, &t->call, ret);
}

/* --- mmap and descriptors --- */

static void return_mmap(struct session *s, struct task *t, int64_t ret)
{
	struct object o = state_find(s, (int)t->call.args[4]);
	struct out *out = &s->out;

	if (o.kind != KVM_VCPU)
		return;
	out_open(out, NULL, '{');
	out_text(out, "k", "mmap");
	out_u64(out, "t", t->call.entered);
	out_i64(out, "tid", t->tid);
	out_u64(out, "vm", o.vm->index);
	out_u64(out, "vcpu", o.vcpu->id);
	out_u64(out, "length", t->call.args[1]);
	out_u64(out, "prot", t->call.args[2]);
	out_bool(out, "shared", (t->call.args[3] & MAP_TYPE) != MAP_PRIVATE);
	out_u64(out, "at", t->call.args[5]);
	out_i64(out, "ret", ret);
	out_close(out, '}');
	out_end_line(out);
}

static void enter_close(struct session *s, const struct task *t, int fd)
{
	struct object o = {.kind = NO_KVM};
	struct out *out = &s->out;

	if (fd >= 0 && (unsigned)fd < s->state.fd_count)
		o = s->state.fds[fd];
	if (o.kind == NO_KVM)
		return;
	out_open(out, NULL, '{');
	out_text(out, "k", "close");
	out_u64(out, "t", since(s));
	out_i64(out, "tid", t->tid);
	out_i64(out, "fd", fd);
	note_object(out, &o);
	out_close(out, '}');
	out_end_line(out);
	state_close(s, fd);
}

static void enter_close_range(struct session *s, const struct task *t)
{
	if (t->call.args[2]) /* unshared, or only marked for exec */
		return;
	for (unsigned fd = 0; fd < s->state.fd_count; fd++)
		if (fd >= t->call.args[0] && fd <= t->call.args[1])
			enter_close(s, t, (int)fd);
}

/* --- signals --- */

static void note_signal(struct session *s, const struct task *t, pid_t target, int signo)
{
	const struct task *to = task_find(s, target);
	const struct vcpu *vcpu = to ? to->vcpu : NULL;
	struct out *o = &s->out;

	out_open(o, NULL, '{');
	out_text(o, "k", "signal");
	out_u64(o, "t", since(s));
	out_i64(o, "tid", t->tid);
	out_i64(o, "target", target);
	out_i64(o, "signo", signo);
	vcpu ? out_u64(o, "vm", vcpu->vm->index) : out_null(o, "vm");
	vcpu ? out_u64(o, "vcpu", vcpu->id) : out_null(o, "vcpu");
	vcpu ? out_u64(o, "immediate", state_immediate(vcpu)) : out_null(o, "immediate");
	out_bool(o, "inside",
		 vcpu && to->call.active && to->call.ioctl && (uint32_t)to->call.args[1] == KVM_RUN);
	out_close(o, '}');
	out_end_line(o);
}

/* process and thread are 0 where the call has none. Only the program itself may be meant. */
static void enter_kill(struct session *s, const struct task *t, int process, int thread, uint64_t signo)
{
	bool own = (process == 0 || process == s->pid) &&
		   (thread == 0 || thread == s->pid || task_find(s, thread));
	char detail[64];

	if (own || !s->opt->sandbox) {
		note_signal(s, t, thread ? thread : process ? process : s->pid, (int)signo);
		return;
	}
	/* A thread that is gone is nobody's; its number may be another's by now. */
	if (process == s->pid && signo < 65)
		return;
	snprintf(detail, sizeof(detail), "signal %d to %d", (int)signo, thread ? thread : process);
	trace_forbidden(s, t->tid, "kill", detail);
}

/* --- both ways --- */

static bool enter_known(struct session *s, struct task *t)
{
	const uint64_t *a = t->call.args;

	switch (t->call.nr) {
	case SYS_mkdir:
	case SYS_mkdirat:
	case SYS_symlink:
	case SYS_symlinkat:
	case SYS_link:
	case SYS_linkat:
	case SYS_bind:
		files_one_more(s);
		return false;
	case SYS_ioctl:
		return enter_ioctl(s, t);
	case SYS_mmap:
		if (a[3] & MAP_FIXED)
			state_unmapped(s, a[0], a[1]);
		return !(a[3] & MAP_ANONYMOUS) && state_find(s, (int)a[4]).kind == KVM_VCPU;
	case SYS_munmap:
	case SYS_mremap:
		state_unmapped(s, a[0], a[1]);
		return false;
	case SYS_close:
		enter_close(s, t, (int)a[0]);
		return false;
	case SYS_close_range:
		enter_close_range(s, t);
		return false;
	case SYS_dup:
	case SYS_dup2:
	case SYS_dup3:
	case SYS_fcntl:
		return state_find(s, (int)a[0]).kind != NO_KVM;
	case SYS_kill:
	case SYS_rt_sigqueueinfo:
		enter_kill(s, t, (int)a[0], 0, a[1]);
		return false;
	case SYS_tkill:
		enter_kill(s, t, 0, (int)a[0], a[1]);
		return false;
	case SYS_tgkill:
	case SYS_rt_tgsigqueueinfo:
		enter_kill(s, t, (int)a[0], (int)a[1], a[2]);
		return false;
	default:
		return false;
	}
}

static bool is_open(uint64_t nr)
{
	return nr == SYS_open || nr == SYS_openat || nr == SYS_openat2 || nr == SYS_creat;
}

bool call_entered(struct session *s, struct task *t, uint32_t arch)
{
	const char *what;

	t->call.ioctl = false;
	if (s->opt->sandbox) {
		if (arch != AUDIT_ARCH_X86_64) {
			trace_forbidden(s, t->tid, "system", "a call of another architecture");
			return false;
		}
		if (!s->execed && t->call.nr == SYS_execve)
			return false; /* our own */
		what = filter_forbids(t->call.nr, t->call.args);
		if (what) {
			trace_forbidden(s, t->tid, what, filter_call_name(t->call.nr));
			return false;
		}
	}
	if (!s->execed)
		return false;
	if (is_open(t->call.nr))
		return s->opt->sandbox && open_entered(s, t);
	return !t->outside && !s->opt->plain && enter_known(s, t);
}

void call_returned(struct session *s, struct task *t, int64_t ret)
{
	switch (t->call.nr) {
	case SYS_ioctl:
		return_ioctl(s, t, ret);
		break;
	case SYS_mmap:
		return_mmap(s, t, ret);
		break;
	case SYS_dup:
	case SYS_dup2:
	case SYS_dup3:
	case SYS_fcntl:
		if (ret >= 0)
			state_dup(s, (int)t->call.args[0], (int)ret);
		break;
	default:
		open_returned(s, t, ret);
	}
}

void call_cut_short(struct session *s, struct task *t)
{
	if (!t->call.active)
		return;
	t->call.active = false;
	if (!t->call.ioctl)
		return;
	if ((uint32_t)t->call.args[1] == KVM_RUN && t->call.on.kind == KVM_VCPU)
		run_unreturned(s, t);
	else
		note_ioctl(s, t, false, 0);
}
