/*
 * --stats: where the exits went.
 */
#include <stdio.h>
#include <stdlib.h>

#include "hvrun.h"

struct row {
	unsigned reason;
	uint64_t count, user_ns, timed;
};

static int by_count(const void *a, const void *b)
{
	const struct row *x = a, *y = b;

	return (x->count < y->count) - (x->count > y->count);
}

/* "850 ns", "12.3 us", "4.56 s": three digits that a person compares at a glance. */
static const char *format_ns(double ns, char *buf, size_t size)
{
	static const char *const units[] = {"ns", "us", "ms", "s"};
	unsigned unit = 0;

	while (ns >= 1000 && unit + 1 < HV_ARRAY_SIZE(units)) {
		ns /= 1000;
		unit++;
	}
	snprintf(buf, size, "%.*f %s", unit == 0 || ns >= 100 ? 0 : ns >= 10 ? 1 : 2, ns, units[unit]);
	return buf;
}

static void add(struct row *row, struct hv_exit_counter *counter)
{
	row->count += atomic_load(&counter->count);
	row->user_ns += atomic_load(&counter->user_ns);
	row->timed += atomic_load(&counter->timed);
}

static void print_row(const char *name, const struct row *row, uint64_t total)
{
	char mean[24] = "-", sum[24] = "-";

	if (row->timed) {
		format_ns((double)row->user_ns / (double)row->timed, mean, sizeof(mean));
		format_ns((double)row->user_ns, sum, sizeof(sum));
	}
	fprintf(stderr, "%-16s %12llu %6.1f%% %10s %10s\n", name, (unsigned long long)row->count,
		total ? 100.0 * (double)row->count / (double)total : 0.0, mean, sum);
}

void report_stats(struct hv_machine *m)
{
	struct row rows[HV_EXIT_REASONS] = {0}, all = {0};
	uint64_t signals = 0, assisted[HV_ASSIST_KINDS] = {0};
	char up[24];

	for (unsigned i = 0; i < HV_EXIT_REASONS; i++) {
		rows[i].reason = i;
		for (unsigned cpu = 0; cpu < hv_machine_cpus(m); cpu++)
			add(&rows[i], &hv_machine_recorder(m, cpu)->counters[i]);
		all.count += rows[i].count;
		all.user_ns += rows[i].user_ns;
		all.timed += rows[i].timed;
	}
	for (unsigned cpu = 0; cpu < hv_machine_cpus(m); cpu++)
		signals += atomic_load(&hv_machine_recorder(m, cpu)->signals);
	for (unsigned kind = 0; kind < HV_ASSIST_KINDS; kind++)
		for (unsigned cpu = 0; cpu < hv_machine_cpus(m); cpu++)
			assisted[kind] += atomic_load(&hv_machine_recorder(m, cpu)->assisted[kind]);
	qsort(rows, HV_EXIT_REASONS, sizeof(rows[0]), by_count);

	fprintf(stderr, "%-16s %12s %7s %10s %10s\n", "exit", "count", "share", "mean", "total");
	for (unsigned i = 0; i < HV_EXIT_REASONS && rows[i].count; i++)
		print_row(hv_exit_name(rows[i].reason), &rows[i], all.count);
	print_row("all", &all, all.count);
	for (unsigned kind = 0; kind < HV_ASSIST_KINDS; kind++)
		if (assisted[kind])
			fprintf(stderr, "%s, which the back end does not know, was completed %llu times\n",
				hv_assist_name(kind), (unsigned long long)assisted[kind]);
	fprintf(stderr,
		"mean and total: time in user space per exit and altogether; %llu KVM_RUN cut short by a "
		"signal; %s since the start\n",
		(unsigned long long)signals, format_ns((double)hv_machine_uptime_ns(m), up, sizeof(up)));
}
