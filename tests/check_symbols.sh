#!/bin/bash
# What leaves a library starts with hv_, and no library keeps global mutable state. There are two exceptions, which can't be
# had otherwise: a pthread_once_t, and slirp_lock, which guards the global state of a library that isn't ours (libslirp).
set -euo pipefail

if [ -n "${HV_SAN:-}" ]; then
	echo "a sanitizer adds symbols of its own"
	exit 77
fi
bad=0
complain() {
	echo "$@"
	bad=1
}

for lib in libhv libhvdisk; do
	names=$(nm -D --defined-only "$BUILD/$lib.so" | awk '$2 ~ /[A-TV-Z]/ { print $3 }')
	for name in $names; do
		[[ $name == hv_* ]] || complain "$lib.so exports $name"
	done
	# A static library has no hidden names: every global one can clash with a user's.
	names=$(nm -g --defined-only "$BUILD/$lib.a" 2>/dev/null | awk 'NF == 3 { print $3 }')
	for name in $names; do
		[[ $name == hv_* ]] || complain "$lib.a has the global name $name; make it static or call it hv_$name"
	done
	[ -f "$BUILD/$lib.so.0" ] || complain "$lib.so.0 is missing"
	readelf -d "$BUILD/$lib.so" | grep -q "SONAME.*\[$lib.so.0\]" || complain "$lib.so has another soname"
	# Objects in .data or .bss can be written to; constants are in .rodata or .data.rel.ro.
	state=$(objdump -t "$BUILD/$lib.a" 2>/dev/null |
		awk '($4 ~ /^\.(data|bss)(\.[^r].*)?$/ || $3 ~ /^\.(data|bss)(\.[^r].*)?$/) && $NF !~ /^\.(data|bss)/ { print $NF }')
	for name in $state; do
		[[ $name == *once* || $name == slirp_lock ]] || complain "$lib keeps global mutable state: $name"
	done
done

# What a public header declares, the shared libraries have: a prototype without a body is a broken promise.
declared=$(cat "$SRC"/core/*/*.h | awk '
	/^HV_API_BEGIN/ { inside = 1; next }
	/^HV_API_END/ { inside = 0 }
	inside' | sed 's@/\*.*\*/@@' | grep -o '\<hv_[a-z0-9_]*(' | tr -d '(' | sort -u)
exported=$(nm -D --defined-only "$BUILD/libhv.so" "$BUILD/libhvdisk.so" | awk 'NF >= 3 { print $NF }' | sort -u)
typedefs=$(cat "$SRC"/core/*/*.h | sed -n 's/^typedef .*\<\(hv_[a-z0-9_]*\)(.*/\1/p' | sort -u)
for name in $(comm -23 <(echo "$declared") <(echo "$exported")); do
	grep -qx "$name" <<<"$typedefs" || complain "a header declares $name, but no library has it"
done
exit $bad
