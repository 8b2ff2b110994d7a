#!/bin/bash
# Each lab's files have their solution regions, and the marks pair up: hv:solution lab=N task=M [hole=NAME] ... hv:end, N the lab that
# owns the file, tasks from 1 on without a gap, no region inside another. What is left when they are cut out compiles
# without a warning.
set -euo pipefail
cd "$(dirname "$0")/.."

owners=(
	core/kvm/kvm.c:1 core/kvm/vcpu.c:1 core/machine/exit.c:2 core/device/bus.c:2 core/kvm/memory.c:3
	core/boot/longmode.c:4 core/boot/elf.c:5 core/device/serial.c:6 core/kvm/irq.c:7 core/machine/smp.c:8
	core/device/virtio/queue.c:9 core/device/virtio/blk.c:9 core/boot/linux.c:10
)
failed=0
declare -A seen
for owner in "${owners[@]}"; do
	file=${owner%:*} lab=${owner#*:}
	if ! tasks=$(awk -v lab="$lab" '
		/hv:solution/ {
			if (inside || !match($0, /lab=[0-9]+ task=[0-9]+( hole=[A-Z0-9_]+)? \*\//)) { print FILENAME ":" FNR ": misplaced " $0; bad = 1 }
			split(substr($0, RSTART, RLENGTH), word, /[= ]/)
			if (word[2] != lab) { print FILENAME ":" FNR ": this file belongs to lab " lab; bad = 1 }
			inside = 1; print "task", word[4]
		}
		/hv:end/ { if (!inside) { print FILENAME ":" FNR ": hv:end without its beginning"; bad = 1 } inside = 0 }
		END { if (inside) { print FILENAME ": a region has no end"; bad = 1 } exit bad }' "$file"); then
		echo "$tasks" | grep -v '^task' || true
		failed=1
	fi
	while read -r _ task; do seen[$lab.$task]=1; done < <(grep '^task' <<<"$tasks")
done
for lab in 1 2 3 4 5 6 7 8 9 10; do
	n=1
	while [ -n "${seen[$lab.$n]:-}" ]; do n=$((n + 1)); done
	for key in "${!seen[@]}"; do
		if [ "${key%.*}" = "$lab" ] && [ "${key#*.}" -ge "$n" ]; then
			echo "lab $lab: task $n is missing, but there is a task ${key#*.}"
			failed=1
		fi
	done
	if [ "$n" -lt 3 ]; then
		echo "lab $lab has fewer than two tasks"
		failed=1
	fi
done

# The starters, as a student's compiler sees them; tests/e2e/labs_handout.py does it once more in a student's tree.
warnings=(-Wall -Wextra -Wshadow -Wconversion -Wsign-conversion -Wstrict-prototypes -Wmissing-prototypes -Wpointer-arith
	-Wvla -Wformat=2 -Wno-unused-parameter -Wno-missing-field-initializers -Werror)
read -ra compiler <<<"${CC:-cc}"
if "${compiler[@]}" --version | grep -q clang; then
	warnings+=(-Wno-gnu-variable-sized-type-not-at-end)
fi
starter=$(mktemp --suffix=.c)
trap 'rm -f "$starter"' EXIT
for owner in "${owners[@]}"; do
	file=${owner%:*}
	if ! (cd labs && python3 -m kit.cut "../$file") >"$starter" ||
		! "${compiler[@]}" -std=gnu17 -D_GNU_SOURCE -O1 "${warnings[@]}" -Icore -iquote "$(dirname "$file")" -c -o /dev/null "$starter"; then
		echo "$file: its starter doesn't compile without a warning"
		failed=1
	fi
done
exit $failed
