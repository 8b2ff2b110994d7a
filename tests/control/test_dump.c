/*
 * The core file, looked at as bytes. That gdb opens it shows tests/e2e/dump_gdb.sh.
 */
#include <criterion/criterion.h>
#include <elf.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "control/dump.h"
#include "fixture.h"

#define PTE_FLAGS 0x3u

static struct test_vm vm;

static void setup(void)
{
	alarm(60);
	test_vm_make(&vm, 2);
	cr_assert_eq(hv_machine_start(vm.machine, false, NULL), 0);
}

static void teardown(void)
{
	test_vm_end(&vm);
	alarm(0);
}

TestSuite(dump, .init = setup, .fini = teardown);

static uint8_t *load(int fd, size_t *size)
{
	struct stat st;
	uint8_t *bytes;

	cr_assert_eq(fstat(fd, &st), 0);
	*size = (size_t)st.st_size;
	bytes = malloc(*size);
	cr_assert_eq(pread(fd, bytes, *size, 0), (ssize_t)*size);
	return bytes;
}

static Elf64_Phdr header(const uint8_t *file, unsigned i)
{
	Elf64_Phdr p;

	memcpy(&p, file + sizeof(Elf64_Ehdr) + i * sizeof(p), sizeof(p));
	return p;
}

/* The first note of vCPU cpu: prstatus, then QEMU's, stand one after the other. */
static struct elf_prstatus prstatus(const uint8_t *file, unsigned cpu)
{
	const Elf64_Phdr note = header(file, 0);
	struct elf_prstatus p;

	memcpy(&p, file + note.p_offset + cpu * (note.p_filesz / 2) + 20, sizeof(p));
	return p;
}

Test(dump, without_paging_ram_is_where_the_machine_has_it)
{
	const int fd = memfd_create("core", 0);
	struct hv_error err = {0};
	struct stat st;
	Elf64_Ehdr head;
	Elf64_Phdr note, ram;
	uint8_t *file;
	size_t size;

	cr_assert_eq(hv_memory_write(hv_machine_memory(vm.machine), 0x81234, "hello", 5), 0);
	cr_assert_eq(hv_dump(vm.machine, fd, false, &err), 0, "%s", err.text);
	cr_expect_eq(hv_machine_state(vm.machine), HV_STATE_RUNNING, "it goes on");
	file = load(fd, &size);
	memcpy(&head, file, sizeof(head));
	cr_expect_eq(memcmp(head.e_ident, ELFMAG, SELFMAG), 0);
	cr_expect(head.e_type == ET_CORE && head.e_machine == EM_X86_64);
	cr_assert_eq(head.e_phnum, 2);
	note = header(file, 0);
	ram = header(file, 1);
	cr_expect_eq(note.p_type, (Elf64_Word)PT_NOTE);
	cr_expect(ram.p_type == PT_LOAD && ram.p_vaddr == 0 && ram.p_paddr == 0 && ram.p_filesz == 1 << 20);
	cr_expect_eq(ram.p_offset + ram.p_filesz, size);
	cr_expect_eq(memcmp(file + ram.p_offset + 0x81234, "hello", 5), 0);
	cr_expect_eq(prstatus(file, 0).pr_pid, 1);
	cr_expect_eq(prstatus(file, 1).pr_pid, 2);
	cr_assert_eq(fstat(fd, &st), 0);
	cr_expect_lt(st.st_blocks * 512, 1 << 19, "pages of zeroes are holes");
	free(file);
	close(fd);
}

static int read_rip(struct hv_vcpu *vcpu, void *out, struct hv_error *err)
{
	struct kvm_regs regs;
	int rc = hv_vcpu_get_regs(vcpu, &regs, err);

	*(uint64_t *)out = regs.rip;
	return rc;
}

Test(dump, a_paused_machine_stays_paused_and_its_registers_are_there)
{
	const int fd = memfd_create("core", 0);
	uint64_t rip;
	uint8_t *file;
	size_t size;

	cr_assert_eq(hv_machine_pause(vm.machine, NULL), 0);
	cr_assert_eq(hv_machine_call(vm.machine, 0, read_rip, &rip, NULL), 0);
	cr_assert_eq(hv_dump(vm.machine, fd, false, NULL), 0);
	cr_expect_eq(hv_machine_state(vm.machine), HV_STATE_PAUSED);
	file = load(fd, &size);
	cr_expect_eq(prstatus(file, 0).pr_reg[16], rip);
	free(file);
	close(fd);
}

static void entry(uint64_t table, unsigned index, uint64_t value)
{
	uint8_t raw[8];

	hv_put_le64(raw, value);
	cr_assert_eq(hv_memory_write(hv_machine_memory(vm.machine), table + index * 8u, raw, 8), 0);
}

static int enter_long_mode(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct kvm_sregs s;
	int rc = hv_vcpu_get_sregs(vcpu, &s, err);

	s.cr0 |= 0x80000001u;
	s.cr3 = *(uint64_t *)ctx;
	s.cr4 |= 1u << 5;
	s.efer |= 0x500;
	s.cs = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
	s.ss = (struct kvm_segment){
		.limit = 0xffffffff, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};
	s.tr = (struct kvm_segment){.limit = 0x67, .type = 11, .present = 1};
	return rc < 0 ? rc : hv_vcpu_set_sregs(vcpu, &s, err);
}

static void long_mode(uint64_t cr3)
{
	struct hv_error err = {0};

	cr_assert_eq(hv_machine_pause(vm.machine, NULL), 0);
	cr_assert_eq(hv_machine_call(vm.machine, 0, enter_long_mode, &cr3, &err), 0, "%s", err.text);
}

Test(dump, with_paging_headers_follow_the_tables_and_neighbours_are_one)
{
	const int fd = memfd_create("core", 0);
	struct hv_error err = {0};
	Elf64_Ehdr head;
	uint8_t *file;
	size_t size;

	/* At -2 GiB: two pages in a row, one elsewhere, a device; and all of RAM at 0 by one large page. */
	entry(0x40000, 0, 0x41000 | PTE_FLAGS);
	entry(0x41000, 0, 0x42000 | PTE_FLAGS);
	entry(0x42000, 0, 0x80 | PTE_FLAGS);
	entry(0x40000, 511, 0x43000 | PTE_FLAGS);
	entry(0x43000, 510, 0x44000 | PTE_FLAGS);
	entry(0x44000, 0, 0x45000 | PTE_FLAGS);
	entry(0x45000, 0, 0x80000 | PTE_FLAGS);
	entry(0x45000, 1, 0x81000 | PTE_FLAGS);
	entry(0x45000, 2, 0x90000 | PTE_FLAGS);
	entry(0x45000, 3, 0xfee00000 | PTE_FLAGS);
	cr_assert_eq(hv_memory_write(hv_machine_memory(vm.machine), 0x90010, "here", 4), 0);
	long_mode(0x40000);
	cr_assert_eq(hv_dump(vm.machine, fd, true, &err), 0, "%s", err.text);
	file = load(fd, &size);
	memcpy(&head, file, sizeof(head));
	cr_assert_eq(head.e_phnum, 4);
	const Elf64_Phdr identity = header(file, 1), pair = header(file, 2), single = header(file, 3);
	cr_expect(identity.p_vaddr == 0 && identity.p_paddr == 0 && identity.p_filesz == 1 << 20,
		  "cut to RAM");
	cr_expect(pair.p_vaddr == 0xffffffff80000000ull && pair.p_paddr == 0x80000 &&
		  pair.p_filesz == 0x2000);
	cr_expect(single.p_vaddr == 0xffffffff80002000ull && single.p_paddr == 0x90000 &&
		  single.p_filesz == 0x1000);
	cr_expect_eq(memcmp(file + single.p_offset + 0x10, "here", 4), 0);
	cr_expect_lt(size, (1u << 20) + 65536u, "aliases cost no bytes");
	free(file);
	close(fd);
}

Test(dump, tables_in_a_circle_end_with_a_sentence_or_a_file)
{
	const int fd = memfd_create("core", 0);
	struct hv_error err = {0};

	/* Every entry leads back to the table: 2^36 pages. */
	for (unsigned i = 0; i < 512; i++)
		entry(0x40000, i, 0x40000 | PTE_FLAGS);
	long_mode(0x40000);
	cr_expect_eq(hv_dump(vm.machine, fd, true, &err), -E2BIG);
	cr_expect(strstr(err.text, "dump without paging"));
	cr_expect_eq(hv_machine_state(vm.machine), HV_STATE_PAUSED);
	close(fd);
}

struct drain {
	int fd;
	size_t count;
};

static void *drain(void *ctx)
{
	struct drain *d = ctx;
	char bytes[65536];
	ssize_t n;

	while ((n = read(d->fd, bytes, sizeof(bytes))) > 0)
		d->count += (size_t)n;
	return NULL;
}

Test(dump, a_pipe_takes_it_too)
{
	struct hv_error err = {0};
	struct drain d = {0};
	pthread_t thread;
	int ends[2];

	cr_assert_eq(pipe(ends), 0);
	d.fd = ends[0];
	cr_assert_eq(pthread_create(&thread, NULL, drain, &d), 0);
	cr_expect_eq(hv_dump(vm.machine, ends[1], false, &err), 0, "%s", err.text);
	close(ends[1]);
	pthread_join(thread, NULL);
	cr_expect_geq(d.count, 1u << 20);
	close(ends[0]);
}

Test(dump, a_full_disk_is_told_and_the_machine_goes_on)
{
	const int fd = open("/dev/full", O_WRONLY);
	struct hv_error err = {0};

	cr_assert_geq(fd, 0);
	cr_expect_eq(hv_dump(vm.machine, fd, false, &err), -ENOSPC);
	cr_expect_neq(err.text[0], '\0');
	cr_expect_eq(hv_machine_state(vm.machine), HV_STATE_RUNNING);
	close(fd);
}
