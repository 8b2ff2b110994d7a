/*
 * Fuzz target: VHDX. Its structures stand on MiBs, so an input is a compact form of a file: a byte of flags,
 * a byte with the file's MiB, and then pieces, each its offset (4 bytes), its length (2 bytes) and its bytes;
 * everything between is zeros. By the flags the checksums of headers, region tables and log entries are made
 * right, as hardly a change would get past them. The file is read both ways; then its log is written out and
 * the disk is changed, and where a check had found nothing wrong, what was written must be there, also after
 * the next open.
 */
#include <string.h>

#include "base/bytes.h"
#include "disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FLAG_HEADERS 1
#define FLAG_REGIONS 2
#define FLAG_LOG     4
#define FILE_MIB     24
#define MIB          (1U << 20)

static uint32_t crc_of(uint32_t crc, const uint8_t *at, size_t length)
{
	static const uint32_t nibble[16] = {0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1,
					    0x417b1dbc, 0x5125dad3, 0x61c69362, 0x7198540d,
					    0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
					    0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75};

	crc = ~crc;
	while (length--) {
		crc ^= *at++;
		crc = (crc >> 4) ^ nibble[crc & 15];
		crc = (crc >> 4) ^ nibble[crc & 15];
	}
	return ~crc;
}

/* A part of the file that is all zeros takes no memory: bytes are put and got one structure at a time. */
static void put(int fd, const void *bytes, size_t length, uint64_t at)
{
	if (pwrite(fd, bytes, length, (off_t)at) != (ssize_t)length)
		abort();
}

static size_t get(int fd, void *bytes, size_t length, uint64_t at)
{
	ssize_t n = pread(fd, bytes, length, (off_t)at);

	return n > 0 ? (size_t)n : 0;
}

static void seal(int fd, uint64_t at, size_t length)
{
	static uint8_t bytes[65536];

	if (get(fd, bytes, length, at) != length)
		return;
	hv_put_le32(bytes + 4, 0);
	hv_put_le32(bytes + 4, crc_of(0, bytes, length));
	put(fd, bytes, 8, at);
}

/* An entry of at most 64 KiB, which may go on at the log's start. */
static void seal_entry(int fd, uint64_t log, uint32_t log_length, uint64_t at, uint8_t first[4096])
{
	uint32_t left = hv_le32(first + 8), crc;
	uint8_t bytes[4096];

	if (left % 4096 || left > 65536 || left == 0)
		return;
	hv_put_le32(first + 4, 0);
	crc = crc_of(0, first, 4096);
	for (uint64_t sector = at + 4096; left > 4096; left -= 4096, sector += 4096)
		crc = crc_of(crc, bytes, get(fd, bytes, 4096, log + sector % log_length));
	hv_put_le32(first + 4, crc);
	put(fd, first, 8, log + at);
}

/* The entries of the log where the second header puts it. */
static void seal_log(int fd)
{
	uint8_t bytes[4096];
	uint64_t log;
	uint32_t length;

	if (get(fd, bytes, 80, (128 << 10)) != 80)
		return;
	log = hv_le64(bytes + 72);
	length = hv_le32(bytes + 68);
	if (log > FILE_MIB * MIB || length > 2 * MIB || length % 4096)
		return;
	for (uint64_t at = 0; at < length; at += 4096)
		if (get(fd, bytes, 4096, log + at) == 4096 && memcmp(bytes, "loge", 4) == 0)
			seal_entry(fd, log, length, at, bytes);
}

static int expand(const uint8_t *data, size_t length, char path[32])
{
	uint64_t size = (uint64_t)(data[1] % FILE_MIB + 1) * MIB;
	int fd = fuzz_file("", 0, size, path);
	size_t at = 2;

	while (length - at > 6) {
		uint64_t to = hv_le32(data + at);
		size_t n = hv_le16(data + at + 4);

		at += 6;
		if (n > length - at)
			n = length - at;
		if (hv_inside(to, n, size))
			put(fd, data + at, n, to);
		at += n;
	}
	for (unsigned i = 0; i < 2 && data[0] & FLAG_HEADERS; i++)
		seal(fd, i ? 128 << 10 : 64 << 10, 4096);
	for (unsigned i = 0; i < 2 && data[0] & FLAG_REGIONS; i++)
		seal(fd, i ? 256 << 10 : 192 << 10, 65536);
	if (data[0] & FLAG_LOG)
		seal_log(fd);
	return fd;
}

static bool is_sound(struct hv_disk *d)
{
	struct hv_disk_check check = {0};
	struct hv_error err;

	return hv_disk_check(d, &check, &err) == 0 && check.errors == 0;
}

#define MARKS 4

static uint64_t mark_at(const struct hv_disk *d, unsigned i)
{
	return i * (hv_disk_size(d) / MARKS) / 4096 * 4096;
}

/* Bytes here and there; which of them were taken. */
static void scribble(struct hv_disk *d, struct hv_disk_io *io, bool taken[MARKS])
{
	uint8_t mark[200];
	struct hv_error err;

	memset(mark, 0x5a, sizeof(mark));
	for (unsigned i = 0; i < MARKS; i++)
		taken[i] = hv_inside(mark_at(d, i), sizeof(mark), hv_disk_size(d)) &&
			   hv_disk_write(d, io, mark, sizeof(mark), mark_at(d, i), &err) == 0;
}

static void must_be_there(struct hv_disk *d, struct hv_disk_io *io, const bool taken[MARKS])
{
	uint8_t got[200];
	struct hv_error err;

	for (unsigned i = 0; i < MARKS; i++) {
		if (!taken[i])
			continue;
		if (hv_disk_read(d, io, got, sizeof(got), mark_at(d, i), &err) < 0)
			abort();
		for (unsigned j = 0; j < sizeof(got); j++)
			if (got[j] != 0x5a)
				abort();
	}
}

static void change(const char *path)
{
	struct hv_disk_options options = {
		.format = "vhdx", .writable = true, .replay_log = true, .alone = true};
	struct hv_disk_io *io = hv_disk_io_new();
	bool taken[MARKS], sound;
	struct hv_error err;
	struct hv_disk *d;

	if (hv_disk_open(path, &options, &d, &err) == 0) {
		sound = is_sound(d);
		if (sound) {
			scribble(d, io, taken);
			must_be_there(d, io, taken);
		}
		(void)hv_disk_flush(d, &err);
		hv_disk_close(d);
		options.writable = options.replay_log = false;
		if (sound) {
			if (hv_disk_open(path, &options, &d, &err) < 0 || !is_sound(d))
				abort();
			must_be_there(d, io, taken);
			hv_disk_close(d);
		}
	}
	hv_disk_io_free(io);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *found;
	struct hv_error err;
	char path[32];
	int fd;

	if (size < 2)
		return 0;
	fd = expand(data, size, path);
	(void)hv_disk_probe(path, 0, 0, &found, &err);
	fuzz_disk(path, "vhdx", false);
	fuzz_disk(path, "vhdx", true);
	change(path);
	close(fd);
	return 0;
}
