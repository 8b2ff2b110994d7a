/*
 * QMP's commands that only hvkit has, named x-hv-...: looking into the machine, tracing, interrupts and the
 * serial line. docs/protocol.md describes them for clients. They call machine and control/inspect.
 */
#include <stdlib.h>
#include <string.h>

#include "control/inspect.h"
#include "control/qmp_dispatch.h"

/* --- addresses: numbers, and "$rip+0x10" --- */

struct reg_query {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
};

static int read_regs(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct reg_query *q = ctx;
	int rc = hv_vcpu_get_regs(vcpu, &q->regs, err);

	return rc ? rc : hv_vcpu_get_sregs(vcpu, &q->sregs, err);
}

/* The register whose name stands at *text, which moves behind it. */
static int named_register(const char **text, const struct reg_query *q, uint64_t *value)
{
	const struct {
		const char *name;
		uint64_t value;
	} names[] = {
		{"rax", q->regs.rax},       {"rbx", q->regs.rbx},  {"rcx", q->regs.rcx},
		{"rdx", q->regs.rdx},       {"rsi", q->regs.rsi},  {"rdi", q->regs.rdi},
		{"rbp", q->regs.rbp},       {"rsp", q->regs.rsp},  {"r8", q->regs.r8},
		{"r9", q->regs.r9},         {"r10", q->regs.r10},  {"r11", q->regs.r11},
		{"r12", q->regs.r12},       {"r13", q->regs.r13},  {"r14", q->regs.r14},
		{"r15", q->regs.r15},       {"rip", q->regs.rip},  {"pc", q->regs.rip},
		{"sp", q->regs.rsp},        {"fp", q->regs.rbp},   {"eip", q->regs.rip},
		{"esp", q->regs.rsp},       {"cr0", q->sregs.cr0}, {"cr2", q->sregs.cr2},
		{"cr3", q->sregs.cr3},      {"cr4", q->sregs.cr4}, {"idt", q->sregs.idt.base},
		{"gdt", q->sregs.gdt.base},
	};
	size_t length = strspn(*text, "abcdefghijklmnopqrstuvwxyz0123456789");

	for (size_t i = 0; i < HV_ARRAY_SIZE(names); i++) {
		if (strlen(names[i].name) != length || strncmp(names[i].name, *text, length) != 0)
			continue;
		*text += length;
		*value = names[i].value;
		return 0;
	}
	return -ENOENT;
}

static int number(const char **text, uint64_t *value)
{
	char *end;

	if (**text < '0' || **text > '9')
		return -EINVAL;
	errno = 0;
	*value = strtoull(*text, &end, (*text)[0] == '0' && ((*text)[1] | 0x20) == 'x' ? 16 : 10);
	*text = end;
	return errno ? -ERANGE : 0;
}

/* term (("+" | "-") term)*, with terms "$register", 123 and 0x7b; wraps at 2^64 as addresses do. */
static int evaluate(const char *expression, const struct reg_query *q, uint64_t *out, struct hv_error *err)
{
	const char *p = expression;
	char sign = '+';

	for (*out = 0;; p++) {
		uint64_t v;
		int rc;

		p += strspn(p, " ");
		if (*p == '$') {
			p++;
			rc = named_register(&p, q, &v);
		} else {
			rc = number(&p, &v);
		}
		if (rc)
			return hv_fail(err, EINVAL, "'%.80s': not an address; write 0x1000, $rip or $rsp+8",
				       expression);
		*out = sign == '+' ? *out + v : *out - v;
		p += strspn(p, " ");
		if (*p == '\0')
			return 0;
		if (*p != '+' && *p != '-')
			return hv_fail(err, EINVAL, "'%.80s': '+' or '-' is missing at '%.20s'", expression,
				       p);
		sign = *p;
	}
}

static int address(struct hv_qmp_session *s, const json_t *args, unsigned cpu, uint64_t *out,
		   struct hv_error *err)
{
	const json_t *v = json_object_get(args, "addr");
	struct reg_query q = {0};
	int rc = 0;

	if (json_is_integer(v)) {
		*out = (uint64_t)json_integer_value(v);
		return 0;
	}
	if (strchr(json_string_value(v), '$'))
		rc = hv_machine_call(s->machine, cpu, read_regs, &q, err);
	return rc ? rc : evaluate(json_string_value(v), &q, out, err);
}

/* --- the commands --- */

static int info(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *what = json_string_value(json_object_get(args, "what"));
	unsigned cpu;
	int rc = hv_qmp_cpu(s, args, &cpu, err);

	return rc ? rc : hv_qmp_info(s->machine, what, cpu, result, err);
}

static int examine(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *format = json_string_value(json_object_get(args, "format"));
	json_int_t count = hv_qmp_int(args, "count", 1), size = hv_qmp_int(args, "size", 4);
	struct hv_examine what = {.physical = json_is_true(json_object_get(args, "physical"))};
	int rc = hv_qmp_cpu(s, args, &what.cpu, err);

	if (rc || (rc = address(s, args, what.cpu, &what.addr, err)))
		return rc;
	if (format && (strlen(format) != 1 || !strchr("xduocis", format[0])))
		return hv_fail(err, EINVAL, "Parameter 'format' expects one of x d u o c i s");
	if (count < 1 || count > (json_int_t)HV_EXAMINE_COUNT_MAX)
		return hv_fail(err, EINVAL, "Parameter 'count' expects a number from 1 to %u",
			       HV_EXAMINE_COUNT_MAX);
	if (size != 1 && size != 2 && size != 4 && size != 8)
		return hv_fail(err, EINVAL, "Parameter 'size' expects 1, 2, 4 or 8");
	what.format = format ? format[0] : 'x';
	what.count = (unsigned)count;
	what.size = (unsigned)size;
	return hv_inspect_examine(s->machine, &what, result, err);
}

static int translate(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	uint64_t gva;
	unsigned cpu;
	int rc = hv_qmp_cpu(s, args, &cpu, err);

	if (!rc)
		rc = address(s, args, cpu, &gva, err);
	return rc ? rc : hv_inspect_translate(s->machine, cpu, gva, result, err);
}

static int trace_save(struct hv_qmp_session *s, const json_t *args, struct hv_error *err)
{
	const char *protocol = json_string_value(json_object_get(args, "protocol"));
	struct hv_file f;
	int rc;

	if (!protocol)
		return hv_fail(err, EINVAL, "Parameter 'protocol' is missing");
	rc = hv_qmp_open_protocol(s, protocol, &f, err);
	if (rc)
		return rc;
	rc = hv_machine_trace_save(s->machine, f.fd, err);
	return hv_qmp_close_protocol(&f, rc, err);
}

static int trace(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *action = json_string_value(json_object_get(args, "action"));
	int rc = 0;

	if (strcmp(action, "on") == 0 || strcmp(action, "off") == 0)
		rc = hv_machine_trace(s->machine, action[1] == 'n', err);
	else if (strcmp(action, "save") == 0)
		rc = trace_save(s, args, err);
	else if (strcmp(action, "status") != 0)
		rc = hv_fail(err, EINVAL, "Parameter 'action' expects on, off, save or status");
	if (!rc)
		*result = json_pack("{s:b}", "tracing", hv_machine_tracing(s->machine));
	return rc;
}

static int inject_irq(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	json_int_t irq = hv_qmp_int(args, "irq", 0);

	if (irq < 0 || irq >= HV_IOAPIC_PINS)
		return hv_fail(err, EINVAL, "Parameter 'irq' expects an interrupt line from 0 to %d",
			       HV_IOAPIC_PINS - 1);
	return hv_machine_irq(s->machine, (unsigned)irq, err);
}

/* Where a person types: the serial line, or a virtio console that has taken its place. */
static struct hv_chardev *typed_line(struct hv_machine *m)
{
	struct hv_chardev *console = hv_machine_console_chardev(m);

	return console && hv_machine_config(m)->serial.kind == HV_CHARDEV_NONE ? console
									       : hv_machine_chardev(m);
}

static int send_text(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const json_t *data = json_object_get(args, "data");
	struct hv_chardev *line = typed_line(s->machine);
	size_t length = json_string_length(data), sent;

	if (!line)
		return hv_fail(err, ENODEV, "this VM has no serial line");
	if (hv_machine_state(s->machine) == HV_STATE_ENDED)
		return hv_fail(err, ESHUTDOWN, "the VM has ended");
	sent = hv_chardev_inject(line, json_string_value(data), length);
	if (sent < length)
		return hv_fail(err, EAGAIN,
			       "the guest took %zu of %zu bytes: it does not read its line; try again "
			       "when it does (is it paused?)",
			       sent, length);
	*result = json_pack("{s:I}", "sent", (json_int_t)sent);
	return 0;
}

const struct hv_qmp_command hv_qmp_commands_own[] = {
	{"x-hv-info", info, false, {{"what", 's', false}, {"cpu-index", 'i', true}}},
	{"x-hv-examine",
	 examine,
	 false,
	 {{"addr", 'a', false},
	  {"count", 'i', true},
	  {"format", 's', true},
	  {"size", 'i', true},
	  {"physical", 'b', true},
	  {"cpu-index", 'i', true}}},
	{"x-hv-translate", translate, false, {{"addr", 'a', false}, {"cpu-index", 'i', true}}},
	{"x-hv-trace", trace, false, {{"action", 's', false}, {"protocol", 's', true}}},
	{"x-hv-inject-irq", inject_irq, false, {{"irq", 'i', false}}},
	{"x-hv-send", send_text, false, {{"data", 's', false}}},
	{0},
};
