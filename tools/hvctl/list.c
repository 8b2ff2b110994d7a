/*
 * The running VMs as a table. Each is asked in turn; one that does not answer within a second is shown as
 * such.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/parse.h"
#include "control/registry.h"
#include "hvctl.h"

#define LIST_MS 1000

/* {"name", "status", "cpus", "memory", "pid", ...}; NULL when the VM ended meanwhile. */
static json_t *ask(const struct hv_registry_entry *e)
{
	json_t *arguments = json_pack("{s:s}", "what", "status"), *status = NULL;
	struct hv_qmp_client *client;
	struct hv_error err = {0};
	int rc = hv_qmp_connect(&client, e->path, LIST_MS, &err);

	if (rc == -ENOENT || rc == -ECONNRESET) {
		json_decref(arguments);
		return NULL;
	}
	if (!rc) {
		if (hv_qmp_execute(client, "x-hv-info", arguments, -1, &status, &err) ||
		    !json_is_object(status)) {
			json_decref(status);
			status = json_pack("{s:s, s:i}", "status", "no answer", "pid",
					   (int)hv_qmp_pid(client));
		}
		hv_qmp_close(client);
	} else {
		status = json_pack("{s:s}", "status", "no answer");
	}
	json_decref(arguments);
	json_object_set_new(status, "name", json_string(e->name));
	return status;
}

static void print_row(const json_t *vm)
{
	const char *name = json_string_value(json_object_get(vm, "name"));
	const char *status = json_string_value(json_object_get(vm, "status"));
	char memory[32] = "-", row[512];

	if (json_object_get(vm, "memory"))
		hv_format_size((uint64_t)json_integer_value(json_object_get(vm, "memory")), memory,
			       sizeof(memory));
	snprintf(row, sizeof(row), "%-20s  %-12s  %4lld  %10s  %8lld\n", name ? name : "-",
		 status ? status : "-", (long long)json_integer_value(json_object_get(vm, "cpus")), memory,
		 (long long)json_integer_value(json_object_get(vm, "pid")));
	hvctl_print(row);
}

int hvctl_list(const struct hvctl *h)
{
	struct hv_registry_entry *entries;
	struct hv_error err = {0};
	json_t *list = json_array(), *vm;
	unsigned count;
	size_t i;

	if (hv_registry_list(&entries, &count, &err)) {
		json_decref(list);
		return hvctl_complain(&err);
	}
	for (unsigned k = 0; k < count; k++) {
		vm = ask(&entries[k]);
		if (vm)
			json_array_append_new(list, vm);
	}
	free(entries);
	if (h->json) {
		hvctl_print_json(list);
	} else if (json_array_size(list) == 0) {
		printf("no VM is running; `hvrun IMAGE` starts one\n");
	} else {
		printf("%-20s  %-12s  %4s  %10s  %8s\n", "NAME", "STATE", "CPUS", "MEMORY", "PID");
		json_array_foreach(list, i, vm) print_row(vm);
	}
	json_decref(list);
	return HV_EXIT_OK;
}
