/*
 * VMDKs against qemu-img: every subformat that it writes is read to the same bytes, and what is written here
 * it checks and reads, with random sizes and contents.
 */
#include <criterion/criterion.h>

#include "make_vmdk.h"
#include "vmdk_disk.h"

#include "disk/format.h"

static struct tmp t;
static struct hv_error err;

static void setup(void)
{
	tmp_make(&t);
}

static void teardown(void)
{
	tmp_drop(&t);
}

TestSuite(vmdk_qemu, .init = setup, .fini = teardown, .timeout = 300);

static int run(const char *line)
{
	char command[2048];

	snprintf(command, sizeof(command), "cd '%s' && %s >/dev/null 2>err.txt", t.dir, line);
	return system(command);
}

static void need_qemu(void)
{
	if (run("qemu-img --version") != 0)
		cr_skip_test("no qemu-img");
}

static uint8_t *random_disk(uint64_t seed, size_t *size)
{
	uint8_t *disk;

	*size = (size_t)(make_random(&seed) % (40 << 20) + 512) / 512 * 512;
	disk = malloc(*size);
	make_bytes(disk, *size, seed);
	tmp_put(&t, "a.raw", disk, *size, 0);
	if (truncate(t.path, (off_t)*size) < 0)
		abort();
	return disk;
}

Test(vmdk_qemu, all_that_qemu_writes_is_read)
{
	static const char *const subformats[] = {"monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse",
						 "twoGbMaxExtentFlat", "streamOptimized"};

	need_qemu();
	for (unsigned i = 0; i < 10; i++) {
		const char *subformat = subformats[i % HV_ARRAY_SIZE(subformats)];
		struct read_back r;
		char line[128];
		size_t size;
		uint8_t *disk = random_disk(1000 + i * 7919, &size);

		snprintf(line, sizeof(line), "qemu-img convert -O vmdk -o subformat=%s a.raw q.vmdk",
			 subformat);
		cr_assert_eq(run(line), 0);
		r = vmdk_read(tmp_path(&t, "q.vmdk"), NULL, &err);
		cr_assert_eq(r.rc, 0, "%s: %s", subformat, err.text);
		cr_assert_eq(r.length, size, "%s", subformat);
		cr_assert_arr_eq(r.bytes, disk, size, "%s", subformat);
		cr_assert_eq(vmdk_errors(t.path, &err), 0, "%s: %s", subformat, err.text);
		free(r.bytes);
		free(disk);
		run("rm -f *.vmdk a.raw");
	}
}

static void write_all(struct hv_disk *d, const uint8_t *disk, size_t size)
{
	struct hv_disk_io *io = hv_disk_io_new();
	uint8_t *out = malloc(d->format->encode_bound + 1), grain[65536];

	for (size_t at = 0; at < size; at += sizeof(grain)) {
		size_t n = size - at < sizeof(grain) ? size - at : sizeof(grain), length;

		memset(grain, 0, sizeof(grain));
		memcpy(grain, disk + at, n);
		if (!d->format->append) {
			cr_assert_eq(hv_disk_write(d, io, disk + at, n, at, &err), 0, "%s", err.text);
			continue;
		}
		cr_assert_eq(d->format->encode(d, io, at, grain, out, &length, &err), 0, "%s", err.text);
		cr_assert_eq(d->format->append(d, at, out, length, &err), 0, "%s", err.text);
	}
	free(out);
	hv_disk_io_free(io);
}

Test(vmdk_qemu, qemu_reads_all_that_is_written)
{
	static const char *const subformats[] = {"monolithicSparse", "monolithicFlat", "streamOptimized"};

	need_qemu();
	for (unsigned i = 0; i < 9; i++) {
		struct hv_disk_create c = {.format = "vmdk",
					   .subformat = subformats[i % HV_ARRAY_SIZE(subformats)]};
		struct hv_disk *d;
		size_t size;
		uint8_t *disk = random_disk(77 + i * 104729, &size);

		c.size = size;
		cr_assert_eq(hv_disk_create(tmp_path(&t, "h.vmdk"), &c, &d, &err), 0, "%s", err.text);
		write_all(d, disk, size);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		cr_assert_eq(run("qemu-img check -f vmdk h.vmdk"), 0, "%s", c.subformat);
		cr_assert_eq(run("qemu-img convert -f vmdk -O raw h.vmdk b.raw"), 0, "%s", c.subformat);
		cr_assert_eq(run("cmp a.raw b.raw"), 0, "%s of %zu bytes", c.subformat, size);
		free(disk);
		run("rm -f *.vmdk *.raw");
	}
}

Test(vmdk_qemu, a_chain_that_qemu_made_is_followed)
{
	struct read_back r;
	size_t size;
	uint8_t *disk;

	need_qemu();
	disk = random_disk(4711, &size);
	cr_assert_eq(run("qemu-img convert -O vmdk a.raw b.vmdk"), 0);
	cr_assert_eq(run("qemu-img create -f vmdk -b b.vmdk -F vmdk d.vmdk"), 0);
	cr_assert_eq(run("qemu-io -f vmdk -c 'write -P 77 65536 100000' d.vmdk"), 0);
	memset(disk + 65536, 77, 100000 < size - 65536 ? 100000 : size - 65536);
	r = vmdk_read(tmp_path(&t, "d.vmdk"), NULL, &err);
	cr_assert_eq(r.rc, 0, "%s", err.text);
	cr_assert_arr_eq(r.bytes, disk, size);
	free(r.bytes);
	free(disk);
}
