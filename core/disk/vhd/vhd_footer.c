/*
 * VHD: the footer, its copy, the dynamic header, and how large the disk is. The specification (version 1.0,
 * "Hard Disk Footer Format", "Dynamic Disk Header Format", "CHS Calculation") says what the fields are, but
 * not whose size counts: Virtual PC goes by the geometry, Hyper-V, disk2vhd, Azure and XenServer by the
 * current size. See hv_vhd_settle_size.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "disk/vhd/vhd.h"

/* The one's complement of the sum of all bytes but those of the checksum itself. */
uint32_t hv_vhd_checksum(const uint8_t *bytes, size_t length, size_t field)
{
	uint32_t sum = 0;

	for (size_t i = 0; i < length; i++)
		if (i < field || i >= field + 4)
			sum += bytes[i];
	return ~sum;
}

static bool has_cookie(const uint8_t *footer)
{
	return memcmp(footer + FOOTER_COOKIE, "conectix", 8) == 0;
}

bool hv_vhd_footer_good(const uint8_t *footer)
{
	return has_cookie(footer) &&
	       hv_vhd_checksum(footer, VHD_FOOTER, FOOTER_CHECKSUM) == hv_be32(footer + FOOTER_CHECKSUM);
}

void hv_vhd_id(const uint8_t *id, char text[37])
{
	snprintf(text, 37, "%08x-%04x-%04x-%04x-%04x%08x", hv_be32(id), hv_be16(id + 4), hv_be16(id + 6),
		 hv_be16(id + 8), hv_be16(id + 10), hv_be32(id + 12));
}

/* --- which footer ----------------------------------------------------------------------------------------- */

/* The file's last 512 bytes, or 511: so short was the footer of Virtual PC before 2004. */
static int read_end(struct hv_disk *d, uint8_t *footer, uint64_t *at, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(d->file[0]);
	int rc;

	memset(footer, 0, VHD_FOOTER);
	*at = size;
	if (size < VHD_FOOTER)
		return hv_fail_unsafe(err, "%s: %llu bytes are too few for a VHD: its footer alone takes 512",
				      d->path, (unsigned long long)size);
	rc = hv_disk_file_read(d->file[0], "footer", footer, VHD_FOOTER, size - VHD_FOOTER, err);
	if (rc < 0)
		return rc;
	if (has_cookie(footer)) {
		*at = size - VHD_FOOTER;
	} else if (memcmp(footer + 1, "conectix", 8) == 0) {
		memmove(footer, footer + 1, VHD_FOOTER - 1);
		footer[VHD_FOOTER - 1] = 0;
		*at = size - (VHD_FOOTER - 1);
	}
	return 0;
}

static int bad_checksum(struct hv_disk *d, const uint8_t *footer, uint64_t at, struct hv_error *err)
{
	return hv_fail_unsafe(
		err, "%s: the footer at offset %llu is damaged: its checksum is %#x, its bytes give %#x",
		d->path, (unsigned long long)at, hv_be32(footer + FOOTER_CHECKSUM),
		hv_vhd_checksum(footer, VHD_FOOTER, FOOTER_CHECKSUM));
}

/* The end's footer is lost or damaged: the copy at the start, when there is a good one. */
static int use_copy(struct hv_disk *d, struct vhd *v, const uint8_t *end, const uint8_t *copy,
		    struct hv_error *err)
{
	/* What stands at the start of a fixed disk is its guest's, whatever it looks like. */
	bool fixed = has_cookie(end) && hv_be32(end + FOOTER_TYPE) == VHD_FIXED;

	if (hv_vhd_footer_good(copy) && hv_be32(copy + FOOTER_TYPE) != VHD_FIXED && !fixed) {
		memcpy(v->footer, copy, VHD_FOOTER);
		return hv_disk_note(d,
				    "the footer at the end of the file is %s; its copy at the start is used",
				    has_cookie(end) ? "damaged (its checksum is wrong)" : "lost");
	}
	if (has_cookie(end) && d->salvage) {
		memcpy(v->footer, end, VHD_FOOTER);
		return hv_disk_note(d, "the footer's checksum is wrong; its fields are used all the same");
	}
	if (has_cookie(end))
		return bad_checksum(d, end, v->end, err);
	if (!has_cookie(copy))
		return hv_fail_unsafe(
			err,
			"%s: no VHD footer: neither the file's last 512 bytes (offset %llu) nor its "
			"first start with \"conectix\"",
			d->path, (unsigned long long)(v->end - VHD_FOOTER));
	if (d->salvage && hv_be32(copy + FOOTER_TYPE) != VHD_FIXED) {
		memcpy(v->footer, copy, VHD_FOOTER);
		return hv_disk_note(d,
				    "the footer is lost and the checksum of its copy at the start is wrong; "
				    "the copy's fields are used all the same");
	}
	return bad_checksum(d, copy, 0, err);
}

/* Two good footers: what the disk's bytes hang on must be the same in both. */
static int compare_copy(struct hv_disk *d, const uint8_t *end, const uint8_t *copy, struct hv_error *err)
{
	static const struct {
		unsigned at, length;
		const char *what;
	} vital[] = {
		{FOOTER_TYPE, 4, "type"},
		{FOOTER_SIZE, 8, "current size"},
		{FOOTER_HEADER, 8, "dynamic header's offset"},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(vital); i++) {
		if (memcmp(end + vital[i].at, copy + vital[i].at, vital[i].length) == 0)
			continue;
		if (d->salvage)
			return hv_disk_note(d,
					    "the footer and its copy at the start disagree on the %s; the "
					    "footer at the end is used",
					    vital[i].what);
		return hv_fail_unsafe(err, "%s: the footer and its copy at offset 0 disagree on the %s",
				      d->path, vital[i].what);
	}
	if (memcmp(end, copy, VHD_FOOTER) != 0)
		return hv_disk_note(
			d, "the footer and its copy at the start are not the same, though both say the "
			   "same of the disk's bytes; the footer at the end is used");
	return 0;
}

static int choose_footer(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	uint8_t end[VHD_FOOTER], copy[VHD_FOOTER] = {0};
	int rc = read_end(d, end, &v->end, err);

	if (rc == 0)
		rc = hv_disk_file_read(d->file[0], "footer's copy", copy, VHD_FOOTER, 0, err);
	if (rc < 0)
		return rc;
	if (!hv_vhd_footer_good(end))
		return use_copy(d, v, end, copy, err);
	memcpy(v->footer, end, VHD_FOOTER);
	if (hv_be32(end + FOOTER_TYPE) == VHD_FIXED)
		return 0;
	if (!hv_vhd_footer_good(copy))
		return hv_disk_note(d, "the footer's copy at the start of the file is damaged");
	return compare_copy(d, end, copy, err);
}

/* --- what it says ----------------------------------------------------------------------------------------- */

/* Four characters for a person: what isn't printable is left out. */
static const char *four(const uint8_t *at, char text[5])
{
	unsigned n = 0;

	for (unsigned i = 0; i < 4; i++)
		if (at[i] > ' ' && at[i] < 0x7f)
			text[n++] = (char)at[i];
	text[n] = '\0';
	return text;
}

static int tell(struct hv_disk *d, const struct vhd *v)
{
	const uint8_t *f = v->footer;
	time_t made = (time_t)(VHD_EPOCH + hv_be32(f + FOOTER_TIME));
	char creator[5], host[5], id[37], when[32];
	struct tm tm;
	int rc;

	d->cylinders = hv_be16(f + FOOTER_CYLINDERS);
	d->heads = f[FOOTER_HEADS];
	d->sectors = f[FOOTER_SECTORS];
	gmtime_r(&made, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", &tm);
	hv_vhd_id(f + FOOTER_ID, id);
	rc = hv_disk_property(d, "creator", "%s %u.%u", four(f + FOOTER_CREATOR, creator),
			      hv_be16(f + FOOTER_CREATOR_VERSION), hv_be16(f + FOOTER_CREATOR_VERSION + 2));
	if (rc == 0)
		rc = hv_disk_property(d, "creator host", "%s", four(f + FOOTER_HOST, host));
	if (rc == 0)
		rc = hv_disk_property(d, "created", "%s", when);
	if (rc == 0)
		rc = hv_disk_property(d, "id", "%s", id);
	if (rc == 0 && f[FOOTER_SAVED])
		rc = hv_disk_note(
			d, "the footer says that its machine was saved while running: the disk may not be "
			   "consistent without that state");
	if (rc == 0 && v->size > VHD_SIZE_MAX)
		rc = hv_disk_note(
			d, "the disk is larger than the 2040 GiB that a VHD may have; Hyper-V won't take "
			   "it");
	return rc;
}

static int check_footer(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	uint32_t type = hv_be32(v->footer + FOOTER_TYPE);

	if (hv_be16(v->footer + FOOTER_VERSION) != 1)
		return hv_fail(err, ENOTSUP, "%s: VHD version %u.%u; 1.0 is known", d->path,
			       hv_be16(v->footer + FOOTER_VERSION), hv_be16(v->footer + FOOTER_VERSION + 2));
	if (type != VHD_FIXED && type != VHD_DYNAMIC && type != VHD_DIFFERENCING)
		return hv_fail(err, ENOTSUP,
			       "%s: VHD type %u; fixed (2), dynamic (3) and differencing (4) are known",
			       d->path, type);
	v->type = (enum vhd_type)type;
	v->size = hv_be64(v->footer + FOOTER_SIZE);
	if (v->size == 0 || v->size % VHD_SECTOR || v->size > HV_DISK_SIZE_MAX)
		return hv_fail_unsafe(
			err,
			"%s: the footer gives the disk %llu bytes; a positive multiple of 512 is "
			"expected",
			d->path, (unsigned long long)v->size);
	return 0;
}

int hv_vhd_read_footer(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	static const char *const names[] = {"fixed", "dynamic", "differencing"};
	int rc = choose_footer(d, v, err);

	if (rc == 0)
		rc = check_footer(d, v, err);
	if (rc < 0)
		return rc;
	d->size = v->size;
	snprintf(d->subformat, sizeof(d->subformat), "%s", names[v->type - VHD_FIXED]);
	return tell(d, v);
}

/* --- the dynamic header ----------------------------------------------------------------------------------- */

static void add_region(struct vhd *v, uint64_t at, uint64_t length, const char *what)
{
	v->region[v->regions++] = (struct vhd_region){at, length, what};
}

static int check_header(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	const uint8_t *h = v->header;
	uint32_t sum = hv_vhd_checksum(h, VHD_HEADER, HEADER_CHECKSUM), said = hv_be32(h + HEADER_CHECKSUM);
	unsigned long long at = v->header_at;

	if (memcmp(h + HEADER_COOKIE, "cxsparse", 8) != 0)
		return hv_fail_unsafe(err,
				      "%s: the dynamic header at offset %llu doesn't start with \"cxsparse\"",
				      d->path, at);
	if (sum != said && !d->salvage)
		return hv_fail_unsafe(
			err,
			"%s: the dynamic header at offset %llu is damaged: its checksum is %#x, its "
			"bytes give %#x",
			d->path, at, said, sum);
	if (sum != said &&
	    hv_disk_note(d, "the dynamic header's checksum is wrong; its fields are used all the "
			    "same") < 0)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (hv_be16(h + HEADER_VERSION) != 1)
		return hv_fail(err, ENOTSUP, "%s: the dynamic header's version is %u.%u; 1.0 is known",
			       d->path, hv_be16(h + HEADER_VERSION), hv_be16(h + HEADER_VERSION + 2));
	v->block_size = hv_be32(h + HEADER_BLOCK);
	if (v->block_size < VHD_BLOCK_MIN || v->block_size > VHD_BLOCK_MAX ||
	    (v->block_size & (v->block_size - 1)) != 0)
		return hv_fail_unsafe(
			err,
			"%s: the dynamic header at offset %llu gives blocks of %u bytes; a power of "
			"two from 512 to 256 MiB is expected",
			d->path, at, v->block_size);
	return 0;
}

/* How many entries the table has must do for the disk's size. */
static int check_entries(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	uint64_t has = hv_be32(v->header + HEADER_ENTRIES), size = hv_disk_file_size(d->file[0]), room;

	v->bitmap_size = (uint32_t)hv_round_up(((uint64_t)v->block_size / VHD_SECTOR + 7) / 8, VHD_SECTOR);
	v->blocks = (v->size + v->block_size - 1) / v->block_size;
	v->entries = v->blocks;
	v->table_at = hv_be64(v->header + HEADER_TABLE);
	if (has < v->blocks && !d->salvage)
		return hv_fail_unsafe(
			err,
			"%s: the block allocation table has %llu entries (dynamic header, offset "
			"%llu); the disk has %llu blocks",
			d->path, (unsigned long long)has, (unsigned long long)v->header_at,
			(unsigned long long)v->blocks);
	if (!d->salvage)
		return 0;
	room = v->table_at < size ? (size - v->table_at) / 4 : 0;
	v->entries = has < v->entries ? has : v->entries;
	v->entries = room < v->entries ? room : v->entries;
	if (v->entries < v->blocks)
		return hv_disk_note(d,
				    "only %llu of the %llu entries of the block allocation table are there; "
				    "what the others lead to is lost",
				    (unsigned long long)v->entries, (unsigned long long)v->blocks);
	return 0;
}

static bool overlap(const struct vhd_region *a, const struct vhd_region *b)
{
	return a->at < b->at + b->length && b->at < a->at + a->length;
}

/* Copy of the footer, header and table stand apart from each other, all in the file. */
static int check_regions(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	uint64_t size = hv_disk_file_size(d->file[0]);

	add_region(v, 0, VHD_FOOTER, "footer's copy");
	add_region(v, v->header_at, VHD_HEADER, "dynamic header");
	if (!hv_inside(v->table_at, v->entries * 4, size))
		return hv_fail_unsafe(
			err,
			"%s: the block allocation table (%llu entries at offset %llu) is not all in "
			"the file, which ends at %llu",
			d->path, (unsigned long long)v->entries, (unsigned long long)v->table_at,
			(unsigned long long)size);
	add_region(v, v->table_at, v->entries * 4, "block allocation table");
	for (unsigned i = 0; i < v->regions; i++)
		for (unsigned j = i + 1; j < v->regions; j++)
			if (overlap(&v->region[i], &v->region[j]))
				return hv_fail_unsafe(
					err, "%s: the %s at offset %llu lies on the %s at offset %llu",
					d->path, v->region[j].what, (unsigned long long)v->region[j].at,
					v->region[i].what, (unsigned long long)v->region[i].at);
	return 0;
}

static void add_locators(struct hv_disk *d, struct vhd *v)
{
	uint64_t size = hv_disk_file_size(d->file[0]);

	for (unsigned i = 0; i < VHD_LOCATORS; i++) {
		const uint8_t *l = v->header + HEADER_LOCATORS + (size_t)i * 24;
		uint64_t at = hv_be64(l + 16), length = hv_be32(l + 8);

		if (hv_be32(l) && length && hv_inside(at, length, size))
			add_region(v, at, length, "parent locator");
	}
}

int hv_vhd_read_header(struct hv_disk *d, struct vhd *v, struct hv_error *err)
{
	int rc;

	v->header_at = hv_be64(v->footer + FOOTER_HEADER);
	rc = hv_disk_file_read(d->file[0], "dynamic header", v->header, VHD_HEADER, v->header_at, err);
	if (rc == 0)
		rc = check_header(d, v, err);
	if (rc == 0)
		rc = check_entries(d, v, err);
	if (rc == 0)
		rc = check_regions(d, v, err);
	if (rc < 0)
		return rc;
	add_locators(d, v);
	d->block_size = v->block_size;
	return 0;
}

/* --- the size --------------------------------------------------------------------------------------------- */

void hv_vhd_geometry(uint64_t sectors, uint16_t *cylinders, uint8_t *heads, uint8_t *per_track)
{
	uint64_t tracks, h = 16, s = 255;

	if (sectors > VHD_GEOMETRY)
		sectors = VHD_GEOMETRY;
	if (sectors < 65535ULL * 16 * 63) {
		s = 17;
		tracks = sectors / s;
		h = (tracks + 1023) / 1024;
		h = h < 4 ? 4 : h;
		if (h > 16 || tracks >= h * 1024) {
			h = 16;
			s = 31;
		}
		if (sectors / s >= h * 1024) {
			h = 16;
			s = 63;
		}
	}
	tracks = sectors / s;
	*cylinders = (uint16_t)(tracks / h);
	*heads = (uint8_t)h;
	*per_track = (uint8_t)s;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Whether [offset, end) of the disk, which is short, is known to read as zeros. */
static bool is_empty(struct hv_disk *d, uint64_t offset, uint64_t end)
{
	uint8_t buf[4096];

	while (offset < end) {
		struct hv_run run;

		if (hv_disk_map(d, offset, end - offset, &run, NULL) < 0)
			return false;
		if (run.kind == HV_RUN_DATA) {
			if (run.length > sizeof(buf))
				run.length = sizeof(buf);
			if (run.stored != HV_STORED_PLAIN ||
			    hv_disk_file_read(run.layer->file[run.file], "data", buf, run.length, run.at,
					      NULL) < 0 ||
			    !all_zero(buf, run.length))
				return false;
		}
		offset += run.length;
	}
	return true;
}

/*
 * Virtual PC gave its guests the disk that the geometry makes, which the specification's computation leaves
 * up to one cylinder smaller than the current size; QEMU's "qemu" does as Virtual PC did. Everyone else that
 * is known ("win ", "d2v ", "qem2", "tap", "CTXS", "wa", "vbox") goes by the current size, and so does
 * everyone when the geometry is the largest that can be said. Nothing is left out that isn't zeros, or that
 * is more than that cylinder: then another program has used the disk by its current size.
 */
int hv_vhd_settle_size(struct hv_disk *d, struct vhd *v)
{
	const uint8_t *f = v->footer;
	uint64_t sectors = (uint64_t)d->cylinders * d->heads * d->sectors, size = sectors * VHD_SECTOR;
	bool by_geometry = memcmp(f + FOOTER_CREATOR, "vpc ", 4) == 0 ||
			   memcmp(f + FOOTER_CREATOR, "vs  ", 4) == 0 ||
			   memcmp(f + FOOTER_CREATOR, "qemu", 4) == 0;
	char creator[5];

	four(f + FOOTER_CREATOR, creator);
	if (!by_geometry || sectors == 0 || sectors >= VHD_GEOMETRY || size == v->size)
		return 0;
	if (size > v->size || v->size - size >= 16ULL * 255 * VHD_SECTOR || !is_empty(d, size, v->size))
		return hv_disk_note(d,
				    "the geometry makes %llu bytes, the footer's current size says %llu: the "
				    "latter counts, as %s",
				    (unsigned long long)size, (unsigned long long)v->size,
				    size > v->size ? "the file holds no more"
						   : "there is data behind the end of the former");
	d->size = size;
	return hv_disk_note(
		d,
		"the disk ends with its geometry, as for its creator (%s): the %llu empty bytes behind "
		"that, up to the footer's current size, are left out",
		creator, (unsigned long long)(v->size - size));
}
