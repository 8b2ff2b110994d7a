/*
 * What a person is told about registers, memory and page tables; and that JSON from elsewhere can't harm the
 * reader.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/inspect.h"
#include "fixture.h"

static struct test_vm vm;

static void setup(void)
{
	alarm(60);
	test_vm_make(&vm, 1);
}

static void teardown(void)
{
	test_vm_end(&vm);
	alarm(0);
}

TestSuite(inspect, .init = setup, .fini = teardown);

/* The text holds what is wanted; both are freed. */
static void has(char *text, const char *wanted)
{
	cr_assert(text);
	cr_expect(strstr(text, wanted), "'%s' is not in:\n%s", wanted, text);
	free(text);
}

static void examine(uint64_t addr, unsigned count, char format, unsigned size, const char *wanted)
{
	const struct hv_examine what = {true, 0, addr, count, format, size};
	struct hv_error err = {0};
	json_t *json = NULL;

	cr_assert_eq(hv_inspect_examine(vm.machine, &what, &json, &err), 0, "%s", err.text);
	has(hv_inspect_examine_text(json), wanted);
	json_decref(json);
}

Test(inspect, registers_are_shown_as_qemu_does)
{
	json_t *json = NULL;

	cr_assert_eq(hv_inspect_regs(vm.machine, 0, &json, NULL), 0);
	cr_expect_str_eq(json_string_value(json_object_get(json, "rip")), "0x0000000000001000");
	has(hv_inspect_regs_text(json), "RIP=0000000000001000");
	json_decref(json);
	cr_assert_eq(hv_inspect_sregs(vm.machine, 0, &json, NULL), 0);
	has(hv_inspect_sregs_text(json), "CS =0000 base 0000000000000000");
	json_decref(json);
}

Test(inspect, a_vcpu_that_is_not_there_is_named)
{
	struct hv_error err = {0};
	json_t *json = NULL;

	cr_expect_eq(hv_inspect_regs(vm.machine, 1, &json, &err), -EINVAL);
	cr_expect(strstr(err.text, "vCPU 1"));
	cr_expect_null(json);
}

Test(inspect, memory_in_every_format)
{
	cr_assert_eq(hv_memory_write(hv_machine_memory(vm.machine), 0x2000, "\xff\x7f\x00\x80Hi\"\033", 9),
		     0);
	examine(0x2000, 2, 'x', 4, "0000000000002000: 0x80007fff 0x1b226948\n");
	examine(0x2000, 2, 'd', 2, " 32767 -32768\n");
	examine(0x2003, 1, 'u', 1, " 128\n");
	examine(0x2000, 1, 'o', 1, " 0377\n");
	examine(0x2004, 2, 'c', 1, " 'H'    'i'   \n");
	examine(0x2004, 1, 's', 0, "\"Hi\\x22\\x1b\"\n");
	examine(0x1000, 3, 'i', 0, "0000000000001001:  e680                  out 0x80, al\n");
}

Test(inspect, what_is_not_there_is_told_beside_what_is)
{
	const struct hv_examine none = {true, 0, 0x10000000, 1, 'x', 4};
	struct hv_error err = {0};
	json_t *json = NULL;

	examine(0xffff8, 4, 'x', 4, "no memory at GPA 0x100000\n");
	cr_expect_eq(hv_inspect_examine(vm.machine, &none, &json, &err), -EFAULT);
	cr_expect(strstr(err.text, "no memory at GPA 0x10000000"));
}

Test(inspect, impossible_wishes_are_refused)
{
	static const struct hv_examine bad[] = {
		{true, 0, 0, 1, 'z', 4},
		{true, 0, 0, 0, 'x', 4},
		{true, 0, 0, 1, 'x', 3},
		{true, 9, 0, 1, 'x', 4},
		{true, 0, 0, HV_EXAMINE_COUNT_MAX + 1, 'x', 1},
		{true, 0, 0, 1, '\0', 4},
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct hv_error err = {0};
		json_t *json = NULL;

		cr_expect_eq(hv_inspect_examine(vm.machine, &bad[i], &json, &err), -EINVAL, "%zu", i);
		cr_expect_neq(err.text[0], '\0');
	}
}

Test(inspect, slots_and_what_is_touched)
{
	json_t *json = NULL;

	cr_assert_eq(hv_inspect_memory(vm.machine, &json, NULL), 0);
	has(hv_inspect_memory_text(json), "0000000000000000-00000000000fffff  RAM  1 MiB");
	json_decref(json);
}

Test(inspect, no_paging_is_drawn_in_one_line)
{
	json_t *json = NULL;

	cr_assert_eq(hv_inspect_translate(vm.machine, 0, 0x1234, &json, NULL), 0);
	has(hv_inspect_translate_text(json),
	    "GVA 0000000000001234, paging is off\n+- GPA 0000000000001234: writable");
	json_decref(json);
}

Test(inspect_text, a_walk_is_a_tree)
{
	json_t *json = json_loads("{\"gva\":\"0x201234\",\"paging\":\"4-level\",\"cr3\":\"0x9000\","
				  "\"mapped\":true,\"gpa\":\"0x201234\","
				  "\"page-size\":2097152,\"writable\":true,\"user\":false,\"executable\":"
				  "true,\"memory\":true,\"steps\":["
				  "{\"table\":\"PML4\",\"index\":0,\"entry-address\":\"0x9000\",\"entry\":"
				  "\"0xa003\",\"flags\":\"P RW S\"},"
				  "{\"table\":\"PD\",\"index\":1,\"entry-address\":\"0xb008\",\"entry\":"
				  "\"0x200083\",\"flags\":\"P RW S PS\"}]}",
				  0, NULL);

	has(hv_inspect_translate_text(json), "GVA 0000000000201234, 4-level paging, CR3 0000000000009000\n"
					     "+- PML4[0] at 0000000000009000: 000000000000a003  P RW S\n"
					     "   +- PD[1] at 000000000000b008: 0000000000200083  P RW S PS\n"
					     "      +- GPA 0000000000201234, offset 0x1234 in a page of 2 "
					     "MiB: writable, supervisor, executable\n");
	json_decref(json);
}

Test(inspect_text, json_from_elsewhere_does_no_harm, .init = NULL)
{
	static const char *const texts[] = {
		"{}",
		"[]",
		"null",
		"{\"steps\":5,\"slots\":{},\"items\":\"x\",\"segments\":[]}",
		"{\"steps\":[1,{}],\"slots\":[null],\"devices\":[[]],\"items\":[{},2],\"format\":\"i\","
		"\"size\":-"
		"1}",
		"{\"items\":[1,\"0x5\"],\"format\":\"d\",\"size\":77,\"segments\":{\"cs\":4},\"rip\":7,"
		"\"gdt\":[]"
		"}",
		"{\"paging\":\"\\u001b[2J\",\"mapped\":true,\"page-size\":-5,\"why\":\"\\u001b[2J\","
		"\"error\":"
		"\"\\u001b\"}",
	};
	char *(*const draw[])(const json_t *) = {hv_inspect_regs_text, hv_inspect_sregs_text,
						 hv_inspect_memory_text, hv_inspect_examine_text,
						 hv_inspect_translate_text};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		json_t *json = json_loads(texts[i], JSON_DECODE_ANY, NULL);

		cr_assert(json, "%s", texts[i]);
		for (size_t k = 0; k < sizeof(draw) / sizeof(draw[0]); k++) {
			char *text = draw[k](json);

			cr_assert(text);
			cr_expect_null(strchr(text, '\033'));
			free(text);
		}
		json_decref(json);
	}
}
