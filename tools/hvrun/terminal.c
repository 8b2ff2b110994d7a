/*
 * The person's terminal: raw mode and its sure end, the escape keys, and the console's little line editor.
 *
 * Keys come in on the thread of the line (serial, or a virtio console). A line for the console is handed to
 * the main thread, since its answer may have to wait for a vCPU, and that vCPU may be waiting for this very
 * thread to take its output.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <termios.h>
#include <unistd.h>

#include "base/io.h"
#include "control/qmp.h"
#include "hvrun.h"

#define ESC 0x1b
#define DEL 0x7f

static const char help[] = "\n"
			   "Ctrl-A x       end the VM\n"
			   "Ctrl-A c       open or leave the console\n"
			   "Ctrl-A h       this help\n"
			   "Ctrl-A Ctrl-A  Ctrl-A for the guest\n";
static const char prompt[] = "(hvkit) ";

/* --- raw mode --- */

/* Of the process, as the terminal is; a signal handler can reach nothing else. */
static struct termios saved;
static volatile sig_atomic_t is_raw;

void terminal_restore(void)
{
	if (!is_raw)
		return;
	is_raw = 0;
	/* At once: a terminal that takes no output now (flow control, a dead line) would keep us for ever. */
	tcsetattr(STDIN_FILENO, TCSANOW, &saved);
}

void terminal_raw(const struct terminal *t)
{
	struct termios raw;

	/* From the background, tcsetattr would stop us, and the terminal is somebody else's now. */
	if (!t->keyboard || tcgetpgrp(STDIN_FILENO) != getpgrp())
		return;
	if (!is_raw) {
		if (tcgetattr(STDIN_FILENO, &saved) < 0)
			return;
		atexit(terminal_restore);
	}
	raw = saved;
	cfmakeraw(&raw);
	raw.c_oflag |=
		OPOST | ONLCR; /* our own messages end their lines with \n only; a guest's \r\n stays right */
	is_raw = 1;
	tcsetattr(STDIN_FILENO, TCSANOW, &raw);
}

void terminal_size(const struct terminal *t)
{
	struct winsize size;

	if (t->on_console && t->machine && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0)
		hv_machine_console_size(t->machine, size.ws_col, size.ws_row);
}

int terminal_init(struct terminal *t, const struct hv_config *config, struct hv_error *err)
{
	memset(t, 0, sizeof(*t));
	t->on_console = config->has_console && config->console.kind == HV_CHARDEV_STDIO;
	t->keyboard = (t->on_console || config->serial.kind == HV_CHARDEV_STDIO) && isatty(STDIN_FILENO);
	pthread_mutex_init(&t->lock, NULL);
	t->line_fd = -1;
	if (!t->keyboard)
		return 0;
	t->line_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return t->line_fd < 0 ? hv_fail_errno(err, "no descriptor for the console") : 0;
}

void terminal_free(struct terminal *t)
{
	if (t->line_fd >= 0)
		close(t->line_fd);
	pthread_mutex_destroy(&t->lock);
}

/* --- the console, on the line's thread --- */

static void say(const char *text)
{
	(void)hv_write_full(STDERR_FILENO, text, strlen(text)); /* nobody is left to be told of a failure */
}

static void console_open(struct terminal *t, bool open)
{
	t->console = open;
	t->length = 0;
	t->skip = 0;
	say(open ? "\nThe console: `help` lists its commands, `quit` or Ctrl-A c goes back to the guest.\n"
		 : "\n[back to the guest]\n");
	if (open)
		say(prompt);
}

static void console_enter(struct terminal *t)
{
	bool busy;

	t->edited[t->length] = '\0';
	if (!strcmp(t->edited, "quit") || !strcmp(t->edited, "exit")) {
		console_open(t, false);
		return;
	}
	if (t->edited[0] == '\0') {
		say("\n");
		say(prompt);
		return;
	}
	pthread_mutex_lock(&t->lock);
	busy = t->busy;
	if (!busy) {
		t->busy = true;
		memcpy(t->ready, t->edited, t->length + 1);
	}
	pthread_mutex_unlock(&t->lock);
	if (busy) {
		say("\a"); /* the last command is still at work; the line stays */
		return;
	}
	memcpy(t->before, t->edited, t->length + 1);
	t->length = 0;
	say("\n");
	(void)!eventfd_write(t->line_fd, 1);
}

static void rub_out(struct terminal *t, size_t count)
{
	for (; count > 0 && t->length > 0; count--) {
		t->length--;
		say("\b \b");
	}
}

static void replace(struct terminal *t, const char *text)
{
	rub_out(t, t->length);
	t->length = strlen(text);
	memcpy(t->edited, text, t->length);
	(void)hv_write_full(STDERR_FILENO, t->edited, t->length);
}

static size_t last_word(const struct terminal *t)
{
	size_t n = t->length;

	while (n > 0 && t->edited[n - 1] == ' ')
		n--;
	while (n > 0 && t->edited[n - 1] != ' ')
		n--;
	return t->length - n;
}

/* A cursor key is ESC, '[' or 'O', and a letter. Up brings the last line back; the others are swallowed. */
static bool console_sequence(struct terminal *t, uint8_t key)
{
	if (key == ESC) {
		t->skip = 1;
		return true;
	}
	if (t->skip == 1) {
		t->skip = key == '[' || key == 'O' ? 2 : 0;
		return t->skip == 2;
	}
	if (t->skip == 2) {
		if (key >= 0x40 && key < 0x7f) {
			t->skip = 0;
			if (key == 'A')
				replace(t, t->before);
			else if (key == 'B')
				replace(t, "");
		}
		return true;
	}
	return false;
}

static void console_key(struct terminal *t, uint8_t key)
{
	if (console_sequence(t, key))
		return;
	switch (key) {
	case '\r':
	case '\n':
		console_enter(t);
		break;
	case '\b':
	case DEL:
		rub_out(t, 1);
		break;
	case CTRL('U'):
	case CTRL('C'):
		rub_out(t, t->length);
		break;
	case CTRL('W'):
		rub_out(t, last_word(t));
		break;
	case CTRL('P'):
		replace(t, t->before);
		break;
	case CTRL('D'):
		if (t->length == 0)
			console_open(t, false);
		break;
	default:
		if (key >= 0x20 && t->length < sizeof(t->edited) - 1) {
			t->edited[t->length++] = (char)key;
			(void)hv_write_full(STDERR_FILENO, &key, 1);
		}
	}
}

/* --- escape keys --- */

/* The key after Ctrl-A. True when it is for the guest, as Ctrl-A itself. */
static bool command_key(struct terminal *t, uint8_t key)
{
	switch (key) {
	case CTRL('A'):
		return true;
	case 'x':
	case CTRL('X'):
		say("\n[ended by Ctrl-A x]\n");
		hv_machine_end(t->machine, HV_END_QUIT);
		break;
	case 'c':
	case CTRL('C'):
		console_open(t, !t->console);
		break;
	default:
		say(help);
		if (t->console)
			say(prompt);
	}
	return false;
}

size_t terminal_filter(void *terminal, const uint8_t *in, size_t count, uint8_t *out)
{
	struct terminal *t = terminal;
	size_t n = 0;

	for (size_t i = 0; i < count; i++) {
		bool literal = false;

		if (t->escape) {
			t->escape = false;
			literal = command_key(t, in[i]);
			if (!literal)
				continue;
		} else if (in[i] == CTRL('A')) {
			t->escape = true;
			continue;
		}
		if (!t->console)
			out[n++] = in[i];
		else if (!literal)
			console_key(t, in[i]);
	}
	return n;
}

/* --- the console's answers, on the main thread --- */

void terminal_answer(struct terminal *t)
{
	struct hv_error err = {0};
	char *answer = NULL;
	eventfd_t ignored;

	(void)!eventfd_read(t->line_fd, &ignored);
	/* ready is ours until busy is cleared. */
	if (hv_monitor_run(t->machine, t->ready, &answer, &err))
		fprintf(stderr, "%s\n", err.text);
	else if (answer && *answer)
		fprintf(stderr, "%s%s", answer, answer[strlen(answer) - 1] == '\n' ? "" : "\n");
	free(answer);
	pthread_mutex_lock(&t->lock);
	t->busy = false;
	pthread_mutex_unlock(&t->lock);
	say(prompt);
}
