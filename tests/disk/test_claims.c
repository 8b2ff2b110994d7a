/*
 * Claims: what is claimed twice is found to the byte, whatever the unit; what stands side by side is not.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "disk/claims.h"

static uint32_t seed;

static uint32_t next_random(void)
{
	seed = seed * 1664525u + 1013904223u;
	return seed >> 8;
}

Test(claims, neighbours_are_not_overlaps)
{
	struct hv_claims *c = hv_claims_new(1 << 20, 4096);
	uint64_t where = 0;

	cr_assert_eq(hv_claim(c, 0, 100, &where), 0);
	cr_assert_eq(hv_claim(c, 100, 5000, &where), 0);
	cr_assert_eq(hv_claim(c, 5100, 1, &where), 0);
	cr_assert_eq(hv_claim(c, (1 << 20) - 1, 1, &where), 0);
	cr_assert_eq(hv_claim(c, 5101, (1 << 20) - 1 - 5101, &where), 0);
	cr_assert_eq(hv_claim(c, 70000, 0, &where), 0, "nothing overlaps nothing");
	for (uint64_t at = 0; at < 1 << 20; at += 997) {
		cr_assert_eq(hv_claim(c, at, 1, &where), 1);
		cr_assert_eq(where, at);
	}
	hv_claims_free(c);
}

Test(claims, the_first_byte_claimed_twice_is_told)
{
	struct hv_claims *c = hv_claims_new(1ULL << 40, 512);
	uint64_t where = 0;

	cr_assert_eq(hv_claim(c, 1ULL << 30, 1ULL << 33, &where), 0);
	cr_assert_eq(hv_claim(c, (1ULL << 30) - 77, 77, &where), 0);
	cr_assert_eq(hv_claim(c, 0, (1ULL << 30) - 76, &where), 1);
	cr_assert_eq(where, (1ULL << 30) - 77);
	cr_assert_eq(hv_claim(c, 0, (1ULL << 30) - 77, &where), 0, "a refused claim claims nothing");
	cr_assert_eq(hv_claim(c, (1ULL << 30) + (1ULL << 33) - 1, 2, &where), 1);
	cr_assert_eq(where, (1ULL << 30) + (1ULL << 33) - 1);
	hv_claims_free(c);
}

Test(claims, what_lies_outside_the_file_is_refused)
{
	struct hv_claims *c = hv_claims_new(1000, 512);
	uint64_t where = 0;

	cr_assert_eq(hv_claim(c, 999, 2, &where), -ERANGE);
	cr_assert_eq(hv_claim(c, UINT64_MAX, 2, &where), -ERANGE);
	cr_assert_eq(hv_claim(c, 0, 1000, &where), 0);
	hv_claims_free(c);
}

Test(claims, sizes_beyond_any_file_take_little)
{
	struct hv_claims *c = hv_claims_new(UINT64_MAX >> 1, 512);
	uint64_t where = 0;

	cr_assert_not_null(c);
	cr_assert_eq(hv_claim(c, (UINT64_MAX >> 1) - 10, 10, &where), 0);
	cr_assert_eq(hv_claim(c, 12345, 1ULL << 40, &where), 0);
	cr_assert_eq(hv_claim(c, (1ULL << 40) + 12344, 2, &where), 1);
	cr_assert_eq(where, (1ULL << 40) + 12344);
	hv_claims_free(c);
}

/* A byte a byte is the model: random ranges of all sizes, of which some overlap. */
Test(claims, the_answers_are_those_of_a_byte_map)
{
	enum { SIZE = 1 << 16 };
	uint8_t *model = malloc(SIZE);

	for (unsigned round = 0; round < 60; round++) {
		struct hv_claims *c = hv_claims_new(SIZE, 512u << round % 5);
		unsigned longest = 1u << (2 + round % 12);
		seed = round;
		memset(model, 0, SIZE);
		for (unsigned i = 0; i < 2000; i++) {
			uint64_t at = next_random() % SIZE, length = next_random() % longest, where = 0;
			if (at + length > SIZE)
				length = SIZE - at;
			const uint8_t *hit = memchr(model + at, 1, length);
			int rc = hv_claim(c, at, length, &where);
			cr_assert_eq(rc, hit != NULL);
			if (hit)
				cr_assert_eq(where, (uint64_t)(hit - model));
			else
				memset(model + at, 1, length);
		}
		hv_claims_free(c);
	}
	free(model);
}

Test(claims, a_million_scattered_pieces_stay_bounded_and_false_alarms_do_not_happen)
{
	struct hv_claims *c = hv_claims_new(1ULL << 32, 512);
	uint64_t where = 0;

	for (uint64_t i = 0; i < 1000000; i++)
		cr_assert_eq(hv_claim(c, i * 2048 + 100, 1500, &where), 0);
	for (uint64_t i = 0; i < 1000000; i++) {
		cr_assert_eq(hv_claim(c, i * 2048 + 512, 1, &where), 1, "whole units are always known");
		cr_assert_eq(where, i * 2048 + 512);
	}
	hv_claims_free(c);
}
