"""The Docker engine: each sandbox is a container whose first process is the agent.

What is known of a sandbox lives in its container: labels hold its record, its name says whether somebody has asked it
to stop, and the last line of its log, behind a token that nobody inside knows, why the agent ended it. So any process
that reaches the daemon can find it, use it and end it. Time limits are held by the agent, and hold without any client.
"""

from __future__ import annotations

import asyncio
import builtins
import contextlib
import json
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

from aviato.agent.channel import Channel
from aviato.engines.base import Capabilities, Engine, LogRecord, SandboxQuery, SandboxSpec
from aviato.engines.docker import exits, logs, native_plan, records, stage
from aviato.engines.docker.api import Api, ApiError
from aviato.engines.docker.container import Plan, make_plan
from aviato.engines.docker.endpoint import Endpoint, find_endpoint
from aviato.engines.docker.events import attended, parsed, read_event
from aviato.engines.docker.hijack import ExecStream
from aviato.engines.docker.images import DEFAULT_IMAGE, ensure_image
from aviato.engines.docker.native import NativeAgent
from aviato.engines.docker.refusals import check_network, explain_end, explain_start
from aviato.exceptions import (
    AviatoError,
    EngineConnectionError,
    EngineError,
    Outcome,
    SandboxFailedError,
    SandboxLostError,
    SandboxNotFoundError,
    SandboxNotRunningError,
)
from aviato.models import ExitReason, SandboxInfo

__all__ = ["DockerEngine"]

RETAINED = 32
"""How many containers of ended sandboxes are kept, for their logs, while the program that made them runs."""
_NOT_FOUND, _CONFLICT = 404, 409
_CREATES_AT_ONCE = 16
_KILL_SECONDS = 10.0
_LAST_WORDS_SECONDS = 0.5
_WHY_SECONDS = 2.0
_OPEN_SECONDS = 20.0
_UNDO_SECONDS = 10.0
_QUIET_SECONDS = 30.0
_UNSTARTED_SECONDS = 600.0
_CLOCK_MARGIN = 2.0
_RACE_SECONDS, _RACE_STEP = 2.0, 0.02


class DockerEngine(Engine):
    """Sandboxes on one Docker or Podman daemon."""

    name = "docker"

    def __init__(self, endpoint: Endpoint | None = None) -> None:
        """Find the daemon; it is asked nothing yet.

        Args:
            endpoint: Where it is; None: where the docker command would find it.

        Raises:
            ConfigurationError: A setting of Docker's has a bad value.
        """
        self._api = Api(endpoint or find_endpoint())
        self._daemon: dict[str, Any] = {}
        self._creating: dict[str, asyncio.Future[None]] = {}
        self._creates = asyncio.Semaphore(_CREATES_AT_ONCE)
        self._made: set[str] = set()
        self._attached: set[str] = set()
        self._streams: dict[str, ExecStream] = {}
        self._without_python: dict[str, native_plan.Facts] = {}  # by the image's id
        self._natives: dict[str, NativeAgent] = {}
        self._kept: deque[str] = deque()
        self._since = 0.0
        self._closed = False
        self.undo_seconds = _UNDO_SECONDS
        self.quiet_seconds = _QUIET_SECONDS

    @property
    def capabilities(self) -> Capabilities:
        """What this engine can do, as far as it is known without asking the daemon."""
        return Capabilities(
            images=True,
            gpu=True,
            egress=True,
            ports=True,
            volumes=True,
            secrets=True,
            users=True,
            read_only=True,
            runtimes=tuple(sorted(self._daemon.get("Runtimes") or ())),
        )

    async def _open(self) -> None:
        if self._closed:
            raise EngineError("the Docker engine is closed")
        await self._api.open()
        if not self._daemon:
            self._daemon = await self._api.request("GET", "/info", what="describe itself")

    # Making

    async def create(self, spec: SandboxSpec) -> SandboxInfo:
        """Create and start a sandbox, pulling its image when that is wanted; see `Engine.create`."""
        await self._open()
        sandbox_id = spec.sandbox_id
        while (other := self._creating.get(sandbox_id)) is not None:
            await asyncio.wait([other])
        mark = self._creating[sandbox_id] = asyncio.get_running_loop().create_future()
        try:
            name = spec.image or DEFAULT_IMAGE
            image = await ensure_image(self._api, name, spec.pull_policy, spec.on_pull_progress)
            self._since = self._since or time.time() - _CLOCK_MARGIN
            await check_network(self._api, spec)
            async with self._creates:
                try:
                    await self._make(spec, self._plan(spec, image, name), image)
                except native_plan.NoPythonError as error:
                    self._without_python[image["Id"]] = error.facts
                    await self._make(spec, self._plan(spec, image, name), image)
        finally:
            del self._creating[sandbox_id]
            mark.set_result(None)
        return await self.get(sandbox_id)

    def _plan(self, spec: SandboxSpec, image: dict[str, Any], name: str) -> Plan:
        token = secrets.token_hex(16)
        plan = make_plan(spec, image, name, token, self._daemon)
        plan.config["last_words"] = token.encode()
        facts = self._without_python.get(image["Id"])
        return plan if facts is None else native_plan.make_native(plan, spec, facts, name)

    async def _make(self, spec: SandboxSpec, plan: Plan, image: dict[str, Any]) -> None:
        sandbox_id = spec.sandbox_id
        if not await self._create_container(spec, plan):
            return
        try:
            await self._run(spec, plan)
        except EngineError as error:
            try:
                if not plan.native and native_plan.lacks_python(error):
                    facts = await native_plan.look(self._api, sandbox_id, native_plan.image_path(image))
                    raise native_plan.NoPythonError(facts) from error
                ended = await self._why_ended(spec)
            finally:
                await self._remove_surely(sandbox_id)
            if ended is not None:
                raise ended from error
            if isinstance(error, ApiError):
                raise explain_start(error, spec) from error
            raise
        except BaseException:
            await self._remove_surely(sandbox_id)
            raise
        self._attached.add(sandbox_id)
        if not spec.detached:
            self._made.add(sandbox_id)

    async def _why_ended(self, spec: SandboxSpec) -> AviatoError | None:
        """Say why the first process of a container ended by itself, None when it did not or nobody can tell."""
        with contextlib.suppress(EngineError, SandboxNotFoundError, TimeoutError):
            async with asyncio.timeout(_WHY_SECONDS):
                container = await self._find(spec.sandbox_id)
                if container is None or container["State"]["Status"] == "created" or container["State"].get("Error"):
                    return None
                if not await self._ended(container["Id"], _LAST_WORDS_SECONDS):
                    return None
                said = await logs.said_at_end(self._api, container)
                container = await self._known(spec.sandbox_id)
            name, machine = spec.image or DEFAULT_IMAGE, str(self._daemon.get("Architecture"))
            return explain_end(name, container["State"]["ExitCode"], said, machine, spec)
        return None

    async def _create_container(self, spec: SandboxSpec, plan: Plan) -> bool:
        """Create it; false when it is there already, by an equal request."""
        sandbox_id = spec.sandbox_id
        creation = asyncio.ensure_future(
            self._api.request(
                "POST", "/containers/create", params={"name": sandbox_id}, body=plan.body, what="create a container"
            )
        )
        try:
            await asyncio.shield(creation)
        except asyncio.CancelledError:
            await self._let_go(creation)  # else it might appear after the removal
            if creation.cancelled() or isinstance(creation.exception(), EngineConnectionError):
                self._made.add(sandbox_id)
                await self._remove_surely(sandbox_id)
            elif creation.exception() is None:
                await self._remove_surely(sandbox_id)
            raise
        except EngineConnectionError as error:
            if error.outcome is not Outcome.NOT_APPLIED:
                self._made.add(sandbox_id)  # it may appear at any time: what removes it now is done again at the end
                await self._remove_surely(sandbox_id)
            raise
        except ApiError as error:
            if error.status == _CONFLICT and await self._is_same(spec, plan):
                return False
            if error.status == _CONFLICT:
                raise SandboxFailedError(
                    f"the id {sandbox_id} is in use by a sandbox with another specification", sandbox_id=sandbox_id
                ) from error
            raise explain_start(error, spec) from error
        return True

    async def _is_same(self, spec: SandboxSpec, plan: Plan) -> bool:
        deadline = time.monotonic() + _RACE_SECONDS
        while (container := await self._find(spec.sandbox_id)) is None:
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(_RACE_STEP)  # its name is taken before it can be looked up
        known = records.read_record(container["Config"]["Labels"])
        return bool(known["body"] == records.read_record(plan.body["Labels"])["body"])

    async def _run(self, spec: SandboxSpec, plan: Plan) -> None:
        path = f"/containers/{spec.sandbox_id}"
        if plan.archive:
            await self._api.request(
                "PUT",
                f"{path}/archive",
                params={"path": "/"},
                data=plan.archive,
                headers={"Content-Type": "application/x-tar"},
                what="put the mounted files into the container",
            )
        await self._api.request("POST", f"{path}/start", what="start the container")
        if plan.native:
            return
        stream = await self._bring(spec.sandbox_id)
        try:
            magic = await stream.read(stage.MAGIC_BYTES)
            stream.write(stage.bundle(magic, plan.config))
        except BaseException:
            stream.abort()
            raise
        self._streams[spec.sandbox_id] = stream

    async def _bring(self, container: str) -> ExecStream:
        """Bring a client to the door of the first process."""
        body = {
            "AttachStdin": True,
            "AttachStdout": True,
            "AttachStderr": True,
            "Tty": False,
            "User": "0:0",
            "Cmd": [*stage.PYTHON, stage.BRING],
        }
        made = await self._api.request("POST", f"/containers/{container}/exec", body=body, what="reach the agent")
        stream = await ExecStream.open(self._api, made["Id"])
        try:
            await stream.expect(stage.GREETING)
        except BaseException:
            stream.abort()
            raise
        return stream

    async def _remove_surely(self, sandbox_id: str) -> None:
        """Remove what a failed start left, however often this is cancelled; what cannot be now, `close` removes."""
        known = sandbox_id in self._made
        self._made.add(sandbox_id)
        removal = asyncio.ensure_future(self._remove(sandbox_id))
        await self._let_go(removal)
        with contextlib.suppress(EngineError, asyncio.CancelledError):
            if removal.result() or not known:
                self._made.discard(sandbox_id)

    async def _let_go(self, request: asyncio.Future[Any]) -> None:
        """Wait for a request to end, however often this is cancelled, and end it when the daemon does not answer."""
        deadline = time.monotonic() + self.undo_seconds
        while not request.done() and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([request], timeout=left)
        if not request.done():
            request.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([request])

    # Looking

    async def _find(self, sandbox_id: str) -> dict[str, Any] | None:
        """Inspect a container of this user, None when there is none."""
        await self._open()
        for name in _names(sandbox_id):
            try:
                found: dict[str, Any] = await self._api.request(
                    "GET", f"/containers/{quote(name, safe='')}/json", what="look up a container"
                )
            except ApiError as error:
                if error.status == _NOT_FOUND:
                    continue
                raise
            labels = found["Config"].get("Labels") or {}
            if labels.get(records.USER_LABEL) == records.user_name():
                return found
        return None

    async def _known(self, sandbox_id: str) -> dict[str, Any]:
        container = await self._find(sandbox_id)
        if container is None:
            raise SandboxNotFoundError(f"no sandbox {sandbox_id}", sandbox_id=sandbox_id)
        return container

    async def _describe(self, container: dict[str, Any]) -> SandboxInfo:
        words, complaint = None, ""
        if records.is_over(container["State"]):
            with contextlib.suppress(ApiError):
                words, complaint = await logs.last_words(self._api, container)
        return records.describe(container, words, complaint, machine=self._api.endpoint.machine)

    async def get(self, sandbox_id: str) -> SandboxInfo:
        """Look one sandbox up; see `Engine.get`."""
        return await self._describe(await self._known(sandbox_id))

    async def list(self, query: SandboxQuery) -> AsyncIterator[SandboxInfo]:
        """Iterate over the sandboxes of this user on the daemon; see `Engine.list`."""
        for summary in await self._summaries():
            labels = summary.get("Labels") or {}
            with contextlib.suppress(ValueError, SandboxNotFoundError):  # damaged, or gone meanwhile
                if set(query.tags) <= set(records.read_record(labels)["tags"]):
                    info = await self.get(labels[records.SANDBOX_LABEL])
                    if query.matches(info):
                        yield info

    async def _summaries(self) -> builtins.list[dict[str, Any]]:
        await self._open()
        filters = {"label": [f"{records.USER_LABEL}={records.user_name()}"]}
        found: builtins.list[dict[str, Any]] = await self._api.request(
            "GET", "/containers/json", params={"all": "1", "filters": json.dumps(filters)}, what="list containers"
        )
        return found

    async def watch(self) -> AsyncIterator[SandboxInfo]:
        """Iterate over changes, from the daemon's one stream of events; see `Engine.watch`."""
        await self._open()
        filters = {"label": [f"{records.USER_LABEL}={records.user_name()}"], "type": ["container"]}
        params = {"filters": json.dumps(filters), "since": f"{self._since:.9f}"}
        pieces = self._api.stream("GET", "/events", params=params, what="tell its events")
        async with contextlib.aclosing(parsed(attended(self._api, pieces, self.quiet_seconds))) as events:
            async for event in events:
                self._since, action, sandbox_id = read_event(event)
                if sandbox_id in self._attached and action in {"die", "pause", "unpause"}:
                    with contextlib.suppress(SandboxNotFoundError):  # removed meanwhile, by whoever ended it
                        info = await self.get(sandbox_id)
                        yield info
                        if info.status.is_terminal:
                            await self._retire(sandbox_id)
        raise EngineConnectionError("the Docker daemon ended its stream of events", retryable=True)

    # Ending

    async def stop(self, sandbox_id: str, *, grace_seconds: float, missing_ok: bool = False) -> SandboxInfo | None:
        """End a sandbox; see `Engine.stop`."""
        container = await self._find(sandbox_id)
        if container is None:
            if missing_ok:
                return None
            raise SandboxNotFoundError(f"no sandbox {sandbox_id}", sandbox_id=sandbox_id)
        number = container["Id"]
        if not records.is_over(container["State"]):
            marked = sandbox_id + records.STOPPING_SUFFIX
            if container["Name"] != f"/{marked}":
                await self._gently("POST", f"/containers/{number}/rename", params={"name": marked})
            if container["State"].get("Paused"):
                await self._gently("POST", f"/containers/{number}/unpause")
            if grace_seconds > 0:
                await self._gently("POST", f"/containers/{number}/kill", params={"signal": "SIGTERM"})
                if not await self._ended(number, grace_seconds):  # the agent kills at the second, and says what ended
                    await self._gently("POST", f"/containers/{number}/kill", params={"signal": "SIGTERM"})
                    await self._ended(number, _LAST_WORDS_SECONDS)
            await self._gently("POST", f"/containers/{number}/kill", params={"signal": "SIGKILL"})
            await self._ended(number, _KILL_SECONDS)
        if (native := self._natives.get(sandbox_id)) is not None:
            await native.farewell()
        self._drop_stream(sandbox_id)
        container = await self._find(sandbox_id)
        if container is None:
            return None
        info = await self._describe(container)
        await self._retire(sandbox_id)
        return info

    async def _retire(self, sandbox_id: str) -> None:
        """Keep what an ended sandbox of this object has left, until there are too many of them."""
        if sandbox_id in self._made and sandbox_id not in self._kept:
            self._kept.append(sandbox_id)
        while len(self._kept) > RETAINED:
            await self._remove(self._kept.popleft())

    async def _gently(self, method: str, path: str, **more: Any) -> None:
        """Ask for something that may have been done already, or by somebody else."""
        try:
            await self._api.request(method, path, what="end a container", **more)
        except ApiError as error:
            if error.status not in {_NOT_FOUND, _CONFLICT} and "same name as its current" not in error.said:
                raise

    async def _ended(self, number: str, seconds: float) -> bool:
        """Wait until a container does not run, at most so long, and tell whether it does not."""
        with contextlib.suppress(TimeoutError, ApiError):
            async with asyncio.timeout(seconds):
                await self._api.request(
                    "POST",
                    f"/containers/{number}/wait",
                    params={"condition": "not-running"},
                    what="wait for a container",
                    seconds=seconds + _KILL_SECONDS,
                )
                return True
        return False

    async def delete(self, sandbox_id: str, *, missing_ok: bool = False) -> None:
        """Remove a sandbox, running or not; see `Engine.delete`."""
        if not await self._remove(sandbox_id) and not missing_ok:
            raise SandboxNotFoundError(f"no sandbox {sandbox_id}", sandbox_id=sandbox_id)

    async def _remove(self, sandbox_id: str) -> bool:
        self._drop_stream(sandbox_id)
        container = await self._find(sandbox_id)
        if container is None:
            return False
        await self._gently("DELETE", f"/containers/{container['Id']}", params={"force": "1", "v": "1"})
        self._made.discard(sandbox_id)
        self._attached.discard(sandbox_id)
        return True

    async def prune(self, *, dry_run: bool = False) -> tuple[str, ...]:
        """Remove the containers of this user's sandboxes that have ended, or were never started; see `Engine.prune`."""
        removed = []
        for summary in await self._summaries():
            unstarted = summary["State"] == "created" and summary["Created"] < time.time() - _UNSTARTED_SECONDS
            if unstarted or records.is_over({"Status": summary["State"]}):
                removed.append(summary["Labels"][records.SANDBOX_LABEL])
                if not dry_run:
                    await self._gently("DELETE", f"/containers/{summary['Id']}", params={"force": "1", "v": "1"})
        return tuple(removed)

    # Using

    async def connect(self, sandbox_id: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open a stream to the agent; see `Engine.connect`."""
        stream = self._streams.pop(sandbox_id, None)
        known = self._natives.get(sandbox_id)
        if known is not None and not known.is_ending:
            return known.connect(protocol)
        if stream is None:
            container = await self._known(sandbox_id)
            info = await self._describe(container)
            if info.status.is_terminal:
                if info.exit_reason is ExitReason.LOST:
                    raise SandboxLostError(f"sandbox {sandbox_id} was lost: {info.message}", sandbox_id=sandbox_id)
                raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
            if "native" in records.read_record(container["Config"]["Labels"]):
                return self._connect_natively(sandbox_id, container, protocol)
            try:
                stream = await self._bring(container["Id"])
            except EngineError as error:
                if (await self._describe(await self._known(sandbox_id))).status.is_terminal:
                    raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id) from error
                raise
            self._attached.add(sandbox_id)
            self._since = self._since or time.time() - _CLOCK_MARGIN
        return stream.hand_over(protocol)

    def _connect_natively(
        self, sandbox_id: str, container: dict[str, Any], protocol: asyncio.Protocol
    ) -> asyncio.Transport:
        """Connect to the stand-in for the agent, which lives here."""
        agent = self._natives.get(sandbox_id)
        if agent is None or agent.is_ending:
            agent = self._natives[sandbox_id] = NativeAgent(self._api, container, self._native_done)
            self._attached.add(sandbox_id)
            self._since = self._since or time.time() - _CLOCK_MARGIN
        return agent.connect(protocol)

    def _native_done(self, agent: NativeAgent) -> None:
        if self._natives.get(agent.sandbox_id) is agent:
            del self._natives[agent.sandbox_id]

    async def logs(
        self, sandbox_id: str, *, follow: bool = False, tail_lines: int | None = None, since: float | None = None
    ) -> AsyncIterator[LogRecord]:
        """Iterate over the main command's output; see `Engine.logs`."""
        container = await self._known(sandbox_id)
        async for record in logs.read_logs(self._api, container, follow=follow, tail_lines=tail_lines, since=since):
            yield record

    async def extend(self, sandbox_id: str, seconds: float) -> SandboxInfo:
        """Let a sandbox live longer; see `Engine.extend`."""
        container = await self._known(sandbox_id)
        info = await self._describe(container)
        if info.status.is_terminal:
            raise SandboxNotRunningError(f"sandbox {sandbox_id} has ended", sandbox_id=sandbox_id)
        native_plan.check_lifetime(container)
        channel = Channel(lambda protocol: self._second_stream(sandbox_id, protocol), sandbox_id=sandbox_id)
        try:
            await channel.open(_OPEN_SECONDS)
            await channel.extend(seconds)
        finally:
            await channel.close()
        return info

    async def _second_stream(self, sandbox_id: str, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open one beside the first, which may still wait for its client."""
        first = self._streams.pop(sandbox_id, None)
        try:
            return await self.connect(sandbox_id, protocol)
        finally:
            if first is not None:
                self._streams[sandbox_id] = first

    # Letting go

    def _drop_stream(self, sandbox_id: str) -> None:
        stream = self._streams.pop(sandbox_id, None)
        if stream is not None:
            stream.abort()
        native = self._natives.pop(sandbox_id, None)
        if native is not None:
            native.close()

    async def close(self) -> None:
        """Remove the attached sandboxes that this object made and let the daemon go; see `Engine.close`."""
        if self._closed:
            return
        if self._made:
            await asyncio.gather(*map(self._remove, list(self._made)), return_exceptions=True)
        self._closed = True
        for sandbox_id in [*self._streams, *self._natives]:
            self._drop_stream(sandbox_id)
        await self._api.close()

    def stop_all_at_exit(self, seconds: float) -> tuple[str, ...]:
        """Remove attached sandboxes without a loop; see `Engine.stop_all_at_exit`."""
        names = {name: sandbox_id for sandbox_id in sorted(self._made) for name in _names(sandbox_id)}
        left = exits.remove_all(self._api.endpoint, self._api.path(""), tuple(names), seconds)
        return tuple(dict.fromkeys(names[name] for name in left))

    def forget_after_fork(self) -> None:
        """Leave the parent's connections alone in a forked child; see `Engine.forget_after_fork`."""
        self._made.clear()
        self._streams.clear()
        self._natives.clear()
        self._closed = True


def _names(sandbox_id: str) -> tuple[str, str]:
    """Return what a sandbox's container may be called."""
    return sandbox_id, sandbox_id + records.STOPPING_SUFFIX
