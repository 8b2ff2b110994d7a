#!/usr/bin/env bash
# gdb opens what `hvctl NAME dump` writes, by physical addresses and by the guest's page tables: registers of every vCPU,
# memory by its symbols.
# box: intel
set -euo pipefail

command -v gdb >/dev/null || { echo "gdb is not installed"; exit 77; }
cat >"$TMP/guest.c" <<'C'
const char greeting[] = "a word in memory";
volatile unsigned long number;
void _start(void)
{
	number = 0x1122334455667788;
	__asm__ volatile("mov $0xfeed, %%r13d\n1: outb %%al, $0x80\n jmp 1b" : : "a"(0), "r"(greeting));
}
C
${CC:-cc} -O1 -g -ffreestanding -nostdlib -static -no-pie -fno-stack-protector -fcf-protection=none -mno-red-zone \
	-mgeneral-regs-only -Wl,-Ttext=0x100000 -Wl,--build-id=none -o "$TMP/guest.elf" "$TMP/guest.c"
timeout $((100 * HV_STRETCH)) "$HVRUN" --name dumptest --mem 16M --serial none --timeout $((90 * HV_STRETCH)) "$TMP/guest.elf" </dev/null \
	>"$TMP/hvrun" 2>&1 &
hvrun=$!
trap 'kill $hvrun 2>/dev/null || true; wait $hvrun 2>/dev/null || true' EXIT
for _ in $(seq $((100 * HV_STRETCH))); do kill -0 $hvrun 2>/dev/null || break; "$HVCTL" dumptest status >/dev/null 2>&1 && break; sleep 0.1; done

"$HVCTL" dumptest status >/dev/null || { cat "$TMP/hvrun"; exit 1; }
for paging in '' -p; do
	rm -f "$TMP/core"
	timeout $((60 * HV_STRETCH)) "$HVCTL" dumptest dump $paging "$TMP/core"
	used=$(($(stat -c %b "$TMP/core") * 512))
	[ "$used" -lt $((4 << 20)) ] || { echo "the dump of a nearly empty guest takes $used bytes"; exit 1; }
	timeout $((60 * HV_STRETCH)) gdb -nx -batch -ex 'info threads' -ex 'printf "r13 %lx\n", $r13' -ex 'printf "number %lx\n", number' \
		-ex 'printf "%s\n", greeting' -ex 'backtrace' "$TMP/guest.elf" "$TMP/core" >"$TMP/out" 2>&1
	for want in '^r13 feed$' '^number 1122334455667788$' '^a word in memory$' '_start ()'; do
		grep -q "$want" "$TMP/out" || { cat "$TMP/out"; echo "missing with '$paging': $want"; exit 1; }
	done
	readelf -n "$TMP/core" | grep -q QEMU || { echo "no QEMU note"; exit 1; }
done
"$HVCTL" dumptest status | grep -q running || { echo "the VM did not go on"; exit 1; }
