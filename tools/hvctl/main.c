/*
 * hvctl: talks to running VMs. This file reads the command line.
 */
#include <getopt.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hvctl.h"

static const char usage_text[] =
	"Usage: hvctl [--json]                  list the running VMs; on a terminal, then ask for commands\n"
	"       hvctl [--json] list             list the running VMs\n"
	"       hvctl [--json] NAME             ask for commands to the VM called NAME (or at the socket "
	"NAME, "
	"with a /)\n"
	"       hvctl [--json] NAME COMMAND...  run one command\n"
	"\n"
	"Options:\n"
	"  --json     answers in JSON, as the VM's QMP gives them\n"
	"  --help     this text\n"
	"  --version  the version\n"
	"\n"
	"Commands:\n";

static int help(void)
{
	fputs(usage_text, stdout);
	hvctl_print_help();
	printf("\n`hvctl help COMMAND` tells more of one. Exit status: 0 done, 1 failed, 2 wrong usage, 3 "
	       "unsafe or damaged.\n");
	return HV_EXIT_OK;
}

static int wrong_usage(void)
{
	fprintf(stderr, "hvctl: see `hvctl --help`\n");
	return HV_EXIT_USAGE;
}

/* hvctl help [COMMAND], without a VM */
static int help_words(int argc, char **argv)
{
	if (argc > 2)
		return wrong_usage();
	if (argc == 1)
		return help();
	return hvctl_words_run(&(struct hvctl){0}, argc, argv);
}

static int with_vm(struct hvctl *h, int argc, char **argv)
{
	int status = hvctl_use(h, argv[0]);

	if (status)
		return status;
	return argc > 1 ? hvctl_words_run(h, argc - 1, argv + 1) : hvctl_shell(h);
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	struct hvctl h = {0};
	int c, status;

	setlocale(LC_CTYPE, "");
	/* '+': what follows NAME belongs to the command, "dump -p FILE" */
	while ((c = getopt_long(argc, argv, "+h", options, NULL)) != -1) {
		switch (c) {
		case 'j':
			h.json = true;
			break;
		case 'h':
			return help();
		case 'v':
			printf("hvctl (hvkit) %s\n", HV_VERSION);
			return HV_EXIT_OK;
		default:
			return wrong_usage();
		}
	}
	argc -= optind;
	argv += optind;
	hvctl_catch_interrupts();
	if (argc == 0) {
		status = hvctl_list(&h);
		if (!status && !h.json && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
			status = hvctl_shell(&h);
	} else if (strcmp(argv[0], "help") == 0) {
		status = help_words(argc, argv);
	} else if (strcmp(argv[0], "list") == 0) {
		status = argc == 1 ? hvctl_list(&h) : wrong_usage();
	} else {
		status = with_vm(&h, argc, argv);
	}
	hv_qmp_close(h.client);
	if (fflush(stdout) == EOF || ferror(stdout)) {
		fprintf(stderr, "hvctl: cannot write the answer: %s\n", strerror(errno));
		return HV_EXIT_FAILED;
	}
	return status;
}
