/*
 * Looking into a machine: registers, memory, the page walk. Each question has two halves: hv_inspect_X asks
 * the machine and answers in JSON (the value that QMP returns), hv_inspect_X_text makes the lines that a
 * person reads out of that JSON. The second half needs no machine, so hvctl runs it on what came over the
 * socket.
 *
 * Addresses, registers and raw memory values are strings "0x..." in the JSON (its integers are signed and
 * many readers round them to doubles); counts and sizes are integers. The functions run on the caller's
 * thread and reach vCPUs by hv_machine_call; they work on running and on paused machines.
 */
#ifndef HV_CONTROL_INSPECT_H
#define HV_CONTROL_INSPECT_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "base/error.h"
#include "machine/machine.h"

#define HV_EXAMINE_BYTES_MAX (1u << 20) /* of memory in one answer */
#define HV_EXAMINE_COUNT_MAX 65536u     /* items in one answer */

/* What `x` and `xp` of QEMU's monitor ask for. */
struct hv_examine {
	bool physical; /* xp: addr is a GPA; else it goes through vCPU cpu's page tables */
	unsigned cpu;
	uint64_t addr;
	unsigned count; /* items: values, instructions (i), strings (s); 1..HV_EXAMINE_COUNT_MAX, checked by
			   the callee */
	char format;    /* x d u o c i s */
	unsigned size;  /* bytes of a value: 1, 2, 4, 8; not used by i and s */
};

HV_API_BEGIN
/* *result: a new reference. A cpu that does not exist: -EINVAL with a sentence that names how many there are.
 */
int hv_inspect_regs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err);
int hv_inspect_sregs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err);
/* Slots, the holes' devices (bus mmio), and how much of each slot the host has given pages for. */
int hv_inspect_memory(struct hv_machine *m, json_t **result, struct hv_error *err);
/* Memory that is not there: what could be read is in the result, with "error" beside it; -EFAULT only when
 * nothing could be read. */
int hv_inspect_examine(struct hv_machine *m, const struct hv_examine *what, json_t **result,
		       struct hv_error *err);
/* The walk, level by level; an unmapped address is an answer ("mapped": false, "why"), not an error. */
int hv_inspect_translate(struct hv_machine *m, unsigned cpu, uint64_t gva, json_t **result,
			 struct hv_error *err);

/*
 * Lines for a person, each ended by a newline, malloc'd; NULL only without memory. The JSON may come from
 * elsewhere: a member that is missing or of another type is left out of the text, never a crash.
 */
char *hv_inspect_regs_text(const json_t *regs);
char *hv_inspect_sregs_text(const json_t *sregs);
char *hv_inspect_memory_text(const json_t *memory);
char *hv_inspect_examine_text(const json_t *examined);
char *hv_inspect_translate_text(const json_t *walk);
HV_API_END

#endif
