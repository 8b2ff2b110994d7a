#!/usr/bin/env bash
# A stock gdb attaches to a running VM by --gdb: software and hardware breakpoints, steps, registers and memory read and
# written, vCPUs as threads, Ctrl-C, monitor commands, detach; and the guest goes on.
# box: intel
set -euo pipefail

command -v gdb >/dev/null || { echo "gdb is not installed"; exit 77; }
! grep -q 'QEMU TCG CPU' /proc/cpuinfo || { echo "the emulated AMD-V below reports no breakpoints"; exit 77; }
cat >"$TMP/guest.c" <<'C'
volatile unsigned long counter;
__attribute__((noinline)) unsigned long work(unsigned long n)
{
	counter += n;
	return counter * 3;
}
void _start(void)
{
	for (;;) {
		work(1);
		__asm__ volatile("outb %%al, $0x80" : : "a"(0));
	}
}
C
${CC:-cc} -O1 -g -ffreestanding -nostdlib -static -no-pie -fno-stack-protector -fcf-protection=none -mno-red-zone \
	-mgeneral-regs-only -Wl,-Ttext=0x100000 -Wl,--build-id=none -o "$TMP/guest.elf" "$TMP/guest.c"

timeout $((100 * HV_STRETCH)) "$HVRUN" --name gdbtest --mem 8M --serial none --gdb "unix:$TMP/gdb" --timeout $((90 * HV_STRETCH)) "$TMP/guest.elf" \
	</dev/null >"$TMP/hvrun" 2>&1 &
hvrun=$!
trap 'kill $hvrun 2>/dev/null || true; wait $hvrun 2>/dev/null || true' EXIT
for _ in $(seq 100); do [ -S "$TMP/gdb" ] && break; sleep 0.1; done
[ -S "$TMP/gdb" ] || { cat "$TMP/hvrun"; echo "no socket"; exit 1; }
[ "$(stat -c %a "$TMP/gdb")" = 600 ] || { echo "the socket is open to others"; exit 1; }

cat >"$TMP/script" <<G
set pagination off
set confirm off
target remote $TMP/gdb
info threads
break work
continue
backtrace
printf "counter %lu rdi %lu\n", counter, \$rdi
x/2xb work
set var counter = 1000
continue
printf "counter %lu\n", counter
stepi
printf "pc past work %d\n", \$pc > (unsigned long)&work
delete
hbreak work
continue
printf "at work %d\n", \$pc == (unsigned long)&work
delete
set var \$r12 = 0x123456789abcdef0
printf "r12 %lx\n", \$r12
printf "long mode %d\n", (\$efer >> 10) & 1
set var \$xmm5.v2_int64[0] = 77
printf "xmm5 %d\n", \$xmm5.v2_int64[0]
monitor info regs
detach
G
timeout $((80 * HV_STRETCH)) gdb -nx -batch -x "$TMP/script" "$TMP/guest.elf" >"$TMP/out" 2>&1 || { cat "$TMP/out"; exit 1; }
want() { grep -q -- "$1" "$TMP/out" || { cat "$TMP/out"; echo "missing: $1"; exit 1; }; }
want 'Thread 1 (vCPU 0)'
want 'Breakpoint 1, work (n='
want '#1 .* _start ()'
want '^counter [0-9]* rdi 1$'
want '^counter 1001$'
want '^pc past work 1$'
want '^at work 1$'
want '^r12 123456789abcdef0$'
want '^long mode 1$'
want '^xmm5 77$'
want 'RIP='
want 'detached'
! grep -qi '0xcc' "$TMP/out" || { cat "$TMP/out"; echo "an int3 can be seen"; exit 1; }

# It runs on, and Ctrl-C of a second gdb stops it at another count.
cat >"$TMP/script" <<G
set pagination off
target remote $TMP/gdb
printf "first %lu\n", counter
python
import threading, time, os, signal
threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
end
continue
printf "second %lu\n", counter
monitor status
kill
G
timeout $((60 * HV_STRETCH)) gdb -nx -batch -x "$TMP/script" "$TMP/guest.elf" >"$TMP/out" 2>&1 || { cat "$TMP/out"; exit 1; }
want 'SIGINT'
first=$(sed -n 's/^first //p' "$TMP/out") second=$(sed -n 's/^second //p' "$TMP/out")
[ "$first" -gt 1000 ] && [ "$second" -gt "$first" ] || { cat "$TMP/out"; echo "the guest stood still"; exit 1; }

# kill ended the VM in good order.
status=0
wait $hvrun || status=$?
trap - EXIT
[ "$status" = 0 ] || { cat "$TMP/hvrun"; echo "hvrun ended with $status"; exit 1; }
[ ! -e "$TMP/gdb" ] || { echo "the socket is left"; exit 1; }
