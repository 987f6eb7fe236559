"""Commands, on every engine and both faces: what API.md says of exec, Process and their streams."""

from __future__ import annotations

import asyncio

import pytest

import aviato
from tests.contract.faces import Face, waited


async def test_a_command_gives_its_output_and_return_code(face: Face) -> None:
    """Output of both streams, the return code and the command are in the result."""
    async with face.session() as session:
        result = await session.sandbox().exec(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (result.stdout, result.stderr, result.returncode) == ("out\n", "err\n", 3)
    assert result.command == ("sh", "-c", "echo out; echo err >&2; exit 3")
    assert not result.truncated
    assert result.duration_seconds >= 0


async def test_exec_returns_before_the_sandbox_has_started(face: Face) -> None:
    """The handle is there at once, with no return code yet."""
    async with face.session() as session:
        process = session.sandbox().exec(["cat"], stdin=True)  # which cannot end by itself, however fast the engine is
        assert process.returncode is None
        assert process.poll() is None
        assert process.stdin is not None
        await process.stdin.write(b"hi\n")
        await process.stdin.close()
        assert (await process).stdout == "hi\n"
        assert process.returncode == 0
        assert process.done()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "exit 42"], 42),
        (["no-such-program-anywhere"], 127),
        (["/etc/passwd"], 126),
        (["sh", "-c", "kill -KILL $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
    ],
)
async def test_exit_codes_are_those_of_a_shell(face: Face, command: list[str], code: int) -> None:
    """126 not executable, 127 not found, 128+N killed by signal N."""
    async with face.session() as session:
        result = await session.sandbox().exec(command)
    assert result.returncode == code
    if code in (126, 127):
        assert command[0] in result.stderr


async def test_check_raises_at_the_result_with_the_result(face: Face) -> None:
    """A non-zero code with check raises, never while iterating."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "echo one; echo two; exit 5"], check=True)
        assert [line async for line in process.stdout] == ["one\n", "two\n"]
        with pytest.raises(aviato.SandboxExecutionError) as caught:
            await process
    assert caught.value.exec_result is not None
    assert caught.value.exec_result.returncode == 5
    assert caught.value.exec_result.stdout == "one\ntwo\n"


async def test_lines_arrive_while_the_command_runs(face: Face) -> None:
    """Output is live: the command waits for an answer that is sent only after its first line was read."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "echo ready; read word; echo got $word"], stdin=True)
        lines = process.stdout
        assert await anext(aiter(lines)) == "ready\n"
        assert process.stdin is not None
        await process.stdin.writeline("go")
        assert [line async for line in lines] == ["got go\n"]
        assert (await process).stdout == "ready\ngot go\n"


async def test_iterating_never_empties_the_result(face: Face) -> None:
    """What was read by lines is still in the result, and joined pieces equal its text."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "for i in 1 2 3; do echo line $i; done; printf tail"])
        pieces = [line async for line in process.stdout]
        assert pieces == ["line 1\n", "line 2\n", "line 3\n", "tail"]
        assert "".join(pieces) == (await process).stdout


async def test_thousands_of_lines_stay_in_order(face: Face) -> None:
    """Twenty thousand lines arrive complete and in order."""
    async with face.session() as session:
        process = session.sandbox().exec(["seq", "1", "20000"])
        lines = [line async for line in process.stdout]
    assert lines == [f"{n}\n" for n in range(1, 20001)]


async def test_output_is_bytes_first(face: Face) -> None:
    """Invalid UTF-8 is kept as bytes and replaced in the text."""
    async with face.session() as session:
        process = session.sandbox().exec(["printf", "a\\377b\\303\\244"])
        result = await process
        assert result.stdout_bytes == b"a\xffb\xc3\xa4"
        assert result.stdout == "a\ufffdbä"
        assert b"".join([piece async for piece in process.stdout.buffer]) == result.stdout_bytes


async def test_ten_megabytes_on_both_streams_at_once(face: Face) -> None:
    """Large output on both streams neither blocks nor loses a byte."""
    size = 10 * 1024 * 1024
    script = f"head -c {size} /dev/zero & head -c {size} /dev/zero >&2; wait"
    async with face.session() as session:
        result = await session.sandbox().exec(["sh", "-c", script])
    assert len(result.stdout_bytes) == size
    assert len(result.stderr_bytes) == size
    assert not result.truncated


async def test_output_beyond_the_cap_is_dropped_from_the_result_only(face: Face) -> None:
    """The result is truncated, a reader that iterates meanwhile sees everything."""
    async with face.session() as session:
        sandbox = session.sandbox()
        script = "echo; read go; head -c 3000000 /dev/zero"  # begins when the reader is there, however fast it is
        process = sandbox.exec(["sh", "-c", script], stdin=True, max_output_bytes=1000)
        pieces = aiter(process.stdout.buffer)
        total = len(await anext(pieces))
        assert process.stdin is not None
        await process.stdin.writeline("go")
        async for piece in pieces:
            total += len(piece)
        result = await process
        assert total == 3_000_001
        assert result.truncated
        assert result.stdout_bytes == b"\n" + bytes(999)


async def test_reading_too_late_says_what_was_lost(face: Face) -> None:
    """Output that was dropped before the reading began is an error with counts, never a silent gap."""
    async with face.session() as session:
        process = session.sandbox().exec(["head", "-c", "3000000", "/dev/zero"], max_output_bytes=1000)
        await process
        with pytest.raises(aviato.OutputLostError) as caught:
            async for _ in process.stdout.buffer:
                pass
    assert (caught.value.stream, caught.value.received, caught.value.sent) == ("stdout", 1000, 3_000_000)


async def test_leaving_a_loop_early_neither_blocks_nor_kills(face: Face) -> None:
    """After a break the command still runs to its end, however much it writes."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "echo first; head -c 2000000 /dev/zero"], max_output_bytes=10)
        async for line in process.stdout:
            assert line == "first\n"
            break
        assert (await process).returncode == 0


async def test_an_incomplete_line_is_handed_on_after_a_while(face: Face) -> None:
    """A prompt without newline is seen while the command waits."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "printf 'name? '; read word; echo $word"], stdin=True)
        assert await anext(aiter(process.stdout)) == "name? "
        assert process.stdin is not None
        await process.stdin.writeline("x")
        await process


async def test_input_goes_both_ways(face: Face) -> None:
    """Two megabytes written to cat come back as they were."""
    data = bytes(range(256)) * 8192
    async with face.session() as session:
        sandbox = session.sandbox()
        assert (await sandbox.exec(["cat"], stdin=data)).stdout_bytes == data
        assert (await sandbox.exec(["cat"], stdin="text ä")).stdout == "text ä"
        process = sandbox.exec(["cat"], stdin=True)
        assert process.stdin is not None
        for start in range(0, len(data), 100_000):
            await process.stdin.write(data[start : start + 100_000])
        await process.stdin.close()
        assert process.stdin.closed
        assert (await process).stdout_bytes == data


async def test_writing_after_the_end_is_an_error(face: Face) -> None:
    """Input for a command that has ended is refused."""
    async with face.session() as session:
        process = session.sandbox().exec(["true"], stdin=True)
        await process
        assert process.stdin is not None
        with pytest.raises(aviato.SandboxExecutionError):
            await process.stdin.write(b"late")
        await process.stdin.close()


async def test_a_blocked_writer_is_released_at_the_end(face: Face) -> None:
    """A writer held by back-pressure gets the error when the command ends without reading."""
    async with face.session() as session:
        process = session.sandbox().exec(["sleep", "600"], stdin=True)
        assert process.stdin is not None

        async def write() -> None:
            assert process.stdin is not None
            await process.stdin.write(bytes(5_000_000))

        writing = asyncio.ensure_future(write())
        done, _ = await asyncio.wait([writing], timeout=0.3)
        assert not done
        process.kill()
        with pytest.raises(aviato.SandboxExecutionError):
            await writing
        assert (await process).returncode == 137


async def test_without_stdin_the_input_is_empty(face: Face) -> None:
    """A command that reads gets end-of-file at once, and has no writer."""
    async with face.session() as session:
        process = session.sandbox().exec(["cat"])
        assert process.stdin is None
        assert (await process).stdout == ""


async def test_environment_and_directory(face: Face) -> None:
    """Variables are merged over the sandbox's own, and cwd is where the command starts."""
    async with face.session(environment_variables={"A": "1", "B": "2"}) as session:
        sandbox = session.sandbox(environment_variables={"B": "3"})
        result = await sandbox.exec(["sh", "-c", "echo $A $B $C; pwd"], env={"C": "4"}, cwd="/tmp")
    assert result.stdout == "1 3 4\n/tmp\n"


async def test_a_time_limit_kills_and_keeps_the_output(face: Face) -> None:
    """The error is a TimeoutError with the partial output, and the sandbox stays usable."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "echo before; sleep 600; echo after"], timeout_seconds=0.5)
        with pytest.raises(aviato.SandboxTimeoutError) as caught:
            await process
        assert isinstance(caught.value, TimeoutError)
        assert caught.value.exec_result is not None
        assert caught.value.exec_result.stdout == "before\n"
        assert (await sandbox.exec(["echo", "alive"])).stdout == "alive\n"


async def test_cancel_ends_the_command(face: Face) -> None:
    """cancel() kills it in the sandbox, and only then counts as cancelled."""
    async with face.session() as session:
        sandbox = session.sandbox()
        process = sandbox.exec(["sh", "-c", "echo started; exec sleep 600"])
        await anext(aiter(process.stdout))
        assert process.cancel()
        with pytest.raises(face.cancelled):
            await process
        assert process.cancelled()
        assert process.returncode == 137
        assert not process.cancel()


async def test_cancelling_a_waiter_leaves_the_command_alone(face: Face) -> None:
    """Another awaiter still gets the result."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "read x; echo $x"], stdin=True)

        async def wait() -> None:
            await process

        waiter = asyncio.ensure_future(wait())
        await asyncio.wait([waiter], timeout=0.05)
        waiter.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiter
        assert process.stdin is not None
        await process.stdin.writeline("still here")
        assert (await process).stdout == "still here\n"


async def test_signals_reach_the_command(face: Face) -> None:
    """send_signal gives the command the signal; wait() returns the shell's code."""
    async with face.session() as session:
        process = session.sandbox().exec(["sh", "-c", "echo up; exec sleep 600"])
        await anext(aiter(process.stdout))
        process.send_signal(15)
        result = await process
        assert (result.returncode, result.signal) == (143, 15)
        with pytest.raises(ValueError, match="99"):
            process.send_signal(99)


async def test_many_commands_at_once(face: Face) -> None:
    """A hundred commands in one sandbox each get their own output."""
    async with face.session() as session:
        sandbox = session.sandbox()
        processes = [sandbox.exec(["echo", str(n)]) for n in range(100)]
        results = [await process for process in processes]
    assert [result.stdout for result in results] == [f"{n}\n" for n in range(100)]


async def test_a_daemon_left_behind_does_not_hold_the_result_up(face: Face) -> None:
    """The command settles at its own end though a child still holds its output."""
    async with face.session() as session:
        result = await asyncio.wait_for(waited(session.sandbox().exec(["sh", "-c", "sleep 600 & echo hi"])), timeout=20)
    assert result.stdout == "hi\n"


async def test_output_closed_early_is_no_end(face: Face) -> None:
    """A command that closes its stdout goes on, and its code is exact."""
    async with face.session() as session:
        result = await session.sandbox().exec(["sh", "-c", "echo x; exec >&-; echo y >&2; exit 7"])
    assert (result.stdout, result.stderr, result.returncode) == ("x\n", "y\n", 7)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"command": "ls -l"}, TypeError, "['ls', '-l']"),
        ({"command": []}, ValueError, "program"),
        ({"command": ["echo", 1]}, TypeError, "1"),
        ({"command": ["echo", "a\0b"]}, ValueError, "NUL"),
        ({"command": ["echo"], "cwd": "relative"}, ValueError, "absolute"),
        ({"command": ["echo"], "env": {"A": 1}}, TypeError, "env"),
        ({"command": ["echo"], "env": {"A=B": "1"}}, ValueError, "A=B"),
        ({"command": ["echo"], "timeout_seconds": 0}, ValueError, "timeout_seconds"),
        ({"command": ["echo"], "timeout_seconds": "1"}, TypeError, "timeout_seconds"),
        ({"command": ["echo"], "timeout_seconds": float("nan")}, ValueError, "timeout_seconds"),
        ({"command": ["echo"], "max_output_bytes": -1}, ValueError, "max_output_bytes"),
        ({"command": ["echo"], "stdin": 5}, TypeError, "stdin"),
        ({"command": ["echo", "x" * 1_100_000]}, ValueError, "1000000"),
    ],
)
async def test_bad_arguments_are_refused_at_the_call(
    face: Face, arguments: dict[str, object], error: type[Exception], text: str
) -> None:
    """The error is raised by exec itself and names the argument or the right form."""
    async with face.session() as session:
        sandbox = session.sandbox()
        await sandbox
        with pytest.raises(error) as caught:
            sandbox.exec(**arguments)
        assert text in str(caught.value)
