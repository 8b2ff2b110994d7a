#!/bin/bash
# The floors of the house: an include may only point down. tools and labs stand on control, control on snapshot and
# migrate, these on machine, machine on boot and device, these on kvm, all on base; disk on base alone. Inside core a
# header is named with its room, so that the arrow can be seen.
set -euo pipefail
cd "$SRC"

declare -A floor=([base]=0 [disk]=1 [kvm]=1 [boot]=2 [device]=2 [machine]=3 [snapshot]=4 [migrate]=4 [control]=5
	[tools]=6 [labs]=6)
bad=0
complain() {
	echo "$@"
	bad=1
}

allowed() { # file, its room, the room it includes
	local file=$1 from=$2 to=$3
	[ "$from" = "$to" ] && return 0
	[ "$from" = disk ] && [ "$to" != base ] && return 1
	[ "$to" = disk ] && case $file in
	core/device/virtio/blk*.*) return 0 ;;
	core/*) [ "${floor[$from]}" -ge 4 ]; return ;;
	esac
	# device describes its interrupt lines with kvm's header; boot and device are neighbours.
	[ "${floor[$from]}" -gt "${floor[$to]}" ]
}

while IFS=: read -r file line include; do
	room=${file#core/}
	room=${room%%/*}
	header=$(sed -n 's/^[^"]*"\([^"]*\)".*/\1/p' <<<"$include")
	target=${header%%/*}
	if [[ $file == core/* ]]; then
		if [[ $header != */* ]]; then
			complain "$file:$line: \"$header\" is included without its room"
			continue
		fi
		if [ ! -f "core/$header" ]; then
			complain "$file:$line: there is no core/$header"
			continue
		fi
	fi
	[ -f "core/$header" ] || continue
	if [ -z "${floor[$target]:-}" ] || [ -z "${floor[$room]:-}" ]; then
		complain "$file:$line: the room of $header has no floor; give it one in tests/check_layers.sh"
	elif ! allowed "$file" "$room" "$target"; then
		complain "$file:$line: $room (floor ${floor[$room]}) must not include $header (floor ${floor[$target]})"
	fi
done < <(grep -rnE '^[[:space:]]*#[[:space:]]*include[[:space:]]*"' core tools labs --include='*.[ch]' 2>/dev/null)

# Libraries neither print, nor end the process, nor wait for ever on a child.
if found=$(grep -rnE "(^|[^_[:alnum:].\"])((printf|puts|putchar|perror|exit|abort|err|errx|warn|warnx|system)[[:space:]]*\(|fprintf\((stderr|stdout))" \
	core --include='*.c' | grep -vE '^[^:]*:[0-9]*:[[:space:]]*(\*|/\*)'); then
	complain "a library prints or ends the process:"$'\n'"$found"
fi
exit $bad
