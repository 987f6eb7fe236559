"""Carries requests to a registry: the right scheme, redirects without secrets, retries, and errors that say why."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import urllib.request
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

from aviato.exceptions import EngineConnectionError, EngineError, EngineProtocolError, EngineResponseError, Outcome
from aviato.registry.names import Reference, is_loopback
from aviato.registry.retries import RETRIED, Retries

if TYPE_CHECKING:
    import aiohttp

_CONNECT = 15.0
_SILENCE = 60.0
_DOCUMENT = 120.0
_MOST_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_LARGEST_ANSWER = 1 << 20
_PRINTABLE = re.compile(r"[\x21-\x7e]{1,16384}\Z")
_CERTIFICATES = (Path("/etc/docker/certs.d"), Path("~/.config/docker/certs.d"))


class Transport:
    """The connections of one pull.

    Args:
        reference: What is pulled.
        retries: How to repeat what failed.
    """

    def __init__(self, reference: Reference, retries: Retries) -> None:
        self._reference = reference
        self._retries = retries
        self._base: str | None = None
        self._lock = asyncio.Lock()

    async def __aenter__(self) -> Self:
        """Load aiohttp, and prepare to connect."""
        import aiohttp  # noqa: PLC0415 - only a pull needs it

        self._aiohttp = aiohttp
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=_tls(self._reference.host)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT, sock_read=_SILENCE),
            headers={"User-Agent": "aviato", "Accept-Encoding": "identity"},
            auto_decompress=False,  # digests are those of the bytes as they are sent
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._session.close()

    async def base(self) -> str:
        """Return the registry's URL without a path.

        Only a registry on this machine may be spoken to without TLS, and is if it does not refuse.

        Raises:
            EngineConnectionError: It cannot be reached.
        """
        async with self._lock:
            if self._base is None:
                host = self._reference.host
                self._base = f"https://{host}"
                if is_loopback(host) and await self._speaks_plainly(host):
                    self._base = f"http://{host}"
            return self._base

    async def _speaks_plainly(self, host: str) -> bool:
        try:
            async with self._session.get(f"http://{host}/v2/", allow_redirects=False) as response:
                return response.status != 400  # noqa: PLR2004 - what a TLS server says to plain text
        except self._aiohttp.ClientConnectorError:
            return True  # nobody is there, and the request proper says so
        except (self._aiohttp.ClientError, TimeoutError):
            return False

    def is_allowed(self, url: str) -> bool:
        """Tell whether requests may go to a URL: https, or http from this machine to this machine."""
        try:
            parts = urlsplit(url)
            port_is_fine = parts.port != 0
        except ValueError:
            return False
        if not parts.hostname or not port_is_fine or "@" in parts.netloc or not _PRINTABLE.match(url):
            return False
        plain = (self._base or "").startswith("http:") and is_loopback(parts.netloc)
        return parts.scheme == "https" or (parts.scheme == "http" and plain)

    async def send(
        self, method: str, url: str, *, headers: dict[str, str], data: bytes | None = None
    ) -> aiohttp.ClientResponse:
        """Send a request until something other than a passing trouble comes back; the caller closes the response.

        Raises:
            EngineConnectionError: The server cannot be reached, or stayed silent.
            EngineProtocolError: What it sends is not HTTP, or its redirects lead nowhere.
        """
        failed = 0
        while True:
            try:
                response = await self._follow(method, url, headers, data)
            except (self._aiohttp.ClientError, TimeoutError, OSError) as error:
                explained = self.explain(error, url)
                failed += 1
                pause = self._retries.pause(failed) if explained.retryable else None
                if pause is None:
                    raise explained from error
            else:
                if response.status not in RETRIED:
                    return response
                failed += 1
                pause = self._retries.pause(failed, response.headers.get("Retry-After"))
                if pause is None:
                    return response
                response.close()
            await asyncio.sleep(pause)

    async def _follow(
        self, method: str, url: str, headers: dict[str, str], data: bytes | None
    ) -> aiohttp.ClientResponse:
        from yarl import URL  # noqa: PLC0415 - a part of aiohttp's interface

        origin = urlsplit(url)[:2]
        for _ in range(_MOST_REDIRECTS + 1):
            response = await self._session.request(
                method,
                URL(url, encoded=True),  # signed URLs are good as they are only
                headers=headers,
                data=data,
                allow_redirects=False,
                proxy=_proxy(url),
            )
            if response.status not in _REDIRECTS:
                return response
            target = _joined(url, response.headers.get("Location", ""))
            response.close()
            if not self.is_allowed(target):
                raise self._wrong(url, f"redirects to {target[:200]!r}, which is not an https URL")
            if urlsplit(target)[:2] != origin:
                # Where layers are kept is another party, which must not learn the user's login.
                headers = {name: value for name, value in headers.items() if name != "Authorization"}
                if data is not None:
                    raise self._wrong(url, f"redirects a login to another server, {urlsplit(target).netloc[:200]!r}")
            url = target
        raise self._wrong(url, f"redirects more than {_MOST_REDIRECTS} times")

    async def ask(
        self, method: str, url: str, *, authorization: str | None = None, data: bytes | None = None
    ) -> tuple[int, bytes]:
        """Send a request, and return the status and the whole of a small answer.

        Raises:
            EngineConnectionError: As `send`.
            EngineProtocolError: As `send`; or the answer is not small.
        """
        headers = {} if authorization is None else {"Authorization": authorization}
        if data is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        response = await self.send(method, url, headers=headers, data=data)
        return response.status, await self.body(response, _LARGEST_ANSWER)

    async def body(self, response: aiohttp.ClientResponse, largest: int) -> bytes:
        """Read a document to its end and close the response.

        Raises:
            EngineConnectionError: It broke off.
            EngineProtocolError: It is larger than `largest`.
        """
        url = str(response.url)
        pieces, size = [], 0
        try:
            async with asyncio.timeout(_DOCUMENT):
                async for piece in response.content.iter_any():
                    pieces.append(piece)
                    size += len(piece)
                    if size > largest:
                        raise self._wrong(url, f"sends a document of more than the {largest} bytes allowed")
        except (self._aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self.explain(error, url) from error
        finally:
            response.close()
        return b"".join(pieces)

    def failed(self, status: int, data: bytes, who: str = "", wait: float | None = None) -> EngineResponseError:
        """Make the error for an answer that is none of those with an error of their own.

        Args:
            status: HTTP status.
            data: Body of the answer.
            who: Who answered, if not the registry.
            wait: Seconds after which it wants to be asked again, where it says so.
        """
        code, said = complaint(data)
        who = who or f"registry {self._reference.registry}"
        hint = None
        if status == 429:  # noqa: PLR2004 - too many requests
            pause = "a while" if wait is None else f"{wait:.0f} s"
            hint = f"Wait for {pause}, or log in: registries allow more to those they know."
        elif status >= 500:  # noqa: PLR2004 - the server's fault
            hint = "The registry has trouble; try again later."
        return EngineResponseError(
            f"{who} answered with status {status}{': ' + said if said else ''}",
            status=status,
            code=code,
            retryable=status in RETRIED,
            outcome=Outcome.NOT_APPLIED,
            hint=hint,
        )

    def explain(self, error: BaseException, url: str) -> EngineError:
        """Turn an error of aiohttp into ours."""
        import aiohttp  # noqa: PLC0415 - it is loaded by now

        host = urlsplit(url).netloc
        where = f"registry {self._reference.registry}"
        if host != self._reference.host:
            where += f", its server {host[:200]}"
        hint, retryable = None, True
        why = _line(str(error)) or type(error).__name__
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            cause: BaseException = error.certificate_error
            why = f"its certificate is not valid here: {getattr(cause, 'verify_message', '') or cause}"
            retryable = False
            hint = (
                f"If the registry has a certificate of its own, put its authority in {_CERTIFICATES[0]}/{host}/ca.crt"
            )
        elif isinstance(error, aiohttp.ClientConnectorSSLError):
            why, retryable = "it does not speak TLS there, or no version of it that is allowed here", False
            hint = "Only a registry on localhost is used without TLS."
        elif isinstance(error, aiohttp.ClientConnectorError):
            why = f"no connection: {error.os_error.strerror or error.os_error}"
            hint = "Check the name, the network, and HTTPS_PROXY and NO_PROXY where a proxy is needed."
        elif isinstance(error, aiohttp.ClientPayloadError):
            why = "the connection broke in the middle of an answer"
        elif isinstance(error, aiohttp.ServerDisconnectedError):
            why = "it closed the connection without an answer"
        elif isinstance(error, TimeoutError):
            why = f"it was silent for {_SILENCE:g} s, or took more than {_CONNECT:g} s to connect"
        elif isinstance(error, (aiohttp.ClientResponseError, aiohttp.InvalidURL)):
            return self._wrong(url, f"does not answer as HTTP asks: {_line(str(error))}")
        return EngineConnectionError(
            f"{where} cannot be reached: {why}", retryable=retryable, outcome=Outcome.NOT_APPLIED, hint=hint
        )

    def _wrong(self, url: str, what: str) -> EngineProtocolError:
        host = urlsplit(url).netloc[:200]
        return EngineProtocolError(f"registry {self._reference.registry}: {host} {what}", outcome=Outcome.NOT_APPLIED)


def complaint(data: bytes) -> tuple[str | None, str]:
    """Return code and text of a registry's error, as far as it has them."""
    try:
        first = json.loads(data)["errors"][0]
        code, said = first.get("code"), first.get("message")
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError):
        code, said = None, None
    return code[:100] if isinstance(code, str) else None, _line(said) if isinstance(said, str) else ""


def _line(text: str) -> str:
    return re.sub(r"\s+", " ", "".join(c if c.isprintable() else " " for c in text[:1000])).strip()[:300]


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        return location


def _proxy(url: str) -> str | None:
    """Return the proxy of the environment; nothing is read from .netrc, whose logins are for other things."""
    parts = urlsplit(url)
    if is_loopback(parts.netloc) or urllib.request.proxy_bypass(parts.netloc):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _tls(host: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    for folder in _CERTIFICATES:
        for authority in sorted(folder.expanduser().joinpath(host).glob("*.crt")):
            try:
                context.load_verify_locations(authority)
            except (OSError, ssl.SSLError) as error:
                raise EngineError(
                    f"the certificate {authority} cannot be read: {error}", hint="Repair it, or remove it."
                ) from error
    return context
