/*
 * hvrun: one VM from its options to its exit status. This file is the order of things: what can fail comes
 * before the guest's first instruction, what needs the file system or the network before the sandbox closes.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "base/io.h"
#include "control/gdb.h"
#include "control/qmp.h"
#include "control/registry.h"
#include "hvrun.h"

#define END_LIMIT_MS 10000 /* for the machine's threads to go, once it has ended */

/* All that a run holds. */
struct run {
	struct hvrun_options options;
	struct hv_log log;
	struct terminal terminal;
	struct hv_chardev *chardev;
	struct hv_chardev *console, *agent; /* the machine's, once it has been made */
	struct hv_file trace;
	struct hv_machine *machine;
	struct hv_registration name;
	bool named;
	struct hv_qmp_server *qmp;
	struct hv_gdb *gdb;
	int signals; /* signalfd */
};

static void print_line(void *ctx, enum hv_log_level level, const char *line)
{
	static const char *const words[] = {"error: ", "warning: ", "", ""};

	fprintf(stderr, "hvrun: %s%s\n", words[level], line);
}

static int fail(const struct hv_error *err)
{
	if (err->text[0])
		fprintf(stderr, "hvrun: %s\n", err->text);
	else /* getopt has told what */
		fprintf(stderr, "hvrun: `hvrun --help` lists the options\n");
	return err->status ? (int)err->status : HV_EXIT_FAILED;
}

/* --- setting up --- */

/* A closed standard descriptor would be given to the next file that is opened, and a guest's output to that
 * file. */
static void hold_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == STDIN_FILENO ? O_RDONLY : O_WRONLY) < 0)
			_exit(HV_EXIT_FAILED);
}

static int open_line(struct run *r, const struct hv_chardev_config *c, const char *name,
		     struct hv_chardev **line, struct hv_error *err)
{
	char where[HV_CHARDEV_PATH_MAX + 32];
	int rc = hv_chardev_open(c, &r->log, line, err);

	if (rc)
		return rc;
	if (c->kind == HV_CHARDEV_PTY) { /* nobody could guess it */
		hv_chardev_describe(*line, where, sizeof(where));
		fprintf(stderr, "hvrun: the %s is at %s\n", name, where + strlen("pty "));
	}
	return 0;
}

static int open_lines(struct run *r, const struct hv_config *c, struct hv_error *err)
{
	int rc = open_line(r, &c->serial, "serial line", &r->chardev, err);

	if (!rc && c->has_console)
		rc = open_line(r, &c->console, "console", &r->console, err);
	if (!rc && c->has_agent)
		rc = open_line(r, &c->agent, "agent's channel", &r->agent, err);
	return rc;
}

/* Each of the guest's sockets is a descriptor here; the usual limit is lower than what may be had. */
static void allow_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static int set_up(struct run *r, struct hv_error *err)
{
	const struct hv_config *c = &r->options.config;
	int rc;

	if (c->vsock)
		allow_descriptors();
	rc = signals_take(&r->signals, err);
	if (!rc && c->sandbox)
		sandbox_folders(c, &r->log);
	if (!rc)
		rc = terminal_init(&r->terminal, c, err);
	if (!rc)
		rc = open_lines(r, c, err);
	if (!rc && c->trace)
		rc = hv_file_begin(&r->trace, c->trace, 0644, err);
	if (!rc)
		rc = hv_machine_open(c, r->chardev, &r->log, &r->machine, err);
	if (!rc) {
		hv_machine_plug(r->machine, r->console, r->agent);
		rc = hv_registry_take(&r->name, c->name, err);
		r->named = rc == 0;
	}
	/* All that has to be opened is open. From here on the image is looked at, so the door is shut first;
	 * only the debugger's socket needs a VM that is made. */
	if (!rc && c->sandbox && !c->gdb)
		rc = sandbox_lock(c, err);
	if (!rc)
		rc = hv_machine_build(r->machine, err);
	if (!rc)
		signals_watch(&r->name, &r->trace);
	if (!rc && c->gdb)
		rc = hv_gdb_start(&r->gdb, r->machine, c->gdb, &r->log, err);
	if (!rc && c->sandbox && c->gdb)
		rc = sandbox_lock(c, err);
	if (!rc && c->trace)
		rc = hv_machine_trace(r->machine, true, err);
	return rc;
}

/* Little can fail between raw mode and the guest's first instruction, so that its sentence is read. */
static int start(struct run *r, struct hv_error *err)
{
	const struct hv_config *c = &r->options.config;
	int rc;

	r->terminal.machine = r->machine;
	if (r->terminal.keyboard) {
		hv_chardev_set_filter(r->terminal.on_console ? r->console : r->chardev, terminal_filter,
				      &r->terminal);
		terminal_raw(&r->terminal);
	}
	terminal_size(&r->terminal);
	rc = hv_machine_start(r->machine, c->paused, err);
	/* Who brings input and who answers on the socket, which listens already, can be made while the guest
	 * runs. */
	if (!rc)
		rc = hv_chardev_start(r->chardev, err);
	if (!rc && r->console)
		rc = hv_chardev_start(r->console, err);
	if (!rc && r->agent)
		rc = hv_chardev_start(r->agent, err);
	if (!rc)
		rc = hv_qmp_server_start(&r->qmp, r->machine, &r->name, &r->log, err);
	return rc;
}

/* --- running --- */

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void handle_signal(struct run *r)
{
	struct signalfd_siginfo info;

	while (read(r->signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGCONT) {
			terminal_raw(&r->terminal); /* the shell may have set it otherwise meanwhile */
			continue;
		}
		if (info.ssi_signo == SIGWINCH) {
			terminal_size(&r->terminal);
			continue;
		}
		if (info.ssi_signo == SIGTSTP) {
			signals_stop_here();
			continue;
		}
		hv_log(&r->log, HV_LOG_INFO, "ended by signal %u (%s)", info.ssi_signo,
		       strsignal((int)info.ssi_signo));
		hv_machine_end(r->machine, HV_END_QUIT);
	}
}

/* Until the machine has ended. The time limit counts from here, that is from the start, paused or not. */
static void serve(struct run *r)
{
	uint64_t limit = r->options.config.timeout_ns, started = now_ns();
	struct pollfd fds[] = {
		{.fd = hv_machine_end_fd(r->machine), .events = POLLIN},
		{.fd = r->signals, .events = POLLIN},
		{.fd = r->terminal.line_fd, .events = POLLIN},
	};

	for (;;) {
		uint64_t spent = now_ns() - started, left = limit > spent ? limit - spent : 0;
		struct timespec wait = {.tv_sec = (time_t)(left / 1000000000u),
					.tv_nsec = (long)(left % 1000000000u)};
		int n = ppoll(fds, HV_ARRAY_SIZE(fds), limit ? &wait : NULL, NULL);

		if (fds[0].revents & POLLIN && n > 0)
			return;
		if (n == 0 && limit) {
			hv_machine_end(r->machine, HV_END_TIMEOUT);
			limit = 0; /* once */
		}
		if (n > 0 && fds[1].revents)
			handle_signal(r);
		if (n > 0 && fds[2].revents)
			terminal_answer(&r->terminal);
	}
}

/* --- the end --- */

static int save_trace(struct run *r)
{
	struct hv_error err = {0};

	if (hv_machine_trace_save(r->machine, r->trace.fd, &err) == 0 && hv_file_commit(&r->trace, &err) == 0)
		return 0;
	return fail(&err);
}

/* A vCPU that KVM never gives back keeps its thread; nothing that it may touch can be freed then. */
static bool has_stuck_vcpu(const struct hv_machine *m)
{
	for (unsigned i = 0; i < hv_machine_cpus(m); i++)
		if (hv_machine_thread_id(m, i))
			return true;
	return false;
}

static int finish(struct run *r)
{
	const struct hv_config *c = &r->options.config;
	struct hv_end *end = calloc(1, sizeof(*end));
	int status = HV_EXIT_FAILED;

	if (end && hv_machine_wait(r->machine, END_LIMIT_MS, end) == 0)
		status = end->status;
	terminal_restore();
	if (end && end->text[0])
		fprintf(stderr, "hvrun: %s\n", end->text);
	if (end && end->reason == HV_END_TIMEOUT)
		fprintf(stderr, "hvrun: ended by --timeout\n");
	if (c->stats)
		report_stats(r->machine);
	if (has_stuck_vcpu(r->machine)) {
		if (r->named)
			hv_registry_release(&r->name);
		hv_file_abandon(&r->trace);
		_exit(status);
	}
	if (c->trace) {
		int failed = save_trace(r);

		status = status ? status : failed;
	}
	free(end);
	return status;
}

static void release(struct run *r)
{
	terminal_restore();
	hv_gdb_stop(r->gdb);
	hv_qmp_server_stop(r->qmp);
	if (r->named)
		hv_registry_release(&r->name);
	/* Before the machine: the line's thread hands its input to the machine's serial device. */
	hv_chardev_close(r->chardev);
	if (!r->machine) {
		hv_chardev_close(r->console);
		hv_chardev_close(r->agent);
	}
	hv_machine_destroy(r->machine);
	hv_file_abandon(&r->trace);
	terminal_free(&r->terminal);
	if (r->signals >= 0)
		close(r->signals);
	hv_config_free(&r->options.config);
}

static int run(struct run *r)
{
	struct hv_error err = {0};
	int rc, status;

	r->log = (struct hv_log){.level = r->options.config.verbose ? HV_LOG_DEBUG : HV_LOG_WARN,
				 .sink = print_line};
	rc = set_up(r, &err);
	if (!rc)
		rc = start(r, &err);
	if (!rc) {
		serve(r);
		status = finish(r);
	} else {
		if (!err.text[0]) /* a lab's gap, which returns -ENOSYS without a sentence */
			hv_fail(&err, -rc, "%s", strerror(-rc));
		if (r->machine) {
			hv_machine_end(r->machine, HV_END_QUIT);
			hv_machine_wait(r->machine, END_LIMIT_MS, NULL);
		}
		terminal_restore();
		status = fail(&err);
	}
	release(r);
	return status;
}

int main(int argc, char **argv)
{
	static struct run r = {.signals = -1, .trace = {.fd = -1, .dir = -1}, .terminal = {.line_fd = -1}};
	struct hv_error err;
	int status = HV_EXIT_OK;

	hold_standard_descriptors();
	if (options_parse(&r.options, argc, argv, &err)) {
		status = fail(&err);
		hv_config_free(&r.options.config);
		return status;
	}
	switch (r.options.action) {
	case HVRUN_HELP:
		options_help();
		break;
	case HVRUN_VERSION:
		printf("hvrun %s\n", HV_VERSION);
		break;
	case HVRUN_DOCTOR:
		status = doctor(r.options.json);
		break;
	case HVRUN_RUN:
		return run(&r);
	}
	hv_config_free(&r.options.config);
	return status;
}
