/*
 * QMP's commands that QEMU has too, with QEMU's names, arguments and answers (qemu-qmp-ref(7)). What hvkit
 * adds is in qmp_own.c. They call machine and the other files of control.
 */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/dump.h"
#include "control/monitor.h"
#include "control/qmp_dispatch.h"

static int capabilities(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const json_t *enable = json_object_get(args, "enable"), *v;
	size_t i;

	json_array_foreach(enable, i, v)
	{
		if (!json_is_string(v))
			return hv_fail(err, EINVAL,
				       "Invalid parameter type for 'enable[%zu]', expected: string", i);
		return hv_fail(err, EINVAL, "Capability '%.40s' is not offered by the greeting",
			       json_string_value(v));
	}
	s->negotiated = true;
	return 0;
}

static int query_status(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_qmp_info(s->machine, "run-state", 0, result, err);
}

static int query_version(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = hv_qmp_version();
	return 0;
}

static int query_name(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = json_pack("{s:s}", "name", hv_machine_config(s->machine)->name);
	return 0;
}

static int query_kvm(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = json_pack("{s:b, s:b}", "enabled", 1, "present", 1);
	return 0;
}

static int query_cpus_fast(struct hv_qmp_session *s, const json_t *args, json_t **result,
			   struct hv_error *err)
{
	char path[48];

	*result = json_array();
	for (unsigned i = 0; i < hv_machine_cpus(s->machine); i++) {
		snprintf(path, sizeof(path), "/machine/cpu[%u]", i);
		json_array_append_new(*result,
				      json_pack("{s:i, s:s, s:i, s:{s:i, s:i, s:i}, s:s}", "cpu-index",
						(int)i, "qom-path", path, "thread-id",
						hv_machine_thread_id(s->machine, i), "props", "socket-id",
						(int)i, "core-id", 0, "thread-id", 0, "target", "x86_64"));
	}
	return 0;
}

static int query_memory(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = json_pack("{s:I, s:I}", "base-memory",
			    (json_int_t)hv_memory_size(hv_machine_memory(s->machine)), "plugged-memory",
			    (json_int_t)0);
	return 0;
}

static int balloon(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	json_int_t value = hv_qmp_int(args, "value", 0);

	return hv_machine_balloon_set(s->machine, value > 0 ? (uint64_t)value : 0, err);
}

static int query_balloon(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_qmp_info(s->machine, "balloon", 0, result, err);
}

static int query_commands(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = json_array();
	for (const struct hv_qmp_command *c = hv_qmp_commands_qemu; c->name; c++)
		json_array_append_new(*result, json_pack("{s:s}", "name", c->name));
	for (const struct hv_qmp_command *c = hv_qmp_commands_own; c->name; c++)
		json_array_append_new(*result, json_pack("{s:s}", "name", c->name));
	return 0;
}

static int stop(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_machine_pause(s->machine, err);
}

static int cont(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_machine_resume(s->machine, err);
}

static int quit(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	hv_machine_end(s->machine, HV_END_QUIT);
	return 0;
}

static int system_reset(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_machine_reset(s->machine, err);
}

/* QEMU's inject-nmi reaches every CPU of an x86 machine. */
static int inject_nmi(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	int rc = 0;

	for (unsigned i = 0; i < hv_machine_cpus(s->machine) && !rc; i++)
		rc = hv_machine_nmi(s->machine, i, err);
	return rc;
}

static int block_resize(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *device = json_string_value(json_object_get(args, "device"));
	const char *node = json_string_value(json_object_get(args, "node-name"));
	json_int_t size = hv_qmp_int(args, "size", 0);

	if (!device == !node)
		return hv_fail(err, EINVAL,
			       device ? "'device' and 'node-name' name the same thing: give one of them"
				      : "Parameter 'device' is missing");
	if (size <= 0)
		return hv_fail(err, EINVAL, "Parameter 'size' expects a >0 size");
	return hv_machine_resize_disk(s->machine, device ? device : node, (uint64_t)size, err);
}

static int set_link(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	return hv_machine_set_link(s->machine, json_string_value(json_object_get(args, "name")),
				   json_is_true(json_object_get(args, "up")), err);
}

static int getfd(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *name = json_string_value(json_object_get(args, "fdname"));
	int fd;

	if (!s->pending_count)
		return hv_fail(err, EBADF, "No file descriptor supplied via SCM_RIGHTS");
	fd = s->pending[0];
	memmove(s->pending, s->pending + 1, --s->pending_count * sizeof(s->pending[0]));
	if (name[0] >= '0' && name[0] <= '9') {
		close(fd);
		return hv_fail(err, EINVAL, "Parameter 'fdname' expects a name not starting with a digit");
	}
	return hv_qmp_session_name(s, name, fd, err);
}

static int closefd(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *name = json_string_value(json_object_get(args, "fdname"));

	for (unsigned i = 0; i < s->fd_count; i++) {
		if (strcmp(s->fds[i].name, name) != 0)
			continue;
		close(s->fds[i].fd);
		free(s->fds[i].name);
		s->fds[i] = s->fds[--s->fd_count];
		return 0;
	}
	return hv_fail(err, ENOENT, "File descriptor named '%.100s' not found", name);
}

static int dump_memory(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	const char *protocol = json_string_value(json_object_get(args, "protocol"));
	const char *format = json_string_value(json_object_get(args, "format"));
	bool paging = json_is_true(json_object_get(args, "paging"));
	struct hv_file f;
	int rc;

	if (json_object_get(args, "begin") || json_object_get(args, "length"))
		return hv_fail(err, ENOTSUP,
			       "'begin' and 'length' are not supported: the whole memory is dumped");
	if (json_is_true(json_object_get(args, "detach")))
		return hv_fail(err, ENOTSUP,
			       "'detach' is not supported: other connections are served during a dump");
	if (format && strcmp(format, "elf") != 0)
		return hv_fail(err, EINVAL, "Parameter 'format' does not accept value '%.40s'", format);
	rc = hv_qmp_open_protocol(s, protocol, &f, err);
	if (rc)
		return rc;
	rc = hv_dump(s->machine, f.fd, paging, err);
	return hv_qmp_close_protocol(&f, rc, err);
}

static int query_dump(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	*result = json_pack("{s:[s]}", "formats", "elf");
	return 0;
}

/* As in QEMU, what goes wrong in the monitor is text for the person, not an error of QMP. */
static int human_monitor(struct hv_qmp_session *s, const json_t *args, json_t **result, struct hv_error *err)
{
	unsigned cpu;
	char *text;
	int rc = hv_qmp_cpu(s, args, &cpu, err);

	if (rc)
		return rc;
	rc = hv_monitor_run_qemu(s, json_string_value(json_object_get(args, "command-line")), cpu, &text);
	if (rc)
		return hv_fail(err, -rc, "not enough memory");
	*result = json_string(text);
	free(text);
	return 0;
}

const struct hv_qmp_command hv_qmp_commands_qemu[] = {
	{"qmp_capabilities", capabilities, true, {{"enable", 'l', true}}},
	{"query-status", query_status, false, {{0}}},
	{"query-version", query_version, true, {{0}}},
	{"query-name", query_name, false, {{0}}},
	{"query-kvm", query_kvm, true, {{0}}},
	{"query-cpus-fast", query_cpus_fast, false, {{0}}},
	{"query-memory-size-summary", query_memory, false, {{0}}},
	{"balloon", balloon, false, {{"value", 'i', false}}},
	{"query-balloon", query_balloon, false, {{0}}},
	{"query-commands", query_commands, true, {{0}}},
	{"stop", stop, false, {{0}}},
	{"cont", cont, false, {{0}}},
	{"quit", quit, false, {{0}}},
	{"system_reset", system_reset, false, {{0}}},
	{"inject-nmi", inject_nmi, false, {{0}}},
	{"block_resize",
	 block_resize,
	 false,
	 {{"device", 's', true}, {"node-name", 's', true}, {"size", 'i', false}}},
	{"set_link", set_link, false, {{"name", 's', false}, {"up", 'b', false}}},
	{"getfd", getfd, true, {{"fdname", 's', false}}},
	{"closefd", closefd, true, {{"fdname", 's', false}}},
	{"dump-guest-memory",
	 dump_memory,
	 false,
	 {{"paging", 'b', false},
	  {"protocol", 's', false},
	  {"detach", 'b', true},
	  {"begin", 'i', true},
	  {"length", 'i', true},
	  {"format", 's', true}}},
	{"query-dump-guest-memory-capability", query_dump, true, {{0}}},
	{"human-monitor-command",
	 human_monitor,
	 false,
	 {{"command-line", 's', false}, {"cpu-index", 'i', true}}},
	{0},
};
