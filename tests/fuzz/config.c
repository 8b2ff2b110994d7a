/*
 * Fuzz target: a configuration file, as somebody else may have written it. What is taken must also survive
 * being written and read again.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/io.h"
#include "machine/config.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int load(struct hv_config *c, int fd)
{
	struct hv_error err;
	char path[32];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	hv_config_init(c);
	return hv_config_load(c, path, &err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = memfd_create("config", MFD_CLOEXEC), again = memfd_create("again", MFD_CLOEXEC);
	struct hv_config first, second;
	FILE *out;

	if (fd < 0 || again < 0 || hv_write_full(fd, data, size))
		abort();
	if (load(&first, fd) == 0) {
		out = fdopen(dup(again), "w");
		hv_config_write(&first, out);
		fclose(out);
		/* A path may have become too long by being made absolute; nothing else may go wrong. */
		if (load(&second, again) == 0 &&
		    (first.mem != second.mem || first.cpus != second.cpus ||
		     first.initrd_count != second.initrd_count || first.disk_count != second.disk_count ||
		     first.rng != second.rng || first.net_count != second.net_count ||
		     first.balloon != second.balloon || first.has_console != second.has_console ||
		     first.console.kind != second.console.kind || first.has_agent != second.has_agent ||
		     first.agent.kind != second.agent.kind ||
		     strcmp(first.agent_name, second.agent_name) != 0))
			abort();
		hv_config_free(&second);
	}
	hv_config_free(&first);
	close(fd);
	close(again);
	return 0;
}
