/*
 * The table of commands that a person types: see monitor.h. It calls qmp_dispatch for those that run here.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/io.h"
#include "base/parse.h"
#include "control/inspect.h"
#include "control/monitor.h"
#include "control/qmp_dispatch.h"

static int usage(const struct hv_monitor_request *r, struct hv_error *err)
{
	const struct hv_monitor_command *c = r->command;

	return hv_fail_usage(err, "usage: %s%s%s", c->name, c->args[0] && c->args[0] != '/' ? " " : "",
			     c->args);
}

/* The arguments object with a string and the optional CPU number; 0 or usage. */
static int add_cpu(struct hv_monitor_request *r, const char *word, struct hv_error *err)
{
	uint64_t cpu;
	int rc = hv_parse_u64("CPU", word, HV_CPUS_MAX - 1, &cpu, err);

	return rc ? rc : json_object_set_new(r->arguments, "cpu-index", json_integer((json_int_t)cpu));
}

static int ask(struct hv_monitor_request *r, const char *execute, json_t *arguments, struct hv_error *err)
{
	r->execute = execute;
	r->arguments = arguments;
	return arguments ? 0 : hv_fail(err, ENOMEM, "not enough memory, or a word that is not UTF-8");
}

/* --- commands without arguments --- */

static int parse_plain(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	static const char *const map[][2] = {
		{"pause", "stop"}, {"resume", "cont"},        {"stop", "quit"},
		{"quit", "quit"},  {"reset", "system_reset"},
	};

	if (argc != 1)
		return usage(r, err);
	for (size_t i = 0; i < HV_ARRAY_SIZE(map); i++) {
		if (strcmp(map[i][0], argv[0]) == 0)
			return ask(r, map[i][1], json_object(), err);
	}
	return usage(r, err);
}

static int parse_status(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	return argc != 1 ? usage(r, err) : ask(r, "x-hv-info", json_pack("{s:s}", "what", "status"), err);
}

static int parse_help(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	if (argc > 2)
		return usage(r, err);
	if (argc == 2 && !hv_monitor_find(argv[1]))
		return hv_fail_usage(err, "help: there is no command '%.60s'; `help` lists them", argv[1]);
	r->text = hv_monitor_help(argc == 2 ? argv[1] : NULL);
	return r->text ? 0 : hv_fail(err, ENOMEM, "not enough memory");
}

/* --- looking --- */

static const char *const info_words[] = {"regs",  "sregs", "memory", "devices", "irqs",
					 "exits", "cpus",  "status", "balloon", NULL};

static int parse_info(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	const char *const *w = info_words;
	int rc;

	if (argc < 2 || argc > 3)
		return usage(r, err);
	while (*w && strcmp(*w, argv[1]) != 0)
		w++;
	if (!*w)
		return hv_fail_usage(err, "info: '%.60s' is nothing to know; it has %s", argv[1],
				     r->command->args);
	if (argc == 3 && w - info_words > 1)
		return hv_fail_usage(err, "info %s takes no argument", *w);
	rc = ask(r, "x-hv-info", json_pack("{s:s}", "what", *w), err);
	return rc || argc == 2 ? rc : add_cpu(r, argv[2], err);
}

/* "/12xb" as in QEMU's monitor: a count, then letters in any order: a format (x d u o c i s) and a size (b h
 * w g). */
static int parse_format(const char *fmt, struct hv_monitor_request *r, struct hv_error *err)
{
	static const char sizes[] = "bhwg";
	uint64_t count = 1;
	char format[2] = "x";
	int size = 4;

	if (*fmt >= '0' && *fmt <= '9') {
		for (count = 0; *fmt >= '0' && *fmt <= '9'; fmt++)
			count = count > HV_EXAMINE_COUNT_MAX ? count : count * 10 + (uint64_t)(*fmt - '0');
		if (count < 1 || count > HV_EXAMINE_COUNT_MAX)
			return hv_fail_usage(err, "%s: the count goes from 1 to %u", r->command->name,
					     HV_EXAMINE_COUNT_MAX);
	}
	for (; *fmt; fmt++) {
		const char *at = strchr(sizes, *fmt);

		if (at)
			size = 1 << (at - sizes);
		else if (strchr("xduocis", *fmt))
			format[0] = *fmt;
		else
			return hv_fail_usage(
				err, "%s: '%c' is neither a format (x d u o c i s) nor a size (b h w g)",
				r->command->name, *fmt);
		if (*fmt == 'c')
			size = 1;
	}
	json_object_set_new(r->arguments, "count", json_integer((json_int_t)count));
	json_object_set_new(r->arguments, "format", json_string(format));
	return json_object_set_new(r->arguments, "size", json_integer(size));
}

static int parse_examine(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	const char *slash = strchr(argv[0], '/');
	int rc;

	if (argc < 2 || argc > 3)
		return usage(r, err);
	rc = ask(r, "x-hv-examine",
		 json_pack("{s:s, s:b}", "addr", argv[1], "physical", strcmp(r->command->name, "xp") == 0),
		 err);
	if (!rc)
		rc = parse_format(slash ? slash + 1 : "", r, err);
	return rc || argc == 2 ? rc : add_cpu(r, argv[2], err);
}

static int parse_translate(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	int rc;

	if (argc < 2 || argc > 3)
		return usage(r, err);
	rc = ask(r, "x-hv-translate", json_pack("{s:s}", "addr", argv[1]), err);
	return rc || argc == 2 ? rc : add_cpu(r, argv[2], err);
}

/* --- files --- */

static int set_file(struct hv_monitor_request *r, const char *path, struct hv_error *err)
{
	r->file = strdup(path);
	return r->file ? 0 : hv_fail(err, ENOMEM, "not enough memory");
}

static int parse_dump(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	bool paging = argc == 3 && strcmp(argv[1], "-p") == 0;
	int rc;

	if (argc != 2 + paging || argv[argc - 1][0] == '\0')
		return usage(r, err);
	rc = ask(r, "dump-guest-memory",
		 json_pack("{s:b, s:s}", "paging", paging, "protocol", "fd:" HV_MONITOR_FILE_FD), err);
	return rc ? rc : set_file(r, argv[argc - 1], err);
}

static int parse_resize(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	uint64_t size;
	int rc;

	if (argc != 3)
		return usage(r, err);
	rc = hv_parse_size("block_resize", argv[2], INT64_MAX, &size, err);
	return rc ? rc
		  : ask(r, "block_resize",
			json_pack("{s:s, s:I}", "device", argv[1], "size", (json_int_t)size), err);
}

static const char *const trace_words[] = {"on", "off", "save", "status", NULL};

static int parse_trace(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	bool save = argc == 3 && strcmp(argv[1], "save") == 0;
	int rc;

	if (save) {
		rc = ask(r, "x-hv-trace",
			 json_pack("{s:s, s:s}", "action", "save", "protocol", "fd:" HV_MONITOR_FILE_FD),
			 err);
		return rc ? rc : set_file(r, argv[2], err);
	}
	if (argc == 2) {
		for (const char *const *w = trace_words; *w; w++) {
			if (strcmp(*w, argv[1]) == 0 && strcmp(*w, "save") != 0)
				return ask(r, "x-hv-trace", json_pack("{s:s}", "action", *w), err);
		}
	}
	return usage(r, err);
}

/* --- into the guest --- */

/* A bare number is in MiB, as in QEMU's monitor. */
static int parse_balloon(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	const uint64_t max = 1ull << 46;
	uint64_t bytes;
	int rc;

	if (argc != 2)
		return usage(r, err);
	if (argv[1][strspn(argv[1], "0123456789")] == '\0') {
		rc = hv_parse_u64("balloon", argv[1], max >> 20, &bytes, err);
		bytes = rc ? 0 : bytes << 20;
	} else {
		rc = hv_parse_size("balloon", argv[1], max, &bytes, err);
	}
	if (!rc && bytes < HV_PAGE_SIZE)
		rc = hv_fail_usage(err, "balloon: a guest needs a page at least");
	return rc ? rc : ask(r, "balloon", json_pack("{s:I}", "value", (json_int_t)bytes), err);
}

static const char *const inject_words[] = {"nmi", "irq", NULL};

static int parse_inject(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	uint64_t line;
	int rc;

	if (argc == 2 && strcmp(argv[1], "nmi") == 0)
		return ask(r, "inject-nmi", json_object(), err);
	if (argc != 3 || strcmp(argv[1], "irq") != 0)
		return usage(r, err);
	rc = hv_parse_u64("inject irq", argv[2], HV_IOAPIC_PINS - 1, &line, err);
	return rc ? rc : ask(r, "x-hv-inject-irq", json_pack("{s:I}", "irq", (json_int_t)line), err);
}

static int parse_set_link(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	bool up;

	if (argc != 3)
		return usage(r, err);
	up = strcmp(argv[2], "on") == 0 || strcmp(argv[2], "up") == 0;
	if (!up && strcmp(argv[2], "off") != 0 && strcmp(argv[2], "down") != 0)
		return usage(r, err);
	return ask(r, "set_link", json_pack("{s:s, s:b}", "name", argv[1], "up", (int)up), err);
}

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* \n \r \t \e \\ \xNN in place; the result is never longer. */
static int unescape(char *s, struct hv_error *err)
{
	static const char from[] = "nrte\\", to[] = "\n\r\t\033\\";
	char *out = s;

	for (; *s; s++) {
		const char *at = s[0] == '\\' && s[1] ? strchr(from, s[1]) : NULL;

		if (at) {
			*out++ = to[at - from];
			s++;
		} else if (s[0] == '\\' && s[1] == 'x' && hex_digit(s[2]) >= 0 && hex_digit(s[3]) >= 0) {
			int v = hex_digit(s[2]) << 4 | hex_digit(s[3]);

			if (v == 0 || v > 0x7f)
				return hv_fail_usage(err, "send: \\x%.2s: \\x goes from 01 to 7f", s + 2);
			*out++ = (char)v;
			s += 3;
		} else {
			*out++ = *s;
		}
	}
	*out = '\0';
	return 0;
}

/* The words joined by spaces, then Enter, as if they had been typed; `send -n` leaves Enter out. */
static int parse_send(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	bool enter = !(argc > 1 && strcmp(argv[1], "-n") == 0);
	size_t length = 2, used = 0;
	char *text;
	int rc;

	for (int i = 1; i < argc; i++)
		length += strlen(argv[i]) + 1;
	text = calloc(1, length);
	if (!text)
		return hv_fail(err, ENOMEM, "not enough memory");
	for (int i = enter ? 1 : 2; i < argc; i++)
		used += (size_t)snprintf(text + used, length - used, "%s%s", used ? " " : "", argv[i]);
	rc = unescape(text, err);
	used = strlen(text);
	if (!rc && enter && (used == 0 || (text[used - 1] != '\n' && text[used - 1] != '\r')))
		strcpy(text + used, "\r");
	if (!rc)
		rc = ask(r, "x-hv-send", json_pack("{s:s}", "data", text), err);
	free(text);
	return rc;
}

/* --- the table --- */

#define EXAMINE_DETAIL                                                                                       \
	"FMT is a count, a format (x hexadecimal, d signed, u unsigned, o octal, c character, i "            \
	"instruction,\n"                                                                                     \
	"s string) and a size (b 1, h 2, w 4, g 8 bytes), as in QEMU's monitor; without it: one word in "    \
	"hexadecimal.\n"                                                                                     \
	"ADDR is a number, or a sum with registers: 0x1000, $rip, $rsp+8. CPU is 0 unless given.\n"

const struct hv_monitor_command hv_monitor_commands[] = {
	{"status", "", "what the VM is and does", NULL, NULL, false, false, parse_status, hv_text_status},
	{"pause", "", "stop all vCPUs where they are", NULL, NULL, false, false, parse_plain, hv_text_done},
	{"resume", "", "let a paused VM go on", NULL, NULL, false, false, parse_plain, hv_text_done},
	{"stop", "", "end the VM",
	 "The VM ends at once, as if its power were cut, and hvrun exits with status 0. `pause` only holds "
	 "it.\n",
	 NULL, false, false, parse_plain, hv_text_done},
	{"reset", "", "restart the VM: memory cleared, devices reset, the image loaded again", NULL, NULL,
	 false, false, parse_plain, hv_text_done},
	{"info", "regs|sregs|memory|devices|irqs|exits|cpus|status|balloon [CPU]", "look into the VM",
	 "regs     general registers of a vCPU (the first unless CPU is given)\n"
	 "sregs    its segments, control registers and descriptor tables\n"
	 "memory   memory slots, and how much of each is in use\n"
	 "devices  who answers at which port or address, and in what state\n"
	 "irqs     PIC, IOAPIC and local APICs\n"
	 "exits    exits of each vCPU by reason, and the last ones\n"
	 "cpus     thread, mode, activity and instruction pointer of each vCPU\n"
	 "status   the same as `status`\n"
	 "balloon  how much memory the guest has and shall have, and what it says of it\n",
	 info_words, true, false, parse_info, hv_text_info},
	{"x", "/FMT ADDR [CPU]", "memory at a virtual address", EXAMINE_DETAIL, NULL, true, false,
	 parse_examine, hv_text_examine},
	{"xp", "/FMT ADDR", "memory at a physical address", EXAMINE_DETAIL, NULL, true, false, parse_examine,
	 hv_text_examine},
	{"translate", "ADDR [CPU]", "from a virtual to a physical address, level by level", NULL, NULL, true,
	 false, parse_translate, hv_text_translate},
	{"dump", "[-p] FILE", "memory and registers into an ELF core file that gdb opens",
	 "-p: addresses are virtual, by the page tables of the first vCPU; otherwise physical. The VM is "
	 "paused "
	 "for\n"
	 "the time. FILE appears under its name when it is complete.\n",
	 NULL, false, true, parse_dump, hv_text_done},
	{"trace", "on|off|status|save FILE", "record every exit",
	 "`save` writes what is recorded in the Chrome trace event format: open FILE in "
	 "https://ui.perfetto.dev "
	 "or\n"
	 "chrome://tracing. Each vCPU keeps its newest 65536 exits.\n",
	 trace_words, false, true, parse_trace, hv_text_trace},
	{"balloon", "SIZE", "how much memory the guest shall have left",
	 "SIZE is in MiB, or has a suffix K, M or G. The guest's driver gives up what is more, or takes back "
	 "what "
	 "is less,\n"
	 "in its own time: `info balloon` tells how far it is. The VM needs --balloon.\n",
	 NULL, false, false, parse_balloon, hv_text_done},
	{"block_resize", "DEVICE SIZE", "another size for a disk, such as virtio-blk0; the guest is told",
	 "SIZE is in bytes, or with K, M, G. `info devices` lists the disks. Raw images grow and shrink; "
	 "what lies "
	 "behind\n"
	 "a smaller size is lost.\n",
	 NULL, false, false, parse_resize, hv_text_done},
	{"inject", "nmi|irq LINE", "an NMI to all vCPUs, or a pulse on an interrupt line (0 to 23)", NULL,
	 inject_words, false, false, parse_inject, hv_text_done},
	{"set_link", "NAME on|off", "pull a network card's cable out, or put it back in",
	 "NAME is net0 for the first card, or as in `info devices`. Frames are dropped meanwhile.\n", NULL,
	 false, false, parse_set_link, hv_text_done},
	{"send", "[-n] TEXT", "type TEXT and Enter on the serial line, or a console in its place",
	 "-n leaves Enter out. \\n \\r \\t \\e \\\\ and \\xNN (01 to 7f) in TEXT stand for the usual "
	 "characters.\n",
	 NULL, false, false, parse_send, hv_text_send},
	{"quit", "", "end the VM (in interactive hvctl: leave hvctl, the VM goes on)", NULL, NULL, false,
	 false, parse_plain, hv_text_done},
	{"help", "[COMMAND]", "this list, or more of one command", NULL, NULL, false, false, parse_help,
	 hv_text_done},
	{0},
};

const struct hv_monitor_command *hv_monitor_find(const char *word)
{
	size_t length = strcspn(word, "/");

	for (const struct hv_monitor_command *c = hv_monitor_commands; c->name; c++) {
		if (strlen(c->name) == length && strncmp(c->name, word, length) == 0 &&
		    (word[length] == '\0' || c->parse == parse_examine))
			return c;
	}
	return NULL;
}

char *hv_monitor_help(const char *command)
{
	const struct hv_monitor_command *only = command ? hv_monitor_find(command) : NULL;
	char *text = NULL, line[128];
	size_t size;
	FILE *out = open_memstream(&text, &size);

	if (!out)
		return NULL;
	for (const struct hv_monitor_command *c = only ? only : hv_monitor_commands; c->name; c++) {
		snprintf(line, sizeof(line), "%s%s%s", c->name, c->args[0] && c->args[0] != '/' ? " " : "",
			 c->args);
		if (only) {
			fprintf(out, "%s: %s\n%s", line, c->help, c->detail ? c->detail : "");
			break;
		}
		if (strlen(line) > 28)
			fprintf(out, "%s\n%-28s  %s\n", line, "", c->help);
		else
			fprintf(out, "%-28s  %s\n", line, c->help);
	}
	return fclose(out) ? (free(text), NULL) : text;
}

/* --- lines --- */

/*
 * Splits line in place. Words stand between blanks; quotes, single or double, keep blanks; a backslash before
 * a quote, a blank or a backslash takes its meaning away, and stays before anything else (it is send's).
 */
static int split(char *line, char **argv, struct hv_error *err)
{
	char *in = line, *out = line, quote = '\0';
	int argc = 0;

	for (;;) {
		in += strspn(in, " \t\r\n");
		if (!*in)
			return argc;
		if (argc == HV_MONITOR_WORDS_MAX)
			return hv_fail_usage(err, "more than %d words in a line", HV_MONITOR_WORDS_MAX);
		argv[argc++] = out;
		for (; *in && (quote || !strchr(" \t\r\n", *in)); in++) {
			if (quote ? *in == quote : *in == '"' || *in == '\'') {
				quote = quote ? '\0' : *in;
			} else {
				if (*in == '\\' && in[1] && strchr("\"' ", in[1]) && quote != '\'')
					in++;
				*out++ = *in;
			}
		}
		if (quote)
			return hv_fail_usage(err, "a quote (%c) is not closed", quote);
		if (*in)
			in++;
		*out++ = '\0';
	}
}

int hv_monitor_parse_words(int argc, char **argv, struct hv_monitor_request *r, struct hv_error *err)
{
	memset(r, 0, sizeof(*r));
	r->command = hv_monitor_find(argv[0]);
	if (!r->command)
		return hv_fail_usage(err, "there is no command '%.60s'; `help` lists them", argv[0]);
	return r->command->parse(argc, argv, r, err);
}

int hv_monitor_parse(const char *line, struct hv_monitor_request *r, struct hv_error *err)
{
	char *argv[HV_MONITOR_WORDS_MAX + 1], *copy = strdup(line);
	int rc;

	memset(r, 0, sizeof(*r));
	if (!copy)
		return hv_fail(err, ENOMEM, "not enough memory");
	rc = split(copy, argv, err);
	if (rc > 0) {
		rc = hv_monitor_parse_words(rc, argv, r, err);
	} else if (rc == 0) {
		r->text = strdup("");
		rc = r->text ? 0 : hv_fail(err, ENOMEM, "not enough memory");
	}
	free(copy);
	return rc;
}

void hv_monitor_free(struct hv_monitor_request *r)
{
	json_decref(r->arguments);
	free(r->file);
	free(r->text);
	memset(r, 0, sizeof(*r));
}

char *hv_monitor_text(const struct hv_monitor_request *r, const json_t *result)
{
	if (r->text || !r->command)
		return strdup(r->text ? r->text : "");
	return r->command->text(r, result);
}

/* --- here --- */

static int run_request(struct hv_qmp_session *s, const struct hv_monitor_request *r, json_t **result,
		       struct hv_error *err)
{
	struct hv_file f = {.fd = -1};
	int rc = 0, fd;

	if (!r->file)
		return hv_qmp_call(s, r->execute, r->arguments, result, err);
	if (s->machine && hv_machine_config(s->machine)->sandbox)
		return hv_fail(
			err, EPERM,
			"the VM is locked into its sandbox and cannot open '%.200s': use `hvctl %s %s` in "
			"a shell",
			r->file, hv_machine_config(s->machine)->name, r->command->name);
	rc = hv_file_begin(&f, r->file, 0600, err);
	if (rc)
		return rc;
	fd = fcntl(f.fd, F_DUPFD_CLOEXEC, 0);
	rc = fd < 0 ? hv_fail_errno(err, "%s: cannot pass it on", r->file)
		    : hv_qmp_session_name(s, HV_MONITOR_FILE_FD, fd, err);
	if (!rc)
		rc = hv_qmp_call(s, r->execute, r->arguments, result, err);
	if (rc)
		hv_file_abandon(&f);
	return rc ? rc : hv_file_commit(&f, err);
}

static int run_line(struct hv_qmp_session *s, const char *line, unsigned cpu, char **answer,
		    struct hv_error *err)
{
	struct hv_monitor_request r;
	json_t *result = NULL;
	int rc = hv_monitor_parse(line, &r, err);

	*answer = NULL;
	if (!rc && r.execute) {
		if (cpu && r.command->takes_cpu && !json_object_get(r.arguments, "cpu-index"))
			json_object_set_new(r.arguments, "cpu-index", json_integer(cpu));
		rc = run_request(s, &r, &result, err);
	}
	if (!rc) {
		*answer = hv_monitor_text(&r, result);
		rc = *answer ? 0 : hv_fail(err, ENOMEM, "not enough memory");
	}
	json_decref(result);
	hv_monitor_free(&r);
	return rc;
}

int hv_monitor_run(struct hv_machine *machine, const char *line, char **answer, struct hv_error *err)
{
	struct hv_qmp_session s;
	int rc;

	hv_qmp_session_init(&s, machine);
	rc = run_line(&s, line, 0, answer, err);
	hv_qmp_session_free(&s);
	return rc;
}

/* The line with QEMU's words for what hvkit calls otherwise; NULL when it stays as it is. */
static const char *from_qemu(const char *line)
{
	static const char *const words[][2] = {
		{"stop", "pause"},
		{"s", "pause"},
		{"cont", "resume"},
		{"c", "resume"},
		{"system_reset", "reset"},
		{"q", "quit"},
		{"nmi", "inject nmi"},
		{"info status", "status"},
		{"info registers", "info regs"},
		{"info irq", "info irqs"},
		{"info pic", "info irqs"},
		{"info lapic", "info irqs"},
		{"info mtree", "info devices"},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(words); i++) {
		if (strcmp(words[i][0], line) == 0)
			return words[i][1];
	}
	return NULL;
}

int hv_monitor_run_qemu(struct hv_qmp_session *s, const char *line, unsigned cpu, char **answer)
{
	const char *other = from_qemu(line);
	struct hv_error err = {0};

	if (!run_line(s, other ? other : line, cpu, answer, &err))
		return 0;
	return asprintf(answer, "%s\n", err.text) < 0 ? -ENOMEM : 0;
}
