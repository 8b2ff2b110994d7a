/*
 * Fuzz target: the journal of a conversion. The input's last hash is mended first, so that what a hash would
 * keep away is parsed too; whatever is accepted must be sound and must match itself.
 */
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "base/bytes.h"
#include "disk/convert/journal.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define END 36 /* bytes of the section convert.end: 9 of its head, its name, a length, a hash */

static void require(bool truth)
{
	if (!truth)
		abort();
}

static void parse(const uint8_t *data, size_t size)
{
	struct hv_error err = {0};
	struct hv_journal j;
	int rc = hv_journal_parse(data, size, &j, &err);

	require(rc <= 0);
	if (rc) {
		require(err.text[0] != '\0');
		require(!j.source && !j.loss && !j.sums && !j.mark);
		return;
	}
	require(j.sources > 0 && j.marks > 0);
	require(memchr(j.format, 0, sizeof(j.format)) && memchr(j.subformat, 0, sizeof(j.subformat)));
	for (unsigned i = 0; i < j.sources; i++)
		require(strlen(j.source[i].path) < 4096);
	require(hv_journal_match(&j, &j, &err) == 0);
	hv_journal_free(&j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	parse(data, size);
	if (size <= END || !(copy = malloc(size)))
		return 0;
	memcpy(copy, data, size);
	hv_put_le64(copy + size - 8, XXH3_64bits(copy, size - END));
	parse(copy, size);
	free(copy);
	return 0;
}
