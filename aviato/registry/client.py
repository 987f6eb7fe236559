"""Reads images from a registry, by the distribution API of OCI and Docker."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

import attrs

from aviato.exceptions import (
    EngineConnectionError,
    EngineProtocolError,
    ImageDigestError,
    ImageNotFoundError,
    Outcome,
)
from aviato.registry import credentials, manifests
from aviato.registry.manifests import Descriptor, Index, Manifest
from aviato.registry.names import DIGEST, Reference
from aviato.registry.retries import Retries, seconds
from aviato.registry.tokens import Authorizer
from aviato.registry.transport import Transport, complaint

if TYPE_CHECKING:
    import aiohttp

_ACCEPT = ", ".join((*manifests.INDEX_TYPES, *manifests.MANIFEST_TYPES))
_CHUNK = 1 << 18
_MOST_CHALLENGES = 2
_DEEPEST_INDEX = 3
_LARGEST_COMPLAINT = 1 << 16


@attrs.frozen
class Found:
    """What a name means in its registry.

    Attributes:
        digest: Digest of what the name points at, an index or a manifest.
        manifest: The one for this machine.
    """

    digest: str
    manifest: Manifest


@attrs.frozen
class Part:
    """A blob, or the rest of it, on its way.

    Attributes:
        offset: Where in the blob `chunks` begin; 0 when the server does not resume.
        length: Bytes to come, or None when the server does not say.
        chunks: The bytes.
    """

    offset: int
    length: int | None
    chunks: AsyncIterator[bytes]


class RegistryClient:
    """Reads one image's repository; use it with `async with`.

    Args:
        image: Name of the image, for messages.
        reference: Where it is.
        find: Gives the user's login at a registry; called only when the registry asks for one.
        retries: How to repeat what failed.
    """

    def __init__(
        self,
        image: str,
        reference: Reference,
        *,
        find: Callable[[str], credentials.Credentials | None] = credentials.find,
        retries: Retries | None = None,
    ) -> None:
        self.image = image
        self.retries = retries or Retries()
        self._reference = reference
        self._transport = Transport(reference, self.retries)
        self._authorizer = Authorizer(reference, find, self._transport)

    async def __aenter__(self) -> Self:
        """Prepare to connect."""
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connections."""
        await self._transport.__aexit__(kind, error, trace)

    async def find(self) -> Found:
        """Look the name up, and choose the variant for this machine.

        Raises:
            ImageNotFoundError: The registry does not have it.
            ImagePlatformError: It has no variant for this machine.
            AviatoAuthenticationError: The registry does not let the user read it.
            ImageDigestError: A document has another digest than promised.
            EngineConnectionError: The registry cannot be reached.
            EngineResponseError: The registry failed, or allows no more requests for now.
            EngineProtocolError: What it sent cannot be used.
        """
        digest, document = await self._manifest(self._reference.version, None)
        first = digest
        for _ in range(_DEEPEST_INDEX):
            if isinstance(document, Manifest):
                return Found(first, document)
            chosen = document.choose(self.image)
            _, document = await self._manifest(chosen.digest, chosen)
        if isinstance(document, Manifest):
            return Found(first, document)
        raise manifests.broken(self.image, "its index leads to indexes only")

    async def document(self, descriptor: Descriptor) -> bytes:
        """Fetch a small blob, such as an image's configuration, and verify it.

        Raises:
            ImageDigestError: It is not what was promised.
            EngineError: As `find`.
        """
        failed = 0
        while True:
            data, opened = bytearray(), False
            try:
                async with self.blob(descriptor) as part:
                    opened = True
                    async for chunk in part.chunks:
                        data += chunk
                        if len(data) > descriptor.size:
                            break
                break
            except EngineConnectionError:
                failed += 1
                pause = self.retries.pause(failed) if opened else None
                if pause is None:
                    raise
                await asyncio.sleep(pause)
        check(bytes(data), descriptor.digest, self.image, descriptor.size)
        return bytes(data)

    @contextlib.asynccontextmanager
    async def blob(self, descriptor: Descriptor, offset: int = 0) -> AsyncIterator[Part]:
        """Open a blob at a place; nothing of it is verified here.

        Raises:
            EngineError: As `find`; also while `chunks` are read.
        """
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        response = await self._get(f"blobs/{descriptor.digest}", headers)
        try:
            begin = 0
            if response.status == 206:  # noqa: PLR2004 - partial content
                if _begin(response.headers.get("Content-Range", "")) != offset:
                    raise self._wrong(f"was asked for {descriptor.digest} from byte {offset} and sent another part")
                begin = offset
            elif response.status == 416 and offset:  # noqa: PLR2004 - our part is longer than the whole: begin again
                response.close()
                response = await self._get(f"blobs/{descriptor.digest}", {})
            if response.status not in {200, 206}:
                await self._refuse(response, f"its blob {descriptor.digest}", is_blob=True)
            async with contextlib.aclosing(self._chunks(response)) as chunks:
                yield Part(begin, response.content_length, chunks)
        finally:
            response.close()

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        import aiohttp  # noqa: PLC0415 - it is loaded by now

        try:
            async for chunk in response.content.iter_chunked(_CHUNK):
                yield chunk
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._transport.explain(error, str(response.url)) from error

    async def _manifest(self, version: str, promised: Descriptor | None) -> tuple[str, Manifest | Index]:
        stated, media_type, data = await self._whole(f"manifests/{version}")
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if promised is not None:
            check(data, promised.digest, self.image, promised.size)
        elif DIGEST.match(version):
            check(data, version, self.image)
        elif DIGEST.match(stated):
            check(data, stated, self.image)
        return digest, manifests.read(data, media_type, self.image)

    async def _whole(self, path: str) -> tuple[str, str, bytes]:
        """Return the digest and the type that a manifest is said to have, and the manifest."""
        failed = 0
        while True:
            response = await self._get(path, {"Accept": _ACCEPT})
            if response.status != 200:  # noqa: PLR2004 - OK
                await self._refuse(response, "it")
            stated = response.headers.get("Docker-Content-Digest", "")
            media_type = response.headers.get("Content-Type", "")
            try:
                return stated, media_type, await self._transport.body(response, manifests.LARGEST_DOCUMENT)
            except EngineConnectionError:
                failed += 1
                pause = self.retries.pause(failed)
                if pause is None:
                    raise
            await asyncio.sleep(pause)

    async def _get(self, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
        url = f"{await self._transport.base()}/v2/{self._reference.repository}/{path}"
        for _ in range(_MOST_CHALLENGES + 1):
            used = self._authorizer.header
            response = await self._transport.send(
                "GET", url, headers=headers if used is None else {**headers, "Authorization": used}
            )
            if response.status != 401:  # noqa: PLR2004 - unauthorized
                return response
            offers = response.headers.getall("WWW-Authenticate", [])
            response.close()
            await self._authorizer.answer(offers, used)
        raise self._authorizer.denied("it asks for a login again and again")

    async def _refuse(self, response: aiohttp.ClientResponse, what: str, *, is_blob: bool = False) -> None:
        """Raise the error for an answer that is not what was asked for."""
        status = response.status
        data = await self._transport.body(response, _LARGEST_COMPLAINT)
        code, said = complaint(data)
        if status == 403 or code == "DENIED":  # noqa: PLR2004 - forbidden
            raise self._authorizer.denied(said or f"status {status}")
        if status == 404 and not is_blob:  # noqa: PLR2004 - not found
            raise ImageNotFoundError(
                f"image {self.image!r} is not in the registry {self._reference.registry}{': ' + said if said else ''}",
                image=self.image,
                hint="Check the name and the tag; a registry may also hide what only a login may see: "
                + credentials.login_hint(self._reference.registry),
            )
        if status == 404:  # noqa: PLR2004 - not found
            raise self._wrong(f"names {what} in the manifest of {self.image!r} and does not have it")
        raise self._transport.failed(status, data, wait=seconds(response.headers.get("Retry-After")))

    def _wrong(self, what: str) -> EngineProtocolError:
        return EngineProtocolError(f"registry {self._reference.registry} {what}", outcome=Outcome.NOT_APPLIED)


def check(data: bytes, digest: str, image: str, size: int | None = None) -> None:
    """Compare a document with what was promised.

    Raises:
        ImageDigestError: It is another.
    """
    actual = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if size is not None and len(data) != size:
        raise mismatch(image, digest, "", f"{size} bytes were promised, and {len(data)} or more came")
    if actual != digest:
        raise mismatch(image, digest, actual, f"it is {actual}")


def mismatch(image: str, expected: str, actual: str, why: str) -> ImageDigestError:
    """Make the error for something that is not what its digest promises."""
    return ImageDigestError(
        f"what the registry sent as {expected} of image {image!r} is something else: {why}",
        expected=expected,
        actual=actual,
        hint="Try again; if it stays so, the registry, or something on the way to it, is damaged or hostile.",
    )


def _begin(content_range: str) -> int | None:
    match = re.match(r"bytes (\d{1,18})-", content_range)
    return int(match[1]) if match else None
