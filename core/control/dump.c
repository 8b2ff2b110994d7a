/*
 * A VM's memory and registers as an ELF core file. RAM is written once, slot after slot; the program headers
 * say at which addresses its parts are seen, so that aliases in the page tables cost a header and no bytes.
 * Calls the machine for registers, the memory and translate rooms. Rules: System V ABI, chapters 4 and 5 (ELF
 * header, program header, notes; PN_XNUM); Linux's elf_prstatus for x86-64; QEMU's docs on dump-guest-memory
 * for the note "QEMU".
 *
 * Layout: ELF header, program headers, notes, (one section header when there are 65535 program headers or
 * more,) and from the next page on the slots. Everything before the slots is known before the first byte is
 * written, so a pipe will do.
 */
#include "control/dump.h"

#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/procfs.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/io.h"
#include "kvm/translate.h"

/* Page tables that lead round in circles map far more than there is. These limits end the walk with a
 * sentence. */
#define RUNS_MAX  (1u << 20)
#define WALKS_MAX (1ull << 26)

#define CHUNK (1ull << 20) /* of RAM looked at for zeroes and written at once */

_Static_assert(sizeof(struct elf_prstatus) == 336, "x86-64's elf_prstatus");

/* A stretch of memory at one virtual and one physical address. */
struct run {
	uint64_t gva, gpa, size;
};

struct dump {
	struct hv_machine *m;
	const struct hv_memory *mem;
	int fd;
	bool seekable;
	struct run *runs;
	size_t run_count, run_room;
	uint8_t *notes;
	size_t notes_size;
	uint64_t data; /* where the slots start in the file */
};

/* --- runs --- */

static int add_run(struct dump *d, uint64_t gva, uint64_t gpa, uint64_t size, struct hv_error *err)
{
	struct run *last = d->run_count ? &d->runs[d->run_count - 1] : NULL;

	if (last && last->gva + last->size == gva && last->gpa + last->size == gpa) {
		last->size += size;
		return 0;
	}
	if (d->run_count == d->run_room) {
		const size_t room = d->run_room ? d->run_room * 2 : 64;
		struct run *grown;

		if (room > RUNS_MAX)
			return hv_fail(
				err, E2BIG,
				"the page tables map more than %u separate pieces; dump without paging",
				RUNS_MAX);
		grown = realloc(d->runs, room * sizeof(*grown));
		if (!grown)
			return hv_fail(err, ENOMEM, "no memory for the list of %zu mappings", room);
		d->runs = grown;
		d->run_room = room;
	}
	d->runs[d->run_count++] = (struct run){gva, gpa, size};
	return 0;
}

/* Only what lies in slots has bytes; a mapping of a device or of nothing leaves no trace. */
static int add_mapping(struct dump *d, uint64_t gva, uint64_t gpa, uint64_t size, struct hv_error *err)
{
	for (unsigned i = 0; i < d->mem->count; i++) {
		const struct hv_slot *s = &d->mem->slots[i];
		const uint64_t start = gpa > s->gpa ? gpa : s->gpa;
		const uint64_t end = gpa + size < s->gpa + s->size ? gpa + size : s->gpa + s->size;
		int rc;

		if (start >= end)
			continue;
		rc = add_run(d, gva + (start - gpa), start, end - start, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* How many bytes of address space the last entry of a walk stands for. */
static uint64_t span(const struct hv_walk *w)
{
	static const unsigned bits[][5] = {
		[HV_PAGING_32BIT] = {22, 12},
		[HV_PAGING_PAE] = {30, 21, 12},
		[HV_PAGING_4LEVEL] = {39, 30, 21, 12},
		[HV_PAGING_5LEVEL] = {48, 39, 30, 21, 12},
	};

	if (w->mapped)
		return w->page_size;
	return w->count ? 1ull << bits[w->paging][w->count - 1] : 0;
}

/* The end of the address space's lower half, and the start of its upper one; 32 bits have one piece. */
static void halves(enum hv_paging paging, uint64_t *low_end, uint64_t *high_start)
{
	const unsigned bits = paging == HV_PAGING_5LEVEL ? 57 : 48;

	*high_start = 0;
	*low_end = 1ull << 32;
	if (paging == HV_PAGING_4LEVEL || paging == HV_PAGING_5LEVEL) {
		*low_end = 1ull << (bits - 1);
		*high_start = -*low_end;
	}
}

/* Goes over the whole address space, each step as long as the entry that ends the walk: absent tables are
 * cheap. */
static int walk_all(struct dump *d, const struct kvm_sregs *sregs, struct hv_error *err)
{
	uint64_t gva = 0, low_end, high_start;
	struct hv_walk w;

	hv_translate(d->mem, sregs, 0, &w);
	halves(w.paging, &low_end, &high_start);
	for (uint64_t n = 0; n < WALKS_MAX; n++) {
		uint64_t step;
		int rc = 0;

		hv_translate(d->mem, sregs, gva, &w);
		step = span(&w);
		if (w.mapped)
			rc = add_mapping(d, gva, w.gpa, step, err);
		if (rc < 0 || step == 0) /* a CR3 that points nowhere maps nothing */
			return rc;
		gva += step;
		if (gva == low_end && high_start)
			gva = high_start;
		else if (gva == 0 || gva == low_end)
			return 0;
	}
	return hv_fail(err, E2BIG, "the page tables map more than %llu pages; dump without paging",
		       (unsigned long long)WALKS_MAX);
}

/* --- notes --- */

/* The state of a vCPU in QEMU's note, which crash reads for the control registers (format version 1). */
struct qemu_segment {
	uint32_t selector, limit, flags, pad;
	uint64_t base;
};

struct qemu_cpu {
	uint32_t version, size;
	uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
	struct qemu_segment cs, ds, es, fs, gs, ss, ldt, tr, gdt, idt;
	uint64_t cr[5];
	uint64_t kernel_gs_base;
};

_Static_assert(sizeof(struct qemu_cpu) == 440, "QEMU's CPU note");

/* A note: header, the name "CORE" or "QEMU" padded to 8 bytes, the content; all in multiples of 4. */
#define NOTE_HEAD     (sizeof(Elf64_Nhdr) + 8)
#define NOTES_PER_CPU (2 * NOTE_HEAD + sizeof(struct elf_prstatus) + sizeof(struct qemu_cpu))

static uint8_t *put_note(uint8_t *at, const char *name, uint32_t type, const void *content, size_t size)
{
	const Elf64_Nhdr head = {(Elf64_Word)strlen(name) + 1, (Elf64_Word)size, type};

	memcpy(at, &head, sizeof(head));
	memcpy(at + sizeof(head), name, strlen(name) + 1);
	memcpy(at + NOTE_HEAD, content, size);
	return at + NOTE_HEAD + size;
}

static void fill_prstatus(struct elf_prstatus *p, unsigned cpu, const struct kvm_regs *r,
			  const struct kvm_sregs *s)
{
	/* struct user_regs_struct's order */
	const uint64_t regs[27] = {
		r->r15,         r->r14,         r->r13,         r->r12,     r->rbp,     r->rbx,
		r->r11,         r->r10,         r->r9,          r->r8,      r->rax,     r->rcx,
		r->rdx,         r->rsi,         r->rdi,         r->rax,     r->rip,     s->cs.selector,
		r->rflags,      r->rsp,         s->ss.selector, s->fs.base, s->gs.base, s->ds.selector,
		s->es.selector, s->fs.selector, s->gs.selector};

	_Static_assert(sizeof(regs) == sizeof(p->pr_reg), "27 registers");
	memset(p, 0, sizeof(*p));
	p->pr_pid = (pid_t)cpu + 1;
	memcpy(&p->pr_reg, regs, sizeof(regs));
}

static struct qemu_segment qemu_segment(const struct kvm_segment *s)
{
	return (struct qemu_segment){
		.selector = s->selector,
		.limit = s->limit,
		.flags = (uint32_t)s->type << 8 | (uint32_t)s->s << 12 | (uint32_t)s->dpl << 13 |
			 (uint32_t)s->present << 15 | (uint32_t)s->avl << 20 | (uint32_t)s->l << 21 |
			 (uint32_t)s->db << 22 | (uint32_t)s->g << 23,
		.base = s->base,
	};
}

static void fill_qemu(struct qemu_cpu *q, const struct kvm_regs *r, const struct kvm_sregs *s)
{
	*q = (struct qemu_cpu){
		.version = 1,
		.size = sizeof(*q),
		.rax = r->rax,
		.rbx = r->rbx,
		.rcx = r->rcx,
		.rdx = r->rdx,
		.rsi = r->rsi,
		.rdi = r->rdi,
		.rsp = r->rsp,
		.rbp = r->rbp,
		.r8 = r->r8,
		.r9 = r->r9,
		.r10 = r->r10,
		.r11 = r->r11,
		.r12 = r->r12,
		.r13 = r->r13,
		.r14 = r->r14,
		.r15 = r->r15,
		.rip = r->rip,
		.rflags = r->rflags,
		.cs = qemu_segment(&s->cs),
		.ds = qemu_segment(&s->ds),
		.es = qemu_segment(&s->es),
		.fs = qemu_segment(&s->fs),
		.gs = qemu_segment(&s->gs),
		.ss = qemu_segment(&s->ss),
		.ldt = qemu_segment(&s->ldt),
		.tr = qemu_segment(&s->tr),
		.gdt = {.limit = s->gdt.limit, .base = s->gdt.base},
		.idt = {.limit = s->idt.limit, .base = s->idt.base},
		.cr = {s->cr0, 0, s->cr2, s->cr3, s->cr4},
	};
}

struct registers {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

static int fetch(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct registers *r = ctx;
	int rc = hv_vcpu_get_regs(vcpu, &r->regs, err);

	return rc < 0 ? rc : hv_vcpu_get_sregs(vcpu, &r->sregs, err);
}

/* All vCPUs' notes; *sregs gets what the first one translates addresses by. */
static int make_notes(struct dump *d, struct kvm_sregs *sregs, struct hv_error *err)
{
	const unsigned cpus = hv_machine_cpus(d->m);
	uint8_t *at = calloc(cpus, NOTES_PER_CPU);

	d->notes = at;
	d->notes_size = cpus * NOTES_PER_CPU;
	if (!at)
		return hv_fail(err, ENOMEM, "no memory for the notes of %u vCPUs", cpus);
	for (unsigned cpu = 0; cpu < cpus; cpu++) {
		struct elf_prstatus prstatus;
		struct qemu_cpu qemu;
		struct registers r;
		int rc = hv_machine_call(d->m, cpu, fetch, &r, err);

		if (rc < 0)
			return rc;
		if (cpu == 0)
			*sregs = r.sregs;
		fill_prstatus(&prstatus, cpu, &r.regs, &r.sregs);
		fill_qemu(&qemu, &r.regs, &r.sregs);
		at = put_note(at, "CORE", NT_PRSTATUS, &prstatus, sizeof(prstatus));
		at = put_note(at, "QEMU", 0, &qemu, sizeof(qemu));
	}
	return 0;
}

/* --- the file --- */

/* Where the byte at gpa, which is in a slot, stands in the file. */
static uint64_t file_offset(const struct dump *d, uint64_t gpa)
{
	uint64_t at = d->data;

	for (unsigned i = 0; i < d->mem->count; i++) {
		const struct hv_slot *s = &d->mem->slots[i];

		if (gpa - s->gpa < s->size)
			return at + (gpa - s->gpa);
		at += s->size;
	}
	return at;
}

static int put(struct dump *d, const void *data, size_t length, struct hv_error *err)
{
	const int rc = hv_write_full(d->fd, data, length);

	return rc < 0 ? hv_fail(err, -rc, "the dump can't be written: %s", strerror(-rc)) : 0;
}

static int put_headers(struct dump *d, struct hv_error *err)
{
	const uint64_t count = d->run_count + 1;
	const bool many = count >= PN_XNUM; /* then the number stands in the first section header */
	const uint64_t notes_at = sizeof(Elf64_Ehdr) + count * sizeof(Elf64_Phdr);
	const uint64_t section_at = notes_at + d->notes_size;
	const Elf64_Ehdr head = {
		.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
		.e_type = ET_CORE,
		.e_machine = EM_X86_64,
		.e_version = EV_CURRENT,
		.e_phoff = sizeof(Elf64_Ehdr),
		.e_ehsize = sizeof(Elf64_Ehdr),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = many ? PN_XNUM : (uint16_t)count,
		.e_shoff = many ? section_at : 0,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = many,
	};
	const Elf64_Shdr section = {.sh_info = (uint32_t)count};
	const Elf64_Phdr note = {.p_type = PT_NOTE,
				 .p_offset = notes_at,
				 .p_filesz = d->notes_size,
				 .p_memsz = d->notes_size,
				 .p_align = 4};
	static const uint8_t zeroes[HV_PAGE_SIZE];
	const uint64_t used = section_at + (many ? sizeof(section) : 0);
	int rc;

	d->data = hv_round_up(used, HV_PAGE_SIZE);
	rc = put(d, &head, sizeof(head), err);
	if (rc == 0)
		rc = put(d, &note, sizeof(note), err);
	for (size_t i = 0; rc == 0 && i < d->run_count; i++) {
		const struct run *r = &d->runs[i];
		const Elf64_Phdr load = {.p_type = PT_LOAD,
					 .p_flags = PF_R | PF_W | PF_X,
					 .p_offset = file_offset(d, r->gpa),
					 .p_vaddr = r->gva,
					 .p_paddr = r->gpa,
					 .p_filesz = r->size,
					 .p_memsz = r->size,
					 .p_align = HV_PAGE_SIZE};

		rc = put(d, &load, sizeof(load), err);
	}
	if (rc == 0)
		rc = put(d, d->notes, d->notes_size, err);
	if (rc == 0 && many)
		rc = put(d, &section, sizeof(section), err);
	return rc < 0 ? rc : put(d, zeroes, d->data - used, err);
}

static bool all_zero(const uint8_t *p, size_t length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

/* One slot. Pages of zeroes are skipped where that makes a hole; the longest stretch of others goes out at
 * once. */
static int put_slot(struct dump *d, const struct hv_slot *s, struct hv_error *err)
{
	uint64_t at = 0;

	while (at < s->size) {
		const uint8_t *p = hv_memory_at(d->mem, s->gpa + at, HV_PAGE_SIZE);
		const bool hole = d->seekable && all_zero(p, HV_PAGE_SIZE);
		uint64_t n = HV_PAGE_SIZE;
		int rc = 0;

		while (at + n < s->size && n < CHUNK &&
		       (!d->seekable || all_zero(p + n, HV_PAGE_SIZE) == hole))
			n += HV_PAGE_SIZE;
		if (!hole)
			rc = put(d, p, n, err);
		else if (lseek(d->fd, (off_t)n, SEEK_CUR) < 0)
			rc = hv_fail_errno(err, "the dump can't leave a hole");
		if (rc < 0)
			return rc;
		at += n;
	}
	return 0;
}

static int write_all(struct dump *d, bool paging, struct hv_error *err)
{
	struct kvm_sregs sregs;
	int rc = make_notes(d, &sregs, err);

	if (rc == 0 && paging)
		rc = walk_all(d, &sregs, err);
	for (unsigned i = 0; rc == 0 && !paging && i < d->mem->count; i++)
		rc = add_run(d, d->mem->slots[i].gpa, d->mem->slots[i].gpa, d->mem->slots[i].size, err);
	if (rc == 0)
		rc = put_headers(d, err);
	for (unsigned i = 0; rc == 0 && i < d->mem->count; i++)
		rc = put_slot(d, &d->mem->slots[i], err);
	if (rc < 0 || !d->seekable)
		return rc;
	/* A hole at the end needs the file's length; what stood behind it in an older file goes. */
	const off_t end = lseek(d->fd, 0, SEEK_CUR);
	if (end < 0 || ftruncate(d->fd, end) < 0)
		return hv_fail_errno(err, "the dump can't be given its length");
	return 0;
}

/* A hole reads as zeroes only where nothing has been written before: in a regular file, emptied now. */
static int prepare(struct dump *d, struct hv_error *err)
{
	struct stat st;

	if (fstat(d->fd, &st) < 0)
		return hv_fail_errno(err, "the dump's file can't be looked at");
	d->seekable = S_ISREG(st.st_mode) && lseek(d->fd, 0, SEEK_CUR) == 0;
	if (d->seekable && ftruncate(d->fd, 0) < 0)
		return hv_fail_errno(err, "the dump's file can't be emptied");
	return 0;
}

int hv_dump(struct hv_machine *m, int fd, bool paging, struct hv_error *err)
{
	const bool running = hv_machine_state(m) == HV_STATE_RUNNING;
	struct dump d = {.m = m, .mem = hv_machine_memory(m), .fd = fd};
	int rc = prepare(&d, err);

	if (rc == 0)
		rc = hv_machine_pause(m, err);
	if (rc == 0) {
		rc = write_all(&d, paging, err);
		if (running)
			hv_machine_resume(m, NULL);
	}
	free(d.runs);
	free(d.notes);
	return rc;
}
