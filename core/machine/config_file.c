/*
 * A configuration file, read and written. It may come from anywhere: every value is checked by
 * hv_config_set's parsers, and every sentence names file and line. This room calls base and config.c.
 */
#include <ctype.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/io.h"
#include "machine/config.h"
#include "machine/config_impl.h"

#define CONFIG_FILE_MAX (1u << 20) /* bytes of a configuration file */
#define VALUE_MAX       8192u      /* bytes of one value in it */

/*
 * A value as it stands in a file, up to a comment or the end of the line. In "double quotes" a backslash
 * makes the next character plain, and \n and \t are what they are in C; 'single quotes' keep everything.
 * Quoted or not, nothing but a comment may follow.
 */
static int unquote(const char *text, char *out, size_t size, const char **why)
{
	char quote = *text == '"' || *text == '\'' ? *text : '\0';
	const char *p = quote ? text + 1 : text;
	size_t n = 0;

	for (; *p && n < size - 1; p++) {
		if (quote ? *p == quote : *p == '#' && (p == text || isblank((unsigned char)p[-1])))
			break;
		if (quote == '"' && *p == '\\' && p[1]) {
			p++;
			out[n++] = *p == 'n' ? '\n' : *p == 't' ? '\t' : *p;
		} else {
			out[n++] = *p;
		}
	}
	*why = NULL;
	if (n == size - 1) {
		*why = "the value is too long";
	} else if (quote && *p != quote) {
		*why = "the closing quote is missing";
	} else if (quote) {
		p += 1 + strspn(p + 1, " \t");
		if (*p && *p != '#')
			*why = "something follows the closing quote";
	} else {
		while (n > 0 && isblank((unsigned char)out[n - 1]))
			n--;
	}
	out[n] = '\0';
	return *why ? -EINVAL : 0;
}

/* One line: "key", "key value", "key = value", a comment or nothing. line is cut up in place. */
static int load_line(struct hv_config *c, char *line, const char *folder, struct hv_error *err)
{
	char *key = line + strspn(line, " \t"), *rest;
	char value[VALUE_MAX];
	const char *why;
	size_t length;

	if (*key == '\0' || *key == '#')
		return 0;
	length = strcspn(key, " \t=");
	rest = key + length + strspn(key + length, " \t");
	if (*rest == '=')
		rest += 1 + strspn(rest + 1, " \t");
	key[length] = '\0';
	if (unquote(rest, value, sizeof(value), &why))
		return hv_fail_usage(err, "%.64s: %s", key, why);
	return hv_config_set_from(c, key, *rest && *rest != '#' ? value : NULL, folder, err);
}

static int load_text(struct hv_config *c, const char *path, char *text, size_t size, struct hv_error *err)
{
	const char *slash = strrchr(path, '/');
	char folder[PATH_MAX];
	unsigned number = 1;

	if (slash && (size_t)(slash - path) + 2 > sizeof(folder))
		return hv_fail_usage(err, "%.64s...: the path is too long", path);
	snprintf(folder, sizeof(folder), "%.*s", slash ? (int)(slash - path) + 1 : 0, path);
	for (char *line = text, *end = text + size; line < end; number++) {
		char *stop = memchr(line, '\n', (size_t)(end - line));
		char *next = stop ? stop + 1 : end;
		int rc;

		stop = stop ? stop : end;
		if (stop > line && stop[-1] == '\r')
			stop--;
		*stop = '\0';
		if (strlen(line) != (size_t)(stop - line))
			rc = hv_fail_usage(err, "a zero byte: this is no text file");
		else
			rc = load_line(c, line, folder, err);
		if (rc) {
			hv_error_prefix(err, "%s:%u", path, number);
			return rc;
		}
		line = next;
	}
	return 0;
}

int hv_config_load(struct hv_config *c, const char *path, struct hv_error *err)
{
	void *data;
	size_t size;
	char *text;
	int rc = hv_load_file(path, CONFIG_FILE_MAX, &data, &size, err);

	if (rc)
		return rc;
	text = malloc(size + 1); /* one more: the last line may lack its newline */
	if (text) {
		memcpy(text, data, size);
		text[size] = '\0';
		rc = load_text(c, path, text, size, err);
	} else {
		rc = hv_fail(err, ENOMEM, "%s: no memory to read it", path);
	}
	free(text);
	hv_unload(data, size);
	return rc;
}

static void write_string(FILE *out, const char *key, const char *prefix, const char *value)
{
	fprintf(out, "%s \"%s", key, prefix);
	for (const char *p = value; *p; p++) {
		if (*p == '"' || *p == '\\')
			fprintf(out, "\\%c", *p);
		else if (*p == '\n')
			fputs("\\n", out);
		else
			putc(*p, out);
	}
	fputs("\"\n", out);
}

/* A path goes out absolute: the file may be read from another folder. */
static void write_path(FILE *out, const char *key, const char *prefix, const char *path)
{
	char folder[PATH_MAX], whole[2 * PATH_MAX];

	if (*path == '/' || !getcwd(folder, sizeof(folder)))
		snprintf(whole, sizeof(whole), "%s%s", prefix, path);
	else
		snprintf(whole, sizeof(whole), "%s%s/%s", prefix, folder, path);
	write_string(out, key, "", whole);
}

/* suffix: what follows where the line leads, "" or ",name=...". */
static void write_line(FILE *out, const char *key, const struct hv_chardev_config *line, const char *suffix)
{
	static const char *const plain[] = {
		[HV_CHARDEV_NONE] = "none",
		[HV_CHARDEV_STDIO] = "stdio",
		[HV_CHARDEV_PTY] = "pty",
	};

	char path[HV_CHARDEV_PATH_MAX + 128];

	snprintf(path, sizeof(path), "%s%s", line->path, suffix);
	if (line->kind == HV_CHARDEV_FILE)
		write_path(out, key, "file:", path);
	else if (line->kind == HV_CHARDEV_UNIX)
		write_path(out, key, "unix:", path);
	else
		fprintf(out, "%s %s%s\n", key, plain[line->kind], suffix);
}

void hv_config_write(const struct hv_config *c, FILE *out)
{
	if (c->image)
		write_path(out, "image", "", c->image);
	if (c->name[0])
		fprintf(out, "name %s\n", c->name);
	fprintf(out, "mem %llu\ncpus %u\nboot %s\nload-addr 0x%llx\nirqchip %s\n", (unsigned long long)c->mem,
		c->cpus, hv_boot_kind_name(c->boot), (unsigned long long)c->load_addr,
		hv_irqchip_word(c->irqchip));
	for (unsigned i = 0; i < c->initrd_count; i++)
		write_path(out, "initrd", "", c->initrd[i]);
	if (c->append)
		write_string(out, "append", "", c->append);
	for (unsigned i = 0; i < c->disk_count; i++)
		write_path(out, "disk", "", c->disks[i]);
	fprintf(out, "rng %s\nacpi %s\n", c->rng ? "yes" : "no", c->no_acpi ? "off" : "on");
	for (unsigned i = 0; i < c->net_count; i++)
		write_string(out, "net", "", c->nets[i]);
	fprintf(out, "balloon %s\n", c->balloon ? "yes" : "no");
	if (c->vsock)
		write_path(out, "vsock", "", c->vsock);
	write_line(out, "serial", &c->serial, "");
	if (c->has_console)
		write_line(out, "console", &c->console, "");
	if (c->has_agent) {
		char name[sizeof(c->agent_name) + 8];

		snprintf(name, sizeof(name), ",name=%s", c->agent_name);
		write_line(out, "agent", &c->agent, name);
	}
	if (c->cpu_text)
		write_string(out, "cpu", "", c->cpu_text);
	if (c->gdb && !strncmp(c->gdb, "unix:", 5))
		write_path(out, "gdb", "unix:", c->gdb + 5);
	else if (c->gdb)
		write_string(out, "gdb", "", c->gdb);
	if (c->trace)
		write_path(out, "trace", "", c->trace);
	if (c->timeout_ns)
		fprintf(out, "timeout %llu.%09llu\n", (unsigned long long)(c->timeout_ns / 1000000000),
			(unsigned long long)(c->timeout_ns % 1000000000));
	fprintf(out, "paused %s\nstats %s\nverbose %s\nsandbox %s\n", c->paused ? "yes" : "no",
		c->stats ? "yes" : "no", c->verbose ? "yes" : "no", c->sandbox ? "on" : "off");
}
