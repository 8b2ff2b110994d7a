/*
 * Gives a fuzz target the bytes of its seeds, and of every seed's cuts and small changes, with no fuzzer:
 * what was once found stays mended, with any compiler, on every run of `make test`.
 *
 *   replay-NAME FILE-OR-FOLDER...
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SEED_MAX (4u << 20)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static unsigned long inputs;

/* The copy has exactly the input's size, so that a sanitizer sees a byte read too far. */
static void give(const uint8_t *data, size_t size)
{
	uint8_t *copy = malloc(size ? size : 1);

	if (!copy)
		abort();
	memcpy(copy, data, size);
	LLVMFuzzerTestOneInput(copy, size);
	free(copy);
	inputs++;
}

/* The seed itself, 64 cuts, and 256 places where one byte differs: the same ones each time. */
static void give_variants(uint8_t *data, size_t size)
{
	size_t cut_step = size / 64 + 1, flip_step = size / 256 + 1;

	give(data, size);
	for (size_t cut = 0; cut < size; cut += cut_step)
		give(data, cut);
	for (size_t at = 0; at < size; at += flip_step) {
		uint8_t old = data[at];
		data[at] = at % 2 ? 0xff : (uint8_t)(old ^ 0x80);
		give(data, size);
		data[at] = old;
	}
}

static int replay_file(const char *path)
{
	static uint8_t data[SEED_MAX];
	FILE *f = fopen(path, "rb");
	size_t size;

	if (!f) {
		fprintf(stderr, "%s: cannot open it: %s\n", path, strerror(errno));
		return 1;
	}
	size = fread(data, 1, sizeof(data), f);
	fclose(f);
	give_variants(data, size);
	return 0;
}

static int replay(const char *path)
{
	char inner[4096];
	struct stat st;
	int bad = 0;
	DIR *dir;

	if (stat(path, &st) < 0 || !S_ISDIR(st.st_mode))
		return replay_file(path);
	dir = opendir(path);
	if (!dir)
		return 1;
	for (struct dirent *e; (e = readdir(dir));) {
		if (e->d_name[0] == '.')
			continue;
		snprintf(inner, sizeof(inner), "%s/%s", path, e->d_name);
		bad |= replay_file(inner);
	}
	closedir(dir);
	return bad;
}

int main(int argc, char **argv)
{
	int bad = 0;

	give((const uint8_t *)"", 0);
	for (int i = 1; i < argc; i++)
		bad |= replay(argv[i]);
	printf("%lu inputs\n", inputs);
	return bad || inputs < 2;
}
