/*
 * The guest's end of linux_vsock.py: a static program that does with AF_VSOCK what its other end on the host
 * asks for. Nothing of hvkit's is in it; rules: vsock(7).
 *
 *   port 5000   commands, a line each, answered by a line:
 *               push PORT BYTES   sends them to the host's port, ends its side, answers with what came back
 *               flood PORT        sends until it can't, answers with the error
 *               quit
 *   port 5001   takes bytes to their end, answers with how many there were and their Adler-32
 *   port 5002   a line with a number: sends so many bytes
 *   port 5003   sends back what comes, to its end
 */
#include <errno.h>
#include <linux/vm_sockets.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PERIOD  65521u /* bytes after which the pattern starts anew */
#define BACKLOG 64

static uint8_t pattern[PERIOD + 65536];

static void make_pattern(void)
{
	uint32_t x = 1;

	for (uint32_t i = 0; i < PERIOD; i++) {
		x = x * 1664525u + 1013904223u;
		pattern[i] = (uint8_t)(x >> 24);
	}
	for (uint32_t i = PERIOD; i < sizeof(pattern); i++)
		pattern[i] = pattern[i - PERIOD];
}

static int send_all(int fd, const void *data, size_t size)
{
	for (size_t n = 0; n < size;) {
		ssize_t rc = send(fd, (const char *)data + n, size - n, 0);

		if (rc < 0)
			return -errno;
		n += (size_t)rc;
	}
	return 0;
}

static int send_pattern(int fd, uint64_t bytes)
{
	int rc = 0;

	for (uint64_t n = 0; n < bytes && rc == 0;) {
		size_t now = bytes - n < 50000 ? (size_t)(bytes - n) : 50000;

		rc = send_all(fd, pattern + n % PERIOD, now);
		n += now;
	}
	return rc;
}

/* Without its newline; what doesn't fit is lost. 0 at the end. */
static int read_line(int fd, char *line, size_t size)
{
	size_t n = 0;
	char c;

	while (recv(fd, &c, 1, 0) == 1 && c != '\n')
		if (n + 1 < size)
			line[n++] = c;
	line[n] = '\0';
	return n > 0;
}

static void take(int fd)
{
	static uint8_t bytes[65536];
	uint64_t total = 0;
	uint32_t a = 1, b = 0;
	char line[64];
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0) {
		for (ssize_t i = 0; i < n; i++) {
			a = (a + bytes[i]) % 65521;
			b = (b + a) % 65521;
		}
		total += (uint64_t)n;
	}
	snprintf(line, sizeof(line), "%llu %u\n", (unsigned long long)total, b << 16 | a);
	send_all(fd, line, strlen(line));
}

static void give(int fd)
{
	char line[32];

	if (read_line(fd, line, sizeof(line)))
		send_pattern(fd, strtoull(line, NULL, 10));
}

static void echo(int fd)
{
	static uint8_t bytes[65536];
	ssize_t n;

	while ((n = recv(fd, bytes, sizeof(bytes), 0)) > 0 && send_all(fd, bytes, (size_t)n) == 0)
		;
}

/* One child for each port, and one of its own for each connection. */
static void serve(unsigned port, void (*service)(int fd))
{
	struct sockaddr_vm sa = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = port};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0), fd;

	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 ||
	    listen(listener, BACKLOG) < 0) {
		printf("PEER: port %u: %s\n", port, strerror(errno));
		exit(1);
	}
	if (fork() != 0) {
		close(listener);
		return;
	}
	while ((fd = accept(listener, NULL, NULL)) >= 0) {
		if (fork() == 0) {
			service(fd);
			_exit(0);
		}
		close(fd);
	}
	_exit(1);
}

static int dial(unsigned port)
{
	struct sockaddr_vm sa = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_HOST, .svm_port = port};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0) {
		int error = errno;

		close(fd);
		return -error;
	}
	return fd;
}

static int carry_out(const char *command, char *answer, size_t size)
{
	unsigned port = 0;
	unsigned long long bytes = UINT64_MAX;
	int fd, rc;

	if (sscanf(command, "push %u %llu", &port, &bytes) != 2 && sscanf(command, "flood %u", &port) != 1)
		return 0; /* quit */
	fd = dial(port);
	rc = fd < 0 ? fd : send_pattern(fd, bytes);
	if (rc < 0) {
		snprintf(answer, size, "error %s\n", strerrorname_np(-rc));
	} else {
		shutdown(fd, SHUT_WR);
		read_line(fd, answer, size - 1);
		strcat(answer, "\n");
	}
	if (fd >= 0)
		close(fd);
	return 1;
}

int main(void)
{
	struct sockaddr_vm sa = {.svm_family = AF_VSOCK, .svm_cid = VMADDR_CID_ANY, .svm_port = 5000};
	int listener = socket(AF_VSOCK, SOCK_STREAM, 0), fd;
	char line[128], answer[128];

	signal(SIGPIPE, SIG_IGN);
	signal(SIGCHLD, SIG_IGN);
	make_pattern();
	serve(5001, take);
	serve(5002, give);
	serve(5003, echo);
	if (listener < 0 || bind(listener, (struct sockaddr *)&sa, sizeof(sa)) < 0 || listen(listener, 1) < 0)
		return 1;
	fd = accept(listener, NULL, NULL);
	while (fd >= 0 && read_line(fd, line, sizeof(line)) && carry_out(line, answer, sizeof(answer)))
		send_all(fd, answer, strlen(answer));
	printf("PEER: done\n");
	return 0;
}
