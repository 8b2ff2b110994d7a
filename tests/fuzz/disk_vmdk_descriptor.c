/*
 * Fuzz target: the text of a VMDK's descriptor. What is accepted adds up, and every extent that needs a file
 * names one.
 */
#include <stdlib.h>
#include <string.h>

#include "disk/vmdk/vmdk_impl.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(bool fine)
{
	if (!fine)
		__builtin_trap();
}

static void check_line(const struct hv_vmdk_line *line)
{
	check(line->sectors > 0 && line->sectors <= HV_DISK_SIZE_MAX / VMDK_SECTOR);
	check(line->name || line->type == VMDK_ZERO || line->access == VMDK_NOACCESS);
	check(!line->name || line->name[0]);
	if (line->name)
		free(hv_vmdk_unescape(line->name));
}

static void parse(const char *text, size_t length, bool whole, bool salvage)
{
	struct hv_vmdk_descriptor d;
	struct hv_error err = {0};
	uint64_t total = 0;

	if (hv_vmdk_descriptor_parse("text", text, length, whole, salvage, &d, &err) < 0) {
		check(err.code < 0 && strncmp(err.text, "text: ", 6) == 0);
		hv_vmdk_descriptor_free(&d);
		return;
	}
	check(d.lines > 0 && d.lines <= HV_DISK_FILES_MAX &&
	      (d.parent_cid == VMDK_NO_PARENT || d.parent_hint));
	check(!d.has_cid || (d.cid_at + d.cid_digits <= length && d.cid_digits <= 8));
	for (unsigned i = 0; i < d.lines; i++) {
		total += d.line[i].sectors;
		check_line(&d.line[i]);
	}
	check(total == d.total && total <= HV_DISK_SIZE_MAX / VMDK_SECTOR);
	if (d.parent_hint)
		free(hv_vmdk_utf8(d.parent_hint, d.encoding));
	hv_vmdk_descriptor_free(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1);

	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	(void)hv_vmdk_descriptor_probe(text, size);
	for (unsigned how = 0; how < 4; how++)
		parse(text, size, how & 1, how & 2);
	free(text);
	return 0;
}
