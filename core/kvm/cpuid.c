/*
 * What CPU the guest sees. KVM says what it can offer; the model takes away; the rest of the leaves are made
 * to fit one package of `cpus` cores. Calls kvm.c only. Rules: KVM API 4.46 (KVM_GET_SUPPORTED_CPUID), 4.20
 * (KVM_SET_CPUID2), 4.23 (KVM_GET_LAPIC); SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E; System V ABI for
 * x86-64, table 3.1 (x86-64-v2).
 *
 * "host" is everything that KVM supports. "baseline" is x86-64-v2 and what an operating system needs beside
 * it, with one family, model and brand string on every host, so that a VM can move between hosts of one
 * vendor. The vendor stays the host's: system calls and workarounds in guests depend on it.
 */
#include "kvm/cpuid.h"

#include <cpuid.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

enum { EAX, EBX, ECX, EDX };

struct feature {
	const char *name; /* as in /proc/cpuinfo */
	uint32_t leaf, subleaf;
	uint8_t reg, bit;
	bool baseline;
	const char *needs; /* without one of these (space between) the feature is taken away too */
};

#define V2 true
#define NO false

/* clang-format off: one feature a line, in the order of leaf, register and bit. */
static const struct feature features[] = {
	{"fpu", 1, 0, EDX, 0, V2, NULL},
	{"vme", 1, 0, EDX, 1, V2, NULL},
	{"de", 1, 0, EDX, 2, V2, NULL},
	{"pse", 1, 0, EDX, 3, V2, NULL},
	{"tsc", 1, 0, EDX, 4, V2, NULL},
	{"msr", 1, 0, EDX, 5, V2, NULL},
	{"pae", 1, 0, EDX, 6, V2, NULL},
	{"mce", 1, 0, EDX, 7, V2, NULL},
	{"cx8", 1, 0, EDX, 8, V2, NULL},
	{"apic", 1, 0, EDX, 9, V2, NULL},
	{"sep", 1, 0, EDX, 11, V2, NULL},
	{"mtrr", 1, 0, EDX, 12, V2, NULL},
	{"pge", 1, 0, EDX, 13, V2, NULL},
	{"mca", 1, 0, EDX, 14, V2, "mce"},
	{"cmov", 1, 0, EDX, 15, V2, NULL},
	{"pat", 1, 0, EDX, 16, V2, NULL},
	{"pse36", 1, 0, EDX, 17, V2, "pse"},
	{"clflush", 1, 0, EDX, 19, V2, NULL},
	{"mmx", 1, 0, EDX, 23, V2, "fpu"},
	{"fxsr", 1, 0, EDX, 24, V2, "fpu"},
	{"sse", 1, 0, EDX, 25, V2, "fxsr"},
	{"sse2", 1, 0, EDX, 26, V2, "sse"},
	{"ss", 1, 0, EDX, 27, NO, NULL},
	{"ht", 1, 0, EDX, 28, V2, NULL},

	{"pni", 1, 0, ECX, 0, V2, "sse2"},
	{"pclmulqdq", 1, 0, ECX, 1, NO, "sse2"},
	{"ssse3", 1, 0, ECX, 9, V2, "pni"},
	{"fma", 1, 0, ECX, 12, NO, "avx"},
	{"cx16", 1, 0, ECX, 13, V2, "cx8"},
	{"pcid", 1, 0, ECX, 17, NO, "lm"},
	{"sse4_1", 1, 0, ECX, 19, V2, "ssse3"},
	{"sse4_2", 1, 0, ECX, 20, V2, "sse4_1"},
	{"x2apic", 1, 0, ECX, 21, V2, "apic"},
	{"movbe", 1, 0, ECX, 22, NO, NULL},
	{"popcnt", 1, 0, ECX, 23, V2, NULL},
	{"tsc_deadline_timer", 1, 0, ECX, 24, V2, "apic tsc"},
	{"aes", 1, 0, ECX, 25, NO, "sse2"},
	{"xsave", 1, 0, ECX, 26, NO, "fxsr"},
	{"avx", 1, 0, ECX, 28, NO, "xsave sse4_2"},
	{"f16c", 1, 0, ECX, 29, NO, "avx"},
	{"rdrand", 1, 0, ECX, 30, NO, NULL},
	{"hypervisor", 1, 0, ECX, 31, V2, NULL},

	{"fsgsbase", 7, 0, EBX, 0, NO, "lm"},
	{"tsc_adjust", 7, 0, EBX, 1, NO, "tsc"},
	{"bmi1", 7, 0, EBX, 3, NO, NULL},
	{"hle", 7, 0, EBX, 4, NO, NULL},
	{"avx2", 7, 0, EBX, 5, NO, "avx"},
	{"smep", 7, 0, EBX, 7, NO, NULL},
	{"bmi2", 7, 0, EBX, 8, NO, NULL},
	{"erms", 7, 0, EBX, 9, NO, NULL},
	{"invpcid", 7, 0, EBX, 10, NO, "pcid"},
	{"rtm", 7, 0, EBX, 11, NO, NULL},
	{"mpx", 7, 0, EBX, 14, NO, "xsave"},
	{"avx512f", 7, 0, EBX, 16, NO, "avx2 fma f16c"},
	{"avx512dq", 7, 0, EBX, 17, NO, "avx512f"},
	{"rdseed", 7, 0, EBX, 18, NO, NULL},
	{"adx", 7, 0, EBX, 19, NO, NULL},
	{"smap", 7, 0, EBX, 20, NO, NULL},
	{"avx512ifma", 7, 0, EBX, 21, NO, "avx512f"},
	{"clflushopt", 7, 0, EBX, 23, NO, "clflush"},
	{"clwb", 7, 0, EBX, 24, NO, "clflush"},
	{"avx512pf", 7, 0, EBX, 26, NO, "avx512f"},
	{"avx512er", 7, 0, EBX, 27, NO, "avx512f"},
	{"avx512cd", 7, 0, EBX, 28, NO, "avx512f"},
	{"sha_ni", 7, 0, EBX, 29, NO, "sse2"},
	{"avx512bw", 7, 0, EBX, 30, NO, "avx512f"},
	{"avx512vl", 7, 0, EBX, 31, NO, "avx512f"},

	{"avx512vbmi", 7, 0, ECX, 1, NO, "avx512bw"},
	{"umip", 7, 0, ECX, 2, NO, NULL},
	{"pku", 7, 0, ECX, 3, NO, "xsave lm"},
	{"waitpkg", 7, 0, ECX, 5, NO, NULL},
	{"avx512_vbmi2", 7, 0, ECX, 6, NO, "avx512bw"},
	{"gfni", 7, 0, ECX, 8, NO, "sse2"},
	{"vaes", 7, 0, ECX, 9, NO, "avx aes"},
	{"vpclmulqdq", 7, 0, ECX, 10, NO, "avx pclmulqdq"},
	{"avx512_vnni", 7, 0, ECX, 11, NO, "avx512f"},
	{"avx512_bitalg", 7, 0, ECX, 12, NO, "avx512bw"},
	{"avx512_vpopcntdq", 7, 0, ECX, 14, NO, "avx512f"},
	{"la57", 7, 0, ECX, 16, NO, "lm"},
	{"rdpid", 7, 0, ECX, 22, NO, NULL},
	{"bus_lock_detect", 7, 0, ECX, 24, NO, NULL},
	{"cldemote", 7, 0, ECX, 25, NO, NULL},
	{"movdiri", 7, 0, ECX, 27, NO, NULL},
	{"movdir64b", 7, 0, ECX, 28, NO, NULL},

	{"avx512_4vnniw", 7, 0, EDX, 2, NO, "avx512f"},
	{"avx512_4fmaps", 7, 0, EDX, 3, NO, "avx512f"},
	{"fsrm", 7, 0, EDX, 4, NO, NULL},
	{"avx512_vp2intersect", 7, 0, EDX, 8, NO, "avx512f"},
	{"md_clear", 7, 0, EDX, 10, NO, NULL},
	{"serialize", 7, 0, EDX, 14, NO, NULL},
	{"tsxldtrk", 7, 0, EDX, 16, NO, "rtm"},
	{"amx_bf16", 7, 0, EDX, 22, NO, "amx_tile"},
	{"avx512_fp16", 7, 0, EDX, 23, NO, "avx512bw"},
	{"amx_tile", 7, 0, EDX, 24, NO, "xsave lm"},
	{"amx_int8", 7, 0, EDX, 25, NO, "amx_tile"},
	{"spec_ctrl", 7, 0, EDX, 26, NO, NULL},
	{"stibp", 7, 0, EDX, 27, NO, NULL},
	{"flush_l1d", 7, 0, EDX, 28, NO, NULL},
	{"arch_capabilities", 7, 0, EDX, 29, NO, NULL},
	{"ssbd", 7, 0, EDX, 31, NO, NULL},

	{"avx_vnni", 7, 1, EAX, 4, NO, "avx2"},
	{"avx512_bf16", 7, 1, EAX, 5, NO, "avx512bw"},

	{"xsaveopt", 0xd, 1, EAX, 0, NO, "xsave"},
	{"xsavec", 0xd, 1, EAX, 1, NO, "xsave"},
	{"xgetbv1", 0xd, 1, EAX, 2, NO, "xsave"},
	{"xsaves", 0xd, 1, EAX, 3, NO, "xsavec"},

	{"lahf_lm", 0x80000001, 0, ECX, 0, V2, "lm"},
	{"cmp_legacy", 0x80000001, 0, ECX, 1, V2, NULL},
	{"svm", 0x80000001, 0, ECX, 2, NO, NULL},
	{"cr8_legacy", 0x80000001, 0, ECX, 4, NO, NULL},
	{"abm", 0x80000001, 0, ECX, 5, NO, NULL},
	{"sse4a", 0x80000001, 0, ECX, 6, NO, "pni"},
	{"misalignsse", 0x80000001, 0, ECX, 7, NO, "sse"},
	{"3dnowprefetch", 0x80000001, 0, ECX, 8, NO, NULL},
	{"osvw", 0x80000001, 0, ECX, 9, NO, NULL},
	{"xop", 0x80000001, 0, ECX, 11, NO, "avx"},
	{"fma4", 0x80000001, 0, ECX, 16, NO, "avx"},
	{"tbm", 0x80000001, 0, ECX, 21, NO, NULL},
	{"topoext", 0x80000001, 0, ECX, 22, NO, NULL},
	{"perfctr_core", 0x80000001, 0, ECX, 23, NO, NULL},

	{"syscall", 0x80000001, 0, EDX, 11, V2, "lm"},
	{"nx", 0x80000001, 0, EDX, 20, V2, "pae"},
	{"mmxext", 0x80000001, 0, EDX, 22, NO, "mmx"},
	{"fxsr_opt", 0x80000001, 0, EDX, 25, NO, "fxsr"},
	{"pdpe1gb", 0x80000001, 0, EDX, 26, NO, "lm"},
	{"rdtscp", 0x80000001, 0, EDX, 27, NO, "tsc"},
	{"lm", 0x80000001, 0, EDX, 29, V2, "pae"},

	{"nonstop_tsc", 0x80000007, 0, EDX, 8, NO, "tsc"},

	{"clzero", 0x80000008, 0, EBX, 0, NO, NULL},
	{"xsaveerptr", 0x80000008, 0, EBX, 2, NO, "xsave"},
	{"wbnoinvd", 0x80000008, 0, EBX, 9, NO, NULL},
	{"ibpb", 0x80000008, 0, EBX, 12, NO, NULL},
	{"ibrs", 0x80000008, 0, EBX, 14, NO, NULL},
	{"amd_ssbd", 0x80000008, 0, EBX, 24, NO, NULL},
	{"virt_ssbd", 0x80000008, 0, EBX, 25, NO, NULL},
};
/* clang-format on */

#define FEATURES HV_ARRAY_SIZE(features)

/* Intel's names where Linux has others. */
static const char *const aliases[][2] = {
	{"sse3", "pni"},  {"sse4.1", "sse4_1"},      {"sse4.2", "sse4_2"},
	{"lzcnt", "abm"}, {"invtsc", "nonstop_tsc"},
};

/* XCR0's components and the features that they belong to (SDM vol. 1, 13.1). x87 and SSE are always there. */
static const struct {
	uint64_t bits;
	const char *name;
} components[] = {
	{1ull << 2, "avx"}, {3ull << 3, "mpx"},       {7ull << 5, "avx512f"},
	{1ull << 9, "pku"}, {3ull << 17, "amx_tile"},
};

static int feature_find(const char *name, size_t length)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(aliases); i++) {
		if (strlen(aliases[i][0]) == length && memcmp(aliases[i][0], name, length) == 0) {
			name = aliases[i][1];
			length = strlen(name);
		}
	}
	for (size_t i = 0; i < FEATURES; i++) {
		const char *n = features[i].name;

		/* the first character decides nearly always; this is on the way of every start */
		if (n[0] == name[0] && strncmp(n, name, length) == 0 && n[length] == '\0')
			return (int)i;
	}
	return -1;
}

int hv_cpu_model_parse(struct hv_cpu_model *model, const char *text, struct hv_error *err)
{
	const size_t base = strcspn(text, ",");
	struct hv_cpu_model m = {0};

	if (base == 8 && memcmp(text, "baseline", 8) == 0)
		m.baseline = true;
	else if (base != 4 || memcmp(text, "host", 4) != 0)
		return hv_fail_usage(err, "CPU model '%.*s' is unknown: use host or baseline, then ,-feature",
				     (int)(base < 64 ? base : 64), text);
	for (const char *at = text + base; *at;) {
		const char *name = at + 1; /* after the comma */
		const size_t length = strcspn(name, ",");
		const int shown = (int)(length < 64 ? length : 64);

		if (length < 2 || name[0] != '-')
			return hv_fail_usage(err,
					     "CPU model: '%.*s' should be a feature to take away, like -avx2",
					     shown, name);
		const int index = feature_find(name + 1, length - 1);
		if (index < 0)
			return hv_fail_usage(
				err, "CPU feature '%.*s' is unknown: names are those of /proc/cpuinfo",
				shown - 1, name + 1);
		if (m.minus_count == HV_CPU_MINUS_MAX)
			return hv_fail_usage(err, "CPU model: more than %d features to take away",
					     HV_CPU_MINUS_MAX);
		m.minus[m.minus_count++] = (unsigned short)index;
		at = name + length;
	}
	*model = m;
	return 0;
}

/*
 * The set of features that the model leaves: those of its base, less what is taken away, less what can't be
 * there without it. The table's chains are short; going over it until nothing changes is simplest.
 */
static void model_features(const struct hv_cpu_model *model, bool allowed[FEATURES])
{
	bool changed = true;

	for (size_t i = 0; i < FEATURES; i++)
		allowed[i] = !model->baseline || features[i].baseline;
	for (unsigned i = 0; i < model->minus_count; i++)
		allowed[model->minus[i]] = false;
	while (changed) {
		changed = false;
		for (size_t i = 0; i < FEATURES; i++) {
			for (const char *n = features[i].needs; allowed[i] && n && *n;) {
				const size_t length = strcspn(n, " ");
				const int index = feature_find(n, length);

				if (index >= 0 && !allowed[index]) {
					allowed[i] = false;
					changed = true;
				}
				n += length + (n[length] == ' ');
			}
		}
	}
}

/* The leaves under construction. There is room for a few more than KVM named. */
struct table {
	struct kvm_cpuid2 *c;
	unsigned room;
};

static struct kvm_cpuid_entry2 *find(const struct table *t, uint32_t leaf, uint32_t subleaf)
{
	for (uint32_t i = 0; i < t->c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->c->entries[i];

		if (e->function == leaf &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == subleaf))
			return e;
	}
	return NULL;
}

static uint32_t *reg_of(struct kvm_cpuid_entry2 *e, unsigned reg)
{
	uint32_t *const regs[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

	return regs[reg];
}

/* Replaces a leaf's subleaf, or adds it. */
static void put(struct table *t, uint32_t leaf, uint32_t subleaf, bool indexed, const uint32_t regs[4])
{
	struct kvm_cpuid_entry2 *e = find(t, leaf, subleaf);

	if (!e) {
		if (t->c->nent == t->room)
			return; /* the caller left room for all leaves that can be added */
		e = &t->c->entries[t->c->nent++];
	}
	*e = (struct kvm_cpuid_entry2){.function = leaf, .index = subleaf};
	e->flags = indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0;
	for (unsigned i = 0; i < 4; i++)
		*reg_of(e, i) = regs[i];
}

static void drop(struct table *t, uint32_t leaf)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < t->c->nent; i++) {
		if (t->c->entries[i].function != leaf)
			t->c->entries[kept++] = t->c->entries[i];
	}
	t->c->nent = kept;
}

static bool has_feature(const struct table *t, const char *name)
{
	const struct feature *f = &features[feature_find(name, strlen(name))];
	struct kvm_cpuid_entry2 *e = find(t, f->leaf, f->subleaf);

	return e && (*reg_of(e, f->reg) >> f->bit & 1);
}

static void set_feature(struct table *t, const char *name, bool on)
{
	const struct feature *f = &features[feature_find(name, strlen(name))];
	struct kvm_cpuid_entry2 *e = find(t, f->leaf, f->subleaf);

	if (!e)
		return;
	*reg_of(e, f->reg) &= ~(1u << f->bit);
	*reg_of(e, f->reg) |= (uint32_t)on << f->bit;
}

/*
 * AMD repeats leaf 1's EDX in leaf 0x80000001; the shared bits follow, whatever the vendor.
 */
#define AMD_SHARED_EDX 0x0183f3ffu

static void apply_features(struct table *t, const bool allowed[FEATURES])
{
	struct kvm_cpuid_entry2 *one, *amd;

	for (size_t i = 0; i < FEATURES; i++) {
		struct kvm_cpuid_entry2 *e = find(t, features[i].leaf, features[i].subleaf);

		if (e && !allowed[i])
			*reg_of(e, features[i].reg) &= ~(1u << features[i].bit);
	}
	one = find(t, 1, 0);
	amd = find(t, 0x80000001, 0);
	if (one && amd)
		amd->edx &= one->edx | ~AMD_SHARED_EDX;
}

/* In the baseline a bit that the table doesn't know has no place, and a leaf that isn't listed here neither.
 */
static void apply_baseline(struct table *t)
{
	static const uint32_t leaves[] = {0,          1,          2,          4,
					  5,          6,          7,          0xb,
					  0x80000000, 0x80000001, 0x80000005, 0x80000006,
					  0x80000007, 0x80000008, 0x8000001d, 0x8000001e};
	static const char brand[48] = "hvkit baseline x86-64-v2 processor";
	static const uint32_t none[4] = {0};
	struct kvm_cpuid_entry2 *e;

	for (uint32_t i = 0; i < t->c->nent;) {
		const uint32_t leaf = t->c->entries[i].function;
		bool keep = leaf >= 0x40000000 && leaf < 0x50000000;

		for (size_t k = 0; k < HV_ARRAY_SIZE(leaves); k++)
			keep |= leaf == leaves[k];
		if (keep)
			i++;
		else
			drop(t, leaf);
	}
	for (uint32_t i = 0; i < t->c->nent; i++) {
		struct kvm_cpuid_entry2 *f = &t->c->entries[i];
		uint32_t known[4] = {0};

		for (size_t k = 0; k < FEATURES; k++) {
			if (features[k].leaf == f->function && features[k].subleaf == f->index)
				known[features[k].reg] |= 1u << features[k].bit;
		}
		if (f->function == 1) {
			f->eax = 0xf61; /* family 15, model 6, stepping 1: taken by guests as a plain 64-bit
					   CPU */
			f->ecx &= known[ECX];
			f->edx &= known[EDX];
		} else if (f->function == 5 || f->function == 6 || f->function == 7) {
			f->eax = f->ebx = f->ecx = f->edx = 0;
		} else if (f->function == 0x80000001) {
			f->eax = 0xf61;
			f->ebx = 0;
			f->ecx &= known[ECX];
			f->edx &= known[EDX] | AMD_SHARED_EDX;
		} else if (f->function == 0x80000008) {
			f->ebx &= known[EBX];
		}
	}
	for (uint32_t i = 0; i < 3; i++) {
		uint32_t regs[4];

		memcpy(regs, brand + (size_t)i * 16, 16);
		put(t, 0x80000002 + i, 0, false, regs);
	}
	put(t, 7, 0, true, none);
	e = find(t, 0, 0);
	if (e)
		e->eax = 0xb;
	e = find(t, 0x80000000, 0);
	if (e && e->eax > 0x8000001e)
		e->eax = 0x8000001e;
}

/* KVM leaves the brand string empty. "host" takes it from the processor that this runs on. */
static void fill_brand(struct table *t)
{
	for (uint32_t leaf = 0x80000002; leaf <= 0x80000004; leaf++) {
		uint32_t regs[4];

		__cpuid(leaf, regs[EAX], regs[EBX], regs[ECX], regs[EDX]); /* all 64-bit processors have it */
		put(t, leaf, 0, false, regs);
	}
}

/* Leaf 0xd after features have gone: components without an owner leave XCR0, and the area shrinks. */
static void fix_xsave(struct table *t)
{
	struct kvm_cpuid_entry2 *zero = find(t, 0xd, 0), *one = find(t, 0xd, 1);
	uint64_t mask = ~0ull;
	uint32_t size = 512 + 64; /* the legacy area and the header */

	if (!zero)
		return;
	if (!has_feature(t, "xsave")) {
		drop(t, 0xd);
		return;
	}
	for (size_t i = 0; i < HV_ARRAY_SIZE(components); i++) {
		if (!has_feature(t, components[i].name))
			mask &= ~components[i].bits;
	}
	zero->eax &= (uint32_t)mask;
	zero->edx &= (uint32_t)(mask >> 32);
	if (one && !has_feature(t, "xsaves"))
		one->ecx = one->edx = 0;
	for (uint32_t i = 0; i < t->c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->c->entries[i];

		if (e->function != 0xd || e->index < 2)
			continue;
		const uint64_t xcr0 = zero->eax | (uint64_t)zero->edx << 32;
		const uint64_t xss = one ? one->ecx | (uint64_t)one->edx << 32 : 0;
		if (e->index > 63 || !((xcr0 | xss) >> e->index & 1))
			e->eax = e->ebx = e->ecx = e->edx = 0;
		else if (xcr0 >> e->index & 1)
			size = e->ebx + e->eax > size ? e->ebx + e->eax : size;
	}
	zero->ecx = size; /* EBX, the size for the XCR0 of the moment, KVM keeps itself */
}

static unsigned bits_for(unsigned count)
{
	unsigned bits = 0;

	while (1u << bits < count)
		bits++;
	return bits;
}

/* Cache leaves (Intel 4, AMD 0x8000001d): first and second level belong to one core, what is above to all. */
static void fix_caches(struct table *t, unsigned cpus)
{
	const uint32_t ids = (1u << bits_for(cpus)) - 1;

	for (uint32_t i = 0; i < t->c->nent; i++) {
		struct kvm_cpuid_entry2 *e = &t->c->entries[i];

		if ((e->function != 4 && e->function != 0x8000001d) || !(e->eax & 0x1f))
			continue;
		const uint32_t level = e->eax >> 5 & 7;
		e->eax &= 0x3fff;
		e->eax |= (level > 2 ? ids & 0xfff : 0) << 14;
		if (e->function == 4)
			e->eax |= (ids & 0x3f) << 26;
	}
}

/* One package, `cpus` cores, one thread each; the APIC id is the vCPU's number, as KVM made it. */
static void fix_topology(struct table *t, unsigned id, unsigned cpus)
{
	const unsigned bits = bits_for(cpus);
	struct kvm_cpuid_entry2 *e = find(t, 1, 0), *max = find(t, 0, 0);

	if (e) {
		e->ebx = (e->ebx & 0xffff) | (1u << bits & 0xff) << 16 | id << 24;
		if (cpus == 1)
			e->ebx &= 0xff00ffff;
	}
	set_feature(t, "ht", cpus > 1);
	fix_caches(t, cpus);
	if (max && max->eax < 0xb)
		max->eax = 0xb;
	for (uint32_t leaf = 0xb; leaf <= 0x1f; leaf += 0x1f - 0xb) {
		drop(t, leaf);
		if (!max || max->eax < leaf)
			continue;
		/* level type in ECX 15:8: 1 thread, 2 core, 0 the end */
		put(t, leaf, 0, true, (const uint32_t[]){0, 1, 1 << 8 | 0, id});
		put(t, leaf, 1, true, (const uint32_t[]){bits, cpus, 2 << 8 | 1, id});
		put(t, leaf, 2, true, (const uint32_t[]){0, 0, 2, id});
	}
	e = find(t, 0, 0);
	const bool amd = e && (e->ebx == 0x68747541 || e->ebx == 0x6f677948); /* "Auth", "Hygo" */
	set_feature(t, "cmp_legacy", amd && cpus > 1);
	e = find(t, 0x80000008, 0);
	if (e)
		e->ecx = amd ? bits << 12 | (cpus - 1) : 0;
	e = find(t, 0x8000001e, 0);
	if (e) {
		e->eax = id;
		e->ebx = id & 0xff; /* core id; threads per core - 1 = 0 in bits 15:8 */
		e->ecx = 0;
		e->edx = 0;
	}
}

/* What stands or falls with a local APIC in the kernel, and what KVM offers without saying so in its table.
 */
static void fix_apic(struct table *t, const struct hv_kvm *kvm, const struct hv_vcpu *vcpu,
		     const bool allowed[])
{
	struct kvm_lapic_state lapic;
	const bool has_lapic = ioctl(vcpu->fd, KVM_GET_LAPIC, &lapic) == 0;
	const bool deadline = has_lapic && hv_kvm_has(kvm, KVM_CAP_TSC_DEADLINE_TIMER) > 0;

	set_feature(t, "hypervisor", allowed[feature_find("hypervisor", 10)]);
	set_feature(t, "tsc_deadline_timer", deadline && allowed[feature_find("tsc_deadline_timer", 18)]);
	if (!has_lapic) {
		set_feature(t, "apic", false);
		set_feature(t, "x2apic", false);
	}
	struct kvm_cpuid_entry2 *e = find(t, 1, 0);
	if (e)
		e->ecx &= ~(1u << 27); /* OSXSAVE mirrors CR4, KVM keeps it */
	e = find(t, 0x40000000, 0);
	if (e && e->eax < 0x40000001) /* 0 is what old KVMs said for 0x40000001 */
		e->eax = 0x40000001;
}

#define EXTRA_LEAVES 16
#define BRAND_LEAVES 3
#define LEAVES_MAX   4096

/* KVM doesn't say how many leaves there are: -E2BIG asks for a longer table. */
int hv_cpuid_supported(const struct hv_kvm *kvm, struct kvm_cpuid2 **out, struct hv_error *err)
{
	for (unsigned n = 64; n <= LEAVES_MAX; n *= 2) {
		struct table t = {.room = n + BRAND_LEAVES};

		t.c = calloc(1, sizeof(*t.c) + t.room * sizeof(t.c->entries[0]));
		if (!t.c)
			return hv_fail(err, ENOMEM, "no memory for %u CPUID leaves", t.room);
		t.c->nent = n;
		if (ioctl(kvm->fd, KVM_GET_SUPPORTED_CPUID, t.c) == 0) {
			fill_brand(&t);
			*out = t.c;
			return 0;
		}
		const int code = errno;
		free(t.c);
		if (code != E2BIG)
			return hv_fail(err, code, "KVM_GET_SUPPORTED_CPUID: %s", strerror(code));
	}
	return hv_fail(err, E2BIG, "KVM offers more than %u CPUID leaves", LEAVES_MAX);
}

/* A table of our own with what KVM supports, and room for what is added. */
static int start_table(const struct hv_kvm *kvm, const struct kvm_cpuid2 *supported, struct table *t,
		       struct hv_error *err)
{
	struct kvm_cpuid2 *asked = NULL;
	size_t used;
	int rc = supported ? 0 : hv_cpuid_supported(kvm, &asked, err);

	if (!supported)
		supported = asked;
	if (rc < 0 || !supported)
		return rc < 0 ? rc : -ENODATA;
	used = sizeof(*t->c) + supported->nent * sizeof(t->c->entries[0]);
	t->room = supported->nent + EXTRA_LEAVES;
	t->c = calloc(1, used + EXTRA_LEAVES * sizeof(t->c->entries[0]));
	if (t->c)
		memcpy(t->c, supported, used);
	else
		rc = hv_fail(err, ENOMEM, "no memory for %u CPUID leaves", t->room);
	free(asked);
	return rc;
}

int hv_cpuid_leaves(const struct hv_kvm *kvm, const struct hv_vcpu *vcpu, const struct hv_cpu_model *model,
		    unsigned cpus, const struct kvm_cpuid2 *supported, struct kvm_cpuid2 **out,
		    struct hv_error *err)
{
	bool allowed[FEATURES];
	struct table t;
	int rc = start_table(kvm, supported, &t, err);

	if (rc < 0)
		return rc;
	model_features(model, allowed);
	if (model->baseline)
		apply_baseline(&t);
	apply_features(&t, allowed);
	fix_xsave(&t);
	fix_topology(&t, vcpu->index, cpus);
	fix_apic(&t, kvm, vcpu, allowed);
	*out = t.c;
	return 0;
}

int hv_cpuid_apply(const struct hv_kvm *kvm, const struct hv_vcpu *vcpu, const struct hv_cpu_model *model,
		   unsigned cpus, const struct kvm_cpuid2 *supported, struct hv_error *err)
{
	struct kvm_cpuid2 *leaves;
	int rc = hv_cpuid_leaves(kvm, vcpu, model, cpus, supported, &leaves, err);

	if (rc < 0)
		return rc;
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, leaves) < 0)
		rc = hv_fail_errno(err, "vCPU %u: KVM_SET_CPUID2", vcpu->index);
	free(leaves);
	return rc;
}
