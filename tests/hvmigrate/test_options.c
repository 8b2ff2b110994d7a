/*
 * The command line of hvmigrate: what each option becomes, and what is refused.
 */
#include <criterion/criterion.h>
#include <getopt.h>
#include <string.h>

#include "hvmigrate.h"

#define ARGS_MAX 16

static int parse(struct hvm_options *o, struct hv_error *err, const char *const *words)
{
	static char copies[ARGS_MAX][64];
	static char *argv[ARGS_MAX + 1];
	int argc = 0;

	snprintf(copies[argc], sizeof(copies[0]), "hvmigrate");
	argv[argc] = copies[argc];
	for (argc = 1; *words; words++, argc++) {
		snprintf(copies[argc], sizeof(copies[0]), "%s", *words);
		argv[argc] = copies[argc];
	}
	argv[argc] = NULL;
	optind = 0; /* anew */
	opterr = 0;
	return hvm_options_parse(o, argc, argv, err);
}

#define PARSE(o, err, ...) parse(o, err, (const char *const[]){__VA_ARGS__, NULL})

static void refused(const char *word, const char *const *words)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(parse(&o, &err, words), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert(strstr(err.text, word), "'%s' has no '%s'", err.text, word);
	hvm_options_free(&o);
}

#define REFUSED(word, ...) refused(word, (const char *const[]){__VA_ARGS__, NULL})

Test(options, a_conversion_takes_all_that_it_is_told)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(PARSE(&o, &err, "convert", "-f", "raw", "-O", "raw", "-j3", "--verify", "--digest",
			   "--resume", "--full", "--force", "src", "dst"),
		     0);
	cr_assert_str_eq(o.command->name, "convert");
	cr_assert_str_eq(o.format, "raw");
	cr_assert_str_eq(o.out_format, "raw");
	cr_assert_eq(o.threads, 3);
	cr_assert(o.verify && o.digest && o.resume && o.force && !o.salvage);
	cr_assert_eq(o.holes, HV_HOLES_FULL);
	cr_assert_eq(o.count, 2);
	cr_assert_str_eq(o.args[0], "src");
	cr_assert_str_eq(o.args[1], "dst");
	hvm_options_free(&o);
}

Test(options, external_paths_add_up_in_their_order)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(PARSE(&o, &err, "map", "--allow-external", "/a", "x.vmdk", "--allow-external=/b"), 0);
	cr_assert_eq(o.externals, 2);
	cr_assert_str_eq(o.external[0], "/a");
	cr_assert_str_eq(o.external[1], "/b");
	hvm_options_free(&o);
}

Test(options, sizes_are_powers_of_two_in_their_limits)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(PARSE(&o, &err, "convert", "--block-size", "2M", "--sector-size=4096", "a", "b"), 0);
	cr_assert_eq(o.block_size, 2U << 20);
	cr_assert_eq(o.sector_size, 4096);
	hvm_options_free(&o);
	REFUSED("power of two", "convert", "--block-size", "3M", "a", "b");
	REFUSED("power of two", "convert", "--block-size", "256", "a", "b");
	REFUSED("too large", "convert", "--block-size", "1T", "a", "b");
	REFUSED("512 or 4096", "convert", "--sector-size", "1024", "a", "b");
}

Test(options, each_command_refuses_the_options_of_others)
{
	REFUSED("not for", "info", "--verify", "x");
	REFUSED("not for", "convert", "--replay-log", "a", "b");
	REFUSED("not for", "check", "--chain", "x");
	REFUSED("not for", "map", "-O", "raw", "x");
	REFUSED("not for", "formats", "--salvage");
}

Test(options, arguments_are_counted)
{
	REFUSED("usage: hvmigrate info", "info");
	REFUSED("usage: hvmigrate convert", "convert", "a");
	REFUSED("usage: hvmigrate compare", "compare", "a", "b", "c");
	REFUSED("usage: hvmigrate formats", "formats", "a");
	REFUSED("empty file name", "info", "");
}

Test(options, words_that_mean_nothing_are_named)
{
	REFUSED("no command 'nothing'", "nothing");
	REFUSED("no format 'zip'", "info", "-f", "zip", "x");
	REFUSED("no format 'zip'", "convert", "-O", "zip", "a", "b");
	REFUSED("no subformats", "convert", "-O", "raw:flat", "a", "b");
	REFUSED("none of auto, bar, lines, none", "compare", "--progress", "loud", "a", "b");
	REFUSED("from 1 to", "convert", "-j", "0", "a", "b");
	REFUSED("opposite", "convert", "--sparse", "--full", "a", "b");
	REFUSED("what is to be done", "--json");
}

Test(options, getopts_own_refusals_carry_the_status_alone)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(PARSE(&o, &err, "info", "--no-such-option", "x"), -EINVAL);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_str_empty(err.text);
	hvm_options_free(&o);
}

Test(options, help_needs_no_arguments)
{
	struct hvm_options o;
	struct hv_error err;

	cr_assert_eq(PARSE(&o, &err, "convert", "--help"), 0);
	cr_assert(o.help);
	cr_assert_str_eq(o.command->name, "convert");
	hvm_options_free(&o);
	cr_assert_eq(PARSE(&o, &err, "help", "map"), 0);
	cr_assert(o.help);
	cr_assert_str_eq(o.command->name, "map");
	hvm_options_free(&o);
	cr_assert_eq(PARSE(&o, &err, "--version"), 0);
	cr_assert(o.version && !o.command);
	hvm_options_free(&o);
}
