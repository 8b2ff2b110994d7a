#!/bin/bash
# `make demo`: a story on real VMs that explains itself line by line. Everything it shows is run here and now, with
# the commands that stand after each $. Every wait has a limit, and nothing is left behind but the trace file that
# the story ends with.
set -euo pipefail
cd "$(dirname "$0")/.."

build=${BUILD:-build}
bin=$build/bin guests=$build/guests out=$build/demo
patience=${HV_STRETCH:-1} # an emulated processor is given more time
tmp=${HVLAB_BOX:+/run}    # in the box /tmp is another machine's, and holds no sockets
where=${HVLAB_BOX:+"KVM, on an emulated AMD-V"}
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ] && [ "${TERM:-dumb}" != dumb ]; then
	bold=$'\033[1m' dim=$'\033[2m' green=$'\033[32m' red=$'\033[31m' off=$'\033[0m'
else
	bold='' dim='' green='' red='' off=''
fi

width=100
if [ -t 1 ]; then
	width=$(stty size 2>/dev/null </dev/tty | cut -d' ' -f2 || true)
	[ "${width:-0}" -ge 40 ] && [ "$width" -le 100 ] || width=100
fi

scene() {
	printf '\n%s%s%s\n\n' "$bold" "$*" "$off"
}
say() {
	printf '%s\n' "$*" | fold -s -w "$width" | sed 's/ *$//'
}
# A command as a reader would type it, and what it answers.
try() { # words of the command
	printf '%s$ %s%s\n' "$green" "${*//$build\//build/}" "$off"
	local rc=0
	timeout -k 2 $((10 * patience)) "$@" </dev/null 2>&1 | sed 's/^/  /' || rc=$?
	[ $rc -eq 0 ] || stop "that failed with status $rc"
}
stop() {
	printf '%sdemo: %s%s\n' "$red" "$*" "$off" >&2
	exit 1
}

# Without KVM there is another machine that has it, an emulated one; the story is the same there, and slower.
if ! [ -e /dev/kvm ] && [ "$(uname -m)" = x86_64 ] && command -v qemu-system-x86_64 busybox >/dev/null; then
	say "This kernel offers no KVM (/dev/kvm is missing). So the demo runs in the box: an emulated PC with AMD-V, which \
QEMU makes out of software, and which sees the files of this machine. It starts in about ten seconds; every exit is \
slower there than on a processor that has virtualisation."
	exec labs/hvlab box --timeout 900 -- "$PWD/docs/demo.sh"
fi
if ! [ -r /dev/kvm ] || ! [ -w /dev/kvm ]; then
	if [ -e /dev/kvm ]; then
		why="/dev/kvm is there, but $(id -un) may not use it"
	else
		why="/dev/kvm is missing: this kernel offers no virtualisation, or it is switched off in the firmware"
	fi
	printf '%sThe demo runs real VMs, and can'\''t here: %s.%s\nThis is what hvrun --doctor says:\n\n' "$red" "$why" "$off" >&2
	"$bin/hvrun" --doctor 2>&1 | sed 's/^/  /' >&2 || true
	exit 1
fi

# A runtime folder of our own: VMs of this demo meet no others. Sockets want a short path.
scratch=$(mktemp -d "${tmp:-/tmp}/hvdemo.XXXXXX")
export XDG_RUNTIME_DIR=$scratch XDG_STATE_HOME=$scratch
vm=
clean() {
	if [ -n "$vm" ] && kill -0 "$vm" 2>/dev/null; then
		kill "$vm" 2>/dev/null || true
		for _ in {1..20}; do
			kill -0 "$vm" 2>/dev/null || break
			sleep 0.1
		done
		kill -KILL "$vm" 2>/dev/null || true
	fi
	wait 2>/dev/null || true
	rm -rf "$scratch"
}
trap clean EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
mkdir -p "$out"

# Waits until a file's new part has the text, at most some seconds.
await() { # text, file, seconds
	for ((i = 0; i < $3 * 20 * patience; i++)); do
		if grep -qaF -- "$1" "$2" 2>/dev/null; then return 0; fi
		sleep 0.05
	done
	stop "waited $3 s for '$1' in vain"
}

serial=$scratch/serial
ask() { # a command line for the guest; shows what it prints
	local from
	from=$(stat -c %s "$serial")
	printf '%s$ build/bin/hvctl demo send "%s"%s\n' "$green" "$*" "$off"
	timeout $((5 * patience)) "$bin/hvctl" demo send "$*" >/dev/null </dev/null || stop "the VM did not take the command"
	for ((i = 0; i < 100 * patience; i++)); do
		if tail -c +$((from + 1)) "$serial" | tr -d '\r' | tail -n 1 | grep -qa '^> $'; then break; fi
		sleep 0.05
	done
	tail -c +$((from + 1)) "$serial" | tr -d '\r' | grep -va '^> \?$' | sed 's/^/  /'
}

scene "1. The first exits"
say "hello.bin is sixteen instructions in real mode: no operating system, no BIOS. Each byte it writes to port 0x3f8 \
takes the CPU out of the guest (an exit), into hvrun, and back. --stats counts them and says what each one cost us:"
echo
try "$bin/hvrun" --timeout $((10 * patience)) --stats "$guests/hello.bin"
say "\"io\" is the serial port; the last exit is hlt, which ends a VM that has no interrupts. \"mean\" is the time \
that hvrun itself took for an exit."

scene "2. A guest that listens"
say "shell is a small system of its own: long mode, interrupts, a command line on the serial line. It runs in the \
background now, and we type by hvctl, which finds it by its name:"
echo
printf '%s$ build/bin/hvrun --name demo --timeout %s --serial file:%s build/guests/shell &%s\n' \
	"$green" $((60 * patience)) "$serial" "$off"
"$bin/hvrun" --name demo --timeout $((60 * patience)) --serial "file:$serial" "$guests/shell" </dev/null 2>"$scratch/errors" &
vm=$!
await '> ' "$serial" 10
tr -d '\r' <"$serial" | grep -va '^> \?$' | sed 's/^/  /'
ask set colour blue
ask get colour
ask sum
ask uptime

scene "3. Stopped between two instructions"
say "A paused VM holds still, and everything in it can be looked at. Its vCPU first:"
echo
try "$bin/hvctl" demo pause
try "$bin/hvctl" demo status
try "$bin/hvctl" demo info regs
rip=$("$bin/hvctl" demo info regs | grep -ao 'RIP=[0-9a-f]*' | head -n 1 | cut -d= -f2)
[ -n "$rip" ] || stop "the registers have no RIP"
say "The instructions where it stands, read from the guest's memory:"
try "$bin/hvctl" demo x/4i "0x$rip"
say "How the CPU finds that address: the page tables, level by level."
try "$bin/hvctl" demo translate "0x$rip"

scene "4. What made it leave the guest"
say "Every exit is counted by its reason. io: the serial port, a byte at a time. mmio: the interrupt controller. hlt is not \
among them, though the shell sleeps in it between two keys: this VM has a local APIC in the kernel, which waits there. \
A signal is what made it pause."
echo
printf '%s$ build/bin/hvctl demo info exits%s\n' "$green" "$off"
timeout $((10 * patience)) "$bin/hvctl" demo info exits </dev/null | head -n 10 | sed 's/^/  /' || true
printf '%s  ...%s\n' "$dim" "$off"

scene "5. A trace to open"
say "From here on every exit is recorded with its time, while the guest answers a few commands more:"
echo
try "$bin/hvctl" demo trace on
try "$bin/hvctl" demo resume
ask keys
ask sum
trace=$(cd "$out" && pwd)/exits.json
rm -f "$trace"
printf '%s$ build/bin/hvctl demo trace save build/demo/exits.json%s\n' "$green" "$off"
timeout $((10 * patience)) "$bin/hvctl" demo trace save "$trace" >/dev/null </dev/null || stop "the trace could not be saved"
printf '  %s exits recorded\n' "$(grep -c '"ph":"X"' "$trace")"
try "$bin/hvctl" demo stop
for ((i = 0; i < 100 * patience; i++)); do
	kill -0 "$vm" 2>/dev/null || break
	sleep 0.05
done
rc=0
wait "$vm" || rc=$?
vm=
[ $rc -eq 0 ] || stop "the VM ended with status $rc: $(cat "$scratch/errors")"

scene "6. Two disks become one"
say "The same small disk as a VMware image and as a Hyper-V image, made by $(command -v qemu-img >/dev/null && echo qemu-img ||
	echo hvmigrate) from 64 MiB with holes, text and noise in them. hvmigrate finds out by content what they are, makes \
raw disks of both, reads back what it wrote, and compares the two:"
echo
disks=$scratch/disks
mkdir "$disks"
truncate -s 64M "$disks/disk.raw"
head -c 8M /dev/urandom | dd of="$disks/disk.raw" bs=1M seek=3 conv=notrunc status=none
yes "a block that compresses" | head -c 8M | dd of="$disks/disk.raw" bs=1M seek=40 conv=notrunc status=none || true
if command -v qemu-img >/dev/null; then
	qemu-img convert -f raw -O vmdk -o subformat=streamOptimized "$disks/disk.raw" "$disks/vmware.vmdk"
	qemu-img convert -f raw -O vhdx "$disks/disk.raw" "$disks/hyperv.vhdx"
else
	"$bin/hvmigrate" convert -q -O vmdk:streamOptimized "$disks/disk.raw" "$disks/vmware.vmdk"
	"$bin/hvmigrate" convert -q -O vhdx "$disks/disk.raw" "$disks/hyperv.vhdx"
fi
# In the folder, so that the lines are as short as a reader would type them.
disk() { # words of the command
	printf '%s$ hvmigrate %s%s\n' "$green" "$*" "$off"
	local rc=0
	(cd "$disks" && timeout -k 2 $((20 * patience)) "$bin/hvmigrate" "$@") </dev/null 2>&1 | sed 's/^/  /' || rc=$?
	[ $rc -eq 0 ] || stop "that failed with status $rc"
}
disk info vmware.vmdk
disk convert --verify vmware.vmdk from-vmware.raw
disk convert --verify hyperv.vhdx from-hyperv.raw
disk compare from-vmware.raw from-hyperv.raw
cmp -s "$disks/from-vmware.raw" "$disks/disk.raw" || stop "the raw disk is not the one that the images were made of"
printf '  and both are, byte by byte, what they were made of; %s of %s take room on the disk\n' \
	"$(du -h "$disks/from-vmware.raw" | cut -f1)" "$(du -h --apparent-size "$disks/from-vmware.raw" | cut -f1)"
took() { # words of the command: the shortest of five runs, in milliseconds
	local best=999999 start end
	for _ in 1 2 3 4 5; do
		rm -f "$disks/timed.raw"
		start=$(date +%s%N)
		"$@" "$disks/vmware.vmdk" "$disks/timed.raw" >/dev/null 2>&1 || stop "$1 failed"
		sync "$disks/timed.raw"
		end=$(date +%s%N)
		[ $(((end - start) / 1000000)) -ge $best ] || best=$(((end - start) / 1000000))
	done
	echo "$best"
}
if command -v qemu-img >/dev/null; then
	printf '  the VMDK to raw and onto the disk, best of five: hvmigrate %s ms, qemu-img %s ms\n' \
		"$(took "$bin/hvmigrate" convert -q)" "$(took qemu-img convert -O raw)"
fi
echo
say "An image that is cut off is not made into zeros, but refused:"
echo
truncate -s 300K "$disks/vmware.vmdk"
printf '%s$ truncate -s 300K vmware.vmdk; hvmigrate convert vmware.vmdk again.raw%s\n' "$green" "$off"
rc=0
(cd "$disks" && timeout -k 2 $((20 * patience)) "$bin/hvmigrate" convert -q vmware.vmdk again.raw) </dev/null >"$scratch/refused" 2>&1 || rc=$?
fold -s -w $((width - 2)) "$scratch/refused" | sed 's/^/  /; s/ *$//'
if [ $rc -ne 3 ] || [ -e "$disks/again.raw" ]; then stop "a damaged image was not refused, but ended with status $rc"; fi
printf '  (status 3, and no again.raw)\n'

scene "7. Linux, to a shell"
linux="build-linux/guest"
kernel=$linux/bzImage initrd=$linux/initrd memory=128M
# The distribution's kernel, as it came in its package: fetched once, and kept for the box too.
stock_kernel() {
	python3 - <<-'PYTHON'
		import glob, sys
		sys.path.insert(0, "labs")
		from kit import box
		try:
		    print(sorted(glob.glob(box.kernel_folder(lambda line: print("  " + line, file=sys.stderr)) + "/boot/vmlinuz-*"))[-1])
		except (box.Trouble, OSError) as why:
		    sys.exit(f"  {why}")
	PYTHON
}
box=
if grep -qwE 'vmx|svm' /proc/cpuinfo; then
	missing=$(command -v busybox >/dev/null || echo busybox-static)
else
	box=yes
	missing=$(command -v busybox >/dev/null || echo busybox-static)$(command -v qemu-system-x86_64 >/dev/null || echo ' qemu-system-x86')
fi
if [ -z "$missing" ] && ! { [ -f "$kernel" ] && [ -f "$initrd" ]; }; then
	initrd=$scratch/initrd memory=512M
	guests/linux/rootfs --initrd "$scratch" >/dev/null || stop "the initial RAM disk could not be made"
	kernel=$(stock_kernel) || missing='a kernel package'
fi
if [ -n "$missing" ]; then
	say "This is left out, as $missing can't be had here: a kernel boots to a shell, and upgrades the system in it. \
docs/boot.md tells how to see it."
else
	if [ "$memory" = 512M ]; then
		say "The distribution's own kernel, as it is, with an initial RAM disk of busybox (make linux-guest builds a small one, \
which starts sooner)."
	else
		say "The small kernel that make linux-guest has built, with an initial RAM disk of busybox."
	fi
	if [ -n "$box" ]; then
		say "Linux's programs need VT-x or AMD-V: the /dev/kvm of this machine is a software back end, where a program's system \
calls never reach its kernel. So this VM runs in the box, an emulated PC with AMD-V, which takes its time. The prompt's answers \
are typed by this script:"
	else
		say "The prompt's answers are typed by this script:"
	fi
	echo
	printf '/status\n/upgrade\n/status\npoweroff\n' >"$scratch/typed"
	cat >"$scratch/linux.sh" <<-'BASH'
		# OUT TYPED COMMAND...: types when the prompt is there, and not before: a driver empties its port's FIFO when it starts
		out=$1 typed=$2
		shift 2
		: >"$out"
		{
			for ((i = 0; i < 2400; i++)); do
				! grep -qaF 'hvkit# ' "$out" || break
				sleep 0.1
			done
			cat "$typed"
		} | "$@" 2>&1 | tee "$out"
		exit "${PIPESTATUS[1]}"
	BASH
	words=("$bin/hvrun" --mem "$memory" --timeout $((240 * patience)) --initrd "$initrd" --append
		"console=ttyS0 panic=-1 quiet hv.login=root" "$kernel")
	printf '%s$ build/bin/hvrun --mem %s --initrd %s --append "console=ttyS0 quiet hv.login=root" %s%s\n' "$green" "$memory" \
		"${initrd/#$scratch\//}" "${kernel/#*\/boot\//}" "$off"
	rc=0
	if [ -n "$box" ]; then
		timeout -k 5 420 labs/hvlab box --timeout 330 -- bash "$scratch/linux.sh" "$scratch/linux.out" "$scratch/typed" "${words[@]}"
	else
		timeout -k 5 $((260 * patience)) bash "$scratch/linux.sh" "$scratch/linux.out" "$scratch/typed" "${words[@]}"
	fi </dev/null 2>&1 | tr -d '\r' | sed 's/^/  /' || rc=$?
	[ $rc -eq 0 ] || stop "that failed with status $rc"
	grep -qa 'the system WORKS' "$scratch/linux.out" || stop "the shell did not answer"
fi

printf '\n%sThat was hvkit on %s.%s What to do next:\n' "$bold" "${where:-a real KVM}" "$off"
cat <<END
  open ${trace#"$PWD"/} in https://ui.perfetto.dev or chrome://tracing: every exit, one bar each
  build/bin/hvrun build/guests/shell     the same guest on your terminal (Ctrl-A x ends it)
  build/bin/hvctl                        from another terminal: lists the running VMs
  build/bin/hvmigrate --help             disks of Hyper-V, VMware, VirtualBox, QEMU, Parallels
  build/bin/hvrun --doctor               what this machine's KVM can do
  README.md, docs/architecture.md        how to go on
END
