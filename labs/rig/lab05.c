/*
 * Lab 5: the functions of core/boot/elf.c, one by one, and a whole ELF boot. See rig.h.
 *
 * The headers are kept right in front of a page that can't be touched: whoever writes more program headers
 * than the table has room for is stopped there and then. The file stands in front of another, so that bytes
 * past its end can't be read.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "boot/elf.h"
#include "rig.h"

#define LAB        5
#define FILE_BYTES (4u << 20)

struct lab05 {
	struct hv_elf *elf;
	uint8_t *data;
	size_t size;
};

/* size bytes that end where memory ends. */
static void *fenced(size_t size)
{
	size_t room = (size + HV_PAGE_SIZE - 1) & ~(HV_PAGE_SIZE - 1);
	uint8_t *at =
		mmap(NULL, room + HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED || mprotect(at + room, HV_PAGE_SIZE, PROT_NONE))
		return NULL;
	return at + (room - size);
}

static int read_file(struct rig *rig, struct lab05 *lab, const char *path)
{
	FILE *file = fopen(path, "rb");
	struct stat st;

	if (!file || fstat(fileno(file), &st) || st.st_size > FILE_BYTES) {
		if (file)
			fclose(file);
		return hv_fail(&rig->err, EIO, "%s cannot be read", path);
	}
	lab->size = (size_t)st.st_size;
	lab->data = fenced(lab->size);
	if (lab->data)
		lab->size = fread(lab->data, 1, lab->size, file);
	fclose(file);
	return lab->data ? 0 : hv_fail(&rig->err, ENOMEM, "no memory for %s", path);
}

/* elf_open FILE: hv_elf_open. What was read is kept for the commands below; phdrN_ are its first headers. */
static int elf_open(struct rig *rig, int count, char **words)
{
	struct lab05 *lab = rig->lab[LAB];
	int rc;

	if (count != 2)
		return RIG_USAGE;
	if (!lab)
		lab = rig->lab[LAB] = calloc(1, sizeof(*lab));
	/* Each file has its own place, and so has what was read of it: nothing is left over from the last. */
	if (!lab || read_file(rig, lab, words[1]))
		return hv_fail(&rig->err, EIO, "%s cannot be read", words[1]);
	lab->elf = fenced(sizeof(*lab->elf));
	if (!lab->elf)
		return hv_fail(&rig->err, ENOMEM, "no memory for the headers");
	rc = hv_elf_open(lab->elf, words[1], lab->data, lab->size, &rig->err);
	rig_bool(rig, "unsafe", rig->err.status == HV_EXIT_UNSAFE);
	rig_number(rig, "phnum", lab->elf->phnum);
	rig_number(rig, "phoff", lab->elf->phoff);
	rig_number(rig, "phentsize", lab->elf->phentsize);
	rig_number(rig, "entry", lab->elf->entry);
	return rc;
}

static struct hv_elf *opened(struct rig *rig)
{
	struct lab05 *lab = rig->lab[LAB];

	if (!lab || !lab->elf)
		hv_fail(&rig->err, ENOENT, "no file is open");
	return lab ? lab->elf : NULL;
}

/* elf_load protected|long: hv_elf_load into the rig's memory. */
static int elf_load(struct rig *rig, int count, char **words)
{
	const struct hv_elf *elf = opened(rig);
	uint64_t end = 0;
	int rc;

	if (count != 2)
		return RIG_USAGE;
	if (!elf)
		return -ENOENT;
	rc = hv_elf_load(elf, &rig->memory,
			 strcmp(words[1], "long") == 0 ? HV_ENTRY_LONG : HV_ENTRY_PROTECTED, &end, &rig->err);
	rig_number(rig, "end", end);
	return rc;
}

/* elf_entry: hv_elf_entry. */
static int elf_entry(struct rig *rig, int count, char **words)
{
	const struct hv_elf *elf = opened(rig);
	uint64_t gpa = 0;
	int rc = elf ? hv_elf_entry(elf, &gpa, &rig->err) : -ENOENT;

	rig_number(rig, "gpa", gpa);
	return rc;
}

/* elf_boot FILE: hv_boot_elf into the rig's memory, and the first vCPU's registers set for it. */
static int elf_boot(struct rig *rig, int count, char **words)
{
	struct lab05 file = {.elf = NULL};
	struct hv_boot_request request = {.path = count == 2 ? words[1] : "", .cmdline = ""};
	struct hv_entry entry;
	int rc;

	if (count != 2)
		return RIG_USAGE;
	rc = read_file(rig, &file, words[1]);
	if (rc)
		return rc;
	request.data = file.data;
	request.size = file.size;
	rc = hv_boot_elf(&request, &rig->memory, &entry, &rig->err);
	rig_number(rig, "rip", entry.rip);
	if (!rc)
		rc = hv_entry_apply(&entry, &rig->vcpus[0], &rig->memory, &rig->err);
	return rc;
}

const struct rig_command rig_lab05[] = {
	{"elf_open", "FILE", elf_open},
	{"elf_load", "protected|long", elf_load},
	{"elf_entry", "", elf_entry},
	{"elf_boot", "FILE", elf_boot},
	{NULL, NULL, NULL},
};
