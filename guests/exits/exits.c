/*
 * exits: every form in which an instruction can leave the guest for a device, and whether the right value
 * comes back. Ends by hlt (status 0) when all is well, else by the debug exit device (GUEST_FAILED).
 */
#include "console.h"
#include "end.h"
#include "exits.h"
#include "flat.h"

static unsigned checks, failures;

void check(const char *what, uint64_t got, uint64_t want)
{
	checks++;
	if (got == want) {
		con_printf("ok   %s\n", what);
		return;
	}
	failures++;
	con_printf("FAIL %s: got 0x%lx, want 0x%lx\n", what, got, want);
}

void flat_main(void)
{
	con_init(false);
	check_pio();
	check_mmio();
	con_printf("exits: %u checks, %u failed\n", checks, failures);
	if (failures)
		guest_exit(GUEST_FAILED);
	guest_halt();
}
