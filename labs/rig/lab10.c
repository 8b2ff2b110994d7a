/*
 * The rig's command for lab 10: a bzImage is given to the student's loader. See rig.h.
 *
 * File and initrd stand right in front of a page that can't be touched: who reads past their ends is stopped
 * there and then.
 */
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "rig.h"

#define FILE_BYTES (16u << 20)
#define LINE_BYTES 4096

/* The file's bytes, at the end of memory; NULL and a sentence. */
static uint8_t *read_file(struct rig *rig, const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	uint8_t *at = MAP_FAILED;
	struct stat st;
	size_t room;

	if (file && fstat(fileno(file), &st) == 0 && st.st_size <= FILE_BYTES) {
		*size = (size_t)st.st_size;
		room = hv_round_up(*size, HV_PAGE_SIZE);
		at = mmap(NULL, room + HV_PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			  0);
		if (at != MAP_FAILED && mprotect(at + room, HV_PAGE_SIZE, PROT_NONE) == 0)
			*size = fread(at + (room - *size), 1, *size, file);
	}
	if (file)
		fclose(file);
	if (at != MAP_FAILED)
		return at + (room - *size);
	hv_fail(&rig->err, EIO, "%s cannot be read", path);
	return NULL;
}

static void take_cmdline(char line[LINE_BYTES], const char *word)
{
	size_t n = 0;

	for (; word && *word && n < LINE_BYTES - 1; word++)
		line[n++] = (char)(*word == '+' ? ' ' : *word);
	line[n] = '\0';
}

/* linux_boot FILE [initrd=FILE] [cmdline=WORD+WORD]: hv_boot_linux into the rig's memory; and the first
 * vCPU's registers, if there is one, are set for it. */
static int linux_boot(struct rig *rig, int count, char **words)
{
	const char *initrd = rig_option(count, words, "initrd");
	struct hv_module module = {.name = ""};
	struct hv_boot_request request = {.path = count > 1 ? words[1] : ""};
	struct hv_entry entry = {.rip = UINT64_MAX};
	char line[LINE_BYTES];
	int rc;

	if (count < 2)
		return RIG_USAGE;
	take_cmdline(line, rig_option(count, words, "cmdline"));
	request.cmdline = line;
	request.data = read_file(rig, words[1], &request.size);
	if (initrd) {
		module.data = read_file(rig, initrd, &module.size);
		request.modules = &module;
		request.module_count = 1;
	}
	if (!request.data || (initrd && !module.data))
		return -EIO;
	rc = hv_boot_linux(&request, &rig->memory, &entry, &rig->err);
	rig_bool(rig, "unsafe", rig->err.status == HV_EXIT_UNSAFE);
	rig_number(rig, "rip", entry.rip);
	rig_number(rig, "rsi", entry.rsi);
	rig_number(rig, "rsp", entry.rsp);
	if (!rc && rig->vcpus[0].fd >= 0)
		rc = hv_entry_apply(&entry, &rig->vcpus[0], &rig->memory, &rig->err);
	return rc;
}

const struct rig_command rig_lab10[] = {
	{"linux_boot", "FILE [initrd=FILE] [cmdline=WORD+WORD]", linux_boot},
	{NULL, NULL, NULL},
};
