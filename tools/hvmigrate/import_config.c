/*
 * The description of a machine that hvrun --config reads: "key value" lines. What hvrun has no key for stands
 * there as comments. Every text in it comes from the appliance, which is hostile: a comment stays one line.
 */
#include <ctype.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "import.h"

#define NAME_MAX_HVRUN 64
#define CPUS_MAX       64
#define MEMORY_MAX     (1ULL << 46)

/* As hvrun takes a name: letters, digits, '.', '_', '-', the first a letter or a digit. */
static void make_name(const char *from, char out[static NAME_MAX_HVRUN + 1])
{
	size_t n = 0;

	for (; from && *from && n < NAME_MAX_HVRUN - 4; from++) {
		unsigned char c = (unsigned char)*from;
		bool plain = c < 0x80 && (isalnum(c) || (n > 0 && (c == '.' || c == '_' || c == '-')));

		if (plain)
			out[n++] = (char)c;
		else if (n > 0 && out[n - 1] != '-')
			out[n++] = '-';
	}
	while (n > 0 && (out[n - 1] == '-' || out[n - 1] == '.'))
		n--;
	out[n] = '\0';
	if (n == 0)
		snprintf(out, NAME_MAX_HVRUN + 1, "vm");
}

bool hvm_import_name(const struct hvm_import *m, unsigned vm, char out[static 65])
{
	const char *name = m->info.vm[vm].name;
	unsigned same = 0;

	make_name(name, out);
	for (unsigned i = 0; i < vm; i++) {
		char other[NAME_MAX_HVRUN + 1];

		make_name(m->info.vm[i].name, other);
		same += !strcasecmp(other, out);
	}
	if (same)
		snprintf(out + strlen(out), 5, "-%u", same + 1);
	return !name || strcmp(name, out) != 0;
}

/* A comment: what would end its line comes out as '?'. */
static void comment(void *ctx, const char *text)
{
	fputs("# - ", ctx);
	hvm_put(ctx, text);
	fputc('\n', ctx);
}

static void write_config(const struct hvm_import *m, unsigned index, FILE *out)
{
	const struct hv_appliance_vm *vm = &m->info.vm[index];
	char name[NAME_MAX_HVRUN + 1];
	bool renamed = hvm_import_name(m, index, name);

	fputs("# A virtual machine, imported from ", out);
	hvm_put(out, m->info.path);
	fprintf(out, " (%s).\n# hvrun --config THIS IMAGE reads it.\n", m->info.kind);
	if (renamed && vm->name) {
		fputs("# Its name there: ", out);
		hvm_put(out, vm->name);
		fputc('\n', out);
	}
	if (vm->os) {
		fputs("# Its system: ", out);
		hvm_put(out, vm->os);
		fputc('\n', out);
	}
	fprintf(out, "\nname %s\n", name);
	if (vm->memory >= 4096 && vm->memory <= MEMORY_MAX)
		fprintf(out, "mem %llu%s\n",
			(unsigned long long)(vm->memory % (1 << 20) ? vm->memory : vm->memory >> 20),
			vm->memory % (1 << 20) ? "" : "M");
	if (vm->cpus)
		fprintf(out, "cpus %u\n", vm->cpus < CPUS_MAX ? vm->cpus : CPUS_MAX);
	fputs("\n# What could not be carried over:\n", out);
	hvm_import_left(m, vm, comment, out);
}

/* The whole text first: it goes out by exact writes, and appears under its name when it is complete. */
static int write_one(const struct hvm_import *m, unsigned index, const char *folder, struct hv_error *err)
{
	char name[NAME_MAX_HVRUN + 1], *text = NULL, *path = NULL;
	struct hv_file file = {.fd = -1};
	size_t length = 0;
	FILE *out = open_memstream(&text, &length);
	int rc;

	hvm_import_name(m, index, name);
	if (!out || asprintf(&path, "%s/%s.conf", folder, name) < 0)
		return hv_fail(err, ENOMEM, "%s: no memory to write there", folder);
	write_config(m, index, out);
	fclose(out);
	rc = hv_file_begin(&file, path, 0644, err);
	if (!rc) {
		rc = hv_write_full(file.fd, text, length);
		if (rc) {
			errno = -rc;
			rc = hv_fail_errno(err, "%s: cannot write it", path);
		}
		if (!rc)
			rc = hv_file_commit(&file, err);
		else
			hv_file_abandon(&file);
	}
	free(path);
	free(text);
	return rc;
}

int hvm_import_write_configs(const struct hvm_import *m, const char *folder, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < m->info.vms && !rc; i++)
		rc = write_one(m, i, folder, err);
	return rc;
}
