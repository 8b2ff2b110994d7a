/*
 * Where a vCPU is when a kernel starts: 64-bit long mode with identity paging, or flat 32-bit protected mode.
 * A CPU gets there by a few dozen instructions; a monitor writes the same tables into guest memory and the
 * same values into the registers, hidden parts of the segment registers included.
 *
 * Hardware checks those hidden parts at each entry (SDM vol. 3C, 27.3.1): code segments have L or D but not
 * both, all types have the accessed bit, TR is a busy TSS even when the guest never switches tasks, LDTR is
 * unusable or an LDT, limits agree with their granularity bit. One of them wrong, and VT-x refuses to run the
 * guest at all.
 *
 * May call kvm/memory.h.
 * Rules: SDM vol. 3A, 3.4.5 (descriptors), 4.5 (4-level paging), 8.2.3 and 8.7 (TSS), 10.8.5 (entering IA-32e
 * mode).
 */
#include <inttypes.h>
#include <string.h>

#include "base/bytes.h"
#include "boot/layout.h"

/* HV_BOOT_TABLES, page by page. */
#define GDT_ADDR  HV_BOOT_TABLES
#define TSS_ADDR  (HV_BOOT_TABLES + 0x80) /* in the GDT's page, behind it */
#define PML4_ADDR (HV_BOOT_TABLES + 0x1000)
#define PDPT_ADDR (HV_BOOT_TABLES + 0x2000)
#define PD_ADDR   (HV_BOOT_TABLES + 0x3000) /* four; those for what lies above are at HV_BOOT_HIGH_TABLES */
#define LOW_GIBS  4ull

#define GDT_CODE    1 /* indexes; the selector is eight times the index */
#define GDT_DATA    2
#define GDT_TSS     3 /* and 4: in long mode a TSS descriptor has 16 bytes */
#define GDT_ENTRIES 5

#define TSS_LIMIT 0x67 /* its smallest size, less one */

#define TYPE_DATA 3  /* read, write, accessed */
#define TYPE_CODE 11 /* execute, read, accessed */
#define TYPE_TSS  11 /* busy, 32 or 64 bits by the mode */
#define TYPE_LDT  2

#define PTE_PRESENT (1ull << 0)
#define PTE_WRITE   (1ull << 1)
#define PTE_LARGE   (1ull << 7) /* the entry maps a page instead of naming a table */
#define PTE_COUNT   512

#define CR0_PE (1ull << 0)  /* protection */
#define CR0_MP (1ull << 1)  /* wait goes by TS, as SSE code expects */
#define CR0_ET (1ull << 4)  /* always 1 */
#define CR0_NE (1ull << 5)  /* floating-point errors are exceptions */
#define CR0_WP (1ull << 16) /* read-only pages are so for the kernel too */
#define CR0_PG (1ull << 31) /* paging */

#define CR4_PAE        (1ull << 5)
#define CR4_OSFXSR     (1ull << 9) /* SSE works: compilers use it for 64-bit code without being asked */
#define CR4_OSXMMEXCPT (1ull << 10)

#define EFER_LME (1ull << 8)  /* long mode asked for */
#define EFER_LMA (1ull << 10) /* and active, since paging is on */

/* Code or data over all 4 GiB; in 64-bit mode the CPU ignores base and limit, but entry checks don't. */
static struct kvm_segment flat_segment(unsigned index, uint8_t type, bool code64)
{
	struct kvm_segment s = {.selector = (uint16_t)(index * 8)};

	/* hv:solution lab=4 task=1 */
	s.limit = 0xffffffff;
	s.type = type;
	s.present = 1;
	s.s = 1;
	s.g = 1;
	s.l = code64;
	s.db = !code64; /* 64-bit code has L set and D clear; both set is reserved */
	/* hv:end */
	return s;
}

static void set_segments(struct kvm_sregs *sregs, bool code64, uint64_t tss)
{
	/* hv:solution lab=4 task=1 */
	sregs->cs = flat_segment(GDT_CODE, TYPE_CODE, code64);
	sregs->ds = flat_segment(GDT_DATA, TYPE_DATA, false);
	sregs->es = sregs->fs = sregs->gs = sregs->ss = sregs->ds;
	sregs->tr = (struct kvm_segment){
		.selector = GDT_TSS * 8, .base = tss, .limit = TSS_LIMIT, .type = TYPE_TSS, .present = 1};
	sregs->ldt = (struct kvm_segment){.type = TYPE_LDT, .unusable = 1};
	/* hv:end */
	sregs->gdt = (struct kvm_dtable){.base = GDT_ADDR, .limit = GDT_ENTRIES * 8 - 1};
	sregs->idt = (struct kvm_dtable){.base = 0, .limit = 0}; /* none: an exception is a triple fault */
}

/* The eight bytes that the CPU would load this segment register from. */
static uint64_t descriptor(const struct kvm_segment *s)
{
	/* hv:solution lab=4 task=2 */
	uint64_t limit = s->g ? s->limit >> 12 : s->limit;

	return (limit & 0xffff) | (s->base & 0xffffff) << 16 | (uint64_t)s->type << 40 |
	       (uint64_t)s->s << 44 | (uint64_t)s->dpl << 45 | (uint64_t)s->present << 47 |
	       (limit >> 16 & 0xf) << 48 | (uint64_t)s->l << 53 | (uint64_t)s->db << 54 |
	       (uint64_t)s->g << 55 | (s->base >> 24 & 0xff) << 56;
	/* hv:end */
}

/* The GDT says what the segment registers say, so that a kernel may reload them. */
static int write_gdt(const struct hv_memory *mem, const struct kvm_sregs *sregs, struct hv_error *err)
{
	uint8_t *page = hv_memory_at(mem, GDT_ADDR, HV_PAGE_SIZE);

	if (!page)
		return hv_fail(err, ENOMEM,
			       "No RAM at 0x%llx for the GDT; give the VM at least 256 KiB (--mem)",
			       GDT_ADDR);
	memset(page, 0, HV_PAGE_SIZE);
	/* hv:solution lab=4 task=2 */
	hv_put_le64(page + GDT_CODE * 8, descriptor(&sregs->cs));
	hv_put_le64(page + GDT_DATA * 8, descriptor(&sregs->ds));
	hv_put_le64(page + GDT_TSS * 8, descriptor(&sregs->tr));
	hv_put_le64(page + GDT_TSS * 8 + 8, sregs->tr.base >> 32);
	/* hv:end */
	/* The I/O bitmap would start past the limit, so there is none: at CPL 3 ports follow IOPL alone. */
	hv_put_le16(page + (TSS_ADDR - GDT_ADDR) + 0x66, TSS_LIMIT + 1);
	return 0;
}

/*
 * Each address maps to itself, by pages of 2 MiB, one PD for a GiB. (Pages of 1 GiB would need no PDs, but
 * the guest's CPU may lack them, and then a walk through one faults.) All pages are the kernel's own: code at
 * CPL 3 needs others.
 */
static int write_page_tables(const struct hv_memory *mem, uint64_t gibs, struct hv_error *err)
{
	uint8_t *pml4 = hv_memory_at(mem, PML4_ADDR, HV_PAGE_SIZE);
	uint8_t *pdpt = hv_memory_at(mem, PDPT_ADDR, HV_PAGE_SIZE);

	if (!pml4 || !pdpt)
		return hv_fail(err, ENOMEM,
			       "No RAM at 0x%llx for page tables; give the VM at least 256 KiB (--mem)",
			       PML4_ADDR);
	memset(pml4, 0, HV_PAGE_SIZE);
	memset(pdpt, 0, HV_PAGE_SIZE);
	/* hv:solution lab=4 task=3 */
	hv_put_le64(pml4, PDPT_ADDR | PTE_PRESENT | PTE_WRITE);
	for (uint64_t gib = 0; gib < gibs; gib++) {
		uint64_t gpa = gib < LOW_GIBS ? PD_ADDR + gib * HV_PAGE_SIZE
					      : HV_BOOT_HIGH_TABLES + (gib - LOW_GIBS) * HV_PAGE_SIZE;
		uint8_t *pd = hv_memory_at(mem, gpa, HV_PAGE_SIZE);

		if (!pd)
			return hv_fail(err, ENOMEM,
				       "No RAM at 0x%" PRIx64
				       " for page tables; give the VM at least 256 KiB (--mem)",
				       gpa);
		hv_put_le64(pdpt + gib * 8, gpa | PTE_PRESENT | PTE_WRITE);
		for (uint64_t i = 0; i < PTE_COUNT; i++)
			hv_put_le64(pd + i * 8, gib << 30 | i << 21 | PTE_PRESENT | PTE_WRITE | PTE_LARGE);
	}
	/* hv:end */
	return 0;
}

int hv_longmode_setup(struct hv_memory *mem, uint64_t map_size, struct kvm_sregs *sregs, struct hv_error *err)
{
	uint64_t size = map_size < HV_BOOT_MAP_MAX ? map_size : HV_BOOT_MAP_MAX;
	uint64_t gibs = size > LOW_GIBS << 30 ? hv_round_up(size, 1ull << 30) >> 30 : LOW_GIBS;
	int rc;

	set_segments(sregs, true, TSS_ADDR);
	rc = write_gdt(mem, sregs, err);
	if (!rc)
		rc = write_page_tables(mem, gibs, err);
	if (rc)
		return rc;
	/* hv:solution lab=4 task=4 */
	sregs->cr3 = PML4_ADDR;
	sregs->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT;
	sregs->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_PG;
	sregs->efer = EFER_LME | EFER_LMA;
	return 0;
	/* hv:end */
}

int hv_protected_setup(struct hv_memory *mem, struct kvm_sregs *sregs, struct hv_error *err)
{
	/* PVH wants a TSS with base 0 and limit 0x67. */
	set_segments(sregs, false, 0);
	sregs->cr3 = 0;
	sregs->cr4 = 0;
	sregs->cr0 = CR0_PE | CR0_ET;
	sregs->efer = 0;
	return write_gdt(mem, sregs, err);
}
