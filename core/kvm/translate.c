/*
 * From guest-virtual to guest-physical: the page walk of the CPU, done by hand so that each level can be
 * shown. Calls the memory room only. Rules: SDM vol. 3A, chapter 4: 4.3 (32-bit), 4.4 (PAE), 4.5 (4- and
 * 5-level), 4.6 (access rights), 4.7 (reserved bits).
 *
 * Tables belong to the guest and may say anything: they may point outside memory, at themselves, or change
 * while we look. Every entry is read once, and a walk has at most five steps.
 */
#include "kvm/translate.h"

#include <string.h>

#include "base/bytes.h"

#define CR0_PG   (1ull << 31)
#define CR4_PSE  (1ull << 4)
#define CR4_PAE  (1ull << 5)
#define CR4_LA57 (1ull << 12)
#define EFER_LME (1ull << 8)
#define EFER_LMA (1ull << 10)
#define EFER_NXE (1ull << 11)

#define ENTRY_P  (1ull << 0)
#define ENTRY_RW (1ull << 1)
#define ENTRY_US (1ull << 2)
#define ENTRY_PS (1ull << 7)
#define ENTRY_NX (1ull << 63)

/* Physical addresses have at most 52 bits; how many a vCPU has less than that, its memory slots tell. */
#define ADDRESS_MASK 0x000ffffffffff000ull

/* One kind of table: how many of the address's bits lie below its index, how many it takes. */
struct level {
	const char *table;
	unsigned shift, bits;
	bool may_map;      /* an entry with PS set maps a page here */
	bool has_rights;   /* R/W and U/S exist (not in PAE's PDPT) */
	uint64_t reserved; /* bits that must be 0 in every entry that is present */
	const char *absent, *outside, *wrong;
};

static const struct level levels_32bit[] = {
	{"PD", 22, 10, true, true, 0, "PD entry not present", "PD outside memory",
	 "PD entry has a reserved bit set"},
	{"PT", 12, 10, false, true, 0, "PT entry not present", "PT outside memory",
	 "PT entry has a reserved bit set"},
};

/* PAE's four PDPT entries know only P, PWT, PCD and the address (SDM table 4-8). */
static const struct level levels_pae[] = {
	{"PDPT", 30, 2, false, false, 0xfff00000000001e6ull, "PDPT entry not present", "PDPT outside memory",
	 "PDPT entry has a reserved bit set"},
	{"PD", 21, 9, true, true, 0x7ff0000000000000ull, "PD entry not present", "PD outside memory",
	 "PD entry has a reserved bit set"},
	{"PT", 12, 9, false, true, 0x7ff0000000000000ull, "PT entry not present", "PT outside memory",
	 "PT entry has a reserved bit set"},
};

/* 5-level paging uses all rows, 4-level paging all but the first. */
static const struct level levels_long[] = {
	{"PML5", 48, 9, false, true, ENTRY_PS, "PML5 entry not present", "PML5 outside memory",
	 "PML5 entry has a reserved bit set"},
	{"PML4", 39, 9, false, true, ENTRY_PS, "PML4 entry not present", "PML4 outside memory",
	 "PML4 entry has a reserved bit set"},
	{"PDPT", 30, 9, true, true, 0, "PDPT entry not present", "PDPT outside memory",
	 "PDPT entry has a reserved bit set"},
	{"PD", 21, 9, true, true, 0, "PD entry not present", "PD outside memory",
	 "PD entry has a reserved bit set"},
	{"PT", 12, 9, false, true, 0, "PT entry not present", "PT outside memory",
	 "PT entry has a reserved bit set"},
};

static enum hv_paging paging_mode(const struct kvm_sregs *sregs)
{
	if (!(sregs->cr0 & CR0_PG))
		return HV_PAGING_NONE;
	if (!(sregs->cr4 & CR4_PAE))
		return HV_PAGING_32BIT;
	if (!(sregs->efer & (EFER_LMA | EFER_LME)))
		return HV_PAGING_PAE;
	return sregs->cr4 & CR4_LA57 ? HV_PAGING_5LEVEL : HV_PAGING_4LEVEL;
}

static int not_mapped(struct hv_walk *walk, const char *why)
{
	walk->why = why;
	walk->writable = walk->user = walk->executable = false;
	return -EFAULT;
}

/*
 * A linear address has 32 bits outside of long mode. A debugger that takes the target for a 64-bit one
 * sign-extends addresses, so those are let through.
 */
static bool narrow(uint64_t *gva)
{
	const uint64_t top = *gva >> 32;

	if (top != 0 && !(top == 0xffffffff && (*gva & 0x80000000u)))
		return false;
	*gva &= 0xffffffffu;
	return true;
}

static bool canonical(uint64_t gva, unsigned bits)
{
	const uint64_t top = gva >> (bits - 1);

	return top == 0 || top == UINT64_MAX >> (bits - 1);
}

/* Reads the entry of `level` in the table at `base`, and records it as the next step of the walk. */
static int step(const struct hv_memory *mem, const struct level *level, unsigned width, uint64_t base,
		uint64_t gva, struct hv_walk *walk, uint64_t *entry)
{
	const unsigned index = (unsigned)(gva >> level->shift) & ((1u << level->bits) - 1);
	struct hv_walk_step *s = &walk->steps[walk->count];
	uint8_t raw[8] = {0};

	if (hv_memory_read(mem, base + (uint64_t)index * width, raw, width) < 0)
		return not_mapped(walk, level->outside);
	*entry = width == 4 ? hv_le32(raw) : hv_le64(raw);
	*s = (struct hv_walk_step){level->table, index, base + (uint64_t)index * width, *entry};
	walk->count++;
	return *entry & ENTRY_P ? 0 : not_mapped(walk, level->absent);
}

/* Where the page of a mapping entry starts. 4 MiB pages keep address bits 39:32 in entry bits 20:13 (PSE-36).
 */
static uint64_t page_base(const struct hv_walk *walk, uint64_t entry)
{
	if (walk->paging == HV_PAGING_32BIT && walk->page_size != HV_PAGE_SIZE)
		return (entry & 0xffc00000u) | ((entry >> 13 & 0xff) << 32);
	return entry & ADDRESS_MASK & ~(walk->page_size - 1);
}

/* In a large page's entry the bits between PAT (12) and the address must be 0; with PSE-36 that leaves
 * bit 21. */
static uint64_t large_page_reserved(const struct hv_walk *walk, const struct level *level)
{
	if (walk->paging == HV_PAGING_32BIT)
		return 1u << 21;
	return ((1ull << level->shift) - 1) & ~0x1fffull;
}

static int walk_tables(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva,
		       const struct level *levels, unsigned count, struct hv_walk *walk)
{
	const unsigned width = walk->paging == HV_PAGING_32BIT ? 4 : 8;
	const uint64_t no_nx = width == 8 && !(sregs->efer & EFER_NXE) ? ENTRY_NX : 0;
	uint64_t base = walk->paging == HV_PAGING_PAE ? sregs->cr3 & 0xffffffe0u : sregs->cr3 & ADDRESS_MASK;

	if (walk->paging == HV_PAGING_32BIT)
		base &= 0xfffff000u;
	walk->writable = walk->user = walk->executable = true;
	for (unsigned i = 0; i < count; i++) {
		const struct level *level = &levels[i];
		const bool large_ok = width == 8 || (sregs->cr4 & CR4_PSE);
		uint64_t entry;

		if (step(mem, level, width, base, gva, walk, &entry) < 0)
			return -EFAULT;
		const bool leaf = level->shift == 12 || (level->may_map && large_ok && (entry & ENTRY_PS));
		uint64_t reserved = level->reserved | no_nx;
		if (leaf && level->shift != 12)
			reserved |= large_page_reserved(walk, level);
		if (entry & reserved)
			return not_mapped(walk, level->wrong);
		if (level->has_rights) {
			walk->writable &= (entry & ENTRY_RW) != 0;
			walk->user &= (entry & ENTRY_US) != 0;
			walk->executable &= width == 4 || !(entry & ENTRY_NX);
		}
		if (leaf) {
			walk->page_size = 1ull << level->shift;
			walk->gpa = page_base(walk, entry) | (gva & (walk->page_size - 1));
			walk->mapped = true;
			return 0;
		}
		base = entry & (width == 4 ? 0xfffff000u : ADDRESS_MASK);
	}
	return not_mapped(walk, "the tables have no end"); /* the last level always maps */
}

int hv_translate(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva,
		 struct hv_walk *walk)
{
	memset(walk, 0, sizeof(*walk));
	walk->paging = paging_mode(sregs);
	switch (walk->paging) {
	case HV_PAGING_NONE:
		if (!narrow(&gva))
			return not_mapped(walk, "the address has more than 32 bits, and there is no paging");
		walk->mapped = walk->writable = walk->user = walk->executable = true;
		walk->gpa = gva;
		walk->page_size = 1ull << 32;
		return 0;
	case HV_PAGING_32BIT:
		if (!narrow(&gva))
			break;
		return walk_tables(mem, sregs, gva, levels_32bit, HV_ARRAY_SIZE(levels_32bit), walk);
	case HV_PAGING_PAE:
		if (!narrow(&gva))
			break;
		return walk_tables(mem, sregs, gva, levels_pae, HV_ARRAY_SIZE(levels_pae), walk);
	case HV_PAGING_4LEVEL:
		if (!canonical(gva, 48))
			return not_mapped(walk, "the address is not canonical");
		return walk_tables(mem, sregs, gva, levels_long + 1, HV_ARRAY_SIZE(levels_long) - 1, walk);
	case HV_PAGING_5LEVEL:
		if (!canonical(gva, 57))
			return not_mapped(walk, "the address is not canonical");
		return walk_tables(mem, sregs, gva, levels_long, HV_ARRAY_SIZE(levels_long), walk);
	}
	return not_mapped(walk, "the address has more than 32 bits, and the vCPU is not in long mode");
}

/* One direction of hv_virtual_read and _write. Exactly one of in and out is given. */
static int virtual_copy(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva, void *out,
			const void *in, uint64_t length, uint64_t *done)
{
	uint64_t at = 0;
	int rc = 0;

	while (at < length) {
		struct hv_walk walk;
		uint64_t n = HV_PAGE_SIZE - (gva & (HV_PAGE_SIZE - 1));

		if (n > length - at)
			n = length - at;
		rc = hv_translate(mem, sregs, gva, &walk);
		if (rc == 0 && in)
			rc = hv_memory_write(mem, walk.gpa, (const uint8_t *)in + at, n);
		else if (rc == 0)
			rc = hv_memory_read(mem, walk.gpa, (uint8_t *)out + at, n);
		if (rc < 0)
			break;
		at += n;
		/* The address space's end is an end, not a way back to 0. */
		if (__builtin_add_overflow(gva, n, &gva) && at < length) {
			rc = -EFAULT;
			break;
		}
	}
	if (done)
		*done = at;
	return rc;
}

int hv_virtual_read(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva, void *buf,
		    uint64_t length, uint64_t *done)
{
	return virtual_copy(mem, sregs, gva, buf, NULL, length, done);
}

int hv_virtual_write(const struct hv_memory *mem, const struct kvm_sregs *sregs, uint64_t gva,
		     const void *buf, uint64_t length, uint64_t *done)
{
	return virtual_copy(mem, sregs, gva, NULL, buf, length, done);
}
