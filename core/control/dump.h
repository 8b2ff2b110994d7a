/*
 * A VM's memory and registers as an ELF core file that gdb and crash open.
 */
#ifndef HV_CONTROL_DUMP_H
#define HV_CONTROL_DUMP_H

#include <stdbool.h>

#include "machine/machine.h"

HV_API_BEGIN
/*
 * Writes to fd, from its current offset 0 on: ELF64 core, one NT_PRSTATUS a vCPU, one PT_LOAD a run of
 * memory. With paging, p_vaddr follows the page tables of the first vCPU; else p_vaddr = p_paddr. Zero pages
 * become holes when fd can seek. The machine is paused for the time, and goes on when it did before.
 */
int hv_dump(struct hv_machine *m, int fd, bool paging, struct hv_error *err);
HV_API_END

#endif
