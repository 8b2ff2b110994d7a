/*
 * What `info` knows of a machine, in JSON: its state, devices, interrupt controllers, exits and vCPUs.
 * Registers and memory are control/inspect's. Interrupt controllers are read with KVM_GET_IRQCHIP and
 * KVM_GET_LAPIC (KVM API 4.26, 4.57) and laid out as in the 8259A and 82093AA data sheets and SDM vol.
 * 3A, 11.4.
 */
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "base/bytes.h"
#include "control/inspect.h"
#include "control/qmp_dispatch.h"
#include "machine/disasm.h"

static int run_state(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	enum hv_state state = hv_machine_state(m);

	/* "singlestep" (of TCG) left QEMU in 8.1; clients that decode QEMU 7's schema strictly still want it.
	 */
	*result = json_pack("{s:b, s:b, s:s}", "running", state == HV_STATE_RUNNING, "singlestep", 0,
			    "status", hv_state_name(state, HV_END_NONE));
	return 0;
}

static const char *irqchip_name(enum hv_irqchip kind)
{
	switch (kind) {
	case HV_IRQCHIP_NONE:
		return "none";
	case HV_IRQCHIP_SPLIT:
		return "split";
	case HV_IRQCHIP_FULL:
		return "full";
	default:
		return "auto";
	}
}

static void add_line(json_t *object, const char *name, struct hv_chardev *line)
{
	char text[160];

	if (!line)
		return;
	hv_chardev_describe(line, text, sizeof(text));
	json_object_set_new(object, name, json_string(text));
}

static int status(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	const struct hv_config *c = hv_machine_config(m);
	const struct hv_entry *entry = hv_machine_entry(m);
	char serial[160] = "none";

	if (hv_machine_chardev(m))
		hv_chardev_describe(hv_machine_chardev(m), serial, sizeof(serial));
	run_state(m, cpu, result, err);
	if (!*result)
		return 0;
	json_object_del(*result, "singlestep");
	json_object_set_new(*result, "name", json_string(c->name));
	json_object_set_new(*result, "pid", json_integer(getpid()));
	json_object_set_new(*result, "cpus", json_integer(hv_machine_cpus(m)));
	json_object_set_new(*result, "memory",
			    json_integer((json_int_t)hv_memory_size(hv_machine_memory(m))));
	json_object_set_new(*result, "image", json_string(c->image));
	json_object_set_new(*result, "boot", json_string(hv_boot_kind_name(entry ? entry->kind : c->boot)));
	json_object_set_new(*result, "irqchip", json_string(irqchip_name(hv_machine_irqchip(m))));
	json_object_set_new(*result, "serial", json_string(serial));
	add_line(*result, "console", hv_machine_console_chardev(m));
	add_line(*result, "agent", hv_machine_agent_chardev(m));
	json_object_set_new(*result, "uptime-ns", json_integer((json_int_t)hv_machine_uptime_ns(m)));
	json_object_set_new(*result, "tracing", json_boolean(hv_machine_tracing(m)));
	json_object_set_new(*result, "sandbox", json_boolean(c->sandbox));
	return 0;
}

static void add_bus(json_t *list, const struct hv_bus *bus)
{
	for (unsigned i = 0; bus && i < bus->count; i++) {
		const struct hv_bus_range *r = &bus->ranges[i];
		char text[512] = "";

		if (r->dev->ops->describe) {
			pthread_mutex_lock(&r->dev->lock);
			r->dev->ops->describe(r->dev, text, sizeof(text));
			pthread_mutex_unlock(&r->dev->lock);
		}
		json_array_append_new(list, json_pack("{s:s, s:o, s:I, s:s, s:s}", "bus", bus->name, "base",
						      hv_json_hex(r->base), "length", (json_int_t)r->length,
						      "device", r->dev->ops->name, "state", text));
	}
}

static int devices(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	*result = json_array();
	add_bus(*result, hv_machine_pio(m));
	add_bus(*result, hv_machine_mmio(m));
	return 0;
}

/* --- interrupt controllers --- */

static const char *const delivery_modes[] = {"fixed", "lowest", "smi",      "reserved",
					     "nmi",   "init",   "reserved", "extint"};

static json_t *ioapic_pins(const struct kvm_ioapic_state *io)
{
	json_t *pins = json_array();

	for (int i = 0; i < KVM_IOAPIC_NUM_PINS; i++) {
		uint64_t e = io->redirtbl[i].bits;

		if (e >> 16 & 1 && !(io->irr >> i & 1))
			continue; /* masked and quiet: as after power-on */
		json_array_append_new(
			pins, json_pack("{s:i, s:i, s:s, s:s, s:b, s:b, s:i}", "pin", i, "vector",
					(int)(e & 0xff), "mode", delivery_modes[e >> 8 & 7], "trigger",
					e >> 15 & 1 ? "level" : "edge", "masked", (int)(e >> 16 & 1),
					"pending", (int)(io->irr >> i & 1), "destination", (int)(e >> 56)));
	}
	return pins;
}

static int full_irqchip(struct hv_machine *m, json_t *out, struct hv_error *err)
{
	json_t *pics = json_array();

	for (unsigned id = KVM_IRQCHIP_PIC_MASTER; id <= KVM_IRQCHIP_IOAPIC; id++) {
		struct kvm_irqchip chip = {.chip_id = id};

		if (ioctl(hv_machine_memory(m)->vm, KVM_GET_IRQCHIP, &chip) < 0) {
			json_decref(pics);
			return hv_fail_errno(err, "cannot read the interrupt controllers");
		}
		if (id == KVM_IRQCHIP_IOAPIC)
			json_object_set_new(out, "ioapic", ioapic_pins(&chip.chip.ioapic));
		else
			json_array_append_new(pics,
					      json_pack("{s:s, s:i, s:o, s:o, s:o}", "name",
							id == KVM_IRQCHIP_PIC_MASTER ? "master" : "slave",
							"base", chip.chip.pic.irq_base, "requested",
							hv_json_hex(chip.chip.pic.irr), "in-service",
							hv_json_hex(chip.chip.pic.isr), "masked",
							hv_json_hex(chip.chip.pic.imr)));
	}
	json_object_set_new(out, "pic", pics);
	return 0;
}

static uint32_t lapic_reg(const struct kvm_lapic_state *l, unsigned offset)
{
	return hv_le32(l->regs + offset);
}

/* The vectors whose bits are set in a 256-bit register of eight 16-byte steps. */
static json_t *vectors(const struct kvm_lapic_state *l, unsigned offset)
{
	json_t *list = json_array();

	for (unsigned v = 0; v < 256; v++) {
		if (lapic_reg(l, offset + v / 32 * 16) >> v % 32 & 1)
			json_array_append_new(list, json_integer(v));
	}
	return list;
}

static int read_lapic(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	if (ioctl(vcpu->fd, KVM_GET_LAPIC, ctx) < 0)
		return hv_fail_errno(err, "vCPU %u: cannot read its local APIC", vcpu->index);
	return 0;
}

static int lapics(struct hv_machine *m, json_t *out, struct hv_error *err)
{
	static const char *const timer_modes[] = {"one-shot", "periodic", "tsc-deadline", "reserved"};
	json_t *list = json_array();
	int rc = 0;

	json_object_set_new(out, "lapic", list);
	for (unsigned i = 0; i < hv_machine_cpus(m) && !rc; i++) {
		struct kvm_lapic_state l;
		uint32_t timer;

		rc = hv_machine_call(m, i, read_lapic, &l, err);
		if (rc)
			break;
		timer = lapic_reg(&l, 0x320);
		json_array_append_new(
			list, json_pack("{s:i, s:i, s:b, s:i, s:o, s:o, s:{s:i, s:s, s:b, s:I, s:I}}",
					"cpu-index", (int)i, "id", (int)(lapic_reg(&l, 0x20) >> 24),
					"enabled", (int)(lapic_reg(&l, 0xf0) >> 8 & 1), "tpr",
					(int)(lapic_reg(&l, 0x80) & 0xff), "requested", vectors(&l, 0x200),
					"in-service", vectors(&l, 0x100), "timer", "vector",
					(int)(timer & 0xff), "mode", timer_modes[timer >> 17 & 3], "masked",
					(int)(timer >> 16 & 1), "initial", (json_int_t)lapic_reg(&l, 0x380),
					"current", (json_int_t)lapic_reg(&l, 0x390)));
	}
	return rc;
}

static int irqs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	enum hv_irqchip kind = hv_machine_irqchip(m);
	const struct hv_bus_range *ioapic = hv_bus_find(hv_machine_mmio(m), 0xfec00000);
	char text[1024] = "";
	int rc = 0;

	*result = json_pack("{s:s}", "irqchip", irqchip_name(kind));
	if (kind == HV_IRQCHIP_FULL)
		rc = full_irqchip(m, *result, err);
	if (kind == HV_IRQCHIP_SPLIT && ioapic && ioapic->dev->ops->describe) {
		pthread_mutex_lock(&ioapic->dev->lock);
		ioapic->dev->ops->describe(ioapic->dev, text, sizeof(text));
		pthread_mutex_unlock(&ioapic->dev->lock);
		json_object_set_new(*result, "ioapic-state", json_string(text));
	}
	if (!rc && (kind == HV_IRQCHIP_FULL || kind == HV_IRQCHIP_SPLIT))
		rc = lapics(m, *result, err);
	return rc;
}

/* --- exits and vCPUs --- */

struct last_exits {
	struct hv_machine *machine;
	struct hv_exit_record records[HV_LAST_EXITS];
	unsigned count;
};

static int copy_last(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct last_exits *last = ctx;

	last->count = hv_recorder_copy(hv_machine_recorder(last->machine, vcpu->index), last->records,
				       HV_LAST_EXITS);
	return 0;
}

static json_t *counters(struct hv_recorder *r, json_int_t *total)
{
	json_t *list = json_array();

	*total = 0;
	for (uint32_t i = 0; i < HV_EXIT_REASONS; i++) {
		json_int_t count = (json_int_t)atomic_load(&r->counters[i].count);

		if (!count)
			continue;
		*total += count;
		json_array_append_new(
			list, json_pack("{s:s, s:I, s:I, s:I}", "reason", hv_exit_name(i), "count", count,
					"timed", (json_int_t)atomic_load(&r->counters[i].timed), "user-ns",
					(json_int_t)atomic_load(&r->counters[i].user_ns)));
	}
	return list;
}

/* Instructions that were completed for the back end: a count for each kind that came. */
static json_t *assisted(struct hv_recorder *r)
{
	json_t *kinds = json_object();

	for (unsigned kind = 0; kind < HV_ASSIST_KINDS; kind++) {
		json_int_t count = (json_int_t)atomic_load(&r->assisted[kind]);

		if (count)
			json_object_set_new(kinds, hv_assist_name(kind), json_integer(count));
	}
	return kinds;
}

static int exits(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	*result = json_array();
	for (unsigned i = 0; i < hv_machine_cpus(m); i++) {
		struct hv_recorder *r = hv_machine_recorder(m, i);
		struct last_exits last = {.machine = m};
		json_int_t total;
		json_t *list = counters(r, &total), *lines = json_array();
		char text[160];

		/* The counters can always be had; the last records only while the vCPU answers. */
		if (hv_machine_call(m, i, copy_last, &last, NULL))
			last.count = 0;
		for (unsigned k = 0; k < last.count; k++)
			json_array_append_new(lines, json_string(hv_exit_record_format(&last.records[k], text,
										       sizeof(text))));
		json_array_append_new(*result, json_pack("{s:i, s:I, s:I, s:o, s:o, s:o}", "cpu-index",
							 (int)i, "total", total, "signals",
							 (json_int_t)atomic_load(&r->signals), "exits", list,
							 "assisted", assisted(r), "last", lines));
	}
	return 0;
}

struct cpu_look {
	struct kvm_regs regs;
	struct kvm_sregs sregs;
	struct kvm_mp_state mp;
	bool has_mp;
};

static int look(struct hv_vcpu *vcpu, void *ctx, struct hv_error *err)
{
	struct cpu_look *l = ctx;
	int rc = hv_vcpu_get_regs(vcpu, &l->regs, err);

	if (!rc)
		rc = hv_vcpu_get_sregs(vcpu, &l->sregs, err);
	l->has_mp = !rc && ioctl(vcpu->fd, KVM_GET_MP_STATE, &l->mp) == 0; /* only with an irqchip */
	return rc;
}

static const char *mode_name(const struct kvm_sregs *s)
{
	if (!(s->cr0 & 1))
		return "real";
	if (hv_code_bits(s) == 64)
		return "long";
	return s->efer & 1 << 10 ? "compatibility" : hv_code_bits(s) == 32 ? "protected" : "protected 16-bit";
}

static const char *activity(const struct cpu_look *l)
{
	if (!l->has_mp)
		return "runnable";
	switch (l->mp.mp_state) {
	case KVM_MP_STATE_RUNNABLE:
		return "runnable";
	case KVM_MP_STATE_UNINITIALIZED:
		return "waits for INIT";
	case KVM_MP_STATE_INIT_RECEIVED:
		return "waits for SIPI";
	case KVM_MP_STATE_HALTED:
		return "halted";
	case KVM_MP_STATE_SIPI_RECEIVED:
		return "starting";
	default:
		return "unknown";
	}
}

static int cpus(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	*result = json_array();
	for (unsigned i = 0; i < hv_machine_cpus(m); i++) {
		struct cpu_look l = {0};
		json_int_t total;
		int rc = hv_machine_call(m, i, look, &l, err);

		if (rc)
			return rc;
		json_decref(counters(hv_machine_recorder(m, i), &total));
		json_array_append_new(*result, json_pack("{s:i, s:i, s:s, s:s, s:i, s:o, s:I}", "cpu-index",
							 (int)i, "thread-id", hv_machine_thread_id(m, i),
							 "state", activity(&l), "mode", mode_name(&l.sregs),
							 "cpl", l.sregs.ss.dpl & 3, "rip",
							 hv_json_hex(l.regs.rip), "exits", total));
	}
	return 0;
}

/* QEMU's query-balloon has "actual" only; the statistics are those of its balloon's "guest-stats", by their
 * names there, as far as the guest's driver knows them. */
static int balloon(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	struct hv_balloon_info b;
	json_t *stats = NULL;
	int rc = hv_machine_balloon_query(m, &b, err);

	if (rc)
		return rc;
	stats = json_object();
	for (unsigned i = 0; i < HV_BALLOON_STATS; i++)
		if (b.stats_known >> i & 1)
			json_object_set_new(stats, hv_balloon_stat_name(i),
					    json_integer((json_int_t)b.stats[i]));
	*result =
		json_pack("{s:I, s:I, s:I, s:b, s:b, s:I, s:I, s:o, s:I}", "actual", (json_int_t)b.actual,
			  "target", (json_int_t)b.target, "memory", (json_int_t)b.memory, "in-use", b.in_use,
			  "reporting", b.reporting, "given-back", (json_int_t)b.given_back, "reported",
			  (json_int_t)b.reported, "stats", stats, "last-update", (json_int_t)b.stats_at);
	return 0;
}

static int memory(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	return hv_inspect_memory(m, result, err);
}

static int regs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	return hv_inspect_regs(m, cpu, result, err);
}

static int sregs(struct hv_machine *m, unsigned cpu, json_t **result, struct hv_error *err)
{
	return hv_inspect_sregs(m, cpu, result, err);
}

int hv_qmp_info(struct hv_machine *m, const char *what, unsigned cpu, json_t **result, struct hv_error *err)
{
	static const struct {
		const char *name;
		int (*fn)(struct hv_machine *, unsigned, json_t **, struct hv_error *);
	} table[] = {
		{"status", status},       {"regs", regs},       {"sregs", sregs}, {"memory", memory},
		{"devices", devices},     {"irqs", irqs},       {"exits", exits}, {"cpus", cpus},
		{"run-state", run_state}, {"balloon", balloon},
	};

	for (size_t i = 0; i < HV_ARRAY_SIZE(table); i++) {
		if (strcmp(table[i].name, what) == 0)
			return table[i].fn(m, cpu, result, err);
	}
	return hv_fail(err, EINVAL,
		       "Parameter 'what' expects status, regs, sregs, memory, devices, irqs, exits, cpus or "
		       "balloon");
}
