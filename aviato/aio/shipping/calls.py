"""Calls of one shipped function: which sandbox, what goes in, what comes back, and what an ending means."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from aviato.aio.shipping.inside.carried import NotCarried, dumps
from aviato.aio.shipping.program import program
from aviato.exceptions import (
    AviatoError,
    CapabilityError,
    FunctionSerializationError,
    SandboxExecutionError,
    SandboxFileError,
    SandboxNotRunningError,
    SandboxTimeoutError,
)

if TYPE_CHECKING:
    from aviato.aio.process import Process
    from aviato.aio.sandbox import Sandbox
    from aviato.aio.session import Session
    from aviato.models import ProcessResult

RESULT_LIMIT = 1024**3
"""Bytes of JSON that a result may have."""
_BACKOFF_SECONDS = 0.1
_LONGEST_BACKOFF_SECONDS = 5.0
_DEATH_SECONDS = 5.0
_NOT_FOUND = 127
_JSON_HINT = "Values are None, bool, int, finite float, str, and lists and dicts (with str keys) of these."
_log = logging.getLogger("aviato")


class _Slot:
    """A sandbox with the runner and the bundle in it; it serves one call at a time."""

    def __init__(self, sandbox: Sandbox, folder: str) -> None:
        self.sandbox = sandbox
        self.folder = folder
        self.prepared = False
        self.old_results: list[str] = []


class Calls:
    """Runs calls in at most `concurrency` sandboxes of a session, which are kept for further calls."""

    def __init__(
        self,
        session: Session,
        name: str,
        bundle: Callable[[], bytes],
        *,
        timeout_seconds: float | None,
        concurrency: int,
        retries: int,
        config: dict[str, Any],
    ) -> None:
        self._session = session
        self._name = name
        self._bundle = bundle
        self._timeout_seconds = timeout_seconds
        self._retries = retries
        self._config = config
        self._temp_dir = session.defaults.with_overrides(**config).temp_dir.rstrip("/")
        self._free = asyncio.Semaphore(concurrency)
        self._idle: list[_Slot] = []
        self._finishing: set[asyncio.Task[None]] = set()

    async def run(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one call; errors as `RemoteFunction.remote`."""
        try:
            body = b"[%b,%b]" % (dumps(list(args), "args"), dumps(kwargs, "kwargs"))
        except NotCarried as error:
            raise FunctionSerializationError(f"a call of {self._name}: {error}", hint=_JSON_HINT) from None
        attempt = 0
        while True:
            try:
                return await self._once(body)
            except AviatoError as error:
                if not error.is_infrastructure or attempt >= self._retries or self._session.closed:
                    raise
                _log.info("a call of %s is repeated: %s", self._name, error)
            pause = min(_LONGEST_BACKOFF_SECONDS, _BACKOFF_SECONDS * 2**attempt)
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - spreading load is no secret
            attempt += 1

    async def _once(self, body: bytes) -> Any:
        await self._free.acquire()
        slot: _Slot | None = None
        process: Process | None = None
        try:
            while True:
                slot, kept = self._take()
                if not slot.prepared:
                    await slot.sandbox.write_file(f"{slot.folder}/runner.py", program())
                    await slot.sandbox.write_file(f"{slot.folder}/bundle.json", self._bundle())
                    slot.prepared = True
                path = f"{self._temp_dir}/.aviato-result-{secrets.token_hex(16)}"
                header = json.dumps({"result": path, "forget": slot.old_results})
                process = slot.sandbox.exec(
                    ["python3", "-X", "utf8", f"{slot.folder}/runner.py", f"{slot.folder}/bundle.json"],
                    stdin=b"%b\n%b" % (header.encode("ascii"), body),
                    timeout_seconds=self._timeout_seconds,
                )
                try:
                    result = await process.result()
                except SandboxNotRunningError:
                    if not kept:
                        raise
                    await self._end(slot)  # it had ended between two calls, so this call never began
                    slot = process = None
                    continue
                slot.old_results = [path]
                answer = await self._answer(slot.sandbox, path, result)
                break
        except BaseException as error:
            await self._finish(slot, process, error)
            raise
        self._idle.append(slot)
        self._free.release()
        return self._value(answer, result, slot.sandbox.sandbox_id)

    def _take(self) -> tuple[_Slot, bool]:
        """Return an idle sandbox that still runs, else a new one, and whether it was idle."""
        while self._idle:
            slot = self._idle.pop()
            if not slot.sandbox.status.is_terminal:
                return slot, True
        folder = f"{self._temp_dir}/.aviato-{secrets.token_hex(8)}"
        return _Slot(self._session.sandbox(**self._config), folder), False

    async def _finish(self, slot: _Slot | None, process: Process | None, error: BaseException) -> None:
        """Give the place of a failed call back once nothing of it runs, also when the caller is cancelled again."""
        if slot is None:
            self._free.release()
            return
        own = (SandboxExecutionError, FunctionSerializationError)
        timed_out = isinstance(error, SandboxTimeoutError) and not error.is_infrastructure
        task = asyncio.get_running_loop().create_task(
            self._clear(slot, process, reusable=isinstance(error, own) or timed_out), name="aviato-call-end"
        )
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)
        await asyncio.shield(task)

    async def _clear(self, slot: _Slot, process: Process | None, *, reusable: bool) -> None:
        try:
            if not reusable and slot.prepared and process is not None and process.cancel():
                ended = asyncio.Event()
                process.add_done_callback(lambda _: ended.set())
                try:
                    async with asyncio.timeout(_DEATH_SECONDS):
                        await ended.wait()
                except TimeoutError:
                    reusable = False
                else:
                    reusable = process.cancelled()
            if reusable and not slot.sandbox.status.is_terminal:
                self._idle.append(slot)
            else:
                await self._end(slot)
        finally:
            self._free.release()

    async def _end(self, slot: _Slot) -> None:
        try:
            await slot.sandbox.stop(graceful_shutdown_seconds=0, missing_ok=True)
        except AviatoError as error:
            _log.warning("a sandbox of %s could not be stopped; the session tries again: %s", self._name, error)

    async def _answer(self, sandbox: Sandbox, path: str, result: ProcessResult) -> dict[str, Any]:
        """Read and judge the result file; all of it is the word of an untrusted program."""
        if result.returncode != 0:
            self._no_result(result, sandbox.sandbox_id, None)
        pieces: list[bytes] = []
        size = 0
        reader = sandbox.read_file_streaming(path)
        try:
            async for piece in reader:
                pieces.append(piece)
                size += len(piece)
                if size > RESULT_LIMIT:
                    raise SandboxExecutionError(
                        f"the result of {self._name} has more than {RESULT_LIMIT} bytes",
                        exec_result=result,
                        sandbox_id=sandbox.sandbox_id,
                        hint="Return less, or several pieces from several calls.",
                    )
        except SandboxFileError as error:
            self._no_result(result, sandbox.sandbox_id, error)
        finally:
            await reader.close()
        try:
            answer = json.loads(b"".join(pieces), parse_constant=_no_constant)
            if not isinstance(answer, dict) or len(answer.keys() & {"value", "error", "not_carried"}) != 1:
                raise ValueError("it has neither a value nor an error")  # noqa: TRY301 - one place makes the error
        except (ValueError, RecursionError) as error:
            raise SandboxExecutionError(
                f"the sandbox gave no proper result of {self._name}: {error}",
                exec_result=result,
                sandbox_id=sandbox.sandbox_id,
            ) from error
        return answer

    def _no_result(self, result: ProcessResult, sandbox_id: str, cause: BaseException | None) -> NoReturn:
        if result.returncode == _NOT_FOUND and result.stderr.startswith("aviato: python3:"):
            raise CapabilityError(
                f"{self._name} cannot be called: the sandbox's image has no python3, which remote functions need",
                hint="Choose an image with Python 3.8 or later by container_image=.",
            ) from cause
        hints = {
            126: "The sandbox's image has a python3 that cannot be run.",
            137: "SIGKILL from nowhere usually means that the sandbox's memory limit was reached; see resources=.",
        }
        how = f"signal {result.signal}" if result.signal else f"return code {result.returncode}"
        lines = result.stderr.strip().splitlines()
        last = f"; its last words: {lines[-1][:300]}" if lines else ""
        raise SandboxExecutionError(
            f"the interpreter of {self._name} ended with {how} before the function returned{last}",
            exec_result=result,
            sandbox_id=sandbox_id,
            hint=hints.get(result.returncode),
        ) from cause

    def _value(self, answer: dict[str, Any], result: ProcessResult, sandbox_id: str) -> Any:
        if "value" in answer:
            return answer["value"]
        if "not_carried" in answer:
            refused = FunctionSerializationError(f"{self._name} ran, but {answer['not_carried']}", hint=_JSON_HINT)
            refused.exec_result = result
            raise refused
        told = answer["error"] if isinstance(answer["error"], dict) else {}
        kind, message = str(told.get("type", "Exception")), str(told.get("message", ""))
        defined = answer.get("stage") != "define"
        hint = None if defined else "What it imports must be in the sandbox's image, at a version that has the names."
        error = SandboxExecutionError(
            f"{self._name} {'raised' if defined else 'could not be set up in the sandbox:'} {kind}: {message}",
            exec_result=result,
            exception_type=kind,
            exception_message=message,
            sandbox_id=sandbox_id,
            hint=hint,
        )
        error.add_note(f"In the sandbox:\n{told.get('traceback', '')}".rstrip())
        raise error


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
