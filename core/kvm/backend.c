/*
 * Which back end KVM has. KVM takes one at a time (kvm_x86_vendor_init refuses a second), and a module's
 * folder in /sys/module says that it is loaded or built in; a vendor's own that is built in is there on the
 * other vendor's processors too, and counts only together with the processor's feature. Calls the kernel
 * only.
 */
#include "kvm/backend.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bool hv_backend_cpu_flag(const char *flag)
{
	FILE *f = fopen("/proc/cpuinfo", "re");
	char *line = NULL;
	size_t size = 0;
	bool found = false;

	while (f && !found && getline(&line, &size, f) > 0) {
		if (strncmp(line, "flags", 5) != 0)
			continue;
		for (char *save = NULL, *word = strtok_r(line, " \t\n", &save); word && !found;
		     word = strtok_r(NULL, " \t\n", &save))
			found = !strcmp(word, flag);
		break; /* all CPUs have the same */
	}
	free(line);
	if (f)
		fclose(f);
	return found;
}

bool hv_backend_module(const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/sys/module/%s", name);
	return access(path, F_OK) == 0;
}

enum hv_backend hv_backend_of(bool software, bool intel, bool amd, bool vmx, bool svm)
{
	if (intel && vmx)
		return HV_BACKEND_VMX;
	if (amd && svm)
		return HV_BACKEND_SVM;
	return software ? HV_BACKEND_SOFTWARE : HV_BACKEND_UNKNOWN;
}

enum hv_backend hv_backend(void)
{
	bool intel = hv_backend_module("kvm_intel"), amd = hv_backend_module("kvm_amd");

	/* /proc/cpuinfo takes long on large machines, and this is on the way of every start. */
	return hv_backend_of(hv_backend_module("kvm_pvm"), intel, amd, intel && hv_backend_cpu_flag("vmx"),
			     amd && hv_backend_cpu_flag("svm"));
}
