"""Calls of one shipped function: which sandbox, what goes in, what comes back, and what an ending means."""

from __future__ import annotations

import asyncio
import codecs
import functools
import logging
import random
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import TYPE_CHECKING, Any

from aviato.aio._completion import check_loop
from aviato.aio._keeper import Keeper, Kept
from aviato.aio.shipping import outcomes
from aviato.aio.shipping.inside.runner import ITEM, TOKEN_BYTES
from aviato.aio.shipping.interpreter import Answer, Interpreter, Message, OnItem
from aviato.aio.shipping.program import message, program
from aviato.exceptions import (
    AviatoError,
    SandboxError,
    SandboxExecutionError,
    SandboxNotRunningError,
    SandboxTimeoutError,
)
from aviato.models import ExitReason

if TYPE_CHECKING:
    from aviato.aio.session import Session
    from aviato.aio.shipping.carrier import Carrier

_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 5.0
_SLOW_BYTES = 1024 * 1024
"""Bytes of a result from which on it is unpacked on a thread."""
_log = logging.getLogger("aviato")

Pieces = Sequence[bytes | memoryview]


class Calls:
    """Runs calls in at most `concurrency` sandboxes of a session, each with a warm interpreter that is kept."""

    def __init__(
        self,
        session: Session,
        name: str,
        shipped: Callable[[], tuple[bytes, Carrier]],
        *,
        timeout_seconds: float | None,
        concurrency: int,
        retries: int,
        fresh: bool,
        on_output: Callable[[str, str], object] | None,
        config: dict[str, Any],
    ) -> None:
        self._session = session
        self._name = name
        self._shipped = shipped
        self._timeout_seconds = timeout_seconds
        self.retries = retries
        self._fresh = fresh
        self._on_output = on_output
        session.defaults.with_overrides(**config)  # what cannot be is said now
        self._keeper = session._keep(  # noqa: SLF001 - sessions own what makes their sandboxes
            Keeper(lambda: session.sandbox(**config), most=concurrency, label=f"function {name}")
        )
        self._finishing: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, keeper: Keeper | None = None) -> Any:
        """Run one call and return its result; errors as `RemoteFunction.remote`.

        Args:
            args: Its arguments.
            kwargs: Its arguments by name.
            keeper: Whose sandboxes to use; None is the function's own.
        """
        carrier, pieces = self._packed(args, kwargs)
        attempt, retries = 0, self.retries if keeper is None else 0  # else whose sandboxes they are sees to that
        while True:
            try:
                answer, sandbox_id = await self._once(pieces, keeper or self._keeper, None)
                break
            except AviatoError as error:
                if not error.is_infrastructure or attempt >= retries or self._session.closed or self._keeper.closed:
                    raise
                _log.info("a call of %s is repeated: %s", self._name, error)
            pause = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreading load is no secret
            attempt += 1
        judge = functools.partial(
            outcomes.result_of, answer, carrier.unpack_result, self._name, carrier.result_hint, sandbox_id
        )
        if len(answer.payload) < _SLOW_BYTES:
            return judge()
        return await asyncio.to_thread(judge)  # it would hold everything else up

    def _packed(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Carrier, Pieces]:
        """Check where this is called, and pack the arguments."""
        self._session._check_open()  # noqa: SLF001 - sessions own what makes their sandboxes
        if self._keeper.closed:
            raise SandboxError(f"function {self._name} is closed")
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        check_loop(self._loop, f"function {self._name}")
        carrier = self._shipped()[1]
        return carrier, carrier.pack_arguments(args, kwargs)

    async def close(self) -> None:
        """Stop the function's own sandboxes; as `RemoteFunction.close`."""
        await self._keeper.close()

    async def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        """Run one call of a generator and yield its items as they come; it is not repeated.

        Leaving the iteration early kills the call. Errors as `RemoteFunction.stream`.
        """
        carrier, pieces = self._packed(args, kwargs)
        items: deque[Message] = deque()
        news = asyncio.Event()
        serving: list[Interpreter] = []

        def take(item: Message) -> None:
            items.append(item)
            news.set()

        call = asyncio.get_running_loop().create_task(
            self._once(pieces, self._keeper, take, serving), name="aviato-call"
        )
        call.add_done_callback(lambda _: news.set())
        try:
            while True:
                while items:
                    item = items.popleft()
                    if not call.done():  # else the interpreter is another call's
                        serving[0].taken(len(item))
                    yield outcomes.believed(
                        carrier.unpack_item,
                        item,
                        lambda: call.result()[0].printed if call.done() else serving[0].printed(),
                        name=self._name,
                        values_hint=carrier.result_hint,
                        sandbox_id=serving[0].sandbox_id,
                    )
                if call.done():
                    answer, sandbox_id = call.result()
                    outcomes.result_of(answer, lambda _: None, self._name, carrier.result_hint, sandbox_id)
                    return
                news.clear()
                await news.wait()
        finally:
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)

    async def _once(
        self, pieces: Pieces, keeper: Keeper, on_item: OnItem | None, serving: list[Interpreter] | None = None
    ) -> tuple[Answer, str]:
        for last in (False, False, True):
            kept, interpreter = await self._served_by(keeper)
            if serving is not None:
                serving[:] = [interpreter]
            try:
                answer = await self._served(interpreter, pieces, on_item, last=last)
            except BaseException:
                await self._finish(keeper, kept, interpreter)
                raise
            if answer.kind:
                await keeper.give_back(kept, reusable=True)
                return answer, interpreter.sandbox_id
            await self._finish(keeper, kept, interpreter)  # something ended it before it had read this call
        raise AssertionError  # the last turn returns or raises

    async def _served_by(self, keeper: Keeper) -> tuple[Kept, Interpreter]:
        """Take a sandbox, and its interpreter."""
        while True:
            kept = await keeper.take()
            try:
                return kept, await self._interpreter(kept)
            except SandboxNotRunningError:
                await self._finish(keeper, kept, None)
                if kept.uses == 1:
                    raise
                # it had ended between two calls, so this one never began
            except BaseException as error:
                own = isinstance(error, SandboxExecutionError) and not error.is_infrastructure
                await self._finish(keeper, kept, None, reusable=own)
                raise

    async def _interpreter(self, kept: Kept) -> Interpreter:
        """Return the sandbox's interpreter for this function; a new one when it has none that lives."""
        found = kept.attached.get(self)
        if isinstance(found, Interpreter) and found.usable:
            return found
        if found is not None:
            kept.spared_pids.discard(found.pid)
        life = kept.sandbox._life  # noqa: SLF001 - calls use sandboxes below their handles
        token = secrets.token_bytes(TOKEN_BYTES)
        start = [message(program()), message(self._shipped()[0]), message(token), message(b"1" if self._fresh else b"")]
        made = Interpreter(await life.ready(), self._name, token, start)
        kept.attached[self] = made
        limit = asyncio.timeout(life.request_timeout)
        try:
            async with limit:
                await made.ready()
        except TimeoutError as error:
            if not limit.expired():
                raise
            printed = made.printed(-1, 0, ExitReason.TIMEOUT)
            await made.kill()
            raise SandboxTimeoutError(
                f"what {self._name} needs was not imported and defined within "
                f"request_timeout_seconds={life.request_timeout:g}",
                exec_result=printed,
                sandbox_id=kept.sandbox.sandbox_id,
            ) from error
        if isinstance(made.ended, AviatoError):
            raise made.ended
        kept.spared_pids.add(made.pid)  # its fork that waits for a turn is a child of it
        if made.ended is not None:
            raise outcomes.ended(made.ended, self._name, kept.sandbox.sandbox_id)
        return made

    async def _served(self, interpreter: Interpreter, pieces: Pieces, on_item: OnItem | None, *, last: bool) -> Answer:
        """Run the call; an answer without a kind says that it was not begun, and is an error the `last` time."""
        sandbox_id = interpreter.sandbox_id
        told = None if self._on_output is None else _Decoded(self._on_output)
        under_way = interpreter.call(pieces, on_output=told, on_item=on_item)
        limit = asyncio.timeout(self._timeout_seconds)
        try:
            async with limit:
                answer = await under_way
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise SandboxTimeoutError(
                f"a call of {self._name} ran longer than {self._timeout_seconds:g} s and was killed",
                exec_result=interpreter.printed(137, 9, ExitReason.TIMEOUT),
                sandbox_id=sandbox_id,
            ) from error
        if not answer.kind and (answer.begun or last):
            raise outcomes.ended(answer.printed, self._name, sandbox_id)
        if answer.kind == ITEM:
            await interpreter.kill()
            raise SandboxExecutionError(
                f"{self._name} gave a generator, whose items only stream() brings",
                exec_result=answer.printed,
                sandbox_id=sandbox_id,
            )
        return answer

    async def _finish(
        self, keeper: Keeper, kept: Kept, interpreter: Interpreter | None, *, reusable: bool = False
    ) -> None:
        """Give the place of a failed call back once nothing of it runs, also when the caller is cancelled again."""
        task = asyncio.get_running_loop().create_task(
            self._clear(keeper, kept, interpreter, reusable=reusable or interpreter is not None), name="aviato-call-end"
        )
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    async def _clear(self, keeper: Keeper, kept: Kept, interpreter: Interpreter | None, *, reusable: bool) -> None:
        if interpreter is not None and not interpreter.usable:
            kept.attached.pop(self, None)
            kept.spared_pids.discard(interpreter.pid)
            try:
                await interpreter.kill()
            except AviatoError as error:
                _log.info("a sandbox of %s is replaced: %s", self._name, error)
                reusable = False
        await keeper.give_back(kept, reusable=reusable and not kept.ended)


class _Decoded:
    """Hands text on, however its bytes were cut."""

    def __init__(self, on_output: Callable[[str, str], object]) -> None:
        self._on_output = on_output
        self._decoders: dict[str, codecs.IncrementalDecoder] = {}

    def __call__(self, stream: str, data: bytes) -> None:
        decoder = self._decoders.get(stream)
        if decoder is None:
            decoder = self._decoders[stream] = codecs.getincrementaldecoder("utf-8")("replace")
        text = decoder.decode(data)
        if text:
            try:
                self._on_output(stream, text)
            except BaseException:  # noqa: BLE001 - a user's callback must not harm the call, nor the loop
                _log.exception("on_output failed")
