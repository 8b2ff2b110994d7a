/*
 * One gdb's conversation, the queries: what the stub can do, the target's description, its threads, and
 * `monitor`, which is the monitor that hvctl uses. Calls gdb_session.c to send, gdb_regs.c, the monitor.
 * Rules: "Debugging with GDB", E.4 (general queries), G (target descriptions).
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "control/gdb_session.h"
#include "control/qmp.h"

static void on_supported(struct hv_gdb_session *s, const char *at)
{
	struct hv_gdb_text t = {0};

	s->swbreak = strstr(at, "swbreak+") != NULL;
	s->hwbreak = strstr(at, "hwbreak+") != NULL;
	hv_gdb_printf(&t,
		      "PacketSize=%x;qXfer:features:read+;QStartNoAckMode+;vContSupported+;swbreak+;hwbreak+",
		      HV_GDB_PACKET_MAX);
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

static void on_features(struct hv_gdb_session *s, const char *at)
{
	struct hv_gdb_text xml = {0}, t = {0};
	uint64_t offset, length;

	if (!hv_gdb_skip(&at, "target.xml:") || !hv_gdb_get_range(&at, &offset, &length)) {
		hv_gdb_send_text(s, "E00");
		return;
	}
	hv_gdb_describe(&xml);
	/* Escaping can double the content. */
	length = length < HV_GDB_BYTES_MAX ? length : HV_GDB_BYTES_MAX;
	offset = offset < xml.length ? offset : xml.length;
	const bool last = length >= xml.length - offset;
	if (last)
		length = xml.length - offset;
	hv_gdb_puts(&t, last ? "l" : "m");
	hv_gdb_put(&t, xml.data + offset, length);
	t.failed |= xml.failed;
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
	hv_gdb_text_free(&xml);
}

static void on_thread_list(struct hv_gdb_session *s)
{
	struct hv_gdb_text t = {0};

	for (unsigned cpu = 0; cpu < s->target.cpus; cpu++)
		hv_gdb_printf(&t, "%s%x", cpu ? "," : "m", cpu + 1);
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

static void on_thread_info(struct hv_gdb_session *s, const char *at)
{
	struct hv_gdb_text t = {0};
	unsigned cpu = s->cpu;
	char name[32];
	int n;

	if (hv_gdb_thread_id(s, &at, &cpu) != HV_GDB_ONE) {
		hv_gdb_send_error(s, EINVAL);
		return;
	}
	n = snprintf(name, sizeof(name), "vCPU %u", cpu);
	hv_gdb_put_hex(&t, name, (size_t)n);
	hv_gdb_send(s, &t);
	hv_gdb_text_free(&t);
}

/* What the monitor says goes out as console output, in as many packets as it takes. */
static void send_console(struct hv_gdb_session *s, const char *text)
{
	size_t left = strlen(text);

	while (left > 0) {
		struct hv_gdb_text t = {0};
		const size_t n = left < HV_GDB_BYTES_MAX ? left : HV_GDB_BYTES_MAX;

		hv_gdb_puts(&t, "O");
		hv_gdb_put_hex(&t, text, n);
		hv_gdb_send(s, &t);
		hv_gdb_text_free(&t);
		text += n;
		left -= n;
	}
}

static void on_monitor(struct hv_gdb_session *s, const char *at)
{
	const size_t length = strlen(at) / 2;
	struct hv_error err = {0};
	char line[1024], *answer = NULL;

	if (length >= sizeof(line) || strlen(at) % 2 || !hv_gdb_get_hex(&at, line, length)) {
		hv_gdb_send_error(s, EINVAL);
		return;
	}
	line[length] = '\0';
	if (hv_monitor_run(s->target.machine, line, &answer, &err) < 0) {
		send_console(s, err.text);
		send_console(s, "\n");
	} else if (answer) {
		send_console(s, answer);
	}
	free(answer);
	hv_gdb_send_text(s, "OK");
}

void hv_gdb_query(struct hv_gdb_session *s, const char *at)
{
	struct hv_gdb_text t = {0};

	if (hv_gdb_skip(&at, "Supported")) {
		on_supported(s, at);
	} else if (hv_gdb_skip(&at, "Xfer:features:read:")) {
		on_features(s, at);
	} else if (hv_gdb_skip(&at, "fThreadInfo")) {
		on_thread_list(s);
	} else if (hv_gdb_skip(&at, "sThreadInfo")) {
		hv_gdb_send_text(s, "l");
	} else if (hv_gdb_skip(&at, "ThreadExtraInfo,")) {
		on_thread_info(s, at);
	} else if (hv_gdb_skip(&at, "Attached")) {
		hv_gdb_send_text(s, "1"); /* so that gdb detaches when it leaves, instead of killing */
	} else if (hv_gdb_skip(&at, "Rcmd,")) {
		on_monitor(s, at);
	} else if (strcmp(at, "C") == 0) {
		hv_gdb_printf(&t, "QC%x", s->cpu + 1);
		hv_gdb_send(s, &t);
		hv_gdb_text_free(&t);
	} else {
		hv_gdb_send_text(s, "");
	}
}
