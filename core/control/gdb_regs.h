/*
 * A vCPU's registers as gdb numbers and names them. One table serves the target description, g/G and p/P.
 * Private to the gdb stub. Rules: "Debugging with GDB", G.5.14 (i386 features).
 */
#ifndef HV_CONTROL_GDB_REGS_H
#define HV_CONTROL_GDB_REGS_H

#include "control/gdb_packet.h"
#include "kvm/vcpu.h"

/* The state that gdb's registers come from. */
struct hv_gdb_state {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	uint8_t xsave[sizeof(struct kvm_xsave)]; /* KVM_GET_FPU would leave MXCSR out */
	uint64_t kernel_gs_base;
	uint32_t fctrl, fstat, ftag, fiseg, fioff, foseg, fooff, fop; /* the x87's, in the form gdb wants */
};

/* Both on the vCPU's thread. _set writes only the parts that differ from `before`. */
int hv_gdb_state_get(const struct hv_vcpu *vcpu, struct hv_gdb_state *state, struct hv_error *err);
int hv_gdb_state_set(const struct hv_vcpu *vcpu, struct hv_gdb_state *state,
		     const struct hv_gdb_state *before, struct hv_error *err);

/* The content of target.xml. */
void hv_gdb_describe(struct hv_gdb_text *xml);

unsigned hv_gdb_register_count(void);
/* Register n's value as hex. */
void hv_gdb_register_put(struct hv_gdb_text *reply, const struct hv_gdb_state *state, unsigned n);
/* Sets register n from hex at *at, which moves on; false when too few digits are there. */
bool hv_gdb_register_take(struct hv_gdb_state *state, unsigned n, const char **at);

#endif
