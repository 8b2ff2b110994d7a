/*
 * The scenes of guests/virtio/bench.c without a VM: the same requests by the same process, one after the
 * other, on the file itself. What a virtual disk can at best come near to.
 *
 *   diskio FILE SCALE      prints the guest's lines, and `tsc khz=N`, by which cycles become time
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#define SPAN (64u << 20)

static const struct scene {
	const char *name;
	uint32_t length, depth, count;
	bool write, random;
} scenes[] = {
	{"read-4k-random", 4096, 1, 2000, false, true}, {"read-4k-random-16", 4096, 16, 8000, false, true},
	{"read-1m", 1 << 20, 1, 64, false, false},      {"read-1m-4", 1 << 20, 4, 256, false, false},
	{"write-1m-4", 1 << 20, 4, 256, true, false},
};

static uint64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* Reads or writes as the guest does: as many buffers as it has requests under way. */
static int run(int fd, const struct scene *s, uint8_t *room, uint64_t seed, uint32_t count)
{
	uint64_t place = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint8_t *buf = room + (size_t)(i % s->depth) * s->length;

		if (s->random) {
			seed ^= seed << 13;
			seed ^= seed >> 7;
			seed ^= seed << 17;
			place = seed % (SPAN / s->length) * s->length;
		} else {
			place = (place + s->length) % SPAN;
		}
		if ((s->write ? pwrite(fd, buf, s->length, (off_t)place)
			      : pread(fd, buf, s->length, (off_t)place)) != (ssize_t)s->length)
			return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	int fd = argc == 3 ? open(argv[1], O_RDWR | O_CLOEXEC) : -1;
	uint32_t scale = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
	uint8_t *room = aligned_alloc(4096, 4 << 20);
	uint64_t began = now(), tsc = __rdtsc();

	if (fd < 0 || !scale || !room)
		return 2;
	for (size_t i = 0; i < sizeof(scenes) / sizeof(scenes[0]); i++) {
		const struct scene *s = &scenes[i];
		uint64_t begin;

		if (run(fd, s, room, 1, s->count / 10 + 16) < 0)
			return 1;
		begin = __rdtsc();
		if (run(fd, s, room, 2, s->count * scale) < 0)
			return 1;
		printf("bench %s count=%u bytes=%u cycles=%llu\n", s->name, s->count * scale, s->length,
		       (unsigned long long)(__rdtsc() - begin));
	}
	printf("tsc khz=%llu\n", (unsigned long long)((__rdtsc() - tsc) * 1000000 / (now() - began)));
	return 0;
}
