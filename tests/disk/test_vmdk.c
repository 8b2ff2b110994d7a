/*
 * VMDK images as VMware and others write them: every kind of extent, chains, and descriptors as they are
 * found, each read to the very bytes that the writer in make_vmdk.c had.
 */
#include <criterion/criterion.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "make_vmdk.h"
#include "vmdk_disk.h"

static struct tmp t;
static struct hv_error err;
static uint8_t *disk;

#define SECTORS 6000U
#define BYTES   (SECTORS * 512U)

static void setup(void)
{
	tmp_make(&t);
	disk = malloc(BYTES);
	make_bytes(disk, BYTES, 7);
}

static void teardown(void)
{
	free(disk);
	tmp_drop(&t);
}

TestSuite(vmdk, .init = setup, .fini = teardown);

static void text_file(const char *name, const char *text)
{
	tmp_put(&t, name, text, strlen(text), 0);
}

/* A descriptor of its own with one extent line for each "%s"-free piece. */
static void put_descriptor(const char *name, const char *type, const char *extents)
{
	char *text = make_descriptor(type, 0x12345678, 0xffffffff, NULL, extents);

	text_file(name, text);
	free(text);
}

static void expect_disk(const char *name, const uint8_t *bytes, size_t length)
{
	struct read_back r = vmdk_read(tmp_path(&t, name), NULL, &err);

	cr_assert_eq(r.rc, 0, "%s: %s", name, err.text);
	cr_assert_eq(r.length, length, "%s: %zu bytes", name, r.length);
	for (size_t i = 0; i < length; i += 512)
		cr_assert_arr_eq(r.bytes + i, bytes + i, 512, "%s differs at %zu", name, i);
	cr_assert_eq(vmdk_errors(t.path, &err), 0, "%s: %s", name, err.text);
	free(r.bytes);
}

static void expect_refused(const char *name, int rc, const char *words)
{
	struct read_back r = vmdk_read(tmp_path(&t, name), NULL, &err);

	cr_assert_eq(r.rc, rc, "%s: %d instead of %d: %s", name, r.rc, rc, err.text);
	cr_assert(strstr(err.text, words) != NULL, "%s: \"%s\" says nothing of \"%s\"", name, err.text,
		  words);
	if (rc == -EBADMSG)
		cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	free(r.bytes);
}

static char *embedded(const char *type)
{
	char line[64];

	snprintf(line, sizeof(line), "RW %u SPARSE \"another name.vmdk\"\n", SECTORS);
	return make_descriptor(type, 0x12345678, 0xffffffff, NULL, line);
}

/* --- kinds of extents ------------------------------------------------------------------------------------- */

Test(vmdk, hosted_sparse_with_any_grain_and_table_size)
{
	static const struct {
		uint32_t grain, per_table;
		bool rgd;
	} shapes[] = {{128, 512, true}, {8, 512, false},    {1, 512, true},    {128, 1, true},
		      {16, 100, true},  {1024, 512, false}, {8192, 512, true}, {2, 4096, false}};
	char *text = embedded("monolithicSparse");

	for (size_t i = 0; i < HV_ARRAY_SIZE(shapes); i++) {
		struct make_vmdk m = {.disk = disk,
				      .sectors = SECTORS,
				      .grain = shapes[i].grain,
				      .per_table = shapes[i].per_table,
				      .rgd = shapes[i].rgd,
				      .descriptor = text};
		struct made o;
		char name[16];

		snprintf(name, sizeof(name), "%zu.vmdk", i);
		make_hosted(&m, &o);
		make_put(&t, name, &o);
		expect_disk(name, disk, BYTES);
	}
	free(text);
}

Test(vmdk, zeroed_grains_hide_the_parent_and_read_as_zeros)
{
	char *text = embedded("monolithicSparse"), kinds[SECTORS / 128 + 2];
	struct make_vmdk m = {.disk = disk,
			      .sectors = SECTORS,
			      .zero_gte = true,
			      .rgd = true,
			      .descriptor = text,
			      .kinds = kinds};
	struct made o;

	memset(kinds, 'd', sizeof(kinds));
	memset(kinds + 3, 'z', 4);
	memset(disk + 3 * 65536, 0, 4 * 65536);
	make_hosted(&m, &o);
	make_put(&t, "z.vmdk", &o);
	expect_disk("z.vmdk", disk, BYTES);
	cr_assert_eq(vmdk_kind_at(t.path, 3 * 65536), HV_RUN_ZERO);
	free(text);
}

Test(vmdk, streams_with_and_without_markers_and_with_the_directory_at_either_end)
{
	char *text = embedded("streamOptimized");
	struct make_vmdk kinds[] = {
		{.markers = true, .at_end = true},
		{.markers = true, .at_end = true, .short_last = true, .version = 1},
		{.markers = true, .version = 2},
		{.markers = true, .at_end = true, .grain = 16, .per_table = 128},
		{.short_last = true},
		{.bare_sizes = true},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(kinds); i++) {
		struct made o;
		char name[16];

		kinds[i].compressed = true;
		kinds[i].disk = disk;
		kinds[i].sectors = SECTORS;
		kinds[i].descriptor = text;
		make_hosted(&kinds[i], &o);
		snprintf(name, sizeof(name), "%zu.vmdk", i);
		make_put(&t, name, &o);
		expect_disk(name, disk, BYTES);
	}
	free(text);
}

Test(vmdk, a_stream_without_a_descriptor_is_a_disk_and_another_extent_is_not)
{
	struct make_vmdk m = {
		.disk = disk, .sectors = SECTORS, .compressed = true, .markers = true, .at_end = true};
	struct make_vmdk part = {.disk = disk, .sectors = SECTORS, .rgd = true};
	struct made o;

	make_hosted(&m, &o);
	make_put(&t, "a.vmdk", &o);
	expect_disk("a.vmdk", disk, BYTES);
	make_hosted(&part, &o);
	make_put(&t, "b-s001.vmdk", &o);
	expect_refused("b-s001.vmdk", -EBADMSG, "descriptor");
	make_cowd(&part, &o);
	make_put(&t, "c-delta.vmdk", &o);
	expect_refused("c-delta.vmdk", -EBADMSG, "descriptor");
	make_sesparse(&part, &o);
	make_put(&t, "d-sesparse.vmdk", &o);
	expect_refused("d-sesparse.vmdk", -EBADMSG, "descriptor");
}

Test(vmdk, vmfs_sparse_and_sesparse)
{
	struct make_vmdk m = {.disk = disk, .sectors = SECTORS};
	struct made o;
	char line[80];

	make_cowd(&m, &o);
	make_put(&t, "c-delta.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u VMFSSPARSE \"c-delta.vmdk\"\n", SECTORS);
	put_descriptor("c.vmdk", "vmfsSparse", line);
	expect_disk("c.vmdk", disk, BYTES);
	make_sesparse(&m, &o);
	make_put(&t, "s-sesparse.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u SESPARSE \"s-sesparse.vmdk\"\n", SECTORS);
	put_descriptor("s.vmdk", "seSparse", line);
	expect_disk("s.vmdk", disk, BYTES);
}

Test(vmdk, sesparse_reads_unmapped_and_zeroed_grains_as_zeros)
{
	char kinds[SECTORS / 8 + 1], line[80];
	struct make_vmdk m = {.disk = disk, .sectors = SECTORS, .kinds = kinds};
	struct made o;

	memset(kinds, 'd', sizeof(kinds));
	memset(kinds + 100, 'z', 10);
	memset(disk + 100 * 4096, 0, 10 * 4096);
	make_sesparse(&m, &o);
	make_put(&t, "s-sesparse.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u SESPARSE \"s-sesparse.vmdk\"\n", SECTORS);
	put_descriptor("s.vmdk", "seSparse", line);
	expect_disk("s.vmdk", disk, BYTES);
	cr_assert_eq(vmdk_kind_at(t.path, 100 * 4096), HV_RUN_ZERO);
}

Test(vmdk, a_sesparse_journal_that_waits_is_refused)
{
	struct make_vmdk m = {.disk = disk, .sectors = SECTORS};
	struct made o;
	char line[80];

	make_sesparse(&m, &o);
	hv_put_le64(o.bytes + 512 + 24, 1);
	make_put(&t, "s-sesparse.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u SESPARSE \"s-sesparse.vmdk\"\n", SECTORS);
	put_descriptor("s.vmdk", "seSparse", line);
	expect_refused("s.vmdk", -ENOTSUP, "journal");
}

Test(vmdk, flat_extents_with_offsets_zero_and_read_only_ones_make_one_disk)
{
	uint8_t want[5000 * 512] = {0};
	struct make_vmdk m = {.disk = disk + 3000 * 512, .sectors = 500, .rgd = true};
	struct made o;

	memcpy(want, disk, 1000 * 512);
	memcpy(want + 2000 * 512, disk + 100 * 512, 1000 * 512);
	memcpy(want + 3000 * 512, disk + 3000 * 512, 500 * 512);
	memcpy(want + 3500 * 512, disk + 4000 * 512, 1500 * 512);
	tmp_put(&t, "x-f001.vmdk", disk, BYTES, 0);
	make_hosted(&m, &o);
	make_put(&t, "x-s003.vmdk", &o);
	put_descriptor("x.vmdk", "custom",
		       "RW 1000 FLAT \"x-f001.vmdk\" 0\nRW 1000 ZERO\nRDONLY 1000 FLAT \"x-f001.vmdk\" 100\n"
		       "RW 500 SPARSE \"x-s003.vmdk\"\nRW 1500 VMFS \"x-f001.vmdk\" 4000\n");
	expect_disk("x.vmdk", want, sizeof(want));
	cr_assert_eq(vmdk_kind_at(t.path, 1500 * 512), HV_RUN_ZERO);
}

Test(vmdk, what_a_noaccess_extent_holds_is_not_made_up)
{
	struct hv_disk_options salvage = {.salvage = true};
	struct read_back r;

	tmp_put(&t, "x-flat.vmdk", disk, BYTES, 0);
	put_descriptor(
		"x.vmdk", "custom",
		"RW 1000 FLAT \"x-flat.vmdk\" 0\nNOACCESS 63 ZERO\nRW 1000 FLAT \"x-flat.vmdk\" 1000\n");
	expect_refused("x.vmdk", -EBADMSG, "NOACCESS");
	r = vmdk_read(t.path, &salvage, &err);
	cr_assert_eq(r.rc, -EBADMSG, "also with salvage it is lost, and listed");
	cr_assert_arr_eq(r.bytes, disk, 1000 * 512);
	free(r.bytes);
}

/* --- descriptors ------------------------------------------------------------------------------------------ */

Test(vmdk, descriptors_as_they_are_found)
{
	static const char *const found[] = {
		/* CRLF, blank lines between extents, comments, odd blanks */
		"# Disk DescriptorFile\r\nversion=1\r\nCID=fffffffe\r\nparentCID=ffffffff\r\n"
		"createType=\"twoGbMaxExtentFlat\"\r\n\r\n# Extents\r\nRW 1000 FLAT \"x.bin\" 0\r\n\r\n\r\n"
		"# a comment\r\n  RW\t2000   FLAT  \"x.bin\"   1000  \r\n\r\nddb.adapterType = \"ide\"\r\n",
		/* keys after the extents, other case, a BOM, spaces around "=" */
		"\xef\xbb\xbf# disk descriptorfile\n version = 1\nrw 3000 flat \"x.bin\" 0\n"
		"CREATETYPE = \"vmfs\"\nCID = 1\nddb.virtualHWVersion = "
		"\"8\"\nchangeTrackPath=\"x-ctk.vmdk\"\n",
		/* bare CRs, no newline at the end */
		"# Disk DescriptorFile\rversion=3\rCID=00000001\rcreateType=\"custom\"\r"
		"RW 3000 VMFS \"x.bin\"\rddb.uuid = \"60\"",
		/* a partition's identifiers behind the offset */
		"# Disk DescriptorFile\nversion=1\nCID=1\ncreateType=\"custom\"\n"
		"RW 3000 FLAT \"x.bin\" 0 partitionUUID \"ab\\cd\" deviceIdentifier \"ef\"\nddb.a = \"b\"\n",
		/* another tool's: comments only, a version */
		"# made by hand\n\nversion=1\nCID=1\ncreateType=\"monolithicFlat\"\nRW 3000 FLAT \"x.bin\" "
		"0\n",
	};

	tmp_put(&t, "x.bin", disk, BYTES, 0);
	for (size_t i = 0; i < HV_ARRAY_SIZE(found); i++) {
		char name[16];

		snprintf(name, sizeof(name), "%zu.vmdk", i);
		text_file(name, found[i]);
		expect_disk(name, disk, 3000 * 512);
	}
}

Test(vmdk, names_with_blanks_quotes_escapes_and_encodings_are_found)
{
	static const struct {
		const char *file, *in_text, *encoding;
	} names[] = {
		{"my disk-flat.vmdk", "my disk-flat.vmdk", "UTF-8"},
		{"a \"quoted\" name.vmdk", "a \"quoted\" name.vmdk", "UTF-8"},
		{"quote\".vmdk", "quote|22.vmdk", "UTF-8"},
		{"bar|7.vmdk", "bar|7.vmdk", "UTF-8"},
		{"M\xc3\xbcller.vmdk", "M\xc3\xbcller.vmdk",
		 "windows-1252"}, /* bytes first, whatever it says */
		{"M\xc3\xbcller2.vmdk", "M\xfcller2.vmdk", "windows-1252"},
		{"\xd0\x94.vmdk", "\xc4.vmdk", "windows-1251"},
	};
	char text[512];

	for (size_t i = 0; i < HV_ARRAY_SIZE(names); i++) {
		tmp_put(&t, names[i].file, disk, 3000 * 512, 0);
		snprintf(text, sizeof(text),
			 "# Disk DescriptorFile\nversion=1\nencoding=\"%s\"\nCID=1\ncreateType=\"vmfs\"\n"
			 "RW 3000 VMFS \"%s\"\nddb.a = \"1\"\n",
			 names[i].encoding, names[i].in_text);
		remove(tmp_path(&t, "x.vmdk"));
		text_file("x.vmdk", text);
		expect_disk("x.vmdk", disk, 3000 * 512);
	}
}

Test(vmdk, a_descriptor_that_can_not_be_is_refused)
{
	static const struct {
		const char *text;
		int rc;
		const char *words;
	} bad[] = {
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 FLAT \"x.bin\" 0\n", -EBADMSG, "disk database"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 FLAT \"x.bin\" 0\nddb.a = \"1\"\nrubbish\n", -EBADMSG,
		 "line 7"},
		{"CID=1\nRW 10 FLAT \"x.bin\" 0\nddb.a = \"1\"\n", -EBADMSG, "createType"},
		{"CID=1\ncreateType=\"vmfs\"\nddb.a = \"1\"\n", -EBADMSG, "no extent"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 0 FLAT \"x.bin\" 0\nddb.a = \"1\"\n", -EBADMSG, "size"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 99999999999999999999 ZERO\nddb.a = \"1\"\n", -EBADMSG,
		 "size"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 9000000000000000 ZERO\nRW 9000000000000000 ZERO\nddb.a = "
		 "\"1\"\n",
		 -EBADMSG, "larger"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 FLAT \"x.bin\nddb.a = \"1\"\n", -EBADMSG, "file name"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 FLAT\nddb.a = \"1\"\n", -EBADMSG, "file name"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 NEWKIND \"x.bin\"\nddb.a = \"1\"\n", -ENOTSUP, "NEWKIND"},
		{"CID=1\nCID=2\ncreateType=\"vmfs\"\nRW 10 ZERO\nddb.a = \"1\"\n", -EBADMSG, "contradicts"},
		{"CID=xyz\ncreateType=\"vmfs\"\nRW 10 ZERO\nddb.a = \"1\"\n", -EBADMSG, "hexadecimal"},
		{"CID=1\nparentCID=2\ncreateType=\"vmfs\"\nRW 10 ZERO\nddb.a = \"1\"\n", -EBADMSG,
		 "parentFileNameHint"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 ZERO\nencryptionKeys=\"x\"\nddb.a = \"1\"\n", -ENOTSUP,
		 "encrypted"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 10 FLAT \"missing.bin\" 0\nddb.a = \"1\"\n", -ENOENT,
		 "missing.bin"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 6001 FLAT \"x.bin\" 0\nddb.a = \"1\"\n", -EBADMSG,
		 "cut off"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 6000 FLAT \"x.bin\" 1\nddb.a = \"1\"\n", -EBADMSG,
		 "cut off"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 1 FLAT \"/etc/passwd\" 0\nddb.a = \"1\"\n", -EBADMSG,
		 "outside"},
		{"CID=1\ncreateType=\"vmfs\"\nRW 1 FLAT \"../../../../../../../../etc/passwd\" 0\nddb.a = "
		 "\"1\"\n",
		 -EBADMSG, "outside"},
	};

	tmp_put(&t, "x.bin", disk, BYTES, 0);
	for (size_t i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		char text[512];

		snprintf(text, sizeof(text), "# Disk DescriptorFile\nversion=1\n%s", bad[i].text);
		remove(tmp_path(&t, "d.vmdk"));
		text_file("d.vmdk", text);
		expect_refused("d.vmdk", bad[i].rc, bad[i].words);
	}
}

Test(vmdk, devices_are_named_and_refused)
{
	static const char *const types[] = {"fullDevice", "partitionedDevice", "vmfsRawDeviceMap",
					    "vmfsPassthroughRawDeviceMap"};
	static const char *const lines[] = {"RW 10 FLAT \"\\\\.\\PhysicalDrive0\" 0\n",
					    "RW 10 FLAT \"/dev/sda\" 0\n", "RW 10 VMFSRDM \"x-rdm.vmdk\"\n"};
	struct hv_disk_options follow = {.raw_devices = true};
	struct read_back r;

	for (size_t i = 0; i < HV_ARRAY_SIZE(types); i++) {
		remove(tmp_path(&t, "d.vmdk"));
		put_descriptor("d.vmdk", types[i], "RW 10 FLAT \"x.bin\" 0\n");
		expect_refused("d.vmdk", -ENOTSUP, types[i]);
	}
	for (size_t i = 0; i < HV_ARRAY_SIZE(lines); i++) {
		remove(tmp_path(&t, "d.vmdk"));
		put_descriptor("d.vmdk", "custom", lines[i]);
		expect_refused("d.vmdk", -ENOTSUP, "device");
	}
	remove(tmp_path(&t, "d.vmdk"));
	tmp_put(&t, "x-rdmp.vmdk", disk, BYTES, 0);
	put_descriptor("d.vmdk", "vmfsPassthroughRawDeviceMap", "RW 6000 VMFSRDM \"x-rdmp.vmdk\"\n");
	r = vmdk_read(tmp_path(&t, "d.vmdk"), &follow, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, BYTES);
	free(r.bytes);
}

/* --- chains ----------------------------------------------------------------------------------------------- */

/* base (flat) <- COWD <- seSparse <- hosted, each with some grains of its own. */
static void make_chain(uint8_t *want)
{
	uint8_t *layer = malloc(BYTES);
	char kinds[SECTORS + 1], line[80], *text;
	struct make_vmdk m = {.disk = layer, .sectors = SECTORS, .kinds = kinds};
	struct made o;

	memcpy(want, disk, BYTES);
	tmp_put(&t, "b-flat.vmdk", disk, BYTES, 0);
	snprintf(line, sizeof(line), "RW %u VMFS \"b-flat.vmdk\"\n", SECTORS);
	text = make_descriptor("vmfs", 0xb, 0xffffffff, NULL, line);
	text_file("b.vmdk", text);
	free(text);

	make_bytes(layer, BYTES, 100);
	memset(kinds, '-', sizeof(kinds));
	memset(kinds + 777, 'd', 1000);
	memcpy(want + 777 * 512, layer + 777 * 512, 1000 * 512);
	make_cowd(&m, &o);
	make_put(&t, "b-000001-delta.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u VMFSSPARSE \"b-000001-delta.vmdk\"\n", SECTORS);
	text = make_descriptor("vmfsSparse", 0xc, 0xb, "b.vmdk", line);
	text_file("b-000001.vmdk", text);
	free(text);

	make_bytes(layer, BYTES, 200);
	memset(kinds, '-', sizeof(kinds));
	memset(kinds + 50, 'd', 100);
	memset(kinds + 150, 'z', 100);
	memcpy(want + 50 * 4096, layer + 50 * 4096, 100 * 4096);
	memset(want + 150 * 4096, 0, 100 * 4096);
	make_sesparse(&m, &o);
	make_put(&t, "b-000002-sesparse.vmdk", &o);
	snprintf(line, sizeof(line), "RW %u SESPARSE \"b-000002-sesparse.vmdk\"\n", SECTORS);
	text = make_descriptor("seSparse", 0xd, 0xc, "/vmfs/volumes/5a1b/vm/b-000001.vmdk", line);
	text_file("b-000002.vmdk", text);
	free(text);

	make_bytes(layer, BYTES, 300);
	memset(kinds, '-', sizeof(kinds));
	memset(kinds + 20, 'd', 27);
	memcpy(want + 20 * 65536, layer + 20 * 65536, BYTES - 20 * 65536);
	snprintf(line, sizeof(line), "RW %u SPARSE \"b-000003.vmdk\"\n", SECTORS);
	text = make_descriptor("monolithicSparse", 0xe, 0xd, "C:\\Virtual Machines\\vm\\b-000002.vmdk", line);
	m.descriptor = text;
	m.rgd = true;
	make_hosted(&m, &o);
	make_put(&t, "b-000003.vmdk", &o);
	free(text);
	free(layer);
}

Test(vmdk, a_snapshot_chain_gives_the_newest_bytes)
{
	uint8_t *want = malloc(BYTES);
	struct hv_disk_options alone = {.alone = true};
	struct hv_disk *d;
	struct hv_run run;

	make_chain(want);
	expect_disk("b-000003.vmdk", want, BYTES);
	cr_assert_eq(hv_disk_open(tmp_path(&t, "b-000003.vmdk"), NULL, &d, &err), 0);
	cr_assert_eq(hv_disk_map(d, 777 * 512, 512, &run, &err), 0);
	cr_assert_eq(run.depth, 1, "sector 777 lies in the second image, not %u", run.depth);
	cr_assert_str_eq(hv_disk_file_path(run.layer, 1) ? "two files" : "one", "two files");
	hv_disk_close(d);
	cr_assert_eq(hv_disk_open(t.path, &alone, &d, &err), 0);
	cr_assert_eq(hv_disk_map(d, 0, 512, &run, &err), 0);
	cr_assert_eq(run.kind, HV_RUN_HOLE);
	hv_disk_close(d);
	free(want);
}

Test(vmdk, a_parent_that_changed_is_refused_with_both_ids)
{
	uint8_t *want = malloc(BYTES);
	struct hv_disk_options salvage = {.salvage = true};
	char *text = make_descriptor("vmfs", 0xbad, 0xffffffff, NULL, "RW 6000 VMFS \"b-flat.vmdk\"\n");
	struct read_back r;

	make_chain(want);
	remove(tmp_path(&t, "b.vmdk"));
	text_file("b.vmdk", text);
	free(text);
	expect_refused("b-000003.vmdk", -EBADMSG, "CID=0000000b");
	cr_assert(strstr(err.text, "CID=00000bad") && strstr(err.text, "parentCID"), "%s", err.text);
	r = vmdk_read(t.path, &salvage, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	free(r.bytes);
	remove(tmp_path(&t, "b.vmdk"));
	expect_refused("b-000003.vmdk", -ENOENT, "b.vmdk");
	free(want);
}

Test(vmdk, a_chain_that_leads_back_to_itself_ends)
{
	char *text = make_descriptor("vmfs", 1, 1, "a.vmdk", "RW 6000 VMFS \"x.bin\"\n");

	tmp_put(&t, "x.bin", disk, BYTES, 0);
	text_file("a.vmdk", text);
	expect_refused("a.vmdk", -EBADMSG, "itself");
	free(text);
	text = make_descriptor("vmfs", 1, 1, "c.vmdk", "RW 6000 VMFS \"x.bin\"\n");
	text_file("b.vmdk", text);
	free(text);
	text = make_descriptor("vmfs", 1, 1, "b.vmdk", "RW 6000 VMFS \"x.bin\"\n");
	text_file("c.vmdk", text);
	free(text);
	expect_refused("b.vmdk", -EBADMSG, "chain");
}
