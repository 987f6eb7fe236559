"""The process that sandboxes are forks of: clean, replaceable, and never alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from aviato import aio
from aviato.exceptions import AviatoError
from tests.helpers.local import record_of
from tests.local.support import becomes, is_alive

Session = Callable[..., aio.Session]


def children(pid: int) -> dict[int, str]:
    """List the children of a process with their names and states."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            name, _, rest = (place / "stat").read_text().rpartition(")")
        except OSError:
            continue
        state, parent = rest.split()[:2]
        if int(parent) == pid:
            found[int(place.name)] = f"{name.partition('(')[2]} {state}"
    return found


def zygote_of(supervisor: int) -> int:
    """Find it among the children of its supervisor."""
    (pid,) = (pid for pid, name in children(supervisor).items() if name.startswith("aviato-zygote"))
    return pid


async def test_it_holds_nothing_that_a_sandbox_may_not_have(local: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """No environment of the client, no descriptor of its supervisor, no children, and no path in what `ps` shows."""
    monkeypatch.setenv("SECRET_OF_THE_CLIENT", secrets.token_hex())
    async with local() as session:
        sandbox = await session.sandbox()
        zygote = Path(f"/proc/{zygote_of(record_of(sandbox.sandbox_id)['supervisor']['pid'])}")
        assert set((zygote / "environ").read_bytes().split(b"\0")) == {b"PATH=/usr/bin:/bin", b"LANG=C.UTF-8", b""}
        links = sorted(str(place.readlink()) for place in (zygote / "fd").iterdir())
        assert [link.partition(":")[0] for link in links if "/supervisors/log" not in link] == [
            "/dev/null", "/dev/null", "socket",
        ]  # fmt: skip
        assert children(int(zygote.name)) == {}
        shown = (await sandbox.exec(["cat", "/proc/1/cmdline"])).stdout
        assert str(Path(aio.__file__).parents[2]) not in shown


@pytest.mark.skipif(os.getuid() != 0, reason="only root may read another process's memory")
async def test_a_sandbox_does_not_inherit_what_another_was_told(local: Session) -> None:
    """The fork that becomes a sandbox has never seen the environment, files or arguments of those before it."""
    word = secrets.token_hex(16)
    async with local() as session:
        first = session.sandbox(environment_variables={"TOKEN": word})
        assert (await first.exec(["sh", "-c", "echo $TOKEN"])).stdout == f"{word}\n"
        second = await session.sandbox()
        await second.exec(["true"])
        assert word.encode() in memory_of(record_of(first.sandbox_id)["init"]["pid"]), "the search finds what is there"
        assert word.encode() not in memory_of(record_of(second.sandbox_id)["init"]["pid"])
        assert word.encode() not in memory_of(zygote_of(record_of(first.sandbox_id)["supervisor"]["pid"]))


def memory_of(pid: int) -> bytes:
    """Read all memory of a process that it could have written to."""
    found = []
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            if rights.startswith("rw"):
                start, end = (int(word, 16) for word in span.split("-"))
                memory.seek(start)
                while start < end and (piece := memory.read(end - start)):
                    found.append(piece)
                    start += len(piece)
    return b"".join(found)


async def test_another_one_takes_its_place(local: Session) -> None:
    """Killed, as by the machine's out-of-memory killer, it harms no sandbox, and the next create starts a new one."""
    async with local() as session:
        before = await session.sandbox()
        supervisor = record_of(before.sandbox_id)["supervisor"]["pid"]
        zygote = zygote_of(supervisor)
        os.kill(zygote, signal.SIGKILL)
        after = session.sandbox()
        assert (await after.exec(["echo", "made"])).stdout == "made\n"
        assert (await before.exec(["echo", "unharmed"])).stdout == "unharmed\n"
        assert zygote_of(supervisor) != zygote
        assert zygote not in children(supervisor), "it was waited for"


async def test_it_ends_with_its_supervisor(local: Session) -> None:
    """Also when that is killed."""
    async with local() as session:
        sandbox = await session.sandbox(detached=False)
        supervisor = record_of(sandbox.sandbox_id)["supervisor"]["pid"]
        zygote = zygote_of(supervisor)
        os.kill(supervisor, signal.SIGKILL)
        assert await becomes(lambda: not is_alive(zygote))
        with pytest.raises(AviatoError):
            await sandbox.exec(["true"])


async def test_a_launch_that_is_cut_short_leaves_nobody(local: Session) -> None:
    """Whichever of the two processes of a launch dies, and when: an error or a sandbox, and no zombie afterwards."""
    async with local() as session:
        first = await session.sandbox()
        supervisor = record_of(first.sandbox_id)["supervisor"]["pid"]
        assert await becomes(lambda: len(children(supervisor)) == 2), "the zygote, and the first sandbox"
        usual = set(children(supervisor))
        killed = 0
        for _ in range(40):
            sandbox = session.sandbox()
            made: set[int] = set()
            while not made and not sandbox.status.is_terminal and sandbox.status != "running":
                made = set(children(supervisor)) - usual
                await asyncio.sleep(0)
            for pid in made:
                with contextlib.suppress(ProcessLookupError):  # the first of the two may have ended by itself
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            try:
                await sandbox
                await sandbox.stop()
            except AviatoError:
                pass
        assert killed > 10, "the launches were met"
        assert await becomes(lambda: set(children(supervisor)) == usual), children(supervisor)
        assert (await session.sandbox().exec(["echo", "goes on"])).stdout == "goes on\n"
