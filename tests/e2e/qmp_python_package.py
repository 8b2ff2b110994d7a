#!/usr/bin/env python3
"""QEMU's own Python client (package qemu.qmp): it connects, negotiates, executes, hears events, and says goodbye."""
# kvm: none
import asyncio

from qmp_common import RUNTIME, skip, vm

try:
    from qemu.qmp import ExecuteError, QMPClient
except ImportError:
    skip("the Python package qemu.qmp is not installed")


async def talk():
    client = QMPClient("test")
    with client.listener(("STOP", "RESUME")) as events:
        await client.connect(str(RUNTIME / "package.sock"))
        assert (await client.execute("query-status"))["running"]
        await client.execute("stop")
        assert (await events.get())["event"] == "STOP"
        assert (await client.execute("query-status"))["status"] == "paused"
        await client.execute("cont")
        assert (await events.get())["event"] == "RESUME"
        try:
            await client.execute("no-such-command")
            raise AssertionError("an unknown command was taken")
        except ExecuteError as error:
            assert error.error_class == "CommandNotFound"
        names = {c["name"] for c in await client.execute("query-commands")}
        assert "x-hv-info" in names
    await client.disconnect()


with vm("package") as process:
    asyncio.run(asyncio.wait_for(talk(), 30))
