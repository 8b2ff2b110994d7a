/*
 * From a request to a response: see qmp_dispatch.h. The envelope, its errors and their words follow QEMU's
 * (docs/interop/qmp-spec, sections 2.3 to 2.5), because clients have been written against them.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "control/qmp_dispatch.h"

void hv_qmp_session_init(struct hv_qmp_session *s, struct hv_machine *machine)
{
	memset(s, 0, sizeof(*s));
	s->machine = machine;
}

void hv_qmp_session_free(struct hv_qmp_session *s)
{
	for (unsigned i = 0; i < s->pending_count; i++)
		close(s->pending[i]);
	for (unsigned i = 0; i < s->fd_count; i++) {
		close(s->fds[i].fd);
		free(s->fds[i].name);
	}
	hv_qmp_session_init(s, s->machine);
}

void hv_qmp_session_receive(struct hv_qmp_session *s, int fd)
{
	if (s->pending_count == HV_QMP_PENDING_MAX)
		close(fd); /* a client that sends more than it names: getfd will tell it */
	else
		s->pending[s->pending_count++] = fd;
}

int hv_qmp_session_name(struct hv_qmp_session *s, const char *name, int fd, struct hv_error *err)
{
	unsigned i = 0;

	while (i < s->fd_count && strcmp(s->fds[i].name, name) != 0)
		i++;
	if (i < s->fd_count) { /* the same name again: the new one takes its place, as in QEMU */
		close(s->fds[i].fd);
		s->fds[i].fd = fd;
		return 0;
	}
	if (i == HV_QMP_FDS_MAX) {
		close(fd);
		return hv_fail(err, ENOSPC, "this connection holds %u descriptors already; use closefd",
			       HV_QMP_FDS_MAX);
	}
	s->fds[i].name = strdup(name);
	if (!s->fds[i].name) {
		close(fd);
		return hv_fail(err, ENOMEM, "not enough memory");
	}
	s->fds[i].fd = fd;
	s->fd_count++;
	return 0;
}

/* Takes the named descriptor out of the session: each serves one command. */
static int take_named(struct hv_qmp_session *s, const char *name)
{
	for (unsigned i = 0; i < s->fd_count; i++) {
		int fd = s->fds[i].fd;

		if (strcmp(s->fds[i].name, name) != 0)
			continue;
		free(s->fds[i].name);
		s->fds[i] = s->fds[--s->fd_count];
		return fd;
	}
	return -1;
}

int hv_qmp_open_protocol(struct hv_qmp_session *s, const char *protocol, struct hv_file *f,
			 struct hv_error *err)
{
	struct stat st;

	f->fd = f->dir = -1;
	if (strncmp(protocol, "file:", 5) == 0) {
		if (s->machine && hv_machine_config(s->machine)->sandbox)
			return hv_fail(
				err, EPERM,
				"the VM is locked into its sandbox and opens no files: pass a descriptor "
				"by getfd and use protocol fd:NAME, as `hvctl NAME dump FILE` does");
		return hv_file_begin(f, protocol + 5, 0600, err);
	}
	if (strncmp(protocol, "fd:", 3) != 0)
		return hv_fail(err, EINVAL, "Invalid parameter 'protocol'");
	f->fd = take_named(s, protocol + 3);
	if (f->fd < 0)
		return hv_fail(err, EBADF, "File descriptor named '%.100s' has not been found", protocol + 3);
	if (fstat(f->fd, &st) == 0 && S_ISREG(st.st_mode) && lseek(f->fd, 0, SEEK_SET) == 0)
		return 0;
	close(f->fd);
	return hv_fail(err, EINVAL, "%.100s: not a regular file; write to a file and read it from there",
		       protocol);
}

int hv_qmp_close_protocol(struct hv_file *f, int rc, struct hv_error *err)
{
	if (f->dir < 0)
		close(f->fd);
	else if (rc)
		hv_file_abandon(f);
	else
		rc = hv_file_commit(f, err);
	return rc;
}

json_t *hv_qmp_error(const char *class_name, const char *desc)
{
	return json_pack("{s:{s:s, s:s}}", "error", "class", class_name, "desc", desc);
}

json_t *hv_qmp_version(void)
{
	int major = 0, minor = 0, micro = 0;

	(void)sscanf(HV_VERSION, "%d.%d.%d", &major, &minor, &micro);
	return json_pack("{s:{s:i, s:i, s:i}, s:s}", "qemu", "micro", micro, "minor", minor, "major", major,
			 "package", "hvkit " HV_VERSION);
}

json_t *hv_qmp_greeting(void)
{
	return json_pack("{s:{s:o, s:[]}}", "QMP", "version", hv_qmp_version(), "capabilities");
}

void hv_qmp_prepare(void)
{
	size_t seed = 0;

	if (getrandom(&seed, sizeof(seed), GRND_NONBLOCK) != sizeof(seed))
		seed = (size_t)getpid();
	json_object_seed(seed | 1); /* 0 would ask jansson to open /dev/urandom */
}

json_t *hv_json_hex(uint64_t v)
{
	char text[24];

	snprintf(text, sizeof(text), "0x%llx", (unsigned long long)v);
	return json_string(text);
}

json_int_t hv_qmp_int(const json_t *args, const char *name, json_int_t otherwise)
{
	const json_t *v = json_object_get(args, name);

	return json_is_integer(v) ? json_integer_value(v) : otherwise;
}

int hv_qmp_cpu(const struct hv_qmp_session *s, const json_t *args, unsigned *cpu, struct hv_error *err)
{
	json_int_t v = hv_qmp_int(args, "cpu-index", 0);

	if (v < 0 || v >= (json_int_t)hv_machine_cpus(s->machine))
		return hv_fail(err, EINVAL, "Parameter 'cpu-index' expects a CPU number (0 to %u)",
			       hv_machine_cpus(s->machine) - 1);
	*cpu = (unsigned)v;
	return 0;
}

/* --- arguments --- */

static bool type_fits(const json_t *v, char type, const char **expected)
{
	switch (type) {
	case 's':
		*expected = "string";
		return json_is_string(v);
	case 'i':
		*expected = "integer";
		return json_is_integer(v);
	case 'b':
		*expected = "boolean";
		return json_is_boolean(v);
	case 'l':
		*expected = "array";
		return json_is_array(v);
	default:
		*expected = "integer or string";
		return json_is_integer(v) || json_is_string(v);
	}
}

static int check_args(const struct hv_qmp_command *c, json_t *args, struct hv_error *err)
{
	const char *expected, *key;
	size_t known = 0;
	void *it;

	for (const struct hv_qmp_arg *a = c->args; a < c->args + HV_QMP_ARGS_MAX && a->name; a++) {
		const json_t *v = json_object_get(args, a->name);

		if (!v && !a->optional)
			return hv_fail(err, EINVAL, "Parameter '%s' is missing", a->name);
		if (v && !type_fits(v, a->type, &expected))
			return hv_fail(err, EINVAL, "Invalid parameter type for '%s', expected: %s", a->name,
				       expected);
		known += v != NULL;
	}
	if (known == json_object_size(args))
		return 0;
	for (it = json_object_iter(args); it; it = json_object_iter_next(args, it)) {
		bool found = false;

		key = json_object_iter_key(it);
		for (const struct hv_qmp_arg *a = c->args; a < c->args + HV_QMP_ARGS_MAX && a->name; a++)
			found |= strcmp(a->name, key) == 0;
		if (!found)
			return hv_fail(err, EINVAL, "Parameter '%.100s' is unexpected", key);
	}
	return 0;
}

static const struct hv_qmp_command *find_in(const struct hv_qmp_command *table, const char *name)
{
	for (; table->name; table++) {
		if (strcmp(table->name, name) == 0)
			return table;
	}
	return NULL;
}

static const struct hv_qmp_command *find(const char *name)
{
	const struct hv_qmp_command *c = find_in(hv_qmp_commands_qemu, name);

	return c ? c : find_in(hv_qmp_commands_own, name);
}

static int run(struct hv_qmp_session *s, const struct hv_qmp_command *c, json_t *args, json_t **result,
	       struct hv_error *err)
{
	int rc;

	*result = NULL;
	*err = (struct hv_error){0};
	rc = check_args(c, args, err);
	if (!rc && !s->machine && !c->offline)
		rc = hv_fail(err, ENODEV, "there is no machine here");
	if (!rc)
		rc = c->run(s, args, result, err);
	if (!rc && !*result)
		*result = json_object();
	if (rc) {
		json_decref(*result);
		*result = NULL;
	}
	return !rc && !*result ? hv_fail(err, ENOMEM, "not enough memory for the answer") : rc;
}

int hv_qmp_call(struct hv_qmp_session *s, const char *name, json_t *args, json_t **result,
		struct hv_error *err)
{
	const struct hv_qmp_command *c = find(name);
	struct hv_error own;

	*result = NULL;
	if (!c)
		return hv_fail(err, ENOSYS, "The command %.100s has not been found", name);
	return run(s, c, args, result, err ? err : &own);
}

/* --- the envelope --- */

/* What is wrong with the request's form, into text; false when nothing is. */
static bool malformed(json_t *request, char *text, size_t size)
{
	const json_t *execute = json_object_get(request, "execute"),
		     *args = json_object_get(request, "arguments");
	const char *key;
	void *it;

	if (!json_is_object(request)) {
		snprintf(text, size, "QMP input must be a JSON object");
		return true;
	}
	for (it = json_object_iter(request); it; it = json_object_iter_next(request, it)) {
		key = json_object_iter_key(it);
		if (strcmp(key, "execute") == 0 || strcmp(key, "arguments") == 0 || strcmp(key, "id") == 0)
			continue;
		if (strcmp(key, "exec-oob") == 0)
			snprintf(text, size,
				 "QMP input member 'exec-oob' needs the capability 'oob', which is not "
				 "offered");
		else
			snprintf(text, size, "QMP input member '%.100s' is unexpected", key);
		return true;
	}
	if (!execute)
		snprintf(text, size, "QMP input lacks member 'execute'");
	else if (!json_is_string(execute))
		snprintf(text, size, "QMP input member 'execute' must be a string");
	else if (args && !json_is_object(args))
		snprintf(text, size, "QMP input member 'arguments' must be an object");
	else
		return false;
	return true;
}

static json_t *execute(struct hv_qmp_session *s, json_t *request)
{
	const char *name = json_string_value(json_object_get(request, "execute"));
	const struct hv_qmp_command *c = find(name);
	bool negotiating = strcmp(name, "qmp_capabilities") == 0;
	struct hv_error err = {0};
	char text[160];
	json_t *result;
	int rc;

	if (!s->negotiated && !negotiating)
		return hv_qmp_error("CommandNotFound",
				    "Expecting capabilities negotiation with 'qmp_capabilities'");
	if (s->negotiated && negotiating)
		return hv_qmp_error("CommandNotFound",
				    "Capabilities negotiation is already complete, command ignored");
	if (!c) {
		snprintf(text, sizeof(text), "The command %.100s has not been found", name);
		return hv_qmp_error("CommandNotFound", text);
	}
	rc = run(s, c, json_object_get(request, "arguments"), &result, &err);
	if (rc)
		return hv_qmp_error(rc == -HV_QMP_NOT_ACTIVE ? "DeviceNotActive" : "GenericError", err.text);
	return json_pack("{s:o}", "return", result);
}

/* A sentence cut in the middle of a UTF-8 sequence would make json_pack fail; then the class alone must do.
 */
static json_t *or_plain(json_t *response)
{
	return response ? response : hv_qmp_error("GenericError", "the answer cannot be put into words here");
}

json_t *hv_qmp_respond(struct hv_qmp_session *s, const char *text, size_t length)
{
	json_error_t where;
	json_t *request, *response, *id;
	char wrong[256];

	request = json_loadb(text, length, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &where);
	if (!request) {
		snprintf(wrong, sizeof(wrong), "JSON parse error, %s", where.text);
		return or_plain(hv_qmp_error("GenericError", wrong));
	}
	response = or_plain(malformed(request, wrong, sizeof(wrong)) ? hv_qmp_error("GenericError", wrong)
								     : execute(s, request));
	id = json_object_get(request, "id");
	if (id && response)
		json_object_set(response, "id", id);
	json_decref(request);
	return response;
}
