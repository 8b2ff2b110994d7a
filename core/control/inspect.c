/*
 * Looking into a machine: the half that asks it and answers in JSON. The half that draws the answer for a
 * person is inspect_text.c. Calls the machine for vCPU state, and the memory, translate and disasm rooms for
 * the rest. Rules: SDM vol. 3A, 3.4.5 (segment descriptors), 4.5 (page-table entries); QEMU's monitor for `x`
 * and `xp`.
 *
 * The guest may run meanwhile, so every answer is a snapshot of a moment, and memory read twice may differ.
 */
#include "control/inspect.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "kvm/translate.h"
#include "machine/disasm.h"

#define STRING_MAX 256 /* bytes of one item of x/s */

static json_t *hex(uint64_t v)
{
	return json_sprintf("0x%016llx", (unsigned long long)v);
}

static json_t *hex_short(uint64_t v)
{
	return json_sprintf("0x%llx", (unsigned long long)v);
}

/* jansson's setters take NULL for a value without harm, but tell: one check at the end is enough. */
struct object {
	json_t *json;
	bool failed;
};

static void put(struct object *o, const char *key, json_t *value)
{
	if (json_object_set_new(o->json, key, value) < 0)
		o->failed = true;
}

static void append(struct object *o, json_t *array, json_t *value)
{
	if (json_array_append_new(array, value) < 0)
		o->failed = true;
}

static int finish(struct object *o, json_t **result, struct hv_error *err)
{
	if (!o->json || o->failed) {
		json_decref(o->json);
		return hv_fail(err, ENOMEM, "no memory for the answer");
	}
	*result = o->json;
	return 0;
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

static int get_registers(struct hv_machine *m, unsigned cpu, struct registers *r, struct hv_error *err)
{
	const unsigned count = hv_machine_cpus(m);

	*r = (struct registers){0};
	if (cpu >= count)
		return hv_fail(err, EINVAL, "vCPU %u does not exist: there are %u, numbered from 0", cpu,
			       count);
	return hv_machine_call(m, cpu, fetch, r, err);
}

static const char *mode_name(const struct kvm_sregs *s, uint64_t rflags)
{
	if (!(s->cr0 & 1))
		return "real";
	if (rflags & (1u << 17))
		return "virtual-8086";
	if (s->efer & (1u << 10))
		return s->cs.l ? "long" : "compatibility";
	return "protected";
}

int hv_inspect_regs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	struct object o = {json_object(), false};
	struct registers r;
	int rc = get_registers(m, cpu, &r, err);

	if (rc < 0) {
		json_decref(o.json);
		return rc;
	}
	const struct {
		const char *name;
		uint64_t value;
	} list[] = {
		{"rax", r.regs.rax}, {"rbx", r.regs.rbx},       {"rcx", r.regs.rcx}, {"rdx", r.regs.rdx},
		{"rsi", r.regs.rsi}, {"rdi", r.regs.rdi},       {"rbp", r.regs.rbp}, {"rsp", r.regs.rsp},
		{"r8", r.regs.r8},   {"r9", r.regs.r9},         {"r10", r.regs.r10}, {"r11", r.regs.r11},
		{"r12", r.regs.r12}, {"r13", r.regs.r13},       {"r14", r.regs.r14}, {"r15", r.regs.r15},
		{"rip", r.regs.rip}, {"rflags", r.regs.rflags},
	};
	put(&o, "cpu", json_integer(cpu));
	put(&o, "mode", json_string(mode_name(&r.sregs, r.regs.rflags)));
	put(&o, "cpl", json_integer(r.sregs.ss.dpl));
	for (size_t i = 0; i < HV_ARRAY_SIZE(list); i++)
		put(&o, list[i].name, hex(list[i].value));
	return finish(&o, result, err);
}

static json_t *segment(const struct kvm_segment *s)
{
	return json_pack("{s:o, s:o, s:o, s:i, s:b, s:i, s:b, s:b, s:b, s:b, s:b}", "selector",
			 hex_short(s->selector), "base", hex(s->base), "limit", hex_short(s->limit), "type",
			 s->type, "system", !s->s, "dpl", s->dpl, "present", s->present, "db", s->db, "long",
			 s->l, "granularity", s->g, "unusable", s->unusable);
}

int hv_inspect_sregs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	struct object o = {json_object(), false}, segments = {json_object(), false};
	struct registers r;
	int rc = get_registers(m, cpu, &r, err);

	if (rc < 0) {
		json_decref(o.json);
		json_decref(segments.json);
		return rc;
	}
	const struct kvm_sregs *s = &r.sregs;
	const struct {
		const char *name;
		uint64_t value;
	} list[] = {
		{"cr0", s->cr0},
		{"cr2", s->cr2},
		{"cr3", s->cr3},
		{"cr4", s->cr4},
		{"cr8", s->cr8},
		{"efer", s->efer},
		{"apic-base", s->apic_base},
	};
	const struct {
		const char *name;
		const struct kvm_segment *segment;
	} segs[] = {
		{"cs", &s->cs}, {"ss", &s->ss}, {"ds", &s->ds}, {"es", &s->es},
		{"fs", &s->fs}, {"gs", &s->gs}, {"tr", &s->tr}, {"ldt", &s->ldt},
	};
	put(&o, "cpu", json_integer(cpu));
	put(&o, "mode", json_string(mode_name(s, r.regs.rflags)));
	for (size_t i = 0; i < HV_ARRAY_SIZE(list); i++)
		put(&o, list[i].name, hex(list[i].value));
	for (size_t i = 0; i < HV_ARRAY_SIZE(segs); i++)
		put(&segments, segs[i].name, segment(segs[i].segment));
	o.failed |= segments.failed;
	put(&o, "segments", segments.json);
	put(&o, "gdt", json_pack("{s:o, s:o}", "base", hex(s->gdt.base), "limit", hex_short(s->gdt.limit)));
	put(&o, "idt", json_pack("{s:o, s:o}", "base", hex(s->idt.base), "limit", hex_short(s->idt.limit)));
	return finish(&o, result, err);
}

/* How many bytes of the slot the host keeps in its memory just now. */
static uint64_t resident(const struct hv_slot *slot)
{
	const uint64_t step = 64ull << 20;
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	unsigned char *seen = malloc(step / page);
	uint64_t pages = 0;

	for (uint64_t at = 0; seen && at < slot->size; at += step) {
		const uint64_t n = slot->size - at < step ? slot->size - at : step;

		if (mincore(slot->host + at, n, seen) < 0)
			break;
		for (uint64_t i = 0; i < n / page; i++)
			pages += seen[i] & 1;
	}
	free(seen);
	return pages * page;
}

int hv_inspect_memory(struct hv_machine *m, json_t **result, struct hv_error *err)
{
	const struct hv_memory *mem = hv_machine_memory(m);
	const struct hv_bus *bus = hv_machine_mmio(m);
	struct object o = {json_object(), false};
	json_t *slots = json_array(), *devices = json_array();

	for (unsigned i = 0; i < mem->count; i++) {
		const struct hv_slot *s = &mem->slots[i];

		append(&o, slots,
		       json_pack("{s:o, s:I, s:b, s:I}", "base", hex(s->gpa), "size", (json_int_t)s->size,
				 "readonly", s->readonly, "resident", (json_int_t)resident(s)));
	}
	for (unsigned i = 0; i < bus->count; i++) {
		const struct hv_bus_range *r = &bus->ranges[i];

		append(&o, devices,
		       json_pack("{s:o, s:I, s:s}", "base", hex(r->base), "size", (json_int_t)r->length,
				 "name", r->dev->ops->name));
	}
	put(&o, "size", json_integer((json_int_t)hv_memory_size(mem)));
	put(&o, "slots", slots);
	put(&o, "devices", devices);
	return finish(&o, result, err);
}

/* Where hv_inspect_examine reads from. */
struct source {
	const struct hv_memory *mem;
	const struct kvm_sregs *sregs;
	bool physical;
};

/* As many of count bytes as are there. */
static uint64_t read_some(const struct source *s, uint64_t addr, void *buf, uint64_t count)
{
	uint64_t done = 0;

	if (!s->physical) {
		hv_virtual_read(s->mem, s->sregs, addr, buf, count, &done);
		return done;
	}
	while (done < count) {
		uint64_t n = HV_PAGE_SIZE - (addr & (HV_PAGE_SIZE - 1));

		n = n < count - done ? n : count - done;
		if (hv_memory_read(s->mem, addr, (uint8_t *)buf + done, n) < 0)
			break;
		done += n;
		if (__builtin_add_overflow(addr, n, &addr))
			break;
	}
	return done;
}

static uint64_t examine_values(struct object *o, json_t *items, const struct source *s,
			       const struct hv_examine *what)
{
	uint64_t at = what->addr, given = 0;
	uint8_t page[HV_PAGE_SIZE];

	while (given < what->count) {
		uint64_t want = (what->count - given) * what->size;
		uint64_t got;

		want = want < sizeof(page) ? want : sizeof(page);
		got = read_some(s, at, page, want) / what->size;
		for (uint64_t i = 0; i < got; i++) {
			uint8_t raw[8] = {0};

			memcpy(raw, page + i * what->size, what->size);
			append(o, items,
			       json_sprintf("0x%0*llx", (int)what->size * 2,
					    (unsigned long long)hv_le64(raw)));
		}
		given += got;
		at += got * what->size;
		if (got * what->size < want)
			break;
	}
	return at;
}

static uint64_t examine_code(struct object *o, json_t *items, const struct source *s,
			     const struct hv_examine *what)
{
	const unsigned bits = hv_code_bits(s->sregs);
	uint64_t at = what->addr;

	for (unsigned i = 0; i < what->count; i++) {
		char text[160], bytes[2 * 15 + 1];
		uint8_t code[15];
		const uint64_t got = read_some(s, at, code, sizeof(code));
		unsigned n;

		if (got == 0)
			break;
		n = hv_disasm(code, got, at, bits, text, sizeof(text));
		n = n ? n : 1; /* go on behind a byte that is none */
		for (unsigned k = 0; k < n; k++)
			snprintf(bytes + (size_t)k * 2, 3, "%02x", code[k]);
		append(o, items,
		       json_pack("{s:o, s:s, s:s}", "address", hex(at), "bytes", bytes, "text", text));
		at += n;
	}
	return at;
}

static uint64_t examine_strings(struct object *o, json_t *items, const struct source *s,
				const struct hv_examine *what)
{
	uint64_t at = what->addr;

	for (unsigned i = 0; i < what->count; i++) {
		char text[4 * STRING_MAX + 1];
		uint8_t raw[STRING_MAX];
		const uint64_t got = read_some(s, at, raw, sizeof(raw));
		uint64_t n = 0;
		size_t length = 0;

		if (got == 0)
			break;
		text[0] = '\0';
		for (; n < got && raw[n] != 0; n++) {
			const bool plain = raw[n] >= ' ' && raw[n] < 0x7f && raw[n] != '\\' && raw[n] != '"';

			length += (size_t)snprintf(text + length, sizeof(text) - length,
						   plain ? "%c" : "\\x%02x", raw[n]);
		}
		append(o, items,
		       json_pack("{s:o, s:s, s:b}", "address", hex(at), "text", text, "cut",
				 n == STRING_MAX));
		at += n + (n < got);
	}
	return at;
}

static int examine_check(const struct hv_examine *w, struct hv_error *err)
{
	const bool value = w->format && strchr("xduoc", w->format);

	if (!value && w->format != 'i' && w->format != 's')
		return hv_fail(err, EINVAL, "format '%c' is unknown: use x, d, u, o, c, i or s",
			       w->format >= ' ' && w->format < 0x7f ? w->format : '?');
	if (value && w->size != 1 && w->size != 2 && w->size != 4 && w->size != 8)
		return hv_fail(err, EINVAL, "a value of %u bytes can't be shown: use b, h, w or g", w->size);
	if (w->count == 0 || w->count > HV_EXAMINE_COUNT_MAX)
		return hv_fail(err, EINVAL, "%u items can't be shown at once: 1 to %u can", w->count,
			       HV_EXAMINE_COUNT_MAX);
	return 0;
}

/* Why addr can't be read, for a person. */
static void explain(const struct source *s, uint64_t addr, char *text, size_t size)
{
	struct hv_walk walk;

	if (s->physical)
		snprintf(text, size, "no memory at GPA 0x%llx", (unsigned long long)addr);
	else if (hv_translate(s->mem, s->sregs, addr, &walk) < 0)
		snprintf(text, size, "GVA 0x%llx is not mapped: %s", (unsigned long long)addr, walk.why);
	else
		snprintf(text, size, "GVA 0x%llx is mapped to GPA 0x%llx, where no memory is",
			 (unsigned long long)addr, (unsigned long long)walk.gpa);
}

int hv_inspect_examine(struct hv_machine *m, const struct hv_examine *what, json_t **result,
		       struct hv_error *err)
{
	struct object o = {0};
	struct registers r;
	char why[160];
	json_t *items;
	uint64_t end;
	int rc = examine_check(what, err);

	if (rc == 0)
		rc = get_registers(m, what->cpu, &r, err);
	if (rc < 0)
		return rc;
	const struct source s = {hv_machine_memory(m), &r.sregs, what->physical};
	o.json = json_object();
	items = json_array();
	if (what->format == 'i')
		end = examine_code(&o, items, &s, what);
	else if (what->format == 's')
		end = examine_strings(&o, items, &s, what);
	else
		end = examine_values(&o, items, &s, what);
	const size_t got = json_array_size(items);
	put(&o, "address", hex(what->addr));
	put(&o, "physical", json_boolean(what->physical));
	put(&o, "format", json_sprintf("%c", what->format));
	put(&o, "size", json_integer(what->size));
	put(&o, "items", items);
	if (got < what->count) {
		explain(&s, end, why, sizeof(why));
		put(&o, "error", json_string(why));
		if (got == 0 && !o.failed) {
			json_decref(o.json);
			return hv_fail(err, EFAULT, "%s", why);
		}
	}
	return finish(&o, result, err);
}

/* The bits of a page-table entry that a person asks about. */
static json_t *entry_flags(uint64_t entry, bool leaf)
{
	char text[64];

	if (!(entry & 1))
		return json_string("not present");
	snprintf(text, sizeof(text), "P%s%s%s%s%s%s%s%s%s", entry & 2 ? " RW" : " RO",
		 entry & 4 ? " U" : " S", entry & 8 ? " PWT" : "", entry & 16 ? " PCD" : "",
		 entry & 32 ? " A" : "", leaf && entry & 64 ? " D" : "", leaf && entry & 128 ? " PS" : "",
		 leaf && entry & 256 ? " G" : "", entry >> 63 ? " NX" : "");
	return json_string(text);
}

int hv_inspect_translate(struct hv_machine *m, unsigned cpu, uint64_t gva, json_t **result,
			 struct hv_error *err)
{
	static const char *const names[] = {"none", "32-bit", "PAE", "4-level", "5-level"};
	struct object o = {0};
	struct registers r;
	struct hv_walk walk;
	json_t *steps;
	int rc = get_registers(m, cpu, &r, err);

	if (rc < 0)
		return rc;
	hv_translate(hv_machine_memory(m), &r.sregs, gva, &walk);
	o.json = json_object();
	steps = json_array();
	for (unsigned i = 0; i < walk.count; i++) {
		const struct hv_walk_step *s = &walk.steps[i];
		const bool leaf = walk.mapped && i + 1 == walk.count;

		append(&o, steps,
		       json_pack("{s:s, s:i, s:o, s:o, s:o}", "table", s->table, "index", (int)s->index,
				 "entry-address", hex(s->entry_gpa), "entry", hex(s->entry), "flags",
				 entry_flags(s->entry, leaf)));
	}
	put(&o, "cpu", json_integer(cpu));
	put(&o, "gva", hex(gva));
	put(&o, "paging", json_string(names[walk.paging]));
	put(&o, "cr3", hex(r.sregs.cr3));
	put(&o, "steps", steps);
	put(&o, "mapped", json_boolean(walk.mapped));
	if (walk.mapped) {
		put(&o, "gpa", hex(walk.gpa));
		put(&o, "page-size", json_integer((json_int_t)walk.page_size));
		put(&o, "writable", json_boolean(walk.writable));
		put(&o, "user", json_boolean(walk.user));
		put(&o, "executable", json_boolean(walk.executable));
		put(&o, "memory", json_boolean(hv_memory_at(hv_machine_memory(m), walk.gpa, 1) != NULL));
	} else {
		put(&o, "why", json_string(walk.why));
	}
	return finish(&o, result, err);
}
