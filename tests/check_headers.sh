#!/bin/bash
# Every header compiles alone, and twice: what it uses it includes itself. KVM's structs end in flexible arrays, and
# the state of a vCPU embeds them; clang would have that told, gcc knows no such warning.
set -euo pipefail
cd "$SRC"

bad=0
cflags=$(pkg-config --cflags libelf capstone jansson libdeflate libzstd libxxhash nettle libnbd libarchive expat 2>/dev/null || true)
while read -r header; do
	# shellcheck disable=SC2086
	if ! printf '#include "%s"\n#include "%s"\n' "${header#core/}" "${header#core/}" |
		$CC -std=gnu17 -D_GNU_SOURCE -fsyntax-only -Wall -Wextra -Werror -Wno-unknown-warning-option \
			-Wno-gnu-variable-sized-type-not-at-end -Icore $cflags -x c - 2>&1; then
		echo "$header does not compile alone"
		bad=1
	fi
	guard=$(sed -n 's/^#ifndef \(HV_[A-Z0-9_]*_H\)$/\1/p' "$header" | head -n 1)
	if [ -z "$guard" ] || ! grep -qx "#define $guard" "$header"; then
		echo "$header has no include guard HV_..._H"
		bad=1
	elif [ "$(grep -rlx "#ifndef $guard" core --include='*.h' | wc -l)" != 1 ]; then
		echo "$header shares its guard $guard with another header"
		bad=1
	fi
done < <(find core -name '*.h' | sort)
exit $bad
