/*
 * hvmigrate: disks of Hyper-V, VMware and others to raw and back. This file is the order of things; what a
 * command does stands in its own file, how formats are read and written in core/disk.
 */
#include <fcntl.h>
#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "hvmigrate.h"

/* A closed standard descriptor would be given to the next file that is opened, and sentences to that file. */
static void hold_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY) < 0)
			_exit(HV_EXIT_FAILED);
}

/* A split disk of terabytes has thousands of extents, and a shell's usual limit is a thousand files. */
static void raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		rlim_t most = 4 * HV_DISK_FILES_MAX;

		limit.rlim_cur = limit.rlim_max < most || limit.rlim_cur > most ? limit.rlim_max : most;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int usage(const struct hvm_options *o, const struct hv_error *err)
{
	if (err->text[0])
		return hvm_fail(o, err);
	/* getopt has told what */
	hvm_complain("`hvmigrate %s%s--help` lists the options", o->command ? o->command->name : "",
		     o->command ? " " : "");
	return HV_EXIT_USAGE;
}

static int run(const struct hvm_options *o)
{
	if (o->help) {
		hvm_options_help(o->command);
		return HV_EXIT_OK;
	}
	if (o->version) {
		printf("hvmigrate (hvkit) %s\n", HV_VERSION);
		return HV_EXIT_OK;
	}
	return o->command->run(o);
}

int main(int argc, char **argv)
{
	struct hvm_options o;
	struct hv_error err = {0};
	int status;

	hold_standard_descriptors();
	raise_file_limit();
	setlocale(LC_CTYPE, "");
	signal(SIGPIPE, SIG_IGN); /* a pipe or a server that goes is an error with a sentence */
	status = hvm_options_parse(&o, argc, argv, &err) ? usage(&o, &err) : run(&o);
	hvm_options_free(&o);
	if ((fflush(stdout) == EOF || ferror(stdout)) && status == HV_EXIT_OK) {
		if (errno != EPIPE) /* a reader that has seen enough ("| head") knows that himself */
			hvm_complain("cannot write to standard output: %s", strerror(errno));
		status = HV_EXIT_FAILED;
	}
	return hvm_signals_leave(status);
}
