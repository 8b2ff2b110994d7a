/*
 * The host's side of a serial line: the five kinds, opened, described and closed. chardev.c moves the bytes.
 * This room calls base only. Rules: pty(7), unix(7), termios(3).
 */
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include "device/chardev_impl.h"

int hv_chardev_parse(struct hv_chardev_config *config, const char *line, const char *text,
		     struct hv_error *err)
{
	static const struct {
		const char *word;
		enum hv_chardev_kind kind;
		bool path;
	} kinds[] = {
		{"stdio", HV_CHARDEV_STDIO, false}, {"none", HV_CHARDEV_NONE, false},
		{"pty", HV_CHARDEV_PTY, false},     {"file:", HV_CHARDEV_FILE, true},
		{"unix:", HV_CHARDEV_UNIX, true},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(kinds); i++) {
		size_t n = strlen(kinds[i].word);

		if (kinds[i].path ? strncmp(text, kinds[i].word, n) != 0 : strcmp(text, kinds[i].word) != 0)
			continue;
		if (kinds[i].path && text[n] == '\0')
			return hv_fail_usage(err, "%s: a path is missing after '%s'", line, text);
		if (strlen(text + n) >= sizeof(config->path))
			return hv_fail_usage(err, "%s: the path is longer than %zu characters", line,
					     sizeof(config->path) - 1);
		config->kind = kinds[i].kind;
		config->line = line;
		snprintf(config->path, sizeof(config->path), "%s", text + n);
		return 0;
	}
	return hv_fail_usage(err, "%s: '%.64s' is none of stdio, none, pty, file:PATH, unix:PATH", line,
			     text);
}

/* --- opening --- */

const char *hv_chardev_line(const struct hv_chardev *c)
{
	return c->config.line ? c->config.line : "serial";
}

int hv_chardev_reopen(int fd, int flags)
{
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return open(path, flags | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
}

/*
 * Descriptors 0 and 1 are shared with the shell and whoever else has them, so O_NONBLOCK may not be set on
 * them. A terminal or a pipe is opened afresh by its /proc name; where that fails (a terminal of another
 * user, after su), poll comes before each small write.
 */
static int open_stdio(struct hv_chardev *c)
{
	struct stat st;
	bool stream;

	if (fstat(STDIN_FILENO, &st) == 0) {
		stream = S_ISFIFO(st.st_mode) || isatty(STDIN_FILENO);
		c->in_fd = stream ? hv_chardev_reopen(STDIN_FILENO, O_RDONLY) : -1;
		c->in_fd = c->in_fd < 0 ? STDIN_FILENO : c->in_fd;
	}
	if (fstat(STDOUT_FILENO, &st) < 0) {
		c->broken = true;
		return 0;
	}
	c->out_fd = STDOUT_FILENO;
	if (S_ISSOCK(st.st_mode)) {
		c->push = CHARDEV_PUSH_SEND;
	} else if (S_ISFIFO(st.st_mode) || S_ISCHR(st.st_mode)) {
		int fd = hv_chardev_reopen(STDOUT_FILENO, O_WRONLY);

		c->out_fd = fd < 0 ? STDOUT_FILENO : fd;
		c->push = fd < 0 ? CHARDEV_PUSH_POLL : CHARDEV_PUSH_WRITE;
		c->piece = S_ISFIFO(st.st_mode) ? 4096
						: 1; /* PIPE_BUF; a terminal promises no more than a byte */
	}
	return 0;
}

static int open_pty(struct hv_chardev *c, struct hv_error *err)
{
	struct termios raw;

	c->in_fd = c->out_fd = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (c->in_fd < 0 || grantpt(c->in_fd) < 0 || unlockpt(c->in_fd) < 0 ||
	    ptsname_r(c->in_fd, c->pty, sizeof(c->pty)) != 0)
		return hv_fail_errno(err, "%s: cannot make a pseudo-terminal; is /dev/pts mounted",
				     hv_chardev_line(c));
	c->slave_fd = open(c->pty, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (c->slave_fd < 0)
		return hv_fail_errno(err, "%s: cannot open %s", hv_chardev_line(c), c->pty);
	/* Raw from the start: an echo would come back to the guest as input. */
	if (tcgetattr(c->slave_fd, &raw) == 0) {
		cfmakeraw(&raw);
		tcsetattr(c->slave_fd, TCSANOW, &raw);
	}
	return 0;
}

static int open_file(struct hv_chardev *c, struct hv_error *err)
{
	/* O_NONBLOCK: a FIFO that nobody reads is an error now, not a wait. */
	c->out_fd =
		open(c->config.path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0644);
	if (c->out_fd < 0 && errno == ENXIO)
		return hv_fail(err, ENXIO, "%s: nobody reads the FIFO %s; start the reader first",
			       hv_chardev_line(c), c->config.path);
	if (c->out_fd < 0)
		return hv_fail_errno(err, "%s: cannot write to %s", hv_chardev_line(c), c->config.path);
	return 0;
}

static int open_unix(struct hv_chardev *c, struct hv_error *err)
{
	c->push = CHARDEV_PUSH_SEND;
	return hv_listener_open(&c->listener, hv_chardev_line(c), c->config.path, 4, err);
}

static int open_kind(struct hv_chardev *c, struct hv_error *err)
{
	switch (c->config.kind) {
	case HV_CHARDEV_NONE:
		return 0;
	case HV_CHARDEV_STDIO:
		return open_stdio(c);
	case HV_CHARDEV_PTY:
		return open_pty(c, err);
	case HV_CHARDEV_FILE:
		return open_file(c, err);
	case HV_CHARDEV_UNIX:
		return open_unix(c, err);
	}
	return hv_fail_usage(err, "%s: there is no kind %d", hv_chardev_line(c), (int)c->config.kind);
}

int hv_chardev_open(const struct hv_chardev_config *config, const struct hv_log *log, struct hv_chardev **out,
		    struct hv_error *err)
{
	struct hv_chardev *c = calloc(1, sizeof(*c));
	pthread_condattr_t attr;
	int rc;

	if (!c)
		return hv_fail(err, ENOMEM, "%s: no memory", config->line ? config->line : "serial");
	c->config = *config;
	c->log = log;
	c->in_fd = c->out_fd = c->listener.fd = c->listener.folder = c->slave_fd = -1;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->inject_lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&c->room, &attr);
	pthread_condattr_destroy(&attr);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0)
		rc = hv_fail_errno(err, "%s: cannot make an eventfd", hv_chardev_line(c));
	else
		rc = open_kind(c, err);
	if (rc) {
		hv_chardev_close(c);
		return rc;
	}
	*out = c;
	return 0;
}

/* --- describing and closing --- */

void hv_chardev_describe(struct hv_chardev *c, char *buf, size_t size)
{
	bool client;

	switch (c->config.kind) {
	case HV_CHARDEV_NONE:
		snprintf(buf, size, "none");
		break;
	case HV_CHARDEV_STDIO:
		snprintf(buf, size, "stdio");
		break;
	case HV_CHARDEV_PTY:
		snprintf(buf, size, "pty %s", c->pty);
		break;
	case HV_CHARDEV_FILE:
		snprintf(buf, size, "file %s", c->config.path);
		break;
	case HV_CHARDEV_UNIX:
		pthread_mutex_lock(&c->lock);
		client = c->out_fd >= 0 && !c->gone;
		pthread_mutex_unlock(&c->lock);
		snprintf(buf, size, "unix %s (%s)", c->config.path, client ? "1 client" : "no client");
		break;
	}
}

/*
 * Closing a pty takes what its reader has not fetched yet with it. So as long as somebody fetches, we wait, a
 * second at most; when the count stands still for 50 ms, nobody does.
 */
static void let_reader_finish(const struct hv_chardev *c)
{
	int before = -1, now = 0;

	for (int tick = 0; tick < 20; tick++) {
		if (ioctl(c->slave_fd, FIONREAD, &now) < 0 || now == 0 || now == before)
			return;
		before = now;
		poll(NULL, 0, 50);
	}
}

static void close_one(int fd)
{
	if (fd > STDERR_FILENO)
		close(fd);
}

void hv_chardev_close(struct hv_chardev *c)
{
	if (!c)
		return;
	hv_chardev_finish(c);
	if (c->slave_fd >= 0)
		let_reader_finish(c);
	hv_listener_close(&c->listener);
	close_one(c->slave_fd);
	if (c->in_fd != c->out_fd)
		close_one(c->in_fd);
	close_one(c->out_fd);
	close_one(c->wake_fd);
	pthread_cond_destroy(&c->room);
	pthread_mutex_destroy(&c->lock);
	pthread_mutex_destroy(&c->inject_lock);
	free(c->out);
	free(c);
}
