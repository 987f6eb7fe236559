"""Settings: keyword, then environment, then configuration file, then default; one table says them all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import attrs

from aviato.exceptions import ConfigurationError

__all__ = ["Settings", "home", "load_settings"]


@attrs.frozen(kw_only=True)
class Settings:
    """What was found, and where.

    Attributes:
        engine: Engine by name or URL.
        base_url: URL of a gateway, which wins over `engine`, or None.
        api_key: Key for the gateway, or None; never shown in a repr.
        home: Directory of the local engine's state.
        profile: Name of the profile in the configuration file, or None.
        disable_signal_handlers: Leave SIGTERM and SIGHUP alone.
        sources: For each of these where its value came from.
    """

    engine: str
    base_url: str | None
    api_key: str | None = attrs.field(repr=False)
    home: str
    profile: str | None
    disable_signal_handlers: bool
    sources: Mapping[str, str] = attrs.field(repr=False)


# name: environment variable, kind
_TABLE = {
    "engine": ("AVIATO_ENGINE", str),
    "base_url": ("AVIATO_BASE_URL", str),
    "api_key": ("AVIATO_API_KEY", str),
    "home": ("AVIATO_HOME", str),
    "profile": ("AVIATO_PROFILE", str),
    "disable_signal_handlers": ("AVIATO_DISABLE_SIGNAL_HANDLERS", bool),
}
_FLAGS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


def _default_home() -> str:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")  # noqa: PTH111 - a string is wanted
    return f"{state}/aviato"


def config_path() -> str:
    """Return the path of the configuration file, which need not exist."""
    folder = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")  # noqa: PTH111 - a string is wanted
    return f"{folder}/aviato/config.toml"


def home() -> str:
    """Return the directory of the local engine's state; it is not made.

    Raises:
        ConfigurationError: The configuration file is faulty.
    """
    return load_settings().home


def load_settings(**keywords: Any) -> Settings:
    """Find every setting.

    Args:
        keywords: Settings by name; None stands for one that was not given.

    Raises:
        TypeError: A keyword is unknown.
        ConfigurationError: A value is bad; the message names it and where it came from.
    """
    for name in keywords:
        if name not in _TABLE:
            raise TypeError(f"load_settings got an unknown keyword {name!r}; known: {', '.join(_TABLE)}")
    found: dict[str, Any] = dict.fromkeys(_TABLE)
    found.update(engine="local", home=_default_home(), disable_signal_handlers=False)
    sources = dict.fromkeys(_TABLE, "default")
    profile = keywords.get("profile") or os.environ.get("AVIATO_PROFILE") or None
    for name, (value, source) in _from_file(profile).items():
        found[name], sources[name] = _check(name, value, source), source
    for name, (variable, _) in _TABLE.items():
        if text := os.environ.get(variable):
            source = f"environment variable {variable}"
            found[name], sources[name] = _check(name, text, source), source
    for name, value in keywords.items():
        if value is not None:
            found[name], sources[name] = _check(name, value, f"keyword {name}"), f"keyword {name}"
    return Settings(**found, sources=sources)


def _check(name: str, value: Any, source: str) -> Any:
    kind = _TABLE[name][1]
    if kind is bool and isinstance(value, str):
        if value.strip().lower() not in _FLAGS:
            raise ConfigurationError(f"{source}: {name} must be one of {', '.join(_FLAGS)}, got {value!r}")
        return _FLAGS[value.strip().lower()]
    if not isinstance(value, kind):
        raise ConfigurationError(f"{source}: {name} must be a {kind.__name__}, got {value!r}")
    if name == "home":
        path = os.path.expanduser(str(value))  # noqa: PTH111 - a string is wanted
        if not os.path.isabs(path):  # noqa: PTH117 - likewise
            raise ConfigurationError(f"{source}: home must be an absolute path, got {value!r}")
        return path
    return value


def _from_file(profile: str | None) -> dict[str, tuple[Any, str]]:
    path = config_path()
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a string is at hand
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        if profile is not None:
            raise ConfigurationError(f"profile {profile!r} was asked for, but there is no {path}") from None
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    import tomllib  # noqa: PLC0415 - most machines have no such file

    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not TOML: {error}") from error
    profiles = document.pop("profile", {})
    if isinstance(profiles, str):
        profile, profiles = profile or profiles, {}
    found = _named(document, path)
    if profile is not None:
        if not isinstance(profiles, dict) or not isinstance(profiles.get(profile), dict):
            raise ConfigurationError(f"{path} has no table [profile.{profile}]")
        found.update(_named(profiles[profile], f"{path} [profile.{profile}]"))
    return found


def _named(table: Mapping[str, Any], source: str) -> dict[str, tuple[Any, str]]:
    for key in table:
        if key not in _TABLE or key == "profile":
            known = ", ".join(name for name in _TABLE if name != "profile")
            raise ConfigurationError(f"{source} has an unknown key {key!r}; known: {known}")
    return {key: (value, source) for key, value in table.items()}
