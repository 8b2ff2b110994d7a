/*
 * Port I/O: in and out of one, two and four bytes, with the port in DX and in the instruction; ins and outs,
 * single and repeated, forwards and backwards. The devices that answer: the UART's scratch register (it keeps
 * a byte), the POST port 0x80, QEMU's firmware configuration (a stream of known bytes at one port). Rules:
 * SDM vol. 1, chapter 19: an access of more than one byte is one of consecutive ports, and a port where
 * nothing answers reads as ones.
 */
#include "console.h"
#include "exits.h"
#include "io.h"

#define PORT_POST       0x80
#define PORT_NOBODY     0x2e0
#define FWCFG_SELECT    0x510
#define FWCFG_DATA      0x511
#define FWCFG_SIGNATURE 0 /* item 0 is the four bytes "QEMU" */

#define SCRATCH (UART + UART_SCR)

#define QEMU_FORWARDS  0x554d4551u /* "QEMU", first byte lowest */
#define QEMU_BACKWARDS 0x51454d55u

static void check_widths(void)
{
	outb(SCRATCH, 0x5a);
	check("outb, inb: port in DX", inb(SCRATCH), 0x5a);
	outb(PORT_POST, 0xc3);
	check("outb, inb: port in the instruction", inb(PORT_POST), 0xc3);
	outw(SCRATCH - 1, 0xa5ff);
	check("outw reaches two ports", inb(SCRATCH), 0xa5);
	check("inw reads two ports", inw(SCRATCH - 1) >> 8, 0xa5);
	outl(SCRATCH - 3, 0x3cffff00 | UART_MCR_NORMAL);
	check("outl reaches four ports", inb(SCRATCH), 0x3c);
	check("inl reads four ports", inl(SCRATCH - 3) >> 24, 0x3c);
}

static void check_nobody(void)
{
	outb(PORT_NOBODY, 0);
	check("inb where nobody answers", inb(PORT_NOBODY), 0xff);
	outw(PORT_NOBODY, 0);
	check("inw where nobody answers", inw(PORT_NOBODY), 0xffff);
	outl(PORT_NOBODY, 0);
	check("inl where nobody answers", inl(PORT_NOBODY), 0xffffffff);
	check("inw at the last port", inw(0xfffe), 0xffff);
	/* An access narrower than RAX must leave the rest of it alone (but a 32-bit one zeroes bits 63:32).
	 */
	uint64_t rax = 0x1122334455667788;
	__asm__ volatile("inb %%dx, %%al" : "+a"(rax) : "d"(PORT_NOBODY));
	check("inb changes AL alone", rax, 0x11223344556677ff);
	rax = 0x1122334455667788;
	__asm__ volatile("inw %%dx, %%ax" : "+a"(rax) : "d"(PORT_NOBODY));
	check("inw changes AX alone", rax, 0x112233445566ffff);
	rax = 0x1122334455667788;
	__asm__ volatile("inl %%dx, %%eax" : "+a"(rax) : "d"(PORT_NOBODY));
	check("inl zeroes the upper half of RAX", rax, 0xffffffff);
}

/* Read-modify-write of a register: in, or, out. What the device keeps must be the sum of both. */
static void check_modify(void)
{
	outb(SCRATCH, 0x01);
	outb(SCRATCH, inb(SCRATCH) | 0x80);
	check("in, or, out on one register", inb(SCRATCH), 0x81);
	uint8_t mcr = inb(UART + UART_MCR);
	outb(UART + UART_MCR, mcr ^ 0x01);
	check("in, xor, out on the modem control", inb(UART + UART_MCR), mcr ^ 0x01u);
	outb(UART + UART_MCR, mcr);
}

static void check_strings_in(void)
{
	uint8_t bytes[4] = {0};
	void *to = bytes;
	outw(FWCFG_SELECT, FWCFG_SIGNATURE);
	__asm__ volatile("insb" : "+D"(to) : "d"(FWCFG_DATA) : "memory");
	check("insb", bytes[0], 'Q');
	check("insb moves RDI by one", (uint64_t)to, (uint64_t)(bytes + 1));

	uint32_t word = 0;
	uint64_t count = 4;
	to = &word;
	outw(FWCFG_SELECT, FWCFG_SIGNATURE);
	__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(FWCFG_DATA) : "memory");
	check("rep insb", word, QEMU_FORWARDS);
	check("rep insb counts RCX down", count, 0);

	count = 4;
	to = (uint8_t *)&word + 3;
	outw(FWCFG_SELECT, FWCFG_SIGNATURE);
	__asm__ volatile("std; rep insb; cld" : "+D"(to), "+c"(count) : "d"(FWCFG_DATA) : "memory");
	check("rep insb backwards", word, QEMU_BACKWARDS);

	count = 0;
	to = &word;
	__asm__ volatile("rep insb" : "+D"(to), "+c"(count) : "d"(FWCFG_DATA) : "memory");
	check("rep insb of nothing", word, QEMU_BACKWARDS);

	uint16_t words[3] = {0, 0, 0x1234};
	count = 2;
	to = words;
	__asm__ volatile("rep insw" : "+D"(to), "+c"(count) : "d"(PORT_NOBODY) : "memory");
	check("rep insw", (uint64_t)words[2] << 32 | (uint64_t)words[1] << 16 | words[0], 0x1234ffffffff);

	uint32_t dwords[3] = {0, 0, 0x12345678};
	count = 2;
	to = dwords;
	__asm__ volatile("rep insl" : "+D"(to), "+c"(count) : "d"(PORT_NOBODY) : "memory");
	check("rep insl", dwords[0] & dwords[1], 0xffffffff);
	check("rep insl stops in time", dwords[2], 0x12345678);
}

static void check_strings_out(void)
{
	static const uint8_t bytes[] = {0x11, 0x22, 0x33, 0x44};
	static const uint16_t words[] = {0x55ff, 0x66ff};
	static const uint32_t dwords[] = {0x77ffff00 | UART_MCR_NORMAL, 0x88ffff00 | UART_MCR_NORMAL};
	const void *from = bytes;
	uint64_t count = 4;

	__asm__ volatile("outsb" : "+S"(from) : "d"(SCRATCH) : "memory");
	check("outsb", inb(SCRATCH), 0x11);
	from = bytes;
	__asm__ volatile("rep outsb" : "+S"(from), "+c"(count) : "d"(SCRATCH) : "memory");
	check("rep outsb", inb(SCRATCH), 0x44);
	check("rep outsb moves RSI", (uint64_t)from, (uint64_t)(bytes + 4));
	count = 4;
	from = bytes + 3;
	__asm__ volatile("std; rep outsb; cld" : "+S"(from), "+c"(count) : "d"(SCRATCH) : "memory");
	check("rep outsb backwards", inb(SCRATCH), 0x11);
	count = 2;
	from = words;
	__asm__ volatile("rep outsw" : "+S"(from), "+c"(count) : "d"(SCRATCH - 1) : "memory");
	check("rep outsw", inb(SCRATCH), 0x66);
	count = 2;
	from = dwords;
	__asm__ volatile("rep outsl" : "+S"(from), "+c"(count) : "d"(SCRATCH - 3) : "memory");
	check("rep outsl", inb(SCRATCH), 0x88);
}

void check_pio(void)
{
	check_widths();
	check_nobody();
	check_modify();
	check_strings_in();
	check_strings_out();
}
