/*
 * The rig's commands for the parts of a VM: /dev/kvm, the VM, memory, vCPUs, and running them by hand,
 * without core/machine. See rig.h.
 */
#include <stdlib.h>
#include <string.h>

#include "rig.h"

#define BYTES_MAX (64u << 10) /* of one mem_read or mem_write */

static int kvm_open(struct rig *rig, int count, char **words)
{
	int rc = hv_kvm_open(&rig->kvm, &rig->err);

	rig_signed(rig, "fd", rig->kvm.fd);
	rig_number(rig, "run_size", rc ? 0 : rig->kvm.run_size);
	return rc;
}

static int kvm_close(struct rig *rig, int count, char **words)
{
	hv_kvm_close(&rig->kvm);
	return 0;
}

static int kvm_has(struct rig *rig, int count, char **words)
{
	uint64_t cap;

	if (count != 2 || !rig_parse(words[1], &cap))
		return RIG_USAGE;
	rig_signed(rig, "value", hv_kvm_has(&rig->kvm, cap));
	return 0;
}

static int vm_create(struct rig *rig, int count, char **words)
{
	int rc = hv_vm_create(&rig->vm, &rig->kvm, &rig->err);

	rig_signed(rig, "fd", rig->vm.fd);
	hv_memory_init(&rig->memory, rc ? NULL : &rig->vm);
	return rc;
}

static int vm_destroy(struct rig *rig, int count, char **words)
{
	hv_vm_destroy(&rig->vm);
	return 0;
}

static int irqchip(struct rig *rig, int count, char **words)
{
	static const char *const kinds[] = {"auto", "none", "split", "full"};

	for (unsigned i = 0; count == 2 && i < 4; i++)
		if (strcmp(words[1], kinds[i]) == 0)
			return hv_irqchip_create(&rig->vm, (enum hv_irqchip)i, &rig->err);
	return RIG_USAGE;
}

/* --- memory --- */

static int mem_add(struct rig *rig, int count, char **words)
{
	uint64_t gpa, size;

	if (count < 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &size))
		return RIG_USAGE;
	return hv_memory_add(&rig->memory, gpa, size, count > 3 && strcmp(words[3], "ro") == 0, &rig->err);
}

static int mem_ram(struct rig *rig, int count, char **words)
{
	uint64_t size;

	if (count != 2 || !rig_parse(words[1], &size))
		return RIG_USAGE;
	return hv_memory_add_ram(&rig->memory, size, &rig->err);
}

/* What the struct says, as far as it can be believed. */
static int mem_slots(struct rig *rig, int count, char **words)
{
	rig_number(rig, "count", rig->memory.count);
	for (unsigned i = 0; i < rig->memory.count && i < HV_SLOTS_MAX; i++) {
		const struct hv_slot *s = &rig->memory.slots[i];
		char key[24];

		snprintf(key, sizeof(key), "gpa%u", i);
		rig_number(rig, key, s->gpa);
		snprintf(key, sizeof(key), "size%u", i);
		rig_number(rig, key, s->size);
		snprintf(key, sizeof(key), "readonly%u", i);
		rig_bool(rig, key, s->readonly);
	}
	return 0;
}

static int mem_at(struct rig *rig, int count, char **words)
{
	uint64_t gpa, length;
	const void *host;

	if (count != 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &length))
		return RIG_USAGE;
	host = hv_memory_at(&rig->memory, gpa, length);
	rig_bool(rig, "there", host != NULL);
	rig_number(rig, "host", (uintptr_t)host);
	return 0;
}

static int mem_read(struct rig *rig, int count, char **words)
{
	static uint8_t buffer[BYTES_MAX];
	uint64_t gpa, length;
	int rc;

	if (count != 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &length) ||
	    length > sizeof(buffer))
		return RIG_USAGE;
	memset(buffer, 0xa5, sizeof(buffer)); /* seen again in the answer where nothing was read */
	rc = hv_memory_read(&rig->memory, gpa, buffer, length);
	rig_bytes(rig, "data", buffer, length);
	return rc;
}

static int mem_write(struct rig *rig, int count, char **words)
{
	static uint8_t buffer[BYTES_MAX];
	uint64_t gpa;
	int n;

	if (count != 3 || !rig_parse(words[1], &gpa) ||
	    (n = rig_parse_bytes(words[2], buffer, sizeof(buffer))) < 0)
		return RIG_USAGE;
	return hv_memory_write(&rig->memory, gpa, buffer, (uint64_t)n);
}

/* All of memory, slot by slot, gets this byte: whatever a loader leaves alone shows it. */
static int mem_dirty(struct rig *rig, int count, char **words)
{
	uint64_t byte;

	if (count != 2 || !rig_parse(words[1], &byte))
		return RIG_USAGE;
	for (unsigned i = 0; i < rig->memory.count && i < HV_SLOTS_MAX; i++)
		memset(rig->memory.slots[i].host, (int)byte, rig->memory.slots[i].size);
	return 0;
}

static int mem_clear(struct rig *rig, int count, char **words)
{
	return hv_memory_clear(&rig->memory, &rig->err);
}

static int mem_free(struct rig *rig, int count, char **words)
{
	hv_memory_free(&rig->memory);
	return 0;
}

/* A file's bytes at gpa, by the slots themselves: loading must not fall with the lab that is being graded. */
static int load(struct rig *rig, int count, char **words)
{
	uint64_t gpa;
	FILE *file;

	if (count != 3 || !rig_parse(words[2], &gpa))
		return RIG_USAGE;
	file = fopen(words[1], "rb");
	if (!file)
		return hv_fail_errno(&rig->err, "%s", words[1]);
	for (unsigned i = 0; i < rig->memory.count && i < HV_SLOTS_MAX; i++) {
		const struct hv_slot *s = &rig->memory.slots[i];

		if (gpa >= s->gpa && gpa - s->gpa < s->size) {
			size_t n = fread(s->host + (gpa - s->gpa), 1, s->size - (gpa - s->gpa), file);

			fclose(file);
			rig_number(rig, "bytes", n);
			return 0;
		}
	}
	fclose(file);
	return hv_fail(&rig->err, EFAULT, "no slot holds %#llx", (unsigned long long)gpa);
}

/* --- vCPUs --- */

static struct hv_vcpu *vcpu_of(struct rig *rig, int count, char **words)
{
	return &rig->vcpus[rig_option_number(count, words, "cpu", 0) % RIG_VCPUS];
}

static int vcpu_create(struct rig *rig, int count, char **words)
{
	uint64_t index = 0;
	struct hv_vcpu *vcpu;
	int rc;

	if (count > 2 || (count == 2 && !rig_parse(words[1], &index)) || index >= RIG_VCPUS)
		return RIG_USAGE;
	vcpu = &rig->vcpus[index];
	rc = hv_vcpu_create(vcpu, &rig->vm, (unsigned)index, &rig->err);
	rig_signed(rig, "fd", vcpu->fd);
	rig_bool(rig, "run", vcpu->run != NULL);
	return rc;
}

static int vcpu_destroy(struct rig *rig, int count, char **words)
{
	hv_vcpu_destroy(vcpu_of(rig, count, words));
	return 0;
}

/* entry real|protected|long RIP [rsp=N] [rdi=N] [cpu=N] */
static int entry(struct rig *rig, int count, char **words)
{
	static const char *const modes[] = {"real", "protected", "long"};
	struct hv_entry e = {.rsp = rig_option_number(count, words, "rsp", 0),
			     .rdi = rig_option_number(count, words, "rdi", 0)};
	unsigned mode = 0;

	while (count > 2 && mode < 3 && strcmp(words[1], modes[mode]) != 0)
		mode++;
	if (count < 3 || mode == 3 || !rig_parse(words[2], &e.rip))
		return RIG_USAGE;
	e.mode = (enum hv_entry_mode)mode;
	return hv_entry_apply(&e, vcpu_of(rig, count, words), &rig->memory, &rig->err);
}

static int regs(struct rig *rig, int count, char **words)
{
	struct kvm_regs r;
	int rc = hv_vcpu_get_regs(vcpu_of(rig, count, words), &r, &rig->err);

	if (rc)
		return rc;
	rig_number(rig, "rip", r.rip);
	rig_number(rig, "rflags", r.rflags);
	rig_number(rig, "rax", r.rax);
	rig_number(rig, "rbx", r.rbx);
	rig_number(rig, "rcx", r.rcx);
	rig_number(rig, "rdx", r.rdx);
	rig_number(rig, "rsi", r.rsi);
	rig_number(rig, "rdi", r.rdi);
	rig_number(rig, "rsp", r.rsp);
	rig_number(rig, "rbp", r.rbp);
	return 0;
}

/* What the guest reads from a port or a register is taken from in=HEX, used again from its start when it
 * ends. */
struct input {
	uint8_t bytes[256];
	size_t size, next;
};

static void answer_exit(const struct hv_vcpu *vcpu, struct input *in)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = NULL;
	size_t n = 0;

	if (run->exit_reason == KVM_EXIT_IO && run->io.direction == KVM_EXIT_IO_IN) {
		data = (uint8_t *)run + run->io.data_offset;
		n = (size_t)run->io.size * run->io.count;
	} else if (run->exit_reason == KVM_EXIT_MMIO && !run->mmio.is_write) {
		data = run->mmio.data;
		n = run->mmio.len;
	}
	for (size_t i = 0; data && in->size > 0 && i < n; i++)
		data[i] = in->bytes[in->next++ % in->size];
}

static bool goes_on(uint32_t reason)
{
	return reason == KVM_EXIT_IO || reason == KVM_EXIT_MMIO || reason == KVM_EXIT_INTR ||
	       reason == KVM_EXIT_IRQ_WINDOW_OPEN;
}

/*
 * run [N] [in=HEX] [cpu=N]: hv_vcpu_run up to N times (1), ended by a failure or by an exit after which there
 * is nothing to go on with. The answer: how often it ran, the last return value and reason.
 */
static int run(struct rig *rig, int count, char **words)
{
	struct hv_vcpu *vcpu = vcpu_of(rig, count, words);
	const char *hex = rig_option(count, words, "in");
	struct input in = {.next = 0};
	uint64_t limit = 1, times = 0;
	int rc = 0, n = hex ? rig_parse_bytes(hex, in.bytes, sizeof(in.bytes)) : 0;
	bool go_on = true;

	if (count > 1 && !strchr(words[1], '=') && !rig_parse(words[1], &limit))
		return RIG_USAGE;
	if (n < 0)
		return RIG_USAGE;
	in.size = (size_t)n;
	if (!vcpu->run)
		return hv_fail(&rig->err, EBADF, "there is no such vCPU");
	while (times < limit && go_on) {
		rc = hv_vcpu_run(vcpu);
		times++;
		go_on = rc == 0 && goes_on(vcpu->run->exit_reason);
		if (go_on)
			answer_exit(vcpu, &in);
	}
	rig_number(rig, "times", times);
	rig_text(rig, "reason", rc ? "" : hv_exit_name(vcpu->run->exit_reason));
	return rc;
}

static int exit_now(struct rig *rig, int count, char **words)
{
	_Exit((int)rig_option_number(count, words, "status", 0));
}

const struct rig_command rig_vm[] = {
	{"kvm_open", "", kvm_open},
	{"kvm_close", "", kvm_close},
	{"kvm_has", "CAP", kvm_has},
	{"vm_create", "", vm_create},
	{"vm_destroy", "", vm_destroy},
	{"irqchip", "none|split|full", irqchip},
	{"mem_add", "GPA SIZE [ro]", mem_add},
	{"mem_ram", "SIZE", mem_ram},
	{"mem_slots", "", mem_slots},
	{"mem_at", "GPA LENGTH", mem_at},
	{"mem_read", "GPA LENGTH", mem_read},
	{"mem_write", "GPA HEX", mem_write},
	{"mem_dirty", "BYTE", mem_dirty},
	{"mem_clear", "", mem_clear},
	{"mem_free", "", mem_free},
	{"load", "FILE GPA", load},
	{"vcpu_create", "[INDEX]", vcpu_create},
	{"vcpu_destroy", "[cpu=N]", vcpu_destroy},
	{"entry", "real|protected|long RIP [rsp=N] [rdi=N] [cpu=N]", entry},
	{"regs", "[cpu=N]", regs},
	{"run", "[N] [in=HEX] [cpu=N]", run},
	{"exit", "[status=N]", exit_now},
	{NULL, NULL, NULL},
};
