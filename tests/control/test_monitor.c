/*
 * What a person types becomes the right command of QMP, or a sentence about the usage; and runs on a machine.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "control/monitor.h"
#include "control/qmp_dispatch.h"
#include "fixture.h"

static void becomes(const char *line, const char *execute, const char *arguments)
{
	struct hv_monitor_request r;
	struct hv_error err = {0};
	json_t *expected = json_loads(arguments, 0, NULL);

	cr_assert_eq(hv_monitor_parse(line, &r, &err), 0, "%s: %s", line, err.text);
	cr_assert_str_eq(r.execute, execute);
	cr_assert(json_equal(r.arguments, expected), "%s: %s", line, json_dumps(r.arguments, 0));
	json_decref(expected);
	hv_monitor_free(&r);
}

static void is_wrong(const char *line)
{
	struct hv_monitor_request r;
	struct hv_error err = {0};

	cr_assert_eq(hv_monitor_parse(line, &r, &err), -EINVAL, "%s", line);
	cr_assert_eq(err.status, HV_EXIT_USAGE);
	cr_assert_neq(err.text[0], '\0');
	hv_monitor_free(&r);
}

Test(monitor, words_become_commands)
{
	becomes("pause", "stop", "{}");
	becomes("resume", "cont", "{}");
	becomes("stop", "quit", "{}");
	becomes("reset", "system_reset", "{}");
	becomes("info regs 3", "x-hv-info", "{\"what\":\"regs\",\"cpu-index\":3}");
	becomes("translate 0xffff0000", "x-hv-translate", "{\"addr\":\"0xffff0000\"}");
	becomes("inject nmi", "inject-nmi", "{}");
	becomes("inject irq 4", "x-hv-inject-irq", "{\"irq\":4}");
	becomes("set_link net0 off", "set_link", "{\"name\":\"net0\",\"up\":false}");
	becomes("set_link virtio-net3 up", "set_link", "{\"name\":\"virtio-net3\",\"up\":true}");
	becomes("trace on", "x-hv-trace", "{\"action\":\"on\"}");
}

Test(monitor, formats_are_those_of_qemus_monitor)
{
	becomes("x 0", "x-hv-examine",
		"{\"addr\":\"0\",\"physical\":false,\"count\":1,\"format\":\"x\",\"size\":4}");
	becomes("xp/12bx 0x10", "x-hv-examine",
		"{\"addr\":\"0x10\",\"physical\":true,\"count\":12,\"format\":\"x\",\"size\":1}");
	becomes("x/4i $rip 1", "x-hv-examine",
		"{\"addr\":\"$rip\",\"physical\":false,\"count\":4,\"format\":\"i\",\"size\":4,\"cpu-index\":"
		"1}");
	becomes("x/dg 8", "x-hv-examine",
		"{\"addr\":\"8\",\"physical\":false,\"count\":1,\"format\":\"d\",\"size\":8}");
}

Test(monitor, text_for_the_serial_line_ends_with_enter_unless_told)
{
	becomes("send hello world", "x-hv-send", "{\"data\":\"hello world\\r\"}");
	becomes("send 'a  b'", "x-hv-send", "{\"data\":\"a  b\\r\"}");
	becomes("send -n x\\x03\\t", "x-hv-send", "{\"data\":\"x\\u0003\\t\"}");
	becomes("send", "x-hv-send", "{\"data\":\"\\r\"}");
	becomes("send a\\n", "x-hv-send", "{\"data\":\"a\\n\"}");
}

Test(monitor, a_file_is_for_the_caller_to_open)
{
	struct hv_monitor_request r;

	cr_assert_eq(hv_monitor_parse("trace save 'a b.json'", &r, NULL), 0);
	cr_assert_str_eq(r.file, "a b.json");
	hv_monitor_free(&r);
	cr_assert_eq(hv_monitor_parse("dump -p core", &r, NULL), 0);
	cr_assert_str_eq(r.file, "core");
	cr_assert(json_is_true(json_object_get(r.arguments, "paging")));
	hv_monitor_free(&r);
}

Test(monitor, wrong_usage_is_said)
{
	is_wrong("bogus");
	is_wrong("pause now");
	is_wrong("info");
	is_wrong("info nothing");
	is_wrong("info devices 1");
	is_wrong("x");
	is_wrong("x/0 0");
	is_wrong("x/99999999999999999999 0");
	is_wrong("x/q 0");
	is_wrong("pause/3");
	is_wrong("inject irq 24");
	is_wrong("inject irq -1");
	is_wrong("set_link net0");
	is_wrong("set_link net0 maybe");
	is_wrong("trace");
	is_wrong("trace save");
	is_wrong("dump");
	is_wrong("dump ''");
	is_wrong("send 'open");
	is_wrong("send -n \\x00");
	is_wrong("a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a a");
	is_wrong("help bogus");
}

Test(monitor, every_command_has_help)
{
	for (const struct hv_monitor_command *c = hv_monitor_commands; c->name; c++) {
		char *text = hv_monitor_help(c->name);

		cr_assert(text && strncmp(text, c->name, strlen(c->name)) == 0);
		free(text);
	}
}

Test(monitor, text_is_made_of_any_json)
{
	static const char *const lines[] = {"status",    "info devices", "info irqs",  "info exits",
					    "info cpus", "info regs",    "info sregs", "info memory",
					    "x 0",       "translate 0"};
	static const char *const answers[] = {
		"{}",
		"[]",
		"[1,null,\"x\",[]]",
		"[{}]",
		"{\"lapic\":[{\"timer\":3}],\"pic\":[[]],\"ioapic\":[0]}",
		"{\"steps\":[1],\"rows\":[1],\"values\":[null],\"items\":[{}],\"slots\":[5]}"};

	for (size_t i = 0; i < HV_ARRAY_SIZE(lines); i++) {
		for (size_t k = 0; k < HV_ARRAY_SIZE(answers); k++) {
			json_t *answer = json_loads(answers[k], 0, NULL);
			struct hv_monitor_request r;
			char *text;

			cr_assert_eq(hv_monitor_parse(lines[i], &r, NULL), 0);
			text = hv_monitor_text(&r, answer);
			cr_assert(text, "%s of %s", lines[i], answers[k]);
			free(text);
			hv_monitor_free(&r);
			json_decref(answer);
		}
	}
}

Test(monitor, the_console_runs_lines_on_the_machine_and_opens_no_file_in_a_sandbox)
{
	struct hv_error err = {0};
	struct test_vm vm;
	char *text;

	test_vm_make(&vm, 1);
	cr_assert_eq(hv_machine_start(vm.machine, false, &err), 0, "%s", err.text);
	cr_assert_eq(hv_monitor_run(vm.machine, "pause", &text, &err), 0, "%s", err.text);
	cr_assert_str_eq(text, "paused\n");
	free(text);
	cr_assert_eq(hv_monitor_run(vm.machine, "status", &text, &err), 0, "%s", err.text);
	cr_assert(strstr(text, "test: paused"), "%s", text);
	free(text);
	cr_assert_eq(hv_monitor_run(vm.machine, "", &text, &err), 0);
	cr_assert_str_eq(text, "");
	free(text);
	cr_assert_eq(hv_monitor_run(vm.machine, "trace save x", &text, &err), -EPERM);
	cr_assert_null(text);
	test_vm_end(&vm);
}

Test(monitor, qemus_own_words_mean_what_they_mean_there)
{
	struct hv_error err = {0};
	struct hv_qmp_session s;
	struct test_vm vm;
	char *text;

	test_vm_make(&vm, 1);
	cr_assert_eq(hv_machine_start(vm.machine, false, &err), 0, "%s", err.text);
	hv_qmp_session_init(&s, vm.machine);
	cr_assert_eq(hv_monitor_run_qemu(&s, "stop", 0, &text), 0);
	cr_assert_eq(hv_machine_state(vm.machine), HV_STATE_PAUSED);
	free(text);
	cr_assert_eq(hv_monitor_run_qemu(&s, "cont", 0, &text), 0);
	cr_assert_eq(hv_machine_state(vm.machine), HV_STATE_RUNNING);
	free(text);
	cr_assert_eq(hv_monitor_run_qemu(&s, "bogus", 0, &text), 0);
	cr_assert(strstr(text, "bogus"));
	free(text);
	hv_qmp_session_free(&s);
	test_vm_end(&vm);
}
