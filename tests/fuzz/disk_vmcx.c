/*
 * Fuzz target: Hyper-V's binary configurations.
 */
#include "appliance.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_appliance("input.vmcx", data, size, size % 2);
	return 0;
}
