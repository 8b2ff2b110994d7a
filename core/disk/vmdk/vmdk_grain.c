/*
 * Compressed grains: a marker (the grain's first sector on the disk, the size of what follows) and a zlib
 * stream. Without markers the stream stands there alone, or, as VMware's own reader has it, behind its size.
 * The specification says deflate (RFC 1951); all writers use zlib's form of it (RFC 1950), whose checksum
 * also tells a damaged grain from a sound one.
 */
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "disk/vmdk/vmdk_impl.h"

/* The last grain of a disk may be stored short, as long as the disk goes, or in full. */
static int inflate(const struct hv_vmdk_sparse *s, struct hv_disk_io *io, const uint8_t *in, size_t length,
		   uint8_t *out, size_t out_length, size_t *used)
{
	uint8_t *whole;
	int rc = hv_disk_inflate_zlib(io, in, length, out, out_length, used);

	if (rc != -EBADMSG || out_length == s->grain)
		return rc;
	whole = malloc(s->grain);
	if (!whole)
		return -ENOMEM;
	rc = hv_disk_inflate_zlib(io, in, length, whole, s->grain, used);
	if (rc == 0)
		memcpy(out, whole, out_length);
	free(whole);
	return rc;
}

static int failed(const struct hv_vmdk_sparse *s, const struct hv_run *run, int rc, struct hv_error *err)
{
	if (rc == -ENOMEM)
		return hv_fail(err, ENOMEM, "%s: out of memory", s->file->path);
	return hv_fail_unsafe(
		err,
		"%s: the compressed grain at offset %llu doesn't give the %u bytes expected for "
		"the disk's offset %llu",
		s->file->path, (unsigned long long)run->at, run->unit_length, (unsigned long long)run->unit);
}

static int decode_bare(const struct hv_vmdk_sparse *s, struct hv_disk_io *io, const struct hv_run *run,
		       const uint8_t *stored, size_t length, uint8_t *out, size_t *used, struct hv_error *err)
{
	int rc = inflate(s, io, stored, length, out, run->unit_length, used);

	if (rc == -EBADMSG && length > 4 && hv_le32(stored) <= length - 4) {
		rc = inflate(s, io, stored + 4, hv_le32(stored), out, run->unit_length, used);
		*used = 4 + hv_le32(stored);
	}
	return rc < 0 ? failed(s, run, rc, err) : 0;
}

static int check_marker(const struct hv_vmdk_sparse *s, const struct hv_run *run, uint64_t expected,
			const uint8_t *stored, size_t length, struct hv_error *err)
{
	uint64_t lba;
	uint32_t size;

	if (length < VMDK_MARK_GRAIN)
		return hv_fail_unsafe(err, "%s: the grain at offset %llu is cut off in its marker",
				      s->file->path, (unsigned long long)run->at);
	lba = hv_le64(stored);
	size = hv_le32(stored + 8);
	if (lba != expected)
		return hv_fail_unsafe(err,
				      "%s: the grain marker at offset %llu is for sector %llu, and the grain "
				      "table has it for sector %llu",
				      s->file->path, (unsigned long long)run->at, (unsigned long long)lba,
				      (unsigned long long)expected);
	if (size == 0 || size > length - VMDK_MARK_GRAIN)
		return hv_fail_unsafe(
			err,
			"%s: the grain marker at offset %llu says %u bytes of data, and there is "
			"room for 1 to %zu before what follows",
			s->file->path, (unsigned long long)run->at, size, length - VMDK_MARK_GRAIN);
	return 0;
}

int hv_vmdk_decode(struct hv_disk *d, struct hv_disk_io *io, const struct hv_run *run, const uint8_t *stored,
		   size_t stored_length, uint8_t *out, size_t *used, struct hv_error *err)
{
	const struct hv_vmdk_extent *e = hv_vmdk_extent_at(d->state, run->unit);
	const struct hv_vmdk_sparse *s = e->sparse;
	int rc;

	if (!s->markers)
		return decode_bare(s, io, run, stored, stored_length, out, used, err);
	rc = check_marker(s, run, (run->unit - e->start) / VMDK_SECTOR, stored, stored_length, err);
	if (rc < 0)
		return rc;
	rc = inflate(s, io, stored + VMDK_MARK_GRAIN, hv_le32(stored + 8), out, run->unit_length, used);
	*used = VMDK_MARK_GRAIN + hv_le32(stored + 8);
	return rc < 0 ? failed(s, run, rc, err) : 0;
}
