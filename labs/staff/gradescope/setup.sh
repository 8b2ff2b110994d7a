#!/bin/bash
# Gradescope runs this once, when the autograder's image is made: packages, and the staff's tree beside it.
#
# AUTOGRADER is where Gradescope puts things (/autograder); the tests set another place.
set -euo pipefail

autograder=${AUTOGRADER:-/autograder}
cd "$autograder/source"

archives=(hvkit-labs-*-staff.tar.gz)
[ -f "${archives[0]}" ] || {
	echo "setup.sh: there is no hvkit-labs-TERM-staff.tar.gz beside it" >&2
	exit 1
}
rm -rf tree
mkdir -m 755 tree
tar -xzf "${archives[0]}" -C tree --strip-components=1 --no-same-owner

# The same packages as in a student's container; nothing to do where they are there.
if [ -z "${HVLAB_NO_PACKAGES:-}" ]; then
	mapfile -t packages < <(sed -n 's/^        \([a-z0-9.+-]*\) \\$/\1/p' tree/.devcontainer/Containerfile)
	apt-get update -qq
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
fi
