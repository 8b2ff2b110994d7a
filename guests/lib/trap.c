/*
 * IDT, TSS, and what happens on an exception that nobody handles: the registers are printed and the guest
 * ends. Rules: SDM vol. 3A, 6.14 (exceptions in 64-bit mode), 7.7 (TSS in 64-bit mode); vol. 1, 19.5.2
 * (I/O permission bitmap).
 */
#include <stddef.h>

#include "console.h"
#include "end.h"
#include "io.h"
#include "start.h"
#include "trap.h"

#define GATE_INTERRUPT 0x8e /* present, DPL 0, interrupt gate: IF is cleared on the way in */
#define STUB_SIZE      16
#define USER_PORTS     0x400 /* ports below may be used at CPL 3: the bitmap has a zero bit for each */

struct gate {
	uint16_t offset_low, selector;
	uint8_t ist, type;
	uint16_t offset_middle;
	uint32_t offset_high, reserved;
};

struct tss {
	uint32_t reserved0;
	uint64_t rsp[3];
	uint64_t reserved1, ist[7], reserved2;
	uint16_t reserved3, io_map; /* offset of the bitmap */
	uint8_t io_bits[USER_PORTS / 8];
	uint8_t io_end; /* all ones; the CPU reads two bytes even for the last port */
} __attribute__((packed));

extern const char trap_stubs[], trap_stack_end[], user_leave[], user_return[];
extern uint64_t gdt[GDT_ENTRIES];
void trap_dispatch(struct trap_frame *frame);

static struct gate idt[VECTORS];
static struct tss tss;
static trap_handler *handlers[VECTORS];
static uint64_t fixup; /* where a #GP of wrmsr_checked goes on, 0 when none is expected */

void trap_init(void)
{
	for (unsigned i = 0; i < VECTORS; i++) {
		uint64_t stub = (uint64_t)trap_stubs + i * STUB_SIZE;
		idt[i] = (struct gate){.offset_low = (uint16_t)stub,
				       .selector = SEL_CODE,
				       .type = GATE_INTERRUPT,
				       .offset_middle = (uint16_t)(stub >> 16),
				       .offset_high = (uint32_t)(stub >> 32)};
	}
	struct {
		uint16_t limit;
		uint64_t base;
	} __attribute__((packed)) pointer = {sizeof(idt) - 1, (uint64_t)idt};
	__asm__ volatile("lidt %0" : : "m"(pointer));

	/* rsp[0] is the stack that the CPU takes when an exception leads from CPL 3 to CPL 0. */
	tss.rsp[0] = (uint64_t)trap_stack_end;
	tss.io_map = offsetof(struct tss, io_bits);
	tss.io_end = 0xff;
	uint64_t base = (uint64_t)&tss;
	gdt[SEL_TSS / 8] =
		(sizeof(tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 | (base >> 24 & 0xff) << 56;
	gdt[SEL_TSS / 8 + 1] = base >> 32;
	__asm__ volatile("ltr %w0" : : "r"(SEL_TSS));
}

void trap_set(unsigned vector, trap_handler *handler)
{
	handlers[vector] = handler;
}

static _Noreturn void panic(const struct trap_frame *f)
{
	static const char *const names[] = {"#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD",
					    "#NM", "#DF", "",    "#TS", "#NP", "#SS", "#GP",
					    "#PF", "",    "#MF", "#AC", "#MC", "#XM"};
	const char *name = f->vector < sizeof(names) / sizeof(names[0]) ? names[f->vector] : "";
	con_printf("\npanic: exception %lu %s, error code 0x%lx, at CPL %lu\n", f->vector, name, f->error,
		   f->cs & 3);
	con_printf("  rip %016lx  rsp %016lx  rflags %08lx\n", f->rip, f->rsp, f->rflags);
	con_printf("  rax %016lx  rbx %016lx  rcx %016lx\n", f->rax, f->rbx, f->rcx);
	con_printf("  rdx %016lx  rsi %016lx  rdi %016lx\n", f->rdx, f->rsi, f->rdi);
	con_printf("  cr0 %08lx  cr2 %016lx  cr3 %016lx  cr4 %08lx\n", read_cr0(), read_cr2(), read_cr3(),
		   read_cr4());
	guest_exit(GUEST_PANIC);
}

void trap_dispatch(struct trap_frame *frame)
{
	if (frame->vector < VECTORS && handlers[frame->vector]) {
		handlers[frame->vector](frame);
	} else if (frame->vector == VECTOR_UD && frame->rip == (uint64_t)user_leave) {
		frame->rip = (uint64_t)user_return;
		frame->cs = SEL_CODE;
		frame->ss = SEL_DATA;
		frame->rflags = RFLAGS_ALWAYS1;
	} else if (frame->vector == VECTOR_GP && fixup) {
		frame->rip = fixup;
		fixup = 0;
	} else if (frame->vector != VECTOR_SPURIOUS) {
		panic(frame);
	}
}

int wrmsr_checked(uint32_t msr, uint64_t value)
{
	__asm__ volatile("movq $1f, %0\n\twrmsr\n1:"
			 : "=m"(fixup)
			 : "c"(msr), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
	/* The handler zeroed fixup when it had to use it. */
	int refused = __atomic_load_n(&fixup, __ATOMIC_RELAXED) ? 0 : -1;
	fixup = 0;
	return refused;
}
