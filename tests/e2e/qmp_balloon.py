#!/usr/bin/env python3
"""The balloon over QMP and hvctl: query-balloon, balloon and BALLOON_CHANGE with QEMU's names and words, and what a VM
without one says."""
import os
import re
import subprocess

from qmp_common import LIMIT, Connection, until, vm

MIB = 1 << 20
HVCTL = os.environ["HVCTL"]


def hvctl(*words, status=0):
    done = subprocess.run([HVCTL, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT, check=False)
    assert done.returncode == status, (words, done)
    return done.stdout + done.stderr


with vm("none"):
    connection = Connection("none")
    for request in (connection.ask("query-balloon"), connection.ask("balloon", value=MIB)):
        assert request["error"] == {"class": "DeviceNotActive", "desc": "No balloon device has been activated"}, request
    assert "No balloon device" in hvctl("none", "info", "balloon", status=1)
    connection.close()

with vm("lent", "--balloon", "--mem", "64M", "--paused", guest="virtio"):
    connection = Connection("lent")
    answer = connection.ask("query-balloon")["return"]
    assert answer["actual"] == answer["memory"] == answer["target"] == 64 * MIB, answer
    assert not answer["in-use"] and answer["stats"] == {} and answer["last-update"] == 0, answer
    for value in (0, -1):
        assert connection.ask("balloon", value=value)["error"]["desc"] == "Parameter 'target' expects a size"
    assert connection.ask("balloon", value=1 << 62) == {"return": {}}
    assert connection.ask("query-balloon")["return"]["target"] == 64 * MIB, "more than all is all"
    assert connection.ask("balloon", value=16 * MIB) == {"return": {}}
    assert "the guest is asked" in hvctl("lent", "balloon", "24")
    assert connection.ask("query-balloon")["return"]["target"] == 24 * MIB, "a bare number is in MiB"
    assert "the guest is asked" in hvctl("lent", "balloon", "32M")
    text = hvctl("lent", "info", "balloon")
    assert re.search(r"it shall have +32 MiB", text) and re.search(r"the guest has +64 MiB", text), text
    for words in (("balloon",), ("balloon", "much"), ("balloon", "0"), ("balloon", "1M", "2M")):
        hvctl("lent", *words, status=2)
    # The guest lends eight pages, says so, and ends.
    connection.ask("cont")
    until("the event", lambda: "BALLOON_CHANGE" in [e["event"] for e in connection.events] or
          not connection.events.append(connection.receive() or {"event": "none"}))
    changes = [e["data"]["actual"] for e in connection.events if e["event"] == "BALLOON_CHANGE"]
    assert changes == [64 * MIB - 8 * 4096], connection.events
    connection.close()
print("the balloon answers")
