#!/bin/bash
# A session as QEMU's qmp-spec (section "QMP example") shows it, spoken by netcat and by socat: greeting, negotiation,
# events, an error, and the goodbye. Numbers that differ from run to run become N.
set -euo pipefail

for tool in nc socat; do
	command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done
sock=$XDG_RUNTIME_DIR/hvkit/transcript.sock

session() {
	printf '%s\n' \
		'{ "execute": "query-status" }' \
		'{ "execute": "qmp_capabilities" }' \
		'{ "execute": "query-name", "id": "example" }' \
		'{ "execute": "stop" }' \
		'{ "execute": "query-status" }' \
		'{ "execute": "cont" }' \
		'{ "execute": "query-kvm", "id": [ 1, 2 ] }' \
		'{ "execute": "foobar" }' \
		'{ "execute": ' '}' \
		'{ "execute": "human-monitor-command", "arguments": { "command-line": "info status" } }' \
		'{ "execute": "system_reset" }'
}

expected() {
	cat <<'END'
{"QMP":{"version":{"qemu":{"micro":N,"minor":N,"major":N},"package":"hvkit N.N.N"},"capabilities":[]}}
{"error":{"class":"CommandNotFound","desc":"Expecting capabilities negotiation with 'qmp_capabilities'"}}
{"return":{}}
{"return":{"name":"transcript"},"id":"example"}
{"timestamp":{"seconds":N,"microseconds":N},"event":"STOP"}
{"return":{}}
{"return":{"running":false,"singlestep":false,"status":"paused"}}
{"timestamp":{"seconds":N,"microseconds":N},"event":"RESUME"}
{"return":{}}
{"return":{"enabled":true,"present":true},"id":[1,2]}
{"error":{"class":"CommandNotFound","desc":"The command foobar has not been found"}}
{"error":{"class":"GenericError","desc":"JSON parse error, ..."}}
{"return":"transcript: running ..."}
{"timestamp":{"seconds":N,"microseconds":N},"event":"RESET","data":{"guest":false,"reason":"host-qmp-system-reset"}}
{"return":{}}
END
}

plain() {
	tr -d '\r' | sed -E 's/(JSON parse error,) [^"]*("?[^"]*"?)*"\}\}$/\1 ..."}}/; s/(: running),.*"\}$/\1 ..."}/
		s/"(micro|minor|major|seconds|microseconds)":[0-9]+/"\1":N/g; s/hvkit [0-9.]+"/hvkit N.N.N"/'
}

timeout $((60 * HV_STRETCH)) "$HVRUN" --name transcript --serial none --timeout $((50 * HV_STRETCH)) "$GUESTS/shell" </dev/null &
vm=$!
trap 'kill $vm 2>/dev/null; wait $vm 2>/dev/null || true' EXIT
for _ in $(seq 500); do
	[ -S "$sock" ] && break
	sleep 0.02
done

session | timeout $((20 * HV_STRETCH)) nc -U -N "$sock" | plain >"$TMP/nc.txt"
diff -u <(expected) "$TMP/nc.txt"
session | timeout $((20 * HV_STRETCH)) socat -t 10 - "UNIX-CONNECT:$sock" | plain >"$TMP/socat.txt"
diff -u <(expected) "$TMP/socat.txt"

# The goodbye: the answer and the event, in whatever order, then the end of the connection and of hvrun.
printf '{"execute":"qmp_capabilities"}{"execute":"quit"}' | timeout $((20 * HV_STRETCH)) nc -U -N "$sock" >"$TMP/quit.txt"
grep -q '"event":"SHUTDOWN","data":{"guest":false,"reason":"host-qmp-quit"}' "$TMP/quit.txt"
[ "$(grep -c '^{"return":{}}' "$TMP/quit.txt")" -eq 2 ]
trap - EXIT
wait $vm
[ ! -e "$sock" ]
