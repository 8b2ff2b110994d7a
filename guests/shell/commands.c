/*
 * The commands of `shell`: one function each, one table.
 */
#include "console.h"
#include "end.h"
#include "io.h"
#include "memory.h"
#include "shell.h"

#define I8042_COMMAND 0x64
#define I8042_RESET   0xfe

struct command {
	const char *name, *args, *help;
	void (*run)(const struct boot_info *boot, char *args);
};

static const struct command commands[];

/* Cuts the first word off *text: returns it, zero-terminated, and leaves *text at the next one. */
static char *cut_word(char **text)
{
	char *word = *text;
	while (*word == ' ')
		word++;
	char *end = word;
	while (*end && *end != ' ')
		end++;
	*text = end;
	if (*end) {
		*end = 0;
		for (*text = end + 1; **text == ' ';)
			++*text;
	}
	return word;
}

static void tell(enum store_status status, const char *key)
{
	if (status == STORE_NO_KEY)
		con_printf("error: no key %s\n", key);
	else if (status == STORE_FULL)
		con_printf("error: the store is full\n");
	else if (status == STORE_TOO_LONG)
		con_printf("error: a key has at most %u characters, a value %u\n", KEY_MAX, VALUE_MAX);
	else if (status == STORE_BROKEN)
		con_printf("error: the store is half migrated; nothing in it can be trusted\n");
}

static void run_help(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	for (const struct command *c = commands; c->name; c++)
		con_printf("  %8s %11s  %s\n", c->name, c->args, c->help);
}

static void run_set(const struct boot_info *boot, char *args)
{
	(void)boot;
	char *key = cut_word(&args);
	if (!*key || !*args) {
		con_printf("usage: set KEY VALUE\n");
		return;
	}
	enum store_status status = store_set(key, args);
	if (status == STORE_OK)
		con_printf("ok\n");
	tell(status, key);
}

static void run_get(const struct boot_info *boot, char *args)
{
	(void)boot;
	const char *key = cut_word(&args), *value = "";
	enum store_status status = store_get(key, &value);
	if (status == STORE_OK)
		con_printf("%s\n", value);
	tell(status, key);
}

static void print_key(const char *key)
{
	con_printf("%s\n", key);
}

static void run_keys(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	tell(store_keys(print_key), "");
}

static void run_sum(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	uint64_t bytes, sum = store_sum(&bytes);
	con_printf("sum %016lx of %lu bytes, layout %s\n", sum, bytes, store_layout());
}

static void run_upgrade(const struct boot_info *boot, char *args)
{
	(void)boot;
	const char *how = cut_word(&args);
	if (*how && strcmp(how, "fail"))
		con_printf("usage: upgrade [fail]\n");
	else
		store_upgrade(*how);
}

/* Above 4 GiB, where our page tables end: #PF, whose handler prints the registers and ends with GUEST_PANIC.
 */
#define NOT_MAPPED 0x100000000ul

static void run_crash(const struct boot_info *boot, char *args)
{
	(void)boot;
	const char *how = cut_word(&args);
	if (!strcmp(how, "triple")) {
		/* Without an IDT the exception can't be delivered, nor the double fault that follows: a
		 * triple fault. */
		static const struct {
			uint16_t limit;
			uint64_t base;
		} __attribute__((packed)) nothing;
		con_printf("crash: triple fault\n");
		__asm__ volatile("lidt %0; ud2" : : "m"(nothing));
	} else if (*how) {
		con_printf("usage: crash [triple]\n");
	} else {
		con_printf("crash: writing to 0x%lx, where nothing is mapped\n", NOT_MAPPED);
		__asm__ volatile("movb $1, (%0)" : : "r"(NOT_MAPPED) : "memory");
	}
}

static void run_reboot(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	con_printf("rebooting\n");
	outb(I8042_COMMAND, I8042_RESET);
	guest_halt();
}

static void run_uptime(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	uint64_t ms = timer_ms();
	con_printf("up %lu.%03lu s\n", ms / 1000, ms % 1000);
}

static void run_echo(const struct boot_info *boot, char *args)
{
	(void)boot;
	con_printf("%s\n", args);
}

static void run_exit(const struct boot_info *boot, char *args)
{
	(void)boot;
	const char *text = cut_word(&args);
	uint64_t value = 0;
	if (*text && (!parse_number(&text, &value) || *text || value > 127))
		con_printf("usage: exit [N], N from 0 to 127\n");
	else
		guest_exit((uint8_t)value);
}

static void run_version(const struct boot_info *boot, char *args)
{
	(void)boot, (void)args;
	con_printf("hvkit shell %s, store layout %s\n", GUEST_VERSION, store_layout());
}

static void run_irq(const struct boot_info *boot, char *args)
{
	(void)boot;
	const char *number = cut_word(&args), *how = cut_word(&args);
	bool level = !strcmp(how, "level");
	uint64_t line = 0;
	if (!parse_number(&number, &line) || *number || (!level && strcmp(how, "edge")))
		con_printf("usage: irq LINE level|edge\n");
	else if (line > 15 || !line_trigger((unsigned)line, level))
		con_printf("error: line %lu is not one of the free lines 5, 7, 9, 10 and 11\n", line);
	else
		con_printf("line %lu is %s-triggered\n", line, how);
}

static void run_boot(const struct boot_info *boot, char *args)
{
	(void)args;
	con_printf("protocol: %s\ncommand line: %s\n", boot->protocol, boot->cmdline);
	for (unsigned i = 0; i < boot->range_count; i++) {
		const struct boot_range *r = &boot->ranges[i];
		con_printf("memory: %012lx-%012lx type %u\n", r->base, r->base + r->size - 1, r->type);
	}
	for (unsigned i = 0; i < boot->module_count; i++) {
		const struct boot_module *m = &boot->modules[i];
		con_printf("module: %012lx, %lu bytes, \"%s\", starts with \"", m->base, m->size, m->cmdline);
		for (uint64_t k = 0; k < m->size && k < 16; k++) {
			char c = ((const char *)m->base)[k];
			con_printf("%c", c >= ' ' && c < 0x7f ? c : '.');
		}
		con_printf("\"\n");
	}
}

static const struct command commands[] = {
	{"help", "", "this list", run_help},
	{"set", "KEY VALUE", "keeps a value under a key", run_set},
	{"get", "KEY", "the value under a key", run_get},
	{"keys", "", "all keys", run_keys},
	{"sum", "", "a checksum of the data store's memory", run_sum},
	{"upgrade", "[fail]", "migrates the data store to layout 2, or fails half-way", run_upgrade},
	{"uptime", "", "time since the start", run_uptime},
	{"echo", "TEXT", "says it again", run_echo},
	{"version", "", "of the shell and of the store's layout", run_version},
	{"irq", "LINE HOW", "makes a free line level- or edge-triggered (HOW)", run_irq},
	{"boot", "", "what the boot loader told", run_boot},
	{"crash", "[triple]", "a page fault (status 37), or a triple fault", run_crash},
	{"reboot", "", "resets the machine through the keyboard controller", run_reboot},
	{"exit", "[N]", "ends by the debug exit device: status 2 * N + 1", run_exit},
	{0, 0, 0, 0},
};

void command_run(const struct boot_info *boot, const char *line)
{
	static char text[LINE_MAX + 1];
	memcpy(text, line, strlen(line) + 1);
	char *args = text, *name = cut_word(&args);
	if (!*name)
		return;
	for (const struct command *c = commands; c->name; c++) {
		if (!strcmp(c->name, name)) {
			c->run(boot, args);
			return;
		}
	}
	con_printf("error: no command %s (help lists them)\n", name);
}
