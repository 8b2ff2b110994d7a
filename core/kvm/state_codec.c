/*
 * A vCPU's and a VM's state as sections of the codec. KVM's structs are blobs, so one of another size is
 * noticed; loading trusts nothing, and KVM checks the values again when they are put back. It calls core/base
 * only. Rules: core/base/codec.h.
 */
#include <stdlib.h>
#include <string.h>

#include "kvm/state.h"

#define VERSION   1
#define MSRS_MAX  4096u
#define XSAVE_MAX (64u << 10) /* all of AMX takes 11 KiB */

struct part {
	size_t offset, size;
};

#define PART(type, member)                                                                                   \
	{                                                                                                    \
		offsetof(type, member), sizeof(((type *)NULL)->member)                                       \
	}

static const struct part vcpu_parts[] = {
	PART(struct hv_vcpu_state, regs),      PART(struct hv_vcpu_state, sregs),
	PART(struct hv_vcpu_state, sregs2),    PART(struct hv_vcpu_state, xcrs),
	PART(struct hv_vcpu_state, debugregs), PART(struct hv_vcpu_state, events),
	PART(struct hv_vcpu_state, mp_state),  PART(struct hv_vcpu_state, lapic),
};

static const struct part vm_parts[] = {
	PART(struct hv_vm_state, chips.chips[0]), PART(struct hv_vm_state, chips.chips[1]),
	PART(struct hv_vm_state, chips.chips[2]), PART(struct hv_vm_state, chips.pit),
	PART(struct hv_vm_state, clock),
};

static void save_parts(struct hv_encoder *e, const void *state, const struct part *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		hv_enc_blob(e, (const char *)state + parts[i].offset, parts[i].size);
}

static void load_parts(struct hv_decoder *d, void *state, const struct part *parts, size_t count)
{
	for (size_t i = 0; i < count; i++)
		hv_dec_blob_exact(d, (char *)state + parts[i].offset, parts[i].size);
}

static void damaged(struct hv_decoder *d)
{
	d->failed = d->failed ? d->failed : -EBADMSG;
}

static bool load_bool(struct hv_decoder *d)
{
	uint8_t v = hv_dec_u8(d);

	if (v > 1)
		damaged(d);
	return v == 1;
}

static int check_version(const struct hv_section *s, const char *name, struct hv_error *err)
{
	if (strcmp(s->name, name) != 0)
		return hv_fail_unsafe(err, "saved state: section '%s' stands where '%s' belongs", s->name,
				      name);
	if (s->version != VERSION)
		return hv_fail_unsafe(
			err,
			"saved state: section '%s' is of version %u, this hvkit knows version %u; "
			"use the one that wrote it",
			name, s->version, VERSION);
	return 0;
}

/* 0 when every byte was read and none was wrong. */
static int finish(struct hv_decoder *d, const char *name, struct hv_error *err)
{
	if (d->at != d->length)
		damaged(d);
	return hv_dec_finish(d, name, err);
}

void hv_vcpu_state_save(const struct hv_vcpu_state *state, uint32_t index, struct hv_encoder *e)
{
	hv_enc_begin(e, "vcpu", VERSION, true);
	hv_enc_u32(e, index);
	hv_enc_u8(e, state->has_sregs2);
	hv_enc_u8(e, state->has_xcrs);
	hv_enc_u8(e, state->has_lapic);
	hv_enc_u8(e, state->has_mp_state);
	hv_enc_u8(e, state->has_tsc_offset);
	save_parts(e, state, vcpu_parts, HV_ARRAY_SIZE(vcpu_parts));
	hv_enc_u64(e, state->tsc);
	hv_enc_u64(e, state->tsc_offset);
	hv_enc_blob(e, state->xsave, state->xsave_size);
	hv_enc_u32(e, state->msr_count);
	for (uint32_t i = 0; i < state->msr_count; i++) {
		hv_enc_u32(e, state->msrs[i].index);
		hv_enc_u64(e, state->msrs[i].data);
	}
	hv_enc_end(e);
}

static void load_xsave(struct hv_decoder *d, struct hv_vcpu_state *state)
{
	size_t size;
	const void *data = hv_dec_blob(d, &size);

	if (!data || size < sizeof(struct kvm_xsave) || size > XSAVE_MAX) {
		damaged(d);
		return;
	}
	state->xsave = malloc(size);
	if (!state->xsave) {
		d->failed = -ENOMEM;
		return;
	}
	memcpy(state->xsave, data, size);
	state->xsave_size = (uint32_t)size;
}

static void load_msrs(struct hv_decoder *d, struct hv_vcpu_state *state)
{
	uint32_t count = hv_dec_u32(d);

	if (d->failed || count > MSRS_MAX) {
		damaged(d);
		return;
	}
	state->msrs = calloc(count ? count : 1, sizeof(state->msrs[0]));
	if (!state->msrs) {
		d->failed = -ENOMEM;
		return;
	}
	state->msr_count = count;
	for (uint32_t i = 0; i < count; i++) {
		state->msrs[i].index = hv_dec_u32(d);
		state->msrs[i].data = hv_dec_u64(d);
	}
}

int hv_vcpu_state_load(struct hv_section *s, struct hv_vcpu_state *state, uint32_t *index,
		       struct hv_error *err)
{
	struct hv_decoder *d = &s->body;
	int rc;

	memset(state, 0, sizeof(*state));
	*index = 0;
	rc = check_version(s, "vcpu", err);
	if (rc)
		return rc;
	*index = hv_dec_u32(d);
	state->has_sregs2 = load_bool(d);
	state->has_xcrs = load_bool(d);
	state->has_lapic = load_bool(d);
	state->has_mp_state = load_bool(d);
	state->has_tsc_offset = load_bool(d);
	load_parts(d, state, vcpu_parts, HV_ARRAY_SIZE(vcpu_parts));
	state->tsc = hv_dec_u64(d);
	state->tsc_offset = hv_dec_u64(d);
	load_xsave(d, state);
	load_msrs(d, state);
	rc = finish(d, "vcpu", err);
	if (rc)
		hv_vcpu_state_free(state);
	return rc;
}

void hv_vm_state_save(const struct hv_vm_state *state, struct hv_encoder *e)
{
	hv_enc_begin(e, "vm", VERSION, true);
	hv_enc_u8(e, state->has_chips);
	save_parts(e, state, vm_parts, HV_ARRAY_SIZE(vm_parts));
	hv_enc_end(e);
}

int hv_vm_state_load(struct hv_section *s, struct hv_vm_state *state, struct hv_error *err)
{
	int rc;

	memset(state, 0, sizeof(*state));
	rc = check_version(s, "vm", err);
	if (rc)
		return rc;
	state->has_chips = load_bool(&s->body);
	load_parts(&s->body, state, vm_parts, HV_ARRAY_SIZE(vm_parts));
	for (uint32_t i = 0; i < HV_ARRAY_SIZE(state->chips.chips); i++)
		if (state->has_chips && state->chips.chips[i].chip_id != i) /* each must reach its own chip */
			damaged(&s->body);
	return finish(&s->body, "vm", err);
}
