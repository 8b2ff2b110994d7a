/*
 * Damaged VMDK images: each damage is refused with a sentence that names it, a cut at any place never gives
 * other bytes quietly, and salvage gives what is there.
 */
#include <criterion/criterion.h>

#include "base/bytes.h"
#include "make_vmdk.h"
#include "vmdk_disk.h"

#define SECTORS 3000U
#define BYTES   (SECTORS * 512U)

static struct tmp t;
static struct hv_error err;
static uint8_t *disk;
static char *text;

static void setup(void)
{
	tmp_make(&t);
	disk = malloc(BYTES);
	make_bytes(disk, BYTES, 3);
	memset(disk + BYTES - 700, 'e', 700); /* the last grain has data */
	text = make_descriptor("monolithicSparse", 1, 0xffffffff, NULL, "RW 3000 SPARSE \"x.vmdk\"\n");
}

static void teardown(void)
{
	free(disk);
	free(text);
	tmp_drop(&t);
}

TestSuite(vmdk_damage, .init = setup, .fini = teardown, .timeout = 120);

static struct make_vmdk sparse(void)
{
	return (struct make_vmdk){.disk = disk, .sectors = SECTORS, .rgd = true, .descriptor = text};
}

static struct make_vmdk stream(void)
{
	return (struct make_vmdk){.disk = disk,
				  .sectors = SECTORS,
				  .compressed = true,
				  .markers = true,
				  .at_end = true,
				  .descriptor = text};
}

static void expect(const char *name, int rc, const char *words)
{
	struct read_back r = vmdk_read(tmp_path(&t, name), NULL, &err);

	cr_assert_eq(r.rc, rc, "%s: %d instead of %d: %s", words, r.rc, rc, err.text);
	cr_assert(strstr(err.text, words) != NULL, "\"%s\" says nothing of \"%s\"", err.text, words);
	if (rc == -EBADMSG)
		cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	free(r.bytes);
}

/* --- fields ----------------------------------------------------------------------------------------------- */

struct damage {
	size_t at;
	unsigned size;
	uint64_t value;
	int rc;
	const char *words;
};

static void try_damage(const struct made *good, const struct damage *d)
{
	struct made o = {.bytes = malloc(good->length), .length = good->length};
	uint8_t v[8];

	hv_put_le64(v, d->value);
	memcpy(o.bytes, good->bytes, good->length);
	memcpy(o.bytes + d->at, v, d->size);
	remove(tmp_path(&t, "x.vmdk"));
	make_put(&t, "x.vmdk", &o);
	expect("x.vmdk", d->rc, d->words);
}

Test(vmdk_damage, each_field_of_the_header_is_checked)
{
	static const struct damage damages[] = {
		{4, 4, 0, -ENOTSUP, "version 0"},
		{4, 4, 4, -ENOTSUP, "version 4"},
		{8, 4, 0x40003, -ENOTSUP, "flags"},
		{8, 4, 0x20003, -ENOTSUP, "markers without compression"},
		{8, 4, 0x10003, -ENOTSUP, "compression algorithm"},
		{12, 8, 0, -EBADMSG, "capacity"},
		{12, 8, UINT64_MAX, -EBADMSG, "capacity"},
		{12, 8, 2999, -EBADMSG, "descriptor"},
		{12, 8, 1ULL << 40, -EBADMSG, ""},
		{20, 8, 0, -EBADMSG, "grain size"},
		{20, 8, 127, -EBADMSG, "grain size"},
		{20, 8, 1ULL << 40, -EBADMSG, "grain size"},
		{28, 8, UINT64_MAX, -EBADMSG, "descriptor"},
		{28, 8, 1U << 30, -EBADMSG, "descriptor"},
		{36, 8, UINT64_MAX, -EBADMSG, "descriptor"},
		{44, 4, 0, -EBADMSG, "entries in a grain table"},
		{44, 4, UINT32_MAX, -EBADMSG, "entries in a grain table"},
		{56, 8, 1ULL << 60, -EBADMSG, "grain directory"},
		{56, 8, 1ULL << 30, -EBADMSG, "grain directory"},
		{64, 8, UINT64_MAX, -EBADMSG, "overhead"},
		{73, 4, 0x0a0d200d, -EBADMSG, "FTP ASCII"},
		{73, 4, 0x0a0a200a, -EBADMSG, "FTP ASCII"},
	};
	struct make_vmdk m = sparse();
	struct made o;

	make_hosted(&m, &o);
	for (size_t i = 0; i < HV_ARRAY_SIZE(damages); i++)
		try_damage(&o, &damages[i]);
	free(o.bytes);
}

Test(vmdk_damage, each_table_entry_is_checked)
{
	struct make_vmdk m = sparse();
	struct made o;

	make_hosted(&m, &o);
	const struct damage damages[] = {
		{m.gd_at, 4, 0, -EBADMSG, "redundant one"},
		{m.gd_at, 4, UINT32_MAX, -EBADMSG, "grain directory"},
		{m.first_table, 4, UINT32_MAX, -EBADMSG, "grain table at offset"},
		{m.first_table, 4, o.length / 512, -EBADMSG, "grain table at offset"},
		{m.first_table, 4, 1, -EBADMSG, "grain table at offset"},
		{m.first_table, 4, m.gd_at / 512, -EBADMSG, "grain table at offset"},
	};
	for (size_t i = 0; i < HV_ARRAY_SIZE(damages); i++)
		try_damage(&o, &damages[i]);
	free(o.bytes);
}

Test(vmdk_damage, each_field_of_a_stream_is_checked)
{
	struct make_vmdk m = stream();
	struct made o;
	size_t footer;

	make_hosted(&m, &o);
	footer = o.length - 1024;
	const struct damage damages[] = {
		{m.first_grain, 8, 128, -EBADMSG, "for sector 128"},
		{m.first_grain + 8, 4, 0, -EBADMSG, "marker"},
		{m.first_grain + 8, 4, UINT32_MAX, -EBADMSG, "marker"},
		{m.first_grain + 8, 4, 20, -EBADMSG, "compressed grain"},
		{m.first_grain + 30, 4, 0x12345678, -EBADMSG, "compressed grain"},
		{footer, 4, 0, -EBADMSG, "footer"},
		{footer + 12, 8, 1, -EBADMSG, "contradicts"},
		{footer + 56, 8, UINT64_MAX, -EBADMSG, "contradicts"},
		{footer + 56, 8, 1U << 30, -EBADMSG, "grain directory"},
		{footer - 512 + 12, 4, 0, -EBADMSG, "footer"},
		{m.gd_at, 4, UINT32_MAX, -EBADMSG, "grain directory"},
		{m.first_table + 4, 4, 131, -EBADMSG, ""},
	};
	for (size_t i = 0; i < HV_ARRAY_SIZE(damages); i++)
		try_damage(&o, &damages[i]);
	free(o.bytes);
}

Test(vmdk_damage, check_finds_what_reading_one_grain_does_not_show)
{
	struct make_vmdk m = sparse();
	struct made o;

	make_hosted(&m, &o);
	make_put(&t, "x.vmdk", &o);
	cr_assert_eq(vmdk_errors(tmp_path(&t, "x.vmdk"), &err), 0, "%s", err.text);
	make_hosted(&m, &o); /* two grains at one place */
	memcpy(o.bytes + m.first_table, o.bytes + m.first_table + 4, 4);
	memcpy(o.bytes + m.rgd_at + 512, o.bytes + m.first_table, 4);
	make_put(&t, "o.vmdk", &o);
	cr_assert_eq(vmdk_errors(tmp_path(&t, "o.vmdk"), &err), 1, "%s", err.text);
	cr_assert(strstr(err.text, "overlaps"), "%s", err.text);
	make_hosted(&m, &o); /* the copies of a table differ */
	memset(o.bytes + m.rgd_at + 512, 0, 4);
	make_put(&t, "r.vmdk", &o);
	cr_assert_eq(vmdk_errors(tmp_path(&t, "r.vmdk"), &err), 1, "%s", err.text);
	cr_assert(strstr(err.text, "differ"), "%s", err.text);
	m = stream(); /* a damaged compressed grain */
	make_hosted(&m, &o);
	memset(o.bytes + m.first_grain + 40, 0xee, 8);
	make_put(&t, "s.vmdk", &o);
	cr_assert_eq(vmdk_errors(tmp_path(&t, "s.vmdk"), &err), 1, "%s", err.text);
}

/* --- truncation ------------------------------------------------------------------------------------------- */

/* Cuts the file at every 512 bytes: each cut is refused, or gives the very bytes. */
static void cut_everywhere(const char *name, const char *opened, const uint8_t *want, size_t length)
{
	int fd = open(tmp_path(&t, name), O_RDWR | O_CLOEXEC);
	off_t size = lseek(fd, 0, SEEK_END);
	unsigned good = 0;

	cr_assert(fd >= 0);
	for (off_t at = (size - 1) / 512 * 512; at >= 0; at -= 512) {
		struct read_back r;

		cr_assert_eq(ftruncate(fd, at), 0);
		/* Told: an empty file's content says nothing. */
		r = vmdk_read(tmp_path(&t, opened), &(struct hv_disk_options){.format = "vmdk"}, &err);
		if (r.rc == 0) {
			good++;
			cr_assert_eq(r.length, length, "%s cut at %lld: %zu bytes", name, (long long)at,
				     r.length);
			cr_assert_arr_eq(r.bytes, want, length, "%s cut at %lld: other bytes", name,
					 (long long)at);
		} else {
			cr_assert(r.rc == -EBADMSG || r.rc == -ENOENT || r.rc == -ENOTSUP,
				  "%s cut at %lld: %d %s", name, (long long)at, r.rc, err.text);
		}
		free(r.bytes);
	}
	/* What fills up the last grain, and zeros at the end, may go. */
	cr_assert_leq(good, 80, "%s: %u cuts did no harm", name, good);
	close(fd);
}

Test(vmdk_damage, no_cut_of_a_hosted_extent_gives_other_bytes)
{
	struct make_vmdk m = sparse();
	struct made o;

	make_hosted(&m, &o);
	make_put(&t, "x.vmdk", &o);
	cut_everywhere("x.vmdk", "x.vmdk", disk, BYTES);
}

Test(vmdk_damage, no_cut_of_a_stream_gives_other_bytes)
{
	struct make_vmdk m = stream();
	struct made o;

	make_hosted(&m, &o);
	make_put(&t, "x.vmdk", &o);
	cut_everywhere("x.vmdk", "x.vmdk", disk, BYTES);
	m.at_end = false;
	make_hosted(&m, &o);
	make_put(&t, "y.vmdk", &o);
	cut_everywhere("y.vmdk", "y.vmdk", disk, BYTES);
	m.markers = false;
	make_hosted(&m, &o);
	make_put(&t, "z.vmdk", &o);
	cut_everywhere("z.vmdk", "z.vmdk", disk, BYTES);
}

static void put_descriptor(const char *name, const char *type, const char *line)
{
	char *d = make_descriptor(type, 1, 0xffffffff, NULL, line);

	tmp_put(&t, name, d, strlen(d), 0);
	free(d);
}

Test(vmdk_damage, no_cut_of_vmfs_extents_gives_other_bytes)
{
	struct make_vmdk m = {.disk = disk, .sectors = SECTORS};
	struct made o;

	make_cowd(&m, &o);
	make_put(&t, "c-delta.vmdk", &o);
	put_descriptor("c.vmdk", "vmfsSparse", "RW 3000 VMFSSPARSE \"c-delta.vmdk\"\n");
	cut_everywhere("c-delta.vmdk", "c.vmdk", disk, BYTES);
	make_sesparse(&m, &o);
	make_put(&t, "s-sesparse.vmdk", &o);
	put_descriptor("s.vmdk", "seSparse", "RW 3000 SESPARSE \"s-sesparse.vmdk\"\n");
	cut_everywhere("s-sesparse.vmdk", "s.vmdk", disk, BYTES);
	tmp_put(&t, "f-flat.vmdk", disk, BYTES, 0);
	put_descriptor("f.vmdk", "vmfs", "RW 3000 VMFS \"f-flat.vmdk\"\n");
	cut_everywhere("f-flat.vmdk", "f.vmdk", disk, BYTES);
}

Test(vmdk_damage, no_cut_of_a_descriptor_gives_other_bytes)
{
	char lines[4096] = "", whole[8192];
	unsigned good = 0;
	size_t length;

	tmp_put(&t, "x.bin", disk, BYTES, 0);
	for (unsigned i = 0; i < 30; i++)
		snprintf(lines + strlen(lines), sizeof(lines) - strlen(lines), "RW 100 FLAT \"x.bin\" %u\n",
			 i * 100);
	put_descriptor("x.vmdk", "twoGbMaxExtentFlat", lines);
	int fd = open(tmp_path(&t, "x.vmdk"), O_RDWR | O_CLOEXEC);
	length = (size_t)read(fd, whole, sizeof(whole));
	for (size_t at = length; at-- > 0;) { /* at every byte */
		struct read_back r;

		cr_assert_eq(ftruncate(fd, (off_t)at), 0);
		r = vmdk_read(t.path, &(struct hv_disk_options){.format = "vmdk"}, &err);
		if (r.rc == 0) {
			good++;
			cr_assert_eq(r.length, BYTES, "cut at %zu", at);
			cr_assert_arr_eq(r.bytes, disk, BYTES, "cut at %zu", at);
		}
		free(r.bytes);
	}
	cr_assert_lt(good, 100, "only the disk database can go: %u", good);
	close(fd);
}

/* --- salvage ---------------------------------------------------------------------------------------------- */

static const struct hv_disk_options salvage = {.salvage = true};

Test(vmdk_damage, salvage_reads_a_stream_up_to_its_cut)
{
	struct make_vmdk m = stream();
	struct made o;
	struct read_back r;
	size_t lost = 0, same = 0;

	make_hosted(&m, &o);
	o.length = m.first_grain + (m.data_end - m.first_grain) / 2;
	make_put(&t, "x.vmdk", &o);
	expect("x.vmdk", -EBADMSG, "cut off");
	r = vmdk_read(t.path, &salvage, &err);
	cr_assert_eq(r.rc, -EBADMSG);
	cr_assert(strstr(err.text, "lost"), "%s", err.text);
	cr_assert_eq(r.length, BYTES);
	for (size_t at = 0; at < BYTES; at += 512) {
		if (memcmp(r.bytes + at, disk + at, 512) == 0)
			same += lost ? 0 : 512;
		else
			lost += 512;
	}
	cr_assert_gt(same, 5 * 65536, "%zu bytes saved", same);
	cr_assert_gt(lost, 0);
	free(r.bytes);
}

Test(vmdk_damage, salvage_reads_all_of_a_stream_that_lost_only_its_footer)
{
	struct make_vmdk m = stream();
	struct made o;
	struct read_back r;

	make_hosted(&m, &o);
	o.length -= 1536;
	make_put(&t, "x.vmdk", &o);
	expect("x.vmdk", -EBADMSG, "footer");
	r = vmdk_read(t.path, &salvage, &err);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
}

Test(vmdk_damage, salvage_uses_the_redundant_tables)
{
	struct make_vmdk m = sparse();
	struct made o;
	struct read_back r;

	make_hosted(&m, &o); /* an entry of the directory */
	hv_put_le32(o.bytes + m.gd_at, UINT32_MAX);
	make_put(&t, "a.vmdk", &o);
	expect("a.vmdk", -EBADMSG, "grain directory");
	r = vmdk_read(t.path, &salvage, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
	make_hosted(&m, &o); /* zeroed */
	hv_put_le32(o.bytes + m.gd_at, 0);
	make_put(&t, "b.vmdk", &o);
	r = vmdk_read(tmp_path(&t, "b.vmdk"), &salvage, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
	make_hosted(&m, &o); /* the whole directory's place */
	hv_put_le64(o.bytes + 56, 1 << 30);
	make_put(&t, "c.vmdk", &o);
	r = vmdk_read(tmp_path(&t, "c.vmdk"), &salvage, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
}

Test(vmdk_damage, salvage_opens_a_lone_extent_and_an_ascii_transfer)
{
	struct make_vmdk m = sparse();
	struct made o;
	struct read_back r;

	m.descriptor = NULL;
	make_hosted(&m, &o);
	o.bytes[74] = '\n';
	make_put(&t, "x.vmdk", &o);
	r = vmdk_read(tmp_path(&t, "x.vmdk"), &salvage, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
}
