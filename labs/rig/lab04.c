/*
 * The rig's commands of lab 4: a vCPU gets the state that boot/longmode.c makes, even one that is only half
 * made, so that the record shows it. Nothing is run.
 */
#include <string.h>

#include "rig.h"

/* What came out goes to KVM in any case, a failed setup's too: `setup` and `set` tell how the two calls
 * ended. */
static int give(struct rig *rig, bool longmode, uint64_t map_size)
{
	struct kvm_sregs sregs;
	struct hv_error err;
	int rc = hv_vcpu_get_sregs(&rig->vcpus[0], &sregs, &rig->err);

	if (rc)
		return rc;
	rc = longmode ? hv_longmode_setup(&rig->memory, map_size, &sregs, &rig->err)
		      : hv_protected_setup(&rig->memory, &sregs, &rig->err);
	rig_signed(rig, "setup", rc);
	rig_signed(rig, "set", hv_vcpu_set_sregs(&rig->vcpus[0], &sregs, &err));
	return 0;
}

/* longmode MAP_SIZE */
static int longmode(struct rig *rig, int count, char **words)
{
	uint64_t map_size;

	if (count != 2 || !rig_parse(words[1], &map_size))
		return RIG_USAGE;
	return give(rig, true, map_size);
}

static int protected(struct rig *rig, int count, char **words)
{
	return give(rig, false, 0);
}

const struct rig_command rig_lab04[] = {
	{"longmode", "MAP_SIZE", longmode},
	{"protected", "", protected},
	{NULL, NULL, NULL},
};
