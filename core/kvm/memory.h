/*
 * Guest memory: slots that map guest-physical addresses (GPA) to host memory (HVA), the holes between them,
 * and the one checked accessor through which every other room reaches it. Rules: KVM API 4.35
 * (KVM_SET_USER_MEMORY_REGION).
 *
 * Slots are added before the first vCPU runs and don't change while one runs, so lookups take no lock and may
 * come from any thread.
 */
#ifndef HV_KVM_MEMORY_H
#define HV_KVM_MEMORY_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "kvm/kvm.h"

#define HV_PAGE_SIZE 4096ull
#define HV_SLOTS_MAX 16

/* RAM ends here at most below 4 GiB: what follows holds the APICs, KVM's TSS and the firmware's addresses. */
#define HV_PCI_HOLE_START 0xc0000000ull
#define HV_PCI_HOLE_END   0x100000000ull

struct hv_slot {
	uint64_t gpa, size; /* bytes, both multiples of the page size */
	uint8_t *host;      /* size bytes, owned by the hv_memory */
	bool readonly;      /* the guest's writes exit as MMIO; the host may write */
};

struct hv_memory {
	int vm; /* the VM's descriptor, borrowed; -1: slots are kept, KVM isn't told (tests, offline tools) */
	unsigned count;
	struct hv_slot slots[HV_SLOTS_MAX]; /* sorted by gpa, none overlap */
	_Atomic unsigned keepers;           /* see hv_memory_keep */
};

HV_API_BEGIN
void hv_memory_init(struct hv_memory *mem, const struct hv_vm *vm); /* vm may be NULL */
void hv_memory_free(struct hv_memory *mem);

/*
 * Adds a slot of fresh zeroed memory. -EINVAL: gpa or size is not a positive multiple of the page size, or
 * wraps; -EEXIST: it would overlap a slot; -ENOSPC: all slots are taken; -ENOMEM.
 */
int hv_memory_add(struct hv_memory *mem, uint64_t gpa, uint64_t size, bool readonly, struct hv_error *err);

/* RAM as a PC has it: from 0 up to the PCI hole, the rest from 4 GiB on. size is rounded up to a page. */
int hv_memory_add_ram(struct hv_memory *mem, uint64_t size, struct hv_error *err);

/*
 * The accessor. The host address of [gpa, gpa + length) when it lies wholly inside one slot, else NULL; never
 * wraps. The guest may write the bytes at any moment: read a field once, then check it.
 */
void *hv_memory_at(const struct hv_memory *mem, uint64_t gpa, uint64_t length);

/* Copies that may cross from one slot into an adjacent one. -EFAULT when any byte is outside; nothing is
 * copied then. */
int hv_memory_read(const struct hv_memory *mem, uint64_t gpa, void *buf, uint64_t length);
int hv_memory_write(const struct hv_memory *mem, uint64_t gpa, const void *buf, uint64_t length);

/* Zeroes all memory and gives it back to the host. */
int hv_memory_clear(struct hv_memory *mem, struct hv_error *err);

/* The GPA of a byte of guest memory that hv_memory_at gave; false when host is in no slot. */
bool hv_memory_gpa_of(const struct hv_memory *mem, const void *host, uint64_t *gpa);

/*
 * Gives whole pages back to the host; the guest finds zeros there when it touches them again. The one way to
 * do so while a VM runs: what the guest doesn't need any more changes without a trace in the dirty log, which
 * is right for who copies memory as it is now. -EINVAL: no whole pages; -EFAULT: outside memory; -EROFS: in a
 * read-only slot; -EBUSY: memory is kept (below); or what madvise(2) says. Any thread.
 */
int hv_memory_discard(const struct hv_memory *mem, uint64_t gpa, uint64_t length);

/* For who still needs memory as it was at some moment (pages yet to be saved, or yet to be fetched on their
 * first touch): as many calls with false as with true, and nothing is discarded in between. Any thread. */
void hv_memory_keep(struct hv_memory *mem, bool keep);

/* Bytes of all slots together. */
uint64_t hv_memory_size(const struct hv_memory *mem);
HV_API_END

#endif
