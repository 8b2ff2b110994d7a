/*
 * The interactive hvctl: a prompt with history and completion, and the VM's events above it. Readline's
 * callback interface lets one poll wait for the keyboard and the VM; readline sets the terminal up and
 * restores it, also when a signal ends us. When stdin is no terminal, its lines are run one after another.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <readline/history.h>
#include <readline/readline.h>

#include "control/registry.h"
#include "hvctl.h"

#define HISTORY_LINES 1000

/* Readline's callbacks take no context. */
static struct hvctl *shell;
static bool leaving;

/* --- history --- */

static int make_directory(const char *path)
{
	return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

/* $XDG_STATE_HOME/hvkit/hvctl_history; "" when there is no place for it. */
static void history_path(char *path, size_t size)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	char dir[2048];
	int n;

	path[0] = '\0';
	if (state && state[0] == '/') {
		n = snprintf(dir, sizeof(dir), "%s", state);
	} else if (home && home[0] == '/') {
		(void)!snprintf(dir, sizeof(dir), "%s/.local", home);
		(void)make_directory(dir);
		n = snprintf(dir, sizeof(dir), "%s/.local/state", home);
	} else {
		return;
	}
	if ((size_t)n + 32 > sizeof(dir) || make_directory(dir))
		return;
	strcat(dir, "/hvkit");
	if (!make_directory(dir))
		snprintf(path, size, "%s/hvctl_history", dir);
}

static void remember(const char *line)
{
	HIST_ENTRY *last = history_length > 0 ? history_get(history_base + history_length - 1) : NULL;

	if (line[strspn(line, " \t")] && (!last || strcmp(last->line, line) != 0))
		add_history(line);
}

/* --- completion --- */

/* Words of a list that start with text, one a call; readline frees them. */
static char *next_of(const char *const *words, const char *text, size_t *at)
{
	while (words && words[*at]) {
		const char *w = words[(*at)++];

		if (strncmp(w, text, strlen(text)) == 0)
			return strdup(w);
	}
	return NULL;
}

static char *command_words(const char *text, int state)
{
	static size_t at, own;

	if (state == 0)
		at = own = 0;
	while (hv_monitor_commands[at].name) {
		const char *name = hv_monitor_commands[at++].name;

		if (strncmp(name, text, strlen(text)) == 0)
			return strdup(name);
	}
	return next_of(hvctl_words, text, &own);
}

static const char *const *argument_list;

static char *argument_words(const char *text, int state)
{
	static size_t at;

	if (state == 0)
		at = 0;
	return next_of(argument_list, text, &at);
}

static char *vm_words(const char *text, int state)
{
	static struct hv_registry_entry *entries;
	static unsigned count, at;

	if (state == 0) {
		free(entries);
		entries = NULL;
		at = count = 0;
		(void)hv_registry_list(&entries, &count, NULL);
	}
	while (at < count) {
		const char *name = entries[at++].name;

		if (strncmp(name, text, strlen(text)) == 0)
			return strdup(name);
	}
	free(entries);
	entries = NULL;
	return NULL;
}

static char **complete(const char *text, int start, int end)
{
	char word[32] = "", second[32] = "";
	const struct hv_monitor_command *c;
	int words;

	words = sscanf(rl_line_buffer, "%31s %31s", word, second);
	rl_attempted_completion_over = 1;
	if (words < 1 || rl_line_buffer + start == strstr(rl_line_buffer, word))
		return rl_completion_matches(text, command_words);
	if (strcmp(word, "use") == 0)
		return rl_completion_matches(text, vm_words);
	if (strcmp(word, "help") == 0)
		return rl_completion_matches(text, command_words);
	c = hv_monitor_find(word);
	if (!c)
		return NULL;
	if (c->takes_file && (!c->words || strcmp(second, "save") == 0) && strcmp(second, text) != 0) {
		rl_attempted_completion_over = 0; /* readline's own: file names */
		return NULL;
	}
	if (c->takes_file && !c->words) {
		rl_attempted_completion_over = 0;
		return NULL;
	}
	argument_list = words == 1 || strcmp(second, text) == 0 ? c->words : NULL;
	return rl_completion_matches(text, argument_words);
}

/* --- the prompt --- */

static const char *prompt(void)
{
	static char text[HV_NAME_MAX + 16];

	if (shell->client)
		snprintf(text, sizeof(text), "%.60s> ", shell->name);
	else
		snprintf(text, sizeof(text), "hvctl> ");
	return text;
}

/* What came from the VM: events, or its end. */
static void hear(void)
{
	json_t *event;

	while (shell->client && (event = hv_qmp_event(shell->client, 0))) {
		hvctl_print_event(shell, event);
		json_decref(event);
	}
	if (shell->client && !hv_qmp_alive(shell->client)) {
		printf("VM '%s' has ended; `list` shows the others\n", shell->name);
		hv_qmp_close(shell->client);
		shell->client = NULL;
	}
}

static bool is_leave(const char *line)
{
	char word[8] = "", more[2] = "";

	return sscanf(line, "%7s %1s", word, more) == 1 &&
	       (strcmp(word, "quit") == 0 || strcmp(word, "exit") == 0);
}

/* A line is complete; readline has put the terminal back to normal for the command's time. */
static void on_line(char *line)
{
	if (!line) { /* Ctrl-D */
		putchar('\n');
		leaving = true;
	} else {
		remember(line);
		if (is_leave(line))
			leaving = true;
		else if (line[strspn(line, " \t")])
			(void)hvctl_line_run(shell, line);
	}
	free(line);
	hear();
	if (leaving)
		rl_callback_handler_remove();
	else
		rl_set_prompt(prompt());
	fflush(stdout);
}

/* Ctrl-C: the line is given up, hvctl is not. */
static void fresh_line(void)
{
	hvctl_interrupted = 0;
	rl_free_line_state();
	rl_callback_sigcleanup();
	rl_replace_line("", 1);
	putchar('\n');
	rl_on_new_line();
	rl_redisplay();
}

static void hear_above_prompt(void)
{
	rl_clear_visible_line();
	hear();
	rl_set_prompt(prompt());
	rl_on_new_line();
	rl_redisplay();
	fflush(stdout);
}

static void converse(void)
{
	rl_callback_handler_install(prompt(), on_line);
	while (!leaving) {
		struct pollfd p[] = {
			{STDIN_FILENO, POLLIN, 0},
			{shell->client ? hv_qmp_fd(shell->client) : -1, POLLIN, 0},
		};

		if (poll(p, 2, -1) < 0) {
			rl_check_signals();
			if (hvctl_interrupted)
				fresh_line();
			continue;
		}
		if (p[1].revents)
			hear_above_prompt();
		if (p[0].revents)
			rl_callback_read_char();
	}
}

static int run_stdin(struct hvctl *h)
{
	char *line = NULL;
	size_t size = 0;
	int status = HV_EXIT_OK;
	ssize_t n;

	while ((n = getline(&line, &size, stdin)) > 0) {
		int rc;

		if (line[n - 1] == '\n')
			line[n - 1] = '\0';
		if (is_leave(line))
			break;
		rc = line[strspn(line, " \t\r")] ? hvctl_line_run(h, line) : HV_EXIT_OK;
		status = rc ? rc : status;
	}
	free(line);
	return status;
}

int hvctl_shell(struct hvctl *h)
{
	char path[2048 + 32];

	if (!isatty(STDIN_FILENO))
		return run_stdin(h);
	shell = h;
	rl_readline_name = "hvctl";
	rl_attempted_completion_function = complete;
	(void)umask(077);
	using_history();
	stifle_history(HISTORY_LINES);
	history_path(path, sizeof(path));
	if (path[0])
		(void)read_history(path);
	printf("`help` lists the commands, `quit` leaves; VMs go on.\n");
	converse();
	if (path[0])
		(void)write_history(path);
	return HV_EXIT_OK;
}
