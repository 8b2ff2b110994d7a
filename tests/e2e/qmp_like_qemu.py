#!/usr/bin/env python3
"""The same requests to QEMU and to hvrun: the same errors, word for word, and answers of the same form.

QEMU's own description of itself (query-qmp-schema) then tells whether our commands take QEMU's arguments.
"""
import json
import subprocess

from qmp_common import LIMIT, STRETCH, Connection, need, vm

QEMU = need("qemu-system-x86_64")

REQUESTS = [
    '{"execute":"query-status"}',
    '{"execute":"qmp_capabilities"}',
    '{"execute":"qmp_capabilities","id":1}',
    '{"execute":"query-status","id":{"a":[1,null,true]}}',
    '{"execute":"stop"}',
    '{"execute":"query-status"}',
    '{"execute":"cont"}',
    '{"execute":"no-such-command","id":"x"}',
    '[1,2]',
    '17',
    '{"arguments":{}}',
    '{"execute":1}',
    '{"execute":"stop","arguments":3}',
    '{"execute":"stop","arguments":{"a":1}}',
    '{"execute":"stop","foo":3}',
    '{"execute":"getfd"}',
    '{"execute":"getfd","arguments":{"fdname":"a"}}',
    '{"execute":"getfd","arguments":{"fdname":3}}',
    '{"execute":"closefd","arguments":{"fdname":"zz"}}',
    '{"execute":"query-version"}',
    '{"execute":"query-cpus-fast"}',
    '{"execute":"query-kvm"}',
    '{"execute":"query-name"}',
    '{"execute":"query-memory-size-summary"}',
    '{"execute":"query-balloon"}',
    '{"execute":"balloon"}',
    '{"execute":"balloon","arguments":{"value":"64M"}}',
    '{"execute":"balloon","arguments":{"value":67108864}}',
    '{"execute":"balloon","arguments":{"value":-1}}',
    '{"execute":"query-commands"}',
    '{"execute":"query-dump-guest-memory-capability"}',
    '{"execute":"dump-guest-memory","arguments":{"paging":false,"protocol":"zz:z"}}',
    '{"execute":"dump-guest-memory","arguments":{"paging":false,"protocol":"fd:z"}}',
    '{"execute":"dump-guest-memory","arguments":{"paging":1,"protocol":"fd:z"}}',
    '{"execute":"dump-guest-memory","arguments":{"protocol":"fd:z"}}',
    '{"execute":"human-monitor-command","arguments":{"command-line":"info status"}}',
    '{"execute":"human-monitor-command"}',
    '{"execute":"inject-nmi"}',  # before the reset: a guest that has no IDT yet would die of it
    '{"execute":"system_reset"}',
]


def shape(value):
    """The form of an answer: names and types, of lists that of their first element."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in sorted(value.items())}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return type(value).__name__


def plain(answer):
    return answer if "error" in answer else {"return": shape(answer["return"]), "id": answer.get("id")}


def run_qemu():
    process = subprocess.Popen(
        ["timeout", str(60 * STRETCH), QEMU, "-M", "pc", "-accel", "tcg", "-m", "16", "-S", "-display", "none", "-nodefaults", "-name",
         "peer", "-qmp", "stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)

    def ask(request):
        process.stdin.write(request.encode() + b"\n")
        process.stdin.flush()
        while "event" in (item := json.loads(process.stdout.readline())):
            pass
        return item

    greeting = json.loads(process.stdout.readline())
    answers = [ask(r) for r in REQUESTS]
    schema = ask('{"execute":"query-qmp-schema"}')["return"]
    ask('{"execute":"quit"}')
    process.wait(LIMIT)
    return greeting, answers, schema


def check_arguments(connection, schema):
    """Each of our commands that QEMU has: an argument that QEMU lacks is refused, one that it has is not unexpected."""
    named = {entry["name"]: entry for entry in schema}
    shared = [c["name"] for c in connection.ask("query-commands")["return"] if c["name"] in named]
    assert len(shared) >= 15, shared
    for command in shared:
        if command in ("quit", "qmp_capabilities"):
            continue
        for member in named[named[command]["arg-type"]]["members"]:
            answer = connection.ask(command, **{member["name"]: None})
            assert "is unexpected" not in answer["error"]["desc"], (command, member, answer)
        answer = connection.ask(command, no_such_argument=1)
        assert "error" in answer, (command, answer)


greeting, theirs, schema = run_qemu()
with vm("peer") as process:
    connection = Connection("peer", negotiate=False)
    assert shape(connection.greeting["QMP"]["version"]) == shape(greeting["QMP"]["version"])
    for request, their in zip(REQUESTS, theirs):
        connection.send(request.encode() + b"\n")
        our = connection.answer()
        assert plain(our) == plain(their), f"{request}\n  QEMU: {their}\n  hvkit: {our}"
    check_arguments(connection, schema)
    connection.close()
print(f"{len(REQUESTS)} requests answered as QEMU answers them")
