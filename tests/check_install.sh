#!/bin/bash
# `make install` puts a whole kit into DESTDIR, a program builds against it by pkg-config alone, and `make uninstall`
# takes all of it away.
set -euo pipefail

if [ -n "${HV_SAN:-}" ]; then
	echo "a build with sanitizers is not one to install"
	exit 77
fi
root=$TMP/root
run() {
	make -s -C "$SRC" BUILD="$BUILD" PREFIX=/opt/hvkit DESTDIR="$root" "$1"
}
run install-files >/dev/null

export PKG_CONFIG_PATH=$root/opt/hvkit/lib/pkgconfig
for pc in libhv libhvdisk; do
	pkg-config --validate "$pc"
	[ "$(pkg-config --modversion "$pc")" = "$(sed -n 's/^VERSION := //p' "$SRC/Makefile")" ]
done
cat >"$TMP/user.c" <<'END'
#include <stdio.h>
#include <string.h>
#include "base/error.h"
#include "base/parse.h"
#include "disk/convert.h"
int main(int argc, char **argv)
{
	struct hv_error err = {0};
	struct hv_disk *disk;
	uint64_t v = 0, size = 0;

	if (argc != 2 || hv_parse_size("size", "64M", ~0ull, &v, &err) || hv_disk_open(argv[1], NULL, &disk, &err))
		return 1;
	size = hv_disk_size(disk);
	hv_disk_close(disk);
	return size != v;
}
END
truncate -s 64M "$TMP/disk.raw"
cflags=$(pkg-config --cflags libhvdisk | sed "s@/opt/hvkit/@$root/opt/hvkit/@g")
libs=$(pkg-config --libs libhvdisk | sed "s@/opt/hvkit/@$root/opt/hvkit/@g")
# shellcheck disable=SC2086
$CC -o "$TMP/user-shared" "$TMP/user.c" $cflags $libs
LD_LIBRARY_PATH=$root/opt/hvkit/lib "$TMP/user-shared" "$TMP/disk.raw"
# Ours static, and what it stands on as the system has it.
requires=$(pkg-config --print-requires-private libhvdisk)
# shellcheck disable=SC2046,SC2086
$CC -o "$TMP/user-static" "$TMP/user.c" $cflags "$root/opt/hvkit/lib/libhvdisk.a" -pthread $(pkg-config --libs $requires)
"$TMP/user-static" "$TMP/disk.raw"

# The program that docs/formats.md shows.
# shellcheck disable=SC2016
sed -n '/^```c$/,/^```$/{/^```/!p}' "$SRC/docs/formats.md" >"$TMP/count.c"
# shellcheck disable=SC2086
$CC -Wall -Wextra -Werror -o "$TMP/count" "$TMP/count.c" $cflags $libs
printf 'twelve bytes' >"$TMP/disk.raw"
truncate -s 5M "$TMP/disk.raw"
export LD_LIBRARY_PATH=$root/opt/hvkit/lib
[ "$("$TMP/count" "$TMP/disk.raw")" = 12 ]
truncate -s 100 "$TMP/cut.vhdx"
status=0
"$TMP/count" "$TMP/cut.vhdx" 2>"$TMP/said" || status=$?
[ "$status" = 3 ]
grep -q cut.vhdx "$TMP/said"

# Installed headers find each other.
(cd "$root/opt/hvkit/include/hvkit" && find . -name '*.h' | sed 's@^\./@@') | while read -r header; do
	# shellcheck disable=SC2046
	printf '#include "%s"\n' "$header" |
		$CC -std=gnu17 -D_GNU_SOURCE -fsyntax-only -I"$root/opt/hvkit/include/hvkit" \
			$(pkg-config --cflags libelf capstone jansson) -x c -
done

run uninstall >/dev/null
left=$(find "$root" -type f -o -type l)
if [ -n "$left" ]; then
	echo "uninstall leaves:"
	echo "$left"
	exit 1
fi
