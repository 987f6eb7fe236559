"""How a registry asks who we are, and how it is told: Basic, and Bearer tokens from a service that it names."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

import attrs

from aviato.exceptions import AviatoAuthenticationError, EngineProtocolError, Outcome
from aviato.registry.credentials import Credentials, login_hint
from aviato.registry.names import Reference

if TYPE_CHECKING:
    from aviato.registry.transport import Transport

_CHALLENGE = re.compile(r'([A-Za-z0-9!#$%&\'*+.^_`|~-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+))?')
_LARGEST_TOKEN = 1 << 20
_LONGEST_CHALLENGE = 8192
_CLIENT = "aviato"


@attrs.frozen
class Challenge:
    """One way to authenticate that a server offers; `scheme` and the names of `parameters` are in lower case."""

    scheme: str
    parameters: Mapping[str, str]


def challenges(headers: Iterable[str]) -> list[Challenge]:
    """Read the values of `WWW-Authenticate` headers; what cannot be understood is passed over."""
    found: list[tuple[str, dict[str, str]]] = []
    for header in headers:
        for name, value in _CHALLENGE.findall(header[:_LONGEST_CHALLENGE]):
            if not value:
                found.append((name.lower(), {}))
            elif found:
                plain = re.sub(r"\\(.)", r"\1", value[1:-1]) if value.startswith('"') else value
                found[-1][1].setdefault(name.lower(), plain)
    return [Challenge(scheme, parameters) for scheme, parameters in found]


class Authorizer:
    """Finds out what to send as `Authorization` for one repository.

    Args:
        reference: The image that is pulled.
        find: Gives the user's login; asked once, in a thread, and only if the registry wants one.
        transport: Carries the requests to the token service.
    """

    def __init__(self, reference: Reference, find: Callable[[str], Credentials | None], transport: Transport) -> None:
        self._reference = reference
        self._find = find
        self._transport = transport
        self._credentials: Credentials | None = None
        self._asked = False
        self._lock = asyncio.Lock()
        self.header: str | None = None

    async def answer(self, headers: Iterable[str], refused: str | None) -> None:
        """Take up a challenge: afterwards `header` is what to try next.

        Args:
            headers: Values of `WWW-Authenticate`.
            refused: The `Authorization` that was refused, or None.

        Raises:
            AviatoAuthenticationError: There is no login, or it is not accepted.
            EngineProtocolError: The challenge, or the token service's answer, cannot be used.
            EngineConnectionError: The token service cannot be reached.
            EngineResponseError: The token service failed.
        """
        async with self._lock:
            if self.header != refused:
                return  # another request has been faster
            offered = {challenge.scheme: challenge.parameters for challenge in reversed(challenges(headers))}
            if not self._asked:
                self._credentials = await asyncio.to_thread(self._find, self._reference.registry)
                self._asked = True
            if "bearer" in offered:
                self.header = f"Bearer {await self._token(offered['bearer'])}"
            elif "basic" in offered:
                if self._credentials is None or not self._credentials.username:
                    raise self.denied("it wants a login, and there is none")
                self.header = _basic(self._credentials)
            else:
                raise EngineProtocolError(
                    f"registry {self._reference.registry} wants a login and says no way that is known here: "
                    f"{', '.join(sorted(offered))[:200] or 'it names none'}",
                    outcome=Outcome.NOT_APPLIED,
                )
            if self.header == refused:
                raise self.denied("it does not accept the login")

    def denied(self, why: str) -> AviatoAuthenticationError:
        """Make the error for an image that may not be read."""
        who = "" if self._credentials is None else f" as {self._credentials.username or 'the holder of a token'}"
        where = f"registry {self._reference.registry}"
        return AviatoAuthenticationError(
            f"{where} does not let {self._reference.repository} be read{who}: {why}",
            hint=f"If it exists and is private: {login_hint(self._reference.registry)}",
        )

    async def _token(self, parameters: Mapping[str, str]) -> str:
        realm = parameters.get("realm", "")
        self._check(realm)
        wanted = {"scope": f"repository:{self._reference.repository}:pull"}
        if "service" in parameters:
            wanted["service"] = parameters["service"]
        login = self._credentials
        if login is not None and login.identity_token:
            form = {
                **wanted,
                "grant_type": "refresh_token",
                "client_id": _CLIENT,
                "refresh_token": login.identity_token,
            }
            status, data = await self._transport.ask("POST", realm, data=urlencode(form).encode())
        else:
            if login is not None:
                wanted["account"] = login.username
            query = f"{realm}{'&' if urlsplit(realm).query else '?'}{urlencode(wanted)}"
            header = None if login is None else _basic(login)
            status, data = await self._transport.ask("GET", query, authorization=header)
        host = urlsplit(realm).netloc
        if status in {400, 401, 403, 404}:
            raise self.denied(f"its token service {host} answered with status {status}")
        if status != 200:  # noqa: PLR2004 - OK
            raise self._transport.failed(status, data, f"the token service {host}")
        return self._read(data, host)

    def _check(self, realm: str) -> None:
        """Refuse to send a login, or to ask for a token, over a connection that others can read."""
        if not self._transport.is_allowed(realm):
            raise EngineProtocolError(
                f"registry {self._reference.registry} names a token service that is not used: {realm[:200]!r}; "
                f"it must be an https URL",
                outcome=Outcome.NOT_APPLIED,
            )

    def _read(self, data: bytes, host: str) -> str:
        try:
            answer = json.loads(data)
            token = answer.get("token") or answer.get("access_token")
        except (ValueError, RecursionError, AttributeError):
            token = None
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise EngineProtocolError(
                f"the token service {host} of registry {self._reference.registry} sent no token",
                outcome=Outcome.NOT_APPLIED,
            )
        return token


def _basic(login: Credentials) -> str:
    return f"Basic {base64.b64encode(f'{login.username}:{login.password}'.encode()).decode()}"
