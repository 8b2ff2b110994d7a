#!/usr/bin/env python3
"""The examples of QEMU's reference manual, qemu-qmp-ref(7), sent as they stand there: what we have of them is answered
with the members that the manual shows."""
import gzip
import json
import pathlib
import re

from qmp_common import Connection, skip, until, vm

PAGE = pathlib.Path("/usr/share/man/man7/qemu-qmp-ref.7.gz")
if not PAGE.exists():
    skip("qemu-qmp-ref(7) is not installed")
# Commands whose examples name things of QEMU's own (a capability, a network card, a disk, a descriptor that was passed before).
APART = {"qmp_capabilities", "set_link", "block_resize", "dump-guest-memory", "getfd", "closefd", "quit", "human-monitor-command"}


def examples():
    text = gzip.open(PAGE, "rt", errors="replace").read()
    for escape, plain in (("\\-", "-"), ("\\(dq", '"'), ("\\(aq", "'"), ("\\&", "")):
        text = text.replace(escape, plain)
    for found in re.finditer(r"^-> (\{.*?)^<- (\{.*?)(?=^-> |^<- |^\.ft|^\.SS|^\.SH)", text, re.M | re.S):
        try:
            yield json.loads(found[1]), json.loads(found[2])
        except ValueError:
            pass  # prose or an ellipsis in the example


def covers(shown, given):
    if isinstance(shown, dict):
        return isinstance(given, dict) and all(k in given and covers(v, given[k]) for k, v in shown.items())
    if isinstance(shown, list):
        return isinstance(given, list) and (not shown or (bool(given) and covers(shown[0], given[0])))
    return type(shown) is type(given)


tried = set()
with vm("manual", "--balloon") as process:
    connection = Connection("manual")
    ours = {c["name"] for c in connection.ask("query-commands")["return"]}
    for request, shown in examples():
        name = request.get("execute")
        if name not in ours or name in APART:
            continue
        connection.send(request)
        answer = connection.answer()
        assert "error" in shown or covers(shown, answer), f"{request}\n  manual: {shown}\n  hvkit: {answer}"
        tried.add(name)
        if name == "system_reset":  # an NMI before the guest has its IDT back would be the end of it
            prompts = process.serial.read_bytes().count(b"> ")
            until("the guest's prompt again", lambda: process.serial.read_bytes().count(b"> ") > prompts)
    connection.close()
print(f"examples of {len(tried)} commands: {', '.join(sorted(tried))}")
assert len(tried) >= 6, tried
