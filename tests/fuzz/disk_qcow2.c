/*
 * Fuzz target: a qcow2 image, as somebody else may have made it.
 */
#include "disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_image("qcow2", data, size, 0);
	return 0;
}
