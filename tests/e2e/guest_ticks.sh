#!/usr/bin/env bash
# ticks: the PIT through the PIC and through the IOAPIC, and the local APIC's timer, wake the CPU from hlt.
# box: intel
set -euo pipefail

for boot in pvh elf; do
	status=0
	timeout $((60 * HV_STRETCH)) "$HVRUN" --timeout $((50 * HV_STRETCH)) --boot "$boot" --append 'ticks=10' "$GUESTS/ticks" </dev/null >"$TMP/out" ||
		status=$?
	cat "$TMP/out"
	grep -q '^PIT through the PIC: [1-9][0-9]* ticks$' "$TMP/out"
	grep -q '^PIT through the IOAPIC: [1-9][0-9]* ticks$' "$TMP/out"
	grep -q '^ticks: all timers ran$' "$TMP/out"
	[ "$status" = 33 ] || { echo "status $status, want 33 (GUEST_OK)"; exit 1; }
done
