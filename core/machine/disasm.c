/*
 * Machine code as a person reads it: one instruction at a time, by capstone in Intel syntax. Calls nothing of
 * hvkit. Rules: SDM vol. 3A, 3.4.5 (how CS.L, CS.D and EFER.LMA choose the size of code).
 */
#include "machine/disasm.h"

#include <capstone/capstone.h>
#include <stdio.h>

#define EFER_LMA (1ull << 10)

unsigned hv_code_bits(const struct kvm_sregs *sregs)
{
	if ((sregs->efer & EFER_LMA) && sregs->cs.l)
		return 64;
	return sregs->cs.db ? 32 : 16;
}

unsigned hv_disasm(const uint8_t *code, size_t count, uint64_t rip, unsigned bits, char *text, size_t size)
{
	const cs_mode mode = bits == 64 ? CS_MODE_64 : bits == 32 ? CS_MODE_32 : CS_MODE_16;
	cs_insn *insn = NULL;
	unsigned length = 0;
	csh handle;

	if (size == 0)
		return 0;
	if (count == 0) {
		snprintf(text, size, "(no bytes)");
		return 0;
	}
	if (cs_open(CS_ARCH_X86, mode, &handle) != CS_ERR_OK) {
		snprintf(text, size, "(no disassembler)");
		return 0;
	}
	/* The longest x86 instruction has 15 bytes; the rest can only slow the decoder down. */
	if (cs_disasm(handle, code, count < 15 ? count : 15, rip, 1, &insn) == 1) {
		length = insn->size;
		snprintf(text, size, "%s%s%s", insn->mnemonic, insn->op_str[0] ? " " : "", insn->op_str);
		cs_free(insn, 1);
	} else {
		snprintf(text, size, "(bad) 0x%02x", code[0]);
	}
	cs_close(&handle);
	return length;
}
