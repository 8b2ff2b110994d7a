/*
 * The command line: one table of commands, one of options with the commands that each belongs to. Help comes
 * from the same tables.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/parse.h"
#include "hvmigrate.h"

#define THREADS_MAX    64
#define BLOCK_SIZE_MAX (256U << 20)
#define OPTIONS_MAX    40

static const struct hvm_command commands[] = {
	{"info", "[options] IMAGE", "tell what an image is", 1, 1, hvm_info},
	{"convert", "[options] SRC DST", "copy a disk into another format", 2, 2, hvm_convert},
	{"check", "[options] IMAGE", "look at all of an image's metadata", 1, 1, hvm_check},
	{"map", "[options] IMAGE", "tell where data, zeros and holes are", 1, 1, hvm_map},
	{"compare", "[options] A B", "tell whether two disks hold the same bytes", 2, 2, hvm_compare},
	{"import", "[options] APPLIANCE DIR", "take over a VM: disks and description", 1, 2, hvm_import},
	{"formats", "[--json]", "list the formats that are read and written", 0, 0, hvm_formats},
};

enum {
	INFO = 1 << 0,
	CONVERT = 1 << 1,
	CHECK = 1 << 2,
	MAP = 1 << 3,
	COMPARE = 1 << 4,
	IMPORT = 1 << 5,
	FORMATS = 1 << 6,
	READS = INFO | CONVERT | CHECK | MAP | COMPARE | IMPORT,
	LONG = CONVERT | COMPARE | IMPORT,
	ALL = READS | FORMATS,
};

enum option_id {
	O_FORMAT = 1,
	O_SECOND_FORMAT,
	O_OUT,
	O_BLOCK_SIZE,
	O_SECTOR_SIZE,
	O_THREADS,
	O_VERIFY,
	O_DIGEST,
	O_RESUME,
	O_SPARSE,
	O_FULL,
	O_FORCE,
	O_DEVICE,
	O_LIST,
	O_DRY_RUN,
	O_CHAIN,
	O_REPLAY,
	O_SALVAGE,
	O_EXTERNAL,
	O_RAW_DEVICES,
	O_SHARE,
	O_TIMEOUT,
	O_SANDBOX,
	O_PROGRESS,
	O_QUIET,
	O_JSON,
	O_HELP,
	O_VERSION,
};

struct option_row {
	enum option_id id;
	char letter; /* 0: none */
	const char *name, *arg, *help;
	unsigned commands;
};

static const struct option_row rows[] = {
	{O_FORMAT, 'f', "format", "FMT", "read the source as this, whatever it looks like", READS},
	{O_SECOND_FORMAT, 'F', "second-format", "FMT", "the same for B", COMPARE},
	{O_OUT, 'O', "output", "FMT[:SUB]", "write this; else what DST's name says, or raw",
	 CONVERT | IMPORT},
	{O_BLOCK_SIZE, 0, "block-size", "SIZE", "of the written blocks, grains or clusters", CONVERT},
	{O_SECTOR_SIZE, 0, "sector-size", "512|4096", "logical sectors to write (4096: VHDX only)", CONVERT},
	{O_THREADS, 'j', "threads", "N", "threads; else one a CPU, at most 8", LONG},
	{O_VERIFY, 0, "verify", NULL, "read back what was written, compare by a hash", CONVERT | IMPORT},
	{O_DIGEST, 0, "digest", NULL, "print the SHA-256 of the virtual disk", CONVERT | IMPORT},
	{O_RESUME, 0, "resume", NULL, "go on with a conversion that was cut off", CONVERT},
	{O_SPARSE, 0, "sparse", NULL, "zeros inside the source's data become holes too", CONVERT | IMPORT},
	{O_FULL, 0, "full", NULL, "allocate everything, holes too", CONVERT | IMPORT},
	{O_FORCE, 0, "force", NULL, "replace a file that exists", CONVERT | IMPORT},
	{O_DEVICE, 0, "overwrite-device", NULL, "DST is a block device: write over it", CONVERT},
	{O_LIST, 0, "list", NULL, "only tell what is in the appliance", IMPORT},
	{O_DRY_RUN, 0, "dry-run", NULL, "the same", IMPORT},
	{O_CHAIN, 0, "chain", NULL, "tell of parents and backing files too", INFO},
	{O_REPLAY, 0, "replay-log", NULL, "write a VHDX's dirty log into its file", CHECK},
	{O_SALVAGE, 0, "salvage", NULL, "take what a damaged image still gives (status 3)", READS},
	{O_EXTERNAL, 0, "allow-external", "PATH", "let the image lead to this file; repeatable", READS},
	{O_RAW_DEVICES, 0, "raw-devices", NULL, "follow a VMDK that describes a whole device", READS},
	{O_SHARE, 'U', "force-share", NULL, "read an image that a running VM may write", READS},
	{O_TIMEOUT, 0, "timeout", "SECONDS", "longest wait for an NBD server's answer (60)", READS},
	{O_SANDBOX, 0, "sandbox", "on|off", "off: for debugging", READS},
	{O_PROGRESS, 0, "progress", "STYLE", "auto, bar, lines or none", LONG},
	{O_QUIET, 'q', "quiet", NULL, "only results and errors", READS},
	{O_JSON, 0, "json", NULL, "answer in JSON; convert: events, one a line", ALL},
	{O_HELP, 'h', "help", NULL, "show this", ALL},
	{O_VERSION, 0, "version", NULL, "show the version", ALL},
};

/* --- help ------------------------------------------------------------------------------------------------- */

static unsigned bit_of(const struct hvm_command *command)
{
	return command ? 1U << (command - commands) : 0;
}

static void help_options(unsigned mask)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(rows); i++) {
		const struct option_row *r = &rows[i];
		char left[40];

		if (!(r->commands & mask))
			continue;
		snprintf(left, sizeof(left), "%c%c%s --%s%s%s", r->letter ? '-' : ' ',
			 r->letter ? r->letter : ' ', r->letter ? "," : " ", r->name, r->arg ? " " : "",
			 r->arg ? r->arg : "");
		printf("  %-27s %s\n", left, r->help);
	}
}

static void help_all(void)
{
	printf("usage: hvmigrate COMMAND [options] ...\n"
	       "Converts disks of Hyper-V, VMware and others: right, or a clear refusal.\n\n");
	for (size_t i = 0; i < HV_ARRAY_SIZE(commands); i++)
		printf("  %-8s %-24s %s\n", commands[i].name, commands[i].synopsis, commands[i].help);
	printf("\nOptions (`hvmigrate COMMAND --help` lists a command's own):\n");
	help_options(ALL);
	printf("\nAn image is a file, or a disk on an NBD server (nbd://HOST/EXPORT, nbds://...,\n"
	       "nbd+unix:///EXPORT?socket=PATH). DST - is standard output, raw.\n"
	       "Exit status: 0 done, 1 failed or the disks differ, 2 wrong usage, 3 an image is\n"
	       "damaged or unsafe.\n");
}

void hvm_options_help(const struct hvm_command *command)
{
	if (!command) {
		help_all();
		return;
	}
	printf("usage: hvmigrate %s %s\n%c%s.\n\n", command->name, command->synopsis,
	       command->help[0] - 'a' + 'A', command->help + 1);
	help_options(bit_of(command));
}

/* --- parsing ---------------------------------------------------------------------------------------------- */

/* A format by any of its names, as it calls itself. */
static int take_format(const char *what, const char *value, const char **out, struct hv_error *err)
{
	struct hv_disk_about about;

	if (!hv_disk_about(value, &about))
		return hv_fail_usage(err, "%s: there is no format '%.32s'; `hvmigrate formats` lists them",
				     what, value);
	*out = about.name;
	return 0;
}

static int take_subformat(struct hvm_options *o, const struct hv_disk_about *about, const char *name,
			  struct hv_error *err)
{
	char list[200] = "";
	size_t used = 0;

	for (const char *const *s = about->subformats; s && *s; s++) {
		if (!strcasecmp(*s, name)) {
			o->out_subformat = *s;
			return 0;
		}
		if (used < sizeof(list))
			used += (size_t)snprintf(list + used, sizeof(list) - used, "%s%s", used ? ", " : "",
						 *s);
	}
	if (!used)
		return hv_fail_usage(err, "--output: %s has no subformats; leave ':%.32s' out", about->name,
				     name);
	return hv_fail_usage(err, "--output: %s can't be written as '%.32s', but as %s", about->name, name,
			     list);
}

/* FMT[:SUB] */
static int take_output(struct hvm_options *o, const char *value, struct hv_error *err)
{
	struct hv_disk_about about;
	const char *colon = strchr(value, ':');
	char name[32];

	snprintf(name, sizeof(name), "%.*s", colon ? (int)(colon - value) : (int)strlen(value), value);
	if (!hv_disk_about(name, &about))
		return hv_fail_usage(
			err, "--output: there is no format '%.32s'; `hvmigrate formats` lists them", name);
	if (!about.creates)
		return hv_fail_usage(err,
				     "--output: %s is read only; `hvmigrate formats` lists what can be "
				     "written",
				     about.name);
	o->out_format = about.name;
	o->out_subformat = NULL;
	return colon ? take_subformat(o, &about, colon + 1, err) : 0;
}

static int take_progress(struct hvm_options *o, const char *value, struct hv_error *err)
{
	static const char *const words[] = {"auto", "bar", "lines", "none"};

	for (unsigned i = 0; i < HV_ARRAY_SIZE(words); i++)
		if (!strcmp(value, words[i])) {
			o->progress = (enum hvm_progress_style)i;
			return 0;
		}
	return hv_fail_usage(err, "--progress: '%.32s' is none of auto, bar, lines, none", value);
}

static int take_external(struct hvm_options *o, const char *value, struct hv_error *err)
{
	const char **more = realloc(o->external, (o->externals + 1) * sizeof(*more));

	if (!more)
		return hv_fail(err, ENOMEM, "out of memory");
	o->external = more;
	o->external[o->externals++] = value;
	return 0;
}

static int take_sizes(struct hvm_options *o, enum option_id id, const char *value, struct hv_error *err)
{
	uint64_t v = 0;
	int rc = id == O_BLOCK_SIZE ? hv_parse_size("--block-size", value, BLOCK_SIZE_MAX, &v, err)
				    : hv_parse_size("--sector-size", value, 4096, &v, err);

	if (rc)
		return rc;
	if (id == O_SECTOR_SIZE && v != 512 && v != 4096)
		return hv_fail_usage(err, "--sector-size: 512 or 4096, not '%.32s'", value);
	if (v < 512 || (v & (v - 1)))
		return hv_fail_usage(err, "--block-size: a power of two from 512 on, not '%.32s'", value);
	*(id == O_BLOCK_SIZE ? &o->block_size : &o->sector_size) = (uint32_t)v;
	return 0;
}

static int take_holes(struct hvm_options *o, enum hv_convert_holes holes, struct hv_error *err)
{
	if (o->holes != HV_HOLES_KEEP && o->holes != holes)
		return hv_fail_usage(err, "--sparse and --full say opposite things; take one");
	o->holes = holes;
	return 0;
}

static int take_threads(struct hvm_options *o, const char *value, struct hv_error *err)
{
	uint64_t v = 0;
	int rc = hv_parse_u64("--threads", value, THREADS_MAX, &v, err);

	if (!rc && v == 0)
		return hv_fail_usage(err, "--threads: from 1 to %d", THREADS_MAX);
	o->threads = (unsigned)v;
	return rc;
}

static int take_timeout(struct hvm_options *o, const char *value, struct hv_error *err)
{
	uint64_t ns = 0;
	int rc = hv_parse_seconds("--timeout", value, &ns, err);

	if (rc)
		return rc;
	if (ns < 1000000 || ns > 86400 * 1000000000ULL)
		return hv_fail_usage(err, "--timeout: from 0.001 to 86400 seconds");
	o->timeout_ms = (uint32_t)(ns / 1000000);
	return 0;
}

static int take_sandbox(struct hvm_options *o, const char *value, struct hv_error *err)
{
	if (strcmp(value, "on") != 0 && strcmp(value, "off") != 0)
		return hv_fail_usage(err, "--sandbox: on or off, not '%.32s'", value);
	o->no_sandbox = !strcmp(value, "off");
	return 0;
}

static int take(struct hvm_options *o, enum option_id id, const char *value, struct hv_error *err)
{
	switch (id) {
	case O_FORMAT:
		return take_format("--format", value, &o->format, err);
	case O_SECOND_FORMAT:
		return take_format("--second-format", value, &o->second_format, err);
	case O_OUT:
		return take_output(o, value, err);
	case O_BLOCK_SIZE:
	case O_SECTOR_SIZE:
		return take_sizes(o, id, value, err);
	case O_THREADS:
		return take_threads(o, value, err);
	case O_SPARSE:
		return take_holes(o, HV_HOLES_SPARSE, err);
	case O_FULL:
		return take_holes(o, HV_HOLES_FULL, err);
	case O_EXTERNAL:
		return take_external(o, value, err);
	case O_TIMEOUT:
		return take_timeout(o, value, err);
	case O_SANDBOX:
		return take_sandbox(o, value, err);
	case O_PROGRESS:
		return take_progress(o, value, err);
	case O_VERIFY:
		o->verify = true;
		break;
	case O_DIGEST:
		o->digest = true;
		break;
	case O_RESUME:
		o->resume = true;
		break;
	case O_FORCE:
		o->force = true;
		break;
	case O_DEVICE:
		o->overwrite_device = true;
		break;
	case O_LIST:
	case O_DRY_RUN:
		o->list = true;
		break;
	case O_CHAIN:
		o->chain = true;
		break;
	case O_REPLAY:
		o->replay_log = true;
		break;
	case O_SALVAGE:
		o->salvage = true;
		break;
	case O_SHARE:
		o->force_share = true;
		break;
	case O_RAW_DEVICES:
		o->raw_devices = true;
		break;
	case O_QUIET:
		o->quiet = true;
		break;
	case O_JSON:
		o->json = true;
		break;
	case O_HELP:
		o->help = true;
		break;
	case O_VERSION:
		o->version = true;
		break;
	}
	return 0;
}

static const struct hvm_command *command_named(const char *name)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(commands); i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	return NULL;
}

/* By what getopt gave: an id or a letter, which are larger. */
static const struct option_row *row_of(int c)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(rows); i++)
		if ((int)rows[i].id == c || (rows[i].letter && rows[i].letter == c))
			return &rows[i];
	return NULL;
}

/* getopt's tables: a long option's value is its id; a letter stands for itself. */
static void make_tables(struct option *table, char *letters)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(rows); i++) {
		table[i] = (struct option){.name = rows[i].name,
					   .has_arg = rows[i].arg ? required_argument : no_argument,
					   .val = (int)rows[i].id};
		if (rows[i].letter) {
			*letters++ = rows[i].letter;
			if (rows[i].arg)
				*letters++ = ':';
		}
	}
	*letters = '\0';
}

static int take_all(struct hvm_options *o, int argc, char **argv, struct hv_error *err)
{
	struct option table[OPTIONS_MAX] = {0};
	char letters[2 * OPTIONS_MAX];
	int c, rc;

	_Static_assert(HV_ARRAY_SIZE(rows) < OPTIONS_MAX && (int)O_VERSION < 'A',
		       "the table and the letters");
	make_tables(table, letters);
	while ((c = getopt_long(argc, argv, letters, table, NULL)) != -1) {
		const struct option_row *r = row_of(c);

		if (c == '?' || !r) {
			err->status = HV_EXIT_USAGE;
			return -EINVAL;
		}
		if (o->command && !(r->commands & bit_of(o->command)))
			return hv_fail_usage(err, "--%s is not for `hvmigrate %s`", r->name,
					     o->command->name);
		rc = take(o, r->id, optarg, err);
		if (rc || o->help || o->version)
			return rc;
	}
	return 0;
}

static int take_arguments(struct hvm_options *o, int count, char **args, struct hv_error *err)
{
	const struct hvm_command *c = o->command;

	o->args = calloc((size_t)count + 1, sizeof(*o->args));
	if (!o->args)
		return hv_fail(err, ENOMEM, "out of memory");
	for (int i = 0; i < count; i++) {
		o->args[i] = args[i];
		if (!args[i][0])
			return hv_fail_usage(err, "an empty file name");
	}
	o->count = (unsigned)count;
	if (o->count < c->min || o->count > c->max)
		return hv_fail_usage(err, "usage: hvmigrate %s %s", c->name, c->synopsis);
	return 0;
}

int hvm_options_parse(struct hvm_options *o, int argc, char **argv, struct hv_error *err)
{
	static char own_name[] = "hvmigrate"; /* getopt's own sentences start with it */
	int rc;

	memset(o, 0, sizeof(*o));
	memset(err, 0, sizeof(*err));
	if (argc > 1 && argv[1][0] != '-') {
		const char *name = argv[1];

		if (!strcmp(name, "help")) { /* help COMMAND */
			o->help = true;
			name = argc > 2 ? argv[2] : NULL;
		}
		o->command = name ? command_named(name) : NULL;
		if (name && !o->command)
			return hv_fail_usage(
				err, "there is no command '%.32s'; `hvmigrate --help` lists them", name);
		if (o->help)
			return 0;
		argc--;
		argv++;
	}
	if (argc > 0)
		argv[0] = own_name;
	rc = take_all(o, argc, argv, err);
	if (rc || o->help || o->version)
		return rc;
	if (!o->command)
		return hv_fail_usage(err, "what is to be done? `hvmigrate --help` lists the commands");
	return take_arguments(o, argc - optind, argv + optind, err);
}

void hvm_options_free(struct hvm_options *o)
{
	free(o->external);
	free(o->args);
	*o = (struct hvm_options){0};
}
