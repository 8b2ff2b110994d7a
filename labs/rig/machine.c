/*
 * The rig's commands for a whole machine: core/machine with its threads, paused, resumed and ended from
 * outside. See rig.h. What a guest writes to its serial port goes to standard output.
 */
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "device/chardev.h"
#include "machine/config.h"
#include "rig.h"

#define WAIT_MS 10000

const char *rig_end_word(enum hv_end_reason reason)
{
	static const char *const words[] = {
		[HV_END_NONE] = "none",       [HV_END_GUEST_EXIT] = "guest-exit",
		[HV_END_HALT] = "halt",       [HV_END_QUIT] = "quit",
		[HV_END_TIMEOUT] = "timeout", [HV_END_TRIPLE_FAULT] = "triple-fault",
		[HV_END_PANIC] = "panic",     [HV_END_ERROR] = "error",
	};

	return (unsigned)reason < HV_ARRAY_SIZE(words) ? words[reason] : "?";
}

/* machine_create image=FILE [key=value of hvrun's options, a space in a value as %20]... */
static void put_spaces(char *text)
{
	char *to = text;

	for (const char *from = text; *from; to++) {
		bool space = strncmp(from, "%20", 3) == 0;

		*to = space ? ' ' : *from;
		from += space ? 3 : 1;
	}
	*to = '\0';
}

static int configure(struct rig *rig, struct hv_config *config, int count, char **words)
{
	int rc = 0;

	for (int i = 1; i < count && !rc; i++) {
		char *value = strchr(words[i], '=');

		if (!value)
			return hv_fail_usage(&rig->err, "'%s' is not key=value", words[i]);
		*value++ = '\0';
		put_spaces(value);
		rc = hv_config_set(config, words[i], value, &rig->err);
	}
	return rc ? rc : hv_config_finish(config, &rig->err);
}

static int machine_create(struct rig *rig, int count, char **words)
{
	static const struct hv_chardev_config to_stdout = {.kind = HV_CHARDEV_STDIO};
	struct hv_config config;
	int rc;

	if (rig->machine)
		return hv_fail(&rig->err, EBUSY, "there is a machine already");
	hv_config_init(&config);
	rc = configure(rig, &config, count, words);
	if (!rc)
		rc = hv_chardev_open(&to_stdout, NULL, &rig->chardev, &rig->err);
	if (!rc)
		rc = hv_machine_create(&config, rig->chardev, NULL, &rig->machine, &rig->err);
	hv_config_free(&config);
	return rc;
}

static int no_machine(struct rig *rig)
{
	return hv_fail(&rig->err, ENOENT, "there is no machine");
}

static int machine_start(struct rig *rig, int count, char **words)
{
	if (!rig->machine)
		return no_machine(rig);
	return hv_machine_start(rig->machine, count > 1 && strcmp(words[1], "paused") == 0, &rig->err);
}

static int machine_pause(struct rig *rig, int count, char **words)
{
	return rig->machine ? hv_machine_pause(rig->machine, &rig->err) : no_machine(rig);
}

static int machine_resume(struct rig *rig, int count, char **words)
{
	return rig->machine ? hv_machine_resume(rig->machine, &rig->err) : no_machine(rig);
}

static int machine_reset(struct rig *rig, int count, char **words)
{
	return rig->machine ? hv_machine_reset(rig->machine, &rig->err) : no_machine(rig);
}

static int machine_end(struct rig *rig, int count, char **words)
{
	if (!rig->machine)
		return no_machine(rig);
	hv_machine_end(rig->machine, HV_END_QUIT);
	return 0;
}

/* machine_wait [ms=N]: until it has ended. */
static int machine_wait(struct rig *rig, int count, char **words)
{
	static struct hv_end end;
	int rc;

	if (!rig->machine)
		return no_machine(rig);
	rc = hv_machine_wait(rig->machine, (int)rig_option_number(count, words, "ms", WAIT_MS), &end);
	if (!rc) {
		rig_text(rig, "reason", rig_end_word(end.reason));
		rig_signed(rig, "status", end.status);
		rig_text(rig, "text", end.text);
	}
	return rc;
}

static int machine_state(struct rig *rig, int count, char **words)
{
	if (!rig->machine)
		return no_machine(rig);
	rig_text(rig, "state", hv_state_name(hv_machine_state(rig->machine), HV_END_NONE));
	rig_number(rig, "cpus", hv_machine_cpus(rig->machine));
	return 0;
}

static int machine_irq(struct rig *rig, int count, char **words)
{
	uint64_t line;

	if (count != 2 || !rig_parse(words[1], &line))
		return RIG_USAGE;
	return rig->machine ? hv_machine_irq(rig->machine, (unsigned)line, &rig->err) : no_machine(rig);
}

static int machine_nmi(struct rig *rig, int count, char **words)
{
	uint64_t cpu = 0;

	if (count > 2 || (count == 2 && !rig_parse(words[1], &cpu)))
		return RIG_USAGE;
	return rig->machine ? hv_machine_nmi(rig->machine, (unsigned)cpu, &rig->err) : no_machine(rig);
}

static int tell_rip(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct kvm_regs *regs = ctx;

	return hv_vcpu_get_regs(vcpu, regs, err);
}

/* machine_call CPU: RIP, RAX and RCX, read on that vCPU's own thread. */
static int machine_call(struct rig *rig, int count, char **words)
{
	struct kvm_regs regs;
	uint64_t cpu;
	int rc;

	if (count != 2 || !rig_parse(words[1], &cpu))
		return RIG_USAGE;
	if (!rig->machine)
		return no_machine(rig);
	memset(&regs, 0, sizeof(regs));
	rc = hv_machine_call(rig->machine, (unsigned)cpu, tell_rip, &regs, &rig->err);
	rig_number(rig, "rip", regs.rip);
	rig_number(rig, "rax", regs.rax);
	rig_number(rig, "rcx", regs.rcx);
	return rc;
}

/* machine_read GPA LENGTH: of the guest's memory, while it is parked. */
static int machine_read(struct rig *rig, int count, char **words)
{
	uint8_t buffer[4096];
	uint64_t gpa, length;
	int rc;

	if (count != 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &length) ||
	    length > sizeof(buffer))
		return RIG_USAGE;
	if (!rig->machine)
		return no_machine(rig);
	rc = hv_memory_read(hv_machine_memory(rig->machine), gpa, buffer, length);
	if (!rc)
		rig_bytes(rig, "data", buffer, length);
	return rc;
}

static int machine_destroy(struct rig *rig, int count, char **words)
{
	if (!rig->machine)
		return no_machine(rig);
	hv_chardev_close(rig->chardev);
	hv_machine_destroy(rig->machine);
	rig->chardev = NULL;
	rig->machine = NULL;
	return 0;
}

static int sleep_ms(struct rig *rig, int count, char **words)
{
	uint64_t ms;
	struct timespec t;

	if (count != 2 || !rig_parse(words[1], &ms) || ms > WAIT_MS)
		return RIG_USAGE;
	t = (struct timespec){.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
	nanosleep(&t, NULL);
	return 0;
}

const struct rig_command rig_machine[] = {
	{"machine_create", "image=FILE [OPTION=VALUE]...", machine_create},
	{"machine_start", "[paused]", machine_start},
	{"machine_pause", "", machine_pause},
	{"machine_resume", "", machine_resume},
	{"machine_reset", "", machine_reset},
	{"machine_end", "", machine_end},
	{"machine_wait", "[ms=N]", machine_wait},
	{"machine_state", "", machine_state},
	{"machine_irq", "LINE", machine_irq},
	{"machine_nmi", "[CPU]", machine_nmi},
	{"machine_call", "CPU", machine_call},
	{"machine_read", "GPA LENGTH", machine_read},
	{"machine_destroy", "", machine_destroy},
	{"sleep", "MS", sleep_ms},
	{NULL, NULL, NULL},
};
