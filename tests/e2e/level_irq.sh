#!/usr/bin/env bash
# A level-triggered line, with the IOAPIC in user space and in the kernel: each pulse from outside interrupts once, sets
# remote IRR, and the guest's EOI clears it again, or the next pulse would never arrive.
# box: intel
set -euo pipefail

# The software back end reports the EOI when it delivers the interrupt, long before the guest writes it: nobody can see
# remote IRR set there. That each pulse arrives can be seen everywhere.
seen='[irq  9, level: remote IRR 1, 0 after EOI]'
! "$HVRUN" --doctor | grep -q '^limited *back end *software' || seen='[irq  9, level: remote IRR '
vm=
trap '[ -z "$vm" ] || { kill $vm 2>/dev/null; wait $vm 2>/dev/null; } || true' EXIT
wait_for() { # COUNT, LINE
	for _ in $(seq 1000); do
		[ "$(tr -d '\r' <"$TMP/serial" | grep -cF -- "$2")" -ge "$1" ] && return
		sleep 0.02
	done
	cat "$TMP/serial" "$TMP/err"
	echo "never came ($1 times): $2"
	exit 1
}
tell() {
	timeout $((30 * HV_STRETCH)) "$HVCTL" level "$@" >"$TMP/out" 2>&1 || { cat "$TMP/out" "$TMP/serial"; echo "hvctl $* failed"; exit 1; }
}

for chip in split full; do
	: >"$TMP/serial"
	timeout $((100 * HV_STRETCH)) "$HVRUN" --name level --irqchip $chip --serial "file:$TMP/serial" --timeout $((90 * HV_STRETCH)) "$GUESTS/shell" \
		</dev/null 2>"$TMP/err" &
	vm=$!
	wait_for 1 '> '
	tell send irq 9 level
	wait_for 1 'line 9 is level-triggered'
	for n in 1 2 3; do
		tell inject irq 9
		wait_for $n "$seen"
	done
	if [ $chip = split ]; then # the EOIs come out to hvrun; with a line that stays high for a while there may be more
		tell info exits
		eois=$(awk '$1 == "ioapic-eoi" && NF == 2 { print $2 }' "$TMP/out")
		[ "${eois:-0}" -ge 3 ] || { cat "$TMP/out"; echo "not 3 EOIs"; exit 1; }
	fi
	tell send irq 9 edge
	wait_for 1 'line 9 is edge-triggered'
	tell inject irq 9
	wait_for 1 '[irq  9]'
	tell quit
	wait $vm
	vm=
done
