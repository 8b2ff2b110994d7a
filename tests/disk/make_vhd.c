/*
 * See make_vhd.h. Layout of a dynamic disk: copy of the footer, header, parent locators, table, blocks,
 * footer.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "make_vhd.h"

static void put(int fd, const void *data, size_t length, uint64_t at)
{
	if (pwrite(fd, data, length, (off_t)at) != (ssize_t)length)
		abort();
}

static void put_sum(uint8_t *p, size_t length, size_t field)
{
	uint32_t sum = 0;

	hv_put_be32(p + field, 0);
	for (size_t i = 0; i < length; i++)
		sum += p[i];
	hv_put_be32(p + field, ~sum);
}

static void footer(const struct make_vhd *m, uint8_t *f)
{
	memset(f, 0, 512);
	memcpy(f, "conectix", 8);
	hv_put_be32(f + 8, 2);
	hv_put_be32(f + 12, 0x00010000);
	hv_put_be64(f + 16, m->type == 2 ? UINT64_MAX : 512);
	hv_put_be32(f + 24, 1000000);
	memcpy(f + 28, m->creator ? m->creator : "win ", 4);
	hv_put_be32(f + 32, 0x00060001);
	memcpy(f + 36, "Wi2k", 4);
	hv_put_be64(f + 40, m->size);
	hv_put_be64(f + 48, m->size);
	hv_put_be16(f + 56, m->cylinders);
	f[58] = m->heads;
	f[59] = m->sectors;
	hv_put_be32(f + 60, m->type);
	memset(f + 68, m->id, 16);
	f[84] = m->saved;
	put_sum(f, 512, 64);
}

/* A locator: its entry in the header, and its text at *at in the file. */
static void locator(int fd, uint8_t *entry, const char *code, const char *text, uint64_t *at)
{
	uint8_t bytes[1024] = {0};
	size_t n = strlen(text), length = n;

	if (code[0] == 'W' && code[1] == '2') {
		for (size_t i = 0; i < n; i++)
			bytes[2 * i] = (uint8_t)text[i];
		length = 2 * n;
	} else {
		memcpy(bytes, text, n);
	}
	memcpy(entry, code, 4);
	hv_put_be32(entry + 4, 512);
	hv_put_be32(entry + 8, (uint32_t)length);
	hv_put_be64(entry + 16, *at);
	put(fd, bytes, sizeof(bytes), *at);
	*at += sizeof(bytes);
}

static void locators(int fd, const struct make_vhd *m, uint8_t *h, uint64_t *at)
{
	/* Not in the order in which a reader is to try them. */
	const char *texts[] = {m->macx, m->wi2k, m->wi2r, m->w2ru, m->w2ku};
	static const char *const codes[] = {"MacX", "Wi2k", "Wi2r", "W2ru", "W2ku"};
	uint8_t *entry = h + 576;

	for (unsigned i = 0; i < 5; i++) {
		if (!texts[i])
			continue;
		locator(fd, entry, codes[i], texts[i], at);
		entry += 24;
	}
}

static bool present(const struct make_vhd *m, uint64_t sector)
{
	return !m->present || m->present[sector] == '1';
}

/* One block at `at`: bitmap, sectors. false when it has no sector and isn't wanted. */
static bool block(int fd, const struct make_vhd *m, uint64_t number, uint32_t block_size, uint64_t at,
		  uint32_t bitmap_size)
{
	uint8_t *bytes = calloc(1, (size_t)bitmap_size + block_size);
	uint64_t first = number * (block_size / 512), sectors = m->size / 512;
	bool any = m->allocate_empty;

	for (uint32_t i = 0; i < block_size / 512 && first + i < sectors; i++) {
		uint8_t *to = bytes + bitmap_size + (size_t)i * 512;

		if (present(m, first + i)) {
			any = true;
			bytes[i / 8] |= (uint8_t)(0x80 >> i % 8);
			memcpy(to, m->data + (first + i) * 512, 512);
		} else if (m->noise) {
			memset(to, 0xa5, 512);
		}
	}
	if (any)
		put(fd, bytes, (size_t)bitmap_size + block_size, at);
	free(bytes);
	return any;
}

static void dynamic(int fd, const struct make_vhd *m, struct made_vhd *made)
{
	uint32_t block_size = m->block_size ? m->block_size : 2U << 20, bitmap_size = block_size / 512 / 8;
	uint64_t blocks = (m->size + block_size - 1) / block_size, at = 1536;
	uint8_t h[1024] = {0}, *table;
	size_t name = m->name ? strlen(m->name) : 0, table_size = (size_t)((blocks * 4 + 511) / 512 * 512);

	bitmap_size = (bitmap_size + 511) / 512 * 512;
	if (bitmap_size == 0)
		bitmap_size = 512;
	memcpy(h, "cxsparse", 8);
	hv_put_be64(h + 8, UINT64_MAX);
	hv_put_be32(h + 24, 0x00010000);
	hv_put_be32(h + 28, (uint32_t)blocks);
	hv_put_be32(h + 32, block_size);
	if (m->type == 4) {
		memset(h + 40, m->parent_id, 16);
		hv_put_be32(h + 56, m->parent_time);
		for (size_t i = 0; i < name; i++)
			h[64 + 2 * i + 1] = (uint8_t)m->name[i];
		locators(fd, m, h, &at);
	}
	made->header = 512;
	made->table = at;
	hv_put_be64(h + 16, at);
	put_sum(h, sizeof(h), 36);
	put(fd, h, sizeof(h), 512);
	table = malloc(table_size);
	memset(table, 0xff, table_size);
	at += table_size;
	for (uint64_t i = 0; i < blocks; i++) {
		if (!block(fd, m, i, block_size, at, bitmap_size))
			continue;
		hv_put_be32(table + i * 4, (uint32_t)(at / 512));
		if (i < 64)
			made->block[i] = at;
		at += bitmap_size + block_size;
	}
	put(fd, table, table_size, made->table);
	free(table);
	made->footer = at;
}

struct made_vhd make_vhd(const char *path, const struct make_vhd *m)
{
	int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	struct made_vhd made = {0};
	uint8_t f[512];

	if (fd < 0)
		abort();
	footer(m, f);
	if (m->type == 2) {
		put(fd, m->data, (size_t)m->size, 0);
		made.footer = m->size + m->tail;
	} else {
		dynamic(fd, m, &made);
		put(fd, f, 512, 0);
		made.footer += m->tail;
	}
	made.length = made.footer + (m->short_footer ? 511 : 512);
	put(fd, f, (size_t)(made.length - made.footer), made.footer);
	close(fd);
	return made;
}

static void sum_at(int fd, uint64_t at, size_t length, size_t field, const char *cookie)
{
	uint8_t bytes[1024];

	if (pread(fd, bytes, length, (off_t)at) != (ssize_t)length || memcmp(bytes, cookie, 8) != 0)
		return;
	put_sum(bytes, length, field);
	put(fd, bytes, length, at);
}

void make_vhd_sums(const char *path, const struct made_vhd *at)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		abort();
	sum_at(fd, at->footer, 512, 64, "conectix");
	sum_at(fd, 0, 512, 64, "conectix");
	if (at->header)
		sum_at(fd, at->header, 1024, 36, "cxsparse");
	close(fd);
}
