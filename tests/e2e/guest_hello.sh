#!/usr/bin/env bash
# hello: a flat real-mode image greets and halts; so it does at another load address.
# box: intel
set -euo pipefail

for addr in 0x1000 0x7c00; do
	status=0
	timeout $((30 * HV_STRETCH)) "$HVRUN" --timeout $((20 * HV_STRETCH)) --load-addr "$addr" "$GUESTS/hello.bin" </dev/null >"$TMP/out" || status=$?
	printf 'Hello from real mode!\n' | cmp - "$TMP/out"
	[ "$status" = 0 ] || { echo "status $status at $addr, want 0"; exit 1; }
done
