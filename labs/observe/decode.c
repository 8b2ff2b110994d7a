/*
 * Ioctls in words: one table of KVM's x86 ioctls, most of them told by a list of their structure's fields,
 * under the kernel's names. Rules: KVM API 4, linux/kvm.h, asm/kvm.h.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "observe.h"

#define LENGTH_MAX (64u << 10)

struct field {
	const char *name;
	uint16_t at, size; /* size: 1, 2, 4, 8 a number; else bytes */
};

/* How an argument is told. */
enum direction { IN = 1, OUT = 2, BOTH = 3 };

struct about {
	unsigned long request;
	const char *name;
	const char *scalar; /* the argument is this number, no address */
	const struct field *fields;
	size_t size;
	/* arrays: so many entries behind the header, counted by its first u32 */
	const struct field *entry;
	size_t entry_size;
	unsigned field_count, entry_fields;
	enum direction direction;
};

#define FIELD(type, member)                                                                                  \
	{                                                                                                    \
#member, offsetof(struct type, member), sizeof(((struct type *)0)->member)                   \
	}

/* --- the fields --- */

#define REGION_FIELDS(type)                                                                                  \
	FIELD(type, slot), FIELD(type, flags), FIELD(type, guest_phys_addr), FIELD(type, memory_size),       \
		FIELD(type, userspace_addr)

static const struct field region[] = {REGION_FIELDS(kvm_userspace_memory_region)};
static const struct field region2[] = {REGION_FIELDS(region2), FIELD(region2, guest_memfd_offset),
				       FIELD(region2, guest_memfd)};
static const struct field regs_fields[] = {
	FIELD(kvm_regs, rax), FIELD(kvm_regs, rbx),   FIELD(kvm_regs, rcx), FIELD(kvm_regs, rdx),
	FIELD(kvm_regs, rsi), FIELD(kvm_regs, rdi),   FIELD(kvm_regs, rsp), FIELD(kvm_regs, rbp),
	FIELD(kvm_regs, r8),  FIELD(kvm_regs, r9),    FIELD(kvm_regs, r10), FIELD(kvm_regs, r11),
	FIELD(kvm_regs, r12), FIELD(kvm_regs, r13),   FIELD(kvm_regs, r14), FIELD(kvm_regs, r15),
	FIELD(kvm_regs, rip), FIELD(kvm_regs, rflags)};
static const struct field segment[] = {
	FIELD(kvm_segment, base), FIELD(kvm_segment, limit),   FIELD(kvm_segment, selector),
	FIELD(kvm_segment, type), FIELD(kvm_segment, present), FIELD(kvm_segment, dpl),
	FIELD(kvm_segment, db),   FIELD(kvm_segment, s),       FIELD(kvm_segment, l),
	FIELD(kvm_segment, g),    FIELD(kvm_segment, avl),     FIELD(kvm_segment, unusable)};
static const struct field segments[] = {FIELD(kvm_sregs, cs), FIELD(kvm_sregs, ds), FIELD(kvm_sregs, es),
					FIELD(kvm_sregs, fs), FIELD(kvm_sregs, gs), FIELD(kvm_sregs, ss),
					FIELD(kvm_sregs, tr), FIELD(kvm_sregs, ldt)};
static const struct field control[] = {
	FIELD(kvm_sregs, cr0), FIELD(kvm_sregs, cr2),  FIELD(kvm_sregs, cr3),      FIELD(kvm_sregs, cr4),
	FIELD(kvm_sregs, cr8), FIELD(kvm_sregs, efer), FIELD(kvm_sregs, apic_base)};
static const struct field irq_level[] = {FIELD(kvm_irq_level, irq), FIELD(kvm_irq_level, level)};
static const struct field interrupt[] = {FIELD(kvm_interrupt, irq)};
static const struct field msi[] = {FIELD(kvm_msi, address_lo), FIELD(kvm_msi, address_hi),
				   FIELD(kvm_msi, data), FIELD(kvm_msi, flags), FIELD(kvm_msi, devid)};
static const struct field address[] = {{"addr", 0, 8}};
static const struct field pit_config[] = {FIELD(kvm_pit_config, flags)};
static const struct field mp_state[] = {FIELD(kvm_mp_state, mp_state)};
static const struct field irqchip[] = {FIELD(kvm_irqchip, chip_id), FIELD(kvm_irqchip, chip)};
static const struct field pit[] = {FIELD(kvm_pit_state2, channels), FIELD(kvm_pit_state2, flags)};
static const struct field lapic[] = {FIELD(kvm_lapic_state, regs)};
static const struct field enable_cap[] = {FIELD(kvm_enable_cap, cap),
					  FIELD(kvm_enable_cap, flags),
					  {"args0", offsetof(struct kvm_enable_cap, args[0]), 8},
					  {"args1", offsetof(struct kvm_enable_cap, args[1]), 8}};
static const struct field guest_debug[] = {FIELD(kvm_guest_debug, control),
					   FIELD(kvm_guest_debug, arch.debugreg)};
static const struct field irqfd[] = {FIELD(kvm_irqfd, fd), FIELD(kvm_irqfd, gsi), FIELD(kvm_irqfd, flags),
				     FIELD(kvm_irqfd, resamplefd)};
static const struct field ioeventfd[] = {FIELD(kvm_ioeventfd, datamatch), FIELD(kvm_ioeventfd, addr),
					 FIELD(kvm_ioeventfd, len), FIELD(kvm_ioeventfd, fd),
					 FIELD(kvm_ioeventfd, flags)};
static const struct field routing[] = {FIELD(kvm_irq_routing, nr), FIELD(kvm_irq_routing, flags)};
static const struct field route[] = {
	FIELD(kvm_irq_routing_entry, gsi),
	FIELD(kvm_irq_routing_entry, type),
	FIELD(kvm_irq_routing_entry, flags),
	{"irqchip", offsetof(struct kvm_irq_routing_entry, u.irqchip.irqchip), 4},
	{"pin", offsetof(struct kvm_irq_routing_entry, u.irqchip.pin), 4},
	{"data", offsetof(struct kvm_irq_routing_entry, u.msi.data), 4}};
static const struct field msr_list[] = {FIELD(kvm_msrs, nmsrs)};
static const struct field msr[] = {FIELD(kvm_msr_entry, index), FIELD(kvm_msr_entry, data)};
static const struct field cpuid_list[] = {FIELD(kvm_cpuid2, nent)};
static const struct field cpuid[] = {FIELD(kvm_cpuid_entry2, function), FIELD(kvm_cpuid_entry2, index),
				     FIELD(kvm_cpuid_entry2, flags),    FIELD(kvm_cpuid_entry2, eax),
				     FIELD(kvm_cpuid_entry2, ebx),      FIELD(kvm_cpuid_entry2, ecx),
				     FIELD(kvm_cpuid_entry2, edx)};
static const struct field dirty_log[] = {FIELD(kvm_dirty_log, slot)};
static const struct field clear_log[] = {FIELD(kvm_clear_dirty_log, slot),
					 FIELD(kvm_clear_dirty_log, num_pages),
					 FIELD(kvm_clear_dirty_log, first_page)};
static const struct field clock_data[] = {FIELD(kvm_clock_data, clock), FIELD(kvm_clock_data, flags)};
static const struct field debugregs[] = {FIELD(kvm_debugregs, db), FIELD(kvm_debugregs, dr6),
					 FIELD(kvm_debugregs, dr7)};
static const struct field vcpu_events[] = {
	{"exception_injected", offsetof(struct kvm_vcpu_events, exception.injected), 1},
	{"exception_nr", offsetof(struct kvm_vcpu_events, exception.nr), 1},
	{"interrupt_injected", offsetof(struct kvm_vcpu_events, interrupt.injected), 1},
	{"interrupt_nr", offsetof(struct kvm_vcpu_events, interrupt.nr), 1},
	{"interrupt_soft", offsetof(struct kvm_vcpu_events, interrupt.soft), 1},
	{"interrupt_shadow", offsetof(struct kvm_vcpu_events, interrupt.shadow), 1},
	{"nmi_injected", offsetof(struct kvm_vcpu_events, nmi.injected), 1},
	{"nmi_pending", offsetof(struct kvm_vcpu_events, nmi.pending), 1},
	{"nmi_masked", offsetof(struct kvm_vcpu_events, nmi.masked), 1},
	FIELD(kvm_vcpu_events, sipi_vector),
	FIELD(kvm_vcpu_events, flags)};
static const struct field create_device[] = {FIELD(kvm_create_device, type), FIELD(kvm_create_device, fd),
					     FIELD(kvm_create_device, flags)};
static const struct field device_attr[] = {FIELD(kvm_device_attr, flags), FIELD(kvm_device_attr, group),
					   FIELD(kvm_device_attr, attr), FIELD(kvm_device_attr, addr)};
static const struct field translation[] = {
	FIELD(kvm_translation, linear_address), FIELD(kvm_translation, physical_address),
	FIELD(kvm_translation, valid), FIELD(kvm_translation, writeable), FIELD(kvm_translation, usermode)};
static const struct field one_reg[] = {FIELD(kvm_one_reg, id), FIELD(kvm_one_reg, addr)};
static const struct field zone[] = {FIELD(kvm_coalesced_mmio_zone, addr),
				    FIELD(kvm_coalesced_mmio_zone, size),
				    {"pio", offsetof(struct kvm_coalesced_mmio_zone, pio), 4}};
static const struct field signal_mask[] = {{"len", 0, 4}};

/* --- the ioctls --- */

#define WITH(way, r, type, list)                                                                             \
	{                                                                                                    \
		.request = (r), .name = #r, .direction = (way), .fields = (list),                            \
		.field_count = ARRAY_SIZE(list), .size = sizeof(type)                                        \
	}
#define MANY(way, r, type, list, one, each)                                                                  \
	{                                                                                                    \
		.request = (r), .name = #r, .direction = (way), .fields = (list),                            \
		.field_count = ARRAY_SIZE(list), .size = sizeof(type), .entry = (each),                      \
		.entry_fields = ARRAY_SIZE(each), .entry_size = sizeof(one)                                  \
	}
#define NUMBER(r, what)                                                                                      \
	{                                                                                                    \
		.request = (r), .name = #r, .scalar = (what)                                                 \
	}
#define NAMED(r)                                                                                             \
	{                                                                                                    \
		.request = (r), .name = #r                                                                   \
	}

static const struct about table[] = {
	NAMED(KVM_GET_API_VERSION),
	NUMBER(KVM_CREATE_VM, "type"),
	NUMBER(KVM_CHECK_EXTENSION, "cap"),
	NAMED(KVM_GET_VCPU_MMAP_SIZE),
	NUMBER(KVM_CREATE_VCPU, "vcpu_id"),
	NAMED(KVM_RUN),
	WITH(IN, KVM_SET_USER_MEMORY_REGION, struct kvm_userspace_memory_region, region),
	{.request = SET_USER_MEMORY_REGION2,
	 .name = "KVM_SET_USER_MEMORY_REGION2",
	 .direction = IN,
	 .fields = region2,
	 .field_count = ARRAY_SIZE(region2),
	 .size = sizeof(struct region2)},
	WITH(OUT, KVM_GET_REGS, struct kvm_regs, regs_fields),
	WITH(IN, KVM_SET_REGS, struct kvm_regs, regs_fields),
	{.request = KVM_GET_SREGS,
	 .name = "KVM_GET_SREGS",
	 .direction = OUT,
	 .size = sizeof(struct kvm_sregs)},
	{.request = KVM_SET_SREGS,
	 .name = "KVM_SET_SREGS",
	 .direction = IN,
	 .size = sizeof(struct kvm_sregs)},
	NUMBER(KVM_SET_TSS_ADDR, "addr"),
	WITH(IN, KVM_SET_IDENTITY_MAP_ADDR, uint64_t, address),
	NAMED(KVM_CREATE_IRQCHIP),
	WITH(IN, KVM_IRQ_LINE, struct kvm_irq_level, irq_level),
	{.request = KVM_IRQ_LINE_STATUS,
	 .name = "KVM_IRQ_LINE_STATUS",
	 .direction = BOTH,
	 .fields = irq_level,
	 .field_count = ARRAY_SIZE(irq_level),
	 .size = sizeof(struct kvm_irq_level)},
	WITH(BOTH, KVM_GET_IRQCHIP, struct kvm_irqchip, irqchip),
	WITH(IN, KVM_SET_IRQCHIP, struct kvm_irqchip, irqchip),
	NAMED(KVM_CREATE_PIT),
	WITH(IN, KVM_CREATE_PIT2, struct kvm_pit_config, pit_config),
	WITH(OUT, KVM_GET_PIT2, struct kvm_pit_state2, pit),
	WITH(IN, KVM_SET_PIT2, struct kvm_pit_state2, pit),
	WITH(IN, KVM_INTERRUPT, struct kvm_interrupt, interrupt),
	WITH(IN, KVM_SIGNAL_MSI, struct kvm_msi, msi),
	WITH(OUT, KVM_GET_LAPIC, struct kvm_lapic_state, lapic),
	WITH(IN, KVM_SET_LAPIC, struct kvm_lapic_state, lapic),
	WITH(OUT, KVM_GET_MP_STATE, struct kvm_mp_state, mp_state),
	WITH(IN, KVM_SET_MP_STATE, struct kvm_mp_state, mp_state),
	WITH(IN, KVM_ENABLE_CAP, struct kvm_enable_cap, enable_cap),
	WITH(IN, KVM_SET_GUEST_DEBUG, struct kvm_guest_debug, guest_debug),
	WITH(IN, KVM_IRQFD, struct kvm_irqfd, irqfd),
	WITH(IN, KVM_IOEVENTFD, struct kvm_ioeventfd, ioeventfd),
	MANY(IN, KVM_SET_GSI_ROUTING, struct kvm_irq_routing, routing, struct kvm_irq_routing_entry, route),
	MANY(BOTH, KVM_GET_MSRS, struct kvm_msrs, msr_list, struct kvm_msr_entry, msr),
	MANY(IN, KVM_SET_MSRS, struct kvm_msrs, msr_list, struct kvm_msr_entry, msr),
	MANY(OUT, KVM_GET_SUPPORTED_CPUID, struct kvm_cpuid2, cpuid_list, struct kvm_cpuid_entry2, cpuid),
	MANY(IN, KVM_SET_CPUID2, struct kvm_cpuid2, cpuid_list, struct kvm_cpuid_entry2, cpuid),
	MANY(OUT, KVM_GET_CPUID2, struct kvm_cpuid2, cpuid_list, struct kvm_cpuid_entry2, cpuid),
	WITH(IN, KVM_GET_DIRTY_LOG, struct kvm_dirty_log, dirty_log),
	WITH(IN, KVM_CLEAR_DIRTY_LOG, struct kvm_clear_dirty_log, clear_log),
	NAMED(KVM_RESET_DIRTY_RINGS),
	WITH(OUT, KVM_GET_CLOCK, struct kvm_clock_data, clock_data),
	WITH(IN, KVM_SET_CLOCK, struct kvm_clock_data, clock_data),
	WITH(OUT, KVM_GET_DEBUGREGS, struct kvm_debugregs, debugregs),
	WITH(IN, KVM_SET_DEBUGREGS, struct kvm_debugregs, debugregs),
	WITH(OUT, KVM_GET_VCPU_EVENTS, struct kvm_vcpu_events, vcpu_events),
	WITH(IN, KVM_SET_VCPU_EVENTS, struct kvm_vcpu_events, vcpu_events),
	WITH(BOTH, KVM_CREATE_DEVICE, struct kvm_create_device, create_device),
	WITH(IN, KVM_SET_DEVICE_ATTR, struct kvm_device_attr, device_attr),
	WITH(IN, KVM_GET_DEVICE_ATTR, struct kvm_device_attr, device_attr),
	WITH(IN, KVM_HAS_DEVICE_ATTR, struct kvm_device_attr, device_attr),
	WITH(BOTH, KVM_TRANSLATE, struct kvm_translation, translation),
	WITH(IN, KVM_GET_ONE_REG, struct kvm_one_reg, one_reg),
	WITH(IN, KVM_SET_ONE_REG, struct kvm_one_reg, one_reg),
	WITH(IN, KVM_REGISTER_COALESCED_MMIO, struct kvm_coalesced_mmio_zone, zone),
	WITH(IN, KVM_UNREGISTER_COALESCED_MMIO, struct kvm_coalesced_mmio_zone, zone),
	WITH(IN, KVM_SET_SIGNAL_MASK, struct kvm_signal_mask, signal_mask),
	NUMBER(KVM_SET_TSC_KHZ, "tsc_khz"),
	NAMED(KVM_GET_TSC_KHZ),
	NUMBER(KVM_SET_BOOT_CPU_ID, "vcpu_id"),
	NUMBER(KVM_SET_NR_MMU_PAGES, "pages"),
	NAMED(KVM_NMI),
	NAMED(KVM_SMI),
	NAMED(KVM_KVMCLOCK_CTRL),
	NAMED(KVM_GET_STATS_FD),
	NAMED(KVM_GET_MSR_INDEX_LIST),
	NAMED(KVM_GET_MSR_FEATURE_INDEX_LIST),
	NAMED(KVM_GET_FPU),
	NAMED(KVM_SET_FPU),
	NAMED(KVM_GET_XSAVE),
	NAMED(KVM_GET_XSAVE2),
	NAMED(KVM_SET_XSAVE),
	NAMED(KVM_GET_XCRS),
	NAMED(KVM_SET_XCRS),
	NAMED(KVM_GET_SREGS2),
	NAMED(KVM_SET_SREGS2),
	NAMED(KVM_GET_PIT),
	NAMED(KVM_SET_PIT),
	NAMED(KVM_REINJECT_CONTROL),
	NAMED(KVM_TPR_ACCESS_REPORTING),
	NAMED(KVM_SET_VAPIC_ADDR),
	NAMED(KVM_X86_SETUP_MCE),
	NAMED(KVM_X86_GET_MCE_CAP_SUPPORTED),
	NAMED(KVM_X86_SET_MCE),
	NAMED(KVM_X86_SET_MSR_FILTER),
	NAMED(KVM_GET_NESTED_STATE),
	NAMED(KVM_SET_NESTED_STATE),
	NAMED(KVM_MEMORY_ENCRYPT_OP),
	NAMED(KVM_GET_SUPPORTED_HV_CPUID),
	NAMED(KVM_GET_EMULATED_CPUID),
};

static const struct about *find(unsigned long request)
{
	for (size_t i = 0; i < ARRAY_SIZE(table); i++)
		if (table[i].request == request)
			return &table[i];
	return NULL;
}

const char *ioctl_name(unsigned long request)
{
	const struct about *a = find(request);

	return a ? a->name : NULL;
}

/* --- reading and telling --- */

/* With the entries that it says it has; a number beyond reason is cut. */
static size_t whole_size(const struct session *s, const struct about *a, uint64_t arg)
{
	uint32_t count;

	if (!a->entry || peek(s, arg, &count, sizeof(count)) != sizeof(count))
		return a->size;
	if (count > (LENGTH_MAX - a->size) / a->entry_size)
		count = (uint32_t)((LENGTH_MAX - a->size) / a->entry_size);
	return a->size + count * a->entry_size;
}

/* An ioctl without a line in the table shows its first bytes. */
static size_t unknown_size(unsigned long request, unsigned direction)
{
	size_t size = _IOC_SIZE(request);

	if (!(_IOC_DIR(request) & direction))
		return 0;
	return size < 64 ? size : 64;
}

size_t ioctl_in_size(const struct session *s, unsigned long request, uint64_t arg)
{
	const struct about *a = find(request);

	if (!a)
		return unknown_size(request, _IOC_WRITE);
	return a->direction & IN ? whole_size(s, a, arg) : 0;
}

static uint64_t number(const uint8_t *at, size_t size)
{
	uint64_t value = 0;

	memcpy(&value, at, size);
	return value;
}

static void tell_fields(struct out *o, const struct field *f, unsigned count, const uint8_t *data,
			size_t length)
{
	for (; count; count--, f++) {
		if ((size_t)f->at + f->size > length)
			continue;
		if (f->size == 1 || f->size == 2 || f->size == 4 || f->size == 8)
			out_u64(o, f->name, number(data + f->at, f->size));
		else
			out_hex(o, f->name, data + f->at, f->size);
	}
}

static void tell_entries(struct out *o, const struct about *a, const uint8_t *data, size_t length)
{
	out_open(o, "entries", '[');
	for (size_t at = a->size; at + a->entry_size <= length; at += a->entry_size) {
		out_open(o, NULL, '{');
		tell_fields(o, a->entry, a->entry_fields, data + at, a->entry_size);
		out_close(o, '}');
	}
	out_close(o, ']');
}

static void tell_regs(struct out *o, const struct kvm_regs *regs)
{
	tell_fields(o, regs_fields, ARRAY_SIZE(regs_fields), (const uint8_t *)regs, sizeof(*regs));
}

static void tell_table(struct out *o, const char *name, const struct kvm_dtable *dt)
{
	out_open(o, name, '{');
	out_u64(o, "base", dt->base);
	out_u64(o, "limit", dt->limit);
	out_close(o, '}');
}

static void tell_sregs(struct out *o, const struct kvm_sregs *sregs)
{
	const uint8_t *bytes = (const uint8_t *)sregs;

	for (size_t i = 0; i < ARRAY_SIZE(segments); i++) {
		out_open(o, segments[i].name, '{');
		tell_fields(o, segment, ARRAY_SIZE(segment), bytes + segments[i].at, segments[i].size);
		out_close(o, '}');
	}
	tell_table(o, "gdt", &sregs->gdt);
	tell_table(o, "idt", &sregs->idt);
	tell_fields(o, control, ARRAY_SIZE(control), bytes, sizeof(*sregs));
}

void decode_regs(struct out *o, const char *key, const struct kvm_regs *regs)
{
	out_open(o, key, '{');
	tell_regs(o, regs);
	out_close(o, '}');
}

void decode_sregs(struct out *o, const char *key, const struct kvm_sregs *sregs)
{
	out_open(o, key, '{');
	tell_sregs(o, sregs);
	out_close(o, '}');
}

static void tell(struct out *o, const struct about *a, const uint8_t *data, size_t length)
{
	if (a->request == KVM_GET_SREGS || a->request == KVM_SET_SREGS) {
		struct kvm_sregs sregs;

		if (length < sizeof(sregs))
			return;
		memcpy(&sregs, data, sizeof(sregs));
		tell_sregs(o, &sregs);
		return;
	}
	tell_fields(o, a->fields, a->field_count, data, length);
	if (a->entry && length >= a->size)
		tell_entries(o, a, data, length);
}

void decode_in(struct out *o, unsigned long request, uint64_t arg, const uint8_t *data, size_t length)
{
	const struct about *a = find(request);

	if (a && a->scalar)
		out_u64(o, a->scalar, arg);
	else if (a)
		tell(o, a, data, length);
	else if (length)
		out_hex(o, "bytes", data, length);
}

void decode_out(struct session *s, unsigned long request, uint64_t arg)
{
	static uint8_t data[LENGTH_MAX];
	const struct about *a = find(request);
	size_t length;

	if (a && !(a->direction & OUT))
		return;
	length = a ? whole_size(s, a, arg) : unknown_size(request, _IOC_READ);
	if (length > sizeof(data))
		return;
	length = peek(s, arg, data, length);
	if (a)
		tell(&s->out, a, data, length);
	else if (length)
		out_hex(&s->out, "bytes", data, length);
}
