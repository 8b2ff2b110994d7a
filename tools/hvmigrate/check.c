/*
 * hvmigrate check: every table and checksum of one image. An image that can't be opened as it should be is
 * opened with less asked of it, step by step, so that as much as can be is looked at; what stood in the way
 * counts as an error.
 */
#include "hvmigrate.h"

struct findings {
	const struct hvm_options *options;
	json_t *list;
};

static const char *const severities[] = {
	[HV_CHECK_NOTE] = "note",
	[HV_CHECK_LEAK] = "leak",
	[HV_CHECK_ERROR] = "error",
};

static void found(void *ctx, enum hv_check_severity severity, const char *text)
{
	struct findings *f = ctx;

	if (f->options->json) {
		json_array_append_new(f->list, json_pack("{s:s,s:o}", "severity", severities[severity],
							 "text", hvm_json_string(text)));
		return;
	}
	printf("%s: ", severities[severity]);
	hvm_put(stdout, text);
	putchar('\n');
}

/* With its chain; alone; with concessions. The first failure becomes a finding, the last one is final. */
static int open_somehow(const struct hvm_options *o, struct hv_disk **disk, struct hv_disk_check *check,
			struct hv_error *err)
{
	struct hv_disk_options options = hvm_disk_options(o, o->format);
	struct hv_error last = {0};
	int rc;

	options.replay_log = options.writable = o->replay_log;
	rc = hvm_open(o, o->args[0], &options, disk, err);
	if (rc == 0 || o->replay_log || err->status == HV_EXIT_USAGE)
		return rc;
	options.alone = true;
	rc = hvm_open(o, o->args[0], &options, disk, &last);
	if (rc && last.status == HV_EXIT_UNSAFE) {
		options.salvage = true;
		rc = hvm_open(o, o->args[0], &options, disk, &last);
	}
	if (rc)
		return rc; /* err: why it couldn't be opened as it should */
	check->errors++;
	check->found(check->ctx, HV_CHECK_ERROR, err->text);
	return 0;
}

static void tell_notes(const struct hv_disk *disk, struct hv_disk_check *check)
{
	struct hv_disk_info info;

	hv_disk_info(disk, &info);
	for (const char *const *n = info.notes; n && *n; n++) {
		check->notes++;
		check->found(check->ctx, HV_CHECK_NOTE, *n);
	}
}

static void print_count(uint64_t n, const char *one, const char *many)
{
	printf("%llu %s", (unsigned long long)n, n == 1 ? one : many);
}

static void print_summary(const struct hv_disk *disk, const struct hv_disk_check *c)
{
	struct hv_disk_info info;
	char words[64];

	hv_disk_info(disk, &info);
	hvm_put(stdout, info.path);
	printf(": %s: ", hvm_format_words(&info, words, sizeof(words)));
	if (c->errors + c->leaks == 0) {
		printf("no errors");
	} else {
		print_count(c->errors, "error", "errors");
		printf(", ");
		print_count(c->leaks, "leak", "leaks");
	}
	if (c->blocks && info.block_size) /* else they are but sectors */
		printf("; %llu of %llu blocks in use", (unsigned long long)c->used,
		       (unsigned long long)c->blocks);
	putchar('\n');
}

static void print_json(const struct hv_disk *disk, const struct hv_disk_check *c, json_t *list)
{
	struct hv_disk_info info;
	json_t *j;

	hv_disk_info(disk, &info);
	j = json_pack("{s:o,s:s,s:s,s:I,s:I,s:I}", "path", hvm_json_string(info.path), "format", info.format,
		      "subformat", info.subformat, "errors", (json_int_t)c->errors, "leaks",
		      (json_int_t)c->leaks, "notes", (json_int_t)c->notes);
	json_object_set_new(j, "blocks", hvm_json_size(c->blocks));
	json_object_set_new(j, "used", hvm_json_size(c->used));
	json_object_set(j, "findings", list);
	hvm_json_print(j);
}

int hvm_check(const struct hvm_options *o)
{
	struct findings f = {.options = o, .list = json_array()};
	struct hv_disk_check check = {.found = found, .ctx = &f};
	struct hv_error err = {0};
	struct hv_disk *disk = NULL;
	int status;

	if (hvm_sandbox(
		    o,
		    &(struct hvm_reach){.image = {o->args[0]}, .in_place = o->replay_log ? o->args[0] : NULL},
		    &err) ||
	    open_somehow(o, &disk, &check, &err)) {
		json_decref(f.list);
		return hvm_fail(o, &err);
	}
	tell_notes(disk, &check);
	if (hv_disk_check(disk, &check, &err)) {
		status = hvm_fail(o, &err);
	} else {
		if (o->json)
			print_json(disk, &check, f.list);
		else
			print_summary(disk, &check);
		status = check.errors ? HV_EXIT_UNSAFE : HV_EXIT_OK;
	}
	json_decref(f.list);
	hv_disk_close(disk);
	return status;
}
