"""Requests to the daemon's HTTP API (https://docs.docker.com/reference/api/engine/), versions 1.41 and later.

aiohttp is used as it is: what the engine needs is a dozen requests, one of which takes the connection over, and every
one of which needs a deadline and an error of ours.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import json
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aviato.engines.docker import ssh
from aviato.engines.docker.endpoint import Endpoint
from aviato.exceptions import EngineConnectionError, EngineError, EngineProtocolError, EngineResponseError, Outcome

if TYPE_CHECKING:
    import aiohttp

OLDEST = (1, 41)
REQUEST_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_LARGEST_ANSWER = 64 << 20
_LONGEST_SAMPLE = 120


class ApiError(EngineResponseError):
    """The daemon answered with an error."""

    def __init__(self, status: int, message: str, what: str) -> None:
        super().__init__(f"the Docker daemon could not {what}: {message} (HTTP {status})", status=status)
        self.said = message


class Api:
    """One daemon, from one event loop."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self.seconds = REQUEST_SECONDS
        self.version: dict[str, Any] = {}
        self._prefix = ""
        self._session: aiohttp.ClientSession | None = None
        self._proxy: ssh.Proxy | None = None
        self._opening: asyncio.Lock = asyncio.Lock()

    async def open(self) -> None:
        """Connect for the first time and agree on a version; later calls do nothing.

        Raises:
            ConfigurationError: Certificates cannot be read.
            EngineConnectionError: The daemon cannot be reached.
            EngineProtocolError: What is there is no Docker daemon, or wants TLS.
            EngineError: It is too old.
        """
        async with self._opening:
            if self._prefix:
                return
            if self._session is None:
                self._session = await self._make_session()
            self.version = await self._ask_version()
            newest = _number(self.version.get("ApiVersion"))
            if newest < OLDEST:
                raise EngineError(
                    f"the Docker daemon at {self.endpoint} speaks API {self.version.get('ApiVersion')}, "
                    f"and 1.41 is needed",
                    hint="Upgrade it to Docker 20.10 or Podman 4, or later.",
                )
            used = max(OLDEST, _number(self.version.get("MinAPIVersion")))
            self._prefix = f"/v{used[0]}.{used[1]}"

    async def _ask_version(self) -> dict[str, Any]:
        what = "tell its version"
        try:
            found = await self.request("GET", "/version", what=what)
        except ApiError as error:
            if "HTTPS server" not in error.said:
                raise
            raise EngineProtocolError(
                f"the Docker daemon at {self.endpoint} speaks TLS: {error.said}",
                hint="Set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to the directory with its certificates.",
            ) from error
        if isinstance(found, dict) and "ApiVersion" in found:
            return found
        raise self._no_daemon(what, found)

    def _no_daemon(self, what: str, found: object) -> EngineProtocolError:
        return EngineProtocolError(
            f"what answers at {self._place()} is no Docker daemon: asked to {what}, it sent {_short(found)}",
            hint="See `docker context ls` and DOCKER_HOST, or what a proxy in between does.",
        )

    def _place(self) -> str:
        """Say where the daemon should be, and who says so."""
        return f"{self.endpoint}, found in {self.endpoint.source}," if self.endpoint.source else str(self.endpoint)

    async def _make_session(self) -> aiohttp.ClientSession:
        import aiohttp  # noqa: PLC0415 - only who uses Docker pays for it

        if self.endpoint.kind == "ssh":
            self._proxy = await ssh.Proxy.start(self.endpoint)
        if path := self._socket_path():
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path, limit=0, force_close=True)
        else:
            connector = aiohttp.TCPConnector(limit=0, ssl=self.endpoint.ssl_context() or False)
        return aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=True)

    def _socket_path(self) -> str | None:
        if self.endpoint.kind == "unix":
            return self.endpoint.address
        return None if self._proxy is None else self._proxy.path

    def path(self, path: str) -> str:
        """Return a request's path with the version that was agreed on."""
        return self._prefix + path

    def _url(self, path: str) -> str:
        if self._socket_path() is not None:
            return f"http://docker{self.path(path)}"
        scheme = "http" if self.endpoint.tls is None else "https"
        return f"{scheme}://{self.endpoint.authority}{self.path(path)}"

    async def request(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        data: bytes | AsyncIterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        seconds: float | None = None,
    ) -> Any:
        """Ask, and return the answer: JSON, bytes if it is none, None if it is empty.

        Raises:
            ApiError: The daemon answered with an error; `what` says what it was asked to do.
            EngineProtocolError: It answered with something else than it says, or with too much.
            EngineConnectionError: It cannot be reached, or did not answer in `seconds`; `outcome` says whether it may
                have done what it was asked for.
        """
        seconds = self.seconds if seconds is None else seconds
        content_file = io.BytesIO(data) if isinstance(data, bytes) else data  # sent piece by piece
        with self._explained(what, seconds):
            async with await self._send(
                method, path, what, seconds, params=params, json=body, data=content_file, headers=headers
            ) as response:
                content = await _read_all(response)
        if not content:
            return None
        if response.content_type != "application/json":
            return content
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._no_daemon(what, content) from error

    async def head(self, path: str, *, what: str, params: Mapping[str, str] | None = None) -> Mapping[str, str]:
        """Ask for the headers of an answer only.

        Raises:
            ApiError: The daemon answered with an error.
            EngineConnectionError: It cannot be reached, or did not answer in time.
        """
        with self._explained(what, REQUEST_SECONDS):
            async with await self._send("HEAD", path, what, REQUEST_SECONDS, params=params) as response:
                return response.headers

    async def stream(
        self,
        method: str,
        path: str,
        *,
        what: str,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        data: AsyncIterable[bytes] | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Ask, and iterate over the answer as it comes, without an end to wait for; what `data` raises goes through.

        Raises:
            ApiError: The daemon answered with an error.
            EngineConnectionError: It cannot be reached, or the connection broke.
        """
        with self._explained(what, None):
            async with await self._send(
                method, path, what, None, params=params, headers=headers, data=data
            ) as response:
                async for piece in response.content.iter_any():
                    yield piece

    async def _send(
        self, method: str, path: str, what: str, seconds: float | None, **more: Any
    ) -> aiohttp.ClientResponse:
        import aiohttp  # noqa: PLC0415 - loaded long ago

        if self._session is None:
            raise EngineError("the connection to the Docker daemon is closed")
        timeout = aiohttp.ClientTimeout(total=seconds, sock_connect=_CONNECT_SECONDS)
        response = await self._session.request(method, self._url(path), timeout=timeout, **more)
        if response.status >= 400:  # noqa: PLR2004 - where HTTP's errors begin
            transport = response.connection.transport if response.connection is not None else None
            async with response:
                said = error_text(await _read_all(response))
            if transport is not None and transport.get_write_buffer_size():
                transport.abort()  # the daemon does not read the rest of the request, and to close would wait for that
            raise ApiError(response.status, said, what)
        return response

    @contextlib.contextmanager
    def _explained(self, what: str, seconds: float | None) -> Iterator[None]:
        """Turn what goes wrong between here and the daemon into errors of ours."""
        import aiohttp  # noqa: PLC0415 - loaded long ago

        try:
            yield
        except EngineError:
            raise
        except TimeoutError as error:
            raise EngineConnectionError(
                f"the Docker daemon at {self.endpoint} did not {what} within {seconds or _CONNECT_SECONDS:g} s",
                outcome=Outcome.UNKNOWN,
                retryable=True,
            ) from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error, what) from error

    def _unreachable(self, error: BaseException, what: str) -> EngineConnectionError:
        import aiohttp  # noqa: PLC0415 - loaded long ago

        unsent = isinstance(error, (aiohttp.ClientConnectorError, FileNotFoundError, ConnectionRefusedError))
        complaint = self._proxy.complaint if self._proxy is not None else ""
        text = complaint or str(error) or type(error).__name__
        daemon = f"the Docker daemon at {self._place()}"
        return EngineConnectionError(
            f"{daemon} cannot be reached to {what}: {text}"
            if unsent or complaint
            else f"{daemon} did not {what}, for the connection broke: {text}",
            hint=self._hint(error, unsent=unsent),
            retryable=True,
            outcome=Outcome.NOT_APPLIED if unsent else Outcome.UNKNOWN,
        )

    def _hint(self, error: BaseException, *, unsent: bool) -> str:
        """Say what to look at next."""
        import ssl  # noqa: PLC0415 - only who meets an error needs it

        cause = getattr(error, "os_error", None) or error
        version = f"`docker --host {self.endpoint} version`"
        hints = {
            errno.EACCES: "Join the group `docker` (usermod -aG docker USER, log in again), "
            "or use rootless Docker or Podman.",
            errno.ENOENT: "Is it running, and there? See `docker context ls`, DOCKER_HOST, "
            "or `systemctl start docker`.",
        }
        hint = "Is it running? systemctl start docker"
        if self.endpoint.kind == "ssh":
            hint = f"See what {version} says."
        elif isinstance(cause, ssl.SSLError):
            hint = "Does it speak TLS there? For certificates of your own: DOCKER_TLS_VERIFY=1 and DOCKER_CERT_PATH."
        elif found := hints.get(getattr(cause, "errno", None) or 0):
            hint = found
        elif not unsent and self.endpoint.tls is not None:
            hint = f"Does it accept the certificate in DOCKER_CERT_PATH ({self.endpoint.tls or 'none'})? See {version}."
        elif not unsent:
            hint = f"Is it a Docker daemon, and does it run? See {version}, and its log: journalctl -u docker"
        elif self.endpoint.kind == "tcp":
            hint = f"Does it run there, and listen on this port? See {version}."
        return hint

    async def raw_connection(self, protocol: asyncio.Protocol) -> asyncio.Transport:
        """Open a connection for a request that takes it over.

        Raises:
            EngineConnectionError: The daemon cannot be reached.
        """
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if path := self._socket_path():
                    transport, _ = await loop.create_unix_connection(lambda: protocol, path)
                    return transport
                address, port = self.endpoint.address, self.endpoint.port or 0
                tls = self.endpoint.ssl_context()
                made, _ = await loop.create_connection(lambda: protocol, address, port, ssl=tls)
                return made
        except (OSError, TimeoutError) as error:
            if isinstance(error, EngineError):
                raise
            raise self._unreachable(error, "open a stream") from error

    async def close(self) -> None:
        """Let all connections go."""
        session, self._session = self._session, None
        proxy, self._proxy = self._proxy, None
        if session is not None:
            await session.close()
            await asyncio.sleep(0)  # its transports close in the loop's next turn
        if proxy is not None:
            await proxy.close()


async def _read_all(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > _LARGEST_ANSWER:
            raise EngineProtocolError(f"the Docker daemon's answer has more than {_LARGEST_ANSWER >> 20} MiB")
    return b"".join(pieces)


def _short(found: object) -> str:
    text = repr(found)
    return text if len(text) <= _LONGEST_SAMPLE else text[:_LONGEST_SAMPLE] + "..."


def _number(version: object) -> tuple[int, ...]:
    parts = str(version or "0").split(".")
    return tuple(int(part) for part in parts if part.isdigit())


def error_text(content: bytes) -> str:
    """Return what the daemon says in the body of an error."""
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        return str(json.loads(content)["message"]).strip()
    return content.decode("utf-8", "replace").strip() or "it gave no reason"
