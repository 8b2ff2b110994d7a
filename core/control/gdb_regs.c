/*
 * A vCPU's registers as gdb numbers and names them: the features org.gnu.gdb.i386.core, .sse and .segments,
 * and one of our own for the control registers. The target is x86-64 in every mode of the vCPU, because gdb
 * can't change a description in the middle (see docs/gdb.md). Calls the vcpu room only. Rules: "Debugging
 * with GDB", G.5.14; gdb's features/i386/64bit-*.xml name the registers that gdb insists on.
 */
#include "control/gdb_regs.h"

#include <string.h>
#include <sys/ioctl.h>

#include "base/bytes.h"

#define MSR_KERNEL_GS_BASE 0xc0000102u

struct reg {
	const char *name;
	uint8_t size;  /* bytes in gdb's packets */
	uint8_t width; /* bytes in struct hv_gdb_state */
	uint16_t offset;
	const char *type;
	const char *group; /* NULL: gdb's own choice */
};

#define AT(field) offsetof(struct hv_gdb_state, field)
#define FX(at)    (AT(xsave) + (at)) /* in the FXSAVE image (SDM vol. 1, table 10-2) */
#define REG64(n)                                                                                             \
	{                                                                                                    \
#n, 8, 8, AT(regs.n), "int64", NULL                                                          \
	}
#define PTR64(n)                                                                                             \
	{                                                                                                    \
#n, 8, 8, AT(regs.n), "data_ptr", NULL                                                       \
	}
#define SEG(n)                                                                                               \
	{                                                                                                    \
#n, 4, 2, AT(sregs.n.selector), "int32", NULL                                                \
	}
#define ST(n)                                                                                                \
	{                                                                                                    \
		"st" #n, 10, 10, FX(32 + 16 * (n)), "i387_ext", NULL                                         \
	}
#define FCTL(n)                                                                                              \
	{                                                                                                    \
#n, 4, 4, AT(n), "int", "float"                                                              \
	}
#define XMM(n)                                                                                               \
	{                                                                                                    \
		"xmm" #n, 16, 16, FX(160 + 16 * (n)), "vec128", NULL                                         \
	}
#define CR(n, t)                                                                                             \
	{                                                                                                    \
#n, 8, 8, AT(sregs.n), t, "system"                                                           \
	}

static const struct reg regs_core[] = {
	REG64(rax),
	REG64(rbx),
	REG64(rcx),
	REG64(rdx),
	REG64(rsi),
	REG64(rdi),
	PTR64(rbp),
	PTR64(rsp),
	REG64(r8),
	REG64(r9),
	REG64(r10),
	REG64(r11),
	REG64(r12),
	REG64(r13),
	REG64(r14),
	REG64(r15),
	{"rip", 8, 8, AT(regs.rip), "code_ptr", NULL},
	{"eflags", 4, 4, AT(regs.rflags), "i386_eflags", NULL},
	SEG(cs),
	SEG(ss),
	SEG(ds),
	SEG(es),
	SEG(fs),
	SEG(gs),
	ST(0),
	ST(1),
	ST(2),
	ST(3),
	ST(4),
	ST(5),
	ST(6),
	ST(7),
	FCTL(fctrl),
	FCTL(fstat),
	FCTL(ftag),
	FCTL(fiseg),
	FCTL(fioff),
	FCTL(foseg),
	FCTL(fooff),
	FCTL(fop),
};

static const struct reg regs_sse[] = {
	XMM(0),
	XMM(1),
	XMM(2),
	XMM(3),
	XMM(4),
	XMM(5),
	XMM(6),
	XMM(7),
	XMM(8),
	XMM(9),
	XMM(10),
	XMM(11),
	XMM(12),
	XMM(13),
	XMM(14),
	XMM(15),
	{"mxcsr", 4, 4, FX(24), "i386_mxcsr", "vector"},
};

static const struct reg regs_segments[] = {
	{"fs_base", 8, 8, AT(sregs.fs.base), "int", NULL},
	{"gs_base", 8, 8, AT(sregs.gs.base), "int", NULL},
};

static const struct reg regs_system[] = {
	{"k_gs_base", 8, 8, AT(kernel_gs_base), "int64", "system"},
	CR(cr0, "x86_cr0"),
	CR(cr2, "int64"),
	CR(cr3, "int64"),
	CR(cr4, "x86_cr4"),
	CR(cr8, "int64"),
	CR(efer, "x86_efer"),
};

#define BIT(name, at) "<field name=\"" name "\" start=\"" #at "\" end=\"" #at "\"/>"

static const struct feature {
	const char *name;
	const char *types;
	const struct reg *regs;
	unsigned count;
} features[] = {
	{"org.gnu.gdb.i386.core",
	 "<flags id=\"i386_eflags\" size=\"4\">" BIT("CF", 0) BIT("", 1) BIT("PF", 2) BIT("AF", 4)
		 BIT("ZF", 6) BIT("SF", 7) BIT("TF", 8) BIT("IF", 9) BIT("DF", 10) BIT("OF", 11) BIT("NT", 14)
			 BIT("RF", 16) BIT("VM", 17) BIT("AC", 18) BIT("VIF", 19) BIT("VIP", 20)
				 BIT("ID", 21) "</flags>",
	 regs_core, HV_ARRAY_SIZE(regs_core)},
	{"org.gnu.gdb.i386.sse",
	 "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" "
	 "count=\"2\"/>"
	 "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
	 "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
	 "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" "
	 "type=\"v2d\"/>"
	 "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/>"
	 "<field name=\"v4_int32\" type=\"v4i32\"/><field name=\"v2_int64\" type=\"v2i64\"/>"
	 "<field name=\"uint128\" type=\"uint128\"/></union>"
	 "<flags id=\"i386_mxcsr\" size=\"4\">" BIT("IE", 0) BIT("DE", 1) BIT("ZE", 2) BIT("OE", 3)
		 BIT("UE", 4) BIT("PE", 5) BIT("DAZ", 6) BIT("IM", 7) BIT("DM", 8) BIT("ZM", 9) BIT("OM", 10)
			 BIT("UM", 11) BIT("PM", 12) BIT("FZ", 15) "</flags>",
	 regs_sse, HV_ARRAY_SIZE(regs_sse)},
	{"org.gnu.gdb.i386.segments", "", regs_segments, HV_ARRAY_SIZE(regs_segments)},
	{"org.hvkit.x86.system",
	 "<flags id=\"x86_cr0\" size=\"8\">" BIT("PE", 0) BIT("MP", 1) BIT("EM", 2) BIT("TS", 3) BIT(
		 "ET", 4) BIT("NE", 5) BIT("WP", 16) BIT("AM", 18) BIT("NW", 29) BIT("CD", 30)
		 BIT("PG",
		     31) "</flags>"
			 "<flags id=\"x86_cr4\" size=\"8\">" BIT("VME", 0) BIT("PVI", 1) BIT("TSD", 2) BIT(
				 "DE", 3) BIT("PSE", 4) BIT("PAE", 5) BIT("MCE", 6) BIT("PGE", 7) BIT("PCE",
												      8)
				 BIT("OSFXSR", 9) BIT("OSXMMEXCPT", 10) BIT("UMIP", 11) BIT("LA57", 12) BIT(
					 "VMXE", 13) BIT("FSGSBASE", 16) BIT("PCIDE", 17) BIT("OSXSAVE", 18)
					 BIT("SMEP", 20) BIT("SMAP", 21)
						 BIT("PKE",
						     22) "</flags>"
							 "<flags id=\"x86_efer\" size=\"8\">" BIT("SCE", 0)
								 BIT("LME", 8) BIT("LMA", 10) BIT("NXE", 11)
									 BIT("SVME", 12) "</flags>",
	 regs_system, HV_ARRAY_SIZE(regs_system)},
};

void hv_gdb_describe(struct hv_gdb_text *xml)
{
	hv_gdb_puts(xml, "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\">\n"
			 "<target version=\"1.0\"><architecture>i386:x86-64</architecture>\n");
	for (size_t f = 0; f < HV_ARRAY_SIZE(features); f++) {
		hv_gdb_puts(xml, "<feature name=\"");
		hv_gdb_puts(xml, features[f].name);
		hv_gdb_puts(xml, "\">");
		hv_gdb_puts(xml, features[f].types);
		hv_gdb_puts(xml, "\n");
		for (unsigned i = 0; i < features[f].count; i++) {
			const struct reg *r = &features[f].regs[i];

			hv_gdb_printf(xml, "<reg name=\"%s\" bitsize=\"%u\" type=\"%s\"", r->name,
				      r->size * 8u, r->type);
			if (r->group)
				hv_gdb_printf(xml, " group=\"%s\"", r->group);
			hv_gdb_puts(xml, "/>\n");
		}
		hv_gdb_puts(xml, "</feature>\n");
	}
	hv_gdb_puts(xml, "</target>\n");
}

unsigned hv_gdb_register_count(void)
{
	unsigned n = 0;

	for (size_t f = 0; f < HV_ARRAY_SIZE(features); f++)
		n += features[f].count;
	return n;
}

static const struct reg *find(unsigned n)
{
	for (size_t f = 0; f < HV_ARRAY_SIZE(features); f++) {
		if (n < features[f].count)
			return &features[f].regs[n];
		n -= features[f].count;
	}
	return NULL;
}

void hv_gdb_register_put(struct hv_gdb_text *reply, const struct hv_gdb_state *state, unsigned n)
{
	const struct reg *r = find(n);
	uint8_t raw[16] = {0};

	if (!r)
		return;
	memcpy(raw, (const uint8_t *)state + r->offset, r->width);
	hv_gdb_put_hex(reply, raw, r->size);
}

bool hv_gdb_register_take(struct hv_gdb_state *state, unsigned n, const char **at)
{
	const struct reg *r = find(n);
	uint8_t raw[16];

	if (!r || !hv_gdb_get_hex(at, raw, r->size))
		return false;
	memcpy((uint8_t *)state + r->offset, raw, r->width);
	return true;
}

/*
 * FXSAVE keeps one bit a register (1: in use), FSAVE and gdb two (3: empty). Which kind of number is in it no
 * one asks; "valid" will do (SDM vol. 1, 10.5.1.1).
 */
static void fpu_to_gdb(struct hv_gdb_state *s)
{
	const uint8_t *fx = s->xsave;
	const uint64_t ip = hv_le64(fx + 8), dp = hv_le64(fx + 16);

	s->fctrl = hv_le16(fx);
	s->fstat = hv_le16(fx + 2);
	s->ftag = 0;
	for (unsigned i = 0; i < 8; i++)
		s->ftag |= fx[4] >> i & 1 ? 0 : 3u << (2 * i);
	s->fop = hv_le16(fx + 6);
	s->fioff = (uint32_t)ip;
	s->fiseg = (uint32_t)(ip >> 32) & 0xffff;
	s->fooff = (uint32_t)dp;
	s->foseg = (uint32_t)(dp >> 32) & 0xffff;
}

static void fpu_from_gdb(struct hv_gdb_state *s, const struct hv_gdb_state *before)
{
	uint8_t *fx = s->xsave;
	uint8_t used = 0;

	hv_put_le16(fx, (uint16_t)s->fctrl);
	hv_put_le16(fx + 2, (uint16_t)s->fstat);
	for (unsigned i = 0; i < 8; i++)
		used = (uint8_t)(used | ((s->ftag >> (2 * i) & 3) != 3) << i);
	fx[4] = used;
	hv_put_le16(fx + 6, (uint16_t)s->fop);
	/* In 64-bit mode the pointers have 64 bits, of which gdb sees 48: untouched ones stay as they are. */
	if (s->fioff != before->fioff || s->fiseg != before->fiseg)
		hv_put_le64(fx + 8, s->fioff | (uint64_t)(s->fiseg & 0xffff) << 32);
	if (s->fooff != before->fooff || s->foseg != before->foseg)
		hv_put_le64(fx + 16, s->fooff | (uint64_t)(s->foseg & 0xffff) << 32);
	/* XSTATE_BV: x87 and SSE are no longer in their initial state, or what was written would not count.
	 */
	if (memcmp(s->xsave, before->xsave, sizeof(s->xsave)) != 0)
		fx[512] |= 3;
}

/* KVM's list of MSRs with room for the one that is wanted. */
union one_msr {
	struct kvm_msrs list;
	uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

static int msr_ioctl(const struct hv_vcpu *vcpu, unsigned long request, uint32_t index, uint64_t *value)
{
	union one_msr msr = {.list.nmsrs = 1};

	msr.list.entries[0].index = index;
	msr.list.entries[0].data = *value;
	if (ioctl(vcpu->fd, request, &msr) != 1)
		return -EINVAL;
	*value = msr.list.entries[0].data;
	return 0;
}

int hv_gdb_state_get(const struct hv_vcpu *vcpu, struct hv_gdb_state *state, struct hv_error *err)
{
	int rc;

	memset(state, 0, sizeof(*state));
	rc = hv_vcpu_get_regs(vcpu, &state->regs, err);
	if (rc == 0)
		rc = hv_vcpu_get_sregs(vcpu, &state->sregs, err);
	if (rc < 0)
		return rc;
	if (ioctl(vcpu->fd, KVM_GET_XSAVE, state->xsave) < 0)
		return hv_fail_errno(err, "vCPU %u: KVM_GET_XSAVE", vcpu->index);
	/* A vCPU that has no such register shows 0. */
	(void)msr_ioctl(vcpu, KVM_GET_MSRS, MSR_KERNEL_GS_BASE, &state->kernel_gs_base);
	fpu_to_gdb(state);
	return 0;
}

/*
 * A selector alone makes no segment. In real mode its base follows; in protected mode the descriptor would
 * have to be read and checked as the CPU does, so there a changed selector is left alone, as QEMU does.
 */
static void check_selector(struct kvm_segment *s, const struct kvm_segment *before, bool real)
{
	if (s->selector == before->selector)
		return;
	if (real)
		s->base = (uint64_t)s->selector << 4;
	else
		s->selector = before->selector;
}

int hv_gdb_state_set(const struct hv_vcpu *vcpu, struct hv_gdb_state *state,
		     const struct hv_gdb_state *before, struct hv_error *err)
{
	const bool real = !(state->sregs.cr0 & 1);
	int rc = 0;

	check_selector(&state->sregs.cs, &before->sregs.cs, real);
	check_selector(&state->sregs.ss, &before->sregs.ss, real);
	check_selector(&state->sregs.ds, &before->sregs.ds, real);
	check_selector(&state->sregs.es, &before->sregs.es, real);
	check_selector(&state->sregs.fs, &before->sregs.fs, real);
	check_selector(&state->sregs.gs, &before->sregs.gs, real);
	fpu_from_gdb(state, before);
	/* sregs first: they are what KVM may refuse */
	if (memcmp(&state->sregs, &before->sregs, sizeof(state->sregs)) != 0)
		rc = hv_vcpu_set_sregs(vcpu, &state->sregs, err);
	if (rc == 0 && memcmp(&state->regs, &before->regs, sizeof(state->regs)) != 0)
		rc = hv_vcpu_set_regs(vcpu, &state->regs, err);
	if (rc == 0 && memcmp(state->xsave, before->xsave, sizeof(state->xsave)) != 0 &&
	    ioctl(vcpu->fd, KVM_SET_XSAVE, state->xsave) < 0)
		rc = hv_fail_errno(err, "vCPU %u: KVM_SET_XSAVE", vcpu->index);
	if (rc == 0 && state->kernel_gs_base != before->kernel_gs_base &&
	    msr_ioctl(vcpu, KVM_SET_MSRS, MSR_KERNEL_GS_BASE, &state->kernel_gs_base) < 0)
		rc = hv_fail(err, EINVAL, "vCPU %u: KVM refuses the kernel's GS base", vcpu->index);
	return rc;
}
