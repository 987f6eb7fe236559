"""What the core keeps for each event loop: its engines, and the sandboxes that handles point at."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Any

from aviato import settings
from aviato.aio import _cleanup
from aviato.engines import open_engine
from aviato.engines.base import Engine
from aviato.exceptions import ConfigurationError, EngineError

if TYPE_CHECKING:
    from aviato.aio._life import Life

_ATTRIBUTE = "_aviato_loop_state"
_RETRY_SECONDS = 0.5
_log = logging.getLogger("aviato")


class EngineLink:
    """One engine on one loop: the lives of its sandboxes, and the one watch that serves them all."""

    def __init__(self, engine: Engine, *, owned: bool) -> None:
        self.engine = engine
        self.owned = owned
        self.lives: weakref.WeakValueDictionary[str, Life] = weakref.WeakValueDictionary()
        self._following: set[str] = set()
        self._watch: asyncio.Task[None] | None = None

    def follow(self, sandbox_id: str) -> None:
        """Watch while this sandbox lives."""
        self._following.add(sandbox_id)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._run_watch(), name="aviato-watch")

    def unfollow(self, sandbox_id: str) -> None:
        """Stop watching when the last sandbox has ended, so that an idle program has no task of ours."""
        self._following.discard(sandbox_id)
        if not self._following and self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def _run_watch(self) -> None:
        while True:
            try:
                async with contextlib.aclosing(_generator(self.engine.watch())) as changes:
                    async for info in changes:
                        life = self.lives.get(info.sandbox_id)
                        if life is not None:
                            life.observe(info)
                        elif info.status.is_terminal:
                            self.unfollow(info.sandbox_id)
            except EngineError as error:
                _log.warning("watching %s sandboxes was interrupted: %s", self.engine.name, error)
            await asyncio.sleep(_RETRY_SECONDS)  # a watch that ends is opened again, but not in a tight circle
            for life in list(self.lives.values()):
                with contextlib.suppress(EngineError):
                    await life.refresh()

    async def close(self) -> None:
        """Stop watching and close the engine when it was opened here."""
        watch, self._watch = self._watch, None
        self._following.clear()
        if watch is not None:
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)
        if self.owned:
            await self.engine.close()
            _cleanup.forget_engine(self.engine)


def _generator(iterator: Any) -> AsyncGenerator[Any, None]:
    if hasattr(iterator, "aclose"):
        return iterator  # type: ignore[no-any-return]  # an async generator, which is what engines write

    async def wrap() -> AsyncGenerator[Any, None]:
        async for item in iterator:
            yield item

    return wrap()


class LoopState:
    """The engines of one loop; they are closed when the loop shuts its asynchronous generators down."""

    def __init__(self) -> None:
        self._links: dict[object, EngineLink] = {}
        self._guard: AsyncGenerator[None, None] | None = None
        self._configured: tuple[str, str] | None = None

    def configured(self) -> tuple[str, str]:
        """Return the engine that environment and file name and where it stands, read once a loop.

        Raises:
            ConfigurationError: A setting has a bad value.
        """
        if self._configured is None:
            found = settings.load_settings()
            name = "base_url" if found.base_url else "engine"
            self._configured = found.base_url or found.engine, found.sources[name]
        return self._configured

    def link(self, engine: Engine | str, source: str = "") -> EngineLink:
        """Return the link to this engine, opened at the first call; `source` is where its name came from.

        Raises:
            ConfigurationError: No engine has this name.
            EngineError: It cannot be opened.
        """
        key: object = id(engine) if isinstance(engine, Engine) else engine
        link = self._links.get(key)
        if link is None:
            owned = not isinstance(engine, Engine)
            opened = open_engine(engine, source=source) if isinstance(engine, str) else engine
            link = self._links[key] = EngineLink(opened, owned=owned)
            _cleanup.remember_engine(opened)
        return link

    async def guard(self) -> None:
        """Arrange for `close` at the loop's end; `asyncio.run` and its like shut asynchronous generators down."""
        if self._guard is None:
            self._guard = self._close_at_the_end()
            await self._guard.__anext__()

    async def _close_at_the_end(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await self.close()

    async def close(self) -> None:
        """Close every engine that was opened here."""
        links, self._links = list(self._links.values()), {}
        await asyncio.gather(*(link.close() for link in links))


def loop_state() -> LoopState:
    """Return the running loop's state.

    It is kept on the loop itself, so that both are collected together.

    Raises:
        RuntimeError: No loop is running.
    """
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        raise RuntimeError(
            "aviato.aio needs a running event loop; call it from a coroutine, or use `import aviato` in plain code"
        ) from None
    state: LoopState | None = getattr(loop, _ATTRIBUTE, None)
    if state is None:
        state = LoopState()
        setattr(loop, _ATTRIBUTE, state)
    return state


def engine_link(engine: Any, base_url: str | None) -> EngineLink:
    """Find the engine that a configuration asks for: keyword, environment, file, then `local`.

    Raises:
        TypeError: `engine` is neither a name nor an engine.
        ConfigurationError: No engine has this name.
    """
    source = ""
    if engine is None and base_url is not None:
        engine, source = base_url, "keyword base_url"
    if engine is None:
        engine, source = loop_state().configured()
    if not isinstance(engine, (str, Engine)):
        raise TypeError(f'engine must be a name such as "local", a URL or an Engine object, not {engine!r}')
    if engine == "":
        raise ConfigurationError('engine must not be empty; use "local"')
    return loop_state().link(engine, source)


async def open_link(engine: Any, base_url: str | None) -> EngineLink:
    """Find the engine as `engine_link` does, for a request without a sandbox, and see to it that it will be closed.

    Raises:
        TypeError: `engine` is neither a name nor an engine.
        ConfigurationError: No engine has this name.
    """
    link = engine_link(engine, base_url)
    await loop_state().guard()
    return link
