/*
 * Fuzz target: the state codec's reader, as a snapshot's or a migration's bytes reach it.
 */
#include "base/codec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct hv_error err;
	struct hv_decoder d;
	struct hv_section s;
	char word[16];
	uint8_t exact[8];
	size_t n;

	hv_dec_init(&d, data, size);
	while (hv_dec_next(&d, &s, &err) == 1)
		while (!s.body.failed && s.body.at < s.body.length) {
			/* The version picks what is read, so that the fuzzer can choose. */
			switch (s.version++ % 7) {
			case 0:
				hv_dec_u8(&s.body);
				break;
			case 1:
				hv_dec_u16(&s.body);
				break;
			case 2:
				hv_dec_u32(&s.body);
				break;
			case 3:
				hv_dec_u64(&s.body);
				break;
			case 4:
				hv_dec_blob(&s.body, &n);
				break;
			case 5:
				hv_dec_string(&s.body, word, sizeof(word));
				break;
			default:
				hv_dec_blob_exact(&s.body, exact, sizeof(exact));
				break;
			}
		}
	return 0;
}
