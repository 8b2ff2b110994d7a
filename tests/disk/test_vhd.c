/*
 * VHD: images of qemu-img and of the specification's letter read to the right bytes; each damage is a refusal
 * with a sentence; what is written is read back, by qemu-img too.
 */
#include <criterion/criterion.h>
#include <spawn.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "base/bytes.h"
#include "disk/disk.h"
#include "disk/format.h"
#include "disk/output.h"
#include "make_vhd.h"
#include "tmp.h"

extern char **environ;

static struct tmp t;
static struct hv_error err;
static struct hv_disk_io *io;

static void setup(void)
{
	tmp_make(&t);
	cr_assert_eq(chdir(t.dir), 0);
	io = hv_disk_io_new();
}

static void teardown(void)
{
	hv_disk_io_free(io);
	if (chdir("/") == 0)
		tmp_drop(&t);
}

TestSuite(vhd, .init = setup, .fini = teardown, .timeout = 120);

/* --- helpers ---------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252ULL;

static uint64_t rnd(uint64_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % below;
}

/* size bytes of runs: random, zeros, one letter. */
static uint8_t *pattern(uint64_t size)
{
	uint8_t *p = calloc(1, size);

	for (uint64_t at = 0; at < size;) {
		uint64_t n = 1 + rnd(200000), kind = rnd(3);

		for (n = n < size - at ? n : size - at; n; n--, at++)
			p[at] = kind == 0 ? (uint8_t)rnd(256) : kind == 1 ? 0 : 'x';
	}
	return p;
}

/* Small: each sector tells its number and its image. */
static uint8_t *numbered(uint64_t size, char who)
{
	uint8_t *p = malloc(size);

	memset(p, who, size);
	for (uint64_t at = 0; at < size; at += 512)
		hv_put_le64(p + at, at / 512);
	return p;
}

static HV_PRINTF(1, 2) bool run(const char *command, ...)
{
	char line[2048];
	char *argv[] = {"sh", "-c", line, NULL};
	va_list ap;
	pid_t pid;
	int status;

	va_start(ap, command);
	vsnprintf(line, sizeof(line), command, ap);
	va_end(ap);
	cr_assert_eq(posix_spawnp(&pid, "sh", NULL, NULL, argv, environ), 0);
	cr_assert_eq(waitpid(pid, &status, 0), pid);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void need_qemu_img(void)
{
	if (!run("command -v qemu-img >/dev/null"))
		cr_skip("qemu-img is not installed");
}

static struct hv_disk *must_open(const char *path, const struct hv_disk_options *o)
{
	struct hv_disk *d = NULL;

	err.text[0] = '\0';
	cr_assert_eq(hv_disk_open(path, o, &d, &err), 0, "%s: %s", path, err.text);
	return d;
}

static void same_bytes(struct hv_disk *d, const uint8_t *want, uint64_t size)
{
	uint8_t *got = malloc(size);

	cr_assert_eq(hv_disk_size(d), size, "%llu", (unsigned long long)hv_disk_size(d));
	cr_assert_eq(hv_disk_read(d, io, got, size, 0, &err), 0, "%s", err.text);
	for (uint64_t i = 0; i < size; i++)
		if (got[i] != want[i])
			cr_assert_fail("%s: byte %llu is %02x, not %02x", d->path, (unsigned long long)i,
				       got[i], want[i]);
	free(got);
}

static void reads_as(const char *path, const uint8_t *want, uint64_t size)
{
	struct hv_disk *d = must_open(path, NULL);

	same_bytes(d, want, size);
	hv_disk_close(d);
}

static uint8_t *slurp(const char *path, uint64_t *size)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	uint8_t *p;

	cr_assert(fd >= 0 && fstat(fd, &st) == 0, "%s", path);
	p = malloc((size_t)st.st_size + 1);
	cr_assert_eq(read(fd, p, (size_t)st.st_size), st.st_size);
	close(fd);
	*size = (uint64_t)st.st_size;
	return p;
}

static void patch(const char *path, const void *data, size_t length, uint64_t at)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);

	cr_assert(fd >= 0 && pwrite(fd, data, length, (off_t)at) == (ssize_t)length);
	close(fd);
}

static void patch32(const char *path, uint32_t value, uint64_t at)
{
	uint8_t b[4];

	hv_put_be32(b, value);
	patch(path, b, 4, at);
}

static void patch64(const char *path, uint64_t value, uint64_t at)
{
	uint8_t b[8];

	hv_put_be64(b, value);
	patch(path, b, 8, at);
}

static bool notes(struct hv_disk *d, const char *part)
{
	struct hv_disk_info info;

	hv_disk_info(d, &info);
	for (unsigned i = 0; info.notes[i]; i++)
		if (strstr(info.notes[i], part))
			return true;
	return false;
}

static unsigned note_count(struct hv_disk *d)
{
	struct hv_disk_info info;
	unsigned n = 0;

	hv_disk_info(d, &info);
	while (info.notes[n])
		n++;
	return n;
}

static const char *property(struct hv_disk *d, const char *key)
{
	struct hv_disk_info info;

	hv_disk_info(d, &info);
	for (unsigned i = 0; info.properties[i].key; i++)
		if (strcmp(info.properties[i].key, key) == 0)
			return info.properties[i].value;
	return "";
}

/* Refused as damage, and the sentence has that part. */
static void refused(const char *path, const char *part)
{
	struct hv_disk_options o = {.format = "vhd"};
	struct hv_disk *d = NULL;

	memset(&err, 0, sizeof(err));
	cr_assert_eq(hv_disk_open(path, &o, &d, &err), -EBADMSG, "%s opened, or: %s", path, err.text);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert(strstr(err.text, part) != NULL, "\"%s\" has no \"%s\"", err.text, part);
	cr_assert(strstr(err.text, ".vhd") != NULL, "%s", err.text);
}

/* Opens, but the bytes at offset are refused with that part. */
static void unreadable(const char *path, uint64_t offset, const char *part)
{
	struct hv_disk *d = must_open(path, NULL);
	uint8_t b[512];

	cr_assert_eq(hv_disk_read(d, io, b, sizeof(b), offset, &err), -EBADMSG);
	cr_assert_eq(err.status, HV_EXIT_UNSAFE);
	cr_assert(strstr(err.text, part) != NULL, "\"%s\" has no \"%s\"", err.text, part);
	hv_disk_close(d);
}

static char found[4096];

static void collect(void *ctx, enum hv_check_severity severity, const char *text)
{
	(void)ctx, (void)severity;
	strncat(found, text, sizeof(found) - strlen(found) - 2);
	strcat(found, "\n");
}

static struct hv_disk_check check(const char *path, bool salvage)
{
	struct hv_disk_options o = {.salvage = salvage, .alone = true};
	struct hv_disk_check c = {.found = collect};
	struct hv_disk *d = must_open(path, &o);

	found[0] = '\0';
	cr_assert_eq(hv_disk_check(d, &c, &err), 0, "%s", err.text);
	hv_disk_close(d);
	return c;
}

static void clean(const char *path)
{
	struct hv_disk_check c = check(path, false);

	cr_assert_eq(c.errors + c.leaks + c.notes, 0, "%s", found);
}

static struct hv_disk *create(const char *path, const char *subformat, uint64_t size)
{
	struct hv_disk_create c = {.format = "vhd", .subformat = subformat, .size = size};
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_disk_create(path, &c, &d, &err), 0, "%s", err.text);
	return d;
}

/* --- qemu-img's images ------------------------------------------------------------------------------------ */

static void qemu_round(const char *options, uint64_t size)
{
	uint64_t got_size, made;
	uint8_t *data = pattern(size), *got, *back;
	int fd = open("in.raw", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	cr_assert_eq(write(fd, data, size), (ssize_t)size);
	close(fd);
	cr_assert(run("qemu-img convert -f raw -O vpc -o %s in.raw q.vhd && qemu-img convert -f vpc -O raw "
		      "q.vhd out.raw",
		      options));
	got = slurp("out.raw", &got_size);
	cr_assert_geq(got_size, size);
	cr_assert_arr_eq(got, data, size);
	reads_as("q.vhd", got, got_size);
	cr_assert_eq(check("q.vhd", false).errors, 0, "%s", found);
	back = slurp("q.vhd", &made);
	free(back);
	free(got);
	free(data);
}

Test(vhd, qemus_images_of_random_sizes_read_as_qemu_reads_them)
{
	static const char *const options[] = {"subformat=dynamic", "subformat=dynamic,force_size=on",
					      "subformat=fixed", "subformat=fixed,force_size=on"};

	need_qemu_img();
	for (unsigned i = 0; i < 4; i++)
		for (unsigned round = 0; round < 3; round++)
			qemu_round(options[i], 512 * (1 + rnd(20000)));
}

Test(vhd, qemus_empty_images_are_holes_of_the_exact_size)
{
	struct hv_run r;
	struct hv_disk *d;

	need_qemu_img();
	cr_assert(run("qemu-img create -q -f vpc -o force_size=on a.vhd 2040G"));
	d = must_open("a.vhd", NULL);
	cr_assert_eq(hv_disk_size(d), 2040ULL << 30);
	cr_assert_eq(hv_disk_map(d, 0, UINT64_MAX, &r, &err), 0);
	cr_assert_eq(r.kind, HV_RUN_HOLE);
	cr_assert_eq(r.length, 2040ULL << 30);
	hv_disk_close(d);
	cr_assert(run("qemu-img create -q -f vpc b.vhd 3T 2>/dev/null") == false);
	cr_assert(run("qemu-img create -q -f vpc c.vhd 300G"));
	d = must_open("c.vhd", NULL);
	cr_assert_eq(hv_disk_size(d), 300ULL << 30);
	hv_disk_close(d);
}

static void ours_round(const char *subformat, uint64_t size)
{
	uint8_t *data = pattern(size);
	struct hv_disk *d = create("o.vhd", subformat, size);
	uint64_t at = 0, got_size;
	uint8_t *got;

	while (at < size) {
		uint64_t n = 1 + rnd(3 << 20);

		n = n < size - at ? n : size - at;
		cr_assert_eq(hv_disk_write(d, io, data + at, n, at, &err), 0, "%s", err.text);
		at += n + (rnd(2) ? 0 : rnd(100000));
	}
	/* The bytes that were written: read them from the disk that is being made. */
	cr_assert_eq(hv_disk_size(d), size);
	cr_assert_eq(hv_disk_read(d, io, data, size, 0, &err), 0, "%s", err.text);
	cr_assert_eq(access("o.vhd", F_OK), -1);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	reads_as("o.vhd", data, size);
	clean("o.vhd");
	cr_assert(run("qemu-img convert -f vpc -O raw o.vhd o.raw"));
	got = slurp("o.raw", &got_size);
	cr_assert_eq(got_size, size);
	cr_assert_arr_eq(got, data, size);
	cr_assert_eq(unlink("o.vhd"), 0);
	free(got);
	free(data);
}

Test(vhd, our_images_are_read_by_qemu_at_the_exact_size)
{
	need_qemu_img();
	for (unsigned i = 0; i < 4; i++) {
		ours_round("dynamic", 512 * (1 + rnd(20000)));
		ours_round("fixed", 512 * (1 + rnd(20000)));
	}
	/* Both sides of the sizes at which the geometry's computation changes its mind. */
	for (uint64_t gib = 1; gib <= 2040; gib = gib * 3 + 1) {
		struct hv_disk *d = create("g.vhd", NULL, (gib << 30) + 512);

		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		cr_assert(run("qemu-img info g.vhd | grep -q '(%llu bytes)'",
			      (unsigned long long)(gib << 30) + 512));
	}
}

/* --- what the specification allows ------------------------------------------------------------------------ */

#define SMALL (64U * 512) /* a disk of 64 sectors, blocks of 4 KiB */

static struct make_vhd small(unsigned type, const uint8_t *data)
{
	return (struct make_vhd){.type = type, .size = SMALL, .block_size = 4096, .data = data, .id = 1};
}

Test(vhd, a_fixed_disk_is_found_by_its_footer_without_a_name)
{
	uint8_t *data = numbered(SMALL, 'f');
	struct make_vhd m = small(2, data);
	struct hv_disk_info info;
	struct hv_disk *d;

	make_vhd("disk", &m);
	d = must_open("disk", NULL);
	hv_disk_info(d, &info);
	cr_assert_str_eq(info.format, "vhd");
	cr_assert_str_eq(info.subformat, "fixed");
	cr_assert_eq(info.block_size, 0);
	same_bytes(d, data, SMALL);
	cr_assert_eq(note_count(d), 0);
	hv_disk_close(d);
	clean("disk");
	/* A raw disk's name over it: which of the two it is, only the user knows. */
	make_vhd("disk.raw", &m);
	cr_assert_eq(hv_disk_open("disk.raw", NULL, &d, &err), -EBADMSG);
	cr_assert(strstr(err.text, "--format vhd or --format raw") != NULL, "%s", err.text);
	free(data);
}

Test(vhd, a_fixed_disk_without_its_footer_is_no_raw_disk_of_that_name)
{
	struct hv_disk_options o = {.format = "raw"};
	uint8_t *data = numbered(SMALL, 'f');
	struct make_vhd m = small(2, data);
	struct made_vhd at = make_vhd("a.vhd", &m);
	struct hv_disk *d;

	cr_assert_eq(truncate("a.vhd", (off_t)at.footer), 0);
	cr_assert_eq(hv_disk_open("a.vhd", NULL, &d, &err), -EBADMSG);
	cr_assert(strstr(err.text, "its name says vhd") != NULL, "%s", err.text);
	d = must_open("a.vhd", &o);
	hv_disk_close(d);
	free(data);
}

Test(vhd, a_guest_that_writes_another_formats_mark_changes_nothing)
{
	static const uint8_t qcow2[] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
	uint8_t *data = numbered(SMALL, 'f');
	struct make_vhd m = small(2, data);

	memcpy(data, qcow2, sizeof(qcow2));
	make_vhd("a.vhd", &m);
	reads_as("a.vhd", data, SMALL);
	memcpy(data, "conectix", 8);
	make_vhd("a.vhd", &m);
	reads_as("a.vhd", data, SMALL);
	free(data);
}

Test(vhd, footers_of_511_bytes_are_known)
{
	uint8_t *data = numbered(SMALL, 'f');

	for (unsigned type = 2; type <= 3; type++) {
		struct make_vhd m = small(type, data);

		m.short_footer = true;
		make_vhd("a.vhd", &m);
		reads_as("a.vhd", data, SMALL);
		cr_assert_eq(check("a.vhd", false).errors, 0, "%s", found);
	}
	free(data);
}

Test(vhd, bytes_behind_a_fixed_disk_are_not_its_own_and_noted)
{
	uint8_t *data = numbered(SMALL, 'f');
	struct make_vhd m = small(2, data);
	struct hv_disk *d;

	m.tail = 1024;
	make_vhd("a.vhd", &m);
	d = must_open("a.vhd", NULL);
	same_bytes(d, data, SMALL);
	cr_assert(notes(d, "1024 bytes"));
	hv_disk_close(d);
	free(data);
}

Test(vhd, a_sector_that_was_never_written_is_zeros_whatever_stands_there)
{
	uint8_t *data = numbered(SMALL, 'd');
	char present[65];
	struct make_vhd m = small(3, data);

	for (unsigned i = 0; i < 64; i++) {
		present[i] = i % 7 < 3 || (i >= 16 && i < 40) ? '0' : '1';
		if (present[i] == '0')
			memset(data + (size_t)i * 512, 0, 512);
	}
	m.present = present;
	make_vhd("a.vhd", &m);
	reads_as("a.vhd", data, SMALL);
	clean("a.vhd");
	m.noise = true;
	make_vhd("a.vhd", &m);
	reads_as("a.vhd", data, SMALL);
	cr_assert_eq(check("a.vhd", false).errors, 0);
	cr_assert(strstr(found, "never written") != NULL, "%s", found);
	free(data);
}

Test(vhd, all_block_sizes_read)
{
	for (uint32_t block = 512; block <= 32 << 20; block *= 4) {
		uint64_t size = 5 * 512 * (1 + rnd(1000));
		uint8_t *data = pattern(size);
		struct make_vhd m = {.type = 3, .size = size, .block_size = block, .data = data, .id = 1};

		make_vhd("a.vhd", &m);
		reads_as("a.vhd", data, size);
		cr_assert_eq(check("a.vhd", false).errors, 0, "%s", found);
		free(data);
	}
}

static void sized(const char *creator, uint16_t cylinders, uint8_t heads, uint8_t sectors, bool tail,
		  uint64_t want)
{
	uint64_t size = 4096 * 512;
	uint8_t *data = calloc(1, size);
	struct hv_disk *d;

	for (unsigned type = 2; type <= 3; type++) {
		struct make_vhd m = {.type = type,
				     .size = size,
				     .block_size = 65536,
				     .creator = creator,
				     .cylinders = cylinders,
				     .heads = heads,
				     .sectors = sectors,
				     .data = data,
				     .id = 1};

		data[size - 1] = tail;
		make_vhd("a.vhd", &m);
		d = must_open("a.vhd", NULL);
		cr_assert_eq(hv_disk_size(d), want, "%.4s: %llu", creator,
			     (unsigned long long)hv_disk_size(d));
		same_bytes(d, data, want);
		cr_assert_eq(note_count(d) > 0,
			     want != size || (tail && creator[0] == 'v' && creator[1] != 'b'), "%.4s",
			     creator);
		hv_disk_close(d);
	}
	free(data);
}

Test(vhd, the_creator_says_whether_geometry_or_current_size_counts)
{
	uint64_t whole = 4096 * 512, by_geometry = 60ULL * 4 * 17 * 512;

	sized("vpc ", 60, 4, 17, false, by_geometry);
	sized("vs  ", 60, 4, 17, false, by_geometry);
	sized("qemu", 60, 4, 17, false, by_geometry);
	sized("qem2", 60, 4, 17, false, whole);
	sized("win ", 60, 4, 17, false, whole);
	sized("d2v ", 60, 4, 17, false, whole);
	sized("CTXS", 60, 4, 17, false, whole);
	sized("tap\0", 60, 4, 17, false, whole);
	sized("wa\0\0", 60, 4, 17, false, whole);
	sized("vbox", 60, 4, 17, false, whole);
	/* The largest geometry says nothing; neither does none. */
	sized("vpc ", 65535, 16, 255, false, whole);
	sized("vpc ", 0, 0, 0, false, whole);
	/* Never at the price of data. */
	sized("vpc ", 60, 4, 17, true, whole);
}

Test(vhd, a_saved_state_is_noted_and_ids_are_told)
{
	uint8_t *data = numbered(SMALL, 'd');
	struct make_vhd m = small(3, data);
	struct hv_disk *d;

	m.saved = true;
	m.id = 0xab;
	make_vhd("a.vhd", &m);
	d = must_open("a.vhd", NULL);
	cr_assert(notes(d, "saved"));
	cr_assert_str_eq(property(d, "id"), "abababab-abab-abab-abab-abababababab");
	cr_assert_str_eq(property(d, "creator"), "win 6.1");
	cr_assert_str_eq(property(d, "created"), "2000-01-12T13:46:40Z");
	hv_disk_close(d);
	free(data);
}

/* --- chains ----------------------------------------------------------------------------------------------- */

static uint32_t modified(const char *path)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return (uint32_t)(st.st_mtime - 946684800);
}

/* A parent p.vhd (id 1), a child that holds every third sector, and what the chain reads as. */
static uint8_t *family(struct make_vhd *child, char *present)
{
	uint8_t *parent = numbered(SMALL, 'p'), *data = numbered(SMALL, 'c');
	struct make_vhd m = small(3, parent);

	if (access("p.vhd", F_OK) < 0)
		make_vhd("p.vhd", &m);
	for (unsigned i = 0; i < 64; i++)
		present[i] = i % 3 == 0 && i / 8 != 2 ? '1' : '0';
	present[64] = '\0';
	*child = small(4, data);
	child->id = 2;
	child->parent_id = 1;
	child->parent_time = modified("p.vhd");
	child->present = present;
	for (unsigned i = 0; i < 64; i++)
		if (present[i] == '1')
			memcpy(parent + (size_t)i * 512, data + (size_t)i * 512, 512);
	return parent;
}

Test(vhd, the_parent_is_found_by_each_kind_of_locator)
{
	char present[65];
	struct make_vhd m;
	uint8_t *want = family(&m, present);
	static const struct make_vhd names[] = {
		{.w2ku = "C:\\Users\\Public\\Documents\\Hyper-V\\p.vhd"},
		{.w2ru = ".\\p.vhd"},
		{.w2ru = "p.vhd"},
		{.wi2r = ".\\p.vhd"},
		{.wi2k = "D:\\vms\\p.vhd"},
		{.macx = "file://./p.vhd"},
		{.macx = "file:///sr/%70.vhd"},
		{.name = "p.vhd"},
		{.name = "E:\\p.vhd"},
		{.w2ku = "C:\\gone.vhd", .w2ru = ".\\gone\\too.vhd", .name = "p.vhd"},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(names); i++) {
		struct hv_disk *d;

		m.w2ku = names[i].w2ku;
		m.w2ru = names[i].w2ru;
		m.wi2r = names[i].wi2r;
		m.wi2k = names[i].wi2k;
		m.macx = names[i].macx;
		m.name = names[i].name;
		make_vhd("c.avhd", &m);
		d = must_open("c.avhd", NULL);
		cr_assert_not_null(hv_disk_parent(d));
		cr_assert_eq(note_count(d), 0);
		same_bytes(d, want, SMALL);
		hv_disk_close(d);
		clean("c.avhd");
	}
	free((void *)m.data);
	free(want);
}

Test(vhd, locators_are_tried_in_order_and_the_id_decides)
{
	char present[65];
	struct make_vhd m, other;
	uint8_t *want = family(&m, present), *wrong = numbered(SMALL, 'w');

	/* An absolute name comes first, but what it names here is another disk. */
	other = small(3, wrong);
	other.id = 7;
	make_vhd("w.vhd", &other);
	m.w2ku = "w.vhd";
	m.w2ru = "p.vhd";
	m.wi2r = "gone.vhd";
	make_vhd("c.vhd", &m);
	reads_as("c.vhd", want, SMALL);
	/* Two with the right id: the first. */
	other.id = 1;
	make_vhd("w.vhd", &other);
	m.parent_time = modified("w.vhd");
	make_vhd("c.vhd", &m);
	for (unsigned i = 0; i < 64; i++)
		if (present[i] == '0')
			memcpy(want + (size_t)i * 512, wrong + (size_t)i * 512, 512);
	reads_as("c.vhd", want, SMALL);
	free((void *)m.data);
	free(want);
	free(wrong);
}

Test(vhd, a_chain_of_three_reads_through)
{
	uint8_t *base = numbered(SMALL, 'a'), *mid = numbered(SMALL, 'b'), *top = numbered(SMALL, 'c');
	char in_mid[65], in_top[65];
	struct make_vhd m = small(2, base);

	make_vhd("base.vhd", &m);
	for (unsigned i = 0; i < 64; i++) {
		in_mid[i] = i % 2 ? '1' : '0';
		in_top[i] = i % 5 == 0 || i / 8 == 3 ? '1' : '0';
		if (in_mid[i] == '1')
			memcpy(base + (size_t)i * 512, mid + (size_t)i * 512, 512);
		if (in_top[i] == '1')
			memcpy(base + (size_t)i * 512, top + (size_t)i * 512, 512);
	}
	m = small(4, mid);
	m.id = 2, m.parent_id = 1, m.present = in_mid, m.w2ru = ".\\base.vhd";
	make_vhd("mid.avhd", &m);
	m = small(4, top);
	m.id = 3, m.parent_id = 2, m.present = in_top, m.w2ru = ".\\mid.avhd", m.block_size = 1024;
	make_vhd("top.avhd", &m);
	reads_as("top.avhd", base, SMALL);
	free(base);
	free(mid);
	free(top);
}

Test(vhd, a_wrong_or_missing_parent_is_refused)
{
	char present[65];
	struct hv_disk_options alone = {.alone = true}, salvage = {.salvage = true};
	struct make_vhd m;
	uint8_t *want = family(&m, present), b[512];
	struct hv_disk *d;

	m.w2ru = ".\\p.vhd";
	m.parent_id = 9;
	make_vhd("c.vhd", &m);
	refused("c.vhd", "unique id");
	m.parent_id = 1;
	m.w2ru = ".\\gone.vhd";
	make_vhd("c.vhd", &m);
	refused("c.vhd", "gone.vhd");
	m.w2ru = NULL;
	make_vhd("c.vhd", &m);
	refused("c.vhd", "names no parent");
	m.w2ru = ".\\c.vhd";
	make_vhd("c.vhd", &m);
	refused("c.vhd", "itself");
	d = must_open("c.vhd", &alone);
	cr_assert_null(hv_disk_parent(d));
	hv_disk_close(d);
	/* What the child holds can be saved, what the parent held is no zeros. */
	d = must_open("c.vhd", &salvage);
	cr_assert_eq(hv_disk_read(d, io, b, 512, 0, &err), 0, "%s", err.text);
	cr_assert_eq(hv_disk_read(d, io, b, 512, 512, &err), -EBADMSG);
	cr_assert_eq(hv_disk_read(d, io, b, 512, 2 * 4096, &err), -EBADMSG);
	hv_disk_close(d);
	free((void *)m.data);
	free(want);
}

Test(vhd, a_parent_outside_the_folder_is_refused_unless_allowed)
{
	char present[65], outside[600];
	const char *externals[] = {outside};
	struct hv_disk_options o = {.external = externals, .externals = 1};
	struct make_vhd m;
	uint8_t *want = family(&m, present);
	struct hv_disk *d;

	cr_assert_eq(mkdir("in", 0700), 0);
	m.w2ru = "..\\p.vhd";
	make_vhd("in/c.vhd", &m);
	refused("in/c.vhd", "--allow-external");
	snprintf(outside, sizeof(outside), "%s/p.vhd", t.dir);
	d = must_open("in/c.vhd", &o);
	same_bytes(d, want, SMALL);
	hv_disk_close(d);
	free((void *)m.data);
	free(want);
}

Test(vhd, another_time_of_the_parent_is_a_note_and_another_size_a_refusal)
{
	struct made_vhd at = {.footer = 1536 + 512 + 8 * (512 + 4096)};
	char present[65];
	struct make_vhd m;
	uint8_t *want = family(&m, present);
	struct hv_disk *d;

	m.w2ru = ".\\p.vhd";
	m.parent_time -= 3600;
	make_vhd("c.vhd", &m);
	d = must_open("c.vhd", NULL);
	cr_assert(notes(d, "3600 s later"));
	same_bytes(d, want, SMALL);
	hv_disk_close(d);
	m.size -= 512;
	make_vhd("c.vhd", &m);
	refused("c.vhd", "resized");
	/* XenServer lengthens children. */
	m.size = SMALL;
	m.creator = "tap";
	make_vhd("c.vhd", &m);
	patch64("p.vhd", SMALL - 512, 48);
	patch64("p.vhd", SMALL - 512, at.footer + 48);
	make_vhd_sums("p.vhd", &at);
	memset(want + SMALL - 512, 0, present[63] == '1' ? 0 : 512);
	reads_as("c.vhd", want, SMALL);
	free((void *)m.data);
	free(want);
}

Test(vhd, parents_that_go_in_circles_end)
{
	uint8_t *data = numbered(SMALL, 'c');
	struct make_vhd m = small(4, data);

	m.id = m.parent_id = 1;
	m.w2ru = "b.vhd";
	m.w2ku = "./b.vhd";
	m.wi2r = ".//b.vhd";
	make_vhd("a.vhd", &m);
	m.w2ru = "a.vhd";
	m.w2ku = "./a.vhd";
	m.wi2r = ".//a.vhd";
	make_vhd("b.vhd", &m);
	refused("a.vhd", "");
	free(data);
}

/* --- damage ----------------------------------------------------------------------------------------------- */

static struct made_vhd made;
static uint8_t *bytes;

static void fresh(unsigned type)
{
	struct make_vhd m;

	free(bytes);
	bytes = numbered(SMALL, 'd');
	m = small(type, bytes);
	made = make_vhd("d.vhd", &m);
}

Test(vhd, a_lost_footer_is_replaced_by_its_copy_and_that_is_said)
{
	struct hv_disk *d;

	fresh(3);
	cr_assert_eq(truncate("d.vhd", (off_t)made.footer), 0);
	d = must_open("d.vhd", NULL);
	cr_assert(notes(d, "copy at the start is used"));
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
	cr_assert_eq(check("d.vhd", false).errors, 1, "%s", found);
	fresh(3);
	patch32("d.vhd", 0, made.footer + 52);
	d = must_open("d.vhd", NULL);
	cr_assert(notes(d, "damaged"));
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
	fresh(3);
	patch32("d.vhd", 7, 40);
	d = must_open("d.vhd", NULL);
	cr_assert(notes(d, "copy at the start of the file is damaged"));
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
	cr_assert_eq(check("d.vhd", false).errors, 1, "%s", found);
}

Test(vhd, damaged_footers_are_refused)
{
	struct hv_disk_options salvage = {.salvage = true, .format = "vhd"};
	struct hv_disk *d;

	fresh(2);
	patch32("d.vhd", 7, made.footer + 24);
	refused("d.vhd", "checksum");
	d = must_open("d.vhd", &salvage);
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
	fresh(3);
	patch32("d.vhd", 7, made.footer + 24);
	patch32("d.vhd", 7, 24);
	refused("d.vhd", "checksum");
	fresh(2);
	cr_assert_eq(truncate("d.vhd", (off_t)made.footer), 0);
	refused("d.vhd", "no VHD footer");
	fresh(3);
	patch64("d.vhd", SMALL * 2, made.footer + 48);
	make_vhd_sums("d.vhd", &made);
	refused("d.vhd", "disagree on the current size");
	d = must_open("d.vhd", &salvage);
	hv_disk_close(d);
	fresh(3);
	patch32("d.vhd", 99, made.footer + 24);
	make_vhd_sums("d.vhd", &made);
	d = must_open("d.vhd", NULL);
	cr_assert(notes(d, "not the same"));
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
}

static void both_footers(unsigned at, uint64_t value, unsigned width)
{
	fresh(3);
	for (unsigned i = 0; i < 2; i++) {
		uint64_t where = (i ? made.footer : 0) + at;

		if (width == 8)
			patch64("d.vhd", value, where);
		else
			patch32("d.vhd", (uint32_t)value, where);
	}
	make_vhd_sums("d.vhd", &made);
}

Test(vhd, impossible_fields_of_the_footer_are_refused)
{
	struct hv_disk_options o = {.format = "vhd"};
	struct hv_disk *d;

	both_footers(48, 0, 8);
	refused("d.vhd", "0 bytes");
	both_footers(48, 1000, 8);
	refused("d.vhd", "1000 bytes");
	both_footers(48, UINT64_MAX - 511, 8);
	refused("d.vhd", "multiple of 512");
	both_footers(48, 1ULL << 61, 8);
	refused("d.vhd", "entries");
	both_footers(16, UINT64_MAX, 8);
	refused("d.vhd", "dynamic header at offset");
	both_footers(16, 0, 8);
	refused("d.vhd", "cxsparse");
	both_footers(12, 0x20000, 4);
	cr_assert_eq(hv_disk_open("d.vhd", &o, &d, &err), -ENOTSUP);
	both_footers(60, 5, 4);
	cr_assert_eq(hv_disk_open("d.vhd", &o, &d, &err), -ENOTSUP);
	fresh(2);
	patch64("d.vhd", SMALL + 512, made.footer + 48);
	make_vhd_sums("d.vhd", &made);
	refused("d.vhd", "cut");
}

static void header_field(unsigned at, uint64_t value, unsigned width)
{
	fresh(3);
	if (width == 8)
		patch64("d.vhd", value, made.header + at);
	else
		patch32("d.vhd", (uint32_t)value, made.header + at);
	make_vhd_sums("d.vhd", &made);
}

Test(vhd, impossible_fields_of_the_header_are_refused)
{
	struct hv_disk_options o = {.salvage = true};
	struct hv_disk *d;
	uint8_t b[512];

	fresh(3);
	patch32("d.vhd", 9, made.header + 28);
	refused("d.vhd", "checksum");
	d = must_open("d.vhd", &o);
	same_bytes(d, bytes, SMALL);
	hv_disk_close(d);
	header_field(0, 0, 4);
	refused("d.vhd", "cxsparse");
	header_field(32, 0, 4);
	refused("d.vhd", "blocks of 0 bytes");
	header_field(32, 256, 4);
	refused("d.vhd", "blocks of 256 bytes");
	header_field(32, 4096 + 512, 4);
	refused("d.vhd", "power of two");
	header_field(32, 512U << 20, 4);
	refused("d.vhd", "256 MiB");
	header_field(28, 7, 4);
	refused("d.vhd", "7 entries");
	d = must_open("d.vhd", &o);
	cr_assert(notes(d, "7 of the 8"));
	cr_assert_eq(hv_disk_read(d, io, b, 512, 6 * 4096, &err), 0);
	cr_assert_eq(hv_disk_read(d, io, b, 512, 7 * 4096, &err), -EBADMSG);
	hv_disk_close(d);
	cr_assert_gt(check("d.vhd", true).errors, 0);
	header_field(28, UINT32_MAX, 4);
	reads_as("d.vhd", bytes, SMALL);
	header_field(16, 0, 8);
	refused("d.vhd", "lies on");
	header_field(16, 1024, 8);
	refused("d.vhd", "lies on");
	header_field(16, made.length, 8);
	refused("d.vhd", "not all in");
	header_field(16, UINT64_MAX - 3, 8);
	refused("d.vhd", "not all in");
}

Test(vhd, entries_that_lead_astray_are_refused)
{
	static const struct {
		uint32_t entry;
		const char *part;
	} bad[] = {
		{0, "footer's copy"},   {1, "dynamic header"}, {3, "block allocation table"},
		{0xfffffffe, "end at"}, {80, "end at"},
	};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		fresh(3);
		patch32("d.vhd", bad[i].entry, made.table + 4 * 3);
		unreadable("d.vhd", 3 * 4096, bad[i].part);
		cr_assert_eq(check("d.vhd", false).errors, 1, "%s", found);
	}
	/* Onto the footer at the end. */
	fresh(3);
	patch32("d.vhd", (uint32_t)(made.footer / 512), made.table);
	unreadable("d.vhd", 0, "end at");
	/* Two blocks in one place, or half on each other. */
	fresh(3);
	patch32("d.vhd", (uint32_t)(made.block[1] / 512), made.table);
	cr_assert_geq(check("d.vhd", false).errors, 1);
	cr_assert(strstr(found, "overlaps") != NULL, "%s", found);
	fresh(3);
	patch32("d.vhd", (uint32_t)(made.block[1] / 512 + 1), made.table);
	cr_assert_geq(check("d.vhd", false).errors, 1);
	/* A block that nothing leads to. */
	fresh(3);
	patch32("d.vhd", UINT32_MAX, made.table);
	for (unsigned i = 1; i < 8; i++)
		patch32("d.vhd", UINT32_MAX, made.table + i * 4ULL);
	cr_assert_eq(check("d.vhd", false).leaks, 1, "%s", found);
}

Test(vhd, entries_onto_a_parent_locator_are_refused)
{
	char present[65];
	struct make_vhd m;
	uint8_t *want = family(&m, present);
	struct made_vhd at;

	m.w2ru = ".\\p.vhd";
	at = make_vhd("c.vhd", &m);
	patch32("c.vhd", 3, at.table);
	unreadable("c.vhd", 0, "onto the");
	free((void *)m.data);
	free(want);
}

/* Every cut: refused somewhere, or the very bytes. */
static void cut_everywhere(const char *path, const char *top, const uint8_t *want)
{
	uint64_t length;
	uint8_t *whole = slurp(path, &length), *got = malloc(SMALL);

	for (uint64_t at = (length - 1) / 512 * 512;; at -= 512) {
		struct hv_disk *d;
		int rc;

		cr_assert_eq(truncate(path, (off_t)at), 0);
		rc = hv_disk_open(top, NULL, &d, &err);
		if (rc == 0) {
			cr_assert_str_eq(d->format->name, "vhd");
			rc = hv_disk_read(d, io, got, SMALL, 0, &err);
			if (rc == 0)
				cr_assert_arr_eq(got, want, SMALL, "cut at %llu", (unsigned long long)at);
			hv_disk_close(d);
		}
		cr_assert(rc == 0 || rc == -EBADMSG, "%d: %s", rc, err.text);
		cr_assert(rc == 0 || err.status == HV_EXIT_UNSAFE);
		if (at == 0)
			break;
	}
	free(whole);
	free(got);
}

Test(vhd, a_cut_file_never_reads_as_other_bytes)
{
	char present[65];
	struct make_vhd m;
	uint8_t *want;

	fresh(3);
	cut_everywhere("d.vhd", "d.vhd", bytes);
	fresh(2);
	cut_everywhere("d.vhd", "d.vhd", bytes);
	want = family(&m, present);
	m.w2ru = ".\\p.vhd";
	make_vhd("c.vhd", &m);
	cut_everywhere("c.vhd", "c.vhd", want);
	make_vhd("c.vhd", &m);
	cut_everywhere("p.vhd", "c.vhd", want);
	free((void *)m.data);
	free(want);
}

/* Any one byte of the metadata changed: refused, noted, or the very bytes. */
Test(vhd, no_changed_byte_of_footer_or_header_goes_unseen)
{
	struct hv_disk_options o = {.format = "vhd"};
	uint8_t *got = malloc(SMALL);

	fresh(3);
	for (uint64_t at = 0; at < 1536; at++) {
		uint8_t was = 0, now;
		struct hv_disk *d;
		int fd = open("d.vhd", O_RDWR | O_CLOEXEC), rc;

		cr_assert_eq(pread(fd, &was, 1, (off_t)at), 1);
		now = (uint8_t)(was + 1 + rnd(255));
		cr_assert_eq(pwrite(fd, &now, 1, (off_t)at), 1);
		rc = hv_disk_open("d.vhd", &o, &d, &err);
		if (rc == 0) {
			cr_assert_gt(note_count(d), 0, "byte %llu", (unsigned long long)at);
			same_bytes(d, bytes, SMALL);
			hv_disk_close(d);
		}
		cr_assert_eq(pwrite(fd, &was, 1, (off_t)at), 1);
		close(fd);
	}
	free(got);
}

/* --- writing ---------------------------------------------------------------------------------------------- */

/* Random writes and zeros, beside a copy in memory. */
static void scribble(struct hv_disk *d, uint8_t *mirror, uint64_t size, unsigned times)
{
	uint8_t *buf = malloc(size);

	for (unsigned i = 0; i < times; i++) {
		uint64_t at = rnd(size), n = 1 + rnd(rnd(3) ? size / 8 : size);

		n = n < size - at ? n : size - at;
		if (rnd(3) == 0) {
			memset(mirror + at, 0, n);
			cr_assert_eq(hv_disk_zero(d, io, at, n, &err), 0, "%s", err.text);
		} else {
			for (uint64_t j = 0; j < n; j++)
				mirror[at + j] = (uint8_t)rnd(256);
			memcpy(buf, mirror + at, n);
			cr_assert_eq(hv_disk_write(d, io, buf, n, at, &err), 0, "%s", err.text);
		}
		if (rnd(4) == 0)
			cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		if (rnd(8) == 0)
			same_bytes(d, mirror, size);
	}
	free(buf);
}

Test(vhd, images_are_written_in_place)
{
	struct hv_disk_options o = {.writable = true};
	char present[65];
	uint8_t *data = numbered(SMALL, 'd');

	for (unsigned round = 0; round < 60; round++) {
		struct make_vhd m = small(round % 3 == 0 ? 2 : 3, data);
		uint8_t *mirror = malloc(SMALL);
		struct hv_disk *d;

		memcpy(mirror, data, SMALL);
		for (unsigned i = 0; i < 64 && m.type == 3; i++) {
			present[i] = rnd(3) && i / 8 != 5 ? '1' : '0';
			if (present[i] == '0')
				memset(mirror + (size_t)i * 512, 0, 512);
		}
		m.present = m.type == 3 ? present : NULL;
		m.noise = rnd(2);
		m.short_footer = m.type == 2 && rnd(2);
		make_vhd("w.vhd", &m);
		d = must_open("w.vhd", &o);
		same_bytes(d, mirror, SMALL);
		scribble(d, mirror, SMALL, 10);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		same_bytes(d, mirror, SMALL);
		hv_disk_close(d);
		d = must_open("w.vhd", NULL);
		cr_assert_eq(note_count(d), 0);
		same_bytes(d, mirror, SMALL);
		hv_disk_close(d);
		cr_assert_eq(check("w.vhd", false).errors, 0, "%s", found);
		free(mirror);
	}
	free(data);
}

Test(vhd, a_child_is_written_and_its_parent_is_not_touched)
{
	struct hv_disk_options o = {.writable = true};
	char present[65];
	struct make_vhd m;
	uint8_t *before, *after;
	uint64_t length, length2;

	for (unsigned round = 0; round < 30; round++) {
		uint8_t *want = family(&m, present);
		struct hv_disk *d;

		before = slurp("p.vhd", &length);
		m.w2ru = ".\\p.vhd";
		make_vhd("c.vhd", &m);
		d = must_open("c.vhd", &o);
		scribble(d, want, SMALL, 10);
		cr_assert_eq(hv_disk_flush(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		reads_as("c.vhd", want, SMALL);
		cr_assert_eq(check("c.vhd", false).errors, 0, "%s", found);
		after = slurp("p.vhd", &length2);
		cr_assert_eq(length, length2);
		cr_assert_arr_eq(before, after, length);
		free(before);
		free(after);
		free(want);
		free((void *)m.data);
	}
}

Test(vhd, what_was_flushed_is_there_without_a_close)
{
	struct hv_disk_options o = {.writable = true};
	uint8_t *data = calloc(1, 8 << 20), *copy;
	struct hv_disk *d = create("a.vhd", NULL, 8 << 20);
	uint64_t length;
	int fd;

	cr_assert_eq(hv_disk_commit(d, &err), 0);
	hv_disk_close(d);
	d = must_open("a.vhd", &o);
	memset(data + (5 << 20), 'x', 5000);
	cr_assert_eq(hv_disk_write(d, io, data + (5 << 20), 5000, 5 << 20, &err), 0);
	cr_assert_eq(hv_disk_flush(d, &err), 0);
	/* A machine that stops now: later writes may be lost, the image is whole. */
	memset(data, 'y', 100);
	cr_assert_eq(hv_disk_write(d, io, data, 100, 0, &err), 0);
	copy = slurp("a.vhd", &length);
	fd = open("b.vhd", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	cr_assert_eq(write(fd, copy, length), (ssize_t)length);
	close(fd);
	hv_disk_close(d);
	memset(data, 0, 100);
	reads_as("b.vhd", data, 8 << 20);
	free(copy);
	free(data);
}

Test(vhd, blocks_are_made_in_order_at_whole_pages)
{
	struct hv_disk *d = create("a.vhd", "dynamic", 20 << 20);
	uint64_t last = 0;
	struct hv_run r;

	for (unsigned i = 0; i < 10; i++)
		cr_assert_eq(hv_disk_write(d, io, "x", 1, (uint64_t)i << 21, &err), 0);
	for (unsigned i = 0; i < 10; i++) {
		cr_assert_eq(hv_disk_map(d, (uint64_t)i << 21, 4096, &r, &err), 0);
		cr_assert_eq(r.kind, HV_RUN_DATA);
		cr_assert_eq(r.at % 4096, 0);
		cr_assert_gt(r.at, last);
		last = r.at;
	}
	cr_assert_eq(hv_disk_commit(d, &err), 0);
	hv_disk_close(d);
	clean("a.vhd");
}

Test(vhd, all_of_it_can_be_allocated_at_once)
{
	struct hv_disk_create c = {.format = "vhd", .size = (9 << 20) + 512, .full = true};
	uint8_t *zeros = calloc(1, c.size);
	struct hv_disk_info info;
	struct hv_disk *d;
	struct hv_run r;

	for (unsigned i = 0; i < 2; i++) {
		c.subformat = i ? "fixed" : "dynamic";
		cr_assert_eq(hv_disk_create("a.vhd", &c, &d, &err), 0, "%s", err.text);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		reads_as("a.vhd", zeros, c.size);
		clean("a.vhd");
		d = must_open("a.vhd", NULL);
		cr_assert_eq(hv_disk_map(d, 8 << 20, 512, &r, &err), 0);
		cr_assert(i || r.kind == HV_RUN_DATA);
		hv_disk_info(d, &info);
		cr_assert_geq(info.allocated, 9 << 20);
		hv_disk_close(d);
	}
	free(zeros);
}

Test(vhd, what_a_vhd_cannot_hold_is_a_wrong_request)
{
	static const struct hv_disk_create bad[] = {
		{.format = "vhd", .size = 0},
		{.format = "vhd", .size = (2040ULL << 30) + 1},
		{.format = "vhd", .size = UINT64_MAX},
		{.format = "vhd", .size = 1 << 20, .sector_size = 4096},
		{.format = "vhd", .size = 1 << 20, .block_size = 3 << 20},
		{.format = "vhd", .size = 1 << 20, .block_size = 512U << 20},
		{.format = "vhd", .size = 2040ULL << 30, .block_size = 512 << 10},
		{.format = "vhd", .size = 1 << 20, .subformat = "differencing"},
		{.format = "vhd", .size = 1 << 20, .backing = "x"},
	};
	struct hv_disk *d;

	for (unsigned i = 0; i < HV_ARRAY_SIZE(bad); i++) {
		cr_assert_eq(hv_disk_create("a.vhd", &bad[i], &d, &err), -EINVAL, "%u", i);
		cr_assert_eq(err.status, HV_EXIT_USAGE);
	}
	d = create("a.vhd", NULL, (1 << 20) + 1);
	cr_assert_eq(hv_disk_size(d), (1 << 20) + 512);
	cr_assert(notes(d, "Azure"));
	hv_disk_close(d);
	d = create("a.vhd", NULL, 2040ULL << 30);
	cr_assert_eq(note_count(d), 0);
	hv_disk_close(d);
}

/* --- resuming --------------------------------------------------------------------------------------------- */

static struct hv_disk *begin(const char *subformat, bool resume)
{
	struct hv_disk_create c = {.format = "vhd", .subformat = subformat, .size = 13 << 20};
	struct hv_output *o;
	struct hv_disk *d = NULL;

	cr_assert_eq(hv_output_begin("r.vhd", resume, &o, &err), 0, "%s", err.text);
	if (resume)
		hv_output_keep(o, false);
	cr_assert_eq(hv_disk_create_on(o, &c, resume, &d, &err), 0, "%s", err.text);
	return d;
}

Test(vhd, a_resumed_image_is_the_same_to_the_byte)
{
	uint8_t *data = pattern(13 << 20), *whole, *resumed;
	uint64_t length, length2;

	for (unsigned i = 0; i < 4; i++) {
		const char *subformat = i % 2 ? "fixed" : "dynamic";
		uint64_t cut = (i / 2 ? 6U : 0U) << 20;
		struct hv_disk *d = begin(subformat, false);

		if (cut)
			cr_assert_eq(hv_disk_write(d, io, data, cut, 0, &err), 0);
		cr_assert_eq(hv_disk_flush(d, &err), 0);
		/* Begun and never told the table. */
		hv_disk_write(d, io, data + cut, 3 << 20, cut, &err);
		hv_output_keep(d->output, true);
		hv_disk_close(d);
		d = begin(subformat, true);
		cr_assert_eq(hv_disk_size(d), 13 << 20);
		cr_assert_eq(hv_disk_write(d, io, data + cut, (13 << 20) - cut, cut, &err), 0, "%s",
			     err.text);
		cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
		hv_disk_close(d);
		reads_as("r.vhd", data, 13 << 20);
		clean("r.vhd");
		resumed = slurp("r.vhd", &length);
		d = begin(subformat, false);
		cr_assert_eq(hv_disk_write(d, io, data, 13 << 20, 0, &err), 0);
		cr_assert_eq(hv_disk_commit(d, &err), 0);
		hv_disk_close(d);
		whole = slurp("r.vhd", &length2);
		cr_assert_eq(length, length2);
		/* But for the ids and times of two images, at both ends. */
		cr_assert_arr_eq(whole + 512, resumed + 512, length - 1024);
		free(whole);
		free(resumed);
	}
	free(data);
}

/* --- threads ---------------------------------------------------------------------------------------------- */

static struct hv_disk *shared;
static uint8_t *shared_mirror;

#define STRIP  24576U
#define STRIPS 400U

static void *writer(void *arg)
{
	unsigned who = (unsigned)(uintptr_t)arg;
	struct hv_disk_io *own = hv_disk_io_new();
	struct hv_error e;
	uint8_t got[512];

	for (unsigned i = who; i < STRIPS; i += 4) {
		uint64_t at = (uint64_t)(i * 7 % STRIPS) * STRIP;

		if (hv_disk_write(shared, own, shared_mirror + at, STRIP, at, &e) < 0 ||
		    hv_disk_read(shared, own, got, sizeof(got), at + 1024, &e) < 0 ||
		    memcmp(got, shared_mirror + at + 1024, sizeof(got)) != 0)
			abort();
		if (i % 64 == 0 && hv_disk_flush(shared, &e) < 0)
			abort();
	}
	hv_disk_io_free(own);
	return NULL;
}

Test(vhd, threads_write_beside_each_other)
{
	struct hv_disk_options o = {.writable = true};
	uint64_t size = (uint64_t)STRIP * STRIPS;
	pthread_t thread[4];

	shared_mirror = pattern(size);
	shared = create("a.vhd", NULL, size);
	cr_assert_eq(hv_disk_commit(shared, &err), 0);
	hv_disk_close(shared);
	shared = must_open("a.vhd", &o);
	for (uintptr_t i = 0; i < 4; i++)
		cr_assert_eq(pthread_create(&thread[i], NULL, writer, (void *)i), 0);
	for (unsigned i = 0; i < 4; i++)
		pthread_join(thread[i], NULL);
	cr_assert_eq(hv_disk_flush(shared, &err), 0);
	hv_disk_close(shared);
	reads_as("a.vhd", shared_mirror, size);
	cr_assert_eq(check("a.vhd", false).errors, 0, "%s", found);
	free(shared_mirror);
}

/* --- how fast --------------------------------------------------------------------------------------------- */

/* What it takes to map a disk is its runs, not its size. */
Test(vhd, a_sparse_disk_of_2_tib_is_mapped_in_few_looks)
{
	struct hv_disk *d = create("a.vhd", NULL, 2040ULL << 30);
	uint64_t offset = 0;
	unsigned looks = 0;
	struct hv_run r;

	for (uint64_t i = 0; i < 10; i++)
		cr_assert_eq(hv_disk_write(d, io, "x", 1, i * (200ULL << 30), &err), 0);
	cr_assert_eq(hv_disk_commit(d, &err), 0, "%s", err.text);
	hv_disk_close(d);
	d = must_open("a.vhd", NULL);
	for (; offset < 2040ULL << 30; looks++, offset += r.length)
		cr_assert_eq(hv_disk_map(d, offset, UINT64_MAX, &r, &err), 0, "%s", err.text);
	/* A written page, the rest of its block, and the hole behind it. */
	cr_assert_eq(looks, 30);
	hv_disk_close(d);
}
