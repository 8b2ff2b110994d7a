/*
 * Compressed units: zlib and raw deflate by libdeflate, zstd by libzstd. A stream that gives fewer or more
 * bytes than the unit holds is damage, and nothing is ever written behind the buffer. Decompressors are
 * costly to make, so each thread keeps its own in its struct hv_disk_io.
 */
#include <libdeflate.h>
#include <stdlib.h>
#include <zstd.h>

#include "disk/format.h"

struct hv_disk_io *hv_disk_io_new(void)
{
	return calloc(1, sizeof(struct hv_disk_io));
}

void hv_disk_io_free(struct hv_disk_io *io)
{
	if (!io)
		return;
	if (io->inflate)
		libdeflate_free_decompressor(io->inflate);
	for (unsigned i = 0; i < HV_ARRAY_SIZE(io->deflate); i++)
		if (io->deflate[i])
			libdeflate_free_compressor(io->deflate[i]);
	ZSTD_freeDCtx(io->zstd);
	free(io->unit);
	free(io->stored);
	free(io);
}

static bool have_inflate(struct hv_disk_io *io)
{
	if (!io->inflate)
		io->inflate = libdeflate_alloc_decompressor();
	return io->inflate;
}

int hv_disk_inflate_zlib(struct hv_disk_io *io, const void *in, size_t in_length, void *out,
			 size_t out_length, size_t *used)
{
	size_t took = 0;

	if (!have_inflate(io))
		return -ENOMEM;
	/* A null pointer for the length given asks for exactly out_length bytes. */
	if (libdeflate_zlib_decompress_ex(io->inflate, in, in_length, out, out_length, &took, NULL) !=
	    LIBDEFLATE_SUCCESS)
		return -EBADMSG;
	if (used)
		*used = took;
	return 0;
}

int hv_disk_inflate_raw(struct hv_disk_io *io, const void *in, size_t in_length, void *out, size_t out_length,
			size_t *used)
{
	size_t took = 0;

	if (!have_inflate(io))
		return -ENOMEM;
	if (libdeflate_deflate_decompress_ex(io->inflate, in, in_length, out, out_length, &took, NULL) !=
	    LIBDEFLATE_SUCCESS)
		return -EBADMSG;
	if (used)
		*used = took;
	return 0;
}

int hv_disk_unzstd(struct hv_disk_io *io, const void *in, size_t in_length, void *out, size_t out_length,
		   size_t *used)
{
	ZSTD_outBuffer to = {out, out_length, 0};
	ZSTD_inBuffer from = {in, in_length, 0};

	if (!io->zstd && !(io->zstd = ZSTD_createDCtx()))
		return -ENOMEM;
	ZSTD_DCtx_reset(io->zstd, ZSTD_reset_session_only);
	/* Frames may follow each other, and behind the last the sector's rest is of no meaning. */
	while (to.pos < to.size) {
		size_t before = from.pos, filled = to.pos, rc = ZSTD_decompressStream(io->zstd, &to, &from);

		if (ZSTD_isError(rc) || (from.pos == before && to.pos == filled))
			return -EBADMSG;
	}
	if (used)
		*used = from.pos;
	return 0;
}

size_t hv_disk_deflate_zlib(struct hv_disk_io *io, int level, const void *in, size_t in_length, void *out,
			    size_t room)
{
	struct libdeflate_compressor **c;

	if (level < 0 || level > HV_DEFLATE_MAX)
		return 0;
	c = &io->deflate[level];
	if (!*c && !(*c = libdeflate_alloc_compressor(level)))
		return 0;
	return libdeflate_zlib_compress(*c, in, in_length, out, room);
}
