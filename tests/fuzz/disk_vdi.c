/*
 * Fuzz target: a VDI image, as somebody else may have made it.
 */
#include "disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_image("vdi", data, size, 0);
	return 0;
}
