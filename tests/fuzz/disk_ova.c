/*
 * Fuzz target: OVA archives, with their envelope and manifest.
 */
#include "appliance.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_appliance("input.ova", data, size, size % 2);
	return 0;
}
