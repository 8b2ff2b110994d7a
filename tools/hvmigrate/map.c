/*
 * hvmigrate map: where data, zeros and holes are, and which file of the chain holds what. Runs are printed as
 * they are found; only the one that may still grow is kept.
 */
#include <string.h>

#include "hvmigrate.h"

struct printer {
	const struct hvm_options *options;
	struct hv_run run; /* the one that may still grow; length 0: none */
	int wide;          /* digits of an offset */
	uint64_t printed;
};

static const char *const kinds[] = {
	[HV_RUN_HOLE] = "hole",
	[HV_RUN_ZERO] = "zero",
	[HV_RUN_DATA] = "data",
};

static const char *const encodings[] = {
	[HV_STORED_PLAIN] = "plain",
	[HV_STORED_ENCODED] = "compressed",
	[HV_STORED_CALL] = "remote",
};

static const char *file_of(const struct hv_run *r)
{
	return r->stored == HV_STORED_CALL ? NULL : hv_disk_file_path(r->layer, r->file);
}

/* --- text ------------------------------------------------------------------------------------------------- */

/* "0x50000", right-aligned in the column. */
static void print_number(const struct printer *p, uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)value);
	printf("%*s  ", p->wide, text);
}

static void print_text(const struct printer *p, const struct hv_run *r)
{
	bool plain = r->kind != HV_RUN_DATA || r->stored == HV_STORED_PLAIN;
	const char *file = r->kind == HV_RUN_DATA ? file_of(r) : NULL;

	print_number(p, r->offset);
	print_number(p, r->length);
	printf("%-10s  ", plain ? kinds[r->kind] : encodings[r->stored]);
	if (file)
		print_number(p, r->at);
	else
		printf("%*s  ", p->wide, "-");
	if (r->kind == HV_RUN_HOLE)
		printf("    -");
	else
		printf("%5u", r->depth);
	if (file) {
		printf("  ");
		hvm_put(stdout, file);
	}
	putchar('\n');
}

/* --- JSON ------------------------------------------------------------------------------------------------- */

static json_t *json_of(const struct hv_run *r)
{
	json_t *j = json_pack("{s:I,s:I,s:s}", "offset", (json_int_t)r->offset, "length",
			      (json_int_t)r->length, "kind", kinds[r->kind]);

	if (r->kind != HV_RUN_HOLE)
		json_object_set_new(j, "depth", hvm_json_size(r->depth));
	if (r->kind == HV_RUN_DATA) {
		json_object_set_new(j, "encoding", json_string(encodings[r->stored]));
		if (file_of(r)) {
			json_object_set_new(j, "file", hvm_json_string(file_of(r)));
			json_object_set_new(j, "file-offset", hvm_json_size(r->at));
		}
	}
	return j;
}

static void print_element(struct printer *p, json_t *element)
{
	fputs(p->printed++ ? ",\n" : "[\n", stdout);
	json_dumpf(element, stdout, JSON_PRESERVE_ORDER);
	json_decref(element);
}

/* --- runs ------------------------------------------------------------------------------------------------- */

static void print(struct printer *p)
{
	if (!p->run.length)
		return;
	if (p->options->json)
		print_element(p, json_of(&p->run));
	else
		print_text(p, &p->run);
	p->run.length = 0;
}

/* Whether b goes on where a ends. Compressed units that follow each other count as one run, which is said to
 * be where its first unit is. */
static bool goes_on(const struct hv_run *a, const struct hv_run *b)
{
	if (!a->length || a->offset + a->length != b->offset || a->kind != b->kind || a->layer != b->layer)
		return false;
	if (a->kind != HV_RUN_DATA)
		return true;
	return a->stored == b->stored && a->file == b->file &&
	       (a->stored != HV_STORED_PLAIN || a->at + a->length == b->at);
}

static int walk(struct printer *p, struct hv_disk *disk, struct hv_error *err)
{
	uint64_t size = hv_disk_size(disk);

	for (uint64_t at = 0; at < size && !ferror(stdout);) {
		struct hv_run run;
		int rc = hv_disk_map(disk, at, size - at, &run, err);

		if (rc)
			return rc;
		at = run.offset + run.length;
		if (goes_on(&p->run, &run)) {
			p->run.length += run.length;
			continue;
		}
		print(p);
		p->run = run;
	}
	return 0;
}

/* What came before a failure stands already: the failure becomes the last element. */
static int fail_inside(struct printer *p, const struct hv_error *err)
{
	int status = err->status ? (int)err->status : HV_EXIT_FAILED;

	if (p->options->json)
		print_element(p,
			      json_pack("{s:o,s:i}", "error", hvm_json_string(err->text), "status", status));
	hvm_complain("%s", err->text);
	return status;
}

static int map(const struct hvm_options *o, struct hv_disk *disk)
{
	struct printer p = {.options = o};
	struct hv_error err = {0};
	int status = HV_EXIT_OK;

	p.wide = snprintf(NULL, 0, "0x%llx", (unsigned long long)hv_disk_size(disk));
	if (p.wide < 11)
		p.wide = 11;
	if (!o->json)
		printf("%*s  %*s  %-10s  %*s  depth  file\n", p.wide, "offset", p.wide, "length", "kind",
		       p.wide, "file offset");
	if (walk(&p, disk, &err)) {
		print(&p);
		status = fail_inside(&p, &err);
	} else {
		print(&p);
	}
	if (o->json)
		puts(p.printed ? "\n]" : "[]");
	return status;
}

int hvm_map(const struct hvm_options *o)
{
	struct hv_disk_options options = hvm_disk_options(o, o->format);
	struct hv_error err = {0};
	struct hv_disk *disk;
	int status;

	if (hvm_sandbox(o, &(struct hvm_reach){.image = {o->args[0]}}, &err) ||
	    hvm_open(o, o->args[0], &options, &disk, &err))
		return hvm_fail(o, &err);
	hvm_tell_notes(o, disk);
	status = map(o, disk);
	hv_disk_close(disk);
	return status;
}
