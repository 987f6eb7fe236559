"""Pools on every engine and both faces: acquiring, the reset, its limits, and the end."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import pytest

import aviato
from aviato import aio
from aviato.exceptions import SandboxError, SandboxResourceExhaustedError
from aviato.testing import FakeEngine
from tests.contract.faces import Face
from tests.helpers.crash import crash
from tests.pool.test_keeper import until


@pytest.fixture(params=["aio", "front"])
def face(request: pytest.FixtureRequest, engine: Any) -> Face:
    """The names of one face, bound to one engine."""
    return Face(request.param, engine)


async def settled(pool: Any) -> Any:
    """Wait until nothing of a pool starts, is reset or ends; return its figures."""
    async with asyncio.timeout(20):
        while True:
            stats = pool.stats()
            if not (stats.starting or stats.resetting or stats.stopping):
                return stats
            await asyncio.sleep(0.002)


async def test_acquire_on_both_faces(face: Face) -> None:
    """The sandbox runs when it is given, and the next user finds the temporary and working directory empty."""
    async with face.session() as session, session.pool(2, warm=1) as pool:
        async with pool.acquire() as sandbox:
            assert isinstance(sandbox, face.Sandbox)
            assert sandbox.status == "running"
            await sandbox.write_file("/tmp/left/behind", b"x")
            await face.result(sandbox.exec(["sh", "-c", "echo x > here"]))
        stats = await settled(pool)
        assert (stats.contaminated, stats.replaced, stats.in_use) == (0, 0, 0)
        async with pool.acquire() as again:
            listed = await face.result(again.exec(["sh", "-c", "ls /tmp; ls; true"]))
            assert "left" not in listed.stdout
            assert "here" not in listed.stdout
        assert "Pool open, size 2" in repr(pool)
    assert pool.closed
    assert "closed" in repr(pool)


def test_blocking(engine: Any) -> None:
    """In plain code: `with`, and a result."""
    with aviato.Session(engine=engine) as session, session.pool(1) as pool:
        for number in range(3):
            with pool.acquire(timeout=30) as sandbox:
                assert sandbox.exec(["echo", str(number)]).result().stdout == f"{number}\n"
        assert [result.stdout for result in pool.map(["echo", "{}"], (n for n in range(3)))] == ["0\n", "1\n", "2\n"]
        assert pool.stats().done == 3


async def test_what_lies_elsewhere_is_contamination(engine: Any) -> None:
    """A file outside the two directories costs the sandbox; a changed one and a removed one too."""
    for command in ("echo x > /var/tmp/new", "rm -r /home", "echo x > /dev/shm/new || echo x > /root/new"):
        async with aio.Session(engine=engine) as session, session.pool(1) as pool:
            async with pool.acquire() as first:
                result = await first.exec(["sh", "-c", command])
                assert result.returncode == 0, result.stderr
            stats = await settled(pool)
            assert (stats.contaminated, stats.replaced, stats.idle) == (1, 1, 1), command
            async with pool.acquire() as second:
                assert second.sandbox_id != first.sandbox_id


async def test_byte_code_is_removed(engine: Any) -> None:
    """What Python writes beside modules by itself costs nothing, and does not stay."""
    async with aio.Session(engine=engine) as session, session.pool(1) as pool:
        async with pool.acquire() as first:
            await first.exec(
                ["sh", "-c", "mkdir /var/tmp/__pycache__; echo x > /var/tmp/__pycache__/m.pyc"], check=True
            )
        stats = await settled(pool)
        assert (stats.contaminated, stats.idle) == (0, 1)
        async with pool.acquire() as second:
            assert second is first
            assert (await second.exec(["ls", "-A", "/var/tmp"])).stdout == ""


async def test_what_a_user_left_running_is_killed(engine: Any) -> None:
    """A process in the background, one that ignores signals, and one in a session of its own."""
    if not isinstance(engine, str):
        pytest.skip("a fake sandbox has no /proc in which processes could be found")
    async with aio.Session(engine=engine) as session, session.pool(1) as pool:
        async with pool.acquire() as first:
            script = "(trap '' TERM HUP; sleep 1000) & setsid sleep 1000 & sleep 1000 & echo"
            await first.exec(["sh", "-c", f"({script}) >/dev/null 2>&1 </dev/null"])
            before = await first.exec(
                ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'sleep 1000' | wc -l"]
            )
            assert int(before.stdout) >= 3
        stats = await settled(pool)
        assert stats.contaminated == 0
        async with pool.acquire() as second:
            assert second.sandbox_id == first.sandbox_id
            after = await second.exec(
                ["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 100[0]'; true"]
            )
            assert after.stdout == "0\n"


async def test_a_changed_system_file_is_found(local_engine: None) -> None:
    """In the large parts of the system that are not walked through as well."""
    done = 0
    for command in (
        "echo x >> /etc/passwd",
        "d=$(ls -d /usr/lib/*/ | head -1); echo x > $d/new",
        "rm /usr/bin/env",
        "t=$(readlink /usr/local/bin/python); rm /usr/local/bin/python; ln -s $t /usr/local/bin/python",
        "python3 -c 'import socket; exec(\"import ctypes; ctypes.CDLL(None).shmget(77, 100, 0o1600)\")'",
    ):
        async with aio.Session(engine="local") as session, session.pool(1) as pool:
            async with pool.acquire() as sandbox:
                result = await sandbox.exec(["sh", "-c", command])
            if result.returncode:
                continue  # the sandbox's user may not do that
            done += 1
            stats = await settled(pool)
            assert stats.contaminated == 1, command
    assert done == 5 or os.geteuid() != 0


async def test_hostile_leftovers(local_engine: None) -> None:
    """Links, deep trees, odd names and closed directories are removed, and nothing behind a link."""
    script = (
        "ln -s /usr /tmp/usr; mkdir -p /tmp/a/b/c; chmod 0 /tmp/a/b/c /tmp/a/b; "
        "touch '/tmp/-rf' '/tmp/new\nline' \"$(printf '/tmp/\\377')\"; mkfifo /tmp/fifo; "
        "i=0; d=/tmp; while [ $i -lt 200 ]; do d=$d/deep; i=$((i+1)); done; mkdir -p $d; ln -s /tmp /tmp/a/loop"
    )
    async with aio.Session(engine="local") as session, session.pool(1) as pool:
        async with pool.acquire() as first:
            await first.exec(["sh", "-c", script])
        stats = await settled(pool)
        assert (stats.contaminated, stats.idle) == (0, 1)
        async with pool.acquire() as second:
            assert second.sandbox_id == first.sandbox_id
            assert (await second.exec(["ls", "-A", "/tmp"])).stdout == ""
            assert (await second.exec(["ls", "/usr/bin/env"])).returncode == 0


@pytest.mark.parametrize("reset", ["replace", "none"])
async def test_other_resets(engine: Any, reset: Any) -> None:
    """A fresh sandbox each time, or all as it was left."""
    async with aio.Session(engine=engine) as session, session.pool(1, reset=reset) as pool:
        async with pool.acquire() as first:
            await first.write_file("/tmp/left", b"x")
        async with pool.acquire() as second:
            found = (await second.exec(["cat", "/tmp/left"])).returncode == 0
        assert found is (reset == "none")
        assert (first.sandbox_id == second.sandbox_id) is (reset == "none")


async def test_many_resets(engine: Any) -> None:
    """What resets answers as long as it is asked."""
    async with aio.Session(engine=engine) as session, session.pool(1) as pool:
        for number in range(100):
            async with pool.acquire() as sandbox:
                await sandbox.write_file("/tmp/x", str(number))
        stats = await settled(pool)
        assert (stats.created, stats.reused, stats.replaced) == (1, 99, 0)


async def test_what_is_attached_is_spared(local_engine: None) -> None:
    """A process and files that stay with the sandbox survive a reset, and go with the next that does not name them."""
    async with aio.Session(engine="local") as session, session.pool(1) as pool:
        kept = await pool._keeper.take()
        process = kept.sandbox.exec(["sh", "-c", "mkdir /tmp/mine; echo x > /tmp/mine/x; echo $$; exec sleep 1000"])
        kept.spared_pids.add(int(await anext(aiter(process.stdout))))
        kept.spared_paths.add("/tmp/mine")
        await kept.sandbox.write_file("/tmp/other", "x")
        await pool._keeper.give_back(kept, reusable=True)
        again = await pool._keeper.take()
        assert again is kept
        assert pool.stats().contaminated == 0
        assert not process.done()
        assert (await kept.sandbox.exec(["ls", "-R", "/tmp"])).stdout == "/tmp:\nmine\n\n/tmp/mine:\nx\n"
        kept.spared_pids.clear()
        kept.spared_paths.clear()
        await pool._keeper.give_back(kept, reusable=True)
        assert await pool._keeper.take() is kept
        assert (await process).returncode == 137
        assert (await kept.sandbox.exec(["ls", "-A", "/tmp"])).stdout == ""


async def test_a_killed_janitor_costs_the_sandbox(local_engine: None) -> None:
    """A user who kills what resets gets nobody else into his sandbox."""
    async with aio.Session(engine="local") as session, session.pool(1) as pool:
        async with pool.acquire() as first:
            await first.exec(
                ["sh", "-c", "kill -9 $(grep -la Janitor /proc/[0-9]*/cmdline | cut -d/ -f3 | head -1); true"]
            )
        async with pool.acquire(timeout=20) as second:
            assert second.sandbox_id != first.sandbox_id


async def test_an_image_without_python(engine: Any) -> None:
    """It is said at the first use, with the way out."""
    from aviato.exceptions import CapabilityError

    if isinstance(engine, str):
        pytest.skip("the images of the other engines have one")
    engine = FakeEngine()
    engine.machine.programs.pop("python3")
    async with aio.Session(engine=engine) as session, session.pool(1, warm=0) as pool:
        with pytest.raises(CapabilityError, match='reset="replace"'):
            async with pool.acquire():
                raise AssertionError


async def test_policies(face: Face) -> None:
    """Wait, grow up to a maximum, or fail at once."""
    async with face.session() as session, session.pool(1, max_size=2) as pool, pool.acquire() as first:
        with pytest.raises(SandboxResourceExhaustedError, match="all 1 sandboxes"):
            async with pool.acquire(policy="fail"):
                raise AssertionError
        with pytest.raises(TimeoutError, match=r"no sandbox of this pool was free within 0\.05 s"):
            async with pool.acquire(timeout=0.05):
                raise AssertionError
        async with pool.acquire(policy="grow") as second:
            assert second.sandbox_id != first.sandbox_id
            with pytest.raises(TimeoutError):
                async with pool.acquire(policy="grow", timeout=0.05):
                    raise AssertionError


async def test_a_dead_sandbox_is_replaced(engine: Any) -> None:
    """Whether it died in use or idle, and the error of its user says that it was lost."""
    async with aio.Session(engine=engine) as session, session.pool(1) as pool:
        async with pool.acquire() as first:
            pass
        with pytest.raises(SandboxError) as caught:
            async with pool.acquire() as again:
                assert again is first
                process = first.exec(["sleep", "100"])
                await first.exec(["true"])
                crash(engine, first.sandbox_id)
                await process
        assert caught.value.is_infrastructure
        async with pool.acquire(timeout=20) as second:
            assert second.sandbox_id != first.sandbox_id
        await settled(pool)
        crash(engine, second.sandbox_id)
        await until(lambda: pool.stats().created == 3 and pool.stats().idle == 1)


async def test_the_end_of_a_pool(face: Face) -> None:
    """Sandboxes in use are stopped, closing twice is nothing, and what is closed says so."""
    async with face.session() as session:
        pool = session.pool(2, warm=2)
        async with pool.acquire() as sandbox:
            await pool.close()
        assert sandbox.status.is_terminal
        await pool.close()
        for _ in range(2):
            with pytest.raises(SandboxError, match="this pool is closed"):
                async with pool.acquire():
                    raise AssertionError
        with pytest.raises(SandboxError, match="this pool is closed"):
            pool.map(["echo", "{}"], [1])
        with pytest.raises(SandboxError, match="this pool is closed"):
            async with pool:
                raise AssertionError
        other = session.pool(1)
    assert other.closed
    with pytest.raises(SandboxError, match="closed"):
        session.pool(1)


async def test_a_lease_is_used_by_one(engine: Any) -> None:
    """Entered twice at once it says so; entered again later it gives a sandbox again."""
    async with aio.Session(engine=engine) as session, session.pool(1) as pool:
        lease = pool.acquire()
        async with lease:
            with pytest.raises(RuntimeError, match="in use"):
                async with lease:
                    raise AssertionError
            assert "Lease of sbx-" in repr(lease)
        async with lease as sandbox:
            assert sandbox.status == "running"
        assert "nothing" in repr(lease)


async def test_a_thousand_users(engine: Any) -> None:
    """All are served, by no more sandboxes than there may be."""
    if engine == "docker":
        pytest.skip("slow there, and the same code")
    async with aio.Session(engine=engine) as session, session.pool(3, reset="none") as pool:
        highest = 0

        async def use(number: int) -> str:
            nonlocal highest
            async with pool.acquire() as sandbox:
                highest = max(highest, sum(not one.status.is_terminal for one in session._sandboxes.values()))
                return (await sandbox.exec(["echo", str(number)])).stdout.strip()

        assert await asyncio.gather(*map(use, range(1000))) == [str(number) for number in range(1000)]
        assert highest <= 3


async def test_users_who_are_cancelled() -> None:
    """Wherever it happens, each place is free afterwards."""
    async with aio.Session(engine=FakeEngine()) as session, session.pool(2, warm=0) as pool:

        async def use() -> None:
            async with pool.acquire() as sandbox:
                await sandbox.exec(["sleep", "0.01"])

        for turns in range(0, 200, 3):
            tasks = [asyncio.create_task(use()) for _ in range(4)]
            for _ in range(turns):
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        stats = await settled(pool)
        assert stats.in_use == stats.waiting == 0
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(2):
                await stack.enter_async_context(pool.acquire(timeout=10))


async def test_bad_arguments_are_named(engine: Any) -> None:
    """At the call, before anything is started."""
    async with aio.Session(engine=engine) as session:
        slips: list[tuple[dict[str, Any], str]] = [
            ({"size": 0}, "size must be at least 1"),
            ({"size": 1, "warm": 2}, "warm must be at most size=1"),
            ({"size": 2, "max_size": 1}, "max_size must be at least size=2"),
            ({"size": 1, "max_uses": 0}, "max_uses must be at least 1"),
            ({"size": 1, "max_age_seconds": 0}, "max_age_seconds must be more than 0"),
            ({"size": 1, "retries": -1}, "retries must be at least 0"),
            ({"size": 1, "reset": "soft"}, "reset must be one of 'clean', 'replace', 'none', got 'soft'"),
        ]
        for options, said in slips:
            with pytest.raises(ValueError, match=said):
                session.pool(**options)
        slips = [
            ({"size": "2"}, "size must be a whole number"),
            ({"size": 1, "limits": 3}, "limits must be a Limits"),
            ({"size": 1, "imagee": "x"}, "imagee"),
        ]
        for options, said in slips:
            with pytest.raises(TypeError, match=said):
                session.pool(**options)
        pool = session.pool(1, warm=0)
        with pytest.raises(ValueError, match="policy must be one of"):
            pool.acquire(policy="hope")  # type: ignore[arg-type]  # the slip that is tested
        with pytest.raises(ValueError, match="timeout must be at least 0"):
            pool.acquire(timeout=-1)
        assert session.sandbox_count == 0


async def test_a_lease_is_entered_by_one_task(engine: Any) -> None:
    """The second is told so while the first still waits, and no sandbox is lost by it."""
    async with aio.Session(engine=engine) as session, session.pool(2, warm=0, reset="none") as pool:
        lease = pool.acquire()

        async def use() -> str:
            async with lease as sandbox:
                return sandbox.sandbox_id

        outcomes = await asyncio.gather(use(), use(), return_exceptions=True)
        assert isinstance(outcomes[0], str)
        assert isinstance(outcomes[1], RuntimeError)
        assert "ask the pool for another one" in str(outcomes[1])
        assert (await settled(pool)).in_use == 0
        assert await use() == outcomes[0]
        cancelled = asyncio.create_task(use())
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert await use() == outcomes[0]
