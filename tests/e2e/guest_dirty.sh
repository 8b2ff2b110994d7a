#!/usr/bin/env bash
# dirty: writes what it was told to and never faster, says so by its own clock, and finds all of it again. Wrong options
# end it with a sentence.
# box: intel
set -euo pipefail

run() { # WANTED STATUS, COMMAND LINE
	local status=0
	timeout $((100 * HV_STRETCH)) "$HVRUN" --timeout $((90 * HV_STRETCH)) --append "$2" "$GUESTS/dirty" </dev/null >"$TMP/out" || status=$?
	[ "$status" = "$1" ] || { cat "$TMP/out"; echo "status $status for '$2', want $1"; exit 1; }
}

run 0 'rate=20 ws=4 total=6 beat=20 verify=1'
head -n 1 "$TMP/out"
tail -n 2 "$TMP/out"
grep -q '^verified 1024 pages$' "$TMP/out"
# By the guest's own clock, so that a loaded host changes nothing: time goes forward, and no more is written than the
# rate allows (20 bytes a microsecond, and one page more, which may be written at once).
awk '/^beat / {
	split($3, t, "="); split($4, w, "=")
	if (t[2] <= last) { print "time stands still: " $0; bad = 1 }
	if (w[2] > 20 * t[2] + 4096) { print "faster than the rate: " $0; bad = 1 }
	last = t[2]; beats++
} END { exit bad || beats < 2 }' "$TMP/out"

run 0 'rate=0 ws=2 total=40 beat=0 verify=1'
grep -q '^dirty: wrote 39997440 bytes' "$TMP/out" # 9765 whole pages

run 35 'ws=4000'
grep -q 'does not fit the RAM' "$TMP/out"
run 35 'rate=fast'
grep -q 'the value of rate= is not a number' "$TMP/out"
