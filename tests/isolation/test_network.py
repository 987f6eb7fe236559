"""With a way out to the internet, what a sandbox must not reach is as far away as without."""

from __future__ import annotations

import asyncio
import functools
import os

import pytest

from aviato import aio
from aviato.engines.local import network
from tests.helpers.local import home, require_local
from tests.isolation.running import PACKAGE, Answer, parse, send
from tests.isolation.world import world

UNREACHABLE = {
    "connect-to-the-machines-loopback": "ECONNREFUSED",
    "connect-to-another-loopback-address": "ECONNREFUSED",
    "connect-to-any-address": "ECONNREFUSED",
    "connect-to-the-mapped-loopback": "ECONNREFUSED",
    "connect-to-the-machines-own-address": "EHOSTUNREACH",
    "connect-to-the-metadata-of-the-cloud": "EHOSTUNREACH",
    "connect-to-the-machine-behind-the-gateway": "",
    "connect-to-an-abstract-socket": "ECONNREFUSED",
    "connect-to-a-socket-in-tmp": "ENOENT",
    "connect-to-a-socket-in-the-home": "ENOENT",
    "connect-to-a-socket-in-the-working-directory": "ENOENT",
    "see-connections-of-the-machine": "absent",
    "see-unix-sockets-of-the-machine": "absent",
}


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()
    reason = network.why_not(network.find_program())
    if reason is not None:
        pytest.skip(reason)


@functools.cache
def told() -> dict[str, Answer]:
    """Run the probes of the network once in a sandbox with a way out."""

    async def collect() -> dict[str, Answer]:
        async with aio.Sandbox.run(engine="local", network={"egress_mode": "internet"}) as sandbox:
            await sandbox
            nowhere = str(home() / "sandboxes/none")
            await send(sandbox, {**context, "other": nowhere, "own": nowhere, "supervisor": nowhere})
            done = await sandbox.exec(
                ["python3", "-m", f"{PACKAGE}.network", *UNREACHABLE], cwd="/workspace", timeout_seconds=100, check=True
            )
            return parse(done.stdout)

    with world() as (context, _):
        return asyncio.run(collect())


@pytest.mark.parametrize("name", UNREACHABLE)
def test_probe_with_a_way_out(name: str) -> None:
    """It is stopped all the same."""
    answer = told()[name]
    assert answer.verdict == "stopped", answer
    assert not UNREACHABLE[name] or answer.detail == UNREACHABLE[name]


def test_the_machines_own_addresses_are_known() -> None:
    """They are what routes are closed for; a machine without any has nothing to close."""
    assert all(not address.startswith("127.") for address in network.host_addresses())
    assert os.path.exists("/proc/net/fib_trie")
