/*
 * observe [options] -- PROGRAM ARGS...: runs a student's program in a sandbox and records from outside what
 * it does with KVM, one JSON object a line (labs/README.md). It judges nothing. The program's standard
 * streams are the caller's; a caller that has seen enough sends SIGTERM.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "observe.h"

enum { EXIT_RECORDED, EXIT_NOT_RUN, EXIT_USAGE, EXIT_PLAIN_NOT_RUN = 125 };

static const char usage[] =
	"usage: observe [options] -- PROGRAM ARGS...\n"
	"  --trace FILE           where the record goes (guest memory: FILE.mem)\n"
	"  --dump first:GPA:LEN   keep this guest memory as it is when the first KVM_RUN is entered\n"
	"  --dump last:GPA:LEN    the same as it is at the end\n"
	"  --read PATH            what the program may read besides the system's libraries\n"
	"  --write PATH           where it may write, too: a folder or a file\n"
	"  --chdir FOLDER         the folder that it starts in\n"
	"  --kvm PATH             KVM's device, if not $HV_KVM_DEVICE or /dev/kvm\n"
	"  --uid N, --gid N       whom root becomes (65534; the group is numbered like the user)\n"
	"  --limit-memory BYTES   what it may hold in memory (2147483648; 0: no limit)\n"
	"  --limit-output BYTES   what it may write, in all and into one file (67108864)\n"
	"  --limit-cpu SECONDS    a backstop (120)\n"
	"  --limit-runs N         how many KVM_RUNs are recorded before the program is ended (0: no limit)\n"
	"  --plain                the sandbox alone, no record of KVM: for a compiler; it may start "
	"programs\n"
	"  --no-sandbox           the record alone\n"
	"  --help\n";

/* --- options ----------------------------------------------------------------------------------------------- */

static int wrong(const char *option, const char *value)
{
	fprintf(stderr, "observe: --%s: %s is not right; --help tells what is\n", option, value);
	return -1;
}

static bool number(const char *text, uint64_t *value)
{
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 0);
	return !errno && end != text && !*end && *text != '-';
}

static bool parse_range(char *text, struct range *r)
{
	char *gpa = strchr(text, ':'), *length = gpa ? strchr(gpa + 1, ':') : NULL;

	if (!length)
		return false;
	*gpa++ = *length++ = 0;
	r->last = !strcmp(text, "last");
	return (r->last || !strcmp(text, "first")) && number(gpa, &r->gpa) && number(length, &r->length) &&
	       r->gpa + r->length >= r->gpa;
}

enum option_id {
	TRACE = 1,
	DUMP,
	READ,
	WRITE,
	CHDIR,
	KVM_,
	UID,
	GID,
	MEMORY,
	OUTPUT,
	CPU,
	RUNS,
	PLAIN,
	NO_SANDBOX,
	HELP,
};

static const struct option known[] = {
	{"trace", required_argument, NULL, TRACE},
	{"dump", required_argument, NULL, DUMP},
	{"read", required_argument, NULL, READ},
	{"write", required_argument, NULL, WRITE},
	{"chdir", required_argument, NULL, CHDIR},
	{"kvm", required_argument, NULL, KVM_},
	{"uid", required_argument, NULL, UID},
	{"gid", required_argument, NULL, GID},
	{"limit-memory", required_argument, NULL, MEMORY},
	{"limit-output", required_argument, NULL, OUTPUT},
	{"limit-cpu", required_argument, NULL, CPU},
	{"limit-runs", required_argument, NULL, RUNS},
	{"plain", no_argument, NULL, PLAIN},
	{"no-sandbox", no_argument, NULL, NO_SANDBOX},
	{"help", no_argument, NULL, HELP},
	{NULL, 0, NULL, 0},
};

static bool set_number(struct options *o, enum option_id id, uint64_t n)
{
	switch (id) {
	case UID:
		o->uid = (uid_t)n;
		o->gid = (gid_t)n; /* --gid comes after it */
		return n <= INT_MAX;
	case GID:
		o->gid = (gid_t)n;
		return n <= INT_MAX;
	case MEMORY:
		o->limit_memory = n;
		return true;
	case OUTPUT:
		o->limit_output = n;
		return true;
	case CPU:
		o->limit_cpu = n;
		return n > 0;
	default:
		o->limit_runs = n;
		return true;
	}
}

/* The sandbox has another current folder, perhaps. */
static const char *absolute(const char *path)
{
	char here[PATH_MAX], *whole;

	if (path[0] == '/' || !getcwd(here, sizeof(here)) || asprintf(&whole, "%s/%s", here, path) < 0)
		return path;
	return whole;
}

static bool add_path(const char **list, unsigned *count, const char *path)
{
	if (*count == PATHS_MAX)
		return false;
	list[(*count)++] = absolute(path);
	return true;
}

static bool set_option(struct options *o, enum option_id id, char *value)
{
	uint64_t n = 0;

	switch (id) {
	case TRACE:
		o->trace = value;
		return true;
	case DUMP:
		return o->dumps < DUMPS_MAX && parse_range(value, &o->dump[o->dumps++]);
	case READ:
		return add_path(o->read, &o->reads, value);
	case WRITE:
		return add_path(o->write, &o->writes, value);
	case CHDIR:
		o->folder = absolute(value);
		return true;
	case KVM_:
		o->kvm = value;
		return true;
	case PLAIN:
		o->plain = true;
		return true;
	case NO_SANDBOX:
		o->sandbox = false;
		return true;
	default:
		return number(value, &n) && set_number(o, id, n);
	}
}

/* A name without a slash is looked for where a shell would look. */
static const char *in_path(const char *name)
{
	const char *from = getenv("PATH");
	char whole[PATH_MAX];

	while (from && !strchr(name, '/')) {
		size_t length = strcspn(from, ":");

		snprintf(whole, sizeof(whole), "%.*s/%s", (int)length, from, name);
		if (access(whole, X_OK) == 0)
			return strdup(whole);
		from = from[length] ? from + length + 1 : NULL;
	}
	return absolute(name);
}

static void make_absolute(struct options *o)
{
	o->program = in_path(o->argv[0]);
	o->kvm = absolute(o->kvm);
}

/* 0: go on; else this process ends with *status. */
static int parse(struct options *o, int argc, char **argv, int *status)
{
	int id, which = 0;

	*status = EXIT_USAGE;
	while ((id = getopt_long(argc, argv, "+", known, &which)) != -1) {
		if (id == HELP) {
			fputs(usage, stdout);
			*status = EXIT_RECORDED;
			return -1;
		}
		if (id == '?')
			return -1;
		if (!set_option(o, (enum option_id)id, optarg))
			return wrong(known[which].name, optarg);
	}
	o->argv = argv + optind;
	if (!o->argv[0]) {
		fputs(usage, stderr);
		return -1;
	}
	if (!o->trace && !o->plain)
		return wrong("trace", "no file");
	make_absolute(o);
	o->drop = o->sandbox && geteuid() == 0;
	return 0;
}

/* --- start and end ----------------------------------------------------------------------------------------- */

/* In the child. What fails before exec goes to our parent by the pipe. */
static _Noreturn void become(const struct options *o, int gate, int errors)
{
	char why[512] = "", byte;
	size_t length;

	if (read(gate, &byte, 1) == 1 && sandbox_enter(o, why, sizeof(why)) == 0) {
		execv(o->program, o->argv);
		snprintf(why, sizeof(why), "%s can't be run: %s", o->program, strerror(errno));
	}
	length = strlen(why);
	_exit(write(errors, why, length) == (ssize_t)length ? 126 : 125);
}

static void note_start(struct session *s)
{
	static const char *const modules[] = {"kvm_intel", "kvm_amd", "kvm_pvm"};
	const char *backend = "unknown";
	char path[40];

	for (size_t i = 0; i < ARRAY_SIZE(modules); i++) {
		snprintf(path, sizeof(path), "/sys/module/%s", modules[i]);
		if (access(path, F_OK) == 0)
			backend = modules[i];
	}
	out_open(&s->out, NULL, '{');
	out_text(&s->out, "k", "start");
	out_open(&s->out, "argv", '[');
	for (char **a = s->opt->argv; *a; a++)
		out_text(&s->out, NULL, *a);
	out_close(&s->out, ']');
	out_text(&s->out, "backend", backend);
	out_bool(&s->out, "sandbox", s->opt->sandbox);
	out_i64(&s->out, "landlock", landlock_version());
	out_bool(&s->out, "registers", (s->state.sync & KVM_SYNC_X86_REGS) != 0);
	out_close(&s->out, '}');
	out_end_line(&s->out);
}

static void note_end(struct session *s)
{
	static const char *const whys[] = {"exit", "signal", "killed", "forbidden", "flood"};
	struct out *o = &s->out;

	out_open(o, NULL, '{');
	out_text(o, "k", "end");
	out_u64(o, "t", since(s));
	WIFEXITED(s->status) ? out_i64(o, "status", WEXITSTATUS(s->status)) : out_null(o, "status");
	WIFSIGNALED(s->status) ? out_i64(o, "signal", WTERMSIG(s->status)) : out_null(o, "signal");
	out_text(o, "why", whys[s->why]);
	if (s->limit)
		out_text(o, "limit", s->limit);
	out_close(o, '}');
	out_end_line(o);
	out_flush(o);
}

static int open_files(struct session *s)
{
	const struct options *o = s->opt;
	char name[PATH_MAX];

	s->out.fd = s->memory = -1;
	if (!o->trace)
		return 0;
	s->out.fd = open(o->trace, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->out.fd < 0) {
		fprintf(stderr, "observe: %s: %s\n", o->trace, strerror(errno));
		return -1;
	}
	if (!o->dumps)
		return 0;
	snprintf(name, sizeof(name), "%s.mem", o->trace);
	s->memory = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (s->memory < 0)
		fprintf(stderr, "observe: %s: %s\n", name, strerror(errno));
	return s->memory < 0 ? -1 : 0;
}

static int run(struct session *s)
{
	int gate[2], errors[2];
	char why[512];
	ssize_t n;

	if (pipe2(gate, O_CLOEXEC) < 0 || pipe2(errors, O_CLOEXEC) < 0 || (s->pid = fork()) < 0) {
		fprintf(stderr, "observe: no process can be started: %s\n", strerror(errno));
		return EXIT_NOT_RUN;
	}
	if (s->pid == 0) {
		close(gate[1]);
		become(s->opt, gate[0], errors[1]);
	}
	close(gate[0]);
	close(errors[1]);
	s->started = now();
	note_start(s);
	if (trace_program(s, gate[1]) < 0)
		return EXIT_NOT_RUN;
	note_end(s);
	n = read(errors[0], why, sizeof(why) - 1);
	if (n > 0) {
		fprintf(stderr, "observe: %.*s\n", (int)n, why);
		return EXIT_NOT_RUN;
	}
	if (s->out.failed) {
		fprintf(stderr, "observe: the record can't be written whole\n");
		return EXIT_NOT_RUN;
	}
	return EXIT_RECORDED;
}

/* Without a record, how the program ended is all that there is to tell; as a shell tells it. */
static int plain_status(const struct session *s, int status)
{
	if (status != EXIT_RECORDED)
		return EXIT_PLAIN_NOT_RUN;
	return WIFEXITED(s->status) ? WEXITSTATUS(s->status) : 128 + WTERMSIG(s->status);
}

int main(int argc, char **argv)
{
	static struct options o = {.uid = 65534,
				   .gid = 65534,
				   .sandbox = true,
				   .limit_memory = 2u << 30,
				   .limit_output = 64u << 20,
				   .limit_cpu = 120};
	static struct session s = {.opt = &o};
	int status;

	o.kvm = getenv("HV_KVM_DEVICE");
	if (!o.kvm)
		o.kvm = "/dev/kvm";
	if (parse(&o, argc, argv, &status))
		return status;
	/* Whoever asked for the record may go without a word, and then nobody would send SIGTERM. */
	(void)prctl(PR_SET_PDEATHSIG, SIGTERM);
	if (open_files(&s))
		return EXIT_NOT_RUN;
	if (!o.plain)
		state_ask_kvm(&s.state, o.kvm);
	status = run(&s);
	if (o.plain)
		status = plain_status(&s, status);
	state_free(&s.state);
	free(s.tasks);
	return status;
}
