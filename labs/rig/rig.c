/*
 * The rig's own half: reading the script, finding the command, writing the answer. See rig.h.
 *
 *   rig [--answers FD] [--commands]      (FD is 1 unless told)
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"

#define LINE_MAX_BYTES (1u << 20)

/* Each lab's table is there when its file is. */
#define LAB(n) extern const struct rig_command rig_lab##n[] __attribute__((weak))
LAB(01);
LAB(02);
LAB(03);
LAB(04);
LAB(05);
LAB(06);
LAB(07);
LAB(08);
LAB(09);
LAB(10);
#undef LAB

static const struct rig_command *const tables[] = {
	rig_vm,    rig_machine, rig_lab01, rig_lab02, rig_lab03, rig_lab04,
	rig_lab05, rig_lab06,   rig_lab07, rig_lab08, rig_lab09, rig_lab10,
};

static void key_of(struct rig *rig, const char *key)
{
	fprintf(rig->answer, ",\"%s\":", key);
}

void rig_number(struct rig *rig, const char *key, uint64_t value)
{
	key_of(rig, key);
	fprintf(rig->answer, "%llu", (unsigned long long)value);
}

void rig_signed(struct rig *rig, const char *key, int64_t value)
{
	key_of(rig, key);
	fprintf(rig->answer, "%lld", (long long)value);
}

void rig_bool(struct rig *rig, const char *key, bool value)
{
	key_of(rig, key);
	fputs(value ? "true" : "false", rig->answer);
}

/* Sentences may carry a student's bytes: all but plain ASCII is escaped. */
static void quoted(FILE *out, const char *text)
{
	fputc('"', out);
	for (const unsigned char *c = (const unsigned char *)text; *c; c++) {
		if (*c < 0x20 || *c > 0x7e || *c == '"' || *c == '\\')
			fprintf(out, "\\u%04x", *c);
		else
			fputc(*c, out);
	}
	fputc('"', out);
}

void rig_text(struct rig *rig, const char *key, const char *text)
{
	key_of(rig, key);
	quoted(rig->answer, text);
}

void rig_bytes(struct rig *rig, const char *key, const void *data, size_t size)
{
	const uint8_t *byte = data;

	key_of(rig, key);
	fputc('"', rig->answer);
	for (size_t i = 0; i < size; i++)
		fprintf(rig->answer, "%02x", byte[i]);
	fputc('"', rig->answer);
}

bool rig_parse(const char *word, uint64_t *out)
{
	bool negative = word[0] == '-';
	char *end;

	word += negative;
	if (!isdigit((unsigned char)word[0]))
		return false;
	*out = strtoull(word, &end, 0);
	*out = negative ? 0 - *out : *out;
	return *end == '\0';
}

const char *rig_option(int count, char **words, const char *key)
{
	size_t n = strlen(key);

	for (int i = 1; i < count; i++)
		if (strncmp(words[i], key, n) == 0 && words[i][n] == '=')
			return words[i] + n + 1;
	return NULL;
}

uint64_t rig_option_number(int count, char **words, const char *key, uint64_t otherwise)
{
	const char *word = rig_option(count, words, key);
	uint64_t value;

	return word && rig_parse(word, &value) ? value : otherwise;
}

int rig_parse_bytes(const char *word, uint8_t *out, size_t max)
{
	size_t n = strlen(word);

	if (n % 2 || n / 2 > max)
		return -1;
	for (size_t i = 0; i < n / 2; i++) {
		char digits[3] = {word[2 * i], word[2 * i + 1], '\0'}, *end;

		out[i] = (uint8_t)strtoul(digits, &end, 16);
		if (*end)
			return -1;
	}
	return (int)(n / 2);
}

static const struct rig_command *find(const char *name)
{
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
		for (const struct rig_command *c = tables[t]; c && c->name; c++)
			if (strcmp(c->name, name) == 0)
				return c;
	return NULL;
}

static void list_commands(void)
{
	for (size_t t = 0; t < sizeof(tables) / sizeof(tables[0]); t++)
		for (const struct rig_command *c = tables[t]; c && c->name; c++)
			printf("%s %s\n", c->name, c->usage);
}

/* One answer leaves in one write: a crash in the next command can't take it back. */
static int obey(struct rig *rig, int count, char **words, int fd)
{
	const struct rig_command *command = find(words[0]);
	char *text = NULL;
	size_t size = 0;
	int rc;

	if (!command) {
		fprintf(stderr, "rig: no command '%s'\n", words[0]);
		return HV_EXIT_USAGE;
	}
	rig->answer = open_memstream(&text, &size);
	if (!rig->answer)
		return HV_EXIT_FAILED;
	fprintf(rig->answer, "{\"command\":\"%s\"", command->name);
	memset(&rig->err, 0, sizeof(rig->err));
	rc = command->run(rig, count, words);
	rig_signed(rig, "rc", rc);
	rig_text(rig, "error", rc ? rig->err.text : "");
	fputs("}\n", rig->answer);
	fclose(rig->answer);
	if (rc != RIG_USAGE && write(fd, text, size) != (ssize_t)size)
		rc = RIG_USAGE;
	free(text);
	if (rc == RIG_USAGE)
		fprintf(stderr, "rig: usage: %s %s\n", command->name, command->usage);
	return rc == RIG_USAGE ? HV_EXIT_USAGE : HV_EXIT_OK;
}

static int read_script(struct rig *rig, int fd)
{
	char *line = NULL, *save, *words[RIG_WORDS];
	size_t room = 0;
	int status = HV_EXIT_OK;

	while (status == HV_EXIT_OK && getline(&line, &room, stdin) > 0 && room <= LINE_MAX_BYTES) {
		int count = 0;

		for (char *w = strtok_r(line, " \t\r\n", &save); w && count < RIG_WORDS;
		     w = strtok_r(NULL, " \t\r\n", &save))
			words[count++] = w;
		if (count > 0 && words[0][0] != '#')
			status = obey(rig, count, words, fd);
	}
	free(line);
	return status;
}

int main(int argc, char **argv)
{
	static struct rig rig = {.kvm.fd = -1, .vm.fd = -1, .memory.vm = -1};
	uint64_t fd = STDOUT_FILENO;

	for (int i = 0; i < RIG_VCPUS; i++)
		rig.vcpus[i].fd = -1;
	if (argc == 2 && strcmp(argv[1], "--commands") == 0) {
		list_commands();
		return HV_EXIT_OK;
	}
	if (argc == 3 && strcmp(argv[1], "--answers") == 0 && rig_parse(argv[2], &fd) && fd < 1024)
		argc = 1;
	if (argc != 1) {
		fprintf(stderr, "usage: rig [--answers FD] [--commands]\n");
		return HV_EXIT_USAGE;
	}
	/* What is open at the end stays so: the record shows it, and the kernel frees it. */
	fflush(stdout);
	_exit(read_script(&rig, (int)fd));
}
