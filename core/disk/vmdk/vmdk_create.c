/*
 * Making VMDKs: monolithicSparse and monolithicFlat, which are then filled in any order, and the frame of
 * streamOptimized (vmdk_stream.c). All that is constant, the descriptor with its random content ID too, is
 * written at once; so what is resumed has it already.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/bytes.h"
#include "disk/output.h"
#include "disk/vmdk/vmdk_impl.h"

#define TEXT_SECTORS 20 /* for an embedded descriptor, as VMware leaves */
#define GRAIN        65536U
#define PER_TABLE    512U
#define SPARSE_MAX   (2ULL << 40)  /* bytes: entries are 32-bit sectors */
#define STREAM_MAX   (62ULL << 40) /* what ESXi holds */
#define FLAT_MAX     (62ULL << 40)

enum kind { SPARSE, FLAT, STREAM };
static const char *const kinds[] = {"monolithicSparse", "monolithicFlat", "streamOptimized"};

/* --- the descriptor --------------------------------------------------------------------------------------- */

/* SCSI disks: VMware's BIOS sees 64 by 32 up to 1 GiB, 128 by 32 up to 2 GiB, 255 by 63 above. */
static void set_geometry(struct hv_disk *d)
{
	uint64_t sectors = d->size / VMDK_SECTOR, cylinders;

	d->heads = sectors < 2097152 ? 64 : sectors < 4194304 ? 128 : 255;
	d->sectors = sectors < 4194304 ? 32 : 63;
	cylinders = sectors / (d->heads * d->sectors);
	d->cylinders = cylinders < 1 ? 1 : cylinders > UINT16_MAX ? UINT16_MAX : (uint32_t)cylinders;
}

static int make_text(const struct hv_disk *d, enum kind kind, const char *extent, char **text,
		     struct hv_error *err)
{
	uint32_t id[4];
	int n;

	do /* all ones, and one less, mean something else */
		hv_disk_random(id, sizeof(id));
	while (id[3] >= UINT32_MAX - 1);
	n = asprintf(text,
		     "# Disk DescriptorFile\nversion=1\nencoding=\"UTF-8\"\nCID=%08x\nparentCID=ffffffff\n"
		     "createType=\"%s\"\n\n# Extent description\nRW %llu %s \"%s\"%s\n\n"
		     "# The Disk Data Base\n#DDB\n\nddb.adapterType = \"lsilogic\"\n"
		     "ddb.geometry.cylinders = \"%u\"\nddb.geometry.heads = \"%u\"\n"
		     "ddb.geometry.sectors = \"%u\"\nddb.longContentID = \"%08x%08x%08x%08x\"\n"
		     "ddb.virtualHWVersion = \"4\"\n",
		     id[3], kinds[kind], (unsigned long long)(d->size / VMDK_SECTOR),
		     kind == FLAT ? "FLAT" : "SPARSE", extent, kind == FLAT ? " 0" : "", d->cylinders,
		     d->heads, d->sectors, id[0], id[1], id[2], id[3]);
	return n < 0 ? hv_fail(err, ENOMEM, "%s: out of memory", d->path) : 0;
}

static int write_text(struct hv_disk *d, enum kind kind, const char *extent, uint64_t at, size_t room,
		      struct hv_error *err)
{
	char *text;
	int rc = make_text(d, kind, extent, &text, err);

	if (rc < 0)
		return rc;
	if (strlen(text) > room)
		rc = hv_fail_usage(err, "%s: the name is too long for the descriptor", d->path);
	else
		rc = hv_disk_file_write(d->file[0], text, strlen(text), at, err);
	free(text);
	return rc;
}

/* --- sparse ----------------------------------------------------------------------------------------------- */

static struct hv_vmdk_header sparse_header(const struct hv_disk *d, uint32_t grain)
{
	struct hv_vmdk_header h = {
		.version = 1,
		.flags = VMDK_FLAG_NEWLINES | VMDK_FLAG_REDUNDANT,
		.per_table = PER_TABLE,
		.capacity = d->size / VMDK_SECTOR,
		.grain = grain / VMDK_SECTOR,
		.descriptor_at = 1,
		.descriptor_size = TEXT_SECTORS,
		.rgd_at = 1 + TEXT_SECTORS,
	};
	uint64_t tables = (h.capacity - 1) / (h.grain * PER_TABLE) + 1;
	uint64_t sectors =
		(tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR + tables * (PER_TABLE * 4 / VMDK_SECTOR);

	h.gd_at = h.rgd_at + sectors;
	h.overhead = hv_round_up(h.gd_at + sectors, h.grain);
	return h;
}

/* A directory at sector `at`, its tables right behind it. */
static int write_directory(struct hv_disk *d, const struct hv_vmdk_header *h, uint64_t at,
			   struct hv_error *err)
{
	uint64_t tables = (h->capacity - 1) / (h->grain * PER_TABLE) + 1,
		 first = at + (tables * 4 + VMDK_SECTOR - 1) / VMDK_SECTOR;
	uint8_t buf[4096];

	for (uint64_t i = 0; i < tables; i += sizeof(buf) / 4) {
		uint64_t n = tables - i < sizeof(buf) / 4 ? tables - i : sizeof(buf) / 4;
		int rc;

		for (uint64_t j = 0; j < n; j++)
			hv_put_le32(buf + j * 4, (uint32_t)(first + (i + j) * (PER_TABLE * 4 / VMDK_SECTOR)));
		rc = hv_disk_file_write(d->file[0], buf, (size_t)n * 4, at * VMDK_SECTOR + i * 4, err);
		if (rc < 0)
			return rc;
	}
	return 0;
}

static int write_header(struct hv_disk *d, const struct hv_vmdk_header *h, struct hv_error *err)
{
	uint8_t sector[VMDK_SECTOR];
	int rc;

	hv_vmdk_header_put(h, sector);
	rc = hv_disk_file_resize(d->file[0], h->overhead * VMDK_SECTOR, err);
	return rc < 0 ? rc : hv_disk_file_write(d->file[0], sector, sizeof(sector), 0, err);
}

static struct hv_vmdk_extent *one_extent(struct hv_disk *d, enum hv_vmdk_type type, unsigned file)
{
	struct hv_vmdk *v = d->state;

	v->extent = calloc(1, sizeof(*v->extent));
	if (!v->extent)
		return NULL;
	v->extents = 1;
	v->extent[0] =
		(struct hv_vmdk_extent){.access = VMDK_RW, .type = type, .length = d->size, .file = file};
	return v->extent;
}

/* All grains now, in their order. */
static int allocate_all(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	uint64_t end = s->data_at + s->grains * s->grain;
	int rc;

	if (end / VMDK_SECTOR > UINT32_MAX)
		return hv_fail_usage(err,
				     "%s: a full sparse file would be longer than 2 TiB, which its tables "
				     "can't hold; use monolithicFlat",
				     s->file->path);
	rc = hv_disk_file_resize(s->file, end, err);
	if (rc < 0)
		return rc;
	if (fallocate(s->file->fd, 0, (off_t)s->data_at, (off_t)(end - s->data_at)) < 0 && errno == ENOSPC)
		return hv_fail_errno(err, "%s: no room for %llu bytes", s->file->path,
				     (unsigned long long)end);
	s->end = end;
	return hv_vmdk_tables_set(s, 0, s->grains, s->data_at, true, err);
}

/* What lies behind the last grain that the tables know was not there at the checkpoint. */
static int cut_off_rest(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	struct hv_vmdk_grains g;
	uint64_t end = s->data_at;

	for (uint64_t grain = 0; grain < s->grains; grain += g.count) {
		int rc = hv_vmdk_scan(s, grain, s->grains - grain, &g, err);

		if (rc < 0)
			return rc;
		if (g.kind == HV_RUN_DATA && g.at + g.count * s->grain > end)
			end = g.at + g.count * s->grain;
	}
	s->end = end;
	return hv_disk_file_resize(s->file, end, err);
}

static int create_sparse(struct hv_disk *d, const struct hv_disk_create *c, bool resume, struct hv_error *err)
{
	struct hv_vmdk_header h;
	struct hv_vmdk_extent *e;
	int rc = 0;

	d->block_size = c->block_size ? c->block_size : GRAIN;
	if (d->block_size < 4096 || d->block_size > 1U << 20 || (d->block_size & (d->block_size - 1)))
		return hv_fail_usage(err, "%s: a grain of %u bytes; powers of two from 4 KiB to 1 MiB can be",
				     d->path, d->block_size);
	h = sparse_header(d, d->block_size);
	if (!resume) {
		rc = write_header(d, &h, err);
		if (rc == 0)
			rc = write_directory(d, &h, h.rgd_at, err);
		if (rc == 0)
			rc = write_directory(d, &h, h.gd_at, err);
		if (rc == 0)
			rc = write_text(d, SPARSE, hv_disk_base_name(d->path), VMDK_SECTOR,
					TEXT_SECTORS * VMDK_SECTOR, err);
	}
	if (rc < 0)
		return rc;
	if (!(e = one_extent(d, VMDK_HOSTED, 0)))
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_vmdk_sparse_new(d, 0, VMDK_HOSTED, &e->sparse, err);
	if (rc == 0 && (e->sparse->length != d->size || e->sparse->grain != d->block_size))
		return hv_fail(err, ESTALE, "%s: what is there was begun with another size", d->path);
	if (rc == 0 && resume)
		return cut_off_rest(e->sparse, err);
	return rc == 0 && c->full ? allocate_all(e->sparse, err) : rc;
}

/* --- flat ------------------------------------------------------------------------------------------------- */

/* NAME.vmdk -> NAME-flat.vmdk */
static char *flat_name(const struct hv_disk *d)
{
	const char *base = hv_disk_base_name(d->path);
	size_t length = strlen(base);
	char *name;

	if (length > 5 && strcasecmp(base + length - 5, ".vmdk") == 0)
		length -= 5;
	return asprintf(&name, "%.*s-flat.vmdk", (int)length, base) < 0 ? NULL : name;
}

static int create_flat(struct hv_disk *d, const struct hv_disk_create *c, bool resume, struct hv_error *err)
{
	char *name = flat_name(d);
	unsigned index;
	int rc;

	if (!name)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	rc = hv_disk_add_output(d, name, &index, err);
	if (rc == 0 && !resume)
		rc = write_text(d, FLAT, name, 0, VMDK_DESCRIPTOR_MAX, err);
	free(name);
	if (rc == 0)
		rc = hv_disk_file_resize(d->file[index], d->size, err);
	if (rc == 0 && !one_extent(d, VMDK_FLAT, index))
		rc = hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	if (rc == 0 && c->full && !resume && fallocate(d->file[index]->fd, 0, 0, (off_t)d->size) < 0 &&
	    errno == ENOSPC)
		rc = hv_fail_errno(err, "%s: no room for %llu bytes", d->file[index]->path,
				   (unsigned long long)d->size);
	return rc;
}

/* --- a stream --------------------------------------------------------------------------------------------- */

static int create_stream(struct hv_disk *d, const struct hv_disk_create *c, bool resume, struct hv_error *err)
{
	/* Version 3: older ones are refused by ESXi ("sparse VMDK version too old"). */
	struct hv_vmdk_header h = {
		.version = 3,
		.flags = VMDK_FLAG_NEWLINES | VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS,
		.per_table = PER_TABLE,
		.capacity = d->size / VMDK_SECTOR,
		.grain = VMDK_STREAM_GRAIN / VMDK_SECTOR,
		.descriptor_at = 1,
		.descriptor_size = TEXT_SECTORS,
		.gd_at = VMDK_GD_AT_END,
		.overhead = VMDK_STREAM_GRAIN / VMDK_SECTOR,
		.compression = 1,
	};
	int rc = 0;

	if (c->block_size && c->block_size != VMDK_STREAM_GRAIN)
		return hv_fail_usage(err, "%s: a stream's grains have 64 KiB", d->path);
	d->format = &hv_vmdk_format_stream;
	d->block_size = VMDK_STREAM_GRAIN;
	if (!resume) {
		rc = write_header(d, &h, err);
		if (rc == 0)
			rc = write_text(d, STREAM, hv_disk_base_name(d->path), VMDK_SECTOR,
					TEXT_SECTORS * VMDK_SECTOR, err);
	}
	/* Nothing is mapped in what is being written: it reads as zeros. */
	if (rc == 0 && !one_extent(d, VMDK_ZERO, 0))
		rc = hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	return rc < 0 ? rc : hv_vmdk_stream_new(d, &h, resume, err);
}

/* --- all -------------------------------------------------------------------------------------------------- */

static int begin(struct hv_disk *d, const struct hv_disk_create *c, bool resume, struct hv_error *err)
{
	static const uint64_t largest[] = {SPARSE_MAX, FLAT_MAX, STREAM_MAX};
	enum kind kind = SPARSE;

	while (c->subformat && kind < STREAM && strcasecmp(c->subformat, kinds[kind]) != 0)
		kind++;
	if (c->size == 0 || c->size > largest[kind])
		return hv_fail_usage(err, "%s: a %s disk of %llu bytes; 1 byte to %llu TiB can be", d->path,
				     kinds[kind], (unsigned long long)c->size,
				     (unsigned long long)(largest[kind] >> 40));
	if (!(d->state = calloc(1, sizeof(struct hv_vmdk))))
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	snprintf(d->subformat, sizeof(d->subformat), "%s", kinds[kind]);
	d->size = hv_round_up(c->size, VMDK_SECTOR);
	set_geometry(d);
	if (kind == FLAT)
		return create_flat(d, c, resume, err);
	return kind == SPARSE ? create_sparse(d, c, resume, err) : create_stream(d, c, resume, err);
}

int hv_vmdk_create(struct hv_disk *d, const struct hv_disk_create *c, struct hv_error *err)
{
	return begin(d, c, false, err);
}

int hv_vmdk_resume(struct hv_disk *d, const struct hv_disk_create *c, struct hv_error *err)
{
	return begin(d, c, true, err);
}
