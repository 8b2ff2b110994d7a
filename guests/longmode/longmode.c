/*
 * longmode: is the CPU in the state that an ELF64 image is promised? Reports and checks the control
 * registers, the code segment, the page tables (every address maps to itself), memory up to the end of RAM,
 * and that privilege levels work: down to CPL 3, back by an exception. Booted as plain ELF64. Ends by hlt
 * (status 0), or GUEST_FAILED. Rules: SDM vol. 3A, 2.5 (control registers), 4.5 (4-level paging), 3.4.5
 * (descriptors), 5.8 (privilege levels).
 */
#include "bootinfo.h"
#include "console.h"
#include "end.h"
#include "io.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_NONE);

#define CR0_PE  (1ull << 0)
#define CR0_PG  (1ull << 31)
#define CR4_PAE (1ull << 5)

#define PTE_PRESENT 1ull
#define PTE_LARGE   (1ull << 7)
#define PTE_ADDRESS 0x000ffffffffff000ull

#define PAGE    4096ull
#define STEP    (2ull << 20) /* memory is checked at one place in each 2 MiB */
#define GIB     (1ull << 30)
#define NO_PAGE UINT64_MAX

/* start64.S keeps what the loader gave. */
extern const uint16_t entry_cs;
extern const struct {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed)) entry_gdt;

static unsigned failures;

static void check(bool ok, const char *what)
{
	con_printf("%s %s\n", ok ? "ok  " : "FAIL", what);
	failures += !ok;
}

static void check_registers(uint64_t entry_cr3)
{
	uint64_t cr0 = read_cr0(), cr4 = read_cr4(), efer = rdmsr(MSR_EFER);
	con_printf("CR0 0x%lx CR3 0x%lx CR4 0x%lx EFER 0x%lx\n", cr0, entry_cr3, cr4, efer);
	check((cr0 & (CR0_PE | CR0_PG)) == (CR0_PE | CR0_PG), "CR0: protection and paging are on");
	check(cr4 & CR4_PAE, "CR4: physical address extension is on");
	check((efer & (EFER_LME | EFER_LMA)) == (EFER_LME | EFER_LMA),
	      "EFER: long mode is enabled and active");

	/* The descriptor is read from memory; lar would do the same, but software back ends don't emulate it.
	 */
	uint64_t descriptor = ((const uint64_t *)entry_gdt.base)[entry_cs / 8];
	bool l = descriptor >> 53 & 1, d = descriptor >> 54 & 1;
	con_printf("CS 0x%x: L=%u D=%u CPL=%u\n", entry_cs, l, d, entry_cs & 3u);
	check(l && !d && !(entry_cs & 3), "CS: 64-bit code at CPL 0 (L set, D clear)");
}

/* The physical address that virtual address va has by the tables at cr3, or NO_PAGE. Tables lie in mapped
 * memory. */
static uint64_t walk(uint64_t cr3, uint64_t va)
{
	uint64_t table = cr3 & PTE_ADDRESS;
	for (unsigned shift = 39; shift >= 12; shift -= 9) {
		uint64_t entry = ((const volatile uint64_t *)table)[va >> shift & 511];
		if (!(entry & PTE_PRESENT))
			return NO_PAGE;
		uint64_t offset_mask = (1ull << shift) - 1;
		if (shift == 12 || (shift < 39 && entry & PTE_LARGE))
			return (entry & PTE_ADDRESS & ~offset_mask) | (va & offset_mask);
		table = entry & PTE_ADDRESS;
	}
	return NO_PAGE;
}

/* The first address of every 2 MiB from start on, and the last one before end. */
static bool identity(uint64_t cr3, uint64_t start, uint64_t end)
{
	for (uint64_t va = start; va < end; va += STEP)
		if (walk(cr3, va) != va)
			return false;
	return walk(cr3, end - 1) == end - 1;
}

static bool keeps(uint64_t addr)
{
	volatile uint64_t *word = (volatile uint64_t *)addr;
	uint64_t before = *word;
	*word = ~addr;
	bool ok = *word == ~addr;
	*word = before;
	return ok;
}

/* Writes, reads back and restores words: the last one of each step (we ourselves lie in the first) and of the
 * range. */
static bool touch(uint64_t start, uint64_t end)
{
	for (uint64_t at = start + STEP; at < end; at += STEP)
		if (!keeps(at - sizeof(uint64_t)))
			return false;
	return keeps(end - sizeof(uint64_t));
}

static void check_memory(const struct boot_info *boot, uint64_t cr3)
{
	uint64_t total = 0;
	for (unsigned i = 0; i < boot->range_count; i++) {
		const struct boot_range *r = &boot->ranges[i];
		con_printf("memory map: %012lx-%012lx type %u\n", r->base, r->base + r->size - 1, r->type);
		if (r->type != BOOT_RAM || r->size < PAGE)
			continue;
		total += r->size;
		check(identity(cr3, r->base, r->base + r->size), "every address of it maps to itself");
		check(touch(r->base, r->base + r->size), "it keeps what is written, up to its last word");
	}
	con_printf("RAM: %lu KiB in all\n", total >> 10);
	check(total > 0, "the memory map names RAM");
	check(identity(cr3, 0, 4 * GIB), "the first 4 GiB map to themselves");
}

/* Runs at CPL 3: what its CS says, and what it was given. */
static uint64_t user_code(void *arg)
{
	uint16_t cs;
	__asm__ volatile("mov %%cs, %0" : "=r"(cs));
	return (uint64_t)(cs & 3) << 32 | *(const uint32_t *)arg;
}

static struct trap_frame caught;

static void catch_gp(struct trap_frame *frame)
{
	caught = *frame;
	frame->rip++; /* hlt is one byte long */
}

static uint64_t user_hlt(void *arg)
{
	(void)arg;
	__asm__ volatile("hlt");
	return 0;
}

static void check_levels(void)
{
	uint32_t token = 0x600dcafe;
	extern char page_tables[];
	write_cr3((uint64_t)page_tables); /* our own, which CPL 3 may use */
	check(user_call(user_code, &token) == (3ull << 32 | token), "code ran at CPL 3 and came back by #UD");

	trap_set(VECTOR_GP, catch_gp);
	user_call(user_hlt, 0);
	check(caught.vector == VECTOR_GP && (caught.cs & 3) == 3, "hlt at CPL 3 is refused with #GP");
	uint16_t cs;
	__asm__("mov %%cs, %0" : "=r"(cs));
	check((cs & 3) == 0, "and we are at CPL 0 again");
}

void guest_main(const struct boot_info *boot)
{
	con_init(false);
	uint64_t entry_cr3 = read_cr3();
	con_printf("longmode: booted by %s boot information, command line \"%s\"\n", boot->protocol,
		   boot->cmdline);
	trap_init();
	check_registers(entry_cr3);
	check_memory(boot, entry_cr3);
	check_levels();
	con_printf("longmode: %u failed\n", failures);
	if (failures)
		guest_exit(GUEST_FAILED);
	guest_halt();
}
