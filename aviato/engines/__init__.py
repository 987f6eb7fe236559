"""Engines by name; each is imported when it is first asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from aviato.exceptions import ConfigurationError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from aviato.engines.base import Engine

BUILTIN = ("local", "docker")


def open_engine(name: str, *, source: str = "") -> Engine:
    """Make the engine of this name for the running event loop.

    Args:
        name: `"local"`, `"docker"`, or the name of an engine that an installed package offers as an entry point of the
            group `aviato.engines`.
        source: Where the name came from, for the error's text.

    Raises:
        ConfigurationError: No engine has this name.
        EngineError: The engine cannot be opened here; nothing is started yet.
    """
    if name == "local":
        from aviato.engines.local.engine import LocalEngine  # noqa: PLC0415 - only who uses it pays for it

        return LocalEngine()
    if name == "docker":
        from aviato.engines.docker.engine import DockerEngine  # noqa: PLC0415 - likewise

        return DockerEngine()
    (entry,) = _offered(name) or _unknown(name, source)
    engine: Engine = entry.load()()
    return engine


def check_name(name: str) -> None:
    """See that there is an engine of this name, without opening it.

    Raises:
        ConfigurationError: There is none.
    """
    if name not in BUILTIN and not _offered(name):
        _unknown(name, "")


def _offered(name: str) -> tuple[EntryPoint, ...]:
    """Return the engine that an installed package offers by this name, if one does."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - only who uses such an engine pays for it

    return tuple(entry_points(group="aviato.engines", name=name))[:1]


def _unknown(name: str, source: str) -> NoReturn:
    from importlib.metadata import entry_points  # noqa: PLC0415 - likewise

    others = sorted({entry.name for entry in entry_points(group="aviato.engines")} - set(BUILTIN))
    raise ConfigurationError(
        f"{source}{': ' if source else ''}engine must be one of {', '.join([*BUILTIN, *others])}, got {name!r}",
        hint="Kubernetes and gateway URLs are not in this release." if name in _PLANNED or "://" in name else None,
    )


_PLANNED = ("kubernetes",)
