/*
 * From an OVF envelope's parts to machines: items to processors, memory, controllers, drives and network
 * cards; drives over DiskSection and References to files. Resource types: CIM_ResourceAllocationSettingData
 * (DSP8041's ResourceType). An address in an envelope is a number in a text.
 */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "disk/format.h"
#include "disk/appliance/ovf_impl.h"

enum resource {
	R_CPU = 3,
	R_MEMORY = 4,
	R_IDE = 5,
	R_SCSI = 6,
	R_ETHERNET = 10,
	R_FLOPPY = 14,
	R_CD = 15,
	R_DVD = 16,
	R_DISK = 17,
	R_STORAGE = 20, /* SATA or NVMe */
	R_SERIAL = 21,
	R_PARALLEL = 22,
	R_USB = 23,
	R_GRAPHICS = 24,
};

/* --- units --- */

static uint64_t power(uint64_t base, uint64_t exponent)
{
	uint64_t n = 1;

	if (exponent > 63)
		return 0;
	for (; exponent > 0; exponent--)
		if (__builtin_mul_overflow(n, base, &n))
			return 0;
	return n;
}

bool hv_ovf_units(const char *text, uint64_t *unit)
{
	static const struct {
		const char *word;
		unsigned shift;
	} words[] = {
		{"byte", 0},   {"bytes", 0}, {"kilobytes", 10}, {"kilobyte", 10}, {"kb", 10},
		{"kbyte", 10}, {"kib", 10},  {"megabytes", 20}, {"megabyte", 20}, {"mb", 20},
		{"mbyte", 20}, {"mib", 20},  {"gigabytes", 30}, {"gigabyte", 30}, {"gb", 30},
		{"gbyte", 30}, {"gib", 30},  {"terabytes", 40}, {"terabyte", 40}, {"tb", 40},
	};
	char plain[64];
	unsigned long long base, exponent;
	unsigned n = 0;
	int end = 0;

	for (; *text && n < sizeof(plain) - 1; text++)
		if (!isspace((unsigned char)*text))
			plain[n++] = (char)tolower((unsigned char)*text);
	plain[n] = '\0';
	for (unsigned i = 0; i < HV_ARRAY_SIZE(words); i++) {
		if (!strcmp(plain, words[i].word)) {
			*unit = 1ULL << words[i].shift;
			return true;
		}
	}
	if (sscanf(plain, "byte*%4llu^%2llu%n", &base, &exponent, &end) != 2 || (size_t)end != n)
		return false;
	*unit = power(base, exponent);
	return *unit != 0;
}

/* quantity in units, bytes; usual when units are not said. 0 when it is no number (a property's "${...}"). */
static int sized(struct hv_ovf *o, const char *what, const char *quantity, const char *units, uint64_t usual,
		 uint64_t *bytes, uint64_t *unit)
{
	uint64_t n;

	*bytes = 0;
	*unit = usual;
	if (units && !hv_ovf_units(units, unit)) {
		*unit = usual;
		return hv_appliance_note(o->a, "%s: %s is said in '%.60s', which is no unit known here",
					 o->path, what, units)
			       ? hv_fail(o->err, ENOMEM, "%s: no memory for a note", o->path)
			       : 0;
	}
	if (!quantity || !hv_keys_number(quantity, UINT64_MAX, &n))
		return 0;
	if (__builtin_mul_overflow(n, *unit, bytes) || *bytes > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(o->err,
				      "%s: %s is said to be %.40s times %llu bytes, more than there can be",
				      o->path, what, quantity, (unsigned long long)*unit);
	return 0;
}

/* --- files --- */

static int no_room(struct hv_ovf *o)
{
	return hv_fail(o->err, ENOMEM, "%s: no memory to read it", o->path);
}

static struct hv_ovf_file *file_of(struct hv_ovf *o, const char *id)
{
	for (unsigned i = 0; i < o->files; i++)
		if (o->file[i].id && !strcmp(o->file[i].id, id))
			return &o->file[i];
	return NULL;
}

static struct hv_ovf_disk *disk_of(struct hv_ovf *o, const char *id)
{
	for (unsigned i = 0; i < o->disks; i++)
		if (o->disk[i].id && !strcmp(o->disk[i].id, id))
			return &o->disk[i];
	return NULL;
}

/* "%20" and the like, as a reference is a URI by the letter; in place. */
static void unquote(char *text)
{
	char *out = text;

	for (; *text; text++) {
		unsigned byte;

		if (*text == '%' && isxdigit((unsigned char)text[1]) && isxdigit((unsigned char)text[2]) &&
		    sscanf(text + 1, "%2x", &byte) == 1 && byte) {
			*out++ = (char)byte;
			text += 2;
		} else {
			*out++ = *text;
		}
	}
	*out = '\0';
}

static void in_archive(struct hv_ovf *o, struct hv_appliance_drive *d, const char *href, const char *plain)
{
	struct hv_appliance_file *f = hv_appliance_file_named(o->a, href);

	f = f ? f : hv_appliance_file_named(o->a, plain);
	if (!f) {
		hv_appliance_trouble(o->a, d, HV_DRIVE_MISSING, "%s: its member %s is missing", o->a->path,
				     href);
		return;
	}
	d->path = o->a->archive_path;
	d->at = f->at;
	d->length = f->length;
	if (f->length == 0)
		hv_appliance_trouble(o->a, d, HV_DRIVE_MISSING, "%s: its member %s is empty", o->a->path,
				     href);
}

/* The appliance's files are those that its references name: what of them the manifest has not, is told. */
static int list_file(struct hv_ovf *o, const char *plain)
{
	struct hv_appliance_file *f;

	if (hv_appliance_file_named(o->a, plain))
		return 0;
	f = hv_appliance_add_file(o->a, o->err);
	if (!f)
		return o->err->code;
	f->name = hv_appliance_keep(o->a, plain);
	return f->name ? 0 : hv_fail(o->err, ENOMEM, "%s: no memory to read it", o->path);
}

static int beside(struct hv_ovf *o, struct hv_appliance_drive *d, const char *href, const char *plain)
{
	int rc = hv_appliance_find(o->a, d, o->a->folder, href, o->err);
	const char *why = d->why;

	if (!rc)
		rc = list_file(o, plain);
	if (!rc && d->trouble == HV_DRIVE_MISSING && strcmp(href, plain) != 0) {
		rc = hv_appliance_find(o->a, d, o->a->folder, plain, o->err);
		d->why = d->trouble ? why : NULL;
	}
	return rc;
}

/* What a reference may say that is known and not read here: the sentence's middle, or NULL. */
static const char *not_here(const struct hv_ovf_file *f)
{
	if (f->compression && *f->compression && strcasecmp(f->compression, "identity") != 0 &&
	    strcasecmp(f->compression, "gzip") != 0)
		return "is compressed as a whole by another means than gzip; unpack it and take the "
		       "attribute "
		       "'compression' away";
	if (strstr(f->href, "://"))
		return "lies on another host; fetch it first";
	return NULL;
}

static int compare_size(struct hv_ovf *o, const struct hv_ovf_file *f, const struct hv_appliance_drive *d)
{
	uint64_t said;

	if (!d->length || !hv_keys_number(f->size, UINT64_MAX, &said) || said == d->length)
		return 0;
	return hv_appliance_note(o->a, "%s: the envelope says that %s has %llu bytes; it has %llu", o->path,
				 f->href, (unsigned long long)said, (unsigned long long)d->length);
}

/* --- files in pieces --- */

#define PIECES_MAX 4096
#define PIECE_NAME ".%09u"

struct pieces {
	struct hv_ovf *o;
	const struct hv_ovf_file *file;
	const char *plain; /* their names without the number */
	char *first;       /* beside an envelope: where the first of them is, without the number; owned */
	struct hv_appliance_part *part;
	unsigned count;
	uint64_t size, total; /* bytes of each but the last, which may be shorter; of all */
};

/* Where the piece of that number is. 0 with p->length 0: there is none. */
static int find_piece(struct pieces *s, unsigned number, struct hv_appliance_part *p)
{
	struct hv_appliance *a = s->o->a;
	const char *name = hv_appliance_format(a, "%s" PIECE_NAME, s->plain, number);
	const struct hv_appliance_file *f;
	enum hv_drive_trouble trouble;
	struct stat st;
	int rc = 0;

	p->length = 0;
	if (!name)
		return no_room(s->o);
	if (a->archive) {
		f = hv_appliance_file_named(a, name);
		if (f)
			*p = (struct hv_appliance_part){a->archive_path, f->at, f->length};
		return 0;
	}
	if (number == 0)
		rc = hv_appliance_find_file(a, a->folder, name, &trouble, &p->path, s->o->err);
	else
		p->path = hv_appliance_format(a, "%s" PIECE_NAME, s->first, number);
	if (rc || (number == 0 && trouble))
		return rc;
	if (!p->path)
		return no_room(s->o);
	if (lstat(p->path, &st) || !S_ISREG(st.st_mode))
		return 0;
	p->length = (uint64_t)st.st_size;
	if (number == 0)
		s->first = strndup(p->path, strlen(p->path) - strlen(".000000000"));
	return number == 0 && !s->first ? no_room(s->o) : list_file(s->o, name);
}

static int find_pieces(struct pieces *s)
{
	int rc = 0;

	while (s->count < PIECES_MAX) {
		rc = find_piece(s, s->count, &s->part[s->count]);
		if (rc || s->part[s->count].length == 0)
			break;
		s->total += s->part[s->count++].length;
	}
	return rc;
}

/* Pieces of other lengths are not those that the envelope means, or one of them is missing. */
static int check_pieces(struct pieces *s, struct hv_appliance_drive *d)
{
	struct hv_ovf *o = s->o;
	uint64_t said;

	for (unsigned i = 0; i < s->count; i++) {
		if (s->part[i].length == s->size || (i == s->count - 1 && s->part[i].length < s->size))
			continue;
		hv_appliance_trouble(o->a, d, HV_DRIVE_MISSING,
				     "%s: piece %u of its file %s has %llu bytes; chunkSize says %llu",
				     o->path, i, s->plain, (unsigned long long)s->part[i].length,
				     (unsigned long long)s->size);
		return 0;
	}
	if (!hv_keys_number(s->file->size, UINT64_MAX, &said))
		return hv_appliance_note(
			       o->a,
			       "%s: the envelope doesn't say how large %s is: nothing tells whether "
			       "its last pieces are missing",
			       o->path, s->plain)
			       ? no_room(o)
			       : 0;
	if (said != s->total)
		hv_appliance_trouble(
			o->a, d, HV_DRIVE_MISSING,
			"%s: the %u pieces of its file %s have %llu bytes together; the envelope says "
			"%llu: one is missing",
			o->path, s->count, s->plain, (unsigned long long)s->total, (unsigned long long)said);
	return 0;
}

/* Sets d->part when the file is there in pieces; else it may be there as one all the same. */
static int in_pieces(struct hv_ovf *o, struct hv_appliance_drive *d, const struct hv_ovf_file *f,
		     const char *plain)
{
	struct pieces s = {.o = o, .file = f, .plain = plain};
	int rc = 0;

	if (!hv_keys_number(f->chunk, INT64_MAX, &s.size) || s.size == 0) {
		hv_appliance_trouble(o->a, d, HV_DRIVE_UNSUPPORTED,
				     "%s: its file %s has pieces of '%.40s' bytes", o->path, f->href,
				     f->chunk);
		return 0;
	}
	s.part = calloc(PIECES_MAX + 1, sizeof(*s.part));
	if (!s.part)
		return no_room(o);
	rc = find_pieces(&s);
	if (!rc && s.count) {
		struct hv_appliance_part *kept = hv_appliance_alloc(o->a, s.count * sizeof(*kept));

		if (kept)
			memcpy(kept, s.part, s.count * sizeof(*kept));
		d->part = kept;
		d->parts = s.count;
		d->path = s.part[0].path;
		rc = kept ? check_pieces(&s, d) : no_room(o);
	}
	free(s.first);
	free(s.part);
	return rc;
}

/* A file that is only compressed is one piece. */
static int as_piece(struct hv_ovf *o, struct hv_appliance_drive *d)
{
	struct hv_appliance_part *p;
	struct stat st;

	if (!d->length && stat(d->path, &st))
		return hv_fail_errno(o->err, "%s: cannot look at it", d->path);
	p = hv_appliance_alloc(o->a, sizeof(*p));
	if (!p)
		return no_room(o);
	*p = (struct hv_appliance_part){d->path, d->at, d->length ? d->length : (uint64_t)st.st_size};
	d->part = p;
	d->parts = 1;
	return 0;
}

static int as_one(struct hv_ovf *o, struct hv_appliance_drive *d, const struct hv_ovf_file *f,
		  const char *plain)
{
	int rc = 0;

	if (o->a->archive)
		in_archive(o, d, f->href, plain);
	else
		rc = beside(o, d, f->href, plain);
	if (!rc && compare_size(o, f, d))
		rc = no_room(o);
	return rc;
}

static int find_plain(struct hv_ovf *o, struct hv_appliance_drive *d, const struct hv_ovf_file *f,
		      const char *plain)
{
	int rc = f->chunk ? in_pieces(o, d, f, plain) : 0;

	if (!rc && !d->parts && !d->trouble)
		rc = as_one(o, d, f, plain);
	if (!rc && d->trouble)
		d->path = NULL;
	d->gzip = f->compression && !strcasecmp(f->compression, "gzip");
	return !rc && d->gzip && !d->parts && !d->trouble ? as_piece(o, d) : rc;
}

static int find_file(struct hv_ovf *o, struct hv_appliance_drive *d, const char *id)
{
	struct hv_ovf_file *f = file_of(o, id);
	char *plain;
	int rc = 0;

	if (!f || !f->href) {
		d->file = id;
		hv_appliance_trouble(o->a, d, HV_DRIVE_MISSING, "%s: the envelope has no reference '%s'",
				     o->path, id);
		return 0;
	}
	d->file = f->href;
	if (not_here(f)) {
		hv_appliance_trouble(o->a, d, HV_DRIVE_UNSUPPORTED, "%s: its file %s %s", o->a->path, f->href,
				     not_here(f));
		return 0;
	}
	plain = strdup(f->href);
	if (!plain)
		return hv_fail(o->err, ENOMEM, "%s: no memory to read it", o->path);
	unquote(plain);
	rc = find_plain(o, d, f, plain);
	free(plain);
	return rc;
}

static int use_disk(struct hv_ovf *o, struct hv_appliance_drive *d, struct hv_ovf_disk *disk)
{
	int rc = sized(o, "a disk's capacity", disk->capacity, disk->units, 1, &d->capacity, &d->unit);

	disk->used = true;
	if (!rc && disk->file)
		rc = find_file(o, d, disk->file);
	if (rc)
		return rc;
	if (disk->parent)
		hv_appliance_trouble(
			o->a, d, HV_DRIVE_UNSUPPORTED,
			"%s: its disk %s holds only the changes to another (parentRef %s); export "
			"the machine without snapshots",
			o->a->path, d->file ? d->file : "", disk->parent);
	return 0;
}

/* "ovf:/disk/vmdisk1", "/disk/vmdisk1", "ovf:/file/file1"; 0.9: "disk/vmdisk1" */
static int find_host_resource(struct hv_ovf *o, struct hv_appliance_drive *d, const char *host)
{
	const char *id = !strncasecmp(host, "ovf:", 4) ? host + 4 : host;
	struct hv_ovf_disk *disk;

	id += strspn(id, "/");
	if (!strncmp(id, "file/", 5))
		return find_file(o, d, id + 5);
	id += strncmp(id, "disk/", 5) ? 0 : 5;
	disk = disk_of(o, id);
	if (disk)
		return use_disk(o, d, disk);
	d->file = id;
	hv_appliance_trouble(o->a, d, HV_DRIVE_MISSING, "%s: the envelope has no disk '%s'", o->path, id);
	return 0;
}

/* --- items --- */

static unsigned number(const char *text)
{
	uint64_t n;

	return hv_keys_number(text, 65536, &n) ? (unsigned)n : 0;
}

static bool counts(const struct hv_ovf *o, const struct hv_ovf_item *i)
{
	size_t length = o->configuration ? strlen(o->configuration) : 0;

	if (i->bound && strcasecmp(i->bound, "normal") != 0)
		return false;
	if (!i->configuration)
		return true;
	for (const char *p = i->configuration; *p && length; p += strcspn(p, " "), p += strspn(p, " "))
		if (strcspn(p, " ") == length && !strncmp(p, o->configuration, length))
			return true;
	return false;
}

static const char *bus_of(const struct hv_ovf_item *i)
{
	switch (number(i->type)) {
	case R_IDE:
		return "ide";
	case R_SCSI:
		return "scsi";
	case R_USB:
		return "usb";
	case R_STORAGE:
		return i->subtype && strcasestr(i->subtype, "nvme") ? "nvme" : "sata";
	default:
		return NULL;
	}
}

/* The controller that the drive hangs on: its bus, model, and which of its kind it is. */
static void set_controller(const struct hv_ovf *o, const struct hv_ovf_item *item,
			   struct hv_appliance_drive *d)
{
	unsigned before = 0;

	d->bus = number(item->type) == R_FLOPPY ? "floppy" : NULL;
	d->slot = number(item->slot);
	for (unsigned i = 0; item->parent && i < o->items; i++) {
		const struct hv_ovf_item *c = &o->item[i];

		if (c->machine != item->machine || !c->id || strcmp(c->id, item->parent) != 0 || !bus_of(c))
			continue;
		d->bus = bus_of(c);
		d->model = c->subtype;
		for (unsigned j = 0; j < i; j++)
			before += o->item[j].machine == c->machine && bus_of(&o->item[j]) == d->bus;
		d->controller = before;
		return;
	}
}

static int add_drive(struct hv_ovf *o, struct hv_appliance_machine *m, const struct hv_ovf_item *i)
{
	struct hv_appliance_drive *d = hv_appliance_add_drive(o->a, m, o->err);
	unsigned type = number(i->type);

	if (!d)
		return o->err->code;
	d->kind = type == R_DISK ? HV_DRIVE_DISK : type == R_FLOPPY ? HV_DRIVE_FLOPPY : HV_DRIVE_CD;
	set_controller(o, i, d);
	return i->host ? find_host_resource(o, d, i->host) : 0;
}

static int add_nic(struct hv_ovf *o, struct hv_appliance_machine *m, const struct hv_ovf_item *i)
{
	struct hv_appliance_nic *n = hv_appliance_add_nic(o->a, m, o->err);

	if (!n)
		return o->err->code;
	n->model = i->subtype;
	n->mac = hv_appliance_mac(o->a, i->address);
	n->network = i->connection;
	return 0;
}

static int add_other(struct hv_ovf *o, struct hv_appliance_machine *m, const struct hv_ovf_item *i)
{
	const char *name = i->name ? i->name : i->caption;

	if (i->subtype && strcasestr(i->subtype, "tpm")) {
		m->vm.tpm = true;
		return 0;
	}
	return hv_appliance_add_other(o->a, m, o->err, "%s%s%s%s", name ? name : "a device",
				      i->subtype ? " (" : "", i->subtype ? i->subtype : "",
				      i->subtype ? ")" : "");
}

static int add_memory(struct hv_ovf *o, struct hv_appliance_machine *m, const struct hv_ovf_item *i)
{
	uint64_t bytes, unit;
	int rc = sized(o, "a machine's memory", i->quantity, i->units, 1U << 20, &bytes, &unit);

	if (!rc && __builtin_add_overflow(m->vm.memory, bytes, &m->vm.memory))
		rc = hv_fail_unsafe(o->err, "%s: a machine's memory is more than there can be", o->path);
	return rc;
}

static int add_item(struct hv_ovf *o, const struct hv_ovf_item *i)
{
	struct hv_appliance_machine *m = &o->a->machine[i->machine];

	if (!counts(o, i))
		return 0;
	switch (number(i->type)) {
	case R_CPU:
		m->vm.cpus += number(i->quantity);
		return 0;
	case R_MEMORY:
		return add_memory(o, m, i);
	case R_ETHERNET:
		return add_nic(o, m, i);
	case R_FLOPPY:
	case R_CD:
	case R_DVD:
	case R_DISK:
		return add_drive(o, m, i);
	case R_IDE:
	case R_SCSI:
	case R_STORAGE:
		return 0; /* told with their drives */
	default:
		return add_other(o, m, i);
	}
}

/* "Every disk" is also the one that no machine's item leads to. */
static int add_unused(struct hv_ovf *o)
{
	for (unsigned i = 0; i < o->disks && o->a->machines; i++) {
		struct hv_appliance_drive *d;
		int rc;

		if (o->disk[i].used || !o->disk[i].file)
			continue;
		d = hv_appliance_add_drive(o->a, &o->a->machine[0], o->err);
		if (!d)
			return o->err->code;
		rc = use_disk(o, d, &o->disk[i]);
		if (rc)
			return rc;
		if (hv_appliance_note(o->a, "%s: no machine of the envelope has the disk %s; it comes along",
				      o->path, d->file))
			return hv_fail(o->err, ENOMEM, "%s: no memory for a note", o->path);
	}
	return 0;
}

/* Two parts of one name: what refers to it could mean either. */
static int check_twice(const struct hv_ovf *o)
{
	for (unsigned i = 0; i < o->disks; i++)
		for (unsigned j = 0; j < i && o->disk[i].id; j++)
			if (o->disk[j].id && !strcmp(o->disk[i].id, o->disk[j].id))
				return hv_fail_unsafe(o->err, "%s: the envelope has two disks '%s'", o->path,
						      o->disk[i].id);
	for (unsigned i = 0; i < o->files; i++)
		for (unsigned j = 0; j < i && o->file[i].id; j++)
			if (o->file[j].id && !strcmp(o->file[i].id, o->file[j].id))
				return hv_fail_unsafe(o->err, "%s: the envelope has two references '%s'",
						      o->path, o->file[i].id);
	return 0;
}

int hv_ovf_build(struct hv_ovf *o)
{
	int rc = check_twice(o);

	for (unsigned i = 0; i < o->items && !rc; i++)
		rc = add_item(o, &o->item[i]);
	return rc ? rc : add_unused(o);
}
