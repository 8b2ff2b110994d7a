#!/usr/bin/env python3
"""Clients that mean no good: each gets an error or loses its connection, and meanwhile another client is served, the
guest runs, and hvrun neither grows nor dies."""
import os
import pathlib
import socket
import threading
import time

from qmp_common import LIMIT, STRETCH, Connection, vm


def resident(pid):
    """KiB of memory of hvrun's own: what is not the guest's."""
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1])
    return 0


def push(connection, data, seconds=20):
    """Sends until all is out or the server hangs up; how many bytes went."""
    sent = 0
    connection.socket.settimeout(seconds)
    try:
        while sent < len(data):
            sent += connection.socket.send(data[sent:sent + (1 << 20)])
    except OSError:
        pass
    return sent


def last_word(connection):
    """The last object before the server hangs up."""
    item = last = None
    try:
        while (item := connection.receive()):
            last = item
    except OSError:
        pass
    return last


def long_line(name):
    c = Connection(name)
    sent = push(c, b'{"execute":"' + b"x" * (100 << 20))
    assert sent < 100 << 20, "100 MB were taken in"
    assert "too long" in last_word(c)["error"]["desc"]


def no_newline(name):
    c = Connection(name)
    push(c, b" " * (32 << 20))
    assert c.ask("query-status")["return"]["running"] in (True, False)
    c.close()


def nesting(name):
    c = Connection(name)
    push(c, b'{"a":' * 1_000_000)
    assert "nested" in last_word(c)["error"]["desc"]


def garbage(name):
    c = Connection(name)
    c.send(bytes(b for b in range(1, 255) if b not in b"{[\"") + b"\n")
    assert "error" in c.answer()
    c.close()


def leave_in_the_middle(name):
    for command in ("query-commands", "x-hv-info", "stop", "cont"):
        c = Connection(name)
        c.send({"execute": command, "arguments": {"what": "exits"} if command == "x-hv-info" else {}})
        c.close()
    c = Connection(name)
    c.send(b'{"execute":"quit"')
    c.close()


def never_read(name):
    c = Connection(name)
    c.socket.settimeout(0.5)
    try:
        while True:
            c.send(b'{"execute":"query-commands"}' * 100)
    except OSError:
        pass
    return c  # stays open, unread


def descriptors(name):
    c = Connection(name)
    with open(os.devnull) as null:
        for _ in range(200):
            socket.send_fds(c.socket, [b" "], [null.fileno()] * 3)
    assert c.ask("query-status")["return"]
    c.close()


with vm("hostile") as process:
    pid = Connection("hostile", negotiate=False)
    good = Connection("hostile")
    pid = good.ask("x-hv-info", what="status")["return"]["pid"]
    before, open_before = resident(pid), len(os.listdir(f"/proc/{pid}/fd"))
    slowest, done, failures = 0.0, threading.Event(), []

    def attack():
        try:
            for bad in (long_line, no_newline, nesting, garbage, leave_in_the_middle, descriptors):
                bad("hostile")
            unread.append(never_read("hostile"))
        except BaseException as failure:  # told in the main thread
            failures.append(failure)
        done.set()

    unread = []
    threading.Thread(target=attack, daemon=True).start()
    while not done.is_set():
        start = time.monotonic()
        assert good.ask("query-status")["return"]["status"] in ("running", "paused")
        slowest = max(slowest, time.monotonic() - start)
        time.sleep(0.01)
    if failures:
        raise failures[0]
    assert slowest < 5 * STRETCH, f"the other client waited {slowest:.1f} s"
    good.ask("cont")
    assert good.ask("x-hv-send", data="uptime\r")["return"]["sent"] == 7
    for c in unread:
        c.close()
    after, open_after = resident(pid), len(os.listdir(f"/proc/{pid}/fd"))
    assert after - before < 16 << 10, f"hvrun grew from {before} to {after} KiB"
    assert open_after - open_before < 8, f"from {open_before} to {open_after} descriptors"
    good.ask("quit")
    assert process.wait(LIMIT) == 0
print(f"the other client waited {slowest * 1000:.0f} ms at most; hvrun grew by {after - before} KiB")
