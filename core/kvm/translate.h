/*
 * From guest-virtual to guest-physical: the page walk that the CPU does, level by level, done here so that it
 * can be shown. Rules: SDM vol. 3A, chapter 4 (no paging, 32-bit, PAE, 4-level, 5-level).
 */
#ifndef HV_KVM_TRANSLATE_H
#define HV_KVM_TRANSLATE_H

#include <stdbool.h>
#include <stdint.h>

#include "kvm/memory.h"
#include "kvm/vcpu.h"

enum hv_paging { HV_PAGING_NONE, HV_PAGING_32BIT, HV_PAGING_PAE, HV_PAGING_4LEVEL, HV_PAGING_5LEVEL };

struct hv_walk_step {
	const char *table;  /* "PML5", "PML4", "PDPT", "PD", "PT" */
	unsigned index;     /* which entry */
	uint64_t entry_gpa; /* where the entry is */
	uint64_t entry;     /* what it says */
};

struct hv_walk {
	enum hv_paging paging;
	unsigned count;
	struct hv_walk_step steps[5];
	bool mapped; /* gpa is valid */
	uint64_t gpa;
	uint64_t page_size;              /* 4 KiB, 2 MiB, 4 MiB, 1 GiB; with no paging the whole space */
	bool writable, user, executable; /* over all levels */
	const char *why;                 /* when not mapped: "PD entry not present", ...; a constant */
};

HV_API_BEGIN
/* Walks gva with the control registers of sregs. Always fills *walk; 0 when mapped, else -EFAULT. */
int hv_translate(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva,
		 struct hv_walk *walk);

/* Reads or writes guest-virtual memory page by page. -EFAULT at the first byte that is not mapped; *done
 * tells how many bytes came through (may be NULL). Permissions are not checked: this is a debugger's access.
 */
int hv_virtual_read(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva, void *buf,
		    uint64_t length, uint64_t *done);
int hv_virtual_write(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva,
		     const void *buf, uint64_t length, uint64_t *done);
HV_API_END

#endif
