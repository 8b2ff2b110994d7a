#!/bin/bash
# hvctl's commands on a running VM, one at a time: what they print and what they do; and its exit statuses.
# box: intel
set -euo pipefail

fail() {
	echo "FAILED: $*"
	exit 1
}
# expect STATUS PATTERN COMMAND...: the exit status, and a line of stdout or stderr that matches
expect() {
	local status=0 want=$1 pattern=$2
	shift 2
	timeout $((30 * HV_STRETCH)) "$HVCTL" "$@" >"$TMP/out" 2>&1 </dev/null || status=$?
	[ $status -eq "$want" ] || { cat "$TMP/out"; fail "hvctl $*: status $status, not $want"; }
	grep -qE -e "$pattern" "$TMP/out" || { cat "$TMP/out"; fail "hvctl $*: nothing like '$pattern'"; }
}

expect 0 'no VM is running' list
expect 0 'no VM is running'
expect 0 '^\[\]$' --json list
expect 1 "no VM 'nobody' is running" nobody status
expect 2 'hvctl --help' --bogus
expect 0 'Usage: hvctl' --help
expect 0 '^hvctl \(hvkit\) [0-9]' --version
expect 0 'use NAME' help use
expect 0 'ADDR is a number' help x
expect 2 "no command 'bogus'" help bogus

timeout $((100 * HV_STRETCH)) "$HVRUN" --name one --cpus 2 --serial "file:$TMP/serial" --timeout $((90 * HV_STRETCH)) "$GUESTS/shell" </dev/null 2>"$TMP/err" &
vm=$!
trap 'kill $vm 2>/dev/null; wait $vm 2>/dev/null || true' EXIT
for _ in $(seq 1000); do
	grep -q '^> ' "$TMP/serial" 2>/dev/null && break
	kill -0 $vm 2>/dev/null || { cat "$TMP/err"; fail "hvrun ended"; }
	sleep 0.02
done

expect 0 '^one +running +2 +64 MiB +[0-9]+$' list
expect 0 '"memory": 67108864' --json list
expect 0 '^one: running, pid [0-9]+' one status
expect 0 '^one: running, pid [0-9]+' "$XDG_RUNTIME_DIR/hvkit/one.sock" status
expect 0 '^paused$' one pause
expect 0 '^one +paused' list
expect 0 '^paused$' one pause
expect 0 '"running": false' --json one status
expect 0 'RIP=' one info regs
expect 0 'RIP=' one info regs 1
expect 1 'CPU number' one info regs 2
expect 0 'CR3' one info sregs
expect 0 'RAM +64 MiB' one info memory
expect 0 '0x03f8-0x03ff +serial0' one info devices
expect 0 'local APIC of vCPU 1' one info irqs
expect 0 '^vCPU 0: [0-9]+ exits' one info exits
expect 0 '^  io +[0-9]+' one info exits
expect 0 '^0 +[0-9]+ ' one info cpus
expect 0 '0x02 0xb0 0xad 0x1b' one xp/4xb 0x100000
expect 0 ':' one x/3i "\$rip"
expect 0 'PML4' one translate 0x100000
expect 0 '"mapped": true' --json one translate 0x100000
expect 2 "neither a format" one x/q 0
expect 2 'usage: translate' one translate
expect 2 "no command 'frobnicate'" one frobnicate
expect 0 '^running$' one resume
expect 0 '^tracing is on$' one trace on
expect 0 '^sent 11 bytes$' one send set key 42
for _ in $(seq 500); do
	"$HVCTL" one send get key >/dev/null
	grep -q '^42' "$TMP/serial" && break
	sleep 0.05
done
grep -q '^42' "$TMP/serial" || fail "what was sent did not reach the guest: $(cat "$TMP/serial")"
expect 0 '^tracing is off$' one trace off
expect 0 '^injected$' one inject irq 5
expect 2 'inject irq' one inject irq 99
expect 0 '^reset$' one reset
expect 0 '^VM|^the VM ends$' one stop
wait $vm || fail "hvrun's status was $?"

# A paused VM takes an NMI too; what its guest makes of it is the guest's affair.
timeout $((100 * HV_STRETCH)) "$HVRUN" --name two --paused --serial none --timeout $((90 * HV_STRETCH)) "$GUESTS/shell" </dev/null 2>"$TMP/err" &
vm=$!
for _ in $(seq 1000); do
	[ -S "$XDG_RUNTIME_DIR/hvkit/two.sock" ] && break
	sleep 0.02
done
expect 0 '^two: prelaunch' two status
expect 0 '^injected$' two inject nmi
expect 0 'the VM ends' two quit
wait $vm || fail "hvrun's status was $?"
trap - EXIT
expect 1 "no VM 'one' is running" one status
expect 0 'no VM is running' list
