/*
 * The rig's command of lab 3: whether the host's memory just before and just behind a slot can be touched. A page is
 * probed through the kernel, which answers EFAULT where this program would die.
 */
#include <unistd.h>

#include "rig.h"

static bool can_read(const void *address)
{
	int ends[2];
	bool can;

	if (pipe(ends) < 0)
		return false;
	can = write(ends[1], address, 1) == 1;
	close(ends[0]);
	close(ends[1]);
	return can;
}

/* guard GPA SIZE: of a slot. */
static int guard(struct rig *rig, int count, char **words)
{
	uint64_t gpa, size;
	const uint8_t *host;

	if (count != 3 || !rig_parse(words[1], &gpa) || !rig_parse(words[2], &size))
		return RIG_USAGE;
	host = hv_memory_at(&rig->memory, gpa, 1);
	if (!host)
		return hv_fail(&rig->err, EFAULT, "no slot holds %#llx", (unsigned long long)gpa);
	rig_bool(rig, "before", can_read(host - 1));
	rig_bool(rig, "behind", can_read(host + size));
	return 0;
}

const struct rig_command rig_lab03[] = {
	{"guard", "GPA SIZE", guard},
	{NULL, NULL, NULL},
};
