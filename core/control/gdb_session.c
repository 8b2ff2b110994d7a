/*
 * One gdb's conversation: what each packet means. Packets come from gdb_packet.c, what they do to the machine
 * is in gdb_target.c and gdb_resume.c, the queries are in gdb_query.c. Rules: "Debugging with GDB", E.2
 * (packets), E.3 (stop replies).
 *
 * All-stop mode, no multiprocess extension. A thread id is a vCPU's number plus one. Every packet is
 * answered: with an empty reply when it is unknown, which tells gdb to do without it.
 */
#include "control/gdb_session.h"

#include <string.h>

#define SIGNAL_INT  2
#define SIGNAL_TRAP 5
#define REFUSED_MAX 8 /* '-' in a row, then the line is broken */

void hv_gdb_send(struct hv_gdb_session *s, const struct hv_gdb_text *content)
{
	s->last.length = 0;
	hv_gdb_frame(&s->last, content);
	hv_gdb_put(&s->out, s->last.data, s->last.length);
	/* Without memory for a reply the protocol is out of step: hang up rather than guess. */
	if (content->failed || s->last.failed || s->out.failed)
		s->closing = true;
}

void hv_gdb_send_text(struct hv_gdb_session *s, const char *text)
{
	struct hv_gdb_text content = {0};

	hv_gdb_puts(&content, text);
	hv_gdb_send(s, &content);
	hv_gdb_text_free(&content);
}

void hv_gdb_send_error(struct hv_gdb_session *s, int code)
{
	char text[8] = "E";
	static const char digits[] = "0123456789abcdef";

	code = code < 0 ? -code : code;
	text[1] = digits[code >> 4 & 15];
	text[2] = digits[code & 15];
	hv_gdb_send_text(s, text);
}

static void send_result(struct hv_gdb_session *s, int rc)
{
	if (rc < 0)
		hv_gdb_send_error(s, rc);
	else
		hv_gdb_send_text(s, "OK");
}

/* --- stops --- */

static void send_stop(struct hv_gdb_session *s)
{
	static const char *const watch[] = {
		[HV_GDB_WRITE] = "watch", [HV_GDB_READ] = "rwatch", [HV_GDB_ACCESS] = "awatch"};
	const struct hv_gdb_stop *stop = &s->stop;
	struct hv_gdb_text t = {0};

	if (stop->why == HV_GDB_ENDED) {
		int status = hv_machine_end_status(s->target.machine);

		hv_gdb_printf(&t, "W%02x", status > 0 ? (unsigned)status : 0);
		hv_gdb_send(s, &t);
		hv_gdb_text_free(&t);
		s->closing = true;
		return;
	}
	hv_gdb_printf(&t, "T%02xthread:%x;", stop->why == HV_GDB_INTERRUPTED ? SIGNAL_INT : SIGNAL_TRAP,
		      stop->cpu + 1);
	if (stop->why == HV_GDB_HIT) {
		if (stop->type == HV_GDB_SOFT && s->swbreak)
			hv_gdb_puts(&t, "swbreak:;");
		else if (stop->type == HV_GDB_EXEC && s->hwbreak)
			hv_gdb_puts(&t, "hwbreak:;");
		else if (stop->type >= HV_GDB_WRITE)
			hv_gdb_printf(&t, "%s:%llx;", watch[stop->type], (unsigned long long)stop->address);
	}
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

void hv_gdb_session_event(struct hv_gdb_session *s)
{
	struct hv_gdb_stop stop;

	if (!s->target.attached || !hv_gdb_stopped(&s->target, &stop))
		return;
	s->stop = stop;
	if (stop.why != HV_GDB_ENDED)
		s->cpu = s->run_cpu = stop.cpu;
	send_stop(s);
}

static void resume(struct hv_gdb_session *s, uint64_t step, uint64_t go)
{
	struct hv_error err = {0};
	int rc = -EBUSY;

	if (!s->target.running)
		rc = hv_gdb_resume(&s->target, step, go, &err);
	if (rc == -ESHUTDOWN) {
		s->stop = (struct hv_gdb_stop){.why = HV_GDB_ENDED};
		send_stop(s);
	} else if (rc < 0) {
		hv_gdb_send_error(s, rc);
	} else {
		hv_gdb_session_event(s); /* a hit may have been waiting */
	}
}

/* --- thread ids --- */

enum hv_gdb_which hv_gdb_thread_id(const struct hv_gdb_session *s, const char **at, unsigned *cpu)
{
	uint64_t id;

	if (hv_gdb_skip(at, "-1"))
		return HV_GDB_ALL;
	if (!hv_gdb_get_number(at, &id) || id > s->target.cpus)
		return HV_GDB_NONE;
	if (id > 0)
		*cpu = (unsigned)id - 1;
	return HV_GDB_ONE;
}

static uint64_t bits_of(const struct hv_gdb_session *s, enum hv_gdb_which which, unsigned cpu)
{
	if (which == HV_GDB_ALL)
		return UINT64_MAX;
	return which == HV_GDB_ONE ? 1ull << cpu : 0;
}

static void on_thread(struct hv_gdb_session *s, const char *at)
{
	const char what = *at;
	unsigned cpu = s->cpu;
	enum hv_gdb_which which;

	if (what != 'g' && what != 'c') {
		hv_gdb_send_text(s, "");
		return;
	}
	at++;
	which = hv_gdb_thread_id(s, &at, &cpu);
	if (which == HV_GDB_NONE) {
		hv_gdb_send_error(s, EINVAL);
		return;
	}
	if (what == 'g')
		s->cpu = cpu;
	else
		s->run_cpu = cpu;
	hv_gdb_send_text(s, "OK");
}

static void on_alive(struct hv_gdb_session *s, const char *at)
{
	unsigned cpu = 0;

	send_result(s, hv_gdb_thread_id(s, &at, &cpu) == HV_GDB_ONE ? 0 : -EINVAL);
}

/* --- registers --- */

static void on_get_registers(struct hv_gdb_session *s, const char *at, bool all)
{
	struct hv_gdb_state state;
	struct hv_gdb_text t = {0};
	uint64_t n = 0;
	int rc = 0;

	if (!all && (!hv_gdb_get_number(&at, &n) || n >= hv_gdb_register_count()))
		rc = -EINVAL;
	if (rc == 0)
		rc = hv_gdb_get_state(&s->target, s->cpu, &state, NULL);
	if (rc < 0) {
		hv_gdb_send_error(s, rc);
		return;
	}
	for (unsigned i = 0; all && i < hv_gdb_register_count(); i++)
		hv_gdb_register_put(&t, &state, i);
	if (!all)
		hv_gdb_register_put(&t, &state, (unsigned)n);
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

static int change_registers(struct hv_gdb_session *s, const char *at, bool all)
{
	struct hv_gdb_state state, before;
	uint64_t n = 0;
	int rc;

	if (!all && (!hv_gdb_get_number(&at, &n) || n >= hv_gdb_register_count() || !hv_gdb_skip(&at, "=")))
		return -EINVAL;
	rc = hv_gdb_get_state(&s->target, s->cpu, &before, NULL);
	if (rc < 0)
		return rc;
	state = before;
	/* A G packet may end early; the registers behind its end stay. */
	for (unsigned i = 0; all && i < hv_gdb_register_count() && *at; i++) {
		if (!hv_gdb_register_take(&state, i, &at))
			return -EINVAL;
	}
	if (!all && !hv_gdb_register_take(&state, (unsigned)n, &at))
		return -EINVAL;
	return hv_gdb_set_state(&s->target, s->cpu, &state, &before, NULL);
}

/* --- memory --- */

static void on_read(struct hv_gdb_session *s, const char *at)
{
	struct hv_gdb_text t = {0};
	uint8_t bytes[HV_GDB_BYTES_MAX];
	uint64_t addr, length;
	int64_t done;

	if (!hv_gdb_get_range(&at, &addr, &length)) {
		hv_gdb_send_error(s, EINVAL);
		return;
	}
	/* A reply may be shorter than asked for; gdb asks for the rest. */
	length = length < sizeof(bytes) ? length : sizeof(bytes);
	done = hv_gdb_read(&s->target, s->cpu, addr, bytes, length);
	if (done < 0 || (done == 0 && length > 0)) {
		hv_gdb_send_error(s, done < 0 ? (int)done : EFAULT);
		return;
	}
	hv_gdb_put_hex(&t, bytes, (size_t)done);
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

/* M writes hex, X the bytes as they are. */
static int change_memory(struct hv_gdb_session *s, const char *at, bool hex)
{
	const char *end = s->parser.data + s->parser.length;
	uint8_t bytes[HV_GDB_PACKET_MAX];
	uint64_t addr, length;
	int64_t done;

	if (!hv_gdb_get_range(&at, &addr, &length) || !hv_gdb_skip(&at, ":"))
		return -EINVAL;
	const size_t given = (size_t)(end - at);
	if (length > sizeof(bytes) || given != (hex ? 2 * length : length))
		return -EINVAL;
	if (hex ? !hv_gdb_get_hex(&at, bytes, length) : false)
		return -EINVAL;
	if (!hex)
		memcpy(bytes, at, length);
	done = hv_gdb_write(&s->target, s->cpu, addr, bytes, length);
	if (done < 0)
		return (int)done;
	return (uint64_t)done == length ? 0 : -EFAULT;
}

/* --- breakpoints and motion --- */

/* Z0,addr,kind and the like. Conditions and commands behind a ';' are not for us: gdb evaluates them itself.
 */
static void on_breakpoint(struct hv_gdb_session *s, const char *at, bool insert)
{
	uint64_t type, addr, kind;

	if (!hv_gdb_get_number(&at, &type) || !hv_gdb_skip(&at, ",") ||
	    !hv_gdb_get_range(&at, &addr, &kind)) {
		hv_gdb_send_error(s, EINVAL);
		return;
	}
	if (type > HV_GDB_ACCESS) {
		hv_gdb_send_text(s, "");
		return;
	}
	send_result(s, insert ? hv_gdb_insert(&s->target, s->cpu, (enum hv_gdb_break)type, addr, kind)
			      : hv_gdb_remove(&s->target, (enum hv_gdb_break)type, addr, kind));
}

/* c, s, C and S: an address to go on from may follow; a signal means nothing to a vCPU. */
static void on_motion(struct hv_gdb_session *s, const char *at, bool step, bool with_signal)
{
	struct hv_gdb_state state, before;
	uint64_t number;
	int rc = 0;

	if (with_signal && (!hv_gdb_get_number(&at, &number) || (*at && !hv_gdb_skip(&at, ";"))))
		rc = -EINVAL;
	if (rc == 0 && *at) {
		rc = hv_gdb_get_number(&at, &number) ? 0 : -EINVAL;
		if (rc == 0)
			rc = hv_gdb_get_state(&s->target, s->run_cpu, &before, NULL);
		if (rc == 0) {
			state = before;
			state.regs.rip = number;
			rc = hv_gdb_set_state(&s->target, s->run_cpu, &state, &before, NULL);
		}
	}
	if (rc < 0) {
		hv_gdb_send_error(s, rc);
		return;
	}
	/* A step is one vCPU's; the others wait, so that it means something. */
	if (step)
		resume(s, 1ull << s->run_cpu, 0);
	else
		resume(s, 0, UINT64_MAX);
}

/* vCont;s:1;c - the leftmost action that fits a thread is the one for it. */
static void on_vcont(struct hv_gdb_session *s, const char *at)
{
	uint64_t step = 0, go = 0, taken = 0, number;

	while (hv_gdb_skip(&at, ";")) {
		const char action = *at;
		enum hv_gdb_which which = HV_GDB_ALL;
		unsigned cpu = s->run_cpu;

		if (!action || !strchr("cCsS", action))
			goto wrong;
		at++;
		if ((action == 'C' || action == 'S') && !hv_gdb_get_number(&at, &number))
			goto wrong;
		if (hv_gdb_skip(&at, ":"))
			which = hv_gdb_thread_id(s, &at, &cpu);
		if (which == HV_GDB_NONE)
			goto wrong;
		const uint64_t mine = bits_of(s, which, cpu) & ~taken;
		if (action == 's' || action == 'S')
			step |= mine;
		else
			go |= mine;
		taken |= mine;
	}
	if (*at || !taken)
		goto wrong;
	resume(s, step, go);
	return;
wrong:
	hv_gdb_send_error(s, EINVAL);
}

static void end_session(struct hv_gdb_session *s, bool go_on)
{
	s->go_on = go_on;
	s->closing = true;
	hv_gdb_detach(&s->target, go_on);
}

static void kill_machine(struct hv_gdb_session *s)
{
	s->closing = true;
	hv_machine_end(s->target.machine, HV_END_QUIT);
}

static void on_v(struct hv_gdb_session *s, const char *at)
{
	if (hv_gdb_skip(&at, "Cont?")) {
		hv_gdb_send_text(s, "vCont;c;C;s;S");
	} else if (hv_gdb_skip(&at, "Cont")) {
		on_vcont(s, at);
	} else if (hv_gdb_skip(&at, "Kill")) {
		kill_machine(s);
		hv_gdb_send_text(s, "OK");
	} else {
		hv_gdb_send_text(s, ""); /* vMustReplyEmpty says what it wants */
	}
}

static void on_packet(struct hv_gdb_session *s)
{
	const char *at = s->parser.data;
	const char what = *at++;

	switch (what) {
	case '?':
		send_stop(s);
		break;
	case 'g':
		on_get_registers(s, at, true);
		break;
	case 'p':
		on_get_registers(s, at, false);
		break;
	case 'G':
		send_result(s, change_registers(s, at, true));
		break;
	case 'P':
		send_result(s, change_registers(s, at, false));
		break;
	case 'm':
		on_read(s, at);
		break;
	case 'M':
		send_result(s, change_memory(s, at, true));
		break;
	case 'X':
		send_result(s, change_memory(s, at, false));
		break;
	case 'c':
	case 'C':
		on_motion(s, at, false, what == 'C');
		break;
	case 's':
	case 'S':
		on_motion(s, at, true, what == 'S');
		break;
	case 'Z':
	case 'z':
		on_breakpoint(s, at, what == 'Z');
		break;
	case 'H':
		on_thread(s, at);
		break;
	case 'T':
		on_alive(s, at);
		break;
	case 'D':
		end_session(s, true);
		hv_gdb_send_text(s, "OK");
		break;
	case 'k':
		kill_machine(s);
		break;
	case 'q':
		hv_gdb_query(s, at);
		break;
	case 'Q':
		if (strcmp(at, "StartNoAckMode") == 0) {
			hv_gdb_send_text(s, "OK");
			s->no_ack = true;
		} else {
			hv_gdb_send_text(s, "");
		}
		break;
	case 'v':
		on_v(s, at);
		break;
	default:
		hv_gdb_send_text(s, "");
		break;
	}
}

/* The machine is stopped by the first thing that makes sense, not by a mere connection: a port scan isn't a
 * gdb. */
static bool attach(struct hv_gdb_session *s)
{
	struct hv_error err = {0};

	if (s->target.attached)
		return true;
	if (hv_gdb_attach(&s->target, &err) == 0) {
		s->stop = (struct hv_gdb_stop){.why = HV_GDB_STEPPED};
		return true;
	}
	hv_gdb_send_error(s, err.code);
	s->closing = true;
	return false;
}

void hv_gdb_session_init(struct hv_gdb_session *s, struct hv_machine *machine)
{
	memset(s, 0, sizeof(*s));
	hv_gdb_target_init(&s->target, machine);
}

void hv_gdb_session_reset(struct hv_gdb_session *s)
{
	hv_gdb_detach(&s->target, s->go_on);
	hv_gdb_text_free(&s->out);
	hv_gdb_text_free(&s->last);
	s->parser.state = HV_GDB_IDLE;
	s->no_ack = s->swbreak = s->hwbreak = s->closing = s->go_on = false;
	s->refused = s->cpu = s->run_cpu = 0;
}

void hv_gdb_session_free(struct hv_gdb_session *s)
{
	hv_gdb_session_reset(s);
	hv_gdb_target_free(&s->target);
}

void hv_gdb_session_byte(struct hv_gdb_session *s, uint8_t byte)
{
	if (s->closing)
		return;
	switch (hv_gdb_parse(&s->parser, byte)) {
	case HV_GDB_NOTHING:
		break;
	case HV_GDB_ACK:
		s->refused = 0;
		break;
	case HV_GDB_NAK:
		if (!s->no_ack && ++s->refused > REFUSED_MAX)
			s->closing = true;
		else if (!s->no_ack)
			hv_gdb_put(&s->out, s->last.data, s->last.length);
		break;
	case HV_GDB_BAD:
		if (!s->no_ack)
			hv_gdb_puts(&s->out, "-");
		break;
	case HV_GDB_INTERRUPT:
		if (s->target.attached && s->target.running) {
			hv_gdb_interrupt(&s->target, NULL);
			hv_gdb_session_event(s);
		}
		break;
	case HV_GDB_PACKET:
		if (!s->no_ack)
			hv_gdb_puts(&s->out, "+");
		if (attach(s))
			on_packet(s);
		break;
	}
}
