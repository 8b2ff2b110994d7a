#!/usr/bin/env bash
# smp: all CPUs start by INIT and SIPI and count together without losing one, with either choice of controllers.
# box: intel
set -euo pipefail

run() { # CPUS OPTIONS...
	local cpus=$1 status=0
	shift
	timeout $((100 * HV_STRETCH)) "$HVRUN" --timeout $((90 * HV_STRETCH)) --cpus "$cpus" "$@" "$GUESTS/smp" </dev/null >"$TMP/out" || status=$?
	tail -n 2 "$TMP/out"
	grep -q "^smp: sum $((cpus * 1000)) as it must be\$" "$TMP/out"
	[ "$status" = 33 ] || { echo "status $status with $cpus CPUs, want 33 (GUEST_OK)"; exit 1; }
}

run 1
run 4
run 2 --irqchip full
