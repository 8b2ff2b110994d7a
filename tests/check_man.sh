#!/bin/bash
# Every tool has a man page that mandoc accepts, and the page names every option that --help does.
set -euo pipefail

bad=0
complain() {
	echo "$@"
	bad=1
}
if ! command -v mandoc >/dev/null; then
	echo "mandoc is not installed"
	exit 77
fi
for tool in "$BUILD"/bin/* "$SRC/labs/hvlab"; do
	[ -x "$tool" ] || continue
	name=${tool##*/}
	page=$SRC/docs/man/$name.1
	if [ ! -f "$page" ]; then
		complain "docs/man/$name.1 is missing"
		continue
	fi
	text=$(mandoc -T ascii "$page" | col -b 2>/dev/null || mandoc -T ascii "$page" | sed 's/.\x08//g')
	help=$("$tool" --help </dev/null) || complain "$name --help fails"
	# hvlab is many commands, each with options of its own; doctor and box take none.
	if [ "$name" = hvlab ]; then
		for command in $(sed -n 's/^    \([a-z]*\)  .*/\1/p' <<<"$help" | grep -vxE 'doctor|box'); do
			help+=$'\n'$("$tool" "$command" --help </dev/null) || complain "hvlab $command --help fails"
			grep -qw "$command" <<<"$text" || complain "docs/man/hvlab.1 does not tell of $command"
		done
	fi
	for option in $(grep -oE '(^|[ ,[])--[a-z][a-z-]*' <<<"$help" | tr -d ' ,[' | sort -u); do
		grep -qe "$option" <<<"$text" || complain "docs/man/$name.1 does not tell of $option"
	done
done
for page in "$SRC"/docs/man/*.[1-8]; do
	[ -f "$page" ] || continue
	# STYLE messages are matters of taste and of the mandoc release; warnings and errors are not.
	mandoc -T lint -W warning "$page" || complain "$page has mistakes"
done
exit $bad
