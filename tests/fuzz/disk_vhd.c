/*
 * Fuzz target: VHD. The bytes are an image: read with its checksums as they are, and once more with them made
 * right, as otherwise hardly a change would get past the footer. A differencing disk finds no parent: what
 * the header says of it is read all the same. Then the image is written to, and what was written must be
 * there.
 */
#include <string.h>

#include "base/bytes.h"
#include "disk.h"

#define SIZE_MAX_FUZZ (1U << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void sum(uint8_t *p, size_t length, size_t field)
{
	uint32_t total = 0;

	hv_put_be32(p + field, 0);
	for (size_t i = 0; i < length; i++)
		total += p[i];
	hv_put_be32(p + field, ~total);
}

/* Footer, copy and header as a writer would leave them. */
static void mend(uint8_t *p, size_t size)
{
	uint64_t header;

	memcpy(p + size - 512, "conectix", 8);
	sum(p + size - 512, 512, 64);
	if (memcmp(p, "conectix", 8) == 0)
		sum(p, 512, 64);
	header = hv_be64(p + size - 512 + 16);
	if (hv_inside(header, 1024, size) && memcmp(p + header, "cxsparse", 8) == 0)
		sum(p + header, 1024, 36);
}

/* A few bytes here and there, read back; refusals are fine, other bytes are not. */
static void scribble(const char *path)
{
	struct hv_disk_options options = {.format = "vhd", .writable = true, .alone = true};
	struct hv_disk_io *io = hv_disk_io_new();
	uint8_t mark[200], got[sizeof(mark)];
	struct hv_error err;
	struct hv_disk *d;

	memset(mark, 0x5a, sizeof(mark));
	if (hv_disk_open(path, &options, &d, &err) == 0) {
		uint64_t size = hv_disk_size(d);

		for (unsigned i = 0; i < 4; i++) {
			uint64_t at = i * (size / 4) / 512 * 512;

			/* Inside one sector, as blocks that overlap would show each other's bytes. */
			if (hv_inside(at, sizeof(mark), size) &&
			    hv_disk_write(d, io, mark, sizeof(mark), at, &err) == 0 &&
			    hv_disk_read(d, io, got, sizeof(got), at, &err) == 0 &&
			    memcmp(mark, got, sizeof(got)) != 0)
				abort();
		}
		(void)hv_disk_zero(d, io, 0, size < SIZE_MAX_FUZZ ? size : SIZE_MAX_FUZZ, &err);
		(void)hv_disk_flush(d, &err);
		hv_disk_close(d);
	}
	hv_disk_io_free(io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;
	char path[32];
	int fd;

	if (size > SIZE_MAX_FUZZ)
		return 0;
	fuzz_image("vhd", data, size, 0);
	if (size < 512)
		return 0;
	copy = malloc(size);
	memcpy(copy, data, size);
	mend(copy, size);
	fuzz_image("vhd", copy, size, 0);
	fd = fuzz_file(copy, size, 0, path);
	scribble(path);
	close(fd);
	free(copy);
	return 0;
}
