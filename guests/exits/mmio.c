/*
 * Memory-mapped I/O where nothing answers: loads of every width give ones, stores are swallowed, and
 * instructions that do both in one (add, xchg, lock xadd, cmpxchg) see ones and leave ones. For a hypervisor
 * these are the hard ones: it gets an address, not a value, and someone has to decode the instruction. Rules:
 * SDM vol. 2.
 */
#include "exits.h"
#include "flat.h"

#define ONES 0xffffffffffffffff

static volatile uint8_t *const mmio = (volatile uint8_t *)MMIO_BASE;

#define M(type, offset) (*(volatile type *)(mmio + (offset)))

static void check_loads(void)
{
	check("load of 1 byte", M(uint8_t, 0), 0xff);
	check("load of 2 bytes", M(uint16_t, 0), 0xffff);
	check("load of 4 bytes", M(uint32_t, 0), 0xffffffff);
	check("load of 8 bytes", M(uint64_t, 0), ONES);
	check("load of 4 bytes, not aligned", M(uint32_t, 3), 0xffffffff);
	check("load of 8 bytes across two pages", M(uint64_t, 0xffc), ONES);

	uint64_t value = 0;
	__asm__ volatile("movzbl %1, %k0" : "=r"(value) : "m"(M(uint8_t, 0)));
	check("movzx", value, 0xff);
	__asm__ volatile("movsbq %1, %0" : "=r"(value) : "m"(M(uint8_t, 0)));
	check("movsx", value, ONES);
	value = 0x1122334455667788;
	__asm__ volatile("movb %1, %b0" : "+r"(value) : "m"(M(uint8_t, 0)));
	check("movb changes the low byte alone", value, 0x11223344556677ff);
}

static void check_stores(void)
{
	M(uint8_t, 0x10) = 0x12;
	check("store of 1 byte is swallowed", M(uint8_t, 0x10), 0xff);
	M(uint16_t, 0x10) = 0x1234;
	check("store of 2 bytes is swallowed", M(uint16_t, 0x10), 0xffff);
	M(uint32_t, 0x10) = 0x12345678;
	check("store of 4 bytes is swallowed", M(uint32_t, 0x10), 0xffffffff);
	M(uint64_t, 0x10) = 0x123456789abcdef0;
	check("store of 8 bytes is swallowed", M(uint64_t, 0x10), ONES);
	__asm__ volatile("movl $0x11223344, %0" : "=m"(M(uint32_t, 0x10)));
	check("store of an immediate is swallowed", M(uint32_t, 0x10), 0xffffffff);
}

static void check_modify(void)
{
	uint32_t value = 1;
	uint8_t zero, carry;

	__asm__ volatile("addl %1, %0" : "+m"(M(uint32_t, 0x20)), "+r"(value), "=@ccz"(zero), "=@ccc"(carry));
	check("add to memory: ones plus 1 is 0, carry 1", (uint64_t)(zero << 1 | carry), 3);
	__asm__ volatile("incw %0" : "+m"(M(uint16_t, 0x20)), "=@ccz"(zero));
	check("inc of memory", zero, 1);
	__asm__ volatile("andb $0x0f, %0" : "+m"(M(uint8_t, 0x20)), "=@ccz"(zero));
	check("and into memory", zero, 0);
	__asm__ volatile("notl %0" : "+m"(M(uint32_t, 0x20)));
	check("not of memory", M(uint32_t, 0x20), 0xffffffff);

	value = 0x12345678;
	__asm__ volatile("xchgl %1, %0" : "+m"(M(uint32_t, 0x20)), "+r"(value));
	check("xchg (locked by itself)", value, 0xffffffff);
	value = 5;
	__asm__ volatile("lock xaddl %1, %0" : "+m"(M(uint32_t, 0x20)), "+r"(value));
	check("lock xadd", value, 0xffffffff);

	uint32_t expected = 0xffffffff;
	value = 7;
	__asm__ volatile("lock cmpxchgl %2, %0"
			 : "+m"(M(uint32_t, 0x20)), "+a"(expected), "+r"(value), "=@ccz"(zero));
	check("lock cmpxchg that matches", zero, 1);
	expected = 0;
	__asm__ volatile("lock cmpxchgl %2, %0"
			 : "+m"(M(uint32_t, 0x20)), "+a"(expected), "+r"(value), "=@ccz"(zero));
	check("lock cmpxchg that does not", (uint64_t)zero << 32 | expected, 0xffffffff);
	__asm__ volatile("lock btsl $3, %0" : "+m"(M(uint32_t, 0x20)), "=@ccc"(carry));
	check("lock bts", carry, 1);
}

static void check_strings(void)
{
	uint8_t buffer[24] = {0};
	void *to = buffer;
	const void *from = (const void *)(mmio + 0x40);
	uint64_t count = 16;
	unsigned ones = 0;

	__asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
	for (unsigned i = 0; i < sizeof(buffer); i++)
		ones += buffer[i] == 0xff;
	check("rep movsb from a device", ones, 16);
	to = (void *)(mmio + 0x40);
	from = buffer;
	count = 3;
	__asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
	check("rep movsq to a device", count, 0);
	count = 4;
	to = (void *)(mmio + 0x40);
	__asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(0) : "memory");
	check("rep stosl", (uint64_t)to, MMIO_BASE + 0x50);
	uint64_t value = 0;
	from = (const void *)(mmio + 0x40);
	__asm__ volatile("lodsq" : "+S"(from), "=a"(value) : : "memory");
	check("lodsq", value, ONES);
	count = 8;
	to = (void *)(mmio + 0x40);
	__asm__ volatile("repne scasb" : "+D"(to), "+c"(count) : "a"(0xff) : "memory", "cc");
	check("repne scasb finds ones at once", count, 7);
	value = 0x1234;
	__asm__ volatile("pushq %1; popq %0" : "=r"(value) : "m"(M(uint64_t, 0x40)));
	check("push from a device", value, ONES);
}

void check_mmio(void)
{
	check_loads();
	check_stores();
	check_modify();
	check_strings();
}
