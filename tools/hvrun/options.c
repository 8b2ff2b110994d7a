/*
 * The command line. The options that describe a VM are hv_config's own table; only what concerns the tool
 * itself is added here.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hvrun.h"

#define OPTIONS_MAX 40

/* The tool's own, after the VM's. */
static const struct hv_config_option own[] = {
	{"config", "FILE", "take options from a file, one a line: \"mem 128M\""},
	{"doctor", NULL, "tell what this host can do, and what to do about the rest"},
	{"json", NULL, "with --doctor: for programs"},
	{"help", NULL, "show this"},
	{"version", NULL, "show the version"},
};

static size_t machine_options(void)
{
	size_t n = 0;

	while (hv_config_options[n].key)
		n++;
	return n;
}

/* getopt's val is the index into the two tables laid end to end, plus one. */
static const struct hv_config_option *option_at(size_t i)
{
	size_t n = machine_options();

	return i < n ? &hv_config_options[i] : &own[i - n];
}

void options_help(void)
{
	size_t total = machine_options() + HV_ARRAY_SIZE(own);

	printf("usage: hvrun [options] IMAGE\n"
	       "Runs a virtual machine on /dev/kvm.\n\n");
	for (size_t i = 0; i < total; i++) {
		const struct hv_config_option *o = option_at(i);
		char left[40];

		snprintf(left, sizeof(left), "--%s%s%s", o->key, o->arg ? " " : "", o->arg ? o->arg : "");
		printf("  %-20s %s\n", left, o->help);
	}
	printf("\nOn a terminal: Ctrl-A x ends the VM, Ctrl-A c opens the console, Ctrl-A h helps.\n"
	       "Exit status: the guest's own (port 0xf4), 0 after an orderly end, 1 failed, 2 wrong usage,\n"
	       "3 the image is damaged or unsafe, 124 ended by --timeout.\n");
}

static int take(struct hvrun_options *o, const char *key, const char *value, struct hv_error *err)
{
	if (!strcmp(key, "config"))
		return hv_config_load(&o->config, value, err);
	if (!strcmp(key, "doctor"))
		o->action = HVRUN_DOCTOR;
	else if (!strcmp(key, "help"))
		o->action = HVRUN_HELP;
	else if (!strcmp(key, "version"))
		o->action = HVRUN_VERSION;
	else if (!strcmp(key, "json"))
		o->json = true;
	else
		return hv_config_set(&o->config, key, value, err);
	return 0;
}

int options_parse(struct hvrun_options *o, int argc, char **argv, struct hv_error *err)
{
	struct option table[OPTIONS_MAX] = {0};
	size_t total = machine_options() + HV_ARRAY_SIZE(own);
	bool kernel = false;
	int val, rc;

	memset(o, 0, sizeof(*o));
	memset(err, 0, sizeof(*err));
	hv_config_init(&o->config);
	if (total >= OPTIONS_MAX)
		return hv_fail(err, ENOSPC, "more options than hvrun's table holds");
	for (size_t i = 0; i < total; i++)
		table[i] = (struct option){.name = option_at(i)->key,
					   .has_arg = option_at(i)->arg ? required_argument : no_argument,
					   .val = (int)i + 1};
	while ((val = getopt_long(argc, argv, "", table, NULL)) != -1) {
		if (val == '?') {
			err->status = HV_EXIT_USAGE;
			return -EINVAL;
		}
		kernel |= !strcmp(option_at((size_t)val - 1)->key, "kernel");
		rc = take(o, option_at((size_t)val - 1)->key, optarg, err);
		if (rc || o->action == HVRUN_HELP || o->action == HVRUN_VERSION)
			return rc;
	}
	if (o->action == HVRUN_DOCTOR)
		return 0;
	if (o->json)
		return hv_fail_usage(err, "--json goes with --doctor");
	if (argc - optind > 1)
		return hv_fail_usage(err, "one image at a time: '%.64s' is too many", argv[optind + 1]);
	if (optind < argc && kernel)
		return hv_fail_usage(err, "one image at a time: --kernel gave one, so '%.64s' is too many",
				     argv[optind]);
	if (optind < argc) {
		rc = hv_config_set(&o->config, "image", argv[optind], err);
		if (rc)
			return rc;
	}
	return hv_config_finish(&o->config, err);
}
