#!/usr/bin/env bash
# virtio: disks of every writable format, the entropy device and a network card, from the guest's driver to the image's bytes; what is
# refused; and that a driver's mistake costs the guest a reset of the device and nobody else anything.
# limit: 200
# box: intel
set -euo pipefail

run() { # STATUS, then hvrun's words
	local want=$1 status=0
	shift
	timeout $((90 * HV_STRETCH)) "$HVRUN" --timeout $((80 * HV_STRETCH)) "$@" </dev/null >"$TMP/out" 2>"$TMP/err" || status=$?
	[ "$status" = "$want" ] || { cat "$TMP/out" "$TMP/err"; echo "hvrun $*: status $status, want $want"; exit 1; }
}
says() { # FILE, LINE
	grep -qF -- "$2" "$TMP/$1" || { cat "$TMP/out" "$TMP/err"; echo "'$2' is missing"; exit 1; }
}
checksum() { # FILE, SECTORS: FNV-1a of its start
	python3 - "$1" "$2" <<-'END'
		import sys
		h = 0xcbf29ce484222325
		for byte in open(sys.argv[1], "rb").read(int(sys.argv[2]) * 512):
		    h = (h ^ byte) * 0x100000001b3 % 2**64
		print(f"0x{h:016x}")
	END
}
is_changed() { # OLD, NEW: the guest wrote the first 64 sectors a second time, changed, and nothing else
	python3 - "$1" "$2" <<-'END'
		import sys
		old, new = (open(name, "rb").read() for name in sys.argv[1:])
		n = 64 * 512
		assert new == old[:n] + bytes(b ^ 0xa5 for b in old[:n]) + old[2 * n:], "the image has other bytes"
	END
}

head -c 1M /dev/urandom >"$TMP/original"
sum=$(checksum "$TMP/original" 64)

# --- a raw disk, a read-only one, entropy; either kind of IOAPIC ---
for chip in split full; do
	cp "$TMP/original" "$TMP/disk,1.raw"
	run 33 --irqchip $chip --disk "$TMP/disk,,1.raw,format=raw,serial=first-1" --disk "$TMP/original,ro,format=raw" --rng "$GUESTS/virtio"
	says out "window 0: disk, 2048 sectors, serial 'first-1'"
	says out "window 0: checksum of 64 sectors $sum"
	says out 'window 0: 64 sectors written and read back'
	says out "window 1: disk, 2048 sectors, serial '', read only"
	says out "window 1: checksum of 64 sectors $sum"
	says out 'window 2: entropy '
	says out 'virtio: 3 devices, woken by interrupts'
	is_changed "$TMP/original" "$TMP/disk,1.raw"
done

# --- a console, and a balloon ---
for chip in split full; do
	printf 'some words\n' | "$HVRUN" --irqchip $chip --timeout $((80 * HV_STRETCH)) --console stdio --serial "file:$TMP/out" --balloon \
		--append typed=1 "$GUESTS/virtio" >"$TMP/console" 2>"$TMP/err" || status=$?
	[ "$status" = 33 ] || { cat "$TMP/out" "$TMP/err"; echo "status $status"; exit 1; }
	[ "$(cat "$TMP/console")" = 'a line for the console' ] || { cat "$TMP/console"; echo 'the console has other bytes'; exit 1; }
	says out "window 0: console, 'some words' was typed"
	says out 'window 1: balloon, 8 pages lent, target 0'
	says out 'virtio: 2 devices, '
done

# --- without ACPI, Linux is told of the devices on its command line ---
cp "$TMP/original" "$TMP/disk,1.raw"
run 33 --acpi off --disk "$TMP/disk,,1.raw,format=raw" --rng --append 'sectors=8 words=1' "$GUESTS/virtio"
says out 'command line: sectors=8 words=1 virtio_mmio.device=512@0xd0000000:16 virtio_mmio.device=512@0xd0001000:17'
run 33 --disk "$TMP/disk,,1.raw,format=raw" --append 'sectors=8 words=1' "$GUESTS/virtio"
grep -qx 'command line: sectors=8 words=1' "$TMP/out"

# --- formats with tables ---
for format in qcow2 vpc vhdx; do
	options=
	[ $format != vpc ] || options='-o force_size'
	# shellcheck disable=SC2086
	qemu-img convert -f raw -O $format $options "$TMP/original" "$TMP/disk.$format"
	run 33 --disk "$TMP/disk.$format" "$GUESTS/virtio"
	says out "window 0: checksum of 64 sectors $sum"
	says out 'window 0: 64 sectors written and read back'
	[ $format = vpc ] || qemu-img check -q -f $format "$TMP/disk.$format"
	qemu-img convert -f $format -O raw "$TMP/disk.$format" "$TMP/after"
	is_changed "$TMP/original" "$TMP/after"
done

# --- a driver's mistake ---
run 33 --disk "$TMP/disk.qcow2" --rng --append 'bad=1 sectors=8' "$GUESTS/virtio"
says err "warning: virtio-blk0: the guest's driver put a descriptor chain that loops into queue 0"
says out 'window 0: a chain that loops: the device asks for a reset'
says out 'window 0: 8 sectors written and read back'
says out 'virtio: all is well'

# --- a network card with user networking: its router answers, sandbox or not ---
for sandbox in on off; do
	run 33 --sandbox $sandbox --name card --rng --net user,hostname=card "$GUESTS/virtio"
	says out 'window 1: network card 02:'
	says out 'window 1: 10.0.2.2 is at 52:55:0a:00:02:02'
	says out 'virtio: 2 devices'
done
run 33 --net user,mac=52:54:00:12:34:56,restrict=on --net user,net=10.0.2.0/27 --append 'bad=1 sectors=8' "$GUESTS/virtio"
says out 'window 0: network card 52:54:00:12:34:56'
says out 'window 1: a chain that loops: the device asks for a reset'
says err "warning: virtio-net0: the guest's driver put a descriptor chain that loops into queue 1"
run 2 --net user,hostfwd=tcp::1-:0 "$GUESTS/virtio"
says err 'ports count from 1'
run 2 --net tap,fd=77 "$GUESTS/virtio"
says err 'there is no descriptor 77'
run 2 --net tap,fd=77 "$GUESTS/virtio" 77</dev/null
says err 'is not open for reading and writing'
run 2 --net tap,fd=77 "$GUESTS/virtio" 77<>/dev/null
says err 'descriptor 77 is no tap'
# A port that is taken: the first VM has it as long as it lives.
python3 - "$TMP/port" <<-'END' &
	import os, socket, sys, time
	s = socket.create_server(("127.0.0.1", 0))
	with open(sys.argv[1] + ".new", "w") as f:
	    f.write(str(s.getsockname()[1]))
	os.rename(sys.argv[1] + ".new", sys.argv[1])
	time.sleep(600)
END
taken=$!
trap 'kill $taken 2>/dev/null || true; wait $taken 2>/dev/null || true' EXIT
for _ in $(seq 500); do
	[ -f "$TMP/port" ] && break
	sleep 0.05
done
run 1 --net "user,hostfwd=tcp::$(cat "$TMP/port")-:22" "$GUESTS/virtio"
says err "TCP port $(cat "$TMP/port") of 127.0.0.1 can't be forwarded: Address already in use"
kill $taken
wait $taken 2>/dev/null || true

# --- its cable, from outside ---
timeout $((60 * HV_STRETCH)) "$HVRUN" --name virtio-cable --paused --timeout $((50 * HV_STRETCH)) --net user "$GUESTS/virtio" \
	</dev/null >/dev/null 2>&1 &
card=$!
trap 'kill $card 2>/dev/null || true; wait $card 2>/dev/null || true' EXIT
for _ in $(seq 500); do
	"$HVCTL" virtio-cable info status >/dev/null 2>&1 && break
	sleep 0.05
done
"$HVCTL" virtio-cable set_link net0 off
"$HVCTL" virtio-cable info devices >"$TMP/out"
says out 'link down'
"$HVCTL" virtio-cable set_link virtio-net0 on
"$HVCTL" virtio-cable info devices >"$TMP/out"
says out 'link up'
! "$HVCTL" virtio-cable set_link net1 on 2>"$TMP/err"
says err "there is no network device 'net1'"
"$HVCTL" virtio-cable quit >/dev/null
wait $card 2>/dev/null || true

# --- a disk that can't be had ---
run 1 --disk "$TMP/missing" "$GUESTS/virtio"
says err "$TMP/missing: can't be opened"
head -c 1000 /dev/zero >"$TMP/odd"
run 2 --disk "$TMP/odd,format=raw" "$GUESTS/virtio"
says err 'no whole number of 512-byte sectors'
run 2 --disk "$TMP/original,colour=red" "$GUESTS/virtio"
says err "'colour=red' is none of ro, format=F, cache=C, serial=S"
head -c 200 "$TMP/disk.qcow2" >"$TMP/cut"
run 3 --disk "$TMP/cut,format=qcow2" "$GUESTS/virtio"
says err "$TMP/cut"

# --- two VMs and one disk; a file system without locks can't tell ---
python3 - "$TMP/original" <<-'END' || exit 0
	import fcntl, struct, sys
	lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
	first, second = (open(sys.argv[1], "r+b") for _ in range(2))
	fcntl.fcntl(first, fcntl.F_OFD_SETLK, lock)
	try:
	    fcntl.fcntl(second, fcntl.F_OFD_SETLK, lock)
	    sys.exit(1)
	except OSError:
	    pass
END
timeout $((60 * HV_STRETCH)) "$HVRUN" --name virtio-lock --paused --timeout $((50 * HV_STRETCH)) --disk "$TMP/disk.qcow2" "$GUESTS/virtio" \
	</dev/null >/dev/null 2>&1 &
first=$!
trap 'kill $first 2>/dev/null || true; wait $first 2>/dev/null || true' EXIT
for _ in $(seq 500); do
	"$HVCTL" virtio-lock info status >/dev/null 2>&1 && break
	sleep 0.05
done
run 1 --disk "$TMP/disk.qcow2" "$GUESTS/virtio"
says err 'another process has it open'
"$HVCTL" virtio-lock quit >/dev/null
