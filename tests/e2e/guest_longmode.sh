#!/usr/bin/env bash
# longmode: a plain ELF64 image finds the CPU state, the memory map and the command line that it was promised, with
# little RAM and with more than the usual.
# box: intel
set -euo pipefail

for mem in 4M 64M 512M; do
	status=0
	timeout $((60 * HV_STRETCH)) "$HVRUN" --timeout $((50 * HV_STRETCH)) --mem "$mem" --append 'key=value two words' "$GUESTS/longmode" \
		</dev/null >"$TMP/out" || status=$?
	grep -v '^ok' "$TMP/out"
	grep -q 'booted by ELF boot information, command line "key=value two words"$' "$TMP/out"
	grep -q '^longmode: 0 failed$' "$TMP/out"
	[ "$status" = 0 ] || { echo "status $status with $mem, want 0"; exit 1; }
done
