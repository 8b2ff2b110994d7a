/*
 * The rig's commands for lab 1: what became of the descriptors, what stands in the shared area as the
 * student's mapping shows it, real mode as a function of what was there before. See rig.h.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "rig/fault.h"

#define DESCRIPTORS 256

/* kvm_open_at PATH: hv_kvm_open on another device. */
static int kvm_open_at(struct rig *rig, int count, char **words)
{
	int rc;

	if (count != 2)
		return RIG_USAGE;
	setenv("HV_KVM_DEVICE", words[1], 1);
	rc = hv_kvm_open(&rig->kvm, &rig->err);
	unsetenv("HV_KVM_DEVICE");
	return rc;
}

/* fds: how many descriptors are open, and /dev/kvm's own flags. */
static int fds(struct rig *rig, int count, char **words)
{
	unsigned open = 0;

	for (int fd = 0; fd < DESCRIPTORS; fd++)
		open += fcntl(fd, F_GETFD) >= 0;
	rig_number(rig, "open", open);
	rig_bool(rig, "cloexec", rig->kvm.fd >= 0 && (fcntl(rig->kvm.fd, F_GETFD) & FD_CLOEXEC));
	return 0;
}

/* run_size BYTES: what the vCPUs are told to map from now on. */
static int run_size(struct rig *rig, int count, char **words)
{
	uint64_t size;

	if (count != 2 || !rig_parse(words[1], &size))
		return RIG_USAGE;
	rig->kvm.run_size = (size_t)size;
	return 0;
}

static struct hv_vcpu *vcpu_of(struct rig *rig, int count, char **words)
{
	return &rig->vcpus[rig_option_number(count, words, "cpu", 0) % RIG_VCPUS];
}

/* immediate_exit 0|1 [cpu=N]: written through the student's mapping; the kernel reads it at the next KVM_RUN.
 */
static int immediate_exit(struct rig *rig, int count, char **words)
{
	struct hv_vcpu *vcpu = vcpu_of(rig, count, words);
	uint64_t value;

	if (count < 2 || !rig_parse(words[1], &value))
		return RIG_USAGE;
	if (!vcpu->run)
		return hv_fail(&rig->err, EBADF, "there is no such vCPU");
	vcpu->run->immediate_exit = (uint8_t)value;
	return 0;
}

/* look [cpu=N]: the last exit as the student's mapping shows it. */
static int look(struct rig *rig, int count, char **words)
{
	struct kvm_run *run = vcpu_of(rig, count, words)->run;

	if (!run)
		return hv_fail(&rig->err, EBADF, "there is no such vCPU");
	rig_text(rig, "reason", hv_exit_name(run->exit_reason));
	if (run->exit_reason == KVM_EXIT_IO) {
		rig_number(rig, "port", run->io.port);
		rig_bool(rig, "out", run->io.direction == KVM_EXIT_IO_OUT);
		rig_number(rig, "size", run->io.size);
		rig_number(rig, "count", run->io.count);
		rig_bytes(rig, "data", (uint8_t *)run + run->io.data_offset,
			  (size_t)run->io.size * run->io.count);
	}
	return 0;
}

/* A fresh vCPU is in real mode already; only CS is not where a small guest wants it. */
static int cs_to_zero(struct rig *rig, const struct hv_vcpu *vcpu)
{
	struct kvm_sregs s;

	if (ioctl(vcpu->fd, KVM_GET_SREGS, &s) < 0)
		return hv_fail_errno(&rig->err, "KVM_GET_SREGS");
	s.cs.base = s.cs.selector = 0;
	return ioctl(vcpu->fd, KVM_SET_SREGS, &s) < 0 ? hv_fail_errno(&rig->err, "KVM_SET_SREGS") : 0;
}

/*
 * set_regs rip=N [rax=N] [rbx=N] [rcx=N] [rdx=N] [rsp=N] [flat=1] [cpu=N]; what isn't named is 0. flat: CS
 * begins at 0, by the rig's own doing, not by hv_vcpu_real_mode.
 */
static int set_regs(struct rig *rig, int count, char **words)
{
	struct hv_vcpu *vcpu = vcpu_of(rig, count, words);
	struct kvm_regs r = {
		.rip = rig_option_number(count, words, "rip", 0),
		.rax = rig_option_number(count, words, "rax", 0),
		.rbx = rig_option_number(count, words, "rbx", 0),
		.rcx = rig_option_number(count, words, "rcx", 0),
		.rdx = rig_option_number(count, words, "rdx", 0),
		.rsp = rig_option_number(count, words, "rsp", 0),
		.rflags = 2,
	};
	int rc = 0;

	if (rig_option_number(count, words, "flat", 0))
		rc = cs_to_zero(rig, vcpu);
	return rc ? rc : hv_vcpu_set_regs(vcpu, &r, &rig->err);
}

static void tell_segment(struct rig *rig, const char *name, const struct kvm_segment *s)
{
	const struct {
		const char *field;
		uint64_t value;
	} fields[] = {
		{"base", s->base}, {"limit", s->limit}, {"selector", s->selector}, {"type", s->type},
		{"s", s->s},       {"dpl", s->dpl},     {"present", s->present},   {"db", s->db},
		{"l", s->l},       {"g", s->g},         {"unusable", s->unusable},
	};

	for (size_t i = 0; i < sizeof(fields) / sizeof(fields[0]); i++) {
		char key[32];

		snprintf(key, sizeof(key), "%s_%s", name, fields[i].field);
		rig_number(rig, key, fields[i].value);
	}
}

/*
 * real_mode [fill=BYTE]: hv_vcpu_real_mode on a struct whose bytes were all fill before. No KVM in it.
 */
static int real_mode(struct rig *rig, int count, char **words)
{
	struct kvm_sregs s;

	memset(&s, (int)rig_option_number(count, words, "fill", 0), sizeof(s));
	hv_vcpu_real_mode(&s);
	tell_segment(rig, "cs", &s.cs);
	tell_segment(rig, "ds", &s.ds);
	tell_segment(rig, "es", &s.es);
	tell_segment(rig, "fs", &s.fs);
	tell_segment(rig, "gs", &s.gs);
	tell_segment(rig, "ss", &s.ss);
	tell_segment(rig, "tr", &s.tr);
	rig_number(rig, "gdt_base", s.gdt.base);
	rig_number(rig, "idt_base", s.idt.base);
	rig_number(rig, "idt_limit", s.idt.limit);
	rig_number(rig, "cr0", s.cr0);
	rig_number(rig, "cr2", s.cr2);
	rig_number(rig, "cr3", s.cr3);
	rig_number(rig, "cr4", s.cr4);
	rig_number(rig, "cr8", s.cr8);
	rig_number(rig, "efer", s.efer);
	rig_number(rig, "apic_base", s.apic_base);
	return 0;
}

const struct rig_command rig_lab01[] = {
	{"lie", "NAME error=E|result=N|exit=REASON [value=N] [after=N] [times=N] | none", rig_lie},
	{"kvm_open_at", "PATH", kvm_open_at},
	{"fds", "", fds},
	{"run_size", "BYTES", run_size},
	{"immediate_exit", "0|1 [cpu=N]", immediate_exit},
	{"look", "[cpu=N]", look},
	{"set_regs", "rip=N [rax=N] [rbx=N] [rcx=N] [rdx=N] [rsp=N] [flat=1] [cpu=N]", set_regs},
	{"real_mode", "[fill=BYTE]", real_mode},
	{NULL, NULL, NULL},
};
