/*
 * Fuzz target: VMware's configuration files.
 */
#include "appliance.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_appliance("input.vmx", data, size, size % 2);
	return 0;
}
