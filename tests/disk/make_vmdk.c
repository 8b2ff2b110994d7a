/*
 * See make_vmdk.h. A file grows in memory from front to back; tables that are known only later are patched.
 */
#include <libdeflate.h>

#include "base/bytes.h"
#include "make_vmdk.h"

#define SECTOR 512U

uint64_t make_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

void make_bytes(uint8_t *disk, size_t length, uint64_t seed)
{
	uint64_t state = seed * 0x9e3779b97f4a7c15ULL + 1;

	memset(disk, 0, length);
	for (size_t at = 0; at < length;) {
		size_t n = (size_t)(make_random(&state) % 150000) + 1;
		unsigned kind = (unsigned)(make_random(&state) % 4);

		if (n > length - at)
			n = length - at;
		for (size_t i = 0; i < n && kind; i++)
			disk[at + i] = kind == 1
					       ? (uint8_t)make_random(&state)
					       : (uint8_t)("a disk's text "[(at + i) % 14] + (int)(seed % 7));
		at += n;
	}
}

static void need(struct made *o, size_t length)
{
	if (length <= o->room)
		return;
	size_t room = length * 2;
	o->bytes = realloc(o->bytes, room);
	if (!o->bytes)
		abort();
	memset(o->bytes + o->room, 0, room - o->room);
	o->room = room;
}

static void put(struct made *o, size_t at, const void *data, size_t length)
{
	need(o, at + length);
	memcpy(o->bytes + at, data, length);
	if (o->length < at + length)
		o->length = at + length;
}

static void grow(struct made *o, size_t length)
{
	need(o, length);
	if (o->length < length)
		o->length = length;
}

static void put32(struct made *o, size_t at, uint64_t v)
{
	uint8_t b[4];

	hv_put_le32(b, (uint32_t)v);
	put(o, at, b, 4);
}

static void put64(struct made *o, size_t at, uint64_t v)
{
	uint8_t b[8];

	hv_put_le64(b, v);
	put(o, at, b, 8);
}

static uint64_t up(uint64_t v, uint64_t unit)
{
	return (v + unit - 1) / unit * unit;
}

/* --- what a grain is -------------------------------------------------------------------------------------- */

static size_t grain_bytes(const struct make_vmdk *m, uint64_t grain, uint64_t size)
{
	uint64_t left = m->sectors * SECTOR - grain * size;

	return (size_t)(left < size ? left : size);
}

static char kind_of(const struct make_vmdk *m, uint64_t grain, uint64_t size)
{
	const uint8_t *p = m->disk + grain * size;
	size_t n = grain_bytes(m, grain, size);

	if (m->kinds)
		return m->kinds[grain];
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return 'd';
	return '-';
}

/* A grain's bytes, filled up with zeros to a whole one. */
static size_t plain_grain(const struct make_vmdk *m, uint64_t grain, uint64_t size, uint8_t *out)
{
	size_t n = grain_bytes(m, grain, size);

	memset(out, 0, size);
	memcpy(out, m->disk + grain * size, n);
	return m->short_last ? n : (size_t)size;
}

/* --- hosted ----------------------------------------------------------------------------------------------- */

static void put_header(const struct make_vmdk *m, struct made *o, size_t at, uint64_t gd, uint64_t rgd,
		       uint64_t overhead)
{
	put32(o, at, 0x564d444b);
	put32(o, at + 4, m->version);
	put32(o, at + 8, m->flags);
	put64(o, at + 12, m->sectors);
	put64(o, at + 20, m->grain);
	put64(o, at + 28, m->descriptor ? 1 : 0);
	put64(o, at + 36, m->descriptor ? 20 : 0);
	put32(o, at + 44, m->per_table);
	put64(o, at + 48, rgd);
	put64(o, at + 56, gd);
	put64(o, at + 64, overhead);
	put(o, at + 72, "\0\n \r\n", 5);
	put(o, at + 77, m->compressed ? "\1" : "\0", 2);
	grow(o, at + SECTOR);
}

static void put_marker(struct made *o, uint64_t value, uint32_t type)
{
	size_t at = o->length;

	put64(o, at, value);
	put32(o, at + 12, type);
	grow(o, at + SECTOR);
}

/* Appends a grain's data and returns its sector. */
static uint64_t append_grain(const struct make_vmdk *m, struct made *o, uint64_t grain)
{
	uint64_t size = (uint64_t)m->grain * SECTOR;
	uint8_t *plain = malloc(size), *packed = malloc(size * 2 + 1024);
	struct libdeflate_compressor *c = libdeflate_alloc_compressor(1);
	size_t n = plain_grain(m, grain, size, plain), at = o->length;

	if (!m->compressed) {
		put(o, at, plain, size);
	} else {
		size_t length = libdeflate_zlib_compress(c, plain, n, packed, size * 2 + 1024), data = at;

		if (m->markers) {
			put64(o, data, grain * m->grain);
			put32(o, data + 8, length);
			data += 12;
		} else if (m->bare_sizes) {
			put32(o, data, length);
			data += 4;
		}
		put(o, data, packed, length);
		grow(o, up(data + length, SECTOR));
	}
	libdeflate_free_compressor(c);
	free(plain);
	free(packed);
	return at / SECTOR;
}

/* The grains of one table, whose entries go to `at` (and at2, when that is not 0). */
static void put_grains(struct make_vmdk *m, struct made *o, uint64_t table, uint8_t *entries)
{
	uint64_t size = (uint64_t)m->grain * SECTOR, grains = (m->sectors + m->grain - 1) / m->grain;

	for (uint64_t i = 0; i < m->per_table && table * m->per_table + i < grains; i++) {
		uint64_t grain = table * m->per_table + i;
		char kind = kind_of(m, grain, size);

		if (kind == 'd') {
			if (!m->first_grain)
				m->first_grain = o->length;
			hv_put_le32(entries + i * 4, (uint32_t)append_grain(m, o, grain));
		} else if (kind == 'z') {
			hv_put_le32(entries + i * 4, 1);
		}
	}
}

static void defaults(struct make_vmdk *m)
{
	m->version = m->version ? m->version : m->compressed ? 3 : 1;
	m->grain = m->grain ? m->grain : 128;
	m->per_table = m->per_table ? m->per_table : 512;
	if (!m->flags)
		m->flags = 1U | (m->rgd ? 2U : 0) | (m->zero_gte ? 4U : 0) | (m->compressed ? 0x10000U : 0) |
			   (m->markers ? 0x20000U : 0);
	m->first_table = m->first_grain = m->rgd_at = 0;
}

/* Directory and tables in front of the grains. */
static void make_front(struct make_vmdk *m, struct made *o)
{
	uint64_t tables = ((m->sectors + m->grain - 1) / m->grain + m->per_table - 1) / m->per_table;
	uint64_t gd_bytes = up(tables * 4, SECTOR), table_bytes = up((uint64_t)m->per_table * 4, SECTOR);
	uint64_t copies = m->rgd ? 2 : 1, at = o->length;
	uint64_t overhead = up(at + copies * (gd_bytes + tables * table_bytes), (uint64_t)m->grain * SECTOR);
	uint8_t *entries = malloc(table_bytes);

	m->rgd_at = m->rgd ? at : 0;
	m->gd_at = at + (copies - 1) * (gd_bytes + tables * table_bytes);
	m->first_table = m->gd_at + gd_bytes;
	grow(o, overhead);
	for (uint64_t t = 0; t < tables; t++) {
		memset(entries, 0, table_bytes);
		put_grains(m, o, t, entries);
		for (uint64_t c = 0; c < copies; c++) {
			uint64_t gd = c ? m->rgd_at : m->gd_at, place = gd + gd_bytes + t * table_bytes;

			put32(o, gd + t * 4, place / SECTOR);
			put(o, place, entries, table_bytes);
		}
	}
	put_header(m, o, 0, m->gd_at / SECTOR, m->rgd_at / SECTOR, overhead / SECTOR);
	free(entries);
}

/* Grains, each table behind its own, the directory, the footer, the end. */
static void make_back(struct make_vmdk *m, struct made *o)
{
	uint64_t tables = ((m->sectors + m->grain - 1) / m->grain + m->per_table - 1) / m->per_table;
	uint64_t gd_bytes = up(tables * 4, SECTOR), table_bytes = up((uint64_t)m->per_table * 4, SECTOR);
	uint8_t *entries = malloc(table_bytes), *gd = calloc(1, gd_bytes);
	uint64_t overhead = up(o->length, (uint64_t)m->grain * SECTOR);

	grow(o, overhead);
	for (uint64_t t = 0; t < tables; t++) {
		size_t before = o->length;

		memset(entries, 0, table_bytes);
		put_grains(m, o, t, entries);
		if (o->length == before)
			continue;
		put_marker(o, table_bytes / SECTOR, 1);
		if (!m->first_table)
			m->first_table = o->length;
		hv_put_le32(gd + t * 4, (uint32_t)(o->length / SECTOR));
		put(o, o->length, entries, table_bytes);
	}
	m->data_end = o->length;
	put_marker(o, gd_bytes / SECTOR, 2);
	m->gd_at = o->length;
	put(o, o->length, gd, gd_bytes);
	put_marker(o, 1, 3);
	put_header(m, o, o->length, m->gd_at / SECTOR, 0, overhead / SECTOR);
	put_marker(o, 0, 0);
	put_header(m, o, 0, UINT64_MAX, 0, overhead / SECTOR);
	free(entries);
	free(gd);
}

void make_hosted(struct make_vmdk *m, struct made *o)
{
	memset(o, 0, sizeof(*o));
	defaults(m);
	grow(o, SECTOR);
	if (m->descriptor) {
		put(o, SECTOR, m->descriptor, strlen(m->descriptor));
		grow(o, (size_t)21 * SECTOR);
	}
	if (m->at_end)
		make_back(m, o);
	else
		make_front(m, o);
}

/* --- COWD ------------------------------------------------------------------------------------------------- */

/* Tables of 4096 entries come when they are needed, among the grains. */
void make_cowd(struct make_vmdk *m, struct made *o)
{
	uint64_t grain = m->grain ? m->grain : 1, size = grain * SECTOR;
	uint64_t grains = (m->sectors + grain - 1) / grain, tables = (grains + 4095) / 4096;
	uint8_t *plain = malloc(size);

	memset(o, 0, sizeof(*o));
	m->gd_at = 4 * SECTOR;
	m->first_table = m->first_grain = 0;
	grow(o, up(m->gd_at + tables * 4, SECTOR));
	for (uint64_t t = 0; t < tables; t++) {
		uint64_t table = 0;

		for (uint64_t g = t * 4096; g < grains && g < (t + 1) * 4096; g++) {
			if (kind_of(m, g, size) != 'd')
				continue;
			if (!table) {
				table = o->length;
				m->first_table = m->first_table ? m->first_table : table;
				put32(o, m->gd_at + t * 4, table / SECTOR);
				grow(o, table + 4096 * 4);
			}
			m->first_grain = m->first_grain ? m->first_grain : o->length;
			put32(o, table + g % 4096 * 4, o->length / SECTOR);
			plain_grain(m, g, size, plain);
			put(o, o->length, plain, size);
		}
	}
	put(o, 0, "COWD", 4);
	put32(o, 4, 1);
	put32(o, 8, 3);
	put32(o, 12, m->sectors);
	put32(o, 16, grain);
	put32(o, 20, 4);
	put32(o, 24, tables);
	put32(o, 28, o->length / SECTOR);
	put32(o, 32, 1);
	put32(o, 36, 16);
	put32(o, 40, 63);
	free(plain);
}

/* --- seSparse --------------------------------------------------------------------------------------------- */

void make_sesparse(struct make_vmdk *m, struct made *o)
{
	const uint64_t size = 4096, table_bytes = 64 * SECTOR;
	uint64_t grains = (m->sectors * SECTOR + size - 1) / size, tables = (grains + 4095) / 4096, next = 0;
	uint64_t gd = 16 * SECTOR, gts = gd + up(tables * 8, SECTOR), data, used = 0;
	uint8_t plain[4096];

	memset(o, 0, sizeof(*o));
	m->gd_at = gd;
	m->first_table = gts;
	data = up(gts + tables * table_bytes, size);
	m->first_grain = data;
	grow(o, data);
	for (uint64_t g = 0; g < grains; g++) {
		uint64_t t = g / 4096, entry = 0;
		char kind = kind_of(m, g, size);

		if (kind == '-')
			continue;
		if (hv_le64(o->bytes + gd + t * 8) == 0)
			put64(o, gd + t * 8, 0x1000000000000000ULL | used++);
		if (kind == 'z') {
			entry = (g & 1 ? 0x1ULL : 0x2ULL) << 60;
		} else {
			entry = 3ULL << 60 | (next & 0xfff) << 48 | next >> 12;
			plain_grain(m, g, size, plain);
			put(o, data + next * size, plain, size);
			next++;
		}
		put64(o, gts + (hv_le64(o->bytes + gd + t * 8) & UINT32_MAX) * table_bytes + g % 4096 * 8,
		      entry);
	}
	put64(o, 0, 0xcafebabe);
	put64(o, 8, 0x0000000200000001ULL);
	put64(o, 16, m->sectors);
	put64(o, 24, 8);
	put64(o, 32, 64);
	put64(o, 80, 1); /* volatile header */
	put64(o, 88, 1);
	put64(o, 96, 2); /* journal header, journal */
	put64(o, 104, 1);
	put64(o, 112, 3);
	put64(o, 120, 1);
	put64(o, 128, gd / SECTOR);
	put64(o, 136, (gts - gd) / SECTOR);
	put64(o, 144, gts / SECTOR);
	put64(o, 152, tables * 64);
	put64(o, 192, data / SECTOR);
	put64(o, 200, up(m->sectors, 8));
	put64(o, SECTOR, 0xcafecafe);
}

/* --- files ------------------------------------------------------------------------------------------------ */

void make_put(struct tmp *t, const char *name, const struct made *out)
{
	tmp_put(t, name, out->bytes, out->length, 0);
	free(out->bytes);
}

char *make_descriptor(const char *type, uint32_t cid, uint32_t parent_cid, const char *hint,
		      const char *extents)
{
	char *text;

	if (asprintf(&text,
		     "# Disk DescriptorFile\nversion=1\nCID=%08x\nparentCID=%08x\ncreateType=\"%s\"\n%s%s%s\n"
		     "# Extent description\n%s\n# The Disk Data Base\n#DDB\n\n"
		     "ddb.adapterType = \"lsilogic\"\nddb.geometry.cylinders = \"10\"\n",
		     cid, parent_cid, type, hint ? "parentFileNameHint=\"" : "", hint ? hint : "",
		     hint ? "\"\n" : "", extents) < 0)
		abort();
	return text;
}
