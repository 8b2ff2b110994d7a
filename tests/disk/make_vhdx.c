/*
 * See make_vhdx.h. Nothing here is shared with the reader but the byte order.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "make_vhdx.h"

static void put(int fd, const void *bytes, size_t length, uint64_t at)
{
	if (pwrite(fd, bytes, length, (off_t)at) != (ssize_t)length)
		abort();
}

static void get(int fd, void *bytes, size_t length, uint64_t at)
{
	if (pread(fd, bytes, length, (off_t)at) != (ssize_t)length)
		abort();
}

static void *zeros(size_t length)
{
	void *bytes = calloc(1, length);

	if (!bytes)
		abort();
	return bytes;
}

/* CRC-32C, bit by bit but for a table made on the way. */
uint32_t mk_crc(uint32_t crc, const void *data, size_t length)
{
	const uint8_t *at = data;
	uint32_t table[256];

	for (uint32_t i = 0; i < 256; i++) {
		table[i] = i;
		for (int bit = 0; bit < 8; bit++)
			table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0x82f63b78 : 0);
	}
	crc = ~crc;
	while (length--)
		crc = crc >> 8 ^ table[(crc ^ *at++) & 0xff];
	return ~crc;
}

/* A GUID as the specification prints it, into its binary form. */
static void guid(uint8_t *to, const char *text)
{
	unsigned v[11];
	int n = 0;

	for (unsigned i = 0; i < 11; i++) {
		char digits[9] = "";
		unsigned width = i == 0 ? 8 : i < 3 ? 4 : 2;

		while (text[n] == '-')
			n++;
		memcpy(digits, text + n, width);
		n += (int)width;
		v[i] = (unsigned)strtoul(digits, NULL, 16);
	}
	hv_put_le32(to, v[0]);
	hv_put_le16(to + 4, (uint16_t)v[1]);
	hv_put_le16(to + 6, (uint16_t)v[2]);
	for (unsigned i = 0; i < 8; i++)
		to[8 + i] = (uint8_t)v[3 + i];
}

static void seal(uint8_t *bytes, size_t length)
{
	hv_put_le32(bytes + 4, 0);
	hv_put_le32(bytes + 4, mk_crc(0, bytes, length));
}

void mk_header(struct mk_vhdx *m, unsigned which, uint64_t sequence)
{
	uint8_t h[4096] = "head";

	hv_put_le64(h + 8, sequence);
	memset(h + 16, 0x77, 16);
	memset(h + 32, m->id, 16);
	memset(h + 48, m->log_id, 16);
	hv_put_le16(h + 66, 1);
	hv_put_le32(h + 68, m->log_length);
	hv_put_le64(h + 72, MK_LOG);
	seal(h, sizeof(h));
	put(m->fd, h, sizeof(h), which ? 128 << 10 : 64 << 10);
}

static void region(uint8_t *at, const char *id, uint64_t offset, uint64_t length)
{
	guid(at, id);
	hv_put_le64(at + 16, offset);
	hv_put_le32(at + 24, (uint32_t)length);
	hv_put_le32(at + 28, 1);
}

void mk_regions(struct mk_vhdx *m, unsigned which)
{
	uint8_t *t = zeros(64 << 10);

	memcpy(t, "regi", 4);
	hv_put_le32(t + 8, 2);
	region(t + 16, "2DC27766-F623-4200-9D64-115E9BFD4A08", m->bat, m->bat_length);
	region(t + 48, "8B7CA206-4790-4B9A-B8FE-575F050F886E", m->metadata, MK_MIB);
	seal(t, 64 << 10);
	put(m->fd, t, 64 << 10, which ? 256 << 10 : 192 << 10);
	free(t);
}

static void item(uint8_t *table, unsigned index, const char *id, uint32_t length, uint32_t flags)
{
	uint8_t *at = table + 32 + index * 32;

	guid(at, id);
	hv_put_le32(at + 16, (64 << 10) + index * 64);
	hv_put_le32(at + 20, length);
	hv_put_le32(at + 24, flags);
	hv_put_le16(table + 10, (uint16_t)(index + 1));
}

static uint32_t put_text(uint8_t *to, const char *text)
{
	uint32_t n = 0;

	for (; text[n / 2]; n += 2)
		hv_put_le16(to + n, (uint8_t)text[n / 2]);
	return n;
}

/* 2.6.2.6: header, table of pairs, and the strings behind it. */
static uint32_t locator(const struct mk_vhdx *m, uint8_t *to)
{
	uint32_t count = 0, at;

	while (count < 8 && m->key[count])
		count++;
	guid(to, "B04AEFB7-D19E-4A81-B789-25B8E9445913");
	hv_put_le16(to + 18, (uint16_t)count);
	at = 20 + count * 12;
	for (uint32_t i = 0; i < count; i++) {
		uint8_t *pair = to + 20 + i * 12;
		uint32_t length = put_text(to + at, m->key[i]);

		hv_put_le32(pair, at);
		hv_put_le16(pair + 8, (uint16_t)length);
		at += length;
		length = put_text(to + at, m->value[i]);
		hv_put_le32(pair + 4, at);
		hv_put_le16(pair + 10, (uint16_t)length);
		at += length;
	}
	return at;
}

static void metadata(struct mk_vhdx *m)
{
	uint8_t *t = zeros(80 << 10), *values = t + (64 << 10);

	memcpy(t, "metadata", 8);
	hv_put_le32(values, m->block_size);
	hv_put_le32(values + 4, m->flags);
	hv_put_le64(values + 64, m->size);
	memset(values + 128, m->id, 16);
	hv_put_le32(values + 192, m->sector_size);
	hv_put_le32(values + 256, 4096);
	item(t, 0, "CAA16737-FA36-4D43-B3B6-33F0AA44E76B", 8, 4);
	item(t, 1, "2FA54224-CD1B-4876-B211-5DBED83BF4B8", 8, 6);
	item(t, 2, "BECA12AB-B2E6-4523-93EF-C309E000C746", 16, 6);
	item(t, 3, "8141BF1D-A96F-4709-BA47-F233A8FAAB5F", 4, 6);
	item(t, 4, "CDA348C7-445D-4471-9CC9-E9885251C556", 4, 6);
	if (m->key[0])
		item(t, 5, "A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", locator(m, values + 320), 4);
	put(m->fd, t, 80 << 10, m->metadata);
	free(t);
}

void mk_begin(struct mk_vhdx *m, const char *path)
{
	uint64_t ratio, blocks, chunks;

	m->block_size = m->block_size ? m->block_size : MK_MIB;
	m->sector_size = m->sector_size ? m->sector_size : 512;
	m->log_length = m->log_length ? m->log_length : MK_MIB;
	m->id = m->id ? m->id : 0x11;
	if (m->key[0])
		m->flags |= 2;
	m->metadata = MK_LOG + m->log_length;
	m->bat = m->metadata + MK_MIB;
	ratio = (m->sector_size * (1ULL << 23)) / m->block_size;
	blocks = (m->size + m->block_size - 1) / m->block_size;
	chunks = (blocks + ratio - 1) / ratio;
	m->bat_length = (chunks * (ratio + 1) * 8 + MK_MIB) / MK_MIB * MK_MIB;
	m->next = m->bat + m->bat_length;
	m->fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)m->next) < 0)
		abort();
	put(m->fd, "vhdxfilet\0e\0s\0t", 16, 0);
	m->sequence = 8;
	mk_header(m, 0, 7);
	mk_header(m, 1, 8);
	mk_regions(m, 0);
	mk_regions(m, 1);
	metadata(m);
}

void mk_end(struct mk_vhdx *m)
{
	struct stat st;

	if (fstat(m->fd, &st) < 0)
		abort();
	if ((uint64_t)st.st_size < m->next && ftruncate(m->fd, (off_t)m->next) < 0)
		abort();
	close(m->fd);
	m->fd = -1;
}

static uint64_t ratio_of(const struct mk_vhdx *m)
{
	return m->sector_size * (1ULL << 23) / m->block_size;
}

uint64_t mk_index(const struct mk_vhdx *m, uint64_t block)
{
	return block + block / ratio_of(m);
}

void mk_entry(struct mk_vhdx *m, uint64_t index, uint64_t entry)
{
	uint8_t bytes[8];

	hv_put_le64(bytes, entry);
	put(m->fd, bytes, 8, m->bat + index * 8);
}

void mk_pattern(uint8_t *buf, size_t length, uint32_t seed, uint64_t from)
{
	for (size_t i = 0; i < length; i++) {
		uint64_t word = ((uint64_t)seed << 40 | (from + i) >> 3) * 0x9e3779b97f4a7c15;

		buf[i] = (uint8_t)(word >> (8 * ((from + i) & 7)));
	}
}

uint64_t mk_room(struct mk_vhdx *m, uint64_t length, uint32_t seed)
{
	uint64_t at = m->next;
	uint8_t *bytes = zeros(length);

	if (seed)
		mk_pattern(bytes, length, seed, 0);
	put(m->fd, bytes, length, at);
	free(bytes);
	m->next = at + (length + MK_MIB - 1) / MK_MIB * MK_MIB;
	return at;
}

void mk_block(struct mk_vhdx *m, uint64_t block, unsigned state, uint32_t seed)
{
	mk_entry(m, mk_index(m, block), mk_room(m, m->block_size, seed) | state);
}

void mk_bitmap(struct mk_vhdx *m, uint64_t chunk, uint64_t first, uint64_t count)
{
	uint64_t index = chunk * (ratio_of(m) + 1) + ratio_of(m);
	uint8_t entry[8], byte;

	get(m->fd, entry, 8, m->bat + index * 8);
	if (hv_le64(entry) == 0) {
		hv_put_le64(entry, mk_room(m, MK_MIB, 0) | MK_FULL);
		put(m->fd, entry, 8, m->bat + index * 8);
	}
	for (uint64_t bit = first; bit < first + count; bit++) {
		uint64_t at = (hv_le64(entry) & ~(MK_MIB - 1)) + bit / 8;

		get(m->fd, &byte, 1, at);
		byte |= (uint8_t)(1 << bit % 8);
		put(m->fd, &byte, 1, at);
	}
}

static uint64_t file_size(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		abort();
	return (uint64_t)st.st_size / MK_MIB * MK_MIB;
}

static unsigned data_changes(const struct mk_entry *e)
{
	unsigned n = 0;

	for (unsigned i = 0; i < e->changes; i++)
		n += e->change[i].data != NULL;
	return n;
}

/* 2.3.1.3: eight bytes at the start and four at the end go into the descriptor. */
static void data_sector(uint8_t *descriptor, uint8_t *sector, const uint8_t *data, uint64_t sequence)
{
	memcpy(descriptor, "desc", 4);
	memcpy(descriptor + 4, data + 4092, 4);
	memcpy(descriptor + 8, data, 8);
	memcpy(sector, data, 4096);
	memcpy(sector, "data", 4);
	hv_put_le32(sector + 4, (uint32_t)(sequence >> 32));
	hv_put_le32(sector + 4092, (uint32_t)sequence);
}

uint32_t mk_log(struct mk_vhdx *m, const struct mk_entry *e)
{
	uint32_t descriptors = (64 + e->changes * 32 + 4095) / 4096 * 4096,
		 length = descriptors + data_changes(e) * 4096;
	uint8_t *bytes = zeros(length), *sector = bytes + descriptors;

	memcpy(bytes, "loge", 4);
	hv_put_le32(bytes + 8, length);
	hv_put_le32(bytes + 12, e->tail);
	hv_put_le64(bytes + 16, e->sequence);
	hv_put_le32(bytes + 24, e->changes);
	memset(bytes + 32, e->id ? e->id : m->log_id, 16);
	hv_put_le64(bytes + 48, e->flushed ? e->flushed : file_size(m->fd));
	hv_put_le64(bytes + 56, e->last ? e->last : file_size(m->fd));
	for (unsigned i = 0; i < e->changes; i++) {
		uint8_t *d = bytes + 64 + i * 32;

		if (e->change[i].data) {
			data_sector(d, sector, e->change[i].data, e->sequence);
			sector += 4096;
		} else {
			memcpy(d, "zero", 4);
			hv_put_le64(d + 8, e->change[i].zeros);
		}
		hv_put_le64(d + 16, e->change[i].at);
		hv_put_le64(d + 24, e->sequence);
	}
	seal(bytes, length);
	for (uint32_t i = 0; i < length; i += 4096)
		put(m->fd, bytes + i, 4096, MK_LOG + (e->at + i) % m->log_length);
	free(bytes);
	return length;
}

void mk_poke(const char *path, uint64_t at, const void *bytes, size_t length)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		abort();
	put(fd, bytes, length, at);
	close(fd);
}

void mk_fix(const char *path)
{
	static const struct {
		uint32_t at, length;
	} sealed[] = {{64 << 10, 4096}, {128 << 10, 4096}, {192 << 10, 64 << 10}, {256 << 10, 64 << 10}};
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		abort();
	for (unsigned i = 0; i < 4; i++) {
		uint8_t *bytes = zeros(sealed[i].length);

		get(fd, bytes, sealed[i].length, sealed[i].at);
		seal(bytes, sealed[i].length);
		put(fd, bytes, sealed[i].length, sealed[i].at);
		free(bytes);
	}
	close(fd);
}
