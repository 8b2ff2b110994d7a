/*
 * One command to one VM: words into QMP, QMP's answer into text or JSON. Files are opened here, with the
 * user's rights, and passed to the VM as descriptors, because the VM's sandbox opens none.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "hvctl.h"

const char *const hvctl_words[] = {"list", "use", "wait", "exit", NULL};

volatile sig_atomic_t hvctl_interrupted;

/* The file that is being written, for the signal handler: a temporary file must not outlive us. */
static struct hv_file output = {.fd = -1, .dir = -1};
static volatile sig_atomic_t output_open;

static void on_interrupt(int sig)
{
	hvctl_interrupted = sig;
	if (!output_open)
		return;
	(void)unlinkat(output.dir, output.temp, 0);
	_exit(128 + sig);
}

static void on_end(int sig)
{
	on_interrupt(sig);
	(void)signal(sig, SIG_DFL);
	(void)raise(sig);
}

void hvctl_catch_interrupts(void)
{
	struct sigaction interrupt = {.sa_handler = on_interrupt}, end = {.sa_handler = on_end};

	(void)sigaction(SIGINT, &interrupt, NULL);
	(void)sigaction(SIGTERM, &end, NULL);
	(void)sigaction(SIGHUP, &end, NULL);
	(void)signal(SIGPIPE, SIG_IGN);
}

int hvctl_complain(const struct hv_error *err)
{
	char text[sizeof(err->text)];

	snprintf(text, sizeof(text), "%s", err->text);
	for (char *p = text; *p; p++)
		*p = (unsigned char)*p < 0x20 || *p == 0x7f ? '?' : *p;
	fflush(stdout);
	fprintf(stderr, "hvctl: %s\n", text);
	return err->status ? (int)err->status : HV_EXIT_FAILED;
}

void hvctl_print(const char *text)
{
	for (; *text; text++) {
		bool control =
			((unsigned char)*text < 0x20 && *text != '\n' && *text != '\t') || *text == 0x7f;

		putchar(control ? '?' : *text);
	}
}

void hvctl_print_json(const json_t *value)
{
	char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY);

	if (text)
		puts(text);
	free(text);
}

static const char *const own_help[][3] = {
	{"list", "list", "the running VMs"},
	{"use", "use NAME", "talk to that VM from now on"},
	{"wait", "wait", "until the VM ends, telling its events"},
	{"exit", "exit", "leave hvctl (interactive); the VM goes on"},
};

/* hvctl's own word, or NULL. */
static const char *const *find_own(const char *word)
{
	for (size_t i = 0; i < HV_ARRAY_SIZE(own_help); i++) {
		if (strcmp(own_help[i][0], word) == 0)
			return own_help[i];
	}
	return NULL;
}

void hvctl_print_help(void)
{
	char *text = hv_monitor_help(NULL);

	if (text)
		fputs(text, stdout);
	free(text);
	for (size_t i = 0; i < HV_ARRAY_SIZE(own_help); i++)
		printf("%-28s  %s\n", own_help[i][1], own_help[i][2]);
}

void hvctl_print_event(const struct hvctl *h, const json_t *event)
{
	const json_t *data = json_object_get(event, "data");
	const char *name = json_string_value(json_object_get(event, "event"));
	const char *reason = json_string_value(json_object_get(data, "reason"));
	char text[sizeof(h->name) + 128];

	if (h->json) {
		hvctl_print_json(event);
		return;
	}
	snprintf(text, sizeof(text), "[VM '%s': %.40s%s%.60s]\n", h->name, name ? name : "event",
		 reason ? ", " : "", reason ? reason : "");
	hvctl_print(text);
}

int hvctl_use(struct hvctl *h, const char *name)
{
	struct hv_qmp_client *client;
	struct hv_error err = {0};

	if (strlen(name) >= sizeof(h->name))
		return hvctl_complain(
			&(struct hv_error){.status = HV_EXIT_USAGE, .text = "the name is too long"});
	if (hv_qmp_connect(&client, name, ANSWER_MS, &err))
		return hvctl_complain(&err);
	hv_qmp_close(h->client);
	h->client = client;
	snprintf(h->name, sizeof(h->name), "%s", name);
	return HV_EXIT_OK;
}

int hvctl_wait(struct hvctl *h)
{
	bool ended = false;

	hvctl_interrupted = 0;
	while (hv_qmp_alive(h->client) && !hvctl_interrupted && !ended) {
		json_t *event = hv_qmp_event(h->client, 500);
		const char *name = json_string_value(json_object_get(event, "event"));

		if (name)
			hvctl_print_event(h, event);
		ended = name && strcmp(name, "SHUTDOWN") == 0;
		json_decref(event);
	}
	if (hvctl_interrupted)
		return 128 + SIGINT;
	if (!ended && !h->json)
		printf("VM '%s' has ended\n", h->name);
	return HV_EXIT_OK;
}

/* --- a request --- */

/* A command that ends the VM may well take the connection with it before the answer is out. */
static bool ends_vm(const struct hv_monitor_request *r)
{
	return strcmp(r->execute, "quit") == 0;
}

static int execute(struct hvctl *h, const struct hv_monitor_request *r, json_t **result, struct hv_error *err)
{
	int rc = hv_qmp_execute(h->client, r->execute, r->arguments, -1, result, err);

	if (rc == -ECONNRESET && ends_vm(r)) {
		*result = json_object();
		return 0;
	}
	return rc;
}

static int pass_file(struct hvctl *h, json_t **result, struct hv_error *err)
{
	json_t *name = json_pack("{s:s}", "fdname", HV_MONITOR_FILE_FD);
	int rc = hv_qmp_execute(h->client, "getfd", name, output.fd, result, err);

	json_decref(name);
	json_decref(*result);
	*result = NULL;
	return rc;
}

static int execute_into_file(struct hvctl *h, const struct hv_monitor_request *r, json_t **result,
			     struct hv_error *err)
{
	sigset_t block, before;
	int rc;

	/* Between the file's birth and the handler's knowing of it, no signal may come. */
	sigemptyset(&block);
	sigaddset(&block, SIGINT);
	sigaddset(&block, SIGTERM);
	sigaddset(&block, SIGHUP);
	(void)sigprocmask(SIG_BLOCK, &block, &before);
	rc = hv_file_begin(&output, r->file, 0600, err);
	output_open = !rc;
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	if (rc)
		return rc;
	rc = pass_file(h, result, err);
	hv_qmp_set_timeout(h->client, -1); /* as long as the disk takes; Ctrl-C ends it */
	if (!rc)
		rc = execute(h, r, result, err);
	hv_qmp_set_timeout(h->client, ANSWER_MS);
	(void)sigprocmask(SIG_BLOCK, &block, NULL);
	if (rc)
		hv_file_abandon(&output);
	else
		rc = hv_file_commit(&output, err);
	output_open = 0;
	(void)sigprocmask(SIG_SETMASK, &before, NULL);
	return rc;
}

static void show(const struct hvctl *h, const struct hv_monitor_request *r, const json_t *result)
{
	char *text;

	if (h->json && !r->text) {
		hvctl_print_json(result);
		return;
	}
	text = hv_monitor_text(r, result);
	if (text)
		hvctl_print(text);
	free(text);
}

static int run_request(struct hvctl *h, struct hv_monitor_request *r, int parsed, struct hv_error *err)
{
	json_t *result = NULL;
	int rc = parsed;

	if (!rc && r->execute && !h->client)
		rc = hv_fail_usage(err, "no VM chosen: `list` shows them, `use NAME` chooses one");
	if (!rc && r->execute)
		rc = r->file ? execute_into_file(h, r, &result, err) : execute(h, r, &result, err);
	if (!rc)
		show(h, r, result);
	json_decref(result);
	hv_monitor_free(r);
	return rc ? hvctl_complain(err) : HV_EXIT_OK;
}

/* hvctl's own words. -1: it is none of them. */
static int own_words(struct hvctl *h, int argc, char **argv)
{
	if (strcmp(argv[0], "list") == 0 && argc == 1)
		return hvctl_list(h);
	if (strcmp(argv[0], "use") == 0 && argc == 2)
		return hvctl_use(h, argv[1]);
	if (strcmp(argv[0], "wait") == 0 && argc == 1 && h->client)
		return hvctl_wait(h);
	if (strcmp(argv[0], "help") == 0 && argc == 1) {
		hvctl_print_help();
		return HV_EXIT_OK;
	}
	if (strcmp(argv[0], "help") == 0 && argc == 2 && find_own(argv[1])) {
		printf("%s: %s\n", find_own(argv[1])[1], find_own(argv[1])[2]);
		return HV_EXIT_OK;
	}
	if (find_own(argv[0]))
		return hvctl_complain(
			&(struct hv_error){.status = HV_EXIT_USAGE,
					   .text = "see `help`: list, use NAME, wait (with a VM chosen)"});
	return -1;
}

int hvctl_words_run(struct hvctl *h, int argc, char **argv)
{
	struct hv_monitor_request r;
	struct hv_error err = {0};
	int status = own_words(h, argc, argv);

	if (status >= 0)
		return status;
	return run_request(h, &r, hv_monitor_parse_words(argc, argv, &r, &err), &err);
}

int hvctl_line_run(struct hvctl *h, const char *line)
{
	char *copy = strdup(line), *argv[3], *rest;
	struct hv_monitor_request r;
	struct hv_error err = {0};
	int argc = 0, status = -1;

	/* hvctl's own words take at most one argument, without quotes. */
	for (char *w = copy ? strtok_r(copy, " \t", &rest) : NULL; w && argc < 3;
	     w = strtok_r(NULL, " \t", &rest))
		argv[argc++] = w;
	if (argc > 0)
		status = own_words(h, argc, argv);
	free(copy);
	if (status >= 0)
		return status;
	return run_request(h, &r, hv_monitor_parse(line, &r, &err), &err);
}
