/*
 * VMDK: the disk as a row of extents, its parent, its map. Rules from VMware's "Virtual Disk Format 5.0" and,
 * where it is silent, from what VMware's tools write. The descriptor may be a file of its own or stand in a
 * sparse extent; extents and parent are opened by disk.c, under its policy.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

static bool is_sesparse(const uint8_t *head, size_t length)
{
	return length >= 16 && hv_le64(head) == VMDK_SESPARSE_MAGIC && hv_le64(head + 8) >> 32 == 2;
}

static int vmdk_probe(const struct hv_disk_probe *p)
{
	if (p->head_length < 4)
		return 0;
	if (hv_le32(p->head) == VMDK_MAGIC || is_sesparse(p->head, p->head_length))
		return 2;
	if (hv_le32(p->head) == VMDK_COWD_MAGIC)
		return p->head_length >= 8 && hv_le32(p->head + 4) == 1 ? 2 : 1;
	return hv_vmdk_descriptor_probe((const char *)p->head, p->head_length);
}

/* --- extents ---------------------------------------------------------------------------------------------- */

struct hv_vmdk_extent *hv_vmdk_extent_at(struct hv_vmdk *v, uint64_t offset)
{
	unsigned low = 0, high = v->extents;

	while (high - low > 1) {
		unsigned middle = low + (high - low) / 2;

		if (v->extent[middle].start <= offset)
			low = middle;
		else
			high = middle;
	}
	return &v->extent[low];
}

static struct hv_vmdk_extent *add_extent(struct hv_disk *d, const struct hv_vmdk_line *line)
{
	struct hv_vmdk *v = d->state;
	struct hv_vmdk_extent *more = realloc(v->extent, (v->extents + 1) * sizeof(*more)), *e;

	if (!more)
		return NULL;
	v->extent = more;
	e = &more[v->extents++];
	*e = (struct hv_vmdk_extent){
		.access = line->access,
		.type = line->type,
		.start = d->size,
		.length = line->sectors * VMDK_SECTOR,
		.at = line->offset * VMDK_SECTOR,
	};
	d->size += e->length;
	return e;
}

static int check_flat(const struct hv_disk *d, const struct hv_vmdk_extent *e, struct hv_error *err)
{
	const struct hv_disk_file *f = d->file[e->file];

	if (hv_inside(e->at, e->length, hv_disk_file_size(f)) || d->salvage)
		return 0;
	return hv_fail_unsafe(
		err,
		"%s: the flat extent needs %llu bytes from offset %llu on, and the file ends at "
		"%llu: it is cut off, or not the one that the descriptor means",
		f->path, (unsigned long long)e->length, (unsigned long long)e->at,
		(unsigned long long)hv_disk_file_size(f));
}

/* The extent's own header says how large it is; some writers round that up to a whole grain. */
static int check_capacity(const struct hv_disk *d, struct hv_vmdk_extent *e, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = e->sparse;
	uint64_t capacity = s->length;

	if (capacity < e->length || hv_round_up(e->length, s->grain) < capacity) {
		if (!d->salvage)
			return hv_fail_unsafe(err,
					      "%s: the extent's header says %llu sectors, and the descriptor "
					      "%llu",
					      s->file->path, (unsigned long long)(capacity / VMDK_SECTOR),
					      (unsigned long long)(e->length / VMDK_SECTOR));
		if (capacity < s->known_end)
			s->known_end = capacity;
	}
	if (capacity > e->length)
		s->length = e->length;
	return 0;
}

static int open_sparse(struct hv_disk *d, struct hv_vmdk_extent *e, struct hv_error *err)
{
	int rc = hv_vmdk_sparse_new(d, e->file, e->type, &e->sparse, err);

	if (rc < 0)
		return rc;
	if (e->sparse->grain > d->block_size)
		d->block_size = (uint32_t)e->sparse->grain;
	return check_capacity(d, e, err);
}

/* A name is tried as it is, then with VMware's escapes, then as what its encoding makes of it. */
static int open_named(struct hv_disk *d, const char *name, const char *encoding, bool writable,
		      unsigned *index, struct hv_error *err)
{
	int rc = hv_disk_open_extent(d, name, writable, index, err);
	char *other[2];

	if (rc != -ENOENT)
		return rc;
	other[0] = hv_vmdk_unescape(name);
	other[1] = hv_vmdk_utf8(name, encoding);
	for (unsigned i = 0; i < 2; i++) {
		struct hv_error second;

		if (rc == -ENOENT && other[i]) {
			int again = hv_disk_open_extent(d, other[i], writable, index, &second);

			if (again != -ENOENT && err)
				*err = second;
			rc = again;
		}
		free(other[i]);
	}
	return rc;
}

static int refuse_device(const struct hv_disk *d, const struct hv_vmdk_line *line, const char *create_type,
			 struct hv_error *err)
{
	return hv_fail(
		err, ENOTSUP,
		"%s: a disk of the type %s, whose extent \"%.100s\" is a device and not a file: copy the "
		"device itself, or follow it with --raw-devices",
		d->path, create_type, line->name);
}

static int open_extent(struct hv_disk *d, const struct hv_vmdk_line *line, const struct hv_vmdk_descriptor *t,
		       struct hv_error *err)
{
	struct hv_vmdk_extent *e = add_extent(d, line);
	int rc;

	if (!e)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (line->type == VMDK_ZERO || line->access == VMDK_NOACCESS)
		return 0;
	if (line->type == VMDK_DEVICE && !d->options.raw_devices)
		return refuse_device(d, line, t->create_type, err);
	rc = open_named(d, line->name, t->encoding, line->access == VMDK_RW, &e->file, err);
	if (rc < 0)
		return rc;
	if (line->type == VMDK_FLAT || line->type == VMDK_DEVICE)
		return check_flat(d, e, err);
	return open_sparse(d, e, err);
}

/* --- the parent ------------------------------------------------------------------------------------------- */

static int check_parent(struct hv_disk *d, const struct hv_vmdk_descriptor *t, struct hv_error *err)
{
	const struct hv_vmdk *parent;

	if (!d->parent) /* alone */
		return 0;
	parent = d->parent->state;
	if (parent->has_cid && parent->cid == t->parent_cid)
		return 0;
	if (d->salvage)
		return hv_disk_note(d,
				    "the parent's content ID is %08x, and the image was made over %08x: the "
				    "bytes taken from it may be others than they were",
				    parent->cid, t->parent_cid);
	return hv_fail_unsafe(err,
			      "%s: it was made over a parent with CID=%08x, and %s has CID=%08x: the parent "
			      "was changed since, or is another disk; if you are sure that its bytes are the "
			      "same, write its CID into the line parentCID of %s, or use --salvage",
			      d->path, t->parent_cid, d->parent->path, parent->cid, d->path);
}

/* Whether this image's own look for a file found none, and not that of an image further down. */
static bool is_missing(const struct hv_disk *d, int rc, const struct hv_error *err)
{
	size_t n = strlen(d->path);

	return rc == -ENOENT && strncmp(err->text, d->path, n) == 0 && err->text[n] == ':';
}

/*
 * The names under which a parent may be found: the hint as it is (a backslash may be a part of a name here),
 * as a Windows path, and, as VMware writes the host's full path when the folders differ, its last part beside
 * the image, in the descriptor's encoding too.
 */
#define PARENT_NAMES 4
static int open_parent(struct hv_disk *d, const struct hv_vmdk_descriptor *t, struct hv_error *err)
{
	const char *hint = t->parent_hint ? t->parent_hint : "", *base = hv_disk_base_name(hint);
	bool relative;
	char *windows = hv_disk_windows_name(hint, &relative), *utf8 = NULL;
	const char *name[PARENT_NAMES] = {hint, windows, base, NULL};
	struct hv_error first = {0}, next = {0};
	int rc = -ENOENT, one;

	if (!windows)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	utf8 = hv_vmdk_utf8(base, t->encoding);
	name[PARENT_NAMES - 1] = utf8;
	for (unsigned i = 0; i < PARENT_NAMES; i++) {
		if (!name[i] || (i == 1 && strcmp(windows, hint) == 0) ||
		    (i == 2 && strcmp(base, windows) == 0))
			continue;
		one = hv_disk_open_parent(d, name[i], "vmdk", &next);
		/* What was there and failed is told; else that nothing was. */
		if (i == 0 || !is_missing(d, one, &next)) {
			rc = one;
			first = next;
		}
		if (rc == 0 || (relative && !is_missing(d, rc, &first)))
			break;
	}
	free(windows);
	free(utf8);
	if (is_missing(d, rc, &first))
		return hv_fail(err, ENOENT,
			       "%s: its parent \"%.200s\" is not there; put it into the same folder", d->path,
			       hint);
	if (rc < 0 && err)
		*err = first;
	return rc < 0 ? rc : check_parent(d, t, err);
}

/* --- opening ---------------------------------------------------------------------------------------------- */

static int describe(struct hv_disk *d, const struct hv_vmdk_descriptor *t, struct hv_error *err)
{
	int rc = 0;

	snprintf(d->subformat, sizeof(d->subformat), "%s", t->create_type);
	d->cylinders = t->cylinders;
	d->heads = t->heads;
	d->sectors = t->sectors;
	if (t->has_cid)
		rc |= hv_disk_property(d, "CID", "%08x", t->cid);
	if (t->parent_hint)
		rc |= hv_disk_property(d, "parent", "%s", t->parent_hint);
	if (t->parent_cid != VMDK_NO_PARENT)
		rc |= hv_disk_property(d, "parent CID", "%08x", t->parent_cid);
	if (t->adapter[0])
		rc |= hv_disk_property(d, "adapter", "%s", t->adapter);
	if (t->hardware[0])
		rc |= hv_disk_property(d, "hardware version", "%s", t->hardware);
	if (t->lines > 1)
		rc |= hv_disk_property(d, "extents", "%u", t->lines);
	if (t->change_tracking)
		rc |= hv_disk_note(d,
				   "it has a change-tracking file (-ctk), which is not needed and not read");
	return rc ? hv_fail(err, ENOMEM, "%s: out of memory", d->path) : 0;
}

static bool is_device_type(const char *create_type)
{
	static const char *const types[] = {
		"fullDevice",       "partitionedDevice",          "vmfsRaw", "vmfsRDM", "vmfsRDMP",
		"vmfsRawDeviceMap", "vmfsPassthroughRawDeviceMap"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(types); i++)
		if (strcasecmp(create_type, types[i]) == 0)
			return true;
	return false;
}

/* d->file[0] may be one of the extents itself: the only one, or the one that has its name. */
static bool is_own(const struct hv_disk *d, const struct hv_vmdk_descriptor *t,
		   const struct hv_vmdk_line *line)
{
	if (line->type != VMDK_HOSTED)
		return false;
	return t->lines == 1 || strcmp(line->name, hv_disk_base_name(d->path)) == 0;
}

static int take_own(struct hv_disk *d, const struct hv_vmdk_line *line, struct hv_error *err)
{
	struct hv_vmdk_extent *e = add_extent(d, line);

	return e ? open_sparse(d, e, err) : hv_fail(err, ENOMEM, "%s: out of memory", d->path);
}

static int open_described(struct hv_disk *d, const struct hv_vmdk_descriptor *t, bool embedded,
			  struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	int rc = describe(d, t, err);

	v->cid = t->cid;
	v->has_cid = t->has_cid;
	if (rc == 0 && is_device_type(t->create_type) && !d->options.raw_devices)
		return refuse_device(d, &t->line[0], t->create_type, err);
	if (rc == 0 && t->parent_cid != VMDK_NO_PARENT)
		d->has_parent = true;
	for (unsigned i = 0; rc == 0 && i < t->lines; i++)
		rc = embedded && is_own(d, t, &t->line[i]) ? take_own(d, &t->line[i], err)
							   : open_extent(d, &t->line[i], t, err);
	if (rc == 0 && d->has_parent)
		rc = open_parent(d, t, err);
	return rc;
}

/* The descriptor's text, at `at` of file 0; it is parsed and gone through. */
static int open_text(struct hv_disk *d, uint64_t at, size_t length, bool embedded, struct hv_error *err)
{
	struct hv_vmdk_descriptor t = {0};
	struct hv_vmdk *v = d->state;
	char *text = malloc(length + 1);
	int rc;

	if (!text)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_disk_file_read(d->file[0], "descriptor", text, length, at, err);
	if (rc == 0) {
		text[length] = '\0';
		rc = hv_vmdk_descriptor_parse(d->path, text, length, !embedded, d->salvage, &t, err);
	}
	if (rc == 0) {
		v->cid_at = t.has_cid ? at + t.cid_at : 0;
		v->cid_digits = t.cid_digits;
		rc = open_described(d, &t, embedded, err);
	}
	hv_vmdk_descriptor_free(&t);
	free(text);
	return rc;
}

/* One extent of a disk, without the descriptor that would say which: a disk by itself only for salvage. */
static int open_lone(struct hv_disk *d, enum hv_vmdk_type type, bool stream, struct hv_error *err)
{
	struct hv_vmdk_line line = {.access = VMDK_RW, .type = type, .sectors = 0};
	struct hv_vmdk_extent *e;
	int rc;

	if (!stream && !d->salvage)
		return hv_fail_unsafe(
			err,
			"%s: an extent without a descriptor, a part of a disk: open the small "
			".vmdk file that lists it, or, if that is lost, this alone with --salvage",
			d->path);
	e = add_extent(d, &line);
	rc = e ? hv_vmdk_sparse_new(d, 0, type, &e->sparse, err)
	       : hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (rc < 0)
		return rc;
	d->size = e->length = e->sparse->length;
	d->block_size = (uint32_t)e->sparse->grain;
	snprintf(d->subformat, sizeof(d->subformat), "%s", stream ? "streamOptimized" : "");
	return hv_disk_note(d, "it has no descriptor%s",
			    stream ? "" : ": a part of a disk, without its parent");
}

static int open_hosted(struct hv_disk *d, const uint8_t *head, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	struct hv_vmdk_header h;

	hv_vmdk_header_get(&h, head);
	if (h.descriptor_at == 0 || h.descriptor_size == 0)
		return open_lone(d, VMDK_HOSTED, h.flags & VMDK_FLAG_COMPRESSED, err);
	if (h.descriptor_at > UINT32_MAX || h.descriptor_size > UINT32_MAX)
		return hv_fail_unsafe(err, "%s: the descriptor would be %llu sectors at sector %llu", d->path,
				      (unsigned long long)h.descriptor_size,
				      (unsigned long long)h.descriptor_at);
	v->descriptor_at = h.descriptor_at * VMDK_SECTOR;
	v->descriptor_size = h.descriptor_size * VMDK_SECTOR;
	if (v->descriptor_size > VMDK_DESCRIPTOR_MAX)
		v->descriptor_size = VMDK_DESCRIPTOR_MAX;
	return open_text(d, v->descriptor_at, (size_t)v->descriptor_size, true, err);
}

static int vmdk_open(struct hv_disk *d, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(d->file[0]);
	uint8_t head[VMDK_SECTOR] = {0};
	int64_t n = hv_disk_file_read_some(d->file[0], head, sizeof(head), 0, err);

	if (n < 0)
		return (int)n;
	if (!(d->state = calloc(1, sizeof(struct hv_vmdk))))
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (hv_le32(head) == VMDK_MAGIC && n == VMDK_SECTOR)
		return open_hosted(d, head, err);
	if (hv_le32(head) == VMDK_COWD_MAGIC)
		return open_lone(d, VMDK_COWD, false, err);
	if (is_sesparse(head, (size_t)n))
		return open_lone(d, VMDK_SESPARSE, false, err);
	if (!hv_vmdk_descriptor_probe((const char *)head, (size_t)n) && n >= 4 &&
	    memchr(head, '\0', (size_t)n < 64 ? (size_t)n : 64))
		return hv_fail_unsafe(err,
				      "%s: no VMDK: it starts with neither an extent's magic number nor a "
				      "descriptor",
				      d->path);
	if (size > VMDK_DESCRIPTOR_MAX)
		return hv_fail_unsafe(err, "%s: no descriptor: %llu bytes are too long for one", d->path,
				      (unsigned long long)size);
	return open_text(d, 0, (size_t)size, false, err);
}

void hv_vmdk_free(struct hv_disk *d)
{
	struct hv_vmdk *v = d->state;

	if (!v)
		return;
	for (unsigned i = 0; i < v->extents; i++)
		hv_vmdk_sparse_free(v->extent[i].sparse);
	hv_vmdk_stream_free(v->stream);
	free(v->extent);
	free(v);
	d->state = NULL;
}

/* --- the map ---------------------------------------------------------------------------------------------- */

static int not_known(const struct hv_disk *d, const struct hv_vmdk_sparse *s, uint64_t offset,
		     struct hv_error *err)
{
	return hv_fail_unsafe(err, "%s: the disk's bytes from offset %llu on are lost: %s is cut off",
			      d->path, (unsigned long long)offset, s->file->path);
}

static void encoded_run(const struct hv_vmdk_extent *e, uint64_t grain, const struct hv_vmdk_grains *g,
			struct hv_run *run)
{
	const struct hv_vmdk_sparse *s = e->sparse;
	uint64_t left = s->length - grain * s->grain;

	run->stored = HV_STORED_ENCODED;
	run->at = g->at;
	run->unit = e->start + grain * s->grain;
	run->unit_length = (uint32_t)(left < s->grain ? left : s->grain);
	run->stored_length = g->room;
}

static int map_sparse(struct hv_disk *d, const struct hv_vmdk_extent *e, uint64_t in, uint64_t length,
		      struct hv_run *run, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = e->sparse;
	uint64_t grain = in / s->grain, skip = in % s->grain, end;
	struct hv_vmdk_grains g;
	int rc;

	if (in >= s->known_end)
		return not_known(d, s, run->offset, err);
	rc = hv_vmdk_scan(s, grain, (skip + length - 1) / s->grain + 1, &g, err);
	if (rc < 0)
		return rc;
	end = g.count * s->grain - skip;
	if (end > s->known_end - in)
		end = s->known_end - in;
	run->length = end < length ? end : length;
	run->kind = g.kind;
	run->file = s->index;
	if (g.kind == HV_RUN_DATA && s->compressed)
		encoded_run(e, grain, &g, run);
	else if (g.kind == HV_RUN_DATA)
		run->at = g.at + skip;
	return 0;
}

/* A flat file's own holes are zeros, and take no reading. */
static int map_flat(struct hv_disk *d, const struct hv_vmdk_extent *e, uint64_t in, struct hv_run *run,
		    struct hv_error *err)
{
	uint64_t end;
	bool data;
	int rc = hv_disk_file_seek(d->file[e->file], e->at + in, &data, &end, err);

	if (rc < 0)
		return rc;
	run->stored = HV_STORED_PLAIN;
	run->file = e->file;
	run->at = e->at + in;
	run->kind = HV_RUN_DATA;
	if (!data)
		run->kind = d->has_parent ? HV_RUN_ZERO : HV_RUN_HOLE;
	if (end > run->at && end - run->at < run->length)
		run->length = end - run->at;
	return 0;
}

static int vmdk_map(struct hv_disk *d, uint64_t offset, uint64_t length, struct hv_run *run,
		    struct hv_error *err)
{
	const struct hv_vmdk_extent *e = hv_vmdk_extent_at(d->state, offset);
	uint64_t in = offset - e->start;

	if (length > e->length - in)
		length = e->length - in;
	*run = (struct hv_run){.offset = offset, .length = length, .kind = HV_RUN_ZERO};
	if (e->access == VMDK_NOACCESS)
		return hv_fail_unsafe(err,
				      "%s: the disk's offset %llu lies in an extent marked NOACCESS, whose "
				      "bytes the image doesn't give",
				      d->path, (unsigned long long)offset);
	if (e->sparse)
		return map_sparse(d, e, in, length, run, err);
	if (e->type == VMDK_ZERO)
		return 0;
	return map_flat(d, e, in, run, err);
}

/* Tables that stand behind the first grain's possible place: COWD's, and a directory at the end. */
static int own_tables(struct hv_disk *d, const struct hv_vmdk_extent *e, struct hv_disk_tables *tables,
		      bool twin, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = e->sparse;
	uint64_t at = twin ? s->rgd_at : s->gd_at;
	int rc = 0;

	if (at >= s->data_at)
		rc = tables->own(tables, d, e->file, at, s->directory * 4, err);
	for (uint64_t i = 0; i < s->directory && rc == 0; i++)
		if (hv_vmdk_table_place(s, i, twin, &at, NULL) == 0 && at && at >= s->data_at)
			rc = tables->own(tables, d, e->file, at, s->table_bytes, err);
	return rc;
}

static int vmdk_tables(struct hv_disk *d, struct hv_disk_tables *tables, struct hv_error *err)
{
	struct hv_vmdk *v = d->state;
	int rc = 0;

	for (unsigned i = 0; i < v->extents && rc == 0; i++) {
		struct hv_vmdk_sparse *s = v->extent[i].sparse;
		/* seSparse keeps grains and tables apart; tables that salvage made are not in the file. */
		if (!s || s->tables != s->file || s->dialect == VMDK_SESPARSE)
			continue;
		rc = own_tables(d, &v->extent[i], tables, false, err);
		if (rc == 0 && s->rgd)
			rc = own_tables(d, &v->extent[i], tables, true, err);
	}
	return rc;
}

static const char *const extensions[] = {"vmdk", NULL};
static const char *const subformats[] = {"monolithicSparse", "monolithicFlat", "streamOptimized", NULL};

const struct hv_disk_format hv_disk_format_vmdk = {
	.name = "vmdk",
	.extensions = extensions,
	.subformats = subformats,
	.probe = vmdk_probe,
	.open = vmdk_open,
	.close = hv_vmdk_free,
	.map = vmdk_map,
	.decode = hv_vmdk_decode,
	.place = hv_vmdk_place,
	.commit = hv_vmdk_commit,
	.zero = hv_vmdk_zero,
	.flush = hv_vmdk_flush,
	.create = hv_vmdk_create,
	.resume = hv_vmdk_resume,
	.tables = vmdk_tables,
	.check = hv_vmdk_check,
};

/* A stream while it is written: from front to back, in compressed grains, and no other way. */
const struct hv_disk_format hv_vmdk_format_stream = {
	.name = "vmdk",
	.extensions = extensions,
	.subformats = subformats,
	.probe = vmdk_probe,
	.open = vmdk_open,
	.close = hv_vmdk_free,
	.map = vmdk_map,
	.create = hv_vmdk_create,
	.resume = hv_vmdk_resume,
	.finish = hv_vmdk_stream_finish,
	.encode_bound = VMDK_STREAM_BOUND,
	.encode = hv_vmdk_encode,
	.append = hv_vmdk_append,
};
