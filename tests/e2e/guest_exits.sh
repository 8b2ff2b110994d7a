#!/usr/bin/env bash
# exits: every form of port and memory-mapped I/O gives back what it must. One line a check, status 0.
# box: intel
set -euo pipefail

status=0
timeout $((60 * HV_STRETCH)) "$HVRUN" --timeout $((50 * HV_STRETCH)) "$GUESTS/exits.bin" </dev/null >"$TMP/out" || status=$?
grep -v '^ok' "$TMP/out"
grep -q '^exits: [0-9]* checks, 0 failed$' "$TMP/out"
[ "$(grep -c '^ok' "$TMP/out")" -ge 59 ] || { echo "fewer checks than there are"; exit 1; }
[ "$status" = 0 ] || { echo "status $status, want 0"; exit 1; }
