/*
 * Requests and responses without a socket: the envelope, its errors in QEMU's words, strict arguments, and
 * commands on a real machine.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "control/qmp_dispatch.h"
#include "fixture.h"

static struct hv_qmp_session session;

/* The response to text, as compact JSON; static. */
static const char *ask(const char *text)
{
	static char line[65536];
	json_t *r = hv_qmp_respond(&session, text, strlen(text));
	char *dump = json_dumps(r, JSON_COMPACT);

	cr_assert(dump);
	snprintf(line, sizeof(line), "%s", dump);
	free(dump);
	json_decref(r);
	return line;
}

static void expect(const char *request, const char *response)
{
	const char *got = ask(request);

	cr_assert_str_eq(got, response, "%s -> %s", request, got);
}

static void refuse(const char *request, const char *desc)
{
	char expected[512];

	snprintf(expected, sizeof(expected), "{\"error\":{\"class\":\"GenericError\",\"desc\":\"%s\"}}",
		 desc);
	expect(request, expected);
}

static void without_machine(void)
{
	hv_qmp_session_init(&session, NULL);
	session.negotiated = true;
}

static void close_session(void)
{
	hv_qmp_session_free(&session);
}

TestSuite(qmp_dispatch, .init = without_machine, .fini = close_session);

Test(qmp_dispatch, nothing_but_qmp_capabilities_works_before_negotiation)
{
	session.negotiated = false;
	expect("{\"execute\":\"query-version\"}",
	       "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"Expecting capabilities negotiation with "
	       "'qmp_capabilities'\"}}");
	refuse("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
	       "Capability 'oob' is not offered by the greeting");
	expect("{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}", "{\"return\":{}}");
	expect("{\"execute\":\"qmp_capabilities\",\"id\":1}",
	       "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":\"Capabilities negotiation is already "
	       "complete, "
	       "command ignored\"},\"id\":1}");
}

Test(qmp_dispatch, an_id_of_any_kind_comes_back)
{
	expect("{\"execute\":\"query-kvm\",\"id\":{\"a\":[1,null]}}",
	       "{\"return\":{\"enabled\":true,\"present\":true},\"id\":{\"a\":[1,null]}}");
	expect("{\"execute\":\"foo\",\"id\":\"x\"}", "{\"error\":{\"class\":\"CommandNotFound\",\"desc\":"
						     "\"The command foo has not been found\"},\"id\":\"x\"}");
}

Test(qmp_dispatch, a_malformed_request_is_told_what_is_wrong)
{
	refuse("[1]", "QMP input must be a JSON object");
	refuse("17", "QMP input must be a JSON object");
	refuse("{}", "QMP input lacks member 'execute'");
	refuse("{\"execute\":1}", "QMP input member 'execute' must be a string");
	refuse("{\"execute\":\"stop\",\"arguments\":[]}", "QMP input member 'arguments' must be an object");
	refuse("{\"execute\":\"stop\",\"foo\":1}", "QMP input member 'foo' is unexpected");
	cr_assert(strstr(ask("{\"execute\":"), "JSON parse error"));
	cr_assert(strstr(ask("{\"execute\":\"stop\",\"execute\":\"cont\"}"), "JSON parse error"));
	cr_assert(strstr(ask("\xc3\x28"), "\"error\""));
}

Test(qmp_dispatch, arguments_are_checked_strictly)
{
	refuse("{\"execute\":\"query-kvm\",\"arguments\":{\"a\":1}}", "Parameter 'a' is unexpected");
	refuse("{\"execute\":\"closefd\"}", "Parameter 'fdname' is missing");
	refuse("{\"execute\":\"closefd\",\"arguments\":{\"fdname\":3}}",
	       "Invalid parameter type for 'fdname', expected: string");
	refuse("{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":1,\"protocol\":\"fd:a\"}}",
	       "Invalid parameter type for 'paging', expected: boolean");
}

Test(qmp_dispatch, a_command_that_needs_a_machine_says_so_without_one)
{
	for (const struct hv_qmp_command *c = hv_qmp_commands_own; c->name; c++)
		cr_assert_not(c->offline);
	refuse("{\"execute\":\"stop\"}", "there is no machine here");
}

Test(qmp_dispatch, descriptors_get_names_and_are_closed)
{
	int fds[2];

	refuse("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}",
	       "No file descriptor supplied via SCM_RIGHTS");
	cr_assert_eq(pipe(fds), 0);
	hv_qmp_session_receive(&session, fds[1]);
	expect("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"a\"}}", "{\"return\":{}}");
	expect("{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"a\"}}", "{\"return\":{}}");
	cr_assert_eq(fcntl(fds[1], F_GETFD), -1);
	refuse("{\"execute\":\"closefd\",\"arguments\":{\"fdname\":\"a\"}}",
	       "File descriptor named 'a' not found");
	hv_qmp_session_receive(&session, fds[0]);
	refuse("{\"execute\":\"getfd\",\"arguments\":{\"fdname\":\"1a\"}}",
	       "Parameter 'fdname' expects a name not starting with a digit");
	cr_assert_eq(fcntl(fds[0], F_GETFD), -1);
}

Test(qmp_dispatch, descriptors_without_end_are_bounded)
{
	int fd;

	for (int i = 0; i < 100; i++)
		hv_qmp_session_receive(&session, dup(0));
	cr_assert_eq(session.pending_count, HV_QMP_PENDING_MAX);
	fd = dup(0);
	cr_assert_lt(fd, 50, "descriptors leak");
	close(fd);
}

Test(qmp_dispatch, a_pipe_is_no_place_for_a_dump)
{
	struct test_vm vm;
	int fds[2];

	test_vm_make(&vm, 1);
	session.machine = vm.machine;
	cr_assert_eq(pipe(fds), 0);
	cr_assert_eq(hv_qmp_session_name(&session, "p", fds[1], NULL), 0);
	cr_assert(strstr(ask("{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":false,"
			     "\"protocol\":\"fd:p\"}}"),
			 "not a regular file"));
	refuse("{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":false,\"protocol\":\"fd:q\"}}",
	       "File descriptor named 'q' has not been found");
	refuse("{\"execute\":\"dump-guest-memory\",\"arguments\":{\"paging\":false,\"protocol\":\"tcp:1\"}}",
	       "Invalid parameter 'protocol'");
	close(fds[0]);
	session.machine = NULL;
	test_vm_end(&vm);
}

Test(qmp_dispatch, a_machine_is_stopped_continued_examined_and_ended)
{
	struct hv_error err = {0};
	struct test_vm vm;

	test_vm_make(&vm, 2);
	session.machine = vm.machine;
	expect("{\"execute\":\"query-status\"}",
	       "{\"return\":{\"running\":false,\"singlestep\":false,\"status\":\"prelaunch\"}}");
	cr_assert_eq(hv_machine_start(vm.machine, false, &err), 0, "%s", err.text);
	expect("{\"execute\":\"query-status\"}",
	       "{\"return\":{\"running\":true,\"singlestep\":false,\"status\":\"running\"}}");
	while (atomic_load(&hv_machine_recorder(vm.machine, 0)->counters[KVM_EXIT_IO].count) == 0)
		usleep(1000);
	expect("{\"execute\":\"stop\"}", "{\"return\":{}}");
	expect("{\"execute\":\"query-status\"}",
	       "{\"return\":{\"running\":false,\"singlestep\":false,\"status\":\"paused\"}}");
	expect("{\"execute\":\"query-name\"}", "{\"return\":{\"name\":\"test\"}}");
	expect("{\"execute\":\"query-memory-size-summary\"}",
	       "{\"return\":{\"base-memory\":1048576,\"plugged-memory\":0}}");
	cr_assert(strstr(ask("{\"execute\":\"query-cpus-fast\"}"), "\"cpu-index\":1"));
	cr_assert(strstr(ask("{\"execute\":\"x-hv-info\",\"arguments\":{\"what\":\"devices\"}}"), "serial0"));
	cr_assert(strstr(ask("{\"execute\":\"x-hv-info\",\"arguments\":{\"what\":\"exits\"}}"), "\"io\""));
	cr_assert(strstr(ask("{\"execute\":\"x-hv-info\",\"arguments\":{\"what\":\"cpus\"}}"), "\"real\""));
	cr_assert(strstr(ask("{\"execute\":\"x-hv-info\",\"arguments\":{\"what\":\"irqs\"}}"), "irqchip"));
	refuse("{\"execute\":\"x-hv-info\",\"arguments\":{\"what\":\"cpus\",\"cpu-index\":2}}",
	       "Parameter 'cpu-index' expects a CPU number (0 to 1)");
	refuse("{\"execute\":\"x-hv-inject-irq\",\"arguments\":{\"irq\":24}}",
	       "Parameter 'irq' expects an interrupt line from 0 to 23");
	refuse("{\"execute\":\"x-hv-examine\",\"arguments\":{\"addr\":\"$rip+\"}}",
	       "'$rip+': not an address; write 0x1000, $rip or $rsp+8");
	refuse("{\"execute\":\"x-hv-examine\",\"arguments\":{\"addr\":0,\"count\":0}}",
	       "Parameter 'count' expects a number from 1 to 65536");
	cr_assert(
		strstr(ask("{\"execute\":\"x-hv-examine\",\"arguments\":{\"addr\":\"0x1000+0\",\"size\":1}}"),
		       "43"));
	expect("{\"execute\":\"cont\"}", "{\"return\":{}}");
	expect("{\"execute\":\"system_reset\"}", "{\"return\":{}}");
	expect("{\"execute\":\"quit\"}", "{\"return\":{}}");
	session.machine = NULL;
	test_vm_end(&vm);
}
