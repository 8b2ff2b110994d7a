/*
 * dirty: a guest whose write rate and working set are known, for measuring pre-copy migration and live
 * checkpoints.
 *
 *   rate=MB    megabytes (10^6 bytes) a second to write, 0 for as fast as it can    default 100
 *   ws=MB      working set in MiB, written page by page from its start to its end   default 16
 *   beat=MS    milliseconds between two heartbeat lines, 0 for none                 default 10
 *   seconds=N  ends after so long                                                   default: never
 *   total=MB   ends after so many megabytes                                         default: never
 *   verify=1   checks each page before it is written again, and all at the end
 *   tsc_khz=N  the TSC's frequency, for a VM that can't tell it
 *
 * A heartbeat is `beat N t=US wrote=BYTES stall=US longest=US`: its time since the start, the longest time
 * between two looks at the clock since the last heartbeat, and the longest of all. The clock is looked at
 * after every page, so a stall is the time during which the guest did not run (and, once in a heartbeat, the
 * time it takes to print). Should the TSC ever be set back, time goes on from where it was, and the heartbeat
 * ends in `back=US`.
 *
 * It sets up its own paging and drops to CPL 3 with a port bitmap for its output, since there guest code runs
 * at native speed on every back end of KVM. Ends by hlt (status 0); GUEST_FAILED when a page lost what was
 * written to it.
 */
#include "bootinfo.h"
#include "clock.h"
#include "console.h"
#include "dirty.h"
#include "end.h"
#include "start.h"
#include "trap.h"

HVKIT_IRQCHIP_NOTE(IRQCHIP_NONE);

#define MB 1000000ul

#define MAPPED (4ul << 30) /* what our page tables reach */

extern char page_tables[], guest_end[];

static _Noreturn void refuse(const char *why)
{
	con_printf("dirty: %s\n", why);
	guest_exit(GUEST_FAILED);
}

static struct options read_options(const struct boot_info *boot)
{
	const char *source = "command line";
	uint64_t khz = boot_option(boot, "tsc_khz", 0);
	if (!khz)
		khz = clock_tsc_khz(&source);
	if (!khz || khz > UINT32_MAX)
		refuse("neither KVM's clock nor a PIT tells the TSC's frequency; give it with tsc_khz=");
	uint64_t rate = boot_option(boot, "rate", 100), set = boot_option(boot, "ws", 16);
	uint64_t total = boot_option(boot, "total", 0), seconds = boot_option(boot, "seconds", 0);
	uint64_t beat = boot_option(boot, "beat", 10);
	if (rate > MB || total > MB * MB || seconds > MB || beat > MB)
		refuse("rate= is at most 1000000, total= 10^12, seconds= and beat= 1000000");

	uint64_t base = ((uint64_t)guest_end + 2 * MIB - 1) & ~(2 * MIB - 1);
	uint64_t end = boot_ram_end(boot, base);
	end = end < MAPPED ? end : MAPPED;
	if (set == 0 || end <= base || set > (end - base) / MIB)
		refuse("ws= does not fit the RAM between the guest and its end (or 4 GiB); give the VM more "
		       "memory");
	con_printf("dirty: rate %lu MB/s, working set %lu MiB at 0x%lx, tsc %lu kHz (%s), verify %s\n", rate,
		   set, base, khz, source, boot_option(boot, "verify", 0) ? "on" : "off");
	return (struct options){.rate = rate * MB,
				.set_pages = set * MIB / PAGE_SIZE,
				.beat_us = beat * 1000,
				.total = total * MB,
				.end_us = seconds * 1000000,
				.verify = boot_option(boot, "verify", 0),
				.base = (uint8_t *)base,
				.tsc_khz = (uint32_t)khz};
}

void guest_main(const struct boot_info *boot)
{
	con_init(false);
	trap_init();
	write_cr3((uint64_t)page_tables);
	struct options options = read_options(boot);
	if (user_call(writer, &options))
		guest_exit(GUEST_FAILED);
	guest_halt();
}
