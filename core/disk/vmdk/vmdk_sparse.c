/*
 * Hosted sparse extents ("KDMV"): what VMware's desktop products write, and, compressed and with markers,
 * what appliances ship as streamOptimized. Rules from "Virtual Disk Format 5.0", sections "Hosted Sparse
 * Extents" and "Stream-Optimized Compressed Sparse Extents". All offsets there are in sectors.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

#define VERSION_MAX    3
#define FLAGS_MUST     0xffff0000U /* a reader has to know these */
#define GRAIN_MAX      (1U << 21)  /* sectors */
#define COMPRESSED_MAX 2048U       /* sectors: a grain is decoded in memory */
#define PER_TABLE_MAX  8192U
#define FOOTER_SEARCH  128 /* sectors of zeros that may stand behind the footer */

static const uint8_t newlines[4] = {'\n', ' ', '\r', '\n'};

void hv_vmdk_header_get(struct hv_vmdk_header *h, const uint8_t s[VMDK_SECTOR])
{
	*h = (struct hv_vmdk_header){
		.version = hv_le32(s + 4),
		.flags = hv_le32(s + 8),
		.capacity = hv_le64(s + 12),
		.grain = hv_le64(s + 20),
		.descriptor_at = hv_le64(s + 28),
		.descriptor_size = hv_le64(s + 36),
		.per_table = hv_le32(s + 44),
		.rgd_at = hv_le64(s + 48),
		.gd_at = hv_le64(s + 56),
		.overhead = hv_le64(s + 64),
		.unclean = s[72] != 0,
		.compression = hv_le16(s + 77),
	};
	memcpy(h->newlines, s + 73, sizeof(h->newlines));
}

void hv_vmdk_header_put(const struct hv_vmdk_header *h, uint8_t s[VMDK_SECTOR])
{
	memset(s, 0, VMDK_SECTOR);
	hv_put_le32(s, VMDK_MAGIC);
	hv_put_le32(s + 4, h->version);
	hv_put_le32(s + 8, h->flags);
	hv_put_le64(s + 12, h->capacity);
	hv_put_le64(s + 20, h->grain);
	hv_put_le64(s + 28, h->descriptor_at);
	hv_put_le64(s + 36, h->descriptor_size);
	hv_put_le32(s + 44, h->per_table);
	hv_put_le64(s + 48, h->rgd_at);
	hv_put_le64(s + 56, h->gd_at);
	hv_put_le64(s + 64, h->overhead);
	s[72] = h->unclean;
	memcpy(s + 73, newlines, sizeof(newlines));
	hv_put_le16(s + 77, h->compression);
}

/* --- the header ------------------------------------------------------------------------------------------- */

static int check_version(const struct hv_vmdk_sparse *s, struct hv_error *err)
{
	const struct hv_vmdk_header *h = &s->header;

	if (h->version < 1 || h->version > VERSION_MAX)
		return hv_fail(err, ENOTSUP, "%s: a sparse extent of version %u; 1 to %d are known",
			       s->file->path, h->version, VERSION_MAX);
	if (h->flags & FLAGS_MUST & ~(VMDK_FLAG_COMPRESSED | VMDK_FLAG_MARKERS))
		return hv_fail(err, ENOTSUP,
			       "%s: the sparse header's flags 0x%08x ask for something that is not known",
			       s->file->path, h->flags);
	if ((h->flags & VMDK_FLAG_MARKERS) && !(h->flags & VMDK_FLAG_COMPRESSED))
		return hv_fail(err, ENOTSUP,
			       "%s: the sparse header's flags 0x%08x say markers without compression",
			       s->file->path, h->flags);
	if ((h->flags & VMDK_FLAG_COMPRESSED) && h->compression != 1)
		return hv_fail(err, ENOTSUP, "%s: compression algorithm %u; only 1 (deflate) is known",
			       s->file->path, h->compression);
	return 0;
}

/* The four bytes are there to be spoilt by a transfer that takes the file for text. */
static int check_newlines(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	const struct hv_vmdk_header *h = &s->header;

	if (!(h->flags & VMDK_FLAG_NEWLINES) || memcmp(h->newlines, newlines, sizeof(newlines)) == 0)
		return 0;
	if (s->disk->salvage)
		return hv_disk_note(s->disk,
				    "%s: the header's line-end check bytes are damaged, as by a "
				    "transfer in ASCII mode",
				    s->file->path);
	return hv_fail_unsafe(
		err,
		"%s: the header's line-end check bytes at offset 73 are %02x %02x %02x %02x "
		"instead of 0a 20 0d 0a: the file was damaged by a transfer in text (FTP ASCII) "
		"mode; fetch it again in binary mode",
		s->file->path, h->newlines[0], h->newlines[1], h->newlines[2], h->newlines[3]);
}

static bool is_power_of_two(uint64_t v)
{
	return v && !(v & (v - 1));
}

static int check_geometry(const struct hv_vmdk_sparse *s, struct hv_error *err)
{
	const struct hv_vmdk_header *h = &s->header;
	uint64_t largest = h->flags & VMDK_FLAG_COMPRESSED ? COMPRESSED_MAX : GRAIN_MAX;

	if (!is_power_of_two(h->grain) || h->grain > largest)
		return hv_fail_unsafe(err,
				      "%s: the sparse header's grain size at offset 20 is %llu sectors; a "
				      "power of two up to %llu is expected",
				      s->file->path, (unsigned long long)h->grain,
				      (unsigned long long)largest);
	if (h->per_table < 1 || h->per_table > PER_TABLE_MAX)
		return hv_fail_unsafe(err,
				      "%s: the sparse header's entries in a grain table at offset 44 are %u; "
				      "512 are usual, up to %u are expected",
				      s->file->path, h->per_table, PER_TABLE_MAX);
	if (h->capacity == 0 || h->capacity > HV_DISK_SIZE_MAX / VMDK_SECTOR)
		return hv_fail_unsafe(err,
				      "%s: the sparse header's capacity at offset 12 is %llu sectors, which "
				      "can't be",
				      s->file->path, (unsigned long long)h->capacity);
	if (h->overhead > UINT64_MAX / VMDK_SECTOR || h->descriptor_at > UINT32_MAX ||
	    h->descriptor_size > UINT32_MAX)
		return hv_fail_unsafe(err, "%s: the sparse header's overhead or descriptor can't be",
				      s->file->path);
	return 0;
}

static int check_header(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	int rc = check_newlines(s, err);

	if (rc == 0)
		rc = check_version(s, err);
	return rc < 0 ? rc : check_geometry(s, err);
}

/* --- the footer ------------------------------------------------------------------------------------------- */

static bool is_zero(const uint8_t *p, size_t length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

/* The last sector that isn't zeros (the end of stream is), and the marker before it. 0: there is none. */
static int last_sectors(const struct hv_vmdk_sparse *s, uint8_t pair[2 * VMDK_SECTOR], uint64_t *at,
			struct hv_error *err)
{
	uint64_t end = hv_disk_file_size(s->file) / VMDK_SECTOR * VMDK_SECTOR;

	for (int i = 0; i <= FOOTER_SEARCH && end >= 3 * VMDK_SECTOR; i++, end -= VMDK_SECTOR) {
		int rc = hv_disk_file_read(s->file, "footer", pair, 2 * VMDK_SECTOR, end - 2 * VMDK_SECTOR,
					   err);

		if (rc < 0)
			return rc;
		if (!is_zero(pair + VMDK_SECTOR, VMDK_SECTOR)) {
			*at = end - VMDK_SECTOR;
			return 0;
		}
	}
	*at = 0;
	return 0;
}

static int no_footer(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	if (s->disk->salvage)
		return hv_vmdk_rebuild(s, err);
	return hv_fail_unsafe(
		err,
		"%s: the stream ends at offset %llu without the footer that says where its grain "
		"directory is: the file is cut off; fetch it again, or read what is there with "
		"--salvage",
		s->file->path, (unsigned long long)hv_disk_file_size(s->file));
}

/* The directory is at the end: so says the header, and the footer, a copy of it, says where. */
static int read_footer(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	uint8_t pair[2 * VMDK_SECTOR];
	struct hv_vmdk_header footer;
	uint64_t at;
	int rc = last_sectors(s, pair, &at, err);

	if (rc < 0)
		return rc;
	if (!at || hv_le32(pair + VMDK_SECTOR) != VMDK_MAGIC || hv_le32(pair + 8) != 0 ||
	    hv_le32(pair + 12) != VMDK_MARK_FOOTER)
		return no_footer(s, err);
	hv_vmdk_header_get(&footer, pair + VMDK_SECTOR);
	if (footer.capacity != s->header.capacity || footer.grain != s->header.grain ||
	    footer.per_table != s->header.per_table || footer.flags != s->header.flags ||
	    footer.gd_at == VMDK_GD_AT_END) {
		if (s->disk->salvage)
			return hv_vmdk_rebuild(s, err);
		return hv_fail_unsafe(err,
				      "%s: the footer at offset %llu contradicts the header: the file is put "
				      "together from two, or damaged",
				      s->file->path, (unsigned long long)at);
	}
	s->header.gd_at = footer.gd_at;
	s->header.rgd_at = footer.rgd_at;
	return 0;
}

/* --- opening ---------------------------------------------------------------------------------------------- */

static uint64_t sectors(uint64_t n)
{
	return n > UINT64_MAX / VMDK_SECTOR ? UINT64_MAX : n * VMDK_SECTOR;
}

static void take_header(struct hv_vmdk_sparse *s)
{
	const struct hv_vmdk_header *h = &s->header;
	uint64_t text_end = (h->descriptor_at + h->descriptor_size) * VMDK_SECTOR;

	s->length = h->capacity * VMDK_SECTOR;
	s->grain = h->grain * VMDK_SECTOR;
	s->grains = (h->capacity - 1) / h->grain + 1;
	s->per_table = h->per_table;
	s->directory = (s->grains - 1) / h->per_table + 1;
	s->entry_size = 4;
	s->table_bytes = (uint32_t)hv_round_up((uint64_t)h->per_table * 4, VMDK_SECTOR);
	s->zero_gte = h->flags & VMDK_FLAG_ZERO_GTE;
	s->compressed = h->flags & VMDK_FLAG_COMPRESSED;
	s->markers = h->flags & VMDK_FLAG_MARKERS;
	s->data_at = h->overhead ? h->overhead * VMDK_SECTOR : VMDK_SECTOR;
	if (h->descriptor_at && s->data_at < text_end)
		s->data_at = text_end;
	if (s->data_at < VMDK_SECTOR)
		s->data_at = VMDK_SECTOR;
}

static int may_write(const struct hv_vmdk_sparse *s, struct hv_error *err)
{
	if (!s->file->writable || !s->compressed)
		return 0;
	return hv_fail(err, ENOTSUP,
		       "%s: a compressed VMDK can't be written in place; convert it to another format first",
		       s->file->path);
}

int hv_vmdk_hosted_open(struct hv_vmdk_sparse *s, struct hv_error *err)
{
	uint8_t sector[VMDK_SECTOR];
	int rc = hv_disk_file_read(s->file, "sparse header", sector, sizeof(sector), 0, err);

	if (rc < 0)
		return rc;
	if (hv_le32(sector) != VMDK_MAGIC)
		return hv_fail_unsafe(err, "%s: no sparse extent: its magic number at offset 0 is not KDMV",
				      s->file->path);
	hv_vmdk_header_get(&s->header, sector);
	rc = check_header(s, err);
	if (rc < 0)
		return rc;
	take_header(s);
	rc = may_write(s, err);
	if (rc == 0 && s->header.unclean)
		rc = hv_disk_note(s->disk,
				  "%s: it was not closed cleanly: the last writes before a crash may "
				  "be missing",
				  s->file->path);
	if (rc == 0 && s->header.gd_at == VMDK_GD_AT_END)
		rc = read_footer(s, err);
	s->gd_at = sectors(s->header.gd_at);
	s->rgd_at = s->header.flags & VMDK_FLAG_REDUNDANT && s->header.rgd_at != VMDK_GD_AT_END
			    ? sectors(s->header.rgd_at)
			    : 0;
	return rc < 0 ? rc : hv_vmdk_tables_open(s, err);
}

int hv_vmdk_sparse_new(struct hv_disk *d, unsigned index, enum hv_vmdk_type dialect,
		       struct hv_vmdk_sparse **out, struct hv_error *err)
{
	struct hv_vmdk_sparse *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return hv_fail(err, ENOMEM, "%s: out of memory", d->path);
	*out = s;
	pthread_mutex_init(&s->lock, NULL);
	s->disk = d;
	s->dialect = dialect;
	s->index = index;
	s->file = s->tables = d->file[index];
	s->known_end = UINT64_MAX;
	if (dialect == VMDK_HOSTED)
		return hv_vmdk_hosted_open(s, err);
	rc = dialect == VMDK_COWD ? hv_vmdk_cowd_open(s, err) : hv_vmdk_sesparse_open(s, err);
	if (rc == 0 && s->file->writable)
		return hv_fail(err, ENOTSUP, "%s: VMFS's sparse extents can't be written in place",
			       s->file->path);
	return rc;
}

void hv_vmdk_sparse_free(struct hv_vmdk_sparse *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < VMDK_BLOCKS; i++)
		free(s->block[i].bytes);
	hv_table_free(s->gd);
	hv_table_free(s->rgd);
	if (s->tables != s->file)
		hv_disk_file_free(s->tables);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
