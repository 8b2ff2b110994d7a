/*
 * The description while it is being read: its memory, bounded and freed at once, and its lists. Strings go
 * through hv_appliance_keep, so that nobody who shows them is steered by them.
 */
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/appliance/appliance_impl.h"
#include "disk/format.h"

#define TEXT_MAX 4096 /* bytes of one string */

/* --- memory --- */

struct hv_appliance_block {
	struct hv_appliance_block *next;
	max_align_t data[];
};

void *hv_appliance_alloc(struct hv_appliance *a, size_t size)
{
	struct hv_appliance_block *b;

	if (size > HV_APPLIANCE_KEEP_MAX || a->kept > HV_APPLIANCE_KEEP_MAX - size) {
		a->kept = HV_APPLIANCE_KEEP_MAX + 1;
		return NULL;
	}
	b = calloc(1, sizeof(*b) + size);
	if (!b) {
		a->kept = HV_APPLIANCE_KEEP_MAX + 1;
		return NULL;
	}
	a->kept += size + sizeof(*b);
	b->next = a->memory;
	a->memory = b;
	return b->data;
}

void hv_appliance_free_all(struct hv_appliance *a)
{
	for (struct hv_appliance_block *b = a->memory, *next; b; b = next) {
		next = b->next;
		free(b);
	}
	a->memory = NULL;
}

char *hv_appliance_copy(struct hv_appliance *a, const char *text, size_t length)
{
	char *copy = hv_appliance_alloc(a, length + 1);

	if (copy)
		memcpy(copy, text, length);
	return copy;
}

/* The length of the UTF-8 sequence at p, whose code point *point is; 0 when there is none. p ends with a zero
 * byte, which is no continuation. */
static unsigned sequence(const unsigned char *p, uint32_t *point)
{
	static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
	unsigned n = *p < 0x80                 ? 1
		     : *p >= 0xc2 && *p < 0xe0 ? 2
		     : *p >= 0xe0 && *p < 0xf0 ? 3
		     : *p >= 0xf0 && *p < 0xf5 ? 4
					       : 0;

	*point = n == 1 ? *p : *p & (0x7fU >> n);
	for (unsigned i = 1; i < n; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		*point = *point << 6 | (p[i] & 0x3f);
	}
	if (n && (*point < least[n] || *point > 0x10ffff || (*point >= 0xd800 && *point < 0xe000)))
		return 0;
	return n;
}

/* Steers a terminal, or turns the direction in which the rest is shown. */
static bool steers(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c < 0x2010) ||
	       (c >= 0x2028 && c < 0x202f) || (c >= 0x2060 && c < 0x2070) || c == 0xfeff;
}

const char *hv_appliance_keep(struct hv_appliance *a, const char *text)
{
	size_t length = text ? strnlen(text, TEXT_MAX) : 0, n = 0;
	const unsigned char *p = (const unsigned char *)text, *end;
	char *copy = text ? hv_appliance_alloc(a, length + 1) : NULL;

	if (!copy)
		return NULL;
	end = p + length;
	while (p < end) {
		uint32_t point;
		unsigned used = sequence(p, &point);

		if (!used || used > (size_t)(end - p) || steers(point)) {
			copy[n++] = '?';
			p += used && used <= (size_t)(end - p) ? used : 1;
			continue;
		}
		memcpy(copy + n, p, used);
		n += used;
		p += used;
	}
	copy[n] = '\0';
	return copy;
}

const char *hv_appliance_format(struct hv_appliance *a, const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return hv_appliance_keep(a, text);
}

/* Room for one more in a list that lives in the appliance's memory: doubling keeps what is left behind small.
 */
static void *grow(struct hv_appliance *a, void *list, unsigned count, unsigned *room, size_t size)
{
	unsigned more = *room ? 2 * *room : 4;
	void *grown;

	if (count < *room)
		return list;
	grown = hv_appliance_alloc(a, more * size);
	if (!grown)
		return NULL;
	if (*room)
		memcpy(grown, list, *room * size);
	*room = more;
	return grown;
}

static int too_many(const struct hv_appliance *a, unsigned most, const char *what, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: it describes more than %u %s", a->path, most, what);
}

int hv_appliance_too_big(const struct hv_appliance *a, struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: its description takes more than %u MiB, more than any real machine's",
			      a->path, HV_APPLIANCE_KEEP_MAX >> 20);
}

int hv_appliance_note(struct hv_appliance *a, const char *fmt, ...)
{
	char text[TEXT_MAX];
	const char **grown;
	va_list ap;

	if (a->notes >= HV_APPLIANCE_NOTES_MAX)
		return 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	for (unsigned i = 0; i < a->notes; i++)
		if (!strcmp(a->note[i], text))
			return 0;                                                /* said already */
	grown = grow(a, a->note, a->notes + 1, &a->note_room, sizeof(*a->note)); /* a NULL stays behind it */
	if (!grown)
		return -ENOMEM;
	a->note = grown;
	a->note[a->notes] = hv_appliance_keep(a, text);
	if (!a->note[a->notes])
		return -ENOMEM;
	a->note[++a->notes] = NULL;
	return 0;
}

/* --- lists --- */

struct hv_appliance_machine *hv_appliance_add_machine(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_machine *grown;

	if (a->machines == HV_APPLIANCE_VMS_MAX) {
		too_many(a, HV_APPLIANCE_VMS_MAX, "machines", err);
		return NULL;
	}
	grown = grow(a, a->machine, a->machines, &a->machine_room, sizeof(*grown));
	if (!grown) {
		hv_appliance_too_big(a, err);
		return NULL;
	}
	a->machine = grown;
	return &a->machine[a->machines++];
}

struct hv_appliance_drive *hv_appliance_add_drive(struct hv_appliance *a, struct hv_appliance_machine *m,
						  struct hv_error *err)
{
	struct hv_appliance_drive *grown;

	if (m->vm.drives == HV_APPLIANCE_DRIVES_MAX) {
		too_many(a, HV_APPLIANCE_DRIVES_MAX, "drives of one machine", err);
		return NULL;
	}
	grown = grow(a, m->drive, m->vm.drives, &m->drive_room, sizeof(*grown));
	if (!grown) {
		hv_appliance_too_big(a, err);
		return NULL;
	}
	m->drive = grown;
	m->vm.drive = grown;
	return &m->drive[m->vm.drives++];
}

struct hv_appliance_nic *hv_appliance_add_nic(struct hv_appliance *a, struct hv_appliance_machine *m,
					      struct hv_error *err)
{
	struct hv_appliance_nic *grown;

	if (m->vm.nics == HV_APPLIANCE_NICS_MAX) {
		too_many(a, HV_APPLIANCE_NICS_MAX, "network cards of one machine", err);
		return NULL;
	}
	grown = grow(a, m->nic, m->vm.nics, &m->nic_room, sizeof(*grown));
	if (!grown) {
		hv_appliance_too_big(a, err);
		return NULL;
	}
	m->nic = grown;
	m->vm.nic = grown;
	return &m->nic[m->vm.nics++];
}

struct hv_appliance_file *hv_appliance_add_file(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_file *grown;

	if (a->files == HV_APPLIANCE_FILES_MAX) {
		too_many(a, HV_APPLIANCE_FILES_MAX, "files", err);
		return NULL;
	}
	grown = grow(a, a->file, a->files, &a->file_room, sizeof(*grown));
	if (!grown) {
		hv_appliance_too_big(a, err);
		return NULL;
	}
	a->file = grown;
	return &a->file[a->files++];
}

struct hv_appliance_digest *hv_appliance_add_digest(struct hv_appliance *a, struct hv_error *err)
{
	struct hv_appliance_digest *grown;

	if (a->digests == HV_APPLIANCE_FILES_MAX) {
		too_many(a, HV_APPLIANCE_FILES_MAX, "lines of a manifest", err);
		return NULL;
	}
	grown = grow(a, a->digest, a->digests, &a->digest_room, sizeof(*grown));
	if (!grown) {
		hv_appliance_too_big(a, err);
		return NULL;
	}
	a->digest = grown;
	return &a->digest[a->digests++];
}

int hv_appliance_add_other(struct hv_appliance *a, struct hv_appliance_machine *m, struct hv_error *err,
			   const char *fmt, ...)
{
	char text[TEXT_MAX];
	const char **grown;
	va_list ap;

	if (m->others >= HV_APPLIANCE_NOTES_MAX)
		return 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	grown = grow(a, m->other, m->others + 1, &m->other_room, sizeof(*m->other));
	if (!grown)
		return hv_appliance_too_big(a, err);
	m->other = grown;
	m->other[m->others] = hv_appliance_keep(a, text);
	if (!m->other[m->others])
		return hv_appliance_too_big(a, err);
	m->other[++m->others] = NULL;
	return 0;
}

const char *hv_appliance_mac(struct hv_appliance *a, const char *text)
{
	char digits[12];
	unsigned n = 0;
	bool any = false;

	for (const char *p = text ? text : ""; *p; p++) {
		if (*p == ':' || *p == '-' || *p == '.' || *p == ' ')
			continue;
		if (!isxdigit((unsigned char)*p) || n == sizeof(digits))
			return NULL;
		any = any || *p != '0';
		digits[n++] = (char)tolower((unsigned char)*p);
	}
	if (n != sizeof(digits) || !any)
		return NULL;
	return hv_appliance_format(a, "%.2s:%.2s:%.2s:%.2s:%.2s:%.2s", digits, digits + 2, digits + 4,
				   digits + 6, digits + 8, digits + 10);
}

void hv_appliance_trouble(struct hv_appliance *a, struct hv_appliance_drive *d, enum hv_drive_trouble trouble,
			  const char *fmt, ...)
{
	char text[TEXT_MAX];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	d->trouble = trouble;
	d->why = hv_appliance_keep(a, text);
	d->path = NULL;
}
