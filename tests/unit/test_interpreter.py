"""Taking apart what an interpreter says: any cut of the bytes gives the same, and lies end it."""

from __future__ import annotations

import secrets
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aviato.agent.frames import ExitStatus, Which
from aviato.aio.shipping.inside.carried import pack
from aviato.aio.shipping.inside.runner import BEGUN, ITEM, MARK, READY, VALUE
from aviato.aio.shipping.interpreter import ANSWER_LIMIT, Answer, Interpreter, Message
from aviato.exceptions import AgentProtocolError, EngineConnectionError

TOKEN = b"0123456789abcdef"


class _Remote:
    """Notes what it is told."""

    stdin_free = 1 << 20

    def __init__(self) -> None:
        self.sent = b""
        self.signals: list[int] = []
        self.credit: dict[int, int] = {}
        self.released = False

    def send_stdin(self, data: bytes) -> None:
        self.sent += data

    def signal(self, number: int, *, tree: bool) -> None:
        assert tree
        self.signals.append(number)

    def consumed(self, which: int, total: int) -> None:
        self.credit[which] = total

    def release(self) -> None:
        self.released = True


class _Channel:
    """Starts nothing."""

    sandbox_id = "sbx-0000000000000000"

    def __init__(self) -> None:
        self.remote = _Remote()

    def exec(self, *_args: Any, **_options: Any) -> _Remote:
        return self.remote


def frame(kind: bytes, payload: bytes, token: bytes = TOKEN) -> bytes:
    """Make a frame as the interpreter does."""
    return MARK + token + kind + len(payload).to_bytes(8, "big") + payload


@pytest.fixture(autouse=True)
def _one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every call use the token that is known here."""
    monkeypatch.setattr(secrets, "token_bytes", lambda _size: TOKEN)


def make() -> tuple[Interpreter, _Remote]:
    """Make an interpreter that is ready."""
    channel: Any = _Channel()
    made = Interpreter(channel, "f", TOKEN, [b"start"])
    made.process_output(Which.STDOUT, frame(READY, b""))
    return made, channel.remote


printed = st.lists(st.sampled_from([b"text", b"\0", MARK + TOKEN[:7], MARK + MARK, b"\0" * 20, b"\n"]), max_size=6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), printed, printed, st.binary(max_size=50))
async def test_any_cut_gives_the_same(
    data: st.DataObject, before: list[bytes], errors: list[bytes], value: bytes
) -> None:
    """Printed bytes, items and the answer are exact however they arrive, in whatever order of the streams."""
    made, remote = make()
    items: list[Message] = []
    heard: dict[str, bytes] = {"stdout": b"", "stderr": b""}

    def hear(name: str, piece: bytes) -> None:
        heard[name] += piece

    future = made.call([b"arguments"], on_output=hear, on_item=items.append)
    assert remote.sent == b"start" + (25).to_bytes(8, "big") + TOKEN + b"arguments"
    out = b"".join(before) + frame(ITEM, value) + b"".join(before) + frame(VALUE, value)
    streams = {Which.STDOUT: out, Which.STDERR: b"".join(errors) + MARK + TOKEN}
    while any(streams.values()):
        which = data.draw(st.sampled_from([key for key, rest in streams.items() if rest]))
        cut = data.draw(st.integers(1, len(streams[which])))
        piece, streams[which] = streams[which][:cut], streams[which][cut:]
        made.process_output(which, piece)
    answer: Answer = await future
    assert (answer.kind, bytes(answer.payload), [bytes(item) for item in items]) == (VALUE, value, [value])
    assert answer.printed.stdout_bytes == heard["stdout"] == b"".join(before) * 2
    assert answer.printed.stderr_bytes == heard["stderr"] == b"".join(errors)
    assert made.usable


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.binary(min_size=1, max_size=40), max_size=8), st.booleans())
async def test_any_bytes_end_well(pieces: list[bytes], marked: bool) -> None:
    """Whatever it says, a call settles when the interpreter ends."""
    made, _ = make()
    future = made.call([b""])
    for piece in pieces:
        made.process_output(Which.STDOUT, MARK + TOKEN + piece if marked else piece)
    made.process_exited(ExitStatus(3, 0, 0, 0, 0, 0))
    assert future.done()
    assert not made.usable
    if future.exception() is None and not future.result().kind:
        assert future.result().printed.returncode == 3


async def test_a_length_that_nobody_can_hold() -> None:
    """It is refused before a byte of it is taken, and the interpreter is killed."""
    made, remote = make()
    future = made.call([b""])
    made.process_output(Which.STDOUT, MARK + TOKEN + VALUE + (ANSWER_LIMIT + 1).to_bytes(8, "big"))
    with pytest.raises(AgentProtocolError, match="cannot be believed"):
        await future
    assert remote.signals == [9]
    made.process_lost(EngineConnectionError("gone"))
    assert not made.usable
    assert remote.released


@pytest.mark.parametrize(("kind", "size"), [(b"e", 5_000_000), (b"n", 2_000_000), (b"r", 65), (b"?", 1)])
async def test_a_frame_that_nobody_makes(kind: bytes, size: int) -> None:
    """Texts are short, and other kinds there are none: what would take much to read is not read."""
    made, remote = make()
    future = made.call([b""])
    made.process_output(Which.STDOUT, MARK + TOKEN + kind + size.to_bytes(8, "big"))
    with pytest.raises(AgentProtocolError, match="cannot be believed"):
        await future
    assert remote.signals == [9]


async def test_an_item_that_nobody_asked_for() -> None:
    """It settles the call, which may have no end."""
    made, _ = make()
    future = made.call([b""])
    made.process_output(Which.STDOUT, frame(ITEM, b"1"))
    assert (await future).kind == ITEM


async def test_an_end_before_the_call_was_read() -> None:
    """It is told from an end of the call, and what an earlier one left half said is forgotten."""
    made, _ = make()
    future = made.call([b""])
    made.process_output(Which.STDOUT, frame(BEGUN, b"") + frame(VALUE, b"1"))
    made.process_output(Which.STDERR, MARK + TOKEN)
    assert (await future).begun
    made.process_output(Which.STDOUT, MARK + TOKEN + VALUE + (1000).to_bytes(8, "big"))
    future = made.call([b""])
    made.process_output(Which.STDOUT, b"text")
    made.process_exited(ExitStatus(0, 9, 0, 0, 0, 0))
    answer = await future
    assert (answer.kind, answer.begun, answer.printed.stdout_bytes) == (b"", False, b"text")


async def test_lost_bytes_are_an_error() -> None:
    """A gap may have held the answer."""
    made, remote = make()
    future = made.call([b""])
    made.process_gap(Which.STDOUT, 10)
    assert future.exception() is not None
    assert remote.signals == [9]


async def test_an_interpreter_of_one_call() -> None:
    """Where there is no fork it says so, and is not used again."""
    channel: Any = _Channel()
    made = Interpreter(channel, "f", TOKEN, [])
    made.process_output(Which.STDOUT, frame(READY, b"once"))
    future = made.call([b""])
    made.process_output(Which.STDOUT, frame(VALUE, b"x"))
    made.process_output(Which.STDERR, MARK + TOKEN)
    assert (await future).payload == b"x"
    assert not made.usable


async def test_untaken_items_stop_the_flow() -> None:
    """Credit for more output is given when items are taken."""
    made, remote = make()
    made.call([b""], on_item=lambda _: None)
    item = frame(ITEM, b"x" * 600_000)
    made.process_output(Which.STDOUT, item)
    given = remote.credit[Which.STDOUT]
    made.process_output(Which.STDOUT, item)
    assert remote.credit[Which.STDOUT] == given
    made.taken(600_000)
    assert remote.credit[Which.STDOUT] == given + len(item)


async def test_a_large_answer_in_pieces() -> None:
    """What does not fit a piece is exact too, whether it is a value or not."""
    made, _ = make()
    await _large_answer(made, bytes(range(256)) * 20_000)
    await _large_answer(made, b"".join(pack([bytes(5_000_000), b"", 1, b"end"], "", ())))


async def _large_answer(made: Interpreter, value: bytes) -> None:
    future = made.call([b""])
    out = frame(VALUE, value) + b"after"
    for start in range(0, len(out), 70_001):
        made.process_output(Which.STDOUT, out[start : start + 70_001])
    made.process_output(Which.STDERR, MARK + TOKEN)
    answer = await future
    assert bytes(answer.payload) == value
    assert made.usable
