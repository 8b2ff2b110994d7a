/*
 * The progress bar: what it says, that it fits, and that figures keep their width.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "hvmigrate.h"

#define SECOND 1000000000ULL
#define MIB    (1ULL << 20)

static struct hv_convert_progress step_of(uint64_t size, uint64_t done, uint64_t copied)
{
	return (struct hv_convert_progress){
		.size = size, .done = done, .copied = copied, .skipped = done - copied};
}

/* 100 MiB/s of a disk of 4 GiB, half of which are holes, for some seconds. */
static void run_for(struct hvm_progress *p, unsigned seconds)
{
	memset(p, 0, sizeof(*p));
	p->doing = "copied";
	for (unsigned i = 0; i <= seconds; i++) {
		struct hv_convert_progress step = step_of(4096 * MIB, i * 200 * MIB, i * 100 * MIB);

		hvm_progress_note(p, &step, 1 + i * SECOND);
	}
}

/* Columns of UTF-8 text without wide characters. */
static unsigned columns(const char *text)
{
	unsigned n = 0;

	for (; *text; text++)
		n += (*text & 0xc0) != 0x80;
	return n;
}

Test(progress, tells_share_bytes_holes_rate_and_time_left)
{
	struct hvm_progress p;
	char bar[HVM_LINE_MAX];

	run_for(&p, 10);
	hvm_progress_bar(&p, 119, bar);
	cr_assert(strstr(bar, " 48% ["), "%s", bar);
	cr_assert(strstr(bar, "0.98 GiB copied, 0.98 GiB holes,  100 MiB/s, 0:10 left"), "%s", bar);
}

Test(progress, fits_any_width)
{
	struct hvm_progress p;
	char bar[HVM_LINE_MAX];

	run_for(&p, 7);
	for (int utf8 = 0; utf8 < 2; utf8++) {
		p.utf8 = utf8;
		for (unsigned width = 4; width < 300; width++) {
			hvm_progress_bar(&p, width, bar);
			cr_assert(columns(bar) <= width, "%u columns for %u: %s", columns(bar), width, bar);
		}
	}
}

Test(progress, leaves_out_words_before_the_bar)
{
	struct hvm_progress p;
	char bar[HVM_LINE_MAX];

	run_for(&p, 7);
	hvm_progress_bar(&p, 79, bar);
	cr_assert(strstr(bar, "holes") && strchr(bar, '['), "%s", bar);
	hvm_progress_bar(&p, 60, bar);
	cr_assert(!strstr(bar, "holes") && strstr(bar, "copied") && strchr(bar, '['), "%s", bar);
	hvm_progress_bar(&p, 30, bar);
	cr_assert(!strstr(bar, "copied") && strstr(bar, "left") && strchr(bar, '['), "%s", bar);
	hvm_progress_bar(&p, 6, bar);
	cr_assert_str_eq(bar, " 34%");
}

Test(progress, keeps_its_columns_while_figures_grow)
{
	struct hvm_progress p = {.doing = "copied"};
	char bar[HVM_LINE_MAX];
	unsigned first = 0;

	for (uint64_t done = 1; done < 1000 * 1024 * MIB; done = done * 3 + 1) {
		struct hv_convert_progress step = step_of(1024 * 1024 * MIB, done, done / 2);
		unsigned where;

		hvm_progress_note(&p, &step, 1);
		hvm_progress_bar(&p, 100, bar);
		where = (unsigned)(strstr(bar, "copied") - bar);
		first = first ? first : where;
		cr_assert_eq(where, first, "%s", bar);
	}
}

Test(progress, is_full_only_at_the_end)
{
	struct hvm_progress p = {.doing = "copied"};
	char bar[HVM_LINE_MAX];
	struct hv_convert_progress step = step_of(1ULL << 62, (1ULL << 62) - 1, 5);

	hvm_progress_note(&p, &step, 1);
	hvm_progress_bar(&p, 100, bar);
	cr_assert(!strncmp(bar, " 99%", 4), "%s", bar);
	step.done = step.size;
	hvm_progress_note(&p, &step, 2);
	hvm_progress_bar(&p, 100, bar);
	cr_assert(!strncmp(bar, "100%", 4) && strstr(bar, "finishing"), "%s", bar);
	step = step_of(0, 0, 0);
	hvm_progress_note(&p, &step, 3);
	hvm_progress_bar(&p, 100, bar);
	cr_assert(!strncmp(bar, "100%", 4), "%s", bar);
}

Test(progress, the_second_pass_starts_its_figures_anew)
{
	struct hvm_progress p;
	char bar[HVM_LINE_MAX];
	struct hv_convert_progress step = step_of(4096 * MIB, 10 * MIB, 0);

	run_for(&p, 20);
	step.verifying = true;
	hvm_progress_note(&p, &step, 100 * SECOND);
	hvm_progress_bar(&p, 119, bar);
	cr_assert(strstr(bar, "10.0 MiB verified") && strstr(bar, "-:--"), "%s", bar);
}
