"""What is not protected is said where a reader looks, and is as it is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from aviato import aio
from tests.helpers.local import require_local
from tests.isolation.inside import AS_ROOT, shell
from tests.isolation.running import told

PAGE = Path(__file__).parents[2] / "docs/explanation/isolation.md"
EXCEPTIONS = {
    "one-kernel": ["kernel", "side channel", "gVisor"],
    "ordinary-users-share-limits": ["share per-user limits", "to the kernel, you"],
    "root": ["Under root an escape", "ordinary user"],
    "what-is-given": ["Files you write into a sandbox", "variables you set", "hosts it may reach"],
    "world-readable-programs": ["`/usr` and `/opt`", "/usr/local"],
    "facts-of-the-machine": ["Kernel version", "memory size", "load", "uptime"],
    "upgrades": ["Packages of the machine", "Restart"],
    "hostile-output": ["Output is hostile data"],
    "shared-disk-and-cache": ["Disk bandwidth", "page cache", "out-of-memory killer"],
    "no-cpu-limit-for-users": ["CPU | hard | none"],
}
FACTS = (
    "read-the-version-of-the-kernel", "read-the-size-of-memory", "read-the-kind-of-processor", "read-the-load",
    "read-the-time-since-the-start",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _local() -> None:
    require_local()


@pytest.mark.parametrize("exception", EXCEPTIONS)
def test_the_page_names_it(exception: str) -> None:
    """In the section that says what is not protected, or in the table of limits."""
    text = PAGE.read_text()
    assert [words for words in EXCEPTIONS[exception] if words not in text] == []


@pytest.mark.parametrize("fact", FACTS)
def test_facts_of_the_machine_can_be_seen(fact: str) -> None:
    """As the page says; a change would have to change the page."""
    answer = told("host").answers[fact]
    assert answer.verdict == "info"
    assert answer.detail


async def test_world_readable_programs_can_be_read() -> None:
    """Below `/usr`, as the page says."""
    async with aio.Sandbox.run(engine="local") as sandbox:
        assert await shell(sandbox, "head -c 4 /usr/bin/env | tail -c 3") == "ELF"


async def test_the_user_of_a_sandbox_is_the_caller_only_without_root() -> None:
    """The id map of an ordinary user's sandbox begins with his own id; root's with an unused one."""
    async with aio.Sandbox.run(engine="local") as sandbox:
        outside = int((await shell(sandbox, "cat /proc/self/uid_map")).split()[1])
    assert (outside == os.getuid()) is not AS_ROOT


async def test_what_is_given_can_be_read() -> None:
    """A variable that is set is there for every command."""
    async with aio.Sandbox.run(engine="local", environment_variables={"GIVEN": "token"}) as sandbox:
        assert await shell(sandbox, "echo $GIVEN") == "token\n"
