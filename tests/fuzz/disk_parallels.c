/*
 * Fuzz target: a Parallels image, or its descriptor, as somebody else may have made it.
 */
#include "disk.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	fuzz_image("parallels", data, size, 0);
	return 0;
}
