/*
 * Fuzz target: VMDK images, as one file: sparse extents of all kinds with what they embed, and descriptors.
 * Without their descriptors COWD and seSparse extents open in salvage only, which fuzz_image tries too.
 */
#include "disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_image("vmdk", data, size, 0);
	return 0;
}
