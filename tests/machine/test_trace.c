/*
 * Exits as text and as a Chrome trace.
 */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "machine/trace.h"

TestSuite(trace, .timeout = 20);

static const char *line(struct hv_exit_record rec)
{
	static char buf[160];

	return hv_exit_record_format(&rec, buf, sizeof(buf));
}

Test(trace, a_record_is_one_readable_line)
{
	cr_assert_str_eq(line((struct hv_exit_record){.reason = KVM_EXIT_IO,
						      .write = true,
						      .addr = 0x3f8,
						      .size = 1,
						      .count = 1,
						      .value = 0x48}),
			 "io        out 0x3f8 1 byte 0x48");
	cr_assert_str_eq(line((struct hv_exit_record){.reason = KVM_EXIT_IO,
						      .addr = 0x70,
						      .size = 2,
						      .count = 9,
						      .value = 0xffff,
						      .unclaimed = true}),
			 "io        in 0x70 2 bytes x 9 0xffff (no device)");
	cr_assert_str_eq(
		line((struct hv_exit_record){
			.reason = KVM_EXIT_MMIO, .write = true, .addr = 0xfee00000, .size = 4, .value = 7}),
		"mmio      write 0xfee00000 4 bytes 0x7");
	cr_assert_str_eq(line((struct hv_exit_record){.reason = KVM_EXIT_HLT}), "hlt");
	cr_assert_not_null(strstr(line((struct hv_exit_record){.reason = KVM_EXIT_INTERNAL_ERROR, .addr = 1}),
				  "suberror 1"));
}

Test(trace, a_short_buffer_is_not_overrun)
{
	struct hv_exit_record rec = {.reason = KVM_EXIT_MMIO,
				     .addr = UINT64_MAX,
				     .value = UINT64_MAX,
				     .size = 255,
				     .unclaimed = true};
	char buf[9];

	memset(buf, 'x', sizeof(buf));
	hv_exit_record_format(&rec, buf, 8);
	cr_assert_eq(strlen(buf), 7);
	cr_assert_eq(buf[8], 'x');
}

/* What hv_trace_write made of the recorders, parsed by a JSON reader that is not ours. */
static json_t *written(const char *name, const struct hv_recorder *const *recorders, unsigned count)
{
	char path[] = "/tmp/hv-trace-XXXXXX";
	struct hv_error err;
	json_error_t at;
	json_t *trace;
	int fd = mkstemp(path);

	cr_assert(fd >= 0);
	unlink(path);
	cr_assert_eq(hv_trace_write(fd, name, recorders, count, &err), 0);
	lseek(fd, 0, SEEK_SET);
	trace = json_loadfd(fd, JSON_REJECT_DUPLICATES, &at);
	cr_assert_not_null(trace, "line %d: %s", at.line, at.text);
	close(fd);
	return trace;
}

static void add(struct hv_recorder *r, struct hv_exit_record rec)
{
	r->ring[r->total++ & (r->capacity - 1)] = rec;
}

Test(trace, events_have_what_the_format_asks_for)
{
	static struct hv_recorder a, b;
	const struct hv_recorder *both[] = {&a, &b};
	json_t *trace, *events, *e;
	double ts, dur;

	hv_recorder_init(&a);
	hv_recorder_init(&b);
	add(&a, (struct hv_exit_record){.at_ns = 5000001500,
					.user_ns = 2250,
					.reason = KVM_EXIT_IO,
					.write = true,
					.size = 1,
					.count = 1,
					.addr = 0x3f8,
					.value = 0x48});
	add(&b, (struct hv_exit_record){.at_ns = 5000000500, .user_ns = 10, .reason = KVM_EXIT_HLT});
	trace = written("a \"vm\"\n\x80", both, 2);
	events = json_object_get(trace, "traceEvents");
	cr_assert_eq(json_array_size(events), 5); /* process, two threads, two exits */
	e = json_array_get(events, 3);
	cr_assert_str_eq(json_string_value(json_object_get(e, "ph")), "X");
	cr_assert_str_eq(json_string_value(json_object_get(e, "name")), "out 0x3f8");
	cr_assert_eq(json_integer_value(json_object_get(e, "tid")), 0);
	ts = json_number_value(json_object_get(e, "ts"));
	dur = json_number_value(json_object_get(e, "dur"));
	cr_assert(ts > 0.999 && ts < 1.001, "%f us since the first record of all vCPUs", ts);
	cr_assert(dur > 2.249 && dur < 2.251);
	cr_assert_str_eq(json_string_value(json_object_get(json_object_get(e, "args"), "value")), "0x48");
	json_decref(trace);
}

Test(trace, untimed_and_overwritten_records_are_counted_as_dropped)
{
	static struct hv_recorder r;
	const struct hv_recorder *one[] = {&r};
	json_t *trace;

	hv_recorder_init(&r);
	add(&r, (struct hv_exit_record){.reason = KVM_EXIT_HLT});
	for (unsigned i = 1; i < 100; i++)
		add(&r, (struct hv_exit_record){.at_ns = i * 1000, .reason = KVM_EXIT_HLT});
	trace = written("vm", one, 1);
	cr_assert_eq(json_array_size(json_object_get(trace, "traceEvents")), 2 + HV_LAST_EXITS);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(trace, "otherData"), "dropped")),
		     100 - HV_LAST_EXITS);
	json_decref(trace);
}

Test(trace, exits_before_tracing_began_are_not_missed)
{
	static struct hv_recorder r;
	const struct hv_recorder *one[] = {&r};
	struct hv_error err;
	json_t *trace;

	hv_recorder_init(&r);
	for (unsigned i = 0; i < 100; i++)
		add(&r, (struct hv_exit_record){.reason = KVM_EXIT_HLT});
	cr_assert_eq(hv_recorder_trace(&r, true, &err), 0);
	add(&r, (struct hv_exit_record){.at_ns = 1000, .reason = KVM_EXIT_HLT});
	trace = written("vm", one, 1);
	cr_assert_eq(json_array_size(json_object_get(trace, "traceEvents")), 2 + 1);
	cr_assert_eq(json_integer_value(json_object_get(json_object_get(trace, "otherData"), "dropped")), 0);
	json_decref(trace);
	hv_recorder_free(&r);
}

Test(trace, every_exit_number_makes_valid_json)
{
	static struct hv_recorder r;
	const struct hv_recorder *one[] = {&r};
	struct hv_error err;

	hv_recorder_init(&r);
	cr_assert_eq(hv_recorder_trace(&r, true, &err), 0);
	for (unsigned i = 0; i < HV_EXIT_REASONS; i++)
		add(&r, (struct hv_exit_record){.at_ns = 1 + i,
						.user_ns = UINT32_MAX,
						.reason = (uint8_t)i,
						.size = 8,
						.count = UINT32_MAX,
						.addr = UINT64_MAX,
						.value = UINT64_MAX,
						.unclaimed = true});
	json_decref(written("", one, 1));
	hv_recorder_free(&r);
}

Test(trace, a_full_disk_is_told)
{
	static struct hv_recorder r;
	const struct hv_recorder *one[] = {&r};
	struct hv_error err = {0};
	int fd = open("/dev/full", O_WRONLY);

	hv_recorder_init(&r);
	cr_assert_eq(hv_trace_write(fd, "vm", one, 1, &err), -ENOSPC);
	cr_assert_neq(err.text[0], '\0');
	close(fd);
}
