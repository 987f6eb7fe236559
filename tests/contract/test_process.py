"""The handle of a command and its streams, on every engine and both faces: the sentences of API.md one by one."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import pytest

import aviato
from tests.contract.faces import Face, waited


async def test_waiting_with_a_limit_ends_only_the_waiting(face: Face) -> None:
    """result(timeout) raises TimeoutError, the command goes on, and result() can be called again."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "read word; echo $word"], stdin=True)
        with pytest.raises(TimeoutError) as caught:
            await face.result(process, 0.05)
        assert not isinstance(caught.value, aviato.SandboxTimeoutError)
        assert process.returncode is None
        await process.stdin.writeline("later")
        result = await face.result(process)
        assert result.stdout == "later\n"
        assert await face.result(process, 0) is result


async def test_wait_gives_the_return_code(face: Face) -> None:
    """wait() is an int, also for a failed command with check; poll() and returncode agree afterwards."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "exit 4"], check=True)
        assert await process.wait() == 4
        assert (process.poll(), process.returncode) == (4, 4)
        error = process.exception()  # blocks on the front door, as that of a future
        assert isinstance(await error if face.name == "aio" else error, aviato.SandboxExecutionError)
        held = session.sandbox().exec(["cat"], stdin=True)
        with pytest.raises(TimeoutError):
            await held.wait(0.05)
        await held.stdin.close()
        assert await held.wait() == 0


async def test_the_handle_knows_its_command(face: Face) -> None:
    """`command` is a tuple of the words, `sandbox_id` where it runs, and repr shows both and the state."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "exit 0"])
        assert process.command == ("sh", "-c", "exit 0")
        assert process.sandbox_id == sandbox.sandbox_id
        await process
        assert "sh" in repr(process)


async def test_kill_is_a_signal_to_the_whole_tree(face: Face) -> None:
    """kill() ends the command with 137 and its children with it; a second kill does nothing."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "sleep 600 & echo on; wait"])
        assert await anext(aiter(process.stdout)) == "on\n"
        process.kill()
        assert (await process).returncode == 137
        process.kill()
        assert (await process).signal == 9


async def test_a_command_can_be_cancelled_before_it_began(face: Face) -> None:
    """cancel() right after exec, or while the sandbox still starts, counts, and the sandbox stays usable."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sleep", "600"])
        assert process.cancel()
        with pytest.raises(face.cancelled):
            await process
        assert process.cancelled()
        assert process.done()
        assert (await sandbox.exec(["echo", "usable"])).stdout == "usable\n"


async def test_callbacks_are_called_with_the_handle(face: Face) -> None:
    """Also at once, when it has ended already."""
    async with face.session() as session:
        process = session.sandbox().exec(["true"])
        called: asyncio.Queue[Any] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(handle: Any) -> None:
            loop.call_soon_threadsafe(called.put_nowait, handle)

        process.add_done_callback(tell)
        await process
        assert await asyncio.wait_for(called.get(), 10) is process
        process.add_done_callback(tell)
        assert await asyncio.wait_for(called.get(), 10) is process


async def test_input_is_first_in_first_out(face: Face) -> None:
    """Writes that nobody waits for arrive in the order of the calls, and close comes after them."""
    async with face.session() as session:
        process = session.sandbox().exec(["cat"], stdin=True)
        writes = [process.stdin.writeline(str(n)) for n in range(200)]
        await asyncio.gather(*(waited(write) for write in (*writes, process.stdin.close())))
        assert (await process).stdout == "".join(f"{n}\n" for n in range(200))


async def test_a_line_is_written_in_its_encoding(face: Face) -> None:
    """writeline() takes an encoding; UTF-8 is the default, and text is no bytes."""
    async with face.session() as session:
        process = session.sandbox().exec(["cat"], stdin=True)
        await process.stdin.writeline("ä")
        await process.stdin.writeline("ä", encoding="latin-1")
        with pytest.raises(TypeError, match="data"):
            await process.stdin.write("text")
        assert not process.stdin.closed
        await process.stdin.close()
        await process.stdin.close()
        assert process.stdin.closed
        with pytest.raises(aviato.SandboxExecutionError, match="closed"):
            await process.stdin.write(b"late")
        assert (await process).stdout_bytes == b"\xc3\xa4\n\xe4\n"


async def test_a_character_is_never_split(face: Face) -> None:
    """Half a character is held back however long the rest takes, while what came before it is handed on."""
    async with face.session() as session:
        script = r"printf 'a\303'; read go; printf '\244\n'"
        process = session.sandbox().exec(["sh", "-c", script], stdin=True)
        pieces = aiter(process.stdout)
        assert await anext(pieces) == "a"
        rest = asyncio.ensure_future(waited(anext(pieces)))
        done, _ = await asyncio.wait([rest], timeout=0.3)  # longer than an incomplete line is waited for
        assert not done
        await process.stdin.writeline("go")
        assert await rest == "ä\n"
        assert (await process).stdout == "aä\n"


async def test_the_last_line_may_lack_its_newline(face: Face) -> None:
    """Every other line has it, empty lines included, and carriage returns are left as they are."""
    async with face.session() as session:
        process = session.sandbox().exec(["printf", r"\n\nx\r\ny"])
        assert [line async for line in process.stdout] == ["\n", "\n", "x\r\n", "y"]


async def test_a_reader_that_is_closed_early_changes_nothing(face: Face) -> None:
    """After close() the command runs to its end and the result is whole."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "echo first; read go; seq 1 50000"], stdin=True)
        assert await anext(aiter(process.stdout)) == "first\n"
        await process.stdout.close()
        assert process.stdout.closed
        await process.stdin.writeline("go")
        result = await process
        assert (result.returncode, len(result.stdout.splitlines())) == (0, 50001)


async def test_a_time_limit_kills_the_whole_tree(face: Face) -> None:
    """Children that ignore SIGTERM and left their parent's group go too: nothing holds the files any more."""
    async with face.session() as session:
        sandbox = session.sandbox()
        script = "trap '' TERM; (trap '' TERM; while :; do sleep 0.05; done) & echo on; wait"
        with pytest.raises(aviato.SandboxTimeoutError) as caught:
            await sandbox.exec(["sh", "-c", script], timeout_seconds=0.6)
        assert caught.value.exec_result is not None
        assert caught.value.exec_result.stdout == "on\n"
        assert caught.value.sandbox_id == sandbox.sandbox_id
        assert not caught.value.is_infrastructure
        if sandbox.engine_name == "local":
            left = await sandbox.exec(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'while [:]'"])
            assert left.stdout == "0\n"


async def test_a_result_is_text_and_bytes_with_its_time(face: Face) -> None:
    """Both streams in both forms, the duration in seconds, and no signal for an ordinary end."""
    async with face.session() as session:
        result = await session.sandbox().exec(["sh", "-c", "echo o; echo e >&2"])
        assert (result.stdout, result.stdout_bytes, result.stderr, result.stderr_bytes) == (
            "o\n",
            b"o\n",
            "e\n",
            b"e\n",
        )
        assert 0 <= result.duration_seconds < 60
        assert (result.signal, result.truncated) == (None, False)


async def test_zero_kept_bytes_is_a_limit_too(face: Face) -> None:
    """max_output_bytes=0 keeps nothing, per stream, and says so."""
    async with face.session() as session:
        result = await session.sandbox().exec(["sh", "-c", "echo out; echo err >&2"], max_output_bytes=0)
        assert (result.stdout, result.stderr, result.truncated) == ("", "", True)
        exact = await session.sandbox().exec(["printf", "12345"], max_output_bytes=5)
        assert (exact.stdout, exact.truncated) == ("12345", False)


async def test_unusual_words_arrive_as_they_are(face: Face) -> None:
    """No shell stands between: blanks, quotes, newlines, empty words and non-ASCII text are arguments."""
    words = ["", " ", "a b", "'", '"', "$HOME", "*", "new\nline", "\t", "ü€😀", "\\n", "-n"]
    async with face.session() as session:
        result = await session.sandbox().exec(["printf", "%s|", *words])
        assert result.stdout == "".join(f"{word}|" for word in words)


async def test_a_missing_directory_is_named(face: Face) -> None:
    """A cwd that is not there, or is a file, is an error with its name: the command never began."""
    async with face.session() as session:
        sandbox = session.sandbox()
        for place, text in (("/no/such/place", "No such file"), ("/etc/passwd", "Not a directory")):
            with pytest.raises(aviato.SandboxExecutionError, match=f"{place}.*{text}") as caught:
                await sandbox.exec(["true"], cwd=place)
            assert caught.value.exec_result is None
        assert (await sandbox.exec(["true"])).returncode == 0


async def test_input_that_is_not_read_is_no_error(face: Face, caplog: pytest.LogCaptureFixture) -> None:
    """A command given more bytes than it reads ends as usual, and nothing is logged."""
    async with face.session() as session:
        result = await session.sandbox().exec(["head", "-c", "3"], stdin=b"abc" * 1_000_000)
        assert (result.stdout, result.returncode) == ("abc", 0)
    gc.collect()
    assert caplog.records == []
