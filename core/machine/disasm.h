/*
 * Machine code as a person reads it, by capstone.
 */
#ifndef HV_MACHINE_DISASM_H
#define HV_MACHINE_DISASM_H

#include <stddef.h>
#include <stdint.h>

#include "kvm/vcpu.h"

HV_API_BEGIN
/* 16, 32 or 64: what the code segment and EFER.LMA make of the bytes. */
unsigned hv_code_bits(const struct kvm_sregs *sregs);

/*
 * One instruction at code (count bytes there) into text: "mov eax, 1". Returns its length, 0 when the bytes
 * are no instruction (text says so). Keeps no state; any thread.
 */
unsigned hv_disasm(const uint8_t *code, size_t count, uint64_t rip, unsigned bits, char *text, size_t size);
HV_API_END

#endif
