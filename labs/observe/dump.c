/*
 * Guest memory for the record: the ranges asked for by --dump go into FILE.mem, one piece a slot, zero pages
 * left as holes. Where a guest-physical address lies in the program is known from KVM_SET_USER_MEMORY_REGION
 * (KVM API 4.35).
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "observe.h"

#define CHUNK (64u << 10)
#define PAGE  4096u

static bool all_zero(const uint8_t *bytes, size_t length)
{
	return length == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, length - 1) == 0);
}

/* One chunk to its place in the file; true when the program's memory was there. */
static bool copy_chunk(struct session *s, uint64_t host, uint64_t offset, size_t length)
{
	static uint8_t buf[CHUNK];

	if (peek(s, host, buf, length) != length)
		return false;
	for (size_t i = 0; i < length; i += PAGE) {
		size_t part = length - i < PAGE ? length - i : PAGE;

		if (!all_zero(buf + i, part) &&
		    pwrite(s->memory, buf + i, part, (off_t)(offset + i)) != (ssize_t)part)
			s->out.failed = true;
	}
	return true;
}

static void dump_piece(struct session *s, const struct vm *vm, bool last, uint64_t gpa, uint64_t length,
		       uint64_t host)
{
	struct out *o = &s->out;
	uint64_t done = 0;

	while (done < length) {
		size_t part = length - done < CHUNK ? (size_t)(length - done) : CHUNK;

		if (!copy_chunk(s, host + done, s->memory_end + done, part))
			break;
		done += part;
	}
	if (!done)
		return;
	out_open(o, NULL, '{');
	out_text(o, "k", "dump");
	out_text(o, "when", last ? "last" : "first");
	out_u64(o, "t", since(s));
	out_u64(o, "vm", vm->index);
	out_u64(o, "gpa", gpa);
	out_u64(o, "length", done);
	out_u64(o, "offset", s->memory_end);
	out_close(o, '}');
	out_end_line(o);
	s->memory_end += done;
	if (ftruncate(s->memory, (off_t)s->memory_end) < 0)
		s->out.failed = true;
}

static void dump_part(struct session *s, const struct vm *vm, const struct slot *slot, bool last)
{
	for (unsigned i = 0; i < s->opt->dumps; i++) {
		const struct range *r = &s->opt->dump[i];
		uint64_t from = r->gpa > slot->gpa ? r->gpa : slot->gpa;
		uint64_t range_end = r->gpa + r->length, slot_end = slot->gpa + slot->size;
		uint64_t end = range_end < slot_end ? range_end : slot_end;

		if (r->last == last && from < end)
			dump_piece(s, vm, last, from, end - from, slot->host + (from - slot->gpa));
	}
}

void dump_first(struct session *s, const struct vm *vm)
{
	for (unsigned i = 0; s->memory >= 0 && i < vm->slot_count; i++)
		if (!vm->slots[i].gone)
			dump_part(s, vm, &vm->slots[i], false);
}

void dump_slot(struct session *s, const struct vm *vm, const struct slot *slot)
{
	if (s->memory >= 0 && !slot->gone)
		dump_part(s, vm, slot, true);
}

void dump_last(struct session *s)
{
	for (unsigned i = 0; i < s->state.vm_count; i++)
		for (unsigned k = 0; k < s->state.vms[i]->slot_count; k++)
			dump_slot(s, s->state.vms[i], &s->state.vms[i]->slots[k]);
}
