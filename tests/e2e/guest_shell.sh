#!/usr/bin/env bash
# shell: boots by all its protocols, edits lines, keeps data, upgrades it or fails half-way, and ends in each of its ways.
# box: intel
set -euo pipefail

run() { # WANTED STATUS, OPTIONS...; standard input is typed, with returns for newlines
	local want=$1 status=0
	shift
	{ printf '\r'; tr '\n' '\r'; } | timeout $((60 * HV_STRETCH)) "$HVRUN" --timeout $((50 * HV_STRETCH)) "$@" "$GUESTS/shell" >"$TMP/raw" 2>"$TMP/err" ||
		status=$?
	tr -d '\r' <"$TMP/raw" >"$TMP/out"
	[ "$status" = "$want" ] || { cat "$TMP/out" "$TMP/err"; echo "status $status, want $want"; exit 1; }
}
has() {
	grep -qxF -- "$1" "$TMP/out" || { cat "$TMP/out"; echo "no line: $1"; exit 1; }
}

# Each boot protocol hands over command line and module.
echo 'first module' >"$TMP/module"
for boot in auto multiboot pvh elf; do
	printf 'boot\nexit 3\n' | run 7 --boot "$boot" --append 'one two=3' --initrd "$TMP/module text of it"
	has 'command line: one two=3'
	grep -q '^module: .* 13 bytes, "text of it", starts with "first module."$' "$TMP/out" || {
		cat "$TMP/out"
		echo "no module by $boot"
		exit 1
	}
done
has 'protocol: PVH'
[ ! -s "$TMP/err" ] || { cat "$TMP/err"; echo "hvrun has something to say about an ordinary run"; exit 1; }

# Data, an upgrade that works, an upgrade that doesn't.
printf 'set a one two\nset b 2\nset a 1\nkeys\nupgrade\nget a\nget b\nset b 22\nget b\nget c\nversion\nexit 0\n' | run 1
has '> get a'
has '1'
has '22'
has 'error: no key c'
grep -q 'store layout 2$' "$TMP/out"
printf 'set a 1\nset b 2\nset c 3\nsum\nupgrade fail\nget a\nsum\nexit 0\n' | run 1
has 'upgrade 3/5: 2 of 3 records moved'
has 'error: the store is half migrated; nothing in it can be trusted'
[ "$(grep -c '^sum ' "$TMP/out")" = 2 ]
[ "$(grep '^sum ' "$TMP/out" | cut -d' ' -f2 | uniq | wc -l)" = 2 ]

# Line editing: backspace, delete, Ctrl-U.
printf 'echo hex\blxx\177\177lo\nnonsense\025echo clean\nbad\nexit 0\n' | run 1
has 'hello'
has 'clean'
has 'error: no command bad (help lists them)'

# Both kinds of crash, and either kind of interrupt controllers.
printf 'crash\n' | run 37 --irqchip full
grep -q '^panic: exception 14 #PF, error code 0x2, at CPL 0$' "$TMP/out"
printf 'crash triple\n' | run 1 --irqchip split
grep -q 'triple fault' "$TMP/err"

# reboot: the machine starts again, with empty memory.
banners() {
	grep -c 'Type help' "$TMP/raw" 2>/dev/null || true
}
: >"$TMP/raw"
{
	printf '\rset a 1\rreboot\r'
	for ((i = 0; i < 400 && $(banners) < 2; i++)); do sleep 0.1; done
	sleep 0.2
	printf '\rget a\rexit 9\r'
} | { timeout $((60 * HV_STRETCH)) "$HVRUN" --timeout $((50 * HV_STRETCH)) "$GUESTS/shell" >"$TMP/raw" && status=0 || status=$?; echo "$status" >"$TMP/status"; }
tr -d '\r' <"$TMP/raw" >"$TMP/out"
[ "$(cat "$TMP/status")" = 19 ] || { cat "$TMP/out"; echo "status $(cat "$TMP/status") after reboot, want 19"; exit 1; }
has 'error: no key a'
