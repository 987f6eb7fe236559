"""Where the daemon is: found as the docker command finds it, then where Podman and rootless Docker put theirs."""

from __future__ import annotations

import hashlib
import json
import os
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from aviato.exceptions import ConfigurationError

_DEFAULT_SOCKET = "/var/run/docker.sock"
_PORTS = {False: 2375, True: 2376}


@attrs.frozen
class Endpoint:
    """One daemon's address.

    Attributes:
        kind: `"unix"`, `"tcp"` or `"ssh"`.
        address: Path of the socket, host name, or `[user@]host` for ssh.
        port: Of tcp, or of ssh where one is given.
        tls: Directory with `ca.pem`, `cert.pem` and `key.pem`; None: no TLS.
        verify: False where a context says that the server's certificate is not to be verified.
        source: Where it was found, for errors.
    """

    kind: str
    address: str
    port: int | None = None
    tls: str | None = None
    verify: bool = True
    source: str = ""

    def __str__(self) -> str:
        """Show it as `DOCKER_HOST` has it."""
        return f"{self.kind}://{self.authority}"

    @property
    def authority(self) -> str:
        """What stands between scheme and path of its URL; of a socket, its path."""
        address = f"[{self.address}]" if self.kind == "tcp" and ":" in self.address else self.address
        return address if self.port is None else f"{address}:{self.port}"

    @property
    def machine(self) -> str:
        """Name or address of the machine that the daemon runs on, as it is reached from here."""
        return "127.0.0.1" if self.kind == "unix" else self.address.rpartition("@")[2]

    def ssl_context(self) -> ssl.SSLContext | None:
        """Make the TLS settings.

        Raises:
            ConfigurationError: The certificates cannot be read.
        """
        if self.tls is None:
            return None
        folder = Path(self.tls) if self.tls else None  # none: an https:// address, and the machine's authorities
        try:
            if folder is not None and self.verify and not folder.is_dir():
                raise NotADirectoryError("there is no such directory")
            authority = None if folder is None else folder / "ca.pem"
            context = ssl.create_default_context(cafile=str(authority) if authority and authority.exists() else None)
            if not self.verify:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if folder is not None and (folder / "cert.pem").exists():
                context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        except OSError as error:
            raise ConfigurationError(
                f"the certificates of {self} in {folder} cannot be used: {error}",
                hint="DOCKER_CERT_PATH must be a directory with ca.pem, cert.pem and key.pem.",
            ) from error
        return context


def find_endpoint(environment: Mapping[str, str] | None = None) -> Endpoint:
    """Find the daemon: `DOCKER_HOST`, `DOCKER_CONTEXT`, the current context, a socket in one of the usual places.

    Raises:
        ConfigurationError: A setting has a bad value, or names a context that is not there.
    """
    environment = os.environ if environment is None else environment
    config = Path(environment.get("DOCKER_CONFIG") or Path(environment.get("HOME", "/")) / ".docker")
    if host := environment.get("DOCKER_HOST"):
        tls = environment.get("DOCKER_CERT_PATH") or str(config) if environment.get("DOCKER_TLS_VERIFY") else None
        return parse_host(host, "DOCKER_HOST", tls=tls)
    name, source = environment.get("DOCKER_CONTEXT"), "DOCKER_CONTEXT"
    if not name:
        name, source = _read_json(config / "config.json").get("currentContext"), f"{config}/config.json"
    if name and name != "default":
        return _of_context(config, str(name), source)
    runtime = environment.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    places = [_DEFAULT_SOCKET, f"{runtime}/docker.sock", f"{runtime}/podman/podman.sock", "/run/podman/podman.sock"]
    found = next((place for place in places if os.access(place, os.W_OK)), _DEFAULT_SOCKET)
    return Endpoint("unix", found, source="the usual places")


def parse_host(host: str, source: str, *, tls: str | None = None, verify: bool = True) -> Endpoint:
    """Read an address as `DOCKER_HOST` has it.

    Raises:
        ConfigurationError: It is none, or of a kind that only Windows has.
    """
    problem = ConfigurationError(
        f"{source} must be unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST, got {host!r}",
        hint="For example: export DOCKER_HOST=unix:///var/run/docker.sock",
    )
    kind, separator, rest = host.partition("://")
    if kind == "unix" and separator and rest.startswith("/"):
        return Endpoint("unix", rest, source=source)
    if kind not in {"tcp", "ssh", "http", "https"} or not separator:
        raise problem
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname, parts.port
    except ValueError:
        raise problem from None
    if not name or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise problem
    if kind == "ssh":
        if parts.password is not None:
            raise ConfigurationError(
                f"{source} must not hold a password, which ssh does not take; got ssh://{parts.username}:...@{name}",
                hint=f"Use a key: ssh-copy-id {parts.username}@{name}",
            )
        if name.startswith("-") or (parts.username or "").startswith("-"):
            raise problem  # it would be an option of the ssh command
        name = _as_written(name, parts.netloc)
        return Endpoint("ssh", f"{parts.username}@{name}" if parts.username else name, port, source=source)
    if "@" in parts.netloc:
        raise problem  # a daemon has no users
    if kind == "https" and tls is None:
        tls = ""
    return Endpoint("tcp", name, port or _PORTS[tls is not None], tls, verify, source)


def _as_written(name: str, netloc: str) -> str:
    """Undo the lower case of a host's name: those in ~/.ssh/config may have capitals, and ssh tells them apart."""
    at = netloc.lower().rindex(name)
    return netloc[at : at + len(name)]


def _of_context(config: Path, name: str, source: str) -> Endpoint:
    number = hashlib.sha256(name.encode()).hexdigest()
    told = _read_json(config / "contexts" / "meta" / number / "meta.json")
    endpoint = told.get("Endpoints", {}).get("docker") or {}
    if not endpoint.get("Host"):
        raise ConfigurationError(
            f"{source} names the docker context {name!r}, which is not in {config}/contexts",
            hint="See `docker context ls`, or set DOCKER_HOST.",
        )
    tls = config / "contexts" / "tls" / number / "docker"
    skip = bool(endpoint.get("SkipTLSVerify"))
    return parse_host(
        endpoint["Host"], f"context {name}", tls=str(tls) if tls.is_dir() or skip else None, verify=not skip
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {error}", hint="Repair or remove it.") from error
    return found if isinstance(found, dict) else {}
