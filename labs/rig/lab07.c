/*
 * The rig's commands for lab 7: the ways into a guest of core/kvm/irq.c, each called by itself on a VM that
 * the rig's other commands have made. See rig.h.
 */
#include "rig.h"

static struct hv_vcpu *vcpu_of(struct rig *rig, int count, char **words)
{
	return &rig->vcpus[rig_option_number(count, words, "cpu", 0) % RIG_VCPUS];
}

static int irq_line(struct rig *rig, int count, char **words)
{
	uint64_t gsi, level;

	if (count != 3 || !rig_parse(words[1], &gsi) || !rig_parse(words[2], &level))
		return RIG_USAGE;
	return hv_irq_line(&rig->vm, (unsigned)gsi, level != 0);
}

static int irq_msi(struct rig *rig, int count, char **words)
{
	uint64_t address, data;

	if (count != 3 || !rig_parse(words[1], &address) || !rig_parse(words[2], &data))
		return RIG_USAGE;
	return hv_irq_msi(&rig->vm, address, (uint32_t)data);
}

/* irq_route PIN,ADDRESS,DATA,MASKED...: the whole table, in this order. */
static int irq_route(struct rig *rig, int count, char **words)
{
	struct hv_irq_route routes[RIG_WORDS] = {0};

	for (int i = 1; i < count; i++) {
		unsigned long long address;
		unsigned pin, data, masked;

		if (sscanf(words[i], "%u,%lli,%i,%u", &pin, (long long *)&address, (int *)&data, &masked) !=
		    4)
			return RIG_USAGE;
		routes[i - 1] = (struct hv_irq_route){
			.pin = pin, .address = address, .data = data, .masked = masked != 0};
	}
	return hv_irq_route_ioapic(&rig->vm, routes, (unsigned)count - 1, &rig->err);
}

static int irq_nmi(struct rig *rig, int count, char **words)
{
	return hv_vcpu_nmi(vcpu_of(rig, count, words), &rig->err);
}

/* irq_vector VECTOR [cpu=N]: and what it left in the kvm_run area. */
static int irq_vector(struct rig *rig, int count, char **words)
{
	struct hv_vcpu *vcpu = vcpu_of(rig, count, words);
	uint64_t vector;
	int rc;

	if (count < 2 || !rig_parse(words[1], &vector))
		return RIG_USAGE;
	if (!vcpu->run)
		return hv_fail(&rig->err, EBADF, "there is no such vCPU");
	rig_number(rig, "ready", vcpu->run->ready_for_interrupt_injection);
	rig_number(rig, "if_flag", vcpu->run->if_flag);
	rc = hv_vcpu_interrupt(vcpu, (uint8_t)vector, &rig->err);
	rig_number(rig, "window", vcpu->run->request_interrupt_window);
	return rc;
}

const struct rig_command rig_lab07[] = {
	{"irq_line", "GSI LEVEL", irq_line},
	{"irq_msi", "ADDRESS DATA", irq_msi},
	{"irq_route", "[PIN,ADDRESS,DATA,MASKED]...", irq_route},
	{"irq_nmi", "[cpu=N]", irq_nmi},
	{"irq_vector", "VECTOR [cpu=N]", irq_vector},
	{NULL, NULL, NULL},
};
