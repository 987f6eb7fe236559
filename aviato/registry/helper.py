"""Asks a credential helper of Docker for a login: a program that reads a registry's name and answers with JSON."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import subprocess
import time

from aviato.exceptions import AviatoAuthenticationError

TIMEOUT = 30.0
"""Seconds; a helper may have to ask the user for the key of the key chain."""
_LARGEST = 1 << 20
_NOT_FOUND = "credentials not found"


def get(name: str, server: str) -> tuple[str, str] | None:
    """Return name and secret for a server, or None when the helper has none.

    Args:
        name: The end of the program's name: `docker-credential-NAME`.
        server: The registry as Docker writes it.

    Raises:
        AviatoAuthenticationError: The helper is missing, failed, took too long or answered with something else.
    """
    program = f"docker-credential-{name}"
    path = shutil.which(program)
    if path is None:
        raise _failed(program, "is not on PATH")
    try:
        code, out, err = _run(path, server)
    except TimeoutError:
        raise _failed(program, f"did not answer within {TIMEOUT:g} s") from None
    except OSError as error:
        raise _failed(program, f"cannot be started: {error.strerror}") from error
    if code is None:
        raise _failed(program, f"answered with more than {_LARGEST} bytes")
    if code != 0:
        said = (out.strip() or err.strip()).decode("utf-8", "replace")
        if _NOT_FOUND in said:
            return None
        raise _failed(program, f"failed with status {code}: {_shown(said) or 'it said nothing'}")
    try:
        answer = json.loads(out)
        user, secret = answer["Username"], answer["Secret"]
    except (ValueError, RecursionError, KeyError, TypeError):
        user = secret = None
    if not isinstance(user, str) or not isinstance(secret, str):
        raise _failed(program, "did not answer with a JSON object that has Username and Secret")
    return (user, secret) if secret else None


def _run(path: str, server: str) -> tuple[int | None, bytes, bytes]:
    """Run the helper; its status is None when it said too much."""
    deadline = time.monotonic() + TIMEOUT
    process = subprocess.Popen(
        [path, "get"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    assert process.stdin is not None  # noqa: S101 - asked for above
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin:
            process.stdin.write(server.encode())
        said = _read(process, deadline)
        if said is None:
            return None, b"", b""
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise TimeoutError from None
        return code, *said
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        for pipe in (process.stdout, process.stderr):
            assert pipe is not None  # noqa: S101 - asked for above
            pipe.close()


def _read(process: subprocess.Popen[bytes], deadline: float) -> tuple[bytes, bytes] | None:
    """Read both pipes to their ends, or until the deadline; None when there is too much."""
    said = {process.stdout: b"", process.stderr: b""}
    with selectors.DefaultSelector() as selector:
        for pipe in said:
            assert pipe is not None  # noqa: S101 - asked for above
            selector.register(pipe, selectors.EVENT_READ, pipe)
        while selector.get_map():
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                said[key.data] += data
                if not data:
                    selector.unregister(key.data)
                elif len(said[key.data]) > _LARGEST:
                    return None
    return said[process.stdout], said[process.stderr]


def _failed(program: str, why: str) -> AviatoAuthenticationError:
    return AviatoAuthenticationError(
        f"the credential helper {program} {why}",
        hint="Repair it, or take it out of credsStore and credHelpers in Docker's config.json, and log in again.",
    )


def _shown(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text)[:500]
