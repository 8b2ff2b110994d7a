/*
 * The leaves that a vCPU is given. They are looked at before KVM gets them: a software back end may put the
 * host's own in their place. That KVM takes them is asserted each time.
 */
#include <cpuid.h>
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "kvm/cpuid.h"
#include "kvm/irq.h"

static struct hv_kvm kvm;
static struct hv_vm vm;
static struct hv_vcpu vcpu;
static struct kvm_cpuid2 *table;

static void setup(void)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_kvm_open(&kvm, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vm_create(&vm, &kvm, &err), 0, "%s", err.text);
}

static void teardown(void)
{
	free(table);
	hv_vcpu_destroy(&vcpu);
	hv_vm_destroy(&vm);
	hv_kvm_close(&kvm);
}

TestSuite(cpuid, .init = setup, .fini = teardown);

static void apply(const char *text, unsigned index, unsigned cpus)
{
	struct hv_cpu_model model;
	struct hv_error err = {0};

	cr_assert_eq(hv_cpu_model_parse(&model, text, &err), 0, "%s", err.text);
	cr_assert_eq(hv_vcpu_create(&vcpu, &vm, index, &err), 0, "%s", err.text);
	cr_assert_eq(hv_cpuid_apply(&kvm, &vcpu, &model, cpus, NULL, &err), 0, "%s", err.text);
	cr_assert_eq(hv_cpuid_leaves(&kvm, &vcpu, &model, cpus, NULL, &table, &err), 0, "%s", err.text);
}

static struct kvm_cpuid_entry2 leaf(uint32_t function, uint32_t index)
{
	for (uint32_t i = 0; i < table->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &table->entries[i];

		if (e->function == function &&
		    (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == index))
			return *e;
	}
	return (struct kvm_cpuid_entry2){0};
}

Test(cpuid, host_says_that_it_is_a_virtual_machine_and_long_mode_is_there)
{
	apply("host", 0, 1);
	cr_expect(leaf(1, 0).ecx >> 31);
	cr_expect(leaf(0x80000001, 0).edx >> 29 & 1);
	cr_expect_eq(leaf(0x40000000, 0).ebx, 0x4b4d564bu); /* "KVMK" */
	cr_expect_geq(leaf(0x40000000, 0).eax, 0x40000001u);
}

Test(cpuid, a_feature_taken_away_takes_along_what_needs_it)
{
	apply("host,-xsave,-popcnt", 0, 1);
	cr_expect_not(leaf(1, 0).ecx >> 26 & 1, "xsave");
	cr_expect_not(leaf(1, 0).ecx >> 28 & 1, "avx needs xsave");
	cr_expect_not(leaf(1, 0).ecx >> 12 & 1, "fma needs avx");
	cr_expect_not(leaf(1, 0).ecx >> 23 & 1, "popcnt");
	cr_expect_not(leaf(7, 0).ebx >> 5 & 1, "avx2 needs avx");
	cr_expect_not(leaf(7, 0).ebx >> 16 & 1, "avx512f needs avx2");
	cr_expect_eq(leaf(0xd, 0).eax, 0u, "no xsave leaf");
}

Test(cpuid, without_avx_xcr0_has_no_avx_state)
{
	apply("host,-avx", 0, 1);
	cr_expect_eq(leaf(0xd, 0).eax & 0xe4, 0u);
	cr_expect_eq(leaf(0xd, 2).eax, 0u);
}

Test(cpuid, topology_is_one_package_of_single_threaded_cores)
{
	apply("host", 2, 6);
	cr_expect_eq(leaf(1, 0).ebx >> 24, 2u, "APIC id");
	cr_expect_eq(leaf(1, 0).ebx >> 16 & 0xff, 8u, "ids in the package");
	cr_expect(leaf(1, 0).edx >> 28 & 1, "HTT");
	cr_expect_eq(leaf(0xb, 0).ebx, 1u);
	cr_expect_eq(leaf(0xb, 0).ecx, 0x100u);
	cr_expect_eq(leaf(0xb, 1).eax, 3u);
	cr_expect_eq(leaf(0xb, 1).ebx, 6u);
	cr_expect_eq(leaf(0xb, 1).ecx, 0x201u);
	for (uint32_t i = 0; i < 3; i++)
		cr_expect_eq(leaf(0xb, i).edx, 2u, "x2APIC id in subleaf %u", i);
	cr_expect_eq(leaf(0xb, 2).ebx, 0u);
}

Test(cpuid, one_cpu_has_no_siblings)
{
	apply("host", 0, 1);
	cr_expect_not(leaf(1, 0).edx >> 28 & 1);
	cr_expect_eq(leaf(0xb, 1).ebx, 1u);
	cr_expect_eq(leaf(0xb, 1).eax, 0u);
}

/* Intel's leaf 4 and AMD's 0x8000001d: how many APIC ids share each cache, less one, in EAX 25:14. */
static void caches_are_shared_by(uint32_t function, uint32_t ids)
{
	for (uint32_t i = 0; i < 8; i++) {
		const struct kvm_cpuid_entry2 e = leaf(function, i);

		if (!(e.eax & 0x1f))
			break; /* the last one, or this vendor has other leaves */
		cr_expect_eq(e.eax >> 14 & 0xfff, (e.eax >> 5 & 7) > 2 ? ids - 1 : 0,
			     "leaf %#x, cache %u: %#x", function, i, e.eax);
		if (function == 4)
			cr_expect_eq(e.eax >> 26, ids - 1, "core ids in the package, less one: %#x", e.eax);
	}
}

Test(cpuid, caches_belong_to_a_core_or_to_the_package)
{
	static const struct {
		unsigned cpus, ids;
	} cases[] = {{1, 1}, {2, 2}, {3, 4}, {4, 4}, {6, 8}};

	for (size_t i = 0; i < HV_ARRAY_SIZE(cases); i++) {
		apply("host", (unsigned)i, cases[i].cpus); /* a number is given once a VM */
		caches_are_shared_by(4, cases[i].ids);
		caches_are_shared_by(0x8000001d, cases[i].ids);
		free(table);
		table = NULL;
		hv_vcpu_destroy(&vcpu);
	}
}

/* Four CPUs, as each of them sees itself: the leaf that Linux asks first (0x1f) says the same as 0xb. */
Test(cpuid, each_of_four_cpus_has_an_id_of_its_own_in_every_leaf)
{
	for (unsigned i = 0; i < 4; i++) {
		apply("host", i, 4);
		cr_expect_eq(leaf(1, 0).ebx >> 24, i);
		cr_expect_eq(leaf(1, 0).ebx >> 16 & 0xff, 4u);
		cr_expect_eq(leaf(0xb, 1).eax, 2u);
		cr_expect_eq(leaf(0xb, 1).ebx, 4u);
		cr_expect_eq(leaf(0xb, 1).edx, i);
		for (uint32_t level = 0; level < 3 && leaf(0, 0).eax >= 0x1f; level++) {
			const struct kvm_cpuid_entry2 b = leaf(0xb, level), v2 = leaf(0x1f, level);

			cr_expect(b.eax == v2.eax && b.ebx == v2.ebx && b.ecx == v2.ecx && b.edx == v2.edx,
				  "level %u", level);
		}
		if (leaf(0, 0).ebx == 0x68747541) /* "Auth" */
			cr_expect_eq(leaf(0x80000008, 0).ecx & 0xf0ff, 2u << 12 | 3u);
		free(table);
		table = NULL;
		hv_vcpu_destroy(&vcpu);
	}
}

Test(cpuid, baseline_is_x86_64_v2_and_no_more)
{
	const uint32_t v2_ecx = 1u << 0 | 1u << 9 | 1u << 13 | 1u << 19 | 1u << 20 | 1u << 23;
	char brand[49] = "";

	apply("baseline", 0, 1);
	const uint32_t got = leaf(1, 0).ecx;
	free(table);
	hv_vcpu_destroy(&vcpu);
	apply("host", 1, 2);
	cr_expect_eq(got & v2_ecx, leaf(1, 0).ecx & v2_ecx,
		     "SSE3 to SSE4.2, CX16, POPCNT, as far as KVM has them");
	free(table);
	hv_vcpu_destroy(&vcpu);
	apply("baseline", 2, 3);
	cr_expect_not(leaf(1, 0).ecx >> 28 & 1, "AVX");
	cr_expect_not(leaf(1, 0).ecx >> 25 & 1, "AES");
	cr_expect_eq(leaf(7, 0).ebx, 0u);
	cr_expect_eq(leaf(1, 0).eax, 0xf61u);
	for (uint32_t i = 0; i < 3; i++) {
		const struct kvm_cpuid_entry2 e = leaf(0x80000002 + i, 0);

		memcpy(brand + i * 16, &e.eax, 16);
	}
	cr_expect_str_eq(brand, "hvkit baseline x86-64-v2 processor");
	cr_expect_leq(leaf(0, 0).eax, 0xbu);
}

Test(cpuid, host_has_the_processors_own_brand)
{
	uint32_t own[4];

	apply("host", 0, 1);
	if (!__get_cpuid(0x80000002, &own[0], &own[1], &own[2], &own[3]))
		cr_skip_test("this processor has no brand string");
	cr_expect_eq(leaf(0x80000002, 0).eax, own[0]);
	cr_expect_eq(leaf(0x80000002, 0).edx, own[3]);
}

Test(cpuid, the_apic_is_there_only_with_an_irqchip)
{
	apply("host", 0, 1);
	cr_expect_not(leaf(1, 0).edx >> 9 & 1, "no APIC");
	cr_expect_not(leaf(1, 0).ecx >> 24 & 1, "no TSC deadline timer");
}

Test(cpuid, an_irqchip_brings_the_apic)
{
	cr_assert_eq(hv_irqchip_create(&vm, HV_IRQCHIP_SPLIT, NULL), 0);
	apply("host", 0, 1);
	cr_expect(leaf(1, 0).edx >> 9 & 1);
	if (hv_kvm_has(&kvm, KVM_CAP_TSC_DEADLINE_TIMER))
		cr_expect(leaf(1, 0).ecx >> 24 & 1);
}

Test(cpu_model, bad_texts_are_told_and_change_nothing)
{
	static const char *const texts[] = {
		"",       "hos",     "host,",          "host,avx",         "host,+avx",
		"host,-", "host,-x", "baseline,,-avx", "host,-avx,-bogus", "hosts"};
	struct hv_cpu_model model = {.minus_count = 7};

	for (size_t i = 0; i < HV_ARRAY_SIZE(texts); i++) {
		struct hv_error err = {0};

		cr_expect_eq(hv_cpu_model_parse(&model, texts[i], &err), -EINVAL, "'%s'", texts[i]);
		cr_expect_eq(err.status, HV_EXIT_USAGE);
		cr_expect_eq(model.minus_count, 7u);
	}
}

Test(cpu_model, names_are_those_of_proc_cpuinfo_and_intels)
{
	struct hv_cpu_model a, b;

	cr_assert_eq(hv_cpu_model_parse(&a, "host,-pni,-sse4_1", NULL), 0);
	cr_assert_eq(hv_cpu_model_parse(&b, "baseline,-sse3,-sse4.1", NULL), 0);
	cr_expect(b.baseline && !a.baseline);
	cr_expect_eq(a.minus_count, 2u);
	cr_expect_eq(a.minus[0], b.minus[0]);
	cr_expect_eq(a.minus[1], b.minus[1]);
}
