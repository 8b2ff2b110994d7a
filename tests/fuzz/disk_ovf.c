/*
 * Fuzz target: descriptions in XML: OVF envelopes, exported Hyper-V machines.
 */
#include "appliance.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_appliance("input.ovf", data, size, size % 2);
	return 0;
}
