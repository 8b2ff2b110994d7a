/*
 * Disassembly: the same bytes in three sizes of code, and bytes that are none.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "machine/disasm.h"

static char text[160];

Test(disasm, the_size_of_code_decides_what_bytes_mean)
{
	const uint8_t code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};

	cr_expect_eq(hv_disasm(code, sizeof(code), 0x1000, 64, text, sizeof(text)), 10u);
	cr_expect_str_eq(text, "movabs rax, 0x807060504030201");
	cr_expect_eq(hv_disasm(code, sizeof(code), 0x1000, 32, text, sizeof(text)), 1u);
	cr_expect_str_eq(text, "dec eax");
	cr_expect_eq(hv_disasm(code, sizeof(code), 0x1000, 16, text, sizeof(text)), 1u);
	cr_expect_str_eq(text, "dec ax");
}

Test(disasm, jumps_show_where_they_lead)
{
	const uint8_t code[] = {0xeb, 0xfe};

	cr_expect_eq(hv_disasm(code, sizeof(code), 0x7c00, 16, text, sizeof(text)), 2u);
	cr_expect_str_eq(text, "jmp 0x7c00");
}

Test(disasm, bytes_that_are_no_instruction_or_cut_short_are_told)
{
	const uint8_t bad[] = {0x06}, cut[] = {0xe8, 0x00};

	cr_expect_eq(hv_disasm(bad, 1, 0, 64, text, sizeof(text)), 0u);
	cr_expect_str_eq(text, "(bad) 0x06");
	cr_expect_eq(hv_disasm(cut, 2, 0, 64, text, sizeof(text)), 0u);
	cr_expect_eq(hv_disasm(cut, 0, 0, 64, text, sizeof(text)), 0u);
	cr_expect_str_eq(text, "(no bytes)");
}

Test(disasm, a_short_buffer_is_not_overrun)
{
	const uint8_t code[] = {0x48, 0xb8, 1, 2, 3, 4, 5, 6, 7, 8};
	char small[8] = "xxxxxxx";

	cr_expect_eq(hv_disasm(code, sizeof(code), 0, 64, small, 4), 10u);
	cr_expect_eq(strlen(small), 3u);
	cr_expect_eq(small[4], 'x');
	cr_expect_eq(hv_disasm(code, sizeof(code), 0, 64, small, 0), 0u);
}

Test(disasm, code_size_comes_from_cs_and_efer)
{
	struct kvm_sregs s = {0};

	cr_expect_eq(hv_code_bits(&s), 16u);
	s.cs.db = 1;
	cr_expect_eq(hv_code_bits(&s), 32u);
	s.efer = 1u << 10;
	cr_expect_eq(hv_code_bits(&s), 32u); /* compatibility mode */
	s.cs.db = 0;
	s.cs.l = 1;
	cr_expect_eq(hv_code_bits(&s), 64u);
}
