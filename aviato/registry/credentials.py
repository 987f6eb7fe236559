"""The user's logins at registries, found where the docker command keeps them.

`DOCKER_CONFIG` or `~/.docker` holds `config.json`; in it, `credHelpers` names a program for one registry, `credsStore`
one for all others, and `auths` has what was stored without a program.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from pathlib import Path
from typing import Any

import attrs

from aviato.exceptions import ConfigurationError
from aviato.registry import helper
from aviato.registry.names import DOCKER_HUB

_HUB_KEY = "https://index.docker.io/v1/"
_HUB_NAMES = ("index.docker.io", DOCKER_HUB, "registry-1.docker.io")
_TOKEN_USER = "<token>"  # noqa: S105 - what helpers say in place of a name
_LARGEST = 4 << 20
_HELPER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}\Z")


@attrs.frozen
class Credentials:
    """A login.

    Attributes:
        username: Name, or empty when there is only an identity token.
        password: Password; never shown in a repr.
        identity_token: Is exchanged for access tokens in place of a password, or empty; never shown in a repr.
    """

    username: str = ""
    password: str = attrs.field(default="", repr=False)
    identity_token: str = attrs.field(default="", repr=False)


def find(registry: str) -> Credentials | None:
    """Find the user's login at a registry, or None when there is none. Blocks while a helper program runs.

    Args:
        registry: Such as `ghcr.io` or `localhost:5000`; Docker Hub is `docker.io`.

    Raises:
        ConfigurationError: Docker's `config.json` cannot be read or is malformed.
        AviatoAuthenticationError: The helper program that it names is missing, failed or took too long.
    """
    path = config_path()
    config = _read(path)
    key = _HUB_KEY if registry in _HUB_NAMES else registry
    name = _program(config, registry, key, path)
    if name is not None:
        found = _ask(name, key)
        if found is not None:
            return found
    return _stored(config, registry, path)


def config_path() -> Path:
    """Return the path of Docker's configuration, which need not exist."""
    folder = os.environ.get("DOCKER_CONFIG")
    return (Path(folder) if folder else Path("~/.docker").expanduser()) / "config.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(_LARGEST + 1)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ConfigurationError(f"{path} cannot be read: {error.strerror}") from error
    if len(data) > _LARGEST:
        raise ConfigurationError(f"{path} has more than {_LARGEST} bytes: it is not a configuration of Docker")
    try:
        config = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"{path} is not JSON: {error}") from error
    return _section(config, str(path))


def _section(value: object, what: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ConfigurationError(f"{what} must be a JSON object, got {type(value).__name__}")
    return value


def _program(config: dict[str, Any], registry: str, key: str, path: Path) -> str | None:
    programs = _section(config.get("credHelpers"), f"{path}: credHelpers")
    names = _HUB_NAMES if key == _HUB_KEY else (registry,)
    name = next((programs[known] for known in (key, *names) if known in programs), None) or config.get("credsStore")
    if not name:
        return None
    if not isinstance(name, str) or not _HELPER.match(name):
        raise ConfigurationError(
            f"{path}: a credential helper must be the end of a program's name, such as 'pass', got {name!r}"
        )
    return name


def _ask(name: str, key: str) -> Credentials | None:
    answer = helper.get(name, key)
    if answer is None:
        return None
    user, secret = answer
    return Credentials(identity_token=secret) if user == _TOKEN_USER else Credentials(user, secret)


def _stored(config: dict[str, Any], registry: str, path: Path) -> Credentials | None:
    logins = _section(config.get("auths"), f"{path}: auths")
    names = (_HUB_KEY, *_HUB_NAMES) if registry in _HUB_NAMES else (registry,)
    keys = [key for key in names if key in logins]
    keys += [key for key in logins if key not in keys and _host_of(key) in names]
    for key in keys:
        found = _login(_section(logins[key], f"{path}: auths[{key!r}]"), f"{path}: auths[{key!r}]")
        if found is not None:
            return found
    return None


def _host_of(key: str) -> str:
    return re.sub(r"\Ahttps?://", "", key).partition("/")[0]


def _login(entry: dict[str, Any], where: str) -> Credentials | None:
    fields = {name: entry.get(name) or "" for name in ("auth", "username", "password", "identitytoken")}
    for name, value in fields.items():
        if not isinstance(value, str):
            raise ConfigurationError(f"{where}: {name} must be a string, got {type(value).__name__}")
    user, password = fields["username"], fields["password"]
    if fields["auth"]:
        try:
            text = base64.b64decode(fields["auth"], validate=True).decode()
        except (binascii.Error, UnicodeDecodeError) as error:
            raise ConfigurationError(f"{where}: auth is not base64 of NAME:PASSWORD; log in again") from error
        user, colon, password = text.partition(":")
        if not colon:
            raise ConfigurationError(f"{where}: auth is not base64 of NAME:PASSWORD; log in again")
        password = password.rstrip("\0")
    if not user and not fields["identitytoken"]:
        return None
    return Credentials(user, password, fields["identitytoken"])


def login_hint(registry: str) -> str:
    """Return what a user does to be let in."""
    return f"docker login{'' if registry == DOCKER_HUB else ' ' + registry}   (stores the login in {config_path()})"
